//! Every route with its documentation: what is not documented cannot be asked for.

mod archive;
mod dashboard;
mod jobs;
mod live;
mod meta;
mod offer;
mod records;
mod start;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use http::StatusCode;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use super::gate::Caller;
use super::jobs::Jobs;
use super::logins::Logins;
use super::page;
use super::roots::Roots;
use crate::limit::Rate;
use crate::node::NodeHandle;
use crate::post_apply::{Choice, PostApply};

/// Where the key of a link is a token.
pub(super) const LOGIN: &str = "/me/sync/v4/dashboard/login";

/// What the handlers have.
#[derive(Debug, Clone)]
pub(super) struct Api {
    /// Over TCP; none in a command that others may join.
    pub(super) at: Option<SocketAddr>,
    pub(super) begun: Instant,
    pub(super) node: NodeHandle,
    pub(super) jobs: Arc<Jobs>,
    pub(super) exports: Roots,
    pub(super) imports: Roots,
    /// Of sessions that are given none with the token.
    pub(super) limit: Option<Rate>,
    /// Of imports with the token.
    pub(super) post_apply: Option<PostApply>,
    /// Streams end when this is cancelled.
    pub(super) stop: CancellationToken,
    /// Of the page.
    pub(super) logins: Arc<Logins>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "me-sync",
        description = "The node of one device. Over TCP every route needs the token in `api.token` of the state directory, \
                       or that of a page that has logged in; \
                       the Unix socket `api.sock` beside it needs none and serves its owner only."
    ),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Documentation;

#[derive(Debug)]
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        api.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The routes, and what `/openapi.json` answers.
pub(super) fn router(api: Api) -> Router {
    let documented: OpenApiRouter<Arc<Api>> = OpenApiRouter::with_openapi(Documentation::openapi())
        .routes(routes!(offer::create))
        .routes(routes!(start::start))
        .routes(routes!(records::status))
        .routes(routes!(records::abort))
        .routes(routes!(records::sessions))
        .routes(routes!(records::failures))
        .routes(routes!(start::resume))
        .routes(routes!(start::retry))
        .routes(routes!(records::rollback))
        .routes(routes!(jobs::status))
        .routes(routes!(jobs::suspend))
        .routes(routes!(jobs::decide))
        .routes(routes!(jobs::list))
        .routes(routes!(dashboard::roots))
        .routes(routes!(dashboard::link))
        .routes(routes!(dashboard::login))
        .routes(routes!(dashboard::logout))
        .routes(routes!(live::peers))
        .routes(routes!(live::events))
        .routes(routes!(archive::create))
        .routes(routes!(archive::cancel))
        .routes(routes!(archive::status))
        .routes(routes!(archive::apply))
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::metrics))
        .routes(routes!(meta::openapi));
    let (router, openapi) = documented.split_for_parts();
    let text: Arc<str> = openapi.to_json().unwrap_or_default().into();
    router
        .merge(page::router())
        .layer(axum::Extension(meta::OpenApiText(text)))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(api))
}

async fn not_found() -> ApiError {
    ApiError::http(StatusCode::NOT_FOUND, "not_found", "there is no such route", "GET /openapi.json lists all routes")
}

async fn method_not_allowed() -> ApiError {
    ApiError::http(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this route is not asked in that way",
        "GET /openapi.json lists all routes with their methods",
    )
}

impl Api {
    /// The tree that may be read. The Unix socket is not bound to the roots.
    async fn source(&self, caller: Caller, path: impl Into<PathBuf>) -> Result<PathBuf, ApiError> {
        self.path(caller, path.into(), &self.exports, Roots::admit_source).await
    }

    /// The directory that may be replaced.
    async fn target(&self, caller: Caller, path: impl Into<PathBuf>) -> Result<PathBuf, ApiError> {
        self.path(caller, path.into(), &self.imports, Roots::admit_target).await
    }

    async fn path(
        &self,
        caller: Caller,
        path: PathBuf,
        roots: &Roots,
        admit: fn(&Roots, &Path) -> Result<PathBuf, ApiError>,
    ) -> Result<PathBuf, ApiError> {
        match caller {
            Caller::User if path.is_absolute() => Ok(path),
            Caller::User => {
                Err(ApiError::bad_request("an absolute path is needed", "the node has a directory of its own"))
            }
            Caller::Token | Caller::Page | Caller::Link | Caller::Anybody => {
                let roots = roots.clone();
                blocking(move || admit(&roots, &path)).await?
            }
        }
    }

    /// The limit of a session. The command line has looked at the settings itself.
    fn limit(&self, caller: Caller, bps: Option<u64>) -> Result<Option<Rate>, ApiError> {
        match (bps, caller) {
            (Some(bps), _) => Rate::new(bps).map(Some).map_err(|err| {
                ApiError::bad_request(format!("limit_bps: {err}"), "give 64000 or more, or leave it out")
            }),
            (None, Caller::User) => Ok(None),
            (None, Caller::Token | Caller::Page | Caller::Link | Caller::Anybody) => Ok(self.limit),
        }
    }

    /// The command after a swap. Nobody names one with the token: that runs what this device's own settings say.
    fn post_apply(&self, caller: Caller, asked: Option<PostApply>, begins: bool) -> Result<Choice, ApiError> {
        match (asked, caller) {
            (Some(_), Caller::Token | Caller::Page | Caller::Link | Caller::Anybody) => Err(ApiError::coded(
                Code::PathNotAllowed,
                "a command is not named over HTTP",
                "leave post_apply out, and name it in config.toml",
            )),
            (Some(asked), Caller::User) if asked.argv().is_empty() => Ok(Choice::Nothing),
            (Some(asked), Caller::User) => asked.checked().map(Choice::Run).map_err(|err| {
                ApiError::bad_request(format!("post_apply: {err}"), "give the program and its arguments as words")
            }),
            // whoever starts it: a check that this node was given is not left out because nobody thought of it
            (None, _) if begins => Ok(self.post_apply.clone().map_or(Choice::AsBefore, Choice::Run)),
            (None, _) => Ok(Choice::AsBefore),
        }
    }

    /// What a job works on, or what is on record.
    async fn known(&self, session: SessionId) -> Result<crate::book::SessionView, ApiError> {
        let known = self.node.sessions().await?.into_iter().find(|known| known.session_id == session);
        known.ok_or_else(ApiError::unknown_session)
    }
}

/// Goes on although the caller goes away: what it has begun is not left without anybody who knows of it.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(|_| ApiError::stopping())?
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::stopping())
}

fn seconds(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

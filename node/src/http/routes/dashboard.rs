//! The way into the page, and what it needs to know first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;

use super::{Api, blocking, seconds};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Body, within};
use crate::http::gate::{Caller, unauthorized};
use crate::http::logins::{LINK_TIME, PageSession};
use crate::http::schema::{LinkRequest, LinkResponse, LoginResponse, LogoutResponse, RootEntry, RootsResponse};

/// Directories of a root that are named.
const MOST_DIRECTORIES: usize = 200;

/// Makes a link to the page. Over the Unix socket only: a caller with the token gets none.
#[utoipa::path(
    post,
    path = "/me/sync/v4/dashboard/link",
    request_body = LinkRequest,
    responses(
        (status = 201, description = "It is good once", body = LinkResponse),
        (status = 400, description = "The body or a value in it is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "This is not the Unix socket; or the host name or the origin is not allowed", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "This process has no page", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody)
    )
)]
pub(super) async fn link(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<LinkRequest>,
) -> Result<(StatusCode, Json<LinkResponse>), ApiError> {
    if caller != Caller::User {
        let message = "links to the page are given over the Unix socket only";
        return Err(ApiError::http(StatusCode::FORBIDDEN, "socket_only", message, "run `me-sync dashboard`"));
    }
    let Some(at) = api.at else {
        let message = "a command works here, which has no page";
        return Err(ApiError::http(
            StatusCode::CONFLICT,
            "no_page",
            message,
            "run `me-sync node`, once that has ended",
        ));
    };
    let ttl = within("ttl_secs", ask.ttl_secs, LINK_TIME.as_secs(), (1, 600))?;
    let made = api.logins.link(seconds(ttl));
    // behind the `#` it is in no log and in no header
    let url = format!("http://{at}/#login={}", made.text);
    Ok((StatusCode::CREATED, Json(LinkResponse { url, expires_at: made.expires_at })))
}

/// Logs the page in. The token of this request is the key of a link, which is used up by it.
#[utoipa::path(
    post,
    path = "/me/sync/v4/dashboard/login",
    responses(
        (status = 201, description = "A token for all other routes", body = LoginResponse),
        (status = 401, description = "The link was used, its time is over, or there never was one", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody)
    )
)]
pub(super) async fn login(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<(StatusCode, Json<LoginResponse>), ApiError> {
    // who has another token needs none
    if caller != Caller::Link {
        return Err(unauthorized());
    }
    let made = api.logins.open();
    Ok((StatusCode::CREATED, Json(LoginResponse { token: made.text, expires_at: made.expires_at })))
}

/// Logs the page out that asks: its token is good no more, and its streams end.
#[utoipa::path(
    post,
    path = "/me/sync/v4/dashboard/logout",
    responses(
        (status = 200, description = "It is logged out", body = LogoutResponse),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody)
    )
)]
pub(super) async fn logout(page: Option<Extension<PageSession>>) -> Json<LogoutResponse> {
    let changed = page.is_some();
    if let Some(Extension(PageSession(end))) = page {
        end.cancel();
    }
    Json(LogoutResponse { changed })
}

/// Lists the directories that may be offered and replaced with a token.
#[utoipa::path(
    get,
    path = "/me/sync/v4/roots",
    responses(
        (status = 200, description = "As the node was started", body = RootsResponse),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn roots(State(api): State<Arc<Api>>) -> Result<Json<RootsResponse>, ApiError> {
    let list = |dirs: &[PathBuf]| dirs.iter().map(|dir| entry(dir)).collect();
    let look = move || RootsResponse { export_roots: list(api.exports.dirs()), import_roots: list(api.imports.dirs()) };
    Ok(Json(blocking(look).await?))
}

fn entry(root: &Path) -> RootEntry {
    let listing = std::fs::read_dir(root);
    let is_there = listing.is_ok();
    let inside =
        listing.into_iter().flatten().flatten().filter(|found| found.file_type().is_ok_and(|kind| kind.is_dir()));
    // what is no UTF-8 cannot be asked for
    let names = inside.filter_map(|found| found.file_name().into_string().ok()).filter(|name| !name.starts_with('.'));
    let mut directories: Vec<_> = names.collect();
    directories.sort();
    directories.truncate(MOST_DIRECTORIES);
    RootEntry { path: root.to_string_lossy().into_owned(), is_there, directories }
}

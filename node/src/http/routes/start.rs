//! Importing a tree, and going on with what was interrupted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::code::Code;
use me_sync_protocol::ids::TicketId;
use me_sync_protocol::reason;
use me_sync_protocol::ticket::Ticket;

use super::offer::offer;
use super::{Api, seconds, to_its_end};
use crate::api::{Consent, JobHandle, Outcome, Role};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Body, session_id, within};
use crate::http::gate::Caller;
use crate::http::jobs::Entry;
use crate::http::schema::{ResumeRequest, ResumeResponse, StartRequest, StartResponse, Transport};
use crate::net::{TransportPreference, parse_addresses};
use crate::node::{CodeOptions, ImportError, ImportOptions, OfferOptions, ResumeOptions};
use crate::refusal::Refusal;
use crate::source::ScanOptions;
use crate::staging::TargetOptions;
use crate::transfer::Compression;

/// Most addresses that a caller may add.
const MAX_ADDRESSES: usize = 16;
/// How long a job that holds its target may take to be known.
const BEGINNING: Duration = Duration::from_millis(250);
/// How long an exporter is looked for, to tell it that its tree is in place.
const TELL: Duration = Duration::from_secs(15);

/// Imports a tree with a ticket, or with the spoken code of a device that is nearby or at one of `peer_addresses`.
#[utoipa::path(
    post,
    path = "/me/sync/v4/session/start",
    request_body = StartRequest,
    responses(
        (status = 200, description = "The tree of this ticket is in place already, or is being imported there", body = StartResponse),
        (status = 201, description = "The exporter has granted the session", body = StartResponse),
        (status = 202, description = "The exporter is still being looked for", body = StartResponse),
        (status = 400, description = "The body or a value in it is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The ticket, the path, the host name or the origin is refused", body = ErrorBody),
        (status = 404, description = "The exporter was not found", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The target cannot take it, or the session ended at once", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 429, description = "Too many jobs or tries", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn start(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<StartRequest>,
) -> Result<(StatusCode, Json<StartResponse>), ApiError> {
    let connect_timeout = seconds(within("connect_timeout_secs", ask.connect_timeout_secs, 30, (1, 86_400))?);
    let wait = seconds(within("wait_secs", ask.wait_secs, 20, (0, 60))?);
    let limit = api.limit(caller, ask.limit_bps)?;
    let peer_addresses = addresses(&ask.peer_addresses)?;
    let transport = match ask.transport {
        Transport::Auto => TransportPreference::Auto,
        Transport::Tcp => TransportPreference::Tcp,
        Transport::Quic => TransportPreference::Quic,
        Transport::Ws => TransportPreference::Ws,
    };
    let invitation = Invitation::of(ask.ticket_uri.as_deref(), ask.code.as_deref())?;
    if let (Invitation::Archive(ticket), true) = (&invitation, ask.require_v4) {
        return Err(Refusal::archive_refused(ticket).into());
    }
    if ask.allow_home && caller != Caller::User {
        return Err(ApiError::coded(
            reason::Code::PathNotAllowed,
            "the home directory is not replaced over HTTP",
            "use the CLI",
        ));
    }
    let post_apply = api.post_apply(caller, ask.post_apply, true)?;
    let target = api.target(caller, ask.target_path).await?;
    let named = target.clone();
    let resolved = super::blocking(move || named.canonicalize().unwrap_or(named)).await?;
    let options = ImportOptions {
        consent: match (ask.replace, ask.confirm) {
            (true, _) => Consent::Given,
            (false, false) => Consent::Ask,
            (false, true) => Consent::AskAlways,
        },
        transport,
        peer_addresses,
        connect_timeout,
        target_options: TargetOptions {
            allow_home: ask.allow_home,
            fail_if_changed: ask.fail_if_changed,
            keep_world_writable: ask.keep_world_writable,
            forbidden: Vec::new(),
        },
        limit,
        compression: ask.compress.map(Compression::from),
        post_apply,
        roots: match caller {
            Caller::User => None,
            Caller::Token | Caller::Page | Caller::Link | Caller::Anybody => {
                let roots = api.imports.clone();
                Some(super::blocking(move || roots.resolved()).await?)
            }
        },
        ..ImportOptions::new(&target)
    };
    let ticket = match invitation {
        Invitation::Ticket(ticket) => ticket,
        Invitation::Archive(ticket) => {
            let started = to_its_end(async move {
                // the transfer is what tells this ticket from others
                let id = TicketId(*ticket.transfer_id.as_bytes());
                if let Some(entry) = api.jobs.importing(id, &[&target, &resolved]) {
                    return Ok::<_, ApiError>(joined(&entry));
                }
                let job = api.node.import_archive(*ticket, options).await?;
                begun(&api, job, target, id, wait).await
            });
            return Ok(answer(started.await?));
        }
        // not to its end: nobody goes on with it when the caller is gone
        Invitation::Code(code) => {
            let search =
                CodeOptions { timeout: connect_timeout, transport, ..CodeOptions::at(&options.peer_addresses) };
            api.node.ticket_for(&code, search).await?
        }
    };
    let started = to_its_end(async move {
        let id = ticket.ticket_id;
        if let Some(entry) = api.jobs.importing(id, &[&target, &resolved]) {
            return Ok(joined(&entry));
        }
        match api.node.import(ticket, options).await {
            Ok(job) => begun(&api, job, target, id, wait).await,
            // by one that began in the same moment
            Err(err) if err.code() == reason::Code::TargetBusy => {
                let place = [&*target, &*resolved];
                let running = api.jobs.importing_soon(id, &place, BEGINNING).await;
                running.as_ref().map(joined).ok_or_else(|| err.into())
            }
            Err(ImportError::Applied { target: at, told, stands: true }) if at == resolved => {
                Ok(StartResponse { job_id: None, session_id: None, told: Some(told), joined: false })
            }
            Err(err) => Err(err.into()),
        }
    });
    Ok(answer(started.await?))
}

fn answer(started: StartResponse) -> (StatusCode, Json<StartResponse>) {
    let status = match (started.job_id, &started.session_id) {
        _ if started.joined => StatusCode::OK,
        (None, _) => StatusCode::OK,
        (Some(_), Some(_)) => StatusCode::CREATED,
        (Some(_), None) => StatusCode::ACCEPTED,
    };
    (status, Json(started))
}

/// What a caller has of the exporter.
enum Invitation {
    Ticket(Ticket),
    Archive(Box<ArchiveTicket>),
    Code(Code),
}

impl Invitation {
    fn of(ticket: Option<&str>, code: Option<&str>) -> Result<Self, ApiError> {
        match (ticket, code) {
            (Some(ticket), None) if ArchiveTicket::is_one(ticket) => {
                Ok(Self::Archive(Box::new(ArchiveTicket::parse(ticket).map_err(Refusal::from)?)))
            }
            (Some(ticket), None) => Ok(Self::Ticket(Ticket::parse(ticket).map_err(Refusal::from)?)),
            (None, Some(code)) => Ok(Self::Code(Code::parse(code).map_err(Refusal::from)?)),
            (Some(_), Some(_)) => Err(ApiError::bad_request("ticket_uri and code are both given", "give one of them")),
            (None, None) => {
                Err(ApiError::bad_request("neither ticket_uri nor code is given", "give what the other device shows"))
            }
        }
    }
}

/// An import that runs already.
fn joined(entry: &Entry) -> StartResponse {
    let session_id = entry.session().map(|id| id.to_string());
    StartResponse { job_id: Some(entry.id()), session_id, told: None, joined: true }
}

/// Follows the job; what fails before there is a session is the answer.
async fn begun(
    api: &Api,
    job: JobHandle,
    target: PathBuf,
    ticket: TicketId,
    wait: Duration,
) -> Result<StartResponse, ApiError> {
    let entry = api.jobs.add(job, target, None, Some(ticket));
    entry.begun(wait).await;
    let status = entry.status();
    match (status.session_id, status.outcome) {
        (None, Some(Outcome::Failed { code, message, hint })) => Err(Refusal::coded(code, message, hint).into()),
        (session, _) => {
            let session_id = session.map(|id| id.to_string());
            Ok(StartResponse { job_id: Some(entry.id()), session_id, told: None, joined: false })
        }
    }
}

fn addresses(texts: &[String]) -> Result<Vec<libp2p::Multiaddr>, ApiError> {
    if texts.len() > MAX_ADDRESSES {
        return Err(ApiError::bad_request("peer_addresses are at most 16", "the ticket has the others"));
    }
    Ok(parse_addresses(texts))
}

/// Goes on with a session that was interrupted, on whichever side this device is.
#[utoipa::path(
    post,
    path = "/me/sync/v4/session/resume",
    request_body = ResumeRequest,
    responses(
        (status = 200, description = "It goes on", body = ResumeResponse),
        (status = 400, description = "The body or a value in it is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The path, the host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such session", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "It is over, or sends already", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 429, description = "Too many jobs", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<ResumeRequest>,
) -> Result<Json<ResumeResponse>, ApiError> {
    to_its_end(async move { go_on(&api, caller, ask).await }).await.map(Json)
}

/// Tries the files again that failed in every round. Nothing that arrived is sent again.
#[utoipa::path(
    post,
    path = "/me/sync/v4/session/retry",
    request_body = ResumeRequest,
    responses(
        (status = 200, description = "It goes on", body = ResumeResponse),
        (status = 400, description = "The body or a value in it is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The path, the host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such session", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "It is over, or sends already", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 429, description = "Too many jobs", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<ResumeRequest>,
) -> Result<Json<ResumeResponse>, ApiError> {
    to_its_end(async move { go_on(&api, caller, ask).await }).await.map(Json)
}

async fn go_on(api: &Api, caller: Caller, ask: ResumeRequest) -> Result<ResumeResponse, ApiError> {
    let session = session_id(&ask.session_id)?;
    let (peer_addresses, limit) = (addresses(&ask.peer_addresses)?, api.limit(caller, ask.limit_bps)?);
    let compression = ask.compress.map(Compression::from);
    let post_apply = api.post_apply(caller, ask.post_apply, false)?;
    let running = api.jobs.of_session(session).filter(|job| !job.is_over());
    if let Some(job) = running.as_ref().filter(|job| job.status().role == Role::Importer) {
        let (job_id, session_id) = (Some(job.id()), session.to_string());
        return Ok(ResumeResponse { job_id, session_id, role: Role::Importer, offer: None, told: None, joined: true });
    }
    if running.is_some() {
        let message = format!("session {} goes on already", session.short());
        return Err(ApiError::coded(reason::Code::TargetBusy, message, "session/status tells how far it is"));
    }
    let known = api.known(session).await?;
    let mut answer = ResumeResponse {
        job_id: None,
        session_id: session.to_string(),
        role: known.role,
        offer: None,
        told: None,
        joined: false,
    };
    if known.unheard {
        answer.told = Some(api.node.tell(session, TELL).await?);
        return Ok(answer);
    }
    if !known.resumable {
        let message = format!("session {} is over", session.short());
        return Err(ApiError::http(StatusCode::CONFLICT, "session_over", message, "begin a new one"));
    }
    match known.role {
        Role::Importer => {
            let target = api.target(caller, known.path).await?;
            let how = ResumeOptions { peer_addresses, limit, compression, post_apply };
            let job = api.node.resume_with(session, how).await?;
            let ticket = known.ticket_id.as_deref().and_then(|id| id.parse().ok());
            answer.job_id = Some(api.jobs.add(job, target, Some(session), ticket).id());
        }
        Role::Exporter => {
            let source = api.source(caller, known.path).await?;
            let scan = ScanOptions {
                skip_unreadable: known.skip_unreadable.unwrap_or(false),
                skip_unsupported: known.skip_unsupported.unwrap_or(false),
            };
            let options = OfferOptions { session: Some(session), limit, compression, ..OfferOptions::default() };
            let offered = offer(api, caller, source, scan, options, 1).await?;
            answer.job_id = Some(offered.first.job_id);
            answer.offer = Some(Box::new(offered));
        }
    }
    Ok(answer)
}

//! Sessions, running or on record: how far they are, what failed, how to end or undo them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;

use super::{Api, to_its_end};
use crate::api::{JobView, PeerSummary, ProgressView};
use crate::book::{SessionView, State as SessionState};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Body, Query, session_id, within};
use crate::http::gate::Caller;
use crate::http::schema::{
    AbortResponse, FailureEntry, FailuresQuery, FailuresResponse, RollbackRequest, RollbackResponse, SessionRequest,
    SessionsQuery, SessionsResponse, StatusQuery, StatusResponse,
};

/// How long a job that is ended may take to let go.
const END: Duration = Duration::from_secs(10);

/// Shows how far a session is, running or on record.
#[utoipa::path(
    get,
    path = "/me/sync/v4/session/status",
    params(StatusQuery),
    responses(
        (status = 200, description = "How far it is", body = StatusResponse),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such session", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Query(ask): Query<StatusQuery>,
) -> Result<Json<StatusResponse>, ApiError> {
    let session = session_id(&ask.session_id)?;
    let Some(job) = api.jobs.of_session(session) else {
        return Ok(Json(on_record(api.known(session).await?)));
    };
    if job.is_completed()
        && let Ok(known) = api.known(session).await
        && known.state == SessionState::RolledBack
    {
        // what became of it since is not the job's to tell
        return Ok(Json(on_record(known)));
    }
    Ok(Json(job.status()))
}

fn on_record(known: SessionView) -> StatusResponse {
    let phase = match known.state {
        SessionState::Running | SessionState::Interrupted | SessionState::Receiving | SessionState::Verified => {
            Phase::WaitingForPeer
        }
        SessionState::SwapIntent | SessionState::RollbackIntent => Phase::Applying,
        SessionState::Completed | SessionState::Swapped | SessionState::Committed | SessionState::Cleaned => {
            Phase::Completed
        }
        SessionState::Failed | SessionState::Ended | SessionState::RolledBack => Phase::Failed,
    };
    let is_whole = phase == Phase::Completed;
    let view = JobView {
        session_id: Some(known.session_id),
        phase,
        peer: Some(PeerSummary {
            peer_id: known.peer_id,
            device_name: known.device_name,
            address: None,
            transport: None,
        }),
        source_name: known.source_name,
        progress: ProgressView {
            files_ok: known.files_ok.unwrap_or(if is_whole { known.files } else { 0 }),
            files_total: known.files,
            bytes_received: known.bytes_ok.unwrap_or(if is_whole { known.bytes } else { 0 }),
            bytes_total: known.bytes,
            detail: known.code.map_or_else(|| known.state.name().to_owned(), |code| code.to_string()),
            ..ProgressView::default()
        },
        ..JobView::new(known.role)
    };
    let updated_ms = known.updated_ms.unwrap_or(0);
    StatusResponse { job_id: None, ..StatusResponse::of(0, 0, known.path, updated_ms, view) }
}

/// Ends a session for good; what is staged for it goes, the target stays as it is.
#[utoipa::path(
    post,
    path = "/me/sync/v4/session/abort",
    request_body = SessionRequest,
    responses(
        (status = 200, description = "It is over", body = AbortResponse),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such session", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "It is too late, or what is staged cannot be removed", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn abort(
    State(api): State<Arc<Api>>,
    Body(ask): Body<SessionRequest>,
) -> Result<Json<AbortResponse>, ApiError> {
    let session = session_id(&ask.session_id)?;
    to_its_end(async move { end(&api, session).await }).await.map(Json)
}

pub(super) async fn end(api: &Api, session: SessionId) -> Result<AbortResponse, ApiError> {
    let over = |changed| AbortResponse { session_id: session.to_string(), changed };
    if let Some(job) = api.jobs.of_session(session).filter(|job| !job.is_over()) {
        job.handle.abort().await;
        let ended = tokio::time::timeout(END, job.handle.outcome()).await;
        if let Ok(crate::Outcome::Completed(_)) = ended {
            return Err(ApiError::http(
                http::StatusCode::CONFLICT,
                "too_late",
                "the new tree was in place already",
                "session/rollback brings the old one back",
            ));
        }
        return Ok(over(true));
    }
    let changed = match api.known(session).await {
        Ok(known) => known.resumable,
        // a ticket that nobody redeemed is on no record
        Err(unknown) => match api.jobs.of_session(session) {
            Some(_) => false,
            None => return Err(unknown),
        },
    };
    if changed {
        api.node.end_session(session).await?;
    }
    Ok(over(changed))
}

/// Lists sessions, the newest first.
#[utoipa::path(
    get,
    path = "/me/sync/v4/sessions",
    params(SessionsQuery),
    responses(
        (status = 200, description = "A page of them", body = SessionsResponse),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn sessions(
    State(api): State<Arc<Api>>,
    Query(ask): Query<SessionsQuery>,
) -> Result<Json<SessionsResponse>, ApiError> {
    let limit = within("limit", ask.limit.map(|limit| limit as u64), 50, (1, 500))? as usize;
    let after = ask.cursor.as_deref().map(cursor).transpose()?;
    let mut sessions = api.node.sessions().await?;
    for live in api.jobs.live() {
        // an offer that nobody has taken is no session yet
        if let Some(known) = sessions.iter_mut().find(|known| Some(known.session_id) == live.view.session_id) {
            known.add_live(live);
        }
    }
    let place = |known: &SessionView| (known.created_ms.unwrap_or(0), known.session_id);
    sessions.sort_by_key(|known| std::cmp::Reverse(place(known)));
    let total = sessions.len();
    sessions.retain(|known| after.is_none_or(|after| place(known) < after));
    let more = sessions.len() > limit;
    sessions.truncate(limit);
    let next = sessions.last().filter(|_| more).map(place).map(|(at, id)| format!("{at}-{id}"));
    Ok(Json(SessionsResponse { sessions, total, next }))
}

fn cursor(text: &str) -> Result<(u64, SessionId), ApiError> {
    let wrong = || ApiError::bad_request("the cursor is not one of an earlier page", "leave it out to begin anew");
    let (at, id) = text.split_once('-').ok_or_else(wrong)?;
    Ok((at.parse().map_err(|_| wrong())?, session_id(id).map_err(|_| wrong())?))
}

/// Lists the files of a session that failed on this device.
#[utoipa::path(
    get,
    path = "/me/sync/v4/session/failures",
    params(FailuresQuery),
    responses(
        (status = 200, description = "A part of them", body = FailuresResponse),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such session", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn failures(
    State(api): State<Arc<Api>>,
    Query(ask): Query<FailuresQuery>,
) -> Result<Json<FailuresResponse>, ApiError> {
    let session = session_id(&ask.session_id)?;
    let limit = within("limit", ask.limit.map(|limit| limit as u64), 100, (1, 1000))? as usize;
    let (all, total): (Vec<_>, _) = match api.jobs.of_session(session).filter(|job| !job.is_over()) {
        Some(job) => {
            let view = job.handle.view();
            let entry = |one: crate::api::FailureView| FailureEntry {
                path: one.path,
                reason: one.reason,
                code: one.code,
                os_error: None,
                attempts: None,
            };
            (view.failures.into_iter().map(entry).collect(), view.failures_total)
        }
        None => {
            api.known(session).await?;
            let records = api.node.failures(session).await?;
            let total = records.len() as u64;
            let entry = |record: crate::store::FailureRecord| FailureEntry {
                path: record.path,
                reason: record.reason.to_string(),
                code: Some(record.code.to_string()),
                os_error: record.os_error,
                attempts: Some(record.attempts),
            };
            (records.into_iter().map(entry).collect(), total)
        }
    };
    let failures = all.into_iter().skip(ask.offset.unwrap_or(0)).take(limit).collect();
    Ok(Json(FailuresResponse { session_id: ask.session_id, failures, total }))
}

/// Brings back the tree that the last migration into a directory replaced. With `session_id` it undoes that migration and no
/// other, so it can be asked for again when an answer was lost; without, a second call goes one migration further back.
#[utoipa::path(
    post,
    path = "/me/sync/v4/session/rollback",
    request_body = RollbackRequest,
    responses(
        (status = 200, description = "The old tree is back", body = RollbackResponse),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The path, the host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is nothing to go back to", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The trees cannot change places now", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<RollbackRequest>,
) -> Result<Json<RollbackResponse>, ApiError> {
    let only = ask.session_id.as_deref().map(session_id).transpose()?;
    let target = api.target(caller, ask.target_path).await?;
    let done = api.node.rollback(target, only).await.ok_or_else(ApiError::stopping)??;
    Ok(Json(RollbackResponse {
        session_id: done.session.to_string(),
        target: done.target.to_string_lossy().into_owned(),
        target_exists: done.target_exists,
        changed: done.changed,
        retained_until_ms: done.retained.is_some().then_some(done.keep_until_ms),
        retained: done.retained.map(|path| path.to_string_lossy().into_owned()),
    }))
}

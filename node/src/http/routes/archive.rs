//! The routes of v3, for programs that know no others: an archive is offered, looked after, and imported. What they take and
//! give is what the routes of v4 do.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason;

use super::{Api, offer, records, start};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Body, Query, session_id};
use crate::http::gate::Caller;
use crate::http::schema::{
    AbortResponse, CreateRequest, CreateResponse, StartRequest, StartResponse, StatusResponse, TicketQuery,
    TicketRequest,
};

/// Offers a tree as one archive and makes a ticket for it, as `session/create` does with `archive`.
#[utoipa::path(
    post,
    path = "/me/sync/v3/ticket/create",
    request_body = CreateRequest,
    responses(
        (status = 201, description = "The offer waits for its importer", body = CreateResponse),
        (status = 400, description = "The body or a value in it is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The path, the host name or the origin is not allowed", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The tree cannot be sent as it is", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 429, description = "Too many jobs", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn create(
    api: State<Arc<Api>>,
    caller: Extension<Caller>,
    Body(ask): Body<CreateRequest>,
) -> Result<(StatusCode, Json<CreateResponse>), ApiError> {
    offer::create(api, caller, Body(CreateRequest { archive: true, ..ask })).await
}

/// Voids a ticket, and stops what was begun with it.
#[utoipa::path(
    post,
    path = "/me/sync/v3/ticket/cancel",
    request_body = TicketRequest,
    responses(
        (status = 200, description = "It is over", body = AbortResponse),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such ticket in this run of the node", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "It is too late", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    Body(ask): Body<TicketRequest>,
) -> Result<Json<AbortResponse>, ApiError> {
    let id = ticket(&ask.ticket_id)?;
    known(&api, id)?;
    super::to_its_end(async move { records::end(&api, id).await }).await.map(Json)
}

/// Shows how far the tree of a ticket is.
#[utoipa::path(
    get,
    path = "/me/sync/v3/ticket/status",
    params(TicketQuery),
    responses(
        (status = 200, description = "Its newest state", body = StatusResponse),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "There is no such ticket in this run of the node", body = ErrorBody)
    )
)]
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Query(ask): Query<TicketQuery>,
) -> Result<Json<StatusResponse>, ApiError> {
    Ok(Json(known(&api, ticket(&ask.ticket_id)?)?))
}

/// Imports an archive with its ticket, as `session/start` does; with the ticket of v4 it does not.
#[utoipa::path(
    post,
    path = "/me/sync/v3/import/apply",
    request_body = StartRequest,
    responses(
        (status = 200, description = "It is being imported there already", body = StartResponse),
        (status = 201, description = "The exporter has been met", body = StartResponse),
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
pub(super) async fn apply(
    api: State<Arc<Api>>,
    caller: Extension<Caller>,
    Body(ask): Body<StartRequest>,
) -> Result<(StatusCode, Json<StartResponse>), ApiError> {
    if !ask.ticket_uri.as_deref().is_some_and(ArchiveTicket::is_one) {
        let what = "this is no ticket of an archive (v3)";
        return Err(ApiError::coded(reason::Code::VersionMismatch, what, "session/start takes those of v4"));
    }
    start::start(api, caller, Body(ask)).await
}

fn ticket(text: &str) -> Result<SessionId, ApiError> {
    session_id(text).map_err(|_| ApiError::bad_request("ticket_id is not 32 hex digits", "ticket/create gives it"))
}

/// The job of a ticket, of either role.
fn known(api: &Api, id: SessionId) -> Result<StatusResponse, ApiError> {
    let job = api.jobs.of_session(id).map(|job| job.status());
    job.filter(|job| job.protocol == crate::Protocol::V3).ok_or_else(|| {
        let message = "there is no such ticket in this run of the node";
        ApiError::http(StatusCode::NOT_FOUND, "not_found", message, "GET /me/sync/v4/jobs lists what there is")
    })
}

//! Devices nearby, and what happens while somebody listens.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::{Extension, Json};
use futures::Stream;
use http::HeaderMap;

use super::{Api, seconds};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Query, within};
use crate::http::logins::PageSession;
use crate::http::schema::{PeerEntry, PeersQuery, PeersResponse};

/// Lists the devices on this network that answered.
#[utoipa::path(
    get,
    path = "/me/sync/v4/peers",
    params(PeersQuery),
    responses(
        (status = 200, description = "Those that are known", body = PeersResponse),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn peers(
    State(api): State<Arc<Api>>,
    Query(ask): Query<PeersQuery>,
) -> Result<Json<PeersResponse>, ApiError> {
    let wait = seconds(within("wait_secs", ask.wait_secs, 0, (0, 12))?);
    if !wait.is_zero() {
        let _search = api.node.search().await?;
        tokio::time::sleep(wait).await;
    }
    let peers = api.node.peers().await?.into_iter().map(PeerEntry::from);
    Ok(Json(PeersResponse { peers: peers.collect() }))
}

/// Streams what changes, as server-sent events: `progress`, `code` (a spoken code was burnt; `spoken_code` is the new one, if
/// there is one) and `ended`, all with a job's figures, and `reset` for a client that
/// has missed some. `Last-Event-ID` goes on behind that event.
#[utoipa::path(
    get,
    path = "/me/sync/v4/events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that is known")),
    responses(
        (status = 200, description = "An endless stream", body = String, content_type = "text/event-stream"),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The host name or the origin is not allowed", body = ErrorBody)
    )
)]
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    page: Option<Extension<PageSession>>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let after = headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let client = api.jobs.metrics.event_client();
    let stop = match page {
        // ends with the node too
        Some(Extension(PageSession(end))) => end,
        None => api.stop.clone(),
    };
    Sse::new(api.jobs.events.stream(after.as_deref(), stop, client))
}

//! Devices nearby, and what happens while somebody listens.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::{Extension, Json};
use futures::Stream;
use http::HeaderMap;
use tokio::sync::Semaphore;

use super::{Api, seconds};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Query, within};
use crate::http::logins::PageSession;
use crate::http::schema::{PeerEntry, PeersQuery, PeersResponse};

/// Devices are greeted while at least one caller looks for them.
#[derive(Debug, Clone)]
pub(in crate::http) struct Searches(Arc<Semaphore>);

/// Callers that may look at once; a number that never comes.
const MOST: usize = 1024;

impl Default for Searches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

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
        (status = 429, description = "Too many look at once", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn peers(
    State(api): State<Arc<Api>>,
    Query(ask): Query<PeersQuery>,
) -> Result<Json<PeersResponse>, ApiError> {
    let wait = seconds(within("wait_secs", ask.wait_secs, 0, (0, 12))?);
    if !wait.is_zero() {
        let Ok(looking) = api.searches.0.clone().try_acquire_owned() else {
            return Err(ApiError::coded(me_sync_protocol::reason::Code::Busy, "too many look at once", "try again"));
        };
        api.node.search(true).await?;
        // a caller that goes away early leaves the search to this task
        let (node, searches) = (api.node.clone(), api.searches.clone());
        let looked = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            drop(looking);
            if searches.0.available_permits() == MOST {
                node.search(false).await.ok();
            }
        });
        looked.await.ok();
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

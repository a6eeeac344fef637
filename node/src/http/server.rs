//! The server: HTTP/1 only, with a clock for everything that a caller can draw out, and a bound for everything that many
//! callers can take (RELIABILITY A93).

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::gate::Door;
use super::stall::Stall;

/// Connections of each door at once; one more is told to come back.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// How long the head of a request may take, an idle connection included.
const HEAD_TIME: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 64;
/// Longest head, and what is written at once.
const MAX_BUFFER: usize = 16 << 10;
/// How long a caller may read nothing.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// Time before the next try when a connection cannot be taken, as without file descriptors.
const BREATH: Duration = Duration::from_millis(100);

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

const BUSY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: 1\r\n\
    content-type: application/json\r\ncontent-length: 88\r\n\r\n\
    {\"code\":\"busy\",\"message\":\"too many connections\",\"hint\":\"close some, or try again later\"}";

/// When somebody last called.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Option<Instant>>>);

impl Calls {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn idle(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|last| last.elapsed())
    }
}

/// What all connections share.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) router: Router,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Server {
    pub(super) async fn serve_tcp(self, listener: TcpListener, door: Door) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    stream.set_nodelay(true).ok();
                    self.connection(stream, door.clone(), &room);
                }
                Err(err) => rest(&err).await,
            }
        }
    }

    /// Serves this user only: the kernel says who has connected.
    pub(super) async fn serve_unix(self, listener: UnixListener, calls: Calls) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let me = rustix::process::geteuid().as_raw();
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == me => {
                        calls.note();
                        self.connection(stream, Door::Unix, &room);
                    }
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "another user was turned away from the socket"),
                    Err(err) => tracing::warn!(error = %err, "a caller without a name was turned away"),
                },
                Err(err) => rest(&err).await,
            }
        }
    }

    fn connection(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        door: Door,
        room: &Arc<Semaphore>,
    ) {
        let mut stream = Stall::new(stream, WRITE_TIME);
        let Ok(place) = room.clone().try_acquire_owned() else {
            // a new socket's buffer has room for that, so nobody waits; one that has none is closed without a word
            self.tasks.spawn(async move {
                tokio::time::timeout(BREATH, stream.write_all(BUSY)).await.ok();
            });
            return;
        };
        let (router, stop) = (self.router.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let service = service_fn(move |request| {
                let (router, door) = (router.clone(), door.clone());
                async move { Ok::<_, Infallible>(answer(router, &door, request).await) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_headers(MAX_HEADERS)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(serving);
            let ended = tokio::select! {
                ended = serving.as_mut() => ended,
                () = stop.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(err) = ended {
                tracing::debug!(error = %crate::errors::chain(&err), "a connection ended");
            }
            drop(place);
        });
    }
}

async fn rest(err: &io::Error) {
    tracing::warn!(error = %err, "a connection cannot be taken");
    tokio::time::sleep(BREATH).await;
}

/// Judges who asks before anything is routed.
async fn answer(router: Router, door: &Door, request: Request<Incoming>) -> Response {
    let (mut parts, body) = request.into_parts();
    let mut response = match door.admit(&mut parts) {
        Ok(caller) => {
            parts.extensions.insert(caller);
            let Ok(response) = router.oneshot(Request::from_parts(parts, Body::new(body))).await;
            response
        }
        Err(refused) => {
            tracing::info!(method = %parts.method, path = parts.uri.path(), "a request was refused");
            refused.into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // the page has its own
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(nothing);
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_one_too_many_is_as_long_as_it_says() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len()))
                || head.ends_with(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        serde_json::from_str::<super::super::error::ErrorBody>(body).unwrap();
    }
}

//! The HTTP face of a node: who may ask, what can be asked, and how many may at once.
//!
//! ```text
//!  127.0.0.1:7711 ─► gate: Host, Origin, token ─► page, routes ─► NodeHandle
//!  <state>/api.sock ─► gate: same user ──────────►   │
//!                                      jobs (newest views) ─► events (ring) ─► SSE
//! ```
//!
//! Owns the jobs that were started through it. Knows the node by its [`NodeHandle`] and the views of its jobs only.

mod error;
mod events;
mod extract;
mod gate;
mod jobs;
mod logins;
mod metrics;
mod page;
mod roots;
mod routes;
pub mod schema;
mod server;
mod socket;
mod stall;
mod token;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use me_sync_protocol::ids::{SessionId, TicketId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::{EXIT_HEADER, ErrorBody};
pub use self::socket::{SOCKET_FILE, connect};
pub use self::token::{TOKEN_FILE, TokenError};

use self::gate::Door;
use self::jobs::Jobs;
use self::logins::Logins;
use self::roots::Roots;
use self::routes::{Api, router};
use self::server::{Calls, Server};
use self::token::Token;
use crate::api::JobHandle;
use crate::limit::Rate;
use crate::node::NodeHandle;
use crate::post_apply::PostApply;

/// How long answers that are under way may take when the node stops.
const DRAIN: Duration = Duration::from_millis(500);

/// What the API allows and where it is.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// On 127.0.0.1; 0 lets the system choose.
    pub port: u16,
    /// What may be offered with the token.
    pub export_roots: Vec<PathBuf>,
    /// Where trees may be replaced with the token.
    pub import_roots: Vec<PathBuf>,
    /// Of sessions that are given none with the token.
    pub limit: Option<Rate>,
    /// Runs after the swap of what comes in with the token.
    pub post_apply: Option<PostApply>,
}

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Its token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Its port.
    #[error("port {port} of 127.0.0.1 cannot be listened on")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// Its socket.
    #[error("the socket {path} cannot be made", path = path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// A served API. Stop it with [`Http::shutdown`].
#[derive(Debug)]
pub struct Http {
    at: Option<SocketAddr>,
    calls: Calls,
    state_dir: PathBuf,
    jobs: Arc<Jobs>,
    logins: Arc<Logins>,
    server: Server,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Http {
    /// Serves the API of this node.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn serve(node: NodeHandle, config: HttpConfig) -> Result<Self, HttpError> {
        let state_dir = node.state_dir().to_owned();
        let dir = state_dir.clone();
        let token = tokio::task::spawn_blocking(move || Token::load_or_create(&dir)).await;
        let interrupted = |err| TokenError::Io { path: state_dir.join(TOKEN_FILE), err: io::Error::other(err) };
        let token = Arc::new(token.map_err(interrupted)??);
        let port = |err| HttpError::Port { port: config.port, err };
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, config.port)).await.map_err(port)?;
        let at = tcp.local_addr().map_err(port)?;
        let served = Self::start(node, config, Some(at))?;
        let door = Door::Tcp { port: at.port(), token, logins: served.logins.clone() };
        served.tasks.spawn(served.server.clone().serve_tcp(tcp, door));
        Ok(served)
    }

    /// Serves the user of this process over the Unix socket alone: for a command that others may join. Needs a runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn serve_user(node: NodeHandle) -> Result<Self, HttpError> {
        Self::start(node, HttpConfig::default(), None)
    }

    fn start(node: NodeHandle, config: HttpConfig, at: Option<SocketAddr>) -> Result<Self, HttpError> {
        let state_dir = node.state_dir().to_owned();
        let path = state_dir.join(SOCKET_FILE);
        let unix = socket::listen(&state_dir).map_err(|err| HttpError::Socket { path, err })?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (jobs, calls, logins) = (Jobs::new(), Calls::default(), Arc::new(Logins::new(stop.clone())));
        let api = Api {
            at,
            begun: Instant::now(),
            jobs: jobs.clone(),
            exports: Roots::new("export_roots", config.export_roots, &state_dir),
            imports: Roots::new("import_roots", config.import_roots, &state_dir),
            limit: config.limit,
            post_apply: config.post_apply,
            stop: stop.clone(),
            logins: logins.clone(),
            node,
        };
        let server = Server { router: router(api), stop: stop.clone(), tasks: tasks.clone() };
        tasks.spawn(server.clone().serve_unix(unix, calls.clone()));
        Ok(Self { at, calls, state_dir, jobs, logins, server, stop, tasks })
    }

    /// Where it is over TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        self.at
    }

    /// Takes in a job that was not started through here, for others to see and end; an import with its ticket, so that
    /// whoever begins it again follows it.
    pub fn show(&self, job: JobHandle, path: PathBuf, ticket: Option<TicketId>) {
        self.jobs.add(job, path, None, ticket);
    }

    /// Jobs that are not over.
    pub fn running(&self) -> usize {
        self.jobs.live().len()
    }

    /// Wakes when a job begins, ends or is a little further.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.jobs.events.newest()
    }

    /// How long ago somebody last asked over the socket; none if nobody has.
    pub fn idle(&self) -> Option<Duration> {
        self.calls.idle()
    }

    /// From now on nobody finds the socket. Who has found it is served still.
    pub fn hide(&self) {
        socket::remove(&self.state_dir);
    }

    /// The sessions that jobs work on.
    pub fn at_work(&self) -> Vec<SessionId> {
        self.jobs.at_work()
    }

    /// Stops: no new requests, streams end, answers under way have a moment. To be called after the node's own
    /// shutdown, so that whoever follows a job hears of its end.
    pub async fn shutdown(self) {
        socket::remove(&self.state_dir);
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::debug!("some answers were cut off");
        }
    }
}

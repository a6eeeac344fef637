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
use std::time::Duration;

use me_sync_protocol::ids::SessionId;
use tokio::net::TcpListener;
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
use self::server::Server;
use self::token::Token;
use crate::limit::Rate;
use crate::node::NodeHandle;

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
    at: SocketAddr,
    state_dir: PathBuf,
    jobs: Arc<Jobs>,
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
        let path = state_dir.join(SOCKET_FILE);
        let unix = socket::listen(&state_dir).map_err(|err| HttpError::Socket { path, err })?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (jobs, logins) = (Jobs::new(), Arc::new(Logins::new(stop.clone())));
        let api = Api {
            jobs: jobs.clone(),
            exports: Roots::new("export_roots", config.export_roots, &state_dir),
            imports: Roots::new("import_roots", config.import_roots, &state_dir),
            limit: config.limit,
            stop: stop.clone(),
            searches: Default::default(),
            logins: logins.clone(),
            port: at.port(),
            node,
        };
        let server = Server { router: router(api), stop: stop.clone(), tasks: tasks.clone() };
        tasks.spawn(server.clone().serve_tcp(tcp, Door::Tcp { port: at.port(), token, logins }));
        tasks.spawn(server.serve_unix(unix));
        Ok(Self { at, state_dir, jobs, stop, tasks })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.at
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

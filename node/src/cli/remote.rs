//! The node that runs on this state directory, asked over its Unix socket: one connection a question, which costs nothing
//! on the same machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use me_sync_node::book::SessionView;
use me_sync_node::errors::chain;
use me_sync_node::http::schema::{FailureEntry, FailuresResponse, Health, SessionsResponse};
use me_sync_node::http::{EXIT_HEADER, ErrorBody, connect};
use me_sync_protocol::ids::SessionId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exit::{CliError, Exit};

const API: &str = "/me/sync/v4";
/// More than a page of sessions with all that is known of each.
const MAX_ANSWER: usize = 64 << 20;

/// How long a node may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is asked again, and after which time.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// A node that runs.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    state_dir: PathBuf,
    pub(crate) health: Health,
}

impl Remote {
    /// The node of this state directory; none if there is none.
    pub(crate) async fn find(state_dir: &Path) -> Result<Option<Self>, CliError> {
        let mut tries = 0;
        let health = loop {
            match connect(state_dir).await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(err) => return Err(unreachable(&err)),
            }
            let answer = tokio::time::timeout(PATIENCE, ask(state_dir, Method::GET, "/healthz", Bytes::new())).await;
            match answer.map_err(|_| unreachable(&std::io::Error::from(std::io::ErrorKind::TimedOut)))? {
                Ok(health) => break health,
                Err(err) if tries == TRIES => return Err(err),
                // it may have ended in this moment
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            tries += 1;
        };
        Ok(Some(Self { state_dir: state_dir.to_owned(), health }))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T, CliError> {
        ask(&self.state_dir, Method::GET, &format!("{API}/{route}"), Bytes::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, route: &str, body: impl Serialize) -> Result<T, CliError> {
        let body = serde_json::to_vec(&body).map_err(|err| odd(&err))?;
        ask(&self.state_dir, Method::POST, &format!("{API}/{route}"), body.into()).await
    }

    /// All of them, page by page.
    pub(crate) async fn sessions(&self) -> Result<Vec<SessionView>, CliError> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: SessionsResponse = self.get(&format!("sessions?limit=500{cursor}")).await?;
            all.extend(page.sessions);
            match page.next {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(all),
            }
        }
    }

    /// All that are known of a session, and how many there are.
    pub(crate) async fn failures(&self, session: SessionId) -> Result<(Vec<FailureEntry>, u64), CliError> {
        let mut all = Vec::new();
        loop {
            let route = format!("session/failures?session_id={session}&limit=1000&offset={}", all.len());
            let page: FailuresResponse = self.get(&route).await?;
            let is_last = page.failures.is_empty();
            all.extend(page.failures);
            if is_last || all.len() as u64 >= page.total {
                return Ok((all, page.total));
            }
        }
    }
}

/// A path as the node, which has a directory of its own, can use it.
///
/// # Errors
/// JSON cannot hold it.
pub(crate) fn absolute(path: &Path) -> Result<String, CliError> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shown = super::human::path(&absolute);
    absolute.into_os_string().into_string().map_err(|_| {
        CliError::usage(
            format!("{shown} is not UTF-8, and cannot be named to the process that works here already"),
            "rename it, or use --no-node once that node, or the command that has begun, is done",
        )
    })
}

async fn ask<T: DeserializeOwned>(state_dir: &Path, method: Method, route: &str, body: Bytes) -> Result<T, CliError> {
    let stream = connect(state_dir).await.map_err(|err| unreachable(&err))?;
    let stream = stream.ok_or_else(|| unreachable(&std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|err| unreachable(&err))?;
    // it ends with the answer
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(route).header(HOST, "localhost");
    let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(body)).map_err(|err| odd(&err))?;
    let answer = sender.send_request(request).await.map_err(|err| unreachable(&err))?;
    let answer = read(answer).await;
    drop(sender);
    connection.abort();
    answer
}

async fn read<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, CliError> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|err| unreachable(&*err))?.to_bytes();
    if head.status.is_success() {
        return serde_json::from_slice(&body).map_err(|err| odd(&err));
    }
    let ErrorBody { code, message, hint } = serde_json::from_slice(&body).map_err(|err| odd(&err))?;
    let exit = head.headers.get(EXIT_HEADER).and_then(|exit| exit.to_str().ok()).and_then(|exit| exit.parse().ok());
    let exit = exit.and_then(Exit::of).unwrap_or(Exit::Node);
    Err(CliError { exit, code, message, hint, extra: serde_json::Value::Null })
}

fn unreachable(err: &(dyn std::error::Error + 'static)) -> CliError {
    CliError::new(Exit::Node, format!("the node does not answer: {}", chain(err)), "is it stopping? try again")
}

fn odd(err: &(dyn std::error::Error + 'static)) -> CliError {
    let hint = "is it another version than this program? start it again";
    CliError::new(Exit::Node, format!("the node and this program do not understand each other: {}", chain(err)), hint)
}

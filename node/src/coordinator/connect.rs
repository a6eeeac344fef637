//! The importer's way to a session: connect to exactly the ticket's peer, redeem or resume, open the control
//! stream. And the way back to tell how it ended.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::frame::{Role, StreamHello};
use me_sync_protocol::ids::{Digest, Nonce, Secret, SessionId};
use me_sync_protocol::message::{AbortSession, Granted, Redeem, Request, Response, Resume, Resumed, SessionResult};
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio_util::sync::CancellationToken;

use super::explain::Failure;
use super::streams;
use crate::api::{self, PeerSummary};
use crate::link::ByteStream;
use crate::net::{ConnectError, Connected, NetHandle, TransportPreference};
use crate::random;

/// How long the exporter has to hear that the importer stopped.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a session waits for a second connection to a distant exporter.
const WIDENING: Duration = Duration::from_secs(2);

/// What is needed to reach the exporter.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) transport: TransportPreference,
    pub(super) timeout: Duration,
    pub(super) max_lanes: u8,
    pub(super) max_chunk: u32,
    pub(super) zstd: bool,
    pub(super) holes: bool,
}

/// What opens the session.
#[derive(Debug, Clone)]
pub(super) enum Key {
    /// A ticket. Redeeming it again gives the same session, or another when the exporter ended that one.
    Ticket {
        ticket: Ticket,
        /// An outline is taken.
        late_hashes: bool,
    },
    /// A session that was granted before.
    Session { id: SessionId, secret: Secret, holds: Option<Digest> },
}

/// How the session was opened.
#[derive(Debug)]
pub(super) enum Entry {
    Granted(Granted),
    Resumed(Resumed),
}

/// A session, with its control stream if that could be opened too.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) peer: PeerId,
    pub(super) summary: PeerSummary,
    pub(super) entry: Entry,
    /// A session that was granted exists without one: it is resumed, like any that lost its connection.
    pub(super) control: Result<ByteStream, Failure>,
}

/// Why there is no session yet.
#[derive(Debug)]
pub(super) enum Missed {
    /// The exporter says no, and would say so again (SPEC §6.4).
    Refused(Failure),
    /// It was not reached, or can be asked again.
    NotYet(Failure),
}

impl Missed {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Refused(failure) | Self::NotYet(failure) => failure,
        }
    }
}

/// Goes all the way, or says in words for people where it ended. Stopped after the ticket was redeemed, it tells
/// the exporter, which would wait for this importer otherwise.
pub(super) async fn establish(
    net: NetHandle,
    key: Key,
    route: Route,
    stop: CancellationToken,
) -> Result<Established, Missed> {
    let again = matches!(key, Key::Session { .. });
    let failed = |code| match code {
        Code::Busy if again => Failure::described(code, "it is not ready yet", None, api::Role::Importer),
        code => Failure::of(code, api::Role::Importer),
    };
    let summary = tokio::select! {
        () = stop.cancelled() => return Err(Missed::NotYet(failed(Code::Aborted))),
        connected = reach(&net, &route) => connected.map_err(|e| {
            let message = if again { brief(&e) } else { crate::errors::chain(&e).to_string() };
            Missed::NotYet(Failure::described(e.code(), message, None, api::Role::Importer))
        })?,
    };
    let (id, entry) = match ask(&net, &key, &route).await {
        Ok(entry) => entry,
        Err(Asking::Refused(code @ (Code::Busy | Code::NotOffered | Code::RateLimited | Code::NodeStopping))) => {
            return Err(Missed::NotYet(failed(code)));
        }
        Err(Asking::Refused(code)) => return Err(Missed::Refused(failed(code))),
        Err(Asking::Lost(code)) => {
            // a connection that carries nothing any more would be used again by the next try
            net.disconnect(route.peer).await;
            return Err(Missed::NotYet(failed(code)));
        }
    };
    let hello = StreamHello { session_id: id, role: Role::Control };
    let opened = tokio::select! {
        () = stop.cancelled() => Err(Code::Aborted),
        (opened, ()) = async { tokio::join!(streams::open(&net, route.peer, hello), widen(&net, route.peer)) } => opened,
    };
    match (opened, &entry) {
        (Ok(control), _) => Ok(Established { peer: route.peer, summary, entry, control: Ok(control.stream) }),
        (Err(code), Entry::Granted(_)) if code == Code::Aborted => {
            let abort = AbortSession { session_id: id, code };
            // the exporter may be gone; then there is nobody to tell
            tokio::time::timeout(FAREWELL, net.request(route.peer, Request::Abort(abort))).await.ok();
            Err(Missed::NotYet(failed(code)))
        }
        (Err(code), Entry::Granted(_)) => {
            net.disconnect(route.peer).await;
            Ok(Established { peer: route.peer, summary, entry, control: Err(failed(code)) })
        }
        (Err(code), Entry::Resumed(_)) => {
            net.disconnect(route.peer).await;
            Err(Missed::NotYet(failed(code)))
        }
    }
}

/// Why one try of many failed: people know whom they look for, and read this beside other figures.
fn brief(e: &ConnectError) -> String {
    match e {
        ConnectError::NotFound { last, .. } => last.clone(),
        ConnectError::NoAddress { .. } => "no address of it is known".to_owned(),
        e => crate::errors::chain(e).to_string(),
    }
}

async fn reach(net: &NetHandle, route: &Route) -> Result<PeerSummary, ConnectError> {
    let connected = net.connect(route.peer, route.addresses.clone(), route.transport, route.timeout).await?;
    Ok(summary(route.peer, &connected))
}

/// Who is at the other end, and where; a pipe leads to no address.
pub(super) fn summary(peer: PeerId, connected: &Connected) -> PeerSummary {
    PeerSummary {
        peer_id: peer.to_string(),
        device_name: connected.hello.device_name.clone(),
        address: Some(connected.address.to_string()).filter(|address| !address.is_empty()),
        transport: Some(connected.transport.to_string()),
    }
}

/// The lanes of a long path get a second connection, if that does not take long.
async fn widen(net: &NetHandle, peer: PeerId) {
    // without it they share the first
    tokio::time::timeout(WIDENING, net.widen(peer)).await.ok();
}

enum Asking {
    /// The peer's answer.
    Refused(Code),
    /// No answer.
    Lost(Code),
}

async fn ask(net: &NetHandle, key: &Key, route: &Route) -> Result<(SessionId, Entry), Asking> {
    let nonce = Nonce(random::bytes());
    let (exporter, importer) = (route.peer.to_bytes(), net.local_peer().to_bytes());
    let ends = Ends { exporter: &exporter, importer: &importer };
    let Route { max_lanes, max_chunk, zstd, holes, .. } = *route;
    let request = match key {
        Key::Ticket { ticket, late_hashes } => {
            let late_hashes = late_hashes.then_some(true);
            let proof = proof::redeem(&ticket.secret, ticket.ticket_id, ends, nonce);
            Request::Redeem(Redeem {
                ticket_id: ticket.ticket_id,
                nonce,
                proof,
                max_lanes,
                max_chunk,
                late_hashes,
                zstd,
                holes,
            })
        }
        Key::Session { id, secret, holds } => {
            let proof = proof::resume(secret, *id, ends, nonce);
            let (session_id, manifest_sha256) = (*id, *holds);
            Request::Resume(Resume { session_id, nonce, proof, max_lanes, max_chunk, manifest_sha256, zstd, holes })
        }
    };
    let (lanes, chunk, agreed, opened) = match (net.request(route.peer, request).await, key) {
        (Ok(Response::Granted(granted)), Key::Ticket { .. }) => {
            let agreed = (granted.zstd, granted.holes);
            (granted.lanes, granted.max_chunk, agreed, (granted.session_id, Entry::Granted(granted)))
        }
        (Ok(Response::Resumed(resumed)), Key::Session { id, .. }) => {
            let agreed = (resumed.zstd, resumed.holes);
            (resumed.lanes, resumed.max_chunk, agreed, (*id, Entry::Resumed(resumed)))
        }
        (Ok(Response::Refused(code)), _) => return Err(Asking::Refused(code)),
        (Ok(_), _) => return Err(Asking::Refused(Code::FrameUnexpected)),
        (Err(e), _) => return Err(Asking::Lost(e.code())),
    };
    // SPEC §6.2
    let is_unasked = (agreed.0 && !zstd) || (agreed.1 && !holes);
    if lanes == 0 || lanes > route.max_lanes || chunk > route.max_chunk || is_unasked {
        return Err(Asking::Refused(Code::VersionMismatch));
    }
    Ok(opened)
}

/// Tells the exporter how the session ended (SPEC §6.7). True when it knows.
pub(super) async fn deliver(net: &NetHandle, route: &Route, session_id: SessionId, failed: Option<Code>) -> bool {
    if reach(net, route).await.is_err() {
        return false;
    }
    match net.request(route.peer, Request::Result(SessionResult { session_id, failed })).await {
        // a session it does not know any more needs no result
        Ok(Response::Done | Response::Refused(Code::SessionUnknown)) => true,
        Ok(_) => false,
        Err(_) => {
            net.disconnect(route.peer).await;
            false
        }
    }
}

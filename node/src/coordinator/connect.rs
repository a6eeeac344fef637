//! The importer's way to a session: connect to exactly the ticket's peer, redeem, open the control stream.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId, Stream};
use me_sync_protocol::frame::{Role, StreamHello};
use me_sync_protocol::ids::Nonce;
use me_sync_protocol::message::{AbortSession, Granted, Redeem, Request, Response};
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio_util::sync::CancellationToken;

use super::explain::Failure;
use super::streams;
use crate::api::{self, PeerSummary};
use crate::net::{NetHandle, TransportPreference};
use crate::random;

/// How long the exporter has to hear that the importer stopped.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is needed to reach the exporter.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) transport: TransportPreference,
    pub(super) timeout: Duration,
    pub(super) max_lanes: u8,
    pub(super) max_chunk: u32,
}

/// A session with its control stream.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) peer: PeerId,
    pub(super) summary: PeerSummary,
    pub(super) granted: Granted,
    pub(super) control: Stream,
}

/// Goes all the way, or says in words for people where it ended. Stopped after the ticket was redeemed, it tells
/// the exporter, which would wait for this importer otherwise.
pub(super) async fn establish(
    net: NetHandle,
    ticket: Ticket,
    route: Route,
    stop: CancellationToken,
) -> Result<Established, Failure> {
    let failed = |code| Failure::of(code, api::Role::Importer);
    let connecting = net.connect(route.peer, route.addresses, route.transport, route.timeout);
    let connected = tokio::select! {
        () = stop.cancelled() => return Err(failed(Code::Aborted)),
        connected = connecting => connected,
    };
    let connected =
        connected.map_err(|e| Failure::described(e.code(), crate::errors::chain(&e), None, api::Role::Importer))?;
    let summary = PeerSummary {
        peer_id: route.peer.to_string(),
        device_name: connected.hello.device_name,
        address: Some(connected.address.to_string()),
        transport: Some(connected.transport.to_string()),
    };
    let nonce = Nonce(random::bytes());
    let (exporter, importer) = (route.peer.to_bytes(), net.local_peer().to_bytes());
    let ends = Ends { exporter: &exporter, importer: &importer };
    let redeem = Redeem {
        ticket_id: ticket.ticket_id,
        nonce,
        proof: proof::redeem(&ticket.secret, ticket.ticket_id, ends, nonce),
        max_lanes: route.max_lanes,
        max_chunk: route.max_chunk,
    };
    let granted = match net.request(route.peer, Request::Redeem(redeem)).await {
        Ok(Response::Granted(granted)) => granted,
        Ok(Response::Refused(code)) => return Err(failed(code)),
        Ok(Response::Hello(_) | Response::Status(_) | Response::Done) => return Err(failed(Code::FrameUnexpected)),
        Err(e) => return Err(failed(e.code())),
    };
    if granted.lanes == 0 || granted.lanes > route.max_lanes || granted.max_chunk > route.max_chunk {
        return Err(failed(Code::VersionMismatch));
    }
    let hello = StreamHello { session_id: granted.session_id, role: Role::Control };
    let opened = tokio::select! {
        () = stop.cancelled() => Err(Code::Aborted),
        opened = streams::open(&net, route.peer, hello) => opened,
    };
    let control = match opened {
        Ok(control) => control,
        Err(code) => {
            let abort = AbortSession { session_id: granted.session_id, code };
            // the exporter may be gone; then there is nobody to tell
            tokio::time::timeout(FAREWELL, net.request(route.peer, Request::Abort(abort))).await.ok();
            return Err(failed(code));
        }
    };
    Ok(Established { peer: route.peer, summary, granted, control })
}

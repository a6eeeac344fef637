//! Raw streams of `/me-sync/4/stream`, `/me-sync/4/probe` and `/me-sync/3`, both ways.
//!
//! A behaviour of our own instead of `libp2p-stream`, which has one inbound place for all peers together,
//! dials whenever a peer is not connected, and keeps an entry for every connection that ever was
//! (0.5.0-alpha, `shared.rs`: `senders` is never cleared). On the wire it is the same.
//!
//! Inbound streams go straight from the connection's task into the event channel: when it is full, the
//! stream is dropped, which the opener notices as a reset and tries again. It never waits, so that one
//! connection cannot hold up another.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{ARCHIVE_PROTOCOL, InboundStream, NetEvent, OpenError, OpenedStream, PROBE_PROTOCOL, STREAM_PROTOCOL};

/// Streams being opened per connection, at most.
const MAX_OPENING: usize = 16;
/// Inbound streams per connection within [`WINDOW`]; a session needs nine.
const MAX_INBOUND: u32 = 64;
const WINDOW: Duration = Duration::from_secs(10);

/// Who waits for a stream.
pub(super) type Opener = oneshot::Sender<Result<OpenedStream, OpenError>>;

/// What a stream is for, as it was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A session.
    Session,
    /// Measuring (SPEC §5.12).
    Probe,
    /// One archive (SPEC §13).
    Archive,
}

impl Purpose {
    fn protocol(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::Session => STREAM_PROTOCOL,
            Self::Probe => PROBE_PROTOCOL,
            Self::Archive => ARCHIVE_PROTOCOL,
        })
    }
}

/// A stream to be opened.
#[derive(Debug)]
pub(super) struct Opening {
    purpose: Purpose,
    opener: Opener,
}

/// What peers may open streams for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    probes: bool,
}

impl UpgradeInfo for Taken {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        let all = [Some(Purpose::Session), Some(Purpose::Archive), self.probes.then_some(Purpose::Probe)];
        all.into_iter().flatten().map(Purpose::protocol).collect::<Vec<_>>().into_iter()
    }
}

impl InboundUpgrade<Stream> for Taken {
    type Output = (Stream, Purpose);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        let mut others = [Purpose::Probe, Purpose::Archive].into_iter();
        let purpose = others.find(|purpose| protocol == purpose.protocol());
        ready(Ok((stream, purpose.unwrap_or(Purpose::Session))))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Streams {
    events: mpsc::Sender<NetEvent>,
    taken: Taken,
    pending: VecDeque<ToSwarm<Infallible, Opening>>,
}

impl Streams {
    /// With `probes` peers may measure how fast they are sent to.
    pub(super) fn new(events: mpsc::Sender<NetEvent>, probes: bool) -> Self {
        Self { events, taken: Taken { probes }, pending: VecDeque::new() }
    }

    /// Opens a stream over this connection. If that is gone by now, `opener` is dropped.
    pub(super) fn open(&mut self, peer: PeerId, connection: ConnectionId, purpose: Purpose, opener: Opener) {
        self.pending.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Opening { purpose, opener },
        });
    }

    fn handler(&self, peer: PeerId, connection: ConnectionId) -> Handler {
        Handler {
            peer,
            connection,
            events: self.events.clone(),
            taken: self.taken,
            waiting: VecDeque::new(),
            negotiating: None,
            window: (Instant::now(), 0),
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        self.pending.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's part; lives in the connection's task.
#[derive(Debug)]
pub(super) struct Handler {
    peer: PeerId,
    connection: ConnectionId,
    events: mpsc::Sender<NetEvent>,
    taken: Taken,
    waiting: VecDeque<Opening>,
    negotiating: Option<Opening>,
    window: (Instant, u32),
}

impl Handler {
    fn on_inbound(&mut self, stream: Stream, purpose: Purpose) {
        let now = Instant::now();
        if now.duration_since(self.window.0) >= WINDOW {
            self.window = (now, 0);
        }
        self.window.1 += 1;
        if self.window.1 > MAX_INBOUND {
            return tracing::debug!(peer = %self.peer, "too many streams in a short time, one is dropped");
        }
        let inbound = InboundStream { peer: self.peer, stream: stream.into() };
        let event = match purpose {
            Purpose::Session => NetEvent::InboundStream(inbound),
            Purpose::Probe => NetEvent::Probe(inbound),
            Purpose::Archive => NetEvent::Archive(inbound),
        };
        if self.events.try_send(event).is_err() {
            tracing::debug!(peer = %self.peer, "no room for an inbound stream, it is dropped");
        }
    }

    fn on_opened(&mut self, result: Result<Stream, OpenError>) {
        let connection = Some(self.connection);
        let result = result.map(|stream| OpenedStream { stream: stream.into(), connection });
        if self.negotiating.take().is_some_and(|opening| opening.opener.send(result).is_err()) {
            tracing::debug!(peer = %self.peer, "nobody waits for the stream any more");
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Opening;
    type ToBehaviour = Infallible;
    type InboundProtocol = Taken;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(self.taken, ())
    }

    fn on_behaviour_event(&mut self, opening: Opening) {
        if self.waiting.len() < MAX_OPENING {
            self.waiting.push_back(opening);
        } else if opening.opener.send(Err(OpenError::Busy { peer: self.peer })).is_err() {
            tracing::debug!(peer = %self.peer, "nobody waits for the stream any more");
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        // One at a time: the peer gets the streams in the order in which they were asked for.
        while self.negotiating.is_none() {
            let Some(Opening { purpose, opener }) = self.waiting.pop_front() else { break };
            if !opener.is_closed() {
                self.negotiating = Some(Opening { purpose, opener });
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(purpose.protocol()), ());
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                let (stream, purpose) = protocol;
                self.on_inbound(stream, purpose);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.on_opened(Ok(protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                let peer = self.peer;
                let is_optional = self.negotiating.as_ref().is_some_and(|opening| opening.purpose != Purpose::Session);
                self.on_opened(Err(match error {
                    StreamUpgradeError::Timeout => OpenError::Timeout { peer },
                    StreamUpgradeError::NegotiationFailed if is_optional => OpenError::Unsupported { peer },
                    // a peer that has said hello takes streams: so it looks when the connection breaks meanwhile
                    StreamUpgradeError::NegotiationFailed => {
                        OpenError::Lost { peer, detail: "no answer to what the stream is for".to_owned() }
                    }
                    StreamUpgradeError::Io(error) => OpenError::Lost { peer, detail: error.to_string() },
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }
}

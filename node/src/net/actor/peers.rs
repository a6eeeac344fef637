//! Connections and hellos: who is connected, who has said who they are, who is put out.

use std::collections::VecDeque;
use std::time::Duration;

use libp2p::core::ConnectedPoint;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::caps::negotiate;
use me_sync_protocol::message::{Hello, Request, Response};
use me_sync_protocol::reason::Code;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Actor;
use super::requests::{Outbound, Queued};
use crate::net::address::{transport_of, without_peer};
use crate::net::behaviour::MAX_INBOUND;
use crate::net::connect::JobKey;
use crate::net::streams::{Opener, Purpose};
use crate::net::{ConnectError, Connected, NetEvent, OpenError, RequestError, TransportKind};

/// From this many inbound connections on, the oldest without a hello makes room for the next (A64).
const CROWDED: usize = MAX_INBOUND as usize - 4;
/// A hello that fails with its connection is repeated over the next one this often.
const MAX_GREETINGS: u8 = 3;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) address: Multiaddr,
    pub(super) transport: TransportKind,
    pub(super) inbound: bool,
    since: Instant,
    /// We are closing it: it counts for nothing any more.
    closing: bool,
    /// Streams that we opened on it.
    opened: u32,
}

/// A peer with at least one connection.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) connections: Vec<Connection>,
    /// Exchanged in either direction.
    pub(super) hello: Option<Hello>,
    /// It answered *our* hello.
    answered: bool,
    /// It may have forgotten our hello (SPEC 6.1-5): requests wait until it has answered another one.
    pub(super) renewing: bool,
    /// Refusals for want of a hello that it did get.
    pub(super) forgotten: u8,
    /// Our hello is on its way.
    pub(super) greeting: Option<OutboundRequestId>,
    greetings: u8,
    /// As the last ping found it.
    pub(super) rtt: Option<Duration>,
    /// Who waits for the first of them.
    pinged: Vec<oneshot::Sender<Duration>>,
    pub(super) in_flight: usize,
    pub(super) waiting: VecDeque<Queued>,
    disconnecting: Vec<oneshot::Sender<()>>,
}

impl Peer {
    pub(super) fn live(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|connection| !connection.closing)
    }
}

impl Actor {
    /// A connection to the peer of this effort that it may use.
    pub(super) fn live(&self, key: &JobKey) -> Option<&Connection> {
        self.peers.get(&key.peer)?.live().find(|connection| key.preference.allows(connection.transport))
    }

    fn close(&mut self, peer: &PeerId, connection: ConnectionId) {
        if let Some(known) =
            self.peers.get_mut(peer).and_then(|peer| peer.connections.iter_mut().find(|c| c.id == connection))
        {
            known.closing = true;
        }
        self.swarm.close_connection(connection);
    }

    pub(super) fn close_all(&mut self, peer: &PeerId) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.connections.iter_mut().for_each(|connection| connection.closing = true);
            for id in known.connections.iter().map(|connection| connection.id) {
                self.swarm.close_connection(id);
            }
        }
    }

    pub(super) fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, now: Instant) {
        let address = without_peer(endpoint.get_remote_address());
        let transport = transport_of(&address);
        let inbound = endpoint.is_listener();
        tracing::debug!(%peer, %transport, inbound, "connection established");
        if inbound {
            self.make_room();
        }
        let entry = self.peers.entry(peer).or_default();
        let twin = entry.live().any(|c| !c.inbound && c.transport == transport);
        entry.connections.push(Connection { id, address, transport, inbound, since: now, closing: false, opened: 0 });
        if entry.hello.is_some() {
            self.swarm.behaviour_mut().gate.known(id);
        }
        self.widened(id);
        self.answered_by(id, peer);
        if let Some(key) = self.dials.remove(&id) {
            // Of two dials that both got through, the later one is of no use.
            let wanted = self.jobs.get_mut(&key).map(|job| job.established(id)).is_some();
            if !wanted || twin {
                self.close(&peer, id);
            }
        }
    }

    /// Puts out the oldest connection without a hello when it gets crowded.
    fn make_room(&mut self) {
        let inbound = |peer: &Peer| peer.live().filter(|c| c.inbound).count();
        if self.peers.values().map(inbound).sum::<usize>() < CROWDED {
            return;
        }
        let strangers = self.peers.iter().filter(|(_, peer)| peer.hello.is_none() && peer.greeting.is_none());
        let oldest = strangers
            .flat_map(|(id, peer)| peer.live().filter(|c| c.inbound).map(move |c| (c.since, *id, c.id)))
            .min_by_key(|(since, ..)| *since);
        if let Some((_, peer, connection)) = oldest {
            tracing::debug!(%peer, "crowded: a connection without a hello is closed");
            self.close(&peer, connection);
        }
    }

    fn silent(&self) -> impl Iterator<Item = (Instant, PeerId, ConnectionId)> {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.hello.is_none() && peer.greeting.is_none())
            .flat_map(|(id, peer)| peer.live().filter(|c| c.inbound).map(|c| (c.since + self.hello_timeout, *id, c.id)))
    }

    pub(super) fn silent_due(&self) -> Option<Instant> {
        self.silent().map(|(due, ..)| due).min()
    }

    /// Closes inbound connections whose time for a hello is over.
    pub(super) fn close_silent(&mut self, now: Instant) {
        let over: Vec<_> = self.silent().filter(|(due, ..)| *due <= now).collect();
        for (_, peer, connection) in over {
            tracing::debug!(%peer, "no hello in time, the connection is closed");
            self.close(&peer, connection);
        }
    }

    pub(super) fn on_closed(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.connections.retain(|known| known.id != connection);
        if !peer.connections.is_empty() {
            // the peer may have seen this end before the others began: then nothing is left there of our hello
            if peer.answered {
                self.renew(id);
            }
            return;
        }
        let Some(peer) = self.peers.remove(&id) else { return };
        for (_, reply) in peer.waiting {
            if reply.send(Err(RequestError::NotConnected { peer: id })).is_err() {
                tracing::debug!("nobody waits for the answer any more");
            }
        }
        for done in peer.disconnecting {
            done.send(()).ok(); // Err: nobody waits any more
        }
        if peer.hello.is_some() {
            self.tell(NetEvent::PeerDisconnected(id));
        }
    }

    pub(super) fn on_disconnect(&mut self, id: PeerId, done: oneshot::Sender<()>) {
        self.pipes.remove(&id);
        self.close_all(&id);
        match self.peers.get_mut(&id) {
            Some(peer) => peer.disconnecting.push(done),
            None => {
                done.send(()).ok(); // Err: nobody waits any more
            }
        }
    }

    pub(super) fn on_open_stream(&mut self, id: PeerId, purpose: Purpose, beside: Option<ConnectionId>, reply: Opener) {
        let on_pipe = purpose == Purpose::Session && beside.is_none();
        let reply = if on_pipe { self.open_by_pipe(&id, reply) } else { Some(reply) };
        let Some(reply) = reply else { return };
        let peer = self.peers.get_mut(&id).filter(|peer| peer.hello.is_some());
        // the oldest of those that carry least: the lanes of a session share its connections evenly
        let least = |peer: &'_ mut Peer| {
            let fit = peer.connections.iter_mut().filter(|c| !c.closing && Some(c.id) != beside);
            let connection = fit.min_by_key(|c| c.opened)?;
            connection.opened += 1;
            Some(connection.id)
        };
        match peer.and_then(least) {
            Some(connection) => self.swarm.behaviour_mut().streams.open(id, connection, purpose, reply),
            None => {
                if reply.send(Err(OpenError::NotConnected { peer: id })).is_err() {
                    tracing::debug!("nobody waits for the stream any more");
                }
            }
        }
    }

    /// How far away the peer is.
    pub(super) fn on_round_trip(&mut self, id: PeerId, rtt: Duration, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.rtt = Some(rtt);
            for waiter in peer.pinged.drain(..) {
                waiter.send(rtt).ok(); // Err: nobody waits any more
            }
        }
        self.discovery.alive(&id, rtt, now);
    }

    /// Answered now or with the first ping; dropped with the last connection.
    pub(super) fn on_round_trip_asked(&mut self, id: PeerId, reply: oneshot::Sender<Duration>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match peer.rtt {
            Some(rtt) => {
                reply.send(rtt).ok(); // Err: nobody waits any more
            }
            None => {
                peer.pinged.retain(|waiter| !waiter.is_closed());
                peer.pinged.push(reply);
            }
        }
    }

    /// Says hello over a live connection, unless that is done or under way.
    pub(super) fn greet(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.greeting.is_some() || peer.answered || peer.live().next().is_none() {
            return;
        }
        peer.greetings += 1;
        let request = self.swarm.behaviour_mut().requests.send_request(&id, Request::Hello(self.hello.clone()));
        peer.greeting = Some(request);
        self.outbound.insert(request, Outbound::Hello(id));
    }

    /// Says hello once more to a peer that has answered one.
    pub(super) fn renew(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        (peer.answered, peer.renewing, peer.greetings) = (false, true, 0);
        self.greet(id);
    }

    /// A peer says hello: the answer.
    pub(super) fn on_hello(&mut self, id: PeerId, hello: Hello, now: Instant) -> Response {
        if let Err(code) = negotiate(&hello.versions, &hello.caps) {
            return Response::Refused(code);
        }
        self.introduced(id, hello, now);
        Response::Hello(self.hello.clone())
    }

    /// The peer answered our hello.
    pub(super) fn on_hello_answer(&mut self, id: PeerId, response: Response, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.greeting = None;
        match response {
            Response::Hello(hello) => match negotiate(&hello.versions, &hello.caps) {
                Ok(_) => {
                    (peer.answered, peer.renewing) = (true, false);
                    let address = peer.live().next().filter(|c| !c.inbound).map(|c| c.address.clone());
                    let rtt = peer.rtt;
                    self.discovery.answer(id, hello.clone(), address, now);
                    // the first ping is often faster than the hello
                    rtt.into_iter().for_each(|rtt| self.discovery.alive(&id, rtt, now));
                    self.introduced(id, hello, now);
                    self.send_waiting(id);
                }
                Err(code) => self.turn_away(id, &ConnectError::Version { peer: id, code }, now),
            },
            Response::Refused(code @ (Code::Busy | Code::RateLimited | Code::NodeStopping)) => {
                self.turn_away(id, &ConnectError::Refused { peer: id, code }, now);
            }
            Response::Refused(code) => self.turn_away(id, &ConnectError::Version { peer: id, code }, now),
            Response::Granted(_)
            | Response::Resumed(_)
            | Response::Status(_)
            | Response::Done
            | Response::CodeAnswer(_)
            | Response::CodeGiven(_) => {
                self.turn_away(id, &ConnectError::Version { peer: id, code: Code::VersionMismatch }, now);
            }
        }
    }

    /// Our hello failed together with its connection: over the next connection, or given up.
    pub(super) fn on_hello_lost(&mut self, id: PeerId, why: &str, now: Instant) {
        for (_, job) in self.jobs.iter_mut().filter(|(key, _)| key.peer == id) {
            job.failed(None, why.to_owned(), now);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.greeting = None;
        let renewing = peer.renewing;
        if peer.greetings >= MAX_GREETINGS && (peer.hello.is_none() || renewing) {
            self.close_all(&id);
        } else if renewing {
            self.greet(id);
        }
    }

    /// It was greeted once at most since it connected, or is not connected any more.
    pub(super) fn may_be_greeted_again(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_none_or(|peer| peer.greetings < 2 || peer.renewing)
    }

    /// The peer is not one we can work with.
    pub(super) fn turn_away(&mut self, id: PeerId, error: &ConnectError, now: Instant) {
        tracing::debug!(peer = %id, %error, "turned away");
        self.discovery.foreign(&id, now);
        for (_, job) in self.jobs.extract_if(|key, _| key.peer == id) {
            job.fail(error);
        }
        if self.peers.get(&id).is_some_and(|peer| peer.hello.is_none() || peer.renewing) {
            self.close_all(&id);
        }
    }

    /// A hello was exchanged.
    fn introduced(&mut self, id: PeerId, hello: Hello, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let first = peer.hello.replace(hello).is_none();
        for connection in &peer.connections {
            self.swarm.behaviour_mut().gate.known(connection.id);
        }
        if first {
            self.tell(NetEvent::PeerConnected(id));
        }
        self.pump_jobs(now);
    }

    /// Is this a peer one can work with over a connection of this kind?
    pub(super) fn connected(&self, key: &JobKey) -> Option<Connected> {
        let hello = self.peers.get(&key.peer).filter(|peer| !peer.renewing)?.hello.clone()?;
        let connection = self.live(key)?;
        Some(Connected { address: connection.address.clone(), transport: connection.transport.into(), hello })
    }

    /// Has it answered our hello over a connection that still stands?
    pub(super) fn has_answered(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.answered && peer.live().next().is_some())
    }
}

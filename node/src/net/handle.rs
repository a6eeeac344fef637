//! What the rest of the node calls. Every method is cancel-safe: dropping its future gives up the answer, not the node.

use std::convert::Infallible;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::message::{Request, Response};
use tokio::sync::{mpsc, oneshot, watch};

use super::streams::Purpose;
use super::{
    ConnectError, Connected, ListenPort, NetError, OpenError, OpenedStream, PeerView, RequestError, TransportKind,
    TransportPreference,
};

/// One call, with where its answer goes.
#[derive(Debug)]
pub(super) enum Command {
    Addresses(oneshot::Sender<Listening>),
    Connect {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        preference: TransportPreference,
        timeout: Duration,
        reply: oneshot::Sender<Result<Connected, ConnectError>>,
    },
    Request {
        peer: PeerId,
        request: Request,
        reply: oneshot::Sender<Result<Response, RequestError>>,
    },
    OpenStream {
        peer: PeerId,
        purpose: Purpose,
        beside: Option<ConnectionId>,
        reply: oneshot::Sender<Result<OpenedStream, OpenError>>,
    },
    Who {
        address: Multiaddr,
        preference: TransportPreference,
        answer: oneshot::Sender<PeerId>,
    },
    Widen {
        peer: PeerId,
        done: oneshot::Sender<()>,
    },
    Disconnect {
        peer: PeerId,
        done: oneshot::Sender<()>,
    },
    RoundTrip {
        peer: PeerId,
        reply: oneshot::Sender<Duration>,
    },
    Peers(oneshot::Sender<Vec<PeerView>>),
    Search(oneshot::Receiver<Infallible>),
    Shutdown(oneshot::Sender<()>),
}

/// Where a node listens.
#[derive(Debug, Clone)]
pub(super) struct Listening {
    pub(super) ports: Vec<ListenPort>,
    pub(super) for_ticket: Vec<Multiaddr>,
}

/// Somebody looks for devices, as long as this lives.
#[derive(Debug)]
pub struct Search(#[expect(dead_code, reason = "its drop is what is waited for")] oneshot::Sender<Infallible>);

/// Talks to the swarm's task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetHandle {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    offering: watch::Sender<bool>,
}

impl NetHandle {
    pub(super) fn new(local: PeerId, commands: mpsc::Sender<Command>, offering: watch::Sender<bool>) -> Self {
        Self { local, commands, offering }
    }

    /// There is something for others to find here, or nothing any more: discovery by mDNS runs only while there is, while
    /// somebody searches, or while a peer is being connected to.
    pub fn offer(&self, on: bool) {
        self.offering.send_if_modified(|before| std::mem::replace(before, on) != on);
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.ok()?;
        answer.await.ok()
    }

    /// The node's network side has ended.
    pub fn is_stopped(&self) -> bool {
        self.commands.is_closed()
    }

    /// Our own id.
    pub fn local_peer(&self) -> PeerId {
        self.local
    }

    /// At most 8 addresses for a ticket, best first; waits until the listeners are up (at most a second).
    ///
    /// Loopback addresses are given only when there are no others, link-local IPv6 never.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn addresses(&self) -> Result<Vec<Multiaddr>, NetError> {
        Ok(self.ask(Command::Addresses).await.ok_or(NetError::Stopped)?.for_ticket)
    }

    /// The ports that are listened on, for [`super::NetConfig::remembered`]; waits as [`Self::addresses`] does.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn ports(&self) -> Result<Vec<ListenPort>, NetError> {
        let mut ports = self.ask(Command::Addresses).await.ok_or(NetError::Stopped)?.ports;
        ports.sort_by_key(|p| (p.ipv6, p.transport == TransportKind::Quic, p.port));
        ports.dedup();
        Ok(ports)
    }

    /// Connects to exactly this peer and exchanges hellos; a live connection that fits is reused.
    ///
    /// `addresses` are hints from anywhere, e.g. a ticket: what is not plain IP with TCP or QUIC is ignored,
    /// and only the owner of `peer`'s key can pass for it. What mDNS knows of the peer is tried too.
    /// Dials end with the returned future's answer, not when the future is dropped.
    ///
    /// # Errors
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        preference: TransportPreference,
        timeout: Duration,
    ) -> Result<Connected, ConnectError> {
        if peer == self.local {
            return Err(ConnectError::Myself { peer });
        }
        self.ask(|reply| Command::Connect { peer, addresses, preference, timeout, reply })
            .await
            .unwrap_or(Err(ConnectError::Stopped))
    }

    /// Who answers at an address of which no more is known: nobody, or a device with this key, which may be any. The
    /// connection stays for a moment, for [`Self::connect`].
    pub async fn who(&self, address: Multiaddr, preference: TransportPreference) -> Option<PeerId> {
        self.ask(|answer| Command::Who { address, preference, answer }).await
    }

    /// Sends a request to a connected peer and waits for the answer, at most 10 s from when it is sent.
    ///
    /// # Errors
    /// See [`RequestError`]. `Refused` is an answer, not an error.
    pub async fn request(&self, peer: PeerId, request: Request) -> Result<Response, RequestError> {
        self.ask(|reply| Command::Request { peer, request, reply }).await.unwrap_or(Err(RequestError::Stopped))
    }

    /// Opens a stream over an existing connection; never dials.
    ///
    /// Success means that the peer speaks the protocol. Whether somebody there takes the stream shows only
    /// when its first frame is answered.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_stream(&self, peer: PeerId) -> Result<OpenedStream, OpenError> {
        self.open(peer, Purpose::Session, None).await
    }

    /// As [`Self::open_stream`], to measure how fast bytes come from there (SPEC §5.12).
    ///
    /// # Errors
    /// See [`OpenError`]; `Unsupported` if the peer cannot be measured, or does not want to.
    pub async fn open_probe(&self, peer: PeerId) -> Result<OpenedStream, OpenError> {
        self.open(peer, Purpose::Probe, None).await
    }

    /// As [`Self::open_stream`], for one archive (SPEC §13).
    ///
    /// # Errors
    /// See [`OpenError`]; `Unsupported` if the peer has no v3.
    pub async fn open_archive(&self, peer: PeerId) -> Result<OpenedStream, OpenError> {
        self.open(peer, Purpose::Archive, None).await
    }

    /// As [`Self::open_stream`], over another connection than this one.
    ///
    /// # Errors
    /// See [`OpenError`]; `NotConnected` if there is no other.
    pub async fn open_stream_beside(&self, peer: PeerId, one: ConnectionId) -> Result<OpenedStream, OpenError> {
        self.open(peer, Purpose::Session, Some(one)).await
    }

    async fn open(
        &self,
        peer: PeerId,
        purpose: Purpose,
        beside: Option<ConnectionId>,
    ) -> Result<OpenedStream, OpenError> {
        match self.ask(|reply| Command::OpenStream { peer, purpose, beside, reply }).await {
            Some(result) => result,
            None if self.commands.is_closed() => Err(OpenError::Stopped),
            None => Err(OpenError::Lost { peer, detail: "the connection closed".to_owned() }),
        }
    }

    /// Gives a distant peer that we dialled over TCP a second connection, which new streams share; waits until it stands
    /// or has failed. Near peers, and those with two connections, stay as they are.
    pub async fn widen(&self, peer: PeerId) {
        // no answer: the node is stopping, or the dial was not even begun
        self.ask(|done| Command::Widen { peer, done }).await.unwrap_or_default();
    }

    /// Closes all connections to a peer and waits until they are gone, at most a second.
    pub async fn disconnect(&self, peer: PeerId) {
        // No answer means that the node is stopping, which disconnects as well.
        self.ask(|done| Command::Disconnect { peer, done }).await.unwrap_or_default();
    }

    /// The round trip to a connected peer: as its last ping found it, or waits for the first one, which begins with the
    /// connection. None once the peer is not connected.
    pub async fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        self.ask(|reply| Command::RoundTrip { peer, reply }).await
    }

    /// The peers that answered our hello, most recent first.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn peers(&self) -> Result<Vec<PeerView>, NetError> {
        self.ask(Command::Peers).await.ok_or(NetError::Stopped)
    }

    /// Greets the peers that mDNS finds, so that [`NetHandle::peers`] knows them, until what is returned is dropped.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn search(&self) -> Result<Search, NetError> {
        let (search, end) = oneshot::channel();
        self.commands.send(Command::Search(end)).await.map_err(|_| NetError::Stopped)?;
        Ok(Search(search))
    }

    /// Closes listeners and connections; returns within about a second. Other handles get `Stopped` from then on.
    pub async fn shutdown(self) {
        // No answer means that somebody else has stopped it.
        self.ask(Command::Shutdown).await.unwrap_or_default();
    }
}

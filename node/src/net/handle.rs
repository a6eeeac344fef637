//! What the rest of the node calls. Every method is cancel-safe: dropping its future gives up the answer, not the node.

use std::convert::Infallible;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::frame::PipeKey;
use me_sync_protocol::ids::Secret;
use me_sync_protocol::message::{Hello, Request, Response};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::pipe::{self, End, Identity, PipeError, PipeIo};
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
    Attach(Box<Attach>),
    Peers(oneshot::Sender<Vec<PeerView>>),
    Search(oneshot::Receiver<Infallible>),
    Shutdown(oneshot::Sender<()>),
}

/// A pipe whose other end is known.
pub(super) struct Attach {
    pub(super) peer: PeerId,
    pub(super) hello: Hello,
    pub(super) end: End,
    pub(super) io: Box<dyn PipeIo>,
    pub(super) reply: oneshot::Sender<Result<Closed, PipeError>>,
}

impl std::fmt::Debug for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attach").field("peer", &self.peer).field("end", &self.end).finish_non_exhaustive()
    }
}

/// Tells how a pipe ended.
pub(super) type Closed = oneshot::Receiver<Result<(), PipeError>>;

/// A pipe that is in use.
#[derive(Debug)]
pub struct AttachedPipe {
    peer: PeerId,
    closed: Closed,
}

impl AttachedPipe {
    /// Who is at the other end; authenticated.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Waits until the pipe is over, and says how it ended. The session may go on over another one.
    ///
    /// # Errors
    /// It broke, or the other side broke the protocol.
    pub async fn closed(self) -> Result<(), PipeError> {
        self.closed.await.unwrap_or(Err(PipeError::Stopped))
    }
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
    identity: Identity,
    commands: mpsc::Sender<Command>,
    offering: watch::Sender<bool>,
}

impl NetHandle {
    pub(super) fn new(identity: Identity, commands: mpsc::Sender<Command>, offering: watch::Sender<bool>) -> Self {
        Self { local: identity.keypair.public().to_peer_id(), identity, commands, offering }
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

    /// Takes a pipe to this exporter, for what `secret` opens (SPEC §5.13). From then on it is what connects this node to it.
    ///
    /// # Errors
    /// See [`PipeError`].
    pub(crate) async fn pipe_to(
        &self,
        exporter: PeerId,
        key: PipeKey,
        secret: &Secret,
        io: Box<dyn PipeIo>,
        in_noise: bool,
    ) -> Result<AttachedPipe, PipeError> {
        let (seen, mut io) = self.guarded(io, End::Importer, in_noise).await?;
        if seen.is_some_and(|seen| seen != exporter) {
            return Err(PipeError::NotProven);
        }
        let hello = pipe::ask(&mut (&mut io).compat(), &self.identity, exporter, key, secret).await?;
        self.attach(exporter, hello, End::Importer, io).await
    }

    /// Takes a pipe from whatever importer proves that it knows the secret of a ticket or session of this node.
    ///
    /// # Errors
    /// See [`PipeError`].
    pub(crate) async fn pipe_from(
        &self,
        secret_of: impl AsyncFnOnce(PipeKey) -> Option<Secret>,
        io: Box<dyn PipeIo>,
        in_noise: bool,
    ) -> Result<AttachedPipe, PipeError> {
        let (seen, mut io) = self.guarded(io, End::Exporter, in_noise).await?;
        let (importer, hello) = pipe::answer(&mut (&mut io).compat(), &self.identity, secret_of).await?;
        if seen.is_some_and(|seen| seen != importer) {
            return Err(PipeError::NotProven);
        }
        self.attach(importer, hello, End::Exporter, io).await
    }

    /// With `in_noise` what passes is encrypted from here on, and the device is known with which.
    async fn guarded(
        &self,
        io: Box<dyn PipeIo>,
        end: End,
        in_noise: bool,
    ) -> Result<(Option<PeerId>, Box<dyn PipeIo>), PipeError> {
        if !in_noise {
            return Ok((None, io));
        }
        let (seen, io) = pipe::in_noise(io, end, &self.identity).await?;
        Ok((Some(seen), io))
    }

    async fn attach(
        &self,
        peer: PeerId,
        hello: Hello,
        end: End,
        io: Box<dyn PipeIo>,
    ) -> Result<AttachedPipe, PipeError> {
        let attach = |reply| Command::Attach(Box::new(Attach { peer, hello, end, io, reply }));
        let closed = self.ask(attach).await.unwrap_or(Err(PipeError::Stopped))?;
        Ok(AttachedPipe { peer, closed })
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

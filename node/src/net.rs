//! The node's libp2p side: who is there, who may talk, and raw streams between peers.
//!
//! Owns the swarm, every dial and the limits on what a peer can make us hold. It knows requests and
//! streams, not sessions: what a ticket opens or a frame means is decided by whoever reads [`NetEvent`].
//! Refuses peers that do not say hello, addresses that are not plain IP, and dials nobody asked for.
//!
//! ```text
//!   NetHandle ── commands ──► Actor ◄──► Swarm (tcp+noise+yamux, quic, mdns, identify, ping)
//!   NetEvent  ◄── events ───── │  ▲         │
//!             ◄── inbound streams ─┼─────────┘  (straight from the connection's task)
//! ```
//!
//! A peer counts as connected once a hello was exchanged with it, in either direction.

mod actor;
mod address;
mod behaviour;
mod codec;
mod connect;
mod discovery;
mod error;
mod gate;
mod handle;
mod muxer;
mod pipe;
mod rate;
mod streams;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId, identity};
use me_sync_protocol::caps::{Capabilities, VERSION};
use me_sync_protocol::escape::cut;
use me_sync_protocol::limits::MAX_TEXT;
use me_sync_protocol::message::{Hello, Request, Response};
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::link::ByteStream;
pub use address::parse_addresses;
pub use error::{ConnectError, NetError, OpenError, RequestError};
pub use handle::{AttachedPipe, NetHandle, Search};
pub(crate) use pipe::PipeIo;
pub use pipe::{FramesIn, FramesOut, PipeError, frame_pipe};

/// Name of the request-response protocol (SPEC §6).
pub const REQUEST_PROTOCOL: &str = "/me-sync/4";
/// Name of the stream protocol (SPEC §5).
pub const STREAM_PROTOCOL: &str = "/me-sync/4/stream";
/// Name of the protocol that measures how fast bytes come (SPEC §5.12).
pub const PROBE_PROTOCOL: &str = "/me-sync/4/probe";

/// Name of the protocol of archives (SPEC §13).
pub const ARCHIVE_PROTOCOL: &str = "/me-sync/3";

/// Events waiting for the reader of the event channel, streams among them.
pub const EVENT_CAPACITY: usize = 64;
/// Commands waiting for the swarm.
pub const COMMAND_CAPACITY: usize = 64;

/// A local address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddr {
    /// Interface address; unspecified means all of that family.
    pub ip: IpAddr,
    /// TCP and UDP port; `None` lets the system choose.
    pub port: Option<u16>,
}

/// A port that an earlier run listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenPort {
    /// IPv6, not IPv4.
    pub ipv6: bool,
    /// Its transport.
    pub transport: TransportKind,
    /// The port.
    pub port: u16,
}

/// Which transports are listened on and dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    /// TCP with Noise and yamux.
    pub tcp: bool,
    /// QUIC v1.
    pub quic: bool,
    /// WebSocket over TCP, with Noise: for ways that let only HTTP through. Without it, it is still dialled where TCP is.
    pub ws: bool,
}

impl Default for Transports {
    fn default() -> Self {
        Self { tcp: true, quic: true, ws: false }
    }
}

/// How a node takes part in the network.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The node's identity; its public half is the `PeerId`.
    pub keypair: identity::Keypair,
    /// Where to listen. An address family this machine lacks is skipped as long as one listener works.
    pub listen: Vec<ListenAddr>,
    /// Where an earlier run listened: its ports are taken again, if they are free, where `listen` names none, so
    /// that the addresses in its tickets are good after a restart.
    pub remembered: Vec<ListenPort>,
    /// Transports in use.
    pub transports: Transports,
    /// Announce and find peers on the local network. Off: only given addresses are known.
    pub mdns: bool,
    /// Peers may measure how fast they are sent to. Off: the protocol for it is not spoken.
    pub probe: bool,
    /// Program and version, e.g. `me-sync/0.1.0`. Everybody can read it: no host or user names.
    pub agent: String,
    /// What the owner calls this device. Sent only in a hello.
    pub device_name: String,
    /// Most lanes per session, 0 to 4.
    pub max_lanes: u8,
    /// Largest `file_chunk` body we take, in bytes.
    pub max_chunk: u32,
}

impl NetConfig {
    /// All interfaces, random ports, both transports, mDNS on, four lanes.
    pub fn new(keypair: identity::Keypair, device_name: impl Into<String>) -> Self {
        let any = |ip| ListenAddr { ip, port: None };
        Self {
            keypair,
            listen: vec![any(Ipv4Addr::UNSPECIFIED.into()), any(Ipv6Addr::UNSPECIFIED.into())],
            remembered: Vec::new(),
            transports: Transports::default(),
            mdns: true,
            probe: true,
            agent: concat!("me-sync/", env!("CARGO_PKG_VERSION")).to_owned(),
            device_name: device_name.into(),
            max_lanes: me_sync_protocol::limits::MAX_LANES,
            max_chunk: me_sync_protocol::limits::DEFAULT_CHUNK as u32,
        }
    }
}

/// Which transport a connection must use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TransportPreference {
    /// TCP first, QUIC after a short head start.
    #[default]
    Auto,
    /// TCP or nothing.
    Tcp,
    /// QUIC or nothing.
    Quic,
    /// WebSocket or nothing.
    Ws,
}

impl TransportPreference {
    fn allows(self, kind: TransportKind) -> bool {
        match self {
            Self::Auto => true,
            Self::Tcp => kind == TransportKind::Tcp,
            Self::Quic => kind == TransportKind::Quic,
            Self::Ws => kind == TransportKind::Ws,
        }
    }
}

/// The transport a connection uses; the sooner it is dialled, the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportKind {
    /// TCP with Noise and yamux.
    Tcp,
    /// QUIC v1.
    Quic,
    /// WebSocket over TCP, with Noise and yamux inside.
    Ws,
}

impl TransportKind {
    /// `tcp`, `quic` or `ws`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Ws => "ws",
        }
    }
}

impl std::fmt::Display for TransportKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What connects two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// The network.
    Network(TransportKind),
    /// A pipe that was attached (SPEC §5.13).
    Pipe,
}

impl From<TransportKind> for Carrier {
    fn from(kind: TransportKind) -> Self {
        Self::Network(kind)
    }
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(kind) => kind.fmt(f),
            Self::Pipe => f.write_str("pipe"),
        }
    }
}

/// A peer that can be talked to.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The peer's end of the connection; empty on a pipe.
    pub address: Multiaddr,
    /// What carries it.
    pub transport: Carrier,
    /// What the peer says about itself; its version and capabilities fit ours.
    pub hello: Hello,
}

/// A peer that answered our hello.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Who it is.
    pub peer_id: PeerId,
    /// The name it gives itself: escape before printing.
    pub device_name: String,
    /// Its program and version: escape before printing.
    pub agent: String,
    /// Where it was reached or announced itself.
    pub addresses: Vec<Multiaddr>,
    /// Time since it last gave a sign of life.
    pub last_seen_ago: Duration,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
}

/// What happens on the network.
#[derive(Debug)]
pub enum NetEvent {
    /// A peer that said hello wants something: anything but `Hello`.
    Request {
        /// Who asks; authenticated.
        peer: PeerId,
        /// What it says about itself and where it is, if its hello is here already.
        from: Option<Connected>,
        /// What.
        request: Request,
        /// Takes the answer.
        reply: Reply,
    },
    /// A peer opened a stream. It may come before [`NetEvent::PeerConnected`].
    InboundStream(InboundStream),
    /// A peer opened a stream of [`PROBE_PROTOCOL`]. It may come before [`NetEvent::PeerConnected`].
    Probe(InboundStream),
    /// A peer opened a stream of [`ARCHIVE_PROTOCOL`]. It may come before [`NetEvent::PeerConnected`].
    Archive(InboundStream),
    /// A hello was exchanged with this peer.
    PeerConnected(PeerId),
    /// Its last connection is gone.
    PeerDisconnected(PeerId),
}

/// A stream that a peer opened; nothing was read from it yet.
#[derive(Debug)]
pub struct InboundStream {
    /// Who opened it; authenticated.
    pub peer: PeerId,
    /// The raw stream.
    pub stream: ByteStream,
}

/// A stream that we opened.
#[derive(Debug)]
pub struct OpenedStream {
    /// The raw stream.
    pub stream: ByteStream,
    /// Which of the peer's connections carries it; none on a pipe.
    pub connection: Option<libp2p::swarm::ConnectionId>,
}

/// Answers one request. Dropped without an answer, the peer is told `busy`.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Response>);

impl Reply {
    /// Sends the answer. A peer that is gone by now never learns it.
    pub fn send(self, response: Response) {
        if self.0.send(response).is_err() {
            tracing::debug!("the peer left before its answer");
        }
    }
}

/// Starts listening and the task that drives the swarm. Needs a tokio runtime.
///
/// The task ends with [`NetHandle::shutdown`] or when the last handle is dropped.
///
/// # Errors
/// No listener could be opened, or no transport is enabled.
#[expect(clippy::unused_async, reason = "must run inside a runtime, and says so by its type")]
pub async fn spawn(config: NetConfig) -> Result<(NetHandle, mpsc::Receiver<NetEvent>), NetError> {
    start(config, actor::HELLO_TIMEOUT)
}

fn start(config: NetConfig, hello_timeout: Duration) -> Result<(NetHandle, mpsc::Receiver<NetEvent>), NetError> {
    let (events, received) = mpsc::channel(EVENT_CAPACITY);
    let (commands, queue) = mpsc::channel(COMMAND_CAPACITY);
    let hello = Hello {
        agent: cut(&config.agent, MAX_TEXT).to_owned(),
        device_name: cut(&config.device_name, MAX_TEXT).to_owned(),
        versions: vec![VERSION],
        caps: Capabilities::ours(),
        max_lanes: config.max_lanes,
        max_chunk: config.max_chunk,
    };
    let identity = pipe::Identity { keypair: Arc::new(config.keypair.clone()), hello: Arc::new(hello.clone()) };
    let (offering, offers) = watch::channel(false);
    let actor = actor::Actor::new(config, hello, hello_timeout, queue, offers, events)?;
    tokio::spawn(actor.run());
    Ok((NetHandle::new(identity, commands, offering), received))
}

#[cfg(test)]
mod tests;

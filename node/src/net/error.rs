//! What can go wrong between nodes, with the stable code of each case and what to do next.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::reason::Code;

/// The network side cannot start or is gone.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Neither TCP nor QUIC is enabled, or no listen address is given.
    #[error("nothing to listen on: enable TCP or QUIC and name at least one address")]
    NothingToListenOn,
    /// No address could be opened; this is the first that failed.
    #[error("cannot listen on {address}: is the port in use, or the address not of this machine?")]
    Listen {
        /// The address that failed.
        address: Multiaddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The encryption or transport layer did not start.
    #[error("cannot set up the transports: {0}")]
    Transport(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl NetError {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NothingToListenOn | Self::Listen { .. } | Self::Transport(_) => Code::IoError,
            Self::Stopped => Code::NodeStopping,
        }
    }
}

/// No usable connection to a peer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The peer has our own identity.
    #[error("{peer} is this node itself: both ends use the same state directory, give one of them another --state-dir")]
    Myself {
        /// Our own id.
        peer: PeerId,
    },
    /// No address of it is known.
    #[error(
        "no address of {peer} is known: is me-sync running there, in the same network, and not blocked by a firewall?"
    )]
    NoAddress {
        /// Who was looked for.
        peer: PeerId,
    },
    /// Addresses are known, nobody answered there.
    #[error(
        "{peer} did not answer at {tried} address(es), last: {last}; is me-sync still running there, and does a \
         firewall let it through?"
    )]
    NotFound {
        /// Who was looked for.
        peer: PeerId,
        /// How many addresses were dialled.
        tried: usize,
        /// How the last of them failed.
        last: String,
    },
    /// Somebody else answered, and nobody else did.
    #[error("{found} answered at {address} instead of {peer}: get a fresh ticket from the other device")]
    WrongPeer {
        /// Who was looked for.
        peer: PeerId,
        /// Who answered.
        found: PeerId,
        /// Where.
        address: Multiaddr,
    },
    /// Connected, but the hello was not answered.
    #[error("{peer} took the connection but said nothing for {waited:?}: restart me-sync there and try again")]
    Timeout {
        /// Who was connected.
        peer: PeerId,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The peer does not speak our protocol.
    #[error("{peer} does not speak me-sync protocol 4 ({code}): install the same me-sync version on both devices")]
    Version {
        /// Who.
        peer: PeerId,
        /// The code it gave, or `version_mismatch`.
        code: Code,
    },
    /// The peer is there and has no room.
    #[error("{peer} refuses the connection for now ({code}): try again in a minute")]
    Refused {
        /// Who.
        peer: PeerId,
        /// The code it gave.
        code: Code,
    },
    /// Too much is being connected at once on this node.
    #[error("this node is connecting to too many peers at once: try again in a minute")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl ConnectError {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Myself { .. } | Self::WrongPeer { .. } => Code::PeerMismatch,
            Self::NoAddress { .. } | Self::NotFound { .. } => Code::PeerNotFound,
            Self::Timeout { .. } => Code::Timeout,
            Self::Version { .. } => Code::VersionMismatch,
            Self::Refused { code, .. } => *code,
            Self::Busy => Code::Busy,
            Self::Stopped => Code::NodeStopping,
        }
    }
}

/// A request without an answer. Whether the peer acted on it is not known, except for `NotConnected` and `Busy`.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no connection with a hello to this peer.
    #[error("not connected to {peer}: connect first")]
    NotConnected {
        /// Who.
        peer: PeerId,
    },
    /// Too many requests to this peer are waiting.
    #[error("too many requests to {peer} are waiting")]
    Busy {
        /// Who.
        peer: PeerId,
    },
    /// No answer in time.
    #[error("{peer} did not answer in time")]
    Timeout {
        /// Who.
        peer: PeerId,
    },
    /// The connection was lost, or the answer is no message.
    #[error("the request to {peer} failed: {detail}")]
    Lost {
        /// Who.
        peer: PeerId,
        /// How.
        detail: String,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl RequestError {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotConnected { .. } | Self::Lost { .. } => Code::PeerGone,
            Self::Busy { .. } => Code::Busy,
            Self::Timeout { .. } => Code::Timeout,
            Self::Stopped => Code::NodeStopping,
        }
    }
}

/// A stream that was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection with a hello to this peer.
    #[error("not connected to {peer}: connect first")]
    NotConnected {
        /// Who.
        peer: PeerId,
    },
    /// The peer does not speak the protocol.
    #[error("{peer} does not speak what the stream is for")]
    Unsupported {
        /// Who.
        peer: PeerId,
    },
    /// No answer in time.
    #[error("{peer} did not take the stream in time")]
    Timeout {
        /// Who.
        peer: PeerId,
    },
    /// The connection was lost meanwhile.
    #[error("the connection to {peer} was lost while opening a stream: {detail}")]
    Lost {
        /// Who.
        peer: PeerId,
        /// How.
        detail: String,
    },
    /// Too many streams to this peer are being opened.
    #[error("too many streams to {peer} are being opened")]
    Busy {
        /// Who.
        peer: PeerId,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl OpenError {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotConnected { .. } | Self::Lost { .. } => Code::PeerGone,
            Self::Unsupported { .. } => Code::VersionMismatch,
            Self::Timeout { .. } => Code::Timeout,
            Self::Busy { .. } => Code::Busy,
            Self::Stopped => Code::NodeStopping,
        }
    }
}

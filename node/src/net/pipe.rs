//! Pipes (SPEC §5.13): a whole conversation over one reliable, ordered stream of bytes that is not libp2p's.
//!
//! To everything above, a pipe looks like a connection to its peer: requests go out and come in, and there are two streams,
//! the control stream and one lane. On the pipe all of it is one sequence of whole frames.
//!
//! ```text
//!   requests ─► answers ─┐                          ┌─► NetEvent::Request
//!   control stream ─────►│ outbox ─► pipe ─► Inbox ─┼─► control stream
//!   lane ───────────────►┘                          └─► lane
//! ```

mod frames;
mod handshake;
mod inbound;
mod outbound;
mod run;

use libp2p::PeerId;
use me_sync_protocol::message::{Hello, Request, Response};
use me_sync_protocol::reason::Code;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::frames::{FramesIn, FramesOut, frame_pipe};
pub(super) use self::handshake::nowhere;
pub(super) use self::handshake::{Identity, answer, ask, in_noise};
pub(crate) use self::run::PipeIo;
pub(super) use self::run::start;

use super::streams::Opener;
use super::{OpenError, RequestError};

/// Why a pipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// It broke, or the other side closed it.
    #[error("the pipe broke")]
    Broken(#[from] std::io::Error),
    /// The other side sent something that has no place there.
    #[error("the other side breaks the protocol ({0})")]
    Violation(Code),
    /// The other side does not know the secret of the ticket or session, or is not the device that it says it is.
    #[error("the other side of the pipe is not the right device, or the ticket is not good there")]
    NotProven,
    /// The other side speaks another version.
    #[error("the other side speaks another version of the protocol")]
    Version,
    /// No answer.
    #[error("the other side of the pipe does not answer")]
    Silent,
    /// There is no session or device of that name here.
    #[error("no such session is on record here")]
    Unknown,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl PipeError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Broken(_) => Code::PeerGone,
            Self::Violation(code) => *code,
            Self::NotProven => Code::TicketInvalid,
            Self::Version => Code::VersionMismatch,
            Self::Silent => Code::Timeout,
            Self::Unknown => Code::SessionUnknown,
            Self::Stopped => Code::NodeStopping,
        }
    }
}

/// What happens at the other side of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// We import: we ask, and the exporter opens the lane.
    Importer,
    /// We export.
    Exporter,
}

/// Requests of ours under way or waiting, at most.
const MAX_REQUESTS: usize = 4;
/// Streams being opened, at most.
const MAX_OPENING: usize = 2;

type Reporter = oneshot::Sender<Result<Response, RequestError>>;

/// A pipe as the swarm's task knows it. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Pipe {
    peer: PeerId,
    hello: Hello,
    requests: mpsc::Sender<(Request, Reporter)>,
    streams: mpsc::Sender<Opener>,
    _stop: DropGuard,
}

/// What the task of a pipe works with.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) requests: mpsc::Receiver<(Request, Reporter)>,
    pub(super) streams: mpsc::Receiver<Opener>,
    pub(super) stop: CancellationToken,
}

impl Pipe {
    pub(super) fn new(peer: PeerId, hello: Hello) -> (Self, Ends) {
        let (requests, asked) = mpsc::channel(MAX_REQUESTS);
        let (streams, opening) = mpsc::channel(MAX_OPENING);
        let stop = CancellationToken::new();
        let ends = Ends { requests: asked, streams: opening, stop: stop.clone() };
        (Self { peer, hello, requests, streams, _stop: stop.drop_guard() }, ends)
    }

    /// What the peer says about itself, while the pipe stands.
    pub(super) fn hello(&self) -> Option<&Hello> {
        Some(&self.hello).filter(|_| !self.requests.is_closed())
    }

    pub(super) fn request(&self, request: Request, reply: Reporter) {
        use mpsc::error::TrySendError;
        let peer = self.peer;
        let (refusal, reply) = match self.requests.try_send((request, reply)) {
            Ok(()) => return,
            Err(TrySendError::Full((_, reply))) => (RequestError::Busy { peer }, reply),
            Err(TrySendError::Closed((_, reply))) => (RequestError::NotConnected { peer }, reply),
        };
        reply.send(Err(refusal)).ok(); // Err: nobody waits any more
    }

    pub(super) fn open(&self, opener: Opener) {
        use mpsc::error::TrySendError;
        let peer = self.peer;
        let (refusal, opener) = match self.streams.try_send(opener) {
            Ok(()) => return,
            Err(TrySendError::Full(opener)) => (OpenError::Busy { peer }, opener),
            Err(TrySendError::Closed(opener)) => (OpenError::NotConnected { peer }, opener),
        };
        opener.send(Err(refusal)).ok(); // Err: nobody waits any more
    }
}

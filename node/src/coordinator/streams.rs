//! Opening and greeting streams (SPEC §5.3): the opener's first frame names session and role, the acceptor acks.

use std::collections::HashMap;
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use me_sync_protocol::frame::{Ack, Frame, StreamHello};
use me_sync_protocol::limits::ACK_TIMEOUT;
use me_sync_protocol::reason::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::Event;
use crate::link::{self, ByteStream, FrameWriter};
use crate::net::{InboundStream, NetHandle, OpenError, OpenedStream};

/// Streams of one peer that may be in their greeting at once; a session opens nine, not all at once. Peers are bounded by their
/// connections, so there is no common limit that one of them could use up for the others.
const MAX_GREETINGS: usize = 8;
/// Tries to open a stream: the acceptor drops streams silently while it is crowded.
const TRIES: u32 = 3;

/// A stream whose opener said what it is for.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) peer: PeerId,
    pub(super) hello: StreamHello,
    pub(super) stream: ByteStream,
}

/// So many places of its own for every peer.
#[derive(Debug)]
pub(super) struct Slots {
    each: usize,
    taken: HashMap<PeerId, Arc<Semaphore>>,
}

impl Slots {
    pub(super) fn new(each: usize) -> Self {
        Self { each, taken: HashMap::new() }
    }

    /// One of this peer's, if it has not taken all of them.
    pub(super) fn take(&mut self, peer: PeerId) -> Option<OwnedSemaphorePermit> {
        // whoever has taken none needs no entry
        self.taken.retain(|other, slots| *other == peer || slots.available_permits() < self.each);
        let slots = self.taken.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.each)));
        slots.clone().try_acquire_owned().ok()
    }
}

/// Which peers have streams that have not said yet what they are for.
#[derive(Debug)]
pub(super) struct Greetings(Slots);

impl Default for Greetings {
    fn default() -> Self {
        Self(Slots::new(MAX_GREETINGS))
    }
}

impl Greetings {
    /// Reads the greeting in a task of its own; a stream too many is dropped, its opener tries again.
    pub(super) fn greet(&mut self, inbound: InboundStream, events: mpsc::Sender<Event>) {
        let Some(permit) = self.0.take(inbound.peer) else {
            tracing::debug!(peer = %inbound.peer, "too many streams at once; one is dropped");
            return;
        };
        tokio::spawn(read_greeting(inbound, permit, events));
    }
}

async fn read_greeting(inbound: InboundStream, permit: OwnedSemaphorePermit, events: mpsc::Sender<Event>) {
    let InboundStream { peer, mut stream } = inbound;
    let first = timeout(ACK_TIMEOUT, link::read_one(&mut stream)).await;
    drop(permit);
    match first {
        Ok(Ok(Frame::Hello(hello))) => {
            events.send(Event::Inbound(Greeted { peer, hello, stream })).await.ok();
        }
        _ => tracing::debug!(%peer, "a stream did not start with a greeting"),
    }
}

/// Takes the stream. A peer that does not take the answer in time has lost it.
pub(super) async fn accept(stream: &mut ByteStream) -> std::io::Result<()> {
    let mut writer = FrameWriter::new(stream);
    let answer = Frame::Ack(Ack { refused: None });
    timeout(ACK_TIMEOUT, writer.send(&answer)).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Refuses the stream by name, in a task of its own.
pub(super) fn refuse(mut stream: ByteStream, code: Code) {
    tokio::spawn(async move {
        let mut writer = FrameWriter::new(&mut stream);
        let ack = Frame::Ack(Ack { refused: Some(code) });
        // the peer may be gone; it gets no second chance to hear it
        timeout(ACK_TIMEOUT, async { writer.send(&ack).await.and(writer.close().await) }).await.ok();
    });
}

/// Opens a stream to a connected peer and has it acknowledged.
pub(super) async fn open(net: &NetHandle, peer: PeerId, hello: StreamHello) -> Result<OpenedStream, Code> {
    let mut last = Code::PeerGone;
    for _ in 0..TRIES {
        match timeout(ACK_TIMEOUT, greet(net.open_stream(peer), hello)).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(Opening::Refused(code))) => return Err(code),
            Ok(Err(Opening::Failed(code))) => last = code,
            Err(_) => last = Code::Timeout,
        }
    }
    Err(last)
}

enum Opening {
    /// The peer said no.
    Refused(Code),
    /// Worth another try.
    Failed(Code),
}

/// As [`open`], over another connection than `one`; a single try, as nothing depends on it.
pub(super) async fn open_beside(
    net: &NetHandle,
    peer: PeerId,
    one: ConnectionId,
    hello: StreamHello,
) -> Option<ByteStream> {
    let opening = greet(net.open_stream_beside(peer, one), hello);
    Some(timeout(ACK_TIMEOUT, opening).await.ok()?.ok()?.stream)
}

async fn greet(
    opening: impl Future<Output = Result<OpenedStream, OpenError>>,
    hello: StreamHello,
) -> Result<OpenedStream, Opening> {
    let mut opened = opening.await.map_err(|e| Opening::Failed(e.code()))?;
    let gone = |_| Opening::Failed(Code::PeerGone);
    FrameWriter::new(&mut opened.stream).send(&Frame::Hello(hello)).await.map_err(gone)?;
    match link::read_one(&mut opened.stream).await {
        Ok(Frame::Ack(Ack { refused: None })) => Ok(opened),
        Ok(Frame::Ack(Ack { refused: Some(code) })) => Err(Opening::Refused(code)),
        Ok(_) => Err(Opening::Refused(Code::FrameUnexpected)),
        Err(_) => Err(Opening::Failed(Code::PeerGone)),
    }
}

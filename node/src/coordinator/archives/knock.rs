//! A stream that a peer opened for an archive, until it has said which.

use libp2p::PeerId;
use me_sync_protocol::archive::message::Item;
use me_sync_protocol::archive::{Hello, Message};
use me_sync_protocol::limits::ACK_TIMEOUT;
use me_sync_protocol::reason::Code;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::archive::wire::Wire;
use crate::coordinator::Event;
use crate::coordinator::streams::Slots;
use crate::net::InboundStream;

/// Streams of one peer that may be in their greeting, or being refused, at once; more are dropped.
const MAX_KNOCKS: usize = 4;

/// An importer that has said what it comes for.
#[derive(Debug)]
pub(in crate::coordinator) struct Knock {
    pub(in crate::coordinator) peer: PeerId,
    pub(in crate::coordinator) hello: Hello,
    pub(super) wire: Wire,
    slot: OwnedSemaphorePermit,
}

impl Knock {
    /// Tells it that it does not come in, in a task of its own.
    pub(super) fn refuse(self, code: Code) {
        tokio::spawn(async move {
            self.wire.write.end(Message::Over(code)).await;
            drop(self.slot);
        });
    }

    /// It is in: others of its kind may knock.
    pub(super) fn come_in(self) -> (Hello, Wire) {
        (self.hello, self.wire)
    }
}

/// Who is at the door.
#[derive(Debug)]
pub(in crate::coordinator) struct Knocks(Slots);

impl Default for Knocks {
    fn default() -> Self {
        Self(Slots::new(MAX_KNOCKS))
    }
}

impl Knocks {
    /// Reads what a stream is for, in a task of its own.
    pub(in crate::coordinator) fn read(&mut self, inbound: InboundStream, events: mpsc::Sender<Event>) {
        let InboundStream { peer, stream } = inbound;
        let Some(slot) = self.0.take(peer) else {
            tracing::debug!(%peer, "too many streams for archives at once; one is dropped");
            return;
        };
        tokio::spawn(async move {
            let mut wire = Wire::new(stream);
            let first = match timeout(ACK_TIMEOUT, wire.read.next()).await {
                Ok(Ok(Item::Message(message))) => Some(*message),
                Ok(Ok(Item::Piece(_)) | Err(_)) | Err(_) => None,
            };
            let Some(Message::Hello(hello)) = first else {
                return tracing::debug!(%peer, "a stream for an archive did not start with a hello");
            };
            // a coordinator that is gone opens for nobody
            events.send(Event::Knocked(Box::new(Knock { peer, hello, wire, slot }))).await.ok();
        });
    }
}

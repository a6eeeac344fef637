//! Who is served noise to measure with (SPEC §5.12): anybody, but one at a time, seldom, and never beside a transfer. Whoever
//! has not said yet what it wants stands in nobody's way: it waits in a place of its own.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use me_sync_protocol::frame::Probe;
use me_sync_protocol::limits::PROBE_PAUSE;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::streams::Slots;
use super::{Coordinator, Event};
use crate::limit::{Limiter, Throttle};
use crate::link::ByteStream;
use crate::net::InboundStream;
use crate::probe;

/// Probes of one peer that may be under way at once, those among them that are read or refused; more are dropped. Peers are
/// bounded by their connections.
const MAX_PROBES: usize = 4;

/// A probe whose request is whole.
#[derive(Debug)]
pub(super) struct Asked {
    peer: PeerId,
    probe: Probe,
    stream: ByteStream,
    /// Of this peer, until the stream is let go.
    slot: OwnedSemaphorePermit,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Probes {
    slots: Slots,
    running: Arc<Semaphore>,
    last: Option<Instant>,
}

impl Default for Probes {
    fn default() -> Self {
        Self { slots: Slots::new(MAX_PROBES), running: Arc::new(Semaphore::new(1)), last: None }
    }
}

impl Probes {
    /// Reads what is asked for, in a task of its own.
    pub(super) fn read(&mut self, inbound: InboundStream, events: mpsc::Sender<Event>) {
        let InboundStream { peer, mut stream } = inbound;
        let Some(slot) = self.slots.take(peer) else {
            tracing::debug!(%peer, "too many probes at once; one is dropped");
            return;
        };
        tokio::spawn(async move {
            match probe::asked(&mut stream).await {
                Some(probe) => {
                    events.send(Event::Asked(Asked { peer, probe, stream, slot })).await.ok();
                }
                None => tracing::debug!(%peer, "a probe did not start with what is asked for"),
            }
        });
    }

    /// The place of the one that is served, if it may be another one's turn.
    fn admit(&mut self, now: Instant) -> Option<OwnedSemaphorePermit> {
        let since = self.last.map_or(Duration::MAX, |last| now.duration_since(last));
        let place = self.running.clone().try_acquire_owned().ok().filter(|_| since >= PROBE_PAUSE)?;
        self.last = Some(now);
        Some(place)
    }
}

impl Coordinator {
    /// Serves a probe or refuses it, in a task of its own.
    pub(super) fn probed(&mut self, asked: Asked) {
        let Asked { peer, probe, mut stream, slot } = asked;
        let moves = |phase| matches!(phase, Phase::BulkTransferring | Phase::RetryingFailed);
        let is_transferring = self.jobs.values().any(|job| moves(job.view().borrow().phase));
        let place = if is_transferring { None } else { self.probes.admit(Instant::now()) };
        let throttle = Throttle::new(Limiter::default(), self.shared.limit.clone());
        tokio::spawn(async move {
            match place {
                Some(place) => {
                    tracing::info!(%peer, "a device measures how fast this one sends");
                    probe::serve(&mut stream, probe, &throttle).await;
                    // the end of the stream keeps nobody else waiting
                    drop(place);
                }
                None => probe::refuse(&mut stream, Code::Busy).await,
            }
            probe::close(stream).await;
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §5.12
    #[test]
    fn one_probe_is_served_at_a_time_and_ten_seconds_lie_between_two() {
        let (mut probes, now) = (Probes::default(), Instant::now());
        let first = probes.admit(now).expect("the first");
        assert!(probes.admit(now + PROBE_PAUSE).is_none(), "while the first goes on");
        drop(first);
        assert!(probes.admit(now + PROBE_PAUSE - Duration::from_millis(1)).is_none());
        let second = probes.admit(now + PROBE_PAUSE);
        assert!(second.is_some());
        drop(second);
        assert!(probes.admit(now + PROBE_PAUSE).is_none(), "it counts from the second on");
    }
}

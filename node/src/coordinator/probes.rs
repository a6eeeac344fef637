//! Who is served noise to measure with (SPEC §5.12): anybody, but one at a time, seldom, and never beside a transfer.

use std::sync::Arc;
use std::time::Duration;

use me_sync_protocol::limits::PROBE_PAUSE;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Coordinator;
use crate::limit::{Limiter, Throttle};
use crate::net::InboundStream;
use crate::probe;

/// Probes that are being refused by name at once; more are dropped.
const REFUSALS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Probes {
    running: Arc<Semaphore>,
    refusing: Arc<Semaphore>,
    last: Option<Instant>,
}

impl Default for Probes {
    fn default() -> Self {
        Self { running: Arc::new(Semaphore::new(1)), refusing: Arc::new(Semaphore::new(REFUSALS)), last: None }
    }
}

impl Probes {
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
    pub(super) fn probed(&mut self, inbound: InboundStream) {
        let InboundStream { peer, stream } = inbound;
        let moves = |phase| matches!(phase, Phase::BulkTransferring | Phase::RetryingFailed);
        let is_transferring = self.jobs.values().any(|job| moves(job.view().borrow().phase));
        let place = if is_transferring { None } else { self.probes.admit(Instant::now()) };
        if let Some(place) = place {
            tracing::info!(%peer, "a device measures how fast this one sends");
            let throttle = Throttle::new(Limiter::default(), self.shared.limit.clone());
            tokio::spawn(async move {
                probe::serve(stream, &throttle).await;
                drop(place);
            });
            return;
        }
        let Ok(place) = self.probes.refusing.clone().try_acquire_owned() else {
            tracing::debug!(%peer, "too many probes at once; one is dropped");
            return;
        };
        tokio::spawn(async move {
            probe::refuse(stream, Code::Busy).await;
            drop(place);
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

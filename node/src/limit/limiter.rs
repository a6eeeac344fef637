//! One limit shared by many lanes, changed at any time, and the two that a lane goes by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::Rate;
use super::bucket::Bucket;

/// What moves at once: so many pieces a second, within these bounds.
const PIECES: u64 = 50;
const SMALLEST: u64 = 16 << 10;
const LARGEST: u64 = 256 << 10;

/// A limit, or none. Clones are the same limit.
#[derive(Debug, Clone)]
pub(crate) struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rate: watch::Sender<Option<Rate>>,
    /// Held by the one whose turn it is, while it waits; the lock hands on in the order of the callers, so that no lane
    /// and no session is passed over.
    bucket: Mutex<Bucket>,
    start: Instant,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Limiter {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        let (rate, bucket, start) = (watch::Sender::new(rate), Mutex::default(), Instant::now());
        Self(Arc::new(Inner { rate, bucket, start }))
    }

    /// Counts at once, for those that wait too.
    pub(crate) fn set(&self, rate: Option<Rate>) {
        self.0.rate.send_if_modified(|now| std::mem::replace(now, rate) != rate);
    }

    pub(crate) fn rate(&self) -> Option<Rate> {
        *self.0.rate.borrow()
    }

    #[cfg(test)]
    pub(super) fn changes(&self) -> watch::Receiver<Option<Rate>> {
        self.0.rate.subscribe()
    }

    /// Waits until so many bytes may move. Cancelled, it takes none.
    async fn pass(&self, bytes: u64) {
        if self.rate().is_none() {
            return;
        }
        let mut changes = self.0.rate.subscribe();
        let mut bucket = self.0.bucket.lock().await;
        loop {
            let Some(rate) = *changes.borrow_and_update() else { return };
            let Err(wait) = bucket.take(self.0.start.elapsed(), rate, bytes) else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // the sender is ours, so this is a change
                _ = changes.changed() => {}
            }
        }
    }
}

/// What the lanes of one session go by: its own limit and that of its node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Throttle {
    session: Limiter,
    node: Limiter,
    /// Lanes that wait for a limit right now.
    waiting: Arc<AtomicU32>,
}

impl Throttle {
    pub(crate) fn new(session: Limiter, node: Limiter) -> Self {
        Self { session, node, waiting: Arc::default() }
    }

    /// The lower of the two limits.
    pub(crate) fn rate(&self) -> Option<Rate> {
        [self.session.rate(), self.node.rate()].into_iter().flatten().min()
    }

    /// How much may move at once.
    pub(crate) fn piece(&self) -> usize {
        let Some(rate) = self.rate() else { return usize::MAX };
        let piece = (rate.bytes_per_second() / PIECES).clamp(SMALLEST, LARGEST);
        usize::try_from(piece).unwrap_or(usize::MAX)
    }

    /// Does a limit hold a lane back right now?
    pub(crate) fn holds_back(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until so many bytes may move. A wait that is cancelled may have taken them from one of the two limits.
    pub(crate) async fn pass(&self, bytes: usize) {
        if bytes == 0 || self.rate().is_none() {
            return;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let _waiting = Waiting::new(&self.waiting);
        self.session.pass(bytes).await;
        self.node.pass(bytes).await;
    }
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    fn rate(text: &str) -> Option<Rate> {
        Some(text.parse().unwrap())
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits_and_pieces_have_no_end() {
        let throttle = Throttle::default();
        assert_eq!(throttle.piece(), usize::MAX);
        for _ in 0..100 {
            assert!(throttle.pass(1 << 30).now_or_never().is_some());
        }
    }

    #[test]
    fn the_lower_limit_counts_and_a_piece_is_small_beside_it() {
        let (session, node) = (Limiter::new(rate("20M")), Limiter::default());
        let throttle = Throttle::new(session.clone(), node.clone());
        assert_eq!((throttle.rate(), throttle.piece()), (rate("20M"), 256 << 10));
        node.set(rate("5M"));
        assert_eq!((throttle.rate(), throttle.piece()), (rate("5M"), 100_000));
        session.set(rate("64K"));
        assert_eq!((throttle.rate(), throttle.piece()), (rate("64K"), 16 << 10));
    }

    #[tokio::test]
    async fn who_waits_for_a_limit_goes_on_when_it_is_lifted() {
        let limiter = Limiter::new(rate("64K"));
        let throttle = Throttle::new(Limiter::default(), limiter.clone());
        // an hour's worth, taken at once; whoever comes next pays for it
        throttle.pass(230_000_000).await;
        let mut next = [Box::pin(throttle.pass(1)), Box::pin(throttle.pass(1))];
        assert!(next.iter_mut().all(|next| next.now_or_never().is_none()));
        assert!(throttle.holds_back());
        limiter.set(None);
        for next in next {
            tokio::time::timeout(Duration::from_secs(30), next).await.expect("it goes on");
        }
        assert!(!throttle.holds_back());
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_takes_nothing_and_holds_nobody_up() {
        let limiter = Limiter::new(rate("64K"));
        let throttle = Throttle::new(limiter, Limiter::default());
        throttle.pass(64_000).await;
        for _ in 0..100 {
            assert!(throttle.pass(64_000).now_or_never().is_none());
        }
        assert!(!throttle.holds_back());
        let next = tokio::time::timeout(Duration::from_secs(30), throttle.pass(1));
        assert!(next.await.is_ok(), "it waits for one second's worth only");
    }
}

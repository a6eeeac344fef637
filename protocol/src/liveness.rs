//! Who is still there, and whether bytes still move (SPEC §8.2). Time is an argument.

use crate::ids::Moment;
use crate::limits::{KEEPALIVE, MIN_RATE, MIN_RATE_WINDOW, STALL};

/// What a file counts in [`Liveness::moved`] when it is through, whatever its size.
const FILE: u64 = MIN_RATE;

/// When the core wants to be asked again, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// Not before this moment.
    pub at: Moment,
    /// For logs.
    pub why: &'static str,
}

/// The clocks of one session.
#[derive(Debug)]
pub(crate) struct Liveness {
    heard: Moment,
    moved: Moment,
    keepalive: Moment,
    window_start: Moment,
    window_bytes: u64,
}

impl Liveness {
    pub(crate) fn new(now: Moment) -> Self {
        Self { heard: now, moved: now, keepalive: now.after(KEEPALIVE), window_start: now, window_bytes: 0 }
    }

    /// The peer said something.
    pub(crate) fn heard(&mut self, now: Moment) {
        self.heard = now;
    }

    /// A phase begins in which bytes are to move.
    pub(crate) fn restart(&mut self, now: Moment) {
        self.moved = now;
        self.window_start = now;
        self.window_bytes = 0;
    }

    /// Payload moved. While this side's own disk is what holds it up, the peer is not to blame.
    pub(crate) fn moved(&mut self, now: Moment, bytes: u64, waiting_on_us: bool) {
        if bytes > 0 {
            self.heard = now;
            self.moved = now;
            self.window_bytes = self.window_bytes.saturating_add(bytes);
        }
        if waiting_on_us {
            self.restart(now);
        }
    }

    /// Files are through. Their frames are progress even when they hold no bytes.
    pub(crate) fn finished(&mut self, now: Moment, files: u64) {
        self.moved(now, files.saturating_mul(FILE), false);
    }

    /// Is it time to send a sign of life?
    pub(crate) fn keepalive_due(&mut self, now: Moment) -> bool {
        let due = now >= self.keepalive;
        if due {
            self.keepalive = now.after(KEEPALIVE);
        }
        due
    }

    /// Has the peer been silent, or too slow while `transferring`, for too long?
    pub(crate) fn is_stalled(&mut self, now: Moment, transferring: bool) -> bool {
        if now >= self.heard.after(STALL) || (transferring && now >= self.moved.after(STALL)) {
            return true;
        }
        if transferring && now >= self.window_start.after(MIN_RATE_WINDOW) {
            let enough = self.window_bytes >= MIN_RATE * MIN_RATE_WINDOW.as_secs();
            self.window_start = now;
            self.window_bytes = 0;
            return !enough;
        }
        false
    }

    /// The next sign of life, for a session that nothing else can end.
    pub(crate) fn next_keepalive(&self) -> Deadline {
        Deadline { at: self.keepalive, why: "keep-alive" }
    }

    /// The next moment at which [`Self::keepalive_due`] or [`Self::is_stalled`] may say something new.
    pub(crate) fn deadline(&self, transferring: bool) -> Deadline {
        let mut next = self.next_keepalive();
        let mut earlier = |at: Moment, why| {
            if at < next.at {
                next = Deadline { at, why };
            }
        };
        earlier(self.heard.after(STALL), "peer silent");
        if transferring {
            earlier(self.moved.after(STALL), "no progress");
            earlier(self.window_start.after(MIN_RATE_WINDOW), "minimum rate");
        }
        next
    }
}

//! Is the connection slower than packing? The exporter's judgement, for a whole session (`Compression::Auto`).
//!
//! The lanes count what the streams take and how long their disk threads are held up by them ([`Flow`]); the
//! coordinator's clock looks at that a few times a second ([`Gauge`]) and tells the lanes whether to pack. Nothing is
//! assumed of link, disk or processor: raw content is sent until the streams are seen to be slow, and packing goes on
//! only while it moves more content than raw bytes did. What was found out is tried again from time to time, as links change.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use me_sync_protocol::ids::Moment;

/// A connection that takes so many bytes a second, or more, is not packed for: one processor packs about twice as fast
/// as this, which leaves it time for everything else.
const FAST: f64 = 80e6;
/// A file costs an importer as much as so many bytes more: many small files move few bytes however fast the link is.
const A_FILE: f64 = 4096.0;
/// Shortest time over which a rate is taken.
const WINDOW: Duration = Duration::from_millis(200);
/// It goes on until so much has moved, …
const ENOUGH: u64 = 64 << 10;
/// … or for so long.
const LONGEST: Duration = Duration::from_secs(2);
/// Windows that must agree: one alone may be a hiccup.
const AGREED: u32 = 2;
/// Packed content must move faster than raw bytes by this factor.
const WORTH: f64 = 1.1;
/// Content that packs less than this says nothing about packing.
const SHRINKS: f64 = 1.2;
/// Time until what was found out is tried again; it doubles with each try.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
/// At most this.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// What the exporter's lanes tell about their streams, and are told.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Disk threads that have files to send.
    working: AtomicU32,
    /// Those that wait for their stream right now, …
    held: AtomicU32,
    /// … and how long they have waited before, together.
    held_micros: AtomicU64,
    /// Files that were begun.
    files: AtomicU64,
    packs: AtomicBool,
}

impl Flow {
    /// Runs what waits for the stream.
    pub(super) fn held<T>(&self, wait: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        self.held.fetch_add(1, Ordering::Relaxed);
        let result = wait();
        self.held.fetch_sub(1, Ordering::Relaxed);
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.held_micros.fetch_add(micros, Ordering::Relaxed);
        result
    }

    /// Runs what sends files.
    pub(super) fn working<T>(&self, work: impl FnOnce() -> T) -> T {
        self.working.fetch_add(1, Ordering::Relaxed);
        let result = work();
        self.working.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Another file begins.
    pub(super) fn begins(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Are chunks to be packed?
    pub(super) fn packs(&self) -> bool {
        self.packs.load(Ordering::Relaxed)
    }

    pub(crate) fn pack(&self, packs: bool) {
        self.packs.store(packs, Ordering::Relaxed);
    }

    /// The counters now, with those of the bytes.
    pub(super) fn reading(&self, moved: u64, content: u64, wire: u64) -> Reading {
        Reading {
            moved,
            content,
            wire,
            files: self.files.load(Ordering::Relaxed),
            held_micros: self.held_micros.load(Ordering::Relaxed),
            held: self.held.load(Ordering::Relaxed),
            working: self.working.load(Ordering::Relaxed),
        }
    }
}

/// The counters of a session's lanes at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Bytes that the streams took.
    moved: u64,
    /// Content that went with them, …
    content: u64,
    /// … and as how many bytes.
    wire: u64,
    files: u64,
    held_micros: u64,
    held: u32,
    working: u32,
}

/// What a window came to.
#[derive(Debug, Clone, Copy)]
struct Rates {
    /// Bytes a second that the streams took.
    wire: f64,
    /// The same with what the files cost.
    pace: f64,
    /// Content bytes in each of them.
    ratio: f64,
    /// The disk threads waited for the streams.
    is_held: bool,
}

/// The judgement. Pure: time and counters are arguments.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    window: Option<(Moment, Reading)>,
    is_packing: bool,
    /// The window under way is still about what went before.
    is_settling: bool,
    /// Windows in a row that speak against what is done now.
    against: u32,
    /// Bytes a second that the link took, when that was last seen.
    link: f64,
    /// Content bytes a second that came of packing; none if that is to be tried first.
    packed: Option<f64>,
    /// When to try again what was found not to be worth it, or to be.
    next_trial: Moment,
    trials: u32,
}

impl Gauge {
    /// Takes the counters; whether to pack from now on.
    pub(crate) fn look(&mut self, now: Moment, reading: Reading) -> bool {
        if let Some(rates) = self.window(now, reading) {
            if self.is_packing { self.packing(now, rates) } else { self.raw(now, rates) }
        }
        self.is_packing
    }

    /// What the window came to, if it ends here.
    fn window(&mut self, now: Moment, reading: Reading) -> Option<Rates> {
        if reading.working == 0 {
            self.window = None;
            return None;
        }
        let (since, before) = *self.window.get_or_insert((now, reading));
        let took = now.0.saturating_sub(since.0);
        let moved = reading.moved.saturating_sub(before.moved);
        if took < WINDOW || (moved < ENOUGH && took < LONGEST) {
            return None;
        }
        self.window = Some((now, reading));
        // a standstill is no rate
        if std::mem::take(&mut self.is_settling) || moved == 0 {
            return None;
        }
        let all = took.as_micros() as f64 * f64::from(reading.working);
        let held = reading.held_micros.saturating_sub(before.held_micros) as f64;
        let content = reading.content.saturating_sub(before.content) as f64;
        let on_wire = reading.wire.saturating_sub(before.wire) as f64;
        let files = reading.files.saturating_sub(before.files) as f64;
        Some(Rates {
            wire: moved as f64 / took.as_secs_f64(),
            pace: (moved as f64 + files * A_FILE) / took.as_secs_f64(),
            ratio: if on_wire > 0.0 { content / on_wire } else { 1.0 },
            // a wait that goes on longer than the window is counted when it ends
            is_held: held >= all / 2.0 || reading.held >= reading.working,
        })
    }

    fn raw(&mut self, now: Moment, rates: Rates) {
        if !rates.is_held || rates.pace >= FAST {
            (self.against, self.packed) = (0, None);
            return;
        }
        self.against += 1;
        self.link = rates.wire;
        match self.packed {
            Some(packed) if packed > WORTH * rates.wire => self.switch(true),
            Some(_) => {
                self.packed = None;
                self.put_off(now);
            }
            None if now >= self.next_trial && self.against >= AGREED => self.switch(true),
            None => {}
        }
    }

    fn packing(&mut self, now: Moment, rates: Rates) {
        if rates.pace > WORTH * FAST {
            return self.switch(false);
        }
        if rates.ratio < SHRINKS {
            if rates.is_held {
                self.link = rates.wire;
            }
            return;
        }
        let packed = rates.wire * rates.ratio;
        self.packed = Some(packed);
        // the link takes what it took before, and that holds everything up: packing does what it can
        if rates.is_held && (self.link * 0.7..self.link * 1.4).contains(&rates.wire) {
            self.against = 0;
            return;
        }
        self.against += 1;
        let is_no_gain = packed < WORTH * self.link;
        if self.against >= AGREED && (is_no_gain || now >= self.next_trial) {
            self.put_off(now);
            self.switch(false);
        }
    }

    fn switch(&mut self, packs: bool) {
        tracing::debug!(packs, link = self.link, packed = self.packed, "packing changes");
        (self.is_packing, self.is_settling, self.against) = (packs, true, 0);
    }

    fn put_off(&mut self, now: Moment) {
        self.next_trial = now.after(FIRST_PAUSE.saturating_mul(1 << self.trials.min(8)).min(LONGEST_PAUSE));
        self.trials += 1;
    }
}

#[cfg(test)]
mod tests;

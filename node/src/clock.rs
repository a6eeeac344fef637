//! The two clocks of a node: one since boot for the cores, which nobody can set and which counts sleep, and the
//! wall for people and tickets. [`LastSeen`] is a point on both, for what outlives the process.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use me_sync_protocol::ids::Moment;
use me_sync_protocol::limits;
use minicbor::{Decode, Encode};

/// Gives [`Moment`]s since the node started. Time in which the device slept counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Duration);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(since_boot())
    }

    pub(crate) fn now(&self) -> Moment {
        Moment(since_boot().saturating_sub(self.0))
    }
}

/// Since the device started, sleep included. Nobody can set this clock.
fn since_boot() -> Duration {
    // elsewhere than on Linux the monotonic clock is the nearest thing
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    rustix::time::clock_gettime(clock).try_into().unwrap_or_default()
}

/// Milliseconds since 1970 by the wall clock; 0 if it stands before that.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// When something happened, by both clocks: the wall's, which people set, and the one that counts since boot,
/// which a restart of the device sets back. For files that outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LastSeen {
    /// Milliseconds since 1970 by the wall clock.
    #[n(0)]
    pub wall_ms: u64,
    /// Which run of the device; zeros if it does not say.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub boot_id: [u8; 16],
    /// Milliseconds since that boot, sleep included.
    #[n(2)]
    pub boot_ms: u64,
}

impl LastSeen {
    /// Now.
    pub fn now() -> Self {
        Self { wall_ms: wall_ms(), boot_id: boot_id(), boot_ms: millis(since_boot()) }
    }

    /// How long ago this was, by the clock that says more. A wall clock that was set back says nothing, and a
    /// device that was restarted since then has been up for less than that; never negative.
    pub fn idle(&self, now: &Self) -> Duration {
        let by_wall = now.wall_ms.saturating_sub(self.wall_ms);
        let by_boot = if self.boot_id == now.boot_id && self.boot_id != UNKNOWN_BOOT {
            now.boot_ms.saturating_sub(self.boot_ms)
        } else if self.boot_id != UNKNOWN_BOOT && now.boot_id != UNKNOWN_BOOT {
            now.boot_ms
        } else {
            0
        };
        Duration::from_millis(by_wall.max(by_boot))
    }
}

/// Whether a session is over by now: nobody went on with it, or it is too old (SPEC 6.4-9).
pub(crate) fn is_session_expired(created: &LastSeen, last: &LastSeen, now: &LastSeen) -> bool {
    last.idle(now) >= limits::SESSION_TTL || created.idle(now) >= limits::SESSION_LIFETIME
}

const UNKNOWN_BOOT: [u8; 16] = [0; 16];

/// The kernel's id of this run of the device.
fn boot_id() -> [u8; 16] {
    static ID: OnceLock<[u8; 16]> = OnceLock::new();
    *ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        parse_boot_id(&text).unwrap_or(UNKNOWN_BOOT)
    })
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

/// Bytes a second over the last few seconds in which the same went on.
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    samples: std::collections::VecDeque<(Moment, u64)>,
    what: Option<Moving>,
}

/// What a rate is of. Another one begins anew: seconds in which nothing was to move, other bytes, or an older limit say
/// nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moving {
    /// Bytes that are read for their hashes.
    Hashed,
    /// Bytes that go from one device to the other, under this limit.
    Sent { limit: Option<u64> },
}

/// Over how long a rate is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(4);

impl RateMeter {
    /// Notes the running total and gives the rate; 0 while nothing moves.
    pub(crate) fn sample(&mut self, now: Moment, what: Option<Moving>, total: u64) -> u64 {
        if self.what != what {
            self.what = what;
            self.samples.clear();
        }
        if what.is_none() {
            return 0;
        }
        self.samples.push_back((now, total));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| at.after(RATE_WINDOW) < now) {
            self.samples.pop_front();
        }
        let Some((first, base)) = self.samples.front() else { return 0 };
        let millis = now.0.saturating_sub(first.0).as_millis();
        let bytes = u128::from(total.saturating_sub(*base));
        (bytes * 1000).checked_div(millis).and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_average_of_the_last_seconds_only() {
        let at = |s| Moment(Duration::from_secs(s));
        let (mut meter, sent) = (RateMeter::default(), Some(Moving::Sent { limit: None }));
        assert_eq!(meter.sample(at(0), sent, 0), 0);
        assert_eq!(meter.sample(at(1), sent, 1000), 1000);
        for s in 2..=10 {
            meter.sample(at(s), sent, 1000);
        }
        assert_eq!(meter.sample(at(11), sent, 1000), 0);
    }

    #[test]
    fn a_rate_knows_nothing_of_idle_time_of_hashing_or_of_an_older_limit() {
        let at = |ms| Moment(Duration::from_millis(ms));
        let (free, slow) = (Moving::Sent { limit: None }, Moving::Sent { limit: Some(100) });
        let mut meter = RateMeter::default();
        meter.sample(at(0), Some(Moving::Hashed), 0);
        assert_eq!(meter.sample(at(1000), Some(Moving::Hashed), 9000), 9000);
        // what was sent counts from 0 again, and that is no standstill
        assert_eq!(meter.sample(at(1250), Some(free), 0), 0);
        assert_eq!(meter.sample(at(1500), Some(free), 250), 1000);
        for ms in (1750..9000).step_by(250) {
            assert_eq!(meter.sample(at(ms), None, 250), 0);
        }
        assert_eq!(meter.sample(at(9000), Some(free), 250), 0);
        assert_eq!(meter.sample(at(9500), Some(free), 1250), 2000);
        assert_eq!(meter.sample(at(9750), Some(slow), 1250), 0);
        assert_eq!(meter.sample(at(10_750), Some(slow), 1350), 100);
    }

    const DAY: u64 = 24 * 3600 * 1000;
    const SEEN: LastSeen = LastSeen { wall_ms: 1_700_000_000_000, boot_id: [1; 16], boot_ms: 50_000 };

    fn idle(now: LastSeen) -> u64 {
        u64::try_from(SEEN.idle(&now).as_millis()).unwrap()
    }

    // RELIABILITY F68
    #[test]
    fn a_wall_clock_that_jumps_cannot_make_anything_younger_than_the_other_clock_says() {
        let boot_ms = SEEN.boot_ms + 5_000;
        assert_eq!(idle(LastSeen { wall_ms: SEEN.wall_ms + DAY, boot_ms, ..SEEN }), DAY);
        assert_eq!(idle(LastSeen { wall_ms: SEEN.wall_ms - DAY, boot_ms, ..SEEN }), 5_000);
        assert_eq!(idle(LastSeen { wall_ms: 0, boot_ms, ..SEEN }), 5_000);
        // the wall stands still, the device runs on
        assert_eq!(idle(LastSeen { boot_ms: SEEN.boot_ms + 2 * DAY, ..SEEN }), 2 * DAY);
    }

    // RELIABILITY F68
    #[test]
    fn after_a_restart_of_the_device_it_is_as_long_ago_as_the_wall_or_the_time_since_that_restart_says() {
        let restarted = LastSeen { boot_id: [2; 16], boot_ms: 60_000, ..SEEN };
        assert_eq!(idle(LastSeen { wall_ms: SEEN.wall_ms + DAY, ..restarted }), DAY);
        assert_eq!(idle(LastSeen { wall_ms: SEEN.wall_ms - DAY, ..restarted }), 60_000);
        assert_eq!(idle(LastSeen { wall_ms: 0, boot_ms: 3 * DAY, ..restarted }), 3 * DAY);
    }

    #[test]
    fn a_device_that_does_not_name_its_runs_goes_by_the_wall() {
        let nameless = LastSeen { boot_id: UNKNOWN_BOOT, ..SEEN };
        let now = LastSeen { wall_ms: SEEN.wall_ms + 7, boot_ms: 9 * DAY, ..nameless };
        assert_eq!(nameless.idle(&now), Duration::from_millis(7));
    }

    #[test]
    fn nothing_was_seen_in_the_future() {
        assert_eq!(idle(LastSeen { wall_ms: 0, boot_ms: 0, ..SEEN }), 0);
        let now = LastSeen::now();
        assert!(now.idle(&LastSeen::now()) < Duration::from_secs(60));
    }

    #[test]
    fn the_kernels_boot_id_is_read_as_the_number_it_is() {
        let id = parse_boot_id("00112233-4455-6677-8899-aabbccddeeff\n").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0, 0x11, 0xff));
        assert_eq!(parse_boot_id("").or(parse_boot_id("+0112233-4455-6677-8899-aabbccddeeff")), None);
        #[cfg(target_os = "linux")]
        assert_ne!(LastSeen::now().boot_id, UNKNOWN_BOOT);
    }

    #[test]
    fn a_last_seen_survives_its_encoding() {
        let bytes = minicbor::to_vec(SEEN).unwrap();
        assert_eq!(minicbor::decode::<LastSeen>(&bytes).unwrap(), SEEN);
    }

    #[test]
    fn the_cores_clock_starts_at_zero_and_goes_on() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(first.0 < Duration::from_secs(60) && clock.now() >= first);
    }
}

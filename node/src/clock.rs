//! The two clocks of a node: a monotonic one for the cores, the wall for people and tickets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use me_sync_protocol::ids::Moment;

/// Gives [`Moment`]s since the node started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Moment {
        Moment(self.0.elapsed())
    }
}

/// Milliseconds since 1970 by the wall clock; 0 if it stands before that.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes a second over the last few seconds.
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    samples: std::collections::VecDeque<(Moment, u64)>,
}

/// Over how long a rate is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(4);

impl RateMeter {
    /// Notes the running total and gives the rate.
    pub(crate) fn sample(&mut self, now: Moment, total: u64) -> u64 {
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
        let mut meter = RateMeter::default();
        assert_eq!(meter.sample(at(0), 0), 0);
        assert_eq!(meter.sample(at(1), 1000), 1000);
        for s in 2..=10 {
            meter.sample(at(s), 1000);
        }
        assert_eq!(meter.sample(at(11), 1000), 0);
    }
}

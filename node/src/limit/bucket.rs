//! A token bucket that may owe one piece. Pure: time is an argument.
//!
//! A piece goes when everything before it is paid for, however large it is itself; so nobody needs to know how large
//! pieces are, and after each one the next waits as long as that one takes at this rate.

use std::time::Duration;

use super::Rate;

/// Time that was not used and may be made up for: a timer that fires late costs no bytes. More would be a burst.
const BURST: Duration = Duration::from_millis(50);

/// When the next piece may go.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    paid: Duration,
    rate: Option<Rate>,
}

impl Bucket {
    /// Takes `bytes` at the time `now`, or says how long to wait before asking again.
    pub(super) fn take(&mut self, now: Duration, rate: Rate, bytes: u64) -> Result<(), Duration> {
        self.change(now, rate);
        if self.paid > now {
            return Err(self.paid - now);
        }
        self.paid = self.paid.max(now.saturating_sub(BURST)) + time(bytes, rate);
        Ok(())
    }

    /// What is owed is paid for at the new rate.
    fn change(&mut self, now: Duration, rate: Rate) {
        let Some(before) = self.rate.replace(rate).filter(|before| *before != rate) else { return };
        let owed = self.paid.saturating_sub(now);
        if !owed.is_zero() {
            let ratio = before.bytes_per_second() as f64 / rate.bytes_per_second() as f64;
            self.paid = now + owed.mul_f64(ratio);
        }
    }
}

/// How long so many bytes take.
fn time(bytes: u64, rate: Rate) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.bytes_per_second());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 64 << 10;

    fn rate(bytes_per_second: u64) -> Rate {
        Rate::new(bytes_per_second).unwrap()
    }

    /// A clock that is as late as a busy machine's.
    struct Line {
        bucket: Bucket,
        now: Duration,
        late: Duration,
        moved: u64,
    }

    impl Line {
        fn new(late_ms: u64) -> Self {
            let late = Duration::from_millis(late_ms);
            Self { bucket: Bucket::default(), now: Duration::from_secs(1000), late, moved: 0 }
        }

        /// Moves pieces for so long, and gives how many bytes that was.
        fn run(&mut self, seconds: f64, rate: Rate) -> u64 {
            let (until, before) = (self.now + Duration::from_secs_f64(seconds), self.moved);
            loop {
                match self.bucket.take(self.now, rate, PIECE) {
                    Ok(()) => self.moved += PIECE,
                    Err(wait) if self.now + wait > until => {
                        self.now = until;
                        return self.moved - before;
                    }
                    Err(wait) => self.now += wait + self.late,
                }
            }
        }
    }

    #[track_caller]
    fn assert_within(percent: f64, bytes: u64, expected: f64) {
        let off = (bytes as f64 / expected - 1.0) * 100.0;
        assert!(off.abs() <= percent, "{bytes} bytes are {off:.1} % off {expected}");
    }

    #[test]
    fn a_rate_holds_within_five_percent_over_ten_seconds_even_if_timers_are_late() {
        for bytes in [1_000_000, 20_000_000, 1_000_000_000] {
            for late_ms in [0, 1, 20] {
                let moved = Line::new(late_ms).run(10.0, rate(bytes));
                assert_within(2.0, moved, 10.0 * bytes as f64);
            }
        }
        // one piece takes a second here
        assert_within(10.0, Line::new(1).run(10.0, Rate::MIN), 640_000.0);
    }

    #[test]
    fn what_was_not_used_for_long_comes_in_no_burst() {
        let (mut line, at) = (Line::new(0), rate(20_000_000));
        line.run(1.0, at);
        line.now += Duration::from_secs(3600);
        assert_within(10.0, line.run(1.0, at), 20_000_000.0);
    }

    #[test]
    fn a_change_counts_from_the_moment_on_and_for_what_is_owed_too() {
        let mut line = Line::new(0);
        assert_within(5.0, line.run(2.0, rate(1_000_000)), 2_000_000.0);
        assert_within(5.0, line.run(2.0, rate(40_000_000)), 80_000_000.0);
        assert_within(5.0, line.run(4.0, rate(1_000_000)), 4_000_000.0);
        let mut bucket = Bucket::default();
        bucket.take(Duration::from_secs(9), rate(100_000), 1_000_000).unwrap();
        let (slow, fast) = (rate(100_000), rate(1_000_000));
        let wait = |bucket: &mut Bucket, at| bucket.take(Duration::from_secs(9), at, 1).unwrap_err().as_secs_f64();
        let (before, after) = (wait(&mut bucket, slow), wait(&mut bucket, fast));
        assert!((before / after - 10.0).abs() < 0.01, "{before} {after}");
    }
}

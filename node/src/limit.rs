//! How fast bytes may move: a rate as people type it, the limits of a node and of a session, and the file that holds
//! a node's limit from one run to the next.
//!
//! What counts is what lanes write and read: content of files with the headers of their frames. The list of files,
//! the control stream and what encryption adds are not counted.

mod bucket;
mod file;
mod limiter;

use std::fmt;
use std::str::FromStr;

pub(crate) use file::{Follower, follow, look};
pub use file::{LimitFileError, load, store};
pub(crate) use limiter::{Limiter, Throttle};

/// A number of bytes a second, at least [`Rate::MIN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

/// A text is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// It cannot be read.
    #[error("a rate is a number and a unit: 500K, 1.5M or 1G for bytes a second (K is 1000), or 100Mbit for bits")]
    Text,
    /// Nothing would move.
    #[error("a limit of 0 would stop it for good; Ctrl-C or `me-sync abort` do that")]
    Zero,
    /// It is below [`Rate::MIN`].
    #[error("the lowest limit is 64K (64,000 bytes a second)")]
    TooLow,
}

impl Rate {
    /// The lowest limit. All sessions of a node together are still faster than the slowest line that is not taken for
    /// a broken one (SPEC §8.2).
    pub const MIN: Self = Self(64_000);

    /// # Errors
    /// It is 0, or below [`Rate::MIN`].
    pub fn new(bytes_per_second: u64) -> Result<Self, RateError> {
        match bytes_per_second {
            0 => Err(RateError::Zero),
            low if low < Self::MIN.0 => Err(RateError::TooLow),
            rate => Ok(Self(rate)),
        }
    }

    /// Bytes a second.
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }
}

/// Reads `500K`, `20M`, `1.5M`, `1G`, also with `B` or `B/s`, and `100Mbit`. Decimal: `1K` is 1000.
impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let text = text.trim();
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(RateError::Text)?;
        let (number, unit) = text.split_at(at);
        let unit = unit.trim_start();
        let mut rest = unit.chars();
        let scale: u128 = match rest.next() {
            Some('k' | 'K') => 1_000,
            Some('m' | 'M') => 1_000_000,
            Some('g' | 'G') => 1_000_000_000,
            _ => return Err(RateError::Text),
        };
        let eighths = match rest.as_str().strip_suffix("/s").unwrap_or(rest.as_str()) {
            "" | "B" => 8,
            "bit" => 1,
            // `b` alone is read as bits by some and as bytes by others
            _ => return Err(RateError::Text),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.len() > MAX_DIGITS || whole.len() > MAX_DIGITS {
            return Err(RateError::Text);
        }
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| RateError::Text)?;
        let decimals = u32::try_from(fraction.len()).map_err(|_| RateError::Text)?;
        let rate = digits * scale * eighths / 8 / 10_u128.pow(decimals);
        match (digits, u64::try_from(rate)) {
            (0, _) => Err(RateError::Zero),
            // less than a byte is little, not nothing
            (_, Ok(0)) => Err(RateError::TooLow),
            (_, Ok(rate)) => Self::new(rate),
            (_, Err(_)) => Err(RateError::Text),
        }
    }
}

/// Digits before or behind the point: no sum of theirs leaves 128 bits.
const MAX_DIGITS: usize = 9;

/// `500kB/s`, `1.5MB/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scale, unit) = match self.0 {
            0..1_000_000 => (1_000, "kB/s"),
            1_000_000..1_000_000_000 => (1_000_000, "MB/s"),
            _ => (1_000_000_000, "GB/s"),
        };
        let thousandths = u128::from(self.0) * 1000 / scale;
        let fraction = format!("{:03}", thousandths % 1000);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}{unit}", thousandths / 1000),
            fraction => write!(f, "{}.{fraction}{unit}", thousandths / 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_as_it_is_typed_in_bytes_or_bits() {
        let read = |text: &str| text.parse::<Rate>().map(Rate::bytes_per_second);
        for (text, rate) in [
            ("500K", 500_000),
            ("20M", 20_000_000),
            ("1.5M", 1_500_000),
            ("1G", 1_000_000_000),
            ("0.5g", 500_000_000),
            ("20MB/s", 20_000_000),
            ("20 MB", 20_000_000),
            ("100Mbit", 12_500_000),
            ("1gbit/s", 125_000_000),
            ("64k", 64_000),
            ("999999999.999999999G", 999_999_999_999_999_999),
        ] {
            assert_eq!(read(text), Ok(rate), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_and_says_what_is() {
        for text in [
            "",
            "20",
            "M",
            ".5M",
            "5.M",
            "1.2.3M",
            "-1M",
            "20Mb",
            "20MiB",
            "20T",
            "9999999999M",
            "1e3K",
            "off",
            "20M x",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(RateError::Text), "{text}");
        }
        assert_eq!("0M".parse::<Rate>(), Err(RateError::Zero));
        assert_eq!("0.0G".parse::<Rate>(), Err(RateError::Zero));
        assert_eq!("63.999K".parse::<Rate>(), Err(RateError::TooLow));
        assert_eq!("0.000000001K".parse::<Rate>(), Err(RateError::TooLow));
        assert!(RateError::Zero.to_string().contains("abort"));
    }

    #[test]
    fn a_rate_is_shown_as_it_can_be_typed() {
        for (text, shown) in [("500K", "500kB/s"), ("1.5M", "1.5MB/s"), ("100Mbit", "12.5MB/s"), ("1G", "1GB/s")] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.to_string(), shown);
            assert_eq!(shown.parse::<Rate>(), Ok(rate));
        }
    }
}

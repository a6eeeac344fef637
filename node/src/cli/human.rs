//! Figures, times and paths as people read and type them. Pure.

use std::path::Path;
use std::time::Duration;

use me_sync_protocol::escape::escaped;

/// `1.5 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1.5 MiB/s`.
pub(crate) fn rate(bytes_moved: u64, time: Duration) -> String {
    let per_second = bytes_moved as f64 / time.as_secs_f64().max(0.001);
    format!("{}/s", bytes(per_second as u64))
}

/// `850 ms`, `4.2 s`, `3m 05s`, `2h 10m`, `7d 0h`.
pub(crate) fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{} ms", d.as_millis()),
        1..60 => format!("{:.1} s", d.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Reads `90s`, `10m`, `2h`, `1d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a number and a unit is needed, such as 30s, 10m or 2h".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    match number.checked_mul(seconds) {
        Some(0) | None => Err("this is not a usable time".to_owned()),
        Some(s) => Ok(Duration::from_secs(s)),
    }
}

/// `1 file`, `2,000 files`.
pub(crate) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{} {what}s", number(n)) }
}

/// `812`, `1,204`, `1,000,000`.
pub(crate) fn number(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// `12 s`, `3m 05s`: what is counted down or up while one looks.
pub(crate) fn seconds(n: u64) -> String {
    if n < 60 { format!("{n} s") } else { duration(Duration::from_secs(n)) }
}

/// UTC, to the minute: `2026-11-25 14:03 UTC`.
pub(crate) fn wall(ms: u64) -> String {
    let minutes = ms / 60_000;
    let (days, minute) = (minutes / 1440, minutes % 1440);
    // civil date from days since 1970, by the usual 400-year-era arithmetic
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

/// Text of any length, escaped line by line; line breaks stay.
pub(crate) fn lines(text: &str) -> String {
    text.split('\n').map(whole).collect::<Vec<_>>().join("\n")
}

/// A path, escaped, never cut: instructions need all of it.
pub(crate) fn path(path: &Path) -> String {
    whole(&path.to_string_lossy())
}

/// A path as it can be typed into a shell.
pub(crate) fn shell(at: &Path) -> String {
    let text = at.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return path(at);
    }
    let dash = if text.starts_with('-') { "./" } else { "" };
    format!("'{dash}{}'", path(at).replace('\'', r"'\''"))
}

/// The end of a PeerId, which is what differs between two.
pub(crate) fn short_peer(peer_id: &str) -> String {
    let tail: Vec<char> = peer_id.chars().rev().take(8).collect();
    escaped(&format!("…{}", tail.into_iter().rev().collect::<String>())).to_string()
}

/// A device as people know it; one that says no name is known by its id alone.
pub(crate) fn device(name: &str, peer_id: &str) -> String {
    let name = if name.is_empty() { "the other device" } else { name };
    format!("{} ({})", escaped(name), short_peer(peer_id))
}

fn whole(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(100).map(|part| escaped(&part.iter().collect::<String>()).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".to_owned(), "0 files".to_owned()));
        assert_eq!((number(999), number(1204), number(1_000_000)), ("999".into(), "1,204".into(), "1,000,000".into()));
        assert_eq!((seconds(59), seconds(60)), ("59 s".to_owned(), "1m 00s".to_owned()));
        assert_eq!(duration(Duration::from_secs(185)), "3m 05s");
        assert_eq!(wall(0), "1970-01-01 00:00 UTC");
        assert_eq!(wall(951_827_696_000), "2000-02-29 12:34 UTC");
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        for bad in ["10", "m", "", "0s", "-1s", "1.5h", "99999999999999999999h", "1w", "18446744073709551615d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_hostile_text_is_escaped_to_its_end() {
        let text = format!("{}\u{1b}[2J\nb", "x".repeat(500));
        assert_eq!(lines(&text), format!("{}\\u{{1b}}[2J\nb", "x".repeat(500)));
        assert_eq!(shell(Path::new("a b'c")), r"'a b'\''c'");
    }
}

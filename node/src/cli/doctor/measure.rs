//! How fast this device hashes and writes, each in a second or a few.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use me_sync_protocol::hash::Hasher;

use crate::cli::human;

/// What is hashed or written at once.
const BLOCK: usize = 1 << 20;
/// Hashing is measured for so long.
const HASHING: Duration = Duration::from_millis(500);
/// Writing ends with the first of these; the flush that follows takes as long as it takes.
const WRITING: Duration = Duration::from_secs(2);
const MOST: u64 = 256 << 20;

/// Something that every byte of a migration passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) what: String,
    /// Bytes a second, as measured or as the system says.
    pub(super) bps: u64,
    /// So much went over one stream, and a session has several.
    pub(super) is_one_stream: bool,
}

/// What of these is the slowest, in one sentence that says what was not measured.
pub(super) fn slowest(parts: &[Part], network_measured: bool) -> Option<String> {
    let slowest = parts.iter().min_by_key(|part| part.bps)?;
    let (what, rate) = (&slowest.what, human::bytes(slowest.bps));
    Some(match (network_measured, slowest.is_one_stream) {
        (true, true) => format!(
            "Of what was measured, {what} is the slowest: one stream brought about {rate}/s; a session has several, and \
             may be faster."
        ),
        (true, false) => format!("Of what was measured, {what} is the slowest: about {rate}/s."),
        (false, _) => format!(
            "The network was not measured, so the bottleneck is not known; of the rest, {what} is the slowest: about {rate}/s."
        ),
    })
}

/// Bytes a second on one core. Blocking.
pub(super) fn hashing() -> u64 {
    let block = noise();
    let mut hasher = Hasher::new();
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < HASHING {
        hasher.update(&block);
        bytes += BLOCK as u64;
    }
    std::hint::black_box(hasher.finish());
    per_second(bytes, began.elapsed())
}

/// Bytes a second that are on the disk of this directory in the end. Blocking.
pub(super) fn disk(dir: &Path) -> io::Result<u64> {
    let file = Temporary::create(dir)?;
    let block = noise();
    let (began, mut bytes) = (Instant::now(), 0);
    while bytes < MOST && began.elapsed() < WRITING {
        (&file.file).write_all(&block)?;
        bytes += BLOCK as u64;
    }
    file.file.sync_all()?;
    Ok(per_second(bytes, began.elapsed()))
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(1e-6)) as u64
}

/// Bytes that no disk packs.
fn noise() -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    // without them a disk that packs looks faster than it is
    getrandom::fill(&mut block).ok();
    block
}

/// A file that is gone in the end.
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!(".me-sync-doctor-{}", std::process::id()));
        Ok(Self { file: File::create_new(&path)?, path })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_is_named_with_what_was_measured_and_what_was_not() {
        let part = |what: &str, bps| Part { what: what.to_owned(), bps, is_one_stream: what == "the network" };
        let (disk, hashing) = (part("the disk", 5 << 20), part("hashing", 9 << 20));
        let whole = slowest(&[disk.clone(), hashing.clone(), part("the network", 6 << 20)], true).unwrap();
        assert!(whole.contains("the disk is the slowest: about 5.0 MiB/s"), "{whole}");
        let line = slowest(&[disk.clone(), part("the network", 4 << 20)], true).unwrap();
        assert!(line.contains("one stream brought about 4.0 MiB/s") && line.contains("may be faster"), "{line}");
        let rest = slowest(&[disk, hashing], false).unwrap();
        assert!(rest.contains("not measured") && rest.contains("of the rest, the disk is the slowest"), "{rest}");
        assert_eq!(slowest(&[], true), None);
    }

    #[test]
    fn a_disk_is_measured_and_nothing_stays_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(disk(dir.path()).unwrap() > 0 && hashing() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(disk(&dir.path().join("nowhere")).is_err());
    }
}

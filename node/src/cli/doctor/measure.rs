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

/// Something that a migration cannot be faster than.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) what: String,
    /// Bytes a second.
    pub(super) bps: u64,
}

/// The bottleneck, in one sentence.
pub(super) fn slowest(bounds: &[Bound]) -> String {
    match bounds.iter().min_by_key(|bound| bound.bps) {
        Some(slowest) => format!(
            "Of what was measured here, {} is the slowest: no more than {}/s will arrive.",
            slowest.what,
            human::bytes(slowest.bps)
        ),
        None => "Nothing could be measured.".to_owned(),
    }
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
    fn the_slowest_is_named_with_what_it_lets_through() {
        let bound = |what: &str, bps| Bound { what: what.to_owned(), bps };
        let sentence = slowest(&[bound("the disk", 5 << 20), bound("hashing", 9 << 20)]);
        assert!(sentence.contains("the disk is the slowest") && sentence.contains("5.0 MiB/s"), "{sentence}");
        assert!(slowest(&[]).contains("Nothing"));
    }

    #[test]
    fn a_disk_is_measured_and_nothing_stays_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(disk(dir.path()).unwrap() > 0 && hashing() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(disk(&dir.path().join("nowhere")).is_err());
    }
}

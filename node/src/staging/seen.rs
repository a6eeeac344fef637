//! When somebody last worked on a session, by two clocks: the wall, which can be set, and the time since boot,
//! which cannot but starts again with every boot (RELIABILITY F68).
//!
//! The journal holds it, and a small file beside it that is renewed at every checkpoint without a journal write.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

pub(super) use crate::clock::LastSeen;

use super::durable;

/// The file in a session's directory.
pub(super) const FILE: &str = "seen";
/// More often it says nothing new.
const OFTEN: Duration = Duration::from_secs(30);
const TEMPORARY: &str = "seen.tmp";
/// A record is below this.
const MAX_FILE: u64 = 256;

/// The file of one session. Its descriptor does not share the session's lock.
#[derive(Debug)]
pub(super) struct Activity {
    dir: OwnedFd,
    /// By this process.
    recorded: Mutex<Option<Instant>>,
}

impl Activity {
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self { dir, recorded: Mutex::default() }
    }

    /// The same, unless that was noted a moment ago: a checkpoint may come several times a second, and the two flushes
    /// that this takes would hold up its own.
    pub(super) fn record_if_old(&self) -> io::Result<()> {
        let now = Instant::now();
        {
            let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
            if recorded.is_some_and(|last| now.duration_since(last) < OFTEN) {
                return Ok(());
            }
            *recorded = Some(now);
        }
        self.record()
    }

    /// Notes that somebody works on the session now.
    pub(super) fn record(&self) -> io::Result<()> {
        match unlinkat(&self.dir, TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
        let bytes = minicbor::to_vec(LastSeen::now()).map_err(io::Error::other)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.dir, TEMPORARY, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&bytes)?;
        durable::sync(&file)?;
        Ok(durable::replace_file(self.dir.as_fd(), TEMPORARY, FILE)?)
    }
}

/// What the file says. It can only prolong a session, so one that cannot be read counts as none.
pub(super) fn read(dir: &OwnedFd) -> Option<LastSeen> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(dir, FILE, flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    minicbor::decode(&bytes).ok()
}

/// Removes the file.
pub(super) fn remove(dir: &OwnedFd) -> rustix::io::Result<()> {
    for name in [TEMPORARY, FILE] {
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn at(wall: u64, boot: u8, boot_ms: u64) -> LastSeen {
        LastSeen { wall_ms: wall, boot_id: [boot; 16], boot_ms }
    }

    // RELIABILITY F68
    #[test]
    fn neither_a_clock_that_is_set_back_nor_a_reboot_stops_the_time() {
        let then = at(100 * HOUR, 1, 5 * HOUR);
        let idle = |now| then.idle(&now).as_millis() as u64 / HOUR;
        assert_eq!(idle(at(103 * HOUR, 1, 8 * HOUR)), 3);
        assert_eq!(idle(at(0, 1, 30 * HOUR)), 25, "the wall clock fell to 1970");
        assert_eq!(idle(at(124 * HOUR, 1, 6 * HOUR)), 24, "the wall clock is ahead");
        assert_eq!(idle(at(0, 2, 26 * HOUR)), 26, "another boot with a wrong wall clock");
        assert_eq!(idle(at(0, 1, 0)), 0, "never negative");
    }

    #[test]
    fn this_moment_is_written_and_read_back_and_garbage_is_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = || OwnedFd::from(File::open(tmp.path()).unwrap());
        assert_eq!(read(&dir()), None);
        Activity::new(dir()).record().unwrap();
        let seen = read(&dir()).unwrap();
        assert!(seen.idle(&LastSeen::now()) < Duration::from_secs(60) && seen.boot_ms > 0 && seen.boot_id != [0; 16]);
        std::fs::write(tmp.path().join(FILE), "x").unwrap();
        assert_eq!(read(&dir()), None);
        Activity::new(dir()).record().unwrap();
        remove(&dir()).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}

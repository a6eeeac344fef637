//! `flock` on directories: no lock file stays behind, and it works between nodes with different state dirs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FlockOperation, flock};
use rustix::io::{self, Errno};

use super::beneath::open_child;

/// Others hold locks on shared parents only for a moment; a session holds its target's for its whole life.
const PATIENCE: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(10);

/// The outcome of asking for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    Held,
    Busy,
    /// The file system has no locks.
    Unsupported,
}

/// Takes the lock of a directory for as long as `fd` (or a clone of it) is open.
pub(crate) fn exclusive(fd: impl AsFd) -> io::Result<Lock> {
    patiently(fd, FlockOperation::NonBlockingLockExclusive)
}

/// Takes the lock now or never.
pub(crate) fn try_exclusive(fd: impl AsFd) -> io::Result<Lock> {
    once(fd, FlockOperation::NonBlockingLockExclusive)
}

fn once(fd: impl AsFd, how: FlockOperation) -> io::Result<Lock> {
    match flock(fd, how) {
        Ok(()) => Ok(Lock::Held),
        Err(Errno::WOULDBLOCK) => Ok(Lock::Busy),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK | Errno::BADF) => Ok(Lock::Unsupported),
        Err(err) => Err(err),
    }
}

fn patiently(fd: impl AsFd, how: FlockOperation) -> io::Result<Lock> {
    let until = Instant::now() + PATIENCE;
    loop {
        match once(&fd, how)? {
            Lock::Busy if Instant::now() < until => std::thread::sleep(STEP),
            other => return Ok(other),
        }
    }
}

/// Somebody holds the lock of this directory. Leaves no lock behind.
pub(crate) fn is_held(fd: OwnedFd) -> bool {
    matches!(patiently(&fd, FlockOperation::NonBlockingLockShared), Ok(Lock::Busy))
}

/// An ancestor of `parent`, or `parent` itself, that a session is replacing.
pub(crate) fn busy_ancestor(parent: &Path) -> Option<&Path> {
    parent.ancestors().find(|dir| {
        // one that cannot be opened for reading cannot be locked by a session of this user either
        rustix::fs::open(*dir, super::beneath::DIR, rustix::fs::Mode::empty()).is_ok_and(is_held)
    })
}

/// A live staging tree for the target whose staging names start with `prefix`, in `parent`.
pub(crate) fn live_staging(parent: impl AsFd, prefix: &str) -> io::Result<bool> {
    for entry in Dir::read_from(&parent)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().starts_with(prefix.as_bytes())
            && let Ok(fd) = open_child(&parent, name)
            && is_held(fd)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

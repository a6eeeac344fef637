//! One node per state directory: an advisory lock that dies with its process. The file says which process that is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use me_sync_protocol::reason::Code;
use rustix::fs::{FlockOperation, flock};

/// Name of the lock file in the state directory.
const LOCK_FILE: &str = "node.lock";

/// The state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StateLockError {
    /// Another process has it.
    #[error("another me-sync{process} is using {path}", process = of_process(*pid))]
    Held {
        /// The state directory.
        path: PathBuf,
        /// That process, if it says so.
        pid: Option<u32>,
    },
    /// It cannot be made or opened.
    #[error("the state directory {path} cannot be used")]
    Io {
        /// The state directory.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

impl StateLockError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Held { .. } => Code::StateLocked,
            Self::Io { .. } => Code::IoError,
        }
    }
}

/// Holds the state directory until dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the state directory if need be (0700) and locks it, without waiting.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be made.
    pub fn acquire(state_dir: &Path) -> Result<Self, StateLockError> {
        let io = |err| StateLockError::Io { path: state_dir.to_owned(), err };
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io)?;
        let path = state_dir.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // for people only: without it they are not told who has the lock
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).ok();
                Ok(Self { _file: file })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.take(32).read_to_string(&mut text).ok();
                Err(StateLockError::Held { path: state_dir.to_owned(), pid: text.trim().parse().ok() })
            }
            Err(e) => Err(io(e.into())),
        }
    }
}

fn of_process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let first = StateLock::acquire(&state).unwrap();
        let refused = StateLock::acquire(&state).unwrap_err();
        assert_eq!(refused.code(), Code::StateLocked);
        assert!(refused.to_string().contains(&format!("(process {})", std::process::id())), "{refused}");
        drop(first);
        assert!(StateLock::acquire(&state).is_ok());
    }
}

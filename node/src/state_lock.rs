//! One node per state directory: an advisory lock that dies with its process.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
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
    #[error("another me-sync is using {path}")]
    Held {
        /// The state directory.
        path: PathBuf,
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
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateLockError::Held { path: state_dir.to_owned() }),
            Err(e) => Err(io(e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let first = StateLock::acquire(&state).unwrap();
        assert_eq!(StateLock::acquire(&state).err().map(|e| e.code()), Some(Code::StateLocked));
        drop(first);
        assert!(StateLock::acquire(&state).is_ok());
    }
}

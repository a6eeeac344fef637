//! Why the session store cannot be used.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use me_sync_protocol::reason::Code;

/// The session store cannot be used, or a write to it did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("another me-sync is using {path}")]
    Locked {
        /// Which file.
        path: PathBuf,
    },
    /// It belongs to another user.
    #[error("{path} belongs to another user: run as that user, or choose another --state-dir")]
    NotOurs {
        /// Which file.
        path: PathBuf,
    },
    /// Others can read the secrets in it.
    #[error("{path} is open to other users (mode {mode:04o}): if nobody has used that, run `chmod 600 {path}`")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is torn, altered, or something else.
    #[error(
        "{path} is damaged ({what}): restore it from a backup, or move it away; without it, unfinished migrations \
         start over and open tickets are void"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A newer me-sync wrote it.
    #[error("{path} has version {found}, which only a newer me-sync can read: update, or choose another --state-dir")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Reading or writing failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried: `open`, `read or write`, …
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        err: Arc<io::Error>,
    },
    /// Reading or writing failed before, so nothing more is written until the node starts again.
    #[error("{path} is not written any more, since a write failed: see to the disk and start again")]
    Broken {
        /// Which file.
        path: PathBuf,
    },
    /// More is waiting to be written than the store takes.
    #[error("the session store cannot keep up")]
    Busy,
    /// The store is closed.
    #[error("the session store is closed")]
    Closed,
}

impl StoreError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Locked { .. } => Code::StateLocked,
            Self::NotOurs { .. } | Self::Exposed { .. } | Self::Damaged { .. } | Self::Newer { .. } => {
                Code::StateCorrupt
            }
            Self::Io { err, .. } if is_full(err) => Code::NoSpace,
            Self::Io { .. } | Self::Broken { .. } => Code::IoError,
            Self::Busy => Code::Busy,
            Self::Closed => Code::NodeStopping,
        }
    }

    /// What to do next, where the message does not say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Locked { .. } => Some("wait until it is done, or give this one its own --state-dir".to_owned()),
            Self::Io { err, .. } if is_full(err) => Some("make room on that disk and start again".to_owned()),
            Self::Io { .. } => Some("see to that disk, or choose another place with --state-dir".to_owned()),
            Self::NotOurs { .. }
            | Self::Exposed { .. }
            | Self::Damaged { .. }
            | Self::Newer { .. }
            | Self::Broken { .. }
            | Self::Busy
            | Self::Closed => None,
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |err| Self::Io { doing, path, err: Arc::new(err) }
    }
}

fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What went wrong inside a transaction, before the file is named.
#[derive(Debug)]
pub(crate) enum Fault {
    Redb(Box<redb::Error>),
    Damaged(String),
    Newer(u32),
}

macro_rules! faults {
    ($($error:ident)*) => { $(
        impl From<redb::$error> for Fault {
            fn from(err: redb::$error) -> Self {
                Self::Redb(Box::new(err.into()))
            }
        }
    )* };
}

faults!(DatabaseError TransactionError TableError StorageError CommitError);

impl Fault {
    /// As the error of that file.
    pub(crate) fn at(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        let damaged = |path, what: String| StoreError::Damaged { path, what };
        match self {
            Self::Damaged(what) => damaged(path, what),
            Self::Newer(found) => StoreError::Newer { path, found },
            Self::Redb(err) => match *err {
                redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => StoreError::Locked { path },
                redb::Error::Io(err) => match err.kind() {
                    // how a file that is none of redb's, or one that ends too early, is told
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                        damaged(path, err.to_string())
                    }
                    _ => StoreError::io("read or write", &path)(err),
                },
                redb::Error::PreviousIo => StoreError::Broken { path },
                redb::Error::DatabaseClosed => StoreError::Closed,
                // everything else is a file that does not hold what this program wrote
                other => damaged(path, other.to_string()),
            },
        }
    }
}

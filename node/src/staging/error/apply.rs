//! What can go wrong when the trees change places, there and back.

use std::io;
use std::path::PathBuf;

use me_sync_protocol::reason::Code;

use super::{PreflightError, StateError, io_code, shown};

/// The swap did not take place, or its outcome is not known for certain.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The proof is for another manifest than the tree: a bug of the caller. The target is untouched.
    #[error("the staged tree is not the one that was verified; {} is unchanged", shown(.target))]
    Unproven {
        /// The target.
        target: PathBuf,
    },
    /// Somebody stopped the session before the swap. The target is untouched.
    #[error("stopped before the swap; {} is unchanged", shown(.target))]
    Aborted {
        /// The target.
        target: PathBuf,
    },
    /// The target was edited meanwhile and the caller wanted to refuse that. The target is untouched, and the
    /// session can be reopened.
    #[error("{} changed while the data came in, so it was not replaced", shown(.target))]
    Changed {
        /// The target.
        target: PathBuf,
    },
    /// Something else stands at the target's or the staging tree's name. Nothing was touched.
    #[error("{why} at {}; nothing was touched, the new tree is at {}", shown(.target), shown(.staging))]
    Conflict {
        /// The target.
        target: PathBuf,
        /// The staging directory.
        staging: PathBuf,
        /// What is there.
        why: &'static str,
    },
    /// A mount appeared at or inside the target. The target is untouched.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The journal cannot be written. The target is untouched.
    #[error("the journal cannot be written, so the swap was not tried")]
    Journal(#[source] StateError),
    /// The file system refuses to swap these directories. The target is untouched.
    #[error("the file system cannot swap {}; choose a directory on another one", shown(.target))]
    UnsupportedFs {
        /// The target.
        target: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The swap itself failed without effect. The target is untouched.
    #[error("swapping {} failed", shown(.target))]
    Swap {
        /// The target.
        target: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The swap took place, or may have, and the disk did not confirm it. Both trees are kept.
    #[error(
        "the disk did not confirm the swap of {}; both trees are kept, the other one at {}; start me-sync again to settle it",
        shown(.target), shown(.staging)
    )]
    DurabilityUnknown {
        /// The target.
        target: PathBuf,
        /// The other tree.
        staging: PathBuf,
        /// The cause.
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The check after the swap failed; the old tree is back.
    #[error(
        "the command after the swap failed ({why}); {} is what it was before, and the tree that came is {}",
        shown(.target), undone.as_ref().map_or("gone".to_owned(), |path| format!("kept at {}", shown(path)))
    )]
    Health {
        /// The target.
        target: PathBuf,
        /// Where the new tree is; none if the command has taken it away.
        undone: Option<PathBuf>,
        /// What the check said.
        why: String,
    },
    /// The check after the swap failed and going back failed too. What is there stays, the old tree is kept.
    #[error("the command after the swap failed ({why}) and going back failed as well")]
    HealthStuck {
        /// What the check said.
        why: String,
        /// Why the old tree is not back.
        #[source]
        err: Box<RollbackError>,
    },
    /// The apply thread could not run.
    #[error("the apply thread did not run to its end")]
    Thread,
}

impl ApplyError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Aborted { .. } => Code::Aborted,
            Self::Unproven { .. } => Code::ManifestMismatch,
            Self::Changed { .. } => Code::TargetChanged,
            Self::Conflict { .. } => Code::TargetConflict,
            Self::Preflight(err) => err.code(),
            Self::Journal(err) => err.code(),
            Self::UnsupportedFs { .. } => Code::ApplyUnsupportedFs,
            Self::Swap { err, .. } => io_code(err),
            Self::DurabilityUnknown { .. } | Self::Thread => Code::DurabilityUnknown,
            Self::Health { .. } => Code::HealthFailed,
            Self::HealthStuck { err, .. } => err.code(),
        }
    }

    /// The target is exactly what it was, and the staging tree is to go.
    pub(crate) fn is_clean(&self) -> bool {
        match self {
            Self::Aborted { .. }
            | Self::Unproven { .. }
            | Self::Preflight(_)
            | Self::Journal(_)
            | Self::UnsupportedFs { .. }
            | Self::Swap { .. } => true,
            Self::Changed { .. }
            | Self::Conflict { .. }
            | Self::DurabilityUnknown { .. }
            | Self::Health { .. }
            | Self::HealthStuck { .. }
            | Self::Thread => false,
        }
    }
}

/// Going back to the old tree did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// No migration into this directory is on record.
    #[error("no migration into {} is on record here, so there is nothing to roll back", shown(.target))]
    NeverApplied {
        /// The directory.
        target: PathBuf,
    },
    /// There is nothing to go back to.
    #[error("nothing to go back to for {}: {why}", shown(.target))]
    Unavailable {
        /// The directory.
        target: PathBuf,
        /// What is missing, and where things are.
        why: String,
    },
    /// Another session writes here.
    #[error("another session writes {}; wait for it to end or stop it", shown(.target))]
    Busy {
        /// The directory.
        target: PathBuf,
    },
    /// What stands at the names is neither of the two trees, or moving them failed.
    #[error("cannot go back: {why}; nothing was deleted: look at {} and at {}", shown(.target), shown(.retained))]
    Conflict {
        /// The directory.
        target: PathBuf,
        /// Where the other tree is.
        retained: PathBuf,
        /// What is wrong.
        why: &'static str,
        /// The cause, if the system named one.
        #[source]
        err: Option<io::Error>,
    },
    /// The disk did not confirm the way back. Both trees are kept.
    #[error("the disk did not confirm the way back of {}; start me-sync again to settle it", shown(.target))]
    DurabilityUnknown {
        /// The directory.
        target: PathBuf,
        /// The cause.
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The session records cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Looking at the directory failed.
    #[error("looking at {}", shown(.target))]
    Io {
        /// The directory.
        target: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
}

impl RollbackError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NeverApplied { .. } | Self::Unavailable { .. } => Code::RollbackUnavailable,
            Self::Busy { .. } => Code::TargetBusy,
            Self::Conflict { .. } => Code::TargetConflict,
            Self::DurabilityUnknown { .. } => Code::DurabilityUnknown,
            Self::State(err) => err.code(),
            Self::Io { err, .. } => io_code(err),
        }
    }
}

//! What can go wrong, one enum per operation. Messages say what to do next.

mod apply;

use std::io;
use std::path::{Path, PathBuf};

pub use apply::{ApplyError, RollbackError};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::reason::{Code, FailureReason};
use me_sync_protocol::target::TargetRefused;

/// A local path as it may be printed.
pub(crate) fn shown(path: &Path) -> String {
    // longer than a terminal line allows is still better than a cut path in an instruction
    let text = path.to_string_lossy();
    let mut out = String::new();
    let mut rest: &str = &text;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(100).map_or(rest.len(), |(at, _)| at);
        out.push_str(&escaped(&rest[..end]).to_string());
        rest = &rest[end..];
    }
    out
}

/// The code of an I/O error: a full disk has a name of its own.
pub(crate) fn io_code(err: &io::Error) -> Code {
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::NoSpace,
        _ => Code::IoError,
    }
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing below it failed.
    #[error("{what} in the state directory {}", shown(.path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// Something in it is not ours alone.
    #[error("{} {why}; move it away or choose another --state-dir", shown(.path))]
    NotOurs {
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No copy of a journal can be read.
    #[error("no copy of the journal in {} can be read; nothing was touched", shown(.path))]
    Corrupt {
        /// The session's directory.
        path: PathBuf,
    },
    /// The manifest of a session that could go on cannot be read.
    #[error("the manifest {} {why}; the session cannot go on, start a new one", shown(.path))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The session id is taken.
    #[error("a session of that id exists in {}", shown(.path))]
    Exists {
        /// The session's directory.
        path: PathBuf,
    },
    /// Another process works on this session.
    #[error("another me-sync works on the session in {}", shown(.path))]
    Busy {
        /// The session's directory.
        path: PathBuf,
    },
}

impl StateError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Io { err, .. } => io_code(err),
            Self::NotOurs { .. } | Self::Corrupt { .. } | Self::Manifest { .. } | Self::Exists { .. } => {
                Code::StateCorrupt
            }
            Self::Busy { .. } => Code::StateLocked,
        }
    }
}

/// A directory that would do where this one does not.
fn elsewhere(path: &Path) -> &'static str {
    if path.is_dir() { "a new one inside it" } else { "a new one beside it" }
}

/// The target cannot take this tree. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// It is never replaced.
    #[error("{} {why}; choose another directory, for example {}", shown(.path), elsewhere(.path))]
    Forbidden {
        /// The target.
        path: PathBuf,
        /// Which rule.
        why: &'static str,
    },
    /// It is the root of a mounted file system.
    #[error("{} is a mount point, which cannot be swapped; choose a subdirectory of it, such as {}", shown(.path), shown(&.path.join("data")))]
    MountPoint {
        /// The target.
        path: PathBuf,
    },
    /// Something is mounted inside it.
    #[error("{} is mounted inside {}; unmount it first or choose another directory", shown(.mount), shown(.path))]
    ContainsMount {
        /// The target.
        path: PathBuf,
        /// What is mounted inside.
        mount: PathBuf,
    },
    /// Names in the parent directory cannot be changed.
    #[error("cannot swap directories in {}: {why}; make it writable or choose a directory elsewhere", shown(.parent))]
    ParentNotWritable {
        /// The target's parent.
        parent: PathBuf,
        /// What forbids it.
        why: &'static str,
        /// The cause, if the system named one.
        #[source]
        err: Option<io::Error>,
    },
    /// The parent directory does not exist.
    #[error("{} does not exist; create it first (mkdir -p) or choose another directory", shown(.parent))]
    NoParent {
        /// The missing directory.
        parent: PathBuf,
    },
    /// Another session writes here.
    #[error("another session writes {}; wait for it to end or stop it", shown(.path))]
    Busy {
        /// The target or the directory inside or around it that is taken.
        path: PathBuf,
    },
    /// Not enough bytes.
    #[error("{} has {} free where {} are needed; free {} there or choose another disk",
        shown(.path), mib(*.free), mib(*.needed), mib(.needed.saturating_sub(*.free)))]
    NoSpace {
        /// The target's parent.
        path: PathBuf,
        /// Bytes needed, reserve included.
        needed: u64,
        /// Bytes free for us.
        free: u64,
    },
    /// Not enough inodes.
    #[error("{} has {free} free inodes where {needed} are needed; delete files there or choose another disk", shown(.path))]
    NoInodes {
        /// The target's parent.
        path: PathBuf,
        /// Inodes needed.
        needed: u64,
        /// Inodes free.
        free: u64,
    },
    /// Names of the manifest do not fit here.
    #[error("{} cannot hold this tree; choose a directory with a shorter path or on another disk", shown(.path))]
    DoesNotFit {
        /// The target.
        path: PathBuf,
        /// Which name, and why.
        #[source]
        why: TargetRefused,
    },
    /// Directories cannot be swapped on this file system.
    #[error("the file system of {} cannot swap directories; choose a directory on another one", shown(.path))]
    UnsupportedFs {
        /// The target's parent.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// Looking at the target failed.
    #[error("{what} {}", shown(.path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
}

impl PreflightError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Forbidden { .. } | Self::NoParent { .. } => Code::TargetForbidden,
            Self::MountPoint { .. } => Code::TargetIsMountpoint,
            Self::ContainsMount { .. } => Code::TargetContainsMount,
            Self::ParentNotWritable { .. } => Code::TargetParentNotWritable,
            Self::Busy { .. } => Code::TargetBusy,
            Self::NoSpace { .. } | Self::NoInodes { .. } => Code::NoSpace,
            Self::DoesNotFit { why, .. } => why.code(),
            Self::UnsupportedFs { .. } => Code::ApplyUnsupportedFs,
            Self::Io { err, .. } => io_code(err),
        }
    }
}

/// Building the staging tree failed. The target is untouched.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Another session writes this target or one inside or around it.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The session cannot be recorded.
    #[error(transparent)]
    State(#[from] StateError),
    /// The index is not a file of this manifest.
    #[error("entry {index} is not a file of the manifest")]
    NotAFile {
        /// The number.
        index: u32,
    },
    /// A file has more or fewer bytes than declared.
    #[error("{path}: {got} bytes where {declared} were declared")]
    Size {
        /// The entry, printable.
        path: String,
        /// Bytes that came, at least.
        got: u64,
        /// Bytes the manifest declares.
        declared: u64,
    },
    /// A file's bytes on disk are not what was received.
    #[error("{path}: the bytes on disk have another SHA-256 than declared; the disk or another program changed them")]
    Hash {
        /// The entry, printable.
        path: String,
    },
    /// An operation on one entry failed.
    #[error("{what} {path}")]
    Entry {
        /// What was tried.
        what: &'static str,
        /// The entry, printable.
        path: String,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The staging tree is not the manifest's tree.
    #[error("the staging tree is not what the manifest says: {path} {why}")]
    Mismatch {
        /// The entry, printable.
        path: String,
        /// How it differs.
        why: &'static str,
    },
    /// An operation on the staging tree as a whole failed.
    #[error("{what} {}", shown(.path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// The staging directory.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The disk did not confirm what was written. Never tried again: the kernel reports such an error once.
    #[error("the disk of {} did not confirm the written data; check the disk, then start again", shown(.path))]
    Sync {
        /// The staging directory.
        path: PathBuf,
        /// The cause; none when an earlier checkpoint had failed.
        #[source]
        err: Option<io::Error>,
    },
    /// The entry is being written already.
    #[error("entry {index} is being written already")]
    Open {
        /// The number.
        index: u32,
    },
    /// A file that was begun cannot be continued; it can be received from its beginning.
    #[error("{path} cannot be continued: {why}")]
    NoPartial {
        /// The entry, printable.
        path: String,
        /// What is wrong with what there is.
        why: &'static str,
    },
    /// The caller asked to stop.
    #[error("stopped before the end")]
    Stopped,
    /// The session has nothing that could be discarded.
    #[error("the session is not unfinished: {why}")]
    NotUnfinished {
        /// How far it is.
        why: &'static str,
    },
    /// No tree is kept of this session.
    #[error("nothing is kept of this session: {why}")]
    NothingKept {
        /// Why not.
        why: &'static str,
    },
    /// Files are still being written.
    #[error("{open} files of the staging tree are still open")]
    StillWriting {
        /// How many.
        open: usize,
    },
    /// The tree is sealed.
    #[error("the staging tree is sealed")]
    Sealed,
}

impl StageError {
    /// What the operating system said, if it was asked.
    pub fn os_error(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.raw_os_error();
            }
            cause = error.source();
        }
        None
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Preflight(err) => err.code(),
            Self::State(err) => err.code(),
            Self::NotAFile { .. } | Self::Open { .. } | Self::StillWriting { .. } | Self::Sealed => {
                Code::FrameUnexpected
            }
            Self::NoPartial { .. } => Code::IoError,
            Self::Stopped => Code::Aborted,
            Self::NotUnfinished { .. } => Code::SessionUnknown,
            Self::NothingKept { .. } => Code::RollbackUnavailable,
            Self::Size { .. } => Code::SizeMismatch,
            Self::Hash { .. } => Code::HashMismatch,
            Self::Mismatch { .. } => Code::ManifestMismatch,
            Self::Entry { err, .. } | Self::Io { err, .. } => io_code(err),
            Self::Sync { .. } => Code::IoError,
        }
    }

    /// The wire's reason, when this is one file's failure.
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Size { .. } => FailureReason::SizeMismatch,
            Self::Hash { .. } => FailureReason::HashMismatch,
            Self::NotAFile { .. } => FailureReason::ProtocolError,
            Self::Preflight(_)
            | Self::State(_)
            | Self::Entry { .. }
            | Self::Mismatch { .. }
            | Self::Io { .. }
            | Self::Sync { .. }
            | Self::Open { .. }
            | Self::NoPartial { .. }
            | Self::Stopped
            | Self::NotUnfinished { .. }
            | Self::NothingKept { .. }
            | Self::StillWriting { .. }
            | Self::Sealed => FailureReason::IoError,
        }
    }
}

/// Bytes for people.
fn mib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match bytes {
        0..MIB => format!("{} KiB", bytes.div_ceil(1024)),
        MIB..GIB => format!("{} MiB", bytes.div_ceil(MIB)),
        // tenths, rounded up
        _ => {
            let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(GIB));
            format!("{}.{} GiB", tenths / 10, tenths % 10)
        }
    }
}

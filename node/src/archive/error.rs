//! Why there is no package of a tree, and why one that came is not taken.

use std::io;

use me_sync_protocol::archive::NameRefused;
use me_sync_protocol::manifest::ManifestError;
use me_sync_protocol::reason::Code;

use crate::source::ReadError;
use crate::staging::StageError;

/// A package cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// A file is not what it was, or cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Wherever it goes took no more.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    /// Something that an archive does not hold. It was to be found before.
    #[error("an archive does not hold everything in this tree")]
    Unfit,
    /// Somebody wants it to stop.
    #[error("making the archive was stopped")]
    Stopped,
}

impl PackError {
    /// The stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Read(err) => err.code(),
            Self::Write(_) => Code::IoError,
            Self::Unfit => Code::KindUnsupported,
            Self::Stopped => Code::Aborted,
        }
    }
}

/// A package is not taken: the target stays what it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageRefused {
    /// It is no ZIP of the form that this protocol has.
    #[error("the archive is damaged or hostile: {why}")]
    Form {
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The name of an entry.
    #[error("the archive has an entry {name} that is refused")]
    Name {
        /// Escaped.
        name: String,
        /// The rule that it breaks.
        #[source]
        why: NameRefused,
    },
    /// What an entry is, or claims.
    #[error("the archive has an entry {name} that {why}")]
    Entry {
        /// Escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
        /// The stable code.
        code: Code,
    },
    /// It is not what was announced.
    #[error("the archive is not what was announced: {what}")]
    Announced {
        /// What differs.
        what: &'static str,
        /// The stable code.
        code: Code,
    },
    /// Its entries make no manifest.
    #[error("the entries of the archive make no tree")]
    Manifest(#[from] ManifestError),
    /// The spool cannot be used.
    #[error("the file that the archive waits in cannot be {what}")]
    Spool {
        /// Done what with.
        what: &'static str,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// There is no room for it in the state directory.
    #[error("the archive has {needed} bytes, and the state directory {free} bytes of space")]
    NoSpace {
        /// Its length.
        needed: u64,
        /// What is left.
        free: u64,
    },
    /// The staging tree cannot be filled.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Somebody wants it to stop.
    #[error("reading the archive was stopped")]
    Stopped,
}

impl PackageRefused {
    /// The stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Form { .. } => Code::ManifestInvalid,
            Self::Name { why, .. } => why.code(),
            Self::Entry { code, .. } | Self::Announced { code, .. } => *code,
            Self::Manifest(err) => err.code(),
            Self::Spool { err, .. } => match err.raw_os_error() {
                Some(errno) if is_full(errno) => Code::NoSpace,
                _ => Code::IoError,
            },
            Self::NoSpace { .. } => Code::NoSpace,
            Self::Stage(err) => err.code(),
            Self::Stopped => Code::Aborted,
        }
    }

    pub(super) fn form(why: &'static str) -> Self {
        Self::Form { why }
    }
}

fn is_full(errno: i32) -> bool {
    [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT].iter().any(|full| full.raw_os_error() == errno)
}

//! Why a tree cannot be exported and why a file of it cannot be served.

use std::io;
use std::path::PathBuf;

use me_sync_protocol::escape::escaped;
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::ManifestError;
use me_sync_protocol::reason::{Code, FailureReason};

use super::skipped::SkippedReport;

/// Why there is no [`super::Source`] or [`super::Snapshot`]. Paths print escaped; those below the root are relative.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing is at the given path.
    #[error("the source {} does not exist", print(path))]
    NotFound {
        /// As given.
        path: PathBuf,
    },
    /// A socket, FIFO or device was given as the source.
    #[error("the source {} is neither a directory nor a regular file", print(path))]
    NotATree {
        /// As given.
        path: PathBuf,
    },
    /// The root itself cannot be read.
    #[error("the source {} cannot be read", print(path))]
    RootUnreadable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// The root is a single file under a name that no manifest can hold.
    #[error("the name of the source {} cannot be sent: {why}", print(path))]
    RootName {
        /// As resolved.
        path: PathBuf,
        /// The rule it breaks.
        why: me_sync_protocol::path::PathRefused,
    },
    /// Parts of the tree are unreadable or unsupported, and nobody said to leave them out.
    #[error("{}", refused(report))]
    Refused {
        /// Only what stands in the way, by count and first names.
        report: Box<SkippedReport>,
    },
    /// A file kept changing while it was hashed, or vanished.
    #[error("{} changed while it was read", escaped(path))]
    Changed {
        /// Relative to the root.
        path: String,
    },
    /// A file that looked readable in the walk is not.
    #[error("{} cannot be read", escaped(path))]
    Unreadable {
        /// Relative to the root.
        path: String,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// Reading failed, or the system is out of file handles or memory.
    #[error("reading {} failed", escaped(path))]
    Io {
        /// Relative to the root; empty for the root.
        path: String,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// The tree does not fit into a manifest.
    #[error("the tree does not fit into a manifest")]
    Manifest(#[from] ManifestError),
    /// Somebody set the stop flag.
    #[error("hashing was stopped")]
    Aborted,
}

impl SourceError {
    /// The stable code (SPEC §7.2).
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::NotATree { .. } | Self::RootUnreadable { .. } | Self::Unreadable { .. } => {
                Code::SourceUnreadable
            }
            Self::Refused { report } if report.unreadable.count > 0 => Code::SourceUnreadable,
            Self::Refused { .. } | Self::RootName { .. } => Code::PathInvalid,
            Self::Changed { .. } => Code::SourceChanged,
            Self::Io { .. } => Code::IoError,
            Self::Manifest(err) => err.code(),
            Self::Aborted => Code::Aborted,
        }
    }

    /// What the person at the exporter can do.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotFound { .. } => "check the path",
            Self::NotATree { .. } => "give a directory or a regular file",
            Self::RootUnreadable { .. } => "check its permissions, or run as a user who may read it",
            Self::RootName { .. } => "rename the file, or send the directory around it",
            Self::Refused { report } => match (report.unreadable.count > 0, report.unsupported.count > 0) {
                (true, true) => {
                    "make them readable and rename them, or leave them out with --skip-unreadable --skip-unsupported"
                }
                (true, false) => "make them readable, or leave them out with --skip-unreadable",
                (false, _) => "rename them, or leave them out with --skip-unsupported",
            },
            Self::Changed { .. } => "stop the program that writes to it and try again",
            Self::Unreadable { .. } => "make it readable, or leave such files out with --skip-unreadable",
            Self::Manifest(ManifestError::Limit { .. }) => "send parts of the tree one after the other",
            Self::Io { .. } | Self::Manifest(_) | Self::Aborted => return None,
        };
        Some(text.to_owned())
    }
}

/// Why a file of a [`super::Snapshot`] cannot be served. Concerns this one file only.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The manifest has no regular file at this index: the peer asked for something it was not offered.
    #[error("entry {index} is not a file of the manifest")]
    NotAFile {
        /// As asked for.
        index: EntryIndex,
    },
    /// It is gone, replaced, or not what was hashed.
    #[error("{} changed since it was hashed", escaped(path))]
    Changed {
        /// Relative to the root.
        path: String,
    },
    /// It may no longer be read.
    #[error("{} cannot be read any more", escaped(path))]
    Unreadable {
        /// Relative to the root.
        path: String,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// Opening or reading failed.
    #[error("reading {} failed", escaped(path))]
    Io {
        /// Relative to the root.
        path: String,
        /// What the system said.
        #[source]
        err: io::Error,
    },
}

impl ReadError {
    /// The stable code (SPEC §7.2).
    pub fn code(&self) -> Code {
        match self {
            Self::NotAFile { .. } => Code::FrameUnexpected,
            Self::Changed { .. } => Code::SourceChanged,
            Self::Unreadable { .. } => Code::SourceUnreadable,
            Self::Io { .. } => Code::IoError,
        }
    }

    /// What the wire says about the file (SPEC §7.1).
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::NotAFile { .. } => FailureReason::ProtocolError,
            Self::Changed { .. } | Self::Unreadable { .. } | Self::Io { .. } => FailureReason::IoError,
        }
    }
}

fn print(path: &std::path::Path) -> String {
    escaped(&path.to_string_lossy()).to_string()
}

fn refused(report: &SkippedReport) -> String {
    let (unreadable, unsupported) = (&report.unreadable, &report.unsupported);
    let mut parts = Vec::new();
    if unreadable.count > 0 {
        parts.push(format!("{} cannot be read:{unreadable}", entries(unreadable.count)));
    }
    if unsupported.count > 0 {
        parts.push(format!("{} cannot be named in a manifest:{unsupported}", entries(unsupported.count)));
    }
    parts.join("\n")
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

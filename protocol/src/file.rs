//! One file as the importer sees it (SPEC §5.4): on a lane, or on its own disk already.
//!
//! Runs where the bytes are (the writer of a lane, the survey of a staging tree), so that chunks never pass the
//! session's core. A file becomes a [`VerifiedFile`] only here: after its last byte, with the right hash.

mod lane;
mod local;
mod requested;

pub use lane::{LaneReceiver, LaneStep};
pub use local::{LocalFile, Partial};
pub use requested::Requested;

use crate::frame::FailedEntry;
use crate::ids::{Digest, EntryIndex};
use crate::manifest::{Manifest, Node};
use crate::reason::Code;

/// A peer broke the protocol. The session ends with this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Violation {
    /// The stable code.
    pub code: Code,
    /// What the peer did.
    pub what: &'static str,
}

impl Violation {
    /// A frame that has no place here and now.
    pub(crate) const fn unexpected(what: &'static str) -> Self {
        Self { code: Code::FrameUnexpected, what }
    }
}

/// Proof that every byte of an entry is on this device and has the declared SHA-256: the manifest's, or where that has
/// none, the one that the exporter computed while it sent the file.
#[derive(Debug, PartialEq, Eq)]
pub struct VerifiedFile {
    index: EntryIndex,
    size: u64,
    sha256: Digest,
}

impl VerifiedFile {
    /// An entry that a durable ledger of this device records as verified; none if it is no file, or if the manifest does
    /// not say what its SHA-256 is. Nothing is hashed: the record, and that the file on disk is still the one it is about, stand for it.
    pub fn recorded(manifest: &Manifest, index: EntryIndex) -> Option<Self> {
        match manifest.entry(index)?.node {
            Node::File { size, sha256 } => Some(Self { index, size, sha256: sha256? }),
            Node::Dir | Node::Symlink { .. } => None,
        }
    }

    /// Which entry.
    pub fn index(&self) -> EntryIndex {
        self.index
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 of its bytes, computed on this device or on record here.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }
}

/// What became of one file, for the session's core.
#[derive(Debug, PartialEq, Eq)]
pub enum FileReport {
    /// It arrived and is right.
    Ok(VerifiedFile),
    /// It is to be asked for again.
    Failed(FailedEntry),
}

//! Bytes that are on this device already: what a restart, a broken connection or an old tree left of a file.

use sha2::{Digest as _, Sha256};

use super::VerifiedFile;
use crate::ids::{Digest, EntryIndex};
use crate::manifest::{Manifest, Node};
use crate::reason::FailureReason;

/// A file of which the first [`Self::offset`] bytes are staged, with the SHA-256 so far.
#[derive(Clone, Debug)]
pub struct Partial {
    pub(super) index: EntryIndex,
    pub(super) offset: u64,
    pub(super) hash: Sha256,
}

impl Partial {
    /// Which entry.
    pub fn index(&self) -> EntryIndex {
        self.index
    }

    /// Bytes that are there: more than none, fewer than all.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl PartialEq for Partial {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.offset) == (other.index, other.offset)
    }
}

impl Eq for Partial {}

/// Hashes bytes that are on this device already: a staged file after a restart, a file of the old tree.
#[derive(Clone, Debug)]
pub struct LocalFile {
    index: EntryIndex,
    size: u64,
    sha256: Digest,
    length: u64,
    hash: Sha256,
}

impl LocalFile {
    /// Starts with the first byte of the file at `index`; none if the manifest has no file there.
    pub fn begin(manifest: &Manifest, index: EntryIndex) -> Option<Self> {
        match manifest.entry(index)?.node {
            Node::File { size, sha256 } => Some(Self { index, size, sha256, length: 0, hash: Sha256::new() }),
            Node::Dir | Node::Symlink { .. } => None,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len() as u64);
        self.hash.update(bytes);
    }

    /// Bytes taken so far.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// No byte was taken yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Ends the file.
    ///
    /// # Errors
    /// It has another size or another SHA-256 than declared.
    pub fn finish(self) -> Result<VerifiedFile, FailureReason> {
        match self.length == self.size {
            false => Err(FailureReason::SizeMismatch),
            true if Digest(self.hash.finalize().into()) != self.sha256 => Err(FailureReason::HashMismatch),
            true => Ok(VerifiedFile { index: self.index, size: self.size }),
        }
    }

    /// What there is, to be continued; none if that is nothing, all or too much.
    pub fn into_partial(self) -> Option<Partial> {
        let continues = self.length > 0 && self.length < self.size;
        continues.then_some(Partial { index: self.index, offset: self.length, hash: self.hash })
    }
}

impl VerifiedFile {
    /// A file from a durable ledger of this device: it was verified before and the disk confirmed it. None if the
    /// manifest has no file there.
    pub fn recorded(manifest: &Manifest, index: EntryIndex) -> Option<Self> {
        match manifest.entry(index)?.node {
            Node::File { size, .. } => Some(Self { index, size }),
            Node::Dir | Node::Symlink { .. } => None,
        }
    }
}

//! Bytes that are on this device already (SPEC §6.4): a staged file after a restart, a file of the old tree.
//!
//! They are worth what their hash says, and nothing before it is computed here.

use super::VerifiedFile;
use crate::hash::Hasher;
use crate::ids::{Digest, EntryIndex};
use crate::manifest::{Manifest, Node};
use crate::reason::FailureReason;

/// A file of which the first bytes are staged, with the SHA-256 so far.
#[derive(Debug, Clone)]
pub struct Partial {
    pub(super) index: EntryIndex,
    pub(super) offset: u64,
    pub(super) hash: Hasher,
}

impl Partial {
    /// Which entry.
    pub fn index(&self) -> EntryIndex {
        self.index
    }

    /// How many of its first bytes are staged: at least one, at most all.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// Hashes the bytes of an entry that are on this device.
#[derive(Debug, Clone)]
pub struct LocalFile {
    index: EntryIndex,
    size: u64,
    sha256: Digest,
    len: u64,
    hash: Hasher,
}

impl LocalFile {
    /// Before the first byte; none if the entry is no file, or has no SHA-256 to be compared with.
    pub fn begin(manifest: &Manifest, index: EntryIndex) -> Option<Self> {
        match manifest.entry(index)?.node {
            Node::File { size, sha256 } => Some(Self { index, size, sha256: sha256?, len: 0, hash: Hasher::new() }),
            Node::Dir | Node::Symlink { .. } => None,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len() as u64);
        self.hash.update(bytes);
    }

    /// Takes a hole of so many bytes.
    pub fn update_zeros(&mut self, len: u64) {
        self.len = self.len.saturating_add(len);
        self.hash.update_zeros(len);
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// No byte so far.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// After the last byte.
    ///
    /// # Errors
    /// More or fewer bytes than the manifest says, or another SHA-256.
    pub fn finish(self) -> Result<VerifiedFile, FailureReason> {
        if self.len != self.size {
            return Err(FailureReason::SizeMismatch);
        }
        if self.hash.finish() != self.sha256 {
            return Err(FailureReason::HashMismatch);
        }
        Ok(VerifiedFile { index: self.index, size: self.size, sha256: self.sha256 })
    }

    /// What there is, to be continued by the exporter; none without a byte, or with as many as the whole has.
    pub fn into_partial(self) -> Option<Partial> {
        let Self { index, size, len: offset, hash, .. } = self;
        (0 < offset && offset < size).then_some(Partial { index, offset, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Entry, ManifestBuilder};
    use crate::path::RelPath;

    /// Entries 0 `a` ("alpha") and 1 `d` (dir).
    fn manifest() -> Manifest {
        let mut builder = ManifestBuilder::new(None, None);
        let file = Node::File { size: 5, sha256: Some(Digest::of(b"alpha")) };
        for (path, node) in [("a", file), ("d", Node::Dir)] {
            builder.push(&Entry { path: RelPath::parse(path).unwrap(), node, mode: None, mtime: None }).unwrap();
        }
        builder.finish().unwrap()
    }

    fn hashed(bytes: &[u8]) -> LocalFile {
        let mut file = LocalFile::begin(&manifest(), EntryIndex(0)).unwrap();
        bytes.chunks(2).for_each(|chunk| file.update(chunk));
        file
    }

    // SPEC §6.4
    #[test]
    fn local_bytes_count_only_with_the_size_and_hash_of_the_manifest() {
        assert_eq!(
            hashed(b"alpha").finish(),
            Ok(VerifiedFile { index: EntryIndex(0), size: 5, sha256: Digest::of(b"alpha") })
        );
        assert_eq!(hashed(b"alphA").finish(), Err(FailureReason::HashMismatch));
        assert_eq!(hashed(b"alph").finish(), Err(FailureReason::SizeMismatch));
        assert_eq!(hashed(b"alphaa").finish(), Err(FailureReason::SizeMismatch));
        assert!(LocalFile::begin(&manifest(), EntryIndex(1)).is_none(), "a directory");
        assert!(LocalFile::begin(&manifest(), EntryIndex(2)).is_none(), "past the end");
        assert_eq!(VerifiedFile::recorded(&manifest(), EntryIndex(1)), None);
    }

    #[test]
    fn only_a_true_beginning_can_be_continued() {
        assert_eq!(hashed(b"alp").into_partial().map(|p| (p.index(), p.offset())), Some((EntryIndex(0), 3)));
        for all in [&b""[..], b"alpha", b"alphaa"] {
            assert!(hashed(all).into_partial().is_none(), "{} bytes", all.len());
        }
    }
}

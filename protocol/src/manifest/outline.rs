//! Outlines (SPEC §4.6): a manifest whose files are not hashed yet, and the way from there to the sealed one and back.

use super::canonical::{HASH_FIELD, encode_entry, encode_header};
use super::{Entry, Manifest, ManifestBuilder, ManifestHeader, Node};
use crate::hash::Hasher;
use crate::ids::{Digest, EntryIndex};

impl Manifest {
    /// The SHA-256 of the files are still to come.
    pub fn is_outline(&self) -> bool {
        self.header.outline
    }

    /// The sealed manifest: this outline with the SHA-256 of every file. None if one of them is missing, or if this is
    /// no outline.
    pub fn seal(&self, mut sha256: impl FnMut(EntryIndex) -> Option<Digest>) -> Option<Self> {
        if !self.is_outline() {
            return None;
        }
        let mut builder = ManifestBuilder::new(self.header.root_mode, self.header.root_mtime);
        // growing by and by would leave its smaller beginnings behind, beside two whole manifests
        builder.reserve(self.len(), self.bytes.len() as u64 + u64::from(self.counts.files) * HASH_FIELD);
        builder.add_holes(self.total_bytes() - self.data_bytes());
        for (index, entry) in self.entries() {
            let node = match entry.node {
                Node::File { size, sha256: None } => Node::File { size, sha256: Some(sha256(index)?) },
                known @ (Node::File { .. } | Node::Dir | Node::Symlink { .. }) => known,
            };
            builder.push(&Entry { node, ..entry }).ok()?;
        }
        builder.finish().ok()
    }

    /// The digest of [`Manifest::seal`], without making that manifest: one of a million entries takes 90 MB.
    pub fn sealed_sha256(&self, mut sha256: impl FnMut(EntryIndex) -> Option<Digest>) -> Option<Digest> {
        if !self.is_outline() {
            return None;
        }
        let mut hash = Hasher::new();
        let mut bytes = Vec::new();
        encode_header(&ManifestHeader { outline: false, ..self.header }, &mut bytes);
        hash.update(&bytes);
        for (index, mut entry) in self.entries() {
            if let Node::File { sha256: missing @ None, .. } = &mut entry.node {
                *missing = Some(sha256(index)?);
            }
            bytes.clear();
            encode_entry(&entry, &mut bytes);
            hash.update(&bytes);
        }
        Some(hash.finish())
    }

    /// The digest of the outline that this manifest seals; an outline's own one is its digest.
    pub fn outline_sha256(&self) -> Digest {
        if self.is_outline() {
            return self.sha256;
        }
        let mut hash = Hasher::new();
        let mut bytes = Vec::new();
        encode_header(&ManifestHeader { outline: true, ..self.header }, &mut bytes);
        hash.update(&bytes);
        for (_, mut entry) in self.entries() {
            if let Node::File { size: 1.., sha256 } = &mut entry.node {
                *sha256 = None;
            }
            bytes.clear();
            encode_entry(&entry, &mut bytes);
            hash.update(&bytes);
        }
        hash.finish()
    }
}

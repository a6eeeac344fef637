//! Outlines (SPEC §4.6): a manifest whose files are not hashed yet, and the way from there to the sealed one and back.

use std::sync::Arc;

use bytes::Bytes;

use super::canonical::{encode_entry, encode_header};
use super::{Manifest, ManifestHeader, Node};
use crate::hash::Hasher;
use crate::ids::{Digest, EntryIndex};
use crate::limits::{MAX_CHUNK, MAX_CHUNK_ENTRIES};

impl Manifest {
    /// The SHA-256 of the files are still to come.
    pub fn is_outline(&self) -> bool {
        self.header.outline
    }

    /// The sealed manifest: this outline with the SHA-256 of every file, one for each entry; those of what is no file,
    /// or an empty one, do not count. None if there are too few or too many, or if this is no outline. Shares memory
    /// with both: one of a million entries would take 90 MB.
    pub fn seal(&self, late: Arc<[Digest]>) -> Option<Self> {
        if late.len() != self.len() as usize {
            return None;
        }
        let sha256 = self.sealed_sha256(|index| late.get(index.at()).copied())?;
        let header = ManifestHeader { outline: false, ..self.header };
        Some(Self { header, sha256, late: Some(late), ..self.clone() })
    }

    /// The entries from `at` on that fit into one chunk, each with its hash (SPEC §4.5).
    pub(super) fn sealed_chunk(&self, at: &mut usize) -> Bytes {
        let mut chunk = Vec::new();
        let entries = (*at..).map_while(|at| self.entry(EntryIndex(u32::try_from(at).ok()?)));
        for entry in entries.take(MAX_CHUNK_ENTRIES) {
            let whole = chunk.len();
            encode_entry(&entry, &mut chunk);
            if chunk.len() > MAX_CHUNK {
                chunk.truncate(whole);
                break;
            }
            *at += 1;
        }
        chunk.into()
    }

    /// The digest of [`Manifest::seal`], as it is before there are hashes of all entries in one place.
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
        match self.late {
            None if self.is_outline() => return self.sha256,
            Some(_) => return Digest::of(&self.bytes),
            None => {}
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

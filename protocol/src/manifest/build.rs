//! The exporter's way to a manifest: entries in, canonical bytes out (SPEC §4.1).

use super::canonical::encode_entry;
use super::{Entry, KindCounts, Manifest, ManifestError, ManifestHeader, Mtime, Node, canonical, find_in};
use crate::ids::Digest;
use crate::limits::{MAX_ENTRIES, MAX_MANIFEST_BYTES, MAX_SIZE};

/// Collects entries in ascending order of their path bytes. Refuses what an importer would refuse.
#[derive(Debug)]
pub struct ManifestBuilder {
    root_mode: Option<u32>,
    root_mtime: Option<Mtime>,
    outline: bool,
    holes: u64,
    entries: EntryBlock,
}

impl ManifestBuilder {
    /// Starts a manifest for a root directory with these attributes.
    pub fn new(root_mode: Option<u32>, root_mtime: Option<Mtime>) -> Self {
        Self { root_mode, root_mtime, outline: false, holes: 0, entries: EntryBlock::default() }
    }

    /// Starts an outline: no file that has bytes comes with its SHA-256 (SPEC §4.6).
    pub fn outline(root_mode: Option<u32>, root_mtime: Option<Mtime>) -> Self {
        Self { outline: true, ..Self::new(root_mode, root_mtime) }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// The entry is out of order, a duplicate, without parent, or one too many.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), ManifestError> {
        self.entries.check(entry, self.outline)?;
        let from = self.entries.bytes.len();
        encode_entry(entry, &mut self.entries.bytes);
        // what our own encoder wrote must be what every decoder takes
        if let Err(why) = canonical::decode_entry(&self.entries.bytes[from..]) {
            let index = self.entries.len();
            self.entries.bytes.truncate(from);
            return Err(entry_error(index, why));
        }
        self.entries.commit(entry)
    }

    /// So many bytes of the files are holes.
    pub fn add_holes(&mut self, bytes: u64) {
        self.holes = self.holes.saturating_add(bytes);
    }

    /// Seals the manifest: header in front, SHA-256 over all.
    ///
    /// # Errors
    /// The manifest is larger than 256 MiB.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        let total_bytes = self.entries.total_bytes;
        let header = ManifestHeader {
            entry_count: self.entries.len(),
            total_bytes,
            root_mode: self.root_mode,
            root_mtime: self.root_mtime,
            outline: self.outline,
            data_bytes: Some(total_bytes.saturating_sub(self.holes)).filter(|data| *data < total_bytes),
        };
        self.entries.seal(header)
    }
}

/// Encoded entries with the rules between them: order, parents, totals (SPEC §4.3). Shared by builder and assembler.
#[derive(Debug, Default)]
pub(super) struct EntryBlock {
    pub(super) bytes: Vec<u8>,
    /// Start of each entry and the end of the last one; empty while there is none.
    starts: Vec<u32>,
    counts: KindCounts,
    /// Files whose hash is still to come.
    unhashed: u32,
    pub(super) total_bytes: u64,
    last_path: String,
    /// The directory that the last entry lay in: known to be declared.
    last_parent: String,
}

impl EntryBlock {
    pub(super) fn len(&self) -> u64 {
        self.starts.len().saturating_sub(1) as u64
    }

    /// The rules between this entry, those before it and the header.
    pub(super) fn check(&mut self, entry: &Entry<'_>, outline: bool) -> Result<(), ManifestError> {
        let index = self.len();
        // SPEC §4.6
        match entry.node {
            Node::File { sha256: None, .. } if !outline => {
                return Err(ManifestError::NotCanonical { index, why: "a file without its SHA-256" });
            }
            Node::File { size, sha256: Some(_) } if outline && size > 0 => {
                return Err(ManifestError::NotCanonical { index, why: "a SHA-256 in an outline" });
            }
            Node::File { .. } | Node::Dir | Node::Symlink { .. } => {}
        }
        if index >= u64::from(MAX_ENTRIES) {
            return Err(ManifestError::Limit { what: "entries" });
        }
        let path = entry.path.as_str();
        if index > 0 {
            match path.as_bytes().cmp(self.last_path.as_bytes()) {
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Equal => return Err(ManifestError::Duplicate { index }),
                std::cmp::Ordering::Less => return Err(self.misplaced(path, index)),
            }
        }
        if let Some(parent) = entry.path.parent()
            && parent != self.last_parent
        {
            let at = find_in(&self.bytes, &self.starts, parent).ok_or(ManifestError::NoParent { index })?;
            let raw = super::span(&self.starts, at as usize).and_then(|s| self.bytes.get(s)).unwrap_or_default();
            match canonical::checked_entry(raw).map(|e| e.node) {
                Ok(Node::Dir) => parent.clone_into(&mut self.last_parent),
                _ => return Err(ManifestError::ParentNotDir { index }),
            }
        }
        Ok(())
    }

    /// Takes note of an entry whose bytes now end the block.
    pub(super) fn commit(&mut self, entry: &Entry<'_>) -> Result<(), ManifestError> {
        let end = u32::try_from(self.bytes.len()).map_err(|_| ManifestError::Limit { what: "manifest bytes" })?;
        if u64::from(end) > MAX_MANIFEST_BYTES {
            return Err(ManifestError::Limit { what: "manifest bytes" });
        }
        let total = self.total_bytes.checked_add(entry.size()).filter(|t| *t <= MAX_SIZE);
        self.total_bytes = total.ok_or(ManifestError::Limit { what: "total size" })?;
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.starts.push(end);
        match entry.node {
            Node::File { sha256, .. } => {
                self.counts.files += 1;
                self.unhashed += u32::from(sha256.is_none());
            }
            Node::Dir => self.counts.dirs += 1,
            Node::Symlink { .. } => self.counts.symlinks += 1,
        }
        entry.path.as_str().clone_into(&mut self.last_path);
        Ok(())
    }

    /// Bytes of these entries once every file has its hash.
    pub(super) fn sealed_len(&self) -> u64 {
        self.bytes.len() as u64 + u64::from(self.unhashed) * canonical::HASH_FIELD
    }

    /// Puts the header in front and hashes the whole.
    pub(super) fn seal(mut self, header: ManifestHeader) -> Result<Manifest, ManifestError> {
        // SPEC §4.6: it would end when all files are there
        if self.sealed_len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::Limit { what: "manifest bytes" });
        }
        let mut head = Vec::new();
        canonical::encode_header(&header, &mut head);
        let shift = u32::try_from(head.len()).map_err(|_| ManifestError::Limit { what: "manifest bytes" })?;
        // in place: a second copy of a large manifest would double the peak of memory
        self.bytes.splice(0..0, head);
        let bytes = self.bytes;
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.starts.iter_mut().for_each(|start| *start += shift);
        let sha256 = Digest::of(&bytes);
        Ok(Manifest {
            bytes: bytes.into(),
            starts: self.starts.into(),
            header,
            counts: self.counts,
            sha256,
            late: None,
        })
    }

    /// Out of order: a repeated path is named as such, so that a twin cannot hide behind disorder.
    fn misplaced(&self, path: &str, index: u64) -> ManifestError {
        match find_in(&self.bytes, &self.starts, path) {
            Some(_) => ManifestError::Duplicate { index },
            None => ManifestError::Order { index },
        }
    }
}

pub(super) fn entry_error(index: u64, why: canonical::EntryRefused) -> ManifestError {
    use canonical::EntryRefused;
    match why {
        EntryRefused::Path(why) => ManifestError::Path { index, why },
        EntryRefused::Kind(kind) => ManifestError::Kind { index, kind },
        EntryRefused::Limit(what) => ManifestError::Limit { what },
        EntryRefused::Form(why) => ManifestError::NotCanonical { index, why },
    }
}

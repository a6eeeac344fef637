//! The manifest: the sorted list of everything a tree holds (SPEC §4).
//!
//! A [`Manifest`] exists only in checked, canonical form: it comes out of the [`ManifestBuilder`]
//! (exporter) or the [`ManifestAssembler`] (importer, trusts nothing). It keeps the canonical bytes
//! in one block and decodes entries on demand, so a million entries cost about their encoded size. A sealed outline
//! shares the block of the outline and has the hashes beside it, so that no second block stands beside the first.

mod assemble;
mod build;
mod canonical;
mod outline;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub use assemble::ManifestAssembler;
pub use build::ManifestBuilder;

use crate::ids::{Digest, EntryIndex};
use crate::limits::{MAX_CHUNK, MAX_CHUNK_ENTRIES};
use crate::path::{PathRefused, RelPath};
use crate::reason::Code;

/// The manifest format this crate speaks.
pub const SCHEMA_VERSION: u32 = 4;

/// A modification time: milliseconds from 1970 (rounded down) and the nanoseconds below (SPEC §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Milliseconds since 1970-01-01 UTC, rounded towards the past.
    pub ms: i64,
    /// Nanoseconds within that millisecond, 0 to 999 999.
    pub sub_ns: u32,
}

impl Mtime {
    /// From seconds and nanoseconds as file systems give them.
    pub fn from_unix(secs: i64, nanos: u32) -> Self {
        Self { ms: secs.saturating_mul(1000).saturating_add(i64::from(nanos / 1_000_000)), sub_ns: nanos % 1_000_000 }
    }

    /// Seconds and nanoseconds as file systems take them.
    pub fn to_unix(self) -> (i64, u32) {
        let secs = self.ms.div_euclid(1000);
        // rem_euclid(1000) lies in 0..1000
        let millis = u32::try_from(self.ms.rem_euclid(1000)).unwrap_or(0);
        (secs, millis * 1_000_000 + self.sub_ns)
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node<'a> {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 of all of them. An outline has it for empty files only, every other manifest for all.
        sha256: Option<Digest>,
    },
    /// A directory.
    Dir,
    /// A symbolic link. Its text is never followed or resolved by me-sync.
    Symlink {
        /// The link text.
        target: Cow<'a, str>,
    },
}

/// One thing in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it is, relative to the root.
    pub path: RelPath<'a>,
    /// What it is.
    pub node: Node<'a>,
    /// Permission bits as the exporter has them; the importer applies a mask (SPEC §4.4). None for symlinks.
    pub mode: Option<u32>,
    /// Modification time.
    pub mtime: Option<Mtime>,
}

impl Entry<'_> {
    /// Payload bytes: a file's size, else 0.
    pub fn size(&self) -> u64 {
        match self.node {
            Node::File { size, .. } => size,
            Node::Dir | Node::Symlink { .. } => 0,
        }
    }

    /// Is it a regular file?
    pub fn is_file(&self) -> bool {
        matches!(self.node, Node::File { .. })
    }

    /// A file's SHA-256, if it is known.
    pub fn sha256(&self) -> Option<Digest> {
        match self.node {
            Node::File { sha256, .. } => sha256,
            Node::Dir | Node::Symlink { .. } => None,
        }
    }
}

/// What `manifest_begin` declares, and the first bytes of the canonical form (SPEC §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestHeader {
    /// Number of entries.
    pub entry_count: u64,
    /// Sum of the sizes of all files.
    pub total_bytes: u64,
    /// Permission bits of the root directory.
    pub root_mode: Option<u32>,
    /// Modification time of the root directory.
    pub root_mtime: Option<Mtime>,
    /// The SHA-256 of the files are still to come (SPEC §4.6).
    pub outline: bool,
    /// Bytes of the files that are no holes; less than `total_bytes`, or absent.
    pub data_bytes: Option<u64>,
}

/// How many entries of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindCounts {
    /// Regular files.
    pub files: u32,
    /// Directories, without the root.
    pub dirs: u32,
    /// Symbolic links.
    pub symlinks: u32,
}

/// Why a manifest is refused. Nothing was created for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A path breaks SPEC §3.3.
    #[error("entry {index}: {why}")]
    Path {
        /// Which entry.
        index: u64,
        /// Which rule.
        why: PathRefused,
    },
    /// Bytes that are not the canonical encoding of an entry.
    #[error("entry {index} is not in canonical form: {why}")]
    NotCanonical {
        /// Which entry.
        index: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// An entry kind this version does not know.
    #[error("entry {index} has unknown kind {kind}")]
    Kind {
        /// Which entry.
        index: u64,
        /// The number on the wire.
        kind: u64,
    },
    /// Entries are not in ascending order of their path bytes.
    #[error("entry {index} is out of order")]
    Order {
        /// Which entry.
        index: u64,
    },
    /// The same path twice.
    #[error("entry {index} repeats a path")]
    Duplicate {
        /// Which entry.
        index: u64,
    },
    /// The parent directory is not declared before the entry.
    #[error("entry {index} has no declared parent directory")]
    NoParent {
        /// Which entry.
        index: u64,
    },
    /// The parent is declared as a file or symlink.
    #[error("entry {index} lies below something that is not a directory")]
    ParentNotDir {
        /// Which entry.
        index: u64,
    },
    /// More entries, bytes or size than allowed.
    #[error("the manifest passes the limit of {what}")]
    Limit {
        /// Which limit.
        what: &'static str,
    },
    /// An outline where a manifest with every SHA-256 is due.
    #[error("the manifest is an outline, which was not asked for")]
    Outline,
    /// A declared figure is not the real one.
    #[error("the manifest's {what} is not what was declared")]
    Mismatch {
        /// Which figure.
        what: &'static str,
    },
    /// Another schema version.
    #[error("the manifest has schema version {0}, not {SCHEMA_VERSION}")]
    Version(u32),
}

impl ManifestError {
    /// The stable code (SPEC §7.2).
    pub fn code(&self) -> Code {
        match self {
            Self::Path { why, .. } if why.is_limit() => Code::ManifestLimit,
            Self::Path { .. } => Code::PathInvalid,
            Self::NotCanonical { .. } | Self::Order { .. } | Self::NoParent { .. } => Code::ManifestInvalid,
            Self::Outline => Code::ManifestInvalid,
            Self::Kind { .. } => Code::KindUnsupported,
            Self::Duplicate { .. } | Self::ParentNotDir { .. } => Code::PathCollision,
            Self::Limit { .. } => Code::ManifestLimit,
            Self::Mismatch { .. } => Code::ManifestMismatch,
            Self::Version(_) => Code::VersionMismatch,
        }
    }
}

/// A checked manifest in canonical form.
#[derive(Clone)]
pub struct Manifest {
    /// Canonical bytes of header and entries; those of the outline if there is `late`.
    bytes: Bytes,
    /// Where each entry starts in `bytes`; one more for the end.
    starts: Arc<[u32]>,
    header: ManifestHeader,
    counts: KindCounts,
    sha256: Digest,
    /// Of a sealed outline: a SHA-256 for each entry, which counts for files that the outline has none for.
    late: Option<Arc<[Digest]>>,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest").field("header", &self.header).field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

impl Manifest {
    /// The declared and checked figures.
    pub fn header(&self) -> &ManifestHeader {
        &self.header
    }

    /// SHA-256 of [`Self::canonical_bytes`]: the name of this exact tree.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// The bytes that [`Self::sha256`] covers. They are made for this call if the manifest is a sealed outline.
    pub fn canonical_bytes(&self) -> Bytes {
        match self.late {
            None => self.bytes.clone(),
            Some(_) => std::iter::once(self.header_bytes()).chain(self.chunks()).flatten().collect(),
        }
    }

    /// Entries of each kind.
    pub fn counts(&self) -> KindCounts {
        self.counts
    }

    /// Number of entries.
    pub fn len(&self) -> u32 {
        // the builder and the assembler stop at MAX_ENTRIES
        u32::try_from(self.starts.len() - 1).unwrap_or(u32::MAX)
    }

    /// An empty tree.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sum of all file sizes.
    pub fn total_bytes(&self) -> u64 {
        self.header.total_bytes
    }

    /// What the files hold on the exporter's disk: the sum of their sizes without their holes.
    pub fn data_bytes(&self) -> u64 {
        self.header.data_bytes.unwrap_or(self.header.total_bytes)
    }

    /// All indices in order.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = EntryIndex> + DoubleEndedIterator + use<> {
        (0..self.len()).map(EntryIndex)
    }

    /// The entry at `index`; none past the end.
    pub fn entry(&self, index: EntryIndex) -> Option<Entry<'_>> {
        let raw = self.raw(index)?;
        // every entry was decoded once when the manifest was made
        let mut entry = canonical::checked_entry(raw).ok()?;
        if let (Node::File { sha256: missing @ None, .. }, Some(late)) = (&mut entry.node, &self.late) {
            *missing = late.get(index.at()).copied();
        }
        Some(entry)
    }

    /// All entries in order.
    pub fn entries(&self) -> impl Iterator<Item = (EntryIndex, Entry<'_>)> {
        self.indices().filter_map(|index| Some((index, self.entry(index)?)))
    }

    /// Finds an entry by its exact path, in O(log n).
    pub fn find(&self, path: &str) -> Option<EntryIndex> {
        find_in(&self.bytes, &self.starts, path).map(EntryIndex)
    }

    /// The entries' bytes cut into pieces for `manifest_chunk`: whole entries, each piece at most
    /// 1 MiB and 4096 entries (SPEC §4.5). Shares memory with the manifest, unless that is a sealed outline.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> + '_ {
        let last = self.starts.len() - 1;
        let mut at = 0;
        std::iter::from_fn(move || {
            if at == last {
                return None;
            }
            if self.late.is_some() {
                return Some(self.sealed_chunk(&mut at));
            }
            let from = self.starts[at] as usize;
            let mut end = at + 1;
            while end < last && end - at < MAX_CHUNK_ENTRIES && self.starts[end + 1] as usize - from <= MAX_CHUNK {
                end += 1;
            }
            at = end;
            Some(self.bytes.slice(from..self.starts[end] as usize))
        })
    }

    fn raw(&self, index: EntryIndex) -> Option<&[u8]> {
        self.bytes.get(span(&self.starts, index.at())?)
    }
}

fn span(starts: &[u32], at: usize) -> Option<Range<usize>> {
    Some(*starts.get(at)? as usize..*starts.get(at + 1)? as usize)
}

/// Binary search over encoded entries; `starts` ends with the end of the last one.
fn find_in(bytes: &[u8], starts: &[u32], path: &str) -> Option<u32> {
    let mut low = 0;
    let mut high = starts.len().checked_sub(1)?;
    while low < high {
        let middle = low + (high - low) / 2;
        let there = canonical::path_of(bytes.get(span(starts, middle)?)?)?;
        match there.as_bytes().cmp(path.as_bytes()) {
            std::cmp::Ordering::Equal => return u32::try_from(middle).ok(),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

#[cfg(test)]
mod tests;

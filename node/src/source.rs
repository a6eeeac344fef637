//! The exporter's side of a tree: walk it, hash it, serve its files.
//!
//! Owns: the root's directory handle, the list of what lies below it, and the identity (device, inode, size,
//! times) that every file had when it was hashed. Refuses: to follow a symlink, to open a FIFO, socket or device,
//! to serve a byte of a file that is no longer the hashed one. Everything here blocks; the caller runs it on
//! blocking threads. A send starts with [`Source::scan`], goes on with [`Source::hash`] and serves every
//! importer of the resulting [`Snapshot`] through a [`SnapshotReader`] of its own.
//!
//! What changes a file without a trace in its size and times is found by the importer, who checks the SHA-256.

mod archive;
mod beneath;
mod cache;
mod error;
mod hash;
mod outline;
mod read;
mod skipped;
mod tree;
mod walk;

use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

pub use cache::{FreshHash, HashCache, HashKeeper, KeptHashes};
pub use error::{ReadError, SourceError};
pub use outline::{Hashed, Late, Outline};
pub use read::{Snapshot, SnapshotReader, SourceFile};
pub use skipped::{Skipped, SkippedReport, SpecialCounts};

use me_sync_protocol::ids::Digest;
use serde::{Deserialize, Serialize};
use tree::Tree;
use utoipa::ToSchema;

/// What [`Source::scan`] leaves out instead of failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanOptions {
    /// Leave out what cannot be read; also what turns out so, or has vanished, while hashing.
    pub skip_unreadable: bool,
    /// Leave out names and symlink targets that no manifest can hold.
    pub skip_unsupported: bool,
}

/// A walked tree whose files are not hashed yet. Keeps the root directory open.
#[derive(Debug)]
pub struct Source {
    tree: Tree,
    options: ScanOptions,
    summary: SourceSummary,
    /// Stands for all that was found.
    fingerprint: u64,
    /// Hashes that are known already, by record number; empty before hashing began.
    known: Vec<Option<Digest>>,
    /// When the walk was over.
    walked: Instant,
}

/// Two walks of this in common found the very same: names, kinds, sizes, times, inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WalkId {
    root: PathBuf,
    options: ScanOptions,
    fingerprint: u64,
}

impl Source {
    /// Walks the tree at `path` without following symlinks; only `path` itself may be one and is resolved once.
    /// A regular file is a tree of that one entry. Mounted file systems below the root belong to the tree.
    ///
    /// # Errors
    /// The root is missing, unreadable or neither directory nor file; something in the tree is unreadable or
    /// unsupported and the options do not leave it out; the tree passes a limit of the protocol.
    pub fn scan(path: &Path, options: &ScanOptions) -> Result<Self, SourceError> {
        let walked = walk::scan(path)?;
        let unreadable = walked.skipped.unreadable.count > 0 && !options.skip_unreadable;
        let unsupported = walked.skipped.unsupported.count > 0 && !options.skip_unsupported;
        if unreadable || unsupported {
            let mut report = walked.skipped;
            // what a flag already leaves out is no reason to fail
            if !unreadable {
                report.unreadable = Skipped::default();
            }
            if !unsupported {
                report.unsupported = Skipped::default();
            }
            return Err(SourceError::Refused { report: Box::new(report) });
        }
        let summary = SourceSummary::of(walked.root_path, &walked.tree, walked.skipped);
        let fingerprint = walked.tree.fingerprint();
        Ok(Self {
            tree: walked.tree,
            options: *options,
            summary,
            fingerprint,
            known: Vec::new(),
            walked: Instant::now(),
        })
    }

    /// The directory that is open since the walk: the root, or the one around a root that is a file. Every later access
    /// goes by it.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.tree.root.as_fd()
    }

    /// What tells this walk from others.
    pub(crate) fn walk_id(&self) -> WalkId {
        WalkId { root: self.summary.root.clone(), options: self.options, fingerprint: self.fingerprint }
    }

    /// What may be left out.
    pub fn options(&self) -> ScanOptions {
        self.options
    }

    /// What the walk found.
    pub fn summary(&self) -> &SourceSummary {
        &self.summary
    }

    /// Hashes every file on `threads` threads and seals the manifest. A file that changes meanwhile is hashed
    /// again, up to three times. A file whose hash is in the `cache` is not even opened; new hashes go there, also
    /// when this ends early.
    ///
    /// # Errors
    /// A file keeps changing, has vanished or cannot be read (the latter two only without `skip_unreadable`); the
    /// manifest passes a limit; `stop` was set.
    pub fn hash(
        self,
        threads: NonZeroUsize,
        cache: Option<&HashCache>,
        progress: &HashProgress,
        stop: &AtomicBool,
    ) -> Result<Snapshot, SourceError> {
        match self.hash_or_outline(threads, cache, progress, stop, &Late::never())? {
            Hashed::Whole(snapshot) => Ok(*snapshot),
            Hashed::Outline(_) => Err(SourceError::Aborted),
        }
    }
}

/// What a walk found, for people to look at before anything is sent.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SourceSummary {
    /// The root with all symlinks resolved. Escape it before printing.
    #[serde(with = "crate::api::text::path")]
    #[schema(value_type = String)]
    pub root: PathBuf,
    /// The root is a single regular file.
    pub root_is_file: bool,
    /// Regular files.
    pub files: u64,
    /// Directories, without the root.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Sum of the file sizes at the time of the walk.
    pub bytes: u64,
    /// What is left out.
    pub skipped: SkippedReport,
}

impl SourceSummary {
    fn of(root: PathBuf, tree: &Tree, skipped: SkippedReport) -> Self {
        let mut it =
            Self { root, root_is_file: tree.root_stamp.is_none(), files: 0, dirs: 0, symlinks: 0, bytes: 0, skipped };
        for record in tree.records() {
            match record.kind {
                tree::Kind::File => {
                    it.files += 1;
                    it.bytes = it.bytes.saturating_add(record.size);
                }
                tree::Kind::Dir => it.dirs += 1,
                tree::Kind::Symlink => it.symlinks += 1,
                tree::Kind::LeftOut => {}
            }
        }
        it
    }
}

/// How far hashing is. Written by the hashing threads, read by anybody at any time.
#[derive(Debug, Default)]
pub struct HashProgress {
    /// Files hashed.
    pub files_done: AtomicU64,
    /// Files to hash in all.
    pub files_total: AtomicU64,
    /// Bytes hashed; falls back when a changed file is hashed again.
    pub bytes_done: AtomicU64,
    /// Bytes to hash in all; follows files that grew or shrank since the walk.
    pub bytes_total: AtomicU64,
    /// Files among those done that were not read, since the cache knew them.
    pub files_known: AtomicU64,
    /// Their bytes, which count as done.
    pub bytes_known: AtomicU64,
}

#[cfg(test)]
mod tests;

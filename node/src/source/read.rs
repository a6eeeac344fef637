//! Serving the files of a hashed tree, by manifest index only, and only as they were hashed.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use me_sync_protocol::EMPTY_SHA256;
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder, ManifestError, Node};
use me_sync_protocol::path::RelPath;
use rustix::fs::fstat;
use rustix::io::{Errno, pread};

use super::beneath::{DirCache, OpenRefused, Opened};
use super::cache::{FreshHash, is_settled};
use super::error::{ReadError, SourceError};
use super::skipped::SkippedReport;
use super::tree::{FileId, Kind, Stamp, Tree, mtime};
use crate::holes::{self, Holes};

/// Directory handles of one reader.
const DIR_HANDLES: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// A hashed tree: its manifest and what is needed to serve its files. Shared by all sessions that send it.
pub struct Snapshot {
    manifest: Arc<Manifest>,
    files: Files,
}

/// What is needed to find files, and to see that they are still those of the walk.
struct Files {
    root: Arc<OwnedFd>,
    root_path: PathBuf,
    /// By manifest index.
    ids: Vec<FileId>,
    devices: Vec<u64>,
    skipped: SkippedReport,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(super) fn seal(
        tree: Tree,
        digests: Vec<Option<Digest>>,
        root_path: PathBuf,
        skipped: SkippedReport,
    ) -> Result<Self, SourceError> {
        let builder = describe(&tree, Some(&digests))?;
        // sealing copies the manifest once; make room for that first
        let (root, devices, ids) = tree.into_identities();
        drop(digests);
        let manifest = Arc::new(builder.finish()?);
        Ok(Self { manifest, files: Files { root, root_path, ids, devices, skipped } })
    }

    /// The tree before its files are hashed: what is served is what the walk saw.
    pub(super) fn outline(tree: Tree, root_path: PathBuf, skipped: SkippedReport) -> Result<Self, SourceError> {
        let builder = describe(&tree, None)?;
        let (root, devices, ids) = tree.into_identities();
        let manifest = Arc::new(builder.finish()?);
        Ok(Self { manifest, files: Files { root, root_path, ids, devices, skipped } })
    }

    /// The walked tree again, of which this is an outline.
    pub(super) fn tree(&self, root_stamp: Option<Stamp>, suspects: BTreeSet<u32>) -> Tree {
        let Files { root, ids, devices, .. } = &self.files;
        Tree::of(&self.manifest, Arc::clone(root), root_stamp, devices.clone(), ids.clone(), suspects)
    }

    /// The list of everything that is served.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// What lies below the root and is not in the manifest.
    pub fn skipped(&self) -> &SkippedReport {
        &self.files.skipped
    }

    /// The root with all symlinks resolved. Escape it before printing.
    pub fn root(&self) -> &Path {
        &self.files.root_path
    }

    /// A reader of its own for one lane. Holds at most eight directory handles.
    pub fn reader(self: &Arc<Self>) -> SnapshotReader {
        SnapshotReader { snapshot: Arc::clone(self), dirs: DirCache::new(DIR_HANDLES) }
    }

    /// Is the file of that stamp the one that was hashed as `index`?
    pub(super) fn holds(&self, index: EntryIndex, entry: &Entry<'_>, stamp: &Stamp) -> bool {
        self.files.ids.get(index.at()).is_some_and(|id| id.is(stamp, &self.files.devices))
            && entry.size() == stamp.size
            && entry.mtime == Some(mtime(stamp.mtime))
    }

    /// Device and inode of the entry when it was hashed.
    pub(super) fn identity(&self, index: EntryIndex) -> Option<(u64, u64)> {
        let id = self.files.ids.get(index.at())?;
        Some((*self.files.devices.get(id.dev as usize)?, id.ino))
    }

    /// The path of an entry, relative to the root. Escape it before printing.
    pub fn path(&self, index: EntryIndex) -> String {
        self.manifest.entry(index).map(|entry| entry.path.as_str().to_owned()).unwrap_or_default()
    }
}

/// Opens files of a [`Snapshot`]. Cheap to make; not shared.
#[derive(Debug)]
pub struct SnapshotReader {
    snapshot: Arc<Snapshot>,
    dirs: DirCache,
}

impl SnapshotReader {
    /// Opens the file at `index` if it is still the one that was hashed. Never blocks on what stands there instead.
    ///
    /// # Errors
    /// `index` is no file; the file changed, is gone or replaced; it cannot be opened.
    pub fn open(&mut self, index: EntryIndex) -> Result<SourceFile, ReadError> {
        let snapshot = &self.snapshot;
        let entry = snapshot.manifest.entry(index).filter(Entry::is_file).ok_or(ReadError::NotAFile { index })?;
        let path = || entry.path.as_str().to_owned();
        // by a wall that stands before 1970, nothing is settled
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Opened { file, stamp, holes } = match self.dirs.open_file(snapshot.files.root.as_fd(), entry.path.as_str())
        {
            Ok(opened) => opened,
            Err(refused) => {
                // a handle of a directory that was moved away and made anew must not stay for the retry rounds
                self.dirs.clear();
                return Err(match refused {
                    OpenRefused::Gone | OpenRefused::NotRegular => ReadError::Changed { path: path() },
                    OpenRefused::Denied(err) => ReadError::Unreadable { path: path(), err },
                    OpenRefused::Io(err) => ReadError::Io { path: path(), err },
                });
            }
        };
        if !snapshot.holds(index, &entry, &stamp) {
            return Err(ReadError::Changed { path: path() });
        }
        Ok(SourceFile { file, holes, snapshot: Arc::clone(snapshot), index, at: 0, size: stamp.size, began })
    }
}

/// An open file of a snapshot. Gives at most the declared number of bytes.
#[derive(Debug)]
pub struct SourceFile {
    file: OwnedFd,
    holes: Holes,
    snapshot: Arc<Snapshot>,
    index: EntryIndex,
    at: u64,
    size: u64,
    /// When it was opened, since 1970.
    began: Duration,
}

impl SourceFile {
    /// The declared size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Continues at this offset in bytes, for a file that the importer has in part. Beyond the end is the end.
    pub fn seek(&mut self, offset: u64) {
        self.at = offset.min(self.size);
    }

    /// How many bytes lie before what comes next is data where it was a hole, or a hole where it was data, at most
    /// `most`; and whether they are a hole.
    pub fn next_piece(&mut self, most: u64) -> (u64, bool) {
        let piece = self.holes.piece(&self.file, self.at, most.min(self.size - self.at));
        (piece.len, piece.is_hole)
    }

    /// Passes over what need not be read.
    pub fn skip(&mut self, bytes: u64) {
        self.seek(self.at.saturating_add(bytes));
    }

    /// Fills all of `buf`, or what is left up to the declared end; 0 is the declared end (or an empty `buf`).
    ///
    /// # Errors
    /// The file is shorter than declared, or reading fails.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, ReadError> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let mut filled = 0;
        while filled < wanted {
            match pread(&self.file, &mut buf[filled..wanted], self.at) {
                Ok(0) => return Err(self.changed()),
                Ok(n) => {
                    filled += n;
                    self.at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(err) => return Err(self.io(err)),
            }
        }
        Ok(filled)
    }

    /// Looks once more whether the file is still the hashed one. To be called behind the last byte.
    ///
    /// # Errors
    /// It changed while it was read.
    pub fn finish(self) -> Result<(), ReadError> {
        self.last_look().map(drop)
    }

    /// As [`Self::finish`], for a file that was read from its first byte and turned out to have this SHA-256: what a
    /// cache may know of it, unless it was changed right before.
    ///
    /// # Errors
    /// It changed while it was read.
    pub fn finish_hashed(self, digest: Digest) -> Result<Option<FreshHash>, ReadError> {
        let stamp = self.last_look()?;
        Ok(is_settled(&stamp, self.began).then_some(FreshHash { stamp, digest }))
    }

    fn last_look(&self) -> Result<Stamp, ReadError> {
        let stamp = Stamp::of(&fstat(&self.file).map_err(|err| self.io(err))?);
        let entry = self.snapshot.manifest.entry(self.index).ok_or(ReadError::NotAFile { index: self.index })?;
        if self.snapshot.holds(self.index, &entry, &stamp) { Ok(stamp) } else { Err(self.changed()) }
    }

    fn changed(&self) -> ReadError {
        ReadError::Changed { path: self.snapshot.path(self.index) }
    }

    fn io(&self, err: Errno) -> ReadError {
        ReadError::Io { path: self.snapshot.path(self.index), err: err.into() }
    }
}

/// The entries of a tree as a manifest has them; without digests as an outline has them.
fn describe(tree: &Tree, digests: Option<&[Option<Digest>]>) -> Result<ManifestBuilder, SourceError> {
    let root_stamp = tree.root_stamp;
    let (mode, time) = (root_stamp.map(|stamp| u32::from(stamp.mode)), root_stamp.map(|stamp| mtime(stamp.mtime)));
    let mut builder = match digests {
        Some(_) => ManifestBuilder::new(mode, time),
        None => ManifestBuilder::outline(mode, time),
    };
    builder.add_holes(holes_of(tree));
    let mut at = 0;
    let mut path = String::new();
    for (index, record) in (0u32..).zip(tree.records()) {
        let node = match record.kind {
            Kind::File => {
                let known = digests.and_then(|digests| digests.get(index as usize).copied().flatten());
                let sha256 = if record.size == 0 { Some(EMPTY_SHA256) } else { known };
                Node::File { size: record.size, sha256 }
            }
            Kind::Dir => Node::Dir,
            Kind::Symlink => Node::Symlink { target: tree.target(index).into() },
            Kind::LeftOut => continue,
        };
        tree.path(index, &mut path);
        let path = RelPath::parse(path.as_str()).map_err(|why| ManifestError::Path { index: at, why })?;
        let mode = (record.kind != Kind::Symlink).then(|| u32::from(record.mode));
        builder.push(&Entry { path, node, mode, mtime: Some(record.mtime()) })?;
        at += 1;
    }
    Ok(builder)
}

/// Bytes of holes in all files. One that cannot be asked, or is not what the walk saw, has none.
fn holes_of(tree: &Tree) -> u64 {
    let mut dirs = DirCache::new(DIR_HANDLES);
    let mut path = String::new();
    let holes = tree.suspects().map(|record| {
        tree.path(record, &mut path);
        match dirs.open_file(tree.root.as_fd(), &path) {
            Ok(Opened { file, stamp, holes }) if !holes.is_none() && tree.is_stamped(record, &stamp) => {
                stamp.size - holes::data_bytes(&file, stamp.size)
            }
            Ok(_) | Err(_) => 0,
        }
    });
    holes.fold(0, u64::saturating_add)
}

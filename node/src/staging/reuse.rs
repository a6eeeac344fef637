//! What need not come over the network: files of the tree that stands at the target, and of an unfinished session
//! for the same target. Each counts only with the SHA-256 of the manifest, like a received one.
//!
//! Files of the target are copied, by shared blocks where the file system can, never linked: the old tree is kept
//! and must not change with the new one. Files of an unfinished session are moved; then that session is over.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use me_sync_protocol::file::{LocalFile, VerifiedFile};
use me_sync_protocol::ids::{EntryIndex, SessionId};
use me_sync_protocol::manifest::Entry;
use me_sync_protocol::reason::Code;
use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::beneath::DirCache;
use super::error::{StageError, StateError};
use super::file::{StagedFile, StagingWriter};
use super::inode::{Inode, Place};
use super::journal::{Journal, Loaded, Record};
use super::known::Known;
use super::lock::{self, Lock};
use super::rehash::{self, Look, Reader, failed, in_batches};
use super::state::{SessionDir, StateDir};
use super::tree::{Shared, Staging};
use super::{cleanup, durable, recover, skeleton};
use crate::holes::Holes;

const BLOCK: u64 = 256 << 10;
/// Directories a thread keeps open in a tree.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(12).expect("not zero");

impl Staging {
    /// Unfinished sessions for the same target, newest first: donors of [`Staging::reuse`].
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn predecessors(&self, state: &StateDir) -> Result<Vec<SessionId>, StateError> {
        let mut all: Vec<_> = state.records()?.into_iter().filter(|record| self.follows(record)).collect();
        all.sort_unstable_by_key(|record| std::cmp::Reverse((record.created_ms, record.session)));
        Ok(all.into_iter().map(|record| record.session).collect())
    }

    fn follows(&self, record: &Record) -> bool {
        let own = self.site.journal.record();
        record.session != own.session
            && record.state.is_open()
            && (record.parent_id, &record.name) == (own.parent_id, &own.name)
    }

    /// Takes every file that is here already and of which the staging tree has nothing: first those of [`Staging::predecessors`], which
    /// end with `manifest_changed` and lose their trees, then those of the target at the same paths. If the target is that tree
    /// already, nothing is taken and all files count where they stand ([`Staging::is_standing`]); else the directories of the
    /// staging tree are made, many of which would cost more than looking at the target. Before any writer is made. Blocking, as long as reading them takes; `progress` counts bytes read, `stop` ends it early.
    ///
    /// # Errors
    /// The staging tree cannot be written, or it was stopped. What was taken before stays and is found by
    /// [`Staging::survey`].
    pub fn reuse(
        &self,
        state: &StateDir,
        threads: NonZeroUsize,
        stop: &AtomicBool,
        progress: &AtomicU64,
    ) -> Result<Vec<VerifiedFile>, StageError> {
        let mut taken = Vec::new();
        // nothing says which files are right
        if self.manifest().is_outline() {
            skeleton::make_dirs(&self.shared)?;
            return Ok(taken);
        }
        for session in self.predecessors(state)? {
            if let Some(donor) = self.donor(state, session)? {
                skeleton::make_dirs(&self.shared)?;
                taken.extend(self.move_from(&donor, threads, stop, progress)?);
                donor.end();
            }
        }
        let target = &self.site.target;
        let known = match &target.old {
            Some(old) => Known::load(state.path(), target.path(), old.identity),
            None => Known::default(),
        };
        if taken.is_empty()
            && let Some(standing) = self.stands(&known, threads, stop, progress)?
        {
            return Ok(standing);
        }
        skeleton::make_dirs(&self.shared)?;
        let copied = self.copy_target(&known, threads, stop, progress)?;
        self.site.copied.fetch_add(u32::try_from(copied.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        taken.extend(copied);
        taken.sort_unstable_by_key(VerifiedFile::index);
        Ok(taken)
    }

    /// Opens and locks another session's tree; none if somebody works on it or it is not what its record says.
    fn donor(&self, state: &StateDir, session: SessionId) -> Result<Option<Donor>, StageError> {
        let dir = match state.lock_session(session) {
            Ok(dir) => dir,
            Err(StateError::Busy { .. }) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        let Loaded::Whole(journal) = Journal::load(dir.share()?, &dir.path)? else { return Ok(None) };
        let record = journal.record();
        let Some(new) = record.new.filter(|_| self.follows(record)) else { return Ok(None) };
        let target = &self.site.target;
        let root = cleanup::open_writable(target.parent_fd(), record.staging.as_str(), Some(new), target.place);
        let Ok(root) = root else { return Ok(None) };
        match lock::exclusive(&root) {
            Ok(Lock::Held | Lock::Unsupported) => {
                Ok(Some(Donor { root: Arc::new(root), journal: *journal, _session: dir }))
            }
            Ok(Lock::Busy) | Err(_) => Ok(None),
        }
    }

    fn move_from(
        &self,
        donor: &Donor,
        threads: NonZeroUsize,
        stop: &AtomicBool,
        progress: &AtomicU64,
    ) -> Result<Vec<VerifiedFile>, StageError> {
        let shared = &*self.shared;
        let place = rehash::place(shared)?;
        let parts = in_batches(shared.manifest.len(), threads, stop, |batches| {
            let mut from = DirCache::new(Arc::clone(&donor.root), OPEN_DIRS);
            let mut to = DirCache::new(Arc::clone(&shared.root), OPEN_DIRS);
            let mut reader = Reader::new(shared, place, stop, progress);
            let mut taken = Vec::new();
            for index in batches.flatten() {
                if let Some(entry) = wanted(shared, index)
                    && move_file(&mut from, &mut to, &entry, place)
                    && let Look::Whole(file) = reader.look(index)?
                {
                    taken.push(file);
                }
            }
            Ok(taken)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    fn copy_target(
        &self,
        known: &Known,
        threads: NonZeroUsize,
        stop: &AtomicBool,
        progress: &AtomicU64,
    ) -> Result<Vec<VerifiedFile>, StageError> {
        let shared = &*self.shared;
        let Some(old) = &self.site.target.old else { return Ok(Vec::new()) };
        let io = |err: Errno| failed("opening", "the old tree", err);
        let fd = old.fd.try_clone().map_err(|err| io(Errno::from_io_error(&err).unwrap_or(Errno::IO)))?;
        let (root, place) = (Arc::new(fd), Inode::of(&old.fd).map_err(io)?.place());
        let parts = in_batches(shared.manifest.len(), threads, stop, |batches| {
            let mut copier = Copier {
                old: DirCache::new(Arc::clone(&root), OPEN_DIRS),
                known,
                place,
                writer: self.writer(),
                block: vec![0; BLOCK as usize],
                stop,
                progress,
            };
            let mut taken = Vec::new();
            for index in batches.flatten() {
                if let Some(entry) = wanted(shared, index) {
                    taken.extend(copier.copy(shared, index, &entry)?);
                }
            }
            Ok(taken)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }
}

/// The entry, if it is a file of which nothing is here.
fn wanted(shared: &Shared, index: EntryIndex) -> Option<Entry<'_>> {
    if shared.stamps.is_finished(index) || shared.slots.is_aside(index) {
        return None;
    }
    shared.manifest.entry(index).filter(Entry::is_file)
}

/// An unfinished session whose files are taken. Locked.
#[derive(Debug)]
struct Donor {
    root: Arc<OwnedFd>,
    journal: Journal,
    _session: SessionDir,
}

impl Donor {
    /// The session is over, its tree goes.
    fn end(self) {
        let path = self.journal.record().staging_path();
        if let Err(err) = recover::end(self.journal, Code::ManifestChanged) {
            tracing::warn!(path = %path.display(), error = %err, "an older staging tree is not gone yet");
        }
    }
}

/// Moves a file of the right size to the same path in another tree. False: there is none, or it cannot be had.
fn move_file(from: &mut DirCache, to: &mut DirCache, entry: &Entry<'_>, place: Place) -> bool {
    let (parent, name) = (entry.path.parent(), entry.path.name());
    let Ok(from) = from.dir(parent) else { return false };
    let fits = Inode::at(&from, name).is_ok_and(|inode| {
        inode.is_some_and(|inode| {
            inode.kind() == FileType::RegularFile
                && inode.size() == entry.size()
                && inode.links() == 1
                && inode.place() == place
        })
    });
    fits && to.dir(parent).is_ok_and(|to| durable::move_between(&from, &to, name).is_ok())
}

/// Copies files out of the tree at the target; one a thread.
struct Copier<'a> {
    old: DirCache,
    known: &'a Known,
    place: Place,
    writer: StagingWriter,
    block: Vec<u8>,
    stop: &'a AtomicBool,
    progress: &'a AtomicU64,
}

impl Copier<'_> {
    /// None: the old tree has not this file, or it cannot be read.
    fn copy(
        &mut self,
        shared: &Shared,
        index: EntryIndex,
        entry: &Entry<'_>,
    ) -> Result<Option<VerifiedFile>, StageError> {
        let Some((from, holes)) = self.open(entry) else { return Ok(None) };
        let Some(mut hash) = LocalFile::begin(&shared.manifest, index) else { return Ok(None) };
        let mut staged = self.writer.begin(index)?;
        let whole = match staged.clone_from(&from) {
            true => self.hash(&staged, holes, entry.size(), &mut hash)?,
            false => {
                staged.preallocate().and_then(|()| self.pour(&from, holes, &mut staged, entry.size(), &mut hash))?
            }
        };
        match hash.finish() {
            Ok(verified) if whole => {
                staged.finish()?;
                Ok(Some(verified))
            }
            _ => {
                staged.discard()?;
                Ok(None)
            }
        }
    }

    /// Opens the file at the same path, if it is a regular file of the same size on the same mount.
    fn open(&mut self, entry: &Entry<'_>) -> Option<(File, Holes)> {
        let dir = self.old.dir(entry.path.parent()).ok()?;
        let fits = |inode: &Inode| {
            inode.kind() == FileType::RegularFile && inode.size() == entry.size() && inode.place() == self.place
        };
        // looked at first: opening a device is an act
        let seen = Inode::at(&dir, entry.path.name()).ok()?.filter(fits)?;
        // what is on record as another content need not be read to be found wrong
        if self.known.sha256(&seen).is_some_and(|there| Some(there) != entry.sha256()) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(&dir, entry.path.name(), flags, Mode::empty()).ok()?;
        let inode = Inode::of(&fd).ok().filter(fits)?;
        Some((File::from(fd), inode.holes()))
    }

    /// Hashes our own copy. False: it cannot be read.
    fn hash(&mut self, staged: &StagedFile, holes: Holes, size: u64, hash: &mut LocalFile) -> Result<bool, StageError> {
        let Some(file) = staged.file() else { return Ok(false) };
        let (stop, progress) = (self.stop, self.progress);
        rehash::hash_whole(file, holes, size, hash, &mut self.block, |bytes| rehash::took(bytes, stop, progress))
    }

    /// Copies and hashes in one pass; a hole stays one. False: the file cannot be read or grows.
    fn pour(
        &mut self,
        from: &File,
        mut holes: Holes,
        staged: &mut StagedFile,
        size: u64,
        hash: &mut LocalFile,
    ) -> Result<bool, StageError> {
        loop {
            let piece = holes.piece(from, hash.len(), BLOCK);
            if piece.is_hole && hash.len() < size {
                let zeros = piece.len.min(size - hash.len());
                self.took(zeros)?;
                hash.update_zeros(zeros);
                staged.skip(zeros)?;
                continue;
            }
            let read = match from.read_at(&mut self.block[..piece.len as usize], hash.len()) {
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return Ok(false),
                Ok(0) => return Ok(true),
                Ok(read) => read,
            };
            self.took(read as u64)?;
            hash.update(&self.block[..read]);
            if hash.len() > size {
                return Ok(false);
            }
            staged.write(&self.block[..read])?;
        }
    }

    fn took(&self, bytes: u64) -> Result<(), StageError> {
        rehash::took(bytes, self.stop, self.progress)
    }
}

#[cfg(test)]
#[path = "reuse/tests.rs"]
mod tests;

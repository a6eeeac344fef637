//! Writing one file of the staging tree. Each lane has a writer of its own; nothing is shared but counters.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::{Mtime, Node};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, fallocate, fchmod, futimens, openat, unlinkat};
use rustix::io::Errno;

use super::beneath::DirCache;
use super::error::StageError;
use super::inode::Inode;
use super::modes::times;
use super::tree::Shared;

/// Directories a lane keeps open. Four lanes with a file each stay below 64 descriptors.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(12).expect("not zero");
/// Smaller files are not worth a system call to reserve their blocks.
const PREALLOCATE_FROM: u64 = 1 << 20;

/// Makes the files of one lane.
#[derive(Debug)]
pub struct StagingWriter {
    shared: Arc<Shared>,
    dirs: DirCache,
}

impl StagingWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let dirs = DirCache::new(Arc::clone(&shared.root), OPEN_DIRS);
        Self { shared, dirs }
    }

    /// Creates the file at `index`, 0600, empty. Never opens one that exists. Blocking.
    ///
    /// # Errors
    /// The index is not a file, something stands in its place, or the disk refuses.
    pub fn create(&mut self, index: EntryIndex) -> Result<StagedFile, StageError> {
        // counted before the look at `sealed`, so that a seal sees this file or this sees the seal
        let mut file = StagedFile::unopened(Arc::clone(&self.shared), index)?;
        if self.shared.sealed.load(Ordering::SeqCst) {
            return Err(StageError::Sealed);
        }
        let entry = self.shared.manifest.entry(index).ok_or(StageError::NotAFile { index: index.0 })?;
        let (parent, name) = (entry.path.parent(), entry.path.name());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dirs: &mut DirCache| {
            let dir = dirs.dir(parent)?;
            let fd = openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)?;
            Ok((dir, fd))
        };
        let (dir, fd) = match open(&mut self.dirs) {
            // too many open files: give ours back and try once more
            Err(Errno::MFILE | Errno::NFILE) => {
                self.dirs.clear();
                open(&mut self.dirs)
            }
            other => other,
        }
        .map_err(|err| file.failed("creating", err))?;
        file.open = Some(Open { file: File::from(fd), dir, name: name.to_owned() });
        file.preallocate()?;
        #[cfg(feature = "test-hooks")]
        super::pause::at("write");
        Ok(file)
    }
}

/// A file that is being written. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct StagedFile {
    shared: Arc<Shared>,
    index: EntryIndex,
    declared: u64,
    written: u64,
    mode: Mode,
    mtime: Option<Mtime>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    dir: Arc<OwnedFd>,
    name: String,
}

impl StagedFile {
    fn unopened(shared: Arc<Shared>, index: EntryIndex) -> Result<Self, StageError> {
        let (declared, mode, mtime) = {
            let entry = shared.manifest.entry(index).ok_or(StageError::NotAFile { index: index.0 })?;
            let Node::File { size, .. } = entry.node else { return Err(StageError::NotAFile { index: index.0 }) };
            (size, shared.modes.of(&entry), entry.mtime)
        };
        shared.open_files.fetch_add(1, Ordering::SeqCst);
        Ok(Self { shared, index, declared, written: 0, mode, mtime, open: None })
    }

    /// Which entry it is.
    pub fn index(&self) -> EntryIndex {
        self.index
    }

    /// Appends bytes. Blocking.
    ///
    /// # Errors
    /// More than declared, or the disk refuses. The file is then only good for [`StagedFile::discard`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let got = self.written.saturating_add(bytes.len() as u64);
        if got > self.declared {
            return Err(StageError::Size { path: self.shared.shown(self.index), got, declared: self.declared });
        }
        if let Some(open) = &mut self.open {
            // completes short writes
            open.file.write_all(bytes).map_err(|err| StageError::Entry {
                what: "writing",
                path: self.shared.shown(self.index),
                err,
            })?;
        }
        self.written = got;
        Ok(())
    }

    /// Gives the file its mode and time and keeps it. The caller has checked the hash. No flush: the whole
    /// tree is flushed once. Blocking.
    ///
    /// # Errors
    /// Fewer bytes than declared, or the disk refuses. The file is removed then.
    pub fn finish(mut self) -> Result<(), StageError> {
        if self.written != self.declared {
            return Err(StageError::Size {
                path: self.shared.shown(self.index),
                got: self.written,
                declared: self.declared,
            });
        }
        if let Some(open) = &self.open {
            let stamp = fchmod(&open.file, self.mode)
                .and_then(|()| futimens(&open.file, &times(self.mtime)))
                .and_then(|()| Inode::of(&open.file))
                .map_err(|err| self.failed("finishing", err))?;
            self.shared.stamp(self.index, &stamp);
        }
        // nothing is left for Drop to remove
        self.open = None;
        Ok(())
    }

    /// Removes the file. Blocking.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn discard(mut self) -> Result<(), StageError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        unlinkat(&open.dir, open.name.as_str(), AtFlags::empty()).map_err(|err| self.failed("removing", err))
    }

    fn preallocate(&self) -> Result<(), StageError> {
        let Some(open) = &self.open else { return Ok(()) };
        if self.declared < PREALLOCATE_FROM {
            return Ok(());
        }
        // the size stays what was written, so a short file never looks whole
        match fallocate(&open.file, FallocateFlags::KEEP_SIZE, 0, self.declared) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => Ok(()),
            Err(err) => Err(self.failed("reserving space for", err)),
        }
    }

    fn failed(&self, what: &'static str, err: Errno) -> StageError {
        StageError::Entry { what, path: self.shared.shown(self.index), err: err.into() }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Some(open) = self.open.take()
            && let Err(err) = unlinkat(&open.dir, open.name.as_str(), AtFlags::empty())
        {
            // the final walk or the clean-up of the whole tree deals with it
            tracing::debug!(entry = %self.index, error = %err, "an unfinished file stays in staging");
        }
        self.shared.open_files.fetch_sub(1, Ordering::SeqCst);
    }
}

//! Writing one file of the staging tree. Each lane has a writer of its own; nothing is shared but counters.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::{Mtime, Node};
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, fallocate, fchmod, ftruncate, futimens, ioctl_ficlone, openat,
    unlinkat,
};
use rustix::io::{self, Errno};

use super::beneath::DirCache;
use super::error::StageError;
use super::inode::Inode;
use super::modes::times;
use super::stamp::FileStamp;
use super::tree::Shared;

/// Directories a lane keeps open. Four lanes with a file each stay below 64 descriptors.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(12).expect("not zero");
/// Smaller files are not worth a system call to reserve their blocks.
const PREALLOCATE_FROM: u64 = 1 << 20;

/// What the owner must be able to do with a file that is left half done.
const OWNER: Mode = Mode::RUSR.union(Mode::WUSR);

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

    /// Creates the file at `index`, empty. Never opens one that exists: what an earlier attempt left at its
    /// name is removed, a finished file is not. Blocking.
    ///
    /// # Errors
    /// The index is not a file, is finished or being written, or the disk refuses.
    pub fn create(&mut self, index: EntryIndex) -> Result<StagedFile, StageError> {
        let file = self.begin(index)?;
        file.preallocate()?;
        #[cfg(feature = "test-hooks")]
        super::pause::at("write");
        Ok(file)
    }

    /// As [`Self::create`], without reserving room for the bytes.
    pub(super) fn begin(&mut self, index: EntryIndex) -> Result<StagedFile, StageError> {
        let (mut file, _) = StagedFile::unopened(&self.shared, index)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // its own mode from the start, which mostly saves a call later: nobody else gets into the staging tree
        let mode = if file.mode.contains(OWNER) { file.mode } else { OWNER };
        let opened = match self.open(index, flags, mode) {
            Err(Errno::EXIST) if !self.shared.stamps.is_finished(index) => {
                self.remove(index).and_then(|()| self.open(index, flags, mode))
            }
            other => other,
        };
        file.open = Some(opened.map_err(|err| file.failed("creating", err))?);
        // a file that was finished and whose name is gone is not finished any more
        self.shared.stamps.clear(index);
        Ok(file)
    }

    /// Opens the file at `index` that was put aside after `offset` bytes or more, to append from there. Blocking.
    ///
    /// # Errors
    /// There is no such file, or it is not what was put aside: it can still be received from its beginning.
    pub fn resume(&mut self, index: EntryIndex, offset: u64) -> Result<StagedFile, StageError> {
        let (mut file, aside) = StagedFile::unopened(&self.shared, index)?;
        let shared = Arc::clone(&self.shared);
        let refused = |why| StageError::NoPartial { path: shared.shown(index), why };
        let aside = aside.ok_or_else(|| refused("nothing was kept of it"))?;
        if offset > file.declared {
            return Err(refused("it is shorter than that"));
        }
        // no CREATE, and nothing that waits: a FIFO in its place is an error
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut open = self.open(index, flags, Mode::empty()).map_err(|err| file.failed("continuing", err))?;
        let inode = Inode::of(&open.file).map_err(|err| file.failed("looking at", err))?;
        if FileStamp::of(&inode) != aside || inode.kind() != FileType::RegularFile || inode.links() != 1 {
            return Err(refused("somebody changed it since"));
        }
        if inode.size() < offset {
            return Err(refused("there is less of it than was said"));
        }
        ftruncate(&open.file, offset).map_err(|err| file.failed("cutting", err))?;
        open.file.seek(SeekFrom::Start(offset)).map_err(|err| StageError::Entry {
            what: "continuing",
            path: self.shared.shown(index),
            err,
        })?;
        file.open = Some(open);
        (file.written, file.len) = (offset, offset);
        file.preallocate()?;
        Ok(file)
    }

    fn open(&mut self, index: EntryIndex, flags: OFlags, mode: Mode) -> io::Result<Open> {
        let entry = self.shared.manifest.entry(index).ok_or(Errno::NOENT)?;
        let (parent, name) = (entry.path.parent(), entry.path.name());
        let open = |dirs: &mut DirCache| {
            let dir = dirs.dir(parent)?;
            let fd = openat(&dir, name, flags, mode)?;
            Ok(Open { file: File::from(fd), dir, name: name.to_owned() })
        };
        match open(&mut self.dirs) {
            // too many open files: give ours back and try once more
            Err(Errno::MFILE | Errno::NFILE) => {
                self.dirs.clear();
                open(&mut self.dirs)
            }
            other => other,
        }
    }

    /// Removes whatever stands at the name of an entry, if it is no directory.
    fn remove(&mut self, index: EntryIndex) -> io::Result<()> {
        let entry = self.shared.manifest.entry(index).ok_or(Errno::NOENT)?;
        let dir = self.dirs.dir(entry.path.parent())?;
        unlinkat(&dir, entry.path.name(), AtFlags::empty())
    }
}

/// A file that is being written. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct StagedFile {
    shared: Arc<Shared>,
    index: EntryIndex,
    declared: u64,
    written: u64,
    /// How long it is on the disk: less than `written` after a hole.
    len: u64,
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
    /// Takes the right to write an entry, and how it looked when it was put aside, if it was.
    fn unopened(shared: &Arc<Shared>, index: EntryIndex) -> Result<(Self, Option<FileStamp>), StageError> {
        let (declared, mode, mtime) = {
            let entry = shared.manifest.entry(index).ok_or(StageError::NotAFile { index: index.0 })?;
            let Node::File { size, .. } = entry.node else { return Err(StageError::NotAFile { index: index.0 }) };
            (size, shared.modes.of(&entry), entry.mtime)
        };
        let aside = shared.slots.open(index)?;
        let shared = Arc::clone(shared);
        Ok((Self { shared, index, declared, written: 0, len: 0, mode, mtime, open: None }, aside))
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
        let got = self.after(bytes.len() as u64)?;
        if let Some(open) = &mut self.open {
            let after_hole = match self.len < self.written {
                true => open.file.seek(SeekFrom::Start(self.written)).map(drop),
                false => Ok(()),
            };
            // completes short writes
            after_hole.and_then(|()| open.file.write_all(bytes)).map_err(|err| StageError::Entry {
                what: "writing",
                path: self.shared.shown(self.index),
                err,
            })?;
        }
        (self.written, self.len) = (got, got);
        Ok(())
    }

    /// Appends so many bytes of zero as a hole. Nothing is written: the file gets its length when bytes follow, or when
    /// it is closed.
    ///
    /// # Errors
    /// More than declared. The file is then only good for [`StagedFile::discard`].
    pub fn skip(&mut self, bytes: u64) -> Result<(), StageError> {
        self.written = self.after(bytes)?;
        Ok(())
    }

    /// How many bytes there are with so many more.
    fn after(&self, more: u64) -> Result<u64, StageError> {
        let (got, declared) = (self.written.saturating_add(more), self.declared);
        if got > declared {
            return Err(StageError::Size { path: self.shared.shown(self.index), got, declared });
        }
        Ok(got)
    }

    /// Makes the file as long as what was appended, if that ends with a hole.
    fn lengthen(&self, open: &Open) -> io::Result<()> {
        if self.len < self.written { ftruncate(&open.file, self.written) } else { Ok(()) }
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
            let stamp = self
                .lengthen(open)
                .and_then(|()| futimens(&open.file, &times(self.mtime)))
                .and_then(|()| Inode::of(&open.file))
                .and_then(|made| self.with_mode(open, made))
                .map_err(|err| self.failed("finishing", err))?;
            self.shared.stamps.set(self.index, FileStamp::of(&stamp));
        }
        // nothing is left for Drop to remove
        self.open = None;
        Ok(())
    }

    /// What the umask or a default ACL took of the mode is given back.
    fn with_mode(&self, open: &Open, made: Inode) -> io::Result<Inode> {
        if made.mode() == self.mode.as_raw_mode() {
            return Ok(made);
        }
        fchmod(&open.file, self.mode)?;
        Inode::of(&open.file)
    }

    /// Closes the file and keeps what there is of it, for [`StagingWriter::resume`]. An empty one is removed.
    /// Blocking.
    ///
    /// # Errors
    /// The disk refuses. The file is removed then.
    pub fn suspend(mut self) -> Result<(), StageError> {
        if self.written == 0 {
            return self.discard();
        }
        if let Some(open) = &self.open {
            self.lengthen(open).map_err(|err| self.failed("lengthening", err))?;
            let inode = Inode::of(&open.file).map_err(|err| self.failed("looking at", err))?;
            self.shared.slots.put_aside(self.index, FileStamp::of(&inode));
        }
        // nothing is left for Drop to remove
        self.open = None;
        Ok(())
    }

    /// Writes all of `from`, a file of the same file system, by sharing its blocks. False: not possible here.
    pub(super) fn clone_from(&mut self, from: &File) -> bool {
        let Some(open) = &self.open else { return false };
        if ioctl_ficlone(&open.file, from).is_err() {
            return false;
        }
        self.written = Inode::of(&open.file).map_or(0, |inode| inode.size());
        self.len = self.written;
        true
    }

    /// The file, to be read back.
    pub(super) fn file(&self) -> Option<&File> {
        self.open.as_ref().map(|open| &open.file)
    }

    /// Removes the file. Blocking.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn discard(mut self) -> Result<(), StageError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        unlinkat(&open.dir, open.name.as_str(), AtFlags::empty()).map_err(|err| self.failed("removing", err))
    }

    /// Reserves room for all declared bytes, if they are many. In a tree with holes none does: which files have them is
    /// known when they come, and their room is perhaps not there.
    pub(super) fn preallocate(&self) -> Result<(), StageError> {
        let Some(open) = &self.open else { return Ok(()) };
        if self.declared < PREALLOCATE_FROM || self.shared.manifest.header().data_bytes.is_some() {
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
        // last: whoever opens it next must not lose its file to the removal above
        self.shared.slots.close(self.index);
    }
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;

//! What a restart finds in a staging tree: files that count again once their bytes were read and hashed,
//! beginnings of files, and what is wrong and goes (RELIABILITY F13, F62).

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use me_sync_protocol::escape::escaped;
use me_sync_protocol::file::{LocalFile, Partial, VerifiedFile};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::Entry;
use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags, fadvise, fchmod, futimens, openat, unlinkat};
use rustix::io::{self, Errno};

use super::beneath::{DirCache, add_mode};
use super::error::StageError;
use super::inode::{Inode, Place};
use super::modes::times;
use super::stamp::FileStamp;
use super::tree::{Shared, Staging};
use crate::holes::Holes;

/// Entries a thread takes at a time.
const BATCH: u32 = 256;
const BLOCK: usize = 256 << 10;
/// Directories a thread keeps open.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(12).expect("not zero");

/// What is in a staging tree that was reopened.
#[derive(Debug, Default)]
pub struct Found {
    /// Files that are whole: named by the durable ledger, or read and hashed now. In order.
    pub ok: Vec<VerifiedFile>,
    /// Beginnings of files, to be continued. In order.
    pub partial: Vec<Partial>,
    /// Things that were wrong and are removed.
    pub dropped: u64,
}

impl Found {
    fn join(parts: Vec<Self>) -> Self {
        let mut all = Self::default();
        for mut part in parts {
            all.ok.append(&mut part.ok);
            all.partial.append(&mut part.partial);
            all.dropped += part.dropped;
        }
        all.ok.sort_unstable_by_key(VerifiedFile::index);
        all.partial.sort_unstable_by_key(Partial::index);
        all
    }
}

impl Staging {
    /// Looks at every file: what the durable ledger named counts without a look, everything else that is there is
    /// read from the disk and hashed. What is wrong is removed. Before any writer is made. Blocking, as long as
    /// reading all of it takes; `progress` counts bytes read, `stop` ends it early. A tree of an outline is left alone, as
    /// nothing says what is right.
    ///
    /// # Errors
    /// The disk refuses, something is mounted there, or it was stopped. It can be done again.
    pub fn survey(&self, threads: NonZeroUsize, stop: &AtomicBool, progress: &AtomicU64) -> Result<Found, StageError> {
        let shared = &*self.shared;
        if shared.manifest.is_outline() {
            return Ok(Found::default());
        }
        let place = place(shared)?;
        let parts = in_batches(shared.manifest.len(), threads, stop, |batches| {
            let mut found = Found::default();
            let mut reader = Reader::new(shared, place, stop, progress);
            for index in batches.flatten() {
                if shared.stamps.is_finished(index) {
                    found.ok.extend(VerifiedFile::recorded(&shared.manifest, index));
                    continue;
                }
                match reader.look(index)? {
                    Look::Nothing => {}
                    Look::Whole(file) => found.ok.push(file),
                    Look::Begun(partial) => found.partial.push(*partial),
                    Look::Removed => found.dropped += 1,
                }
            }
            Ok(found)
        })?;
        Ok(Found::join(parts))
    }
}

pub(super) fn place(shared: &Shared) -> Result<Place, StageError> {
    let root = Inode::of(shared.root.as_fd()).map_err(|err| failed("looking at", "the root", err))?;
    Ok(root.place())
}

/// Runs `work` on some threads that share the entries among them, and gives all results.
pub(super) fn in_batches<T: Send>(
    len: u32,
    threads: NonZeroUsize,
    stop: &AtomicBool,
    work: impl Fn(&mut dyn Iterator<Item = Batch>) -> Result<T, StageError> + Sync,
) -> Result<Vec<T>, StageError> {
    let next = AtomicU32::new(0);
    let failed = AtomicBool::new(false);
    let run = || {
        let mut batches = std::iter::from_fn(|| {
            if stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed) {
                return None;
            }
            // len is at most MAX_ENTRIES: far below an overflow by one batch a thread
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            (from < len).then(|| Batch(from..len.min(from + BATCH)))
        });
        work(&mut batches).inspect_err(|_| failed.store(true, Ordering::Relaxed))
    };
    let parts: Result<Vec<_>, _> = std::thread::scope(|scope| {
        // with fewer threads than wanted it only takes longer
        let others = (1..threads.get()).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok());
        let others: Vec<_> = others.collect();
        let mine = run();
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(mine).chain(others).collect()
    });
    match parts {
        Ok(_) if stop.load(Ordering::Relaxed) => Err(StageError::Stopped),
        other => other,
    }
}

/// A run of entries.
#[derive(Debug)]
pub(super) struct Batch(std::ops::Range<u32>);

impl Iterator for Batch {
    type Item = EntryIndex;

    fn next(&mut self) -> Option<EntryIndex> {
        self.0.next().map(EntryIndex)
    }
}

/// What stands at the name of a file.
#[derive(Debug)]
pub(super) enum Look {
    Nothing,
    Whole(VerifiedFile),
    Begun(Box<Partial>),
    /// Something wrong stood there.
    Removed,
}

/// Reads staged files of one tree; one a thread.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    place: Place,
    dirs: DirCache,
    block: Vec<u8>,
    stop: &'a AtomicBool,
    progress: &'a AtomicU64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(shared: &'a Shared, place: Place, stop: &'a AtomicBool, progress: &'a AtomicU64) -> Self {
        let dirs = DirCache::new(Arc::clone(&shared.root), OPEN_DIRS);
        Self { shared, place, dirs, block: Vec::new(), stop, progress }
    }

    /// Looks at one entry that is not finished, and finishes it if all of it is there.
    pub(super) fn look(&mut self, index: EntryIndex) -> Result<Look, StageError> {
        let shared = self.shared;
        let Some(entry) = shared.manifest.entry(index).filter(Entry::is_file) else { return Ok(Look::Nothing) };
        let (path, name) = (entry.path.as_str(), entry.path.name());
        let dir = match self.dirs.dir(entry.path.parent()) {
            Err(Errno::NOENT) => return Ok(Look::Nothing),
            other => other.map_err(|err| failed("opening the directory of", path, err))?,
        };
        let Some(inode) = Inode::at(&dir, name).map_err(|err| failed("looking at", path, err))? else {
            return Ok(Look::Nothing);
        };
        if inode.place() != self.place {
            return Err(StageError::Mismatch { path: escaped(path).to_string(), why: "lies on another mount" });
        }
        let look = match is_candidate(&inode, entry.size()) {
            true => self.read(index, &entry, &dir, &inode)?,
            false => None,
        };
        match look {
            Some(look) => Ok(look),
            None => {
                let kind = if inode.is_dir() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                match unlinkat(&dir, name, kind) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(err) => return Err(failed("removing", path, err)),
                }
                // an empty beginning was not wrong, there is just nothing to keep
                let begun = inode.kind() == FileType::RegularFile && inode.size() == 0;
                Ok(if begun { Look::Nothing } else { Look::Removed })
            }
        }
    }

    /// Reads the file at `name`; none if it is not good for anything.
    fn read(
        &mut self,
        index: EntryIndex,
        entry: &Entry<'_>,
        dir: &OwnedFd,
        seen: &Inode,
    ) -> Result<Option<Look>, StageError> {
        let path = entry.path.as_str();
        let Some(mut hash) = LocalFile::begin(&self.shared.manifest, index) else { return Ok(None) };
        let file = match open(dir, entry.path.name()) {
            Ok(file) => file,
            // replaced or removed since it was looked at
            Err(Errno::LOOP | Errno::NXIO | Errno::NOENT | Errno::ISDIR) => return Ok(None),
            Err(err) => return Err(failed("opening", path, err)),
        };
        let before = Inode::of(&file).map_err(|err| failed("looking at", path, err))?;
        if before.dev_ino() != seen.dev_ino() {
            return Ok(None);
        }
        // advice only: without it the cache's copy is read
        fadvise(&file, 0, None, Advice::DontNeed).ok();
        self.block.resize(BLOCK, 0);
        let mut holes = before.holes();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(StageError::Stopped);
            }
            let piece = holes.piece(&file, hash.len(), BLOCK as u64);
            if piece.is_hole && hash.len() < before.size() {
                let zeros = piece.len.min(before.size() - hash.len());
                hash.update_zeros(zeros);
                self.progress.fetch_add(zeros, Ordering::Relaxed);
                continue;
            }
            match file.read_at(&mut self.block[..piece.len as usize], hash.len()) {
                Ok(0) => break,
                Ok(read) => {
                    hash.update(&self.block[..read]);
                    self.progress.fetch_add(read as u64, Ordering::Relaxed);
                }
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                // what the disk cannot give back is not there
                Err(err) => {
                    tracing::warn!(entry = %entry.path, error = %err, "a staged file cannot be read back");
                    return Ok(None);
                }
            }
            if hash.len() > entry.size() {
                return Ok(None);
            }
        }
        let after = Inode::of(&file).map_err(|err| failed("looking at", path, err))?;
        if FileStamp::of(&after) != FileStamp::of(&before) {
            // somebody writes it: it is nobody's file
            return Ok(None);
        }
        if hash.len() < entry.size() {
            return Ok(hash.into_partial().map(|partial| {
                self.shared.slots.put_aside(index, FileStamp::of(&after));
                Look::Begun(Box::new(partial))
            }));
        }
        let Ok(verified) = hash.finish() else { return Ok(None) };
        let stamp = fchmod(&file, self.shared.modes.of(entry))
            .and_then(|()| futimens(&file, &times(entry.mtime)))
            .and_then(|()| Inode::of(&file))
            .map_err(|err| failed("finishing", path, err))?;
        self.shared.stamps.set(index, FileStamp::of(&stamp));
        Ok(Some(Look::Whole(verified)))
    }
}

/// Hashes the first `size` bytes of a file, a hole unread; `block` is what is read at once. False: it is shorter, or cannot
/// be read. `took` hears of all bytes, and may end it.
pub(super) fn hash_whole(
    file: &File,
    mut holes: Holes,
    size: u64,
    hash: &mut LocalFile,
    block: &mut [u8],
    mut took: impl FnMut(u64) -> Result<(), StageError>,
) -> Result<bool, StageError> {
    while hash.len() < size {
        let piece = holes.piece(file, hash.len(), (block.len() as u64).min(size - hash.len()));
        if piece.is_hole {
            took(piece.len)?;
            hash.update_zeros(piece.len);
            continue;
        }
        // a piece is not longer than what it was asked for
        let read = match file.read_at(&mut block[..piece.len as usize], hash.len()) {
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return Ok(false),
            Ok(read) => read,
        };
        took(read as u64)?;
        hash.update(&block[..read]);
    }
    Ok(true)
}

/// So many more bytes are read; an error once it was stopped.
pub(super) fn took(bytes: u64, stop: &AtomicBool, progress: &AtomicU64) -> Result<(), StageError> {
    progress.fetch_add(bytes, Ordering::Relaxed);
    match stop.load(Ordering::Relaxed) {
        true => Err(StageError::Stopped),
        false => Ok(()),
    }
}

/// Ours alone and not too long.
fn is_candidate(inode: &Inode, size: u64) -> bool {
    inode.kind() == FileType::RegularFile
        && inode.links() == 1
        && inode.uid() == rustix::process::geteuid().as_raw()
        && inode.size() <= size
        // an empty file is whole only if it is to be empty
        && (inode.size() > 0 || size == 0)
}

/// Opens a staged file; one that has its final mode already may not let its owner in.
pub(super) fn open(dir: impl AsFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(&dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            add_mode(&dir, name, 0o600)?;
            openat(&dir, name, flags, Mode::empty()).map(File::from)
        }
        other => other.map(File::from),
    }
}

pub(super) fn failed(what: &'static str, path: &str, err: Errno) -> StageError {
    StageError::Entry { what, path: escaped(path).to_string(), err: err.into() }
}

#[cfg(test)]
#[path = "rehash/measure.rs"]
mod measure;
#[cfg(test)]
#[path = "rehash/tests.rs"]
mod tests;

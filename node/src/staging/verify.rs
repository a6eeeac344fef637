//! The final walk (RELIABILITY 4.3, steps 3 and 4): the tree on disk is the manifest's tree, nothing less,
//! nothing more. By descriptor; gives directories their modes and times on the way up, the root's last.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use me_sync_protocol::escape::escaped;
use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::manifest::{Entry, Node};
use rustix::fs::{Advice, AtFlags, Dir, FileType, fadvise, fchmod, futimens, readlinkat, unlinkat};
use rustix::io::Errno;

use super::beneath::{DirCache, open_child};
use super::error::StageError;
use super::inode::{Inode, Place};
use super::modes::times;
use super::rehash;
use super::stamp::FileStamp;
use super::tree::Shared;

/// Entries between two reports of progress.
const REPORT_EVERY: u32 = 1024;
const BLOCK: usize = 256 << 10;

/// What the walk found.
#[derive(Debug)]
pub(super) struct Walked {
    /// Entries that are there.
    pub(super) checked: u32,
    /// Files that are wrong, in the order of the walk. They are removed.
    pub(super) lost: Vec<EntryIndex>,
    /// What is wrong with the first of them.
    pub(super) error: Option<StageError>,
}

/// Checks the whole staging tree and gives every directory but the root its mode and time.
///
/// Files that are wrong are removed and named. Anything else that should not be there is an error.
pub(super) fn final_walk(shared: &Shared, progress: &mut dyn FnMut(u32)) -> Result<Walked, StageError> {
    let root = shared.root.as_fd();
    let place = Inode::of(root).map_err(|err| entry_error("looking at", "the root", err))?.place();
    let mut walk = Walk { shared, place, walked: Walked { checked: 0, lost: Vec::new(), error: None }, progress };
    let mut path = String::new();
    walk.dir(root, &mut path)?;
    (walk.progress)(walk.walked.checked);
    Ok(walk.walked)
}

/// Gives the root its mode and time, the last thing of all.
pub(super) fn finish_root(shared: &Shared) -> Result<(), StageError> {
    let header = shared.manifest.header();
    fchmod(&shared.root, shared.modes.mode(header.root_mode, true))
        .and_then(|()| futimens(&shared.root, &times(header.root_mtime)))
        .map_err(|err| entry_error("finishing", "the root", err))
}

struct Walk<'a> {
    shared: &'a Shared,
    place: Place,
    walked: Walked,
    progress: &'a mut dyn FnMut(u32),
}

impl Walk<'_> {
    /// Checks everything in one directory; `path` is its path in the manifest, empty for the root.
    fn dir(&mut self, fd: BorrowedFd<'_>, path: &mut String) -> Result<(), StageError> {
        for name in names(fd, path)? {
            let length = path.len();
            if length > 0 {
                path.push('/');
            }
            path.push_str(&name);
            let there = self.entry(fd, &name, path)?;
            path.truncate(length);
            if there {
                self.walked.checked += 1;
                if self.walked.checked.is_multiple_of(REPORT_EVERY) {
                    (self.progress)(self.walked.checked);
                }
            }
        }
        Ok(())
    }

    /// False: it was listed and is gone.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &str, path: &mut String) -> Result<bool, StageError> {
        let shared = self.shared;
        let (index, entry) = shared
            .manifest
            .find(path)
            .and_then(|index| Some((index, shared.manifest.entry(index)?)))
            .ok_or_else(|| mismatch(path, "is not in the manifest"))?;
        let io = |what, err| entry_error(what, path, err);
        let Some(inode) = Inode::at(dir, name).map_err(|err| io("looking at", err))? else { return Ok(false) };
        if inode.place() != self.place {
            return Err(mismatch(path, "lies on another mount"));
        }
        match &entry.node {
            Node::File { size, sha256 } => {
                let Some(sha256) = sha256 else {
                    return Err(mismatch(path, "has no hash that it could be compared with"));
                };
                if let Err(wrong) = file(shared, dir, name, index, &entry, (*size, *sha256), &inode) {
                    return self.lose(dir, name, index, wrong);
                }
            }
            Node::Symlink { target } => {
                if inode.kind() != FileType::Symlink {
                    return Err(mismatch(path, "is not a symlink"));
                }
                let text = readlinkat(dir, name, Vec::new()).map_err(|err| io("reading the link", err))?;
                if text.as_bytes() != target.as_bytes() {
                    return Err(mismatch(path, "leads elsewhere"));
                }
            }
            Node::Dir => {
                if !inode.is_dir() {
                    return Err(mismatch(path, "is not a directory"));
                }
                let fd = match open_child(dir, name) {
                    Err(Errno::NOENT) => return Ok(false),
                    other => other.map_err(|err| io("opening", err))?,
                };
                let (mode, mtime) = (shared.modes.of(&entry), entry.mtime);
                self.dir(fd.as_fd(), path)?;
                // after its content, so that a directory without rights can still be filled
                fchmod(&fd, mode)
                    .and_then(|()| futimens(&fd, &times(mtime)))
                    .map_err(|err| entry_error("finishing", path, err))?;
            }
        }
        Ok(true)
    }

    /// A file is wrong: it goes. If something stands there that cannot go, that is what is wrong with the tree.
    fn lose(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &str,
        index: EntryIndex,
        wrong: StageError,
    ) -> Result<bool, StageError> {
        self.shared.stamps.clear(index);
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => return Err(wrong),
        }
        tracing::warn!(error = %wrong, "a staged file is not what was received");
        self.walked.error.get_or_insert(wrong);
        self.walked.lost.push(index);
        Ok(false)
    }
}

fn file(
    shared: &Shared,
    dir: BorrowedFd<'_>,
    name: &str,
    index: EntryIndex,
    entry: &Entry<'_>,
    (size, sha256): (u64, Digest),
    inode: &Inode,
) -> Result<(), StageError> {
    let path = entry.path.as_str();
    if inode.kind() != FileType::RegularFile {
        return Err(mismatch(path, "is not a regular file"));
    }
    if inode.links() != 1 {
        return Err(mismatch(path, "has a second name"));
    }
    if !shared.stamps.is_finished(index) {
        return Err(mismatch(path, "was not received to its end"));
    }
    if inode.size() != size {
        return Err(mismatch(path, "has another size"));
    }
    if !shared.stamps.is_untouched(index, inode) {
        read_again(shared, dir, name, index, entry, sha256)?;
    }
    Ok(())
}

/// The names in a directory; one that no manifest can hold is an extra.
fn names(fd: BorrowedFd<'_>, path: &str) -> Result<Vec<String>, StageError> {
    let io = |err| entry_error("listing", path, err);
    let mut names = Vec::new();
    for entry in Dir::read_from(fd).map_err(io)? {
        let entry = entry.map_err(io)?;
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => names.push(name.to_owned()),
            Err(_) => {
                let shown = entry.file_name().to_string_lossy();
                return Err(mismatch(&shown, "is not in the manifest"));
            }
        }
    }
    Ok(names)
}

/// Reads a file that moved since it was closed, from the disk and not from the cache, and compares it.
fn read_again(
    shared: &Shared,
    dir: BorrowedFd<'_>,
    name: &str,
    index: EntryIndex,
    entry: &Entry<'_>,
    declared: Digest,
) -> Result<(), StageError> {
    let path = entry.path.as_str();
    let io = |err: Errno| entry_error("reading again", path, err);
    let file = rehash::open(dir, name).map_err(io)?;
    let before = Inode::of(&file).map_err(io)?;
    // advice only: without it the cache's copy is compared
    fadvise(&file, 0, None, Advice::DontNeed).ok();
    let mut hash = Hasher::new();
    let mut block = vec![0; BLOCK];
    let (mut holes, mut at) = (before.holes(), 0);
    loop {
        let piece = holes.piece(&file, at, BLOCK as u64);
        if piece.is_hole && at < before.size() {
            let zeros = piece.len.min(before.size() - at);
            hash.update_zeros(zeros);
            at += zeros;
            continue;
        }
        let read = file.read_at(&mut block[..piece.len as usize], at).map_err(|err| StageError::Entry {
            what: "reading again",
            path: entry.path.to_string(),
            err,
        })?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
        at += read as u64;
    }
    if hash.finish() != declared {
        return Err(StageError::Hash { path: entry.path.to_string() });
    }
    // whatever moved it may have changed these too
    fchmod(&file, shared.modes.of(entry)).and_then(|()| futimens(&file, &times(entry.mtime))).map_err(io)?;
    let inode = Inode::of(&file).map_err(io)?;
    shared.stamps.set(index, FileStamp::of(&inode));
    Ok(())
}

/// The files that are not there, in order. They are not finished any more.
pub(super) fn missing_files(shared: &Shared) -> Vec<EntryIndex> {
    let mut dirs = DirCache::new(Arc::clone(&shared.root), NonZeroUsize::MIN);
    let files = shared.manifest.entries().filter(|(_, entry)| entry.is_file());
    let missing = files.filter(|(_, entry)| !is_there(&mut dirs, entry)).map(|(index, _)| index);
    missing.inspect(|index| shared.stamps.clear(*index)).collect()
}

/// Names an entry that is not there.
pub(super) fn missing(shared: &Shared) -> StageError {
    let mut dirs = DirCache::new(Arc::clone(&shared.root), NonZeroUsize::MIN);
    match shared.manifest.entries().find(|(_, entry)| !is_there(&mut dirs, entry)) {
        Some((_, entry)) => mismatch(entry.path.as_str(), "is missing"),
        None => mismatch("an entry", "is missing"),
    }
}

fn is_there(dirs: &mut DirCache, entry: &Entry<'_>) -> bool {
    let inode = dirs.dir(entry.path.parent()).and_then(|dir| Inode::at(&dir, entry.path.name()));
    matches!(inode, Ok(Some(_)))
}

fn mismatch(path: &str, why: &'static str) -> StageError {
    StageError::Mismatch { path: escaped(path).to_string(), why }
}

fn entry_error(what: &'static str, path: &str, err: Errno) -> StageError {
    StageError::Entry { what, path: escaped(path).to_string(), err: err.into() }
}

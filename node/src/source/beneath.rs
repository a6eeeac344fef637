//! Opening what lies beneath the root, and nothing else: never through a symlink, never anything but a directory
//! on the way and a regular file at the end.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lru::LruCache;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat};
use rustix::io::Errno;

use super::tree::Stamp;
use crate::holes::Holes;

/// Why no regular file was opened.
#[derive(Debug)]
pub(super) enum OpenRefused {
    /// Nothing is there, or something on the way is no directory.
    Gone,
    /// Something else is there.
    NotRegular,
    /// No permission.
    Denied(io::Error),
    /// Anything else the system says.
    Io(io::Error),
}

impl From<Errno> for OpenRefused {
    fn from(err: Errno) -> Self {
        match err {
            // ELOOP: a symlink where none may be; ENXIO, ENODEV: a socket or a device without driver
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Self::Gone,
            Errno::NXIO | Errno::NODEV => Self::NotRegular,
            Errno::ACCESS | Errno::PERM => Self::Denied(err.into()),
            other => Self::Io(other.into()),
        }
    }
}

/// This process or the system ran out of something: says nothing about the entry that was being opened.
pub(super) fn is_exhaustion(err: Errno) -> bool {
    matches!(err, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// A regular file, and what one look at it told.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) stamp: Stamp,
    pub(super) holes: Holes,
}

/// Directory handles below one root, least recently used closed first.
#[derive(Debug)]
pub(super) struct DirCache {
    dirs: LruCache<String, OwnedFd>,
    /// False after the kernel or a sandbox refused the call.
    use_openat2: bool,
}

impl DirCache {
    pub(super) fn new(most: NonZeroUsize) -> Self {
        Self { dirs: LruCache::new(most), use_openat2: true }
    }

    /// As on a kernel before 5.6.
    #[cfg(test)]
    pub(super) fn without_openat2(mut self) -> Self {
        self.use_openat2 = false;
        self
    }

    /// Forgets all handles: the next open resolves from the root again.
    pub(super) fn clear(&mut self) {
        self.dirs.clear();
    }

    /// Opens the regular file at `path`, a valid relative path.
    pub(super) fn open_file(&mut self, root: BorrowedFd<'_>, path: &str) -> Result<Opened, OpenRefused> {
        let Some((parent, name)) = path.rsplit_once('/') else {
            return open_regular(root, path);
        };
        let use_openat2 = &mut self.use_openat2;
        let dir = self.dirs.try_get_or_insert_ref(parent, || open_dir(root, parent, use_openat2))?;
        open_regular(dir.as_fd(), name)
    }

    /// Looks at the regular file at `path` without opening it.
    pub(super) fn stamp_of(&mut self, root: BorrowedFd<'_>, path: &str) -> Result<Stamp, OpenRefused> {
        let stat = match path.rsplit_once('/') {
            None => statat(root, path, AtFlags::SYMLINK_NOFOLLOW)?,
            Some((parent, name)) => {
                let use_openat2 = &mut self.use_openat2;
                let dir = self.dirs.try_get_or_insert_ref(parent, || open_dir(root, parent, use_openat2))?;
                statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?
            }
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Stamp::of(&stat)),
            _ => Err(OpenRefused::NotRegular),
        }
    }
}

/// A directory handle that needs no read permission.
fn open_dir(root: BorrowedFd<'_>, path: &str, use_openat2: &mut bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if *use_openat2 {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // a sandbox that does not know the call answers EPERM
            Err(Errno::NOSYS | Errno::PERM) => *use_openat2 = false,
            // a rename somewhere on the system came in between
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    let mut dir: Option<OwnedFd> = None;
    for part in path.split('/') {
        let above = dir.as_ref().map_or(root, |d| d.as_fd());
        dir = Some(openat(above, part, flags, Mode::empty())?);
    }
    dir.ok_or(Errno::NOENT)
}

/// Opens one name. It is looked at first, so that a FIFO or device standing there is not even opened.
fn open_regular(dir: BorrowedFd<'_>, name: &str) -> Result<Opened, OpenRefused> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenRefused::NotRegular);
    }
    open_looked_at(dir, name)
}

/// What was swapped in after the first look is opened without waiting for anything, and the second look finds it.
pub(super) fn open_looked_at(dir: BorrowedFd<'_>, name: &str) -> Result<Opened, OpenRefused> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenRefused::NotRegular);
    }
    Ok(Opened { file, stamp: Stamp::of(&stat), holes: Holes::of(&stat) })
}

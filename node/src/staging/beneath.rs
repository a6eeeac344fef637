//! Opening directories strictly beneath a held descriptor: no symlink, no `..`, no other mount.
//!
//! `openat2` does it in the kernel. Where it is missing (old kernel, seccomp) the path is walked component by
//! component with `O_NOFOLLOW` and the mount is compared at each step.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use lru::LruCache;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, chmod, openat, openat2};
use rustix::io::{self, Errno};

use super::inode::Inode;

/// For reading a directory, never through a symlink.
pub(crate) const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// `openat2` answers EAGAIN when a rename races with it.
const RACES: usize = 8;

/// Opens the directory at `path` (checked, relative) beneath `root`.
pub(crate) fn open_dir(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    for _ in 0..RACES {
        match openat2(root, path, DIR, Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => return walk(root, path),
            other => return other,
        }
    }
    walk(root, path)
}

/// Opens the directory `name`, one component, in `dir` without following a symlink.
pub(crate) fn open_child(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    openat(dir, name, DIR, Mode::empty())
}

/// Adds permission bits to the thing at `name` in `dir`, never through a symlink. For things that cannot be opened.
pub(crate) fn add_mode(dir: impl AsFd, name: impl rustix::path::Arg, bits: u32) -> io::Result<()> {
    let fd = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let inode = Inode::of(&fd)?;
    if inode.kind() == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    // an O_PATH descriptor cannot be changed directly, its entry in /proc can
    chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(inode.mode() | bits))
}

fn walk(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let place = Inode::of(root)?.place();
    let mut at = root.try_clone_to_owned().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    for name in path.split('/') {
        if matches!(name, "" | "." | "..") {
            return Err(Errno::XDEV);
        }
        at = open_child(&at, name)?;
        if Inode::of(&at)?.place() != place {
            return Err(Errno::XDEV);
        }
    }
    Ok(at)
}

/// Recently used directories of one tree, held open. Each lane owns one.
#[derive(Debug)]
pub(crate) struct DirCache {
    root: Arc<OwnedFd>,
    open: LruCache<String, Arc<OwnedFd>>,
}

impl DirCache {
    /// A cache of at most `capacity` descriptors over the tree at `root`.
    pub(crate) fn new(root: Arc<OwnedFd>, capacity: NonZeroUsize) -> Self {
        Self { root, open: LruCache::new(capacity) }
    }

    /// The directory at `path`; the root for `None`.
    pub(crate) fn dir(&mut self, path: Option<&str>) -> io::Result<Arc<OwnedFd>> {
        let Some(path) = path else { return Ok(Arc::clone(&self.root)) };
        if let Some(fd) = self.open.get(path) {
            return Ok(Arc::clone(fd));
        }
        let fd = match open_dir(self.root.as_fd(), path) {
            // too many open files: give ours back and try once more
            Err(Errno::MFILE | Errno::NFILE) if !self.open.is_empty() => {
                self.open.clear();
                open_dir(self.root.as_fd(), path)?
            }
            other => other?,
        };
        let fd = Arc::new(fd);
        self.open.put(path.to_owned(), Arc::clone(&fd));
        Ok(fd)
    }

    /// Closes everything but the root.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    // RELIABILITY A01-A03, rsync's symlink races
    #[test]
    fn neither_way_of_opening_follows_a_symlink_or_leaves_the_root() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("root/a/b")).unwrap();
        std::fs::create_dir(tmp.path().join("outside")).unwrap();
        symlink("../outside", tmp.path().join("root/link")).unwrap();
        symlink("../../outside", tmp.path().join("root/a/link")).unwrap();
        let root = std::fs::File::open(tmp.path().join("root")).unwrap();
        for open in [open_dir as fn(BorrowedFd<'_>, &str) -> io::Result<OwnedFd>, walk] {
            assert!(open(root.as_fd(), "a/b").is_ok());
            for bad in ["link", "a/link", "../outside", "a/../../outside"] {
                assert!(open(root.as_fd(), bad).is_err(), "{bad}");
            }
        }
    }
}

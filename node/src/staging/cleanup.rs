//! Deleting a tree: by descriptor, never through a symlink, never into another mount, as often as wanted.
//!
//! The tree is first renamed to its doomed name. From then on no recovery and no rollback takes it for whole.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, chmod, openat, unlinkat};
use rustix::io::{self, Errno};

use super::inode::{Identity, Inode, Place};
use super::{durable, mounts};

/// Levels after which a tree is left to its owner; each level holds two descriptors.
const MAX_DEPTH: usize = 256;
/// Rounds over a directory whose entries came back or were skipped by the file system's listing.
const ROUNDS: usize = 4;

/// What a deletion left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deleted {
    /// Entries that could not be deleted or lie on another mount.
    pub(crate) left: u64,
}

/// Moves the tree `identity` from `name` to `doomed`, if it still is at `name`, and deletes it there.
/// Finishes what an earlier call began.
pub(crate) fn doom_and_delete(
    parent: BorrowedFd<'_>,
    name: &str,
    doomed: &str,
    identity: Identity,
) -> io::Result<Deleted> {
    if Inode::at(parent, name)?.is_some_and(|inode| inode.is_dir() && inode.identity() == identity) {
        if mounts::mount_below(&path_of(parent)?.join(name)).is_some() {
            return Err(Errno::BUSY);
        }
        durable::move_to_free(parent, name, doomed)?;
        durable::sync(parent)?;
    }
    delete_doomed(parent, doomed, &[identity])
}

/// Where a held directory is now, for the mount table.
fn path_of(dir: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", dir.as_raw_fd()), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(link.into_bytes())))
}

/// Deletes what stands at `doomed`, if it is one of these trees.
pub(crate) fn delete_doomed(parent: BorrowedFd<'_>, doomed: &str, ours: &[Identity]) -> io::Result<Deleted> {
    let Some(inode) = Inode::at(parent, doomed)? else { return Ok(Deleted::default()) };
    if !inode.is_dir() || !ours.contains(&inode.identity()) {
        return Ok(Deleted { left: 1 });
    }
    let place = Inode::of(parent)?.place();
    let mut deleted = Deleted::default();
    delete_dir(parent, doomed, Some(inode.identity()), place, 0, &mut deleted);
    Ok(deleted)
}

fn delete_dir(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    expected: Option<Identity>,
    place: Place,
    depth: usize,
    deleted: &mut Deleted,
) {
    for _ in 0..ROUNDS {
        let before = deleted.left;
        let emptied = open_writable(parent, name, expected, place).and_then(|fd| empty(&fd, place, depth, deleted));
        match emptied.and_then(|()| unlinkat(parent, name, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::NOENT) => return,
            // nothing was refused, so something was not listed or came in meanwhile
            Err(Errno::NOTEMPTY | Errno::EXIST) if deleted.left == before => {}
            Err(_) => {
                deleted.left += 1;
                return;
            }
        }
    }
    deleted.left += 1;
}

fn empty(fd: &OwnedFd, place: Place, depth: usize, deleted: &mut Deleted) -> io::Result<()> {
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match Inode::at(fd, name) {
            Ok(None) => {}
            Ok(Some(inode)) if inode.place() != place || inode.is_mount_root() || depth >= MAX_DEPTH => {
                deleted.left += 1;
            }
            Ok(Some(inode)) if inode.is_dir() => {
                delete_dir(fd.as_fd(), name, Some(inode.identity()), place, depth + 1, deleted);
            }
            Ok(Some(_)) => match unlinkat(fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(_) => deleted.left += 1,
            },
            Err(_) => deleted.left += 1,
        }
    }
    Ok(())
}

/// Opens a directory for changing, giving its owner all rights on it first.
pub(crate) fn open_writable(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    expected: Option<Identity>,
    place: Place,
) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty())?;
    let inode = Inode::of(&fd)?;
    if expected.is_some_and(|expected| expected != inode.identity()) || inode.place() != place {
        return Err(Errno::XDEV);
    }
    if inode.mode() & 0o700 != 0o700 {
        // an O_PATH descriptor cannot be changed directly, its entry in /proc can; a failure shows when opening
        chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(inode.mode() | 0o700)).ok();
    }
    openat(&fd, c".", super::beneath::DIR, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn tree(at: &std::path::Path) -> (fs::File, Identity) {
        fs::create_dir_all(at.join("t/a/b")).unwrap();
        fs::write(at.join("t/a/b/f"), "x").unwrap();
        let id = Inode::at(fs::File::open(at).unwrap(), "t").unwrap().unwrap().identity();
        (fs::File::open(at).unwrap(), id)
    }

    // RELIABILITY F37, A34
    #[test]
    fn directories_without_any_rights_are_deleted_and_links_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let (parent, id) = tree(tmp.path());
        fs::create_dir(tmp.path().join("outside")).unwrap();
        fs::write(tmp.path().join("outside/keep"), "x").unwrap();
        symlink("../outside", tmp.path().join("t/link")).unwrap();
        for dir in ["t/a/b", "t/a", "t"] {
            fs::set_permissions(tmp.path().join(dir), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let deleted = doom_and_delete(parent.as_fd(), "t", "t.gone", id).unwrap();
        assert_eq!(deleted.left, 0);
        assert!(!tmp.path().join("t").exists() && !tmp.path().join("t.gone").exists());
        assert!(tmp.path().join("outside/keep").exists());
        // again is fine
        assert_eq!(doom_and_delete(parent.as_fd(), "t", "t.gone", id).unwrap().left, 0);
    }

    #[test]
    fn a_tree_that_is_not_the_expected_one_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let (parent, id) = tree(tmp.path());
        let other = Identity { ino: id.ino + 1, ..id };
        doom_and_delete(parent.as_fd(), "t", "t.gone", other).unwrap();
        assert!(tmp.path().join("t/a/b/f").exists());
    }

    // RELIABILITY F76: following a mount here deleted mounted data
    #[test]
    fn cleanup_does_not_cross_a_bind_mount() {
        let tmp = tempfile::tempdir().unwrap();
        let (parent, id) = tree(tmp.path());
        let data = tmp.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("precious"), "x").unwrap();
        let point = tmp.path().join("t/a/mnt");
        fs::create_dir(&point).unwrap();
        let Some(_mount) = super::super::testing::bind(&data, &point) else { return };
        // a tree with a mount in it is not even moved
        assert_eq!(doom_and_delete(parent.as_fd(), "t", "t.gone", id), Err(Errno::BUSY));
        assert!(tmp.path().join("t/a/b/f").exists());
        // one that was mounted into after the move is deleted around the mount
        let deleted = delete_doomed(parent.as_fd(), "t", &[id]).unwrap();
        assert!(deleted.left > 0 && !tmp.path().join("t/a/b").exists());
        assert_eq!(fs::read(data.join("precious")).unwrap(), b"x");
    }
}

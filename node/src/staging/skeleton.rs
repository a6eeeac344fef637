//! The directories and symlinks of a staging tree: made, completed after a crash, repaired after somebody else.
//!
//! Everything here may be done again. What stands in the place of a directory or symlink in this private tree is
//! removed, if it is no directory with something in it.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use me_sync_protocol::escape::escaped;
use me_sync_protocol::manifest::Node;
use rustix::fs::{AtFlags, FileType, Mode, fchmod, mkdirat, readlinkat, symlinkat, unlinkat, utimensat};
use rustix::io::{self, Errno};

use super::beneath::{DirCache, add_mode};
use super::error::StageError;
use super::inode::{Inode, Place};
use super::modes::times;
use super::tree::Shared;

/// Directories kept open on the way.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
/// The owner may do everything with a directory.
const OWNER: u32 = 0o700;

/// Makes every directory that is missing and gives the others all rights of their owner back.
pub(super) fn make_dirs(shared: &Shared) -> Result<(), StageError> {
    let failed = |path: &str, err: Errno| StageError::Entry {
        what: "making the directory",
        path: escaped(path).to_string(),
        err: err.into(),
    };
    let root = Inode::of(&shared.root).map_err(|err| failed("the root", err))?;
    if root.mode() != OWNER {
        // what is not whole yet is nobody else's business
        fchmod(&shared.root, Mode::RWXU).map_err(|err| failed("the root", err))?;
    }
    let mut dirs = DirCache::new(Arc::clone(&shared.root), OPEN_DIRS);
    for (_, entry) in shared.manifest.entries() {
        if !matches!(entry.node, Node::Dir) {
            continue;
        }
        let (path, name) = (entry.path.as_str(), entry.path.name());
        let dir = dirs.dir(entry.path.parent()).map_err(|err| failed(path, err))?;
        let made = match mkdirat(&dir, name, Mode::RWXU) {
            Err(Errno::EXIST) => adopt(&dir, name, root.place()),
            other => other,
        };
        made.map_err(|err| failed(path, err))?;
    }
    Ok(())
}

/// Something stands where a directory belongs.
fn adopt(dir: &OwnedFd, name: &str, place: Place) -> io::Result<()> {
    match Inode::at(dir, name)? {
        Some(inode) if inode.place() != place => Err(Errno::XDEV),
        Some(inode) if inode.is_dir() && inode.mode() & OWNER == OWNER => Ok(()),
        Some(inode) if inode.is_dir() => add_mode(dir, name, OWNER),
        Some(_) => {
            unlinkat(dir, name, AtFlags::empty())?;
            mkdirat(dir, name, Mode::RWXU)
        }
        None => mkdirat(dir, name, Mode::RWXU),
    }
}

/// Makes every symlink. Last of all, so that no path of a file can lead through one.
pub(super) fn make_symlinks(shared: &Shared) -> Result<(), StageError> {
    let mut dirs = DirCache::new(Arc::clone(&shared.root), OPEN_DIRS);
    for (_, entry) in shared.manifest.entries() {
        let Node::Symlink { target } = &entry.node else { continue };
        let name = entry.path.name();
        let made = dirs.dir(entry.path.parent()).and_then(|dir| {
            match symlinkat(target.as_ref(), &dir, name) {
                Err(Errno::EXIST) => replace_by_symlink(&dir, name, target)?,
                other => other?,
            }
            utimensat(&dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        });
        made.map_err(|err| StageError::Entry {
            what: "making the symlink",
            path: entry.path.to_string(),
            err: err.into(),
        })?;
    }
    Ok(())
}

/// Something stands where a symlink belongs: the same one, from an earlier seal, or not.
fn replace_by_symlink(dir: &OwnedFd, name: &str, target: &str) -> io::Result<()> {
    if let Some(inode) = Inode::at(dir, name)? {
        let same = inode.kind() == FileType::Symlink
            && readlinkat(dir, name, Vec::new()).is_ok_and(|text| text.as_bytes() == target.as_bytes());
        if same {
            return Ok(());
        }
        unlinkat(dir, name, AtFlags::empty())?;
    }
    symlinkat(target, dir, name)
}

//! Every call that makes something durable or moves a tree, each alone and by name.
//!
//! Nothing else in this crate calls `rename`, `fsync` or `syncfs` on staged data. A failed sync is reported
//! once by the kernel and then forgotten, so no wrapper here ever tries again.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, RenameFlags};
use rustix::io::{self, Errno};

use super::inode::Inode;

/// Atomically swaps two names of one directory.
pub(crate) fn exchange(dir: BorrowedFd<'_>, one: &str, other: &std::ffi::OsStr) -> io::Result<()> {
    fs::renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE)
}

/// Moves `from` to a name that must be free.
///
/// File systems without `RENAME_NOREPLACE` get a look and a plain rename, which would still refuse to replace
/// a directory that is not empty.
pub(crate) fn move_to_free(
    dir: BorrowedFd<'_>,
    from: impl rustix::path::Arg + Copy,
    to: impl rustix::path::Arg + Copy,
) -> io::Result<()> {
    match fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match Inode::at(dir, to)? {
            Some(_) => Err(Errno::EXIST),
            None => fs::renameat(dir, from, dir, to),
        },
        other => other,
    }
}

/// Moves `name` from one directory to the same name in another, where it must be free.
pub(crate) fn move_between(from: impl AsFd, to: impl AsFd, name: &str) -> io::Result<()> {
    match fs::renameat_with(&from, name, &to, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match Inode::at(&to, name)? {
            Some(_) => Err(Errno::EXIST),
            None => fs::renameat(&from, name, &to, name),
        },
        other => other,
    }
}

/// Replaces one file of a directory by another.
pub(crate) fn replace_file(dir: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    fs::renameat(dir, from, dir, to)
}

/// Flushes a directory's names or a file's bytes.
pub(crate) fn sync(fd: impl AsFd) -> io::Result<()> {
    fs::fsync(fd)
}

/// Flushes the whole file system that `fd` lies on.
///
/// `fd` must have been opened before the first write that this call answers for: a write-back error that
/// somebody else was told about is invisible to a descriptor opened later.
pub(crate) fn sync_file_system(fd: impl AsFd) -> io::Result<()> {
    #[cfg(feature = "test-hooks")]
    if std::env::var_os("ME_SYNC_TEST_SKIP_SYNCFS").is_some_and(|v| v == "1") {
        return Ok(());
    }
    fs::syncfs(fd)
}

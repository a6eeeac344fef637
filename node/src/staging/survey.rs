//! A bounded walk over the tree that is to be replaced: how much it is, whether it changed, what is mounted in it.
//!
//! Reads metadata only, never follows a symlink, never enters another mount.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::Digest;
use rustix::fs::{Dir, FileType, Mode, ResolveFlags, openat2};
use rustix::io::{self, Errno};

use super::beneath::{DIR, open_child};
use super::inode::Inode;
use super::{is_staging_name, lock};

/// Entries after which the walk stops. Such a tree is replaced all the same; its changes are not noticed.
const MAX_ENTRIES: u64 = 2_000_000;

/// The tree that stands at the target now, for the question of consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OldTree {
    /// Everything that is not a directory.
    pub files: u64,
    /// Directories, without the root.
    pub dirs: u64,
    /// Bytes in regular files.
    pub bytes: u64,
    /// False: too large or partly unreadable, so the figures are lower bounds.
    pub complete: bool,
}

/// What the walk found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    pub(crate) tree: OldTree,
    /// Bytes of the file system that its regular files take.
    pub(crate) on_disk: u64,
    /// Over names, kinds, sizes and times; none if the tree was not seen whole.
    pub(crate) fingerprint: Option<Digest>,
    /// Something mounted inside, relative to the root.
    pub(crate) mount: Option<PathBuf>,
    /// A staging tree that a live session fills, relative to the root.
    pub(crate) busy: Option<PathBuf>,
}

/// Walks the tree at `root`.
pub(crate) fn survey(root: BorrowedFd<'_>) -> io::Result<Survey> {
    let mut found = Survey { tree: OldTree { complete: true, ..OldTree::default() }, ..Survey::default() };
    let top = Inode::of(root)?;
    let place = top.place();
    // the order of a directory's entries is the file system's business, so their hashes are added, not chained
    let mut sum = [0_u64; 4];
    add(&mut sum, b"", top.mode(), &[top.mtime()]);
    let mut pending: Vec<CString> = vec![c".".to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(dir) = open(root, &path) else {
            found.tree.complete = false;
            continue;
        };
        for entry in Dir::read_from(&dir)? {
            let Ok(entry) = entry else {
                found.tree.complete = false;
                break;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if found.tree.files + found.tree.dirs >= MAX_ENTRIES {
                found.tree.complete = false;
                return Ok(found);
            }
            // gone again since it was listed
            let Some(inode) = Inode::at(&dir, name)? else { continue };
            let below = join(&path, name);
            add(
                &mut sum,
                below.as_bytes(),
                inode.kind().as_raw_mode() | inode.mode(),
                &[inode.size().cast_signed(), inode.mtime(), inode.ctime(), inode.ino().cast_signed()],
            );
            if inode.place() != place || inode.is_mount_root() {
                found.mount.get_or_insert_with(|| to_path(&below));
                continue;
            }
            if inode.is_dir() {
                found.tree.dirs += 1;
                if is_staging_name(name.to_bytes()) && open_child(&dir, name).is_ok_and(lock::is_held) {
                    found.busy.get_or_insert_with(|| to_path(&below));
                }
                pending.push(below);
            } else {
                found.tree.files += 1;
                if inode.kind() == FileType::RegularFile {
                    found.tree.bytes = found.tree.bytes.saturating_add(inode.size());
                    found.on_disk = found.on_disk.saturating_add(inode.on_disk());
                }
            }
        }
    }
    if found.tree.complete {
        let mut bytes = [0; 32];
        for (out, lane) in bytes.chunks_exact_mut(8).zip(sum) {
            out.copy_from_slice(&lane.to_be_bytes());
        }
        found.fingerprint = Some(Digest(bytes));
    }
    Ok(found)
}

fn open(root: BorrowedFd<'_>, path: &CStr) -> io::Result<std::os::fd::OwnedFd> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    match openat2(root, path, DIR, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
            let mut at = open_child(root, ".")?;
            for name in path.to_bytes().split(|b| *b == b'/').filter(|name| *name != b".") {
                at = open_child(&at, std::ffi::OsStr::from_bytes(name))?;
            }
            Ok(at)
        }
        other => other,
    }
}

fn join(dir: &CStr, name: &CStr) -> CString {
    if dir.to_bytes() == b"." {
        return name.to_owned();
    }
    let mut path = dir.to_bytes().to_vec();
    path.push(b'/');
    path.extend_from_slice(name.to_bytes());
    // both parts are C strings
    CString::new(path).unwrap_or_default()
}

fn to_path(path: &CStr) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()))
}

fn add(sum: &mut [u64; 4], path: &[u8], mode: u32, numbers: &[i64]) {
    let mut hash = Hasher::new();
    hash.update(path);
    hash.update(&[0]);
    hash.update(&mode.to_be_bytes());
    numbers.iter().for_each(|n| hash.update(&n.to_be_bytes()));
    for (lane, bytes) in sum.iter_mut().zip(hash.finish().as_bytes().chunks_exact(8)) {
        *lane = lane.wrapping_add(u64::from_be_bytes(bytes.try_into().unwrap_or_default()));
    }
}

/// The walk's root as something to keep.
pub(crate) fn survey_at(root: &impl AsFd) -> io::Result<Survey> {
    survey(root.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edit_of_the_tree_changes_its_fingerprint_and_a_rename_of_the_root_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("t");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/f"), "12345").unwrap();
        let fd = std::fs::File::open(&root).unwrap();
        let before = survey_at(&fd).unwrap();
        assert_eq!(before.tree, OldTree { files: 1, dirs: 2, bytes: 5, complete: true });
        std::fs::rename(&root, tmp.path().join("u")).unwrap();
        let root = tmp.path().join("u");
        assert_eq!(survey_at(&fd).unwrap().fingerprint, before.fingerprint);
        let mut last = before.fingerprint;
        let edits: [&dyn Fn(); 4] = [
            &|| std::fs::write(root.join("a/f"), "1234567").unwrap(),
            &|| std::fs::write(root.join("a/b/new"), "").unwrap(),
            &|| std::fs::rename(root.join("a/b/new"), root.join("a/b/newer")).unwrap(),
            &|| std::fs::remove_file(root.join("a/f")).unwrap(),
        ];
        for edit in edits {
            edit();
            let now = survey_at(&fd).unwrap().fingerprint;
            assert!(now.is_some() && now != last);
            last = now;
        }
    }
}

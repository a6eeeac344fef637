//! Is what stands at the target the tree that came, to the last bit that a migration keeps? Then nothing is swapped, and
//! no second copy of it is kept.
//!
//! Contents are known: every file was copied out of the target and had the manifest's SHA-256, or counts where it stands
//! ([`super::standing`]). That they are the same still, the caller sees by the target's fingerprint. Here names, kinds,
//! modes, times and links are compared.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use me_sync_protocol::manifest::{Entry, Mtime, Node};
use rustix::fs::{FileType, readlinkat};

use super::beneath::DirCache;
use super::inode::Inode;
use super::survey::OldTree;
use super::tree::Shared;

/// Directories that are kept open.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(12).expect("not zero");

/// Whether the tree at `root`, of which `found` is known, has the entries of the manifest and no others. What cannot be
/// looked at is another tree.
pub(super) fn is_same(shared: &Shared, root: OwnedFd, found: &OldTree) -> bool {
    if !root_is_same(shared, &root, found) {
        return false;
    }
    let mut dirs = DirCache::new(Arc::new(root), OPEN_DIRS);
    shared.manifest.entries().all(|(_, entry)| entry_is_same(shared, &mut dirs, &entry).is_some())
}

/// Whether the root looks as the manifest says and has as many entries below it.
pub(super) fn root_is_same(shared: &Shared, root: &OwnedFd, found: &OldTree) -> bool {
    let manifest = &shared.manifest;
    let counted = found.files.checked_add(found.dirs) == Some(u64::from(manifest.len()));
    if !counted || !found.complete || manifest.is_outline() {
        return false;
    }
    let header = manifest.header();
    let root_fits = |inode: Inode| {
        inode.mode() == shared.modes.mode(header.root_mode, true).as_raw_mode() && is_time(&inode, header.root_mtime)
    };
    Inode::of(root).is_ok_and(root_fits)
}

/// What stands at the entry's path, if it looks as the manifest says; of a file, all but its content is compared.
pub(super) fn entry_is_same(shared: &Shared, dirs: &mut DirCache, entry: &Entry<'_>) -> Option<Inode> {
    let dir = dirs.dir(entry.path.parent()).ok()?;
    let name = entry.path.name();
    let inode = Inode::at(&dir, name).ok()??;
    let mode = || inode.mode() == shared.modes.of(entry).as_raw_mode();
    let fits = match &entry.node {
        Node::File { size, .. } => {
            inode.kind() == FileType::RegularFile && inode.size() == *size && inode.links() == 1 && mode()
        }
        Node::Dir => inode.is_dir() && mode(),
        Node::Symlink { target } => {
            inode.kind() == FileType::Symlink
                && readlinkat(&dir, name, Vec::new()).is_ok_and(|text| text.as_bytes() == target.as_bytes())
        }
    };
    (fits && is_time(&inode, entry.mtime)).then_some(inode)
}

fn is_time(inode: &Inode, declared: Option<Mtime>) -> bool {
    declared.is_none_or(|declared| {
        let (secs, nanos) = declared.to_unix();
        secs.checked_mul(1_000_000_000).and_then(|secs| secs.checked_add(i64::from(nanos))) == Some(inode.mtime())
    })
}

//! Is the tree that came the one that stands at the target already? Then nothing is copied, and nothing is swapped.
//!
//! First by looks alone, which costs one `statx` an entry: names, kinds, sizes, modes, times, links. Only if all of them
//! are the manifest's are contents asked for: those of files that nobody touched since they were put there are on
//! record ([`Known`]), all others are read where they stand.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use me_sync_protocol::file::{LocalFile, VerifiedFile};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::{Entry, Manifest, Node};
use rustix::fs::{Mode, OFlags, openat};

use super::beneath::DirCache;
use super::error::StageError;
use super::inode::Inode;
use super::known::Known;
use super::rehash::{self, in_batches};
use super::same;
use super::stamp::{FileStamp, Stamps};
use super::tree::Staging;

const BLOCK: usize = 256 << 10;
/// Directories a thread keeps open.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(12).expect("not zero");

/// The target is the tree, as it was seen.
#[derive(Debug)]
pub(super) struct Standing {
    /// How each of its files looked when its SHA-256 was known.
    pub(super) stamps: Arc<Stamps>,
    /// Something had to be read: it may not be on the disk yet, and is worth remembering.
    pub(super) was_read: bool,
}

impl Staging {
    /// All files of the manifest, if the tree at the target is that tree. Blocking, as long as reading what is not known
    /// takes; `progress` counts bytes read.
    ///
    /// # Errors
    /// It was stopped. Whatever cannot be looked at or read is another tree.
    pub(super) fn stands(
        &self,
        known: &Known,
        threads: NonZeroUsize,
        stop: &AtomicBool,
        progress: &AtomicU64,
    ) -> Result<Option<Vec<VerifiedFile>>, StageError> {
        let manifest = &self.shared.manifest;
        let old = self.site.target.old.as_ref().filter(|old| old.survey.fingerprint.is_some());
        let Some(old) = old.filter(|_| !self.site.journal.record().target_changed) else { return Ok(None) };
        let Ok(root) = old.fd.try_clone().map(Arc::new) else { return Ok(None) };
        if !same::root_is_same(&self.shared, &root, &old.survey.tree) {
            return Ok(None);
        }
        let stamps = Arc::new(Stamps::none_of(manifest.len()));
        let differs = AtomicBool::new(false);

        let unknown = in_batches(manifest.len(), threads, stop, |batches| {
            let mut dirs = DirCache::new(Arc::clone(&root), OPEN_DIRS);
            let mut unknown = Vec::new();
            for index in batches.flatten() {
                if differs.load(Ordering::Relaxed) {
                    break;
                }
                let Some(entry) = manifest.entry(index) else { continue };
                // what is staged already is wanted, and part of a tree that will be swapped in
                let is_staged = self.shared.stamps.is_finished(index) || self.shared.slots.is_aside(index);
                let there = same::entry_is_same(&self.shared, &mut dirs, &entry).filter(|_| !is_staged);
                let Some(inode) = there else {
                    differs.store(true, Ordering::Relaxed);
                    break;
                };
                if let Node::File { sha256, .. } = &entry.node {
                    match known.sha256(&inode) {
                        Some(there) if Some(there) == *sha256 => stamps.set(index, FileStamp::of(&inode)),
                        Some(_) => differs.store(true, Ordering::Relaxed),
                        None => unknown.push(index),
                    }
                }
            }
            Ok(unknown)
        })?;
        let mut unknown: Vec<EntryIndex> = unknown.into_iter().flatten().collect();
        unknown.sort_unstable();
        let count = u32::try_from(unknown.len()).unwrap_or(u32::MAX);

        in_batches(count, threads, stop, |batches| {
            let mut reader =
                Reader { dirs: DirCache::new(Arc::clone(&root), OPEN_DIRS), block: Vec::new(), stop, progress };
            for index in batches.flatten().filter_map(|nth| unknown.get(nth.at()).copied()) {
                if differs.load(Ordering::Relaxed) {
                    break;
                }
                match manifest.entry(index).map(|entry| reader.read(&self.shared.manifest, index, &entry)) {
                    Some(Ok(Some(stamp))) => stamps.set(index, stamp),
                    Some(Err(error)) => return Err(error),
                    Some(Ok(None)) | None => differs.store(true, Ordering::Relaxed),
                }
            }
            Ok(())
        })?;
        if differs.into_inner() {
            return Ok(None);
        }
        let files = (0..manifest.len()).map(EntryIndex).filter(|index| stamps.is_finished(*index));
        let files: Vec<_> = files.filter_map(|index| VerifiedFile::recorded(manifest, index)).collect();
        if files.len() != manifest.counts().files as usize {
            return Ok(None);
        }
        self.site.standing.set(Standing { stamps, was_read: !unknown.is_empty() }).ok();
        Ok(Some(files))
    }

    /// Every file counts as it stands at the target; nothing of them is staged.
    pub fn is_standing(&self) -> bool {
        self.site.standing.get().is_some()
    }
}

/// Reads files where they stand; one a thread.
struct Reader<'a> {
    dirs: DirCache,
    block: Vec<u8>,
    stop: &'a AtomicBool,
    progress: &'a AtomicU64,
}

impl Reader<'_> {
    /// How the file looks, if it has the manifest's content. Nothing of it is changed, not even its time of access.
    fn read(
        &mut self,
        manifest: &Manifest,
        index: EntryIndex,
        entry: &Entry<'_>,
    ) -> Result<Option<FileStamp>, StageError> {
        let Some(mut hash) = LocalFile::begin(manifest, index) else { return Ok(None) };
        let Ok(dir) = self.dirs.dir(entry.path.parent()) else { return Ok(None) };
        let Some(file) = open(&dir, entry.path.name()) else { return Ok(None) };
        let Ok(before) = Inode::of(&file) else { return Ok(None) };
        self.block.resize(BLOCK, 0);
        let took = |bytes| rehash::took(bytes, self.stop, self.progress);
        if !rehash::hash_whole(&file, before.holes(), entry.size(), &mut hash, &mut self.block, took)? {
            return Ok(None);
        }
        let stamp = FileStamp::of(&before);
        let untouched = Inode::of(&file).is_ok_and(|after| FileStamp::of(&after) == stamp);
        Ok((untouched && hash.finish().is_ok()).then_some(stamp))
    }
}

fn open(dir: &OwnedFd, name: &str) -> Option<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // only the owner may ask for the time of access to stay
    let quiet = openat(dir, name, flags | OFlags::NOATIME, Mode::empty());
    quiet.or_else(|_| openat(dir, name, flags, Mode::empty())).ok().map(std::fs::File::from)
}

#[cfg(test)]
#[path = "standing/tests.rs"]
mod tests;

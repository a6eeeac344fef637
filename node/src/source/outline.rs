//! A tree that is offered before its files are hashed, and the way back to hashing what is left.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use me_sync_protocol::ids::Digest;

use super::beneath::DirCache;
use super::cache::HashCache;
use super::error::SourceError;
use super::read::Snapshot;
use super::tree::{Kind, Stamp, Tree};
use super::{HashProgress, ScanOptions, Source, SourceSummary, hash};

/// Opening a file takes as long as reading so many bytes, about.
pub(super) const A_FILE: u64 = 16 << 10;
/// What was walked so recently is offered as it was seen: the few files that changed since fail when it is their turn, and
/// are seen anew then, while a second look at every file would keep the importer waiting.
pub(super) const FRESH: Duration = Duration::from_secs(3);
/// Files that are looked up in the cache at once.
const LOOK_UP: usize = 256;

/// Whether hashing is to end early for an importer that takes an outline.
#[derive(Debug, Default)]
pub struct Late {
    wanted: AtomicBool,
    from: u64,
    /// Somebody asked for the tree.
    #[cfg(feature = "test-hooks")]
    came: AtomicBool,
    /// Hashing does not begin before.
    #[cfg(feature = "test-hooks")]
    is_cold: bool,
}

impl Late {
    /// An outline is worth it when more than `from` bytes are to be read for their hashes alone; each file counts 16 KiB
    /// more.
    pub fn from(from: u64) -> Self {
        Self { from, ..Self::default() }
    }

    /// Everything is hashed first.
    pub fn never() -> Self {
        Self::from(u64::MAX)
    }

    /// An importer that takes an outline is here.
    pub fn want(&self) {
        self.wanted.store(self.from < u64::MAX, Relaxed);
    }

    /// Nobody takes an outline any more.
    pub fn decline(&self) {
        self.wanted.store(false, Relaxed);
    }

    /// Somebody asked for the tree: for tests, in which hashing is otherwise over before that.
    pub fn came(&self) {
        #[cfg(feature = "test-hooks")]
        self.came.store(true, Relaxed);
    }

    /// Hashing begins when somebody asks for the tree.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn cold(self, is_cold: bool) -> Self {
        Self { is_cold, ..self }
    }

    #[cfg(feature = "test-hooks")]
    fn wait(&self, stop: &AtomicBool) {
        while self.is_cold && !self.came.load(Relaxed) && !stop.load(Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

/// What hashing came to.
#[derive(Debug)]
pub enum Hashed {
    /// Everything is hashed.
    Whole(Box<Snapshot>),
    /// It ended early, for an importer that takes an outline.
    Outline(Box<Outline>),
}

/// A tree of which not all files are hashed: what is served meanwhile, and what is needed to hash the rest.
#[derive(Debug)]
pub struct Outline {
    snapshot: Arc<Snapshot>,
    root_stamp: Option<Stamp>,
    /// Files that may have holes, by manifest index.
    suspects: BTreeSet<u32>,
    options: ScanOptions,
    summary: SourceSummary,
    fingerprint: u64,
    walked: Instant,
}

impl Outline {
    /// The tree with an outline in place of its manifest.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The tree, to hash what is not `learned`, which is by manifest index: what was read whole while it was sent. The list of
    /// what was walked is made again from the outline, so that it need not be kept for the rare session that wants it.
    pub fn into_source(self, mut learned: Vec<Option<Digest>>) -> Source {
        let Self { snapshot, root_stamp, suspects, options, summary, fingerprint, walked } = self;
        let tree = snapshot.tree(root_stamp, suspects);
        learned.resize(tree.records().len(), None);
        Source { tree, options, summary, fingerprint, known: learned, walked }
    }
}

impl Source {
    /// As [`Source::hash`], and ends early if somebody wants an outline, as `late` says, and what is left is worth it.
    ///
    /// # Errors
    /// As [`Source::hash`].
    pub fn hash_or_outline(
        mut self,
        threads: NonZeroUsize,
        cache: Option<&HashCache>,
        progress: &HashProgress,
        stop: &AtomicBool,
        late: &Late,
    ) -> Result<Hashed, SourceError> {
        #[cfg(feature = "test-hooks")]
        late.wait(stop);
        self.known.resize(self.tree.records().len(), None);
        loop {
            let (tree, known, skipped) = (&mut self.tree, &mut self.known, &mut self.summary.skipped);
            let is_whole =
                hash::hash_all(tree, known, skipped, &self.options, threads, cache, progress, stop, &late.wanted)?;
            if is_whole {
                let Self { tree, known, summary, .. } = self;
                return Snapshot::seal(tree, known, summary.root, summary.skipped)
                    .map(|snapshot| Hashed::Whole(Box::new(snapshot)));
            }
            if rest(tree, known, cache, late.from) > late.from {
                if self.walked.elapsed() > FRESH {
                    look_again(tree, known);
                }
                return self.outline().map(|outline| Hashed::Outline(Box::new(outline)));
            }
            late.decline();
        }
    }

    fn outline(self) -> Result<Outline, SourceError> {
        let Self { tree, options, summary, fingerprint, known, walked } = self;
        // whatever counts of them is in the cache
        drop(known);
        let (root_stamp, suspects) = (tree.root_stamp, tree.suspects_by_index());
        let snapshot = Arc::new(Snapshot::outline(tree, summary.root.clone(), summary.skipped.clone())?);
        Ok(Outline { snapshot, root_stamp, suspects, options, summary, fingerprint, walked })
    }
}

/// What it would take to know the rest, in bytes, which is over when it is more than `most`. What the cache knows
/// becomes known on the way.
fn rest(tree: &Tree, known: &mut [Option<Digest>], cache: Option<&HashCache>, most: u64) -> u64 {
    let files = (0u32..).zip(tree.records()).filter(|(_, record)| record.kind == Kind::File);
    let unknown: Vec<u32> = files.map(|(index, _)| index).filter(|index| known[*index as usize].is_none()).collect();
    let mut rest = 0_u64;
    for block in unknown.chunks(LOOK_UP) {
        let stamps: Vec<Stamp> = block.iter().map(|record| tree.stamp(*record)).collect();
        let found = cache.map_or_else(|| vec![None; stamps.len()], |cache| cache.find(&stamps));
        for ((record, stamp), found) in block.iter().zip(stamps).zip(found) {
            match found {
                // its use is still to be written down
                Some(found) if found.is_old => {}
                Some(found) => known[*record as usize] = Some(found.digest),
                None => rest = rest.saturating_add(stamp.size).saturating_add(A_FILE),
            }
        }
        if rest > most {
            break;
        }
    }
    rest
}

/// Takes over what the file system says now of files that are not known: they may have changed since the walk.
fn look_again(tree: &mut Tree, known: &[Option<Digest>]) {
    let mut dirs = DirCache::new(NonZeroUsize::new(hash::DIR_HANDLES).unwrap_or(NonZeroUsize::MIN));
    let mut path = String::new();
    let mut changed = Vec::new();
    for (index, _) in (0u32..).zip(tree.records()).filter(|(_, record)| record.kind == Kind::File) {
        if known[index as usize].is_some() {
            continue;
        }
        tree.path(index, &mut path);
        // one that is gone or cannot be had fails when it is its turn
        if let Ok(stamp) = dirs.stamp_of(tree.root.as_fd(), &path)
            && !tree.is_stamped(index, &stamp)
        {
            changed.push((index, stamp));
        }
    }
    for (index, stamp) in changed {
        tree.restamp(index, &stamp);
    }
}

//! Sources that are being hashed. Offers of one tree that are made while it is hashed share the hashing, its snapshot
//! and with that the manifest. An offer that comes later hashes on its own, with what the cache knows.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::explain::Failure;
use super::shared::Hashes;
use super::{Event, JobEvent, Shared};
use crate::api::{JobId, Role};
use crate::source::{self, HashProgress, Late, Snapshot, Source, SourceError, WalkId};

/// Number of a hashing within its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HashingId(u64);

/// What a hashing came to, for each of its offers.
pub(super) type Hashed = Result<Arc<Snapshot>, Failure>;

/// An offer's part in a hashing, which ends early when nobody has a part in it any more.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) progress: Arc<HashProgress>,
    pub(super) late: Arc<Late>,
    stop: Arc<AtomicBool>,
}

impl Part {
    /// Hashes what an outline left, for one offer alone.
    pub(super) fn of_rest(job: JobId, source: Source, progress: Arc<HashProgress>, shared: &Shared) -> Arc<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let part = Arc::new(Self { progress: progress.clone(), late: Arc::new(Late::never()), stop: stop.clone() });
        let (hashes, events) = (shared.hashes.clone(), shared.events.clone());
        tokio::task::spawn_blocking(move || {
            let hashed = source.hash(threads(), hashes.open(), &progress, &stop).map(Arc::new).map_err(described);
            // a coordinator that is gone does not need the news
            events.blocking_send(Event::Job(job, JobEvent::Rest(Box::new(hashed)))).ok();
        });
        part
    }
}

fn threads() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn described(e: SourceError) -> Failure {
    Failure::described(e.code(), crate::errors::chain(&e), e.hint(), Role::Exporter)
}

impl Drop for Part {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Hashing {
    id: HashingId,
    of: WalkId,
    part: Weak<Part>,
    jobs: Vec<JobId>,
}

/// The hashings under way.
#[derive(Debug, Default)]
pub(super) struct Sources {
    running: Vec<Hashing>,
    next: u64,
}

/// A hashing that has to be begun.
#[derive(Debug)]
pub(super) struct Begin {
    id: HashingId,
    source: Source,
    progress: Arc<HashProgress>,
    late: Arc<Late>,
    stop: Arc<AtomicBool>,
}

impl Sources {
    /// Offers of this source wait for its snapshot: of a hashing that runs, if its walk found the very same, or of the
    /// one that is given back, for which `late` says when an outline is worth it.
    pub(super) fn wait_for(
        &mut self,
        source: Source,
        jobs: &[JobId],
        late: impl FnOnce() -> Late,
    ) -> (Arc<Part>, Option<Begin>) {
        let of = source.walk_id();
        let same = self.running.iter_mut().filter(|hashing| hashing.of == of);
        // one that nobody has a part in is being stopped
        if let Some((hashing, part)) =
            same.filter_map(|hashing| hashing.part.upgrade().map(|part| (hashing, part))).next()
        {
            hashing.jobs.extend(jobs);
            return (part, None);
        }
        let id = HashingId(self.next);
        self.next += 1;
        let (progress, stop) = (Arc::new(HashProgress::default()), Arc::new(AtomicBool::new(false)));
        let late = Arc::new(late());
        let part = Arc::new(Part { progress: progress.clone(), late: late.clone(), stop: stop.clone() });
        self.running.push(Hashing { id, of, part: Arc::downgrade(&part), jobs: jobs.to_vec() });
        (part, Some(Begin { id, source, progress, late, stop }))
    }

    /// The offer that waits for this hashing, if there is but one.
    pub(super) fn waits_alone(&self, id: HashingId) -> Option<JobId> {
        match &self.running.iter().find(|hashing| hashing.id == id)?.jobs[..] {
            [job] => Some(*job),
            _ => None,
        }
    }

    /// A hashing that ended early goes on with what is left of its source, unless nobody waits for it any more.
    pub(super) fn go_on(&mut self, id: HashingId, source: Source) -> Option<Begin> {
        let part = self.running.iter().find(|hashing| hashing.id == id)?.part.upgrade();
        let Some(part) = part else {
            self.done(id);
            return None;
        };
        part.late.decline();
        let (progress, late, stop) = (part.progress.clone(), part.late.clone(), part.stop.clone());
        Some(Begin { id, source, progress, late, stop })
    }

    /// A hashing is over: who waited for it.
    pub(super) fn done(&mut self, id: HashingId) -> Vec<JobId> {
        let at = self.running.iter().position(|hashing| hashing.id == id);
        at.map(|at| self.running.swap_remove(at).jobs).unwrap_or_default()
    }
}

impl Begin {
    /// Hashes on all cores, on threads of its own, and says so in the end.
    pub(super) fn run(self, hashes: Hashes, events: mpsc::Sender<Event>) {
        tokio::task::spawn_blocking(move || {
            let Self { id, source, progress, late, stop } = self;
            let hashed = match source.hash_or_outline(threads(), hashes.open(), &progress, &stop, &late) {
                Ok(source::Hashed::Outline(outline)) => {
                    // as below
                    events.blocking_send(Event::Outlined(id, outline)).ok();
                    return;
                }
                Ok(source::Hashed::Whole(snapshot)) => Ok(Arc::from(snapshot)),
                Err(e) => Err(e),
            };
            #[cfg(feature = "test-hooks")]
            hashes.count.add(&progress);
            let hashed = hashed.map_err(described);
            // a coordinator that is gone does not need the news
            events.blocking_send(Event::Hashed(id, hashed)).ok();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::ScanOptions;

    fn scan(root: &Path) -> Source {
        Source::scan(root, &ScanOptions::default()).unwrap()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "content").unwrap();
        dir
    }

    async fn next(events: &mut mpsc::Receiver<Event>) -> (HashingId, Hashed) {
        match events.recv().await {
            Some(Event::Hashed(id, hashed)) => (id, hashed),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn offers_of_one_tree_share_one_hashing_and_its_manifest() {
        let (dir, mut sources) = (tree(), Sources::default());
        let (events, mut heard) = mpsc::channel(8);
        let (one, begin) = sources.wait_for(scan(dir.path()), &[JobId(1), JobId(2)], Late::never);
        let (two, none) = sources.wait_for(scan(dir.path()), &[JobId(3)], Late::never);
        assert!(none.is_none() && Arc::ptr_eq(&one, &two));
        begin.expect("the first one begins").run(Hashes::new(dir.path().to_owned()), events);
        let (id, hashed) = next(&mut heard).await;
        let snapshot = hashed.unwrap();
        assert_eq!(sources.done(id), [JobId(1), JobId(2), JobId(3)]);
        assert_eq!(sources.done(id), []);
        let taken: Vec<_> = (0..3).map(|_| snapshot.clone()).collect();
        assert!(taken.iter().all(|one| Arc::ptr_eq(one.manifest(), snapshot.manifest())));
        let (_, again) = sources.wait_for(scan(dir.path()), &[JobId(4)], Late::never);
        assert!(again.is_some(), "what is hashed already is looked at again");
    }

    #[tokio::test]
    async fn a_hashing_ends_with_the_last_offer_that_waits_for_it_and_not_before() {
        let (dir, mut sources) = (tree(), Sources::default());
        let (one, begin) = sources.wait_for(scan(dir.path()), &[JobId(1)], Late::never);
        let (two, _) = sources.wait_for(scan(dir.path()), &[JobId(2)], Late::never);
        let stop = begin.expect("it begins").stop;
        drop(one);
        assert!(!stop.load(Ordering::Relaxed));
        drop(two);
        assert!(stop.load(Ordering::Relaxed));
        let (_, anew) = sources.wait_for(scan(dir.path()), &[JobId(3)], Late::never);
        assert!(anew.is_some(), "one that is being stopped serves nobody");
    }

    #[test]
    fn another_tree_other_options_or_a_tree_that_has_changed_are_another_source() {
        let (dir, other, mut sources) = (tree(), tree(), Sources::default());
        let (_part, begin) = sources.wait_for(scan(dir.path()), &[JobId(1)], Late::never);
        assert!(begin.is_some());
        let skipping = ScanOptions { skip_unreadable: true, ..ScanOptions::default() };
        let lenient = Source::scan(dir.path(), &skipping).unwrap();
        let mut begins = |source| {
            let (part, begin) = sources.wait_for(source, &[JobId(2)], Late::never);
            drop(part);
            begin.is_some()
        };
        assert!(begins(lenient) && begins(scan(other.path())));
        assert!(!begins(scan(dir.path())));
        std::fs::write(dir.path().join("another"), "").unwrap();
        assert!(begins(scan(dir.path())));
    }
}

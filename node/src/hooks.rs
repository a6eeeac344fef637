//! Switches for tests, compiled only with the feature `test-hooks`: faults behind the secure channel,
//! where no relay between the nodes can reach.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::Manifest;

use crate::source::HashProgress;

/// Flips one byte in outgoing chunks of named files, each a number of times.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan(Arc<Vec<(String, AtomicU32)>>);

impl FaultPlan {
    /// Corrupts the first byte of the file at `path`, the first `times` times that it is sent.
    pub fn corrupt_first_byte(faults: &[(&str, u32)]) -> Self {
        Self(Arc::new(faults.iter().map(|(path, times)| ((*path).to_owned(), AtomicU32::new(*times))).collect()))
    }

    /// Reads `ME_SYNC_TEST_CORRUPT=PATH:TIMES[,PATH:TIMES...]`, for tests with real processes.
    pub(crate) fn from_env() -> Self {
        let raw = std::env::var("ME_SYNC_TEST_CORRUPT").unwrap_or_default();
        let faults = raw.split(',').filter_map(|item| item.rsplit_once(':'));
        Self(Arc::new(
            faults.filter_map(|(path, n)| Some((path.to_owned(), AtomicU32::new(n.parse().ok()?)))).collect(),
        ))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The plan by entry, for one session.
    pub(crate) fn resolve(&self, manifest: &Manifest) -> ResolvedFaults {
        let entries = self.0.iter().enumerate().filter_map(|(at, (path, _))| Some((manifest.find(path)?, at)));
        ResolvedFaults { plan: self.clone(), entries: entries.collect() }
    }
}

/// Counts bytes that were read to be hashed; what the cache knew was not.
#[derive(Debug, Clone, Default)]
pub struct HashCount(Arc<AtomicU64>);

impl HashCount {
    /// All of this node.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, progress: &HashProgress) {
        let known = progress.bytes_known.load(Ordering::Relaxed);
        self.0.fetch_add(progress.bytes_done.load(Ordering::Relaxed).saturating_sub(known), Ordering::Relaxed);
    }
}

/// See [`FaultPlan`].
#[derive(Debug, Clone, Default)]
pub(crate) struct ResolvedFaults {
    plan: FaultPlan,
    entries: BTreeMap<EntryIndex, usize>,
}

impl ResolvedFaults {
    pub(crate) fn corrupt(&self, index: EntryIndex, offset: u64, chunk: &mut [u8]) {
        let Some((_, left)) = self.entries.get(&index).filter(|_| offset == 0).and_then(|at| self.plan.0.get(*at))
        else {
            return;
        };
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if let (Ok(_), Some(first)) = (taken, chunk.first_mut()) {
            *first ^= 0x55;
        }
    }
}

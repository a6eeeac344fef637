//! Which entries may come on lanes, and from which offset (SPEC §5.4, §5.5).
//!
//! Each conversation has its own: a lane of a connection that is gone holds an older one and can claim nothing of
//! the next. Shared by all lanes of a conversation; nothing here waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Partial;
use crate::ids::EntryIndex;

/// Which entries the importer waits for, so that one file arrives on one lane, once. A bit is set when the entry is
/// requested and cleared by the lane that begins it.
#[derive(Debug)]
pub struct Requested {
    bits: Vec<AtomicU64>,
    /// Ascending; each with whether a lane has begun it since: from then on its offset is void.
    partial: Vec<(Partial, AtomicBool)>,
}

impl Requested {
    /// Nothing of `len` entries is requested.
    pub fn none_of(len: u32) -> Self {
        Self::with_partial(len, [])
    }

    /// Nothing of `len` entries is requested, and of these the first bytes are staged. Their offsets are good for
    /// one transfer each.
    pub fn with_partial(len: u32, partial: impl IntoIterator<Item = Partial>) -> Self {
        let mut partial: Vec<_> = partial.into_iter().map(|p| (p, AtomicBool::new(false))).collect();
        partial.sort_by_key(|(p, _)| p.index);
        Self { bits: (0..=len / 64).map(|_| AtomicU64::new(0)).collect(), partial }
    }

    /// Allows one transfer of the entry.
    pub fn request(&self, index: EntryIndex) {
        if let Some(word) = self.bits.get(index.at() / 64) {
            word.fetch_or(1 << (index.0 % 64), Ordering::AcqRel);
        }
    }

    /// Takes the right to transfer the entry; false if nobody asked for it or somebody has it.
    pub fn claim(&self, index: EntryIndex) -> bool {
        self.take(index).is_some()
    }

    /// Like [`Self::claim`], with what is staged of the entry, if that was named and no lane has begun it before.
    pub(super) fn take(&self, index: EntryIndex) -> Option<Option<Partial>> {
        let bit = 1 << (index.0 % 64);
        let word = self.bits.get(index.at() / 64)?;
        if word.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
            return None;
        }
        let found = self.partial.binary_search_by_key(&index, |(p, _)| p.index).ok();
        let slot = found.and_then(|at| self.partial.get(at));
        Some(slot.filter(|(_, begun)| !begun.swap(true, Ordering::AcqRel)).map(|(partial, _)| partial.clone()))
    }

    /// The partial files that no lane has begun: they are staged as they were.
    pub(crate) fn untouched(&self) -> impl Iterator<Item = &Partial> {
        self.partial.iter().filter(|(_, begun)| !begun.load(Ordering::Acquire)).map(|(partial, _)| partial)
    }
}

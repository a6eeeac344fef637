//! When failed files are asked for again, and in which order they are sent (SPEC §5.6, seed §6).

use crate::ids::EntryIndex;
use crate::limits::MAX_RETRY_ROUNDS;
use crate::manifest::Manifest;

/// How often failed files are asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Rounds after the bulk; seed §6: 3.
    pub max_rounds: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_rounds: MAX_RETRY_ROUNDS }
    }
}

/// Smallest first, so that one very large file does not hold up all the others of its round.
pub fn fair_order(manifest: &Manifest, mut entries: Vec<EntryIndex>) -> Vec<EntryIndex> {
    entries.sort_by_cached_key(|index| manifest.entry(*index).map_or(0, |e| e.size()));
    entries
}

//! `pending_list` (SPEC §5.5), both ends: what is missing cut into frames, and frames put together again.

use crate::file::Violation;
use crate::frame::{IndexRange, PartialFile, PendingList};
use crate::ids::EntryIndex;
use crate::limits::{MAX_LIST, MAX_PARTIAL};
use crate::manifest::Manifest;
use crate::reason::Code;

/// Cuts a list into frames of bounded size: at least one, the last without `more`. Both lists ascend, and each
/// partial file lies in a range; it travels in the frame of its range.
pub(crate) fn parts(ranges: Vec<IndexRange>, partial: &[PartialFile]) -> Vec<PendingList> {
    let empty = || PendingList { ranges: Vec::new(), partial: Vec::new(), more: true };
    let (mut parts, mut part, mut rest) = (Vec::new(), empty(), partial);
    for mut range in ranges {
        loop {
            if part.ranges.len() == MAX_LIST || part.partial.len() == MAX_PARTIAL {
                parts.push(std::mem::replace(&mut part, empty()));
            }
            let end = range.start.0.saturating_add(range.len);
            let inside = rest.partition_point(|p| p.index.0 < end);
            let room = MAX_PARTIAL - part.partial.len();
            let (here, later) = rest.split_at(inside.min(room));
            part.partial.extend_from_slice(here);
            rest = later;
            if inside <= room {
                part.ranges.push(range);
                break;
            }
            // the frame is full inside this range: the rest of it goes into the next
            let next = later.first().map_or(end, |p| p.index.0);
            part.ranges.push(IndexRange { len: next - range.start.0, ..range });
            range = IndexRange { start: EntryIndex(next), len: end - next };
        }
    }
    part.more = false;
    parts.push(part);
    parts
}

/// What was asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Files, ascending.
    pub(crate) entries: Vec<EntryIndex>,
    /// Which of them are partly there, ascending.
    pub(crate) partial: Vec<PartialFile>,
}

impl Asked {
    /// Takes the next frame of the list.
    pub(crate) fn take(&mut self, manifest: &Manifest, list: &PendingList) -> Result<(), Violation> {
        let before = self.entries.len();
        for range in &list.ranges {
            let end = range.start.0.checked_add(range.len).filter(|end| *end <= manifest.len());
            let end = end.ok_or(Violation::unexpected("a range past the end of the manifest"))?;
            if range.len == 0 || self.entries.last().is_some_and(|last| *last >= range.start) {
                return Err(Violation::unexpected("ranges that are empty, overlap or are out of order"));
            }
            let all = (range.start.0..end).map(EntryIndex);
            self.entries.extend(all.filter(|index| manifest.entry(*index).is_some_and(|e| e.is_file())));
        }
        if list.more && list.ranges.is_empty() {
            return Err(Violation::unexpected("an empty part of a pending_list"));
        }
        let named = self.entries.get(before..).unwrap_or_default();
        for partial in &list.partial {
            let ascends = self.partial.last().is_none_or(|last| last.index < partial.index);
            if !ascends || named.binary_search(&partial.index).is_err() {
                return Err(Violation::unexpected("a partial file that is not among those asked for, or out of order"));
            }
            let size = manifest.entry(partial.index).map_or(0, |e| e.size());
            if partial.offset == 0 || partial.offset > size {
                return Err(Violation { code: Code::OffsetMismatch, what: "a partial file of none or too many bytes" });
            }
            self.partial.push(*partial);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u32, len: u32) -> IndexRange {
        IndexRange { start: EntryIndex(start), len }
    }

    // SPEC §5.5
    #[test]
    fn no_frame_of_a_list_is_too_large_and_together_they_are_the_list() {
        let all =
            |ranges: &[IndexRange]| -> Vec<u32> { ranges.iter().flat_map(|r| r.start.0..r.start.0 + r.len).collect() };
        let every = |n: u32, step: usize| -> Vec<PartialFile> {
            (0..n).step_by(step).map(|n| PartialFile { index: EntryIndex(n), offset: u64::MAX >> 1 }).collect()
        };
        let n = 3 * MAX_LIST as u32;
        for (ranges, partial) in [
            (vec![], vec![]),
            (vec![range(0, n)], vec![]),
            (vec![range(0, n)], every(n, 1)),
            (vec![range(0, n)], every(n, 7)),
            (vec![range(0, 1024), range(2000, 5)], every(1024, 1)),
            (vec![range(0, 1025), range(2000, 5)], every(1025, 1)),
            ((0..n).map(|n| range(2 * n, 1)).collect(), every(2 * n, 2)),
            ((0..n).map(|n| range(2 * n, 1)).collect(), vec![]),
        ] {
            let parts = parts(ranges.clone(), &partial);
            let (last, others) = parts.split_last().expect("at least one");
            assert!(!last.more && others.iter().all(|p| p.more && !p.ranges.is_empty()));
            for part in &parts {
                let named = all(&part.ranges);
                assert!(part.partial.iter().all(|p| named.binary_search(&p.index.0).is_ok()), "in its own frame");
                let mut body = Vec::new();
                minicbor::encode(part, &mut body).expect("to memory");
                assert!(body.len() <= crate::limits::MAX_CONTROL_FRAME && part.ranges.len() <= MAX_LIST);
            }
            assert_eq!(parts.iter().flat_map(|p| all(&p.ranges)).collect::<Vec<_>>(), all(&ranges));
            assert_eq!(parts.iter().flat_map(|p| p.partial.clone()).collect::<Vec<_>>(), partial);
        }
    }
}

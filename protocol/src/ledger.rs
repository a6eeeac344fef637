//! The ledger: what is pending, ok or failed, for every file of a manifest (SPEC §5.5). One byte an entry.

use std::sync::Arc;

use crate::file::{VerifiedFile, Violation};
use crate::frame::{FailedEntry, IndexRange};
use crate::ids::{Digest, EntryIndex};
use crate::manifest::Manifest;
use crate::reason::FailureReason;

/// Where one entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// A directory or symlink: made by the importer itself.
    NotAFile,
    /// Not arrived yet.
    Pending,
    /// Arrived and verified.
    Ok,
    /// Failed, to be asked for again.
    Failed(FailureReason),
}

/// The state of every entry, with totals.
#[derive(Debug, Clone)]
pub struct Ledger {
    status: Vec<Status>,
    pending: u32,
    failed: u32,
    ok: u32,
    ok_bytes: u64,
    /// What was found to be the SHA-256 of the files of an outline; else empty. It counts for files that are ok.
    late: Arc<[Digest]>,
}

impl Ledger {
    /// All files are pending.
    pub fn new(manifest: &Manifest) -> Self {
        let status: Vec<_> =
            manifest.entries().map(|(_, e)| if e.is_file() { Status::Pending } else { Status::NotAFile }).collect();
        let owed = if manifest.is_outline() { status.len() } else { 0 };
        let late = std::iter::repeat_n(Digest([0; Digest::LEN]), owed).collect();
        Self { status, pending: manifest.counts().files, failed: 0, ok: 0, ok_bytes: 0, late }
    }

    /// Some files are there: the others are pending.
    pub fn restored(manifest: &Manifest, have: &[VerifiedFile]) -> Self {
        let mut ledger = Self::new(manifest);
        ledger.found(have);
        ledger
    }

    /// Notes files that were found on this device. What is ok already stays so; what is no file is passed over.
    pub fn found(&mut self, files: &[VerifiedFile]) {
        for file in files {
            // an entry twice, or one of another manifest, changes nothing
            self.ok(file).ok();
        }
    }

    /// A file that was ok is not there after all, or is wrong: pending again. False if it was not ok.
    pub fn lose(&mut self, manifest: &Manifest, index: EntryIndex) -> bool {
        let was_ok = self.status(index) == Some(Status::Ok);
        if was_ok {
            self.status[index.at()] = Status::Pending;
            self.pending += 1;
            self.ok -= 1;
            self.ok_bytes = self.ok_bytes.saturating_sub(manifest.entry(index).map_or(0, |e| e.size()));
        }
        was_ok
    }

    /// The SHA-256 of a file of an outline that is ok.
    pub fn sha256(&self, index: EntryIndex) -> Option<Digest> {
        self.late.get(index.at()).filter(|_| self.status(index) == Some(Status::Ok)).copied()
    }

    /// One SHA-256 for each entry of an outline, for [`Manifest::seal`], once every file is ok.
    pub fn hashes(&self) -> Option<Arc<[Digest]>> {
        Some(self.late.clone()).filter(|_| self.is_complete())
    }

    /// The manifest that seals the outline is here: what is ok stays so if it has the SHA-256 that this says. The others
    /// are pending, and named.
    pub fn adopt(&mut self, sealed: &Manifest) -> Vec<EntryIndex> {
        let wrong = |index: &EntryIndex| self.sha256(*index) != sealed.entry(*index).and_then(|entry| entry.sha256());
        let lost: Vec<_> = self.verified().filter(wrong).collect();
        for index in &lost {
            self.lose(sealed, *index);
        }
        self.late = Arc::default();
        lost
    }

    /// Notes a verified file.
    ///
    /// # Errors
    /// It is ok already, or no file.
    pub fn ok(&mut self, file: &VerifiedFile) -> Result<(), Violation> {
        self.leave(file.index())?;
        self.status[file.index().at()] = Status::Ok;
        if let Some(late) = Arc::make_mut(&mut self.late).get_mut(file.index().at()) {
            *late = file.sha256();
        }
        self.ok += 1;
        self.ok_bytes += file.size();
        Ok(())
    }

    /// Notes a failure.
    ///
    /// # Errors
    /// The entry is ok already, or no file.
    pub fn failed(&mut self, entry: FailedEntry) -> Result<(), Violation> {
        self.leave(entry.index)?;
        self.status[entry.index.at()] = Status::Failed(entry.reason);
        self.failed += 1;
        Ok(())
    }

    /// What was asked for and did not come counts as failed.
    pub fn fail_pending(&mut self, reason: FailureReason) {
        self.status.iter_mut().filter(|s| **s == Status::Pending).for_each(|s| *s = Status::Failed(reason));
        self.failed += std::mem::take(&mut self.pending);
    }

    /// What failed is pending again.
    pub fn retry_failed(&mut self) {
        self.status.iter_mut().filter(|s| matches!(s, Status::Failed(_))).for_each(|s| *s = Status::Pending);
        self.pending += std::mem::take(&mut self.failed);
    }

    /// Every file is ok.
    pub fn is_complete(&self) -> bool {
        self.pending == 0 && self.failed == 0
    }

    /// The status of one entry; none past the end.
    pub fn status(&self, index: EntryIndex) -> Option<Status> {
        self.status.get(index.at()).copied()
    }

    /// Numbers of files pending, failed and ok, and the bytes of the latter.
    pub fn totals(&self) -> (u32, u32, u32, u64) {
        (self.pending, self.failed, self.ok, self.ok_bytes)
    }

    /// Failed entries, ascending.
    pub fn failures(&self) -> impl Iterator<Item = FailedEntry> + '_ {
        (0..).zip(&self.status).filter_map(|(index, status)| match status {
            Status::Failed(reason) => Some(FailedEntry { index: EntryIndex(index), reason: *reason }),
            Status::NotAFile | Status::Pending | Status::Ok => None,
        })
    }

    /// Entries that are ok, ascending.
    pub fn verified(&self) -> impl Iterator<Item = EntryIndex> + '_ {
        let ok = (0..).zip(&self.status).filter(|(_, status)| **status == Status::Ok);
        ok.map(|(index, _)| EntryIndex(index))
    }

    /// Pending entries, ascending.
    pub fn pending(&self) -> impl Iterator<Item = EntryIndex> + '_ {
        let pending = (0..).zip(&self.status).filter(|(_, status)| **status == Status::Pending);
        pending.map(|(index, _)| EntryIndex(index))
    }

    /// Pending entries as ranges, ascending. What is no file may lie inside a range.
    pub fn pending_ranges(&self) -> Vec<IndexRange> {
        let mut ranges: Vec<IndexRange> = Vec::new();
        let mut open = false;
        for (index, status) in (0..).zip(&self.status) {
            match status {
                Status::Pending if open => {
                    if let Some(last) = ranges.last_mut() {
                        last.len = index - last.start.0 + 1;
                    }
                }
                Status::Pending => {
                    ranges.push(IndexRange { start: EntryIndex(index), len: 1 });
                    open = true;
                }
                Status::NotAFile => {}
                Status::Ok | Status::Failed(_) => open = false,
            }
        }
        ranges
    }

    fn leave(&mut self, index: EntryIndex) -> Result<(), Violation> {
        match self.status(index) {
            Some(Status::Pending) => self.pending -= 1,
            Some(Status::Failed(_)) => self.failed -= 1,
            Some(Status::Ok | Status::NotAFile) | None => {
                return Err(Violation::unexpected("a report about an entry that is not under way"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EMPTY_SHA256;
    use crate::manifest::{Entry, ManifestBuilder, Node};
    use crate::path::RelPath;

    // SPEC §3.2, §5.5
    #[test]
    fn ranges_span_directories_and_break_at_what_is_there() {
        let mut builder = ManifestBuilder::new(None, None);
        for (path, is_dir) in [("a", false), ("b", true), ("c", false), ("d", false), ("e", true), ("f", false)] {
            let node = if is_dir { Node::Dir } else { Node::File { size: 0, sha256: Some(EMPTY_SHA256) } };
            builder.push(&Entry { path: RelPath::parse(path).unwrap(), node, mode: None, mtime: None }).unwrap();
        }
        let mut ledger = Ledger::new(&builder.finish().unwrap());
        let range = |start, len| IndexRange { start: EntryIndex(start), len };
        assert_eq!(ledger.pending_ranges(), [range(0, 6)]);
        ledger.failed(FailedEntry { index: EntryIndex(2), reason: FailureReason::Timeout }).unwrap();
        assert_eq!(ledger.pending_ranges(), [range(0, 1), range(3, 3)]);
        ledger.fail_pending(FailureReason::ProtocolError);
        assert_eq!((ledger.totals().0, ledger.failures().count()), (0, 4));
        ledger.retry_failed();
        assert_eq!(ledger.pending_ranges(), [range(0, 6)]);
    }
}

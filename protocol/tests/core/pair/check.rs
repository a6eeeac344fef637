//! What must hold after every step, whatever goes wrong.

use std::collections::BTreeSet;

use me_sync_protocol::frame::{Frame, PartialFile, PendingList};
use me_sync_protocol::ids::EntryIndex;

use super::conn::End;
use super::{Fault, Pair};

impl Pair {
    pub(super) fn check(&mut self) {
        let (is_new, is_old) = (self.is_new(), self.is_old());
        self.assert(is_new || is_old, "the target is old or new");
        self.assert(!is_new || self.swap == Some(Ok(())), "nothing is new before it was applied");
        // an importer may claim to have applied what it did not: nobody but itself loses by it (RELIABILITY A60)
        let lies = self.scenario.faults.iter().any(
            |f| matches!(f, Fault::Substitute { frame: Frame::FinalizeResult(result), .. } if result.failed.is_none()),
        );
        self.assert(
            self.exporter_over != Some(Ok(())) || is_new || lies,
            "the exporter succeeds only with the importer",
        );
        self.assert(self.importer_over != Some(Ok(())) || is_new, "the importer succeeds only when it applied");
        self.assert(self.importer_over.is_none_or(|o| o.is_ok()) || !is_new, "no failure is told of an applied tree");
        for deadline in self.deadlines.into_iter().flatten() {
            // both sides get a tick whenever the clock goes on, so what was due is dealt with
            self.assert(deadline > self.now, "no deadline stays in the past");
        }
        self.assert(!self.exporter.is_waiting() || self.deadlines[0].is_none(), "who waits has no deadline");
        self.assert(!self.importer.is_waiting() || self.deadlines[1].is_none(), "who waits has no deadline");
        let (out, into) = (&self.conns[self.exporter_on], &self.conns[self.importer_on]);
        let rests = out.exporter != End::Gone || self.exporter_over.is_some() || self.exporter.is_waiting();
        self.assert(rests, "an exporter without a connection waits");
        let rests = into.importer != End::Gone || self.importer_over.is_some() || self.importer_down;
        self.assert(
            rests || self.importer.is_waiting() || self.importer.is_applying(),
            "an importer without a connection waits, or applies",
        );
        self.check_counters();
    }

    fn check_counters(&mut self) {
        let (exporter, importer) = (self.exporter.counters(), self.importer.counters());
        for c in [exporter, importer] {
            self.assert(c.files_ok + c.files_failed <= c.files_total, "no more files than there are");
            self.assert(c.bytes_done <= c.bytes_total, "no more bytes than there are");
        }
        if self.importer_over.is_none() && !self.importer_down {
            let before = self.importer_counters;
            let grows = before.files_ok <= importer.files_ok
                && before.bytes_done <= importer.bytes_done
                && before.files_total <= importer.files_total;
            self.assert(grows, "what is verified stays verified");
            self.importer_counters = importer;
        }
    }

    /// The importer asks for what it lacks, from where it lacks it: nothing else is ever sent.
    pub(super) fn check_list(&self, list: &PendingList) {
        let asked = list.ranges.iter().flat_map(|range| range.start.0..range.start.0 + range.len).map(EntryIndex);
        let tree = self.target();
        let is_file = |index: &EntryIndex| tree.manifest.entry(*index).is_some_and(|e| e.is_file());
        let asked: BTreeSet<_> = asked.filter(is_file).collect();
        let lacking = tree.manifest.indices().filter(is_file).filter(|index| !self.disk.ok.contains(index));
        self.assert(asked == lacking.collect(), "what is not verified is asked for, and nothing else");
        let unfinished = self.disk.files.iter().filter(|(index, _)| !self.disk.ok.contains(index));
        let unfinished = unfinished.map(|(index, bytes)| PartialFile { index: *index, offset: bytes.len() as u64 });
        self.assert(list.partial == unfinished.collect::<Vec<_>>(), "what is staged of a file is not asked for again");
    }

    #[track_caller]
    pub(super) fn assert(&self, holds: bool, claim: &str) {
        assert!(holds, "{claim}\n{}", self.report());
    }
}

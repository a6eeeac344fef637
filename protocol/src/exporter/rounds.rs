//! The exporter's conversation on one connection: what is asked for is sent, in rounds (SPEC §5.5 to §5.7).

use super::{Exporter, Output, State};
use crate::file::Violation;
use crate::frame::{FinalizeRequest, Frame, PartialFile, PendingList, PhaseEnd, RetryBegin, RetryEnd, RetryRequest};
use crate::ids::{Digest, EntryIndex, Moment};
use crate::reason::Code;
use crate::retry::fair_order;

impl Exporter {
    pub(super) fn frame(&mut self, now: Moment, frame: Frame) -> Result<(), Violation> {
        match (frame, &mut self.state) {
            (Frame::Progress(progress), _) => {
                if progress.waiting {
                    self.liveness.restart(now);
                }
                self.peer = Some(progress);
                Ok(())
            }
            (Frame::Abort(abort), _) => {
                self.over(Err(abort.code));
                Ok(())
            }
            // the last frame of a connection that is lost already
            (Frame::FinalizeResult(result), State::Waiting) if self.finalize_sent => self.result(result.failed),
            (_, State::Waiting) => Ok(()),
            (Frame::PendingList(list), State::AwaitPending(_)) => self.pending(now, &list),
            (Frame::RetryRequest(request), State::AwaitRetry { .. }) => self.retry(now, &request),
            (Frame::FinalizeResult(result), State::Finalizing) => self.result(result.failed),
            _ => Err(Violation::unexpected("a frame that an importer may not send here")),
        }
    }

    // SPEC §5.5
    fn pending(&mut self, now: Moment, list: &PendingList) -> Result<(), Violation> {
        let (Some(manifest), State::AwaitPending(asked)) = (&self.manifest, &mut self.state) else {
            return Err(Violation::unexpected("a pending_list before the manifest"));
        };
        asked.take(manifest, list)?;
        if list.more {
            return Ok(());
        }
        let asked = std::mem::take(asked);
        // SPEC §5.10: of what is not sent, or not from its beginning, no hash would come
        let hashes = |index: &EntryIndex| manifest.entry(*index).is_some_and(|e| e.is_file() && e.sha256().is_none());
        if manifest.is_outline() {
            let owed = manifest.indices().filter(hashes).count();
            if !asked.partial.is_empty() || asked.entries.iter().filter(|index| hashes(index)).count() != owed {
                return Err(Violation::unexpected("a pending_list that leaves out what an outline has no hash of"));
            }
        }
        // what is not asked for is there, and of partial files the beginning
        let missing: u64 = asked.entries.iter().filter_map(|index| manifest.entry(*index)).map(|e| e.size()).sum();
        let there: u64 = asked.partial.iter().map(|p| p.offset).sum();
        self.counters.files_ok = self.counters.files_total.saturating_sub(asked.entries.len() as u64);
        self.counters.bytes_done = manifest.total_bytes().saturating_sub(missing).saturating_add(there);
        self.counters.retry_round = 0;
        self.failures.clear();
        // who asks for files has not applied the tree, whatever was asked before
        self.finalize_sent = false;
        self.result_may_come = false;
        self.send_files(now, 0, asked.entries, asked.partial);
        Ok(())
    }

    // SPEC §5.6
    fn retry(&mut self, now: Moment, request: &RetryRequest) -> Result<(), Violation> {
        let (Some(manifest), State::AwaitRetry { round, asked }) = (&self.manifest, &mut self.state) else {
            return Err(Violation::unexpected("a retry_request before the bulk"));
        };
        let next = *round + 1;
        if request.round != next {
            return Err(Violation::unexpected("a retry_request for another round than the next"));
        }
        for failed in &request.failed {
            if asked.last().is_some_and(|last| *last >= failed.index) {
                return Err(Violation::unexpected("a retry_request that is out of order or names an entry twice"));
            }
            if !manifest.entry(failed.index).is_some_and(|e| e.is_file()) {
                return Err(Violation::unexpected("a retry_request for something that is no file of the manifest"));
            }
            asked.push(failed.index);
        }
        if request.more {
            return if request.failed.is_empty() {
                Err(Violation::unexpected("an empty part of a retry_request"))
            } else {
                Ok(())
            };
        }
        let asked = std::mem::take(asked);
        if asked.is_empty() {
            return self.finalize();
        } else if next > self.policy.max_rounds {
            self.abort(Code::RetryExhausted);
        } else {
            self.counters.retry_round = next;
            // what was sent whole and is asked for again is not done after all
            for index in asked.iter().filter(|index| !self.failures.contains_key(index)) {
                let size = manifest.entry(*index).map_or(0, |e| e.size());
                self.counters.files_ok = self.counters.files_ok.saturating_sub(1);
                self.counters.bytes_done = self.counters.bytes_done.saturating_sub(size);
            }
            for index in &asked {
                if let Some(late) = self.late.get_mut(index.at()) {
                    *late = None;
                }
            }
            let asked = fair_order(manifest, asked);
            self.send(Frame::RetryBegin(RetryBegin { round: next, files: asked.len() as u64 }));
            self.send_files(now, next, asked, Vec::new());
        }
        Ok(())
    }

    fn send_files(&mut self, now: Moment, round: u32, entries: Vec<EntryIndex>, partial: Vec<PartialFile>) {
        self.liveness.restart(now);
        for index in &entries {
            self.failures.remove(index);
        }
        self.counters.files_failed = self.failures.len() as u64;
        self.state = State::Sending { round, planned: entries.len() as u64, files: 0, bytes: 0 };
        if entries.is_empty() {
            self.end_round();
        } else {
            self.outputs.push_back(Output::SendFiles { entries, partial });
        }
    }

    pub(super) fn sent(
        &mut self,
        done: u64,
        moved: u64,
        failed: Vec<(EntryIndex, Code)>,
        hashed: &[(EntryIndex, Digest)],
    ) {
        let State::Sending { planned, files, bytes, .. } = &mut self.state else { return };
        for (index, sha256) in hashed {
            if let Some(late) = self.late.get_mut(index.at()) {
                *late = Some(*sha256);
            }
        }
        *files += done;
        *bytes += moved;
        let complete = *files >= *planned;
        self.counters.bytes_done = self.counters.bytes_done.saturating_add(moved).min(self.counters.bytes_total);
        self.counters.files_ok = (self.counters.files_ok + done).saturating_sub(failed.len() as u64);
        self.failures.extend(failed);
        self.counters.files_failed = self.failures.len() as u64;
        if complete {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let State::Sending { round, files, bytes, .. } = self.state else { return };
        self.send(match round {
            0 => Frame::PhaseEnd(PhaseEnd { files, bytes }),
            _ => Frame::RetryEnd(RetryEnd { round, files, bytes }),
        });
        self.state = State::AwaitRetry { round, asked: Vec::new() };
    }

    // SPEC §5.7, §5.10
    fn finalize(&mut self) -> Result<(), Violation> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        let manifest_sha256 = match manifest.is_outline() {
            true => {
                let sealed = manifest.sealed_sha256(|index| self.late.get(index.at()).copied().flatten());
                let sealed = sealed.ok_or(Violation::unexpected("all is well with a file that was not sent"))?;
                self.outputs.push_back(Output::Sealed(sealed));
                sealed
            }
            false => manifest.sha256(),
        };
        let request = FinalizeRequest {
            manifest_sha256,
            entry_count: manifest.header().entry_count,
            total_bytes: manifest.total_bytes(),
        };
        self.send(Frame::FinalizeRequest(request));
        self.finalize_sent = true;
        self.result_may_come = true;
        self.state = State::Finalizing;
        Ok(())
    }

    pub(super) fn is_sending(&self) -> bool {
        matches!(self.state, State::Sending { .. })
    }
}

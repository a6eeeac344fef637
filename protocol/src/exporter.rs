//! The exporter's side of one session (SPEC §10.1). Pure: no clock, no disk, no socket.
//!
//! Owns what was asked for and what was sent. Refuses frames out of order and entries that are no files.
//! Driven by the node's coordinator: one [`Input`] in, then [`Exporter::poll_output`] until `Idle`.
//!
//! ```text
//! Preparing ──► AwaitPending ──► Sending(0) ──► AwaitRetry ──► Finalizing ──► Over
//!                                   ▲  retry_request  │
//!                                   └── Sending(n) ◄──┘            (any ──► Over)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::file::Violation;
use crate::frame::{
    Abort, FinalizeRequest, Frame, ManifestEnd, PendingList, PendingRequest, PhaseEnd, Progress, RetryBegin, RetryEnd,
    RetryRequest,
};
use crate::ids::{EntryIndex, Moment};
use crate::liveness::{Deadline, Liveness};
use crate::manifest::Manifest;
use crate::progress::{Counters, Phase};
use crate::reason::Code;
use crate::retry::{RetryPolicy, fair_order};

/// What happens to an exporting session.
#[derive(Debug)]
pub enum Input {
    /// The importer's control stream is there.
    Opened,
    /// How far the hashing of the source is; shown to the importer.
    Hashing(Counters),
    /// The manifest is made.
    ManifestReady(Arc<Manifest>),
    /// A frame came on the control stream.
    Frame(Frame),
    /// The lanes are through with some entries.
    Sent {
        /// How many `file_end` frames went out.
        files: u64,
        /// How many payload bytes.
        bytes: u64,
        /// Entries that could not be sent whole, and why.
        failed: Vec<(EntryIndex, Code)>,
    },
    /// Bytes of lane frames left since the last time; `waiting_on_us` while reading the source holds them up.
    Moved {
        /// Bytes, frame headers included: a thousand empty files are progress too (SPEC §8.2).
        bytes: u64,
        /// The lanes wait for the disk, not for the peer.
        waiting_on_us: bool,
    },
    /// The control stream or a lane broke.
    Lost,
    /// Somebody here stops the session, or something here failed.
    Stop(Code),
    /// Time passed.
    Tick,
}

/// What the node is to do.
#[derive(Debug)]
pub enum Output {
    /// Send on the control stream.
    Send(Frame),
    /// Send these files on the lanes, in this order, and report each.
    SendFiles(Vec<EntryIndex>),
    /// The session is over: applied and durable at the importer, or not.
    Over(Result<(), Code>),
    /// Nothing more until an input, or this deadline.
    Idle(Option<Deadline>),
}

#[derive(Debug)]
enum State {
    Preparing,
    AwaitPending { asked: Vec<EntryIndex> },
    Sending { round: u32, planned: u64, files: u64, bytes: u64 },
    AwaitRetry { round: u32, asked: Vec<EntryIndex> },
    Finalizing,
    Over,
}

/// One exporting session.
#[derive(Debug)]
pub struct Exporter {
    state: State,
    policy: RetryPolicy,
    manifest: Option<Arc<Manifest>>,
    opened: bool,
    outputs: VecDeque<Output>,
    liveness: Liveness,
    counters: Counters,
    /// The importer's own view, from its last `progress`.
    peer: Option<Progress>,
    failures: BTreeMap<EntryIndex, Code>,
    /// This side's disk held the lanes up since the last `progress`.
    waiting: bool,
    finalize_sent: bool,
    outcome: Option<Result<(), Code>>,
}

impl Exporter {
    /// A session that was granted and has no streams yet.
    pub fn new(policy: RetryPolicy, now: Moment) -> Self {
        Self {
            state: State::Preparing,
            policy,
            manifest: None,
            opened: false,
            outputs: VecDeque::new(),
            liveness: Liveness::new(now),
            counters: Counters::default(),
            peer: None,
            failures: BTreeMap::new(),
            waiting: false,
            finalize_sent: false,
            outcome: None,
        }
    }

    /// The seed's phase, as far as the exporter knows it.
    pub fn phase(&self) -> Phase {
        match (&self.state, self.outcome) {
            (_, Some(Ok(()))) => Phase::Completed,
            (State::Over, _) => Phase::Failed,
            (State::Preparing, _) if !self.opened => Phase::NearbyConnecting,
            (State::Preparing | State::AwaitPending { .. }, _) => Phase::ManifestReceiving,
            (State::Sending { round: 0, .. } | State::AwaitRetry { round: 0, .. }, _) => Phase::BulkTransferring,
            (State::Sending { .. } | State::AwaitRetry { .. }, _) => Phase::RetryingFailed,
            (State::Finalizing, _) => match self.peer.map(|p| p.phase) {
                Some(phase @ (Phase::Applying | Phase::RestartingRuntime)) => phase,
                Some(_) | None => Phase::FinalVerifying,
            },
        }
    }

    /// What was sent so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The importer's own view, if it told.
    pub fn peer_progress(&self) -> Option<Progress> {
        self.peer
    }

    /// Entries that could not be sent when they were last tried, with the exporter's own reason.
    pub fn failures(&self) -> impl Iterator<Item = (EntryIndex, Code)> + '_ {
        self.failures.iter().map(|(index, code)| (*index, *code))
    }

    /// The importer was asked to apply: from here on, and after the end too, a lost connection leaves the
    /// outcome unknown.
    pub fn is_finalizing(&self) -> bool {
        self.finalize_sent
    }

    /// Takes one input. Afterwards drain [`Self::poll_output`].
    ///
    /// # Errors
    /// The peer broke the protocol; the session is over and an `abort` for the peer is among the outputs.
    pub fn handle(&mut self, now: Moment, input: Input) -> Result<(), Violation> {
        if matches!(self.state, State::Over) {
            return Ok(());
        }
        let result = match input {
            Input::Opened => self.opened(now),
            Input::Hashing(counters) => {
                self.counters = counters;
                Ok(())
            }
            Input::ManifestReady(manifest) => {
                self.counters = Counters {
                    files_total: u64::from(manifest.counts().files),
                    bytes_total: manifest.total_bytes(),
                    ..Counters::default()
                };
                self.manifest = Some(manifest);
                self.offer_manifest(now);
                Ok(())
            }
            Input::Frame(frame) => {
                self.liveness.heard(now);
                self.frame(now, frame)
            }
            Input::Sent { files, bytes, failed } => {
                self.liveness.finished(now, files);
                self.sent(files, bytes, failed);
                Ok(())
            }
            Input::Moved { bytes, waiting_on_us } => {
                self.waiting |= waiting_on_us;
                self.liveness.moved(now, bytes, waiting_on_us);
                Ok(())
            }
            Input::Lost => {
                self.over(Err(Code::PeerGone));
                Ok(())
            }
            Input::Stop(code) => {
                self.abort(code);
                Ok(())
            }
            Input::Tick => Ok(()),
        };
        if let Err(violation) = result {
            self.abort(violation.code);
            return Err(violation);
        }
        self.watch(now);
        Ok(())
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            let over = matches!(self.state, State::Over) || !self.opened;
            Output::Idle((!over).then(|| self.liveness.deadline(self.is_sending())))
        })
    }

    fn opened(&mut self, now: Moment) -> Result<(), Violation> {
        if self.opened {
            return Err(Violation::unexpected("a second control stream"));
        }
        self.opened = true;
        self.liveness = Liveness::new(now);
        self.offer_manifest(now);
        Ok(())
    }

    /// Once manifest and control stream are both there: the whole manifest, then the question what is missing.
    fn offer_manifest(&mut self, now: Moment) {
        let Some(manifest) = self.manifest.clone().filter(|_| self.opened) else { return };
        self.liveness.restart(now);
        self.send(Frame::ManifestBegin(manifest.header_bytes()));
        manifest.chunks().for_each(|chunk| self.send(Frame::ManifestChunk(chunk)));
        self.send(Frame::ManifestEnd(ManifestEnd { manifest_sha256: manifest.sha256() }));
        self.send(Frame::PendingRequest(PendingRequest {}));
        self.state = State::AwaitPending { asked: Vec::new() };
    }

    fn frame(&mut self, now: Moment, frame: Frame) -> Result<(), Violation> {
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
            (Frame::PendingList(list), State::AwaitPending { .. }) => self.pending(now, &list),
            (Frame::RetryRequest(request), State::AwaitRetry { .. }) => self.retry(now, &request),
            (Frame::FinalizeResult(result), State::Finalizing) => {
                self.over(result.failed.map_or(Ok(()), Err));
                Ok(())
            }
            _ => Err(Violation::unexpected("a frame that an importer may not send here")),
        }
    }

    // SPEC §5.5
    fn pending(&mut self, now: Moment, list: &PendingList) -> Result<(), Violation> {
        let (Some(manifest), State::AwaitPending { asked }) = (&self.manifest, &mut self.state) else {
            return Err(Violation::unexpected("a pending_list before the manifest"));
        };
        for range in &list.ranges {
            let end = range.start.0.checked_add(range.len).filter(|end| *end <= manifest.len());
            let end = end.ok_or(Violation::unexpected("a range past the end of the manifest"))?;
            if range.len == 0 || asked.last().is_some_and(|last| *last >= range.start) {
                return Err(Violation::unexpected("ranges that are empty, overlap or are out of order"));
            }
            let all = (range.start.0..end).map(EntryIndex);
            asked.extend(all.filter(|index| manifest.entry(*index).is_some_and(|e| e.is_file())));
        }
        if !list.partial.is_empty() {
            return Err(Violation { code: Code::OffsetMismatch, what: "partial files in a session that keeps none" });
        }
        if list.more {
            return if list.ranges.is_empty() {
                Err(Violation::unexpected("an empty part of a pending_list"))
            } else {
                Ok(())
            };
        }
        let asked = std::mem::take(asked);
        self.send_files(now, 0, asked);
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
            self.finalize();
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
            let asked = fair_order(manifest, asked);
            self.send(Frame::RetryBegin(RetryBegin { round: next, files: asked.len() as u64 }));
            self.send_files(now, next, asked);
        }
        Ok(())
    }

    fn send_files(&mut self, now: Moment, round: u32, entries: Vec<EntryIndex>) {
        self.liveness.restart(now);
        for index in &entries {
            self.failures.remove(index);
        }
        self.counters.files_failed = self.failures.len() as u64;
        self.state = State::Sending { round, planned: entries.len() as u64, files: 0, bytes: 0 };
        if entries.is_empty() {
            self.end_round();
        } else {
            self.outputs.push_back(Output::SendFiles(entries));
        }
    }

    fn sent(&mut self, done: u64, moved: u64, failed: Vec<(EntryIndex, Code)>) {
        let State::Sending { planned, files, bytes, .. } = &mut self.state else { return };
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

    // SPEC §5.7
    fn finalize(&mut self) {
        let Some(manifest) = &self.manifest else { return };
        let request = FinalizeRequest {
            manifest_sha256: manifest.sha256(),
            entry_count: manifest.header().entry_count,
            total_bytes: manifest.total_bytes(),
        };
        self.send(Frame::FinalizeRequest(request));
        self.finalize_sent = true;
        self.state = State::Finalizing;
    }

    fn is_sending(&self) -> bool {
        matches!(self.state, State::Sending { .. })
    }

    fn watch(&mut self, now: Moment) {
        if !self.opened || matches!(self.state, State::Over) {
            return;
        }
        if let Err(code) = self.liveness.check(now, self.is_sending()) {
            self.abort(code);
        } else if self.liveness.keepalive_due(now) {
            // SPEC §5.8
            let waiting = std::mem::take(&mut self.waiting);
            let progress = Progress { phase: self.phase(), counters: self.counters, waiting };
            self.send(Frame::Progress(progress));
        }
    }

    fn send(&mut self, frame: Frame) {
        self.outputs.push_back(Output::Send(frame));
    }

    /// Tells the peer and ends (SPEC §5.9). What was queued before is of no use any more.
    fn abort(&mut self, code: Code) {
        self.outputs.clear();
        if self.opened {
            self.send(Frame::Abort(Abort { code }));
        }
        self.over(Err(code));
    }

    fn over(&mut self, outcome: Result<(), Code>) {
        self.state = State::Over;
        self.outcome = Some(outcome);
        self.outputs.push_back(Output::Over(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FailedEntry, IndexRange};
    use crate::ids::Digest;
    use crate::manifest::{Entry, ManifestBuilder, Node};
    use crate::path::RelPath;
    use crate::reason::FailureReason;

    #[test]
    fn a_file_that_is_sent_twice_is_counted_once() {
        let mut builder = ManifestBuilder::new(None, None);
        let node = Node::File { size: 9, sha256: Digest([7; 32]) };
        builder.push(&Entry { path: RelPath::parse("a").unwrap(), node, mode: None, mtime: None }).unwrap();
        let all = vec![IndexRange { start: EntryIndex(0), len: 1 }];
        let failed = vec![FailedEntry { index: EntryIndex(0), reason: FailureReason::HashMismatch }];
        let sent = || Input::Sent { files: 1, bytes: 9, failed: Vec::new() };
        let inputs = [
            Input::Opened,
            Input::ManifestReady(Arc::new(builder.finish().unwrap())),
            Input::Frame(Frame::PendingList(PendingList { ranges: all, partial: Vec::new(), more: false })),
            sent(),
            Input::Frame(Frame::RetryRequest(RetryRequest { round: 1, failed, more: false })),
            sent(),
        ];
        let mut core = Exporter::new(RetryPolicy::default(), Moment::default());
        for input in inputs {
            core.handle(Moment::default(), input).unwrap();
        }
        let expected =
            Counters { files_ok: 1, files_total: 1, bytes_done: 9, bytes_total: 9, retry_round: 1, files_failed: 0 };
        assert_eq!(core.counters(), expected);
    }
}

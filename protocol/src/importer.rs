//! The importer's side of one session (SPEC §10.2). Pure: no clock, no disk, no socket.
//!
//! Owns the manifest and which files are pending, ok or failed. Nothing is applied without a
//! [`ReadyToApply`], and that exists only when every file is ok and the exporter's `finalize_request`
//! names this very manifest. Driven by the node's coordinator, like [`crate::exporter`].
//!
//! ```text
//! AwaitManifest ──► Review ──► Receiving(0) ──► AwaitFinalize ──► Applying ──► Over
//!                                 │  ▲ failed files
//!                                 ▼  │
//!                              Receiving(n)                   (any but Applying ──► Over)
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use crate::file::{FileReport, Requested, Violation};
use crate::frame::{Abort, FinalizeRequest, FinalizeResult, Frame, PendingList, Progress, RetryRequest};
use crate::ids::{Digest, EntryIndex, Moment};
use crate::ledger::Ledger;
use crate::limits::MAX_LIST;
use crate::liveness::{Deadline, Liveness};
use crate::manifest::{Manifest, ManifestAssembler, ManifestError};
use crate::progress::{Counters, Phase};
use crate::reason::{Code, FailureReason};
use crate::retry::RetryPolicy;

/// What happens to an importing session.
#[derive(Debug)]
pub enum Input {
    /// A frame came on the control stream.
    Frame(Frame),
    /// The target can take the tree, the person agreed, staging is ready.
    Accept,
    /// The lanes are through with some files.
    Files(Vec<FileReport>),
    /// A lane broke the protocol.
    LaneViolation(Violation),
    /// Bytes of lane frames arrived since the last time; `waiting_on_us` while writing to disk holds them up.
    Moved {
        /// Bytes, frame headers included: a thousand empty files are progress too (SPEC §8.2).
        bytes: u64,
        /// The lanes wait for the disk, not for the peer.
        waiting_on_us: bool,
    },
    /// The staged tree is sealed; the swap begins.
    Swapping,
    /// The swap is done and durable, or did not happen.
    Applied(Result<(), Code>),
    /// The control stream or a lane broke.
    Lost,
    /// Somebody here stops or declines the session, or something here failed. Ignored while applying.
    Stop(Code),
    /// Time passed.
    Tick,
}

/// What the node is to do.
#[derive(Debug)]
pub enum Output {
    /// Send on the control stream.
    Send(Frame),
    /// The manifest is here: check that the target can take it, ask the person, prepare staging;
    /// then [`Input::Accept`] or [`Input::Stop`].
    Review(Arc<Manifest>),
    /// Verify the staged tree as a whole and swap it in; then [`Input::Applied`].
    Apply(ReadyToApply),
    /// The session is over: applied and durable, or the target is untouched.
    Over(Result<(), Code>),
    /// Nothing more until an input, or this deadline.
    Idle(Option<Deadline>),
}

/// Proof that every file of a manifest is verified and the exporter asked to apply that manifest.
/// "Partial success is never committed" (seed §6) is this type: only the importer's core makes one.
#[derive(Debug)]
pub struct ReadyToApply {
    manifest_sha256: Digest,
}

impl ReadyToApply {
    /// Which manifest may be applied.
    pub fn manifest_sha256(&self) -> Digest {
        self.manifest_sha256
    }
}

#[derive(Debug)]
enum State {
    AwaitManifest(Option<Box<ManifestAssembler>>),
    Review { asked: bool, accepted: bool },
    Receiving { round: u32, begun: bool, planned: u64, settled: u64, ended: Option<u64> },
    AwaitFinalize,
    Applying { swapping: bool },
    Over,
}

/// One importing session.
#[derive(Debug)]
pub struct Importer {
    state: State,
    policy: RetryPolicy,
    manifest: Option<Arc<Manifest>>,
    requested: Arc<Requested>,
    ledger: Option<Ledger>,
    declared: Counters,
    retry_round: u32,
    outputs: VecDeque<Output>,
    liveness: Liveness,
    peer: Option<Progress>,
    manifest_error: Option<ManifestError>,
    /// This side's disk held the lanes up since the last `progress`.
    waiting: bool,
    outcome: Option<Result<(), Code>>,
}

impl Importer {
    /// A session whose control stream is open.
    pub fn new(policy: RetryPolicy, now: Moment) -> Self {
        Self {
            state: State::AwaitManifest(None),
            policy,
            manifest: None,
            requested: Arc::new(Requested::none_of(0)),
            ledger: None,
            declared: Counters::default(),
            retry_round: 0,
            outputs: VecDeque::new(),
            liveness: Liveness::new(now),
            peer: None,
            manifest_error: None,
            waiting: false,
            outcome: None,
        }
    }

    /// The seed's phase (SPEC §9.1).
    pub fn phase(&self) -> Phase {
        match (&self.state, self.outcome) {
            (_, Some(Ok(()))) => Phase::Completed,
            (State::Over, _) => Phase::Failed,
            (State::AwaitManifest(_) | State::Review { .. }, _) => Phase::ManifestReceiving,
            (State::Receiving { round: 0, .. }, _) => Phase::BulkTransferring,
            (State::Receiving { .. }, _) => Phase::RetryingFailed,
            (State::AwaitFinalize | State::Applying { swapping: false }, _) => Phase::FinalVerifying,
            (State::Applying { swapping: true }, _) => Phase::Applying,
        }
    }

    /// The seed's counters, as far as the manifest is known.
    pub fn counters(&self) -> Counters {
        let Some(ledger) = &self.ledger else { return self.declared };
        let (_, failed, ok, bytes_done) = ledger.totals();
        Counters {
            files_ok: u64::from(ok),
            files_failed: u64::from(failed),
            bytes_done,
            retry_round: self.retry_round,
            ..self.declared
        }
    }

    /// What the exporter last told about itself: while it makes its manifest, how far the hashing is.
    pub fn peer_progress(&self) -> Option<Progress> {
        self.peer
    }

    /// The entries that may come on lanes now.
    pub fn requested(&self) -> &Arc<Requested> {
        &self.requested
    }

    /// Files that failed when they were last tried.
    pub fn failures(&self) -> Vec<(EntryIndex, FailureReason)> {
        self.ledger.iter().flat_map(Ledger::failures).map(|f| (f.index, f.reason)).collect()
    }

    /// Why the manifest was refused, in detail, if it was.
    pub fn manifest_error(&self) -> Option<&ManifestError> {
        self.manifest_error.as_ref()
    }

    /// From here on the session can no longer be stopped by a peer or a lost link.
    pub fn is_applying(&self) -> bool {
        matches!(self.state, State::Applying { .. })
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
            Input::Frame(frame) => {
                self.liveness.heard(now);
                self.frame(now, frame)
            }
            Input::Accept => self.accept(now),
            Input::Files(reports) => self.files(now, &reports),
            Input::LaneViolation(violation) => Err(violation),
            Input::Moved { bytes, waiting_on_us } => {
                self.waiting |= waiting_on_us;
                self.liveness.moved(now, bytes, waiting_on_us);
                Ok(())
            }
            Input::Swapping => {
                if let State::Applying { swapping } = &mut self.state {
                    *swapping = true;
                    self.tell_progress();
                }
                Ok(())
            }
            Input::Applied(result) => {
                if self.is_applying() {
                    self.send(Frame::FinalizeResult(FinalizeResult { failed: result.err() }));
                    self.over(result);
                }
                Ok(())
            }
            Input::Lost => {
                self.stop(Code::PeerGone, false);
                Ok(())
            }
            Input::Stop(code) => {
                self.stop(code, true);
                Ok(())
            }
            Input::Tick => Ok(()),
        };
        if let Err(violation) = result {
            self.stop(violation.code, true);
            return Err(violation);
        }
        self.watch(now);
        Ok(())
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            Output::Idle(match self.state {
                State::Over => None,
                // a silent peer does not end an apply, so its deadline would stay in the past
                State::Applying { .. } => Some(self.liveness.next_keepalive()),
                State::AwaitManifest(_) | State::Review { .. } | State::Receiving { .. } | State::AwaitFinalize => {
                    Some(self.liveness.deadline(self.is_owed()))
                }
            })
        })
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
                self.stop(abort.code, false);
                Ok(())
            }
            (Frame::ManifestBegin(header), State::AwaitManifest(assembler @ None)) => {
                match ManifestAssembler::begin(&header) {
                    Ok(begun) => {
                        self.declared.bytes_total = begun.header().total_bytes;
                        *assembler = Some(Box::new(begun));
                        self.liveness.restart(now);
                        Ok(())
                    }
                    Err(e) => Err(self.refuse(e)),
                }
            }
            (Frame::ManifestChunk(bytes), State::AwaitManifest(Some(assembler))) => {
                let taken = assembler.chunk(&bytes);
                self.liveness.moved(now, bytes.len() as u64, false);
                taken.map_err(|e| self.refuse(e))
            }
            (Frame::ManifestEnd(end), State::AwaitManifest(assembler @ Some(_))) => {
                match assembler.take().map(|a| a.end(end.manifest_sha256)) {
                    Some(Ok(manifest)) => {
                        self.liveness.restart(now);
                        self.review(manifest);
                        Ok(())
                    }
                    Some(Err(e)) => Err(self.refuse(e)),
                    None => Err(Violation::unexpected("the end of no manifest")),
                }
            }
            (Frame::PendingRequest(_), State::Review { asked: asked @ false, .. }) => {
                *asked = true;
                self.answer_pending(now);
                Ok(())
            }
            (Frame::RetryBegin(begin), State::Receiving { round, begun: begun @ false, planned, .. }) => {
                if (begin.round, begin.files) != (*round, *planned) {
                    return Err(Violation::unexpected("a retry round that was not asked for"));
                }
                *begun = true;
                Ok(())
            }
            (Frame::PhaseEnd(end), State::Receiving { round: 0, ended: ended @ None, .. }) => {
                *ended = Some(end.files);
                self.settle(now)
            }
            (Frame::RetryEnd(end), State::Receiving { round, begun: true, ended: ended @ None, .. })
                if *round > 0 && end.round == *round =>
            {
                *ended = Some(end.files);
                self.settle(now)
            }
            (Frame::FinalizeRequest(request), State::AwaitFinalize) => self.finalize(request),
            // a repeated question has the same answer: the result that is to come
            (Frame::FinalizeRequest(_), State::Applying { .. }) => Ok(()),
            _ => Err(Violation::unexpected("a frame that an exporter may not send here")),
        }
    }

    fn refuse(&mut self, error: ManifestError) -> Violation {
        let code = error.code();
        self.manifest_error = Some(error);
        Violation { code, what: "the manifest is refused" }
    }

    fn review(&mut self, manifest: Manifest) {
        let manifest = Arc::new(manifest);
        self.declared.files_total = u64::from(manifest.counts().files);
        self.declared.bytes_total = manifest.total_bytes();
        self.requested = Arc::new(Requested::none_of(manifest.len()));
        self.ledger = Some(Ledger::new(&manifest));
        self.manifest = Some(manifest.clone());
        self.outputs.push_back(Output::Review(manifest));
        self.state = State::Review { asked: false, accepted: false };
    }

    fn accept(&mut self, now: Moment) -> Result<(), Violation> {
        if let State::Review { accepted, .. } = &mut self.state {
            *accepted = true;
            self.answer_pending(now);
        }
        Ok(())
    }

    // SPEC §5.5
    fn answer_pending(&mut self, now: Moment) {
        let (State::Review { asked: true, accepted: true }, Some(manifest), Some(ledger)) =
            (&self.state, &self.manifest, &self.ledger)
        else {
            return;
        };
        let files = manifest.entries().filter(|(_, e)| e.is_file());
        files.for_each(|(index, _)| self.requested.request(index));
        let planned = u64::from(manifest.counts().files);
        let ranges = ledger.pending_ranges();
        let mut parts = ranges.chunks(MAX_LIST).peekable();
        if parts.peek().is_none() {
            let list = PendingList { ranges: Vec::new(), partial: Vec::new(), more: false };
            self.outputs.push_back(Output::Send(Frame::PendingList(list)));
        }
        while let Some(part) = parts.next() {
            let list = PendingList { ranges: part.to_vec(), partial: Vec::new(), more: parts.peek().is_some() };
            self.outputs.push_back(Output::Send(Frame::PendingList(list)));
        }
        self.liveness.restart(now);
        self.state = State::Receiving { round: 0, begun: true, planned, settled: 0, ended: None };
    }

    fn files(&mut self, now: Moment, reports: &[FileReport]) -> Result<(), Violation> {
        let (State::Receiving { settled, .. }, Some(ledger)) = (&mut self.state, &mut self.ledger) else {
            return Err(Violation::unexpected("a file outside bulk and retry rounds"));
        };
        for report in reports {
            match report {
                FileReport::Ok(file) => ledger.ok(file)?,
                FileReport::Failed(entry) => ledger.failed(*entry)?,
            }
            *settled += 1;
        }
        self.liveness.finished(now, reports.len() as u64);
        self.settle(now)
    }

    /// When the exporter said how many files it sent and all of them are judged, the round is over.
    fn settle(&mut self, now: Moment) -> Result<(), Violation> {
        let State::Receiving { round, planned, settled, ended: Some(ended), .. } = self.state else { return Ok(()) };
        if ended > planned || settled > ended {
            return Err(Violation::unexpected("the number of files sent is not the number that was declared"));
        }
        let Some(ledger) = self.ledger.as_mut().filter(|_| settled == ended) else { return Ok(()) };
        // the right to send the others ends here; a lane that has used it would write beside the retry's
        if ledger.pending().any(|index| !self.requested.claim(index)) {
            return Err(Violation::unexpected("a round that ends inside a file"));
        }
        ledger.fail_pending(FailureReason::ProtocolError);
        let next = round + 1;
        if ledger.is_complete() {
            self.send(Frame::RetryRequest(RetryRequest { round: next, failed: Vec::new(), more: false }));
            self.liveness.restart(now);
            self.state = State::AwaitFinalize;
        } else if next > self.policy.max_rounds {
            self.stop(Code::RetryExhausted, true);
        } else {
            self.ask_again(now, next);
        }
        Ok(())
    }

    // SPEC §5.6
    fn ask_again(&mut self, now: Moment, round: u32) {
        let Some(ledger) = &mut self.ledger else { return };
        let failed: Vec<_> = ledger.failures().collect();
        ledger.retry_failed();
        failed.iter().for_each(|f| self.requested.request(f.index));
        let mut parts = failed.chunks(MAX_LIST).peekable();
        while let Some(part) = parts.next() {
            let request = RetryRequest { round, failed: part.to_vec(), more: parts.peek().is_some() };
            self.outputs.push_back(Output::Send(Frame::RetryRequest(request)));
        }
        self.retry_round = round;
        self.liveness.restart(now);
        let planned = failed.len() as u64;
        self.state = State::Receiving { round, begun: false, planned, settled: 0, ended: None };
    }

    // SPEC §5.7
    fn finalize(&mut self, request: FinalizeRequest) -> Result<(), Violation> {
        let (Some(manifest), Some(ledger)) = (&self.manifest, &self.ledger) else {
            return Err(Violation::unexpected("a finalize_request before the manifest"));
        };
        let ours = FinalizeRequest {
            manifest_sha256: manifest.sha256(),
            entry_count: manifest.header().entry_count,
            total_bytes: manifest.total_bytes(),
        };
        if request != ours {
            return Err(Violation { code: Code::ManifestMismatch, what: "a finalize_request for another manifest" });
        }
        if !ledger.is_complete() {
            return Err(Violation::unexpected("a finalize_request while files are missing"));
        }
        self.outputs.push_back(Output::Apply(ReadyToApply { manifest_sha256: ours.manifest_sha256 }));
        self.state = State::Applying { swapping: false };
        self.tell_progress();
        Ok(())
    }

    /// Does the exporter owe something right now? Signs of life alone do not put that off.
    fn is_owed(&self) -> bool {
        match &self.state {
            State::AwaitManifest(assembler) => assembler.is_some(),
            State::Review { asked, .. } => !asked,
            State::Receiving { settled, ended, .. } => ended.is_none_or(|ended| *settled < ended),
            State::AwaitFinalize => true,
            State::Applying { .. } | State::Over => false,
        }
    }

    fn watch(&mut self, now: Moment) {
        if matches!(self.state, State::Over) {
            return;
        }
        let owed = self.is_owed();
        // an apply is never interrupted, whatever the peer does
        if !self.is_applying()
            && let Err(code) = self.liveness.check(now, owed)
        {
            self.stop(code, true);
        } else if self.liveness.keepalive_due(now) {
            self.tell_progress();
        }
    }

    // SPEC §5.8
    fn tell_progress(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let progress = Progress { phase: self.phase(), counters: self.counters(), waiting };
        self.send(Frame::Progress(progress));
    }

    fn send(&mut self, frame: Frame) {
        self.outputs.push_back(Output::Send(frame));
    }

    // SPEC §5.9
    fn stop(&mut self, code: Code, tell: bool) {
        if self.is_applying() {
            return;
        }
        self.outputs.clear();
        if tell {
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

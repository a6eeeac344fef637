//! The exporter's side of one session (SPEC §10.1). Pure: no clock, no disk, no socket.
//!
//! Owns what was asked for and what was sent. Refuses frames out of order and entries that are no files.
//! Driven by the node's coordinator: one [`Input`] in, then [`Exporter::poll_output`] until `Idle`.
//!
//! ```text
//! Preparing ──► AwaitPending ──► Sending(0) ──► AwaitRetry ──► Finalizing ──► Over
//!     ▲                             ▲  retry_request  │
//!     │ Opened                      └── Sending(n) ◄──┘
//!  Waiting ◄── Lost, or a stall, from any of these                 (any ──► Over)
//! ```

mod connection;
mod rounds;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::file::Violation;
use crate::frame::{Frame, PartialFile, Progress};
use crate::ids::{Digest, EntryIndex, Moment};
use crate::liveness::{Deadline, Liveness};
use crate::manifest::Manifest;
use crate::pending::Asked;
use crate::progress::{Counters, Phase};
use crate::reason::Code;
use crate::retry::RetryPolicy;

/// What happens to an exporting session.
#[derive(Debug)]
pub enum Input {
    /// A control stream of the importer is there: the first, or, after its `resume`, another. If the core does not
    /// know yet that the connection before is lost, it lets go of that first: [`Output::Suspended`].
    Opened {
        /// The manifest that `resume` named; none when the importer has none yet.
        importer_holds: Option<Digest>,
    },
    /// How far the hashing of the source is; shown to the importer.
    Hashing(Counters),
    /// The manifest is made; or its outline, if the importer takes one and no conversation was lost yet. An outline is
    /// good for one conversation: after that the sealed manifest is needed.
    ManifestReady(Arc<Manifest>),
    /// The outline is void before a conversation has begun: the importer comes in another way than was agreed.
    Withdrawn,
    /// A frame came on the control stream, the present one or the last before a loss.
    Frame(Frame),
    /// The importer's request `result`: how it ended there, none when the tree is in place and durable.
    Result(Option<Code>),
    /// The lanes are through with some entries. Ignored while waiting; once another control stream is open, the node
    /// hands in no report of an older lane.
    Sent {
        /// How many `file_end` frames went out.
        files: u64,
        /// How many payload bytes.
        bytes: u64,
        /// Entries that could not be sent whole, and why.
        failed: Vec<(EntryIndex, Code)>,
        /// The SHA-256 of entries of an outline that were sent whole.
        hashed: Vec<(EntryIndex, Digest)>,
    },
    /// Bytes of lane frames left since the last time; `waiting_on_us` while reading the source holds them up.
    Moved {
        /// Bytes, frame headers included: a thousand empty files are progress too (SPEC §8.2).
        bytes: u64,
        /// The lanes wait for the disk, not for the peer.
        waiting_on_us: bool,
    },
    /// The control stream or a lane broke. Without effect while there is none.
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
    SendFiles {
        /// All of them.
        entries: Vec<EntryIndex>,
        /// Those that go on at an offset, ascending by index; the others start at 0.
        partial: Vec<PartialFile>,
    },
    /// The outline is sealed: this is the digest of the manifest that the importer is asked to apply. The manifest itself is
    /// of no use while this conversation lasts, and after a loss it is made as that of every outline.
    Sealed(Digest),
    /// Let go of the control stream and the lanes of this connection; what they still report is of no interest. The
    /// session waits for its importer. An outline is void now.
    Suspended {
        /// The connection stands still though it is up: drop it as a whole.
        reset: bool,
    },
    /// The session is over: applied and durable at the importer, or not.
    Over(Result<(), Code>),
    /// Nothing more until an input, or this deadline.
    Idle(Option<Deadline>),
}

#[derive(Debug)]
enum State {
    Preparing,
    AwaitPending(Asked),
    Sending { round: u32, planned: u64, files: u64, bytes: u64 },
    AwaitRetry { round: u32, asked: Vec<EntryIndex> },
    Finalizing,
    Waiting,
    Over,
}

/// One exporting session.
#[derive(Debug)]
pub struct Exporter {
    state: State,
    policy: RetryPolicy,
    manifest: Option<Arc<Manifest>>,
    /// There is a control stream.
    connected: bool,
    importer_holds: Option<Digest>,
    outputs: VecDeque<Output>,
    liveness: Liveness,
    counters: Counters,
    /// The importer's own view, from its last `progress`.
    peer: Option<Progress>,
    failures: BTreeMap<EntryIndex, Code>,
    /// What the files of an outline turned out to be; empty for another manifest.
    late: Vec<Option<Digest>>,
    /// This side's disk held the lanes up since the last `progress`.
    waiting: bool,
    finalize_sent: bool,
    /// `result` may say that the tree is applied: the importer was asked to, as far as is known here.
    result_may_come: bool,
    outcome: Option<Result<(), Code>>,
}

impl Exporter {
    /// A session that was granted and has no streams yet.
    pub fn new(policy: RetryPolicy, now: Moment) -> Self {
        Self {
            state: State::Preparing,
            policy,
            manifest: None,
            connected: false,
            importer_holds: None,
            outputs: VecDeque::new(),
            liveness: Liveness::new(now),
            counters: Counters::default(),
            peer: None,
            failures: BTreeMap::new(),
            late: Vec::new(),
            waiting: false,
            finalize_sent: false,
            result_may_come: false,
            outcome: None,
        }
    }

    /// A session of an earlier life of this process: it waits for its importer, which may have applied already.
    pub fn restored(policy: RetryPolicy, now: Moment) -> Self {
        Self { state: State::Waiting, result_may_come: true, ..Self::new(policy, now) }
    }

    /// The seed's phase, as far as the exporter knows it.
    pub fn phase(&self) -> Phase {
        match (&self.state, self.outcome) {
            (_, Some(Ok(()))) => Phase::Completed,
            (State::Over, _) => Phase::Failed,
            (State::Waiting, _) => Phase::WaitingForPeer,
            (State::Preparing, _) if !self.connected => Phase::NearbyConnecting,
            (State::Preparing | State::AwaitPending(_), _) => Phase::ManifestReceiving,
            (State::Sending { round: 0, .. } | State::AwaitRetry { round: 0, .. }, _) => Phase::BulkTransferring,
            (State::Sending { .. } | State::AwaitRetry { .. }, _) => Phase::RetryingFailed,
            (State::Finalizing, _) => match self.peer.map(|p| p.phase) {
                Some(phase @ (Phase::Applying | Phase::RestartingRuntime)) => phase,
                Some(_) | None => Phase::FinalVerifying,
            },
        }
    }

    /// What was sent so far; what a resumed importer did not ask for counts as sent.
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

    /// The connection is lost; the session goes on when the importer comes back.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// [`Output::Suspended`] or [`Output::Over`] is among the outputs: drain them now, even if the control stream takes
    /// nothing; what comes before them is lost with it anyway.
    pub fn lets_go(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output, Output::Suspended { .. } | Output::Over(_)))
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
            Input::Opened { importer_holds } => {
                self.opened(now, importer_holds);
                Ok(())
            }
            Input::Hashing(counters) => {
                if self.manifest.is_none() {
                    self.counters = counters;
                }
                Ok(())
            }
            Input::ManifestReady(manifest) => {
                self.counters = Counters {
                    files_total: u64::from(manifest.counts().files),
                    bytes_total: manifest.total_bytes(),
                    ..Counters::default()
                };
                self.late = if manifest.is_outline() { vec![None; manifest.len() as usize] } else { Vec::new() };
                self.manifest = Some(manifest);
                self.offer_manifest(now);
                Ok(())
            }
            Input::Withdrawn => {
                if !self.connected {
                    self.drop_outline();
                }
                Ok(())
            }
            Input::Frame(frame) => {
                self.liveness.heard(now);
                self.frame(now, frame)
            }
            Input::Result(failed) => self.result(failed),
            Input::Sent { files, bytes, failed, hashed } => {
                self.liveness.finished(now, files);
                self.sent(files, bytes, failed, &hashed);
                Ok(())
            }
            Input::Moved { bytes, waiting_on_us } => {
                self.waiting |= waiting_on_us;
                self.liveness.moved(now, bytes, waiting_on_us);
                Ok(())
            }
            Input::Lost => {
                self.suspend(false);
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
            let watched = self.connected && !matches!(self.state, State::Over);
            Output::Idle(watched.then(|| self.liveness.deadline(self.is_sending())))
        })
    }
}

#[cfg(test)]
mod tests;

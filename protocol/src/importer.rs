//! The importer's side of one session (SPEC §10.2). Pure: no clock, no disk, no socket.
//!
//! Owns the manifest and which files are pending, ok or failed. Nothing is applied without a
//! [`ReadyToApply`], and that exists only when every file is ok and the exporter's `finalize_request`
//! names this very manifest. Driven by the node's coordinator, like [`crate::exporter`].
//!
//! ```text
//! AwaitManifest ──► Review ──► Receiving(0) ──► AwaitFinalize ──► Applying ──► Over
//!       ▲  Resumed   ▲            │  ▲ failed files                  │
//!       └── Waiting ─┘            ▼  │                               │ Unstaged
//!              ▲               Receiving(n)                          ▼
//!              └─ Lost, or a stall, from any but Applying         Waiting    (any but Applying ──► Over)
//! ```

mod connection;
mod rounds;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::file::{FileReport, Partial, Requested, VerifiedFile, Violation};
use crate::frame::{Frame, Progress};
use crate::ids::{Digest, EntryIndex, Moment};
use crate::ledger::Ledger;
use crate::liveness::{Deadline, Liveness};
use crate::manifest::{Manifest, ManifestAssembler, ManifestError};
use crate::progress::{Counters, Phase};
use crate::reason::{Code, FailureReason};
use crate::retry::RetryPolicy;

/// What happens to an importing session.
#[derive(Debug)]
pub enum Input {
    /// A frame came on the control stream, the present one or the last before a loss.
    Frame(Frame),
    /// The target can take the tree, the person agreed, staging is ready; these files were found on this device. May
    /// come while the session waits for its peer.
    Accept(Vec<VerifiedFile>),
    /// The staging tree goes by the manifest of [`Output::Adopt`] now, and these files were found in it besides those
    /// that were ok and are not lost. May come while the session waits for its peer.
    Adopted {
        /// Files that are whole.
        found: Vec<VerifiedFile>,
        /// Files that can be continued.
        partial: Vec<Partial>,
    },
    /// The lanes are through with some files. May come after the loss of their connection, until [`Input::Resumed`].
    Files(Vec<FileReport>),
    /// A lane ended inside a file and this is what there is of it. May come before or after [`Input::Lost`].
    Suspended(Partial),
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
    /// The swap is done and durable, and a command runs that may still undo it. After [`Input::Swapping`].
    Restarting,
    /// The swap is done and durable, or did not happen.
    Applied(Result<(), Code>),
    /// Sealing found these staged files missing or wrong, and removed the wrong ones. Nothing was swapped: they are to
    /// be asked for again, on another connection. Not after [`Input::Swapping`].
    Unstaged(Vec<EntryIndex>),
    /// The control stream or a lane broke. While applying it only keeps the result from being sent.
    Lost,
    /// The exporter agreed to resume and another control stream is open. No lane of an older connection is alive, and
    /// all that they had to report was handed in before. Only while waiting; else it is ignored.
    Resumed,
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
    /// The manifest that seals the outline is here: let the staging tree go by it, then [`Input::Adopted`]. If the
    /// tree was made by an earlier life of this process, look for what is in it first.
    Adopt {
        /// The sealed manifest.
        manifest: Arc<Manifest>,
        /// Files that arrived whole and are not what it says: they come again.
        lost: Vec<EntryIndex>,
    },
    /// Verify the staged tree as a whole and swap it in; then [`Input::Applied`]. What is staged by an outline goes by
    /// the sealed manifest first: [`Importer::manifest`].
    Apply(ReadyToApply),
    /// Let go of the control stream and the lanes of this connection: let them store what is here already, take their
    /// reports, then resume.
    Suspended {
        /// The connection stands still though it is up: drop it as a whole.
        reset: bool,
    },
    /// The session is over: applied and durable, or the target is untouched.
    Over(Result<(), Code>),
    /// Nothing more until an input, or this deadline.
    Idle(Option<Deadline>),
}

/// Proof that every file of a manifest is verified and the exporter asked to apply that manifest.
/// "Partial success is never committed" (seed §6) is this type: only the importer's core makes one, and for an archive
/// [`Self::of_package`].
#[derive(Debug)]
pub struct ReadyToApply {
    manifest_sha256: Digest,
}

impl ReadyToApply {
    /// For a tree that came in one package, which was whole and had the SHA-256 that the exporter proved (SPEC §13.6): there
    /// is a proof for each file of its manifest. None if one is missing, or belongs to no file of it.
    pub fn of_package(manifest: &Manifest, files: &[VerifiedFile]) -> Option<Self> {
        let mut indices: Vec<_> = files.iter().map(VerifiedFile::index).collect();
        indices.sort_unstable();
        indices.dedup();
        let is_whole = indices.len() == manifest.counts().files as usize
            && files.iter().all(|file| VerifiedFile::recorded(manifest, file.index()).as_ref() == Some(file));
        is_whole.then(|| Self { manifest_sha256: manifest.sha256() })
    }

    /// Which manifest may be applied.
    pub fn manifest_sha256(&self) -> Digest {
        self.manifest_sha256
    }
}

#[derive(Debug)]
enum State {
    AwaitManifest(Option<Box<ManifestAssembler>>),
    /// The manifest is here. Until the exporter asks what is missing and the session is accepted.
    Review {
        asked: bool,
    },
    Receiving {
        round: u32,
        begun: bool,
        planned: u64,
        settled: u64,
        ended: Option<u64>,
    },
    AwaitFinalize,
    Applying {
        at: Step,
    },
    Waiting,
    Over,
}

/// How far an apply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Verifying,
    Swapping,
    Restarting,
}

/// One importing session.
#[derive(Debug)]
pub struct Importer {
    state: State,
    policy: RetryPolicy,
    /// The manifest, or its outline.
    manifest: Option<Arc<Manifest>>,
    /// An outline may come: no conversation was lost yet, and it was asked for.
    takes_outline: bool,
    accepted: bool,
    /// The staging tree does not go by the sealed manifest yet.
    adopting: bool,
    /// There is a control stream.
    connected: bool,
    requested: Arc<Requested>,
    /// What lanes left unfinished, for the next `pending_list`.
    partial: BTreeMap<EntryIndex, Partial>,
    /// How often sealing found files missing or wrong.
    unstaged: u32,
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
            takes_outline: false,
            accepted: false,
            adopting: false,
            connected: true,
            requested: Arc::new(Requested::none_of(0)),
            partial: BTreeMap::new(),
            unstaged: 0,
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

    /// As [`Self::new`], for an importer whose `redeem` said that it takes an outline.
    pub fn taking_outline(policy: RetryPolicy, now: Moment) -> Self {
        Self { takes_outline: true, ..Self::new(policy, now) }
    }

    /// A session of an earlier life of this process: accepted, waiting for its peer. `have` are the files that are whole,
    /// `partial` those that can be continued; for an outline there are none, since nothing says what they should be.
    pub fn restored(
        policy: RetryPolicy,
        now: Moment,
        manifest: Arc<Manifest>,
        have: Vec<VerifiedFile>,
        partial: Vec<Partial>,
    ) -> Self {
        let mut core = Self::new(policy, now);
        core.declare(&manifest);
        core.ledger = Some(Ledger::restored(&manifest, &have));
        core.manifest = Some(manifest);
        core.partial = partial.into_iter().map(|p| (p.index(), p)).collect();
        core.accepted = true;
        core.connected = false;
        core.state = State::Waiting;
        core
    }

    /// The seed's phase (SPEC §9.1).
    pub fn phase(&self) -> Phase {
        match (&self.state, self.outcome) {
            (_, Some(Ok(()))) => Phase::Completed,
            (State::Over, _) => Phase::Failed,
            (State::Waiting, _) => Phase::WaitingForPeer,
            (State::AwaitManifest(_) | State::Review { .. }, _) => Phase::ManifestReceiving,
            (State::Receiving { round: 0, .. }, _) => Phase::BulkTransferring,
            (State::Receiving { .. }, _) => Phase::RetryingFailed,
            (State::AwaitFinalize | State::Applying { at: Step::Verifying }, _) => Phase::FinalVerifying,
            (State::Applying { at: Step::Swapping }, _) => Phase::Applying,
            (State::Applying { at: Step::Restarting }, _) => Phase::RestartingRuntime,
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

    /// The entries that may come on lanes now. Another object for every connection: a lane takes it when it is opened.
    pub fn requested(&self) -> &Arc<Requested> {
        &self.requested
    }

    /// Files that failed when they were last tried.
    pub fn failures(&self) -> Vec<(EntryIndex, FailureReason)> {
        self.ledger.iter().flat_map(Ledger::failures).map(|f| (f.index, f.reason)).collect()
    }

    /// The manifest that is here whole and checked: what `resume` names. An outline is good for one conversation.
    pub fn holds(&self) -> Option<Digest> {
        self.manifest.as_ref().filter(|manifest| !manifest.is_outline()).map(|manifest| manifest.sha256())
    }

    /// The manifest, or its outline as long as there is nothing better.
    pub fn manifest(&self) -> Option<&Arc<Manifest>> {
        self.manifest.as_ref()
    }

    /// The files that are ok.
    pub fn verified(&self) -> impl Iterator<Item = EntryIndex> + '_ {
        self.ledger.iter().flat_map(Ledger::verified)
    }

    /// [`Input::Accept`] was there.
    pub fn has_accepted(&self) -> bool {
        self.accepted
    }

    /// Bytes of files that are begun and will be continued, as far as that is known; meant for the time between two
    /// connections.
    pub fn partial_bytes(&self) -> u64 {
        self.partial.values().map(Partial::offset).sum()
    }

    /// The connection is lost; the session goes on when the exporter agrees to resume.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// [`Output::Suspended`] or [`Output::Over`] is among the outputs: drain them now, even if the control stream takes
    /// nothing; what comes before them is lost with it anyway.
    pub fn lets_go(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output, Output::Suspended { .. } | Output::Over(_)))
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
            Input::Accept(found) => {
                self.accept(now, &found);
                Ok(())
            }
            Input::Adopted { found, partial } => {
                self.adopted(now, &found, partial);
                Ok(())
            }
            Input::Files(reports) => self.files(now, &reports),
            Input::Suspended(partial) => {
                self.keep(partial);
                Ok(())
            }
            Input::LaneViolation(violation) => Err(violation),
            Input::Moved { bytes, waiting_on_us } => {
                self.waiting |= waiting_on_us;
                self.liveness.moved(now, bytes, waiting_on_us);
                Ok(())
            }
            Input::Swapping => {
                self.step(Step::Swapping);
                Ok(())
            }
            Input::Restarting => {
                self.step(Step::Restarting);
                Ok(())
            }
            Input::Applied(result) => {
                self.applied(result);
                Ok(())
            }
            Input::Unstaged(entries) => {
                self.unstaged(&entries);
                Ok(())
            }
            Input::Lost => {
                self.lost();
                Ok(())
            }
            Input::Resumed => {
                self.resumed(now);
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

    /// An apply is further, and the exporter is told (SPEC §9.1).
    fn step(&mut self, to: Step) {
        if let State::Applying { at } = &mut self.state {
            *at = to;
            self.tell_progress();
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            Output::Idle(match self.state {
                State::Over | State::Waiting => None,
                State::Applying { .. } if !self.connected => None,
                // a silent peer does not end an apply, so its deadline would stay in the past
                State::Applying { .. } => Some(self.liveness.next_keepalive()),
                State::AwaitManifest(_) | State::Review { .. } | State::Receiving { .. } | State::AwaitFinalize => {
                    Some(self.liveness.deadline(self.is_owed()))
                }
            })
        })
    }
}

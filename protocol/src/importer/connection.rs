//! The importer and its connections: their loss, the next (SPEC §6.4, §8.2), and the end.

use std::sync::Arc;

use super::{Importer, Output, State};
use crate::file::{Partial, Requested};
use crate::frame::{Abort, FinalizeResult, Frame, Progress};
use crate::ids::{EntryIndex, Moment};
use crate::ledger::Status;
use crate::limits::MAX_UNSTAGED;
use crate::liveness::Liveness;
use crate::reason::Code;

impl Importer {
    pub(super) fn lost(&mut self) {
        match self.state {
            // 5.7-4: the apply goes on, its result goes another way
            State::Applying { .. } => {
                self.connected = false;
                self.outputs.retain(|output| !matches!(output, Output::Send(_)));
            }
            State::Waiting | State::Over => {}
            State::AwaitManifest(_) | State::Review { .. } | State::Receiving { .. } | State::AwaitFinalize => {
                self.suspend(false);
            }
        }
    }

    /// Lets go of the connection. What was queued for it is of no use for another; a question to the person stands.
    fn suspend(&mut self, reset: bool) {
        self.connected = false;
        self.takes_outline = false;
        self.state = State::Waiting;
        let stands =
            |output: &Output| matches!(output, Output::Suspended { .. } | Output::Review(_) | Output::Adopt { .. });
        self.outputs.retain(stands);
        self.outputs.push_back(Output::Suspended { reset });
    }

    /// What is staged of a file that a lane did not bring to its end.
    pub(super) fn keep(&mut self, partial: Partial) {
        let open = self.ledger.as_ref().and_then(|ledger| ledger.status(partial.index())) == Some(Status::Pending);
        if open && matches!(self.state, State::Waiting | State::Receiving { .. }) {
            self.partial.insert(partial.index(), partial);
        }
    }

    // SPEC §6.4
    pub(super) fn resumed(&mut self, now: Moment) {
        if !self.is_waiting() {
            return;
        }
        // what no lane has touched is staged as it was; what one has begun came back as `Suspended`, or is gone
        for partial in self.requested.untouched() {
            self.partial.entry(partial.index()).or_insert_with(|| partial.clone());
        }
        self.requested = Arc::new(Requested::none_of(0));
        self.connected = true;
        self.peer = None;
        self.waiting = false;
        self.liveness = Liveness::new(now);
        self.retry_round = 0;
        // an outline is good for one conversation
        self.state = match self.holds() {
            Some(_) => State::Review { asked: false },
            None => State::AwaitManifest(None),
        };
    }

    // SPEC §5.7
    pub(super) fn applied(&mut self, result: Result<(), Code>) {
        if self.is_applying() {
            self.send(Frame::FinalizeResult(FinalizeResult { failed: result.err() }));
            self.over(result);
        }
    }

    // SPEC §5.7
    pub(super) fn unstaged(&mut self, entries: &[EntryIndex]) {
        let (State::Applying { .. }, Some(manifest), Some(ledger)) = (&self.state, &self.manifest, &mut self.ledger)
        else {
            return;
        };
        for index in entries {
            ledger.lose(manifest, *index);
        }
        self.unstaged += 1;
        if self.unstaged > MAX_UNSTAGED {
            self.applied(Err(Code::HashMismatch));
        } else {
            self.suspend(false);
        }
    }

    /// Does the exporter owe something right now? Signs of life alone do not put that off.
    pub(super) fn is_owed(&self) -> bool {
        match &self.state {
            State::AwaitManifest(assembler) => assembler.is_some(),
            State::Review { asked } => !asked,
            State::Receiving { settled, ended, .. } => ended.is_none_or(|ended| *settled < ended),
            State::AwaitFinalize => true,
            State::Applying { .. } | State::Waiting | State::Over => false,
        }
    }

    pub(super) fn watch(&mut self, now: Moment) {
        if !self.connected || matches!(self.state, State::Over) {
            return;
        }
        let owed = self.is_owed();
        // an apply is never interrupted, whatever the peer does
        if !self.is_applying() && self.liveness.is_stalled(now, owed) {
            self.suspend(true);
        } else if self.liveness.keepalive_due(now) {
            self.tell_progress();
        }
    }

    // SPEC §5.8
    pub(super) fn tell_progress(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let progress = Progress { phase: self.phase(), counters: self.counters(), waiting };
        // one that a slow control stream has not taken yet makes way for the newer
        match self.outputs.back_mut() {
            Some(Output::Send(Frame::Progress(last))) if last.phase == progress.phase => last.renew(progress),
            _ => self.send(Frame::Progress(progress)),
        }
    }

    pub(super) fn send(&mut self, frame: Frame) {
        // while an apply goes on, or ends, without a connection
        if !self.connected {
            return;
        }
        self.outputs.push_back(Output::Send(frame));
    }

    // SPEC §5.9
    pub(super) fn stop(&mut self, code: Code, tell: bool) {
        if self.is_applying() {
            return;
        }
        // that an older connection is to be let go of stays true
        self.outputs.retain(|output| matches!(output, Output::Suspended { .. }));
        if tell {
            self.send(Frame::Abort(Abort { code }));
        }
        self.over(Err(code));
    }

    pub(super) fn over(&mut self, outcome: Result<(), Code>) {
        self.state = State::Over;
        self.outcome = Some(outcome);
        self.outputs.push_back(Output::Over(outcome));
    }
}

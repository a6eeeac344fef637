//! The exporter and its connections: the first, its loss, the next (SPEC §6.4, §8.2), and the end.

use super::{Exporter, Output, State};
use crate::file::Violation;
use crate::frame::{Abort, Ack, Frame, ManifestEnd, PendingRequest, Progress};
use crate::ids::{Digest, Moment};
use crate::liveness::Liveness;
use crate::pending::Asked;
use crate::reason::Code;

impl Exporter {
    // SPEC §5.3: this side may learn later than the importer that a connection is lost
    pub(super) fn opened(&mut self, now: Moment, importer_holds: Option<Digest>) {
        self.suspend(false);
        self.state = State::Preparing;
        self.connected = true;
        self.importer_holds = importer_holds;
        self.peer = None;
        self.waiting = false;
        self.liveness = Liveness::new(now);
        self.offer_manifest(now);
    }

    /// Lets go of the connection, if there is one. What was queued for it is of no use for another.
    pub(super) fn suspend(&mut self, reset: bool) {
        if !self.connected {
            return;
        }
        self.connected = false;
        self.state = State::Waiting;
        self.drop_outline();
        self.drop_outputs();
        self.outputs.push_back(Output::Suspended { reset });
    }

    // SPEC §5.10: good for one conversation
    pub(super) fn drop_outline(&mut self) {
        // what is known of its files stays, for whoever hashes the rest
        self.manifest.take_if(|manifest| manifest.is_outline());
    }

    /// What the lanes found out about the files of an outline that is withdrawn, sealed or not, by index: empty while one is
    /// served, if there was none, and once it has been taken.
    pub fn take_late_hashes(&mut self) -> Vec<Option<Digest>> {
        match self.manifest {
            Some(_) => Vec::new(),
            None => std::mem::take(&mut self.late),
        }
    }

    /// Once manifest and control stream are both there: the manifest, unless the importer holds it, then the question
    /// what is missing (SPEC §5.5, §6.4).
    pub(super) fn offer_manifest(&mut self, now: Moment) {
        let Some(manifest) = self.manifest.clone().filter(|_| self.connected) else { return };
        if !matches!(self.state, State::Preparing) {
            return;
        }
        match self.importer_holds {
            // two manifests are never mixed: the importer redeems its ticket again
            Some(held) if held != manifest.sha256() => return self.abort(Code::ManifestChanged),
            Some(_) => {}
            None => {
                self.send(Frame::ManifestBegin(manifest.header_bytes()));
                manifest.chunks().for_each(|chunk| self.send(Frame::ManifestChunk(chunk)));
                self.send(Frame::ManifestEnd(ManifestEnd { manifest_sha256: manifest.sha256() }));
            }
        }
        self.liveness.restart(now);
        self.send(Frame::PendingRequest(PendingRequest {}));
        self.state = State::AwaitPending(Asked::default());
    }

    /// How it ended at the importer (SPEC §5.7, §6.8).
    pub(super) fn result(&mut self, failed: Option<Code>) -> Result<(), Violation> {
        if failed.is_none() && !self.result_may_come {
            return Err(Violation::unexpected("a tree was applied that nobody asked to apply"));
        }
        // SPEC §5.7-7: a stream that ends looks the same whether this side read the result or the link broke
        if self.connected {
            self.send(Frame::Ack(Ack { refused: None }));
        }
        self.over(failed.map_or(Ok(()), Err));
        Ok(())
    }

    pub(super) fn watch(&mut self, now: Moment) {
        if !self.connected || matches!(self.state, State::Over) {
            return;
        }
        if self.liveness.is_stalled(now, self.is_sending()) {
            self.suspend(true);
        } else if self.liveness.keepalive_due(now) {
            // SPEC §5.8
            let waiting = std::mem::take(&mut self.waiting);
            let progress = Progress { phase: self.phase(), counters: self.counters, waiting };
            // one that a slow control stream has not taken yet makes way for the newer
            match self.outputs.back_mut() {
                Some(Output::Send(Frame::Progress(last))) if last.phase == progress.phase => last.renew(progress),
                _ => self.send(Frame::Progress(progress)),
            }
        }
    }

    pub(super) fn send(&mut self, frame: Frame) {
        self.outputs.push_back(Output::Send(frame));
    }

    /// Tells the peer and ends (SPEC §5.9). What was queued before is of no use any more.
    pub(super) fn abort(&mut self, code: Code) {
        self.drop_outputs();
        if self.connected {
            self.send(Frame::Abort(Abort { code }));
        }
        self.over(Err(code));
    }

    /// What was queued is of no use any more; that an older connection is to be let go of stays true.
    fn drop_outputs(&mut self) {
        self.outputs.retain(|output| matches!(output, Output::Suspended { .. }));
    }

    pub(super) fn over(&mut self, outcome: Result<(), Code>) {
        self.state = State::Over;
        self.outcome = Some(outcome);
        self.outputs.push_back(Output::Over(outcome));
    }
}

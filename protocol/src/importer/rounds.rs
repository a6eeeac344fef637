//! The importer's conversation on one connection: manifest, what is pending, rounds, finalize (SPEC §5.5 to §5.7).

use std::sync::Arc;

use super::{Importer, Output, ReadyToApply, State, Step};
use crate::file::{FileReport, Partial, Requested, VerifiedFile, Violation};
use crate::frame::{FinalizeRequest, Frame, PartialFile, RetryRequest};
use crate::ids::Moment;
use crate::ledger::{Ledger, Status};
use crate::limits::MAX_LIST;
use crate::manifest::{Manifest, ManifestAssembler, ManifestError};
use crate::pending;
use crate::reason::{Code, FailureReason};

impl Importer {
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
                self.stop(abort.code, false);
                Ok(())
            }
            // the last frame of a connection that is lost already
            (_, State::Waiting) => Ok(()),
            (Frame::ManifestBegin(header), State::AwaitManifest(assembler @ None)) => {
                match ManifestAssembler::begin(&header) {
                    // SPEC §5.10
                    Ok(begun) if begun.header().outline && !self.takes_outline => {
                        Err(self.refuse(ManifestError::Outline))
                    }
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
                        self.review(manifest)
                    }
                    Some(Err(e)) => Err(self.refuse(e)),
                    None => Err(Violation::unexpected("the end of no manifest")),
                }
            }
            (Frame::PendingRequest(_), State::Review { asked: asked @ false }) => {
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

    fn review(&mut self, manifest: Manifest) -> Result<(), Violation> {
        let manifest = Arc::new(manifest);
        if let (Some(outline), Some(ledger)) = (&self.manifest, &mut self.ledger) {
            // SPEC §5.10: the outline of the conversation before, with every hash
            if manifest.outline_sha256() != outline.sha256() {
                let what = "a manifest that does not seal the outline before";
                return Err(Violation { code: Code::ManifestChanged, what });
            }
            let lost = ledger.adopt(&manifest);
            self.adopting = true;
            self.outputs.push_back(Output::Adopt { manifest: manifest.clone(), lost });
        } else {
            self.declare(&manifest);
            self.ledger = Some(Ledger::new(&manifest));
            self.outputs.push_back(Output::Review(manifest.clone()));
        }
        self.manifest = Some(manifest);
        self.state = State::Review { asked: false };
        Ok(())
    }

    pub(super) fn declare(&mut self, manifest: &Manifest) {
        self.declared.files_total = u64::from(manifest.counts().files);
        self.declared.bytes_total = manifest.total_bytes();
    }

    pub(super) fn accept(&mut self, now: Moment, found: &[VerifiedFile]) {
        // the sealed manifest may be on its way already
        let open = matches!(self.state, State::AwaitManifest(_) | State::Review { .. } | State::Waiting);
        let may = open && !self.accepted;
        if let Some(ledger) = self.ledger.as_mut().filter(|_| may) {
            ledger.found(found);
            self.accepted = true;
            self.answer_pending(now);
        }
    }

    /// The staging tree goes by the sealed manifest.
    pub(super) fn adopted(&mut self, now: Moment, found: &[VerifiedFile], partial: Vec<Partial>) {
        if let Some(ledger) = self.ledger.as_mut().filter(|_| self.adopting) {
            ledger.found(found);
            self.partial.extend(partial.into_iter().map(|partial| (partial.index(), partial)));
            self.adopting = false;
            self.answer_pending(now);
        }
    }

    // SPEC §5.5
    fn answer_pending(&mut self, now: Moment) {
        let (State::Review { asked: true }, true, Some(manifest), Some(ledger)) =
            (&self.state, self.accepted && !self.adopting, &self.manifest, &mut self.ledger)
        else {
            return;
        };
        ledger.retry_failed();
        let partial = std::mem::take(&mut self.partial).into_values();
        let partial: Vec<_> = partial.filter(|p| ledger.status(p.index()) == Some(Status::Pending)).collect();
        let named: Vec<_> = partial.iter().map(|p| PartialFile { index: p.index(), offset: p.offset() }).collect();
        // another object than the last connection had: what is left of its lanes can claim nothing here
        let requested = Requested::with_partial(manifest.len(), partial);
        ledger.pending().for_each(|index| requested.request(index));
        self.requested = Arc::new(requested);
        let planned = u64::from(ledger.totals().0);
        for part in pending::parts(ledger.pending_ranges(), &named) {
            self.outputs.push_back(Output::Send(Frame::PendingList(part)));
        }
        self.liveness.restart(now);
        self.state = State::Receiving { round: 0, begun: true, planned, settled: 0, ended: None };
    }

    pub(super) fn files(&mut self, now: Moment, reports: &[FileReport]) -> Result<(), Violation> {
        let (State::Receiving { .. } | State::Waiting, Some(ledger)) = (&self.state, &mut self.ledger) else {
            return Err(Violation::unexpected("a file outside bulk and retry rounds"));
        };
        for report in reports {
            match report {
                FileReport::Ok(file) => ledger.ok(file)?,
                FileReport::Failed(entry) => ledger.failed(*entry)?,
            }
        }
        let State::Receiving { settled, .. } = &mut self.state else { return Ok(()) };
        *settled += reports.len() as u64;
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
        // SPEC §5.10: what is applied has every hash, computed here
        let sealed = match manifest.is_outline() {
            true => ledger.hashes().and_then(|hashes| manifest.seal(hashes)).map(Arc::new),
            false => Some(manifest.clone()),
        };
        let Some(manifest) = sealed else {
            return Err(Violation::unexpected("a finalize_request while files are missing"));
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
        self.manifest = Some(manifest);
        self.outputs.push_back(Output::Apply(ReadyToApply { manifest_sha256: ours.manifest_sha256 }));
        self.state = State::Applying { at: Step::Verifying };
        self.tell_progress();
        Ok(())
    }
}

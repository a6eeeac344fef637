//! The offer as people and programs see it.

use std::sync::atomic::Ordering;

use me_sync_protocol::ids::Moment;
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::Code;

use super::ExportJob;
use super::hashing::Source;
use crate::api::{Completion, Role, WaitingView};
use crate::clock::Moving;
use crate::coordinator::explain::Failure;
use crate::coordinator::view;
use crate::limit::Rate;

impl ExportJob {
    pub(super) fn explain(&self, code: Code) -> Failure {
        let unknown = self.session.as_ref().is_some_and(|s| s.core.is_finalizing());
        match code {
            // 5.7-4: an importer that applies goes on without us
            Code::PeerGone | Code::Timeout | Code::Aborted | Code::NodeStopping | Code::SessionExpired if unknown => {
                Failure {
                    code,
                    message: "stopped while the other device was applying the tree, which it may finish".to_owned(),
                    hint: "look there whether it did; this device's tree is as it was".to_owned(),
                }
            }
            Code::SessionExpired if self.record.peer.is_some() => Failure {
                code,
                message: "the other device did not come back in time".to_owned(),
                hint: "run `send` again for a new ticket; what it has is used again".to_owned(),
            },
            Code::RetryExhausted => {
                let failing: Vec<_> = self.session.iter().flat_map(|s| s.core.failures()).collect();
                let named = |(index, code)| (self.snapshot().map_or_else(String::new, |s| s.path(index)), Some(code));
                let failing: Vec<_> = failing.into_iter().map(named).collect();
                let failure = match failing.is_empty() {
                    // they went out whole, and arrived wrong
                    true => Failure::of(code, Role::Exporter),
                    false => Failure::exhausted(&failing, Role::Exporter),
                };
                let hint = format!(
                    "{}; then run the same `send` again and `me-sync retry` on the other device: only what is missing is sent",
                    failure.hint
                );
                Failure { hint, ..failure }
            }
            // what it received is right, or its session would have ended before the tree was complete
            Code::ManifestMismatch if unknown => Failure {
                code,
                message: "the other device found something in its staging directory that is not of this tree"
                    .to_owned(),
                hint: "nothing was replaced there; it says what to remove, then run the same `send` again".to_owned(),
            },
            Code::TargetChanged | Code::TargetConflict => {
                let failure = Failure::of(code, Role::Exporter);
                let hint = "nothing was replaced there; run the same `send` again when the other device is to go on";
                Failure { hint: hint.to_owned(), ..failure }
            }
            _ => Failure::told_by_importer(code),
        }
    }

    pub(super) fn completion(&self) -> Completion {
        let Some(snapshot) = self.snapshot() else { return Completion::nothing() };
        let notes = view::skipped_notes(snapshot.skipped());
        let (payload_bytes, wire_bytes) = self.payload();
        let manifest_sha256 = self.sealed_sha256().map(|sha256| sha256.to_string()).unwrap_or_default();
        Completion { notes, payload_bytes, wire_bytes, manifest_sha256, ..Completion::of(snapshot.manifest()) }
    }

    /// Payload bytes that went over the network in this process, and as how many.
    fn payload(&self) -> (u64, u64) {
        let meter = self.session.as_ref().map(|s| &s.meter).or(self.traces.as_ref().map(|t| &t.meter));
        meter.map_or((0, 0), |meter| meter.payload())
    }

    pub(super) fn hashing_counters(&self) -> Counters {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        Counters {
            files_ok: load(&self.hashing.files_done),
            files_total: load(&self.hashing.files_total),
            bytes_done: load(&self.hashing.bytes_done),
            bytes_total: load(&self.hashing.bytes_total),
            ..Counters::default()
        }
    }

    /// Until the importer says what it has, what is on record is all that is known of that.
    fn with_earlier(&self, counters: Counters, phase: Phase) -> Counters {
        let is_open = matches!(phase, Phase::NearbyConnecting | Phase::WaitingForPeer | Phase::ManifestReceiving);
        if !is_open || counters.bytes_done > 0 || counters.files_ok > 0 {
            return counters;
        }
        let files_ok = self.record.files_ok.min(counters.files_total);
        Counters { files_ok, bytes_done: self.record.bytes_ok, ..counters }
    }

    /// Brings the view up to date.
    pub(super) fn refresh(&mut self, now: Moment) {
        let hashing = matches!(self.source, Source::Hashing);
        let phase = self.session.as_ref().map_or(Phase::NearbyConnecting, |s| s.core.phase());
        let counters = match (&self.session, self.snapshot()) {
            _ if hashing => self.hashing_counters(),
            (Some(session), _) => session.core.counters(),
            (None, Some(snapshot)) => Counters {
                files_total: u64::from(snapshot.manifest().counts().files),
                bytes_total: snapshot.manifest().total_bytes(),
                ..Counters::default()
            },
            (None, None) => Counters::default(),
        };
        let detail = match (phase, hashing, self.session.is_some()) {
            (_, true, _) => "reading and hashing the source",
            (Phase::NearbyConnecting, _, false) if self.record.peer.is_some() => {
                "the tree has changed; waiting for the other device to start over with what it has"
            }
            (Phase::NearbyConnecting, _, false) => "waiting for the other device",
            (Phase::ManifestReceiving, ..) => "waiting for the other device to agree",
            _ => view::detail(phase),
        };
        // an importer that comes while the source is hashed is told to come again
        let lost = self.session.as_ref().filter(|_| phase == Phase::WaitingForPeer && !hashing);
        let waiting = lost.map(|session| WaitingView {
            for_secs: session.lost.map_or(0, |lost| now.0.saturating_sub(lost.0).as_secs()),
            tries: 0,
            next_try_in_secs: 0,
            reason: None,
        });
        let (payload, wire) = self.payload();
        let limit = self.throttle.rate().map(Rate::bytes_per_second);
        let moving = match phase {
            _ if hashing => Some(Moving::Hashed),
            Phase::BulkTransferring | Phase::RetryingFailed => Some(Moving::Sent { limit }),
            _ => None,
        };
        let bps = self.rate.sample(now, moving, if hashing { counters.bytes_done } else { payload });
        let progress = match hashing {
            true => view::hashing(counters, (self.record.files_ok, self.record.bytes_ok), bps, detail),
            false => view::progress(self.with_earlier(counters, phase), 0, bps, detail),
        };
        let mut failures: Vec<_> = Vec::new();
        let mut failed = 0;
        if let (Some(session), Some(snapshot)) = (&self.session, self.snapshot()) {
            for (index, code) in session.core.failures() {
                failed += 1;
                if failures.len() < view::MAX_FAILURES {
                    failures.push(view::failure(snapshot.manifest(), index, "io_error", Some(code)));
                }
            }
        }
        let begun = self.session.is_some().then_some(self.record.created.wall_ms);
        let sealed = self.sealed_sha256().map(|sha256| sha256.to_string());
        self.view.send_if_modified(|view| {
            let mut next = view.clone();
            if next.source_name.is_none() {
                next.source_name = Some(self.record.source_name.clone());
            }
            (next.begun_ms, next.manifest_sha256) = (begun.or(next.begun_ms), sealed);
            next.phase = phase;
            next.progress = progress;
            next.waiting = waiting;
            next.limit_bps = limit;
            (next.payload_bytes, next.wire_bytes) = (payload, wire);
            next.failures = failures;
            next.failures_total = failed;
            let changed = next != *view;
            *view = next;
            changed
        });
    }
}

//! The import as people and programs see it.

use std::sync::atomic::Ordering;

use me_sync_protocol::ids::Moment;
use me_sync_protocol::progress::Phase;

use super::ImportJob;
use super::link::Link;
use crate::api::WaitingView;
use crate::clock::Moving;
use crate::coordinator::view;
use crate::limit::Rate;

impl ImportJob {
    /// Payload bytes that came over the network in this process, and as how many.
    pub(super) fn payload(&self) -> (u64, u64) {
        self.session.as_ref().map_or((0, 0), |s| s.meter.payload())
    }

    /// Brings the view up to date.
    pub(super) fn refresh(&mut self, now: Moment) {
        if self.session.is_none() {
            return self.refresh_opening();
        }
        let Some(session) = &self.session else { return };
        let core = &session.core;
        let in_flight = match &session.link {
            Link::Up(_) | Link::Draining => session.meter.in_flight.load(Ordering::Relaxed),
            // what of their files is staged already
            Link::Down(_) => core.partial_bytes(),
        };
        let (payload, wire) = session.meter.payload();
        // a session that another one takes the place of is over, and the import is not
        let starts_over = (self.superseding || self.redeeming) && !self.is_over;
        let phase = match core.phase() {
            Phase::Failed if starts_over => Phase::NearbyConnecting,
            phase => phase,
        };
        let limit = self.throttle.rate().map(Rate::bytes_per_second);
        let moves = session.link.is_up() && matches!(phase, Phase::BulkTransferring | Phase::RetryingFailed);
        let bps = self.rate.sample(now, moves.then_some(Moving::Sent { limit }), payload);
        let asked = self.view.borrow().review.is_some();
        let exporter = core.peer_progress().filter(|_| session.manifest.is_none());
        let next = match exporter {
            // nothing is here yet; how far the other side is with its hashing is what there is to show
            Some(peer) if peer.phase == Phase::ManifestReceiving && phase == Phase::ManifestReceiving => {
                view::hashing(peer.counters, (0, 0), 0, "the other device reads and hashes its files")
            }
            _ if phase == Phase::ManifestReceiving && asked => {
                view::progress(core.counters(), 0, 0, "waiting for your answer")
            }
            _ if phase == Phase::ManifestReceiving && self.is_staging => {
                let local = self.local_bytes.load(Ordering::Relaxed);
                view::progress(core.counters(), local, 0, "looking what is here already")
            }
            _ if phase == Phase::NearbyConnecting && starts_over => {
                view::progress(core.counters(), in_flight, 0, "starting over with what is here")
            }
            _ => view::progress(core.counters(), in_flight, bps, view::detail(phase)),
        };
        let waiting = match &session.link {
            Link::Down(redial) if phase == Phase::WaitingForPeer => Some(WaitingView {
                for_secs: now.0.saturating_sub(redial.since.0).as_secs(),
                tries: redial.tries,
                next_try_in_secs: redial.next.0.saturating_sub(now.0).as_secs(),
                reason: redial.last.as_ref().map(|f| f.message.clone()),
            }),
            Link::Down(_) | Link::Draining | Link::Up(_) => None,
        };
        let failing = core.failures();
        let failures: Vec<_> = match &session.manifest {
            Some(manifest) => failing
                .iter()
                .take(view::MAX_FAILURES)
                .map(|(index, reason)| {
                    let code = self.details.get(index).map(|d| d.code);
                    let finer = code.filter(|code| code.as_str() != reason.as_str());
                    view::failure(manifest, *index, reason.as_str(), finer)
                })
                .collect(),
            None => Vec::new(),
        };
        let (reused_files, reused_bytes) = self.reused;
        let begun = self.record.as_ref().map(|record| record.created.wall_ms);
        let sealed = session.manifest.as_ref().filter(|manifest| !manifest.is_outline());
        let sealed = sealed.map(|manifest| manifest.sha256().to_string());
        self.view.send_if_modified(|view| {
            let mut updated = view.clone();
            (updated.begun_ms, updated.manifest_sha256) = (begun, sealed);
            updated.phase = phase;
            updated.progress = next;
            updated.waiting = waiting;
            updated.limit_bps = limit;
            (updated.reused_files, updated.reused_bytes) = (reused_files, reused_bytes);
            (updated.payload_bytes, updated.wire_bytes) = (payload, wire);
            if phase != Phase::Failed || !failures.is_empty() {
                updated.failures = failures;
                updated.failures_total = failing.len() as u64;
            }
            let changed = updated != *view;
            *view = updated;
            changed
        });
    }

    /// An earlier session is being opened.
    fn refresh_opening(&self) {
        let Some(record) = self.record.as_ref().filter(|_| self.is_staging) else { return };
        let hashed = self.local_bytes.load(Ordering::Relaxed);
        self.view.send_modify(|view| {
            view.phase = Phase::WaitingForPeer;
            view.source_name = Some(record.source_name.clone());
            view.progress.files_total = record.files;
            view.progress.bytes_total = record.bytes;
            view.progress.bytes_received = hashed.min(record.bytes);
            view.progress.detail = "checking what is here already".to_owned();
        });
    }
}

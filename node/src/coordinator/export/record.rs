//! What the store knows of the offer, once somebody has redeemed its ticket.

use std::time::Duration;

use libp2p::PeerId;
use me_sync_protocol::ids::{Secret, TicketId};
use me_sync_protocol::reason::{Code, FailureReason};

use super::ExportJob;
use super::hashing::Source;
use crate::api::PeerSummary;
use crate::clock::LastSeen;
use crate::coordinator::Shared;
use crate::net::Connected;
use crate::source;
use crate::store::{ExportRecord, FailureRecord, MAX_FAILURES, SessionStatus, Write};

/// How often a session that is connected is noted to be alive.
const TOUCH: Duration = Duration::from_secs(60);

/// The record of an offer that nobody has redeemed. It is written once somebody has.
pub(in crate::coordinator) fn first_record(
    ticket: TicketId,
    ticket_secret: Secret,
    expires_at_ms: u64,
    source: &source::Source,
    source_name: String,
) -> ExportRecord {
    let now = LastSeen::now();
    ExportRecord {
        ticket,
        ticket_secret,
        expires_at_ms,
        root: source.summary().root.clone(),
        choices: source.options().into(),
        source_name,
        peer: None,
        peer_name: String::new(),
        addresses: Vec::new(),
        grant: None,
        manifest: None,
        state: SessionStatus::Open,
        failed_code: None,
        created: now,
        last: now,
        files: 0,
        bytes: 0,
        files_ok: 0,
        bytes_ok: 0,
        outline: None,
    }
}

impl ExportJob {
    /// The record as it is now.
    pub(in crate::coordinator) fn record(&self) -> &ExportRecord {
        &self.record
    }

    pub(super) fn met(&mut self, peer: PeerId, from: Option<Connected>) {
        if let Some(from) = &from {
            self.record.peer_name.clone_from(&from.hello.device_name);
        }
        let device_name = self.record.peer_name.clone();
        self.view.send_modify(|view| {
            view.peer = Some(PeerSummary {
                peer_id: peer.to_string(),
                address: from.as_ref().map(|f| f.address.to_string()).filter(|address| !address.is_empty()),
                transport: from.as_ref().map(|f| f.transport.to_string()),
                device_name,
            });
        });
    }

    pub(super) fn note_manifest(&mut self) {
        let (Some(snapshot), Some(_)) = (self.snapshot(), &self.session) else { return };
        let manifest = snapshot.manifest().clone();
        self.record.manifest = (!manifest.is_outline()).then(|| manifest.sha256());
        self.record.files = u64::from(manifest.counts().files);
        self.record.bytes = manifest.total_bytes();
    }

    /// Writes the record, if there is somebody it is about. The store keeps the order.
    pub(super) fn put(&mut self, shared: &Shared) {
        if self.record.peer.is_some() {
            shared.write_later(Write::PutExport(Box::new(self.record.clone())));
        }
    }

    pub(super) fn touch_if_due(&mut self, connected: bool, shared: &Shared) {
        let now = LastSeen::now();
        if connected && self.record.last.idle(&now) >= TOUCH {
            self.record.last = now;
            self.note_counters();
            self.put(shared);
        }
    }

    pub(super) fn record_end(&mut self, state: Option<SessionStatus>, code: Option<Code>) {
        self.note_counters();
        self.record.last = LastSeen::now();
        if let Some(state) = state {
            (self.record.state, self.record.failed_code) = (state, code);
        }
    }

    /// What could not be read here; what arrived wrong is on record at the importer.
    pub(super) fn failure_records(&self) -> Vec<FailureRecord> {
        let (Some(session), Some(snapshot)) = (&self.session, self.snapshot()) else { return Vec::new() };
        let attempts = session.core.counters().retry_round + 1;
        let failing = session.core.failures().take(MAX_FAILURES);
        failing
            .map(|(index, code)| FailureRecord {
                index,
                path: snapshot.manifest().entry(index).map(|e| e.path.as_str().to_owned()).unwrap_or_default(),
                reason: FailureReason::IoError,
                code,
                os_error: None,
                attempts,
            })
            .collect()
    }

    pub(super) fn note_counters(&mut self) {
        if let Some(session) = &self.session {
            let counters = session.core.counters();
            // one that was not asked for anything yet knows less than the record; while hashing it counts something else
            if matches!(self.source, Source::Hashing) || (counters.files_ok, counters.bytes_done) == (0, 0) {
                return;
            }
            (self.record.files_ok, self.record.bytes_ok) = (counters.files_ok, counters.bytes_done);
        }
    }

    pub(super) fn how_to_go_on(&self) -> String {
        "run the same `me-sync send` again: it goes on where it stopped".to_owned()
    }
}

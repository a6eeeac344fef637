//! What the store knows of the import: enough for a later process to go on, and for people to see.

use me_sync_protocol::file::FileReport;
use me_sync_protocol::message::Granted;
use me_sync_protocol::reason::Code;

use super::{Detail, ImportJob, Left};
use crate::api::PeerSummary;
use crate::clock::LastSeen;
use crate::coordinator::Shared;
use crate::store::{FailureRecord, Grant, ImportRecord, SessionStatus, TargetChoices, TicketText, Write};
use crate::transfer::FailureDetail;

/// Failed files that are recorded by name.
const MAX_FAILURES: usize = 10_000;

impl ImportJob {
    /// A session was granted: from now on it can be resumed.
    pub(super) fn first_record(&mut self, granted: &Granted, shared: &Shared) {
        let Some((session, peer)) = self.party else { return };
        let view = self.view.borrow().clone();
        let target = match (&self.target, &self.staging) {
            (Some(target), _) => target.path().to_owned(),
            (None, Some(staging)) => staging.target_path().to_owned(),
            (None, None) => self.record.as_ref().map(|r| r.target.clone()).unwrap_or_default(),
        };
        let now = LastSeen::now();
        self.record = Some(ImportRecord {
            session,
            ticket_text: TicketText::new(self.ticket.to_uri()),
            ticket: self.ticket.ticket_id,
            peer,
            peer_name: view.peer.map(|p| p.device_name).unwrap_or_default(),
            source_name: granted.source_name.clone(),
            addresses: self.route.addresses.iter().map(ToString::to_string).collect(),
            grant: Grant::from(granted),
            target,
            choices: TargetChoices {
                allow_home: self.options.allow_home,
                fail_if_changed: self.options.fail_if_changed,
                keep_world_writable: self.options.keep_world_writable,
                transport: self.route.transport,
            },
            manifest: None,
            state: SessionStatus::Open,
            failed_code: None,
            created: now,
            last: now,
            files: 0,
            bytes: 0,
            files_ok: 0,
            bytes_ok: 0,
            told: false,
            post_apply: self.post_apply.clone(),
        });
        self.put(shared);
    }

    pub(super) fn touch_record(&mut self, summary: &PeerSummary, shared: &Shared) {
        let addresses: Vec<_> = self.route.addresses.iter().map(ToString::to_string).collect();
        let Some(record) = &mut self.record else { return };
        record.addresses = addresses;
        record.peer_name.clone_from(&summary.device_name);
        self.put(shared);
    }

    /// The staging tree stands: what the session is about.
    pub(super) fn record_manifest(&mut self, shared: &Shared) {
        let Some(manifest) = self.session.as_ref().and_then(|s| s.manifest.clone()) else { return };
        let Some(record) = &mut self.record else { return };
        // an outline holds no promise of what the files are: a later process starts from the tree alone
        record.manifest = (!manifest.is_outline()).then(|| manifest.sha256());
        record.files = u64::from(manifest.counts().files);
        record.bytes = manifest.total_bytes();
        self.put(shared);
    }

    pub(super) fn record_progress(&mut self, shared: &Shared) {
        let Some(counters) = self.session.as_ref().map(|s| s.core.counters()) else { return };
        let Some(record) = &mut self.record else { return };
        (record.files_ok, record.bytes_ok) = (counters.files_ok, counters.bytes_done);
        self.put(shared);
    }

    /// Another session takes over: nothing can resume this one.
    pub(super) fn forget_record(&mut self, shared: &Shared) {
        if let Some(record) = self.record.as_mut().filter(|r| r.state != SessionStatus::Ended) {
            (record.state, record.failed_code) = (SessionStatus::Ended, Some(Code::ManifestChanged));
            self.put(shared);
        }
    }

    pub(super) fn record_end(&mut self, left: Left, shared: &Shared) {
        self.record_progress(shared);
        let Some(record) = &mut self.record else { return };
        (record.state, record.failed_code) = match left {
            Left::Applied => (SessionStatus::Completed, None),
            Left::Kept => (record.state, record.failed_code),
            Left::Failed(code) => (SessionStatus::Failed, Some(code)),
            Left::Nothing(code) => (SessionStatus::Ended, Some(code)),
        };
        record.told |= self.told_by_peer;
        let session = record.session;
        self.put(shared);
        shared.write_later(Write::PutFailures(session, self.failure_records()));
    }

    /// Counts how often a file failed, and what is known of the last time. That may come some batches before the report.
    pub(super) fn note_failures(&mut self, reports: &[FileReport], details: &[FailureDetail]) {
        for FailureDetail { index, code, os_error } in details.iter().copied() {
            let attempts = self.details.get(&index).map_or(0, |seen| seen.attempts);
            self.details.insert(index, Detail { code, os_error, attempts, is_new: true });
        }
        for report in reports {
            let FileReport::Failed(failed) = report else { continue };
            let unknown = Detail { code: failed.reason.into(), os_error: None, attempts: 0, is_new: true };
            let detail = self.details.entry(failed.index).or_insert(unknown);
            if !detail.is_new {
                (detail.code, detail.os_error) = (unknown.code, None);
            }
            detail.is_new = false;
            detail.attempts += 1;
        }
    }

    fn failure_records(&self) -> Vec<FailureRecord> {
        let Some(session) = &self.session else { return Vec::new() };
        let Some(manifest) = &session.manifest else { return Vec::new() };
        let failing = session.core.failures().into_iter().take(MAX_FAILURES);
        failing
            .map(|(index, reason)| {
                let detail = self.details.get(&index);
                FailureRecord {
                    index,
                    path: manifest.entry(index).map(|e| e.path.as_str().to_owned()).unwrap_or_default(),
                    reason,
                    code: detail.map_or(reason.into(), |d| d.code),
                    os_error: detail.and_then(|d| d.os_error),
                    attempts: detail.map_or(1, |d| d.attempts),
                }
            })
            .collect()
    }

    /// Writes the record, with the time. The store keeps the order.
    fn put(&mut self, shared: &Shared) {
        if let Some(record) = &mut self.record {
            record.last = LastSeen::now();
            shared.write_later(Write::PutImport(Box::new(record.clone())));
        }
    }

    pub(super) fn how_to_resume(&self) -> String {
        match self.party {
            Some((session, _)) => {
                format!("everything that arrived is kept: `me-sync resume {}` goes on", session.short())
            }
            None => "start it again when you want".to_owned(),
        }
    }

    pub(super) fn how_to_retry(&self) -> String {
        match self.party {
            Some((session, _)) => {
                format!(
                    "then start `send` there again and `me-sync retry {}` here: only those files are sent",
                    session.short()
                )
            }
            None => "then start again".to_owned(),
        }
    }
}

//! Cores' counters and modules' reports as the views that people and programs see.

use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::Code;
use tokio::sync::watch;

use crate::api::{Completion, FailureView, JobView, ProgressView, Protocol};
use crate::source::SkippedReport;

/// Failed files that a view names; it counts all.
pub(super) const MAX_FAILURES: usize = 100;

pub(super) fn progress(counters: Counters, in_flight: u64, bps: u64, detail: &str) -> ProgressView {
    ProgressView {
        files_ok: counters.files_ok,
        files_failed: counters.files_failed,
        files_total: counters.files_total,
        bytes_received: counters.bytes_done.saturating_add(in_flight).min(counters.bytes_total),
        bytes_total: counters.bytes_total,
        files_hashed: None,
        bytes_hashed: None,
        transfer_bps: bps,
        retry_round: counters.retry_round,
        detail: detail.to_owned(),
    }
}

/// How far hashing is, before anything is sent. `there` is what the importer has of an earlier process.
pub(super) fn hashing(hashed: Counters, there: (u64, u64), bps: u64, detail: &str) -> ProgressView {
    let (files_ok, bytes_done) = (there.0.min(hashed.files_total), there.1);
    let view = progress(Counters { files_ok, bytes_done, ..hashed }, 0, bps, detail);
    ProgressView { files_hashed: Some(hashed.files_ok), bytes_hashed: Some(hashed.bytes_done), ..view }
}

/// Has nobody seen this phase yet?
pub(super) fn is_new(phase: Phase, view: &watch::Sender<JobView>) -> bool {
    view.borrow().phase != phase
}

/// A phase in words.
pub(super) fn detail(phase: Phase) -> &'static str {
    match phase {
        Phase::NearbyConnecting => "connecting",
        Phase::WaitingForPeer => "waiting for the other device to come back",
        Phase::ManifestReceiving => "receiving the list of files",
        Phase::BulkTransferring => "transferring",
        Phase::RetryingFailed => "sending failed files again",
        Phase::FinalVerifying => "verifying the whole tree",
        Phase::Applying => "swapping the trees",
        Phase::RestartingRuntime => "running the command after the swap",
        Phase::Completed => "done",
        Phase::Failed => "stopped",
    }
}

pub(super) fn failure(manifest: &Manifest, index: EntryIndex, reason: &str, code: Option<Code>) -> FailureView {
    let path = manifest.entry(index).map_or_else(|| index.to_string(), |e| e.path.as_str().to_owned());
    FailureView { path, reason: reason.to_owned(), code: code.map(|c| c.to_string()) }
}

/// What an exporter left out, as lines for the result.
pub(super) fn skipped_notes(skipped: &SkippedReport) -> Vec<String> {
    let groups = [
        (skipped.special.count, "socket, FIFO or device", "sockets, FIFOs or devices"),
        (skipped.unreadable.count, "unreadable entry", "unreadable entries"),
        (
            skipped.unsupported.count,
            "entry with a name or link text that cannot be sent",
            "entries with names or link texts that cannot be sent",
        ),
    ];
    let found = groups.into_iter().filter(|(count, ..)| *count > 0);
    found.map(|(count, one, many)| format!("left out: {count} {}", if count == 1 { one } else { many })).collect()
}

impl Completion {
    /// The figures of a manifest; where it went is added by the importer.
    pub(super) fn of(manifest: &Manifest) -> Self {
        let counts = manifest.counts();
        Self {
            files: u64::from(counts.files),
            dirs: u64::from(counts.dirs),
            symlinks: u64::from(counts.symlinks),
            bytes: manifest.total_bytes(),
            manifest_sha256: manifest.sha256().to_string(),
            ..Self::nothing()
        }
    }

    pub(super) fn nothing() -> Self {
        Self {
            protocol: Protocol::V4,
            files: 0,
            dirs: 0,
            symlinks: 0,
            bytes: 0,
            manifest_sha256: String::new(),
            target: None,
            unchanged: false,
            retained: None,
            retained_until_ms: None,
            reused_files: 0,
            reused_bytes: 0,
            payload_bytes: 0,
            wire_bytes: 0,
            notes: Vec::new(),
        }
    }
}

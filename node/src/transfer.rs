//! File-transfer actors: one per lane on each side. Chunk bytes move stream → check → disk here and never
//! pass the coordinator, which hears batched reports only.
//!
//! ```text
//! exporter:  disk thread ──packed frames──► stream task        importer:  stream task ──frames──► disk thread
//! ```
//! The task that owns a stream neither hashes nor touches the disk; the two halves meet in a bounded channel.

pub(crate) mod recv_lane;
pub(crate) mod send_lane;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use me_sync_protocol::file::{FileReport, Violation};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::reason::Code;
use tokio::sync::mpsc;

use crate::api::JobId;

/// Batches under way between the two halves of a lane. A batch is about 256 KiB to 1 MiB.
pub(crate) const LANE_QUEUE: usize = 3;

/// What the lanes of a session count together; read by the coordinator's clock.
#[derive(Debug, Default)]
pub(crate) struct LaneMeter {
    /// Raw bytes that left or arrived.
    pub(crate) moved: Arc<AtomicU64>,
    /// Payload bytes of files that are under way, not yet judged.
    pub(crate) in_flight: AtomicU64,
    /// Disk operations that are being waited for right now.
    disk: AtomicU32,
}

impl LaneMeter {
    /// Runs a disk operation and lets the clock know meanwhile that it is this side that is slow.
    pub(crate) fn on_disk<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.disk.fetch_add(1, Ordering::Relaxed);
        let result = operation();
        self.disk.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Is a lane waiting for this side's disk?
    pub(crate) fn waits_for_disk(&self) -> bool {
        self.disk.load(Ordering::Relaxed) > 0
    }
}

/// What a lane tells the coordinator.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// Importer: files that are judged. `codes` has the finer reasons of failed ones.
    Files { reports: Vec<FileReport>, codes: Vec<(EntryIndex, Code)> },
    /// Exporter: files that are through.
    Sent { files: u64, bytes: u64, failed: Vec<(EntryIndex, Code)> },
    /// Importer: the peer broke the protocol.
    Violation(Violation),
    /// The stream ended or broke.
    Closed,
}

/// A lane's way to the coordinator: bounded, so that a busy coordinator slows the lanes down.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    pub(crate) job: JobId,
    pub(crate) to: mpsc::Sender<(JobId, LaneEvent)>,
}

impl Reports {
    /// False if the coordinator is gone; then nobody needs the news.
    pub(crate) async fn send(&self, event: LaneEvent) -> bool {
        self.to.send((self.job, event)).await.is_ok()
    }

    /// As [`Self::send`], from a disk thread.
    pub(crate) fn send_blocking(&self, event: LaneEvent) -> bool {
        self.to.blocking_send((self.job, event)).is_ok()
    }
}

//! File-transfer actors: one per lane on each side. Chunk bytes move stream → check → disk here and never
//! pass the coordinator, which hears batched reports only.
//!
//! ```text
//! exporter:  disk thread ──packed frames──► stream task        importer:  stream task ──frames──► disk thread
//! ```
//! The task that owns a stream neither hashes nor touches the disk; the two halves meet in a bounded channel.

mod buffer;
pub(crate) mod gauge;
mod outbound;
mod pack;
pub(crate) mod recv_lane;
pub(crate) mod send_lane;
pub(crate) mod strand;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use me_sync_protocol::file::{FileReport, Partial, Violation};
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::reason::Code;
use tokio::sync::mpsc;

use self::gauge::{Flow, Reading};
pub use self::pack::Compression;
use crate::api::JobId;
use crate::limit::Throttle;

/// Batches under way between the two halves of a lane. A batch is about 256 KiB to 1 MiB.
pub(crate) const LANE_QUEUE: usize = 3;

/// What the lanes of a session count together; read by the coordinator's clock.
#[derive(Debug, Default)]
pub(crate) struct LaneMeter {
    /// Raw bytes that left or arrived.
    pub(crate) moved: Arc<AtomicU64>,
    /// Payload bytes of files that are under way, not yet judged.
    pub(crate) in_flight: AtomicU64,
    /// Payload bytes that left or arrived, whatever became of them.
    pub(crate) payload: AtomicU64,
    /// How fast bytes may move.
    pub(crate) throttle: Throttle,
    /// As how many bytes they went over the network: fewer where they were packed.
    pub(crate) wire: AtomicU64,
    /// Payload bytes that were holes, and no bytes on the wire.
    pub(crate) holes: AtomicU64,
    /// How the streams take what the exporter sends.
    pub(crate) flow: Flow,
    /// Disk operations that are being waited for right now.
    disk: AtomicU32,
}

impl LaneMeter {
    pub(crate) fn new(throttle: Throttle) -> Self {
        Self { throttle, ..Self::default() }
    }

    /// Runs a disk operation and lets the clock know meanwhile that it is this side that is slow.
    pub(crate) fn on_disk<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.disk.fetch_add(1, Ordering::Relaxed);
        let result = operation();
        self.disk.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Payload bytes that left or arrived, and as how many bytes.
    pub(crate) fn payload(&self) -> (u64, u64) {
        (self.payload.load(Ordering::Relaxed), self.wire.load(Ordering::Relaxed))
    }

    /// What the exporter's gauge goes by.
    pub(crate) fn reading(&self) -> Reading {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        // holes say nothing of how content packs
        self.flow.reading(load(&self.moved), self.content(), load(&self.wire))
    }

    /// Payload bytes that left or arrived, but for holes: at the importer, what its disk had to take.
    pub(crate) fn content(&self) -> u64 {
        self.payload.load(Ordering::Relaxed).saturating_sub(self.holes.load(Ordering::Relaxed))
    }

    /// Is a lane waiting for this side, for its disk or for a limit that it was given (SPEC §8.2)?
    pub(crate) fn waits_for_us(&self) -> bool {
        self.disk.load(Ordering::Relaxed) > 0 || self.throttle.holds_back()
    }
}

/// What a lane tells the coordinator.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// Importer: files that are judged, and what is known of the failed ones beyond the reason on the wire.
    Files { reports: Vec<FileReport>, details: Vec<FailureDetail> },
    /// Exporter: files that are through; of an outline with their hashes.
    Sent { files: u64, bytes: u64, failed: Vec<(EntryIndex, Code)>, hashed: Vec<(EntryIndex, Digest)> },
    /// Importer: the lane ended inside a file, of which this much is staged.
    Suspended(Partial),
    /// Importer: the peer broke the protocol.
    Violation(Violation),
    /// The stream ended or broke.
    Closed,
    /// Importer: no lane of a lost connection will report any more.
    Drained,
}

/// Why a file failed here, or at the exporter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailureDetail {
    pub(crate) index: EntryIndex,
    pub(crate) code: Code,
    /// What the operating system of this device said.
    pub(crate) os_error: Option<i32>,
}

/// A lane's way to the coordinator: bounded, so that a busy coordinator slows the lanes down.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    pub(crate) job: JobId,
    /// Which of the session's conversations the lane belongs to: a lost one may still report.
    pub(crate) conversation: u32,
    pub(crate) to: mpsc::Sender<LaneReport>,
}

/// An event with where it comes from.
#[derive(Debug)]
pub(crate) struct LaneReport {
    pub(crate) job: JobId,
    pub(crate) conversation: u32,
    pub(crate) event: LaneEvent,
}

impl Reports {
    /// False if the coordinator is gone; then nobody needs the news.
    pub(crate) async fn send(&self, event: LaneEvent) -> bool {
        self.to.send(self.report(event)).await.is_ok()
    }

    /// As [`Self::send`], from a disk thread.
    pub(crate) fn send_blocking(&self, event: LaneEvent) -> bool {
        self.to.blocking_send(self.report(event)).is_ok()
    }

    fn report(&self, event: LaneEvent) -> LaneReport {
        LaneReport { job: self.job, conversation: self.conversation, event }
    }
}

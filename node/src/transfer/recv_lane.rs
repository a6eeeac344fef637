//! The importer's end of a lane: frames off the stream (task), checked and written (thread).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use me_sync_protocol::codec::FrameError;
use me_sync_protocol::file::{FileReport, LaneReceiver, LaneStep, Violation};
use me_sync_protocol::frame::{FailedEntry, FileStrand, Frame};
use me_sync_protocol::ids::EntryIndex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::pack::Unpacker;
use super::strand::{StrandEnd, StrandNews};
use super::{FailureDetail, LANE_QUEUE, LaneEvent, LaneMeter, Reports};
use crate::link::{ByteStream, FrameReader, LinkError};
use crate::staging::{StageError, StagedFile, StagingWriter};

/// Batches of a lane that are read while a chunk of its strand is waited for. A large chunk is a batch.
const READ_AHEAD: usize = 16;
/// Files judged before a report goes out although more frames wait.
const REPORT_SIZE: usize = 256;

/// Everything one receiving lane works with.
#[derive(Debug)]
pub(crate) struct RecvLane {
    pub(crate) receiver: LaneReceiver,
    pub(crate) writer: StagingWriter,
    /// Chunks that come beside the lane.
    pub(crate) strand: mpsc::Receiver<StrandNews>,
    pub(crate) meter: Arc<LaneMeter>,
    pub(crate) stop: CancellationToken,
}

impl RecvLane {
    /// Runs until the stream ends, the peer breaks the protocol, or the lane is stopped. When this returns,
    /// no file of the lane is open any more.
    pub(crate) async fn run(self, mut frames: FrameReader<ByteStream>, reports: Reports) {
        let (batches, inbox) = mpsc::channel(LANE_QUEUE);
        let Self { receiver, writer, strand, meter, stop } = self;
        let unpacker = Unpacker::default();
        let disk = Disk { receiver, writer, meter, unpacker, file: None, reports: reports.clone() };
        let thread = tokio::task::spawn_blocking(move || disk.run(inbox));
        let mut strand = StrandEnd::new(strand);
        let closing = tokio::select! {
            () = stop.cancelled() => None,
            closing = pump(&mut frames, &mut strand, &batches) => closing,
        };
        drop(batches);
        // the thread ends when it has worked off what came before the end
        if let Err(e) = thread.await {
            tracing::error!(error = %e, "a lane's disk thread failed");
        }
        if let Some(last) = closing {
            reports.send(last).await;
        }
    }
}

/// Hands on what comes, in the lane's order, until there is nothing more; what to say then.
async fn pump(
    frames: &mut FrameReader<ByteStream>,
    strand: &mut StrandEnd,
    batches: &mpsc::Sender<Vec<Frame>>,
) -> Option<LaneEvent> {
    let mut ahead = VecDeque::new();
    loop {
        let batch = match ahead.pop_front() {
            Some(batch) => batch,
            None => frames.next_batch().await,
        };
        let batch = match batch {
            Ok(batch) if batch.is_empty() => return Some(LaneEvent::Closed),
            Ok(batch) => batch,
            Err(e) => return Some(e.into()),
        };
        let mut ready = Vec::new();
        for frame in batch {
            let Frame::FileStrand(on_strand) = frame else {
                ready.push(frame);
                continue;
            };
            for nth in 0..on_strand.chunks.max(1) {
                if nth == 0 && !ready.is_empty() {
                    batches.send(std::mem::take(&mut ready)).await.ok()?;
                }
                match wait_beside(frames, strand, on_strand, &mut ahead).await {
                    Ok(chunk) => batches.send(vec![chunk]).await.ok()?,
                    Err(closing) => return Some(closing),
                }
            }
        }
        if !ready.is_empty() {
            batches.send(ready).await.ok()?;
        }
    }
}

/// The next chunk of the strand. What comes on the lane meanwhile is read, up to a bound: a stream that nobody reads keeps
/// its window small, and the slower of the two connections would hold up the other one.
async fn wait_beside(
    frames: &mut FrameReader<ByteStream>,
    strand: &mut StrandEnd,
    named: FileStrand,
    ahead: &mut VecDeque<Result<Vec<Frame>, LinkError>>,
) -> Result<Frame, LaneEvent> {
    loop {
        let goes_on = ahead.back().is_none_or(|last| last.as_ref().is_ok_and(|batch| !batch.is_empty()));
        tokio::select! {
            biased;
            chunk = strand.next(named) => return chunk,
            batch = frames.next_batch(), if goes_on && ahead.len() < READ_AHEAD => ahead.push_back(batch),
        }
    }
}

impl From<LinkError> for LaneEvent {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Frame(e) => malformed(e),
            LinkError::Io(_) | LinkError::Truncated => Self::Closed,
        }
    }
}

pub(super) fn malformed(e: FrameError) -> LaneEvent {
    LaneEvent::Violation(Violation { code: e.code(), what: "a malformed frame on a lane" })
}

/// The thread's half.
struct Disk {
    receiver: LaneReceiver,
    writer: StagingWriter,
    meter: Arc<LaneMeter>,
    unpacker: Unpacker,
    file: Option<OpenFile>,
    reports: Reports,
}

struct OpenFile {
    staged: StagedFile,
    arrived: u64,
}

#[derive(Default)]
struct Batch {
    reports: Vec<FileReport>,
    details: Vec<FailureDetail>,
}

impl Disk {
    fn run(mut self, mut inbox: mpsc::Receiver<Vec<Frame>>) {
        let mut batch = Batch::default();
        while let Some(frames) = inbox.blocking_recv() {
            for frame in frames {
                if let Err(violation) = self.step(frame, &mut batch) {
                    self.flush(&mut batch);
                    self.reports.send_blocking(LaneEvent::Violation(violation));
                    self.drop_file();
                    return;
                }
                if batch.reports.len() >= REPORT_SIZE {
                    self.flush(&mut batch);
                }
            }
            if inbox.is_empty() {
                self.flush(&mut batch);
            }
        }
        self.flush(&mut batch);
        self.suspend();
    }

    /// The lane is gone: what there is of the file under way stays, and how much that is goes to the core.
    fn suspend(mut self) {
        let Some(file) = self.take_file() else { return };
        let partial = self.receiver.suspend();
        let Some(partial) = partial else {
            if let Err(e) = self.meter.on_disk(|| file.staged.discard()) {
                tracing::warn!(error = %crate::errors::chain(&e), "a failed file could not be removed from staging");
            }
            return;
        };
        match self.meter.on_disk(|| file.staged.suspend()) {
            Ok(()) => {
                self.reports.send_blocking(LaneEvent::Suspended(partial));
            }
            // it is sent again from its beginning
            Err(e) => tracing::warn!(error = %crate::errors::chain(&e), "an unfinished file could not be kept"),
        }
    }

    fn step(&mut self, frame: Frame, batch: &mut Batch) -> Result<(), Violation> {
        let step = match frame {
            // SPEC 8.2-3: a peer that sends little which stands for much is not to blame for the time it takes
            Frame::FileZeros(_) => self.meter.on_disk(|| self.receiver.handle(frame)),
            _ => self.receiver.handle(frame),
        };
        match step? {
            LaneStep::Create(index) => match self.meter.on_disk(|| self.writer.create(index)) {
                Ok(staged) => self.file = Some(OpenFile { staged, arrived: 0 }),
                Err(e) => self.fail(index, &e, batch),
            },
            LaneStep::Continue(index, offset) => match self.meter.on_disk(|| self.writer.resume(index, offset)) {
                Ok(staged) => self.file = Some(OpenFile { staged, arrived: 0 }),
                Err(e) => self.fail(index, &e, batch),
            },
            LaneStep::Write(bytes) => self.write(&bytes, bytes.len(), batch),
            LaneStep::Zeros(len) => self.take(u64::from(len), 0, batch, |staged| staged.skip(u64::from(len))),
            LaneStep::Unpack(packed) => {
                // here too
                let content = self.meter.on_disk(|| self.unpacker.unpack(&packed));
                if let LaneStep::Write(bytes) = self.receiver.unpacked(&packed, content)? {
                    self.write(&bytes, packed.body_len(), batch);
                }
            }
            LaneStep::Keep(verified) => {
                let index = verified.index();
                if let Some(file) = self.take_file() {
                    match self.meter.on_disk(|| file.staged.finish()) {
                        Ok(()) => batch.reports.push(FileReport::Ok(verified)),
                        Err(e) => {
                            batch.details.push(detail(index, &e));
                            batch.reports.push(FileReport::Failed(FailedEntry { index, reason: e.reason() }));
                        }
                    }
                }
            }
            LaneStep::Drop { entry, from_exporter } => {
                self.drop_file();
                let named = from_exporter.map(|code| FailureDetail { index: entry.index, code, os_error: None });
                batch.details.extend(named);
                batch.reports.push(FileReport::Failed(entry));
            }
            LaneStep::Ignore => self.drop_file(),
        }
        Ok(())
    }

    /// Content that came as so many bytes.
    fn write(&mut self, bytes: &[u8], on_wire: usize, batch: &mut Batch) {
        self.take(bytes.len() as u64, on_wire, batch, |staged| staged.write(bytes));
    }

    /// The next `len` bytes of the file, which came as so many.
    fn take(
        &mut self,
        len: u64,
        on_wire: usize,
        batch: &mut Batch,
        store: impl FnOnce(&mut StagedFile) -> Result<(), StageError>,
    ) {
        self.meter.payload.fetch_add(len, Ordering::Relaxed);
        self.meter.wire.fetch_add(on_wire as u64, Ordering::Relaxed);
        if on_wire == 0 {
            self.meter.holes.fetch_add(len, Ordering::Relaxed);
        }
        let (Some(file), Some(index)) = (&mut self.file, self.receiver.current()) else { return };
        file.arrived += len;
        self.meter.in_flight.fetch_add(len, Ordering::Relaxed);
        if let Err(e) = self.meter.on_disk(|| store(&mut file.staged)) {
            self.fail(index, &e, batch);
        }
    }

    /// The disk refused: what there is of the file goes, the rest of it is passed over until its end.
    fn fail(&mut self, index: EntryIndex, error: &StageError, batch: &mut Batch) {
        tracing::debug!(%index, error = %crate::errors::chain(error), "a file could not be staged");
        self.receiver.fail(error.reason());
        batch.details.push(detail(index, error));
        self.drop_file();
    }

    fn take_file(&mut self) -> Option<OpenFile> {
        let file = self.file.take()?;
        self.meter.in_flight.fetch_sub(file.arrived, Ordering::Relaxed);
        Some(file)
    }

    fn drop_file(&mut self) {
        if let Some(file) = self.take_file()
            && let Err(e) = self.meter.on_disk(|| file.staged.discard())
        {
            tracing::warn!(error = %crate::errors::chain(&e), "a failed file could not be removed from staging");
        }
    }

    fn flush(&self, batch: &mut Batch) {
        if !batch.reports.is_empty() {
            let Batch { reports, details } = std::mem::take(batch);
            self.reports.send_blocking(LaneEvent::Files { reports, details });
        }
    }
}

fn detail(index: EntryIndex, error: &StageError) -> FailureDetail {
    FailureDetail { index, code: error.code(), os_error: error.os_error() }
}

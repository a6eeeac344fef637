//! The exporter's end of a lane: files read and packed (thread), written to the stream (task).
//!
//! Small files share a buffer: a batch goes out when it holds at least 256 KiB or the work is done. Files that the
//! manifest has no hash of are hashed on the way, by the thread.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::AsyncWriteExt;
use me_sync_protocol::codec;
use me_sync_protocol::frame::{FileBegin, FileEnd, FileZeros, Frame, PartialFile};
use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::limits::FRAME_HEADER;
use me_sync_protocol::manifest::{Manifest, Node};
use me_sync_protocol::packed::PACKED_HEADER;
use me_sync_protocol::reason::Code;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use super::buffer::SendBuffer;
use super::outbound::{BatchWriter, Ended, Packed};
use super::pack::ChunkPacker;
use super::strand::{STRAND_QUEUE, StrandStart, Way};
use super::{Compression, LANE_QUEUE, LaneEvent, LaneMeter, Reports};
use crate::link::ByteStream;
use crate::source::{FreshHash, HashKeeper, ReadError, SnapshotReader};

/// A batch of packed frames is sent when it is at least this long.
const BATCH: usize = 256 << 10;
/// Or when it stands for this much content: packed, a batch of that length could stand for gigabytes, and nothing would
/// move until they are read.
const BATCH_CONTENT: u64 = 1 << 20;
/// Rounds that may wait for a lane: one at a time.
pub(crate) const WORK_QUEUE: usize = 1;

/// The files of one round, shared by all lanes: whoever is free takes the next.
#[derive(Debug)]
pub(crate) struct WorkList {
    entries: Vec<EntryIndex>,
    /// Where those start that the importer has in part.
    offsets: BTreeMap<EntryIndex, u64>,
    next: AtomicUsize,
}

impl WorkList {
    pub(crate) fn new(entries: Vec<EntryIndex>, partial: &[PartialFile]) -> Arc<Self> {
        let offsets = partial.iter().map(|p| (p.index, p.offset)).collect();
        Arc::new(Self { entries, offsets, next: AtomicUsize::new(0) })
    }

    fn offset(&self, index: EntryIndex) -> u64 {
        self.offsets.get(&index).copied().unwrap_or(0)
    }

    fn take(&self) -> Option<EntryIndex> {
        self.entries.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

/// Everything one sending lane works with.
#[derive(Debug)]
pub(crate) struct SendLane {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) reader: SnapshotReader,
    pub(crate) chunk: usize,
    /// [`Compression::Never`] where it was not agreed on.
    pub(crate) compression: Compression,
    /// Holes go as such: that was agreed on.
    pub(crate) sends_holes: bool,
    pub(crate) meter: Arc<LaneMeter>,
    /// Takes the hashes of files of an outline.
    pub(crate) keeper: Option<HashKeeper>,
    /// Ends the sending.
    pub(crate) stop: CancellationToken,
    /// Ends the stream. It comes after `stop`: a peer that sees its lanes end before it has read the last frame on
    /// the control stream takes both for a lost connection.
    pub(crate) release: CancellationToken,
    #[cfg(feature = "test-hooks")]
    pub(crate) faults: crate::hooks::ResolvedFaults,
}

impl SendLane {
    /// Runs until the lane is stopped or the stream breaks. Work comes round by round.
    /// Once there is a `strand`, chunks go there as well.
    pub(crate) async fn run(
        self,
        mut stream: ByteStream,
        strand: impl Future<Output = Option<ByteStream>> + Send + 'static,
        work: mpsc::Receiver<Arc<WorkList>>,
        reports: Reports,
    ) {
        let (batches, mut inbox) = mpsc::channel(LANE_QUEUE);
        let (stop, release) = (self.stop.clone(), self.release.clone());
        let (used, unused) = mpsc::channel(LANE_QUEUE + STRAND_QUEUE + 2);
        let writer = BatchWriter { meter: self.meter.clone(), used, reports };
        let mut strand = StrandStart::new(strand, writer.beside(), stop.clone(), release.clone());
        let thread = tokio::task::spawn_blocking(move || Packer::new(self, batches, unused).run(work));
        let sending = async {
            while let Some(packed) = inbox.recv().await {
                let flush = inbox.is_empty();
                match strand.take(packed) {
                    Way::Strand(instead) => writer.write(&mut stream, &instead, flush).await?,
                    Way::Lane(packed) => writer.put(&mut stream, packed, flush).await?,
                }
            }
            Ok(())
        };
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = sending => ended,
        };
        // with its channel closed the thread ends at its next batch
        drop(inbox);
        let is_broken = ended == Err(Ended::Broken);
        if is_broken {
            writer.reports.send(LaneEvent::Closed).await;
        }
        match thread.await {
            Ok(()) if is_broken => {}
            Ok(()) => release.cancelled().await,
            Err(e) => tracing::error!(error = %e, "a lane's disk thread failed"),
        }
        // a clean end lets the peer see that nothing is missing; it may be gone already
        stream.close().await.ok();
        strand.close().await;
    }
}

/// The thread's half.
struct Packer {
    lane: SendLane,
    batches: mpsc::Sender<Packed>,
    /// Buffers that are written.
    unused: mpsc::Receiver<SendBuffer>,
    chunks: ChunkPacker,
    buffer: SendBuffer,
    files: u64,
    bytes: u64,
    /// Length of `bytes` on the wire.
    wire: u64,
    /// Of `bytes`, those in holes.
    holes: u64,
    /// Chunks in the buffer, …
    chunk_frames: u32,
    /// … and whether other frames are there, too.
    has_others: bool,
    failed: Vec<(EntryIndex, Code)>,
    hashed: Vec<(EntryIndex, Digest)>,
    fresh: Vec<FreshHash>,
}

/// What became of the content of a file: its hash, if the manifest has none.
type Body = Result<Option<Digest>, ReadError>;

/// The stream's half is gone.
struct Gone;

impl Packer {
    fn new(lane: SendLane, batches: mpsc::Sender<Packed>, unused: mpsc::Receiver<SendBuffer>) -> Self {
        let chunks = ChunkPacker::new(lane.compression, lane.meter.clone());
        Self {
            lane,
            batches,
            unused,
            chunks,
            buffer: SendBuffer::default(),
            files: 0,
            bytes: 0,
            wire: 0,
            holes: 0,
            chunk_frames: 0,
            has_others: false,
            failed: Vec::new(),
            hashed: Vec::new(),
            fresh: Vec::new(),
        }
    }

    fn run(mut self, mut work: mpsc::Receiver<Arc<WorkList>>) {
        let meter = self.lane.meter.clone();
        while let Some(list) = work.blocking_recv() {
            if meter.flow.working(|| self.round(&list)).is_err() {
                return;
            }
        }
    }

    fn round(&mut self, list: &WorkList) -> Result<(), Gone> {
        while let Some(index) = list.take() {
            self.file(index, list.offset(index))?;
        }
        self.flush()
    }

    fn file(&mut self, index: EntryIndex, offset: u64) -> Result<(), Gone> {
        let Some((size, sha256)) = self.declared(index) else {
            // the core asks for files of this manifest only
            tracing::error!(%index, "asked to send something that is no file");
            return Ok(());
        };
        self.has_others = true;
        self.buffer.put(&Frame::FileBegin(FileBegin { index, size, sha256, offset }));
        let (failed, late) = match self.body(index, offset, sha256.is_none())? {
            Ok(late) => (None, late),
            Err(e) => {
                tracing::debug!(%index, error = %crate::errors::chain(&e), "a file could not be sent whole");
                (Some(e.code()), None)
            }
        };
        self.has_others = true;
        self.buffer.put(&Frame::FileEnd(FileEnd { index, failed, sha256: late }));
        self.files += 1;
        self.hashed.extend(late.map(|sha256| (index, sha256)));
        self.failed.extend(failed.map(|code| (index, code)));
        self.flush_if_full()
    }

    /// Reads the file straight into the send buffer, chunk by chunk.
    fn body(&mut self, index: EntryIndex, offset: u64, is_late: bool) -> Result<Body, Gone> {
        let mut hash = is_late.then(Hasher::new);
        let meter = self.lane.meter.clone();
        let mut file = match meter.on_disk(|| self.lane.reader.open(index)) {
            Ok(file) => file,
            Err(e) => return Ok(Err(e)),
        };
        file.seek(offset);
        self.chunks.begin();
        let mut left = file.size().saturating_sub(offset);
        #[cfg(feature = "test-hooks")]
        let mut offset = offset;
        while left > 0 {
            let most = left.min(self.lane.chunk as u64);
            let (want, is_hole) =
                if self.lane.sends_holes { meter.on_disk(|| file.next_piece(most)) } else { (most, false) };
            left -= want;
            if is_hole {
                file.skip(want);
                // SPEC 8.2-3: hashing takes its time and moves next to nothing
                meter.on_disk(|| hash.iter_mut().for_each(|hash| hash.update_zeros(want)));
                #[cfg(feature = "test-hooks")]
                {
                    offset += want;
                }
                self.hole(want);
                self.flush_if_full()?;
                continue;
            }
            let want = want as usize;
            let header = self.buffer.len();
            self.buffer.put_with(|out| codec::put_chunk_header(u32::try_from(want).unwrap_or(u32::MAX), out));
            let content = self.buffer.space(want);
            match meter.on_disk(|| file.read(content)) {
                Ok(n) if n == want => {}
                Ok(_) => {
                    // the reader gives the declared bytes or an error: what is missing here, the importer misses too
                    self.buffer.truncate(header);
                    break;
                }
                Err(e) => {
                    self.buffer.truncate(header);
                    return Ok(Err(e));
                }
            }
            if let Some(hash) = &mut hash {
                hash.update(self.buffer.tail(header + FRAME_HEADER));
            }
            #[cfg(feature = "test-hooks")]
            {
                self.lane.faults.corrupt(index, offset, self.buffer.tail(header + FRAME_HEADER));
                offset += want as u64;
            }
            self.pack_last(header);
            self.flush_if_full()?;
        }
        let Some(hash) = hash else { return Ok(meter.on_disk(|| file.finish()).map(|()| None)) };
        let sha256 = hash.finish();
        let finished = meter.on_disk(|| file.finish_hashed(sha256));
        Ok(finished.map(|fresh| {
            self.fresh.extend(fresh);
            Some(sha256)
        }))
    }

    /// The next bytes of the file are a hole; it is no longer than a chunk.
    fn hole(&mut self, len: u64) {
        self.buffer.put(&Frame::FileZeros(FileZeros { len: u32::try_from(len).unwrap_or(u32::MAX) }));
        self.chunk_frames += 1;
        self.bytes += len;
        self.holes += len;
    }

    /// Puts the packed form of the chunk at the end of the buffer in its place, if it has one.
    fn pack_last(&mut self, header: usize) {
        let content = &*self.buffer.tail(header + FRAME_HEADER);
        let len = content.len();
        self.bytes += len as u64;
        self.chunk_frames += 1;
        self.wire += match self.chunks.pack(content) {
            Some(zstd) => {
                let frame = |len| u32::try_from(len).unwrap_or(u32::MAX);
                self.buffer.truncate(header);
                self.buffer.put_with(|out| codec::put_packed_header(frame(len), frame(zstd.len()), out));
                self.buffer.extend(zstd);
                PACKED_HEADER + zstd.len()
            }
            None => len,
        } as u64;
    }

    fn declared(&self, index: EntryIndex) -> Option<(u64, Option<Digest>)> {
        match self.lane.manifest.entry(index)?.node {
            Node::File { size, sha256 } => Some((size, sha256)),
            Node::Dir | Node::Symlink { .. } => None,
        }
    }

    fn flush_if_full(&mut self) -> Result<(), Gone> {
        if self.buffer.len() >= BATCH || self.bytes >= BATCH_CONTENT { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Some(keeper) = &self.lane.keeper {
            keeper.keep(&self.fresh);
        }
        self.fresh.clear();
        let mut next = self.unused.try_recv().unwrap_or_default();
        next.clear();
        let packed = Packed {
            frames: std::mem::replace(&mut self.buffer, next),
            chunks: NonZeroU32::new(std::mem::take(&mut self.chunk_frames)).filter(|_| !self.has_others),
            files: std::mem::take(&mut self.files),
            bytes: std::mem::take(&mut self.bytes),
            wire: std::mem::take(&mut self.wire),
            holes: std::mem::take(&mut self.holes),
            failed: std::mem::take(&mut self.failed),
            hashed: std::mem::take(&mut self.hashed),
        };
        self.has_others = false;
        match self.batches.try_send(packed) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(packed)) => {
                self.lane.meter.flow.held(|| self.batches.blocking_send(packed).map_err(|_| Gone))
            }
            Err(TrySendError::Closed(_)) => Err(Gone),
        }
    }
}

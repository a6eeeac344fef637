//! Strands (SPEC §5.11): a second stream for the chunks of a lane, over another connection.
//!
//! A large file is on one lane, and a lane is on one connection, which over a long path does not fill the line. The
//! lane keeps the order: where a chunk went to the strand, it carries a `file_strand` instead.

use std::num::NonZeroU32;

use bytes::BytesMut;
use me_sync_protocol::codec::{self, FrameError};
use me_sync_protocol::file::Violation;
use me_sync_protocol::frame::{FileStrand, Frame};
use me_sync_protocol::reason::Code;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::LaneEvent;
use super::outbound::{BatchWriter, Ended, Packed};
use super::recv_lane::malformed;
use crate::link::{ByteStream, FrameReader, LinkError};

/// Batches that wait for a strand at the exporter: enough for it to go on while the lane's own stream takes one.
pub(super) const STRAND_QUEUE: usize = 4;
/// Chunks that wait at the importer until the lane names them: a slower lane must not hold up its strand at once.
pub(crate) const STRAND_AHEAD: usize = 16;

/// What comes from a strand to its lane.
#[derive(Debug)]
pub(crate) enum StrandNews {
    /// There is one.
    Opened,
    /// A frame came on it.
    Frame(Frame),
    /// What came on it is no frame.
    Malformed(FrameError),
}

/// Reads a strand until it ends. No further than its lane takes the chunks.
pub(crate) async fn receive(
    mut frames: FrameReader<ByteStream>,
    lane: mpsc::Sender<StrandNews>,
    stop: CancellationToken,
) {
    let reading = async {
        loop {
            let news = match frames.next().await {
                Ok(Some(frame)) => StrandNews::Frame(frame),
                Err(LinkError::Frame(e)) => StrandNews::Malformed(e),
                // the lane notices when it needs more
                Ok(None) | Err(LinkError::Io(_) | LinkError::Truncated) => return,
            };
            if lane.send(news).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = reading => {}
    }
}

/// The lane's end of its strand, at the importer.
#[derive(Debug)]
pub(super) struct StrandEnd {
    news: mpsc::Receiver<StrandNews>,
    is_open: bool,
}

impl StrandEnd {
    pub(super) fn new(news: mpsc::Receiver<StrandNews>) -> Self {
        Self { news, is_open: false }
    }

    /// The next chunk of those that the lane names, or what to say instead.
    pub(super) async fn next(&mut self, named: FileStrand) -> Result<Frame, LaneEvent> {
        if named.chunks == 0 {
            return Err(unexpected("no chunks on a strand"));
        }
        // its opening was told before the exporter heard of it
        self.is_open = self.is_open || matches!(self.news.try_recv(), Ok(StrandNews::Opened));
        if !self.is_open {
            return Err(unexpected("chunks on a strand that is not there"));
        }
        match self.news.recv().await {
            Some(StrandNews::Frame(chunk @ (Frame::FileChunk(_) | Frame::FilePacked(_) | Frame::FileZeros(_)))) => {
                Ok(chunk)
            }
            Some(StrandNews::Frame(_) | StrandNews::Opened) => {
                Err(unexpected("something else than chunks on a strand"))
            }
            Some(StrandNews::Malformed(e)) => Err(malformed(e)),
            None => Err(LaneEvent::Closed),
        }
    }
}

fn unexpected(what: &'static str) -> LaneEvent {
    LaneEvent::Violation(Violation { code: Code::FrameUnexpected, what })
}

/// Where a batch goes.
pub(super) enum Way {
    /// The strand has it; this goes on the lane in its place.
    Strand(BytesMut),
    /// Over the lane.
    Lane(Packed),
}

/// The lane's end of its strand, at the exporter.
#[derive(Debug)]
pub(super) struct StrandStart {
    opening: oneshot::Receiver<mpsc::Sender<Packed>>,
    batches: Option<mpsc::Sender<Packed>>,
    task: JoinHandle<()>,
}

impl StrandStart {
    /// Opens the strand in a task of its own, which then writes what it is given.
    pub(super) fn new(
        opening: impl Future<Output = Option<ByteStream>> + Send + 'static,
        writer: BatchWriter,
        stop: CancellationToken,
        release: CancellationToken,
    ) -> Self {
        let (opened, waiting) = oneshot::channel();
        let task = tokio::spawn(async move {
            let opened_stream = tokio::select! {
                () = stop.cancelled() => return,
                stream = opening => stream,
            };
            let Some(mut stream) = opened_stream else { return };
            let (batches, inbox) = mpsc::channel(STRAND_QUEUE);
            if opened.send(batches).is_err() {
                return;
            }
            let ended = tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = send(&mut stream, inbox, &writer) => ended,
            };
            if ended == Err(Ended::Broken) {
                writer.reports.send(LaneEvent::Closed).await;
            } else {
                release.cancelled().await;
            }
            // as for a lane: the peer may be gone already
            futures::AsyncWriteExt::close(&mut stream).await.ok();
        });
        Self { opening: waiting, batches: None, task }
    }

    /// Takes a batch of chunks, if there is a strand and it has room.
    pub(super) fn take(&mut self, packed: Packed) -> Way {
        let Some(chunks) = packed.chunks.map(NonZeroU32::get) else { return Way::Lane(packed) };
        if self.batches.is_none() {
            self.batches = self.opening.try_recv().ok();
        }
        match self.batches.as_ref().map(mpsc::Sender::try_reserve) {
            Some(Ok(room)) => room.send(packed),
            Some(Err(_)) | None => return Way::Lane(packed),
        }
        let mut instead = BytesMut::new();
        codec::encode(&Frame::FileStrand(FileStrand { chunks }), &mut instead);
        Way::Strand(instead)
    }

    /// Waits until what it was given is out and its stream is closed.
    pub(super) async fn close(self) {
        let Self { opening, batches, task } = self;
        drop((opening, batches));
        if let Err(e) = task.await {
            tracing::error!(error = %e, "a strand's task failed");
        }
    }
}

async fn send(stream: &mut ByteStream, mut inbox: mpsc::Receiver<Packed>, writer: &BatchWriter) -> Result<(), Ended> {
    while let Some(packed) = inbox.recv().await {
        writer.put(stream, packed, inbox.is_empty()).await?;
    }
    Ok(())
}

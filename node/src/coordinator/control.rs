//! The control stream of one session: one task reads and writes it, so that the stream is never split
//! between tasks.

use std::sync::Arc;
use std::time::Duration;

use futures::AsyncReadExt;
use me_sync_protocol::frame::{Ack, Frame};
use me_sync_protocol::reason::Code;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Event, JobEvent};
use crate::api::JobId;
use crate::link::{ByteStream, FrameReader, FrameWriter, LinkError};

/// Frames waiting to be written.
const QUEUE: usize = 8;
/// How long the last frames may take to reach the peer once the session is over.
const LINGER: Duration = Duration::from_secs(4);

/// What happens on a control stream.
#[derive(Debug)]
pub(super) enum ControlEvent {
    Frame(Frame),
    /// There is room for a frame again.
    Room,
    /// The peer closed it, or it broke.
    Closed,
    /// It carried something that is no frame.
    Violation(Code),
}

/// The coordinator's end of a control stream.
#[derive(Debug)]
pub(super) struct ControlLink {
    queue: mpsc::Sender<Frame>,
    task: JoinHandle<bool>,
}

impl ControlLink {
    /// `conversation` tells the events of this stream from those of the session's earlier ones.
    pub(super) fn spawn(job: JobId, conversation: u32, stream: ByteStream, events: mpsc::Sender<Event>) -> Self {
        let (queue, outbox) = mpsc::channel(QUEUE);
        let task = tokio::spawn(run(Origin { job, conversation, events }, stream, outbox));
        Self { queue, task }
    }

    /// Is there room for one more frame?
    pub(super) fn has_room(&self) -> bool {
        self.queue.capacity() > 0
    }

    /// Queues a frame. The caller has asked [`Self::has_room`]; on a link that broke the frame is lost, which
    /// the link itself reports.
    pub(super) fn send(&self, frame: Frame) {
        if let Err(e) = self.queue.try_send(frame) {
            tracing::debug!(error = %e, "a control frame was not sent");
        }
    }

    /// Lets what is queued go out, then closes. The handle ends when that is done or hopeless, and tells whether
    /// the peer acknowledged the result (SPEC §5.7-7). Its end of the stream says nothing: a yamux connection that
    /// breaks ends its streams in the same way.
    pub(super) fn close(self) -> JoinHandle<bool> {
        self.task
    }

    /// Drops the stream and what is queued.
    pub(super) fn cut(self) {
        self.task.abort();
    }
}

struct Origin {
    job: JobId,
    conversation: u32,
    events: mpsc::Sender<Event>,
}

impl Origin {
    /// False if the coordinator is gone; then nobody needs the news.
    async fn tell(&self, event: ControlEvent) -> bool {
        self.events.send(Event::Job(self.job, JobEvent::Control(self.conversation, event))).await.is_ok()
    }
}

async fn run(origin: Origin, stream: ByteStream, mut outbox: mpsc::Receiver<Frame>) -> bool {
    let (input, output) = stream.split();
    let mut reader = FrameReader::new(input, Arc::default());
    let mut writer = FrameWriter::new(output);
    let writing = async {
        while let Some(frame) = outbox.recv().await {
            tracing::trace!(frame = frame.name(), "sending");
            if writer.send(&frame).await.is_err() {
                return;
            }
            // wakes a coordinator that stopped because the queue was full
            origin.tell(ControlEvent::Room).await;
        }
        // the peer may have closed first
        writer.close().await.ok();
    };
    let reading = async {
        let mut acknowledged = false;
        let last = loop {
            match reader.next().await {
                Ok(Some(frame)) => {
                    tracing::trace!(frame = frame.name(), "received");
                    acknowledged |= matches!(frame, Frame::Ack(Ack { refused: None }));
                    if !origin.tell(ControlEvent::Frame(frame)).await {
                        return false;
                    }
                }
                Ok(None) | Err(LinkError::Io(_) | LinkError::Truncated) => break ControlEvent::Closed,
                Err(LinkError::Frame(e)) => break ControlEvent::Violation(e.code()),
            }
        };
        origin.tell(last).await;
        acknowledged
    };
    tokio::pin!(writing, reading);
    tokio::select! {
        () = &mut writing => {
            // our last frames are on their way; the peer answers them
            tokio::time::timeout(LINGER, reading).await.unwrap_or(false)
        }
        acknowledged = &mut reading => {
            tokio::time::timeout(LINGER, writing).await.ok();
            acknowledged
        }
    }
}

/// Violations of the frame layer as the code that ends the session.
pub(super) fn violation(code: Code) -> me_sync_protocol::file::Violation {
    me_sync_protocol::file::Violation { code, what: "a malformed frame on the control stream" }
}

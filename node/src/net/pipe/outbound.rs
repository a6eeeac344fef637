//! What goes onto a pipe: whole frames, from whoever has some.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use me_sync_protocol::codec;
use me_sync_protocol::frame::Frame;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf};
use tokio::sync::mpsc;

/// How much is read from a stream at once.
const READ_SIZE: usize = 256 << 10;

/// Something for the pipe.
#[derive(Debug)]
pub(super) enum Out {
    /// One or more whole frames.
    Frames(Bytes),
    /// Nothing more comes.
    End,
}

impl Out {
    pub(super) fn frame(frame: &Frame) -> Self {
        let mut bytes = BytesMut::new();
        codec::encode(frame, &mut bytes);
        Self::Frames(bytes.freeze())
    }
}

/// Writes until the end, and closes.
pub(super) async fn write(mut io: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Out>) -> io::Result<()> {
    while let Some(Out::Frames(frames)) = queue.recv().await {
        io.write_all(&frames).await?;
        if queue.is_empty() {
            io.flush().await?;
        }
    }
    io.shutdown().await
}

/// A stream above, as whole frames.
struct Source {
    stream: ReadHalf<DuplexStream>,
    buffer: BytesMut,
}

impl Source {
    fn new(stream: ReadHalf<DuplexStream>) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Some frames, cut where others may have a word in between; none at the end. Cancel-safe.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.buffer.reserve(READ_SIZE);
            // what breaks here is our own stream, whose owner has let it go
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap_or(0);
            let mut whole = 0;
            while let Ok(Some((_, len))) = codec::whole(&self.buffer[whole..]) {
                whole += len;
            }
            match (whole, read) {
                (0, 0) => return None,
                (0, _) => {}
                _ => return Some(self.buffer.split_to(whole).freeze()),
            }
        }
    }

    /// What is there already.
    fn at_once(&mut self) -> Option<Bytes> {
        // a budget that is used up is no reason to say that there is nothing
        tokio::task::unconstrained(self.next()).now_or_never().flatten()
    }
}

/// Passes on what control stream and lane say, until the former ends. A control frame comes behind what was on the lane before
/// it: on the pipe the end of a round follows its files.
pub(super) async fn forward(
    control: ReadHalf<DuplexStream>,
    mut lanes: mpsc::Receiver<ReadHalf<DuplexStream>>,
    to: mpsc::Sender<Out>,
) {
    let (mut control, mut lane) = (Source::new(control), None::<Source>);
    loop {
        let frames = tokio::select! {
            Some(opened) = lanes.recv(), if lane.is_none() => {
                lane = Some(Source::new(opened));
                continue;
            }
            frames = async { lane.as_mut()?.next().await }, if lane.is_some() => match frames {
                Some(frames) => frames,
                None => {
                    lane = None;
                    continue;
                }
            },
            frames = control.next() => {
                let Some(frames) = frames else { return };
                if lane.is_none() {
                    lane = lanes.try_recv().ok().map(Source::new);
                }
                while let Some(first) = lane.as_mut().and_then(Source::at_once) {
                    if to.send(Out::Frames(first)).await.is_err() {
                        return;
                    }
                }
                frames
            }
        };
        if to.send(Out::Frames(frames)).await.is_err() {
            return;
        }
    }
}

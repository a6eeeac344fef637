//! What goes onto a pipe: whole frames, from whoever has some.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use me_sync_protocol::codec::{self, Edge};
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

    /// Some frames, cut where others may have a word in between, and before and behind one that has its place among the files
    /// of a round; none at the end. Cancel-safe.
    async fn next(&mut self) -> Option<(Bytes, Option<Edge>)> {
        loop {
            if let Some(run) = self.run() {
                return Some(run);
            }
            self.buffer.reserve(READ_SIZE);
            // what breaks here is our own stream, whose owner has let it go
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// What is in the buffer of that.
    fn run(&mut self) -> Option<(Bytes, Option<Edge>)> {
        let mut len = 0;
        while let Some(rest) = self.buffer.get(len..)
            && let Ok(Some((_, one))) = codec::whole(rest)
        {
            match codec::edge(rest) {
                None => len += one,
                Some(edge) if edge == Edge::Begins || len == 0 => {
                    return Some((self.buffer.split_to(len + one).freeze(), Some(edge)));
                }
                Some(_) => break,
            }
        }
        (len > 0).then(|| (self.buffer.split_to(len).freeze(), None))
    }

    /// What is there already.
    fn at_once(&mut self) -> Option<Bytes> {
        // a budget that is used up is no reason to say that there is nothing
        tokio::task::unconstrained(self.next()).now_or_never().flatten().map(|(frames, _)| frames)
    }
}

/// Passes on what control stream and lane say, until the former ends. A control frame comes behind what was on the lane before
/// it, and the files of a retry round behind the frame that begins it.
// SPEC §5.13
pub(super) async fn forward(
    control: ReadHalf<DuplexStream>,
    mut lanes: mpsc::Receiver<ReadHalf<DuplexStream>>,
    to: mpsc::Sender<Out>,
) {
    let (mut control, mut lane) = (Source::new(control), None::<Source>);
    // a round has ended and none has begun since: what is on the lane belongs to the next
    let mut waits = false;
    loop {
        let frames = tokio::select! {
            Some(opened) = lanes.recv(), if lane.is_none() => {
                lane = Some(Source::new(opened));
                continue;
            }
            frames = async { lane.as_mut()?.next().await }, if lane.is_some() && !waits => match frames {
                Some((frames, _)) => frames,
                None => {
                    lane = None;
                    continue;
                }
            },
            frames = control.next() => {
                let Some((frames, edge)) = frames else { return };
                if lane.is_none() {
                    lane = lanes.try_recv().ok().map(Source::new);
                }
                while let Some(first) = lane.as_mut().filter(|_| !waits).and_then(Source::at_once) {
                    if to.send(Out::Frames(first)).await.is_err() {
                        return;
                    }
                }
                waits = edge.map_or(waits, |edge| edge == Edge::Ends);
                frames
            }
        };
        if to.send(Out::Frames(frames)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use me_sync_protocol::frame::{FileEnd, PendingRequest, PhaseEnd, RetryBegin, RetryEnd};
    use me_sync_protocol::ids::EntryIndex;
    use tokio::io::{WriteHalf, duplex, split};

    use super::*;

    fn end(index: u32) -> Frame {
        Frame::FileEnd(FileEnd { index: EntryIndex(index), failed: None, sha256: None })
    }

    async fn say(to: &mut WriteHalf<DuplexStream>, frames: &[Frame]) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| codec::encode(frame, &mut bytes));
        to.write_all(&bytes).await.unwrap();
    }

    /// The kinds of frames up to one of that kind.
    async fn until(queue: &mut mpsc::Receiver<Out>, last: u8) -> Vec<u8> {
        let mut kinds = Vec::new();
        while !kinds.contains(&last) {
            let Some(Out::Frames(frames)) = queue.recv().await else { panic!("it ended") };
            let mut rest = &frames[..];
            while let Ok(Some((_, len))) = codec::whole(rest) {
                kinds.push(rest[0]);
                rest = &rest[len..];
            }
        }
        kinds
    }

    // SPEC §5.13
    #[tokio::test]
    async fn the_files_of_a_round_stand_between_its_beginning_and_its_end_whoever_speaks_first() {
        let ((near_control, far_control), (near_lane, far_lane)) = (duplex(1 << 16), duplex(1 << 16));
        let ((control, _), (_, mut says)) = (split(near_control), split(far_control));
        let ((lane, _), (_, mut sends)) = (split(near_lane), split(far_lane));
        let (to, mut queue) = mpsc::channel(64);
        let (open, lanes) = mpsc::channel(1);
        open.send(lane).await.unwrap();
        let forwarding = tokio::spawn(forward(control, lanes, to));
        say(&mut sends, &[end(0), end(1)]).await;
        say(&mut says, &[Frame::PhaseEnd(PhaseEnd { files: 2, bytes: 0 })]).await;
        assert_eq!(until(&mut queue, 0x30).await, [0x22, 0x22, 0x30]);
        for round in [1, 2] {
            // the lane first, and both ends of the round in one piece
            say(&mut sends, &[end(0)]).await;
            tokio::task::yield_now().await;
            let other = Frame::PendingRequest(PendingRequest {});
            let begin = Frame::RetryBegin(RetryBegin { round, files: 1 });
            let over = Frame::RetryEnd(RetryEnd { round, files: 1, bytes: 0 });
            say(&mut says, &[other.clone(), begin, other, over]).await;
            let kinds = until(&mut queue, 0x33).await;
            let order: Vec<_> = kinds.into_iter().filter(|kind| *kind != 0x40).collect();
            assert_eq!(order, [0x32, 0x22, 0x33]);
        }
        drop((says, sends));
        forwarding.await.unwrap();
    }
}

//! A libp2p stream as frames (SPEC §5.1). Reading is cancel-safe: bytes that arrived stay in the buffer.

mod byte_stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use bytes::{Buf, Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use me_sync_protocol::codec::{self, FrameError};
use me_sync_protocol::frame::Frame;
use me_sync_protocol::limits::FRAME_HEADER;

pub use self::byte_stream::ByteStream;

use crate::limit::Throttle;

/// How much a reader asks for at once.
const READ_SIZE: usize = 256 << 10;
/// How much it asks for where the next frame is likely to be a large chunk, which is not read into the common buffer: its
/// header, or the end of a file and the beginning of another.
const PEEK: usize = 128;
/// Chunks from this size on are read into memory of their own, …
const LARGE: usize = 64 << 10;
/// … of which so many pieces are kept for the next ones.
const KEPT: usize = 8;
/// A batch of frames ends when they stand for this much content: what was read at once may unpack to gigabytes, and
/// whoever takes a batch works it off before it stops.
const BATCH_CONTENT: usize = 1 << 20;

/// Why a link gives no more frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The transport broke.
    #[error("the stream broke")]
    Io(#[from] std::io::Error),
    /// The peer sent something that is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// Reads exactly one frame and not a byte more, for a stream that serves another purpose afterwards.
pub(crate) async fn read_one(io: &mut (impl AsyncRead + Unpin)) -> Result<Frame, LinkError> {
    let mut buffer = BytesMut::new();
    loop {
        let have = buffer.len();
        buffer.resize(codec::needed(&buffer)?, 0);
        io.read_exact(&mut buffer[have..]).await?;
        if let Some(frame) = codec::decode(&mut buffer)? {
            return Ok(frame);
        }
    }
}

/// The reading half of a link.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    /// Counts raw bytes as they come, so that one slow large frame counts as progress.
    moved: Arc<AtomicU64>,
    throttle: Throttle,
    /// Bytes that were read and that the limits have not been asked for yet.
    owed: usize,
    /// A large chunk that is not whole yet.
    chunk: Option<Chunk>,
    /// The last frame was one.
    is_large: bool,
    /// Memory of chunks that are done with comes back here.
    used: std::sync::mpsc::Receiver<Vec<u8>>,
    home: SyncSender<Vec<u8>>,
}

/// Content on its way into memory of its own: cleared once, then used again and again.
#[derive(Debug)]
struct Chunk {
    memory: Vec<u8>,
    have: usize,
    len: usize,
}

/// Whole content. Its memory goes home when the last of those who share it lets go.
struct Lent {
    memory: Vec<u8>,
    len: usize,
    home: SyncSender<Vec<u8>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // too many pieces, or a reader that is gone: it is freed
        self.home.try_send(std::mem::take(&mut self.memory)).ok();
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads as fast as bytes come.
    pub(crate) fn new(io: R, moved: Arc<AtomicU64>) -> Self {
        Self::limited(io, moved, Throttle::default())
    }

    /// Reads no faster than the limits allow; what is not read holds the peer back.
    pub(crate) fn limited(io: R, moved: Arc<AtomicU64>, throttle: Throttle) -> Self {
        let (home, used) = std::sync::mpsc::sync_channel(KEPT);
        Self { io, buffer: BytesMut::new(), moved, throttle, owed: 0, chunk: None, is_large: false, used, home }
    }

    /// The next frame; none at the end of the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// All frames that are whole, after at least one more read if there are none yet, up to a bound on their content;
    /// empty at the end of the stream. Cancel-safe.
    pub(crate) async fn next_batch(&mut self) -> Result<Vec<Frame>, LinkError> {
        let mut batch = Vec::new();
        let mut content = 0;
        loop {
            while content < BATCH_CONTENT
                && let Some(frame) = self.take()?
            {
                content += content_of(&frame);
                batch.push(frame);
            }
            if !batch.is_empty() || !self.fill().await? {
                return Ok(batch);
            }
        }
    }

    /// The next frame, if it is whole.
    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        match self.chunk.take_if(|chunk| chunk.have == chunk.len) {
            Some(Chunk { memory, len, .. }) => {
                self.is_large = true;
                let lent = Lent { memory, len, home: self.home.clone() };
                return Ok(Some(Frame::FileChunk(Bytes::from_owner(lent))));
            }
            None if self.chunk.is_some() => return Ok(None),
            None => {}
        }
        let frame = codec::decode(&mut self.buffer)?;
        if frame.is_some() {
            self.is_large = false;
        } else if let Some(len) = codec::chunk_length(&self.buffer)?.filter(|len| *len >= LARGE) {
            self.buffer.advance(FRAME_HEADER);
            let mut memory = self.used.try_recv().unwrap_or_default();
            if memory.len() < len {
                memory.resize(len, 0);
            }
            let have = self.buffer.len();
            memory[..have].copy_from_slice(&self.buffer);
            self.buffer.clear();
            self.chunk = Some(Chunk { memory, have, len });
        }
        Ok(frame)
    }

    /// Reads once; false at a clean end.
    async fn fill(&mut self) -> Result<bool, LinkError> {
        self.throttle.pass(self.owed).await;
        self.owed = 0;
        let have = self.buffer.len();
        let is_inside = have > 0 || self.chunk.is_some();
        let read = if let Some(chunk) = &mut self.chunk {
            let until = chunk.len.min(chunk.have.saturating_add(self.throttle.piece()));
            let n = self.io.read(&mut chunk.memory[chunk.have..until]).await?;
            chunk.have += n;
            n
        } else {
            let ahead = if self.is_large { PEEK } else { READ_SIZE };
            let want = codec::needed(&self.buffer)?.max(have + 1).max(ahead);
            let want = want.min(have.saturating_add(self.throttle.piece()));
            self.buffer.resize(want, 0);
            ReadInto { io: &mut self.io, buffer: &mut self.buffer, have }.read().await?
        };
        match read {
            0 if !is_inside => Ok(false),
            0 => Err(LinkError::Truncated),
            n => {
                self.moved.fetch_add(n as u64, Ordering::Relaxed);
                self.owed = n;
                Ok(true)
            }
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only these carry content")]
fn content_of(frame: &Frame) -> usize {
    match frame {
        Frame::FileChunk(bytes) => bytes.len(),
        Frame::FilePacked(packed) => packed.unpacked() as usize,
        Frame::FileZeros(zeros) => zeros.len as usize,
        _ => 0,
    }
}

/// One read behind what the buffer has already; cuts the buffer back to what is there even when it is cancelled.
struct ReadInto<'a, R> {
    io: &'a mut R,
    buffer: &'a mut BytesMut,
    have: usize,
}

impl<R: AsyncRead + Unpin> ReadInto<'_, R> {
    async fn read(mut self) -> std::io::Result<usize> {
        let n = self.io.read(&mut self.buffer[self.have..]).await?;
        self.have += n;
        Ok(n)
    }
}

impl<R> Drop for ReadInto<'_, R> {
    fn drop(&mut self) {
        self.buffer.truncate(self.have);
    }
}

/// Writes frames; small ones are gathered by the caller.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    io: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(crate) fn new(io: W) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// Writes one frame and flushes.
    pub(crate) async fn send(&mut self, frame: &Frame) -> std::io::Result<()> {
        self.buffer.clear();
        codec::encode(frame, &mut self.buffer);
        self.io.write_all(&self.buffer).await?;
        self.io.flush().await
    }

    /// Says that nothing more comes.
    pub(crate) async fn close(&mut self) -> std::io::Result<()> {
        self.io.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use me_sync_protocol::frame::{Abort, FileZeros, PendingRequest};
    use me_sync_protocol::packed::Packed;
    use me_sync_protocol::reason::Code;

    fn bytes(frames: &[Frame]) -> Vec<u8> {
        let mut out = BytesMut::new();
        frames.iter().for_each(|f| codec::encode(f, &mut out));
        out.to_vec()
    }

    fn reader(raw: Vec<u8>) -> FrameReader<Cursor<Vec<u8>>> {
        FrameReader::new(Cursor::new(raw), Arc::default())
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_and_then_the_end() {
        let frames = [Frame::PendingRequest(PendingRequest {}), Frame::Abort(Abort { code: Code::Aborted })];
        let mut link = reader(bytes(&frames));
        assert_eq!(link.next().await.unwrap(), Some(frames[0].clone()));
        assert_eq!(link.next().await.unwrap(), Some(frames[1].clone()));
        assert_eq!(link.next().await.unwrap(), None);
        assert_eq!(reader(bytes(&frames)).next_batch().await.unwrap(), frames);
    }

    #[tokio::test]
    async fn one_frame_is_read_without_a_byte_of_the_next() {
        let frames = [Frame::PendingRequest(PendingRequest {}), Frame::Abort(Abort { code: Code::Aborted })];
        let mut io = Cursor::new(bytes(&frames));
        assert_eq!(read_one(&mut io).await.unwrap(), frames[0]);
        assert_eq!(read_one(&mut io).await.unwrap(), frames[1]);
        assert!(read_one(&mut io).await.is_err());
    }

    // SPEC §5.4: what waits between the two halves of a lane is bounded by its content, too
    #[tokio::test]
    async fn a_batch_stands_for_a_bounded_amount_of_content() {
        // 256 KiB of the letter a
        let zstd = b"\x28\xb5\x2f\xfd\xa0\x00\x00\x04\x00\x02\x00\x10a\x03\x00\x10a";
        let packed = Packed::new(256 << 10, zstd[..].into()).unwrap();
        let hole = Frame::FileZeros(FileZeros { len: 256 << 10 });
        let frames = [vec![Frame::FilePacked(packed); 1001], vec![hole; 1001]].concat();
        let mut link = reader(bytes(&frames));
        let mut got = 0;
        loop {
            let batch = link.next_batch().await.unwrap();
            assert!(batch.len() <= 4, "{}", batch.len());
            got += batch.len();
            if batch.is_empty() {
                break;
            }
        }
        assert_eq!(got, frames.len());
    }

    fn chunk(len: usize) -> Frame {
        Frame::FileChunk((0..len).map(|n| (n % 251) as u8).collect::<Vec<_>>().into())
    }

    #[tokio::test]
    async fn large_chunks_come_out_whole_between_small_frames_however_they_are_cut() {
        let small = Frame::Abort(Abort { code: Code::Aborted });
        let frames = [chunk(LARGE), small.clone(), chunk(1 << 20), chunk(LARGE + 7), chunk(3), small, chunk(LARGE)];
        let raw = bytes(&frames);
        for piece in [1 << 10, 65_537, 300_000, 8 << 20] {
            let (mut near, far) = tokio::io::duplex(piece);
            let far = tokio_util::compat::TokioAsyncReadCompatExt::compat(far);
            let mut link = FrameReader::new(far, Arc::default());
            let write = async {
                tokio::io::AsyncWriteExt::write_all(&mut near, &raw).await.unwrap();
                drop(near);
            };
            let read = async {
                let mut got = Vec::new();
                loop {
                    let batch = link.next_batch().await.unwrap();
                    if batch.is_empty() {
                        return got;
                    }
                    got.extend(batch);
                }
            };
            let (got, ()) = futures::future::join(read, write).await;
            assert!(got == frames, "cut to {piece}");
        }
    }

    #[tokio::test]
    async fn the_memory_of_a_chunk_is_used_again_and_never_while_somebody_has_it() {
        let mut link = reader(bytes(&vec![chunk(1 << 20); 4]));
        let first = link.next().await.unwrap().unwrap();
        let content = chunk_content(&first).clone();
        let at = content.as_ptr();
        let second = link.next().await.unwrap().unwrap();
        assert_ne!(chunk_content(&second).as_ptr(), at);
        let shared = content.slice(10..20);
        drop((first, content));
        let third = link.next().await.unwrap();
        assert_eq!(shared, chunk_content(&second).slice(10..20));
        drop((shared, third));
        let fourth = link.next().await.unwrap().unwrap();
        assert_eq!(chunk_content(&fourth).as_ptr(), at);
    }

    fn chunk_content(frame: &Frame) -> &Bytes {
        let Frame::FileChunk(content) = frame else { panic!("{frame:?}") };
        content
    }

    #[tokio::test]
    async fn an_end_inside_a_large_chunk_is_an_error() {
        for cut in [1, LARGE, LARGE - 1] {
            let mut raw = bytes(&[chunk(LARGE)]);
            raw.truncate(raw.len() - cut);
            assert!(matches!(reader(raw).next().await, Err(LinkError::Truncated)), "{cut} bytes short");
        }
    }

    #[tokio::test]
    async fn an_end_inside_a_frame_is_an_error() {
        let mut raw = bytes(&[Frame::Abort(Abort { code: Code::Aborted })]);
        raw.pop();
        assert!(matches!(reader(raw).next().await, Err(LinkError::Truncated)));
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (mut near, far) = tokio::io::duplex(64);
        let far = tokio_util::compat::TokioAsyncReadCompatExt::compat(far);
        let mut link = FrameReader::new(far, Arc::default());
        let raw = bytes(&[Frame::Abort(Abort { code: Code::Aborted })]);
        for byte in &raw[..raw.len() - 1] {
            tokio::io::AsyncWriteExt::write_all(&mut near, &[*byte]).await.unwrap();
            // polled once, then dropped
            assert!(futures::FutureExt::now_or_never(link.next()).is_none());
        }
        tokio::io::AsyncWriteExt::write_all(&mut near, &raw[raw.len() - 1..]).await.unwrap();
        assert_eq!(link.next().await.unwrap(), Some(Frame::Abort(Abort { code: Code::Aborted })));
    }
}

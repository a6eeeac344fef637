//! A pipe for applications that carry frames, not bytes: the seed's `receiveFrame` and `sendFrame`.

use bytes::{Bytes, BytesMut};
use me_sync_protocol::codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::PipeError;

/// What either direction may hold; the largest frame fits in.
const BUFFER: usize = 2 << 20;
/// How much is read at once.
const READ_SIZE: usize = 256 << 10;

/// Frames that came from the other device.
#[derive(Debug)]
pub struct FramesIn(WriteHalf<DuplexStream>);

/// Frames that the other device is to get.
#[derive(Debug)]
pub struct FramesOut {
    io: ReadHalf<DuplexStream>,
    buffer: BytesMut,
}

/// A pipe for [`crate::NodeHandle::attach_pipe`] whose other end is this pair: what the application receives goes into the one,
/// what it has to send comes out of the other. Both hold back: nothing is buffered without bound.
pub fn frame_pipe() -> (DuplexStream, FramesIn, FramesOut) {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (io, inward) = tokio::io::split(far);
    (near, FramesIn(inward), FramesOut { io, buffer: BytesMut::new() })
}

impl FramesIn {
    /// Hands over one whole frame that arrived; waits while the node is busy with those before.
    ///
    /// # Errors
    /// It is not one frame, or the node has let go of the pipe.
    pub async fn receive_frame(&mut self, frame: &[u8]) -> Result<(), PipeError> {
        let is_one = codec::whole(frame).map_err(|e| PipeError::Violation(e.code()))?.map(|(_, len)| len);
        if is_one != Some(frame.len()) {
            return Err(PipeError::Violation(me_sync_protocol::reason::Code::FrameUnknown));
        }
        Ok(self.0.write_all(frame).await?)
    }

    /// The other device says nothing more.
    ///
    /// # Errors
    /// The node has let go of the pipe.
    pub async fn end(mut self) -> Result<(), PipeError> {
        Ok(self.0.shutdown().await?)
    }
}

impl FramesOut {
    /// The next frame for the other device; none when there will be no more. Cancel-safe.
    ///
    /// # Errors
    /// The node has let go of the pipe in the middle of a frame.
    pub async fn send_frame(&mut self) -> Result<Option<Bytes>, PipeError> {
        loop {
            let whole = codec::whole(&self.buffer).map_err(|e| PipeError::Violation(e.code()))?;
            if let Some((_, len)) = whole {
                return Ok(Some(self.buffer.split_to(len).freeze()));
            }
            self.buffer.reserve(READ_SIZE);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(PipeError::Broken(std::io::ErrorKind::UnexpectedEof.into())),
                };
            }
        }
    }
}

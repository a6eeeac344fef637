//! Memory for what goes out on a lane: cleared once, then used again and again.
//!
//! A file is read straight into it, behind the header of its chunk. As the memory is never given back in between, a chunk
//! costs neither an allocation nor the clearing of what the next read overwrites.

use bytes::BytesMut;
use me_sync_protocol::codec;
use me_sync_protocol::frame::Frame;

/// Encoded frames, in order.
#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    /// All of it is initialised; what counts is the beginning.
    memory: Vec<u8>,
    len: usize,
    /// Where a frame is encoded before it is put behind the others.
    frame: BytesMut,
}

impl SendBuffer {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// Forgets what is there and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Cuts it to this length.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn put(&mut self, frame: &Frame) {
        self.put_with(|out| codec::encode(frame, out));
    }

    /// Puts what `encode` writes behind the rest.
    pub(super) fn put_with(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let mut frame = std::mem::take(&mut self.frame);
        encode(&mut frame);
        self.extend(&frame);
        frame.clear();
        self.frame = frame;
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
    }

    /// The next `len` bytes, to be overwritten: what is in them is of earlier use.
    pub(super) fn space(&mut self, len: usize) -> &mut [u8] {
        let from = self.len;
        self.len += len;
        if self.memory.len() < self.len {
            self.memory.resize(self.len, 0);
        }
        &mut self.memory[from..self.len]
    }

    /// What lies behind `from`.
    pub(super) fn tail(&mut self, from: usize) -> &mut [u8] {
        &mut self.memory[from..self.len]
    }
}

#[cfg(test)]
mod tests {
    use me_sync_protocol::frame::PendingRequest;

    use super::*;

    #[test]
    fn what_was_there_before_never_goes_out_again() {
        let mut buffer = SendBuffer::default();
        buffer.extend(b"something long of an earlier use");
        buffer.clear();
        assert!(buffer.is_empty());
        buffer.extend(b"new");
        buffer.space(2).copy_from_slice(b"er");
        assert_eq!(buffer.as_slice(), b"newer");
        buffer.truncate(3);
        assert_eq!((buffer.as_slice(), buffer.len()), (&b"new"[..], 3));
        buffer.tail(1).copy_from_slice(b"o!");
        assert_eq!(buffer.as_slice(), b"no!");
    }

    #[test]
    fn frames_stand_as_the_codec_writes_them() {
        let frame = Frame::PendingRequest(PendingRequest {});
        let mut expected = BytesMut::new();
        let mut buffer = SendBuffer::default();
        for _ in 0..2 {
            codec::encode(&frame, &mut expected);
            buffer.put(&frame);
        }
        assert_eq!(buffer.as_slice(), &expected[..]);
    }
}

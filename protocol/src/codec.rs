//! Frames to bytes and back (SPEC §5.1): `u8 type, u8 flags, u16 0, u32 length`, big-endian, then the body.
//!
//! The decoder is incremental and allocates nothing for a length that was only declared. A CBOR body must
//! be the one deterministic encoding of its content: it is re-encoded and compared.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use minicbor::{Decode, Encode};

use crate::frame::Frame;
use crate::limits::{FRAME_HEADER, MAX_CHUNK, MAX_CONTROL_FRAME, MAX_LIST};
use crate::packed::{PACKED_HEADER, Packed};
use crate::reason::Code;

/// Bytes that are not a frame. The stream they came on is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A body longer than its type may have.
    #[error("a frame of type {kind:#04x} declares {length} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Frame type.
        kind: u8,
        /// Declared body length.
        length: u32,
        /// The limit.
        limit: usize,
    },
    /// A type this version does not know.
    #[error("unknown frame type {kind:#04x}")]
    UnknownType {
        /// Frame type.
        kind: u8,
    },
    /// Flags or reserved bits that are not zero.
    #[error("reserved bits are set in the header of a frame of type {kind:#04x}")]
    Reserved {
        /// Frame type.
        kind: u8,
    },
    /// A body that is not the deterministic encoding of that frame.
    #[error("the body of a frame of type {kind:#04x} is malformed")]
    Malformed {
        /// Frame type.
        kind: u8,
    },
    /// A chunk without bytes.
    #[error("an empty chunk")]
    EmptyChunk,
}

impl FrameError {
    /// The stable code (SPEC §7.2).
    pub fn code(self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::FrameTooLarge,
            Self::UnknownType { .. } | Self::Reserved { .. } | Self::Malformed { .. } => Code::FrameUnknown,
            Self::EmptyChunk => Code::FrameUnexpected,
        }
    }
}

macro_rules! frame_types {
    ($($name:ident = $value:literal $kind:ident,)*) => {
        /// The type byte of a frame (SPEC §5.2).
        pub fn kind_of(frame: &Frame) -> u8 {
            match frame { $(Frame::$name(_) => $value,)* }
        }

        /// Appends a frame.
        pub fn encode(frame: &Frame, out: &mut BytesMut) {
            match frame { $(Frame::$name(body) => frame_types!(@put $kind, $value, body, out),)* }
        }

        fn limit_of(kind: u8) -> Option<usize> {
            match kind { $($value => Some(frame_types!(@limit $kind)),)* _ => None }
        }

        fn decode_body(kind: u8, body: Bytes) -> Result<Frame, FrameError> {
            match kind {
                $($value => Ok(Frame::$name(frame_types!(@take $kind, kind, body))),)*
                _ => Err(FrameError::UnknownType { kind }),
            }
        }
    };
    (@put cbor, $value:literal, $body:ident, $out:ident) => { put_cbor($value, $body, $out) };
    (@put raw, $value:literal, $body:ident, $out:ident) => { put_raw($value, $body, $out) };
    (@put header, $value:literal, $body:ident, $out:ident) => { put_raw($value, $body, $out) };
    (@put packed, $value:literal, $body:ident, $out:ident) => { put_packed($value, $body, $out) };
    (@take cbor, $kind:ident, $body:ident) => { take_cbor($kind, &$body)? };
    (@take raw, $kind:ident, $body:ident) => { take_raw($body)? };
    (@take header, $kind:ident, $body:ident) => { $body };
    (@take packed, $kind:ident, $body:ident) => {
        Packed::decode(&$body).ok_or(FrameError::Malformed { kind: $kind })?
    };
    (@limit cbor) => { MAX_CONTROL_FRAME };
    (@limit raw) => { MAX_CHUNK };
    (@limit header) => { MAX_CONTROL_FRAME };
    (@limit packed) => { MAX_CHUNK };
}

frame_types! {
    Hello = 0x01 cbor,
    Ack = 0x02 cbor,
    PipeHello = 0x03 cbor,
    PipeProof = 0x04 cbor,
    Request = 0x05 header,
    Response = 0x06 header,
    ManifestBegin = 0x10 header,
    ManifestChunk = 0x11 raw,
    ManifestEnd = 0x12 cbor,
    FileBegin = 0x20 cbor,
    FileChunk = 0x21 raw,
    FileEnd = 0x22 cbor,
    FilePacked = 0x23 packed,
    FileZeros = 0x24 cbor,
    FileStrand = 0x25 cbor,
    PhaseEnd = 0x30 cbor,
    RetryRequest = 0x31 cbor,
    RetryBegin = 0x32 cbor,
    RetryEnd = 0x33 cbor,
    PendingRequest = 0x40 cbor,
    PendingList = 0x41 cbor,
    FinalizeRequest = 0x50 cbor,
    FinalizeResult = 0x51 cbor,
    Progress = 0x60 cbor,
    Probe = 0x70 cbor,
    Abort = 0x7f cbor,
}

/// Type byte of `file_chunk`, for senders that read a file straight into the send buffer.
const FILE_CHUNK: u8 = 0x21;

/// Writes the header of a `file_chunk` whose `len` bytes the caller appends right after.
pub fn put_chunk_header(len: u32, out: &mut BytesMut) {
    put_header(FILE_CHUNK, len, out);
}

/// Type byte of `file_packed`, for senders that pack into the send buffer.
const FILE_PACKED: u8 = 0x23;

/// Writes what comes before the `len` bytes of a zstd frame in a `file_packed` whose content has `unpacked` bytes. The
/// caller appends the frame right after.
pub fn put_packed_header(unpacked: u32, len: u32, out: &mut BytesMut) {
    put_header(FILE_PACKED, len.saturating_add(PACKED_HEADER as u32), out);
    out.put_u32(unpacked);
}

fn put_header(kind: u8, len: u32, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u16(0);
    out.put_u32(len);
}

fn put_raw(kind: u8, body: &Bytes, out: &mut BytesMut) {
    debug_assert!(body.len() <= MAX_CHUNK, "callers cut chunks");
    put_header(kind, u32::try_from(body.len()).unwrap_or(u32::MAX), out);
    out.put_slice(body);
}

fn put_packed(kind: u8, body: &Packed, out: &mut BytesMut) {
    debug_assert!(body.body_len() <= MAX_CHUNK, "callers cut chunks");
    put_header(kind, u32::try_from(body.body_len()).unwrap_or(u32::MAX), out);
    body.put(out);
}

fn put_cbor<T: Encode<()>>(kind: u8, body: &T, out: &mut BytesMut) {
    let at = out.len();
    put_header(kind, 0, out);
    let mut writer = minicbor::encode::write::Writer::new(out.writer());
    if let Err(e) = minicbor::encode(body, &mut writer) {
        unreachable!("encoding to memory failed: {e}");
    }
    let len = out.len() - at - FRAME_HEADER;
    debug_assert!(len <= MAX_CONTROL_FRAME, "callers cut lists");
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    out[at + 4..at + FRAME_HEADER].copy_from_slice(&len.to_be_bytes());
}

fn take_raw(body: Bytes) -> Result<Bytes, FrameError> {
    if body.is_empty() { Err(FrameError::EmptyChunk) } else { Ok(body) }
}

fn take_cbor<'b, T: Encode<()> + Decode<'b, ()>>(kind: u8, body: &'b Bytes) -> Result<T, FrameError> {
    let malformed = FrameError::Malformed { kind };
    let value: T = minicbor::decode(body).map_err(|_| malformed)?;
    if crate::message::encode(&value) == **body { Ok(value) } else { Err(malformed) }
}

/// Takes the next whole frame off the front of `buffer`; none when more bytes are needed.
///
/// # Errors
/// A header or body that breaks SPEC §5; known from the header alone where possible, before the body arrives.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some((kind, length)) = peek(buffer)? else { return Ok(None) };
    if buffer.len() < FRAME_HEADER + length {
        return Ok(None);
    }
    buffer.advance(FRAME_HEADER);
    let body = buffer.split_to(length).freeze();
    let frame = decode_body(kind, body)?;
    // SPEC §5.1
    if matches!(frame, Frame::FileZeros(zeros) if zeros.len == 0) {
        return Err(FrameError::EmptyChunk);
    }
    if list_len(&frame) > MAX_LIST { Err(FrameError::Malformed { kind }) } else { Ok(Some(frame)) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only these two carry lists")]
fn list_len(frame: &Frame) -> usize {
    match frame {
        Frame::RetryRequest(list) => list.failed.len(),
        Frame::PendingList(list) => list.ranges.len().max(list.partial.len()),
        _ => 0,
    }
}

/// The length of the content, if `buffer` starts with the header of a `file_chunk`: for readers that take the rest of it
/// straight into memory of their own, as a [`Frame::FileChunk`].
///
/// # Errors
/// As [`decode`], for the header.
pub fn chunk_length(buffer: &[u8]) -> Result<Option<usize>, FrameError> {
    let header = peek(buffer)?.filter(|(kind, length)| *kind == FILE_CHUNK && *length > 0);
    Ok(header.map(|(_, length)| length))
}

/// How many bytes `buffer` must hold before the next [`decode`] can give a frame.
///
/// # Errors
/// As [`decode`], for the header.
pub fn needed(buffer: &[u8]) -> Result<usize, FrameError> {
    Ok(FRAME_HEADER + peek(buffer)?.map_or(0, |(_, length)| length))
}

/// Where a frame goes that is one of many on a pipe (SPEC §5.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the lane.
    Lane,
    /// To the control stream.
    Control,
    /// It is a message, or belongs to no conversation.
    Own,
}

/// The length of the frame that `buffer` starts with, header included, and where it goes; none while it is not whole. Its body
/// is not looked at.
///
/// # Errors
/// As [`decode`], for the header.
pub fn whole(buffer: &[u8]) -> Result<Option<(Way, usize)>, FrameError> {
    let Some((kind, length)) = peek(buffer)?.filter(|(_, length)| buffer.len() >= FRAME_HEADER + length) else {
        return Ok(None);
    };
    let way = match kind {
        0x20..=0x2f => Way::Lane,
        0x01 | 0x03..=0x06 | 0x70 => Way::Own,
        _ => Way::Control,
    };
    Ok(Some((way, FRAME_HEADER + length)))
}

/// What a frame of the control stream says of the files of its round, which others do not: on a pipe it has its place among
/// them (SPEC §5.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// They follow it.
    Begins,
    /// It follows them.
    Ends,
}

/// What the frame that `buffer` starts with says of the files of its round, if anything.
pub fn edge(buffer: &[u8]) -> Option<Edge> {
    match buffer.first()? {
        0x32 => Some(Edge::Begins),
        0x30 | 0x33 => Some(Edge::Ends),
        _ => None,
    }
}

fn peek(buffer: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let Some(mut header) = buffer.get(..FRAME_HEADER) else { return Ok(None) };
    let (kind, flags, reserved, length) = (header.get_u8(), header.get_u8(), header.get_u16(), header.get_u32());
    let limit = limit_of(kind).ok_or(FrameError::UnknownType { kind })?;
    if flags != 0 || reserved != 0 {
        return Err(FrameError::Reserved { kind });
    }
    match usize::try_from(length) {
        Ok(len) if len <= limit => Ok(Some((kind, len))),
        _ => Err(FrameError::TooLarge { kind, length, limit }),
    }
}

#[cfg(test)]
mod tests;

//! Claims about the codec that need no golden vectors.

use proptest::prelude::*;

use super::*;
use crate::frame::*;
use crate::ids::{Digest, EntryIndex, SessionId};
use crate::reason::FailureReason;

fn bytes_of(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    encode(frame, &mut out);
    out
}

#[test]
fn a_frame_split_at_every_byte_decodes_the_same() {
    let frame =
        Frame::FileBegin(FileBegin { index: EntryIndex(300), size: 1 << 40, sha256: Some(Digest([3; 32])), offset: 0 });
    let whole = bytes_of(&frame);
    for cut in 0..whole.len() {
        let mut buffer = BytesMut::from(&whole[..cut]);
        assert_eq!(decode(&mut buffer), Ok(None));
        buffer.extend_from_slice(&whole[cut..]);
        assert_eq!(decode(&mut buffer), Ok(Some(frame.clone())));
        assert!(buffer.is_empty());
    }
}

// SPEC §5.1 (RELIABILITY A39): the header alone is enough to refuse.
#[test]
fn a_length_over_the_limit_is_refused_before_its_body() {
    for (kind, limit) in [(0x21, MAX_CHUNK), (0x20, MAX_CONTROL_FRAME)] {
        for length in [u32::MAX, u32::try_from(limit).unwrap() + 1] {
            let mut buffer = BytesMut::new();
            put_header(kind, length, &mut buffer);
            assert_eq!(decode(&mut buffer), Err(FrameError::TooLarge { kind, length, limit }));
        }
    }
}

#[test]
fn unknown_types_and_reserved_bits_are_refused() {
    let header = |h: [u8; 8]| decode(&mut BytesMut::from(&h[..])).err().map(FrameError::code);
    assert_eq!(header([0x99, 0, 0, 0, 0, 0, 0, 0]), Some(Code::FrameUnknown));
    assert_eq!(header([0x21, 1, 0, 0, 0, 0, 0, 1]), Some(Code::FrameUnknown));
    assert_eq!(header([0x21, 0, 0, 1, 0, 0, 0, 1]), Some(Code::FrameUnknown));
}

#[test]
fn an_empty_chunk_is_unexpected() {
    let mut buffer = BytesMut::from(&[0x21, 0, 0, 0, 0, 0, 0, 0][..]);
    assert_eq!(decode(&mut buffer).err().map(FrameError::code), Some(Code::FrameUnexpected));
}

#[test]
fn bodies_in_another_encoding_of_the_same_content_are_refused() {
    let end = bytes_of(&Frame::FileEnd(FileEnd { index: EntryIndex(3), failed: None, sha256: None }));
    assert_eq!(&end[8..], [0xa1, 0x00, 0x03]);
    // longer integer, unknown key, repeated key, indefinite map, trailing byte
    for body in [
        &[0xa1, 0x00, 0x18, 0x03][..],
        &[0xa2, 0x00, 0x03, 0x09, 0x00],
        &[0xa2, 0x00, 0x03, 0x00, 0x03],
        &[0xbf, 0x00, 0x03, 0xff],
        &[0xa1, 0x00, 0x03, 0x00],
        &[0xa1, 0x00, 0x20],
        &[],
    ] {
        let mut buffer = BytesMut::new();
        put_header(0x22, u32::try_from(body.len()).unwrap(), &mut buffer);
        buffer.extend_from_slice(body);
        assert_eq!(decode(&mut buffer), Err(FrameError::Malformed { kind: 0x22 }), "{body:02x?}");
    }
}

#[test]
fn the_longest_lists_fit_their_frames() {
    let failed = (0..MAX_LIST)
        .map(|i| FailedEntry { index: EntryIndex(900_000 + i as u32), reason: FailureReason::Timeout })
        .collect();
    let frame = Frame::RetryRequest(RetryRequest { round: 3, failed, more: true });
    assert_eq!(decode(&mut bytes_of(&frame)), Ok(Some(frame)));
    let ranges = (0..MAX_LIST).map(|i| IndexRange { start: EntryIndex(900_000 + i as u32), len: 70_000 }).collect();
    let frame = Frame::PendingList(PendingList { ranges, partial: vec![], more: true });
    assert_eq!(decode(&mut bytes_of(&frame)), Ok(Some(frame)));
}

proptest! {
    // RELIABILITY A55
    #[test]
    fn random_bytes_never_panic_and_never_grow_the_buffer(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut buffer = BytesMut::from(&raw[..]);
        while let Ok(Some(_)) = decode(&mut buffer) {}
        prop_assert!(buffer.len() <= raw.len());
    }

    #[test]
    fn a_changed_byte_gives_another_frame_or_a_refusal(at in 0usize..64, bit in 0u8..8) {
        let frame = Frame::Hello(StreamHello { session_id: SessionId([5; 16]), role: Role::Lane(2) });
        let mut raw = bytes_of(&frame);
        let at = at % raw.len();
        raw[at] ^= 1 << bit;
        prop_assert_ne!(decode(&mut raw), Ok(Some(frame)));
    }
}

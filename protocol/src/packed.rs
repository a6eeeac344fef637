//! A chunk of a file in packed form (SPEC §5.4): how long its content is, and one zstd frame (RFC 8878) of it.
//!
//! Nothing is unpacked here. Everything that can be known without unpacking is judged first, from the frame's outline:
//! its header, the headers of its blocks, and that nothing else is there. So whoever unpacks needs a buffer of the
//! declared length and no more, whatever the frame holds.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the zstd frame: the length of the content, big-endian.
pub const PACKED_HEADER: usize = 4;

/// The first bytes of a zstd frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Smallest window that a frame can ask for.
const MIN_WINDOW: u64 = 1 << 10;

/// Body of `file_packed`, with its outline checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    unpacked: u32,
    zstd: Bytes,
}

impl Packed {
    /// A zstd frame whose content has `unpacked` bytes. None if the frame's outline is not what SPEC §5.4 asks for.
    pub fn new(unpacked: u32, zstd: Bytes) -> Option<Self> {
        let shrinks = zstd.len() < unpacked as usize;
        (shrinks && outline(&zstd, u64::from(unpacked)).is_some()).then_some(Self { unpacked, zstd })
    }

    /// How many bytes its content has; at least one.
    pub fn unpacked(&self) -> u32 {
        self.unpacked
    }

    /// The zstd frame.
    pub fn zstd(&self) -> &Bytes {
        &self.zstd
    }

    pub(crate) fn decode(body: &Bytes) -> Option<Self> {
        let unpacked = u32::from_be_bytes(*body.first_chunk()?);
        Self::new(unpacked, body.slice(PACKED_HEADER..))
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_u32(self.unpacked);
        out.put_slice(&self.zstd);
    }

    /// Length of the frame's body.
    pub fn body_len(&self) -> usize {
        PACKED_HEADER + self.zstd.len()
    }
}

/// One frame and nothing after it, that declares a content of `content` bytes, a window no longer than that, and no
/// dictionary.
fn outline(zstd: &[u8], content: u64) -> Option<()> {
    let rest = zstd.strip_prefix(&MAGIC)?;
    let (&descriptor, rest) = rest.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    let has_checksum = descriptor & 0x04 != 0;
    let (is_reserved, has_dictionary) = (descriptor & 0x08 != 0, descriptor & 0x03 != 0);
    if is_reserved || has_dictionary {
        return None;
    }
    // a single segment's window is its content
    let rest = if is_single_segment {
        rest
    } else {
        let (&window, rest) = rest.split_first()?;
        let base = 1_u64 << (10 + (window >> 3));
        let window = base + base / 8 * u64::from(window & 7);
        if window > content.max(MIN_WINDOW) {
            return None;
        }
        rest
    };
    let (declared, rest) = match (descriptor >> 6, is_single_segment) {
        (0, true) => rest.split_first().map(|(n, rest)| (u64::from(*n), rest))?,
        (1, _) => rest.split_first_chunk().map(|(n, rest)| (u64::from(u16::from_le_bytes(*n)) + 256, rest))?,
        (2, _) => rest.split_first_chunk().map(|(n, rest)| (u64::from(u32::from_le_bytes(*n)), rest))?,
        (3, _) => rest.split_first_chunk().map(|(n, rest)| (u64::from_le_bytes(*n), rest))?,
        _ => return None,
    };
    let rest = blocks(rest)?;
    let trailer = if has_checksum { 4 } else { 0 };
    (declared == content && rest.len() == trailer).then_some(())
}

/// What follows after the last block.
fn blocks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (&[low, middle, high], after) = rest.split_first_chunk()?;
        let header = u32::from_le_bytes([low, middle, high, 0]);
        let size = match (header >> 1) & 3 {
            // raw, and compressed
            0 | 2 => (header >> 3) as usize,
            // one byte, many times
            1 => 1,
            _ => return None,
        };
        rest = after.get(size..)?;
        if header & 1 == 1 {
            return Some(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 300 times the letter a: a single segment with one block, a byte and how often it comes.
    const RUN: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x2c, 0x00, 0x63, 0x09, 0x00, b'a'];

    fn packed(unpacked: u32, zstd: &[u8]) -> Option<Packed> {
        Packed::new(unpacked, Bytes::copy_from_slice(zstd))
    }

    /// `RUN` with this in place of its first bytes after the magic number, up to its block.
    fn headed(header: &[u8]) -> Vec<u8> {
        [&RUN[..4], header, &RUN[7..]].concat()
    }

    // SPEC §5.4
    #[test]
    fn one_frame_that_tells_its_length_and_needs_no_more_is_taken() {
        let run = packed(300, RUN).expect("a frame");
        assert_eq!((run.unpacked(), &run.zstd()[..]), (300, RUN));
        // the same content with its length in 4 bytes, in 8, and with a window of 1 KiB
        for header in [&[0xa0, 44, 1, 0, 0][..], &[0xe0, 44, 1, 0, 0, 0, 0, 0, 0], &[0x40, 0, 44, 0]] {
            assert!(packed(300, &headed(header)).is_some(), "{header:02x?}");
        }
        let with_checksum = [&headed(&[0x64, 44, 0])[..], &[1, 2, 3, 4]].concat();
        assert!(packed(300, &with_checksum).is_some());
    }

    // SPEC §5.4
    #[test]
    fn other_lengths_windows_dictionaries_and_anything_beside_the_frame_are_refused() {
        for unpacked in [0, 1, 299, 301, u32::MAX] {
            assert_eq!(packed(unpacked, RUN), None, "{unpacked} declared");
        }
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], RUN].concat();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("nothing", vec![]),
            ("no frame", b"plain text, which no zstd frame starts with".to_vec()),
            ("cut in its magic number", RUN[..3].to_vec()),
            ("cut in its header", RUN[..6].to_vec()),
            ("without a block", RUN[..7].to_vec()),
            ("cut in its block", RUN[..10].to_vec()),
            ("a byte after it", [RUN, &[0]].concat()),
            ("another frame after it", [RUN, RUN].concat()),
            ("a skippable frame before it", skippable),
            ("no length", headed(&[0x00, 0])),
            ("a window of 2 KiB for 300 bytes", headed(&[0x40, 8, 44, 0])),
            ("a window of 2 TiB", headed(&[0x40, 0xff, 44, 0])),
            ("a dictionary", headed(&[0x61, 7, 44, 0])),
            ("a reserved bit", headed(&[0x68, 44, 0])),
            ("a checksum that is not there", headed(&[0x64, 44, 0])),
            ("a reserved block", [&RUN[..7], &[0x67, 0x09, 0x00, b'a']].concat()),
            ("no last block", [&RUN[..7], &[0x62, 0x09, 0x00, b'a']].concat()),
        ];
        for (what, zstd) in cases {
            assert_eq!(packed(300, &zstd), None, "{what}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_not_packed() {
        let raw = [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 2, 0x11, 0, 0][..], b"hi"].concat();
        assert_eq!(packed(2, &raw), None);
    }
}

//! Packs the chunks of a lane's files, and unpacks them at the other end (SPEC §5.4). On the disk threads.
//!
//! Which chunks: none where it was not agreed; with [`Compression::Auto`] only while the session's gauge finds that
//! the link is what everything waits for; and never one that does not shrink.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use me_sync_protocol::packed::{PACKED_HEADER, Packed};
use zstd::bulk::{Compressor, Decompressor};

use super::LaneMeter;

/// When files are packed on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// What shrinks, while the connection is slower than packing is.
    #[default]
    Auto,
    /// Nothing, in neither direction.
    Never,
    /// Whatever shrinks.
    Always,
}

/// Level 1 is a tenth faster and packs a tenth less, level 5 takes three times as long for a twentieth.
const LEVEL: i32 = 3;
/// A shorter chunk gains less than its frames cost.
const SMALLEST: usize = 512;
/// Of ten bytes, this many may be left.
const SHRUNK: usize = 9;
/// Content that is passed over after a chunk that did not shrink; twice as much after each further one.
const FIRST_PAUSE: u64 = 1 << 20;
/// At most so much.
const LONGEST_PAUSE: u64 = 64 << 20;

/// The packing half: one context and one buffer for all files of a lane, made when they are first needed.
pub(super) struct ChunkPacker {
    mode: Compression,
    meter: Arc<LaneMeter>,
    context: Option<Compressor<'static>>,
    buffer: Vec<u8>,
    file: Sample,
}

/// What is known of the file under way. Its first chunk is looked at, and after one that does not shrink another some
/// way on: files change their character.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Content to pass over before the next look.
    skip: u64,
    pause: u64,
}

impl Sample {
    const NEW: Self = Self { skip: 0, pause: FIRST_PAUSE };

    fn looks_at(&mut self, len: usize) -> bool {
        let looks = self.skip == 0;
        self.skip = self.skip.saturating_sub(len as u64);
        looks
    }

    fn found(&mut self, shrinks: bool) {
        if shrinks {
            *self = Self::NEW;
        } else {
            self.skip = self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl ChunkPacker {
    pub(super) fn new(mode: Compression, meter: Arc<LaneMeter>) -> Self {
        Self { mode, meter, context: None, buffer: Vec::new(), file: Sample::NEW }
    }

    /// Another file begins.
    pub(super) fn begin(&mut self) {
        self.file = Sample::NEW;
        self.meter.flow.begins();
    }

    /// The next chunk of the file as a zstd frame, if it goes out packed.
    pub(super) fn pack(&mut self, content: &[u8]) -> Option<&[u8]> {
        let most = match self.mode {
            Compression::Never => return None,
            Compression::Auto if !self.meter.flow.packs() => return None,
            Compression::Auto => content.len() / 10 * SHRUNK,
            Compression::Always => content.len().saturating_sub(PACKED_HEADER + 1),
        };
        if content.len() < SMALLEST || (self.mode == Compression::Auto && !self.file.looks_at(content.len())) {
            return None;
        }
        let len = self.pack_within(content, most);
        self.file.found(len.is_some());
        self.buffer.get(..len?)
    }

    /// Gives up as soon as the room is used up.
    fn pack_within(&mut self, content: &[u8], most: usize) -> Option<usize> {
        if self.buffer.len() < most {
            self.buffer.resize(most, 0);
        }
        let context = match &mut self.context {
            Some(context) => context,
            empty => {
                empty.insert(Compressor::new(LEVEL).inspect_err(|e| tracing::warn!("nothing is packed: {e}")).ok()?)
            }
        };
        context.compress_to_buffer(content, &mut self.buffer[..most]).ok()
    }
}

/// The unpacking half: one context and one buffer, which is never longer than a chunk may be.
#[derive(Default)]
pub(super) struct Unpacker {
    context: Option<Decompressor<'static>>,
    buffer: BytesMut,
}

impl Unpacker {
    /// The content; none if it is not what was declared. Never more than that is written, whatever the frame holds.
    pub(super) fn unpack(&mut self, packed: &Packed) -> Option<Bytes> {
        let context = match &mut self.context {
            Some(context) => context,
            empty => {
                empty.insert(Decompressor::new().inspect_err(|e| tracing::warn!("nothing is unpacked: {e}")).ok()?)
            }
        };
        self.buffer.resize(packed.unpacked() as usize, 0);
        match context.decompress_to_buffer(packed.zstd(), &mut self.buffer[..]) {
            Ok(len) if len == self.buffer.len() => Some(self.buffer.split().freeze()),
            Ok(_) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 256 << 10;

    fn packer(mode: Compression) -> ChunkPacker {
        ChunkPacker::new(mode, Arc::default())
    }

    fn text(len: usize) -> Vec<u8> {
        let lines = (0_u32..).flat_map(|n| format!("{n} of the lines of this text\n").into_bytes());
        lines.take(len).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn packed(packer: &mut ChunkPacker, content: &[u8]) -> Option<Packed> {
        let zstd = packer.pack(content)?.to_vec();
        Some(Packed::new(u32::try_from(content.len()).unwrap(), zstd.into()).expect("what is packed can be sent"))
    }

    // SPEC §5.4
    #[test]
    fn chunks_of_every_size_come_back_as_they_were() {
        let (mut packer, mut unpacker) = (packer(Compression::Always), Unpacker::default());
        for len in [512, 1000, 4096, 65_536 + 255, 65_536 + 256, CHUNK - 1, CHUNK, 1 << 20] {
            let content = text(len);
            let packed = packed(&mut packer, &content).expect("text shrinks");
            assert!(packed.zstd().len() < len / 2, "{len}");
            assert_eq!(unpacker.unpack(&packed).as_deref(), Some(&content[..]), "{len}");
        }
        assert!(packed(&mut packer, &text(511)).is_none(), "too short to gain");
    }

    #[test]
    fn what_does_not_shrink_goes_raw_and_what_follows_still_packs() {
        let mut packer = packer(Compression::Always);
        for _ in 0..3 {
            assert!(packed(&mut packer, &noise(CHUNK)).is_none());
            assert!(packed(&mut packer, &text(CHUNK)).is_some());
        }
    }

    #[test]
    fn without_an_agreement_or_a_slow_link_nothing_is_packed() {
        assert!(packed(&mut packer(Compression::Never), &text(CHUNK)).is_none());
        let mut packer = packer(Compression::Auto);
        assert!(packed(&mut packer, &text(CHUNK)).is_none(), "nothing is known of the link");
        packer.meter.flow.pack(true);
        assert!(packed(&mut packer, &text(CHUNK)).is_some());
        packer.meter.flow.pack(false);
        assert!(packed(&mut packer, &text(CHUNK)).is_none());
    }

    #[test]
    fn a_file_that_does_not_shrink_is_looked_at_ever_more_seldom_and_found_out_when_it_changes() {
        let mut packer = packer(Compression::Auto);
        packer.meter.flow.pack(true);
        let looks = |packer: &mut ChunkPacker, chunks: usize| {
            let before = |p: &ChunkPacker| p.file.pause;
            (0..chunks)
                .filter(|_| {
                    let was = before(packer);
                    packed(packer, &noise(CHUNK));
                    packer.file.skip > 0 && before(packer) != was
                })
                .count()
        };
        // 31 MiB: after 0, 1, 3, 7 and 15 of them
        assert_eq!(looks(&mut packer, 4 * 31), 5);
        let text = text(CHUNK);
        let raw = (0..4 * 64).take_while(|_| packed(&mut packer, &text).is_none()).count();
        assert!(raw < 4 * 33, "{raw} chunks of text went raw");
        assert!(packed(&mut packer, &text).is_some(), "from then on it packs");
        packed(&mut packer, &noise(CHUNK));
        packer.begin();
        assert!(packed(&mut packer, &text).is_some(), "another file is looked at anew");
    }

    // SPEC §5.4: the declared length bounds what is written, and all of it must be there
    #[test]
    fn a_frame_that_holds_more_or_less_than_it_declares_or_is_damaged_is_not_unpacked() {
        // a single segment of 300 bytes with one block: a byte, and how often it comes
        let run = |times: u32| {
            let [low, middle, high, _] = (1 | 1 << 1 | times << 3).to_le_bytes();
            let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x2c, 0x00, low, middle, high][..], b"a"].concat();
            Packed::new(300, zstd.into()).expect("its outline is right")
        };
        let mut unpacker = Unpacker::default();
        assert_eq!(unpacker.unpack(&run(300)).as_deref(), Some(&[b'a'; 300][..]));
        for times in [0, 1, 299, 301, 128 << 10, (1 << 21) - 1] {
            assert_eq!(unpacker.unpack(&run(times)), None, "{times}");
        }
        let content = text(CHUNK);
        let whole = packed(&mut packer(Compression::Always), &content).expect("text shrinks");
        for at in (12..whole.zstd().len()).step_by(997) {
            let mut zstd = whole.zstd().to_vec();
            zstd[at] ^= 0x40;
            // a frame has no checksum: damage may also give other bytes, which the file's hash tells
            if let Some(other) = Packed::new(whole.unpacked(), zstd.into()).and_then(|p| unpacker.unpack(&p)) {
                assert!(other.len() == content.len() && other != content);
            }
        }
        assert_eq!(unpacker.unpack(&whole).as_deref(), Some(&content[..]), "the context is good for the next");
    }
}

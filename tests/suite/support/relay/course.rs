//! What befalls the bytes of one direction of a TCP connection. Pure: blocks in, a verdict out.

use std::time::Duration;

/// `/multistream/1.0.0` and `/noise`, each with its length and line end: the same in both directions.
const NEGOTIATION: u64 = 20 + 8;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// With a FIN in both directions.
    Close,
    /// With a RST in both directions.
    Reset,
    /// Not at all: nothing is read or handed over any more, and nobody is told.
    Silence,
}

/// Where one direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum End {
    #[default]
    Never,
    /// After so many bytes.
    After(u64, How),
    /// At the end of encrypted frame number so and so, the first being 1, or this many bytes off it.
    Frame(u64, i64, How),
}

/// One direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Course {
    pub(crate) end: End,
    /// The byte in which a bit turns over.
    pub(crate) flip: Option<u64>,
    pub(crate) latency: Duration,
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
}

/// Both directions of a connection: `up` from who connected to who listens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fate {
    pub(crate) up: Course,
    pub(crate) down: Course,
}

impl Course {
    pub(crate) fn ends(end: End) -> Self {
        Self { end, ..Self::default() }
    }
}

impl Fate {
    /// A slow line towards who connected.
    pub(crate) fn slow(rate: u64) -> Self {
        Self { down: Course { rate: Some(rate), ..Course::default() }, ..Self::default() }
    }
}

/// How far one direction has come.
#[derive(Debug)]
pub(super) struct Travel {
    course: Course,
    passed: u64,
    frames: Frames,
}

impl Travel {
    pub(super) fn new(course: Course) -> Self {
        Self { course, passed: 0, frames: Frames::default() }
    }

    /// Damages the block if it is its turn; how many of its bytes are handed over, and the end if it comes after them.
    pub(super) fn pass(&mut self, block: &mut [u8]) -> (usize, Option<How>) {
        let (limit, how) = match self.course.end {
            End::Never => (u64::MAX, None),
            End::After(bytes, how) => (bytes, Some(how)),
            End::Frame(number, off, how) => {
                self.frames.read(block, number);
                (self.frames.end.map_or(u64::MAX, |end| end.saturating_add_signed(off)), Some(how))
            }
        };
        let room = usize::try_from(limit.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        let len = block.len().min(room);
        if let Some(at) = self.course.flip.and_then(|at| at.checked_sub(self.passed))
            && let Some(byte) = usize::try_from(at).ok().and_then(|at| block[..len].get_mut(at))
        {
            *byte ^= 0x10;
        }
        self.passed += len as u64;
        (len, how.filter(|_| self.passed >= limit))
    }
}

/// Finds the end of one Noise frame in a stream: two bytes of length before each, from the handshake on.
#[derive(Debug, Default)]
struct Frames {
    seen: u64,
    /// Where the next length stands; the first one follows the negotiation.
    next: u64,
    high: Option<u8>,
    done: u64,
    /// Where the wanted frame ends, known as soon as its length is.
    end: Option<u64>,
}

impl Frames {
    fn read(&mut self, block: &[u8], wanted: u64) {
        for byte in block {
            let at = self.seen;
            self.seen += 1;
            match self.high {
                _ if at < self.next.max(NEGOTIATION) => {}
                None => self.high = Some(*byte),
                Some(high) => {
                    self.high = None;
                    self.next = at + 1 + u64::from(u16::from_be_bytes([high, *byte]));
                    self.done += 1;
                    if self.done == wanted {
                        self.end = Some(self.next);
                    }
                }
            }
        }
    }
}

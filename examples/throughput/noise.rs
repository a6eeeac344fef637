//! Numbers and bytes that look random and are the same in every run (xorshift64*), made faster than a disk takes them.

/// Words of a log's messages.
const WORDS: [&str; 24] = [
    "connection",
    "request",
    "session",
    "timeout",
    "retry",
    "cache",
    "index",
    "block",
    "peer",
    "warning",
    "loaded",
    "flushed",
    "committed",
    "queue",
    "worker",
    "page",
    "table",
    "record",
    "checksum",
    "accepted",
    "closed",
    "from",
    "after",
    "before",
];

/// The sequence of one seed.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        // xorshift has no way out of 0, and seeds that are near each other need to part
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to `end`, without `end`; 0 where that is nothing.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// From 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Fills `out` with bytes that do not compress.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for word in out.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
    }

    /// Fills `out` with lines of a log: a time, a level, some words, a number.
    pub(crate) fn fill_text(&mut self, out: &mut [u8]) {
        let mut at = 0;
        let mut line = String::with_capacity(200);
        while at < out.len() {
            self.line(&mut line);
            let len = line.len().min(out.len() - at);
            out[at..at + len].copy_from_slice(&line.as_bytes()[..len]);
            at += len;
        }
    }

    fn line(&mut self, line: &mut String) {
        use std::fmt::Write as _;
        line.clear();
        let (time, level) = (self.next(), ["INFO ", "INFO ", "WARN ", "DEBUG "][self.below(4) as usize]);
        let (hour, minute, second) = (time % 24, (time >> 8) % 60, (time >> 16) % 60);
        // writing to a String has no way to fail
        write!(line, "2024-05-17T{hour:02}:{minute:02}:{second:02}Z {level}").ok();
        for _ in 0..4 + self.below(9) {
            line.push_str(WORDS[self.below(WORDS.len() as u64) as usize]);
            line.push(' ');
        }
        writeln!(line, "id={:08x}", self.next() as u32).ok();
    }
}

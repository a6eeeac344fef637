//! Where the holes of a file lie (SPEC §4.1): asked for piece by piece, so that nobody reads or writes them.
//!
//! What file systems tell is trusted as far as it is needed: one that knows of no holes says that all is data, and what
//! it says of a file that changes meanwhile is found out as every change is, by its times.

use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;

/// Unit of the number of blocks in a `stat`, whatever the file system's own block is.
pub(crate) const BLOCK: u64 = 512;

/// A file with fewer blocks than its size asks for: it has holes, or its file system compresses.
pub(crate) fn is_suspicious(stat: &Stat) -> bool {
    let (blocks, size) = (u64::try_from(stat.st_blocks).unwrap_or(0), u64::try_from(stat.st_size).unwrap_or(0));
    blocks.saturating_mul(BLOCK) < size
}

/// A piece of a file that is all data or all hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) len: u64,
    pub(crate) is_hole: bool,
}

/// The way through one file, from its beginning to its end. Moves the file's cursor: read it by offset.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    /// Up to here it is known.
    known: u64,
    is_hole: bool,
    /// Nothing is asked for.
    is_dense: bool,
}

impl Holes {
    /// For a file that is worth asking for.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// For a file of which all is data, without a system call.
    pub(crate) fn none() -> Self {
        Self { is_dense: true, ..Self::default() }
    }

    /// As [`Self::new`] for a file that looks like having holes, as [`Self::none`] for any other.
    pub(crate) fn of(stat: &Stat) -> Self {
        if is_suspicious(stat) { Self::new() } else { Self::none() }
    }

    /// All is data, as far as anybody knows.
    pub(crate) fn is_none(&self) -> bool {
        self.is_dense
    }

    /// What lies at `at`, at most `most` bytes of it. Beyond the end of the file there is a hole without end.
    pub(crate) fn piece(&mut self, file: impl AsFd, at: u64, most: u64) -> Piece {
        if self.is_dense {
            return Piece { len: most, is_hole: false };
        }
        if at >= self.known {
            (self.known, self.is_hole) = look(file, at);
        }
        Piece { len: most.min(self.known - at), is_hole: self.is_hole }
    }
}

/// What lies at `at`, and where that ends.
fn look(file: impl AsFd, at: u64) -> (u64, bool) {
    match seek(&file, SeekFrom::Data(at)) {
        Ok(data) if data > at => (data, true),
        Ok(_) => match seek(&file, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => (hole, false),
            // not to be told
            Ok(_) | Err(_) => (u64::MAX, false),
        },
        // no data from here on
        Err(Errno::NXIO) => (u64::MAX, true),
        Err(_) => (u64::MAX, false),
    }
}

/// How many of the first `size` bytes of a file are in no hole.
pub(crate) fn data_bytes(file: impl AsFd, size: u64) -> u64 {
    let (mut holes, mut at, mut data) = (Holes::new(), 0, 0);
    while at < size {
        let piece = holes.piece(&file, at, size - at);
        data += if piece.is_hole { 0 } else { piece.len };
        at += piece.len;
    }
    data
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], MIB).unwrap();
        file.write_all_at(&[0; 4096], 2 * MIB).unwrap();
        file.set_len(3 * MIB).unwrap();
        file
    }

    #[test]
    fn holes_are_found_wherever_they_are_and_zeros_that_were_written_are_data() {
        let file = sparse();
        let stat = rustix::fs::fstat(&file).unwrap();
        assert!(is_suspicious(&stat));
        let mut holes = Holes::of(&stat);
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < 3 * MIB {
            let piece = holes.piece(&file, at, 3 * MIB - at);
            pieces.push((at, piece.len, piece.is_hole));
            at += piece.len;
        }
        assert_eq!(
            pieces,
            [
                (0, MIB, true),
                (MIB, 4096, false),
                (MIB + 4096, MIB - 4096, true),
                (2 * MIB, 4096, false),
                (2 * MIB + 4096, MIB - 4096, true),
            ]
        );
        assert_eq!(data_bytes(&file, 3 * MIB), 8192);
        assert_eq!(data_bytes(&file, 4 * MIB), 8192, "beyond the end there is nothing");
        assert_eq!(Holes::new().piece(&file, 10, 100), Piece { len: 100, is_hole: true });
    }

    #[test]
    fn a_file_with_all_its_blocks_is_not_asked_for_holes() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.sync_all().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        assert!(!is_suspicious(&stat));
        file.set_len(0).unwrap();
        assert_eq!(Holes::of(&stat).piece(&file, 0, 10_000), Piece { len: 10_000, is_hole: false });
    }
}

//! How a finished file looked when it was closed: enough to see later that nobody touched it since.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use me_sync_protocol::ids::EntryIndex;

use super::inode::Inode;

/// Inode number and change time of a finished file, for the durable ledger. 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    ino: u64,
    ctime: i64,
}

impl FileStamp {
    pub(super) fn of(inode: &Inode) -> Self {
        Self { ino: inode.ino(), ctime: inode.ctime() }
    }

    /// Inode number.
    pub(super) fn ino(self) -> u64 {
        self.ino
    }

    /// Change time in nanoseconds.
    pub(super) fn ctime(self) -> i64 {
        self.ctime
    }

    /// As it is stored.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.ino.to_be_bytes());
        bytes[8..].copy_from_slice(&self.ctime.to_be_bytes());
        bytes
    }

    /// As it was stored. Any 16 bytes are a stamp; one that is wrong only costs a look at the file's content.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        // both halves have 64 bits
        Self { ino: (bits >> 64) as u64, ctime: (bits as u64).cast_signed() }
    }
}

/// The stamps of one manifest's entries, 16 bytes each, shared by all lanes without a lock.
#[derive(Debug)]
pub(super) struct Stamps(Vec<Slot>);

/// Inode number zero: not finished.
#[derive(Debug, Default)]
struct Slot {
    ino: AtomicU64,
    ctime: AtomicI64,
}

impl Stamps {
    /// Nothing of `len` entries is finished.
    pub(super) fn none_of(len: u32) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(len as usize, Slot::default);
        Self(slots)
    }

    /// The file is finished and looks like this.
    pub(super) fn set(&self, index: EntryIndex, stamp: FileStamp) {
        if let Some(slot) = self.0.get(index.at()) {
            slot.ctime.store(stamp.ctime, Ordering::Relaxed);
            slot.ino.store(stamp.ino, Ordering::Release);
        }
    }

    /// The file is not finished any more.
    pub(super) fn clear(&self, index: EntryIndex) {
        if let Some(slot) = self.0.get(index.at()) {
            slot.ino.store(0, Ordering::Release);
        }
    }

    /// The stamp of a finished file.
    pub(super) fn of(&self, index: EntryIndex) -> Option<FileStamp> {
        let slot = self.0.get(index.at())?;
        match slot.ino.load(Ordering::Acquire) {
            0 => None,
            ino => Some(FileStamp { ino, ctime: slot.ctime.load(Ordering::Relaxed) }),
        }
    }

    pub(super) fn is_finished(&self, index: EntryIndex) -> bool {
        self.of(index).is_some()
    }

    /// The file was finished and nothing moved since.
    pub(super) fn is_untouched(&self, index: EntryIndex, inode: &Inode) -> bool {
        self.of(index) == Some(FileStamp::of(inode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_bytes() {
        for (ino, ctime) in [(1, -1), (u64::MAX, i64::MIN), (7, 1_700_000_000_123_456_789)] {
            let stamp = FileStamp { ino, ctime };
            assert_eq!(FileStamp::from_bytes(stamp.to_bytes()), stamp);
        }
    }
}

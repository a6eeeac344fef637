//! What an inode is and how it is recognised again (RELIABILITY 4.4): one `statx`, no path is ever followed.
//!
//! Identity across restarts is (inode number, birth time). `name_to_handle_at` would give inode and
//! generation, but needs `unsafe`, which this project forbids. Both trees of a swap exist until the
//! clean-up, so their inode numbers cannot be reused meanwhile; the birth time tells a reused number apart.
//! `st_dev` and mount ids change over a reboot and are only compared within one process.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, statx};
use rustix::io::{self, Errno};

use crate::holes::{BLOCK, Holes};

/// `STATX_MNT_ID` (Linux 5.8); rustix has no constant for it.
const STATX_MNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x1000);

/// An inode as it is recognised across restarts and renames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
pub(crate) struct Identity {
    #[n(0)]
    pub(crate) ino: u64,
    /// Birth time; zero where the file system keeps none.
    #[n(1)]
    pub(crate) born_s: i64,
    #[n(2)]
    pub(crate) born_ns: u32,
}

/// The facts of one `statx` that staging works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inode(Statx);

impl Inode {
    /// The inode behind an open descriptor.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        Self::read(fd, c"", AtFlags::EMPTY_PATH)
    }

    /// The inode at `name` in `dir`, a symlink itself if it is one; `None` if there is nothing.
    pub(crate) fn at(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Option<Self>> {
        match Self::read(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(inode) => Ok(Some(inode)),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn read(dir: impl AsFd, name: impl rustix::path::Arg, flags: AtFlags) -> io::Result<Self> {
        let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME | STATX_MNT_ID;
        // no automount is triggered by looking
        statx(dir, name, flags | AtFlags::NO_AUTOMOUNT, want).map(Self)
    }

    pub(crate) fn identity(&self) -> Identity {
        let has_birth = self.0.stx_mask & StatxFlags::BTIME.bits() != 0;
        let (born_s, born_ns) = if has_birth { (self.0.stx_btime.tv_sec, self.0.stx_btime.tv_nsec) } else { (0, 0) };
        Identity { ino: self.0.stx_ino, born_s, born_ns }
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(u32::from(self.0.stx_mode))
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Permission bits with setuid, setgid and sticky.
    pub(crate) fn mode(&self) -> u32 {
        u32::from(self.0.stx_mode) & 0o7777
    }

    pub(crate) fn size(&self) -> u64 {
        self.0.stx_size
    }

    /// Bytes of the file system that it takes.
    pub(crate) fn on_disk(&self) -> u64 {
        self.0.stx_blocks.saturating_mul(BLOCK)
    }

    /// The way to its holes, if it looks like having some.
    pub(crate) fn holes(&self) -> Holes {
        if self.on_disk() < self.size() { Holes::new() } else { Holes::none() }
    }

    pub(crate) fn ino(&self) -> u64 {
        self.0.stx_ino
    }

    pub(crate) fn links(&self) -> u32 {
        self.0.stx_nlink
    }

    pub(crate) fn uid(&self) -> u32 {
        self.0.stx_uid
    }

    /// Change time in nanoseconds; good until the year 2262.
    pub(crate) fn ctime(&self) -> i64 {
        nanos(self.0.stx_ctime.tv_sec, self.0.stx_ctime.tv_nsec)
    }

    /// Modification time in nanoseconds.
    pub(crate) fn mtime(&self) -> i64 {
        nanos(self.0.stx_mtime.tv_sec, self.0.stx_mtime.tv_nsec)
    }

    /// Device and mount, comparable within one process.
    pub(crate) fn place(&self) -> Place {
        Place { dev: (self.0.stx_dev_major, self.0.stx_dev_minor), mnt: self.mnt_id() }
    }

    /// Device and inode number, comparable within one process and across bind mounts.
    pub(crate) fn dev_ino(&self) -> ((u32, u32), u64) {
        ((self.0.stx_dev_major, self.0.stx_dev_minor), self.0.stx_ino)
    }

    /// The root of a mount, as far as the kernel says so.
    pub(crate) fn is_mount_root(&self) -> bool {
        self.0.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
            && self.0.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    }

    fn mnt_id(&self) -> Option<u64> {
        (self.0.stx_mask & STATX_MNT_ID.bits() != 0).then_some(self.0.stx_mnt_id)
    }
}

/// Where an inode lives: two that differ here are not to be renamed into each other or cleaned across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    dev: (u32, u32),
    mnt: Option<u64>,
}

fn nanos(secs: i64, nanos: u32) -> i64 {
    secs.saturating_mul(1_000_000_000).saturating_add(i64::from(nanos))
}

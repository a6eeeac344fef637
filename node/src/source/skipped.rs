//! What a walk leaves out, counted and, up to a limit, named. Names are escaped when they are taken in.

use std::fmt;

use me_sync_protocol::escape::escaped;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most names that a [`Skipped`] keeps; the rest is only counted.
pub(super) const MAX_NAMES: usize = 20;

/// Entries left out for one kind of reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Skipped {
    /// How many. A directory counts as one, however much lies below it.
    pub count: u64,
    /// The first 20 of them as `path (reason)`, escaped for printing.
    pub names: Vec<String>,
}

impl Skipped {
    pub(super) fn add(&mut self, path: &[u8], why: impl fmt::Display) {
        self.count += 1;
        if self.names.len() < MAX_NAMES {
            self.names.push(format!("{} ({why})", escaped(&String::from_utf8_lossy(path))));
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names.iter().try_for_each(|name| write!(f, "\n  {name}"))?;
        match self.count.saturating_sub(self.names.len() as u64) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

/// Things that are neither file, directory nor symlink. They are never opened and never sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpecialCounts {
    /// Named pipes.
    pub fifos: u64,
    /// Sockets.
    pub sockets: u64,
    /// Character and block devices.
    pub devices: u64,
    /// Kinds that this program does not know.
    pub other: u64,
}

/// Everything that a [`super::Snapshot`] does not hold although it lies below its root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkippedReport {
    /// Sockets, FIFOs and devices: always left out.
    pub special: Skipped,
    /// The same by kind.
    pub special_kinds: SpecialCounts,
    /// Unreadable: left out with `--skip-unreadable`.
    pub unreadable: Skipped,
    /// Names and symlink targets that no manifest can hold: left out with `--skip-unsupported`.
    pub unsupported: Skipped,
}

impl SkippedReport {
    /// How many entries in all.
    pub fn total(&self) -> u64 {
        self.special.count + self.unreadable.count + self.unsupported.count
    }

    pub(super) fn add_special(&mut self, path: &[u8], kind: FileType) {
        let kinds = &mut self.special_kinds;
        let (count, name) = match kind {
            FileType::Fifo => (&mut kinds.fifos, "named pipe"),
            FileType::Socket => (&mut kinds.sockets, "socket"),
            FileType::CharacterDevice => (&mut kinds.devices, "character device"),
            FileType::BlockDevice => (&mut kinds.devices, "block device"),
            FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown => {
                (&mut kinds.other, "unknown kind")
            }
        };
        *count += 1;
        self.special.add(path, name);
    }
}

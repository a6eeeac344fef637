//! A tree as one ZIP package (SPEC §13): writing it from a snapshot, reading it as what a stranger sent.
//!
//! ```text
//!  source::Snapshot ─► pack ─► wire ══► wire ─► spool ─► directory ─► measure ─► Manifest ─► unpack ─► staging
//!                      (twice: once to be hashed)        every byte of the package belongs to something
//! ```
//!
//! Owns the form of the package and the file that it waits in. Knows no session, no target and no journal: what it makes of
//! a package is a [`Manifest`](me_sync_protocol::manifest::Manifest), and what it fills is a staging tree like any other.
//! All but `wire` blocks; the caller brings the threads.

mod directory;
mod error;
mod fields;
mod locals;
mod measure;
mod pack;
mod spool;
#[cfg(test)]
mod tests;
mod unpack;
pub(crate) mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) use self::error::{PackError, PackageRefused};
pub(crate) use self::measure::{Package, open};
pub(crate) use self::pack::{Packed, measure, write};
pub(crate) use self::spool::{Spool, SpoolWriter, sweep};
pub(crate) use self::unpack::unpack;

/// What is read, inflated or written at once.
const BLOCK: usize = 64 << 10;

/// How far work of this module is, and whether it is to end.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Bytes of content so far.
    pub(crate) done: AtomicU64,
    /// Somebody wants it to stop.
    pub(crate) stop: AtomicBool,
}

impl Watch {
    fn add(&self, bytes: usize) {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

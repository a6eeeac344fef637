//! One lane as the importer sees it (SPEC §5.4): frames in, checked files out.
//!
//! Runs where the bytes are (the writer of the lane), so that chunks never pass the session's core.
//! A file becomes a [`VerifiedFile`] only here, only after its last byte, only with the right hash.

#[expect(dead_code, reason = "the lane that continues a file is not built yet")]
mod local;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
pub use local::{LocalFile, Partial};
use sha2::{Digest as _, Sha256};

use crate::frame::{FailedEntry, FileBegin, FileEnd, Frame};
use crate::ids::{Digest, EntryIndex};
use crate::manifest::{Manifest, Node};
use crate::reason::{Code, FailureReason};

/// A peer broke the protocol. The session ends with this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Violation {
    /// The stable code.
    pub code: Code,
    /// What the peer did.
    pub what: &'static str,
}

impl Violation {
    /// A frame that has no place here and now.
    pub(crate) const fn unexpected(what: &'static str) -> Self {
        Self { code: Code::FrameUnexpected, what }
    }
}

/// Which entries the importer waits for. Shared by all lanes of a session, so that one file arrives
/// on one lane, once. Lock-free: a bit is set when the entry is requested and cleared by the lane that begins it.
#[derive(Debug)]
pub struct Requested(Vec<AtomicU64>);

impl Requested {
    /// Nothing of `len` entries is requested.
    pub fn none_of(len: u32) -> Self {
        Self((0..=len / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// Allows one transfer of the entry.
    pub fn request(&self, index: EntryIndex) {
        if let Some(word) = self.0.get(index.at() / 64) {
            word.fetch_or(1 << (index.0 % 64), Ordering::AcqRel);
        }
    }

    /// Takes the right to transfer the entry; false if nobody asked for it or somebody has it.
    pub fn claim(&self, index: EntryIndex) -> bool {
        let bit = 1 << (index.0 % 64);
        self.0.get(index.at() / 64).is_some_and(|word| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }
}

/// Proof that every byte of an entry arrived and has the declared SHA-256.
#[derive(Debug, PartialEq, Eq)]
pub struct VerifiedFile {
    index: EntryIndex,
    size: u64,
}

impl VerifiedFile {
    /// An entry that a durable ledger of this device records as verified; none if it is no file.
    /// Nothing is hashed: the record, and that the file on disk is still the one it is about, stand for it.
    pub fn recorded(manifest: &Manifest, index: EntryIndex) -> Option<Self> {
        match manifest.entry(index)?.node {
            Node::File { size, .. } => Some(Self { index, size }),
            Node::Dir | Node::Symlink { .. } => None,
        }
    }

    /// Which entry.
    pub fn index(&self) -> EntryIndex {
        self.index
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// What became of one file, for the session's core.
#[derive(Debug, PartialEq, Eq)]
pub enum FileReport {
    /// It arrived and is right.
    Ok(VerifiedFile),
    /// It is to be asked for again.
    Failed(FailedEntry),
}

/// What the lane's writer does next.
#[derive(Debug, PartialEq, Eq)]
pub enum LaneStep {
    /// Create the file.
    Create(EntryIndex),
    /// Append these bytes, hashed already.
    Write(Bytes),
    /// Close and keep the file.
    Keep(VerifiedFile),
    /// Throw away what there is of the file.
    Drop {
        /// What to report.
        entry: FailedEntry,
        /// The finer reason the exporter gave, if it was the exporter's.
        from_exporter: Option<Code>,
    },
    /// Bytes of a file that has failed already.
    Ignore,
}

/// The receiving end of one lane.
#[derive(Debug)]
pub struct LaneReceiver {
    manifest: Arc<Manifest>,
    requested: Arc<Requested>,
    max_chunk: usize,
    current: Option<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    index: EntryIndex,
    size: u64,
    sha256: Digest,
    arrived: u64,
    hash: Sha256,
    failed: Option<FailureReason>,
}

impl LaneReceiver {
    /// A lane of a session over this manifest. Chunks over `max_chunk` bytes break what was agreed.
    pub fn new(manifest: Arc<Manifest>, requested: Arc<Requested>, max_chunk: u32) -> Self {
        Self { manifest, requested, max_chunk: max_chunk as usize, current: None }
    }

    /// The entry that is under way.
    pub fn current(&self) -> Option<EntryIndex> {
        self.current.as_ref().map(|file| file.index)
    }

    /// Takes the next frame of the lane.
    ///
    /// # Errors
    /// The frame breaks SPEC §5.4; the session ends.
    pub fn handle(&mut self, frame: Frame) -> Result<LaneStep, Violation> {
        match frame {
            Frame::FileBegin(begin) => self.begin(begin),
            Frame::FileChunk(bytes) => self.chunk(bytes),
            Frame::FileEnd(end) => self.end(end),
            Frame::Hello(_)
            | Frame::Ack(_)
            | Frame::ManifestBegin(_)
            | Frame::ManifestChunk(_)
            | Frame::ManifestEnd(_)
            | Frame::PhaseEnd(_)
            | Frame::RetryRequest(_)
            | Frame::RetryBegin(_)
            | Frame::RetryEnd(_)
            | Frame::PendingRequest(_)
            | Frame::PendingList(_)
            | Frame::FinalizeRequest(_)
            | Frame::FinalizeResult(_)
            | Frame::Progress(_)
            | Frame::Abort(_) => Err(Violation::unexpected("a control frame on a lane")),
        }
    }

    /// The writer could not store the file: the rest of it is passed over and it counts as failed.
    pub fn fail(&mut self, reason: FailureReason) {
        if let Some(file) = &mut self.current {
            file.failed.get_or_insert(reason);
        }
    }

    fn begin(&mut self, begin: FileBegin) -> Result<LaneStep, Violation> {
        if self.current.is_some() {
            return Err(Violation::unexpected("a file begins inside another"));
        }
        let entry =
            self.manifest.entry(begin.index).ok_or(Violation::unexpected("a file that the manifest does not have"))?;
        let Node::File { size, sha256 } = entry.node else {
            return Err(Violation::unexpected("a file where the manifest has none"));
        };
        if (begin.size, begin.sha256) != (size, sha256) {
            return Err(Violation::unexpected("size or hash of a file are not those of the manifest"));
        }
        if begin.offset != 0 {
            return Err(Violation { code: Code::OffsetMismatch, what: "a file continues where nothing was kept" });
        }
        if !self.requested.claim(begin.index) {
            return Err(Violation::unexpected("a file that was not asked for, or comes twice"));
        }
        let hash = Sha256::new();
        self.current = Some(Incoming { index: begin.index, size, sha256, arrived: 0, hash, failed: None });
        Ok(LaneStep::Create(begin.index))
    }

    fn chunk(&mut self, bytes: Bytes) -> Result<LaneStep, Violation> {
        let file = self.current.as_mut().ok_or(Violation::unexpected("a chunk of no file"))?;
        if bytes.len() > self.max_chunk {
            return Err(Violation { code: Code::FrameTooLarge, what: "a chunk larger than was agreed" });
        }
        file.arrived = file.arrived.saturating_add(bytes.len() as u64);
        let surplus = file.arrived.saturating_sub(file.size);
        if surplus > 0 {
            file.failed.get_or_insert(FailureReason::SizeMismatch);
        }
        // a file may be wrong, but not without end: its bytes count as progress
        if surplus > self.max_chunk as u64 {
            return Err(Violation { code: Code::SizeMismatch, what: "a file goes on and on past its declared size" });
        }
        if file.failed.is_some() {
            return Ok(LaneStep::Ignore);
        }
        file.hash.update(&bytes);
        Ok(LaneStep::Write(bytes))
    }

    fn end(&mut self, end: FileEnd) -> Result<LaneStep, Violation> {
        let file = self.current.take().ok_or(Violation::unexpected("the end of no file"))?;
        if end.index != file.index {
            return Err(Violation::unexpected("the end of another file than the one that was begun"));
        }
        let reason = match (file.failed, end.failed) {
            (Some(ours), _) => Some(ours),
            (None, Some(_)) => Some(FailureReason::IoError),
            (None, None) if file.arrived != file.size => Some(FailureReason::SizeMismatch),
            (None, None) if Digest(file.hash.finalize().into()) != file.sha256 => Some(FailureReason::HashMismatch),
            (None, None) => None,
        };
        Ok(match reason {
            None => LaneStep::Keep(VerifiedFile { index: file.index, size: file.size }),
            Some(reason) => {
                LaneStep::Drop { entry: FailedEntry { index: file.index, reason }, from_exporter: end.failed }
            }
        })
    }
}

#[cfg(test)]
mod tests;

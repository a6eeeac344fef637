//! The receiving end of one lane (SPEC §5.4): frames in, checked files out.

use std::sync::Arc;

use bytes::Bytes;

use super::{Partial, Requested, VerifiedFile, Violation};
use crate::frame::{FailedEntry, FileBegin, FileEnd, FileZeros, Frame};
use crate::hash::Hasher;
use crate::ids::{Digest, EntryIndex};
use crate::manifest::{Manifest, Node};
use crate::packed::Packed;
use crate::reason::{Code, FailureReason};

/// What the lane's writer does next.
#[derive(Debug, PartialEq, Eq)]
pub enum LaneStep {
    /// Create the file, in place of what there is of it.
    Create(EntryIndex),
    /// Open what is staged of the file and go on after its first bytes; what lies beyond them goes.
    Continue(EntryIndex, u64),
    /// Append these bytes, hashed already.
    Write(Bytes),
    /// The next so many bytes are zeros, hashed already: a hole, where the disk can have one.
    Zeros(u32),
    /// Unpack this into a buffer of [`Packed::unpacked`] bytes and give the result to [`LaneReceiver::unpacked`].
    Unpack(Packed),
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
    takes_packed: bool,
    takes_zeros: bool,
    current: Option<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    index: EntryIndex,
    size: u64,
    /// None: `file_end` says it.
    sha256: Option<Digest>,
    arrived: u64,
    hash: Hasher,
    failed: Option<FailureReason>,
}

impl LaneReceiver {
    /// A lane of a session over this manifest. Chunks over `max_chunk` bytes break what was agreed.
    pub fn new(manifest: Arc<Manifest>, requested: Arc<Requested>, max_chunk: u32) -> Self {
        let max_chunk = max_chunk as usize;
        Self { manifest, requested, max_chunk, takes_packed: false, takes_zeros: false, current: None }
    }

    /// Whether packed chunks were agreed on; without that they are refused.
    pub fn taking_packed(self, agreed: bool) -> Self {
        Self { takes_packed: agreed, ..self }
    }

    /// Whether holes were agreed on; without that their frames are refused.
    pub fn taking_zeros(self, agreed: bool) -> Self {
        Self { takes_zeros: agreed, ..self }
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
            Frame::FilePacked(packed) => self.packed(packed),
            Frame::FileZeros(FileZeros { len }) => self.zeros(len),
            Frame::FileEnd(end) => self.end(end),
            Frame::FileStrand(_) => {
                Err(Violation::unexpected("a frame that stands for chunks of a strand, in their place"))
            }
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
            | Frame::Probe(_)
            | Frame::PipeHello(_)
            | Frame::PipeProof(_)
            | Frame::Request(_)
            | Frame::Response(_)
            | Frame::Abort(_) => Err(Violation::unexpected("a control frame on a lane")),
        }
    }

    /// What [`LaneStep::Unpack`] came to; none if that cannot be unpacked.
    ///
    /// # Errors
    /// It is not what was declared (SPEC §5.4); the session ends.
    pub fn unpacked(&mut self, packed: &Packed, content: Option<Bytes>) -> Result<LaneStep, Violation> {
        let file = self.current.as_mut().ok_or(Violation::unexpected("a chunk of no file"))?;
        match content {
            Some(content) if content.len() == packed.unpacked() as usize => {
                file.hash.update(&content);
                Ok(LaneStep::Write(content))
            }
            Some(_) | None => {
                Err(Violation { code: Code::FrameUnknown, what: "a packed chunk does not unpack to what it declares" })
            }
        }
    }

    /// The writer could not store the file: the rest of it is passed over and it counts as failed.
    pub fn fail(&mut self, reason: FailureReason) {
        if let Some(file) = &mut self.current {
            file.failed.get_or_insert(reason);
        }
    }

    /// The lane is gone: what there is of the current file, to be continued later; none if that is nothing, or if the
    /// file has failed and what is staged of it is to be thrown away. Every [`LaneStep::Write`],
    /// [`LaneStep::Zeros`] and [`LaneStep::Unpack`] must have been done.
    ///
    /// A file of which all bytes are here and right, and only `file_end` is not, is kept too: its offset is its size.
    pub fn suspend(self) -> Option<Partial> {
        let file = self.current.filter(|file| file.failed.is_none() && file.arrived > 0)?;
        // where the hash is not known yet, a wrong file is found when it is
        let whole = file.sha256.filter(|_| file.arrived == file.size);
        if whole.is_some_and(|sha256| file.hash.clone().finish() != sha256) {
            return None;
        }
        Some(Partial { index: file.index, offset: file.arrived, hash: file.hash })
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
        let FileBegin { index, offset: arrived, .. } = begin;
        let staged = self.requested.take(index);
        let staged = staged.ok_or(Violation::unexpected("a file that was not asked for, or comes twice"))?;
        let hash = match staged {
            _ if arrived == 0 => Hasher::new(),
            Some(partial) if partial.offset == arrived => partial.hash,
            Some(_) | None => {
                return Err(Violation { code: Code::OffsetMismatch, what: "a file continues where nothing was kept" });
            }
        };
        self.current = Some(Incoming { index, size, sha256, arrived, hash, failed: None });
        Ok(if arrived == 0 { LaneStep::Create(index) } else { LaneStep::Continue(index, arrived) })
    }

    fn packed(&mut self, packed: Packed) -> Result<LaneStep, Violation> {
        if !self.takes_packed {
            return Err(Violation::unexpected("a packed chunk that was not agreed on"));
        }
        // what is passed over need not be unpacked
        Ok(if self.admits(packed.unpacked() as usize)? { LaneStep::Unpack(packed) } else { LaneStep::Ignore })
    }

    fn zeros(&mut self, len: u32) -> Result<LaneStep, Violation> {
        if !self.takes_zeros {
            return Err(Violation::unexpected("a hole that was not agreed on"));
        }
        if len == 0 {
            return Err(Violation::unexpected("an empty chunk"));
        }
        if !self.admits(len as usize)? {
            return Ok(LaneStep::Ignore);
        }
        if let Some(file) = &mut self.current {
            file.hash.update_zeros(u64::from(len));
        }
        Ok(LaneStep::Zeros(len))
    }

    fn chunk(&mut self, bytes: Bytes) -> Result<LaneStep, Violation> {
        if !self.admits(bytes.len())? {
            return Ok(LaneStep::Ignore);
        }
        if let Some(file) = &mut self.current {
            file.hash.update(&bytes);
        }
        Ok(LaneStep::Write(bytes))
    }

    /// Counts so many bytes of content for the file under way. False if they are to be passed over.
    fn admits(&mut self, content: usize) -> Result<bool, Violation> {
        let file = self.current.as_mut().ok_or(Violation::unexpected("a chunk of no file"))?;
        if content > self.max_chunk {
            return Err(Violation { code: Code::FrameTooLarge, what: "a chunk larger than was agreed" });
        }
        file.arrived = file.arrived.saturating_add(content as u64);
        let surplus = file.arrived.saturating_sub(file.size);
        if surplus > 0 {
            file.failed.get_or_insert(FailureReason::SizeMismatch);
        }
        // a file may be wrong, but not without end: its bytes count as progress
        if surplus > self.max_chunk as u64 {
            return Err(Violation { code: Code::SizeMismatch, what: "a file goes on and on past its declared size" });
        }
        Ok(file.failed.is_none())
    }

    fn end(&mut self, end: FileEnd) -> Result<LaneStep, Violation> {
        let file = self.current.take().ok_or(Violation::unexpected("the end of no file"))?;
        if end.index != file.index {
            return Err(Violation::unexpected("the end of another file than the one that was begun"));
        }
        let declared = match (file.sha256, end.sha256, end.failed) {
            (Some(declared), None, _) => Some(declared),
            (None, late, failed) if late.is_some() != failed.is_some() => late,
            (Some(_), Some(_), _) | (None, _, _) => {
                return Err(Violation::unexpected(
                    "a file ends with a hash it must not have, or without the one it owes",
                ));
            }
        };
        let sha256 = file.hash.finish();
        let reason = match (file.failed, end.failed) {
            (Some(ours), _) => Some(ours),
            (None, Some(_)) => Some(FailureReason::IoError),
            (None, None) if file.arrived != file.size => Some(FailureReason::SizeMismatch),
            (None, None) if declared != Some(sha256) => Some(FailureReason::HashMismatch),
            (None, None) => None,
        };
        Ok(match reason {
            None => LaneStep::Keep(VerifiedFile { index: file.index, size: file.size, sha256 }),
            Some(reason) => {
                LaneStep::Drop { entry: FailedEntry { index: file.index, reason }, from_exporter: end.failed }
            }
        })
    }
}

#[cfg(test)]
mod tests;

//! Frames: what travels on a stream of `/me-sync/4/stream`, and what a probe begins with (SPEC §5).
//!
//! All frame types of the seed under their names, and ours: `hello`, `ack`, `pipe_hello`, `pipe_proof`, `request`, `response`,
//! `file_packed`, `file_zeros`, `file_strand`, `pending_request`, `pending_list`, `progress`, `probe`. Encoding is in [`crate::codec`].

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::ids::{Digest, EntryIndex, Nonce, SessionId, TicketId};
use crate::packed::Packed;
use crate::progress::{Counters, Phase};
use crate::reason::{Code, FailureReason};

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First frame of the opener.
    Hello(StreamHello),
    /// The acceptor's answer to `hello`; without it the opener tries again.
    Ack(Ack),
    /// First frame of each side on a pipe.
    PipeHello(PipeHello),
    /// The importer's proof on a pipe.
    PipeProof(PipeProof),
    /// A message of [`crate::message::Request`], on a pipe.
    Request(Bytes),
    /// Its answer, a [`crate::message::Response`], on a pipe.
    Response(Bytes),
    /// Starts the manifest: its header in canonical form (SPEC §4.1).
    ManifestBegin(Bytes),
    /// Whole entries in canonical form, one after the other.
    ManifestChunk(Bytes),
    /// Ends the manifest.
    ManifestEnd(ManifestEnd),
    /// A file follows on this stream.
    FileBegin(FileBegin),
    /// The next bytes of the file that was begun; at least one.
    FileChunk(Bytes),
    /// The file is over, whole or not.
    FileEnd(FileEnd),
    /// The next bytes of the file that was begun, packed; where that was agreed.
    FilePacked(Packed),
    /// The next bytes of the file that was begun are a hole; where that was agreed.
    FileZeros(FileZeros),
    /// The next chunks of the file that was begun are on the lane's strand.
    FileStrand(FileStrand),
    /// The bulk is over.
    PhaseEnd(PhaseEnd),
    /// The importer lists what failed; none means that all is well.
    RetryRequest(RetryRequest),
    /// A retry round starts.
    RetryBegin(RetryBegin),
    /// A retry round is over.
    RetryEnd(RetryEnd),
    /// The exporter asks what is still missing.
    PendingRequest(PendingRequest),
    /// The importer answers what is still missing.
    PendingList(PendingList),
    /// The exporter has sent all it was asked for and wants the tree applied.
    FinalizeRequest(FinalizeRequest),
    /// How that ended.
    FinalizeResult(FinalizeResult),
    /// Sign of life with the sender's own view of the session.
    Progress(Progress),
    /// Asks for noise, to measure how fast it comes.
    Probe(Probe),
    /// The session is over.
    Abort(Abort),
}

/// What a stream is for (SPEC §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Role {
    /// The session's two-way control stream, opened by the importer.
    #[n(0)]
    Control,
    /// A one-way stream of files, opened by the exporter. Numbered from 0.
    #[n(1)]
    Lane(#[n(0)] u8),
    /// A one-way stream beside the lane of that number, opened by the exporter, for chunks of its files.
    #[n(2)]
    Strand(#[n(0)] u8),
}

/// Body of `hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StreamHello {
    /// The session this stream belongs to.
    #[n(0)]
    pub session_id: SessionId,
    /// Its role there.
    #[n(1)]
    pub role: Role,
}

/// Body of `ack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ack {
    /// Why the stream is refused; none when it is taken.
    #[n(0)]
    pub refused: Option<Code>,
}

/// What an importer on a pipe holds the secret of (SPEC §5.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum PipeKey {
    /// A ticket, with its secret.
    #[n(0)]
    Ticket(#[n(0)] TicketId),
    /// A session that was granted before, with its resume secret.
    #[n(1)]
    Session(#[n(0)] SessionId),
}

/// Body of `pipe_hello` (SPEC §5.13).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PipeHello {
    /// PeerId of the sender, as its multihash bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub peer_id: Vec<u8>,
    /// Chosen by the sender for this pipe.
    #[n(1)]
    pub nonce: Nonce,
    /// From the importer: what it proves to know.
    #[n(2)]
    pub key: Option<PipeKey>,
    /// From the exporter.
    #[n(3)]
    pub proof: Option<PipeProof>,
}

/// Body of `pipe_proof`, and the exporter's part in its `pipe_hello` (SPEC §5.13): see [`crate::pipe`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PipeProof {
    /// MAC with the secret.
    #[n(0)]
    pub mac: Digest,
    /// Signature with the key of the PeerId.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
}

/// Body of `manifest_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ManifestEnd {
    /// SHA-256 over the canonical bytes of header and entries.
    #[n(0)]
    pub manifest_sha256: Digest,
}

/// Body of `file_begin`. Size and hash repeat the manifest and must agree with it; in an outline there may be no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileBegin {
    /// Which entry.
    #[n(0)]
    pub index: EntryIndex,
    /// Its whole size in bytes.
    #[n(1)]
    pub size: u64,
    /// Its SHA-256, if the manifest has it.
    #[n(2)]
    pub sha256: Option<Digest>,
    /// The first byte that follows; not 0 only where `pending_list` named it.
    #[n(3)]
    pub offset: u64,
}

/// Body of `file_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileEnd {
    /// Which entry: the one that was begun.
    #[n(0)]
    pub index: EntryIndex,
    /// Why the exporter could not send it whole; none when it did.
    #[n(1)]
    pub failed: Option<Code>,
    /// The SHA-256 of what was sent, if the manifest does not have it and the file was sent whole.
    #[n(2)]
    pub sha256: Option<Digest>,
}

/// Body of `file_zeros`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileZeros {
    /// How many bytes of zero it stands for; at least one.
    #[n(0)]
    pub len: u32,
}

/// Body of `file_strand` (SPEC §5.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileStrand {
    /// How many chunks are to be taken from the strand before the next frame of the lane; at least one.
    #[n(0)]
    pub chunks: u32,
}

/// Body of `phase_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PhaseEnd {
    /// `file_end` frames sent in the bulk.
    #[n(0)]
    pub files: u64,
    /// Payload bytes sent in the bulk.
    #[n(1)]
    pub bytes: u64,
}

/// One failed entry of a `retry_request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct FailedEntry {
    /// Which entry.
    #[n(0)]
    pub index: EntryIndex,
    /// Why it failed.
    #[n(1)]
    pub reason: FailureReason,
}

/// Body of `retry_request`. A list over 4096 entries spans several frames of the same round.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RetryRequest {
    /// The round this asks for, from 1.
    #[n(0)]
    pub round: u32,
    /// What failed, ascending.
    #[n(1)]
    pub failed: Vec<FailedEntry>,
    /// More frames of this list follow.
    #[n(2)]
    pub more: bool,
}

/// Body of `retry_begin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RetryBegin {
    /// Which round.
    #[n(0)]
    pub round: u32,
    /// Files it will send.
    #[n(1)]
    pub files: u64,
}

/// Body of `retry_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RetryEnd {
    /// Which round.
    #[n(0)]
    pub round: u32,
    /// `file_end` frames sent in it.
    #[n(1)]
    pub files: u64,
    /// Payload bytes sent in it.
    #[n(2)]
    pub bytes: u64,
}

/// Body of `pending_request`: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PendingRequest {}

/// A run of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct IndexRange {
    /// The first.
    #[n(0)]
    pub start: EntryIndex,
    /// How many, at least one.
    #[n(1)]
    pub len: u32,
}

/// A file of which the first bytes are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct PartialFile {
    /// Which entry; it lies in one of the ranges of the same frame.
    #[n(0)]
    pub index: EntryIndex,
    /// How many of its first bytes are there, from 1 to all.
    #[n(1)]
    pub offset: u64,
}

/// Body of `pending_list`. A list over 4096 ranges spans several frames. Indices of directories
/// and symlinks may lie in a range; they are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PendingList {
    /// What is missing, ascending, without overlaps.
    #[n(0)]
    pub ranges: Vec<IndexRange>,
    /// Which of those are partly there, ascending.
    #[n(1)]
    pub partial: Vec<PartialFile>,
    /// More frames of this list follow.
    #[n(2)]
    pub more: bool,
}

/// Body of `finalize_request` (SPEC §5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FinalizeRequest {
    /// The manifest that is to be applied.
    #[n(0)]
    pub manifest_sha256: Digest,
    /// Its entries.
    #[n(1)]
    pub entry_count: u64,
    /// Its bytes.
    #[n(2)]
    pub total_bytes: u64,
}

/// Body of `finalize_result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FinalizeResult {
    /// Why the tree was not applied; none when it is in place and durable.
    #[n(0)]
    pub failed: Option<Code>,
}

/// Body of `progress` (SPEC §5.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Progress {
    /// The sender's phase.
    #[n(0)]
    pub phase: Phase,
    /// The sender's counters; while an exporter makes its manifest, what it has hashed so far.
    #[n(1)]
    pub counters: Counters,
    /// Since its last `progress` the sender was waiting for its own disk: bytes that do not move are not the
    /// reader's fault, nor the sender's lack of will (SPEC §8.2).
    #[n(2)]
    pub waiting: bool,
}

impl Progress {
    /// Takes the place of one that was not sent: whatever either of them waited for counts.
    pub(crate) fn renew(&mut self, newer: Self) {
        *self = Self { waiting: self.waiting || newer.waiting, ..newer };
    }
}

/// Body of `probe` (SPEC §5.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Probe {
    /// How many bytes of noise are wanted; [`crate::limits::MAX_PROBE`] at most come.
    #[n(0)]
    pub bytes: u32,
}

/// Body of `abort` (SPEC §5.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Abort {
    /// Why.
    #[n(0)]
    pub code: Code,
}

impl Frame {
    /// The name in SPEC §5.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Ack(_) => "ack",
            Self::PipeHello(_) => "pipe_hello",
            Self::PipeProof(_) => "pipe_proof",
            Self::Request(_) => "request",
            Self::Response(_) => "response",
            Self::ManifestBegin(_) => "manifest_begin",
            Self::ManifestChunk(_) => "manifest_chunk",
            Self::ManifestEnd(_) => "manifest_end",
            Self::FileBegin(_) => "file_begin",
            Self::FileChunk(_) => "file_chunk",
            Self::FileEnd(_) => "file_end",
            Self::FilePacked(_) => "file_packed",
            Self::FileZeros(_) => "file_zeros",
            Self::FileStrand(_) => "file_strand",
            Self::PhaseEnd(_) => "phase_end",
            Self::RetryRequest(_) => "retry_request",
            Self::RetryBegin(_) => "retry_begin",
            Self::RetryEnd(_) => "retry_end",
            Self::PendingRequest(_) => "pending_request",
            Self::PendingList(_) => "pending_list",
            Self::FinalizeRequest(_) => "finalize_request",
            Self::FinalizeResult(_) => "finalize_result",
            Self::Progress(_) => "progress",
            Self::Probe(_) => "probe",
            Self::Abort(_) => "abort",
        }
    }
}

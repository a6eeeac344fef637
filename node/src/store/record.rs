//! What is remembered of one import, one export, one failed file.
//!
//! Records are CBOR maps: a later version adds fields under new numbers, and an older one skips what it does not know.

use std::fmt;
use std::path::PathBuf;

use libp2p::PeerId;
use me_sync_protocol::ids::{Digest, EntryIndex, Secret, SessionId, TicketId};
use me_sync_protocol::limits;
use me_sync_protocol::message::Granted;
use me_sync_protocol::reason::{Code, FailureReason};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use super::codec;
use crate::clock::{LastSeen, wall_ms};
use crate::net::TransportPreference;
use crate::post_apply::PostApply;
use crate::source::ScanOptions;

/// How far a remembered session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum SessionStatus {
    /// It goes on when both devices meet again.
    #[n(0)]
    Open,
    /// The importer applies, or may: never interrupted, and its journal knows how it went.
    #[n(1)]
    Finalizing,
    /// The new tree is in place.
    #[n(2)]
    Completed,
    /// It failed, and what there is of it is kept, so that it can be tried again.
    #[n(3)]
    Failed,
    /// It is over without a new tree, and there is no way back.
    #[n(4)]
    Ended,
}

impl SessionStatus {
    /// Nothing more will come of it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Ended)
    }
}

/// A ticket as it was typed. It opens a session, so it never prints, and it is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketText(Zeroizing<String>);

impl TicketText {
    /// Takes the text of a ticket.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for parsing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TicketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketText(..)")
    }
}

impl<C> Encode<C> for TicketText {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for TicketText {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.str().map(Self::new)
    }
}

/// What the exporter granted when the ticket was redeemed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Grant {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// Proves that it is the same importer who resumes.
    #[n(1)]
    pub resume_secret: Secret,
    /// Lanes at most.
    #[n(2)]
    pub lanes: u8,
    /// Largest chunk in bytes.
    #[n(3)]
    pub max_chunk: u32,
}

impl From<&Granted> for Grant {
    fn from(granted: &Granted) -> Self {
        Self {
            session: granted.session_id,
            resume_secret: granted.resume_secret.clone(),
            lanes: granted.lanes,
            max_chunk: granted.max_chunk,
        }
    }
}

impl Grant {
    /// The answer that was given, for a peer that asks again.
    pub(crate) fn granted(&self, source_name: String) -> Granted {
        Granted {
            session_id: self.session,
            resume_secret: self.resume_secret.clone(),
            expires_at_ms: wall_ms().saturating_add(limits::SESSION_TTL.as_millis() as u64),
            lanes: self.lanes,
            max_chunk: self.max_chunk,
            source_name,
            // agreed anew in each conversation
            zstd: false,
            holes: false,
        }
    }
}

/// What the importer's user allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct TargetChoices {
    /// The home directory itself may be replaced.
    #[n(0)]
    pub allow_home: bool,
    /// A target that was edited while the data came in is not replaced.
    #[n(1)]
    pub fail_if_changed: bool,
    /// World-writable bits of the manifest are kept.
    #[n(2)]
    pub keep_world_writable: bool,
    /// Which transport the connection must use.
    #[cbor(n(3), with = "codec::transport")]
    pub transport: TransportPreference,
}

/// What the exporter's user leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct SourceChoices {
    /// What cannot be read.
    #[n(0)]
    pub skip_unreadable: bool,
    /// What no manifest can hold.
    #[n(1)]
    pub skip_unsupported: bool,
}

impl From<ScanOptions> for SourceChoices {
    fn from(ScanOptions { skip_unreadable, skip_unsupported }: ScanOptions) -> Self {
        Self { skip_unreadable, skip_unsupported }
    }
}

impl From<SourceChoices> for ScanOptions {
    fn from(SourceChoices { skip_unreadable, skip_unsupported }: SourceChoices) -> Self {
        Self { skip_unreadable, skip_unsupported }
    }
}

/// An import, from the redeemed ticket on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ImportRecord {
    /// Which session; the key of the record.
    #[n(0)]
    pub session: SessionId,
    /// The ticket as it was given.
    #[n(1)]
    pub ticket_text: TicketText,
    /// Which ticket that is.
    #[n(2)]
    pub ticket: TicketId,
    /// The exporter.
    #[cbor(n(3), with = "codec::peer_id")]
    pub peer: PeerId,
    /// What the exporter calls itself. Escape it before printing.
    #[n(4)]
    pub peer_name: String,
    /// What the exporter calls the tree. Escape it before printing.
    #[n(5)]
    pub source_name: String,
    /// Where the exporter was found, best first, as multiaddr text.
    #[n(6)]
    pub addresses: Vec<String>,
    /// What the exporter granted.
    #[n(7)]
    pub grant: Grant,
    /// The directory that becomes the tree.
    #[cbor(n(8), with = "codec::path")]
    pub target: PathBuf,
    /// What the user allowed.
    #[n(9)]
    pub choices: TargetChoices,
    /// The manifest that is held, once it is.
    #[n(10)]
    pub manifest: Option<Digest>,
    /// How far it is.
    #[n(11)]
    pub state: SessionStatus,
    /// Why it failed or ended.
    #[n(12)]
    pub failed_code: Option<Code>,
    /// When the ticket was redeemed.
    #[n(13)]
    pub created: LastSeen,
    /// When it last made progress.
    #[n(14)]
    pub last: LastSeen,
    /// Files in the manifest.
    #[n(15)]
    pub files: u64,
    /// Bytes in the manifest.
    #[n(16)]
    pub bytes: u64,
    /// Files that are here.
    #[n(17)]
    pub files_ok: u64,
    /// Their bytes.
    #[n(18)]
    pub bytes_ok: u64,
    /// The exporter knows how it ended.
    #[n(19)]
    pub told: bool,
    /// What runs after the swap, as somebody on this device has said.
    #[n(20)]
    pub post_apply: Option<PostApply>,
}

/// An offer and the session that came of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExportRecord {
    /// The ticket; the key of the record.
    #[n(0)]
    pub ticket: TicketId,
    /// What proves that somebody was given the ticket.
    #[n(1)]
    pub ticket_secret: Secret,
    /// When the ticket becomes void, in milliseconds since 1970.
    #[n(2)]
    pub expires_at_ms: u64,
    /// The tree's root with all symlinks resolved.
    #[cbor(n(3), with = "codec::path")]
    pub root: PathBuf,
    /// What the user leaves out.
    #[n(4)]
    pub choices: SourceChoices,
    /// What the importer is told the tree is called.
    #[n(5)]
    pub source_name: String,
    /// The importer that the ticket is bound to.
    #[cbor(n(6), with = "codec::maybe_peer_id", has_nil)]
    pub peer: Option<PeerId>,
    /// What the importer calls itself. Escape it before printing.
    #[n(7)]
    pub peer_name: String,
    /// Where this node could be reached, as the ticket says it.
    #[n(8)]
    pub addresses: Vec<String>,
    /// The session that the ticket opened.
    #[n(9)]
    pub grant: Option<Grant>,
    /// The manifest that was sealed.
    #[n(10)]
    pub manifest: Option<Digest>,
    /// How far it is.
    #[n(11)]
    pub state: SessionStatus,
    /// Why it failed or ended.
    #[n(12)]
    pub failed_code: Option<Code>,
    /// When the ticket was issued.
    #[n(13)]
    pub created: LastSeen,
    /// When it last made progress.
    #[n(14)]
    pub last: LastSeen,
    /// Files in the manifest.
    #[n(15)]
    pub files: u64,
    /// Bytes in the manifest.
    #[n(16)]
    pub bytes: u64,
    /// Files that the importer is known to have.
    #[n(17)]
    pub files_ok: u64,
    /// Their bytes.
    #[n(18)]
    pub bytes_ok: u64,
    /// The outline that the importer was given before the manifest was sealed.
    #[n(19)]
    pub outline: Option<Digest>,
}

impl ExportRecord {
    /// The ticket is void, by the wall clock or by the one that counts since boot.
    pub fn is_ticket_expired(&self, now: &LastSeen) -> bool {
        let life = self.expires_at_ms.saturating_sub(self.created.wall_ms);
        now.wall_ms >= self.expires_at_ms || self.created.idle(now).as_millis() >= u128::from(life)
    }
}

/// A file that failed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FailureRecord {
    /// Which entry of the manifest.
    #[n(0)]
    pub index: EntryIndex,
    /// Its path in the tree. Escape it before printing.
    #[n(1)]
    pub path: String,
    /// Why, as the protocol says it.
    #[n(2)]
    pub reason: FailureReason,
    /// Why, more closely.
    #[n(3)]
    pub code: Code,
    /// The operating system's error number on this device.
    #[n(4)]
    pub os_error: Option<i32>,
    /// How often it was tried.
    #[n(5)]
    pub attempts: u32,
}

/// Where a node listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct ListenPort {
    /// IPv6; else IPv4.
    #[n(0)]
    pub ipv6: bool,
    /// QUIC over UDP; else TCP.
    #[n(1)]
    pub quic: bool,
    /// The port.
    #[n(2)]
    pub port: u16,
}

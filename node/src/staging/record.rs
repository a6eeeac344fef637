//! What is durable of a session: enough to settle it or to go on with it after any crash.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use me_sync_protocol::ids::{Digest, SessionId};
use me_sync_protocol::limits;
use me_sync_protocol::reason::Code;

use super::inode::Identity;
use super::seen::LastSeen;
use crate::process::ProcessMark;

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum SessionState {
    /// The staging tree is being filled.
    #[n(0)]
    Receiving,
    /// The staging tree is complete, checked and on the disk.
    #[n(1)]
    Verified,
    /// The swap may or may not have happened.
    #[n(2)]
    SwapIntent,
    /// The new tree is in place, durably.
    #[n(3)]
    Swapped,
    /// The new tree stays; the old one is retained until its time is over.
    #[n(4)]
    Committed,
    /// The way back may or may not have happened.
    #[n(5)]
    RollbackIntent,
    /// The old tree is back; the undone one is retained until its time is over.
    #[n(6)]
    RolledBack,
    /// Nothing but this record is left.
    #[n(7)]
    Cleaned,
    /// Over without effect on the target.
    #[n(8)]
    Failed,
}

/// How the two trees change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub(crate) enum Method {
    /// One atomic exchange; a plain move when there is no old tree.
    #[n(0)]
    Exchange,
    /// Two renames: the target is absent for a moment.
    #[n(1)]
    TwoRename,
}

/// Everything that recovery needs to know about a session.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) struct Record {
    #[n(0)]
    pub(crate) session: SessionId,
    #[n(1)]
    pub(crate) state: SessionState,
    /// Resolved path of the target's parent, raw bytes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) parent: Vec<u8>,
    /// The target's name in it, raw bytes.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(crate) name: Vec<u8>,
    #[n(4)]
    pub(crate) parent_id: Identity,
    /// The name of the staging tree, and of the retained tree after the swap.
    #[n(5)]
    pub(crate) staging: String,
    /// None: there was no target.
    #[n(6)]
    pub(crate) old: Option<Identity>,
    /// None until the staging directory exists.
    #[n(7)]
    pub(crate) new: Option<Identity>,
    #[n(8)]
    pub(crate) method: Method,
    /// Swaps tried.
    #[n(9)]
    pub(crate) tries: u32,
    /// Wall time, milliseconds since 1970.
    #[n(10)]
    pub(crate) created_ms: u64,
    #[n(11)]
    pub(crate) updated_ms: u64,
    /// When the retained tree may go; zero until there is one.
    #[n(12)]
    pub(crate) keep_until_ms: u64,
    /// How long a retained tree is kept.
    #[n(13)]
    pub(crate) keep_old_ms: u64,
    #[n(14)]
    pub(crate) files: u64,
    #[n(15)]
    pub(crate) bytes: u64,
    #[n(16)]
    pub(crate) manifest: Digest,
    #[n(17)]
    pub(crate) peer_name: String,
    #[n(18)]
    pub(crate) peer_id: String,
    /// Of the old tree when the swap was decided; none if the tree was too large to survey.
    #[n(19)]
    pub(crate) fingerprint: Option<Digest>,
    /// Why it failed or is parked.
    #[n(20)]
    pub(crate) code: Option<Code>,
    /// The target was edited while the data came in.
    #[n(21)]
    pub(crate) target_changed: bool,
    /// When it began and when somebody last worked on it, by both clocks.
    #[n(22)]
    pub(crate) began: Option<LastSeen>,
    #[n(23)]
    pub(crate) last: Option<LastSeen>,
    /// The new tree stays only once a check is through, and none is yet: whoever finds it in place takes it back.
    #[n(24)]
    pub(crate) unproven: Option<Unproven>,
}

/// A check that is to come, or runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(crate) struct Unproven {
    /// The process that checks, once there is one.
    #[n(0)]
    pub(crate) process: Option<ProcessMark>,
}

impl SessionState {
    /// The staging tree can still be filled.
    pub(crate) fn is_open(self) -> bool {
        match self {
            Self::Receiving | Self::Verified => true,
            Self::SwapIntent
            | Self::Swapped
            | Self::Committed
            | Self::RollbackIntent
            | Self::RolledBack
            | Self::Cleaned
            | Self::Failed => false,
        }
    }

    /// Nothing will ever be staged for it again.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::Committed | Self::RolledBack | Self::Cleaned | Self::Failed => true,
            Self::Receiving | Self::Verified | Self::SwapIntent | Self::Swapped | Self::RollbackIntent => false,
        }
    }
}

impl Record {
    pub(crate) fn parent_path(&self) -> PathBuf {
        PathBuf::from(std::ffi::OsStr::from_bytes(&self.parent))
    }

    pub(crate) fn target_name(&self) -> &std::ffi::OsStr {
        std::ffi::OsStr::from_bytes(&self.name)
    }

    pub(crate) fn target_path(&self) -> PathBuf {
        self.parent_path().join(self.target_name())
    }

    pub(crate) fn staging_path(&self) -> PathBuf {
        self.parent_path().join(&self.staging)
    }

    /// Where the old tree stands between two renames.
    pub(crate) fn aside(&self) -> String {
        format!("{}.old", self.staging)
    }

    /// Nobody continued the session in time, or it lasted too long. `seen` is activity that the record does not have.
    pub(crate) fn is_expired(&self, seen: Option<LastSeen>, now: &LastSeen) -> bool {
        // a record of an earlier version has wall times only
        let by_wall = |wall_ms| LastSeen { wall_ms, ..*now };
        let last = self.last.unwrap_or_else(|| by_wall(self.updated_ms)).idle(now);
        let idle = seen.map_or(last, |seen| seen.idle(now).min(last));
        let age = self.began.unwrap_or_else(|| by_wall(self.created_ms)).idle(now);
        // a swap that was decided comes to its end however long the way to it was
        let too_old = self.state.is_open() && age > limits::SESSION_LIFETIME;
        too_old || idle > limits::SESSION_TTL
    }

    /// Where a tree stands while it is deleted, so that a half-deleted one is never taken for a whole one.
    pub(crate) fn doomed(&self) -> String {
        format!("{}.gone", self.staging)
    }
}

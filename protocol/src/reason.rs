//! Failure reasons and error codes (SPEC §7).
//!
//! Five reasons per file travel on the wire (seed §6). The finer [`Code`]s name why a session ended;
//! they travel in `abort` and `finalize_result`, and go to status, command line and logs.

use std::fmt;

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};

/// Why one file failed (SPEC §7.1, seed §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum FailureReason {
    /// Reading or writing it failed.
    #[n(0)]
    IoError,
    /// Its bytes do not have the declared SHA-256.
    #[n(1)]
    HashMismatch,
    /// More or fewer bytes than declared.
    #[n(2)]
    SizeMismatch,
    /// No progress in time.
    #[n(3)]
    Timeout,
    /// It was requested and not sent, or its frames broke the rules.
    #[n(4)]
    ProtocolError,
}

impl FailureReason {
    /// The seed's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IoError => "io_error",
            Self::HashMismatch => "hash_mismatch",
            Self::SizeMismatch => "size_mismatch",
            Self::Timeout => "timeout",
            Self::ProtocolError => "protocol_error",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A stable error code (SPEC §7.2).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in the order of SPEC §7.2.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The name that is stable across versions.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The code of that name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// A path that no manifest may hold.
    PathInvalid = "path_invalid",
    /// A path that this target cannot hold.
    PathUnsupportedHere = "path_unsupported_here",
    /// Two entries that would be one here, or an entry below something that is no directory.
    PathCollision = "path_collision",
    /// An entry kind that was not negotiated.
    KindUnsupported = "kind_unsupported",
    /// Manifest bytes that break the canonical form.
    ManifestInvalid = "manifest_invalid",
    /// The manifest passes a limit.
    ManifestLimit = "manifest_limit",
    /// Counts, totals or the hash do not agree.
    ManifestMismatch = "manifest_mismatch",
    /// Another manifest than before under the same session.
    ManifestChanged = "manifest_changed",
    /// A frame longer than its limit.
    FrameTooLarge = "frame_too_large",
    /// A frame of unknown type, reserved bits, or an undecodable body.
    FrameUnknown = "frame_unknown",
    /// A frame that has no place here and now.
    FrameUnexpected = "frame_unexpected",
    /// A file continues at another offset than agreed.
    OffsetMismatch = "offset_mismatch",
    /// More or fewer bytes than declared.
    SizeMismatch = "size_mismatch",
    /// Bytes of another SHA-256 than declared.
    HashMismatch = "hash_mismatch",
    /// A source file changed after the manifest was made.
    SourceChanged = "source_changed",
    /// A source file cannot be read.
    SourceUnreadable = "source_unreadable",
    /// Files still fail after the last retry round.
    RetryExhausted = "retry_exhausted",
    /// No such session here.
    SessionUnknown = "session_unknown",
    /// The session's time is over.
    SessionExpired = "session_expired",
    /// The peer is not the one this belongs to.
    PeerMismatch = "peer_mismatch",
    /// The ticket opens nothing here: wrong, used, expired or foreign.
    TicketInvalid = "ticket_invalid",
    /// Too many tries.
    RateLimited = "rate_limited",
    /// No room for another session or stream now.
    Busy = "busy",
    /// The session is known, and its tree is not offered at the moment.
    NotOffered = "not_offered",
    /// No progress in time.
    Timeout = "timeout",
    /// The connection is lost.
    PeerGone = "peer_gone",
    /// No such device was found or reached.
    PeerNotFound = "peer_not_found",
    /// Somebody stopped the session.
    Aborted = "aborted",
    /// The person at the importer said no.
    Declined = "declined",
    /// No common protocol version.
    VersionMismatch = "version_mismatch",
    /// Not enough space or inodes.
    NoSpace = "no_space",
    /// Reading or writing failed.
    IoError = "io_error",
    /// The disk did not confirm that the swap is durable.
    DurabilityUnknown = "durability_unknown",
    /// Another session writes this target.
    TargetBusy = "target_busy",
    /// The target changed while data was coming in.
    TargetChanged = "target_changed",
    /// What is at the target's names is neither the old nor the new tree.
    TargetConflict = "target_conflict",
    /// This directory is never replaced.
    TargetForbidden = "target_forbidden",
    /// The target is the root of a mounted file system.
    TargetIsMountpoint = "target_is_mountpoint",
    /// Another file system is mounted inside the target.
    TargetContainsMount = "target_contains_mount",
    /// The target's parent directory does not allow the swap.
    TargetParentNotWritable = "target_parent_not_writable",
    /// The file system cannot swap directories.
    ApplyUnsupportedFs = "apply_unsupported_fs",
    /// The command after the swap failed.
    HealthFailed = "health_failed",
    /// A rollback did not happen: there is nothing to go back to.
    RollbackUnavailable = "rollback_unavailable",
    /// Another me-sync uses this state directory.
    StateLocked = "state_locked",
    /// A state file is damaged or not ours.
    StateCorrupt = "state_corrupt",
    /// The node is stopping.
    NodeStopping = "node_stopping",
    /// The HTTP API wants a token.
    Unauthorized = "unauthorized",
    /// The HTTP API was called under another host name.
    ForbiddenHost = "forbidden_host",
    /// The HTTP API was called from a web page.
    ForbiddenOrigin = "forbidden_origin",
    /// The HTTP request is too large.
    BodyTooLarge = "body_too_large",
    /// The path is outside the configured roots.
    PathNotAllowed = "path_not_allowed",
}

impl From<FailureReason> for Code {
    /// The code that says no more than the reason; broken rules about one file are `frame_unexpected`.
    fn from(reason: FailureReason) -> Self {
        match reason {
            FailureReason::IoError => Self::IoError,
            FailureReason::HashMismatch => Self::HashMismatch,
            FailureReason::SizeMismatch => Self::SizeMismatch,
            FailureReason::Timeout => Self::Timeout,
            FailureReason::ProtocolError => Self::FrameUnexpected,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<C> minicbor::Encode<C> for Code {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(self.as_str())?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Code {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::parse(d.str()?).ok_or_else(|| decode::Error::message("unknown error code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §7.2
    #[test]
    fn every_code_is_found_by_its_name() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }
}

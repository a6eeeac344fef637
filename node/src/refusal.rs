//! What the command line and the HTTP API say when something was not done: one code, one sentence what happened, one
//! what to do next, and the exit code. One table for both faces, so that a command has the same end whether or not a node
//! runs.

use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::code::{self, CodeRefused};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::TicketRefused;

use crate::book::BookError;
use crate::errors::chain;
use crate::net::NetError;
use crate::node::{ArchiveError, CodeError, ImportError, NodeError, OfferError, ResumeError};
use crate::post_apply::PostApplyRefused;
use crate::source::SourceError;
use crate::staging::{RollbackError, StateError};
use crate::store::StoreError;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The new tree is in place.
    Applied = 0,
    /// Wrong use.
    Usage = 2,
    /// The other device was not found.
    PeerNotFound = 3,
    /// The ticket was refused.
    TicketRefused = 4,
    /// Somebody said no.
    Declined = 5,
    /// Files are missing or wrong, or the other side stopped; nothing was applied.
    Incomplete = 6,
    /// Something in the source.
    Source = 7,
    /// The target cannot take it, found before any data.
    Preflight = 8,
    /// The target changed, and that was not allowed.
    TargetDrifted = 9,
    /// The swap failed; the old tree is in place.
    ApplyFailed = 10,
    /// The rollback failed.
    RollbackFailed = 11,
    /// A command after the swap failed.
    HealthFailed = 12,
    /// Nobody came, or came back, in time.
    TimedOut = 13,
    /// There is no common version.
    Version = 14,
    /// The node or its state.
    Node = 15,
    /// Another process uses the state directory.
    Locked = 16,
    /// Stopped by somebody; what arrived is kept.
    Interrupted = 130,
}

impl Exit {
    /// As the operating system has it.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The one of that number.
    pub fn of(code: u8) -> Option<Self> {
        const ALL: [Exit; 17] = [
            Exit::Applied,
            Exit::Usage,
            Exit::PeerNotFound,
            Exit::TicketRefused,
            Exit::Declined,
            Exit::Incomplete,
            Exit::Source,
            Exit::Preflight,
            Exit::TargetDrifted,
            Exit::ApplyFailed,
            Exit::RollbackFailed,
            Exit::HealthFailed,
            Exit::TimedOut,
            Exit::Version,
            Exit::Node,
            Exit::Locked,
            Exit::Interrupted,
        ];
        ALL.into_iter().find(|exit| exit.code() == code)
    }
}

impl From<Code> for Exit {
    fn from(code: Code) -> Self {
        match code {
            Code::PeerNotFound => Self::PeerNotFound,
            Code::TicketInvalid | Code::PeerMismatch | Code::RateLimited => Self::TicketRefused,
            Code::Declined => Self::Declined,
            Code::PathInvalid
            | Code::KindUnsupported
            | Code::ManifestInvalid
            | Code::ManifestLimit
            | Code::ManifestMismatch
            | Code::ManifestChanged
            | Code::FrameTooLarge
            | Code::FrameUnknown
            | Code::FrameUnexpected
            | Code::OffsetMismatch
            | Code::SizeMismatch
            | Code::HashMismatch
            | Code::RetryExhausted
            | Code::SessionUnknown
            | Code::NotOffered
            | Code::IoError
            | Code::Aborted => Self::Incomplete,
            Code::SourceChanged | Code::SourceUnreadable => Self::Source,
            Code::PathUnsupportedHere
            | Code::PathCollision
            | Code::NoSpace
            | Code::TargetBusy
            | Code::TargetForbidden
            | Code::TargetIsMountpoint
            | Code::TargetContainsMount
            | Code::TargetParentNotWritable
            | Code::ApplyUnsupportedFs => Self::Preflight,
            Code::TargetChanged => Self::TargetDrifted,
            Code::DurabilityUnknown | Code::TargetConflict => Self::ApplyFailed,
            Code::RollbackUnavailable => Self::RollbackFailed,
            Code::HealthFailed => Self::HealthFailed,
            Code::SessionExpired | Code::Timeout | Code::PeerGone => Self::TimedOut,
            Code::VersionMismatch => Self::Version,
            Code::Busy
            | Code::StateCorrupt
            | Code::NodeStopping
            | Code::Unauthorized
            | Code::ForbiddenHost
            | Code::ForbiddenOrigin
            | Code::BodyTooLarge
            | Code::PathNotAllowed => Self::Node,
            Code::StateLocked => Self::Locked,
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// How a command ends with it.
    pub exit: Exit,
    /// The stable code; `usage` where no code of the protocol fits.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: String,
}

impl Refusal {
    /// With the exit code that goes with the code.
    pub fn coded(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: code.into(), code: code.as_str(), message: message.into(), hint: hint.into() }
    }

    /// The ticket of an archive where v4 was required: what each side has.
    pub fn archive_refused(ticket: &ArchiveTicket) -> Self {
        let (there, hint) = match ticket.has_v4 {
            true => {
                ("the other device has v4 too, but made this ticket for v3", "make a ticket there without --archive")
            }
            false => ("the other device has v3 only", "install a me-sync there that has v4, or leave --require-v4 out"),
        };
        let message = format!("this ticket is for one archive (v3), and v4 is required here; {there}");
        Self::coded(Code::VersionMismatch, message, hint)
    }

    /// The same with another exit code.
    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl From<NetError> for Refusal {
    fn from(err: NetError) -> Self {
        Self::coded(err.code(), chain(&err).to_string(), "try again").exit(Exit::Node)
    }
}

impl From<BookError> for Refusal {
    fn from(err: BookError) -> Self {
        match err {
            BookError::State(err) => err.into(),
            BookError::Store(err) => err.into(),
        }
    }
}

impl From<SourceError> for Refusal {
    fn from(err: SourceError) -> Self {
        let hint = err.hint().unwrap_or_else(|| "check the disk and try again".to_owned());
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(Exit::Source)
    }
}

impl From<NodeError> for Refusal {
    fn from(err: NodeError) -> Self {
        let exit = if err.code() == Code::StateLocked { Exit::Locked } else { Exit::Node };
        Self::coded(err.code(), chain(&err).to_string(), err.hint()).exit(exit)
    }
}

impl From<OfferError> for Refusal {
    fn from(err: OfferError) -> Self {
        let exit = match &err {
            OfferError::Ttl | OfferError::Devices | OfferError::Unknown { .. } => Exit::Usage,
            OfferError::Net(_) | OfferError::Refused(_) => Exit::Node,
            OfferError::Store(err) => of_store(err),
        };
        Self::coded(err.code(), chain(&err).to_string(), "check --expires and --listen, then try again").exit(exit)
    }
}

impl From<ArchiveError> for Refusal {
    fn from(err: ArchiveError) -> Self {
        match err {
            ArchiveError::Source(err) => err.into(),
            ArchiveError::Offer(err) => err.into(),
        }
    }
}

impl From<ImportError> for Refusal {
    fn from(err: ImportError) -> Self {
        let (exit, hint) = match err {
            ImportError::Preflight(_) => (Exit::Preflight, "nothing was changed and the ticket is unused"),
            ImportError::Ticket => (Exit::TicketRefused, "copy the ticket again, as a whole"),
            ImportError::NotAllowed { .. } => (Exit::Node, "choose a directory below import_roots"),
            ImportError::OtherTarget { .. } => (Exit::Usage, "receive into that directory to go on"),
            ImportError::Applied { told: true, .. } => (
                Exit::TicketRefused,
                "the other device knows it too; to send it once more, make a new ticket with `send`",
            ),
            ImportError::Applied { told: false, .. } => (
                Exit::TicketRefused,
                "the other device could not be told; `me-sync resume` tells it when it can be reached",
            ),
            ImportError::Ended => {
                (Exit::TicketRefused, "make a new ticket on the other device: me-sync send --new PATH")
            }
            ImportError::TakenBack { .. } => (
                Exit::HealthFailed,
                "`me-sync kept` shows where the tree that came is; to try again, make a new ticket there: me-sync send --new PATH",
            ),
            ImportError::Store(ref err) => (of_store(err), STATE_HINT),
            ImportError::Resume(err) => return err.into(),
            ImportError::PostApply(err) => return err.into(),
            ImportError::Refused(_) => (Exit::Node, "try again in a moment"),
        };
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(exit)
    }
}

impl From<ResumeError> for Refusal {
    fn from(err: ResumeError) -> Self {
        let code = err.code();
        let (exit, hint) = match &err {
            ResumeError::Unknown { .. } | ResumeError::Over { .. } | ResumeError::Sends { .. } => {
                (Exit::Usage, "`me-sync sessions` lists what can be gone on with")
            }
            ResumeError::Damaged(_) => {
                (Exit::Node, "`me-sync abort` ends that session; begin it anew with a new ticket")
            }
            ResumeError::Store(err) => (of_store(err), STATE_HINT),
            ResumeError::Stage(_) => (code.into(), "what is left of it is removed at the next start"),
            ResumeError::PostApply(err) => return err.clone().into(),
            ResumeError::Refused(_) => (Exit::Node, "try again in a moment"),
        };
        Self::coded(code, chain(&err).to_string(), hint).exit(exit)
    }
}

impl From<PostApplyRefused> for Refusal {
    fn from(err: PostApplyRefused) -> Self {
        let hint = if err.is_of_program() {
            "nothing was begun; install it or give its whole path, or run nothing: --post-apply ''"
        } else {
            "for example --post-apply 'systemctl --user restart photos'"
        };
        let message = format!("the command after the swap cannot run: {err}");
        Self { exit: Exit::Usage, code: "usage", message, hint: hint.to_owned() }
    }
}

impl From<StoreError> for Refusal {
    fn from(err: StoreError) -> Self {
        let hint = err.hint().unwrap_or_else(|| STATE_HINT.to_owned());
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(of_store(&err))
    }
}

const STATE_HINT: &str = "see to that file, or choose another --state-dir";

fn of_store(err: &StoreError) -> Exit {
    if err.code() == Code::StateLocked { Exit::Locked } else { Exit::Node }
}

impl From<StateError> for Refusal {
    fn from(err: StateError) -> Self {
        let hint = "mend or move it, or choose another --state-dir";
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(Exit::Node)
    }
}

impl From<RollbackError> for Refusal {
    fn from(err: RollbackError) -> Self {
        let (exit, hint) = match &err {
            RollbackError::NeverApplied { .. } => {
                (Exit::Usage, "`me-sync sessions` lists the directories that trees went into")
            }
            _ => (Exit::RollbackFailed, "`me-sync kept` lists what is kept and where"),
        };
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(exit)
    }
}

impl From<TicketRefused> for Refusal {
    fn from(err: TicketRefused) -> Self {
        let (exit, code, hint) = match err {
            TicketRefused::NotATicket => (Exit::Usage, "usage", "copy the line that `me-sync send` printed"),
            TicketRefused::OtherVersion => {
                (Exit::Version, Code::VersionMismatch.as_str(), "install the same me-sync on both devices")
            }
            TicketRefused::Damaged => {
                (Exit::TicketRefused, Code::TicketInvalid.as_str(), "copy the whole line that `me-sync send` printed")
            }
        };
        Self { exit, code, message: err.to_string(), hint: hint.to_owned() }
    }
}

impl From<CodeRefused> for Refusal {
    fn from(err: CodeRefused) -> Self {
        let hint = match &err {
            CodeRefused::Word { word } => {
                let by_likeness = |known: &&&str| (strsim::jaro_winkler(known, word) * 1e6) as u64;
                let meant = code::words().iter().max_by_key(by_likeness).copied().unwrap_or_default();
                format!("is it \u{201c}{meant}\u{201d}? look at the other device again; nothing was tried")
            }
            _ => "type what `send` shows on the other device, for example: 7-velvet-harbor".to_owned(),
        };
        Self { exit: Exit::Usage, code: "usage", message: err.to_string(), hint }
    }
}

impl From<CodeError> for Refusal {
    fn from(err: CodeError) -> Self {
        let (exit, hint) = match &err {
            CodeError::NoDiscovery => (
                Exit::Usage,
                "use the ticket, say where that device is (--peer IP:PORT), or leave --no-mdns and `mdns = false` out on \
                     both devices",
            ),
            CodeError::Nobody { .. } => (
                Exit::PeerNotFound,
                "check that `send` still waits there, that the number is right and that both devices are on one network; \
                 elsewhere say where it is (--peer IP:PORT), or use the ticket",
            ),
            CodeError::Wrong { .. } => {
                (Exit::TicketRefused, "this code is void now: ask for the new one that the other device shows")
            }
            CodeError::Lost => {
                (Exit::TimedOut, "this code may be void now: look for the new one that the other device shows")
            }
            CodeError::Busy { .. } => (Exit::Node, "try again in a moment; if it stays so, use the ticket"),
            CodeError::RateLimited => (Exit::TicketRefused, "wait a minute, or use the ticket"),
            CodeError::Impostor { .. } => (
                Exit::TicketRefused,
                "do not trust that device; use the ticket, which is bound to the device that made it",
            ),
            CodeError::Stopped => (Exit::Node, "start it again and try once more"),
        };
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_is_found_by_its_number() {
        for code in 0..=255 {
            assert!(Exit::of(code).is_none_or(|exit| exit.code() == code));
        }
        assert_eq!(Exit::of(130), Some(Exit::Interrupted));
    }

    #[test]
    fn no_code_of_a_failure_ends_as_success_or_as_a_usage_error() {
        for code in Code::ALL {
            assert!(!matches!(Exit::from(*code), Exit::Applied | Exit::Usage), "{code}");
        }
    }
}

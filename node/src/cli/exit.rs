//! Exit codes (DESIGN §8) and the one error type that leads to them.

use me_sync_node::config::ConfigError;
use me_sync_node::errors::chain;
use me_sync_node::source::SourceError;
use me_sync_node::staging::{RollbackError, StateError};
use me_sync_node::store::StoreError;
use me_sync_node::{ImportError, NodeError, OfferError, ResumeError};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::TicketRefused;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Applied = 0,
    Usage = 2,
    PeerNotFound = 3,
    TicketRefused = 4,
    Declined = 5,
    Incomplete = 6,
    Source = 7,
    Preflight = 8,
    TargetDrifted = 9,
    ApplyFailed = 10,
    RollbackFailed = 11,
    HealthFailed = 12,
    TimedOut = 13,
    Version = 14,
    Node = 15,
    Locked = 16,
    Interrupted = 130,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        self as u8
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

/// Why a command did not do what it was asked for: what happened, and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    /// The stable code, where the library gave one; `usage` or `interrupted` otherwise.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: String,
    /// More fields for the `result` of `--json`.
    pub(crate) extra: serde_json::Value,
}

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let code = match exit {
            Exit::Usage => "usage",
            Exit::Interrupted => "interrupted",
            _ => "failed",
        };
        let (message, hint) = (message.into(), hint.into());
        Self { exit, code, message, hint, extra: serde_json::Value::Null }
    }

    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    pub(crate) fn interrupted(what: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, what, "start it again when you want")
    }

    pub(crate) fn coded(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: code.as_str(), ..Self::new(code.into(), message, hint) }
    }

    /// The same with another way out.
    pub(crate) fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl From<ConfigError> for CliError {
    fn from(err: ConfigError) -> Self {
        Self::usage(chain(&err).to_string(), err.hint())
    }
}

impl From<SourceError> for CliError {
    fn from(err: SourceError) -> Self {
        let hint = err.hint().unwrap_or_else(|| "check the disk and try again".to_owned());
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(Exit::Source)
    }
}

impl From<NodeError> for CliError {
    fn from(err: NodeError) -> Self {
        let exit = if err.code() == Code::StateLocked { Exit::Locked } else { Exit::Node };
        Self::coded(err.code(), chain(&err).to_string(), err.hint()).exit(exit)
    }
}

impl From<OfferError> for CliError {
    fn from(err: OfferError) -> Self {
        let exit = match &err {
            OfferError::Ttl | OfferError::Devices | OfferError::Unknown { .. } => Exit::Usage,
            OfferError::Net(_) | OfferError::Refused(_) => Exit::Node,
            OfferError::Store(err) => of_store(err),
        };
        Self::coded(err.code(), chain(&err).to_string(), "check --expires and --listen, then try again").exit(exit)
    }
}

impl From<ImportError> for CliError {
    fn from(err: ImportError) -> Self {
        let (exit, hint) = match err {
            ImportError::Preflight(_) => (Exit::Preflight, "nothing was changed and the ticket is unused"),
            ImportError::Ticket => (Exit::TicketRefused, "copy the ticket again, as a whole"),
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
            ImportError::Store(ref err) => (of_store(err), STATE_HINT),
            ImportError::Resume(err) => return err.into(),
            ImportError::Refused(_) => (Exit::Node, "try again in a moment"),
        };
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(exit)
    }
}

impl From<ResumeError> for CliError {
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
            ResumeError::Refused(_) => (Exit::Node, "try again in a moment"),
        };
        Self::coded(code, chain(&err).to_string(), hint).exit(exit)
    }
}

impl From<StoreError> for CliError {
    fn from(err: StoreError) -> Self {
        let hint = err.hint().unwrap_or_else(|| STATE_HINT.to_owned());
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(of_store(&err))
    }
}

const STATE_HINT: &str = "see to that file, or choose another --state-dir";

fn of_store(err: &StoreError) -> Exit {
    if err.code() == Code::StateLocked { Exit::Locked } else { Exit::Node }
}

impl From<StateError> for CliError {
    fn from(err: StateError) -> Self {
        let hint = "mend or move it, or choose another --state-dir";
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(Exit::Node)
    }
}

impl From<RollbackError> for CliError {
    fn from(err: RollbackError) -> Self {
        let hint = "`me-sync sessions` lists what is kept and where";
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(Exit::RollbackFailed)
    }
}

impl From<TicketRefused> for CliError {
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
        Self { code, ..Self::new(exit, err.to_string(), hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_of_a_failure_ends_as_success_or_as_a_usage_error() {
        for code in Code::ALL {
            assert!(!matches!(Exit::from(*code), Exit::Applied | Exit::Usage), "{code}");
        }
    }
}

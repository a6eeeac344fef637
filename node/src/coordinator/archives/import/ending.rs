//! Why there is no new tree, in words, and what is removed then.

use me_sync_protocol::archive::Message;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;

use super::super::as_heard;
use crate::api::Role;
use crate::archive::PackageRefused;
use crate::coordinator::explain::Failure;
use crate::coordinator::import::{Obstacle, Swap, described, discard};
use crate::net::{ConnectError, OpenError};
use crate::staging::{self, Staging, StateDir};

/// Why there is no new tree, and whether the exporter is to be told.
pub(super) struct Ended {
    pub(super) failure: Failure,
    pub(super) is_told: bool,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self { failure, is_told: false }
    }
}

impl From<PackageRefused> for Failure {
    fn from(err: PackageRefused) -> Self {
        let hint = match err {
            PackageRefused::NoSpace { .. } => Some("free some space there, or choose another --state-dir".to_owned()),
            _ => None,
        };
        Self::described(err.code(), crate::errors::chain(&err), hint, Role::Importer)
    }
}

/// Blocking.
pub(super) fn undone(staging: Staging, failure: Failure) -> Failure {
    discard(staging, failure.code);
    failure
}

/// Nothing of a tree that was not swapped in stays. Blocking.
pub(super) fn not_swapped(swap: Swap, state: &StateDir, session: SessionId) -> Failure {
    match swap {
        Swap::Done(Err(failure)) | Swap::Stuck(failure) => failure,
        Swap::Unstaged(staging, _) => {
            let what = "something on this device changed the staging directory";
            undone(*staging, Failure::described(Code::IoError, what, None, Role::Importer))
        }
        Swap::Refused(Some(staging), obstacle) => undone(*staging, in_the_way(&obstacle)),
        Swap::Refused(None, obstacle) => {
            let failure = in_the_way(&obstacle);
            if let Err(e) = staging::discard(state, session, failure.code) {
                tracing::warn!(error = %crate::errors::chain(&e), "staging is not gone yet; the next start removes it");
            }
            failure
        }
        Swap::Stopped | Swap::Done(Ok(_)) => Failure::of(Code::NodeStopping, Role::Importer),
    }
}

fn in_the_way(obstacle: &Obstacle) -> Failure {
    match obstacle {
        Obstacle::Foreign { error, .. } => described(error.code(), error),
        Obstacle::Target(error) => described(error.code(), error),
    }
}

pub(super) fn unreached(err: &ConnectError) -> Failure {
    Failure::described(err.code(), crate::errors::chain(err), None, Role::Importer)
}

pub(super) fn unopened(err: &OpenError) -> Failure {
    match err {
        OpenError::Unsupported { .. } => {
            let what = "the ticket is for an archive (v3), and the other device does not speak that any more";
            Failure::described(Code::VersionMismatch, what, None, Role::Importer)
        }
        err => Failure::described(err.code(), crate::errors::chain(err), None, Role::Importer),
    }
}

/// The exporter is gone, or sent what is nothing.
pub(super) fn lost(code: Code) -> Ended {
    if !matches!(code, Code::PeerGone | Code::Timeout) {
        return broke(code);
    }
    let hint = "nothing was changed, and an archive is not resumed: get a new ticket from `send` there";
    let failure = Failure { hint: hint.to_owned(), ..Failure::of(code, Role::Importer) };
    Ended { failure, is_told: code == Code::PeerGone }
}

pub(super) fn unexpected(message: &Message) -> Ended {
    match message {
        Message::Over(code) => Ended { failure: Failure::of(as_heard(*code), Role::Importer), is_told: true },
        _ => broke(Code::FrameUnexpected),
    }
}

pub(super) fn broke(code: Code) -> Ended {
    Failure::described(code, "the other device broke the protocol", None, Role::Importer).into()
}

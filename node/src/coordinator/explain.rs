//! Codes as sentences for people: what happened, and what to do next.

use me_sync_protocol::reason::Code;

use crate::api::{Outcome, Role};

/// A failure with its words.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Failure {
    /// A failure that only its code is known of: it came from the peer or from the core.
    pub(super) fn of(code: Code, role: Role) -> Self {
        let (message, hint) = words(code, role);
        Self { code, message: message.to_owned(), hint: hint.to_owned() }
    }

    /// What an exporter's core ends with comes from the importer, unless it concerns both. What is wrong over there
    /// is told there; nothing of this device is meant.
    pub(super) fn told_by_importer(code: Code) -> Self {
        let concerns_both = matches!(
            code,
            Code::Aborted
                | Code::Declined
                | Code::NodeStopping
                | Code::PeerGone
                | Code::Timeout
                | Code::SessionExpired
                | Code::SessionUnknown
                | Code::ManifestChanged
                | Code::VersionMismatch
                | Code::FrameTooLarge
                | Code::FrameUnknown
                | Code::FrameUnexpected
                | Code::OffsetMismatch
        );
        if concerns_both {
            return Self::of(code, Role::Exporter);
        }
        let (message, _) = words(code, Role::Importer);
        Self {
            code,
            message: format!("the other device stopped: {message}"),
            hint: "what to do is said there; then run `send` here again".to_owned(),
        }
    }

    /// A failure that a module described itself; its hint wins over the general one.
    pub(super) fn described(code: Code, message: impl ToString, hint: Option<String>, role: Role) -> Self {
        let hint = hint.unwrap_or_else(|| words(code, role).1.to_owned());
        Self { code, message: message.to_string(), hint }
    }

    /// The retry rounds are over. When all failing files have one cause, that is what people can mend.
    pub(super) fn exhausted(failing: &[(String, Option<Code>)], role: Role) -> Self {
        let general = Self::of(Code::RetryExhausted, role);
        let general = Self { message: format!("{}: {}", general.message, names(failing)), ..general };
        let Some((_, Some(first))) = failing.first() else { return general };
        if failing.iter().any(|(_, cause)| cause != &Some(*first)) {
            return general;
        }
        let cause = Self::of(*first, role);
        let hint = match first {
            // nothing that people can mend
            Code::HashMismatch | Code::SizeMismatch => "nothing was changed".to_owned(),
            // a device that sends looks at its tree again by itself, but not for ever
            Code::SourceChanged => "let them rest, or leave them out".to_owned(),
            // how to start again is said by whoever knows the session
            _ => cause.hint.trim_end_matches(" and start again").to_owned(),
        };
        Self { message: format!("{} ({})", general.message, cause.message), hint, ..general }
    }

    pub(super) fn into_outcome(self) -> Outcome {
        Outcome::Failed { code: self.code, message: self.message, hint: self.hint }
    }
}

/// Failing files that a message names.
const NAMED: usize = 3;

fn names(failing: &[(String, Option<Code>)]) -> String {
    let named: Vec<_> = failing.iter().take(NAMED).map(|(path, _)| path.as_str()).collect();
    match failing.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// The target directory was not touched, whatever is said here: that is the promise for every failure before the swap.
fn words(code: Code, role: Role) -> (&'static str, &'static str) {
    let importer = role == Role::Importer;
    match code {
        Code::PeerNotFound => (
            "the other device was not found",
            "check that `me-sync send` still runs there and that both are on one network, or name it with --peer ADDRESS",
        ),
        Code::PeerGone => {
            ("the connection to the other device was lost", "nothing was changed; start `send` and `receive` again")
        }
        Code::PeerMismatch => {
            ("another device answered than the one that made this ticket", "get a new ticket from the sending device")
        }
        Code::TicketInvalid => (
            "the other device does not take this ticket: it is wrong, used or expired",
            "make a new one there with `me-sync send` and use it within its time",
        ),
        Code::RateLimited => ("too many tries in a short time", "wait a minute, then try again"),
        Code::Busy => {
            ("the other device has no room for another session now", "try again when its other transfers are done")
        }
        Code::NotOffered => (
            "the other device does not offer this tree at the moment",
            "run the same `me-sync send` there again; what arrived is kept",
        ),
        Code::Timeout if importer => {
            ("the other device sent nothing for too long", "nothing was changed; check the connection and start again")
        }
        Code::Timeout => ("the other device took nothing for too long", "check the connection and start again"),
        Code::SessionExpired => {
            ("nobody used the ticket in time", "run `send` again; --expires makes a ticket last longer")
        }
        Code::SessionUnknown if importer => (
            "the other device does not know this session any more",
            "run `me-sync send` there again and `me-sync receive` here with its new ticket: what arrived is used again",
        ),
        Code::SessionUnknown => {
            ("the other device does not know this session any more", "run `send` again and use its new ticket there")
        }
        Code::Aborted => (
            "the migration was ended for good, here or on the other device",
            "nothing was changed; a new one needs a new ticket from `me-sync send`",
        ),
        Code::Declined if importer => ("you declined", "nothing was changed"),
        Code::Declined => ("the other device declined", "ask its owner, then run `send` again"),
        Code::VersionMismatch => {
            ("the two devices have no protocol version in common", "install the same me-sync on both")
        }
        Code::RetryExhausted => (
            "some files failed in every retry round",
            "nothing was changed; see which files are named and mend the cause",
        ),
        Code::SourceChanged => {
            ("the source kept changing while it was being sent", "close the programs that write there and start again")
        }
        Code::SourceUnreadable => {
            ("something in the source cannot be read", "mend its permissions, or leave it out with --skip-unreadable")
        }
        Code::NoSpace => {
            ("there is not enough space at the target", "free some space on its file system and start again")
        }
        Code::IoError => ("reading or writing failed", "check the disk (its log may say more) and start again"),
        Code::DurabilityUnknown => (
            "the disk did not confirm that the new tree is safe",
            "do not delete anything; run `me-sync sessions`, which settles what is in place",
        ),
        Code::TargetBusy => ("another session writes to this target", "wait for it or stop it, then start again"),
        Code::TargetChanged => (
            "the target changed while data was coming in",
            "nothing was replaced; start again without --fail-if-changed to keep those changes in the old tree",
        ),
        Code::TargetConflict => (
            "what is at the target now is neither the old tree nor the new one",
            "nothing was touched; `me-sync status` names the paths to look at",
        ),
        Code::TargetForbidden => ("this directory is never replaced", "choose a directory of its own as the target"),
        Code::TargetIsMountpoint => ("the target is the root of a mounted file system", "choose a directory inside it"),
        Code::TargetContainsMount => {
            ("another file system is mounted inside the target", "unmount it or choose another target")
        }
        Code::TargetParentNotWritable => (
            "the directory that holds the target does not allow it to be replaced",
            "choose a target inside a directory of yours",
        ),
        Code::ApplyUnsupportedFs => {
            ("this file system cannot swap directories", "choose a target on another file system")
        }
        Code::HealthFailed => (
            "the command after the swap failed and the old tree is back",
            "mend the command, then start again with a new ticket; `me-sync kept` shows how to put the tree that \
             came in place without it",
        ),
        Code::RollbackUnavailable => ("there is nothing to roll back to", "`me-sync kept` lists what is kept"),
        Code::StateLocked => (
            "another me-sync uses this state directory",
            "wait until it is done, or give this one its own with --state-dir",
        ),
        Code::StateCorrupt => ("a state file is damaged", "move it away after a look and start again"),
        Code::NodeStopping => ("the node is stopping", "start it again and repeat the migration"),
        Code::PathInvalid | Code::ManifestInvalid | Code::ManifestMismatch | Code::KindUnsupported => (
            "the other device sent a list of files that breaks the rules",
            "do not trust that device; nothing was written",
        ),
        Code::ManifestChanged => (
            "the tree on the other device has changed since this session began",
            "start again with its ticket or a new one: what arrived is used again",
        ),
        Code::ManifestLimit => ("the tree is larger than the protocol allows", "send it in parts"),
        Code::PathUnsupportedHere | Code::PathCollision => {
            ("some names cannot exist at the target", "rename them at the source, or choose another file system")
        }
        Code::FrameTooLarge | Code::FrameUnknown | Code::FrameUnexpected | Code::OffsetMismatch => {
            ("the other device broke the protocol", "check that both run the same me-sync; nothing was changed")
        }
        Code::SizeMismatch | Code::HashMismatch => {
            ("a file did not arrive as it was sent", "nothing was changed; start again")
        }
        Code::Unauthorized
        | Code::ForbiddenHost
        | Code::ForbiddenOrigin
        | Code::BodyTooLarge
        | Code::PathNotAllowed => ("the request is not allowed", "see the documentation of the API"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_fail_for_one_reason_are_named_with_it_and_others_without() {
        let all = |causes: &[Code]| {
            let failing: Vec<_> = ('a'..).map(String::from).zip(causes.iter().copied().map(Some)).collect();
            Failure::exhausted(&failing, Role::Exporter)
        };
        let failure = all(&[Code::SourceChanged; 5]);
        assert_eq!(failure.code, Code::RetryExhausted);
        assert!(failure.message.contains("a, b, c and 2 more") && failure.message.contains("kept changing"));
        let failure = all(&[Code::SourceChanged, Code::IoError]);
        assert!(failure.message.ends_with(": a, b"), "{}", failure.message);
    }
}

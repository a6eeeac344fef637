//! Ending an unfinished session on request: nobody waits for its time to be over.

use std::os::fd::AsFd as _;

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;

use super::super::error::{StageError, StateError};
use super::super::journal::{Journal, Loaded, SessionState};
use super::super::names;
use super::super::seen::LastSeen;
use super::super::state::StateDir;
use super::super::table::Place;
use super::super::target::open_resolved;
use super::{Driver, End};

/// Ends an unfinished session that no process works on: its staging tree goes, the record stays as history with
/// `code`. The target is not touched. Blocking.
///
/// # Errors
/// There is no such session, a process works on it, it is not unfinished, or something of its tree is left; the
/// next start tries that again.
pub fn discard(state: &StateDir, session: SessionId, code: Code) -> Result<(), StageError> {
    let not = |why| StageError::NotUnfinished { why };
    let dir = state.lock_session(session).map_err(|err| match err {
        StateError::Io { err, .. } if err.kind() == std::io::ErrorKind::NotFound => not("it is not known here"),
        err => err.into(),
    })?;
    let journal = match Journal::load(dir.share()?, &dir.path)? {
        Loaded::Whole(journal) if journal.record().session == session => *journal,
        Loaded::Nothing => return Err(not("it never began")),
        Loaded::Whole(_) | Loaded::Corrupt => return Err(StateError::Corrupt { path: dir.path }.into()),
    };
    match journal.record().state {
        SessionState::Verified if has_swapped(&journal) => Err(not("its tree is in place; the next start records it")),
        SessionState::Receiving | SessionState::Verified => end(journal, code),
        SessionState::Failed => Err(not("it is over")),
        SessionState::SwapIntent | SessionState::RollbackIntent => Err(not("its swap has begun")),
        SessionState::Swapped | SessionState::Committed => Err(not("it is complete")),
        SessionState::RolledBack | SessionState::Cleaned => Err(not("it was complete")),
    }
}

/// Deletes the tree that is kept of a migration before its time is over. That cannot be undone, and neither can the
/// migration then. What stands at the target is not touched. Blocking.
///
/// # Errors
/// There is no such session, nothing is kept of it, a process works on it, or something of the tree is left; the next
/// start tries that again.
pub fn forget(state: &StateDir, session: SessionId) -> Result<(), StageError> {
    let not = |why| StageError::NothingKept { why };
    let dir = state.lock_session(session).map_err(|err| match err {
        StateError::Io { err, .. } if err.kind() == std::io::ErrorKind::NotFound => not("it is not known here"),
        err => err.into(),
    })?;
    let mut journal = match Journal::load(dir.share()?, &dir.path)? {
        Loaded::Whole(journal) if journal.record().session == session => *journal,
        Loaded::Whole(_) | Loaded::Nothing | Loaded::Corrupt => {
            return Err(StateError::Corrupt { path: dir.path }.into());
        }
    };
    let kept = match journal.record().state {
        SessionState::Committed => Place::Old,
        SessionState::RolledBack => Place::New,
        _ => return Err(not("it is not complete")),
    };
    let seen =
        open_resolved(&journal.record().parent_path()).and_then(|parent| names::look(parent.as_fd(), journal.record()));
    if !seen.is_ok_and(|seen| seen.staging == kept) {
        return Err(not("its old tree is not there any more"));
    }
    // from here on its time is over, whatever happens
    journal.update(|r| r.keep_until_ms = 0)?;
    let path = journal.record().staging_path();
    let mut driver = Driver { journal, now: LastSeen::now(), outcome: None };
    match driver.run() {
        Ok(End::Rest | End::Forget) => Ok(()),
        Err(stop) => {
            Err(StageError::Io { what: "removing the kept tree", path, err: std::io::Error::other(stop.detail) })
        }
    }
}

/// The swap happened and the record of its intent was lost: the other tree is the old one.
fn has_swapped(journal: &Journal) -> bool {
    let record = journal.record();
    open_resolved(&record.parent_path())
        .and_then(|parent| names::look(parent.as_fd(), record))
        .is_ok_and(|seen| seen.target == Place::New)
}

/// Ends an unfinished session whose lock the caller holds.
pub(in super::super) fn end(mut journal: Journal, code: Code) -> Result<(), StageError> {
    journal.update(|r| (r.state, r.code) = (SessionState::Failed, Some(code)))?;
    let path = journal.record().staging_path();
    let mut driver = Driver { journal, now: LastSeen::now(), outcome: None };
    match driver.run() {
        Ok(End::Rest | End::Forget) => Ok(()),
        Err(stop) => {
            Err(StageError::Io { what: "removing the staging tree", path, err: std::io::Error::other(stop.detail) })
        }
    }
}

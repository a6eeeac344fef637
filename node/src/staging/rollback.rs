//! The way back: the retained old tree changes places with the new one, which is then retained in its turn.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;

use super::beneath::open_child;
use super::error::{RollbackError, StateError, shown};
use super::inode::Inode;
use super::journal::{Journal, Loaded, Record, SessionState};
use super::lock::{self, Lock};
use super::state::StateDir;
use super::table::{Place, Seen};
use super::target::open_resolved;
use super::{durable, mounts, names, wall_ms};

/// The old tree is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    /// Which migration was undone.
    pub session: SessionId,
    /// The directory.
    pub target: PathBuf,
    /// There is a directory again; false: there was none before that migration, so there is none now.
    pub target_exists: bool,
    /// Where the tree that was undone is; none if it was gone already.
    pub retained: Option<PathBuf>,
    /// Milliseconds since 1970 until which it stays.
    pub keep_until_ms: u64,
    /// It was undone now; false: it was so already, which only [`rollback_session`] says.
    pub changed: bool,
}

/// Undoes the newest migration whose tree stands at `dir` now. A second call goes one migration further back. Where nothing
/// stands any more, the tree comes back that the newest migration replaced. Blocking.
///
/// # Errors
/// There is nothing to go back to, the directory is busy, or the trees are not where they should be. Nothing is
/// ever deleted here.
pub fn rollback(state: &StateDir, dir: &Path) -> Result<RolledBack, RollbackError> {
    back(state, dir, None)
}

/// Undoes that migration into `dir` and no other: asked for again, it changes nothing. Blocking.
///
/// # Errors
/// As [`rollback`], and another migration stands there now.
pub fn rollback_session(state: &StateDir, dir: &Path, session: SessionId) -> Result<RolledBack, RollbackError> {
    match state.records()?.into_iter().find(|r| r.session == session) {
        Some(record) if record.state == SessionState::RolledBack && is_of(&record, &real_parent(dir)) => {
            Ok(rolled_back(&record, real_parent(dir), false))
        }
        Some(_) => back(state, dir, Some(session)),
        None => {
            let why = format!("no session {session} is on record here");
            Err(RollbackError::Unavailable { target: real_parent(dir), why })
        }
    }
}

/// The record is of a migration to this name.
fn is_of(record: &Record, real: &Path) -> bool {
    let parent = real.parent().and_then(|parent| open_resolved(parent).ok());
    let parent_id = parent.and_then(|parent| Inode::of(&parent).ok()).map(|inode| inode.identity());
    parent_id == Some(record.parent_id) && real.file_name() == Some(record.target_name())
}

fn rolled_back(record: &Record, target: PathBuf, changed: bool) -> RolledBack {
    let seen = open_resolved(&record.parent_path()).and_then(|parent| names::look(parent.as_fd(), record));
    let is_kept = seen.is_ok_and(|seen| seen.staging == Place::New);
    RolledBack {
        session: record.session,
        target,
        target_exists: record.old.is_some(),
        retained: is_kept.then(|| record.staging_path()),
        keep_until_ms: record.keep_until_ms,
        changed,
    }
}

fn back(state: &StateDir, dir: &Path, only: Option<SessionId>) -> Result<RolledBack, RollbackError> {
    let io = |err: std::io::Error| RollbackError::Io { target: dir.to_owned(), err };
    let real = match dir.canonicalize() {
        Ok(real) => real,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            return put_back(state, &real_parent(dir), only);
        }
        Err(err) => return Err(io(err)),
    };
    let (Some(parent_path), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(unavailable(state, &real, "it is the root of the file system")?);
    };
    let parent = open_resolved(parent_path).map_err(|e| io(e.into()))?;
    let parent_id = Inode::of(&parent).map_err(|e| io(e.into()))?.identity();
    let root = open_child(&parent, name).map_err(|e| io(e.into()))?;
    let now_there = Inode::of(&root).map_err(|e| io(e.into()))?.identity();

    let candidate = state
        .records()?
        .into_iter()
        .filter(|r| matches!(r.state, SessionState::Swapped | SessionState::Committed))
        .filter(|r| r.new == Some(now_there) && r.parent_id == parent_id && r.target_name() == name)
        .max_by_key(|r| (r.created_ms, r.updated_ms));
    let Some(candidate) = candidate else {
        return Err(unavailable(state, &real, "no migration put this directory there, or it was undone already")?);
    };
    meant(&candidate, only, &real)?;
    if lock::exclusive(&root).map_err(|e| io(e.into()))? == Lock::Busy {
        return Err(RollbackError::Busy { target: real });
    }
    undo(state, &candidate, &parent, real)
}

/// A migration that was named is undone, or none.
fn meant(candidate: &Record, only: Option<SessionId>, real: &Path) -> Result<(), RollbackError> {
    match only.filter(|only| *only != candidate.session) {
        None => Ok(()),
        Some(only) => {
            let why = format!("what stands there came with session {}, not with {only}", candidate.session);
            Err(RollbackError::Unavailable { target: real.to_owned(), why })
        }
    }
}

/// The new tree is gone, by its owner's hand or a command's: what it replaced comes back to the free name.
fn put_back(state: &StateDir, real: &Path, only: Option<SessionId>) -> Result<RolledBack, RollbackError> {
    let gone = || unavailable(state, real, "it does not exist").unwrap_or_else(RollbackError::from);
    let (Some(parent_path), Some(name)) = (real.parent(), real.file_name()) else { return Err(gone()) };
    let Ok(parent) = open_resolved(parent_path) else { return Err(gone()) };
    let parent_id = Inode::of(&parent).map(|inode| inode.identity());
    let stands = |record: &Record| names::look(parent.as_fd(), record).is_ok_and(only_old_stands);
    let candidate = state
        .records()?
        .into_iter()
        .filter(|r| matches!(r.state, SessionState::Swapped | SessionState::Committed))
        .filter(|r| parent_id == Ok(r.parent_id) && r.target_name() == name && r.old.is_some() && stands(r))
        .max_by_key(|r| (r.created_ms, r.updated_ms));
    match candidate {
        Some(candidate) => {
            meant(&candidate, only, real)?;
            undo(state, &candidate, &parent, real.to_owned())
        }
        None => Err(gone()),
    }
}

/// Of the two trees there is only the old one, where it was kept.
fn only_old_stands(seen: Seen) -> bool {
    (seen.target, seen.staging, seen.aside) == (Place::Absent, Place::Old, Place::Absent)
}

fn undo(state: &StateDir, candidate: &Record, parent: &OwnedFd, real: PathBuf) -> Result<RolledBack, RollbackError> {
    let session = state.lock_session(candidate.session).map_err(|err| match err {
        StateError::Busy { .. } => RollbackError::Busy { target: real.clone() },
        other => other.into(),
    })?;
    let Loaded::Whole(mut journal) = Journal::load(session.share()?, &session.path)? else {
        return Err(StateError::Corrupt { path: session.path }.into());
    };
    let _retained = lock_retained(parent, journal.record(), &real)?;
    go_back(&mut journal, parent, None)?;
    Ok(rolled_back(journal.record(), real, true))
}

/// Opens and locks the retained tree, if there is one.
fn lock_retained(parent: &OwnedFd, record: &Record, target: &Path) -> Result<Option<OwnedFd>, RollbackError> {
    if record.old.is_none() {
        return Ok(None);
    }
    let Ok(fd) = open_child(parent, record.staging.as_str()) else {
        let why = format!("the old tree is not at {} any more", shown(&record.staging_path()));
        return Err(RollbackError::Unavailable { target: target.to_owned(), why });
    };
    match lock::exclusive(&fd) {
        Ok(Lock::Busy) => Err(RollbackError::Busy { target: target.to_owned() }),
        Ok(Lock::Held | Lock::Unsupported) => Ok(Some(fd)),
        Err(err) => Err(RollbackError::Io { target: target.to_owned(), err: err.into() }),
    }
}

/// Brings the old tree back, with a durable intent first. `code` is recorded as the reason.
pub(super) fn go_back(journal: &mut Journal, parent: &OwnedFd, code: Option<Code>) -> Result<(), RollbackError> {
    check(journal.record(), parent)?;
    journal.update(|r| {
        r.state = SessionState::RollbackIntent;
        r.code = code;
    })?;
    move_back(journal, parent)
}

/// The moves of a rollback whose intent is durable.
pub(super) fn move_back(journal: &mut Journal, parent: &OwnedFd) -> Result<(), RollbackError> {
    let record = journal.record();
    let is_gone = names::look(parent.as_fd(), record).is_ok_and(only_old_stands);
    let moved = match record.old {
        Some(_) if is_gone => durable::move_to_free(parent.as_fd(), record.staging.as_str(), record.target_name()),
        Some(_) => names::swap(parent.as_fd(), record, true),
        None => names::move_away(parent.as_fd(), record),
    };
    if let Err(err) = moved {
        let seen = names::look(parent.as_fd(), record).ok();
        // an error after the fact changes nothing; before it, the new tree stays and nothing is tried again
        let is_done = |seen: Seen| seen.staging == Place::New || is_gone && seen.target == Place::Old;
        if !seen.is_some_and(is_done) {
            let conflict = conflict(record, "moving the trees failed", Some(err.into()));
            if seen.is_some_and(|seen| seen.target == Place::New) {
                journal.update(|r| (r.state, r.code) = (SessionState::Committed, Some(Code::TargetConflict)))?;
            }
            return Err(conflict);
        }
    }
    finish(journal, parent)
}

/// Flush and record of a rollback that took place.
pub(super) fn finish(journal: &mut Journal, parent: &OwnedFd) -> Result<(), RollbackError> {
    let target = journal.record().target_path();
    let unknown = |err: Box<dyn std::error::Error + Send + Sync>| RollbackError::DurabilityUnknown {
        target: target.clone(),
        err,
    };
    durable::sync(parent).map_err(|err| unknown(Box::new(err)))?;
    if let Err(err) = names::tidy_aside(parent.as_fd(), journal.record()) {
        tracing::warn!(error = %err, "the undone tree stands aside until the next start");
    }
    let now = wall_ms();
    journal
        .update(|r| {
            r.state = SessionState::RolledBack;
            r.keep_until_ms = now.saturating_add(r.keep_old_ms);
        })
        .map_err(|err| unknown(Box::new(err)))
}

/// Both trees are where they should be and nothing is mounted in them.
fn check(record: &Record, parent: &OwnedFd) -> Result<(), RollbackError> {
    let io = |err: rustix::io::Errno| RollbackError::Io { target: record.target_path(), err: err.into() };
    let seen = names::look(parent.as_fd(), record).map_err(io)?;
    if seen.target != Place::New && !only_old_stands(seen) {
        return Err(conflict(record, "something else stands at the directory", None));
    }
    match (record.old, seen.staging) {
        (Some(_), Place::Old) | (None, Place::Absent) => {}
        (Some(_), Place::Absent) => {
            let why = format!("the old tree is not at {} any more", shown(&record.staging_path()));
            return Err(RollbackError::Unavailable { target: record.target_path(), why });
        }
        _ => return Err(conflict(record, "something else stands where the old tree was kept", None)),
    }
    let mounted = [record.target_path(), record.staging_path()]
        .iter()
        .any(|path| mounts::is_mount_point(path) || mounts::mount_below(path).is_some());
    if mounted {
        return Err(conflict(record, "something is mounted in one of the trees; unmount it first", None));
    }
    Ok(())
}

fn conflict(record: &Record, why: &'static str, err: Option<std::io::Error>) -> RollbackError {
    RollbackError::Conflict { target: record.target_path(), retained: record.staging_path(), why, err }
}

/// Is any migration into `dir` on record, or did one put there what stands there now? Blocking.
///
/// # Errors
/// The records cannot be read.
pub fn has_record(state: &StateDir, dir: &Path) -> Result<bool, StateError> {
    let real = real_parent(dir);
    let there = Inode::at(rustix::fs::CWD, &real).ok().flatten().map(|inode| inode.identity());
    let is_it = |record: &Record| record.target_path() == real || (there.is_some() && record.new == there);
    Ok(state.records()?.iter().any(is_it))
}

/// The path without links, of which the last name may be missing.
fn real_parent(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    if let Ok(real) = absolute.canonicalize() {
        return real;
    }
    match (absolute.parent().and_then(|parent| parent.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// Says what is known about migrations of this directory and where their trees are.
fn unavailable(state: &StateDir, dir: &Path, why: &str) -> Result<RollbackError, StateError> {
    let mut why = why.to_owned();
    let known = state.records()?;
    let here = known.iter().filter(|r| r.target_path() == dir).max_by_key(|r| (r.created_ms, r.updated_ms));
    if here.is_none() {
        return Ok(RollbackError::NeverApplied { target: dir.to_owned() });
    }
    let parent = here.and_then(|r| open_resolved(&r.parent_path()).ok());
    if let (Some(record), Some(parent)) = (here, parent)
        && let Ok(seen) = names::look(parent.as_fd(), record)
        && matches!(seen.staging, Place::Old | Place::New)
    {
        let which = if seen.staging == Place::Old { "the old tree" } else { "the undone tree" };
        why = format!("{why}; {which} of the last migration is at {}", shown(&record.staging_path()));
    }
    Ok(RollbackError::Unavailable { target: dir.to_owned(), why })
}

//! What every start does first: each session on record is brought to an end, left for its continuation, or left
//! alone by name.
//!
//! Looks, asks the table for one step, does it, looks again. Every step can be repeated, so being killed in
//! the middle costs nothing.

mod discard;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) use discard::end;
pub use discard::{discard, forget};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;
use rustix::fs::AtFlags;

use super::beneath::open_child;
use super::error::{RollbackError, StateError, shown};
use super::inode::Inode;
use super::journal::{Journal, Loaded, Method, Record, SessionState};
use super::lock::{self, Lock};
use super::seen::LastSeen;
use super::state::StateDir;
use super::survey::survey_at;
use super::table::{Action, Parked, Place, Seen, When, decide};
use super::target::open_resolved;
use super::{cleanup, durable, mounts, names, rollback};

/// No session needs more steps than this to come to rest.
const MAX_STEPS: usize = 16;

/// What became of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which session.
    pub session: SessionId,
    /// Its target, if its record could be read.
    pub target: Option<PathBuf>,
    /// What was done.
    pub outcome: Outcome,
    /// For people: where things are and what to do.
    pub detail: String,
}

/// How a session was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The swap was completed or found complete: the new tree is in place, durably.
    Completed,
    /// The old tree is back.
    RolledBack,
    /// The session had no effect; its staging tree is gone.
    Discarded,
    /// A retained tree's time was over; it is deleted.
    Cleaned,
    /// Nothing was touched, for this reason.
    Parked(Code),
}

/// Settles every session of the state directory that no process works on, and deletes retained trees whose
/// time is over. Unfinished sessions that can still be continued stay as they are. Names only sessions that needed
/// something. Blocking.
pub fn recover(state: &StateDir, now: SystemTime) -> Vec<Recovered> {
    let wall_ms = now.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let now = LastSeen { wall_ms, ..LastSeen::now() };
    match state.ids() {
        Ok(ids) => ids.into_iter().filter_map(|id| settle(state, id, now)).collect(),
        Err(err) => {
            tracing::error!(error = %err, "no session can be recovered");
            Vec::new()
        }
    }
}

fn settle(state: &StateDir, id: SessionId, now: LastSeen) -> Option<Recovered> {
    let parked = |code, detail| Some(Recovered { session: id, target: None, outcome: Outcome::Parked(code), detail });
    let dir = match state.lock_session(id) {
        Ok(dir) => dir,
        // alive: its own process brings it to an end
        Err(StateError::Busy { .. }) => return None,
        Err(err) => return parked(err.code(), err.to_string()),
    };
    let journal = match dir.share().and_then(|fd| Journal::load(fd, &dir.path)) {
        Ok(Loaded::Whole(journal)) => *journal,
        // died before its first record, so before it made anything
        Ok(Loaded::Nothing) => {
            state.forget(id, &dir.fd).ok();
            return None;
        }
        Ok(Loaded::Corrupt) => {
            let err = StateError::Corrupt { path: dir.path };
            return parked(err.code(), err.to_string());
        }
        Err(err) => return parked(err.code(), err.to_string()),
    };
    if journal.record().session != id {
        let err = StateError::NotOurs { path: dir.path, why: "holds the journal of another session" };
        return parked(err.code(), err.to_string());
    }
    let mut driver = Driver { journal, now, outcome: None };
    let end = driver.run();
    let record = driver.journal.record();
    let (outcome, detail) = match end {
        Ok(End::Rest) => {
            let outcome = driver.outcome?;
            (outcome, settled(outcome, record))
        }
        Ok(End::Forget) => {
            if let Err(err) = state.forget(id, &dir.fd) {
                tracing::warn!(session = %id, error = %err, "an old record stays");
            }
            return None;
        }
        Err(stop) => (Outcome::Parked(stop.code), stop.detail),
    };
    Some(Recovered { session: id, target: Some(record.target_path()), outcome, detail })
}

fn settled(outcome: Outcome, record: &Record) -> String {
    let target = shown(&record.target_path());
    let staging = shown(&record.staging_path());
    match outcome {
        Outcome::Completed if record.old.is_some() => {
            format!("{target} is the new tree; the old one is kept at {staging}")
        }
        Outcome::Completed => format!("{target} is the new tree"),
        Outcome::RolledBack => match record.staging_path().symlink_metadata() {
            Ok(_) => format!("{target} is what it was before; the undone tree is kept at {staging}"),
            Err(_) => format!("{target} is what it was before"),
        },
        Outcome::Discarded => format!("{target} is unchanged; the unfinished tree was removed"),
        Outcome::Cleaned => format!("no tree is kept any more for {target}: there is nothing to roll back to"),
        Outcome::Parked(code) => format!("{target} was left alone: {code}"),
    }
}

enum End {
    Rest,
    Forget,
}

/// Why a session is left as it is.
#[derive(Debug)]
struct Stop {
    code: Code,
    detail: String,
}

impl From<StateError> for Stop {
    fn from(err: StateError) -> Self {
        Self { code: err.code(), detail: err.to_string() }
    }
}

impl From<RollbackError> for Stop {
    fn from(err: RollbackError) -> Self {
        Self { code: err.code(), detail: err.to_string() }
    }
}

struct Driver {
    journal: Journal,
    now: LastSeen,
    outcome: Option<Outcome>,
}

impl Driver {
    fn run(&mut self) -> Result<End, Stop> {
        if matches!(self.journal.record().state, SessionState::Cleaned) {
            // nothing of it is left on any disk, so the disk need not be there
            let nothing = Seen { target: Place::Absent, staging: Place::Absent, aside: Place::Absent, edited: false };
            let forget = decide(self.journal.record(), nothing, self.when()) == Action::Forget;
            return Ok(if forget { End::Forget } else { End::Rest });
        }
        if self.journal.record().state == SessionState::Receiving && !self.when().expired {
            // whoever continues it looks at everything; its disk need not be there now
            return Ok(End::Rest);
        }
        let parent = match self.open_parent() {
            // what only waits for its time to be over waits for its disk too, or for ever
            Err(stop) if !self.needs_target() => {
                tracing::debug!(session = %self.journal.record().session, detail = stop.detail, "left at rest");
                return Ok(End::Rest);
            }
            parent => parent?,
        };
        let _locks = self.lock(&parent)?;
        for _ in 0..MAX_STEPS {
            self.finish_deletions(&parent)?;
            let seen = self.look(&parent)?;
            let action = decide(self.journal.record(), seen, self.when());
            tracing::debug!(session = %self.journal.record().session, ?seen, ?action, "recovery step");
            if let Some(end) = self.step(&parent, action)? {
                return Ok(end);
            }
        }
        Err(self.stop(Code::TargetConflict, "does not come to rest"))
    }

    fn when(&self) -> When {
        When { wall_ms: self.now.wall_ms, expired: self.journal.is_expired(&self.now) }
    }

    fn step(&mut self, parent: &OwnedFd, action: Action) -> Result<Option<End>, Stop> {
        match action {
            // for whoever continues it
            Action::Resume => return Ok(Some(End::Rest)),
            Action::StartOver if self.journal.record().state.is_open() => match self.when().expired {
                false => return Ok(Some(End::Rest)),
                true => self.record(SessionState::Failed, Some(Code::SessionExpired))?,
            },
            // the swap was decided for a tree that is gone
            Action::StartOver => self.record(SessionState::Failed, Some(Code::Aborted))?,
            Action::DiscardStaging => self.discard(parent)?,
            Action::Swap => self.swap(parent)?,
            Action::FinishSwap => {
                self.sync(parent)?;
                let keep_until = self.now.wall_ms.saturating_add(self.journal.record().keep_old_ms);
                self.journal.update(|r| (r.state, r.keep_until_ms) = (SessionState::Swapped, keep_until))?;
            }
            Action::StagingToTarget => {
                let record = self.journal.record();
                self.moved(durable::move_to_free(parent.as_fd(), record.staging.as_str(), record.target_name()))?;
                self.sync(parent)?;
            }
            Action::AsideToTarget => {
                let record = self.journal.record();
                self.moved(durable::move_to_free(parent.as_fd(), record.aside().as_str(), record.target_name()))?;
                self.sync(parent)?;
                match self.journal.record().state {
                    SessionState::RollbackIntent => self.record(SessionState::Committed, None)?,
                    _ => {
                        self.outcome = Some(Outcome::RolledBack);
                        self.record(SessionState::RolledBack, Some(Code::TargetConflict))?;
                    }
                }
            }
            Action::AsideToStaging => self.moved(names::tidy_aside(parent.as_fd(), self.journal.record()))?,
            Action::TakeBack => {
                if let Some(process) = self.journal.record().unproven.and_then(|unproven| unproven.process) {
                    process.end();
                }
                self.check_mounts()?;
                self.record(SessionState::RollbackIntent, Some(Code::HealthFailed))?;
            }
            Action::Undecide => self.record(SessionState::Verified, None)?,
            Action::Commit => {
                self.sync(parent)?;
                self.outcome = Some(Outcome::Completed);
                self.record(SessionState::Committed, None)?;
            }
            Action::SwapBack => {
                self.check_mounts()?;
                self.outcome = Some(Outcome::RolledBack);
                rollback::move_back(&mut self.journal, parent)?;
            }
            Action::FinishRollback => {
                self.outcome = Some(Outcome::RolledBack);
                rollback::finish(&mut self.journal, parent)?;
            }
            Action::KeepNew => self.record(SessionState::Committed, None)?,
            Action::DeleteRetained => self.delete_retained(parent)?,
            Action::Close => {
                // where nothing was replaced, nothing is given up either; nor is an undone tree that was put back by hand
                let Record { old, state, .. } = self.journal.record();
                if old.is_some() && *state != SessionState::RolledBack {
                    self.outcome.get_or_insert(Outcome::Cleaned);
                }
                self.record(SessionState::Cleaned, self.journal.record().code)?;
                return Ok(Some(End::Rest));
            }
            Action::Retain | Action::Remember => return Ok(Some(End::Rest)),
            Action::Forget => return Ok(Some(End::Forget)),
            Action::Park(Parked::Changed) => {
                return Err(self.stop(Code::TargetChanged, "changed since the swap was decided, so it was not done"));
            }
            Action::Park(Parked::Conflict) => {
                return Err(
                    self.stop(Code::TargetConflict, "is neither the old nor the new tree, or one of them moved")
                );
            }
        }
        Ok(None)
    }

    fn open_parent(&self) -> Result<OwnedFd, Stop> {
        let record = self.journal.record();
        let parent = open_resolved(&record.parent_path()).map_err(|err| Stop {
            code: Code::TargetConflict,
            detail: format!("{} cannot be opened ({err}); is its disk mounted?", shown(&record.parent_path())),
        })?;
        let identity = Inode::of(&parent).map(|inode| inode.identity());
        if !identity.is_ok_and(|identity| identity == record.parent_id) {
            return Err(self.stop(Code::TargetConflict, "lies in another directory than before; is its disk mounted?"));
        }
        Ok(parent)
    }

    /// Locks whatever directories stand at the two names, against nodes with other state directories.
    fn lock(&self, parent: &OwnedFd) -> Result<Vec<OwnedFd>, Stop> {
        let record = self.journal.record();
        let mut held = Vec::new();
        let staging: &std::ffi::OsStr = record.staging.as_ref();
        for name in [record.target_name(), staging] {
            if let Ok(fd) = open_child(parent, name) {
                if matches!(lock::try_exclusive(&fd), Ok(Lock::Busy)) && self.needs_target() {
                    return Err(self.stop(Code::TargetBusy, "is used by another session"));
                }
                held.push(fd);
            }
        }
        Ok(held)
    }

    /// Retention works on the retained tree alone; a later session may well hold the target.
    fn needs_target(&self) -> bool {
        match self.journal.record().state {
            SessionState::Receiving
            | SessionState::Verified
            | SessionState::SwapIntent
            | SessionState::Swapped
            | SessionState::RollbackIntent => true,
            SessionState::Committed | SessionState::RolledBack | SessionState::Cleaned | SessionState::Failed => false,
        }
    }

    fn look(&mut self, parent: &OwnedFd) -> Result<Seen, Stop> {
        let record = self.journal.record();
        if record.new.is_none() {
            // Died between making the directory and recording its inode: it is empty, or it is not ours.
            rustix::fs::unlinkat(parent, record.staging.as_str(), AtFlags::REMOVEDIR).ok();
        }
        let mut seen = names::look(parent.as_fd(), record).map_err(|err| self.failed("looking at the trees", err))?;
        let decided = matches!(record.state, SessionState::SwapIntent | SessionState::Swapped);
        if decided && seen.target == Place::Old && record.fingerprint.is_some() {
            let survey = open_child(parent, record.target_name()).and_then(|fd| survey_at(&fd));
            seen.edited = !survey.is_ok_and(|survey| survey.fingerprint == record.fingerprint);
        }
        Ok(seen)
    }

    fn finish_deletions(&self, parent: &OwnedFd) -> Result<(), Stop> {
        let record = self.journal.record();
        let ours: Vec<_> = [record.old, record.new].into_iter().flatten().collect();
        let deleted = cleanup::delete_doomed(parent.as_fd(), &record.doomed(), &ours)
            .map_err(|err| self.failed("deleting", err))?;
        self.deleted(deleted)
    }

    fn deleted(&self, deleted: cleanup::Deleted) -> Result<(), Stop> {
        if deleted.left == 0 {
            return Ok(());
        }
        let doomed = self.journal.record().parent_path().join(self.journal.record().doomed());
        let detail = format!("{} entries of {} cannot be deleted; delete them by hand", deleted.left, shown(&doomed));
        Err(Stop { code: Code::IoError, detail })
    }

    fn discard(&mut self, parent: &OwnedFd) -> Result<(), Stop> {
        if self.journal.record().state != SessionState::Failed {
            self.record(SessionState::Failed, Some(Code::SessionExpired))?;
        }
        self.outcome = Some(Outcome::Discarded);
        let record = self.journal.record();
        let Some(new) = record.new else { return Ok(()) };
        let deleted = cleanup::doom_and_delete(parent.as_fd(), &record.staging, &record.doomed(), new)
            .map_err(|err| self.failed("deleting", err))?;
        self.deleted(deleted)
    }

    fn delete_retained(&mut self, parent: &OwnedFd) -> Result<(), Stop> {
        let record = self.journal.record();
        let identity = if record.state == SessionState::RolledBack { record.new } else { record.old };
        let Some(identity) = identity else { return Ok(()) };
        let deleted = cleanup::doom_and_delete(parent.as_fd(), &record.staging, &record.doomed(), identity)
            .map_err(|err| self.failed("deleting", err))?;
        self.outcome = Some(Outcome::Cleaned);
        self.deleted(deleted)
    }

    fn swap(&mut self, parent: &OwnedFd) -> Result<(), Stop> {
        self.check_mounts()?;
        if self.journal.record().state == SessionState::Swapped {
            tracing::error!(
                target_dir = %self.journal.record().target_path().display(),
                "the disk had confirmed a swap that is not there; doing it again"
            );
        }
        durable::sync_file_system(parent).map_err(|err| self.failed("flushing", err))?;
        self.journal.update(|r| (r.state, r.tries) = (SessionState::SwapIntent, r.tries.saturating_add(1)))?;
        let standing = self.journal.record().old.is_some();
        let mut swapped = names::swap(parent.as_fd(), self.journal.record(), standing);
        if standing && self.journal.record().method == Method::Exchange && swapped.is_err_and(names::lacks_exchange) {
            self.journal.update(|r| r.method = Method::TwoRename)?;
            swapped = names::swap(parent.as_fd(), self.journal.record(), standing);
        }
        self.moved(swapped)
    }

    fn check_mounts(&self) -> Result<(), Stop> {
        let record = self.journal.record();
        for path in [record.target_path(), record.staging_path()] {
            if mounts::is_mount_point(&path) || mounts::mount_below(&path).is_some() {
                return Err(self.stop(Code::TargetContainsMount, "has something mounted at or in it; unmount it first"));
            }
        }
        Ok(())
    }

    fn record(&mut self, state: SessionState, code: Option<Code>) -> Result<(), Stop> {
        if state == SessionState::Failed {
            self.outcome = Some(Outcome::Discarded);
        }
        Ok(self.journal.update(|r| (r.state, r.code) = (state, code))?)
    }

    fn sync(&self, parent: &OwnedFd) -> Result<(), Stop> {
        durable::sync(parent).map_err(|err| Stop {
            code: Code::DurabilityUnknown,
            detail: format!(
                "the disk did not confirm the swap of {}: {err}",
                shown(&self.journal.record().target_path())
            ),
        })
    }

    fn moved(&self, moved: rustix::io::Result<()>) -> Result<(), Stop> {
        moved.map_err(|err| self.failed("moving the trees", err))
    }

    fn failed(&self, what: &str, err: rustix::io::Errno) -> Stop {
        let target = shown(&self.journal.record().target_path());
        Stop { code: Code::IoError, detail: format!("{what} of {target} failed: {err}; the next start tries again") }
    }

    fn stop(&self, code: Code, why: &str) -> Stop {
        let record = self.journal.record();
        let (target, staging) = (shown(&record.target_path()), shown(&record.staging_path()));
        Stop { code, detail: format!("{target} {why}; nothing was touched, the other tree is looked for at {staging}") }
    }
}

#[cfg(test)]
#[path = "recover/tests.rs"]
mod tests;

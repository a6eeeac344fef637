//! The one moment (RELIABILITY 4.3, steps 6 to 12): intent, last look, exchange, flush, record.
//!
//! Everything here runs on the calling thread, so its system calls come in the same order in every run.

use std::path::PathBuf;

use me_sync_protocol::ids::Digest;
use me_sync_protocol::importer::ReadyToApply;
use me_sync_protocol::reason::Code;
use rustix::io::Errno;

use super::error::{ApplyError, PreflightError, StageError, StateError};
use super::inode::Inode;
use super::journal::{Journal, Method, SessionState, Unproven};
use super::known::Draft;
use super::modes::ModeReport;
use super::site::Site;
use super::standing::Standing;
use super::survey::{Survey, survey_at};
use super::table::Place;
use super::target::open_resolved;
use super::{durable, mounts, names, rollback, wall_ms};
use crate::process::ProcessMark;

/// What the caller decides during the swap.
pub trait ApplyHooks {
    /// Last chance to stop, asked once, right before the trees change places.
    fn proceed(&mut self) -> bool {
        true
    }

    /// There is a [`Self::check`]: it is on record before the trees change places, so that the old tree comes back too
    /// if the process dies before the check is through.
    fn checks(&self) -> bool {
        false
    }

    /// Asked once the new tree is in place and durable; an error brings the old tree back.
    ///
    /// # Errors
    /// What is wrong with the new tree, for people.
    fn check(&mut self, _swapped: &mut Swapped<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// A swap whose new tree is being checked.
#[derive(Debug)]
pub struct Swapped<'a> {
    journal: &'a mut Journal,
}

impl Swapped<'_> {
    /// The directory that was replaced or created.
    pub fn target(&self) -> PathBuf {
        self.journal.record().target_path()
    }

    /// Where the old tree is; none if there was no target.
    pub fn retained(&self) -> Option<PathBuf> {
        let record = self.journal.record();
        record.old.map(|_| record.staging_path())
    }

    /// Notes which process checks, so that it is ended before the old tree comes back without it.
    pub(crate) fn checked_by(&mut self, process: ProcessMark) -> Result<(), StateError> {
        self.journal.update(|r| r.unproven = Some(Unproven { process: Some(process) }))
    }
}

/// Nothing to decide.
impl ApplyHooks for () {}

/// A staging tree that is complete, checked and on the disk. Only this can be applied.
#[derive(Debug)]
pub struct SealedStaging {
    site: Site,
    draft: Draft,
    /// What stands at the target is the same tree, unless it has changed since.
    is_same: bool,
}

/// The new tree is in place and durable. Holds the session's locks until dropped.
#[derive(Debug)]
pub struct Applied {
    /// The directory that was replaced or created.
    pub target: PathBuf,
    /// Where the old tree is; none if there was no target.
    pub retained: Option<PathBuf>,
    /// Milliseconds since 1970 until which `rollback` is offered.
    pub keep_until_ms: u64,
    /// The target was that tree already: nothing was swapped, and nothing is kept.
    pub unchanged: bool,
    /// The target was edited while the data came in; the edits are in the retained tree.
    pub target_changed: bool,
    /// The target was absent for a moment.
    pub two_renames: bool,
    /// Permission bits that were dropped.
    pub modes: ModeReport,
    site: Site,
}

impl SealedStaging {
    pub(super) fn new(site: Site, draft: Draft, is_same: bool) -> Self {
        Self { site, draft, is_same }
    }

    /// The manifest of the tree that is ready.
    pub fn manifest_sha256(&self) -> Digest {
        self.draft.manifest.sha256()
    }

    /// Swaps the trees; a target that is that tree already, read and compared, is left as it is. Blocking; never leaves anything but the old or the new tree at the target.
    ///
    /// # Errors
    /// See [`ApplyError`]. The target is what it was, unless the outcome is unknown. The staging tree is gone then,
    /// but for a conflict, and for a target that changed: that session can be reopened.
    pub fn apply(self, proof: ReadyToApply, hooks: &mut dyn ApplyHooks) -> Result<Applied, ApplyError> {
        // the proof is for one manifest, and so is the tree
        if proof.manifest_sha256() != self.manifest_sha256() {
            return Err(ApplyError::Unproven { target: self.site.target.path().to_owned() });
        }
        self.swap(hooks)
    }

    /// What [`Self::apply`] does once it has seen the proof.
    pub(super) fn swap(mut self, hooks: &mut dyn ApplyHooks) -> Result<Applied, ApplyError> {
        #[cfg(feature = "test-hooks")]
        super::pause::at("swap");
        match self.site.swap_in(self.is_same, hooks) {
            Ok(true) => {
                self.draft.keep(&self.site.state, self.site.target.path(), self.site.new);
                Ok(self.site.into_applied())
            }
            Ok(false) => {
                if let (Some(Standing { was_read: true, .. }), Some(old)) =
                    (self.site.standing.get(), &self.site.target.old)
                {
                    self.draft.keep(&self.site.state, self.site.target.path(), old.identity);
                }
                Ok(self.site.into_left())
            }
            Err(err) => {
                if let ApplyError::Changed { .. } = err {
                    // no intent was recorded: whoever goes on with it decides anew
                    if let Err(left) = self.site.journal.update(|r| r.code = Some(err.code())) {
                        tracing::warn!(error = %left, "the pause of the session is not recorded");
                    }
                }
                if err.is_clean() {
                    let path = self.site.staging_path();
                    if let Err(left) = self.site.discard(err.code()) {
                        tracing::warn!(path = %path.display(), error = %left, "the staging tree is not gone yet");
                    }
                }
                Err(err)
            }
        }
    }

    /// Ends the session without effect: the staging tree goes, the record stays as history.
    ///
    /// # Errors
    /// Something of the staging tree is left; the next start tries again.
    pub fn discard_because(self, code: Code) -> Result<(), StageError> {
        self.site.discard(code)
    }
}

/// Runs a swap on an OS thread of its own named `apply`, so that nothing else shares its system calls. Blocks
/// until it is over.
///
/// # Errors
/// What `swap` returns; [`ApplyError::Thread`] if the thread cannot start or panics (the next start settles
/// the session).
pub fn on_apply_thread<T: Send + 'static>(
    swap: impl FnOnce() -> Result<T, ApplyError> + Send + 'static,
) -> Result<T, ApplyError> {
    std::thread::Builder::new()
        .name("apply".to_owned())
        .spawn(swap)
        .map_err(|_| ApplyError::Thread)?
        .join()
        .map_err(|_| ApplyError::Thread)?
}

impl Applied {
    /// Records that the new tree stays. Without it the next start does the same.
    ///
    /// # Errors
    /// The record cannot be written. The new tree is in place all the same.
    pub fn commit(&mut self) -> Result<(), StateError> {
        if self.unchanged {
            return Ok(());
        }
        self.site.journal.update(|r| r.state = SessionState::Committed)
    }
}

impl Site {
    /// Steps 6 to 11. False: the target is that tree already and stays as it is.
    fn swap_in(&mut self, is_same: bool, hooks: &mut dyn ApplyHooks) -> Result<bool, ApplyError> {
        let standing = self.last_look()?;
        let before = self.target.old.as_ref().and_then(|old| old.survey.fingerprint);
        let fingerprint = match self.standing.get() {
            // nothing will be replaced, and sealing has just looked
            Some(_) => before,
            None => self.resurvey(standing)?.fingerprint,
        };
        let changed = self.journal.record().target_changed
            || standing != self.target.exists()
            || (standing && before.is_some() && before != fingerprint);
        // without a staged tree there is nothing that could be swapped in
        if changed && (self.target.fail_if_changed || self.standing.get().is_some()) {
            return Err(ApplyError::Changed { target: self.target.path().to_owned() });
        }
        if let Some(old) = self.target.old.as_ref().map(|old| old.identity).filter(|_| is_same && standing && !changed)
        {
            if !hooks.proceed() {
                return Err(ApplyError::Aborted { target: self.target.path().to_owned() });
            }
            let target = self.target.path().to_owned();
            self.leave_target(old).map_err(|err| ApplyError::Swap { target, err: std::io::Error::other(err) })?;
            return Ok(false);
        }
        let keep_old = standing.then(|| self.target.old.as_ref().map(|old| old.identity)).flatten();
        let unproven = hooks.checks().then(Unproven::default);
        if self.journal.record().unproven != unproven {
            // both copies of the journal say so: losing the newer one loses no check
            self.journal.update(|r| r.unproven = unproven).map_err(ApplyError::Journal)?;
        }
        self.journal
            .update(|r| {
                r.state = SessionState::SwapIntent;
                r.old = keep_old;
                r.fingerprint = fingerprint;
                r.target_changed = changed;
                r.tries = 1;
            })
            .map_err(ApplyError::Journal)?;
        match self.decided(standing, hooks) {
            Err(err @ ApplyError::Conflict { .. }) => {
                // the swap did not happen: without the intent the staging tree has an end of life again
                self.journal.update(|r| (r.state, r.code) = (SessionState::Verified, Some(err.code()))).ok();
                Err(err)
            }
            other => other.map(|()| true),
        }
    }

    /// Step 7 on, with a durable intent.
    fn decided(&mut self, standing: bool, hooks: &mut dyn ApplyHooks) -> Result<(), ApplyError> {
        if self.last_look()? != standing {
            return Err(self.conflict("another directory appeared or vanished"));
        }
        if !hooks.proceed() {
            return Err(ApplyError::Aborted { target: self.target.path().to_owned() });
        }
        self.exchange(standing)?;
        durable::sync(&self.target.parent).map_err(|err| self.unknown(err))?;
        if let Err(err) = names::tidy_aside(self.target.parent_fd(), self.journal.record()) {
            tracing::warn!(error = %err, "the old tree stands aside until the next start");
        }
        let now = wall_ms();
        self.journal
            .update(|r| {
                r.state = SessionState::Swapped;
                r.keep_until_ms = now.saturating_add(r.keep_old_ms);
            })
            .map_err(|err| self.unknown(err))?;
        let Err(why) = hooks.check(&mut Swapped { journal: &mut self.journal }) else {
            // a start that still finds the check open would take back what is reported as done
            let proven = self.journal.record().unproven.is_some().then(|| self.journal.update(|r| r.unproven = None));
            return proven.unwrap_or(Ok(())).map_err(|err| self.unknown(err));
        };
        match rollback::go_back(&mut self.journal, &self.target.parent, Some(Code::HealthFailed)) {
            Ok(()) => {
                let undone = Some(self.staging_path()).filter(|path| path.symlink_metadata().is_ok());
                Err(ApplyError::Health { target: self.target.path().to_owned(), undone, why })
            }
            Err(err) => {
                // the check has moved trees: what it left stays, and the old tree is kept for a rollback as after any swap
                if self.journal.record().state == SessionState::Swapped {
                    let code = err.code();
                    let over = |r: &mut super::journal::Record| {
                        (r.state, r.code, r.unproven) = (SessionState::Committed, Some(code), None);
                    };
                    if let Err(left) = self.journal.update(over) {
                        tracing::warn!(error = %left, "the end of the swap is not recorded yet");
                    }
                }
                Err(ApplyError::HealthStuck { why, err: Box::new(err) })
            }
        }
    }

    /// Step 8, with the fallback where the file system has no exchange after all.
    fn exchange(&mut self, standing: bool) -> Result<(), ApplyError> {
        let mut swapped = names::swap(self.target.parent_fd(), self.journal.record(), standing);
        if standing && self.journal.record().method == Method::Exchange && swapped.is_err_and(names::lacks_exchange) {
            self.journal.update(|r| r.method = Method::TwoRename).map_err(ApplyError::Journal)?;
            swapped = names::swap(self.target.parent_fd(), self.journal.record(), standing);
        }
        let Err(err) = swapped else { return Ok(()) };
        // what an error means is what stands there now
        let Ok(seen) = names::look(self.target.parent_fd(), self.journal.record()) else {
            return Err(self.unknown(err));
        };
        let untouched = if standing { Place::Old } else { Place::Absent };
        let target = self.target.path().to_owned();
        match (seen.target, seen.staging) {
            (Place::New, _) => Ok(()),
            (now, Place::New) if now == untouched && seen.aside == Place::Absent => Err(match err {
                Errno::XDEV => ApplyError::UnsupportedFs { target, err: err.into() },
                err => ApplyError::Swap { target, err: err.into() },
            }),
            (_, Place::New) if seen.aside == Place::Absent => {
                Err(self.conflict("another directory appeared or vanished"))
            }
            _ => Err(self.unknown(err)),
        }
    }

    /// The pinned parent, target and staging tree are what they were, and nothing is mounted there.
    /// True: the old tree stands at the target; false: nothing does.
    fn last_look(&self) -> Result<bool, ApplyError> {
        let target = self.target.path();
        let io = |err: Errno| ApplyError::Swap { target: target.to_owned(), err: err.into() };
        let parent = open_resolved(&self.target.parent_path)
            .and_then(Inode::of)
            .map_err(|_| self.conflict("the parent directory is not reachable any more"))?;
        if parent.identity() != self.target.parent_id || parent.place() != self.target.place {
            return Err(self.conflict("another parent directory stands"));
        }
        let staging = Inode::at(self.target.parent_fd(), self.journal.record().staging.as_str()).map_err(io)?;
        if staging.is_none_or(|inode| !inode.is_dir() || inode.identity() != self.new) {
            return Err(self.conflict("the staging tree is not there any more; another process works"));
        }
        if let Some(mount) = mounts::mount_below(&self.staging_path()) {
            return Err(PreflightError::ContainsMount { path: self.staging_path(), mount }.into());
        }
        let Some(inode) = Inode::at(self.target.parent_fd(), &self.target.name).map_err(io)? else { return Ok(false) };
        if inode.place() != self.target.place || inode.is_mount_root() {
            return Err(PreflightError::MountPoint { path: target.to_owned() }.into());
        }
        if let Some(mount) = mounts::mount_below(target) {
            return Err(PreflightError::ContainsMount { path: target.to_owned(), mount }.into());
        }
        match &self.target.old {
            Some(old) if inode.is_dir() && inode.identity() == old.identity => Ok(true),
            Some(_) => Err(self.conflict("another directory stands")),
            None => Err(self.conflict("somebody created something")),
        }
    }

    fn resurvey(&self, standing: bool) -> Result<Survey, ApplyError> {
        let Some(old) = self.target.old.as_ref().filter(|_| standing) else { return Ok(Survey::default()) };
        let path = self.target.path();
        let survey = survey_at(&old.fd).map_err(|err| ApplyError::Swap { target: path.to_owned(), err: err.into() })?;
        match &survey.mount {
            Some(mount) => Err(PreflightError::ContainsMount { path: path.to_owned(), mount: path.join(mount) }.into()),
            None => Ok(survey),
        }
    }

    fn conflict(&self, why: &'static str) -> ApplyError {
        ApplyError::Conflict { target: self.target.path().to_owned(), staging: self.staging_path(), why }
    }

    fn unknown(&self, err: impl std::error::Error + Send + Sync + 'static) -> ApplyError {
        let target = self.target.path().to_owned();
        ApplyError::DurabilityUnknown { target, staging: self.staging_path(), err: Box::new(err) }
    }

    fn into_left(self) -> Applied {
        Applied {
            target: self.target.path().to_owned(),
            retained: None,
            keep_until_ms: 0,
            unchanged: true,
            target_changed: false,
            two_renames: false,
            modes: self.modes,
            site: self,
        }
    }

    fn into_applied(self) -> Applied {
        let record = self.journal.record();
        Applied {
            target: self.target.path().to_owned(),
            retained: record.old.map(|_| record.staging_path()),
            keep_until_ms: record.keep_until_ms,
            unchanged: false,
            target_changed: record.target_changed,
            two_renames: record.method == Method::TwoRename && record.old.is_some(),
            modes: self.modes,
            site: self,
        }
    }
}

#[cfg(test)]
#[path = "swap/tests.rs"]
mod tests;

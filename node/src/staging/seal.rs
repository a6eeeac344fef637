//! From a filled staging tree to a sealed one: symlinks, the final walk, the final flush (RELIABILITY 4.3, 2 to 5).
//!
//! Files that are missing or wrong are no reason to throw the others away: they are named, the tree is made
//! writable again, and they can be received once more (F28, F29).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::reason::Code;
use rustix::io::Errno;

use super::error::{StageError, shown};
use super::journal::SessionState;
use super::known::Draft;
use super::same;
use super::skeleton;
use super::survey::survey_at;
use super::swap::SealedStaging;
use super::tree::{Shared, Staging};
use super::verify::{self, Walked};

/// The staging tree is not what the manifest says, or not on the disk. The target is untouched.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Files are missing or wrong. What there was of them is removed; everything else stays.
    #[error("{} files of the staging tree {} are not what was received", .entries.len(), shown(&.staging.path()))]
    Unstaged {
        /// The tree, open again for these files. Writers made before are of no use any more.
        staging: Box<Staging>,
        /// Which files, in order. A durable ledger must forget them.
        entries: Vec<EntryIndex>,
        /// What is wrong with the first of them that was found.
        #[source]
        error: StageError,
    },
    /// Something stands in the tree that does not belong there. Nothing is removed: the tree can be suspended, and
    /// completed once that is gone.
    #[error("something else is in the staging tree {}", shown(&.staging.path()))]
    Foreign {
        /// The tree. Its writers are of no use any more.
        staging: Box<Staging>,
        /// What is there, and where.
        #[source]
        error: StageError,
    },
    /// It cannot be completed; the staging tree is discarded.
    #[error(transparent)]
    Failed(#[from] StageError),
}

impl SealError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Unstaged { error, .. } | Self::Foreign { error, .. } | Self::Failed(error) => error.code(),
        }
    }
}

enum Completed {
    Whole,
    /// These files are not there.
    Without(Vec<EntryIndex>, StageError),
}

impl Staging {
    /// Completes the tree: symlinks, the final walk against the manifest, directory modes and times, the final
    /// flush. `progress` hears the number of entries checked. Blocking, possibly for minutes.
    ///
    /// # Errors
    /// Files are missing or wrong: they can be received again. Or something stands there that does not belong
    /// there: the tree is given back as it is. Or the disk did not confirm: the staging tree is discarded then.
    pub fn seal(mut self, progress: &mut dyn FnMut(u32)) -> Result<SealedStaging, SealError> {
        #[cfg(feature = "test-hooks")]
        super::pause::at("seal");
        if self.is_standing() {
            return self.seal_standing();
        }
        match self.complete(progress) {
            Ok(Completed::Whole) => {
                let is_same = self.is_what_stands_there();
                let Shared { manifest, stamps, .. } = &*self.shared;
                let draft = Draft { manifest: Arc::clone(manifest), stamps: Arc::clone(stamps) };
                Ok(SealedStaging::new(self.site, draft, is_same))
            }
            Ok(Completed::Without(entries, error)) => match self.unsealed() {
                Ok(staging) => Err(SealError::Unstaged { staging: Box::new(staging), entries, error }),
                Err((staging, err)) => Err(SealError::Failed(staging.fail(err))),
            },
            Err(error @ StageError::Mismatch { .. }) => Err(SealError::Foreign { staging: Box::new(self), error }),
            Err(err) => Err(SealError::Failed(self.fail(err))),
        }
    }

    /// Nothing was staged, as the target was that tree. If it is no more, all files have to come.
    fn seal_standing(mut self) -> Result<SealedStaging, SealError> {
        let old = self.site.target.old.as_ref();
        let now = old.and_then(|old| survey_at(&old.fd).ok()).and_then(|survey| survey.fingerprint);
        let stands = now.is_some() && now == old.and_then(|old| old.survey.fingerprint);
        match self.site.standing.take() {
            Some(standing) if stands => {
                // what was read there may not have reached the disk
                if standing.was_read
                    && let Err(err) = self.checkpoint()
                {
                    return Err(SealError::Failed(self.fail(err)));
                }
                let draft = Draft { manifest: Arc::clone(&self.shared.manifest), stamps: Arc::clone(&standing.stamps) };
                self.site.standing.set(standing).ok();
                Ok(SealedStaging::new(self.site, draft, true))
            }
            Some(_) | None => {
                // none were made as long as nothing was to be staged
                if let Err(err) = skeleton::make_dirs(&self.shared) {
                    return Err(SealError::Failed(self.fail(err)));
                }
                let files = self.shared.manifest.entries().filter(|(_, entry)| entry.is_file());
                let entries = files.map(|(index, _)| index).collect();
                let path = shown(self.site.target.path());
                let error = StageError::Mismatch { path, why: "was the tree that came, and was changed just now" };
                Err(SealError::Unstaged { staging: Box::new(self), entries, error })
            }
        }
    }

    /// As far as can be said before the target is looked at for the last time.
    fn is_what_stands_there(&self) -> bool {
        let files = self.shared.manifest.counts().files;
        let Some(old) = self.site.target.old.as_ref().filter(|old| old.survey.fingerprint.is_some()) else {
            return false;
        };
        let all_read = self.site.copied.load(Ordering::Relaxed) == files;
        all_read && old.fd.try_clone().is_ok_and(|root| same::is_same(&self.shared, root, &old.survey.tree))
    }

    fn complete(&mut self, progress: &mut dyn FnMut(u32)) -> Result<Completed, StageError> {
        self.shared.slots.seal()?;
        if self.site.is_gutted()? {
            return Ok(self.everything_lost());
        }
        self.symlinks()?;
        // what a cleaner took of the skeleton is made once more; if it is taken again, somebody else works here
        for _ in 0..2 {
            let Walked { checked, mut lost, mut error } = verify::final_walk(&self.shared, progress)?;
            if checked != self.shared.manifest.len() {
                let missing = verify::missing_files(&self.shared);
                if let Some(first) = missing.first() {
                    error.get_or_insert(StageError::Mismatch { path: self.shared.shown(*first), why: "is missing" });
                }
                lost.extend(missing);
                lost.sort_unstable();
                lost.dedup();
            } else if lost.is_empty() {
                verify::finish_root(&self.shared)?;
                self.checkpoint()?;
                self.site.journal.update(|r| r.state = SessionState::Verified)?;
                return Ok(Completed::Whole);
            }
            if let Some(error) = error {
                return Ok(Completed::Without(lost, error));
            }
            skeleton::make_dirs(&self.shared)?;
            self.symlinks()?;
        }
        Err(verify::missing(&self.shared))
    }

    fn symlinks(&self) -> Result<(), StageError> {
        match skeleton::make_symlinks(&self.shared) {
            Err(StageError::Entry { err, .. }) if err.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                skeleton::make_dirs(&self.shared)?;
                skeleton::make_symlinks(&self.shared)
            }
            other => other,
        }
    }

    /// Somebody deleted the whole tree.
    fn everything_lost(&self) -> Completed {
        let files = self.shared.manifest.entries().filter(|(_, entry)| entry.is_file()).map(|(index, _)| index);
        let files: Vec<_> = files.inspect(|index| self.shared.stamps.clear(*index)).collect();
        let path = shown(&self.path());
        Completed::Without(files, StageError::Mismatch { path, why: "was deleted by another program" })
    }

    /// The same tree, open for writing again.
    fn unsealed(mut self) -> Result<Self, (Box<Self>, StageError)> {
        let root = match self.site.is_gutted() {
            Ok(false) => Ok(()),
            Ok(true) => self.site.renew_root(),
            Err(err) => Err(err),
        };
        if let Err(err) = root {
            return Err((Box::new(self), err));
        }
        // writers of the sealed tree must not open anything in this one
        self.shared = Arc::new(Shared {
            root: Arc::clone(&self.site.root),
            manifest: Arc::clone(&self.shared.manifest),
            modes: self.shared.modes,
            stamps: Arc::clone(&self.shared.stamps),
            slots: Arc::default(),
            flush: Arc::clone(&self.shared.flush),
        });
        match skeleton::make_dirs(&self.shared) {
            Ok(()) => Ok(self),
            Err(err) => Err((Box::new(self), err)),
        }
    }
}

#[cfg(test)]
#[path = "seal/tests.rs"]
mod tests;

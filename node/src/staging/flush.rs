//! Flushing the disk that holds the staging tree: at checkpoints while files come in, and once at the end.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use me_sync_protocol::ids::EntryIndex;

use super::durable;
use super::error::StageError;
use super::seen::Activity;
use super::stamp::{FileStamp, Stamps};

/// The one way to flush a session's disk. A failure is remembered: the kernel reports it once and then forgets.
#[derive(Debug)]
pub(super) struct Flush {
    /// Opened before the first staged write: it hears of every error since.
    parent: OwnedFd,
    /// The staging directory when the session was opened, for people.
    path: PathBuf,
    /// One flush at a time: the error is told to one caller only, and all must know it.
    failed: Mutex<bool>,
}

impl Flush {
    pub(super) fn new(parent: OwnedFd, path: PathBuf) -> Self {
        Self { parent, path, failed: Mutex::new(false) }
    }

    /// Everything that was written before this call is on the disk after it.
    pub(super) fn run(&self) -> Result<(), StageError> {
        let sync = |err| StageError::Sync { path: self.path.clone(), err };
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(sync(None));
        }
        durable::sync_file_system(&self.parent).map_err(|err| {
            *failed = true;
            sync(Some(err.into()))
        })
    }
}

#[cfg(test)]
impl Flush {
    /// As after a flush that failed.
    pub(super) fn fail_for_test(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Makes finished files durable while others are being written. Runs on any thread, beside the writers.
#[derive(Debug)]
pub struct Checkpointer {
    stamps: Arc<Stamps>,
    flush: Arc<Flush>,
    activity: Arc<Activity>,
}

impl Checkpointer {
    pub(super) fn new(stamps: Arc<Stamps>, flush: Arc<Flush>, activity: Arc<Activity>) -> Self {
        Self { stamps, flush, activity }
    }

    /// Notes that somebody works on the session, without a flush. Blocking.
    pub fn touch(&self) {
        if let Err(err) = self.activity.record() {
            tracing::warn!(error = %err, "the activity of the session is not recorded");
        }
    }

    /// Flushes the disk, then tells how those of `entries` look that were finished before: what the durable
    /// ledger may note. Blocking, possibly for minutes.
    ///
    /// # Errors
    /// The disk did not confirm, now or at an earlier flush of this session. The session is over.
    pub fn run(&self, entries: &[EntryIndex]) -> Result<Vec<(EntryIndex, FileStamp)>, StageError> {
        // before the flush: a file that is finished during it may not be covered
        let finished: Vec<_> = entries.iter().filter_map(|index| Some((*index, self.stamps.of(*index)?))).collect();
        self.flush.run()?;
        if let Err(err) = self.activity.record_if_old() {
            // the session may expire earlier than it should; its data are safe
            tracing::warn!(error = %err, "the activity of the session is not recorded");
        }
        Ok(finished)
    }
}

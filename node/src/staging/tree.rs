//! The staging tree: a private sibling of the target that is filled, sealed, and then swapped in or discarded.
//!
//! Let go without an end, by [`Staging::suspend`] or a crash, it stays for [`Staging::reopen`].

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use me_sync_protocol::ids::{EntryIndex, SessionId};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::Code;

use super::KEEP_OLD;
use super::error::StageError;
use super::file::StagingWriter;
use super::flush::{Checkpointer, Flush};
use super::modes::{ModePolicy, ModeReport};
use super::site::Site;
use super::slots::Slots;
use super::stamp::Stamps;
use super::state::StateDir;
use super::target::Target;

/// Who sends, and how long the old tree is kept.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The exporter's device name as it calls itself.
    pub peer_name: String,
    /// The exporter's PeerId.
    pub peer_id: String,
    /// How long the old tree stays for `rollback`.
    pub keep_old: Duration,
}

impl Default for SessionInfo {
    fn default() -> Self {
        Self { peer_name: String::new(), peer_id: String::new(), keep_old: KEEP_OLD }
    }
}

/// A staging tree that is being filled.
#[derive(Debug)]
pub struct Staging {
    pub(super) site: Site,
    pub(super) shared: Arc<Shared>,
}

/// What the writers of all lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) root: Arc<OwnedFd>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) modes: ModePolicy,
    pub(super) stamps: Arc<Stamps>,
    pub(super) slots: Arc<Slots>,
    pub(super) flush: Arc<Flush>,
}

impl Shared {
    /// The printable path of an entry.
    pub(super) fn shown(&self, index: EntryIndex) -> String {
        self.manifest.entry(index).map_or_else(|| format!("entry {index}"), |entry| entry.path.to_string())
    }
}

impl Staging {
    /// Registers the session with its manifest and makes the staging directory beside the target (0700), empty:
    /// [`Staging::reuse`] makes the directories in it, if it comes to that. Blocking.
    ///
    /// # Errors
    /// The target is taken by another session, the session cannot be recorded, or the directory cannot be made.
    /// Nothing is left then but a record of the failure.
    pub fn create(
        target: Target,
        manifest: Arc<Manifest>,
        session: SessionId,
        state: &StateDir,
        info: SessionInfo,
    ) -> Result<Self, StageError> {
        let site = Site::open(target, &manifest, session, state, info)?;
        Self::over(site, manifest)
    }

    /// A tree of which nothing is finished yet.
    pub(super) fn over(site: Site, manifest: Arc<Manifest>) -> Result<Self, StageError> {
        let path = site.staging_path();
        // a clone shares what the kernel tells: it was opened before anything was written
        let parent = site.target.parent_fd().try_clone_to_owned();
        let parent = parent.map_err(|err| StageError::Io { what: "opening", path: path.clone(), err })?;
        let shared = Shared {
            root: Arc::clone(&site.root),
            modes: site.target.modes,
            stamps: Arc::new(Stamps::none_of(manifest.len())),
            slots: Arc::default(),
            flush: Arc::new(Flush::new(parent, path)),
            manifest,
        };
        Ok(Self { site, shared: Arc::new(shared) })
    }

    /// A writer for one lane.
    pub fn writer(&self) -> StagingWriter {
        StagingWriter::new(Arc::clone(&self.shared))
    }

    /// What makes finished files durable while lanes write. It keeps no lock: it may outlive this, to no effect.
    pub fn checkpointer(&self) -> Checkpointer {
        let shared = &self.shared;
        Checkpointer::new(Arc::clone(&shared.stamps), Arc::clone(&shared.flush), Arc::clone(&self.site.activity))
    }

    /// The manifest of this tree.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.shared.manifest
    }

    /// The manifest that seals the outline of this tree takes its place, durably; from then on the tree is one of that
    /// manifest. `lost` are files that were finished and are not what it says: they can be received again. Not while a
    /// writer is at work. Blocking.
    ///
    /// # Errors
    /// It is not the manifest of this outline, or it cannot be recorded: the tree is given back as it is.
    pub fn adopt(mut self, manifest: Arc<Manifest>, lost: &[EntryIndex]) -> Result<Self, (Box<Self>, StageError)> {
        match self.site.adopt(&self.shared.manifest, &manifest) {
            Ok(()) => {}
            Err(err) => return Err((Box::new(self), err.into())),
        }
        lost.iter().for_each(|index| self.shared.stamps.clear(*index));
        self.shared = Arc::new(Shared {
            root: Arc::clone(&self.shared.root),
            modes: self.shared.modes,
            stamps: Arc::clone(&self.shared.stamps),
            slots: Arc::clone(&self.shared.slots),
            flush: Arc::clone(&self.shared.flush),
            manifest,
        });
        Ok(self)
    }

    /// The staging directory.
    pub fn path(&self) -> PathBuf {
        self.site.staging_path()
    }

    /// The directory that the tree is to replace.
    pub fn target_path(&self) -> &Path {
        self.site.target.path()
    }

    /// What the mapping of permission bits drops.
    pub fn modes(&self) -> ModeReport {
        self.site.modes
    }

    /// Flushes what is staged so far. Blocking, possibly for minutes.
    ///
    /// # Errors
    /// The disk did not confirm. The session is over: [`Staging::seal`] refuses from now on.
    pub fn checkpoint(&self) -> Result<(), StageError> {
        self.shared.flush.run()
    }

    /// Lets go and keeps everything for [`Staging::reopen`], which waits until all writers are gone too.
    pub fn suspend(mut self) {
        // the state stays; what is written is that somebody was here
        self.keep(None);
    }

    /// As [`Staging::suspend`] after a failure that may pass, such as files that could not be had: the reason is
    /// recorded, the session can be continued until its time is over.
    pub fn keep_failed(mut self, code: Code) {
        self.keep(Some(code));
    }

    fn keep(&mut self, code: Option<Code>) {
        if let Err(err) = self.site.journal.update(|r| r.code = code) {
            // it is kept all the same, for as long as the earlier record says
            tracing::warn!(path = %self.path().display(), error = %err, "the pause of the session is not recorded");
        }
    }

    /// Ends the session without effect: the staging tree goes, the record stays as history.
    ///
    /// # Errors
    /// Something of the staging tree is left; the next start tries again.
    pub fn discard(self) -> Result<(), StageError> {
        self.discard_because(Code::Aborted)
    }

    /// As [`Staging::discard`], with the reason that is recorded.
    ///
    /// # Errors
    /// As [`Staging::discard`].
    pub fn discard_because(self, code: Code) -> Result<(), StageError> {
        // files that are still open go with the tree
        self.shared.slots.seal().ok();
        self.site.discard(code)
    }

    pub(super) fn fail(self, err: StageError) -> StageError {
        let path = self.path();
        if let Err(left) = self.discard_because(err.code()) {
            tracing::warn!(path = %path.display(), error = %left, "the staging tree is not gone yet");
        }
        err
    }
}

#[cfg(test)]
#[path = "tree/tests.rs"]
mod tests;

//! The way back into an unfinished session after a restart: journal, manifest, target and staging tree are all
//! what they were, or nothing is touched.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use me_sync_protocol::ids::{EntryIndex, SessionId};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::Code;
use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::error::{PreflightError, StageError, StateError, shown};
use super::inode::Inode;
use super::journal::{Journal, Loaded, Record, SessionState};
use super::seen::LastSeen;
use super::site::{self, Site};
use super::stamp::FileStamp;
use super::state::{SessionDir, StateDir};
use super::target::{Target, TargetOptions, open_resolved};
use super::tree::Staging;
use super::{cleanup, mounts, skeleton, spool};

/// A session cannot be continued. Unless it says so, it is kept for another try.
#[derive(Debug, thiserror::Error)]
pub enum ReopenError {
    /// There is no such session, or it is over.
    #[error("session {session} {why}; start a new one")]
    Unknown {
        /// Which session.
        session: SessionId,
        /// Why it cannot go on.
        why: &'static str,
    },
    /// Nobody continued it in time. The next start removes what is left of it.
    #[error("session {session} has expired: nobody continued it in time; start a new one")]
    Expired {
        /// Which session.
        session: SessionId,
    },
    /// What stands at the target's or the staging tree's name is not what the session worked on.
    #[error("{}: {why}; nothing was touched, the staging tree is looked for at {}", shown(.target), shown(.staging))]
    Conflict {
        /// The target.
        target: PathBuf,
        /// The staging directory.
        staging: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The target does not pass its checks any more, the records cannot be read, or the tree cannot be repaired.
    #[error(transparent)]
    Stage(#[from] StageError),
}

impl ReopenError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::SessionUnknown,
            Self::Expired { .. } => Code::SessionExpired,
            Self::Conflict { .. } => Code::TargetConflict,
            Self::Stage(err) => err.code(),
        }
    }
}

impl From<StateError> for ReopenError {
    fn from(err: StateError) -> Self {
        Self::Stage(err.into())
    }
}

impl From<PreflightError> for ReopenError {
    fn from(err: PreflightError) -> Self {
        Self::Stage(err.into())
    }
}

impl Staging {
    /// Goes on with a session that was let go or whose process died: locks it, reads its manifest back, pins its
    /// target again with all checks, opens its staging tree and completes the directories in it.
    ///
    /// `durable` is what the durable ledger holds: files that a checkpoint covered and how they looked. They
    /// count as finished; the seal compares the looks and reads whatever moved. All others count only after
    /// [`Staging::survey`]. If the staging tree is gone, none of them does. Blocking.
    ///
    /// # Errors
    /// See [`ReopenError`]. Nothing of the session is removed.
    pub fn reopen(
        state: &StateDir,
        session: SessionId,
        options: &TargetOptions,
        durable: impl IntoIterator<Item = (EntryIndex, FileStamp)>,
    ) -> Result<Self, ReopenError> {
        let (site, manifest, root) = Site::reopen(state, session, options)?;
        let staging = Self::over(site, Arc::new(manifest))?;
        // what the files of an outline should be, no ledger knows
        if root == Root::Found && !staging.shared.manifest.is_outline() {
            durable.into_iter().for_each(|(index, stamp)| staging.shared.stamps.set(index, stamp));
        }
        skeleton::make_dirs(&staging.shared)?;
        Ok(staging)
    }
}

/// What became of the staging tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Found,
    /// It was gone; an empty one takes its place.
    Renewed,
}

impl Site {
    fn reopen(
        state: &StateDir,
        session: SessionId,
        options: &TargetOptions,
    ) -> Result<(Self, Manifest, Root), ReopenError> {
        let (dir, mut journal) = load(state, session)?;
        let manifest = spool::read(&dir.fd, &dir.path, journal.record().manifest)?;
        let (target, deleted) = pin_again(journal.record(), options)?;

        let registry = state.lock_registry()?;
        site::check_registry(state, target.path(), session)?;
        let entrance = site::lock_parent(&target)?;
        let found = find_root(&target, journal.record())?;
        journal.update(|r| {
            r.state = SessionState::Receiving;
            r.code = None;
            r.method = target.method;
            r.target_changed |= deleted;
        })?;
        let (root, new, how) = match found {
            Some(root) => {
                let (root, new) = site::take_root(&target, root, &journal.record().staging_path())?;
                (root, new, Root::Found)
            }
            None => {
                site::rename_root(&target, &mut journal)?;
                let (root, new) = site::make_root(&target, &mut journal)?;
                (root, new, Root::Renewed)
            }
        };
        drop(entrance);
        drop(registry);
        let modes = target.modes.report(&manifest);
        let activity = Arc::new(site::activity(&dir)?);
        let site = Self {
            target,
            journal,
            session: dir,
            activity,
            root: Arc::new(root),
            new,
            modes,
            copied: AtomicU32::new(0),
            standing: OnceLock::new(),
            state: state.path().to_owned(),
        };
        Ok((site, manifest, how))
    }
}

/// Locks the session and reads its record, if it can go on.
fn load(state: &StateDir, session: SessionId) -> Result<(SessionDir, Journal), ReopenError> {
    let unknown = |why| ReopenError::Unknown { session, why };
    let dir = state.lock_session(session).map_err(|err| match err {
        StateError::Io { err, .. } if err.kind() == std::io::ErrorKind::NotFound => unknown("is not known here"),
        err => err.into(),
    })?;
    let journal = match Journal::load(dir.share()?, &dir.path)? {
        Loaded::Whole(journal) => *journal,
        Loaded::Nothing => return Err(unknown("never began")),
        Loaded::Corrupt => return Err(StateError::Corrupt { path: dir.path }.into()),
    };
    let record = journal.record();
    if record.session != session {
        return Err(StateError::NotOurs { path: dir.path, why: "holds the journal of another session" }.into());
    }
    match record.state {
        SessionState::Receiving | SessionState::Verified if journal.is_expired(&LastSeen::now()) => {
            Err(ReopenError::Expired { session })
        }
        SessionState::Receiving | SessionState::Verified => Ok((dir, journal)),
        SessionState::SwapIntent | SessionState::RollbackIntent => {
            Err(conflict(record, "a swap that began is not settled yet"))
        }
        SessionState::Failed if record.code == Some(Code::SessionExpired) => Err(ReopenError::Expired { session }),
        SessionState::Failed => Err(unknown("has failed and its data are gone")),
        SessionState::Swapped | SessionState::Committed => Err(unknown("is complete")),
        SessionState::RolledBack => Err(unknown("was complete and was rolled back")),
        SessionState::Cleaned => Err(unknown("is over")),
    }
}

/// The target as the session knew it. True: its directory was deleted meanwhile.
fn pin_again(record: &Record, options: &TargetOptions) -> Result<(Target, bool), ReopenError> {
    // Before anything is tried there: the mount point below a disk that is not mounted is another directory.
    let parent = open_resolved(&record.parent_path())
        .and_then(Inode::of)
        .map_err(|_| conflict(record, "its parent directory cannot be opened (is its disk mounted?)"))?;
    if parent.identity() != record.parent_id {
        return Err(conflict(record, "its parent directory is another one (is its disk mounted?)"));
    }
    let mut target = Target::pin(&record.target_path(), options)?;
    if target.path() != record.target_path() || target.parent_id != record.parent_id {
        return Err(conflict(record, "a symlink leads elsewhere now"));
    }
    match (record.old, &mut target.old) {
        (None, None) => Ok((target, false)),
        (Some(before), Some(old)) if before == old.identity => {
            // edits since the session began are still edits
            old.survey.fingerprint = record.fingerprint;
            Ok((target, false))
        }
        (Some(_), None) if options.fail_if_changed => Err(conflict(record, "the directory was deleted")),
        (Some(_), None) => Ok((target, true)),
        (Some(_), Some(_)) => Err(conflict(record, "another directory stands there")),
        (None, Some(_)) => Err(conflict(record, "somebody created a directory there")),
    }
}

/// Opens the staging tree that the record names; none if it is gone.
fn find_root(target: &Target, record: &Record) -> Result<Option<std::os::fd::OwnedFd>, ReopenError> {
    let path = record.staging_path();
    let io = |what| {
        let path = path.clone();
        move |err: Errno| StageError::Io { what, path, err: err.into() }
    };
    // a deletion that did not come to its end
    let ours: Vec<_> = record.new.into_iter().collect();
    let deleted = cleanup::delete_doomed(target.parent_fd(), &record.doomed(), &ours).map_err(io("removing"))?;
    if deleted.left > 0 {
        // under another name nobody would look for it again
        return Err(conflict(record, "a tree that is being deleted cannot be deleted"));
    }
    let at = |name: &str| Inode::at(&target.parent, name).map_err(io("looking at"));
    if at(&record.aside())?.is_some() {
        return Err(conflict(record, "something stands beside it under a name of this session"));
    }
    let Some(new) = record.new else {
        // died between making the directory and recording its inode: it is empty, or it is not ours
        unlinkat(&target.parent, record.staging.as_str(), AtFlags::REMOVEDIR).ok();
        return Ok(None);
    };
    let Some(there) = at(&record.staging)? else { return Ok(None) };
    if !there.is_dir() || there.identity() != new {
        return Err(conflict(record, "something else stands in place of the staging tree"));
    }
    check_mounts(&path)?;
    let root = cleanup::open_writable(target.parent_fd(), record.staging.as_str(), Some(new), target.place);
    Ok(Some(root.map_err(io("opening"))?))
}

fn check_mounts(path: &Path) -> Result<(), PreflightError> {
    match mounts::mount_below(path) {
        Some(mount) => Err(PreflightError::ContainsMount { path: path.to_owned(), mount }),
        None => Ok(()),
    }
}

fn conflict(record: &Record, why: &'static str) -> ReopenError {
    ReopenError::Conflict { target: record.target_path(), staging: record.staging_path(), why }
}

#[cfg(test)]
#[path = "reopen/tests.rs"]
mod tests;

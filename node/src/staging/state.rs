//! The session registry: `<state>/sessions/<session>/`, 0700, one journal each.
//!
//! A live session holds `flock` on its own directory, so recovery in another process leaves it alone.
//! Directories that belong to somebody else, or are symlinks, are refused.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use me_sync_protocol::ids::{Digest, SessionId};
use me_sync_protocol::reason::Code;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, fchmod, flock, mkdirat, open, unlinkat};
use rustix::io::Errno;

use super::beneath::{DIR, open_child};
use super::durable;
use super::error::StateError;
use super::inode::Inode;
use super::journal::{self, Journal, Loaded, Record, SessionState};
use super::lock::{self, Lock};

/// The directory that remembers sessions across restarts.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    sessions: OwnedFd,
}

/// One session as it is listed to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Which session.
    pub session: SessionId,
    /// How far it is.
    pub state: SessionState,
    /// The directory it replaces.
    pub target: PathBuf,
    /// Where the staging tree or, after the swap, the retained tree is, if there still is one on record.
    pub retained: Option<PathBuf>,
    /// Milliseconds since 1970 at which the retained tree goes; none while nothing is retained.
    pub keep_until_ms: Option<u64>,
    /// There was a target before.
    pub target_existed: bool,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Milliseconds since 1970.
    pub updated_ms: u64,
    /// Files in the manifest.
    pub files: u64,
    /// Bytes in the manifest.
    pub bytes: u64,
    /// The manifest's SHA-256.
    pub manifest: Digest,
    /// The exporter's device name as it called itself: escape it before printing.
    pub peer_name: String,
    /// The exporter's PeerId.
    pub peer_id: String,
    /// Why it failed, is parked or, if its tree is kept, stopped.
    pub code: Option<Code>,
    /// The new tree may be in place, and the command that says whether it stays is not through: the next start takes it
    /// back.
    pub unproven: bool,
}

impl From<&Record> for SessionRecord {
    fn from(record: &Record) -> Self {
        let retains = match record.state {
            SessionState::Cleaned | SessionState::Failed => false,
            SessionState::Receiving
            | SessionState::Verified
            | SessionState::SwapIntent
            | SessionState::Swapped
            | SessionState::Committed
            | SessionState::RollbackIntent
            | SessionState::RolledBack => true,
        };
        Self {
            session: record.session,
            state: record.state,
            target: record.target_path(),
            retained: retains.then(|| record.staging_path()),
            keep_until_ms: (retains && record.keep_until_ms > 0).then_some(record.keep_until_ms),
            target_existed: record.old.is_some(),
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            files: record.files,
            bytes: record.bytes,
            manifest: record.manifest,
            peer_name: record.peer_name.clone(),
            peer_id: record.peer_id.clone(),
            code: record.code,
            unproven: record.unproven.is_some(),
        }
    }
}

/// A session's directory, locked for this process.
#[derive(Debug)]
pub(crate) struct SessionDir {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
}

impl SessionDir {
    /// A second descriptor that shares the lock.
    pub(crate) fn share(&self) -> Result<OwnedFd, StateError> {
        self.fd.try_clone().map_err(|err| StateError::Io { what: "opening", path: self.path.clone(), err })
    }
}

impl StateDir {
    /// Opens the state directory `path`, creating it and its `sessions` with mode 0700.
    ///
    /// # Errors
    /// It cannot be created, belongs to another user, is writable by others, or `sessions` is a symlink.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |err: io::Error| StateError::Io { what, path, err }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("creating", path))?;
        let path = path.canonicalize().map_err(io("resolving", path))?;
        let root = open(&path, DIR, Mode::empty()).map_err(|e| io("opening", &path)(e.into()))?;
        check_owner(&root, &path, 0o022)?;
        let below = path.join("sessions");
        match mkdirat(&root, "sessions", Mode::RWXU) {
            Ok(()) => durable::sync(&root).map_err(|e| io("flushing", &path)(e.into()))?,
            Err(Errno::EXIST) => {}
            Err(err) => return Err(io("creating", &below)(err.into())),
        }
        let sessions = open_ours(&root, "sessions", &below)?;
        fchmod(&sessions, Mode::RWXU).map_err(|e| io("changing the mode of", &below)(e.into()))?;
        Ok(Self { path, sessions })
    }

    /// Where it is, resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every session on record, oldest first. Damaged records are left out; [`super::recover`] names them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sessions(&self) -> Result<Vec<SessionRecord>, StateError> {
        let mut all: Vec<_> = self.records()?.iter().map(SessionRecord::from).collect();
        all.sort_by_key(|record| (record.created_ms, record.session));
        Ok(all)
    }

    /// The readable records, without locking anything.
    pub(crate) fn records(&self) -> Result<Vec<Record>, StateError> {
        let mut all = Vec::new();
        for id in self.ids()? {
            let path = self.session_path(id);
            let Ok(fd) = open_ours(&self.sessions, &id.to_string(), &path) else { continue };
            if let Ok(Loaded::Whole(journal)) = Journal::load(fd, &path) {
                all.push(journal.record().clone());
            }
        }
        Ok(all)
    }

    /// The ids that have a directory, in order.
    pub(crate) fn ids(&self) -> Result<Vec<SessionId>, StateError> {
        let io = |err: Errno| StateError::Io { what: "listing", path: self.path.join("sessions"), err: err.into() };
        let mut ids = Vec::new();
        for entry in Dir::read_from(&self.sessions).map_err(io)? {
            let entry = entry.map_err(io)?;
            if let Ok(id) = entry.file_name().to_str().unwrap_or_default().parse() {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Locks the registry while a session enters, so that two cannot pass each other.
    pub(crate) fn lock_registry(&self) -> Result<OwnedFd, StateError> {
        let path = self.path.join("sessions");
        let io = |err: Errno| StateError::Io { what: "locking", path: path.clone(), err: err.into() };
        // a descriptor of its own: flock belongs to the open file description
        let fd = open_child(&self.sessions, ".").map_err(io)?;
        flock(&fd, FlockOperation::LockExclusive).map_err(io)?;
        Ok(fd)
    }

    /// Makes and locks a new session's directory.
    pub(crate) fn create_session(&self, id: SessionId) -> Result<SessionDir, StateError> {
        let path = self.session_path(id);
        match mkdirat(&self.sessions, id.to_string(), Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(StateError::Exists { path }),
            Err(err) => return Err(StateError::Io { what: "creating", path, err: err.into() }),
        }
        durable::sync(&self.sessions).map_err(|e| StateError::Io {
            what: "flushing",
            path: self.path.join("sessions"),
            err: e.into(),
        })?;
        self.lock_session(id)
    }

    /// Opens and locks a session's directory; busy if a process works on it.
    pub(crate) fn lock_session(&self, id: SessionId) -> Result<SessionDir, StateError> {
        let path = self.session_path(id);
        let fd = open_ours(&self.sessions, &id.to_string(), &path)?;
        match lock::exclusive(&fd) {
            Ok(Lock::Held | Lock::Unsupported) => Ok(SessionDir { fd, path }),
            Ok(Lock::Busy) => Err(StateError::Busy { path }),
            Err(err) => Err(StateError::Io { what: "locking", path, err: err.into() }),
        }
    }

    /// Forgets a session: its files and its directory.
    pub(crate) fn forget(&self, id: SessionId, dir: &OwnedFd) -> Result<(), StateError> {
        let io = |err: Errno| StateError::Io { what: "removing", path: self.session_path(id), err: err.into() };
        journal::remove_files(dir).map_err(io)?;
        unlinkat(&self.sessions, id.to_string(), AtFlags::REMOVEDIR).map_err(io)
    }

    fn session_path(&self, id: SessionId) -> PathBuf {
        self.path.join("sessions").join(id.to_string())
    }
}

fn open_ours(dir: impl AsFd, name: &str, path: &Path) -> Result<OwnedFd, StateError> {
    let fd = open_child(dir, name).map_err(|err| match err {
        Errno::LOOP | Errno::NOTDIR => {
            StateError::NotOurs { path: path.to_owned(), why: "is a symlink or no directory" }
        }
        err => StateError::Io { what: "opening", path: path.to_owned(), err: err.into() },
    })?;
    check_owner(&fd, path, 0o022)?;
    Ok(fd)
}

fn check_owner(fd: &OwnedFd, path: &Path, forbidden: u32) -> Result<(), StateError> {
    let inode =
        Inode::of(fd).map_err(|e| StateError::Io { what: "looking at", path: path.to_owned(), err: e.into() })?;
    let refuse = |why| Err(StateError::NotOurs { path: path.to_owned(), why });
    match inode {
        _ if inode.uid() != rustix::process::geteuid().as_raw() => refuse("belongs to another user"),
        _ if inode.mode() & forbidden != 0 => refuse("can be written by others"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn directories_are_private_and_sessions_lock_once() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("x/state")).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let id = SessionId([1; 16]);
        let held = state.create_session(id).unwrap();
        assert_eq!((mode(state.path()), mode(&held.path)), (0o700, 0o700));
        assert!(matches!(state.lock_session(id), Err(StateError::Busy { .. })));
        assert!(matches!(state.create_session(id), Err(StateError::Exists { .. })));
        drop(held);
        assert!(state.lock_session(id).is_ok());
    }

    // RELIABILITY A95
    #[test]
    fn a_symlinked_or_shared_state_directory_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        symlink("/tmp", tmp.path().join("sessions")).unwrap();
        assert!(matches!(StateDir::open(tmp.path()), Err(StateError::NotOurs { .. })));
        let shared = tmp.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(StateDir::open(&shared), Err(StateError::NotOurs { .. })));
    }
}

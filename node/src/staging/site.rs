//! What a session holds while it works on a target: locks, descriptors, journal, and the root of its tree.
//!
//! The journal knows the staging name before the directory exists, so nothing of ours is ever without an owner.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::Code;
use rustix::fs::{AtFlags, Mode, mkdirat};
use rustix::io::Errno;

use super::beneath::open_child;
use super::error::{PreflightError, StageError, StateError};
use super::inode::{Identity, Inode};
use super::journal::{Journal, Record, SessionState};
use super::lock::{self, Lock};
use super::modes::ModeReport;
use super::seen::{Activity, LastSeen};
use super::standing::Standing;
use super::state::{SessionDir, StateDir};
use super::target::Target;
use super::tree::SessionInfo;
use super::{cleanup, random_hex, spool};

/// Most that a newcomer waits for others who make a staging directory in the same parent: some flushes of a slow disk each.
const ENTRANCE: Duration = Duration::from_secs(10);
const ENTRANCE_PAUSE: Duration = Duration::from_millis(5);

/// A session on a target.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) target: Target,
    pub(super) journal: Journal,
    /// Locked as long as the session lives.
    pub(super) session: SessionDir,
    pub(super) activity: Arc<Activity>,
    /// The root of the staging tree, locked.
    pub(super) root: Arc<OwnedFd>,
    pub(super) new: Identity,
    pub(super) modes: ModeReport,
    /// Files that were copied from the target by this process, each with the manifest's SHA-256.
    pub(super) copied: AtomicU32,
    /// The tree at the target is the one that came: nothing of it is staged.
    pub(super) standing: OnceLock<Standing>,
    /// The state directory.
    pub(super) state: PathBuf,
}

impl Site {
    /// Registers a session and makes its staging directory.
    pub(super) fn open(
        target: Target,
        manifest: &Manifest,
        session: SessionId,
        state: &StateDir,
        info: SessionInfo,
    ) -> Result<Self, StageError> {
        let registry = state.lock_registry()?;
        check_registry(state, target.path(), session)?;
        // in the parent only for the moment in which two newcomers could miss each other's staging directory
        let entrance = lock_parent(&target)?;
        let dir = state.create_session(session)?;
        let modes = target.modes.report(manifest);
        let begun = || -> Result<_, StateError> {
            // whoever reads the first record finds the manifest it names
            spool::write(&dir.fd, &dir.path, manifest)?;
            let record = first_record(&target, manifest, session, &info);
            Ok((activity(&dir)?, Journal::create(dir.share()?, dir.path.clone(), record)?))
        };
        let (activity, mut journal) = match begun() {
            Ok(begun) => begun,
            Err(err) => {
                // no directory was made: nothing but files of ours to forget
                state.forget(session, &dir.fd).ok();
                return Err(err.into());
            }
        };
        let made = make_root(&target, &mut journal);
        drop(entrance);
        drop(registry);
        match made {
            Ok((root, new)) => Ok(Self {
                target,
                journal,
                session: dir,
                activity: Arc::new(activity),
                root: Arc::new(root),
                new,
                modes,
                copied: AtomicU32::new(0),
                standing: OnceLock::new(),
                state: state.path().to_owned(),
            }),
            Err(err) => {
                give_up(&mut journal, err.code());
                Err(err)
            }
        }
    }

    /// The manifest that seals the outline on record takes its place. At every moment the journal names one that is
    /// whole on the disk.
    pub(super) fn adopt(&mut self, outline: &Manifest, manifest: &Manifest) -> Result<(), StateError> {
        let SessionDir { fd, path } = &self.session;
        if !outline.is_outline() || manifest.is_outline() || manifest.outline_sha256() != outline.sha256() {
            let why = "does not seal the outline of this session".to_owned();
            return Err(StateError::Manifest { path: path.clone(), why });
        }
        spool::write_sealed(fd, path, manifest)?;
        // in both copies: if one is damaged later, the other must not name what is gone
        for _ in 0..2 {
            self.journal.update(|r| r.manifest = manifest.sha256())?;
        }
        spool::remove_outline(fd);
        Ok(())
    }

    pub(super) fn staging_path(&self) -> PathBuf {
        self.journal.record().staging_path()
    }

    /// The root of the staging tree was deleted by somebody: the name may be there, the directory is not.
    pub(super) fn is_gutted(&self) -> Result<bool, StageError> {
        let io = |err: Errno| StageError::Io { what: "looking at", path: self.staging_path(), err: err.into() };
        let there = Inode::at(&self.target.parent, self.journal.record().staging.as_str()).map_err(io)?;
        Ok(there.is_none_or(|inode| inode.identity() != self.new) && Inode::of(&self.root).map_err(io)?.links() == 0)
    }

    /// Makes another root in place of one that was deleted.
    pub(super) fn renew_root(&mut self) -> Result<(), StageError> {
        rename_root(&self.target, &mut self.journal)?;
        let (root, new) = make_root(&self.target, &mut self.journal)?;
        (self.root, self.new) = (Arc::new(root), new);
        Ok(())
    }

    /// The target is what came, and stays: the staging tree goes, and the record says that the session is complete.
    pub(super) fn leave_target(&mut self, standing: Identity) -> Result<(), StageError> {
        self.remove_staging()?;
        // the directory of this session is from now on the one that stands there
        self.journal.update(|r| (r.state, r.new, r.code) = (SessionState::Cleaned, Some(standing), None))?;
        Ok(())
    }

    /// Ends the session without effect on the target.
    pub(super) fn discard(mut self, code: Code) -> Result<(), StageError> {
        // If this cannot be recorded, the rename to the doomed name still tells recovery that the tree is not whole.
        give_up(&mut self.journal, code);
        self.remove_staging()
    }

    fn remove_staging(&self) -> Result<(), StageError> {
        let path = self.staging_path();
        let record = self.journal.record();
        let parent = self.target.parent_fd();
        let io = |err| StageError::Io { what: "removing the staging tree", path: path.clone(), err };
        let deleted = cleanup::doom_and_delete(parent, &record.staging, &record.doomed(), self.new)
            .map_err(|err| io(err.into()))?;
        match deleted.left {
            0 => Ok(()),
            1 => Err(io(std::io::Error::other("1 entry cannot be deleted"))),
            left => Err(io(std::io::Error::other(format!("{left} entries cannot be deleted")))),
        }
    }
}

/// Records a failure. If that is impossible the next start finds the session unfinished.
fn give_up(journal: &mut Journal, code: Code) {
    let failed = journal.update(|r| {
        r.state = SessionState::Failed;
        r.code = Some(code);
    });
    if let Err(err) = failed {
        tracing::warn!(path = %journal.path().display(), error = %err, "the end of the session is not recorded");
    }
}

/// The session's activity file, by a descriptor that does not hold the session's lock.
pub(super) fn activity(dir: &SessionDir) -> Result<Activity, StateError> {
    let fd = open_child(&dir.fd, ".");
    fd.map(Activity::new).map_err(|err| StateError::Io { what: "opening", path: dir.path.clone(), err: err.into() })
}

/// Gives the staging tree another name in the record, for a directory that does not exist yet.
pub(super) fn rename_root(target: &Target, journal: &mut Journal) -> Result<(), StateError> {
    journal.update(|r| (r.staging, r.new) = (fresh_name(target), None))
}

fn fresh_name(target: &Target) -> String {
    format!("{}{}", target.staging_prefix(), random_hex(4))
}

/// Makes and locks the staging directory that the record names. Leaves nothing after an error.
pub(super) fn make_root(target: &Target, journal: &mut Journal) -> Result<(OwnedFd, Identity), StageError> {
    let name = loop {
        let name = journal.record().staging.clone();
        match mkdirat(&target.parent, name.as_str(), Mode::RWXU) {
            Ok(()) => break name,
            Err(Errno::EXIST) => rename_root(target, journal)?,
            Err(err) => {
                let path = target.parent_path.join(&name);
                return Err(StageError::Io { what: "making the staging directory", path, err: err.into() });
            }
        }
    };
    let path = target.parent_path.join(&name);
    let opened = open_child(&target.parent, name.as_str())
        .map_err(|err| StageError::Io { what: "opening", path: path.clone(), err: err.into() })
        .and_then(|root| take_root(target, root, &path))
        .and_then(|(root, new)| {
            journal.update(|r| r.new = Some(new))?;
            Ok((root, new))
        });
    if opened.is_err() {
        // still empty, and the next start knows the name
        rustix::fs::unlinkat(&target.parent, name.as_str(), AtFlags::REMOVEDIR).ok();
    }
    opened
}

/// Checks that an opened staging directory is ours and on the target's mount, and locks it.
pub(super) fn take_root(target: &Target, root: OwnedFd, path: &Path) -> Result<(OwnedFd, Identity), StageError> {
    let io = |what| move |err: Errno| StageError::Io { what, path: path.to_owned(), err: err.into() };
    let inode = Inode::of(&root).map_err(io("looking at"))?;
    if inode.uid() != rustix::process::geteuid().as_raw() || inode.place() != target.place {
        return Err(io("recognising")(Errno::PERM));
    }
    // after the swap this is the target's root: whoever wants to replace it then finds it locked
    if lock::exclusive(root.as_fd()).map_err(io("locking"))? == Lock::Busy {
        return Err(PreflightError::Busy { path: path.to_owned() }.into());
    }
    tracing::debug!(fd = root.as_raw_fd(), "staging directory opened");
    Ok((root, inode.identity()))
}

fn first_record(target: &Target, manifest: &Manifest, session: SessionId, info: &SessionInfo) -> Record {
    use std::os::unix::ffi::OsStrExt as _;
    let now = LastSeen::now();
    let cut = |text: &str| me_sync_protocol::escape::cut(text, me_sync_protocol::limits::MAX_TEXT).to_owned();
    Record {
        session,
        state: SessionState::Receiving,
        parent: target.parent_path.as_os_str().as_bytes().to_vec(),
        name: target.name.as_bytes().to_vec(),
        parent_id: target.parent_id,
        staging: fresh_name(target),
        old: target.old.as_ref().map(|old| old.identity),
        new: None,
        method: target.method,
        tries: 0,
        created_ms: now.wall_ms,
        updated_ms: now.wall_ms,
        keep_until_ms: 0,
        keep_old_ms: u64::try_from(info.keep_old.as_millis()).unwrap_or(u64::MAX),
        files: manifest.counts().files.into(),
        bytes: manifest.total_bytes(),
        manifest: manifest.sha256(),
        peer_name: cut(&info.peer_name),
        peer_id: cut(&info.peer_id),
        fingerprint: target.old.as_ref().and_then(|old| old.survey.fingerprint),
        code: None,
        target_changed: false,
        began: Some(now),
        last: Some(now),
        unproven: None,
    }
}

/// Another live session of this state directory on the same target, around it or inside it (RELIABILITY F69).
pub(super) fn check_registry(state: &StateDir, path: &Path, own: SessionId) -> Result<(), StageError> {
    for record in state.records()? {
        let other = record.target_path();
        let overlap = other.starts_with(path) || path.starts_with(&other);
        let live = match record.state {
            SessionState::Receiving
            | SessionState::Verified
            | SessionState::SwapIntent
            | SessionState::Swapped
            | SessionState::RollbackIntent => true,
            SessionState::Committed | SessionState::RolledBack | SessionState::Cleaned | SessionState::Failed => false,
        };
        // one that nobody works on is settled by inodes when somebody does
        if overlap
            && live
            && record.session != own
            && matches!(state.lock_session(record.session), Err(StateError::Busy { .. }))
        {
            return Err(PreflightError::Busy { path: other }.into());
        }
    }
    Ok(())
}

/// With no target there is nothing to lock but the parent, for a moment: whoever finds it taken waits for that moment to pass.
pub(super) fn lock_parent(target: &Target) -> Result<Option<OwnedFd>, StageError> {
    let busy = || StageError::from(PreflightError::Busy { path: target.path().to_owned() });
    let io = |err: Errno| StageError::Io { what: "locking", path: target.parent_path.clone(), err: err.into() };
    if target.exists() {
        return Ok(None);
    }
    let fd = open_child(&target.parent, ".").map_err(io)?;
    let patience = Instant::now() + ENTRANCE;
    while lock::exclusive(&fd).map_err(io)? == Lock::Busy {
        if Instant::now() >= patience {
            return Err(busy());
        }
        std::thread::sleep(ENTRANCE_PAUSE);
    }
    if lock::live_staging(&fd, &target.staging_prefix()).map_err(io)? {
        return Err(busy());
    }
    Ok(Some(fd))
}

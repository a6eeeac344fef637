//! The staging tree: a private sibling of the target that is filled, sealed, and then swapped in or discarded.
//!
//! The journal knows the staging name before the directory exists, so nothing of ours is ever without an owner.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use me_sync_protocol::ids::{EntryIndex, SessionId};
use me_sync_protocol::manifest::{Manifest, Node};
use me_sync_protocol::reason::Code;
use rustix::fs::{AtFlags, Mode, mkdirat, symlinkat, utimensat};
use rustix::io::Errno;

use super::beneath::{DirCache, open_child};
use super::error::{PreflightError, StageError};
use super::file::StagingWriter;
use super::inode::{Identity, Inode};
use super::journal::{Journal, Record, SessionState};
use super::lock::{self, Lock};
use super::modes::{ModePolicy, ModeReport, times};
use super::state::{SessionDir, StateDir};
use super::swap::SealedStaging;
use super::target::Target;
use super::{KEEP_OLD, cleanup, durable, random_hex, verify, wall_ms};

/// Directories that the tree itself keeps open while it makes directories and symlinks.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

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
    site: Site,
    shared: Arc<Shared>,
}

/// What a session holds while it works on a target: locks, descriptors, journal.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) target: Target,
    pub(super) journal: Journal,
    /// Locked as long as the session lives.
    _session: SessionDir,
    /// The root of the staging tree, locked.
    pub(super) root: Arc<OwnedFd>,
    pub(super) new: Identity,
    pub(super) modes: ModeReport,
}

/// What the writers of all lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) root: Arc<OwnedFd>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) modes: ModePolicy,
    /// By entry index.
    stamps: Vec<Stamp>,
    pub(super) open_files: AtomicUsize,
    pub(super) sealed: AtomicBool,
    sync_failed: AtomicBool,
}

/// How a finished file looked when it was closed; inode number zero: not finished.
#[derive(Debug, Default)]
struct Stamp {
    ino: AtomicU64,
    ctime: AtomicI64,
}

impl Shared {
    /// Remembers how a finished file looks now.
    pub(super) fn stamp(&self, index: EntryIndex, inode: &Inode) {
        if let Some(stamp) = self.stamps.get(index.at()) {
            stamp.ctime.store(inode.ctime(), Ordering::Relaxed);
            stamp.ino.store(inode.ino(), Ordering::Release);
        }
    }

    /// The file was finished by this process and nothing moved since.
    pub(super) fn is_untouched(&self, index: EntryIndex, inode: &Inode) -> bool {
        self.stamps.get(index.at()).is_some_and(|stamp| {
            stamp.ino.load(Ordering::Acquire) == inode.ino() && stamp.ctime.load(Ordering::Relaxed) == inode.ctime()
        })
    }

    /// The file was finished by this process.
    pub(super) fn is_finished(&self, index: EntryIndex) -> bool {
        self.stamps.get(index.at()).is_some_and(|stamp| stamp.ino.load(Ordering::Acquire) != 0)
    }

    /// The printable path of an entry.
    pub(super) fn shown(&self, index: EntryIndex) -> String {
        self.manifest.entry(index).map_or_else(|| format!("entry {index}"), |entry| entry.path.to_string())
    }
}

impl Staging {
    /// Registers the session, makes the staging directory beside the target (0700) and all directories in it.
    /// Blocking.
    ///
    /// # Errors
    /// The target is taken by another session, the session cannot be recorded, or a directory cannot be made.
    /// Nothing is left then but a record of the failure.
    pub fn create(
        target: Target,
        manifest: Arc<Manifest>,
        session: SessionId,
        state: &StateDir,
        info: SessionInfo,
    ) -> Result<Self, StageError> {
        let modes = target.modes;
        let site = Site::open(target, &manifest, session, state, info)?;
        let mut stamps = Vec::new();
        stamps.resize_with(manifest.len() as usize, Stamp::default);
        let shared = Shared {
            root: Arc::clone(&site.root),
            manifest,
            modes,
            stamps,
            open_files: AtomicUsize::new(0),
            sealed: AtomicBool::new(false),
            sync_failed: AtomicBool::new(false),
        };
        let staging = Self { site, shared: Arc::new(shared) };
        match staging.make_dirs() {
            Ok(()) => Ok(staging),
            Err(err) => Err(staging.fail(err)),
        }
    }

    /// A writer for one lane.
    pub fn writer(&self) -> StagingWriter {
        StagingWriter::new(Arc::clone(&self.shared))
    }

    /// The staging directory.
    pub fn path(&self) -> PathBuf {
        self.site.staging_path()
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
        let earlier = self.shared.sync_failed.load(Ordering::Acquire);
        let sync = |err| StageError::Sync { path: self.path(), err };
        if earlier {
            return Err(sync(None));
        }
        durable::sync_file_system(&self.site.target.parent).map_err(|err| {
            self.shared.sync_failed.store(true, Ordering::Release);
            sync(Some(err.into()))
        })
    }

    /// Completes the tree: symlinks, the final walk against the manifest, directory modes and times, the final
    /// flush. `progress` hears the number of entries checked. Blocking, possibly for minutes.
    ///
    /// # Errors
    /// The tree is not the manifest's, or the disk did not confirm. The staging tree is discarded then.
    pub fn seal(mut self, progress: &mut dyn FnMut(u32)) -> Result<SealedStaging, StageError> {
        #[cfg(feature = "test-hooks")]
        super::pause::at("seal");
        match self.complete(progress) {
            Ok(()) => Ok(SealedStaging::new(self.site, self.shared.manifest.sha256())),
            Err(err) => Err(self.fail(err)),
        }
    }

    /// Ends the session without effect: the staging tree goes, the record stays as history.
    ///
    /// # Errors
    /// Something of the staging tree is left; the next start tries again.
    pub fn discard(self) -> Result<(), StageError> {
        self.shared.sealed.store(true, Ordering::Release);
        self.site.discard(Code::Aborted)
    }

    /// As [`Staging::discard`], with the reason that is recorded.
    ///
    /// # Errors
    /// As [`Staging::discard`].
    pub fn discard_because(self, code: Code) -> Result<(), StageError> {
        self.shared.sealed.store(true, Ordering::Release);
        self.site.discard(code)
    }

    fn fail(self, err: StageError) -> StageError {
        let path = self.path();
        if let Err(left) = self.discard_because(err.code()) {
            tracing::warn!(path = %path.display(), error = %left, "the staging tree is not gone yet");
        }
        err
    }

    fn make_dirs(&self) -> Result<(), StageError> {
        let mut dirs = DirCache::new(Arc::clone(&self.shared.root), OPEN_DIRS);
        for (_, entry) in self.shared.manifest.entries() {
            if !matches!(entry.node, Node::Dir) {
                continue;
            }
            let made = dirs.dir(entry.path.parent()).and_then(|dir| mkdirat(&dir, entry.path.name(), Mode::RWXU));
            made.map_err(|err| StageError::Entry {
                what: "making the directory",
                path: entry.path.to_string(),
                err: err.into(),
            })?;
        }
        Ok(())
    }

    fn complete(&mut self, progress: &mut dyn FnMut(u32)) -> Result<(), StageError> {
        self.shared.sealed.store(true, Ordering::SeqCst);
        match self.shared.open_files.load(Ordering::SeqCst) {
            0 => {}
            open => return Err(StageError::StillWriting { open }),
        }
        self.make_symlinks()?;
        verify::final_walk(&self.shared, progress)?;
        self.checkpoint()?;
        self.site.journal.update(|r| r.state = SessionState::Verified)?;
        Ok(())
    }

    fn make_symlinks(&self) -> Result<(), StageError> {
        let mut dirs = DirCache::new(Arc::clone(&self.shared.root), OPEN_DIRS);
        for (_, entry) in self.shared.manifest.entries() {
            let Node::Symlink { target } = &entry.node else { continue };
            let name = entry.path.name();
            let made = dirs.dir(entry.path.parent()).and_then(|dir| {
                symlinkat(target.as_ref(), &dir, name)?;
                utimensat(&dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            });
            made.map_err(|err| StageError::Entry {
                what: "making the symlink",
                path: entry.path.to_string(),
                err: err.into(),
            })?;
        }
        Ok(())
    }
}

impl Site {
    fn open(
        target: Target,
        manifest: &Manifest,
        session: SessionId,
        state: &StateDir,
        info: SessionInfo,
    ) -> Result<Self, StageError> {
        let registry = state.lock_registry()?;
        check_registry(state, target.path())?;
        // in the parent only for the moment in which two newcomers could miss each other's staging directory
        let entrance = lock_parent(&target)?;
        let dir = state.create_session(session)?;
        let modes = target.modes.report(manifest);
        let mut journal = None;
        let name = loop {
            let name = format!("{}{}", target.staging_prefix(), random_hex(4));
            // the first record names the directory before it exists
            match &mut journal {
                None => {
                    let record = first_record(&target, manifest, session, &name, &info);
                    match Journal::create(dir.share()?, dir.path.clone(), record) {
                        Ok(made) => journal = Some(made),
                        Err(err) => {
                            // no directory was made: nothing but an empty record to forget
                            state.forget(session, &dir.fd).ok();
                            return Err(err.into());
                        }
                    }
                }
                Some(journal) => journal.update(|r| r.staging.clone_from(&name))?,
            }
            match mkdirat(&target.parent, name.as_str(), Mode::RWXU) {
                Ok(()) => break name,
                Err(Errno::EXIST) => {}
                Err(err) => {
                    let path = target.parent_path.join(&name);
                    if let Some(journal) = &mut journal {
                        give_up(journal, Code::TargetParentNotWritable);
                    }
                    return Err(StageError::Io { what: "making the staging directory", path, err: err.into() });
                }
            }
        };
        let mut journal = journal.expect("the loop ends only after the first record");
        let opened = open_root(&target, &name).and_then(|(root, new)| {
            journal.update(|r| r.new = Some(new))?;
            Ok((root, new))
        });
        drop(entrance);
        drop(registry);
        match opened {
            Ok((root, new)) => Ok(Self { target, journal, _session: dir, root: Arc::new(root), new, modes }),
            Err(err) => {
                // still empty, and the next start knows the name
                rustix::fs::unlinkat(&target.parent, name.as_str(), AtFlags::REMOVEDIR).ok();
                give_up(&mut journal, err.code());
                Err(err)
            }
        }
    }

    pub(super) fn staging_path(&self) -> PathBuf {
        self.journal.record().staging_path()
    }

    /// Ends the session without effect on the target.
    pub(super) fn discard(mut self, code: Code) -> Result<(), StageError> {
        let path = self.staging_path();
        // If this cannot be recorded, the rename to the doomed name still tells recovery that the tree is not whole.
        give_up(&mut self.journal, code);
        let record = self.journal.record();
        let parent = self.target.parent_fd();
        let io = |err| StageError::Io { what: "removing the staging tree", path: path.clone(), err };
        let deleted = cleanup::doom_and_delete(parent, &record.staging, &record.doomed(), self.new)
            .map_err(|err| io(err.into()))?;
        match deleted.left {
            0 => Ok(()),
            left => Err(io(std::io::Error::other(format!("{left} entries cannot be deleted")))),
        }
    }
}

/// Records a failure. If that is impossible the next start finds the session unfinished and discards it.
fn give_up(journal: &mut Journal, code: Code) {
    let failed = journal.update(|r| {
        r.state = SessionState::Failed;
        r.code = Some(code);
    });
    if let Err(err) = failed {
        tracing::warn!(path = %journal.path().display(), error = %err, "the end of the session is not recorded");
    }
}

fn first_record(target: &Target, manifest: &Manifest, session: SessionId, name: &str, info: &SessionInfo) -> Record {
    use std::os::unix::ffi::OsStrExt as _;
    let now = wall_ms();
    let cut = |text: &str| me_sync_protocol::escape::cut(text, me_sync_protocol::limits::MAX_TEXT).to_owned();
    Record {
        session,
        state: SessionState::Receiving,
        parent: target.parent_path.as_os_str().as_bytes().to_vec(),
        name: target.name.as_bytes().to_vec(),
        parent_id: target.parent_id,
        staging: name.to_owned(),
        old: target.old.as_ref().map(|old| old.identity),
        new: None,
        method: target.method,
        tries: 0,
        created_ms: now,
        updated_ms: now,
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
    }
}

/// Another live session of this state directory on the same target, around it or inside it (RELIABILITY F69).
fn check_registry(state: &StateDir, path: &Path) -> Result<(), StageError> {
    for record in state.records()? {
        let other = record.target_path();
        let overlap = other.starts_with(path) || path.starts_with(&other);
        let open = match record.state {
            SessionState::Receiving
            | SessionState::Verified
            | SessionState::SwapIntent
            | SessionState::Swapped
            | SessionState::RollbackIntent => true,
            SessionState::Committed | SessionState::RolledBack | SessionState::Cleaned | SessionState::Failed => false,
        };
        // one that nobody works on is recovery's business and settled by inodes
        if overlap && open && matches!(state.lock_session(record.session), Err(super::StateError::Busy { .. })) {
            return Err(PreflightError::Busy { path: other }.into());
        }
    }
    Ok(())
}

fn lock_parent(target: &Target) -> Result<Option<OwnedFd>, StageError> {
    let busy = || StageError::from(PreflightError::Busy { path: target.path().to_owned() });
    let io = |err: Errno| StageError::Io { what: "locking", path: target.parent_path.clone(), err: err.into() };
    if target.exists() {
        return Ok(None);
    }
    let fd = open_child(&target.parent, ".").map_err(io)?;
    if lock::exclusive(&fd).map_err(io)? == Lock::Busy
        || lock::live_staging(&fd, &target.staging_prefix()).map_err(io)?
    {
        return Err(busy());
    }
    Ok(Some(fd))
}

fn open_root(target: &Target, name: &str) -> Result<(OwnedFd, Identity), StageError> {
    let path = target.parent_path.join(name);
    let io = |what| {
        let path = path.clone();
        move |err: Errno| StageError::Io { what, path, err: err.into() }
    };
    let root = open_child(&target.parent, name).map_err(io("opening"))?;
    let inode = Inode::of(&root).map_err(io("looking at"))?;
    if inode.uid() != rustix::process::geteuid().as_raw() || inode.place() != target.place {
        return Err(io("recognising")(Errno::PERM));
    }
    // after the swap this is the target's root: whoever wants to replace it then finds it locked
    lock::exclusive(root.as_fd()).map_err(io("locking"))?;
    tracing::debug!(fd = root.as_raw_fd(), "staging directory made");
    Ok((root, inode.identity()))
}

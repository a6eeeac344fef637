//! The directory that is to be replaced, pinned: resolved once, then only descriptors and names in its parent.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::Manifest;
use rustix::fs::{Dir, Mode, ResolveFlags, openat2};
use rustix::io::Errno;

use super::beneath::{DIR, open_child};
use super::error::{PreflightError, StateError};
use super::inode::{Identity, Inode, Place};
use super::journal::Method;
use super::lock::{self, Lock};
use super::modes::ModePolicy;
use super::preflight::{self, TargetFacts};
use super::state::StateDir;
use super::survey::{OldTree, Survey, survey_at};
use super::{STAGING_PREFIX, is_staging_name, mounts};

/// What the caller allows and forbids.
#[derive(Debug, Clone, Default)]
pub struct TargetOptions {
    /// The home directory itself may be replaced.
    pub allow_home: bool,
    /// A target that was edited while the data came in is not replaced.
    pub fail_if_changed: bool,
    /// World-writable bits of the manifest are kept.
    pub keep_world_writable: bool,
    /// The target must not be, contain or lie inside any of these: state directory, source, program.
    pub forbidden: Vec<PathBuf>,
}

/// A target that passed every check that needs no manifest. Nobody else can pin it while this exists.
#[derive(Debug)]
pub struct Target {
    pub(super) parent: OwnedFd,
    pub(super) parent_path: PathBuf,
    pub(super) parent_id: Identity,
    pub(super) place: Place,
    pub(super) name: OsString,
    path: PathBuf,
    /// The old tree's root, locked; none if there is no target.
    pub(super) old: Option<OldRoot>,
    pub(super) method: Method,
    pub(super) fail_if_changed: bool,
    pub(super) modes: ModePolicy,
    case_insensitive: bool,
    /// Bytes in staging trees that a new session for this target takes over or removes.
    held: u64,
    warnings: Vec<String>,
}

/// The root of the tree that stands at the target.
#[derive(Debug)]
pub(super) struct OldRoot {
    pub(super) fd: OwnedFd,
    pub(super) identity: Identity,
    pub(super) survey: Survey,
}

impl Target {
    /// Resolves `path`, locks it, and makes every check that needs no manifest, with a real exchange of two
    /// empty directories beside it. Blocking; walks the old tree once (metadata only).
    ///
    /// # Errors
    /// The target is forbidden, busy, mounted, or cannot be swapped. Nothing is changed.
    pub fn pin(path: &Path, options: &TargetOptions) -> Result<Self, PreflightError> {
        let (parent_path, name) = resolve(path)?;
        let path = parent_path.join(&name);
        let at = |what, path: &Path| {
            let path = path.to_owned();
            move |err: Errno| PreflightError::Io { what, path, err: err.into() }
        };
        let parent = open_resolved(&parent_path).map_err(at("opening", &parent_path))?;
        let parent_inode = Inode::of(&parent).map_err(at("looking at", &parent_path))?;
        let place = parent_inode.place();
        let mut warnings: Vec<String> = mounts::warning(&parent).into_iter().collect();

        let root = open_old(&parent, &name, &path)?;
        let old_inode = root.as_ref().map(Inode::of).transpose().map_err(at("looking at", &path))?;
        check_forbidden(&path, &parent_path, old_inode.as_ref(), options)?;
        if let (Some(root), Some(inode)) = (&root, &old_inode) {
            let mounted = inode.place() != place || inode.is_mount_root() || mounts::is_mount_point(&path);
            if mounted || mounts::is_subvolume_root(root, inode) {
                return Err(PreflightError::MountPoint { path });
            }
            if let Some(mount) = mounts::mount_below(&path) {
                return Err(PreflightError::ContainsMount { path, mount });
            }
            check_sticky(&parent_path, &parent_inode, inode)?;
        }
        match root.as_ref().map(lock::exclusive).transpose().map_err(at("locking", &path))? {
            Some(Lock::Busy) => return Err(PreflightError::Busy { path }),
            Some(Lock::Unsupported) => {
                warnings.push("the file system has no locks: run only one session for this target".to_owned());
            }
            Some(Lock::Held) | None => {}
        }
        if let Some(busy) = lock::busy_ancestor(&parent_path) {
            return Err(PreflightError::Busy { path: busy.to_owned() });
        }
        let probe = preflight::probe(&parent, &parent_path)?;
        warnings.extend(probe.warning);
        let old = match (root, old_inode) {
            (Some(fd), Some(inode)) => {
                let survey = survey_at(&fd).map_err(at("reading", &path))?;
                if let Some(mount) = &survey.mount {
                    return Err(PreflightError::ContainsMount { mount: path.join(mount), path });
                }
                if let Some(busy) = &survey.busy {
                    return Err(PreflightError::Busy { path: path.join(busy) });
                }
                Some(OldRoot { fd, identity: inode.identity(), survey })
            }
            _ => None,
        };
        let target = Self {
            parent_id: parent_inode.identity(),
            parent,
            parent_path,
            place,
            name,
            path,
            old,
            method: probe.method,
            fail_if_changed: options.fail_if_changed,
            modes: ModePolicy { keep_world_writable: options.keep_world_writable },
            case_insensitive: probe.case_insensitive,
            held: 0,
            warnings,
        };
        if lock::live_staging(&target.parent, &target.staging_prefix()).map_err(at("reading", &target.parent_path))? {
            return Err(PreflightError::Busy { path: target.path });
        }
        Ok(target)
    }

    /// Is this a path that is never replaced, whoever agrees to it? Looks, and locks nothing; what else stands in the way,
    /// [`Self::pin`] finds. Blocking.
    ///
    /// # Errors
    /// It is forbidden.
    pub fn check_path(path: &Path, options: &TargetOptions) -> Result<(), PreflightError> {
        let only_forbidden = |err| match err {
            PreflightError::Forbidden { .. } => Err(err),
            _ => Ok(()),
        };
        let (parent, name) = match resolve(path) {
            Ok(resolved) => resolved,
            Err(err) => return only_forbidden(err),
        };
        let path = parent.join(name);
        let inode = Inode::at(rustix::fs::CWD, &path).ok().flatten();
        check_forbidden(&path, &parent, inode.as_ref(), options)
    }

    /// The resolved path: what will be replaced, whatever symlink led here.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// There is a directory now.
    pub fn exists(&self) -> bool {
        self.old.is_some()
    }

    /// There is nothing to lose: no directory, or one without entries.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn is_empty(&self) -> Result<bool, PreflightError> {
        let Some(old) = &self.old else { return Ok(true) };
        let io = |err: Errno| PreflightError::Io { what: "reading", path: self.path.clone(), err: err.into() };
        for entry in Dir::read_from(&old.fd).map_err(io)? {
            if !matches!(entry.map_err(io)?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What stood there when it was pinned.
    pub fn old_tree(&self) -> OldTree {
        self.old.as_ref().map_or(OldTree { complete: true, ..OldTree::default() }, |old| old.survey.tree)
    }

    /// Counts what unfinished sessions for this target have staged as space for the next one, which takes it over
    /// ([`super::Staging::reuse`]). Blocking; looks at metadata only.
    ///
    /// # Errors
    /// The records of earlier sessions cannot be read.
    pub fn count_held(&mut self, state: &StateDir) -> Result<(), StateError> {
        let records = state.records()?;
        let ours = records
            .iter()
            .filter(|r| r.state.is_open() && (r.parent_id, &*r.name) == (self.parent_id, self.name.as_bytes()));
        let trees = ours.filter_map(|record| open_child(&self.parent, record.staging.as_str()).ok());
        // one that cannot be read is not counted
        self.held = trees.filter_map(|tree| survey_at(&tree).ok()).map(|survey| survey.on_disk).sum();
        Ok(())
    }

    /// There is nothing here that a hash could spare: no entry in the target, and no unfinished session for it.
    /// Blocking.
    pub fn is_blank(&self, state: &StateDir) -> bool {
        let ours = |r: &super::journal::Record| {
            r.state.is_open() && (r.parent_id, &*r.name) == (self.parent_id, self.name.as_bytes())
        };
        // what cannot be read is not taken for nothing
        self.is_empty().unwrap_or(false) && state.records().is_ok_and(|records| !records.iter().any(ours))
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Checks that this tree fits here: space, inodes, path lengths, names that are one on this file system.
    /// Also looks for processes that use the old tree. Blocking.
    ///
    /// # Errors
    /// What does not fit. Nothing is changed.
    pub fn check_manifest(&self, manifest: &Manifest) -> Result<TargetFacts, PreflightError> {
        preflight::check_manifest(self, manifest)
    }

    /// Checks what can be checked when only the size of a tree is known. Returns warnings. Blocking.
    ///
    /// # Errors
    /// There is no room for it. Nothing is changed.
    pub fn check_announced(&self, entries: u64, bytes: u64) -> Result<Vec<String>, PreflightError> {
        preflight::check_announced(self, entries, bytes)
    }

    pub(super) fn parent_fd(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    pub(super) fn case_insensitive(&self) -> bool {
        self.case_insensitive
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Staging names of one target share their first half: that is how a node with another state directory
    /// sees that a target which does not exist yet is already being filled. The second half is random.
    pub(super) fn staging_prefix(&self) -> String {
        let hash = Digest::of(self.name.as_bytes());
        let tag: String = hash.as_bytes().iter().take(4).map(|b| format!("{b:02x}")).collect();
        format!("{STAGING_PREFIX}{tag}")
    }
}

/// The parent's real path and the target's name in it.
fn resolve(path: &Path) -> Result<(PathBuf, OsString), PreflightError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |err: io::Error| PreflightError::Io { what, path, err }
    };
    let forbidden = |path: &Path, why| PreflightError::Forbidden { path: path.to_owned(), why };
    if path.as_os_str().as_bytes().contains(&0) || path.as_os_str().is_empty() {
        return Err(forbidden(path, "is not a path"));
    }
    match path.symlink_metadata() {
        Ok(meta) => {
            let real = match path.canonicalize() {
                Ok(real) => real,
                Err(err) if err.kind() == io::ErrorKind::NotFound && meta.is_symlink() => {
                    return Err(forbidden(path, "is a symlink that leads nowhere"));
                }
                Err(err) => return Err(io("resolving", path)(err)),
            };
            match (real.parent(), real.file_name()) {
                (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
                _ => Err(forbidden(&real, "is the root of the file system")),
            }
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or_else(|| forbidden(path, "has no name of its own"))?;
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            match parent.canonicalize() {
                Ok(real) => Ok((real, name.to_owned())),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    Err(PreflightError::NoParent { parent: parent.to_owned() })
                }
                Err(err) => Err(io("resolving", parent)(err)),
            }
        }
        Err(err) => Err(io("resolving", path)(err)),
    }
}

/// Opens a resolved path; a symlink that was put in since then is refused, not followed.
pub(super) fn open_resolved(path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(rustix::fs::CWD, path, DIR, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::AGAIN) => rustix::fs::open(path, DIR, Mode::empty()),
        other => other,
    }
}

fn open_old(parent: &OwnedFd, name: &OsString, path: &Path) -> Result<Option<OwnedFd>, PreflightError> {
    match open_child(parent, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            Err(PreflightError::Forbidden { path: path.to_owned(), why: "is not a directory" })
        }
        Err(err) => Err(PreflightError::Io { what: "opening", path: path.to_owned(), err: err.into() }),
    }
}

fn check_forbidden(
    path: &Path,
    parent: &Path,
    inode: Option<&Inode>,
    options: &TargetOptions,
) -> Result<(), PreflightError> {
    let refuse = |why| Err(PreflightError::Forbidden { path: path.to_owned(), why });
    if path.components().any(|part| is_staging_name(part.as_os_str().as_bytes())) {
        return refuse("is or lies inside a staging directory of me-sync");
    }
    let root = Inode::at(rustix::fs::CWD, "/").ok().flatten();
    if let (Some(inode), Some(root)) = (inode, root)
        && inode.dev_ino() == root.dev_ino()
    {
        return refuse("is the root of the file system");
    }
    if let Some(home) = std::env::var_os("HOME").filter(|h| Path::new(h).is_absolute()) {
        let same = same_or_inside(Path::new(&home), path, inode);
        if same == Relation::Same && !options.allow_home {
            return refuse("is your home directory, which is replaced only with --i-mean-home");
        }
        if same == Relation::Inside {
            return refuse("contains your home directory");
        }
    }
    let program = std::env::current_exe().ok();
    for other in options.forbidden.iter().chain(&program) {
        let Ok(other) = other.canonicalize() else { continue };
        match same_or_inside(&other, path, inode) {
            Relation::Same | Relation::Inside => return refuse("is or contains me-sync's own files or the source"),
            Relation::Apart => {}
        }
        if path.starts_with(&other) || is_ancestor(&other, parent) {
            return refuse("lies inside me-sync's own state directory or the source");
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Same,
    Inside,
    Apart,
}

/// Whether `inner` is the target or lies inside it, by names and by inodes (a bind mount has two names).
fn same_or_inside(inner: &Path, target: &Path, inode: Option<&Inode>) -> Relation {
    let inner = inner.canonicalize().unwrap_or_else(|_| inner.to_owned());
    for (depth, dir) in inner.ancestors().enumerate() {
        let same_inode = inode.is_some_and(|inode| {
            Inode::at(rustix::fs::CWD, dir).ok().flatten().is_some_and(|other| other.dev_ino() == inode.dev_ino())
        });
        if dir == target || same_inode {
            return if depth == 0 { Relation::Same } else { Relation::Inside };
        }
    }
    Relation::Apart
}

fn is_ancestor(outer: &Path, inner: &Path) -> bool {
    let at = |path: &Path| Inode::at(rustix::fs::CWD, path).ok().flatten().map(|inode| inode.dev_ino());
    let Some(outer) = at(outer) else { return false };
    inner.ancestors().any(|dir| at(dir) == Some(outer))
}

/// In a sticky directory only the owner of an entry or of the directory may rename it.
fn check_sticky(parent_path: &Path, parent: &Inode, target: &Inode) -> Result<(), PreflightError> {
    let me = rustix::process::geteuid().as_raw();
    if parent.mode() & 0o1000 != 0 && me != 0 && parent.uid() != me && target.uid() != me {
        return Err(PreflightError::ParentNotWritable {
            parent: parent_path.to_owned(),
            why: "it is sticky and the target belongs to another user",
            err: None,
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "target/tests.rs"]
mod tests;

//! Helpers of the tests in this module: small trees, a place to migrate them to, mounts that go away by themselves.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use me_sync_protocol::file::VerifiedFile;
use me_sync_protocol::ids::{Digest, EntryIndex, SessionId};
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder, Mtime, Node};
use me_sync_protocol::path::RelPath;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use super::{Found, ReopenError, SessionInfo, SessionState, Staging, StateDir, Target, TargetOptions, skeleton};

impl Staging {
    /// The directories are made, although nobody looked what can be reused.
    pub(crate) fn with_dirs(self) -> Self {
        skeleton::make_dirs(&self.shared).expect("directories");
        self
    }
}

/// A mount that lasts as long as this.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// Tests that need root say so and pass elsewhere; in CI they must run.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root in CI");
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Removes a tree whose directories may lack rights.
pub(crate) fn remove(root: &Path) {
    if root.symlink_metadata().expect("there").is_dir() {
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700)).expect("changed");
        for entry in std::fs::read_dir(root).expect("readable") {
            remove(&entry.expect("an entry").path());
        }
        std::fs::remove_dir(root).expect("removed");
    } else {
        std::fs::remove_file(root).expect("removed");
    }
}

/// Binds `from` over `to`; none without root.
pub(crate) fn bind(from: &Path, to: &Path) -> Option<Mounted> {
    if !is_root() {
        return None;
    }
    mount_bind(from, to).expect("root can mount");
    Some(Mounted(to.to_owned()))
}

/// Mounts a tmpfs with these options; none without root.
pub(crate) fn tmpfs(at: &Path, options: &str) -> Option<Mounted> {
    if !is_root() {
        return None;
    }
    let options = std::ffi::CString::new(options).expect("no NUL");
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("root can mount");
    Some(Mounted(at.to_owned()))
}

/// Mounts a small file system that can share blocks between files; none without root or the tool that makes it.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn reflinking(at: &Path, image: &Path) -> Option<Mounted> {
    if !is_root() {
        return None;
    }
    std::fs::File::create(image).and_then(|file| file.set_len(256 << 20)).expect("made");
    let Ok(made) = std::process::Command::new("mkfs.btrfs").arg("-q").arg(image).output() else {
        eprintln!("skipped: needs mkfs.btrfs");
        return None;
    };
    assert!(made.status.success());
    let mounted = std::process::Command::new("mount").args(["-o", "loop"]).args([image, at]).status();
    if !mounted.expect("mount starts").success() {
        eprintln!("skipped: this kernel has no btrfs");
        return None;
    }
    Some(Mounted(at.to_owned()))
}

/// One thing of a small tree.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Thing {
    File(&'static [u8], u32),
    Dir(u32),
    Link(&'static str),
}

/// A tree with awkward modes, an empty directory and a link; in manifest order.
pub(crate) const SMALL: &[(&str, Thing)] = &[
    ("a", Thing::Dir(0o755)),
    ("a/b", Thing::Dir(0o555)),
    ("a/b/deep", Thing::File(b"deep content", 0o444)),
    ("a/empty", Thing::Dir(0o700)),
    ("a/zero", Thing::File(b"", 0o640)),
    ("link", Thing::Link("a/b/deep")),
    ("run", Thing::File(b"#!/bin/sh\n", 0o4777)),
];

/// The manifest of such a tree; the root is 0750, everything has a time of its own.
pub(crate) fn manifest(things: &[(&str, Thing)]) -> Arc<Manifest> {
    let time = |n: i64| Some(Mtime { ms: 1_600_000_000_000 + n * 1001, sub_ns: 123_456 });
    let mut builder = ManifestBuilder::new(Some(0o750), time(-5));
    for (n, (path, thing)) in (0..).zip(things) {
        let (node, mode) = match thing {
            Thing::File(bytes, mode) => {
                let sha256 = Digest::of(bytes);
                (Node::File { size: bytes.len() as u64, sha256: Some(sha256) }, Some(*mode))
            }
            Thing::Dir(mode) => (Node::Dir, Some(*mode)),
            Thing::Link(target) => (Node::Symlink { target: (*target).into() }, None),
        };
        let path = RelPath::parse(*path).expect("a valid path");
        builder.push(&Entry { path, node, mode, mtime: time(n) }).expect("a valid entry");
    }
    Arc::new(builder.finish().expect("a valid manifest"))
}

/// A parent directory with room for a target, and a state directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) tmp: tempfile::TempDir,
    pub(crate) state: StateDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(tmp.path().join("p")).expect("created");
        let state = StateDir::open(&tmp.path().join("state")).expect("opened");
        Self { tmp, state }
    }

    pub(crate) fn parent(&self) -> PathBuf {
        self.tmp.path().join("p")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.parent().join("t")
    }

    /// A target with an old tree in it.
    pub(crate) fn with_old() -> Self {
        let place = Self::new();
        std::fs::create_dir_all(place.target().join("old/dir")).expect("created");
        std::fs::write(place.target().join("old/file"), "old bytes").expect("written");
        std::fs::set_permissions(place.target().join("old/dir"), std::fs::Permissions::from_mode(0o555))
            .expect("changed");
        place
    }

    pub(crate) fn pin(&self) -> Target {
        Target::pin(&self.target(), &TargetOptions::default()).expect("pinned")
    }

    /// A staging tree with all files of `things` in it.
    pub(crate) fn staged(&self, session: u8, things: &[(&str, Thing)]) -> Staging {
        self.staged_at(self.pin(), session, things)
    }

    pub(crate) fn staged_at(&self, target: Target, session: u8, things: &[(&str, Thing)]) -> Staging {
        let manifest = manifest(things);
        let session = SessionId([session; 16]);
        let staging = Staging::create(target, manifest, session, &self.state, SessionInfo::default()).expect("created");
        let staging = staging.with_dirs();
        fill(&staging, things);
        staging
    }

    /// A staging tree with nothing in it but directories.
    pub(crate) fn empty(&self, session: u8, things: &[(&str, Thing)]) -> Staging {
        self.created(session, things).with_dirs()
    }

    /// A staging tree of which only the root is there.
    pub(crate) fn created(&self, session: u8, things: &[(&str, Thing)]) -> Staging {
        let session = SessionId([session; 16]);
        Staging::create(self.pin(), manifest(things), session, &self.state, SessionInfo::default()).expect("created")
    }

    /// Goes on with a session of which nothing is durable.
    pub(crate) fn reopen(&self, session: u8) -> Result<Staging, ReopenError> {
        Staging::reopen(&self.state, SessionId([session; 16]), &TargetOptions::default(), [])
    }

    /// The directory of a session's records.
    pub(crate) fn records(&self, session: u8) -> PathBuf {
        self.state.path().join("sessions").join(SessionId([session; 16]).to_string())
    }

    /// Seals and applies a tree of [`SMALL`], and looks whether that is what stands there.
    pub(crate) fn applies(&self, staging: Staging) {
        staging.seal(&mut |_| ()).expect("sealed").swap(&mut ()).expect("applied").commit().expect("committed");
        let reference = Self::new();
        reference.migrate(9, SMALL);
        assert_eq!(image(&self.target(), true), image(&reference.target(), true));
    }

    /// Migrates `things` to the target.
    pub(crate) fn migrate(&self, session: u8, things: &[(&str, Thing)]) {
        let sealed = self.staged(session, things).seal(&mut |_| ()).expect("sealed");
        sealed.swap(&mut ()).expect("applied").commit().expect("committed");
    }

    /// Names in the parent directory, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.parent())
            .expect("readable")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn states(&self) -> Vec<SessionState> {
        self.state.sessions().expect("listed").iter().map(|s| s.state).collect()
    }
}

/// Writes every file of `things`.
pub(crate) fn fill(staging: &Staging, things: &[(&str, Thing)]) {
    let mut writer = staging.writer();
    for (n, (_, thing)) in (0..).zip(things) {
        if let Thing::File(bytes, _) = thing {
            let mut file = writer.create(EntryIndex(n)).expect("created");
            bytes.chunks((bytes.len() / 64).max(5)).for_each(|chunk| file.write(chunk).expect("written"));
            file.finish().expect("finished");
        }
    }
}

/// Writes the file at `index`.
pub(crate) fn fill_one(staging: &Staging, things: &[(&str, Thing)], index: EntryIndex) {
    let (_, Thing::File(bytes, _)) = things[index.at()] else { panic!("{index} is no file") };
    let mut file = staging.writer().create(index).expect("created");
    file.write(bytes).expect("written");
    file.finish().expect("finished");
}

/// The files of `things`.
pub(crate) fn files(things: &[(&str, Thing)]) -> Vec<EntryIndex> {
    let files = (0..).zip(things).filter(|(_, (_, thing))| matches!(thing, Thing::File(..)));
    files.map(|(n, _)| EntryIndex(n)).collect()
}

/// What a survey with two threads finds, and how many bytes it read.
pub(crate) fn survey(staging: &Staging) -> (Found, u64) {
    let read = AtomicU64::new(0);
    let threads = NonZeroUsize::new(2).expect("not zero");
    let found = staging.survey(threads, &AtomicBool::new(false), &read).expect("surveyed");
    (found, read.into_inner())
}

/// The indices of files.
pub(crate) fn indices(files: &[VerifiedFile]) -> Vec<EntryIndex> {
    files.iter().map(VerifiedFile::index).collect()
}

/// Everything about a tree that must survive: kind, mode, content, and with `times` the modification times.
pub(crate) fn image(root: &Path, times: bool) -> BTreeMap<PathBuf, (String, u32, Vec<u8>, i64)> {
    fn walk(at: &Path, root: &Path, times: bool, out: &mut BTreeMap<PathBuf, (String, u32, Vec<u8>, i64)>) {
        let meta = at.symlink_metadata().expect("there");
        let mtime = if times { meta.mtime() * 1_000_000_000 + meta.mtime_nsec() } else { 0 };
        let kind = format!("{:?}", meta.file_type());
        let content = match () {
            () if meta.is_symlink() => {
                use std::os::unix::ffi::OsStrExt as _;
                std::fs::read_link(at).expect("readable").as_os_str().as_bytes().to_vec()
            }
            () if meta.is_file() => std::fs::read(at).expect("readable"),
            () => Vec::new(),
        };
        let relative = at.strip_prefix(root).expect("below").to_owned();
        out.insert(relative, (kind, meta.mode() & 0o7777, content, mtime));
        if meta.is_dir() {
            for entry in std::fs::read_dir(at).expect("readable") {
                walk(&entry.expect("an entry").path(), root, times, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, times, &mut out);
    out
}

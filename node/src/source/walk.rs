//! The walk: every entry below the root, in manifest order, without following a symlink.
//!
//! Manifest order is the byte order of whole paths, in which `a-b` stands between `a` and `a/x`. So a directory's
//! entry is made when its name comes up, and its contents are walked later, when no name before `a/` is left.
//! One handle is open per level: at most 65. Nothing but directories is opened.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use me_sync_protocol::limits::{MAX_ENTRIES, MAX_LINK};
use me_sync_protocol::manifest::ManifestError;
use me_sync_protocol::path::{PathRefused, RelPath};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, accessat, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::beneath::is_exhaustion;
use super::error::SourceError;
use super::skipped::SkippedReport;
use super::tree::{Kind, Stamp, Tree};
use crate::holes;

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// One `getdents64` call's worth of names.
const LIST_BUFFER: usize = 32 << 10;

#[derive(Debug)]
pub(super) struct Walked {
    pub(super) root_path: PathBuf,
    pub(super) tree: Tree,
    pub(super) skipped: SkippedReport,
}

pub(super) fn scan(given: &Path) -> Result<Walked, SourceError> {
    let unreadable = |err: io::Error| match err.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound { path: given.to_owned() },
        _ => SourceError::RootUnreadable { path: given.to_owned(), err },
    };
    let root_path = fs::canonicalize(given).map_err(unreadable)?;
    let stat = statat(CWD, &root_path, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| unreadable(e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let root = openat(CWD, &root_path, DIR_FLAGS, Mode::empty()).map_err(|e| unreadable(e.into()))?;
            let stamp = Stamp::of(&fstat(&root).map_err(|e| unreadable(e.into()))?);
            let names = Names::list(&root).map_err(|e| match e {
                ListError::Errno(e) => unreadable(e.into()),
                ListError::TooMany => SourceError::from(too_many()),
            })?;
            let handle = rustix::io::fcntl_dupfd_cloexec(&root, 0).map_err(|e| unreadable(e.into()))?;
            let mut walk = Walk::new(Tree::new(Arc::new(handle), Some(stamp)));
            walk.run(Frame::new(root, None, 0, names))?;
            Ok(Walked { root_path, tree: walk.tree, skipped: walk.skipped })
        }
        FileType::RegularFile => {
            let tree = single_file(given, &root_path).map_err(|e| match e {
                RootFileError::Errno(e) => unreadable(e.into()),
                RootFileError::Source(e) => e,
            })?;
            Ok(Walked { root_path, tree, skipped: SkippedReport::default() })
        }
        _ => Err(SourceError::NotATree { path: given.to_owned() }),
    }
}

enum RootFileError {
    Errno(Errno),
    Source(SourceError),
}

impl From<Errno> for RootFileError {
    fn from(err: Errno) -> Self {
        Self::Errno(err)
    }
}

/// A tree of one entry. Its root handle is the directory around the file, of which only this name is ever used.
fn single_file(given: &Path, resolved: &Path) -> Result<Tree, RootFileError> {
    let (Some(dir), Some(name)) = (resolved.parent(), resolved.file_name()) else {
        return Err(RootFileError::Source(SourceError::NotATree { path: given.to_owned() }));
    };
    let checked = name.to_str().ok_or(PathRefused::NotUtf8).and_then(RelPath::parse);
    let name =
        checked.map_err(|why| RootFileError::Source(SourceError::RootName { path: resolved.to_owned(), why }))?;
    let name = name.as_str();
    let dir = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(RootFileError::Source(SourceError::NotATree { path: given.to_owned() }));
    }
    accessat(&dir, name, Access::READ_OK, AtFlags::EACCESS)?;
    let mut tree = Tree::new(Arc::new(dir), None);
    let record =
        tree.push(None, name, Kind::File, &Stamp::of(&stat), "").map_err(|e| RootFileError::Source(e.into()))?;
    if holes::is_suspicious(&stat) {
        tree.suspect(record);
    }
    Ok(tree)
}

fn too_many() -> ManifestError {
    ManifestError::Limit { what: "entries" }
}

/// The names in one directory, sorted by their bytes.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    /// Start and length.
    spans: Vec<(usize, u16)>,
}

enum ListError {
    Errno(Errno),
    TooMany,
}

impl Names {
    fn list(dir: &OwnedFd) -> Result<Self, ListError> {
        let mut names = Self::default();
        let mut buffer = [MaybeUninit::uninit(); LIST_BUFFER];
        let mut listing = RawDir::new(dir, &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                Err(err) => return Err(ListError::Errno(err)),
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.spans.len() >= MAX_ENTRIES as usize {
                return Err(ListError::TooMany);
            }
            // a directory record is at most 65,535 bytes long
            let len = u16::try_from(name.len()).map_err(|_| ListError::Errno(Errno::NAMETOOLONG))?;
            names.spans.push((names.bytes.len(), len));
            names.bytes.extend_from_slice(name);
        }
        let bytes = &names.bytes;
        names.spans.sort_unstable_by(|a, b| part(bytes, *a).cmp(part(bytes, *b)));
        Ok(names)
    }

    fn at(&self, index: usize) -> Option<&[u8]> {
        self.spans.get(index).map(|span| part(&self.bytes, *span))
    }
}

fn part(bytes: &[u8], (from, len): (usize, u16)) -> &[u8] {
    &bytes[from..from + usize::from(len)]
}

/// A directory being walked.
#[derive(Debug)]
struct Frame {
    dir: OwnedFd,
    record: Option<u32>,
    /// Length of its path with the slash behind it.
    prefix: usize,
    names: Names,
    next: usize,
    /// Subdirectories whose contents are still to come, as (name, record). Each one's name begins with the one
    /// before it, so the last is always the first in order.
    waiting: Vec<(usize, u32)>,
}

enum Step {
    Visit(usize),
    Enter { name: usize, record: u32 },
    Done,
}

impl Frame {
    fn new(dir: OwnedFd, record: Option<u32>, prefix: usize, names: Names) -> Self {
        Self { dir, record, prefix, names, next: 0, waiting: Vec::new() }
    }

    fn step(&mut self) -> Step {
        let next = self.names.at(self.next);
        if let Some((waiting, record)) = self.waiting.last().copied() {
            let contents = self.names.at(waiting).into_iter().flatten().chain(b"/");
            if next.is_none_or(|next| contents.lt(next)) {
                self.waiting.pop();
                return Step::Enter { name: waiting, record };
            }
        }
        if next.is_none() {
            return Step::Done;
        }
        self.next += 1;
        Step::Visit(self.next - 1)
    }
}

struct Walk {
    tree: Tree,
    skipped: SkippedReport,
    /// Path of the entry at hand.
    path: Vec<u8>,
    /// Who walks.
    user: u32,
}

impl Walk {
    fn new(tree: Tree) -> Self {
        Self { tree, skipped: SkippedReport::default(), path: Vec::new(), user: geteuid().as_raw() }
    }

    fn run(&mut self, root: Frame) -> Result<(), SourceError> {
        let mut stack = vec![root];
        while let Some(frame) = stack.last_mut() {
            match frame.step() {
                Step::Visit(name) => {
                    if let Some(record) = self.visit(frame, name)? {
                        frame.waiting.push((name, record));
                    }
                }
                Step::Enter { name, record } => {
                    if let Some(below) = self.enter(frame, name, record)? {
                        stack.push(below);
                    }
                }
                Step::Done => {
                    stack.pop();
                }
            }
        }
        Ok(())
    }

    /// Makes the record of one name. Answers with it if it is a directory.
    fn visit(&mut self, frame: &Frame, name: usize) -> Result<Option<u32>, SourceError> {
        let name = frame.names.at(name).unwrap_or_default();
        self.path.truncate(frame.prefix);
        self.path.extend_from_slice(name);
        let stat = match statat(frame.dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(err) => return self.unreadable(err).map(|()| None),
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            special => {
                self.skipped.add_special(&self.path, special);
                return Ok(None);
            }
        };
        let checked = std::str::from_utf8(&self.path).map_err(|_| PathRefused::NotUtf8).and_then(RelPath::parse);
        let path = match checked {
            Ok(path) => path,
            Err(why) => {
                self.skipped.unsupported.add(&self.path, why);
                return Ok(None);
            }
        };
        let stamp = Stamp::of(&stat);
        let push = |tree: &mut Tree, target: &str| tree.push(frame.record, path.name(), kind, &stamp, target);
        match kind {
            Kind::Dir => return Ok(Some(push(&mut self.tree, "")?)),
            Kind::Symlink => match readlinkat(frame.dir.as_fd(), name, Vec::new()) {
                Ok(target) => match target.to_str().ok().filter(|t| !t.is_empty() && t.len() <= MAX_LINK) {
                    Some(target) => _ = push(&mut self.tree, target)?,
                    None => self.skipped.unsupported.add(&self.path, "the symlink's target is not UTF-8 or too long"),
                },
                Err(Errno::NOENT) => {}
                Err(err) => self.unreadable(err)?,
            },
            // Asking for permission is one call without effect; opening is two, breaks leases and wakes offline
            // storage. Hashing opens every file anyway and finds what permission bits do not tell.
            Kind::File => match self.may_read(frame.dir.as_fd(), name, &stat) {
                Ok(()) => {
                    let record = push(&mut self.tree, "")?;
                    if holes::is_suspicious(&stat) {
                        self.tree.suspect(record);
                    }
                }
                Err(Errno::NOENT) => {}
                Err(err) => self.unreadable(err)?,
            },
            Kind::LeftOut => {}
        }
        Ok(None)
    }

    fn may_read(&self, dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> rustix::io::Result<()> {
        // one's own file with the owner's bit needs no question
        if stat.st_uid == self.user && Mode::from_raw_mode(stat.st_mode).contains(Mode::RUSR) {
            return Ok(());
        }
        accessat(dir, name, Access::READ_OK, AtFlags::EACCESS)
    }

    /// Opens and lists a directory whose record exists; takes the record back if that is not possible.
    fn enter(&mut self, frame: &Frame, name: usize, record: u32) -> Result<Option<Frame>, SourceError> {
        let name = frame.names.at(name).unwrap_or_default();
        self.path.truncate(frame.prefix);
        self.path.extend_from_slice(name);
        let opened = openat(frame.dir.as_fd(), name, DIR_FLAGS, Mode::empty()).map_err(ListError::Errno);
        let listed = opened.and_then(|dir| {
            let stat = fstat(&dir).map_err(ListError::Errno)?;
            Ok((Names::list(&dir)?, stat, dir))
        });
        match listed {
            Ok((names, stat, dir)) => {
                // what was listed may not be what was looked at before
                self.tree.restamp(record, &Stamp::of(&stat));
                self.path.push(b'/');
                Ok(Some(Frame::new(dir, Some(record), self.path.len(), names)))
            }
            Err(ListError::TooMany) => Err(too_many().into()),
            Err(ListError::Errno(err)) => {
                self.tree.leave_out(record);
                // gone, or replaced by something else: not there
                if !matches!(err, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
                    self.unreadable(err)?;
                }
                Ok(None)
            }
        }
    }

    fn unreadable(&mut self, err: Errno) -> Result<(), SourceError> {
        if is_exhaustion(err) {
            return Err(SourceError::Io { path: String::from_utf8_lossy(&self.path).into_owned(), err: err.into() });
        }
        self.skipped.unreadable.add(&self.path, io::Error::from(err));
        Ok(())
    }
}

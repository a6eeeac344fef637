//! What may be offered and replaced over HTTP: what lies below the configured directories, judged by what is opened and
//! not by how it is spelled (RELIABILITY A94).
//!
//! A path is opened once, without the links of `/proc`, and from what was opened the walk goes up by `..` until a root is
//! met. So neither a symlink nor a bind mount nor an odd spelling leads out of a root.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use me_sync_protocol::reason::Code;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::error::ApiError;

const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// Deeper than any path can be opened.
const DEEPEST: usize = 4096;
/// How the names of staging trees begin.
const STAGING: &[u8] = b".me-sync-";

/// Device and inode.
type Place = (u64, u64);

/// The directories of one kind.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    /// How a configuration names them.
    key: &'static str,
    dirs: Vec<PathBuf>,
    state_dir: PathBuf,
}

impl Roots {
    pub(super) fn new(key: &'static str, dirs: Vec<PathBuf>, state_dir: &Path) -> Self {
        Self { key, dirs, state_dir: state_dir.to_owned() }
    }

    /// As they were configured.
    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The directories as they are now, with all links resolved. Blocking.
    pub(super) fn resolved(&self) -> Vec<PathBuf> {
        self.dirs.iter().filter_map(|dir| dir.canonicalize().ok()).collect()
    }

    /// The tree that is to be read: it must be there. Blocking.
    pub(super) fn admit_source(&self, path: &Path) -> Result<PathBuf, ApiError> {
        self.check_spelling(path)?;
        let fd = open(CWD, path).map_err(|_| self.refuse())?;
        let real = real_path(&fd).ok_or_else(|| self.refuse())?;
        let stat = fstat(&fd).map_err(|_| self.refuse())?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let dir = if is_dir { fd } else { self.parent(&real)? };
        self.admit_open(&dir)?;
        self.check_own(&real)?;
        Ok(real)
    }

    /// The directory that is to be replaced: it need not be there, and lies below a root, for its parent is changed.
    /// Blocking.
    pub(super) fn admit_target(&self, path: &Path) -> Result<PathBuf, ApiError> {
        self.check_spelling(path)?;
        let real = match open(CWD, path) {
            Ok(fd) => real_path(&fd).ok_or_else(|| self.refuse())?,
            Err(Errno::NOENT) => {
                // a link that leads nowhere is no target
                if path.symlink_metadata().is_ok() {
                    return Err(self.refuse());
                }
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(self.refuse()) };
                let parent = open(CWD, parent).map_err(|_| self.refuse())?;
                real_path(&parent).ok_or_else(|| self.refuse())?.join(name)
            }
            Err(_) => return Err(self.refuse()),
        };
        self.admit_open(&self.parent(&real)?)?;
        self.check_own(&real)?;
        Ok(real)
    }

    /// A directory that is open, whatever its name: it is a root, or lies below one. Blocking.
    pub(super) fn admit_open(&self, dir: impl AsFd) -> Result<(), ApiError> {
        let roots: Vec<_> =
            self.dirs.iter().filter_map(|root| open(CWD, root).ok()).filter_map(|fd| place(&fd)).collect();
        let mut at = openat(dir, c".", LOOK | OFlags::DIRECTORY, Mode::empty()).map_err(|_| self.refuse())?;
        let mut here = place(&at);
        for _ in 0..DEEPEST {
            if here.is_some_and(|here| roots.contains(&here)) {
                return Ok(());
            }
            at = openat(&at, c"..", LOOK | OFlags::DIRECTORY, Mode::empty()).map_err(|_| self.refuse())?;
            let above = place(&at);
            // only the top is its own parent
            if above == here {
                break;
            }
            here = above;
        }
        Err(self.refuse())
    }

    fn parent(&self, real: &Path) -> Result<OwnedFd, ApiError> {
        let parent = real.parent().ok_or_else(|| self.refuse())?;
        openat2(CWD, parent, LOOK | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .map_err(|_| self.refuse())
    }

    fn check_spelling(&self, path: &Path) -> Result<(), ApiError> {
        let odd =
            path.components().any(|part| part == Component::ParentDir) || path.as_os_str().as_bytes().contains(&0);
        if path.is_absolute() && !odd { Ok(()) } else { Err(self.refuse()) }
    }

    /// Neither the node's own secrets nor what is being staged.
    fn check_own(&self, real: &Path) -> Result<(), ApiError> {
        let state = self.state_dir.canonicalize().unwrap_or_else(|_| self.state_dir.clone());
        let staged = real.components().any(|part| part.as_os_str().as_bytes().starts_with(STAGING));
        if staged || real.starts_with(&state) || state.starts_with(real) { Err(self.refuse()) } else { Ok(()) }
    }

    /// The same for all: whether something is there is nobody's business.
    fn refuse(&self) -> ApiError {
        let key = self.key;
        ApiError::coded(
            Code::PathNotAllowed,
            format!("that path is not below one of the {key}"),
            "name an absolute path below one of them; config.toml says which there are",
        )
    }
}

/// Links in a path are followed, those of `/proc` are not.
fn open(dir: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    openat2(dir, path, LOOK, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

fn place(fd: &OwnedFd) -> Option<Place> {
    fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Where the kernel says that it is; none if it was deleted or is unreachable.
fn real_path(fd: &OwnedFd) -> Option<PathBuf> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::ffi::OsStringExt as _;
    let link = readlinkat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()).ok()?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
    // a deleted one has a name that nothing has
    let named = rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (path.is_absolute() && place(fd) == Some((named.st_dev, named.st_ino))).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        roots: Roots,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root/in", "root-2/in", "outside", "root/state"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("root/file"), "x").unwrap();
        let roots = Roots::new("export_roots", vec![dir.path().join("root")], &dir.path().join("root/state"));
        Fixture { dir, roots }
    }

    impl Fixture {
        fn source(&self, path: &str) -> bool {
            self.roots.admit_source(&self.dir.path().join(path)).is_ok()
        }

        fn target(&self, path: &str) -> bool {
            self.roots.admit_target(&self.dir.path().join(path)).is_ok()
        }
    }

    // RELIABILITY A94
    #[test]
    fn only_what_lies_below_a_root_is_read() {
        let here = fixture();
        assert!(here.source("root/in") && here.source("root/file"));
        for path in ["outside", "root-2/in", "root/../outside", "root/none", "root/state", "root", "."] {
            assert!(!here.source(path), "{path}");
        }
        let in_root = here.dir.path().join("root/in");
        let odd = format!("/proc/self/root{}", in_root.display());
        for path in [odd.as_str(), "root/in", "\\\\srv\\share", "", "/proc/self/cwd"] {
            assert!(here.roots.admit_source(Path::new(path)).is_err(), "{path}");
        }
    }

    // RELIABILITY A94
    #[test]
    fn a_link_is_judged_by_where_it_leads() {
        let here = fixture();
        symlink(here.dir.path().join("outside"), here.dir.path().join("root/out")).unwrap();
        symlink(here.dir.path().join("root/in"), here.dir.path().join("outside/back")).unwrap();
        symlink("nowhere", here.dir.path().join("root/dangling")).unwrap();
        assert!(!here.source("root/out") && !here.target("root/out") && !here.target("root/out/new"));
        assert!(!here.target("root/dangling"));
        assert!(here.source("outside/back"));
    }

    // RELIABILITY A94
    #[test]
    fn a_target_lies_below_a_root_and_is_none_itself_nor_anything_staged() {
        let here = fixture();
        assert!(here.target("root/in") && here.target("root/new") && here.target("root/in/new"));
        for path in
            ["root", "root/none/new", "outside/new", "root/.me-sync-0123456789abcdef", "root/state/x", "root/state"]
        {
            assert!(!here.target(path), "{path}");
        }
    }

    #[test]
    fn a_directory_that_was_moved_out_of_its_root_is_not_below_it_any_more() {
        let here = fixture();
        let held = open(CWD, &here.dir.path().join("root/in")).unwrap();
        assert!(here.roots.admit_open(&held).is_ok());
        fs::rename(here.dir.path().join("root/in"), here.dir.path().join("outside/in")).unwrap();
        assert!(here.roots.admit_open(&held).is_err());
    }
}

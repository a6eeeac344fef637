//! The node's limit on disk: `<state>/limit`, bytes a second as a decimal number and a line end; no file, no limit.
//!
//! Any process may write it, by rename, so that a reader sees all of it or the one before. A running node looks once a
//! second whether there is another one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use me_sync_protocol::reason::Code;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Limiter, Rate};

const FILE: &str = "limit";
/// How often a node looks.
const EVERY: Duration = Duration::from_secs(1);
/// More than the longest number.
const MAX_FILE: u64 = 64;

/// The limit of a state directory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LimitFileError {
    /// It is no limit of this version.
    #[error("{path} holds no limit", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("the limit in {path} cannot be used", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

impl LimitFileError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Damaged { .. } => Code::StateCorrupt,
            Self::Io { .. } => Code::IoError,
        }
    }
}

/// The limit of a state directory; none if there is none. Blocking.
///
/// # Errors
/// See [`LimitFileError`].
pub fn load(state_dir: &Path) -> Result<Option<Rate>, LimitFileError> {
    let path = state_dir.join(FILE);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) if err.kind() == io::ErrorKind::InvalidData => return Err(LimitFileError::Damaged { path }),
        Err(err) => return Err(LimitFileError::Io { path, err }),
    }
    let number = text.strip_suffix('\n').and_then(|line| line.parse().ok());
    match number.map(Rate::new) {
        Some(Ok(rate)) => Ok(Some(rate)),
        Some(Err(_)) | None => Err(LimitFileError::Damaged { path }),
    }
}

/// Sets or lifts the limit of a state directory, which is made if need be. A node that runs there follows within
/// about a second. Blocking.
///
/// # Errors
/// The file cannot be written.
pub fn store(state_dir: &Path, rate: Option<Rate>) -> Result<(), LimitFileError> {
    let path = state_dir.join(FILE);
    let io = |err| LimitFileError::Io { path: path.clone(), err };
    let Some(rate) = rate else {
        return match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io(err)),
            _ => Ok(()),
        };
    };
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io)?;
    // two that set it at once have a file each
    let new = state_dir.join(format!("{FILE}.{}.new", std::process::id()));
    let written = || {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        writeln!(file, "{}", rate.bytes_per_second())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    written().map_err(|err| {
        fs::remove_file(&new).ok();
        io(err)
    })
}

/// What tells one file from the next: a rename brings another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(Option<(u64, i64, i64, u64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let stat = fs::metadata(path).ok();
        Self(stat.map(|stat| (stat.ino(), stat.ctime(), stat.ctime_nsec(), stat.len())))
    }
}

/// As [`load`], with what tells later whether there is another. Blocking.
pub(crate) fn look(state_dir: &Path) -> (Stamp, Result<Option<Rate>, LimitFileError>) {
    // the stamp first: what is written meanwhile is another file
    (Stamp::of(&state_dir.join(FILE)), load(state_dir))
}

/// Keeps a limit as its file says, until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    _stop: DropGuard,
}

/// Follows the file of a state directory from what was `seen` of it, in a task of its own. What cannot be read changes
/// nothing.
pub(crate) fn follow(state_dir: PathBuf, mut seen: Stamp, limiter: Limiter) -> Follower {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        while stopped.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let dir = state_dir.clone();
            let look = move || (Stamp::of(&dir.join(FILE)) != seen).then(|| look(&dir));
            // a runtime that ends runs nothing any more
            let Ok(Some((now, read))) = tokio::task::spawn_blocking(look).await else { continue };
            seen = now;
            match read {
                Ok(rate) => {
                    let shown = rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string());
                    tracing::info!(limit = shown, "the limit of this node was changed");
                    limiter.set(rate);
                }
                Err(e) => tracing::warn!(error = %crate::errors::chain(&e), "the limit stays as it was"),
            }
        }
    });
    Follower { _stop: stop.drop_guard() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn rate(text: &str) -> Option<Rate> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_limit_outlives_its_process_in_a_file_that_nobody_else_reads() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert_eq!(load(&state).unwrap(), None);
        store(&state, None).unwrap();
        assert!(!state.exists(), "what lifts no limit makes nothing");
        for text in ["1.5M", "64K"] {
            store(&state, rate(text)).unwrap();
            assert_eq!(load(&state).unwrap(), rate(text));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        store(&state, None).unwrap();
        assert_eq!(load(&state).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_no_limit_is_refused_by_name_and_replaced_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "5M\n", "5000000", "0\n", "63999\n", "-1\n", "99999999999999999999\n", "1000000\n\n"] {
            fs::write(dir.path().join(FILE), bad).unwrap();
            let refused = load(dir.path()).unwrap_err();
            assert!(matches!(&refused, LimitFileError::Damaged { path } if path.ends_with(FILE)), "{bad:?}: {refused}");
        }
        store(dir.path(), rate("5M")).unwrap();
        assert_eq!(load(dir.path()).unwrap(), rate("5M"));
    }

    #[tokio::test]
    async fn a_node_follows_its_file_and_a_damaged_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let limiter = Limiter::new(rate("1M"));
        let (seen, _) = look(dir.path());
        let follower = follow(dir.path().to_owned(), seen, limiter.clone());
        let mut changes = limiter.changes();
        let mut becomes = async |expected: Option<Rate>| {
            let change = tokio::time::timeout(Duration::from_secs(30), changes.wait_for(|now| *now == expected));
            change.await.expect("it is noticed").expect("the limiter is there");
        };
        store(dir.path(), rate("5M")).unwrap();
        becomes(rate("5M")).await;
        store(dir.path(), None).unwrap();
        becomes(None).await;
        fs::write(dir.path().join(FILE), "much\n").unwrap();
        store(dir.path(), rate("7M")).unwrap();
        becomes(rate("7M")).await;
        drop(follower);
    }
}

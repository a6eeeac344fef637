//! A redb file in the state directory: made whole or not at all, and trusted only after every page was checked.
//!
//! Refuses, leaving the file where it is: symlinks and what is no regular file, another user's file, one that others
//! may read, an empty or torn one, one of something else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, WriteTransaction};
use rustix::fs::OFlags;

use super::error::{Fault, StoreError};

/// A database and where it is.
pub(crate) struct Opened {
    pub(crate) db: Database,
    pub(crate) path: PathBuf,
}

/// Opens `name` in the state directory with a page cache of `cache` bytes. A new one is filled by `lay_out`; every
/// one has to pass `check`.
pub(crate) fn open(
    state_dir: &Path,
    name: &str,
    cache: usize,
    lay_out: fn(&WriteTransaction) -> Result<(), Fault>,
    check: fn(&Database) -> Result<(), Fault>,
) -> Result<Opened, StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(StoreError::io("create the directory", state_dir))?;
    let path = state_dir.join(name);
    let file = match existing(&path)? {
        Some(file) => file,
        None => {
            create(state_dir, name, &path, cache, lay_out)?;
            existing(&path)?.ok_or_else(|| StoreError::io("open", &path)(io::ErrorKind::NotFound.into()))?
        }
    };
    let db = guarded(|| {
        let db = builder(cache).create_with_backend(FileBackend::new(file)?)?;
        check(&db)?;
        Ok(db)
    })
    .map_err(|fault| fault.at(&path))?;
    Ok(Opened { db, path })
}

/// Opens the file if there is one and it is ours alone.
fn existing(path: &Path) -> Result<Option<File>, StoreError> {
    // neither a link is followed nor a pipe waited for
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(StoreError::io("open", path)(err)),
    };
    let found = file.metadata().map_err(StoreError::io("examine", path))?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(StoreError::NotOurs { path: path.to_owned() });
    }
    if found.mode() & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.to_owned(), mode: found.mode() & 0o7777 });
    }
    let damaged = |what: &str| Err(StoreError::Damaged { path: path.to_owned(), what: what.to_owned() });
    match found {
        _ if !found.is_file() => damaged("it is no regular file"),
        // the database would take it for a new one
        _ if found.len() == 0 => damaged("it is empty"),
        _ => Ok(Some(file)),
    }
}

/// Makes the file beside its place and links it there whole; if somebody was faster, theirs stays.
fn create(
    state_dir: &Path,
    name: &str,
    path: &Path,
    cache: usize,
    lay_out: fn(&WriteTransaction) -> Result<(), Fault>,
) -> Result<(), StoreError> {
    let temporary = state_dir.join(format!(".{name}.{:016x}", u64::from_ne_bytes(crate::random::bytes())));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(StoreError::io("create", &temporary))?;
    let filled = guarded(|| {
        let db = builder(cache).create_with_backend(FileBackend::new(file)?)?;
        let mut txn = db.begin_write()?;
        txn.set_two_phase_commit(true);
        lay_out(&txn)?;
        txn.commit()?;
        Ok(db.close()?)
    });
    let placed = filled.map_err(|fault| fault.at(&temporary)).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io("create", path)(err)),
        Ok(()) | Err(_) => Ok(()),
    });
    if let Err(error) = fs::remove_file(&temporary) {
        tracing::debug!(%error, "a temporary file is left in the state directory");
    }
    placed?;
    File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", state_dir))
}

fn builder(cache: usize) -> Builder {
    let mut builder = Builder::new();
    // without the check, pages that rotted are read as they are
    builder.set_cache_size(cache).set_check_integrity_on_open(true);
    builder
}

/// A file that redb did not write so may break its assumptions in ways that it does not report but panics on.
fn guarded<T>(act: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    // nothing of it is used any more after a panic
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(Fault::Damaged("its pages do not fit together".to_owned())))
}

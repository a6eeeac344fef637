//! The file that a package waits in until it is whole: `<state>/archives/<session>.zip`, for its owner only.
//!
//! It goes when it is let go of, and what a killed process left goes at the next start. Its name says which session has
//! no way on: an archive is not resumed, so what that session staged goes too.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::{Digest, SessionId};
use me_sync_protocol::reason::Code;
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use super::error::PackageRefused;
use crate::staging::{self, StageError, StateDir};

const DIR: &str = "archives";
const ENDING: &str = "zip";
/// Space of the file system that a package leaves free, for journals and records.
const RESERVE: u64 = 8 << 20;

/// A package on the disk. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    pub(super) file: File,
}

/// A package that comes in.
#[derive(Debug)]
pub(crate) struct SpoolWriter {
    spool: Spool,
    hash: Hasher,
    len: u64,
    declared: u64,
}

impl SpoolWriter {
    /// Makes the file for a package of so many bytes, and reserves its room. Blocking.
    ///
    /// # Errors
    /// There is no room, or the file cannot be made.
    // SPEC §13.4
    pub(crate) fn create(state_dir: &Path, session: SessionId, declared: u64) -> Result<Self, PackageRefused> {
        let failed = |what| move |err: io::Error| PackageRefused::Spool { what, err };
        let dir = state_dir.join(DIR);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(failed("created")(err)),
            _ => {}
        }
        let path = dir.join(session.to_string()).with_extension(ENDING);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let spool = Spool { path, file: file.map_err(failed("created"))? };
        let fs = fstatvfs(&spool.file).map_err(|err| failed("looked at")(err.into()))?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if declared.saturating_add(RESERVE) > free {
            return Err(PackageRefused::NoSpace { needed: declared, free });
        }
        match fallocate(&spool.file, FallocateFlags::KEEP_SIZE, 0, declared.max(1)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
            Err(err) => return Err(failed("reserved")(err.into())),
        }
        Ok(Self { spool, hash: Hasher::new(), len: 0, declared })
    }

    /// Takes the next piece. Blocking.
    ///
    /// # Errors
    /// It is more than declared, or the disk refuses.
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), PackageRefused> {
        self.len = self.len.saturating_add(piece.len() as u64);
        if self.len > self.declared {
            return Err(PackageRefused::Announced { what: "it is longer", code: Code::SizeMismatch });
        }
        self.hash.update(piece);
        self.spool.file.write_all(piece).map_err(|err| PackageRefused::Spool { what: "written", err })
    }

    /// All bytes that were declared are here.
    pub(crate) fn is_full(&self) -> bool {
        self.len == self.declared
    }

    /// The package, whole and with the announced SHA-256.
    ///
    /// # Errors
    /// It is shorter, or another one.
    pub(crate) fn finish(self, sha256: Digest) -> Result<Spool, PackageRefused> {
        if !self.is_full() {
            return Err(PackageRefused::Announced { what: "it is shorter", code: Code::SizeMismatch });
        }
        if self.hash.finish() != sha256 {
            return Err(PackageRefused::Announced { what: "its SHA-256 is another", code: Code::HashMismatch });
        }
        Ok(self.spool)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_file(&self.path) {
            tracing::warn!(error = %err, "an archive that is done with stays until the next start");
        }
    }
}

/// Removes what a killed process left: packages, and what their sessions had staged. Blocking; under the lock of the state
/// directory, and after the journals were settled.
pub(crate) fn sweep(state: &StateDir) {
    for entry in fs::read_dir(state.path().join(DIR)).into_iter().flatten().flatten() {
        let path = entry.path();
        let session = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(session) = session {
            match staging::discard(state, session, Code::NodeStopping) {
                // it had not come so far, or further
                Ok(()) | Err(StageError::NotUnfinished { .. }) => {}
                Err(err) => {
                    tracing::warn!(%session, error = %crate::errors::chain(&err), "what an archive staged is not gone yet");
                    continue;
                }
            }
        }
        if let Err(err) = fs::remove_file(&path) {
            tracing::warn!(error = %err, "an archive that nobody needs stays");
        }
    }
}

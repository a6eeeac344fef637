//! The manifest on disk, so that a session can go on without asking for it again.
//!
//! `manifest` in the session's directory: a magic, then pieces with their length before them, the header first,
//! each at most 1 MiB. What is read back passes the same checks as one from the wire, and must have the SHA-256
//! that the journal names.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use me_sync_protocol::ids::Digest;
use me_sync_protocol::limits::MAX_CHUNK;
use me_sync_protocol::manifest::{Manifest, ManifestAssembler};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::durable;
use super::error::StateError;
use super::inode::Inode;

const MAGIC: &[u8; 8] = b"mesyncm1";
const FILE: &str = "manifest";
/// The manifest that seals the outline in [`FILE`].
const SEALED: &str = "manifest.sealed";
const TEMPORARY: &str = "manifest.tmp";

/// Writes the manifest into a session's directory, durably.
pub(super) fn write(dir: &OwnedFd, path: &Path, manifest: &Manifest) -> Result<(), StateError> {
    write_as(dir, path, FILE, manifest)
}

/// Writes the manifest that seals the outline beside it, durably. The journal decides which of them counts.
pub(super) fn write_sealed(dir: &OwnedFd, path: &Path, manifest: &Manifest) -> Result<(), StateError> {
    write_as(dir, path, SEALED, manifest)
}

/// The journal names the sealed manifest.
pub(super) fn remove_outline(dir: &OwnedFd) {
    // what stays is not read
    unlinkat(dir, FILE, AtFlags::empty()).ok();
}

fn write_as(dir: &OwnedFd, path: &Path, name: &str, manifest: &Manifest) -> Result<(), StateError> {
    let step = || -> io::Result<()> {
        match unlinkat(dir, TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut out = BufWriter::new(File::from(openat(dir, TEMPORARY, flags, Mode::RUSR | Mode::WUSR)?));
        out.write_all(MAGIC)?;
        for piece in std::iter::once(manifest.header_bytes()).chain(manifest.chunks()) {
            let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
            out.write_all(&length.to_be_bytes())?;
            out.write_all(&piece)?;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        durable::sync(&file)?;
        durable::replace_file(dir.as_fd(), TEMPORARY, name)?;
        Ok(durable::sync(dir)?)
    };
    step().map_err(|err| StateError::Io { what: "writing", path: path.join(name), err })
}

/// Reads the manifest with this SHA-256 back: an outline, or what seals it.
pub(super) fn read(dir: &OwnedFd, path: &Path, sha256: Digest) -> Result<Manifest, StateError> {
    let sealed = read_from(dir, path, SEALED, sha256);
    if sealed.is_ok() {
        return sealed;
    }
    match read_from(dir, path, FILE, sha256) {
        Err(err) if is_there(dir, FILE) => Err(err),
        // the outline is gone: what is wrong is wrong with the other
        Err(err) => Err(if is_there(dir, SEALED) { sealed.err().unwrap_or(err) } else { err }),
        found => found,
    }
}

fn is_there(dir: &OwnedFd, name: &str) -> bool {
    !matches!(Inode::at(dir, name), Ok(None))
}

fn read_from(dir: &OwnedFd, path: &Path, name: &str, sha256: Digest) -> Result<Manifest, StateError> {
    let at = path.join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(StateError::Manifest { path: at, why: "is not there".to_owned() }),
        Err(Errno::LOOP) => return Err(StateError::NotOurs { path: at, why: "is a symlink" }),
        Err(err) => return Err(StateError::Io { what: "opening", path: at, err: err.into() }),
    };
    let inode =
        Inode::of(&fd).map_err(|err| StateError::Io { what: "looking at", path: at.clone(), err: err.into() })?;
    if inode.kind() != FileType::RegularFile {
        return Err(StateError::NotOurs { path: at, why: "is not a file" });
    }
    if inode.uid() != rustix::process::geteuid().as_raw() {
        return Err(StateError::NotOurs { path: at, why: "belongs to another user" });
    }
    let damaged = |why: &dyn std::fmt::Display| StateError::Manifest { path: at.clone(), why: why.to_string() };
    // pieces are read whole: no buffer in between
    let mut file = File::from(fd);
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(|err| damaged(&err))?;
    if magic != *MAGIC {
        return Err(damaged(&"is something else"));
    }
    let mut piece = Vec::new();
    let mut next = |piece: &mut Vec<u8>| -> io::Result<bool> {
        let mut length = [0; 4];
        match file.read(&mut length)? {
            0 => return Ok(false),
            read => file.read_exact(&mut length[read..])?,
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_CHUNK {
            return Err(io::Error::other("a piece is too long"));
        }
        piece.resize(length, 0);
        file.read_exact(piece)?;
        Ok(true)
    };
    if !next(&mut piece).map_err(|err| damaged(&err))? {
        return Err(damaged(&"is empty"));
    }
    let mut assembler = ManifestAssembler::begin(&piece).map_err(|err| damaged(&err))?;
    while next(&mut piece).map_err(|err| damaged(&err))? {
        assembler.chunk(&piece).map_err(|err| damaged(&err))?;
    }
    assembler.end(sha256).map_err(|err| damaged(&err))
}

/// Removes the manifest.
pub(super) fn remove(dir: &OwnedFd) -> rustix::io::Result<()> {
    for name in [TEMPORARY, SEALED, FILE] {
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SMALL, manifest};
    use super::*;

    fn open(dir: &Path) -> OwnedFd {
        File::open(dir).unwrap().into()
    }

    #[test]
    fn a_manifest_comes_back_and_one_that_is_cut_flipped_or_another_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, all) = (open(tmp.path()), manifest(SMALL));
        write(&dir, tmp.path(), &all).unwrap();
        assert_eq!(read(&dir, tmp.path(), all.sha256()).unwrap().canonical_bytes(), all.canonical_bytes());
        assert!(!tmp.path().join(TEMPORARY).exists());
        let refused = |dir: &OwnedFd| read(dir, tmp.path(), all.sha256()).map(|_| ()).unwrap_err().code();
        let file = tmp.path().join(FILE);
        let whole = std::fs::read(&file).unwrap();
        let corrupt = me_sync_protocol::reason::Code::StateCorrupt;
        for length in 0..whole.len() {
            std::fs::write(&file, &whole[..length]).unwrap();
            assert_eq!(refused(&dir), corrupt, "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            std::fs::write(&file, &bad).unwrap();
            assert_eq!(refused(&dir), corrupt, "flipped at {at}");
        }
        std::fs::write(&file, &whole).unwrap();
        assert_eq!(read(&dir, tmp.path(), Digest([0; 32])).map(|_| ()).unwrap_err().code(), corrupt);
        // RELIABILITY A95
        std::fs::remove_file(&file).unwrap();
        assert_eq!(refused(&dir), corrupt, "nothing there");
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(matches!(read(&dir, tmp.path(), all.sha256()), Err(StateError::NotOurs { .. })));
        remove(&dir).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}

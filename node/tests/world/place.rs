//! A place with two devices: directories, mounts that are taken down again, trees and pictures of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::device::Device;

pub(crate) const MIB: usize = 1 << 20;

/// False, after saying so, when this process may not mount; a failure where tests must not be skipped.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: mounts and network namespaces need root");
    }
    root
}

/// Runs a tool that must succeed.
#[track_caller]
pub(crate) fn tool(line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A temporary directory with an exporter and an importer.
pub(crate) struct Place {
    mounts: Vec<PathBuf>,
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("world-").tempdir().unwrap();
        // other users pass through it
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { mounts: Vec::new(), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn exporter(&self) -> Device {
        Device::new("exporter", self.path("exporter"))
    }

    pub(crate) fn importer(&self) -> Device {
        Device::new("importer", self.path("importer"))
    }

    /// Mounts a tmpfs at `name` until this place goes.
    pub(crate) fn tmpfs(&mut self, name: &str, options: &str) -> PathBuf {
        let at = self.dir(name);
        tool(&format!("mount -t tmpfs -o {options},mode=0755 world {}", at.display()));
        self.mounts.push(at.clone());
        at
    }

    /// A tree of `files` files of `size` bytes each, `f000` and so on, every one different.
    pub(crate) fn tree(&self, name: &str, files: usize, size: usize) -> PathBuf {
        let root = self.dir(name);
        for n in 0..files {
            fs::write(root.join(format!("f{n:03}")), noise(n as u64 + 1, size)).unwrap();
        }
        root
    }

    /// A target that holds something.
    pub(crate) fn old_target(&self, name: &str) -> PathBuf {
        let target = self.dir(name);
        fs::create_dir(target.join("sub")).unwrap();
        fs::write(target.join("sub/old.txt"), "what was there before").unwrap();
        target
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            // lazily: a child that is still ending may hold it
            Command::new("umount").arg("-l").arg(mount).status().ok();
        }
    }
}

/// Bytes that no transport can shorten.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// What of ours stands beside targets in `parent`.
pub(crate) fn leftovers(parent: &Path) -> Vec<String> {
    let names = fs::read_dir(parent).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".me-sync-")).collect()
}

/// Everything about a tree that a migration keeps, by relative path.
pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, at: &Path, into: &mut BTreeMap<PathBuf, String>) {
        use sha2::{Digest as _, Sha256};
        let meta = fs::symlink_metadata(at).unwrap();
        let common = format!("{:o} {}.{:09}", meta.mode(), meta.mtime(), meta.mtime_nsec());
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(at).unwrap().display())
        } else if meta.is_file() {
            let mut hash = Sha256::new();
            std::io::copy(&mut fs::File::open(at).unwrap(), &mut HashWriter(&mut hash)).unwrap();
            format!("{common} {} {:x?}", meta.len(), hash.finalize().as_slice())
        } else {
            common
        };
        into.insert(at.strip_prefix(root).unwrap().to_owned(), what);
        if meta.is_dir() {
            fs::read_dir(at).unwrap().for_each(|e| walk(root, &e.unwrap().path(), into));
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

//! Claims about the exporter's side of a tree, on real file systems.

mod cache;
mod hash;
mod holes;
mod outline;
mod read;
mod walk;

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::Manifest;
use rustix::process::{Gid, Uid, geteuid};
use tempfile::TempDir;

use super::*;

const NOBODY: u32 = 65_534;

/// `root` is exported; `outside` stands beside it and holds a file that nobody may ever see.
struct Ground {
    dir: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

const CANARY: &str = "outside the root";

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // another user must get in
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), CANARY).unwrap();
        Self { dir, root, outside }
    }

    fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let at = self.root.join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, bytes).unwrap();
        at
    }

    fn scan(&self) -> Result<Source, SourceError> {
        Source::scan(&self.root, &ScanOptions::default())
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        snapshot_of(self.scan().unwrap())
    }
}

fn snapshot_of(source: Source) -> Arc<Snapshot> {
    Arc::new(hash_with(source, 2).unwrap())
}

fn hash_with(source: Source, threads: usize) -> Result<Snapshot, SourceError> {
    source.hash(NonZeroUsize::new(threads).unwrap(), None, &HashProgress::default(), &AtomicBool::new(false))
}

fn leave_out_all() -> ScanOptions {
    ScanOptions { skip_unreadable: true, skip_unsupported: true }
}

fn paths(manifest: &Manifest) -> Vec<String> {
    manifest.entries().map(|(_, entry)| entry.path.as_str().to_owned()).collect()
}

fn index_of(snapshot: &Snapshot, path: &str) -> EntryIndex {
    snapshot.manifest().find(path).unwrap()
}

/// Opens, reads to the declared end in pieces of 7 bytes, and looks again.
fn serve(snapshot: &Arc<Snapshot>, path: &str) -> Result<Vec<u8>, ReadError> {
    let mut file = snapshot.reader().open(index_of(snapshot, path))?;
    let bytes = read_all(&mut file)?;
    file.finish()?;
    Ok(bytes)
}

fn read_all(file: &mut SourceFile) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let mut piece = [0; 7];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

/// Runs `act` as a user whom permission bits bind: on a thread of its own, as nobody, when the tests run as root.
fn as_ordinary_user<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    if !geteuid().is_root() {
        return act();
    }
    std::thread::scope(|scope| {
        let dropped = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            act()
        });
        dropped.join().unwrap()
    })
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Is this the process that [`again_in_a_process`] started?
fn is_own_process() -> bool {
    std::env::var_os("ME_SYNC_TEST_CHILD").is_some()
}

/// Runs the calling test again, alone in a process of its own, behind the words of `wrapper`.
fn again_in_a_process(wrapper: &[&str]) {
    let name = std::thread::current().name().unwrap().to_owned();
    let exe = std::env::current_exe().unwrap();
    let mut words = wrapper.iter().map(std::ffi::OsStr::new).chain([exe.as_os_str()]);
    let child = std::process::Command::new(words.next().unwrap())
        .args(words)
        .args(["--exact", &name])
        .env("ME_SYNC_TEST_CHILD", "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

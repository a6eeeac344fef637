use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use me_sync_protocol::reason::{Code, FailureReason};
use rustix::fs::{CWD, Mode, RenameFlags, mkfifoat, renameat_with};

use super::super::beneath::{DirCache, OpenRefused, Opened, open_looked_at};
use super::super::tree::Stamp;
use super::*;

/// Exchanges two names below `root` without pause while `act` runs: at least `times` times, until the names were
/// exchanged as often, and until `act` says that it has met both orders.
pub(super) fn while_swapping(root: &Path, a: &str, b: &str, times: usize, mut act: impl FnMut() -> bool) {
    let done = AtomicBool::new(false);
    let swaps = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let dir = File::open(root).unwrap();
        let (done, swaps) = (&done, &swaps);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                renameat_with(&dir, a, &dir, b, RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        // ends the other thread also when `act` panics
        let _stop = OnDrop(done);
        let (mut ran, mut met_both) = (0, false);
        while ran < times || swaps.load(Ordering::Relaxed) < times || !met_both {
            met_both = act();
            ran += 1;
        }
    });
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn refuses_as_changed(result: Result<impl Sized, ReadError>) {
    let Err(err) = result else { panic!("a changed file was served") };
    assert!(matches!(err, ReadError::Changed { .. }), "{err}");
    assert_eq!((err.code(), err.reason()), (Code::SourceChanged, FailureReason::IoError));
    assert!(err.to_string().contains("d/f"), "{err}");
}

fn append(path: &Path) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
}

fn shrink(path: &Path) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(3).unwrap();
}

fn rewrite(path: &Path) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"CONTENT").unwrap();
}

fn replace_by_copy(path: &Path) {
    fs::copy(path, path.with_extension("new")).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn replace_by_symlink(path: &Path) {
    fs::remove_file(path).unwrap();
    symlink("../../outside/f", path).unwrap();
}

fn replace_by_fifo(path: &Path) {
    fs::remove_file(path).unwrap();
    mkfifoat(CWD, path, Mode::RUSR).unwrap();
}

fn replace_by_dir(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

// RELIABILITY F38, F40, F42
#[test]
fn a_file_that_is_not_the_hashed_one_any_more_is_not_opened() {
    let changes: [fn(&Path); 8] =
        [append, shrink, rewrite, replace_by_copy, delete, replace_by_symlink, replace_by_fifo, replace_by_dir];
    for change in changes {
        let ground = Ground::new();
        let file = ground.file("d/f", "content");
        ground.file("d/other", "as it was");
        let snapshot = ground.snapshot();
        change(&file);
        let mut reader = snapshot.reader();
        refuses_as_changed(reader.open(index_of(&snapshot, "d/f")));
        // the same through a directory handle that is already open
        let mut other = reader.open(index_of(&snapshot, "d/other")).unwrap();
        assert_eq!(read_all(&mut other).unwrap(), b"as it was");
        refuses_as_changed(reader.open(index_of(&snapshot, "d/f")));
    }
}

// RELIABILITY F38
#[test]
fn a_file_that_changes_while_it_is_served_does_not_finish() {
    for change in [append as fn(&Path), rewrite] {
        let ground = Ground::new();
        let path = ground.file("d/f", "content");
        let snapshot = ground.snapshot();
        let mut file = snapshot.reader().open(index_of(&snapshot, "d/f")).unwrap();
        change(&path);
        assert_eq!(read_all(&mut file).unwrap().len(), 7, "never more than the declared size");
        refuses_as_changed(file.finish());
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_served_ends_with_an_error_not_early() {
    let ground = Ground::new();
    let path = ground.file("d/f", "content");
    let snapshot = ground.snapshot();
    let mut file = snapshot.reader().open(index_of(&snapshot, "d/f")).unwrap();
    shrink(&path);
    refuses_as_changed(read_all(&mut file));
    refuses_as_changed(file.finish());
}

#[test]
fn a_file_replaced_while_it_is_served_never_gives_the_new_bytes() {
    for change in [delete as fn(&Path), replace_by_copy, replace_by_symlink, replace_by_fifo, replace_by_dir] {
        let ground = Ground::new();
        let path = ground.file("d/f", "content");
        let snapshot = ground.snapshot();
        let mut file = snapshot.reader().open(index_of(&snapshot, "d/f")).unwrap();
        change(&path);
        assert_eq!(read_all(&mut file).unwrap(), b"content");
        // losing its name moved the change time
        refuses_as_changed(file.finish());
    }
}

// RELIABILITY F41
#[test]
fn a_file_that_lost_its_permission_is_unreadable_or_changed_but_not_served() {
    let ground = Ground::new();
    let path = ground.file("d/f", "content");
    let snapshot = ground.snapshot();
    chmod(&path, 0o000);
    let err = as_ordinary_user(|| serve(&snapshot, "d/f").unwrap_err());
    assert!(matches!(err, ReadError::Unreadable { .. }), "{err}");
    assert_eq!((err.code(), err.reason()), (Code::SourceUnreadable, FailureReason::IoError));
}

#[test]
fn buffers_are_filled_and_a_transfer_continues_at_its_offset() {
    let ground = Ground::new();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    ground.file("d/f", &bytes);
    ground.file("empty", "");
    let snapshot = ground.snapshot();
    let mut file = snapshot.reader().open(index_of(&snapshot, "d/f")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    assert_eq!(file.read(&mut buffer).unwrap(), 1 << 20);
    file.seek(2_999_990);
    assert_eq!(file.read(&mut buffer).unwrap(), 10);
    assert_eq!(&buffer[..10], &bytes[2_999_990..]);
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
    file.seek(u64::MAX);
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
    file.finish().unwrap();
    assert_eq!(serve(&snapshot, "empty").unwrap(), b"");
}

#[test]
fn an_index_that_names_no_file_is_the_peers_fault() {
    let ground = Ground::new();
    ground.file("d/f", "x");
    let snapshot = ground.snapshot();
    for index in [index_of(&snapshot, "d"), EntryIndex(2), EntryIndex(u32::MAX)] {
        let err = snapshot.reader().open(index).unwrap_err();
        assert_eq!(err.reason(), FailureReason::ProtocolError);
    }
}

// RELIABILITY A61
#[test]
fn an_ancestor_swapped_for_a_symlink_after_the_snapshot_does_not_lead_outside() {
    let ground = Ground::new();
    ground.file("d/f", "content");
    ground.file("d/g", "content");
    let snapshot = ground.snapshot();
    let mut warm = snapshot.reader();
    warm.open(index_of(&snapshot, "d/g")).unwrap();
    fs::rename(ground.root.join("d"), ground.dir.path().join("moved")).unwrap();
    symlink(&ground.outside, ground.root.join("d")).unwrap();
    refuses_as_changed(serve(&snapshot, "d/f"));
    // a handle from before still means the old directory, whose file is the hashed one
    let mut file = warm.open(index_of(&snapshot, "d/f")).unwrap();
    assert_eq!(read_all(&mut file).unwrap(), b"content");
}

#[test]
fn a_directory_moved_away_and_back_is_found_again() {
    let ground = Ground::new();
    ground.file("d/f", "content");
    let snapshot = ground.snapshot();
    let mut reader = snapshot.reader();
    let (here, away) = (ground.root.join("d"), ground.dir.path().join("moved"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    refuses_as_changed(reader.open(index_of(&snapshot, "d/f")));
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    reader.open(index_of(&snapshot, "d/f")).unwrap();
}

/// Below the identity check: resolution alone must hold, with and without openat2.
#[test]
fn racing_a_directory_against_a_symlink_never_opens_a_file_outside() {
    let ground = Ground::new();
    ground.file("x/a/f", "inside");
    symlink(&ground.outside, ground.root.join("x/b")).unwrap();
    let root = OwnedFd::from(File::open(&ground.root).unwrap());
    let most = NonZeroUsize::new(4).unwrap();
    for mut dirs in [DirCache::new(most), DirCache::new(most).without_openat2()] {
        let (mut opened, mut refused) = (0, 0);
        while_swapping(&ground.root.join("x"), "a", "b", 2000, || {
            dirs.clear();
            match dirs.open_file(root.as_fd(), "x/a/f") {
                Ok(Opened { file, .. }) => {
                    let mut text = String::new();
                    File::from(file).read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside");
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
            opened > 0 && refused > 0
        });
    }
}

/// Again below the identity check.
#[test]
fn racing_a_file_against_a_symlink_a_fifo_and_a_directory_never_blocks_and_never_leaks() {
    for other in [replace_by_symlink as fn(&Path), replace_by_fifo, replace_by_dir] {
        let ground = Ground::new();
        ground.file("d/f", "inside");
        other(&ground.file("d/g", "x"));
        let root = OwnedFd::from(File::open(&ground.root).unwrap());
        let mut dirs = DirCache::new(NonZeroUsize::MIN);
        let (mut opened, mut refused) = (0, 0);
        while_swapping(&ground.root.join("d"), "f", "g", 2000, || {
            match dirs.open_file(root.as_fd(), "d/f") {
                Ok(Opened { file, .. }) => {
                    let mut text = String::new();
                    File::from(file).read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside");
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
            opened > 0 && refused > 0
        });
    }
}

// RELIABILITY F42: the moment between the look and the open, made as long as needed
#[test]
fn what_is_swapped_in_between_look_and_open_is_refused_without_waiting() {
    let ground = Ground::new();
    replace_by_fifo(&ground.file("d/fifo", ""));
    replace_by_symlink(&ground.file("d/link", ""));
    replace_by_dir(&ground.file("d/dir", ""));
    let _listener = std::os::unix::net::UnixListener::bind(ground.root.join("d/socket")).unwrap();
    for name in ["fifo", "link", "dir", "socket"] {
        let dir = File::open(ground.root.join("d")).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(open_looked_at(dir.as_fd(), name)));
        let result = told.recv_timeout(std::time::Duration::from_secs(10)).expect("it waits for a writer");
        assert!(matches!(result, Err(OpenRefused::NotRegular | OpenRefused::Gone)), "{name}: {result:?}");
    }
}

#[test]
fn a_file_is_the_hashed_one_only_if_device_inode_size_and_both_times_agree() {
    let ground = Ground::new();
    ground.file("f", "content");
    let snapshot = ground.snapshot();
    let index = index_of(&snapshot, "f");
    let entry = snapshot.manifest().entry(index).unwrap();
    let root = File::open(&ground.root).unwrap();
    let stamp = open_looked_at(root.as_fd(), "f").unwrap().stamp;
    assert!(snapshot.holds(index, &entry, &stamp));
    let others = [
        Stamp { dev: stamp.dev + 1, ..stamp },
        Stamp { ino: stamp.ino + 1, ..stamp },
        Stamp { size: stamp.size + 1, ..stamp },
        Stamp { mtime: (stamp.mtime.0, stamp.mtime.1 ^ 1), ..stamp },
        Stamp { ctime: (stamp.ctime.0, stamp.ctime.1 ^ 1), ..stamp },
    ];
    assert!(others.iter().all(|other| !snapshot.holds(index, &entry, other)));
}

#[test]
fn the_walk_down_without_openat2_finds_the_same_files() {
    let ground = Ground::new();
    ground.file("a/b/c/f", "x");
    symlink("b", ground.root.join("a/link")).unwrap();
    let root = OwnedFd::from(File::open(&ground.root).unwrap());
    for mut dirs in [DirCache::new(NonZeroUsize::MIN), DirCache::new(NonZeroUsize::MIN).without_openat2()] {
        dirs.open_file(root.as_fd(), "a/b/c/f").unwrap();
        dirs.open_file(root.as_fd(), "a/link/c/f").unwrap_err();
        dirs.open_file(root.as_fd(), "a/b/c/f/g").unwrap_err();
    }
}

use std::os::unix::fs::{FileExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::Node;
use me_sync_protocol::reason::Code;
use sha2::{Digest as _, Sha256};

use super::*;

#[test]
fn every_file_gets_its_own_hash_whatever_the_number_of_threads() {
    let ground = Ground::new();
    let sizes = [0, 1, 255, 4096, 262_143, 262_144, 262_145, 1 << 20, (1 << 20) + 1, 3 << 20];
    for (n, size) in sizes.into_iter().enumerate() {
        ground.file(&format!("sizes/{size}"), vec![u8::try_from(n).unwrap(); size]);
    }
    for n in 0..200 {
        ground.file(&format!("small/{}/{n}", n % 7), n.to_string());
    }
    let mut first = None;
    for threads in [1, 2, 5] {
        let progress = HashProgress::default();
        let source = ground.scan().unwrap();
        let bytes = source.summary().bytes;
        let threads = NonZeroUsize::new(threads).unwrap();
        let snapshot = source.hash(threads, None, &progress, &AtomicBool::new(false)).unwrap();
        assert_eq!((progress.files_done.load(Relaxed), progress.files_total.load(Relaxed)), (210, 210));
        assert_eq!((progress.bytes_done.load(Relaxed), progress.bytes_total.load(Relaxed)), (bytes, bytes));
        for (_, entry) in snapshot.manifest().entries() {
            let Node::File { size, sha256: Some(sha256) } = entry.node else { continue };
            let content = fs::read(ground.root.join(entry.path.as_str())).unwrap();
            assert_eq!((size, sha256), (content.len() as u64, Digest(Sha256::digest(&content).into())));
        }
        let name = snapshot.manifest().sha256();
        assert_eq!(*first.get_or_insert(name), name);
    }
}

#[test]
fn an_empty_tree_has_an_empty_manifest() {
    let ground = Ground::new();
    assert!(ground.snapshot().manifest().is_empty());
}

#[test]
fn a_file_that_changed_after_the_walk_is_taken_as_it_is_when_hashed() {
    let ground = Ground::new();
    let file = ground.file("d/f", "before");
    let source = ground.scan().unwrap();
    fs::write(&file, "after, and longer").unwrap();
    let progress = HashProgress::default();
    let snapshot = Arc::new(source.hash(NonZeroUsize::MIN, None, &progress, &AtomicBool::new(false)).unwrap());
    assert_eq!(serve(&snapshot, "d/f").unwrap(), b"after, and longer");
    assert_eq!(snapshot.manifest().total_bytes(), 17);
    assert_eq!(progress.bytes_total.load(Relaxed), 17);
}

// RELIABILITY F46
#[test]
fn a_file_that_never_stops_changing_is_named() {
    let write: [fn(&fs::File, u64) -> std::io::Result<usize>; 2] =
        [|log, round| log.write_at(b"x", (16 << 20) + round), |log, _| log.write_at(b"x", 0)];
    for write in write {
        let ground = Ground::new();
        ground.file("quiet", "x");
        let path = ground.file("log", vec![0; 16 << 20]);
        let source = Source::scan(&ground.root, &leave_out_all()).unwrap();
        let done = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                let log = fs::OpenOptions::new().write(true).open(&path).unwrap();
                let mut rounds = 0..;
                while !done.load(Relaxed) {
                    write(&log, rounds.next().unwrap()).unwrap();
                }
            });
            let result = hash_with(source, 2);
            done.store(true, Relaxed);
            result
        });
        let err = result.unwrap_err();
        assert!(matches!(&err, SourceError::Changed { path } if path == "log"), "{err}");
        assert_eq!(err.code(), Code::SourceChanged);
    }
}

#[test]
fn a_file_that_vanished_after_the_walk_fails_by_name_or_is_left_out() {
    let replace: [fn(&Path); 2] = [
        |path| fs::remove_file(path).unwrap(),
        |path| {
            fs::remove_file(path).unwrap();
            symlink("../../outside/f", path).unwrap();
        },
    ];
    for change in replace {
        for skip_unreadable in [false, true] {
            let ground = Ground::new();
            let file = ground.file("d/f", "x");
            ground.file("g", "stays");
            let source = Source::scan(&ground.root, &ScanOptions { skip_unreadable, ..Default::default() }).unwrap();
            change(&file);
            let result = hash_with(source, 1);
            if skip_unreadable {
                let snapshot = Arc::new(result.unwrap());
                assert_eq!(paths(snapshot.manifest()), ["d", "g"]);
                assert_eq!(snapshot.skipped().unreadable.names, ["d/f (vanished after the walk)"]);
                assert_eq!(serve(&snapshot, "g").unwrap(), b"stays");
            } else {
                let err = result.unwrap_err();
                assert_eq!((err.code(), err.to_string().contains("d/f")), (Code::SourceChanged, true));
            }
        }
    }
}

#[test]
fn a_file_that_became_unreadable_after_the_walk_fails_by_name_or_is_left_out() {
    let ground = Ground::new();
    let file = ground.file("d/f", "x");
    let scan = |skip_unreadable| Source::scan(&ground.root, &ScanOptions { skip_unreadable, ..Default::default() });
    let (strict, lenient) = (scan(false).unwrap(), scan(true).unwrap());
    chmod(&file, 0o000);
    // the hashing threads inherit what the thread that starts them may do
    let (err, snapshot) = as_ordinary_user(|| (hash_with(strict, 2).unwrap_err(), hash_with(lenient, 2).unwrap()));
    assert_eq!((err.code(), err.to_string().contains("d/f")), (Code::SourceUnreadable, true));
    assert_eq!(paths(snapshot.manifest()), ["d"]);
    assert_eq!(snapshot.skipped().unreadable.count, 1);
}

#[test]
fn a_file_whose_declared_size_is_made_up_is_not_taken_for_empty() {
    // the kernel's own files say they hold 0 bytes
    let source = Source::scan(Path::new("/proc/version"), &ScanOptions::default()).unwrap();
    assert_eq!(hash_with(source, 1).unwrap_err().code(), Code::SourceChanged);
}

#[test]
fn the_stop_flag_ends_hashing() {
    let ground = Ground::new();
    ground.file("f", "x");
    let stop = AtomicBool::new(true);
    let err = ground.scan().unwrap().hash(NonZeroUsize::MIN, None, &HashProgress::default(), &stop).unwrap_err();
    assert_eq!(err.code(), Code::Aborted);
}

#[test]
fn the_stop_flag_ends_the_reading_of_one_large_file() {
    let ground = Ground::new();
    // a sparse terabyte takes minutes to hash
    let file = fs::File::create(ground.root.join("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    let source = ground.scan().unwrap();
    let (progress, stop) = (HashProgress::default(), AtomicBool::new(false));
    let err = std::thread::scope(|scope| {
        let hashing = scope.spawn(|| source.hash(NonZeroUsize::MIN, None, &progress, &stop));
        while progress.bytes_done.load(Relaxed) == 0 {
            std::thread::yield_now();
        }
        stop.store(true, Relaxed);
        hashing.join().unwrap().unwrap_err()
    });
    assert_eq!(err.code(), Code::Aborted);
}

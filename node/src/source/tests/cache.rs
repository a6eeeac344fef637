#![expect(clippy::print_stderr, reason = "the numbers are what the run was for")]

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::Node;
use me_sync_protocol::reason::Code;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use sha2::{Digest as _, Sha256};

use super::super::cache::{CACHE_FILE, is_settled};
use super::super::tree::Stamp;
use super::*;

/// Comes back when everything that was written before is old enough for its hash to be kept.
fn settle() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let begun = now();
    while now() < begun + Duration::from_millis(80) {
        std::thread::yield_now();
    }
}

fn stamp_of(path: &Path) -> Stamp {
    Stamp::of(&rustix::fs::stat(path).unwrap())
}

/// A stamp of no file.
fn stamp(n: u64) -> Stamp {
    Stamp { dev: 1, ino: n, size: n, mode: 0o644, mtime: (-1, 999_999_999), ctime: (1_700_000_000, 7) }
}

fn digest(n: u64) -> Digest {
    Digest(Sha256::digest(n.to_le_bytes()).into())
}

/// Hashes with a cache; the snapshot, and how many files and bytes were read for it.
fn hash(ground: &Ground, cache: &HashCache) -> Result<(Snapshot, (u64, u64)), SourceError> {
    let progress = HashProgress::default();
    let stop = AtomicBool::new(false);
    let source = ground.scan().unwrap();
    let snapshot = source.hash(NonZeroUsize::new(2).unwrap(), Some(cache), &progress, &stop)?;
    let [files, bytes, all_files, all_bytes] =
        [&progress.files_done, &progress.bytes_done, &progress.files_total, &progress.bytes_total]
            .map(|n| n.load(Relaxed));
    assert_eq!((files, bytes), (all_files, all_bytes));
    Ok((snapshot, (files - progress.files_known.load(Relaxed), bytes - progress.bytes_known.load(Relaxed))))
}

/// 210 files, two of them large; all old enough.
fn settled_tree() -> Ground {
    let ground = Ground::new();
    for n in 0..200 {
        ground.file(&format!("small/{}/{n}", n % 7), n.to_string());
    }
    for size in [0, 0, 1, 1, 255, 4096, 262_143, 262_144, 1 << 20, (1 << 20) + 1] {
        ground.file(&format!("sizes/{size}/{}", fs::read_dir(&ground.root).unwrap().count()), vec![7; size]);
    }
    settle();
    ground
}

fn bytes_of(snapshot: &Snapshot) -> u64 {
    snapshot.manifest().total_bytes()
}

#[test]
fn a_second_hash_reads_nothing_and_gives_the_same_manifest_also_after_a_restart() {
    let (ground, state) = (settled_tree(), tempfile::tempdir().unwrap());
    let cache = HashCache::open(state.path()).unwrap();
    let (first, read) = hash(&ground, &cache).unwrap();
    assert_eq!(read.1, bytes_of(&first));
    let (second, read) = hash(&ground, &cache).unwrap();
    assert_eq!((read, second.manifest().sha256()), ((0, 0), first.manifest().sha256()));
    drop(cache);
    let cache = HashCache::open(state.path()).unwrap();
    let (third, read) = hash(&ground, &cache).unwrap();
    assert_eq!((read, third.manifest().sha256()), ((0, 0), first.manifest().sha256()));
    assert_eq!(serve(&Arc::new(third), "small/3/3").unwrap(), b"3");
}

#[test]
fn a_changed_file_is_read_again_and_no_other() {
    let (ground, state) = (settled_tree(), tempfile::tempdir().unwrap());
    let cache = HashCache::open(state.path()).unwrap();
    hash(&ground, &cache).unwrap();
    ground.file("small/0/0", "changed");
    ground.file("new", "new file");
    let (snapshot, read) = hash(&ground, &cache).unwrap();
    assert_eq!(read, (2, 15));
    assert_eq!(serve(&Arc::new(snapshot), "small/0/0").unwrap(), b"changed");
}

#[test]
fn a_change_behind_an_unchanged_size_and_a_restored_modification_time_is_seen() {
    let (ground, state) = (settled_tree(), tempfile::tempdir().unwrap());
    let cache = HashCache::open(state.path()).unwrap();
    hash(&ground, &cache).unwrap();
    let path = ground.root.join("small/1/1");
    let before = stamp_of(&path);
    fs::write(&path, "x").unwrap();
    let time = Timespec { tv_sec: before.mtime.0, tv_nsec: before.mtime.1.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    let after = stamp_of(&path);
    assert_eq!((after.size, after.mtime, after.ino), (before.size, before.mtime, before.ino));
    let (snapshot, read) = hash(&ground, &cache).unwrap();
    assert_eq!(read, (1, 1));
    assert_eq!(serve(&Arc::new(snapshot), "small/1/1").unwrap(), b"x");
}

#[test]
fn a_known_hash_is_taken_from_the_cache_and_only_for_the_very_stamp() {
    let ground = Ground::new();
    let path = ground.file("f", "content");
    settle();
    let real = stamp_of(&path);
    let others = [
        Stamp { dev: real.dev + 1, ..real },
        Stamp { ino: real.ino + 1, ..real },
        Stamp { size: real.size + 1, ..real },
        Stamp { mtime: (real.mtime.0, real.mtime.1 ^ 1), ..real },
        Stamp { ctime: (real.ctime.0 - 1, real.ctime.1), ..real },
    ];
    for (stamp, is_taken) in others.map(|other| (other, false)).into_iter().chain([(real, true)]) {
        let state = tempfile::tempdir().unwrap();
        let cache = HashCache::open(state.path()).unwrap();
        cache.keep(&mut vec![(stamp, digest(42))], 1).unwrap();
        let (snapshot, _) = hash(&ground, &cache).unwrap();
        let entry = snapshot.manifest().entry(index_of(&snapshot, "f")).unwrap();
        let taken = matches!(entry.node, Node::File { sha256, .. } if sha256 == Some(digest(42)));
        assert_eq!(taken, is_taken, "{stamp:?}");
    }
}

#[test]
fn a_forgotten_file_is_read_again_and_no_other() {
    let (ground, state) = (settled_tree(), tempfile::tempdir().unwrap());
    let cache = HashCache::open(state.path()).unwrap();
    let (snapshot, _) = hash(&ground, &cache).unwrap();
    let wrong = ["small/2/2", "small/3/10", "small"].map(|path| index_of(&snapshot, path));
    cache.forget(&snapshot, &wrong).unwrap();
    assert_eq!(hash(&ground, &cache).unwrap().1, (2, 3));
    assert_eq!(hash(&ground, &cache).unwrap().1, (0, 0));
}

#[test]
fn a_file_that_was_changed_within_a_tick_before_hashing_is_not_kept() {
    let at = |ctime| Stamp { ctime, ..stamp(1) };
    let began = Duration::new(1000, 500_000_000);
    assert!(is_settled(&at((1000, 450_000_000)), began));
    assert!(!is_settled(&at((1000, 450_000_001)), began));
    assert!(!is_settled(&at((1001, 1)), began));
    // a file system that only knows whole seconds
    assert!(is_settled(&at((998, 0)), began) && !is_settled(&at((999, 0)), began));
    assert!(!is_settled(&at((-5, 1)), began) && !is_settled(&at((i64::MAX, 1)), began));
    assert!(!is_settled(&at((1000, 1)), Duration::ZERO));
}

#[test]
fn what_was_hashed_before_an_error_is_known_the_next_time() {
    let (ground, state) = (settled_tree(), tempfile::tempdir().unwrap());
    let cache = HashCache::open(state.path()).unwrap();
    let source = ground.scan().unwrap();
    // the walk's order is the hashing's order, in blocks; this is in the last one
    fs::remove_file(ground.root.join("small/6/97")).unwrap();
    let (progress, stop) = (HashProgress::default(), AtomicBool::new(false));
    let err = source.hash(NonZeroUsize::MIN, Some(&cache), &progress, &stop).unwrap_err();
    assert_eq!(err.code(), Code::SourceChanged);
    assert!(cache.len() > 100, "{}", cache.len());
    let (_, (files, _)) = hash(&ground, &cache).unwrap();
    assert!(files < 100, "{files}");
}

#[test]
fn a_damaged_cache_is_replaced_and_one_in_use_or_a_directory_in_its_place_is_not() {
    let (ground, state) = (settled_tree(), tempfile::tempdir().unwrap());
    let path = state.path().join(CACHE_FILE);
    let cache = HashCache::open(state.path()).unwrap();
    hash(&ground, &cache).unwrap();
    assert_eq!(HashCache::open(state.path()).unwrap_err().code(), Code::StateLocked);
    drop(cache);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped.iter_mut().skip(4096).step_by(64).for_each(|byte| *byte ^= 0x40);
    for bad in [&b""[..], b"something else", &whole[..whole.len() / 2], &flipped] {
        fs::write(&path, bad).unwrap();
        let cache = HashCache::open(state.path()).unwrap();
        assert_eq!(cache.len(), 0);
        let (_, (files, _)) = hash(&ground, &cache).unwrap();
        assert!(files > 200 && cache.len() == files);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(HashCache::open(state.path()).unwrap_err().code(), Code::IoError);
}

/// A disk that takes what makes the cache and nothing more.
#[derive(Debug)]
struct Full(InMemoryBackend, Arc<AtomicBool>);

impl StorageBackend for Full {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        if self.1.load(Relaxed) { Err(std::io::ErrorKind::StorageFull.into()) } else { self.0.write(offset, data) }
    }
}

#[test]
fn a_cache_that_cannot_be_written_fails_no_hashing() {
    let ground = settled_tree();
    let full = Arc::new(AtomicBool::new(false));
    let cache = HashCache::on(Full(InMemoryBackend::new(), Arc::clone(&full)));
    full.store(true, Relaxed);
    let (snapshot, read) = hash(&ground, &cache).unwrap();
    assert_eq!((read.1, snapshot.manifest().sha256()), (bytes_of(&snapshot), ground.snapshot().manifest().sha256()));
}

#[test]
fn hashes_that_nobody_used_for_long_go_and_used_ones_stay() {
    let state = tempfile::tempdir().unwrap();
    let cache = HashCache::open(state.path()).unwrap();
    let hashes = |range: std::ops::Range<u64>| range.map(|n| (stamp(n), digest(n))).collect::<Vec<_>>();
    let known = |n| cache.find(&[stamp(n)])[0].map(|found| found.digest) == Some(digest(n));
    for (range, day) in [(0..10, 100), (10..20, 101), (20..30, 150)] {
        cache.keep(&mut hashes(range), day).unwrap();
    }
    cache.sweep(190, 1000).unwrap();
    assert_eq!(cache.len(), 30);
    // once a day
    cache.keep(&mut hashes(30..31), 1).unwrap();
    cache.sweep(190, 1000).unwrap();
    assert_eq!(cache.len(), 31);
    cache.sweep(191, 1000).unwrap();
    assert_eq!((cache.len(), known(9), known(10), known(30)), (20, false, true, false));
    // too many: the least lately used go, also on the same day
    cache.sweep(191, 15).unwrap();
    assert_eq!((cache.len(), (20..30).all(known)), (15, true));
    cache.sweep(191, 10).unwrap();
    assert_eq!((cache.len(), (20..30).all(known)), (10, true));
    cache.sweep(191, 0).unwrap();
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_used_hash_is_marked_as_used() {
    let (ground, state) = (settled_tree(), tempfile::tempdir().unwrap());
    let cache = HashCache::open(state.path()).unwrap();
    let path = ground.root.join("small/1/1");
    let (first, _) = hash(&ground, &cache).unwrap();
    let entry = first.manifest().entry(index_of(&first, "small/1/1")).unwrap();
    let Node::File { sha256: Some(sha256), .. } = entry.node else { panic!("a file") };
    cache.keep(&mut vec![(stamp_of(&path), sha256)], 20_000).unwrap();
    assert!(cache.find(&[stamp_of(&path)])[0].unwrap().is_old);
    hash(&ground, &cache).unwrap();
    assert!(!cache.find(&[stamp_of(&path)])[0].unwrap().is_old);
}

#[test]
#[ignore = "a measurement: cargo test -- --ignored --nocapture measured"]
fn measured_fifty_thousand_files_hashed_twice() {
    let (ground, state) = (Ground::new(), tempfile::tempdir().unwrap());
    for n in 0..50_000 {
        ground.file(&format!("{}/{n}", n / 250), n.to_string());
    }
    settle();
    let bare = Instant::now();
    ground.snapshot();
    let bare = bare.elapsed();
    let cache = HashCache::open(state.path()).unwrap();
    let took = |changed: &str| {
        let began = Instant::now();
        let (_, (files, bytes)) = hash(&ground, &cache).unwrap();
        eprintln!("{changed}: {files} files, {bytes} bytes read in {:?}, walk included", began.elapsed());
    };
    eprintln!("without a cache: {bare:?}, walk included");
    took("first");
    took("second");
    for n in 0..500 {
        ground.file(&format!("{}/{}", n * 100 / 250, n * 100), "changed");
    }
    took("1 % changed");
    eprintln!("{} KiB", fs::metadata(state.path().join(CACHE_FILE)).unwrap().len() >> 10);
}

#[test]
#[ignore = "a measurement: cargo test -- --ignored --nocapture measured"]
fn measured_a_million_hashes() {
    let state = tempfile::tempdir().unwrap();
    let cache = HashCache::open(state.path()).unwrap();
    // inodes as a walk finds them: runs of neighbours, the runs in no order
    let inode = |n: u64| ((n / 200).wrapping_mul(7919) % 5000) * 1000 + n % 200;
    for batch in [4096, 65_536] {
        let began = Instant::now();
        let (mut slowest, mut at) = (Duration::ZERO, 0);
        while at < 1_000_000 {
            let upto = (at + batch).min(1_000_000);
            let mut hashes = (at..upto).map(|n| (stamp(inode(n)), Digest([n as u8; 32]))).collect();
            let one = Instant::now();
            cache.keep(&mut hashes, 20_000).unwrap();
            slowest = slowest.max(one.elapsed());
            at = upto;
        }
        let size = fs::metadata(state.path().join(CACHE_FILE)).unwrap().len();
        eprintln!("batches of {batch}: {:?}, slowest {slowest:?}, {} KiB", began.elapsed(), size >> 10);
    }
    assert_eq!(cache.len(), 1_000_000);
    let began = Instant::now();
    let stamps: Vec<_> = (0..1_000_000).map(|n| stamp(inode(n))).collect();
    let found = stamps.chunks(32).flat_map(|chunk| cache.find(chunk)).filter(Option::is_some).count();
    eprintln!("{found} found in {:?}", began.elapsed());
    let began = Instant::now();
    cache.sweep(20_050, 900_000).unwrap();
    eprintln!("100,000 swept in {:?}", began.elapsed());
    drop(cache);
    let size = || fs::metadata(state.path().join(CACHE_FILE)).unwrap().len() >> 10;
    eprintln!("closed: {} KiB", size());
    let began = Instant::now();
    drop(HashCache::open(state.path()).unwrap());
    eprintln!("opened and closed in {:?}, {} KiB", began.elapsed(), size());
}

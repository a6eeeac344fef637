use std::sync::atomic::Ordering::Relaxed;

use me_sync_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};

use super::super::outline::A_FILE;
use super::*;

fn hash(source: Source, cache: Option<&HashCache>, late: &Late) -> (Hashed, HashProgress) {
    let progress = HashProgress::default();
    let threads = NonZeroUsize::new(2).unwrap();
    let hashed = source.hash_or_outline(threads, cache, &progress, &AtomicBool::new(false), late).unwrap();
    (hashed, progress)
}

/// An importer is there before anything is hashed.
fn wanted(from: u64) -> Late {
    let late = Late::from(from);
    late.want();
    late
}

fn outline(source: Source) -> Outline {
    let (Hashed::Outline(outline), _) = hash(source, None, &wanted(0)) else { panic!("hashed all of it") };
    *outline
}

fn whole(source: Source) -> Snapshot {
    let (Hashed::Whole(snapshot), _) = hash(source, None, &Late::from(0)) else { panic!("nobody wants an outline") };
    *snapshot
}

fn tree() -> Ground {
    let ground = Ground::new();
    for (path, size) in [("a", 3000), ("d/b", 2 << 20), ("d/c", 0), ("z", 7)] {
        ground.file(path, vec![7; size]);
    }
    ground
}

// SPEC §5.10
#[test]
fn an_outline_serves_the_files_and_the_hashes_found_on_the_way_are_not_made_again() {
    let ground = tree();
    let outline = outline(ground.scan().unwrap());
    let snapshot = outline.snapshot().clone();
    let mut learned = vec![None; snapshot.manifest().len() as usize];
    assert!(snapshot.manifest().is_outline());
    assert_eq!(serve(&snapshot, "a").unwrap(), vec![7; 3000]);
    let bytes = serve(&snapshot, "d/b").unwrap();
    learned[index_of(&snapshot, "d/b").at()] = Some(Digest(Sha256::digest(&bytes).into()));
    // it could not be read any more
    fs::remove_file(ground.root.join("d/b")).unwrap();
    let sealed = whole(outline.into_source(learned));
    assert_eq!(sealed.manifest().outline_sha256(), snapshot.manifest().sha256());
    let other = tree().snapshot();
    let digests = |snapshot: &Snapshot| -> Vec<_> { snapshot.manifest().entries().map(|(_, e)| e.sha256()).collect() };
    assert_eq!(digests(&sealed), digests(&other));
}

#[test]
fn a_little_rest_is_hashed_at_once_and_so_is_everything_that_the_cache_knows() {
    let ground = tree();
    let bytes = ground.scan().unwrap().summary().bytes;
    let work = bytes + 4 * A_FILE;
    let (hashed, progress) = hash(ground.scan().unwrap(), None, &wanted(work));
    assert!(matches!(hashed, Hashed::Whole(_)));
    assert_eq!((progress.bytes_done.load(Relaxed), progress.files_done.load(Relaxed)), (bytes, 4));
    let (hashed, _) = hash(ground.scan().unwrap(), None, &wanted(work - 1));
    assert!(matches!(hashed, Hashed::Outline(_)));
    let (hashed, _) = hash(ground.scan().unwrap(), None, &Late::never());
    assert!(matches!(hashed, Hashed::Whole(_)));
    let state = tempfile::tempdir().unwrap();
    let cache = HashCache::open(state.path()).unwrap();
    // what lanes find is as good as what hashing finds
    let (keeper, kept) = HashKeeper::new();
    let snapshot = outline(ground.scan().unwrap()).snapshot().clone();
    let mut fresh = Vec::new();
    for path in ["a", "d/b", "d/c", "z"] {
        while fresh.last().is_none_or(|(done, _)| *done != path) {
            let mut file = snapshot.reader().open(index_of(&snapshot, path)).unwrap();
            let digest = Digest(Sha256::digest(read_all(&mut file).unwrap()).into());
            // none as long as it was written a moment ago
            fresh.extend(file.finish_hashed(digest).unwrap().map(|hash| (path, hash)));
        }
    }
    keeper.keep(&fresh.iter().map(|(_, hash)| *hash).collect::<Vec<_>>());
    drop(keeper);
    cache.write_kept(&kept);
    let (hashed, progress) = hash(ground.scan().unwrap(), Some(&cache), &wanted(0));
    assert!(matches!(hashed, Hashed::Whole(_)));
    assert_eq!(progress.files_done.load(Relaxed), 4);
    let Hashed::Whole(snapshot) = hashed else { return };
    assert_eq!(snapshot.manifest().sha256(), ground.snapshot().manifest().sha256());
}

#[test]
fn what_changed_right_after_the_walk_is_not_sent_as_what_it_was() {
    let ground = tree();
    let source = ground.scan().unwrap();
    ground.file("a", "after the walk");
    let outline = outline(source);
    assert!(matches!(serve(outline.snapshot(), "a"), Err(ReadError::Changed { .. })));
    assert!(serve(outline.snapshot(), "z").is_ok());
}

#[test]
fn the_outline_of_an_older_walk_has_files_as_they_are_and_not_as_the_walk_saw_them() {
    let ground = tree();
    let mut source = ground.scan().unwrap();
    source.walked = source.walked.checked_sub(2 * super::super::outline::FRESH).unwrap();
    ground.file("a", "after the walk");
    fs::remove_file(ground.root.join("z")).unwrap();
    let outline = outline(source);
    assert_eq!(serve(outline.snapshot(), "a").unwrap(), b"after the walk");
    assert!(matches!(serve(outline.snapshot(), "z"), Err(ReadError::Changed { .. })));
    // what is gone is a reason to fail when its hash is due
    let threads = NonZeroUsize::MIN;
    let rest = outline.into_source(Vec::new()).hash(threads, None, &HashProgress::default(), &AtomicBool::new(false));
    assert!(matches!(rest, Err(SourceError::Changed { .. })));
}

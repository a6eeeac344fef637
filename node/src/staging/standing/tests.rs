//! Claims about a tree that is there already.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::super::testing::{Place as Ground, SMALL, files, fill, image, indices};
use super::super::{SealError, SessionState};
use super::*;

fn reuse(ground: &Ground, staging: &Staging) -> (Vec<EntryIndex>, u64) {
    let read = AtomicU64::new(0);
    let threads = NonZeroUsize::new(2).unwrap();
    let taken = staging.reuse(&ground.state, threads, &AtomicBool::new(false), &read).unwrap();
    (indices(&taken), read.into_inner())
}

/// Waits until the files of the target are old enough for what is read of them to be remembered.
fn settle(ground: &Ground) {
    let newest = |root: &std::path::Path| {
        image(root, false)
            .into_keys()
            .map(|at| fs::symlink_metadata(root.join(at)).unwrap())
            .map(|meta| (meta.ctime(), meta.ctime_nsec()))
            .max()
    };
    let (secs, nanos) = newest(&ground.target()).unwrap();
    let then = std::time::UNIX_EPOCH + std::time::Duration::new(secs.unsigned_abs(), u32::try_from(nanos).unwrap());
    while then.elapsed().unwrap_or_default() < std::time::Duration::from_millis(60) {
        std::thread::yield_now();
    }
}

#[test]
fn an_unchanged_tree_is_read_once_where_it_stands_and_then_not_again() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    settle(&ground);
    // as after the loss of the state directory
    fs::remove_dir_all(ground.state.path().join("trees")).unwrap();
    let before = image(&ground.target(), true);
    for (session, bytes) in [(2, 22), (3, 0), (4, 0)] {
        let staging = ground.created(session, SMALL);
        assert_eq!(reuse(&ground, &staging), (files(SMALL), bytes), "session {session}");
        assert!(staging.is_standing());
        assert_eq!(image(&staging.path(), false).len(), 1, "neither a copy nor a directory for one");
        let mut applied = staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
        assert!(applied.unchanged && applied.retained.is_none());
        applied.commit().unwrap();
        drop(applied);
        assert_eq!((image(&ground.target(), true), ground.names()), (before.clone(), vec!["t".to_owned()]));
    }
    assert_eq!(ground.states().iter().filter(|state| **state == SessionState::Cleaned).count(), 3);
}

#[test]
fn what_is_on_record_as_another_content_is_not_read_to_be_found_wrong() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    settle(&ground);
    let staging = ground.empty(2, SMALL);
    reuse(&ground, &staging);
    staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    // same sizes, one other content
    let mut other = SMALL.to_vec();
    other[2].1 = super::super::testing::Thing::File(b"DEEP content", 0o444);
    let staging = ground.created(3, &other);
    let (taken, read) = reuse(&ground, &staging);
    assert!(!staging.is_standing());
    assert_eq!((taken, read), (vec![EntryIndex(4), EntryIndex(6)], 10), "only `run` was read, to be copied");
}

#[test]
fn a_tree_that_changes_after_it_was_looked_at_has_to_come_as_a_whole() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    let staging = ground.created(2, SMALL);
    assert_eq!(reuse(&ground, &staging).0, files(SMALL));
    fs::write(ground.target().join("new"), "x").unwrap();
    let Err(SealError::Unstaged { staging, entries, .. }) = staging.seal(&mut |_| ()) else { panic!("sealed") };
    assert_eq!(entries, files(SMALL));
    assert!(!staging.is_standing());
    fill(&staging, SMALL);
    ground.applies(*staging);
}

#[test]
fn a_tree_that_changes_after_the_last_look_is_left_as_it_is() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    let staging = ground.created(2, SMALL);
    reuse(&ground, &staging);
    let sealed = staging.seal(&mut |_| ()).unwrap();
    fs::write(ground.target().join("new"), "x").unwrap();
    assert!(sealed.swap(&mut ()).unwrap().unchanged);
    assert_eq!(fs::read(ground.target().join("new")).unwrap(), b"x");
    assert_eq!(ground.names(), ["t"]);
}

#[test]
fn with_something_staged_the_rest_is_copied_to_it() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    let staging = ground.empty(2, SMALL);
    super::super::testing::fill_one(&staging, SMALL, EntryIndex(2));
    let (taken, _) = reuse(&ground, &staging);
    assert_eq!(taken, [EntryIndex(4), EntryIndex(6)]);
    assert!(!staging.is_standing());
    ground.applies(staging);
}

//! Claims about what is taken from this device instead of the network, and what never is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::super::testing::{
    Place as Ground, SMALL, Thing, files, fill_one, image, indices, reflinking, remove, survey, tmpfs,
};
use super::super::{SessionState, rollback};
use super::*;

const DEEP: EntryIndex = EntryIndex(2);

fn reuse(ground: &Ground, staging: &Staging) -> (Vec<EntryIndex>, u64) {
    let read = AtomicU64::new(0);
    let threads = NonZeroUsize::new(2).unwrap();
    let taken = staging.reuse(&ground.state, threads, &AtomicBool::new(false), &read).unwrap();
    (indices(&taken), read.into_inner())
}

#[test]
fn what_is_unchanged_is_taken_whole_and_shares_nothing_with_the_old_tree() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    // or nothing would be replaced
    fs::write(ground.target().join("only here"), "x").unwrap();
    let before = image(&ground.target(), true);
    let staging = ground.empty(2, SMALL);
    let (taken, read) = reuse(&ground, &staging);
    assert_eq!((taken, read), (files(SMALL), 22));
    assert_eq!(reuse(&ground, &staging).0, [], "what is finished is not taken twice");
    let of = |root: &Path| fs::metadata(root.join("a/b/deep")).unwrap();
    let (old, new) = (of(&ground.target()), of(&staging.path()));
    assert!(old.ino() != new.ino() && (old.nlink(), new.nlink()) == (1, 1));
    assert_eq!(image(&ground.target(), true), before);
    ground.applies(staging);
    assert!(!ground.target().join("only here").exists());
    fs::write(ground.target().join("run"), "edited").unwrap();
    rollback(&ground.state, &ground.target()).unwrap();
    assert_eq!(image(&ground.target(), true), before);
}

#[test]
fn only_the_declared_bytes_are_taken_whatever_size_and_time_say() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    let at = ground.target().join("run");
    let time = fs::metadata(&at).unwrap().modified().unwrap();
    fs::write(&at, "#!/bin/sH\n").unwrap();
    fs::File::options().write(true).open(&at).unwrap().set_modified(time).unwrap();
    let deep = ground.target().join("a/b/deep");
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&deep, "longer than deep content").unwrap();
    let staging = ground.empty(2, SMALL);
    assert_eq!(reuse(&ground, &staging).0, [EntryIndex(4)]);
    assert_eq!(image(&staging.path(), false).len(), 5, "nothing wrong is left: {:?}", image(&staging.path(), false));
    for index in [DEEP, EntryIndex(6)] {
        fill_one(&staging, SMALL, index);
    }
    ground.applies(staging);
}

// RELIABILITY A01-A03
#[test]
fn nothing_is_followed_out_of_the_old_tree() {
    let ground = Ground::with_old();
    let outside = ground.tmp.path().join("outside");
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::write(outside.join("b/deep"), "deep content").unwrap();
    fs::write(outside.join("zero"), "").unwrap();
    fs::write(outside.join("run"), "#!/bin/sh\n").unwrap();
    let target = ground.target();
    // a directory and a file that are symlinks to the right bytes
    symlink(&outside, target.join("a")).unwrap();
    symlink(outside.join("run"), target.join("run")).unwrap();
    let staging = ground.empty(1, SMALL);
    assert_eq!(reuse(&ground, &staging), (vec![], 0));
}

// a FIFO would wait, a device would act
#[test]
fn a_second_name_in_the_old_tree_is_copied_and_special_files_are_passed_over() {
    let ground = Ground::with_old();
    let target = ground.target();
    fs::create_dir_all(target.join("a/b")).unwrap();
    fs::write(target.join("a/b/deep"), "deep content").unwrap();
    fs::hard_link(target.join("a/b/deep"), ground.tmp.path().join("second")).unwrap();
    for (name, kind) in [("run", rustix::fs::FileType::Fifo), ("a/zero", rustix::fs::FileType::Socket)] {
        rustix::fs::mknodat(rustix::fs::CWD, target.join(name), kind, rustix::fs::Mode::RWXU, 0).unwrap();
    }
    let staging = ground.empty(1, SMALL);
    assert_eq!(reuse(&ground, &staging), (vec![DEEP], 12));
    let staged = fs::metadata(staging.path().join("a/b/deep")).unwrap();
    assert_eq!(staged.nlink(), 1);
    assert_eq!(fs::metadata(target.join("a/b/deep")).unwrap().nlink(), 2);
}

#[test]
fn a_file_system_mounted_in_the_old_tree_since_is_not_read() {
    let ground = Ground::with_old();
    fs::create_dir_all(ground.target().join("a/b")).unwrap();
    let staging = ground.empty(1, SMALL);
    let Some(_mounted) = tmpfs(&ground.target().join("a"), "size=64k") else { return };
    fs::create_dir(ground.target().join("a/b")).unwrap();
    fs::write(ground.target().join("a/b/deep"), "deep content").unwrap();
    assert_eq!(reuse(&ground, &staging), (vec![], 0));
}

const CHANGED: &[(&str, Thing)] = &[
    ("a", Thing::Dir(0o755)),
    ("a/b", Thing::Dir(0o755)),
    ("a/b/deep", Thing::File(b"deep content", 0o600)),
    ("a/zero", Thing::File(b"not zero", 0o640)),
    ("gone", Thing::File(b"was here", 0o600)),
    ("run", Thing::File(b"#!/bin/sH\n", 0o755)),
];

// RELIABILITY F64
#[test]
fn what_an_unfinished_session_holds_is_moved_and_that_session_is_over() {
    let ground = Ground::with_old();
    let first = ground.staged(1, CHANGED);
    let inode = fs::metadata(first.path().join("a/b/deep")).unwrap().ino();
    let first_path = first.path();
    first.suspend();
    let staging = ground.empty(2, SMALL);
    assert_eq!(staging.predecessors(&ground.state).unwrap(), [SessionId([1; 16])]);
    // same size, other bytes: moved, read, removed
    let (taken, read) = reuse(&ground, &staging);
    assert_eq!((taken, read), (vec![DEEP], 22));
    assert_eq!(fs::metadata(staging.path().join("a/b/deep")).unwrap().ino(), inode);
    assert!(!staging.path().join("run").exists() && !first_path.exists());
    let record = &ground.state.sessions().unwrap()[0];
    assert_eq!((record.state, record.code), (SessionState::Failed, Some(Code::ManifestChanged)));
    assert_eq!(staging.predecessors(&ground.state).unwrap(), []);
    // and it is found again after a restart
    staging.suspend();
    let staging = ground.reopen(2).unwrap();
    assert_eq!(indices(&survey(&staging).0.ok), [DEEP]);
    for index in [EntryIndex(4), EntryIndex(6)] {
        fill_one(&staging, SMALL, index);
    }
    ground.applies(staging);
}

#[test]
fn a_session_that_somebody_works_on_or_whose_tree_is_gone_or_another_gives_nothing() {
    let ground = Ground::with_old();
    let first = ground.staged(1, SMALL);
    let path = first.path();
    first.suspend();
    let staging = ground.empty(2, SMALL);
    let working = ground.state.lock_session(SessionId([1; 16])).unwrap();
    assert_eq!(reuse(&ground, &staging).0, []);
    drop(working);
    let root = fs::File::open(&path).unwrap();
    assert_eq!(lock::exclusive(&root).unwrap(), Lock::Held);
    assert_eq!(reuse(&ground, &staging).0, []);
    drop(root);
    let moved = ground.tmp.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    assert_eq!(reuse(&ground, &staging).0, []);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("run"), "#!/bin/sh\n").unwrap();
    assert_eq!(reuse(&ground, &staging).0, []);
    assert!(path.join("run").exists());
    remove(&path);
    fs::rename(&moved, &path).unwrap();
    assert_eq!(ground.states()[0], SessionState::Receiving, "it was never ended");
    assert_eq!(reuse(&ground, &staging).0, files(SMALL));
    ground.applies(staging);
}

#[test]
fn a_beginning_is_not_replaced_by_a_guess() {
    let ground = Ground::new();
    ground.migrate(1, SMALL);
    let staging = ground.empty(2, SMALL);
    let mut file = staging.writer().create(DEEP).unwrap();
    file.write(b"deep").unwrap();
    file.suspend().unwrap();
    assert_eq!(reuse(&ground, &staging).0, [EntryIndex(4), EntryIndex(6)]);
    let mut file = staging.writer().resume(DEEP, 4).unwrap();
    file.write(b" content").unwrap();
    file.finish().unwrap();
    ground.applies(staging);
}

#[test]
fn stopped_it_ends_without_ending_the_other_session() {
    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    let staging = ground.empty(2, SMALL);
    let err = staging.reuse(&ground.state, NonZeroUsize::MIN, &AtomicBool::new(true), &AtomicU64::new(0)).unwrap_err();
    assert!(matches!(err, StageError::Stopped), "{err}");
    assert_eq!(ground.states(), [SessionState::Receiving, SessionState::Receiving]);
    assert_eq!(reuse(&ground, &staging).0, files(SMALL));
}

#[test]
fn where_files_can_share_their_blocks_a_copy_takes_no_room() {
    static BIG: [u8; 8 << 20] = [0x5a; 8 << 20];
    static OTHER: [u8; 8 << 20] = [0xa5; 8 << 20];
    let ground = Ground::new();
    let Some(_mounted) = reflinking(&ground.parent(), &ground.tmp.path().join("disk")) else { return };
    ground.migrate(1, &[("big", Thing::File(&BIG, 0o600)), ("changed", Thing::File(&OTHER, 0o600))]);
    // touched, so that nothing is known of it whatever its content
    fs::write(ground.target().join("changed"), OTHER.as_slice()).unwrap();
    let staging = ground.empty(2, &[("big", Thing::File(&BIG, 0o600)), ("changed", Thing::File(&BIG, 0o600))]);
    let free = || {
        staging.checkpoint().unwrap();
        let fs = rustix::fs::statvfs(ground.parent()).unwrap();
        fs.f_bfree * fs.f_frsize
    };
    let before = free();
    // both are read, one is the right one
    assert_eq!(reuse(&ground, &staging), (vec![EntryIndex(0)], 16 << 20));
    assert!(before.saturating_sub(free()) < 2 << 20, "{before} {}", free());
    assert!(!staging.path().join("changed").exists());
    // writing one of them does not change the other
    fs::write(ground.target().join("big"), "edited").unwrap();
    assert!(fs::read(staging.path().join("big")).unwrap() == BIG);
}

// RELIABILITY F19
#[test]
fn a_disk_that_is_too_small_for_the_copy_is_an_error_and_leaves_no_part_of_it() {
    static BIG: [u8; 2 << 20] = [1; 2 << 20];
    let things = [("big", Thing::File(&BIG, 0o600))];
    let ground = Ground::new();
    let Some(_mount) = tmpfs(&ground.parent(), "size=5m") else { return };
    ground.migrate(1, &things);
    // or all of it would count where it stands
    fs::write(ground.target().join("only here"), "x").unwrap();
    let staging = ground.empty(2, &things);
    fs::write(ground.parent().join("filler"), vec![0; 2 << 20]).unwrap();
    let reused = staging.reuse(&ground.state, NonZeroUsize::MIN, &AtomicBool::new(false), &AtomicU64::new(0));
    assert_eq!(reused.unwrap_err().code(), Code::NoSpace);
    assert_eq!(image(&staging.path(), false).len(), 1);
    assert_eq!(fs::read(ground.target().join("big")).unwrap(), BIG);
}

// RELIABILITY F18, F64
#[test]
fn what_an_unfinished_session_holds_counts_as_space_for_the_next() {
    static BIG: [u8; 2 << 20] = [1; 2 << 20];
    let things = [("big", Thing::File(&BIG, 0o600))];
    let ground = Ground::new();
    let Some(_mount) = tmpfs(&ground.parent(), "size=3500k") else { return };
    ground.staged(1, &things).suspend();
    let mut target = ground.pin();
    let refused = target.check_manifest(&super::super::testing::manifest(&things)).unwrap_err();
    assert_eq!(refused.code(), Code::NoSpace);
    target.count_held(&ground.state).unwrap();
    assert!(target.check_manifest(&super::super::testing::manifest(&things)).is_ok());
}

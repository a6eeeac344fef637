//! Claims about what is remembered of a tree, and when it counts.

use std::fs;

use super::super::testing::{Place as Ground, SMALL, manifest};
use super::*;

const DEEP: EntryIndex = EntryIndex(2);

/// A tree of two files in place of `SMALL`'s, left alone for long.
fn settled(ground: &Ground) -> (Identity, Draft) {
    ground.migrate(1, SMALL);
    let stamps = Stamps::none_of(manifest(SMALL).len());
    for (index, name) in [(2, "a/b/deep"), (4, "a/zero")] {
        let inode = Inode::of(File::open(ground.target().join(name)).unwrap()).unwrap();
        stamps.set(EntryIndex(index), FileStamp::of(&inode));
    }
    let root = Inode::of(File::open(ground.target()).unwrap()).unwrap().identity();
    // the clock of files may be a tick behind
    while i64::try_from(wall_ms()).unwrap() * 1_000_000 < stamps.of(DEEP).unwrap().ctime() + 2 * SETTLED_NS {
        std::thread::yield_now();
    }
    (root, Draft { manifest: manifest(SMALL), stamps: Arc::new(stamps) })
}

fn look(ground: &Ground, root: Identity, name: &str) -> Option<Digest> {
    let known = Known::load(ground.state.path(), &ground.target(), root);
    known.sha256(&Inode::of(File::open(ground.target().join(name)).unwrap()).unwrap())
}

#[test]
fn what_was_kept_is_known_of_that_file_and_of_no_other() {
    let ground = Ground::new();
    let (root, draft) = settled(&ground);
    draft.keep(ground.state.path(), &ground.target(), root);
    assert_eq!(look(&ground, root, "a/b/deep"), Some(Digest::of(b"deep content")));
    assert_eq!(look(&ground, root, "a/zero"), Some(Digest::of(b"")));
    assert_eq!(look(&ground, root, "run"), None, "nothing was said of it");
    let mode = fs::metadata(ground.target().join("a/zero")).unwrap().permissions();
    fs::set_permissions(ground.target().join("a/zero"), mode).unwrap();
    assert_eq!(look(&ground, root, "a/zero"), None, "its change time moved");
    assert_eq!(look(&ground, Identity { ino: root.ino + 1, ..root }, "a/b/deep"), None, "another tree");
    let elsewhere = Known::load(ground.state.path(), &ground.parent(), root);
    assert_eq!(elsewhere.rows, [], "another target");
}

#[test]
fn a_file_that_was_changed_a_moment_ago_is_not_remembered() {
    let ground = Ground::new();
    let (root, draft) = settled(&ground);
    let ahead = FileStamp::from_bytes([[0; 8], i64::MAX.to_be_bytes()].concat().try_into().unwrap());
    draft.stamps.set(
        DEEP,
        FileStamp::from_bytes([[0, 0, 0, 0, 0, 0, 0, 9], ahead.ctime().to_be_bytes()].concat().try_into().unwrap()),
    );
    draft.keep(ground.state.path(), &ground.target(), root);
    let known = Known::load(ground.state.path(), &ground.target(), root);
    assert_eq!(known.rows.len(), 1);
    assert_eq!(look(&ground, root, "a/zero"), Some(Digest::of(b"")));
}

#[test]
fn every_damage_of_a_record_leaves_nothing_known() {
    let ground = Ground::new();
    let (root, draft) = settled(&ground);
    draft.keep(ground.state.path(), &ground.target(), root);
    let path = path_of(ground.state.path(), &ground.target());
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), HEAD + 2 * ROW + Digest::LEN);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert_eq!(Known::load(ground.state.path(), &ground.target(), root).rows, [], "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(Known::load(ground.state.path(), &ground.target(), root).rows, [], "cut at {at}");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(Known::load(ground.state.path(), &ground.target(), root).rows.len(), 2);
}

#[test]
fn of_too_many_records_the_oldest_go_and_a_state_directory_that_cannot_be_written_is_no_failure() {
    let ground = Ground::new();
    let (root, draft) = settled(&ground);
    let dir = ground.state.path().join(DIR);
    for n in 0..MAX_RECORDS + 3 {
        draft.keep(ground.state.path(), &ground.parent().join(n.to_string()), root);
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), MAX_RECORDS);
    let last = Known::load(ground.state.path(), &ground.parent().join((MAX_RECORDS + 2).to_string()), root);
    assert_eq!(last.rows.len(), 2);
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "in the way").unwrap();
    draft.keep(ground.state.path(), &ground.target(), root);
    assert_eq!(look(&ground, root, "a/b/deep"), None);
}

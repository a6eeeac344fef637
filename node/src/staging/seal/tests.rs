//! Claims about trees that somebody changed before they were sealed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use me_sync_protocol::reason::FailureReason;

use super::super::testing::{Place, SMALL, Thing, files, fill_one, image, remove};
use super::super::{SessionState, StagingWriter};
use super::*;

/// Seals, expecting that these files are to be received again.
fn unstaged(staging: Staging) -> (Staging, Vec<EntryIndex>, StageError) {
    match staging.seal(&mut |_| ()) {
        Err(SealError::Unstaged { staging, entries, error }) => (*staging, entries, error),
        other => panic!("{other:?}"),
    }
}

/// The files are received again and the tree is applied.
fn completes(place: &Place, staging: Staging, entries: &[EntryIndex]) {
    entries.iter().for_each(|index| fill_one(&staging, SMALL, *index));
    staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    let reference = Place::new();
    reference.migrate(9, SMALL);
    assert_eq!(image(&place.target(), true), image(&reference.target(), true));
}

// RELIABILITY F28
#[test]
fn a_staging_tree_that_a_cleaner_deleted_is_filled_again() {
    let place = Place::with_old();
    let before = image(&place.target(), true);
    let staging = place.staged(1, SMALL);
    let durable = staging.checkpointer();
    let mut writer = staging.writer();
    let old_path = staging.path();
    remove(&old_path);
    let (staging, entries, error) = unstaged(staging);
    assert_eq!((entries.clone(), error.code()), (files(SMALL), Code::ManifestMismatch));
    assert_eq!(image(&place.target(), true), before);
    assert!(staging.path().is_dir() && staging.path() != old_path && !old_path.exists());
    assert_eq!(durable.run(&entries).unwrap(), [], "nothing of it is durable any more");
    // a writer of the deleted tree must not write into the new one
    assert!(matches!(writer.create(entries[0]), Err(StageError::Sealed)));
    completes(&place, staging, &entries);
    assert_eq!(durable.run(&entries).unwrap().len(), entries.len(), "the checkpointer is still good");
}

// RELIABILITY F28
#[test]
fn only_what_was_deleted_is_asked_for_again() {
    let place = Place::with_old();
    let staging = place.staged(1, SMALL);
    let kept = fs::metadata(staging.path().join("run")).unwrap().ino();
    remove(&staging.path().join("a"));
    let (staging, entries, _) = unstaged(staging);
    assert_eq!(entries, [EntryIndex(2), EntryIndex(4)]);
    assert!(staging.path().join("a/empty").is_dir());
    completes(&place, staging, &entries);
    assert_eq!(fs::metadata(place.target().join("run")).unwrap().ino(), kept);
}

#[test]
fn directories_that_were_deleted_are_just_made_again() {
    let place = Place::with_old();
    let staging = place.staged(1, SMALL);
    remove(&staging.path().join("a/empty"));
    completes(&place, staging, &[]);
}

// RELIABILITY F29
#[test]
fn a_byte_flipped_in_a_finished_file_is_found_and_the_file_asked_for_again() {
    let place = Place::with_old();
    let staging = place.staged(1, SMALL);
    fs::write(staging.path().join("run"), "#!/bin/sH\n").unwrap();
    let (staging, entries, error) = unstaged(staging);
    assert_eq!((error.code(), error.reason()), (Code::HashMismatch, FailureReason::HashMismatch));
    assert_eq!(entries, [EntryIndex(6)]);
    assert!(!staging.path().join("run").exists());
    completes(&place, staging, &entries);
}

#[test]
fn all_wrong_files_are_named_at_once_whatever_is_wrong_with_them() {
    let place = Place::with_old();
    let staging = place.staged(1, SMALL);
    let outside = place.tmp.path().join("outside");
    fs::hard_link(staging.path().join("run"), &outside).unwrap();
    fs::remove_file(staging.path().join("a/zero")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", staging.path().join("a/zero")).unwrap();
    fs::remove_file(staging.path().join("a/b/deep")).unwrap();
    let (staging, entries, _) = unstaged(staging);
    assert_eq!(entries, files(SMALL));
    assert_eq!(fs::read(&outside).unwrap(), b"#!/bin/sh\n", "a second name elsewhere is not ours");
    completes(&place, staging, &entries);
    assert!(fs::metadata("/etc/passwd").unwrap().len() > 0);
}

#[test]
fn a_file_that_was_not_received_to_its_end_is_asked_for_again() {
    let place = Place::with_old();
    let staging = place.empty(1, SMALL);
    for index in [EntryIndex(4), EntryIndex(6)] {
        fill_one(&staging, SMALL, index);
    }
    let mut file = staging.writer().create(EntryIndex(2)).unwrap();
    file.write(b"deep").unwrap();
    file.suspend().unwrap();
    let (staging, entries, _) = unstaged(staging);
    assert_eq!(entries, [EntryIndex(2)]);
    let writer = |staging: &Staging| -> StagingWriter { staging.writer() };
    // what was put aside for the sealed tree is gone
    assert!(matches!(writer(&staging).resume(EntryIndex(2), 4), Err(StageError::NoPartial { .. })));
    completes(&place, staging, &entries);
}

#[test]
fn directories_without_rights_can_be_filled_again_and_get_their_modes_at_the_end() {
    const CLOSED: &[(&str, Thing)] =
        &[("d", Thing::Dir(0)), ("d/e", Thing::Dir(0o111)), ("d/e/f", Thing::File(b"1", 0)), ("d/g", Thing::Dir(0))];
    let place = Place::with_old();
    let staging = place.staged(1, CLOSED);
    fs::set_permissions(staging.path().join("d/e/f"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(staging.path().join("d/e/f"), "2").unwrap();
    let (staging, entries, _) = unstaged(staging);
    let mode = |at: &Path| fs::metadata(at).unwrap().mode() & 0o777;
    for dir in ["", "d", "d/e", "d/g"] {
        assert_eq!(mode(&staging.path().join(dir)) & 0o700, 0o700, "{dir}");
    }
    fill_one(&staging, CLOSED, entries[0]);
    staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    let closed = place.target().join("d");
    assert_eq!(mode(&closed), 0);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!((mode(&closed.join("e")), mode(&closed.join("g"))), (0o111, 0));
}

// RELIABILITY F22
#[test]
fn a_flush_that_failed_once_is_never_believed_again() {
    let place = Place::with_old();
    let staging = place.staged(1, SMALL);
    let checkpointer = staging.checkpointer();
    staging.shared.flush.fail_for_test();
    assert_eq!(checkpointer.run(&files(SMALL)).unwrap_err().code(), Code::IoError);
    assert!(matches!(staging.checkpoint(), Err(StageError::Sync { err: None, .. })));
    assert!(matches!(staging.seal(&mut |_| ()), Err(SealError::Failed(StageError::Sync { .. }))));
    assert_eq!((place.names(), place.states()), (vec!["t".to_owned()], vec![SessionState::Failed]));
}

//! Claims about a whole migration on a real file system.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use me_sync_protocol::ids::{EntryIndex, SessionId};
use me_sync_protocol::reason::{Code, FailureReason};

use super::super::testing::{Place, SMALL, Thing, image, is_root, manifest, remove, survey, tmpfs};
use super::super::{
    PreflightError, RollbackError, RolledBack, SealError, SessionInfo, Staging, Target, TargetOptions, recover,
    rollback, rollback_session,
};
use super::*;

fn sealed(place: &Place, session: u8) -> SealedStaging {
    place.staged(session, SMALL).seal(&mut |_| ()).unwrap()
}

#[test]
fn an_existing_target_is_replaced_whole_and_rollback_brings_it_back_identical() {
    let place = Place::with_old();
    let before = image(&place.target(), true);
    let mut applied = sealed(&place, 1).swap(&mut ()).unwrap();
    applied.commit().unwrap();
    let retained = applied.retained.clone().unwrap();
    assert_eq!((applied.target_changed, applied.two_renames), (false, false));
    assert_eq!(applied.modes, ModeReport { world_writable: 1, special: 1 });
    drop(applied);
    let after = image(&place.target(), true);
    assert_eq!(after[Path::new("a/b/deep")].2, b"deep content");
    assert_eq!(after[Path::new("run")].1, 0o775, "setuid and world-write are dropped");
    assert_eq!((after[Path::new("")].1, after[Path::new("a/b")].1), (0o750, 0o555));
    assert_eq!(after[Path::new("link")].2, b"a/b/deep");
    for (n, (path, _)) in (0..).zip(SMALL) {
        assert_eq!(after[Path::new(path)].3, (1_600_000_000_000 + n * 1001) * 1_000_000 + 123_456, "{path}");
    }
    assert_eq!(image(&retained, true), before);

    let back = rollback(&place.state, &place.target()).unwrap();
    assert!(back.target_exists);
    assert_eq!(image(&place.target(), true), before);
    assert_eq!(image(&back.retained.expect("the undone tree is kept"), true), after);
    assert_eq!(place.states(), [SessionState::RolledBack]);
}

#[test]
fn a_target_that_did_not_exist_is_created_and_rollback_takes_it_away() {
    let place = Place::new();
    let mut applied = sealed(&place, 1).swap(&mut ()).unwrap();
    assert_eq!(applied.retained, None);
    applied.commit().unwrap();
    drop(applied);
    assert_eq!(place.names(), ["t"]);
    let back = rollback(&place.state, &place.target()).unwrap();
    assert!(!back.target_exists && !place.target().exists());
    let undone = back.retained.expect("the undone tree is kept");
    assert!(undone.join("run").exists());
    let again = rollback(&place.state, &place.target()).unwrap_err();
    assert_eq!(again.code(), Code::RollbackUnavailable);
    assert!(again.to_string().contains(&*undone.to_string_lossy()), "{again}");
}

#[test]
fn a_second_rollback_goes_one_migration_further_back_and_a_third_has_nothing() {
    let place = Place::with_old();
    let oldest = image(&place.target(), true);
    place.migrate(1, SMALL);
    let middle = image(&place.target(), true);
    place.migrate(2, &[("other", Thing::File(b"x", 0o600))]);
    rollback(&place.state, &place.target()).unwrap();
    assert_eq!(image(&place.target(), true), middle);
    rollback(&place.state, &place.target()).unwrap();
    assert_eq!(image(&place.target(), true), oldest);
    let none = rollback(&place.state, &place.target()).unwrap_err();
    assert!(matches!(none, RollbackError::Unavailable { .. }), "{none}");
    assert_eq!(image(&place.target(), true), oldest);
}

#[test]
fn a_rollback_that_names_its_migration_undoes_that_once_and_never_another() {
    let place = Place::with_old();
    let oldest = image(&place.target(), true);
    let (first, second) = (SessionId([1; 16]), SessionId([2; 16]));
    let ask = |session| rollback_session(&place.state, &place.target(), session);
    place.migrate(1, SMALL);
    let middle = image(&place.target(), true);
    place.migrate(2, &[("other", Thing::File(b"x", 0o600))]);
    let newest = image(&place.target(), true);
    let other = ask(first).unwrap_err();
    assert_eq!((other.code(), image(&place.target(), true)), (Code::RollbackUnavailable, newest));
    let done = ask(second).unwrap();
    assert!(done.changed, "{done:?}");
    let again = ask(second).unwrap();
    assert_eq!(again, RolledBack { changed: false, ..done });
    assert_eq!(image(&place.target(), true), middle);
    assert!(ask(first).unwrap().changed);
    for session in [first, second] {
        assert!(!ask(session).unwrap().changed);
        assert_eq!(image(&place.target(), true), oldest);
    }
    // a directory that it never wrote
    let elsewhere = rollback_session(&place.state, &place.target().join("a"), first).unwrap_err();
    assert_eq!(elsewhere.code(), Code::RollbackUnavailable);
    // and where there was nothing before
    let place = Place::new();
    place.migrate(1, SMALL);
    for changed in [true, false] {
        let done = rollback_session(&place.state, &place.target(), first).unwrap();
        assert_eq!((done.changed, done.target_exists, place.target().exists()), (changed, false, false));
    }
}

#[test]
fn a_target_that_was_deleted_comes_back_as_it_was_before_the_last_migration_into_it() {
    let place = Place::with_old();
    let oldest = image(&place.target(), true);
    place.migrate(1, SMALL);
    let middle = image(&place.target(), true);
    place.migrate(2, &[("other", Thing::File(b"x", 0o600))]);
    remove(&place.target());
    let back = rollback(&place.state, &place.target()).unwrap();
    assert!(back.target_exists && back.retained.is_none(), "{back:?}");
    assert_eq!(image(&place.target(), true), middle);
    // the next start has nothing to say of that, and the way further back is open
    assert_eq!(recover(&place.state, std::time::SystemTime::now()), []);
    rollback(&place.state, &place.target()).unwrap();
    assert_eq!(image(&place.target(), true), oldest);
}

#[test]
fn what_took_the_place_of_a_target_is_not_touched_by_a_rollback() {
    let place = Place::with_old();
    let before = image(&place.target(), true);
    place.migrate(1, SMALL);
    remove(&place.target());
    fs::create_dir(place.target()).unwrap();
    fs::write(place.target().join("mine"), b"new").unwrap();
    let none = rollback(&place.state, &place.target()).unwrap_err();
    assert!(matches!(none, RollbackError::Unavailable { .. }), "{none}");
    assert_eq!(fs::read(place.target().join("mine")).unwrap(), b"new");
    // moved away, it makes room
    fs::rename(place.target(), place.target().with_extension("mine")).unwrap();
    rollback(&place.state, &place.target()).unwrap();
    assert_eq!(image(&place.target(), true), before);
}

/// A command after the swap that does this to the new tree, and fails.
struct Spoils(fn(&Path));

impl ApplyHooks for Spoils {
    fn checks(&self) -> bool {
        true
    }

    fn check(&mut self, swapped: &mut Swapped<'_>) -> Result<(), String> {
        (self.0)(&swapped.target());
        Err("no good".to_owned())
    }
}

#[test]
fn a_failed_command_that_took_the_new_tree_away_does_not_keep_the_old_one_from_coming_back() {
    let place = Place::with_old();
    let before = image(&place.target(), true);
    let err = sealed(&place, 1).swap(&mut Spoils(remove)).unwrap_err();
    assert!(matches!(&err, ApplyError::Health { undone: None, .. }), "{err:?}");
    assert_eq!(image(&place.target(), true), before);
    assert_eq!(place.states(), [SessionState::RolledBack]);
    assert_eq!(recover(&place.state, std::time::SystemTime::now()), []);
    assert_eq!(place.names(), ["t"]);
}

#[test]
fn a_failed_command_that_put_something_else_in_place_leaves_that_and_the_old_tree_for_a_rollback() {
    let place = Place::with_old();
    let before = image(&place.target(), true);
    let err = sealed(&place, 1)
        .swap(&mut Spoils(|target| {
            remove(target);
            fs::create_dir(target).unwrap();
        }))
        .unwrap_err();
    assert!(matches!(&err, ApplyError::HealthStuck { .. }), "{err:?}");
    assert_eq!(err.code(), Code::TargetConflict);
    // it is over: nothing tries again, and the old tree is kept as after any migration
    assert_eq!(place.states(), [SessionState::Committed]);
    assert_eq!(recover(&place.state, std::time::SystemTime::now()), []);
    fs::remove_dir(place.target()).unwrap();
    rollback(&place.state, &place.target()).unwrap();
    assert_eq!(image(&place.target(), true), before);
}

#[test]
fn the_apply_thread_does_the_same() {
    let place = Place::with_old();
    struct Name(std::sync::mpsc::Sender<Option<String>>);
    impl ApplyHooks for Name {
        fn proceed(&mut self) -> bool {
            self.0.send(std::thread::current().name().map(str::to_owned)).is_ok()
        }
    }
    let (tell, heard) = std::sync::mpsc::channel();
    let ready = sealed(&place, 1);
    on_apply_thread(move || ready.swap(&mut Name(tell))).unwrap();
    assert_eq!(heard.recv().unwrap().as_deref(), Some("apply"));
    assert!(place.target().join("run").exists());
}

#[test]
fn a_stop_at_the_last_moment_leaves_the_target_and_no_staging() {
    struct Stop;
    impl ApplyHooks for Stop {
        fn proceed(&mut self) -> bool {
            false
        }
    }
    let place = Place::with_old();
    let before = image(&place.target(), true);
    let err = sealed(&place, 1).swap(&mut Stop).unwrap_err();
    assert_eq!(err.code(), Code::Aborted);
    assert_eq!(image(&place.target(), true), before);
    assert_eq!((place.names(), place.states()), (vec!["t".to_owned()], vec![SessionState::Failed]));
}

#[test]
fn a_failed_check_brings_the_old_tree_back() {
    struct Sick;
    impl ApplyHooks for Sick {
        fn check(&mut self, swapped: &mut Swapped<'_>) -> Result<(), String> {
            assert!(swapped.target().join("run").exists(), "the new tree is in place when it is checked");
            Err("no answer".to_owned())
        }
    }
    let place = Place::with_old();
    let before = image(&place.target(), true);
    let err = sealed(&place, 1).swap(&mut Sick).unwrap_err();
    assert_eq!(err.code(), Code::HealthFailed);
    assert_eq!(image(&place.target(), true), before);
    assert_eq!(place.states(), [SessionState::RolledBack]);
}

#[test]
fn a_check_that_is_through_leaves_nothing_open() {
    struct Well;
    impl ApplyHooks for Well {
        fn checks(&self) -> bool {
            true
        }
        fn check(&mut self, swapped: &mut Swapped<'_>) -> Result<(), String> {
            assert!(swapped.retained().is_some_and(|old| old.join("old/file").exists()));
            Ok(())
        }
    }
    let place = Place::with_old();
    // without the commit that follows: the next start does that
    drop(sealed(&place, 1).swap(&mut Well).unwrap());
    assert_eq!(recover(&place.state, std::time::SystemTime::now()).len(), 1);
    assert_eq!(place.states(), [SessionState::Committed]);
    assert!(place.target().join("run").exists());
}

// RELIABILITY F73
#[test]
fn edits_during_the_transfer_are_kept_and_told_or_refused_on_request() {
    let place = Place::with_old();
    let ready = sealed(&place, 1);
    fs::write(place.target().join("old/edit"), "mine").unwrap();
    let applied = ready.swap(&mut ()).unwrap();
    assert!(applied.target_changed);
    assert_eq!(fs::read(applied.retained.unwrap().join("old/edit")).unwrap(), b"mine");

    let place = Place::with_old();
    let strict = TargetOptions { fail_if_changed: true, ..TargetOptions::default() };
    let target = Target::pin(&place.target(), &strict).unwrap();
    let ready = place.staged_at(target, 1, SMALL).seal(&mut |_| ()).unwrap();
    fs::write(place.target().join("old/edit"), "mine").unwrap();
    assert_eq!(ready.swap(&mut ()).unwrap_err().code(), Code::TargetChanged);
    assert_eq!(fs::read(place.target().join("old/edit")).unwrap(), b"mine");
    assert_eq!(place.states(), [SessionState::Verified], "no intent stays behind");
    assert_eq!(recover(&place.state, std::time::SystemTime::now()), []);
    assert_eq!(fs::read(place.target().join("old/edit")).unwrap(), b"mine");
    assert_eq!(place.names().len(), 2, "the new tree is kept: {:?}", place.names());

    let id = place.state.ids().unwrap()[0];
    let staging = Staging::reopen(&place.state, id, &TargetOptions::default(), []).unwrap();
    survey(&staging);
    let applied = staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert!(applied.target_changed && place.target().join("run").exists());
    assert_eq!(fs::read(applied.retained.unwrap().join("old/edit")).unwrap(), b"mine");
}

// RELIABILITY F74, F16
#[test]
fn a_target_that_appeared_or_was_replaced_is_a_conflict_and_nothing_is_touched() {
    for existed in [false, true] {
        let place = if existed { Place::with_old() } else { Place::new() };
        let ready = sealed(&place, 1);
        if existed {
            fs::rename(place.target(), place.parent().join("moved")).unwrap();
        }
        fs::create_dir(place.target()).unwrap();
        fs::write(place.target().join("theirs"), "x").unwrap();
        let err = ready.swap(&mut ()).unwrap_err();
        assert_eq!(err.code(), Code::TargetConflict);
        assert_eq!(fs::read(place.target().join("theirs")).unwrap(), b"x");
        assert!(place.names()[0].starts_with(".me-sync-"), "the new tree is kept: {:?}", place.names());
    }
}

// RELIABILITY F74
#[test]
fn a_target_that_was_deleted_meanwhile_is_created_anew() {
    let place = Place::with_old();
    let ready = sealed(&place, 1);
    remove(&place.target());
    let applied = ready.swap(&mut ()).unwrap();
    assert_eq!(applied.retained, None);
    assert!(applied.target_changed && place.target().join("run").exists());
}

// RELIABILITY F77
#[test]
fn a_process_in_the_old_tree_stays_there_and_its_late_writes_are_kept() {
    let place = Place::with_old();
    let inside = fs::File::open(place.target().join("old")).unwrap();
    let applied = sealed(&place, 1).swap(&mut ()).unwrap();
    let late = rustix::fs::openat(
        &inside,
        "late",
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        rustix::fs::Mode::RWXU,
    );
    drop(late.unwrap());
    assert!(applied.retained.unwrap().join("old/late").exists() && !place.target().join("old").exists());
}

// RELIABILITY F69
#[test]
fn a_second_session_on_the_same_target_or_one_around_or_inside_it_is_busy() {
    for existed in [false, true] {
        let place = if existed { Place::with_old() } else { Place::new() };
        let staging = place.staged(1, SMALL);
        let pin = |path: &Path| Target::pin(path, &TargetOptions::default());
        let busy = |what: Result<Target, PreflightError>| what.unwrap_err().code() == Code::TargetBusy;
        assert!(busy(pin(&place.target())), "existed: {existed}");
        if existed {
            assert!(busy(pin(&place.target().join("old"))));
            assert!(busy(pin(&place.target().join("new"))));
        }
        // around it: found by the live staging tree inside, whatever the state directory
        assert!(busy(pin(&place.parent())));
        // a neighbour is free
        let neighbour = pin(&place.parent().join("u")).unwrap();
        let other = place.staged_at(neighbour, 2, SMALL);
        staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
        other.discard().unwrap();
        assert!(pin(&place.target()).is_ok(), "free again");
    }
}

// RELIABILITY F30
#[test]
fn anything_planted_in_staging_is_found_and_nothing_is_applied() {
    type Plant = fn(&Path);
    let plants: [(&str, Plant); 5] = [
        ("file", |at| fs::write(at.join("a/planted"), "x").unwrap()),
        ("dir", |at| fs::create_dir(at.join("planted")).unwrap()),
        ("symlink", |at| symlink("/etc", at.join("a/empty/planted")).unwrap()),
        ("fifo", |at| {
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, at.join("planted"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("dir for file", |at| {
            fs::remove_file(at.join("run")).unwrap();
            fs::create_dir(at.join("run")).unwrap();
        }),
    ];
    for (what, plant) in plants {
        let place = Place::with_old();
        let before = image(&place.target(), true);
        let staging = place.staged(1, SMALL);
        plant(&staging.path());
        let planted = staging.path();
        let err = staging.seal(&mut |_| ()).unwrap_err();
        assert_eq!(err.code(), Code::ManifestMismatch, "{what}: {err}");
        assert_eq!(image(&place.target(), true), before);
        let SealError::Foreign { staging, .. } = err else { panic!("{what}: {err}") };
        staging.keep_failed(Code::ManifestMismatch);
        assert!(planted.join("a/b/deep").exists(), "{what}: what was received is kept");
        assert_eq!(place.states(), [SessionState::Receiving]);
        assert_eq!(recover(&place.state, std::time::SystemTime::now()), []);
    }
}

// RELIABILITY F29
#[test]
fn a_mere_touch_of_a_finished_file_is_repaired() {
    let place = Place::with_old();
    let staging = place.staged(2, SMALL);
    fs::set_permissions(staging.path().join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // one that even its owner cannot open now
    fs::set_permissions(staging.path().join("a/b/deep"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert_eq!(fs::metadata(place.target().join("run")).unwrap().mode() & 0o777, 0o775);
    assert_eq!(fs::metadata(place.target().join("a/b/deep")).unwrap().mode() & 0o777, 0o444);
}

#[test]
fn a_file_that_is_open_short_or_too_long_is_refused_by_name() {
    let place = Place::with_old();
    let create = |session: u8| {
        let id = me_sync_protocol::ids::SessionId([session; 16]);
        let staging = Staging::create(place.pin(), manifest(SMALL), id, &place.state, SessionInfo::default());
        staging.unwrap().with_dirs()
    };
    let staging = create(2);
    let mut writer = staging.writer();
    let open = writer.create(EntryIndex(2)).unwrap();
    assert!(matches!(writer.create(EntryIndex(0)), Err(StageError::NotAFile { .. })));
    assert!(matches!(writer.create(EntryIndex(99)), Err(StageError::NotAFile { .. })));
    // O_EXCL: never a second writer on one file
    assert_eq!(writer.create(EntryIndex(2)).unwrap_err().reason(), FailureReason::IoError);
    assert!(matches!(staging.seal(&mut |_| ()), Err(SealError::Failed(StageError::StillWriting { open: 1 }))));
    drop(open);

    let staging = create(3);
    let mut writer = staging.writer();
    let mut file = writer.create(EntryIndex(2)).unwrap();
    file.write(b"deep").unwrap();
    assert_eq!(file.finish().unwrap_err().reason(), FailureReason::SizeMismatch);
    let mut file = writer.create(EntryIndex(2)).unwrap();
    assert_eq!(file.write(b"deep content and more").unwrap_err().reason(), FailureReason::SizeMismatch);
    file.discard().unwrap();
    assert!(!staging.path().join("a/b/deep").exists());
    staging.discard().unwrap();
    assert!(matches!(writer.create(EntryIndex(2)), Err(StageError::Sealed)));
    assert_eq!(place.names(), ["t"]);
}

// RELIABILITY F24, A95
#[test]
fn a_planted_name_or_symlink_in_the_place_of_a_file_is_never_opened() {
    let place = Place::with_old();
    let outside = place.tmp.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let id = me_sync_protocol::ids::SessionId([1; 16]);
    let staging = Staging::create(place.pin(), manifest(SMALL), id, &place.state, SessionInfo::default());
    let staging = staging.unwrap().with_dirs();
    symlink(&outside, staging.path().join("run")).unwrap();
    fs::remove_dir(staging.path().join("a/b")).unwrap();
    symlink(place.tmp.path(), staging.path().join("a/b")).unwrap();
    let mut writer = staging.writer();
    let mut file = writer.create(EntryIndex(6)).unwrap();
    file.write(b"#!/bin/sh\n").unwrap();
    file.finish().unwrap();
    assert!(fs::symlink_metadata(staging.path().join("run")).unwrap().is_file(), "it takes the symlink's place");
    assert!(writer.create(EntryIndex(2)).is_err());
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    assert!(!place.tmp.path().join("deep").exists());
    let mode = fs::metadata(staging.path()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o700);
}

// RELIABILITY F37, A34: a root without rights can be swapped, rolled back and cleaned
#[test]
fn trees_without_rights_go_through_the_whole_way() {
    let things = [("d", Thing::Dir(0)), ("d/f", Thing::File(b"1", 0))];
    let place = Place::with_old();
    place.migrate(1, &things);
    place.migrate(2, &things);
    rollback(&place.state, &place.target()).unwrap();
    let later = std::time::SystemTime::now() + super::super::KEEP_OLD * 2;
    recover(&place.state, later);
    assert_eq!(place.names(), ["t"]);
    assert_eq!(place.states(), [SessionState::Cleaned, SessionState::Cleaned]);
}

// RELIABILITY F76: a mount that appears inside the target meanwhile
#[test]
fn a_mount_that_appears_in_the_target_stops_the_swap() {
    let place = Place::with_old();
    let ready = sealed(&place, 1);
    if !is_root() {
        return;
    }
    fs::create_dir(place.target().join("mnt")).unwrap();
    let _mount = tmpfs(&place.target().join("mnt"), "size=64k");
    fs::write(place.target().join("mnt/data"), "x").unwrap();
    assert_eq!(ready.swap(&mut ()).unwrap_err().code(), Code::TargetContainsMount);
    assert_eq!(fs::read(place.target().join("mnt/data")).unwrap(), b"x");
}

// RELIABILITY F14
#[test]
fn without_an_exchange_two_renames_do_the_same_and_so_does_their_rollback() {
    for existed in [false, true] {
        let place = if existed { Place::with_old() } else { Place::new() };
        let before = existed.then(|| image(&place.target(), true));
        let mut target = place.pin();
        target.method = Method::TwoRename;
        let ready = place.staged_at(target, 1, SMALL).seal(&mut |_| ()).unwrap();
        let mut applied = ready.swap(&mut ()).unwrap();
        assert_eq!(applied.two_renames, existed);
        applied.commit().unwrap();
        let retained = applied.retained.clone();
        drop(applied);
        assert!(place.target().join("run").exists());
        assert_eq!(retained.map(|r| image(&r, true)), before);
        rollback(&place.state, &place.target()).unwrap();
        assert_eq!(place.target().exists().then(|| image(&place.target(), true)), before);
        assert_eq!(place.names().len(), if existed { 2 } else { 1 }, "{:?}", place.names());
    }
}

// RELIABILITY F19: a disk that fills up in the middle
#[test]
fn a_full_disk_fails_the_file_by_name_and_leaves_no_part_of_it() {
    let place = Place::new();
    let Some(_mount) = tmpfs(&place.parent(), "size=3m") else { return };
    fs::create_dir(place.target()).unwrap();
    static BIG: [u8; 2 << 20] = [1; 2 << 20];
    let things = [("big", Thing::File(&BIG, 0o600)), ("small", Thing::File(&[2; 1 << 16], 0o600))];
    let target = place.pin();
    target.check_manifest(&manifest(&things)).unwrap();
    let id = me_sync_protocol::ids::SessionId([1; 16]);
    let staging = Staging::create(target, manifest(&things), id, &place.state, SessionInfo::default()).unwrap();
    fs::write(place.parent().join("filler"), vec![0; 2 << 20]).unwrap();
    let mut writer = staging.writer();
    // reserved up front, so this fails before a byte is written
    let err = writer.create(EntryIndex(0)).unwrap_err();
    assert_eq!((err.code(), err.reason()), (Code::NoSpace, FailureReason::IoError), "{err}");
    assert!(!staging.path().join("big").exists());
    fs::remove_file(place.parent().join("filler")).unwrap();
    let mut file = writer.create(EntryIndex(0)).unwrap();
    file.write(&BIG).unwrap();
    file.finish().unwrap();
    let mut file = writer.create(EntryIndex(1)).unwrap();
    file.write(&[2; 1 << 16]).unwrap();
    file.finish().unwrap();
    staging.checkpoint().unwrap();
    staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert_eq!(fs::read(place.target().join("big")).unwrap(), BIG);
}

// RELIABILITY F24: no exchange without a durable intent
#[test]
fn a_journal_that_cannot_be_written_stops_the_swap() {
    let place = Place::with_old();
    let before = image(&place.target(), true);
    let ready = sealed(&place, 1);
    let id = place.state.ids().unwrap()[0];
    let dir = place.state.path().join("sessions").join(id.to_string());
    // a directory in the way of the temporary file: not even root can create it
    fs::create_dir(dir.join("journal.tmp")).unwrap();
    fs::write(dir.join("journal.tmp/x"), "").unwrap();
    let err = ready.swap(&mut ()).unwrap_err();
    assert!(matches!(err, ApplyError::Journal(_)), "{err}");
    assert_eq!(image(&place.target(), true), before);
    assert_eq!(place.names(), ["t"], "the staging tree is gone");
    fs::remove_dir_all(dir.join("journal.tmp")).unwrap();
    // not even its end could be recorded: it counts as unfinished, with everything pending
    recover(&place.state, std::time::SystemTime::now());
    assert_eq!(place.states(), [SessionState::Verified]);
    let staging = Staging::reopen(&place.state, id, &TargetOptions::default(), []).unwrap();
    assert_eq!(image(&staging.path(), false).len(), 4, "directories only");
}

// RELIABILITY F35
#[test]
fn another_file_system_over_the_parent_stops_the_swap() {
    let place = Place::with_old();
    let ready = sealed(&place, 1);
    let Some(mounted) = tmpfs(&place.parent(), "size=64k") else { return };
    assert_eq!(ready.swap(&mut ()).unwrap_err().code(), Code::TargetConflict);
    assert_eq!(place.names(), [""; 0], "nothing is written into what lies over it");
    drop(mounted);
    assert!(place.target().join("old/file").exists());
}

// RELIABILITY F28
#[test]
fn a_staging_tree_that_a_cleaner_removed_is_noticed_at_once() {
    let place = Place::with_old();
    let id = me_sync_protocol::ids::SessionId([1; 16]);
    let staging = Staging::create(place.pin(), manifest(SMALL), id, &place.state, SessionInfo::default());
    let staging = staging.unwrap().with_dirs();
    let mut writer = staging.writer();
    fs::remove_dir_all(staging.path()).unwrap();
    assert_eq!(writer.create(EntryIndex(6)).unwrap_err().reason(), FailureReason::IoError);
    assert!(staging.seal(&mut |_| ()).is_err());
    assert!(place.target().join("old/file").exists());
}

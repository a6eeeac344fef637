//! Claims about sessions that are continued after a restart: every state, every way to be in disorder.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use super::super::testing::{
    Place as Ground, SMALL, Thing, files, fill, fill_one, image, indices, remove, survey, tmpfs,
};
use super::super::{SealError, discard, recover};
use super::*;

const DEEP: EntryIndex = EntryIndex(2);

fn id(session: u8) -> SessionId {
    SessionId([session; 16])
}

/// The journal of session 1, as a crashed process left it.
fn journal(ground: &Ground) -> Journal {
    let dir = ground.state.lock_session(id(1)).unwrap();
    match Journal::load(dir.share().unwrap(), &dir.path).unwrap() {
        Loaded::Whole(journal) => *journal,
        other => panic!("{other:?}"),
    }
}

/// Refused with this code, and not a byte beside or at the target is another.
fn refused(ground: &Ground, code: Code) {
    let look = || {
        let mut all = image(&ground.parent(), true);
        // probe directories come and go in it
        all.remove(Path::new(""));
        all
    };
    let before = look();
    let err = ground.reopen(1).unwrap_err();
    assert_eq!(err.code(), code, "{err}");
    assert_eq!(look(), before, "{err}");
}

#[test]
fn what_a_checkpoint_covered_counts_without_being_read_and_the_rest_is_read() {
    let ground = Ground::with_old();
    let staging = ground.empty(1, SMALL);
    for index in [EntryIndex(4), EntryIndex(6)] {
        fill_one(&staging, SMALL, index);
    }
    // an entry that is not finished is left out
    let durable = staging.checkpointer().run(&files(SMALL)).unwrap();
    assert_eq!(durable.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [EntryIndex(4), EntryIndex(6)]);
    fill_one(&staging, SMALL, DEEP);
    staging.suspend();
    let stored: Vec<_> =
        durable.iter().map(|(index, stamp)| (*index, FileStamp::from_bytes(stamp.to_bytes()))).collect();
    let staging = Staging::reopen(&ground.state, id(1), &TargetOptions::default(), stored).unwrap();
    assert_eq!((staging.target_path(), staging.manifest().len()), (&*ground.target(), 7));
    let (found, read) = survey(&staging);
    assert_eq!((indices(&found.ok), found.partial.len(), found.dropped), (files(SMALL), 0, 0));
    assert_eq!(read, b"deep content".len() as u64);
    ground.applies(staging);
}

// RELIABILITY F29: a stamp that does not fit any more costs a read, not the truth
#[test]
fn a_durable_file_that_was_changed_or_deleted_since_is_found_by_the_seal() {
    let ground = Ground::with_old();
    let staging = ground.staged(1, SMALL);
    let durable = staging.checkpointer().run(&files(SMALL)).unwrap();
    let path = staging.path();
    drop(staging);
    fs::write(path.join("run"), "#!/bin/sH\n").unwrap();
    fs::remove_file(path.join("a/zero")).unwrap();
    let staging = Staging::reopen(&ground.state, id(1), &TargetOptions::default(), durable).unwrap();
    assert_eq!(survey(&staging).0.ok.len(), 3);
    let Err(SealError::Unstaged { staging, entries, .. }) = staging.seal(&mut |_| ()) else { panic!("sealed") };
    assert_eq!(entries, [EntryIndex(4), EntryIndex(6)]);
    entries.iter().for_each(|index| fill_one(&staging, SMALL, *index));
    ground.applies(*staging);
}

#[test]
fn only_an_unfinished_session_is_continued_whatever_the_journal_says() {
    use SessionState::{
        Cleaned, Committed, Failed, Receiving, RollbackIntent, RolledBack, SwapIntent, Swapped, Verified,
    };
    for (state, code) in [
        (Receiving, None),
        (Verified, None),
        (SwapIntent, Some(Code::TargetConflict)),
        (Swapped, Some(Code::SessionUnknown)),
        (Committed, Some(Code::SessionUnknown)),
        (RollbackIntent, Some(Code::TargetConflict)),
        (RolledBack, Some(Code::SessionUnknown)),
        (Cleaned, Some(Code::SessionUnknown)),
        (Failed, Some(Code::SessionUnknown)),
    ] {
        let ground = Ground::with_old();
        drop(ground.staged(1, SMALL).seal(&mut |_| ()).unwrap());
        journal(&ground).update(|r| r.state = state).unwrap();
        match code {
            Some(code) => refused(&ground, code),
            None => {
                // the sealed tree has its final modes; it can be written again, and nobody else looks into it
                let staging = ground.reopen(1).unwrap();
                let mode = |at: &str| fs::metadata(staging.path().join(at)).unwrap().mode() & 0o777;
                assert_eq!((mode(""), mode("a/b")), (0o700, 0o755));
                assert_eq!(ground.states(), [Receiving]);
                let (found, _) = survey(&staging);
                assert_eq!(found.ok.len(), 3);
                ground.applies(staging);
            }
        }
    }
    let ground = Ground::with_old();
    refused(&ground, Code::SessionUnknown);
}

// RELIABILITY F67, F68
#[test]
fn an_expired_session_is_refused_by_name() {
    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    let now = LastSeen::now();
    let began = Some(LastSeen { wall_ms: now.wall_ms - 8 * 24 * 3_600_000, ..now });
    journal(&ground).update(|r| r.began = began).unwrap();
    refused(&ground, Code::SessionExpired);
    recover(&ground.state, std::time::SystemTime::now());
    assert_eq!(ground.names(), ["t"]);
    refused(&ground, Code::SessionExpired);
}

#[test]
fn a_checkpoint_is_activity() {
    let ground = Ground::with_old();
    let staging = ground.staged(1, SMALL);
    let checkpointer = staging.checkpointer();
    drop(staging);
    let long_ago = LastSeen { wall_ms: 1, ..LastSeen::now() };
    let mut record = journal(&ground).record().clone();
    record.last = Some(long_ago);
    assert!(record.is_expired(None, &LastSeen::now()));
    checkpointer.run(&[]).unwrap();
    let dir = ground.state.lock_session(id(1)).expect("a checkpointer holds no lock");
    let seen = super::super::seen::read(&dir.fd);
    assert!(seen.is_some() && !record.is_expired(seen, &LastSeen::now()));
}

#[test]
fn a_session_is_open_once() {
    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    let staging = ground.reopen(1).unwrap();
    refused(&ground, Code::StateLocked);
    drop(staging);
    // another session on the same target
    let other = ground.staged(2, SMALL);
    refused(&ground, Code::TargetBusy);
    drop(other);
    let staging = ground.reopen(1).unwrap();
    survey(&staging);
    ground.applies(staging);
}

#[test]
fn kept_after_a_failure_it_names_the_reason_until_it_is_continued() {
    let ground = Ground::with_old();
    ground.staged(1, SMALL).keep_failed(Code::RetryExhausted);
    let record = &ground.state.sessions().unwrap()[0];
    assert_eq!((record.state, record.code), (SessionState::Receiving, Some(Code::RetryExhausted)));
    assert_eq!((record.session, record.target.clone()), (id(1), ground.target()));
    assert_eq!(recover(&ground.state, std::time::SystemTime::now()), []);
    let staging = ground.reopen(1).unwrap();
    assert_eq!(ground.state.sessions().unwrap()[0].code, None);
    assert_eq!(ground.state.sessions().unwrap()[0].manifest, staging.manifest().sha256());
    survey(&staging);
    ground.applies(staging);
}

#[test]
fn records_that_cannot_be_read_are_refused_and_the_tree_stays() {
    let spoil: [fn(&Path); 4] = [
        |dir| fs::remove_file(dir.join("manifest")).unwrap(),
        |dir| fs::write(dir.join("manifest"), "mesyncm1").unwrap(),
        |dir| ["journal.a", "journal.b"].iter().for_each(|name| fs::write(dir.join(name), "x").unwrap()),
        |dir| {
            fs::remove_file(dir.join("manifest")).unwrap();
            symlink("/etc/passwd", dir.join("manifest")).unwrap();
        },
    ];
    for spoil in spoil {
        let ground = Ground::with_old();
        ground.staged(1, SMALL).suspend();
        spoil(&ground.records(1));
        refused(&ground, Code::StateCorrupt);
    }
}

// RELIABILITY F16, F74
#[test]
fn a_target_that_was_replaced_or_appeared_is_a_conflict() {
    let replaced: [fn(&Ground); 3] = [
        |ground| {
            fs::rename(ground.target(), ground.tmp.path().join("moved")).unwrap();
            fs::create_dir(ground.target()).unwrap();
        },
        |ground| {
            fs::rename(ground.target(), ground.tmp.path().join("moved")).unwrap();
            symlink(ground.tmp.path().join("moved"), ground.target()).unwrap();
        },
        |ground| {
            ground.migrate(2, SMALL);
        },
    ];
    for replace in replaced {
        let ground = Ground::with_old();
        ground.staged(1, SMALL).suspend();
        replace(&ground);
        refused(&ground, Code::TargetConflict);
        discard(&ground.state, id(1), Code::Aborted).unwrap();
    }
    let ground = Ground::new();
    ground.staged(1, SMALL).suspend();
    fs::create_dir(ground.target()).unwrap();
    refused(&ground, Code::TargetConflict);
    fs::remove_dir(ground.target()).unwrap();
    let staging = ground.reopen(1).unwrap();
    survey(&staging);
    ground.applies(staging);
}

// RELIABILITY F73, F74
#[test]
fn a_target_that_was_edited_or_deleted_meanwhile_is_told_or_refused_on_request() {
    let strict = TargetOptions { fail_if_changed: true, ..TargetOptions::default() };
    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    fs::write(ground.target().join("old/edit"), "mine").unwrap();
    let staging = Staging::reopen(&ground.state, id(1), &strict, []).unwrap();
    survey(&staging);
    let err = staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap_err();
    assert_eq!(err.code(), Code::TargetChanged);
    assert_eq!(fs::read(ground.target().join("old/edit")).unwrap(), b"mine");

    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    fs::write(ground.target().join("old/edit"), "mine").unwrap();
    let staging = ground.reopen(1).unwrap();
    survey(&staging);
    let applied = staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert!(applied.target_changed);
    assert_eq!(fs::read(applied.retained.unwrap().join("old/edit")).unwrap(), b"mine");

    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    remove(&ground.target());
    let err = Staging::reopen(&ground.state, id(1), &strict, []).unwrap_err();
    assert_eq!(err.code(), Code::TargetConflict);
    let staging = ground.reopen(1).unwrap();
    survey(&staging);
    let applied = staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert!(applied.target_changed && applied.retained.is_none());
}

// RELIABILITY F35
#[test]
fn nothing_is_written_beneath_a_disk_that_is_not_mounted() {
    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    let away = ground.tmp.path().join("unmounted");
    fs::rename(ground.parent(), &away).unwrap();
    assert_eq!(ground.reopen(1).unwrap_err().code(), Code::TargetConflict);
    fs::create_dir(ground.parent()).unwrap();
    let time = || fs::metadata(ground.parent()).unwrap().mtime_nsec();
    let before = time();
    refused(&ground, Code::TargetConflict);
    assert_eq!(time(), before, "not even for a moment");
    fs::remove_dir(ground.parent()).unwrap();
    fs::rename(&away, ground.parent()).unwrap();
    if let Some(_mounted) = tmpfs(&ground.parent(), "size=64k") {
        refused(&ground, Code::TargetConflict);
    }
    let staging = ground.reopen(1).unwrap();
    survey(&staging);
    ground.applies(staging);
}

// RELIABILITY F28
#[test]
fn without_its_staging_tree_a_session_starts_with_nothing() {
    let ground = Ground::with_old();
    let staging = ground.staged(1, SMALL);
    let durable = staging.checkpointer().run(&files(SMALL)).unwrap();
    assert_eq!(durable.len(), 3);
    let path = staging.path();
    drop(staging);
    remove(&path);
    let staging = Staging::reopen(&ground.state, id(1), &TargetOptions::default(), durable).unwrap();
    let (found, read) = survey(&staging);
    assert_eq!((found.ok.len(), found.partial.len(), read), (0, 0, 0), "what the ledger says is about another tree");
    fill(&staging, SMALL);
    ground.applies(staging);
}

#[test]
fn something_else_at_the_staging_name_is_a_conflict() {
    let others: [fn(&Path, &Ground); 3] = [
        |at, _| fs::create_dir(at).unwrap(),
        |at, _| fs::write(at, "x").unwrap(),
        |at, ground| symlink(ground.tmp.path().join("moved"), at).unwrap(),
    ];
    for other in others {
        let ground = Ground::with_old();
        let staging = ground.staged(1, SMALL);
        let path = staging.path();
        drop(staging);
        fs::rename(&path, ground.tmp.path().join("moved")).unwrap();
        other(&path, &ground);
        refused(&ground, Code::TargetConflict);
    }
}

#[test]
fn killed_at_any_directory_or_before_the_first_the_rest_is_made() {
    let dirs = ["a/empty", "a/b", "a"];
    for made in 0..=dirs.len() {
        let ground = Ground::with_old();
        let staging = ground.empty(1, SMALL);
        let path = staging.path();
        drop(staging);
        dirs[..made].iter().for_each(|dir| fs::remove_dir(path.join(dir)).unwrap());
        let staging = ground.reopen(1).unwrap();
        assert!(dirs.iter().all(|dir| staging.path().join(dir).is_dir()));
        fill(&staging, SMALL);
        ground.applies(staging);
    }
    // between making the staging directory and recording its inode, and right before making it
    for made in [true, false] {
        let ground = Ground::with_old();
        let staging = ground.empty(1, SMALL);
        let path = staging.path();
        drop(staging);
        remove(&path);
        if made {
            fs::create_dir(&path).unwrap();
        }
        journal(&ground).update(|r| r.new = None).unwrap();
        let staging = ground.reopen(1).unwrap();
        assert_eq!(ground.names().len(), 2, "{:?}", ground.names());
        fill(&staging, SMALL);
        ground.applies(staging);
    }
    // a manifest without a journal: nothing else was made
    let ground = Ground::with_old();
    ground.empty(1, SMALL).suspend();
    let staging = ground.parent().join(ground.names().remove(0));
    remove(&staging);
    ["journal.a", "journal.b"].iter().for_each(|name| fs::remove_file(ground.records(1).join(name)).unwrap());
    refused(&ground, Code::SessionUnknown);
    assert_eq!(recover(&ground.state, std::time::SystemTime::now()), []);
    assert!(!ground.records(1).exists());
}

// RELIABILITY A01-A03
#[test]
fn what_was_planted_in_place_of_a_directory_is_replaced_and_not_followed() {
    let ground = Ground::with_old();
    let outside = ground.tmp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let staging = ground.empty(1, SMALL);
    let path = staging.path();
    drop(staging);
    fs::remove_dir(path.join("a/b")).unwrap();
    symlink(&outside, path.join("a/b")).unwrap();
    fs::remove_dir(path.join("a/empty")).unwrap();
    fs::write(path.join("a/empty"), "x").unwrap();
    let staging = ground.reopen(1).unwrap();
    fill(&staging, SMALL);
    ground.applies(staging);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

// A deletion that was cut short is finished, and its tree never filled again
#[test]
fn a_staging_tree_that_was_being_deleted_does_not_come_back() {
    let ground = Ground::with_old();
    let staging = ground.staged(1, SMALL);
    let path = staging.path();
    drop(staging);
    fs::rename(&path, ground.parent().join(journal(&ground).record().doomed())).unwrap();
    let staging = ground.reopen(1).unwrap();
    assert_eq!(ground.names().len(), 2, "{:?}", ground.names());
    assert_eq!(survey(&staging).0.ok.len(), 0);
    fill(&staging, SMALL);
    ground.applies(staging);
}

/// A tree of directories that nobody may enter.
#[test]
fn directories_without_rights_are_opened_again_for_their_owner() {
    const CLOSED: &[(&str, Thing)] = &[("d", Thing::Dir(0)), ("d/e", Thing::Dir(0)), ("d/e/f", Thing::File(b"1", 0))];
    let ground = Ground::with_old();
    drop(ground.staged(1, CLOSED).seal(&mut |_| ()).unwrap());
    let staging = ground.reopen(1).unwrap();
    for dir in ["d", "d/e"] {
        assert_eq!(fs::metadata(staging.path().join(dir)).unwrap().mode() & 0o700, 0o700);
    }
    assert_eq!(survey(&staging).0.ok.len(), 1);
    staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert_eq!(fs::metadata(ground.target().join("d")).unwrap().mode() & 0o777, 0);
}

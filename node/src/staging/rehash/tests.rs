//! Claims about files that were begun, and about what a restart makes of whatever stands in their places.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::super::testing::{Place as Ground, SMALL, fill, fill_one, indices, survey};
use super::*;

const DEEP: EntryIndex = EntryIndex(2);

#[test]
fn a_file_put_aside_is_continued_where_it_stopped_in_the_same_process_and_in_the_next() {
    for restart in [false, true] {
        let ground = Ground::with_old();
        let mut staging = ground.staged(1, SMALL);
        fs::remove_file(staging.path().join("a/b/deep")).unwrap();
        let mut file = staging.writer().create(DEEP).unwrap();
        file.write(b"deep cont").unwrap();
        file.suspend().unwrap();
        if restart {
            staging.suspend();
            staging = ground.reopen(1).unwrap();
            let (found, _) = survey(&staging);
            assert_eq!(indices(&found.ok), [EntryIndex(4), EntryIndex(6)]);
            assert_eq!(found.partial.iter().map(|p| (p.index(), p.offset())).collect::<Vec<_>>(), [(DEEP, 9)]);
        }
        let mut writer = staging.writer();
        // the peer may be told less than there is
        let mut file = writer.resume(DEEP, 5).unwrap();
        assert!(matches!(writer.create(DEEP), Err(StageError::Open { .. })), "one writer at a time");
        assert!(matches!(writer.resume(DEEP, 5), Err(StageError::Open { .. })));
        file.write(b"content").unwrap();
        file.finish().unwrap();
        assert!(matches!(writer.resume(DEEP, 5), Err(StageError::NoPartial { .. })), "it is finished");
        assert!(writer.create(DEEP).is_err(), "a finished file is not replaced");
        drop(writer);
        ground.applies(staging);
    }
}

#[test]
fn a_file_put_aside_that_is_not_the_same_any_more_is_not_continued_but_can_be_replaced() {
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 6] = [
        ("gone", |at, _| fs::remove_file(at).unwrap()),
        ("other bytes", |at, _| fs::write(at, "DEEP cont").unwrap()),
        ("cut", |at, _| fs::File::options().write(true).open(at).unwrap().set_len(2).unwrap()),
        ("a symlink", |at, outside| {
            fs::remove_file(at).unwrap();
            symlink(outside, at).unwrap();
        }),
        ("a second name", |at, outside| fs::hard_link(at, outside.with_extension("link")).unwrap()),
        ("a fifo", |at, _| {
            fs::remove_file(at).unwrap();
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
    ];
    for (what, change) in changes {
        let ground = Ground::with_old();
        let outside = ground.tmp.path().join("outside");
        fs::write(&outside, "deep cont").unwrap();
        let staging = ground.empty(1, SMALL);
        let mut file = staging.writer().create(DEEP).unwrap();
        file.write(b"deep cont").unwrap();
        file.suspend().unwrap();
        change(&staging.path().join("a/b/deep"), &outside);
        assert!(staging.writer().resume(DEEP, 9).is_err(), "{what}");
        fill(&staging, SMALL);
        ground.applies(staging);
        assert_eq!(fs::read(&outside).unwrap(), b"deep cont", "{what}");
    }
}

#[test]
fn more_than_there_is_or_than_declared_is_not_continued() {
    let ground = Ground::with_old();
    let staging = ground.empty(1, SMALL);
    let mut writer = staging.writer();
    for offset in [5, 13, u64::MAX] {
        let mut file = writer.create(DEEP).unwrap();
        file.write(b"deep").unwrap();
        file.suspend().unwrap();
        assert!(matches!(writer.resume(DEEP, offset), Err(StageError::NoPartial { .. })), "{offset}");
    }
    // nothing of it is worth keeping
    writer.create(DEEP).unwrap().suspend().unwrap();
    assert!(!staging.path().join("a/b/deep").exists());
}

// RELIABILITY F13, F62
#[test]
fn whatever_stands_where_a_file_belongs_counts_only_for_its_bytes() {
    type Change = fn(&Path, &Path);
    let fifo = |at: &Path| {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    fs::metadata("/dev/null").unwrap();
    let changes: [(&str, Change, u64); 7] = [
        ("zero bytes", |at, _| fs::write(at, "").unwrap(), 0),
        ("zeros", |at, _| fs::write(at, [0; 12]).unwrap(), 1),
        ("longer", |at, _| fs::write(at, "deep content and more").unwrap(), 1),
        ("a symlink to the right bytes", |at, outside| symlink(outside, at).unwrap(), 1),
        ("a second name for the right bytes", |at, outside| fs::hard_link(outside, at).unwrap(), 1),
        ("an empty directory", |at, _| fs::create_dir(at).unwrap(), 1),
        ("nothing", |_, _| (), 0),
    ];
    for (what, change, dropped) in changes {
        let ground = Ground::with_old();
        let outside = ground.tmp.path().join("outside");
        fs::write(&outside, "deep content").unwrap();
        let staging = ground.staged(1, SMALL);
        let at = staging.path().join("a/b/deep");
        drop(staging);
        fs::remove_file(&at).unwrap();
        change(&at, &outside);
        let staging = ground.reopen(1).unwrap();
        let (found, _) = survey(&staging);
        assert_eq!(indices(&found.ok), [EntryIndex(4), EntryIndex(6)], "{what}");
        assert_eq!((found.partial.len(), found.dropped), (0, dropped), "{what}");
        assert!(at.symlink_metadata().is_err(), "{what} is removed");
        assert_eq!(fs::read(&outside).unwrap(), b"deep content", "{what}");
        fill_one(&staging, SMALL, DEEP);
        ground.applies(staging);
    }
    let ground = Ground::with_old();
    let staging = ground.empty(1, SMALL);
    fifo(&staging.path().join("run"));
    drop(staging);
    // opening a FIFO would wait for ever
    assert_eq!(survey(&ground.reopen(1).unwrap()).0.dropped, 1);
}

#[test]
fn a_file_of_the_right_bytes_gets_its_mode_and_time_even_if_nobody_could_open_it() {
    let ground = Ground::with_old();
    let staging = ground.staged(1, SMALL);
    let at = staging.path().join("a/b/deep");
    drop(staging);
    fs::set_permissions(&at, fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::options().write(true).open(&at).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o000)).unwrap();
    let staging = ground.reopen(1).unwrap();
    assert_eq!(survey(&staging).0.ok.len(), 3);
    ground.applies(staging);
}

#[test]
fn a_survey_that_is_stopped_says_so_and_can_be_done_again() {
    let ground = Ground::with_old();
    ground.staged(1, SMALL).suspend();
    let staging = ground.reopen(1).unwrap();
    let (stop, read) = (true.into(), 0.into());
    let err = staging.survey(std::num::NonZeroUsize::MIN, &stop, &read).unwrap_err();
    assert!(matches!(err, StageError::Stopped), "{err}");
    assert_eq!(survey(&staging).0.ok.len(), 3);
    ground.applies(staging);
}

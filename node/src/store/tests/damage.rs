//! A file that is not what the store wrote is refused by name, or holds what was stored.

#![expect(clippy::print_stderr, reason = "the numbers are what the run was for, and a skipped test says why")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn refusal(dir: &Path) -> StoreError {
    let error = Store::open(dir).unwrap_err();
    assert!(error.to_string().contains(STORE_FILE), "{error}");
    error
}

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = refusal(dir.path());
    assert_eq!((error.code(), error.hint().is_some()), (Code::StateLocked, true));
    store.close().unwrap();
    Store::open(dir.path()).unwrap();
}

#[test]
fn a_file_of_something_else_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    let long = vec![0x5a; 300_000];
    for foreign in [&b""[..], b"x", b"SQLite format 3\0", &[0; 4096], &long] {
        fs::write(&path, foreign).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(refusal(dir.path()).code(), Code::StateCorrupt);
        assert_eq!(fs::read(&path).unwrap(), foreign);
    }
}

#[test]
fn another_programs_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    let other: [fn(&WriteTransaction); 4] = [
        |_| {},
        |txn| drop(txn.open_table(TableDefinition::<&str, u64>::new("theirs")).unwrap()),
        |txn| drop(txn.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap()),
        |txn| drop(txn.open_table(META).unwrap().insert(META_SCHEMA, b"v1".as_slice()).unwrap()),
    ];
    for fill in other {
        let db = Database::create(&path).unwrap();
        let txn = db.begin_write().unwrap();
        fill(&txn);
        txn.commit().unwrap();
        drop(db);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(refusal(dir.path()).code(), Code::StateCorrupt);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_newer_version_is_refused_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let newer = (SCHEMA + 1).to_le_bytes();
    store.write(|txn| Ok(txn.open_table(META)?.insert(META_SCHEMA, newer.as_slice()).map(drop)?)).unwrap();
    store.close().unwrap();
    assert!(matches!(refusal(dir.path()), StoreError::Newer { found: 2, .. }));
}

#[test]
fn a_record_that_cannot_be_read_or_stands_under_another_name_is_refused() {
    let spoilt = [&b"\xa1"[..], &encode(&import(2)), &encode(&export(1, true))].map(<[u8]>::to_vec);
    for bytes in spoilt {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write(|txn| Ok(txn.open_table(IMPORTS)?.insert(&[1; 16], bytes.as_slice()).map(drop)?)).unwrap();
        store.close().unwrap();
        assert_eq!(refusal(dir.path()).code(), Code::StateCorrupt);
    }
}

#[test]
fn a_file_open_to_others_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).unwrap().close().unwrap();
    fs::set_permissions(dir.path().join(STORE_FILE), fs::Permissions::from_mode(0o640)).unwrap();
    let error = refusal(dir.path());
    assert!(error.to_string().contains("chmod 600") && error.code() == Code::StateCorrupt, "{error}");
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "must run as root in CI");
        eprintln!("not root: a file cannot be given away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).unwrap().close().unwrap();
    std::os::unix::fs::chown(dir.path().join(STORE_FILE), Some(65_534), None).unwrap();
    assert!(matches!(refusal(dir.path()), StoreError::NotOurs { .. }));
}

#[test]
fn a_link_a_pipe_or_a_directory_in_its_place_is_refused_without_waiting() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Store::open(elsewhere.path()).unwrap().close().unwrap();
    let path = dir.path().join(STORE_FILE);
    symlink(elsewhere.path().join(STORE_FILE), &path).unwrap();
    assert_eq!(refusal(dir.path()).code(), Code::IoError);
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(refusal(dir.path()).code(), Code::StateCorrupt);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(refusal(dir.path()).code(), Code::IoError);
}

/// A store that went through several commits, as it is after a clean close and as a killed process leaves it, and
/// what it held after the last two commits.
fn images() -> ([Content; 2], [(&'static str, Vec<u8>); 2]) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in 1..6 {
        store.put_import(&import(n)).unwrap();
        store.put_export(&export(n, n % 2 == 0)).unwrap();
        store.mark_durable(session(1), &stamps(u32::from(n) * 700..u32::from(n) * 700 + 600)).unwrap();
    }
    let before = Content::of(&store).unwrap();
    store.put_failures(session(1), &[failure(1), failure(2)]).unwrap();
    let content = Content::of(&store).unwrap();
    let path = store.path().to_owned();
    let killed = fs::read(&path).unwrap();
    store.close().unwrap();
    ([before, content], [("closed", fs::read(&path).unwrap()), ("killed", killed)])
}

/// Opens an image and tells whether it was refused.
fn is_refused(image: &[u8], wanted: &Content, what: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    fs::write(&path, image).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    match Store::open(dir.path()) {
        Ok(store) => {
            assert!(Content::of(&store).as_ref().ok() == Some(wanted), "{what}: something else was read");
            // it can be gone on with
            store.put_export(&export(77, true)).unwrap_or_else(|error| panic!("{what}: {error}"));
            store.close().unwrap_or_else(|error| panic!("{what}: {error}"));
            Store::open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
            false
        }
        Err(error) => {
            assert_eq!(error.code(), Code::StateCorrupt, "{what}: {error}");
            assert!(error.to_string().contains(STORE_FILE), "{what}: {error}");
            // what the first look did to it, if anything, does not make it good for the second
            assert_eq!(refusal(dir.path()).code(), Code::StateCorrupt, "{what}");
            true
        }
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused_or_whole() {
    let ([_, content], images) = images();
    for (name, image) in images {
        let lengths = (0..image.len()).step_by(2039).chain([1, 8, 9, 63, 64, 319, 320, 4095, 4096, image.len() - 1]);
        let (mut refused, mut opened) = (0, 0);
        for len in lengths {
            let refuses = is_refused(&image[..len], &content, &format!("{name}, {len} bytes of {}", image.len()));
            if refuses { refused += 1 } else { opened += 1 }
        }
        eprintln!("{name}: {refused} refused, {opened} opened with everything");
        assert!(refused > 10);
    }
}

#[test]
fn a_flipped_bit_or_a_lost_sector_anywhere_is_refused_or_without_effect() {
    let ([before, content], images) = images();
    for (name, image) in images {
        let mut spoilt = Vec::new();
        // bits all over the header, every one of its flags, and bits all over the pages
        for at in (0..320).step_by(3).chain((320..image.len()).step_by(1531)) {
            let bits = if at == 9 { 0..8 } else { at % 8..at % 8 + 1 };
            spoilt.extend(bits.map(|bit| (at, 1, 1u8 << bit)));
        }
        // sectors that never came
        spoilt.extend((0..image.len()).step_by(1536).map(|at| (at, 512, 0)));
        let (mut refused, mut opened) = (0, 0);
        for (at, len, mask) in spoilt {
            let mut spoilt = image.clone();
            let end = image.len().min(at + len);
            for byte in &mut spoilt[at..end] {
                *byte = if mask == 0 { 0 } else { *byte ^ mask };
            }
            let what = format!("{name}, bytes {at}..{end}, mask {mask:#x}");
            // the one bit that says which of the last two commits counts has no checksum: after a crash, turned, it
            // is that of a crash before the last commit
            let wanted = if (name, at, mask) == ("killed", 9, 1) { &before } else { &content };
            if is_refused(&spoilt, wanted, &what) { refused += 1 } else { opened += 1 }
        }
        eprintln!("{name}: {refused} refused, {opened} opened with everything");
        assert!(refused > 10 && opened > 10);
    }
}

//! Claims about holes in staged files: nothing is written for them, reserved for them, or lost in them.

use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};

use me_sync_protocol::ids::{Digest, SessionId};
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder};
use me_sync_protocol::path::RelPath;
use me_sync_protocol::reason::{Code, FailureReason};

use super::super::testing::{Place as Ground, indices, survey, tmpfs};
use super::super::{SessionInfo, Staging};
use std::os::unix::fs::FileExt as _;

use super::*;

const MIB: u64 = 1 << 20;
const DISK: EntryIndex = EntryIndex(0);

/// A tree of one file with this size and hash, of which so much is data.
fn tree(size: u64, sha256: Digest, data: u64) -> Arc<Manifest> {
    let mut builder = ManifestBuilder::new(None, None);
    let node = Node::File { size, sha256: Some(sha256) };
    builder.push(&Entry { path: RelPath::parse("disk").unwrap(), node, mode: None, mtime: None }).unwrap();
    builder.add_holes(size - data);
    Arc::new(builder.finish().unwrap())
}

fn staging(ground: &Ground, session: u8, manifest: &Arc<Manifest>) -> Staging {
    let info = SessionInfo::default();
    Staging::create(ground.pin(), manifest.clone(), SessionId([session; 16]), &ground.state, info).unwrap().with_dirs()
}

/// Bytes that the file takes on its disk.
fn on_disk(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// 6 MiB: a hole, 4 KiB of data in the middle, a hole, one byte at the end or a hole there too.
fn content(ends_with_data: bool) -> Vec<u8> {
    let mut content = vec![0; 6 << 20];
    content[3 << 20..(3 << 20) + 4096].fill(7);
    if ends_with_data {
        *content.last_mut().unwrap() = 1;
    }
    content
}

/// Appends `content` from `from` on as an exporter with such a file would send it.
fn pour(file: &mut StagedFile, content: &[u8], from: usize) {
    for chunk in content[from..].chunks(256 << 10) {
        match chunk.iter().all(|byte| *byte == 0) {
            true => file.skip(chunk.len() as u64).unwrap(),
            false => file.write(chunk).unwrap(),
        }
    }
}

// SPEC §5.4
#[test]
fn holes_at_the_start_in_the_middle_and_at_the_end_take_no_room_and_read_as_zeros() {
    for ends_with_data in [false, true] {
        let (ground, content) = (Ground::new(), content(ends_with_data));
        let staging = staging(&ground, 1, &tree(6 * MIB, Digest::of(&content), MIB));
        let mut file = staging.writer().create(DISK).unwrap();
        pour(&mut file, &content, 0);
        file.finish().unwrap();
        let at = staging.path().join("disk");
        assert!(std::fs::read(&at).unwrap() == content);
        assert!(on_disk(&at) <= MIB, "{} bytes", on_disk(&at));
        // and it can be sealed and applied
        staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap().commit().unwrap();
        assert!(std::fs::read(ground.target().join("disk")).unwrap() == content);
    }
}

// SPEC §6.4
#[test]
fn a_file_that_is_left_in_a_hole_is_as_long_as_what_came_and_goes_on_there() {
    let (ground, content) = (Ground::new(), content(true));
    let manifest = tree(6 * MIB, Digest::of(&content), MIB);
    for (session, cut) in [(1, MIB), (2, 5 * MIB), (3, 6 * MIB - 100)] {
        let staging = staging(&ground, session, &manifest);
        let mut file = staging.writer().create(DISK).unwrap();
        pour(&mut file, &content[..cut as usize], 0);
        file.suspend().unwrap();
        staging.suspend();
        // a new process: what is there is hashed, holes without being read
        let staging = ground.reopen(session).unwrap();
        let (found, hashed) = survey(&staging);
        let partial = found.partial.first().expect("a beginning");
        assert_eq!((partial.offset(), hashed), (cut, cut));
        let mut file = staging.writer().resume(DISK, cut).unwrap();
        pour(&mut file, &content, cut as usize);
        file.finish().unwrap();
        let at = staging.path().join("disk");
        assert!(std::fs::read(&at).unwrap() == content, "cut at {cut}");
        assert!(on_disk(&at) <= MIB, "{} bytes", on_disk(&at));
    }
}

#[test]
fn a_hole_past_the_declared_size_is_refused() {
    let ground = Ground::new();
    let staging = staging(&ground, 1, &tree(MIB, Digest::of(b""), 0));
    let mut file = staging.writer().create(DISK).unwrap();
    file.skip(MIB).unwrap();
    assert!(matches!(file.skip(1), Err(StageError::Size { .. })));
    file.discard().unwrap();
}

// SPEC §4.1
#[test]
fn a_tebibyte_of_holes_fits_where_its_data_fits_and_is_refused_where_it_does_not() {
    const TIB: u64 = 1 << 40;
    let ground = Ground::new();
    let Some(_mount) = tmpfs(&ground.parent(), "size=16m") else { return };
    let refused = ground.pin().check_manifest(&tree(TIB, Digest::of(b""), 20 * MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::NoSpace);
    let manifest = tree(TIB, Digest::of(b""), 4 * MIB);
    let facts = ground.pin().check_manifest(&manifest).unwrap();
    assert!(facts.bytes_needed < 8 * MIB, "{}", facts.bytes_needed);
    let staging = staging(&ground, 1, &manifest);
    let mut file = staging.writer().create(DISK).unwrap();
    file.skip(TIB / 2).unwrap();
    file.write(&[1; 4096]).unwrap();
    file.skip(TIB / 2 - 4096).unwrap();
    file.finish().unwrap();
    let at = staging.path().join("disk");
    assert_eq!((std::fs::metadata(&at).unwrap().len(), on_disk(&at)), (TIB, 4096));
}

// SPEC §4.1
#[test]
fn an_exporter_that_promised_holes_and_sends_data_fills_the_disk_and_is_told_so() {
    let ground = Ground::new();
    let Some(_mount) = tmpfs(&ground.parent(), "size=8m") else { return };
    let manifest = tree(64 * MIB, Digest::of(b""), MIB);
    ground.pin().check_manifest(&manifest).unwrap();
    let staging = staging(&ground, 1, &manifest);
    let mut file = staging.writer().create(DISK).unwrap();
    let full = (0..64).find_map(|_| file.write(&[1; 1 << 20]).err()).expect("the disk is full");
    assert_eq!((full.code(), full.reason()), (Code::NoSpace, FailureReason::IoError));
    file.discard().unwrap();
    assert!(!staging.path().join("disk").exists());
}

#[test]
fn a_copy_of_the_old_tree_has_its_holes_and_a_hole_is_hashed_unread() {
    let (ground, content) = (Ground::new(), content(true));
    std::fs::create_dir_all(ground.target()).unwrap();
    let old = File::create(ground.target().join("disk")).unwrap();
    old.write_all_at(&content[3 << 20..(3 << 20) + 4096], 3 * MIB).unwrap();
    old.write_all_at(&[1], 6 * MIB - 1).unwrap();
    // or all of it would count where it stands
    std::fs::write(ground.target().join("only here"), "x").unwrap();
    let staging = staging(&ground, 1, &tree(6 * MIB, Digest::of(&content), MIB));
    let (threads, read) = (NonZeroUsize::MIN, AtomicU64::new(0));
    let taken = staging.reuse(&ground.state, threads, &AtomicBool::new(false), &read).unwrap();
    assert_eq!((indices(&taken), read.into_inner()), (vec![DISK], 6 * MIB));
    let at = staging.path().join("disk");
    assert!(std::fs::read(&at).unwrap() == content);
    assert!(on_disk(&at) <= MIB, "{} bytes", on_disk(&at));
    // one that moved since is read again, with the same result
    std::fs::File::options().write(true).open(&at).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    staging.seal(&mut |_| ()).expect("it is the same");
}

#[test]
fn what_an_unfinished_sparse_file_holds_is_what_it_takes_on_the_disk() {
    let ground = Ground::new();
    let Some(_mount) = tmpfs(&ground.parent(), "size=8m") else { return };
    let sparse = tree(64 * MIB, Digest::of(b""), MIB);
    let first = staging(&ground, 1, &sparse);
    let mut file = first.writer().create(DISK).unwrap();
    file.write(&[1; 1 << 20]).unwrap();
    file.skip(60 * MIB).unwrap();
    file.suspend().unwrap();
    first.suspend();
    let mut target = ground.pin();
    target.count_held(&ground.state).unwrap();
    let full = target.check_manifest(&tree(32 * MIB, Digest::of(b""), 31 * MIB)).unwrap_err();
    assert_eq!(full.code(), Code::NoSpace, "61 MiB of holes are no room");
    assert!(target.check_manifest(&sparse).is_ok());
}

//! Power cuts while files come in (RELIABILITY F13): what the durable ledger names is whole, everything else counts
//! only for the bytes that are on the disk. The staging tree is filled by this process; the disk is the one of the
//! other power cuts.

use std::fs;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use me_sync_node::staging::{FileStamp, Found, SessionInfo, Staging, StagingWriter, StateDir, Target, TargetOptions};
use me_sync_protocol::ids::{Digest, EntryIndex, SessionId};
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder, Node};
use me_sync_protocol::path::RelPath;
use sha2::{Digest as _, Sha256};

use crate::power::Disk;
use crate::strace::can_run;

const SESSION: SessionId = SessionId([5; 16]);
const FILES: u32 = 300;
/// One file that is under way when the power goes.
const LARGE: usize = 3 << 20;

/// Where the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Nothing but the checkpoint has happened.
    AfterCheckpoint,
    /// The checkpoint is written down, and more files are finished.
    AfterLedger,
    /// The ledger is behind: its last write did not come to its end.
    LedgerTorn,
    /// No checkpoint at all.
    Before,
}

fn content(n: u32) -> Vec<u8> {
    let length = if n == FILES { LARGE } else { 2000 + n as usize };
    (0..length).map(|at| (at as u32).wrapping_mul(n + 7).to_le_bytes()[1] | 1).collect()
}

/// Entry 0 is a directory, entry n + 1 the file `d/n`.
fn manifest() -> Manifest {
    let mut builder = ManifestBuilder::new(Some(0o755), None);
    let dir = RelPath::parse("d").expect("a path");
    builder.push(&Entry { path: dir, node: Node::Dir, mode: Some(0o755), mtime: None }).expect("an entry");
    for n in 0..=FILES {
        let bytes = content(n);
        let path = RelPath::parse(format!("d/{n:04}")).expect("a path");
        let node = Node::File { size: bytes.len() as u64, sha256: Some(Digest(Sha256::digest(&bytes).into())) };
        builder.push(&Entry { path, node, mode: Some(0o644), mtime: None }).expect("an entry");
    }
    builder.finish().expect("a manifest")
}

fn index(n: u32) -> EntryIndex {
    EntryIndex(n + 1)
}

fn receive(writer: &mut StagingWriter, n: u32) {
    let mut file = writer.create(index(n)).expect("created");
    content(n).chunks(1000).for_each(|chunk| file.write(chunk).expect("written"));
    file.finish().expect("finished");
}

/// A ledger as simple as it can be: records of 20 bytes, appended and flushed.
fn note(ledger: &Path, durable: &[(EntryIndex, FileStamp)]) {
    let mut file = fs::File::options().append(true).create(true).open(ledger).expect("opened");
    for (index, stamp) in durable {
        file.write_all(&index.0.to_be_bytes()).expect("written");
        file.write_all(&stamp.to_bytes()).expect("written");
    }
    file.sync_all().expect("flushed");
}

fn noted(ledger: &Path) -> Vec<(EntryIndex, FileStamp)> {
    let bytes = fs::read(ledger).unwrap_or_default();
    let records = bytes.chunks_exact(20).map(|record| {
        let (index, stamp) = record.split_at(4);
        let index = u32::from_be_bytes(index.try_into().expect("four bytes"));
        (EntryIndex(index), FileStamp::from_bytes(stamp.try_into().expect("sixteen bytes")))
    });
    // a record that was never filled in names no file
    records.filter(|(index, _)| index.0 > 0).collect()
}

pub(crate) fn survey(staging: &Staging) -> (Found, u64) {
    let read = AtomicU64::new(0);
    let threads = NonZeroUsize::new(2).expect("not zero");
    let found = staging.survey(threads, &AtomicBool::new(false), &read).expect("surveyed");
    (found, read.into_inner())
}

/// Fills a tree until `moment` and cuts the power there.
fn cut_at(disk: &Disk, moment: Moment, ledger: &Path) {
    let state = StateDir::open(&disk.at.join("state")).expect("opened");
    let target = Target::pin(&disk.at.join("p/t"), &TargetOptions::default()).expect("pinned");
    let staging = Staging::create(target, Arc::new(manifest()), SESSION, &state, SessionInfo::default());
    let staging = staging.expect("created");
    let threads = NonZeroUsize::MIN;
    staging.reuse(&state, threads, &AtomicBool::new(false), &AtomicU64::new(0)).expect("nothing to reuse");
    let checkpointer = staging.checkpointer();
    let mut writer = staging.writer();
    (0..FILES / 2).for_each(|n| receive(&mut writer, n));
    if moment != Moment::Before {
        let all: Vec<_> = (0..=FILES).map(index).collect();
        let durable = checkpointer.run(&all).expect("flushed");
        assert_eq!(durable.len(), (FILES / 2) as usize);
        if moment == Moment::AfterLedger {
            // files that are finished while the ledger is written are on no disk yet, whatever their inodes are
            (FILES / 2..FILES).for_each(|n| receive(&mut writer, n));
            note(ledger, &durable);
        }
        if moment == Moment::LedgerTorn {
            note(ledger, &durable[..durable.len() / 2]);
            let file = fs::File::options().append(true).open(ledger).expect("opened");
            let end = file.metadata().expect("there").len();
            file.write_all_at(&[0; 7], end).expect("written");
        }
    }
    let mut large = writer.create(index(FILES)).expect("created");
    content(FILES)[..2 << 20].chunks(1 << 16).for_each(|chunk| large.write(chunk).expect("written"));
    disk.stop();
    // on a disk that is gone nothing can be tidied up any more
    drop((large, writer, checkpointer, staging, state));
    disk.start();
}

fn recovers_from(moment: Moment) {
    let disk = Disk::new();
    fs::create_dir_all(disk.at.join("p/t/old")).expect("made");
    fs::write(disk.at.join("p/t/old/file"), "old").expect("written");
    let sync = Command::new("sync").arg("-f").arg(&disk.at).status().expect("sync starts");
    assert!(sync.success());
    let ledger = disk.at.join("ledger");
    cut_at(&disk, moment, &ledger);

    let state = StateDir::open(&disk.at.join("state")).expect("opened");
    let durable = noted(&ledger);
    let confirmed: Vec<_> = durable.iter().map(|(index, _)| *index).collect();
    let expected = match moment {
        Moment::AfterLedger => FILES / 2,
        Moment::LedgerTorn => FILES / 4,
        Moment::AfterCheckpoint | Moment::Before => 0,
    };
    assert!(confirmed.len() >= expected as usize, "{moment:?}: the ledger lost {} records", confirmed.len());
    let staging = Staging::reopen(&state, SESSION, &TargetOptions::default(), durable).expect("reopened");
    let (found, read) = survey(&staging);
    let ok: Vec<_> = found.ok.iter().map(|file| file.index()).collect();
    assert!(confirmed.iter().all(|index| ok.contains(index)), "{moment:?}: a durable file is to be sent again");
    let covered = if moment == Moment::Before { 0 } else { FILES / 2 };
    assert!((0..covered).all(|n| ok.contains(&index(n))), "{moment:?}: a flushed file is to be sent again");
    // nothing was read for what the ledger names
    let all_of = |some: &[EntryIndex]| some.iter().map(|index| content(index.0 - 1).len() as u64).sum::<u64>();
    assert!(read + all_of(&confirmed) <= all_of(&(0..=FILES).map(index).collect::<Vec<_>>()), "{moment:?}");
    if moment == Moment::AfterLedger {
        let lost = (FILES / 2..FILES).filter(|n| !ok.contains(&index(*n))).count();
        assert!(lost > (FILES / 4) as usize, "the power cut took only {lost} files: it proves nothing");
    }
    for index in &ok {
        let at = staging.path().join(format!("d/{:04}", index.0 - 1));
        assert!(fs::read(&at).expect("readable") == content(index.0 - 1), "{moment:?}: {index} counts and is wrong");
    }
    let mut writer = staging.writer();
    for n in 0..=FILES {
        if ok.contains(&index(n)) {
            continue;
        }
        // a beginning is continued if it is one; the exporter's hash would tell at the end
        let whole = content(n);
        let begun = found.partial.iter().find(|partial| partial.index() == index(n));
        let offset = begun.map(|partial| usize::try_from(partial.offset()).expect("small"));
        let at = staging.path().join(format!("d/{n:04}"));
        match offset.filter(|offset| fs::read(&at).is_ok_and(|bytes| bytes[..] == whole[..*offset])) {
            Some(offset) => {
                let mut file = writer.resume(index(n), offset as u64).expect("continued");
                file.write(&whole[offset..]).expect("written");
                file.finish().expect("finished");
            }
            None => receive(&mut writer, n),
        }
    }
    drop(writer);
    let path = staging.path();
    drop(staging.seal(&mut |_| ()).expect("sealed"));
    for n in 0..=FILES {
        assert!(fs::read(path.join(format!("d/{n:04}"))).expect("readable") == content(n), "{moment:?}: {n}");
    }
    assert_eq!(fs::read(disk.at.join("p/t/old/file")).expect("readable"), b"old");
}

#[test]
fn a_power_cut_right_after_a_checkpoint_loses_nothing_that_it_covered() {
    if can_run() {
        recovers_from(Moment::AfterCheckpoint);
    }
}

// RELIABILITY F11: without this test nobody knows that the others can fail
#[test]
fn without_the_flush_of_the_checkpoint_the_same_cut_is_seen_to_lose_files() {
    if !can_run() {
        return;
    }
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    let test = "ledger::a_power_cut_right_after_a_checkpoint_loses_nothing_that_it_covered";
    let output = again.args(["--exact", test]).env("ME_SYNC_TEST_SKIP_SYNCFS", "1").output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "nothing was lost: {said}");
    assert!(said.contains("a flushed file is to be sent again"), "it failed for another reason: {said}");
}

#[test]
fn a_power_cut_right_after_a_ledger_write_loses_nothing_that_it_names_and_believes_nothing_else() {
    if can_run() {
        recovers_from(Moment::AfterLedger);
    }
}

#[test]
fn a_ledger_that_was_cut_short_costs_reading_and_not_sending() {
    if can_run() {
        recovers_from(Moment::LedgerTorn);
    }
}

#[test]
fn a_power_cut_before_the_first_checkpoint_leaves_a_session_that_can_go_on() {
    if can_run() {
        recovers_from(Moment::Before);
    }
}

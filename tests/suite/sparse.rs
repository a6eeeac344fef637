//! Sparse files (SPEC §4.1, §5.4): their holes arrive as holes, cost neither wire nor disk, and are nobody's invention.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use me_sync_node::Outcome;
use me_sync_protocol::codec;
use me_sync_protocol::frame::{FileZeros, Frame};
use me_sync_protocol::message::{Granted, Redeem, Request, Response, encode};
use me_sync_protocol::reason::Code;
use tempfile::TempDir;

use crate::support::peer::{
    Answers, Exporting, Importing, Peer, Served, begin, chunk, end, exporter, granted, phase_end,
};
use crate::support::raw::{Listing, file, map, uint};
use crate::support::relay::{Course, End, Fate, How};
use crate::support::tree::{self, assert_images, assert_same, noise};
use crate::support::wire::{Wire, sees};
use crate::support::world::{World, refused};
use crate::support::{PATIENCE, TestNode, completed, failed, leftovers, migrate};

const MIB: u64 = 1 << 20;
const CHUNK: u32 = 256 << 10;

/// A file of this length that holds these bytes at these places, and nothing else.
fn sparse(at: &Path, len: u64, data: &[(u64, &[u8])]) {
    let file = File::create(at).expect("created");
    file.set_len(len).expect("long");
    data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).expect("written"));
}

/// Holes at the start, in the middle, at the end; nothing but a hole; a byte at the end; many small ones.
fn source() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).expect("a directory");
    let (block, large) = (noise(1, 4096), noise(2, 600_000));
    sparse(&source.join("all three"), 24 * MIB, &[(5 * MIB, &block), (17 * MIB + 4096, &large)]);
    sparse(&source.join("hole"), 20 * MIB + 1, &[]);
    sparse(&source.join("end"), 16 * MIB + 3, &[(16 * MIB + 2, b"x")]);
    sparse(&source.join("start"), 9 * MIB, &[(0, &large)]);
    let combed: Vec<(u64, &[u8])> = (0..32).map(|n| (n * (64 << 10), &block[..])).collect();
    sparse(&source.join("comb"), 2 * MIB, &combed);
    // allocated zeros are no hole
    std::fs::write(source.join("zeros"), vec![0; 1 << 20]).expect("written");
    tree::file(&source, "dir/dense", 300_000, 0o640);
    (dir, source)
}

const TOTAL: u64 = 72 * MIB + 4 + 300_000;
/// What of it is data, at most, with blocks of 4 KiB.
const DATA: u64 = 2 * 604_160 + 36 * 4096 + MIB + 303_104;

/// Bytes that files take on the disk.
fn on_disk(root: &Path) -> u64 {
    let entries = std::fs::read_dir(root).expect("readable").map(|e| e.expect("an entry"));
    let of = |entry: std::fs::DirEntry| match entry.file_type().expect("a kind").is_dir() {
        true => on_disk(&entry.path()),
        false => entry.metadata().expect("metadata").blocks() * 512,
    };
    entries.map(of).sum()
}

/// The same tree, with holes wherever the source has some.
fn assert_sparse(source: &Path, target: &Path) {
    assert_same(source, target);
    // extents that lie otherwise may take another block of the file system
    let slack = 64 << 10;
    let (there, here) = (on_disk(source), on_disk(target));
    assert!(here <= there + slack, "{here} bytes on the disk, {there} at the source");
}

async fn cold() -> TestNode {
    TestNode::with(|config| (config.is_cold, config.late_from) = (true, 0)).await
}

// SPEC §4.1, §5.4, §5.10
#[tokio::test(flavor = "multi_thread")]
async fn sparse_files_arrive_with_their_holes_in_both_orders_and_holes_are_not_on_the_wire() {
    let (dir, source) = source();
    for (n, is_late) in [false, true].into_iter().enumerate() {
        let exporting = if is_late { cold().await } else { TestNode::start().await };
        let importing = TestNode::start().await;
        let target = dir.path().join(format!("target {n}"));
        let (export, import) = migrate(&exporting, &importing, &source, &target).await;
        let (export, import) = (completed(&export).await, completed(&import).await);
        assert_sparse(&source, &target);
        assert_eq!((import.payload_bytes, export.payload_bytes), (TOTAL, TOTAL), "late: {is_late}");
        assert_eq!(import.wire_bytes, export.wire_bytes);
        assert!(import.wire_bytes <= DATA, "late: {is_late}: {} bytes of {DATA}", import.wire_bytes);
        // nothing is new: what stands there is copied, and its holes with it
        let (export, import) = migrate(&exporting, &importing, &source, &target).await;
        let (export, import) = (completed(&export).await, completed(&import).await);
        assert_eq!((import.payload_bytes, import.wire_bytes, export.wire_bytes), (0, 0, 0), "late: {is_late}");
        assert_sparse(&source, &target);
    }
}

// SPEC §5.4, §6.4
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_line_breaks_inside_a_hole_goes_on_there() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).expect("a directory");
    // a hole in frames of 15 bytes, after some data and before some more
    let (head, tail) = (noise(3, 1 << 20), noise(4, 8 << 20));
    sparse(&source.join("disk"), 200 * MIB, &[(0, &head), (192 * MIB, &tail)]);
    for is_late in [false, true] {
        let mut wire = Wire::of(&source).await;
        if is_late {
            wire.exporter = cold().await;
        }
        // behind the head, and before the first byte of the tail is through
        let cut = MIB + (14 << 10);
        wire.relay.fate(move |n| match n {
            0 => Fate { down: Course::ends(End::After(cut, How::Reset)), ..Fate::default() },
            _ => Fate::default(),
        });
        let offer = wire.offer().await;
        let job = wire.import(&offer).await;
        let lost = sees(&job, "cut", |view| view.waiting.is_some() || view.outcome.is_some()).await;
        assert!(lost.outcome.is_none(), "the line broke before the end");
        let before = lost.payload_bytes;
        assert!(before > MIB && before < 192 * MIB, "late: {is_late}: it broke after {before} bytes");
        let done = completed(&job).await;
        completed(&offer.job).await;
        // what was there is not sent again, but for the chunk that the cut went through
        assert!(done.payload_bytes <= 200 * MIB + u64::from(CHUNK), "{} bytes came in all", done.payload_bytes);
        assert!(done.wire_bytes <= 9 * MIB + u64::from(CHUNK), "{} bytes on the wire", done.wire_bytes);
        wire.is_whole();
        assert_sparse(&source, &wire.target());
    }
}

// SPEC §6.4: a process that died leaves what its disk has
#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_is_stopped_inside_a_hole_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).expect("a directory");
    let (head, tail) = (noise(3, 1 << 20), noise(4, 4 << 20));
    sparse(&source.join("disk"), 200 * MIB, &[(0, &head), (196 * MIB, &tail)]);
    let mut wire = Wire::of(&source).await;
    // 1 MiB of data and no more than a hole's frames
    wire.relay.fate(|_| Fate { down: Course::ends(End::After(MIB + (14 << 10), How::Silence)), ..Fate::default() });
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    sees(&job, "in the hole", |view| view.payload_bytes > MIB).await;
    wire.importer = wire.importer.restart().await;
    assert!(matches!(crate::support::end(&job).await, Outcome::Failed { .. }));
    wire.relay.fate(|_| Fate::default());
    let done = completed(&wire.import(&offer).await).await;
    assert!(done.wire_bytes <= 4 * MIB + u64::from(CHUNK), "{} bytes were sent again", done.wire_bytes);
    completed(&offer.job).await;
    wire.is_whole();
    assert_sparse(&source, &wire.target());
}

/// What an exporter sends to an importer that asks for holes, or does not.
async fn served(source: &Path, holes: bool) -> (bool, Served) {
    let exporting = TestNode::start().await;
    let offer = exporting.offer(source).await;
    let mut peer = Peer::dial(&offer.ticket).await;
    let ask = Redeem { holes, ..peer.redemption(&offer.ticket) };
    let answer = peer.ask(exporter(&offer.ticket), &encode(&Request::Redeem(ask))).await;
    let Ok(Response::Granted(granted)) = Response::decode(&answer) else { panic!("not granted: {answer:?}") };
    let agreed = granted.holes;
    let mut session = Importing::open(&mut peer, &offer.ticket, granted).await;
    let manifest = session.manifest().await;
    let served = session.bulk(&mut peer, &manifest).await;
    // the lane's last frames may still be on their way when the control stream says that they are sent
    let whole = async {
        while served.lock().expect("not poisoned").ended < manifest.counts().files as usize {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.expect("all files");
    let served = std::mem::take(&mut *served.lock().expect("not poisoned"));
    (agreed, served)
}

// SPEC §5.4, §6.2, §6.3
#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_did_not_ask_gets_the_zeros_and_one_that_did_gets_holes_only_for_holes() {
    let (_dir, source) = source();
    let (agreed, raw) = served(&source, false).await;
    assert_eq!((agreed, raw.bytes, raw.zeros), (false, TOTAL, 0));
    let (agreed, holes) = served(&source, true).await;
    assert_eq!((agreed, holes.bytes + holes.zeros), (true, TOTAL));
    // the zeros that were written are among them
    assert!(holes.bytes > DATA - 40 * 4096 && holes.bytes <= DATA, "{} bytes of {DATA}", holes.bytes);
}

/// A peer that grants holes.
fn with_holes() -> Answers {
    let granted = Granted { holes: true, ..granted() };
    Answers { redeem: encode(&Response::Granted(granted)), ..Answers::default() }
}

fn zeros(len: u32) -> Frame {
    Frame::FileZeros(FileZeros { len })
}

fn raw(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    codec::encode(frame, &mut out);
    out.to_vec()
}

/// Sends these bytes on a lane, after the importer agreed to one file of 1 MiB of zeros and its beginning came.
async fn on_a_lane(session: &mut Exporting, raw: &[u8]) {
    let content = vec![0; 4 * CHUNK as usize];
    session.agreed(&Listing::of(&[file("disk", &content)], content.len() as u64)).await;
    let mut lane = session.lane(0).await.expect("taken");
    lane.send(&begin(0, &content)).await;
    lane.raw(raw).await;
    let code = session.control.aborted().await.expect("told why");
    session.control.ended_with(code);
}

// SPEC §5.1, §5.4
#[tokio::test(flavor = "multi_thread")]
async fn holes_that_are_empty_too_large_without_end_or_malformed_end_the_session_by_name() {
    let (importer, world) = (TestNode::start().await, World::new());
    let cases: [(&str, Code, Vec<u8>); 6] = [
        ("of nothing", Code::FrameUnexpected, raw(&zeros(0))),
        ("larger than was agreed on", Code::FrameTooLarge, raw(&zeros(CHUNK + 1))),
        ("of 4 GiB", Code::FrameTooLarge, raw(&zeros(u32::MAX))),
        // 4 of them are the file, a fifth is patience
        ("past the declared size", Code::SizeMismatch, raw(&zeros(CHUNK)).repeat(6)),
        ("of a length that is no u32", Code::FrameUnknown, {
            [&[0x24, 0, 0, 0, 0, 0, 0, 11][..], &[0xa1, 0, 0x1b, 0, 0, 1, 0, 0, 0, 0, 0]].concat()
        }),
        ("in another encoding", Code::FrameUnknown, vec![0x24, 0, 0, 0, 0, 0, 0, 4, 0xa1, 0, 0x18, 7]),
    ];
    for (what, code, raw) in cases {
        let before = world.snapshot();
        let mut peer = Peer::answering(with_holes()).await;
        let job = importer.import(&peer.ticket(), &world.target()).await;
        let mut session = peer.exporting().await;
        on_a_lane(&mut session, &raw).await;
        assert_eq!(session.control.aborted().await, Some(code), "{what}");
        drop(session);
        assert_eq!(failed(&job).await, code, "{what}");
        assert_images(&before, &world.snapshot());
        assert!(leftovers(&world.path("parent")).is_empty(), "{what}");
    }
}

// SPEC §5.4, §6.2
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_was_not_agreed_on_ends_the_session_by_name() {
    let (importer, world) = (TestNode::start().await, World::new());
    let right = raw(&zeros(CHUNK));
    refused(&importer, &world, "not agreed", Code::FrameUnexpected, async |session| {
        on_a_lane(session, &right).await;
    })
    .await;
}

// SPEC §4.1: 64 MiB of zeros in a few frames, of which nobody said that they would be holes
#[tokio::test(flavor = "multi_thread")]
async fn holes_are_taken_from_an_exporter_that_says_nothing_of_them_in_its_manifest() {
    let (importer, world) = (TestNode::start().await, World::new());
    let mut content = vec![0; 64 << 20];
    content[..CHUNK as usize].fill(7);
    let listing = Listing::of(&[file("disk", &content)], content.len() as u64);
    let mut peer = Peer::answering(with_holes()).await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.agreed(&listing).await;
    let mut lane = session.lane(0).await.expect("taken");
    lane.send(&begin(0, &content)).await;
    lane.send(&chunk(&content[..CHUNK as usize])).await;
    for _ in 1..content.len() / CHUNK as usize {
        lane.send(&zeros(CHUNK)).await;
    }
    lane.send(&end(0)).await;
    session.control.send(&phase_end(1, content.len() as u64)).await;
    assert_eq!(session.finalize(&listing).await, None);
    drop((session, lane));
    let done = completed(&job).await;
    assert_eq!((done.payload_bytes, done.wire_bytes), (content.len() as u64, u64::from(CHUNK)));
    assert!(std::fs::read(world.path("parent/target/disk")).unwrap() == content);
}

// SPEC §4.1
#[tokio::test(flavor = "multi_thread")]
async fn a_pebibyte_whose_data_fits_is_agreed_to_and_one_whose_data_does_not_is_refused() {
    let (importer, world) = (TestNode::start().await, World::new());
    let header = |total: u64, data: u64| map(&[(0, uint(4)), (1, uint(1)), (2, uint(total)), (7, uint(data))]);
    let listing = |total: u64, data: u64| {
        let entry = crate::support::raw::file_with("disk", b"x", 2, uint(total));
        Listing::under(header(total, data), &[entry], 1, total)
    };
    const PIB: u64 = 1 << 50;
    let cases = [
        ("as much data as there is in all", Code::ManifestInvalid, listing(PIB, PIB)),
        ("more data than there is in all", Code::ManifestInvalid, listing(PIB, PIB + 1)),
        ("too much data", Code::NoSpace, listing(PIB, PIB / 2)),
    ];
    for (what, code, listing) in cases {
        refused(&importer, &world, what, code, async |session| session.offer(&listing).await).await;
    }
    let mut peer = Peer::answering(with_holes()).await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.agreed(&listing(PIB, MIB)).await;
    job.abort().await;
    drop(session);
    failed(&job).await;
}

//! Packed chunks (SPEC §5.4, §6.2): agreed on, worth it, and never in the way.

use std::path::{Path, PathBuf};

use me_sync_node::{Compression, Outcome};
use me_sync_protocol::message::{Redeem, Request, Response, encode};
use tempfile::TempDir;

use crate::support::peer::{Importing, Peer, Served, exporter};
use crate::support::relay::{Course, End, Fate, How};
use crate::support::tree::{assert_same, noise};
use crate::support::wire::{Wire, sees};
use crate::support::{TestNode, completed, migrate};

const MIB: usize = 1 << 20;

/// A tree of files with such content, each of so many MiB.
fn tree(files: &[usize], content: impl Fn(usize) -> Vec<u8>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).expect("a directory");
    for (n, mib) in files.iter().enumerate() {
        std::fs::write(source.join(format!("f{n}")), content(mib * MIB)).expect("written");
    }
    (dir, source)
}

fn text(len: usize) -> Vec<u8> {
    let mut text = String::with_capacity(len + 100);
    for n in 0_u64.. {
        if text.len() >= len {
            break;
        }
        let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        text += &format!("2026-11-28 12:{:02}:{:02} worker {} took {hash} bytes\n", n / 60 % 60, n % 60, hash % 7);
    }
    text.truncate(len);
    text.into_bytes()
}

async fn node(compression: Compression) -> TestNode {
    TestNode::with(|config| config.compression = compression).await
}

// SPEC §5.4
#[tokio::test(flavor = "multi_thread")]
async fn a_text_tree_over_a_slow_line_goes_packed_by_itself_and_arrives_identical() {
    let (_dir, source) = tree(&[16, 8, 8, 8, 8], text);
    let wire = Wire::of(&source).await;
    wire.relay.fate(|_| Fate::slow(8_000_000));
    let offer = wire.offer().await;
    let import = completed(&wire.import(&offer).await).await;
    let export = completed(&offer.job).await;
    wire.is_whole();
    assert_eq!((import.payload_bytes, export.payload_bytes), (48 * MIB as u64, 48 * MIB as u64));
    assert_eq!(import.wire_bytes, export.wire_bytes);
    let over_the_line = wire.relay.down().bytes();
    assert!(import.wire_bytes < over_the_line, "{over_the_line} came, {import:?}");
    assert!(over_the_line < 24 * MIB as u64, "{over_the_line} bytes for 48 MiB of text");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_sides_say_of_it_is_what_either_wants() {
    let (dir, source) = tree(&[3], text);
    let cases = [
        (Compression::Always, Compression::Auto, true),
        (Compression::Always, Compression::Never, false),
        (Compression::Never, Compression::Always, false),
    ];
    for (n, (sending, receiving, is_packed)) in cases.into_iter().enumerate() {
        let (a, b) = (node(sending).await, node(receiving).await);
        let target = dir.path().join(format!("target {n}"));
        let (export, import) = migrate(&a, &b, &source, &target).await;
        let (export, import) = (completed(&export).await, completed(&import).await);
        assert_same(&source, &target);
        assert_eq!(import.wire_bytes, export.wire_bytes);
        assert_eq!(import.payload_bytes, 3 * MIB as u64);
        let was_packed = import.wire_bytes < import.payload_bytes / 2;
        assert_eq!(was_packed, is_packed, "{sending:?} to {receiving:?}: {} bytes", import.wire_bytes);
        assert!(is_packed || import.wire_bytes == import.payload_bytes);
    }
}

/// What an exporter that packs whatever shrinks sends to an importer that asks for that, or does not.
async fn served(source: &Path, zstd: bool) -> (bool, Served) {
    let exporting = node(Compression::Always).await;
    let offer = exporting.offer(source).await;
    let mut peer = Peer::dial(&offer.ticket).await;
    let ask = Redeem { zstd, ..peer.redemption(&offer.ticket) };
    let answer = peer.ask(exporter(&offer.ticket), &encode(&Request::Redeem(ask))).await;
    let Ok(Response::Granted(granted)) = Response::decode(&answer) else { panic!("not granted: {answer:?}") };
    let agreed = granted.zstd;
    let mut session = Importing::open(&mut peer, &offer.ticket, granted).await;
    let manifest = session.manifest().await;
    let served = session.bulk(&mut peer, &manifest).await;
    // the lane's last frames may still be on their way when the control stream says that they are sent
    let whole = async {
        while served.lock().expect("not poisoned").ended < manifest.entries().count() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, whole).await.expect("all files");
    let served = std::mem::take(&mut *served.lock().expect("not poisoned"));
    (agreed, served)
}

// SPEC §6.2, §6.3
#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_did_not_ask_gets_raw_chunks_only() {
    let (_dir, source) = tree(&[1, 2], text);
    let (agreed, raw) = served(&source, false).await;
    assert_eq!((agreed, raw.bytes, raw.packed), (false, 3 * MIB as u64, 0));
    let (agreed, packed) = served(&source, true).await;
    assert_eq!((agreed, packed.bytes, packed.packed), (true, 0, 3 * MIB as u64));
}

// SPEC §5.4
#[tokio::test(flavor = "multi_thread")]
async fn of_what_does_not_shrink_no_packed_chunk_is_ever_sent() {
    let (_dir, source) = tree(&[1, 2], |len| noise(len as u32, len));
    let (agreed, served) = served(&source, true).await;
    assert_eq!((agreed, served.bytes, served.packed), (true, 3 * MIB as u64, 0));
}

// SPEC §5.4, §6.4
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_file_goes_on_where_its_content_ended_when_the_line_broke() {
    const SIZE: u64 = 24 * MIB as u64;
    let (_dir, source) = tree(&[24], text);
    let mut wire = Wire::of(&source).await;
    wire.exporter = node(Compression::Always).await;
    let cut = 1_500_000;
    wire.relay.fate(move |n| match n {
        0 => Fate { down: Course::ends(End::After(cut, How::Reset)), ..Fate::default() },
        _ => Fate::default(),
    });
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    let lost = sees(&job, "cut", |view| view.waiting.is_some() || view.outcome.is_some()).await;
    assert!(lost.outcome.is_none(), "the line broke before the end");
    assert!(lost.payload_bytes > 2 * cut && lost.payload_bytes < SIZE, "{} bytes", lost.payload_bytes);
    let done = completed(&job).await;
    // what was there is not sent again: the rest, and the chunk that the cut went through
    assert!(done.payload_bytes <= SIZE + (256 << 10), "{} bytes came in all", done.payload_bytes);
    assert!(done.wire_bytes < done.payload_bytes / 2);
    completed(&offer.job).await;
    wire.is_whole();
}

// SPEC §6.4: what was agreed on is no property of the session
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_importer_that_takes_nothing_packed_goes_on_with_raw_chunks() {
    let (_dir, source) = tree(&[12], text);
    let mut wire = Wire::of(&source).await;
    wire.exporter = node(Compression::Always).await;
    wire.relay.fate(|_| Fate::slow(1_000_000));
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    sees(&job, "moving", |view| view.payload_bytes > MIB as u64).await;
    wire.importer.change(|config| config.compression = Compression::Never);
    wire.importer = wire.importer.restart().await;
    assert!(matches!(crate::support::end(&job).await, Outcome::Failed { .. }));
    wire.relay.fate(|_| Fate::default());
    let done = completed(&wire.import(&offer).await).await;
    assert!(done.payload_bytes < 12 * MIB as u64, "{} bytes were sent again", done.payload_bytes);
    assert_eq!(done.wire_bytes, done.payload_bytes);
    completed(&offer.job).await;
    wire.is_whole();
}

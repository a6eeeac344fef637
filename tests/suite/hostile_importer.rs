//! A real exporter against importers that ask for what is not theirs (RELIABILITY A57-A62): named refusals, bounded
//! service, and a source that stays as it is.

use me_sync_node::{JobHandle, Outcome};
use me_sync_protocol::frame::{FailedEntry, FinalizeResult, Frame, IndexRange, PartialFile, PendingList, RetryRequest};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::{Code, FailureReason};

use crate::support::peer::{Importing, Peer, chunk, finalize};
use crate::support::raw::{Listing, head, int, map, text, uint};
use crate::support::tree::{assert_images, file, image};
use crate::support::{TestNode, completed, end, failed, migrate, waits_for_peer};

struct Bench {
    node: TestNode,
    dir: tempfile::TempDir,
}

impl Bench {
    /// A source of five files (1500 bytes) and a directory, with a secret beside it.
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (n, name) in ["a", "b", "d/c", "d/e", "f"].iter().enumerate() {
            file(&dir.path().join("source"), name, (n + 1) * 100, 0o644);
        }
        file(dir.path(), "secret", 5000, 0o600);
        Self { node: TestNode::start().await, dir }
    }

    /// A redeemed offer and the manifest.
    async fn session(&self) -> (Peer, Importing, Manifest, JobHandle) {
        let offer = self.node.offer(&self.dir.path().join("source")).await;
        let mut peer = Peer::dial(&offer.ticket).await;
        let mut session = peer.importing(&offer.ticket).await;
        let manifest = session.manifest().await;
        (peer, session, manifest, offer.job)
    }

    /// Honest work is still done, and nothing at the source has changed.
    async fn is_well(&self, what: &str, before: &std::collections::BTreeMap<String, crate::support::tree::Image>) {
        let (target, importer) = (tempfile::tempdir().expect("a temporary directory"), TestNode::start().await);
        let (_, job) = migrate(&self.node, &importer, &self.dir.path().join("source"), &target.path().join("t")).await;
        completed(&job).await;
        assert_images(before, &image(self.dir.path()));
        assert!(target.path().join("t/f").exists(), "{what}");
    }
}

fn failures(indices: impl IntoIterator<Item = u32>) -> Vec<FailedEntry> {
    let entry = |index| FailedEntry { index: EntryIndex(index), reason: FailureReason::HashMismatch };
    indices.into_iter().map(entry).collect()
}

fn retry(round: u32, indices: impl IntoIterator<Item = u32>) -> Frame {
    Frame::RetryRequest(RetryRequest { round, failed: failures(indices), more: false })
}

fn raw_retry(index: Vec<u8>) -> Vec<u8> {
    let entry = [head(4, 1), head(4, 2), index, uint(1)].concat();
    let body = map(&[(0, uint(1)), (1, entry), (2, vec![0xf4])]);
    [&[0x31, 0, 0, 0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_what_is_missing_name_entries_of_the_manifest_or_end_the_session() {
    let bench = Bench::start().await;
    let before = image(bench.dir.path());
    let list = |ranges: &[(u32, u32)], partial: &[(u32, u64)]| {
        Frame::PendingList(PendingList {
            ranges: ranges.iter().map(|(start, len)| IndexRange { start: EntryIndex(*start), len: *len }).collect(),
            partial: partial.iter().map(|(i, offset)| PartialFile { index: EntryIndex(*i), offset: *offset }).collect(),
            more: false,
        })
    };
    let out = Code::FrameUnexpected;
    let cases = [
        ("A57 past the end", out, list(&[(0, 7)], &[])),
        ("A57 far past the end", out, list(&[(u32::MAX, 1)], &[])),
        ("A57 a sum that overflows", out, list(&[(1, u32::MAX)], &[])),
        ("A57 an empty range", out, list(&[(0, 0)], &[])),
        ("A57 ranges that overlap", out, list(&[(0, 3), (1, 2)], &[])),
        ("A57 ranges out of order", out, list(&[(4, 1), (0, 1)], &[])),
        ("A57 bytes past the end", Code::OffsetMismatch, list(&[(0, 6)], &[(0, 1 << 40)])),
        ("A49 finalize from the importer", out, finalize(&Listing::of(&[], 0))),
        ("A52 a chunk from the importer", out, chunk(b"x")),
        ("A52 a manifest from the importer", out, Frame::ManifestBegin(vec![0xa0].into())),
        ("A57 a retry before the bulk", out, retry(1, [0])),
        ("A60 a result before the end", out, Frame::FinalizeResult(FinalizeResult { failed: None })),
    ];
    for (what, code, frame) in cases {
        let (_peer, mut session, _, job) = bench.session().await;
        session.control.send(&frame).await;
        assert_eq!(session.control.aborted().await, Some(code), "{what}");
        drop(session);
        assert_eq!(failed(&job).await, code, "{what}");
    }
    bench.is_well("lists", &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_request_can_only_name_files_of_the_manifest() {
    let bench = Bench::start().await;
    let before = image(bench.dir.path());
    let out = Code::FrameUnexpected;
    let framed = |frame: Frame| {
        let mut raw = bytes::BytesMut::new();
        me_sync_protocol::codec::encode(&frame, &mut raw);
        raw.to_vec()
    };
    let cases = [
        ("A57 index past the end", out, framed(retry(1, [6]))),
        ("A57 the largest index", out, framed(retry(1, [u32::MAX]))),
        ("A57 the same twice", out, framed(retry(1, [0, 0]))),
        ("A57 4096 times the same", out, framed(retry(1, std::iter::repeat_n(0, 4096)))),
        ("A57 a directory", out, framed(retry(1, [2]))),
        ("A57 another round", out, framed(retry(2, [0]))),
        ("A57 a negative index", Code::FrameUnknown, raw_retry(int(-1))),
        ("A57 a path", Code::FrameUnknown, raw_retry(text("../../etc/passwd"))),
    ];
    for (what, code, raw) in cases {
        let (mut peer, mut session, manifest, job) = bench.session().await;
        let served = session.bulk(&mut peer, &manifest).await;
        session.control.raw(&raw).await;
        assert_eq!(session.control.aborted().await, Some(code), "{what}");
        drop(session);
        assert_eq!(failed(&job).await, code, "{what}");
        assert!(served.lock().unwrap().bytes <= 1500, "{what}");
    }
    bench.is_well("retries", &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_is_never_content_is_served_three_rounds_and_no_more() {
    // A58
    let bench = Bench::start().await;
    let before = image(bench.dir.path());
    let (mut peer, mut session, manifest, job) = bench.session().await;
    let files = [0, 1, 3, 4, 5];
    let served = session.bulk(&mut peer, &manifest).await;
    for round in 1..=3 {
        session.control.send(&retry(round, files)).await;
        assert!(matches!(session.control.next_deed().await, Some(Frame::RetryBegin(begin)) if begin.round == round));
        assert!(matches!(session.control.next_deed().await, Some(Frame::RetryEnd(end)) if end.round == round));
    }
    session.control.send(&retry(4, files)).await;
    assert_eq!(session.control.aborted().await, Some(Code::RetryExhausted));
    drop(session);
    assert_eq!(failed(&job).await, Code::RetryExhausted);
    {
        let served = served.lock().unwrap();
        assert!(served.bytes <= 4 * 1500 && served.files.len() <= 20, "{} bytes", served.bytes);
        assert!(served.files.iter().all(|index| files.contains(index)));
    }
    bench.is_well("rounds", &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_lies_about_its_success_changes_nothing_here() {
    // A60: it takes nothing and says that all is well
    let bench = Bench::start().await;
    let before = image(bench.dir.path());
    let (_peer, mut session, _, job) = bench.session().await;
    session.control.send(&Frame::PendingList(PendingList { ranges: vec![], partial: vec![], more: false })).await;
    assert!(matches!(session.control.next_deed().await, Some(Frame::PhaseEnd(_))));
    session.control.send(&retry(1, [])).await;
    assert!(matches!(session.control.next_deed().await, Some(Frame::FinalizeRequest(_))));
    session.control.send(&Frame::FinalizeResult(FinalizeResult { failed: None })).await;
    drop(session);
    assert!(matches!(end(&job).await, Outcome::Completed(_)));
    bench.is_well("a lie", &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_vanishes_in_the_middle_is_waited_for_and_holds_nobody_else_up() {
    let bench = Bench::start().await;
    let before = image(bench.dir.path());
    let (mut peer, mut session, manifest, job) = bench.session().await;
    session.bulk(&mut peer, &manifest).await;
    drop((session, peer));
    waits_for_peer(&job).await;
    bench.is_well("gone", &before).await;
    job.abort().await;
    assert_eq!(failed(&job).await, Code::Aborted);
}

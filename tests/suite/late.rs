//! The late order (SPEC §5.10) between real nodes, and against peers that break its rules.

use std::path::Path;

use me_sync_protocol::frame::{FailedEntry, FinalizeRequest, Frame, RetryBegin, RetryEnd, RetryRequest};
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::message::Redeem;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::{Code, FailureReason};

use crate::support::peer::{Exporting, Peer, begin, begin_late, chunk, end_late, finalize, phase_end};
use crate::support::raw::{self, Listing, dir, file, file_late};
use crate::support::tree::{self, assert_images, image};
use crate::support::world::{World, refused};
use crate::support::{TestNode, completed, failed, leftovers, migrate};

/// A node whose sources are never hashed when somebody asks for them.
async fn cold() -> TestNode {
    TestNode::with(|config| (config.is_cold, config.late_from) = (true, 0)).await
}

fn source(at: &Path) {
    for (n, name) in ["a", "b", "d/c", "d/e", "f"].iter().enumerate() {
        tree::file(at, name, n * 40_000, 0o644);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_tree_arrives_as_it_is_also_when_chunks_are_spoilt_on_their_way() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    source(&dir.path().join("source"));
    let spoilt = me_sync_node::hooks::FaultPlan::corrupt_first_byte(&[("b", 1), ("f", 2)]);
    for (n, faults) in [Default::default(), spoilt].into_iter().enumerate() {
        let exporter = TestNode::with(|config| {
            (config.is_cold, config.late_from, config.faults) = (true, 0, faults);
        })
        .await;
        let (importer, target) = (TestNode::start().await, dir.path().join(format!("target{n}")));
        let (out, into) = migrate(&exporter, &importer, &dir.path().join("source"), &target).await;
        let (sent, arrived) = (completed(&out).await, completed(&into).await);
        assert_eq!(sent.manifest_sha256, arrived.manifest_sha256);
        assert_images(&image(&dir.path().join("source")), &image(&target));
        // the next one finds something, and the same hashes
        let (out, into) = migrate(&exporter, &importer, &dir.path().join("source"), &target).await;
        let (again, _) = (completed(&out).await, completed(&into).await);
        assert_eq!((again.manifest_sha256, again.payload_bytes), (sent.manifest_sha256, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outline_goes_to_who_asked_for_it_and_its_seal_is_the_manifest_that_others_get() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    source(dir.path());
    let node = cold().await;
    let mut outcomes = Vec::new();
    for late_hashes in [Some(true), Some(false), None] {
        let offer = node.offer(dir.path()).await;
        let mut peer = Peer::dial(&offer.ticket).await;
        let redeem = Redeem { late_hashes, ..peer.redemption(&offer.ticket) };
        let mut session = peer.importing_by(&offer.ticket, redeem).await;
        let manifest = session.manifest().await;
        // what was sent before is in the cache of hashes by now, or is hashed again
        assert!(!manifest.is_outline() || late_hashes == Some(true));
        outcomes.push((manifest.is_outline(), manifest.outline_sha256()));
        session.bulk(&mut peer, &manifest).await;
        session.control.send(&Frame::RetryRequest(RetryRequest { round: 1, failed: vec![], more: false })).await;
        let Some(Frame::FinalizeRequest(request)) = session.control.next_deed().await else { panic!("not asked") };
        let bytes = |entry: &me_sync_protocol::manifest::Entry<'_>| {
            std::fs::read(dir.path().join(entry.path.as_str())).expect("it is there")
        };
        let sealed = match manifest.is_outline() {
            true => {
                let hash = |(_, e): (_, me_sync_protocol::manifest::Entry<'_>)| match e.is_file() {
                    true => Digest(raw::sha(&bytes(&e))),
                    false => Digest([0; Digest::LEN]),
                };
                manifest.seal(manifest.entries().map(hash).collect()).expect("all")
            }
            false => manifest,
        };
        assert_eq!(request.manifest_sha256, sealed.sha256());
        drop(session);
        offer.job.abort().await;
    }
    assert!(outcomes[0].0 && outcomes.iter().all(|(_, outline)| *outline == outcomes[0].1), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_has_something_refuses_an_outline() {
    let (importer, world) = (TestNode::start().await, World::new());
    let outline = Listing::outline(&[file_late("a", b"alpha")], 5);
    refused(&importer, &world, "an outline", Code::ManifestInvalid, async |s| s.offer(&outline).await).await;
}

/// Entries 0 `a` ("alpha"), 1 `d` (a directory), 2 `e` ("echo"): the outline, and what seals it.
fn three() -> (Listing, Listing) {
    let outline = [file_late("a", b"alpha"), dir("d"), file_late("e", b"echo")];
    let sealed = [file("a", b"alpha"), dir("d"), file("e", b"echo")];
    (Listing::outline(&outline, 9), Listing::of(&sealed, 9))
}

/// An importer with nothing at its target works by the outline of [`three`].
async fn begun(importer: &TestNode, target: &Path) -> (Peer, Exporting, me_sync_node::JobHandle) {
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), target).await;
    let mut session = peer.exporting().await;
    session.agreed(&three().0).await;
    (peer, session, job)
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_late_order_end_the_session_by_name() {
    let importer = TestNode::start().await;
    let out = Code::FrameUnexpected;
    let cases: Vec<(&str, Vec<Frame>)> = vec![
        ("a hash that the outline does not have", vec![begin(0, b"alpha")]),
        ("another size", vec![begin_late(0, 6)]),
        ("an end without its hash", vec![begin_late(0, 5), chunk(b"alpha"), crate::support::peer::end(0)]),
    ];
    for (what, frames) in cases {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (_peer, mut session, job) = begun(&importer, &dir.path().join("t")).await;
        let mut lane = session.lane(0).await.expect("taken");
        for frame in &frames {
            lane.send(frame).await;
        }
        assert_eq!(session.control.aborted().await, Some(out), "{what}");
        drop((session, lane));
        assert_eq!(failed(&job).await, out, "{what}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hash_at_the_end_costs_the_file_and_a_wrong_seal_the_session() {
    let importer = TestNode::start().await;
    let (outline, sealed) = three();
    for (what, last, end) in [
        ("the seal", finalize(&sealed), None),
        ("the outline", finalize(&outline), Some(Code::ManifestMismatch)),
        (
            "another seal",
            Frame::FinalizeRequest(FinalizeRequest {
                manifest_sha256: Digest([1; 32]),
                entry_count: 3,
                total_bytes: 9,
            }),
            Some(Code::ManifestMismatch),
        ),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("t");
        let (_peer, mut session, job) = begun(&importer, &target).await;
        let mut lane = session.lane(0).await.expect("taken");
        for frame in [
            [begin_late(0, 5), chunk(b"alpha"), end_late(0, b"alphA")],
            [begin_late(2, 4), chunk(b"echo"), end_late(2, b"echo")],
        ]
        .concat()
        {
            lane.send(&frame).await;
        }
        session.control.send(&phase_end(2, 9)).await;
        let Some(Frame::RetryRequest(asked)) = session.control.next_deed().await else { panic!("{what}") };
        let entry = FailedEntry { index: EntryIndex(0), reason: FailureReason::HashMismatch };
        assert_eq!(asked.failed, [entry], "{what}");
        session.control.send(&Frame::RetryBegin(RetryBegin { round: 1, files: 1 })).await;
        for frame in [begin_late(0, 5), chunk(b"alpha"), end_late(0, b"alpha")] {
            lane.send(&frame).await;
        }
        session.control.send(&Frame::RetryEnd(RetryEnd { round: 1, files: 1, bytes: 5 })).await;
        let Some(Frame::RetryRequest(asked)) = session.control.next_deed().await else { panic!("{what}") };
        assert!(asked.failed.is_empty(), "{what}");
        session.control.send(&last).await;
        match end {
            None => {
                let Some(Frame::FinalizeResult(result)) = session.control.next_deed().await else { panic!("{what}") };
                assert_eq!(result.failed, None, "{what}");
                drop((session, lane));
                completed(&job).await;
                assert_eq!(std::fs::read(target.join("a")).expect("it is there"), b"alpha");
            }
            Some(code) => {
                assert_eq!(session.control.aborted().await, Some(code), "{what}");
                drop((session, lane));
                assert_eq!(failed(&job).await, code, "{what}");
                assert!(!target.exists(), "{what}");
            }
        }
    }
}

/// Four files that keep the lanes busy, and some behind them that are there in time to be changed.
fn busy(at: &Path) {
    for name in ["a", "b", "c", "d"] {
        tree::file(at, name, 3 << 20, 0o644);
    }
    for name in ["x", "y", "z"] {
        tree::file(at, name, 5000, 0o644);
    }
}

// SPEC §5.6-6
#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_or_vanish_while_the_tree_is_sent_cost_nothing_but_themselves() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (n, exporter) in [cold().await, TestNode::start().await].into_iter().enumerate() {
        let (source, target) = (dir.path().join(format!("source{n}")), dir.path().join(format!("target{n}")));
        busy(&source);
        let importer = TestNode::start().await;
        let offer = exporter.offer(&source).await;
        offer.job.set_limit(Some("200K".parse().expect("a rate")));
        let into = importer.import(&offer.ticket, &target).await;
        let mut views = into.watch();
        views.wait_for(|v| v.phase == Phase::BulkTransferring && v.payload_bytes > 0).await.expect("it moves");
        let first = into.view().session_id;
        std::fs::write(source.join("x"), "another content").expect("written");
        std::fs::remove_file(source.join("y")).expect("removed");
        tree::file(&source, "new", 100, 0o600);
        offer.job.set_limit(None);
        let (sent, arrived) = (completed(&offer.job).await, completed(&into).await);
        assert_ne!(into.view().session_id, first, "another session takes its place");
        assert_images(&image(&source), &image(&target));
        // nothing came twice
        assert_eq!((sent.payload_bytes, arrived.payload_bytes), (arrived.bytes, arrived.bytes));
        assert_eq!(leftovers(dir.path()), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hashed_is_never_shown_as_sent() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    source(dir.path());
    let node = TestNode::start().await;
    let offer = node.offer(dir.path()).await;
    let mut views = offer.job.watch();
    let waits = |view: &me_sync_node::JobView| {
        assert_eq!((view.progress.files_ok, view.progress.bytes_received), (0, 0), "{view:#?}");
        view.progress.detail == "waiting for the other device"
    };
    let view = views.wait_for(waits).await.expect("it waits").clone();
    assert_eq!((view.progress.files_total, view.progress.bytes_total), (5, 400_000));
    assert_eq!((view.progress.bytes_hashed, view.progress.transfer_bps), (None, 0));
    offer.job.abort().await;
    failed(&offer.job).await;
    assert_eq!(offer.job.view().progress.bytes_received, 0);
}

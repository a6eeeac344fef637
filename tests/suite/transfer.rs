//! The main job: a tree moves, is verified, and is applied whole.

use me_sync_node::net::Transports;
use me_sync_node::{ImportError, ImportOptions};

use crate::support::tree::{assert_images, assert_same, file, image, sample};
use crate::support::{TestNode, completed, failed, leftovers, migrate};
use me_sync_protocol::reason::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_arrives_identical_at_a_target_that_did_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    sample(&source);
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    let (export, import) = migrate(&a, &b, &source, &target).await;
    let done = completed(&import).await;
    assert_eq!(completed(&export).await.manifest_sha256, done.manifest_sha256);
    for job in [&export, &import] {
        let peer = job.view().peer.expect("both sides know the other");
        assert_eq!((peer.device_name.as_str(), peer.transport.as_deref()), ("test device", Some("tcp")));
    }
    assert_same(&source, &target);
    assert_eq!(done.retained, None);
    assert!(leftovers(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_quic() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    sample(&source);
    let quic = Transports { tcp: false, quic: true, ws: false };
    let (a, b) = (TestNode::over(quic).await, TestNode::over(quic).await);
    let (_, import) = migrate(&a, &b, &source, &target).await;
    completed(&import).await;
    assert_eq!(import.view().peer.and_then(|p| p.transport).as_deref(), Some("quic"));
    assert_same(&source, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_websocket_also_to_a_device_that_prefers_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample(&source);
    let ws = Transports { tcp: false, quic: false, ws: true };
    for (n, importer) in [TestNode::over(ws).await, TestNode::start().await].into_iter().enumerate() {
        let target = dir.path().join(format!("target-{n}"));
        let exporter = TestNode::over(ws).await;
        let (export, import) = migrate(&exporter, &importer, &source, &target).await;
        completed(&import).await;
        completed(&export).await;
        let carriers = [&export, &import].map(|job| job.view().peer.and_then(|peer| peer.transport));
        assert_eq!(carriers, [Some("ws".to_owned()), Some("ws".to_owned())]);
        assert_same(&source, &target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_tree_is_replaced_whole_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    sample(&source);
    file(&target, "old/file", 100, 0o644);
    file(&target, "a.txt", 5, 0o600);
    let old = image(&target);
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    let (_, import) = migrate(&a, &b, &source, &target).await;
    let retained = completed(&import).await.retained.expect("the old tree is kept");
    assert_same(&source, &target);
    assert_images(&old, &image(&retained));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_tree_and_a_single_file_are_trees() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (_, import) = migrate(&a, &b, &empty, &dir.path().join("one")).await;
    assert_eq!(completed(&import).await.files, 0);
    assert_same(&empty, &dir.path().join("one"));
    file(dir.path(), "lone file", 1000, 0o640);
    let (_, import) = migrate(&a, &b, &dir.path().join("lone file"), &dir.path().join("two")).await;
    assert_eq!(completed(&import).await.files, 1);
    let (sent, got) = (dir.path().join("lone file"), dir.path().join("two/lone file"));
    assert_eq!(std::fs::read(sent).unwrap(), std::fs::read(got).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_exporter_serves_several_importers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample(&source);
    let exporter = TestNode::start().await;
    let mut importers = Vec::new();
    for n in 0..3 {
        let importer = TestNode::start().await;
        let (_, job) = migrate(&exporter, &importer, &source, &dir.path().join(format!("target{n}"))).await;
        importers.push((importer, job));
    }
    for (n, (_, job)) in importers.iter().enumerate() {
        completed(job).await;
        assert_same(&source, &dir.path().join(format!("target{n}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_exporters_fill_one_importer_which_sends_too() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample(&source);
    let (a, b, both) = (TestNode::start().await, TestNode::start().await, TestNode::start().await);
    let (_, one) = migrate(&a, &both, &source, &dir.path().join("one")).await;
    let (_, two) = migrate(&b, &both, &source, &dir.path().join("two")).await;
    let (_, three) = migrate(&both, &a, &source, &dir.path().join("three")).await;
    for (job, name) in [(one, "one"), (two, "two"), (three, "three")] {
        completed(&job).await;
        assert_same(&source, &dir.path().join(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_ticket_opens_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample(&source);
    let (a, b, c) = (TestNode::start().await, TestNode::start().await, TestNode::start().await);
    let offer = a.offer(&source).await;
    completed(&b.import(&offer.ticket, &dir.path().join("first")).await).await;
    let again = b.node.handle().import(offer.ticket.clone(), ImportOptions::new(dir.path().join("second"))).await;
    assert!(matches!(again, Err(ImportError::Applied { .. })), "{again:?}");
    let job = c.import(&offer.ticket, &dir.path().join("second")).await;
    assert_eq!(failed(&job).await, Code::TicketInvalid);
    assert!(!dir.path().join("second").exists());
    assert!(leftovers(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_its_staging_is_made_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    for n in 0..10_000 {
        std::fs::create_dir_all(source.join(format!("{}/{n}", n % 100))).unwrap();
    }
    file(&source, "f", 1, 0o644);
    let place = dir.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    let (export, import) = migrate(&a, &b, &source, &place.join("target")).await;
    while !leftovers(&place).iter().any(|p| p.join("0").exists()) {
        assert!(import.view().outcome.is_none(), "the staging tree is seen before the end");
        tokio::task::yield_now().await;
    }
    export.abort().await;
    failed(&import).await;
    assert!(leftovers(&place).is_empty(), "nothing is left when the end is heard of");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_does_not_wait_for_an_importer_that_stopped_right_after_it_redeemed() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    file(&source, "f", 1 << 20, 0o644);
    for n in 0..5 {
        let (a, b) = (TestNode::start().await, TestNode::start().await);
        let (export, import) = migrate(&a, &b, &source, &dir.path().join(format!("target{n}"))).await;
        while export.view().session_id.is_none() {
            tokio::task::yield_now().await;
        }
        import.abort().await;
        assert_eq!(failed(&import).await, Code::Aborted);
        assert!(matches!(failed(&export).await, Code::Aborted | Code::PeerGone));
    }
}

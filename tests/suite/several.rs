//! One source for several importers at once: as many tickets and sessions, one hashing and one manifest.

use std::path::{Path, PathBuf};

use futures::future::join_all;
use me_sync_node::hooks::HashCount;
use me_sync_node::limit::Rate;
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{JobHandle, Offer, OfferError, OfferOptions};
use me_sync_protocol::reason::Code;

use crate::support::tree::{assert_same, file, sample};
use crate::support::wire::sees;
use crate::support::{TestNode, completed, failed, leftovers};

async fn try_offer(node: &TestNode, source: &Path, devices: usize) -> Result<Vec<Offer>, OfferError> {
    let source = Source::scan(source, &ScanOptions::default()).expect("the source is fine");
    node.node.handle().offer_to_many(source, OfferOptions::default(), devices).await
}

async fn offer(node: &TestNode, source: &Path, devices: usize) -> Vec<Offer> {
    try_offer(node, source, devices).await.expect("offered")
}

/// Importers that have begun with one offer each.
struct Importers {
    nodes: Vec<TestNode>,
    jobs: Vec<JobHandle>,
    dir: tempfile::TempDir,
}

impl Importers {
    async fn of(offers: &[Offer]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let nodes = join_all(offers.iter().map(|_| TestNode::start())).await;
        let each = nodes.iter().zip(offers).enumerate();
        let jobs =
            each.map(async |(n, (node, offer))| node.import(&offer.ticket, &dir.path().join(format!("{n}"))).await);
        let jobs = join_all(jobs).await;
        Self { nodes, jobs, dir }
    }

    fn target(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("{n}"))
    }
}

fn bytes(source: &Path) -> u64 {
    Source::scan(source, &ScanOptions::default()).expect("the source is fine").summary().bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_importers_at_once_get_the_same_tree_and_it_is_read_for_its_hashes_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample(&source);
    let count = HashCount::default();
    let exporter = TestNode::with(|config| config.hashed = count.clone()).await;
    let offers = offer(&exporter, &source, 8).await;
    let importers = Importers::of(&offers).await;
    let mut manifests = Vec::new();
    for (n, import) in importers.jobs.iter().enumerate() {
        manifests.push(completed(import).await.manifest_sha256);
        assert_same(&source, &importers.target(n));
    }
    for offer in &offers {
        manifests.push(completed(&offer.job).await.manifest_sha256);
    }
    manifests.dedup();
    assert_eq!((manifests.len(), count.bytes()), (1, bytes(&source)));
    assert!(leftovers(importers.dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_offer_has_its_own_ticket_and_its_own_end() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample(&source);
    let exporter = TestNode::start().await;
    let offers = offer(&exporter, &source, 3).await;
    // it may be hashed by now or not: the others want its hashes all the same
    offers[0].job.abort().await;
    assert_eq!(failed(&offers[0].job).await, Code::Aborted);
    let importers = Importers::of(&offers).await;
    assert_eq!(failed(&importers.jobs[0]).await, Code::TicketInvalid);
    for n in [1, 2] {
        completed(&importers.jobs[n]).await;
        completed(&offers[n].job).await;
        assert_same(&source, &importers.target(n));
    }
    let again = importers.nodes[1].import(&offers[2].ticket, &importers.target(3)).await;
    assert_eq!(failed(&again).await, Code::TicketInvalid, "a ticket of the same source is not good for two");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_all_sessions_of_the_tree_go_on_and_who_is_new_gets_a_ticket() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    for n in 0..40 {
        file(&source, &format!("f{n}"), 100_000, 0o644);
    }
    let exporter = TestNode::start().await;
    exporter.node.handle().set_limit(Some(Rate::new(200_000).unwrap()));
    let begun = Importers::of(&offer(&exporter, &source, 2).await).await;
    for job in &begun.jobs {
        sees(job, "some of it", |view| view.progress.files_ok > 0).await;
    }
    let exporter = exporter.restart().await;
    let offers = offer(&exporter, &source, 3).await;
    let mut continued: Vec<_> =
        offers.iter().filter_map(|offer| offer.continues.as_ref().map(|known| known.session.to_string())).collect();
    let mut sessions: Vec<_> =
        begun.jobs.iter().map(|job| job.view().session_id.expect("granted").to_string()).collect();
    continued.sort();
    sessions.sort();
    assert_eq!(continued, sessions);
    let new = Importers::of(&offers[2..]).await;
    for (n, job) in begun.jobs.iter().enumerate() {
        let done = completed(job).await;
        assert!(done.payload_bytes < done.bytes + 1_000_000, "what was there is not sent again: {done:?}");
        assert_same(&source, &begun.target(n));
    }
    completed(&new.jobs[0]).await;
    assert_same(&source, &new.target(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_devices_than_a_node_serves_are_refused_and_leave_no_offer() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "f", 10, 0o644);
    let exporter = TestNode::start().await;
    let most = OfferOptions::MAX_DEVICES;
    for devices in [0, most + 1] {
        assert!(matches!(try_offer(&exporter, dir.path(), devices).await, Err(OfferError::Devices)));
    }
    let _one = offer(&exporter, dir.path(), 1).await;
    assert!(matches!(try_offer(&exporter, dir.path(), most).await, Err(OfferError::Refused(Code::Busy))));
    assert_eq!(offer(&exporter, dir.path(), most - 1).await.len(), most - 1);
}

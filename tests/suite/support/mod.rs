//! What the suite's tests stand on: nodes, trees, and a comparer of trees that shares no code with the product.

#![allow(dead_code, reason = "each test module uses its part")]

pub(crate) mod peer;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod tree;
pub(crate) mod wire;
pub(crate) mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use me_sync_node::hooks::FaultPlan;
use me_sync_node::net::{ListenAddr, Transports};
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{Completion, Consent, ImportOptions, JobHandle, Node, NodeConfig, Offer, OfferOptions, Outcome};
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tempfile::TempDir;

/// Longer than any job of these tests takes; a test that waits longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node with a state directory of its own.
pub(crate) struct TestNode {
    pub(crate) node: Node,
    config: NodeConfig,
    state: TempDir,
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut config = NodeConfig::new(state.path());
        config.listen = vec![ListenAddr { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None }];
        config.mdns = false;
        config.device_name = "test device".to_owned();
        change(&mut config);
        Self { node: Node::spawn(config.clone()).await.expect("the node starts"), config, state }
    }

    /// Stops it, and starts another one with the same state.
    pub(crate) async fn restart(self) -> Self {
        self.node.shutdown().await;
        let node = Node::spawn(self.config.clone()).await.expect("the node starts again");
        Self { node, ..self }
    }

    /// Changes what it starts with the next time.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut NodeConfig)) {
        change(&mut self.config);
    }

    pub(crate) async fn corrupting(faults: &[(&str, u32)]) -> Self {
        let plan = FaultPlan::corrupt_first_byte(faults);
        Self::with(|config| config.faults = plan).await
    }

    pub(crate) async fn over(transports: Transports) -> Self {
        Self::with(|config| config.transports = transports).await
    }

    pub(crate) fn state_dir(&self) -> &Path {
        self.state.path()
    }

    pub(crate) async fn offer(&self, source: &Path) -> Offer {
        let source = Source::scan(source, &ScanOptions::default()).expect("the source is fine");
        self.node.handle().offer(source, OfferOptions::default()).await.expect("offered")
    }

    pub(crate) async fn import(&self, ticket: &Ticket, target: &Path) -> JobHandle {
        let options = ImportOptions { consent: Consent::Given, ..ImportOptions::new(target) };
        self.node.handle().import(ticket.clone(), options).await.expect("started")
    }
}

/// Waits for the end of a job, at most [`PATIENCE`].
pub(crate) async fn end(job: &JobHandle) -> Outcome {
    match tokio::time::timeout(PATIENCE, job.outcome()).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("the job hangs: {:#?}", job.view()),
    }
}

pub(crate) async fn completed(job: &JobHandle) -> Completion {
    match end(job).await {
        Outcome::Completed(completion) => completion,
        Outcome::Failed { code, message, .. } => panic!("failed with {code}: {message}"),
    }
}

pub(crate) async fn failed(job: &JobHandle) -> Code {
    match end(job).await {
        Outcome::Failed { code, .. } => code,
        Outcome::Completed(completion) => panic!("completed: {completion:?}"),
    }
}

/// Waits until the job has lost its peer and says so.
pub(crate) async fn waits_for_peer(job: &JobHandle) {
    let mut views = job.watch();
    let waits = views.wait_for(|view| view.phase == Phase::WaitingForPeer);
    let waits = tokio::time::timeout(PATIENCE, waits).await;
    assert!(waits.is_ok(), "the loss is not noticed: {:#?}", job.view());
}

/// Moves a tree between two nodes and gives both jobs.
pub(crate) async fn migrate(from: &TestNode, to: &TestNode, source: &Path, target: &Path) -> (JobHandle, JobHandle) {
    let offer = from.offer(source).await;
    let import = to.import(&offer.ticket, target).await;
    (offer.job, import)
}

/// Nothing of a session may stay beside its target.
pub(crate) fn leftovers(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).expect("readable");
    let names = entries.map(|e| e.expect("an entry").path());
    names.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".me-sync"))).collect()
}

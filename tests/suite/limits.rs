//! Limits on the rate: of a session, of a node, on either side, changed while bytes move.

use std::path::Path;
use std::time::{Duration, Instant};

use me_sync_node::JobHandle;
use me_sync_node::limit::{self, Rate};

use crate::support::relay::{Counter, TcpRelay};
use crate::support::tree::{assert_same, file};
use crate::support::wire::{Wire, listens, sees, through};
use crate::support::{PATIENCE, TestNode, completed};

const MB: u64 = 1_000_000;
/// What the tests that change a limit begin with: much slower than they are patient.
const SLOW: u64 = MB / 2;

fn rate(bytes_per_second: u64) -> Option<Rate> {
    Some(Rate::new(bytes_per_second).expect("a rate"))
}

/// A tree of so many MiB, in files that keep all lanes busy to the end.
fn tree(root: &Path, mib: usize) {
    for n in 0..4 * mib {
        file(root, &format!("f{n}"), 256 << 10, 0o644);
    }
}

/// How fast bytes come through, once `skip` have.
async fn pace(through: &Counter, skip: u64, bytes: u64) -> f64 {
    let (first, since) = (through.passes(skip).await, Instant::now());
    let last = through.passes(first + bytes).await;
    (last - first) as f64 / since.elapsed().as_secs_f64()
}

/// How fast a job says that content arrives, once `skip` has.
async fn pace_of(job: &JobHandle, skip: u64, bytes: u64) -> f64 {
    let arrived = async |least| {
        let view = sees(job, "so far", |view| view.progress.bytes_received >= least).await;
        (view.progress.bytes_received, Instant::now())
    };
    let (first, since) = arrived(skip).await;
    let (last, until) = arrived(first + bytes).await;
    (last - first) as f64 / (until - since).as_secs_f64()
}

/// Whoever is held back by a busy machine is not faster for it: above the limit nothing is forgiven, below it the
/// best of a few tries counts.
async fn holds(limit: u64, mut measure: impl AsyncFnMut() -> f64) {
    let mut best = 0.0;
    for _ in 0..3 {
        let off = measure().await / limit as f64 - 1.0;
        assert!(off <= 0.05, "{:.1} % above the limit", off * 100.0);
        if off >= -0.05 {
            return;
        }
        best = off;
    }
    panic!("{:.1} % below the limit, three times", -best * 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_exporter_with_a_limit_sends_keeps_within_five_percent_of_it() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path(), 10);
    holds(5 * MB, async || {
        let wire = Wire::of(dir.path()).await;
        let offer = wire.offer().await;
        offer.job.set_limit(rate(5 * MB));
        let import = wire.import(&offer).await;
        let pace = pace(wire.relay.down(), MB, 8 * MB).await;
        completed(&import).await;
        wire.is_whole();
        pace
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_importer_with_a_limit_takes_keeps_within_five_percent_of_it() {
    let dir = tempfile::tempdir().unwrap();
    tree(&dir.path().join("source"), 10);
    let exporter = TestNode::with(|config| config.max_chunk = 16 << 10).await;
    holds(5 * MB, async || {
        let importer = TestNode::start().await;
        importer.node.handle().set_limit(rate(5 * MB));
        let target = tempfile::tempdir().unwrap();
        let offer = exporter.offer(&dir.path().join("source")).await;
        let import = importer.import(&offer.ticket, &target.path().join("target")).await;
        let pace = pace_of(&import, MB, 7 * MB).await;
        completed(&import).await;
        assert_same(&dir.path().join("source"), &target.path().join("target"));
        pace
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_a_session_that_is_lifted_while_it_runs_holds_it_back_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path(), 12);
    for exporter_limits in [true, false] {
        let wire = Wire::of(dir.path()).await;
        let offer = wire.offer().await;
        let import = wire.import(&offer).await;
        let limited = if exporter_limits { &offer.job } else { &import };
        limited.set_limit(rate(SLOW));
        sees(limited, "limited", |view| view.limit_bps == Some(SLOW) && view.payload_bytes > 0).await;
        let since = Instant::now();
        limited.set_limit(None);
        completed(&import).await;
        assert!(since.elapsed() < Duration::from_secs(10), "it took {:?} of 24 s", since.elapsed());
        wire.is_whole();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_the_state_directory_is_that_of_its_node_and_followed_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path(), 12);
    let wire = Wire::of(dir.path()).await;
    let state = wire.exporter.state_dir().to_owned();
    limit::store(&state, rate(SLOW)).unwrap();
    let wire = wire.restart().await;
    assert_eq!(wire.exporter.node.handle().limit(), rate(SLOW));
    let offer = wire.offer().await;
    let import = wire.import(&offer).await;
    sees(&offer.job, "limited", |view| view.limit_bps == Some(SLOW) && view.payload_bytes > 0).await;
    let since = Instant::now();
    limit::store(&state, None).unwrap();
    sees(&offer.job, "free", |view| view.limit_bps.is_none()).await;
    completed(&import).await;
    assert!(since.elapsed() < Duration::from_secs(12), "it took {:?} of 24 s", since.elapsed());
    wire.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_share_the_limit_of_their_node_in_equal_parts() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    tree(&source, 6);
    let exporter = TestNode::start().await;
    exporter.node.handle().set_limit(rate(4 * MB));
    holds(4 * MB, async || {
        let (one, two) = (TestNode::start().await, TestNode::start().await);
        let targets = tempfile::tempdir().unwrap();
        let relay = TcpRelay::start(([127, 0, 0, 1], 9).into()).await;
        let mut imports = Vec::new();
        for (n, importer) in [&one, &two].into_iter().enumerate() {
            let offer = exporter.offer(&source).await;
            relay.aim(listens(&offer.ticket, false));
            let ticket = through(&offer.ticket, Some(relay.address()), None);
            imports.push(importer.import(&ticket, &targets.path().join(format!("{n}"))).await);
        }
        for import in &imports {
            sees(import, "moving", |view| view.progress.bytes_received > 0).await;
        }
        let before = arrived(&imports);
        let pace = pace(relay.down(), 0, 7 * MB).await;
        let after = arrived(&imports);
        let parts: Vec<_> = before.iter().zip(&after).map(|(before, after)| (after - before) as f64).collect();
        let share = parts[0] / (parts[0] + parts[1]);
        assert!((0.35..0.65).contains(&share), "one has {share:.2} of it");
        for (n, import) in imports.iter().enumerate() {
            completed(import).await;
            assert_same(&source, &targets.path().join(format!("{n}")));
        }
        pace
    })
    .await;
}

fn arrived(imports: &[JobHandle]) -> Vec<u64> {
    imports.iter().map(|import| import.view().progress.bytes_received).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_lasts_longer_than_the_patience_with_a_dead_line_ends_no_conversation() {
    // SPEC 8.2-2, 8.2-3: 16 lanes share the lowest limit, so each one waits for long; nobody loses the other
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    tree(&source, 6);
    let (exporter, importer) = (TestNode::start().await, TestNode::start().await);
    importer.node.handle().set_limit(Some(Rate::MIN));
    let mut jobs = Vec::new();
    for n in 0..4 {
        let offer = exporter.offer(&source).await;
        let import = importer.import(&offer.ticket, &dir.path().join(format!("target{n}"))).await;
        jobs.extend([offer.job, import]);
    }
    let is_calm = async |job: &JobHandle| {
        let mut views = job.watch();
        let lost = views.wait_for(|view| view.waiting.is_some() || view.outcome.is_some());
        tokio::time::timeout(Duration::from_secs(40), lost).await.is_err()
    };
    let calm = futures::future::join_all(jobs.iter().map(is_calm)).await;
    assert!(calm.iter().all(|calm| *calm), "{calm:?}");
    importer.node.handle().set_limit(None);
    for job in &jobs {
        tokio::time::timeout(PATIENCE, completed(job)).await.expect("it ends");
    }
    for n in 0..4 {
        assert_same(&source, &dir.path().join(format!("target{n}")));
    }
}

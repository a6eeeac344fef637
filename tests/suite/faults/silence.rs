//! Peers that fall silent or take nothing any more, connections that come and go, results that are lost (RELIABILITY
//! F56, F57, F60, F69, F79).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use me_sync_node::{ImportError, ImportOptions, Outcome};
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use tempfile::TempDir;

use crate::support::relay::{Course, End, Fate, How};
use crate::support::tree::{assert_same, file};
use crate::support::wire::{Wire, sees, waits_for_its_peer};
use crate::support::{TestNode, completed, migrate};

const MIB: usize = 1 << 20;

fn tree(files: usize, size: usize) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for n in 0..files {
        file(&dir.path().join("source"), &format!("f{n}"), size, 0o644);
    }
    dir
}

fn source(dir: &TempDir) -> PathBuf {
    dir.path().join("source")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_vanished_without_a_word_is_noticed_in_forty_seconds_by_both_sides() {
    // F56
    let dir = tree(4, MIB);
    let wire = Wire::of(&source(&dir)).await;
    wire.relay.fate(|_| Fate::slow(500_000));
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    wire.relay.down().reaches(MIB as u64).await;
    wire.relay.open(false);
    wire.relay.cut(How::Silence);
    let began = Instant::now();
    tokio::join!(waits_for_its_peer(&job), waits_for_its_peer(&offer.job));
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    sees(&job, "dialling", |v| v.waiting.as_ref().is_some_and(|w| w.tries > 0)).await;
    wire.relay.fate(|_| Fate::default());
    wire.relay.open(true);
    completed(&job).await;
    completed(&offer.job).await;
    // I3
    assert!(job.view().payload_bytes < 4 * MIB as u64 + MIB as u64, "{}", job.view().payload_bytes);
    wire.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_any_more_costs_little_memory_and_nobody_elses_session() {
    // F57: the importer's side of the line still talks; what the exporter sends is not taken
    let dir = tree(4, 16 * MIB);
    let wire = Wire::of(&source(&dir)).await;
    let stop = 2 * MIB as u64;
    wire.relay.fate(move |n| match n {
        0 => Fate { down: Course::ends(End::After(stop, How::Silence)), ..Fate::default() },
        _ => Fate::default(),
    });
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    wire.relay.down().reaches(stop).await;
    let began = Instant::now();
    let other = TestNode::start().await;
    let (small, target) = (tree(100, 1000), dir.path().join("other"));
    let (_, honest) = migrate(&wire.exporter, &other, &source(&small), &target).await;
    completed(&honest).await;
    assert!(began.elapsed() < Duration::from_secs(10), "the other session took {:?}", began.elapsed());
    assert_same(&source(&small), &target);
    waits_for_its_peer(&offer.job).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    // what it had read and could not get rid of: windows, queues and the kernel's buffers
    let held = offer.job.view().payload_bytes.saturating_sub(stop);
    assert!(held < 24 * MIB as u64, "{held} bytes are under way");
    completed(&job).await;
    completed(&offer.job).await;
    wire.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_never_fill_one_target_nor_one_inside_the_other() {
    // F69
    let dir = tree(8, 256 << 10);
    let wire = Wire::of(&source(&dir)).await;
    file(&wire.target(), "old", 10, 0o644);
    wire.relay.fate(|_| Fate::slow(1_000_000));
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    wire.relay.down().reaches(300_000).await;
    // it holds its target while it waits, too
    wire.relay.open(false);
    wire.relay.cut(How::Reset);
    waits_for_its_peer(&job).await;
    // of the same node and of another one
    let other = TestNode::start().await;
    let second = wire.exporter.offer(&source(&dir)).await;
    for node in [&wire.importer, &other] {
        for target in [wire.target(), wire.target().join("inside"), wire.target().parent().unwrap().to_owned()] {
            let started = node.node.handle().import(second.ticket.clone(), ImportOptions::new(&target)).await;
            let code = match started {
                Err(e @ ImportError::Preflight(_)) => e.code(),
                Err(e) => panic!("{}: {e}", target.display()),
                Ok(job) => match crate::support::end(&job).await {
                    Outcome::Failed { code, .. } => code,
                    Outcome::Completed(_) => panic!("{} was replaced", target.display()),
                },
            };
            assert_eq!(code, Code::TargetBusy, "{}", target.display());
        }
    }
    wire.relay.fate(|_| Fate::default());
    wire.relay.open(true);
    completed(&job).await;
    completed(&offer.job).await;
    assert_same(&source(&dir), &wire.target());
}

/// The tree is applied while the exporter cannot hear of it.
async fn applied_unheard(wire: &Wire) -> (me_sync_node::Offer, me_sync_node::JobHandle) {
    // the result is still on its way when the link goes
    let up = Course { latency: Duration::from_millis(500), ..Course::default() };
    wire.relay.fate(move |_| Fate { up, ..Fate::default() });
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    sees(&job, "applied", |v| v.phase == Phase::Completed).await;
    wire.relay.open(false);
    wire.relay.cut(How::Reset);
    waits_for_its_peer(&offer.job).await;
    (offer, job)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_was_lost_is_told_again_and_nothing_is_sent_again() {
    // F79
    let dir = tree(5, 50_000);
    let wire = Wire::of(&source(&dir)).await;
    let (offer, job) = applied_unheard(&wire).await;
    let sent = wire.relay.down().bytes();
    wire.relay.fate(|_| Fate::default());
    wire.relay.open(true);
    let done = completed(&job).await;
    completed(&offer.job).await;
    assert!(done.notes.iter().all(|note| !note.contains("could not be told")), "{:?}", done.notes);
    assert!(wire.relay.down().bytes() - sent < 20_000, "more than a few messages came");
    wire.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_was_lost_is_told_by_a_later_process_to_a_later_process() {
    // F79
    let dir = tree(5, 50_000);
    let wire = Wire::of(&source(&dir)).await;
    let (offer, job) = applied_unheard(&wire).await;
    let done = completed(&job).await;
    assert!(done.notes.iter().any(|note| note.contains("could not be told")), "{:?}", done.notes);
    // both are new processes now
    let wire = wire.restart().await;
    let sent = wire.relay.down().bytes();
    wire.relay.fate(|_| Fate::default());
    let again = wire.offer().await;
    assert_eq!(again.continues.as_ref().map(|u| u.session), offer.job.view().session_id);
    wire.relay.open(true);
    completed(&again.job).await;
    assert!(wire.relay.down().bytes() - sent < 20_000, "more than a few messages came");
    wire.is_whole();
}

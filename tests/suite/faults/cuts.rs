//! The link is cut at every border of an encrypted frame, and anywhere (RELIABILITY F49, F60, F66).

use std::path::{Path, PathBuf};

use futures::future::join_all;
use me_sync_protocol::message::{Response, encode};
use me_sync_protocol::reason::Code;
use tempfile::TempDir;

use crate::support::peer::Peer;
use crate::support::relay::{Course, Dice, End, Fate, How};
use crate::support::tree::file;
use crate::support::wire::{Journey, Wire, sees};
use crate::support::{completed, failed};

/// Runs at once: they mostly wait.
const AT_ONCE: u64 = 12;
/// What a broken connection may cost: on each of four lanes a chunk that was under way.
const IN_FLIGHT: u64 = 4 * (256 << 10);
/// More frames than any of these transfers has.
const MOST_FRAMES: u64 = 500;

/// Less than a chunk, a chunk and something, nothing: about 400 KiB.
struct Source(TempDir);

impl Source {
    const BYTES: u64 = 10 + 300_000 + 20_000 + 70_000;

    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, len) in [("a", 10), ("b/empty", 0), ("b/c", 300_000), ("d", 20_000), ("e/f/g", 70_000)] {
            file(&dir.path().join("source"), name, len, 0o644);
        }
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("source")
    }
}

/// A migration whose first connection has this fate; how it went, and how many connections it took.
async fn broken_once(source: &Path, fate: Fate) -> (Journey, usize) {
    let wire = Wire::of(source).await;
    let journey = wire.migrate(move |n| if n == 0 { fate } else { Fate::default() }).await;
    // I3
    assert!(journey.payload <= Source::BYTES + IN_FLIGHT, "{fate:?}: {journey:?}");
    (journey, wire.relay.connections())
}

/// Cuts at each frame of one direction until there are no more. How many there were.
async fn every_frame(source: &Path, off: i64, how: How, fate: impl Fn(Course) -> Fate) -> u64 {
    for first in (1..MOST_FRAMES).step_by(AT_ONCE as usize) {
        let at = |n| fate(Course::ends(End::Frame(n, off, how)));
        let runs = join_all((first..first + AT_ONCE).map(|n| broken_once(source, at(n)))).await;
        if let Some(uncut) = runs.iter().position(|(_, connections)| *connections == 1) {
            return first - 1 + uncut as u64;
        }
    }
    panic!("more than {MOST_FRAMES} frames");
}

#[expect(clippy::print_stderr, reason = "the figures are what the run was for")]
async fn every_border(offs: &[i64], how: How) {
    let source = Source::new();
    for off in offs {
        let down = every_frame(&source.path(), *off, how, |down| Fate { down, ..Fate::default() }).await;
        let up = every_frame(&source.path(), *off, how, |up| Fate { up, ..Fate::default() }).await;
        eprintln!("cut at {down} frames towards the importer and {up} towards the exporter, {off} bytes off, {how:?}");
        assert!(down > 20 && up > 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_at_any_frame_is_resumed_and_sends_only_what_is_missing() {
    every_border(&[0], How::Reset).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_connection_cut_one_byte_off_any_frame_is_resumed_and_sends_only_what_is_missing() {
    every_border(&[-1, 1], How::Close).await;
}

/// Every connection of a migration dies somewhere, most of them more than once a file.
async fn broken_again_and_again(source: &Path, seed: u64) {
    let wire = Wire::of(source).await;
    let mut dice = Dice::new(seed);
    let journey = wire
        .migrate(move |n| {
            let how = if dice.roll(2) == 0 { How::Close } else { How::Reset };
            let course = Course::ends(End::After(dice.roll(150_000), how));
            match dice.roll(8) {
                // without an end to it a run would not be one
                _ if n >= 12 => Fate::default(),
                0 => Fate { up: Course::ends(End::After(dice.roll(8000), how)), ..Fate::default() },
                _ => Fate { down: course, ..Fate::default() },
            }
        })
        .await;
    let connections = wire.relay.connections() as u64;
    assert!(journey.payload <= Source::BYTES + connections * IN_FLIGHT, "seed {seed}: {journey:?}");
}

async fn seeds(all: std::ops::Range<u64>) {
    let source = Source::new();
    let path = source.path();
    for first in all.clone().step_by(AT_ONCE as usize) {
        let some = first..(first + AT_ONCE).min(all.end);
        join_all(some.map(|seed| broken_again_and_again(&path, seed))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_anywhere_again_and_again_come_to_the_whole_tree() {
    seeds(0..12).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn connections_that_die_anywhere_in_two_hundred_ways_come_to_the_whole_tree() {
    seeds(1000..1200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_whose_redemption_was_not_heard_gives_the_same_session_again_to_the_same_device_only() {
    // F66
    let source = Source::new();
    let wire = Wire::of(&source.path()).await;
    // the answer is still on the way when the exporter has long recorded the session
    let down = Course { latency: std::time::Duration::from_millis(300), ..Course::default() };
    wire.relay.fate(move |_| Fate { down, ..Fate::default() });
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    let granted = sees(&offer.job, "redeemed", |v| v.session_id.is_some()).await.session_id;
    wire.relay.cut(How::Reset);
    assert_eq!(failed(&job).await, Code::PeerGone);
    assert_eq!(job.view().session_id, None, "the answer did come through");
    let mut other = Peer::dial(&offer.ticket).await;
    assert_eq!(other.redeem(&offer.ticket).await, encode(&Response::Refused(Code::TicketInvalid)));
    let again = wire.import(&offer).await;
    assert_eq!(sees(&again, "a session", |v| v.session_id.is_some()).await.session_id, granted);
    completed(&again).await;
    completed(&offer.job).await;
    wire.is_whole();
}

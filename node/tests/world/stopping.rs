//! Somebody stops one side (RELIABILITY F72): exit 130 there in a few seconds, the old tree or the new one in place, and
//! the session goes on when that side is started again.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::device::{Device, End, Run};
use crate::net::Wire;
use crate::place::{MIB, Place, is_root, leftovers, picture};

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Exporter,
    Importer,
}

/// A stop lets everything go within five seconds; a slow machine gets some more.
const DRAIN: Duration = Duration::from_secs(8);

/// Both sides of one migration, in a place of their own.
struct Pair {
    place: Place,
    near: Device,
    far: Device,
    exporter: Run,
    importer: Run,
    ticket: String,
    before: BTreeMap<PathBuf, String>,
}

impl Pair {
    fn new(place: Place, near: Device, far: Device) -> Self {
        let target = place.old_target("target");
        let before = picture(&target);
        let (exporter, ticket) = near.send(&place.path("tree"));
        let importer = far.receive(&ticket, &target);
        Self { place, near, far, exporter, importer, ticket, before }
    }

    /// Stops one side and starts it again if it did not end well by itself; then both have to come to the new tree.
    /// How it ended when it was stopped, and whether the old tree stood there then.
    #[track_caller]
    fn stopped(self, signal: &str, side: Side) -> (End, bool) {
        let Self { place, near, far, exporter, importer, ticket, before } = self;
        let (tree, target) = (place.path("tree"), place.path("target"));
        let stop = |run: Run| {
            run.signal(signal);
            let began = Instant::now();
            let end = run.end();
            assert!(began.elapsed() < DRAIN, "{:?}", began.elapsed());
            assert!(matches!(end.exit, Some(0 | 130)), "{:#}\n{}", end.result, end.stderr);
            let now = picture(&target);
            let want = picture(&tree);
            assert!(now == before || now == want, "neither the old nor the new tree");
            (end, now == before)
        };
        let (stopped, was_old, importer, exporter) = match side {
            Side::Importer => {
                let (end, was_old) = stop(importer);
                assert_eq!(end.exit == Some(130), was_old, "{:#}", end.result);
                let again = was_old.then(|| far.receive(&ticket, &target).end());
                (end, was_old, again, Some(exporter.end()))
            }
            Side::Exporter => {
                let (end, was_old) = stop(exporter);
                let mut again = (end.exit == Some(130)).then(|| near.send(&tree).0);
                let importer = importer.end();
                // it may have heard in its last moment how the session ended: then this is an offer to somebody else
                again = again.filter(|run| run.seen.iter().any(|e| e["continues"].is_string()));
                if again.is_none() && end.exit == Some(130) {
                    let known = Run::start(near.command(&["--json", "sessions", "--all"])).end();
                    let session = &end.result["session_id"];
                    let mut ends = known.events.iter().filter(|e| e["event"] == "session");
                    assert!(ends.any(|e| e["session_id"] == *session && e["state"] == "completed"), "{known:#?}");
                }
                (end, was_old, Some(importer), again.map(Run::end))
            }
        };
        for end in importer.iter().chain(&exporter) {
            assert_eq!(end.exit, Some(0), "{:#}\n{}", end.result, end.stderr);
        }
        assert_eq!(picture(&target), picture(&tree));
        assert_eq!(leftovers(&place.path("")).len(), 1, "the old tree is kept, and nothing else");
        (stopped, was_old)
    }
}

/// One signal to one side while bytes move.
fn stopped_in_the_bulk(signal: &str, side: Side) {
    let (place, wire) = (Place::new(), Wire::new());
    place.tree("tree", 8, MIB);
    wire.throttle("16mbit");
    let (near, far) = (wire.near(place.exporter()), wire.far(place.importer()));
    let mut pair = Pair::new(place, near.with(&["--no-mdns"]), far.with(&["--no-mdns"]));
    pair.importer.until_bulk();
    pair.exporter.until_bulk();
    let (end, was_old) = pair.stopped(signal, side);
    assert!(was_old);
    end.is(130, "interrupted", "kept");
}

#[test]
fn sigterm_to_the_exporter_in_the_bulk_is_a_clean_stop() {
    if is_root() {
        stopped_in_the_bulk("TERM", Side::Exporter);
    }
}

#[test]
fn sigint_to_the_importer_in_the_bulk_is_a_clean_stop() {
    if is_root() {
        stopped_in_the_bulk("INT", Side::Importer);
    }
}

#[test]
fn sighup_to_the_importer_in_the_bulk_is_a_clean_stop() {
    if is_root() {
        stopped_in_the_bulk("HUP", Side::Importer);
    }
}

#[test]
fn every_signal_stops_an_exporter_that_waits_for_its_importer() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tree = place.tree("tree", 1, 10);
    for signal in ["INT", "TERM", "HUP"] {
        let (exporter, ticket) = place.exporter().send(&tree);
        exporter.signal(signal);
        exporter.end().is(130, "interrupted", "");
        // the ticket went with it
        let end = place.importer().receive_with(&ticket, &place.path("new"), &["--connect-timeout", "1s"]).end();
        assert_eq!(end.exit, Some(3), "{}", end.message());
    }
    assert!(!place.path("new").exists());
}

#[test]
fn every_signal_stops_an_importer_that_looks_for_its_exporter() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (exporter, ticket) = place.exporter().send(&place.tree("tree", 1, 10));
    drop(exporter);
    let target = place.old_target("target");
    let before = picture(&target);
    for signal in ["INT", "TERM", "HUP"] {
        let mut importer = place.importer().receive(&ticket, &target);
        importer.until_phase("nearby_connecting");
        importer.signal(signal);
        importer.end().is(130, "interrupted", "");
    }
    assert_eq!(picture(&target), before);
    assert_eq!(leftovers(&place.path("")), Vec::<String>::new());
}

/// A stop late in the work; `slow` holds the importer up in one call, so that there is time for it.
fn stopped_late(slow: Option<&str>, phase: &str, side: Side) -> (End, bool) {
    let place = Place::new();
    place.tree("tree", 60, 20_000);
    let far = match slow {
        Some(call) => place.importer().slowed_at(call, Duration::from_millis(1500)),
        None => place.importer(),
    };
    let near = place.exporter();
    let mut pair = Pair::new(place, near, far);
    // a fast machine may be past it before it is told
    pair.importer.until("the phase or the end", |e| e["phase"] == phase || e["event"] == "result");
    pair.stopped("TERM", side)
}

#[test]
fn a_stop_at_any_phase_leaves_the_old_or_the_new_tree_and_the_session_goes_on() {
    if !is_root() {
        return;
    }
    for side in [Side::Importer, Side::Exporter] {
        for phase in ["manifest_receiving", "bulk_transferring", "final_verifying", "applying"] {
            stopped_late(None, phase, side);
        }
    }
}

#[test]
fn a_stop_of_the_importer_while_the_disk_is_flushed_is_in_time() {
    if !can_slow_down() {
        return;
    }
    let (end, was_old) = stopped_late(Some("syncfs"), "final_verifying", Side::Importer);
    assert!(was_old, "{:#}", end.result);
    end.is(130, "interrupted", "kept");
}

#[test]
fn an_importer_that_has_every_file_goes_on_and_its_stopped_exporter_claims_nothing() {
    if !can_slow_down() {
        return;
    }
    for (slow, phase) in [("syncfs", "final_verifying"), ("renameat2", "applying")] {
        let (end, _) = stopped_late(Some(slow), phase, Side::Exporter);
        end.is(130, "interrupted", "kept");
    }
}

#[test]
fn a_stop_of_the_importer_once_the_swap_has_begun_is_too_late() {
    if !can_slow_down() {
        return;
    }
    let (end, was_old) = stopped_late(Some("renameat2"), "applying", Side::Importer);
    assert!(!was_old, "{:#}", end.result);
}

fn can_slow_down() -> bool {
    let found = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "in CI this test must run: it needs strace");
    found && is_root()
}

#[test]
fn a_reader_that_closes_stdout_does_not_end_the_migration() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tree = place.tree("tree", 50, 20_000);
    let mut exporter = place.exporter().command(&["--json", "send", tree.to_str().unwrap()]).spawn().unwrap();
    let mut ticket = String::new();
    let mut stdout = BufReader::new(exporter.stdout.take().unwrap());
    while !ticket.contains("\"ticket\"") {
        ticket.clear();
        assert!(stdout.read_line(&mut ticket).unwrap() > 0);
    }
    drop(stdout);
    let event: serde_json::Value = serde_json::from_str(&ticket).unwrap();
    let device: Device = place.importer();
    let mut command = device.command(&["--json", "receive", "-y", place.path("new").to_str().unwrap()]);
    command.env("ME_SYNC_TICKET", event["ticket"].as_str().unwrap()).stdout(Stdio::piped());
    let mut importer = command.spawn().unwrap();
    drop(importer.stdout.take());
    let (importer_end, exporter_end) = (importer.wait_with_output().unwrap(), exporter.wait_with_output().unwrap());
    for end in [&importer_end, &exporter_end] {
        let said = String::from_utf8_lossy(&end.stderr);
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(end.status.code(), Some(0), "{said}");
    }
    assert_eq!(picture(&place.path("new")), picture(&tree));
}

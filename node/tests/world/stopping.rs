//! Somebody stops one side (RELIABILITY F72): exit 130 there, a name at the other, the old tree in place.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::device::Device;
use crate::net::Wire;
use crate::place::{MIB, Place, is_root, leftovers, picture};

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Exporter,
    Importer,
}

/// One signal to one side while bytes move.
fn stopped_in_the_bulk(signal: &str, side: Side) {
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 8, MIB);
    let target = place.old_target("target");
    let before = picture(&target);
    wire.throttle("8mbit");
    let (mut exporter, ticket) = wire.near(place.exporter()).with(&["--no-mdns"]).send(&tree);
    let mut importer = wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &target);
    importer.until_bulk();
    exporter.until_bulk();
    let (stopped, other) = match side {
        Side::Exporter => (exporter, importer),
        Side::Importer => (importer, exporter),
    };
    stopped.signal(signal);
    wire.unthrottle();
    stopped.end().is(130, "interrupted", "");
    let other = other.end();
    other.is_named_failure();
    assert!(matches!(other.code(), "aborted" | "peer_gone"), "{} {}", other.code(), other.message());
    assert_eq!(picture(&target), before);
    assert_eq!(leftovers(&place.path("")), Vec::<String>::new());
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

/// A stop as late as it can be asked for: either it is in time, or the tree is whole and both sides say so.
fn stopped_late(phase: &str, side: Side) {
    let place = Place::new();
    let tree = place.tree("tree", 60, 20_000);
    let target = place.old_target("target");
    let (before, want) = (picture(&target), picture(&tree));
    let (exporter, ticket) = place.exporter().send(&tree);
    let mut importer = place.importer().receive(&ticket, &target);
    // a fast machine may be past it before it is told
    importer.until("the phase or the end", |e| e["phase"] == phase || e["event"] == "result");
    match side {
        Side::Exporter => exporter.signal("TERM"),
        Side::Importer => importer.signal("TERM"),
    }
    let (importer, exporter) = (importer.end(), exporter.end());
    if importer.exit == Some(0) {
        assert_eq!(picture(&target), want);
        assert!(exporter.exit == Some(0) || side == Side::Exporter, "{}", exporter.message());
    } else {
        assert_eq!(picture(&target), before);
        assert_eq!(leftovers(&place.path("")), Vec::<String>::new());
        assert_ne!(exporter.exit, Some(0), "{}", exporter.message());
    }
    let stopped = if side == Side::Importer { &importer } else { &exporter };
    assert!(matches!(stopped.exit, Some(0 | 130)), "{:#}", stopped.result);
}

#[test]
fn a_stop_around_the_swap_is_in_time_or_too_late_and_never_in_between() {
    if !is_root() {
        return;
    }
    for side in [Side::Importer, Side::Exporter] {
        for phase in ["manifest_receiving", "bulk_transferring", "final_verifying", "applying"] {
            stopped_late(phase, side);
        }
    }
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

//! Links that go down, addresses that change, processes that are stopped and go on (RELIABILITY F53, F54, F55).

use std::time::Duration;

use crate::device::{End, Run};
use crate::net::Wire;
use crate::place::{MIB, Place, is_root, leftovers, picture};

/// What an outage may cost: on each of four lanes a chunk that was being made and one in the window.
const IN_FLIGHT: u64 = 4 * 2 * (256 << 10);
const FILES: usize = 16;

/// A session in its bulk, on a wire.
struct Outage {
    place: Place,
    wire: Wire,
    exporter: Run,
    importer: Run,
}

impl Outage {
    fn new(transport: &str, flags: &[&str]) -> Self {
        let (place, wire) = (Place::new(), Wire::new());
        let tree = place.tree("tree", FILES, MIB);
        wire.throttle("16mbit");
        let (mut exporter, ticket) = wire.near(place.exporter()).with(flags).send(&tree);
        let importer = wire.far(place.importer()).with(flags).with(&["--transport", transport]);
        let mut importer = importer.receive(&ticket, &place.old_target("target"));
        importer.until_bulk();
        exporter.until_bulk();
        Self { place, wire, exporter, importer }
    }

    /// The session goes on and sends what was missing.
    #[track_caller]
    fn overcome(self) -> End {
        let Self { place, wire, exporter, importer } = self;
        wire.unthrottle();
        let (importer, exporter) = (importer.end(), exporter.end());
        importer.is_applied();
        exporter.is_applied();
        assert_eq!(picture(&place.path("target")), picture(&place.path("tree")));
        assert_eq!(leftovers(&place.path("")).len(), 1, "the old tree is kept, and nothing else");
        let payload = importer.result["payload_bytes"].as_u64().unwrap();
        // I3
        assert!(payload <= (FILES * MIB) as u64 + IN_FLIGHT, "{payload}");
        importer
    }
}

fn until_waiting(run: &mut Run) {
    run.until("the loss is noticed", |e| e["event"] == "waiting");
}

fn waited(end: &End) -> bool {
    end.events.iter().any(|e| e["event"] == "waiting")
}

/// So long: that is what the fault is.
fn outage(time: Duration) {
    std::thread::sleep(time);
}

/// Down until one side has noticed, or for a time.
fn link_down(transport: &str, time: Option<Duration>) {
    let mut fault = Outage::new(transport, &["--no-mdns"]);
    fault.wire.down();
    match time {
        Some(time) => outage(time),
        None => until_waiting(&mut fault.importer),
    }
    fault.wire.up();
    let end = fault.overcome();
    assert!(time.is_some_and(|time| time < Duration::from_secs(10)) || waited(&end));
}

#[test]
fn a_link_that_is_down_for_five_seconds_ends_nothing() {
    if is_root() {
        std::thread::scope(|both| {
            for transport in ["tcp", "quic"] {
                both.spawn(move || link_down(transport, Some(Duration::from_secs(5))));
            }
        });
    }
}

#[test]
fn a_link_that_is_down_until_it_is_noticed_costs_time_only() {
    if is_root() {
        std::thread::scope(|both| {
            for transport in ["tcp", "quic"] {
                both.spawn(move || link_down(transport, None));
            }
        });
    }
}

#[test]
#[ignore = "a minute and more of outage"]
fn a_link_that_is_down_for_a_minute_costs_time_only() {
    if is_root() {
        std::thread::scope(|both| {
            for transport in ["tcp", "quic"] {
                both.spawn(move || link_down(transport, Some(Duration::from_secs(60))));
            }
        });
    }
}

fn moved(change: impl Fn(&Wire)) {
    // found again by mDNS; QUIC notices first
    let mut fault = Outage::new("quic", &[]);
    change(&fault.wire);
    until_waiting(&mut fault.importer);
    let end = fault.overcome();
    assert!(waited(&end));
}

#[test]
fn a_device_that_gets_another_address_is_found_again() {
    if is_root() {
        std::thread::scope(|both| {
            both.spawn(|| moved(Wire::move_near));
            both.spawn(|| moved(Wire::move_far));
        });
    }
}

#[derive(Clone, Copy)]
enum Side {
    Exporter,
    Importer,
}

/// One side is stopped until the other has noticed, or for a time.
fn stopped(transport: &str, side: Side, time: Option<Duration>) {
    let mut fault = Outage::new(transport, &["--no-mdns"]);
    let (sleeper, other) = match side {
        Side::Exporter => (&fault.exporter, &mut fault.importer),
        Side::Importer => (&fault.importer, &mut fault.exporter),
    };
    sleeper.signal("STOP");
    match time {
        Some(time) => outage(time),
        None => until_waiting(other),
    }
    sleeper.signal("CONT");
    fault.overcome();
}

#[test]
fn a_side_that_sleeps_until_it_is_missed_goes_on_where_it_was() {
    if is_root() {
        std::thread::scope(|all| {
            for side in [Side::Exporter, Side::Importer] {
                for transport in ["tcp", "quic"] {
                    all.spawn(move || stopped(transport, side, None));
                }
            }
        });
    }
}

#[test]
#[ignore = "a minute and more of sleep"]
fn a_side_that_sleeps_for_a_minute_goes_on_where_it_was() {
    if is_root() {
        std::thread::scope(|all| {
            for side in [Side::Exporter, Side::Importer] {
                for transport in ["tcp", "quic"] {
                    all.spawn(move || stopped(transport, side, Some(Duration::from_secs(60))));
                }
            }
        });
    }
}

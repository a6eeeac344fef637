//! Spoken codes between two devices that find each other by mDNS, with the real program (SPEC §6.9).

use std::path::Path;

use serde_json::Value;

use crate::device::{Device, Run};
use crate::net::Wire;
use crate::place::{Place, is_root, picture};

/// `send --json`, and the code that it shows.
fn send(device: &Device, tree: &Path) -> (Run, String) {
    let mut command = device.command(&["--json", "send"]);
    command.arg(tree);
    let mut run = Run::start(command);
    let ticket = run.until("a ticket", |event| event["event"] == "ticket");
    (run, code_of(&ticket).expect("a code"))
}

fn code_of(event: &Value) -> Option<String> {
    event["code"].as_str().map(str::to_owned)
}

fn wrong(code: &str) -> String {
    let (number, words) = code.split_once('-').unwrap();
    format!("{number} {}", if words == "act-act" { "add add" } else { "act act" })
}

#[test]
fn a_code_finds_the_device_that_shows_it_and_moves_its_tree() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 20, 50_000);
    let (exporter, code) = send(&wire.near(place.exporter()), &tree);
    let end = wire.far(place.importer()).receive(&code.replace('-', " "), &place.path("target")).end();
    end.is_applied();
    exporter.end().is_applied();
    assert_eq!(picture(&place.path("target")), picture(&tree));
}

#[test]
fn a_wrong_code_is_void_and_the_new_one_that_is_shown_works() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 3, 1000);
    let (mut exporter, code) = send(&wire.near(place.exporter()), &tree);
    let importer = wire.far(place.importer());
    let end = importer.receive(&wrong(&code), &place.path("target")).end();
    end.is(4, "ticket_invalid", "ask for the new one");
    let told = exporter.until("another code", |event| event["event"] == "code");
    assert_eq!(told["burnt"], 1);
    let next = code_of(&told).expect("another code");
    assert!(!place.path("target").exists());
    importer.receive(&next, &place.path("target")).end().is_applied();
    exporter.end().is_applied();
}

#[test]
fn a_code_that_nobody_nearby_offers_ends_as_peer_not_found() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let (_exporter, code) = send(&wire.near(place.exporter()), &place.tree("tree", 1, 10));
    let number: u16 = code.split('-').next().unwrap().parse().unwrap();
    let other = format!("{}-velvet-harbor", number % 999 + 1);
    let flags = ["--connect-timeout", "6s"];
    let end = wire.far(place.importer()).receive_with(&other, &place.path("target"), &flags).end();
    end.is(3, "peer_not_found", "use the ticket");
    assert!(end.message().contains("(1 answered)"), "{}", end.message());
}

#[test]
fn nodes_that_stay_show_and_take_codes_in_the_same_way() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 5, 1000);
    let (near, far) = (wire.near(place.exporter()), wire.far(place.importer()));
    let nodes = [&near, &far].map(|device| {
        let mut node = Run::start(device.command(&["--json", "node", "--api-port", "0"]));
        node.until("the node", |event| event["event"] == "node");
        node
    });
    let (mut exporter, code) = send(&near, &tree);
    far.receive(&wrong(&code), &place.path("target")).end().is(4, "ticket_invalid", "ask for the new one");
    let next = code_of(&exporter.until("another code", |event| event["event"] == "code")).expect("another code");
    far.receive(&next, &place.path("target")).end().is_applied();
    exporter.end().is_applied();
    assert_eq!(picture(&place.path("target")), picture(&tree));
    drop(nodes);
}

#[test]
fn each_of_several_devices_has_a_code_of_its_own_and_with_no_code_or_no_mdns_there_is_none() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 1, 10);
    let tickets = |device: &Device, flags: &[&str], count: usize| {
        let mut command = device.command(&["--json", "send"]);
        command.args(flags).arg(&tree);
        let mut run = Run::start(command);
        (0..count).map(|_| code_of(&run.until("a ticket", |event| event["event"] == "ticket"))).collect::<Vec<_>>()
    };
    let near = wire.near(place.exporter());
    let codes = tickets(&near, &["--devices", "3"], 3);
    let numbers: std::collections::BTreeSet<_> =
        codes.iter().map(|code| code.as_deref().unwrap().split('-').next().unwrap()).collect();
    assert_eq!(numbers.len(), 3, "{codes:?}");
    assert_eq!(tickets(&near, &["--no-code"], 1), [None]);
    assert_eq!(tickets(&near, &["--no-mdns"], 1), [None]);
}

//! `me-sync doctor` between two processes on 127.0.0.1.

use std::process::Output;

use me_sync_protocol::ticket::Ticket;
use serde_json::Value;

use crate::support::{Place, assert_code, events, make_tree, stderr, stdout};

#[test]
fn a_device_is_reached_by_both_transports_and_the_slowest_part_is_named() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["src"]);
    let ticket = Ticket::parse(&sender.ticket).unwrap();
    let peer = libp2p::PeerId::from_bytes(&ticket.peer_id).unwrap();
    let dir = place.path("target");
    std::fs::create_dir(&dir).unwrap();
    let (mut seen, mut measured) = (Vec::new(), Vec::new());
    for address in &ticket.addresses {
        let at = format!("{address}/p2p/{peer}");
        let args = ["--json", "doctor", "--for", "1s", "--peer", &at, "--dir", dir.to_str().unwrap()];
        let output = place.run("other", &args);
        assert_code(&output, 0);
        let all = events(&stdout(&output));
        let of = |kind: &str| all.iter().filter(|event| event["event"] == kind).cloned().collect::<Vec<Value>>();
        let other = of("transport").into_iter().find(|event| event["reached"] != true).unwrap();
        assert!(other["reached"].is_null() && other["code"] == "port_unknown", "nobody named its address: {other}");
        seen.extend(of("transport").into_iter().filter(|event| event["reached"] == true));
        assert!(of("hashing")[0]["bytes_per_second"].as_u64() > Some(0));
        assert!(of("disk")[0]["bytes_per_second"].as_u64() > Some(0));
        let result = all.last().unwrap();
        assert!(result["bottleneck"].as_str().unwrap().contains("is the slowest"), "{result}");
        let network = of("network");
        assert_eq!(network.len(), 1, "the other transport is not measured too: {network:?}");
        let is_measured = network[0]["bytes_per_second"].as_u64() > Some(0);
        assert_eq!(result["network_rate_measured"], is_measured, "{network:?}");
        // the second of two so close to each other is refused, if this machine is fast enough for that
        let is_refused = network[0]["error"].as_str().is_some_and(|why| why.contains("busy"));
        assert!(is_measured || (!measured.is_empty() && is_refused), "{network:?}");
        measured.extend(is_measured.then(|| network[0]["bytes"].as_u64().unwrap()));
    }
    assert!(measured.iter().all(|bytes| *bytes <= 32 << 20), "{measured:?}");
    let transports: Vec<_> = seen.iter().map(|event| event["transport"].as_str().unwrap()).collect();
    assert!(transports.contains(&"tcp") && transports.contains(&"quic"), "{seen:?}");
    assert!(seen.iter().all(|event| event["device_name"] == "exporter"), "{seen:?}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    assert!(!place.path("other").exists(), "it keeps no state");
    sender.interrupt();
}

#[test]
fn a_device_that_does_not_want_to_be_measured_is_reached_all_the_same() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    std::fs::create_dir_all(place.path("config/me-sync")).unwrap();
    std::fs::write(place.path("config/me-sync/config.toml"), "probe = false\n").unwrap();
    let sender = place.send(&["src"]);
    let ticket = Ticket::parse(&sender.ticket).unwrap();
    let peer = libp2p::PeerId::from_bytes(&ticket.peer_id).unwrap();
    let address = ticket.addresses.iter().find(|address| address.contains("/tcp/")).unwrap();
    let output = place.run("other", &["doctor", "--for", "1s", "--peer", &format!("{address}/p2p/{peer}")]);
    assert_code(&output, 0);
    let text = stdout(&output);
    assert!(text.contains("this device cannot be measured"), "{text}");
    assert!(text.contains("tcp\treaches it"), "{text}");
    assert!(text.contains("The network was not measured, so the bottleneck is not known"), "{text}");
    sender.interrupt();
}

#[test]
fn a_device_that_nobody_hears_is_not_found_and_an_address_needs_its_key() {
    let place = Place::new();
    assert_code(&place.run("d", &["doctor", "--peer", "attic"]), 3);
    let key = "12D3KooWGzBpL8cnzCYAHa6PsvYKCUfDZwkAH8bRjN7ryr9fnGr7";
    for wrong in ["127.0.0.1:1".to_owned(), format!("{}@127.0.0.1:1", &key[1..]), format!("{}0", &key[..51])] {
        let refused = place.run("d", &["doctor", "--peer", &wrong]);
        assert_code(&refused, 2);
        assert!(stderr(&refused).contains("PEERID@"), "{}", stderr(&refused));
    }
}

/// The events of that kind.
fn of(output: &Output, kind: &str) -> Vec<Value> {
    events(&stdout(output)).into_iter().filter(|event| event["event"] == kind).collect()
}

/// The port of the first address that begins with this.
fn port(ticket: &Ticket, start: &str) -> String {
    let rest = ticket.addresses.iter().find_map(|address| address.strip_prefix(start)).unwrap();
    rest.split('/').next().unwrap().to_owned()
}

#[test]
fn a_transport_whose_port_nobody_named_is_not_said_to_be_closed() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["src"]);
    let ticket = Ticket::parse(&sender.ticket).unwrap();
    let peer = libp2p::PeerId::from_bytes(&ticket.peer_id).unwrap();
    for (start, other) in [("/ip4/127.0.0.1/tcp/", "quic"), ("/ip4/127.0.0.1/udp/", "tcp")] {
        let at = format!("{peer}@127.0.0.1:{}", port(&ticket, start));
        let output = place.run("other", &["--json", "doctor", "--peer", &at]);
        assert_code(&output, 0);
        for transport in of(&output, "transport") {
            let is_other = transport["transport"] == other;
            assert_eq!(transport["reached"], if is_other { Value::Null } else { true.into() }, "{transport}");
            assert_eq!(transport["code"] == "port_unknown", is_other, "{transport}");
        }
    }
    sender.interrupt();
}

#[test]
fn a_device_that_no_transport_reaches_is_not_found_and_nothing_is_its_bottleneck() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["src"]);
    let ticket = Ticket::parse(&sender.ticket).unwrap();
    let nobody = "12D3KooWGzBpL8cnzCYAHa6PsvYKCUfDZwkAH8bRjN7ryr9fnGr7";
    let taken = format!("/ip4/127.0.0.1/tcp/{}/p2p/{nobody}", port(&ticket, "/ip4/127.0.0.1/tcp/"));
    for (at, why) in [(taken, "another device answers"), (format!("/ip4/127.0.0.1/tcp/1/p2p/{nobody}"), "no answer")] {
        let output = place.run("other", &["--json", "doctor", "--peer", &at]);
        assert_code(&output, 3);
        let tcp = of(&output, "transport").remove(0);
        assert!(tcp["reached"] == false && tcp["error"].as_str().unwrap().contains(why), "{tcp}");
        let result = of(&output, "result").remove(0);
        assert!(result["bottleneck"].is_null() && result["code"] == "peer_not_found", "{result}");
        let all = stdout(&output) + &stderr(&output);
        assert!(!all.contains("ticket") && !all.contains("slowest"), "{all}");
        assert_eq!(of(&output, "hashing").len(), 1);
    }
    sender.interrupt();
}

#[test]
fn a_directory_that_cannot_be_written_is_no_place_to_arrive_in() {
    let place = Place::new();
    let output = place.run("other", &["doctor", "--dir", "nowhere/there"]);
    assert_code(&output, 8);
    let text = stdout(&output);
    assert!(text.contains("nothing can be written") && !text.contains("slowest"), "{text}");
    let here = place.run("other", &["doctor"]);
    assert_code(&here, 0);
    assert!(stdout(&here).contains("The network was not measured"), "{}", stdout(&here));
}

#[test]
fn this_device_is_named_as_others_are_to_name_it_and_silence_is_not_claimed_where_nobody_listened() {
    let place = Place::new();
    let none = place.run("exporter", &["--json", "doctor"]);
    assert!(of(&none, "device")[0]["peer_id"].is_null() && !place.path("exporter").exists(), "{none:?}");
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["src"]);
    let ticket = Ticket::parse(&sender.ticket).unwrap();
    let peer = libp2p::PeerId::from_bytes(&ticket.peer_id).unwrap().to_string();
    let running = place.run("exporter", &["--json", "doctor"]);
    let device = of(&running, "device").remove(0);
    assert_eq!(device["peer_id"], peer.as_str());
    let listens: Vec<_> = device["addresses"].as_array().unwrap().iter().map(|at| at.as_str().unwrap()).collect();
    assert_eq!(listens, ticket.addresses);
    assert!(of(&running, "interface").iter().all(|one| one["heard"].is_null()), "{running:?}");
    let status = stdout(&place.run("exporter", &["node", "status"]));
    assert!(status.contains(&format!("PeerId     {peer}\n")), "{status}");
    sender.interrupt();
    let after = stdout(&place.run("exporter", &["doctor"]));
    assert!(after.starts_with(&format!("this device\t{peer}\t")) && !after.contains("nobody is heard"), "{after}");
}

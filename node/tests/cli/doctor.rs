//! `me-sync doctor` between two processes on 127.0.0.1.

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
    sender.interrupt();
}

#[test]
fn a_device_that_nobody_hears_is_not_found_and_an_address_needs_its_key() {
    let place = Place::new();
    assert_code(&place.run("d", &["doctor", "--peer", "attic"]), 3);
    let refused = place.run("d", &["doctor", "--peer", "127.0.0.1:1"]);
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("PEERID@"), "{}", stderr(&refused));
}

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
    let mut seen = Vec::new();
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
        assert_eq!(result["network_rate_measured"], false);
    }
    let transports: Vec<_> = seen.iter().map(|event| event["transport"].as_str().unwrap()).collect();
    assert!(transports.contains(&"tcp") && transports.contains(&"quic"), "{seen:?}");
    assert!(seen.iter().all(|event| event["device_name"] == "exporter"), "{seen:?}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    assert!(!place.path("other").exists(), "it keeps no state");
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

//! Two devices on a wire of their own: discovery, tickets with and without addresses, both transports (RELIABILITY
//! F58, F59).

use me_sync_protocol::ticket::Ticket;

use crate::device::Run;
use crate::net::Wire;
use crate::place::{Place, is_root, picture};

fn without_addresses(ticket: &str) -> String {
    let mut ticket = Ticket::parse(ticket).unwrap();
    assert!(!ticket.addresses.is_empty());
    ticket.addresses.clear();
    ticket.to_uri()
}

#[test]
fn peers_lists_the_other_device_by_its_name() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let (_exporter, ticket) = wire.near(place.exporter()).send(&place.tree("tree", 1, 10));
    let peers = wire.far(place.importer()).command(&["--json", "peers", "--for", "5s"]);
    let end = Run::start(peers).end();
    end.is_applied();
    let peer = end.events.iter().find(|e| e["event"] == "peer").unwrap();
    assert_eq!(peer["device_name"], "exporter");
    let addresses = peer["addresses"].as_array().unwrap();
    assert!(addresses.iter().any(|a| a.as_str().unwrap().contains("10.77.0.1")), "{peer:#}");
    assert!(Ticket::parse(&ticket).unwrap().addresses.iter().any(|a| a.contains("10.77.0.1")));
}

#[test]
fn a_ticket_without_addresses_works_through_mdns_over_tcp_and_quic() {
    if !is_root() {
        return;
    }
    for transport in ["tcp", "quic"] {
        let (place, wire) = (Place::new(), Wire::new());
        let tree = place.tree("tree", 20, 50_000);
        let (exporter, ticket) = wire.near(place.exporter()).send(&tree);
        let importer = wire.far(place.importer()).with(&["--transport", transport]);
        let end = importer.receive(&without_addresses(&ticket), &place.path("target")).end();
        end.is_applied();
        let peer = end.events.iter().find(|e| e["event"] == "peer").unwrap();
        assert_eq!(peer["transport"], transport);
        exporter.end().is_applied();
        assert_eq!(picture(&place.path("target")), picture(&tree));
    }
}

#[test]
fn addresses_in_the_ticket_make_mdns_unnecessary_over_tcp_and_quic() {
    if !is_root() {
        return;
    }
    for transport in ["tcp", "quic"] {
        let (place, wire) = (Place::new(), Wire::new());
        let tree = place.tree("tree", 20, 50_000);
        // one transport at the far end only: whatever it offers must be enough
        let (exporter, ticket) = wire.near(place.exporter()).send(&tree);
        let importer = wire.far(place.importer()).with(&["--no-mdns", "--transport", transport]);
        let end = importer.receive(&ticket, &place.path("target")).end();
        end.is_applied();
        assert_eq!(end.events.iter().find(|e| e["event"] == "peer").unwrap()["transport"], transport);
        exporter.end().is_applied();
        assert_eq!(picture(&place.path("target")), picture(&tree));
    }
}

#[test]
fn without_udp_the_tree_comes_over_tcp() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 5, 50_000);
    let near = wire.near(place.exporter()).with(&["--transport", "tcp"]);
    let (exporter, ticket) = near.send(&tree);
    assert!(Ticket::parse(&ticket).unwrap().addresses.iter().all(|a| !a.contains("quic")));
    wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &place.path("target")).end().is_applied();
    exporter.end().is_applied();
    assert_eq!(picture(&place.path("target")), picture(&tree));
}

#[test]
fn a_ticket_without_addresses_and_without_mdns_ends_as_peer_not_found() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (_exporter, ticket) = place.exporter().send(&place.tree("tree", 1, 10));
    let flags = ["--connect-timeout", "1s"];
    let end = place.importer().receive_with(&without_addresses(&ticket), &place.path("target"), &flags).end();
    end.is(3, "peer_not_found", "");
    assert!(!place.path("target").exists());
}

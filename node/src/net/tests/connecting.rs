//! Who connects to whom, over what, and how it is named when that fails.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_connect_over_tcp_and_over_quic_and_know_each_other_by_name() {
    for (preference, kind) in [
        (TransportPreference::Auto, TransportKind::Tcp),
        (TransportPreference::Tcp, TransportKind::Tcp),
        (TransportPreference::Quic, TransportKind::Quic),
    ] {
        let (a, mut b) = (Node::start("a").await, Node::start("b").await);
        let connected = a.connect(&b, preference).await.unwrap();
        assert_eq!((connected.transport, connected.hello.device_name.as_str()), (kind.into(), "b"));
        assert!(matches!(b.event().await, NetEvent::PeerConnected(peer) if peer == a.peer()));
        let peers = a.net.peers().await.unwrap();
        assert_eq!((peers.len(), peers[0].peer_id, peers[0].device_name.as_str()), (1, b.peer(), "b"));
        assert!(b.net.peers().await.unwrap().is_empty(), "a never answered a hello of b");
        let again = b.net.connect(a.peer(), Vec::new(), TransportPreference::Auto, PATIENCE).await.unwrap();
        assert_eq!(again.hello.device_name, "a", "the live connection serves both");
        a.net.shutdown().await;
        assert!(matches!(b.event().await, NetEvent::PeerDisconnected(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_dial_each_other_at_the_same_time_both_succeed() {
    for _ in 0..10 {
        let (a, b) = (Node::start("a").await, Node::start("b").await);
        let (there, back) =
            tokio::join!(a.connect(&b, TransportPreference::Auto), b.connect(&a, TransportPreference::Auto));
        assert_eq!((there.unwrap().hello.device_name.as_str(), back.unwrap().hello.device_name.as_str()), ("b", "a"));
        let (there, back) = tokio::join!(a.net.open_stream(b.peer()), b.net.open_stream(a.peer()));
        assert!(there.is_ok() && back.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_of_the_key_can_answer_and_a_wrong_address_spoils_no_other_a84() {
    let (a, b, c) = (Node::start("a").await, Node::start("b").await, Node::start("c").await);
    let error = a.net.connect(b.peer(), c.addresses.clone(), TransportPreference::Auto, SOON).await.unwrap_err();
    assert!(matches!(&error, ConnectError::WrongPeer { found, .. } if *found == c.peer()), "{error}");
    assert_eq!(error.code(), Code::PeerMismatch);
    let mixed = [c.addresses.clone(), b.addresses.clone()].concat();
    assert_eq!(
        a.net.connect(b.peer(), mixed, TransportPreference::Auto, PATIENCE).await.unwrap().hello.device_name,
        "b"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_cannot_be_reached_is_named_with_what_to_do() {
    let (a, gone) = (Node::start("a").await, Node::start("gone").await);
    let (peer, addresses) = (gone.peer(), gone.addresses.clone());
    gone.net.shutdown().await;
    let error = a.net.connect(peer, addresses, TransportPreference::Tcp, SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotFound { tried: 1, .. }), "{error}");
    let error = a.net.connect(peer, Vec::new(), TransportPreference::Auto, SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoAddress { .. }), "{error}");
    let error = a.net.connect(a.peer(), a.addresses.clone(), TransportPreference::Auto, SOON).await.unwrap_err();
    assert!(error.to_string().contains("same state directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_libp2p_program_is_told_apart_and_left_alone() {
    let a = Node::start("a").await;
    let mut foreign = Raw::swarm();
    let peer = *foreign.local_peer_id();
    foreign.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = foreign.select_next_some().await {
            break address;
        }
    };
    let mut foreign = Raw::run(foreign);
    let error = a.net.connect(peer, vec![address], TransportPreference::Auto, SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::Version { .. }), "{error}");
    assert_eq!(error.code(), Code::VersionMismatch);
    assert_eq!((foreign.next().await, foreign.next().await), (true, false));
    assert!(a.net.peers().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_holds_two_connections_and_no_third() {
    let node = Node::start("node").await;
    let mut raw = Raw::dial(&node, 3);
    let mut standing = 0i32;
    for _ in 0..4 {
        standing += if raw.next().await { 1 } else { -1 };
    }
    assert_eq!(standing, 2, "three began, one ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_says_so_and_its_port_was_its_own_f70() {
    let a = Node::start("a").await;
    let Some(libp2p::multiaddr::Protocol::Tcp(port)) = a.addresses[0].iter().nth(1) else { panic!("not tcp") };
    let same =
        NetConfig { listen: vec![ListenAddr { ip: Ipv4Addr::LOCALHOST.into(), port: Some(port) }], ..config("b") };
    let error = spawn(same.clone()).await.unwrap_err();
    assert!(matches!(error, NetError::Listen { .. }), "{error}");
    let other = a.net.clone();
    timeout(PATIENCE, a.net.shutdown()).await.unwrap();
    assert!(matches!(other.addresses().await, Err(NetError::Stopped)));
    assert!(matches!(other.open_stream(PeerId::random()).await, Err(OpenError::Stopped)));
    let (again, _events) = spawn(same).await.expect("the port is free again");
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_for_this_machine_alone_gets_loopback_addresses_tcp_first() {
    let node = Node::start("a").await;
    let shapes: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shapes.len(), 2, "{shapes:?}");
    assert!(shapes[0].starts_with("/ip4/127.0.0.1/tcp/") && shapes[1].ends_with("/quic-v1"), "{shapes:?}");
}

#[tokio::test]
async fn the_round_trip_is_that_of_the_connection_that_stands_and_nobody_waits_for_one_that_is_gone() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let trip = || async { timeout(PATIENCE, a.net.round_trip(b.peer())).await.expect("in time") };
    assert_eq!(trip().await, None, "not connected");
    for preference in [TransportPreference::Tcp, TransportPreference::Quic] {
        a.connect(&b, preference).await.unwrap();
        assert!(trip().await.is_some_and(|rtt| rtt < SOON));
        assert!(trip().await.is_some(), "once more");
        a.net.disconnect(b.peer()).await;
        assert_eq!(trip().await, None);
    }
}

//! What a node spends on peers that say nothing.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_hello_is_closed_and_one_with_it_stays_a66() {
    let node = Node::with(config("node"), Duration::from_millis(300)).await;
    let (mut silent, mut polite) = (Raw::dial(&node, 1), Raw::dial(&node, 1));
    assert!(silent.next().await && polite.next().await);
    polite.say(node.peer(), &hello(&[4])).await;
    assert!(!silent.next().await, "closed");
    assert!(timeout(Duration::from_millis(600), polite.connected.recv()).await.is_err(), "still connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_make_room_for_an_honest_peer_a64() {
    let (honest, node) = (Node::start("honest").await, Node::start("node").await);
    let mut crowd = Vec::new();
    for _ in 0..behaviour::MAX_INBOUND + 8 {
        let mut raw = Raw::dial(&node, 1);
        assert!(raw.next().await, "the newest is let in");
        crowd.push(raw);
    }
    honest.connect(&node, TransportPreference::Auto).await.unwrap();
    assert!(!crowd[0].next().await, "the oldest was put out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_connections_leave_nothing_behind_f60() {
    let (a, mut b) = (Node::start("a").await, Node::start("b").await);
    let drain = tokio::spawn(async move { while b.events.recv().await.is_some() {} });
    let (peer, addresses) = (b.net.local_peer(), b.addresses.clone());
    let cycle = async |preference| {
        a.net.connect(peer, addresses.clone(), preference, SOON).await.unwrap();
        drop(a.net.open_stream(peer).await.unwrap().stream);
        a.net.disconnect(peer).await;
    };
    cycle(TransportPreference::Tcp).await;
    cycle(TransportPreference::Quic).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for n in 0..100 {
        cycle(if n % 2 == 0 { TransportPreference::Tcp } else { TransportPreference::Quic }).await;
    }
    // The other side may still be ending its half of the last ones.
    let calm = async {
        while tasks() > before + 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, calm).await.unwrap_or_else(|_| panic!("{before} tasks became {}", tasks()));
    drain.abort();
}

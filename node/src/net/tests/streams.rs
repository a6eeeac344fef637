//! Streams, and what becomes of too many.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_carry_bytes_both_ways_and_are_never_opened_by_dialling() {
    let (a, mut b) = (Node::start("a").await, Node::start("b").await);
    assert!(matches!(a.net.open_stream(b.peer()).await, Err(OpenError::NotConnected { .. })));
    for preference in [TransportPreference::Tcp, TransportPreference::Quic] {
        a.connect(&b, preference).await.unwrap();
        let mut ours = a.net.open_stream(b.peer()).await.unwrap().stream;
        let mut theirs = b.stream().await;
        assert_eq!(theirs.peer, a.peer());
        ours.write_all(b"ping").await.unwrap();
        ours.flush().await.unwrap();
        let mut got = [0; 4];
        theirs.stream.read_exact(&mut got).await.unwrap();
        theirs.stream.write_all(b"pong").await.unwrap();
        theirs.stream.close().await.unwrap();
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&got, answer.as_slice()), (b"ping", b"pong".as_slice()));
        a.net.disconnect(b.peer()).await;
        assert!(matches!(a.net.open_stream(b.peer()).await, Err(OpenError::NotConnected { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_opened_at_once_all_arrive() {
    let (a, mut b) = (Node::start("a").await, Node::start("b").await);
    a.connect(&b, TransportPreference::Auto).await.unwrap();
    let peer = b.peer();
    // The opener limits itself to 16 at once per connection.
    let opened = futures::future::join_all((0..16).map(|_| a.net.open_stream(peer))).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    for _ in 0..16 {
        b.stream().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_queue_are_dropped_and_block_nobody_a68() {
    let (honest, mut node) = (Node::start("honest").await, Node::start("node").await);
    let mut flooder = Raw::dial(&node, 1);
    assert!(flooder.next().await);
    let mut held = Vec::new();
    for _ in 0..EVENT_CAPACITY - 4 {
        held.push(flooder.open(node.peer(), STREAM_PROTOCOL).await);
    }
    // Nobody reads the events, and still there are hellos and answers.
    honest.connect(&node, TransportPreference::Auto).await.unwrap();
    let mut lost = 0;
    for _ in 0..8 {
        let mut stream = honest.net.open_stream(node.peer()).await.unwrap().stream;
        lost += usize::from(matches!(timeout(SOON / 10, stream.read(&mut [0])).await, Ok(Ok(0) | Err(_))));
    }
    assert!(lost > 0, "the queue has an end");
    drop((held, flooder));
    while let Ok(event) = node.events.try_recv() {
        drop(event);
    }
    let _open = honest.net.open_stream(node.peer()).await.unwrap().stream;
    while node.stream().await.peer != honest.peer() {}
}

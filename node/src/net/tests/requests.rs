//! Questions and answers, and the hello before them.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_by_the_reader_and_a_dropped_one_is_busy() {
    let (a, mut b) = (Node::start("a").await, Node::start("b").await);
    assert!(matches!(a.net.request(b.peer(), status()).await, Err(RequestError::NotConnected { .. })));
    a.connect(&b, TransportPreference::Auto).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut seen = 0;
        while let Some(event) = b.events.recv().await {
            if let NetEvent::Request { request, reply, .. } = event {
                assert_eq!(request, status());
                seen += 1;
                if seen % 2 == 1 {
                    reply.send(Response::Done)
                } else {
                    drop(reply)
                }
                if seen == 10 {
                    break;
                }
            }
        }
        b
    });
    let peer = reader_peer(&a).await;
    // More at once than the connection takes: they wait for their turn.
    let answers = futures::future::join_all((0..10).map(|_| a.net.request(peer, status()))).await;
    let answers: Vec<Response> = answers.into_iter().map(Result::unwrap).collect();
    let busy = answers.iter().filter(|answer| **answer == Response::Refused(Code::Busy)).count();
    assert_eq!((answers.len(), busy), (10, 5));
    reader.await.unwrap();
}

async fn reader_peer(node: &Node) -> PeerId {
    node.net.peers().await.unwrap()[0].peer_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_guesses_at_a_ticket_are_heard_and_the_next_is_refused_a74() {
    let (a, mut b) = (Node::start("a").await, Node::start("b").await);
    a.connect(&b, TransportPreference::Auto).await.unwrap();
    let peer = b.peer();
    let reader = tokio::spawn(async move {
        let mut seen = 0;
        while let Some(event) = b.events.recv().await {
            if let NetEvent::Request { request: Request::Redeem(_), reply, .. } = event {
                seen += 1;
                reply.send(if seen <= 12 { granted() } else { Response::Refused(Code::TicketInvalid) });
            }
        }
    });
    for _ in 0..12 {
        assert_eq!(a.net.request(peer, redeem()).await.unwrap(), granted(), "a good ticket is no guess");
    }
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(a.net.request(peer, redeem()).await.unwrap());
    }
    assert!(answers[..10].iter().all(|answer| *answer == Response::Refused(Code::TicketInvalid)));
    assert!(answers[10..].iter().all(|answer| *answer == Response::Refused(Code::RateLimited)));
    reader.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlong_and_malformed_requests_are_refused_and_the_node_lives_on() {
    let (honest, node) = (Node::start("honest").await, Node::start("node").await);
    let mut raw = Raw::dial(&node, 1);
    assert!(raw.next().await);
    for bad in [vec![], vec![0xff; 100], vec![0; MAX_MESSAGE + 1], vec![0x81; 10 << 20], encode(&Response::Done)] {
        assert!(raw.ask(node.peer(), &bad).await.is_empty(), "{} bytes", bad.len());
    }
    assert!(matches!(raw.say(node.peer(), &hello(&[4])).await, Response::Hello(_)));
    honest.connect(&node, TransportPreference::Auto).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_before_a_hello_with_a_common_version_a56() {
    let mut node = Node::start("node").await;
    let peer = node.peer();
    let mut raw = Raw::dial(&node, 1);
    assert!(raw.next().await);
    let refused = Response::Refused(Code::VersionMismatch);
    assert_eq!(raw.say(peer, &status()).await, refused);
    assert_eq!(raw.say(peer, &hello(&[3])).await, refused);
    assert_eq!(raw.say(peer, &redeem()).await, refused);
    assert!(matches!(raw.say(peer, &hello(&[3, 4])).await, Response::Hello(_)));
    let question = status();
    let (answer, ()) = tokio::join!(raw.say(peer, &question), async {
        assert!(matches!(node.event().await, NetEvent::PeerConnected(_)));
        let NetEvent::Request { reply, .. } = node.event().await else { panic!("not a request") };
        reply.send(Response::Done);
    });
    assert_eq!(answer, Response::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_is_said_again_over_what_is_left_when_a_connection_ends_and_requests_wait_for_its_answer() {
    let node = Node::start("node").await;
    let mut raw = Raw::dial(&node, 2);
    let peer = raw.peer;
    let mut incoming = raw.control.accept(StreamProtocol::new(REQUEST_PROTOCOL)).unwrap();
    assert!(raw.next().await && raw.next().await);
    // each goes over either connection: by now the node has both
    for _ in 0..24 {
        raw.say(node.peer(), &status()).await;
    }
    let net = node.net.clone();
    let connect =
        tokio::spawn(async move { net.connect(peer, Vec::new(), TransportPreference::Auto, PATIENCE).await.unwrap() });
    assert!(matches!(answers(&mut incoming, &hello_answer()).await, Request::Hello(_)));
    assert_eq!(connect.await.unwrap().hello.device_name, "raw");
    raw.close.send(()).await.unwrap();
    assert!(!raw.next().await, "one of two");
    let (_, mut greeting) = timeout(PATIENCE, incoming.next()).await.expect("another hello").unwrap();
    let net = node.net.clone();
    let asked = tokio::spawn(async move { net.request(peer, status()).await });
    assert!(timeout(SOON / 20, incoming.next()).await.is_err(), "nothing is asked before the answer");
    greeting.write_all(&encode(&hello_answer())).await.unwrap();
    greeting.close().await.unwrap();
    assert_eq!(answers(&mut incoming, &Response::Done).await, status());
    assert_eq!(asked.await.unwrap().unwrap(), Response::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_has_forgotten_a_hello_hears_it_again_and_one_that_forgets_always_is_believed() {
    let node = Node::start("node").await;
    let mut raw = Raw::dial(&node, 1);
    let peer = raw.peer;
    let mut incoming = raw.control.accept(StreamProtocol::new(REQUEST_PROTOCOL)).unwrap();
    assert!(raw.next().await);
    // answered: by now the node has the connection
    raw.say(node.peer(), &status()).await;
    let net = node.net.clone();
    let connect =
        tokio::spawn(async move { net.connect(peer, Vec::new(), TransportPreference::Auto, PATIENCE).await.unwrap() });
    assert!(matches!(answers(&mut incoming, &hello_answer()).await, Request::Hello(_)));
    connect.await.unwrap();
    let forgotten = Response::Refused(Code::VersionMismatch);
    for _ in 0..3 {
        let net = node.net.clone();
        let asked = tokio::spawn(async move { net.request(peer, status()).await });
        assert_eq!(answers(&mut incoming, &forgotten).await, status());
        assert!(matches!(asked.await.unwrap(), Err(RequestError::Lost { .. })), "to be tried again");
        assert!(matches!(answers(&mut incoming, &hello_answer()).await, Request::Hello(_)));
    }
    let net = node.net.clone();
    let asked = tokio::spawn(async move { net.request(peer, status()).await });
    assert_eq!(answers(&mut incoming, &forgotten).await, status());
    assert_eq!(asked.await.unwrap().unwrap(), forgotten);
}

//! Nodes on loopback, mDNS off, against each other and against raw libp2p peers that break the rules.

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::{SwarmEvent, dial_opts::DialOpts, dial_opts::PeerCondition};
use libp2p::{Stream, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use me_sync_protocol::caps::Capabilities;
use me_sync_protocol::ids::{Digest, Nonce, Secret, SessionId, TicketId};
use me_sync_protocol::limits::MAX_MESSAGE;
use me_sync_protocol::message::{Granted, Redeem, SessionQuery, encode};
use me_sync_protocol::reason::Code;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn config(name: &str) -> NetConfig {
    NetConfig {
        listen: vec![ListenAddr { ip: Ipv4Addr::LOCALHOST.into(), port: None }],
        mdns: false,
        ..NetConfig::new(identity::Keypair::generate_ed25519(), name)
    }
}

struct Node {
    net: NetHandle,
    events: mpsc::Receiver<NetEvent>,
    addresses: Vec<Multiaddr>,
}

impl Node {
    async fn start(name: &str) -> Self {
        Self::with(config(name), actor::HELLO_TIMEOUT).await
    }

    async fn with(config: NetConfig, hello_timeout: Duration) -> Self {
        let (net, events) = start(config, hello_timeout).unwrap();
        let addresses = net.addresses().await.unwrap();
        Self { net, events, addresses }
    }

    fn peer(&self) -> PeerId {
        self.net.local_peer()
    }

    async fn connect(&self, other: &Node, preference: TransportPreference) -> Result<Connected, ConnectError> {
        self.net.connect(other.peer(), other.addresses.clone(), preference, SOON).await
    }

    async fn event(&mut self) -> NetEvent {
        timeout(SOON, self.events.recv()).await.expect("an event in time").expect("a living node")
    }

    async fn stream(&mut self) -> InboundStream {
        loop {
            if let NetEvent::InboundStream(stream) = self.event().await {
                return stream;
            }
        }
    }
}

/// A libp2p peer without any of our manners.
struct Raw {
    peer: PeerId,
    control: libp2p_stream::Control,
    connected: mpsc::Receiver<bool>,
    /// Closes the oldest connection.
    close: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Raw {
    fn swarm() -> Swarm<libp2p_stream::Behaviour> {
        SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .unwrap()
            .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(Duration::from_secs(60)))
            .build()
    }

    /// Dials the node that often; `connected` tells each connection's begin and end.
    fn dial(node: &Node, times: usize) -> Self {
        let mut swarm = Self::swarm();
        for _ in 0..times {
            let dial = DialOpts::peer_id(node.peer()).condition(PeerCondition::Always).allocate_new_port();
            swarm.dial(dial.addresses(node.addresses[..1].to_vec()).build()).unwrap();
        }
        Self::run(swarm)
    }

    fn run(mut swarm: Swarm<libp2p_stream::Behaviour>) -> Self {
        let control = swarm.behaviour().new_control();
        let peer = *swarm.local_peer_id();
        let (tell, connected) = mpsc::channel(64);
        let (close, mut closes) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let mut standing = std::collections::VecDeque::new();
            loop {
                let event = tokio::select! {
                    event = swarm.select_next_some() => event,
                    Some(()) = closes.recv() => {
                        standing.pop_front().into_iter().for_each(|oldest| _ = swarm.close_connection(oldest));
                        continue;
                    }
                };
                let told = match event {
                    SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                        standing.push_back(connection_id);
                        tell.send(true).await
                    }
                    SwarmEvent::ConnectionClosed { connection_id, .. } => {
                        standing.retain(|known| *known != connection_id);
                        tell.send(false).await
                    }
                    _ => Ok(()),
                };
                if told.is_err() {
                    return;
                }
            }
        });
        Self { peer, control, connected, close, task }
    }

    async fn next(&mut self) -> bool {
        timeout(SOON, self.connected.recv()).await.expect("a connection event in time").unwrap()
    }

    async fn open(&mut self, peer: PeerId, protocol: &'static str) -> Stream {
        timeout(SOON, self.control.open_stream(peer, StreamProtocol::new(protocol))).await.unwrap().unwrap()
    }

    /// Sends raw bytes as a request and reads whatever comes back.
    async fn ask(&mut self, peer: PeerId, raw: &[u8]) -> Vec<u8> {
        let mut stream = self.open(peer, REQUEST_PROTOCOL).await;
        let mut answer = Vec::new();
        // A node that has read enough resets the stream: then nothing comes back.
        if stream.write_all(raw).await.is_ok() && stream.close().await.is_ok() {
            timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an answer or an end").unwrap_or_default();
        }
        answer
    }

    async fn say(&mut self, peer: PeerId, request: &Request) -> Response {
        Response::decode(&self.ask(peer, &encode(request)).await).unwrap()
    }
}

fn hello(versions: &[u32]) -> Request {
    Request::Hello(Hello {
        agent: "raw".into(),
        device_name: "raw".into(),
        versions: versions.to_vec(),
        caps: Capabilities::ours(),
        max_lanes: 0,
        max_chunk: 1,
    })
}

fn status() -> Request {
    Request::Status(SessionQuery { session_id: SessionId([7; 16]) })
}

fn redeem() -> Request {
    Request::Redeem(Redeem {
        ticket_id: TicketId([1; 16]),
        nonce: Nonce([2; 16]),
        proof: Digest([3; 32]),
        max_lanes: 4,
        max_chunk: 1,
        zstd: false,
        holes: false,
        late_hashes: None,
    })
}

fn granted() -> Response {
    Response::Granted(Granted {
        session_id: SessionId([4; 16]),
        resume_secret: Secret::from_bytes([5; 32]),
        expires_at_ms: 0,
        lanes: 4,
        max_chunk: 1,
        source_name: "tree".into(),
        zstd: false,
        holes: false,
    })
}

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
        let again = b.net.connect(a.peer(), Vec::new(), TransportPreference::Auto, SOON).await.unwrap();
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
    assert_eq!(a.net.connect(b.peer(), mixed, TransportPreference::Auto, SOON).await.unwrap().hello.device_name, "b");
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

/// Answers the next request that comes in.
async fn answers(incoming: &mut libp2p_stream::IncomingStreams, answer: &Response) -> Request {
    let (_, mut stream) = timeout(SOON, incoming.next()).await.expect("a request in time").unwrap();
    let mut asked = Vec::new();
    timeout(SOON, stream.read_to_end(&mut asked)).await.expect("a whole request").unwrap();
    stream.write_all(&encode(answer)).await.unwrap();
    stream.close().await.unwrap();
    Request::decode(&asked).unwrap()
}

fn hello_answer() -> Response {
    let Request::Hello(hello) = hello(&[4]) else { unreachable!("a hello") };
    Response::Hello(hello)
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
        tokio::spawn(async move { net.connect(peer, Vec::new(), TransportPreference::Auto, SOON).await.unwrap() });
    assert!(matches!(answers(&mut incoming, &hello_answer()).await, Request::Hello(_)));
    assert_eq!(connect.await.unwrap().hello.device_name, "raw");
    raw.close.send(()).await.unwrap();
    assert!(!raw.next().await, "one of two");
    let (_, mut greeting) = timeout(SOON, incoming.next()).await.expect("another hello").unwrap();
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
        tokio::spawn(async move { net.connect(peer, Vec::new(), TransportPreference::Auto, SOON).await.unwrap() });
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
    timeout(SOON, calm).await.unwrap_or_else(|_| panic!("{before} tasks became {}", tasks()));
    drain.abort();
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
    timeout(SOON, a.net.shutdown()).await.unwrap();
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
    let trip = || async { timeout(SOON, a.net.round_trip(b.peer())).await.expect("in time") };
    assert_eq!(trip().await, None, "not connected");
    for preference in [TransportPreference::Tcp, TransportPreference::Quic] {
        a.connect(&b, preference).await.unwrap();
        assert!(trip().await.is_some_and(|rtt| rtt < SOON));
        assert!(trip().await.is_some(), "once more");
        a.net.disconnect(b.peer()).await;
        assert_eq!(trip().await, None);
    }
}

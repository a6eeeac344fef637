//! Nodes on loopback, mDNS off, against each other and against raw libp2p peers that break the rules.

mod connecting;
mod limits;
mod requests;
mod streams;

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

/// How long is tried what does not succeed.
const SOON: Duration = Duration::from_secs(5);
/// Longer than anything takes; a test that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

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
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("a living node")
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
        timeout(PATIENCE, self.connected.recv()).await.expect("a connection event in time").unwrap()
    }

    async fn open(&mut self, peer: PeerId, protocol: &'static str) -> Stream {
        timeout(PATIENCE, self.control.open_stream(peer, StreamProtocol::new(protocol))).await.unwrap().unwrap()
    }

    /// Sends raw bytes as a request and reads whatever comes back.
    async fn ask(&mut self, peer: PeerId, raw: &[u8]) -> Vec<u8> {
        let mut stream = self.open(peer, REQUEST_PROTOCOL).await;
        let mut answer = Vec::new();
        // A node that has read enough resets the stream: then nothing comes back.
        if stream.write_all(raw).await.is_ok() && stream.close().await.is_ok() {
            timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer or an end").unwrap_or_default();
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

/// Answers the next request that comes in.
async fn answers(incoming: &mut libp2p_stream::IncomingStreams, answer: &Response) -> Request {
    let (_, mut stream) = timeout(PATIENCE, incoming.next()).await.expect("a request in time").unwrap();
    let mut asked = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut asked)).await.expect("a whole request").unwrap();
    stream.write_all(&encode(answer)).await.unwrap();
    stream.close().await.unwrap();
    Request::decode(&asked).unwrap()
}

fn hello_answer() -> Response {
    let Request::Hello(hello) = hello(&[4]) else { unreachable!("a hello") };
    Response::Hello(hello)
}

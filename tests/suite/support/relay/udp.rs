//! The relay for datagrams.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::{Counter, Dice};

const LARGEST: usize = 64 << 10;
/// Datagrams under way in one direction; more are lost, as in a router.
const ON_THE_WAY: usize = 4096;

/// What befalls datagrams; chances out of 1000.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) doubled: u64,
    /// Comes up to 20 ms later than what was sent after it.
    pub(crate) late: u64,
    /// A bit turns over.
    pub(crate) damaged: u64,
    pub(crate) latency: Duration,
}

/// One end of the wire, to send to. It ends with this.
#[derive(Debug)]
pub(crate) struct UdpRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    weather: watch::Sender<Weather>,
    up: Counter,
    down: Counter,
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl UdpRelay {
    pub(crate) async fn start(upstream: SocketAddr, seed: u64) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let address = socket.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream,
            weather: watch::Sender::new(Weather::default()),
            up: Counter::default(),
            down: Counter::default(),
        });
        let task = tokio::spawn(serve(Arc::new(socket), shared.clone(), seed));
        Self { address, shared, task }
    }

    /// Where to send to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub(crate) fn weather(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Towards who listens.
    pub(crate) fn up(&self) -> &Counter {
        &self.shared.up
    }

    /// Towards who began.
    pub(crate) fn down(&self) -> &Counter {
        &self.shared.down
    }
}

async fn serve(socket: Arc<UdpSocket>, shared: Arc<Shared>, seed: u64) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut ways_back = JoinSet::new();
    let mut road = Road::new(seed);
    let mut datagram = vec![0; LARGEST];
    loop {
        tokio::select! {
            got = socket.recv_from(&mut datagram) => {
                // an ICMP error of an earlier datagram
                let Ok((len, client)) = got else { continue };
                if let Entry::Vacant(new) = clients.entry(client) {
                    let own = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound"));
                    own.connect(shared.upstream).await.expect("connected");
                    ways_back.spawn(way_back(own.clone(), socket.clone(), client, shared.clone(), seed ^ 1));
                    new.insert(own);
                }
                let weather = *shared.weather.borrow();
                road.enter(&datagram[..len], client, weather);
            }
            (client, bytes) = road.leave() => {
                if let Some(own) = clients.get(&client) {
                    // nobody may listen there at the moment
                    own.send(&bytes).await.ok();
                    shared.up.add(bytes.len());
                }
            }
        }
    }
}

async fn way_back(own: Arc<UdpSocket>, socket: Arc<UdpSocket>, client: SocketAddr, shared: Arc<Shared>, seed: u64) {
    let mut road = Road::new(seed);
    let mut datagram = vec![0; LARGEST];
    loop {
        tokio::select! {
            got = own.recv(&mut datagram) => {
                let Ok(len) = got else { continue };
                let weather = *shared.weather.borrow();
                road.enter(&datagram[..len], client, weather);
            }
            (client, bytes) = road.leave() => {
                socket.send_to(&bytes, client).await.ok();
                shared.down.add(bytes.len());
            }
        }
    }
}

/// When it arrives, its number, whose it is, and what is in it.
type Datagram = (Instant, u64, SocketAddr, Vec<u8>);

/// Datagrams under way, by when they arrive.
#[derive(Debug)]
pub(super) struct Road {
    dice: Dice,
    under_way: BinaryHeap<Reverse<Datagram>>,
    number: u64,
}

impl Road {
    pub(super) fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), under_way: BinaryHeap::new(), number: 0 }
    }

    pub(super) fn enter(&mut self, datagram: &[u8], client: SocketAddr, weather: Weather) {
        let copies = if self.dice.of_thousand(weather.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            if self.dice.of_thousand(weather.loss) || self.under_way.len() >= ON_THE_WAY {
                continue;
            }
            let mut bytes = datagram.to_vec();
            if self.dice.of_thousand(weather.damaged) && !bytes.is_empty() {
                let at = self.dice.roll(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.dice.roll(8);
            }
            let late = if self.dice.of_thousand(weather.late) { 1 + self.dice.roll(20) } else { 0 };
            let due = Instant::now() + weather.latency + Duration::from_millis(late);
            self.number += 1;
            self.under_way.push(Reverse((due, self.number, client, bytes)));
        }
    }

    /// The next that arrives, when it does. Cancel-safe.
    pub(super) async fn leave(&mut self) -> (SocketAddr, Vec<u8>) {
        match self.under_way.peek() {
            Some(Reverse((due, ..))) => tokio::time::sleep_until(*due).await,
            None => std::future::pending().await,
        }
        let Some(Reverse((_, _, client, bytes))) = self.under_way.pop() else { unreachable!("it was there") };
        (client, bytes)
    }
}

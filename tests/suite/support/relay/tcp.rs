//! The relay for streams.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::Counter;
use super::course::{Course, Fate, How, Travel};

const BLOCK: usize = 16 << 10;
/// Blocks under way in one direction.
const ON_THE_WAY: usize = 16;

/// One end of the wire, to connect to. It ends with this.
#[derive(Debug)]
pub(crate) struct TcpRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: watch::Sender<SocketAddr>,
    is_open: watch::Sender<bool>,
    fates: Mutex<Box<dyn FnMut(usize) -> Fate + Send>>,
    orders: broadcast::Sender<How>,
    up: Counter,
    down: Counter,
    connections: AtomicUsize,
    alive: watch::Sender<usize>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("up", &self.up).field("down", &self.down).finish_non_exhaustive()
    }
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TcpRelay {
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listens");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream: watch::Sender::new(upstream),
            is_open: watch::Sender::new(true),
            fates: Mutex::new(Box::new(|_| Fate::default())),
            orders: broadcast::channel(16).0,
            up: Counter::default(),
            down: Counter::default(),
            connections: AtomicUsize::new(0),
            alive: watch::Sender::new(0),
        });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Self { address, shared, task }
    }

    /// Where to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead from now on.
    pub(crate) fn aim(&self, upstream: SocketAddr) {
        self.shared.upstream.send_replace(upstream);
    }

    /// Where new connections lead.
    pub(crate) fn upstream(&self) -> SocketAddr {
        *self.shared.upstream.borrow()
    }

    /// What befalls each new connection; they are counted from 0.
    pub(crate) fn fate(&self, fate: impl FnMut(usize) -> Fate + Send + 'static) {
        *self.shared.fates.lock().expect("nobody panicked in it") = Box::new(fate);
    }

    /// Ends every connection now.
    pub(crate) fn cut(&self, how: How) {
        // there may be none
        self.shared.orders.send(how).ok();
    }

    /// A closed relay takes connections and closes them at once.
    pub(crate) fn open(&self, is_open: bool) {
        self.shared.is_open.send_replace(is_open);
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Waits until so many connections stand.
    pub(crate) async fn stand(&self, number: usize) {
        self.shared.alive.subscribe().wait_for(|now| *now == number).await.expect("the relay lives");
    }

    /// Towards who listens.
    pub(crate) fn up(&self) -> &Counter {
        &self.shared.up
    }

    /// Towards who connected.
    pub(crate) fn down(&self) -> &Counter {
        &self.shared.down
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while tasks.try_join_next().is_some() {}
        if *shared.is_open.borrow() {
            let number = shared.connections.fetch_add(1, Ordering::Relaxed);
            let fate = (shared.fates.lock().expect("nobody panicked in it"))(number);
            tasks.spawn(connection(client, fate, shared.clone()));
        }
    }
}

async fn connection(mut client: TcpStream, fate: Fate, shared: Arc<Shared>) {
    let mut orders = shared.orders.subscribe();
    let upstream = *shared.upstream.borrow();
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    for stream in [&client, &server] {
        // what comes small goes on small
        stream.set_nodelay(true).ok();
    }
    shared.alive.send_modify(|n| *n += 1);
    let mut how = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let up = direction(from_client, to_server, fate.up, &shared.up);
        let down = direction(from_server, to_client, fate.down, &shared.down);
        tokio::select! {
            // nothing passes that was sent after the order
            biased;
            order = orders.recv() => order.unwrap_or(How::Close),
            ended = async { tokio::try_join!(up, down) } => ended.err().unwrap_or(How::Close),
        }
    };
    while how == How::Silence {
        how = orders.recv().await.unwrap_or(How::Close);
    }
    if how == How::Reset {
        for stream in [&client, &server] {
            // a socket that is dead already needs none
            stream.set_zero_linger().ok();
        }
    }
    drop((client, server));
    shared.alive.send_modify(|n| *n -= 1);
}

/// Hands over one direction until the sender's FIN, which is passed on, or until its fate ends the connection.
async fn direction(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    course: Course,
    counter: &Counter,
) -> Result<(), How> {
    // whoever breaks one end means the other
    let broken = |_| How::Reset;
    let (queue, mut under_way) = mpsc::channel::<(Instant, Vec<u8>, Option<How>)>(ON_THE_WAY);
    let mut travel = Travel::new(course);
    let reads = async move {
        loop {
            let mut block = vec![0; BLOCK];
            let read = from.read(&mut block).await.map_err(broken)?;
            if read == 0 {
                return Ok(());
            }
            let (len, end) = travel.pass(&mut block[..read]);
            block.truncate(len);
            if queue.send((Instant::now() + course.latency, block, end)).await.is_err() || end.is_some() {
                return Ok(());
            }
        }
    };
    let writes = async {
        while let Some((due, block, end)) = under_way.recv().await {
            if !course.latency.is_zero() {
                tokio::time::sleep_until(due).await;
            }
            if let Some(rate) = course.rate {
                tokio::time::sleep(Duration::from_secs_f64(block.len() as f64 / rate as f64)).await;
            }
            to.write_all(&block).await.map_err(broken)?;
            counter.add(block.len());
            match end {
                // the other direction goes on
                Some(How::Silence) => std::future::pending().await,
                Some(how) => return Err(how),
                None => {}
            }
        }
        // a socket that is dead already has nobody to tell
        to.shutdown().await.ok();
        Ok(())
    };
    tokio::try_join!(reads, writes).map(drop)
}

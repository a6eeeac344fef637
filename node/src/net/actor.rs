//! The task that owns the swarm: it waits for one thing, applies it, and then does what time and state ask for.
//!
//! Nothing here waits for a peer or for the reader of the events. What cannot be delivered is refused.

mod dialling;
mod discovering;
mod listening;
mod peers;
mod piping;
mod requests;
mod who;
mod widen;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::transport::ListenerId;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use me_sync_protocol::message::Hello;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::discovering::Mdns;
use self::peers::Peer;
use self::requests::{Answer, Outbound};
use super::behaviour::{self, Behaviour, BehaviourEvent};
use super::connect::{Job, JobKey};
use super::discovery::Discovery;
use super::handle::{Command, Listening};
use super::pipe::Pipe;
use super::rate::RateLimit;
use super::{NetConfig, NetError, NetEvent, Transports};

/// Guesses at tickets per host and minute (A74).
const REDEEM_TRIES: u32 = 10;
const REDEEM_WINDOW: Duration = Duration::from_secs(60);
/// Connections and disconnections not yet fetched by the reader of the events; beyond it the oldest are lost.
const OUTBOX: usize = 1024;
/// A peer that connects says hello within this time (A66).
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop may take.
const STOP: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Actor {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetEvent>,
    outbox: VecDeque<NetEvent>,
    /// What we say about ourselves.
    hello: Hello,
    pipes: HashMap<PeerId, Pipe>,
    transports: Transports,
    mdns: Mdns,
    hello_timeout: Duration,
    listeners: HashMap<ListenerId, Vec<Multiaddr>>,
    started: Instant,
    last_listen_change: Instant,
    address_waiters: Vec<oneshot::Sender<Listening>>,
    peers: HashMap<PeerId, Peer>,
    jobs: HashMap<JobKey, Job>,
    dials: HashMap<ConnectionId, JobKey>,
    /// Second connections being dialled.
    widening: HashMap<ConnectionId, oneshot::Sender<()>>,
    /// Addresses being asked who is there.
    asked: HashMap<ConnectionId, oneshot::Sender<PeerId>>,
    discovery: Discovery,
    outbound: HashMap<OutboundRequestId, Outbound>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    redeems: RateLimit,
}

impl Actor {
    pub(super) fn new(
        config: NetConfig,
        hello: Hello,
        hello_timeout: Duration,
        commands: mpsc::Receiver<Command>,
        offering: watch::Receiver<bool>,
        events: mpsc::Sender<NetEvent>,
    ) -> Result<Self, NetError> {
        let mut swarm = behaviour::build(&config, events.clone())?;
        let listeners = listening::listen(&mut swarm, &config)?;
        let now = Instant::now();
        Ok(Self {
            swarm,
            commands,
            events,
            outbox: VecDeque::new(),
            hello,
            pipes: HashMap::new(),
            transports: config.transports,
            mdns: Mdns::new(config.mdns, offering),
            hello_timeout,
            listeners,
            started: now,
            last_listen_change: now,
            address_waiters: Vec::new(),
            peers: HashMap::new(),
            jobs: HashMap::new(),
            dials: HashMap::new(),
            widening: HashMap::new(),
            asked: HashMap::new(),
            discovery: Discovery::default(),
            outbound: HashMap::new(),
            answers: FuturesUnordered::new(),
            redeems: RateLimit::new(REDEEM_TRIES, REDEEM_WINDOW),
        })
    }

    pub(super) async fn run(mut self) {
        let stopped = loop {
            let deadline = self.next_deadline();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown(done)) => break Some(done),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                // who offers is found; the pump sees to it
                Ok(()) = self.mdns.offering.changed() => {}
                Some(_ended) = self.mdns.searches.next(), if self.mdns.is_searching() => {}
                Some(answer) = self.answers.next(), if !self.answers.is_empty() => self.on_answer(answer),
                () = deliver(&self.events, &mut self.outbox), if !self.outbox.is_empty() => {}
                () = sleep_until(deadline.unwrap_or(self.started)), if deadline.is_some() => {}
            }
            self.pump(Instant::now());
        };
        self.stop().await;
        if stopped.is_some_and(|done| done.send(()).is_err()) {
            tracing::debug!("nobody waits for the stop any more");
        }
    }

    /// Closes what is open in an orderly way, so that peers see an end and not a loss.
    async fn stop(mut self) {
        self.commands.close();
        self.jobs.clear();
        self.outbox.clear();
        self.pipes.clear();
        for listener in self.listeners.keys() {
            self.swarm.remove_listener(*listener);
        }
        for peer in self.peers.keys() {
            self.swarm.disconnect_peer_id(*peer).ok(); // Err: gone already
        }
        let deadline = Instant::now() + STOP;
        while self.swarm.connected_peers().next().is_some() {
            if timeout_at(deadline, self.swarm.select_next_some()).await.is_err() {
                break;
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Addresses(reply) => self.address_waiters.push(reply),
            Command::Connect { peer, addresses, preference, timeout, reply } => {
                self.on_connect(JobKey { peer, preference }, &addresses, timeout, reply, now);
            }
            Command::Request { peer, request, reply } => self.on_request_command(peer, request, reply),
            Command::OpenStream { peer, purpose, beside, reply } => self.on_open_stream(peer, purpose, beside, reply),
            Command::Who { address, preference, answer } => self.on_who(&address, preference, answer),
            Command::Widen { peer, done } => self.on_widen(peer, done),
            Command::Disconnect { peer, done } => self.on_disconnect(peer, done),
            Command::RoundTrip { peer, reply } => self.on_round_trip_asked(peer, reply),
            Command::Attach(attach) => self.on_attach(*attach),
            Command::Peers(reply) => {
                if reply.send(self.discovery.view(now)).is_err() {
                    tracing::debug!("nobody waits for the peers any more");
                }
            }
            Command::Search(end) => self.mdns.searches.push(end),
            Command::Shutdown(_) => {} // handled by `run`
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(peer = %peer_id, cause = cause.map(|c| c.to_string()), "connection closed");
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, &error, now);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => self.on_listening(listener_id, address, now),
            SwarmEvent::ExpiredListenAddr { listener_id, address } => self.on_not_listening(listener_id, &address, now),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                tracing::warn!(?reason, "a listener closed");
                self.listeners.remove(&listener_id);
            }
            other => tracing::trace!(?other, "swarm"),
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent, now: Instant) {
        match event {
            BehaviourEvent::Requests(event) => self.on_request_event(event, now),
            BehaviourEvent::Mdns4(event) | BehaviourEvent::Mdns6(event) => self.on_mdns(event, now),
            BehaviourEvent::Ping(ping) => match ping.result {
                Ok(rtt) => self.on_round_trip(ping.peer, rtt, now),
                // Not a reason to close: on a slow link a ping waits behind megabytes of data. Sessions have
                // a watchdog of their own, and a connection without streams ends by being idle.
                Err(error) => tracing::debug!(peer = %ping.peer, %error, "ping"),
            },
            BehaviourEvent::Identify(event) => tracing::trace!(?event, "identify"),
            BehaviourEvent::Gate(never) | BehaviourEvent::Limits(never) | BehaviourEvent::Streams(never) => {
                match never {}
            }
        }
    }

    fn tell(&mut self, event: NetEvent) {
        if self.outbox.len() >= OUTBOX {
            tracing::warn!("the reader of the network events is stuck, one is lost");
            self.outbox.pop_front();
        }
        self.outbox.push_back(event);
    }

    /// Does everything whose time has come.
    fn pump(&mut self, now: Instant) {
        self.answer_addresses(now);
        self.close_silent(now);
        self.tend_mdns(now);
        self.probe_found(now);
        self.pump_jobs(now);
    }

    /// When [`Actor::pump`] has something to do although nothing happened.
    fn next_deadline(&self) -> Option<Instant> {
        let jobs = self.jobs.iter().filter_map(|(key, job)| job.next_deadline(self.live(key).is_some()));
        jobs.chain(self.addresses_due()).chain(self.silent_due()).chain(self.probe_due()).chain(self.mdns.due()).min()
    }
}

/// Hands the oldest event over as soon as there is room. Cancel-safe.
async fn deliver(events: &mpsc::Sender<NetEvent>, outbox: &mut VecDeque<NetEvent>) {
    match events.reserve().await {
        Ok(room) => {
            if let Some(event) = outbox.pop_front() {
                room.send(event);
            }
        }
        // Nobody listens any more: the requests among them are answered `busy` by being dropped.
        Err(_) => outbox.clear(),
    }
}

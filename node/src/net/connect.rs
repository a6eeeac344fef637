//! One effort to reach a peer: which addresses are left, what is being dialled, who waits. Pure: time is an argument.
//!
//! Every address is dialled on its own, pinned to the peer, so that a wrong one (A84) spoils no other. They
//! start one after another, TCP before QUIC, each a little later or as soon as the one before failed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::address::Candidate;
use super::{ConnectError, Connected, TransportPreference};

/// Head start of an address before the next one.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one effort dialled at once.
const MAX_PARALLEL: usize = 6;
/// Addresses one effort tries in all.
const MAX_CANDIDATES: usize = 24;
/// When all given addresses failed, mDNS may still bring one until then.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(6);
/// Nobody waits longer, whatever was asked for.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// A hello to somebody mDNS found takes no longer.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// What an effort is about; equal ones are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct JobKey {
    pub(super) peer: PeerId,
    pub(super) preference: TransportPreference,
}

type Reply = oneshot::Sender<Result<Connected, ConnectError>>;

#[derive(Debug)]
struct Waiter {
    asked: Instant,
    deadline: Instant,
    reply: Reply,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Job {
    peer: PeerId,
    waiters: Vec<Waiter>,
    /// Somebody mDNS found is greeted; nobody waits.
    probe: bool,
    queue: VecDeque<Candidate>,
    seen: HashSet<Multiaddr>,
    dialling: HashMap<ConnectionId, Multiaddr>,
    started: Instant,
    next_dial: Instant,
    tried: usize,
    last: Option<String>,
    wrong: Option<(PeerId, Multiaddr)>,
}

impl Job {
    pub(super) fn new(peer: PeerId, probe: bool, now: Instant) -> Self {
        Self {
            peer,
            waiters: Vec::new(),
            probe,
            queue: VecDeque::new(),
            seen: HashSet::new(),
            dialling: HashMap::new(),
            started: now,
            next_dial: now,
            tried: 0,
            last: None,
            wrong: None,
        }
    }

    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }

    pub(super) fn wait(&mut self, now: Instant, timeout: Duration, reply: Reply) {
        self.waiters.push(Waiter { asked: now, deadline: now + timeout.min(MAX_TIMEOUT), reply });
    }

    /// One more address to try, unless it is known already.
    pub(super) fn add(&mut self, candidate: Candidate) {
        if self.seen.len() >= MAX_CANDIDATES || !self.seen.insert(candidate.address.clone()) {
            return;
        }
        // TCP first, then QUIC, WebSocket last, each in the order given
        let at = self.queue.iter().take_while(|c| c.transport <= candidate.transport).count();
        self.queue.insert(at, candidate);
    }

    /// The next address, when its time has come.
    pub(super) fn next_candidate(&mut self, now: Instant) -> Option<Candidate> {
        if self.dialling.len() >= MAX_PARALLEL || now < self.next_dial {
            return None;
        }
        let candidate = self.queue.pop_front()?;
        self.next_dial = now + STAGGER;
        Some(candidate)
    }

    /// The address could not even be dialled for want of room: later again.
    pub(super) fn put_back(&mut self, candidate: Candidate) {
        self.queue.push_front(candidate);
    }

    pub(super) fn dialled(&mut self, connection: ConnectionId, address: Multiaddr) {
        self.tried += 1;
        self.dialling.insert(connection, address);
    }

    pub(super) fn established(&mut self, connection: ConnectionId) {
        self.dialling.remove(&connection);
    }

    /// A dial failed, or its connection did not last: the next address may start at once.
    pub(super) fn failed(&mut self, connection: Option<ConnectionId>, why: String, now: Instant) {
        if let Some(connection) = connection {
            self.dialling.remove(&connection);
        }
        self.last = Some(why);
        self.next_dial = now;
    }

    /// Somebody else answered there.
    pub(super) fn wrong_peer(&mut self, connection: ConnectionId, found: PeerId, address: Multiaddr, now: Instant) {
        self.wrong.get_or_insert((found, address));
        self.failed(Some(connection), format!("{found} answered instead"), now);
    }

    /// Ends the wait of those whose time is up or who left.
    pub(super) fn expire(&mut self, now: Instant, connected: bool) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        for waiter in self.waiters.extract_if(.., |waiter| waiter.deadline <= now) {
            let waited = now.duration_since(waiter.asked);
            let error = if connected {
                ConnectError::Timeout { peer: self.peer, waited }
            } else {
                verdict(self.peer, self.wrong.as_ref(), self.tried, self.last.as_deref())
            };
            answer(waiter.reply, Err(error));
        }
    }

    /// Nobody wants the result any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.waiters.is_empty() && !(self.probe && now < self.started + PROBE_PATIENCE)
    }

    /// Nothing is left to dial, and nothing more will come.
    pub(super) fn is_exhausted(&self, now: Instant, mdns: bool) -> bool {
        let hopeful = mdns && !self.probe && (self.tried == 0 || now < self.started + DISCOVERY_PATIENCE);
        self.queue.is_empty() && self.dialling.is_empty() && !hopeful
    }

    pub(super) fn succeed(self, connected: &Connected) {
        for waiter in self.waiters {
            answer(waiter.reply, Ok(connected.clone()));
        }
    }

    /// Fails with what the dials showed.
    pub(super) fn give_up(self) {
        let error = verdict(self.peer, self.wrong.as_ref(), self.tried, self.last.as_deref());
        self.fail(&error);
    }

    pub(super) fn fail(self, error: &ConnectError) {
        for waiter in self.waiters {
            answer(waiter.reply, Err(error.clone()));
        }
    }

    /// When something changes by time alone.
    pub(super) fn next_deadline(&self, connected: bool) -> Option<Instant> {
        let mut at: Vec<Instant> = self.waiters.iter().map(|waiter| waiter.deadline).collect();
        if self.probe {
            at.push(self.started + PROBE_PATIENCE);
        }
        if !connected && !self.queue.is_empty() && self.dialling.len() < MAX_PARALLEL {
            at.push(self.next_dial);
        }
        if !connected && self.tried > 0 && self.queue.is_empty() && self.dialling.is_empty() {
            at.push(self.started + DISCOVERY_PATIENCE);
        }
        at.into_iter().min()
    }
}

fn verdict(peer: PeerId, wrong: Option<&(PeerId, Multiaddr)>, tried: usize, last: Option<&str>) -> ConnectError {
    match wrong {
        Some((found, address)) => ConnectError::WrongPeer { peer, found: *found, address: address.clone() },
        None if tried == 0 => ConnectError::NoAddress { peer },
        None => ConnectError::NotFound { peer, tried, last: last.unwrap_or("no answer in time").to_owned() },
    }
}

fn answer(reply: Reply, result: Result<Connected, ConnectError>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for the connection any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(address: &str) -> Candidate {
        Candidate::parse(&address.parse().unwrap(), None).unwrap()
    }

    #[test]
    fn tcp_goes_first_and_quic_follows_after_a_head_start_or_a_failure() {
        let now = Instant::now();
        let mut job = Job::new(PeerId::random(), false, now);
        for address in
            ["/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1", "/ip4/192.0.2.1/tcp/1"]
        {
            job.add(candidate(address));
        }
        let dial = |job: &mut Job, n: usize, at: Instant| {
            let address = job.next_candidate(at)?.address;
            job.dialled(ConnectionId::new_unchecked(n), address.clone());
            Some(address.to_string())
        };
        assert_eq!(dial(&mut job, 1, now).unwrap(), "/ip4/192.0.2.1/tcp/1");
        assert_eq!(dial(&mut job, 2, now), None);
        assert_eq!(dial(&mut job, 2, now + STAGGER).unwrap(), "/ip4/192.0.2.2/tcp/1");
        job.failed(Some(ConnectionId::new_unchecked(2)), "refused".into(), now + STAGGER);
        assert_eq!(dial(&mut job, 3, now + STAGGER).unwrap(), "/ip4/192.0.2.1/udp/1/quic-v1");
        assert!(!job.is_exhausted(now + STAGGER, false));
        for n in [1, 3] {
            job.failed(Some(ConnectionId::new_unchecked(n)), "refused".into(), now);
        }
        assert!(job.is_exhausted(now, false));
        assert!(!job.is_exhausted(now, true), "mDNS may still bring an address");
        assert!(job.is_exhausted(now + DISCOVERY_PATIENCE, true));
    }

    #[test]
    fn each_caller_waits_for_its_own_time() {
        let now = Instant::now();
        let mut job = Job::new(PeerId::random(), false, now);
        let (short, mut ended) = oneshot::channel();
        let (long, mut waiting) = oneshot::channel();
        job.wait(now, Duration::from_secs(1), short);
        job.wait(now, Duration::from_secs(9), long);
        job.expire(now + Duration::from_secs(1), false);
        assert!(matches!(ended.try_recv(), Ok(Err(ConnectError::NoAddress { .. }))));
        assert!(waiting.try_recv().is_err() && !job.is_over(now + Duration::from_secs(1)));
        drop(waiting);
        job.expire(now + Duration::from_secs(2), false);
        assert!(job.is_over(now + Duration::from_secs(2)));
    }
}

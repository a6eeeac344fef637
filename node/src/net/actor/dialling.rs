//! Efforts to reach peers: those somebody asked for, and hellos to those mDNS found while a search is on.

use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Actor;
use crate::net::address::Candidate;
use crate::net::connect::{Job, JobKey};
use crate::net::{ConnectError, Connected, TransportKind, TransportPreference};

/// Efforts at once.
const MAX_JOBS: usize = 32;
/// Of these, hellos to found peers.
const MAX_PROBES: usize = 8;

impl Actor {
    pub(super) fn on_connect(
        &mut self,
        key: JobKey,
        addresses: &[Multiaddr],
        timeout: Duration,
        reply: oneshot::Sender<Result<Connected, ConnectError>>,
        now: Instant,
    ) {
        if let Some(connected) = self.piped(&key.peer) {
            reply.send(Ok(connected)).ok(); // Err: nobody waits any more
            return;
        }
        if !self.jobs.contains_key(&key) && self.jobs.len() >= MAX_JOBS {
            if reply.send(Err(ConnectError::Busy)).is_err() {
                tracing::debug!("nobody waits for the connection any more");
            }
            return;
        }
        let job = self.jobs.entry(key).or_insert_with(|| Job::new(key.peer, false, now));
        job.wait(now, timeout, reply);
        self.add_candidates(key, addresses.to_vec());
        self.add_candidates(key, self.discovery.addresses(&key.peer).to_vec());
        self.pump_job(key, now);
    }

    pub(super) fn add_candidates(&mut self, key: JobKey, addresses: Vec<Multiaddr>) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let usable = addresses.iter().filter_map(|address| Candidate::parse(address, Some(&key.peer)));
        for candidate in usable.filter(|candidate| candidate.wanted(self.transports, key.preference)) {
            job.add(candidate);
        }
    }

    pub(super) fn pump_jobs(&mut self, now: Instant) {
        let keys: Vec<JobKey> = self.jobs.keys().copied().collect();
        for key in keys {
            self.pump_job(key, now);
        }
    }

    fn pump_job(&mut self, key: JobKey, now: Instant) {
        if let Some(connected) = self.connected(&key) {
            if let Some(job) = self.jobs.remove(&key) {
                job.succeed(&connected);
            }
            return;
        }
        let live = self.live(&key).is_some();
        let Some(job) = self.jobs.get_mut(&key) else { return };
        job.expire(now, live);
        if job.is_over(now) {
            self.jobs.remove(&key);
            return;
        }
        if live {
            self.greet(key.peer);
            return;
        }
        self.dial_next(key, now);
        let exhausted = self.jobs.get(&key).is_some_and(|job| job.is_exhausted(now, self.mdns.allowed));
        if let Some(job) = exhausted.then(|| self.jobs.remove(&key)).flatten() {
            job.give_up();
        }
    }

    fn dial_next(&mut self, key: JobKey, now: Instant) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        while let Some(candidate) = job.next_candidate(now) {
            let dial = DialOpts::peer_id(key.peer).condition(PeerCondition::Always);
            let dial = match candidate.transport {
                // A port of its own per dial: a reused one cannot reach the same address twice within a minute.
                TransportKind::Tcp | TransportKind::Ws => dial.allocate_new_port(),
                TransportKind::Quic => dial,
            };
            let dial = dial.addresses(vec![candidate.address.clone()]).build();
            let id = dial.connection_id();
            self.swarm.behaviour_mut().gate.permit(id);
            match self.swarm.dial(dial) {
                Ok(()) => {
                    tracing::debug!(peer = %key.peer, address = %candidate.address, "dialling");
                    job.dialled(id, candidate.address);
                    self.dials.insert(id, key);
                }
                Err(DialError::Denied { .. }) => return job.put_back(candidate),
                Err(error) => {
                    job.dialled(id, candidate.address);
                    job.failed(Some(id), error.to_string(), now);
                }
            }
        }
    }

    pub(super) fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError, now: Instant) {
        if self.widened(connection) {
            return tracing::debug!(%error, "no second connection");
        }
        if self.nobody_answers(connection) {
            return tracing::debug!(%error, "nobody is there");
        }
        let Some(key) = self.dials.remove(&connection) else { return };
        let Some(job) = self.jobs.get_mut(&key) else { return };
        match error {
            DialError::WrongPeerId { obtained, address } => {
                job.wrong_peer(connection, *obtained, address.clone(), now);
            }
            DialError::LocalPeerId { address } => {
                job.wrong_peer(connection, *self.swarm.local_peer_id(), address.clone(), now);
            }
            DialError::Transport(errors) => {
                let why = errors.first().map_or_else(|| error.to_string(), |(_, why)| innermost(why));
                job.failed(Some(connection), why, now);
            }
            other => job.failed(Some(connection), other.to_string(), now),
        }
    }

    fn probe_room(&self) -> usize {
        MAX_PROBES.saturating_sub(self.jobs.values().filter(|job| job.is_probe()).count())
    }

    pub(super) fn probe_due(&self) -> Option<Instant> {
        if self.mdns.is_searching() && self.probe_room() > 0 { self.discovery.next_due() } else { None }
    }

    /// Greets found peers, while somebody searches.
    pub(super) fn probe_found(&mut self, now: Instant) {
        if !self.mdns.is_searching() {
            return;
        }
        for peer in self.discovery.take_due(now, self.probe_room()) {
            let key = JobKey { peer, preference: TransportPreference::Auto };
            if self.has_answered(&peer) || self.jobs.contains_key(&key) {
                continue;
            }
            if self.live(&key).is_some() {
                self.greet(peer);
            } else if self.jobs.len() < MAX_JOBS {
                self.jobs.insert(key, Job::new(peer, true, now));
                self.add_candidates(key, self.discovery.addresses(&peer).to_vec());
            }
        }
    }
}

/// The root of a transport error: the layers above it only repeat the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

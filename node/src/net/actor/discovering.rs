//! When mDNS runs, and what it says. It runs only while somebody here looks for a device or is to be found by one: while a
//! node has nothing to do it neither asks nor answers, and nobody learns of it (A89).

use std::convert::Infallible;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use libp2p::mdns;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{FromSwarm, NetworkBehaviour as _, NewListenAddr};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::Actor;
use crate::net::behaviour::discovery;
use crate::net::connect::JobKey;

/// Entries of a behaviour's own, unbounded list at which it is given up for a while.
const MAX_ENTRIES: usize = 4096;
const PAUSE: Duration = Duration::from_secs(30);
/// How long discovery outlives its last use: the next one often comes at once.
const LINGER: Duration = Duration::from_secs(15);

/// Whether mDNS runs, and who wants it to.
#[derive(Debug)]
pub(super) struct Mdns {
    /// It may run at all.
    pub(super) allowed: bool,
    /// Of those who look who is there, the ends.
    pub(super) searches: FuturesUnordered<oneshot::Receiver<Infallible>>,
    /// There are sessions, or offers of some.
    pub(super) offering: watch::Receiver<bool>,
    is_on: bool,
    /// Set while nobody wants it any more.
    ends: Option<Instant>,
    /// Set while it pauses.
    resumes: Option<Instant>,
}

impl Mdns {
    pub(super) fn new(allowed: bool, offering: watch::Receiver<bool>) -> Self {
        Self { allowed, searches: FuturesUnordered::new(), offering, is_on: false, ends: None, resumes: None }
    }

    /// Somebody looks who is nearby.
    pub(super) fn is_searching(&self) -> bool {
        !self.searches.is_empty()
    }

    /// When [`Actor::tend_mdns`] has something to do although nothing happened.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ends.into_iter().chain(self.resumes).min()
    }

    /// Should it run now? It outlives its last use a little.
    fn wanted(&mut self, by_jobs: bool, now: Instant) -> bool {
        if !self.allowed {
            return false;
        }
        let used = by_jobs || self.is_searching() || *self.offering.borrow();
        if used {
            self.ends = None;
        } else if self.is_on && self.ends.is_none() {
            self.ends = Some(now + LINGER);
        }
        if self.resumes.is_some_and(|resumes| resumes <= now) {
            self.resumes = None;
        }
        let lingers = self.is_on && self.ends.is_some_and(|ends| now < ends);
        self.resumes.is_none() && (used || lingers)
    }
}

impl Actor {
    /// Starts and stops discovery as it is wanted. A fresh behaviour is told where we listen.
    pub(super) fn tend_mdns(&mut self, now: Instant) {
        let by_jobs = self.jobs.values().any(|job| !job.is_probe());
        let wanted = self.mdns.wanted(by_jobs, now);
        if wanted == self.mdns.is_on {
            return;
        }
        tracing::debug!(on = wanted, "discovery on the local network");
        self.mdns.is_on = wanted;
        self.mdns.ends = None;
        let local = *self.swarm.local_peer_id();
        let start = |ipv6| if wanted { self.told(discovery(local, ipv6)) } else { None.into() };
        let (mdns4, mdns6) = (start(false), start(true));
        let behaviour = self.swarm.behaviour_mut();
        (behaviour.mdns4, behaviour.mdns6) = (mdns4, mdns6);
        if !wanted {
            // nobody says any more when they run out
            self.discovery.forget_announced();
        }
    }

    fn told(&self, mut fresh: Toggle<mdns::tokio::Behaviour>) -> Toggle<mdns::tokio::Behaviour> {
        for (listener_id, addr) in self.listeners.iter().flat_map(|(id, all)| all.iter().map(move |a| (*id, a))) {
            fresh.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
        }
        fresh
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event, now: Instant) {
        match event {
            mdns::Event::Discovered(found) => self.on_discovered(found, now),
            mdns::Event::Expired(lost) => lost.iter().for_each(|(peer, address)| self.discovery.expire(peer, address)),
        }
    }

    fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>, now: Instant) {
        for (peer, address) in found {
            if self.discovery.announce(peer, &address, now) {
                let keys: Vec<JobKey> = self.jobs.keys().filter(|key| key.peer == peer).copied().collect();
                for key in keys {
                    self.add_candidates(key, vec![address.clone()]);
                }
            }
        }
        self.bound_mdns(now);
    }

    /// The library's list of announcements has no bound (A86): past ours, discovery pauses and starts from nothing.
    fn bound_mdns(&mut self, now: Instant) {
        let behaviour = self.swarm.behaviour();
        let families = [&behaviour.mdns4, &behaviour.mdns6];
        let entries = families.iter().filter_map(|mdns| mdns.as_ref()).map(|mdns| mdns.discovered_nodes().len());
        if entries.max().is_none_or(|entries| entries < MAX_ENTRIES) {
            return;
        }
        tracing::warn!("somebody floods the local network with announcements: discovery pauses for {PAUSE:?}");
        self.mdns.resumes = Some(now + PAUSE);
        self.tend_mdns(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_runs_while_it_is_of_use_and_a_little_longer() {
        let (offering, seen) = watch::channel(false);
        let mut mdns = Mdns::new(true, seen);
        let now = Instant::now();
        let at = |mdns: &mut Mdns, secs, by_jobs| {
            mdns.is_on = mdns.wanted(by_jobs, now + Duration::from_secs(secs));
            mdns.is_on
        };
        assert!(!at(&mut mdns, 0, false), "a node with nothing to do is silent");
        offering.send_replace(true);
        assert!(at(&mut mdns, 1, false));
        offering.send_replace(false);
        assert!(at(&mut mdns, 2, false) && at(&mut mdns, 16, false));
        assert!(!at(&mut mdns, 17, false));
        assert!(at(&mut mdns, 18, true), "somebody is looked for");
        let (_search, end) = oneshot::channel();
        mdns.searches.push(end);
        assert!(at(&mut mdns, 60, false));
        mdns.resumes = Some(now + Duration::from_secs(90));
        assert!(!at(&mut mdns, 89, true) && at(&mut mdns, 90, true), "a flood is waited out");
        let mut never = Mdns::new(false, offering.subscribe());
        offering.send_replace(true);
        assert!(!at(&mut never, 1, true));
    }
}

//! What mDNS says about the network, and who of it answered a hello. Pure: time is an argument.
//!
//! Both tables are bounded, whatever the network sends (A85, A86). An announcement is a rumour: it is used
//! to dial, pinned to the peer's identity, and shown to nobody before that peer answered.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::message::Hello;
use tokio::time::Instant;

use super::PeerView;
use super::address::Candidate;

/// Peers remembered, announced ones and answering ones each.
const MAX_PEERS: usize = 256;
/// Addresses remembered of one peer.
const MAX_ADDRESSES: usize = 8;
/// A searching node greets the same peer at most this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// The same for a peer that turned out not to speak our protocol.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(300);

/// Somebody announced.
#[derive(Debug)]
struct Announced {
    addresses: Vec<Multiaddr>,
    since: Instant,
    next_probe: Instant,
}

/// Somebody who answered.
#[derive(Debug)]
struct Answered {
    hello: Hello,
    address: Option<Multiaddr>,
    last_seen: Instant,
    rtt: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    announced: HashMap<PeerId, Announced>,
    answered: HashMap<PeerId, Answered>,
}

impl Discovery {
    /// An announcement; false when it is of no use.
    pub(super) fn announce(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) -> bool {
        let Some(candidate) = Candidate::parse(address, Some(&peer)).filter(|c| !c.ip.is_loopback()) else {
            return false;
        };
        if !self.announced.contains_key(&peer) && self.announced.len() >= MAX_PEERS && !self.forget_one() {
            return false;
        }
        let entry = self.announced.entry(peer).or_insert_with(|| Announced {
            addresses: Vec::new(),
            since: now,
            next_probe: now,
        });
        let fresh = entry.addresses.len() < MAX_ADDRESSES && !entry.addresses.contains(&candidate.address);
        if fresh {
            entry.addresses.push(candidate.address);
        }
        fresh
    }

    /// Makes room: the oldest announcement of somebody who never answered goes.
    fn forget_one(&mut self) -> bool {
        let oldest = self
            .announced
            .iter()
            .filter(|(peer, _)| !self.answered.contains_key(peer))
            .min_by_key(|(_, entry)| entry.since)
            .map(|(peer, _)| *peer);
        oldest.is_some_and(|peer| self.announced.remove(&peer).is_some())
    }

    /// An announcement ran out.
    pub(super) fn expire(&mut self, peer: &PeerId, address: &Multiaddr) {
        let Some(candidate) = Candidate::parse(address, Some(peer)) else { return };
        if let Some(entry) = self.announced.get_mut(peer) {
            entry.addresses.retain(|known| *known != candidate.address);
            if entry.addresses.is_empty() {
                self.announced.remove(peer);
            }
        }
    }

    /// All announcements are dropped; who answered stays known.
    pub(super) fn forget_announced(&mut self) {
        self.announced.clear();
    }

    /// Where mDNS says the peer is.
    pub(super) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.announced.get(peer).map_or(&[], |entry| &entry.addresses)
    }

    /// Announced peers that are due for a hello, at most `room`; each is due again after 30 s.
    pub(super) fn take_due(&mut self, now: Instant, room: usize) -> Vec<PeerId> {
        let mut due: Vec<_> = self.announced.iter_mut().filter(|(_, entry)| entry.next_probe <= now).collect();
        due.sort_by_key(|(_, entry)| entry.next_probe);
        due.into_iter()
            .take(room)
            .map(|(peer, entry)| {
                entry.next_probe = now + PROBE_INTERVAL;
                *peer
            })
            .collect()
    }

    /// When the next peer is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.announced.values().map(|entry| entry.next_probe).min()
    }

    /// The peer is some other libp2p program.
    pub(super) fn foreign(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.announced.get_mut(peer) {
            entry.next_probe = now + FOREIGN_INTERVAL;
        }
    }

    /// The peer answered our hello at this address.
    pub(super) fn answer(&mut self, peer: PeerId, hello: Hello, address: Option<Multiaddr>, now: Instant) {
        if !self.answered.contains_key(&peer) && self.answered.len() >= MAX_PEERS {
            let stale = self.answered.iter().min_by_key(|(_, entry)| entry.last_seen).map(|(peer, _)| *peer);
            if let Some(stale) = stale {
                self.answered.remove(&stale);
            }
        }
        let rtt = self.answered.get(&peer).and_then(|entry| entry.rtt);
        self.answered.insert(peer, Answered { hello, address, last_seen: now, rtt });
    }

    /// A ping came back.
    pub(super) fn alive(&mut self, peer: &PeerId, rtt: Duration, now: Instant) {
        if let Some(entry) = self.answered.get_mut(peer) {
            entry.rtt = Some(rtt);
            entry.last_seen = now;
        }
    }

    /// Who answered, most recent first.
    pub(super) fn view(&self, now: Instant) -> Vec<PeerView> {
        let mut peers: Vec<_> = self
            .answered
            .iter()
            .map(|(peer, entry)| {
                let mut addresses: Vec<Multiaddr> = entry.address.iter().cloned().collect();
                addresses.extend(self.addresses(peer).iter().filter(|a| Some(*a) != entry.address.as_ref()).cloned());
                PeerView {
                    peer_id: *peer,
                    device_name: entry.hello.device_name.clone(),
                    agent: entry.hello.agent.clone(),
                    addresses,
                    last_seen_ago: now.duration_since(entry.last_seen),
                    rtt: entry.rtt,
                }
            })
            .collect();
        peers.sort_by(|a, b| a.last_seen_ago.cmp(&b.last_seen_ago).then_with(|| a.peer_id.cmp(&b.peer_id)));
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: usize) -> Multiaddr {
        format!("/ip4/192.0.2.{}/tcp/{}", n % 250 + 1, n / 250 + 1).parse().unwrap()
    }

    #[test]
    fn floods_of_announcements_fill_a_bounded_table_a85_a86() {
        let (now, mut found, one) = (Instant::now(), Discovery::default(), PeerId::random());
        for n in 0..10_000 {
            found.announce(one, &address(n), now);
        }
        assert_eq!(found.addresses(&one).len(), MAX_ADDRESSES);
        for n in 0..2000 {
            found.announce(PeerId::random(), &address(n), now + Duration::from_millis(n as u64));
        }
        assert_eq!(found.announced.len(), MAX_PEERS);
        assert!(found.view(now).is_empty(), "an announcement is not an answer");
    }

    #[test]
    fn a_peer_is_greeted_once_per_interval_and_never_more_than_there_is_room_for() {
        let (now, mut found) = (Instant::now(), Discovery::default());
        for n in 0..12 {
            found.announce(PeerId::random(), &address(n), now);
        }
        assert_eq!((found.take_due(now, 8).len(), found.take_due(now, 8).len()), (8, 4));
        assert!(found.take_due(now + PROBE_INTERVAL - Duration::from_secs(1), 8).is_empty());
        assert_eq!(found.take_due(now + PROBE_INTERVAL, 99).len(), 12);
    }
}

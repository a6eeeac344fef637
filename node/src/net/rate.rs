//! Tries per source and minute, in a bounded table. Pure: time is an argument.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use lru::LruCache;
use tokio::time::Instant;

/// Sources remembered; the one not heard of for longest is forgotten first.
const SOURCES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// One host, as far as an address can tell: an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(address: &Multiaddr) -> Option<Self> {
        address.iter().find_map(|part| match part {
            Protocol::Ip4(ip) => Some(Self(ip.into())),
            Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
                Some(v4) => Self(v4.into()),
                None if ip.is_loopback() => Self(ip.into()),
                None => Self(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into()),
            }),
            _ => None,
        })
    }

    pub(super) fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

/// Allows a number of tries per window and source.
#[derive(Debug)]
pub(super) struct RateLimit {
    tries: u32,
    window: Duration,
    table: LruCache<Source, (Instant, u32)>,
}

impl RateLimit {
    pub(super) fn new(tries: u32, window: Duration) -> Self {
        Self { tries, window, table: LruCache::new(SOURCES) }
    }

    /// Takes one try; false when there is none left.
    pub(super) fn take(&mut self, source: Source, now: Instant) -> bool {
        let entry = self.table.get_or_insert_mut(source, || (now, 0));
        if now.duration_since(entry.0) >= self.window {
            *entry = (now, 0);
        }
        if entry.1 >= self.tries {
            return false;
        }
        entry.1 += 1;
        true
    }

    /// Gives a try back: it was not a guess.
    pub(super) fn give_back(&mut self, source: Source) {
        if let Some(entry) = self.table.get_mut(&source) {
            entry.1 = entry.1.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(&address.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_eleventh_guess_of_a_minute_is_refused_and_other_hosts_are_not_affected() {
        let (now, mut limit) = (Instant::now(), RateLimit::new(10, Duration::from_secs(60)));
        let (a, b) = (source("/ip4/192.0.2.1/tcp/1"), source("/ip4/192.0.2.2/tcp/1"));
        assert!((0..10).all(|_| limit.take(a, now)));
        assert!(!limit.take(a, now + Duration::from_secs(59)));
        assert!(limit.take(b, now));
        limit.give_back(a);
        assert!(limit.take(a, now));
        assert!(limit.take(a, now + Duration::from_secs(60)));
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        assert_eq!(source("/ip6/2001:db8::1/tcp/1"), source("/ip6/2001:db8::ffff:2/udp/2/quic-v1"));
        assert_ne!(source("/ip6/2001:db8::1/tcp/1"), source("/ip6/2001:db8:0:1::1/tcp/1"));
    }
}

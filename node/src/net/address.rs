//! Which addresses are dialled, and which go into a ticket. Pure.
//!
//! Addresses come from tickets, command lines and mDNS: all of it is a stranger's word. Only plain IP with
//! TCP, WebSocket or QUIC is dialled; names, relays, sockets and anything nested is ignored.

use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::limits::MAX_TICKET_ADDRESSES;

use super::{ListenPort, TransportKind, TransportPreference, Transports};

/// Longest text of one address that is looked at, in bytes.
const MAX_ADDRESS_TEXT: usize = 256;

/// Reads the addresses of a ticket or command line; those that would never be dialled are left out, at most 8 are kept.
///
/// Kept are `/ip4|ip6/…/tcp/PORT`, `/ip4|ip6/…/tcp/PORT/ws` and `/ip4|ip6/…/udp/PORT/quic-v1`, each with or without a final `/p2p/ID`.
pub fn parse_addresses(raw: &[String]) -> Vec<Multiaddr> {
    raw.iter()
        .filter(|text| text.len() <= MAX_ADDRESS_TEXT)
        .filter_map(|text| text.parse::<Multiaddr>().ok())
        .filter(|address| Candidate::parse(address, None).is_some())
        .take(MAX_TICKET_ADDRESSES)
        .collect()
}

/// An address that may be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    /// Without `/p2p`.
    pub(super) address: Multiaddr,
    pub(super) transport: TransportKind,
    pub(super) ip: IpAddr,
}

impl Candidate {
    /// `None` when the address has another shape, cannot be reached by anybody, or names another peer than `peer`.
    pub(super) fn parse(address: &Multiaddr, peer: Option<&PeerId>) -> Option<Self> {
        let mut parts = address.iter();
        let ip: IpAddr = match parts.next()? {
            Protocol::Ip4(ip) if !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast() => ip.into(),
            // Link-local IPv6 needs an interface, which an address does not carry.
            Protocol::Ip6(ip) if !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local() => ip.into(),
            _ => return None,
        };
        let (mut transport, port) = match parts.next()? {
            Protocol::Tcp(port) => (TransportKind::Tcp, port),
            Protocol::Udp(port) if parts.next()? == Protocol::QuicV1 => (TransportKind::Quic, port),
            _ => return None,
        };
        let mut next = parts.next();
        if transport == TransportKind::Tcp && next.as_ref().is_some_and(is_ws) {
            (transport, next) = (TransportKind::Ws, parts.next());
        }
        match next {
            None => {}
            Some(Protocol::P2p(named)) if peer.is_none_or(|peer| *peer == named) => {}
            Some(_) => return None,
        }
        if port == 0 || parts.next().is_some() {
            return None;
        }
        Some(Self { address: listen_address(ip, port, transport), transport, ip })
    }

    pub(super) fn wanted(&self, transports: Transports, preference: TransportPreference) -> bool {
        let enabled = match self.transport {
            TransportKind::Tcp => transports.tcp,
            TransportKind::Quic => transports.quic,
            TransportKind::Ws => transports.ws || transports.tcp,
        };
        enabled && preference.allows(self.transport)
    }
}

/// The address of an IP, port and transport.
pub(super) fn listen_address(ip: IpAddr, port: u16, transport: TransportKind) -> Multiaddr {
    let base = Multiaddr::from(ip);
    match transport {
        TransportKind::Tcp => base.with(Protocol::Tcp(port)),
        TransportKind::Quic => base.with(Protocol::Udp(port)).with(Protocol::QuicV1),
        TransportKind::Ws => base.with(Protocol::Tcp(port)).with(Protocol::Ws("/".into())),
    }
}

/// What is worth remembering of an address that is listened on.
pub(super) fn listen_port(address: &Multiaddr) -> Option<ListenPort> {
    let ipv6 = matches!(address.iter().next()?, Protocol::Ip6(_));
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    })?;
    Some(ListenPort { ipv6, transport: transport_of(address), port })
}

/// The transport of an established connection's address.
pub(super) fn transport_of(address: &Multiaddr) -> TransportKind {
    let mut parts = address.iter().filter_map(|part| match part {
        Protocol::QuicV1 => Some(TransportKind::Quic),
        part if is_ws(&part) => Some(TransportKind::Ws),
        _ => None,
    });
    parts.next().unwrap_or(TransportKind::Tcp)
}

fn is_ws(part: &Protocol<'_>) -> bool {
    matches!(part, Protocol::Ws(path) if path == "/")
}

/// The address without the name of who is there.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// At most 8 of our listen addresses for a ticket, best first; TCP before QUIC at the same IP, WebSocket last.
pub(super) fn for_ticket<'a>(listening: impl Iterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
    let mut found: Vec<(u8, IpAddr, TransportKind, Multiaddr)> = listening
        .filter_map(|address| Candidate::parse(address, None))
        .map(|c| (rank(c.ip), c.ip, c.transport, c.address))
        .collect();
    found.sort();
    found.dedup();
    if found.iter().any(|(rank, ..)| *rank < LOOPBACK) {
        found.retain(|(rank, ..)| *rank < LOOPBACK);
    }
    found.into_iter().map(|(.., address)| address).take(MAX_TICKET_ADDRESSES).collect()
}

const LOOPBACK: u8 = 9;

/// How likely another device reaches this IP: lower is better.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [127, ..] => LOOPBACK,
            [192, 168, ..] | [10, ..] => 0,
            // Bridges of container engines live in here, so after the other private ranges.
            [172, 16..=31, ..] => 2,
            [100, 64..=127, ..] => 3,
            [169, 254, ..] => 6,
            _ => 1,
        },
        IpAddr::V6(v6) if v6.is_loopback() => LOOPBACK,
        IpAddr::V6(v6) if v6.is_unique_local() => 5,
        IpAddr::V6(_) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(raw: &[&str]) -> Vec<Multiaddr> {
        raw.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_plain_ip_with_tcp_websocket_or_quic_is_kept_a83() {
        let peer = PeerId::random();
        let good = [
            "/ip4/192.0.2.1/tcp/4001".to_owned(),
            "/ip6/2001:db8::1/udp/4001/quic-v1".to_owned(),
            format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}"),
            format!("/ip4/192.0.2.1/tcp/1/ws/p2p/{peer}"),
        ];
        let bad = [
            "/dns4/example.org/tcp/4001".to_owned(),
            "/unix/tmp".to_owned(),
            "/memory/7".to_owned(),
            "/ip4/192.0.2.1/tcp/0".to_owned(),
            "/ip4/0.0.0.0/tcp/1".to_owned(),
            "/ip4/255.255.255.255/udp/1/quic-v1".to_owned(),
            "/ip4/224.0.0.1/tcp/1".to_owned(),
            "/ip6/fe80::1/tcp/1".to_owned(),
            "/ip4/192.0.2.1/udp/1".to_owned(),
            "/ip4/192.0.2.1/tcp/1/wss".to_owned(),
            "/ip4/192.0.2.1/tcp/1/ws/ws".to_owned(),
            "/ip4/192.0.2.1/tcp/1/x-parity-ws/%2Felsewhere".to_owned(),
            "/ip4/192.0.2.1/udp/1/quic-v1/ws".to_owned(),
            format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}/p2p-circuit"),
            "junk".to_owned(),
            "/ip4/192.0.2.1/tcp/1".repeat(100),
        ];
        let kept = parse_addresses(&bad.iter().chain(&good).cloned().collect::<Vec<_>>());
        assert_eq!(kept.iter().map(ToString::to_string).collect::<Vec<_>>(), good);
        assert_eq!(parse_addresses(&vec![good[0].clone(); 10_000]).len(), 8);
        assert_eq!(Candidate::parse(&kept[2], Some(&PeerId::random())), None);
        assert_eq!(Candidate::parse(&kept[2], Some(&peer)).unwrap().address.to_string(), "/ip4/192.0.2.1/tcp/1");
    }

    #[test]
    fn a_ticket_names_lan_addresses_first_and_loopback_only_alone() {
        let listening = addresses(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/2",
            "/ip6/2001:db8::1/tcp/2",
            "/ip4/172.17.0.1/tcp/1",
            "/ip4/192.168.1.5/udp/3/quic-v1",
            "/ip4/192.168.1.5/tcp/1",
        ]);
        let expected = addresses(&[
            "/ip4/192.168.1.5/tcp/1",
            "/ip4/192.168.1.5/udp/3/quic-v1",
            "/ip4/172.17.0.1/tcp/1",
            "/ip6/2001:db8::1/tcp/2",
        ]);
        assert_eq!(for_ticket(listening.iter()), expected);
        assert_eq!(for_ticket(listening[..2].iter()), listening[..1]);
    }
}

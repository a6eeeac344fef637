//! `--peer`: where a device is, for one that mDNS does not show and whose ticket's addresses do not work from here. An
//! address is a hint: who answers there must have the key that the ticket names.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use me_sync_node::net::parse_addresses;
use me_sync_protocol::escape::escaped;

use super::exit::CliError;
use super::human;
use super::stop::{Stop, blocking};

/// Characters of a PeerId that is made from an ed25519 key, which is what every device has.
const PEER_ID_LENGTH: usize = 52;

/// One `--peer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerAddress {
    /// Whose address that is, if it says so.
    pub(crate) peer: Option<PeerId>,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Multiaddr(String),
    Socket(SocketAddr),
    /// A name, to be looked up when it is used.
    Host(String, u16),
}

impl PeerAddress {
    /// All of several, for this device: names are looked up, and one that is said to be of another device is refused.
    pub(crate) async fn of(all: &[Self], device: Option<PeerId>, stop: &Stop) -> Result<Vec<Multiaddr>, CliError> {
        let other = all.iter().filter_map(|one| one.peer).find(|peer| device.is_some_and(|device| device != *peer));
        if let (Some(other), Some(device)) = (other, device) {
            let (other, device) = (human::short_peer(&other.to_string()), human::short_peer(&device.to_string()));
            let message = format!("--peer is for the device {other}, and the tree comes from {device}");
            return Err(CliError::usage(message, "leave the id out, or take the address of that device"));
        }
        let all = all.to_vec();
        let texts = stop.unless(blocking(move || resolve(&all))).await???;
        Ok(parse_addresses(&texts))
    }

    /// It says over which transport; `IP:PORT` and `NAME:PORT` stand for both.
    pub(crate) fn names_transport(&self) -> bool {
        matches!(self.at, At::Multiaddr(_))
    }

    /// The same as text, for a node.
    pub(crate) async fn texts(all: &[Self], device: Option<PeerId>, stop: &Stop) -> Result<Vec<String>, CliError> {
        Ok(Self::of(all, device, stop).await?.iter().map(ToString::to_string).collect())
    }
}

/// Each with the device that it is said to be of, if it is.
fn resolve(all: &[PeerAddress]) -> Result<Vec<String>, CliError> {
    let mut texts = Vec::new();
    for one in all {
        let first = texts.len();
        match &one.at {
            At::Multiaddr(text) => texts.push(text.clone()),
            At::Socket(at) => texts.extend(both(at)),
            At::Host(name, port) => {
                let found = (name.as_str(), *port).to_socket_addrs().map_err(|err| {
                    let name = escaped(name);
                    CliError::usage(format!("--peer: {name} cannot be looked up: {err}"), "name it by its IP address")
                })?;
                texts.extend(found.flat_map(|at| both(&at)));
            }
        }
        if let (Some(peer), At::Socket(_) | At::Host(..)) = (one.peer, &one.at) {
            texts[first..].iter_mut().for_each(|text| *text += &format!("/p2p/{peer}"));
        }
    }
    Ok(texts)
}

/// Over TCP and over QUIC: who listens at one port as a rule does at both.
fn both(at: &SocketAddr) -> [String; 2] {
    let family = if at.is_ipv4() { "ip4" } else { "ip6" };
    let (ip, port) = (at.ip(), at.port());
    [format!("/{family}/{ip}/tcp/{port}"), format!("/{family}/{ip}/udp/{port}/quic-v1")]
}

/// An address of a ticket as people type it: short where it is one of TCP.
pub(crate) fn typed(address: &str) -> String {
    let parts: Vec<_> = address.split('/').skip(1).collect();
    match parts[..] {
        ["ip4", ip, "tcp", port] => format!("{ip}:{port}"),
        ["ip6", ip, "tcp", port] => format!("[{ip}]:{port}"),
        _ => address.to_owned(),
    }
}

/// What is wrong with a text that was to be a PeerId.
pub(crate) fn not_a_peer_id(text: &str) -> String {
    let (shown, length) = (escaped(text), text.chars().count());
    let is_letter = |c: &char| c.is_ascii_alphanumeric() && !"0OIl".contains(*c);
    match text.chars().find(|c| !is_letter(c)) {
        Some(c) => format!("{shown} is no PeerId: there is no {} in any", escaped(&c.to_string())),
        None if length != PEER_ID_LENGTH => {
            format!("{shown} is no PeerId: it has {length} characters, and {PEER_ID_LENGTH} are needed")
        }
        None => format!("{shown} is no PeerId: a letter is wrong"),
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let needed = || {
            "IP:PORT, NAME:PORT, a multiaddr such as /ip4/192.168.1.5/tcp/4001, or PEERID@ before one of the first two \
             is needed"
                .to_owned()
        };
        if text.starts_with('/') {
            let address = parse_addresses(&[text.to_owned()]).pop().ok_or_else(needed)?;
            let peer = address.iter().find_map(|part| match part {
                Protocol::P2p(peer) => Some(peer),
                _ => None,
            });
            return Ok(Self { peer, at: At::Multiaddr(text.to_owned()) });
        }
        let (peer, place) = match text.split_once('@') {
            Some((id, place)) => (Some(id.parse().map_err(|_| format!("before the @, {}", not_a_peer_id(id)))?), place),
            None => (None, text),
        };
        if let Ok(at) = place.parse::<SocketAddr>() {
            // the same that is dialled of a ticket
            return if parse_addresses(&both(&at)).is_empty() {
                Err(needed())
            } else {
                Ok(Self { peer, at: At::Socket(at) })
            };
        }
        let (name, port) = place.rsplit_once(':').ok_or_else(needed)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(needed)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || name.len() > 253 || !name.chars().all(is_name) {
            return Err(needed());
        }
        Ok(Self { peer, at: At::Host(name.to_owned(), port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWGzBpL8cnzCYAHa6PsvYKCUfDZwkAH8bRjN7ryr9fnGr7";

    fn texts(text: &str) -> Vec<String> {
        resolve(&[text.parse().unwrap()]).unwrap()
    }

    #[test]
    fn an_address_is_taken_as_people_write_it() {
        let socket = ["/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.7/udp/4001/quic-v1"];
        assert_eq!(texts("192.0.2.7:4001"), socket);
        assert_eq!(texts(socket[0]), socket[..1]);
        assert_eq!(texts("[2001:db8::1]:4001")[0], "/ip6/2001:db8::1/tcp/4001");
        assert_eq!(typed(socket[0]), "192.0.2.7:4001");
        assert_eq!(typed("/ip6/::1/tcp/1"), "[::1]:1");
        assert_eq!(typed(socket[1]), socket[1]);
        assert!(texts("localhost:4001").iter().any(|text| text.ends_with("/tcp/4001")));
        let named: PeerAddress = format!("{PEER}@192.0.2.7:4001").parse().unwrap();
        assert_eq!(named.peer, Some(PEER.parse().unwrap()));
        assert_eq!(resolve(std::slice::from_ref(&named)).unwrap()[0], format!("{}/p2p/{PEER}", socket[0]));
        let multi: PeerAddress = format!("{}/p2p/{PEER}", socket[0]).parse().unwrap();
        assert_eq!(multi.peer, named.peer);
    }

    #[test]
    fn what_is_no_peer_id_is_told_why() {
        let zero = PEER.replacen('G', "0", 1);
        let long = format!("{PEER}x");
        for (text, why) in
            [(&PEER[..51], "51 characters"), (&long, "53 characters"), (&zero, "no 0 in any"), ("", "0 characters")]
        {
            let said = format!("{text}@192.0.2.7:1").parse::<PeerAddress>().unwrap_err();
            assert!(said.contains("is no PeerId") && said.contains(why), "{said}");
        }
        assert!(not_a_peer_id(&PEER.replacen("12D3KooW", "99999999", 1)).contains("wrong"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for wrong in [
            "",
            "x",
            "192.0.2.7",
            "192.0.2.7:0",
            "0.0.0.0:1",
            "a b:1",
            "name:",
            ":1",
            "name:99999",
            "/dns4/x/tcp/1",
            "nobody@192.0.2.7:1",
            "$(x):1",
            "name@host@x:1",
        ] {
            assert!(wrong.parse::<PeerAddress>().is_err(), "{wrong}");
        }
    }
}

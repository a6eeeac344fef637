//! Where this node listens, and which of it goes into a ticket.

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, Swarm, TransportError};
use tokio::time::Instant;

use super::Actor;
use crate::net::address::{for_ticket, listen_address, listen_port};
use crate::net::behaviour::Behaviour;
use crate::net::handle::Listening;
use crate::net::{ListenPort, NetConfig, NetError, TransportKind, Transports};

/// The addresses of a listener come one by one, one per interface: none for this long means that all are there.
const SETTLE: Duration = Duration::from_millis(50);
/// A listener without any address holds nobody up longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens the listeners. A port that was asked for must be free; an address family that is missing is skipped.
pub(super) fn listen(
    swarm: &mut Swarm<Behaviour>,
    config: &NetConfig,
) -> Result<HashMap<ListenerId, Vec<Multiaddr>>, NetError> {
    if config.transports.tcp || config.transports.ws {
        probe_ports(config)?;
    }
    let Transports { tcp, quic, ws } = config.transports;
    let kinds = [(tcp, TransportKind::Tcp), (quic, TransportKind::Quic), (ws, TransportKind::Ws)];
    let mut listeners = HashMap::new();
    let mut first_error = None;
    for at in &config.listen {
        for (_, kind) in kinds.iter().filter(|(enabled, _)| *enabled) {
            let port = at.port.or_else(|| remembered_port(config, at.ip, *kind)).unwrap_or(0);
            let address = listen_address(at.ip, port, *kind);
            let result = swarm.listen_on(address.clone()).map_err(|error| match error {
                TransportError::MultiaddrNotSupported(_) => std::io::ErrorKind::Unsupported.into(),
                TransportError::Other(error) => error,
            });
            match result {
                Ok(listener) => {
                    listeners.insert(listener, Vec::new());
                }
                Err(source) if source.kind() == std::io::ErrorKind::AddrInUse => {
                    return Err(NetError::Listen { address, source });
                }
                Err(source) => {
                    tracing::debug!(%address, error = %source, "not listening here");
                    first_error.get_or_insert(NetError::Listen { address, source });
                }
            }
        }
    }
    if listeners.is_empty() { Err(first_error.unwrap_or(NetError::NothingToListenOn)) } else { Ok(listeners) }
}

/// Fails when a TCP port that was asked for is taken: the transport listens with SO_REUSEPORT, so two nodes of
/// one user would silently share it. Before any listener is open, since `[::]` would collide with our own `0.0.0.0`.
fn probe_ports(config: &NetConfig) -> Result<(), NetError> {
    for (ip, port) in config.listen.iter().filter_map(|at| Some((at.ip, at.port.filter(|port| *port != 0)?))) {
        match TcpListener::bind((ip, port)) {
            Err(source) if source.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(NetError::Listen { address: listen_address(ip, port, TransportKind::Tcp), source });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// The port an earlier run had on this interface, if nobody else has it now.
fn remembered_port(config: &NetConfig, ip: IpAddr, kind: TransportKind) -> Option<u16> {
    let same = |known: &&ListenPort| known.transport == kind && known.ipv6 == ip.is_ipv6();
    let port = config.remembered.iter().find(same)?.port;
    let free = match kind {
        TransportKind::Tcp | TransportKind::Ws => TcpListener::bind((ip, port)).is_ok(),
        TransportKind::Quic => UdpSocket::bind((ip, port)).is_ok(),
    };
    free.then_some(port)
}

impl Actor {
    pub(super) fn on_listening(&mut self, listener: ListenerId, address: Multiaddr, now: Instant) {
        tracing::debug!(%address, "listening");
        self.listeners.entry(listener).or_default().push(address);
        self.last_listen_change = now;
    }

    pub(super) fn on_not_listening(&mut self, listener: ListenerId, address: &Multiaddr, now: Instant) {
        if let Some(addresses) = self.listeners.get_mut(&listener) {
            addresses.retain(|known| known != address);
        }
        self.last_listen_change = now;
    }

    /// When the waiting callers get the addresses.
    pub(super) fn addresses_due(&self) -> Option<Instant> {
        self.address_waiters.first()?;
        let all = self.listeners.values().all(|addresses| !addresses.is_empty());
        let latest = self.started + PATIENCE;
        Some(if all { latest.min(self.last_listen_change + SETTLE) } else { latest })
    }

    pub(super) fn answer_addresses(&mut self, now: Instant) {
        if self.addresses_due().is_none_or(|due| due > now) {
            return;
        }
        let all = self.listeners.values().flatten();
        let listening = Listening { for_ticket: for_ticket(all.clone()), ports: all.filter_map(listen_port).collect() };
        for waiter in self.address_waiters.drain(..) {
            if waiter.send(listening.clone()).is_err() {
                tracing::debug!("nobody waits for the addresses any more");
            }
        }
    }
}

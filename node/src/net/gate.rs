//! Lets through only the dials this node decided on, and a few unknown connections per host.
//!
//! Several behaviours dial by themselves, with whatever address anybody announced. Here every dial needs a
//! permit, which only the actor gives. Inbound, a host may hold a few connections that said no hello yet (A64);
//! loopback is exempt, since everything on one machine shares that address.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, DialFailure, ListenFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::rate::Source;

/// Most inbound connections without a hello per host.
pub(super) const MAX_STRANGERS_PER_SOURCE: usize = 4;

#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("nobody asked for this dial")]
    Unasked,
    #[error("too many connections without a hello from this host")]
    Strangers,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    permits: HashSet<ConnectionId>,
    strangers: HashMap<ConnectionId, Source>,
}

impl Gate {
    /// Allows the dial that will become this connection.
    pub(super) fn permit(&mut self, dial: ConnectionId) {
        self.permits.insert(dial);
    }

    /// The peer of this connection said hello.
    pub(super) fn known(&mut self, connection: ConnectionId) {
        self.strangers.remove(&connection);
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(source) = Source::of(remote).filter(|source| !source.is_loopback()) else { return Ok(()) };
        if self.strangers.values().filter(|other| **other == source).count() >= MAX_STRANGERS_PER_SOURCE {
            return Err(ConnectionDenied::new(Denied::Strangers));
        }
        self.strangers.insert(connection, source);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.permits.remove(&connection) { Ok(Vec::new()) } else { Err(ConnectionDenied::new(Denied::Unasked)) }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.permits.remove(&connection_id);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. })
            | FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.strangers.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_cannot_hold_all_places_without_a_hello_a64() {
        let mut gate = Gate::default();
        let local: Multiaddr = "/ip4/192.0.2.9/tcp/1".parse().unwrap();
        let arrive = |gate: &mut Gate, n: usize, from: &str| {
            let id = ConnectionId::new_unchecked(n);
            gate.handle_pending_inbound_connection(id, &local, &from.parse().unwrap()).is_ok()
        };
        assert!((0..4).all(|n| arrive(&mut gate, n, "/ip4/192.0.2.1/tcp/5")));
        assert!(!arrive(&mut gate, 4, "/ip4/192.0.2.1/tcp/6"));
        assert!(arrive(&mut gate, 5, "/ip4/192.0.2.2/tcp/6"));
        gate.known(ConnectionId::new_unchecked(0));
        assert!(arrive(&mut gate, 6, "/ip4/192.0.2.1/tcp/7"));
        assert!((10..50).all(|n| arrive(&mut gate, n, "/ip4/127.0.0.1/tcp/7")));
    }

    #[test]
    fn a_dial_nobody_asked_for_is_refused_whatever_the_address_a85() {
        let mut gate = Gate::default();
        let peer = PeerId::random();
        let dial = |gate: &mut Gate, n: usize| {
            gate.handle_pending_outbound_connection(ConnectionId::new_unchecked(n), Some(peer), &[], Endpoint::Dialer)
                .is_ok()
        };
        gate.permit(ConnectionId::new_unchecked(1));
        assert_eq!([dial(&mut gate, 0), dial(&mut gate, 1), dial(&mut gate, 1)], [false, true, false]);
    }
}

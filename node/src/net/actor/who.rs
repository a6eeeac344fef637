//! Who answers at an address: for somebody who knows where a device is, and not its key.
//!
//! The connection that tells stays, so that a connect to that peer finds it there; unused, it ends by being idle.

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::Actor;
use crate::net::address::Candidate;
use crate::net::{TransportKind, TransportPreference};

/// Addresses that are asked at once.
const MAX_ASKED: usize = 8;

impl Actor {
    /// Dials an address whose device is not known. Nobody is told anything but by the answer, which is dropped when nobody
    /// answers there.
    pub(super) fn on_who(
        &mut self,
        address: &Multiaddr,
        preference: TransportPreference,
        answer: oneshot::Sender<PeerId>,
    ) {
        let candidate = Candidate::parse(address, None).filter(|one| one.wanted(self.transports, preference));
        let Some(candidate) = candidate.filter(|_| self.asked.len() < MAX_ASKED) else { return };
        let dial = DialOpts::unknown_peer_id().address(candidate.address);
        let dial = match candidate.transport {
            // as with every other dial
            TransportKind::Tcp | TransportKind::Ws => dial.allocate_new_port().build(),
            TransportKind::Quic => dial.build(),
        };
        let connection = dial.connection_id();
        self.swarm.behaviour_mut().gate.permit(connection);
        match self.swarm.dial(dial) {
            Ok(()) => _ = self.asked.insert(connection, answer),
            Err(error) => tracing::debug!(%address, %error, "not dialled"),
        }
    }

    /// This connection stands now, if it was such a dial.
    pub(super) fn answered_by(&mut self, connection: ConnectionId, peer: PeerId) {
        if let Some(answer) = self.asked.remove(&connection) {
            answer.send(peer).ok(); // Err: nobody waits any more
        }
    }

    /// Nobody answered there, if it was such a dial.
    pub(super) fn nobody_answers(&mut self, connection: ConnectionId) -> bool {
        self.asked.remove(&connection).is_some()
    }
}

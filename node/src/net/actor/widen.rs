//! A second connection to a distant peer.
//!
//! What is under way on one TCP connection is bounded by its windows, so over a long path one connection does not fill the
//! line: 581 of 1000 Mbit/s at 40 ms round trip, where two reach 933 and four no more than two. Near peers gain nothing.

use std::time::Duration;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tokio::sync::oneshot;

use super::Actor;
use crate::net::TransportKind;
use crate::net::behaviour::MAX_PER_PEER;

/// From this round trip on a second connection is worth its handshake.
const DISTANT: Duration = Duration::from_millis(20);

impl Actor {
    /// Dials a second TCP connection to a peer that we dialled before, if it is distant. Answers at once if there is
    /// nothing to do, else when the connection stands or failed: the streams do without it then.
    pub(super) fn on_widen(&mut self, id: PeerId, done: oneshot::Sender<()>) {
        let Some(address) = self.worth_widening(&id) else {
            done.send(()).ok(); // Err: nobody waits any more
            return;
        };
        let dial = DialOpts::peer_id(id).condition(PeerCondition::Always).allocate_new_port();
        let dial = dial.addresses(vec![address]).build();
        let connection = dial.connection_id();
        self.swarm.behaviour_mut().gate.permit(connection);
        match self.swarm.dial(dial) {
            Ok(()) => _ = self.widening.insert(connection, done),
            Err(error) => tracing::debug!(peer = %id, %error, "no second connection"),
        }
    }

    fn worth_widening(&self, id: &PeerId) -> Option<libp2p::Multiaddr> {
        let peer = self.peers.get(id).filter(|peer| peer.rtt.is_some_and(|rtt| rtt >= DISTANT))?;
        if peer.connections.len() >= MAX_PER_PEER as usize {
            return None;
        }
        let ours = peer.live().find(|connection| !connection.inbound && connection.transport == TransportKind::Tcp)?;
        Some(ours.address.clone())
    }

    /// The outcome of such a dial, if it was one.
    pub(super) fn widened(&mut self, connection: ConnectionId) -> bool {
        self.widening.remove(&connection).map(|done| done.send(())).is_some()
    }
}

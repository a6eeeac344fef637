//! The swarm's protocols, transports and limits (RELIABILITY: bound everything).

use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport as _, identify, identity, mdns, noise, ping, tcp};
use libp2p_websocket as websocket;
use tokio::sync::mpsc;

use super::codec::Codec;
use super::gate::Gate;
use super::muxer::Yamux;
use super::streams::Streams;
use super::{NetConfig, NetError, NetEvent, REQUEST_PROTOCOL};

/// Inbound connections that may stand at once.
pub(super) const MAX_INBOUND: u32 = 32;
/// Connections to one peer: two, since both sides may dial at the same time.
pub(super) const MAX_PER_PEER: u32 = 2;
/// Time for TCP connect, encryption and multiplexing together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request may take, from sending it to its answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests on one connection at once, both directions together.
const MAX_REQUESTS: usize = 4;
/// Streams on one connection. yamux ends the connection of whoever passes it, so honest peers must stay far below:
/// a session uses five, requests four, pings and identify four.
const MAX_STREAMS: usize = 64;
/// Streams whose protocol is still being negotiated, per connection.
const MAX_NEGOTIATING: usize = 16;
/// A connection without streams is closed after this long.
const IDLE: Duration = Duration::from_secs(20);
/// How often mDNS asks who is there.
const QUERY_INTERVAL: Duration = Duration::from_secs(10);
/// How long others believe our mDNS announcement.
const ANNOUNCED_FOR: Duration = Duration::from_secs(120);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) gate: Gate,
    limits: connection_limits::Behaviour,
    pub(super) requests: request_response::Behaviour<Codec>,
    pub(super) streams: Streams,
    /// Over IPv4 and IPv6: a behaviour has one family. Both are there only while somebody looks or is to be found.
    pub(super) mdns4: Toggle<mdns::tokio::Behaviour>,
    pub(super) mdns6: Toggle<mdns::tokio::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// An mDNS behaviour of one family, or nothing where it cannot run: no discovery is no reason not to start.
pub(super) fn discovery(local: libp2p::PeerId, enable_ipv6: bool) -> Toggle<mdns::tokio::Behaviour> {
    let config = mdns::Config { ttl: ANNOUNCED_FOR, query_interval: QUERY_INTERVAL, enable_ipv6 };
    match mdns::tokio::Behaviour::new(config, local) {
        Ok(behaviour) => Some(behaviour).into(),
        Err(error) => {
            tracing::warn!(%error, enable_ipv6, "no discovery on the local network: tickets need addresses");
            None.into()
        }
    }
}

/// The swarm of this configuration; it listens nowhere yet.
pub(super) fn build(config: &NetConfig, events: mpsc::Sender<NetEvent>) -> Result<Swarm<Behaviour>, NetError> {
    let failed = |error: &dyn std::fmt::Display| NetError::Transport(error.to_string());
    let swarm = SwarmBuilder::with_existing_identity(config.keypair.clone())
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, multiplexer)
        .map_err(|e| failed(&e))?
        .with_quic_config(|mut quic| {
            quic.handshake_timeout = HANDSHAKE;
            quic.max_concurrent_stream_limit = MAX_STREAMS as u32;
            quic.max_stream_data = 2 << 20;
            quic.max_connection_data = 4 << 20;
            quic
        })
        .with_other_transport(web_socket)
        .map_err(|e| failed(&e))?
        .with_behaviour(|key| behaviour(config, key, events))
        .map_err(|e| failed(&e))?
        .with_swarm_config(|swarm| {
            swarm.with_idle_connection_timeout(IDLE).with_max_negotiating_inbound_streams(MAX_NEGOTIATING)
        })
        .with_connection_timeout(HANDSHAKE)
        .build();
    Ok(swarm)
}

fn multiplexer() -> Yamux {
    Yamux::with_streams(MAX_STREAMS)
}

/// WebSocket frames over TCP, and in them what TCP carries otherwise.
fn web_socket(
    key: &identity::Keypair,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Box<dyn std::error::Error + Send + Sync>> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let upgrade = websocket::Config::new(tcp).upgrade(Version::V1Lazy);
    let secured = upgrade.authenticate(noise::Config::new(key)?).multiplex(multiplexer());
    Ok(secured.timeout(HANDSHAKE).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed())
}

fn behaviour(config: &NetConfig, key: &identity::Keypair, events: mpsc::Sender<NetEvent>) -> Behaviour {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(16))
        .with_max_pending_outgoing(Some(16))
        .with_max_established_incoming(Some(MAX_INBOUND))
        .with_max_established_per_peer(Some(MAX_PER_PEER))
        .with_max_established(Some(64));
    let requests = request_response::Config::default()
        .with_request_timeout(REQUEST_TIMEOUT)
        .with_max_concurrent_streams(MAX_REQUESTS);
    // Everybody who connects can read this: no listen addresses, no names.
    let identify = identify::Config::new(REQUEST_PROTOCOL.to_owned(), key.public())
        .with_agent_version(config.agent.clone())
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    Behaviour {
        gate: Gate::default(),
        limits: connection_limits::Behaviour::new(limits),
        requests: request_response::Behaviour::new(
            [(StreamProtocol::new(REQUEST_PROTOCOL), ProtocolSupport::Full)],
            requests,
        ),
        streams: Streams::new(events, config.probe),
        mdns4: None.into(),
        mdns6: None.into(),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
    }
}

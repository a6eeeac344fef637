//! This node and the devices nearby.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::net::PeerView;

/// How long to look.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PeersQuery {
    /// Look for so many seconds before the answer. Default: 0: what is known.
    #[serde(default)]
    #[param(minimum = 0, maximum = 12)]
    pub wait_secs: Option<u64>,
}

/// A device that answered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PeerEntry {
    /// libp2p PeerId.
    pub peer_id: String,
    /// What its owner calls it. Escape it before printing.
    pub device_name: String,
    /// Its program and version. Escape it before printing.
    pub agent: String,
    /// Where it is.
    pub addresses: Vec<String>,
    /// Last measured round trip.
    pub rtt_ms: Option<f64>,
}

impl From<PeerView> for PeerEntry {
    fn from(peer: PeerView) -> Self {
        Self {
            peer_id: peer.peer_id.to_string(),
            device_name: peer.device_name,
            agent: peer.agent,
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        }
    }
}

/// Devices nearby.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PeersResponse {
    /// Most recent first.
    pub peers: Vec<PeerEntry>,
}

/// The node runs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Of the program.
    pub version: String,
    /// This node.
    pub peer_id: String,
    /// What other devices see.
    pub device_name: String,
    /// Its process.
    pub pid: u32,
    /// Devices are found by mDNS.
    pub mdns: bool,
    /// It is a command at work, which others may join, and which ends with its own job; false for a node that stays.
    pub passing: bool,
    /// How long it has run.
    pub uptime_secs: u64,
    /// Its API over HTTP.
    pub api: Option<String>,
    /// Where other devices reach it, as multiaddrs.
    pub addresses: Vec<String>,
    /// What may be offered over HTTP.
    pub export_roots: Vec<String>,
    /// Where trees may be replaced over HTTP.
    pub import_roots: Vec<String>,
    /// Jobs that are not over.
    pub jobs: u64,
}

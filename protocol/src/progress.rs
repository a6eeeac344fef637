//! The progress model of the seed's §10 (SPEC §9), by its names.

use std::fmt;

/// Where a session stands (SPEC §9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Phase {
    /// Finding and dialling the peer.
    #[n(0)]
    NearbyConnecting,
    /// The connection is lost; what arrived is kept until the peer is there again.
    #[n(9)]
    WaitingForPeer,
    /// The manifest is being made and sent.
    #[n(1)]
    ManifestReceiving,
    /// Files move.
    #[n(2)]
    BulkTransferring,
    /// Failed files move again.
    #[n(3)]
    RetryingFailed,
    /// The importer checks the whole.
    #[n(4)]
    FinalVerifying,
    /// The importer swaps the trees.
    #[n(5)]
    Applying,
    /// A command after the swap runs.
    #[n(6)]
    RestartingRuntime,
    /// Done: the new tree is in place and durable.
    #[n(7)]
    Completed,
    /// Over without effect.
    #[n(8)]
    Failed,
}

impl Phase {
    /// The seed's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NearbyConnecting => "nearby_connecting",
            Self::WaitingForPeer => "waiting_for_peer",
            Self::ManifestReceiving => "manifest_receiving",
            Self::BulkTransferring => "bulk_transferring",
            Self::RetryingFailed => "retrying_failed",
            Self::FinalVerifying => "final_verifying",
            Self::Applying => "applying",
            Self::RestartingRuntime => "restarting_runtime",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// No further change will come.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The counters of one session (SPEC §9.2) as its own side sees them. `transfer_bps` is added by the node, which has a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Counters {
    /// Files verified (importer) or sent whole (exporter).
    #[n(0)]
    pub files_ok: u64,
    /// Files that failed and have not succeeded since.
    #[n(1)]
    pub files_failed: u64,
    /// Files in the manifest (directories and symlinks not counted).
    #[n(2)]
    pub files_total: u64,
    /// Payload bytes of whole files that arrived (importer) or left (exporter).
    #[n(3)]
    pub bytes_done: u64,
    /// Sum of the sizes of all files.
    #[n(4)]
    pub bytes_total: u64,
    /// Retry round, 0 during the bulk.
    #[n(5)]
    pub retry_round: u32,
}

//! Offering a tree.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Compress;
use crate::book::SessionView;
use crate::node::SentTo;
use crate::source::SourceSummary;

/// Offers a tree.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// The directory or file to send: absolute, and with the token below one of `export_roots`.
    #[schema(min_length = 1)]
    pub source_path: String,
    /// How long the ticket is good. Default: 600.
    #[serde(default, deserialize_with = "super::maybe_whole")]
    #[schema(minimum = 1, maximum = 86400)]
    pub ttl_secs: Option<u64>,
    /// Leave out what cannot be read.
    #[serde(default)]
    pub skip_unreadable: bool,
    /// Leave out names that no manifest can hold.
    #[serde(default)]
    pub skip_unsupported: bool,
    /// Do not go on with an unfinished session of this tree.
    #[serde(default)]
    pub fresh: bool,
    /// Read and hash everything before anything is sent.
    #[serde(default)]
    pub hash_first: bool,
    /// Send no faster than so many bytes a second. Default: as the settings say; over the Unix socket no limit.
    #[serde(default, deserialize_with = "super::maybe_whole")]
    #[schema(minimum = 64000)]
    pub limit_bps: Option<u64>,
    /// Default: as the node does.
    #[serde(default)]
    pub compress: Option<Compress>,
    /// Make no spoken code beside the ticket. Without mDNS there is none but by `with_code`.
    #[serde(default)]
    pub no_code: bool,
    /// Make one also where mDNS is off. The other device must be told where this one is then.
    #[serde(default)]
    pub with_code: bool,
    /// Offer it as one archive (v3), for a device that has nothing else: without resume, retries and links. For one device.
    #[serde(default)]
    pub archive: bool,
    /// With `archive`: the ticket says that this side has nothing else either.
    #[serde(default)]
    pub only_v3: bool,
    /// Offer it to so many devices at once, each with a ticket of its own; the tree is read and hashed once. Default: 1.
    #[serde(default, deserialize_with = "super::maybe_whole")]
    #[schema(minimum = 1, maximum = 16)]
    pub devices: Option<u64>,
}

/// An offer that waits for its importer, and the like offers to other devices.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateResponse {
    /// `job_id` to `continues`: of the only device, or the first.
    #[serde(flatten)]
    pub first: TicketOffer,
    /// This node.
    pub peer_id: String,
    /// Where the ticket says that it is.
    pub addresses: Vec<String>,
    /// Who took a tree from this place before.
    pub sent_before: Vec<SentTo>,
    /// What will be sent.
    pub source: SourceSummary,
    /// The offers to the second and every further device.
    pub others: Vec<TicketOffer>,
}

/// An offer to one device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TicketOffer {
    /// The job, by its number in this run of the node.
    pub job_id: u64,
    /// The session that the ticket opens.
    pub session_id: String,
    /// The ticket's id, which is no secret.
    pub ticket_id: String,
    /// The text for the other device. It is a secret.
    pub ticket_uri: String,
    /// The same as a QR code: a data URL of an SVG.
    pub qr: String,
    /// A number and two words that may be said instead of the ticket on a device nearby; a secret too. Null without mDNS and `with_code`,
    /// with `no_code`, and for an offer that goes on with a session. A wrong try burns it: the status of the job has the
    /// present one as `spoken_code`.
    pub code: Option<String>,
    /// When the ticket becomes void, in milliseconds since 1970.
    pub expires_at: u64,
    /// The unfinished session that this offer goes on with.
    pub continues: Option<Box<SessionView>>,
}

//! Importing a tree, and going on with a session.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Compress, CreateResponse, Transport};
use crate::api::Role;
use crate::post_apply::PostApply;

/// Imports a tree.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The ticket, also that of an archive (v3). Either this or `code` is needed.
    #[serde(default)]
    #[schema(pattern = "^me\\.things:me\\.sync\\.v[34]:[A-Za-z0-9_-]+$", max_length = 4096)]
    pub ticket_uri: Option<String>,
    /// The spoken code of a device nearby, or at one of `peer_addresses`, instead of its ticket, such as `7-velvet-harbor`. The answer then waits until the
    /// device is found, for `connect_timeout_secs` at most; whoever goes away before that ends the search.
    #[serde(default)]
    #[schema(max_length = 128)]
    pub code: Option<String>,
    /// The directory that becomes the tree: absolute, and with the token below one of `import_roots`.
    #[schema(min_length = 1)]
    pub target_path: String,
    /// Replace what is there; it is kept for rollback. Without it, a job whose target is not empty stops with a
    /// `review` that waits for `job/decide`.
    #[serde(default)]
    pub replace: bool,
    /// Without `replace`: stop with a `review` also if nothing is replaced.
    #[serde(default)]
    pub confirm: bool,
    /// Where the exporter may be, as multiaddrs, besides what the ticket says. What is none is ignored, as in a ticket.
    /// With `code`, the devices there are asked besides those that mDNS finds.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub peer_addresses: Vec<String>,
    /// How long to look for the exporter. Default: 30.
    #[serde(default, deserialize_with = "super::maybe_whole")]
    #[schema(minimum = 1, maximum = 86400)]
    pub connect_timeout_secs: Option<u64>,
    /// Receive no faster than so many bytes a second. Default: as the settings say; over the Unix socket no limit.
    #[serde(default, deserialize_with = "super::maybe_whole")]
    #[schema(minimum = 64000)]
    pub limit_bps: Option<u64>,
    /// Whether packed files are taken: not with `never`. Default: as the node does.
    #[serde(default)]
    pub compress: Option<Compress>,
    /// Default: auto.
    #[serde(default)]
    pub transport: Transport,
    /// Do not replace the target if it changes meanwhile.
    #[serde(default)]
    pub fail_if_changed: bool,
    /// Keep world-writable bits of the files.
    #[serde(default)]
    pub keep_world_writable: bool,
    /// The target may be the home directory. For the Unix socket only.
    #[serde(default)]
    pub allow_home: bool,
    /// What runs once the tree is in place, the program and its arguments; if it fails, the old tree comes back. No words
    /// are no command. For the Unix socket only: with the token, what the settings of this device say runs.
    #[serde(default)]
    pub post_apply: Option<PostApply>,
    /// Refuse the ticket of an archive (v3).
    #[serde(default)]
    pub require_v4: bool,
    /// Answer when the exporter has granted the session, or after so many seconds. Default: 20.
    #[serde(default, deserialize_with = "super::maybe_whole")]
    #[schema(minimum = 0, maximum = 60)]
    pub wait_secs: Option<u64>,
}

/// A job that was started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StartResponse {
    /// The job, by its number in this run of the node; null if there is nothing left to do.
    pub job_id: Option<u64>,
    /// Its session; null until the exporter has granted one.
    pub session_id: Option<String>,
    /// Of a tree that is in place already: whether the exporter knows it.
    pub told: Option<bool>,
    /// The job ran before: this ticket is being imported there already, with what was asked for then.
    pub joined: bool,
}

/// Goes on with a session of either role.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// Which.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub session_id: String,
    /// Where the exporter may be, as multiaddrs. What is none is ignored, as in a ticket.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub peer_addresses: Vec<String>,
    /// Go no faster than so many bytes a second. Default: as the settings say; over the Unix socket no limit.
    #[serde(default, deserialize_with = "super::maybe_whole")]
    #[schema(minimum = 64000)]
    pub limit_bps: Option<u64>,
    /// Default: as the node does.
    #[serde(default)]
    pub compress: Option<Compress>,
    /// As in `session/start`. Default: what was said when the session began.
    #[serde(default)]
    pub post_apply: Option<PostApply>,
}

/// A session that goes on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ResumeResponse {
    /// The job, by its number in this run of the node; null if all that was left to do is done.
    pub job_id: Option<u64>,
    /// Which session.
    pub session_id: String,
    /// This side's role.
    pub role: Role,
    /// Of an exporter: the offer, which is for the same importer.
    pub offer: Option<Box<CreateResponse>>,
    /// Of an importer whose tree is in place already: whether the exporter has heard of it now.
    pub told: Option<bool>,
    /// The job ran before, with what was asked for then.
    pub joined: bool,
}

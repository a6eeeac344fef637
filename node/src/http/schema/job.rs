//! Jobs of this run of the node, and how far they are.

use std::path::PathBuf;

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::{FailureView, JobView, Outcome, PeerSummary, ProgressView, Protocol, Review, Role, WaitingView, text};

/// Names a job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Its number in this run of the node.
    #[serde(deserialize_with = "super::whole")]
    pub job_id: u64,
}

/// Answers the `review` of a job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideRequest {
    /// Its number in this run of the node.
    #[serde(deserialize_with = "super::whole")]
    pub job_id: u64,
    /// Replace what is at the target; false ends the session as declined.
    pub accept: bool,
}

/// It was handed on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// Which job.
    pub job_id: u64,
}

/// A session, or a job that has none yet: the seed's progress model by its names, and the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusResponse {
    /// The job in this run of the node; null for what is on record only.
    pub job_id: Option<u64>,
    /// Grows with every change of a job: for `job/status`.
    pub version: u64,
    /// Null until the exporter has granted one.
    #[serde(with = "text::optional")]
    #[schema(value_type = Option<String>)]
    pub session_id: Option<SessionId>,
    /// This side's role.
    pub role: Role,
    /// `v4`, or `v3` for an archive, which is not resumed.
    #[serde(default)]
    pub protocol: Protocol,
    /// The tree that is read, or the target.
    #[serde(with = "text::path")]
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// `nearby_connecting`, `waiting_for_peer`, `manifest_receiving`, `bulk_transferring`, `retrying_failed`,
    /// `final_verifying`, `applying`, `restarting_runtime`, `completed` or `failed`.
    #[serde(with = "text::plain")]
    #[schema(value_type = String)]
    pub phase: Phase,
    /// `files_ok` to `detail`.
    #[serde(flatten)]
    pub progress: ProgressView,
    /// Seconds that the rest takes at `transfer_bps`; null while nothing moves.
    pub eta_secs: Option<u64>,
    /// The other device, once it is known. Names come from there: escape them before printing.
    pub peer: Option<PeerSummary>,
    /// What the exporter calls its tree.
    pub source_name: Option<String>,
    /// When the session began, in milliseconds since 1970.
    pub begun_ms: Option<u64>,
    /// SHA-256 of the manifest, hex, once all of it is known.
    pub manifest_sha256: Option<String>,
    /// What may be said instead of the ticket, until somebody has used it or too many were burnt (exporter).
    #[serde(default)]
    pub spoken_code: Option<String>,
    /// Spoken codes that a wrong try has burnt; after 5 there are no more (exporter).
    #[serde(default)]
    pub codes_burnt: u32,
    /// Set while the connection is lost.
    pub waiting: Option<WaitingView>,
    /// Bytes a second that may not be exceeded.
    pub limit_bps: Option<u64>,
    /// Files that were found at the importer instead of being sent.
    pub reused_files: u64,
    /// Bytes in them.
    pub reused_bytes: u64,
    /// Bytes of file content that went over the network.
    pub payload_bytes: u64,
    /// As how many bytes it went: fewer where it was packed.
    pub wire_bytes: u64,
    /// Files that changed while they were sent, the first hundred: because of them another session took the place of one
    /// (exporter).
    pub changed: Vec<String>,
    /// Waits for `job/decide`.
    pub review: Option<Review>,
    /// Files that fail at the moment, the first hundred.
    pub failures: Vec<FailureView>,
    /// How many fail in all.
    pub failures_total: u64,
    /// Set once, at the end of a job.
    pub outcome: Option<Outcome>,
    /// In milliseconds since 1970.
    pub updated_ms: u64,
}

impl StatusResponse {
    pub(in crate::http) fn of(job_id: u64, version: u64, path: PathBuf, updated_ms: u64, view: JobView) -> Self {
        Self {
            job_id: Some(job_id),
            version,
            session_id: view.session_id,
            role: view.role,
            protocol: view.protocol,
            path,
            phase: view.phase,
            eta_secs: view.progress.seconds_left(),
            progress: view.progress,
            peer: view.peer,
            source_name: view.source_name,
            begun_ms: view.begun_ms,
            manifest_sha256: view.manifest_sha256,
            spoken_code: view.spoken_code,
            codes_burnt: view.codes_burnt,
            waiting: view.waiting,
            limit_bps: view.limit_bps,
            reused_files: view.reused_files,
            reused_bytes: view.reused_bytes,
            payload_bytes: view.payload_bytes,
            wire_bytes: view.wire_bytes,
            changed: view.changed,
            review: view.review,
            failures: view.failures,
            failures_total: view.failures_total,
            outcome: view.outcome,
            updated_ms,
        }
    }

    /// As a job shows itself.
    pub fn into_view(self) -> JobView {
        // the session of an offer that nobody has taken does not exist yet
        let has_begun = self.role == Role::Importer || self.peer.is_some();
        JobView {
            role: self.role,
            protocol: self.protocol,
            session_id: self.session_id.filter(|_| has_begun),
            phase: self.phase,
            peer: self.peer,
            source_name: self.source_name,
            begun_ms: self.begun_ms,
            manifest_sha256: self.manifest_sha256,
            spoken_code: self.spoken_code,
            codes_burnt: self.codes_burnt,
            progress: self.progress,
            waiting: self.waiting,
            limit_bps: self.limit_bps,
            reused_files: self.reused_files,
            reused_bytes: self.reused_bytes,
            payload_bytes: self.payload_bytes,
            wire_bytes: self.wire_bytes,
            changed: self.changed,
            review: self.review,
            failures: self.failures,
            failures_total: self.failures_total,
            outcome: self.outcome,
        }
    }
}

/// Which job, and what of it is known already.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobStatusQuery {
    /// Its number in this run of the node.
    pub job_id: u64,
    /// Answer when there is a newer version than this.
    #[serde(default)]
    pub after_version: Option<u64>,
    /// Or after so many seconds. Default: 0.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60)]
    pub wait_secs: Option<u64>,
}

/// The jobs of this run of the node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobsResponse {
    /// Those that run and the last that have ended, the newest first.
    pub jobs: Vec<StatusResponse>,
}

//! What the routes take and give. The command line reads and writes the same types over the Unix socket.

use std::path::PathBuf;

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::{FailureView, JobView, Outcome, PeerSummary, ProgressView, Review, Role, WaitingView, text};
use crate::book::SessionView;
use crate::net::PeerView;
use crate::node::SentTo;
use crate::post_apply::PostApply;
use crate::source::SourceSummary;

/// JSON Schema counts `5.0` among the integers.
fn whole<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a whole number, 0 or more")]
    enum Number {
        Whole(u64),
        Float(f64),
    }
    match Number::deserialize(d)? {
        Number::Whole(number) => Ok(number),
        // beyond these floats are not exact
        Number::Float(number) if number.fract() == 0.0 && (0.0..9e15).contains(&number) => Ok(number as u64),
        Number::Float(_) => Err(D::Error::custom("a whole number, 0 or more, is needed")),
    }
}

fn maybe_whole<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Whole(#[serde(deserialize_with = "whole")] u64);
    Ok(Option::<Whole>::deserialize(d)?.map(|Whole(number)| number))
}

/// When files are packed on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    /// What shrinks, while the connection is slower than packing.
    Auto,
    /// Nothing.
    Never,
    /// Whatever shrinks.
    Always,
}

/// Which transport to dial with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP first, QUIC after a short head start.
    #[default]
    Auto,
    /// TCP only.
    Tcp,
    /// QUIC only.
    Quic,
}

/// Offers a tree.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// The directory or file to send: absolute, and with the token below one of `export_roots`.
    #[schema(min_length = 1)]
    pub source_path: String,
    /// How long the ticket is good. Default: 600.
    #[serde(default, deserialize_with = "maybe_whole")]
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
    #[serde(default, deserialize_with = "maybe_whole")]
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
    /// Offer it to so many devices at once, each with a ticket of its own; the tree is read and hashed once. Default: 1.
    #[serde(default, deserialize_with = "maybe_whole")]
    #[schema(minimum = 1, maximum = 16)]
    pub devices: Option<u64>,
}

/// An offer that waits for its importer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateResponse {
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
    /// This node.
    pub peer_id: String,
    /// Where the ticket says that it is.
    pub addresses: Vec<String>,
    /// The unfinished session that this offer goes on with.
    pub continues: Option<Box<SessionView>>,
    /// Who took a tree from this place before.
    pub sent_before: Vec<SentTo>,
    /// What will be sent.
    pub source: SourceSummary,
    /// The offers to the second and every further device.
    pub others: Vec<OtherOffer>,
}

/// An offer of the same tree to one more device; see [`CreateResponse`] for its fields.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OtherOffer {
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
    /// Its spoken code, if it has one; a secret too.
    pub code: Option<String>,
    /// When the ticket becomes void, in milliseconds since 1970.
    pub expires_at: u64,
    /// The unfinished session that this offer goes on with.
    pub continues: Option<Box<SessionView>>,
}

/// Imports a tree.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The ticket. Either this or `code` is needed.
    #[serde(default)]
    #[schema(pattern = "^me\\.things:me\\.sync\\.v4:[A-Za-z0-9_-]+$", max_length = 4096)]
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
    #[serde(default, deserialize_with = "maybe_whole")]
    #[schema(minimum = 1, maximum = 86400)]
    pub connect_timeout_secs: Option<u64>,
    /// Receive no faster than so many bytes a second. Default: as the settings say; over the Unix socket no limit.
    #[serde(default, deserialize_with = "maybe_whole")]
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
    /// Answer when the exporter has granted the session, or after so many seconds. Default: 20.
    #[serde(default, deserialize_with = "maybe_whole")]
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
    #[serde(default, deserialize_with = "maybe_whole")]
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
}

/// Names a session.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// Which.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub session_id: String,
}

/// A session that is over.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AbortResponse {
    /// Which.
    pub session_id: String,
    /// It was not over before.
    pub changed: bool,
}

/// Undoes the last migration into a directory.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The directory: absolute, and with the token below one of `import_roots`.
    #[schema(min_length = 1)]
    pub target_path: String,
}

/// The old tree is back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RollbackResponse {
    /// The session that was undone.
    pub session_id: String,
    /// The directory.
    pub target: String,
    /// There is a directory again; false: there was none before that migration.
    pub target_exists: bool,
    /// Where the tree that was undone is.
    pub retained: String,
    /// Until when, in milliseconds since 1970.
    pub retained_until_ms: u64,
}

/// Names a job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// Its number in this run of the node.
    #[serde(deserialize_with = "whole")]
    pub job_id: u64,
}

/// Answers the `review` of a job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideRequest {
    /// Its number in this run of the node.
    #[serde(deserialize_with = "whole")]
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
    pub(super) fn of(job_id: u64, version: u64, path: PathBuf, updated_ms: u64, view: JobView) -> Self {
        Self {
            job_id: Some(job_id),
            version,
            session_id: view.session_id,
            role: view.role,
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

/// Which session.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatusQuery {
    /// 32 hex digits.
    #[param(pattern = "^[0-9a-f]{32}$")]
    pub session_id: String,
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

/// Which part of the list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionsQuery {
    /// Most sessions on a page. Default: 50.
    #[serde(default)]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<usize>,
    /// `next` of the page before.
    #[serde(default)]
    #[param(pattern = "^[0-9]{1,20}-[0-9a-f]{32}$")]
    pub cursor: Option<String>,
}

/// A page of sessions, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionsResponse {
    /// On this page.
    pub sessions: Vec<SessionView>,
    /// How many there are in all.
    pub total: usize,
    /// The cursor of the next page; null on the last.
    pub next: Option<String>,
}

/// Which part of a session's failures.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FailuresQuery {
    /// 32 hex digits.
    #[param(pattern = "^[0-9a-f]{32}$")]
    pub session_id: String,
    /// Leave out so many. Default: 0.
    #[serde(default)]
    pub offset: Option<usize>,
    /// Most failures in the answer. Default: 100.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<usize>,
}

/// One failed file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FailureEntry {
    /// Its path in the tree. Escape it before printing.
    pub path: String,
    /// One of the five of the protocol.
    pub reason: String,
    /// The finer local code.
    pub code: Option<String>,
    /// What the operating system said, as a number.
    pub os_error: Option<i32>,
    /// How often it was tried.
    pub attempts: Option<u32>,
}

/// The failed files of a session on this device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FailuresResponse {
    /// Which session.
    pub session_id: String,
    /// In the order of the manifest.
    pub failures: Vec<FailureEntry>,
    /// How many there are in all.
    pub total: u64,
}

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

/// What may be read and replaced with a token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RootsResponse {
    /// What may be offered: these directories and all in them.
    pub export_roots: Vec<RootEntry>,
    /// Where trees may be replaced: what lies in these directories.
    pub import_roots: Vec<RootEntry>,
}

/// One directory, to choose in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RootEntry {
    /// Where it is.
    pub path: String,
    /// It can be read now.
    pub is_there: bool,
    /// Names of the directories directly in it, the first two hundred; without hidden ones.
    pub directories: Vec<String>,
}

/// Asks for a link to the page.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// How long it is good. Default: 120.
    #[serde(default, deserialize_with = "maybe_whole")]
    #[schema(minimum = 1, maximum = 600)]
    pub ttl_secs: Option<u64>,
}

/// A link to the page that is good once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LinkResponse {
    /// For a browser on this device. It is a secret.
    pub url: String,
    /// Until when it is good, in milliseconds since 1970.
    pub expires_at: u64,
}

/// A page that has logged in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginResponse {
    /// To be sent with every request, like that in `api.token`. It is a secret.
    pub token: String,
    /// Until when it is good if it is not used, in milliseconds since 1970. The end of the node ends it too.
    pub expires_at: u64,
}

/// A page that has logged out.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogoutResponse {
    /// Its token is good no more; false for a caller that is no page.
    pub changed: bool,
}

//! What a program that embeds a node sees: jobs, their views, and how they end.
//!
//! A *job* is one `offer` or one `import` of this process. It gets a session once a ticket is redeemed.
//! Every job has a [`JobView`] in a watch channel; it always holds the newest state, so a slow reader
//! misses intermediate states but never the last one. Views read back what they wrote, so that a client of the HTTP API
//! has the same types.

pub(crate) mod text;

use std::path::PathBuf;
use std::time::Duration;

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::coordinator::CoordinatorHandle;
use crate::limit::{Limiter, Rate};

/// Number of a job within its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub(crate) u64);

impl JobId {
    /// As a plain number.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Which side of a migration this device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Its tree is read.
    Exporter,
    /// Its target is replaced.
    Importer,
}

/// By which protocol a tree goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One archive, without resume (SPEC §13).
    V3,
    /// File by file.
    #[default]
    V4,
}

impl Protocol {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V3 => "v3",
            Self::V4 => "v4",
        }
    }
}

/// Who is at the other end. Names come from the peer and need escaping when printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerSummary {
    /// libp2p PeerId, base58.
    pub peer_id: String,
    /// What its owner calls it.
    pub device_name: String,
    /// The address in use, if known.
    pub address: Option<String>,
    /// `tcp` or `quic`, if known.
    pub transport: Option<String>,
}

/// The seed's progress fields (§10), by its names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ProgressView {
    /// Files verified (importer) or sent whole (exporter).
    pub files_ok: u64,
    /// Files that failed and have not succeeded since.
    pub files_failed: u64,
    /// Files in the manifest.
    pub files_total: u64,
    /// Payload bytes received (importer) or sent (exporter), the file under way included.
    pub bytes_received: u64,
    /// Sum of all file sizes.
    pub bytes_total: u64,
    /// Files that the exporter has read for their hashes, while it does that before anything is sent.
    pub files_hashed: Option<u64>,
    /// Bytes in them, the files under way included.
    pub bytes_hashed: Option<u64>,
    /// Bytes a second over the last seconds: read for their hashes, or payload that moves.
    pub transfer_bps: u64,
    /// Retry round, 0 in the bulk.
    pub retry_round: u32,
    /// What is going on, in words for people.
    pub detail: String,
}

impl ProgressView {
    /// Seconds that the rest takes at the rate of the last seconds; none while nothing moves.
    pub fn seconds_left(&self) -> Option<u64> {
        let done = self.bytes_hashed.unwrap_or(self.bytes_received);
        self.bytes_total.saturating_sub(done).checked_div(self.transfer_bps)
    }
}

/// What is already at the target, for the question whether to replace it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OldTreeSummary {
    /// Regular files; a lower bound if `is_partial`.
    pub files: u64,
    /// Bytes in them; a lower bound if `is_partial`.
    pub bytes: u64,
    /// The count stopped early, because the tree is very large.
    pub is_partial: bool,
}

/// Both sides of an import, before any data moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Review {
    /// How it will come. Over v3 nothing can be gone on with.
    #[serde(default)]
    pub protocol: Protocol,
    /// Name of the source directory on the exporter.
    pub source_name: String,
    /// Regular files that will come.
    pub files: u64,
    /// Directories that will come.
    pub dirs: u64,
    /// Symbolic links that will come.
    pub symlinks: u64,
    /// Bytes that will come.
    pub bytes: u64,
    /// Names at the top of the incoming tree, the first ten.
    pub top_names: Vec<String>,
    /// The directory that will become that tree.
    #[serde(with = "text::path")]
    #[schema(value_type = String)]
    pub target: PathBuf,
    /// What is there now and will be kept for rollback; none when the target does not exist or is empty.
    pub replaces: Option<OldTreeSummary>,
    /// How long the replaced tree is kept.
    #[serde(with = "text::seconds")]
    #[schema(value_type = u64)]
    pub keep_for: Duration,
    /// Anything the person should know: open files, odd file systems.
    pub warnings: Vec<String>,
}

/// Who agreed to what an import does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// The caller has it already.
    Given,
    /// The job stops with a [`Review`] if the target exists and is not empty.
    Ask,
    /// The job stops with a [`Review`] in any case.
    AskAlways,
}

/// One file that did not make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureView {
    /// Its path in the tree.
    pub path: String,
    /// The seed's reason.
    pub reason: String,
    /// The finer local code, where there is one.
    pub code: Option<String>,
}

/// A finished migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// How it came.
    #[serde(default)]
    pub protocol: Protocol,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Payload bytes of the tree.
    pub bytes: u64,
    /// SHA-256 of the manifest, hex: the name of this exact tree.
    pub manifest_sha256: String,
    /// The directory that is now that tree (importer).
    #[serde(with = "text::optional_path")]
    #[schema(value_type = Option<String>)]
    pub target: Option<PathBuf>,
    /// The directory was that tree already, to the last bit: nothing was replaced (importer).
    pub unchanged: bool,
    /// Where the replaced tree is kept (importer), if there was one.
    #[serde(with = "text::optional_path")]
    #[schema(value_type = Option<String>)]
    pub retained: Option<PathBuf>,
    /// Until when, in milliseconds since 1970.
    pub retained_until_ms: Option<u64>,
    /// Files that were found on this device instead of being sent (importer).
    pub reused_files: u64,
    /// Bytes in them.
    pub reused_bytes: u64,
    /// Bytes of file content that went over the network in this process.
    pub payload_bytes: u64,
    /// As how many bytes it went: fewer where it was packed, none for holes.
    pub wire_bytes: u64,
    /// What was left out or adapted: skipped entries, dropped mode bits.
    pub notes: Vec<String>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Outcome {
    /// The new tree is in place and durable.
    Completed(Completion),
    /// Nothing was applied.
    Failed {
        /// Stable code.
        #[serde(with = "text::plain")]
        #[schema(value_type = String)]
        code: Code,
        /// What happened, in a sentence.
        message: String,
        /// What to do next, in a sentence.
        hint: String,
    },
}

/// A session that waits for its peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingView {
    /// Seconds since the connection was lost.
    pub for_secs: u64,
    /// Tries to reach the other device since then (importer; the exporter waits to be called).
    pub tries: u32,
    /// Seconds until the next try.
    pub next_try_in_secs: u64,
    /// Why the last try failed.
    pub reason: Option<String>,
}

/// The state of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// This side's role.
    pub role: Role,
    /// How the tree goes.
    #[serde(default)]
    pub protocol: Protocol,
    /// The session, once there is one.
    #[serde(with = "text::optional")]
    #[schema(value_type = Option<String>)]
    pub session_id: Option<SessionId>,
    /// The seed's phase.
    #[serde(with = "text::plain")]
    #[schema(value_type = String)]
    pub phase: Phase,
    /// The other device, once connected.
    pub peer: Option<PeerSummary>,
    /// What the exporter calls its tree.
    pub source_name: Option<String>,
    /// When the session began, in milliseconds since 1970.
    pub begun_ms: Option<u64>,
    /// SHA-256 of the manifest, hex, once all of it is known.
    pub manifest_sha256: Option<String>,
    /// The seed's counters.
    pub progress: ProgressView,
    /// What people may say instead of the ticket, until somebody has used it or too many were burnt (exporter).
    #[serde(default)]
    pub spoken_code: Option<String>,
    /// Codes that a wrong try has burnt (exporter).
    #[serde(default)]
    pub codes_burnt: u32,
    /// Set while the connection is lost and the session waits to go on.
    pub waiting: Option<WaitingView>,
    /// Bytes a second that the session may not exceed: the lower of its own limit and its node's; none without either.
    pub limit_bps: Option<u64>,
    /// Files that were found on this device (importer) instead of being sent.
    pub reused_files: u64,
    /// Bytes in them.
    pub reused_bytes: u64,
    /// Bytes of file content that went over the network in this process, those sent again included.
    pub payload_bytes: u64,
    /// As how many bytes it went: fewer where it was packed, none for holes.
    pub wire_bytes: u64,
    /// Files that changed while they were sent, the first hundred: because of them another session took the place of one
    /// (exporter).
    pub changed: Vec<String>,
    /// Waits for [`JobHandle::accept`] or [`JobHandle::decline`].
    pub review: Option<Review>,
    /// Files that fail at the moment, the first hundred.
    pub failures: Vec<FailureView>,
    /// How many fail in all.
    pub failures_total: u64,
    /// Set once, at the end.
    pub outcome: Option<Outcome>,
}

impl JobView {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            protocol: Protocol::V4,
            session_id: None,
            phase: Phase::NearbyConnecting,
            peer: None,
            source_name: None,
            begun_ms: None,
            manifest_sha256: None,
            progress: ProgressView::default(),
            spoken_code: None,
            codes_burnt: 0,
            waiting: None,
            limit_bps: None,
            reused_files: 0,
            reused_bytes: 0,
            payload_bytes: 0,
            wire_bytes: 0,
            changed: Vec::new(),
            review: None,
            failures: Vec::new(),
            failures_total: 0,
            outcome: None,
        }
    }
}

/// A handle on one job. Dropping it does not end the job.
#[derive(Debug, Clone)]
pub struct JobHandle {
    pub(crate) id: JobId,
    pub(crate) view: watch::Receiver<JobView>,
    pub(crate) limit: Limiter,
    pub(crate) coordinator: CoordinatorHandle,
}

impl JobHandle {
    /// The job's number.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The newest view.
    pub fn view(&self) -> JobView {
        self.view.borrow().clone()
    }

    /// A receiver that wakes at every change.
    pub fn watch(&self) -> watch::Receiver<JobView> {
        self.view.clone()
    }

    /// Waits for the end. Cancel-safe.
    pub async fn outcome(&self) -> Outcome {
        let mut view = self.view.clone();
        let ended = view.wait_for(|v| v.outcome.is_some()).await.ok().and_then(|v| v.outcome.clone());
        ended.unwrap_or_else(stopped)
    }

    /// Waits until the job asks for a decision or ends; none when it ended. Cancel-safe.
    pub async fn review(&self) -> Option<Review> {
        let mut view = self.view.clone();
        let found = view.wait_for(|v| v.review.is_some() || v.outcome.is_some()).await.ok();
        found.and_then(|v| v.review.clone())
    }

    /// Limits how fast this job moves bytes, or lifts its limit; at once, also while it runs. The limit of its node
    /// counts besides.
    pub fn set_limit(&self, limit: Option<Rate>) {
        self.limit.set(limit);
    }

    /// Agrees to what [`JobView::review`] shows.
    pub async fn accept(&self) {
        self.coordinator.decide(self.id, true).await;
    }

    /// Refuses what [`JobView::review`] shows: the session ends with `declined`.
    pub async fn decline(&self) {
        self.coordinator.decide(self.id, false).await;
    }

    /// Stops the job and keeps its session: a later `resume`, or the same offer or import again, goes on with it.
    /// The outcome is `node_stopping`. A swap that has begun is finished.
    pub async fn suspend(&self) {
        self.coordinator.suspend(self.id).await;
    }

    /// Ends the job and its session for good. Too late once the swap has begun: then it ends as completed.
    pub async fn abort(&self) {
        self.coordinator.abort(self.id).await;
    }
}

/// The outcome of a job whose node is gone.
fn stopped() -> Outcome {
    Outcome::Failed {
        code: Code::NodeStopping,
        message: "the node stopped".to_owned(),
        hint: "start it again and repeat the migration".to_owned(),
    }
}

//! Sessions on record: which there are, how they end, the way back.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::book::SessionView;

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
    /// 32 hex digits: the migration that is meant. It is undone once; if another one stands there, nothing is.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub session_id: Option<String>,
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
    /// False: the migration that `session_id` names was undone before.
    pub changed: bool,
    /// Where the tree that was undone is; null if it was gone already.
    pub retained: Option<String>,
    /// Until when, in milliseconds since 1970; null if it was gone already.
    pub retained_until_ms: Option<u64>,
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

//! The page: what may be chosen there, and how it logs in.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    #[serde(default, deserialize_with = "super::maybe_whole")]
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

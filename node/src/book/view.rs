//! One session as the records have it.

use std::path::PathBuf;
use std::time::Duration;

use me_sync_protocol::ids::{SessionId, TicketId};
use me_sync_protocol::limits;
use me_sync_protocol::reason::Code;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{JobView, Role, text};
use crate::clock::LastSeen;
use crate::staging::{SessionRecord, SessionState};
use crate::store::{ExportRecord, ImportRecord, SessionStatus};

/// How far a session is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A process works on it.
    Running,
    /// It can be gone on with.
    Interrupted,
    /// It failed; `resumable` says whether it can be tried again.
    Failed,
    /// The tree is in place, and its journal is gone.
    Completed,
    /// It was ended without effect.
    Ended,
    /// Files come in.
    Receiving,
    /// All files are here.
    Verified,
    /// The swap has begun.
    SwapIntent,
    /// The new tree is in place.
    Swapped,
    /// The new tree is in place and everything is noted.
    Committed,
    /// The way back has begun.
    RollbackIntent,
    /// The old tree is back.
    RolledBack,
    /// It is over, and no other tree is kept any more: what stands at the directory is all there is.
    Cleaned,
}

impl State {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Completed => "completed",
            Self::Ended => "ended",
            Self::Receiving => "receiving",
            Self::Verified => "verified",
            Self::SwapIntent => "swap_intent",
            Self::Swapped => "swapped",
            Self::Committed => "committed",
            Self::RollbackIntent => "rollback_intent",
            Self::RolledBack => "rolled_back",
            Self::Cleaned => "cleaned",
        }
    }
}

impl From<SessionState> for State {
    fn from(state: SessionState) -> Self {
        match state {
            SessionState::Receiving => Self::Receiving,
            SessionState::Verified => Self::Verified,
            SessionState::SwapIntent => Self::SwapIntent,
            SessionState::Swapped => Self::Swapped,
            SessionState::Committed => Self::Committed,
            SessionState::RollbackIntent => Self::RollbackIntent,
            SessionState::RolledBack => Self::RolledBack,
            SessionState::Cleaned => Self::Cleaned,
            SessionState::Failed => Self::Failed,
        }
    }
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Which; 32 hex digits.
    #[serde(with = "text::plain")]
    #[schema(value_type = String)]
    pub session_id: SessionId,
    /// This side's role.
    pub role: Role,
    /// How far it is.
    pub state: State,
    /// It runs, or can be gone on with.
    pub unfinished: bool,
    /// Nobody works on it, and somebody may.
    pub resumable: bool,
    /// The process that works on it.
    pub pid: Option<u32>,
    /// The ticket that began it, where that is on record; 32 hex digits.
    pub ticket_id: Option<String>,
    /// The tree that is read, or the target.
    #[serde(with = "text::path")]
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// What the exporter calls the tree. It comes from the peer: escape it before printing.
    pub source_name: Option<String>,
    /// The other device's name for itself: escape it before printing.
    pub device_name: String,
    /// Its PeerId.
    pub peer_id: String,
    /// Where the other device was, best first.
    pub addresses: Vec<String>,
    /// SHA-256 of the manifest.
    pub manifest_sha256: Option<String>,
    /// Files in the manifest; 0 while it is not known.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Files of an unfinished one that are through, where that is known.
    pub files_ok: Option<u64>,
    /// Bytes in them.
    pub bytes_ok: Option<u64>,
    /// Why it failed or ended.
    #[serde(with = "text::optional")]
    #[schema(value_type = Option<String>)]
    pub code: Option<Code>,
    /// In milliseconds since 1970.
    pub created_ms: Option<u64>,
    /// In milliseconds since 1970.
    pub updated_ms: Option<u64>,
    /// Until when an unfinished one can be gone on with, in milliseconds since 1970.
    pub kept_until_ms: Option<u64>,
    /// An export leaves out what cannot be read.
    pub skip_unreadable: Option<bool>,
    /// An export leaves out what no manifest can hold.
    pub skip_unsupported: Option<bool>,
    /// The importer's target.
    #[serde(with = "text::optional_path")]
    #[schema(value_type = Option<String>)]
    pub target: Option<PathBuf>,
    /// What is staged for an unfinished import.
    #[serde(with = "text::optional_path")]
    #[schema(value_type = Option<String>)]
    pub staging: Option<PathBuf>,
    /// What an import replaced, or the tree that a rollback undid.
    #[serde(with = "text::optional_path")]
    #[schema(value_type = Option<String>)]
    pub retained: Option<PathBuf>,
    /// Until when that is kept, in milliseconds since 1970.
    pub retained_until_ms: Option<u64>,
    /// There was a target before.
    pub target_existed: Option<bool>,
    /// The tree is in place, and the sending device has not heard of it.
    pub unheard: bool,
    /// What the process that works on it says.
    pub live: Option<Box<LiveView>>,
}

/// A job's view, and the process that works on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiveView {
    /// The process.
    pub pid: u32,
    /// When it said so, in milliseconds since 1970.
    pub updated_ms: u64,
    /// The tree that is read, or the target.
    #[serde(with = "text::path")]
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// An export leaves out what cannot be read.
    pub skip_unreadable: Option<bool>,
    /// An export leaves out what no manifest can hold.
    pub skip_unsupported: Option<bool>,
    /// All of it.
    #[serde(flatten)]
    pub view: JobView,
}

impl SessionView {
    fn blank(session: SessionId, role: Role, path: PathBuf) -> Self {
        Self {
            session_id: session,
            role,
            state: State::Interrupted,
            unfinished: false,
            resumable: false,
            pid: None,
            ticket_id: None,
            target: (role == Role::Importer).then(|| path.clone()),
            path,
            source_name: None,
            device_name: String::new(),
            peer_id: String::new(),
            addresses: Vec::new(),
            manifest_sha256: None,
            files: 0,
            bytes: 0,
            files_ok: None,
            bytes_ok: None,
            code: None,
            created_ms: None,
            updated_ms: None,
            kept_until_ms: None,
            skip_unreadable: None,
            skip_unsupported: None,
            staging: None,
            retained: None,
            retained_until_ms: None,
            target_existed: None,
            unheard: false,
            live: None,
        }
    }

    pub(super) fn set_state(&mut self, state: State, resumable: bool) {
        (self.state, self.resumable) = (state, resumable);
        self.unfinished = resumable || state == State::Running;
    }

    pub(super) fn import(record: ImportRecord) -> Self {
        let (state, resumable) = of(record.state);
        let mut known = Self {
            ticket_id: Some(record.ticket.to_string()),
            source_name: Some(record.source_name),
            device_name: record.peer_name,
            peer_id: record.peer.to_string(),
            addresses: record.addresses,
            manifest_sha256: record.manifest.map(|sum| sum.to_string()),
            files: record.files,
            bytes: record.bytes,
            files_ok: resumable.then_some(record.files_ok),
            bytes_ok: resumable.then_some(record.bytes_ok),
            code: record.failed_code,
            created_ms: Some(record.created.wall_ms),
            updated_ms: Some(record.last.wall_ms),
            kept_until_ms: resumable.then(|| kept_until(&record.created, &record.last)),
            unheard: record.state == SessionStatus::Completed && !record.told,
            ..Self::blank(record.session, Role::Importer, record.target)
        };
        known.set_state(state, resumable);
        known
    }

    /// None if nobody has redeemed its ticket.
    pub(super) fn export(record: ExportRecord) -> Option<Self> {
        let (grant, peer) = (record.grant?, record.peer?);
        let (state, resumable) = of(record.state);
        let mut known = Self {
            ticket_id: Some(record.ticket.to_string()),
            source_name: Some(record.source_name),
            device_name: record.peer_name,
            peer_id: peer.to_string(),
            addresses: record.addresses,
            manifest_sha256: record.manifest.map(|sum| sum.to_string()),
            files: record.files,
            bytes: record.bytes,
            files_ok: resumable.then_some(record.files_ok),
            bytes_ok: resumable.then_some(record.bytes_ok),
            code: record.failed_code,
            created_ms: Some(record.created.wall_ms),
            updated_ms: Some(record.last.wall_ms),
            kept_until_ms: resumable.then(|| kept_until(&record.created, &record.last)),
            skip_unreadable: Some(record.choices.skip_unreadable),
            skip_unsupported: Some(record.choices.skip_unsupported),
            ..Self::blank(grant.session, Role::Exporter, record.root)
        };
        known.set_state(state, resumable);
        Some(known)
    }

    pub(super) fn journal(record: &SessionRecord) -> Self {
        let mut known = Self {
            device_name: record.peer_name.clone(),
            peer_id: record.peer_id.clone(),
            files: record.files,
            bytes: record.bytes,
            code: record.code,
            created_ms: Some(record.created_ms),
            updated_ms: Some(record.updated_ms),
            ..Self::blank(record.session, Role::Importer, record.target.clone())
        };
        known.set_state(record.state.into(), false);
        known.add_journal(record);
        known
    }

    /// None before there is a session.
    pub(super) fn live(live: LiveView) -> Option<Self> {
        let mut known = Self::blank(live.view.session_id?, live.view.role, live.path.clone());
        known.created_ms = live.view.begun_ms;
        (known.skip_unreadable, known.skip_unsupported) = (live.skip_unreadable, live.skip_unsupported);
        known.add_live(live);
        Some(known)
    }

    /// A process works on it: what that says counts.
    pub(crate) fn add_live(&mut self, live: LiveView) {
        let (view, progress) = (&live.view, &live.view.progress);
        self.set_state(State::Running, false);
        self.pid = Some(live.pid);
        self.updated_ms = Some(live.updated_ms);
        self.kept_until_ms = None;
        if let Some(peer) = &view.peer {
            (self.device_name, self.peer_id) = (peer.device_name.clone(), peer.peer_id.clone());
            if self.addresses.is_empty() {
                self.addresses.extend(peer.address.clone());
            }
        }
        self.manifest_sha256 = view.manifest_sha256.clone().or(self.manifest_sha256.take());
        self.source_name = view.source_name.clone().or(self.source_name.take());
        if progress.files_total > 0 {
            (self.files, self.bytes) = (progress.files_total, progress.bytes_total);
        }
        (self.files_ok, self.bytes_ok) = (Some(progress.files_ok), Some(progress.bytes_received));
        self.live = Some(Box::new(live));
    }

    /// What its journal says of the trees beside the target.
    pub(super) fn add_journal(&mut self, record: &SessionRecord) {
        let swapped = matches!(record.state, SessionState::Swapped | SessionState::Committed);
        let beside = record.retained.clone().filter(|_| record.target_existed || !swapped);
        (self.staging, self.retained) = if self.unfinished { (beside, None) } else { (None, beside) };
        self.retained_until_ms = record.keep_until_ms;
        self.target_existed = Some(record.target_existed);
    }

    /// The tree beside the target: what is staged or, after a swap, what it replaced.
    pub fn beside(&self) -> Option<&std::path::Path> {
        self.staging.as_deref().or(self.retained.as_deref())
    }

    /// The tree of a migration that is in place can be changed back.
    pub fn can_be_rolled_back(&self) -> bool {
        matches!(self.state, State::Swapped | State::Committed)
    }

    /// Was it begun with this ticket?
    pub fn is_of(&self, ticket: TicketId) -> bool {
        self.ticket_id.as_ref().is_some_and(|id| *id == ticket.to_string())
    }
}

/// As a record has it, and whether it can be gone on with.
fn of(status: SessionStatus) -> (State, bool) {
    match status {
        SessionStatus::Open | SessionStatus::Finalizing => (State::Interrupted, true),
        SessionStatus::Failed => (State::Failed, true),
        SessionStatus::Completed => (State::Completed, false),
        SessionStatus::Ended => (State::Ended, false),
    }
}

/// Unfinished sessions go when nobody went on with them for a day, and after a week in any case.
fn kept_until(created: &LastSeen, last: &LastSeen) -> u64 {
    let after = |seen: &LastSeen, time: Duration| seen.wall_ms.saturating_add(time.as_secs().saturating_mul(1000));
    after(last, limits::SESSION_TTL).min(after(created, limits::SESSION_LIFETIME))
}

//! One session as the records have it: who, what, how far, and what can still be done about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use me_sync_node::Role;
use me_sync_node::staging::{SessionRecord, SessionState};
use me_sync_node::store::{ExportRecord, ImportRecord, LastSeen, SessionStatus, SourceChoices};
use me_sync_protocol::ids::{SessionId, TicketId};
use me_sync_protocol::limits;
use me_sync_protocol::reason::Code;

use super::super::live::Live;

/// What is known of a session.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) session: SessionId,
    pub(crate) role: Role,
    pub(crate) state: State,
    /// The ticket that began it, where that is on record.
    pub(crate) ticket: Option<TicketId>,
    /// The tree that is read, or the target.
    pub(crate) path: PathBuf,
    pub(crate) source_name: Option<String>,
    pub(crate) device_name: String,
    pub(crate) peer_id: String,
    /// Where the other device was, best first.
    pub(crate) addresses: Vec<String>,
    pub(crate) manifest: Option<String>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files that are through; not known of an import while another process has the store.
    pub(crate) files_ok: Option<u64>,
    pub(crate) bytes_ok: Option<u64>,
    pub(crate) code: Option<Code>,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    /// Until when an unfinished one can be gone on with.
    pub(crate) kept_until_ms: Option<u64>,
    /// What an export leaves out.
    pub(crate) choices: Option<SourceChoices>,
    /// How the swap of an import went.
    pub(crate) journal: Option<SessionRecord>,
    /// The process that works on it.
    pub(crate) live: Option<Live>,
    /// The tree is in place, and the sending device has not heard of it.
    pub(crate) is_unheard: bool,
}

/// How far a session is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A process works on it.
    Running,
    /// It can be gone on with.
    Interrupted,
    /// It can be tried again.
    Failed,
    /// An import whose journal says more.
    Journal(SessionState),
    Completed,
    Ended,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Failed | Self::Journal(SessionState::Failed) => "failed",
            Self::Completed => "completed",
            Self::Ended => "ended",
            Self::Journal(SessionState::Receiving) => "receiving",
            Self::Journal(SessionState::Verified) => "verified",
            Self::Journal(SessionState::SwapIntent) => "swap_intent",
            Self::Journal(SessionState::Swapped) => "swapped",
            Self::Journal(SessionState::Committed) => "committed",
            Self::Journal(SessionState::RollbackIntent) => "rollback_intent",
            Self::Journal(SessionState::RolledBack) => "rolled_back",
            Self::Journal(SessionState::Cleaned) => "cleaned",
        }
    }

    /// Nobody works on it, and somebody may.
    pub(crate) fn is_resumable(self) -> bool {
        matches!(self, Self::Interrupted | Self::Failed)
    }

    pub(crate) fn is_unfinished(self) -> bool {
        self == Self::Running || self.is_resumable()
    }

    fn of(status: SessionStatus) -> Self {
        match status {
            SessionStatus::Open | SessionStatus::Finalizing => Self::Interrupted,
            SessionStatus::Failed => Self::Failed,
            SessionStatus::Completed => Self::Completed,
            SessionStatus::Ended => Self::Ended,
        }
    }
}

impl Known {
    pub(super) fn import(record: ImportRecord) -> Self {
        let state = State::of(record.state);
        Self {
            session: record.session,
            role: Role::Importer,
            state,
            ticket: Some(record.ticket),
            path: record.target,
            source_name: Some(record.source_name),
            device_name: record.peer_name,
            peer_id: record.peer.to_string(),
            addresses: record.addresses,
            manifest: record.manifest.map(|sum| sum.to_string()),
            files: record.files,
            bytes: record.bytes,
            files_ok: Some(record.files_ok),
            bytes_ok: Some(record.bytes_ok),
            code: record.failed_code,
            created_ms: record.created.wall_ms,
            updated_ms: record.last.wall_ms,
            kept_until_ms: kept_until(state, &record.created, &record.last),
            choices: None,
            journal: None,
            live: None,
            is_unheard: record.state == SessionStatus::Completed && !record.told,
        }
    }

    /// The tree beside the target: what is staged or, after a swap, what it replaced.
    pub(crate) fn beside(&self) -> Option<&Path> {
        let journal = self.journal.as_ref()?;
        let swapped = matches!(journal.state, SessionState::Swapped | SessionState::Committed);
        journal.retained.as_deref().filter(|_| journal.target_existed || !swapped)
    }

    /// None if nobody has redeemed its ticket.
    pub(super) fn export(record: ExportRecord) -> Option<Self> {
        let (grant, peer) = (record.grant?, record.peer?);
        let state = State::of(record.state);
        Some(Self {
            session: grant.session,
            role: Role::Exporter,
            state,
            ticket: Some(record.ticket),
            path: record.root,
            source_name: Some(record.source_name),
            device_name: record.peer_name,
            peer_id: peer.to_string(),
            addresses: record.addresses,
            manifest: record.manifest.map(|sum| sum.to_string()),
            files: record.files,
            bytes: record.bytes,
            files_ok: Some(record.files_ok),
            bytes_ok: Some(record.bytes_ok),
            code: record.failed_code,
            created_ms: record.created.wall_ms,
            updated_ms: record.last.wall_ms,
            kept_until_ms: kept_until(state, &record.created, &record.last),
            choices: Some(record.choices),
            journal: None,
            live: None,
            is_unheard: false,
        })
    }

    pub(super) fn journal(record: SessionRecord) -> Self {
        Self {
            session: record.session,
            role: Role::Importer,
            state: State::Journal(record.state),
            ticket: None,
            path: record.target.clone(),
            source_name: None,
            device_name: record.peer_name.clone(),
            peer_id: record.peer_id.clone(),
            addresses: Vec::new(),
            manifest: None,
            files: record.files,
            bytes: record.bytes,
            files_ok: None,
            bytes_ok: None,
            code: record.code,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            kept_until_ms: None,
            choices: None,
            journal: Some(record),
            live: None,
            is_unheard: false,
        }
    }

    pub(super) fn live(live: Live) -> Self {
        let text = |name: &str| live.view["peer"][name].as_str().unwrap_or_default().to_owned();
        Self {
            session: live.session,
            role: live.role,
            state: State::Running,
            ticket: None,
            path: live.path.clone(),
            source_name: live.view["source_name"].as_str().map(str::to_owned),
            device_name: text("device_name"),
            peer_id: text("peer_id"),
            addresses: live.view["peer"]["address"].as_str().map(str::to_owned).into_iter().collect(),
            manifest: live.view["manifest_sha256"].as_str().map(str::to_owned),
            files: live.figure("files_total"),
            bytes: live.figure("bytes_total"),
            files_ok: Some(live.figure("files_ok")),
            bytes_ok: Some(live.figure("bytes_received")),
            code: None,
            created_ms: live.view["begun_ms"].as_u64().unwrap_or(0),
            updated_ms: live.view["updated_ms"].as_u64().unwrap_or(0),
            kept_until_ms: None,
            choices: live.choices(),
            journal: None,
            live: Some(live),
            is_unheard: false,
        }
    }
}

/// Unfinished sessions go when nobody went on with them for a day, and after a week in any case.
fn kept_until(state: State, created: &LastSeen, last: &LastSeen) -> Option<u64> {
    let after = |seen: &LastSeen, time: Duration| seen.wall_ms.saturating_add(time.as_secs().saturating_mul(1000));
    let at = after(last, limits::SESSION_TTL).min(after(created, limits::SESSION_LIFETIME));
    state.is_resumable().then_some(at)
}

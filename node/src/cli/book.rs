//! The sessions on record, of both roles: which there are, how far they are, and which one somebody means.
//!
//! Reads the session store and the journals under the state directory's lock. While another process has that, reads
//! what it says of its own session, and the journals, which need no lock.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use me_sync_node::staging::{Recovered, SessionRecord, SessionState, StateDir};
use me_sync_node::store::{
    ExportRecord, INACTIVITY_TTL, ImportRecord, LastSeen, SESSION_TTL, SessionStatus, SourceChoices, Store,
};
use me_sync_node::{NodeError, Role, StateLock, StateLockError, settle};
use me_sync_protocol::ids::{SessionId, TicketId};
use me_sync_protocol::reason::Code;

use super::exit::{CliError, Exit};
use super::globals::{Globals, LOCK_PAUSE, LOCK_TRIES};
use super::live::{self, Live};
use super::stop::{Stop, blocking};

/// Digits of a session's id that are enough to name it.
const LEAST_DIGITS: usize = 4;
const ALL_DIGITS: usize = 32;

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
    fn import(record: ImportRecord) -> Self {
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
        }
    }

    /// The tree beside the target: what is staged or, after a swap, what it replaced.
    pub(crate) fn beside(&self) -> Option<&Path> {
        let journal = self.journal.as_ref()?;
        let swapped = matches!(journal.state, SessionState::Swapped | SessionState::Committed);
        journal.retained.as_deref().filter(|_| journal.target_existed || !swapped)
    }

    /// None if nobody has redeemed its ticket.
    fn export(record: ExportRecord) -> Option<Self> {
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
        })
    }

    fn journal(record: SessionRecord) -> Self {
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
        }
    }

    fn live(live: Live) -> Self {
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
            manifest: None,
            files: live.figure("files_total"),
            bytes: live.figure("bytes_total"),
            files_ok: Some(live.figure("files_ok")),
            bytes_ok: Some(live.figure("bytes_received")),
            code: None,
            created_ms: 0,
            updated_ms: live.view["updated_ms"].as_u64().unwrap_or(0),
            kept_until_ms: None,
            choices: None,
            journal: None,
            live: Some(live),
        }
    }
}

/// What there is on record.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Unfinished ones first, then the newest.
    pub(crate) sessions: Vec<Known>,
    pub(crate) recovered: Vec<Recovered>,
    /// Another process has the state directory. Earlier sends, and how far unfinished imports are, are not known then.
    pub(crate) busy: Option<Busy>,
}

/// The process that has the state directory.
#[derive(Debug)]
pub(crate) struct Busy(StateLockError);

impl Busy {
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.0 {
            StateLockError::Held { pid, .. } => *pid,
            StateLockError::Io { .. } => None,
        }
    }
}

impl Book {
    /// Reads it, settling first what a crash left, if nobody else works there.
    pub(crate) async fn load(globals: &Globals, stop: &Stop) -> Result<Self, CliError> {
        let state_dir = globals.state_dir()?;
        stop.unless(blocking(move || Self::read(&state_dir))).await??
    }

    fn read(state_dir: &Path) -> Result<Self, CliError> {
        if !state_dir.exists() {
            return Ok(Self::default());
        }
        let state = StateDir::open(state_dir)?;
        let mut book = match StateLock::acquire(state_dir) {
            Ok(_lock) => Self::whole(&state, state_dir)?,
            Err(held @ StateLockError::Held { .. }) => Self::from_outside(&state, state_dir, held)?,
            Err(err) => return Err(NodeError::from(err).into()),
        };
        book.sessions.sort_by_key(|known| (!known.state.is_unfinished(), std::cmp::Reverse(known.created_ms)));
        Ok(book)
    }

    fn whole(state: &StateDir, state_dir: &Path) -> Result<Self, CliError> {
        let store = Store::open(state_dir)?;
        let recovered = settle(state, &store, SystemTime::now())?;
        let (imports, exports) = (store.imports()?, store.exports()?);
        let mut sessions: Vec<_> = imports.into_iter().map(Known::import).collect();
        for record in state.sessions()? {
            match sessions.iter_mut().find(|known| known.session == record.session) {
                Some(known) => {
                    if !known.state.is_unfinished() {
                        known.state = State::Journal(record.state);
                    }
                    known.journal = Some(record);
                }
                None => sessions.push(Known::journal(record)),
            }
        }
        sessions.extend(exports.into_iter().filter_map(Known::export));
        Ok(Self { sessions, recovered, busy: None })
    }

    fn from_outside(state: &StateDir, state_dir: &Path, held: StateLockError) -> Result<Self, CliError> {
        let mut sessions: Vec<_> = live::all(state_dir).into_iter().map(Known::live).collect();
        for record in state.sessions()? {
            match sessions.iter_mut().find(|known| known.session == record.session) {
                Some(known) => {
                    known.created_ms = record.created_ms;
                    known.journal = Some(record);
                }
                None => {
                    let mut known = Known::journal(record);
                    if let State::Journal(SessionState::Receiving | SessionState::Verified) = known.state {
                        known.state = if known.code.is_some() { State::Failed } else { State::Interrupted };
                    }
                    sessions.push(known);
                }
            }
        }
        Ok(Self { sessions, recovered: Vec::new(), busy: Some(Busy(held)) })
    }

    /// For what needs the state directory for itself: waits a little for a process that only looks into it.
    pub(crate) async fn load_alone(globals: &Globals, stop: &Stop) -> Result<Self, CliError> {
        let mut tries = 1;
        loop {
            let book = Self::load(globals, stop).await?;
            let Some(Busy(held)) = book.busy else { return Ok(book) };
            if tries == LOCK_TRIES {
                return Err(locked(held));
            }
            tries += 1;
            stop.unless(tokio::time::sleep(LOCK_PAUSE)).await?;
        }
    }

    /// The sessions that begin with these digits.
    pub(crate) fn named(&self, digits: &str) -> Vec<&Known> {
        if !is_id(digits) {
            return Vec::new();
        }
        let digits = digits.to_ascii_lowercase();
        self.sessions.iter().filter(|known| known.session.to_string().starts_with(&digits)).collect()
    }

    /// The one session that is meant.
    pub(crate) fn one(&self, text: &str) -> Result<&Known, Unclear<'_>> {
        if !is_id(text) {
            let message = format!("{} is no session", super::human::shell(Path::new(text)));
            return Err(Unclear::Nothing(CliError::usage(
                message,
                "name it by 4 digits or more of its id, as `me-sync sessions` lists it",
            )));
        }
        match self.named(text).as_slice() {
            [one] => Ok(one),
            [] => Err(Unclear::Nothing(unknown(text))),
            many => Err(Unclear::Several(many.to_vec())),
        }
    }
}

/// Another process has the state directory.
pub(crate) fn locked(held: StateLockError) -> CliError {
    let pid = match &held {
        StateLockError::Held { pid, .. } => *pid,
        StateLockError::Io { .. } => None,
    };
    let error = CliError::from(NodeError::from(held));
    match pid {
        Some(pid) => CliError {
            hint: format!("wait until it is done, or stop it (Ctrl-C there, or `kill {pid}`): it keeps its session"),
            extra: serde_json::json!({ "pid": pid }),
            ..error
        },
        None => error,
    }
}

/// Nobody can tell which session is meant.
#[derive(Debug)]
pub(crate) enum Unclear<'a> {
    Nothing(CliError),
    Several(Vec<&'a Known>),
}

/// May this be the beginning of a session's id?
pub(crate) fn is_id(text: &str) -> bool {
    (LEAST_DIGITS..=ALL_DIGITS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn unknown(digits: &str) -> CliError {
    let message = format!("no session {digits} is on record here");
    let error = CliError::coded(Code::SessionUnknown, message, "`me-sync sessions --all` lists those that are");
    error.exit(Exit::Usage)
}

/// Unfinished sessions go when nobody went on with them for a day, and after a week in any case.
fn kept_until(state: State, created: &LastSeen, last: &LastSeen) -> Option<u64> {
    let after = |seen: &LastSeen, time: Duration| seen.wall_ms.saturating_add(time.as_secs().saturating_mul(1000));
    let at = after(last, INACTIVITY_TTL).min(after(created, SESSION_TTL));
    state.is_resumable().then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_hex_digits_name_a_session_and_nothing_else_does() {
        for good in ["ab12", "AB12CD34", &"0".repeat(32)] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", "ab1", "photos", "./ab12", "ab 2", &"0".repeat(33)] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}

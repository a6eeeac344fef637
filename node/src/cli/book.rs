//! The sessions on record, of both roles: which there are, how far they are, and which one somebody means.
//!
//! Asks the node that runs. Without one, reads the session store and the journals under the state directory's lock. While another process has that, reads
//! what it says of its own session, and the journals, which need no lock.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use me_sync_node::book::{self, SessionView};
use me_sync_node::staging::{Recovered, StateDir};
use me_sync_node::store::Store;
use me_sync_node::{NodeError, StateLock, StateLockError, settle};
use me_sync_protocol::reason::Code;

use super::exit::{CliError, Exit};
use super::globals::{Globals, LOCK_PAUSE};
use super::live;
use super::stop::{Stop, blocking};

/// Digits of a session's id that are enough to name it.
const LEAST_DIGITS: usize = 4;
const ALL_DIGITS: usize = 32;

/// What there is on record.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Unfinished ones first, then the newest.
    pub(crate) sessions: Vec<SessionView>,
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
    /// Reads it, settling first what a crash left, if nobody else works there. A node that does is asked.
    pub(crate) async fn load(globals: &Globals, stop: &Stop) -> Result<Self, CliError> {
        if let Some(remote) = globals.remote(stop).await? {
            let mut sessions = stop.unless(remote.sessions()).await??;
            book::sort(&mut sessions);
            return Ok(Self { sessions, ..Self::default() });
        }
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
        book::sort(&mut book.sessions);
        Ok(book)
    }

    fn whole(state: &StateDir, state_dir: &Path) -> Result<Self, CliError> {
        let store = Store::open(state_dir)?;
        let recovered = settle(state, &store, SystemTime::now())?;
        Ok(Self { sessions: book::read(state, &store)?, recovered, busy: None })
    }

    fn from_outside(state: &StateDir, state_dir: &Path, held: StateLockError) -> Result<Self, CliError> {
        let sessions = book::read_journals(state, live::all(state_dir))?;
        Ok(Self { sessions, recovered: Vec::new(), busy: Some(Busy(held)) })
    }

    /// For what needs the state directory for itself: waits a little for a process that only looks into it.
    pub(crate) async fn load_alone(globals: &Globals, stop: &Stop) -> Result<Self, CliError> {
        let mut tries = 1;
        loop {
            let book = Self::load(globals, stop).await?;
            let Some(Busy(held)) = book.busy else { return Ok(book) };
            if tries == globals.lock_tries() {
                return Err(locked(held));
            }
            tries += 1;
            stop.unless(tokio::time::sleep(LOCK_PAUSE)).await?;
        }
    }

    /// The sessions that begin with these digits.
    pub(crate) fn named(&self, digits: &str) -> Vec<&SessionView> {
        if !is_id(digits) {
            return Vec::new();
        }
        let digits = digits.to_ascii_lowercase();
        self.sessions.iter().filter(|known| known.session_id.to_string().starts_with(&digits)).collect()
    }

    /// The one session that is meant.
    pub(crate) fn one(&self, text: &str) -> Result<&SessionView, Unclear<'_>> {
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

/// The path as sessions have it: a target need not exist, its parent does.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(real) = absolute.canonicalize() {
        return real;
    }
    match (absolute.parent().and_then(|parent| parent.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
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
    Several(Vec<&'a SessionView>),
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

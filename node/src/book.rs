//! The sessions on record, of both roles, as people and programs see them: what, with whom, how far, and what can still
//! be done about it. Reads the session store and the journals; changes nothing.

mod view;

use crate::staging::{SessionState, StateDir, StateError};
use crate::store::{Store, StoreError};

pub use self::view::{LiveView, SessionView, State};

/// The records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The journals.
    #[error(transparent)]
    State(#[from] StateError),
    /// The session store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything on record, in no order. Blocking.
///
/// # Errors
/// See [`BookError`].
pub fn read(state: &StateDir, store: &Store) -> Result<Vec<SessionView>, BookError> {
    Ok(join(store.imports()?, store.exports()?, state.sessions()?))
}

/// What can be told of imports while another process has the store.
///
/// # Errors
/// The journals cannot be read.
pub fn read_journals(state: &StateDir, live: Vec<LiveView>) -> Result<Vec<SessionView>, StateError> {
    let mut sessions: Vec<_> = live.into_iter().filter_map(SessionView::live).collect();
    for record in state.sessions()? {
        match sessions.iter_mut().find(|known| known.session_id == record.session) {
            Some(known) => {
                known.created_ms = Some(record.created_ms);
                known.add_journal(&record);
            }
            None => {
                let mut known = SessionView::journal(&record);
                if let SessionState::Receiving | SessionState::Verified = record.state {
                    let state = if known.code.is_some() { State::Failed } else { State::Interrupted };
                    known.set_state(state, true);
                }
                sessions.push(known);
            }
        }
    }
    Ok(sessions)
}

/// Unfinished ones first, then the newest.
pub fn sort(sessions: &mut [SessionView]) {
    sessions.sort_by_key(|known| (!known.unfinished, std::cmp::Reverse(known.created_ms.unwrap_or(0))));
}

pub(crate) fn join(
    imports: Vec<crate::store::ImportRecord>,
    exports: Vec<crate::store::ExportRecord>,
    journals: Vec<crate::staging::SessionRecord>,
) -> Vec<SessionView> {
    let mut sessions: Vec<_> = imports.into_iter().map(SessionView::import).collect();
    for record in journals {
        match sessions.iter_mut().find(|known| known.session_id == record.session) {
            Some(known) => {
                if !known.unfinished {
                    known.set_state(record.state.into(), false);
                }
                known.add_journal(&record);
            }
            None => sessions.push(SessionView::journal(&record)),
        }
    }
    sessions.extend(exports.into_iter().filter_map(SessionView::export));
    sessions
}

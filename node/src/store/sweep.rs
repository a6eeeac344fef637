//! What time takes away: tickets nobody used, sessions that stood still too long, and what is long over.

use std::time::Duration;

use me_sync_protocol::ids::{SessionId, TicketId};
use me_sync_protocol::reason::Code;

use crate::clock::is_session_expired;

use super::{ExportRecord, ImportRecord, LastSeen, SessionStatus, Store, StoreError};
use super::{put_export, put_import, remove_export, remove_import};

/// How long what is over stays on record for people to look at.
pub const KEEP_ENDED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a sweep did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Imports that ended for want of time; their staging trees can go.
    pub expired_imports: Vec<SessionId>,
    /// Exports whose session ended for want of time.
    pub expired_exports: Vec<TicketId>,
    /// Records that are gone: long over, or offers whose ticket expired unused.
    pub removed: u64,
}

impl Store {
    /// Ends what has expired by either clock, with the code `session_expired`, and removes what is long over.
    /// Sessions in `live` are at work in this process and are left alone, whatever the clocks say; so are imports
    /// that apply.
    ///
    /// # Errors
    /// Writing failed; nothing is changed.
    pub fn sweep(&self, now: &LastSeen, live: &[SessionId]) -> Result<Swept, StoreError> {
        let (imports, exports) = (self.imports()?, self.exports()?);
        let imports: Vec<_> = imports.into_iter().map(|record| (fate_of_import(&record, now, live), record)).collect();
        let exports: Vec<_> = exports.into_iter().map(|record| (fate_of_export(&record, now, live), record)).collect();
        let unchanged = imports.iter().map(|(fate, _)| fate).chain(exports.iter().map(|(fate, _)| fate));
        let mut swept = Swept::default();
        if unchanged.into_iter().all(|fate| *fate == Fate::Stays) {
            return Ok(swept);
        }
        self.write(|txn| {
            for (fate, mut record) in imports {
                match fate {
                    Fate::Stays => {}
                    Fate::Expires => {
                        (record.state, record.failed_code) = (SessionStatus::Ended, Some(Code::SessionExpired));
                        put_import(txn, &record)?;
                        swept.expired_imports.push(record.session);
                    }
                    Fate::Goes => {
                        remove_import(txn, record.session)?;
                        swept.removed += 1;
                    }
                }
            }
            for (fate, mut record) in exports {
                match fate {
                    Fate::Stays => {}
                    Fate::Expires => {
                        (record.state, record.failed_code) = (SessionStatus::Ended, Some(Code::SessionExpired));
                        put_export(txn, &record)?;
                        swept.expired_exports.push(record.ticket);
                    }
                    Fate::Goes => {
                        remove_export(txn, record.ticket)?;
                        swept.removed += 1;
                    }
                }
            }
            Ok(swept)
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Expires,
    Goes,
}

fn fate_of_import(record: &ImportRecord, now: &LastSeen, live: &[SessionId]) -> Fate {
    match record.state {
        _ if live.contains(&record.session) => Fate::Stays,
        SessionStatus::Finalizing => Fate::Stays,
        state => fate(state, &record.created, &record.last, now),
    }
}

fn fate_of_export(record: &ExportRecord, now: &LastSeen, live: &[SessionId]) -> Fate {
    match &record.grant {
        Some(grant) if live.contains(&grant.session) => Fate::Stays,
        Some(_) => fate(record.state, &record.created, &record.last, now),
        None if record.is_ticket_expired(now) => Fate::Goes,
        None => Fate::Stays,
    }
}

fn fate(state: SessionStatus, created: &LastSeen, last: &LastSeen, now: &LastSeen) -> Fate {
    if state.is_over() {
        return if last.idle(now) >= KEEP_ENDED { Fate::Goes } else { Fate::Stays };
    }
    if is_session_expired(created, last, now) { Fate::Expires } else { Fate::Stays }
}

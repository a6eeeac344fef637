//! The way of a browser in: a link that is good once and for a short time, and the session that it opens. Both are in memory
//! only, so neither outlives the node.
//!
//! ```text
//!  me-sync dashboard ─► api.sock: link ─► http://127.0.0.1:PORT/#login=KEY ─► page: login with KEY ─► token of the page
//! ```
//!
//! A session is a token that the page itself holds, for its tab and its origin, and no cookie: a cookie knows no ports, so
//! that what another user serves at another port of 127.0.0.1 would be sent it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use me_sync_protocol::ids::Moment;
use tokio_util::sync::CancellationToken;

use super::token::Token;
use crate::clock::{Clock, wall_ms};

/// How long a link is good if nobody says otherwise.
pub(super) const LINK_TIME: Duration = Duration::from_secs(120);
/// A session ends after so long without a request.
const IDLE: Duration = Duration::from_secs(12 * 3600);
/// And after so long in any case.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Links that wait, and sessions, at once: one more takes the place of the oldest.
const MOST: usize = 16;

#[derive(Debug)]
struct Link {
    key: Token,
    until: Moment,
}

#[derive(Debug)]
struct Session {
    token: Token,
    idle_until: Moment,
    until: Moment,
    end: CancellationToken,
}

/// The oldest first.
#[derive(Debug, Default)]
struct Table {
    links: VecDeque<Link>,
    sessions: VecDeque<Session>,
}

/// The session that a request belongs to. Cancelled when it is over.
#[derive(Debug, Clone)]
pub(crate) struct PageSession(pub(super) CancellationToken);

/// Links and sessions of one run of the node.
#[derive(Debug)]
pub(super) struct Logins {
    clock: Clock,
    /// Sessions end when this is cancelled.
    stop: CancellationToken,
    // held for a look or a change, never over a wait
    table: Mutex<Table>,
}

/// What was made, and until when it is good, in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) text: String,
    pub(super) expires_at: u64,
}

impl Logins {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { clock: Clock::start(), stop, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // nothing in here can be half done
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a new link.
    pub(super) fn link(&self, time: Duration) -> Made {
        made(self.table().link(self.clock.now(), time), time)
    }

    /// Uses a link up. False if there is none with this key.
    pub(super) fn redeem(&self, key: &[u8]) -> bool {
        self.table().redeem(self.clock.now(), key)
    }

    /// The token of a new session.
    pub(super) fn open(&self) -> Made {
        made(self.table().open(self.clock.now(), self.stop.child_token()), IDLE)
    }

    /// The session with this token, which goes on for longer by that.
    pub(super) fn session(&self, token: &[u8]) -> Option<PageSession> {
        self.table().session(self.clock.now(), token)
    }
}

fn made(text: String, time: Duration) -> Made {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Made { text, expires_at: wall_ms().saturating_add(millis) }
}

impl Table {
    fn link(&mut self, now: Moment, time: Duration) -> String {
        make_room(&mut self.links);
        let key = Token::random();
        let text = key.text().to_owned();
        self.links.push_back(Link { key, until: now.after(time) });
        text
    }

    fn redeem(&mut self, now: Moment, key: &[u8]) -> bool {
        self.links.retain(|link| now < link.until);
        let found = self.links.iter().position(|link| link.key.is(key));
        found.and_then(|at| self.links.remove(at)).is_some()
    }

    fn open(&mut self, now: Moment, end: CancellationToken) -> String {
        self.sweep(now);
        for old in make_room(&mut self.sessions) {
            old.end.cancel();
        }
        let token = Token::random();
        let text = token.text().to_owned();
        let (idle_until, until) = (now.after(IDLE), now.after(LONGEST));
        self.sessions.push_back(Session { token, idle_until, until, end });
        text
    }

    fn session(&mut self, now: Moment, token: &[u8]) -> Option<PageSession> {
        self.sweep(now);
        let found = self.sessions.iter_mut().find(|session| session.token.is(token))?;
        found.idle_until = now.after(IDLE);
        Some(PageSession(found.end.clone()))
    }

    /// Forgets sessions that are over, and ends their streams.
    fn sweep(&mut self, now: Moment) {
        self.sessions.retain(|session| {
            let is_good = now < session.idle_until && now < session.until && !session.end.is_cancelled();
            if !is_good {
                session.end.cancel();
            }
            is_good
        });
    }
}

/// Makes room for one more, and gives those that had to go.
fn make_room<T>(all: &mut VecDeque<T>) -> Vec<T> {
    all.drain(..all.len().saturating_sub(MOST - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    #[test]
    fn a_link_is_good_once_and_for_its_time() {
        let mut table = Table::default();
        let (one, other) = (table.link(at(0), LINK_TIME), table.link(at(0), LINK_TIME));
        assert_ne!(one, other);
        assert!(!table.redeem(at(1), b"nonsense") && !table.redeem(at(1), &one.as_bytes()[1..]));
        assert!(table.redeem(at(119), one.as_bytes()));
        assert!(!table.redeem(at(119), one.as_bytes()));
        assert!(!table.redeem(at(120), other.as_bytes()));
    }

    #[test]
    fn a_session_goes_on_while_it_is_used_and_ends_after_its_longest_time() {
        let mut table = Table::default();
        let token = table.open(at(0), CancellationToken::new());
        let hour = 3600;
        let held = table.session(at(hour), token.as_bytes()).unwrap();
        for day in 0..7 {
            for at_hour in [1, 11, 22] {
                assert!(table.session(at((24 * day + at_hour) * hour), token.as_bytes()).is_some(), "{day} {at_hour}");
            }
        }
        assert!(!held.0.is_cancelled());
        assert!(table.session(at(7 * 24 * hour), token.as_bytes()).is_none());
        assert!(held.0.is_cancelled());

        let idle = table.open(at(0), CancellationToken::new());
        assert!(table.session(at(12 * hour), idle.as_bytes()).is_none());
        assert!(table.session(at(1), idle.as_bytes()).is_none(), "once over, always over");
    }

    #[test]
    fn a_session_that_was_ended_is_none_and_one_too_many_ends_the_oldest() {
        let mut table = Table::default();
        let first = table.open(at(0), CancellationToken::new());
        let ended = table.open(at(0), CancellationToken::new());
        table.session(at(1), ended.as_bytes()).unwrap().0.cancel();
        assert!(table.session(at(1), ended.as_bytes()).is_none());
        let held = table.session(at(1), first.as_bytes()).unwrap();
        for _ in 0..MOST {
            table.open(at(1), CancellationToken::new());
            table.link(at(1), LINK_TIME);
        }
        assert!(held.0.is_cancelled() && table.session(at(1), first.as_bytes()).is_none());
        assert_eq!((table.sessions.len(), table.links.len()), (MOST, MOST));
    }

    #[test]
    fn nothing_of_it_is_printed() {
        let logins = Logins::new(CancellationToken::new());
        let (key, token) = (logins.link(LINK_TIME).text, logins.open().text);
        let shown = format!("{logins:?}");
        assert!(!shown.contains(&key) && !shown.contains(&token));
    }
}

//! The jobs of this run of the node: which there are, and their newest views with a version each. A task follows every
//! job and tells events and metrics of it. A job that ended stays for those who ask how, until others have ended since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use me_sync_protocol::ids::{SessionId, TicketId};
use tokio::sync::watch;

use super::events::Events;
use super::metrics::Metrics;
use super::schema::StatusResponse;
use crate::api::{JobHandle, JobView};
use crate::book::LiveView;
use crate::clock::wall_ms;

/// Ended jobs that are remembered.
const REMEMBERED: usize = 64;
/// Views that come faster are passed on as one.
const BREATH: Duration = Duration::from_millis(50);

/// A job's view, and how many there were before.
#[derive(Debug, Clone)]
struct Seen {
    version: u64,
    updated_ms: u64,
    view: JobView,
}

/// One job.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) handle: JobHandle,
    pub(super) path: PathBuf,
    /// The session that an offer will open.
    planned: Option<SessionId>,
    /// The ticket that an import is of.
    ticket: Option<TicketId>,
    seen: watch::Receiver<Seen>,
}

#[derive(Debug)]
pub(super) struct Jobs {
    // held for a look or an insertion, never over a wait
    entries: Mutex<BTreeMap<u64, Entry>>,
    /// Changes when one is taken in.
    newest: watch::Sender<u64>,
    pub(super) events: Events,
    pub(super) metrics: Metrics,
}

impl Entry {
    pub(super) fn id(&self) -> u64 {
        self.handle.id().number()
    }

    pub(super) fn is_over(&self) -> bool {
        // of the job itself: who has just ended it need not wait until that is passed on
        self.handle.watch().borrow().outcome.is_some()
    }

    /// It is over, and the tree is in place.
    pub(super) fn is_completed(&self) -> bool {
        matches!(self.handle.watch().borrow().outcome, Some(crate::Outcome::Completed(_)))
    }

    /// The session it works on, or will.
    pub(super) fn session(&self) -> Option<SessionId> {
        self.seen.borrow().view.session_id.or(self.planned)
    }

    pub(super) fn status(&self) -> StatusResponse {
        let seen = self.seen.borrow();
        let mut status =
            StatusResponse::of(self.id(), seen.version, self.path.clone(), seen.updated_ms, seen.view.clone());
        status.session_id = status.session_id.or(self.planned);
        status
    }

    /// Its status once it has a newer version than that, or when the time is over.
    pub(super) async fn status_after(&self, version: u64, wait: Duration) -> StatusResponse {
        let mut seen = self.seen.clone();
        tokio::time::timeout(wait, seen.wait_for(|seen| seen.version > version)).await.ok();
        self.status()
    }

    /// Waits until it has a session or has ended, at most for so long.
    pub(super) async fn begun(&self, wait: Duration) {
        let mut seen = self.seen.clone();
        let begun = seen.wait_for(|seen| seen.view.session_id.is_some() || seen.view.outcome.is_some());
        tokio::time::timeout(wait, begun).await.ok();
    }

    fn live(&self) -> LiveView {
        let seen = self.seen.borrow();
        let view = JobView { session_id: seen.view.session_id.or(self.planned), ..seen.view.clone() };
        LiveView {
            pid: std::process::id(),
            updated_ms: seen.updated_ms,
            path: self.path.clone(),
            skip_unreadable: None,
            skip_unsupported: None,
            view,
        }
    }
}

impl Jobs {
    pub(super) fn new() -> Arc<Self> {
        let newest = watch::Sender::default();
        Arc::new(Self { entries: Mutex::default(), newest, events: Events::new(), metrics: Metrics::new() })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        // nothing in here can be half done
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job in, and follows it to its end. An import has its ticket, an offer the session that it will open.
    pub(super) fn add(
        self: &Arc<Self>,
        handle: JobHandle,
        path: PathBuf,
        planned: Option<SessionId>,
        ticket: Option<TicketId>,
    ) -> Entry {
        let first = Seen { version: 1, updated_ms: wall_ms(), view: handle.view() };
        let (to, seen) = watch::channel(first);
        let entry = Entry { handle, path, planned, ticket, seen };
        {
            let mut entries = self.entries();
            entries.insert(entry.id(), entry.clone());
            let over: Vec<_> = entries.iter().filter(|(_, entry)| entry.is_over()).map(|(id, _)| *id).collect();
            for id in over.iter().take(over.len().saturating_sub(REMEMBERED)) {
                entries.remove(id);
            }
        }
        self.newest.send_replace(entry.id());
        tokio::spawn(follow(self.clone(), entry.clone(), to));
        entry
    }

    /// All that are remembered, the newest first.
    pub(super) fn all(&self) -> Vec<StatusResponse> {
        self.entries().values().rev().map(Entry::status).collect()
    }

    pub(super) fn get(&self, id: u64) -> Option<Entry> {
        self.entries().get(&id).cloned()
    }

    /// The newest job of that session, whether or not it is over.
    pub(super) fn of_session(&self, session: SessionId) -> Option<Entry> {
        self.entries().values().rev().find(|entry| entry.session() == Some(session)).cloned()
    }

    /// The import with that ticket into one of these places that is not over.
    pub(super) fn importing(&self, ticket: TicketId, places: &[&Path]) -> Option<Entry> {
        let is_it = |entry: &&Entry| entry.ticket == Some(ticket) && places.contains(&&*entry.path) && !entry.is_over();
        self.entries().values().rev().find(is_it).cloned()
    }

    /// The same, if it is taken in within this time.
    pub(super) async fn importing_soon(&self, ticket: TicketId, places: &[&Path], wait: Duration) -> Option<Entry> {
        let mut newest = self.newest.subscribe();
        let found = async {
            loop {
                if let Some(entry) = self.importing(ticket, places) {
                    return Some(entry);
                }
                newest.changed().await.ok()?;
            }
        };
        tokio::time::timeout(wait, found).await.ok().flatten()
    }

    /// The sessions that jobs work on now.
    pub(super) fn live(&self) -> Vec<LiveView> {
        self.entries().values().filter(|entry| !entry.is_over()).map(Entry::live).collect()
    }

    /// The sessions that jobs work on, or will.
    pub(super) fn at_work(&self) -> Vec<SessionId> {
        self.entries().values().filter(|entry| !entry.is_over()).filter_map(Entry::session).collect()
    }

    /// Every job that is not over, by role and phase.
    pub(super) fn phases(&self) -> Vec<(&'static str, &'static str)> {
        let entries = self.entries();
        let running = entries.values().filter(|entry| !entry.is_over());
        running
            .map(|entry| {
                let view = &entry.seen.borrow().view;
                (super::metrics::role(view.role), view.phase.as_str())
            })
            .collect()
    }
}

async fn follow(jobs: Arc<Jobs>, entry: Entry, to: watch::Sender<Seen>) {
    let mut views = entry.handle.watch();
    let mut before = None;
    loop {
        let view = views.borrow_and_update().clone();
        let is_over = tell(&jobs, &entry, &to, &mut before, view);
        if is_over {
            return;
        }
        if views.changed().await.is_err() {
            // the node is gone without a word on this job
            let outcome = Some(entry.handle.outcome().await);
            tell(&jobs, &entry, &to, &mut before, JobView { outcome, ..entry.handle.view() });
            return;
        }
        tokio::time::sleep(BREATH).await;
    }
}

/// Passes a view on. True if it is the last.
fn tell(jobs: &Jobs, entry: &Entry, to: &watch::Sender<Seen>, before: &mut Option<JobView>, view: JobView) -> bool {
    jobs.metrics.count(before.as_ref(), &view);
    let is_over = view.outcome.is_some();
    to.send_modify(|seen| {
        *seen = Seen { version: seen.version + 1, updated_ms: wall_ms(), view: view.clone() };
    });
    jobs.events.publish(entry, before.as_ref(), &view);
    *before = Some(view);
    is_over
}

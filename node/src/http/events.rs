//! Server-sent events: what changed, in a ring that all clients read from. A client keeps a place in it and nothing else, so
//! a slow one costs no memory: what it did not read in time it has missed, and its stream ends.
//!
//! An id is `RUN-NUMBER`. With `Last-Event-ID` a client goes on behind that event if the ring still has it; if not, the
//! first event is `reset`: what is known must be asked for again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::response::sse::Event;
use futures::Stream;
use futures::stream::unfold;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::jobs::Entry;
use super::metrics::EventClient;
use crate::api::{JobView, Outcome};
use crate::clock::wall_ms;

/// Events that are kept.
const KEPT: usize = 1024;
/// And bytes in them.
const KEPT_BYTES: usize = 1 << 20;
/// A job that only moves on is told of this often.
const EVERY: Duration = Duration::from_millis(500);
/// A client that hears nothing can tell a quiet node from a lost one.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Told {
    number: u64,
    name: &'static str,
    data: Arc<str>,
}

#[derive(Debug, Default)]
struct Ring {
    told: VecDeque<Told>,
    bytes: usize,
    newest: u64,
    /// When each job was told of last.
    last: std::collections::HashMap<u64, Instant>,
}

/// The events of one run.
#[derive(Debug, Clone)]
pub(super) struct Events {
    run: Arc<str>,
    // held to add or to copy one event
    ring: Arc<Mutex<Ring>>,
    newest: watch::Sender<u64>,
}

/// What an event says: enough for a progress bar, and where to ask for more.
#[derive(Debug, Serialize)]
struct Change<'a> {
    job_id: u64,
    session_id: Option<String>,
    role: &'static str,
    phase: &'static str,
    #[serde(flatten)]
    progress: &'a crate::api::ProgressView,
    eta_secs: Option<u64>,
    peer: Option<&'a crate::api::PeerSummary>,
    waiting: Option<&'a crate::api::WaitingView>,
    needs_decision: bool,
    failures_total: u64,
    spoken_code: Option<&'a str>,
    codes_burnt: u32,
    status: Option<&'static str>,
    code: Option<&'static str>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { run: format!("{:x}", wall_ms()).into(), ring: Arc::default(), newest: watch::Sender::new(0) }
    }

    /// Tells what is new of a job, unless that is little and was told a moment ago.
    pub(super) fn publish(&self, entry: &Entry, before: Option<&JobView>, view: &JobView) {
        let id = entry.id();
        let (name, status, code) = match &view.outcome {
            Some(Outcome::Completed(_)) => ("ended", Some("completed"), None),
            Some(Outcome::Failed { code, .. }) => ("ended", Some("failed"), Some(code.as_str())),
            // the code that was shown is good for nothing any more
            None if before.is_some_and(|before| before.codes_burnt != view.codes_burnt) => ("code", None, None),
            None => ("progress", None, None),
        };
        let changed = before.is_none_or(|before| {
            before.phase != view.phase
                || before.session_id != view.session_id
                || before.waiting.is_some() != view.waiting.is_some()
                || before.review.is_some() != view.review.is_some()
                || (before.codes_burnt, &before.spoken_code) != (view.codes_burnt, &view.spoken_code)
        });
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = ring.last.get(&id).is_none_or(|at| at.elapsed() >= EVERY);
        if !changed && !is_due && view.outcome.is_none() {
            return;
        }
        let change = Change {
            job_id: id,
            session_id: entry.session().map(|id| id.to_string()),
            role: super::metrics::role(view.role),
            phase: view.phase.as_str(),
            progress: &view.progress,
            eta_secs: view.progress.seconds_left(),
            peer: view.peer.as_ref(),
            waiting: view.waiting.as_ref(),
            needs_decision: view.review.is_some(),
            failures_total: view.failures_total,
            spoken_code: view.spoken_code.as_deref(),
            codes_burnt: view.codes_burnt,
            status,
            code,
        };
        let data = serde_json::to_string(&change).unwrap_or_default();
        match view.outcome {
            Some(_) => ring.last.remove(&id),
            None => ring.last.insert(id, Instant::now()),
        };
        ring.push(name, data.into());
        self.newest.send_replace(ring.newest);
    }

    /// The number of the newest event.
    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The events behind `after`, then those that come, until the client is too slow or the node stops.
    pub(super) fn stream(
        &self,
        after: Option<&str>,
        stop: CancellationToken,
        client: EventClient,
    ) -> impl Stream<Item = Result<Event, std::convert::Infallible>> + use<> {
        let (place, lost) = self.place(after);
        let reader = Reader { events: self.clone(), place, lost, news: self.newest.subscribe(), stop, _client: client };
        unfold(reader, async |mut reader| reader.next().await.map(|event| (Ok(event), reader)))
    }

    /// The last event that a client has, and whether it has missed any.
    fn place(&self, after: Option<&str>) -> (u64, bool) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(after) = after else { return (ring.newest, false) };
        let number = after.rsplit_once('-').filter(|(run, _)| *run == &*self.run);
        match number.and_then(|(_, number)| number.parse().ok()) {
            Some(number) if number <= ring.newest && number + 1 >= ring.oldest() => (number, false),
            _ => (ring.newest, true),
        }
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.told.front().map_or(self.newest + 1, |told| told.number)
    }

    fn push(&mut self, name: &'static str, data: Arc<str>) {
        self.newest += 1;
        self.bytes += data.len();
        self.told.push_back(Told { number: self.newest, name, data });
        while self.told.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(gone) = self.told.pop_front() else { break };
            self.bytes -= gone.data.len();
        }
    }
}

/// One client.
#[derive(Debug)]
struct Reader {
    events: Events,
    place: u64,
    lost: bool,
    news: watch::Receiver<u64>,
    stop: CancellationToken,
    _client: EventClient,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.lost) {
            return Some(Event::default().event("reset").id(self.events.id(self.place)).data("{}"));
        }
        let news = self.news.wait_for(|newest| *newest > self.place);
        tokio::select! {
            () = self.stop.cancelled() => return None,
            news = news => { news.ok()?; }
            () = tokio::time::sleep(ALIVE_EVERY) => return Some(Event::default().comment("alive")),
        }
        let ring = self.events.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // too slow: what comes next is gone
        let at = usize::try_from((self.place + 1).checked_sub(ring.oldest())?).ok()?;
        let told = ring.told.get(at)?;
        self.place = told.number;
        Some(Event::default().event(told.name).id(self.events.id(told.number)).data(&*told.data))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::super::metrics::Metrics;
    use super::*;

    fn events(count: usize) -> Events {
        let events = Events::new();
        add(&events, count);
        events
    }

    fn add(events: &Events, count: usize) {
        let mut ring = events.ring.lock().unwrap();
        for _ in 0..count {
            ring.push("progress", "{}".into());
        }
        events.newest.send_replace(ring.newest);
    }

    async fn read(events: &Events, after: Option<String>, most: usize) -> Vec<String> {
        let stop = CancellationToken::new();
        let stream = events.stream(after.as_deref(), stop.clone(), Metrics::new().event_client());
        let texts: Vec<_> = stream.take(most).map(|event| format!("{:?}", event.unwrap())).collect().await;
        texts
    }

    #[tokio::test]
    async fn a_client_that_comes_back_misses_nothing_and_hears_nothing_twice() {
        let events = events(20);
        let heard = read(&events, Some(events.id(12)), 8).await;
        for (at, number) in (13..=20).enumerate() {
            assert!(heard[at].contains(&format!("-{number}\\n")), "{heard:?}");
        }
    }

    #[tokio::test]
    async fn a_client_of_another_run_or_from_too_long_ago_is_told_to_ask_again() {
        let events = events(KEPT + 10);
        for after in ["1-5".to_owned(), events.id(3), events.id(99_999), "nonsense".to_owned()] {
            let heard = read(&events, Some(after.clone()), 1).await;
            assert!(heard[0].contains("reset"), "{after}: {heard:?}");
        }
        let heard = read(&events, Some(events.id(10)), 1).await;
        assert!(!heard[0].contains("reset"), "{heard:?}");
    }

    #[tokio::test]
    async fn a_client_that_is_too_slow_is_dropped_and_the_ring_stays_small() {
        let events = events(1);
        let stop = CancellationToken::new();
        let mut stream = Box::pin(events.stream(Some(&events.id(0)), stop, Metrics::new().event_client()));
        assert!(stream.next().await.is_some());
        add(&events, KEPT + 1);
        assert!(stream.next().await.is_none());
        let mut ring = events.ring.lock().unwrap();
        ring.push("progress", "x".repeat(KEPT_BYTES).into());
        assert_eq!(ring.told.len(), 1);
    }
}

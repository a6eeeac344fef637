//! One offer: a source, its ticket, and the session that redeems it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libp2p::PeerId;
use me_sync_protocol::exporter::{Exporter, Input, Output};
use me_sync_protocol::frame::{Role as StreamRole, StreamHello};
use me_sync_protocol::ids::{Moment, SessionId};
use me_sync_protocol::message::Granted;
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::Code;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::control::ControlLink;
use super::explain::Failure;
use super::{Event, JobEvent, Shared, control, streams, view};
use crate::api::{Completion, JobId, JobView, Outcome, PeerSummary, Role};
use crate::clock::RateMeter;
use crate::net::Connected;
use crate::source::{HashProgress, Snapshot, SourceError};
use crate::transfer::send_lane::{SendLane, WORK_QUEUE, WorkList};
use crate::transfer::{LaneEvent, LaneMeter, Reports};

/// The source of an offer.
#[derive(Debug)]
enum Source {
    Hashing,
    Ready(Arc<Snapshot>),
}

/// An offer and, once redeemed, its session.
#[derive(Debug)]
pub(super) struct ExportJob {
    id: JobId,
    pub(super) view: watch::Sender<JobView>,
    source: Source,
    hashing: Arc<HashProgress>,
    stop_hashing: Arc<AtomicBool>,
    /// When the ticket is void if no importer has come.
    expires: Moment,
    session: Option<Session>,
    rate: RateMeter,
    failure: Option<Failure>,
    is_over: bool,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    peer: PeerId,
    granted: Granted,
    core: Exporter,
    control: Option<ControlLink>,
    /// The session was heard of: its control stream is or was there.
    is_open: bool,
    lanes: Vec<mpsc::Sender<Arc<WorkList>>>,
    meter: Arc<LaneMeter>,
    moved_before: u64,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl ExportJob {
    pub(super) fn new(
        id: JobId,
        view: watch::Sender<JobView>,
        hashing: Arc<HashProgress>,
        stop_hashing: Arc<AtomicBool>,
        expires: Moment,
    ) -> Self {
        Self {
            id,
            view,
            source: Source::Hashing,
            hashing,
            stop_hashing,
            expires,
            session: None,
            rate: RateMeter::default(),
            failure: None,
            is_over: false,
        }
    }

    pub(super) fn session(&self) -> Option<(SessionId, PeerId)> {
        self.session.as_ref().map(|s| (s.id, s.peer))
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The ticket was redeemed for the first time.
    pub(super) fn granted(&mut self, peer: PeerId, from: Option<Connected>, granted: Granted, shared: &Shared) {
        let mut core = Exporter::new(shared.retry, shared.clock.now());
        if let Source::Ready(snapshot) = &self.source {
            // a fresh core has nothing to object to
            core.handle(shared.clock.now(), Input::ManifestReady(snapshot.manifest().clone())).ok();
        }
        let id = granted.session_id;
        self.view.send_modify(|view| {
            view.session_id = Some(id);
            view.peer = Some(PeerSummary {
                peer_id: peer.to_string(),
                address: from.as_ref().map(|f| f.address.to_string()),
                transport: from.as_ref().map(|f| f.transport.to_string()),
                device_name: from.map(|f| f.hello.device_name).unwrap_or_default(),
            });
        });
        tracing::info!(session = %id.short(), "ticket redeemed");
        self.session = Some(Session {
            id,
            peer,
            granted,
            core,
            control: None,
            is_open: false,
            lanes: Vec::new(),
            meter: Arc::default(),
            moved_before: 0,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        });
    }

    /// A control stream of the importer came in and is acknowledged.
    pub(super) fn opened(&mut self, link: ControlLink, shared: &Shared) {
        let Some(session) = &mut self.session else { return };
        session.control = Some(link);
        session.is_open = true;
        self.input(Input::Opened, shared);
    }

    /// May a control stream come in now?
    pub(super) fn takes_control(&self) -> bool {
        !self.is_over && self.session.as_ref().is_some_and(|s| !s.is_open)
    }

    pub(super) fn hashed(&mut self, result: Result<Arc<Snapshot>, SourceError>, shared: &Shared) {
        match result {
            Ok(snapshot) => {
                self.source = Source::Ready(snapshot.clone());
                self.input(Input::ManifestReady(snapshot.manifest().clone()), shared);
            }
            Err(e) => {
                let failure = Failure::described(e.code(), crate::errors::chain(&e), e.hint(), Role::Exporter);
                self.stop(failure, shared);
            }
        }
    }

    pub(super) fn lane(&mut self, event: LaneEvent, shared: &Shared) {
        match event {
            LaneEvent::Sent { files, bytes, failed } => self.input(Input::Sent { files, bytes, failed }, shared),
            LaneEvent::Closed => {
                // once everything is sent the importer may close its lanes
                if self.session.as_ref().is_some_and(|s| !s.core.is_finalizing()) {
                    self.input(Input::Lost, shared);
                }
            }
            LaneEvent::Files { .. } | LaneEvent::Violation(_) => {
                tracing::error!("a sending lane reported as if it received");
            }
        }
    }

    /// The control stream carried something that is no frame.
    pub(super) fn control_violation(&mut self, code: Code, shared: &Shared) {
        let violation = control::violation(code);
        let message = format!("the other device broke the protocol: {violation}");
        self.stop(Failure::described(code, message, None, Role::Exporter), shared);
    }

    /// Ends the offer for a reason of this side.
    pub(super) fn stop(&mut self, failure: Failure, shared: &Shared) {
        if self.is_over {
            return;
        }
        let code = failure.code;
        let unknown = self.session.as_ref().is_some_and(|s| s.core.is_finalizing());
        let failure = if unknown { self.explain(code) } else { failure };
        self.failure.get_or_insert(failure);
        match &self.session {
            Some(session) if session.is_open => self.input(Input::Stop(code), shared),
            _ => self.finish(Err(code), shared),
        }
    }

    pub(super) fn tick(&mut self, now: Moment, shared: &Shared) {
        if self.is_over {
            return;
        }
        let is_open = self.session.as_ref().is_some_and(|s| s.is_open);
        if !is_open && now >= self.expires {
            self.finish(Err(Code::SessionExpired), shared);
            return;
        }
        let hashing = self.hashing_counters();
        if let Some(session) = &mut self.session {
            let moved = session.meter.moved.load(Ordering::Relaxed);
            let bytes = moved - std::mem::replace(&mut session.moved_before, moved);
            let waiting_on_us = session.meter.waits_for_disk();
            if matches!(self.source, Source::Hashing) {
                self.input(Input::Hashing(hashing), shared);
            }
            self.input(Input::Moved { bytes, waiting_on_us }, shared);
        }
        self.refresh(now);
    }

    /// One input for the core; a violation is logged here, its abort is among the outputs.
    pub(super) fn input(&mut self, input: Input, shared: &Shared) {
        let Some(session) = &mut self.session else { return };
        if let Err(violation) = session.core.handle(shared.clock.now(), input) {
            tracing::warn!(session = %session.id.short(), code = %violation.code, "the importer broke the protocol: {violation}");
            let message = format!("the other device broke the protocol: {violation}");
            self.failure.get_or_insert(Failure::described(violation.code, message, None, Role::Exporter));
        }
        self.pump(shared);
    }

    /// Drains the core, as far as the control stream takes frames.
    pub(super) fn pump(&mut self, shared: &Shared) {
        loop {
            let Some(session) = &mut self.session else { return };
            if session.control.as_ref().is_some_and(|c| !c.has_room()) {
                return;
            }
            match session.core.poll_output() {
                Output::Send(frame) => {
                    if let Some(control) = &session.control {
                        control.send(frame);
                    }
                }
                Output::SendFiles(entries) => self.send_files(WorkList::new(entries), shared),
                Output::Over(outcome) => return self.finish(outcome, shared),
                Output::Idle(_) => return,
            }
        }
    }

    /// Hands a round to the lanes; the first round opens them.
    fn send_files(&mut self, work: Arc<WorkList>, shared: &Shared) {
        let (Some(session), Source::Ready(snapshot)) = (&mut self.session, &self.source) else { return };
        for number in 0..session.granted.lanes {
            if usize::from(number) == session.lanes.len() {
                let (queue, inbox) = mpsc::channel(WORK_QUEUE);
                session.lanes.push(queue);
                let lane = SendLane {
                    manifest: snapshot.manifest().clone(),
                    reader: snapshot.reader(),
                    chunk: session.granted.max_chunk as usize,
                    meter: session.meter.clone(),
                    stop: session.stop.clone(),
                    #[cfg(feature = "test-hooks")]
                    faults: shared.faults.resolve(snapshot.manifest()),
                };
                let (net, peer, stop) = (shared.net.clone(), session.peer, session.stop.clone());
                let hello = StreamHello { session_id: session.id, role: StreamRole::Lane(number) };
                let reports = Reports { job: self.id, to: shared.lanes.clone() };
                session.tasks.spawn(async move {
                    let opened = tokio::select! {
                        () = stop.cancelled() => return,
                        opened = streams::open(&net, peer, hello) => opened,
                    };
                    match opened {
                        Ok(stream) => lane.run(stream, inbox, reports).await,
                        Err(code) => {
                            tracing::debug!(%code, "a lane was not opened");
                            reports.send(LaneEvent::Closed).await;
                        }
                    }
                });
            }
            // rounds come one after the other: a lane that has not taken the last one is a lane that broke
            if let Some(lane) = session.lanes.get(usize::from(number))
                && lane.try_send(work.clone()).is_err()
            {
                tracing::debug!("a lane takes no more work");
            }
        }
    }

    fn finish(&mut self, outcome: Result<(), Code>, shared: &Shared) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.stop_hashing.store(true, Ordering::Relaxed);
        self.refresh(shared.clock.now());
        let outcome = match outcome {
            Ok(()) => Outcome::Completed(self.completion()),
            Err(code) => self.failure.take().unwrap_or_else(|| self.explain(code)).into_outcome(),
        };
        let (control, mut tasks) = match &mut self.session {
            Some(session) => {
                session.stop.cancel();
                session.lanes.clear();
                (session.control.take().map(ControlLink::close), std::mem::take(&mut session.tasks))
            }
            None => (None, JoinSet::new()),
        };
        let (events, id) = (shared.events.clone(), self.id);
        tokio::spawn(async move {
            if let Some(control) = control {
                control.await.ok();
            }
            while tasks.join_next().await.is_some() {}
            events.send(Event::Job(id, JobEvent::Finished(Box::new(outcome)))).await.ok();
        });
    }

    fn explain(&self, code: Code) -> Failure {
        let unknown = self.session.as_ref().is_some_and(|s| s.core.is_finalizing());
        match code {
            Code::PeerGone | Code::Timeout if unknown => Failure {
                code,
                message: "the connection was lost while the other device was applying the tree".to_owned(),
                hint: "look there whether it finished; this device's tree is as it was".to_owned(),
            },
            // 5.7-4: an importer that applies goes on without us
            Code::Aborted | Code::NodeStopping if unknown => Failure {
                code,
                message: "stopped while the other device was applying the tree, which it may finish".to_owned(),
                hint: "look there whether it did; this device's tree is as it was".to_owned(),
            },
            Code::RetryExhausted => {
                let causes = self.session.iter().flat_map(|s| s.core.failures()).map(|(_, code)| Some(code));
                Failure::exhausted(causes, Role::Exporter)
            }
            _ => Failure::of(code, Role::Exporter),
        }
    }

    fn completion(&self) -> Completion {
        let Source::Ready(snapshot) = &self.source else { return Completion::nothing() };
        let manifest = snapshot.manifest();
        let notes = view::skipped_notes(snapshot.skipped());
        Completion { notes, ..Completion::of(manifest) }
    }

    fn hashing_counters(&self) -> Counters {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        Counters {
            files_ok: load(&self.hashing.files_done),
            files_total: load(&self.hashing.files_total),
            bytes_done: load(&self.hashing.bytes_done),
            bytes_total: load(&self.hashing.bytes_total),
            ..Counters::default()
        }
    }

    /// Brings the view up to date.
    fn refresh(&mut self, now: Moment) {
        let hashing = matches!(self.source, Source::Hashing);
        let phase = self.session.as_ref().map_or(Phase::NearbyConnecting, |s| s.core.phase());
        let counters = match &self.session {
            Some(session) if !hashing => session.core.counters(),
            _ => self.hashing_counters(),
        };
        let moved = self.session.as_ref().map_or(0, |s| s.meter.moved.load(Ordering::Relaxed));
        let detail = match (phase, hashing, self.session.is_some()) {
            (_, true, _) => "reading and hashing the source",
            (Phase::NearbyConnecting, _, false) => "waiting for the other device",
            (Phase::ManifestReceiving, ..) => "waiting for the other device to agree",
            _ => view::detail(phase),
        };
        let bps = self.rate.sample(now, if hashing { counters.bytes_done } else { moved });
        let mut failures: Vec<_> = Vec::new();
        let mut failed = 0;
        if let (Some(session), Source::Ready(snapshot)) = (&self.session, &self.source) {
            for (index, code) in session.core.failures() {
                failed += 1;
                if failures.len() < view::MAX_FAILURES {
                    failures.push(view::failure(snapshot.manifest(), index, "io_error", Some(code)));
                }
            }
        }
        self.view.send_if_modified(|view| {
            let mut next = view.clone();
            next.phase = phase;
            next.progress = view::progress(counters, 0, bps, detail);
            next.failures = failures;
            next.failures_total = failed;
            let changed = next != *view;
            *view = next;
            changed
        });
    }
}

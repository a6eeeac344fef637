//! One import: a pinned target, the session that fills it, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libp2p::PeerId;
use me_sync_protocol::file::LaneReceiver;
use me_sync_protocol::ids::{EntryIndex, Moment, SessionId};
use me_sync_protocol::importer::{Importer, Input, Output, ReadyToApply};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::message::Granted;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::connect::Established;
use super::control::ControlLink;
use super::explain::Failure;
use super::{Event, JobEvent, Shared, control, streams, view};
use crate::api::{Completion, JobId, JobView, OldTreeSummary, Outcome, Review, Role};
use crate::clock::RateMeter;
use crate::link::FrameReader;
use crate::staging::{self, ApplyError, SealError, SessionInfo, StageError, Staging, Target, TargetFacts};
use crate::transfer::recv_lane::RecvLane;
use crate::transfer::{LaneEvent, LaneMeter, Reports};

/// Names of the top of the incoming tree that a review shows.
const TOP_NAMES: usize = 10;

/// What the target said to the manifest.
pub(super) type Checked = Result<(Target, TargetFacts, staging::OldTree), Failure>;

/// One import.
#[derive(Debug)]
pub(super) struct ImportJob {
    id: JobId,
    pub(super) view: watch::Sender<JobView>,
    ask: bool,
    /// Ours until staging takes it over.
    target: Option<Target>,
    session: Option<Session>,
    /// The session and its peer, kept after the end.
    party: Option<(SessionId, PeerId)>,
    staging: Option<Staging>,
    /// The staging tree is being made, off this thread: the end waits for it, so that it can be removed.
    is_staging: bool,
    /// The end that waits.
    ending: Option<Outcome>,
    completion: Option<Completion>,
    codes: BTreeMap<EntryIndex, Code>,
    /// The person's last word while the staged tree is being verified.
    stop_apply: Arc<AtomicBool>,
    rate: RateMeter,
    failure: Option<Failure>,
    connecting: CancellationToken,
    /// Connects and redeems; ends by itself, soon after it is stopped.
    route: Option<JoinHandle<()>>,
    is_over: bool,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    peer: PeerId,
    peer_name: String,
    granted: Granted,
    core: Importer,
    control: ControlLink,
    manifest: Option<Arc<Manifest>>,
    lanes_open: u8,
    meter: Arc<LaneMeter>,
    moved_before: u64,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl ImportJob {
    pub(super) fn new(
        id: JobId,
        view: watch::Sender<JobView>,
        ask: bool,
        target: Target,
        connecting: CancellationToken,
        route: JoinHandle<()>,
    ) -> Self {
        Self {
            id,
            view,
            ask,
            target: Some(target),
            session: None,
            party: None,
            staging: None,
            is_staging: false,
            ending: None,
            completion: None,
            codes: BTreeMap::new(),
            stop_apply: Arc::default(),
            rate: RateMeter::default(),
            failure: None,
            connecting,
            route: Some(route),
            is_over: false,
        }
    }

    pub(super) fn session(&self) -> Option<(SessionId, PeerId)> {
        self.party
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn established(&mut self, result: Result<Established, Failure>, shared: &Shared) {
        let established = match result {
            Ok(established) if !self.is_over => established,
            Ok(_) => return,
            Err(failure) => return self.stop(failure, shared),
        };
        let Established { peer, summary, granted, control } = established;
        let id = granted.session_id;
        tracing::info!(session = %id.short(), "session granted");
        let peer_name = summary.device_name.clone();
        self.view.send_modify(|view| {
            view.session_id = Some(id);
            view.peer = Some(summary);
            view.source_name = Some(granted.source_name.clone());
        });
        self.party = Some((id, peer));
        self.session = Some(Session {
            id,
            peer,
            peer_name,
            granted,
            core: Importer::new(shared.retry, shared.clock.now()),
            control: ControlLink::spawn(self.id, control, shared.events.clone()),
            manifest: None,
            lanes_open: 0,
            meter: Arc::default(),
            moved_before: 0,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        });
        self.refresh(shared.clock.now());
    }

    /// May lane `number` come in now?
    pub(super) fn takes_lane(&self, number: u8) -> bool {
        self.staging.is_some()
            && self
                .session
                .as_ref()
                .is_some_and(|s| number < s.granted.lanes && s.lanes_open & (1 << number) == 0 && !s.core.is_applying())
    }

    /// Lane `number` came in; it is acknowledged and served by an actor of its own.
    pub(super) fn lane_opened(&mut self, number: u8, mut stream: libp2p::Stream, shared: &Shared) {
        let (Some(session), Some(staging)) = (&mut self.session, &self.staging) else { return };
        let Some(manifest) = session.manifest.clone() else { return };
        session.lanes_open |= 1 << number;
        let lane = RecvLane {
            receiver: LaneReceiver::new(manifest, session.core.requested().clone(), session.granted.max_chunk),
            writer: staging.writer(),
            meter: session.meter.clone(),
            stop: session.stop.clone(),
        };
        let reports = Reports { job: self.id, to: shared.lanes.clone() };
        let moved = session.meter.moved.clone();
        session.tasks.spawn(async move {
            if streams::accept(&mut stream).await.is_ok() {
                lane.run(FrameReader::new(stream, moved), reports).await;
            } else {
                reports.send(LaneEvent::Closed).await;
            }
        });
    }

    pub(super) fn lane(&mut self, event: LaneEvent, shared: &Shared) {
        match event {
            LaneEvent::Files { reports, codes } => {
                self.codes.extend(codes);
                self.input(Input::Files(reports), shared);
            }
            LaneEvent::Violation(violation) => self.input(Input::LaneViolation(violation), shared),
            LaneEvent::Closed => {
                // the exporter closes its lanes once everything is sent
                let in_bulk = self.session.as_ref().map(|s| s.core.phase());
                if matches!(in_bulk, Some(Phase::BulkTransferring | Phase::RetryingFailed)) {
                    self.input(Input::Lost, shared);
                }
            }
            LaneEvent::Sent { .. } => tracing::error!("a receiving lane reported as if it sent"),
        }
    }

    pub(super) fn control_violation(&mut self, code: Code, shared: &Shared) {
        self.input(Input::LaneViolation(control::violation(code)), shared);
    }

    /// The target looked at the manifest.
    pub(super) fn checked(&mut self, result: Checked, source_name: String, shared: &Shared) {
        if self.is_over {
            return;
        }
        match result {
            Err(failure) => self.stop(failure, shared),
            Ok((target, facts, old)) => {
                let summary = OldTreeSummary { files: old.files, bytes: old.bytes, is_partial: !old.complete };
                // a target that cannot be looked into is not taken for empty
                let replaces = (!target.is_empty().unwrap_or(false)).then_some(summary);
                let ask = self.ask && replaces.is_some();
                let review = self.review(&target, facts, replaces, source_name);
                self.target = Some(target);
                if ask {
                    self.view.send_modify(|view| view.review = review);
                } else {
                    self.stage(shared);
                }
            }
        }
    }

    /// The person decided.
    pub(super) fn decide(&mut self, agreed: bool, shared: &Shared) {
        if self.view.borrow().review.is_none() {
            return;
        }
        self.view.send_modify(|view| view.review = None);
        if agreed {
            self.stage(shared);
        } else {
            self.stop(Failure::of(Code::Declined, Role::Importer), shared);
        }
    }

    pub(super) fn staged(&mut self, result: Result<Staging, StageError>, shared: &Shared) {
        self.is_staging = false;
        match result {
            Ok(staging) => {
                self.staging = Some(staging);
                self.input(Input::Accept, shared);
            }
            Err(e) => self.stop(described(e.code(), &e), shared),
        }
        // the session ended while the directories were made
        if let Some(outcome) = self.ending.take() {
            self.wind_up(outcome, shared);
        }
    }

    pub(super) fn swapping(&mut self, shared: &Shared) {
        self.input(Input::Swapping, shared);
    }

    pub(super) fn applied(&mut self, result: Result<Completion, Failure>, shared: &Shared) {
        let verdict = match result {
            Ok(completion) => {
                self.completion = Some(completion);
                Ok(())
            }
            Err(failure) => {
                let code = failure.code;
                self.failure.get_or_insert(failure);
                Err(code)
            }
        };
        self.input(Input::Applied(verdict), shared);
    }

    /// Ends the import for a reason of this side, unless the swap has begun.
    pub(super) fn stop(&mut self, failure: Failure, shared: &Shared) {
        if self.is_over {
            return;
        }
        self.connecting.cancel();
        let code = failure.code;
        match &self.session {
            None => {
                self.failure.get_or_insert(failure);
                self.finish(Err(code), shared);
            }
            Some(session) if session.core.is_applying() => self.stop_apply.store(true, Ordering::Release),
            Some(_) => {
                self.failure.get_or_insert(failure);
                self.input(Input::Stop(code), shared);
            }
        }
    }

    pub(super) fn tick(&mut self, now: Moment, shared: &Shared) {
        if self.is_over {
            return;
        }
        if let Some(session) = &mut self.session {
            let moved = session.meter.moved.load(Ordering::Relaxed);
            let bytes = moved - std::mem::replace(&mut session.moved_before, moved);
            let waiting_on_us = session.meter.waits_for_disk();
            self.input(Input::Moved { bytes, waiting_on_us }, shared);
        }
        self.refresh(now);
    }

    /// One input for the core; a violation is logged here, its abort is among the outputs.
    pub(super) fn input(&mut self, input: Input, shared: &Shared) {
        let Some(session) = &mut self.session else { return };
        if let Err(violation) = session.core.handle(shared.clock.now(), input) {
            let detail = session.core.manifest_error().map_or_else(|| violation.to_string(), ToString::to_string);
            tracing::warn!(session = %session.id.short(), code = %violation.code, "the exporter broke the protocol: {detail}");
            let message = format!("the other device broke the protocol: {detail}");
            self.failure.get_or_insert(Failure::described(violation.code, message, None, Role::Importer));
        }
        self.pump(shared);
    }

    /// Drains the core, as far as the control stream takes frames.
    pub(super) fn pump(&mut self, shared: &Shared) {
        loop {
            let Some(session) = &mut self.session else { return };
            if !session.control.has_room() {
                return;
            }
            match session.core.poll_output() {
                Output::Send(frame) => session.control.send(frame),
                Output::Review(manifest) => {
                    session.manifest = Some(manifest.clone());
                    self.check_target(manifest, shared);
                }
                Output::Apply(proof) => self.apply(proof, shared),
                Output::Over(outcome) => return self.finish(outcome, shared),
                Output::Idle(_) => return,
            }
        }
    }

    fn check_target(&mut self, manifest: Arc<Manifest>, shared: &Shared) {
        let Some(target) = self.target.take() else { return };
        let source_name = self.session.as_ref().map_or_else(String::new, |s| s.granted.source_name.clone());
        let (events, id) = (shared.events.clone(), self.id);
        tokio::task::spawn_blocking(move || {
            let checked = match target.check_manifest(&manifest) {
                Ok(facts) => {
                    let old = target.old_tree();
                    Ok((target, facts, old))
                }
                Err(e) => Err(described(e.code(), &e)),
            };
            // a coordinator that is gone does not need the news
            events.blocking_send(Event::Job(id, JobEvent::Checked(Box::new(checked), source_name))).ok();
        });
    }

    fn review(
        &self,
        target: &Target,
        facts: TargetFacts,
        replaces: Option<OldTreeSummary>,
        source_name: String,
    ) -> Option<Review> {
        let manifest = self.session.as_ref()?.manifest.clone()?;
        let counts = manifest.counts();
        let top = manifest.entries().map(|(_, e)| e.path).filter(|p| p.parent().is_none());
        Some(Review {
            source_name,
            files: u64::from(counts.files),
            dirs: u64::from(counts.dirs),
            symlinks: u64::from(counts.symlinks),
            bytes: manifest.total_bytes(),
            top_names: top.take(TOP_NAMES).map(|p| p.as_str().to_owned()).collect(),
            target: target.path().to_owned(),
            replaces,
            keep_for: staging::KEEP_OLD,
            warnings: facts.warnings,
        })
    }

    /// Makes the staging tree, off the coordinator's thread.
    fn stage(&mut self, shared: &Shared) {
        let (Some(target), Some(session)) = (self.target.take(), &self.session) else { return };
        let Some(manifest) = session.manifest.clone() else { return };
        let info = SessionInfo {
            peer_name: session.peer_name.clone(),
            peer_id: session.peer.to_string(),
            keep_old: staging::KEEP_OLD,
        };
        self.is_staging = true;
        let (state, session) = (shared.state.clone(), session.id);
        let (events, id) = (shared.events.clone(), self.id);
        tokio::task::spawn_blocking(move || {
            let staged = Staging::create(target, manifest, session, &state, info);
            if let Err(tokio::sync::mpsc::error::SendError(Event::Job(_, JobEvent::Staged(staged)))) =
                events.blocking_send(Event::Job(id, JobEvent::Staged(Box::new(staged))))
                && let Ok(staging) = *staged
            {
                discard(staging, Code::NodeStopping);
            }
        });
    }

    /// Verifies and swaps, off the coordinator's thread.
    fn apply(&mut self, proof: ReadyToApply, shared: &Shared) {
        let (Some(staging), Some(session)) = (self.staging.take(), &mut self.session) else { return };
        session.stop.cancel();
        let mut lanes = std::mem::take(&mut session.tasks);
        let manifest = session.manifest.clone();
        let stop = self.stop_apply.clone();
        let (events, id) = (shared.events.clone(), self.id);
        tokio::spawn(async move {
            // no lane may hold a file open when the tree is verified
            while lanes.join_next().await.is_some() {}
            let done = events.clone();
            let work = move || verify_and_swap(staging, proof, manifest.as_deref(), &stop, id, &events);
            let result = tokio::task::spawn_blocking(work).await;
            let result = result.unwrap_or_else(|_| Err(described(Code::DurabilityUnknown, &ApplyError::Thread)));
            done.send(Event::Job(id, JobEvent::Applied(Box::new(result)))).await.ok();
        });
    }

    fn finish(&mut self, outcome: Result<(), Code>, shared: &Shared) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.refresh(shared.clock.now());
        self.view.send_modify(|view| view.review = None);
        let outcome = match outcome {
            Ok(()) => Outcome::Completed(self.completion.take().unwrap_or_else(Completion::nothing)),
            Err(code) => self.failure.take().unwrap_or_else(|| self.explain(code)).into_outcome(),
        };
        if let Some(session) = &self.session {
            session.stop.cancel();
        }
        if self.is_staging {
            self.ending = Some(outcome);
        } else {
            self.wind_up(outcome, shared);
        }
    }

    /// Lets everything go, then reports the end: nothing of a failed session is left when people hear of it.
    fn wind_up(&mut self, outcome: Outcome, shared: &Shared) {
        let code = match &outcome {
            Outcome::Failed { code, .. } => *code,
            Outcome::Completed(_) => Code::Aborted,
        };
        let (control, mut tasks) = match self.session.take() {
            Some(session) => {
                session.stop.cancel();
                (Some(session.control.close()), session.tasks)
            }
            None => (None, JoinSet::new()),
        };
        let (staging, target, route) = (self.staging.take(), self.target.take(), self.route.take());
        let (events, id) = (shared.events.clone(), self.id);
        tokio::spawn(async move {
            if let Some(route) = route {
                route.await.ok();
            }
            if let Some(control) = control {
                control.await.ok();
            }
            // lanes first: they hold files of the staging tree open
            while tasks.join_next().await.is_some() {}
            let cleaned = tokio::task::spawn_blocking(move || {
                drop(target);
                if let Some(staging) = staging {
                    discard(staging, code);
                }
            });
            if let Err(e) = cleaned.await {
                tracing::error!(error = %e, "cleaning up after a session failed");
            }
            events.send(Event::Job(id, JobEvent::Finished(Box::new(outcome)))).await.ok();
        });
    }

    fn explain(&self, code: Code) -> Failure {
        match (code, &self.session) {
            (Code::RetryExhausted, Some(session)) => {
                let failing = session.core.failures().into_iter();
                let causes =
                    failing.map(|(index, reason)| Some(self.codes.get(&index).copied().unwrap_or(reason.into())));
                Failure::exhausted(causes, Role::Importer)
            }
            _ => Failure::of(code, Role::Importer),
        }
    }

    /// Brings the view up to date.
    fn refresh(&mut self, now: Moment) {
        let Some(session) = &self.session else { return };
        let core = &session.core;
        let in_flight = session.meter.in_flight.load(Ordering::Relaxed);
        let moved = session.meter.moved.load(Ordering::Relaxed);
        let phase = core.phase();
        let bps = self.rate.sample(now, moved);
        let exporter = core.peer_progress().filter(|_| session.manifest.is_none());
        let next = match exporter {
            // nothing is here yet; how far the other side is with its hashing is what there is to show
            Some(peer) if peer.phase == Phase::ManifestReceiving => {
                view::progress(peer.counters, 0, 0, "the other device reads and hashes its files")
            }
            _ if phase == Phase::ManifestReceiving && session.manifest.is_some() => {
                view::progress(core.counters(), 0, 0, "waiting for your answer")
            }
            _ => view::progress(core.counters(), in_flight, bps, view::detail(phase)),
        };
        let failing = core.failures();
        let failures: Vec<_> = match &session.manifest {
            Some(manifest) => failing
                .iter()
                .take(view::MAX_FAILURES)
                .map(|(index, reason)| view::failure(manifest, *index, reason.as_str(), self.codes.get(index).copied()))
                .collect(),
            None => Vec::new(),
        };
        self.view.send_if_modified(|view| {
            let mut updated = view.clone();
            updated.phase = phase;
            updated.progress = next;
            if phase != Phase::Failed || !failures.is_empty() {
                updated.failures = failures;
                updated.failures_total = failing.len() as u64;
            }
            let changed = updated != *view;
            *view = updated;
            changed
        });
    }
}

fn verify_and_swap(
    staging: Staging,
    proof: ReadyToApply,
    manifest: Option<&Manifest>,
    stop: &Arc<AtomicBool>,
    job: JobId,
    events: &tokio::sync::mpsc::Sender<Event>,
) -> Result<Completion, Failure> {
    let sealed = staging.seal(&mut |_| {}).map_err(|e| {
        let failure = described(e.code(), &e);
        if let SealError::Unstaged { staging, error, .. } = e {
            discard(*staging, error.code());
        }
        failure
    })?;
    if stop.load(Ordering::Acquire) {
        sealed.discard_because(Code::Aborted).map_err(|e| described(e.code(), &e))?;
        return Err(Failure::of(Code::Aborted, Role::Importer));
    }
    events.blocking_send(Event::Job(job, JobEvent::Swapping)).ok();
    let mut hooks = LastChance(stop.clone());
    let swapped = staging::on_apply_thread(move || sealed.apply(proof, &mut hooks));
    let mut applied = swapped.map_err(|e| described(e.code(), &e))?;
    if let Err(e) = applied.commit() {
        // the next start records it; the tree is in place all the same
        tracing::warn!(error = %crate::errors::chain(&e), "the end of the swap is not recorded yet");
    }
    let mut notes = Vec::new();
    if applied.target_changed {
        notes.push("the target was edited during the transfer; the edits are in the kept old tree".to_owned());
    }
    if applied.two_renames {
        notes.push("this file system cannot exchange directories: the target was absent for a moment".to_owned());
    }
    if applied.modes.world_writable > 0 {
        let n = applied.modes.world_writable;
        notes.push(format!(
            "{n} entries were writable by everybody at the source and are not here (--keep-world-writable keeps that)"
        ));
    }
    if applied.modes.special > 0 {
        let n = applied.modes.special;
        notes.push(format!("{n} entries lost their setuid, setgid or sticky bit"));
    }
    Ok(Completion {
        target: Some(applied.target.clone()),
        retained: applied.retained.clone(),
        retained_until_ms: applied.retained.is_some().then_some(applied.keep_until_ms),
        notes,
        ..manifest.map_or_else(Completion::nothing, Completion::of)
    })
}

/// Lets an abort win until the last moment before the trees change places.
struct LastChance(Arc<AtomicBool>);

impl staging::ApplyHooks for LastChance {
    fn proceed(&mut self) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}

fn described(code: Code, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::described(code, crate::errors::chain(error), None, Role::Importer)
}

fn discard(staging: Staging, code: Code) {
    let path = staging.path();
    if let Err(e) = staging.discard_because(code) {
        tracing::warn!(path = %path.display(), error = %crate::errors::chain(&e), "staging is not gone yet; the next start removes it");
    }
}

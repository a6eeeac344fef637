//! One import: a pinned target, the session that fills it through however many connections, and its end.
//!
//! Owns the importer's core, the staging tree and the session's record. A lost connection is no end: the lanes
//! finish what they have, then the job dials again with growing pauses until the session's time is over. Stopped
//! by a person or by the node's end, the session stays on disk and a later job goes on with it.

mod adopt;
mod apply;
mod command;
mod link;
mod record;
mod stage;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use libp2p::PeerId;
use me_sync_protocol::ids::{EntryIndex, Moment, SessionId};
use me_sync_protocol::importer::{Importer, Input, Output};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::link::Link;
use self::stage::Checkpoints;
use super::connect::Route;
use super::explain::Failure;
use super::{Shared, expired_while_up, view};
use crate::api::{Completion, Consent, JobId, JobView, Outcome, PeerSummary, Role};
use crate::clock::{LastSeen, RateMeter};
use crate::limit::Throttle;
use crate::post_apply::PostApply;
use crate::staging::{Staging, Target, TargetOptions};
use crate::store::ImportRecord;
use crate::transfer::LaneMeter;

pub(super) use self::adopt::Adopted;
pub(super) use self::apply::{LastWord, Obstacle, Swap, Word, verify_and_swap};
pub(super) use self::command::Checker;
pub(super) use self::stage::{Checked, Opened, Staged, described, discard};

/// How often a session that is at work is noted to be alive.
const TOUCH: Duration = Duration::from_secs(60);

/// One import.
#[derive(Debug)]
pub(super) struct ImportJob {
    id: JobId,
    pub(super) view: watch::Sender<JobView>,
    consent: Consent,
    /// An outline is taken: nothing is here that hashes could spare, and no session was granted yet.
    late_hashes: bool,
    ticket: Ticket,
    route: Route,
    options: TargetOptions,
    throttle: Throttle,
    /// Runs after the swap, and its failure undoes that.
    post_apply: Option<PostApply>,
    /// Ours until staging takes it over.
    target: Option<Target>,
    session: Option<Session>,
    /// The session and its peer, kept after the end.
    party: Option<(SessionId, PeerId)>,
    record: Option<ImportRecord>,
    staging: Option<Staging>,
    /// The staging tree is being made or opened, off this thread: the end waits for it.
    is_staging: bool,
    /// The manifest that seals the outline of the staging tree, once it is ready, and what is lost by that.
    adoption: Option<(Arc<Manifest>, Vec<EntryIndex>)>,
    /// The staging tree is of an earlier process and has an outline: nobody knows yet what of it is right.
    is_cold: bool,
    /// The end that waits.
    ending: Option<(Outcome, Left)>,
    /// Stops what works on the staging tree off this thread.
    stop_staging: Arc<AtomicBool>,
    /// Bytes that were found or copied on this device.
    local_bytes: Arc<AtomicU64>,
    reused: (u64, u64),
    checkpoints: Checkpoints,
    completion: Option<Completion>,
    details: BTreeMap<EntryIndex, Detail>,
    last_word: LastWord,
    rate: RateMeter,
    failure: Option<Failure>,
    /// What failed is on this device and can be mended: the session stays, whatever its code.
    keeps: bool,
    /// After the swap the old tree could not be brought back.
    is_stuck: bool,
    /// Connects; ends by itself, soon after it is stopped.
    dialling: Option<(CancellationToken, JoinHandle<()>)>,
    /// Another session is to take this one's place, once nothing works on the staging tree any more.
    superseding: bool,
    /// The ticket is being redeemed for the session that takes the place of this one.
    redeeming: bool,
    /// The session ended by the exporter's word: it need not be told.
    told_by_peer: bool,
    is_over: bool,
}

/// What becomes of the staging tree and the record at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The tree is in place.
    Applied,
    /// Everything stays for a later job.
    Kept,
    /// Everything stays, and the record says why it failed.
    Failed(Code),
    /// Nothing stays but a line of history.
    Nothing(Code),
}

/// What is known of a failing file beyond the reason on the wire.
#[derive(Debug, Clone, Copy)]
struct Detail {
    code: Code,
    os_error: Option<i32>,
    attempts: u32,
    /// Not reported yet: it belongs to the next report of this file.
    is_new: bool,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    peer: PeerId,
    core: Importer,
    link: Link,
    /// Counts control streams, so that late news of an old one is known as such.
    conversation: u32,
    lanes: u8,
    max_chunk: u32,
    /// Packed chunks were agreed on.
    zstd: bool,
    /// Holes were.
    holes: bool,
    manifest: Option<Arc<Manifest>>,
    meter: Arc<LaneMeter>,
    moved_before: u64,
}

/// What an import starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) consent: Consent,
    /// An outline is taken.
    pub(super) late_hashes: bool,
    pub(super) ticket: Ticket,
    pub(super) route: Route,
    pub(super) options: TargetOptions,
    pub(super) throttle: Throttle,
    pub(super) post_apply: Option<PostApply>,
}

impl ImportJob {
    /// A new import: connects and redeems.
    pub(super) fn start(
        id: JobId,
        view: watch::Sender<JobView>,
        start: Start,
        target: Target,
        shared: &Shared,
    ) -> Self {
        let mut job = Self::new(id, view, start);
        job.target = Some(target);
        job.dial_first(shared);
        job
    }

    /// Goes on with a session of an earlier process: opens what is staged, then connects and resumes.
    pub(super) fn resume(
        id: JobId,
        view: watch::Sender<JobView>,
        start: Start,
        record: ImportRecord,
        shared: &Shared,
    ) -> Self {
        let mut job = Self::new(id, view, start);
        job.party = Some((record.session, job.route.peer));
        job.view.send_modify(|view| {
            view.peer = Some(PeerSummary {
                peer_id: record.peer.to_string(),
                device_name: record.peer_name.clone(),
                address: None,
                transport: None,
            });
        });
        job.record = Some(record);
        job.open_staging(shared);
        job.refresh(shared.clock.now());
        job
    }

    fn new(id: JobId, view: watch::Sender<JobView>, start: Start) -> Self {
        let Start { consent, late_hashes, ticket, route, options, throttle, post_apply } = start;
        Self {
            id,
            view,
            consent,
            late_hashes,
            ticket,
            route,
            options,
            throttle,
            post_apply,
            target: None,
            session: None,
            party: None,
            record: None,
            staging: None,
            is_staging: false,
            adoption: None,
            is_cold: false,
            ending: None,
            stop_staging: Arc::default(),
            local_bytes: Arc::default(),
            reused: (0, 0),
            checkpoints: Checkpoints::default(),
            completion: None,
            details: BTreeMap::new(),
            last_word: LastWord::default(),
            rate: RateMeter::default(),
            failure: None,
            keeps: false,
            is_stuck: false,
            dialling: None,
            superseding: false,
            redeeming: false,
            told_by_peer: false,
            is_over: false,
        }
    }

    pub(super) fn session(&self) -> Option<(SessionId, PeerId)> {
        self.party
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The exporter ends the session.
    pub(super) fn stopped_by_peer(&mut self, failure: Failure, shared: &Shared) {
        self.told_by_peer = true;
        self.stop(failure, shared);
    }

    pub(super) fn is_applying(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.core.is_applying())
    }

    /// Ends the import for good, unless the swap has begun.
    pub(super) fn stop(&mut self, failure: Failure, shared: &Shared) {
        if self.is_over {
            return;
        }
        let code = failure.code;
        match &self.session {
            Some(session) if session.core.is_applying() => self.last_word.say(Word::Abort),
            // a core that is over, or about to be replaced, ends nothing any more
            Some(session) if !self.superseding && !self.redeeming && !session.core.phase().is_final() => {
                self.failure.get_or_insert(failure);
                self.input(Input::Stop(code), shared);
            }
            Some(_) | None => {
                self.failure.get_or_insert(failure);
                self.finish(Err(code), shared);
            }
        }
    }

    /// Ends this job but not its session: everything stays on disk for a later one. An import that has no session
    /// yet has nothing to keep.
    pub(super) fn suspend(&mut self, failure: Failure, shared: &Shared) {
        if self.is_over {
            return;
        }
        if self.party.is_none() {
            return self.stop(failure, shared);
        }
        if self.session.as_ref().is_some_and(|s| s.core.is_applying()) {
            return self.last_word.say(Word::Suspend);
        }
        let failure = Failure { hint: self.how_to_resume(), ..failure };
        self.failure = Some(failure.clone());
        self.end(failure.into_outcome(), Left::Kept, shared);
    }

    pub(super) fn tick(&mut self, now: Moment, shared: &Shared) {
        if self.is_over {
            return;
        }
        self.touch_if_due(shared);
        if self.has_expired() {
            return self.stop(Failure::of(Code::SessionExpired, Role::Importer), shared);
        }
        if let Some(session) = &mut self.session {
            let moved = session.meter.moved.load(Ordering::Relaxed);
            let bytes = moved - std::mem::replace(&mut session.moved_before, moved);
            let waiting_on_us = session.meter.waits_for_us();
            self.input(Input::Moved { bytes, waiting_on_us }, shared);
        }
        self.redial_if_due(now, shared);
        self.checkpoint_if_due(now, shared);
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
        self.show_phase(shared);
    }

    /// A phase may be over before the clock looks again; who follows the job sees it all the same.
    fn show_phase(&mut self, shared: &Shared) {
        let is_new = |session: &Session| view::is_new(session.core.phase(), &self.view);
        if !self.is_over && self.session.as_ref().is_some_and(is_new) {
            self.refresh(shared.clock.now());
        }
    }

    /// Drains the core, as far as the control stream takes frames.
    pub(super) fn pump(&mut self, shared: &Shared) {
        loop {
            let Some(session) = &mut self.session else { return };
            // what lets the link go must come through even if the peer takes nothing any more
            let blocked = session.link.control().is_some_and(|control| !control.has_room());
            if blocked && !session.core.lets_go() {
                return;
            }
            match session.core.poll_output() {
                Output::Send(frame) => {
                    if let Some(control) = session.link.control() {
                        control.send(frame);
                    }
                }
                Output::Review(manifest) => {
                    session.manifest = Some(manifest.clone());
                    self.check_target(manifest, shared);
                }
                Output::Adopt { manifest, lost } => {
                    session.manifest = Some(manifest.clone());
                    self.adoption = Some((manifest, lost));
                    self.adopt_if_ready(shared);
                }
                Output::Apply(proof) => self.apply(proof, shared),
                Output::Suspended { reset } => self.disconnected(reset, shared),
                // 6.4: the exporter's tree is another one now; the same ticket opens a session for that
                Output::Over(Err(Code::ManifestChanged)) => return self.start_over(shared),
                Output::Over(outcome) => return self.finish(outcome, shared),
                Output::Idle(_) => return,
            }
        }
    }

    fn has_expired(&self) -> bool {
        // bytes that move put the end off; a swap is never interrupted
        let at_rest = self.session.as_ref().is_none_or(|s| !s.link.is_up() && !s.core.is_applying());
        at_rest && !self.is_staging && self.record.as_ref().is_some_and(|r| expired_while_up(&r.created, &r.last))
    }

    /// A session that is at work is noted to be alive, in the store and beside the journal: one large file may take
    /// longer than a session that nobody goes on with lives.
    fn touch_if_due(&mut self, shared: &Shared) {
        let at_work = self.is_staging || self.session.as_ref().is_some_and(|s| s.link.is_up() || s.core.is_applying());
        let idle = |record: &ImportRecord| record.last.idle(&LastSeen::now()) >= TOUCH;
        if !at_work || !self.record.as_ref().is_some_and(idle) {
            return;
        }
        self.record_progress(shared);
        if let Some(staging) = &self.staging {
            let checkpointer = staging.checkpointer();
            tokio::task::spawn_blocking(move || checkpointer.touch());
        }
    }
}

//! One offer: a source, its ticket, and the session that redeems it, through however many connections.
//!
//! A lost connection is no end: the offer waits until the importer comes back or the session's time is over.
//! Stopped by a person or by the node's end, the session stays on record and a later offer of the same tree goes
//! on with it, if the tree is still the same.

mod hashing;
mod lanes;
mod record;
mod rescan;
mod status;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use me_sync_protocol::exporter::{Exporter, Input, Output};
use me_sync_protocol::ids::{Digest, Moment, SessionId, TicketId};
use me_sync_protocol::message::{Granted, Resume, Resumed};
use me_sync_protocol::reason::Code;
use tokio::sync::watch;

use self::hashing::Source;
use self::lanes::Connection;
pub(super) use self::record::first_record;
use self::rescan::Rescan;
use super::control::{self, ControlEvent, ControlLink};
use super::explain::Failure;
use super::sources::Part;
use super::tickets::Allowance;
use super::{Event, JobEvent, Shared, expired, view};
use crate::api::{JobId, JobView, PeerSummary, Role};
use crate::clock::{LastSeen, RateMeter};
use crate::limit::Throttle;
use crate::link::ByteStream;
use crate::net::Connected;
use crate::source::{HashProgress, WalkId};
use crate::store::{ExportRecord, Grant, SessionStatus, Write};
use crate::transfer::gauge::Gauge;
use crate::transfer::{Compression, LaneEvent, LaneMeter};

/// An offer and, once redeemed, its session.
#[derive(Debug)]
pub(super) struct ExportJob {
    id: JobId,
    pub(super) view: watch::Sender<JobView>,
    source: Source,
    hashing: Arc<HashProgress>,
    /// Its part in the hashing, as long as it waits for that.
    part: Option<Arc<Part>>,
    /// An importer may get the outline.
    may_outline: bool,
    /// When the ticket is void if no importer has come.
    expires: Moment,
    record: ExportRecord,
    /// For another importer than that of the session that goes on, as long as that one has not come.
    fresh: Option<ExportRecord>,
    session: Option<Session>,
    /// Sessions that ended because the tree has changed. Their importer redeems the ticket again.
    former: Vec<SessionId>,
    /// What goes on counting when another session takes the place of one.
    traces: Option<Traces>,
    rescan: Rescan,
    walk: Walk,
    throttle: Throttle,
    compression: Compression,
    rate: RateMeter,
    failure: Option<Failure>,
    is_over: bool,
}

/// What the tree was when it was looked at last.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) id: WalkId,
    pub(super) at: Moment,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    peer: PeerId,
    granted: Granted,
    core: Exporter,
    /// The manifest that the importer says it has.
    importer_holds: Option<Digest>,
    /// The importer takes an outline in the conversation that is to come or goes on.
    takes_outline: bool,
    /// A control stream may come: one for each time the session was granted or resumed.
    awaits_control: bool,
    connection: Option<Connection>,
    /// Counts control streams, so that late news of an old one is known as such.
    conversation: u32,
    /// When the last connection was lost.
    lost: Option<Moment>,
    meter: Arc<LaneMeter>,
    /// Whether to pack, in this conversation.
    gauge: Gauge,
    moved_before: u64,
}

/// Figures of the sessions before, and the number of their last conversation.
#[derive(Debug)]
struct Traces {
    conversation: u32,
    meter: Arc<LaneMeter>,
    moved_before: u64,
}

/// What an offer starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) part: Arc<Part>,
    pub(super) walk: Walk,
    /// An importer may get the outline.
    pub(super) may_outline: bool,
    pub(super) expires: Moment,
    pub(super) throttle: Throttle,
    pub(super) compression: Compression,
    /// What the new ticket opens.
    pub(super) fresh: ExportRecord,
    /// An unfinished session of an earlier process.
    pub(super) earlier: Option<ExportRecord>,
}

impl ExportJob {
    /// An offer whose ticket nobody has redeemed, or one of an earlier process with its session.
    pub(super) fn new(id: JobId, view: watch::Sender<JobView>, start: Start, shared: &Shared) -> Self {
        let Start { part, walk, may_outline, expires, throttle, compression, fresh, earlier } = start;
        let (record, fresh) = match earlier {
            Some(earlier) => (earlier, Some(fresh)),
            None => (fresh, None),
        };
        let mut job = Self {
            id,
            view,
            source: Source::Hashing,
            hashing: part.progress.clone(),
            part: Some(part),
            may_outline,
            expires,
            record,
            fresh,
            session: None,
            former: Vec::new(),
            traces: None,
            rescan: Rescan::default(),
            walk,
            throttle,
            compression,
            rate: RateMeter::default(),
            failure: None,
            is_over: false,
        };
        job.restore(shared);
        job
    }

    pub(super) fn session(&self) -> Option<(SessionId, PeerId)> {
        self.session.as_ref().map(|s| (s.id, s.peer))
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The session of an earlier process waits for its importer again.
    fn restore(&mut self, shared: &Shared) {
        let (Some(grant), Some(peer)) = (self.record.grant.clone(), self.record.peer) else { return };
        let granted = grant.granted(self.record.source_name.clone());
        let core = Exporter::restored(shared.retry, shared.clock.now());
        self.view.send_modify(|view| {
            view.session_id = Some(granted.session_id);
            view.peer = Some(PeerSummary {
                peer_id: peer.to_string(),
                device_name: self.record.peer_name.clone(),
                address: None,
                transport: None,
            });
        });
        self.session = Some(Session::new(peer, granted, core, self.throttle.clone()));
    }

    /// May this ticket of the job open a session? Not while another importer is served.
    pub(super) fn takes_ticket(&self, ticket: TicketId) -> bool {
        ticket == self.record.ticket
            || self.fresh.is_some() && self.session.as_ref().is_none_or(|s| s.connection.is_none())
    }

    /// The ticket was redeemed, for the first time or for a new session.
    pub(super) fn granted(
        &mut self,
        ticket: TicketId,
        peer: PeerId,
        from: Option<Connected>,
        granted: Granted,
        late: bool,
        shared: &Shared,
    ) {
        let late = late && self.may_outline;
        // of a session that is over
        self.withdraw_outline(shared);
        if let Some(fresh) = self.fresh.take_if(|fresh| fresh.ticket == ticket) {
            // the earlier session stays on record, for its importer
            self.record = fresh;
        }
        let mut core = Exporter::new(shared.retry, shared.clock.now());
        self.rescan.taken_anew();
        self.look_before_it_is_taken(shared);
        if let Source::Ready(snapshot) = &self.source {
            // a fresh core has nothing to object to
            core.handle(shared.clock.now(), Input::ManifestReady(snapshot.manifest().clone())).ok();
        }
        self.view.send_modify(|view| view.session_id = Some(granted.session_id));
        tracing::info!(session = %granted.session_id.short(), "ticket redeemed");
        self.met(peer, from);
        (self.record.peer, self.record.grant) = (Some(peer), Some(Grant::from(&granted)));
        (self.record.manifest, self.record.outline) = (None, None);
        (self.record.state, self.record.failed_code) = (SessionStatus::Open, None);
        (self.record.created, self.record.last) = (LastSeen::now(), LastSeen::now());
        let mut session = Session::new(peer, granted, core, self.throttle.clone());
        session.takes_outline = late;
        let traces = self.session.take().map(Session::into_traces).or_else(|| self.traces.take());
        if let Some(Traces { conversation, meter, moved_before }) = traces {
            (session.conversation, session.meter, session.moved_before) = (conversation, meter, moved_before);
        }
        self.session = Some(session);
        self.note_manifest();
        self.came();
        if late {
            self.want_outline();
        }
    }

    /// The importer comes back with its proof.
    pub(super) fn resumed(
        &mut self,
        from: Option<Connected>,
        ask: &Resume,
        ours: Allowance,
        shared: &Shared,
    ) -> Result<Resumed, Code> {
        let peer = self.session.as_ref().map(|s| s.peer).ok_or(Code::SessionUnknown)?;
        self.came();
        let lanes = ours.lanes.min(ask.max_lanes);
        let chunk = ours.chunk.min(ask.max_chunk);
        if lanes == 0 || chunk < super::tickets::MIN_CHUNK {
            return Err(Code::VersionMismatch);
        }
        if let (Source::Outlined(_), Some(held)) = (&self.source, ask.manifest_sha256)
            && self.record.manifest == Some(held)
        {
            // it was asked to apply this, and has seen first that the connection is lost: it comes again to the manifest
            self.input(Input::Lost, shared);
        }
        match (&self.source, ask.manifest_sha256) {
            // a restarted exporter does not know yet whether its tree is still that one
            (Source::Hashing | Source::Outlined(_), Some(_)) => return Err(Code::Busy),
            (Source::Ready(snapshot), Some(held)) if snapshot.manifest().sha256() != held => {
                return Err(Code::ManifestChanged);
            }
            _ => {}
        }
        self.met(peer, from);
        self.record.last = LastSeen::now();
        self.put(shared);
        self.withdraw_outline(shared);
        let Some(session) = &mut self.session else { return Err(Code::SessionUnknown) };
        let (zstd, holes) = (ours.zstd && ask.zstd, ours.holes && ask.holes);
        (session.granted.lanes, session.granted.max_chunk) = (lanes, chunk);
        (session.granted.zstd, session.granted.holes) = (zstd, holes);
        session.importer_holds = ask.manifest_sha256;
        session.awaits_control = true;
        Ok(Resumed { expires_at_ms: ours.session_expires_ms, lanes, max_chunk: chunk, zstd, holes })
    }

    /// The session's resume secret, to check a proof with.
    pub(super) fn resume_secret(&self) -> Option<&me_sync_protocol::ids::Secret> {
        self.session.as_ref().map(|s| &s.granted.resume_secret)
    }

    /// A control stream of the importer came in and is acknowledged. It takes the place of one that is there: the
    /// importer may have noticed first that the connection is dead.
    pub(super) fn opened(&mut self, stream: ByteStream, shared: &Shared) {
        if self.session.as_ref().is_some_and(|s| s.connection.is_some()) {
            self.input(Input::Lost, shared);
        }
        let Some(session) = &mut self.session else { return };
        session.conversation += 1;
        session.awaits_control = false;
        session.lost = None;
        // it may be another way to the importer
        session.gauge = Gauge::default();
        session.meter.flow.pack(false);
        self.fresh = None;
        let link = ControlLink::spawn(self.id, session.conversation, stream, shared.events.clone());
        session.connection = Some(Connection::new(link));
        let importer_holds = session.importer_holds;
        self.input(Input::Opened { importer_holds }, shared);
    }

    /// May a control stream come in now?
    pub(super) fn takes_control(&self) -> bool {
        !self.is_over && self.session.as_ref().is_some_and(|s| s.awaits_control)
    }

    /// The peer redeemed its ticket again: it did not get the answer, or lost what it was about.
    pub(super) fn granted_again(&mut self, late: bool, granted: &Granted, shared: &Shared) {
        self.came();
        if !late {
            self.withdraw_outline(shared);
        }
        if let Some(session) = &mut self.session {
            (session.granted.zstd, session.granted.holes) = (granted.zstd, granted.holes);
            session.importer_holds = None;
            session.awaits_control = true;
        }
    }

    pub(super) fn control(&mut self, conversation: u32, event: ControlEvent, shared: &Shared) {
        let current = self.session.as_ref().filter(|s| s.conversation == conversation && s.connection.is_some());
        if current.is_none() {
            return;
        }
        match event {
            ControlEvent::Frame(frame) => self.input(Input::Frame(frame), shared),
            ControlEvent::Room => self.pump(shared),
            ControlEvent::Closed => self.input(Input::Lost, shared),
            ControlEvent::Violation(code) => {
                let violation = control::violation(code);
                let message = format!("the other device broke the protocol: {violation}");
                self.stop(Failure::described(code, message, None, Role::Exporter), shared);
            }
        }
    }

    pub(super) fn lane(&mut self, conversation: u32, event: LaneEvent, shared: &Shared) {
        let Some(session) = self.session.as_ref().filter(|s| s.conversation == conversation) else { return };
        if session.connection.is_none() {
            return;
        }
        match event {
            LaneEvent::Sent { files, bytes, failed, hashed } => {
                self.note_changed(&failed);
                self.input(Input::Sent { files, bytes, failed, hashed }, shared);
            }
            LaneEvent::Closed => {
                // once everything is sent the importer may close its lanes
                if !session.core.is_finalizing() {
                    self.input(Input::Lost, shared);
                }
            }
            LaneEvent::Files { .. } | LaneEvent::Suspended(_) | LaneEvent::Violation(_) | LaneEvent::Drained => {
                tracing::error!("a sending lane reported as if it received");
            }
        }
    }

    /// The importer says how the session ended.
    pub(super) fn result(&mut self, failed: Option<Code>, shared: &Shared) -> Result<(), Code> {
        let Some(session) = &mut self.session else { return Err(Code::SessionUnknown) };
        let taken = session.core.handle(shared.clock.now(), Input::Result(failed));
        self.pump(shared);
        taken.map_err(|violation| violation.code)
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
            Some(session) if session.connection.is_some() => self.input(Input::Stop(code), shared),
            _ => self.finish(Err(code), shared),
        }
    }

    /// Ends this job but not its session: a later offer of the same tree goes on with it.
    pub(super) fn suspend(&mut self, failure: Failure, shared: &Shared) {
        if self.is_over {
            return;
        }
        if self.session.is_none() && self.record.peer.is_none() {
            return self.stop(failure, shared);
        }
        self.failure = Some(Failure { hint: self.how_to_go_on(), ..failure });
        self.end(Err(Code::NodeStopping), None, shared);
    }

    pub(super) fn tick(&mut self, now: Moment, shared: &Shared) {
        if self.is_over {
            return;
        }
        let connected = self.session.as_ref().is_some_and(|s| s.connection.is_some());
        let is_bound = self.record.peer.is_some();
        let expired = if is_bound { expired(&self.record.created, &self.record.last) } else { now >= self.expires };
        if !connected && expired {
            return self.finish(Err(Code::SessionExpired), shared);
        }
        let hashing = self.hashing_counters();
        let is_rescanning = self.is_rescanning();
        if let Some(session) = &mut self.session {
            let moved = session.meter.moved.load(Ordering::Relaxed);
            let bytes = moved - std::mem::replace(&mut session.moved_before, moved);
            let waiting_on_us = session.meter.waits_for_us() || is_rescanning;
            session.meter.flow.pack(session.gauge.look(now, session.meter.reading()));
            if matches!(self.source, Source::Hashing) {
                self.input(Input::Hashing(hashing), shared);
            }
            self.input(Input::Moved { bytes, waiting_on_us }, shared);
        }
        self.touch_if_due(connected, shared);
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
            // what lets the connection go must come through even if the peer takes nothing any more
            let blocked = session.connection.as_ref().is_some_and(|c| !c.has_room());
            if blocked && !session.core.lets_go() {
                return;
            }
            match session.core.poll_output() {
                Output::Send(frame) => {
                    if let Some(connection) = &session.connection {
                        connection.send(frame);
                    }
                }
                Output::SendFiles { entries, partial } => self.send_files(entries, &partial, shared),
                Output::Sealed(sha256) => self.outline_is_sealed(sha256, shared),
                Output::Suspended { reset } => self.disconnected(reset, shared),
                Output::Over(outcome) => return self.finish(outcome, shared),
                Output::Idle(_) => return,
            }
        }
    }

    fn finish(&mut self, outcome: Result<(), Code>, shared: &Shared) {
        let state = match outcome {
            Ok(()) => SessionStatus::Completed,
            // what failed may be mended; the importer keeps what it has
            Err(
                Code::RetryExhausted
                | Code::HashMismatch
                | Code::SourceChanged
                | Code::SourceUnreadable
                | Code::ManifestMismatch
                | Code::TargetChanged
                | Code::TargetConflict,
            ) => SessionStatus::Failed,
            Err(_) => SessionStatus::Ended,
        };
        self.end(outcome, Some(state), shared);
    }

    /// Ends the job; with a state its session's record changes, without it stays open.
    fn end(&mut self, outcome: Result<(), Code>, state: Option<SessionStatus>, shared: &Shared) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.part = None;
        self.refresh(shared.clock.now());
        self.view.send_modify(|view| view.waiting = None);
        let end = match outcome {
            Ok(()) => crate::api::Outcome::Completed(self.completion()),
            Err(code) => self.failure.take().unwrap_or_else(|| self.explain(code)).into_outcome(),
        };
        self.record_end(state, outcome.err());
        let connection = self.session.as_mut().and_then(|s| s.connection.take());
        let record = self.record.peer.is_some().then(|| self.record.clone());
        if let Some((session, _)) = self.session() {
            shared.write_later(Write::PutFailures(session, self.failure_records()));
        }
        let (events, id, store) = (shared.events.clone(), self.id, shared.store.clone());
        tokio::spawn(async move {
            // first: while the streams are closing, the importer's result may come by request and be noted too
            if let Some(record) = record
                && let Err(e) = store.put_export(record).await
            {
                tracing::warn!(error = %crate::errors::chain(&e), "the end of the session is not recorded");
            }
            if let Some(connection) = connection {
                connection.close().await;
            }
            events.send(Event::Job(id, JobEvent::Finished(Box::new(end)))).await.ok();
        });
    }
}

impl Session {
    fn new(peer: PeerId, granted: Granted, core: Exporter, throttle: Throttle) -> Self {
        Self {
            id: granted.session_id,
            peer,
            granted,
            core,
            importer_holds: None,
            takes_outline: false,
            awaits_control: true,
            connection: None,
            conversation: 0,
            lost: None,
            meter: Arc::new(LaneMeter::new(throttle)),
            gauge: Gauge::default(),
            moved_before: 0,
        }
    }

    fn into_traces(self) -> Traces {
        Traces { conversation: self.conversation, meter: self.meter, moved_before: self.moved_before }
    }
}

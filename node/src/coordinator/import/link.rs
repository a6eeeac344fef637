//! The import's connections: the control stream, the lanes, and the way back when they are lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use me_sync_protocol::file::LaneReceiver;
use me_sync_protocol::frame::Frame;
use me_sync_protocol::ids::Moment;
use me_sync_protocol::importer::{Importer, Input};
use me_sync_protocol::message::Granted;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{ImportJob, Left, Session};
use crate::api::Role;
use crate::clock;
use crate::coordinator::connect::{self, Entry, Established, Key, Missed};
use crate::coordinator::control::{self, ControlEvent, ControlLink};
use crate::coordinator::explain::Failure;
use crate::coordinator::{Event, JobEvent, Shared, streams};
use crate::link::{ByteStream, FrameReader};
use crate::random;
use crate::transfer::recv_lane::RecvLane;
use crate::transfer::strand::{self, STRAND_AHEAD, StrandNews};
use crate::transfer::{LaneEvent, LaneMeter, Reports};

/// Pause before the first try to reach a lost exporter again; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// One try to reach a lost exporter takes no longer.
const TRY: Duration = Duration::from_secs(20);

/// Where the session's streams are.
#[derive(Debug)]
pub(super) enum Link {
    Up(Box<Connection>),
    /// Lanes of the lost connection are finishing.
    Draining,
    /// Nothing is open; a task may be dialling.
    Down(Redial),
}

#[derive(Debug)]
pub(super) struct Connection {
    control: ControlLink,
    /// One bit a lane.
    lanes_open: u8,
    /// Lanes that have no strand yet: where its chunks would go.
    strands: HashMap<u8, mpsc::Sender<StrandNews>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// The tries to reach a lost exporter.
#[derive(Debug)]
pub(super) struct Redial {
    pub(super) since: Moment,
    pub(super) next: Moment,
    pub(super) tries: u32,
    pub(super) last: Option<Failure>,
}

impl Redial {
    pub(super) fn soon(now: Moment) -> Self {
        Self { since: now, next: now, tries: 0, last: None }
    }

    fn failed(&mut self, why: Failure, now: Moment) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.tries.min(8)).min(LONGEST_PAUSE);
        // several importers that lost the same exporter do not all come back at once
        let [jitter] = random::bytes::<1>();
        let pause = pause.mul_f64(1.0 - f64::from(jitter) / 1280.0);
        self.tries += 1;
        self.next = now.after(pause);
        self.last = Some(why);
    }
}

impl Link {
    pub(super) fn control(&self) -> Option<&ControlLink> {
        match self {
            Self::Up(connection) => Some(&connection.control),
            Self::Draining | Self::Down(_) => None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }
}

impl Connection {
    /// Stops the lanes and gives their tasks, to be waited for, and the control stream.
    pub(super) fn take_apart(self) -> (ControlLink, JoinSet<()>) {
        self.stop.cancel();
        (self.control, self.tasks)
    }

    /// Stops the lanes only.
    pub(super) fn stop_lanes(&mut self) -> JoinSet<()> {
        self.stop.cancel();
        std::mem::take(&mut self.tasks)
    }
}

impl ImportJob {
    /// Connects and redeems the ticket.
    pub(super) fn dial_first(&mut self, shared: &Shared) {
        let (ticket, late_hashes) = (self.ticket.clone(), self.late_hashes);
        self.dial(Key::Ticket { ticket, late_hashes }, self.route.timeout, shared);
    }

    fn dial(&mut self, key: Key, timeout: Duration, shared: &Shared) {
        let stop = CancellationToken::new();
        let route = connect::Route { timeout, ..self.route.clone() };
        let (net, events, id, cancelled) = (shared.net.clone(), shared.events.clone(), self.id, stop.clone());
        let task = tokio::spawn(async move {
            let result = connect::establish(net, key, route, cancelled).await;
            // a coordinator that is gone does not need the news
            events.send(Event::Job(id, JobEvent::Established(Box::new(result)))).await.ok();
        });
        self.dialling = Some((stop, task));
    }

    /// Tries again to reach the exporter, when it is time.
    pub(super) fn redial_if_due(&mut self, now: Moment, shared: &Shared) {
        let Some(session) = &self.session else { return };
        let Link::Down(redial) = &session.link else { return };
        if self.superseding || self.dialling.is_some() || now < redial.next || session.core.is_applying() {
            return;
        }
        match &self.record {
            Some(record) if !self.redeeming => {
                let secret = record.grant.resume_secret.clone();
                self.dial(Key::Session { id: session.id, secret, holds: session.core.holds() }, TRY, shared);
            }
            // this session is given up already, and the one that takes its place is not granted yet
            Some(_) | None => self.dial_first(shared),
        }
    }

    /// The exporter has connected, or is at the other end of a new pipe.
    pub(in crate::coordinator) fn peer_is_here(&mut self, peer: PeerId, shared: &Shared) {
        let now = shared.clock.now();
        if peer == self.route.peer
            && let Some(Session { link: Link::Down(redial), .. }) = &mut self.session
        {
            redial.next = now;
            self.redial_if_due(now, shared);
        }
    }

    /// What a try to connect came to.
    pub(in crate::coordinator) fn established(&mut self, result: Result<Established, Missed>, shared: &Shared) {
        self.dialling = None;
        if self.is_over {
            return;
        }
        let has_another_ticket = self.has_another_ticket();
        match (result, &mut self.session) {
            (Ok(established), _) => self.connected(established, shared),
            (Err(missed), None) => {
                let mut failure = missed.into_failure();
                if failure.code == Code::PeerNotFound && self.ticket.expires_at_ms < clock::wall_ms() {
                    "the time of its ticket is over: run `send` there again".clone_into(&mut failure.hint);
                }
                self.stop(failure, shared);
            }
            (Err(missed), Some(session)) => {
                let now = shared.clock.now();
                let is_refusal = matches!(missed, Missed::Refused(_));
                let failure = missed.into_failure();
                match failure.code {
                    Code::ManifestChanged => self.start_over(shared),
                    // the person has a ticket for something else, into the same target
                    Code::NotOffered => {
                        if has_another_ticket {
                            self.start_over(shared);
                        } else if let Link::Down(redial) = &mut session.link {
                            redial.failed(failure, now);
                        }
                    }
                    // also where nobody refused. RELIABILITY F65: said by name; the session stays for `resume`
                    Code::Aborted
                    | Code::Declined
                    | Code::TicketInvalid
                    | Code::PeerMismatch
                    | Code::VersionMismatch => self.given_up(failure, shared),
                    // the exporter's last word on the session; the person's ticket may be for something else
                    _ if is_refusal && has_another_ticket => self.start_over(shared),
                    _ if is_refusal => self.given_up(failure, shared),
                    _ => {
                        tracing::debug!(session = %session.id.short(), code = %failure.code, "not reached yet");
                        if let Link::Down(redial) = &mut session.link {
                            redial.failed(failure, now);
                        }
                    }
                }
            }
        }
    }

    /// This job was started with another ticket than the one that opened the session.
    fn has_another_ticket(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.ticket != self.ticket.ticket_id)
    }

    /// The exporter does not go on with this session. What is staged stays, for a new session into this target.
    fn given_up(&mut self, failure: Failure, shared: &Shared) {
        let left = match failure.code {
            Code::Aborted | Code::Declined => Left::Nothing(failure.code),
            code => Left::Failed(code),
        };
        self.failure = Some(failure.clone());
        self.told_by_peer = true;
        self.end(failure.into_outcome(), left, shared);
    }

    fn connected(&mut self, established: Established, shared: &Shared) {
        let Established { peer, summary, entry, control } = established;
        self.met(&summary, shared);
        self.view.send_modify(|view| view.peer = Some(summary));
        let now = shared.clock.now();
        match (entry, &mut self.session) {
            (Entry::Resumed(resumed), Some(session)) => {
                tracing::info!(session = %session.id.short(), "session resumed");
                (session.lanes, session.max_chunk) = (resumed.lanes, resumed.max_chunk);
                (session.zstd, session.holes) = (resumed.zstd, resumed.holes);
                // this is the tree that was meant: whatever else the person's ticket opens, the session does not end for it
                if let Some(Ok(ticket)) = self.record.as_ref().map(|r| Ticket::parse(r.ticket_text.expose())) {
                    self.ticket = ticket;
                }
            }
            (Entry::Resumed(_), None) => return tracing::error!("resumed a session that is not there"),
            (Entry::Granted(granted), Some(session)) if session.id == granted.session_id && self.redeeming => {
                // the exporter says in one breath that the session is over and that it is not
                let failure = Failure::of(Code::ManifestChanged, Role::Importer);
                return self.end(failure.into_outcome(), Left::Failed(Code::ManifestChanged), shared);
            }
            (Entry::Granted(granted), Some(session)) if session.id == granted.session_id => {
                (session.lanes, session.max_chunk) = (granted.lanes, granted.max_chunk);
                (session.zstd, session.holes) = (granted.zstd, granted.holes);
            }
            (Entry::Granted(granted), _) => self.granted(peer, granted, shared),
        }
        let Some(session) = &mut self.session else { return };
        let control = match control {
            Ok(control) => control,
            Err(failure) => {
                if let Link::Down(redial) = &mut session.link {
                    redial.failed(failure, now);
                }
                return self.refresh(now);
            }
        };
        session.conversation += 1;
        let control = ControlLink::spawn(self.id, session.conversation, control, shared.events.clone());
        let connection = Connection {
            control,
            lanes_open: 0,
            strands: HashMap::new(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        session.link = Link::Up(Box::new(connection));
        if session.core.is_waiting() {
            self.input(Input::Resumed, shared);
        }
        self.refresh(now);
    }

    /// A session that did not exist before.
    fn granted(&mut self, peer: libp2p::PeerId, granted: Granted, shared: &Shared) {
        let now = shared.clock.now();
        let id = granted.session_id;
        tracing::info!(session = %id.short(), "session granted");
        self.view.send_modify(|view| {
            view.session_id = Some(id);
            view.source_name = Some(granted.source_name.clone());
        });
        self.party = Some((id, peer));
        self.redeeming = false;
        self.forget_record(shared);
        let core = match std::mem::take(&mut self.late_hashes) {
            true => Importer::taking_outline(shared.retry, now),
            false => Importer::new(shared.retry, now),
        };
        let before = self.session.take();
        self.session = Some(Session {
            id,
            peer,
            core,
            link: Link::Down(Redial::soon(now)),
            conversation: before.as_ref().map_or(0, |s| s.conversation),
            lanes: granted.lanes,
            max_chunk: granted.max_chunk,
            zstd: granted.zstd,
            holes: granted.holes,
            manifest: None,
            moved_before: before.as_ref().map_or(0, |s| s.moved_before),
            meter: before.map_or_else(|| Arc::new(LaneMeter::new(self.throttle.clone())), |s| s.meter),
        });
        self.first_record(&granted, shared);
    }

    /// The exporter's tree is not the one of this session any more. The ticket opens another session, which
    /// reuses what this one has staged.
    pub(super) fn start_over(&mut self, shared: &Shared) {
        tracing::info!("the source has changed: a new session takes over what is here");
        self.superseding = true;
        if self.session.as_ref().is_some_and(|s| s.link.is_up()) {
            self.disconnected(false, shared);
        } else {
            self.supersede_if_ready(shared);
        }
    }

    /// The core let go of its connection.
    pub(super) fn disconnected(&mut self, reset: bool, shared: &Shared) {
        let Some(session) = self.session.as_mut().filter(|s| s.link.is_up()) else { return };
        if let Link::Up(connection) = std::mem::replace(&mut session.link, Link::Draining) {
            tracing::info!(session = %session.id.short(), reset, "the connection is lost; the session goes on");
            let (control, tasks) = connection.take_apart();
            control.cut();
            self.drain(tasks, reset, shared);
        }
    }

    /// Waits for the lanes in a task of its own; their last reports come before the news that they are through.
    fn drain(&mut self, mut tasks: JoinSet<()>, reset: bool, shared: &Shared) {
        let Some(session) = &self.session else { return };
        let reports = Reports { job: self.id, conversation: session.conversation, to: shared.lanes.clone() };
        let (net, peer) = (shared.net.clone(), session.peer);
        tokio::spawn(async move {
            if reset {
                net.disconnect(peer).await;
            }
            while tasks.join_next().await.is_some() {}
            reports.send(LaneEvent::Drained).await;
        });
    }

    /// May lane `number` come in now?
    pub(in crate::coordinator) fn takes_lane(&self, number: u8) -> bool {
        let Some(session) = &self.session else { return false };
        let Link::Up(connection) = &session.link else { return false };
        self.staging.is_some()
            && number < session.lanes
            && connection.lanes_open & (1 << number) == 0
            && !session.core.is_applying()
    }

    /// Lane `number` came in; it is acknowledged and served by an actor of its own.
    pub(in crate::coordinator) fn lane_opened(&mut self, number: u8, mut stream: ByteStream, shared: &Shared) {
        let (Some(session), Some(staging)) = (&mut self.session, &self.staging) else { return };
        let (Link::Up(connection), Some(manifest)) = (&mut session.link, session.manifest.clone()) else { return };
        connection.lanes_open |= 1 << number;
        let (strand, chunks) = mpsc::channel(STRAND_AHEAD);
        connection.strands.insert(number, strand);
        let lane = RecvLane {
            receiver: LaneReceiver::new(manifest, session.core.requested().clone(), session.max_chunk)
                .taking_packed(session.zstd)
                .taking_zeros(session.holes),
            writer: staging.writer(),
            strand: chunks,
            meter: session.meter.clone(),
            stop: connection.stop.clone(),
        };
        let reports = Reports { job: self.id, conversation: session.conversation, to: shared.lanes.clone() };
        let (moved, throttle) = (session.meter.moved.clone(), session.meter.throttle.clone());
        connection.tasks.spawn(async move {
            if streams::accept(&mut stream).await.is_ok() {
                lane.run(FrameReader::limited(stream, moved, throttle), reports).await;
            } else {
                reports.send(LaneEvent::Closed).await;
            }
        });
    }

    /// A stream came in beside lane `number`, which takes one.
    pub(in crate::coordinator) fn strand_opened(&mut self, number: u8, mut stream: ByteStream) {
        let Some(Session { link: Link::Up(connection), meter, .. }) = &mut self.session else { return };
        let Some(lane) = connection.strands.remove(&number) else { return };
        // before the exporter can hear that it is taken: its next frame on the lane may be about it
        if lane.try_send(StrandNews::Opened).is_err() {
            return;
        }
        let (moved, throttle, stop) = (meter.moved.clone(), meter.throttle.clone(), connection.stop.clone());
        connection.tasks.spawn(async move {
            if streams::accept(&mut stream).await.is_ok() {
                strand::receive(FrameReader::limited(stream, moved, throttle), lane, stop).await;
            }
        });
    }

    /// May a strand of lane `number` come in now?
    pub(in crate::coordinator) fn takes_strand(&self, number: u8) -> bool {
        let Some(Session { link: Link::Up(connection), core, .. }) = &self.session else { return false };
        connection.strands.contains_key(&number) && !core.is_applying()
    }

    /// Lanes of a lost connection report until [`LaneEvent::Drained`]; nothing else of it counts.
    pub(in crate::coordinator) fn lane(&mut self, conversation: u32, event: LaneEvent, shared: &Shared) {
        let Some(session) = &mut self.session else { return };
        if conversation != session.conversation || self.is_over {
            return;
        }
        match event {
            LaneEvent::Files { reports, details } => {
                self.note_failures(&reports, &details);
                self.checkpoints.note(&reports);
                self.input(Input::Files(reports), shared);
            }
            LaneEvent::Suspended(partial) => self.input(Input::Suspended(partial), shared),
            LaneEvent::Violation(violation) => {
                if session.link.is_up() {
                    self.input(Input::LaneViolation(violation), shared);
                }
            }
            LaneEvent::Closed => {
                // the exporter closes its lanes once everything is sent
                let in_bulk = matches!(session.core.phase(), Phase::BulkTransferring | Phase::RetryingFailed);
                if in_bulk && session.link.is_up() {
                    self.input(Input::Lost, shared);
                }
            }
            LaneEvent::Drained => {
                if matches!(session.link, Link::Draining) {
                    session.link = Link::Down(Redial::soon(shared.clock.now().after(FIRST_PAUSE)));
                }
                self.supersede_if_ready(shared);
            }
            LaneEvent::Sent { .. } => tracing::error!("a receiving lane reported as if it sent"),
        }
    }

    pub(in crate::coordinator) fn control(&mut self, conversation: u32, event: ControlEvent, shared: &Shared) {
        if self.session.as_ref().is_none_or(|s| s.conversation != conversation || !s.link.is_up()) {
            return;
        }
        match event {
            ControlEvent::Frame(frame) => {
                self.told_by_peer |= matches!(frame, Frame::Abort(_));
                self.input(Input::Frame(frame), shared);
            }
            ControlEvent::Room => self.pump(shared),
            ControlEvent::Closed => self.input(Input::Lost, shared),
            ControlEvent::Violation(code) => self.input(Input::LaneViolation(control::violation(code)), shared),
        }
    }

    /// Who is at the other end and where, for the next try and for people.
    fn met(&mut self, summary: &crate::api::PeerSummary, shared: &Shared) {
        if let Some(address) = summary.address.as_ref().and_then(|a| a.parse().ok())
            && !self.route.addresses.contains(&address)
        {
            self.route.addresses.insert(0, address);
        }
        self.touch_record(summary, shared);
    }
}

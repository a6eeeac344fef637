//! The coordinator: one actor that owns every session's state and is the only one to change it.
//!
//! It waits for one event, applies it synchronously, and drains the session's core. It never awaits a
//! send: what has no room stays in the core until the control stream says that it has room again.
//! Chunk bytes do not pass here; lanes report files, in batches.
//!
//! ```text
//!  NodeHandle ─ commands ─►┐              ┌─► ControlLink task (one per session)
//!  net ──────── events ───►│ Coordinator  ├─► lane tasks and threads (up to 4 per session)
//!  tasks ────── events ───►│ jobs, cores  ├─► blocking work: hash, check, stage, apply
//!  lanes ────── reports ──►┘              └─► watch channels (JobView)
//! ```

mod archives;
mod codes;
mod connect;
mod control;
mod deliver;
mod explain;
mod export;
mod handle;
mod import;
mod jobs;
mod offer;
mod probes;
mod requests;
mod shared;
mod sources;
mod streams;
mod tickets;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::frame::Role as StreamRole;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::message::SessionState;
use me_sync_protocol::reason::Code;
use me_sync_protocol::retry::RetryPolicy;
use me_sync_protocol::ticket::Ticket;
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::deliver::{tell_results, tell_within};
pub(crate) use self::handle::{ArchivePlan, CoordinatorHandle, Device, ImportPlan, OfferPlan, ResumePlan, TicketParts};
pub(crate) use self::jobs::MAX_JOBS;
pub(crate) use self::shared::{Hashes, Shared};

use self::archives::{Knock, Knocks};
use self::codes::{CodeBook, News};
use self::handle::Command;
use self::jobs::{Job, JobEvent, export_event, import_event, state_of};
use self::probes::{Asked, Probes};
use self::shared::{expired, expired_while_up};
use self::sources::{Hashed, HashingId, Sources};
use self::streams::{Greeted, Greetings};
use self::tickets::TicketBook;
use crate::api::JobId;
use crate::clock::Clock;
use crate::limit::Limiter;
use crate::net::{NetEvent, NetHandle};
use crate::source::Outline;
use crate::staging::StateDir;
use crate::store::{ExportRecord, StoreHandle};
use crate::transfer::{Compression, LaneReport};

/// Commands of callers that may wait.
const COMMANDS: usize = 32;
/// Events of tasks that may wait; a full queue slows the tasks down.
const EVENTS: usize = 256;
/// Batches of lane reports that may wait.
const LANE_REPORTS: usize = 64;
/// How often counters, rates and deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What tasks report.
#[derive(Debug)]
enum Event {
    /// A peer opened a stream and said what it is for.
    Inbound(Greeted),
    /// A peer has said which archive it comes for.
    Knocked(Box<Knock>),
    /// A peer asked for noise to measure with.
    Asked(Asked),
    /// A result was noted at the record of a session that no job worked on.
    Settled(SessionId, Option<Code>),
    /// A source is hashed, or cannot be.
    Hashed(HashingId, Hashed),
    /// Hashing a source ended early, for an importer that takes an outline.
    Outlined(HashingId, Box<Outline>),
    /// Something happened to a job.
    Job(JobId, JobEvent),
}

/// What a coordinator starts with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) net: NetHandle,
    pub(crate) net_events: mpsc::Receiver<NetEvent>,
    pub(crate) state: Arc<StateDir>,
    pub(crate) store: StoreHandle,
    pub(crate) hashes: Hashes,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_lanes: u8,
    pub(crate) max_chunk: u32,
    /// Of all sessions together.
    pub(crate) limit: Limiter,
    pub(crate) compression: Compression,
    pub(crate) look_again_after: Duration,
    pub(crate) late_from: u64,
    #[cfg(feature = "test-hooks")]
    pub(crate) is_cold: bool,
    #[cfg(feature = "test-hooks")]
    pub(crate) faults: crate::hooks::FaultPlan,
}

#[derive(Debug)]
struct Coordinator {
    shared: Shared,
    handle: CoordinatorHandle,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Receiver<Event>,
    lanes: mpsc::Receiver<LaneReport>,
    net_events: mpsc::Receiver<NetEvent>,
    net_is_up: bool,
    jobs: BTreeMap<JobId, Job>,
    next_job: u64,
    tickets: TicketBook,
    codes: CodeBook,
    sources: Sources,
    greetings: Greetings,
    probes: Probes,
    knocks: Knocks,
    /// How ended sessions ended, for the peer that took part.
    ended: std::collections::VecDeque<(SessionId, PeerId, SessionState)>,
    /// Sessions whose end was noted while no job worked on them.
    settled: std::collections::VecDeque<SessionId>,
    shutdown: Option<oneshot::Sender<()>>,
}

/// Starts the coordinator's task.
pub(crate) fn spawn(setup: Setup) -> CoordinatorHandle {
    let (commands, command_queue) = mpsc::channel(COMMANDS);
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (lanes, lane_queue) = mpsc::channel(LANE_REPORTS);
    let handle = CoordinatorHandle { commands };
    let tickets = TicketBook::new(setup.net.local_peer());
    let codes = CodeBook::new(setup.net.local_peer());
    let shared = Shared {
        net: setup.net,
        state: setup.state,
        store: setup.store,
        hashes: setup.hashes,
        clock: Clock::start(),
        retry: setup.retry,
        max_lanes: setup.max_lanes,
        max_chunk: setup.max_chunk,
        limit: setup.limit,
        compression: setup.compression,
        look_again_after: setup.look_again_after,
        late_from: setup.late_from,
        #[cfg(feature = "test-hooks")]
        is_cold: setup.is_cold,
        events,
        lanes,
        #[cfg(feature = "test-hooks")]
        faults: setup.faults,
    };
    let coordinator = Coordinator {
        shared,
        handle: handle.clone(),
        commands: command_queue,
        events: event_queue,
        lanes: lane_queue,
        net_events: setup.net_events,
        net_is_up: true,
        jobs: BTreeMap::new(),
        next_job: 1,
        tickets,
        codes,
        sources: Sources::default(),
        greetings: Greetings::default(),
        probes: Probes::default(),
        knocks: Knocks::default(),
        ended: std::collections::VecDeque::new(),
        settled: std::collections::VecDeque::new(),
        shutdown: None,
    };
    tokio::spawn(coordinator.run());
    handle
}

impl Coordinator {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(command) = self.commands.recv() => self.command(command),
                Some(event) = self.events.recv() => self.event(event),
                Some(report) = self.lanes.recv() => self.lane(report),
                event = self.net_events.recv(), if self.net_is_up => match event {
                    Some(event) => self.net_event(event),
                    None => self.net_is_up = false,
                },
                _ = tick.tick() => self.tick(),
            }
            // whoever has a session, or an offer of one, is found by the other side
            self.shared.net.offer(!self.jobs.is_empty());
            if let Some(done) = self.shutdown.take_if(|_| self.jobs.is_empty()) {
                // the caller may have given up waiting
                done.send(()).ok();
                return;
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Offer { source, offer, earlier, devices, reply } => {
                let offered = self.offer(*source, offer, earlier, devices);
                // a caller that is gone leaves tickets nobody knows; they expire
                reply.send(offered).ok();
            }
            Command::Import { ticket, peer, import, reply } => {
                let started = self.import(*ticket, peer, *import);
                reply.send(started).ok();
            }
            Command::OfferArchive { source, plan, reply } => {
                let offered = self.offer_archive(*source, plan);
                reply.send(offered).ok();
            }
            Command::ImportArchive { ticket, peer, import, device_name, reply } => {
                let started = self.import_archive(*ticket, peer, *import, device_name);
                reply.send(started).ok();
            }
            Command::Resume { record, resume, reply } => {
                let started = self.resume(*record, *resume);
                reply.send(started).ok();
            }
            Command::Decide { job, agreed } => match self.jobs.get_mut(&job) {
                Some(Job::Import(import)) => import.decide(agreed, &self.shared),
                Some(Job::Archive(archive)) => archive.decide(agreed),
                Some(Job::Export(_)) | None => {}
            },
            Command::TicketSecret { ticket, reply } => {
                reply.send(self.tickets.secret(ticket)).ok(); // Err: nobody waits any more
            }
            Command::Abort { job } => self.stop(job, Code::Aborted),
            Command::Suspend { job } => self.suspend(job),
            Command::Shutdown { done } => {
                self.shutdown = Some(done);
                let all: Vec<_> = self.jobs.keys().copied().collect();
                all.into_iter().for_each(|job| self.suspend(job));
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Asked(asked) => self.probed(asked),
            Event::Knocked(knock) => self.knocked(*knock),
            Event::Inbound(greeted) => self.inbound(greeted),
            Event::Settled(session, failed) => self.settled(session, failed),
            Event::Hashed(id, hashed) => self.hashed(id, &hashed),
            Event::Outlined(id, outline) => self.outlined(id, outline),
            Event::Job(id, JobEvent::Finished(outcome)) => self.finished(id, *outcome),
            Event::Job(id, JobEvent::Rescanned(result)) => self.rescanned(id, *result),
            Event::Job(id, event) => match self.jobs.get_mut(&id) {
                Some(Job::Export(job)) => {
                    let hashed = matches!(event, JobEvent::Rest(_));
                    export_event(job, event, &self.shared);
                    if hashed && job.session().is_none() {
                        self.tickets.supersede(id);
                    }
                }
                Some(Job::Import(job)) => import_event(job, event, &self.shared),
                Some(Job::Archive(job)) => job.event(&event),
                None => tracing::debug!("an event of a job that is gone"),
            },
        }
    }

    fn lane(&mut self, report: LaneReport) {
        let LaneReport { job, conversation, event } = report;
        match self.jobs.get_mut(&job) {
            Some(Job::Export(export)) => export.lane(conversation, event, &self.shared),
            Some(Job::Import(import)) => import.lane(conversation, event, &self.shared),
            Some(Job::Archive(_)) => tracing::error!("a lane of an archive, which has none"),
            None => tracing::debug!("a report of a job that is gone"),
        }
    }

    fn tick(&mut self) {
        let now = self.shared.clock.now();
        for news in self.codes.tick(now) {
            self.tell_code(news);
        }
        for job in self.jobs.values_mut() {
            match job {
                Job::Export(export) => export.tick(now, &self.shared),
                Job::Import(import) => import.tick(now, &self.shared),
                // its task has a clock of its own
                Job::Archive(_) => {}
            }
        }
    }

    fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::InboundStream(inbound) => {
                self.greetings.greet(inbound, self.shared.events.clone());
            }
            NetEvent::Archive(inbound) => self.knocks.read(inbound, self.shared.events.clone()),
            NetEvent::Probe(inbound) => self.probes.read(inbound, self.shared.events.clone()),
            NetEvent::Request { peer, from, request, reply } => self.request(peer, from, &request, reply),
            // whoever lost it need not wait for the next try
            NetEvent::PeerConnected(peer) => {
                for job in self.jobs.values_mut() {
                    if let Job::Import(job) = job {
                        job.peer_is_here(peer, &self.shared);
                    }
                }
            }
            // sessions notice through their own streams
            NetEvent::PeerDisconnected(_) => {}
        }
    }

    fn inbound(&mut self, greeted: Greeted) {
        let Greeted { peer, hello, stream } = greeted;
        let found = self.jobs.iter_mut().find(|(_, job)| job.session() == Some((hello.session_id, peer)));
        match (found, hello.role) {
            (Some((id, Job::Export(job))), StreamRole::Control) if job.takes_control() => {
                let (id, events) = (*id, self.shared.events.clone());
                tokio::spawn(async move {
                    let mut stream = stream;
                    if streams::accept(&mut stream).await.is_ok() {
                        let accepted = JobEvent::ControlAccepted(hello.session_id, peer, Box::new(stream));
                        events.send(Event::Job(id, accepted)).await.ok();
                    }
                });
            }
            (Some((_, Job::Import(job))), StreamRole::Lane(number)) if job.takes_lane(number) => {
                job.lane_opened(number, stream, &self.shared);
            }
            (Some((_, Job::Import(job))), StreamRole::Strand(number)) if job.takes_strand(number) => {
                job.strand_opened(number, stream);
            }
            (Some(_), _) => streams::refuse(stream, Code::FrameUnexpected),
            (None, StreamRole::Control) => {
                // it was granted or resumed a moment ago by a job that has ended since
                let store = self.shared.store.clone();
                tokio::spawn(async move {
                    let record = store.export_of(hello.session_id).await;
                    let is_open = |record: &ExportRecord| record.peer == Some(peer) && !record.state.is_over();
                    let code = match record {
                        Ok(Some(record)) if is_open(&record) => Code::NotOffered,
                        Ok(_) => Code::SessionUnknown,
                        Err(_) => Code::Busy,
                    };
                    streams::refuse(stream, code);
                });
            }
            (None, _) => streams::refuse(stream, Code::SessionUnknown),
        }
    }

    /// Whoever waits at an offer sees its code.
    fn tell_code(&mut self, news: News) {
        let Some(Job::Export(job)) = self.jobs.get(&news.job) else { return };
        job.view.send_modify(|view| (view.spoken_code, view.codes_burnt) = (news.code, news.burnt));
    }
}

/// Where a ticket's exporter may be reached: its own addresses and those a person named.
pub(crate) fn addresses(ticket: &Ticket, named: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut all = named;
    all.extend(crate::net::parse_addresses(&ticket.addresses));
    all
}

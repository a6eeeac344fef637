//! The jobs of the coordinator: how they begin and end, and what tasks tell them.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::message::SessionState;
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio::sync::watch;

use super::archives::ArchiveJob;
use super::connect::{Established, Missed, Route};
use super::control::ControlEvent;
use super::explain::Failure;
use super::export::ExportJob;
use super::handle::{ImportPlan, ResumePlan};
use super::import::{self, Adopted, Checked, ImportJob, Opened, Staged, Swap};
use super::sources::Hashed;
use super::{Coordinator, Shared, view};
use crate::api::{JobHandle, JobId, JobView, Outcome, Role};
use crate::limit::{Limiter, Throttle};
use crate::link::ByteStream;
use crate::net::TransportPreference;
use crate::source::Source;
use crate::staging::Target;
use crate::store::ImportRecord;
use crate::transfer::Compression;

/// Sessions that may be active at once, in each role.
pub(crate) const MAX_JOBS: usize = 16;
/// Ended jobs that are remembered for peers who ask how their session ended.
pub(super) const REMEMBERED: usize = 64;
/// How long a job that resumes looks for its exporter at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) enum JobEvent {
    /// Exporter: what an outline left is hashed.
    Rest(Box<Hashed>),
    /// Exporter: a tree that changed was looked at again; none if it is what it was.
    Rescanned(Box<Result<Option<Source>, Failure>>),
    /// Exporter: a control stream came in and is acknowledged.
    ControlAccepted(SessionId, PeerId, Box<ByteStream>),
    /// Something on the control stream of this conversation.
    Control(u32, ControlEvent),
    /// Importer: a try to connect ended.
    Established(Box<Result<Established, Missed>>),
    /// Importer: work on the disk ended.
    Checked(Box<Checked>),
    Staged(Box<Staged>),
    Adopted(Box<Adopted>),
    Opened(Box<Opened>),
    Repinned(Box<Result<Target, Failure>>),
    Checkpointed(Result<(), Failure>),
    Swapping,
    Restarting,
    Applied(Box<Swap>),
    /// Everything of the job is let go.
    Finished(Box<Outcome>),
}

#[derive(Debug)]
pub(super) enum Job {
    Export(Box<ExportJob>),
    Import(Box<ImportJob>),
    Archive(Box<ArchiveJob>),
}

impl Job {
    pub(super) fn view(&self) -> &watch::Sender<JobView> {
        match self {
            Self::Export(job) => &job.view,
            Self::Import(job) => &job.view,
            Self::Archive(job) => &job.view,
        }
    }

    /// The session and its peer, while it is alive.
    pub(super) fn session(&self) -> Option<(SessionId, PeerId)> {
        self.party().filter(|_| !self.is_over())
    }

    /// The session and its peer, ended or not.
    pub(super) fn party(&self) -> Option<(SessionId, PeerId)> {
        match self {
            Self::Export(job) => job.session(),
            Self::Import(job) => job.session(),
            // nothing of v4 belongs to it
            Self::Archive(_) => None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Export(job) => job.is_over(),
            Self::Import(job) => job.is_over(),
            // it is gone once its task is over
            Self::Archive(_) => false,
        }
    }
}

pub(super) fn export_event(job: &mut ExportJob, event: JobEvent, shared: &Shared) {
    match event {
        JobEvent::Rest(result) => job.hashed(*result, shared),
        // while it was acknowledged the job may have come to serve another session
        JobEvent::ControlAccepted(session, peer, stream) => {
            if job.session() == Some((session, peer)) && job.takes_control() {
                job.opened(*stream, shared);
            }
        }
        JobEvent::Control(conversation, event) => job.control(conversation, event, shared),
        JobEvent::Established(_)
        | JobEvent::Checked(_)
        | JobEvent::Staged(_)
        | JobEvent::Adopted(_)
        | JobEvent::Opened(_)
        | JobEvent::Repinned(_)
        | JobEvent::Checkpointed(_)
        | JobEvent::Swapping
        | JobEvent::Restarting
        | JobEvent::Applied(_)
        | JobEvent::Rescanned(_)
        | JobEvent::Finished(_) => tracing::error!("an importer's event at an exporter"),
    }
}

pub(super) fn import_event(job: &mut ImportJob, event: JobEvent, shared: &Shared) {
    match event {
        JobEvent::Established(result) => job.established(*result, shared),
        JobEvent::Control(conversation, event) => job.control(conversation, event, shared),
        JobEvent::Checked(result) => job.checked(*result, shared),
        JobEvent::Staged(result) => job.staged(*result, shared),
        JobEvent::Adopted(result) => job.adopted(*result, shared),
        JobEvent::Opened(result) => job.opened(*result, shared),
        JobEvent::Repinned(result) => job.repinned(*result, shared),
        JobEvent::Checkpointed(result) => job.checkpointed(result, shared),
        JobEvent::Swapping => job.swapping(shared),
        JobEvent::Restarting => job.restarting(shared),
        JobEvent::Applied(result) => job.applied(*result, shared),
        JobEvent::Rest(_) | JobEvent::Rescanned(_) | JobEvent::ControlAccepted(..) | JobEvent::Finished(_) => {
            tracing::error!("an exporter's event at an importer");
        }
    }
}

pub(super) fn state_of(view: &JobView) -> SessionState {
    let progress = &view.progress;
    // SPEC §9.2-1: before anything is sent, what is hashed
    let counters = Counters {
        files_ok: progress.files_hashed.unwrap_or(progress.files_ok),
        files_failed: progress.files_failed,
        files_total: progress.files_total,
        bytes_done: progress.bytes_hashed.unwrap_or(progress.bytes_received),
        bytes_total: progress.bytes_total,
        retry_round: progress.retry_round,
    };
    let code = match &view.outcome {
        Some(Outcome::Failed { code, .. }) => Some(*code),
        Some(Outcome::Completed(_)) | None => None,
    };
    SessionState { phase: view.phase, counters, code }
}

impl Coordinator {
    pub(super) fn suspend(&mut self, job: JobId) {
        let code = Code::NodeStopping;
        match self.jobs.get_mut(&job) {
            Some(Job::Export(export)) => export.suspend(Failure::of(code, Role::Exporter), &self.shared),
            Some(Job::Import(import)) => import.suspend(Failure::of(code, Role::Importer), &self.shared),
            Some(Job::Archive(archive)) => archive.stop(code),
            None => {}
        }
    }

    pub(super) fn stop(&mut self, job: JobId, code: Code) {
        match self.jobs.get_mut(&job) {
            Some(Job::Export(export)) => export.stop(Failure::of(code, Role::Exporter), &self.shared),
            Some(Job::Import(import)) => import.stop(Failure::of(code, Role::Importer), &self.shared),
            Some(Job::Archive(archive)) => archive.stop(code),
            None => {}
        }
    }

    pub(super) fn stopped_by_peer(&mut self, job: JobId) {
        match self.jobs.get_mut(&job) {
            Some(Job::Import(import)) => {
                import.stopped_by_peer(Failure::of(Code::Aborted, Role::Importer), &self.shared);
            }
            Some(Job::Export(_) | Job::Archive(_)) | None => self.stop(job, Code::Aborted),
        }
    }

    pub(super) fn admit(&mut self) -> Result<JobId, Code> {
        if self.shutdown.is_some() {
            return Err(Code::NodeStopping);
        }
        if self.jobs.len() >= MAX_JOBS {
            return Err(Code::Busy);
        }
        let id = JobId(self.next_job);
        self.next_job += 1;
        Ok(id)
    }

    /// The limit of a new job, and what its lanes go by.
    pub(super) fn limits(&self) -> (Limiter, Throttle) {
        let limit = Limiter::default();
        (limit.clone(), Throttle::new(limit, self.shared.limit.clone()))
    }

    pub(super) fn import(&mut self, ticket: Ticket, peer: PeerId, plan: ImportPlan) -> Result<JobHandle, Code> {
        let id = self.admit()?;
        let mut route = self.route(peer, plan.addresses, plan.transport, plan.connect_timeout);
        route.zstd &= !plan.unpacked;
        let (view, watch) = watch::channel(JobView::new(Role::Importer));
        view.send_modify(|v| v.progress.detail = view::detail(Phase::NearbyConnecting).to_owned());
        let (limit, throttle) = self.limits();
        let start = import::Start {
            consent: plan.consent,
            late_hashes: plan.late_hashes,
            ticket,
            route,
            options: plan.target_options,
            throttle,
            post_apply: plan.post_apply,
        };
        let job = ImportJob::start(id, view, start, plan.target, &self.shared);
        self.jobs.insert(id, Job::Import(Box::new(job)));
        Ok(JobHandle { id, view: watch, limit, coordinator: self.handle.clone() })
    }

    pub(super) fn resume(&mut self, record: ImportRecord, plan: ResumePlan) -> Result<JobHandle, Code> {
        let known = self.jobs.values().any(|job| job.session().is_some_and(|(session, _)| session == record.session));
        if known {
            return Err(Code::TargetBusy);
        }
        let id = self.admit()?;
        let mut route = self.route(plan.peer, plan.addresses, plan.transport, CONNECT_TIMEOUT);
        route.zstd &= !plan.unpacked;
        let (view, watch) = watch::channel(JobView::new(Role::Importer));
        let (limit, throttle) = self.limits();
        let start = import::Start {
            consent: plan.consent,
            late_hashes: false,
            ticket: plan.ticket,
            route,
            options: plan.target_options,
            throttle,
            post_apply: plan.post_apply,
        };
        let job = ImportJob::resume(id, view, start, record, &self.shared);
        self.jobs.insert(id, Job::Import(Box::new(job)));
        Ok(JobHandle { id, view: watch, limit, coordinator: self.handle.clone() })
    }

    pub(super) fn route(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        transport: TransportPreference,
        timeout: Duration,
    ) -> Route {
        let (max_lanes, max_chunk) = (self.shared.max_lanes, self.shared.max_chunk);
        let zstd = self.shared.compression != Compression::Never;
        Route { peer, addresses, transport, timeout, max_lanes, max_chunk, zstd, holes: true }
    }

    pub(super) fn finished(&mut self, id: JobId, outcome: Outcome) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.tickets.close(id);
        self.codes.close(id);
        let phase = match outcome {
            Outcome::Completed(_) => Phase::Completed,
            Outcome::Failed { .. } => Phase::Failed,
        };
        let view = job.view();
        view.send_modify(|view| {
            view.phase = phase;
            view.progress.detail = view::detail(phase).to_owned();
            view.spoken_code = None;
            view.outcome = Some(outcome);
        });
        // one that was put aside goes on by its record: its end is still to come
        let is_kept = match &job {
            Job::Export(export) => !export.record().state.is_over() && export.record().peer.is_some(),
            Job::Archive(_) => false,
            Job::Import(_) => {
                matches!(job.view().borrow().outcome, Some(Outcome::Failed { code: Code::NodeStopping, .. }))
            }
        };
        if let Some((session, peer)) = job.party().filter(|_| !is_kept) {
            self.ended.truncate(REMEMBERED - 1);
            self.ended.push_front((session, peer, state_of(&view.borrow())));
        }
    }
}

//! Jobs that send or receive one archive (SPEC §13). Each is one task that goes through the list of what is said and done,
//! from the first word to the last; there is no resume, so nothing outlives it but the applied tree.
//!
//! The coordinator keeps what it must know of such a job: whose ticket it is, who has used it, how to stop it, and who waits
//! for an answer. What a task shows, it shows in the job's view.
//!
//! ```text
//!  export:  walk ─► hash, measure ─► hello ─► offer ─► take ─► pieces ─► applied ─► heard
//!  import:  hello ─► offer ─► question ─► take ─► spool ─► check ─► staging ─► swap ─► applied ─► heard
//! ```

mod export;
mod import;
mod knock;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use me_sync_protocol::archive::{self, ArchiveTicket};
use me_sync_protocol::ids::{Secret, SessionId};
use me_sync_protocol::progress::Phase;
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::Code;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(super) use self::knock::{Knock, Knocks};
use super::explain::Failure;
use super::handle::{ArchivePlan, ImportPlan};
use super::import::{LastWord, Word};
use super::{Coordinator, Event, Job, JobEvent, view};
use crate::api::{JobHandle, JobId, JobView, Outcome, Protocol, Role};
use crate::archive::Watch;
use crate::clock;
use crate::random;
use crate::source::Source;

/// An archive that is sent or received.
#[derive(Debug)]
pub(super) struct ArchiveJob {
    pub(super) view: watch::Sender<JobView>,
    role: Role,
    stopping: Stopping,
    /// Who waits for a decision.
    answer: Option<oneshot::Sender<bool>>,
    door: Option<Door>,
}

/// Where importers of an archive knock.
#[derive(Debug)]
struct Door {
    transfer: SessionId,
    key: Secret,
    expires_wall_ms: u64,
    /// Gone once somebody has come in: a ticket is good once.
    open: Option<oneshot::Sender<Knock>>,
}

/// How a job is told to stop, and why it was.
#[derive(Debug, Clone, Default)]
struct Stopping {
    token: CancellationToken,
    why: Arc<OnceLock<Failure>>,
    /// What works on the disk.
    work: Arc<Watch>,
    /// The swap goes by this.
    last_word: LastWord,
}

impl Stopping {
    fn stop(&self, failure: Failure) {
        // the first reason counts
        self.why.set(failure).ok();
        self.last_word.say(Word::Abort);
        self.work.stop.store(true, Ordering::Relaxed);
        self.token.cancel();
    }

    /// Comes back when the job is to stop.
    async fn asked(&self, role: Role) -> Failure {
        self.token.cancelled().await;
        self.why.get().cloned().unwrap_or_else(|| Failure::of(Code::Aborted, role))
    }
}

impl ArchiveJob {
    /// Ends it, unless the swap has begun. Nothing of it can be kept.
    pub(super) fn stop(&self, code: Code) {
        self.stopping.stop(Failure::of(code, self.role));
    }

    pub(super) fn decide(&mut self, agreed: bool) {
        if self.view.borrow().review.is_none() {
            return;
        }
        self.view.send_modify(|view| view.review = None);
        if let Some(answer) = self.answer.take() {
            // a job that has ended meanwhile needs none
            answer.send(agreed).ok();
        }
    }

    /// What the thread that swaps has to tell.
    pub(super) fn event(&self, event: &JobEvent) {
        match event {
            JobEvent::Swapping => show_phase(&self.view, Phase::Applying),
            JobEvent::Restarting => show_phase(&self.view, Phase::RestartingRuntime),
            _ => tracing::error!("an event of another kind of job"),
        }
    }
}

fn show_phase(view: &watch::Sender<JobView>, phase: Phase) {
    view.send_modify(|view| {
        view.phase = phase;
        view.progress.detail = view::detail(phase).to_owned();
    });
}

/// The two devices have met: the transfer is a session now.
fn begin(view: &mut JobView, transfer: SessionId) {
    (view.session_id, view.begun_ms) = (Some(transfer), Some(clock::wall_ms()));
}

/// How the other side ended it, as this side says it: that the other one stops is an end for good, as nothing is resumed.
fn as_heard(code: Code) -> Code {
    if code == Code::NodeStopping { Code::Aborted } else { code }
}

fn first_view(role: Role, source_name: String) -> JobView {
    let mut first = JobView { protocol: Protocol::V3, source_name: Some(source_name), ..JobView::new(role) };
    first.progress.detail = view::detail(Phase::NearbyConnecting).to_owned();
    first
}

impl Coordinator {
    /// Offers a tree as an archive: makes its ticket at once, and its package while the importer is on its way.
    pub(super) fn offer_archive(
        &mut self,
        source: Source,
        plan: ArchivePlan,
    ) -> Result<(ArchiveTicket, JobHandle), Code> {
        let id = self.admit()?;
        let (transfer, key) = (SessionId(random::bytes()), Secret::from_bytes(random::bytes()));
        let root = &source.summary().root;
        let name = root.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned());
        let ttl_ms = u64::try_from(plan.ttl.as_millis()).unwrap_or(u64::MAX);
        let expires_wall_ms = clock::wall_ms().saturating_add(ttl_ms);
        let ticket = ArchiveTicket {
            transfer_id: transfer,
            session_nonce: key.clone(),
            expires_at_ms: expires_wall_ms,
            source_name: name.clone(),
            has_v4: plan.has_v4,
            peer_id: plan.device.peer.to_string(),
            addresses: plan.device.addresses,
        };
        let (view, watch) = watch::channel(first_view(Role::Exporter, name.clone()));
        let (limit, throttle) = self.limits();
        let (open, knock) = oneshot::channel();
        let job = ArchiveJob {
            view: view.clone(),
            role: Role::Exporter,
            stopping: Stopping::default(),
            answer: None,
            door: Some(Door { transfer, key: key.clone(), expires_wall_ms, open: Some(open) }),
        };
        let export = export::Export {
            view,
            transfer,
            key,
            source_name: name,
            compression: plan.compression.unwrap_or(self.shared.compression),
            throttle,
            ttl: plan.ttl,
            local: self.shared.net.local_peer(),
            stopping: job.stopping.clone(),
            hashes: self.shared.hashes.clone(),
        };
        self.jobs.insert(id, Job::Archive(Box::new(job)));
        self.run_archive(id, export.run(source, knock));
        Ok((ticket, JobHandle { id, view: watch, limit, coordinator: self.handle.clone() }))
    }

    /// Receives an archive into a target that is pinned.
    pub(super) fn import_archive(
        &mut self,
        ticket: ArchiveTicket,
        peer: PeerId,
        plan: ImportPlan,
        device_name: String,
    ) -> Result<JobHandle, Code> {
        let id = self.admit()?;
        let first = first_view(Role::Importer, ticket.source_name.clone());
        let (view, watch) = watch::channel(first);
        let (limit, throttle) = self.limits();
        let (answer, answered) = oneshot::channel();
        let job = ArchiveJob {
            view: view.clone(),
            role: Role::Importer,
            stopping: Stopping::default(),
            answer: Some(answer),
            door: None,
        };
        let import = import::Import {
            id,
            view,
            ticket,
            route: self.route(peer, plan.addresses, plan.transport, plan.connect_timeout),
            consent: plan.consent,
            post_apply: plan.post_apply,
            throttle,
            device_name,
            stopping: job.stopping.clone(),
            net: self.shared.net.clone(),
            state: self.shared.state.clone(),
            events: self.shared.events.clone(),
        };
        self.jobs.insert(id, Job::Archive(Box::new(job)));
        self.run_archive(id, import.run(plan.target, answered));
        Ok(JobHandle { id, view: watch, limit, coordinator: self.handle.clone() })
    }

    fn run_archive(&self, id: JobId, task: impl Future<Output = Outcome> + Send + 'static) {
        let events = self.shared.events.clone();
        tokio::spawn(async move {
            let outcome = Box::new(task.await);
            // a coordinator that is gone does not need the news
            events.send(Event::Job(id, JobEvent::Finished(outcome))).await.ok();
        });
    }

    /// Somebody has come to a ticket. Whatever is wrong with that has one answer.
    // SPEC §13.3
    pub(super) fn knocked(&mut self, knock: Knock) {
        let (exporter, importer) = (self.shared.net.local_peer().to_bytes(), knock.peer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let doors = self.jobs.values_mut().filter_map(|job| match job {
            Job::Archive(job) => job.door.as_mut(),
            Job::Export(_) | Job::Import(_) => None,
        });
        let door = doors.into_iter().find(|door| door.transfer == knock.hello.transfer_id);
        let expected = |key| archive::prove_hello(key, knock.hello.transfer_id, ends, knock.hello.nonce);
        let is_good = door.as_ref().is_some_and(|door| {
            let is_proven = proof::matches(&expected(&door.key), &knock.hello.proof);
            is_proven && clock::wall_ms() < door.expires_wall_ms
        });
        let open = door.filter(|_| is_good).and_then(|door| door.open.take());
        let refused = match open {
            Some(open) => open.send(knock).err(),
            None => Some(knock),
        };
        if let Some(knock) = refused {
            tracing::debug!(peer = %knock.peer, "nobody opens for this ticket");
            knock.refuse(Code::TicketInvalid);
        }
    }
}

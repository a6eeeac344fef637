//! How the node talks to the coordinator: commands with an answer, over one bounded queue.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::ids::{Secret, SessionId, TicketId};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio::sync::{mpsc, oneshot};

use crate::api::{Consent, JobHandle, JobId};
use crate::net::TransportPreference;
use crate::post_apply::PostApply;
use crate::source::Source;
use crate::staging::{Target, TargetOptions};
use crate::store::{ExportRecord, ImportRecord};
use crate::transfer::Compression;

/// What callers want.
#[derive(Debug)]
pub(super) enum Command {
    Offer {
        source: Box<Source>,
        offer: OfferPlan,
        /// Earlier offers of this tree, with their sessions.
        earlier: Vec<ExportRecord>,
        devices: usize,
        reply: oneshot::Sender<Result<Vec<(TicketParts, JobHandle)>, Code>>,
    },
    /// Offers a tree as an archive.
    OfferArchive {
        source: Box<Source>,
        plan: ArchivePlan,
        reply: oneshot::Sender<Result<(ArchiveTicket, JobHandle), Code>>,
    },
    /// Receives one.
    ImportArchive {
        ticket: Box<ArchiveTicket>,
        peer: PeerId,
        import: Box<ImportPlan>,
        device_name: String,
        reply: oneshot::Sender<Result<JobHandle, Code>>,
    },
    Import {
        ticket: Box<Ticket>,
        peer: PeerId,
        import: Box<ImportPlan>,
        reply: oneshot::Sender<Result<JobHandle, Code>>,
    },
    /// Goes on with an import of an earlier process.
    Resume {
        record: Box<ImportRecord>,
        resume: Box<ResumePlan>,
        reply: oneshot::Sender<Result<JobHandle, Code>>,
    },
    Decide {
        job: JobId,
        agreed: bool,
    },
    /// The secret of a ticket of this node.
    TicketSecret {
        ticket: TicketId,
        reply: oneshot::Sender<Option<Secret>>,
    },
    Abort {
        job: JobId,
    },
    /// Ends the job and keeps its session.
    Suspend {
        job: JobId,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// How a source is offered.
#[derive(Debug, Clone)]
pub(crate) struct OfferPlan {
    pub(crate) ttl: Duration,
    /// No importer gets the outline.
    pub(crate) hash_first: bool,
    /// The node's if none.
    pub(crate) compression: Option<Compression>,
    /// What tickets say of this device.
    pub(crate) device: Device,
    /// Each ticket gets a spoken code, unless it is for an importer that has begun.
    pub(crate) with_code: bool,
}

/// How a source is offered as an archive.
#[derive(Debug, Clone)]
pub(crate) struct ArchivePlan {
    pub(crate) ttl: Duration,
    /// The node's if none.
    pub(crate) compression: Option<Compression>,
    /// What tickets say of this device.
    pub(crate) device: Device,
    /// This device speaks v4 too, and its ticket says so.
    pub(crate) has_v4: bool,
}

/// What tickets say of this device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<String>,
    pub(crate) name: String,
}

impl Device {
    pub(crate) fn ticket(&self, id: TicketId, secret: Secret, expires_at_ms: u64) -> Ticket {
        Ticket::new(self.peer.to_bytes(), self.addresses.clone(), id, secret, expires_at_ms, &self.name)
    }
}

/// What the coordinator contributes to a ticket.
#[derive(Debug)]
pub(crate) struct TicketParts {
    pub(crate) ticket: Ticket,
    /// What people may say instead of the ticket.
    pub(crate) code: Option<String>,
    /// The session that it opens, or that goes on.
    pub(crate) session: Option<SessionId>,
    /// The session of an earlier offer that goes on.
    pub(crate) continues: Option<SessionId>,
}

/// An import whose target is pinned and checked.
#[derive(Debug)]
pub(crate) struct ImportPlan {
    pub(crate) target: Target,
    /// What the target was pinned with.
    pub(crate) target_options: TargetOptions,
    pub(crate) consent: Consent,
    /// Nothing is here that hashes could spare.
    pub(crate) late_hashes: bool,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) transport: TransportPreference,
    pub(crate) connect_timeout: Duration,
    /// Take nothing that is packed.
    pub(crate) unpacked: bool,
    /// Runs after the swap.
    pub(crate) post_apply: Option<PostApply>,
}

/// How to go on with an import.
#[derive(Debug)]
pub(crate) struct ResumePlan {
    pub(crate) ticket: Ticket,
    pub(crate) peer: PeerId,
    pub(crate) target_options: TargetOptions,
    pub(crate) consent: Consent,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) transport: TransportPreference,
    /// Take nothing that is packed.
    pub(crate) unpacked: bool,
    /// Runs after the swap.
    pub(crate) post_apply: Option<PostApply>,
}

/// Talks to the coordinator. Cheap to clone; a coordinator that is gone answers `node_stopping`.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorHandle {
    pub(super) commands: mpsc::Sender<Command>,
}

impl CoordinatorHandle {
    pub(crate) async fn offer(
        &self,
        source: Source,
        offer: OfferPlan,
        earlier: Vec<ExportRecord>,
        devices: usize,
    ) -> Result<Vec<(TicketParts, JobHandle)>, Code> {
        let (reply, answer) = oneshot::channel();
        let source = Box::new(source);
        self.ask(Command::Offer { source, offer, earlier, devices, reply }, answer).await
    }

    pub(crate) async fn resume(&self, record: ImportRecord, resume: ResumePlan) -> Result<JobHandle, Code> {
        let (reply, answer) = oneshot::channel();
        let (record, resume) = (Box::new(record), Box::new(resume));
        self.ask(Command::Resume { record, resume, reply }, answer).await
    }

    pub(crate) async fn import(&self, ticket: Ticket, peer: PeerId, import: ImportPlan) -> Result<JobHandle, Code> {
        let (reply, answer) = oneshot::channel();
        let (ticket, import) = (Box::new(ticket), Box::new(import));
        self.ask(Command::Import { ticket, peer, import, reply }, answer).await
    }

    pub(crate) async fn ticket_secret(&self, ticket: TicketId) -> Option<Secret> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::TicketSecret { ticket, reply }).await.ok()?;
        answer.await.ok()?
    }

    pub(crate) async fn offer_archive(
        &self,
        source: Source,
        plan: ArchivePlan,
    ) -> Result<(ArchiveTicket, JobHandle), Code> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::OfferArchive { source: Box::new(source), plan, reply }, answer).await
    }

    pub(crate) async fn import_archive(
        &self,
        ticket: ArchiveTicket,
        peer: PeerId,
        import: ImportPlan,
        device_name: String,
    ) -> Result<JobHandle, Code> {
        let (reply, answer) = oneshot::channel();
        let (ticket, import) = (Box::new(ticket), Box::new(import));
        self.ask(Command::ImportArchive { ticket, peer, import, device_name, reply }, answer).await
    }

    pub(crate) async fn decide(&self, job: JobId, agreed: bool) {
        // with the coordinator gone the job has ended already
        self.commands.send(Command::Decide { job, agreed }).await.ok();
    }

    pub(crate) async fn abort(&self, job: JobId) {
        self.commands.send(Command::Abort { job }).await.ok();
    }

    pub(crate) async fn suspend(&self, job: JobId) {
        self.commands.send(Command::Suspend { job }).await.ok();
    }

    /// Ends every job and keeps its session; waits for those that cannot be ended.
    pub(crate) async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            ended.await.ok();
        }
    }

    async fn ask<T>(&self, command: Command, answer: oneshot::Receiver<Result<T, Code>>) -> Result<T, Code> {
        self.commands.send(command).await.map_err(|_| Code::NodeStopping)?;
        answer.await.map_err(|_| Code::NodeStopping)?
    }
}

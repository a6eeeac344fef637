//! Offering a tree, to one device or to several at once.

use std::path::Path;
use std::time::Duration;

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::limits::TICKET_TTL;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NodeHandle, Unfinished};
use crate::api::JobHandle;
use crate::coordinator::{Device, MAX_JOBS, OfferPlan, TicketParts};
use crate::limit::Rate;
use crate::net::NetError;
use crate::source::Source;
use crate::store::{ExportRecord, SessionStatus, StoreError};
use crate::transfer::Compression;

/// Longest life of a ticket: 24 h.
pub(super) const MAX_TICKET_TTL: Duration = Duration::from_secs(24 * 3600);

/// How to offer a tree.
#[derive(Debug, Clone, Copy)]
pub struct OfferOptions {
    /// Until when the ticket is good. Default: 10 minutes; at most 24 hours.
    pub ttl: Duration,
    /// Do not go on with an unfinished session of this tree. Default: go on.
    pub fresh: bool,
    /// Hash everything before anything is sent, also for an importer that would take the tree without. Default: no.
    pub hash_first: bool,
    /// Go on with this session; where it cannot be, the offer is refused. Default: the newest one of this tree.
    pub session: Option<SessionId>,
    /// Send no faster than this; [`JobHandle::set_limit`] changes it. Default: no limit besides the node's.
    pub limit: Option<Rate>,
    /// Default: as the node does.
    pub compression: Option<Compression>,
    /// Make a spoken code beside the ticket. Default: where mDNS is on, since a code is of use to who finds this device.
    pub code: Option<bool>,
}

impl OfferOptions {
    /// Most devices that one tree is offered to at once.
    pub const MAX_DEVICES: usize = MAX_JOBS;
}

impl Default for OfferOptions {
    fn default() -> Self {
        Self {
            ttl: TICKET_TTL,
            fresh: false,
            hash_first: false,
            session: None,
            limit: None,
            compression: None,
            code: None,
        }
    }
}

/// An offer that waits for its importer.
#[derive(Debug)]
pub struct Offer {
    /// The ticket.
    pub ticket: Ticket,
    /// The text to copy to the other device. It is a secret.
    pub ticket_uri: String,
    /// What people may say to the other device instead, if it is nearby; it is a secret too. A wrong try burns it: the
    /// present one is in the job's view. None for an offer that goes on with an unfinished session.
    pub code: Option<String>,
    /// When it becomes void, in milliseconds since 1970.
    pub expires_at_ms: u64,
    /// The session that it opens, known before anybody redeems the ticket. Another one takes its place if the tree
    /// changes later.
    pub session: Option<SessionId>,
    /// The unfinished session that this offer goes on with.
    pub continues: Option<Unfinished>,
    /// Its job.
    pub job: JobHandle,
}

/// An offer was not made.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// A ticket lives at most 24 hours.
    #[error("a ticket lives for at most 24 hours")]
    Ttl,
    /// No address is known to put into the ticket.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The session store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// That session cannot be gone on with by offering this tree in this way.
    #[error("session {session} does not send this tree", session = session.short())]
    Unknown {
        /// Which.
        session: SessionId,
    },
    /// That many devices are not served at once.
    #[error("a tree is offered to 1 to {MAX_DEVICES} devices at once", MAX_DEVICES = OfferOptions::MAX_DEVICES)]
    Devices,
    /// The node takes no more jobs.
    #[error("the node takes no more jobs ({0})")]
    Refused(Code),
}

impl OfferError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Ttl => Code::TicketInvalid,
            Self::Net(e) => e.code(),
            Self::Store(e) => e.code(),
            Self::Unknown { .. } => Code::SessionUnknown,
            Self::Devices => Code::Busy,
            Self::Refused(code) => *code,
        }
    }
}

/// A device that took a tree from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SentTo {
    /// The other device's name for itself: escape before printing.
    pub device_name: String,
    /// Its PeerId.
    pub peer_id: String,
    /// When it was done, in milliseconds since 1970.
    pub at_ms: u64,
}

impl NodeHandle {
    /// The devices that took what was at `root`, each once, the last one first. What they took may have changed since.
    ///
    /// # Errors
    /// The session store cannot be read.
    pub async fn sent_from(&self, root: &Path) -> Result<Vec<SentTo>, StoreError> {
        let mut exports = self.store.exports().await?;
        exports.retain(|record| record.state == SessionStatus::Completed && record.root == root);
        exports.sort_by_key(|record| std::cmp::Reverse(record.last.wall_ms));
        let mut all: Vec<SentTo> = Vec::new();
        for (peer, record) in exports.into_iter().filter_map(|record| Some((record.peer?.to_string(), record))) {
            if all.iter().all(|one| one.peer_id != peer) {
                all.push(SentTo { device_name: record.peer_name, peer_id: peer, at_ms: record.last.wall_ms });
            }
        }
        Ok(all)
    }

    /// Offers a walked tree: makes a ticket, and hashes while the importer is on its way. An unfinished session of
    /// the same tree goes on, with its ticket, which is good for its importer only.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn offer(&self, source: Source, options: OfferOptions) -> Result<Offer, OfferError> {
        let mut offers = self.offer_to_many(source, options, 1).await?;
        offers.pop().ok_or(OfferError::Devices)
    }

    /// Offers one walked tree to several devices: as many tickets, and for all of them one hashing and one manifest.
    /// Unfinished sessions of the same tree go on, the newest first, as far as there are offers for them.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub async fn offer_to_many(
        &self,
        source: Source,
        options: OfferOptions,
        devices: usize,
    ) -> Result<Vec<Offer>, OfferError> {
        if options.ttl > MAX_TICKET_TTL {
            return Err(OfferError::Ttl);
        }
        if !(1..=OfferOptions::MAX_DEVICES).contains(&devices) {
            return Err(OfferError::Devices);
        }
        let addresses: Vec<_> = self.net.addresses().await?.iter().map(ToString::to_string).collect();
        let earlier = if options.fresh { Vec::new() } else { self.earlier_offers(&source, options.session).await? };
        if let (Some(session), true) = (options.session, earlier.is_empty()) {
            return Err(OfferError::Unknown { session });
        }
        let known: Vec<_> = earlier.iter().filter_map(Unfinished::of_export).collect();
        let plan = OfferPlan {
            ttl: options.ttl,
            hash_first: options.hash_first,
            compression: options.compression,
            device: Device { peer: self.net.local_peer(), addresses, name: self.config.device_name.clone() },
            with_code: options.code.unwrap_or(self.config.mdns),
        };
        let offered = self.coordinator.offer(source, plan, earlier, devices).await;
        let offered = offered.map_err(OfferError::Refused)?;
        let offers = offered.into_iter().map(|(parts, job)| {
            job.set_limit(options.limit);
            offer_of(parts, job, &known)
        });
        Ok(offers.collect())
    }

    /// The unfinished sessions that send this very tree in this way, the newest first, or the named one.
    async fn earlier_offers(
        &self,
        source: &Source,
        session: Option<SessionId>,
    ) -> Result<Vec<ExportRecord>, StoreError> {
        let (root, choices) = (&source.summary().root, source.options().into());
        let mut exports = self.store.exports().await?;
        exports.retain(|r| session.is_none_or(|named| r.grant.as_ref().is_some_and(|grant| grant.session == named)));
        exports.retain(|r| !r.state.is_over() && r.grant.is_some() && r.root == *root && r.choices == choices);
        exports.sort_by_key(|record| std::cmp::Reverse(record.last.wall_ms));
        Ok(exports)
    }
}

fn offer_of(parts: TicketParts, job: JobHandle, known: &[Unfinished]) -> Offer {
    let continues = known.iter().find(|known| parts.continues == Some(known.session)).cloned();
    Offer {
        ticket_uri: parts.ticket.to_uri(),
        expires_at_ms: parts.ticket.expires_at_ms,
        ticket: parts.ticket,
        code: parts.code,
        session: parts.session,
        continues,
        job,
    }
}

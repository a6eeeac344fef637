//! One archive to one device (SPEC §13): what is offered or imported that way is a job like others, without resume.

use std::time::Duration;

use libp2p::PeerId;
use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::limits::TICKET_TTL;
use me_sync_protocol::reason::Code;

use super::offers::MAX_TICKET_TTL;
use super::{ImportError, ImportOptions, NodeHandle, OfferError, Pinned};
use crate::api::JobHandle;
use crate::coordinator::{ArchivePlan, Device, ImportPlan};
use crate::limit::Rate;
use crate::net::parse_addresses;
use crate::source::{Source, SourceError};
use crate::transfer::Compression;

/// How to offer a tree as an archive.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveOptions {
    /// Until when the ticket is good. Default: 10 minutes; at most 24 hours.
    pub ttl: Duration,
    /// Send no faster than this; [`JobHandle::set_limit`] changes it. Default: no limit besides the node's.
    pub limit: Option<Rate>,
    /// Whether files are deflated. Default: as the node does, where the connection counts for nothing: what shrinks is.
    pub compression: Option<Compression>,
    /// The ticket says that this device speaks v4 too. Default: yes.
    pub has_v4: bool,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self { ttl: TICKET_TTL, limit: None, compression: None, has_v4: true }
    }
}

/// An archive that waits for its importer.
#[derive(Debug)]
pub struct ArchiveOffer {
    /// The ticket.
    pub ticket: ArchiveTicket,
    /// The text to copy to the other device. It is a secret.
    pub ticket_uri: String,
    /// Its job.
    pub job: JobHandle,
}

/// An archive was not offered.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is something in the tree that an archive does not hold.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// For a reason that any offer has.
    #[error(transparent)]
    Offer(#[from] OfferError),
}

impl ArchiveError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Source(err) => err.code(),
            Self::Offer(err) => err.code(),
        }
    }
}

impl NodeHandle {
    /// Offers a walked tree as one archive: makes a ticket, and the package while the importer is on its way.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn offer_archive(&self, source: Source, options: ArchiveOptions) -> Result<ArchiveOffer, ArchiveError> {
        if options.ttl > MAX_TICKET_TTL {
            return Err(OfferError::Ttl.into());
        }
        let source = tokio::task::spawn_blocking(|| source.for_archive());
        let source = source.await.map_err(|_| OfferError::Refused(Code::NodeStopping))??;
        let addresses = self.net.addresses().await.map_err(OfferError::from)?;
        let addresses = addresses.iter().map(ToString::to_string).collect();
        let plan = ArchivePlan {
            ttl: options.ttl,
            compression: options.compression,
            device: Device { peer: self.net.local_peer(), addresses, name: self.config.device_name.clone() },
            has_v4: options.has_v4,
        };
        let offered = self.coordinator.offer_archive(source, plan).await;
        let (ticket, job) = offered.map_err(OfferError::Refused)?;
        job.set_limit(options.limit);
        Ok(ArchiveOffer { ticket_uri: ticket.to_uri(), ticket, job })
    }

    /// Imports an archive. The target is resolved, locked and checked before anything is sent. Nothing of it is kept unless it
    /// comes to its end.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub async fn import_archive(
        &self,
        ticket: ArchiveTicket,
        options: ImportOptions,
    ) -> Result<JobHandle, ImportError> {
        let peer: PeerId = ticket.peer_id.parse().map_err(|_| ImportError::Ticket)?;
        let Pinned { target, target_options, .. } = self.pin(&options).await?;
        let post_apply = options.post_apply.or(None);
        if let Some(command) = &post_apply {
            command.look_beside(target.path())?;
        }
        let mut addresses = options.peer_addresses;
        addresses.extend(parse_addresses(&ticket.addresses));
        let plan = ImportPlan {
            target,
            target_options,
            consent: options.consent,
            late_hashes: false,
            addresses,
            transport: options.transport,
            connect_timeout: options.connect_timeout,
            unpacked: false,
            post_apply,
        };
        let name = self.config.device_name.clone();
        let job = self.coordinator.import_archive(ticket, peer, plan, name).await.map_err(ImportError::Refused)?;
        job.set_limit(options.limit);
        Ok(job)
    }
}

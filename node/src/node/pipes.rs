//! Sessions over a pipe: any reliable, ordered stream of bytes that an application has to another device (SPEC §5.13).

use libp2p::PeerId;
use me_sync_protocol::frame::PipeKey;
use me_sync_protocol::ids::{Secret, SessionId};
use me_sync_protocol::ticket::Ticket;
use tokio::io::{AsyncRead, AsyncWrite};

use super::NodeHandle;
use crate::net::{AttachedPipe, PipeError, PipeIo};

/// What a pipe is for.
#[derive(Debug, Clone)]
pub enum PipeSession {
    /// This node offers trees: the importer at the other end says which of its tickets or sessions it is about, and proves it.
    Offers,
    /// The tree of this ticket is imported here: attach the pipe, then call [`NodeHandle::import`].
    Ticket(Ticket),
    /// An import that was begun here goes on: attach the pipe; a running job notices, an interrupted one is
    /// [resumed](NodeHandle::resume).
    Session(SessionId),
}

impl NodeHandle {
    /// Takes a pipe to another device and has it proven, both ways, that the ends are the right ones. While it stands, it is
    /// what connects this node with that device, for one conversation; one that is lost goes on over the next pipe.
    ///
    /// The pipe itself is neither secret nor safe from somebody in the middle who changes what passes: that is for its carrier
    /// to see to, or for [`Self::attach_pipe_in_noise`]. Dropping the future lets go of the pipe.
    ///
    /// # Errors
    /// See [`PipeError`].
    pub async fn attach_pipe(
        &self,
        session: PipeSession,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<AttachedPipe, PipeError> {
        self.attach(session, Box::new(io), false).await
    }

    /// As [`Self::attach_pipe`], through Noise: for a pipe on which others may read, or change what passes. Both ends must do so.
    ///
    /// # Errors
    /// See [`PipeError`].
    pub async fn attach_pipe_in_noise(
        &self,
        session: PipeSession,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<AttachedPipe, PipeError> {
        self.attach(session, Box::new(io), true).await
    }

    async fn attach(
        &self,
        session: PipeSession,
        io: Box<dyn PipeIo>,
        in_noise: bool,
    ) -> Result<AttachedPipe, PipeError> {
        match session {
            PipeSession::Offers => self.net.pipe_from(async |key| self.secret_of(key).await, io, in_noise).await,
            PipeSession::Ticket(ticket) => {
                let exporter = PeerId::from_bytes(&ticket.peer_id).map_err(|_| PipeError::NotProven)?;
                self.net.pipe_to(exporter, PipeKey::Ticket(ticket.ticket_id), &ticket.secret, io, in_noise).await
            }
            PipeSession::Session(id) => {
                let record = self.store.import(id).await.map_err(|_| PipeError::Stopped)?;
                let record = record.ok_or(PipeError::Unknown)?;
                self.net.pipe_to(record.peer, PipeKey::Session(id), &record.grant.resume_secret, io, in_noise).await
            }
        }
    }

    async fn secret_of(&self, key: PipeKey) -> Option<Secret> {
        match key {
            PipeKey::Ticket(id) => self.coordinator.ticket_secret(id).await,
            PipeKey::Session(id) => {
                let record = self.store.export_of(id).await.ok().flatten()?;
                Some(record.grant?.resume_secret)
            }
        }
    }
}

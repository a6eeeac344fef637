//! Peers at the other end of a pipe: what is asked of them goes there, whatever connections they have beside it.

use libp2p::PeerId;
use me_sync_protocol::message::{Hello, Request, Response};
use tokio::sync::oneshot;

use super::Actor;
use crate::net::handle::Attach;
use crate::net::pipe::{self, Pipe, PipeError};
use crate::net::streams::Opener;
use crate::net::{Carrier, Connected, NetEvent, RequestError};

/// Pipes at once.
const MAX_PIPES: usize = 64;

impl Actor {
    /// A pipe takes the place of an earlier one to the same peer, as another conversation follows one that was lost.
    pub(super) fn on_attach(&mut self, attach: Attach) {
        let Attach { peer, hello, end, io, reply } = attach;
        self.pipes.retain(|_, pipe| pipe.hello().is_some());
        if self.pipes.len() >= MAX_PIPES && !self.pipes.contains_key(&peer) {
            let code = me_sync_protocol::reason::Code::Busy;
            reply.send(Err(PipeError::Violation(code))).ok(); // Err: nobody waits any more
            return;
        }
        let from = over_pipe(hello.clone());
        let (pipe, ends) = Pipe::new(peer, hello);
        let closed = pipe::start(io, end, peer, from, ends, self.events.clone());
        self.pipes.insert(peer, pipe);
        self.tell(NetEvent::PeerConnected(peer));
        reply.send(Ok(closed)).ok(); // Err: nobody waits any more
    }

    fn pipe(&self, peer: &PeerId) -> Option<&Pipe> {
        self.pipes.get(peer).filter(|pipe| pipe.hello().is_some())
    }

    pub(super) fn piped(&self, peer: &PeerId) -> Option<Connected> {
        Some(over_pipe(self.pipe(peer)?.hello()?.clone()))
    }

    /// Gives the request back if there is no pipe.
    pub(super) fn request_by_pipe(
        &self,
        peer: &PeerId,
        request: Request,
        reply: oneshot::Sender<Result<Response, RequestError>>,
    ) -> Option<(Request, oneshot::Sender<Result<Response, RequestError>>)> {
        match self.pipe(peer) {
            Some(pipe) => {
                pipe.request(request, reply);
                None
            }
            None => Some((request, reply)),
        }
    }

    /// Gives the opener back if there is no pipe.
    pub(super) fn open_by_pipe(&self, peer: &PeerId, opener: Opener) -> Option<Opener> {
        match self.pipe(peer) {
            Some(pipe) => {
                pipe.open(opener);
                None
            }
            None => Some(opener),
        }
    }
}

fn over_pipe(hello: Hello) -> Connected {
    Connected { address: pipe::nowhere(), transport: Carrier::Pipe, hello }
}

//! Requests both ways. Hello is answered here; the rest goes to the reader of the events, from known peers only.

use futures::FutureExt as _;
use libp2p::PeerId;
use libp2p::request_response::{Event, Message, OutboundFailure, OutboundRequestId, ResponseChannel};
use libp2p::swarm::ConnectionId;
use me_sync_protocol::message::{Request, Response};
use me_sync_protocol::reason::Code;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Actor;
use crate::net::Connected;
use crate::net::behaviour::REQUEST_TIMEOUT;
use crate::net::rate::Source;
use crate::net::{ConnectError, NetEvent, Reply, RequestError};

/// Requests of peers that wait for the reader's answer, all peers together.
const MAX_UNANSWERED: usize = 64;
/// Requests to one peer under way at once; the connection takes four, both directions together.
const MAX_IN_FLIGHT: usize = 2;
/// Requests to one peer waiting for their turn.
const MAX_QUEUED: usize = 16;

/// Refusals for want of a hello that are put down to a connection that ended; the next one is the peer's verdict.
const MAX_FORGOTTEN: u8 = 3;

type Reporter = oneshot::Sender<Result<Response, RequestError>>;
/// A request whose turn has not come.
pub(super) type Queued = (Request, Reporter);

/// A request of ours that is under way.
#[derive(Debug)]
pub(super) enum Outbound {
    Hello(PeerId),
    Asked { peer: PeerId, reply: Reporter },
}

/// The reader's answer to a peer's request; `None` when it dropped the request.
pub(super) struct Answer {
    channel: ResponseChannel<Response>,
    response: Option<Response>,
    /// Set for what may be a guess.
    redeemer: Option<Source>,
}

impl Actor {
    pub(super) fn on_request_command(&mut self, id: PeerId, request: Request, reply: Reporter) {
        let Some((request, reply)) = self.request_by_pipe(&id, request, reply) else { return };
        let refusal = match self.peers.get_mut(&id).filter(|peer| peer.hello.is_some()) {
            None => RequestError::NotConnected { peer: id },
            Some(peer) if peer.waiting.len() >= MAX_QUEUED => RequestError::Busy { peer: id },
            Some(peer) => {
                peer.waiting.push_back((request, reply));
                return self.send_waiting(id);
            }
        };
        report(reply, Err(refusal));
    }

    pub(super) fn send_waiting(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.renewing) else { return };
        while peer.in_flight < MAX_IN_FLIGHT {
            let Some((request, reply)) = peer.waiting.pop_front() else { return };
            if reply.is_closed() {
                continue;
            }
            peer.in_flight += 1;
            let sent = self.swarm.behaviour_mut().requests.send_request(&id, request);
            self.outbound.insert(sent, Outbound::Asked { peer: id, reply });
        }
    }

    pub(super) fn on_request_event(&mut self, event: Event<Request, Response>, now: Instant) {
        match event {
            Event::Message { peer, connection_id, message: Message::Request { request, channel, .. } } => {
                self.on_request(peer, connection_id, request, channel, now);
            }
            Event::Message { message: Message::Response { request_id, response }, .. } => {
                self.on_outcome(request_id, Ok(response), now);
            }
            Event::OutboundFailure { request_id, error, .. } => self.on_outcome(request_id, Err(error), now),
            Event::InboundFailure { peer, error, .. } => tracing::debug!(%peer, %error, "a peer's request failed"),
            Event::ResponseSent { .. } => {}
        }
    }

    fn on_request(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        request: Request,
        channel: ResponseChannel<Response>,
        now: Instant,
    ) {
        if let Request::Hello(hello) = request {
            let response = self.on_hello(id, hello, now);
            return self.respond(channel, response);
        }
        let Some(peer) = self.peers.get(&id) else { return };
        // A peer we are greeting may have our hello, although its answer is not here yet.
        if peer.hello.is_none() && peer.greeting.is_none() {
            return self.respond(channel, Response::Refused(Code::VersionMismatch));
        }
        let mut redeemer = None;
        // a proof belongs to the try that was begun
        let ends_try = matches!(request, Request::CodeConfirm(_));
        if ends_try || matches!(request, Request::Redeem(_) | Request::Resume(_) | Request::CodeBegin(_)) {
            redeemer = peer.connections.iter().find(|c| c.id == connection).and_then(|c| Source::of(&c.address));
            if redeemer.is_some_and(|source| !ends_try && !self.redeems.take(source, now)) {
                return self.respond(channel, Response::Refused(Code::RateLimited));
            }
        }
        let from = peer.hello.clone().zip(peer.connections.iter().find(|c| c.id == connection));
        let from =
            from.map(|(hello, c)| Connected { address: c.address.clone(), transport: c.transport.into(), hello });
        if self.answers.len() >= MAX_UNANSWERED {
            return self.respond(channel, Response::Refused(Code::Busy));
        }
        let (reply, answer) = oneshot::channel();
        self.answers.push(async move { Answer { channel, response: answer.await.ok(), redeemer } }.boxed());
        self.tell(NetEvent::Request { peer: id, from, request, reply: Reply(reply) });
    }

    pub(super) fn on_answer(&mut self, answer: Answer) {
        let response = answer.response.unwrap_or(Response::Refused(Code::Busy));
        // Only guesses count against the limit; a code that was begun counts as one until it is proven.
        let is_guess =
            matches!(response, Response::Refused(Code::TicketInvalid | Code::SessionUnknown) | Response::CodeAnswer(_));
        if let (Some(source), false) = (answer.redeemer, is_guess) {
            self.redeems.give_back(source);
        }
        self.respond(answer.channel, response);
    }

    fn respond(&mut self, channel: ResponseChannel<Response>, response: Response) {
        if self.swarm.behaviour_mut().requests.send_response(channel, response).is_err() {
            tracing::debug!("the peer left before its answer");
        }
    }

    /// It answered our hello and knows nothing of it now: its last connection but one ended for it before the last began.
    /// A peer that says so again and again means it.
    fn has_forgotten(&mut self, id: &PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.hello.is_some()) else { return false };
        peer.forgotten = peer.forgotten.saturating_add(1);
        peer.forgotten <= MAX_FORGOTTEN
    }

    fn on_outcome(&mut self, request: OutboundRequestId, outcome: Result<Response, OutboundFailure>, now: Instant) {
        match self.outbound.remove(&request) {
            Some(Outbound::Hello(peer)) => match outcome {
                Ok(response) => self.on_hello_answer(peer, response, now),
                // so it looks, too, when the connection breaks while the protocol is agreed on
                Err(OutboundFailure::UnsupportedProtocols) if self.may_be_greeted_again(&peer) => {
                    self.on_hello_lost(peer, "no answer to what is spoken here", now);
                    self.greet(peer);
                }
                Err(OutboundFailure::UnsupportedProtocols) => {
                    self.turn_away(peer, &ConnectError::Version { peer, code: Code::VersionMismatch }, now);
                }
                Err(OutboundFailure::Timeout) => {
                    self.turn_away(peer, &ConnectError::Timeout { peer, waited: REQUEST_TIMEOUT }, now);
                }
                Err(error) => self.on_hello_lost(peer, &error.to_string(), now),
            },
            Some(Outbound::Asked { peer: id, reply }) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.in_flight = peer.in_flight.saturating_sub(1);
                }
                match outcome {
                    Ok(Response::Refused(Code::VersionMismatch)) if self.has_forgotten(&id) => {
                        let detail = "the device has forgotten the hello of this one".to_owned();
                        report(reply, Err(RequestError::Lost { peer: id, detail }));
                        self.renew(id);
                    }
                    outcome => report(reply, outcome.map_err(|error| failure(id, &error))),
                }
                self.send_waiting(id);
            }
            None => {}
        }
    }
}

fn failure(peer: PeerId, error: &OutboundFailure) -> RequestError {
    match error {
        OutboundFailure::Timeout => RequestError::Timeout { peer },
        // a peer that has said hello speaks the protocol: so it looks when the connection breaks while that is agreed on
        OutboundFailure::UnsupportedProtocols
        | OutboundFailure::DialFailure
        | OutboundFailure::ConnectionClosed
        | OutboundFailure::Io(_) => RequestError::Lost { peer, detail: error.to_string() },
    }
}

fn report(reply: Reporter, result: Result<Response, RequestError>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for the answer any more");
    }
}

//! The task of one pipe, from the handshake to its end.

use std::time::Duration;

use libp2p::PeerId;
use me_sync_protocol::frame::{Frame, Role};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::message::{self, Response};
use me_sync_protocol::reason::Code;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::inbound::{self, Answering, Asked, Inbox, Opened};
use super::outbound::{self, Out};
use super::{End, Ends, MAX_REQUESTS, PipeError};
use crate::net::behaviour::REQUEST_TIMEOUT;
use crate::net::streams::Opener;
use crate::net::{Connected, NetEvent, OpenedStream};

/// Pieces that wait for the pipe.
const OUTBOX: usize = 4;
/// Requests of the peer that are being answered; one that asks on has lost its pipe.
const MAX_ANSWERS: usize = 4;
/// How long the other side may take to say its last once we have said ours, and the other way round.
const LINGER: Duration = Duration::from_secs(5);

/// What a pipe is made of.
pub(crate) trait PipeIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PipeIo for T {}

/// Starts the task. What comes back tells how the pipe ended.
pub(in crate::net) fn start(
    io: Box<dyn PipeIo>,
    end: End,
    peer: PeerId,
    from: Connected,
    ends: Ends,
    events: mpsc::Sender<NetEvent>,
) -> oneshot::Receiver<Result<(), PipeError>> {
    let (closed, is_closed) = oneshot::channel();
    tokio::spawn(async move {
        let result = run(io, end, peer, from, ends, events).await;
        if let Err(e) = &result {
            tracing::debug!(%peer, error = %crate::errors::chain(e), "a pipe ended");
        }
        closed.send(result).ok(); // Err: nobody waits for it
    });
    is_closed
}

async fn run(
    io: Box<dyn PipeIo>,
    end: End,
    peer: PeerId,
    from: Connected,
    ends: Ends,
    events: mpsc::Sender<NetEvent>,
) -> Result<(), PipeError> {
    let (input, output) = tokio::io::split(io);
    let (outbox, queue) = mpsc::channel(OUTBOX);
    let (asked, answers) = mpsc::channel(MAX_REQUESTS);
    let (answering, to_answer) = mpsc::channel(MAX_ANSWERS);
    let (opened, streams) = mpsc::channel(2);
    let inbox = Inbox {
        peer,
        from,
        takes_lane: end == End::Importer,
        events: events.clone(),
        asked: answers,
        answering,
        opened: streams,
        session: None,
        control: None,
        lane: None,
        first: None,
    };
    let stop = ends.stop.clone();
    let (lane, lanes) = mpsc::channel(1);
    let desk = Desk { peer, end, outbox, asked, opened, events, lane, lanes: Some(lanes), forwarding: JoinSet::new() };
    let reading = inbox.run(input);
    let writing = outbound::write(output, queue);
    let serving = desk.run(ends, to_answer);
    tokio::pin!(reading, writing, serving);
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        result = &mut reading => {
            // what we have to say is said; the streams above end now
            let last = async { tokio::join!(&mut serving, &mut writing) };
            timeout(LINGER, last).await.ok();
            result
        }
        written = &mut writing => {
            let last = async { tokio::select! { result = &mut reading => result, result = &mut serving => result } };
            timeout(LINGER, last).await.unwrap_or(Ok(()))?;
            Ok(written?)
        }
        result = &mut serving => result,
    }
}

/// Takes what is wanted of the pipe here.
struct Desk {
    peer: PeerId,
    end: End,
    outbox: mpsc::Sender<Out>,
    asked: mpsc::Sender<Asked>,
    opened: mpsc::Sender<Opened>,
    events: mpsc::Sender<NetEvent>,
    /// The lane, for whoever forwards it; it is opened once.
    lane: mpsc::Sender<ReadHalf<DuplexStream>>,
    lanes: Option<mpsc::Receiver<ReadHalf<DuplexStream>>>,
    /// What the streams above say, on its way to the pipe.
    forwarding: JoinSet<()>,
}

impl Desk {
    async fn run(mut self, mut ends: Ends, mut to_answer: mpsc::Receiver<Answering>) -> Result<(), PipeError> {
        let mut has_session = false;
        loop {
            tokio::select! {
                Some((mut request, reply)) = ends.requests.recv() => {
                    let session = inbound::share(&mut request, 0);
                    let until = Instant::now() + REQUEST_TIMEOUT;
                    let asked = Asked { reply, session, until };
                    self.asked.send(asked).await.map_err(|_| PipeError::Stopped)?;
                    self.put(&Frame::Request(message::encode(&request).into())).await?;
                }
                Some(opener) = ends.streams.recv() => self.open(opener).await?,
                Some(asked) = to_answer.recv() => self.answer(asked, &mut has_session).await?,
                // the control stream is over, and with it the conversation
                Some(_) = self.forwarding.join_next() => {
                    self.outbox.send(Out::End).await.ok();
                    return std::future::pending().await;
                }
                else => return Ok(()),
            }
        }
    }

    async fn put(&self, frame: &Frame) -> Result<(), PipeError> {
        self.outbox.send(Out::frame(frame)).await.map_err(|_| PipeError::Stopped)
    }

    /// Whoever opened the stream here greets it, as everywhere; nothing of that goes to the peer.
    async fn open(&mut self, opener: Opener) -> Result<(), PipeError> {
        let (near, far) = inbound::pair();
        if opener.send(Ok(OpenedStream { stream: near, connection: None })).is_err() {
            return Ok(());
        }
        let (role, read, write) = inbound::opened_here(far).await?;
        match (role, self.end) {
            (Role::Control, End::Importer) => {
                self.opened.send(Opened::Control(write)).await.ok();
                self.forward(read);
            }
            (Role::Lane(0), End::Exporter) => {
                self.opened.send(Opened::Lane(write)).await.ok();
                // a second lane, or one without a control stream
                self.lane.try_send(read).map_err(|_| PipeError::Violation(Code::FrameUnexpected))?;
            }
            _ => return Err(PipeError::Violation(Code::FrameUnexpected)),
        }
        Ok(())
    }

    /// The end of this stream ends the pipe.
    fn forward(&mut self, control: ReadHalf<DuplexStream>) {
        if let Some(lanes) = self.lanes.take() {
            self.forwarding.spawn(outbound::forward(control, lanes, self.outbox.clone()));
        }
    }

    async fn answer(&mut self, asked: Answering, has_session: &mut bool) -> Result<(), PipeError> {
        let answer = timeout(REQUEST_TIMEOUT, asked.answer).await;
        let mut response = answer.ok().and_then(Result::ok).unwrap_or(Response::Refused(Code::Busy));
        let session: Option<SessionId> = match &mut response {
            Response::Granted(granted) => {
                granted.lanes = 0;
                Some(granted.session_id)
            }
            Response::Resumed(resumed) => {
                resumed.lanes = 0;
                asked.session
            }
            _ => None,
        };
        // one conversation, one pipe
        let session = session.filter(|_| self.end == End::Exporter && !*has_session);
        self.put(&Frame::Response(message::encode(&response).into())).await?;
        if let Some(session) = session {
            *has_session = true;
            let (read, write) = inbound::open(self.peer, session, Role::Control, &self.events).await?;
            self.opened.send(Opened::Control(write)).await.ok();
            self.forward(read);
        }
        Ok(())
    }
}

//! What comes from a pipe, and where it goes: to the control stream, to the lane, or to whoever asked.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use libp2p::PeerId;
use me_sync_protocol::codec::{self, FrameError, Way};
use me_sync_protocol::frame::{Ack, Frame, Role, StreamHello};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::limits::ACK_TIMEOUT;
use me_sync_protocol::message::{Request, Response};
use me_sync_protocol::reason::Code;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::{PipeError, Reporter};
use crate::link::{self, FrameWriter};
use crate::net::{ByteStream, Connected, InboundStream, NetEvent, Reply, RequestError};

/// How much is read at once.
const READ_SIZE: usize = 256 << 10;
/// What a stream above may leave unread; a chunk fits in whole.
const BUFFER: usize = 512 << 10;
/// How long the streams above have to take a stream: whoever asked for the session is about to open one.
const OPENING: Duration = Duration::from_secs(10);

/// One of our requests that is not answered yet.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) reply: Reporter,
    /// The session that it resumes.
    pub(super) session: Option<SessionId>,
    pub(super) until: Instant,
}

/// A request of the peer that is being answered.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) answer: oneshot::Receiver<Response>,
    /// The session that it resumes.
    pub(super) session: Option<SessionId>,
}

/// The pipe's end of a stream, for what comes.
#[derive(Debug)]
pub(super) enum Opened {
    Control(WriteHalf<DuplexStream>),
    Lane(WriteHalf<DuplexStream>),
}

/// Where things go that come from the pipe.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) peer: PeerId,
    pub(super) from: Connected,
    /// We import: the lane is opened for us.
    pub(super) takes_lane: bool,
    pub(super) events: mpsc::Sender<NetEvent>,
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) answering: mpsc::Sender<Answering>,
    pub(super) opened: mpsc::Receiver<Opened>,
    pub(super) session: Option<SessionId>,
    pub(super) control: Option<WriteHalf<DuplexStream>>,
    pub(super) lane: Option<WriteHalf<DuplexStream>>,
    /// The answer that is waited for first.
    pub(super) first: Option<Asked>,
}

impl Inbox {
    /// Reads until the peer has said all. The streams above end with it.
    pub(super) async fn run(mut self, io: impl AsyncRead + Unpin) -> Result<(), PipeError> {
        let result = self.read(io).await;
        let rest = self.first.take().into_iter().chain(std::iter::from_fn(|| self.asked.try_recv().ok()));
        for asked in rest {
            let lost = RequestError::Lost { peer: self.peer, detail: "the pipe ended".to_owned() };
            asked.reply.send(Err(lost)).ok(); // Err: nobody waits any more
        }
        result
    }

    async fn read(&mut self, mut io: impl AsyncRead + Unpin) -> Result<(), PipeError> {
        let mut buffer = BytesMut::new();
        loop {
            loop {
                let (way, len) = match codec::whole(&buffer) {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(e) => return self.malformed(e, &buffer).await,
                };
                let mut run = len;
                while let Ok(Some((_, len))) = codec::whole(&buffer[run..]).map(|f| f.filter(|(next, _)| *next == way))
                {
                    run += len;
                }
                match way {
                    Way::Lane => self.lane_says(&buffer[..run]).await?,
                    Way::Control => self.control_says(&buffer[..run]).await?,
                    Way::Own => {
                        run = len;
                        let frame = codec::decode(&mut BytesMut::from(&buffer[..len]));
                        let frame = frame.map_err(|e| PipeError::Violation(e.code()))?;
                        self.message(frame.ok_or(PipeError::Violation(Code::FrameUnknown))?).await?;
                    }
                }
                buffer.advance(run);
            }
            buffer.reserve(READ_SIZE);
            if self.first.is_none() {
                self.first = self.asked.try_recv().ok();
            }
            let until = self.first.as_ref().map(|asked| asked.until);
            let read = tokio::select! {
                read = io.read_buf(&mut buffer) => read?,
                asked = self.asked.recv(), if self.first.is_none() && !self.asked.is_closed() => {
                    self.first = asked;
                    continue;
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return Err(PipeError::Silent),
            };
            match (read, buffer.is_empty()) {
                (0, true) => return Ok(()),
                (0, false) => return Err(PipeError::Broken(std::io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
        }
    }

    /// What is no frame goes where it is judged: the session ends with the reason, not only with the pipe.
    async fn malformed(&mut self, error: FrameError, bytes: &[u8]) -> Result<(), PipeError> {
        if self.control.is_some() {
            self.control_says(bytes).await?;
        }
        Err(PipeError::Violation(error.code()))
    }

    /// The lane may be over, while the peer has not heard of it.
    async fn lane_says(&mut self, frames: &[u8]) -> Result<(), PipeError> {
        if self.lane.is_none() {
            let session = self.session.filter(|_| self.takes_lane);
            let session = session.ok_or(PipeError::Violation(Code::FrameUnexpected))?;
            let (_, lane) = open(self.peer, session, Role::Lane(0), &self.events).await?;
            self.lane = Some(lane);
        }
        if let Some(lane) = &mut self.lane {
            lane.write_all(frames).await.ok();
        }
        Ok(())
    }

    async fn control_says(&mut self, frames: &[u8]) -> Result<(), PipeError> {
        while self.control.is_none() {
            match timeout(OPENING, self.opened.recv()).await {
                Ok(Some(Opened::Control(control))) => self.control = Some(control),
                Ok(Some(Opened::Lane(lane))) => self.lane = Some(lane),
                Ok(None) | Err(_) => return Err(PipeError::Violation(Code::FrameUnexpected)),
            }
        }
        if let Some(control) = &mut self.control {
            control.write_all(frames).await.ok();
        }
        Ok(())
    }

    async fn message(&mut self, frame: Frame) -> Result<(), PipeError> {
        let unexpected = PipeError::Violation(Code::FrameUnexpected);
        match frame {
            Frame::Request(raw) => self.asks(&raw).await,
            Frame::Response(raw) => {
                let first = self.first.take().or_else(|| self.asked.try_recv().ok());
                let Asked { reply, session, .. } = first.ok_or(unexpected)?;
                let response = Response::decode(&raw).map_err(|_| PipeError::Violation(Code::FrameUnknown))?;
                let response = self.shared_lane(response, session);
                reply.send(Ok(response)).ok(); // Err: nobody waits any more
                Ok(())
            }
            _ => Err(unexpected),
        }
    }

    /// On the pipe there is no lane; for us there is one, which shares it.
    fn shared_lane(&mut self, response: Response, resumes: Option<SessionId>) -> Response {
        let (lanes, session, response) = match response {
            Response::Granted(mut granted) => {
                let lanes = std::mem::replace(&mut granted.lanes, 1);
                (lanes, Some(granted.session_id), Response::Granted(granted))
            }
            Response::Resumed(mut resumed) => {
                let lanes = std::mem::replace(&mut resumed.lanes, 1);
                (lanes, resumes, Response::Resumed(resumed))
            }
            other => return other,
        };
        if lanes != 0 {
            return Response::Refused(Code::VersionMismatch);
        }
        self.session = session;
        response
    }

    async fn asks(&mut self, raw: &Bytes) -> Result<(), PipeError> {
        let Ok(mut request) = Request::decode(raw) else { return Err(PipeError::Violation(Code::FrameUnknown)) };
        let session = share(&mut request, 1);
        let (reply, answer) = oneshot::channel();
        let (peer, from) = (self.peer, Some(self.from.clone()));
        let event = NetEvent::Request { peer, from, request, reply: Reply(reply) };
        self.events.send(event).await.map_err(|_| PipeError::Stopped)?;
        // the peer waits for no answer and asks on
        let answering = self.answering.try_send(Answering { answer, session });
        answering.map_err(|_| PipeError::Violation(Code::RateLimited))
    }
}

/// Puts the number of lanes into a request for a session; gives the session that it resumes.
pub(super) fn share(request: &mut Request, lanes: u8) -> Option<SessionId> {
    match request {
        Request::Redeem(redeem) => {
            redeem.max_lanes = lanes;
            None
        }
        Request::Resume(resume) => {
            resume.max_lanes = lanes;
            Some(resume.session_id)
        }
        _ => None,
    }
}

/// A stream as if the peer had opened it: both halves of the pipe's end of it.
pub(super) async fn open(
    peer: PeerId,
    session_id: SessionId,
    role: Role,
    events: &mpsc::Sender<NetEvent>,
) -> Result<(ReadHalf<DuplexStream>, WriteHalf<DuplexStream>), PipeError> {
    let (near, far) = tokio::io::duplex(BUFFER);
    let mut far = far.compat();
    FrameWriter::new(&mut far).send(&Frame::Hello(StreamHello { session_id, role })).await?;
    let stream = InboundStream { peer, stream: ByteStream::Pipe(near.compat()) };
    events.send(NetEvent::InboundStream(stream)).await.map_err(|_| PipeError::Stopped)?;
    match timeout(OPENING, link::read_one(&mut far)).await {
        Ok(Ok(Frame::Ack(Ack { refused: None }))) => Ok(tokio::io::split(far.into_inner())),
        Ok(Ok(Frame::Ack(Ack { refused: Some(code) }))) => Err(PipeError::Violation(code)),
        // the session was let go meanwhile
        _ => Err(PipeError::Violation(Code::SessionUnknown)),
    }
}

/// A stream that is opened here: the near end for whoever asked, who greets it as any other, and the pipe's end.
pub(super) async fn opened_here(
    far: DuplexStream,
) -> Result<(Role, ReadHalf<DuplexStream>, WriteHalf<DuplexStream>), PipeError> {
    let mut far = far.compat();
    let Ok(Ok(Frame::Hello(hello))) = timeout(ACK_TIMEOUT, link::read_one(&mut far)).await else {
        return Err(PipeError::Silent);
    };
    FrameWriter::new(&mut far).send(&Frame::Ack(Ack { refused: None })).await?;
    let (read, write) = tokio::io::split(far.into_inner());
    Ok((hello.role, read, write))
}

/// Both ends of a stream that is opened here.
pub(super) fn pair() -> (ByteStream, DuplexStream) {
    let (near, far) = tokio::io::duplex(BUFFER);
    (ByteStream::Pipe(near.compat()), far)
}

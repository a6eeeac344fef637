//! A peer without manners: raw libp2p (TCP, Noise, yamux) on 127.0.0.1, in either role. Of the product it
//! shares the messages and frames only; everything it does with them is its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::{SwarmEvent, dial_opts::DialOpts};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use me_sync_protocol::caps::Capabilities;
use me_sync_protocol::codec;
use me_sync_protocol::frame::{
    Ack, FileBegin, FileEnd, FinalizeRequest, Frame, IndexRange, ManifestEnd, PendingList, PendingRequest, PhaseEnd,
    Role, StreamHello,
};
use me_sync_protocol::ids::{Digest, EntryIndex, Nonce, Secret, SessionId, TicketId};
use me_sync_protocol::manifest::{Manifest, ManifestAssembler};
use me_sync_protocol::message::{Granted, Hello, Redeem, Request, Response, encode};
use me_sync_protocol::packed::Packed;
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::raw::Listing;

pub(crate) const REQUESTS: StreamProtocol = StreamProtocol::new("/me-sync/4");
pub(crate) const STREAMS: StreamProtocol = StreamProtocol::new("/me-sync/4/stream");

/// Longer than any single answer takes.
const SOON: Duration = Duration::from_secs(60);

/// What the peer answers to requests, as raw bytes.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) hello: Vec<u8>,
    pub(crate) redeem: Vec<u8>,
    /// To the beginning and to the proof of a code.
    pub(crate) code: [Vec<u8>; 2],
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            hello: encode(&Response::Hello(hello())),
            redeem: encode(&Response::Granted(granted())),
            code: [encode(&Response::Done), encode(&Response::Done)],
        }
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        agent: "raw/1".into(),
        device_name: "raw".into(),
        versions: vec![4],
        caps: Capabilities::ours(),
        max_lanes: 4,
        max_chunk: 256 << 10,
    }
}

/// A session of a number nobody else has.
pub(crate) fn granted() -> Granted {
    Granted {
        session_id: SessionId(PeerId::random().to_bytes()[6..22].try_into().expect("16 bytes")),
        resume_secret: Secret::from_bytes([2; 32]),
        expires_at_ms: u64::MAX / 2,
        lanes: 4,
        max_chunk: 256 << 10,
        source_name: "source".into(),
        zstd: false,
        holes: false,
    }
}

/// The peer. Its tasks end with it.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    address: Option<Multiaddr>,
    pub(crate) control: libp2p_stream::Control,
    inbound: mpsc::Receiver<(PeerId, Line)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Peer {
    fn swarm() -> Swarm<libp2p_stream::Behaviour> {
        SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, yamux::Config::default)
            .expect("a transport")
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .expect("a behaviour")
            .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(Duration::from_secs(120)))
            .build()
    }

    /// Waits for nodes that redeem its ticket.
    pub(crate) async fn listen() -> Self {
        Self::answering(Answers::default()).await
    }

    pub(crate) async fn answering(answers: Answers) -> Self {
        let mut swarm = Self::swarm();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("listens");
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        Self::run(swarm, Some(address), answers)
    }

    /// Connects to the node that made this ticket and says hello.
    pub(crate) async fn dial(ticket: &Ticket) -> Self {
        let mut peer = Self::connect(ticket).await;
        let response = peer.ask(exporter(ticket), &encode(&Request::Hello(hello()))).await;
        assert!(matches!(Response::decode(&response), Ok(Response::Hello(_))), "{response:?}");
        peer
    }

    /// Connects without a word.
    pub(crate) async fn connect(ticket: &Ticket) -> Self {
        let mut swarm = Self::swarm();
        let address = ticket.addresses.iter().find(|a| a.contains("/tcp/")).expect("a TCP address");
        let address: Multiaddr = address.parse().expect("an address");
        swarm.dial(DialOpts::peer_id(exporter(ticket)).addresses(vec![address]).build()).expect("dials");
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => break,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("not connected: {error}"),
                _ => {}
            }
        }
        Self::run(swarm, None, Answers::default())
    }

    fn run(mut swarm: Swarm<libp2p_stream::Behaviour>, address: Option<Multiaddr>, answers: Answers) -> Self {
        let id = *swarm.local_peer_id();
        let mut control = swarm.behaviour().new_control();
        let mut requests = control.accept(REQUESTS).expect("first");
        let mut streams = control.accept(STREAMS).expect("first");
        let (tell, inbound) = mpsc::channel(64);
        let tasks = vec![
            tokio::spawn(async move {
                loop {
                    swarm.select_next_some().await;
                }
            }),
            tokio::spawn(async move {
                while let Some((_, stream)) = requests.next().await {
                    tokio::spawn(answer(stream, answers.clone()));
                }
            }),
            tokio::spawn(async move {
                while let Some((peer, stream)) = streams.next().await {
                    if tell.send((peer, Line::new(stream))).await.is_err() {
                        return;
                    }
                }
            }),
        ];
        Self { id, address, control, inbound, tasks }
    }

    /// A real ticket that leads here.
    pub(crate) fn ticket(&self) -> Ticket {
        let addresses = self.address.iter().map(ToString::to_string).collect();
        let secret = Secret::from_bytes([3; 32]);
        Ticket::new(self.id.to_bytes(), addresses, TicketId([4; 16]), secret, u64::MAX / 2, "raw")
    }

    /// The next stream that somebody opens here.
    pub(crate) async fn inbound(&mut self) -> (PeerId, Line) {
        timeout(SOON, self.inbound.recv()).await.expect("a stream in time").expect("a living peer")
    }

    /// As exporter: takes the control stream of the node that redeemed the ticket.
    pub(crate) async fn exporting(&mut self) -> Exporting {
        let (importer, mut control) = self.inbound().await;
        let Some(Frame::Hello(StreamHello { session_id, role: Role::Control })) = control.next().await else {
            panic!("not a control stream");
        };
        control.send(&Frame::Ack(Ack { refused: None })).await;
        Exporting { streams: self.control.clone(), importer, session_id, control }
    }

    /// Sends raw bytes as a request; the raw answer, empty when there is none.
    pub(crate) async fn ask(&mut self, peer: PeerId, raw: &[u8]) -> Vec<u8> {
        let opened = timeout(SOON, self.control.open_stream(peer, REQUESTS)).await.expect("in time");
        let Ok(mut stream) = opened else { return Vec::new() };
        let mut answer = Vec::new();
        if stream.write_all(raw).await.is_ok() && stream.close().await.is_ok() {
            timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an answer in time").unwrap_or_default();
        }
        answer
    }

    /// A redemption with a true proof of this ticket's secret.
    pub(crate) fn redemption(&self, ticket: &Ticket) -> Redeem {
        let importer = self.id.to_bytes();
        let ends = Ends { exporter: &ticket.peer_id, importer: &importer };
        let nonce = Nonce([5; 16]);
        let proof = proof::redeem(&ticket.secret, ticket.ticket_id, ends, nonce);
        Redeem {
            ticket_id: ticket.ticket_id,
            nonce,
            proof,
            max_lanes: 1,
            max_chunk: 256 << 10,
            late_hashes: None,
            zstd: false,
            holes: false,
        }
    }

    /// Redeems; the raw answer.
    pub(crate) async fn redeem(&mut self, ticket: &Ticket) -> Vec<u8> {
        let raw = encode(&Request::Redeem(self.redemption(ticket)));
        self.ask(exporter(ticket), &raw).await
    }

    /// As importer: redeems and opens the control stream.
    pub(crate) async fn importing(&mut self, ticket: &Ticket) -> Importing {
        let redeem = self.redemption(ticket);
        self.importing_by(ticket, redeem).await
    }

    pub(crate) async fn importing_by(&mut self, ticket: &Ticket, redeem: Redeem) -> Importing {
        let answer = self.ask(exporter(ticket), &encode(&Request::Redeem(redeem))).await;
        let Ok(Response::Granted(granted)) = Response::decode(&answer) else { panic!("not granted: {answer:?}") };
        Importing::open(self, ticket, granted).await
    }

    /// Opens a stream with a greeting; the code when it is refused.
    pub(crate) async fn open(&mut self, peer: PeerId, hello: StreamHello) -> Result<Line, Option<Code>> {
        open(&mut self.control, peer, hello).await
    }
}

/// Opens a stream with a greeting; the code when it is refused, none when it is dropped.
pub(crate) async fn open(
    control: &mut libp2p_stream::Control,
    peer: PeerId,
    hello: StreamHello,
) -> Result<Line, Option<Code>> {
    let opened = timeout(SOON, control.open_stream(peer, STREAMS)).await.expect("in time");
    let Ok(stream) = opened else { return Err(None) };
    let mut line = Line::new(stream);
    line.send(&Frame::Hello(hello)).await;
    match line.next().await {
        Some(Frame::Ack(Ack { refused: None })) => Ok(line),
        Some(Frame::Ack(Ack { refused })) => Err(refused),
        _ => Err(None),
    }
}

pub(crate) fn exporter(ticket: &Ticket) -> PeerId {
    PeerId::from_bytes(&ticket.peer_id).expect("a peer id")
}

async fn answer(mut stream: Stream, answers: Answers) {
    let mut raw = Vec::new();
    // whoever asks may give up; nothing depends on the answer then
    if stream.read_to_end(&mut raw).await.is_err() {
        return;
    }
    let response = match Request::decode(&raw) {
        Ok(Request::Hello(_)) => answers.hello,
        Ok(Request::Redeem(_)) => answers.redeem,
        Ok(Request::CodeBegin(_)) => answers.code[0].clone(),
        Ok(Request::CodeConfirm(_)) => answers.code[1].clone(),
        Ok(Request::Resume(_) | Request::Status(_) | Request::Abort(_) | Request::Result(_)) | Err(_) => {
            encode(&Response::Done)
        }
    };
    stream.write_all(&response).await.ok();
    stream.close().await.ok();
}

/// A stream as frames or raw bytes. A peer that is gone takes everything and gives nothing.
pub(crate) struct Line {
    stream: Stream,
    buffer: BytesMut,
    ended: Option<Code>,
}

impl Line {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new(), ended: None }
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let mut raw = BytesMut::new();
        codec::encode(frame, &mut raw);
        self.raw(&raw).await;
    }

    pub(crate) async fn raw(&mut self, raw: &[u8]) {
        // the node may have closed on what came before
        let written = async { self.stream.write_all(raw).await.and(self.stream.flush().await) };
        timeout(SOON, written).await.expect("taken in time").ok();
    }

    /// The next frame; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = codec::decode(&mut self.buffer).expect("the node sends frames") {
                return Some(frame);
            }
            let mut part = [0; 16 << 10];
            match timeout(SOON, self.stream.read(&mut part)).await.expect("something in time") {
                Ok(n) if n > 0 => self.buffer.extend_from_slice(&part[..n]),
                _ => return None,
            }
        }
    }

    /// The next frame that is no sign of life.
    pub(crate) async fn next_deed(&mut self) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(Frame::Progress(_)) => {}
                other => return other,
            }
        }
    }

    /// Remembers an end that was heard already, for whoever asks again.
    pub(crate) fn ended_with(&mut self, code: Code) {
        self.ended = Some(code);
    }

    /// Reads on until the node gives up, and says why.
    pub(crate) async fn aborted(&mut self) -> Option<Code> {
        if self.ended.is_some() {
            return self.ended;
        }
        loop {
            match self.next().await {
                Some(Frame::Abort(abort)) => return Some(abort.code),
                Some(_) => {}
                None => return None,
            }
        }
    }
}

/// The exporter's half of a session.
pub(crate) struct Exporting {
    pub(crate) streams: libp2p_stream::Control,
    pub(crate) importer: PeerId,
    pub(crate) session_id: SessionId,
    pub(crate) control: Line,
}

impl Exporting {
    /// The whole manifest and the question what is missing.
    pub(crate) async fn offer(&mut self, listing: &Listing) {
        self.manifest(listing).await;
        self.control.send(&Frame::PendingRequest(PendingRequest {})).await;
    }

    pub(crate) async fn manifest(&mut self, listing: &Listing) {
        self.control.send(&Frame::ManifestBegin(listing.header.clone().into())).await;
        for chunk in &listing.chunks {
            self.control.send(&Frame::ManifestChunk(chunk.clone().into())).await;
        }
        self.control.send(&Frame::ManifestEnd(ManifestEnd { manifest_sha256: Digest(listing.sha) })).await;
    }

    /// Offers, and waits until the importer wants the files.
    pub(crate) async fn agreed(&mut self, listing: &Listing) {
        self.offer(listing).await;
        loop {
            match self.control.next_deed().await {
                Some(Frame::PendingList(list)) if !list.more => return,
                Some(Frame::PendingList(_)) => {}
                other => panic!("the importer does not agree: {other:?}"),
            }
        }
    }

    pub(crate) async fn lane(&mut self, number: u8) -> Result<Line, Option<Code>> {
        let hello = StreamHello { session_id: self.session_id, role: Role::Lane(number) };
        open(&mut self.streams, self.importer, hello).await
    }

    /// Everything went well: asks to apply, and gives the answer.
    pub(crate) async fn finalize(&mut self, listing: &Listing) -> Option<Code> {
        match self.control.next_deed().await {
            Some(Frame::RetryRequest(retry)) => assert!(retry.failed.is_empty(), "{retry:?}"),
            other => panic!("not the end of a round: {other:?}"),
        }
        self.control.send(&finalize(listing)).await;
        match self.control.next_deed().await {
            Some(Frame::FinalizeResult(result)) => result.failed,
            other => panic!("not a result: {other:?}"),
        }
    }
}

pub(crate) fn finalize(listing: &Listing) -> Frame {
    Frame::FinalizeRequest(FinalizeRequest {
        manifest_sha256: Digest(listing.sha),
        entry_count: listing.count,
        total_bytes: listing.total,
    })
}

/// The importer's half of a session.
pub(crate) struct Importing {
    pub(crate) granted: Granted,
    pub(crate) control: Line,
}

pub(crate) fn begin(index: u32, content: &[u8]) -> Frame {
    begin_as(index, content.len() as u64, super::raw::sha(content), 0)
}

pub(crate) fn begin_as(index: u32, size: u64, sha: [u8; 32], offset: u64) -> Frame {
    Frame::FileBegin(FileBegin { index: EntryIndex(index), size, sha256: Some(Digest(sha)), offset })
}

pub(crate) fn chunk(content: &[u8]) -> Frame {
    Frame::FileChunk(content.to_vec().into())
}

/// A packed chunk that says that it holds `declared` bytes and holds `times` times the letter a: a few bytes, whatever
/// the numbers are. `declared` is at least 64 KiB.
pub(crate) fn packed_run(declared: u32, times: u32) -> Frame {
    const MOST: u32 = 128 << 10;
    let mut zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &declared.to_le_bytes()].concat();
    let mut left = times;
    loop {
        let block = left.min(MOST);
        left -= block;
        let header = u32::from(left == 0) | 1 << 1 | block << 3;
        zstd.extend([&header.to_le_bytes()[..3], b"a"].concat());
        if left == 0 {
            break;
        }
    }
    Frame::FilePacked(Packed::new(declared, zstd.into()).expect("its outline is right"))
}

pub(crate) fn end(index: u32) -> Frame {
    Frame::FileEnd(FileEnd { index: EntryIndex(index), failed: None, sha256: None })
}

/// The beginning of a file that an outline has no hash of.
pub(crate) fn begin_late(index: u32, size: u64) -> Frame {
    Frame::FileBegin(FileBegin { index: EntryIndex(index), size, sha256: None, offset: 0 })
}

/// The end of a file with the hash of this content.
pub(crate) fn end_late(index: u32, content: &[u8]) -> Frame {
    let sha256 = Some(Digest(super::raw::sha(content)));
    Frame::FileEnd(FileEnd { index: EntryIndex(index), failed: None, sha256 })
}

pub(crate) fn phase_end(files: u64, bytes: u64) -> Frame {
    Frame::PhaseEnd(PhaseEnd { files, bytes })
}

/// What an importer was served.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) files: Vec<u32>,
    /// Content that came raw, …
    pub(crate) bytes: u64,
    /// … and packed.
    pub(crate) packed: u64,
    /// … and as holes.
    pub(crate) zeros: u64,
    /// Files that came to their end.
    pub(crate) ended: usize,
}

impl Importing {
    /// Opens the control stream of a session that was granted.
    pub(crate) async fn open(peer: &mut Peer, ticket: &Ticket, granted: Granted) -> Self {
        let hello = StreamHello { session_id: granted.session_id, role: Role::Control };
        let control = peer.open(exporter(ticket), hello).await.expect("acknowledged");
        Self { granted, control }
    }

    /// Takes the manifest, up to the question what is missing.
    pub(crate) async fn manifest(&mut self) -> Manifest {
        let mut assembler = None;
        let mut manifest = None;
        loop {
            match self.control.next_deed().await {
                Some(Frame::ManifestBegin(header)) => assembler = ManifestAssembler::begin(&header).ok(),
                Some(Frame::ManifestChunk(chunk)) => {
                    assembler.as_mut().expect("begun").chunk(&chunk).expect("an honest manifest");
                }
                Some(Frame::ManifestEnd(end)) => {
                    manifest = assembler.take().and_then(|a| a.end(end.manifest_sha256).ok());
                }
                Some(Frame::PendingRequest(_)) => return manifest.expect("a manifest"),
                other => panic!("not a manifest: {other:?}"),
            }
        }
    }

    /// Asks for everything and takes it, up to the end of the bulk.
    pub(crate) async fn bulk(&mut self, peer: &mut Peer, manifest: &Manifest) -> Arc<Mutex<Served>> {
        let all = IndexRange { start: EntryIndex(0), len: manifest.len() };
        let list = PendingList { ranges: vec![all], partial: Vec::new(), more: false };
        self.control.send(&Frame::PendingList(list)).await;
        let served = Arc::new(Mutex::new(Served::default()));
        for _ in 0..self.granted.lanes {
            let (_, mut lane) = peer.inbound().await;
            assert!(matches!(lane.next().await, Some(Frame::Hello(StreamHello { role: Role::Lane(_), .. }))));
            lane.send(&Frame::Ack(Ack { refused: None })).await;
            let served = served.clone();
            peer.tasks.push(tokio::spawn(async move {
                while let Some(frame) = lane.next().await {
                    let mut served = served.lock().expect("not poisoned");
                    match frame {
                        Frame::FileBegin(begin) => served.files.push(begin.index.0),
                        Frame::FileChunk(bytes) => served.bytes += bytes.len() as u64,
                        Frame::FilePacked(packed) => served.packed += u64::from(packed.unpacked()),
                        Frame::FileZeros(zeros) => served.zeros += u64::from(zeros.len),
                        Frame::FileEnd(_) => served.ended += 1,
                        _ => {}
                    }
                }
            }));
        }
        match self.control.next_deed().await {
            Some(Frame::PhaseEnd(_)) => served,
            other => panic!("not the end of the bulk: {other:?}"),
        }
    }
}

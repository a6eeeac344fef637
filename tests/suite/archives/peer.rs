//! An exporter of archives without manners: of the product it shares the messages only.

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use me_sync_protocol::archive::message::{self, Item, MAX_PIECE};
use me_sync_protocol::archive::{ArchiveTicket, Hello, Message, Offer, prove_hello, prove_offer};
use me_sync_protocol::ids::{Digest, Secret, SessionId};
use me_sync_protocol::proof::Ends;
use me_sync_protocol::reason::Code;
use tokio::time::timeout;

use crate::support::peer::Peer;

const ARCHIVES: StreamProtocol = StreamProtocol::new("/me-sync/3");
const SOON: Duration = Duration::from_secs(60);
const KEY: [u8; 32] = [3; 32];

/// What it announces and sends.
#[derive(Clone, Default)]
pub(crate) struct Sent {
    pub(crate) package: Vec<u8>,
    /// Files, directories, bytes.
    pub(crate) counts: (u64, u64, u64),
    /// If not the package's own.
    pub(crate) len: Option<u64>,
    pub(crate) sha256: Option<[u8; 32]>,
    /// What the offer is proven with, if not by the ticket's.
    pub(crate) key: Option<[u8; 32]>,
    /// Sends pieces with the offer.
    pub(crate) is_early: bool,
}

pub(crate) struct Exporter {
    peer: Peer,
    streams: libp2p_stream::IncomingStreams,
    transfer: SessionId,
}

impl Exporter {
    pub(crate) async fn listen() -> Self {
        let mut peer = Peer::listen().await;
        let streams = peer.control.accept(ARCHIVES).expect("first");
        let transfer = SessionId(PeerId::random().to_bytes()[6..22].try_into().expect("16 bytes"));
        Self { peer, streams, transfer }
    }

    pub(crate) fn ticket(&self) -> ArchiveTicket {
        ArchiveTicket {
            transfer_id: self.transfer,
            session_nonce: Secret::from_bytes(KEY),
            expires_at_ms: u64::MAX / 2,
            source_name: "raw".into(),
            has_v4: false,
            peer_id: self.peer.id.to_string(),
            addresses: self.peer.ticket().addresses,
        }
    }

    /// Goes through the whole of it. How the importer ends it; none if that has applied the tree.
    pub(crate) async fn serve(&mut self, sent: &Sent) -> Option<Code> {
        let mut line = self.greet(sent).await;
        loop {
            match line.next().await {
                Ok(Message::At(_)) => {}
                Ok(Message::Take) => line.send(&sent.package).await,
                Ok(Message::Applied) => {
                    line.say(&Message::Heard).await;
                    return None;
                }
                Ok(Message::Over(code)) => return Some(code),
                Ok(other) => panic!("{other:?}"),
                Err(()) => panic!("the importer left without a word"),
            }
        }
    }

    /// The same, but it is gone after so many bytes of the package.
    pub(crate) async fn serve_until(&mut self, sent: &Sent, cut: usize) {
        let mut line = self.greet(sent).await;
        while !matches!(line.next().await, Ok(Message::Take)) {}
        line.send(&sent.package[..cut]).await;
        line.stream.close().await.ok();
    }

    async fn greet(&mut self, sent: &Sent) -> Line {
        let (importer, stream) = timeout(SOON, self.streams.next()).await.expect("in time").expect("a stream");
        let mut line = Line { stream, buffer: Vec::new() };
        let Ok(Message::Hello(hello)) = line.next().await else { panic!("no hello") };
        let offer = self.offer(sent, importer, &hello);
        let mut said = message::encode(&Message::Offer(offer));
        if sent.is_early {
            // in one write: what comes later could come after it was asked for
            said.extend(pieces(&sent.package));
        }
        line.write(&said).await;
        line
    }

    fn offer(&self, sent: &Sent, importer: PeerId, hello: &Hello) -> Offer {
        let (exporter, importer) = (self.peer.id.to_bytes(), importer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let key = Secret::from_bytes(KEY);
        assert_eq!(prove_hello(&key, self.transfer, ends, hello.nonce), hello.proof);
        let (files, dirs, bytes) = sent.counts;
        let mut offer = Offer {
            package_len: sent.len.unwrap_or(sent.package.len() as u64),
            package_sha256: sent.sha256.map_or_else(|| Digest::of(&sent.package), Digest),
            files,
            dirs,
            bytes,
            root_mode: Some(0o755),
            root_mtime_s: Some(1_234_567_890),
            source_name: "raw".into(),
            top_names: Vec::new(),
            proof: Digest([0; 32]),
        };
        let key = Secret::from_bytes(sent.key.unwrap_or(KEY));
        offer.proof = prove_offer(&key, self.transfer, ends, hello.nonce, &offer);
        offer
    }
}

struct Line {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Line {
    async fn next(&mut self) -> Result<Message, ()> {
        loop {
            if let Some(len) = message::needed(&self.buffer).expect("a header").filter(|len| *len <= self.buffer.len())
            {
                let raw: Vec<u8> = self.buffer.drain(..len).collect();
                match message::decode(&raw).expect("an item") {
                    Item::Message(message) => return Ok(*message),
                    Item::Piece(_) => panic!("an importer sends no pieces"),
                }
            }
            let mut more = [0; 4096];
            match timeout(SOON, self.stream.read(&mut more)).await.expect("in time") {
                Ok(0) | Err(_) => return Err(()),
                Ok(n) => self.buffer.extend(&more[..n]),
            }
        }
    }

    async fn say(&mut self, message: &Message) {
        self.write(&message::encode(message)).await;
    }

    async fn send(&mut self, package: &[u8]) {
        self.write(&pieces(package)).await;
    }

    /// An importer that has heard enough need not take all.
    async fn write(&mut self, raw: &[u8]) {
        self.stream.write_all(raw).await.ok();
        self.stream.flush().await.ok();
    }
}

fn pieces(package: &[u8]) -> Vec<u8> {
    package.chunks(MAX_PIECE).flat_map(|piece| [&message::piece_header(piece.len())[..], piece].concat()).collect()
}

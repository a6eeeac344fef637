//! The exporter's side of one archive: its package is made while its importer is on the way, and goes to the first that
//! proves to hold the ticket.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p::PeerId;
use me_sync_protocol::archive::message::{Item, MAX_PIECE, Preparing, Step, TOP_NAMES};
use me_sync_protocol::archive::{self, Hello, Message, Offer};
use me_sync_protocol::escape::cut;
use me_sync_protocol::ids::{Digest, Moment, Secret, SessionId};
use me_sync_protocol::limits::MAX_TEXT;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::proof::Ends;
use me_sync_protocol::reason::Code;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Knock, Stopping, as_heard, begin, show_phase};
use crate::api::{Completion, JobView, Outcome, PeerSummary, Protocol, Role};
use crate::archive::wire::{KEEPALIVE, SILENCE, WireReader, WireWriter};
use crate::archive::{self as package, PackError, Packed};
use crate::clock::{Moving, RateMeter};
use crate::coordinator::explain::Failure;
use crate::coordinator::{Hashes, view};
use crate::limit::{Rate, Throttle};
use crate::source::{HashProgress, Snapshot, Source, SourceError};
use crate::transfer::Compression;

/// Pieces between the thread that reads the tree and the stream.
const PIECES: usize = 4;
/// How often figures are shown.
const SHOW: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) view: watch::Sender<JobView>,
    pub(super) transfer: SessionId,
    pub(super) key: Secret,
    pub(super) source_name: String,
    pub(super) compression: Compression,
    pub(super) throttle: Throttle,
    pub(super) ttl: Duration,
    pub(super) local: PeerId,
    pub(super) stopping: Stopping,
    pub(super) hashes: Hashes,
}

/// A package that can be sent.
type Made = Result<(Arc<Snapshot>, Packed), Failure>;

/// What ends a conversation: the peer's word needs no answer.
enum Ended {
    ByPeer(Code),
    Here(Failure),
}

impl Export {
    pub(super) async fn run(self, source: Source, knock: oneshot::Receiver<Knock>) -> Outcome {
        let progress = Arc::new(HashProgress::default());
        let mut making = self.make(source, progress.clone());
        let outcome = self.serve(&mut making, &progress, knock).await;
        // what still reads the tree lets go of it
        self.stopping.work.stop.store(true, Ordering::Relaxed);
        if !making.is_finished() {
            making.await.ok();
        }
        outcome.map_or_else(Failure::into_outcome, Outcome::Completed)
    }

    /// Hashes the tree and measures its package, on threads of their own.
    fn make(&self, source: Source, progress: Arc<HashProgress>) -> JoinHandle<Made> {
        let (work, compression, hashes) = (self.stopping.work.clone(), self.compression, self.hashes.clone());
        tokio::task::spawn_blocking(move || {
            let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            let snapshot = source.hash(threads, hashes.open(), &progress, &work.stop).map_err(|e| unhashed(&e))?;
            let snapshot = Arc::new(snapshot);
            let packed = package::measure(&snapshot, compression, &work).map_err(|e| unpacked(&e))?;
            Ok((snapshot, packed))
        })
    }

    async fn serve(
        &self,
        making: &mut JoinHandle<Made>,
        progress: &HashProgress,
        knock: oneshot::Receiver<Knock>,
    ) -> Result<Completion, Failure> {
        let mut made = None;
        let mut show = tokio::time::interval(SHOW);
        let (expiry, mut knock) = (tokio::time::sleep(self.ttl), knock);
        tokio::pin!(expiry);
        let knock = loop {
            tokio::select! {
                failure = self.stopping.asked(Role::Exporter) => return Err(failure),
                knock = &mut knock => break knock.map_err(|_| Failure::of(Code::NodeStopping, Role::Exporter))?,
                result = &mut *making, if made.is_none() => made = Some(joined(result)?),
                () = &mut expiry => return Err(Failure::of(Code::SessionExpired, Role::Exporter)),
                _ = show.tick() => self.show_making(progress, made.is_some()),
            }
        };
        let peer = knock.peer;
        let (hello, wire) = knock.come_in();
        self.view.send_modify(|view| {
            begin(view, self.transfer);
            view.peer = Some(PeerSummary {
                peer_id: peer.to_string(),
                device_name: hello.device_name.clone(),
                address: None,
                transport: None,
            });
        });
        show_phase(&self.view, Phase::ManifestReceiving);
        let (mut read, mut write) = (wire.read, wire.write);
        let ended = self.converse(peer, &hello, making, made, progress, (&mut read, &mut write)).await;
        match ended {
            Ok(done) => {
                write.end(Message::Heard).await;
                Ok(done)
            }
            Err(Ended::ByPeer(code)) => Err(Failure::told_by_importer(code)),
            Err(Ended::Here(failure)) => {
                write.end(Message::Over(failure.code)).await;
                Err(failure)
            }
        }
    }

    async fn converse(
        &self,
        peer: PeerId,
        hello: &Hello,
        making: &mut JoinHandle<Made>,
        made: Option<(Arc<Snapshot>, Packed)>,
        progress: &HashProgress,
        (read, write): (&mut WireReader, &mut WireWriter),
    ) -> Result<Completion, Ended> {
        let (snapshot, packed) = match made {
            Some(made) => made,
            None => self.finish_making(making, progress, (&mut *read, &mut *write)).await?,
        };
        let offer = self.offer(&snapshot, packed, peer, hello);
        write.say(Message::Offer(offer)).await.map_err(gone)?;
        self.wait_for(read, Message::Take).await?;
        show_phase(&self.view, Phase::BulkTransferring);
        let sent = tokio::select! {
            sent = self.send(snapshot.clone(), packed, write) => sent,
            // while pieces go, an importer says only that it is there, or that it is over
            ended = listen(read) => Err(ended),
            failure = self.stopping.asked(Role::Exporter) => Err(Ended::Here(failure)),
        };
        sent?;
        show_phase(&self.view, Phase::FinalVerifying);
        self.wait_for(read, Message::Applied).await?;
        self.view.send_modify(|view| view.progress.files_ok = view.progress.files_total);
        Ok(Completion {
            protocol: Protocol::V3,
            payload_bytes: snapshot.manifest().total_bytes(),
            wire_bytes: packed.len,
            notes: view::skipped_notes(snapshot.skipped()),
            ..Completion::of(snapshot.manifest())
        })
    }

    /// The importer waits until the package is measured, and hears how far that is.
    async fn finish_making(
        &self,
        making: &mut JoinHandle<Made>,
        progress: &HashProgress,
        (read, write): (&mut WireReader, &mut WireWriter),
    ) -> Result<(Arc<Snapshot>, Packed), Ended> {
        let mut tick = tokio::time::interval(KEEPALIVE);
        let mut show = tokio::time::interval(SHOW);
        loop {
            tokio::select! {
                result = &mut *making => return joined(result).map_err(Ended::Here),
                failure = self.stopping.asked(Role::Exporter) => return Err(Ended::Here(failure)),
                ended = listen(read) => return Err(ended),
                _ = show.tick() => self.show_making(progress, false),
                _ = tick.tick() => {
                    let (done, total) = self.so_far(progress);
                    write.say(Message::Preparing(Preparing { done, total })).await.map_err(gone)?;
                }
            }
        }
    }

    /// Content that was read for its hash and for the package, and that is to be read.
    fn so_far(&self, progress: &HashProgress) -> (u64, u64) {
        let total = progress.bytes_total.load(Ordering::Relaxed).saturating_mul(2);
        let hashed = progress.bytes_done.load(Ordering::Relaxed);
        (hashed.saturating_add(self.stopping.work.done.load(Ordering::Relaxed)).min(total), total)
    }

    fn show_making(&self, progress: &HashProgress, is_made: bool) {
        let (done, total) = self.so_far(progress);
        self.view.send_modify(|view| {
            let shown = &mut view.progress;
            shown.files_total = progress.files_total.load(Ordering::Relaxed);
            shown.bytes_total = total;
            (shown.files_hashed, shown.bytes_hashed) = match is_made {
                true => (None, None),
                false => (Some(progress.files_done.load(Ordering::Relaxed)), Some(done)),
            };
        });
    }

    fn offer(&self, snapshot: &Snapshot, packed: Packed, peer: PeerId, hello: &Hello) -> Offer {
        let manifest = snapshot.manifest();
        let counts = manifest.counts();
        let top = manifest.entries().map(|(_, entry)| entry.path).filter(|path| path.parent().is_none());
        let header = manifest.header();
        let mut offer = Offer {
            package_len: packed.len,
            package_sha256: packed.sha256,
            files: counts.files.into(),
            dirs: counts.dirs.into(),
            bytes: manifest.total_bytes(),
            root_mode: header.root_mode,
            root_mtime_s: header.root_mtime.map(|time| time.to_unix().0),
            source_name: cut(&self.source_name, MAX_TEXT).to_owned(),
            top_names: top.take(TOP_NAMES).map(|path| cut(path.as_str(), MAX_TEXT).to_owned()).collect(),
            proof: Digest([0; 32]),
        };
        let (exporter, importer) = (self.local.to_bytes(), peer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        offer.proof = archive::prove_offer(&self.key, self.transfer, ends, hello.nonce, &offer);
        offer
    }

    /// The importer says that, and before it only that it is there, and at what.
    async fn wait_for(&self, read: &mut WireReader, wanted: Message) -> Result<(), Ended> {
        loop {
            let said = tokio::select! {
                said = tokio::time::timeout(SILENCE, read.next()) => said.unwrap_or(Err(Code::Timeout)).map_err(gone)?,
                failure = self.stopping.asked(Role::Exporter) => return Err(Ended::Here(failure)),
            };
            match said {
                Item::Message(message) if *message == wanted => return Ok(()),
                Item::Message(message) => match *message {
                    Message::At(Step::Applying) => show_phase(&self.view, Phase::Applying),
                    Message::At(Step::Deciding | Step::Receiving | Step::Verifying) => {}
                    other => return Err(unexpected(&other)),
                },
                Item::Piece(_) => return Err(broke(Code::FrameUnexpected)),
            }
        }
    }

    /// The package, read from the tree once more.
    async fn send(&self, snapshot: Arc<Snapshot>, packed: Packed, write: &mut WireWriter) -> Result<(), Ended> {
        let (pieces, mut next) = mpsc::channel(PIECES);
        let (work, compression) = (self.stopping.work.clone(), self.compression);
        let files = u64::from(snapshot.manifest().counts().files);
        let reading = tokio::task::spawn_blocking(move || {
            package::write(&snapshot, compression, Pieces { pieces, piece: Vec::new() }, &work)
        });
        let (mut sent, mut rate) = (0_u64, RateMeter::default());
        let began = tokio::time::Instant::now();
        let mut shown = None;
        while let Some(piece) = next.recv().await {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(self.throttle.piece()));
                self.throttle.pass(now.len()).await;
                write.piece(now).await.map_err(gone)?;
                rest = later;
                sent += now.len() as u64;
            }
            if shown.is_none_or(|at: tokio::time::Instant| at.elapsed() >= SHOW) || sent == packed.len {
                shown = Some(tokio::time::Instant::now());
                let moment = Moment(began.elapsed());
                let limit = self.throttle.rate().map(Rate::bytes_per_second);
                let bps = rate.sample(moment, Some(Moving::Sent { limit }), sent);
                show_moved(&self.view, (files, sent, packed.len), bps, limit);
            }
        }
        match reading.await {
            Ok(Ok(again)) if again == packed => Ok(()),
            Ok(Ok(_)) => Err(Ended::Here(Failure::of(Code::SourceChanged, Role::Exporter))),
            Ok(Err(err)) => Err(Ended::Here(unpacked(&err))),
            Err(_) => Err(Ended::Here(Failure::of(Code::IoError, Role::Exporter))),
        }
    }
}

/// How much of a package has moved.
pub(super) fn show_moved(
    view: &watch::Sender<JobView>,
    (files, moved, len): (u64, u64, u64),
    bps: u64,
    limit: Option<u64>,
) {
    view.send_modify(|view| {
        let shown = &mut view.progress;
        (shown.files_total, shown.bytes_received, shown.bytes_total) = (files, moved, len);
        (shown.files_hashed, shown.bytes_hashed) = (None, None);
        shown.transfer_bps = bps;
        view.limit_bps = limit;
        (view.payload_bytes, view.wire_bytes) = (moved, moved);
    });
}

/// What is heard while nothing is to be heard but that the importer is there.
async fn listen(read: &mut WireReader) -> Ended {
    loop {
        match read.next().await {
            Ok(Item::Message(message)) => match *message {
                Message::At(_) => {}
                other => return unexpected(&other),
            },
            Ok(Item::Piece(_)) => return broke(Code::FrameUnexpected),
            Err(code) => return gone(code),
        }
    }
}

fn unexpected(message: &Message) -> Ended {
    match message {
        Message::Over(code) => Ended::ByPeer(as_heard(*code)),
        _ => broke(Code::FrameUnexpected),
    }
}

fn broke(code: Code) -> Ended {
    let message = "the other device broke the protocol";
    Ended::Here(Failure::described(code, message, None, Role::Exporter))
}

/// The importer left before it said how it ended.
fn gone(code: Code) -> Ended {
    if !matches!(code, Code::PeerGone | Code::Timeout) {
        return broke(code);
    }
    let hint = "an archive is not resumed: look there whether the tree is in place, else run `send` again";
    let failure = Failure::of(code, Role::Exporter);
    Ended::Here(Failure { hint: hint.to_owned(), ..failure })
}

fn joined(result: Result<Made, tokio::task::JoinError>) -> Made {
    result.unwrap_or_else(|_| Err(Failure::of(Code::IoError, Role::Exporter)))
}

fn unhashed(err: &SourceError) -> Failure {
    Failure::described(err.code(), crate::errors::chain(err), err.hint(), Role::Exporter)
}

fn unpacked(err: &PackError) -> Failure {
    Failure::described(err.code(), crate::errors::chain(err), None, Role::Exporter)
}

/// Takes what is written and hands it on in pieces.
struct Pieces {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MAX_PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == MAX_PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    /// Only at the end: a piece is sent when it is full.
    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(MAX_PIECE));
        self.pieces.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

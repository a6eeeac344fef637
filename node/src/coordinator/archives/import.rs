//! The importer's side of one archive: the package is received whole, checked whole, and then goes the way of every tree, from
//! staging to the swap. Whatever fails before the swap leaves the target what it was, and nothing behind.

mod ending;
mod receive;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use me_sync_protocol::archive::message::{Item, Step};
use me_sync_protocol::archive::{self, ArchiveTicket, Hello, Message, Offer};
use me_sync_protocol::ids::Nonce;
use me_sync_protocol::importer::ReadyToApply;
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::Code;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::ending::{Ended, broke, lost, not_swapped, undone, unexpected, unopened, unreached};
use super::{Stopping, begin, show_phase};
use crate::api::{Completion, Consent, JobId, JobView, OldTreeSummary, Outcome, Protocol, Review, Role};
use crate::archive::wire::{KEEPALIVE, Wire};
use crate::archive::{self as package, PackageRefused, Spool, SpoolWriter};
use crate::coordinator::Event;
use crate::coordinator::connect::{self, Route};
use crate::coordinator::explain::Failure;
use crate::coordinator::import::{Checker, Swap, described, discard, verify_and_swap};
use crate::limit::Throttle;
use crate::net::NetHandle;
use crate::post_apply::PostApply;
use crate::random;
use crate::staging::{self, SessionInfo, Staging, StateDir, Target};

/// How long an exporter has to say that it has heard of the end.
const HEARD: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) id: JobId,
    pub(super) view: watch::Sender<JobView>,
    pub(super) ticket: ArchiveTicket,
    pub(super) route: Route,
    pub(super) consent: Consent,
    pub(super) post_apply: Option<PostApply>,
    pub(super) throttle: Throttle,
    pub(super) device_name: String,
    pub(super) stopping: Stopping,
    pub(super) net: NetHandle,
    pub(super) state: Arc<StateDir>,
    pub(super) events: mpsc::Sender<Event>,
}

/// A tree that waits for the swap, with what it came in.
struct Staged {
    staging: Staging,
    proof: ReadyToApply,
    manifest: Arc<Manifest>,
    /// As long as this is there, a killed process is known to have had an archive.
    _package: package::Package,
}

impl Import {
    pub(super) async fn run(self, target: Target, answered: oneshot::Receiver<bool>) -> Outcome {
        let mut wire = match self.connect().await {
            Ok(wire) => wire,
            Err(failure) => return failure.into_outcome(),
        };
        match self.converse(&mut wire, target, answered).await {
            Ok(mut done) => {
                if !self.tell(wire).await {
                    done.notes.push("the other device could not be told that the tree is in place".to_owned());
                }
                Outcome::Completed(done)
            }
            Err(Ended { failure, is_told: true }) => failure.into_outcome(),
            Err(Ended { failure, is_told: false }) => {
                wire.write.end(Message::Over(failure.code)).await;
                failure.into_outcome()
            }
        }
    }

    /// A stream to exactly the device that made the ticket.
    async fn connect(&self) -> Result<Wire, Failure> {
        let Route { peer, addresses, transport, timeout, .. } = self.route.clone();
        let connecting = self.net.connect(peer, addresses, transport, timeout);
        let connected = tokio::select! {
            connected = connecting => connected.map_err(|e| unreached(&e))?,
            failure = self.stopping.asked(Role::Importer) => return Err(failure),
        };
        self.view.send_modify(|view| view.peer = Some(connect::summary(peer, &connected)));
        show_phase(&self.view, Phase::ManifestReceiving);
        let opened = self.net.open_archive(peer).await.map_err(|e| unopened(&e))?;
        Ok(Wire::new(opened.stream))
    }

    async fn converse(
        &self,
        wire: &mut Wire,
        target: Target,
        answered: oneshot::Receiver<bool>,
    ) -> Result<Completion, Ended> {
        let offer = self.greet(wire).await?;
        let target = self.consent(wire, target, &offer, answered).await?;
        let spool = self.receive(wire, &offer).await?;
        show_phase(&self.view, Phase::FinalVerifying);
        self.view.send_modify(|view| view.progress.detail = "checking and unpacking the archive".to_owned());
        let staged = self.stage(wire, target, spool, &offer).await?;
        self.view.send_modify(|view| view.progress.files_ok = offer.files);
        self.apply(wire, staged, &offer).await
    }

    /// Proves to hold the ticket, and hears what will come.
    async fn greet(&self, wire: &mut Wire) -> Result<Offer, Ended> {
        let ArchiveTicket { transfer_id, session_nonce: key, .. } = &self.ticket;
        let nonce = Nonce(random::bytes());
        let (exporter, importer) = (self.route.peer.to_bytes(), self.net.local_peer().to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let proof = archive::prove_hello(key, *transfer_id, ends, nonce);
        let hello = Hello { transfer_id: *transfer_id, nonce, proof, device_name: self.device_name.clone() };
        wire.write.say(Message::Hello(hello)).await.map_err(lost)?;
        let offer = loop {
            let said = tokio::select! {
                said = wire.read.heard() => said.map_err(lost)?,
                failure = self.stopping.asked(Role::Importer) => return Err(failure.into()),
            };
            match said {
                Item::Message(message) => match *message {
                    Message::Offer(offer) => break offer,
                    Message::Preparing(far) => self.view.send_modify(|view| {
                        let shown = &mut view.progress;
                        shown.bytes_total = far.total;
                        (shown.files_hashed, shown.bytes_hashed) = (Some(0), Some(far.done));
                    }),
                    other => return Err(unexpected(&other)),
                },
                Item::Piece(_) => return Err(broke(Code::FrameUnexpected)),
            }
        };
        let expected = archive::prove_offer(key, *transfer_id, ends, nonce, &offer);
        if !proof::matches(&expected, &offer.proof) {
            return Err(Failure::of(Code::PeerMismatch, Role::Importer).into());
        }
        self.view.send_modify(|view| {
            begin(view, self.ticket.transfer_id);
            view.source_name = Some(offer.source_name.clone());
            let shown = &mut view.progress;
            (shown.files_total, shown.bytes_total) = (offer.files, offer.package_len);
            (shown.files_hashed, shown.bytes_hashed) = (None, None);
        });
        Ok(offer)
    }

    /// Looks whether the target has room, and asks who has to be asked.
    async fn consent(
        &self,
        wire: &mut Wire,
        mut target: Target,
        offer: &Offer,
        answered: oneshot::Receiver<bool>,
    ) -> Result<Target, Ended> {
        let (state, entries, bytes) = (self.state.clone(), offer.files.saturating_add(offer.dirs), offer.bytes);
        let looking = tokio::task::spawn_blocking(move || {
            if let Err(e) = target.count_held(&state) {
                tracing::warn!(error = %crate::errors::chain(&e), "what earlier sessions hold is not counted as free");
            }
            let warnings = target.check_announced(entries, bytes).map_err(|e| described(e.code(), &e))?;
            Ok((target, warnings))
        });
        let (target, warnings) = self.work(wire, Step::Deciding, looking).await?;
        let old = target.old_tree();
        let summary = OldTreeSummary { files: old.files, bytes: old.bytes, is_partial: !old.complete };
        // a target that cannot be looked into is not taken for empty
        let replaces = (!target.is_empty().unwrap_or(false)).then_some(summary);
        let ask = match self.consent {
            Consent::Given => false,
            Consent::Ask => replaces.is_some(),
            Consent::AskAlways => true,
        };
        if !ask {
            return Ok(target);
        }
        let review = Review {
            protocol: Protocol::V3,
            source_name: offer.source_name.clone(),
            files: offer.files,
            dirs: offer.dirs,
            symlinks: 0,
            bytes: offer.bytes,
            top_names: offer.top_names.clone(),
            target: target.path().to_owned(),
            replaces,
            keep_for: staging::KEEP_OLD,
            warnings,
        };
        self.view.send_modify(|view| view.review = Some(review));
        let answer = self.beside(wire, Step::Deciding, answered).await;
        self.view.send_modify(|view| view.review = None);
        match answer? {
            Ok(true) => Ok(target),
            Ok(false) | Err(_) => Err(Failure::of(Code::Declined, Role::Importer).into()),
        }
    }

    /// Checks the package, and fills a staging tree from it.
    async fn stage(&self, wire: &mut Wire, target: Target, spool: Spool, offer: &Offer) -> Result<Staged, Ended> {
        let (state, work, offer) = (self.state.clone(), self.stopping.work.clone(), offer.clone());
        let session = self.ticket.transfer_id;
        let peer_name = self.view.borrow().peer.as_ref().map(|peer| peer.device_name.clone()).unwrap_or_default();
        let info = SessionInfo { peer_name, peer_id: self.route.peer.to_string(), keep_old: staging::KEEP_OLD };
        let staging = tokio::task::spawn_blocking(move || {
            let package = package::open(spool, &offer, &work)?;
            let manifest = package.manifest.clone();
            target.check_manifest(&manifest).map_err(|e| described(e.code(), &e))?;
            let staging = Staging::create(target, manifest.clone(), session, &state, info);
            let staging = staging.map_err(|e| described(e.code(), &e))?;
            let threads = std::thread::available_parallelism().unwrap_or(std::num::NonZeroUsize::MIN);
            let filled = staging
                .reuse(&state, threads, &work.stop, &work.done)
                .map_err(PackageRefused::from)
                .and_then(|found| package::unpack(&package, &staging, found, &work));
            let proof = filled.map(|files| ReadyToApply::of_package(&manifest, &files));
            match proof {
                Ok(Some(proof)) => Ok(Staged { staging, proof, manifest, _package: package }),
                Ok(None) => Err(undone(staging, Failure::of(Code::HashMismatch, Role::Importer))),
                Err(err) => Err(undone(staging, err.into())),
            }
        });
        self.work(wire, Step::Verifying, staging).await
    }

    /// Swaps, by the code that swaps every tree. From here on the exporter cannot stop it.
    async fn apply(&self, wire: &mut Wire, staged: Staged, offer: &Offer) -> Result<Completion, Ended> {
        let Staged { staging, proof, manifest, _package } = staged;
        let session = self.ticket.transfer_id;
        let checker = Checker {
            last_word: self.stopping.last_word.clone(),
            command: self.post_apply.clone(),
            session,
            files: offer.files,
            bytes: offer.bytes,
            peer_id: self.route.peer.to_string(),
            job: self.id,
            events: self.events.clone(),
            said: Vec::new(),
        };
        let (events, id) = (self.events.clone(), self.id);
        let mut swapping =
            tokio::task::spawn_blocking(move || verify_and_swap(staging, proof, Some(manifest), checker, id, &events));
        let mut tick = tokio::time::interval(KEEPALIVE);
        let swap = loop {
            tokio::select! {
                swap = &mut swapping => break swap,
                // an exporter that is gone hears of it by nothing
                _ = tick.tick() => { wire.write.say(Message::At(Step::Applying)).await.ok(); }
            }
        };
        let lost = |_| Swap::Done(Err(described(Code::DurabilityUnknown, &staging::ApplyError::Thread)));
        let (state, failed) = (self.state.clone(), swap.unwrap_or_else(lost));
        if let Swap::Done(Ok(done)) = failed {
            let (payload_bytes, wire_bytes) = (offer.bytes, offer.package_len);
            return Ok(Completion { protocol: Protocol::V3, payload_bytes, wire_bytes, ..done });
        }
        let undoing = tokio::task::spawn_blocking(move || not_swapped(failed, &state, session));
        let failure = undoing.await.unwrap_or_else(|_| Failure::of(Code::IoError, Role::Importer));
        // a swap that was kept from happening by a word was kept by that one's reason
        let said = self.stopping.why.get().filter(|_| failure.code == Code::Aborted).cloned();
        Err(said.unwrap_or(failure).into())
    }

    /// True when the exporter knows that the tree is in place.
    async fn tell(&self, mut wire: Wire) -> bool {
        let telling = async {
            wire.write.say(Message::Applied).await?;
            loop {
                match wire.read.next().await? {
                    Item::Message(message) if *message == Message::Heard => return Ok(()),
                    Item::Message(_) | Item::Piece(_) => {}
                }
            }
        };
        let told: Result<Result<(), Code>, _> = tokio::time::timeout(HEARD, telling).await;
        matches!(told, Ok(Ok(())))
    }

    /// Waits for work on the disk. Ended by somebody, it is told to stop, and is waited for all the same: nothing works on
    /// after the job.
    async fn work<T: Undo + Send + 'static>(
        &self,
        wire: &mut Wire,
        step: Step,
        mut work: JoinHandle<Result<T, Failure>>,
    ) -> Result<T, Ended> {
        match self.beside(wire, step, &mut work).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) => Err(Failure::of(Code::IoError, Role::Importer).into()),
            Err(ended) => {
                self.stopping.work.stop.store(true, Ordering::Relaxed);
                let (late, code) = (work.await, ended.failure.code);
                // off this thread: it may be a large tree
                let undoing = tokio::task::spawn_blocking(move || late.map(|late| late.map(|late| late.undo(code))));
                undoing.await.ok();
                Err(ended)
            }
        }
    }

    /// Waits for something while the exporter hears that this side is there, until one of the two ends it.
    async fn beside<T>(&self, wire: &mut Wire, step: Step, what: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::pin!(what);
        let mut tick = tokio::time::interval(KEEPALIVE);
        loop {
            tokio::select! {
                // what the exporter says when it has nothing to say counts, also beside an answer
                biased;
                said = wire.read.next() => return Err(match said.map_err(lost)? {
                    Item::Message(message) => unexpected(&message),
                    Item::Piece(_) if step == Step::Verifying => {
                        let longer = PackageRefused::Announced { what: "it is longer", code: Code::SizeMismatch };
                        Failure::from(longer).into()
                    }
                    Item::Piece(_) => broke(Code::FrameUnexpected),
                }),
                done = &mut what => return Ok(done),
                failure = self.stopping.asked(Role::Importer) => return Err(failure.into()),
                _ = tick.tick() => wire.write.say(Message::At(step)).await.map_err(lost)?,
            }
        }
    }
}

/// What becomes of a result that comes too late.
trait Undo {
    fn undo(self, code: Code);
}

impl Undo for (Target, Vec<String>) {
    fn undo(self, _: Code) {}
}

impl Undo for SpoolWriter {
    fn undo(self, _: Code) {}
}

impl Undo for Staged {
    fn undo(self, code: Code) {
        discard(self.staging, code);
    }
}

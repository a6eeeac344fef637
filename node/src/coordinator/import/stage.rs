//! Everything the import does to the disk before the apply: look at the target, make or open the staging tree,
//! find what is on this device already, and make what has arrived durable from time to time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use me_sync_protocol::file::{FileReport, Partial, VerifiedFile};
use me_sync_protocol::ids::{EntryIndex, Moment};
use me_sync_protocol::importer::{Importer, Input, Output};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::Code;
use tokio::sync::mpsc::error::SendError;

use super::link::{Link, Redial};
use super::{ImportJob, Session};
use crate::api::{Consent, OldTreeSummary, Protocol, Review, Role};
use crate::coordinator::explain::Failure;
use crate::coordinator::{Event, JobEvent, Shared};
use crate::staging::{self, FileStamp, ReopenError, SessionInfo, StageError, Staging, StateError, Target, TargetFacts};
use crate::store::StoreError;
use crate::transfer::LaneMeter;

/// Names of the top of the incoming tree that a review shows.
const TOP_NAMES: usize = 10;
/// What arrived is flushed and recorded at least this often, or after this many bytes: a crash costs no more.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
const CHECKPOINT_BYTES: u64 = 512 << 20;
/// So much content goes to the disk at a time, finished files or not, while more of it comes in: a kernel that is left alone
/// waits for half a minute or a tenth of the memory, and everybody would wait for all of that at the end.
const FLUSH_BYTES: u64 = 64 << 20;
/// Or after this many files: after a crash each of them is opened and hashed again. And what is flushed while files come
/// in need not be flushed while everybody waits for the end: 50,000 small files are there 8 % sooner.
const CHECKPOINT_FILES: usize = 16 << 10;

/// What the target said to the manifest.
pub(in crate::coordinator) type Checked = Result<(Target, TargetFacts, staging::OldTree), Failure>;
/// A staging tree, and the files of the manifest that were found on this device.
pub(in crate::coordinator) type Staged = Result<(Staging, Vec<VerifiedFile>), Failure>;
/// What an earlier process left.
pub(in crate::coordinator) type Opened = Result<Found, Failure>;

/// See [`Opened`].
#[derive(Debug)]
pub(in crate::coordinator) enum Found {
    /// A staging tree with what of it is whole or begun.
    Tree { staging: Box<Staging>, ok: Vec<VerifiedFile>, partial: Vec<Partial> },
    /// It ended before there was one.
    Target(Box<Target>),
}

/// Files that are ok and not known to be on the disk.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    fresh: Vec<EntryIndex>,
    bytes: u64,
    last: Moment,
    is_running: bool,
    /// Content that had arrived when the last flush began, by the session's meter.
    flushed: u64,
}

impl Checkpoints {
    pub(super) fn note(&mut self, reports: &[FileReport]) {
        let ok = reports.iter().filter_map(|report| match report {
            FileReport::Ok(file) => Some(file),
            FileReport::Failed(_) => None,
        });
        self.add(ok);
    }

    pub(super) fn add<'a>(&mut self, files: impl IntoIterator<Item = &'a VerifiedFile>) {
        for file in files {
            self.fresh.push(file.index());
            self.bytes = self.bytes.saturating_add(file.size());
        }
    }

    /// `arrived`: content so far.
    fn is_due(&self, now: Moment, arrived: u64) -> bool {
        let overdue = now >= self.last.after(CHECKPOINT_EVERY)
            || self.bytes >= CHECKPOINT_BYTES
            || self.fresh.len() >= CHECKPOINT_FILES;
        let unflushed = arrived.saturating_sub(self.flushed) >= FLUSH_BYTES;
        !self.is_running && (unflushed || (overdue && !self.fresh.is_empty()))
    }

    fn begin(&mut self, now: Moment, arrived: u64) -> Vec<EntryIndex> {
        (self.last, self.bytes, self.flushed, self.is_running) = (now, 0, arrived, true);
        std::mem::take(&mut self.fresh)
    }

    /// These are ok, and none of them is known to be on the disk.
    pub(super) fn begin_anew(&mut self, files: impl Iterator<Item = EntryIndex>) {
        self.fresh = files.collect();
    }
}

impl ImportJob {
    pub(super) fn check_target(&mut self, manifest: Arc<Manifest>, shared: &Shared) {
        let Some(mut target) = self.target.take() else { return };
        let (events, id, state) = (shared.events.clone(), self.id, shared.state.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(e) = target.count_held(&state) {
                tracing::warn!(error = %crate::errors::chain(&e), "what earlier sessions hold is not counted as free");
            }
            let checked = match target.check_manifest(&manifest) {
                Ok(facts) => {
                    let old = target.old_tree();
                    Ok((target, facts, old))
                }
                Err(e) => Err(described(e.code(), &e)),
            };
            // a coordinator that is gone does not need the news
            events.blocking_send(Event::Job(id, JobEvent::Checked(Box::new(checked)))).ok();
        });
    }

    /// The target looked at the manifest.
    pub(in crate::coordinator) fn checked(&mut self, result: Checked, shared: &Shared) {
        if self.is_over {
            return;
        }
        match result {
            Err(failure) => self.stop(failure, shared),
            Ok((target, facts, old)) => {
                let summary = OldTreeSummary { files: old.files, bytes: old.bytes, is_partial: !old.complete };
                // a target that cannot be looked into is not taken for empty
                let replaces = (!target.is_empty().unwrap_or(false)).then_some(summary);
                let ask = match self.consent {
                    Consent::Given => false,
                    Consent::Ask => replaces.is_some(),
                    Consent::AskAlways => true,
                };
                let review = self.review(&target, facts, replaces);
                self.target = Some(target);
                if self.superseding {
                    self.supersede_if_ready(shared);
                } else if ask {
                    self.view.send_modify(|view| view.review = review);
                } else {
                    self.stage(shared);
                }
            }
        }
    }

    fn review(&self, target: &Target, facts: TargetFacts, replaces: Option<OldTreeSummary>) -> Option<Review> {
        let manifest = self.session.as_ref()?.manifest.clone()?;
        let counts = manifest.counts();
        let top = manifest.entries().map(|(_, e)| e.path).filter(|p| p.parent().is_none());
        Some(Review {
            protocol: Protocol::V4,
            source_name: self.view.borrow().source_name.clone().unwrap_or_default(),
            files: u64::from(counts.files),
            dirs: u64::from(counts.dirs),
            symlinks: u64::from(counts.symlinks),
            bytes: manifest.total_bytes(),
            top_names: top.take(TOP_NAMES).map(|p| p.as_str().to_owned()).collect(),
            target: target.path().to_owned(),
            replaces,
            keep_for: staging::KEEP_OLD,
            warnings: facts.warnings,
        })
    }

    /// The person decided.
    pub(in crate::coordinator) fn decide(&mut self, agreed: bool, shared: &Shared) {
        if self.view.borrow().review.is_none() {
            return;
        }
        self.view.send_modify(|view| view.review = None);
        if agreed {
            // a session that takes this one's place is the same decision
            self.consent = Consent::Given;
            self.stage(shared);
        } else {
            self.stop(Failure::of(Code::Declined, Role::Importer), shared);
        }
    }

    /// Makes the staging tree and fills it with what this device has already, off the coordinator's thread.
    fn stage(&mut self, shared: &Shared) {
        let (Some(target), Some(session)) = (self.target.take(), &self.session) else { return };
        let Some(manifest) = session.manifest.clone() else { return };
        let peer_name = self.view.borrow().peer.as_ref().map(|p| p.device_name.clone()).unwrap_or_default();
        let info = SessionInfo { peer_name, peer_id: session.peer.to_string(), keep_old: staging::KEEP_OLD };
        let id = session.id;
        let (state, stop, copied) = (shared.state.clone(), self.stop_staging.clone(), self.local_bytes.clone());
        let options = self.options.clone();
        self.off_thread(shared, JobEvent::Staged, move || {
            let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            let staging = match Staging::create(target, manifest.clone(), id, &state, info) {
                Ok(staging) => staging,
                // the store was lost, the journal was not: the ticket opened the same session again
                Err(StageError::State(StateError::Exists { .. })) => {
                    let staging = Staging::reopen(&state, id, &options, []).map_err(|e| described(e.code(), &e))?;
                    let staging = match staging.manifest().is_outline() && !manifest.is_outline() {
                        true => staging.adopt(manifest.clone(), &[]).map_err(|(staging, e)| {
                            staging.suspend();
                            described(e.code(), &e)
                        })?,
                        false => staging,
                    };
                    if staging.manifest().sha256() != manifest.sha256() {
                        let what = "the state directory holds another tree under this session";
                        return Err(Failure::described(Code::StateCorrupt, what, None, Role::Importer));
                    }
                    let found = staging.survey(threads, &stop, &copied).map_err(|e| described(e.code(), &e))?;
                    return Ok((staging, found.ok));
                }
                Err(e) => return Err(described(e.code(), &e)),
            };
            match staging.reuse(&state, threads, &stop, &copied) {
                Ok(found) => Ok((staging, found)),
                Err(e) => {
                    let failure = described(e.code(), &e);
                    if matches!(e, StageError::Stopped) {
                        // what was found so far stays for the next process
                        staging.suspend();
                    } else {
                        discard(staging, failure.code);
                    }
                    Err(failure)
                }
            }
        });
    }

    /// Opens what an earlier process staged and looks what of it is whole.
    pub(super) fn open_staging(&mut self, shared: &Shared) {
        let Some(record) = &self.record else { return };
        let (session, path, options) = (record.session, record.target.clone(), self.options.clone());
        let (state, stop, hashed) = (shared.state.clone(), self.stop_staging.clone(), self.local_bytes.clone());
        let store = shared.store.clone();
        let runtime = tokio::runtime::Handle::current();
        // set when the last process had found all that it could reuse
        let looked = record.manifest.is_some();
        self.view.send_modify(|view| view.session_id = Some(session));
        self.off_thread(shared, JobEvent::Opened, move || {
            let durable = runtime.block_on(store.durable(session)).map_err(|e| store_failure(&e))?;
            let durable = durable.into_iter().map(|(index, stamp)| (index, FileStamp::from_bytes(stamp)));
            match Staging::reopen(&state, session, &options, durable) {
                Ok(staging) => {
                    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
                    let mut found = staging.survey(threads, &stop, &hashed).map_err(|e| described(e.code(), &e))?;
                    // of files that count at the target nothing is staged
                    if !looked || (found.ok.is_empty() && found.partial.is_empty()) {
                        found.ok.extend(
                            staging.reuse(&state, threads, &stop, &hashed).map_err(|e| described(e.code(), &e))?,
                        );
                    }
                    Ok(Found::Tree { staging: Box::new(staging), ok: found.ok, partial: found.partial })
                }
                // it had not come to a staging tree
                Err(ReopenError::Unknown { .. }) => {
                    let target = Target::pin(&path, &options).map_err(|e| described(e.code(), &e))?;
                    Ok(Found::Target(Box::new(target)))
                }
                Err(e) => Err(described(e.code(), &e)),
            }
        });
    }

    pub(super) fn off_thread<T: Send + 'static>(
        &mut self,
        shared: &Shared,
        event: fn(Box<Result<T, Failure>>) -> JobEvent,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) {
        self.is_staging = true;
        let (events, id) = (shared.events.clone(), self.id);
        tokio::task::spawn_blocking(move || {
            let result = Box::new(work());
            if let Err(SendError(_)) = events.blocking_send(Event::Job(id, event(result))) {
                // what is staged stays; the next start goes on with it or sweeps it
                tracing::debug!("the node is gone");
            }
        });
    }

    pub(in crate::coordinator) fn staged(&mut self, result: Staged, shared: &Shared) {
        self.is_staging = false;
        match result {
            Ok((staging, found)) => {
                self.reused = found.iter().fold((0, 0), |(n, bytes), file| (n + 1, bytes + file.size()));
                // of files that count where they stand nothing has to be flushed
                if !staging.is_standing() {
                    self.checkpoints.add(&found);
                }
                self.checkpoints.last = shared.clock.now();
                self.staging = Some(staging);
                self.record_manifest(shared);
                if !self.superseding {
                    self.input(Input::Accept(found), shared);
                    self.adopt_if_ready(shared);
                }
            }
            Err(failure) => self.stop(failure, shared),
        }
        self.after_staging(shared);
    }

    /// The tree of an earlier process is open, or there was none.
    pub(in crate::coordinator) fn opened(&mut self, result: Opened, shared: &Shared) {
        self.is_staging = false;
        let now = shared.clock.now();
        let party = self.party.zip(self.record.clone());
        match (result, party) {
            (Ok(found), Some(((id, peer), record))) => {
                let (core, manifest) = match found {
                    Found::Tree { staging, ok, partial } => {
                        let manifest = staging.manifest().clone();
                        if !staging.is_standing() {
                            self.checkpoints.add(&ok);
                        }
                        self.checkpoints.last = now;
                        self.is_cold = manifest.is_outline();
                        self.staging = Some(*staging);
                        (Importer::restored(shared.retry, now, manifest.clone(), ok, partial), Some(manifest))
                    }
                    Found::Target(target) => {
                        self.target = Some(*target);
                        (unconnected(shared, now), None)
                    }
                };
                self.session = Some(Session {
                    id,
                    peer,
                    core,
                    link: Link::Down(Redial::soon(now)),
                    conversation: 0,
                    lanes: record.grant.lanes,
                    max_chunk: record.grant.max_chunk,
                    zstd: false,
                    holes: false,
                    manifest,
                    meter: Arc::new(LaneMeter::new(self.throttle.clone())),
                    moved_before: 0,
                });
                self.redial_if_due(now, shared);
            }
            (Ok(_), None) => tracing::error!("opened the tree of no session"),
            (Err(failure), _) => self.cannot_open(failure, shared),
        }
        self.after_staging(shared);
        self.refresh(now);
    }

    /// What waited for the work on the staging tree.
    pub(super) fn after_staging(&mut self, shared: &Shared) {
        if let Some((outcome, left)) = self.ending.take() {
            self.wind_up(outcome, left, shared);
        } else {
            self.supersede_if_ready(shared);
        }
    }

    /// Lets go of the staging tree, pins the target again and redeems the ticket for another session.
    pub(super) fn supersede_if_ready(&mut self, shared: &Shared) {
        let draining = self.session.as_ref().is_some_and(|s| matches!(s.link, Link::Draining));
        if !self.superseding || self.is_staging || draining || self.is_over {
            return;
        }
        match (self.staging.take(), &self.target) {
            (None, Some(_)) => self.superseded(shared),
            (None, None) => {} // the target is being looked at, and comes back
            (Some(staging), _) => {
                let (path, options) = (staging.target_path().to_owned(), self.options.clone());
                self.off_thread(shared, JobEvent::Repinned, move || {
                    staging.suspend();
                    Target::pin(&path, &options).map_err(|e| described(e.code(), &e))
                });
            }
        }
    }

    pub(in crate::coordinator) fn repinned(&mut self, result: Result<Target, Failure>, shared: &Shared) {
        self.is_staging = false;
        match result {
            Ok(target) => self.target = Some(target),
            Err(failure) => self.stop(failure, shared),
        }
        self.after_staging(shared);
    }

    fn superseded(&mut self, shared: &Shared) {
        (self.superseding, self.redeeming) = (false, true);
        (self.late_hashes, self.adoption, self.is_cold) = (false, None, false);
        self.checkpoints = Checkpoints::default();
        self.details.clear();
        // that was said of the session before
        self.told_by_peer = false;
        self.view.send_modify(|view| view.review = None);
        self.dial_first(shared);
    }

    pub(super) fn checkpoint_if_due(&mut self, now: Moment, shared: &Shared) {
        let (Some(staging), Some(session)) = (&self.staging, &self.session) else { return };
        let arrived = session.meter.content();
        if !self.checkpoints.is_due(now, arrived) || session.core.is_applying() {
            return;
        }
        let mut entries = self.checkpoints.begin(now, arrived);
        if staging.manifest().is_outline() {
            // flushed all the same; but what they should be is on record in this process only
            entries.clear();
        }
        let (checkpointer, store, id) = (staging.checkpointer(), shared.store.clone(), session.id);
        let (events, job) = (shared.events.clone(), self.id);
        tokio::spawn(async move {
            let flushed = tokio::task::spawn_blocking(move || checkpointer.run(&entries)).await;
            let done = match flushed {
                Ok(Ok(stamps)) if stamps.is_empty() => Ok(()),
                Ok(Ok(stamps)) => {
                    let stamps = stamps.into_iter().map(|(index, stamp)| (index, stamp.to_bytes())).collect();
                    store.mark_durable(id, stamps).await.map_err(|e| store_failure(&e))
                }
                Ok(Err(e)) => Err(described(e.code(), &e)),
                Err(_) => Err(Failure::of(Code::NodeStopping, Role::Importer)),
            };
            // a coordinator that is gone does not need the news
            events.send(Event::Job(job, JobEvent::Checkpointed(done))).await.ok();
        });
    }

    pub(in crate::coordinator) fn checkpointed(&mut self, result: Result<(), Failure>, shared: &Shared) {
        self.checkpoints.is_running = false;
        match result {
            Ok(()) => {
                self.record_progress(shared);
                // a disk that is slower than the link has the next one to do by now, and idles until then
                if !self.is_over {
                    self.checkpoint_if_due(shared.clock.now(), shared);
                }
            }
            // the disk did not confirm: nothing that is staged can be trusted any more
            Err(failure) if failure.code == Code::IoError => self.stop(failure, shared),
            // the state directory: what arrived so far is not lost, but nothing more can be promised
            Err(failure) => self.suspend(failure, shared),
        }
    }
}

/// A core that knows nothing yet and waits for its exporter.
fn unconnected(shared: &Shared, now: Moment) -> Importer {
    let mut core = Importer::new(shared.retry, now);
    // a fresh core has nothing to object to, and nothing is open that it could let go
    core.handle(now, Input::Lost).ok();
    while !matches!(core.poll_output(), Output::Idle(_)) {}
    core
}

pub(in crate::coordinator) fn described(code: Code, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::described(code, crate::errors::chain(error), None, Role::Importer)
}

pub(super) fn store_failure(error: &StoreError) -> Failure {
    Failure::described(error.code(), crate::errors::chain(error), error.hint(), Role::Importer)
}

pub(in crate::coordinator) fn discard(staging: Staging, code: Code) {
    let path = staging.path();
    if let Err(e) = staging.discard_because(code) {
        tracing::warn!(path = %path.display(), error = %crate::errors::chain(&e), "staging is not gone yet; the next start removes it");
    }
}

//! The import's end: verify and swap, or let go; keep or remove what is staged; tell the exporter; tell the person.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use me_sync_protocol::importer::{Input, ReadyToApply};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::{Code, FailureReason};
use tokio::task::JoinSet;

use super::command::Checker;
use super::link::Link;
use super::stage::{described, discard};
use super::{ImportJob, Left};
use crate::api::{Completion, JobId, Outcome, Role};
use crate::coordinator::connect::{self, Route};
use crate::coordinator::deliver;
use crate::coordinator::explain::Failure;
use crate::coordinator::{Event, JobEvent, Shared};
use crate::staging::{self, ApplyError, RollbackError, SealError, StageError, Staging};
use crate::store::Write;

/// How long the end of an applied session may wait for the exporter to hear of it.
const DELIVERY: Duration = Duration::from_secs(10);
/// Between two tries in that time.
const DELIVERY_PAUSE: Duration = Duration::from_millis(500);

/// What became of an apply.
#[derive(Debug)]
pub(in crate::coordinator) enum Swap {
    Done(Result<Completion, Failure>),
    /// Staged files are gone or wrong: they have to come again. Without any, it is only to be tried again.
    Unstaged(Box<Staging>, Vec<me_sync_protocol::ids::EntryIndex>),
    /// Something on this device stands in the way that a person can clear. What is staged stays for a later try; the
    /// tree comes along unless it is suspended already.
    Refused(Option<Box<Staging>>, Obstacle),
    /// The command after the swap failed and moved the trees itself: the session is over, the old tree is kept.
    Stuck(Failure),
    /// A stop was asked for before the swap began; the tree stays as it is.
    Stopped,
}

/// See [`Swap::Refused`].
#[derive(Debug)]
pub(in crate::coordinator) enum Obstacle {
    /// Somebody put this into the staging directory.
    Foreign { error: StageError, staging: PathBuf },
    /// The target changed, and that was to be refused, or something else stands there.
    Target(ApplyError),
}

impl ImportJob {
    /// Verifies and swaps, off the coordinator's thread.
    pub(super) fn apply(&mut self, proof: ReadyToApply, shared: &Shared) {
        let (Some(staging), Some(session)) = (self.staging.take(), &mut self.session) else { return };
        let mut lanes = match &mut session.link {
            Link::Up(connection) => connection.stop_lanes(),
            Link::Draining | Link::Down(_) => JoinSet::new(),
        };
        // an outline is sealed by now
        session.manifest = session.core.manifest().cloned();
        let manifest = session.manifest.clone();
        let checker = Checker::new(self, shared);
        let (events, id) = (shared.events.clone(), self.id);
        tokio::spawn(async move {
            // no lane may hold a file open when the tree is verified
            while lanes.join_next().await.is_some() {}
            let done = events.clone();
            let work = move || verify_and_swap(staging, proof, manifest, checker, id, &events);
            let result = tokio::task::spawn_blocking(work).await;
            let lost = || Swap::Done(Err(described(Code::DurabilityUnknown, &ApplyError::Thread)));
            let result = result.unwrap_or_else(|_| lost());
            done.send(Event::Job(id, JobEvent::Applied(Box::new(result)))).await.ok();
        });
    }

    pub(in crate::coordinator) fn swapping(&mut self, shared: &Shared) {
        self.record_manifest(shared);
        self.input(Input::Swapping, shared);
    }

    pub(in crate::coordinator) fn restarting(&mut self, shared: &Shared) {
        self.input(Input::Restarting, shared);
    }

    pub(in crate::coordinator) fn applied(&mut self, swap: Swap, shared: &Shared) {
        let verdict = match swap {
            Swap::Done(Ok(completion)) => {
                self.completion = Some(completion);
                Ok(())
            }
            Swap::Done(Err(failure)) => {
                let code = failure.code;
                self.failure.get_or_insert(failure);
                Err(code)
            }
            Swap::Unstaged(staging, entries) => {
                if !entries.is_empty() {
                    let files = entries.len();
                    tracing::warn!(files, "staged files are gone or changed; they are asked for again");
                }
                self.staging = Some(*staging);
                if let Some((session, _)) = self.party {
                    shared.write_later(Write::ForgetDurable(session, entries.clone()));
                }
                match self.last_word.get() {
                    Word::GoOn => return self.input(Input::Unstaged(entries), shared),
                    Word::Suspend => {
                        let failure = Failure::of(Code::NodeStopping, Role::Importer);
                        let failure = Failure { hint: self.how_to_resume(), ..failure };
                        return self.end(failure.into_outcome(), Left::Kept, shared);
                    }
                    Word::Abort => return self.finish(Err(Code::Aborted), shared),
                }
            }
            Swap::Refused(staging, obstacle) => {
                self.staging = staging.map(|staging| *staging);
                let failure = self.in_the_way(&obstacle);
                let code = failure.code;
                self.failure = Some(failure);
                self.keeps = true;
                Err(code)
            }
            Swap::Stuck(failure) => {
                let code = failure.code;
                (self.failure, self.is_stuck) = (Some(failure), true);
                Err(code)
            }
            Swap::Stopped => {
                let failure = Failure::of(Code::NodeStopping, Role::Importer);
                let failure = Failure { hint: self.how_to_resume(), ..failure };
                return self.end(failure.into_outcome(), Left::Kept, shared);
            }
        };
        self.input(Input::Applied(verdict), shared);
    }

    fn in_the_way(&self, obstacle: &Obstacle) -> Failure {
        match obstacle {
            Obstacle::Foreign { error, staging } => {
                let what = match error {
                    StageError::Mismatch { path, why } => format!("{path} {why}"),
                    error => crate::errors::chain(error).to_string(),
                };
                let dir = staging::shown(staging);
                Failure {
                    code: error.code(),
                    message: format!("something on this device changed the staging directory {dir}: {what}"),
                    hint: format!("nothing was replaced, and what arrived is kept; remove it, {}", self.how_to_retry()),
                }
            }
            Obstacle::Target(error @ ApplyError::Conflict { .. }) => Failure {
                code: error.code(),
                message: crate::errors::chain(error).to_string(),
                hint: match self.party {
                    Some((session, _)) => format!(
                        "what arrived is kept; move away what stands there, then start `send` there again and \
                         `me-sync retry {}` here: nothing is sent again",
                        session.short()
                    ),
                    None => "move away what stands there, then start again".to_owned(),
                },
            },
            Obstacle::Target(error) => Failure {
                code: error.code(),
                message: crate::errors::chain(error).to_string(),
                hint: "what arrived is kept; start `send` there again, then `me-sync receive` with the same ticket \
                       without --fail-if-changed applies what is here"
                    .to_owned(),
            },
        }
    }

    /// The tree of an earlier process cannot be opened.
    pub(super) fn cannot_open(&mut self, failure: Failure, shared: &Shared) {
        // what may be mended (a busy target, a disk that is not mounted) leaves the session as it is
        let left = match failure.code {
            Code::SessionExpired | Code::SessionUnknown => Left::Nothing(failure.code),
            _ => Left::Kept,
        };
        self.end(failure.into_outcome(), left, shared);
    }

    /// The core is through.
    pub(super) fn finish(&mut self, outcome: Result<(), Code>, shared: &Shared) {
        match outcome {
            Ok(()) => {
                let mut completion = self.completion.take().unwrap_or_else(Completion::nothing);
                (completion.reused_files, completion.reused_bytes) = self.reused;
                (completion.payload_bytes, completion.wire_bytes) = self.payload();
                self.end(Outcome::Completed(completion), Left::Applied, shared);
            }
            Err(code) => {
                let mut failure = self.failure.take().unwrap_or_else(|| self.explain(code));
                let left = match code {
                    code if self.keeps => Left::Failed(code),
                    Code::RetryExhausted | Code::HashMismatch => {
                        failure.hint = format!("{}; {}", failure.hint, self.how_to_retry());
                        Left::Failed(code)
                    }
                    // the exporter's side may be mended: what came so far is good for the next session
                    Code::SourceChanged | Code::SourceUnreadable | Code::NodeStopping => Left::Failed(code),
                    code if self.is_stuck => Left::Nothing(code),
                    // what is at the target now is for the next start to say
                    Code::DurabilityUnknown | Code::TargetConflict => Left::Kept,
                    code => Left::Nothing(code),
                };
                self.end(failure.into_outcome(), left, shared);
            }
        }
    }

    /// Ends the job; `left` says what stays of its session.
    pub(super) fn end(&mut self, outcome: Outcome, left: Left, shared: &Shared) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        self.refresh(shared.clock.now());
        self.view.send_modify(|view| {
            view.review = None;
            view.waiting = None;
        });
        self.stop_staging.store(true, Ordering::Relaxed);
        if let Some((stop, _)) = &self.dialling {
            stop.cancel();
        }
        if self.is_staging {
            self.ending = Some((outcome, left));
        } else {
            self.wind_up(outcome, left, shared);
        }
    }

    /// Lets everything go, then reports the end: nothing of a failed session is left when people hear of it.
    pub(super) fn wind_up(&mut self, outcome: Outcome, left: Left, shared: &Shared) {
        self.record_end(left, shared);
        let (control, mut tasks) = match self.session.as_mut().map(|s| std::mem::replace(&mut s.link, Link::Draining)) {
            Some(Link::Up(connection)) => {
                let (control, tasks) = connection.take_apart();
                (Some(control.close()), tasks)
            }
            Some(Link::Draining | Link::Down(_)) | None => (None, JoinSet::new()),
        };
        let (staging, target, dialling) = (self.staging.take(), self.target.take(), self.dialling.take());
        let route = Route { timeout: DELIVERY, ..self.route.clone() };
        let record = self.record.clone();
        let told_by_peer = self.told_by_peer;
        let (events, id, net, store) = (shared.events.clone(), self.id, shared.net.clone(), shared.store.clone());
        tokio::spawn(async move {
            if let Some((_, dialling)) = dialling {
                dialling.await.ok();
            }
            let mut told = match control {
                Some(control) => control.await.unwrap_or(false),
                None => false,
            };
            // lanes first: they hold files of the staging tree open
            while tasks.join_next().await.is_some() {}
            let cleaned = tokio::task::spawn_blocking(move || {
                drop(target);
                if let Some(staging) = staging {
                    match left {
                        Left::Nothing(code) => discard(staging, code),
                        Left::Failed(code) => staging.keep_failed(code),
                        Left::Kept | Left::Applied => staging.suspend(),
                    }
                }
            });
            if let Err(e) = cleaned.await {
                tracing::error!(error = %e, "cleaning up after a session failed");
            }
            if let (Left::Nothing(code), Some(record)) = (left, &record)
                && !told_by_peer
            {
                // whatever it was told on its streams may have been lost with them
                deliver::keep_telling(net.clone(), store.clone(), record.clone(), Some(code));
            }
            let mut outcome = outcome;
            if let (Left::Applied, Some(mut record)) = (left, record) {
                if !told {
                    let telling = async {
                        while !connect::deliver(&net, &route, record.session, None).await {
                            tokio::time::sleep(DELIVERY_PAUSE).await;
                        }
                    };
                    told = tokio::time::timeout(DELIVERY, telling).await.is_ok();
                }
                record.told = told;
                if let Err(e) = store.put_import(record.clone()).await {
                    tracing::warn!(error = %crate::errors::chain(&e), "the end of the session is not recorded yet");
                }
                if !told {
                    deliver::keep_telling(net, store, record, None);
                }
                if let (false, Outcome::Completed(completion)) = (told, &mut outcome) {
                    completion.notes.push(
                        "the other device could not be told; this node, or the next me-sync command here that connects, tells it"
                            .to_owned(),
                    );
                }
            }
            events.send(Event::Job(id, JobEvent::Finished(Box::new(outcome)))).await.ok();
        });
    }

    fn explain(&self, code: Code) -> Failure {
        match (code, &self.session) {
            (Code::RetryExhausted, Some(session)) => {
                let path = |index| {
                    let entry = session.manifest.as_ref().and_then(|manifest| manifest.entry(index));
                    entry.map_or_else(String::new, |entry| entry.path.as_str().to_owned())
                };
                let cause = |index, reason: FailureReason| self.details.get(&index).map_or(reason.into(), |d| d.code);
                let failing = session.core.failures().into_iter();
                let failing: Vec<_> =
                    failing.map(|(index, reason)| (path(index), Some(cause(index, reason)))).collect();
                Failure::exhausted(&failing, Role::Importer)
            }
            _ => Failure::of(code, Role::Importer),
        }
    }
}

pub(in crate::coordinator) fn verify_and_swap(
    staging: Staging,
    proof: ReadyToApply,
    manifest: Option<Arc<Manifest>>,
    mut checker: Checker,
    job: JobId,
    events: &tokio::sync::mpsc::Sender<Event>,
) -> Swap {
    let staging = match &manifest {
        Some(manifest) if staging.manifest().is_outline() => match staging.adopt(manifest.clone(), &[]) {
            Ok(staging) => staging,
            Err((staging, e)) => {
                // the disk of the state directory may be full for now: nothing is lost, and it is tried again
                tracing::warn!(error = %crate::errors::chain(&e), "the sealed manifest is not recorded");
                return Swap::Unstaged(staging, Vec::new());
            }
        },
        Some(_) | None => staging,
    };
    let sealed = match staging.seal(&mut |_| {}) {
        Ok(sealed) => sealed,
        Err(SealError::Unstaged { staging, entries, .. }) => return Swap::Unstaged(staging, entries),
        Err(SealError::Foreign { staging, error }) => {
            if checker.word() == Word::Abort {
                discard(*staging, Code::Aborted);
                return Swap::Done(Err(Failure::of(Code::Aborted, Role::Importer)));
            }
            let path = staging.path();
            return Swap::Refused(Some(staging), Obstacle::Foreign { error, staging: path });
        }
        Err(SealError::Failed(e)) => return Swap::Done(Err(described(e.code(), &e))),
    };
    match checker.word() {
        Word::GoOn => {}
        // sealed and on the disk: a later job goes on from here
        Word::Suspend => {
            drop(sealed);
            return Swap::Stopped;
        }
        Word::Abort => {
            if let Err(e) = sealed.discard_because(Code::Aborted) {
                tracing::warn!(error = %crate::errors::chain(&e), "staging is not gone yet; the next start removes it");
            }
            return Swap::Done(Err(Failure::of(Code::Aborted, Role::Importer)));
        }
    }
    events.blocking_send(Event::Job(job, JobEvent::Swapping)).ok();
    let swapped = staging::on_apply_thread(move || {
        let applied = sealed.apply(proof, &mut checker)?;
        Ok((applied, checker.said()))
    });
    let (mut applied, said) = match swapped {
        Ok(applied) => applied,
        Err(e @ ApplyError::HealthStuck { .. }) if e.code() != Code::DurabilityUnknown => {
            return Swap::Stuck(Failure { hint: way_out(&e).to_owned(), ..described(e.code(), &e) });
        }
        Err(e @ ApplyError::Health { undone: None, .. }) => {
            let hint = "mend the command, then start `send` there again for a new ticket";
            return Swap::Done(Err(Failure { hint: hint.to_owned(), ..described(e.code(), &e) }));
        }
        Err(e @ (ApplyError::Changed { .. } | ApplyError::Conflict { .. })) => {
            return Swap::Refused(None, Obstacle::Target(e));
        }
        Err(e) => return Swap::Done(Err(described(e.code(), &e))),
    };
    if let Err(e) = applied.commit() {
        // the next start records it; the tree is in place all the same
        tracing::warn!(error = %crate::errors::chain(&e), "the end of the swap is not recorded yet");
    }
    let mut notes = Vec::from_iter(said);
    if applied.target_changed {
        notes.push("the target was edited during the transfer; the edits are in the kept old tree".to_owned());
    }
    if applied.target.symlink_metadata().is_err() {
        notes.push(format!(
            "nothing stands at {} any more: the command after the swap moved or removed the new tree",
            staging::shown(&applied.target)
        ));
    }
    if applied.two_renames {
        notes.push("this file system cannot exchange directories: the target was absent for a moment".to_owned());
    }
    if applied.modes.world_writable > 0 {
        notes.push(match applied.modes.world_writable {
            1 => "1 entry was writable by everybody at the source and is not here (--keep-world-writable keeps that)".to_owned(),
            n => format!(
                "{n} entries were writable by everybody at the source and are not here (--keep-world-writable keeps that)"
            ),
        });
    }
    if applied.modes.special > 0 {
        notes.push(match applied.modes.special {
            1 => "1 entry lost its setuid, setgid or sticky bit".to_owned(),
            n => format!("{n} entries lost their setuid, setgid or sticky bit"),
        });
    }
    Swap::Done(Ok(Completion {
        target: Some(applied.target.clone()),
        unchanged: applied.unchanged,
        retained: applied.retained.clone(),
        retained_until_ms: applied.retained.is_some().then_some(applied.keep_until_ms),
        notes,
        ..manifest.as_deref().map_or_else(Completion::nothing, Completion::of)
    }))
}

/// What a person does when the command after the swap failed and has moved the trees: nothing that could lose one.
fn way_out(error: &ApplyError) -> &'static str {
    match error {
        ApplyError::HealthStuck { err, .. } => match &**err {
            RollbackError::Conflict { retained, .. } if retained.symlink_metadata().is_ok() => {
                "move away what stands at that directory; then `me-sync rollback` of it brings the old tree back"
            }
            RollbackError::Conflict { .. } => {
                "the old tree is not where it was kept: look whether it stands at that directory before you move anything"
            }
            RollbackError::Unavailable { .. } => {
                "the command moved or removed the old tree: what stands at that directory stays, and nothing brings the old one back"
            }
            _ => "look at that directory and at what `me-sync kept` lists before you move anything",
        },
        _ => "",
    }
}

/// What a person says while the staged tree is being verified; the last word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) enum Word {
    GoOn,
    /// Stop, and keep what is staged.
    Suspend,
    /// Stop, and remove it.
    Abort,
}

/// The newest [`Word`], shared with the thread that applies.
#[derive(Debug, Clone, Default)]
pub(in crate::coordinator) struct LastWord(Arc<AtomicU8>);

impl LastWord {
    pub(in crate::coordinator) fn say(&self, word: Word) {
        self.0.store(word as u8, Ordering::Release);
    }

    pub(in crate::coordinator) fn get(&self) -> Word {
        match self.0.load(Ordering::Acquire) {
            0 => Word::GoOn,
            1 => Word::Suspend,
            _ => Word::Abort,
        }
    }
}

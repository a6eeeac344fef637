//! What is decided while the trees change places: whether to go on, and by the command after the swap whether the new
//! tree stays.

use me_sync_protocol::ids::SessionId;
use tokio::sync::mpsc;

use super::ImportJob;
use super::apply::{LastWord, Word};
use crate::api::JobId;
use crate::coordinator::{Event, JobEvent, Shared};
use crate::post_apply::{Facts, PostApply};
use crate::staging::{ApplyHooks, Swapped};

/// Goes with one swap to the thread that does it.
#[derive(Debug)]
pub(in crate::coordinator) struct Checker {
    pub(in crate::coordinator) last_word: LastWord,
    pub(in crate::coordinator) command: Option<PostApply>,
    pub(in crate::coordinator) session: SessionId,
    pub(in crate::coordinator) files: u64,
    pub(in crate::coordinator) bytes: u64,
    pub(in crate::coordinator) peer_id: String,
    pub(in crate::coordinator) job: JobId,
    pub(in crate::coordinator) events: mpsc::Sender<Event>,
    /// What a command that ended well has printed last.
    pub(in crate::coordinator) said: Vec<String>,
}

impl Checker {
    pub(super) fn new(job: &ImportJob, shared: &Shared) -> Self {
        let manifest = job.session.as_ref().and_then(|session| session.manifest.as_ref());
        let (session, peer) =
            job.party.map_or((SessionId([0; 16]), String::new()), |(id, peer)| (id, peer.to_string()));
        Self {
            last_word: job.last_word.clone(),
            command: job.post_apply.clone(),
            session,
            files: manifest.map_or(0, |manifest| manifest.counts().files.into()),
            bytes: manifest.map_or(0, |manifest| manifest.total_bytes()),
            peer_id: peer,
            job: job.id,
            events: shared.events.clone(),
            said: Vec::new(),
        }
    }

    pub(super) fn word(&self) -> Word {
        self.last_word.get()
    }

    /// What people are told of a command that ended well.
    pub(super) fn said(self) -> Option<String> {
        (!self.said.is_empty()).then(|| format!("the command after the swap said: {}", self.said.join(" / ")))
    }
}

impl ApplyHooks for Checker {
    /// An abort wins until the last moment before the trees change places; the swap itself is too short to suspend.
    fn proceed(&mut self) -> bool {
        self.word() != Word::Abort
    }

    fn checks(&self) -> bool {
        self.command.is_some()
    }

    /// Whoever wants to stop, in whatever way, need not wait for a command: it is ended, and that is a failure.
    fn check(&mut self, swapped: &mut Swapped<'_>) -> Result<(), String> {
        let Some(command) = &self.command else { return Ok(()) };
        // a coordinator that is gone shows nothing to anybody
        self.events.blocking_send(Event::Job(self.job, JobEvent::Restarting)).ok();
        let (target, retained) = (swapped.target(), swapped.retained());
        let facts = Facts {
            target: &target,
            retained: retained.as_deref(),
            session: self.session,
            files: self.files,
            bytes: self.bytes,
            peer_id: &self.peer_id,
        };
        let is_stopped = || self.last_word.get() != Word::GoOn;
        let ran = command.run(&facts, &is_stopped, &mut |process| {
            let noted = swapped.checked_by(process);
            noted.map_err(|err| format!("{command} cannot be noted: {}", crate::errors::chain(&err)))
        });
        let end = ran.end.map_err(|why| match self.last_word.get() {
            Word::GoOn => why,
            Word::Suspend => format!("{why}, as me-sync was"),
            Word::Abort => format!("{why}, as the migration was aborted"),
        });
        match end {
            Ok(()) => {
                self.said = ran.said;
                Ok(())
            }
            Err(why) if ran.said.is_empty() => Err(why),
            Err(why) => Err(format!("{why}; it said: {}", ran.said.join(" / "))),
        }
    }
}

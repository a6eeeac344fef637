//! The source is not what it was: the tree is looked at again instead of sending what can only fail again. Another
//! session then takes the place of this one, with everything that has arrived (SPEC §5.6-6, §6.4-3).

use std::collections::BTreeSet;
use std::sync::Arc;

use me_sync_protocol::exporter::Input;
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::reason::Code;

use super::hashing::Source;
use super::{ExportJob, Walk};
use crate::api::Role;
use crate::coordinator::explain::Failure;
use crate::coordinator::sources::Part;
use crate::coordinator::{Event, JobEvent, Shared, view};
use crate::source::{self, ScanOptions, Snapshot, SnapshotReader};

/// How often a tree that changes is looked at again. One that changes all the time is nobody's to send.
const MOST: u32 = 3;

/// What is known of changes of the source.
#[derive(Debug, Default)]
pub(super) struct Rescan {
    done: u32,
    /// Files that were not what they had been when it was their turn in this round.
    changed: BTreeSet<EntryIndex>,
    /// What waits for a look at the tree.
    waiting: Option<Waiting>,
    /// Whoever takes the tree now gets it as it is: once.
    looked: bool,
}

#[derive(Debug)]
enum Waiting {
    /// The round that is asked for.
    Round { conversation: u32, entries: Vec<EntryIndex>, changed: Vec<EntryIndex> },
    /// The end of hashing.
    Hashing(Failure),
    /// The tree as it was when it was offered, for an importer that is here now.
    Taken(Arc<Snapshot>),
}

impl Rescan {
    /// Somebody else takes the tree, or the same one anew.
    pub(super) fn taken_anew(&mut self) {
        self.looked = false;
    }
}

impl ExportJob {
    /// Files of a round that could not be sent.
    pub(super) fn note_changed(&mut self, failed: &[(EntryIndex, Code)]) {
        let changed = failed.iter().filter(|(_, code)| *code == Code::SourceChanged);
        self.rescan.changed.extend(changed.map(|(index, _)| *index));
    }

    /// The tree is being looked at: the importer waits for us.
    pub(super) fn is_rescanning(&self) -> bool {
        self.rescan.waiting.is_some()
    }

    /// These are to be sent again. Of what has changed here nothing else will come than before.
    pub(super) fn rescan_instead(&mut self, entries: &[EntryIndex], shared: &Shared) -> bool {
        let changed = std::mem::take(&mut self.rescan.changed);
        let Some(session) = &self.session else { return false };
        if !entries.iter().any(|index| changed.contains(index)) || !self.may_rescan() {
            return false;
        }
        tracing::info!(files = changed.len(), "the source has changed: it is looked at again");
        let conversation = session.conversation;
        let changed = changed.into_iter().collect();
        self.look_again(Waiting::Round { conversation, entries: entries.to_vec(), changed }, shared);
        true
    }

    /// An importer is here, and the tree was looked at some time ago: what came, went or changed since belongs to what it
    /// gets. True while that is looked at; until then there is no manifest for it.
    pub(super) fn look_before_it_is_taken(&mut self, shared: &Shared) -> bool {
        let Source::Ready(snapshot) = &self.source else { return false };
        let is_old = shared.clock.now() > self.walk.at.after(shared.look_again_after);
        if !is_old || self.rescan.looked || self.rescan.waiting.is_some() {
            return false;
        }
        let snapshot = snapshot.clone();
        self.rescan.looked = true;
        self.source = Source::Hashing;
        self.look_again(Waiting::Taken(snapshot), shared);
        true
    }

    /// A file changed all the time while it was hashed, or is gone. False: that is the end.
    pub(super) fn rescan_after(&mut self, failure: &Failure, shared: &Shared) -> bool {
        let may = failure.code == Code::SourceChanged && self.may_rescan();
        if may {
            self.look_again(Waiting::Hashing(failure.clone()), shared);
        }
        may
    }

    fn may_rescan(&self) -> bool {
        self.rescan.done < MOST && self.rescan.waiting.is_none()
    }

    fn look_again(&mut self, waiting: Waiting, shared: &Shared) {
        let doubtful = match (&waiting, self.snapshot()) {
            (Waiting::Round { changed, .. }, Some(snapshot)) => Some((snapshot.reader(), changed.clone())),
            _ => None,
        };
        let before = match &waiting {
            Waiting::Taken(_) => Some(self.walk.id.clone()),
            Waiting::Round { .. } | Waiting::Hashing(_) => {
                self.rescan.done += 1;
                None
            }
        };
        self.rescan.waiting = Some(waiting);
        let (root, options) = (self.record.root.clone(), ScanOptions::from(self.record.choices));
        let (events, id) = (shared.events.clone(), self.id);
        tokio::task::spawn_blocking(move || {
            // they may be what they were by now: then they are sent in this round
            let is_mended = |(mut reader, changed): (SnapshotReader, Vec<EntryIndex>)| {
                changed.into_iter().all(|index| reader.open(index).is_ok())
            };
            let scanned = match doubtful.is_some_and(is_mended) {
                true => Ok(None),
                false => source::Source::scan(&root, &options).map(Some),
            };
            let scanned = scanned.map(|found| found.filter(|found| before.is_none_or(|id| id != found.walk_id())));
            let scanned =
                scanned.map_err(|e| Failure::described(e.code(), crate::errors::chain(&e), e.hint(), Role::Exporter));
            // a coordinator that is gone does not need the news
            events.blocking_send(Event::Job(id, JobEvent::Rescanned(Box::new(scanned)))).ok();
        });
    }

    /// The tree was looked at. What is given back is to be hashed, for this offer.
    pub(in crate::coordinator) fn rescanned(
        &mut self,
        result: Result<Option<source::Source>, Failure>,
        shared: &Shared,
    ) -> Option<source::Source> {
        let waiting = self.rescan.waiting.take()?;
        if self.is_over {
            return None;
        }
        match (result, waiting) {
            (Ok(source), Waiting::Hashing(_)) => source,
            (Ok(None), Waiting::Taken(snapshot)) => {
                self.walk.at = shared.clock.now();
                let manifest = snapshot.manifest().clone();
                self.source = Source::Ready(snapshot);
                self.note_manifest();
                self.put(shared);
                self.input(Input::ManifestReady(manifest), shared);
                None
            }
            (Ok(source), Waiting::Taken(_)) => {
                tracing::info!("the source has changed since it was offered: it goes as it is now");
                source
            }
            (Err(failure), Waiting::Taken(_)) => {
                self.stop(failure, shared);
                None
            }
            (Ok(Some(source)), Waiting::Round { changed, .. }) => {
                // an outline whose conversation was lost meanwhile is being hashed, and that sees what has changed
                let goes_on = self.session.as_ref().is_none_or(|s| s.core.is_finalizing());
                if goes_on || matches!(self.source, Source::Hashing) {
                    return None;
                }
                if let Some(snapshot) = self.snapshot() {
                    let names = changed.iter().take(view::MAX_FAILURES).map(|index| snapshot.path(*index)).collect();
                    self.view.send_modify(|view| view.changed = names);
                }
                self.supersede(shared);
                Some(source)
            }
            (Err(_), Waiting::Hashing(failure)) => {
                self.stop(failure, shared);
                None
            }
            (unchanged, Waiting::Round { conversation, entries, .. }) => {
                if let Err(failure) = unchanged {
                    tracing::warn!(code = %failure.code, "the source cannot be looked at again: {}", failure.message);
                }
                if self.session.as_ref().is_some_and(|s| s.conversation == conversation) {
                    self.send_round(entries, &[], shared);
                }
                None
            }
        }
    }

    /// The tree is hashed anew.
    pub(in crate::coordinator) fn hash_again(&mut self, part: Arc<Part>, walk: Walk) {
        self.walk = walk;
        self.hashing = part.progress.clone();
        self.part = Some(part);
        self.source = Source::Hashing;
        let Some(session) = &self.session else { return };
        let takes_outline = session.takes_outline;
        self.came();
        if takes_outline {
            self.want_outline();
        }
    }
}

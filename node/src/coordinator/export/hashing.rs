//! The offer's source: hashed before it is served, or served by its outline while the lanes hash it.
//!
//! An outline is good for one conversation. When that is lost, or the importer comes in another way than was agreed,
//! what the lanes have not hashed is hashed as always, and the session goes on with the sealed manifest.

use std::sync::Arc;

use me_sync_protocol::exporter::{Input, Output};
use me_sync_protocol::ids::{Digest, SessionId};
use me_sync_protocol::reason::Code;

use super::ExportJob;
use crate::coordinator::Shared;
use crate::coordinator::sources::{Hashed, Part};
use crate::source::{Outline, Snapshot};

/// The source of an offer.
#[derive(Debug)]
pub(super) enum Source {
    Hashing,
    /// Not all of it is hashed; an importer is served all the same.
    Outlined(Box<Outline>),
    Ready(Arc<Snapshot>),
}

impl ExportJob {
    /// What is served, once there is something.
    pub(super) fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        match &self.source {
            Source::Hashing => None,
            Source::Outlined(outline) => Some(outline.snapshot()),
            Source::Ready(snapshot) => Some(snapshot),
        }
    }

    /// Somebody asked for the tree.
    pub(super) fn came(&self) {
        if let Some(part) = &self.part {
            part.late.came();
        }
    }

    /// An importer that takes an outline is here.
    pub(super) fn want_outline(&self) {
        if let Some(part) = &self.part {
            part.late.want();
        }
    }

    pub(in crate::coordinator) fn hashed(&mut self, result: Hashed, shared: &Shared) {
        self.part = None;
        if self.is_over {
            return;
        }
        match result {
            Ok(snapshot) => self.sealed(snapshot, shared),
            Err(failure) if self.rescan_after(&failure, shared) => {}
            Err(failure) => self.stop(failure, shared),
        }
    }

    fn sealed(&mut self, snapshot: Arc<Snapshot>, shared: &Shared) {
        let manifest = snapshot.manifest().clone();
        self.source = Source::Ready(snapshot);
        // whoever has some of it already has the manifest that it was
        if self.session.as_ref().is_some_and(|s| s.importer_holds.is_none())
            && self.record.manifest.is_none()
            && self.record.outline.is_none()
            && self.look_before_it_is_taken(shared)
        {
            return;
        }
        let is_other = self.record.manifest.is_some_and(|known| known != manifest.sha256())
            || self.record.outline.is_some_and(|known| known != manifest.outline_sha256());
        if is_other {
            self.supersede(shared);
        } else {
            self.note_manifest();
            self.put(shared);
        }
        self.input(Input::ManifestReady(manifest), shared);
    }

    /// An outline is of use: the importer may have changed its mind while it was made.
    pub(in crate::coordinator) fn takes_outline(&self) -> bool {
        !self.is_over && self.session.as_ref().is_some_and(|s| s.takes_outline)
    }

    /// The outline is made.
    pub(in crate::coordinator) fn outlined(&mut self, outline: Box<Outline>, shared: &Shared) {
        self.part = None;
        let manifest = outline.snapshot().manifest().clone();
        self.source = Source::Outlined(outline);
        // before the importer has it: a later process must see that its tree is still that one
        self.record.outline = Some(manifest.sha256());
        self.note_manifest();
        self.put(shared);
        self.input(Input::ManifestReady(manifest), shared);
    }

    /// Every hash is known: the importer is asked to apply the manifest with this digest.
    pub(super) fn outline_is_sealed(&mut self, sha256: Digest, shared: &Shared) {
        self.record.manifest = Some(sha256);
        self.put(shared);
    }

    /// The digest of what the importer has or will have, once every hash is known.
    pub(super) fn sealed_sha256(&self) -> Option<Digest> {
        match &self.source {
            Source::Hashing => None,
            Source::Outlined(_) => self.record.manifest,
            Source::Ready(snapshot) => Some(snapshot.manifest().sha256()),
        }
    }

    /// From now on only the sealed manifest will do: what is not hashed yet is. A conversation that has the outline
    /// goes on until it is lost.
    pub(super) fn withdraw_outline(&mut self, shared: &Shared) {
        let mut learned = Vec::new();
        if let Some(session) = &mut self.session {
            session.takes_outline = false;
            if session.connection.is_some() {
                return;
            }
            // without a conversation there is nothing to object to
            session.core.handle(shared.clock.now(), Input::Withdrawn).ok();
            learned = session.core.take_late_hashes();
        }
        if let Some(part) = &self.part {
            part.late.decline();
        }
        if self.is_over || !matches!(self.source, Source::Outlined(_)) {
            return;
        }
        if let Source::Outlined(outline) = std::mem::replace(&mut self.source, Source::Hashing) {
            tracing::info!("what is not hashed yet is hashed now");
            self.part = Some(Part::of_rest(self.id, outline.into_source(learned), self.hashing.clone(), shared));
        }
    }

    /// The tree is not what it was when the session began: its importer has to redeem the ticket again.
    pub(super) fn supersede(&mut self, shared: &Shared) {
        if let Some(mut session) = self.session.take() {
            tracing::info!(session = %session.id.short(), "the tree has changed since this session began");
            // tells an importer that is connected; others learn it when they come
            session.core.handle(shared.clock.now(), Input::Stop(Code::ManifestChanged)).ok();
            if let Some(connection) = session.connection.take() {
                while let Output::Send(frame) = session.core.poll_output() {
                    connection.send(frame);
                }
                connection.let_go();
            }
            self.former.push(session.id);
            self.traces = Some(session.into_traces());
        }
    }

    pub(in crate::coordinator) fn is_superseded(&self, session: SessionId) -> bool {
        self.former.contains(&session)
    }
}

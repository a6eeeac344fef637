//! From an outline to the sealed manifest, when the conversation with the outline was lost (SPEC §5.10).

use std::num::NonZeroUsize;

use me_sync_protocol::importer::Input;

use super::stage::described;
use super::{ImportJob, Left};
use crate::coordinator::explain::Failure;
use crate::coordinator::{JobEvent, Shared};
use crate::staging::{Found, StageError, Staging};

/// The staging tree, and what was found in it if it was looked at.
pub(in crate::coordinator) type Adopted = Result<(Staging, Found), Failure>;

impl ImportJob {
    /// Lets the staging tree go by the sealed manifest, once both are here and nothing else works on it. A tree of an
    /// earlier process is then looked at, as after every restart.
    pub(super) fn adopt_if_ready(&mut self, shared: &Shared) {
        if self.is_staging || self.superseding || self.is_over || self.adoption.is_none() {
            return;
        }
        let Some(staging) = self.staging.take() else { return };
        let Some((manifest, lost)) = self.adoption.take() else { return };
        if !staging.manifest().is_outline() {
            // made when the sealed manifest was here already
            self.staging = Some(staging);
            return self.input(Input::Adopted { found: Vec::new(), partial: Vec::new() }, shared);
        }
        let is_cold = std::mem::take(&mut self.is_cold);
        let (state, stop, hashed) = (shared.state.clone(), self.stop_staging.clone(), self.local_bytes.clone());
        self.off_thread(shared, JobEvent::Adopted, move || {
            let kept = |staging: Staging, e: &StageError| {
                // whatever it was, it may pass: a later process goes on with the outline, or with the manifest
                staging.suspend();
                described(e.code(), e)
            };
            let staging = match staging.adopt(manifest, &lost) {
                Ok(staging) => staging,
                Err((staging, e)) => return Err(kept(*staging, &e)),
            };
            if !is_cold {
                return Ok((staging, Found::default()));
            }
            let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            let looked = staging.survey(threads, &stop, &hashed).and_then(|mut found| {
                found.ok.extend(staging.reuse(&state, threads, &stop, &hashed)?);
                Ok(found)
            });
            match looked {
                Ok(found) => Ok((staging, found)),
                Err(e) => Err(kept(staging, &e)),
            }
        });
    }

    pub(in crate::coordinator) fn adopted(&mut self, result: Adopted, shared: &Shared) {
        self.is_staging = false;
        match result {
            Ok((staging, found)) => {
                self.staging = Some(staging);
                self.record_manifest(shared);
                if !self.superseding {
                    let Found { ok, partial, .. } = found;
                    self.input(Input::Adopted { found: ok, partial }, shared);
                }
                if let Some(session) = &self.session {
                    // each of them is what the sealed manifest says
                    self.checkpoints.begin_anew(session.core.verified());
                }
            }
            Err(failure) => self.end(failure.into_outcome(), Left::Kept, shared),
        }
        self.after_staging(shared);
    }
}

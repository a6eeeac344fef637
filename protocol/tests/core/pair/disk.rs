//! The importer's disk: what is staged, what of it a checkpoint covers, what a crash leaves; and both restarts.

use std::collections::{BTreeMap, BTreeSet};

use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::{LocalFile, Partial, VerifiedFile};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::importer::{self, Importer};
use me_sync_protocol::progress::Counters;
use me_sync_protocol::reason::Code;
use me_sync_protocol::retry::RetryPolicy;

use super::conn::End;
use super::{Fault, Pair, Side, draw};
use crate::tree::Tree;

#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Content of staged files, whole or not.
    pub(super) files: BTreeMap<EntryIndex, Vec<u8>>,
    /// Those that are verified.
    pub(super) ok: BTreeSet<EntryIndex>,
    /// Those that stay so whatever happens.
    pub(super) durable: BTreeSet<EntryIndex>,
    /// Those that a lane has open.
    pub(super) writing: BTreeSet<EntryIndex>,
    /// Those that were on this device before.
    pub(super) found: BTreeSet<EntryIndex>,
    /// Those that crashes damaged, once for each time.
    pub(super) lost: Vec<EntryIndex>,
}

impl Disk {
    pub(super) fn checkpoint(&mut self) {
        self.durable = self.ok.clone();
    }

    /// What was not durable is kept, cut short, damaged or gone.
    fn damage(&mut self, mut seed: u64) {
        let (durable, lost) = (&self.durable, &mut self.lost);
        self.files.retain(|index, bytes| {
            let drawn = if seed == 0 { 0 } else { draw(&mut seed) };
            let at = usize::try_from(drawn >> 8).unwrap_or(0) % (bytes.len() + 1);
            if durable.contains(index) || drawn % 6 < 3 {
                return true;
            }
            lost.push(*index);
            match drawn % 6 {
                3 => bytes.truncate(at),
                4 => bytes[at..].fill(0),
                _ => return false,
            }
            true
        });
        self.ok.clear();
        self.writing.clear();
    }
}

fn hashed(tree: &Tree, index: EntryIndex, bytes: &[u8]) -> LocalFile {
    let mut local = LocalFile::begin(&tree.manifest, index).expect("a file");
    bytes.chunks(50).for_each(|chunk| local.update(chunk));
    local
}

impl Pair {
    /// The importer finds some of the files on its own device.
    pub(super) fn find_local(&mut self) -> Vec<VerifiedFile> {
        let Some(every) = std::num::NonZeroUsize::new(self.scenario.found) else { return Vec::new() };
        let tree = self.target().clone();
        let files = tree.manifest.entries().filter(|(_, e)| e.is_file()).map(|(index, _)| index);
        files
            .step_by(every.get())
            .map(|index| {
                let bytes = tree.bytes(index).to_vec();
                let verified = hashed(&tree, index, &bytes).finish().expect("the right bytes");
                self.disk.files.insert(index, bytes);
                self.disk.ok.insert(index);
                self.disk.found.insert(index);
                verified
            })
            .collect()
    }

    /// The staging tree goes by the sealed manifest. What an earlier life of the process left in it is looked at.
    pub(super) fn adopt(&mut self) {
        let Some((manifest, lost)) = self.adopting.take() else { return };
        self.staged = Some(manifest);
        for index in lost {
            self.disk.ok.remove(&index);
            self.disk.files.remove(&index);
        }
        let (found, partial) = if std::mem::take(&mut self.cold) { self.survey() } else { Default::default() };
        self.import(importer::Input::Adopted { found, partial });
    }

    /// The staged tree as a whole: wrong files are removed and asked for again.
    pub(super) fn seal(&mut self) {
        for (n, fault) in self.scenario.faults.iter().enumerate() {
            if let Fault::Rot { file, times } = fault
                && let Some(index) = self.target().nth_file(*file)
                && self.rotted.get(&n).is_none_or(|done| done < times)
            {
                *self.rotted.entry(n).or_insert(0) += 1;
                self.disk.files.remove(&index);
            }
        }
        // before anything is applied
        self.staged = self.importer.manifest().cloned();
        let tree = self.target();
        let files = tree.manifest.entries().filter(|(_, e)| e.is_file()).map(|(index, _)| index);
        let right = |index: &EntryIndex| self.disk.files.get(index).is_some_and(|bytes| *bytes == tree.bytes(*index));
        let wrong: Vec<_> = files.filter(|index| !right(index)).collect();
        if wrong.is_empty() {
            self.sealed = true;
            return self.import(importer::Input::Swapping);
        }
        for index in &wrong {
            self.assert(!self.disk.files.contains_key(index), "only what rotted is wrong");
            self.disk.ok.remove(index);
            self.disk.durable.remove(index);
            self.disk.found.remove(index);
        }
        self.import(importer::Input::Unstaged(wrong));
    }

    pub(super) fn swap(&mut self) {
        let Some((proof, _)) = &self.ready else { return };
        self.assert(proof.manifest_sha256() == self.target().manifest.sha256(), "the proof is for this manifest");
        if self.scenario.faults.contains(&Fault::ApplyFails) {
            self.swap = Some(Err(Code::IoError));
            return;
        }
        self.live = self.target().staged_image(&self.disk.files);
        self.swap = Some(Ok(()));
    }

    pub(super) fn crash(&mut self, side: Side, seed: u64) {
        let on = if side == Side::Exporter { self.exporter_on } else { self.importer_on };
        self.conns[on].cut(seed);
        *self.conns[on].end(side) = End::Gone;
        match side {
            Side::Exporter => {
                let conn = &mut self.conns[on];
                conn.work.clear();
                conn.lanes.iter_mut().for_each(|lane| lane.sending.clear());
                conn.to_exporter.clear();
                self.exporter = Exporter::restored(RetryPolicy::default(), self.now);
                (self.made, self.outlined, self.may_outline) = (false, false, false);
                self.export(exporter::Input::Tick);
            }
            Side::Importer => {
                let conn = &mut self.conns[on];
                conn.lanes.iter_mut().for_each(|lane| lane.receiver = None);
                conn.to_importer.clear();
                self.importer_crashed = true;
                self.restart_importer(seed);
            }
        }
    }

    /// Somebody tries once more what the retry rounds did not heal: both nodes kept the session.
    pub(crate) fn retry(&mut self) {
        self.assert(self.exporter_over.is_some() && self.importer_over.is_some(), "it had ended");
        (self.exporter_over, self.importer_over) = (None, None);
        self.disk.checkpoint();
        self.crash(Side::Exporter, 0);
        self.crash(Side::Importer, 0);
        self.importer_crashed = false;
    }

    fn restart_importer(&mut self, seed: u64) {
        (self.reviewed, self.adopting) = (None, None);
        self.importer_counters = Counters::default();
        self.deadlines[1] = None;
        self.ready = None;
        self.sealed = false;
        self.disk.damage(seed);
        if let Some(result) = self.swap {
            // recovery finds out what the swap did
            self.importer_over = Some(result);
            self.importer_down = true;
            return;
        }
        let Some(manifest) = self.staged.clone() else {
            self.importer_down = true;
            self.disk = Disk::default();
            return;
        };
        // nothing says yet what the files of an outline should be
        self.cold = manifest.is_outline();
        let (have, partial) = if self.cold { Default::default() } else { self.survey() };
        self.importer = Importer::restored(RetryPolicy::default(), self.now, manifest, have, partial);
        self.import(importer::Input::Tick);
    }

    /// What of the staged files counts.
    fn survey(&mut self) -> (Vec<VerifiedFile>, Vec<Partial>) {
        let tree = self.target().clone();
        let (mut have, mut partial): (Vec<VerifiedFile>, Vec<Partial>) = (Vec::new(), Vec::new());
        for (index, bytes) in std::mem::take(&mut self.disk.files) {
            let recorded = VerifiedFile::recorded(&tree.manifest, index).filter(|_| self.disk.durable.contains(&index));
            let local = hashed(&tree, index, &bytes);
            match recorded.map_or_else(|| local.clone().finish(), Ok) {
                Ok(verified) => {
                    self.disk.ok.insert(index);
                    have.push(verified);
                }
                Err(_) => match local.into_partial() {
                    Some(kept) => partial.push(kept),
                    None => continue,
                },
            }
            self.disk.files.insert(index, bytes);
        }
        (have, partial)
    }
}

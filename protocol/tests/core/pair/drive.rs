//! Which step may come next, and what the cores say to each.

use std::collections::VecDeque;
use std::time::Duration;

use me_sync_protocol::exporter;
use me_sync_protocol::frame::Frame;
use me_sync_protocol::importer;
use me_sync_protocol::limits::{KEEPALIVE, MAX_LIST};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::Code;

use super::conn::End;
use super::{Fault, LONG, Pair, ROOM, Side, Step, WINDOW, draw};

impl Pair {
    pub(super) fn next(&mut self) -> Option<Step> {
        if let Some(step) = self.due_fault() {
            return Some(step);
        }
        let mut steps = self.possible();
        if steps.is_empty() {
            let ready = self.ready.as_ref().map(|(_, at)| *at).filter(|at| *at > self.now);
            let next = self.deadlines.into_iter().chain([self.reviewed, ready]).flatten().min()?;
            return Some(Step::Pass(next.0.saturating_sub(self.now.0)));
        }
        if self.rng == 0 {
            return Some(steps.swap_remove(0));
        }
        let drawn = draw(&mut self.rng);
        if drawn.is_multiple_of(16) {
            let span = Duration::from_millis(drawn >> 8 & 0x3ff);
            let next = self.deadlines.into_iter().flatten().min().unwrap_or(self.now.after(span));
            return Some(Step::Pass(span.min(next.0.saturating_sub(self.now.0))));
        }
        if drawn % 32 == 1 && self.staged.is_some() && !self.importer_down && self.importer_over.is_none() {
            return Some(Step::Checkpoint);
        }
        let at = usize::try_from(drawn >> 8).unwrap_or(usize::MAX) % steps.len();
        Some(steps.swap_remove(at))
    }

    fn due_fault(&self) -> Option<Step> {
        let now = self.log.len();
        let seed = if self.rng == 0 { 0 } else { self.rng | 1 };
        let exporter_lives = self.exporter_over.is_none();
        let importer_lives = self.importer_over.is_none();
        self.scenario.faults.iter().find_map(|fault| match fault {
            Fault::Disconnect { step } if *step == now => Some(Step::Cut(seed)),
            Fault::Stop { side, step } if *step == now => Some(Step::Stop(*side)),
            Fault::Mute { side, step } if *step == now => Some(Step::Mute(*side)),
            Fault::Crash { side: Side::Exporter, step } if *step == now && exporter_lives => {
                Some(Step::Crash(Side::Exporter, seed))
            }
            Fault::Crash { side: Side::Importer, step } if *step == now && importer_lives && !self.importer_down => {
                Some(Step::Crash(Side::Importer, seed))
            }
            Fault::Edit { step } if *step == now && exporter_lives => Some(Step::Edit),
            Fault::Rewrite { step } if *step == now && exporter_lives => Some(Step::Rewrite),
            Fault::Jump { step } if *step == now => Some(Step::Jump(LONG)),
            _ => None,
        })
    }

    /// Everything that may happen now without the clock going on.
    fn possible(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut may = |yes: bool, step| {
            if yes {
                steps.push(step);
            }
        };
        let (out, into) = (&self.conns[self.exporter_on], &self.conns[self.importer_on]);
        let (exports, imports) = (self.exporter_over.is_none(), self.importer_over.is_none() && !self.importer_down);
        for (n, conn) in self.conns.iter().enumerate() {
            let reaches = n == 0 || n == self.importer_on || self.scenario.rude;
            // a stream that a lost connection carried may still come up late
            let comes = exports && conn.exporter == End::Unopened && !conn.is_mute(Side::Importer) && reaches;
            may(comes && (!conn.cut || self.scenario.rude), Step::Open(n));
        }
        may(!self.made && exports, Step::Manifest);
        may(imports && !into.is_mute(Side::Exporter) && !into.to_importer.is_empty(), Step::ToImporter);
        let opened = out.exporter != End::Unopened;
        may(exports && opened && !out.is_mute(Side::Importer) && !out.to_exporter.is_empty(), Step::ToExporter);
        for (n, lane) in into.lanes.iter().enumerate() {
            let open = into.importer == End::Open || lane.receiver.is_some();
            may(imports && open && !into.is_mute(Side::Exporter) && !lane.wire.is_empty(), Step::Deliver(n));
        }
        for (n, lane) in out.lanes.iter().enumerate() {
            // when the core has let go, what a lane has begun may still run on for a while
            let has_more = !lane.sending.is_empty() || (out.exporter == End::Open && !out.work.is_empty());
            may(exports && has_more && lane.wire.len() + lane.void < WINDOW, Step::Send(n));
        }
        may(imports && self.reviewed.is_some_and(|at| at <= self.now), Step::Answer);
        may(imports && self.adopting.is_some() && self.staged.is_some(), Step::Adopt);
        let ready = imports && self.ready.as_ref().is_some_and(|(_, at)| *at <= self.now);
        may(ready && !self.sealed, Step::Seal);
        may(ready && self.sealed && self.swap.is_none(), Step::Swap);
        may(imports && self.ready.is_some() && self.swap.is_some(), Step::Tell);
        let unread = |is_mute: bool, queue: &VecDeque<Frame>| !is_mute && !queue.is_empty();
        let lost = out.cut || out.importer == End::Gone;
        let last_words = unread(out.is_mute(Side::Importer), &out.to_exporter) && !self.scenario.rude;
        may(exports && out.exporter == End::Open && lost && !last_words, Step::See(Side::Exporter));
        let lost = into.cut || into.exporter == End::Gone;
        let last_words = unread(into.is_mute(Side::Exporter), &into.to_importer) && !self.scenario.rude;
        may(imports && into.importer == End::Open && lost && !last_words, Step::See(Side::Importer));
        let mut ended = true;
        for (n, _) in into.lanes.iter().enumerate().filter(|(_, lane)| lane.receiver.is_some()) {
            ended = false;
            may(imports && into.importer == End::Gone, Step::EndLane(n));
        }
        let waits = self.importer_over.is_none() && (self.importer_down || self.importer.is_waiting());
        // a restarted exporter that has not walked its tree again does not know the manifest yet
        let knows = self.made || self.importer_down || self.importer.holds().is_none() || !exports;
        may(waits && into.importer == End::Gone && ended && knows && !self.is_offline(), Step::Dial);
        let silent = out.cut || out.is_mute(Side::Importer) || out.exporter == End::Gone;
        let untold = silent || self.importer_crashed || self.scenario.rude;
        may(exports && self.importer_over.is_some() && untold && !self.is_offline(), Step::Result);
        steps
    }

    fn is_offline(&self) -> bool {
        let now = self.log.len();
        self.scenario.faults.iter().any(|f| matches!(f, Fault::Offline { step } if *step <= now))
    }

    /// This side's node drops its ends of the connection.
    pub(super) fn let_go(&mut self, side: Side, reset: bool) {
        let on = if side == Side::Exporter { self.exporter_on } else { self.importer_on };
        let conn = &mut self.conns[on];
        *conn.end(side) = End::Gone;
        if side == Side::Exporter {
            conn.work.clear();
        }
        if reset {
            conn.cut(0);
        }
    }

    pub(super) fn export(&mut self, input: exporter::Input) {
        if let Err(violation) = self.exporter.handle(self.now, input) {
            self.violations.push((Side::Exporter, violation));
        }
        self.pump_exporter();
    }

    /// Drains the core, as far as the control stream takes frames.
    pub(super) fn pump_exporter(&mut self) {
        let before = self.exporter_over;
        for n in 0.. {
            let conn = &self.conns[self.exporter_on];
            if conn.to_importer.len() >= ROOM && conn.exporter == End::Open && !self.exporter.lets_go() {
                self.deadlines[0] = Some(self.now.after(KEEPALIVE));
                return;
            }
            self.assert(n < self.most_outputs(), "the exporter's outputs are bounded");
            match self.exporter.poll_output() {
                exporter::Output::Send(frame) => {
                    let frame = self.substitute(Side::Exporter, frame);
                    let conn = &mut self.conns[self.exporter_on];
                    if conn.carries(Side::Exporter) {
                        conn.to_importer.push_back(frame);
                    }
                }
                exporter::Output::SendFiles { entries, partial } => {
                    let named = partial.iter().all(|p| entries.binary_search(&p.index).is_ok());
                    self.assert(named, "partial files are among those to send");
                    let conn = &mut self.conns[self.exporter_on];
                    conn.offsets = partial.iter().map(|p| (p.index, p.offset)).collect();
                    conn.work.extend(entries);
                }
                exporter::Output::Sealed(sha256) => {
                    let right = self.trees.iter().any(|tree| tree.manifest.sha256() == sha256);
                    self.assert(right, "what was sent is what the exporter had");
                }
                exporter::Output::Suspended { reset } => {
                    self.outline_is_void();
                    self.let_go(Side::Exporter, reset);
                    if let Some(conn) = self.opening.take() {
                        self.exporter_on = conn;
                    }
                }
                exporter::Output::Over(outcome) => {
                    self.assert(before.is_none(), "a session is over once");
                    self.exporter_over = Some(outcome);
                    self.let_go(Side::Exporter, false);
                    self.conns[self.exporter_on].lanes.iter_mut().for_each(|lane| lane.sending.clear());
                }
                exporter::Output::Idle(deadline) => {
                    self.deadlines[0] = deadline.map(|d| d.at);
                    return;
                }
            }
        }
    }

    pub(super) fn import(&mut self, input: importer::Input) {
        if self.importer_down {
            return;
        }
        if let Err(violation) = self.importer.handle(self.now, input) {
            self.violations.push((Side::Importer, violation));
        }
        self.pump_importer();
    }

    /// Drains the core, as far as the control stream takes frames.
    pub(super) fn pump_importer(&mut self) {
        if self.importer_down {
            return;
        }
        let before = self.importer_over;
        for n in 0.. {
            let conn = &self.conns[self.importer_on];
            if conn.to_exporter.len() >= ROOM && conn.importer == End::Open && !self.importer.lets_go() {
                self.deadlines[1] = Some(self.now.after(KEEPALIVE));
                return;
            }
            self.assert(n < self.most_outputs(), "the importer's outputs are bounded");
            match self.importer.poll_output() {
                importer::Output::Send(frame) => {
                    if let Frame::PendingList(list) = &frame {
                        self.check_list(list);
                    }
                    let frame = self.substitute(Side::Importer, frame);
                    let conn = &mut self.conns[self.importer_on];
                    if conn.carries(Side::Importer) {
                        conn.to_exporter.push_back(frame);
                    }
                }
                importer::Output::Review(manifest) => {
                    self.assert(!manifest.is_outline() || self.scenario.late, "an outline comes only where it may");
                    self.aim(&manifest);
                    self.reviewed = Some(self.now.after(self.scenario.think));
                }
                importer::Output::Adopt { manifest, lost } => {
                    self.aim(&manifest);
                    self.adopting = Some((manifest, lost));
                    self.importer_counters = Default::default();
                }
                importer::Output::Suspended { reset } => {
                    // found wanting: sealing is over
                    if self.ready.is_some() {
                        self.ready = None;
                        self.importer_counters = Default::default();
                    }
                    self.let_go(Side::Importer, reset);
                }
                importer::Output::Apply(proof) => {
                    self.assert(self.ready.is_none() && self.swap.is_none(), "a tree is applied once");
                    self.sealed = false;
                    self.ready = Some((proof, self.now.after(self.scenario.apply)));
                }
                importer::Output::Over(outcome) => {
                    self.assert(before.is_none(), "a session is over once");
                    self.importer_over = Some(outcome);
                    (self.reviewed, self.adopting) = (None, None);
                    self.let_go(Side::Importer, false);
                    self.conns[self.importer_on].lanes.iter_mut().for_each(|lane| lane.receiver = None);
                }
                importer::Output::Idle(deadline) => {
                    self.deadlines[1] = deadline.map(|d| d.at);
                    return;
                }
            }
        }
    }

    /// The importer receives this tree.
    fn aim(&mut self, manifest: &Manifest) {
        let of = |tree: &crate::tree::Tree| match manifest.is_outline() {
            true => tree.manifest.outline_sha256(),
            false => tree.manifest.sha256(),
        };
        self.sink = self.trees.iter().position(|tree| of(tree) == manifest.sha256());
        self.assert(self.sink.is_some(), "the manifest is one that was sent");
    }

    fn most_outputs(&self) -> usize {
        let manifest = &self.source().manifest;
        10 + manifest.chunks().count() + manifest.len() as usize / MAX_LIST
    }

    fn substitute(&mut self, who: Side, frame: Frame) -> Frame {
        let count = &mut self.said_count[usize::from(who == Side::Importer)];
        let nth = *count;
        *count += 1;
        self.said.push((who, frame.name()));
        let other = self.scenario.faults.iter().find_map(|f| match f {
            Fault::Substitute { side, nth: at, frame } if *side == who && *at == nth => Some(frame.clone()),
            _ => None,
        });
        other.unwrap_or(frame)
    }

    /// How a session that waits ends when its time is over: by its node.
    pub(crate) fn expire(&mut self) {
        self.import(importer::Input::Stop(Code::SessionExpired));
        self.export(exporter::Input::Stop(Code::SessionExpired));
        self.check();
    }
}

//! `Pair`: both cores, the lanes between them and one virtual clock; scripted faults; invariants after every step.
//!
//! A run is the list of [`Step`]s in [`Pair::log`]. Which step comes next is drawn from a seed, so that frames of
//! different streams overtake each other; a failed invariant prints scenario and log, and [`Pair::replay`] takes them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::{FileReport, LaneReceiver, LaneStep, Violation};
use me_sync_protocol::frame::{FileBegin, FileEnd, Frame};
use me_sync_protocol::ids::{EntryIndex, Moment};
use me_sync_protocol::importer::{self, Importer, ReadyToApply};
use me_sync_protocol::limits::MAX_LIST;
use me_sync_protocol::manifest::Node;
use me_sync_protocol::progress::Counters;
use me_sync_protocol::reason::{Code, FailureReason};
use me_sync_protocol::retry::RetryPolicy;

use crate::tree::{Image, Tree, old_image};

/// Payload bytes of a chunk here: small, so that small files have several.
const CHUNK: usize = 64;
/// Frames a lane holds before its sender must wait.
const WINDOW: usize = 4;
/// More steps than any honest run takes.
const MAX_STEPS: usize = 20_000;

/// How the exporter's and the importer's session ended.
pub(crate) type Outcomes = (Option<Result<(), Code>>, Option<Result<(), Code>>);

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Exporter,
    Importer,
}

/// What goes wrong. Files are counted among the files of the tree, wrapping; steps from the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// One byte is wrong in the first `times` transfers of a file.
    Flip { file: usize, times: u32 },
    /// The last byte does not come in the first `times` transfers.
    Truncate { file: usize, times: u32 },
    /// One byte too many comes in the first `times` transfers.
    Excess { file: usize, times: u32 },
    /// The exporter finds the file changed, the first `times`.
    SourceChanged { file: usize, times: u32 },
    /// The importer cannot write the file, the first `times`.
    DiskFails { file: usize, times: u32 },
    /// From this step on nothing that this side says arrives, though the connection stands.
    Mute { side: Side, step: usize },
    /// The connection breaks.
    Disconnect { step: usize },
    /// Somebody stops this side.
    Stop { side: Side, step: usize },
    /// The person at the importer says no.
    Decline,
    /// The swap does not work out.
    ApplyFails,
    /// Instead of its `nth` control frame this side sends another.
    Substitute { side: Side, nth: usize, frame: Frame },
    /// Instead of its `nth` frame a lane carries another.
    LaneSubstitute { nth: usize, frame: Frame },
}

/// Everything that decides a run, but for the order of its steps.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) tree: Tree,
    pub(crate) lanes: usize,
    pub(crate) faults: Vec<Fault>,
    /// How long the person thinks before the importer accepts.
    pub(crate) think: Duration,
    /// How long the apply takes.
    pub(crate) apply: Duration,
}

impl Scenario {
    pub(crate) fn of(items: &[(&str, usize)]) -> Self {
        Self { tree: Tree::of(items), lanes: 3, faults: Vec::new(), think: Duration::ZERO, apply: Duration::ZERO }
    }

    pub(crate) fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The exporter learns of the control stream.
    Open,
    /// The exporter's manifest is made.
    Manifest,
    /// The importer gets the next control frame.
    ToImporter,
    /// The exporter gets the next control frame.
    ToExporter,
    /// A lane takes the next frame from the source.
    Send(usize),
    /// A lane hands the next frame to its receiver.
    Deliver(usize),
    /// The person agrees or declines.
    Answer,
    /// The staged tree is sealed.
    Seal,
    /// The swap is done, or failed.
    Swap,
    /// The clock goes on by so much, at most to the next deadline.
    Pass(Duration),
    /// Both sides lose the connection.
    Disconnect,
    /// Somebody stops this side.
    Stop(Side),
    /// This side sees that the other is gone.
    Closed(Side),
}

#[derive(Debug, Default)]
struct Lane {
    sending: VecDeque<Frame>,
    index: Option<(EntryIndex, Option<Code>)>,
    wire: VecDeque<Frame>,
    receiver: Option<LaneReceiver>,
    temp: Vec<u8>,
}

/// Both cores and the world around them.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) scenario: Scenario,
    pub(crate) now: Moment,
    pub(crate) exporter: Exporter,
    pub(crate) importer: Importer,
    pub(crate) log: Vec<Step>,
    /// What is at the target.
    pub(crate) live: Image,
    /// Transfers begun: retry round and entry, in order.
    pub(crate) sends: Vec<(u32, EntryIndex)>,
    /// How each side's session ended.
    pub(crate) exporter_over: Option<Result<(), Code>>,
    pub(crate) importer_over: Option<Result<(), Code>>,
    /// The violations each side saw.
    pub(crate) violations: Vec<(Side, Violation)>,
    /// Names of the control frames that each side sent.
    pub(crate) said: Vec<(Side, &'static str)>,
    old: Image,
    lanes: Vec<Lane>,
    to_importer: VecDeque<Frame>,
    to_exporter: VecDeque<Frame>,
    work: VecDeque<EntryIndex>,
    tries: BTreeMap<EntryIndex, u32>,
    staged: BTreeMap<EntryIndex, Bytes>,
    lane_frames: usize,
    opened: bool,
    made: bool,
    connected: bool,
    reviewed: Option<Moment>,
    ready: Option<(ReadyToApply, Moment)>,
    sealed: bool,
    applied: bool,
    deadlines: [Option<Moment>; 2],
    importer_counters: Counters,
    rng: u64,
}

impl Pair {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let now = Moment::default();
        let lanes = (0..scenario.lanes.max(1)).map(|_| Lane::default()).collect();
        let mut pair = Self {
            now,
            exporter: Exporter::new(RetryPolicy::default(), now),
            importer: Importer::new(RetryPolicy::default(), now),
            log: Vec::new(),
            live: old_image(),
            sends: Vec::new(),
            exporter_over: None,
            importer_over: None,
            violations: Vec::new(),
            said: Vec::new(),
            old: old_image(),
            lanes,
            to_importer: VecDeque::new(),
            to_exporter: VecDeque::new(),
            work: VecDeque::new(),
            tries: BTreeMap::new(),
            staged: BTreeMap::new(),
            lane_frames: 0,
            opened: false,
            made: false,
            connected: true,
            reviewed: None,
            ready: None,
            sealed: false,
            applied: false,
            deadlines: [None; 2],
            importer_counters: Counters::default(),
            rng: 0,
            scenario,
        };
        pair.import(importer::Input::Tick);
        pair
    }

    /// Plays a scenario to its end; seed 0 always takes the first possible step.
    pub(crate) fn play(scenario: Scenario, seed: u64) -> Self {
        let mut pair = Self::new(scenario);
        pair.rng = seed;
        pair.run_until(|_| false);
        pair
    }

    /// Does exactly these steps.
    pub(crate) fn replay(scenario: Scenario, steps: &[Step]) -> Self {
        let mut pair = Self::new(scenario);
        steps.iter().for_each(|step| pair.step(*step));
        pair
    }

    /// Runs until `done`, or until nothing will ever happen again.
    pub(crate) fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let Some(step) = self.next() else { return };
            self.step(step);
            assert!(self.log.len() < MAX_STEPS, "no end: {:?}", self.scenario.faults);
        }
    }

    /// Does one step and checks every invariant.
    pub(crate) fn step(&mut self, step: Step) {
        self.log.push(step);
        match step {
            Step::Open => {
                self.opened = true;
                self.export(exporter::Input::Opened { importer_holds: None });
            }
            Step::Manifest => {
                self.made = true;
                self.export(exporter::Input::ManifestReady(self.scenario.tree.manifest.clone()));
            }
            Step::ToImporter => {
                let frame = self.to_importer.pop_front().expect("a frame");
                self.import(importer::Input::Frame(frame));
            }
            Step::ToExporter => {
                let frame = self.to_exporter.pop_front().expect("a frame");
                self.export(exporter::Input::Frame(frame));
            }
            Step::Send(lane) => self.send(lane),
            Step::Deliver(lane) => self.deliver(lane),
            Step::Answer => {
                self.reviewed = None;
                let declined = self.scenario.faults.contains(&Fault::Decline);
                self.import(if declined {
                    importer::Input::Stop(Code::Aborted)
                } else {
                    importer::Input::Accept(Vec::new())
                });
            }
            Step::Seal => {
                self.sealed = true;
                self.import(importer::Input::Swapping);
            }
            Step::Swap => self.swap(),
            Step::Pass(span) => {
                self.now = self.now.after(span);
                self.export(exporter::Input::Tick);
                self.import(importer::Input::Tick);
            }
            Step::Disconnect => {
                self.disconnect();
                self.export(exporter::Input::Lost);
                self.import(importer::Input::Lost);
            }
            Step::Stop(Side::Exporter) => self.export(exporter::Input::Stop(Code::Aborted)),
            Step::Stop(Side::Importer) => self.import(importer::Input::Stop(Code::Aborted)),
            Step::Closed(side) => {
                self.disconnect();
                match side {
                    Side::Exporter => self.export(exporter::Input::Lost),
                    Side::Importer => self.import(importer::Input::Lost),
                }
            }
        }
        self.check();
    }

    fn next(&mut self) -> Option<Step> {
        if let Some(step) = self.due_fault() {
            return Some(step);
        }
        let mut steps = self.possible();
        if steps.is_empty() {
            let waits = [self.reviewed, self.ready.as_ref().map(|(_, at)| *at)];
            let next = self.deadlines.into_iter().chain(waits).flatten().min()?;
            return Some(Step::Pass(next.0.saturating_sub(self.now.0)));
        }
        if self.rng == 0 {
            return Some(steps.swap_remove(0));
        }
        let draw = self.draw();
        if draw.is_multiple_of(16) {
            let span = Duration::from_millis(draw >> 8 & 0x3ff);
            let next = self.deadlines.into_iter().flatten().min().unwrap_or(self.now.after(span));
            return Some(Step::Pass(span.min(next.0.saturating_sub(self.now.0))));
        }
        let at = usize::try_from(draw >> 8).unwrap_or(usize::MAX) % steps.len();
        Some(steps.swap_remove(at))
    }

    fn due_fault(&self) -> Option<Step> {
        let now = self.log.len();
        self.scenario.faults.iter().find_map(|fault| match fault {
            Fault::Disconnect { step } if *step == now => Some(Step::Disconnect),
            Fault::Stop { side, step } if *step == now => Some(Step::Stop(*side)),
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
        let heard = |side| self.connected && !self.is_mute(side);
        may(!self.opened && self.connected, Step::Open);
        may(!self.made && self.exporter_over.is_none(), Step::Manifest);
        may(heard(Side::Exporter) && !self.to_importer.is_empty(), Step::ToImporter);
        may(heard(Side::Importer) && !self.to_exporter.is_empty() && self.opened, Step::ToExporter);
        for (n, lane) in self.lanes.iter().enumerate() {
            may(heard(Side::Exporter) && !lane.wire.is_empty() && lane.receiver.is_some(), Step::Deliver(n));
            let has_more = !lane.sending.is_empty() || !self.work.is_empty();
            may(self.connected && has_more && lane.wire.len() < WINDOW, Step::Send(n));
        }
        may(self.reviewed.is_some_and(|at| at <= self.now), Step::Answer);
        let ready = self.ready.as_ref().is_some_and(|(_, at)| *at <= self.now);
        may(ready && !self.sealed, Step::Seal);
        may(ready && self.sealed, Step::Swap);
        let gone = |over: Option<_>, queue: &VecDeque<_>| over.is_some() && queue.is_empty();
        let (to_importer, to_exporter) = (&self.to_importer, &self.to_exporter);
        let exporter_gone = heard(Side::Exporter) && gone(self.exporter_over, to_importer) && self.opened;
        may(exporter_gone && self.importer_over.is_none(), Step::Closed(Side::Importer));
        let importer_gone = heard(Side::Importer) && gone(self.importer_over, to_exporter) && self.opened;
        may(importer_gone && self.exporter_over.is_none(), Step::Closed(Side::Exporter));
        steps
    }

    fn is_mute(&self, who: Side) -> bool {
        let now = self.log.len();
        self.scenario.faults.iter().any(|f| matches!(f, Fault::Mute { side, step } if *side == who && *step <= now))
    }

    fn draw(&mut self) -> u64 {
        // splitmix64
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.to_importer.clear();
        self.to_exporter.clear();
        self.work.clear();
        self.lanes.iter_mut().for_each(|lane| *lane = Lane::default());
    }

    fn export(&mut self, input: exporter::Input) {
        let before = self.exporter_over;
        if let Err(violation) = self.exporter.handle(self.now, input) {
            self.violations.push((Side::Exporter, violation));
        }
        for n in 0.. {
            self.assert(n < self.most_outputs(), "the exporter's outputs are bounded");
            match self.exporter.poll_output() {
                exporter::Output::Send(frame) => {
                    let frame = self.substitute(Side::Exporter, frame);
                    self.to_importer.push_back(frame);
                }
                exporter::Output::SendFiles { entries, .. } => self.work.extend(entries),
                exporter::Output::Suspended { .. } => {}
                exporter::Output::Over(outcome) => {
                    self.assert(before.is_none(), "a session is over once");
                    self.exporter_over = Some(outcome);
                    self.work.clear();
                    self.lanes.iter_mut().for_each(|lane| lane.sending.clear());
                }
                exporter::Output::Idle(deadline) => {
                    self.deadlines[0] = deadline.map(|d| d.at);
                    return;
                }
            }
        }
    }

    fn import(&mut self, input: importer::Input) {
        let before = self.importer_over;
        if let Err(violation) = self.importer.handle(self.now, input) {
            self.violations.push((Side::Importer, violation));
        }
        for n in 0.. {
            self.assert(n < self.most_outputs(), "the importer's outputs are bounded");
            match self.importer.poll_output() {
                importer::Output::Send(frame) => {
                    let frame = self.substitute(Side::Importer, frame);
                    self.to_exporter.push_back(frame);
                }
                importer::Output::Review(manifest) => {
                    self.assert(
                        manifest.sha256() == self.scenario.tree.manifest.sha256(),
                        "the manifest is the one sent",
                    );
                    self.reviewed = Some(self.now.after(self.scenario.think));
                    for lane in &mut self.lanes {
                        let requested = self.importer.requested().clone();
                        lane.receiver = Some(LaneReceiver::new(manifest.clone(), requested, 1 << 10));
                    }
                }
                importer::Output::Suspended { .. } => {}
                importer::Output::Apply(proof) => {
                    self.assert(self.ready.is_none() && !self.applied, "a tree is applied once");
                    self.ready = Some((proof, self.now.after(self.scenario.apply)));
                }
                importer::Output::Over(outcome) => {
                    self.assert(before.is_none(), "a session is over once");
                    self.importer_over = Some(outcome);
                    self.reviewed = None;
                    self.lanes.iter_mut().for_each(|lane| lane.receiver = None);
                }
                importer::Output::Idle(deadline) => {
                    self.deadlines[1] = deadline.map(|d| d.at);
                    return;
                }
            }
        }
    }

    fn most_outputs(&self) -> usize {
        let entries = self.scenario.tree.manifest.len() as usize;
        8 + self.scenario.tree.manifest.chunks().count() + entries / MAX_LIST
    }

    fn substitute(&mut self, who: Side, frame: Frame) -> Frame {
        let count = self.said.iter().filter(|(side, _)| *side == who).count();
        self.said.push((who, frame.name()));
        let other = self.scenario.faults.iter().find_map(|f| match f {
            Fault::Substitute { side, nth, frame } if *side == who && *nth == count => Some(frame.clone()),
            _ => None,
        });
        other.unwrap_or(frame)
    }

    fn send(&mut self, n: usize) {
        if self.lanes[n].sending.is_empty()
            && let Some(index) = self.work.pop_front()
        {
            let (frames, failed) = self.transfer(index);
            self.lanes[n].sending = frames;
            self.lanes[n].index = Some((index, failed));
        }
        let Some(mut frame) = self.lanes[n].sending.pop_front() else { return };
        let count = self.lane_frames;
        self.lane_frames += 1;
        let moved = if let Frame::FileChunk(bytes) = &frame { bytes.len() as u64 } else { 0 };
        let is_end = matches!(frame, Frame::FileEnd(_));
        if let Some(other) = self.scenario.faults.iter().find_map(|f| match f {
            Fault::LaneSubstitute { nth, frame } if *nth == count => Some(frame.clone()),
            _ => None,
        }) {
            frame = other;
        }
        self.lanes[n].wire.push_back(frame);
        if moved > 0 {
            self.export(exporter::Input::Moved { bytes: moved, waiting_on_us: false });
        }
        if let (true, Some((index, failed))) = (is_end, self.lanes[n].index) {
            let bytes = self.scenario.tree.bytes(index).len() as u64;
            let failed: Vec<_> = failed.map(|code| (index, code)).into_iter().collect();
            let bytes = if failed.is_empty() { bytes } else { 0 };
            self.export(exporter::Input::Sent { files: 1, bytes, failed });
        }
    }

    /// The frames of one transfer, with what goes wrong in it.
    fn transfer(&mut self, index: EntryIndex) -> (VecDeque<Frame>, Option<Code>) {
        let tree = &self.scenario.tree;
        let Some(Node::File { size, sha256 }) = tree.manifest.entry(index).map(|e| e.node) else { panic!("no file") };
        let done = *self.tries.entry(index).and_modify(|n| *n += 1).or_insert(1);
        self.sends.push((self.exporter.counters().retry_round, index));
        let mut bytes = tree.bytes(index).to_vec();
        let mut failed = None;
        for fault in &self.scenario.faults {
            let hits = |file: usize, times: u32| tree.nth_file(file) == Some(index) && done <= times;
            match fault {
                Fault::Flip { file, times } if hits(*file, *times) => {
                    let at = bytes.len() / 2;
                    bytes.get_mut(at).into_iter().for_each(|b| *b ^= 1);
                }
                Fault::Truncate { file, times } if hits(*file, *times) => {
                    bytes.pop();
                }
                Fault::Excess { file, times } if hits(*file, *times) => bytes.push(b'!'),
                Fault::SourceChanged { file, times } if hits(*file, *times) => {
                    bytes.truncate(bytes.len() / 2);
                    failed = Some(Code::SourceChanged);
                }
                _ => {}
            }
        }
        let mut frames = VecDeque::from([Frame::FileBegin(FileBegin { index, size, sha256, offset: 0 })]);
        frames.extend(bytes.chunks(CHUNK).map(|chunk| Frame::FileChunk(Bytes::copy_from_slice(chunk))));
        frames.push_back(Frame::FileEnd(FileEnd { index, failed }));
        (frames, failed)
    }

    fn deliver(&mut self, n: usize) {
        let Lane { wire, receiver: Some(receiver), temp, .. } = &mut self.lanes[n] else { return };
        let Some(frame) = wire.pop_front() else { return };
        let moved = if let Frame::FileChunk(bytes) = &frame { bytes.len() as u64 } else { 0 };
        let tree = &self.scenario.tree;
        let mut report = None;
        match receiver.handle(frame) {
            Ok(LaneStep::Create(index) | LaneStep::Continue(index, _)) => {
                temp.clear();
                let tries = self.tries.get(&index).copied().unwrap_or(0);
                let fails = self.scenario.faults.iter().any(|f| {
                    matches!(f, Fault::DiskFails { file, times } if tree.nth_file(*file) == Some(index) && tries <= *times)
                });
                if fails {
                    receiver.fail(FailureReason::IoError);
                }
            }
            Ok(LaneStep::Write(bytes)) => temp.extend_from_slice(&bytes),
            Ok(LaneStep::Keep(file)) => {
                let kept = Bytes::from(std::mem::take(temp));
                let right = kept == tree.bytes(file.index());
                let again = self.staged.insert(file.index(), kept).is_some();
                report = Some(FileReport::Ok(file));
                self.assert(right, "a file is never kept with wrong bytes");
                self.assert(!again, "a file is kept once");
            }
            Ok(LaneStep::Drop { entry, .. }) => report = Some(FileReport::Failed(entry)),
            Ok(LaneStep::Ignore) => {}
            Err(violation) => return self.import(importer::Input::LaneViolation(violation)),
        }
        if moved > 0 {
            self.import(importer::Input::Moved { bytes: moved, waiting_on_us: false });
        }
        if let Some(report) = report {
            self.import(importer::Input::Files(vec![report]));
        }
    }

    fn swap(&mut self) {
        let Some((proof, _)) = self.ready.take() else { return };
        self.assert(proof.manifest_sha256() == self.scenario.tree.manifest.sha256(), "the proof is for this manifest");
        if self.scenario.faults.contains(&Fault::ApplyFails) {
            return self.import(importer::Input::Applied(Err(Code::IoError)));
        }
        self.applied = true;
        self.live = self.scenario.tree.staged_image(&self.staged);
        self.import(importer::Input::Applied(Ok(())));
    }

    fn check(&mut self) {
        let is_new = self.live == self.scenario.tree.image;
        self.assert(is_new || self.live == self.old, "the target is old or new");
        self.assert(!is_new || self.applied, "nothing is new before it was applied");
        // an importer may claim to have applied what it did not: nobody but itself loses by it (RELIABILITY A60)
        let lies = self.scenario.faults.iter().any(
            |f| matches!(f, Fault::Substitute { frame: Frame::FinalizeResult(result), .. } if result.failed.is_none()),
        );
        self.assert(
            self.exporter_over != Some(Ok(())) || is_new || lies,
            "the exporter succeeds only with the importer",
        );
        self.assert(self.importer_over != Some(Ok(())) || is_new, "the importer succeeds only when it applied");
        self.assert(self.importer_over.is_none_or(|o| o.is_ok()) || !is_new, "no failure is told of an applied tree");
        for deadline in self.deadlines.into_iter().flatten() {
            // both sides get a tick whenever the clock goes on, so what was due is dealt with
            self.assert(deadline > self.now, "no deadline stays in the past");
        }
        self.check_counters();
    }

    fn check_counters(&mut self) {
        let (exporter, importer) = (self.exporter.counters(), self.importer.counters());
        for c in [exporter, importer] {
            self.assert(c.files_ok + c.files_failed <= c.files_total, "no more files than there are");
            self.assert(c.bytes_done <= c.bytes_total, "no more bytes than there are");
        }
        let before = self.importer_counters;
        let grows = before.files_ok <= importer.files_ok
            && before.bytes_done <= importer.bytes_done
            && before.retry_round <= importer.retry_round
            && before.files_total <= importer.files_total;
        self.assert(grows, "what is verified stays verified");
        self.importer_counters = importer;
    }

    #[track_caller]
    fn assert(&self, holds: bool, claim: &str) {
        assert!(holds, "{claim}\n{}", self.report());
    }

    /// What to replay.
    pub(crate) fn report(&self) -> String {
        let outcome = (self.exporter_over, self.importer_over, &self.violations, self.now);
        format!("{:?}\nfaults: {:?}\nlog: {:?}", outcome, self.scenario.faults, self.log)
    }

    /// The exporter ever learned of the control stream; before that it has no clocks.
    pub(crate) fn was_opened(&self) -> bool {
        self.opened
    }

    /// The target is what it was.
    pub(crate) fn is_old(&self) -> bool {
        self.live == self.old
    }

    /// How both sessions ended: the exporter's, the importer's.
    pub(crate) fn outcome(&self) -> Outcomes {
        (self.exporter_over, self.importer_over)
    }
}

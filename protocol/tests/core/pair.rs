//! `Pair`: both cores, the connections between them and one virtual clock; scripted faults; invariants after every step.
//!
//! A run is the list of [`Step`]s in [`Pair::log`]. Which step comes next is drawn from a seed, so that frames of
//! different streams overtake each other and each side learns of a loss in its own time; a failed invariant prints
//! scenario and log, and [`Pair::replay`] takes them.

mod check;
mod conn;
mod disk;
mod drive;
mod lanes;
mod scenario;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::Violation;
use me_sync_protocol::ids::{EntryIndex, Moment};
use me_sync_protocol::importer::{self, Importer, ReadyToApply};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::Code;
use me_sync_protocol::retry::RetryPolicy;

use crate::tree::{Image, Tree, old_image};
use conn::{Conn, End};
use disk::Disk;
pub(crate) use scenario::{Fault, Scenario, Side, Step};

/// Payload bytes of a chunk here: small, so that small files have several.
pub(crate) const CHUNK: usize = 64;
/// Frames a lane holds before its sender must wait.
pub(crate) const WINDOW: usize = 4;
/// Frames a control stream takes before its node must wait.
const ROOM: usize = 3;
/// More steps than any honest run takes.
const MAX_STEPS: usize = 20_000;

/// How the exporter's and the importer's session ended.
pub(crate) type Outcomes = (Option<Result<(), Code>>, Option<Result<(), Code>>);

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
    /// Content bytes that left the exporter.
    pub(crate) payload: u64,
    /// How each side's session ended.
    pub(crate) exporter_over: Option<Result<(), Code>>,
    pub(crate) importer_over: Option<Result<(), Code>>,
    /// The violations each side saw.
    pub(crate) violations: Vec<(Side, Violation)>,
    /// Names of the control frames that each side sent.
    pub(crate) said: Vec<(Side, &'static str)>,
    /// In which phases of exporter and importer something broke: what, and where.
    pub(crate) broke: BTreeSet<(&'static str, Phase, Phase)>,
    old: Image,
    /// What the exporter's tree was before it was edited, and is.
    trees: Vec<Tree>,
    /// Which of them the importer has the manifest of.
    sink: Option<usize>,
    conns: Vec<Conn>,
    exporter_on: usize,
    importer_on: usize,
    /// The exporter's node holds this back until the core lets go of the connection before.
    opening: Option<usize>,
    tries: BTreeMap<EntryIndex, u32>,
    disk: Disk,
    lane_frames: usize,
    said_count: [usize; 2],
    made: bool,
    /// The exporter may offer an outline.
    may_outline: bool,
    /// The exporter's core has one.
    outlined: bool,
    /// The sealed manifest that is to take the place of the outline, and what is lost by that.
    adopting: Option<(Arc<Manifest>, Vec<EntryIndex>)>,
    /// The staging tree is of an earlier life and was not looked at.
    cold: bool,
    /// The importer's process has no session until it dials again.
    importer_down: bool,
    importer_crashed: bool,
    /// There is a staging tree, and it records this manifest or outline.
    staged: Option<Arc<Manifest>>,
    reviewed: Option<Moment>,
    ready: Option<(ReadyToApply, Moment)>,
    sealed: bool,
    swap: Option<Result<(), Code>>,
    rotted: BTreeMap<usize, u32>,
    deadlines: [Option<Moment>; 2],
    importer_counters: Counters,
    rng: u64,
}

/// splitmix64
pub(crate) fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Pair {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let now = Moment::default();
        let mut pair = Self {
            now,
            exporter: Exporter::new(RetryPolicy::default(), now),
            importer: match scenario.late {
                true => Importer::taking_outline(RetryPolicy::default(), now),
                false => Importer::new(RetryPolicy::default(), now),
            },
            log: Vec::new(),
            live: old_image(),
            sends: Vec::new(),
            payload: 0,
            exporter_over: None,
            importer_over: None,
            violations: Vec::new(),
            said: Vec::new(),
            broke: BTreeSet::new(),
            old: old_image(),
            trees: vec![scenario.tree.clone()],
            sink: None,
            conns: vec![Conn::new(scenario.lanes, None)],
            exporter_on: 0,
            importer_on: 0,
            opening: None,
            tries: BTreeMap::new(),
            disk: Disk::default(),
            lane_frames: 0,
            said_count: [0; 2],
            made: false,
            may_outline: scenario.late,
            outlined: false,
            adopting: None,
            cold: false,
            importer_down: false,
            importer_crashed: false,
            staged: None,
            reviewed: None,
            ready: None,
            sealed: false,
            swap: None,
            rotted: BTreeMap::new(),
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

    /// From here on steps are drawn from this seed.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.rng = seed;
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
            Step::Open(conn) => self.open(conn),
            Step::Manifest => {
                (self.made, self.outlined) = (true, self.may_outline);
                let tree = self.source();
                let manifest = if self.outlined { tree.outline() } else { tree.manifest.clone() };
                self.export(exporter::Input::ManifestReady(manifest));
            }
            Step::ToImporter => {
                let frame = self.conns[self.importer_on].to_importer.pop_front().expect("a frame");
                self.import(importer::Input::Frame(frame));
            }
            Step::ToExporter => {
                let frame = self.conns[self.exporter_on].to_exporter.pop_front().expect("a frame");
                self.export(exporter::Input::Frame(frame));
            }
            Step::Send(lane) => self.send(lane),
            Step::Deliver(lane) => self.deliver(lane),
            Step::Answer => self.answer(),
            Step::Adopt => self.adopt(),
            Step::Seal => self.seal(),
            Step::Swap => self.swap(),
            Step::Tell => {
                if let Some(result) = self.swap {
                    self.ready = None;
                    self.import(importer::Input::Applied(result));
                }
            }
            Step::Pass(span) | Step::Jump(span) => {
                self.now = self.now.after(span);
                self.export(exporter::Input::Tick);
                self.import(importer::Input::Tick);
            }
            Step::Cut(seed) => {
                self.note("cut");
                self.conns[self.importer_on].cut(seed);
            }
            Step::Mute(side) => {
                self.note("mute");
                self.conns.iter_mut().for_each(|conn| conn.mute[usize::from(side == Side::Importer)] = true);
            }
            Step::See(side) => self.see(side),
            Step::EndLane(lane) => self.end_lane(lane),
            Step::Dial => self.dial(),
            Step::Result => {
                if let Some(outcome) = self.importer_over {
                    self.export(exporter::Input::Result(outcome.err()));
                }
            }
            Step::Checkpoint => {
                // by an outline nothing is known to be right for good
                if self.staged.as_ref().is_some_and(|manifest| !manifest.is_outline()) {
                    self.disk.checkpoint();
                }
            }
            Step::Crash(side, seed) => {
                self.note(if side == Side::Exporter { "exporter crash" } else { "importer crash" });
                self.crash(side, seed);
            }
            Step::Edit => {
                self.trees.push(self.source().edited());
                self.crash(Side::Exporter, 0);
            }
            Step::Rewrite => {
                self.trees.push(self.source().rewritten());
                self.crash(Side::Exporter, 0);
            }
            Step::Stop(Side::Exporter) => self.export(exporter::Input::Stop(Code::Aborted)),
            Step::Stop(Side::Importer) => self.import(importer::Input::Stop(Code::Aborted)),
        }
        // a control stream may have room again
        self.pump_exporter();
        self.pump_importer();
        self.check();
    }

    fn open(&mut self, conn: usize) {
        self.conns[conn].exporter = End::Open;
        let importer_holds = self.conns[conn].holds;
        if self.conns[self.exporter_on].exporter == End::Open && self.exporter_on != conn {
            self.opening = Some(conn);
        } else {
            self.exporter_on = conn;
        }
        self.export(exporter::Input::Opened { importer_holds });
        self.assert(self.opening.is_none(), "a core lets go of a connection before it goes on with another");
    }

    /// The importer's node asks to resume. The exporter's answers for its core.
    fn dial(&mut self) {
        if self.exporter_over.is_some() {
            self.importer_down = false;
            return self.import(importer::Input::Stop(Code::SessionUnknown));
        }
        self.may_outline = false;
        if self.outlined && self.conns[self.exporter_on].exporter != End::Open {
            self.export(exporter::Input::Withdrawn);
            self.outline_is_void();
        }
        let fresh = std::mem::take(&mut self.importer_down);
        if fresh {
            self.importer = Importer::new(RetryPolicy::default(), self.now);
        }
        self.conns.push(Conn::new(self.scenario.lanes, self.importer.holds()));
        self.importer_on = self.conns.len() - 1;
        self.import(if fresh { importer::Input::Tick } else { importer::Input::Resumed });
    }

    /// The exporter's node makes the sealed manifest now.
    fn outline_is_void(&mut self) {
        self.may_outline = false;
        if std::mem::take(&mut self.outlined) {
            self.made = false;
        }
    }

    fn see(&mut self, side: Side) {
        let on = if side == Side::Exporter { self.exporter_on } else { self.importer_on };
        *self.conns[on].end(side) = End::Gone;
        match side {
            Side::Exporter => self.export(exporter::Input::Lost),
            Side::Importer => self.import(importer::Input::Lost),
        }
    }

    fn answer(&mut self) {
        self.reviewed = None;
        if self.scenario.faults.contains(&Fault::Decline) {
            return self.import(importer::Input::Stop(Code::Declined));
        }
        self.staged = self.importer.manifest().cloned();
        let found = self.find_local();
        self.import(importer::Input::Accept(found));
    }

    /// Remembers where something broke.
    fn note(&mut self, what: &'static str) {
        self.broke.insert((what, self.exporter.phase(), self.importer.phase()));
    }

    /// The exporter's tree.
    fn source(&self) -> &Tree {
        self.trees.last().expect("at least one")
    }

    /// The tree that the importer receives.
    fn target(&self) -> &Tree {
        &self.trees[self.sink.unwrap_or(0)]
    }

    /// What to replay.
    pub(crate) fn report(&self) -> String {
        let outcome = (self.exporter_over, self.importer_over, &self.violations, self.now);
        format!("{:?}\nfaults: {:?}\nlog: {:?}", outcome, self.scenario.faults, self.log)
    }

    /// The exporter ever learned of a control stream; before that it has no clocks.
    pub(crate) fn was_opened(&self) -> bool {
        self.conns.iter().any(|conn| conn.exporter != End::Unopened)
    }

    /// The target is what it was.
    pub(crate) fn is_old(&self) -> bool {
        self.live == self.old
    }

    /// The target is what the exporter has, or had when its manifest came.
    pub(crate) fn is_new(&self) -> bool {
        self.sink.is_some() && self.live == self.target().image
    }

    /// How often the importer dialled.
    pub(crate) fn dials(&self) -> u64 {
        self.conns.len() as u64
    }

    /// The most content bytes that may leave the exporter when nothing is spoilt on the way: the tree, what each
    /// connection held under way, and what crashes damaged, continued in vain and sent whole.
    pub(crate) fn most_payload(&self) -> u64 {
        let under_way = 2 * self.scenario.lanes.max(1) * WINDOW * CHUNK;
        let size = |index: &EntryIndex| self.target().manifest.entry(*index).map_or(0, |e| e.size());
        let damaged: u64 = self.disk.lost.iter().map(size).sum();
        self.target().manifest.total_bytes() + under_way as u64 * (self.dials() - 1) + 2 * damaged
    }

    /// Files that were on the importer's device before.
    pub(crate) fn found(&self) -> &BTreeSet<EntryIndex> {
        &self.disk.found
    }

    /// How both sessions ended: the exporter's, the importer's.
    pub(crate) fn outcome(&self) -> Outcomes {
        (self.exporter_over, self.importer_over)
    }

    /// Both sides are over, or wait for the other without a deadline.
    pub(crate) fn has_ended_or_waits(&self) -> bool {
        let exporter = self.exporter_over.is_some() || self.exporter.is_waiting() || !self.was_opened();
        exporter && (self.importer_over.is_some() || self.importer.is_waiting() || self.importer_down)
    }
}

/// How far the clock jumps.
const LONG: Duration = Duration::from_secs(7200);

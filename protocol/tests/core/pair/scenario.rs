//! What a run is given: a tree, faults, times; and what it is made of: steps.

use std::time::Duration;

use me_sync_protocol::frame::Frame;

use super::draw;
use crate::tree::Tree;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A staged file is gone when the tree is sealed, the first `times`.
    Rot { file: usize, times: u32 },
    /// From this step on nothing that this side says on the present connection arrives, though it stands.
    Mute { side: Side, step: usize },
    /// The connection breaks; each side notices in its own time.
    Disconnect { step: usize },
    /// The process of this side dies and starts again. What the importer had not made durable may be damaged.
    Crash { side: Side, step: usize },
    /// The exporter dies, its source is edited, it starts again.
    Edit { step: usize },
    /// The exporter dies, its files get another content of the same length, it starts again.
    Rewrite { step: usize },
    /// The exporter says another hash at the end of the file, the first `times`; only where it does say one.
    Lie { file: usize, times: u32 },
    /// The clock jumps by two hours.
    Jump { step: usize },
    /// From this step on the importer reaches the exporter no more once the connection is lost.
    Offline { step: usize },
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
    /// Every so manieth file is on the importer's device already; 0: none.
    pub(crate) found: usize,
    /// A side may learn that the other let go of the connection before it reads what that said last.
    pub(crate) rude: bool,
    /// The exporter is cold and the importer has nothing: the outline goes first.
    pub(crate) late: bool,
}

impl Scenario {
    pub(crate) fn of(items: &[(&str, usize)]) -> Self {
        Self {
            tree: Tree::of(items),
            lanes: 3,
            faults: Vec::new(),
            think: Duration::ZERO,
            apply: Duration::ZERO,
            found: 0,
            rude: false,
            late: false,
        }
    }

    pub(crate) fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// A scenario that the seed decides: a small tree, and every kind of fault that honest sides meet.
    pub(crate) fn seeded(seed: u64) -> Self {
        let mut state = seed;
        let mut below = |n: u64| usize::try_from(draw(&mut state) % n).unwrap_or(0);
        let names = ["a", "b", "c/d", "c/e", "c/f/g", "h", "i", "k/l", "m", "n"];
        let sizes = [0, 1, 63, 64, 65, 130, 300, 1000];
        let count = below(10) + 1;
        let items: Vec<_> = names[..count].iter().map(|name| (*name, sizes[below(8)])).collect();
        let mut scenario = Self::of(&items);
        scenario.lanes = below(4) + 1;
        scenario.think = [Duration::ZERO, Duration::from_secs(40)][below(2)];
        scenario.apply = [Duration::ZERO, Duration::from_secs(45)][below(2)];
        scenario.found = [0, 0, 2, 1][below(4)];
        scenario.rude = below(2) == 0;
        // one run in eight is a bad day for the network and both processes, and nothing else
        let storm = below(8) == 0;
        for _ in 0..if storm { 20 } else { below(10) } {
            let (file, times, step) = (below(10), [1, 1, 1, 2][below(4)], below(250));
            let side = [Side::Exporter, Side::Importer][below(2)];
            scenario.faults.push(match below(if storm { 19 } else { 34 }) {
                0..8 => Fault::Disconnect { step },
                8..16 => Fault::Crash { side, step },
                16..19 => Fault::Mute { side, step },
                19..21 => Fault::Flip { file, times },
                21 => Fault::Truncate { file, times },
                22 => Fault::Excess { file, times },
                23 => Fault::SourceChanged { file, times },
                24 => Fault::DiskFails { file, times },
                25 => Fault::Flip { file, times: u32::MAX },
                26 => Fault::Rot { file, times: [1, 2, 9][below(3)] },
                27 => Fault::Jump { step },
                28 => Fault::Edit { step },
                29 => Fault::Offline { step },
                30 => Fault::Stop { side, step },
                31 => Fault::Rewrite { step },
                32 => Fault::Lie { file, times },
                _ => [Fault::ApplyFails, Fault::Decline][below(2)].clone(),
            });
        }
        scenario.late = scenario.found == 0 && below(2) == 0;
        scenario
    }
}

/// One thing that happens. What is random in it comes from a number in the step, so that a log replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The exporter learns of the control stream of this connection.
    Open(usize),
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
    /// The staging tree goes by the sealed manifest.
    Adopt,
    /// The staged tree is sealed, or found wanting.
    Seal,
    /// The swap is done and durable, or failed.
    Swap,
    /// The core learns of that.
    Tell,
    /// The clock goes on by so much, at most to the next deadline.
    Pass(Duration),
    /// The clock jumps.
    Jump(Duration),
    /// The connection breaks; the number decides what has arrived before.
    Cut(u64),
    /// What this side says on the present connections does not arrive any more.
    Mute(Side),
    /// This side sees that its connection is lost.
    See(Side),
    /// A lane of a lost connection ends at the importer.
    EndLane(usize),
    /// The importer resumes on a new connection, or is refused.
    Dial,
    /// The importer's request `result`.
    Result,
    /// What is verified and reported is made durable.
    Checkpoint,
    /// A process dies and starts again; the number decides what becomes of what was not durable.
    Crash(Side, u64),
    /// The exporter dies, its source is edited, it starts again.
    Edit,
    /// The exporter dies, its files are written anew, it starts again.
    Rewrite,
    /// Somebody stops this side.
    Stop(Side),
}

//! One connection between the two: a control stream and lanes, with what is under way on them.

use std::collections::{BTreeMap, VecDeque};

use me_sync_protocol::file::LaneReceiver;
use me_sync_protocol::frame::Frame;
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::reason::Code;

use super::{Side, draw};

/// How one side stands to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It does not know of it yet.
    Unopened,
    Open,
    /// It let go of it.
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Frames of the file that the exporter sends.
    pub(super) sending: VecDeque<Frame>,
    /// Which file that is, why it fails if it does, how many of its bytes are sent.
    pub(super) index: Option<(EntryIndex, Option<Code>, u64)>,
    pub(super) wire: VecDeque<Frame>,
    /// Frames that went into a connection that is broken already.
    pub(super) void: usize,
    pub(super) receiver: Option<LaneReceiver>,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) to_importer: VecDeque<Frame>,
    pub(super) to_exporter: VecDeque<Frame>,
    pub(super) lanes: Vec<Lane>,
    /// What the exporter is to send on the lanes.
    pub(super) work: VecDeque<EntryIndex>,
    pub(super) offsets: BTreeMap<EntryIndex, u64>,
    /// What `resume` named.
    pub(super) holds: Option<Digest>,
    /// Nothing that is said from now on arrives.
    pub(super) cut: bool,
    pub(super) mute: [bool; 2],
    pub(super) exporter: End,
    pub(super) importer: End,
}

impl Conn {
    pub(super) fn new(lanes: usize, holds: Option<Digest>) -> Self {
        Self {
            to_importer: VecDeque::new(),
            to_exporter: VecDeque::new(),
            lanes: (0..lanes.max(1)).map(|_| Lane::default()).collect(),
            work: VecDeque::new(),
            offsets: BTreeMap::new(),
            holds,
            cut: false,
            mute: [false; 2],
            exporter: End::Unopened,
            importer: End::Open,
        }
    }

    /// Breaks it. Of what was under way a beginning has arrived.
    pub(super) fn cut(&mut self, mut seed: u64) {
        if std::mem::replace(&mut self.cut, true) {
            return;
        }
        let lanes = self.lanes.iter_mut().map(|lane| &mut lane.wire);
        for queue in [&mut self.to_importer, &mut self.to_exporter].into_iter().chain(lanes) {
            let arrived = if seed == 0 { 0 } else { draw(&mut seed) % (queue.len() as u64 + 1) };
            queue.truncate(usize::try_from(arrived).unwrap_or(0));
        }
    }

    pub(super) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Exporter => &mut self.exporter,
            Side::Importer => &mut self.importer,
        }
    }

    /// What this side says can still arrive.
    pub(super) fn carries(&self, from: Side) -> bool {
        let to = if from == Side::Exporter { self.importer } else { self.exporter };
        !self.cut && to != End::Gone
    }

    pub(super) fn is_mute(&self, side: Side) -> bool {
        self.mute[usize::from(side == Side::Importer)]
    }
}

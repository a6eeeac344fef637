//! Lanes: the exporter's files in frames, with what goes wrong on the way, and the importer's writers.

use std::collections::VecDeque;

use bytes::Bytes;
use me_sync_protocol::exporter;
use me_sync_protocol::file::{FileReport, LaneReceiver, LaneStep};
use me_sync_protocol::frame::{FileBegin, FileEnd, Frame};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::importer;
use me_sync_protocol::manifest::Node;
use me_sync_protocol::reason::{Code, FailureReason};

use super::conn::{End, Lane};
use super::{CHUNK, Fault, Pair, Side};

impl Pair {
    pub(super) fn send(&mut self, n: usize) {
        let on = self.exporter_on;
        if self.conns[on].lanes[n].sending.is_empty()
            && let Some(index) = self.conns[on].work.pop_front()
        {
            let (frames, failed, bytes) = self.transfer(index);
            self.conns[on].lanes[n].sending = frames;
            self.conns[on].lanes[n].index = Some((index, failed, bytes));
        }
        let Some(mut frame) = self.conns[on].lanes[n].sending.pop_front() else { return };
        let count = self.lane_frames;
        self.lane_frames += 1;
        let moved = if let Frame::FileChunk(bytes) = &frame { bytes.len() as u64 } else { 0 };
        let is_end = matches!(frame, Frame::FileEnd(_));
        let late = if let Frame::FileEnd(end) = &frame { end.sha256 } else { None };
        if let Some(other) = self.scenario.faults.iter().find_map(|f| match f {
            Fault::LaneSubstitute { nth, frame } if *nth == count => Some(frame.clone()),
            _ => None,
        }) {
            frame = other;
        }
        self.payload += moved;
        let carries = self.conns[on].carries(Side::Exporter);
        let lane = &mut self.conns[on].lanes[n];
        if carries {
            lane.wire.push_back(frame);
        } else {
            lane.void += 1;
        }
        let index = lane.index;
        if moved > 0 {
            self.export(exporter::Input::Moved { bytes: moved, waiting_on_us: false });
        }
        if let (true, Some((index, failed, bytes))) = (is_end, index) {
            let failed: Vec<_> = failed.map(|code| (index, code)).into_iter().collect();
            let bytes = if failed.is_empty() { bytes } else { 0 };
            let hashed = late.map(|sha256| (index, sha256)).into_iter().collect();
            self.export(exporter::Input::Sent { files: 1, bytes, failed, hashed });
        }
    }

    /// The frames of one transfer, with what goes wrong in it, and how many bytes it should have.
    fn transfer(&mut self, index: EntryIndex) -> (VecDeque<Frame>, Option<Code>, u64) {
        let again = self.disk.ok.contains(&index) || self.disk.durable.contains(&index);
        let lies = self.scenario.faults.iter().any(|f| matches!(f, Fault::Substitute { side: Side::Importer, .. }));
        // until an exporter notices a loss it goes on with what it was asked for before
        let arrives = self.conns[self.exporter_on].carries(Side::Exporter);
        self.assert(!again || !arrives || lies, "what is there is never sent again");
        let round = self.exporter.counters().retry_round;
        let offset = match round {
            0 => self.conns[self.exporter_on].offsets.get(&index).copied().unwrap_or(0),
            _ => 0,
        };
        let tree = self.source();
        let Some(Node::File { size, sha256 }) = tree.manifest.entry(index).map(|e| e.node) else { panic!("no file") };
        let mut bytes = tree.bytes(index)[usize::try_from(offset).expect("small")..].to_vec();
        let is_late = self.outlined && size > 0;
        let mut late = sha256.filter(|_| is_late);
        let sha256 = sha256.filter(|_| !is_late);
        let done = *self.tries.entry(index).and_modify(|n| *n += 1).or_insert(1);
        self.sends.push((round, index));
        let mut failed = None;
        for fault in &self.scenario.faults {
            let hits = |file: usize, times: u32| self.source().nth_file(file) == Some(index) && done <= times;
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
                    (failed, late) = (Some(Code::SourceChanged), None);
                }
                Fault::Lie { file, times } if hits(*file, *times) => {
                    late.iter_mut().for_each(|sha256| sha256.0[0] ^= 1);
                }
                _ => {}
            }
        }
        let mut frames = VecDeque::from([Frame::FileBegin(FileBegin { index, size, sha256, offset })]);
        frames.extend(bytes.chunks(CHUNK).map(|chunk| Frame::FileChunk(Bytes::copy_from_slice(chunk))));
        frames.push_back(Frame::FileEnd(FileEnd { index, failed, sha256: late }));
        (frames, failed, size - offset)
    }

    pub(super) fn deliver(&mut self, n: usize) {
        let on = self.importer_on;
        let Some(frame) = self.conns[on].lanes[n].wire.pop_front() else { return };
        if self.conns[on].lanes[n].receiver.is_none() {
            self.assert(self.sink.is_some(), "no lane comes before the manifest");
            let manifest = self.importer.manifest().expect("it was reviewed").clone();
            let requested = self.importer.requested().clone();
            self.conns[on].lanes[n].receiver = Some(LaneReceiver::new(manifest, requested, 1 << 10));
        }
        let Lane { receiver: Some(receiver), .. } = &mut self.conns[on].lanes[n] else { return };
        let moved = if let Frame::FileChunk(bytes) = &frame { bytes.len() as u64 } else { 0 };
        let current = receiver.current();
        let step = receiver.handle(frame);
        let report = match step {
            Ok(LaneStep::Create(index)) => {
                self.begin(n, index, None);
                None
            }
            Ok(LaneStep::Continue(index, offset)) => {
                self.begin(n, index, Some(offset));
                None
            }
            Ok(LaneStep::Write(bytes)) => {
                let file = current.and_then(|index| self.disk.files.get_mut(&index)).expect("an open file");
                file.extend_from_slice(&bytes);
                None
            }
            Ok(LaneStep::Unpack(_) | LaneStep::Zeros(_)) => unreachable!("nobody packs here"),
            Ok(LaneStep::Keep(file)) => {
                let right = self.disk.files.get(&file.index()).is_some_and(|b| *b == self.target().bytes(file.index()));
                self.assert(right, "a file is never kept with wrong bytes");
                self.disk.writing.remove(&file.index());
                let again = !self.disk.ok.insert(file.index());
                self.assert(!again, "a file is kept once");
                Some(FileReport::Ok(file))
            }
            Ok(LaneStep::Drop { entry, .. }) => {
                self.disk.writing.remove(&entry.index);
                self.disk.files.remove(&entry.index);
                Some(FileReport::Failed(entry))
            }
            Ok(LaneStep::Ignore) => None,
            Err(violation) => return self.import(importer::Input::LaneViolation(violation)),
        };
        if moved > 0 {
            self.import(importer::Input::Moved { bytes: moved, waiting_on_us: false });
        }
        if let Some(report) = report {
            self.import(importer::Input::Files(vec![report]));
        }
    }

    fn begin(&mut self, n: usize, index: EntryIndex, offset: Option<u64>) {
        let alone = self.disk.writing.insert(index);
        self.assert(alone, "no two lanes write the same file");
        self.assert(!self.disk.ok.contains(&index), "what is verified is not written again");
        let tries = self.tries.get(&index).copied().unwrap_or(0);
        let tree = self.target();
        let fails = self.scenario.faults.iter().any(
            |f| matches!(f, Fault::DiskFails { file, times } if tree.nth_file(*file) == Some(index) && tries <= *times),
        );
        match offset.and_then(|offset| usize::try_from(offset).ok()) {
            _ if fails => {
                self.disk.files.remove(&index);
                let on = self.importer_on;
                if let Some(receiver) = &mut self.conns[on].lanes[n].receiver {
                    receiver.fail(FailureReason::IoError);
                }
            }
            None => {
                self.disk.files.insert(index, Vec::new());
            }
            Some(offset) => {
                let there = self.disk.files.get(&index).map_or(0, Vec::len);
                self.assert(offset > 0 && there >= offset, "what is to be continued is there");
                self.disk.files.entry(index).or_default().truncate(offset);
            }
        }
    }

    /// A lane of a lost connection ends: what there is of its file is kept, or thrown away.
    pub(super) fn end_lane(&mut self, n: usize) {
        let on = self.importer_on;
        let lane = &mut self.conns[on].lanes[n];
        lane.wire.clear();
        let Some(receiver) = lane.receiver.take() else { return };
        self.assert(self.conns[on].importer == End::Gone, "the connection is lost");
        let Some(index) = receiver.current() else { return };
        self.disk.writing.remove(&index);
        match receiver.suspend() {
            Some(partial) => {
                let there = self.disk.files.get(&index).map_or(0, Vec::len);
                self.assert(there as u64 == partial.offset(), "what is kept of a file is what was written");
                self.import(importer::Input::Suspended(partial));
            }
            None => {
                self.disk.files.remove(&index);
            }
        }
    }
}

//! Properties over random trees, faults, schedules and hostile peers. `Pair` checks its invariants after every step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use me_sync_protocol::exporter;
use me_sync_protocol::file::{LaneReceiver, LaneStep, Requested};
use me_sync_protocol::frame::{
    Abort, FileBegin, FileEnd, FinalizeRequest, FinalizeResult, Frame, IndexRange, ManifestEnd, PartialFile,
    PendingList, PhaseEnd, RetryBegin, RetryEnd,
};
use me_sync_protocol::ids::{Digest, EntryIndex, Moment};
use me_sync_protocol::importer;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::pair::{Fault, Pair, Scenario, Side};
use crate::states::{
    At, Out, drain_exporter, drain_importer, every_frame, exporter_at, importer_at, lane, pending_list, retry_request,
};
use crate::tree::Tree;

fn cases(cases: u32) -> ProptestConfig {
    // a failure is shrunk for some seconds only: its log replays anyway
    ProptestConfig { cases, failure_persistence: None, max_shrink_time: 10_000, ..ProptestConfig::default() }
}

/// Up to 40 entries in up to three levels; sizes around the borders of the chunks.
fn trees() -> impl Strategy<Value = Vec<(String, usize)>> {
    let size = prop_oneof![Just(0_usize), Just(1), Just(64), Just(65), 0..300_usize];
    // letters say what stands where, so that no path lies below a file or link
    let name = prop_oneof![
        6 => "(d[0-3]/){0,2}f[0-9]{1,2}",
        1 => "(d[0-3]/){0,2}d[0-9]/",
        1 => "(d[0-3]/){0,2}l[0-9]@",
    ];
    vec((name, size), 0..24)
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Exporter), Just(Side::Importer)]
}

fn faults() -> impl Strategy<Value = Fault> {
    let times = || prop_oneof![3 => Just(1_u32), 1 => Just(2), 1 => Just(u32::MAX)];
    let file = || 0..40_usize;
    let step = || 0..400_usize;
    prop_oneof![
        4 => (file(), times()).prop_map(|(file, times)| Fault::Flip { file, times }),
        2 => (file(), times()).prop_map(|(file, times)| Fault::Truncate { file, times }),
        2 => (file(), times()).prop_map(|(file, times)| Fault::Excess { file, times }),
        2 => (file(), times()).prop_map(|(file, times)| Fault::SourceChanged { file, times }),
        2 => (file(), times()).prop_map(|(file, times)| Fault::DiskFails { file, times }),
        1 => (side(), step()).prop_map(|(side, step)| Fault::Mute { side, step }),
        1 => step().prop_map(|step| Fault::Disconnect { step }),
        1 => (side(), step()).prop_map(|(side, step)| Fault::Stop { side, step }),
        1 => Just(Fault::Decline),
        1 => Just(Fault::ApplyFails),
        1 => (side(), 0..12_usize, frames()).prop_map(|(side, nth, frame)| Fault::Substitute { side, nth, frame }),
        1 => (0..60_usize, frames()).prop_map(|(nth, frame)| Fault::LaneSubstitute { nth, frame }),
    ]
}

/// Any frame: most near to what is right, some far from it.
fn frames() -> impl Strategy<Value = Frame> {
    let index = || prop_oneof![4 => 0..5_u32, 1 => any::<u32>()];
    let count = || prop_oneof![4 => 0..4_u64, 1 => any::<u64>()];
    let round = || prop_oneof![4 => 0..4_u32, 1 => any::<u32>()];
    let size = || prop_oneof![Just(3_u64), Just(5), any::<u64>()];
    let tree = hostile_tree();
    let right = tree.manifest.sha256();
    let digest = move || prop_oneof![Just(right), any::<[u8; 32]>().prop_map(Digest)];
    let ranges = vec((index(), index()).prop_map(|(start, len)| IndexRange { start: EntryIndex(start), len }), 0..4);
    prop_oneof![
        8 => prop::sample::select(every_frame(&tree)),
        1 => vec(any::<u8>(), 0..40).prop_map(|b| Frame::ManifestBegin(b.into())),
        1 => vec(any::<u8>(), 1..80).prop_map(|b| Frame::ManifestChunk(b.into())),
        1 => digest().prop_map(|manifest_sha256| Frame::ManifestEnd(ManifestEnd { manifest_sha256 })),
        2 => (index(), size(), proptest::option::weighted(0.8, digest()), count()).prop_map(|(index, size, sha256, offset)| {
            Frame::FileBegin(FileBegin { index: EntryIndex(index), size, sha256, offset })
        }),
        2 => vec(any::<u8>(), 1..9).prop_map(|b| Frame::FileChunk(Bytes::from(b))),
        2 => (index(), any::<bool>(), proptest::option::weighted(0.2, digest())).prop_map(|(index, failed, sha256)| {
            Frame::FileEnd(FileEnd { index: EntryIndex(index), failed: failed.then_some(Code::SourceChanged), sha256 })
        }),
        2 => (count(), count()).prop_map(|(files, bytes)| Frame::PhaseEnd(PhaseEnd { files, bytes })),
        2 => (round(), count()).prop_map(|(round, files)| Frame::RetryBegin(RetryBegin { round, files })),
        2 => (round(), count(), count()).prop_map(|(round, files, bytes)| {
            Frame::RetryEnd(RetryEnd { round, files, bytes })
        }),
        2 => (round(), vec(index(), 0..4), any::<bool>()).prop_map(|(round, failed, more)| {
            retry_request(round, &failed, more)
        }),
        2 => (ranges, any::<bool>()).prop_map(|(ranges, more)| pending_list(ranges, more)),
        1 => (index(), count()).prop_map(|(index, offset)| Frame::PendingList(PendingList {
            ranges: Vec::new(),
            partial: vec![PartialFile { index: EntryIndex(index), offset }],
            more: false,
        })),
        1 => (digest(), count(), count()).prop_map(|(manifest_sha256, entry_count, total_bytes)| {
            Frame::FinalizeRequest(FinalizeRequest { manifest_sha256, entry_count, total_bytes })
        }),
        1 => any::<bool>().prop_map(|ok| Frame::FinalizeResult(FinalizeResult {
            failed: (!ok).then_some(Code::IoError)
        })),
        1 => Just(Frame::Abort(Abort { code: Code::Aborted })),
    ]
}

fn hostile_tree() -> Tree {
    Tree::of(&[("a", 3), ("b", 5), ("d/", 0), ("l@", 0)])
}

/// The right bytes of one file, so that hostile runs get somewhere.
#[derive(Debug, Clone)]
enum Act {
    Control(Frame),
    Lane(usize, Frame),
    WholeFile(usize, u32),
    Accept,
    Pass(u64),
    Sent(u64),
    /// The connection is lost, or there is another.
    Lost,
    Again(bool),
    /// Request `result`; sealing found a file missing.
    Result(Option<Code>),
    Unstaged(u32),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => frames().prop_map(Act::Control),
        4 => (0..2_usize, frames()).prop_map(|(lane, frame)| Act::Lane(lane, frame)),
        3 => (0..2_usize, 0..2_u32).prop_map(|(lane, index)| Act::WholeFile(lane, index)),
        1 => Just(Act::Accept),
        1 => (0..40_000_u64).prop_map(Act::Pass),
        2 => (0..4_u64).prop_map(Act::Sent),
        1 => Just(Act::Lost),
        2 => any::<bool>().prop_map(Act::Again),
        1 => prop_oneof![Just(None), Just(Some(Code::NoSpace))].prop_map(Act::Result),
        1 => (0..5_u32).prop_map(Act::Unstaged),
    ];
    vec(act, 1..40)
}

proptest! {
    #![proptest_config(cases(2000))]

    // seed §6-§8: whatever goes wrong, the target is old or new, and both sides come to an end
    #[test]
    fn all_or_nothing(
        items in trees(),
        faults in vec(faults(), 0..6),
        lanes in 1..5_usize,
        think in 0..90_u64,
        apply in 0..90_u64,
        seed in any::<u64>(),
    ) {
        let items: Vec<_> = items.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        let (think, apply) = (Duration::from_secs(think), Duration::from_secs(apply));
        let pair = Pair::play(Scenario { lanes, faults, think, apply, ..Scenario::of(&items) }, seed);
        prop_assert!(pair.importer_over.is_some(), "{}", pair.report());
        prop_assert!(pair.exporter_over.is_some() || !pair.was_opened(), "{}", pair.report());
        prop_assert!(pair.now <= Moment(Duration::from_secs(900)), "{}", pair.report());
        // no file is sent more often than the bulk and three rounds of every conversation allow
        let most = usize::try_from(4 * pair.dials()).expect("few");
        for (_, index) in &pair.sends {
            prop_assert!(pair.sends.iter().filter(|(_, other)| other == index).count() <= most, "{}", pair.report());
        }
    }

    #[test]
    fn what_can_be_healed_in_three_rounds_is_healed(
        items in trees(),
        faults in vec((0..4_u8, 0..40_usize, 1..=3_u32), 0..6),
        seed in any::<u64>(),
    ) {
        let items: Vec<_> = items.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        let faults = faults.into_iter().map(|(kind, file, times)| match kind {
            0 => Fault::Flip { file, times },
            1 => Fault::Truncate { file, times },
            2 => Fault::SourceChanged { file, times },
            _ => Fault::DiskFails { file, times },
        });
        let pair = Pair::play(Scenario { faults: faults.collect(), ..Scenario::of(&items) }, seed);
        prop_assert_eq!(pair.outcome(), (Some(Ok(())), Some(Ok(()))), "{}", pair.report());
        prop_assert_eq!(pair.violations.len(), 0);
    }

    #[test]
    fn an_importer_survives_any_exporter(at in prop::sample::select(At::ALL.to_vec()), acts in acts()) {
        let tree = hostile_tree();
        let mut core = importer_at(at, &tree);
        let mut lanes: Option<(Arc<Requested>, [LaneReceiver; 2])> = None;
        let (mut now, mut over) = (Moment::default(), false);
        let mut kept = [0, 0];
        for act in acts {
            // before the manifest there is nothing that a lane could be checked against
            if at >= At::Review {
                // and a lane takes what is requested when it is opened
                let requested = core.requested();
                if lanes.as_ref().is_none_or(|(before, _)| !Arc::ptr_eq(before, requested)) {
                    lanes = Some((requested.clone(), [lane(&core, &tree), lane(&core, &tree)]));
                }
            }
            let mut frames = Vec::new();
            match act {
                Act::Control(frame) => {
                    core.handle(now, importer::Input::Frame(frame)).ok();
                }
                Act::Accept => core.handle(now, importer::Input::Accept(Vec::new())).expect("ours"),
                Act::Pass(ms) => {
                    now = now.after(Duration::from_millis(ms));
                    core.handle(now, importer::Input::Tick).expect("ours");
                }
                Act::Lost => core.handle(now, importer::Input::Lost).expect("ours"),
                Act::Again(_) => {
                    // the old lanes end before
                    for partial in lanes.take().into_iter().flat_map(|(_, lanes)| lanes).filter_map(LaneReceiver::suspend) {
                        core.handle(now, importer::Input::Suspended(partial)).expect("ours");
                    }
                    core.handle(now, importer::Input::Lost).expect("ours");
                    core.handle(now, importer::Input::Resumed).expect("ours");
                }
                Act::Unstaged(index) => {
                    if core.is_applying() && kept[usize::from(index == 1)] == 1 {
                        kept[usize::from(index == 1)] = 0;
                    }
                    core.handle(now, importer::Input::Unstaged(vec![EntryIndex(index)])).expect("ours");
                }
                Act::Sent(_) | Act::Result(_) => {}
                Act::Lane(n, frame) => frames.push((n, frame)),
                Act::WholeFile(n, index) => {
                    let index = EntryIndex(index);
                    frames.push((n, crate::states::begin(&tree, index)));
                    frames.push((n, Frame::FileChunk(tree.bytes(index))));
                    frames.push((n, crate::states::end(index)));
                }
            }
            for (n, frame) in frames {
                let Some((_, lanes)) = lanes.as_mut().filter(|_| !over) else { continue };
                use me_sync_protocol::file::FileReport;
                let input = match lanes[n].handle(frame) {
                    Ok(LaneStep::Keep(file)) => {
                        kept[file.index().at()] += 1;
                        importer::Input::Files(vec![FileReport::Ok(file)])
                    }
                    Ok(LaneStep::Drop { entry, .. }) => importer::Input::Files(vec![FileReport::Failed(entry)]),
                    Ok(LaneStep::Unpack(_) | LaneStep::Zeros(_)) => unreachable!("not agreed"),
                    Ok(LaneStep::Create(_) | LaneStep::Continue(..) | LaneStep::Write(_) | LaneStep::Ignore) => importer::Input::Tick,
                    Err(violation) => importer::Input::LaneViolation(violation),
                };
                core.handle(now, input).ok();
            }
            let outputs = drain_importer(&mut core);
            prop_assert!(outputs.len() <= 4, "{outputs:?}");
            for output in outputs {
                prop_assert!(!over, "{output:?} after the end");
                match output {
                    importer::Output::Apply(_) => {
                        prop_assert!(at >= At::AwaitFinalize || core.counters().files_ok == 2, "not all files");
                    }
                    importer::Output::Over(outcome) => {
                        prop_assert!(outcome.is_err(), "nothing was applied");
                        over = true;
                    }
                    importer::Output::Send(_)
                    | importer::Output::Review(_)
                    | importer::Output::Adopt { .. }
                    | importer::Output::Suspended { .. }
                    | importer::Output::Idle(_) => {}
                }
            }
            let counters = core.counters();
            prop_assert!(counters.files_ok + counters.files_failed <= 2);
            prop_assert!(kept.iter().all(|n| *n <= 1), "a file is kept once: {kept:?}");
        }
    }

    #[test]
    fn an_exporter_survives_any_importer(at in prop::sample::select(Out::ALL.to_vec()), acts in acts()) {
        let tree = hostile_tree();
        let mut core = exporter_at(at, &tree);
        let (mut now, mut over, mut served, mut conversations) = (Moment::default(), false, 0, 1);
        for act in acts {
            match act {
                Act::Control(frame) | Act::Lane(_, frame) => {
                    // a result belongs to the conversation that asked for it, or comes late on its control stream
                    let finalizing = core.is_finalizing()
                        && matches!(core.phase(), Phase::FinalVerifying | Phase::Applying | Phase::WaitingForPeer);
                    let good = matches!(frame, Frame::FinalizeResult(FinalizeResult { failed: None }));
                    core.handle(now, exporter::Input::Frame(frame)).ok();
                    let done = core.phase() == Phase::Completed;
                    prop_assert!(over || done == (finalizing && good));
                }
                Act::Pass(ms) => {
                    now = now.after(Duration::from_millis(ms));
                    core.handle(now, exporter::Input::Tick).expect("ours");
                }
                Act::Sent(files) => {
                    core.handle(now, exporter::Input::Sent { files, bytes: 4 * files, failed: Vec::new(), hashed: Vec::new() }).expect("ours");
                }
                Act::Lost => core.handle(now, exporter::Input::Lost).expect("ours"),
                Act::Again(holds) => {
                    let importer_holds = holds.then(|| tree.manifest.sha256());
                    core.handle(now, exporter::Input::Opened { importer_holds }).expect("ours");
                    conversations += 1;
                }
                Act::Result(failed) => {
                    let (finalizing, was_over) = (core.is_finalizing(), over);
                    core.handle(now, exporter::Input::Result(failed)).ok();
                    let done = core.phase() == Phase::Completed;
                    prop_assert!(was_over || done == (finalizing && failed.is_none()));
                }
                Act::Accept | Act::WholeFile(..) | Act::Unstaged(_) => {}
            }
            let outputs = drain_exporter(&mut core);
            prop_assert!(outputs.len() <= 6, "{outputs:?}");
            for output in outputs {
                prop_assert!(!over, "{output:?} after the end");
                match output {
                    exporter::Output::SendFiles { entries, .. } => served += entries.len(),
                    exporter::Output::Over(_) => over = true,
                    exporter::Output::Send(_)
                    | exporter::Output::Sealed(_)
                    | exporter::Output::Suspended { .. }
                    | exporter::Output::Idle(_) => {}
                }
            }
            prop_assert!(served <= 8 * conversations, "each of two files four times in a conversation at most");
        }
    }
}

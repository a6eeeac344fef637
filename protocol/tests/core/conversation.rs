//! Claims about whole conversations (SPEC §10): what both sides agree on in the end, and what it took.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use me_sync_protocol::EMPTY_SHA256;
use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::{FileReport, LaneReceiver, LaneStep};
use me_sync_protocol::frame::{
    FileBegin, FileEnd, Frame, IndexRange, ManifestEnd, PendingList, PendingRequest, PhaseEnd, Progress,
};
use me_sync_protocol::ids::{EntryIndex, Moment};
use me_sync_protocol::importer;
use me_sync_protocol::limits::{MAX_LIST, MIN_RATE};
use me_sync_protocol::manifest::{Manifest, Node};
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::{Code, FailureReason};
use me_sync_protocol::retry::RetryPolicy;

use crate::pair::{Fault, Outcomes, Pair, Scenario, Side};
use crate::tree::Tree;

pub(crate) const ITEMS: &[(&str, usize)] =
    &[("a", 3), ("b", 500), ("d/e/f", 0), ("d/g", 64), ("empty/", 0), ("l@", 0), ("z", 65)];
pub(crate) const BOTH_OK: Outcomes = (Some(Ok(())), Some(Ok(())));

pub(crate) fn both(code: Code) -> Outcomes {
    (Some(Err(code)), Some(Err(code)))
}

pub(crate) fn fails_untouched(scenario: Scenario, code: Code) -> Pair {
    for seed in 0..20 {
        let pair = Pair::play(scenario.clone(), seed);
        assert_eq!(pair.outcome(), both(code), "{}", pair.report());
        assert!(pair.is_old());
    }
    Pair::play(scenario, 0)
}

#[test]
fn a_tree_arrives_whole_and_each_file_is_sent_once() {
    for (lanes, seed) in [(1, 0), (1, 1), (4, 0), (4, 2), (4, 3)] {
        let pair = Pair::play(Scenario { lanes, ..Scenario::of(ITEMS) }, seed);
        assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        assert_eq!(pair.live, pair.scenario.tree.image);
        assert_eq!((pair.sends.len(), pair.importer.counters().files_ok), (5, 5));
        assert_eq!(pair.importer.counters().bytes_done, 632);
        assert_eq!((pair.exporter.phase(), pair.importer.phase()), (Phase::Completed, Phase::Completed));
    }
}

#[test]
fn trees_without_files_are_applied_too() {
    for items in [&[][..], &[("d/", 0), ("d/e/", 0), ("l@", 0)]] {
        let pair = Pair::play(Scenario::of(items), 0);
        assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        assert_eq!((&pair.live, pair.sends.len()), (&pair.scenario.tree.image, 0));
    }
}

#[test]
fn a_file_that_arrives_wrong_once_is_sent_again_alone() {
    let faults = [
        Fault::Flip { file: 1, times: 1 },
        Fault::Truncate { file: 1, times: 1 },
        Fault::Excess { file: 1, times: 1 },
        Fault::SourceChanged { file: 1, times: 1 },
        Fault::DiskFails { file: 1, times: 1 },
    ];
    for (seed, fault) in (0..).zip(faults) {
        let pair = Pair::play(Scenario::of(ITEMS).fault(fault), seed);
        assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        let again: Vec<_> = pair.sends.iter().filter(|(round, _)| *round > 0).copied().collect();
        assert_eq!(again, [(1, pair.scenario.tree.index("b"))], "{}", pair.report());
        assert_eq!(pair.importer.counters().retry_round, 1);
        assert_eq!((pair.exporter.counters().files_ok, pair.exporter.counters().bytes_done), (5, 632));
    }
}

#[test]
fn a_file_that_never_arrives_right_ends_the_session_after_three_rounds() {
    let scenario = Scenario::of(ITEMS).fault(Fault::Flip { file: 1, times: u32::MAX });
    let pair = fails_untouched(scenario, Code::RetryExhausted);
    let file = pair.scenario.tree.index("b");
    let again: Vec<_> = pair.sends.iter().filter(|(round, _)| *round > 0).copied().collect();
    assert_eq!(again, [(1, file), (2, file), (3, file)]);
    assert_eq!(pair.importer.failures(), [(file, FailureReason::HashMismatch)]);
}

#[test]
fn a_changed_source_file_is_named_at_the_exporter_and_disturbs_no_other() {
    let scenario = Scenario::of(ITEMS).fault(Fault::SourceChanged { file: 3, times: u32::MAX });
    let pair = fails_untouched(scenario, Code::RetryExhausted);
    let file = pair.scenario.tree.index("d/g");
    assert_eq!(pair.exporter.failures().collect::<Vec<_>>(), [(file, Code::SourceChanged)]);
    assert_eq!(pair.importer.counters().files_ok, 4);
    assert_eq!(pair.importer.failures(), [(file, FailureReason::IoError)]);
}

#[test]
fn a_declined_session_moves_no_file() {
    let pair = fails_untouched(Scenario::of(ITEMS).fault(Fault::Decline), Code::Declined);
    assert_eq!(pair.sends, []);
}

#[test]
fn stopping_either_side_at_any_step_leaves_old_or_new_and_both_sides_over() {
    let whole = Pair::play(Scenario::of(ITEMS), 7).log.len();
    for side in [Side::Exporter, Side::Importer] {
        let mut phases = BTreeSet::new();
        for step in 1..whole {
            let mut pair = Pair::new(Scenario::of(ITEMS).fault(Fault::Stop { side, step }));
            pair.run_until(|pair| pair.log.len() >= step);
            phases.insert(pair.importer.phase());
            // once asked to apply, an importer applies: a later abort finds it at work
            let too_late = match side {
                Side::Exporter => pair.exporter.is_finalizing() || pair.exporter_over.is_some(),
                Side::Importer => pair.importer.is_applying() || pair.importer_over.is_some(),
            };
            pair.run_until(|_| false);
            assert!(pair.exporter_over.is_some() && pair.importer_over.is_some(), "{}", pair.report());
            assert_eq!(pair.is_old(), !too_late, "{}", pair.report());
            if side == Side::Importer && too_late {
                assert_eq!(pair.outcome(), BOTH_OK, "an apply is not stopped: {}", pair.report());
            }
        }
        let seen: Vec<_> = phases.into_iter().collect();
        assert!(seen.len() >= 4, "{side:?} was stopped in {seen:?} only");
    }
}

#[test]
fn a_person_may_think_for_two_hours() {
    let scenario = Scenario { think: Duration::from_secs(7200), ..Scenario::of(ITEMS) };
    let pair = Pair::play(scenario, 0);
    assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
    assert!(pair.now >= Moment(Duration::from_secs(7200)));
}

#[test]
fn an_apply_that_fails_is_told_to_the_exporter() {
    fails_untouched(Scenario::of(ITEMS).fault(Fault::ApplyFails), Code::IoError);
}

#[test]
fn retries_go_smallest_first() {
    let mut scenario = Scenario { lanes: 1, ..Scenario::of(&[("a", 500), ("b", 90), ("c", 300), ("d", 1)]) };
    scenario.faults = (0..4).map(|file| Fault::Flip { file, times: 1 }).collect();
    let pair = Pair::play(scenario, 0);
    let sizes = |round| -> Vec<_> {
        let sends = pair.sends.iter().filter(|(r, _)| *r == round);
        sends.map(|(_, index)| pair.scenario.tree.bytes(*index).len()).collect()
    };
    assert_eq!((sizes(0), sizes(1)), (vec![500, 90, 300, 1], vec![1, 90, 300, 500]));
}

#[test]
fn a_retry_list_over_its_limit_spans_several_frames() {
    let names: Vec<_> = (0..MAX_LIST + 5).map(|i| format!("{i:05}")).collect();
    let items: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let (mut importer, manifest) = at_bulk(&Tree::of(&items));
    let mut receiver = LaneReceiver::new(manifest.clone(), importer.requested().clone(), 1);
    for (index, entry) in manifest.entries() {
        let Node::File { size, sha256 } = entry.node else { panic!("a file") };
        let begin = FileBegin { index, size, sha256, offset: 0 };
        receiver.handle(Frame::FileBegin(begin)).expect("asked for");
        let end = Frame::FileEnd(FileEnd { index, failed: None, sha256: None });
        let Ok(LaneStep::Drop { entry, .. }) = receiver.handle(end) else { panic!("not empty") };
        let report = FileReport::Failed(entry);
        importer.handle(Moment::default(), importer::Input::Files(vec![report])).expect("a report");
    }
    let end = Frame::PhaseEnd(PhaseEnd { files: names.len() as u64, bytes: 0 });
    importer.handle(Moment::default(), importer::Input::Frame(end)).expect("the end");
    let mut parts = Vec::new();
    while let importer::Output::Send(frame) = importer.poll_output() {
        let Frame::RetryRequest(part) = frame else { panic!("{frame:?}") };
        parts.push((part.round, part.failed.len(), part.more));
    }
    assert_eq!(parts, [(1, MAX_LIST, true), (1, 5, false)]);
}

/// An importer that asked for every file of the tree, its outputs drained.
fn at_bulk(tree: &Tree) -> (importer::Importer, Arc<Manifest>) {
    let manifest = tree.manifest.clone();
    let mut core = importer::Importer::new(RetryPolicy::default(), Moment::default());
    let mut frames = vec![Frame::ManifestBegin(manifest.header_bytes())];
    frames.extend(manifest.chunks().map(Frame::ManifestChunk));
    let manifest_sha256 = manifest.sha256();
    frames.push(Frame::ManifestEnd(ManifestEnd { manifest_sha256 }));
    frames.push(Frame::PendingRequest(PendingRequest {}));
    for frame in frames {
        core.handle(Moment::default(), importer::Input::Frame(frame)).expect("legal");
    }
    core.handle(Moment::default(), importer::Input::Accept(Vec::new())).expect("legal");
    while !matches!(core.poll_output(), importer::Output::Idle(_)) {}
    (core, manifest)
}

#[test]
fn a_pending_list_over_its_limit_spans_several_frames() {
    let names: Vec<_> = (0..2 * MAX_LIST + 4).map(|i| format!("{i:05}")).collect();
    let items: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
    let mut core = sending_at_zero(&Tree::of(&items), &[]);
    let ranges: Vec<_> = (0..=4097).map(|n| IndexRange { start: EntryIndex(2 * n), len: 1 }).collect();
    let (first, last) = ranges.split_at(MAX_LIST);
    let list = |ranges: &[IndexRange], more| {
        exporter::Input::Frame(Frame::PendingList(PendingList { ranges: ranges.to_vec(), partial: Vec::new(), more }))
    };
    core.handle(Moment::default(), list(first, true)).expect("a part");
    assert!(matches!(core.poll_output(), exporter::Output::Idle(_)), "nothing is sent for half a list");
    core.handle(Moment::default(), list(last, false)).expect("the rest");
    let exporter::Output::SendFiles { entries: files, .. } = core.poll_output() else { panic!("nothing to send") };
    assert_eq!((files.len(), files.last()), (4098, Some(&EntryIndex(8194))));
}

/// An exporter that has asked what is missing and, if ranges are given, sends those.
fn sending_at_zero(tree: &Tree, ranges: &[IndexRange]) -> Exporter {
    let mut core = Exporter::new(RetryPolicy::default(), Moment::default());
    core.handle(Moment::default(), exporter::Input::Opened { importer_holds: None }).expect("once");
    core.handle(Moment::default(), exporter::Input::ManifestReady(tree.manifest.clone())).expect("legal");
    if !ranges.is_empty() {
        let list = PendingList { ranges: ranges.to_vec(), partial: Vec::new(), more: false };
        core.handle(Moment::default(), exporter::Input::Frame(Frame::PendingList(list))).expect("legal");
    }
    while !matches!(core.poll_output(), exporter::Output::Idle(_)) {}
    core
}

fn second(n: u64) -> Moment {
    Moment(Duration::from_secs(n))
}

fn progress() -> Frame {
    let counters = Counters::default();
    Frame::Progress(Progress { phase: Phase::BulkTransferring, counters, waiting: false })
}

/// The second at which each side gives up when every second so many bytes move.
fn gives_up(bytes: u64, waiting_on_us: bool) -> (Option<u64>, Option<u64>) {
    let tree = Tree::of(&[("big", 1 << 20)]);
    let all = [IndexRange { start: EntryIndex(0), len: 1 }];
    let (mut out, (mut into, _)) = (sending_at_zero(&tree, &all), at_bulk(&tree));
    let mut over = (None, None);
    for n in 1..300 {
        out.handle(second(n), exporter::Input::Moved { bytes, waiting_on_us }).expect("legal");
        out.handle(second(n), exporter::Input::Frame(progress())).expect("legal");
        into.handle(second(n), importer::Input::Moved { bytes, waiting_on_us }).expect("legal");
        into.handle(second(n), importer::Input::Frame(progress())).expect("legal");
        if out.is_waiting() {
            over.0.get_or_insert(n);
        }
        if into.is_waiting() {
            over.1.get_or_insert(n);
        }
    }
    over
}

#[test]
fn signs_of_life_do_not_save_a_transfer_that_stands_still_or_trickles() {
    assert_eq!(gives_up(0, false), (Some(30), Some(30)));
    assert_eq!(gives_up(MIN_RATE - 1, false), (Some(60), Some(60)));
    assert_eq!(gives_up(MIN_RATE, false), (None, None));
}

#[test]
fn a_transfer_that_waits_for_our_own_disk_is_not_blamed_on_the_peer() {
    assert_eq!(gives_up(0, true), (None, None));
    assert_eq!(gives_up(1, true), (None, None));
}

#[test]
fn files_without_bytes_are_progress() {
    let names: Vec<_> = (0..3000).map(|i| format!("{i:04}")).collect();
    let items: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
    let tree = Tree::of(&items);
    let all = [IndexRange { start: EntryIndex(0), len: 3000 }];
    let mut out = sending_at_zero(&tree, &all);
    let (mut into, manifest) = at_bulk(&tree);
    let mut receiver = LaneReceiver::new(manifest.clone(), into.requested().clone(), 1);
    for (n, (index, _)) in (0..).zip(manifest.entries()) {
        let now = Moment(Duration::from_millis(50 * n));
        let sha256 = Some(EMPTY_SHA256);
        let begin = FileBegin { index, size: 0, sha256, offset: 0 };
        receiver.handle(Frame::FileBegin(begin)).expect("asked for");
        let end = Frame::FileEnd(FileEnd { index, failed: None, sha256: None });
        let Ok(LaneStep::Keep(file)) = receiver.handle(end) else { panic!("not kept") };
        let report = FileReport::Ok(file);
        into.handle(now, importer::Input::Frame(progress())).expect("legal");
        into.handle(now, importer::Input::Files(vec![report])).expect("legal");
        out.handle(now, exporter::Input::Frame(progress())).expect("legal");
        out.handle(now, exporter::Input::Sent { files: 1, bytes: 0, failed: Vec::new(), hashed: Vec::new() })
            .expect("legal");
        assert!(!into.is_waiting() && !out.is_waiting(), "given up at file {n}");
    }
}

#[test]
fn a_frame_that_is_swapped_for_another_ends_the_session_for_both() {
    let lie = || Frame::PhaseEnd(PhaseEnd { files: 9, bytes: 0 });
    let nowhere = Frame::FileEnd(FileEnd { index: EntryIndex(u32::MAX), failed: None, sha256: None });
    for fault in [
        Fault::Substitute { side: Side::Exporter, nth: 2, frame: lie() },
        Fault::Substitute { side: Side::Exporter, nth: 4, frame: lie() },
        Fault::Substitute { side: Side::Importer, nth: 0, frame: lie() },
        Fault::LaneSubstitute { nth: 5, frame: lie() },
        Fault::LaneSubstitute { nth: 5, frame: nowhere },
    ] {
        let pair = fails_untouched(Scenario::of(ITEMS).fault(fault), Code::FrameUnexpected);
        assert_eq!(pair.violations.len(), 1);
    }
}

#[test]
fn a_run_replays_from_its_log() {
    let scenario =
        Scenario::of(ITEMS).fault(Fault::Flip { file: 2, times: 2 }).fault(Fault::Truncate { file: 0, times: 1 });
    let first = Pair::play(scenario.clone(), 99);
    let again = Pair::replay(scenario, &first.log);
    assert_eq!((first.outcome(), &first.sends, &first.said), (again.outcome(), &again.sends, &again.said));
}

//! Claims about a session that goes on (SPEC §6.4, §6.8): what is asked for again, and what late reports and frames do.

use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::{FileReport, LocalFile, Partial, VerifiedFile};
use me_sync_protocol::frame::{Abort, FinalizeResult, Frame, IndexRange, PartialFile, PendingList, PendingRequest};
use me_sync_protocol::frame::{FailedEntry, PhaseEnd};
use me_sync_protocol::ids::{Digest, EntryIndex, Moment};
use me_sync_protocol::importer::{self, Importer};
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::{Code, FailureReason};
use me_sync_protocol::retry::RetryPolicy;

use crate::states::{
    At, Out, begin, drain_exporter, drain_importer, end, every_frame, exporter_at, importer_at, lane, pending_list,
    report, retry_request,
};
use crate::tree::Tree;

const START: Moment = Moment(std::time::Duration::ZERO);

/// Two files, a directory, a symlink: entries 0 to 3.
fn tree() -> Tree {
    Tree::of(&[("a", 3), ("b", 5), ("d/", 0), ("l@", 0)])
}

fn range(start: u32, len: u32) -> IndexRange {
    IndexRange { start: EntryIndex(start), len }
}

fn give(core: &mut Importer, input: importer::Input) {
    core.handle(START, input).expect("legal");
}

/// The first bytes of an entry, staged.
fn partial(tree: &Tree, index: u32, len: usize) -> Partial {
    let mut local = LocalFile::begin(&tree.manifest, EntryIndex(index)).expect("a file");
    local.update(&tree.bytes(EntryIndex(index))[..len]);
    local.into_partial().expect("some of it")
}

/// Resumes and lets the exporter ask: what the importer answers.
fn ask_again(core: &mut Importer) -> PendingList {
    give(core, importer::Input::Resumed);
    give(core, importer::Input::Frame(Frame::PendingRequest(PendingRequest {})));
    let outputs = drain_importer(core);
    let Some(importer::Output::Send(Frame::PendingList(list))) = outputs.last() else { panic!("{outputs:?}") };
    list.clone()
}

fn named(partial: &[(u32, u64)]) -> Vec<PartialFile> {
    partial.iter().map(|(index, offset)| PartialFile { index: EntryIndex(*index), offset: *offset }).collect()
}

#[test]
fn failed_and_pending_files_are_asked_for_again_and_partial_ones_from_their_offset() {
    let tree = tree();
    let mut core = importer_at(At::Bulk, &tree);
    report(&mut core, &tree, EntryIndex(0), true);
    let mut slow = lane(&core, &tree);
    slow.handle(begin(&tree, EntryIndex(1))).expect("asked for");
    slow.handle(Frame::FileChunk(tree.bytes(EntryIndex(1)).slice(..2))).expect("inside");
    give(&mut core, importer::Input::Lost);
    assert!(matches!(drain_importer(&mut core)[..], [importer::Output::Suspended { reset: false }]));
    give(&mut core, importer::Input::Suspended(slow.suspend().expect("two bytes")));
    let list = ask_again(&mut core);
    assert_eq!((list.ranges, list.partial), (vec![range(0, 2)], named(&[(1, 2)])));
    assert_eq!(core.counters().retry_round, 0);
}

#[test]
fn a_partial_file_that_no_lane_touched_is_named_again_and_one_that_a_lane_began_anew_is_not() {
    let tree = tree();
    let mut core = Importer::restored(
        RetryPolicy::default(),
        START,
        tree.manifest.clone(),
        Vec::new(),
        vec![partial(&tree, 0, 2), partial(&tree, 1, 4)],
    );
    assert!(core.is_waiting() && core.has_accepted());
    assert_eq!((core.phase(), core.holds()), (Phase::WaitingForPeer, Some(tree.manifest.sha256())));
    assert_eq!(ask_again(&mut core).partial, named(&[(0, 2), (1, 4)]));
    lane(&core, &tree).handle(begin(&tree, EntryIndex(0))).expect("from its first byte");
    give(&mut core, importer::Input::Lost);
    assert_eq!(ask_again(&mut core).partial, named(&[(1, 4)]));
    // twice in a row without a word of the exporter
    give(&mut core, importer::Input::Lost);
    give(&mut core, importer::Input::Resumed);
    give(&mut core, importer::Input::Lost);
    assert_eq!(ask_again(&mut core).partial, named(&[(1, 4)]));
}

#[test]
fn what_lanes_report_after_the_loss_counts_and_what_is_ok_is_not_partial() {
    let tree = tree();
    let mut core = importer_at(At::Bulk, &tree);
    let mut late = lane(&core, &tree);
    give(&mut core, importer::Input::Lost);
    late.handle(begin(&tree, EntryIndex(1))).expect("it was under way");
    late.handle(Frame::FileChunk(tree.bytes(EntryIndex(1)))).expect("inside");
    let Ok(me_sync_protocol::file::LaneStep::Keep(file)) = late.handle(end(EntryIndex(1))) else { panic!("whole") };
    give(&mut core, importer::Input::Files(vec![FileReport::Ok(file)]));
    let failed = FailedEntry { index: EntryIndex(0), reason: FailureReason::IoError };
    give(&mut core, importer::Input::Files(vec![FileReport::Failed(failed)]));
    give(&mut core, importer::Input::Suspended(partial(&tree, 1, 2)));
    let list = ask_again(&mut core);
    assert_eq!((list.ranges, list.partial), (vec![range(0, 1)], Vec::new()));
}

#[test]
fn a_lane_of_a_lost_connection_can_claim_nothing_of_the_next() {
    let tree = tree();
    let mut core = importer_at(At::Bulk, &tree);
    let mut old = lane(&core, &tree);
    give(&mut core, importer::Input::Lost);
    ask_again(&mut core);
    old.handle(begin(&tree, EntryIndex(0))).expect("its own requests are still its own");
    lane(&core, &tree).handle(begin(&tree, EntryIndex(0))).expect("the next has others");
    let before = core.requested().clone();
    assert!(!before.claim(EntryIndex(0)), "once");
}

#[test]
fn frames_that_come_late_do_nothing_but_an_abort_ends_the_session() {
    let tree = tree();
    for at in At::ALL.into_iter().filter(|at| *at != At::Applying) {
        for frame in every_frame(&tree) {
            let mut core = importer_at(at, &tree);
            give(&mut core, importer::Input::Lost);
            drain_importer(&mut core);
            let aborts = matches!(frame, Frame::Abort(_));
            give(&mut core, importer::Input::Frame(frame));
            let outputs = drain_importer(&mut core);
            assert_eq!((outputs.len(), core.is_waiting()), (usize::from(aborts), !aborts), "{at:?}: {outputs:?}");
        }
    }
    for at in Out::ALL {
        for frame in every_frame(&tree) {
            let mut core = exporter_at(at, &tree);
            core.handle(START, exporter::Input::Lost).expect("legal");
            drain_exporter(&mut core);
            let result = matches!(frame, Frame::FinalizeResult(_)) && at == Out::Finalizing;
            let ends = result || matches!(frame, Frame::Abort(_));
            core.handle(START, exporter::Input::Frame(frame)).expect("ignored");
            let outputs = drain_exporter(&mut core);
            assert_eq!((outputs.len(), core.is_waiting()), (usize::from(ends), !ends), "{at:?}: {outputs:?}");
            assert_eq!(core.phase() == Phase::Completed, result);
        }
    }
}

#[test]
fn an_importer_resumes_only_when_it_waits() {
    let tree = tree();
    for at in At::ALL {
        let mut core = importer_at(at, &tree);
        let phase = core.phase();
        give(&mut core, importer::Input::Resumed);
        assert!(drain_importer(&mut core).is_empty() && core.phase() == phase, "{at:?}");
    }
}

#[test]
fn a_session_that_is_stopped_or_violated_while_it_waits_says_nothing_to_nobody() {
    let tree = tree();
    let mut core = importer_at(At::Bulk, &tree);
    let violation = lane(&core, &tree).handle(end(EntryIndex(0))).expect_err("the end of nothing");
    give(&mut core, importer::Input::Lost);
    core.handle(START, importer::Input::LaneViolation(violation)).expect_err("it was the peer's");
    let outputs = drain_importer(&mut core);
    assert!(
        matches!(outputs[..], [importer::Output::Suspended { .. }, importer::Output::Over(Err(Code::FrameUnexpected))]),
        "{outputs:?}"
    );
    let mut core = exporter_at(Out::Sending, &tree);
    core.handle(START, exporter::Input::Lost).expect("legal");
    core.handle(START, exporter::Input::Stop(Code::Aborted)).expect("ours");
    let outputs = drain_exporter(&mut core);
    assert!(
        matches!(outputs[..], [exporter::Output::Suspended { .. }, exporter::Output::Over(Err(Code::Aborted))]),
        "{outputs:?}"
    );
}

#[test]
fn half_a_list_is_forgotten_with_its_connection() {
    let tree = tree();
    for (at, holds) in [(Out::HalfAsked, true), (Out::HalfRetry, false), (Out::Retrying, true)] {
        let mut core = exporter_at(at, &tree);
        core.handle(START, exporter::Input::Lost).expect("legal");
        let importer_holds = holds.then(|| tree.manifest.sha256());
        core.handle(START, exporter::Input::Opened { importer_holds }).expect("legal");
        let list = exporter::Input::Frame(pending_list(vec![range(0, 2)], false));
        core.handle(START, list).expect("the whole list");
        let outputs = drain_exporter(&mut core);
        let Some(exporter::Output::SendFiles { entries, partial }) = outputs.last() else { panic!("{outputs:?}") };
        assert_eq!((entries.as_slice(), partial.len()), (&[EntryIndex(0), EntryIndex(1)][..], 0), "{at:?}");
        let sent = |outputs: &[exporter::Output]| {
            outputs.iter().filter(|o| matches!(o, exporter::Output::Send(Frame::ManifestEnd(_)))).count()
        };
        assert_eq!(sent(&outputs), usize::from(!holds), "the manifest goes to who lacks it");
        core.handle(START, exporter::Input::Sent { files: 2, bytes: 8, failed: Vec::new(), hashed: Vec::new() })
            .expect("sent");
        core.handle(START, exporter::Input::Frame(retry_request(1, &[1], false))).expect("a first round again");
        assert_eq!(core.counters().retry_round, 1);
    }
}

#[test]
fn what_is_not_asked_for_counts_as_sent() {
    let tree = tree();
    let mut core = Exporter::restored(RetryPolicy::default(), START);
    assert!(core.is_waiting());
    core.handle(START, exporter::Input::ManifestReady(tree.manifest.clone())).expect("ours");
    assert!(drain_exporter(&mut core).is_empty(), "nobody is there");
    let importer_holds = Some(tree.manifest.sha256());
    core.handle(START, exporter::Input::Opened { importer_holds }).expect("legal");
    let list = PendingList { ranges: vec![range(1, 1)], partial: named(&[(1, 4)]), more: false };
    core.handle(START, exporter::Input::Frame(Frame::PendingList(list))).expect("legal");
    let counters = core.counters();
    assert_eq!((counters.files_ok, counters.bytes_done, counters.bytes_total), (1, 7, 8));
    core.handle(START, exporter::Input::Sent { files: 1, bytes: 1, failed: Vec::new(), hashed: Vec::new() })
        .expect("sent");
    assert_eq!((core.counters().files_ok, core.counters().bytes_done), (2, 8));
}

#[test]
fn the_counters_and_failures_of_a_conversation_are_its_own() {
    let tree = tree();
    let mut core = exporter_at(Out::Retrying, &tree);
    let failed = vec![(EntryIndex(0), Code::SourceChanged)];
    core.handle(START, exporter::Input::Sent { files: 1, bytes: 0, failed, hashed: Vec::new() }).expect("sent");
    assert_eq!((core.counters().retry_round, core.failures().count()), (1, 1));
    core.handle(START, exporter::Input::Lost).expect("legal");
    core.handle(START, exporter::Input::Opened { importer_holds: Some(tree.manifest.sha256()) }).expect("legal");
    core.handle(START, exporter::Input::Frame(pending_list(vec![range(0, 1)], false))).expect("legal");
    assert_eq!((core.counters().retry_round, core.counters().files_failed, core.failures().count()), (0, 0, 0));
}

// who asks for files has not applied the tree
#[test]
fn a_result_is_believed_only_until_the_importer_asks_for_files_again() {
    let tree = tree();
    let resumed = |at| {
        let mut core = exporter_at(at, &tree);
        core.handle(START, exporter::Input::Opened { importer_holds: Some(tree.manifest.sha256()) }).expect("legal");
        core
    };
    let mut core = resumed(Out::Finalizing);
    assert!(core.is_finalizing());
    core.handle(START, exporter::Input::Result(None)).expect("the importer was asked to apply");
    assert_eq!(core.phase(), Phase::Completed);
    core.handle(START, exporter::Input::Result(None)).expect("once more changes nothing");
    let mut core = resumed(Out::Finalizing);
    core.handle(START, exporter::Input::Frame(pending_list(Vec::new(), false))).expect("legal");
    assert!(!core.is_finalizing());
    core.handle(START, exporter::Input::Result(None)).expect_err("nobody asked to apply");
    assert_eq!(core.phase(), Phase::Failed);
    let mut core = resumed(Out::Finalizing);
    let early = Frame::FinalizeResult(FinalizeResult { failed: None });
    core.handle(START, exporter::Input::Frame(early)).expect_err("not on a stream that asked for nothing yet");
}

#[test]
fn another_manifest_than_the_importer_holds_ends_the_session_by_name() {
    let tree = tree();
    let mut core = Exporter::restored(RetryPolicy::default(), START);
    core.handle(START, exporter::Input::Opened { importer_holds: Some(Digest([7; 32])) }).expect("legal");
    core.handle(START, exporter::Input::ManifestReady(tree.manifest.clone())).expect("ours");
    let outputs = drain_exporter(&mut core);
    let [exporter::Output::Send(Frame::Abort(Abort { code })), exporter::Output::Over(outcome)] = outputs.as_slice()
    else {
        panic!("{outputs:?}");
    };
    assert_eq!((*code, *outcome), (Code::ManifestChanged, Err(Code::ManifestChanged)));
}

#[test]
fn what_was_queued_for_a_lost_connection_is_not_sent_on_the_next() {
    let tree = tree();
    let mut core = Exporter::new(RetryPolicy::default(), START);
    core.handle(START, exporter::Input::Opened { importer_holds: None }).expect("legal");
    core.handle(START, exporter::Input::ManifestReady(tree.manifest.clone())).expect("ours");
    assert!(!core.lets_go(), "the manifest waits in the core");
    core.handle(START, exporter::Input::Lost).expect("legal");
    assert!(core.lets_go());
    core.handle(START, exporter::Input::Opened { importer_holds: None }).expect("legal");
    let outputs = drain_exporter(&mut core);
    let names: Vec<_> = outputs
        .iter()
        .map(|o| match o {
            exporter::Output::Send(frame) => frame.name(),
            exporter::Output::Suspended { .. } => "suspended",
            _ => "else",
        })
        .collect();
    assert_eq!(names, ["suspended", "manifest_begin", "manifest_chunk", "manifest_end", "pending_request"]);

    // the importer's question to its person stands, what it had to say does not
    let mut core = importer_at(At::Manifest, &tree);
    let chunk = tree.manifest.chunks().next().expect("not empty");
    give(&mut core, importer::Input::Frame(Frame::ManifestChunk(chunk)));
    let manifest_sha256 = tree.manifest.sha256();
    give(
        &mut core,
        importer::Input::Frame(Frame::ManifestEnd(me_sync_protocol::frame::ManifestEnd { manifest_sha256 })),
    );
    give(&mut core, importer::Input::Frame(Frame::PendingRequest(PendingRequest {})));
    give(&mut core, importer::Input::Lost);
    let outputs = drain_importer(&mut core);
    assert!(matches!(outputs[..], [importer::Output::Review(_), importer::Output::Suspended { .. }]), "{outputs:?}");
    give(&mut core, importer::Input::Accept(Vec::new()));
    give(&mut core, importer::Input::Resumed);
    give(&mut core, importer::Input::Frame(Frame::PendingRequest(PendingRequest {})));
    assert_eq!(core.phase(), Phase::BulkTransferring, "the answer is given");
    give(&mut core, importer::Input::Lost);
    let outputs = drain_importer(&mut core);
    assert!(matches!(outputs[..], [importer::Output::Suspended { .. }]), "the list is dropped: {outputs:?}");
}

#[test]
fn an_apply_without_a_connection_sends_nothing_and_ends_as_ever() {
    let tree = tree();
    let mut core = importer_at(At::Applying, &tree);
    give(&mut core, importer::Input::Swapping);
    give(&mut core, importer::Input::Lost);
    assert!(!core.is_waiting() && drain_importer(&mut core).is_empty());
    core.handle(Moment(std::time::Duration::from_secs(3600)), importer::Input::Tick).expect("ours");
    give(&mut core, importer::Input::Applied(Ok(())));
    let outputs = drain_importer(&mut core);
    assert!(matches!(outputs[..], [importer::Output::Over(Ok(()))]), "{outputs:?}");
}

#[test]
fn files_that_the_durable_ledger_has_and_those_found_later_are_not_asked_for() {
    let tree = tree();
    let have = vec![VerifiedFile::recorded(&tree.manifest, EntryIndex(0)).expect("a file")];
    let policy = RetryPolicy::default();
    let mut core = Importer::restored(policy, START, tree.manifest.clone(), have, vec![partial(&tree, 0, 2)]);
    assert_eq!((core.counters().files_ok, core.counters().bytes_done), (1, 3));
    let list = ask_again(&mut core);
    assert_eq!((list.ranges, list.partial), (vec![range(1, 1)], Vec::new()), "nothing of a file that is whole");
    // all of it is there: the rounds pass without a file
    let all = [0, 1].map(|n| VerifiedFile::recorded(&tree.manifest, EntryIndex(n)).expect("a file"));
    let mut core = Importer::restored(policy, START, tree.manifest.clone(), all.into(), Vec::new());
    assert_eq!(ask_again(&mut core).ranges, Vec::new());
    give(&mut core, importer::Input::Frame(Frame::PhaseEnd(PhaseEnd { files: 0, bytes: 0 })));
    assert_eq!(core.phase(), Phase::FinalVerifying);
}

// a control stream that takes nothing must not make the core grow
#[test]
fn signs_of_life_that_nobody_takes_do_not_pile_up() {
    let tree = tree();
    let (mut out, mut into) = (exporter_at(Out::Finalizing, &tree), importer_at(At::Applying, &tree));
    for n in 0..1000 {
        let now = Moment(std::time::Duration::from_secs(n));
        let alive = || every_frame(&tree).into_iter().find(|f| matches!(f, Frame::Progress(_))).expect("one");
        out.handle(now, exporter::Input::Frame(alive())).expect("legal");
        into.handle(now, importer::Input::Frame(alive())).expect("legal");
    }
    assert_eq!((drain_exporter(&mut out).len(), drain_importer(&mut into).len()), (1, 1));
}

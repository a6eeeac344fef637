//! Claims about the late order (SPEC §5.10): an outline first, hashes with the files, and what a loss makes of it.

use std::collections::BTreeSet;

use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::{FileReport, LaneReceiver, LaneStep};
use me_sync_protocol::frame::{
    FileEnd, FinalizeRequest, Frame, IndexRange, ManifestEnd, PartialFile, PendingList, PendingRequest, PhaseEnd,
};
use me_sync_protocol::ids::{Digest, EntryIndex, Moment};
use me_sync_protocol::importer::{self, Importer};
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::reason::{Code, FailureReason};
use me_sync_protocol::retry::RetryPolicy;

use crate::conversation::{BOTH_OK, ITEMS, both, fails_untouched};
use crate::pair::{Fault, Pair, Scenario, Side};
use crate::states::{begin, drain_exporter, drain_importer, retry_request};
use crate::tree::{Tree, sha256};

const START: Moment = Moment(std::time::Duration::ZERO);

fn late() -> Scenario {
    Scenario { late: true, ..Scenario::of(ITEMS) }
}

#[test]
fn a_tree_arrives_whole_after_its_outline_and_its_manifest_is_never_sent() {
    for seed in 0..20 {
        let pair = Pair::play(late(), seed);
        assert_eq!((pair.outcome(), &pair.live), (BOTH_OK, &pair.scenario.tree.image), "{}", pair.report());
        assert_eq!((pair.sends.len(), pair.payload), (5, 632));
        let manifests = pair.said.iter().filter(|(_, name)| *name == "manifest_begin").count();
        assert_eq!(manifests, 1);
        assert_eq!(pair.importer.manifest().map(|m| m.sha256()), Some(pair.scenario.tree.manifest.sha256()));
    }
}

#[test]
fn a_file_that_is_spoilt_on_the_way_or_ends_with_another_hash_fails_alone_and_comes_again() {
    for (seed, fault) in (0..).zip([
        Fault::Lie { file: 1, times: 1 },
        Fault::Flip { file: 1, times: 1 },
        Fault::SourceChanged { file: 1, times: 1 },
        Fault::DiskFails { file: 1, times: 1 },
    ]) {
        let pair = Pair::play(late().fault(fault), seed);
        assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        let again: Vec<_> = pair.sends.iter().filter(|(round, _)| *round > 0).copied().collect();
        assert_eq!(again, [(1, pair.scenario.tree.index("b"))], "{}", pair.report());
    }
    let pair = fails_untouched(late().fault(Fault::Lie { file: 1, times: u32::MAX }), Code::RetryExhausted);
    assert_eq!(pair.importer.failures(), [(pair.scenario.tree.index("b"), FailureReason::HashMismatch)]);
}

#[test]
fn a_conversation_that_is_lost_at_any_step_goes_on_with_the_sealed_manifest_and_sends_nothing_twice() {
    let whole = Pair::play(late(), 3).log.len();
    let mut manifests = BTreeSet::new();
    for (step, seed) in (1..whole).flat_map(|step| [(step, 3), (step, 4), (step, 5)]) {
        let pair = Pair::play(late().fault(Fault::Disconnect { step }), seed);
        assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        assert!(pair.payload <= pair.most_payload(), "{}", pair.report());
        manifests.insert(pair.said.iter().filter(|(_, name)| *name == "manifest_end").count());
    }
    assert!(manifests.contains(&2), "{manifests:?}");
}

#[test]
fn a_process_that_dies_at_any_step_delays_a_late_session_only() {
    let whole = Pair::play(late(), 3).log.len();
    for side in [Side::Exporter, Side::Importer] {
        for (step, seed) in (1..whole).flat_map(|step| [(step, 3), (step, 4), (step, 5)]) {
            let pair = Pair::play(late().fault(Fault::Crash { side, step }), seed);
            assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
            assert!(pair.payload <= pair.most_payload(), "{}", pair.report());
        }
    }
}

#[test]
fn both_processes_may_die_one_after_the_other() {
    let whole = Pair::play(late(), 3).log.len();
    for (first, second) in [(Side::Exporter, Side::Importer), (Side::Importer, Side::Exporter)] {
        for step in (1..whole).step_by(3) {
            for later in [1, 4, 9, 20] {
                let scenario = late().fault(Fault::Crash { side: first, step });
                let pair = Pair::play(scenario.fault(Fault::Crash { side: second, step: step + later }), 7);
                assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
                assert!(pair.payload <= pair.most_payload(), "{}", pair.report());
            }
        }
    }
}

// the outline is the same, so the session goes on: what came of the old content comes again
#[test]
fn files_that_were_written_anew_at_their_length_while_the_exporter_was_down_come_as_they_are_now() {
    let whole = Pair::play(late(), 3).log.len();
    let mut went_on = 0;
    for (step, seed) in (1..whole).flat_map(|step| [(step, 3), (step, 4)]) {
        let pair = Pair::play(late().fault(Fault::Rewrite { step }), seed);
        match pair.outcome() {
            BOTH_OK => {
                assert!(pair.is_new(), "{}", pair.report());
                went_on += usize::from(pair.live != pair.scenario.tree.image);
            }
            // its seal was made, and is of what was
            outcome => assert_eq!((outcome, pair.is_old()), (both(Code::ManifestChanged), true), "{}", pair.report()),
        }
    }
    assert!(went_on > whole, "{went_on} of {whole}");
}

#[test]
fn a_source_that_was_edited_is_another_session_also_after_an_outline() {
    let whole = Pair::play(late(), 3).log.len();
    let mut changed = 0;
    for step in 1..whole {
        let pair = Pair::play(late().fault(Fault::Edit { step }), 3);
        match pair.outcome() {
            BOTH_OK => assert!(pair.is_new(), "{}", pair.report()),
            outcome => {
                assert_eq!((outcome, pair.is_old()), (both(Code::ManifestChanged), true), "{}", pair.report());
                changed += 1;
            }
        }
    }
    assert!(changed > whole / 3, "{changed} of {whole}");
}

#[test]
fn a_late_session_whose_retries_are_exhausted_goes_on_in_the_ordinary_order() {
    let mut pair = Pair::play(late().fault(Fault::Flip { file: 1, times: 5 }), 3);
    assert_eq!(pair.outcome(), both(Code::RetryExhausted));
    let sent = pair.sends.len();
    pair.retry();
    pair.run_until(|_| false);
    assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
    let file = pair.scenario.tree.index("b");
    assert_eq!(pair.sends[sent..], [(0, file), (1, file)], "it failed once more");
}

/// Two files, an empty one and a directory: entries 0 to 3.
fn tree() -> Tree {
    Tree::of(&[("a", 3), ("b", 5), ("d/", 0), ("e", 0)])
}

fn give(core: &mut Importer, frame: Frame) -> Result<(), Code> {
    core.handle(START, importer::Input::Frame(frame)).map_err(|violation| violation.code)
}

fn give_manifest(core: &mut Importer, manifest: &Manifest) -> Result<(), Code> {
    give(core, Frame::ManifestBegin(manifest.header_bytes()))?;
    manifest.chunks().try_for_each(|chunk| give(core, Frame::ManifestChunk(chunk)))?;
    give(core, Frame::ManifestEnd(ManifestEnd { manifest_sha256: manifest.sha256() }))
}

/// An importer in its bulk that holds the outline.
fn importer(tree: &Tree) -> Importer {
    let mut core = Importer::taking_outline(RetryPolicy::default(), START);
    give_manifest(&mut core, &tree.outline()).expect("it takes one");
    give(&mut core, Frame::PendingRequest(PendingRequest {})).expect("legal");
    core.handle(START, importer::Input::Accept(Vec::new())).expect("legal");
    drain_importer(&mut core);
    core
}

/// Lets a file arrive whole, after the outline.
fn arrive(core: &mut Importer, tree: &Tree, index: u32) {
    let index = EntryIndex(index);
    let manifest = core.manifest().expect("the outline").clone();
    let mut lane = LaneReceiver::new(manifest.clone(), core.requested().clone(), 1 << 10);
    let (outlined, bytes) = (Tree { manifest, image: tree.image.clone() }, tree.bytes(index));
    lane.handle(begin(&outlined, index)).expect("asked for");
    if !bytes.is_empty() {
        lane.handle(Frame::FileChunk(bytes.clone())).expect("inside a file");
    }
    let late = (!bytes.is_empty()).then(|| sha256(&bytes));
    let end = lane.handle(Frame::FileEnd(FileEnd { index, failed: None, sha256: late }));
    let Ok(LaneStep::Keep(file)) = end else { panic!("{end:?}") };
    core.handle(START, importer::Input::Files(vec![FileReport::Ok(file)])).expect("legal");
}

fn finalize(core: &mut Importer, manifest_sha256: Digest) -> Result<(), Code> {
    let tree = tree();
    give(core, Frame::PhaseEnd(PhaseEnd { files: 3, bytes: 8 })).expect("all are there");
    let (entry_count, total_bytes) = (u64::from(tree.manifest.len()), tree.manifest.total_bytes());
    give(core, Frame::FinalizeRequest(FinalizeRequest { manifest_sha256, entry_count, total_bytes }))
}

#[test]
fn only_the_seal_that_the_importer_computed_itself_is_applied() {
    let tree = tree();
    for wrong in [tree.outline().sha256(), tree.rewritten().manifest.sha256(), Digest([1; 32])] {
        let mut core = importer(&tree);
        [0, 1, 3].into_iter().for_each(|index| arrive(&mut core, &tree, index));
        assert_eq!(finalize(&mut core, wrong), Err(Code::ManifestMismatch));
    }
    let mut core = importer(&tree);
    [0, 1, 3].into_iter().for_each(|index| arrive(&mut core, &tree, index));
    assert_eq!(finalize(&mut core, tree.manifest.sha256()), Ok(()));
    let outputs = drain_importer(&mut core);
    let proof = outputs.iter().find_map(|output| match output {
        importer::Output::Apply(proof) => Some(proof.manifest_sha256()),
        _ => None,
    });
    assert_eq!((proof, core.holds()), (Some(tree.manifest.sha256()), Some(tree.manifest.sha256())));
}

#[test]
fn an_outline_is_refused_where_none_was_asked_for_and_in_every_later_conversation() {
    let tree = tree();
    let mut core = Importer::new(RetryPolicy::default(), START);
    assert_eq!(give_manifest(&mut core, &tree.outline()), Err(Code::ManifestInvalid));
    let mut core = importer(&tree);
    assert_eq!(core.holds(), None, "it is not what resume names");
    core.handle(START, importer::Input::Lost).expect("legal");
    core.handle(START, importer::Input::Resumed).expect("legal");
    assert_eq!(give_manifest(&mut core, &tree.outline()), Err(Code::ManifestInvalid));
    // nor after a loss before anything came
    let mut core = Importer::taking_outline(RetryPolicy::default(), START);
    core.handle(START, importer::Input::Lost).expect("legal");
    core.handle(START, importer::Input::Resumed).expect("legal");
    assert_eq!(give_manifest(&mut core, &tree.outline()), Err(Code::ManifestInvalid));
}

#[test]
fn a_manifest_that_does_not_seal_the_outline_ends_the_session_and_one_that_does_keeps_what_is_right() {
    let tree = tree();
    let lost = |tree: &Tree| {
        let mut core = importer(tree);
        [0, 3].into_iter().for_each(|index| arrive(&mut core, tree, index));
        core.handle(START, importer::Input::Lost).expect("legal");
        core.handle(START, importer::Input::Resumed).expect("legal");
        drain_importer(&mut core);
        core
    };
    assert_eq!(give_manifest(&mut lost(&tree), &tree.edited().manifest), Err(Code::ManifestChanged));
    for (sealed, wrong, missing) in
        [(tree.manifest.clone(), vec![], (1, 1)), (tree.rewritten().manifest, vec![EntryIndex(0)], (0, 2))]
    {
        let mut core = lost(&tree);
        give_manifest(&mut core, &sealed).expect("it seals the outline");
        give(&mut core, Frame::PendingRequest(PendingRequest {})).expect("legal");
        let outputs = drain_importer(&mut core);
        let adopt = outputs.iter().find_map(|output| match output {
            importer::Output::Adopt { manifest, lost } => Some((manifest.sha256(), lost.clone())),
            _ => None,
        });
        assert_eq!(adopt, Some((sealed.sha256(), wrong)));
        let asks = |outputs: &[importer::Output]| {
            outputs.iter().any(|output| matches!(output, importer::Output::Send(Frame::PendingList(_))))
        };
        assert!(!asks(&outputs), "not before the staging tree goes by it");
        core.handle(START, importer::Input::Adopted { found: vec![], partial: vec![] }).expect("legal");
        let outputs = drain_importer(&mut core);
        let Some(importer::Output::Send(Frame::PendingList(list))) =
            outputs.iter().find(|output| matches!(output, importer::Output::Send(Frame::PendingList(_))))
        else {
            panic!("{outputs:?}")
        };
        let (start, len) = missing;
        assert_eq!(list.ranges, [IndexRange { start: EntryIndex(start), len }]);
        assert_eq!(core.holds(), Some(sealed.sha256()));
    }
}

#[test]
fn consent_that_comes_while_the_sealed_manifest_is_under_way_counts() {
    let tree = tree();
    let mut core = Importer::taking_outline(RetryPolicy::default(), START);
    give_manifest(&mut core, &tree.outline()).expect("it takes one");
    core.handle(START, importer::Input::Lost).expect("legal");
    core.handle(START, importer::Input::Resumed).expect("legal");
    give(&mut core, Frame::ManifestBegin(tree.manifest.header_bytes())).expect("legal");
    core.handle(START, importer::Input::Accept(Vec::new())).expect("legal");
    tree.manifest.chunks().for_each(|chunk| give(&mut core, Frame::ManifestChunk(chunk)).expect("legal"));
    let manifest_sha256 = tree.manifest.sha256();
    give(&mut core, Frame::ManifestEnd(ManifestEnd { manifest_sha256 })).expect("legal");
    give(&mut core, Frame::PendingRequest(PendingRequest {})).expect("legal");
    core.handle(START, importer::Input::Adopted { found: vec![], partial: vec![] }).expect("legal");
    let asked = drain_importer(&mut core);
    assert!(asked.iter().any(|output| matches!(output, importer::Output::Send(Frame::PendingList(_)))), "{asked:?}");
}

/// An exporter that has sent its outline.
fn exporter(tree: &Tree) -> Exporter {
    let mut core = Exporter::new(RetryPolicy::default(), START);
    core.handle(START, exporter::Input::ManifestReady(tree.outline())).expect("legal");
    core.handle(START, exporter::Input::Opened { importer_holds: None }).expect("legal");
    drain_exporter(&mut core);
    core
}

fn ask(core: &mut Exporter, ranges: &[(u32, u32)], partial: &[(u32, u64)]) -> Result<(), Code> {
    let ranges = ranges.iter().map(|(start, len)| IndexRange { start: EntryIndex(*start), len: *len }).collect();
    let partial = partial.iter().map(|(index, offset)| PartialFile { index: EntryIndex(*index), offset: *offset });
    let list = PendingList { ranges, partial: partial.collect(), more: false };
    core.handle(START, exporter::Input::Frame(Frame::PendingList(list))).map_err(|violation| violation.code)
}

#[test]
fn a_list_after_an_outline_names_every_file_without_a_hash_from_its_beginning() {
    let tree = tree();
    assert_eq!(ask(&mut exporter(&tree), &[(0, 4)], &[]), Ok(()));
    assert_eq!(ask(&mut exporter(&tree), &[(0, 2)], &[]), Ok(()), "the empty file has its hash");
    assert_eq!(ask(&mut exporter(&tree), &[(1, 3)], &[]), Err(Code::FrameUnexpected));
    assert_eq!(ask(&mut exporter(&tree), &[(0, 4)], &[(1, 2)]), Err(Code::FrameUnexpected));
}

fn sent(core: &mut Exporter, tree: &Tree, failed: &[u32]) {
    let hashed = [0, 1].map(EntryIndex).into_iter().filter(|index| !failed.contains(&index.0));
    let hashed = hashed.map(|index| (index, sha256(&tree.bytes(index)))).collect();
    let failed = failed.iter().map(|index| (EntryIndex(*index), Code::SourceChanged)).collect();
    core.handle(START, exporter::Input::Sent { files: 3, bytes: 8, failed, hashed }).expect("legal");
}

#[test]
fn an_exporter_seals_what_it_sent_and_nothing_that_it_did_not() {
    let tree = tree();
    let all_well = || exporter::Input::Frame(retry_request(1, &[], false));
    let mut core = exporter(&tree);
    ask(&mut core, &[(0, 4)], &[]).expect("legal");
    sent(&mut core, &tree, &[]);
    core.handle(START, all_well()).expect("legal");
    let outputs = drain_exporter(&mut core);
    let sealed = outputs
        .iter()
        .any(|output| matches!(output, exporter::Output::Sealed(sha256) if *sha256 == tree.manifest.sha256()));
    let asked = outputs.iter().any(|output| matches!(output, exporter::Output::Send(Frame::FinalizeRequest(request)) if request.manifest_sha256 == tree.manifest.sha256()));
    assert!(sealed && asked, "{outputs:?}");
    let mut core = exporter(&tree);
    ask(&mut core, &[(0, 4)], &[]).expect("legal");
    sent(&mut core, &tree, &[1]);
    assert_eq!(core.handle(START, all_well()).map_err(|v| v.code), Err(Code::FrameUnexpected));
}

#[test]
fn an_outline_that_is_withdrawn_or_whose_conversation_is_lost_is_not_sent() {
    let tree = tree();
    let mut core = Exporter::new(RetryPolicy::default(), START);
    core.handle(START, exporter::Input::ManifestReady(tree.outline())).expect("legal");
    core.handle(START, exporter::Input::Withdrawn).expect("legal");
    let mut lost = exporter(&tree);
    lost.handle(START, exporter::Input::Lost).expect("legal");
    for mut core in [core, lost] {
        drain_exporter(&mut core);
        core.handle(START, exporter::Input::Opened { importer_holds: None }).expect("legal");
        assert!(matches!(drain_exporter(&mut core)[..], []), "there is no manifest");
        core.handle(START, exporter::Input::ManifestReady(tree.manifest.clone())).expect("legal");
        let outputs = drain_exporter(&mut core);
        let end = Frame::ManifestEnd(ManifestEnd { manifest_sha256: tree.manifest.sha256() });
        assert!(outputs.iter().any(|o| matches!(o, exporter::Output::Send(frame) if *frame == end)), "{outputs:?}");
    }
}

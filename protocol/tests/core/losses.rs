//! Claims about sessions whose connection, process or disk fails under way (SPEC §5.3, §6.4, §6.8).

use std::collections::BTreeSet;
use std::time::Duration;

use me_sync_protocol::exporter;
use me_sync_protocol::ids::Moment;
use me_sync_protocol::limits::STALL;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;

use crate::conversation::{BOTH_OK, ITEMS, both, fails_untouched};
use crate::pair::{Fault, Pair, Scenario, Side, Step};

#[test]
fn a_process_that_dies_at_any_step_delays_the_session_only() {
    let whole = Pair::play(Scenario::of(ITEMS), 3).log.len();
    for side in [Side::Exporter, Side::Importer] {
        for (step, seed) in (1..whole).flat_map(|step| [(step, 3), (step, 4), (step, 5)]) {
            let pair = Pair::play(Scenario::of(ITEMS).fault(Fault::Crash { side, step }), seed);
            assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        }
    }
}

#[test]
fn a_peer_that_falls_silent_is_let_go_of_after_thirty_seconds_and_the_session_goes_on() {
    let whole = Pair::play(Scenario::of(ITEMS), 5).log.len();
    for side in [Side::Exporter, Side::Importer] {
        for step in 0..whole {
            let pair = Pair::play(Scenario::of(ITEMS).fault(Fault::Mute { side, step }), 5);
            assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
            assert!(pair.now <= Moment(3 * STALL), "{}", pair.report());
        }
    }
    let mut pair = Pair::new(Scenario::of(ITEMS).fault(Fault::Mute { side: Side::Exporter, step: 0 }));
    pair.run_until(|pair| pair.importer.is_waiting());
    assert_eq!(pair.now, Moment(STALL));
}

#[test]
fn a_long_apply_goes_on_when_the_exporter_falls_silent() {
    let mut scenario = Scenario { apply: Duration::from_secs(600), ..Scenario::of(ITEMS) };
    let mut pair = Pair::new(scenario.clone());
    pair.run_until(|pair| pair.importer.is_applying());
    scenario.faults.push(Fault::Mute { side: Side::Exporter, step: pair.log.len() });
    let pair = Pair::play(scenario, 0);
    assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
    assert!(pair.log.len() < 500, "{} steps", pair.log.len());
}

// F79
#[test]
fn when_the_result_is_lost_the_exporter_claims_nothing_until_the_importer_tells_again() {
    let mut pair = Pair::new(Scenario::of(ITEMS).fault(Fault::Offline { step: 0 }));
    pair.run_until(|pair| pair.importer_over.is_some());
    assert!(pair.exporter.is_finalizing());
    pair.step(Step::Cut(0));
    pair.run_until(|_| false);
    assert_eq!(pair.outcome(), (None, Some(Ok(()))), "{}", pair.report());
    assert_eq!((pair.exporter.phase(), &pair.live), (Phase::WaitingForPeer, &pair.scenario.tree.image));
    let sent = pair.sends.len();
    for _ in 0..2 {
        pair.step(Step::Result);
        assert_eq!((pair.outcome(), pair.sends.len()), (BOTH_OK, sent));
    }
}

#[test]
fn an_exporter_whose_process_died_while_the_tree_was_applied_learns_the_result() {
    let mut pair = Pair::new(Scenario::of(ITEMS));
    pair.run_until(|pair| pair.importer.is_applying());
    pair.step(Step::Crash(Side::Exporter, 0));
    pair.run_until(|_| false);
    assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
}

#[test]
fn nobody_claims_a_result_for_a_tree_that_was_not_to_be_applied() {
    let mut pair = Pair::new(Scenario::of(ITEMS));
    pair.run_until(|pair| pair.exporter.phase() == Phase::BulkTransferring);
    let claimed = pair.exporter.handle(Moment::default(), exporter::Input::Result(None));
    assert_eq!(claimed.map_err(|v| v.code), Err(Code::FrameUnexpected));
    assert_eq!(pair.exporter.phase(), Phase::Failed);
    let mut pair = Pair::new(Scenario::of(ITEMS));
    pair.run_until(|pair| pair.exporter.phase() == Phase::BulkTransferring);
    pair.exporter.handle(Moment::default(), exporter::Input::Result(Some(Code::NoSpace))).expect("an end");
    assert_eq!(pair.exporter.phase(), Phase::Failed);
}

#[test]
fn a_file_that_is_gone_when_the_tree_is_sealed_is_asked_for_again_three_times_at_most() {
    let rots = |times| Scenario::of(ITEMS).fault(Fault::Rot { file: 1, times });
    for times in 1..=3 {
        let pair = Pair::play(rots(times), 0);
        assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        let again = pair.sends.iter().filter(|(_, index)| *index == pair.scenario.tree.index("b")).count();
        assert_eq!((again, pair.sends.len()), (times as usize + 1, times as usize + 5));
    }
    let pair = fails_untouched(rots(4), Code::HashMismatch);
    assert_eq!(pair.dials(), 4);
}

#[test]
fn a_session_whose_retries_are_exhausted_goes_on_with_what_failed_when_somebody_asks_for_it() {
    let mut pair = Pair::play(Scenario::of(ITEMS).fault(Fault::Flip { file: 1, times: 5 }), 3);
    assert_eq!(pair.outcome(), both(Code::RetryExhausted));
    let sent = pair.sends.len();
    pair.retry();
    pair.run_until(|_| false);
    assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
    let file = pair.scenario.tree.index("b");
    assert_eq!(pair.sends[sent..], [(0, file), (1, file)], "it failed once more");
}

#[test]
fn what_was_found_on_the_importers_device_is_not_sent() {
    for (found, sent) in [(1, 0), (2, 2)] {
        let pair = Pair::play(Scenario { found, ..Scenario::of(ITEMS) }, 1);
        assert_eq!((pair.outcome(), pair.sends.len()), (BOTH_OK, sent), "{}", pair.report());
        assert!(pair.sends.iter().all(|(_, index)| !pair.found().contains(index)));
        assert_eq!((pair.exporter.counters().files_ok, pair.exporter.counters().bytes_done), (5, 632));
    }
}

// F64: two manifests are never mixed
#[test]
fn a_source_that_was_edited_while_its_exporter_was_down_is_another_session() {
    let whole = Pair::play(Scenario::of(ITEMS), 3).log.len();
    let mut changed = 0;
    for step in 1..whole {
        let pair = Pair::play(Scenario::of(ITEMS).fault(Fault::Edit { step }), 3);
        match pair.outcome() {
            BOTH_OK => assert!(pair.is_new(), "{}", pair.report()),
            outcome => {
                assert_eq!(outcome, both(Code::ManifestChanged), "{}", pair.report());
                assert!(pair.is_old());
                changed += 1;
            }
        }
    }
    assert!(changed > whole / 3, "{changed} of {whole}");
}

#[test]
fn a_person_may_agree_while_the_connection_is_lost() {
    let scenario = Scenario { think: Duration::from_secs(60), ..Scenario::of(ITEMS) };
    let mut pair = Pair::new(scenario.fault(Fault::Offline { step: 0 }));
    pair.run_until(|pair| pair.importer.holds().is_some());
    pair.step(Step::Cut(0));
    pair.run_until(|_| false);
    assert!(pair.importer.has_accepted() && pair.importer.is_waiting(), "{}", pair.report());
    pair.scenario.faults.clear();
    pair.run_until(|_| false);
    assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
    assert_eq!(pair.said.iter().filter(|(_, name)| *name == "manifest_end").count(), 1, "the manifest is held");
}

// F53: a session that waits has no deadline of its own; its node ends it, and the target is what it was
#[test]
fn a_session_whose_time_is_over_ends_on_both_sides_without_effect() {
    let whole = Pair::play(Scenario::of(ITEMS), 3).log.len();
    for step in 1..whole {
        let scenario = Scenario::of(ITEMS).fault(Fault::Disconnect { step }).fault(Fault::Offline { step: 0 });
        let mut pair = Pair::play(scenario, 3);
        assert!(pair.has_ended_or_waits(), "{}", pair.report());
        let applied = pair.importer_over.is_some();
        pair.expire();
        assert!(pair.exporter_over.is_some() && pair.importer_over.is_some(), "{}", pair.report());
        assert_eq!(pair.is_old(), !applied, "{}", pair.report());
    }
}

#[test]
fn losing_the_connection_at_any_step_delays_the_session_and_sends_again_only_what_was_in_flight() {
    let whole = Pair::play(Scenario::of(ITEMS), 3).log.len();
    let mut phases = BTreeSet::new();
    for (step, rude, seed) in (1..whole).flat_map(|step| [(step, false, 3), (step, true, 4), (step, true, 0)]) {
        let scenario = Scenario { rude, ..Scenario::of(ITEMS).fault(Fault::Disconnect { step }) };
        let pair = Pair::play(scenario, seed);
        assert_eq!(pair.outcome(), BOTH_OK, "{}", pair.report());
        assert!(pair.payload <= pair.most_payload(), "{} bytes\n{}", pair.payload, pair.report());
        phases.extend(pair.broke.iter().map(|(_, _, importer)| *importer));
    }
    assert!(phases.len() >= 5, "the connection was lost in {phases:?} only");
}

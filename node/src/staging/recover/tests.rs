//! Claims about restarts: sessions are left at every point and settled.

use std::fs;
use std::time::{Duration, SystemTime};

use super::super::journal::Unproven;
use super::super::testing::{Place as Ground, SMALL, image, remove};
use super::super::{ApplyHooks, KEEP_OLD, SessionState, Swapped, on_apply_thread, rollback};
use super::*;

fn later(days: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(days * 24 * 3600)
}

fn outcomes(ground: &Ground, now: SystemTime) -> Vec<Outcome> {
    recover(&ground.state, now).into_iter().map(|r| r.outcome).collect()
}

/// The journal of the only session, as a crashed process left it.
fn journal(ground: &Ground) -> Journal {
    let id = ground.state.ids().unwrap()[0];
    let dir = ground.state.lock_session(id).unwrap();
    match Journal::load(dir.share().unwrap(), &dir.path).unwrap() {
        Loaded::Whole(journal) => *journal,
        other => panic!("{other:?}"),
    }
}

/// Puts the record into `state` and the trees as after a swap that did (not) happen.
fn crashed(existed: bool, state: SessionState, happened: bool, method: Method) -> Ground {
    let ground = if existed { Ground::with_old() } else { Ground::new() };
    let sealed = ground.staged(1, SMALL).seal(&mut |_| ()).unwrap();
    drop(sealed);
    let mut journal = journal(&ground);
    journal
        .update(|r| {
            r.state = state;
            r.tries = 1;
            r.method = method;
            r.keep_until_ms = u64::MAX;
        })
        .unwrap();
    if happened {
        let parent = fs::File::open(ground.parent()).unwrap();
        names::swap(parent.as_fd(), journal.record(), existed).unwrap();
    }
    ground
}

// RELIABILITY F67
#[test]
fn unfinished_sessions_stay_silently_until_their_time_is_over() {
    for state in [SessionState::Receiving, SessionState::Verified] {
        for gone in [false, true] {
            let ground = crashed(true, state, false, Method::Exchange);
            let before = image(&ground.target(), true);
            if gone {
                remove(&ground.parent().join(&journal(&ground).record().staging));
            }
            let names = ground.names();
            assert_eq!(outcomes(&ground, SystemTime::now()), []);
            assert_eq!(outcomes(&ground, SystemTime::now() + Duration::from_secs(23 * 3600)), []);
            assert_eq!((ground.names(), ground.states()), (names, vec![state]));
            // a clock that went back ends nothing
            assert_eq!(outcomes(&ground, UNIX_EPOCH), []);
            assert_eq!(outcomes(&ground, later(2)), [Outcome::Discarded]);
            assert_eq!((ground.names(), ground.states()), (vec!["t".to_owned()], vec![SessionState::Failed]));
            assert_eq!(ground.state.sessions().unwrap()[0].code, Some(Code::SessionExpired));
            assert_eq!(image(&ground.target(), true), before);
            assert_eq!(outcomes(&ground, later(2)), []);
        }
    }
}

#[test]
fn an_unfinished_session_is_ended_on_request_unless_somebody_works_on_it() {
    let ground = Ground::with_old();
    let id = SessionId([1; 16]);
    let missing = discard(&ground.state, id, Code::Aborted).unwrap_err();
    assert_eq!(missing.code(), Code::SessionUnknown);
    let staging = ground.staged(1, SMALL);
    let busy = discard(&ground.state, id, Code::Aborted).unwrap_err();
    assert_eq!(busy.code(), Code::StateLocked);
    staging.suspend();
    let before = image(&ground.target(), true);
    discard(&ground.state, id, Code::Aborted).unwrap();
    assert_eq!((ground.names(), ground.states()), (vec!["t".to_owned()], vec![SessionState::Failed]));
    assert_eq!(image(&ground.target(), true), before);
    assert_eq!(ground.state.sessions().unwrap()[0].code, Some(Code::Aborted));
    assert_eq!(discard(&ground.state, id, Code::Aborted).unwrap_err().code(), Code::SessionUnknown);
    let dir = ground.state.path().join("sessions").join(id.to_string());
    let mut left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["journal.a", "journal.b"], "the manifest is not kept for history");
    let begun = [SessionState::SwapIntent, SessionState::Committed, SessionState::RollbackIntent].map(|s| (s, false));
    // the last: its swap happened, and the record of the intent was lost
    for (state, happened) in begun.into_iter().chain([(SessionState::Verified, true)]) {
        let ground = crashed(true, state, happened, Method::Exchange);
        let names = ground.names();
        assert!(discard(&ground.state, id, Code::Aborted).is_err(), "{state:?}");
        assert_eq!(ground.names(), names);
    }
}

#[test]
fn a_live_session_is_left_alone() {
    let ground = Ground::with_old();
    let staging = ground.staged(1, SMALL);
    assert_eq!(outcomes(&ground, later(1000)), []);
    staging.seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert!(ground.target().join("run").exists());
}

// RELIABILITY F02, F03, F04, F05, F06
#[test]
fn a_crash_at_any_step_of_the_swap_ends_with_the_new_tree() {
    for existed in [false, true] {
        for state in [SessionState::SwapIntent, SessionState::Swapped] {
            for happened in [false, true] {
                let ground = crashed(existed, state, happened, Method::Exchange);
                assert_eq!(
                    outcomes(&ground, SystemTime::now()),
                    [Outcome::Completed],
                    "{existed} {state:?} {happened}"
                );
                assert!(ground.target().join("run").exists());
                assert_eq!(ground.states(), [SessionState::Committed]);
                let retained = ground.names().iter().filter(|n| n.starts_with(".me-sync")).count();
                assert_eq!(retained, usize::from(existed));
                assert_eq!(outcomes(&ground, SystemTime::now()), [], "at rest");
            }
        }
    }
}

// RELIABILITY F14
#[test]
fn a_crash_between_the_two_renames_is_completed_or_undone() {
    for lost in [false, true] {
        let ground = crashed(true, SessionState::SwapIntent, false, Method::TwoRename);
        let before = image(&ground.target(), true);
        let record = journal(&ground).record().clone();
        fs::rename(ground.target(), ground.parent().join(record.aside())).unwrap();
        if lost {
            remove(&ground.parent().join(&record.staging));
        }
        let expected = if lost { Outcome::RolledBack } else { Outcome::Completed };
        let settled = outcomes(&ground, SystemTime::now());
        assert!(settled.contains(&expected) || (lost && settled == [Outcome::Cleaned]), "{settled:?}");
        if lost {
            assert_eq!(image(&ground.target(), true), before);
        } else {
            assert!(ground.target().join("run").exists());
            assert_eq!(image(&ground.parent().join(&record.staging), true), before, "kept where rollback looks");
            rollback(&ground.state, &ground.target()).unwrap();
            assert_eq!(image(&ground.target(), true), before);
        }
    }
}

// RELIABILITY F08
#[test]
fn a_crash_during_a_rollback_ends_with_the_old_tree() {
    for existed in [false, true] {
        for back in [false, true] {
            let ground = crashed(existed, SessionState::RollbackIntent, !back, Method::Exchange);
            assert_eq!(outcomes(&ground, SystemTime::now()), [Outcome::RolledBack]);
            assert_eq!(ground.target().join("old/file").exists(), existed);
            assert!(!ground.target().join("run").exists());
            assert_eq!(outcomes(&ground, SystemTime::now()), []);
        }
    }
}

// RELIABILITY F16
#[test]
fn a_target_replaced_between_crash_and_restart_is_a_conflict_that_names_both_trees() {
    let ground = crashed(true, SessionState::SwapIntent, false, Method::Exchange);
    fs::rename(ground.target(), ground.parent().join("moved")).unwrap();
    fs::create_dir(ground.target()).unwrap();
    let before = image(&ground.parent(), true);
    let settled = recover(&ground.state, later(1000));
    assert_eq!(settled[0].outcome, Outcome::Parked(Code::TargetConflict));
    assert!(settled[0].detail.contains("/p/t") && settled[0].detail.contains(".me-sync-"), "{}", settled[0].detail);
    assert_eq!(image(&ground.parent(), true), before);
}

#[test]
fn a_target_edited_after_the_decision_is_parked_as_changed() {
    let ground = crashed(true, SessionState::SwapIntent, false, Method::Exchange);
    fs::write(ground.target().join("old/file"), "newer bytes").unwrap();
    assert_eq!(outcomes(&ground, SystemTime::now()), [Outcome::Parked(Code::TargetChanged)]);
    assert_eq!(fs::read(ground.target().join("old/file")).unwrap(), b"newer bytes");
}

#[test]
fn a_parent_that_is_not_the_same_directory_is_left_alone() {
    let ground = crashed(true, SessionState::SwapIntent, false, Method::Exchange);
    fs::rename(ground.parent(), ground.tmp.path().join("unmounted")).unwrap();
    assert_eq!(outcomes(&ground, SystemTime::now()), [Outcome::Parked(Code::TargetConflict)]);
    fs::create_dir(ground.parent()).unwrap();
    assert_eq!(outcomes(&ground, SystemTime::now()), [Outcome::Parked(Code::TargetConflict)]);
    fs::remove_dir(ground.parent()).unwrap();
    fs::rename(ground.tmp.path().join("unmounted"), ground.parent()).unwrap();
    assert_eq!(outcomes(&ground, SystemTime::now()), [Outcome::Completed]);
}

#[test]
fn a_target_that_its_owner_took_away_leaves_what_is_kept_alone_and_nothing_is_said_of_it() {
    // the tree that a migration replaced, and the one that a way back replaced
    for back in [false, true] {
        let ground = Ground::with_old();
        ground.migrate(1, SMALL);
        if back {
            rollback(&ground.state, &ground.target()).unwrap();
        }
        let kept = super::super::kept(&ground.state).unwrap().remove(0).path;
        fs::rename(ground.target(), ground.parent().join("moved")).unwrap();
        assert_eq!((outcomes(&ground, SystemTime::now()), outcomes(&ground, later(30))), (vec![], vec![]));
        assert!(kept.is_dir(), "it may be all there is");
        // nor of a disk that is not there
        fs::rename(ground.parent(), ground.tmp.path().join("unmounted")).unwrap();
        assert_eq!(outcomes(&ground, later(30)), []);
        fs::rename(ground.tmp.path().join("unmounted"), ground.parent()).unwrap();
        // back in its place, its time counts again
        fs::rename(ground.parent().join("moved"), ground.target()).unwrap();
        assert_eq!(outcomes(&ground, later(30)), [Outcome::Cleaned]);
        assert!(!kept.exists());
    }
}

// RELIABILITY F15
#[test]
fn a_journal_without_a_whole_copy_touches_nothing() {
    let ground = crashed(true, SessionState::SwapIntent, true, Method::Exchange);
    let id = ground.state.ids().unwrap()[0];
    let dir = ground.state.path().join("sessions").join(id.to_string());
    for name in ["journal.a", "journal.b"] {
        fs::write(dir.join(name), "garbage").unwrap();
    }
    let before = image(&ground.parent(), true);
    assert_eq!(outcomes(&ground, later(1000)), [Outcome::Parked(Code::StateCorrupt)]);
    assert_eq!(image(&ground.parent(), true), before);
    // dead before the first record: nothing was made, nothing stays
    for name in ["journal.a", "journal.b"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    assert_eq!(outcomes(&ground, SystemTime::now()), []);
    assert!(ground.state.ids().unwrap().is_empty());
}

// RELIABILITY F15: whichever copy is damaged, the other leads to one of the two trees
#[test]
fn one_damaged_copy_of_the_journal_still_ends_with_the_old_or_the_new_tree() {
    for name in ["journal.a", "journal.b"] {
        for happened in [false, true] {
            let ground = crashed(true, SessionState::SwapIntent, happened, Method::Exchange);
            let id = ground.state.ids().unwrap()[0];
            let file = ground.state.path().join("sessions").join(id.to_string()).join(name);
            let mut bytes = fs::read(&file).unwrap();
            bytes[20] ^= 1;
            fs::write(&file, bytes).unwrap();
            let settled = outcomes(&ground, SystemTime::now());
            assert!(!matches!(settled[..], [Outcome::Parked(_)]), "{name} {happened} {settled:?}");
            let new = ground.target().join("run").exists();
            let old = ground.target().join("old/file").exists();
            assert!(new != old && (!happened || new), "{name} {happened}");
        }
    }
}

// RELIABILITY I8
#[test]
fn a_retained_tree_goes_after_its_time_and_not_before() {
    let ground = Ground::with_old();
    ground.migrate(1, SMALL);
    assert_eq!(outcomes(&ground, later(6)), []);
    assert_eq!(ground.names().len(), 2);
    assert_eq!(outcomes(&ground, SystemTime::now() + KEEP_OLD + Duration::from_secs(60)), [Outcome::Cleaned]);
    assert_eq!((ground.names(), ground.states()), (vec!["t".to_owned()], vec![SessionState::Cleaned]));
    assert!(ground.target().join("run").exists());
    assert_eq!(rollback(&ground.state, &ground.target()).unwrap_err().code(), Code::RollbackUnavailable);
    recover(&ground.state, later(365));
    assert!(ground.state.ids().unwrap().is_empty(), "history ends too");
}

// RELIABILITY F07
#[test]
fn a_half_deleted_tree_is_finished_and_never_rolled_back_to() {
    let ground = Ground::with_old();
    ground.migrate(1, SMALL);
    let record = journal(&ground).record().clone();
    fs::rename(ground.parent().join(&record.staging), ground.parent().join(record.doomed())).unwrap();
    fs::remove_file(ground.parent().join(record.doomed()).join("old/file")).unwrap();
    assert_eq!(rollback(&ground.state, &ground.target()).unwrap_err().code(), Code::RollbackUnavailable);
    recover(&ground.state, SystemTime::now());
    assert_eq!(ground.names(), ["t"]);
}

// RELIABILITY F17
#[test]
fn look_alikes_without_a_record_are_never_touched() {
    let ground = Ground::with_old();
    let stranger = ground.parent().join(".me-sync-0123456789abcdef");
    fs::create_dir(&stranger).unwrap();
    ground.migrate(1, SMALL);
    recover(&ground.state, later(1000));
    assert!(stranger.exists());
}

#[test]
fn a_crash_right_after_the_staging_directory_was_made_leaves_nothing() {
    let ground = crashed(true, SessionState::Receiving, false, Method::Exchange);
    let mut journal = journal(&ground);
    let staging = ground.parent().join(&journal.record().staging);
    remove(&staging);
    fs::create_dir(&staging).unwrap();
    journal.update(|r| r.new = None).unwrap();
    drop(journal);
    assert_eq!(outcomes(&ground, later(2)), [Outcome::Discarded]);
    assert_eq!(ground.names(), ["t"]);
}

// A thread that dies in the swap is a crash without a restart
#[test]
fn a_panic_in_the_last_moment_is_settled_by_recovery() {
    struct Panics;
    impl ApplyHooks for Panics {
        fn check(&mut self, _: &mut Swapped<'_>) -> Result<(), String> {
            panic!("for the test");
        }
    }
    let ground = Ground::with_old();
    let sealed = ground.staged(1, SMALL).seal(&mut |_| ()).unwrap();
    assert_eq!(on_apply_thread(move || sealed.swap(&mut Panics)).unwrap_err().code(), Code::DurabilityUnknown);
    assert_eq!(outcomes(&ground, SystemTime::now()), [Outcome::Completed]);
    assert!(ground.target().join("run").exists());
}

/// What stands after a check that died in the middle, and after the next start.
fn dies_in_the_check(ground: &Ground) -> Vec<Outcome> {
    struct Dies;
    impl ApplyHooks for Dies {
        fn checks(&self) -> bool {
            true
        }
        fn check(&mut self, swapped: &mut Swapped<'_>) -> Result<(), String> {
            assert!(swapped.target().join("run").exists());
            panic!("for the test");
        }
    }
    let sealed = ground.staged(1, SMALL).seal(&mut |_| ()).unwrap();
    assert_eq!(on_apply_thread(move || sealed.swap(&mut Dies)).unwrap_err().code(), Code::DurabilityUnknown);
    assert!(ground.target().join("run").exists(), "nobody has taken it back yet");
    outcomes(ground, SystemTime::now())
}

// RELIABILITY F78
#[test]
fn a_check_that_dies_in_the_middle_has_failed() {
    let ground = Ground::with_old();
    let before = image(&ground.target(), true);
    assert_eq!(dies_in_the_check(&ground), [Outcome::RolledBack]);
    assert_eq!(image(&ground.target(), true), before);
    let record = ground.state.sessions().unwrap().remove(0);
    assert_eq!((record.state, record.code), (SessionState::RolledBack, Some(Code::HealthFailed)));
    assert_eq!(outcomes(&ground, SystemTime::now()), [], "and that is all");
    assert_eq!(image(&ground.target(), true), before);

    let ground = Ground::new();
    assert_eq!(dies_in_the_check(&ground), [Outcome::RolledBack]);
    assert!(!ground.target().exists(), "there was none before");
}

#[test]
fn a_swap_that_waits_for_its_check_and_did_not_happen_can_be_gone_on_with() {
    let ground = crashed(true, SessionState::SwapIntent, false, Method::Exchange);
    journal(&ground).update(|r| r.unproven = Some(Unproven::default())).unwrap();
    let before = image(&ground.target(), true);
    assert_eq!(outcomes(&ground, SystemTime::now()), []);
    assert_eq!((image(&ground.target(), true), ground.states()), (before, vec![SessionState::Verified]));
    assert_eq!(ground.names().len(), 2, "what is staged stays");
}

//! Every cell of RELIABILITY 4.4, and that repeated application comes to rest without losing the old tree.

use proptest::prelude::*;

use super::super::journal::Unproven;
use super::super::journal::tests::sample;
use super::super::seen::LastSeen;
use super::*;
use Place::{Absent, New, Old, Other};

const HOUR: u64 = 3_600_000;

fn ttl_ms() -> u64 {
    me_sync_protocol::limits::SESSION_TTL.as_millis() as u64
}

/// As of this wall time; the sample record has no other clock.
fn decide(record: &Record, seen: Seen, wall_ms: u64) -> Action {
    let now = LastSeen { wall_ms, ..LastSeen { wall_ms: 0, boot_id: [0; 16], boot_ms: 0 } };
    super::decide(record, seen, When { wall_ms, expired: record.is_expired(None, &now) })
}

fn record(state: SessionState) -> Record {
    Record { state, tries: 1, keep_until_ms: 10 * HOUR, ..sample() }
}

fn fresh(state: SessionState) -> Record {
    Record { old: None, ..record(state) }
}

fn two(state: SessionState) -> Record {
    Record { method: Method::TwoRename, ..record(state) }
}

fn at(record: &Record, target: Place, staging: Place, aside: Place) -> Action {
    decide(record, Seen { target, staging, aside, edited: false }, record.updated_ms)
}

#[test]
fn receiving_is_resumed_in_time_and_discarded_after_it() {
    for state in [SessionState::Receiving, SessionState::Verified] {
        let r = record(state);
        assert_eq!(at(&r, Old, New, Absent), Action::Resume);
        assert_eq!(at(&fresh(state), Absent, New, Absent), Action::Resume);
        let seen = Seen { target: Old, staging: New, aside: Absent, edited: false };
        assert_eq!(decide(&r, seen, r.updated_ms + ttl_ms()), Action::Resume);
        assert_eq!(decide(&r, seen, r.updated_ms + ttl_ms() + 1), Action::DiscardStaging);
        // RELIABILITY F68: a clock that went back ends nothing
        assert_eq!(decide(&r, seen, 0), Action::Resume);
        assert_eq!(at(&r, Old, Absent, Absent), Action::StartOver);
        assert_eq!(at(&r, Other, New, Absent), Action::Park(Parked::Conflict));
        assert_eq!(at(&r, Old, Other, Absent), Action::Park(Parked::Conflict));
    }
}

#[test]
fn a_swap_whose_intent_was_lost_from_the_journal_is_recognised() {
    assert_eq!(at(&record(SessionState::Verified), New, Old, Absent), Action::FinishSwap);
    assert_eq!(at(&fresh(SessionState::Verified), New, Absent, Absent), Action::FinishSwap);
    assert_eq!(at(&record(SessionState::Receiving), New, Old, Absent), Action::Park(Parked::Conflict));
}

#[test]
fn an_intent_that_did_not_happen_is_done_unless_it_is_stale() {
    let r = record(SessionState::SwapIntent);
    let seen = Seen { target: Old, staging: New, aside: Absent, edited: false };
    assert_eq!(decide(&r, seen, r.updated_ms), Action::Swap);
    assert_eq!(decide(&r, Seen { edited: true, ..seen }, r.updated_ms), Action::Park(Parked::Changed));
    assert_eq!(decide(&r, seen, r.updated_ms + ttl_ms() + 1), Action::Park(Parked::Changed));
    let tired = Record { tries: SWAP_TRIES, ..r.clone() };
    assert_eq!(decide(&tired, seen, r.updated_ms), Action::Park(Parked::Changed));
    assert_eq!(at(&r, Old, Absent, Absent), Action::StartOver);
}

// RELIABILITY F67
#[test]
fn a_session_may_last_long_only_once_its_swap_is_decided() {
    let week = 7 * 24 * HOUR;
    let seen = Seen { target: Old, staging: New, aside: Absent, edited: false };
    for (state, in_time) in [(SessionState::Receiving, Action::Resume), (SessionState::SwapIntent, Action::Swap)] {
        let r = Record { updated_ms: 8 * week, created_ms: 7 * week, ..record(state) };
        assert_eq!(decide(&r, seen, r.updated_ms), in_time);
        let over = if state == SessionState::Receiving { Action::DiscardStaging } else { Action::Swap };
        assert_eq!(decide(&r, seen, r.updated_ms + 1), over);
    }
}

// RELIABILITY F04: a naive redo would swap the old tree back in
#[test]
fn an_exchange_that_happened_is_never_repeated() {
    for state in [SessionState::SwapIntent, SessionState::Swapped] {
        for edited in [false, true] {
            for tries in 0..=SWAP_TRIES {
                let r = Record { tries, ..record(state) };
                for staging in [Old, Absent] {
                    let action = decide(&r, Seen { target: New, staging, aside: Absent, edited }, u64::MAX);
                    let expected = if state == SessionState::SwapIntent { Action::FinishSwap } else { Action::Commit };
                    assert_eq!(action, expected);
                }
            }
        }
    }
}

// RELIABILITY F78
#[test]
fn a_swap_whose_check_is_not_through_is_taken_back_and_one_that_did_not_happen_waits_for_it() {
    for r in [record, fresh, two] {
        let r = |state| Record { unproven: Some(Unproven::default()), ..r(state) };
        let (there, kept) = match r(SessionState::Swapped).old {
            Some(_) => (Old, Old),
            None => (Absent, Absent),
        };
        assert_eq!(at(&r(SessionState::SwapIntent), New, kept, Absent), Action::FinishSwap);
        assert_eq!(at(&r(SessionState::Swapped), New, kept, Absent), Action::TakeBack);
        for state in [SessionState::SwapIntent, SessionState::Swapped] {
            assert_eq!(at(&r(state), there, New, Absent), Action::Undecide, "{state:?}");
        }
        assert_eq!(at(&r(SessionState::Verified), there, New, Absent), Action::Resume);
        assert_ne!(at(&r(SessionState::Committed), New, kept, Absent), Action::TakeBack);
    }
}

#[test]
fn two_renames_are_completed_or_undone() {
    let r = two(SessionState::SwapIntent);
    assert_eq!(at(&r, Absent, New, Old), Action::StagingToTarget);
    assert_eq!(at(&r, Absent, Absent, Old), Action::AsideToTarget);
    assert_eq!(at(&r, New, Absent, Old), Action::AsideToStaging);
    // with an exchange nothing can be absent: somebody else was here
    let exchange = record(SessionState::SwapIntent);
    assert_eq!(at(&exchange, Absent, New, Old), Action::Park(Parked::Conflict));
    assert_eq!(at(&exchange, Absent, New, Absent), Action::Park(Parked::Conflict));
    assert_eq!(at(&exchange, Absent, Absent, Old), Action::Park(Parked::Conflict));
}

#[test]
fn without_a_target_before_the_new_tree_is_there_or_goes_there() {
    let r = fresh(SessionState::SwapIntent);
    assert_eq!(at(&r, New, Absent, Absent), Action::FinishSwap);
    assert_eq!(at(&r, Absent, New, Absent), Action::Swap);
    assert_eq!(at(&r, Absent, Absent, Absent), Action::StartOver);
    assert_eq!(at(&r, Other, New, Absent), Action::Park(Parked::Conflict));
}

#[test]
fn a_disk_that_lied_about_the_flush_is_treated_as_an_intent() {
    assert_eq!(at(&record(SessionState::Swapped), Old, New, Absent), Action::Swap);
    assert_eq!(at(&fresh(SessionState::Swapped), Absent, New, Absent), Action::Swap);
    assert_eq!(at(&two(SessionState::Swapped), Absent, New, Old), Action::StagingToTarget);
}

#[test]
fn a_rollback_goes_to_its_end_and_never_back() {
    let r = record(SessionState::RollbackIntent);
    assert_eq!(at(&r, New, Old, Absent), Action::SwapBack);
    assert_eq!(at(&r, Old, New, Absent), Action::FinishRollback);
    assert_eq!(at(&r, New, Absent, Absent), Action::KeepNew);
    let r = fresh(SessionState::RollbackIntent);
    assert_eq!(at(&r, New, Absent, Absent), Action::SwapBack);
    assert_eq!(at(&r, Absent, New, Absent), Action::FinishRollback);
    let r = two(SessionState::RollbackIntent);
    assert_eq!(at(&r, Absent, Old, New), Action::StagingToTarget);
    assert_eq!(at(&r, Absent, Absent, New), Action::AsideToTarget);
    assert_eq!(at(&r, Old, Absent, New), Action::AsideToStaging);
}

#[test]
fn a_retained_tree_stays_for_its_time_and_a_later_migration_does_not_change_that() {
    let r = record(SessionState::Committed);
    for target in [New, Other] {
        let seen = Seen { target, staging: Old, aside: Absent, edited: false };
        assert_eq!(decide(&r, seen, r.keep_until_ms - 1), Action::Retain);
        assert_eq!(decide(&r, seen, r.keep_until_ms), Action::DeleteRetained);
    }
    assert_eq!(at(&r, New, Absent, Absent), Action::Close);
    assert_eq!(at(&fresh(SessionState::Committed), New, Absent, Absent), Action::Retain);
    let undone = record(SessionState::RolledBack);
    let seen = Seen { target: Old, staging: New, aside: Absent, edited: false };
    assert_eq!(decide(&undone, seen, r.keep_until_ms - 1), Action::Retain);
    assert_eq!(decide(&undone, seen, r.keep_until_ms), Action::DeleteRetained);
}

#[test]
fn the_only_copy_of_the_old_tree_is_never_deleted() {
    // the target is gone: what is retained may be all there is
    let r = record(SessionState::Committed);
    let seen = Seen { target: Absent, staging: Old, aside: Absent, edited: false };
    assert_eq!(decide(&r, seen, u64::MAX), Action::Retain);
    let r = record(SessionState::RolledBack);
    let seen = Seen { target: Absent, staging: New, aside: Absent, edited: false };
    assert_eq!(decide(&r, seen, u64::MAX), Action::Retain);
    // there was no target before that migration either
    assert_eq!(decide(&fresh(SessionState::RolledBack), seen, u64::MAX), Action::DeleteRetained);
}

#[test]
fn a_target_that_is_neither_tree_is_left_alone_in_every_open_state() {
    for state in [
        SessionState::Receiving,
        SessionState::Verified,
        SessionState::SwapIntent,
        SessionState::Swapped,
        SessionState::RollbackIntent,
    ] {
        for staging in [Old, New, Other] {
            for r in [record(state), two(state), fresh(state)] {
                assert_eq!(at(&r, Other, staging, Absent), Action::Park(Parked::Conflict), "{state:?} {staging:?}");
            }
        }
    }
}

#[test]
fn history_is_kept_and_then_forgotten() {
    for state in [SessionState::Cleaned, SessionState::Failed] {
        let r = record(state);
        let seen = Seen { target: Other, staging: Absent, aside: Absent, edited: false };
        assert_eq!(decide(&r, seen, r.updated_ms + HISTORY_MS), Action::Remember);
        assert_eq!(decide(&r, seen, r.updated_ms + HISTORY_MS + 1), Action::Forget);
    }
    assert_eq!(at(&record(SessionState::Failed), Old, New, Absent), Action::DiscardStaging);
}

/// The disk as recovery sees it, with the driver's steps as plain assignments.
#[derive(Debug, Clone)]
struct Model {
    record: Record,
    seen: Seen,
    now: u64,
}

impl Model {
    /// Does one step; false: at rest.
    fn step(&mut self) -> bool {
        let (r, s) = (&mut self.record, &mut self.seen);
        let action = decide(r, *s, self.now);
        let to = |r: &mut Record, state| {
            r.state = state;
            r.updated_ms = self.now;
        };
        match action {
            Action::Resume | Action::StartOver => to(r, SessionState::Failed),
            Action::DiscardStaging => {
                assert_eq!(s.staging, New, "only a staging tree is discarded");
                s.staging = Absent;
                to(r, SessionState::Failed);
            }
            Action::Swap => {
                r.tries += 1;
                to(r, SessionState::SwapIntent);
                (s.target, s.staging) = (s.staging, s.target);
            }
            Action::FinishSwap => {
                r.keep_until_ms = self.now + r.keep_old_ms;
                to(r, SessionState::Swapped);
            }
            Action::StagingToTarget => s.target = std::mem::replace(&mut s.staging, Absent),
            Action::AsideToTarget => {
                s.target = std::mem::replace(&mut s.aside, Absent);
                let state = if r.state == SessionState::RollbackIntent {
                    SessionState::Committed
                } else {
                    SessionState::RolledBack
                };
                to(r, state);
            }
            Action::TakeBack => to(r, SessionState::RollbackIntent),
            Action::Undecide => to(r, SessionState::Verified),
            Action::AsideToStaging => s.staging = std::mem::replace(&mut s.aside, Absent),
            Action::Commit | Action::KeepNew => to(r, SessionState::Committed),
            Action::SwapBack => (s.target, s.staging) = (s.staging, s.target),
            Action::FinishRollback => {
                r.keep_until_ms = self.now + r.keep_old_ms;
                to(r, SessionState::RolledBack);
            }
            Action::DeleteRetained => {
                assert!(self.now >= r.keep_until_ms, "not before its time");
                assert!(s.target != Absent || r.old.is_none(), "never the only tree");
                s.staging = Absent;
            }
            Action::Close => to(r, SessionState::Cleaned),
            Action::Retain | Action::Remember | Action::Forget | Action::Park(_) => return false,
        }
        true
    }
}

fn state() -> impl Strategy<Value = SessionState> {
    prop::sample::select(vec![
        SessionState::Receiving,
        SessionState::Verified,
        SessionState::SwapIntent,
        SessionState::Swapped,
        SessionState::Committed,
        SessionState::RollbackIntent,
        SessionState::RolledBack,
        SessionState::Cleaned,
        SessionState::Failed,
    ])
}

/// Sights in which each tree stands at one name at most, as on a disk.
fn sight() -> impl Strategy<Value = Seen> {
    let place = || prop::sample::select(vec![Absent, Old, New, Other]);
    (place(), place(), place(), any::<bool>())
        .prop_filter("an inode has one place", |(t, s, o, _)| {
            [Old, New].iter().all(|p| [t, s, o].iter().filter(|q| **q == p).count() <= 1)
        })
        .prop_map(|(target, staging, aside, edited)| Seen { target, staging, aside, edited })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    // RELIABILITY F09
    #[test]
    fn repeated_application_comes_to_rest_and_loses_nothing(
        state in state(), seen in sight(), two in any::<bool>(), fresh in any::<bool>(),
        tries in 0..5_u32, hours in 0..2000_u64, unproven in any::<bool>(),
    ) {
        let mut seen = seen;
        if fresh {
            for place in [&mut seen.target, &mut seen.staging, &mut seen.aside] {
                if *place == Old { *place = Other }
            }
        }
        let method = if two { Method::TwoRename } else { Method::Exchange };
        let old = if fresh { None } else { sample().old };
        let unproven = unproven.then(Unproven::default);
        let record = Record { state, method, old, tries, unproven, keep_until_ms: 100 * HOUR, ..sample() };
        let before = seen;
        let mut model = Model { now: record.updated_ms + hours * HOUR, record, seen };
        let had_target = seen.target != Absent;
        let mut steps = 0;
        while model.step() {
            steps += 1;
            prop_assert!(steps < 12, "does not come to rest: {model:?}");
            prop_assert!(!had_target || model.seen.target != Absent || (fresh && model.record.state == SessionState::RollbackIntent)
                || model.record.state == SessionState::RolledBack, "the target vanished: {model:?}");
            for place in [before.target, before.staging, before.aside] {
                if place == Other {
                    prop_assert!([model.seen.target, model.seen.staging, model.seen.aside].contains(&Other));
                }
            }
        }
        // whatever is at rest stays at rest
        let rest = model.clone();
        prop_assert!(!model.step());
        prop_assert_eq!(rest.seen, model.seen);
    }
}

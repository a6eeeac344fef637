//! The recovery table (RELIABILITY 4.4) as a pure function: what the journal says and what stands at the
//! names decide the next step. One step at a time; the driver looks again after each.

use super::journal::{Method, Record, SessionState};
use super::{HISTORY_MS, SWAP_TRIES};

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Absent,
    /// The inode that was the target when the session began.
    Old,
    /// The inode of the staging tree.
    New,
    /// Anything else.
    Other,
}

/// What stands at the target's name, the staging name and the name beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) target: Place,
    pub(crate) staging: Place,
    pub(crate) aside: Place,
    /// The target's tree is not what it was when the swap was decided.
    pub(crate) edited: bool,
}

/// Why a session is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Parked {
    /// The target was edited, or too late, or too many tries: both trees are kept.
    Changed,
    /// Something stands there that is not ours to touch.
    Conflict,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// The staging tree can still be filled.
    Resume,
    /// The staging tree is gone, the target is what it was: everything is pending again.
    StartOver,
    /// Delete the staging tree.
    DiscardStaging,
    /// Flush, then do the swap that was decided (steps 7-10).
    Swap,
    /// The swap happened: flush the parent, record SWAPPED.
    FinishSwap,
    /// Between two renames: bring the staging tree to the target's name.
    StagingToTarget,
    /// Between two renames without a tree to bring in: bring back the one that stands aside.
    AsideToTarget,
    /// Two renames are done: bring the tree that stands aside to the staging name.
    AsideToStaging,
    /// The swap happened, and nobody knows whether the check after it would have: decide the way back.
    TakeBack,
    /// The swap did not happen, and only whoever has the check may do it: back to VERIFIED.
    Undecide,
    /// Record COMMITTED.
    Commit,
    /// Do the rollback that was decided.
    SwapBack,
    /// The rollback happened: flush the parent, record ROLLED_BACK.
    FinishRollback,
    /// The old tree is gone, so the new one stays: record COMMITTED.
    KeepNew,
    /// The retained tree's time is not over.
    Retain,
    /// Delete the retained tree.
    DeleteRetained,
    /// Nothing is left to delete: record CLEANED.
    Close,
    /// Keep the record as history.
    Remember,
    /// Remove the record.
    Forget,
    /// Touch nothing.
    Park(Parked),
}

/// What the clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct When {
    /// Milliseconds since 1970.
    pub(crate) wall_ms: u64,
    /// The session's time is over.
    pub(crate) expired: bool,
}

/// Decides the next step of a session. Total: every state and sight has an answer.
pub(crate) fn decide(record: &Record, seen: Seen, when: When) -> Action {
    let When { wall_ms: now_ms, expired } = when;
    // a clock that went back makes nothing old
    let age = now_ms.saturating_sub(record.updated_ms);
    match record.state {
        SessionState::Receiving | SessionState::Verified => receiving(record, seen, expired),
        SessionState::SwapIntent => swap_intent(record, seen, expired),
        SessionState::Swapped => swapped(record, seen, expired),
        SessionState::Committed => committed(record, seen, now_ms),
        SessionState::RollbackIntent => rollback_intent(record, seen),
        SessionState::RolledBack => rolled_back(record, seen, now_ms),
        SessionState::Failed if seen.staging == Place::New => Action::DiscardStaging,
        SessionState::Cleaned | SessionState::Failed if age > HISTORY_MS => Action::Forget,
        SessionState::Cleaned | SessionState::Failed => Action::Remember,
    }
}

fn receiving(record: &Record, seen: Seen, expired: bool) -> Action {
    use Place::{Absent, New, Old, Other};
    match (seen.target, seen.staging, seen.aside) {
        // the intent's copy of the journal was lost after the swap; what is there was verified and flushed before
        (New, Old, Absent) if record.state == SessionState::Verified => Action::FinishSwap,
        (New, Absent, Absent) if record.state == SessionState::Verified && record.old.is_none() => Action::FinishSwap,
        (Old | Absent | Other, New, Absent) if expired => Action::DiscardStaging,
        (Old | Absent, New, Absent) => Action::Resume,
        (Old | Absent | Other, Absent, Absent) => Action::StartOver,
        _ => Action::Park(Parked::Conflict),
    }
}

fn swap_intent(record: &Record, seen: Seen, expired: bool) -> Action {
    use Place::{Absent, New, Old};
    let fresh = record.old.is_none();
    let two = record.method == Method::TwoRename;
    match (seen.target, seen.staging, seen.aside) {
        (New, Old | Absent, Absent) => Action::FinishSwap,
        (New, Absent, Old) if two => Action::AsideToStaging,
        (Old, New, Absent) if record.unproven.is_some() => Action::Undecide,
        (Absent, New, Absent) if fresh && record.unproven.is_some() => Action::Undecide,
        (Old, New, Absent) => swap_unless_stale(record, seen, expired),
        (Absent, New, Absent) if fresh => swap_unless_stale(record, seen, expired),
        (Old, Absent, Absent) => Action::StartOver,
        (Absent, Absent, Absent) if fresh => Action::StartOver,
        (Absent, New, Old) if two => Action::StagingToTarget,
        (Absent, Absent, Old) if two => Action::AsideToTarget,
        _ => Action::Park(Parked::Conflict),
    }
}

fn swap_unless_stale(record: &Record, seen: Seen, expired: bool) -> Action {
    if expired || seen.edited || record.tries >= SWAP_TRIES { Action::Park(Parked::Changed) } else { Action::Swap }
}

fn swapped(record: &Record, seen: Seen, expired: bool) -> Action {
    use Place::{Absent, New, Old};
    match (seen.target, seen.staging, seen.aside) {
        (New, Old | Absent, Absent) if record.unproven.is_some() => Action::TakeBack,
        // the check has taken the new tree away
        (Absent, Old, Absent) if record.unproven.is_some() => Action::TakeBack,
        (New, Old | Absent, Absent) => Action::Commit,
        // the disk lied about the flush of the parent; what the table says for SWAP_INTENT holds
        _ => swap_intent(record, seen, expired),
    }
}

fn committed(record: &Record, seen: Seen, now_ms: u64) -> Action {
    use Place::{Absent, New, Old, Other};
    let over = now_ms >= record.keep_until_ms;
    match (seen.target, seen.staging, seen.aside) {
        (New, Absent, Old) if record.method == Method::TwoRename => Action::AsideToStaging,
        // Other: a later migration, or its owner, has replaced the new tree; ours is still the retained one
        (New | Other, Old, Absent) if over => Action::DeleteRetained,
        // Absent: its owner, or the way back of an earlier migration, has taken the new tree away; what is retained may
        // be all there is, so no time takes it
        (New | Other | Absent, Old, Absent) => Action::Retain,
        // without an old tree the way back is to move the new one away
        (New, Absent, Absent) if record.old.is_none() && !over => Action::Retain,
        (New | Other, Absent, Absent) => Action::Close,
        // the new tree is gone from its place and nothing of ours is left
        (Absent, Absent, Absent) => Action::Close,
        _ => Action::Park(Parked::Conflict),
    }
}

fn rollback_intent(record: &Record, seen: Seen) -> Action {
    use Place::{Absent, New, Old};
    let fresh = record.old.is_none();
    let two = record.method == Method::TwoRename;
    match (seen.target, seen.staging, seen.aside) {
        (New, Old, Absent) => Action::SwapBack,
        (New, Absent, Absent) if fresh => Action::SwapBack,
        (New, Absent, Absent) => Action::KeepNew,
        // the new tree was gone before
        (Absent, Old, Absent) => Action::StagingToTarget,
        (Old, New | Absent, Absent) => Action::FinishRollback,
        (Absent, New | Absent, Absent) if fresh => Action::FinishRollback,
        (Absent, Old, New) if two => Action::StagingToTarget,
        (Absent, Absent, New) if two => Action::AsideToTarget,
        (Old, Absent, New) if two => Action::AsideToStaging,
        _ => Action::Park(Parked::Conflict),
    }
}

fn rolled_back(record: &Record, seen: Seen, now_ms: u64) -> Action {
    use Place::{Absent, New, Old};
    match (seen.target, seen.staging, seen.aside) {
        (Old, Absent, New) if record.method == Method::TwoRename => Action::AsideToStaging,
        // the old tree is gone from its place, by its owner or by the way back of an earlier migration
        (Absent, New, Absent) if record.old.is_some() => Action::Retain,
        (_, New, Absent) if now_ms >= record.keep_until_ms => Action::DeleteRetained,
        (_, New, Absent) => Action::Retain,
        (_, Absent, Absent) => Action::Close,
        _ => Action::Park(Parked::Conflict),
    }
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;

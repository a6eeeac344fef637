//! What stands because of migrations: the tree at the target, and the ones that are kept for a rollback.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use me_sync_protocol::ids::SessionId;

use super::beneath::open_child;
use super::error::StateError;
use super::journal::{Record, SessionState};
use super::names;
use super::state::StateDir;
use super::survey::{OldTree, survey};
use super::table::Place;
use super::target::open_resolved;

/// A tree that is kept beside a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The migration that replaced it, or that was undone.
    pub session: SessionId,
    /// The directory it was at.
    pub target: PathBuf,
    /// Where it is.
    pub path: PathBuf,
    /// Milliseconds since 1970 until which it stays.
    pub keep_until_ms: u64,
    /// A rollback put it there: it is the tree that came.
    pub is_undone: bool,
    /// How much it is. Blocks that it shares with other trees count.
    pub tree: OldTree,
}

/// The trees that are kept, the oldest first. Those whose disk is not there are left out. Blocking, as long as walking
/// through them takes.
///
/// # Errors
/// The records cannot be read.
pub fn kept(state: &StateDir) -> Result<Vec<Kept>, StateError> {
    let mut records = state.records()?;
    records.sort_by_key(|record| (record.created_ms, record.session));
    Ok(records.iter().filter_map(look).collect())
}

fn look(record: &Record) -> Option<Kept> {
    let is_undone = record.state == SessionState::RolledBack;
    let expected = match record.state {
        SessionState::Swapped | SessionState::Committed => Place::Old,
        SessionState::RolledBack => Place::New,
        _ => return None,
    };
    let parent = open_resolved(&record.parent_path()).ok()?;
    if names::look(parent.as_fd(), record).ok()?.staging != expected {
        return None;
    }
    let root = open_child(&parent, record.staging.as_str()).ok()?;
    let tree = survey(root.as_fd()).map(|found| found.tree).unwrap_or_default();
    Some(Kept {
        session: record.session,
        target: record.target_path(),
        path: record.staging_path(),
        keep_until_ms: record.keep_until_ms,
        is_undone,
        tree,
    })
}

/// Is what stands at the target the directory that this session put there? Whether somebody has changed something in
/// it since is not looked at. Blocking.
///
/// # Errors
/// The records cannot be read.
pub fn stands(state: &StateDir, session: SessionId) -> Result<bool, StateError> {
    let records = state.records()?;
    // what is cleaned was applied once, and its directory may stand there still
    let complete = [SessionState::Swapped, SessionState::Committed, SessionState::Cleaned];
    let applied = records.iter().find(|record| record.session == session && complete.contains(&record.state));
    let seen = applied.and_then(|record| {
        let parent = open_resolved(&record.parent_path()).ok()?;
        names::look(parent.as_fd(), record).ok()
    });
    Ok(seen.is_some_and(|seen| seen.target == Place::New))
}

#[cfg(test)]
mod tests {
    use me_sync_protocol::reason::Code;

    use super::super::testing::{Place as Case, SMALL};
    use super::super::{forget, rollback};
    use super::*;

    #[test]
    fn a_kept_tree_is_listed_until_it_is_forgotten_and_then_nothing_can_be_rolled_back() {
        let case = Case::new();
        case.migrate(1, SMALL);
        assert_eq!(kept(&case.state).unwrap(), [], "nothing was replaced");
        case.migrate(2, SMALL);
        let listed = kept(&case.state).unwrap();
        let [one] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!((one.session, one.is_undone), (SessionId([2; 16]), false));
        assert!(one.path.is_dir() && one.tree.files > 0 && one.tree.complete);
        let standing = |session: u8| stands(&case.state, SessionId([session; 16])).unwrap();
        assert_eq!((standing(1), standing(2)), (false, true));

        forget(&case.state, one.session).unwrap();
        assert!(!one.path.exists() && kept(&case.state).unwrap().is_empty());
        assert!(standing(2), "the target stays");
        let undone = rollback(&case.state, &one.target).map_err(|err| err.code());
        assert_eq!(undone, Err(Code::RollbackUnavailable));
        // again, there is nothing
        assert!(forget(&case.state, one.session).is_err());
    }

    #[test]
    fn a_tree_that_was_undone_is_kept_and_can_be_forgotten() {
        let case = Case::new();
        case.migrate(1, SMALL);
        case.migrate(2, SMALL);
        let target = kept(&case.state).unwrap().remove(0).target;
        rollback(&case.state, &target).unwrap();
        let undone = kept(&case.state).unwrap().remove(0);
        assert!(undone.is_undone && !stands(&case.state, undone.session).unwrap());
        forget(&case.state, undone.session).unwrap();
        assert!(!undone.path.exists() && target.is_dir());
    }
}

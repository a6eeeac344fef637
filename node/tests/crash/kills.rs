//! `kill -9` at every system call of apply, and of the recovery after it (RELIABILITY F01-F09, F14).

use crate::site::{Site, Tree};
use crate::strace::{can_run, kill_at};

const FILES: usize = 20;
/// No thread under test comes near this many calls of one kind.
const MOST: u32 = 2000;

#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    /// Killed with the old tree at the target, and the restart completed the swap.
    old_then_new: u32,
    old_then_old: u32,
    new_then_new: u32,
}

impl Tally {
    fn add(&mut self, before: Tree, after: Tree, when: &str) {
        self.kills += 1;
        match (before, after) {
            (Tree::Old, Tree::New) => self.old_then_new += 1,
            (Tree::Old, Tree::Old) => self.old_then_old += 1,
            (Tree::New, Tree::New) => self.new_then_new += 1,
            (Tree::New, Tree::Old) => panic!("{when}: the restart took back a swap that had happened"),
        }
    }
}

/// Kills at the Nth `call` after `point` for N = 1, 2, ... until a run lives.
fn sweep(point: &str, call: &str, standing: bool, tally: &mut Tally) {
    for n in 1..MOST {
        let when = format!("killed at {call} {n} of {point}, standing {standing}");
        let site = Site::new(FILES, standing, None);
        let end = site.migrate_traced_from(point, &kill_at(call, n), None);
        if !end.was_killed() {
            assert!(end.status.success(), "{when}: {} {}", end.stdout, end.stderr);
            assert_eq!(site.standing(&when), Tree::New, "{when}");
            return;
        }
        let before = site.standing(&when);
        tally.add(before, site.recovers(&when), &when);
    }
    panic!("no run of {point} outlived {call}");
}

/// As [`sweep`] with the importer traced from its start, all threads, each counting for itself.
fn sweep_whole(call: &str, standing: bool, tally: &mut Tally) {
    for n in 1..MOST {
        let when = format!("killed at {call} {n} of the whole run, standing {standing}");
        let site = Site::new(FILES, standing, None);
        let end = site.migrate(Some(&kill_at(call, n)));
        if !end.was_killed() {
            assert!(end.status.success(), "{when}: {} {}", end.stdout, end.stderr);
            return;
        }
        let before = site.standing(&when);
        tally.add(before, site.recovers(&when), &when);
    }
    panic!("no run outlived {call}");
}

#[expect(clippy::print_stderr, reason = "the numbers are what the run was for")]
fn tell(what: &str, tally: &Tally) {
    eprintln!("{what}: {tally:?}");
}

fn the_swap(standing: bool) {
    if !can_run() {
        return;
    }
    let mut tally = Tally::default();
    for (point, calls) in [
        ("swap", &["renameat2", "renameat", "fsync", "write", "unlinkat"][..]),
        ("seal", &["syncfs", "renameat", "fsync"][..]),
    ] {
        calls.iter().for_each(|call| sweep(point, call, standing, &mut tally));
    }
    tell("swap", &tally);
    assert!(tally.old_then_new > 0, "no kill came between the intent and the swap: {tally:?}");
    assert!(tally.old_then_old > 0 && tally.new_then_new > 0, "{tally:?}");
}

#[test]
fn a_kill_at_any_step_of_a_replacement_leaves_the_old_or_the_new_tree() {
    the_swap(true);
}

#[test]
fn a_kill_at_any_step_of_a_creation_leaves_nothing_or_the_new_tree() {
    the_swap(false);
}

// RELIABILITY F62
#[test]
fn a_kill_while_the_staging_tree_is_made_leaves_a_session_that_can_go_on_or_none() {
    if !can_run() {
        return;
    }
    let mut tally = Tally::default();
    ["mkdirat", "symlinkat"].iter().for_each(|call| sweep_whole(call, true, &mut tally));
    tell("making the staging tree", &tally);
    assert!(tally.old_then_old > 5, "{tally:?}");
}

/// Killed at `swap`'s Nth `call`, recovery is itself killed at each of its calls.
fn recovery_killed(crash: (&str, u32), calls: &[&str], standing: bool, tally: &mut Tally) {
    for call in calls {
        for n in 1..MOST {
            let when = format!("killed at {crash:?}, then recovery at {call} {n}, standing {standing}");
            let site = Site::new(FILES, standing, None);
            assert!(site.migrate_traced_from("swap", &kill_at(crash.0, crash.1), None).was_killed(), "{when}");
            let end = site.restart(Some(&kill_at(call, n)));
            if !end.was_killed() {
                assert!(end.status.success(), "{when}: {}", end.stderr);
                break;
            }
            let before = site.standing(&when);
            tally.add(before, site.recovers(&when), &when);
        }
    }
}

// RELIABILITY F09
#[test]
fn recovery_killed_at_any_of_its_own_steps_still_comes_to_the_same_end() {
    if !can_run() {
        return;
    }
    let mut tally = Tally::default();
    // before the exchange, and after it but before its flush
    recovery_killed(("renameat2", 1), &["renameat2", "syncfs", "fsync"], true, &mut tally);
    recovery_killed(("fsync", 3), &["fsync"], true, &mut tally);
    tell("recovery", &tally);
    assert!(tally.old_then_new > 0 && tally.new_then_new > 0 && tally.old_then_old == 0, "{tally:?}");
}

// RELIABILITY F14
#[test]
fn between_two_renames_the_target_is_missing_only_until_the_restart() {
    if !can_run() {
        return;
    }
    let mut missing = 0;
    for n in 1..MOST {
        let when = format!("two renames, killed at renameat {n}");
        let site = Site::new(FILES, true, None);
        let mut injections = kill_at("renameat", n);
        injections.push("renameat2:error=EINVAL".to_owned());
        let end = site.migrate_traced_from("swap", &injections, None);
        if !end.was_killed() {
            assert!(end.status.success(), "{when}: {} {}", end.stdout, end.stderr);
            assert!(end.stdout.contains("absent for a moment"), "nobody was told: {}", end.stdout);
            site.recovers(&when);
            assert!(missing > 0, "no kill came between the two renames");
            return;
        }
        if site.target().exists() {
            site.standing(&when);
        } else {
            missing += 1;
        }
        site.recovers(&when);
    }
    panic!("no run outlived renameat");
}

#[test]
fn a_file_system_without_exchange_is_known_before_the_data_moves() {
    if !can_run() {
        return;
    }
    let site = Site::new(FILES, true, None);
    let end = site.migrate(Some(&["renameat2:error=EINVAL".to_owned()]));
    assert!(end.status.success(), "{} {}", end.stdout, end.stderr);
    assert!(end.stdout.contains("no atomic exchange"), "nobody was warned: {}", end.stdout);
    site.recovers("two renames throughout");
}

/// Every call of the importer that changes a disk, at every N; minutes.
#[test]
#[ignore = "takes many minutes: run it after changes to staging"]
fn exhaustive_kills_of_the_whole_importer_and_of_recovery() {
    if !can_run() {
        return;
    }
    let calls = [
        "syncfs",
        "fsync",
        "renameat",
        "renameat2",
        "unlinkat",
        "symlinkat",
        "mkdirat",
        "openat2",
        "fchmod",
        "utimensat",
        "write",
        "openat",
    ];
    for standing in [true, false] {
        for call in calls {
            let mut tally = Tally::default();
            sweep("seal", call, standing, &mut tally);
            sweep("swap", call, standing, &mut tally);
            tell(&format!("apply at every {call}, standing {standing}"), &tally);
        }
        let mut tally = Tally::default();
        let steps = ["renameat2", "syncfs", "fsync", "unlinkat", "renameat", "write"];
        recovery_killed(("renameat2", 1), &steps, standing, &mut tally);
        recovery_killed(("fsync", 3), &steps, standing, &mut tally);
        recovery_killed(("fsync", 1), &steps, standing, &mut tally);
        tell(&format!("recovery, standing {standing}"), &tally);
        for call in ["syncfs", "fsync", "renameat", "renameat2", "unlinkat", "mkdirat", "symlinkat", "fchmod", "write"]
        {
            let mut tally = Tally::default();
            sweep_whole(call, standing, &mut tally);
            tell(&format!("whole importer at every {call}, standing {standing}"), &tally);
        }
    }
}

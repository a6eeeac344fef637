//! A disk that says no (RELIABILITY F21-F24): what is reported, what stands, what the next start makes of it.

use crate::site::{End, Site, Tree};
use crate::strace::can_run;

const FILES: usize = 20;

fn inject(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

/// Failed by name, said what to do, target OLD, and the next start leaves nothing.
fn fails_with(site: &Site, end: &End, code: &str) {
    assert!(!end.status.success(), "{}", end.stdout);
    assert!(end.stdout.contains(&format!("\"code\":\"{code}\"")), "{} {}", end.stdout, end.stderr);
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
    assert_eq!(site.standing(code), Tree::Old);
    assert_eq!(site.recovers(code), Tree::Old);
}

// RELIABILITY F22
#[test]
fn a_flush_that_fails_once_ends_the_session_although_a_second_would_succeed() {
    if !can_run() {
        return;
    }
    let site = Site::new(FILES, true, None);
    let end = site.migrate_traced_from("seal", &inject("syncfs:error=EIO:when=1"), None);
    fails_with(&site, &end, "io_error");
}

// RELIABILITY F23
#[test]
fn an_unconfirmed_swap_is_reported_as_such_and_both_trees_stay() {
    if !can_run() {
        return;
    }
    let site = Site::new(FILES, true, None);
    let parent = site.parent();
    let end = site.migrate_traced_from("swap", &inject("fsync:error=EIO"), parent.to_str());
    assert!(end.stdout.contains("\"code\":\"durability_unknown\""), "{} {}", end.stdout, end.stderr);
    assert_eq!(end.status.code(), Some(10), "{}", end.stdout);
    assert_eq!(site.standing("after the failed flush"), Tree::New);
    assert_eq!(site.siblings().len(), 1, "the old tree stays");
    assert_eq!(site.recovers("after the failed flush"), Tree::New);
}

// RELIABILITY F24
#[test]
fn without_a_durable_intent_nothing_is_swapped() {
    if !can_run() {
        return;
    }
    for (point, fault) in [
        ("seal", "write:error=ENOSPC:when=1"),
        ("swap", "write:error=ENOSPC:when=1"),
        ("swap", "fsync:error=EIO:when=1"),
        ("swap", "fsync:error=EIO:when=2"),
        ("swap", "renameat:error=EROFS:when=1"),
        ("swap", "openat:error=EROFS"),
    ] {
        let site = Site::new(FILES, true, None);
        let end = site.migrate_traced_from(point, &inject(fault), None);
        assert!(!end.status.success(), "{point} {fault}: {}", end.stdout);
        assert!(!end.stderr.contains("panicked"), "{point} {fault}: {}", end.stderr);
        assert_eq!(site.standing(fault), Tree::Old, "{point} {fault}");
        assert_eq!(site.recovers(fault), Tree::Old, "{point} {fault}");
    }
}

// RELIABILITY F21
#[test]
fn a_file_whose_write_failed_is_sent_again_and_the_session_completes() {
    if !can_run() {
        return;
    }
    for error in ["EIO", "ENOSPC", "EDQUOT"] {
        let site = Site::new(FILES, true, None);
        let end = site.migrate_traced_from("write", &inject(&format!("write:error={error}:when=1")), None);
        assert!(end.status.success(), "{error}: {} {}", end.stdout, end.stderr);
        assert!(end.stdout.contains("\"retry_round\":1"), "{error}: nothing was retried: {}", end.stdout);
        assert_eq!(site.standing(error), Tree::New);
        site.recovers(error);
    }
}

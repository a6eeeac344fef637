//! `me-sync limit` and `--limit`, between processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Place, assert_code, assert_same, events, make_tree, picture, stderr, stdout};

#[test]
fn a_limit_is_set_shown_and_lifted_and_stays_in_between() {
    let place = Place::new();
    let shows = |expected: &str| {
        let output = place.run("s", &["limit"]);
        assert_code(&output, 0);
        assert_eq!(stdout(&output), expected);
    };
    shows("off\n");
    let output = place.run("s", &["limit", "1.5M"]);
    assert_code(&output, 0);
    assert!(stdout(&output).is_empty() && stderr(&output).contains("1.5MB/s"), "{}", stderr(&output));
    shows("1.5MB/s\n");
    let mode = fs::metadata(place.path("s/limit")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = place.run("s", &["limit", "--json", "100Mbit"]);
    let result = events(&stdout(&output)).remove(0);
    assert_eq!((result["limit_bps"].as_u64(), result["changed"].as_bool()), (Some(12_500_000), Some(true)));
    assert_code(&place.run("s", &["limit", "off"]), 0);
    shows("off\n");
}

#[test]
fn a_damaged_limit_is_named_and_replaced_by_the_command_that_the_hint_gives() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    assert_code(&place.run("exporter", &["limit", "1M"]), 0);
    fs::write(place.path("exporter/limit"), "much").unwrap();
    for args in [&["limit"][..], &["send", "src"]] {
        let output = place.run("exporter", args);
        assert_code(&output, 15);
        assert!(stderr(&output).contains("exporter/limit") && stderr(&output).contains("limit off"), "{args:?}");
    }
    assert_code(&place.run("exporter", &["limit", "off"]), 0);
    place.send(&["src"]).interrupt();
}

#[test]
fn a_limit_is_said_and_lifted_while_another_process_sends_by_it() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let before = picture(&place.path("src"));
    // half a minute for what follows
    assert_code(&place.run("exporter", &["limit", "64K"]), 0);
    let sender = place.send(&["src"]);
    let mut receiver = place.receive(&["--limit", "1G", "dst"], &sender.ticket);
    let moving = receiver.until(|event| event["event"] == "progress" && event["bytes_received"].as_u64() > Some(0));
    assert_eq!(moving["limit_bps"], 1_000_000_000_u64, "of the two limits here the lower one");
    assert_code(&place.run("exporter", &["limit", "off"]), 0);
    assert_eq!(receiver.wait().0, Some(0));
    let sent = sender.wait();
    assert_eq!(sent.code, Some(0));
    assert!(sent.stderr.contains(", limit 64kB/s"), "{}", sent.stderr);
    assert_same(&before, &picture(&place.path("dst")));
}

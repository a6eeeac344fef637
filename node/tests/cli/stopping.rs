//! Ctrl-C and its relatives, and readers that go away.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::support::{Place, assert_same, behind_a_stalling_relay, events, make_tree, picture, signal};

#[test]
fn a_sender_that_waits_ends_cleanly_at_each_signal() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    for name in ["INT", "TERM", "HUP"] {
        let sender = place.send(&["src"]);
        signal(name, &sender.child);
        let sent = sender.wait();
        assert_eq!(sent.code, Some(130), "{name}: {}", sent.stderr);
        assert_eq!(sent.rest, "");
    }
}

#[test]
fn a_receiver_stopped_under_way_leaves_the_old_tree_and_no_staging() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    std::fs::write(place.path("src/bulk"), vec![7; 8 << 20]).unwrap();
    make_tree(&place.path("dst"), "old");
    let old = picture(&place.path("dst"));
    let sender = place.send(&["--transport", "tcp", "src"]);
    let ticket = behind_a_stalling_relay(&sender.ticket, 3 << 20);
    let mut command = place.command("importer", &["receive", "--json", "-y", "dst"]);
    let mut child = command.env("ME_SYNC_TICKET", &ticket).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("\"bulk_transferring\"") {
        seen.clear();
        assert_ne!(lines.read_line(&mut seen).unwrap(), 0, "the receiver ended before it was stopped");
    }
    assert_eq!(place.staging_leftovers().len(), 1, "there is a staging tree to be removed");
    signal("INT", &child);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let code = child.wait().unwrap().code();
    let result = events(&rest).pop().unwrap();
    assert_eq!((code, result["event"].as_str()), (Some(130), Some("result")), "{rest}");
    assert_eq!(result["code"], "interrupted");
    assert_same(&old, &picture(&place.path("dst")));
    assert_eq!(place.staging_leftovers(), [""; 0]);
    let sent = sender.wait();
    assert!(!matches!(sent.code, None | Some(0)), "the sender learns that it was stopped: {}", sent.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    for args in [&["completions", "bash"][..], &["--json", "sessions"], &["--help"], &["--json", "send", "nowhere"]] {
        let mut child = place.command("s", args).spawn().unwrap();
        drop(child.stdout.take());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        let code = child.wait().unwrap().code();
        assert!(!text.contains("panicked") && code.is_some_and(|c| c < 101), "{args:?}: {code:?} {text}");
    }
}

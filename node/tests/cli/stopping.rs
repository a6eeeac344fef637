//! Ctrl-C and its relatives, and readers that go away.

use std::io::Read as _;

use crate::support::{Place, assert_same, behind_a_stalling_relay, events, make_tree, noise, picture, signal};

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
fn a_receiver_stopped_under_way_leaves_the_old_tree_as_it_is_and_keeps_what_arrived() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    std::fs::write(place.path("src/bulk"), noise(8 << 20)).unwrap();
    make_tree(&place.path("dst"), "old");
    let old = picture(&place.path("dst"));
    for name in ["INT", "TERM", "HUP"] {
        let sender = place.send(&["--transport", "tcp", "--new", "src"]);
        let ticket = behind_a_stalling_relay(&sender.ticket, 3 << 20);
        let mut receiver = place.receive(&["-y", "dst"], &ticket);
        receiver.until(|event| event["phase"] == "bulk_transferring");
        assert_eq!(place.staging_leftovers().len(), 1);
        signal(name, &receiver.child);
        let (code, rest, words) = receiver.wait();
        let result = events(&rest).pop().unwrap();
        assert_eq!((code, result["event"].as_str()), (Some(130), Some("result")), "{name}: {rest}");
        assert_eq!(result["code"], "interrupted");
        assert!(words.contains("resume"), "{words}");
        assert_same(&old, &picture(&place.path("dst")));
        assert_eq!(place.staging_leftovers().len(), 1, "what arrived is kept");
        assert_eq!(sender.interrupt().code, Some(130), "the sender waits for it to come back");
    }
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

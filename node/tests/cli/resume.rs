//! Sessions that outlive their processes: killed, stopped, refused elsewhere, tried again, ended, listed.

use std::fs;

use serde_json::Value;

use crate::support::{
    Place, Receiver, Sender, Throttle, assert_code, assert_same, events, make_tree, noise, picture, signal, stderr,
    stdout,
};

/// A tree whose transfer at [`RATE`] takes long enough to be stopped in the middle.
fn slow_tree(place: &Place) {
    make_tree(&place.path("src"), "s");
    fs::write(place.path("src/bulk"), noise(6 << 20)).unwrap();
}

const RATE: u64 = 2 << 20;

/// A transfer under way behind a slow relay, stopped by nobody yet.
struct UnderWay {
    sender: Sender,
    receiver: Receiver,
    ticket: String,
    session: String,
    throttle: Throttle,
}

fn under_way(place: &Place) -> UnderWay {
    slow_tree(place);
    let sender = place.send(&["--transport", "tcp", "src"]);
    let throttle = Throttle::before(&sender.ticket, RATE);
    let ticket = throttle.ticket(&sender.ticket);
    let mut receiver = place.receive(&["-y", "dst"], &ticket);
    let moving = receiver.until(|event| event["bytes_received"].as_u64().unwrap_or(0) > 3_000_000);
    let session = moving["session_id"].as_str().unwrap().to_owned();
    UnderWay { sender, receiver, ticket, session, throttle }
}

fn result(text: &str) -> Value {
    let last = events(text).pop().unwrap();
    assert_eq!(last["event"], "result", "{text}");
    last
}

/// The first session that is listed.
fn listed(place: &Place, device: &str) -> Value {
    let output = place.run(device, &["--json", "sessions"]);
    assert_code(&output, 0);
    events(&stdout(&output)).into_iter().find(|e| e["event"] == "session").unwrap_or(Value::Null)
}

fn payload(result: &Value) -> u64 {
    result["payload_bytes"].as_u64().unwrap()
}

// RELIABILITY F61
#[test]
fn a_receiver_that_is_killed_goes_on_by_resume_and_what_arrived_is_not_sent_again() {
    let place = Place::new();
    let UnderWay { sender, receiver, session, throttle, .. } = under_way(&place);
    receiver.kill();
    throttle.open();
    assert!(!place.path("dst").exists());

    let got = place.run("importer", &["--json", "resume"]);
    assert_code(&got, 0);
    let done = result(&stdout(&got));
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
    let total = done["bytes"].as_u64().unwrap();
    assert!(payload(&done) < total - 1_000_000, "{done}");
    let continuing = events(&stdout(&got)).into_iter().find(|e| e["event"] == "continuing").unwrap();
    assert_eq!(continuing["session_id"], session.as_str());
    assert!(continuing["bytes_received"].as_u64().unwrap() > 1_000_000, "begun files count: {continuing}");
    assert_eq!(place.run("importer", &["resume"]).status.code(), Some(2), "there is nothing to resume any more");
}

#[test]
fn ctrl_c_keeps_what_arrived_and_the_same_ticket_goes_on_into_the_same_directory_only() {
    let place = Place::new();
    let UnderWay { sender, receiver, ticket, session, throttle } = under_way(&place);
    let (code, rest, words) = receiver.interrupt();
    throttle.open();
    assert_eq!((code, result(&rest)["code"].as_str()), (Some(130), Some("interrupted")));
    assert!(words.contains(&format!("resume {}", &session[..8])), "{words}");
    assert_eq!(place.staging_leftovers().len(), 1, "what arrived is kept");

    let elsewhere = place.run_with_input("importer", &["receive", "other"], &ticket);
    assert_code(&elsewhere, 2);
    assert!(stderr(&elsewhere).contains("/dst") && stderr(&elsewhere).contains("abort"), "{}", stderr(&elsewhere));
    assert!(!place.path("other").exists());

    let got = place.run_with_input("importer", &["receive", "dst"], &ticket);
    assert_code(&got, 0);
    assert!(stderr(&got).contains(&format!("continuing session {}", &session[..8])), "{}", stderr(&got));
    assert!(stderr(&got).contains("were here already"), "{}", stderr(&got));
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));

    let again = place.run_with_input("importer", &["receive", "dst"], &ticket);
    assert_code(&again, 0);
    assert!(stderr(&again).contains("is what this ticket was for already"), "{}", stderr(&again));
    let other = place.run_with_input("importer", &["receive", "other"], &ticket);
    assert_code(&other, 4);
    assert!(stderr(&other).contains("in place already, at"), "{}", stderr(&other));
    assert_code(&place.run("importer", &["rollback", "-y", "dst"]), 0);
    let undone = place.run_with_input("importer", &["--json", "receive", "dst"], &ticket);
    assert_code(&undone, 4);
    assert!(stderr(&undone).contains("does not stand there any more"), "{}", stderr(&undone));
}

// RELIABILITY F62
#[test]
fn a_sender_that_is_stopped_and_started_again_goes_on_with_the_same_receiver() {
    let place = Place::new();
    let UnderWay { sender, mut receiver, session, throttle, .. } = under_way(&place);
    let sent = sender.interrupt();
    throttle.open();
    assert_eq!(sent.code, Some(130), "{}", sent.stderr);
    assert!(sent.stderr.contains("the session is kept"), "{}", sent.stderr);
    let waiting = receiver.until(|event| event["event"] == "waiting");
    assert_eq!(waiting["session_id"], session.as_str());
    for field in ["for_secs", "tries", "next_try_in_secs"] {
        assert!(waiting[field].is_u64(), "{field}: {waiting}");
    }
    let known = listed(&place, "exporter");
    assert_eq!((known["state"].as_str(), known["role"].as_str()), (Some("interrupted"), Some("exporter")));

    let sender = place.send(&["--transport", "tcp", "src"]);
    let (code, rest, _) = receiver.wait();
    assert_eq!(code, Some(0), "{rest}");
    let sent = sender.wait();
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    assert!(sent.stderr.contains(&format!("continuing session {}", &session[..8])), "{}", sent.stderr);
    // also of a file that was under way
    let before = sent.stderr.lines().find_map(|line| line.strip_prefix("before it stopped, ")).unwrap();
    let mib: f64 = before.split(" MiB of ").next().unwrap().parse().unwrap();
    assert!(mib >= 3_000_000.0 / 1048576.0, "{before}");
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
    assert_eq!(listed(&place, "exporter")["state"], "completed");
}

#[test]
fn both_sides_are_stopped_and_resume_is_all_that_either_needs() {
    let place = Place::new();
    let UnderWay { sender, receiver, session, throttle, .. } = under_way(&place);
    receiver.kill();
    throttle.open();
    signal("KILL", &sender.child);
    sender.wait();
    let digits = &session[..6];
    let sender = place.offer("exporter", &["--transport", "tcp", "resume", digits]);
    let got = place.run("importer", &["resume", digits]);
    assert_code(&got, 0);
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
}

#[test]
fn abort_ends_a_session_for_good_by_id_or_directory_and_a_second_time_does_nothing() {
    for by_directory in [false, true] {
        let place = Place::new();
        let UnderWay { sender, receiver, session, .. } = under_way(&place);
        receiver.interrupt();
        let what = if by_directory { "dst".to_owned() } else { session[..8].to_owned() };
        for changed in [true, false] {
            let ended = place.run("importer", &["--json", "abort", &what]);
            assert_code(&ended, 0);
            assert_eq!(result(&stdout(&ended))["changed"], changed);
        }
        assert_eq!(place.staging_leftovers(), [""; 0]);
        assert!(!place.path("dst").exists());
        let resumed = place.run("importer", &["resume", &session]);
        assert_code(&resumed, 2);
        assert!(stderr(&resumed).contains("is over"), "{}", stderr(&resumed));
        assert_eq!(sender.wait().code, Some(6), "the other side is told");
    }
}

#[test]
fn abort_ends_a_session_that_another_process_works_on() {
    let place = Place::new();
    let UnderWay { sender, receiver, session, .. } = under_way(&place);
    let ended = place.run("importer", &["--json", "abort", &session]);
    assert_code(&ended, 0);
    assert_eq!(result(&stdout(&ended))["changed"], true);
    assert_eq!(receiver.wait().0, Some(6));
    assert_eq!(sender.wait().code, Some(6), "the other side is told");
    assert_eq!(place.staging_leftovers(), [""; 0]);
    assert!(!place.path("dst").exists());
}

#[test]
fn a_ticket_whose_session_was_ended_is_refused_though_the_sender_does_not_know_that_yet() {
    let place = Place::new();
    let UnderWay { sender, receiver, ticket, session, .. } = under_way(&place);
    receiver.interrupt();
    sender.interrupt();
    assert_code(&place.run("importer", &["abort", &session]), 0);
    let sender = place.send(&["--transport", "tcp", "src"]);
    let refused = place.run_with_input("importer", &["receive", "dst"], &ticket);
    assert_code(&refused, 4);
    assert!(stderr(&refused).contains("send --new"), "{}", stderr(&refused));
    sender.interrupt();

    let fresh = place.send(&["--transport", "tcp", "--new", "src"]);
    assert_code(&place.run_with_input("importer", &["receive", "dst"], &fresh.ticket), 0);
    assert_eq!(fresh.wait().code, Some(0));
    assert_code(&place.run("exporter", &["abort", "src"]), 0);
    assert_eq!(place.run("exporter", &["resume"]).status.code(), Some(2), "the ended one is gone");
}

#[test]
fn a_tree_that_changed_while_its_sender_was_stopped_arrives_as_it_is_now_and_both_say_so() {
    let place = Place::new();
    let UnderWay { sender, mut receiver, session, throttle, .. } = under_way(&place);
    sender.interrupt();
    throttle.open();
    fs::write(place.path("src/a.txt"), "another one").unwrap();
    let sender = place.send(&["--transport", "tcp", "src"]);
    let superseded = receiver.until(|event| event["event"] == "superseded");
    assert_eq!(superseded["session_id"], session.as_str());
    let (code, rest, _) = receiver.wait();
    assert_eq!(code, Some(0), "{rest}");
    let sent = sender.wait();
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    assert!(sent.stderr.contains("the tree has changed"), "{}", sent.stderr);
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
}

#[test]
fn files_that_fail_in_every_round_are_listed_and_a_retry_sends_only_them() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let mut command = place.command("exporter", &["send", "src"]);
    command.env("ME_SYNC_TEST_CORRUPT", "a.txt:9,deep/run:9");
    let sender = Sender::start(command);
    let got = place.run_with_input("importer", &["--json", "receive", "dst"], &sender.ticket);
    assert_code(&got, 6);
    let failed = result(&stdout(&got));
    assert_eq!(failed["code"], "retry_exhausted");
    let hint = failed["hint"].as_str().unwrap();
    assert!(hint.contains("`me-sync --state-dir ") && hint.contains(" retry "), "{hint}");
    let sent = sender.wait();
    assert_eq!(sent.code, Some(6), "{}", sent.stderr);
    let session = failed["session_id"].as_str().unwrap();

    let listed_failures = place.run("importer", &["failures", session]);
    assert_code(&listed_failures, 0);
    let text = stdout(&listed_failures);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(
        lines,
        [
            ["a.txt", "hash_mismatch", "hash_mismatch", "-", "4"],
            ["deep/run", "hash_mismatch", "hash_mismatch", "-", "4"]
        ]
    );
    let json = events(&stdout(&place.run("importer", &["--json", "failures", session])));
    assert_eq!((json[0]["event"].as_str(), json[0]["path"].as_str()), (Some("failure"), Some("a.txt")));
    assert_eq!(json.last().unwrap()["total"], 2);
    let known = listed(&place, "importer");
    assert_eq!((known["state"].as_str(), known["resumable"].as_bool()), (Some("failed"), Some(true)));
    assert_eq!(known["code"], "retry_exhausted");

    let sender = place.send(&["src"]);
    let got = place.run("importer", &["--json", "retry", session]);
    assert_code(&got, 0);
    assert_eq!(sender.wait().code, Some(0));
    let small: u64 = ["a.txt", "deep/run"].iter().map(|f| fs::metadata(place.path("src").join(f)).unwrap().len()).sum();
    assert_eq!(payload(&result(&stdout(&got))), small);
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
    let none = place.run("importer", &["failures", session]);
    assert_code(&none, 0);
    assert_eq!(stdout(&none), "");
}

#[test]
fn sessions_and_status_say_the_same_of_a_session_under_way_stopped_and_done() {
    let place = Place::new();
    let UnderWay { sender, receiver, session, throttle, .. } = under_way(&place);
    let status = |device: &str| -> Value {
        let output = place.run(device, &["--json", "status"]);
        assert_code(&output, 0);
        let all = events(&stdout(&output));
        let one = all.iter().find(|e| e["event"] == "status").unwrap().clone();
        assert_eq!(all.last().unwrap()["session_id"], session.as_str());
        one
    };
    for (device, child, role) in [("importer", &receiver.child, "importer"), ("exporter", &sender.child, "exporter")] {
        let running = status(device);
        assert_eq!((running["state"].as_str(), running["role"].as_str()), (Some("running"), Some(role)));
        assert_eq!(running["pid"].as_u64(), Some(u64::from(child.id())));
        assert_eq!(running["live"]["phase"], "bulk_transferring");
        assert_eq!(
            (running["source_name"].as_str(), running["manifest_sha256"].as_str().map(str::len)),
            (Some("src"), Some(64))
        );
        assert!(running["created_ms"].as_u64() > Some(0) && running["addresses"][0].is_string(), "{running}");
        assert_eq!(listed(&place, device)["pid"], running["pid"]);
    }
    for (asked, said) in [(vec!["resume"], "nothing to resume"), (vec!["resume", &session], "goes on already")] {
        let resume = place.run("exporter", &asked);
        assert_code(&resume, 2);
        assert!(stderr(&resume).contains(said), "{}", stderr(&resume));
    }
    receiver.interrupt();
    throttle.open();
    let stopped = status("importer");
    assert_eq!((stopped["state"].as_str(), stopped["resumable"].as_bool()), (Some("interrupted"), Some(true)));
    assert!(stopped["pid"].is_null() && stopped["live"].is_null(), "{stopped}");
    let kept = stopped["kept_until_ms"].as_u64().unwrap() - stopped["updated_ms"].as_u64().unwrap();
    assert_eq!(kept, 24 * 3600 * 1000);
    assert_eq!(stopped["files"], 6);
    for text in [stdout(&place.run("importer", &["status"])), stdout(&place.run("importer", &["sessions"]))] {
        assert!(text.contains("interrupted") && text.contains("of 6 files"), "{text}");
    }

    assert_code(&place.run("importer", &["resume"]), 0);
    assert_eq!(sender.wait().code, Some(0));
    let nothing = place.run("importer", &["--json", "status"]);
    assert_code(&nothing, 0);
    assert!(result(&stdout(&nothing))["session_id"].is_null());
    for (device, state) in [("importer", "committed"), ("exporter", "completed")] {
        let done = listed(&place, device);
        assert_eq!((done["session_id"].as_str(), done["state"].as_str()), (Some(session.as_str()), Some(state)));
        assert_eq!(done["files"], 6);
    }
}

#[test]
fn what_is_no_session_is_wrong_use_and_makes_no_state() {
    let place = Place::new();
    for args in
        [&["resume"][..], &["retry"], &["resume", "ab12"], &["status", "xyz"], &["abort", "dst"], &["failures", "ab12"]]
    {
        let output = place.run("s", args);
        assert_code(&output, 2);
        assert_eq!(stderr(&output).lines().count(), 2, "{args:?}: {}", stderr(&output));
    }
    assert_code(&place.run("s", &["status"]), 0);
    assert!(!place.path("s").exists());
}

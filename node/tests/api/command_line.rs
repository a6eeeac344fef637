//! Commands while a node has the state directory: the same words and exit codes as without one.

use std::fs;

use serde_json::{Value, json};

use crate::client::Node;
use crate::support::{
    Place, Receiver, Throttle, assert_code, assert_same, events, make_tree, noise, picture, stderr, stdout,
};

fn result(text: &str) -> Value {
    events(text).pop().unwrap()
}

/// What differs from run to run is taken out.
fn without_figures(text: &str) -> String {
    // a device is shown with the end of its id
    let text: String = text.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect();
    let digits = |c: char| if c.is_ascii_hexdigit() { '#' } else { c };
    let lines = text.lines().filter(|line| !line.contains("me.things:"));
    // a bar's rates and times come or do not come
    lines
        .filter(|line| !line.contains("left"))
        .map(|line| line.chars().map(digits).collect::<String>() + "\n")
        .collect()
}

#[test]
fn a_migration_through_two_nodes_reads_like_one_without() {
    let mut words = Vec::new();
    for with_node in [false, true] {
        let place = Place::new();
        let nodes = with_node.then(|| (Node::start(&place, "exporter"), Node::start(&place, "importer")));
        make_tree(&place.path("src"), "s");
        make_tree(&place.path("dst"), "old");
        let sender = place.send(&["src"]);
        let ticket = sender.ticket.clone();
        let refused = place.run_with_input("importer", &["receive", "dst"], &sender.ticket);
        assert_code(&refused, 2);
        let got = place.run_with_input("importer", &["--json", "receive", "-y", "dst"], &sender.ticket);
        assert_code(&got, 0);
        let sent = sender.wait();
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
        assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let kinds: Vec<_> =
            events(&stdout(&got)).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
        let named: Vec<_> = ["review", "peer", "result"].map(|kind| kinds.contains(&kind.to_owned())).into();
        let again = place.run_with_input("importer", &["receive", "dst"], &ticket);
        words.push((
            stderr(&refused).lines().map(str::to_owned).collect::<Vec<_>>().len(),
            fields(&result(&stdout(&got))),
            named,
            again.status.code(),
        ));
        let listed = place.run("importer", &["--json", "sessions"]);
        assert_code(&listed, 0);
        let listed = events(&stdout(&listed));
        assert_eq!((&listed[0]["state"], &listed[0]["role"]), (&json!("committed"), &json!("importer")));
        let back = place.run("importer", &["rollback", "-y", "dst"]);
        assert_code(&back, 0);
        drop(nodes);
    }
    assert_eq!(words[0], words[1]);
}

#[test]
fn words_for_people_are_the_same_with_a_node() {
    let mut words = Vec::new();
    for with_node in [false, true] {
        let place = Place::new();
        let nodes = with_node.then(|| (Node::start(&place, "exporter"), Node::start(&place, "importer")));
        make_tree(&place.path("src"), "s");
        let sender = place.send(&["src"]);
        let got = place.run_with_input("importer", &["receive", "dst"], &sender.ticket);
        assert_code(&got, 0);
        let sent = sender.wait();
        let last = |text: &str| {
            let shown = text.replace(place.path("").to_str().unwrap(), "PLACE/");
            let all: Vec<_> = shown.lines().map(str::to_owned).collect();
            // what goes on between the beginning and the end depends on the moment
            let edge = |line: &&String| {
                ["is now", "to undo", "confirmed", "ticket", "On the other", "me-sync receive", "src:", "connected"]
                    .iter()
                    .any(|word| line.contains(word))
            };
            without_figures(&all.iter().filter(edge).cloned().collect::<Vec<_>>().join("\n"))
        };
        words.push((last(&stderr(&got)), last(&sent.stderr)));
        drop(nodes);
    }
    assert_eq!(words[0], words[1]);
}

#[test]
fn a_command_that_is_stopped_keeps_the_session_and_resume_goes_on_through_the_node() {
    let place = Place::new();
    let (_from, _to) = (Node::start(&place, "exporter"), Node::start(&place, "importer"));
    make_tree(&place.path("src"), "s");
    fs::write(place.path("src/bulk"), noise(24 << 20)).unwrap();
    let sender = place.send(&["--transport", "tcp", "src"]);
    let throttle = Throttle::before(&sender.ticket, 2 << 20);
    let mut receiver: Receiver = place.receive(&["-y", "dst"], &throttle.ticket(&sender.ticket));
    let moving = receiver.until(|event| event["bytes_received"].as_u64().unwrap_or(0) > 3_000_000);
    let session = moving["session_id"].as_str().unwrap().to_owned();

    let status = place.run("importer", &["--json", "status"]);
    assert_code(&status, 0);
    let shown = &events(&stdout(&status))[0];
    assert_eq!((&shown["state"], &shown["session_id"]), (&json!("running"), &json!(session)));
    assert_eq!(shown["live"]["phase"], "bulk_transferring");
    let locked = place.run("importer", &["--no-node", "resume", &session]);
    assert_code(&locked, 16);
    assert!(stderr(&locked).contains("another me-sync"), "{}", stderr(&locked));

    let (code, rest, text) = receiver.interrupt();
    throttle.open();
    assert_eq!((code, result(&rest)["code"].as_str()), (Some(130), Some("interrupted")), "{text}");
    assert!(text.contains(&format!("resume {}", &session[..8])), "{text}");
    let got = place.run("importer", &["--json", "resume", &session[..6]]);
    assert_code(&got, 0);
    let done = result(&stdout(&got));
    assert!(done["payload_bytes"].as_u64() < done["bytes"].as_u64(), "{done}");
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
    assert_eq!(place.run("importer", &["resume"]).status.code(), Some(2));
}

#[test]
fn abort_failures_retry_and_several_devices_go_through_the_node() {
    let place = Place::new();
    let mut command = place.command("exporter", &["--json", "node", "--api-port", "0"]);
    command.env("ME_SYNC_TEST_CORRUPT", "a.txt:4");
    let _from = Node::with(&place, "exporter", command);
    let _to = Node::start(&place, "importer");
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["src"]);
    let got = place.run_with_input("importer", &["--json", "receive", "dst"], &sender.ticket);
    assert_code(&got, 6);
    assert_eq!(result(&stdout(&got))["code"], "retry_exhausted");
    assert_eq!(sender.wait().code, Some(6));
    let session = result(&stdout(&got))["session_id"].as_str().unwrap().to_owned();
    let failures = place.run("importer", &["failures", &session]);
    assert_code(&failures, 0);
    assert!(stdout(&failures).starts_with("a.txt\t"), "{}", stdout(&failures));
    let sender = place.offer("exporter", &["retry", &session]);
    assert_code(&place.run("importer", &["retry", &session]), 0);
    assert_eq!(sender.wait().code, Some(0));

    // nobody takes these
    let mut several = place.send(&["--new", "--devices", "2", "src"]);
    assert!(several.next_line().starts_with("me.things:"));
    let stopped = several.interrupt();
    assert_eq!(stopped.code, Some(130), "{}", stopped.stderr);

    let refused = place.run("importer", &["abort", "ffffffff"]);
    assert_code(&refused, 2);
    let over = place.run("importer", &["--json", "abort", &session]);
    assert_code(&over, 0);
    assert_eq!(result(&stdout(&over))["changed"], false);
}

#[test]
fn a_check_that_the_node_was_given_is_made_of_what_the_command_line_receives_too() {
    let place = Place::new();
    let command = place.command("importer", &["--json", "node", "--api-port", "0", "--post-apply", "false"]);
    let _to = Node::with(&place, "importer", command);
    make_tree(&place.path("src"), "new");
    make_tree(&place.path("dst"), "old");
    let before = picture(&place.path("dst"));
    let sender = place.send(&["src"]);
    assert_code(&place.run_with_input("importer", &["receive", "-y", "dst"], &sender.ticket), 12);
    assert_same(&before, &picture(&place.path("dst")));
    assert_eq!(sender.wait().code, Some(12));
    // but when it is left out by name
    let sender = place.send(&["src"]);
    assert_code(&place.run_with_input("importer", &["receive", "-y", "dst", "--post-apply", ""], &sender.ticket), 0);
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
}

#[test]
fn an_abort_while_the_command_after_the_swap_runs_says_where_the_tree_is_that_it_took_back() {
    let place = Place::new();
    let _to = Node::start(&place, "importer");
    make_tree(&place.path("src"), "new");
    make_tree(&place.path("dst"), "old");
    let before = picture(&place.path("dst"));
    let sender = place.send(&["src"]);
    let mut receiver = place.receive(&["-y", "dst", "--post-apply", "sleep 600"], &sender.ticket);
    receiver.until(|event| event["phase"] == "restarting_runtime");
    let ended = place.run("importer", &["abort", "dst"]);
    assert_code(&ended, 0);
    let kept = place.path(&place.staging_leftovers().pop().unwrap());
    let said = stderr(&ended);
    assert!(said.contains(&format!("is kept in {}", kept.display())) && !said.contains("deleted"), "{said}");
    assert_same(&picture(&place.path("src")), &picture(&kept));
    assert_same(&before, &picture(&place.path("dst")));
    assert_eq!(receiver.wait().0, Some(12));
    assert_eq!(sender.wait().code, Some(12));
}

#[test]
fn an_error_of_the_node_ends_a_command_like_one_of_its_own() {
    for with_node in [false, true] {
        let place = Place::new();
        let node = with_node.then(|| Node::start(&place, "exporter"));
        let missing = place.run("exporter", &["send", "nothing"]);
        assert_code(&missing, 7);
        fs::create_dir_all(place.path("src")).unwrap();
        fs::write(place.path("file"), "x").unwrap();
        let sender = place.send_as("other", &["src"]);
        let refused = place.run_with_input("exporter", &["receive", "file"], &sender.ticket);
        assert_code(&refused, 8);
        let nobody = place.run_with_input("exporter", &["receive", "--connect-timeout", "1s", "x"], &sender.ticket);
        drop(nobody);
        sender.interrupt();
        let peers = place.run("exporter", &["peers", "--for", "1s"]);
        assert_code(&peers, 2);
        drop(node);
    }
}

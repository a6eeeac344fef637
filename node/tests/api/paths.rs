//! What may be read and replaced with the token: RELIABILITY A94. And what names may do: A96.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::client::Node;
use crate::support::{Place, make_tree};

// RELIABILITY A94
#[test]
fn nothing_outside_of_the_roots_is_offered_however_it_is_spelled() {
    let place = Place::new();
    let node = Node::start(&place, "out/d");
    make_tree(&place.path("out/tree"), "s");
    make_tree(&place.path("secret"), "s");
    make_tree(&place.path("out-2"), "s");
    symlink(place.path("secret"), place.path("out/link")).unwrap();
    fs::create_dir(place.path("out/.me-sync-0123456789abcdef")).unwrap();
    let at = |path: &str| place.path(path).to_str().unwrap().to_owned();
    let refused = [
        at("secret"),
        at("out-2"),
        "out/tree".to_owned(),
        String::from("."),
        "/".to_owned(),
        at("out/tree/../../secret"),
        at("out/link"),
        at("out/link/deep"),
        at("out/missing"),
        format!("/proc/self/root{}", at("out/tree")),
        "/proc/self/cwd".to_owned(),
        format!("/proc/{}/cwd", node.child.id()),
        "\\\\srv\\share".to_owned(),
        format!("{}\0", at("out/tree")),
        at("out/d"),
        // the state directory lies in it
        at("out"),
        at("out/.me-sync-0123456789abcdef"),
    ];
    for path in refused {
        let answer = node.post("session/create", &json!({ "source_path": path }));
        assert!(answer.json()["code"] == "path_not_allowed", "{path}: {answer:?}");
        answer.is(403, "path_not_allowed");
    }
    node.create(&place, "tree");
    let file = at("out/tree/a.txt");
    node.post("session/create", &json!({ "source_path": file })).ok(201);
}

// RELIABILITY A94
#[test]
fn nothing_outside_of_the_roots_is_replaced_or_rolled_back() {
    let place = Place::new();
    let (from, to) = (Node::start(&place, "from"), Node::start(&place, "in/to"));
    make_tree(&place.path("out/tree"), "s");
    fs::create_dir(place.path("elsewhere")).unwrap();
    symlink(place.path("elsewhere"), place.path("in/link")).unwrap();
    symlink("nowhere", place.path("in/dangling")).unwrap();
    let ticket = from.create(&place, "tree")["ticket_uri"].clone();
    let at = |path: &str| place.path(path).to_str().unwrap().to_owned();
    let refused = [
        at("elsewhere/x"),
        at("in"),
        "in/x".to_owned(),
        at("in/../elsewhere/x"),
        at("in/link"),
        at("in/link/x"),
        at("in/dangling"),
        at("in/missing/x"),
        format!("/proc/self/root{}", at("in/x")),
        at("in/to"),
        at("in/to/x"),
        at("in/.me-sync-0123456789abcdef"),
        format!("{}\0", at("in/x")),
    ];
    for path in refused {
        let answer = to.post("session/start", &json!({ "ticket_uri": ticket, "target_path": path, "replace": true }));
        assert!(answer.json()["code"] == "path_not_allowed", "{path}: {answer:?}");
        to.post("session/rollback", &json!({ "target_path": path })).is(403, "path_not_allowed");
    }
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 0);
    let home = json!({ "ticket_uri": ticket, "target_path": at("in/x"), "allow_home": true });
    to.post("session/start", &home).is(403, "path_not_allowed");
    let started = to.post("session/start", &json!({ "ticket_uri": ticket, "target_path": at("in/x") })).ok(201);
    assert_eq!(to.outcome(&started["job_id"])["status"], "completed");
}

#[test]
fn without_roots_nothing_is_allowed() {
    let place = Place::new();
    let node = Node::with(&place, "d", place.command("d", &["--json", "node", "--api-port", "0"]));
    fs::create_dir(place.path("tree")).unwrap();
    node.post("session/create", &json!({ "source_path": place.path("tree") })).is(403, "path_not_allowed");
}

#[test]
fn a_command_after_the_swap_is_named_by_the_settings_of_the_device_and_never_over_http() {
    let place = Place::new();
    let from = Node::start(&place, "from");
    fs::create_dir_all(place.path("in")).unwrap();
    let args = ["--json", "node", "--api-port", "0", "--post-apply", "false"];
    let mut command = place.command("to", &args);
    command.args(["--import-root".into(), place.path("in")]);
    let to = Node::with(&place, "to", command);
    make_tree(&place.path("out/tree"), "s");
    let offered = from.create(&place, "tree");
    let ask = json!({ "ticket_uri": offered["ticket_uri"], "target_path": place.path("in/x") });
    for words in [vec!["touch", "/tmp/x"], vec![]] {
        let mut named = ask.clone();
        named["post_apply"] = json!({ "argv": words, "timeout_secs": 1 });
        to.post("session/start", &named).is(403, "path_not_allowed");
        let resume = json!({ "session_id": offered["session_id"], "post_apply": named["post_apply"] });
        to.post("session/resume", &resume).is(403, "path_not_allowed");
    }
    let started = to.post("session/start", &ask).ok(201);
    let outcome = to.outcome(&started["job_id"]);
    assert_eq!(outcome["code"], "health_failed", "{outcome}");
    assert!(!place.path("in/x").exists());
    // who knows the session only hears why, too
    let session = offered["session_id"].as_str().unwrap();
    let status = to.get(&format!("/me/sync/v4/session/status?session_id={session}")).ok(200);
    assert_eq!((&status["outcome"]["code"], &status["files_ok"]), (&json!("health_failed"), &status["files_total"]));
}

// RELIABILITY A96
#[test]
fn hostile_names_come_as_json_and_as_nothing_else() {
    let place = Place::new();
    let mut command = place.command("from", &["--json", "node", "--api-port", "0"]);
    command
        .args(["--export-root".into(), place.path("out")])
        .env("ME_SYNC_TEST_CORRUPT", "<img onerror=alert(1)>\u{9b}31m\u{202e}:9");
    fs::create_dir_all(place.path("out/tree")).unwrap();
    let from = Node::with(&place, "from", command);
    let to = Node::start(&place, "to");
    let name = "<img onerror=alert(1)>\u{202e}";
    fs::write(place.path("out/tree").join(name), "x").unwrap();
    let offered = from.create(&place, "tree");
    let target = place.path("in/x");
    let ask = json!({ "ticket_uri": offered["ticket_uri"], "target_path": target });
    let started = to.post("session/start", &ask).ok(201);
    to.outcome(&started["job_id"]);
    let session = started["session_id"].as_str().unwrap();
    for route in [
        format!("/me/sync/v4/session/status?session_id={session}"),
        format!("/me/sync/v4/session/failures?session_id={session}"),
        "/me/sync/v4/sessions".to_owned(),
    ] {
        let answer = to.get(&route);
        answer.ok(200);
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        assert!(answer.head.contains("nosniff") && answer.head.contains("default-src 'none'"), "{}", answer.head);
        assert!(!answer.body.chars().any(char::is_control), "{}", answer.body);
    }
}

//! The node as a service: readiness, a stop within its time, logs, and what it needs while nothing happens.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Node, PATIENCE};
use crate::support::{Place, assert_code, assert_same, make_tree, noise, picture, signal, stderr};

#[test]
fn systemd_is_told_when_the_node_is_ready_and_when_it_stops() {
    let place = Place::new();
    let path = place.path("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = place.command("d", &["--json", "node", "--api-port", "0"]);
    command.env("NOTIFY_SOCKET", &path);
    let node = Node::with(&place, "d", command);
    let told = || {
        let mut buffer = [0; 256];
        let n = notify.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).trim().to_owned()
    };
    assert_eq!(told(), "READY=1");
    assert_eq!(node.get("/healthz").ok(200)["status"], "ok");
    assert_eq!(node.stop(), Some(0));
    assert_eq!(told(), "STOPPING=1");
    assert!(!place.path("d/api.sock").exists());
}

#[test]
fn a_stop_takes_less_than_five_seconds_and_its_sessions_go_on_afterwards() {
    let place = Place::new();
    let (from, to) = (Node::start(&place, "from"), Node::start(&place, "to"));
    make_tree(&place.path("out/tree"), "s");
    fs::write(place.path("out/tree/bulk"), noise(8 << 20)).unwrap();
    let offered = from.create(&place, "tree");
    let target = place.path("in/copy");
    let ask = json!({ "ticket_uri": offered["ticket_uri"], "target_path": target, "limit_bps": 2_000_000 });
    let started = to.post("session/start", &ask).ok(201);
    to.until(&started["job_id"], |status| status["bytes_received"].as_u64() > Some(3_000_000));
    let begun = Instant::now();
    assert_eq!(to.stop(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!target.exists());

    let to = Node::start(&place, "to");
    let session = started["session_id"].as_str().unwrap();
    let status = to.get(&format!("/me/sync/v4/session/status?session_id={session}")).ok(200);
    assert_eq!(status["phase"], "waiting_for_peer", "{status}");
    let listed = to.get("/me/sync/v4/sessions").ok(200)["sessions"][0].clone();
    assert_eq!((&listed["state"], &listed["resumable"]), (&json!("interrupted"), &json!(true)));
    let resumed = to.post("session/resume", &json!({ "session_id": session })).ok(200);
    let done = to.outcome(&resumed["job_id"]);
    assert_eq!(done["status"], "completed", "{done}");
    assert!(done["payload_bytes"].as_u64() < done["bytes"].as_u64(), "what arrived is not sent again: {done}");
    assert_same(&picture(&place.path("out/tree")), &picture(&target));
}

#[test]
fn the_log_is_an_object_a_line_if_that_is_asked_for_and_holds_no_secret() {
    let place = Place::new();
    let mut command = place.command("d", &["-vv", "--json", "node", "--api-port", "0", "--log-format", "json"]);
    command.args(["--export-root".into(), place.path("out")]);
    fs::create_dir(place.path("out")).unwrap();
    make_tree(&place.path("out/tree"), "s");
    let mut node = Node::with(&place, "d", command);
    let offered = node.create(&place, "tree");
    node.raw("GET / HTTP/1.1\r\nhost: evil.com\r\nconnection: close\r\n\r\n").is(403, "forbidden_host");
    signal("TERM", &node.child);
    let mut log = String::new();
    std::io::Read::read_to_string(&mut node.child.stderr.take().unwrap(), &mut log).unwrap();
    assert!(!log.is_empty());
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    for secret in [&node.token, offered["ticket_uri"].as_str().unwrap()] {
        assert!(!log.contains(secret));
    }
}

#[test]
fn the_settings_of_the_api_are_those_of_the_file_unless_a_flag_or_the_environment_says_more() {
    let place = Place::new();
    make_tree(&place.path("out/tree"), "s");
    make_tree(&place.path("other/tree"), "s");
    let root = |name: &str| place.path(name).to_str().unwrap().to_owned();
    fs::create_dir_all(place.path("config/me-sync")).unwrap();
    let text = format!("name = \"attic\"\nlimit = \"5M\"\n[api]\nport = 0\nexport_roots = [{:?}]\n", root("out"));
    fs::write(place.path("config/me-sync/config.toml"), text).unwrap();
    // what every other test says by flags
    let command = |env: Option<&str>, flags: &[&str]| {
        let mut command = place.command("d", &["--json", "node"]);
        command.args(flags);
        env.map(|roots| command.env("ME_SYNC_EXPORT_ROOTS", roots));
        command
    };
    let offer = |node: &Node, name: &str| node.post("session/create", &json!({ "source_path": root(name) })).status;
    let by_file = Node::with(&place, "d", command(None, &[]));
    assert_eq!((offer(&by_file, "out/tree"), offer(&by_file, "other/tree")), (201, 403));
    by_file.stop();
    let by_environment = Node::with(&place, "d", command(Some(&root("other")), &[]));
    assert_eq!((offer(&by_environment, "out/tree"), offer(&by_environment, "other/tree")), (403, 201));
    by_environment.stop();
    let by_flag = Node::with(&place, "d", command(Some(&root("other")), &["--export-root", &root("out")]));
    assert_eq!((offer(&by_flag, "out/tree"), offer(&by_flag, "other/tree")), (201, 403));
    let job = by_flag.create(&place, "tree")["job_id"].clone();
    by_flag.until(&job, |status| status["limit_bps"] == 5_000_000);
}

#[test]
fn a_second_node_on_the_same_state_directory_is_refused() {
    let place = Place::new();
    let _node = Node::start(&place, "d");
    let refused = place.run("d", &["node", "--api-port", "0"]);
    assert_code(&refused, 16);
    assert!(stderr(&refused).contains("another me-sync"), "{}", stderr(&refused));
}

#[test]
fn a_node_that_was_killed_leaves_no_socket_that_anybody_waits_at() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    signal("KILL", &node.child);
    drop(node);
    assert!(place.path("d/api.sock").exists());
    assert_code(&place.run("d", &["sessions"]), 0);
    assert_eq!(Node::start(&place, "d").get("/healthz").status, 200);
}

#[test]
fn an_idle_node_needs_less_than_40_mib() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    node.get("/openapi.json").ok(200);
    let text = fs::read_to_string(format!("/proc/{}/status", node.child.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 40 << 10, "{kib} KiB");
}

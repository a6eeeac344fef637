//! A whole migration by HTTP, as the README shows it.

use std::fs;

use serde_json::{Value, json};

use crate::client::Node;
use crate::support::{Place, assert_same, make_tree, noise, picture};

fn pair(place: &Place) -> (Node, Node) {
    (Node::start(place, "from"), Node::start(place, "to"))
}

#[test]
fn an_import_is_started_with_a_ticket_or_a_code_and_a_code_needs_mdns() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    let target = place.path("in/copy");
    let ticket = "me.things:me.sync.v4:AAAA";
    for (what, status, code) in [
        (json!({}), 400, "bad_request"),
        (json!({ "ticket_uri": null, "code": null }), 400, "bad_request"),
        (json!({ "ticket_uri": ticket, "code": "7-velvet-harbor" }), 400, "bad_request"),
        (json!({ "code": "velvet" }), 400, "usage"),
        (json!({ "code": "7-velvet-hxrbor" }), 400, "usage"),
        (json!({ "code": "7-velvet-harbor" }), 404, "peer_not_found"),
    ] {
        let mut ask = what.clone();
        ask["target_path"] = json!(target);
        node.post("session/start", &ask).is(status, code);
    }
    assert!(!target.exists());
}

#[test]
fn one_tree_is_offered_to_several_devices_in_one_answer_and_a_code_is_made_where_one_is_asked_for() {
    let place = Place::new();
    let node = Node::start(&place, "from");
    make_tree(&place.path("out/tree"), "s");
    let path = place.path("out/tree");
    for wrong in [
        json!({ "devices": 0 }),
        json!({ "devices": 17 }),
        json!({ "devices": "3" }),
        json!({ "with_code": true, "no_code": true }),
    ] {
        let mut ask = wrong.clone();
        ask["source_path"] = json!(path);
        assert_eq!(node.post("session/create", &ask).status, 400, "{wrong}");
    }
    let ask = json!({ "source_path": path, "devices": 3, "with_code": true });
    let offered = node.post("session/create", &ask).ok(201);
    let others = offered["others"].as_array().unwrap();
    assert_eq!(others.len(), 2, "{offered}");
    for field in ["job_id", "session_id", "ticket_id", "ticket_uri", "code"] {
        let all: std::collections::BTreeSet<String> =
            others.iter().chain([&offered]).map(|one| one[field].to_string()).collect();
        assert_eq!(all.len(), 3, "{field}: {all:?}");
        assert!(!all.contains("null"), "{field}: {all:?}");
    }
}

#[test]
fn a_tree_is_offered_taken_watched_and_rolled_back_by_http() {
    let place = Place::new();
    let (from, to) = pair(&place);
    make_tree(&place.path("out/tree"), "s");
    fs::write(place.path("out/tree/bulk"), noise(4 << 20)).unwrap();
    make_tree(&place.path("in/copy"), "old");
    let before = picture(&place.path("in/copy"));

    let offered = from.create(&place, "tree");
    for field in ["session_id", "ticket_id"] {
        assert_eq!(offered[field].as_str().unwrap().len(), 32, "{offered}");
    }
    assert!(offered["qr"].as_str().unwrap().starts_with("data:image/svg+xml;base64,"));
    assert!(offered["code"].is_null() && offered["expires_at"].is_u64());
    let session = offered["session_id"].as_str().unwrap().to_owned();
    let status = format!("/me/sync/v4/session/status?session_id={session}");
    assert_eq!(from.get(&status).ok(200)["phase"], "nearby_connecting");

    let ask =
        json!({ "ticket_uri": offered["ticket_uri"], "target_path": place.path("in/copy"), "limit_bps": 4_000_000 });
    let started = to.post("session/start", &ask).ok(201);
    assert_eq!(started["session_id"], session.as_str(), "the session that was announced");
    assert_eq!(started["joined"], false);
    let again = to.post("session/start", &ask).ok(200);
    assert_eq!((&again["job_id"], &again["joined"]), (&started["job_id"], &json!(true)), "asked again it is the same");
    let asks = to.until(&started["job_id"], |status| !status["review"].is_null());
    assert!(asks["review"]["replaces"]["files"].as_u64() > Some(0), "{asks}");
    to.post("job/decide", &json!({ "job_id": started["job_id"], "accept": true })).ok(202);

    let mut phases: Vec<String> = Vec::new();
    let mut moved = 0;
    let seen = |status: &Value| {
        for field in
            ["files_ok", "files_failed", "files_total", "bytes_received", "bytes_total", "transfer_bps", "retry_round"]
        {
            assert!(status[field].is_u64(), "{field}: {status}");
        }
        assert!(status["detail"].is_string() && status["failures"].is_array());
    };
    let mut version = 0;
    let last = loop {
        let route = format!("/me/sync/v4/job/status?job_id={}&after_version={version}&wait_secs=30", started["job_id"]);
        let status = to.get(&route).ok(200);
        seen(&status);
        version = status["version"].as_u64().unwrap();
        let phase = status["phase"].as_str().unwrap().to_owned();
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
        assert!(status["bytes_received"].as_u64().unwrap() >= moved, "{status}");
        moved = status["bytes_received"].as_u64().unwrap();
        if !status["outcome"].is_null() {
            break status;
        }
    };
    let order =
        ["nearby_connecting", "manifest_receiving", "bulk_transferring", "final_verifying", "applying", "completed"];
    let places: Vec<_> = phases.iter().map(|phase| order.iter().position(|known| known == phase)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{phases:?}");
    assert!(phases.contains(&"bulk_transferring".to_owned()), "{phases:?}");
    assert_eq!((&last["files_ok"], &last["bytes_received"]), (&last["files_total"], &last["bytes_total"]));
    assert_eq!(last["outcome"]["status"], "completed");
    assert_eq!(from.outcome(&offered["job_id"])["status"], "completed");
    assert_same(&picture(&place.path("out/tree")), &picture(&place.path("in/copy")));

    let listed = to.get("/me/sync/v4/sessions").ok(200);
    assert_eq!((&listed["total"], &listed["sessions"][0]["session_id"]), (&json!(1), &json!(session)));
    let metrics = to.get("/metrics").body;
    let sum = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(sum("me_sync_payload_bytes_total{role=\"importer\"}"), last["payload_bytes"].as_u64().unwrap());
    assert_eq!(sum("me_sync_files_total{role=\"importer\"}"), last["files_ok"].as_u64().unwrap());

    // an answer that was lost is asked for again
    for changed in [true, false] {
        let ask = json!({ "target_path": place.path("in/copy"), "session_id": session });
        let back = to.post("session/rollback", &ask).ok(200);
        assert_eq!((&back["session_id"], &back["changed"]), (&json!(session), &json!(changed)));
        assert_same(&before, &picture(&place.path("in/copy")));
    }
    to.post("session/rollback", &json!({ "target_path": place.path("in/copy") })).is(404, "rollback_unavailable");
}

#[test]
fn an_offer_and_a_transfer_are_ended_for_good_by_abort() {
    let place = Place::new();
    let (from, to) = pair(&place);
    make_tree(&place.path("out/tree"), "s");
    fs::write(place.path("out/tree/bulk"), noise(8 << 20)).unwrap();
    let waiting = from.create(&place, "tree");
    let abort = |node: &Node, session: &Value| node.post("session/abort", &json!({ "session_id": session })).ok(200);
    assert_eq!(abort(&from, &waiting["session_id"])["changed"], true);
    assert_eq!(abort(&from, &waiting["session_id"])["changed"], false);
    let ask =
        |ticket: &Value| json!({ "ticket_uri": ticket, "target_path": place.path("in/copy"), "limit_bps": 500_000 });
    let refused = to.post("session/start", &ask(&waiting["ticket_uri"]));
    refused.is(403, "ticket_invalid");

    let offered = from.create(&place, "tree");
    let started = to.post("session/start", &ask(&offered["ticket_uri"])).ok(201);
    to.until(&started["job_id"], |status| status["bytes_received"].as_u64() > Some(100_000));
    assert_eq!(abort(&to, &started["session_id"])["changed"], true);
    assert_eq!(from.outcome(&offered["job_id"])["status"], "failed");
    assert!(!place.path("in/copy").exists());
    assert_eq!(fs::read_dir(place.path("in")).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn sessions_come_in_pages_without_a_gap_or_a_repetition() {
    let place = Place::new();
    let (from, to) = pair(&place);
    make_tree(&place.path("out/tree"), "s");
    for n in 0..5 {
        let offered = from.create(&place, "tree");
        let ask = json!({ "ticket_uri": offered["ticket_uri"], "target_path": place.path("in").join(n.to_string()) });
        let started = to.post("session/start", &ask).ok(201);
        assert_eq!(to.outcome(&started["job_id"])["status"], "completed");
    }
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = to.get(&format!("/me/sync/v4/sessions?limit=2{cursor}")).ok(200);
        assert_eq!(page["total"], 5);
        found.extend(page["sessions"].as_array().unwrap().iter().map(|s| s["target"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<_> =
        (0..5).rev().map(|n| place.path("in").join(n.to_string()).to_str().unwrap().to_owned()).collect();
    assert_eq!(found, expected);
    to.get("/me/sync/v4/sessions?limit=0").is(400, "bad_request");
    to.get("/me/sync/v4/sessions?cursor=5").is(400, "bad_request");
}

#[test]
fn files_that_fail_are_listed_and_a_retry_sends_them() {
    let place = Place::new();
    fs::create_dir_all(place.path("out")).unwrap();
    let mut command = place.command("from", &["--json", "node", "--api-port", "0"]);
    command.args(["--export-root".into(), place.path("out")]).env("ME_SYNC_TEST_CORRUPT", "a.txt:4");
    let from = Node::with(&place, "from", command);
    let to = Node::start(&place, "to");
    make_tree(&place.path("out/tree"), "s");
    let offered = from.create(&place, "tree");
    let ask = json!({ "ticket_uri": offered["ticket_uri"], "target_path": place.path("in/copy") });
    let started = to.post("session/start", &ask).ok(201);
    let failed = to.outcome(&started["job_id"]);
    assert_eq!(failed["code"], "retry_exhausted");
    let session = started["session_id"].as_str().unwrap();
    let failures = to.get(&format!("/me/sync/v4/session/failures?session_id={session}")).ok(200);
    assert_eq!((&failures["total"], &failures["failures"][0]["path"]), (&json!(1), &json!("a.txt")));
    let metrics = to.get("/metrics").body;
    assert!(metrics.contains("me_sync_retries_total{role=\"importer\"} 3"), "{metrics}");

    let offered = from.post("session/retry", &json!({ "session_id": session })).ok(200);
    assert_eq!((&offered["role"], &offered["offer"]["session_id"]), (&json!("exporter"), &json!(session)));
    let again = to.post("session/retry", &json!({ "session_id": session })).ok(200);
    let done = to.outcome(&again["job_id"]);
    assert_eq!(done["status"], "completed", "{done}");
    assert_same(&picture(&place.path("out/tree")), &picture(&place.path("in/copy")));
    to.post("session/retry", &json!({ "session_id": session })).is(409, "session_over");
}

//! The routes of v3: an archive from one node to another.

use std::fs;

use serde_json::json;

use crate::client::Node;
use crate::support::Place;

#[test]
fn an_archive_goes_from_node_to_node_by_the_routes_of_v3_and_its_ticket_can_be_voided() {
    let place = Place::new();
    let (from, to) = (Node::start(&place, "from"), Node::start(&place, "to"));
    fs::create_dir_all(place.path("out/src/dir")).unwrap();
    fs::write(place.path("out/src/dir/a"), "alpha").unwrap();
    let source = json!({ "source_path": place.path("out/src") });
    let made = from.post_v3("ticket/create", &source).ok(201);
    assert!(made["ticket_uri"].as_str().unwrap().starts_with("me.things:me.sync.v3:"));
    let id = made["ticket_id"].as_str().unwrap();
    let status = |node: &Node, id: &str| node.get(&format!("/me/sync/v3/ticket/status?ticket_id={id}"));
    assert_eq!(status(&from, id).ok(200)["protocol"], "v3");
    let import = json!({ "ticket_uri": made["ticket_uri"], "target_path": place.path("in/dst") });
    let required = json!({ "ticket_uri": made["ticket_uri"], "target_path": place.path("in/dst"), "require_v4": true });
    to.post_v3("import/apply", &required).is(409, "version_mismatch");
    let begun = to.post_v3("import/apply", &import).ok(201);
    let ended = to.until(&begun["job_id"], |job| job["outcome"].is_object());
    assert_eq!((&ended["outcome"]["status"], &ended["protocol"]), (&"completed".into(), &"v3".into()), "{ended}");
    assert_eq!(fs::read_to_string(place.path("in/dst/dir/a")).unwrap(), "alpha");

    let second = from.post_v3("ticket/create", &source).ok(201);
    let id = second["ticket_id"].as_str().unwrap();
    assert_eq!(from.post_v3("ticket/cancel", &json!({ "ticket_id": id })).ok(200)["changed"], true);
    assert_eq!(from.outcome(&second["job_id"])["code"], "aborted");
    let import = json!({ "ticket_uri": second["ticket_uri"], "target_path": place.path("in/other") });
    let begun = to.post_v3("import/apply", &import);
    assert!(begun.body.contains("ticket_invalid"), "{}", begun.body);
    status(&from, &"0".repeat(32)).is(404, "not_found");
    let v4 = from.post("session/create", &source).ok(201);
    let import = json!({ "ticket_uri": v4["ticket_uri"], "target_path": place.path("in/other") });
    to.post_v3("import/apply", &import).is(409, "version_mismatch");
}

//! The way into the page of the node, and how far it leads.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::client::{Answer, Node};
use crate::support::{Place, assert_code, make_tree, stderr, stdout};

const LOGIN: &str = "/me/sync/v4/dashboard/login";

fn node() -> (Place, Node) {
    let place = Place::new();
    let node = Node::start(&place, "d");
    (place, node)
}

/// The key of a link that `me-sync dashboard` prints.
fn key(place: &Place, node: &Node) -> String {
    let told = place.run("d", &["dashboard"]);
    assert_code(&told, 0);
    let link = stdout(&told);
    let key = link
        .trim()
        .strip_prefix(&format!("http://127.0.0.1:{}/#login=", node.port))
        .unwrap_or_else(|| panic!("{link}"));
    assert!(key.len() >= 43 && stderr(&told).contains("2m"), "{}", stderr(&told));
    key.to_owned()
}

/// A request as the page sends it, with this token and these lines.
fn ask(node: &Node, method: &str, route: &str, token: &str, more: &str) -> Answer {
    node.raw(&format!(
        "{method} {route} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n{more}\r\n",
        node.port
    ))
}

fn login(node: &Node, key: &str) -> Answer {
    ask(node, "POST", LOGIN, key, "content-length: 0\r\n")
}

/// The token of a page that has logged in.
fn page(place: &Place, node: &Node) -> String {
    login(node, &key(place, node)).ok(201)["token"].as_str().unwrap().to_owned()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn a_link_opens_one_session_and_no_second_one() {
    let (place, node) = node();
    let key = key(&place, &node);
    // it is no token for anything else, and asking with it uses nothing up
    ask(&node, "GET", "/healthz", &key, "").is(401, "unauthorized");
    ask(&node, "GET", LOGIN, &key, "").is(401, "unauthorized");
    let opened = login(&node, &key).ok(201);
    let token = opened["token"].as_str().unwrap();
    assert!(token != key && opened["expires_at"].as_u64().unwrap() > now_ms() + 3_600_000, "{opened}");
    for route in ["/healthz", "/me/sync/v4/roots", "/me/sync/v4/jobs", "/me/sync/v4/sessions", "/me/sync/v4/peers"] {
        ask(&node, "GET", route, token, "").ok(200);
    }
    login(&node, &key).is(401, "unauthorized");
    login(&node, token).is(401, "unauthorized");
    login(&node, &node.token).is(401, "unauthorized");
}

#[test]
fn a_link_whose_time_is_over_opens_nothing() {
    let (_place, node) = node();
    let made = node.at_socket("POST", "/me/sync/v4/dashboard/link", &json!({ "ttl_secs": 1 })).ok(201);
    let url = made["url"].as_str().unwrap().to_owned();
    let end = made["expires_at"].as_u64().unwrap() + 100;
    while now_ms() < end {
        std::thread::sleep(Duration::from_millis(end.saturating_sub(now_ms())));
    }
    login(&node, url.split_once("#login=").unwrap().1).is(401, "unauthorized");
    for ttl in [0, 601] {
        node.at_socket("POST", "/me/sync/v4/dashboard/link", &json!({ "ttl_secs": ttl })).is(400, "bad_request");
    }
}

#[test]
fn links_are_given_over_the_socket_only() {
    let (place, node) = node();
    node.post("dashboard/link", &json!({})).is(403, "socket_only");
    let page = page(&place, &node);
    let body = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    ask(&node, "POST", "/me/sync/v4/dashboard/link", &page, body).is(403, "socket_only");
}

/// Paths of the page's parts, as the page itself names them.
fn parts(node: &Node) -> Vec<String> {
    let mut found = vec!["/".to_owned()];
    let mut at = 0;
    while at < found.len() {
        let text = asset(node, &found[at], "").body;
        for quoted in text.split(['"', '\'']) {
            let named = quoted.strip_prefix("./").map(|name| format!("/page/{name}"));
            let named = named.or_else(|| quoted.starts_with("/page/").then(|| quoted.to_owned()));
            found.extend(named.filter(|named| !found.contains(named)));
        }
        at += 1;
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

/// Without a token.
fn asset(node: &Node, path: &str, headers: &str) -> Answer {
    node.raw(&format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n{headers}\r\n", node.port))
}

#[test]
fn the_page_loads_without_a_login_under_a_strict_policy_and_shows_nothing_of_the_device() {
    let (_place, node) = node();
    for path in parts(&node) {
        let answer = asset(&node, &path, "sec-fetch-site: same-origin\r\n");
        assert_eq!(answer.status, 200, "{path}");
        let head = &answer.head;
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
        let rules = [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ];
        for rule in rules {
            assert!(policy.split("; ").any(|given| given == rule), "{path}: {policy}");
        }
        for header in [
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-opener-policy: same-origin",
        ] {
            assert!(head.lines().any(|line| line == header), "{path}: {head}");
        }
        assert!(!head.contains("access-control") && !head.contains("set-cookie"), "{head}");
        assert!(!answer.body.contains(&node.token) && !answer.body.contains(node.state.to_str().unwrap()));
    }
    for route in ["/me/sync/v4/sessions", "/me/sync/v4/roots", "/page/other.js", "/page/", "/favicon.ico"] {
        asset(&node, route, "").is(401, "unauthorized");
    }
    let posted = node.raw(&format!("POST / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n", node.port));
    posted.is(401, "unauthorized");
}

// RELIABILITY A91, A92
#[test]
fn another_page_reaches_neither_the_page_nor_its_session() {
    let (place, node) = node();
    let token = page(&place, &node);
    let foreign = [
        "origin: http://evil.com\r\n".to_owned(),
        "origin: null\r\n".to_owned(),
        format!("origin: http://127.0.0.1:{}\r\n", node.port ^ 1),
        "sec-fetch-site: cross-site\r\n".to_owned(),
        // another port of 127.0.0.1 is the same site
        "sec-fetch-site: same-site\r\n".to_owned(),
    ];
    for header in &foreign {
        ask(&node, "GET", "/me/sync/v4/sessions", &token, header).is(403, "forbidden_origin");
        asset(&node, "/", header).is(403, "forbidden_origin");
    }
    let key = key(&place, &node);
    for header in &foreign {
        ask(&node, "POST", LOGIN, &key, header).is(403, "forbidden_origin");
    }
    // a cookie is no token
    asset(&node, "/me/sync/v4/sessions", &format!("cookie: token={token}; me-sync-token={token}\r\n"))
        .is(401, "unauthorized");
    asset(&node, &format!("/me/sync/v4/sessions?token={token}"), "").is(401, "unauthorized");
    let elsewhere = format!("GET / HTTP/1.1\r\nhost: evil.com:{}\r\nconnection: close\r\n\r\n", node.port);
    node.raw(&elsewhere).is(403, "forbidden_host");
    let own = format!("origin: http://127.0.0.1:{}\r\nsec-fetch-site: same-origin\r\n", node.port);
    ask(&node, "POST", LOGIN, &key, &format!("{own}content-length: 0\r\n")).ok(201);
}

#[test]
fn a_page_that_logs_out_is_nobody_again_and_its_stream_ends() {
    let (place, node) = node();
    let (token, other) = (page(&place, &node), page(&place, &node));
    let mut stream = node.connect();
    let head = format!("host: 127.0.0.1:{}\r\nauthorization: Bearer {token}\r\n", node.port);
    write!(stream, "GET /me/sync/v4/events HTTP/1.1\r\n{head}connection: close\r\n\r\n").unwrap();
    let mut events = BufReader::new(stream);
    let mut line = String::new();
    events.read_line(&mut line).unwrap();
    assert!(line.contains(" 200 "), "{line}");
    let logout = "/me/sync/v4/dashboard/logout";
    assert_eq!(ask(&node, "POST", logout, &token, "content-length: 0\r\n").ok(200), json!({ "changed": true }));
    events.read_to_end(&mut Vec::new()).unwrap();
    ask(&node, "GET", "/healthz", &token, "").is(401, "unauthorized");
    ask(&node, "GET", "/healthz", &other, "").ok(200);
    assert_eq!(node.with_headers("POST", logout, "content-length: 0\r\n").ok(200), json!({ "changed": false }));
}

#[test]
fn a_session_of_the_page_does_not_outlive_the_node() {
    let (place, node) = node();
    let (token, key) = (page(&place, &node), key(&place, &node));
    node.stop();
    let node = Node::start(&place, "d");
    ask(&node, "GET", "/healthz", &token, "").is(401, "unauthorized");
    login(&node, &key).is(401, "unauthorized");
}

// RELIABILITY A94
#[test]
fn the_page_is_bound_to_the_roots_and_is_told_which_there_are() {
    let (place, node) = node();
    let token = page(&place, &node);
    make_tree(&place.path("out/tree"), "s");
    make_tree(&place.path("other"), "s");
    fs::create_dir(place.path("out/.hidden")).unwrap();
    fs::write(place.path("out/file"), "x").unwrap();
    let roots = ask(&node, "GET", "/me/sync/v4/roots", &token, "").ok(200);
    let (out, into) = (place.path("out"), place.path("in"));
    assert_eq!(roots["export_roots"], json!([{ "path": out, "is_there": true, "directories": ["tree"] }]));
    assert_eq!(roots["import_roots"], json!([{ "path": into, "is_there": true, "directories": [] }]));
    let post = |route: &str, body: &Value| {
        let body = body.to_string();
        let more = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        ask(&node, "POST", &format!("/me/sync/v4/{route}"), &token, &more)
    };
    post("session/create", &json!({ "source_path": place.path("other") })).is(403, "path_not_allowed");
    post("session/rollback", &json!({ "target_path": place.path("other") })).is(403, "path_not_allowed");
    let offered = post("session/create", &json!({ "source_path": place.path("out/tree") })).ok(201);
    let jobs = ask(&node, "GET", "/me/sync/v4/jobs", &token, "").ok(200);
    assert_eq!(
        (&jobs["jobs"][0]["job_id"], &jobs["jobs"][0]["session_id"]),
        (&offered["job_id"], &offered["session_id"])
    );
}

#[test]
fn an_import_that_is_to_be_confirmed_waits_although_nothing_is_replaced() {
    let place = Place::new();
    let (from, to) = (Node::start(&place, "from"), Node::start(&place, "to"));
    make_tree(&place.path("out/tree"), "s");
    let offered = from.create(&place, "tree");
    let ask = json!({ "ticket_uri": offered["ticket_uri"], "target_path": place.path("in/new"), "confirm": true });
    let started = to.post("session/start", &ask).ok(201);
    let asked = to.until(&started["job_id"], |status| !status["review"].is_null());
    assert!(asked["review"]["replaces"].is_null() && asked["review"]["files"].as_u64() > Some(4), "{asked}");
    assert!(!place.path("in/new").exists());
    to.post("job/decide", &json!({ "job_id": started["job_id"], "accept": true })).ok(202);
    assert_eq!(to.outcome(&started["job_id"])["status"], "completed");
}

#[test]
fn without_a_node_the_command_says_what_to_type() {
    let place = Place::new();
    let refused = place.run("d", &["dashboard"]);
    assert_code(&refused, 15);
    let said = stderr(&refused);
    assert!(said.contains("no node runs") && said.contains("me-sync --state-dir") && said.contains(" node`"), "{said}");
    let _node = Node::start(&place, "d");
    assert_code(&place.run("d", &["--no-node", "dashboard"]), 2);
    assert_code(&place.run("d", &["dashboard", "--expires", "11m"]), 2);
    let told = place.run("d", &["--json", "dashboard"]);
    let result: Value = serde_json::from_str(stdout(&told).lines().last().unwrap()).unwrap();
    assert!(
        result["url"].as_str().unwrap().contains("/#login=") && result["expires_at"].as_u64() > Some(now_ms()),
        "{result}"
    );
}

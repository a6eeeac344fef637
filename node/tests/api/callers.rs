//! Who may ask: RELIABILITY A90 to A92.

use crate::client::{Answer, Node};
use crate::support::Place;

fn node() -> (Place, Node) {
    let place = Place::new();
    let node = Node::start(&place, "d");
    (place, node)
}

/// Every documented route with its methods.
fn routes(node: &Node) -> Vec<(String, String)> {
    let openapi = node.get("/openapi.json").ok(200);
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = openapi["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().keys().map(move |method| (method.to_ascii_uppercase(), path.clone()))
    });
    let all: Vec<_> = all.collect();
    assert!(all.len() >= 22, "{all:?}");
    all
}

fn ask(node: &Node, method: &str, route: &str, headers: &str) -> Answer {
    node.raw(&format!(
        "{method} {route} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n{headers}\r\n",
        node.port
    ))
}

// RELIABILITY A90
#[test]
fn no_route_answers_without_the_token() {
    let (_place, node) = node();
    let token = node.token.clone();
    let other = "A".repeat(token.len());
    for (method, route) in routes(&node) {
        for headers in [
            String::new(),
            format!("authorization: Bearer {other}\r\n"),
            format!("authorization: Bearer {}\r\n", &token[1..]),
            format!("authorization: Bearer {token}x\r\n"),
            format!("authorization: Basic {token}\r\n"),
            format!("authorization: {token}\r\n"),
            format!("authorization: Bearer {other}\r\nauthorization: Bearer {token}\r\n"),
            format!("cookie: token={token}\r\n"),
        ] {
            let answer = ask(&node, &method, &route, &headers);
            answer.is(401, "unauthorized");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        }
        for name in ["token", "access_token", "authorization"] {
            ask(&node, &method, &format!("{route}?{name}={token}"), "").is(401, "unauthorized");
        }
    }
    // what there is is nobody's business
    ask(&node, "GET", "/nothing", "").is(401, "unauthorized");
    node.get("/nothing").is(404, "not_found");
    node.get("/healthz").ok(200);
    ask(&node, "GET", "/healthz", &format!("authorization: bearer {token}\r\n")).ok(200);
}

// RELIABILITY A91
#[test]
fn the_node_answers_to_its_own_names_only() {
    let (_place, node) = node();
    let (port, token) = (node.port, node.token.clone());
    let called = |head: &str| node.raw(&format!("{head}authorization: Bearer {token}\r\nconnection: close\r\n\r\n"));
    for own in ["127.0.0.1", "localhost", "[::1]"] {
        called(&format!("GET /healthz HTTP/1.1\r\nhost: {own}:{port}\r\n")).ok(200);
    }
    let wrong = [
        format!("host: evil.com:{port}\r\n"),
        "host: evil.com\r\n".to_owned(),
        String::new(),
        "host:\r\n".to_owned(),
        format!("host: 127.0.0.1:{port}\r\nhost: 127.0.0.1:{port}\r\n"),
        format!("host: localhost.evil.com:{port}\r\n"),
        format!("host: 127.0.0.1.nip.io:{port}\r\n"),
        format!("host: 127.0.0.1:{}\r\n", port ^ 1),
        "host: 127.0.0.1\r\n".to_owned(),
        format!("host: 0.0.0.0:{port}\r\n"),
        format!("host: 127.1:{port}\r\n"),
        format!("host: LOCALHOST.:{port}\r\n"),
        format!("host: 127.0.0.1:0{port}\r\n"),
        format!("host: x@127.0.0.1:{port}\r\n"),
    ];
    for header in wrong {
        let answer = called(&format!("GET /healthz HTTP/1.1\r\n{header}"));
        // hyper itself turns away what is no HTTP/1.1
        assert!([400, 403].contains(&answer.status), "{header}: {answer:?}");
        if answer.status == 403 {
            answer.is(403, "forbidden_host");
        }
    }
    for target in [format!("http://127.0.0.1:{port}/healthz"), "http://evil.com/healthz".to_owned()] {
        called(&format!("GET {target} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n")).is(403, "forbidden_host");
    }
    called("GET /healthz HTTP/1.0\r\n").is(403, "forbidden_host");
    // before routing, and before the token
    node.raw("GET /nothing HTTP/1.1\r\nhost: evil.com\r\nconnection: close\r\n\r\n").is(403, "forbidden_host");
}

// RELIABILITY A92
#[test]
fn no_page_of_a_browser_reaches_a_route() {
    let (_place, node) = node();
    let create = "/me/sync/v4/session/create";
    for headers in [
        "origin: http://evil.com\r\n",
        "origin: null\r\n",
        "origin: https://127.0.0.1:1\r\n",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: x\r\n",
        "origin: http://evil.com\r\naccess-control-request-method: POST\r\n",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let answer = node.with_headers(method, create, headers);
            answer.is(403, "forbidden_origin");
            assert!(!answer.head.contains("access-control"), "{}", answer.head);
        }
    }
    let own = format!("origin: http://127.0.0.1:{}\r\nsec-fetch-site: same-origin\r\n", node.port);
    let answer = node.with_headers("GET", "/healthz", &own);
    answer.ok(200);
    assert!(!answer.head.contains("access-control"), "{}", answer.head);
}

// RELIABILITY A92
#[test]
fn what_a_form_of_a_page_can_send_is_no_body_of_a_request() {
    let (_place, node) = node();
    let create = "/me/sync/v4/session/create";
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
    {
        let headers = format!("content-type: {content_type}\r\ncontent-length: 2\r\n\r\n{{}}");
        node.with_headers("POST", create, &headers).is(415, "unsupported_media_type");
    }
    node.with_headers("POST", create, "content-length: 2\r\n\r\n{}").is(415, "unsupported_media_type");
    let twice = "content-type: application/json\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    node.with_headers("POST", create, twice).is(415, "unsupported_media_type");
}

#[test]
fn whatever_is_wrong_with_a_request_is_said_in_one_shape() {
    let (_place, node) = node();
    let answer = node.with_headers("DELETE", "/me/sync/v4/sessions", "");
    answer.is(405, "method_not_allowed");
    assert!(answer.head.contains("allow: get"), "{}", answer.head);
    for body in ["", "{", "[]", "{\"source_path\":5}", "{\"source_path\":\"/x\",\"sauce\":1}", "{\"ttl_secs\":1}"] {
        let headers = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        node.with_headers("POST", "/me/sync/v4/session/create", &headers).is(400, "bad_request");
    }
    // what is no JSON and what is other JSON than is needed are told apart, and where
    for (body, what) in [
        ("", "the body is empty"),
        (" \n", "the body is empty"),
        ("{\"source_path\": ", "not JSON: it breaks off at line 1"),
        ("source_path=/x", "not JSON: expected value at line 1 column 1"),
        ("{\n\"source_path\": '/x'}", "not JSON: expected value at line 2"),
        ("{\"source_path\":5}", "not what this route takes"),
    ] {
        let headers = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer = node.with_headers("POST", "/me/sync/v4/session/create", &headers);
        answer.is(400, "bad_request");
        assert!(answer.body.contains(what), "{body}: {}", answer.body);
    }
    for query in ["", "?session_id=5", "?session_id=x&more=1", &format!("?session_id={}", "A".repeat(32))] {
        node.get(&format!("/me/sync/v4/session/status{query}")).is(400, "bad_request");
    }
    let unknown = "0".repeat(32);
    node.get(&format!("/me/sync/v4/session/status?session_id={unknown}")).is(404, "session_unknown");
    node.get("/me/sync/v4/job/status?job_id=9").is(404, "not_found");
}

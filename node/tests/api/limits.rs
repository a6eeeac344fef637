//! What one caller, or many, can take: RELIABILITY A93.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::client::{Answer, Node};
use crate::support::{Place, assert_code};

const CREATE: &str = "/me/sync/v4/session/create";

// RELIABILITY A93
#[test]
fn a_body_that_is_too_long_is_refused_before_it_is_read_whole() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    let long = "x".repeat((64 << 10) + 1);
    let headers = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{long}", long.len());
    node.with_headers("POST", CREATE, &headers).is(413, "body_too_large");

    // without a length, and without an end
    let mut stream = node.connect();
    let head = format!(
        "POST {CREATE} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        node.port, node.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    while stream.write_all(chunk.as_bytes()).is_ok() {}
    node.get("/healthz").ok(200);
}

// RELIABILITY A93
#[test]
fn ten_thousand_headers_and_a_head_without_end_are_refused() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    let many: String = (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect();
    assert_eq!(node.with_headers("GET", "/healthz", &many).status, 431);
    let long = format!("x: {}\r\n", "y".repeat(200_000));
    assert_eq!(node.with_headers("GET", "/healthz", &long).status, 431);
}

// RELIABILITY A93
#[test]
fn http2_is_not_spoken() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    let answer = node.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert!([0, 400, 505].contains(&answer.status), "{answer:?}");
    node.with_headers("GET", "/healthz", "connection: upgrade\r\nupgrade: h2c\r\n").is(403, "forbidden_origin");
}

// RELIABILITY A93
#[test]
fn whoever_draws_out_a_head_or_a_body_or_says_nothing_is_cut_off() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    let begun = Instant::now();
    let silent = node.connect();
    let mut drip = node.connect();
    drip.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0").unwrap();
    let mut slow = node.connect();
    let head = format!(
        "POST {CREATE} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: 10\r\n\r\n{{",
        node.port, node.token
    );
    slow.write_all(head.as_bytes()).unwrap();
    let mut idle = node.connect();
    let asked = format!(
        "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\n\r\n",
        node.port, node.token
    );
    idle.write_all(asked.as_bytes()).unwrap();

    Answer::read(slow).is(408, "timeout");
    for stream in [silent, drip, idle] {
        // it ends, with or without a word
        Answer::read(stream);
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

// RELIABILITY A93
#[test]
fn a_thousand_connections_keep_nobody_out_for_long_and_the_command_line_not_at_all() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    let held: Vec<TcpStream> = (0..1000).map_while(|_| TcpStream::connect(("127.0.0.1", node.port)).ok()).collect();
    assert!(held.len() > 500, "{}", held.len());
    let told = held.iter().any(|mut stream| {
        let mut first = [0; 12];
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        stream.read_exact(&mut first).is_ok_and(|()| first == *b"HTTP/1.1 429")
    });
    assert!(told, "one too many is told so");
    assert_code(&place.run("d", &["sessions"]), 0);
    drop(held);
    let begun = Instant::now();
    while node.get("/healthz").status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(15));
    }
}

//! The stream of events: nothing is missed, nothing comes twice, and nobody who is slow costs anything.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::client::Node;
use crate::support::{Place, make_tree, noise};

/// One event: its id, its name and what it says.
type Event = (String, String, Value);

struct Events(BufReader<TcpStream>);

impl Events {
    fn open(node: &Node, after: Option<&str>) -> Self {
        let mut stream = node.connect();
        let after = after.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /me/sync/v4/events HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\n{after}\r\n",
            node.port, node.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut lines = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.0.read_line(&mut head).unwrap(), 0);
        }
        assert!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
        lines
    }

    /// None when the stream ends.
    fn next(&mut self) -> Option<Event> {
        let (mut id, mut name) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let text = line.trim_end();
            match text.split_once(": ") {
                Some(("id", text)) => id = text.to_owned(),
                Some(("event", text)) => name = text.to_owned(),
                Some(("data", text)) => {
                    let data = serde_json::from_str(text).unwrap();
                    // the lines of an event come in any order, and a blank one ends it
                    while !line.trim_end().is_empty() {
                        line.clear();
                        self.0.read_line(&mut line).unwrap();
                        if let Some(("id", text)) = line.trim_end().split_once(": ") {
                            id = text.to_owned();
                        }
                    }
                    return Some((id, name, data));
                }
                _ => {}
            }
        }
    }

    fn until_end(&mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next() {
            let is_last = event.1 == "ended";
            all.push(event);
            if is_last {
                break;
            }
        }
        all
    }
}

fn transfer(place: &Place, from: &Node, to: &Node, name: &str, limit: u64) -> Value {
    let offered = from.create(place, "tree");
    let target = place.path("in").join(name);
    let ask = json!({ "ticket_uri": offered["ticket_uri"], "target_path": target, "limit_bps": limit });
    to.post("session/start", &ask).ok(201)
}

#[test]
fn a_client_that_lost_its_connection_goes_on_behind_the_last_event_it_had() {
    let place = Place::new();
    let (from, to) = (Node::start(&place, "from"), Node::start(&place, "to"));
    make_tree(&place.path("out/tree"), "s");
    fs::write(place.path("out/tree/bulk"), noise(4 << 20)).unwrap();
    let mut whole = Events::open(&to, None);
    let mut broken = Events::open(&to, None);
    let started = transfer(&place, &from, &to, "copy", 2_000_000);
    let mut heard = vec![broken.next().unwrap(), broken.next().unwrap()];
    drop(broken);
    to.until(&started["job_id"], |status| status["bytes_received"].as_u64() > Some(2_000_000));
    heard.extend(Events::open(&to, Some(&heard[1].0)).until_end());
    let all = whole.until_end();
    assert_eq!(heard, all);
    assert!(all.len() > 4, "{all:?}");
    let (_, name, last) = all.last().unwrap();
    assert_eq!((name.as_str(), &last["status"], &last["phase"]), ("ended", &json!("completed"), &json!("completed")));
    assert_eq!(last["session_id"], started["session_id"]);
    // after a restart no number means what it meant
    drop(to);
    let to = Node::start(&place, "to");
    let (_, name, _) = Events::open(&to, Some(&all[0].0)).next().unwrap();
    assert_eq!(name, "reset");
}

#[test]
fn fifty_clients_that_read_nothing_neither_slow_a_transfer_nor_take_memory() {
    let place = Place::new();
    let (from, to) = (Node::start(&place, "from"), Node::start(&place, "to"));
    make_tree(&place.path("out/tree"), "s");
    let memory = || {
        let text = fs::read_to_string(format!("/proc/{}/status", to.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    transfer(&place, &from, &to, "warm", 1 << 30);
    let before = memory();
    let deaf: Vec<_> = (0..50).map(|_| Events::open(&to, None)).collect();
    for n in 0..5 {
        let started = transfer(&place, &from, &to, &n.to_string(), 1 << 30);
        assert_eq!(to.outcome(&started["job_id"])["status"], "completed");
    }
    let after = memory();
    assert!(after < before + (16 << 10), "{before} KiB, then {after} KiB");
    assert!(to.get("/metrics").body.contains("me_sync_event_clients 50"));
    drop(deaf);
}

#[test]
fn streams_end_when_the_node_stops() {
    let place = Place::new();
    let node = Node::start(&place, "d");
    let mut events = Events::open(&node, None);
    assert_eq!(node.stop(), Some(0));
    assert_eq!(events.next(), None);
}

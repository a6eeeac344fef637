//! `send --devices`: one process that serves several others at once.

use std::process::Child;

use serde_json::Value;

use crate::support::{Place, Sender, assert_code, assert_same, events, make_tree, picture};

/// A `receive` with this ticket, as a device of its own.
fn receive(place: &Place, n: usize, ticket: &str) -> Child {
    let (device, dir) = (format!("device{n}"), format!("dst{n}"));
    place.command(&device, &["receive", &dir]).env("ME_SYNC_TICKET", ticket).spawn().unwrap()
}

fn tickets(sender: &mut Sender, devices: usize) -> Vec<String> {
    let first = sender.ticket.clone();
    std::iter::once(first).chain((1..devices).map(|_| sender.next_line())).collect()
}

#[test]
fn three_devices_receive_at_once_and_the_sender_names_each() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let before = picture(&place.path("src"));
    let mut sender = place.send(&["src", "--devices", "3"]);
    let tickets = tickets(&mut sender, 3);
    let receivers: Vec<_> = tickets.iter().enumerate().map(|(n, ticket)| receive(&place, n + 1, ticket)).collect();
    for receiver in receivers {
        assert_code(&receiver.wait_with_output().unwrap(), 0);
    }
    let sent = sender.wait();
    assert_eq!((sent.code, sent.rest.as_str()), (Some(0), ""), "{}", sent.stderr);
    for n in 1..=3 {
        assert_same(&before, &picture(&place.path(&format!("dst{n}"))));
        assert!(sent.stderr.contains(&format!("[{n} device{n}] confirmed: ")), "{}", sent.stderr);
    }
    assert!(sent.stderr.contains("all 3 devices have it"), "{}", sent.stderr);
}

#[test]
fn another_process_that_sends_for_this_one_makes_all_tickets_at_once() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    make_tree(&place.path("own"), "o");
    let host = place.send(&["own"]);
    let mut sender = place.send(&["src", "--devices", "3", "--json"]);
    let tickets: Vec<Value> = tickets(&mut sender, 3).iter().map(|line| events(line).remove(0)).collect();
    assert_eq!(tickets.iter().map(|t| t["offer"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    let receivers: Vec<_> =
        (1..).zip(&tickets).map(|(n, event)| receive(&place, n, event["ticket"].as_str().unwrap())).collect();
    for receiver in receivers {
        assert_code(&receiver.wait_with_output().unwrap(), 0);
    }
    let sent = sender.wait();
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    for n in 1..=3 {
        assert_same(&picture(&place.path("src")), &picture(&place.path(&format!("dst{n}"))));
    }
    host.interrupt();
}

#[test]
fn with_json_each_event_says_whose_it_is_and_the_worst_end_is_the_exit_code() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let mut sender = place.send(&["src", "--devices", "2", "--expires", "8s", "--json"]);
    let tickets: Vec<Value> = tickets(&mut sender, 2).iter().map(|line| events(line).remove(0)).collect();
    assert_eq!(tickets.iter().map(|t| t["offer"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    // nobody comes with the first ticket
    let receiver = receive(&place, 2, tickets[1]["ticket"].as_str().unwrap());
    assert_code(&receiver.wait_with_output().unwrap(), 0);
    let sent = sender.wait();
    assert_eq!(sent.code, Some(13), "{}", sent.stderr);
    let events = events(&sent.rest);
    let (result, others) = events.split_last().unwrap();
    assert!(others.iter().all(|event| matches!(event["offer"].as_u64(), Some(1 | 2))), "{others:?}");
    let ended: Vec<_> = others.iter().filter(|event| event["event"] == "ended").collect();
    assert_eq!(ended.len(), 2);
    assert_eq!((result["event"].as_str(), result["exit_code"].as_u64()), (Some("result"), Some(13)));
    let offers = result["offers"].as_array().unwrap();
    let ends: Vec<_> = offers.iter().map(|o| (o["offer"].as_u64(), o["ok"].as_bool())).collect();
    assert_eq!(ends, [(Some(1), Some(false)), (Some(2), Some(true))]);
    assert_eq!(offers[1]["peer"]["device_name"], "device2");
}

#[test]
fn what_came_over_is_summed_up_over_all_devices_packed_or_not() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let mut sender = place.send(&["src", "--devices", "2", "--compress", "never", "--json"]);
    let tickets: Vec<Value> = tickets(&mut sender, 2).iter().map(|line| events(line).remove(0)).collect();
    let receivers: Vec<_> =
        (1..).zip(&tickets).map(|(n, ticket)| receive(&place, n, ticket["ticket"].as_str().unwrap())).collect();
    for receiver in receivers {
        assert_code(&receiver.wait_with_output().unwrap(), 0);
    }
    let sent = sender.wait();
    let result = events(&sent.rest).pop().unwrap();
    let twice = result["bytes"].as_u64().map(|bytes| 2 * bytes);
    assert_eq!((result["payload_bytes"].as_u64(), result["wire_bytes"].as_u64()), (twice, twice), "{result:#}");
}

#[test]
fn a_stop_is_said_once_and_typed_again_all_of_them_go_on() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let before = picture(&place.path("src"));
    assert_code(&place.run("exporter", &["limit", "100K"]), 0);
    let mut sender = place.send(&["src", "--devices", "2"]);
    let tickets = tickets(&mut sender, 2);
    let receivers: Vec<_> = tickets.iter().enumerate().map(|(n, ticket)| receive(&place, n + 1, ticket)).collect();
    let both_begun = || place.run("exporter", &["sessions"]);
    while String::from_utf8(both_begun().stdout).unwrap().lines().count() < 2 {
        std::thread::yield_now();
    }
    let sent = sender.interrupt();
    assert_eq!(sent.code, Some(130), "{}", sent.stderr);
    assert_eq!(sent.stderr.matches("stopping; once more").count(), 1, "{}", sent.stderr);
    let missing = sent.stderr.split("still missing: ").nth(1).unwrap();
    for part in ["[1] device1", "[2] device2", "send --devices 2 "] {
        assert!(missing.contains(part), "{}", sent.stderr);
    }
    assert_code(&place.run("exporter", &["limit", "off"]), 0);
    let sent = place.send(&["src", "--devices", "2"]).wait();
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    assert_eq!(sent.stderr.matches("goes on with session").count(), 2, "{}", sent.stderr);
    for (n, receiver) in receivers.into_iter().enumerate() {
        assert_code(&receiver.wait_with_output().unwrap(), 0);
        assert_same(&before, &picture(&place.path(&format!("dst{}", n + 1))));
    }
    // who has it is named, and nobody came for the new tickets
    let sent = place.send(&["src", "--devices", "2"]).interrupt();
    assert_eq!(sent.stderr.matches("took this directory on").count(), 2, "{}", sent.stderr);
    assert!(sent.stderr.contains("[2] whose ticket nobody used"), "{}", sent.stderr);
}

//! Spoken codes where mDNS is off, as in all of these tests: whoever types one says where the other device is.

use crate::support::{Place, Sender, assert_code, assert_same, events, make_tree, picture, stderr};

/// The code of a `send --json --code`, and where it is.
fn told(sender: &Sender) -> (String, String) {
    let ticket = events(&sender.ticket).remove(0);
    let address =
        ticket["addresses"].as_array().unwrap().iter().find_map(|a| a.as_str().filter(|a| a.contains("/tcp/")));
    let port = address.unwrap().rsplit('/').next().unwrap().to_owned();
    (ticket["code"].as_str().unwrap().to_owned(), format!("127.0.0.1:{port}"))
}

#[test]
fn a_code_is_taken_with_the_address_alone_here_and_through_another_command() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    for joined in [false, true] {
        let host = joined.then(|| place.send_as("importer", &["src"]));
        let sender = place.offer("exporter", &["--json", "send", "--code", "src"]);
        let (code, address) = told(&sender);
        let nowhere = place.run("importer", &["receive", "-y", &code, "dst"]);
        assert_code(&nowhere, 2);
        assert!(stderr(&nowhere).contains("--peer IP:PORT"), "{}", stderr(&nowhere));
        assert_code(&place.run("importer", &["receive", "-y", &code, "dst", "--peer", &address]), 0);
        assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
        let sent = sender.wait();
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
        host.map(Sender::interrupt);
    }
}

/// The lines that name a command with a code.
fn by_code(stderr: &str) -> Vec<&str> {
    let digits = |line: &&str| {
        line.split("me-sync receive ").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    stderr.lines().filter(digits).collect()
}

#[test]
fn without_mdns_only_the_line_that_works_is_shown_for_one_device_and_for_several() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    for joined in [false, true] {
        let host = joined.then(|| place.send_as("exporter", &["src"]));
        for (args, lines) in [(&["--code", "--new", "src"][..], 1), (&["--code", "--new", "--devices", "2", "src"], 2)]
        {
            let shown = place.send(args).interrupt().stderr;
            let typed = by_code(&shown);
            assert_eq!(typed.len(), lines, "{shown}");
            assert!(typed.iter().all(|line| line.contains(" DIR --peer 127.0.0.1:")), "{shown}");
            assert!(!shown.contains("on this network"), "{shown}");
        }
        host.map(Sender::interrupt);
    }
}

#[test]
fn the_line_with_the_code_is_shown_also_with_quiet_and_stdout_is_the_ticket_alone() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["--quiet", "--code", "src"]);
    let mut taken = place.command("importer", &["--quiet", "receive", "dst"]);
    assert_code(&taken.env("ME_SYNC_TICKET", &sender.ticket).output().unwrap(), 0);
    let sent = sender.wait();
    assert_eq!((sent.code, sent.rest.as_str()), (Some(0), ""));
    assert_eq!((by_code(&sent.stderr).len(), sent.stderr.lines().count()), (1, 1), "{}", sent.stderr);
    let without = place.send(&["--quiet", "src"]).interrupt();
    assert_eq!(by_code(&without.stderr), Vec::<&str>::new(), "there is none");
}

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
    let shown = place.send(&["--code", "src"]).interrupt();
    assert!(shown.stderr.contains("receive CODE DIR --peer 127.0.0.1:"), "{}", shown.stderr);
}

//! What is refused, with which exit code, and that nothing was touched.

use std::fs;
use std::os::unix::net::UnixListener;

use crate::support::{Place, assert_code, assert_same, events, make_tree, picture, stderr, stdout};

const NO_SUCH: &str = "me.things:me.sync.v4:AAAA";

#[test]
fn text_that_is_no_ticket_is_usage_and_a_damaged_one_is_refused() {
    let place = Place::new();
    for (ticket, code) in [("hello", 2), ("", 2), ("\n\n", 2), (NO_SUCH, 4), ("me.things:me.sync.v9:AAAA", 14)] {
        let output = place.run_with_input("importer", &["receive", "dst"], ticket);
        assert_code(&output, code);
        assert_eq!(stderr(&output).lines().count(), 2, "what happened and what to do: {}", stderr(&output));
        let output = place.run_with_input("importer", &["receive", "--json", "dst"], ticket);
        let events = events(&stdout(&output));
        assert_eq!(events.last().unwrap()["exit_code"].as_i64(), Some(i64::from(code)));
    }
    assert!(!place.path("dst").exists());
    assert!(!place.path("importer").exists(), "no state was made for it");
    let forgot = place.run("importer", &["receive", NO_SUCH]);
    assert_code(&forgot, 2);
    assert!(stderr(&forgot).contains("directory"), "{}", stderr(&forgot));
}

#[test]
fn a_misspelled_code_is_refused_before_anybody_is_asked_and_without_mdns_there_is_none() {
    let place = Place::new();
    for (code, says) in [
        ("7-velvet-hxrbor", "harbor"),
        ("7-velvet", "2 words"),
        ("4000-velvet-harbor", "999"),
        ("7 velvet harbor", "--no-mdns"),
    ] {
        let output = place.run_with_input("importer", &["receive", "dst"], code);
        assert_code(&output, 2);
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
    assert!(!place.path("dst").exists());
}

#[test]
fn a_used_ticket_is_refused_and_the_target_untouched() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let first = place.send(&["src"]);
    let used = first.ticket.clone();
    assert_code(&place.run_with_input("importer", &["receive", "dst"], &used), 0);
    assert_eq!(first.wait().code, Some(0));

    // the same device, another offer, at another port
    let second = place.send(&["src"]);
    let port = listening_port(&second.ticket);
    let again = place.run_with_input("importer", &["receive", "dst2", "--peer", &port], &used);
    assert_code(&again, 4);
    assert!(!place.path("dst2").exists());
    assert_eq!(place.staging_leftovers(), [""; 0]);

    assert_code(&place.run_with_input("importer", &["receive", "dst2"], &second.ticket), 0);
    assert_eq!(second.wait().code, Some(0));
}

fn listening_port(ticket: &str) -> String {
    let ticket = me_sync_protocol::ticket::Ticket::parse(ticket).unwrap();
    ticket.addresses.iter().find(|a| a.contains("/tcp/")).unwrap().clone()
}

#[test]
fn nobody_at_the_addresses_is_exit_3() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["src"]);
    let ticket = sender.ticket.clone();
    assert_eq!(sender.interrupt().code, Some(130));
    let output = place.run_with_input("importer", &["receive", "--connect-timeout", "1s", "dst"], &ticket);
    assert_code(&output, 3);
    assert!(!place.path("dst").exists());
}

#[test]
fn nobody_who_comes_is_exit_13_and_who_comes_later_hears_why_nobody_is_there() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["--expires", "1s", "src"]);
    let ticket = sender.ticket.clone();
    let sent = sender.wait();
    assert_eq!(sent.code, Some(13), "{}", sent.stderr);
    assert!(sent.stderr.contains("--expires"), "{}", sent.stderr);
    let late = place.run_with_input("importer", &["receive", "--connect-timeout", "1s", "dst"], &ticket);
    assert_code(&late, 3);
    assert!(stderr(&late).contains("the time of its ticket is over"), "{}", stderr(&late));
}

#[test]
fn a_source_that_is_missing_or_unnameable_is_exit_7_and_names_the_flag() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    assert_code(&place.run("exporter", &["send", "nowhere"]), 7);
    make_tree(&place.path("src"), "s");
    fs::write(place.path("src").join(std::ffi::OsStr::from_bytes(b"bad\xff\x1b[2J")), "x").unwrap();
    let refused = place.run("exporter", &["send", "src"]);
    assert_code(&refused, 7);
    assert!(stderr(&refused).contains("--skip-unsupported"), "{}", stderr(&refused));
    assert!(!stderr(&refused).contains('\u{1b}') && stdout(&refused).is_empty());

    let _socket = UnixListener::bind(place.path("src/socket")).unwrap();
    let sender = place.send(&["--skip-unsupported", "src"]);
    let got = place.run_with_input("importer", &["receive", "dst"], &sender.ticket);
    assert_code(&got, 0);
    let sent = sender.wait();
    assert_eq!(sent.code, Some(0));
    assert!(sent.stderr.contains("socket (socket)") && sent.stderr.contains("bad"), "{}", sent.stderr);
    assert!(!sent.stderr.contains('\u{1b}'));
    assert!(!place.path("dst/socket").exists());
}

#[test]
fn a_target_that_can_never_be_one_is_exit_8_and_the_ticket_stays_good() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    fs::create_dir(place.path("home")).unwrap();
    let before = picture(&place.path("home"));
    let sender = place.send(&["src"]);
    let mut command = place.command("importer", &["receive", "-y", "home"]);
    let command = command.env("HOME", place.path("home")).env("ME_SYNC_TICKET", &sender.ticket);
    assert_code(&command.output().unwrap(), 8);
    assert_same(&before, &picture(&place.path("home")));
    // without a yes the true reason comes too, not advice how to replace it
    let mut command = place.command("importer", &["receive", "home"]);
    let in_home = command.env("HOME", place.path("home")).env("ME_SYNC_TICKET", &sender.ticket).output().unwrap();
    let root = place.run_with_input("importer", &["receive", "/"], &sender.ticket);
    for (refused, why) in [(in_home, "--i-mean-home"), (root, "is the root of the file system")] {
        assert_code(&refused, 8);
        let said = stderr(&refused);
        assert!(said.contains(why) && !said.contains("-y ") && !said.contains("--yes"), "{said}");
    }
    assert_code(&place.run_with_input("importer", &["receive", "no/parent/dst"], &sender.ticket), 8);
    assert_code(&place.run_with_input("importer", &["receive", "dst"], &sender.ticket), 0);
    assert_eq!(sender.wait().code, Some(0));
}

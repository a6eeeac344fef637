//! Several commands at once on one state directory, without a node that stays.

use crate::support::{Place, Sender, Throttle, assert_code, assert_same, make_tree, noise, picture, signal, stderr};

#[test]
fn a_second_command_works_through_the_first_which_stays_until_both_are_done() {
    let place = Place::new();
    make_tree(&place.path("src"), "one");
    make_tree(&place.path("other"), "two");
    let first = place.send(&["src"]);
    let second = place.send(&["other"]);
    // and in the other direction at the same time
    let elsewhere = place.send_as("elsewhere", &["src"]);
    assert_code(&place.run_with_input("exporter", &["receive", "third"], &elsewhere.ticket), 0);
    assert_eq!(elsewhere.wait().code, Some(0));

    assert_code(&place.run_with_input("importer", &["receive", "dst"], &first.ticket), 0);
    assert_code(&place.run_with_input("importer", &["receive", "dst2"], &second.ticket), 0);
    let (first, second) = (first.wait(), second.wait());
    assert_eq!((first.code, second.code), (Some(0), Some(0)), "{}\n{}", first.stderr, second.stderr);
    assert!(first.stderr.contains("done here; 1 other command needs this process"), "{}", first.stderr);
    assert!(!second.stderr.contains("done here"), "{}", second.stderr);
    for (from, to) in [("src", "dst"), ("other", "dst2"), ("src", "third")] {
        assert_same(&picture(&place.path(from)), &picture(&place.path(to)));
    }
    assert!(!place.path("exporter/api.sock").exists());
}

#[test]
fn commands_that_begin_in_the_same_moment_all_find_their_way() {
    let place = Place::new();
    let names = ["a", "b", "c", "d"];
    names.iter().for_each(|name| make_tree(&place.path(name), name));
    let starting: Vec<_> = names
        .iter()
        .map(|name| {
            let command = place.command("exporter", &["send", name]);
            std::thread::spawn(move || Sender::start(command))
        })
        .collect();
    let senders: Vec<_> = starting.into_iter().map(|thread| thread.join().unwrap()).collect();
    for (name, sender) in names.iter().zip(&senders) {
        let target = format!("{name}-there");
        assert_code(&place.run_with_input("importer", &["receive", &target], &sender.ticket), 0);
        assert_same(&picture(&place.path(name)), &picture(&place.path(&target)));
    }
    for sender in senders {
        let sent = sender.wait();
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    }
}

#[test]
fn ctrl_c_of_the_first_keeps_what_the_others_have_and_they_say_how_to_go_on() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    std::fs::write(place.path("src/noise"), noise(8 << 20)).unwrap();
    make_tree(&place.path("mine"), "m");
    let first = place.send_as("importer", &["mine"]);
    let sender = place.send(&["src", "--transport", "tcp"]);
    let throttle = Throttle::before(&sender.ticket, 1 << 20);
    let mut joined = place.receive(&["dst", "--transport", "tcp"], &throttle.ticket(&sender.ticket));
    joined.until(|event| event["bytes_received"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    // it is seen, and what is seen is of the process that it works through
    let shown = place.run("importer", &["sessions"]);
    assert_code(&shown, 0);
    signal("INT", &first.child);
    assert_eq!(first.wait().code, Some(130));
    let (code, _, err) = joined.wait();
    assert_eq!(code, Some(15), "{err}");
    assert!(err.contains(" resume "), "{err}");
    throttle.open();
    assert_code(&place.run("importer", &["resume"]), 0);
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
}

#[test]
fn the_same_receive_once_more_or_resume_follows_the_first_to_the_same_end() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    std::fs::write(place.path("src/noise"), noise(64 << 20)).unwrap();
    let sender = place.send(&["src", "--transport", "tcp"]);
    let throttle = Throttle::before(&sender.ticket, 1 << 20);
    let ticket = throttle.ticket(&sender.ticket);
    let receive = || place.receive(&["dst", "--transport", "tcp"], &ticket);
    let moves = |event: &serde_json::Value| event["bytes_received"].as_u64().is_some_and(|bytes| bytes > 0);
    let mut first = receive();
    first.until(moves);
    let (mut second, mut third) = (receive(), receive());
    let mut fourth = place.follow(&mut place.command("importer", &["resume", "--json"]));
    second.until(moves);
    third.until(moves);
    fourth.until(moves);
    // who only looks on stops nothing
    let (code, _, err) = third.interrupt();
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("the import itself goes on"), "{err}");
    // another ticket has no business there
    let other = place.send_as("elsewhere", &["src"]);
    let refused = place.run_with_input("importer", &["receive", "-y", "dst"], &other.ticket);
    assert_code(&refused, 8);
    throttle.open();
    for (code, events, err) in [first.wait(), second.wait(), fourth.wait()] {
        assert_eq!(code, Some(0), "{err}");
        let result = crate::support::events(&events).pop().unwrap();
        assert_eq!((&result["event"], &result["ok"]), (&"result".into(), &true.into()), "{result}");
    }
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
    other.interrupt();
}

#[test]
fn ctrl_c_of_the_first_of_two_same_receives_tells_the_other_in_plain_words_to_type_it_again() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    std::fs::write(place.path("src/noise"), noise(8 << 20)).unwrap();
    let sender = place.send(&["src", "--transport", "tcp"]);
    let throttle = Throttle::before(&sender.ticket, 1 << 20);
    let ticket = throttle.ticket(&sender.ticket);
    let receive = || place.receive(&["dst", "--transport", "tcp"], &ticket);
    let moves = |event: &serde_json::Value| event["bytes_received"].as_u64().is_some_and(|bytes| bytes > 0);
    let mut first = receive();
    first.until(moves);
    let mut second = receive();
    second.until(moves);
    assert_eq!(first.interrupt().0, Some(130));
    let (code, _, err) = second.wait();
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("followed was stopped; what arrived is kept") && err.contains("type the same"), "{err}");
    assert!(!err.contains("node is stopping"), "{err}");
    throttle.open();
    let (code, _, err) = receive().wait();
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
}

#[test]
fn a_path_that_is_not_text_is_refused_while_another_process_works_and_taken_when_none_does() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let odd = OsStr::from_bytes(b"od\xffd");
    make_tree(&place.0.path().join(odd), "o");
    let first = place.send(&["src"]);
    let offered = place.command("exporter", &["send"]).arg(odd).output().unwrap();
    let taken = place.command("exporter", &["receive", "-y", &first.ticket]).arg(odd).output().unwrap();
    for refused in [offered, taken] {
        assert_code(&refused, 2);
        assert!(
            stderr(&refused).contains("not UTF-8") && stderr(&refused).contains("--no-node"),
            "{}",
            stderr(&refused)
        );
    }
    first.interrupt();
    let mut command = place.command("exporter", &["--no-node", "send"]);
    command.arg(odd);
    let sender = Sender::start(command);
    assert_code(&place.run_with_input("importer", &["receive", "dst"], &sender.ticket), 0);
    assert_same(&picture(&place.0.path().join(odd)), &picture(&place.path("dst")));
    assert_eq!(sender.wait().code, Some(0));
}

#[test]
fn a_command_of_its_own_process_waits_for_nobody_and_says_who_is_in_the_way() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let sender = place.send(&["src"]);
    let output = place.run("exporter", &["--no-node", "send", "src"]);
    assert_code(&output, 16);
    assert!(stderr(&output).contains("--no-node"), "{}", stderr(&output));
    assert_eq!(sender.interrupt().code, Some(130));
}

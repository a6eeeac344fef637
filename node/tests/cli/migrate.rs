//! `send` and `receive` as two processes with two state directories.

use std::fs;

use crate::support::{Place, assert_code, assert_same, events, make_tree, picture, stderr, stdout};

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_tree_moves_over_each_transport_and_is_identical() {
    for transport in ["tcp", "quic", "auto"] {
        let place = Place::new();
        make_tree(&place.path("src"), transport);
        let before = picture(&place.path("src"));
        let sender = place.send(&["src", "--transport", transport]);
        let ticket = format!("{}\n", sender.ticket);
        let got = place.run_with_input("importer", &["receive", "dst", "--transport", transport], &ticket);
        let sent = sender.wait();
        assert_code(&got, 0);
        assert_eq!(
            (sent.code, sent.rest.as_str()),
            (Some(0), ""),
            "stdout of send is the ticket alone: {}",
            sent.stderr
        );
        assert!(stdout(&got).is_empty());
        assert!(sent.stderr.contains(" confirmed: "), "{}", sent.stderr);
        assert!(stderr(&got).contains("rollback"), "{}", stderr(&got));
        assert_same(&before, &picture(&place.path("dst")));
        assert_same(&before, &picture(&place.path("src")));
        for line in [&sent.stderr, &stderr(&got)] {
            assert!(!line.contains('\r') && !line.contains('\u{1b}'), "no terminal control off a terminal: {line:?}");
        }
    }
}

#[test]
fn a_target_with_something_in_it_is_replaced_only_with_a_yes_and_comes_back() {
    let place = Place::new();
    make_tree(&place.path("src"), "new");
    make_tree(&place.path("dst"), "old and other");
    fs::write(place.path("dst/only here"), "x").unwrap();
    let (new, old) = (picture(&place.path("src")), picture(&place.path("dst")));
    let sender = place.send(&["src"]);

    let refused = place.run_with_input("importer", &["receive", "dst"], &sender.ticket);
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("-y"), "{}", stderr(&refused));
    assert_same(&old, &picture(&place.path("dst")));

    let got = place.run_with_input("importer", &["receive", "-y", "dst"], &sender.ticket);
    assert_code(&got, 0);
    assert_eq!(sender.wait().code, Some(0));
    assert_same(&new, &picture(&place.path("dst")));

    let listed = place.run("importer", &["sessions"]);
    assert_code(&listed, 0);
    assert_eq!(stdout(&listed).lines().count(), 1, "{}", stdout(&listed));
    assert!(stdout(&listed).contains("exporter") && stdout(&listed).contains("committed"), "{}", stdout(&listed));

    assert_code(&place.run("importer", &["rollback", "dst"]), 2);
    assert_same(&new, &picture(&place.path("dst")));
    let ids = place.run("importer", &["sessions", "--json"]);
    let id = events(&stdout(&ids))[0]["session_id"].as_str().unwrap().to_owned();
    for said in ["is again what it was", "was undone before"] {
        let back = place.run("importer", &["rollback", "-y", "--session", &id, "dst"]);
        assert_code(&back, 0);
        assert!(stderr(&back).contains(said), "{}", stderr(&back));
        assert_same(&old, &picture(&place.path("dst")));
    }
    let nothing = place.run("importer", &["rollback", "nothing"]);
    // a wrong argument, not a rollback that failed
    assert_code(&nothing, 2);
    let said = stderr(&nothing);
    assert!(said.contains("no migration into") && said.contains(" sessions`"), "{said}");
    // nobody is asked whether to undo what was never done
    assert!(stderr(&place.run("importer", &["rollback", "src"])).contains("no migration into"));
    assert_code(&place.run("nobody", &["rollback", "nothing"]), 2);
    assert!(!place.path("nobody").exists(), "and makes no state");
}

#[test]
fn a_ticket_comes_by_variable_file_or_argument() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let before = picture(&place.path("src"));

    let sender = place.send(&["src"]);
    let mut command = place.command("importer", &["receive", "by-variable"]);
    let got = command.env("ME_SYNC_TICKET", format!(" {} ", sender.ticket)).output().unwrap();
    assert_code(&got, 0);
    assert!(!stderr(&got).contains("other users"));
    assert_eq!(sender.wait().code, Some(0));

    let sender = place.send(&["src"]);
    let file = place.path("ticket");
    fs::write(&file, format!("{}\n", sender.ticket)).unwrap();
    assert_code(&place.run("importer", &["receive", "--ticket-file", text(&file), "by-file"]), 0);
    assert_eq!(sender.wait().code, Some(0));

    let sender = place.send(&["src"]);
    let got = place.run("importer", &["rx", &sender.ticket, "by-argument"]);
    assert_code(&got, 0);
    assert!(stderr(&got).contains("other users"), "{}", stderr(&got));
    assert_eq!(sender.wait().code, Some(0));

    for name in ["by-variable", "by-file", "by-argument"] {
        assert_same(&before, &picture(&place.path(name)));
    }
}

#[test]
fn either_side_says_whether_to_pack_and_both_are_told_what_came_of_it() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    let lines: String = (0..40_000).map(|n| format!("{n} is a line of this log\n")).collect();
    fs::write(place.path("src/log"), &lines).unwrap();
    for (n, (sending, receiving, is_packed)) in
        [("always", "auto", true), ("always", "never", false)].iter().enumerate()
    {
        let target = format!("dst{n}");
        let sender = place.send(&["src", "--compress", sending]);
        let args = ["receive", &target, "--json", "--compress", receiving];
        let got = place.run_with_input("importer", &args, &sender.ticket);
        assert_code(&got, 0);
        let sent = sender.wait();
        assert_eq!(sent.stderr.contains(", packed to "), *is_packed, "{}", sent.stderr);
        let result = events(&stdout(&got)).pop().unwrap();
        let field = |name: &str| result[name].as_u64().unwrap();
        assert_eq!(field("payload_bytes"), lines.len() as u64);
        let (payload, wire) = (field("payload_bytes"), field("wire_bytes"));
        assert!(if *is_packed { wire < payload / 2 } else { wire == payload }, "{result}");
        assert_same(&picture(&place.path("src")), &picture(&place.path(&target)));
    }
}

#[test]
fn json_is_one_object_a_line_and_ends_in_a_result_on_both_sides() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    make_tree(&place.path("dst"), "old");
    let sender = place.send(&["src", "--json"]);
    let ticket = events(&sender.ticket).remove(0);
    assert_eq!(ticket["event"], "ticket");
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();
    let got = place.run_with_input("importer", &["receive", "dst", "--json", "-y"], &ticket);
    assert_code(&got, 0);
    assert!(stderr(&got).is_empty(), "{}", stderr(&got));
    let sent = sender.wait();
    assert_eq!(sent.code, Some(0));
    for (side, events) in [("receive", events(&stdout(&got))), ("send", events(&sent.rest))] {
        let progress: Vec<_> = events.iter().filter(|e| e["event"] == "progress").collect();
        assert!(!progress.is_empty(), "{side}");
        for field in [
            "phase",
            "files_ok",
            "files_failed",
            "files_total",
            "bytes_received",
            "bytes_total",
            "transfer_bps",
            "retry_round",
            "detail",
        ] {
            assert!(progress.iter().all(|p| !p[field].is_null()), "{side}: {field}");
        }
        let result = events.last().unwrap();
        assert_eq!((result["event"].as_str(), result["ok"].as_bool()), (Some("result"), Some(true)), "{side}");
        assert_eq!(result["manifest_sha256"].as_str().map(str::len), Some(64), "{side}");
        assert_eq!(events.iter().filter(|e| e["event"] == "result").count(), 1, "{side}");
    }
    let events = events(&stdout(&got));
    let review = events.iter().find(|e| e["event"] == "review").unwrap();
    assert_eq!(review["source_name"], "src");
    assert!(review["replaces"]["files"].as_u64().unwrap() >= 5, "{review}");
}

#[test]
fn what_a_peer_or_a_disk_calls_itself_never_drives_the_terminal() {
    let place = Place::new();
    let evil = "evil\u{202e}name";
    make_tree(&place.path(evil), "s");
    make_tree(&place.path("dst"), "old");
    let device = "dev\u{1b}[2Jice";
    let sender = place.send_as(device, &[evil]);
    let mut command = place.command("importer", &["receive", "-y", "dst"]);
    let got = command.env("ME_SYNC_TICKET", &sender.ticket).output().unwrap();
    assert_code(&got, 0);
    let sent = sender.wait();
    for text in [&sent.stderr, &stderr(&got)] {
        assert!(!text.contains('\u{202e}') && text.contains("\\u{202e}"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    assert!(stderr(&got).contains("dev\\u{1b}[2Jice"), "{}", stderr(&got));
    let listed = place.run("importer", &["sessions"]);
    assert!(stdout(&listed).contains("dev\\u{1b}[2Jice"), "{}", stdout(&listed));
}

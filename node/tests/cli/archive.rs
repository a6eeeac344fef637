//! `send --archive` and its tickets: which protocol runs between two processes, what people see of it, and what is left when one
//! of them is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::{Place, Sent, assert_code, events, make_tree, noise, picture, stderr, stdout};

const V3_ONLY: [&str; 2] = ["--protocol", "v3"];

/// A tree without links: an archive holds none.
fn make_plain_tree(root: &Path) {
    make_tree(root, "v3");
    fs::remove_file(root.join("link")).unwrap();
    fs::remove_file(root.join("dangling")).unwrap();
}

/// Without nanoseconds, which an archive does not keep.
fn to_the_second(root: &Path) -> Vec<(PathBuf, String)> {
    let cut = |text: String| {
        let (head, rest) = text.split_once('.').unwrap_or((&text, ""));
        format!("{head}{}", rest.split_once(' ').map_or("", |(_, content)| content))
    };
    picture(root).into_iter().map(|(path, what)| (path, cut(what))).collect()
}

fn result(output: &Output) -> serde_json::Value {
    events(&stdout(output)).pop().unwrap()
}

/// What `receive --json` ends with, and how the sending side ended.
fn between(place: &Place, send: &[&str], receive: &[&str]) -> (serde_json::Value, Output, Sent) {
    let sender = place.send(send);
    let args = [&["receive", "--json", "dst"], receive].concat();
    let output = place.run_with_input("importer", &args, &sender.ticket);
    let sent = if output.status.success() { sender.wait() } else { sender.interrupt() };
    (result(&output), output, sent)
}

// SPEC §13.1
#[test]
fn two_devices_that_have_v4_use_it_and_say_so() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    let (result, output, sent) = between(&place, &["src"], &["--require-v4"]);
    assert_code(&output, 0);
    assert_eq!(result["protocol"], "v4");
    assert_eq!(sent.code, Some(0));
    assert!(sent.stderr.contains("protocol: v4\n"), "{}", sent.stderr);
}

// SPEC §13.1
#[test]
fn a_device_with_v4_sends_an_archive_to_one_that_has_v3_only() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    let (result, output, sent) = between(&place, &["src", "--archive"], &V3_ONLY);
    assert_code(&output, 0);
    assert_eq!((&result["protocol"], &result["files"]), (&"v3".into(), &5.into()));
    assert_eq!(sent.code, Some(0));
    assert!(sent.stderr.contains("protocol: v3 (archive"), "{}", sent.stderr);
    assert_eq!(to_the_second(&place.path("src")), to_the_second(&place.path("dst")));
}

// SPEC §13.1
#[test]
fn a_device_that_has_v3_only_sends_an_archive_to_one_with_v4() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    fs::create_dir(place.path("dst")).unwrap();
    fs::write(place.path("dst/old"), "old").unwrap();
    let sender = place.send(&["src", "--protocol", "v3"]);
    let output = place.run_with_input("importer", &["receive", "-y", "dst"], &sender.ticket);
    assert_code(&output, 0);
    let said = stderr(&output);
    assert!(said.starts_with("protocol: v3 (archive: no resume)"), "before anything else: {said}");
    let review = said.find("By      protocol: v3 (archive: no resume)").unwrap();
    assert!(review < said.find("is now what").unwrap(), "{said}");
    assert!(said.contains("\nprotocol: v3 (archive)\n"), "{said}");
    assert_eq!(sender.wait().code, Some(0));
    assert_eq!(to_the_second(&place.path("src")), to_the_second(&place.path("dst")));
    assert_code(&place.run("importer", &["rollback", "-y", "dst"]), 0);
    assert_eq!(fs::read_to_string(place.path("dst/old")).unwrap(), "old");
}

// SPEC §13.1
#[test]
fn where_v4_is_required_or_missing_nothing_runs_and_each_side_is_named() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    for (send, receive, says) in [
        (&["src", "--protocol", "v3"][..], &["--require-v4"][..], "the other device has v3 only"),
        (&["src", "--archive"], &["--require-v4"], "has v4 too"),
        (&["src"], &V3_ONLY, "this one has v3 (archives) only"),
    ] {
        let (result, output, _) = between(&place, send, receive);
        assert_code(&output, 14);
        assert_eq!(result["code"], "version_mismatch");
        assert!(result["message"].as_str().unwrap().contains(says), "{result}");
    }
    let by_code = place.run("importer", &["receive", "7-velvet-harbor", "dst", "--protocol", "v3"]);
    assert_code(&by_code, 14);
    assert!(!place.path("dst").exists());
}

#[test]
fn the_review_says_v3_before_anything_is_agreed_to() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    fs::create_dir(place.path("dst")).unwrap();
    fs::write(place.path("dst/old"), "old").unwrap();
    let sender = place.send(&["src", "--archive", "--json"]);
    let ticket = events(&sender.ticket).remove(0);
    assert_eq!(ticket["protocol"], "v3");
    let mut receiver = place.receive(&["-y", "dst"], ticket["ticket"].as_str().unwrap());
    let review = receiver.until(|event| event["event"] == "review");
    assert_eq!((&review["protocol"], &review["files"]), (&"v3".into(), &5.into()));
    let (code, rest, _) = receiver.wait();
    assert_eq!(code, Some(0));
    assert_eq!(events(&rest).pop().unwrap()["protocol"], "v3");
}

// SPEC §13.5
#[test]
fn links_are_refused_by_name_before_there_is_a_ticket_or_left_out_and_listed() {
    let place = Place::new();
    make_tree(&place.path("src"), "links");
    let refused = place.run("exporter", &["send", "--archive", "src"]);
    assert_code(&refused, 7);
    assert!(stdout(&refused).is_empty(), "no ticket");
    let said = stderr(&refused);
    assert!(said.contains("dangling (an archive holds no symbolic links)") && said.contains("\n  link ("), "{said}");
    let (result, output, sent) = between(&place, &["src", "--archive", "--skip-unsupported"], &[]);
    assert_code(&output, 0);
    assert_eq!(result["symlinks"], 0);
    assert!(sent.stderr.contains("dangling (an archive holds no symbolic links)"), "{}", sent.stderr);
}

// SPEC §13.4
#[test]
fn an_importer_that_is_killed_in_the_middle_leaves_the_old_tree_and_after_the_next_start_nothing_else() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    fs::write(place.path("src/noise"), noise(8 << 20)).unwrap();
    fs::create_dir(place.path("dst")).unwrap();
    fs::write(place.path("dst/old"), "old").unwrap();
    let before = picture(&place.path("dst"));
    let sender = place.send(&["src", "--archive", "--limit", "2M"]);
    let mut receiver = place.receive(&["-y", "dst"], &sender.ticket);
    receiver.until(|event| {
        event["bytes_received"].as_u64().is_some_and(|n| n > 1 << 20) && event["phase"] == "bulk_transferring"
    });
    receiver.kill();
    let sent = sender.wait();
    assert_eq!(sent.code, Some(13), "{}", sent.stderr);
    assert!(sent.stderr.contains("an archive is not resumed"), "{}", sent.stderr);
    assert_eq!(picture(&place.path("dst")), before);
    assert_eq!(fs::read_dir(place.path("importer/archives")).unwrap().count(), 1, "it was killed");
    assert_code(&place.run("importer", &["sessions"]), 0);
    assert_eq!(fs::read_dir(place.path("importer/archives")).unwrap().count(), 0);
    assert_eq!(place.staging_leftovers(), [""; 0]);
    assert_eq!(picture(&place.path("dst")), before);
}

#[test]
fn an_exporter_that_is_killed_in_the_middle_leaves_the_old_tree_and_nothing_else() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    fs::write(place.path("src/noise"), noise(8 << 20)).unwrap();
    fs::create_dir(place.path("dst")).unwrap();
    fs::write(place.path("dst/old"), "old").unwrap();
    let before = picture(&place.path("dst"));
    let mut sender = place.send(&["src", "--archive", "--limit", "2M"]);
    let mut receiver = place.receive(&["-y", "dst"], &sender.ticket);
    receiver.until(|event| {
        event["bytes_received"].as_u64().is_some_and(|n| n > 1 << 20) && event["phase"] == "bulk_transferring"
    });
    sender.child.kill().unwrap();
    let (code, rest, _) = receiver.wait();
    let result = events(&rest).pop().unwrap();
    assert_eq!((code, &result["code"], &result["protocol"]), (Some(13), &"peer_gone".into(), &"v3".into()));
    assert!(result["hint"].as_str().unwrap().contains("not resumed"), "{result}");
    assert_eq!(picture(&place.path("dst")), before);
    assert_eq!(fs::read_dir(place.path("importer/archives")).unwrap().count(), 0);
    assert_eq!(place.staging_leftovers(), [""; 0]);
    sender.wait();
}

#[test]
fn stopped_by_a_person_an_archive_keeps_nothing_and_says_so() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    fs::write(place.path("src/noise"), noise(8 << 20)).unwrap();
    let sender = place.send(&["src", "--archive", "--limit", "2M"]);
    let mut receiver = place.receive(&["dst"], &sender.ticket);
    receiver.until(|event| event["phase"] == "bulk_transferring");
    let (code, rest, said) = receiver.interrupt();
    assert_eq!(code, Some(130));
    assert!(said.contains("an archive is not resumed"), "{said}");
    assert_eq!(events(&rest).pop().unwrap()["code"], "interrupted");
    assert_ne!(sender.wait().code, Some(0));
    assert!(!place.path("dst").exists());
    assert_eq!(
        (place.staging_leftovers().len(), fs::read_dir(place.path("importer/archives")).unwrap().count()),
        (0, 0)
    );
}

#[test]
fn a_command_after_the_swap_takes_an_archive_back_too() {
    let place = Place::new();
    make_plain_tree(&place.path("src"));
    fs::create_dir(place.path("dst")).unwrap();
    fs::write(place.path("dst/old"), "old").unwrap();
    let sender = place.send(&["src", "--archive"]);
    let args = ["receive", "-y", "dst", "--post-apply", "false"];
    assert_code(&place.run_with_input("importer", &args, &sender.ticket), 12);
    assert_eq!(sender.wait().code, Some(12));
    assert_eq!(fs::read_to_string(place.path("dst/old")).unwrap(), "old");
}

/// More entries than the narrow form of a ZIP counts.
// SPEC §13.5
#[test]
fn an_archive_of_more_than_65535_entries_comes_whole() {
    let place = Place::new();
    for n in 0..65_600 {
        let dir = place.path("src").join(format!("{:02}", n % 50));
        if n < 50 {
            fs::create_dir_all(&dir).unwrap();
        }
        // few are worth a content
        fs::write(dir.join(n.to_string()), if n % 100 == 0 { n.to_string() } else { String::new() }).unwrap();
    }
    let (result, output, _) = between(&place, &["src", "--archive"], &[]);
    assert_code(&output, 0);
    assert_eq!((&result["files"], &result["dirs"], &result["protocol"]), (&65_600.into(), &50.into(), &"v3".into()));
    assert_eq!(to_the_second(&place.path("src")), to_the_second(&place.path("dst")));
}

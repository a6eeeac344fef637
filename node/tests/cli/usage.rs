//! Parsing, help, completions, and the demo.

use std::fs;

use crate::support::{Place, assert_code, assert_same, events, make_tree, picture, stderr, stdout};

#[test]
fn help_and_version_are_data_and_no_error() {
    let place = Place::new();
    for args in [&["--help"][..], &["--version"], &["send", "--help"], &["help", "receive"]] {
        let output = place.run("s", args);
        assert_code(&output, 0);
        assert!(!stdout(&output).is_empty() && stderr(&output).is_empty(), "{args:?}");
        assert!(stdout(&output).lines().all(|line| line.chars().count() <= 80), "{args:?}");
    }
}

#[test]
fn what_cannot_be_parsed_is_exit_2_and_names_the_way_out() {
    let place = Place::new();
    let wrong: [&[&str]; 15] = [
        &[],
        &["fly"],
        &["send"],
        &["send", "--expires", "25h", "."],
        &["send", "--expires", "10", "."],
        &["send", "--compress", "sometimes", "."],
        &["receive", "--peer", "example.org:1", "x"],
        &["--listen", "host", "sessions"],
        &["peers", "--for", "13s"],
        &["rollback", "."],
        &["send", "--limit", "20", "."],
        &["receive", "--limit", "0M", "x"],
        &["limit", "63K"],
        &["send", "--devices", "0", "."],
        &["send", "--devices", "17", "."],
    ];
    for args in wrong {
        let output = place.run("s", args);
        assert_code(&output, 2);
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty(), "{args:?}");
    }
    assert!(!place.path("s").exists(), "a usage error makes no state directory");
}

#[test]
fn a_usage_error_ends_in_a_result_with_json() {
    let output = Place::new().run("s", &["--json", "fly"]);
    assert_code(&output, 2);
    let events = events(&stdout(&output));
    assert_eq!((events[0]["event"].as_str(), events[0]["exit_code"].as_u64()), (Some("result"), Some(2)));
}

#[test]
fn completions_name_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = place.run("s", &["completions", shell]);
        assert_code(&output, 0);
        let script = stdout(&output);
        let commands = [
            "send", "receive", "resume", "retry", "abort", "peers", "rollback", "sessions", "status", "failures",
            "demo", "limit",
        ];
        for command in commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn a_demo_moves_its_sample_compares_it_and_cleans_up_by_the_line_it_prints() {
    let place = Place::new();
    fs::create_dir(place.path("tmp")).unwrap();
    let output = place.command("s", &["demo", "--json"]).env("TMPDIR", place.path("tmp")).output().unwrap();
    assert_code(&output, 0);
    let events = events(&stdout(&output));
    let result = events.last().unwrap();
    assert_eq!((result["event"].as_str(), result["ok"].as_bool()), (Some("result"), Some(true)));
    let (source, target) = (result["source"].as_str().unwrap(), result["target"].as_str().unwrap());
    assert_same(&picture(source.as_ref()), &picture(target.as_ref()));
}

#[test]
fn a_demo_takes_my_tree_and_replaces_only_with_a_yes() {
    let place = Place::new();
    make_tree(&place.path("src"), "demo");
    make_tree(&place.path("dst"), "old");
    let old = picture(&place.path("dst"));
    let output = place.run("s", &["demo", "src", "dst"]);
    assert_code(&output, 2);
    assert!(stderr(&output).contains("-y"));
    assert_same(&old, &picture(&place.path("dst")));

    fs::create_dir(place.path("tmp")).unwrap();
    let mut command = place.command("s", &["demo", "-y", "src", "dst"]);
    let output = command.env("TMPDIR", place.path("tmp")).output().unwrap();
    assert_code(&output, 0);
    assert!(stdout(&output).is_empty(), "{}", stdout(&output));
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));

    let demo = fs::read_dir(place.path("tmp")).unwrap().next().unwrap().unwrap().path();
    let state = demo.join("importer").into_os_string().into_string().unwrap();
    assert!(stderr(&output).contains(&format!("me-sync --state-dir {state} rollback ")), "{}", stderr(&output));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_me-sync"));
    let back =
        command.args(["rollback", "-y"]).arg(place.path("dst")).env("ME_SYNC_STATE_DIR", state).output().unwrap();
    assert_code(&back, 0);
    assert_same(&old, &picture(&place.path("dst")));
}

#[test]
fn nothing_on_record_is_no_error() {
    let place = Place::new();
    let output = place.run("s", &["sessions"]);
    assert_code(&output, 0);
    assert!(stdout(&output).is_empty());
    assert_code(&place.run("s", &["rollback", "-y", "nothing"]), 2);
}

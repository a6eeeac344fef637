//! `me-sync node install`, `uninstall` and `status`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{Place, assert_code, events, signal, stderr, stdout};

fn unit(place: &Place) -> PathBuf {
    place.path("config/systemd/user/me-sync.service")
}

/// With a `systemctl` that notes what it is asked, and answers with this code.
fn with_systemctl(place: &Place, answer: u8, args: &[&str]) -> Output {
    let bin = place.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nexit {answer}\n", place.path("asked").display());
    fs::write(bin.join("systemctl"), script).unwrap();
    fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    place.command("d", args).env("PATH", path).output().unwrap()
}

fn asked(place: &Place) -> String {
    fs::read_to_string(place.path("asked")).unwrap_or_default()
}

#[test]
fn a_service_is_written_started_and_removed_again() {
    let place = Place::new();
    let done = with_systemctl(&place, 0, &["node", "install"]);
    assert_code(&done, 0);
    let text = fs::read_to_string(unit(&place)).unwrap();
    assert!(text.contains("Type=notify") && text.contains("\"--state-dir\""), "{text}");
    assert!(asked(&place).contains("--user daemon-reload\n--user enable --now me-sync\n"), "{}", asked(&place));
    // again is fine, and makes it what it should be
    fs::write(unit(&place), format!("{text}# more\n")).unwrap();
    assert_code(&with_systemctl(&place, 0, &["node", "install"]), 0);
    assert_eq!(fs::read_to_string(unit(&place)).unwrap(), text);
    for removed in [true, false] {
        let gone = with_systemctl(&place, 0, &["--json", "node", "uninstall"]);
        assert_code(&gone, 0);
        assert_eq!(events(&stdout(&gone)).pop().unwrap()["removed"], removed);
        assert!(!unit(&place).exists());
    }
    assert!(asked(&place).contains("--user disable --now me-sync\n"), "{}", asked(&place));
}

#[test]
fn where_systemd_is_not_reached_it_is_said_what_to_type() {
    let place = Place::new();
    let done = with_systemctl(&place, 1, &["node", "install"]);
    assert_code(&done, 0);
    assert!(stderr(&done).contains("systemctl --user enable --now me-sync"), "{}", stderr(&done));
    assert!(unit(&place).exists() && !asked(&place).contains("enable"), "{}", asked(&place));
}

#[test]
fn a_file_of_somebody_else_is_neither_replaced_nor_removed() {
    let place = Place::new();
    fs::create_dir_all(unit(&place).parent().unwrap()).unwrap();
    fs::write(unit(&place), "[Service]\nExecStart=/mine\n").unwrap();
    for verb in ["install", "uninstall"] {
        let refused = with_systemctl(&place, 0, &["node", verb]);
        assert_code(&refused, 15);
        assert!(stderr(&refused).contains("was not written by"), "{}", stderr(&refused));
    }
    assert!(fs::read_to_string(unit(&place)).unwrap().contains("/mine"));
    assert_eq!(asked(&place), "");
}

#[test]
fn a_printed_unit_passes_the_check_of_systemd_however_odd_its_paths_are() {
    let place = Place::new();
    let odd = "st%te $HOME \"x\" 'y' \\z";
    let printed = place.run(odd, &["node", "install", "--print"]);
    assert_code(&printed, 0);
    assert!(!unit(&place).exists());
    let file = place.path("me-sync.service");
    fs::write(&file, &printed.stdout).unwrap();
    let mut verify = Command::new("systemd-analyze");
    // a session of a user has such a directory
    verify.args(["verify", "--user", "--man=no"]).arg(&file).env("XDG_RUNTIME_DIR", place.path("."));
    let Ok(checked) = verify.output() else {
        assert!(std::env::var_os("CI").is_none(), "this test needs systemd-analyze in CI");
        return;
    };
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", stderr(&checked));
}

#[test]
fn the_status_of_a_node_says_which_it_is_and_without_one_how_to_have_one() {
    let place = Place::new();
    let none = place.run("d", &["--json", "node", "status"]);
    assert_code(&none, 15);
    assert_eq!(events(&stdout(&none)).pop().unwrap()["running"], false);
    let root = place.path("root");
    fs::create_dir(&root).unwrap();
    let args = ["--json", "node", "--api-port", "0", "--import-root", root.to_str().unwrap()];
    let mut node = crate::support::Sender::start(place.command("d", &args));
    let shown = place.run("d", &["--json", "node", "status"]);
    assert_code(&shown, 0);
    let shown = events(&stdout(&shown)).pop().unwrap();
    assert_eq!((shown["pid"].as_u64(), &shown["passing"]), (Some(node.child.id().into()), &false.into()));
    assert_eq!(shown["import_roots"][0], root.to_str().unwrap());
    assert!(shown["api"].as_str().unwrap().starts_with("http://127.0.0.1:") && shown["uptime_secs"].is_number());
    let text = stdout(&place.run("d", &["node", "status"]));
    for word in ["the node runs", "version", "listens", "sessions", "service"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    signal("TERM", &node.child);
    node.child.wait().unwrap();
}

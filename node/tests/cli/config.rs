//! Settings: where they are, what is said about wrong ones, and what counts more than what.

use std::fs;

use crate::support::{Place, assert_code, events, make_tree, stderr, stdout};

/// Writes the settings of every device of this place.
fn settings(place: &Place, text: &str) {
    fs::create_dir_all(place.path("config/me-sync")).unwrap();
    fs::write(place.path("config/me-sync/config.toml"), text).unwrap();
}

#[test]
fn the_path_is_told_and_an_unknown_key_is_an_error_of_every_command_that_names_the_nearest() {
    let place = Place::new();
    let path = stdout(&place.run("d", &["config", "path"]));
    assert_eq!(path.trim(), place.path("config/me-sync/config.toml").to_str().unwrap());
    assert_code(&place.run("d", &["config", "check"]), 0);
    settings(&place, "# mine\nlimitt = \"5M\"\n");
    for args in [&["config", "check"][..], &["sessions"], &["send", "."]] {
        let refused = place.run("d", args);
        assert_code(&refused, 2);
        assert!(stderr(&refused).contains("line 2: there is no key \"limitt\""), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("did you mean \"limit\"?"), "{}", stderr(&refused));
    }
    settings(&place, "limit = \"5M\"\n[api]\nexport_roots = [\"/nowhere\"]\n");
    let fine = place.run("d", &["--json", "config", "check"]);
    assert_code(&fine, 0);
    assert!(events(&stdout(&fine))[0]["message"].as_str().unwrap().contains("/nowhere"));
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let place = Place::new();
    let refused = place.run("d", &["--config", "missing.toml", "sessions"]);
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("there is no missing.toml"), "{}", stderr(&refused));
}

#[test]
fn a_flag_counts_more_than_the_environment_and_that_more_than_the_file() {
    let place = Place::new();
    settings(&place, "limit = \"5M\"\nname = \"of the file\"\n");
    make_tree(&place.path("src"), "s");
    let received = |env: Option<&str>, flag: &[&str]| {
        let sender = place.send(&["src"]);
        let mut command = place.command("importer", &[&["--json", "receive", "-y", "dst"], flag].concat());
        command.env("ME_SYNC_TICKET", &sender.ticket);
        if let Some(rate) = env {
            command.env("ME_SYNC_LIMIT", rate);
        }
        let output = command.output().unwrap();
        assert_code(&output, 0);
        sender.interrupt();
        let all = events(&stdout(&output));
        all.iter().rfind(|e| e["event"] == "progress").unwrap()["limit_bps"].as_u64()
    };
    assert_eq!(received(None, &[]), Some(5_000_000));
    assert_eq!(received(Some("7M"), &[]), Some(7_000_000));
    assert_eq!(received(Some("7M"), &["--limit", "9M"]), Some(9_000_000));
    assert_eq!(received(Some("7M"), &["--limit", "off"]), None);
}

#[test]
fn mdns_is_turned_off_by_the_file_and_on_again_by_a_flag() {
    let place = Place::new();
    settings(&place, "mdns = false\n");
    let mut command = place.command("d", &["peers", "--for", "1s"]);
    command.env_remove("ME_SYNC_NO_MDNS");
    let args: Vec<_> = command.get_args().filter(|arg| *arg != "--no-mdns").map(ToOwned::to_owned).collect();
    let run = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_me-sync"));
        command.args(&args).args(more).env("XDG_CONFIG_HOME", place.path("config")).output().unwrap()
    };
    assert_code(&run(&[]), 2);
    assert_code(&run(&["--no-mdns=false"]), 3);
}

//! The command after the swap: it knows what was done, and its failure undoes that, however it fails.

use std::fs;
use std::path::Path;
use std::process::Command;

use me_sync_protocol::ticket::Ticket;

use crate::support::{
    Place, assert_code, assert_same, behind_a_stalling_relay, events, make_tree, noise, picture, signal, stderr, stdout,
};

/// Does a process of this id run?
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// A pipe in `place` that a command can write its id into, to be read by the test.
fn pipe(place: &Place) -> std::path::PathBuf {
    let path = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_command_that_succeeds_knows_what_was_done_and_is_seen_while_it_runs() {
    let place = Place::new();
    make_tree(&place.path("src"), "new");
    make_tree(&place.path("dst"), "old");
    let sender = place.send(&["src"]);
    let pipe = pipe(&place);
    let script = "pwd; printf '%s|%s|%s' $ME_SYNC_TARGET $ME_SYNC_FILES ${ME_SYNC_TICKET:-none}; ls $ME_SYNC_KEPT > kept; read x < pipe";
    let command = format!("sh -c \"{script}\"");
    let mut receiver = place.receive(&["-y", "dst", "--post-apply", &command], &sender.ticket);
    receiver.until(|event| event["phase"] == "restarting_runtime");
    // until somebody writes
    fs::write(pipe, "go\n").unwrap();
    let (code, rest, err) = receiver.wait();
    assert_eq!((code, sender.wait().code), (Some(0), Some(0)), "{err}");
    assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
    let result = events(&rest).pop().unwrap();
    let here = fs::canonicalize(place.path(".")).unwrap();
    let said = format!("the command after the swap said: {0} / {0}/dst|5|none", text(&here));
    assert_eq!(result["notes"][0], said);
    assert!(
        fs::read_to_string(place.path("kept")).unwrap().contains("a.txt"),
        "the old tree was there to be looked at"
    );
}

#[test]
fn a_command_that_succeeds_and_takes_the_new_tree_away_is_told_of() {
    let place = Place::new();
    make_tree(&place.path("src"), "new");
    let sender = place.send(&["src"]);
    let args = ["receive", "-y", "dst", "--post-apply", "sh -c 'mv $ME_SYNC_TARGET elsewhere'"];
    let got = place.run_with_input("importer", &args, &sender.ticket);
    assert_code(&got, 0);
    assert!(
        stderr(&got).contains("nothing stands at") && stderr(&got).contains("moved or removed"),
        "{}",
        stderr(&got)
    );
    assert_eq!(sender.wait().code, Some(0));
}

#[test]
fn a_command_that_fails_brings_the_old_tree_back_and_both_devices_say_so() {
    let place = Place::new();
    make_tree(&place.path("src"), "new");
    make_tree(&place.path("dst"), "old");
    let before = picture(&place.path("dst"));
    let sender = place.send(&["src"]);
    let args = ["receive", "-y", "dst", "--post-apply", "sh -c 'echo no such service >&2; exit 3'"];
    let got = place.run_with_input("importer", &args, &sender.ticket);
    assert_code(&got, 12);
    let said = stderr(&got);
    assert!(said.contains("exit code 3") && said.contains("no such service"), "{said}");
    assert_same(&before, &picture(&place.path("dst")));
    let sent = sender.wait();
    assert_eq!(sent.code, Some(12), "{}", sent.stderr);
    assert!(sent.stderr.contains("the old tree is back"), "{}", sent.stderr);

    let listed = stdout(&place.run("importer", &["sessions"]));
    assert!(listed.contains("rolled back") || listed.contains("rolled_back"), "{listed}");
    let known = stdout(&place.run("importer", &["sessions", "--json"]));
    assert!(known.contains("health_failed"), "{known}");
}

#[test]
fn a_target_that_was_not_there_is_gone_again_after_a_command_that_takes_too_long() {
    let place = Place::new();
    make_tree(&place.path("src"), "new");
    let pipe = pipe(&place);
    let sender = place.send(&["src"]);
    let command = format!("sh -c 'sleep 600 & echo $! > {}; wait'", text(&pipe));
    let args = ["dst", "--post-apply", &command, "--post-apply-timeout", "1s"];
    let receiver = place.receive(&args, &sender.ticket);
    let inner = fs::read_to_string(&pipe).unwrap();
    let (code, _, err) = receiver.wait();
    assert_eq!((code, sender.wait().code), (Some(12), Some(12)), "{err}");
    assert!(err.contains("longer than 1 s"), "{err}");
    assert!(!place.path("dst").exists());
    assert!(!runs(&inner), "what it had started is ended too");
}

// RELIABILITY F78
#[test]
fn a_node_that_is_killed_while_the_command_runs_leaves_the_old_tree_to_the_next_start() {
    for existed in [true, false] {
        let place = Place::new();
        make_tree(&place.path("src"), "new");
        let before = existed.then(|| {
            make_tree(&place.path("dst"), "old");
            picture(&place.path("dst"))
        });
        let pipe = pipe(&place);
        let mut sender = place.send(&["src"]);
        let command = format!("sh -c 'echo $$ > {}; exec sleep 600'", text(&pipe));
        let receiver = place.receive(&["-y", "dst", "--post-apply", &command], &sender.ticket);
        let pid = fs::read_to_string(&pipe).unwrap();
        receiver.kill();
        assert_same(&picture(&place.path("src")), &picture(&place.path("dst")));
        assert!(runs(&pid), "it has outlived the node");

        // any command settles what is there
        let listed = place.run("importer", &["sessions"]);
        assert_code(&listed, 0);
        assert!(!runs(&pid), "it does not outlive its tree");
        match &before {
            Some(before) => assert_same(before, &picture(&place.path("dst"))),
            None => assert!(!place.path("dst").exists()),
        }
        let known = stdout(&place.run("importer", &["sessions", "--json"]));
        assert!(known.contains("health_failed"), "{known}");
        assert!(sender.child.try_wait().unwrap().is_none(), "nobody has told the exporter that it is done");
        // the next one that connects tells it: a node, or the same command once more, which says what became of it
        let again = ["receive", "-y", "dst"];
        let (mut node, again) = if existed {
            (None, Some(place.run_with_input("importer", &again, &sender.ticket)))
        } else {
            (Some(place.command("importer", &["node", "--api-port", "0"]).spawn().unwrap()), None)
        };
        let sent = sender.wait();
        assert_eq!(sent.code, Some(12), "{}", sent.stderr);
        if let Some(again) = again {
            assert_code(&again, 12);
            let said = stderr(&again);
            assert!(said.contains("cut short") && said.contains("is what it was before"), "{said}");
        }
        if let Some(node) = &mut node {
            signal("TERM", node);
            node.wait().unwrap();
        }
    }
}

#[test]
fn ctrl_c_while_the_command_runs_ends_it_and_brings_the_old_tree_back() {
    let place = Place::new();
    make_tree(&place.path("src"), "new");
    make_tree(&place.path("dst"), "old");
    let before = picture(&place.path("dst"));
    let sender = place.send(&["src"]);
    let mut receiver = place.receive(&["-y", "dst", "--post-apply", "sleep 600"], &sender.ticket);
    receiver.until(|event| event["phase"] == "restarting_runtime");
    let (code, _, err) = receiver.interrupt();
    assert_eq!(code, Some(12), "{err}");
    assert_same(&before, &picture(&place.path("dst")));
    assert_eq!(sender.wait().code, Some(12));
}

#[test]
fn a_session_that_goes_on_still_runs_the_command_that_it_began_with() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    fs::write(place.path("src/noise"), noise(4 << 20)).unwrap();
    let sender = place.send(&["src"]);
    let ticket = behind_a_stalling_relay(&sender.ticket, 1 << 20);
    let command = "sh -c 'echo ran > ran'";
    let mut receiver = place.receive(&["dst", "--post-apply", command], &ticket);
    receiver.until(|event| event["bytes_received"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!(receiver.interrupt().0, Some(130));
    let addresses = Ticket::parse(&sender.ticket).unwrap().addresses;
    let address = addresses.iter().find(|address| address.contains("/tcp/")).unwrap();
    assert_code(&place.run("importer", &["resume", "--peer", address]), 0);
    assert_eq!(sender.wait().code, Some(0));
    assert_eq!(fs::read_to_string(place.path("ran")).unwrap(), "ran\n");
}

#[test]
fn a_program_that_cannot_run_is_found_out_before_anything_is_sent() {
    let place = Place::new();
    make_tree(&place.path("src"), "new");
    fs::write(place.path("plain"), "no program\n").unwrap();
    let config = place.path("config.toml");
    fs::write(&config, "post_apply = ['no-such-program', 'x']\n").unwrap();
    let sender = place.send(&["src"]);
    for (args, what) in [
        (&["receive", "dst", "--post-apply", "no-such-program x"][..], "no program no-such-program in PATH"),
        (&["receive", "dst", "--post-apply", "/nowhere/at/all"], "no program /nowhere/at/all"),
        (&["receive", "dst", "--post-apply", "./plain"], "plain may not be run"),
        (&["receive", "dst", "--post-apply", "./src"], "src is no file"),
        (&["--config", text(&config), "receive", "dst"], "no program no-such-program in PATH"),
        (&["--config", text(&config), "config", "check"], "no program no-such-program in PATH"),
        (&["resume", "--post-apply", "no-such-program"], "no program no-such-program in PATH"),
        (&["node", "--post-apply", "no-such-program"], "no program no-such-program in PATH"),
    ] {
        let refused = place.run_with_input("importer", args, &sender.ticket);
        assert_code(&refused, 2);
        let said = stderr(&refused);
        assert!(said.contains("the command after the swap cannot run") && said.contains(what), "{args:?}: {said}");
    }
    // the ticket is as good as before, and by the flag or another command nobody needs that program
    assert_code(&place.run("importer", &["--config", text(&config), "sessions"]), 0);
    let args = ["--config", text(&config), "receive", "dst", "--post-apply", "./plain"];
    fs::write(place.path("plain"), "#!/bin/sh\nls > listed\n").unwrap();
    fs::set_permissions(place.path("plain"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_code(&place.run_with_input("importer", &args, &sender.ticket), 0);
    assert_eq!(sender.wait().code, Some(0));
    assert!(fs::read_to_string(place.path("listed")).unwrap().contains("dst"));
}

#[test]
fn a_program_that_is_gone_when_its_session_goes_on_is_named_and_can_be_left_out() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    fs::write(place.path("src/noise"), noise(4 << 20)).unwrap();
    let tool = place.path("tool");
    fs::write(&tool, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sender = place.send(&["src"]);
    let ticket = behind_a_stalling_relay(&sender.ticket, 1 << 20);
    let mut receiver = place.receive(&["dst", "--post-apply", "./tool"], &ticket);
    receiver.until(|event| event["bytes_received"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!(receiver.interrupt().0, Some(130));
    fs::remove_file(&tool).unwrap();
    let addresses = Ticket::parse(&sender.ticket).unwrap().addresses;
    let address = addresses.iter().find(|address| address.contains("/tcp/")).unwrap();
    let refused = place.run("importer", &["resume", "--peer", address]);
    assert_code(&refused, 2);
    let said = stderr(&refused);
    assert!(said.contains("no program") && said.contains("/tool") && said.contains("--post-apply ''"), "{said}");
    assert_code(&place.run("importer", &["resume", "--peer", address, "--post-apply", ""]), 0);
    assert_eq!(sender.wait().code, Some(0));
}

#[test]
fn settings_name_a_command_and_an_empty_flag_takes_it_back() {
    let place = Place::new();
    make_tree(&place.path("src"), "s");
    let config = place.path("config.toml");
    fs::write(&config, "post_apply = ['false']\n").unwrap();
    let with = |args: &[&str]| {
        let sender = place.send(&["src"]);
        let args = [&["--config", text(&config), "receive", "-y", "dst"], args].concat();
        let got = place.run_with_input("importer", &args, &sender.ticket);
        (got.status.code(), sender.wait().code)
    };
    assert_eq!(with(&[]), (Some(12), Some(12)));
    assert!(!place.path("dst").exists());
    assert_eq!(with(&["--post-apply", "true"]), (Some(0), Some(0)));
    // what is in place already is not replaced, and nothing runs
    assert_eq!(with(&[]), (Some(0), Some(0)));
    fs::write(place.path("src/more"), "x").unwrap();
    assert_eq!(with(&["--post-apply", ""]), (Some(0), Some(0)));
    assert_code(&place.run("importer", &["receive", "dst", "--post-apply", "'open"]), 2);
}

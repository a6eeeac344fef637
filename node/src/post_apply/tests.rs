//! Real commands, with `sh` as the program they name.

use std::cell::Cell;

use super::*;

fn command(script: &str, secs: u64) -> PostApply {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    PostApply::new(argv, Duration::from_secs(secs)).unwrap()
}

fn run_in(dir: &Path, command: &PostApply, is_stopped: &dyn Fn() -> bool) -> Ran {
    let target = dir.join("t");
    let kept = dir.join("kept");
    let session = SessionId([7; 16]);
    let facts = Facts { target: &target, retained: Some(&kept), session, files: 3, bytes: 99, peer_id: "12D3" };
    command.run(&facts, is_stopped, &mut |_| Ok(()))
}

fn run(script: &str, secs: u64) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), &command(script, secs), &|| false)
}

/// Is a process that wrote its id there still running?
fn runs(file: &Path) -> bool {
    let pid = std::fs::read_to_string(file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_command_knows_what_was_done_and_stands_beside_the_target() {
    let ran = run("pwd; echo $ME_SYNC_TARGET $ME_SYNC_KEPT $ME_SYNC_SESSION_ID $ME_SYNC_FILES $ME_SYNC_BYTES >&2", 60);
    assert_eq!(ran.end, Ok(()));
    let [place, facts] = &ran.said[..] else { panic!("{:?}", ran.said) };
    let expected = format!("{place}/t {place}/kept {} 3 99", SessionId([7; 16]));
    assert_eq!(facts, &expected);
}

#[test]
fn what_it_prints_last_is_told_and_escaped_however_much_it_is() {
    let ran = run("seq 100000; printf 'a\\033[31mb\\n'; head -c 9000 /dev/zero | tr '\\0' x; exit 3", 60);
    assert!(ran.end.unwrap_err().contains("exit code 3"));
    assert!(ran.said.len() <= TOLD && ran.said.iter().all(|line| line.chars().count() <= 201), "{:?}", ran.said);
    assert!(ran.said.iter().any(|line| line.contains("\\u{1b}")), "{:?}", ran.said);
}

#[test]
fn one_that_cannot_be_started_or_is_killed_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/nowhere/at/all\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for program in ["/nowhere/at/all", "no-such-program-anywhere", script.to_str().unwrap()] {
        let command = PostApply::new(vec![program.to_owned()], PostApply::TIMEOUT).unwrap();
        let ran = run_in(dir.path(), &command, &|| false);
        let why = ran.end.unwrap_err();
        // in words of our own: what starts it is nobody's business
        assert!(why.contains("cannot be started") && why.contains(program) && !why.contains("exec"), "{why}");
        assert_eq!(ran.said, Vec::<String>::new());
    }
    assert!(run("kill -9 $$", 60).end.unwrap_err().contains("signal 9"));
}

#[test]
fn a_program_that_ends_with_a_shells_code_of_failure_is_told_as_it_is() {
    let ran = run("echo 'me: not found'; exit 127", 60);
    assert!(ran.end.unwrap_err().ends_with("ended with exit code 127"));
    assert_eq!(ran.said, ["me: not found"]);
}

// RELIABILITY F78
#[test]
fn one_that_takes_too_long_is_ended_with_all_that_it_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > inner; while :; do sleep 600; done' & \
                  while :; do sleep 600; done";
    let ran = run_in(dir.path(), &command(script, 1), &|| false);
    assert!(ran.end.unwrap_err().contains("longer than 1 s"));
    assert!(!runs(&dir.path().join("inner")));
}

#[test]
fn a_stop_ends_it_long_before_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let looks = Cell::new(0);
    let is_stopped = || looks.replace(looks.get() + 1) > 0;
    assert!(run_in(dir.path(), &command("sleep 600", 600), &is_stopped).end.unwrap_err().contains("stopped"));
}

#[test]
fn one_that_ends_well_may_leave_something_running_that_holds_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run_in(dir.path(), &command("sleep 600 & echo $! > left; echo begun", 60), &|| false);
    assert_eq!((ran.end, ran.said), (Ok(()), vec!["begun".to_owned()]));
    let left = dir.path().join("left");
    assert!(runs(&left));
    let pid = std::fs::read_to_string(left).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn nothing_of_it_runs_before_it_is_noted_and_no_word_of_it_is_read_by_a_shell() {
    let dir = tempfile::tempdir().unwrap();
    let (target, session) = (dir.path().join("t"), SessionId([7; 16]));
    let facts = Facts { target: &target, retained: None, session, files: 0, bytes: 0, peer_id: "" };
    let words = ["touch", "a b; touch c", "$(touch d)", "`touch e`"].map(str::to_owned).to_vec();
    let touch = PostApply::new(words, PostApply::TIMEOUT).unwrap();
    let names = || {
        let mut all: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        all.sort();
        all
    };
    let ran = touch.run(&facts, &|| false, &mut |_| {
        assert!(names().is_empty());
        Ok(())
    });
    assert_eq!((ran.end, names()), (Ok(()), vec!["$(touch d)".into(), "`touch e`".into(), "a b; touch c".into()]));
}

#[test]
fn one_that_cannot_be_noted_does_not_run_on() {
    let dir = tempfile::tempdir().unwrap();
    let (target, session) = (dir.path().join("t"), SessionId([7; 16]));
    let facts = Facts { target: &target, retained: None, session, files: 0, bytes: 0, peer_id: "" };
    let ran = command("sleep 600", 60).run(&facts, &|| false, &mut |_| Err("no space".to_owned()));
    assert_eq!(ran.end.unwrap_err(), "no space");
}

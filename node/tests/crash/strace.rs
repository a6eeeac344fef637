//! A tracer on one thread or on a whole process, and what the machine must have for these tests.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// False, having said why, where these tests cannot run; in CI they must.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn can_run() -> bool {
    let missing = |tool: &&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    };
    let lacking: Vec<_> = ["strace", "python3", "mkfs.ext4", "mount", "umount"].into_iter().filter(missing).collect();
    let why = match () {
        () if !rustix::process::geteuid().is_root() => "needs root".to_owned(),
        () if !lacking.is_empty() => format!("needs {}", lacking.join(", ")),
        () => return true,
    };
    assert!(std::env::var_os("CI").is_none(), "in CI this test must run: {why}");
    eprintln!("skipped: {why}");
    false
}

/// Polls until `done` yields something.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `trace=` and `inject=` arguments.
pub(crate) fn expressions(injections: &[String]) -> Vec<String> {
    let calls: Vec<_> = injections.iter().filter_map(|i| i.split(':').next()).collect();
    let mut args =
        vec!["-qq".into(), "-o".into(), "/dev/null".into(), "-e".into(), format!("trace={}", calls.join(","))];
    for injection in injections {
        args.extend(["-e".into(), format!("inject={injection}")]);
    }
    args
}

/// Kills at the Nth call of `call`.
pub(crate) fn kill_at(call: &str, n: u32) -> Vec<String> {
    vec![format!("{call}:signal=KILL:when={n}")]
}

/// A tracer on one thread. Ends with the thread.
#[derive(Debug)]
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Attaches to thread `tid` of process `pid`; `only` restricts it to calls that name this path.
    pub(crate) fn attach(pid: u32, tid: &str, injections: &[String], only: Option<&str>) -> Self {
        let mut command = Command::new("strace");
        command.args(expressions(injections));
        if let Some(path) = only {
            command.args(["-P", path]);
        }
        let child = command.args(["-p", tid]).stdin(Stdio::null()).spawn().expect("strace starts");
        let tracer = Self(child);
        wait_for("the tracer", || {
            let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).expect("the thread is alive");
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")).then_some(())
        });
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

//! A device: how `me-sync` is started there, and a run of it whose NDJSON is read as it comes.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes on a slow machine; a hang fails and does not hang the suite.
const PATIENCE: Duration = Duration::from_secs(60);

/// How `me-sync` runs on one device.
#[derive(Clone)]
pub(crate) struct Device {
    name: &'static str,
    pub(crate) state: PathBuf,
    /// What stands before the program: `ip netns exec`, `setpriv`.
    prefix: Vec<OsString>,
    flags: Vec<OsString>,
    listen: Vec<&'static str>,
    home: Option<PathBuf>,
    cold: bool,
}

impl Device {
    /// On loopback, without mDNS.
    pub(crate) fn new(name: &'static str, state: PathBuf) -> Self {
        let listen = vec!["--no-mdns", "--listen", "127.0.0.1"];
        Self { name, state, prefix: Vec::new(), flags: Vec::new(), listen, home: None, cold: false }
    }

    /// Inside a network namespace, with everything on.
    pub(crate) fn in_namespace(mut self, namespace: &str) -> Self {
        self.prefix = ["ip", "netns", "exec", namespace].iter().map(Into::into).collect();
        self.listen.clear();
        self
    }

    /// As another user, who owns the state directory too.
    pub(crate) fn running_as(mut self, uid: u32) -> Self {
        std::fs::create_dir_all(&self.state).unwrap();
        std::os::unix::fs::chown(&self.state, Some(uid), Some(uid)).unwrap();
        let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
        self.prefix = ["setpriv", user.as_str(), group.as_str(), "--clear-groups"].iter().map(Into::into).collect();
        self
    }

    /// Under a tracer that lets every `call` take longer. The tracer is the child's child: signals meet the program.
    pub(crate) fn slowed_at(mut self, call: &str, time: Duration) -> Self {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:delay_enter={}", time.as_micros()));
        let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", trace.as_str(), "-e", inject.as_str()];
        self.prefix = strace.iter().map(Into::into).collect();
        self
    }

    /// Where the clocks since boot stand so much later.
    pub(crate) fn later(mut self, time: Duration) -> Self {
        let (boot, monotonic) = (time.as_secs().to_string(), time.as_secs().to_string());
        let words = ["unshare", "--time", "--boottime", &boot, "--monotonic", &monotonic, "--fork"];
        self.prefix = words.iter().map(Into::into).collect();
        self
    }

    /// At this address instead.
    pub(crate) fn listening(mut self, at: &str) -> Self {
        self.listen = vec!["--no-mdns"];
        self.with(&["--listen", at])
    }

    /// Hashes nothing before somebody asks for it, and everything is worth a late hash.
    pub(crate) fn cold(mut self) -> Self {
        self.cold = true;
        self
    }

    pub(crate) fn with_home(mut self, home: &Path) -> Self {
        self.home = Some(home.to_owned());
        self
    }

    pub(crate) fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(OsString::from));
        self
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut words = self.prefix.clone();
        words.push(env!("CARGO_BIN_EXE_me-sync").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for name in [
            "ME_SYNC_TICKET",
            "ME_SYNC_STATE_DIR",
            "ME_SYNC_LISTEN",
            "ME_SYNC_NO_MDNS",
            "ME_SYNC_LOG",
            "ME_SYNC_CONFIG",
        ] {
            command.env_remove(name);
        }
        // the settings of whoever runs the tests are not theirs
        command.env("XDG_CONFIG_HOME", self.state.join("config"));
        if self.cold {
            command.env("ME_SYNC_TEST_COLD", "0");
        }
        if let Some(home) = &self.home {
            command.env("HOME", home);
        }
        command.arg("--state-dir").arg(&self.state).args(["--device-name", self.name]).args(&self.listen);
        command.args(&self.flags).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `send --json PATH`, and the ticket it printed.
    pub(crate) fn send(&self, path: &Path) -> (Run, String) {
        self.send_with(path, &[])
    }

    pub(crate) fn send_with(&self, path: &Path, flags: &[&str]) -> (Run, String) {
        let mut command = self.command(&["--json", "send"]);
        command.args(flags).arg(path);
        let mut run = Run::start(command);
        let ticket = run.until("a ticket", |event| event["event"] == "ticket");
        let ticket = ticket["ticket"].as_str().unwrap().to_owned();
        (run, ticket)
    }

    /// `receive --json -y DIR`.
    pub(crate) fn receive(&self, ticket: &str, dir: &Path) -> Run {
        self.receive_with(ticket, dir, &[])
    }

    pub(crate) fn receive_with(&self, ticket: &str, dir: &Path, flags: &[&str]) -> Run {
        let mut command = self.command(&["--json", "receive", "-y"]);
        command.args(flags).arg(dir).env("ME_SYNC_TICKET", ticket);
        Run::start(command)
    }
}

/// A running `me-sync --json`. Killed when it goes out of scope.
pub(crate) struct Run {
    child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<Value>,
    stderr: Option<JoinHandle<String>>,
}

impl Run {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).ok();
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, lines, seen: Vec::new(), stderr: Some(stderr) }
    }

    /// The next event, none once stdout is closed.
    fn next(&mut self, until: Instant) -> Option<Value> {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                self.seen.push(event.clone());
                Some(event)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more was said; so far: {:#?}", self.seen),
        }
    }

    /// The first event from now on that is the one.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        while let Some(event) = self.next(until) {
            if is(&event) {
                return event;
            }
        }
        let stderr = self.stderr.take().unwrap().join().unwrap();
        panic!("ended before {what}: {:#?}\n{stderr}", self.seen);
    }

    /// Waits until payload bytes move.
    #[track_caller]
    pub(crate) fn until_bulk(&mut self) {
        self.until("bytes move", |e| e["phase"] == "bulk_transferring" && e["bytes_received"].as_u64() > Some(0));
    }

    #[track_caller]
    pub(crate) fn until_phase(&mut self, phase: &str) {
        self.until(phase, |e| e["phase"] == phase);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `-TERM` and the like to the program itself: `ip netns exec` and `setpriv` become it.
    pub(crate) fn signal(&self, name: &str) {
        // one that has ended and is not waited for yet takes it too
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Reads to the end and waits for it.
    #[track_caller]
    pub(crate) fn end(mut self) -> End {
        let until = Instant::now() + PATIENCE;
        while self.next(until).is_some() {}
        let exit = self.child.wait().unwrap().code();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        let last = self.seen.last().cloned().unwrap_or_default();
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!(last["event"], "result", "{:#?}\n{stderr}", self.seen);
        assert_eq!(last["exit_code"].as_i64(), exit.map(i64::from), "{last:#}\n{stderr}");
        End { exit, result: last, events: std::mem::take(&mut self.seen), stderr }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // it may have ended
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) exit: Option<i32>,
    pub(crate) result: Value,
    pub(crate) events: Vec<Value>,
    pub(crate) stderr: String,
}

impl End {
    pub(crate) fn code(&self) -> &str {
        self.result["code"].as_str().unwrap_or("")
    }

    pub(crate) fn message(&self) -> String {
        format!("{} | {}", self.result["message"].as_str().unwrap_or(""), self.result["hint"].as_str().unwrap_or(""))
    }

    #[track_caller]
    pub(crate) fn is_applied(&self) {
        assert_eq!(self.exit, Some(0), "{:#}\n{}", self.result, self.stderr);
    }

    /// Ended with this exit code and this code, and said `advice` to people.
    #[track_caller]
    pub(crate) fn is(&self, exit: i32, code: &str, advice: &str) {
        let said = self.message();
        assert_eq!((self.exit, self.code()), (Some(exit), code), "{said}\n{}", self.stderr);
        assert!(said.contains(advice), "{said:?} does not say {advice:?}");
        assert!(self.stderr.contains("  -> "), "no advice on stderr: {}", self.stderr);
    }

    /// Failed with a code that has a name.
    #[track_caller]
    pub(crate) fn is_named_failure(&self) {
        assert_ne!(self.exit, Some(0), "{:#}", self.result);
        assert!(!matches!(self.code(), "" | "failed"), "{:#}\n{}", self.result, self.stderr);
        assert!(!self.message().is_empty());
    }

    /// Paths of the files that failed.
    pub(crate) fn failed(&self) -> Vec<&str> {
        let all = self.result["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter_map(|f| f["path"].as_str()).collect()
    }

    pub(crate) fn moved_bytes(&self) -> bool {
        self.events.iter().any(|e| e["bytes_received"].as_u64() > Some(0))
    }
}

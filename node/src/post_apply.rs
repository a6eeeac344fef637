//! The command that runs once a new tree is in place, and whose failure brings the old one back.
//!
//! Owns how it is started, watched, heard and ended. Its words come from what a person on this device wrote, nothing of a
//! peer is among them, and no shell reads them. Blocking: it runs on the thread that has done the swap.

mod find;
mod words;

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, PipeReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use me_sync_protocol::escape::escaped;
use me_sync_protocol::ids::SessionId;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

pub use self::words::{Choice, PostApply, PostApplyRefused};
use crate::process::ProcessMark;

/// The process that becomes the command once it is told to, by one line; without it, it ends. So nothing of the command
/// runs before the journal knows its process, and nothing at all if this process dies before that. The words of the
/// command are the arguments of this line, not a part of it.
const GATE: [&str; 4] = ["/bin/sh", "-c", r#"read -r go && exec "$@" </dev/null"#, "me-sync"];
/// How often it is looked whether somebody wants to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(1);
/// How long what is left in the pipe is read after the end.
const REST: Duration = Duration::from_millis(500);
/// Of its output, what is logged.
const LOGGED: usize = 64 << 10;
/// Of its output, the lines that are told at the end.
const TOLD: usize = 5;
/// A longer line is taken for several.
const LINE: u64 = 4096;

/// What a command is told, as `ME_SYNC_*`.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) target: &'a Path,
    /// Where the old tree is, if there was one.
    pub(crate) retained: Option<&'a Path>,
    pub(crate) session: SessionId,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) peer_id: &'a str,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What went wrong, for people.
    pub(crate) end: Result<(), String>,
    /// The last lines of what it printed, escaped.
    pub(crate) said: Vec<String>,
}

impl PostApply {
    /// Runs it to its end, at most as long as it may. `started` is told of the process before anything else is done; if
    /// that fails the process is ended. Whatever is left of its process group after a failure is killed.
    pub(crate) fn run(
        &self,
        facts: &Facts<'_>,
        is_stopped: &dyn Fn() -> bool,
        started: &mut dyn FnMut(ProcessMark) -> Result<(), String>,
    ) -> Ran {
        // it was there when the import began; if not now, no shell needs to find that out
        if let Err(refused) = self.look_beside(facts.target) {
            return Ran { end: Err(format!("it cannot be started: {refused}")), said: Vec::new() };
        }
        let (mut child, output) = match self.spawn(facts) {
            Ok(spawned) => spawned,
            Err(err) => return Ran { end: Err(format!("{self} cannot be started: {err}")), said: Vec::new() },
        };
        let heard = Heard::listen(output);
        let end = match ProcessMark::of(&child).map_err(|err| err.to_string()).and_then(started) {
            Ok(()) => {
                // one that is gone already is seen by the watch
                if let Some(mut gate) = child.stdin.take() {
                    gate.write_all(b"go\n").ok();
                }
                self.watch(&child, is_stopped)
            }
            Err(why) => Err(why),
        };
        if end.is_err() {
            // not reaped yet, so the id is still its own
            kill(&child, Signal::KILL);
        }
        // it has ended, or is about to
        let status = child.wait().ok();
        let said = heard.told();
        match &said[..] {
            // the gate's own words, when the system refuses the program: the reader knows of no gate
            [only] if is_of_gate(only, status.and_then(|status| status.code())) => {
                let why =
                    "the system refuses it; if it is a script, its first line may name a program that is not there";
                Ran { end: Err(format!("{self} cannot be started: {why}")), said: Vec::new() }
            }
            _ => Ran { end, said },
        }
    }

    fn spawn(&self, facts: &Facts<'_>) -> io::Result<(Child, PipeReader)> {
        use std::os::unix::process::CommandExt as _;

        let (output, input) = io::pipe()?;
        let [shell, line @ ..] = GATE;
        let mut command = Command::new(shell);
        command
            .args(line)
            .args(self.argv())
            .env_remove("ME_SYNC_TICKET")
            .env("ME_SYNC_TARGET", facts.target)
            .env("ME_SYNC_SESSION_ID", facts.session.to_string())
            .env("ME_SYNC_FILES", facts.files.to_string())
            .env("ME_SYNC_BYTES", facts.bytes.to_string())
            .env("ME_SYNC_PEER_ID", facts.peer_id)
            .env_remove("ME_SYNC_KEPT")
            .envs(facts.retained.map(|kept| ("ME_SYNC_KEPT", kept)))
            // the same directory before and after a way back, and none whose content came from elsewhere
            .current_dir(place(facts.target))
            .stdin(Stdio::piped())
            .stdout(input.try_clone()?)
            .stderr(input)
            .process_group(0);
        Ok((command.spawn()?, output))
    }

    fn watch(&self, child: &Child, is_stopped: &dyn Fn() -> bool) -> Result<(), String> {
        let ended = wait_apart(child);
        let deadline = Instant::now() + self.timeout();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match ended.recv_timeout(left.min(LOOK)) {
                Ok(None) => return Ok(()),
                Ok(Some(how)) => return Err(format!("{self} {how}")),
                Err(RecvTimeoutError::Disconnected) => return Err(format!("{self} was lost")),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    end(child, &ended);
                    return Err(format!("{self} took longer than {} s", self.timeout().as_secs()));
                }
                Err(RecvTimeoutError::Timeout) if is_stopped() => {
                    end(child, &ended);
                    return Err(format!("{self} was stopped"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Where it runs.
fn place(target: &Path) -> &Path {
    target.parent().unwrap_or(Path::new("/"))
}

/// Is that line, of a process that ended so, what the gate says when it cannot become the command? It begins with the
/// name that the gate was given.
fn is_of_gate(line: &str, code: Option<i32>) -> bool {
    let [.., name] = GATE;
    matches!(code, Some(126 | 127)) && line.strip_prefix(name).is_some_and(|rest| rest.starts_with(": "))
}

/// Asks the group to end, and gives it a moment; the caller kills what is left.
fn end(child: &Child, ended: &mpsc::Receiver<Option<String>>) {
    kill(child, Signal::TERM);
    ended.recv_timeout(GRACE).ok();
}

fn kill(child: &Child, signal: Signal) {
    // a group that has ended needs no signal
    kill_process_group(Pid::from_child(child), signal).ok();
}

/// Says how it ended, none if well, and leaves it to be reaped: until then nobody else gets its id.
fn wait_apart(child: &Child) -> mpsc::Receiver<Option<String>> {
    let pid = Pid::from_child(child);
    let (to, ended) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let how = loop {
            match waitid(WaitId::Pid(pid), options) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(Some(status)) => break status.exit_status().ok_or(status.terminating_signal()),
                Ok(None) | Err(_) => break Err(None),
            }
        };
        let how = match how {
            Ok(0) => None,
            Ok(code) => Some(format!("ended with exit code {code}")),
            Err(Some(signal)) => Some(format!("was ended by signal {signal}")),
            Err(None) => Some("was lost".to_owned()),
        };
        // nobody waits any more
        to.send(how).ok();
    });
    ended
}

/// What it prints: logged up to a bound, the last lines remembered. What it leaves running may hold the pipe for ever,
/// so nobody waits for its end.
#[derive(Debug)]
struct Heard {
    last: Arc<Mutex<VecDeque<String>>>,
    end: mpsc::Receiver<()>,
}

impl Heard {
    fn listen(output: PipeReader) -> Self {
        let last = Arc::<Mutex<VecDeque<String>>>::default();
        let (done, end) = mpsc::sync_channel(1);
        let kept = last.clone();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut logged = 0;
            let mut line = Vec::new();
            while let Ok(1..) = (&mut output).take(LINE).read_until(b'\n', &mut line) {
                let text = escaped(String::from_utf8_lossy(&line).trim_end()).to_string();
                let before = logged;
                logged += line.len();
                if logged <= LOGGED {
                    tracing::info!("the command after the swap: {text}");
                } else if before <= LOGGED {
                    tracing::info!("the command after the swap says more, which is not logged");
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == TOLD {
                    kept.pop_front();
                }
                if !text.is_empty() {
                    kept.push_back(text);
                }
                line.clear();
            }
            done.send(()).ok();
        });
        Self { last, end }
    }

    fn told(self) -> Vec<String> {
        self.end.recv_timeout(REST).ok();
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
#[path = "post_apply/tests.rs"]
mod tests;

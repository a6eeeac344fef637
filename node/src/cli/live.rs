//! What a process at work says of its session, for other processes: `<state>/status/<session>.json`.
//!
//! Written about once a second while a job is followed, by rename, so that a reader sees all of it or nothing; never
//! flushed, because it is worth nothing after a crash. A file whose process is gone is nobody's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use me_sync_node::JobView;
use me_sync_node::book::LiveView;
use me_sync_node::source::ScanOptions;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;
use rustix::process::{Pid, test_kill_process};

use super::exit::CliError;
use super::globals::Globals;
use super::job::Job;

const DIR: &str = "status";
const EVERY: Duration = Duration::from_secs(1);
/// More than a view with a hundred failures of the longest paths has.
const MAX_FILE: u64 = 1 << 20;

/// Says what this process does, until dropped.
#[derive(Debug)]
pub(crate) struct StatusFile {
    dir: PathBuf,
    /// The tree that is read, or the target.
    tree: PathBuf,
    /// What a source leaves out.
    choices: Option<ScanOptions>,
    written: Option<(SessionId, Phase, Instant)>,
}

impl StatusFile {
    /// For a job of the node that holds the state directory: what others left there is stale.
    fn new(state_dir: &Path, tree: &Path) -> Self {
        let dir = state_dir.join(DIR);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // one that cannot be removed names a process that is gone
            fs::remove_file(entry.path()).ok();
        }
        let tree = std::path::absolute(tree).unwrap_or_else(|_| tree.to_owned());
        Self { dir, tree, choices: None, written: None }
    }

    /// For a job that runs in this process; that of a node needs none.
    pub(crate) fn of(job: &Job, globals: &Globals, tree: &Path) -> Result<Option<Self>, CliError> {
        Ok(if job.is_here() { Some(Self::new(&globals.state_dir()?, tree)) } else { None })
    }

    /// The same, for a source that was looked at in this way.
    pub(crate) fn looked_at(mut self, choices: ScanOptions) -> Self {
        self.choices = Some(choices);
        self
    }

    /// Writes what is new, if it is time. The files are small and never flushed, so this does not block.
    pub(crate) fn update(&mut self, view: &JobView) {
        let Some(session) = view.session_id else { return };
        if let Some((known, phase, at)) = self.written {
            if known == session && phase == view.phase && at.elapsed() < EVERY {
                return;
            }
            if known != session {
                self.remove();
            }
        }
        self.written = Some((session, view.phase, Instant::now()));
        if let Err(err) = self.write(session, view) {
            tracing::debug!(error = %err, "the status of this session is not shown to other processes");
        }
    }

    fn write(&self, session: SessionId, view: &JobView) -> io::Result<()> {
        let live = LiveView {
            pid: std::process::id(),
            updated_ms: now_ms(),
            path: self.tree.clone(),
            skip_unreadable: self.choices.map(|choices| choices.skip_unreadable),
            skip_unsupported: self.choices.map(|choices| choices.skip_unsupported),
            view: view.clone(),
        };
        let fields = serde_json::to_string(&live)?;
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
            _ => {}
        }
        let (name, new) = (self.name(session), self.dir.join(format!("{session}.new")));
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        writeln!(file, "{fields}")?;
        fs::rename(new, name)
    }

    fn name(&self, session: SessionId) -> PathBuf {
        self.dir.join(format!("{session}.json"))
    }

    fn remove(&mut self) {
        if let Some((session, ..)) = self.written.take() {
            // the next reader sees that this process is gone
            fs::remove_file(self.name(session)).ok();
        }
    }
}

impl Drop for StatusFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// One that may not be signalled is there.
fn is_alive(live: &LiveView) -> bool {
    let pid = i32::try_from(live.pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

/// The sessions that processes on this state directory work on.
pub(crate) fn all(state_dir: &Path) -> Vec<LiveView> {
    let entries = fs::read_dir(state_dir.join(DIR)).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
    let read = |path: PathBuf| {
        let mut text = String::new();
        File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)).ok()?;
        serde_json::from_str::<LiveView>(&text).ok()
    };
    files.filter_map(read).filter(is_alive).collect()
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(session: SessionId, pid: u32) -> serde_json::Value {
        serde_json::json!({ "pid": pid, "updated_ms": 1, "path": "/x", "role": "importer", "phase": "applying",
            "session_id": session.to_string(), "peer": null, "source_name": null, "waiting": null, "limit_bps": null,
            "begun_ms": null, "manifest_sha256": null, "changed": [],
            "progress": { "files_hashed": null, "bytes_hashed": null, "files_ok": 3, "files_failed": 0, "files_total": 3, "bytes_received": 9, "bytes_total": 9,
                "transfer_bps": 0, "retry_round": 0, "detail": "" },
            "reused_files": 0, "reused_bytes": 0, "payload_bytes": 9, "wire_bytes": 9, "review": null,
            "failures": [], "failures_total": 0, "outcome": null })
    }

    #[test]
    fn a_status_file_counts_only_while_its_process_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join(DIR);
        fs::create_dir(&status).unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let (mine, stale) = (SessionId([1; 16]), SessionId([2; 16]));
        for (session, pid) in [(mine, std::process::id()), (stale, gone.id())] {
            fs::write(status.join(format!("{session}.json")), sample(session, pid).to_string()).unwrap();
        }
        fs::write(status.join("torn.json"), "{\"role\":").unwrap();
        let found = all(dir.path());
        assert_eq!(found.iter().filter_map(|live| live.view.session_id).collect::<Vec<_>>(), [mine]);
        assert_eq!(found[0].view.progress.files_ok, 3);
    }
}

//! A place to migrate to, with an old tree or none, and the processes that work on it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, SystemTime};

use me_sync_node::staging::{self, SessionState, Staging, StateDir, TargetOptions};
use me_sync_protocol::reason::Code;

use crate::image::{self, Image};
use crate::ledger::survey;
use crate::strace::{Tracer, expressions, wait_for};

const BIN: &str = env!("CARGO_BIN_EXE_me-sync");

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tree {
    Old,
    New,
}

/// A child that does not outlive its test.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// How an importer ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl End {
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9) || self.status.code() == Some(137)
    }

    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// Directories of one run. The importer's state and target lie below `disk`.
#[derive(Debug)]
pub(crate) struct Site {
    _tmp: tempfile::TempDir,
    root: PathBuf,
    disk: PathBuf,
    pub(crate) old: Image,
    pub(crate) new: Image,
    envs: Vec<(&'static str, String)>,
}

impl Site {
    /// A source of `files` files, and an old tree at the target if `standing`. With `disk`, the importer's side is there.
    pub(crate) fn new(files: usize, standing: bool, disk: Option<&Path>) -> Self {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        let root = tmp.path().canonicalize().expect("resolved");
        let disk = disk.map_or_else(|| root.clone(), Path::to_owned);
        let source = root.join("source");
        for n in 0..files {
            let dir = source.join(format!("d{}", n % 4));
            fs::create_dir_all(&dir).expect("made");
            let file = dir.join(format!("f{n}"));
            fs::write(&file, format!("new content {n}\n").repeat(n % 50 + 1)).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("changed");
        }
        fs::create_dir_all(source.join("empty")).expect("made");
        symlink("d0/f0", source.join("link")).expect("made");
        fs::create_dir(disk.join("p")).expect("made");
        let site = Self { _tmp: tmp, root, disk, old: Image::new(), new: image::read(&source), envs: Vec::new() };
        if standing {
            fs::create_dir_all(site.target().join("old/deep")).expect("made");
            for n in 0..5 {
                fs::write(site.target().join(format!("old/deep/o{n}")), format!("old {n}")).expect("written");
            }
            fs::set_permissions(site.target().join("old/deep"), fs::Permissions::from_mode(0o555)).expect("changed");
            let earlier = SystemTime::now() - Duration::from_secs(86_400);
            let root = fs::File::open(site.target()).expect("opened");
            root.set_modified(earlier).expect("changed");
        }
        Self { old: image::read(&site.target()), ..site }
    }

    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Self {
        self.envs.push((name, value.to_owned()));
        self
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.root.join("source")
    }

    pub(crate) fn parent(&self) -> PathBuf {
        self.disk.join("p")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.parent().join("t")
    }

    fn command(&self, tracer: Option<&[String]>, state: &Path) -> Command {
        let mut command = match tracer {
            None => Command::new(BIN),
            Some(injections) => {
                let mut command = Command::new("strace");
                command.arg("-f").args(expressions(injections)).arg(BIN);
                command
            }
        };
        command.arg("--state-dir").arg(state).args(["--listen", "127.0.0.1", "--no-mdns", "--transport", "tcp"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts an exporter and reads its ticket.
    pub(crate) fn send(&self) -> (Running, String) {
        let mut command = self.command(None, &self.root.join("exporter"));
        let mut child = command.args(["send"]).arg(self.source()).spawn().expect("send starts");
        let mut ticket = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut ticket).expect("a ticket");
        assert!(ticket.starts_with("me.things:"), "no ticket: {ticket:?}");
        (Running(child), ticket.trim().to_owned())
    }

    fn receive(&self, ticket: &str, tracer: Option<&[String]>) -> Command {
        let mut command = self.command(tracer, &self.state());
        command.args(["--json", "receive", "-y"]).arg(self.target()).env("ME_SYNC_TICKET", ticket);
        command.envs(self.envs.iter().map(|(k, v)| (*k, v)));
        command
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.disk.join("state")
    }

    /// Starts an importer alone.
    pub(crate) fn spawn_receive(&self, ticket: &str) -> Running {
        Running(self.receive(ticket, None).spawn().expect("receive starts"))
    }

    /// A whole migration; with `tracer`, the importer is traced from its start, all threads.
    pub(crate) fn migrate(&self, tracer: Option<&[String]>) -> End {
        let (_exporter, ticket) = self.send();
        End::of(self.receive(&ticket, tracer).output().expect("receive runs"))
    }

    /// A migration whose thread at `point` is traced from there on.
    pub(crate) fn migrate_traced_from(&self, point: &str, injections: &[String], only: Option<&str>) -> End {
        let (_exporter, ticket) = self.send();
        self.receive_traced_from(&ticket, point, injections, only)
    }

    /// As [`Self::migrate_traced_from`], from an exporter that is there.
    pub(crate) fn receive_traced_from(
        &self,
        ticket: &str,
        point: &str,
        injections: &[String],
        only: Option<&str>,
    ) -> End {
        let file = self.root.join("pause");
        let mut command = self.receive(ticket, None);
        command.env("ME_SYNC_TEST_PAUSE", format!("{point}:{}", file.display()));
        let mut child = Running(command.spawn().expect("receive starts"));
        let tid = wait_for("the pause (is the binary built with the feature test-hooks?)", || {
            assert!(child.0.try_wait().expect("asked").is_none(), "the importer ended before it came to {point}");
            fs::read_to_string(&file).ok()
        });
        let _tracer = Tracer::attach(child.0.id(), &tid, injections, only);
        fs::remove_file(&file).expect("removed");
        finish(child)
    }

    /// The next start: settles whatever is left. With `tracer` from its first system call on.
    pub(crate) fn restart(&self, tracer: Option<&[String]>) -> End {
        let mut command = self.command(tracer, &self.state());
        End::of(command.args(["--json", "sessions"]).output().expect("sessions runs"))
    }

    pub(crate) fn rollback(&self) -> End {
        let mut command = self.command(None, &self.state());
        End::of(command.args(["rollback", "-y"]).arg(self.target()).output().expect("rollback runs"))
    }

    /// Which tree stands at the target.
    ///
    /// # Panics
    /// Neither does.
    pub(crate) fn standing(&self, when: &str) -> Tree {
        let now = image::read(&self.target());
        match self.judge(&now) {
            Some(tree) => tree,
            None => panic!(
                "{when}: the target is neither OLD nor NEW: to OLD {} to NEW {}; beside it {:?}",
                image::difference(&self.old, &now),
                image::difference(&self.new, &now),
                self.siblings()
            ),
        }
    }

    pub(crate) fn judge(&self, now: &Image) -> Option<Tree> {
        match () {
            () if *now == self.new => Some(Tree::New),
            () if *now == self.old => Some(Tree::Old),
            () => None,
        }
    }

    /// What of ours stands beside the target.
    pub(crate) fn siblings(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.parent()).expect("readable").map(|e| e.expect("an entry").path());
        let mut all: Vec<_> = entries.filter(|p| *p != self.target()).collect();
        all.sort();
        all
    }

    /// The next start without any help: whole, nothing left behind but what can be continued, at rest, and the way
    /// back is open.
    pub(crate) fn recovers(&self, when: &str) -> Tree {
        let first = self.restart(None);
        assert!(first.status.success(), "{when}: {}", first.stderr);
        assert!(!first.stdout.contains("\"parked\""), "{when}: {}", first.stdout);
        let tree = self.standing(&format!("{when}, restarted"));
        self.end_unfinished(when, tree);
        self.only_the_retained_tree(when, tree);
        let before = self.siblings();
        let second = self.restart(None);
        assert!(!second.stdout.contains("\"recovered\""), "{when}: the second start had work: {}", second.stdout);
        assert_eq!((self.standing(when), self.siblings()), (tree, before), "{when}: the second start moved something");
        if tree == Tree::New {
            let back = self.rollback();
            assert!(back.status.success(), "{when}: {}", back.stderr);
            assert_eq!(self.standing(&format!("{when}, rolled back")), Tree::Old);
        }
        tree
    }

    /// Sessions that are left for their continuation can be continued, and hold nothing that is wrong.
    fn end_unfinished(&self, when: &str, tree: Tree) {
        let state = StateDir::open(&self.state()).expect("opened");
        for record in state.sessions().expect("listed") {
            if !matches!(record.state, SessionState::Receiving | SessionState::Verified) {
                continue;
            }
            assert_eq!(tree, Tree::Old, "{when}: unfinished, and the new tree stands");
            let staging = Staging::reopen(&state, record.session, &TargetOptions::default(), [])
                .unwrap_or_else(|err| panic!("{when}: cannot be continued: {err}"));
            let (found, _) = survey(&staging);
            for file in &found.ok {
                let entry = staging.manifest().entry(file.index()).expect("an entry");
                let bytes = fs::read(staging.path().join(entry.path.as_str())).expect("readable");
                let sent = fs::read(self.source().join(entry.path.as_str())).expect("readable");
                assert!(bytes == sent, "{when}: {}", entry.path);
            }
            for (path, node) in &self.new {
                let there = staging.path().join(path);
                assert!(!node.is_dir() || there.is_dir(), "{when}: {} is missing", path.display());
            }
            staging.suspend();
            staging::discard(&state, record.session, Code::Aborted).expect("discarded");
        }
    }

    fn only_the_retained_tree(&self, when: &str, tree: Tree) {
        let mut left = self.siblings();
        // an empty probe directory of a killed start is swept by a later session
        left.retain(|p| !(p.to_string_lossy().contains("/.me-sync-probe-") && image::read(p).len() == 1));
        if tree == Tree::New && !self.old.is_empty() {
            assert_eq!(left.len(), 1, "{when}: {left:?}");
            assert_eq!(image::read(&left[0]), self.old, "{when}: the retained tree");
        } else {
            assert_eq!(left, Vec::<PathBuf>::new(), "{when}: {tree:?} stands, and this is left");
        }
    }
}

/// Waits for a child and reads what it said.
pub(crate) fn finish(mut child: Running) -> End {
    use std::io::Read as _;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    // NDJSON and a few lines: far below what a pipe holds
    let status = child.0.wait().expect("waited");
    child.0.stdout.take().map(|mut s| s.read_to_string(&mut stdout));
    child.0.stderr.take().map(|mut s| s.read_to_string(&mut stderr));
    End { status, stdout, stderr }
}

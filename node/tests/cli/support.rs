//! Processes whose pipes are read line by line, trees, and a comparer that shares nothing with the product.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use me_sync_protocol::ticket::Ticket;
use serde_json::Value;
use tempfile::TempDir;

/// A place with two devices: each has a state directory.
pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `me-sync` as device `state`, on loopback, without mDNS and without stdin.
    pub(crate) fn command(&self, state: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_me-sync"));
        command
            .env_remove("ME_SYNC_TICKET")
            .env_remove("ME_SYNC_STATE_DIR")
            .env_remove("ME_SYNC_LISTEN")
            .env_remove("ME_SYNC_LOG")
            .env_remove("ME_SYNC_CONFIG")
            .env("XDG_CONFIG_HOME", self.path("config"))
            .arg("--state-dir")
            .arg(self.path(state))
            .args(["--no-mdns", "--listen", "127.0.0.1", "--device-name", state])
            .args(args)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, state: &str, args: &[&str]) -> Output {
        self.command(state, args).output().unwrap()
    }

    /// Runs with `input` on stdin.
    pub(crate) fn run_with_input(&self, state: &str, args: &[&str], input: &str) -> Output {
        let mut child = self.command(state, args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// A `send` that has printed its ticket.
    pub(crate) fn send(&self, args: &[&str]) -> Sender {
        self.send_as("exporter", args)
    }

    pub(crate) fn send_as(&self, device: &str, args: &[&str]) -> Sender {
        self.offer(device, &[&["send"], args].concat())
    }

    /// Any command that offers, and has printed its ticket.
    pub(crate) fn offer(&self, device: &str, args: &[&str]) -> Sender {
        Sender::start(self.command(device, args))
    }

    /// A `receive --json` whose events are read one by one.
    pub(crate) fn receive(&self, args: &[&str], ticket: &str) -> Receiver {
        self.follow(self.command("importer", &[&["receive", "--json"], args].concat()).env("ME_SYNC_TICKET", ticket))
    }

    /// Whose events are read while it runs.
    pub(crate) fn follow(&self, command: &mut Command) -> Receiver {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = read_apart(&mut child);
        Receiver { child, stdout, stderr }
    }

    /// What a crash or an abort could have left beside the targets.
    pub(crate) fn staging_leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".me-sync-")).collect()
    }
}

pub(crate) struct Sender {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: JoinHandle<String>,
    pub(crate) ticket: String,
}

/// How a `send` ended.
pub(crate) struct Sent {
    pub(crate) code: Option<i32>,
    /// What came on stdout after the ticket.
    pub(crate) rest: String,
    pub(crate) stderr: String,
}

impl Sender {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = read_apart(&mut child);
        let mut ticket = String::new();
        stdout.read_line(&mut ticket).unwrap();
        if ticket.is_empty() {
            child.wait().unwrap();
            panic!("no ticket: {}", stderr.join().unwrap());
        }
        Self { child, stdout, stderr, ticket: ticket.trim().to_owned() }
    }

    /// The next line on stdout.
    pub(crate) fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn wait(mut self) -> Sent {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code();
        Sent { code, rest, stderr: self.stderr.join().unwrap() }
    }

    pub(crate) fn interrupt(self) -> Sent {
        signal("INT", &self.child);
        self.wait()
    }
}

/// A `receive --json` under way.
pub(crate) struct Receiver {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: JoinHandle<String>,
}

impl Receiver {
    /// Reads on to the first such event.
    #[track_caller]
    pub(crate) fn until(&mut self, found: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the receiver ended before that");
            let event = events(&line).remove(0);
            if found(&event) {
                return event;
            }
        }
    }

    /// Its exit code and the rest of what it printed.
    pub(crate) fn wait(mut self) -> (Option<i32>, String, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, rest, self.stderr.join().unwrap())
    }

    pub(crate) fn interrupt(self) -> (Option<i32>, String, String) {
        signal("INT", &self.child);
        self.wait()
    }

    pub(crate) fn kill(self) {
        signal("KILL", &self.child);
        self.wait();
    }
}

fn read_apart(child: &mut Child) -> JoinHandle<String> {
    let mut stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    })
}

/// A relay before an exporter that lets so many bytes a second through to its importers together, until it is opened.
pub(crate) struct Throttle {
    address: String,
    is_open: Arc<AtomicBool>,
}

impl Throttle {
    pub(crate) fn before(ticket: &str, rate: u64) -> Self {
        let ticket = Ticket::parse(ticket).unwrap();
        let port = ticket.addresses.iter().find_map(|a| a.strip_prefix("/ip4/127.0.0.1/tcp/")).unwrap().to_owned();
        let relay = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", relay.local_addr().unwrap().port());
        let is_open = Arc::new(AtomicBool::new(false));
        let (open, line) = (is_open.clone(), Arc::new(Mutex::new(())));
        std::thread::spawn(move || {
            for importer in relay.incoming().map(Result::unwrap) {
                // nobody is there while it is restarted
                let Ok(exporter) = TcpStream::connect(format!("127.0.0.1:{port}")) else { continue };
                let (to, from) = (importer.try_clone().unwrap(), exporter.try_clone().unwrap());
                let (open, line) = (open.clone(), line.clone());
                std::thread::spawn(move || trickle(from, to, rate, &open, &line));
                std::thread::spawn(move || {
                    std::io::copy(&mut &importer, &mut &exporter).ok();
                    exporter.shutdown(Shutdown::Both).ok();
                });
            }
        });
        Self { address, is_open }
    }

    /// The ticket that leads through here.
    pub(crate) fn ticket(&self, ticket: &str) -> String {
        let mut ticket = Ticket::parse(ticket).unwrap();
        ticket.addresses = vec![self.address.clone()];
        ticket.to_uri()
    }

    pub(crate) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

/// One at a time is on the line: two connections are no faster than one.
fn trickle(mut from: TcpStream, mut to: TcpStream, rate: u64, open: &AtomicBool, line: &Mutex<()>) {
    let mut block = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut block) {
        if to.write_all(&block[..n]).is_err() {
            break;
        }
        if !open.load(Ordering::Relaxed) {
            let _on_the_line = line.lock().unwrap();
            std::thread::sleep(Duration::from_secs(1).mul_f64(n as f64 / rate as f64));
        }
    }
    to.shutdown(Shutdown::Both).ok();
    from.shutdown(Shutdown::Both).ok();
}

/// The same ticket by way of a relay that lets `bytes` bytes through to the importer and then no more, so that
/// the transfer stands still until the importer leaves.
pub(crate) fn behind_a_stalling_relay(ticket: &str, bytes: u64) -> String {
    let mut ticket = Ticket::parse(ticket).unwrap();
    let port = ticket.addresses.iter().find_map(|a| a.strip_prefix("/ip4/127.0.0.1/tcp/")).unwrap().to_owned();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    ticket.addresses = vec![format!("/ip4/127.0.0.1/tcp/{}", relay.local_addr().unwrap().port())];
    std::thread::spawn(move || {
        let (importer, _) = relay.accept().unwrap();
        let exporter = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let (mut to, from) = (importer.try_clone().unwrap(), exporter.try_clone().unwrap());
        // either end may leave first
        std::thread::spawn(move || std::io::copy(&mut from.take(bytes), &mut to).ok());
        std::io::copy(&mut &importer, &mut &exporter).ok();
        exporter.shutdown(Shutdown::Both).ok();
    });
    ticket.to_uri()
}

pub(crate) fn signal(name: &str, child: &Child) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap();
    assert!(sent.success());
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
pub(crate) fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}

/// Every line of NDJSON; fails on a line that is none.
pub(crate) fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A tree with old times, modes, links, an empty directory and odd names.
pub(crate) fn make_tree(root: &Path, salt: &str) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for (name, mode) in [("a.txt", 0o644), ("deep/run", 0o755), ("deep/er/secret", 0o600), ("naïve 文書", 0o640)] {
        fs::write(root.join(name), format!("{salt} {name}").repeat(100)).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::write(root.join("large"), salt.repeat(2_000_000 / salt.len())).unwrap();
    symlink("a.txt", root.join("link")).unwrap();
    symlink("/nowhere/at all", root.join("dangling")).unwrap();
    fs::set_permissions(root.join("deep"), Permissions::from_mode(0o750)).unwrap();
    for (name, ns) in [("a.txt", 1), ("large", 999_999_999), ("deep/er", 123_456_789), ("empty", 7)] {
        let time = UNIX_EPOCH + Duration::new(1_234_567_890, ns);
        File::open(root.join(name)).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }
}

/// Bytes that do not shrink: over a slow relay they take the time that their number says.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Everything about a tree that a migration must keep, by relative path.
pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, at: &Path, into: &mut BTreeMap<PathBuf, String>) {
        let meta = fs::symlink_metadata(at).unwrap();
        let common = format!("{:o} {}.{:09}", meta.mode(), meta.mtime(), meta.mtime_nsec());
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(at).unwrap().display())
        } else if meta.is_dir() {
            common
        } else {
            format!("{common} {:?}", fs::read(at).unwrap())
        };
        into.insert(at.strip_prefix(root).unwrap().to_owned(), what);
        if meta.is_dir() {
            fs::read_dir(at).unwrap().for_each(|e| walk(root, &e.unwrap().path(), into));
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

#[track_caller]
pub(crate) fn assert_same(one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>) {
    let names = |tree: &BTreeMap<PathBuf, String>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(one), names(other));
    for (path, what) in one {
        let short = |text: &str| text.chars().take(80).collect::<String>();
        assert!(what == &other[path], "{}: {} / {}", path.display(), short(what), short(&other[path]));
    }
}

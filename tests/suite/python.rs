//! Another implementation: an importer in Python, written from SPEC.md alone, at the other end of a pipe (SPEC §5.13).

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use me_sync_node::{Offer, PipeSession};
use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::support::tree::{assert_same, file, sample};
use crate::support::{PATIENCE, TestNode, completed};

/// What the importer says of itself.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
struct Told {
    files: u64,
    rounds: u32,
    pipes: u32,
    payload_bytes: u64,
    manifest_sha256: String,
}

fn tree() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    sample(&dir.path().join("source"));
    file(&dir.path().join("source"), "large", 3 << 20, 0o640);
    dir
}

/// Takes every pipe that somebody opens, as long as it lives.
fn serve(exporter: &TestNode, socket: &Path) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let handle = exporter.node.handle();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handle = handle.clone();
            tokio::spawn(async move { handle.attach_pipe(PipeSession::Offers, stream).await });
        }
    })
}

async fn python(offer: &Offer, socket: &Path, target: &Path, cut: Option<u64>) -> Told {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/importer.py");
    let mut command = Command::new("python3");
    // nothing is written beside the script
    command.arg("-B").arg(script).arg(socket).arg(target).args(cut.map(|cut| cut.to_string()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ticket = offer.ticket.to_uri();
    let done = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("python3 is installed");
        // the end of its input is where the pipe is dropped
        child.stdin.take().expect("piped").write_all(ticket.as_bytes()).expect("it reads the ticket");
        child.wait_with_output().expect("it ends")
    });
    let done = tokio::time::timeout(PATIENCE, done).await.expect("it does not hang").expect("it ran");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("one line of JSON")
}

async fn imports(exporter: &TestNode, cut: Option<u64>) -> (Told, u64) {
    let dir = tree();
    let (socket, target) = (dir.path().join("pipe"), dir.path().join("target"));
    let server = serve(exporter, &socket);
    let offer = exporter.offer(&dir.path().join("source")).await;
    let told = python(&offer, &socket, &target, cut).await;
    let sent = completed(&offer.job).await;
    server.abort();
    assert_eq!((sent.manifest_sha256.as_str(), sent.files), (told.manifest_sha256.as_str(), told.files));
    assert_same(&dir.path().join("source"), &target);
    (told, sent.bytes)
}

// SPEC §4, §5.5, §5.7, §5.13
#[tokio::test(flavor = "multi_thread")]
async fn an_importer_in_python_receives_a_tree_and_finalizes() {
    let (told, bytes) = imports(&TestNode::start().await, None).await;
    assert_eq!((told.rounds, told.pipes, told.payload_bytes), (0, 1, bytes));
}

// SPEC §5.6
#[tokio::test(flavor = "multi_thread")]
async fn an_importer_in_python_asks_again_for_a_file_that_came_wrong() {
    let (told, bytes) = imports(&TestNode::corrupting(&[("large", 2)]).await, None).await;
    assert_eq!((told.rounds, told.pipes, told.payload_bytes), (2, 1, bytes + 2 * (3 << 20)));
}

// SPEC §5.3, §5.5, §6.4
#[tokio::test(flavor = "multi_thread")]
async fn an_importer_in_python_resumes_over_another_pipe_in_the_middle_of_a_file() {
    let (told, bytes) = imports(&TestNode::start().await, Some(1 << 20)).await;
    assert_eq!((told.rounds, told.pipes), (0, 2));
    assert!(told.payload_bytes < bytes + (1 << 20), "{told:?} of {bytes}");
}

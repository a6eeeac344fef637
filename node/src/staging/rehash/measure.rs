//! How much a large session costs to come back to. Run alone: it looks at the memory of the whole process.

use std::time::Instant;

use me_sync_protocol::ids::{Digest, SessionId};
use me_sync_protocol::manifest::{Manifest, ManifestBuilder, Node};
use me_sync_protocol::path::RelPath;

use super::super::testing::{Place as Ground, survey};
use super::super::{FileStamp, SessionInfo, TargetOptions};
use super::*;

const DIRS: u32 = 1000;
/// With their directories exactly the most entries a manifest can have.
const FILES: u32 = 999;

fn large() -> Manifest {
    let mut builder = ManifestBuilder::new(None, None);
    for dir in 0..DIRS {
        let path = RelPath::parse(format!("directory-{dir:04}")).unwrap();
        builder.push(&Entry { path, node: Node::Dir, mode: Some(0o755), mtime: None }).unwrap();
        for file in 0..FILES {
            let path = RelPath::parse(format!("directory-{dir:04}/file-{file:04}")).unwrap();
            let node = Node::File { size: 4096, sha256: Some(Digest([7; 32])) };
            builder.push(&Entry { path, node, mode: Some(0o644), mtime: None }).unwrap();
        }
    }
    builder.finish().unwrap()
}

/// Megabytes: now, and at most since the last call.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    };
    let both = (value("VmRSS:"), value("VmHWM:"));
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    both
}

#[test]
#[ignore = "a measurement: run it alone"]
#[expect(clippy::print_stderr, reason = "the numbers are what the run was for")]
fn a_million_durable_files_come_back_in_seconds() {
    let ground = Ground::with_old();
    let manifest = Arc::new(large());
    let staging = super::super::Staging::create(
        ground.pin(),
        manifest,
        SessionId([1; 16]),
        &ground.state,
        SessionInfo::default(),
    );
    staging.unwrap().with_dirs().suspend();
    // as a store would give them: one after the other
    let stamp = FileStamp::from_bytes([3; 16]);
    let durable = (0..DIRS * (FILES + 1)).filter(|n| n % (FILES + 1) != 0).map(|n| (EntryIndex(n), stamp));
    memory();
    let (before, _) = memory();
    let begun = Instant::now();
    let staging =
        Staging::reopen(&ground.state, SessionId([1; 16]), &TargetOptions::default(), durable).expect("reopened");
    let reopened = begun.elapsed();
    let (_, peak_reopen) = memory();
    let begun = Instant::now();
    let (found, read) = survey(&staging);
    let surveyed = begun.elapsed();
    let (now, peak_survey) = memory();
    eprintln!(
        "reopen {reopened:?} (peak {} MiB over {before}), survey {surveyed:?} (peak {} MiB over it), now {now} MiB, read {read}",
        peak_reopen.saturating_sub(before),
        peak_survey.saturating_sub(before),
    );
    assert_eq!((found.ok.len(), read), ((DIRS * FILES) as usize, 0));
    assert!(surveyed.as_secs() < 2, "{surveyed:?}");
}

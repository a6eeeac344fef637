//! Either side killed while the data moves (RELIABILITY F49, F61): OLD, clean after a restart, and the other side
//! ends by itself with a name for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use me_sync_node::staging::{Staging, StateDir, TargetOptions};

use crate::ledger::survey;
use crate::site::{End, Running, Site, Tree, finish};
use crate::strace::{can_run, wait_for};

const FILES: u64 = 50;
const FILE_BYTES: u64 = 4 << 20;
/// The watchdog's 30 seconds and some.
const LIMIT: Duration = Duration::from_secs(35);

/// 200 MiB that cost nothing to make: files of holes.
fn site() -> Site {
    let site = Site::new(4, true, None);
    for n in 0..FILES {
        let file = fs::File::create(site.source().join(format!("big{n}"))).expect("created");
        file.set_len(FILE_BYTES).expect("sized");
    }
    site
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

/// Stops when a random part of the data is staged.
fn wait_for_some(site: &Site) {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").subsec_nanos();
    let enough = u64::from(nanos) % (FILES / 2) * FILE_BYTES + 1;
    wait_for("data in staging", || site.siblings().iter().any(|s| bytes_below(s) >= enough).then_some(()));
}

fn ends_by_itself(child: Running, who: &str) -> End {
    let begun = Instant::now();
    let end = finish(child);
    assert!(begun.elapsed() < LIMIT, "{who} took {:?}", begun.elapsed());
    assert!(!end.status.success() && !end.was_killed(), "{who}: {:?}", end.status);
    assert!(!end.stderr.contains("panicked"), "{who}: {}", end.stderr);
    assert!(end.stderr.contains("  -> "), "{who} does not say what to do: {}", end.stderr);
    end
}

#[test]
fn an_importer_killed_in_the_bulk_leaves_the_old_tree_and_what_it_had_received_and_the_exporter_says_so() {
    if !can_run() {
        return;
    }
    let site = site();
    let (exporter, ticket) = site.send();
    let importer = site.spawn_receive(&ticket);
    wait_for_some(&site);
    drop(importer);
    assert_eq!(site.standing("importer killed"), Tree::Old);
    let end = ends_by_itself(exporter, "the exporter");
    assert_eq!(end.status.code(), Some(13), "{}", end.stderr);
    let state = StateDir::open(&site.state()).expect("opened");
    let session = state.sessions().expect("listed").remove(0).session;
    let staging = Staging::reopen(&state, session, &TargetOptions::default(), []).expect("reopened");
    let (found, read) = survey(&staging);
    let begun: u64 = found.partial.iter().map(|partial| partial.offset()).sum();
    let whole: u64 = found.ok.iter().map(|file| file.size()).sum();
    assert!(begun + whole > 0 && begun + whole == read, "{begun} and {whole} of {read} bytes are kept");
    drop(staging);
    assert_eq!(site.recovers("importer killed"), Tree::Old);
}

#[test]
fn an_exporter_killed_in_the_bulk_leaves_the_old_tree_and_the_importer_says_so() {
    if !can_run() {
        return;
    }
    let site = site();
    let (exporter, ticket) = site.send();
    let importer = site.spawn_receive(&ticket);
    wait_for_some(&site);
    drop(exporter);
    let end = ends_by_itself(importer, "the importer");
    assert_eq!(end.status.code(), Some(13), "{} {}", end.stdout, end.stderr);
    assert!(end.stdout.contains("\"code\":\"peer_gone\""), "{}", end.stdout);
    assert_eq!(site.standing("exporter killed"), Tree::Old);
    assert!(site.siblings().is_empty(), "staging is gone before the job ends: {:?}", site.siblings());
    assert_eq!(site.recovers("exporter killed"), Tree::Old);
}

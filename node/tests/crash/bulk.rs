//! Either side killed while the data moves (RELIABILITY F61, F62): OLD, the other side waits, and what is started
//! again goes on.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use me_sync_node::staging::{Staging, StateDir, TargetOptions};

use crate::image;
use crate::ledger::survey;
use crate::site::{Running, Site, Tree, finish};
use crate::strace::{can_run, kill_at, wait_for};

const FILES: u64 = 50;
const FILE_BYTES: u64 = 4 << 20;

/// 200 MiB of zeros that were written: holes would be through too soon.
fn site() -> Site {
    let mut site = Site::new(4, true, None);
    for n in 0..FILES {
        fs::write(site.source().join(format!("big{n}")), vec![0; FILE_BYTES as usize]).expect("written");
    }
    site.new = image::read(&site.source());
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

/// Runs to its end, which is a success.
fn succeeds(child: Running, who: &str) {
    let end = finish(child);
    assert!(end.status.success() && !end.stderr.contains("panicked"), "{who}: {} {}", end.stdout, end.stderr);
}

#[test]
fn an_importer_killed_in_the_bulk_goes_on_from_what_it_had_received_while_the_exporter_waits() {
    if !can_run() {
        return;
    }
    let site = site();
    let (exporter, ticket) = site.send();
    let importer = site.spawn_receive(&ticket);
    wait_for_some(&site);
    drop(importer);
    assert_eq!(site.standing("importer killed"), Tree::Old);
    let state = StateDir::open(&site.state()).expect("opened");
    let session = state.sessions().expect("listed").remove(0).session;
    let staging = Staging::reopen(&state, session, &TargetOptions::default(), []).expect("reopened");
    let (found, read) = survey(&staging);
    let begun: u64 = found.partial.iter().map(|partial| partial.offset()).sum();
    let whole: u64 = found.ok.iter().map(|file| file.size()).sum();
    assert!(begun + whole > 0 && begun + whole == read, "{begun} and {whole} of {read} bytes are kept");
    staging.suspend();
    succeeds(site.spawn_receive(&ticket), "the importer");
    succeeds(exporter, "the exporter");
    assert_eq!(site.recovers("importer killed and started again"), Tree::New);
}

#[test]
fn an_exporter_killed_in_the_bulk_is_waited_for_and_goes_on() {
    if !can_run() {
        return;
    }
    let site = site();
    let (exporter, ticket) = site.send();
    let importer = site.spawn_receive(&ticket);
    wait_for_some(&site);
    drop(exporter);
    assert_eq!(site.standing("exporter killed"), Tree::Old);
    let (exporter, _) = site.send();
    succeeds(importer, "the importer");
    succeeds(exporter, "the exporter");
    assert_eq!(site.recovers("exporter killed and started again"), Tree::New);
}

// RELIABILITY F05, F79
#[test]
fn an_importer_killed_right_after_the_swap_tells_the_exporter_when_it_is_run_again() {
    if !can_run() {
        return;
    }
    let site = Site::new(20, true, None);
    let (exporter, ticket) = site.send();
    // the flush of the parent, after the exchange
    let end = site.receive_traced_from(&ticket, "swap", &kill_at("fsync", 3), None);
    assert!(end.was_killed(), "{} {}", end.stdout, end.stderr);
    assert_eq!(site.standing("killed after the exchange"), Tree::New);
    let again = finish(site.spawn_receive(&ticket));
    assert_eq!(again.status.code(), Some(0), "{} {}", again.stdout, again.stderr);
    assert!(again.stdout.contains("\"already\":true") && again.stdout.contains("\"told\":true"), "{}", again.stdout);
    succeeds(exporter, "the exporter");
    assert_eq!(site.recovers("told"), Tree::New);
}

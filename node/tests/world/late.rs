//! A source that was never hashed is read once when its importer has nothing, and twice when it may have something.

use std::fs;

use crate::device::{Device, Run};
use crate::place::{MIB, Place, is_root, picture};

/// Bytes that a process has read so far, from wherever; also of one that has ended and is not waited for.
fn read_by(run: &Run) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", run.id())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// Moves a tree of 48 MiB to `target`; how many bytes the exporter read for each byte of it.
fn read_for_each(place: &Place, exporter: &Device, flags: &[&str], target: &str) -> f64 {
    let (tree, target) = (place.path("tree"), place.path(target));
    if !tree.exists() {
        place.tree("tree", 96, MIB / 2);
    }
    let (mut sender, ticket) = exporter.send_with(&tree, flags);
    let receiver = place.importer().receive(&ticket, &target);
    receiver.end().is_applied();
    sender.until("the end", |e| e["event"] == "result");
    let read = read_by(&sender);
    sender.end().is_applied();
    assert_eq!(picture(&target), picture(&tree));
    read as f64 / (48 * MIB) as f64
}

#[test]
fn a_cold_source_is_read_once_and_with_hashes_first_twice() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let cold = |name| Device::new("exporter", place.path(name)).cold();
    let late = read_for_each(&place, &cold("one"), &[], "a");
    let first = read_for_each(&place, &cold("two"), &["--hash-first"], "b");
    eprintln!("bytes read for each byte of the tree: {late:.2} late, {first:.2} with hashes first");
    assert!((1.0..1.2).contains(&late) && first >= 2.0, "{late} {first}");
    // what was hashed on its way is known the next time: read once for other reasons
    let warm = read_for_each(&place, &cold("one"), &[], "c");
    assert!((1.0..1.2).contains(&warm), "{warm}");
}

#[test]
fn where_the_target_may_hold_files_already_hashes_come_first() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.tree("tree", 96, MIB / 2);
    let target = place.dir("target");
    fs::copy(place.path("tree/f000"), target.join("f000")).unwrap();
    let read = read_for_each(&place, &place.exporter().cold(), &[], "target");
    // all of it for the hashes, and what the target did not have
    assert!(read >= 1.9, "{read}");
}

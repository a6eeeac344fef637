//! Source files that change while the tree is sent (RELIABILITY F38, F40, F42).

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::net::Wire;
use crate::place::{MIB, Place, is_root, leftovers, noise, picture, tool};

/// Sends pacers first, lets `change` loose on `z-victim` while they are under way, and sees the tree arrive as it is
/// then, with the victim named and nothing else sent twice.
fn changed_in_the_bulk(change: impl Fn(&Path)) {
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 8, MIB);
    let victim = tree.join("z-victim");
    fs::write(&victim, noise(77, 300_000)).unwrap();
    let target = place.old_target("target");
    wire.throttle("8mbit");
    let (exporter, ticket) = wire.near(place.exporter()).with(&["--no-mdns"]).send(&tree);
    let mut importer = wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &target);
    importer.until_bulk();
    change(&victim);
    wire.unthrottle();
    let (importer, exporter) = (importer.end(), exporter.end());
    importer.is_applied();
    exporter.is_applied();
    let superseded = exporter.events.iter().find(|e| e["event"] == "superseded").unwrap();
    assert_eq!(superseded["changed"], serde_json::json!(["z-victim"]), "{superseded}");
    let mut now = picture(&tree);
    // a FIFO is left out
    if !victim.symlink_metadata().is_ok_and(|meta| meta.is_file() || meta.is_symlink()) {
        now.remove(Path::new("z-victim"));
    }
    assert_eq!(picture(&target), now);
    let moved = importer.result["payload_bytes"].as_u64().unwrap();
    assert!(moved <= 8 * MIB as u64 + 600_000, "{moved} bytes");
    assert_eq!(leftovers(&place.path("")).len(), 1, "the old tree");
}

#[test]
fn a_file_that_shrinks_while_sent_arrives_as_it_is_then() {
    if is_root() {
        changed_in_the_bulk(|victim| fs::File::options().write(true).open(victim).unwrap().set_len(10).unwrap());
    }
}

#[test]
fn a_file_rewritten_in_place_while_sent_arrives_as_it_is_then() {
    if is_root() {
        changed_in_the_bulk(|victim| {
            let mut file = fs::File::options().write(true).open(victim).unwrap();
            file.seek(SeekFrom::Start(200_000)).unwrap();
            file.write_all(b"other bytes of the same length").unwrap();
        });
    }
}

#[test]
fn a_file_deleted_while_sent_is_named_and_missed_by_nobody() {
    if is_root() {
        changed_in_the_bulk(|victim| fs::remove_file(victim).unwrap());
    }
}

#[test]
fn a_file_that_becomes_a_symlink_arrives_as_one_and_what_it_leads_to_is_never_read() {
    if is_root() {
        changed_in_the_bulk(|victim| {
            fs::remove_file(victim).unwrap();
            symlink("/etc/shadow", victim).unwrap();
        });
    }
}

#[test]
fn a_file_that_becomes_a_fifo_is_named_and_nobody_waits_for_it() {
    if is_root() {
        changed_in_the_bulk(|victim| {
            fs::remove_file(victim).unwrap();
            tool(&format!("mkfifo {}", victim.display()));
        });
    }
}

#[test]
fn a_file_that_is_back_in_time_is_sent_in_a_retry_round() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.dir("tree");
    // pacers before the victim, so that it can go away, and after it, so that it can come back
    for n in 0..16 {
        let before_or_after = if n < 8 { 'a' } else { 'c' };
        fs::write(tree.join(format!("{before_or_after}{n}")), noise(n + 3, MIB)).unwrap();
    }
    let victim = tree.join("b-victim");
    fs::write(&victim, noise(2, 1000)).unwrap();
    let want = picture(&tree);
    wire.throttle("8mbit");
    let (mut exporter, ticket) = wire.near(place.exporter()).with(&["--no-mdns"]).send(&tree);
    let mut importer = wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &place.path("target"));
    importer.until_bulk();
    // covered by another file, where only the exporter sees it: the file itself stays what was hashed, ctime included
    let cover = place.path("cover");
    fs::write(&cover, "something else").unwrap();
    let inside = format!("nsenter --target {} --mount", exporter.id());
    tool(&format!("{inside} mount --bind {} {}", cover.display(), victim.display()));
    wire.throttle("40mbit");
    exporter.until("the failure", |e| e["files_failed"].as_u64() > Some(0));
    tool(&format!("{inside} umount {}", victim.display()));
    wire.unthrottle();
    let end = importer.end();
    end.is_applied();
    exporter.end().is_applied();
    let retried = end.events.iter().filter_map(|e| e["retry_round"].as_u64()).max();
    assert_eq!(retried, Some(1), "the file came in the first retry round");
    assert_eq!(picture(&place.path("target")), want);
}

//! Targets that cannot take a tree: refused with a name and advice, before any data (RELIABILITY F18-F20, F26, F69, F75, F76).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::device::Device;
use crate::net::Wire;
use crate::place::{MIB, Place, is_root, leftovers, picture, tool};

/// Refusals that need no manifest: the exporter never hears of them.
#[track_caller]
fn refused(importer: &Device, ticket: &str, target: &Path, code: &str, advice: &str) {
    let end = importer.receive(ticket, target).end();
    end.is(8, code, advice);
    assert!(!end.events.iter().any(|e| e["event"] == "peer"), "it connected first: {:#?}", end.events);
}

#[test]
fn a_bad_target_costs_no_ticket_and_says_what_to_do() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    let tree = place.tree("tree", 3, 1000);
    let (exporter, ticket) = place.exporter().send(&tree);
    let importer = place.importer();
    let refused = |target: &Path, code: &str, advice: &str| refused(&importer, &ticket, target, code, advice);

    refused(Path::new("/"), "target_forbidden", "choose another directory");
    let mounted = place.tmpfs("mounted", "size=1m");
    refused(&mounted, "target_is_mountpoint", "subdirectory");
    let outer = place.old_target("outer");
    let inner = place.tmpfs("outer/inner", "size=1m");
    fs::write(inner.join("precious"), "mounted").unwrap();
    refused(&outer, "target_contains_mount", "unmount it first");
    assert_eq!(fs::read(inner.join("precious")).unwrap(), b"mounted");
    let read_only = place.tmpfs("read-only", "size=1m");
    fs::create_dir(read_only.join("t")).unwrap();
    tool(&format!("mount -o remount,ro {}", read_only.display()));
    refused(&read_only.join("t"), "target_parent_not_writable", "make it writable");
    refused(&read_only.join("new"), "target_parent_not_writable", "make it writable");
    let file = place.path("file");
    fs::write(&file, "a file").unwrap();
    refused(&file, "target_forbidden", "choose another directory");
    let holder = place.old_target("holder");
    let inside = Device::new("importer", holder.join("state"));
    self::refused(&inside, &ticket, &holder, "target_forbidden", "choose another directory");
    symlink(place.path("nowhere"), place.path("dangling")).unwrap();
    refused(&place.path("dangling"), "target_forbidden", "choose another directory");
    let orphan = importer.receive(&ticket, &place.path("not/there")).end();
    assert_eq!(orphan.exit, Some(8), "{}", orphan.message());
    assert!(orphan.message().contains("mkdir -p"), "{}", orphan.message());

    let good = place.path("good");
    importer.receive(&ticket, &good).end().is_applied();
    exporter.end().is_applied();
    assert_eq!(picture(&good), picture(&tree));
    for parent in [place.path(""), outer, holder] {
        assert_eq!(leftovers(&parent), Vec::<String>::new());
    }
}

#[test]
fn the_home_directory_is_replaced_only_when_it_is_meant() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tree = place.tree("tree", 3, 1000);
    let home = place.old_target("home");
    let before = picture(&home);
    let (exporter, ticket) = place.exporter().send(&tree);
    let importer = place.importer().with_home(&home);
    refused(&importer, &ticket, &home, "target_forbidden", "--i-mean-home");
    assert_eq!(picture(&home), before);
    importer.receive_with(&ticket, &home, &["--i-mean-home"]).end().is_applied();
    exporter.end().is_applied();
    assert_eq!(picture(&home), picture(&tree));
}

#[test]
fn a_parent_of_somebody_else_is_refused() {
    if !is_root() {
        return;
    }
    const NOBODY: u32 = 65534;
    let place = Place::new();
    let tree = place.tree("tree", 3, 1000);
    let (exporter, ticket) = place.exporter().send(&tree);
    let parent = place.dir("parent");
    let importer = place.importer().running_as(NOBODY);
    refused(&importer, &ticket, &parent.join("new"), "target_parent_not_writable", "make it writable");
    let old = place.old_target("parent/old");
    std::os::unix::fs::chown(&old, Some(NOBODY), Some(NOBODY)).unwrap();
    refused(&importer, &ticket, &old, "target_parent_not_writable", "make it writable");
    let own = place.dir("own");
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    importer.receive(&ticket, &own.join("new")).end().is_applied();
    exporter.end().is_applied();
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_any_data() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    let tree = place.tree("tree", 600, 10_000);
    for (name, options, advice) in [("small", "size=4m", "free "), ("few", "size=64m,nr_inodes=300", "free inodes")] {
        let disk = place.tmpfs(name, options);
        let target = place.old_target(&format!("{name}/target"));
        let before = picture(&target);
        let (exporter, ticket) = place.exporter().send(&tree);
        let end = place.importer().receive(&ticket, &target).end();
        end.is(8, "no_space", advice);
        assert!(end.message().contains("another disk"), "{}", end.message());
        assert!(!end.moved_bytes());
        let other = exporter.end();
        other.is_named_failure();
        assert!(!other.moved_bytes());
        assert_eq!(other.code(), "no_space", "{}", other.message());
        assert_eq!(picture(&target), before);
        assert_eq!(leftovers(&disk), Vec::<String>::new());
    }
}

#[test]
fn a_symlink_to_the_target_is_resolved_once_and_stays() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tree = place.tree("tree", 3, 1000);
    let real = place.old_target("real");
    let link = place.path("link");
    symlink(&real, &link).unwrap();
    let (exporter, ticket) = place.exporter().send(&tree);
    place.importer().receive(&ticket, &link).end().is_applied();
    exporter.end().is_applied();
    assert_eq!(fs::read_link(&link).unwrap(), real);
    assert_eq!(picture(&real), picture(&tree));
}

#[test]
fn one_target_takes_one_session_nested_ones_included() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 8, MIB);
    wire.throttle("8mbit");
    let target = place.old_target("target");
    let near = wire.near(place.exporter()).with(&["--no-mdns"]);
    let (exporter, ticket) = near.send(&tree);
    let mut first = wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &target);
    first.until_bulk();

    let other = Device::new("other", place.path("other"));
    let (mut waiting, second) = Device::new("third", place.path("third")).send(&place.tree("tree2", 2, 10));
    refused(&other, &second, &target, "target_busy", "wait for it to end");
    refused(&other, &second, &target.join("sub"), "target_busy", "wait for it to end");
    refused(&other, &second, &target.join("sub/new"), "target_busy", "wait for it to end");

    wire.unthrottle();
    first.end().is_applied();
    exporter.end().is_applied();
    assert_eq!(picture(&target), picture(&tree));
    waiting.signal("TERM");
    waiting.until("its end", |e| e["event"] == "result");
}

#[test]
fn a_directory_around_a_target_in_use_is_busy() {
    if !is_root() {
        return;
    }
    let (place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 8, MIB);
    wire.throttle("8mbit");
    let around = place.dir("around");
    let target = place.old_target("around/target");
    let (exporter, ticket) = wire.near(place.exporter()).with(&["--no-mdns"]).send(&tree);
    let mut first = wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &target);
    first.until_bulk();
    let other = Device::new("other", place.path("other"));
    let (_waiting, second) = Device::new("third", place.path("third")).send(&place.tree("tree2", 2, 10));
    refused(&other, &second, &around, "target_busy", "wait for it to end");
    wire.unthrottle();
    first.end().is_applied();
    exporter.end().is_applied();
    assert_eq!(picture(&target), picture(&tree));
}

#[test]
fn a_disk_that_fills_up_on_the_way_leaves_the_old_tree() {
    if !is_root() {
        return;
    }
    let (mut place, wire) = (Place::new(), Wire::new());
    let tree = place.tree("tree", 12, MIB);
    let disk = place.tmpfs("disk", "size=20m");
    let target = place.old_target("disk/target");
    let before = picture(&target);
    wire.throttle("16mbit");
    let (exporter, ticket) = wire.near(place.exporter()).with(&["--no-mdns"]).send(&tree);
    let mut importer = wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &target);
    importer.until_bulk();
    // all that is left: the last write stops short
    let mut hog = fs::File::create(disk.join("hog")).unwrap();
    while std::io::Write::write_all(&mut hog, &[7; 65536]).is_ok() {}
    wire.unthrottle();
    let end = importer.end();
    end.is(6, "retry_exhausted", "free some space");
    assert!(!end.failed().is_empty());
    let other = exporter.end();
    other.is_named_failure();
    assert_eq!(picture(&target), before);
    // with space again, what is missing comes
    drop(hog);
    std::fs::remove_file(disk.join("hog")).unwrap();
    let (exporter, ticket) = wire.near(place.exporter()).with(&["--no-mdns"]).send(&tree);
    let end = wire.far(place.importer()).with(&["--no-mdns"]).receive(&ticket, &target).end();
    assert_eq!((end.exit, exporter.end().exit), (Some(0), Some(0)), "{}", end.message());
    assert_eq!(picture(&target), picture(&tree));
}

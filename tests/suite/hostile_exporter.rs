//! A real importer against exporters that lie: in the manifest (RELIABILITY A01-A38) and in frames (A39-A56).
//!
//! Every row runs while an honest session of the same importer is in the middle of its bulk.

use std::os::unix::fs::PermissionsExt as _;

use me_sync_protocol::frame::{Abort, FailedEntry, Frame, PendingList, PendingRequest, RetryBegin, RetryEnd, RetryRequest};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::message::{Hello, Response, encode};
use me_sync_protocol::reason::{Code, FailureReason};

use crate::support::peer::{Answers, Exporting, Peer, begin, begin_as, chunk, end, finalize, granted, hello, phase_end};
use crate::support::raw::{self, Listing, dir, file, file_with, header, int, link, map, text, uint};
use crate::support::tree::{assert_images, noise};
use crate::support::world::{Bystander, World, accepted, manifest_refused, refused};
use crate::support::{TestNode, failed, leftovers};

type Row = (String, Code, Listing);

/// A manifest of files without content that have these paths.
fn paths(names: &[&[u8]]) -> Listing {
    let entries: Vec<_> = names.iter().map(|name| file(name, b"")).collect();
    Listing::of(&entries, 0)
}

fn row(what: impl Into<String>, code: Code, listing: Listing) -> Row {
    (what.into(), code, listing)
}

/// Every row is refused by its code, nothing is changed, and the honest session beside them completes.
async fn all_refused(rows: Vec<Row>) {
    let importer = TestNode::start().await;
    let world = World::new();
    let mut honest = Bystander::start(&importer).await;
    for (what, code, listing) in &rows {
        manifest_refused(&importer, &world, what, *code, listing).await;
        honest.step().await;
    }
    honest.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_leave_the_tree_or_are_not_clean_are_refused_whole() {
    let deep = format!("{}../x", "d/".repeat(60));
    let mut rows = Vec::new();
    for name in ["..", "../x", "a/../x", "a/../../x", "a/..", &deep] {
        rows.push(row(format!("A01 {name}"), Code::PathInvalid, paths(&[name.as_bytes()])));
    }
    for name in ["/etc/x", "//x", "///x"] {
        rows.push(row(format!("A02 {name}"), Code::PathInvalid, paths(&[name.as_bytes()])));
    }
    for name in ["", ".", "./a", "a/./b", "a//b", "a/", "/"] {
        rows.push(row(format!("A03 {name:?}"), Code::PathInvalid, paths(&[name.as_bytes()])));
    }
    rows.push(row("A05 //srv/x", Code::PathInvalid, paths(&[b"//srv/x"])));
    for name in ["a\0b", "\0"] {
        rows.push(row(format!("A07 {name:?}"), Code::PathInvalid, paths(&[name.as_bytes()])));
    }
    for c in ['\u{1}', '\n', '\r', '\u{1b}', '\u{7f}', '\u{80}', '\u{9b}', '\u{9f}', '\u{2028}', '\u{2029}'] {
        let name = format!("a{c}b");
        rows.push(row(format!("A08 {name:?}"), Code::PathInvalid, paths(&[name.as_bytes()])));
    }
    let not_text: [&[u8]; 5] = [b"a\xff", b"\xc0\xae\xc0\xae/x", b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xef\xbb\xbfa"];
    for name in not_text {
        rows.push(row(format!("A15 {name:?}"), Code::PathInvalid, paths(&[name])));
    }
    all_refused(rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_orphans_and_oversized_paths_are_refused_whole() {
    let x = |path: &str| file(path, b"x");
    let limit = |what: &str, path: &str| {
        let mut entries: Vec<_> = path.match_indices('/').map(|(at, _)| dir(&path[..at])).collect();
        entries.push(file(path, b""));
        row(what, Code::ManifestLimit, Listing::of(&entries, 0))
    };
    let rows = vec![
        row("A17 the same twice", Code::PathCollision, Listing::of(&[x("a"), x("a")], 2)),
        row("A17 another kind", Code::PathCollision, Listing::of(&[x("a"), dir("a")], 1)),
        row("A17 another hash", Code::PathCollision, Listing::of(&[x("a"), file("a", b"y")], 2)),
        row("A17 apart", Code::PathCollision, Listing::of(&[x("a"), x("b"), x("a")], 3)),
        row("A18 below a file", Code::PathCollision, Listing::of(&[x("a"), x("a/b")], 2)),
        row(
            "A18 with names between",
            Code::PathCollision,
            Listing::of(&[x("a"), x("a!"), x("a-"), x("a."), x("a/b")], 5),
        ),
        row("A18 the child first", Code::ManifestInvalid, Listing::of(&[x("a/b"), x("a")], 2)),
        row("A19 no parent", Code::ManifestInvalid, Listing::of(&[x("a/b")], 1)),
        row("A19 half a parent", Code::ManifestInvalid, Listing::of(&[dir("a"), x("a/b/c")], 1)),
        limit("A20 a component of 256", &"c".repeat(256)),
        limit("A20 deeper than 64", &vec!["d"; 65].join("/")),
        limit("A20 longer than 1024", &vec!["p".repeat(204); 5].join("/").replacen('p', "pp", 1)),
        row(
            "A22 an unknown kind",
            Code::KindUnsupported,
            Listing::of(&[map(&[(0, text("a")), (1, uint(3))])], 0),
        ),
        row("A22 below a symlink", Code::PathCollision, Listing::of(&[link("a", "/etc"), x("a/b")], 1)),
        row("A27 unsorted", Code::ManifestInvalid, Listing::of(&[x("b"), x("a")], 2)),
        row("A27 sorted by letters", Code::ManifestInvalid, Listing::of(&[x("a"), x("B")], 2)),
    ];
    all_refused(rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_that_are_not_true_or_not_possible_are_refused_whole() {
    let x = || vec![file("a", b"x")];
    let declared = |count, total, entries: &[Vec<u8>]| Listing::under(header(4, count, total), entries, count, total);
    let sized = |size: Vec<u8>| Listing::of(&[file_with("a", b"x", 2, size)], 1);
    let hashed = |hash: Vec<u8>| Listing::of(&[file_with("a", b"x", 3, hash)], 1);
    let wrong_hash = Listing { sha: [7; 32], ..Listing::of(&x(), 1) };
    let mut unordered = raw::file_fields("a", b"x");
    unordered.swap(0, 1);
    // the number 1 in two bytes
    let long = file_with("a", b"x", 2, vec![0x18, 0x01]);
    let half = i64::MAX as u64;
    let rows = vec![
        row("A24 one more", Code::ManifestMismatch, declared(2, 1, &x())),
        row("A24 one less", Code::ManifestMismatch, declared(1, 2, &[file("a", b"x"), file("b", b"x")])),
        row("A24 none declared", Code::ManifestMismatch, declared(0, 1, &x())),
        row("A24 2^32", Code::ManifestLimit, declared(1 << 32, 1, &x())),
        row("A24 10^9 and none", Code::ManifestLimit, declared(1_000_000_000, 0, &[])),
        row("A24 10^6 and none", Code::ManifestMismatch, declared(1_000_000, 0, &[])),
        row("A25 more bytes", Code::ManifestMismatch, Listing::of(&x(), 2)),
        row("A25 fewer bytes", Code::ManifestMismatch, Listing::of(&x(), 0)),
        row("A26 wrong hash", Code::ManifestMismatch, wrong_hash),
        row("A26 fields out of order", Code::ManifestInvalid, Listing::of(&[map(&unordered)], 1)),
        row("A26 a longer number", Code::ManifestInvalid, Listing::of(&[long], 1)),
        row("A28 2^63", Code::ManifestLimit, sized(uint(1 << 63))),
        row("A28 2^64-1", Code::ManifestLimit, sized(uint(u64::MAX))),
        row("A28 -1", Code::ManifestLimit, sized(int(-1))),
        row("A28 1e30", Code::ManifestInvalid, sized([&[0xfb][..], &1e30_f64.to_be_bytes()].concat())),
        row("A28 1.5", Code::ManifestInvalid, sized(vec![0xf9, 0x3e, 0x00])),
        row(
            "A28 a sum that overflows",
            Code::ManifestLimit,
            Listing::of(&[file_with("a", b"x", 2, uint(half)), file_with("b", b"x", 2, uint(half))], half),
        ),
        row("A29 31 bytes", Code::ManifestInvalid, hashed(raw::bytes(&[1; 31]))),
        row("A29 33 bytes", Code::ManifestInvalid, hashed(raw::bytes(&[1; 33]))),
        row("A29 as text", Code::ManifestInvalid, hashed(text("A".repeat(64)))),
        row("A29 null", Code::ManifestInvalid, hashed(vec![0xf6])),
        row(
            "A29 a directory with a size",
            Code::ManifestInvalid,
            Listing::of(&[map(&[(0, text("a")), (1, uint(1)), (2, uint(0))])], 0),
        ),
        row(
            "A29 a directory with a hash",
            Code::ManifestInvalid,
            Listing::of(&[map(&[(0, text("a")), (1, uint(1)), (3, raw::bytes(&[0; 32]))])], 0),
        ),
        row("A29 empty with a hash", Code::ManifestInvalid, Listing::of(&[file_with("a", b"", 3, raw::bytes(&[1; 32]))], 0)),
        row("A37 900 TB", Code::NoSpace, Listing::of(&[file_with("a", b"x", 2, uint(900 << 40))], 900 << 40)),
    ];
    all_refused(rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_versions_and_foreign_or_malformed_fields_are_refused_whole() {
    let x = [file("a", b"x")];
    let under = |header: Vec<u8>| Listing::under(header, &x, 1, 1);
    let twice = map(&[(0, uint(4)), (1, uint(1)), (1, uint(1)), (2, uint(1))]);
    let nested = [vec![0x81; 10_000], vec![0x00]].concat();
    let mut trailing = header(4, 1, 1);
    trailing.push(0);
    let mut rows = vec![
        row("A36 schema 3", Code::VersionMismatch, under(header(3, 1, 1))),
        row("A36 schema 5", Code::VersionMismatch, under(header(5, 1, 1))),
        row("A36 no schema", Code::ManifestInvalid, under(map(&[(1, uint(1)), (2, uint(1))]))),
        row("A36 a key twice", Code::ManifestInvalid, under(twice)),
        row("A36 nested header", Code::ManifestInvalid, under(nested.clone())),
        row("A36 bytes after the header", Code::ManifestInvalid, under(trailing)),
        row("A36 nested entry", Code::ManifestInvalid, Listing::of(&[file_with("a", b"x", 2, nested)], 1)),
        row("A36 junk after the entry", Code::ManifestInvalid, Listing::under(header(4, 2, 1), &[x[0].clone(), vec![0xff; 9]], 2, 1)),
    ];
    // owner, group, extended attributes
    for key in [8, 9, 10, 255] {
        rows.push(row(
            format!("A33 field {key}"),
            Code::ManifestInvalid,
            Listing::of(&[file_with("a", b"x", key, uint(0))], 1),
        ));
    }
    for ms in [i64::MIN, i64::MAX, 31_556_889_864_403_199, -31_557_014_167_219_200] {
        let mut fields = raw::file_fields("a", b"x");
        fields.extend([(5, int(ms)), (6, uint(0))]);
        rows.push(row(format!("A35 {ms} ms"), Code::ManifestInvalid, Listing::of(&[map(&fields)], 1)));
    }
    let crowd: Vec<_> = (0..4097).map(|n| dir(format!("d{n:05}"))).collect();
    let mut endless = Listing::of(&crowd, 0);
    endless.chunks = vec![crowd.concat()];
    rows.push(row("A31 too many entries in one chunk", Code::ManifestLimit, endless));
    all_refused(rows).await;
}

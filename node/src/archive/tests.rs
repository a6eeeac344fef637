//! Packages from a tree on the disk to a staging tree, damaged on the way and not. Lies of strangers are in the suite, where
//! an importer meets them.

use std::fs;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use me_sync_protocol::archive::Offer;
use me_sync_protocol::ids::{Digest, SessionId};
use me_sync_protocol::importer::ReadyToApply;
use me_sync_protocol::manifest::{Manifest, Node};
use me_sync_protocol::reason::Code;

use super::*;
use crate::source::{HashProgress, ScanOptions, Snapshot, Source};
use crate::staging::testing::Place;
use crate::staging::{SessionInfo, Staging};
use crate::transfer::Compression;

fn snapshot(root: &Path) -> Arc<Snapshot> {
    let source = Source::scan(root, &ScanOptions::default()).unwrap().for_archive().unwrap();
    Arc::new(source.hash(NonZeroUsize::MIN, None, &HashProgress::default(), &AtomicBool::new(false)).unwrap())
}

fn pack(snapshot: &Arc<Snapshot>, compression: Compression) -> Vec<u8> {
    let mut out = Vec::new();
    let packed = write(snapshot, compression, &mut out, &Watch::default()).unwrap();
    assert_eq!(packed, Packed { len: out.len() as u64, sha256: Digest::of(&out) });
    assert_eq!(packed, measure(snapshot, compression, &Watch::default()).unwrap(), "the same once more");
    out
}

fn offer(manifest: &Manifest, package: &[u8]) -> Offer {
    let header = manifest.header();
    Offer {
        package_len: package.len() as u64,
        package_sha256: Digest::of(package),
        files: manifest.counts().files.into(),
        dirs: manifest.counts().dirs.into(),
        bytes: manifest.total_bytes(),
        root_mode: header.root_mode,
        root_mtime_s: header.root_mtime.map(|time| time.to_unix().0),
        source_name: "source".into(),
        top_names: Vec::new(),
        proof: Digest([0; 32]),
    }
}

/// A package as an importer gets it, whatever is in it.
fn received(state: &Path, package: &[u8], offer: &Offer) -> Result<Package, PackageRefused> {
    let mut spool = SpoolWriter::create(state, SessionId([9; 16]), package.len() as u64).unwrap();
    package.chunks(1000).for_each(|piece| spool.write(piece).unwrap());
    open(
        spool.finish(Digest::of(package)).unwrap(),
        &Offer { package_len: package.len() as u64, ..offer.clone() },
        &Watch::default(),
    )
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::create_dir(root.join("dir!")).unwrap();
    for (name, content) in [
        ("a", &b"alpha"[..]),
        ("dir/nothing", b""),
        ("dir/text", &b"again and ".repeat(30_000)),
        ("dir!/naïve 文書", b"x"),
        ("zz", &(0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect::<Vec<_>>()),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
}

/// Names, kinds, sizes, hashes, modes; times to the second.
fn described(manifest: &Manifest) -> Vec<String> {
    let entries = manifest.entries().map(|(_, entry)| {
        let what = match entry.node {
            Node::File { size, sha256 } => format!("{size} {sha256:?}"),
            Node::Dir => "dir".to_owned(),
            Node::Symlink { .. } => "link".to_owned(),
        };
        format!("{} {what} {:?} {:?}", entry.path, entry.mode.map(|m| m & 0o777), entry.mtime.map(|t| t.to_unix().0))
    });
    entries.collect()
}

// SPEC §13.5
#[test]
fn a_package_says_what_the_tree_says_whichever_way_it_is_packed_and_another_reader_agrees() {
    let tmp = tempfile::tempdir().unwrap();
    tree(&tmp.path().join("src"));
    let snapshot = snapshot(&tmp.path().join("src"));
    for compression in [Compression::Auto, Compression::Never, Compression::Always] {
        let raw = pack(&snapshot, compression);
        let package = received(tmp.path(), &raw, &offer(snapshot.manifest(), &raw)).unwrap();
        assert_eq!(described(&package.manifest), described(snapshot.manifest()), "{compression:?}");
        let mut other = zip::ZipArchive::new(std::io::Cursor::new(&raw)).unwrap();
        assert_eq!(other.len(), snapshot.manifest().len() as usize);
        let mut text = String::new();
        other.by_name("dir/text").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "again and ".repeat(30_000));
        assert_eq!(raw.len() < 480_000, compression != Compression::Never, "{} bytes, {compression:?}", raw.len());
    }
    assert_eq!(fs::read_dir(tmp.path().join("archives")).unwrap().count(), 0, "each is gone when it is done with");
}

// SPEC §13.6
#[test]
fn a_package_becomes_a_staging_tree_and_every_file_is_proven() {
    let place = Place::with_old();
    tree(&place.tmp.path().join("src"));
    let snapshot = snapshot(&place.tmp.path().join("src"));
    let raw = pack(&snapshot, Compression::Auto);
    let package = received(place.state.path(), &raw, &offer(snapshot.manifest(), &raw)).unwrap();
    let (target, id) = (place.pin(), SessionId([9; 16]));
    let staging = Staging::create(target, package.manifest.clone(), id, &place.state, SessionInfo::default()).unwrap();
    let found = staging.reuse(&place.state, NonZeroUsize::MIN, &AtomicBool::new(false), &AtomicU64::new(0)).unwrap();
    let mut files = unpack(&package, &staging, found, &Watch::default()).unwrap();
    let proof = ReadyToApply::of_package(&package.manifest, &files).unwrap();
    staging.seal(&mut |_| ()).unwrap().apply(proof, &mut ()).unwrap().commit().unwrap();
    assert_eq!(fs::read(place.target().join("dir/text")).unwrap(), b"again and ".repeat(30_000));
    files.pop();
    assert!(ReadyToApply::of_package(&package.manifest, &files).is_none(), "one is missing");
}

// SPEC §13.5
#[test]
fn a_package_that_is_cut_anywhere_is_refused_whatever_its_announced_hash() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir_all(tmp.path().join("src/d")).unwrap();
    fs::write(tmp.path().join("src/d/a"), "alpha".repeat(20)).unwrap();
    fs::write(tmp.path().join("src/b"), "beta").unwrap();
    let snapshot = snapshot(&tmp.path().join("src"));
    let raw = pack(&snapshot, Compression::Auto);
    let offer = offer(snapshot.manifest(), &raw);
    for len in 0..raw.len() {
        let refused = received(tmp.path(), &raw[..len], &offer).map(|package| described(&package.manifest));
        assert_eq!(refused.unwrap_err().code(), Code::ManifestInvalid, "cut to {len}");
    }
}

// SPEC §13.5
#[test]
fn a_package_with_a_flipped_bit_is_refused_or_holds_the_same_files() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir_all(tmp.path().join("src/d")).unwrap();
    fs::write(tmp.path().join("src/d/a"), "alpha".repeat(20)).unwrap();
    fs::write(tmp.path().join("src/b"), "beta").unwrap();
    let snapshot = snapshot(&tmp.path().join("src"));
    for compression in [Compression::Never, Compression::Always] {
        let raw = pack(&snapshot, compression);
        let offer = offer(snapshot.manifest(), &raw);
        let contents =
            |manifest: &Manifest| manifest.entries().map(|(_, entry)| format!("{:?}", entry.node)).collect::<Vec<_>>();
        let mut taken = 0;
        for bit in 0..raw.len() * 8 {
            let mut bad = raw.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(package) = received(tmp.path(), &bad, &offer) {
                // a time, a mode, or which program it was
                assert_eq!(contents(&package.manifest), contents(snapshot.manifest()), "bit {bit}");
                taken += 1;
            }
        }
        assert!(taken * 3 < raw.len() * 8, "{taken} of {} flips are not noticed", raw.len() * 8);
    }
}

#[test]
fn a_file_that_changed_since_the_walk_is_not_packed() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("a"), "alpha").unwrap();
    let snapshot = snapshot(tmp.path());
    fs::write(tmp.path().join("a"), "other").unwrap();
    let refused = measure(&snapshot, Compression::Auto, &Watch::default()).unwrap_err();
    assert_eq!(refused.code(), Code::SourceChanged);
}

#[test]
fn work_that_is_told_to_stop_stops() {
    let tmp = tempfile::tempdir().unwrap();
    tree(&tmp.path().join("src"));
    let snapshot = snapshot(&tmp.path().join("src"));
    let watch = Watch::default();
    watch.stop.store(true, Ordering::Relaxed);
    assert!(matches!(measure(&snapshot, Compression::Auto, &watch), Err(PackError::Stopped)));
    let raw = pack(&snapshot, Compression::Never);
    let mut spool = SpoolWriter::create(tmp.path(), SessionId([9; 16]), raw.len() as u64).unwrap();
    spool.write(&raw).unwrap();
    let spool = spool.finish(Digest::of(&raw)).unwrap();
    assert!(matches!(open(spool, &offer(snapshot.manifest(), &raw), &watch), Err(PackageRefused::Stopped)));
}

// SPEC §13.4
#[test]
fn a_spool_takes_what_was_declared_and_no_byte_more_or_less() {
    let tmp = tempfile::tempdir().unwrap();
    let writer = || SpoolWriter::create(tmp.path(), SessionId([1; 16]), 5).unwrap();
    let code = |result: Result<Spool, PackageRefused>| result.map(drop).unwrap_err().code();
    let mut short = writer();
    short.write(b"alph").unwrap();
    assert_eq!(code(short.finish(Digest::of(b"alpha"))), Code::SizeMismatch);
    let mut long = writer();
    assert_eq!(long.write(b"alphas").unwrap_err().code(), Code::SizeMismatch);
    drop(long);
    let mut other = writer();
    other.write(b"alphA").unwrap();
    assert_eq!(code(other.finish(Digest::of(b"alpha"))), Code::HashMismatch);
    let huge = SpoolWriter::create(tmp.path(), SessionId([1; 16]), u64::MAX / 2).map(drop);
    assert!(matches!(huge, Err(PackageRefused::NoSpace { .. })));
    assert_eq!(fs::read_dir(tmp.path().join("archives")).unwrap().count(), 0);
}

// SPEC §13.4
#[test]
fn what_a_killed_process_left_goes_with_what_its_session_had_staged() {
    let place = Place::with_old();
    tree(&place.tmp.path().join("src"));
    let snapshot = snapshot(&place.tmp.path().join("src"));
    let id = SessionId([9; 16]);
    let spool = SpoolWriter::create(place.state.path(), id, 5).unwrap();
    let staging =
        Staging::create(place.pin(), snapshot.manifest().clone(), id, &place.state, SessionInfo::default()).unwrap();
    // as a kill leaves them
    std::mem::forget(spool);
    staging.suspend();
    assert_eq!(place.names().len(), 2);
    sweep(&place.state);
    assert_eq!(place.names(), ["t"]);
    assert_eq!(fs::read_dir(place.state.path().join("archives")).unwrap().count(), 0);
}

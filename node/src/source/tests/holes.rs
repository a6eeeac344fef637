//! Claims about sparse files at the exporter: what is said of them, what is read of them, and that changes show.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use me_sync_protocol::ids::Digest;
use me_sync_protocol::reason::Code;
use rustix::fs::{FallocateFlags, fallocate};

use super::*;

const MIB: u64 = 1 << 20;

/// So long, with these bytes at these places and holes between.
fn sparse(ground: &Ground, path: &str, len: u64, data: &[(u64, &[u8])]) -> File {
    let at = ground.file(path, "");
    let file = File::options().write(true).open(at).unwrap();
    file.set_len(len).unwrap();
    data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    file
}

/// Length, and the bytes if it is data.
type Piece = (u64, Option<Vec<u8>>);

/// All pieces of a file.
fn pieces(snapshot: &Arc<Snapshot>, path: &str) -> Result<Vec<Piece>, ReadError> {
    let mut file = snapshot.reader().open(index_of(snapshot, path))?;
    let (mut at, mut pieces) = (0, Vec::new());
    while at < file.size() {
        let (len, is_hole) = file.next_piece(u64::MAX);
        at += len;
        if is_hole {
            file.skip(len);
            pieces.push((len, None));
        } else {
            let mut bytes = vec![0; len as usize];
            assert_eq!(file.read(&mut bytes)?, bytes.len());
            pieces.push((len, Some(bytes)));
        }
    }
    file.finish()?;
    Ok(pieces)
}

// SPEC §4.1
#[test]
fn a_sparse_file_has_the_hash_of_its_zeros_and_the_manifest_says_how_much_is_data() {
    let ground = Ground::new();
    sparse(&ground, "d/disk", 8 * MIB, &[(3 * MIB, &[7; 4096]), (8 * MIB - 1, &[1])]);
    sparse(&ground, "hole", 300_001, &[]);
    ground.file("text", "dense");
    let snapshot = ground.snapshot();
    let manifest = snapshot.manifest();
    for (_, entry) in manifest.entries().filter(|(_, entry)| entry.is_file()) {
        let content = fs::read(ground.root.join(entry.path.as_str())).unwrap();
        assert_eq!(entry.sha256(), Some(Digest::of(&content)), "{}", entry.path);
    }
    assert_eq!(manifest.total_bytes(), 8 * MIB + 300_001 + 5);
    // two blocks of one file, whatever the block is, and the text
    let data = manifest.data_bytes();
    assert!((8192 + 5..128 << 10).contains(&data), "{data}");
    assert_eq!(ground.snapshot().manifest().sha256(), manifest.sha256(), "it is the same each time");
    let outline = Snapshot::outline(ground.scan().unwrap().tree, ground.root.clone(), SkippedReport::default());
    assert_eq!(outline.unwrap().manifest().header().data_bytes, Some(data));
}

// SPEC §5.4
#[test]
fn holes_are_told_apart_from_zeros_that_were_written_and_from_room_that_is_reserved() {
    let ground = Ground::new();
    sparse(&ground, "disk", 4 * MIB, &[(MIB, &[0; 64 << 10]), (2 * MIB, &[7; 64 << 10])]);
    let written = sparse(&ground, "zeros", 0, &[(0, &[0; 1 << 20])]);
    written.sync_all().unwrap();
    let reserved = sparse(&ground, "reserved", 0, &[]);
    fallocate(&reserved, FallocateFlags::empty(), 0, MIB).unwrap();
    let single = sparse(&ground, "single", 2 * MIB, &[(0, &[1; 4096])]);
    single.sync_all().unwrap();
    let snapshot = ground.snapshot();
    let at = |path| pieces(&snapshot, path).unwrap();
    assert_eq!(
        at("disk"),
        [
            (MIB, None),
            (64 << 10, Some(vec![0; 64 << 10])),
            (MIB - (64 << 10), None),
            (64 << 10, Some(vec![7; 64 << 10])),
            (2 * MIB - (64 << 10), None),
        ]
    );
    assert_eq!(at("zeros"), [(MIB, Some(vec![0; 1 << 20]))]);
    assert_eq!(at("reserved"), [(MIB, Some(vec![0; 1 << 20]))]);
    assert_eq!(at("single").len(), 2);
    let holes = snapshot.manifest().total_bytes() - snapshot.manifest().data_bytes();
    assert_eq!(holes, 4 * MIB - (128 << 10) + 2 * MIB - 4096);
    let dense = Ground::new();
    dense.file("a", "dense");
    assert_eq!(dense.snapshot().manifest().header().data_bytes, None);
}

// what a hole was when it was asked for says nothing of what it is now
#[test]
fn a_sparse_file_that_changes_while_it_is_read_is_not_served_as_whole() {
    type Change<'a> = &'a dyn Fn(&File);
    let changes: [(&str, Change<'_>); 4] = [
        ("written", &|file| file.write_all_at(b"x", MIB).unwrap()),
        ("cut", &|file| file.set_len(MIB).unwrap()),
        ("longer", &|file| file.set_len(9 * MIB).unwrap()),
        ("punched", &|file| {
            fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4 * MIB, 4096).unwrap();
        }),
    ];
    for (what, change) in changes {
        let ground = Ground::new();
        let writer = sparse(&ground, "disk", 8 * MIB, &[(4 * MIB, &[7; 4096])]);
        let snapshot = ground.snapshot();
        let mut file = snapshot.reader().open(index_of(&snapshot, "disk")).unwrap();
        assert_eq!(file.next_piece(u64::MAX), (4 * MIB, true));
        change(&writer);
        file.skip(8 * MIB);
        assert_eq!(file.finish().unwrap_err().code(), Code::SourceChanged, "{what}");
        assert_eq!(pieces(&snapshot, "disk").unwrap_err().code(), Code::SourceChanged, "{what}");
    }
}

#[test]
fn a_file_that_got_holes_after_the_walk_is_described_as_it_is_when_hashed() {
    let ground = Ground::new();
    let at = ground.file("disk", "dense");
    let source = ground.scan().unwrap();
    File::options().write(true).open(at).unwrap().set_len(5 * MIB).unwrap();
    let snapshot = snapshot_of(source);
    let manifest = snapshot.manifest();
    assert_eq!(manifest.total_bytes(), 5 * MIB);
    assert!(manifest.data_bytes() <= 64 << 10, "{}", manifest.data_bytes());
}

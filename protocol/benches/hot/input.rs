//! Trees for the benchmarks: deterministic, of any number of entries, shaped like a directory of photographs.

use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder, Mtime, Node};
use me_sync_protocol::path::RelPath;

/// Files of a directory.
const FILES_A_DIR: u32 = 99;

/// A sequence of numbers that looks random and is the same in every run (xorshift64*).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new() -> Self {
        Self(0x6d65_2d73_796e_6321)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(len).collect()
    }

    pub(crate) fn digest(&mut self) -> Digest {
        let mut raw = [0; Digest::LEN];
        raw.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&self.next().to_le_bytes()));
        Digest(raw)
    }
}

/// `count` entries in the manifest's order: a directory, its files, the next directory.
pub(crate) fn entries(count: u32) -> Vec<Entry<'static>> {
    let mut noise = Noise::new();
    (0..count).map(|n| entry(n, &mut noise)).collect()
}

fn entry(n: u32, noise: &mut Noise) -> Entry<'static> {
    let (dir, file) = (n / (FILES_A_DIR + 1), n % (FILES_A_DIR + 1));
    let mtime =
        Mtime::from_unix(1_600_000_000 + (noise.next() % 100_000_000) as i64, (noise.next() % 1_000_000_000) as u32);
    let (path, node, mode) = match file {
        0 => (format!("album {dir:06}"), Node::Dir, 0o755),
        _ => {
            let node = Node::File { size: 1 + noise.next() % 5_000_000, sha256: Some(noise.digest()) };
            (format!("album {dir:06}/IMG_{file:04}.jpeg"), node, 0o644)
        }
    };
    let path = RelPath::parse(path).expect("a valid path");
    Entry { path, node, mode: Some(mode), mtime: Some(mtime) }
}

/// The canonical manifest of those entries.
pub(crate) fn manifest(entries: &[Entry<'_>]) -> Manifest {
    let mut builder = ManifestBuilder::new(Some(0o755), Some(Mtime { ms: 1_600_000_000_000, sub_ns: 0 }));
    entries.iter().for_each(|entry| builder.push(entry).expect("in order, with its parent"));
    builder.finish().expect("within the limits")
}

/// Their outline.
pub(crate) fn outline(entries: &[Entry<'_>]) -> Manifest {
    let mut builder = ManifestBuilder::outline(Some(0o755), Some(Mtime { ms: 1_600_000_000_000, sub_ns: 0 }));
    for entry in entries {
        let node = match &entry.node {
            Node::File { size, .. } => Node::File { size: *size, sha256: None },
            other => other.clone(),
        };
        builder.push(&Entry { node, ..entry.clone() }).expect("in order, with its parent");
    }
    builder.finish().expect("within the limits")
}

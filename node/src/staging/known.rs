//! What this device remembers of trees that it put in place: inode number, change time and SHA-256 of each file, in
//! `<state>/trees/`, one file a target. So a second migration into the same directory need not read what nobody touched.
//!
//! It is only a cache: a record that is damaged, of another tree or not there costs reading. A row counts for the very
//! file it was made of, as a ledger's stamp does: whoever writes to a file moves its change time. What still gets by is
//! what gets by a stamp: a clock that is set back, a file system without real change times, a disk that alters bytes
//! by itself.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::limits::MAX_ENTRIES;
use me_sync_protocol::manifest::{Manifest, Node};

use super::inode::{Identity, Inode};
use super::stamp::{FileStamp, Stamps};
use super::wall_ms;

/// The directory of the records, in the state directory.
const DIR: &str = "trees";
const MAGIC: &[u8; 8] = b"MSTREE\x00\x01";
/// Magic, identity of the root, number of rows.
const HEAD: usize = 8 + 20 + 4;
/// Inode number, change time, SHA-256.
const ROW: usize = 48;
/// Records that nobody renewed for so long go.
const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
/// Most records; the oldest go first.
const MAX_RECORDS: usize = 64;

/// A file must have been left alone for this long before its row is written: a change within the same tick of the
/// kernel's clock would leave no trace.
const SETTLED_NS: i64 = 50_000_000;
/// The same where times are whole seconds.
const SETTLED_COARSE_NS: i64 = 2_500_000_000;

/// What is remembered of the tree at one target.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By inode number.
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    ino: u64,
    ctime: i64,
    sha256: Digest,
}

impl Known {
    /// The record of the tree whose root is `root`, which stands at `target`. Nothing, if there is none that is whole.
    pub(super) fn load(state: &Path, target: &Path, root: Identity) -> Self {
        let path = path_of(state, target);
        match read(&path, root) {
            Ok(rows) => Self { rows },
            Err(err) => {
                if err.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(path = %path.display(), error = %err, "what is known of the tree is not used");
                }
                Self::default()
            }
        }
    }

    /// The SHA-256 of that file, if it is one of those on record and nobody touched it since.
    pub(super) fn sha256(&self, inode: &Inode) -> Option<Digest> {
        let at = self.rows.binary_search_by_key(&inode.ino(), |row| row.ino).ok()?;
        let row = self.rows.get(at)?;
        (row.ctime == inode.ctime()).then_some(row.sha256)
    }
}

/// What will be remembered, once the tree is in place.
#[derive(Debug)]
pub(super) struct Draft {
    /// Of which every file has the manifest's SHA-256.
    pub(super) manifest: Arc<Manifest>,
    /// How the files look.
    pub(super) stamps: Arc<Stamps>,
}

impl Draft {
    /// Records the tree whose root is `root`, which stands at `target`, in place of what was known of that target.
    /// Failing costs reading, next time.
    pub(super) fn keep(&self, state: &Path, target: &Path, root: Identity) {
        let path = path_of(state, target);
        if let Err(err) = self.write(&path, root) {
            tracing::warn!(path = %path.display(), error = %err, "the hashes of the new tree are not kept");
        }
    }

    fn write(&self, path: &Path, root: Identity) -> io::Result<()> {
        let dir = path.parent().unwrap_or(path);
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
            Ok(()) | Err(_) => {}
        }
        sweep(dir, path);
        let now = i64::try_from(wall_ms()).unwrap_or(0).saturating_mul(1_000_000);
        let settled = |stamp: &FileStamp| {
            let pause = if stamp.ctime() % 1_000_000_000 == 0 { SETTLED_COARSE_NS } else { SETTLED_NS };
            stamp.ctime().saturating_add(pause) <= now
        };
        let of = |index: EntryIndex| self.stamps.of(index).filter(settled);
        let mut order: Vec<EntryIndex> =
            (0..self.manifest.len()).map(EntryIndex).filter(|index| of(*index).is_some()).collect();
        order.sort_unstable_by_key(|index| of(*index).map(|stamp| stamp.ino()));

        let temporary = path.with_extension("tmp");
        std::fs::remove_file(&temporary).or_else(|err| match err.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(err),
        })?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut out = Hashed { out: BufWriter::with_capacity(256 << 10, file), hash: Hasher::new() };
        out.put(MAGIC)?;
        out.put(&root.ino.to_le_bytes())?;
        out.put(&root.born_s.to_le_bytes())?;
        out.put(&root.born_ns.to_le_bytes())?;
        out.put(&u32::try_from(order.len()).map_err(io::Error::other)?.to_le_bytes())?;
        for index in order {
            let entry = self.manifest.entry(index);
            let (Some(stamp), Some(Node::File { sha256: Some(sha256), .. })) =
                (self.stamps.of(index), entry.map(|entry| entry.node))
            else {
                return Err(io::Error::other("an entry changed while it was written down"));
            };
            out.put(&stamp.ino().to_le_bytes())?;
            out.put(&stamp.ctime().to_le_bytes())?;
            out.put(sha256.as_bytes())?;
        }
        let digest = out.hash.finish();
        out.out.write_all(digest.as_bytes())?;
        out.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        // not flushed: after a power cut its digest tells whether it is whole
        std::fs::rename(&temporary, path)
    }
}

struct Hashed {
    out: BufWriter<File>,
    hash: Hasher,
}

impl Hashed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

fn read(path: &Path, root: Identity) -> io::Result<Vec<Row>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    let mut file = File::open(path)?;
    let mut head = [0; HEAD];
    file.read_exact(&mut head)?;
    let mut fields = Fields(&head);
    if fields.take::<8>() != *MAGIC {
        return Err(damaged());
    }
    let identity = Identity {
        ino: u64::from_le_bytes(fields.take()),
        born_s: i64::from_le_bytes(fields.take()),
        born_ns: u32::from_le_bytes(fields.take()),
    };
    if identity != root {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another tree"));
    }
    let count = u32::from_le_bytes(fields.take());
    let expected = HEAD as u64 + u64::from(count) * ROW as u64 + Digest::LEN as u64;
    if count > MAX_ENTRIES || file.metadata()?.len() != expected {
        return Err(damaged());
    }
    let mut hash = Hasher::new();
    hash.update(&head);
    let mut rows: Vec<Row> = Vec::with_capacity(count as usize);
    let mut input = io::BufReader::with_capacity(256 << 10, file);
    let mut bytes = [0; ROW];
    for _ in 0..count {
        input.read_exact(&mut bytes)?;
        hash.update(&bytes);
        let mut fields = Fields(&bytes);
        let row = Row {
            ino: u64::from_le_bytes(fields.take()),
            ctime: i64::from_le_bytes(fields.take()),
            sha256: Digest(fields.take()),
        };
        if rows.last().is_some_and(|last| last.ino >= row.ino) {
            return Err(damaged());
        }
        rows.push(row);
    }
    let mut digest = [0; Digest::LEN];
    input.read_exact(&mut digest)?;
    match hash.finish() == Digest(digest) {
        true => Ok(rows),
        false => Err(damaged()),
    }
}

/// Takes fields of known lengths off bytes that are long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        if let Some((first, rest)) = self.0.split_at_checked(N) {
            field.copy_from_slice(first);
            self.0 = rest;
        }
        field
    }
}

/// Removes records that nobody renewed for long, and the oldest of too many. `own` is about to be written.
fn sweep(dir: &Path, own: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let aged = entries.flatten().filter(|entry| entry.path() != own).filter_map(|entry| {
        let age = entry.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default();
        Some((age, entry.path()))
    });
    let mut aged: Vec<_> = aged.collect();
    aged.sort_unstable();
    for (at, (age, path)) in aged.iter().enumerate() {
        if *age > KEEP || at + 1 >= MAX_RECORDS {
            std::fs::remove_file(path).ok();
        }
    }
}

fn path_of(state: &Path, target: &Path) -> PathBuf {
    let name = Digest::of(target.as_os_str().as_bytes());
    state.join(DIR).join(name.to_string().get(..32).unwrap_or("tree"))
}

#[cfg(test)]
#[path = "known/tests.rs"]
mod tests;

//! The walked tree in compact form: 56 bytes an entry and all names in one block, in manifest order.
//!
//! A record names its parent instead of repeating the path, so that a million entries stay below 100 MB. What the
//! snapshot keeps of an entry lies apart from what is freed when the manifest holds it.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use me_sync_protocol::limits::{MAX_ENTRIES, MAX_MANIFEST_BYTES, MAX_MTIME_MS};
use me_sync_protocol::manifest::{Manifest, ManifestError, Mtime, Node};
use rustix::fs::Stat;

/// The parent of what lies directly below the root.
const NO_PARENT: u32 = u32::MAX;

/// What identifies a file and tells whether it changed, as the file system gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) mode: u16,
    pub(super) mtime: (i64, u32),
    pub(super) ctime: (i64, u32),
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            // 12 bits
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            mtime: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
        }
    }
}

fn nanos(raw: impl TryInto<u32>) -> u32 {
    raw.try_into().unwrap_or(0).min(999_999_999)
}

/// A modification time as a manifest may hold it.
pub(super) fn mtime((secs, nanos): (i64, u32)) -> Mtime {
    let mtime = Mtime::from_unix(secs, nanos);
    match mtime.ms.clamp(-MAX_MTIME_MS, MAX_MTIME_MS) {
        ms if ms == mtime.ms => mtime,
        ms => Mtime { ms, sub_ns: 0 },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    File,
    Dir,
    Symlink,
    /// Vanished or turned out unreadable after its record was made; nothing lies below it.
    LeftOut,
}

/// One entry.
#[derive(Debug, Hash)]
pub(super) struct Record {
    pub(super) size: u64,
    mtime_secs: i64,
    mtime_nanos: u32,
    parent: u32,
    /// Where the name starts in [`Tree::text`]; a symlink's target follows it.
    text: u32,
    pub(super) mode: u16,
    name_len: u8,
    pub(super) kind: Kind,
}

impl Record {
    pub(super) fn mtime(&self) -> Mtime {
        mtime((self.mtime_secs, self.mtime_nanos))
    }

    pub(super) fn parent(&self) -> Option<u32> {
        (self.parent != NO_PARENT).then_some(self.parent)
    }
}

/// What a snapshot remembers of a file beyond its manifest entry.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct FileId {
    pub(super) ino: u64,
    pub(super) ctime_secs: i64,
    pub(super) ctime_nanos: u32,
    /// Into the list of devices.
    pub(super) dev: u32,
}

impl FileId {
    /// Do inode, device and change time agree?
    pub(super) fn is(&self, stamp: &Stamp, devices: &[u64]) -> bool {
        self.ino == stamp.ino
            && (self.ctime_secs, self.ctime_nanos) == stamp.ctime
            && devices.get(self.dev as usize) == Some(&stamp.dev)
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    /// Open for resolving names below it.
    pub(super) root: Arc<OwnedFd>,
    /// None when the root is a single file; `root` is then the directory around it.
    pub(super) root_stamp: Option<Stamp>,
    devices: Vec<u64>,
    records: Vec<Record>,
    /// Of the same entries.
    ids: Vec<FileId>,
    text: String,
    /// Files that may have holes.
    suspects: BTreeSet<u32>,
}

impl Tree {
    pub(super) fn new(root: Arc<OwnedFd>, root_stamp: Option<Stamp>) -> Self {
        let (devices, records, ids, text) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        Self { root, root_stamp, devices, records, ids, text, suspects: BTreeSet::new() }
    }

    /// The tree again of which this is the manifest, with what was kept of its files by manifest index, and which of them
    /// may have holes.
    pub(super) fn of(
        manifest: &Manifest,
        root: Arc<OwnedFd>,
        root_stamp: Option<Stamp>,
        devices: Vec<u64>,
        ids: Vec<FileId>,
        suspects: BTreeSet<u32>,
    ) -> Self {
        let (mut records, mut text) = (Vec::with_capacity(manifest.len() as usize), String::new());
        let mut last: Option<(String, u32)> = None;
        for (_, entry) in manifest.entries() {
            let parent = entry.path.parent().map_or(NO_PARENT, |path| match &last {
                Some((known, parent)) if known == path => *parent,
                Some(_) | None => {
                    // a checked manifest declares every parent
                    let parent = manifest.find(path).map_or(NO_PARENT, |index| index.0);
                    last = Some((path.to_owned(), parent));
                    parent
                }
            });
            let name = entry.path.name();
            let (kind, size, target) = match &entry.node {
                Node::File { size, .. } => (Kind::File, *size, ""),
                Node::Dir => (Kind::Dir, 0, ""),
                Node::Symlink { target } => (Kind::Symlink, 0, &**target),
            };
            let (mtime_secs, mtime_nanos) = entry.mtime.map_or((0, 0), Mtime::to_unix);
            records.push(Record {
                size,
                mtime_secs,
                mtime_nanos,
                parent,
                // within the limits of a manifest
                text: u32::try_from(text.len()).unwrap_or(u32::MAX),
                mode: u16::try_from(entry.mode.unwrap_or(0o777)).unwrap_or(0o777),
                name_len: u8::try_from(name.len()).unwrap_or(u8::MAX),
                kind,
            });
            text.push_str(name);
            text.push_str(target);
        }
        Self { root, root_stamp, devices, records, ids, text, suspects }
    }

    /// A number that two walks have in common if they found the same. It is no proof against people: they could
    /// only make a tree of their own be taken for its own past.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.root_stamp, &self.devices, &self.records, &self.ids, &self.text).hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn record(&self, index: u32) -> &Record {
        &self.records[index as usize]
    }

    /// Appends an entry. The caller goes in manifest order and has checked the name.
    pub(super) fn push(
        &mut self,
        parent: Option<u32>,
        name: &str,
        kind: Kind,
        stamp: &Stamp,
        target: &str,
    ) -> Result<u32, ManifestError> {
        let index = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        if index >= MAX_ENTRIES {
            return Err(ManifestError::Limit { what: "entries" });
        }
        // every byte of a name or target is also a byte of the manifest
        let text = u32::try_from(self.text.len()).ok().filter(|n| u64::from(*n) <= MAX_MANIFEST_BYTES);
        let text = text.ok_or(ManifestError::Limit { what: "manifest bytes" })?;
        let name_len = u8::try_from(name.len()).map_err(|_| ManifestError::Limit { what: "name length" })?;
        self.text.push_str(name);
        self.text.push_str(target);
        let id = self.id(stamp);
        self.ids.push(id);
        let (mtime_secs, mtime_nanos) = stamp.mtime;
        let parent = parent.unwrap_or(NO_PARENT);
        let size = if kind == Kind::File { stamp.size } else { 0 };
        self.records.push(Record { size, mtime_secs, mtime_nanos, parent, text, mode: stamp.mode, name_len, kind });
        Ok(index)
    }

    /// Takes over what the file system says now.
    pub(super) fn restamp(&mut self, index: u32, stamp: &Stamp) {
        self.ids[index as usize] = self.id(stamp);
        // whether it has holes now, nobody looked
        self.suspect(index);
        let record = &mut self.records[index as usize];
        record.size = if record.kind == Kind::File { stamp.size } else { 0 };
        record.mode = stamp.mode;
        (record.mtime_secs, record.mtime_nanos) = stamp.mtime;
    }

    /// It may have holes.
    pub(super) fn suspect(&mut self, index: u32) {
        if self.record(index).kind == Kind::File {
            self.suspects.insert(index);
        }
    }

    /// All files that may have holes.
    pub(super) fn suspects(&self) -> impl Iterator<Item = u32> + '_ {
        self.suspects.iter().copied().filter(|index| self.record(*index).kind == Kind::File)
    }

    /// Is this what the record says?
    pub(super) fn is_stamped(&self, index: u32, stamp: &Stamp) -> bool {
        let (record, id) = (self.record(index), &self.ids[index as usize]);
        record.size == stamp.size
            && record.mode == stamp.mode
            && (record.mtime_secs, record.mtime_nanos) == stamp.mtime
            && id.is(stamp, &self.devices)
    }

    /// What the file system said of the entry.
    pub(super) fn stamp(&self, index: u32) -> Stamp {
        let (record, id) = (self.record(index), &self.ids[index as usize]);
        Stamp {
            // every id has a device on the list
            dev: self.devices.get(id.dev as usize).copied().unwrap_or(0),
            ino: id.ino,
            size: record.size,
            mode: record.mode,
            mtime: (record.mtime_secs, record.mtime_nanos),
            ctime: (id.ctime_secs, id.ctime_nanos),
        }
    }

    pub(super) fn leave_out(&mut self, index: u32) {
        self.records[index as usize].kind = Kind::LeftOut;
    }

    pub(super) fn name(&self, index: u32) -> &str {
        let record = self.record(index);
        let from = record.text as usize;
        &self.text[from..from + usize::from(record.name_len)]
    }

    /// The link text; empty for other kinds.
    pub(super) fn target(&self, index: u32) -> &str {
        let record = self.record(index);
        let from = record.text as usize + usize::from(record.name_len);
        let end = self.records.get(index as usize + 1).map_or(self.text.len(), |next| next.text as usize);
        &self.text[from..end]
    }

    /// Writes the whole relative path into `out`.
    pub(super) fn path(&self, index: u32, out: &mut String) {
        out.clear();
        let mut chain = Vec::with_capacity(8);
        let mut at = Some(index);
        while let Some(here) = at {
            chain.push(here);
            at = self.record(here).parent();
        }
        for (n, here) in chain.into_iter().rev().enumerate() {
            if n > 0 {
                out.push('/');
            }
            out.push_str(self.name(here));
        }
    }

    /// All files that may have holes, by manifest index.
    pub(super) fn suspects_by_index(&self) -> BTreeSet<u32> {
        let mut left_out = (0u32..).zip(&self.records).filter(|(_, record)| record.kind == Kind::LeftOut).peekable();
        let mut before = 0;
        let suspects = self.suspects().map(|record| {
            while left_out.next_if(|(gone, _)| *gone < record).is_some() {
                before += 1;
            }
            record - before
        });
        suspects.collect()
    }

    /// The root handle, the devices and the identities by manifest index; all else is freed.
    pub(super) fn into_identities(mut self) -> (Arc<OwnedFd>, Vec<u64>, Vec<FileId>) {
        let mut kept = self.records.iter().map(|record| record.kind != Kind::LeftOut);
        self.ids.retain(|_| kept.next().unwrap_or(false));
        (self.root, self.devices, self.ids)
    }

    fn id(&mut self, stamp: &Stamp) -> FileId {
        let (ctime_secs, ctime_nanos) = stamp.ctime;
        FileId { ino: stamp.ino, ctime_secs, ctime_nanos, dev: self.device(stamp.dev) }
    }

    fn device(&mut self, dev: u64) -> u32 {
        let at = match self.devices.iter().rposition(|d| *d == dev) {
            Some(at) => at,
            None => {
                self.devices.push(dev);
                self.devices.len() - 1
            }
        };
        // fewer devices than entries, fewer entries than 2^32
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_small() {
        assert_eq!((size_of::<Record>(), size_of::<FileId>()), (32, 24));
    }

    #[test]
    fn a_million_entries_fit_and_one_more_is_a_limit_passed() {
        let root = Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
        let stamp = Stamp { dev: 0, ino: 0, size: 1, mode: 0, mtime: (0, 0), ctime: (0, 0) };
        let mut tree = Tree::new(root, None);
        for _ in 0..MAX_ENTRIES {
            tree.push(None, "x", Kind::File, &stamp, "").unwrap();
        }
        let err = tree.push(None, "x", Kind::File, &stamp, "").unwrap_err();
        assert_eq!(err.code(), me_sync_protocol::reason::Code::ManifestLimit);
    }

    #[test]
    fn times_out_of_range_are_clamped_and_others_kept_to_the_nanosecond() {
        assert_eq!(mtime((i64::MAX, 5)), Mtime { ms: MAX_MTIME_MS, sub_ns: 0 });
        assert_eq!(mtime((i64::MIN, 5)), Mtime { ms: -MAX_MTIME_MS, sub_ns: 0 });
        assert_eq!(mtime((-1, 999_999_999)), Mtime { ms: -1, sub_ns: 999_999 });
    }
}

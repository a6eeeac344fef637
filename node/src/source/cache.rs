//! Hashes of files that were read before, in `<state>/hashes.redb`, so that a send after a restart reads nothing twice.
//!
//! A hash counts only for the very file it was made of: same device, inode, size, modification and change time. It is
//! only a cache: a damaged one is replaced by an empty one, and nothing fails for want of it. Hashes of files that were
//! changed just before they were read are not kept, since one more change could bear the same times. What still gets by
//! (a clock set back, a file system without real change times) is found by the importer, who checks every byte; then
//! [`HashCache::forget`] makes the next send read those files again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use me_sync_protocol::ids::{Digest, EntryIndex};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition};

use super::read::Snapshot;
use super::tree::Stamp;
use crate::clock;
use crate::store::StoreError;
use crate::store::error::Fault;
use crate::store::file::{self, Opened};

/// Name of the file in the state directory.
pub(super) const CACHE_FILE: &str = "hashes.redb";
/// Pages kept in memory, in bytes.
const PAGES: usize = 16 << 20;
/// Another layout has another number; the cache is then begun anew.
const SCHEMA: u64 = 1;

/// By device and inode, so that a file that changed replaces what it was.
const HASHES: TableDefinition<'_, (u64, u64), &[u8; Row::LEN]> = TableDefinition::new("hashes");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("hash cache");
const META_SCHEMA: &str = "schema";
const META_SWEPT: &str = "swept";

/// What is hashed reaches the disk after this long, or as soon as this much waits: a crash costs reading that again.
const FLUSH_AFTER: Duration = Duration::from_secs(5);
const FLUSH_AT: usize = 32 << 10;
/// Batches of hashes on their way to the writer.
pub(super) const WRITER_QUEUE: usize = 64;

/// Days after which a hash that nobody asked for goes.
const KEEP_DAYS: u32 = 90;
/// A hash that is used is marked so once in this many days.
const REFRESH_DAYS: u32 = 7;
/// Most hashes kept; about 160 bytes each.
const MAX_HASHES: u64 = 2_000_000;

/// Before hashing began, a file must have been left alone for this long: longer than any clock tick of a kernel.
const SETTLED: Duration = Duration::from_millis(50);
/// The same for file systems that only know whole seconds, or every other one.
const SETTLED_COARSE: Duration = Duration::from_millis(2500);

/// The hash of a file that was read whole while it was sent.
#[derive(Debug, Clone, Copy)]
pub struct FreshHash {
    pub(super) stamp: Stamp,
    pub(super) digest: Digest,
}

/// Where lanes leave such hashes.
#[derive(Debug, Clone)]
pub struct HashKeeper(SyncSender<Vec<(Stamp, Digest)>>);

/// Hashes on their way to a cache.
#[derive(Debug)]
pub struct KeptHashes(Receiver<Vec<(Stamp, Digest)>>);

impl HashKeeper {
    /// A keeper, and what is to be handed to [`HashCache::write_kept`] on a thread of its own.
    pub fn new() -> (Self, KeptHashes) {
        let (keeper, kept) = sync_channel(WRITER_QUEUE);
        (Self(keeper), KeptHashes(kept))
    }

    /// Leaves some hashes. Blocking, while many of them wait.
    pub fn keep(&self, fresh: &[FreshHash]) {
        if !fresh.is_empty() {
            // without a cache nobody listens
            self.0.send(fresh.iter().map(|fresh| (fresh.stamp, fresh.digest)).collect()).ok();
        }
    }
}

/// Hashes of files that were read before. One process has it at a time.
pub struct HashCache {
    db: Database,
    path: PathBuf,
}

impl fmt::Debug for HashCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashCache").field("path", &self.path).finish_non_exhaustive()
    }
}

impl HashCache {
    /// Opens the cache of a state directory and checks all of it; one that is damaged, of another version or open to
    /// other users is replaced by an empty one, with a warning.
    ///
    /// # Errors
    /// Another process has it, it is not ours, or reading or writing failed. Do without it then.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let open = || file::open(state_dir, CACHE_FILE, PAGES, lay_out, check);
        let Opened { db, path } = match open() {
            Err(error @ (StoreError::Damaged { .. } | StoreError::Newer { .. } | StoreError::Exposed { .. })) => {
                tracing::warn!(%error, "the cache of hashes cannot be used and is begun anew");
                let path = state_dir.join(CACHE_FILE);
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
                open()
            }
            other => other,
        }?;
        Ok(Self { db, path })
    }

    /// Forgets what is known of these files of a snapshot: their bytes turned out to be others.
    ///
    /// # Errors
    /// Writing failed; all is known still.
    pub fn forget(&self, snapshot: &Snapshot, files: &[EntryIndex]) -> Result<(), StoreError> {
        let forget = || {
            let txn = self.db.begin_write()?;
            let mut table = txn.open_table(HASHES)?;
            for file in files.iter().filter_map(|index| snapshot.identity(*index)) {
                table.remove(file)?;
            }
            drop(table);
            Ok(txn.commit()?)
        };
        forget().map_err(|fault: Fault| fault.at(&self.path))
    }

    /// Writes down what lanes find, until the last of them is gone. Blocking.
    pub fn write_kept(&self, kept: &KeptHashes) {
        self.write_down(&kept.0);
    }

    /// What is known of these files. A cache that cannot be read knows nothing.
    pub(super) fn find(&self, stamps: &[Stamp]) -> Vec<Option<Found>> {
        self.look(stamps, today()).unwrap_or_else(|fault| {
            let error = fault.at(&self.path);
            tracing::warn!(%error, "the cache of hashes cannot be read");
            vec![None; stamps.len()]
        })
    }

    fn look(&self, stamps: &[Stamp], today: u32) -> Result<Vec<Option<Found>>, Fault> {
        // a transaction for every few files: one that stayed open would keep the file growing
        let table = self.db.begin_read()?.open_table(HASHES)?;
        let find = |stamp: &Stamp| {
            let row = table.get((stamp.dev, stamp.ino))?.map(|row| Row(*row.value()));
            let row = row.filter(|row| row.is_of(stamp));
            Ok(row.map(|row| Found { digest: row.digest(), is_old: row.is_old(today) }))
        };
        stamps.iter().map(find).collect()
    }

    /// The life of the thread that writes down what is hashed, until the last sender is gone. A cache that cannot be
    /// written is given up with a warning.
    pub(super) fn write_down(&self, arriving: &Receiver<Vec<(Stamp, Digest)>>) {
        let mut waiting: Vec<(Stamp, Digest)> = Vec::new();
        let mut due = Instant::now();
        loop {
            let patience = if waiting.is_empty() { FLUSH_AFTER } else { due.saturating_duration_since(Instant::now()) };
            let is_over = match arriving.recv_timeout(patience) {
                Ok(batch) => {
                    if waiting.is_empty() {
                        due = Instant::now() + FLUSH_AFTER;
                    }
                    waiting.extend(batch);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if is_over || waiting.len() >= FLUSH_AT || Instant::now() >= due {
                let mut done = self.keep(&mut waiting, today());
                if is_over {
                    done = done.and_then(|()| self.sweep(today(), MAX_HASHES));
                }
                if let Err(fault) = done {
                    let error = fault.at(&self.path);
                    tracing::warn!(%error, "the cache of hashes cannot be written");
                    // let nobody wait for room
                    return arriving.iter().for_each(drop);
                }
            }
            if is_over {
                return;
            }
        }
    }

    /// Writes these down in one transaction and empties the list.
    pub(super) fn keep(&self, hashes: &mut Vec<(Stamp, Digest)>, today: u32) -> Result<(), Fault> {
        if hashes.is_empty() {
            return Ok(());
        }
        // neighbours in the file together
        hashes.sort_unstable_by_key(|(stamp, _)| (stamp.dev, stamp.ino));
        let txn = self.db.begin_write()?;
        let mut table = txn.open_table(HASHES)?;
        for (stamp, digest) in hashes.drain(..) {
            if let Some(row) = Row::new(&stamp, &digest, today) {
                table.insert((stamp.dev, stamp.ino), &row.0)?;
            }
        }
        drop(table);
        Ok(txn.commit()?)
    }

    /// Drops what nobody used for long and, above `most`, what was not used for longest. At most once a day, unless
    /// there is too much.
    pub(super) fn sweep(&self, today: u32, most: u64) -> Result<(), Fault> {
        let Some(days) = self.days_to_sweep(today, most)? else { return Ok(()) };
        let mut oldest = today.saturating_sub(KEEP_DAYS);
        // from the latest day back, for as long as there is room
        let (mut room, mut of_oldest) = (most, u64::MAX);
        for (day, count) in days.range(oldest..).rev() {
            if *count > room {
                (oldest, of_oldest) = (*day, room);
                break;
            }
            room -= count;
        }
        let txn = self.db.begin_write()?;
        txn.open_table(HASHES)?.retain(|_, row| {
            let day = Row(*row).day();
            let stays = day > oldest || (day == oldest && of_oldest > 0);
            of_oldest -= u64::from(stays && day == oldest);
            stays
        })?;
        txn.open_table(META)?.insert(META_SWEPT, u64::from(today))?;
        Ok(txn.commit()?)
    }

    /// How many hashes were last used on which day; none if there is nothing to do.
    fn days_to_sweep(&self, today: u32, most: u64) -> Result<Option<BTreeMap<u32, u64>>, Fault> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(HASHES)?;
        let swept = txn.open_table(META)?.get(META_SWEPT)?.map(|row| row.value());
        if swept == Some(u64::from(today)) && table.len()? <= most {
            return Ok(None);
        }
        let mut days = BTreeMap::new();
        for row in table.iter()? {
            *days.entry(Row(*row?.1.value()).day()).or_default() += 1;
        }
        Ok(Some(days))
    }

    /// On a disk of the test's making.
    #[cfg(test)]
    pub(super) fn on(disk: impl redb::StorageBackend) -> Self {
        let db = redb::Builder::new().create_with_backend(disk).unwrap();
        let txn = db.begin_write().unwrap();
        lay_out(&txn).unwrap();
        txn.commit().unwrap();
        Self { db, path: "disk".into() }
    }

    /// How many hashes there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        self.db.begin_read().unwrap().open_table(HASHES).unwrap().len().unwrap()
    }
}

/// A hash that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) digest: Digest,
    /// Its use is worth writing down.
    pub(super) is_old: bool,
}

/// May a hash of that file be kept, if hashing it began at `began` (since 1970)? Not if it had been changed just before:
/// a second change within the same tick of the clock leaves no trace.
pub(super) fn is_settled(stamp: &Stamp, began: Duration) -> bool {
    let (secs, nanos) = stamp.ctime;
    let pause = if nanos == 0 { SETTLED_COARSE } else { SETTLED };
    u64::try_from(secs).is_ok_and(|secs| Duration::new(secs, nanos).saturating_add(pause) <= began)
}

/// Size, times, SHA-256 and the day of the last use, little-endian.
struct Row([u8; Row::LEN]);

impl Row {
    const LEN: usize = 60;

    /// None if a time is out of range: that file is read every time.
    fn new(stamp: &Stamp, digest: &Digest, day: u32) -> Option<Self> {
        let mut row = [0; Self::LEN];
        row[..8].copy_from_slice(&stamp.size.to_le_bytes());
        row[8..16].copy_from_slice(&nanos(stamp.mtime)?.to_le_bytes());
        row[16..24].copy_from_slice(&nanos(stamp.ctime)?.to_le_bytes());
        row[24..56].copy_from_slice(digest.as_bytes());
        row[56..].copy_from_slice(&day.to_le_bytes());
        Some(Self(row))
    }

    fn is_of(&self, stamp: &Stamp) -> bool {
        Self::new(stamp, &self.digest(), self.day()).is_some_and(|row| row.0 == self.0)
    }

    fn digest(&self) -> Digest {
        let mut digest = [0; Digest::LEN];
        digest.copy_from_slice(&self.0[24..56]);
        Digest(digest)
    }

    fn day(&self) -> u32 {
        let mut day = [0; 4];
        day.copy_from_slice(&self.0[56..]);
        u32::from_le_bytes(day)
    }

    fn is_old(&self, today: u32) -> bool {
        today.saturating_sub(self.day()) >= REFRESH_DAYS
    }
}

fn nanos((secs, nanos): (i64, u32)) -> Option<i64> {
    secs.checked_mul(1_000_000_000)?.checked_add(i64::from(nanos))
}

/// Days since 1970.
fn today() -> u32 {
    u32::try_from(clock::wall_ms() / 86_400_000).unwrap_or(u32::MAX)
}

fn lay_out(txn: &redb::WriteTransaction) -> Result<(), Fault> {
    txn.open_table(HASHES)?;
    txn.open_table(META)?.insert(META_SCHEMA, SCHEMA)?;
    Ok(())
}

fn check(db: &Database) -> Result<(), Fault> {
    let txn = db.begin_read()?;
    txn.open_table(HASHES)?;
    match txn.open_table(META)?.get(META_SCHEMA)? {
        Some(row) if row.value() == SCHEMA => Ok(()),
        _ => Err(Fault::Damaged("it has another version".to_owned())),
    }
}

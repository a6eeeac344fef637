//! Hashing every file of a walked tree on several threads.
//!
//! Large files are taken first, the largest first of all, so that none is left to one thread at the end; small ones
//! follow in blocks of neighbours, which share directory handles. Threads only read the tree; what they find goes
//! through a bounded channel to the caller's thread, which owns it. With a cache, files that are known by what the walk
//! saw are done without being opened, and one more thread writes down the hashes of the others.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::Digest;
use rustix::fs::{Advice, fadvise, fstat};
use rustix::io::{Errno, pread, read};

use super::beneath::{DirCache, OpenRefused, Opened, is_exhaustion};
use super::cache::{HashCache, WRITER_QUEUE, is_settled};
use super::error::SourceError;
use super::skipped::SkippedReport;
use super::tree::{Kind, Stamp, Tree};
use super::{HashProgress, ScanOptions};
use crate::holes::Holes;

/// Files from this size on are handed out alone, and the kernel is told to read ahead.
const LARGE: u64 = 1 << 20;
/// Neighbouring entries handed out at once.
const BLOCK: usize = 32;
/// Read size: stays in the processor's second-level cache between read and hash.
const BUFFER: usize = 256 << 10;
/// How often a file that changed under the reader is hashed again, and how long to wait before each time.
const PAUSES: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(200)];
/// Directory handles of all threads together.
pub(super) const DIR_HANDLES: usize = 64;

/// Hashes all files that are not `known`, which is by record number. Files that changed since the walk are restamped,
/// those that cannot be hashed are left out or fail the whole, as the options say. False: `enough` was set for a moment
/// before the end; what is hashed by then is known.
#[expect(clippy::too_many_arguments, reason = "each is a thing of its own")]
pub(super) fn hash_all(
    tree: &mut Tree,
    known: &mut [Option<Digest>],
    skipped: &mut SkippedReport,
    options: &ScanOptions,
    threads: NonZeroUsize,
    cache: Option<&HashCache>,
    progress: &HashProgress,
    stop: &AtomicBool,
    enough: &AtomicBool,
) -> Result<bool, SourceError> {
    let mut outcomes = Outcomes::default();
    let job = Job::new(tree, known, options, cache, progress, Stops { stop, enough });
    let files = job.begin();
    std::thread::scope(|scope| {
        let (reports, arriving) = sync_channel(2 * threads.get());
        for _ in 0..threads.get() {
            let reports = reports.clone();
            let job = &job;
            let dirs = DirCache::new(NonZeroUsize::new(DIR_HANDLES / threads).unwrap_or(NonZeroUsize::MIN));
            scope.spawn(move || job.work(dirs, &reports));
        }
        drop(reports);
        let writer = cache.map(|cache| {
            let (writer, hashes) = sync_channel(WRITER_QUEUE);
            scope.spawn(move || cache.write_down(&hashes));
            writer
        });
        // leaving this loop drops the receiver, and every thread stops at its next report
        for report in arriving {
            let report = report?;
            if let Some(writer) = &writer {
                let new = report.iter().filter_map(|(_, outcome)| outcome.to_keep()).collect::<Vec<_>>();
                if !new.is_empty() {
                    // a writer that is gone has said so; the hashes count all the same
                    writer.send(new).ok();
                }
            }
            for (record, outcome) in report {
                outcomes.take(known, tree, record, outcome);
            }
        }
        Ok::<(), SourceError>(())
    })
    .inspect_err(|_| tracing::debug!("hashing ends early"))?;
    // a thread that sees a flag leaves its work undone
    let is_whole = outcomes.count >= files;
    // enough may not be enough any more by now: that is for the caller
    if !is_whole && stop.load(Relaxed) {
        return Err(SourceError::Aborted);
    }
    for (record, stamp) in outcomes.restamped {
        tree.restamp(record, &stamp);
    }
    let mut path = String::new();
    outcomes.left_out.sort_unstable_by_key(|(record, _)| *record);
    for (record, why) in outcomes.left_out {
        tree.path(record, &mut path);
        skipped.unreadable.add(path.as_bytes(), why);
        tree.leave_out(record);
    }
    Ok(is_whole)
}

/// What became of one file.
enum Outcome {
    Hashed {
        digest: Digest,
        stamp: Stamp,
        /// The cache is to be told.
        keep: bool,
    },
    LeftOut {
        why: String,
    },
}

impl Outcome {
    /// What the cache is told.
    fn to_keep(&self) -> Option<(Stamp, Digest)> {
        match self {
            Self::Hashed { digest, stamp, keep: true } => Some((*stamp, *digest)),
            Self::Hashed { .. } | Self::LeftOut { .. } => None,
        }
    }
}

type Report = Result<Vec<(u32, Outcome)>, SourceError>;

#[derive(Default)]
struct Outcomes {
    count: u64,
    restamped: Vec<(u32, Stamp)>,
    left_out: Vec<(u32, String)>,
}

impl Outcomes {
    fn take(&mut self, known: &mut [Option<Digest>], tree: &Tree, record: u32, outcome: Outcome) {
        self.count += 1;
        match outcome {
            Outcome::Hashed { digest, stamp, keep: _ } => {
                known[record as usize] = Some(digest);
                if !tree.is_stamped(record, &stamp) {
                    self.restamped.push((record, stamp));
                }
            }
            Outcome::LeftOut { why } => self.left_out.push((record, why)),
        }
    }
}

/// What ends hashing early.
#[derive(Clone, Copy)]
struct Stops<'a> {
    stop: &'a AtomicBool,
    enough: &'a AtomicBool,
}

struct Job<'a> {
    tree: &'a Tree,
    /// By record number: its hash is known, or it is no file.
    is_done: Vec<bool>,
    skip_unreadable: bool,
    cache: Option<&'a HashCache>,
    progress: &'a HashProgress,
    stops: Stops<'a>,
    /// Another thread failed.
    failed: AtomicBool,
    large: Vec<u32>,
    /// Next unit of work: first the large files, then the blocks.
    cursor: AtomicUsize,
}

/// Why this reading of a file does not count.
enum Unsettled {
    /// It changed between the first and the last look.
    Written,
    /// It is not there, or not a regular file any more.
    Replaced,
}

enum Attempt {
    Hashed { digest: Digest, stamp: Stamp, keep: bool },
    Again(Unsettled),
    Refused(io::Error),
    Stopped,
}

impl<'a> Job<'a> {
    fn new(
        tree: &'a Tree,
        known: &[Option<Digest>],
        options: &ScanOptions,
        cache: Option<&'a HashCache>,
        progress: &'a HashProgress,
        stops: Stops<'a>,
    ) -> Self {
        let is_done: Vec<bool> = tree
            .records()
            .iter()
            .zip(known)
            .map(|(record, known)| record.kind != Kind::File || known.is_some())
            .collect();
        let mut large: Vec<u32> = (0u32..)
            .zip(tree.records())
            .filter(|(index, record)| !is_done[*index as usize] && record.size >= LARGE)
            .map(|(index, _)| index)
            .collect();
        large.sort_by_key(|index| std::cmp::Reverse(tree.record(*index).size));
        Self {
            tree,
            is_done,
            skip_unreadable: options.skip_unreadable,
            cache,
            progress,
            stops,
            failed: AtomicBool::new(false),
            large,
            cursor: AtomicUsize::new(0),
        }
    }

    /// Says how far it is; how many files are to be hashed.
    fn begin(&self) -> u64 {
        let (mut files, mut bytes, mut done, mut bytes_done) = (0, 0_u64, 0, 0_u64);
        for (record, is_done) in self.tree.records().iter().zip(&self.is_done).filter(|(r, _)| r.kind == Kind::File) {
            files += 1;
            bytes = bytes.saturating_add(record.size);
            if *is_done {
                done += 1;
                bytes_done = bytes_done.saturating_add(record.size);
            }
        }
        self.progress.files_total.store(files, Relaxed);
        self.progress.bytes_total.store(bytes, Relaxed);
        self.progress.files_done.store(done, Relaxed);
        self.progress.bytes_done.store(bytes_done, Relaxed);
        files - done
    }

    fn stopping(&self) -> bool {
        let Stops { stop, enough } = self.stops;
        stop.load(Relaxed) || enough.load(Relaxed) || self.failed.load(Relaxed)
    }

    /// One thread's life.
    fn work(&self, mut dirs: DirCache, reports: &SyncSender<Report>) {
        let mut buffer = vec![0; BUFFER];
        let mut path = String::new();
        while !self.stopping() {
            let unit = self.cursor.fetch_add(1, Relaxed);
            let Some(files) = self.files_of(unit) else { return };
            let (mut done, files) = self.known(files);
            for record in files {
                self.tree.path(record, &mut path);
                match self.settle(record, &path, &mut dirs, &mut buffer) {
                    Ok(Some(outcome)) => done.push((record, outcome)),
                    Ok(None) => return,
                    Err(err) => {
                        self.failed.store(true, Relaxed);
                        // nobody listens any more: another error came first
                        reports.send(Err(err)).ok();
                        return;
                    }
                }
            }
            if reports.send(Ok(done)).is_err() {
                self.failed.store(true, Relaxed);
                return;
            }
        }
    }

    /// Splits files into those whose hash is known and those that have to be read.
    fn known(&self, files: Vec<u32>) -> (Vec<(u32, Outcome)>, Vec<u32>) {
        let mut done = Vec::with_capacity(files.len());
        let Some(cache) = self.cache else { return (done, files) };
        let stamps: Vec<Stamp> = files.iter().map(|record| self.tree.stamp(*record)).collect();
        let found = cache.find(&stamps);
        let mut unknown = Vec::new();
        for ((record, stamp), found) in files.into_iter().zip(stamps).zip(found) {
            match found {
                Some(found) => {
                    for (files, bytes) in [
                        (&self.progress.files_known, &self.progress.bytes_known),
                        (&self.progress.files_done, &self.progress.bytes_done),
                    ] {
                        files.fetch_add(1, Relaxed);
                        bytes.fetch_add(stamp.size, Relaxed);
                    }
                    done.push((record, Outcome::Hashed { digest: found.digest, stamp, keep: found.is_old }));
                }
                None => unknown.push(record),
            }
        }
        (done, unknown)
    }

    /// The files of a unit; none behind the last one.
    fn files_of(&self, unit: usize) -> Option<Vec<u32>> {
        if let Some(large) = self.large.get(unit) {
            return Some(vec![*large]);
        }
        let records = self.tree.records();
        let from = (unit - self.large.len()).checked_mul(BLOCK).filter(|from| *from < records.len())?;
        let block = from..records.len().min(from + BLOCK);
        let small = |at: &usize| !self.is_done[*at] && records[*at].size < LARGE;
        // record numbers are below MAX_ENTRIES
        Some(block.filter(small).filter_map(|at| u32::try_from(at).ok()).collect())
    }

    /// Reads a file until one reading counts; none when told to stop.
    fn settle(
        &self,
        record: u32,
        path: &str,
        dirs: &mut DirCache,
        buffer: &mut [u8],
    ) -> Result<Option<Outcome>, SourceError> {
        let declared = self.tree.record(record).size;
        let mut pauses = PAUSES.iter();
        loop {
            let mut counted = 0;
            let attempt = self.attempt(path, dirs, buffer, &mut counted);
            if !matches!(attempt, Attempt::Hashed { .. }) {
                self.progress.bytes_done.fetch_sub(counted, Relaxed);
            }
            let why = match attempt {
                Attempt::Hashed { digest, stamp, keep } => {
                    adjust(&self.progress.bytes_total, declared, stamp.size);
                    self.progress.files_done.fetch_add(1, Relaxed);
                    return Ok(Some(Outcome::Hashed { digest, stamp, keep }));
                }
                Attempt::Stopped => return Ok(None),
                Attempt::Again(why) => match pauses.next() {
                    Some(pause) => {
                        if matches!(why, Unsettled::Written) {
                            std::thread::sleep(*pause);
                        }
                        // the directories on the way may have been replaced too
                        dirs.clear();
                        continue;
                    }
                    None if matches!(why, Unsettled::Replaced) && self.skip_unreadable => {
                        "vanished after the walk".to_owned()
                    }
                    None => return Err(SourceError::Changed { path: path.to_owned() }),
                },
                Attempt::Refused(err) => {
                    let errno = Errno::from_io_error(&err);
                    if self.skip_unreadable && !errno.is_some_and(is_exhaustion) {
                        err.to_string()
                    } else if matches!(errno, Some(Errno::ACCESS | Errno::PERM)) {
                        return Err(SourceError::Unreadable { path: path.to_owned(), err });
                    } else {
                        return Err(SourceError::Io { path: path.to_owned(), err });
                    }
                }
            };
            adjust(&self.progress.bytes_total, declared, 0);
            self.progress.files_total.fetch_sub(1, Relaxed);
            return Ok(Some(Outcome::LeftOut { why }));
        }
    }

    fn attempt(&self, path: &str, dirs: &mut DirCache, buffer: &mut [u8], counted: &mut u64) -> Attempt {
        // by a wall that stands before 1970, nothing is settled
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Opened { file, stamp: before, mut holes } = match dirs.open_file(self.tree.root.as_fd(), path) {
            Ok(opened) => opened,
            Err(OpenRefused::Gone | OpenRefused::NotRegular) => return Attempt::Again(Unsettled::Replaced),
            Err(OpenRefused::Denied(err) | OpenRefused::Io(err)) => return Attempt::Refused(err),
        };
        if before.size >= LARGE {
            // advice: a file system that does not take it reads as well
            fadvise(&file, 0, None, Advice::Sequential).ok();
        }
        let digest = match self.digest(&file, &mut holes, before.size, buffer, counted) {
            Ok(Ok(digest)) => digest,
            Ok(Err(refused)) => return refused,
            Err(err) => return Attempt::Refused(err.into()),
        };
        match fstat(&file) {
            Ok(stat) if Stamp::of(&stat) == before => {
                Attempt::Hashed { digest, stamp: before, keep: is_settled(&before, began) }
            }
            Ok(_) => Attempt::Again(Unsettled::Written),
            Err(err) => Attempt::Refused(err.into()),
        }
    }

    /// Reads to the real end, which must be the declared one: some file systems make sizes up. Holes are not read.
    fn digest(
        &self,
        file: &OwnedFd,
        holes: &mut Holes,
        size: u64,
        buffer: &mut [u8],
        counted: &mut u64,
    ) -> Result<Result<Digest, Attempt>, Errno> {
        let mut sha256 = Hasher::new();
        // the cursor is where it should be, unless holes are asked for
        let by_cursor = holes.is_none();
        loop {
            if self.stopping() {
                return Ok(Err(Attempt::Stopped));
            }
            let piece = holes.piece(file, *counted, buffer.len() as u64);
            let n = if piece.is_hole && *counted < size {
                let zeros = piece.len.min(size - *counted);
                sha256.update_zeros(zeros);
                zeros as usize
            } else {
                let part = &mut buffer[..piece.len as usize];
                let n = if by_cursor { read(file, &mut *part) } else { pread(file, &mut *part, *counted) };
                let n = match n {
                    Ok(n) => n,
                    Err(Errno::INTR) => continue,
                    Err(err) => return Err(err),
                };
                sha256.update(&part[..n]);
                n
            };
            *counted += n as u64;
            self.progress.bytes_done.fetch_add(n as u64, Relaxed);
            let ended = n == 0 || (*counted == size && n < buffer.len());
            if *counted > size || (ended && *counted < size) {
                return Ok(Err(Attempt::Again(Unsettled::Written)));
            }
            if ended {
                return Ok(Ok(sha256.finish()));
            }
        }
    }
}

fn adjust(total: &AtomicU64, from: u64, to: u64) {
    if to >= from {
        total.fetch_add(to - from, Relaxed);
    } else {
        total.fetch_sub(from - to, Relaxed);
    }
}

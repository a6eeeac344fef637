//! The durable record of one session: two alternating copies, each with sequence number and SHA-256.
//!
//! A write makes a new file, flushes it, renames it over the older copy and flushes the directory, so at
//! every moment at least one whole copy exists. A copy that is cut or flipped anywhere is not believed.
//! Runs on the calling thread only: the order of its system calls is the same in every run.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use me_sync_protocol::ids::Digest;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::durable;
use super::error::StateError;
use super::inode::Inode;
pub use super::record::SessionState;
pub(crate) use super::record::{Method, Record, Unproven};
use super::seen::{self, LastSeen};
use super::spool;

const MAGIC: &[u8; 8] = b"mesyncj1";
const COPIES: [&str; 2] = ["journal.a", "journal.b"];
const TEMPORARY: &str = "journal.tmp";
/// Magic, sequence number, length of the record.
const HEAD: usize = 8 + 8 + 4;
const SUM: usize = 32;
/// No record comes near this; a longer file is not ours.
const MAX_FILE: u64 = 64 << 10;

/// What the two copies of a journal say.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// Neither copy exists: the session died before its first record.
    Nothing,
    /// Copies exist, none is whole.
    Corrupt,
    Whole(Box<Journal>),
}

/// The journal of one session, open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: OwnedFd,
    path: PathBuf,
    record: Record,
    sequence: u64,
    /// The copy that the next write replaces.
    next: usize,
}

impl Journal {
    /// Writes the first record.
    pub(crate) fn create(dir: OwnedFd, path: PathBuf, record: Record) -> Result<Self, StateError> {
        let mut journal = Self { dir, path, record: record.clone(), sequence: 0, next: 0 };
        journal.write(record)?;
        Ok(journal)
    }

    /// Reads the newest whole copy.
    pub(crate) fn load(dir: OwnedFd, path: &Path) -> Result<Loaded, StateError> {
        let mut best: Option<(u64, usize, Record)> = None;
        let mut found = false;
        for (at, name) in COPIES.iter().enumerate() {
            match read_copy(&dir, path, name)? {
                Copy::Absent => {}
                Copy::Broken => found = true,
                Copy::Whole(sequence, record) => {
                    found = true;
                    if best.as_ref().is_none_or(|(best, ..)| sequence > *best) {
                        best = Some((sequence, at, *record));
                    }
                }
            }
        }
        Ok(match best {
            Some((sequence, at, record)) => {
                Loaded::Whole(Box::new(Self { dir, path: path.to_owned(), record, sequence, next: 1 - at }))
            }
            None if found => Loaded::Corrupt,
            None => Loaded::Nothing,
        })
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// The session's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Nobody continued the session in time.
    pub(crate) fn is_expired(&self, now: &LastSeen) -> bool {
        self.record.is_expired(seen::read(&self.dir), now)
    }

    /// Makes a changed record durable. After an error the old one still counts in memory; either may be on disk.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), StateError> {
        let mut record = self.record.clone();
        change(&mut record);
        let now = LastSeen::now();
        record.updated_ms = now.wall_ms;
        record.last = Some(now);
        self.write(record)
    }

    fn write(&mut self, record: Record) -> Result<(), StateError> {
        // never reuse a number: a write that failed may still have reached the disk
        self.sequence += 1;
        let bytes = encode(self.sequence, &record);
        let io = |what| move |err: Errno| (what, io::Error::from(err));
        let step = || -> Result<(), (&'static str, io::Error)> {
            match unlinkat(&self.dir, TEMPORARY, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(err) => return Err(("deleting", err.into())),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(&self.dir, TEMPORARY, flags, Mode::RUSR | Mode::WUSR).map_err(io("creating"))?;
            let mut file = File::from(fd);
            file.write_all(&bytes).map_err(|e| ("writing", e))?;
            durable::sync(&file).map_err(io("flushing"))?;
            durable::replace_file(self.dir.as_fd(), TEMPORARY, COPIES[self.next]).map_err(io("renaming"))?;
            durable::sync(&self.dir).map_err(io("flushing the directory of"))
        };
        step().map_err(|(what, err)| StateError::Io { what, path: self.path.join(COPIES[self.next]), err })?;
        self.record = record;
        self.next = 1 - self.next;
        if self.record.state.is_over() {
            // what stays goes with the record, at the latest
            spool::remove(&self.dir).ok();
            seen::remove(&self.dir).ok();
        }
        Ok(())
    }
}

/// Removes a session's files; the directory itself is the caller's.
pub(crate) fn remove_files(dir: &OwnedFd) -> rustix::io::Result<()> {
    for name in [TEMPORARY, COPIES[0], COPIES[1]] {
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(err) => return Err(err),
        }
    }
    spool::remove(dir)?;
    seen::remove(dir)
}

enum Copy {
    Absent,
    Broken,
    Whole(u64, Box<Record>),
}

fn read_copy(dir: &OwnedFd, path: &Path, name: &str) -> Result<Copy, StateError> {
    let at = || path.join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(Copy::Absent),
        Err(Errno::LOOP) => return Err(StateError::NotOurs { path: at(), why: "is a symlink" }),
        Err(err) => return Err(StateError::Io { what: "opening", path: at(), err: err.into() }),
    };
    let io = |err: io::Error| StateError::Io { what: "reading", path: at(), err };
    let inode = Inode::of(&fd).map_err(|e| io(e.into()))?;
    if inode.kind() != rustix::fs::FileType::RegularFile {
        return Err(StateError::NotOurs { path: at(), why: "is not a file" });
    }
    if inode.uid() != rustix::process::geteuid().as_raw() {
        return Err(StateError::NotOurs { path: at(), why: "belongs to another user" });
    }
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
    Ok(decode(&bytes).map_or(Copy::Broken, |(sequence, record)| Copy::Whole(sequence, Box::new(record))))
}

fn encode(sequence: u64, record: &Record) -> Vec<u8> {
    let mut body = Vec::new();
    if let Err(err) = minicbor::encode(record, &mut body) {
        unreachable!("encoding to memory failed: {err}");
    }
    let length = u32::try_from(body.len()).expect("a record is far below 4 GiB: its parts are bounded");
    let mut out = Vec::with_capacity(HEAD + body.len() + SUM);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&body);
    let sum = Digest::of(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<(u64, Record)> {
    let (covered, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    if Digest::of(covered).as_bytes() != sum {
        return None;
    }
    let body = covered.strip_prefix(MAGIC)?;
    let (sequence, body) = body.split_first_chunk::<8>()?;
    let (length, body) = body.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*length) as usize != body.len() {
        return None;
    }
    let record = minicbor::decode(body).ok()?;
    Some((u64::from_be_bytes(*sequence), record))
}

#[cfg(test)]
pub(crate) mod tests {
    use me_sync_protocol::ids::SessionId;

    use super::super::inode::Identity;
    use super::*;

    pub(crate) fn sample() -> Record {
        Record {
            session: SessionId([7; 16]),
            state: SessionState::Receiving,
            parent: b"/srv".to_vec(),
            name: b"data\xff".to_vec(),
            parent_id: Identity { ino: 2, born_s: 1, born_ns: 0 },
            staging: ".me-sync-0123456789abcdef".to_owned(),
            old: Some(Identity { ino: 3, born_s: 1, born_ns: 0 }),
            new: Some(Identity { ino: 4, born_s: 2, born_ns: 5 }),
            method: Method::Exchange,
            tries: 0,
            created_ms: 1_000,
            updated_ms: 1_000,
            keep_until_ms: 0,
            keep_old_ms: 7 * 24 * 3_600_000,
            files: 1,
            bytes: 2,
            manifest: Digest([1; 32]),
            peer_name: "laptop".to_owned(),
            peer_id: "12D3".to_owned(),
            fingerprint: None,
            code: None,
            target_changed: false,
            began: None,
            last: None,
            unproven: None,
        }
    }

    fn open(dir: &Path) -> OwnedFd {
        File::open(dir).unwrap().into()
    }

    fn state_of(dir: &Path) -> Option<SessionState> {
        match Journal::load(open(dir), dir).unwrap() {
            Loaded::Whole(journal) => Some(journal.record().state),
            Loaded::Nothing | Loaded::Corrupt => None,
        }
    }

    fn two_records(dir: &Path) -> Journal {
        let mut journal = Journal::create(open(dir), dir.to_owned(), sample()).unwrap();
        journal.update(|r| r.state = SessionState::SwapIntent).unwrap();
        journal
    }

    #[test]
    fn the_newest_record_is_read_back() {
        let tmp = tempfile::tempdir().unwrap();
        let mut journal = two_records(tmp.path());
        assert_eq!(state_of(tmp.path()), Some(SessionState::SwapIntent));
        journal.update(|r| r.state = SessionState::Swapped).unwrap();
        assert_eq!(state_of(tmp.path()), Some(SessionState::Swapped));
        assert!(!tmp.path().join(TEMPORARY).exists());
    }

    // RELIABILITY F15
    #[test]
    fn a_copy_cut_at_any_length_or_flipped_at_any_byte_is_not_believed() {
        let tmp = tempfile::tempdir().unwrap();
        drop(two_records(tmp.path()));
        let newest = tmp.path().join(COPIES[1]);
        let whole = std::fs::read(&newest).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&newest, &whole[..length]).unwrap();
            assert_eq!(state_of(tmp.path()), Some(SessionState::Receiving), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            std::fs::write(&newest, &bad).unwrap();
            assert_eq!(state_of(tmp.path()), Some(SessionState::Receiving), "flipped at {at}");
        }
        std::fs::write(&newest, [&whole[..], b"x"].concat()).unwrap();
        assert_eq!(state_of(tmp.path()), Some(SessionState::Receiving), "longer");
    }

    #[test]
    fn two_broken_copies_are_corrupt_and_none_is_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(matches!(Journal::load(open(tmp.path()), tmp.path()).unwrap(), Loaded::Nothing));
        for name in COPIES {
            std::fs::write(tmp.path().join(name), b"mesyncj1").unwrap();
        }
        assert!(matches!(Journal::load(open(tmp.path()), tmp.path()).unwrap(), Loaded::Corrupt));
    }

    // RELIABILITY A95
    #[test]
    fn a_planted_symlink_is_not_read_as_a_journal() {
        let tmp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tmp.path().join(COPIES[0])).unwrap();
        assert!(matches!(Journal::load(open(tmp.path()), tmp.path()), Err(StateError::NotOurs { .. })));
    }
}

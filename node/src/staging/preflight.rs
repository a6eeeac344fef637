//! The checks before any data moves (RELIABILITY 4.2): a real exchange, space, inodes, names, who uses the target.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use me_sync_protocol::escape::escaped;
use me_sync_protocol::manifest::Manifest;
use me_sync_protocol::target::TargetRules;
use rustix::fs::{AtFlags, Dir, Mode, fstatvfs, mkdirat, unlinkat};
use rustix::io::Errno;

use super::error::{PreflightError, shown};
use super::inode::Inode;
use super::journal::Method;
use super::modes::ModeReport;
use super::target::Target;
use super::{PROBE_PREFIX, STAGING_NAME_LEN, durable, random_hex};

/// What an entry costs beside its bytes: a block for itself or its directory.
const ENTRY_COST: u64 = 4096;
const MOST_RESERVE: u64 = 1 << 30;
/// Probe directories of a run that was killed are removed after this long.
const STALE_PROBE_S: i64 = 3600;
const MAX_PROCESSES: usize = 4096;
const LISTED_PROCESSES: usize = 5;

/// What is known about the target and this manifest.
#[derive(Debug, Clone, Default)]
pub struct TargetFacts {
    /// `A` and `a` are one name here.
    pub case_insensitive: bool,
    /// Bytes this tree needs, reserve included.
    pub bytes_needed: u64,
    /// Bytes that are free for us.
    pub bytes_free: u64,
    /// Bits that entries will lose.
    pub modes: ModeReport,
    /// The target will be absent for a moment: the file system has no exchange.
    pub two_renames: bool,
    /// What people should know before they agree.
    pub warnings: Vec<String>,
}

/// What the probe of the parent directory found.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) method: Method,
    pub(super) case_insensitive: bool,
    pub(super) warning: Option<String>,
}

/// Makes two empty directories in the parent and really exchanges them.
pub(super) fn probe(parent: &OwnedFd, parent_path: &Path) -> Result<Probe, PreflightError> {
    sweep(parent);
    let refused = |err: Errno| match err {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => PreflightError::ParentNotWritable {
            parent: parent_path.to_owned(),
            why: "names in it cannot be changed",
            err: Some(err.into()),
        },
        Errno::NOSPC | Errno::DQUOT => {
            PreflightError::NoSpace { path: parent_path.to_owned(), needed: 2 * ENTRY_COST, free: 0 }
        }
        Errno::XDEV => PreflightError::UnsupportedFs { path: parent_path.to_owned(), err: err.into() },
        err => PreflightError::Io { what: "testing a swap in", path: parent_path.to_owned(), err: err.into() },
    };
    let one = ProbeDir::make(parent).map_err(refused)?;
    let other = ProbeDir::make(parent).map_err(refused)?;
    let upper = one.name.to_uppercase();
    let case_insensitive = Inode::at(parent, upper.as_str()).map_err(refused)?.is_some();
    let before = (one.ino().map_err(refused)?, other.ino().map_err(refused)?);
    let method = match durable::exchange(parent.as_fd(), &one.name, other.name.as_ref()) {
        Ok(()) => {
            let after = (other.ino().map_err(refused)?, one.ino().map_err(refused)?);
            // one that answers yes and does nothing is not to be trusted with a tree
            if before != after {
                let err = io::Error::other("an exchange had no effect");
                return Err(PreflightError::UnsupportedFs { path: parent_path.to_owned(), err });
            }
            Method::Exchange
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Method::TwoRename,
        Err(err) => return Err(refused(err)),
    };
    let warning = (method == Method::TwoRename).then(|| {
        format!(
            "the file system of {} has no atomic exchange: the target will be absent for a moment",
            shown(parent_path)
        )
    });
    Ok(Probe { method, case_insensitive, warning })
}

/// A probe directory, removed when it goes out of scope.
struct ProbeDir<'a> {
    parent: &'a OwnedFd,
    name: String,
}

impl<'a> ProbeDir<'a> {
    fn make(parent: &'a OwnedFd) -> rustix::io::Result<Self> {
        loop {
            let name = format!("{PROBE_PREFIX}{}", random_hex(8));
            match mkdirat(parent, name.as_str(), Mode::RWXU) {
                Ok(()) => return Ok(Self { parent, name }),
                Err(Errno::EXIST) => {}
                Err(err) => return Err(err),
            }
        }
    }

    fn ino(&self) -> rustix::io::Result<u64> {
        Inode::at(self.parent, self.name.as_str())?.map(|inode| inode.ino()).ok_or(Errno::NOENT)
    }
}

impl Drop for ProbeDir<'_> {
    fn drop(&mut self) {
        // an empty directory that stays is swept by a later session
        unlinkat(self.parent, self.name.as_str(), AtFlags::REMOVEDIR).ok();
    }
}

/// Removes what killed probes left. Only empty directories of ours go; a failure leaves an empty directory.
fn sweep(parent: &OwnedFd) {
    let Ok(dir) = Dir::read_from(parent) else { return };
    let now_s = i64::try_from(super::wall_ms() / 1000).unwrap_or(i64::MAX);
    for entry in dir.flatten() {
        let name = entry.file_name();
        if !name.to_bytes().starts_with(PROBE_PREFIX.as_bytes()) {
            continue;
        }
        if let Ok(Some(inode)) = Inode::at(parent, name)
            && inode.is_dir()
            && inode.uid() == rustix::process::geteuid().as_raw()
            && now_s.saturating_sub(inode.mtime() / 1_000_000_000) > STALE_PROBE_S
        {
            unlinkat(parent, name, AtFlags::REMOVEDIR).ok();
        }
    }
}

/// Is there room for so many entries with so many bytes? What that takes, what there is, and the longest name.
fn check_room(target: &Target, entries: u64, bytes: u64) -> Result<(u64, u64, u64), PreflightError> {
    let path = target.path();
    let io = |err: Errno| PreflightError::Io {
        what: "asking for the free space of",
        path: path.to_owned(),
        err: err.into(),
    };
    let fs = fstatvfs(&target.parent).map_err(io)?;
    let reserve = (fs.f_blocks.saturating_mul(fs.f_frsize) / 20).min(MOST_RESERVE);
    let needed = bytes.saturating_add(entries.saturating_mul(ENTRY_COST)).saturating_add(reserve);
    let free = fs.f_bavail.saturating_mul(fs.f_frsize).saturating_add(target.held());
    if needed > free {
        return Err(PreflightError::NoSpace { path: target.parent_path.clone(), needed, free });
    }
    // file systems without a fixed number of inodes report none at all
    if fs.f_files > 0 && fs.f_favail < entries {
        return Err(PreflightError::NoInodes { path: target.parent_path.clone(), needed: entries, free: fs.f_favail });
    }
    Ok((needed, free, fs.f_namemax))
}

/// What is known of a tree before its manifest: its size. Also who uses the old one.
pub(super) fn check_announced(target: &Target, entries: u64, bytes: u64) -> Result<Vec<String>, PreflightError> {
    check_room(target, entries.saturating_add(1), bytes)?;
    Ok(warnings(target))
}

fn warnings(target: &Target) -> Vec<String> {
    let mut warnings = target.warnings().to_vec();
    if target.exists() {
        warnings.extend(users_of(target.path()));
    }
    warnings
}

pub(super) fn check_manifest(target: &Target, manifest: &Manifest) -> Result<TargetFacts, PreflightError> {
    // SPEC §4.1
    let (needed, free, name_max) = check_room(target, u64::from(manifest.len()) + 1, manifest.data_bytes())?;
    check_fits(target, manifest, name_max)?;
    Ok(TargetFacts {
        case_insensitive: target.case_insensitive(),
        bytes_needed: needed,
        bytes_free: free,
        modes: target.modes.report(manifest),
        two_renames: target.method == Method::TwoRename && target.exists(),
        warnings: warnings(target),
    })
}

/// What only this target cannot hold: names too long, twins on a file system that ignores case.
fn check_fits(target: &Target, manifest: &Manifest, name_max: u64) -> Result<(), PreflightError> {
    // the longer of the two names that the root has over time
    let root = target.parent_path.as_os_str().len() + 1 + target.name.len().max(STAGING_NAME_LEN);
    let linux = TargetRules::linux(root);
    let rules = TargetRules {
        case_insensitive: target.case_insensitive(),
        name_max: usize::try_from(name_max).ok().filter(|max| *max > 0).unwrap_or(linux.name_max),
        ..linux
    };
    me_sync_protocol::target::check(manifest, &rules)
        .map_err(|why| PreflightError::DoesNotFit { path: target.path().to_owned(), why })
}

/// Processes that work in the target or hold files of it open: after the swap they still see the old tree.
fn users_of(path: &Path) -> Option<String> {
    let me = std::process::id();
    let mut users = Vec::new();
    for process in std::fs::read_dir("/proc").ok()?.flatten().take(MAX_PROCESSES) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == me {
            continue;
        }
        let leads_here = |link: &Path| std::fs::read_link(link).is_ok_and(|to| to.starts_with(path));
        let base = process.path();
        let uses = ["cwd", "root"].iter().any(|name| leads_here(&base.join(name)))
            || std::fs::read_dir(base.join("fd")).is_ok_and(|fds| fds.flatten().any(|fd| leads_here(&fd.path())));
        if uses {
            let name = std::fs::read_to_string(base.join("comm")).unwrap_or_default();
            users.push(format!("{pid} ({})", escaped(name.trim())));
        }
    }
    if users.is_empty() {
        return None;
    }
    let more = users.len().saturating_sub(LISTED_PROCESSES);
    users.truncate(LISTED_PROCESSES);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("in use by process {}{rest}: they keep working in the old tree until restarted", users.join(", ")))
}

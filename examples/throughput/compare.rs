//! Compares two trees by a walk of its own that shares no code with the migration.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The bits of a mode that are kept.
const PERMISSIONS: u32 = 0o777;

/// The first thing in which `copy` is not what `source` is; none if they are the same in names, kinds, contents,
/// permissions, times and link texts. Sockets, FIFOs and devices do not count.
pub(crate) fn first_difference(source: &Path, copy: &Path) -> io::Result<Option<String>> {
    let (one, other) = (fs::symlink_metadata(source)?, fs::symlink_metadata(copy)?);
    let differs = |what: &str| Ok(Some(format!("{}: {what}", source.display())));
    if one.file_type() != other.file_type() {
        return differs("kind");
    }
    if one.is_symlink() {
        return if fs::read_link(source)? == fs::read_link(copy)? { Ok(None) } else { differs("link text") };
    }
    if one.mode() & PERMISSIONS != other.mode() & PERMISSIONS {
        return differs("permissions");
    }
    if times(&one) != times(&other) {
        return differs("time");
    }
    if one.is_file() {
        let same = one.len() == other.len() && same_content(source, copy)?;
        return if same { Ok(None) } else { differs("content") };
    }
    let names = names(source)?;
    if names != self::names(copy)? {
        return differs("names in it");
    }
    for name in names {
        let difference = first_difference(&source.join(&name), &copy.join(&name))?;
        if difference.is_some() {
            return Ok(difference);
        }
    }
    Ok(None)
}

fn times(meta: &Metadata) -> (i64, i64) {
    (meta.mtime(), meta.mtime_nsec())
}

fn names(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() || kind.is_dir() || kind.is_symlink() {
            names.insert(entry.file_name());
        }
    }
    Ok(names)
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    const BLOCK: u64 = 1 << 18;
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        one.by_ref().take(BLOCK).read_to_end(&mut a)?;
        other.by_ref().take(BLOCK).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}

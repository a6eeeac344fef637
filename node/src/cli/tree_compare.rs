//! The demo's own judge: walks two trees and names every difference. Shares no code with the migration.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Two trees, compared.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Entries in the first tree.
    pub(crate) entries: u64,
    /// `path: what differs`, not escaped.
    pub(crate) differences: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    File { size: u64, sha256: Vec<u8>, mode: u32, mtime: (i64, i64) },
    Dir { mode: u32, mtime: (i64, i64) },
    Link { target: Vec<u8> },
}

/// Compares names, kinds, contents, permission bits, times to the nanosecond and link texts. Sockets, FIFOs and
/// devices do not count. A single file is compared with the one entry of its tree.
pub(crate) fn compare(source: &Path, target: &Path) -> io::Result<Comparison> {
    let mut wanted = BTreeMap::new();
    let mut found = BTreeMap::new();
    let meta = fs::metadata(source)?;
    if meta.is_file() {
        let name = PathBuf::from(source.canonicalize()?.file_name().unwrap_or_default());
        wanted.insert(name, entry(source, &meta)?);
        walk(target, target, &mut found)?;
        found.remove(Path::new(""));
    } else {
        walk(source, source, &mut wanted)?;
        walk(target, target, &mut found)?;
    }
    let mut differences = Vec::new();
    for (path, one) in &wanted {
        match found.get(path) {
            None => differences.push(format!("{}: missing", name(path))),
            Some(other) if other != one => differences.push(format!("{}: {}", name(path), what(one, other))),
            Some(_) => {}
        }
    }
    let extra = found.keys().filter(|path| !wanted.contains_key(*path));
    differences.extend(extra.map(|path| format!("{}: not in the source", name(path))));
    Ok(Comparison { entries: wanted.len() as u64, differences })
}

fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<PathBuf, Entry>) -> io::Result<()> {
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    into.insert(relative(dir), entry(dir, &fs::metadata(dir)?)?);
    for child in fs::read_dir(dir)? {
        let path = child?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            walk(root, &path, into)?;
        } else if meta.is_file() || meta.is_symlink() {
            into.insert(relative(&path), entry(&path, &meta)?);
        }
    }
    Ok(())
}

fn entry(path: &Path, meta: &Metadata) -> io::Result<Entry> {
    let (mode, mtime) = (meta.permissions().mode() & 0o777, (meta.mtime(), meta.mtime_nsec()));
    if meta.is_symlink() {
        return Ok(Entry::Link { target: fs::read_link(path)?.as_os_str().as_bytes().to_vec() });
    }
    if meta.is_dir() {
        return Ok(Entry::Dir { mode, mtime });
    }
    let mut hash = Sha256::new();
    let size = io::copy(&mut File::open(path)?, &mut HashWriter(&mut hash))?;
    Ok(Entry::File { size, sha256: hash.finalize().to_vec(), mode, mtime })
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn what(one: &Entry, other: &Entry) -> &'static str {
    match (one, other) {
        (Entry::File { size: a, sha256: x, mode: m, .. }, Entry::File { size: b, sha256: y, mode: n, .. }) => {
            if (a, x) != (b, y) {
                "content differs"
            } else if m != n {
                "mode differs"
            } else {
                "time differs"
            }
        }
        (Entry::Dir { mode: m, .. }, Entry::Dir { mode: n, .. }) if m != n => "mode differs",
        (Entry::Dir { .. }, Entry::Dir { .. }) => "time differs",
        (Entry::Link { .. }, Entry::Link { .. }) => "link text differs",
        _ => "kind differs",
    }
}

fn name(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.to_string_lossy().into_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs::{FileTimes, Permissions};
    use std::time::UNIX_EPOCH;

    use super::super::sample_tree;
    use super::*;

    fn two_samples() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        sample_tree::make(&a).unwrap();
        let copied = std::process::Command::new("cp").arg("-a").arg(&a).arg(&b).status().unwrap();
        assert!(copied.success());
        (dir, a, b)
    }

    #[test]
    fn a_faithful_copy_has_no_difference_and_every_kind_of_change_is_named() {
        let (_dir, a, b) = two_samples();
        let same = compare(&a, &b).unwrap();
        assert!(same.entries > 300, "{}", same.entries);
        assert_eq!(same.differences, [""; 0]);

        let times = FileTimes::new().set_modified(UNIX_EPOCH);
        File::open(b.join("run.sh")).unwrap().set_times(times).unwrap();
        fs::set_permissions(b.join("nothing"), Permissions::from_mode(0o400)).unwrap();
        File::options().write(true).open(b.join("large.bin")).unwrap().set_len(5).unwrap();
        fs::remove_dir(b.join("empty/inside/of/empty")).unwrap();
        let found = compare(&a, &b).unwrap().differences;
        let expected = [
            "empty/inside/of: time differs",
            "empty/inside/of/empty: missing",
            "large.bin: content differs",
            "nothing: mode differs",
            "run.sh: time differs",
        ];
        assert_eq!(found, expected);
    }
}

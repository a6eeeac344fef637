//! Building trees, and comparing them by an independent walk: names, kinds, bytes, modes, times, link texts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// What one entry is, in all that a migration keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    content: Vec<u8>,
}

/// Everything below `root`, and the root itself as `""`.
pub(crate) fn image(root: &Path) -> BTreeMap<String, Image> {
    let mut all = BTreeMap::new();
    visit(root, "", &mut all);
    all
}

fn visit(root: &Path, rel: &str, all: &mut BTreeMap<String, Image>) {
    let path = if rel.is_empty() { root.to_owned() } else { root.join(rel) };
    let meta = fs::symlink_metadata(&path).expect("readable");
    let kind = meta.file_type();
    let (name, content) = if kind.is_symlink() {
        ("symlink", fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes())
    } else if kind.is_dir() {
        ("dir", Vec::new())
    } else {
        ("file", fs::read(&path).expect("readable"))
    };
    let mode = if kind.is_symlink() { 0 } else { meta.mode() & 0o7777 };
    all.insert(rel.to_owned(), Image { kind: name, mode, mtime: (meta.mtime(), meta.mtime_nsec()), content });
    if kind.is_dir() {
        for entry in fs::read_dir(&path).expect("readable") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            visit(root, &if rel.is_empty() { name } else { format!("{rel}/{name}") }, all);
        }
    }
}

/// Panics at the first difference, naming it.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    assert_images(&image(a), &image(b));
}

pub(crate) fn assert_images(a: &BTreeMap<String, Image>, b: &BTreeMap<String, Image>) {
    let names = |m: &BTreeMap<String, Image>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b), "the trees hold other names");
    for (path, image) in a {
        let other = &b[path];
        assert_eq!(image.content.len(), other.content.len(), "length of {path:?}");
        assert!(
            image == other,
            "{path:?} differs: {} {:o} {:?} and {} {:o} {:?}, content {}",
            image.kind,
            image.mode,
            image.mtime,
            other.kind,
            other.mode,
            other.mtime,
            if image.content == other.content { "the same" } else { "different" }
        );
    }
}

/// Writes a file with parents, deterministic bytes, a mode and an odd time.
pub(crate) fn file(root: &Path, rel: &str, len: usize, mode: u32) {
    let path = root.join(rel);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    let seed = rel.bytes().fold(len as u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    fs::write(&path, noise(seed, len)).expect("written");
    stamp(&path, u64::from(seed));
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
}

pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A time before or after 1970 with all nine digits in use.
pub(crate) fn stamp(path: &Path, seed: u64) {
    let at = Duration::new(seed % 1_800_000_000, 123_456_789);
    let when = if seed.is_multiple_of(7) { UNIX_EPOCH - at / 1000 } else { UNIX_EPOCH + at };
    fs::File::open(path).expect("opened").set_modified(when).expect("time");
}

/// A small tree with one of everything that is hard: odd names, modes, links, empty things, a file of some MiB.
pub(crate) fn sample(root: &Path) {
    fs::create_dir_all(root).expect("root");
    file(root, "a.txt", 3, 0o644);
    file(root, "empty", 0, 0o600);
    file(root, "big.bin", 3 << 20, 0o640);
    file(root, "dir/exact chunk", 256 << 10, 0o755);
    file(root, "dir/chunk and one", (256 << 10) + 1, 0o400);
    for name in [
        "-rf",
        "~",
        "$(x)",
        "naïve",
        "文書",
        "emoji 🗂",
        "two  spaces",
        "quote'\"",
        "back\\slash",
        "e\u{301}",
        "a!",
        "dir!",
    ] {
        file(root, &format!("odd/{name}"), name.len(), 0o644);
    }
    for i in 0..200 {
        file(root, &format!("many/{:02}/f{i}", i % 10), i * 13, 0o644);
    }
    let deep = (0..30).map(|i| format!("d{i}")).collect::<Vec<_>>().join("/");
    file(root, &format!("{deep}/leaf"), 10, 0o644);
    file(root, &"n".repeat(255), 1, 0o644);
    for dir in ["void", "void/inside", "locked"] {
        fs::create_dir_all(root.join(dir)).expect("dir");
    }
    for (link, to) in [
        ("link to file", "a.txt"),
        ("dir/up", "../a.txt"),
        ("dangling", "no/where"),
        ("to dir", "dir"),
        ("abs", "/etc/hostname"),
    ] {
        std::os::unix::fs::symlink(to, root.join(link)).expect("link");
    }
    // directories last, deepest first: making entries changes their times
    let dirs: Vec<String> = image(root).into_iter().filter(|(_, i)| i.kind == "dir").map(|(p, _)| p).collect();
    for (n, dir) in dirs.iter().rev().enumerate() {
        stamp(&root.join(dir), 1_000_003 * n as u64 + 5);
    }
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o555)).expect("mode");
    fs::set_permissions(root.join("void"), fs::Permissions::from_mode(0o700)).expect("mode");
    fs::set_permissions(root, fs::Permissions::from_mode(0o750)).expect("mode");
}

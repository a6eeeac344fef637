//! What a tree is, read with nothing but the standard library: kind, mode, size, content, link text, mtime.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    mode: u32,
    mtime: (i64, i64),
    content: Vec<u8>,
}

impl Node {
    pub(crate) fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// Everything at and below a path; empty if nothing is there.
pub(crate) type Image = BTreeMap<PathBuf, Node>;

pub(crate) fn read(root: &Path) -> Image {
    let mut image = Image::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        let path = if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(&relative) };
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let content = if meta.is_symlink() {
            fs::read_link(&path).expect("a link is readable").as_os_str().as_bytes().to_vec()
        } else if meta.is_file() {
            fs::read(&path).expect("a file is readable")
        } else {
            for entry in fs::read_dir(&path).expect("a directory is readable") {
                todo.push(relative.join(entry.expect("an entry").file_name()));
            }
            Vec::new()
        };
        // the mode holds the kind too
        image.insert(relative, Node { mode: meta.mode(), mtime: (meta.mtime(), meta.mtime_nsec()), content });
    }
    image
}

/// The first few differences, for the message of a failure.
pub(crate) fn difference(want: &Image, got: &Image) -> String {
    let mut all: Vec<_> = want.keys().chain(got.keys()).collect();
    all.sort_unstable();
    all.dedup();
    let differing = all.iter().filter(|path| want.get(**path) != got.get(**path)).take(4);
    let show = |node: Option<&Node>| {
        node.map_or("absent".to_owned(), |n| format!("{:o} {:?} {} bytes", n.mode, n.mtime, n.content.len()))
    };
    differing.map(|p| format!("{}: {} / {}; ", p.display(), show(want.get(*p)), show(got.get(*p)))).collect()
}

/// Regular files of `want` that are empty or short in `got`.
pub(crate) fn short_files(want: &Image, got: &Image) -> usize {
    let short = |(path, node): &(&PathBuf, &Node)| {
        got.get(*path).is_some_and(|now| now.mode == node.mode && now.content.len() < node.content.len())
    };
    want.iter().filter(short).count()
}

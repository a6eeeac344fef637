//! Trees for the tests: a manifest, the bytes of its files, and the image that a file system would show.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder, Node};
use me_sync_protocol::path::RelPath;
use sha2::Digest as _;

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    File(Bytes),
    Dir,
    Link(String),
}

/// What a walk over a tree sees.
pub(crate) type Image = BTreeMap<String, Item>;

/// A source tree: its manifest and what its files hold.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) image: Image,
}

impl Tree {
    /// From names and sizes. `d/` is a directory, `l@` a symlink; parents are added.
    pub(crate) fn of(items: &[(&str, usize)]) -> Self {
        let mut image = Image::new();
        for (name, size) in items {
            let path = name.trim_end_matches(['/', '@']);
            path.match_indices('/').for_each(|(at, _)| {
                image.insert(path[..at].to_owned(), Item::Dir);
            });
            let item = match name.as_bytes().last() {
                Some(b'/') => Item::Dir,
                Some(b'@') => Item::Link("../anywhere".to_owned()),
                _ => Item::File(content(path, *size)),
            };
            image.insert(path.to_owned(), item);
        }
        Self::from_image(image)
    }

    /// What a cold exporter sends first.
    pub(crate) fn outline(&self) -> Arc<Manifest> {
        let header = self.manifest.header();
        let mut builder = ManifestBuilder::outline(header.root_mode, header.root_mtime);
        for (_, mut entry) in self.manifest.entries() {
            if let Node::File { size: 1.., sha256 } = &mut entry.node {
                *sha256 = None;
            }
            builder.push(&entry).expect("in order");
        }
        Arc::new(builder.finish().expect("small"))
    }

    /// The same names and sizes with another content: another manifest with the same outline.
    pub(crate) fn rewritten(&self) -> Self {
        let mut image = self.image.clone();
        for item in image.values_mut() {
            if let Item::File(bytes) = item {
                *bytes = bytes.iter().map(|b| b ^ 0x55).collect();
            }
        }
        Self::from_image(image)
    }

    /// The same tree with one more file: another manifest.
    pub(crate) fn edited(&self) -> Self {
        let mut image = self.image.clone();
        image.insert("zz-new".to_owned(), Item::File(content("zz-new", 70)));
        Self::from_image(image)
    }

    fn from_image(image: Image) -> Self {
        let mut builder = ManifestBuilder::new(Some(0o755), None);
        for (path, item) in &image {
            let node = match item {
                Item::File(bytes) => Node::File { size: bytes.len() as u64, sha256: Some(sha256(bytes)) },
                Item::Dir => Node::Dir,
                Item::Link(target) => Node::Symlink { target: target.into() },
            };
            let path = RelPath::parse(path.as_str()).expect("a valid path");
            builder.push(&Entry { path, node, mode: None, mtime: None }).expect("in order");
        }
        Self { manifest: Arc::new(builder.finish().expect("small")), image }
    }

    /// The index of a path that is there.
    pub(crate) fn index(&self, path: &str) -> EntryIndex {
        self.manifest.find(path).unwrap_or_else(|| panic!("no {path}"))
    }

    /// The index of the nth file, wrapping; none without files.
    pub(crate) fn nth_file(&self, n: usize) -> Option<EntryIndex> {
        let files: Vec<_> = self.manifest.entries().filter(|(_, e)| e.is_file()).map(|(index, _)| index).collect();
        (!files.is_empty()).then(|| files[n % files.len()])
    }

    /// The right bytes of a file.
    pub(crate) fn bytes(&self, index: EntryIndex) -> Bytes {
        let entry = self.manifest.entry(index).expect("an entry");
        match &self.image[entry.path.as_str()] {
            Item::File(bytes) => bytes.clone(),
            other => panic!("{} is no file but {other:?}", entry.path),
        }
    }

    /// The image that applying these staged files gives; a file that was not staged is missing from it.
    pub(crate) fn staged_image(&self, staged: &BTreeMap<EntryIndex, Vec<u8>>) -> Image {
        let entries = self.manifest.entries().filter_map(|(index, entry)| {
            let item = match entry.node {
                Node::File { .. } => Item::File(Bytes::copy_from_slice(staged.get(&index)?)),
                Node::Dir => Item::Dir,
                Node::Symlink { target } => Item::Link(target.into_owned()),
            };
            Some((entry.path.as_str().to_owned(), item))
        });
        entries.collect()
    }
}

/// What stands at the target before anything happens: no tree that a test sends.
pub(crate) fn old_image() -> Image {
    [("old", Item::Dir), ("old/precious", Item::File(Bytes::from_static(b"keep me")))]
        .map(|(path, item)| (path.to_owned(), item))
        .into()
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

fn content(path: &str, size: usize) -> Bytes {
    path.bytes().cycle().zip(0_usize..).map(|(b, i)| b.wrapping_add(i.to_le_bytes()[0])).take(size).collect()
}

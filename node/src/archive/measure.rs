//! From a package to a manifest: every content is inflated once into nothing, for its CRC, its length and its SHA-256. What is
//! wrong with a package is known before anything is made for it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;

use crc32fast::Hasher as Crc;
use flate2::bufread::DeflateDecoder;
use me_sync_protocol::archive::Offer;
use me_sync_protocol::hash::Hasher;
use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder, Mtime, Node};
use me_sync_protocol::path::RelPath;
use me_sync_protocol::reason::Code;

use super::directory::{self, Announced, Item};
use super::error::PackageRefused;
use super::fields::Section;
use super::{BLOCK, Spool, Watch, locals};

/// A package that is what it says, and the tree in it.
#[derive(Debug)]
pub(crate) struct Package {
    pub(super) spool: Spool,
    /// In the order of the manifest.
    pub(super) items: Vec<Item>,
    pub(crate) manifest: Arc<Manifest>,
}

/// Checks all of a package. Blocking; reads every byte of it.
///
/// # Errors
/// The first rule that it breaks.
// SPEC §13.5
pub(crate) fn open(spool: Spool, offer: &Offer, watch: &Watch) -> Result<Package, PackageRefused> {
    let announced = Announced { entries: offer.files.saturating_add(offer.dirs), bytes: offer.bytes };
    let mut directory = directory::read(&spool.file, offer.package_len, announced)?;
    let dirs = directory.items.iter().filter(|item| item.is_dir).count() as u64;
    if dirs != offer.dirs {
        return Err(PackageRefused::Announced { what: "it has another number of files", code: Code::ManifestMismatch });
    }
    locals::check(&spool.file, &mut directory)?;
    let mut items = directory.items;
    items.sort_unstable_by(|one, other| one.path.as_bytes().cmp(other.path.as_bytes()));
    let time = |seconds| Mtime::from_unix(seconds, 0);
    let mut builder = ManifestBuilder::new(offer.root_mode.map(|mode| mode & 0o777), offer.root_mtime_s.map(time));
    for item in &items {
        let node = match item.is_dir {
            true => Node::Dir,
            false => Node::File { size: item.size, sha256: Some(hash(&spool.file, item, watch)?) },
        };
        // looked at before, with its name
        let path = RelPath::parse(item.path.as_str());
        let path = path.map_err(|_| item.refused("has a path that is refused", Code::PathInvalid))?;
        builder.push(&Entry { path, node, mode: item.mode, mtime: item.mtime.map(time) })?;
    }
    let manifest = Arc::new(builder.finish()?);
    Ok(Package { spool, items, manifest })
}

/// The SHA-256 of a content that is what its headers say.
fn hash(file: &File, item: &Item, watch: &Watch) -> Result<Digest, PackageRefused> {
    let mut hash = Hasher::new();
    inflate(file, item, watch, |block| {
        hash.update(block);
        Ok(())
    })?;
    Ok(hash.finish())
}

/// A buffer for so many bytes: most files are small.
fn room(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(BLOCK).clamp(1, BLOCK)
}

/// Inflates one content and hands it on in blocks: exactly as many bytes as declared, with the declared CRC.
///
/// # Errors
/// It is longer or shorter, its CRC is another, it is no deflated content, or something is left behind it; or `take` fails.
pub(super) fn inflate(
    file: &File,
    item: &Item,
    watch: &Watch,
    mut take: impl FnMut(&[u8]) -> Result<(), PackageRefused>,
) -> Result<(), PackageRefused> {
    let raw = Section { file, at: item.data, left: item.packed };
    let mut crc = Crc::new();
    let mut left = item.size;
    let mut block = vec![0; room(item.size)];
    let mut each = |from: &mut dyn Read| -> Result<(), PackageRefused> {
        loop {
            let n = match from.read(&mut block) {
                Ok(n) => n,
                Err(err) if err.raw_os_error().is_some() => return Err(PackageRefused::Spool { what: "read", err }),
                Err(_) => return Err(item.refused("is not deflated as it should be", Code::ManifestInvalid)),
            };
            let Some(content) = block.get(..n).filter(|content| !content.is_empty()) else { return Ok(()) };
            // a bomb ends here: with the first block that holds a byte too many
            left = left
                .checked_sub(n as u64)
                .ok_or_else(|| item.refused("is longer than declared", Code::SizeMismatch))?;
            crc.update(content);
            watch.add(n);
            take(content)?;
            if watch.is_stopped() {
                return Err(PackageRefused::Stopped);
            }
        }
    };
    if item.deflated {
        let mut inflated = DeflateDecoder::new(BufReader::with_capacity(room(item.packed), raw));
        each(&mut inflated)?;
        if inflated.total_in() != item.packed {
            return Err(item.refused("has bytes behind its deflated content", Code::ManifestInvalid));
        }
    } else {
        let mut raw = raw;
        each(&mut raw)?;
    }
    if left != 0 {
        return Err(item.refused("is shorter than declared", Code::SizeMismatch));
    }
    if crc.finalize() != item.crc {
        return Err(item.refused("has another CRC than its content", Code::HashMismatch));
    }
    Ok(())
}

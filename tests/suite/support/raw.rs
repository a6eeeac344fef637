//! CBOR written by hand: manifests that no builder makes. Shares no code with the product.

use sha2::{Digest as _, Sha256};

/// The start of an item: major type and value, in the shortest form.
pub(crate) fn head(major: u8, value: u64) -> Vec<u8> {
    let major = major << 5;
    match value {
        0..24 => vec![major | value as u8],
        24..=0xff => vec![major | 24, value as u8],
        0x100..=0xffff => [&[major | 25][..], &(value as u16).to_be_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[major | 26][..], &(value as u32).to_be_bytes()].concat(),
        _ => [&[major | 27][..], &value.to_be_bytes()].concat(),
    }
}

pub(crate) fn uint(value: u64) -> Vec<u8> {
    head(0, value)
}

pub(crate) fn int(value: i64) -> Vec<u8> {
    if value < 0 { head(1, !(value as u64)) } else { uint(value as u64) }
}

pub(crate) fn bytes(value: &[u8]) -> Vec<u8> {
    [head(2, value.len() as u64), value.to_vec()].concat()
}

/// A text item, whatever its bytes are.
pub(crate) fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    [head(3, value.as_ref().len() as u64), value.as_ref().to_vec()].concat()
}

pub(crate) fn map(fields: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let pairs = fields.iter().flat_map(|(key, value)| [uint(*key), value.clone()].concat());
    head(5, fields.len() as u64).into_iter().chain(pairs).collect()
}

pub(crate) fn sha(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// Fields of a file entry, to be changed before they become a [`map`].
pub(crate) fn file_fields(path: impl AsRef<[u8]>, content: &[u8]) -> Vec<(u64, Vec<u8>)> {
    vec![(0, text(path)), (1, uint(0)), (2, uint(content.len() as u64)), (3, bytes(&sha(content)))]
}

pub(crate) fn file(path: impl AsRef<[u8]>, content: &[u8]) -> Vec<u8> {
    map(&file_fields(path, content))
}

/// A file entry with one field more, or another value for one it has.
pub(crate) fn file_with(path: &str, content: &[u8], key: u64, value: Vec<u8>) -> Vec<u8> {
    let mut fields = file_fields(path, content);
    fields.retain(|(k, _)| *k != key);
    fields.push((key, value));
    fields.sort_by_key(|(k, _)| *k);
    map(&fields)
}

/// A file entry of an outline.
pub(crate) fn file_late(path: &str, content: &[u8]) -> Vec<u8> {
    let mut fields = file_fields(path, content);
    fields.retain(|(key, _)| *key != 3);
    map(&fields)
}

pub(crate) fn dir(path: impl AsRef<[u8]>) -> Vec<u8> {
    map(&[(0, text(path)), (1, uint(1))])
}

pub(crate) fn dir_mode(path: &str, mode: u64) -> Vec<u8> {
    map(&[(0, text(path)), (1, uint(1)), (4, uint(mode))])
}

pub(crate) fn link(path: &str, to: &str) -> Vec<u8> {
    map(&[(0, text(path)), (1, uint(2)), (7, text(to))])
}

/// A manifest as it goes over the wire.
#[derive(Clone)]
pub(crate) struct Listing {
    pub(crate) header: Vec<u8>,
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) sha: [u8; 32],
    pub(crate) count: u64,
    pub(crate) total: u64,
}

pub(crate) fn header(version: u64, count: u64, total: u64) -> Vec<u8> {
    map(&[(0, uint(version)), (1, uint(count)), (2, uint(total))])
}

impl Listing {
    /// True figures and the true hash, whatever the entries are.
    pub(crate) fn of(entries: &[Vec<u8>], total: u64) -> Self {
        let count = entries.len() as u64;
        Self::under(header(4, count, total), entries, count, total)
    }

    /// As [`Self::of`], for an outline.
    pub(crate) fn outline(entries: &[Vec<u8>], total: u64) -> Self {
        let count = entries.len() as u64;
        let header = map(&[(0, uint(4)), (1, uint(count)), (2, uint(total)), (6, vec![0xf5])]);
        Self::under(header, entries, count, total)
    }

    /// Under a header of one's own.
    pub(crate) fn under(header: Vec<u8>, entries: &[Vec<u8>], count: u64, total: u64) -> Self {
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        for entry in entries {
            match chunks.last_mut() {
                Some(last) if last.len() + entry.len() < 900_000 => last.extend_from_slice(entry),
                _ => chunks.push(entry.clone()),
            }
        }
        let mut hash = Sha256::new();
        hash.update(&header);
        chunks.iter().for_each(|c| hash.update(c));
        Self { header, chunks, sha: hash.finalize().into(), count, total }
    }
}

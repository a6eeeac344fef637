//! The one encoding a header or an entry has (SPEC §4.2): deterministic CBOR, integer keys ascending.

use std::borrow::Cow;

use minicbor::{Decoder, Encoder};

use super::{Entry, ManifestHeader, Mtime, Node, SCHEMA_VERSION};
use crate::ids::Digest;
use crate::limits::{MAX_LINK, MAX_MTIME_MS, MAX_SIZE};
use crate::path::{PathRefused, RelPath};

/// Bytes that a hash takes in an entry: key, head, 32 bytes.
pub(super) const HASH_FIELD: u64 = 1 + 2 + 32;

const FILE: u64 = 0;
const DIR: u64 = 1;
const SYMLINK: u64 = 2;

/// Why an encoded entry is refused; the caller knows its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryRefused {
    Path(PathRefused),
    Kind(u64),
    Limit(&'static str),
    Form(&'static str),
}

impl From<minicbor::decode::Error> for EntryRefused {
    fn from(_: minicbor::decode::Error) -> Self {
        Self::Form("a field is missing, foreign or of the wrong type")
    }
}

type Refused<T> = Result<T, EntryRefused>;

/// Keys: 0 schema_version, 1 entry_count, 2 total_bytes, 3 root_mode, 4 root_mtime_ms, 5 root_mtime_ns, 6 outline,
/// 7 data_bytes.
pub(super) fn encode_header(header: &ManifestHeader, out: &mut Vec<u8>) {
    let mut e = Encoder::new(out);
    let root = u64::from(header.root_mode.is_some()) + 2 * u64::from(header.root_mtime.is_some());
    let fields = 3 + root + u64::from(header.outline) + u64::from(header.data_bytes.is_some());
    infallible(|| {
        e.map(fields)?.u8(0)?.u32(SCHEMA_VERSION)?.u8(1)?.u64(header.entry_count)?.u8(2)?.u64(header.total_bytes)?;
        if let Some(mode) = header.root_mode {
            e.u8(3)?.u32(mode)?;
        }
        if let Some(mtime) = header.root_mtime {
            e.u8(4)?.i64(mtime.ms)?.u8(5)?.u32(mtime.sub_ns)?;
        }
        if header.outline {
            e.u8(6)?.bool(true)?;
        }
        if let Some(data) = header.data_bytes {
            e.u8(7)?.u64(data)?;
        }
        Ok(())
    });
}

/// Reads a header and its schema version; the version is judged by the caller.
pub(super) fn decode_header(raw: &[u8]) -> Refused<(u32, ManifestHeader)> {
    let mut d = Decoder::new(raw);
    let fields = definite_map(&mut d)?;
    let (mut version, mut count, mut total, mut mode, mut ms, mut ns) = (None, None, None, None, None, None);
    let (mut outline, mut data_bytes) = (false, None);
    for _ in 0..fields {
        match d.u8()? {
            0 => version = Some(d.u32()?),
            1 => count = Some(d.u64()?),
            2 => total = Some(d.u64()?),
            3 => mode = Some(d.u32()?),
            4 => ms = Some(d.i64()?),
            5 => ns = Some(d.u32()?),
            6 => outline = d.bool()?,
            7 => data_bytes = Some(d.u64()?),
            _ => return Err(EntryRefused::Form("an unknown field")),
        }
    }
    let (Some(version), Some(entry_count), Some(total_bytes)) = (version, count, total) else {
        return Err(EntryRefused::Form("a field is missing"));
    };
    let root_mtime = mtime(ms, ns)?;
    let header = ManifestHeader { entry_count, total_bytes, root_mode: mode, root_mtime, outline, data_bytes };
    if version == SCHEMA_VERSION {
        let mut again = Vec::with_capacity(raw.len());
        encode_header(&header, &mut again);
        if again != raw {
            return Err(EntryRefused::Form("not the shortest, ordered encoding"));
        }
        // SPEC §4.1
        if data_bytes.is_some_and(|data| data >= total_bytes) {
            return Err(EntryRefused::Form("data that is not less than the whole"));
        }
    }
    Ok((version, header))
}

/// Keys: 0 path, 1 kind, 2 size, 3 sha256, 4 mode, 5 mtime_ms, 6 mtime_ns, 7 target.
pub(super) fn encode_entry(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let own = match entry.node {
        Node::File { sha256, .. } => 1 + u64::from(sha256.is_some()),
        Node::Dir => 0,
        Node::Symlink { .. } => 1,
    };
    let fields = 2 + own + u64::from(entry.mode.is_some()) + 2 * u64::from(entry.mtime.is_some());
    let mut e = Encoder::new(out);
    infallible(|| {
        e.map(fields)?.u8(0)?.str(entry.path.as_str())?.u8(1)?;
        match &entry.node {
            Node::File { size, sha256: None } => e.u64(FILE)?.u8(2)?.u64(*size)?,
            Node::File { size, sha256: Some(sha256) } => {
                e.u64(FILE)?.u8(2)?.u64(*size)?.u8(3)?.bytes(sha256.as_bytes())?
            }
            Node::Dir => e.u64(DIR)?,
            Node::Symlink { .. } => e.u64(SYMLINK)?,
        };
        if let Some(mode) = entry.mode {
            e.u8(4)?.u32(mode)?;
        }
        if let Some(mtime) = entry.mtime {
            e.u8(5)?.i64(mtime.ms)?.u8(6)?.u32(mtime.sub_ns)?;
        }
        if let Node::Symlink { target } = &entry.node {
            e.u8(7)?.str(target)?;
        }
        Ok(())
    });
}

/// Reads one entry from exactly `raw`, without the check that the bytes are canonical.
pub(super) fn decode_entry(raw: &[u8]) -> Refused<Entry<'_>> {
    let mut d = Decoder::new(raw);
    let entry = read_entry(&mut d, parse)?;
    if d.position() != raw.len() {
        return Err(EntryRefused::Form("bytes after the entry"));
    }
    Ok(entry)
}

/// An entry of a manifest that is checked: its path is good.
pub(super) fn checked_entry(raw: &[u8]) -> Refused<Entry<'_>> {
    read_entry(&mut Decoder::new(raw), |path| Ok(RelPath::checked_before(path)))
}

fn parse(path: &str) -> Refused<RelPath<'_>> {
    RelPath::parse(path).map_err(EntryRefused::Path)
}

/// Reads the next entry and says how many bytes it took. `scratch` is for the re-encoding.
pub(super) fn next_entry<'a>(raw: &'a [u8], scratch: &mut Vec<u8>) -> Refused<(Entry<'a>, usize)> {
    let mut d = Decoder::new(raw);
    let entry = read_entry(&mut d, parse)?;
    let used = d.position();
    scratch.clear();
    encode_entry(&entry, scratch);
    if raw.get(..used) != Some(scratch.as_slice()) {
        return Err(EntryRefused::Form("not the shortest, ordered encoding"));
    }
    Ok((entry, used))
}

/// The path of an entry that is known to be valid.
pub(super) fn path_of(raw: &[u8]) -> Option<&str> {
    let mut d = Decoder::new(raw);
    d.map().ok()?;
    d.u8().ok()?;
    d.str().ok()
}

fn read_entry<'a>(d: &mut Decoder<'a>, checked: impl Fn(&'a str) -> Refused<RelPath<'a>>) -> Refused<Entry<'a>> {
    let fields = definite_map(d)?;
    let (mut path, mut kind, mut size, mut sha256) = (None, None, None, None);
    let (mut mode, mut ms, mut ns, mut target) = (None, None, None, None);
    for _ in 0..fields {
        match d.u8()? {
            0 => path = Some(text(d)?),
            1 => kind = Some(d.u64()?),
            2 => size = Some(unsigned(d)?),
            3 => {
                sha256 = Some(Digest(d.bytes()?.try_into().map_err(|_| EntryRefused::Form("a SHA-256 has 32 bytes"))?))
            }
            4 => mode = Some(d.u32()?),
            5 => ms = Some(d.i64()?),
            6 => ns = Some(d.u32()?),
            7 => target = Some(d.str()?),
            _ => return Err(EntryRefused::Form("an unknown field")),
        }
    }
    let path = path.ok_or(EntryRefused::Form("no path"))?;
    let path = checked(path)?;
    let node = match (kind.ok_or(EntryRefused::Form("no kind"))?, size, sha256, target) {
        (FILE, Some(size), sha256, None) => file(size, sha256)?,
        (DIR, None, None, None) => Node::Dir,
        (SYMLINK, None, None, Some(target)) => symlink(target, mode)?,
        (FILE..=SYMLINK, ..) => return Err(EntryRefused::Form("fields that do not fit the kind")),
        (other, ..) => return Err(EntryRefused::Kind(other)),
    };
    Ok(Entry { path, node, mode, mtime: mtime(ms, ns)? })
}

/// Whether a SHA-256 may be missing is a question of the header.
fn file<'a>(size: u64, sha256: Option<Digest>) -> Refused<Node<'a>> {
    if size > MAX_SIZE {
        return Err(EntryRefused::Limit("file size"));
    }
    if size == 0 && sha256 != Some(crate::EMPTY_SHA256) {
        return Err(EntryRefused::Form("an empty file with the hash of something else"));
    }
    Ok(Node::File { size, sha256 })
}

fn symlink(target: &str, mode: Option<u32>) -> Refused<Node<'_>> {
    if target.is_empty() || target.contains('\0') {
        return Err(EntryRefused::Form("a symlink target that no link can have"));
    }
    if target.len() > MAX_LINK {
        return Err(EntryRefused::Limit("symlink target length"));
    }
    // SPEC §4.4
    if mode.is_some() {
        return Err(EntryRefused::Form("a symlink has no mode"));
    }
    Ok(Node::Symlink { target: Cow::Borrowed(target) })
}

fn mtime(ms: Option<i64>, ns: Option<u32>) -> Refused<Option<Mtime>> {
    match (ms, ns) {
        (None, None) => Ok(None),
        (Some(ms), Some(sub_ns)) if ms.unsigned_abs() <= MAX_MTIME_MS.unsigned_abs() && sub_ns < 1_000_000 => {
            Ok(Some(Mtime { ms, sub_ns }))
        }
        (Some(_), Some(_)) => Err(EntryRefused::Form("a modification time out of range")),
        (Some(_), None) | (None, Some(_)) => Err(EntryRefused::Form("half a modification time")),
    }
}

/// A path as text; bytes that are not UTF-8 are a fault of the path, not of the form.
fn text<'a>(d: &mut Decoder<'a>) -> Refused<&'a str> {
    let is_text = d.datatype()? == minicbor::data::Type::String;
    d.str().map_err(|e| match is_text {
        // a text item that cannot be read is one whose bytes are not UTF-8, or one that ends too early
        true if !e.is_end_of_input() => EntryRefused::Path(PathRefused::NotUtf8),
        _ => EntryRefused::from(e),
    })
}

/// A size; a number that no size can be is a limit passed, not a foreign type.
#[expect(clippy::wildcard_enum_match_arm, reason = "every type but the integers is refused alike")]
fn unsigned(d: &mut Decoder<'_>) -> Refused<u64> {
    use minicbor::data::Type;
    match d.datatype()? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => Ok(d.u64()?),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => Err(EntryRefused::Limit("file size")),
        _ => Err(EntryRefused::Form("a size that is no integer")),
    }
}

fn definite_map(d: &mut Decoder<'_>) -> Refused<u64> {
    d.map()?.ok_or(EntryRefused::Form("an indefinite-length map"))
}

/// Writing to a `Vec` has no way to fail.
fn infallible(write: impl FnOnce() -> Result<(), minicbor::encode::Error<std::convert::Infallible>>) {
    if let Err(e) = write() {
        unreachable!("encoding to memory failed: {e}");
    }
}

//! The directory at the end of a package (SPEC §13.5), read with nothing taken on trust: neither its counts nor where it says
//! that it is.
//!
//! Own code and not the reader of a library: those are made to get the most out of odd files, and take the last of two equal
//! names, a name from one header and content from another, or bytes that belong to nothing.

use std::fs::File;
use std::io::{BufReader, Read};

use me_sync_protocol::archive::Names;
use me_sync_protocol::escape::escaped;
use me_sync_protocol::limits::{MAX_ENTRIES, MAX_MANIFEST_BYTES, MAX_PATH, MAX_SIZE};
use me_sync_protocol::reason::Code;

use super::error::PackageRefused;
use super::fields::{Extra, Fields, Section, Wide, bytes, unread};

/// End record, the locator of its 64-bit form, and that form.
const END: u32 = 0x0605_4b50;
const END_LEN: u64 = 22;
const LOCATOR: u32 = 0x0706_4b50;
const LOCATOR_LEN: u64 = 20;
const END64: u32 = 0x0606_4b50;
const END64_LEN: u64 = 56;
/// An entry of the directory.
const ENTRY: u32 = 0x0201_4b50;

/// The content is deflated; stored is 0.
const DEFLATED: u16 = 8;
/// General purpose flags: sizes stand behind the content, the name is UTF-8, and two that say how it was deflated.
const BEHIND: u16 = 1 << 3;
const UTF8: u16 = 1 << 11;
const TUNED: u16 = 0b110;

const FORMAT_MASK: u32 = 0o170_000;
const FORMAT_DIR: u32 = 0o040_000;
const FORMAT_FILE: u32 = 0o100_000;
const FORMAT_LINK: u32 = 0o120_000;
const DOS_DIR: u32 = 0x10;
/// Version that is needed to read 64-bit sizes; nothing later is used here.
const NEWEST: u16 = 45;

/// One entry as the directory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Without the `/` at the end of a directory.
    pub(super) path: String,
    pub(super) is_dir: bool,
    pub(super) flags: u16,
    pub(super) deflated: bool,
    pub(super) crc: u32,
    /// Bytes in the package.
    pub(super) packed: u64,
    /// Bytes of the content.
    pub(super) size: u64,
    /// Where its local header is.
    pub(super) at: u64,
    /// Where its content is; known once the local header was looked at.
    pub(super) data: u64,
    pub(super) mode: Option<u32>,
    pub(super) mtime: Option<i64>,
}

impl Item {
    pub(super) fn has_sizes_behind(&self) -> bool {
        self.flags & BEHIND != 0
    }

    /// As the headers have it.
    pub(super) fn raw_name(&self) -> Vec<u8> {
        let mut raw = self.path.clone().into_bytes();
        raw.extend(self.is_dir.then_some(b'/'));
        raw
    }

    pub(super) fn refused(&self, why: &'static str, code: Code) -> PackageRefused {
        refused(&self.path, why, code)
    }
}

pub(super) fn refused(name: &str, why: &'static str, code: Code) -> PackageRefused {
    PackageRefused::Entry { name: escaped(name).to_string(), why, code }
}

/// The directory of a package.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) items: Vec<Item>,
    /// Where it begins: all before it are entries.
    pub(super) at: u64,
}

/// What was announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// Reads the directory of a package of so many bytes.
///
/// # Errors
/// The first rule that is broken.
// SPEC §13.5
pub(super) fn read(file: &File, len: u64, announced: Announced) -> Result<Directory, PackageRefused> {
    let end = End::read(file, len)?;
    if end.entries != announced.entries {
        return Err(PackageRefused::Announced {
            what: "it has another number of entries",
            code: Code::ManifestMismatch,
        });
    }
    if end.entries > u64::from(MAX_ENTRIES) || end.size > MAX_MANIFEST_BYTES {
        return Err(PackageRefused::Announced { what: "it has too many entries", code: Code::ManifestLimit });
    }
    let mut raw = BufReader::with_capacity(256 << 10, Section { file, at: end.at, left: end.size });
    let (mut items, mut names, mut bytes) = (Vec::new(), Names::default(), 0_u64);
    for _ in 0..end.entries {
        let item = entry(&mut raw)?;
        names.add(&item.path).map_err(|why| PackageRefused::Name { name: escaped(&item.path).to_string(), why })?;
        bytes = bytes.saturating_add(item.size);
        if bytes > announced.bytes {
            return Err(item.refused("makes the tree larger than announced", Code::SizeMismatch));
        }
        items.push(item);
    }
    let mut rest = [0; 1];
    match raw.read(&mut rest) {
        Ok(0) => {}
        Ok(_) => return Err(PackageRefused::form("its directory holds more than its entries")),
        Err(err) => return Err(unread(err)),
    }
    if bytes != announced.bytes {
        return Err(PackageRefused::Announced { what: "its files have fewer bytes", code: Code::SizeMismatch });
    }
    Ok(Directory { items, at: end.at })
}

/// What the records at the very end say.
struct End {
    entries: u64,
    size: u64,
    at: u64,
}

impl End {
    fn read(file: &File, len: u64) -> Result<Self, PackageRefused> {
        let short = PackageRefused::form("it is too short");
        let end_at = len.checked_sub(END_LEN).ok_or(short)?;
        let mut end = Fields::at::<22>(file, end_at)?;
        if end.u32() != END {
            return Err(PackageRefused::form("it does not end with a directory: it is cut off, or something follows"));
        }
        let (disk, first, here, entries) = (end.u16(), end.u16(), end.u16(), end.u16());
        let (size, at, comment) = (end.u32(), end.u32(), end.u16());
        if comment != 0 {
            return Err(PackageRefused::form("it has a comment"));
        }
        let wide = end_at.checked_sub(LOCATOR_LEN).map(|at| wide_end(file, at)).transpose()?.flatten();
        let split = PackageRefused::form("it is one of several parts");
        let narrow = Self { entries: entries.into(), size: size.into(), at: at.into() };
        let Some((wide, wide_at)) = wide else {
            if (disk, first) != (0, 0) || here != entries {
                return Err(split);
            }
            if narrow.at.saturating_add(narrow.size) != end_at {
                return Err(PackageRefused::form("its directory is not where it says"));
            }
            return Ok(narrow);
        };
        // what the narrow record can say, it says; else it points to the wide one
        let agrees = |narrow: u64, most: u64, wide: u64| narrow == most || narrow == wide;
        let same = agrees(entries.into(), u16::MAX.into(), wide.entries)
            && agrees(here.into(), u16::MAX.into(), wide.entries)
            && agrees(size.into(), u32::MAX.into(), wide.size)
            && agrees(at.into(), u32::MAX.into(), wide.at);
        if !same {
            return Err(PackageRefused::form("its two end records say different things"));
        }
        if ![0, u16::MAX].contains(&disk) || ![0, u16::MAX].contains(&first) {
            return Err(split);
        }
        if wide.at.saturating_add(wide.size) != wide_at {
            return Err(PackageRefused::form("its directory is not where it says"));
        }
        Ok(wide)
    }
}

/// The 64-bit end record, if a locator says that there is one, and where.
fn wide_end(file: &File, locator_at: u64) -> Result<Option<(End, u64)>, PackageRefused> {
    let mut locator = Fields::at::<20>(file, locator_at)?;
    if locator.u32() != LOCATOR {
        return Ok(None);
    }
    let (disk, at, disks) = (locator.u32(), locator.u64(), locator.u32());
    if at.checked_add(END64_LEN) != Some(locator_at) {
        return Err(PackageRefused::form("its 64-bit end record is not where it says"));
    }
    let mut end = Fields::at::<56>(file, at)?;
    if end.u32() != END64 || end.u64() != END64_LEN - 12 {
        return Err(PackageRefused::form("its 64-bit end record is none"));
    }
    let (_made_by, needed, this, first) = (end.u16(), end.u16(), end.u32(), end.u32());
    let (here, entries, size, begins) = (end.u64(), end.u64(), end.u64(), end.u64());
    if (disk, this, first) != (0, 0, 0) || disks > 1 || here != entries {
        return Err(PackageRefused::form("it is one of several parts"));
    }
    if needed > NEWEST {
        return Err(PackageRefused::form("it needs a later version of ZIP"));
    }
    Ok(Some((End { entries, size, at: begins }, at)))
}

/// The next entry.
fn entry(raw: &mut impl Read) -> Result<Item, PackageRefused> {
    let mut fixed = Fields::of::<46>(raw)?;
    if fixed.u32() != ENTRY {
        return Err(PackageRefused::form("its directory has something else than entries"));
    }
    let (made_by, needed, flags, method) = (fixed.u16(), fixed.u16(), fixed.u16(), fixed.u16());
    let (_time, _date, crc) = (fixed.u16(), fixed.u16(), fixed.u32());
    let (packed, size) = (fixed.u32(), fixed.u32());
    let (name_len, extra_len, comment_len) = (fixed.u16(), fixed.u16(), fixed.u16());
    let (disk, _internal, external, at) = (fixed.u16(), fixed.u16(), fixed.u32(), fixed.u32());
    let name = bytes(raw, name_len)?;
    let extra = bytes(raw, extra_len)?;
    let lossy = String::from_utf8_lossy(&name).into_owned();
    let refuse = |why, code| refused(&lossy, why, code);
    if comment_len != 0 {
        return Err(refuse("has a comment", Code::ManifestInvalid));
    }
    if name.len() > MAX_PATH + 1 {
        return Err(refuse("has a path that is too long", Code::ManifestLimit));
    }
    let Ok(name) = String::from_utf8(name) else {
        return Err(refuse("has a name that is not UTF-8", Code::PathInvalid));
    };
    if flags & 1 != 0 {
        return Err(refuse("is encrypted", Code::KindUnsupported));
    }
    if flags & !(BEHIND | UTF8 | TUNED) != 0 || needed & 0xff > NEWEST {
        return Err(refuse("needs what this version does not have", Code::KindUnsupported));
    }
    if !name.is_ascii() && flags & UTF8 == 0 {
        return Err(refuse("has a name that is not declared as UTF-8", Code::PathInvalid));
    }
    if method != 0 && method != DEFLATED {
        return Err(refuse("is packed in another way than deflate", Code::KindUnsupported));
    }
    let extra = Extra::read(&extra).map_err(|why| refuse(why, Code::ManifestInvalid))?;
    let wide = Wide { size: size.into(), packed: packed.into(), at: Some(at.into()) };
    let wide = wide.with(extra.wide).map_err(|why| refuse(why, Code::ManifestInvalid))?;
    if disk != 0 {
        return Err(refuse("is in another part", Code::ManifestInvalid));
    }
    let (path, is_dir) = match name.strip_suffix('/') {
        Some(path) => (path.to_owned(), true),
        None => (name, false),
    };
    let mode = mode(made_by, external, is_dir).map_err(|why| refuse(why, Code::KindUnsupported))?;
    let (size, packed) = (wide.size, wide.packed);
    if size > MAX_SIZE || packed > MAX_SIZE {
        return Err(refuse("is too large", Code::ManifestLimit));
    }
    if is_dir && (size, packed, crc, method) != (0, 0, 0, 0) {
        return Err(refuse("is a directory with content", Code::ManifestInvalid));
    }
    if method == 0 && size != packed {
        return Err(refuse("is stored in another length than it has", Code::SizeMismatch));
    }
    let at = wide.at.unwrap_or_default();
    let (deflated, mtime) = (method == DEFLATED, extra.mtime.map(i64::from));
    Ok(Item { path, is_dir, flags, deflated, crc, packed, size, at, data: 0, mode, mtime })
}

/// The permission bits, where a Unix has set them. Links and what is neither file nor directory are refused, whoever made them.
fn mode(made_by: u16, external: u32, is_dir: bool) -> Result<Option<u32>, &'static str> {
    let unix = external >> 16;
    match unix & FORMAT_MASK {
        FORMAT_LINK => return Err("is a symbolic link"),
        0 => {}
        FORMAT_DIR if is_dir => {}
        FORMAT_FILE if !is_dir => {}
        FORMAT_DIR => return Err("is a directory without the sign of one"),
        FORMAT_FILE => return Err("is a file with the sign of a directory"),
        _ => return Err("is neither a file nor a directory"),
    }
    if external & DOS_DIR != 0 && !is_dir {
        return Err("is a directory without the sign of one");
    }
    let made_by_unix = made_by >> 8 == 3;
    Ok((made_by_unix && unix != 0).then_some(unix & 0o777))
}

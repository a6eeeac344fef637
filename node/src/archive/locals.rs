//! The headers before the contents (SPEC §13.5): each says what the directory says, and one entry begins where the one before
//! it ends. So no byte of a package belongs to two entries or to none.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use me_sync_protocol::reason::Code;

use super::directory::{Directory, Item};
use super::error::PackageRefused;
use super::fields::{Extra, Fields, Wide, unread};

const LOCAL: u32 = 0x0403_4b50;
const LOCAL_LEN: u64 = 30;
/// What stands behind the content of an entry that was written without knowing its length.
const DESCRIPTOR: u32 = 0x0807_4b50;

/// Looks at every local header, and notes where the contents are.
///
/// # Errors
/// The first that disagrees with the directory, or overlaps, or leaves a gap.
// SPEC §13.5
pub(super) fn check(file: &File, directory: &mut Directory) -> Result<(), PackageRefused> {
    let mut order: Vec<usize> = (0..directory.items.len()).collect();
    order.sort_unstable_by_key(|n| directory.items.get(*n).map_or(0, |item| item.at));
    let mut expected = 0;
    for (n, next) in order.iter().zip(order.iter().skip(1).map(Some).chain([None])) {
        let next_at = next.and_then(|n| directory.items.get(*n)).map_or(directory.at, |item| item.at);
        let Some(item) = directory.items.get_mut(*n) else { continue };
        if item.at != expected {
            let why =
                if item.at < expected { "overlaps another one" } else { "has bytes before it that belong to nothing" };
            return Err(item.refused(why, Code::ManifestInvalid));
        }
        let data = local(file, item)?;
        let end = data.checked_add(item.packed).filter(|end| *end <= next_at);
        let end = end.ok_or_else(|| item.refused("reaches into what follows it", Code::ManifestInvalid))?;
        match (item.has_sizes_behind(), next_at - end) {
            (false, 0) => {}
            (true, behind @ (12 | 16 | 20 | 24)) => descriptor(file, end, behind, item)?,
            (false | true, _) => {
                return Err(item.refused("has bytes behind it that belong to nothing", Code::ManifestInvalid));
            }
        }
        item.data = data;
        expected = next_at;
    }
    if expected != directory.at {
        return Err(PackageRefused::form("it has bytes that belong to no entry"));
    }
    Ok(())
}

/// Where the content begins.
fn local(file: &File, item: &Item) -> Result<u64, PackageRefused> {
    let differs = || item.refused("says one thing in its header and another in the directory", Code::ManifestInvalid);
    let mut fixed = Fields::at::<30>(file, item.at)?;
    if fixed.u32() != LOCAL {
        return Err(item.refused("is not where the directory says", Code::ManifestInvalid));
    }
    let (_needed, flags, method, _time, _date) = (fixed.u16(), fixed.u16(), fixed.u16(), fixed.u16(), fixed.u16());
    let (crc, packed, size) = (fixed.u32(), fixed.u32(), fixed.u32());
    let (name_len, extra_len) = (fixed.u16(), fixed.u16());
    if flags != item.flags || (method == 0) == item.deflated {
        return Err(differs());
    }
    let name = item.raw_name();
    if usize::from(name_len) != name.len() {
        return Err(differs());
    }
    let mut raw = vec![0; name.len() + usize::from(extra_len)];
    file.read_exact_at(&mut raw, item.at + LOCAL_LEN).map_err(unread)?;
    let (found, extra) = raw.split_at(name.len());
    if found != name {
        return Err(item.refused("has another name in its header than in the directory", Code::ManifestInvalid));
    }
    let extra = Extra::read(extra).map_err(|why| item.refused(why, Code::ManifestInvalid))?;
    let wide = Wide { size: size.into(), packed: packed.into(), at: None }.with(extra.wide);
    let wide = wide.map_err(|why| item.refused(why, Code::ManifestInvalid))?;
    let says = |header: u64, directory: u64| header == directory || (item.has_sizes_behind() && header == 0);
    if !says(wide.size, item.size) || !says(wide.packed, item.packed) || !says(crc.into(), item.crc.into()) {
        return Err(differs());
    }
    Ok(item.at + LOCAL_LEN + raw.len() as u64)
}

/// The sizes behind the content: with or without a mark, in 32 or 64 bits.
fn descriptor(file: &File, at: u64, len: u64, item: &Item) -> Result<(), PackageRefused> {
    let differs = || item.refused("has other sizes behind its content than in the directory", Code::ManifestInvalid);
    let mut fields = match len {
        12 => Fields::at::<12>(file, at),
        16 => Fields::at::<16>(file, at),
        20 => Fields::at::<20>(file, at),
        _ => Fields::at::<24>(file, at),
    }?;
    if matches!(len, 16 | 24) && fields.u32() != DESCRIPTOR {
        return Err(differs());
    }
    let crc = fields.u32();
    let (packed, size) = match len {
        12 | 16 => (fields.u32().into(), fields.u32().into()),
        _ => (fields.u64(), fields.u64()),
    };
    if (crc, packed, size) != (item.crc, item.packed, item.size) {
        return Err(differs());
    }
    Ok(())
}

//! From a package that was checked into a staging tree, by the same writer as files of lanes.

use std::collections::BTreeSet;

use me_sync_protocol::file::{LocalFile, VerifiedFile};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::reason::Code;

use super::Watch;
use super::error::PackageRefused;
use super::measure::{Package, inflate};
use crate::staging::Staging;

/// Writes every file that was not found on this device already; afterwards all files are proven. Blocking.
///
/// # Errors
/// The disk refuses, somebody wants it to stop, or a content is not what it was a moment ago.
// SPEC §13.6
pub(crate) fn unpack(
    package: &Package,
    staging: &Staging,
    found: Vec<VerifiedFile>,
    watch: &Watch,
) -> Result<Vec<VerifiedFile>, PackageRefused> {
    let here: BTreeSet<EntryIndex> = found.iter().map(VerifiedFile::index).collect();
    let mut files = found;
    let mut writer = staging.writer();
    for (index, item) in (0..).map(EntryIndex).zip(&package.items) {
        if item.is_dir || here.contains(&index) {
            continue;
        }
        let changed = |why| item.refused(why, Code::HashMismatch);
        let mut proof = LocalFile::begin(&package.manifest, index).ok_or_else(|| changed("is no file"))?;
        let mut file = writer.create(index)?;
        inflate(&package.spool.file, item, watch, |block| {
            proof.update(block);
            Ok(file.write(block)?)
        })?;
        files.push(proof.finish().map_err(|_| changed("is not what it was a moment ago"))?);
        file.finish()?;
    }
    Ok(files)
}

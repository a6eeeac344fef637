//! What only one target cannot hold (SPEC §3.5): names of devices, twins that differ in case or form, lengths.
//!
//! A manifest that passed is contained everywhere (see [`crate::path`]). Whether *this* file system can hold it is
//! asked here, before any data: the node probes the staging file system, fills in [`TargetRules`], and
//! refuses the manifest by name. Nothing is renamed to make it fit.

mod windows;

use unicode_normalization::UnicodeNormalization;

use crate::hash::Hasher;
use crate::ids::EntryIndex;
use crate::manifest::{Entry, Manifest};
use crate::path::RelPath;
use crate::reason::Code;

/// What a file system cannot tell apart or cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRules {
    /// `README` and `readme` are one name.
    pub case_insensitive: bool,
    /// Composed and decomposed forms of a character are one name.
    pub normalizing: bool,
    /// Names that mean something else to Windows are refused.
    pub windows_names: bool,
    /// Longest name of one file, in bytes; with `windows_names` or `normalizing` in UTF-16 units as well.
    pub name_max: usize,
    /// Length of the path that every entry is joined to, without a slash at the end; in the units of `path_max`.
    pub path_prefix_len: usize,
    /// A joined path must be shorter than this, in bytes; with `windows_names` in UTF-16 units.
    pub path_max: usize,
}

impl TargetRules {
    /// ext4, XFS, btrfs, tmpfs without case folding.
    pub const fn linux(path_prefix_len: usize) -> Self {
        Self {
            case_insensitive: false,
            normalizing: false,
            windows_names: false,
            name_max: 255,
            path_prefix_len,
            path_max: 4096,
        }
    }

    /// APFS and HFS+ as macOS ships them.
    pub const fn macos(path_prefix_len: usize) -> Self {
        Self { case_insensitive: true, normalizing: true, path_max: 1024, ..Self::linux(path_prefix_len) }
    }

    /// NTFS, with paths in the long form.
    pub const fn windows(path_prefix_len: usize) -> Self {
        Self { case_insensitive: true, windows_names: true, path_max: 32_767, ..Self::linux(path_prefix_len) }
    }

    fn folds(&self) -> bool {
        self.case_insensitive || self.normalizing
    }
}

/// Why a valid manifest does not fit this target. Nothing was created for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetRefused {
    /// A name that this platform reads as something else.
    #[error("{path}: {why}")]
    Name {
        /// Which entry.
        path: RelPath<'static>,
        /// What the platform sees in it.
        why: &'static str,
    },
    /// Two entries that would be one here.
    #[error("{first} and {second} are the same name here: {why}")]
    Collision {
        /// The one that comes first in the manifest.
        first: RelPath<'static>,
        /// The other.
        second: RelPath<'static>,
        /// What makes them one.
        why: &'static str,
    },
    /// A name or a joined path that is too long here.
    #[error("{path}: the {what} is too long for this target: {length}, at most {max}")]
    TooLong {
        /// Which entry.
        path: RelPath<'static>,
        /// Name or whole path.
        what: &'static str,
        /// Its length here.
        length: usize,
        /// The longest that fits.
        max: usize,
    },
}

impl TargetRefused {
    /// The stable code (SPEC §7.2).
    pub fn code(&self) -> Code {
        match self {
            Self::Name { .. } => Code::PathUnsupportedHere,
            Self::Collision { .. } => Code::PathCollision,
            Self::TooLong { .. } => Code::ManifestLimit,
        }
    }

    /// What people can do about it.
    pub fn hint(&self) -> Option<String> {
        let what = match self {
            Self::Name { .. } => "rename it on the exporting device, or choose a target on another file system",
            Self::Collision { .. } => {
                "rename one of them on the exporting device, or choose a target that tells them apart"
            }
            Self::TooLong { .. } => "choose a target with a shorter path, or shorten it on the exporting device",
        };
        Some(what.to_owned())
    }
}

/// Can a target with these rules hold every entry, each under its own name? O(n log n); memory does not
/// grow with the length of the paths.
///
/// # Errors
/// The first entry that does not fit, then the first two that would be one.
pub fn check(manifest: &Manifest, rules: &TargetRules) -> Result<(), TargetRefused> {
    for (_, entry) in manifest.entries() {
        check_entry(&entry, rules)?;
    }
    if rules.folds() {
        check_twins(manifest, rules)?;
    }
    if rules.windows_names {
        windows::check_aliases(manifest)?;
    }
    Ok(())
}

fn check_entry(entry: &Entry<'_>, rules: &TargetRules) -> Result<(), TargetRefused> {
    let owned = || entry.path.clone().into_owned();
    let path = entry.path.as_str();
    // every parent is an entry of its own, so its name is checked there
    let name = entry.path.name();
    if rules.windows_names
        && let Some(why) = windows::refused(name)
    {
        return Err(TargetRefused::Name { path: owned(), why });
    }
    let length = name_len(name, rules);
    if length > rules.name_max {
        return Err(TargetRefused::TooLong { path: owned(), what: "name", length, max: rules.name_max });
    }
    let own = if rules.windows_names { path.encode_utf16().count() } else { path.len() };
    let length = rules.path_prefix_len.saturating_add(1).saturating_add(own);
    if length >= rules.path_max {
        let max = rules.path_max.saturating_sub(1);
        return Err(TargetRefused::TooLong { path: owned(), what: "path", length, max });
    }
    Ok(())
}

/// The longest of the forms in which the target may count a name.
fn name_len(name: &str, rules: &TargetRules) -> usize {
    let stored = if rules.normalizing { name.nfd().map(char::len_utf16).sum() } else { 0 };
    name.len().max(stored)
}

/// Parents are declared, so two paths that fold to one do so at a pair of entries: neighbours once sorted.
fn check_twins(manifest: &Manifest, rules: &TargetRules) -> Result<(), TargetRefused> {
    let mut keys: Vec<_> = manifest.entries().map(|(index, e)| (key(e.path.as_str(), rules), index)).collect();
    keys.sort_unstable();
    let twins = keys.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| (pair[0].1, pair[1].1));
    match twins.min() {
        Some((first, second)) => Err(collision(manifest, first, second, "they differ in case or Unicode form only")),
        None => Ok(()),
    }
}

fn collision(manifest: &Manifest, first: EntryIndex, second: EntryIndex, why: &'static str) -> TargetRefused {
    let path = |index| manifest.entry(index).map(|e| e.path.into_owned());
    match (path(first.min(second)), path(first.max(second))) {
        (Some(first), Some(second)) => TargetRefused::Collision { first, second, why },
        _ => unreachable!("both indices come from this manifest"),
    }
}

/// What a folding file system compares, as 128 bits of its SHA-256: a million long paths stay small.
pub(crate) type Key = [u8; 16];

pub(crate) fn key(path: &str, rules: &TargetRules) -> Key {
    let mut hash = Hasher::new();
    let mut utf8 = [0; 4];
    each_folded(path, rules, |c| hash.update(c.encode_utf8(&mut utf8).as_bytes()));
    let mut key = Key::default();
    key.copy_from_slice(&hash.finish().as_bytes()[..16]);
    key
}

/// Canonical caseless matching (Unicode D145), or the half of it that the target does.
fn each_folded(text: &str, rules: &TargetRules, out: impl FnMut(char)) {
    use caseless::Caseless as _;
    match (rules.case_insensitive, rules.normalizing) {
        (true, true) => text.nfd().filter(|c| !is_ignored(*c)).default_case_fold().nfd().for_each(out),
        (true, false) => text.chars().default_case_fold().for_each(out),
        (false, true) => text.nfd().filter(|c| !is_ignored(*c)).for_each(out),
        (false, false) => text.chars().for_each(out),
    }
}

/// Characters that HFS+ and folding ext4 pass over when they compare names.
fn is_ignored(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;

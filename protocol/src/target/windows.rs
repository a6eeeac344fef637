//! Names that Windows reads as something else (SPEC §3.5): devices, drives, streams, short aliases.

use std::collections::BTreeMap;

use super::{TargetRefused, TargetRules, collision, each_folded};
use crate::manifest::Manifest;

/// What Windows would see in this name instead of a plain file; none when it is one.
pub(super) fn refused(name: &str) -> Option<&'static str> {
    if name.contains('\\') {
        return Some("Windows takes the backslash for a directory separator");
    }
    if let Some((before, _)) = name.split_once(':') {
        return Some(match before.as_bytes() {
            [letter] if letter.is_ascii_alphabetic() => "Windows takes it for a drive",
            _ => "Windows takes the colon for a data stream of a file",
        });
    }
    if name.contains(['<', '>', '"', '|', '?', '*']) {
        return Some("Windows allows none of <>\"|?* in a name");
    }
    if name.ends_with(['.', ' ']) {
        return Some("Windows drops a dot or space at the end of a name");
    }
    is_device(name).then_some("Windows takes it for a device")
}

/// The device is named by what stands before the first dot, without spaces at its end, in any case.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ').to_ascii_uppercase();
    if matches!(&*stem, "CON" | "PRN" | "AUX" | "NUL" | "CLOCK$" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let Some(port) = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) else { return false };
    let mut digits = port.chars();
    matches!((digits.next(), digits.next()), (Some('1'..='9' | '¹' | '²' | '³'), None))
}

/// A name like `PROGRA~1` may be taken already: by the short alias that Windows makes for a long neighbour.
pub(super) fn check_aliases(manifest: &Manifest) -> Result<(), TargetRefused> {
    let aliases: Vec<_> = manifest
        .entries()
        .filter_map(|(index, e)| {
            let alias = Alias::parse(e.path.name())?;
            Some((index, folded(e.path.parent().unwrap_or_default()), alias))
        })
        .collect();
    if aliases.is_empty() {
        return Ok(());
    }
    // only the neighbours of such names matter; mostly there are none
    let mut long: BTreeMap<(String, String, String), _> = BTreeMap::new();
    let mut parents: Vec<&str> = aliases.iter().map(|(_, parent, _)| &**parent).collect();
    parents.sort_unstable();
    for (index, entry) in manifest.entries() {
        let Some(short) = Short::of(entry.path.name()) else { continue };
        let parent = folded(entry.path.parent().unwrap_or_default());
        if parents.binary_search(&&*parent).is_ok() {
            long.entry((parent, short.extension, short.stem)).or_insert(index);
        }
    }
    for (index, parent, alias) in aliases {
        let from = (parent, alias.extension, alias.stem);
        let next = long.range(from.clone()..).next();
        let hit = next.filter(|((parent, extension, stem), _)| {
            let cut = alias.fills_room && stem.starts_with(&from.2);
            (parent, extension) == (&from.0, &from.1) && (cut || *stem == from.2)
        });
        if let Some((_, other)) = hit {
            return Err(collision(manifest, *other, index, "one is the short alias that Windows makes for the other"));
        }
    }
    Ok(())
}

fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    each_folded(text, &TargetRules::windows(0), |c| out.push(c));
    out
}

/// A name of the form `STEM~N.EXT`.
struct Alias {
    stem: String,
    extension: String,
    /// The stem is as long as fits before the tilde: the long name's may go on.
    fills_room: bool,
}

impl Alias {
    fn parse(name: &str) -> Option<Self> {
        let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let (stem, number) = base.rsplit_once('~')?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        if !is_number || base.chars().count() > 8 || extension.chars().count() > 3 {
            return None;
        }
        let room = 7_usize.checked_sub(number.len())?;
        let fills_room = stem.chars().count() == room;
        Some(Self { stem: folded(stem), extension: folded(extension), fills_room })
    }
}

/// What the alias of a long name is made of.
struct Short {
    stem: String,
    extension: String,
}

impl Short {
    /// None for a name that is short enough to have no alias.
    fn of(name: &str) -> Option<Self> {
        let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let is_short = base.chars().count() <= 8
            && extension.chars().count() <= 3
            && !base.is_empty()
            && !name.contains(is_replaced)
            && !base.contains(is_dropped);
        if is_short {
            return None;
        }
        let made = |text: &str, most| -> String {
            let kept = text.chars().filter(|c| !is_dropped(*c)).map(|c| if is_replaced(c) { '_' } else { c });
            folded(&kept.take(most).collect::<String>())
        };
        Some(Self { stem: made(base, 6), extension: made(extension, 3) })
    }
}

fn is_dropped(c: char) -> bool {
    matches!(c, ' ' | '.')
}

fn is_replaced(c: char) -> bool {
    matches!(c, '+' | ',' | ';' | '=' | '[' | ']')
}

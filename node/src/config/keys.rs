//! The keys by name, and how their values are read.

use std::path::{Component, Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::parse_listen;
use crate::limit::Rate;
use crate::net::ListenAddr;
use crate::transfer::Compression;

/// Every key, by its whole name.
pub(super) const ALL: [&str; 11] = [
    "name",
    "listen",
    "mdns",
    "probe",
    "limit",
    "compress",
    "post_apply",
    "post_apply_timeout",
    "api.port",
    "api.export_roots",
    "api.import_roots",
];
const TABLE: &str = "api";
/// Swaps, slips and losses up to which one key is taken for another.
const SLIPS: usize = 3;

/// A key that there is none of.
#[derive(Debug)]
pub(super) struct Unknown {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) nearest: Option<&'static str>,
}

/// The first unknown key of a text. Serde would name all that it expected, not the one that was meant.
pub(super) fn check(text: &str) -> Result<Option<Unknown>, toml::de::Error> {
    let table = DeTable::parse(text)?;
    let mut unknown = Vec::new();
    for (key, value) in table.get_ref().iter() {
        let name: &str = key.get_ref();
        match (name == TABLE, value.get_ref()) {
            (true, DeValue::Table(inner)) => unknown.extend(inner.keys().filter_map(|key| {
                let whole = format!("{TABLE}.{}", key.get_ref());
                (!ALL.contains(&whole.as_str())).then(|| (key.span().start, whole))
            })),
            // its type is wrong, which serde says
            (true, _) => {}
            (false, _) if ALL.contains(&name) && !name.contains('.') => {}
            (false, _) => unknown.push((key.span().start, name.to_owned())),
        }
    }
    let first = unknown.into_iter().min_by_key(|(at, _)| *at);
    Ok(first.map(|(at, key)| Unknown { line: line(text, at), nearest: nearest(&key), key }))
}

/// The known key whose value holds that byte.
pub(super) fn at(text: &str, byte: usize) -> Option<&'static str> {
    let table = DeTable::parse(text).ok()?;
    let holds = |value: &Spanned<DeValue<'_>>| value.span().contains(&byte);
    let known = |whole: &str| ALL.into_iter().find(|known| *known == whole);
    for (key, value) in table.get_ref().iter() {
        match value.get_ref() {
            DeValue::Table(inner) if key.get_ref() == TABLE => {
                if let Some((key, _)) = inner.iter().find(|(_, value)| holds(value)) {
                    return known(&format!("{TABLE}.{}", key.get_ref()));
                }
            }
            _ if holds(value) => return known(key.get_ref()),
            _ => {}
        }
    }
    None
}

/// How the value of a key is written.
pub(super) fn example(key: &str) -> &'static str {
    match key {
        "name" => "name = \"attic\"",
        "listen" => "listen = [\"192.168.1.5:4001\"]",
        "mdns" => "mdns = true",
        "probe" => "probe = true",
        "limit" => "limit = \"20M\", bytes a second (also K and G), or \"100Mbit\"",
        "compress" => "compress = \"auto\", or \"never\" or \"always\"",
        "post_apply" => "post_apply = [\"systemctl\", \"--user\", \"restart\", \"photos\"]",
        "post_apply_timeout" => "post_apply_timeout = 60, in seconds, 1 to 3600",
        "api.port" => "port = 7711, below [api], 0 to 65535",
        "api.export_roots" => "export_roots = [\"/srv/photos\"], below [api]",
        "api.import_roots" => "import_roots = [\"/srv/copies\"], below [api]",
        _ => "see `me-sync config --help`",
    }
}

/// The line of a byte.
pub(super) fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// The line of a key that is there, outside of tables.
pub(super) fn line_of(text: &str, key: &str) -> usize {
    let begins =
        |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    1 + text.lines().position(begins).unwrap_or(0)
}

fn nearest(key: &str) -> Option<&'static str> {
    let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    // one that stands in the wrong table
    if let Some(moved) = ALL.into_iter().find(|name| last(name) == key.rsplit('.').next().unwrap_or(key)) {
        return Some(moved);
    }
    let near = ALL.into_iter().chain([TABLE]).map(|name| (strsim::damerau_levenshtein(name, key), name));
    let (slips, name) = near.min_by_key(|(slips, _)| *slips)?;
    (slips <= SLIPS && slips < name.len()).then_some(name)
}

pub(super) fn name<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(d)?;
    if name.trim().is_empty() { Err(D::Error::custom("a name has letters")) } else { Ok(Some(name)) }
}

pub(super) fn listen<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<ListenAddr>>, D::Error> {
    let all = Vec::<String>::deserialize(d)?;
    all.iter().map(|text| parse_listen(text)).collect::<Result<_, _>>().map(Some).map_err(D::Error::custom)
}

pub(super) fn limit<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Rate>, D::Error> {
    String::deserialize(d)?.parse().map(Some).map_err(D::Error::custom)
}

pub(super) fn compress<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Compression>, D::Error> {
    Ok(Some(match String::deserialize(d)?.as_str() {
        "auto" => Compression::Auto,
        "never" => Compression::Never,
        "always" => Compression::Always,
        _ => return Err(D::Error::custom("it is auto, never or always")),
    }))
}

pub(super) fn words<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    Vec::<String>::deserialize(d).map(Some)
}

pub(super) fn roots<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
    let all = Vec::<PathBuf>::deserialize(d)?;
    match all.iter().find(|path| !is_root(path)) {
        Some(path) => Err(D::Error::custom(format!("{} is no absolute path without `..`", path.display()))),
        None => Ok(Some(all)),
    }
}

fn is_root(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

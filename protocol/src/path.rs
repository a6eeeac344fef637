//! Relative paths that are either valid or do not exist (SPEC §3.3).
//!
//! Containment is decided here once, for every platform. What only one target cannot hold (Windows
//! names, case twins: SPEC §3.5) is a separate question: see [`crate::target`].

use std::borrow::Cow;
use std::fmt;

use crate::limits::{MAX_COMPONENT, MAX_DEPTH, MAX_PATH};

/// Why a string is not a path of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathRefused {
    /// No bytes at all.
    #[error("the path is empty")]
    Empty,
    /// Starts at the root of the file system.
    #[error("the path is absolute")]
    Absolute,
    /// `..` as a component.
    #[error("the path leaves its tree with '..'")]
    ParentDir,
    /// `.` or nothing between two slashes, or a slash at the end.
    #[error("the path is not in its shortest form")]
    NotNormal,
    /// A control character, line or paragraph separator, or a byte order mark at the start.
    #[error("the path has a control character")]
    Control,
    /// Not UTF-8.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// Longer than [`MAX_PATH`] bytes.
    #[error("the path is longer than {MAX_PATH} bytes")]
    TooLong,
    /// A component longer than [`MAX_COMPONENT`] bytes.
    #[error("a part of the path is longer than {MAX_COMPONENT} bytes")]
    ComponentTooLong,
    /// More than [`MAX_DEPTH`] components.
    #[error("the path is deeper than {MAX_DEPTH} directories")]
    TooDeep,
}

impl PathRefused {
    /// The path is well-formed but passes a size limit.
    pub fn is_limit(self) -> bool {
        matches!(self, Self::TooLong | Self::ComponentTooLong | Self::TooDeep)
    }
}

/// A relative, normalised, contained path: `/` between components, no `.`, `..`, control
/// characters or NUL. Borrowed from a manifest or owned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath<'a>(Cow<'a, str>);

impl<'a> RelPath<'a> {
    /// Checks every rule of SPEC §3.3. Nothing is cleaned up silently.
    ///
    /// # Errors
    /// The first rule that the path breaks.
    pub fn parse(raw: impl Into<Cow<'a, str>>) -> Result<Self, PathRefused> {
        let raw = raw.into();
        check(&raw)?;
        Ok(Self(raw))
    }

    /// A path that [`Self::parse`] accepted when its manifest was made or received. Entries are looked at many times
    /// for each file that moves; checking their paths again was a twelfth of the work of a tree of small files.
    pub(crate) fn checked_before(raw: &'a str) -> Self {
        debug_assert_eq!(check(raw), Ok(()));
        Self(Cow::Borrowed(raw))
    }

    /// The text, for opening and printing; printing needs [`crate::escape::escaped`].
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components from the top.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The path of the directory this entry lies in; none at the top.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// An owned copy.
    pub fn into_owned(self) -> RelPath<'static> {
        RelPath(Cow::Owned(self.0.into_owned()))
    }
}

impl fmt::Display for RelPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::escape::escaped(&self.0).fmt(f)
    }
}

fn check(raw: &str) -> Result<(), PathRefused> {
    if raw.is_empty() {
        return Err(PathRefused::Empty);
    }
    if raw.starts_with('/') {
        return Err(PathRefused::Absolute);
    }
    // most paths are plain ASCII, and one look at the bytes tells
    let is_plain = raw.bytes().all(|b| (b' '..0x7f).contains(&b));
    if !is_plain && (raw.starts_with('\u{feff}') || raw.chars().any(is_control)) {
        return Err(PathRefused::Control);
    }
    let mut depth = 0;
    let mut longest = 0;
    for part in raw.as_bytes().split(|b| *b == b'/') {
        match part {
            b"" | b"." => return Err(PathRefused::NotNormal),
            b".." => return Err(PathRefused::ParentDir),
            _ => {}
        }
        longest = longest.max(part.len());
        depth += 1;
    }
    if longest > MAX_COMPONENT {
        return Err(PathRefused::ComponentTooLong);
    }
    if depth > MAX_DEPTH {
        return Err(PathRefused::TooDeep);
    }
    if raw.len() > MAX_PATH {
        return Err(PathRefused::TooLong);
    }
    Ok(())
}

fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(raw: &str) -> Option<PathRefused> {
        RelPath::parse(raw.to_owned()).err()
    }

    // SPEC §3.3 (RELIABILITY A01)
    #[test]
    fn parent_components_are_refused_wherever_they_stand() {
        let deep = format!("{}..{}", "d/".repeat(30), "/x");
        for raw in ["..", "../x", "a/../x", "a/../../x", "a/..", &deep] {
            assert_eq!(refused(raw), Some(PathRefused::ParentDir), "{raw}");
        }
    }

    #[test]
    fn absolute_paths_are_refused() {
        for raw in ["/etc/x", "//x", "///x", "/"] {
            assert_eq!(refused(raw), Some(PathRefused::Absolute), "{raw}");
        }
    }

    #[test]
    fn paths_that_are_not_in_shortest_form_are_refused_not_repaired() {
        for raw in [".", "./a", "a/./b", "a//b", "a/"] {
            assert_eq!(refused(raw), Some(PathRefused::NotNormal), "{raw}");
        }
        assert_eq!(refused(""), Some(PathRefused::Empty));
    }

    #[test]
    fn control_characters_are_refused_on_every_platform() {
        for raw in
            ["a\0", "\u{1b}[31m", "a\nb", "a\r", "\u{7f}", "\u{85}", "\u{9b}", "\u{2028}", "\u{2029}", "\u{feff}a"]
        {
            assert_eq!(refused(raw), Some(PathRefused::Control), "{raw:?}");
        }
    }

    // SPEC §3.5: what only one target cannot hold is not refused here
    #[test]
    fn names_that_only_look_dangerous_are_legal() {
        for raw in ["-rf", "~", "$(x)", "`x`", "%s", "*", "a\\..\\b", "C:x", "...", "a.", " ", "\u{202e}x", "CON"] {
            assert_eq!(refused(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn sizes_stop_at_their_limits() {
        assert_eq!(refused(&"x".repeat(255)), None);
        assert_eq!(refused(&"x".repeat(256)), Some(PathRefused::ComponentTooLong));
        assert_eq!(refused(&vec!["d"; 64].join("/")), None);
        assert_eq!(refused(&vec!["d"; 65].join("/")), Some(PathRefused::TooDeep));
        let long = vec!["y".repeat(204); 5].join("/");
        assert_eq!(long.len(), 1024);
        assert_eq!(refused(&long), None);
        assert_eq!(refused(&format!("{long}z")), Some(PathRefused::TooLong));
    }

    #[test]
    fn parent_and_name_split_at_the_last_slash() {
        let path = RelPath::parse("a/b/c").expect("valid");
        assert_eq!((path.parent(), path.name()), (Some("a/b"), "c"));
        let top = RelPath::parse("a").expect("valid");
        assert_eq!((top.parent(), top.name()), (None, "a"));
    }
}

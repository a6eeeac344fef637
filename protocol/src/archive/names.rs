//! The names that an archive may hold (SPEC §13.5): those of a manifest, less what other readers of ZIP files take for
//! something else. Exporter and importer ask the same questions.

use std::collections::BTreeSet;

use crate::path::{PathRefused, RelPath};
use crate::reason::Code;
use crate::target::{self, TargetRules};

/// Why a name is not one of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameRefused {
    /// No manifest may hold it either.
    #[error(transparent)]
    Path(#[from] PathRefused),
    /// `\`, which is a separator to many.
    #[error("the path has a backslash")]
    Backslash,
    /// `C:`, which names a drive to many.
    #[error("the path begins with a drive letter")]
    Drive,
    /// It is there already.
    #[error("the path is there twice")]
    Twice,
    /// It is there already for whoever does not tell upper from lower case.
    #[error("the path differs from another one in case only")]
    Case,
}

impl NameRefused {
    /// The stable code (SPEC §7.2).
    pub fn code(self) -> Code {
        match self {
            Self::Path(why) if why.is_limit() => Code::ManifestLimit,
            Self::Path(_) | Self::Backslash | Self::Drive => Code::PathInvalid,
            Self::Twice | Self::Case => Code::PathCollision,
        }
    }
}

/// The names of one archive, so far. Memory does not grow with the length of the paths.
#[derive(Debug, Default)]
pub struct Names {
    exact: BTreeSet<target::Key>,
    folded: BTreeSet<target::Key>,
}

impl Names {
    /// Takes the next path, which has no `/` at its end.
    ///
    /// # Errors
    /// The first rule that it breaks. It is not among the names then.
    // SPEC §13.5
    pub fn add<'a>(&mut self, path: &'a str) -> Result<RelPath<'a>, NameRefused> {
        let parsed = RelPath::parse(path)?;
        if path.contains('\\') {
            return Err(NameRefused::Backslash);
        }
        if let [letter, b':', ..] = path.as_bytes()
            && letter.is_ascii_alphabetic()
        {
            return Err(NameRefused::Drive);
        }
        let exact = target::key(path, &TargetRules::linux(0));
        if self.exact.contains(&exact) {
            return Err(NameRefused::Twice);
        }
        let rules = TargetRules { case_insensitive: true, ..TargetRules::linux(0) };
        if !self.folded.insert(target::key(path, &rules)) {
            return Err(NameRefused::Case);
        }
        self.exact.insert(exact);
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §13.5
    #[test]
    fn what_others_read_as_something_else_is_refused_by_its_own_name() {
        let refused = |paths: &[&str]| {
            let mut names = Names::default();
            paths.iter().find_map(|path| names.add(path).err()).map(|why| (why, why.code()))
        };
        assert_eq!(refused(&["a", "a/b", "12:c", "ab:c", "caf\u{e9}"]), None);
        assert_eq!(refused(&["../a"]), Some((PathRefused::ParentDir.into(), Code::PathInvalid)));
        assert_eq!(refused(&["/a"]), Some((PathRefused::Absolute.into(), Code::PathInvalid)));
        assert_eq!(refused(&["a/"]), Some((PathRefused::NotNormal.into(), Code::PathInvalid)));
        assert_eq!(refused(&[&"a/".repeat(600)]).map(|(_, code)| code), Some(Code::PathInvalid));
        assert_eq!(refused(&[&"a".repeat(300)]).map(|(_, code)| code), Some(Code::ManifestLimit));
        assert_eq!(refused(&["a\\b"]), Some((NameRefused::Backslash, Code::PathInvalid)));
        assert_eq!(refused(&["C:\\b"]), Some((NameRefused::Backslash, Code::PathInvalid)));
        assert_eq!(refused(&["c:b"]), Some((NameRefused::Drive, Code::PathInvalid)));
        assert_eq!(refused(&["a", "b", "a"]), Some((NameRefused::Twice, Code::PathCollision)));
        assert_eq!(refused(&["a/B", "a/b"]), Some((NameRefused::Case, Code::PathCollision)));
        assert_eq!(refused(&["ärger", "Ärger"]), Some((NameRefused::Case, Code::PathCollision)));
    }
}

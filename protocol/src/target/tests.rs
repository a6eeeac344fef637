//! The rows of what one target cannot hold (RELIABILITY A04-A14, A20), one claim each.

use super::*;
use crate::EMPTY_SHA256;
use crate::manifest::{ManifestBuilder, Node};

/// A tree of empty files; parents are added, names ending in `/` are directories.
fn tree(paths: &[&str]) -> Manifest {
    let mut all = std::collections::BTreeMap::new();
    for path in paths {
        let (path, node) = match path.strip_suffix('/') {
            Some(dir) => (dir, Node::Dir),
            None => (*path, Node::File { size: 0, sha256: Some(EMPTY_SHA256) }),
        };
        path.match_indices('/').for_each(|(at, _)| {
            all.insert(path[..at].to_owned(), Node::Dir);
        });
        all.insert(path.to_owned(), node);
    }
    let mut builder = ManifestBuilder::new(None, None);
    for (path, node) in all {
        let path = RelPath::parse(path).expect("a valid path");
        builder.push(&Entry { path, node, mode: None, mtime: None }).expect("in order");
    }
    builder.finish().expect("small")
}

fn refused(paths: &[&str], rules: TargetRules) -> Option<Code> {
    check(&tree(paths), &rules).err().map(|e| e.code())
}

const LINUX: TargetRules = TargetRules::linux(10);
const MACOS: TargetRules = TargetRules::macos(10);
const WINDOWS: TargetRules = TargetRules::windows(10);

#[track_caller]
fn only_windows_refuses(names: &[&str]) {
    for name in names {
        assert_eq!(refused(&[name], WINDOWS), Some(Code::PathUnsupportedHere), "{name:?}");
        let below = format!("some dir/{name}");
        assert_eq!(refused(&[&below], WINDOWS), Some(Code::PathUnsupportedHere), "{below:?}");
        let above = format!("{name}/x");
        assert_eq!(refused(&[&above], WINDOWS), Some(Code::PathUnsupportedHere), "{above:?}");
        assert_eq!(refused(&[name], LINUX), None, "{name:?}");
        assert_eq!(refused(&[name], MACOS), None, "{name:?}");
    }
}

// A04
#[test]
fn a_drive_prefix_is_a_name_elsewhere_and_refused_on_windows() {
    only_windows_refuses(&["C:x", "Z:", "c:"]);
    assert_eq!(refused(&["C:/x"], WINDOWS), Some(Code::PathUnsupportedHere));
}

// A05, A06
#[test]
fn backslashes_are_literal_on_unix_and_refused_on_windows() {
    only_windows_refuses(&[
        "..\\x",
        "a\\..\\..\\x",
        "a\\b",
        "\\\\srv\\share\\x",
        "\\\\?\\C:\\x",
        "\\??\\C:\\x",
        "C:\\x",
    ]);
}

// A09
#[test]
fn device_names_are_refused_on_windows_in_any_case_and_with_any_extension() {
    only_windows_refuses(&[
        "CON",
        "con",
        "nul.txt",
        "AUX .c",
        "PRN.",
        "COM1",
        "com9.log",
        "LPT1",
        "COM¹",
        "LPT²",
        "com³.x",
        "CONIN$",
        "CONOUT$",
        "CLOCK$",
        "NUL.tar.gz",
    ]);
    for name in ["CONSOLE", "COM", "COM10", "COM0", "LPT", "nulx", "a.con", "COM¹²"] {
        assert_eq!(refused(&[name], WINDOWS), None, "{name}");
    }
}

// A10
#[test]
fn a_dot_or_space_at_the_end_is_refused_on_windows() {
    only_windows_refuses(&["a.", "a ", "a. .", "...", " "]);
    for name in [".a", " a", "a b", "a..b"] {
        assert_eq!(refused(&[name], WINDOWS), None, "{name}");
    }
}

// A11
#[test]
fn alternate_data_streams_are_refused_on_windows() {
    only_windows_refuses(&["f:stream", "f::$DATA", "d:$I30:$INDEX_ALLOCATION"]);
}

// A12
#[test]
fn wildcards_and_quotes_are_refused_on_windows() {
    only_windows_refuses(&["a<", "a>", "a\"", "a|b", "a?", "a*"]);
}

// A12
#[test]
fn a_short_alias_next_to_its_long_name_collides_on_windows_only() {
    for pair in [
        ["PROGRA~1", "Program Files"],
        ["progra~2", "Program Files"],
        ["LONGNA~1.TEX", "long name.text"],
        ["AB~1", "a b"],
        ["A_B~1", "a+b"],
        ["FIVEC~10", "fivecharacters"],
    ] {
        assert_eq!(refused(&pair, WINDOWS), Some(Code::PathCollision), "{pair:?}");
        assert_eq!(refused(&pair, LINUX), None, "{pair:?}");
    }
    for free in
        [["PROGRA~1", "Programs"], ["PROG~1", "Program Files"], ["a~1", "abcdefghijk"], ["PROGRA~1.X", "Program Files"]]
    {
        assert_eq!(refused(&free, WINDOWS), None, "{free:?}");
    }
    assert_eq!(refused(&["a/PROGRA~1", "b/Program Files"], WINDOWS), None);
}

// A13
#[test]
fn names_that_differ_in_case_collide_where_case_does_not_count() {
    for pair in
        [["README", "readme"], ["dir/a", "DIR/b"], ["ß", "SS"], ["İ", "i\u{307}"], ["\u{212a}", "k"], ["É", "é"]]
    {
        assert_eq!(refused(&pair, WINDOWS), Some(Code::PathCollision), "{pair:?}");
        assert_eq!(refused(&pair, MACOS), Some(Code::PathCollision), "{pair:?}");
        assert_eq!(refused(&pair, LINUX), None, "{pair:?}");
    }
    assert_eq!(refused(&["a", "b", "dir/a", "dir/b", "dir2/a"], MACOS), None);
}

// A13
#[test]
fn a_collision_names_both_paths_and_prints_them_escaped() {
    let e = check(&tree(&["x/Read\u{202e}me", "x/rEad\u{202e}me"]), &WINDOWS).expect_err("twins");
    assert_eq!(e.to_string().matches("\\u{202e}").count(), 2, "{e}");
    assert!(e.to_string().starts_with("x/Read"), "{e}");
}

// A14
#[test]
fn composed_and_decomposed_names_collide_where_forms_do_not_count() {
    for pair in [["\u{e9}", "e\u{301}"], ["a\u{200c}b", "ab"], ["a\u{200d}b", "ab"], ["\u{e9}/x", "e\u{301}/y"]] {
        assert_eq!(refused(&pair, MACOS), Some(Code::PathCollision), "{pair:?}");
        assert_eq!(refused(&pair, TargetRules { case_insensitive: false, ..MACOS }), Some(Code::PathCollision));
        assert_eq!(refused(&pair, LINUX), None, "{pair:?}");
        assert_eq!(refused(&pair, WINDOWS), None, "{pair:?}");
    }
}

// A20
#[test]
fn names_are_measured_in_the_form_the_target_stores() {
    let name = "\u{1f82}".repeat(85);
    assert_eq!(name.len(), 255);
    assert_eq!(refused(&[&name], LINUX), None);
    // three bytes that decompose into four UTF-16 units
    assert_eq!(refused(&[&name], MACOS), Some(Code::ManifestLimit));
    assert_eq!(refused(&[&"x".repeat(144)], TargetRules { name_max: 143, ..LINUX }), Some(Code::ManifestLimit));
    assert_eq!(refused(&[&"x".repeat(143)], TargetRules { name_max: 143, ..LINUX }), None);
}

// A20
#[test]
fn a_path_that_would_be_too_long_under_its_target_is_refused_before_any_data() {
    let path = vec!["y".repeat(204); 5].join("/");
    assert_eq!(path.len(), 1024);
    assert_eq!(refused(&[&path], TargetRules::linux(4095 - 1025)), None);
    let e = check(&tree(&[&path]), &TargetRules::linux(4096 - 1025)).expect_err("too long");
    assert_eq!(
        e,
        TargetRefused::TooLong {
            path: RelPath::parse(path.clone()).expect("valid"),
            what: "path",
            length: 4096,
            max: 4095
        }
    );
    assert_eq!((e.code(), refused(&[&path], MACOS)), (Code::ManifestLimit, Some(Code::ManifestLimit)));
    assert_eq!(refused(&["a"], TargetRules::linux(usize::MAX)), Some(Code::ManifestLimit));
}

// A23
#[test]
fn a_million_entries_are_checked_and_the_one_twin_is_found() {
    let mut builder = ManifestBuilder::new(None, None);
    let mut push = |path: String| {
        let node = Node::File { size: 0, sha256: Some(EMPTY_SHA256) };
        builder
            .push(&Entry { path: RelPath::parse(path).expect("valid"), node, mode: None, mtime: None })
            .expect("in order");
    };
    push("A common beginning 0500000".to_owned());
    (0..999_999).for_each(|i| push(format!("a common beginning {i:07}")));
    let manifest = builder.finish().expect("within the limits");
    assert_eq!(check(&manifest, &LINUX), Ok(()));
    let e = check(&manifest, &MACOS).expect_err("twins");
    assert_eq!(e.to_string().matches("0500000").count(), 2, "{e}");
}

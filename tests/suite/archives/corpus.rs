//! Archives that no importer may take, each with the code and the words by which it is refused.

use me_sync_protocol::reason::Code;

use super::zip::{
    End, Entry, Wide, deflated, dir, file, package, package_with, stored_blocks, wide_field, with_mode, zeros,
};

/// What a hostile exporter announces and sends.
pub(crate) struct Case {
    /// A sentence.
    pub(crate) what: &'static str,
    pub(crate) package: Vec<u8>,
    /// Announced: files, directories, bytes.
    pub(crate) counts: (u64, u64, u64),
    pub(crate) code: Code,
    /// In the message for people.
    pub(crate) says: &'static str,
}

fn case(what: &'static str, entries: &[Entry], code: Code, says: &'static str) -> Case {
    with_end(what, entries, End::default(), code, says)
}

/// True figures, whatever the entries are.
fn with_end(what: &'static str, entries: &[Entry], end: End, code: Code, says: &'static str) -> Case {
    let dirs = entries.iter().filter(|entry| entry.name.ends_with(b"/")).count() as u64;
    let bytes = entries.iter().map(|entry| entry.size.map_or(entry.content.len() as u64, u64::from)).sum();
    let counts = (entries.len() as u64 - dirs, dirs, bytes);
    Case { what, package: package_with(entries, end), counts, code, says }
}

fn a() -> Entry {
    file("a", b"alpha")
}

pub(crate) fn names() -> Vec<Case> {
    let long = "x".repeat(256);
    let deep = format!("{}x", "d/".repeat(64));
    let one = |what, name: &str, code, says| case(what, &[a(), file(name, b"x")], code, says);
    let latin = Entry { name: b"caf\xe9".to_vec(), ..file("", b"x") };
    let undeclared = Entry { name: "café".as_bytes().to_vec(), ..file("", b"x") };
    let nul = Entry { name: b"a\0b".to_vec(), ..file("", b"x") };
    vec![
        one("a path climbs out of the tree", "../evil", Code::PathInvalid, "'..'"),
        one("a path climbs out in its middle", "a1/../../evil", Code::PathInvalid, "'..'"),
        case("a directory climbs out", &[dir("..")], Code::PathInvalid, "'..'"),
        one("a path is absolute", "/etc/evil", Code::PathInvalid, "absolute"),
        one("a path begins with two slashes", "//host/evil", Code::PathInvalid, "absolute"),
        one("a path has a drive letter and backslashes", "C:\\evil", Code::PathInvalid, "backslash"),
        one("a path has a drive letter", "C:evil", Code::PathInvalid, "drive letter"),
        one("a path climbs out with backslashes", "..\\evil", Code::PathInvalid, "backslash"),
        one("a path is of a network", "\\\\host\\share", Code::PathInvalid, "backslash"),
        one("a path has a dot as its part", "./evil", Code::PathInvalid, "shortest form"),
        one("a path has an empty part", "b//evil", Code::PathInvalid, "shortest form"),
        case("an entry has no name", &[file("", b"x")], Code::PathInvalid, "empty"),
        case("an entry is the root", &[dir("")], Code::PathInvalid, "empty"),
        one("a name has a line break", "a\nb", Code::PathInvalid, "control character"),
        case("a name has a NUL", &[nul], Code::PathInvalid, "control character"),
        case("a name is not UTF-8", &[latin], Code::PathInvalid, "not UTF-8"),
        case("a name is UTF-8 and does not say so", &[undeclared], Code::PathInvalid, "not declared as UTF-8"),
        one("a name is too long", &long, Code::ManifestLimit, "longer than 255"),
        one("a path is too deep", &deep, Code::ManifestLimit, "deeper than 64"),
        case("a name is there twice", &[a(), file("b", b"1"), a()], Code::PathCollision, "twice"),
        case("a file and a directory have one name", &[a(), dir("a")], Code::PathCollision, "twice"),
        case("two names differ in case only", &[file("A", b"1"), a()], Code::PathCollision, "case only"),
        case(
            "two directories differ in case only",
            &[dir("Sub"), dir("sub"), file("sub/x", b"1")],
            Code::PathCollision,
            "case only",
        ),
        case("an entry lies below a file", &[a(), file("a/b", b"1")], Code::PathCollision, ""),
        case("the directory of an entry is missing", &[file("d/x", b"1")], Code::ManifestInvalid, ""),
        case(
            "a second name hides in an extra field",
            &[Entry { extra: vec![0x75, 0x70, 5, 0, 1, 0, 0, 0, 0], ..a() }],
            Code::ManifestInvalid,
            "second name",
        ),
        case(
            "the header has another name than the directory",
            &[Entry { local_name: Some(b"b".to_vec()), ..a() }],
            Code::ManifestInvalid,
            "another name in its header",
        ),
    ]
}

pub(crate) fn kinds() -> Vec<Case> {
    let odd = |what, mode, says| case(what, &[with_mode("x", b"/etc", mode)], Code::KindUnsupported, says);
    vec![
        odd("an entry is a symbolic link", 0o120_777, "symbolic link"),
        case(
            "an entry is a link, and another one lies behind it",
            &[with_mode("x", b"/tmp", 0o120_777), file("x/evil", b"1")],
            Code::KindUnsupported,
            "symbolic link",
        ),
        case(
            "a link says that no Unix made it",
            &[Entry { made_by: 20, ..with_mode("x", b"/etc", 0o120_777) }],
            Code::KindUnsupported,
            "symbolic link",
        ),
        odd("an entry is a named pipe", 0o010_644, "neither a file nor a directory"),
        odd("an entry is a device", 0o020_666, "neither a file nor a directory"),
        odd("an entry is a socket", 0o140_755, "neither a file nor a directory"),
        odd("a directory looks like a file", 0o040_755, "without the sign"),
        case(
            "a file looks like a directory",
            &[Entry { external: 0o100_644 << 16, ..dir("x") }],
            Code::KindUnsupported,
            "with the sign",
        ),
        case(
            "a directory has content",
            &[Entry { content: b"x".to_vec(), ..dir("x") }],
            Code::ManifestInvalid,
            "directory with content",
        ),
        case("a file is encrypted", &[Entry { flags: 1, ..a() }], Code::KindUnsupported, "encrypted"),
        case(
            "a file is packed in a way that nobody agreed to",
            &[Entry { method: 12, ..a() }],
            Code::KindUnsupported,
            "another way than deflate",
        ),
        case("a file needs a later version", &[Entry { needed: 63, ..a() }], Code::KindUnsupported, "does not have"),
    ]
}

pub(crate) fn contents() -> Vec<Case> {
    let mib = vec![0; 1 << 20];
    let small = |len: u32| Entry { size: Some(len), ..deflated("x", &mib, zeros(1 << 20)) };
    let mut cut = stored_blocks(b"alpha");
    cut.truncate(6);
    let mut more = stored_blocks(b"alpha");
    more.extend(b"hidden");
    let quiet = |entry: Entry| Entry { crc: Some(0), ..entry };
    vec![
        case("a bomb says that it is small", &[small(10)], Code::SizeMismatch, "longer than declared"),
        case(
            "a bomb is one byte larger than it says",
            &[small((1 << 20) - 1)],
            Code::SizeMismatch,
            "longer than declared",
        ),
        case("a file is shorter than it says", &[small((1 << 20) + 1)], Code::SizeMismatch, "shorter than declared"),
        Case {
            counts: (1, 0, 100),
            ..case(
                "a bomb is larger than announced",
                &[deflated("x", &mib, zeros(1 << 20))],
                Code::SizeMismatch,
                "larger than announced",
            )
        },
        Case {
            counts: (3, 0, (2 << 20) + 5),
            ..case(
                "files together are larger than announced",
                &[deflated("x", &mib, zeros(1 << 20)), deflated("y", &mib, zeros(1 << 20)), file("z", b"123456")],
                Code::SizeMismatch,
                "larger than announced",
            )
        },
        Case { counts: (1, 0, 6), ..case("there is less than announced", &[a()], Code::SizeMismatch, "fewer bytes") },
        Case {
            counts: (2, 0, 5),
            ..case("there are fewer entries than announced", &[a()], Code::ManifestMismatch, "number of entries")
        },
        Case {
            counts: (0, 1, 5),
            ..case("a file was announced as a directory", &[a()], Code::ManifestMismatch, "number of files")
        },
        case("a stored file has a wrong CRC", &[quiet(a())], Code::HashMismatch, "another CRC"),
        case(
            "a deflated file has a wrong CRC",
            &[quiet(deflated("x", b"alpha", stored_blocks(b"alpha")))],
            Code::HashMismatch,
            "another CRC",
        ),
        case(
            "a deflated file is cut off",
            &[deflated("x", b"alpha", cut)],
            Code::ManifestInvalid,
            "not deflated as it should be",
        ),
        case(
            "a deflated file is noise",
            &[deflated("x", b"alpha", vec![0xff; 40])],
            Code::ManifestInvalid,
            "not deflated as it should be",
        ),
        case(
            "something hides behind a deflated file",
            &[deflated("x", b"alpha", more)],
            Code::ManifestInvalid,
            "behind its deflated content",
        ),
        case("a stored file has two lengths", &[Entry { size: Some(4), ..a() }], Code::SizeMismatch, "another length"),
        case(
            "the header has another CRC than the directory",
            &[Entry { local_crc: Some(7), ..a() }],
            Code::ManifestInvalid,
            "one thing in its header",
        ),
        case(
            "the header has another method than the directory",
            &[Entry { local_method: Some(8), ..a() }],
            Code::ManifestInvalid,
            "one thing in its header",
        ),
        case(
            "the sizes behind a file are others than in the directory",
            &[Entry { flags: 8, behind: vec![0; 12], ..a() }],
            Code::ManifestInvalid,
            "other sizes behind",
        ),
    ]
}

pub(crate) fn forms() -> Vec<Case> {
    let good = || vec![a(), file("b", b"beta")];
    let bad = |what, end, says| with_end(what, &good(), end, Code::ManifestInvalid, says);
    let wide = |what, wide, says| bad(what, End { wide: Some(wide), ..End::default() }, says);
    let whole = package(&good());
    let cut = |what, len: usize, says| Case {
        package: whole[..len].to_vec(),
        ..case(what, &good(), Code::ManifestInvalid, says)
    };
    vec![
        cut("the archive ends in its directory", whole.len() - 30, "does not end with a directory"),
        cut("the archive is one byte short", whole.len() - 1, "does not end with a directory"),
        cut("the archive is a few bytes", 10, "too short"),
        Case {
            package: vec![0; 500],
            ..case("the archive is no archive", &good(), Code::ManifestInvalid, "directory")
        },
        Case {
            counts: (0, 0, 0),
            package: Vec::new(),
            ..case("the archive is empty", &[], Code::ManifestInvalid, "too short")
        },
        bad("something follows the end", End { behind: vec![0; 4], ..End::default() }, "does not end with a directory"),
        bad("there is a comment", End { comment: b"hi".to_vec(), ..End::default() }, "does not end"),
        bad(
            "something lies before the directory",
            End { gap: b"hidden".to_vec(), ..End::default() },
            "belong to nothing",
        ),
        bad(
            "something lies behind the directory",
            End { behind_directory: b"x".to_vec(), ..End::default() },
            "not where it says",
        ),
        bad("the directory is said to begin earlier", End { at: Some(3), ..End::default() }, "not where it says"),
        bad("the directory is said to be shorter", End { size: Some(60), ..End::default() }, "not where it says"),
        bad("it is one of several parts", End { disk: 1, ..End::default() }, "several parts"),
        bad("only some entries are in this part", End { here: Some(1), ..End::default() }, "several parts"),
        case("an entry is in another part", &[Entry { disk: 1, ..a() }], Code::ManifestInvalid, "another part"),
        case("an entry has a comment", &[Entry { comment: b"hi".to_vec(), ..a() }], Code::ManifestInvalid, "comment"),
        case("two entries share a content", &[a(), Entry { at: Some(0), ..a() }], Code::PathCollision, "twice"),
        case(
            "two entries share a header",
            &[file("a", b"alpha"), Entry { at: Some(0), local_name: Some(b"b".to_vec()), ..file("b", b"alpha") }],
            Code::ManifestInvalid,
            "",
        ),
        case(
            "an entry begins in another one",
            &[a(), Entry { at: Some(5), ..file("b", b"beta") }],
            Code::ManifestInvalid,
            "",
        ),
        case(
            "an entry points beyond the end",
            &[a(), Entry { at: Some(1 << 30), ..file("b", b"beta") }],
            Code::ManifestInvalid,
            "",
        ),
        case(
            "something lies between two entries",
            &[a(), Entry { before: b"hidden".to_vec(), ..file("b", b"beta") }],
            Code::ManifestInvalid,
            "belong to nothing",
        ),
        case(
            "something lies before the first entry",
            &[Entry { before: b"#!/bin/sh\n".to_vec(), ..a() }],
            Code::ManifestInvalid,
            "belong to nothing",
        ),
        case(
            "a content reaches into the next entry",
            &[Entry { packed_size: Some(40), size: Some(40), ..a() }, file("b", b"beta")],
            Code::ManifestInvalid,
            "",
        ),
        case(
            "extra fields are cut off",
            &[Entry { extra: vec![0x55, 0x54, 9, 0, 1], ..a() }],
            Code::ManifestInvalid,
            "cut off",
        ),
        case(
            "a 64-bit size is missing",
            &[Entry { size: Some(u32::MAX), packed_size: Some(u32::MAX), ..a() }],
            Code::ManifestInvalid,
            "64-bit sizes",
        ),
        case(
            "a 64-bit size says another thing",
            &[Entry { extra: wide_field(&[1 << 40, 1 << 40]), ..a() }],
            Code::ManifestInvalid,
            "different sizes at once",
        ),
        case(
            "64-bit sizes are there twice",
            &[Entry { extra: [wide_field(&[]), wide_field(&[])].concat(), ..a() }],
            Code::ManifestInvalid,
            "twice",
        ),
        Case {
            counts: (1, 0, 5),
            ..case(
                "a 64-bit size is beyond all limits",
                &[Entry {
                    size: Some(u32::MAX),
                    packed_size: Some(u32::MAX),
                    extra: wide_field(&[u64::MAX, u64::MAX]),
                    ..a()
                }],
                Code::ManifestLimit,
                "too large",
            )
        },
        wide(
            "the 64-bit end is said to be elsewhere",
            Wide { record_at: Some(0), ..Wide::default() },
            "not where it says",
        ),
        wide("the 64-bit end has another size", Wide { record_size: Some(1 << 40), ..Wide::default() }, "is none"),
        wide("the two ends count differently", Wide { entries: Some(1), ..Wide::default() }, "different things"),
        wide(
            "the two ends place the directory differently",
            Wide { at: Some(1), ..Wide::default() },
            "different things",
        ),
        with_end(
            "the 64-bit end has a directory of exabytes",
            &good(),
            End {
                size: Some(u32::MAX),
                wide: Some(Wide { size: Some(u64::MAX), ..Wide::default() }),
                ..End::default()
            },
            Code::ManifestInvalid,
            "not where it says",
        ),
        with_end(
            "the 64-bit end counts a million entries too many",
            &good(),
            End {
                entries: Some(u16::MAX),
                here: Some(u16::MAX),
                wide: Some(Wide { entries: Some(1_000_002), ..Wide::default() }),
                ..End::default()
            },
            Code::ManifestMismatch,
            "number of entries",
        ),
    ]
}

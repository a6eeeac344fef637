//! Claims about manifests: what is refused, and that canonical form is one form.

use std::sync::Arc;

use super::*;
use crate::EMPTY_SHA256;

fn path(raw: &str) -> RelPath<'_> {
    RelPath::parse(raw).expect("a valid path")
}

fn dir(raw: &str) -> Entry<'_> {
    Entry { path: path(raw), node: Node::Dir, mode: Some(0o755), mtime: Some(Mtime { ms: -1, sub_ns: 999_999 }) }
}

fn file(raw: &str, size: u64) -> Entry<'_> {
    let sha256 = if size == 0 { EMPTY_SHA256 } else { Digest([7; 32]) };
    Entry { path: path(raw), node: Node::File { size, sha256: Some(sha256) }, mode: Some(0o644), mtime: None }
}

fn link<'a>(raw: &'a str, target: &'a str) -> Entry<'a> {
    Entry { path: path(raw), node: Node::Symlink { target: target.into() }, mode: None, mtime: None }
}

fn build(entries: &[Entry<'_>]) -> Result<Manifest, ManifestError> {
    let mut builder = ManifestBuilder::new(Some(0o700), None);
    entries.iter().try_for_each(|e| builder.push(e))?;
    builder.finish()
}

fn assemble(manifest: &Manifest) -> Result<Manifest, ManifestError> {
    let mut assembler = ManifestAssembler::begin(&manifest.header_bytes())?;
    manifest.chunks().try_for_each(|c| assembler.chunk(&c))?;
    assembler.end(manifest.sha256())
}

#[test]
fn a_manifest_survives_the_wire_and_finds_its_entries() {
    let entries = [dir("a"), file("a!", 3), file("a/b", 0), link("a/c", "../x"), file("z", 9)];
    let sent = build(&entries).expect("valid");
    let got = assemble(&sent).expect("valid");
    assert_eq!(got.sha256(), sent.sha256());
    assert_eq!(got.entries().map(|(_, e)| e).collect::<Vec<_>>(), entries);
    for (index, entry) in got.entries() {
        assert_eq!(got.find(entry.path.as_str()), Some(index));
    }
    assert_eq!(got.find("a/d"), None);
    assert_eq!((got.counts().files, got.counts().dirs, got.counts().symlinks, got.total_bytes()), (3, 1, 1, 12));
}

#[test]
fn an_empty_tree_is_a_manifest() {
    let sent = build(&[]).expect("valid");
    assert!(assemble(&sent).expect("valid").is_empty());
}

// SPEC §4.3 (RELIABILITY A17-A19, A27)
#[test]
fn order_twins_and_parents_are_checked_with_names_that_sort_between() {
    assert_eq!(build(&[file("b", 1), file("a", 1)]).err(), Some(ManifestError::Order { index: 1 }));
    assert_eq!(build(&[file("a", 1), file("a", 1)]).err(), Some(ManifestError::Duplicate { index: 1 }));
    assert_eq!(build(&[file("a", 1), file("b", 1), dir("a")]).err(), Some(ManifestError::Duplicate { index: 2 }));
    assert_eq!(
        build(&[file("a", 1), file("a!", 1), file("a-", 1), file("a.", 1), file("a/b", 1)]).err(),
        Some(ManifestError::ParentNotDir { index: 4 })
    );
    assert_eq!(build(&[link("a", "b"), file("a/b", 1)]).err(), Some(ManifestError::ParentNotDir { index: 1 }));
    assert_eq!(build(&[dir("a"), file("a/b/c", 1)]).err(), Some(ManifestError::NoParent { index: 1 }));
    assert_eq!(build(&[dir("x"), file("x/y", 1), file("x2/y", 1)]).err(), Some(ManifestError::NoParent { index: 2 }));
}

// SPEC §4.1, §4.5
#[test]
fn declared_figures_must_be_the_real_ones() {
    let m = build(&[file("a", 3), file("b", 4)]).expect("valid");
    let begin = |count, total| {
        let mut body = Vec::new();
        canonical::encode_header(&ManifestHeader { entry_count: count, total_bytes: total, ..*m.header() }, &mut body);
        let mut assembler = ManifestAssembler::begin(&body)?;
        m.chunks().try_for_each(|c| assembler.chunk(&c))?;
        assembler.end(m.sha256())
    };
    let mismatch = |what| Some(ManifestError::Mismatch { what });
    assert_eq!(begin(1, 7).err(), mismatch("entry_count"));
    assert_eq!(begin(3, 7).err(), mismatch("entry_count"));
    assert_eq!(begin(2, 6).err(), mismatch("total_bytes"));
    assert_eq!(begin(2, 8).err(), mismatch("total_bytes"));
    assert_eq!(begin(1 << 32, 7).err(), Some(ManifestError::Limit { what: "entries" }));
    let mut assembler = ManifestAssembler::begin(&m.header_bytes()).expect("valid");
    m.chunks().for_each(|c| assembler.chunk(&c).expect("valid"));
    assert_eq!(assembler.end(Digest([0; 32])).err(), mismatch("manifest_sha256"));
}

// SPEC §4.2
#[test]
fn times_before_1970_keep_every_nanosecond() {
    for (secs, nanos) in [(0, 0), (-1, 1), (-1, 999_999_999), (1_700_000_000, 123_456_789)] {
        assert_eq!(Mtime::from_unix(secs, nanos).to_unix(), (secs, nanos));
    }
}

#[test]
fn chunks_hold_whole_entries_within_the_limits() {
    let names: Vec<String> = (0..10_000).map(|i| format!("{i:06}-{}", "n".repeat(150))).collect();
    let entries: Vec<_> = names.iter().map(|n| file(n, 1)).collect();
    let m = build(&entries).expect("valid");
    let chunks: Vec<_> = m.chunks().collect();
    assert!(chunks.len() >= 3);
    assert!(chunks.iter().all(|c| c.len() <= MAX_CHUNK));
    assert_eq!(assemble(&m).expect("valid").len(), 10_000);
}

// SPEC §4.1
#[test]
fn holes_are_told_if_there_are_any_and_data_is_never_as_much_as_the_whole() {
    let with_holes = |holes| {
        let mut builder = ManifestBuilder::new(None, None);
        [file("a", 0), file("b", 9)].iter().for_each(|e| builder.push(e).expect("valid"));
        builder.add_holes(holes);
        builder.finish().expect("valid")
    };
    let dense = with_holes(0);
    assert_eq!((dense.header().data_bytes, dense.data_bytes()), (None, 9));
    for (holes, data) in [(1, 8), (9, 0), (10, 0)] {
        let manifest = assemble(&with_holes(holes)).expect("it survives the wire");
        assert_eq!(
            (manifest.header().data_bytes, manifest.data_bytes(), manifest.total_bytes()),
            (Some(data), data, 9)
        );
        assert_ne!(manifest.sha256(), dense.sha256());
    }
    for data_bytes in [9, 10, u64::MAX].map(Some) {
        let mut body = Vec::new();
        canonical::encode_header(&ManifestHeader { data_bytes, ..*dense.header() }, &mut body);
        let code = ManifestAssembler::begin(&body).map_err(|e| e.code()).err();
        assert_eq!(code, Some(Code::ManifestInvalid), "{data_bytes:?}");
    }
}

// SPEC §4.1, §4.6
#[test]
fn an_outline_and_its_seal_have_the_same_holes() {
    let mut builder = ManifestBuilder::outline(None, None);
    builder.push(&unhashed("a", 5)).expect("valid");
    builder.add_holes(4);
    let outline = builder.finish().expect("valid");
    let sealed = outline.seal(Arc::new([Digest([7; 32])])).expect("every hash is known");
    assert_eq!((outline.header().data_bytes, sealed.header().data_bytes), (Some(1), Some(1)));
    assert_eq!(sealed.outline_sha256(), outline.sha256());
}

fn outline(entries: &[Entry<'_>]) -> Result<Manifest, ManifestError> {
    let mut builder = ManifestBuilder::outline(Some(0o700), None);
    entries.iter().try_for_each(|e| builder.push(e))?;
    builder.finish()
}

fn unhashed(raw: &str, size: u64) -> Entry<'_> {
    let sha256 = if size == 0 { Some(EMPTY_SHA256) } else { None };
    Entry { node: Node::File { size, sha256 }, ..file(raw, size) }
}

// SPEC §4.6
#[test]
fn an_outline_and_its_seal_lead_to_each_other_and_to_nothing_else() {
    let sealed = build(&[dir("a"), file("a/b", 3), file("a/c", 0), link("l", "x"), file("z", 9)]).expect("valid");
    let outline = outline(&[dir("a"), unhashed("a/b", 3), unhashed("a/c", 0), link("l", "x"), unhashed("z", 9)]);
    let outline = assemble(&outline.expect("valid")).expect("an outline survives the wire");
    assert!(outline.is_outline() && !sealed.is_outline());
    assert_eq!(sealed.outline_sha256(), outline.sha256());
    assert_eq!(outline.outline_sha256(), outline.sha256());
    let sevens: Arc<[Digest]> = Arc::new([Digest([7; 32]); 5]);
    let again = outline.seal(sevens.clone()).expect("every hash is known");
    assert_eq!(outline.sealed_sha256(|_| Some(Digest([7; 32]))), Some(again.sha256()));
    assert_eq!(again.canonical_bytes(), sealed.canonical_bytes());
    assert_eq!(again.outline_sha256(), outline.sha256());
    assert_eq!(again.header(), sealed.header());
    assert!(again.entries().eq(sealed.entries()), "every hash stands where it belongs");
    assert_eq!(assemble(&again).expect("it survives the wire").canonical_bytes(), sealed.canonical_bytes());
    let other = outline.seal((0..5).map(|byte| Digest([byte; 32])).collect()).expect("every hash is known");
    assert!(other.sha256() != sealed.sha256() && other.outline_sha256() == outline.sha256());
    assert!(outline.seal(sevens[..4].into()).is_none(), "one is missing");
    assert_eq!(outline.sealed_sha256(|index| (index.0 != 4).then_some(Digest([7; 32]))), None);
    assert!(sealed.seal(sevens.clone()).is_none() && again.seal(sevens).is_none(), "it is sealed");
    assert_eq!(sealed.sealed_sha256(|_| Some(Digest([7; 32]))), None);
}

// SPEC §4.6
#[test]
fn an_outline_is_as_long_as_its_seal_where_limits_are_concerned() {
    let mut entries = build::EntryBlock::default();
    for entry in [dir("a"), unhashed("a/b", 3), unhashed("a/c", 0), unhashed("z", 9)] {
        entries.check(&entry, true).expect("valid");
        canonical::encode_entry(&entry, &mut entries.bytes);
        entries.commit(&entry).expect("valid");
    }
    let sealed = build(&[dir("a"), file("a/b", 3), file("a/c", 0), file("z", 9)]).expect("valid");
    let header = sealed.header_bytes().len();
    assert_eq!(entries.sealed_len(), (sealed.canonical_bytes().len() - header) as u64);
}

// SPEC §4.6
#[test]
fn a_hash_is_neither_missing_in_a_manifest_nor_there_in_an_outline() {
    let invalid = |built: Result<Manifest, ManifestError>| built.map_err(|e| e.code()).err();
    assert_eq!(invalid(build(&[unhashed("a", 1)])), Some(Code::ManifestInvalid));
    assert_eq!(invalid(outline(&[file("a", 1)])), Some(Code::ManifestInvalid));
    let empty = Node::File { size: 0, sha256: None };
    assert_eq!(invalid(outline(&[Entry { node: empty, ..file("a", 0) }])), Some(Code::ManifestInvalid));
}

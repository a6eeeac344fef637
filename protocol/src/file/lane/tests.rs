//! Claims about lanes: SPEC §5.4 (RELIABILITY A41-A47, A52).

use super::*;
use crate::file::LocalFile;
use crate::frame::Abort;
use crate::manifest::{Entry, ManifestBuilder};
use crate::path::RelPath;

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}

/// Entries 0 `a` ("alpha"), 1 `d` (dir), 2 `e` (empty); all files requested.
fn lane() -> LaneReceiver {
    let mut builder = ManifestBuilder::new(None, None);
    let path = |raw| RelPath::parse(raw).expect("valid");
    let file = |raw, bytes: &[u8]| Entry {
        path: path(raw),
        node: Node::File { size: bytes.len() as u64, sha256: Some(digest(bytes)) },
        mode: None,
        mtime: None,
    };
    builder.push(&file("a", b"alpha")).expect("valid");
    builder.push(&Entry { path: path("d"), node: Node::Dir, mode: None, mtime: None }).expect("valid");
    builder.push(&file("e", b"")).expect("valid");
    let requested = Requested::none_of(3);
    requested.request(EntryIndex(0));
    requested.request(EntryIndex(2));
    LaneReceiver::new(Arc::new(builder.finish().expect("valid")), Arc::new(requested), 4096)
}

fn begin(index: u32, bytes: &[u8]) -> Frame {
    Frame::FileBegin(FileBegin {
        index: EntryIndex(index),
        size: bytes.len() as u64,
        sha256: Some(digest(bytes)),
        offset: 0,
    })
}

fn chunk(bytes: &'static [u8]) -> Frame {
    Frame::FileChunk(Bytes::from_static(bytes))
}

fn end(index: u32) -> Frame {
    Frame::FileEnd(FileEnd { index: EntryIndex(index), failed: None, sha256: None })
}

fn play(frames: impl IntoIterator<Item = Frame>) -> Result<Vec<LaneStep>, Code> {
    let mut lane = lane();
    frames.into_iter().map(|f| lane.handle(f).map_err(|v| v.code)).collect()
}

fn failed(index: u32, reason: FailureReason) -> LaneStep {
    LaneStep::Drop { entry: FailedEntry { index: EntryIndex(index), reason }, from_exporter: None }
}

#[test]
fn whole_files_are_verified_and_empty_ones_need_no_chunk() {
    let steps = play([begin(0, b"alpha"), chunk(b"al"), chunk(b"pha"), end(0), begin(2, b""), end(2)]).expect("legal");
    assert_eq!(steps[3], LaneStep::Keep(VerifiedFile { index: EntryIndex(0), size: 5, sha256: digest(b"alpha") }));
    assert_eq!(steps[5], LaneStep::Keep(VerifiedFile { index: EntryIndex(2), size: 0, sha256: digest(b"") }));
}

#[test]
fn a_wrong_byte_a_missing_byte_and_a_byte_too_many_fail_the_file_only() {
    let after = |frames: Vec<Frame>| {
        let mut all = vec![begin(0, b"alpha")];
        all.extend(frames);
        all.extend([end(0), begin(2, b""), end(2)]);
        let mut steps = play(all).expect("the session lives");
        assert_eq!(
            steps.pop(),
            Some(LaneStep::Keep(VerifiedFile { index: EntryIndex(2), size: 0, sha256: digest(b"") }))
        );
        steps.remove(steps.len() - 2)
    };
    assert_eq!(after(vec![chunk(b"alphA")]), failed(0, FailureReason::HashMismatch));
    assert_eq!(after(vec![chunk(b"alph")]), failed(0, FailureReason::SizeMismatch));
    assert_eq!(after(vec![chunk(b"alpha"), chunk(b"!")]), failed(0, FailureReason::SizeMismatch));
}

#[test]
fn nothing_is_written_past_the_declared_size() {
    let steps = play([begin(0, b"alpha"), chunk(b"alp"), chunk(b"ha and more"), chunk(b"x")]).expect("legal");
    assert_eq!(steps[1..], [LaneStep::Write(Bytes::from_static(b"alp")), LaneStep::Ignore, LaneStep::Ignore]);
}

// RELIABILITY A43: bytes that are passed over must not keep a session alive for ever
#[test]
fn a_file_that_goes_on_past_its_size_by_more_than_a_chunk_ends_the_session() {
    let surplus = || Frame::FileChunk(vec![0; 4096].into());
    assert!(play([begin(0, b"alpha"), chunk(b"alpha"), surplus()]).is_ok());
    let endless = [begin(0, b"alpha"), chunk(b"alpha"), surplus(), chunk(b"x")];
    assert_eq!(play(endless).err(), Some(Code::SizeMismatch));
    let mut lane = lane();
    lane.handle(begin(0, b"alpha")).expect("legal");
    lane.fail(FailureReason::IoError);
    assert_eq!(lane.handle(chunk(b"alpha")), Ok(LaneStep::Ignore));
    lane.handle(surplus()).expect("one chunk of patience");
    assert!(lane.handle(surplus()).is_err());
}

#[test]
fn frames_out_of_place_end_the_session() {
    let begin_a = || begin(0, b"alpha");
    let whole = || [begin_a(), chunk(b"alpha"), end(0)];
    let cases: Vec<(&str, Vec<Frame>, Code)> = vec![
        ("unknown index", vec![begin(9, b"alpha")], Code::FrameUnexpected),
        ("a directory", vec![begin(1, b"")], Code::FrameUnexpected),
        ("other size", vec![begin(0, b"alphaa")], Code::FrameUnexpected),
        ("other hash", vec![begin(0, b"ALPHA")], Code::FrameUnexpected),
        ("two at once", vec![begin_a(), begin(2, b"")], Code::FrameUnexpected),
        ("an ok file again", whole().into_iter().chain([begin_a()]).collect(), Code::FrameUnexpected),
        ("chunk without begin", vec![chunk(b"x")], Code::FrameUnexpected),
        ("end without begin", vec![end(0)], Code::FrameUnexpected),
        ("end of another", vec![begin_a(), end(2)], Code::FrameUnexpected),
        ("chunk over the agreed size", vec![begin_a(), Frame::FileChunk(vec![0; 4097].into())], Code::FrameTooLarge),
        ("control frame", vec![Frame::Abort(Abort { code: Code::Aborted })], Code::FrameUnexpected),
        (
            "an offset nobody agreed to",
            vec![Frame::FileBegin(FileBegin {
                index: EntryIndex(0),
                size: 5,
                sha256: Some(digest(b"alpha")),
                offset: 2,
            })],
            Code::OffsetMismatch,
        ),
    ];
    for (what, frames, code) in cases {
        assert_eq!(play(frames).err(), Some(code), "{what}");
    }
}

#[test]
fn the_same_entry_on_two_lanes_is_refused_on_the_second() {
    let mut one = lane();
    let mut two = LaneReceiver::new(one.manifest.clone(), one.requested.clone(), 4096);
    one.handle(begin(0, b"alpha")).expect("first");
    assert_eq!(two.handle(begin(0, b"alpha")).err().map(|v| v.code), Some(Code::FrameUnexpected));
}

#[test]
fn a_failed_write_and_a_failed_read_both_fail_the_file() {
    let mut lane = lane();
    lane.handle(begin(0, b"alpha")).expect("legal");
    lane.fail(FailureReason::IoError);
    assert_eq!(lane.handle(chunk(b"alpha")), Ok(LaneStep::Ignore));
    assert_eq!(lane.handle(end(0)), Ok(failed(0, FailureReason::IoError)));
    lane.handle(begin(2, b"")).expect("legal");
    let gone = Frame::FileEnd(FileEnd { index: EntryIndex(2), failed: Some(Code::SourceChanged), sha256: None });
    let entry = FailedEntry { index: EntryIndex(2), reason: FailureReason::IoError };
    assert_eq!(lane.handle(gone), Ok(LaneStep::Drop { entry, from_exporter: Some(Code::SourceChanged) }));
}

/// 300 times the letter a, and what packs it.
fn run() -> ([u8; 300], Packed) {
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x2c, 0x00, 0x63, 0x09, 0x00, b'a'];
    ([b'a'; 300], Packed::new(300, Bytes::copy_from_slice(&zstd)).expect("a frame"))
}

/// A lane for one file, `size` times the letter a.
fn lane_of_run(size: usize, max_chunk: u32, takes_packed: bool) -> LaneReceiver {
    let mut builder = ManifestBuilder::new(None, None);
    let node = Node::File { size: size as u64, sha256: Some(digest(&vec![b'a'; size])) };
    let path = RelPath::parse("run").expect("valid");
    builder.push(&Entry { path, node, mode: None, mtime: None }).expect("valid");
    let requested = Requested::none_of(1);
    requested.request(EntryIndex(0));
    let manifest = Arc::new(builder.finish().expect("valid"));
    let mut lane = LaneReceiver::new(manifest, Arc::new(requested), max_chunk).taking_packed(takes_packed);
    lane.handle(begin(0, &vec![b'a'; size])).expect("requested");
    lane
}

// SPEC §5.4
#[test]
fn a_packed_chunk_counts_as_what_it_unpacks_to_beside_raw_ones() {
    let (content, packed) = run();
    let mut lane = lane_of_run(303, 4096, true);
    lane.handle(chunk(b"aaa")).expect("inside");
    assert_eq!(lane.handle(Frame::FilePacked(packed.clone())), Ok(LaneStep::Unpack(packed.clone())));
    let content = Bytes::copy_from_slice(&content);
    assert_eq!(lane.unpacked(&packed, Some(content.clone())), Ok(LaneStep::Write(content)));
    assert_eq!(
        lane.handle(end(0)),
        Ok(LaneStep::Keep(VerifiedFile { index: EntryIndex(0), size: 303, sha256: digest(&[b'a'; 303]) }))
    );
}

// SPEC §5.4
#[test]
fn packed_chunks_that_are_not_agreed_too_large_or_not_what_they_say_end_the_session() {
    let (content, packed) = run();
    let refused = |mut lane: LaneReceiver| lane.handle(Frame::FilePacked(packed.clone())).map_err(|v| v.code).err();
    assert_eq!(refused(lane_of_run(300, 4096, false)), Some(Code::FrameUnexpected));
    assert_eq!(refused(lane_of_run(300, 299, true)), Some(Code::FrameTooLarge));
    let outside = lane().taking_packed(true).handle(Frame::FilePacked(packed.clone())).map_err(|v| v.code);
    assert_eq!(outside, Err(Code::FrameUnexpected));
    for wrong in [None, Some(&content[..299]), Some(&[])] {
        let mut lane = lane_of_run(300, 4096, true);
        lane.handle(Frame::FilePacked(packed.clone())).expect("agreed");
        let wrong = lane.unpacked(&packed, wrong.map(Bytes::copy_from_slice));
        assert_eq!(wrong.map_err(|v| v.code), Err(Code::FrameUnknown));
    }
}

// SPEC §5.4
#[test]
fn what_is_passed_over_is_counted_by_its_declared_length_and_not_unpacked() {
    let (_, packed) = run();
    let mut failed = lane_of_run(300, 4096, true);
    failed.fail(FailureReason::IoError);
    assert_eq!(failed.handle(Frame::FilePacked(packed.clone())), Ok(LaneStep::Ignore));
    let mut short = lane_of_run(200, 300, true);
    assert_eq!(short.handle(Frame::FilePacked(packed.clone())), Ok(LaneStep::Ignore), "100 bytes too many");
    assert_eq!(short.handle(Frame::FilePacked(packed.clone())).map_err(|v| v.code), Err(Code::SizeMismatch));
}

/// A file of `size` zeros, begun on a lane where holes are agreed on or not.
fn lane_of_zeros(size: usize, max_chunk: u32, takes_zeros: bool) -> LaneReceiver {
    let content = vec![0; size];
    let mut builder = ManifestBuilder::new(None, None);
    let node = Node::File { size: size as u64, sha256: Some(digest(&content)) };
    builder
        .push(&Entry { path: RelPath::parse("disk").expect("valid"), node, mode: None, mtime: None })
        .expect("valid");
    let requested = Requested::none_of(1);
    requested.request(EntryIndex(0));
    let manifest = Arc::new(builder.finish().expect("valid"));
    let mut lane = LaneReceiver::new(manifest, Arc::new(requested), max_chunk).taking_zeros(takes_zeros);
    lane.handle(begin(0, &content)).expect("requested");
    lane
}

fn hole(len: u32) -> Frame {
    Frame::FileZeros(FileZeros { len })
}

// SPEC §5.4
#[test]
fn a_hole_counts_and_hashes_as_the_zeros_it_stands_for_beside_raw_ones() {
    let mut lane = lane_of_zeros(5000, 4096, true);
    assert_eq!(lane.handle(hole(4096)), Ok(LaneStep::Zeros(4096)));
    assert_eq!(lane.handle(chunk(&[0; 4])), Ok(LaneStep::Write(Bytes::from_static(&[0; 4]))));
    assert_eq!(lane.handle(hole(900)), Ok(LaneStep::Zeros(900)));
    let whole = VerifiedFile { index: EntryIndex(0), size: 5000, sha256: digest(&[0; 5000]) };
    assert_eq!(lane.handle(end(0)), Ok(LaneStep::Keep(whole)));
    let mut short = lane_of_zeros(5000, 4096, true);
    short.handle(hole(4096)).expect("inside");
    assert_eq!(short.handle(end(0)), Ok(failed(0, FailureReason::SizeMismatch)));
}

// SPEC §5.4, §6.2
#[test]
fn holes_that_are_not_agreed_empty_or_too_large_end_the_session() {
    let code = |mut lane: LaneReceiver, len| lane.handle(hole(len)).map_err(|v| v.code).err();
    assert_eq!(code(lane_of_zeros(300, 4096, false), 300), Some(Code::FrameUnexpected));
    assert_eq!(code(lane_of_zeros(300, 4096, false).taking_packed(true), 300), Some(Code::FrameUnexpected));
    assert_eq!(code(lane_of_zeros(300, 4096, true), 0), Some(Code::FrameUnexpected));
    assert_eq!(code(lane_of_zeros(9000, 4096, true), 4097), Some(Code::FrameTooLarge));
    assert_eq!(code(lane().taking_zeros(true), 1), Some(Code::FrameUnexpected), "outside a file");
}

// SPEC §5.4
#[test]
fn a_hole_past_the_end_of_its_file_is_passed_over_and_one_without_end_ends_the_session() {
    let mut lane = lane_of_zeros(200, 4096, true);
    assert_eq!(lane.handle(hole(300)), Ok(LaneStep::Ignore), "100 bytes too many");
    assert_eq!(lane.handle(hole(4000)).map_err(|v| v.code), Err(Code::SizeMismatch));
    let mut lane = lane_of_zeros(200, 4096, true);
    lane.handle(hole(201)).expect("patience");
    assert_eq!(lane.handle(end(0)), Ok(failed(0, FailureReason::SizeMismatch)));
}

// SPEC §5.4, §6.4
#[test]
fn a_file_that_was_left_in_a_hole_goes_on_there() {
    let mut lane = lane_of_zeros(5000, 4096, true);
    lane.handle(hole(4000)).expect("inside");
    let manifest = Arc::clone(&lane.manifest);
    let partial = lane.suspend().expect("so far it is right");
    assert_eq!(partial.offset(), 4000);
    let requested = Requested::with_partial(1, [partial]);
    requested.request(EntryIndex(0));
    // the next conversation agreed on none
    let mut lane = LaneReceiver::new(manifest, Arc::new(requested), 4096);
    let begin = FileBegin { index: EntryIndex(0), size: 5000, sha256: Some(digest(&[0; 5000])), offset: 4000 };
    assert_eq!(lane.handle(Frame::FileBegin(begin)), Ok(LaneStep::Continue(EntryIndex(0), 4000)));
    lane.handle(chunk(&[0; 1000])).expect("the rest");
    assert!(matches!(lane.handle(end(0)), Ok(LaneStep::Keep(_))));
}

fn continued(offset: u64) -> Frame {
    Frame::FileBegin(FileBegin { index: EntryIndex(0), size: 5, sha256: Some(digest(b"alpha")), offset })
}

/// A lane whose entry 0 has these bytes staged, `offset` of which were named.
fn staged(bytes: &[u8]) -> LaneReceiver {
    let manifest = lane().manifest;
    let mut local = LocalFile::begin(&manifest, EntryIndex(0)).expect("a file");
    local.update(bytes);
    let requested = Requested::with_partial(3, local.into_partial());
    requested.request(EntryIndex(0));
    LaneReceiver::new(manifest, Arc::new(requested), 4096)
}

// SPEC §5.4, §6.4
#[test]
fn a_file_continues_at_the_named_offset_or_starts_anew_and_nowhere_else() {
    let whole = LaneStep::Keep(VerifiedFile { index: EntryIndex(0), size: 5, sha256: digest(b"alpha") });
    let mut lane = staged(b"alp");
    assert_eq!(lane.handle(continued(3)), Ok(LaneStep::Continue(EntryIndex(0), 3)));
    lane.handle(chunk(b"ha")).expect("inside");
    assert_eq!(lane.handle(end(0)).as_ref(), Ok(&whole));
    let mut lane = staged(b"alp");
    assert_eq!(lane.handle(continued(0)), Ok(LaneStep::Create(EntryIndex(0))));
    lane.handle(chunk(b"alpha")).expect("inside");
    assert_eq!(lane.handle(end(0)).as_ref(), Ok(&whole));
    for offset in [1, 2, 4, 5, u64::MAX] {
        let refused = staged(b"alp").handle(continued(offset)).map_err(|v| v.code);
        assert_eq!(refused, Err(Code::OffsetMismatch), "{offset}");
    }
}

#[test]
fn an_offset_is_good_for_one_transfer() {
    let mut lane = staged(b"alP");
    lane.handle(continued(3)).expect("named");
    lane.handle(chunk(b"ha")).expect("inside");
    assert_eq!(lane.handle(end(0)), Ok(failed(0, FailureReason::HashMismatch)), "what was staged was wrong");
    lane.requested.request(EntryIndex(0));
    assert_eq!(lane.handle(continued(3)).map_err(|v| v.code), Err(Code::OffsetMismatch));
}

#[test]
fn a_lane_that_goes_keeps_what_is_right_of_its_file() {
    let kept = |frames: Vec<Frame>| {
        let mut lane = staged(b"alp");
        frames.into_iter().for_each(|frame| drop(lane.handle(frame).expect("legal")));
        lane.suspend().map(|p| (p.index().0, p.offset()))
    };
    assert_eq!(kept(vec![]), None);
    assert_eq!(kept(vec![continued(0)]), None, "not a byte of it");
    assert_eq!(kept(vec![continued(3)]), Some((0, 3)));
    assert_eq!(kept(vec![continued(3), chunk(b"h")]), Some((0, 4)));
    assert_eq!(kept(vec![continued(3), chunk(b"ha")]), Some((0, 5)), "only the end did not come");
    assert_eq!(kept(vec![continued(3), chunk(b"ho")]), None, "all bytes, and wrong");
    assert_eq!(kept(vec![continued(3), chunk(b"hat")]), None, "too many");
    assert_eq!(kept(vec![continued(3), chunk(b"ha"), end(0)]), None, "no file is under way");
    let mut lane = staged(b"alp");
    lane.handle(continued(3)).expect("named");
    lane.fail(FailureReason::IoError);
    assert!(lane.suspend().is_none(), "what could not be written is not kept");
}

#[test]
fn a_file_is_continued_from_lane_to_lane() {
    let mut rest = None;
    for (n, byte) in [&b"a"[..], b"l", b"p", b"h", b"a", b""].into_iter().enumerate() {
        let requested = Requested::with_partial(3, rest.take());
        requested.request(EntryIndex(0));
        let mut lane = LaneReceiver::new(lane().manifest, Arc::new(requested), 4096);
        lane.handle(continued(n as u64)).expect("where the last one ended");
        if byte.is_empty() {
            assert!(matches!(lane.handle(end(0)), Ok(LaneStep::Keep(_))));
        } else {
            lane.handle(chunk(byte)).expect("inside");
            rest = lane.suspend();
        }
    }
}

/// The same tree by its outline.
fn outlined() -> LaneReceiver {
    let sealed = lane();
    let mut builder = ManifestBuilder::outline(None, None);
    for (_, mut entry) in sealed.manifest.entries() {
        if let Node::File { size: 1.., sha256 } = &mut entry.node {
            *sha256 = None;
        }
        builder.push(&entry).expect("valid");
    }
    LaneReceiver { manifest: Arc::new(builder.finish().expect("valid")), ..sealed }
}

fn begin_late() -> Frame {
    Frame::FileBegin(FileBegin { index: EntryIndex(0), size: 5, sha256: None, offset: 0 })
}

fn end_late(failed: Option<Code>, late: Option<&[u8]>) -> Frame {
    Frame::FileEnd(FileEnd { index: EntryIndex(0), failed, sha256: late.map(digest) })
}

// SPEC §5.10
#[test]
fn a_file_of_an_outline_is_judged_by_the_hash_at_its_end() {
    let after = |last: Frame| {
        let mut lane = outlined();
        lane.handle(begin_late()).expect("legal");
        lane.handle(chunk(b"alpha")).expect("legal");
        lane.handle(last).map_err(|violation| violation.code)
    };
    let whole = VerifiedFile { index: EntryIndex(0), size: 5, sha256: digest(b"alpha") };
    assert_eq!(after(end_late(None, Some(b"alpha"))), Ok(LaneStep::Keep(whole)));
    assert_eq!(after(end_late(None, Some(b"alphA"))), Ok(failed(0, FailureReason::HashMismatch)));
    let gone = Some(Code::SourceChanged);
    let entry = FailedEntry { index: EntryIndex(0), reason: FailureReason::IoError };
    assert_eq!(after(end_late(gone, None)), Ok(LaneStep::Drop { entry, from_exporter: gone }));
    assert_eq!(after(end_late(None, None)), Err(Code::FrameUnexpected), "without the hash it owes");
    assert_eq!(after(end_late(gone, Some(b"alpha"))), Err(Code::FrameUnexpected), "a hash of what failed");
}

// SPEC §5.10
#[test]
fn a_hash_where_there_must_be_none_ends_the_session() {
    let code = |mut lane: LaneReceiver, frames: Vec<Frame>| {
        frames.into_iter().try_for_each(|frame| lane.handle(frame).map(drop)).map_err(|violation| violation.code)
    };
    let unexpected = Err(Code::FrameUnexpected);
    assert_eq!(code(outlined(), vec![begin(0, b"alpha")]), unexpected, "the outline has none");
    assert_eq!(code(lane(), vec![begin_late()]), unexpected, "the manifest has one");
    let twice = vec![begin(0, b"alpha"), chunk(b"alpha"), end_late(None, Some(b"alpha"))];
    assert_eq!(code(lane(), twice), unexpected, "the manifest's counts");
    let empty = Frame::FileEnd(FileEnd { index: EntryIndex(2), failed: None, sha256: Some(digest(b"")) });
    assert_eq!(code(outlined(), vec![begin(2, b""), empty]), unexpected, "an empty file has its hash in the outline");
    assert_eq!(code(outlined(), vec![begin(2, b""), end(2)]), Ok(()));
}

// SPEC §5.10
#[test]
fn a_file_of_an_outline_of_which_only_the_end_is_missing_is_kept_to_be_judged_later() {
    let mut lane = outlined();
    lane.handle(begin_late()).expect("legal");
    lane.handle(chunk(b"alphA")).expect("legal");
    let partial = lane.suspend().expect("nobody knows yet that it is wrong");
    assert_eq!(partial.offset(), 5);
    let requested = Requested::with_partial(3, [partial]);
    requested.request(EntryIndex(0));
    let mut lane = LaneReceiver::new(super::tests::lane().manifest, Arc::new(requested), 4096);
    lane.handle(continued(5)).expect("legal");
    assert_eq!(lane.handle(end(0)), Ok(failed(0, FailureReason::HashMismatch)));
}

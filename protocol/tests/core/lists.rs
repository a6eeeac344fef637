//! Lists that no honest importer sends (RELIABILITY A57): the exporter serves what its manifest has, once a round.

use me_sync_protocol::exporter;
use me_sync_protocol::frame::{Frame, IndexRange, PartialFile, PendingList};
use me_sync_protocol::ids::{EntryIndex, Moment};
use me_sync_protocol::reason::Code;

use crate::states::{Out, drain_exporter, exporter_at, pending_list, retry_request};
use crate::violations::{exporter_refuses, tree};

// A57
#[test]
fn ranges_that_name_what_is_not_there_are_refused() {
    let range = |start, len| IndexRange { start: EntryIndex(start), len };
    let rows: [(&str, Vec<IndexRange>); 9] = [
        ("past the end", vec![range(0, 5)]),
        ("from past the end", vec![range(4, 1)]),
        ("far away", vec![range(u32::MAX, 1)]),
        ("over the edge of the number", vec![range(u32::MAX, u32::MAX)]),
        ("empty", vec![range(0, 0)]),
        ("empty at the end", vec![range(4, 0)]),
        ("twice", vec![range(0, 1), range(0, 1)]),
        ("overlapping", vec![range(0, 2), range(1, 1)]),
        ("descending", vec![range(1, 1), range(0, 1)]),
    ];
    for (what, ranges) in rows {
        for more in [false, true] {
            exporter_refuses(Out::Asking, pending_list(ranges.clone(), more), Code::FrameUnexpected, what);
        }
    }
    exporter_refuses(
        Out::HalfAsked,
        pending_list(vec![range(0, 1)], false),
        Code::FrameUnexpected,
        "again in part two",
    );
    exporter_refuses(Out::Asking, pending_list(Vec::new(), true), Code::FrameUnexpected, "an empty part");
}

// A57
#[test]
fn partial_files_that_cannot_be_are_refused() {
    let range = |start, len| IndexRange { start: EntryIndex(start), len };
    let some = |partial: &[(u32, u64)]| -> Vec<PartialFile> {
        partial.iter().map(|(index, offset)| PartialFile { index: EntryIndex(*index), offset: *offset }).collect()
    };
    let list =
        |ranges, partial: &[(u32, u64)], more| Frame::PendingList(PendingList { ranges, partial: some(partial), more });
    for (what, ranges, partial, code) in [
        ("no byte", vec![range(0, 2)], &[(0, 0)][..], Code::OffsetMismatch),
        ("past the end", vec![range(0, 2)], &[(0, 4)], Code::OffsetMismatch),
        ("far past the end", vec![range(0, 2)], &[(1, u64::MAX)], Code::OffsetMismatch),
        ("not asked for", vec![range(0, 1)], &[(1, 1)], Code::FrameUnexpected),
        ("nothing asked for", vec![], &[(0, 1)], Code::FrameUnexpected),
        ("a directory", vec![range(0, 4)], &[(2, 1)], Code::FrameUnexpected),
        ("far away", vec![range(0, 4)], &[(u32::MAX, 1)], Code::FrameUnexpected),
        ("twice", vec![range(0, 2)], &[(0, 1), (0, 1)], Code::FrameUnexpected),
        ("descending", vec![range(0, 2)], &[(1, 1), (0, 1)], Code::FrameUnexpected),
    ] {
        exporter_refuses(Out::Asking, list(ranges, partial, false), code, what);
    }
    // a partial file travels in the frame of its range
    exporter_refuses(Out::HalfAsked, list(vec![range(1, 1)], &[(0, 1)], false), Code::FrameUnexpected, "too late");
    let mut core = exporter_at(Out::Asking, &tree());
    let whole = list(vec![range(0, 2)], &[(0, 3), (1, 1)], false);
    core.handle(Moment::default(), exporter::Input::Frame(whole)).expect("an offset may be the size");
    let outputs = drain_exporter(&mut core);
    let [exporter::Output::SendFiles { entries, partial }] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!((entries.len(), partial.as_slice()), (2, &some(&[(0, 3), (1, 1)])[..]));
    let counters = core.counters();
    assert_eq!((counters.files_ok, counters.bytes_done, counters.bytes_total), (0, 4, 8));
}

// A57
#[test]
fn retry_requests_name_files_of_the_manifest_once_for_the_next_round() {
    for (what, round, failed, more) in [
        ("past the end", 1, &[4][..], false),
        ("far away", 1, &[u32::MAX], false),
        ("twice", 1, &[0, 0], false),
        ("descending", 1, &[1, 0], false),
        ("a directory", 1, &[2], false),
        ("a symlink", 1, &[3], false),
        ("round nought", 0, &[0], false),
        ("the round after next", 2, &[0], false),
        ("a far round", u32::MAX, &[0], false),
        ("an empty part", 1, &[], true),
    ] {
        exporter_refuses(Out::AwaitRetry, retry_request(round, failed, more), Code::FrameUnexpected, what);
    }
    exporter_refuses(Out::HalfRetry, retry_request(1, &[0], false), Code::FrameUnexpected, "again in part two");
    exporter_refuses(Out::HalfRetry, retry_request(2, &[1], false), Code::FrameUnexpected, "another round in part two");
}

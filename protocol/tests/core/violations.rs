//! Every frame that has no place where it comes, for both roles (RELIABILITY A30, A49-A53, A57, A58): a named code,
//! the peer is told, nothing is applied.

use std::time::Duration;

use me_sync_protocol::exporter;
use me_sync_protocol::frame::{Abort, FinalizeRequest, Frame, ManifestEnd, PhaseEnd, Progress, RetryBegin, RetryEnd};
use me_sync_protocol::ids::{Digest, EntryIndex, Moment};
use me_sync_protocol::importer::{self, Importer};
use me_sync_protocol::limits::{MAX_RETRY_ROUNDS, STALL};
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::Code;

use crate::states::{
    At, Out, begin, drain_exporter, drain_importer, every_frame, exporter_at, finalize_request, importer_at, lane,
    report, retry_request,
};
use crate::tree::Tree;

/// Two files, a directory, a symlink: entries 0 to 3.
pub(crate) fn tree() -> Tree {
    Tree::of(&[("a", 3), ("b", 5), ("d/", 0), ("l@", 0)])
}

#[track_caller]
fn importer_refuses(core: &mut Importer, input: importer::Input, code: Code, what: &str) {
    let refused = core.handle(Moment::default(), input).map_err(|v| v.code);
    assert_eq!(refused, Err(code), "{what}");
    let outputs = drain_importer(core);
    let [importer::Output::Send(Frame::Abort(abort)), importer::Output::Over(outcome)] = outputs.as_slice() else {
        panic!("{what}: {outputs:?}");
    };
    assert_eq!((*abort, *outcome), (Abort { code }, Err(code)), "{what}");
    core.handle(Moment::default(), importer::Input::Frame(Frame::FinalizeRequest(finalize_request(&tree()))))
        .expect("ignored");
    assert!(drain_importer(core).is_empty(), "{what}: a session that is over says nothing");
}

#[track_caller]
pub(crate) fn exporter_refuses(at: Out, frame: Frame, code: Code, what: &str) {
    let mut core = exporter_at(at, &tree());
    let refused = core.handle(Moment::default(), exporter::Input::Frame(frame)).map_err(|v| v.code);
    assert_eq!(refused, Err(code), "{what}");
    let outputs = drain_exporter(&mut core);
    let [exporter::Output::Send(Frame::Abort(abort)), exporter::Output::Over(outcome)] = outputs.as_slice() else {
        panic!("{what}: {outputs:?}");
    };
    assert_eq!((*abort, *outcome), (Abort { code }, Err(code)), "{what}");
}

// A30, A49-A52
#[test]
fn an_importer_takes_only_the_frames_of_its_state() {
    let tree = tree();
    let legal = |at: At, name| match name {
        "progress" | "abort" => true,
        "manifest_begin" => at == At::Start,
        "manifest_chunk" => at == At::Manifest,
        "pending_request" => matches!(at, At::Review | At::Accepted),
        "phase_end" => at == At::Bulk,
        "retry_begin" => at == At::Retry,
        "retry_end" => at == At::RetryBegun,
        "finalize_request" => matches!(at, At::AwaitFinalize | At::Applying),
        _ => false,
    };
    for at in At::ALL {
        for frame in every_frame(&tree) {
            let what = format!("{} at {at:?}", frame.name());
            let mut core = importer_at(at, &tree);
            if legal(at, frame.name()) {
                core.handle(Moment::default(), importer::Input::Frame(frame)).expect(&what);
            } else if at == At::Applying {
                let refused = core.handle(Moment::default(), importer::Input::Frame(frame)).map_err(|v| v.code);
                assert_eq!((refused, core.is_applying()), (Err(Code::FrameUnexpected), true), "{what}");
                assert!(drain_importer(&mut core).is_empty(), "{what}: an apply is not interrupted");
            } else if at == At::Manifest && frame.name() == "manifest_end" {
                importer_refuses(&mut core, importer::Input::Frame(frame), Code::ManifestMismatch, &what);
            } else {
                importer_refuses(&mut core, importer::Input::Frame(frame), Code::FrameUnexpected, &what);
            }
        }
    }
}

// A52
#[test]
fn an_exporter_takes_only_the_frames_of_its_state() {
    let tree = tree();
    for at in Out::ALL {
        for frame in every_frame(&tree) {
            let what = format!("{} at {at:?}", frame.name());
            let legal = match frame.name() {
                "progress" | "abort" => true,
                "pending_list" => matches!(at, Out::Asking | Out::HalfAsked),
                "retry_request" => matches!(at, Out::AwaitRetry | Out::HalfRetry),
                "finalize_result" => at == Out::Finalizing,
                _ => false,
            };
            if legal {
                let mut core = exporter_at(at, &tree);
                core.handle(Moment::default(), exporter::Input::Frame(frame)).expect(&what);
            } else {
                exporter_refuses(at, frame, Code::FrameUnexpected, &what);
            }
        }
    }
}

// A30
#[test]
fn a_manifest_that_is_not_the_declared_one_is_refused_by_name() {
    let tree = tree();
    let mut core = importer_at(At::Manifest, &tree);
    let chunk = tree.manifest.chunks().next().expect("not empty");
    core.handle(Moment::default(), importer::Input::Frame(Frame::ManifestChunk(chunk.clone()))).expect("legal");
    let wrong = Frame::ManifestEnd(ManifestEnd { manifest_sha256: Digest([0; 32]) });
    importer_refuses(&mut core, importer::Input::Frame(wrong), Code::ManifestMismatch, "another hash");

    let mut core = importer_at(At::Manifest, &tree);
    core.handle(Moment::default(), importer::Input::Frame(Frame::ManifestChunk(chunk.clone()))).expect("legal");
    let again = importer::Input::Frame(Frame::ManifestChunk(chunk));
    importer_refuses(&mut core, again, Code::ManifestMismatch, "more entries than declared");

    let mut core = importer_at(At::Start, &tree);
    let junk = importer::Input::Frame(Frame::ManifestBegin(vec![0xff; 40].into()));
    importer_refuses(&mut core, junk, Code::ManifestInvalid, "no header");
    assert!(core.manifest_error().is_some());
}

// A49
#[test]
fn a_finalize_for_another_manifest_is_refused() {
    let tree = tree();
    let right = finalize_request(&tree);
    for wrong in [
        FinalizeRequest { manifest_sha256: Digest([0; 32]), ..right },
        FinalizeRequest { entry_count: right.entry_count + 1, ..right },
        FinalizeRequest { total_bytes: 0, ..right },
    ] {
        let mut core = importer_at(At::AwaitFinalize, &tree);
        let input = importer::Input::Frame(Frame::FinalizeRequest(wrong));
        importer_refuses(&mut core, input, Code::ManifestMismatch, "another manifest");
    }
}

// A49
#[test]
fn a_second_finalize_gives_one_apply_and_one_result() {
    let tree = tree();
    let mut core = importer_at(At::AwaitFinalize, &tree);
    let mut outputs = Vec::new();
    for _ in 0..3 {
        let input = importer::Input::Frame(Frame::FinalizeRequest(finalize_request(&tree)));
        core.handle(Moment::default(), input).expect("legal");
        outputs.extend(drain_importer(&mut core));
    }
    assert_eq!(outputs.iter().filter(|o| matches!(o, importer::Output::Apply(_))).count(), 1);
    core.handle(Moment::default(), importer::Input::Applied(Ok(()))).expect("applied");
    core.handle(Moment::default(), importer::Input::Applied(Ok(()))).expect("ignored");
    assert_eq!(drain_importer(&mut core).len(), 2, "a result and the end");
}

// A50
#[test]
fn a_retry_round_that_was_not_asked_for_is_refused() {
    let tree = tree();
    for (round, files) in [(0, 1), (2, 1), (1, 0), (1, 2), (u32::MAX, u64::MAX)] {
        let mut core = importer_at(At::Retry, &tree);
        let input = importer::Input::Frame(Frame::RetryBegin(RetryBegin { round, files }));
        importer_refuses(&mut core, input, Code::FrameUnexpected, &format!("round {round} of {files}"));
    }
    for (round, files) in [(0, 1), (2, 1), (1, 2), (1, u64::MAX)] {
        let mut core = importer_at(At::RetryBegun, &tree);
        let input = importer::Input::Frame(Frame::RetryEnd(RetryEnd { round, files, bytes: 0 }));
        importer_refuses(&mut core, input, Code::FrameUnexpected, &format!("the end of round {round}"));
    }
}

// A50
#[test]
fn a_retry_of_a_file_that_is_ok_is_refused_on_its_lane() {
    let tree = tree();
    let mut core = importer_at(At::RetryBegun, &tree);
    let violation = lane(&core, &tree).handle(begin(&tree, EntryIndex(1))).expect_err("ok already");
    importer_refuses(&mut core, importer::Input::LaneViolation(violation), Code::FrameUnexpected, "a file that is ok");
}

// A51
#[test]
fn a_bulk_that_counts_other_files_than_it_sent_is_refused() {
    let tree = tree();
    let phase_end = |files| importer::Input::Frame(Frame::PhaseEnd(PhaseEnd { files, bytes: 0 }));
    for files in [3, u64::MAX] {
        importer_refuses(&mut importer_at(At::Bulk, &tree), phase_end(files), Code::FrameUnexpected, "too many");
    }
    let mut core = importer_at(At::Bulk, &tree);
    report(&mut core, &tree, EntryIndex(0), false);
    importer_refuses(&mut core, phase_end(0), Code::FrameUnexpected, "fewer than arrived");
    let mut core = importer_at(At::Bulk, &tree);
    core.handle(Moment::default(), phase_end(2)).expect("files may still come");
    importer_refuses(&mut core, phase_end(2), Code::FrameUnexpected, "a second end");
}

// A51
#[test]
fn a_bulk_that_promises_files_and_sends_none_times_out() {
    let mut core = importer_at(At::Bulk, &tree());
    let end = Frame::PhaseEnd(PhaseEnd { files: 2, bytes: 8 });
    core.handle(Moment::default(), importer::Input::Frame(end)).expect("legal");
    core.handle(Moment(STALL), importer::Input::Tick).expect("no violation");
    let outputs = drain_importer(&mut core);
    assert!(matches!(outputs.last(), Some(importer::Output::Suspended { reset: true })), "{outputs:?}");
}

// A51
#[test]
fn an_exporter_that_gives_signs_of_life_but_does_not_go_on_times_out() {
    let tree = tree();
    let mut judged = importer_at(At::Bulk, &tree);
    (0..2).for_each(|index| report(&mut judged, &tree, EntryIndex(index), false));
    let waiting = [At::Manifest, At::Review, At::Accepted, At::Bulk, At::Retry, At::RetryBegun, At::AwaitFinalize];
    for mut core in waiting.map(|at| importer_at(at, &tree)).into_iter().chain([judged]) {
        let phase = core.phase();
        let alive =
            Frame::Progress(Progress { phase: Phase::BulkTransferring, counters: Counters::default(), waiting: false });
        for second in 0..=STALL.as_secs() {
            let now = Moment(Duration::from_secs(second));
            core.handle(now, importer::Input::Frame(alive.clone())).expect("legal");
        }
        let outputs = drain_importer(&mut core);
        let suspended = matches!(outputs.last(), Some(importer::Output::Suspended { reset: true }));
        assert!(suspended && core.is_waiting(), "{phase}: {outputs:?}");
    }
}

#[test]
fn a_file_that_was_not_sent_is_asked_for_again_and_cannot_come_late() {
    let tree = tree();
    let mut core = importer_at(At::Bulk, &tree);
    report(&mut core, &tree, EntryIndex(0), false);
    core.handle(Moment::default(), importer::Input::Frame(Frame::PhaseEnd(PhaseEnd { files: 1, bytes: 3 }))).unwrap();
    let outputs = drain_importer(&mut core);
    let [importer::Output::Send(Frame::RetryRequest(request))] = outputs.as_slice() else { panic!("{outputs:?}") };
    let asked: Vec<_> = request.failed.iter().map(|f| f.index).collect();
    assert_eq!((request.round, asked), (1, vec![EntryIndex(1)]));
}

// A46: two transfers of one file at once would write over each other
#[test]
fn a_round_that_ends_inside_a_file_is_refused() {
    let tree = tree();
    let mut core = importer_at(At::Bulk, &tree);
    report(&mut core, &tree, EntryIndex(0), false);
    let mut slow = lane(&core, &tree);
    slow.handle(begin(&tree, EntryIndex(1))).expect("asked for");
    let end = importer::Input::Frame(Frame::PhaseEnd(PhaseEnd { files: 1, bytes: 3 }));
    importer_refuses(&mut core, end, Code::FrameUnexpected, "a lane still carries a file");
    assert!(lane(&core, &tree).handle(begin(&tree, EntryIndex(1))).is_err(), "nobody else may begin it");
}

// A58
#[test]
fn an_importer_that_is_never_content_gets_every_file_four_times_at_most() {
    let tree = tree();
    let mut core = exporter_at(Out::Sending, &tree);
    let (mut served, mut round, mut outcome) = (2, 0, None);
    while outcome.is_none() {
        core.handle(
            Moment::default(),
            exporter::Input::Sent { files: 2, bytes: 8, failed: Vec::new(), hashed: Vec::new() },
        )
        .expect("sent");
        round += 1;
        core.handle(Moment::default(), exporter::Input::Frame(retry_request(round, &[0, 1], false))).expect("legal");
        for output in drain_exporter(&mut core) {
            match output {
                exporter::Output::SendFiles { entries, .. } => served += entries.len(),
                exporter::Output::Over(result) => outcome = Some(result),
                exporter::Output::Send(_)
                | exporter::Output::Sealed(_)
                | exporter::Output::Suspended { .. }
                | exporter::Output::Idle(_) => {}
            }
        }
    }
    assert_eq!((outcome, round), (Some(Err(Code::RetryExhausted)), MAX_RETRY_ROUNDS + 1));
    assert_eq!(served, 2 * (1 + MAX_RETRY_ROUNDS as usize));
}

// A53
#[test]
fn what_comes_after_an_abort_is_dropped() {
    let tree = tree();
    for at in At::ALL.into_iter().filter(|at| *at != At::Applying) {
        let mut core = importer_at(at, &tree);
        let abort = Frame::Abort(Abort { code: Code::Aborted });
        core.handle(Moment::default(), importer::Input::Frame(abort)).expect("legal");
        assert!(matches!(drain_importer(&mut core)[..], [importer::Output::Over(Err(Code::Aborted))]), "{at:?}");
        for frame in every_frame(&tree) {
            assert_eq!(core.handle(Moment::default(), importer::Input::Frame(frame)), Ok(()));
        }
        assert!(drain_importer(&mut core).is_empty(), "{at:?}");
    }
}

// A80: the importer may know earlier than this side that a connection is lost
#[test]
fn another_control_stream_takes_the_place_of_the_one_before() {
    let tree = tree();
    for at in Out::ALL {
        let mut core = exporter_at(at, &tree);
        let holds = (at >= Out::Asking).then(|| tree.manifest.sha256());
        core.handle(Moment::default(), exporter::Input::Opened { importer_holds: holds }).expect("legal");
        let outputs = drain_exporter(&mut core);
        let Some((exporter::Output::Suspended { reset: false }, rest)) = outputs.split_first() else {
            panic!("{at:?}: {outputs:?}");
        };
        let asks = matches!(rest, [exporter::Output::Send(Frame::PendingRequest(_))]);
        assert!(asks || (rest.is_empty() && at == Out::Hashing), "{at:?}: {outputs:?}");
    }
}

// A46: one report for each transfer
#[test]
fn a_report_about_a_file_that_is_ok_is_refused() {
    let tree = tree();
    let (mut core, mut twin) = (importer_at(At::Bulk, &tree), importer_at(At::Bulk, &tree));
    report(&mut core, &tree, EntryIndex(0), false);
    let mut receiver = lane(&twin, &tree);
    receiver.handle(begin(&tree, EntryIndex(0))).expect("asked for");
    receiver.handle(Frame::FileChunk(tree.bytes(EntryIndex(0)))).expect("inside a file");
    let Ok(me_sync_protocol::file::LaneStep::Keep(file)) = receiver.handle(crate::states::end(EntryIndex(0))) else {
        panic!("not kept");
    };
    let again = importer::Input::Files(vec![me_sync_protocol::file::FileReport::Ok(file)]);
    importer_refuses(&mut core, again, Code::FrameUnexpected, "a second report");
    assert!(drain_importer(&mut twin).is_empty());
}

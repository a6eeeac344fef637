//! A real importer against exporters whose frames are wrong, out of place or without end (RELIABILITY A39-A56).
//!
//! Every row runs while an honest session of the same importer is in the middle of its bulk.

use me_sync_protocol::frame::{
    Abort, FailedEntry, Frame, PendingList, PendingRequest, RetryBegin, RetryEnd, RetryRequest,
};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::message::{Granted, Hello, Response, encode};
use me_sync_protocol::reason::{Code, FailureReason};

use crate::support::peer::{
    Answers, Exporting, Peer, begin, begin_as, begin_late, chunk, end, end_late, finalize, granted, hello, phase_end,
};
use crate::support::raw::{self, Listing, dir, file, map, text};
use crate::support::tree::{assert_images, noise};
use crate::support::world::{Bystander, World, refused};
use crate::support::{TestNode, failed, leftovers, waits_for_peer};

/// An importer, what an attack must not change, and an honest session that has to live through all of them.
struct Bench {
    importer: TestNode,
    world: World,
    honest: Bystander,
}

impl Bench {
    async fn start() -> Self {
        let importer = TestNode::start().await;
        let honest = Bystander::start(&importer).await;
        Self { importer, world: World::new(), honest }
    }

    async fn refuses(&mut self, what: &str, code: Code, attack: impl AsyncFnOnce(&mut Exporting)) {
        refused(&self.importer, &self.world, what, code, attack).await;
        self.honest.step().await;
    }

    /// The attack comes on a lane, after the importer agreed to [`three`].
    async fn lane_refuses(&mut self, what: &str, code: Code, frames: &[Frame]) {
        self.refuses(what, code, async |s| {
            s.agreed(&three()).await;
            let mut lane = s.lane(0).await.expect("taken");
            for frame in frames {
                lane.send(frame).await;
            }
            // the lane stays open: its end would be a fault of its own
            assert_eq!(s.control.aborted().await, Some(code), "{what}");
            s.control.ended_with(code);
        })
        .await;
    }
}

/// Entries 0 `a` ("alpha"), 1 `d` (a directory), 2 `e` ("echo").
fn three() -> Listing {
    Listing::of(&[file("a", b"alpha"), dir("d"), file("e", b"echo")], 9)
}

fn raw_frame(kind: u8, flags: u8, len: u32, body: &[u8]) -> Vec<u8> {
    [&[kind, flags, 0, 0][..], &len.to_be_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_frames_end_the_session_by_name() {
    let mut bench = Bench::start().await;
    let big = Code::FrameTooLarge;
    let bad: Vec<(&str, Code, Vec<u8>)> = vec![
        ("A39 a length of 2^32-1", big, raw_frame(0x11, 0, u32::MAX, &[])),
        ("A39 a chunk of 1 MiB and one byte", big, raw_frame(0x11, 0, (1 << 20) + 1, &[])),
        ("A54 an abort of 1 MiB", big, raw_frame(0x7f, 0, 1 << 20, &[])),
        ("A54 an abort with words of its own", Code::FrameUnknown, {
            let body = map(&[(0, text("\u{1b}[31m<b>"))]);
            raw_frame(0x7f, 0, body.len() as u32, &body)
        }),
        ("A41 an empty chunk", Code::FrameUnexpected, raw_frame(0x11, 0, 0, &[])),
        ("A41 an empty file chunk", Code::FrameUnexpected, raw_frame(0x21, 0, 0, &[])),
        ("A42 an unknown type", Code::FrameUnknown, raw_frame(0x77, 0, 0, &[])),
        ("A42 a flag", Code::FrameUnknown, raw_frame(0x11, 1, 1, &[0])),
        ("A42 reserved bits", Code::FrameUnknown, vec![0x11, 0, 0, 1, 0, 0, 0, 1, 0]),
        ("A42 a body that is not its one encoding", Code::FrameUnknown, raw_frame(0x40, 0, 2, &[0xbf, 0xff])),
    ];
    for (what, code, bytes) in bad {
        bench.refuses(what, code, async |s| s.control.raw(&bytes).await).await;
        let what = format!("{what}, on a lane");
        bench
            .refuses(&what, code, async |s| {
                s.agreed(&three()).await;
                let mut lane = s.lane(0).await.expect("taken");
                lane.raw(&bytes).await;
                assert_eq!(s.control.aborted().await, Some(code), "{what}");
                s.control.ended_with(code);
            })
            .await;
    }
    bench.honest.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_the_session_and_nothing_else() {
    let mut bench = Bench::start().await;
    for seed in 1..40 {
        let junk = noise(seed * 7919, 3000);
        // A55: whatever the first bytes mean, they are a name on the list
        let before = bench.world.snapshot();
        let mut peer = Peer::listen().await;
        let job = bench.importer.import(&peer.ticket(), &bench.world.target()).await;
        let mut session = peer.exporting().await;
        session.control.raw(&junk).await;
        let told = session.control.aborted().await.expect("told why");
        drop(session);
        assert_eq!(failed(&job).await, told, "A55 seed {seed}");
        assert!(matches!(told, Code::FrameUnknown | Code::FrameTooLarge | Code::FrameUnexpected), "{told}");
        assert_images(&before, &bench.world.snapshot());
        bench.honest.step().await;
    }
    assert!(leftovers(&bench.world.path("parent")).is_empty());
    bench.honest.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_frames_out_of_place_end_the_session_by_name() {
    let mut bench = Bench::start().await;
    let out = Code::FrameUnexpected;
    let first = three();
    let manifest_begin = || Frame::ManifestBegin(first.header.clone().into());
    let retry = |round| Frame::RetryRequest(RetryRequest { round, failed: Vec::new(), more: false });
    let alone: Vec<(&str, Vec<Frame>)> = vec![
        ("A30 a chunk before begin", vec![Frame::ManifestChunk(first.chunks[0].clone().into())]),
        ("A30 two begins", vec![manifest_begin(), manifest_begin()]),
        ("A30 a file before the end", vec![manifest_begin(), begin(0, b"alpha")]),
        ("A47 a file on the control stream", vec![begin(0, b"alpha")]),
        ("A49 finalize first", vec![finalize(&first)]),
        ("A51 phase_end first", vec![phase_end(0, 0)]),
        ("A52 retry_request", vec![retry(1)]),
        ("A52 pending_list", vec![Frame::PendingList(PendingList { ranges: vec![], partial: vec![], more: false })]),
        ("A52 finalize_result", vec![Frame::FinalizeResult(me_sync_protocol::frame::FinalizeResult { failed: None })]),
    ];
    for (what, frames) in alone {
        bench
            .refuses(what, out, async |s| {
                for frame in &frames {
                    s.control.send(frame).await;
                }
            })
            .await;
    }
    let after: Vec<(&str, Vec<Frame>)> = vec![
        ("A30 a chunk after the end", vec![Frame::ManifestChunk(first.chunks[0].clone().into())]),
        ("A30 a second manifest", vec![manifest_begin()]),
        ("A41 a flood of questions", vec![Frame::PendingRequest(PendingRequest {}); 50]),
        ("A49 finalize before phase_end", vec![finalize(&first)]),
        ("A49 finalize with failed files", vec![phase_end(0, 0), finalize(&first)]),
        ("A50 a round nobody asked for", vec![Frame::RetryBegin(RetryBegin { round: 1, files: 2 })]),
        ("A50 the end of no round", vec![Frame::RetryEnd(RetryEnd { round: 1, files: 0, bytes: 0 })]),
        ("A50 another round", vec![phase_end(0, 0), Frame::RetryBegin(RetryBegin { round: 2, files: 2 })]),
        ("A50 more files than asked for", vec![phase_end(0, 0), Frame::RetryBegin(RetryBegin { round: 1, files: 3 })]),
        ("A50 end without begin", vec![phase_end(0, 0), Frame::RetryEnd(RetryEnd { round: 1, files: 0, bytes: 0 })]),
        ("A51 phase_end twice", vec![phase_end(0, 0), phase_end(0, 0)]),
        ("A51 more files than there are", vec![phase_end(3, 0)]),
        ("A52 a retry_request later", vec![retry(1)]),
    ];
    for (what, frames) in after {
        bench
            .refuses(what, out, async |s| {
                s.agreed(&first).await;
                for frame in &frames {
                    s.control.send(frame).await;
                }
            })
            .await;
    }
    bench
        .refuses("A49 finalize of another manifest", Code::ManifestMismatch, async |s| {
            let empty = Listing::of(&[], 0);
            s.agreed(&empty).await;
            s.control.send(&phase_end(0, 0)).await;
            s.control.next_deed().await;
            s.control.send(&finalize(&first)).await;
        })
        .await;
    bench.honest.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lane_frames_out_of_place_end_the_session_by_name() {
    let mut bench = Bench::start().await;
    let out = Code::FrameUnexpected;
    let a = || vec![begin(0, b"alpha"), chunk(b"alpha"), end(0)];
    let cases: Vec<(&str, Code, Vec<Frame>)> = vec![
        ("A45 an offset nobody agreed to", Code::OffsetMismatch, vec![begin_as(0, 5, raw::sha(b"alpha"), 2)]),
        ("A46 an unknown index", out, vec![begin(9, b"x")]),
        ("A46 the largest index", out, vec![begin(u32::MAX, b"x")]),
        ("A46 a directory", out, vec![begin(1, b"")]),
        ("A46 another size", out, vec![begin(0, b"alphaa")]),
        ("A46 another hash", out, vec![begin(0, b"ALPHA")]),
        ("A46 no hash, and no outline", out, vec![begin_late(0, 5)]),
        ("A46 a hash at the end too", out, vec![begin(0, b"alpha"), chunk(b"alpha"), end_late(0, b"alpha")]),
        ("A46 an ok file again", out, [a(), a()].concat()),
        ("A46 two at once", out, vec![begin(0, b"alpha"), begin(2, b"echo")]),
        ("A47 a chunk of nothing", out, vec![chunk(b"x")]),
        ("A47 the end of nothing", out, vec![end(0)]),
        ("A47 the end of another", out, vec![begin(0, b"alpha"), end(2)]),
        ("A52 a control frame", out, vec![Frame::Abort(Abort { code: Code::Aborted })]),
        ("A43 surplus without end", Code::SizeMismatch, {
            let surplus = chunk(&[7; 200 << 10]);
            [vec![begin(0, b"alpha")], vec![surplus; 8]].concat()
        }),
        ("chunks larger than agreed", Code::FrameTooLarge, vec![begin(0, b"alpha"), chunk(&[0; (256 << 10) + 1])]),
    ];
    for (what, code, frames) in cases {
        bench.lane_refuses(what, code, &frames).await;
    }
    bench
        .refuses("A46 one entry on two lanes", out, async |s| {
            s.agreed(&three()).await;
            let (mut one, mut two) = (s.lane(0).await.expect("taken"), s.lane(1).await.expect("taken"));
            one.send(&begin(0, b"alpha")).await;
            two.send(&begin(0, b"alpha")).await;
            assert_eq!(s.control.aborted().await, Some(out));
            s.control.ended_with(out);
        })
        .await;
    bench.honest.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_was_declared_fail_alone_and_may_come_again() {
    // A43, A44, A49 (asked twice)
    let cases: Vec<(&str, FailureReason, Vec<Frame>)> = vec![
        ("A43 a byte too many", FailureReason::SizeMismatch, vec![chunk(b"alpha!")]),
        ("A43 a byte too many, later", FailureReason::SizeMismatch, vec![chunk(b"alpha"), chunk(b"!")]),
        ("A44 a byte too few", FailureReason::SizeMismatch, vec![chunk(b"alph")]),
        ("A44 no byte", FailureReason::SizeMismatch, vec![]),
        ("A44 another hash", FailureReason::HashMismatch, vec![chunk(b"alphA")]),
    ];
    let importer = TestNode::start().await;
    for (what, reason, frames) in cases {
        let (world, listing) = (World::new(), three());
        let mut peer = Peer::listen().await;
        let job = importer.import(&peer.ticket(), &world.target()).await;
        let mut s = peer.exporting().await;
        s.agreed(&listing).await;
        let mut lane = s.lane(0).await.expect("taken");
        for frame in
            [vec![begin(0, b"alpha")], frames, vec![end(0), begin(2, b"echo"), chunk(b"echo"), end(2)]].concat()
        {
            lane.send(&frame).await;
        }
        s.control.send(&phase_end(2, 9)).await;
        let Some(Frame::RetryRequest(asked)) = s.control.next_deed().await else { panic!("{what}") };
        let failed = vec![FailedEntry { index: EntryIndex(0), reason }];
        assert_eq!(asked, RetryRequest { round: 1, failed, more: false }, "{what}");
        s.control.send(&Frame::RetryBegin(RetryBegin { round: 1, files: 1 })).await;
        for frame in [begin(0, b"alpha"), chunk(b"alpha"), end(0)] {
            lane.send(&frame).await;
        }
        s.control.send(&Frame::RetryEnd(RetryEnd { round: 1, files: 1, bytes: 5 })).await;
        let Some(Frame::RetryRequest(asked)) = s.control.next_deed().await else { panic!("{what}") };
        assert!(asked.failed.is_empty(), "{what}");
        for _ in 0..2 {
            s.control.send(&finalize(&listing)).await;
        }
        let Some(Frame::FinalizeResult(result)) = s.control.next_deed().await else { panic!("{what}") };
        assert_eq!(result.failed, None, "{what}");
        drop((s, lane));
        crate::support::completed(&job).await;
        assert_eq!(std::fs::read(world.path("parent/target/a")).unwrap(), b"alpha", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_file_that_is_ok_changes_nothing() {
    // A46, A50: the first file is ok, the second was not sent
    let mut bench = Bench::start().await;
    bench
        .refuses("A50 an unrequested file in a retry round", Code::FrameUnexpected, async |s| {
            s.agreed(&three()).await;
            let mut lane = s.lane(0).await.expect("taken");
            for frame in [begin(0, b"alpha"), chunk(b"alpha"), end(0)] {
                lane.send(&frame).await;
            }
            s.control.send(&phase_end(1, 5)).await;
            let Some(Frame::RetryRequest(asked)) = s.control.next_deed().await else { panic!("no retry") };
            let failed = vec![FailedEntry { index: EntryIndex(2), reason: FailureReason::ProtocolError }];
            assert_eq!(asked.failed, failed);
            s.control.send(&Frame::RetryBegin(RetryBegin { round: 1, files: 1 })).await;
            lane.send(&begin(0, b"alpha")).await;
            assert_eq!(s.control.aborted().await, Some(Code::FrameUnexpected));
            s.control.ended_with(Code::FrameUnexpected);
        })
        .await;
    bench.honest.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aborts_without_end_are_one_abort() {
    // A53
    let (importer, world) = (TestNode::start().await, World::new());
    let honest = Bystander::start(&importer).await;
    let before = world.snapshot();
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    let mut flood = bytes::BytesMut::new();
    for _ in 0..100_000 {
        me_sync_protocol::codec::encode(&Frame::Abort(Abort { code: Code::SourceUnreadable }), &mut flood);
    }
    // the node may close before it has taken all of them
    tokio::time::timeout(std::time::Duration::from_secs(5), session.control.raw(&flood)).await.ok();
    drop(session);
    assert_eq!(failed(&job).await, Code::SourceUnreadable);
    assert_images(&before, &world.snapshot());
    honest.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_and_stripped_capabilities_are_refused_not_downgraded() {
    // A56, and A54 for names
    let (importer, world) = (TestNode::start().await, World::new());
    let stripped = Hello { caps: Default::default(), ..hello() };
    let old = Hello { versions: vec![3], ..hello() };
    let without_lanes = Granted { lanes: 0, ..granted() };
    let greedy = Granted { max_chunk: u32::MAX, ..granted() };
    let answers = |h: Hello, g: Granted| Answers {
        hello: encode(&Response::Hello(h)),
        redeem: encode(&Response::Granted(g)),
        ..Answers::default()
    };
    for (what, answers) in [
        ("caps stripped", answers(stripped, granted())),
        ("v3 only", answers(old, granted())),
        ("no lanes", answers(hello(), without_lanes)),
        ("more than was allowed", answers(hello(), greedy)),
    ] {
        let before = world.snapshot();
        let peer = Peer::answering(answers).await;
        let job = importer.import(&peer.ticket(), &world.target()).await;
        assert_eq!(failed(&job).await, Code::VersionMismatch, "{what}");
        assert_images(&before, &world.snapshot());
        assert!(leftovers(&world.path("parent")).is_empty(), "{what}");
    }
    let name = "\u{1b}]0;x\u{7}".repeat(200);
    let loud = answers(Hello { device_name: name.clone(), ..hello() }, Granted { source_name: name, ..granted() });
    let mut peer = Peer::answering(loud).await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.offer(&three()).await;
    session.control.next_deed().await;
    let shown = job.view().peer.expect("a peer").device_name;
    assert!(shown.len() <= 256, "{}", shown.len());
    drop((session, peer));
    waits_for_peer(&job).await;
    job.abort().await;
    assert_eq!(failed(&job).await, Code::Aborted);
}

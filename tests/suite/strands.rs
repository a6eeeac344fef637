//! Chunks beside their lane, over the second connection to a distant peer (SPEC §5.11).

use std::time::Duration;

use me_sync_protocol::frame::{FileStrand, Frame, Role, StreamHello};
use me_sync_protocol::reason::Code;
use tempfile::TempDir;

use crate::support::peer::{Exporting, Line, Peer, begin, chunk, end, open, phase_end};
use crate::support::raw::{self, Listing};
use crate::support::relay::{Course, End, Fate, How};
use crate::support::tree::{file, noise};
use crate::support::wire::Wire;
use crate::support::world::{World, refused};
use crate::support::{TestNode, completed};

const SIZE: usize = 24 << 20;

/// Far enough for a second connection.
fn far() -> Course {
    Course { latency: Duration::from_millis(15), ..Course::default() }
}

fn one_large_file() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    file(&dir.path().join("source"), "large", SIZE, 0o644);
    dir
}

// a lane is on one of the connections: without a strand one of the two would carry next to nothing
#[tokio::test(flavor = "multi_thread")]
async fn one_large_file_goes_over_both_connections_and_outlives_the_loss_of_either() {
    let dir = one_large_file();
    for lost in [0, 1] {
        let wire = Wire::of(&dir.path().join("source")).await;
        let dies = Course { end: End::After(SIZE as u64 / 6, How::Reset), ..far() };
        let journey = wire.migrate(move |n| Fate { up: far(), down: if n == lost { dies } else { far() } }).await;
        assert!(wire.relay.connections() > 2, "connection {lost} carried no sixth of it");
        assert_eq!(journey.tries, 1);
        assert!(journey.payload <= SIZE as u64 + (8 << 20), "{journey:?}");
    }
}

async fn strand(session: &mut Exporting, number: u8) -> Result<Line, Option<Code>> {
    let hello = StreamHello { session_id: session.session_id, role: Role::Strand(number) };
    open(&mut session.streams, session.importer, hello).await
}

fn on_strand(chunks: u32) -> Frame {
    Frame::FileStrand(FileStrand { chunks })
}

// SPEC §5.11
#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_strand_stand_where_the_lane_names_them() {
    let (importer, world) = (TestNode::start().await, World::new());
    let content = noise(511, 600_000);
    let listing = Listing::of(&[raw::file("file", &content)], content.len() as u64);
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.agreed(&listing).await;
    let mut lane = session.lane(0).await.expect("taken");
    let mut beside = strand(&mut session, 0).await.expect("taken");
    lane.send(&begin(0, &content)).await;
    lane.send(&on_strand(1)).await;
    lane.send(&chunk(&content[200_000..300_000])).await;
    lane.send(&on_strand(2)).await;
    lane.send(&end(0)).await;
    for part in [&content[..200_000], &content[300_000..400_000], &content[400_000..]] {
        beside.send(&chunk(part)).await;
    }
    session.control.send(&phase_end(1, content.len() as u64)).await;
    assert_eq!(session.finalize(&listing).await, None);
    drop((session, lane, beside));
    completed(&job).await;
    assert!(std::fs::read(world.target().join("file")).expect("it is there") == content);
}

// SPEC §5.3, §5.11
#[tokio::test(flavor = "multi_thread")]
async fn strands_of_no_lane_and_second_ones_are_not_taken() {
    let (importer, world) = (TestNode::start().await, World::new());
    let content = noise(512, 1000);
    let listing = Listing::of(&[raw::file("file", &content)], 1000);
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    let unexpected = Some(Code::FrameUnexpected);
    assert_eq!(strand(&mut session, 0).await.err(), Some(unexpected), "before there is a lane");
    session.agreed(&listing).await;
    let mut lane = session.lane(0).await.expect("taken");
    for number in [1, 4, 255] {
        assert_eq!(strand(&mut session, number).await.err(), Some(unexpected), "no lane {number}");
    }
    let first = strand(&mut session, 0).await;
    assert_eq!(strand(&mut session, 0).await.err(), Some(unexpected), "a second one");
    // and all that did the session no harm
    for frame in [begin(0, &content), chunk(&content), end(0)] {
        lane.send(&frame).await;
    }
    session.control.send(&phase_end(1, 1000)).await;
    assert_eq!(session.finalize(&listing).await, None);
    drop((session, lane, first));
    completed(&job).await;
}

// SPEC §5.11
#[tokio::test(flavor = "multi_thread")]
async fn strands_that_are_not_there_or_hold_no_chunks_end_the_session_by_name() {
    let (importer, world) = (TestNode::start().await, World::new());
    let content = noise(513, 100_000);
    let listing = Listing::of(&[raw::file("file", &content)], content.len() as u64);
    let cases: [(&str, Code, Option<Vec<Frame>>, Frame); 5] = [
        ("no strand", Code::FrameUnexpected, None, on_strand(1)),
        ("no chunks", Code::FrameUnexpected, Some(vec![chunk(&content)]), on_strand(0)),
        ("the end of the file", Code::FrameUnexpected, Some(vec![end(0)]), on_strand(1)),
        ("another strand", Code::FrameUnexpected, Some(vec![on_strand(1)]), on_strand(1)),
        (
            "one chunk and something else",
            Code::FrameUnexpected,
            Some(vec![chunk(&content[..10]), begin(0, &content)]),
            on_strand(2),
        ),
    ];
    for (what, code, on_the_strand, on_the_lane) in cases {
        refused(&importer, &world, what, code, async |session| {
            session.agreed(&listing).await;
            let mut lane = session.lane(0).await.expect("taken");
            lane.send(&begin(0, &content)).await;
            let mut beside = None;
            if let Some(frames) = on_the_strand {
                let mut line = strand(session, 0).await.expect("taken");
                for frame in &frames {
                    line.send(frame).await;
                }
                beside = Some(line);
            }
            lane.send(&on_the_lane).await;
            let code = session.control.aborted().await.expect("told why");
            session.control.ended_with(code);
            drop(beside);
        })
        .await;
    }
    refused(&importer, &world, "junk on a strand", Code::FrameUnknown, async |session| {
        session.agreed(&listing).await;
        let mut lane = session.lane(0).await.expect("taken");
        let mut beside = strand(session, 0).await.expect("taken");
        beside.raw(&[0xee; 64]).await;
        lane.send(&begin(0, &content)).await;
        lane.send(&on_strand(1)).await;
        let code = session.control.aborted().await.expect("told why");
        session.control.ended_with(code);
    })
    .await;
}

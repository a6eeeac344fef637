//! Exporters that stall: by the real clock of a node, 30 s without progress are a lost connection (SPEC §8.2), which
//! ends no session and deletes nothing. `protocol/tests/core` has the same by a virtual clock.

use std::time::Duration;

use me_sync_node::JobHandle;
use me_sync_protocol::frame::{Abort, Frame};
use me_sync_protocol::reason::Code;

use crate::support::peer::{Exporting, Peer, begin};
use crate::support::raw::{Listing, file};
use crate::support::tree::assert_images;
use crate::support::world::World;
use crate::support::{TestNode, failed, leftovers, waits_for_peer};

/// The stall is noticed after 30 s, and a busy machine takes its time.
const NOTICED: Duration = Duration::from_secs(50);

/// The importer's end of a stall: the session waits, the target is as it was, and a person may end it.
async fn is_lost_and_waits(job: &JobHandle, world: &World, peer: Peer, session: Exporting) {
    waits_for_peer(job).await;
    drop((session, peer));
    job.abort().await;
    assert_eq!(failed(job).await, Code::Aborted);
    assert!(leftovers(&world.path("parent")).is_empty(), "leftovers");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_and_then_nothing_is_a_lost_connection() {
    // A40
    let (importer, world) = (TestNode::start().await, World::new());
    let before = world.snapshot();
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    let (kind, length) = ([0x11, 0, 0, 0], 1000_u32.to_be_bytes());
    session.control.raw(&[&kind[..], &length, &[0; 10]].concat()).await;
    is_lost_and_waits(&job, &world, peer, session).await;
    assert_images(&before, &world.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_never_ends_is_a_lost_connection_however_lively_the_control_stream_is() {
    // A47, A51
    let (importer, world) = (TestNode::start().await, World::new());
    let before = world.snapshot();
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.agreed(&Listing::of(&[file("a", b"alpha"), file("e", b"echo")], 9)).await;
    let mut lane = session.lane(0).await.expect("taken");
    lane.send(&begin(0, b"alpha")).await;
    let lively = async {
        // every sign of life of the node gets an answer
        while let Some(frame) = session.control.next().await {
            assert!(!matches!(frame, Frame::Abort(Abort { .. })), "a stall ends no session: {frame:?}");
            session.control.send(&frame).await;
        }
    };
    tokio::time::timeout(NOTICED, lively).await.expect("the stall is noticed");
    is_lost_and_waits(&job, &world, peer, session).await;
    assert_images(&before, &world.snapshot());
}

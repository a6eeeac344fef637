//! What a review of resume found, one claim each.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use me_sync_node::Outcome;
use me_sync_protocol::frame::{Abort, Ack, Frame, IndexRange, PendingList, Role, StreamHello};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::message::Response;
use me_sync_protocol::reason::Code;
use tempfile::TempDir;

use crate::support::peer::{Peer, exporter};
use crate::support::raw::{self, Listing};
use crate::support::relay::{Fate, How};
use crate::support::tree::file;
use crate::support::wire::{Wire, sees, waits_for_its_peer};
use crate::support::world::World;
use crate::support::{TestNode, end, failed};

fn tree(files: usize, size: usize) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for n in 0..files {
        file(&dir.path().join("source"), &format!("f{n}"), size, 0o644);
    }
    dir
}

fn source(dir: &TempDir) -> PathBuf {
    dir.path().join("source")
}

async fn ends_within(job: &me_sync_node::JobHandle, secs: u64) -> Result<(Outcome, Duration), String> {
    let began = Instant::now();
    match tokio::time::timeout(Duration::from_secs(secs), job.outcome()).await {
        Ok(outcome) => Ok((outcome, began.elapsed())),
        Err(_) => Err(format!("{:?}", job.view())),
    }
}

// an abort frame races the end of its own lanes
#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_is_aborted_in_the_bulk_ends_the_exporter_too() {
    let dir = tree(40, 100_000);
    let mut lost = 0;
    for _ in 0..10 {
        let wire = Wire::of(&source(&dir)).await;
        wire.relay.fate(|_| Fate::slow(1_000_000));
        let offer = wire.offer().await;
        let job = wire.import(&offer).await;
        wire.relay.down().reaches(500_000).await;
        job.abort().await;
        assert_eq!(failed(&job).await, Code::Aborted);
        lost += usize::from(ends_within(&offer.job, 8).await.is_err());
    }
    assert_eq!(lost, 0, "exporters that wait for an importer that is gone for good, of 10");
}

// the other way round
#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_is_aborted_in_the_bulk_ends_the_importer_too() {
    // what is on its way when it is aborted must come through in the time that an end may take
    let dir = tree(40, 50_000);
    let mut lost = 0;
    for _ in 0..10 {
        let wire = Wire::of(&source(&dir)).await;
        wire.relay.fate(|_| Fate::slow(1_000_000));
        let offer = wire.offer().await;
        let job = wire.import(&offer).await;
        wire.relay.down().reaches(500_000).await;
        offer.job.abort().await;
        assert_eq!(failed(&offer.job).await, Code::Aborted);
        // its process ends, as that of `send` does
        wire.relay.open(false);
        wire.relay.cut(How::Reset);
        lost += usize::from(ends_within(&job, 8).await.is_err());
    }
    assert_eq!(lost, 0, "importers that wait for an exporter that ended the session, of 10");
}

// an importer that sees its lanes end takes that for a lost connection
#[tokio::test(flavor = "multi_thread")]
async fn the_lanes_of_an_aborted_export_end_only_when_the_importer_has_heard_of_it() {
    let (node, dir) = (TestNode::start().await, tree(1, 1000));
    let offer = node.offer(&source(&dir)).await;
    let mut peer = Peer::dial(&offer.ticket).await;
    let mut session = peer.importing(&offer.ticket).await;
    let manifest = session.manifest().await;
    let all = IndexRange { start: EntryIndex(0), len: manifest.len() };
    session
        .control
        .send(&Frame::PendingList(PendingList { ranges: vec![all], partial: Vec::new(), more: false }))
        .await;
    let (_, mut lane) = peer.inbound().await;
    assert!(matches!(lane.next().await, Some(Frame::Hello(_))));
    lane.send(&Frame::Ack(Ack { refused: None })).await;
    while !matches!(lane.next().await.expect("the file"), Frame::FileEnd(_)) {}
    offer.job.abort().await;
    assert_eq!(session.control.aborted().await, Some(Code::Aborted));
    assert_eq!(session.control.next().await, None, "more than its last word");
    // an answer on the same connection comes after whatever ended before it
    let again = peer.redeem(&offer.ticket).await;
    let early = lane.next().now_or_never();
    assert!(early.is_none(), "the lane gave {early:?} before the control stream was let go; answered {again:?}");
    drop(session);
    assert_eq!(lane.next().await, None);
    assert_eq!(failed(&offer.job).await, Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_aborted_while_it_waits_is_told_to_the_exporter_later() {
    let dir = tree(8, 256 << 10);
    let wire = Wire::of(&source(&dir)).await;
    wire.relay.fate(|_| Fate::slow(1_000_000));
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    wire.relay.down().reaches(300_000).await;
    wire.relay.open(false);
    wire.relay.cut(How::Reset);
    waits_for_its_peer(&job).await;
    job.abort().await;
    assert_eq!(failed(&job).await, Code::Aborted);
    wire.relay.fate(|_| Fate::default());
    wire.relay.open(true);
    // the importer's node still runs
    let heard = ends_within(&offer.job, 40).await;
    assert!(heard.is_ok(), "the exporter waits for ever: {heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_an_older_session_cannot_touch_the_session_of_another() {
    let (node, world) = (TestNode::start().await, World::new());
    let first = node.offer(&world.path("source")).await;
    let mut old = Peer::dial(&first.ticket).await;
    let session = old.importing(&first.ticket).await;
    let _ = sees(&first.job, "hashed", |v| v.progress.files_total > 0).await;
    first.job.suspend().await;
    end(&first.job).await;
    drop(session);
    // goes on with the old session; a second ticket is for whoever comes
    let second = node.offer(&world.path("source")).await;
    assert!(second.continues.is_some());
    let mut other = Peer::dial(&second.ticket).await;
    let mut own = other.importing(&second.ticket).await;
    own.manifest().await;
    let hello = StreamHello { session_id: own.granted.session_id, role: Role::Control };
    let refused = other.open(exporter(&second.ticket), hello).await.err();
    assert_eq!(refused, Some(Some(Code::FrameUnexpected)), "one control stream a conversation");
    // the owner of the old session redeems its ticket once more
    let answer = Response::decode(&old.redeem(&first.ticket).await).expect("an answer");
    let hello = StreamHello { session_id: own.granted.session_id, role: Role::Control };
    let again = other.open(exporter(&second.ticket), hello).await.err();
    assert_eq!(again, Some(Some(Code::FrameUnexpected)), "nothing changed for the other; the old one heard {answer:?}");
    assert!(!matches!(answer, Response::Granted(_)), "granted a session that this job does not serve: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_exporter_says_that_the_manifest_changed_can_still_be_aborted() {
    let (importer, world) = (TestNode::start().await, World::new());
    let listing = Listing::of(&[raw::file("a", b"alpha")], 5);
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.agreed(&listing).await;
    session.control.send(&Frame::Abort(Abort { code: Code::ManifestChanged })).await;
    drop(session);
    // redeemed again, it gives the same session
    let _again = peer.exporting().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    job.abort().await;
    let ended = ends_within(&job, 10).await;
    assert!(ended.is_ok(), "it cannot be stopped: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_is_stopped_while_it_looks_what_is_here_ends_at_once() {
    let dir = tree(8, 256 << 10);
    let wire = Wire::of(&source(&dir)).await;
    wire.relay.fate(|_| Fate::slow(1_000_000));
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    // nothing is staged, so that there is nothing to look through
    sees(&job, "agreed", |v| v.progress.files_total > 0).await;
    wire.relay.cut(How::Silence);
    wire.relay.open(false);
    job.suspend().await;
    end(&job).await;
    let session = job.view().session_id.expect("a session");
    wire.relay.fate(|_| Fate {
        up: crate::support::relay::Course::ends(crate::support::relay::End::After(0, How::Silence)),
        ..Fate::default()
    });
    wire.relay.open(true);
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let job = wire.importer.node.handle().resume(session).await.expect("resumed");
        job.suspend().await;
        let (_, took) = ends_within(&job, 40).await.expect("it ends");
        slowest = slowest.max(took);
    }
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
}

// one large file: no file is through for long, so no checkpoint notes that the session is alive
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_receives_one_large_file_is_noted_to_be_alive() {
    let dir = tree(1, 16 << 20);
    let wire = Wire::of(&source(&dir)).await;
    wire.relay.fate(|_| Fate::slow(100_000));
    let offer = wire.offer().await;
    let job = wire.import(&offer).await;
    wire.relay.down().reaches(100_000).await;
    tokio::time::sleep(Duration::from_secs(75)).await;
    let copy = tempfile::tempdir().unwrap();
    std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let name = me_sync_node::store::STORE_FILE;
    std::fs::copy(wire.importer.state_dir().join(name), copy.path().join(name)).unwrap();
    let store = me_sync_node::store::Store::open(copy.path()).expect("a copy");
    let record = store.imports().unwrap().pop().expect("a record");
    let idle = record.last.idle(&me_sync_node::store::LastSeen::now());
    job.suspend().await;
    end(&job).await;
    assert!(idle < Duration::from_secs(70), "it was active all the time; noted {idle:?} ago");
}

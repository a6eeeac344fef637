//! Streams that do not belong where they come in: refused by name or dropped, and no session of another peer notices.

use std::time::Instant;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use me_sync_protocol::frame::{Frame, Role, StreamHello};
use me_sync_protocol::message::{AbortSession, Request, Response, SessionQuery, encode};
use me_sync_protocol::reason::Code;

use crate::support::peer::{Peer, STREAMS, begin, chunk, end, exporter, open, phase_end};
use crate::support::raw::{Listing, file};
use crate::support::tree::{assert_same, sample};
use crate::support::world::{Bystander, World};
use crate::support::{TestNode, completed, migrate};

#[tokio::test(flavor = "multi_thread")]
async fn lanes_too_early_too_high_or_twice_are_refused_and_the_session_goes_on() {
    let (importer, world) = (TestNode::start().await, World::new());
    let listing = Listing::of(&[file("a", b"alpha")], 5);
    let mut peer = Peer::listen().await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut s = peer.exporting().await;
    let no = Some(Some(Code::FrameUnexpected));
    assert_eq!(s.lane(0).await.err(), no, "a lane before the importer agreed");
    s.agreed(&listing).await;
    let mut lane = s.lane(0).await.expect("taken");
    for number in [4, 7, 8, 255] {
        assert_eq!(s.lane(number).await.err(), no, "lane {number}");
    }
    assert_eq!(s.lane(0).await.err(), no, "the same lane twice");
    let control = StreamHello { session_id: s.session_id, role: Role::Control };
    assert_eq!(open(&mut s.streams, s.importer, control).await.err(), no, "a control stream of the exporter");
    for frame in [begin(0, b"alpha"), chunk(b"alpha"), end(0)] {
        lane.send(&frame).await;
    }
    s.control.send(&phase_end(1, 5)).await;
    assert_eq!(s.finalize(&listing).await, None);
    drop((s, lane));
    completed(&job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_names_another_peers_session_is_refused_and_the_victim_goes_on() {
    // A48, at the importer: the attacker exports something of its own there
    let (importer, world) = (TestNode::start().await, World::new());
    let mut victim = Bystander::start(&importer).await;
    let mut attacker = Peer::listen().await;
    let job = importer.import(&attacker.ticket(), &world.target()).await;
    let mut s = attacker.exporting().await;
    s.agreed(&Listing::of(&[file("a", b"alpha")], 5)).await;
    let own = s.session_id;
    for role in [Role::Control, Role::Lane(0), Role::Lane(1)] {
        s.session_id = victim.session_id();
        let hello = StreamHello { session_id: victim.session_id(), role };
        assert_eq!(open(&mut s.streams, s.importer, hello).await.err(), Some(Some(Code::SessionUnknown)), "{role:?}");
        victim.step().await;
    }
    s.session_id = own;
    s.lane(0).await.expect("its own session is as it was");
    job.abort().await;
    drop(s);
    victim.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_exporter_only_its_own_importer_can_ask_about_or_stop_a_session() {
    // A48, A79
    let (node, world) = (TestNode::start().await, World::new());
    let (one, two) = (node.offer(&world.path("source")).await, node.offer(&world.path("source")).await);
    let mut victim = Peer::dial(&one.ticket).await;
    let mut session = victim.importing(&one.ticket).await;
    let mut attacker = Peer::dial(&two.ticket).await;
    let own = attacker.importing(&two.ticket).await;
    let (id, peer) = (session.granted.session_id, exporter(&one.ticket));
    for role in [Role::Control, Role::Lane(0)] {
        let refused = attacker.open(peer, StreamHello { session_id: id, role }).await.err();
        assert_eq!(refused, Some(Some(Code::SessionUnknown)), "{role:?}");
    }
    let unknown = encode(&Response::Refused(Code::SessionUnknown));
    let abort = Request::Abort(AbortSession { session_id: id, code: Code::Aborted });
    for request in [Request::Status(SessionQuery { session_id: id }), abort] {
        assert_eq!(attacker.ask(peer, &encode(&request)).await, unknown, "{request:?}");
    }
    // a second control stream of the right peer is one too many, too
    for id in [id, own.granted.session_id] {
        let hello = StreamHello { session_id: id, role: Role::Control };
        let (who, expected) = if id == own.granted.session_id {
            (&mut attacker, Code::FrameUnexpected)
        } else {
            (&mut victim, Code::FrameUnexpected)
        };
        assert_eq!(who.open(peer, hello).await.err(), Some(Some(expected)));
    }
    assert!(matches!(session.control.next_deed().await, Some(Frame::ManifestBegin(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_greeting_is_dropped_after_five_seconds() {
    let (node, world) = (TestNode::start().await, World::new());
    let ticket = node.offer(&world.path("source")).await.ticket;
    let mut peer = Peer::dial(&ticket).await;
    let mut silent = peer.control.open_stream(exporter(&ticket), STREAMS).await.expect("opened");
    silent.flush().await.expect("negotiated");
    let began = Instant::now();
    let mut byte = [0];
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), silent.read(&mut byte)).await;
    assert!(!matches!(ended.expect("dropped"), Ok(n) if n > 0));
    assert!((4..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_silent_streams_keep_nobody_from_working() {
    // A62, A70: at an importer in the middle of a bulk, and at an exporter that others come to
    let (node, dir) = (TestNode::start().await, tempfile::tempdir().unwrap());
    let source = dir.path().join("source");
    sample(&source);
    let mut honest = Bystander::start(&node).await;
    let ticket = node.offer(&source).await.ticket;
    let mut attacker = Peer::dial(&ticket).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        // beyond its limits the node resets streams and then the connection
        let Ok(mut stream) = attacker.control.open_stream(exporter(&ticket), STREAMS).await else { break };
        if stream.flush().await.is_err() {
            break;
        }
        held.push(stream);
    }
    assert!(held.len() >= 17, "{}", held.len());
    honest.step().await;
    let other = TestNode::start().await;
    let began = Instant::now();
    let (_, job) = migrate(&node, &other, &source, &dir.path().join("target")).await;
    completed(&job).await;
    assert_same(&source, &dir.path().join("target"));
    let (_, job) = migrate(&other, &node, &source, &dir.path().join("second")).await;
    completed(&job).await;
    assert!(began.elapsed().as_secs() < 5, "while the silent streams stand: {:?}", began.elapsed());
    honest.finish().await;
}

//! A real node that strangers measure (SPEC §5.12): noise for anybody, but bounded, and never beside a transfer.

use bytes::BytesMut;
use libp2p::{PeerId, StreamProtocol};
use me_sync_node::net::PROBE_PROTOCOL;
use me_sync_protocol::codec;
use me_sync_protocol::frame::{Ack, Frame, IndexRange, PendingList, Probe};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;

use crate::support::TestNode;
use crate::support::peer::{Line, Peer, exporter};
use crate::support::tree::file;
use crate::support::wire::sees;

/// Asks for noise: what the node answers, and the stream. None if it does not speak that protocol.
async fn probe(peer: &mut Peer, node: PeerId) -> Option<(Option<Frame>, Line)> {
    let stream = peer.control.open_stream(node, StreamProtocol::new(PROBE_PROTOCOL)).await.ok()?;
    let mut line = Line::new(stream);
    line.send(&Frame::Probe(Probe { bytes: 0 })).await;
    Some((line.next().await, line))
}

/// A stream of the protocol on which nothing, or half of what is asked for, was said.
async fn silent(peer: &mut Peer, node: PeerId, half: bool) -> Line {
    let stream = peer.control.open_stream(node, StreamProtocol::new(PROBE_PROTOCOL)).await.expect("spoken here");
    let mut line = Line::new(stream);
    if half {
        let mut raw = BytesMut::new();
        codec::encode(&Frame::Probe(Probe { bytes: 0 }), &mut raw);
        line.raw(&raw[..3]).await;
    }
    line
}

fn ack(refused: Option<Code>) -> Option<Frame> {
    Some(Frame::Ack(Ack { refused }))
}

fn source() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    file(dir.path(), "a", 100, 0o644);
    dir
}

// SPEC §5.12
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_served_once_and_the_next_one_waits_whoever_it_is() {
    let (dir, node) = (source(), TestNode::start().await);
    let ticket = node.offer(dir.path()).await.ticket;
    let mut first = Peer::dial(&ticket).await;
    let (answer, mut line) = probe(&mut first, exporter(&ticket)).await.expect("spoken here");
    assert_eq!(answer, ack(None));
    assert_eq!(line.next().await, None, "no byte was asked for");
    let mut second = Peer::dial(&ticket).await;
    for peer in [&mut first, &mut second] {
        let (answer, mut line) = probe(peer, exporter(&ticket)).await.expect("spoken here");
        assert_eq!(answer, ack(Some(Code::Busy)));
        assert_eq!(line.next().await, None);
    }
}

// SPEC §5.12
#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_do_not_say_what_they_want_keep_nobody_else_from_being_served() {
    let (dir, node) = (source(), TestNode::start().await);
    let ticket = node.offer(dir.path()).await.ticket;
    let (mut strangers, mut held) = (Vec::new(), Vec::new());
    for half in [false, true] {
        let mut stranger = Peer::dial(&ticket).await;
        for _ in 0..6 {
            held.push(silent(&mut stranger, exporter(&ticket), half).await);
        }
        strangers.push(stranger);
    }
    let mut peer = Peer::dial(&ticket).await;
    let (answer, mut line) = probe(&mut peer, exporter(&ticket)).await.expect("spoken here");
    assert_eq!(answer, ack(None));
    assert_eq!(line.next().await, None, "no byte was asked for");
}

// SPEC §5.12
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_while_a_session_moves_its_files() {
    let (dir, node) = (source(), TestNode::start().await);
    let offer = node.offer(dir.path()).await;
    let mut peer = Peer::dial(&offer.ticket).await;
    let mut session = peer.importing(&offer.ticket).await;
    session.manifest().await;
    let ranges = vec![IndexRange { start: EntryIndex(0), len: 1 }];
    session.control.send(&Frame::PendingList(PendingList { ranges, partial: Vec::new(), more: false })).await;
    sees(&offer.job, "that files move", |view| view.phase == Phase::BulkTransferring).await;
    let mut stranger = Peer::dial(&offer.ticket).await;
    let (answer, _) = probe(&mut stranger, exporter(&offer.ticket)).await.expect("spoken here");
    assert_eq!(answer, ack(Some(Code::Busy)));
}

// SPEC §5.12
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_to_be_measured_does_not_speak_the_protocol() {
    let (dir, node) = (source(), TestNode::with(|config| config.probe = false).await);
    let ticket = node.offer(dir.path()).await.ticket;
    let mut peer = Peer::dial(&ticket).await;
    assert!(probe(&mut peer, exporter(&ticket)).await.is_none());
}

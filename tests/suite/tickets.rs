//! Tickets that open nothing (RELIABILITY A74-A83): one identical answer on the wire, and no trace of the try.

use std::time::Duration;

use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{Consent, ImportOptions, JobHandle, OfferOptions};
use me_sync_protocol::frame::{Abort, Frame};
use me_sync_protocol::ids::{Digest, Nonce, Secret, TicketId};
use me_sync_protocol::message::{Redeem, Request, Response, encode};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;

use crate::support::peer::{Peer, exporter};
use crate::support::tree::assert_images;
use crate::support::world::{World, records};
use crate::support::{TestNode, completed, end, failed, leftovers};

fn edited(ticket: &Ticket, edit: impl FnOnce(&mut Ticket)) -> Ticket {
    let mut ticket = ticket.clone();
    edit(&mut ticket);
    ticket
}

/// The one answer.
fn no() -> Vec<u8> {
    encode(&Response::Refused(Code::TicketInvalid))
}

async fn expired(node: &TestNode, world: &World) -> Ticket {
    let source = Source::scan(&world.path("source"), &ScanOptions::default()).expect("fine");
    let options = OfferOptions { ttl: Duration::from_secs(1), ..OfferOptions::default() };
    let offer = node.node.handle().offer(source, options).await.expect("offered");
    assert_eq!(failed(&offer.job).await, Code::SessionExpired);
    offer.ticket
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_ticket_the_answer_is_the_same() {
    let (node, other, world) = (TestNode::start().await, TestNode::start().await, World::new());
    let source = world.path("source");
    let ticket = node.offer(&source).await.ticket;
    let foreign = other.offer(&source).await.ticket;
    let (used, aborted) = (node.offer(&source).await, node.offer(&source).await);
    let done = node.offer(&source).await;
    let old = expired(&node, &world).await;
    aborted.job.abort().await;
    end(&aborted.job).await;
    completed(&other.import(&done.ticket, &world.path("elsewhere")).await).await;
    let (mut first, mut peer) = (Peer::dial(&ticket).await, Peer::dial(&ticket).await);
    assert!(matches!(Response::decode(&first.redeem(&used.ticket).await), Ok(Response::Granted(_))));
    let of = |t: &Ticket| peer.redemption(t);
    let wrong_secret = edited(&ticket, |t| t.secret = Secret::from_bytes([9; 32]));
    let asks: Vec<(&str, Redeem)> = vec![
        ("A74 wrong secret", of(&wrong_secret)),
        ("A81 unknown", Redeem { ticket_id: TicketId([9; 16]), ..of(&ticket) }),
        ("A75 used by another", of(&used.ticket)),
        ("A75 used and completed", of(&done.ticket)),
        ("A75 closed", of(&aborted.ticket)),
        ("A76 expired", of(&old)),
        ("A78 foreign", of(&foreign)),
        ("a proof of another peer", first.redemption(&ticket)),
        ("a proof for another nonce", Redeem { nonce: Nonce([1; 16]), ..of(&ticket) }),
        ("no proof", Redeem { proof: Digest([0; 32]), ..of(&ticket) }),
    ];
    for (what, ask) in asks {
        let answer = peer.ask(exporter(&ticket), &encode(&Request::Redeem(ask))).await;
        assert_eq!(answer, no(), "{what}");
    }
    // A74: these were ten guesses; the eleventh of this minute is not looked at
    let more = peer.redeem(&wrong_secret).await;
    assert_eq!(more, encode(&Response::Refused(Code::RateLimited)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_peer_gets_the_same_session_again_and_only_it() {
    // A75, A79, A81
    let (node, world) = (TestNode::start().await, World::new());
    let ticket = node.offer(&world.path("source")).await.ticket;
    let (mut first, mut second) = (Peer::dial(&ticket).await, Peer::dial(&ticket).await);
    let granted = first.redeem(&ticket).await;
    assert!(matches!(Response::decode(&granted), Ok(Response::Granted(_))));
    assert_eq!(second.redeem(&ticket).await, no());
    assert_eq!(first.redeem(&ticket).await, granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_over_gives_its_peer_no_session_again_even_while_its_stream_stands() {
    // A75: the exporter waits for this peer to close its end
    let (node, world) = (TestNode::start().await, World::new());
    let ticket = node.offer(&world.path("source")).await.ticket;
    let mut peer = Peer::dial(&ticket).await;
    let mut session = peer.importing(&ticket).await;
    session.control.send(&Frame::Abort(Abort { code: Code::Declined })).await;
    while session.control.next().await.is_some() {}
    assert_eq!(peer.redeem(&ticket).await, no());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_importers_in_the_same_moment_exactly_one_wins() {
    // A77
    let (node, world) = (TestNode::start().await, World::new());
    let ticket = node.offer(&world.path("source")).await.ticket;
    let (mut a, mut b) = (Peer::dial(&ticket).await, Peer::dial(&ticket).await);
    for _ in 0..5 {
        let ticket = node.offer(&world.path("source")).await.ticket;
        let answers = tokio::join!(a.redeem(&ticket), b.redeem(&ticket));
        let lost = [&answers.0, &answers.1].iter().filter(|answer| ***answer == no()).count();
        let won = |raw: &[u8]| matches!(Response::decode(raw), Ok(Response::Granted(_)));
        assert_eq!((lost, won(&answers.0) != won(&answers.1)), (1, true), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_said_hello_redeems_nothing() {
    let (node, world) = (TestNode::start().await, World::new());
    let ticket = node.offer(&world.path("source")).await.ticket;
    let mut rude = Peer::connect(&ticket).await;
    let answer = rude.redeem(&ticket).await;
    assert_eq!(answer, encode(&Response::Refused(Code::VersionMismatch)));
    let mut polite = Peer::dial(&ticket).await;
    assert!(matches!(Response::decode(&polite.redeem(&ticket).await), Ok(Response::Granted(_))));
}

async fn import(node: &TestNode, ticket: Ticket, world: &World) -> JobHandle {
    let options = ImportOptions {
        consent: Consent::Given,
        connect_timeout: Duration::from_secs(2),
        ..ImportOptions::new(world.target())
    };
    node.node.handle().import(ticket, options).await.expect("started")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_ticket_opens_nothing_and_leaves_nothing_at_the_importer() {
    // A76, A78, A83
    let (node, importer, world) = (TestNode::start().await, TestNode::start().await, World::new());
    let ticket = node.offer(&world.path("source")).await.ticket;
    let attacker = Peer::listen().await;
    let old = expired(&node, &world).await;
    let strange = ["/dns4/localhost/tcp/1", "/unix/tmp/x", "/memory/1", "/ip4/127.0.0.1/tcp/1/p2p-circuit"];
    let bad: Vec<(&str, &[Code], Ticket)> = vec![
        // first: a connection that stands needs no address
        (
            "A83 addresses that are never dialled",
            &[Code::PeerNotFound],
            edited(&ticket, |t| t.addresses = strange.map(String::from).into()),
        ),
        (
            "A78 another peer",
            &[Code::PeerMismatch, Code::PeerNotFound],
            edited(&ticket, |t| t.peer_id = attacker.id.to_bytes()),
        ),
        (
            "A78 an attacker's addresses",
            &[Code::PeerMismatch, Code::PeerNotFound],
            edited(&ticket, |t| t.addresses = attacker.ticket().addresses),
        ),
        ("A78 later expiry", &[Code::TicketInvalid], edited(&old, |t| t.expires_at_ms = u64::MAX)),
        ("A78 another ticket's id", &[Code::TicketInvalid], edited(&ticket, |t| t.ticket_id = TicketId([9; 16]))),
        ("A74 another secret", &[Code::TicketInvalid], edited(&ticket, |t| t.secret = Secret::from_bytes([9; 32]))),
    ];
    let before = world.snapshot();
    for (what, codes, ticket) in bad {
        let job = import(&importer, ticket, &world).await;
        let code = failed(&job).await;
        assert!(codes.contains(&code), "{what}: {code}");
        assert_eq!(job.view().session_id, None, "{what}");
        assert_images(&before, &world.snapshot());
        assert!(leftovers(&world.path("parent")).is_empty(), "{what}");
        assert!(records(importer.state_dir()).is_empty(), "{what}");
    }
    // none of that used it up
    completed(&importer.import(&ticket, &world.target()).await).await;
}

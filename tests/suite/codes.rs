//! Spoken codes between nodes over loopback, where mDNS is off and the device to ask is named; and peers that guess, or
//! play the exporter.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_node::limit::Rate;
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{CodeError, CodeOptions, Consent, ImportOptions, JobView, Offer, OfferOptions};
use me_sync_protocol::code::Code as Spoken;
use me_sync_protocol::code::exchange::Asker;
use me_sync_protocol::ids::Digest;
use me_sync_protocol::message::{CodeAnswer, CodeBegin, CodeConfirm, CodeGiven, Request, Response, encode};
use me_sync_protocol::proof::Ends;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;

use crate::support::peer::{Answers, Peer, exporter};
use crate::support::tree::noise;
use crate::support::world::World;
use crate::support::{PATIENCE, TestNode, completed};

async fn offer(node: &TestNode, world: &World) -> Offer {
    let source = Source::scan(&world.path("source"), &ScanOptions::default()).expect("fine");
    let options = OfferOptions { code: Some(true), ..OfferOptions::default() };
    node.node.handle().offer(source, options).await.expect("offered")
}

fn at(ticket: &Ticket) -> (PeerId, Vec<Multiaddr>) {
    (exporter(ticket), ticket.addresses.iter().map(|a| a.parse().expect("an address")).collect())
}

async fn say(importer: &TestNode, code: &str, to: &[&Ticket]) -> Result<Ticket, CodeError> {
    let peers = to.iter().map(|ticket| at(ticket)).collect();
    let options = CodeOptions { peers, timeout: Duration::from_secs(3), ..CodeOptions::default() };
    importer.node.handle().ticket_for(&Spoken::parse(code).expect("a code"), options).await
}

/// The same number with other words.
fn wrong(code: &str) -> String {
    let (number, words) = code.split_once('-').expect("a code");
    format!("{number}-{}", if words == "act-act" { "add-add" } else { "act-act" })
}

async fn sees(offer: &Offer, what: &str, is: impl FnMut(&JobView) -> bool) -> JobView {
    let mut views = offer.job.watch();
    match tokio::time::timeout(PATIENCE, views.wait_for(is)).await {
        Ok(view) => view.expect("the job goes on").clone(),
        Err(_) => panic!("not seen: {what}: {:#?}", offer.job.view()),
    }
}

// SPEC §6.9
#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_said_opens_what_its_ticket_opens_once() {
    let (node, importer, other, world) =
        (TestNode::start().await, TestNode::start().await, TestNode::start().await, World::new());
    let offer = offer(&node, &world).await;
    let code = offer.code.clone().expect("a code");
    assert_eq!(offer.job.view().spoken_code, Some(code.clone()));
    let ticket = say(&importer, &code.to_uppercase(), &[&offer.ticket]).await.expect("the ticket");
    assert_eq!(ticket, offer.ticket);
    sees(&offer, "the code is used", |view| view.spoken_code.is_none() && view.codes_burnt == 0).await;
    let number = Spoken::parse(&code).expect("a code").number();
    assert_eq!(say(&other, &code, &[&offer.ticket]).await, Err(CodeError::Nobody { number, asked: 1 }));
    // whoever has proven it may say it again, also in the middle
    assert!(say(&importer, &code, &[&offer.ticket]).await.is_ok());
    completed(&importer.import(&ticket, &world.target()).await).await;
    completed(&offer.job).await;
}

// SPEC §6.9
#[tokio::test(flavor = "multi_thread")]
async fn who_answers_at_a_given_address_is_asked_for_the_code_though_its_key_is_not_known() {
    let (node, other, importer, world) =
        (TestNode::start().await, TestNode::start().await, TestNode::start().await, World::new());
    let (offer, elsewhere) = (offer(&node, &world).await, offer(&other, &world).await);
    let code = Spoken::parse(&offer.code.clone().expect("a code")).expect("a code");
    // nobody is at the first, and somebody else at the second
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let mut addresses: Vec<Multiaddr> = vec![format!("/ip4/127.0.0.1/tcp/{gone}").parse().expect("an address")];
    addresses.extend([&elsewhere, &offer].into_iter().flat_map(|offer| at(&offer.ticket).1));
    let handle = importer.node.handle();
    assert_eq!(handle.ticket_for(&code, CodeOptions::at(&addresses)).await.as_ref(), Ok(&offer.ticket));
    // an address that says whose it is counts for that device only
    let pinned: Vec<Multiaddr> =
        at(&offer.ticket).1.into_iter().map(|address| address.with_p2p(exporter(&elsewhere.ticket)).unwrap()).collect();
    let options = CodeOptions { timeout: Duration::from_secs(2), ..CodeOptions::at(&pinned) };
    // by a node that knows neither of the two
    let (fresh, number) = (TestNode::start().await, code.number());
    let found = fresh.node.handle().ticket_for(&code, options).await;
    assert_eq!(found, Err(CodeError::Nobody { number, asked: 0 }));
    assert_eq!(handle.ticket_for(&code, CodeOptions::at(&[])).await, Err(CodeError::NoDiscovery));
}

// SPEC §6.10
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_code_is_refused_by_name_and_another_takes_its_place_five_times() {
    let (node, importer, world) = (TestNode::start().await, TestNode::start().await, World::new());
    let offer = offer(&node, &world).await;
    let mut code = offer.code.clone().expect("a code");
    for burnt in 1..5 {
        let number = Spoken::parse(&code).expect("a code").number();
        let refused = say(&importer, &wrong(&code), &[&offer.ticket]).await;
        assert_eq!(refused, Err(CodeError::Wrong { number }));
        let view = sees(&offer, "it is burnt", |view| view.codes_burnt == burnt).await;
        let next = view.spoken_code.expect("another one");
        assert_ne!(next, code);
        code = next;
    }
    say(&importer, &wrong(&code), &[&offer.ticket]).await.expect_err("wrong");
    sees(&offer, "there are no more", |view| view.codes_burnt == 5 && view.spoken_code.is_none()).await;
    say(&importer, &code, &[&offer.ticket]).await.expect_err("no code any more");
    // its ticket is none the worse
    completed(&importer.import(&offer.ticket, &world.target()).await).await;
}

// SPEC §6.10
#[tokio::test(flavor = "multi_thread")]
async fn unknown_numbers_and_nonsense_have_one_answer_and_burn_nothing() {
    let (node, world) = (TestNode::start().await, World::new());
    let offer = offer(&node, &world).await;
    let code = Spoken::parse(offer.code.as_deref().expect("a code")).expect("a code");
    let mut peer = Peer::dial(&offer.ticket).await;
    let other = if code.number() == 1 { 2 } else { 1 };
    let importer = peer.id.to_bytes();
    let ends = Ends { exporter: &offer.ticket.peer_id, importer: &importer };
    let (_, good) = Asker::begin(&code, ends, [1; 64]);
    let nothing = Digest([0xff; 32]);
    let asks = [
        Request::CodeBegin(CodeBegin { number: other, ..good }),
        Request::CodeBegin(CodeBegin { number: u16::MAX, ..good }),
        Request::CodeBegin(CodeBegin { number: code.number(), message: nothing }),
        Request::CodeConfirm(CodeConfirm { number: code.number(), proof: nothing }),
        Request::CodeConfirm(CodeConfirm { number: other, proof: nothing }),
    ];
    for ask in asks {
        let answer = peer.ask(exporter(&offer.ticket), &encode(&ask)).await;
        assert_eq!(answer, encode(&Response::Refused(Code::TicketInvalid)), "{ask:?}");
    }
    assert_eq!((offer.job.view().spoken_code, offer.job.view().codes_burnt), (offer.code.clone(), 0));
    let mut rude = Peer::connect(&offer.ticket).await;
    let answer = rude.ask(exporter(&offer.ticket), &encode(&Request::CodeBegin(good))).await;
    assert_eq!(answer, encode(&Response::Refused(Code::VersionMismatch)), "who has not said hello");
    let honest = TestNode::start().await;
    assert!(say(&honest, &code.to_text(), &[&offer.ticket]).await.is_ok());
}

// SPEC §6.10
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_plays_the_exporter_is_refused_by_name() {
    let importer = TestNode::start().await;
    let point = {
        // a true element of the group, of somebody who does not know the words
        let ends = Ends { exporter: b"a", importer: b"b" };
        Asker::begin(&Spoken::parse("7-act-act").expect("a code"), ends, [9; 64]).1.message
    };
    let good = encode(&Response::CodeAnswer(CodeAnswer { message: point }));
    let no_point = encode(&Response::CodeAnswer(CodeAnswer { message: Digest([0xff; 32]) }));
    let given =
        |ticket: &str| encode(&Response::CodeGiven(CodeGiven { proof: Digest([7; 32]), ticket: ticket.into() }));
    let done = encode(&Response::Done);
    let ticket = Peer::listen().await.ticket().to_uri();
    let cases = [
        ("another answer", [done.clone(), done.clone()], Code::FrameUnexpected),
        ("no element of the group", [no_point, done.clone()], Code::FrameUnexpected),
        ("another answer to the proof", [good.clone(), done], Code::FrameUnexpected),
        ("a wrong proof", [good.clone(), given(&ticket)], Code::PeerMismatch),
        ("a wrong proof and no ticket", [good, given("x")], Code::PeerMismatch),
    ];
    for (what, code, expected) in cases {
        let peer = Peer::answering(Answers { code, ..Answers::default() }).await;
        let refused = say(&importer, "7-velvet-harbor", &[&peer.ticket()]).await;
        assert_eq!(refused, Err(CodeError::Impostor { number: 7, code: expected }), "{what}");
    }
}

// SPEC §6.9
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_claim_every_number_do_not_hide_the_right_one() {
    let (node, importer, world) = (TestNode::start().await, TestNode::start().await, World::new());
    let offer = offer(&node, &world).await;
    let (one, two) = (Peer::listen().await, Peer::listen().await);
    let all = [&one.ticket(), &two.ticket(), &offer.ticket];
    let ticket = say(&importer, offer.code.as_deref().expect("a code"), &all).await.expect("the ticket");
    assert_eq!(ticket, offer.ticket);
}

// SPEC §6.10
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_guesses_of_hostile_peers_win_nothing_burn_five_codes_at_most_and_an_honest_transfer_goes_on() {
    let (node, importer, world) = (TestNode::start().await, TestNode::start().await, World::new());
    std::fs::write(world.path("source/bulk"), noise(3, 4 << 20)).expect("written");
    let beside = node.offer(&world.path("source")).await;
    let options = ImportOptions {
        consent: Consent::Given,
        limit: Some(Rate::new(1_000_000).expect("a rate")),
        ..ImportOptions::new(world.target())
    };
    let honest = importer.node.handle().import(beside.ticket, options).await.expect("started");
    let offer = offer(&node, &world).await;
    let guessers = (0..8).map(async |n: u8| {
        let mut peer = Peer::dial(&offer.ticket).await;
        let importer = peer.id.to_bytes();
        let ends = Ends { exporter: &offer.ticket.peer_id, importer: &importer };
        let mut won = 0;
        for _ in 0..10_000 / 8 {
            // they even know each number that is in use
            let number = offer.job.view().spoken_code.and_then(|code| code.split('-').next().map(str::to_owned));
            let guess = format!("{}-act-act", number.unwrap_or_else(|| "7".into()));
            let (asker, begin) = Asker::begin(&Spoken::parse(&guess).expect("a code"), ends, [n + 1; 64]);
            let answer = peer.ask(exporter(&offer.ticket), &encode(&Request::CodeBegin(begin))).await;
            let Ok(Response::CodeAnswer(answer)) = Response::decode(&answer) else { continue };
            let Ok((_, confirm)) = asker.answered(&answer) else { continue };
            let answer = peer.ask(exporter(&offer.ticket), &encode(&Request::CodeConfirm(confirm))).await;
            won += u32::from(matches!(Response::decode(&answer), Ok(Response::CodeGiven(_))));
        }
        won
    });
    let won: u32 = futures::future::join_all(guessers).await.into_iter().sum();
    assert_eq!(won, 0);
    // the tries that one host has in a minute may be used up before
    let view = sees(&offer, "codes are burnt", |view| view.codes_burnt > 0).await;
    assert!(view.codes_burnt <= 5 && view.spoken_code.is_some() == (view.codes_burnt < 5), "{view:#?}");
    assert_eq!(view.outcome, None, "the offer is there as before");
    completed(&honest).await;
    completed(&beside.job).await;
}

//! The exchange, message by message and in every state, between honest sides and hostile ones.

use std::time::Duration;

use super::*;
use crate::ids::{Secret, TicketId};

const EXPORTER: &[u8] = b"exporter";
const IMPORTER: &[u8] = b"importer";
const ENDS: Ends<'static> = Ends { exporter: EXPORTER, importer: IMPORTER };

fn at(secs: u64) -> Moment {
    Moment(Duration::from_secs(secs))
}

fn code() -> Code {
    Code::parse("7-velvet-harbor").unwrap()
}

fn ticket_of(peer: &[u8]) -> String {
    Ticket::new(peer.to_vec(), vec![], TicketId([4; 16]), Secret::from_bytes([5; 32]), 6, "laptop").to_uri()
}

fn ticket() -> String {
    ticket_of(EXPORTER)
}

/// An importer that says this code to the exporter of the usual one, as far as its proof.
fn proven(guard: &mut Guard, said: &str, ends: Ends<'_>, now: Moment) -> Result<(Proven, CodeConfirm), Withheld> {
    let (asker, begin) = Asker::begin(&Code::parse(said).unwrap(), ends, [1; 64]);
    let answer = guard.begin(ends, &begin, [2; 64], now)?;
    Ok(asker.answered(&answer).expect("an element"))
}

// SPEC §6.10
#[test]
fn who_says_the_code_gets_the_ticket() {
    let mut guard = Guard::new(code());
    let (proven, confirm) = proven(&mut guard, "7 Velvet Harbor", ENDS, at(0)).unwrap();
    let given = guard.confirm(ENDS, &confirm, &ticket(), at(14)).unwrap();
    assert_eq!(proven.given(&given).unwrap().to_uri(), ticket());
    assert_eq!(guard.owner(), Some(IMPORTER));
}

// SPEC §6.10
#[test]
fn a_wrong_word_burns_the_code_and_gives_nothing() {
    for wrong in ["7-velvet-act", "7-act-harbor", "7-harbor-velvet"] {
        let mut guard = Guard::new(code());
        let (_, confirm) = proven(&mut guard, wrong, ENDS, at(0)).unwrap();
        assert_eq!(guard.confirm(ENDS, &confirm, &ticket(), at(0)), Err(Withheld::Burnt), "{wrong}");
        assert_eq!(guard.owner(), None);
    }
}

// SPEC §6.10
#[test]
fn another_number_is_unknown_and_burns_nothing() {
    let mut guard = Guard::new(code());
    assert_eq!(proven(&mut guard, "8-velvet-harbor", ENDS, at(0)).err(), Some(NO));
    assert!(!guard.is_abandoned(at(100)));
    assert!(proven(&mut guard, "7-velvet-harbor", ENDS, at(100)).is_ok());
}

#[test]
fn a_number_that_was_changed_on_the_way_makes_another_key() {
    let mut guard = Guard::new(code());
    let (asker, begin) = Asker::begin(&Code::parse("8-velvet-harbor").unwrap(), ENDS, [1; 64]);
    let answer = guard.begin(ENDS, &CodeBegin { number: 7, ..begin }, [2; 64], at(0)).unwrap();
    let (_, confirm) = asker.answered(&answer).unwrap();
    let confirm = CodeConfirm { number: 7, ..confirm };
    assert_eq!(guard.confirm(ENDS, &confirm, &ticket(), at(0)), Err(Withheld::Burnt));
}

// SPEC §6.10
#[test]
fn a_device_in_between_that_hands_every_message_on_gets_nothing() {
    // it is the exporter to the one and the importer to the other, each under its own key
    let (to_importer, to_exporter) =
        (Ends { exporter: b"between", importer: IMPORTER }, Ends { exporter: EXPORTER, importer: b"between" });
    let mut guard = Guard::new(code());
    let (asker, begin) = Asker::begin(&code(), to_importer, [1; 64]);
    let answer = guard.begin(to_exporter, &begin, [2; 64], at(0)).unwrap();
    let (_, confirm) = asker.answered(&answer).unwrap();
    assert_eq!(guard.confirm(to_exporter, &confirm, &ticket(), at(0)), Err(Withheld::Burnt));
}

#[test]
fn ends_that_change_places_make_another_key() {
    let mut guard = Guard::new(code());
    let swapped = Ends { exporter: IMPORTER, importer: EXPORTER };
    let (asker, begin) = Asker::begin(&code(), swapped, [1; 64]);
    let answer = guard.begin(ENDS, &begin, [2; 64], at(0)).unwrap();
    let (_, confirm) = asker.answered(&answer).unwrap();
    assert_eq!(guard.confirm(ENDS, &confirm, &ticket(), at(0)), Err(Withheld::Burnt));
}

// SPEC §6.10
#[test]
fn messages_of_an_earlier_exchange_prove_nothing_in_a_later_one() {
    let mut first = Guard::new(code());
    let (asker, begin) = Asker::begin(&code(), ENDS, [1; 64]);
    let answer = first.begin(ENDS, &begin, [2; 64], at(0)).unwrap();
    let (_, confirm) = asker.answered(&answer).unwrap();
    first.confirm(ENDS, &confirm, &ticket(), at(0)).unwrap();
    // the same peer may prove it once more, but not by what it said before
    let again = first.begin(ENDS, &begin, [3; 64], at(1)).unwrap();
    assert_ne!(again, answer);
    assert_eq!(first.confirm(ENDS, &confirm, &ticket(), at(1)), Err(Withheld::Burnt));
    // and the exporter's messages prove nothing to another try of the importer
    let (asker, _) = Asker::begin(&code(), ENDS, [4; 64]);
    let (proven, _) = asker.answered(&answer).unwrap();
    let given = CodeGiven { proof: Digest([0; 32]), ticket: ticket() };
    assert_eq!(proven.given(&given).err(), Some(reason::Code::PeerMismatch));
}

#[test]
fn a_message_that_is_no_element_of_the_group_is_refused_and_burns_nothing() {
    let torsion = curve25519_dalek::constants::EIGHT_TORSION.map(|point| point.compress().0);
    let mixed = (curve25519_dalek::constants::EIGHT_TORSION[1] + curve25519_dalek::constants::ED25519_BASEPOINT_POINT)
        .compress()
        .0;
    let mut not_canonical = [0xff; 32];
    // p + 1, which is the neutral element in another encoding
    (not_canonical[0], not_canonical[31]) = (0xee, 0x7f);
    let mut not_on_the_curve = [0; 32];
    not_on_the_curve[0] = 2;
    let all = torsion.into_iter().chain([mixed, not_canonical, not_on_the_curve, [0xff; 32]]);
    for message in all.map(Digest) {
        let mut guard = Guard::new(code());
        let begin = CodeBegin { number: 7, message };
        assert_eq!(guard.begin(ENDS, &begin, [2; 64], at(0)), Err(NO), "{message}");
        assert!(!guard.is_abandoned(at(1000)));
        let (asker, _) = Asker::begin(&code(), ENDS, [1; 64]);
        let refused = asker.answered(&CodeAnswer { message }).err();
        assert_eq!(refused, Some(reason::Code::FrameUnexpected), "{message}");
    }
}

// SPEC §6.10
#[test]
fn an_exchange_that_is_not_ended_in_time_burns_the_code() {
    let mut guard = Guard::new(code());
    let (_, confirm) = proven(&mut guard, "7-velvet-harbor", ENDS, at(0)).unwrap();
    assert!(!guard.is_abandoned(at(14)) && guard.is_abandoned(at(15)));
    assert_eq!(guard.confirm(ENDS, &confirm, &ticket(), at(15)), Err(Withheld::Burnt), "the right code, too late");
    let mut guard = Guard::new(code());
    proven(&mut guard, "7-velvet-harbor", ENDS, at(0)).unwrap();
    assert_eq!(proven(&mut guard, "7-velvet-harbor", ENDS, at(1)).err(), Some(Withheld::Burnt), "begun twice");
}

// SPEC §6.10
#[test]
fn while_one_peer_proves_a_code_another_waits_and_can_neither_end_nor_burn_it() {
    let other = Ends { exporter: EXPORTER, importer: b"other" };
    let mut guard = Guard::new(code());
    let (_, confirm) = proven(&mut guard, "7-velvet-harbor", ENDS, at(0)).unwrap();
    let busy = Err(Withheld::Refused(reason::Code::Busy));
    assert_eq!(proven(&mut guard, "7-act-act", other, at(1)).map(drop), busy);
    let guess = CodeConfirm { number: 7, proof: Digest([0; 32]) };
    assert_eq!(guard.confirm(other, &guess, &ticket(), at(1)), Err(NO));
    assert_eq!(guard.confirm(ENDS, &CodeConfirm { number: 8, ..confirm }, &ticket(), at(1)), Err(NO));
    assert!(guard.confirm(ENDS, &confirm, &ticket(), at(2)).is_ok());
}

// SPEC §6.10
#[test]
fn a_proof_without_a_beginning_is_no_guess() {
    let mut guard = Guard::new(code());
    for byte in 0..=255 {
        let guess = CodeConfirm { number: 7, proof: Digest([byte; 32]) };
        assert_eq!(guard.confirm(ENDS, &guess, &ticket(), at(0)), Err(NO));
    }
    assert!(proven(&mut guard, "7-velvet-harbor", ENDS, at(0)).is_ok());
}

// SPEC §6.10
#[test]
fn a_code_that_was_proven_is_unknown_to_everybody_else_and_known_to_its_owner() {
    let other = Ends { exporter: EXPORTER, importer: b"other" };
    let mut guard = Guard::new(code());
    let (_, confirm) = proven(&mut guard, "7-velvet-harbor", ENDS, at(0)).unwrap();
    guard.confirm(ENDS, &confirm, &ticket(), at(0)).unwrap();
    assert_eq!(guard.confirm(ENDS, &confirm, &ticket(), at(0)), Err(NO), "each proof once");
    assert_eq!(proven(&mut guard, "7-velvet-harbor", other, at(1)).err(), Some(NO));
    let (asker, begin) = Asker::begin(&code(), ENDS, [7; 64]);
    let answer = guard.begin(ENDS, &begin, [8; 64], at(2)).unwrap();
    let (proven, confirm) = asker.answered(&answer).unwrap();
    let given = guard.confirm(ENDS, &confirm, &ticket(), at(2)).unwrap();
    assert!(proven.given(&given).is_ok());
}

// SPEC §6.10
#[test]
fn an_exporter_that_does_not_know_the_code_or_gives_anything_else_is_refused_by_name() {
    let given = |change: &dyn Fn(&mut CodeGiven), ticket: String| {
        let mut guard = Guard::new(code());
        let (proven, confirm) = proven(&mut guard, "7-velvet-harbor", ENDS, at(0)).unwrap();
        let mut given = guard.confirm(ENDS, &confirm, &ticket, at(0)).unwrap();
        change(&mut given);
        proven.given(&given).err()
    };
    assert_eq!(given(&|_| {}, ticket()), None);
    assert_eq!(given(&|given| given.proof = Digest([0; 32]), ticket()), Some(reason::Code::PeerMismatch));
    assert_eq!(given(&|given| given.ticket = ticket_of(b"else"), ticket()), Some(reason::Code::PeerMismatch));
    assert_eq!(given(&|_| {}, ticket_of(b"else")), Some(reason::Code::PeerMismatch), "another device's ticket");
    assert_eq!(given(&|_| {}, "no ticket".into()), Some(reason::Code::FrameUnexpected));
    // one that plays the exporter and guesses: the importer's proof came first, and is of use for that one guess only
    let mut guessing = Guard::new(Code::parse("7-act-act").unwrap());
    let (_, confirm) = proven(&mut guessing, "7-velvet-harbor", ENDS, at(0)).unwrap();
    assert_eq!(guessing.confirm(ENDS, &confirm, &ticket(), at(0)), Err(Withheld::Burnt));
    // the importer's own proof sent back to it
    let mut guard = Guard::new(code());
    let (proven, confirm) = proven(&mut guard, "7-velvet-harbor", ENDS, at(0)).unwrap();
    let echo = CodeGiven { proof: confirm.proof, ticket: ticket() };
    assert_eq!(proven.given(&echo).err(), Some(reason::Code::PeerMismatch));
}

//! The exchange that proves a code (SPEC §6.10): SPAKE2, the importer's proof first, then the ticket.
//!
//! ```text
//!  Asker ── code_begin ───► Guard      one message each, from which neither learns anything of the other's code
//!  Asker ◄─ code_answer ─── Guard
//!  Asker ── code_confirm ─► Guard      wrong, late or missing: the code is burnt
//!  Asker ◄─ code_given ──── Guard      the ticket, with the exporter's proof
//! ```
//!
//! Pure: randomness and time are arguments. Both PeerIds go into the key, so that a device in between, which speaks to
//! each side under its own key, has a different one with each.

use curve25519_dalek::edwards::CompressedEdwardsY;
use rand_core::{CryptoRng, RngCore};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Code;
use crate::ids::{Digest, Moment};
use crate::limits::CODE_TIMEOUT;
use crate::message::{CodeAnswer, CodeBegin, CodeConfirm, CodeGiven};
use crate::proof::{self, Ends};
use crate::reason;
use crate::ticket::Ticket;

const IMPORTER: &[u8] = b"me-sync/4 code importer";
const EXPORTER: &[u8] = b"me-sync/4 code exporter";
/// What the messages of SPAKE2's two sides start with in the library; on the wire each has one place only.
const SIDE_A: u8 = 0x41;
const SIDE_B: u8 = 0x42;

/// Bytes of a cryptographic random source for one side of one exchange.
pub type Random = [u8; 64];

/// What both sides know when the two messages are exchanged.
#[derive(Debug, Clone)]
struct Agreed {
    key: Key,
    number: u16,
    a: Digest,
    b: Digest,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Agreed {
    fn proof(&self, context: &[u8], ends: Ends<'_>, ticket: &[u8]) -> Digest {
        let number = self.number.to_be_bytes();
        let parts = [context, ends.exporter, ends.importer, &number, &self.a.0, &self.b.0, ticket];
        proof::mac(&self.key.0, &parts)
    }
}

/// The importer, which has sent its message.
#[derive(Debug)]
pub struct Asker {
    side: Spake2<Ed25519Group>,
    exporter: Vec<u8>,
    importer: Vec<u8>,
    number: u16,
    a: Digest,
}

/// The importer, which has proven that it knows the code.
#[derive(Debug)]
pub struct Proven {
    agreed: Agreed,
    exporter: Vec<u8>,
    importer: Vec<u8>,
}

impl Asker {
    /// Begins an exchange with one exporter; each gets a message of its own.
    // SPEC §6.10
    pub fn begin(code: &Code, ends: Ends<'_>, random: Random) -> (Self, CodeBegin) {
        let (id_a, id_b) = identities(ends, code.number());
        let (side, message) =
            Spake2::<Ed25519Group>::start_a_with_rng(&password(code), &id_a, &id_b, Drawn(Zeroizing::new(random)));
        let (number, a) = (code.number(), element(&message));
        let (exporter, importer) = (ends.exporter.to_vec(), ends.importer.to_vec());
        (Self { side, exporter, importer, number, a }, CodeBegin { number, message: a })
    }

    /// Takes the exporter's message, and proves the code.
    ///
    /// # Errors
    /// `frame_unexpected`: it is no element of the group.
    pub fn answered(self, answer: &CodeAnswer) -> Result<(Proven, CodeConfirm), reason::Code> {
        let b = answer.message;
        let key = finish(self.side, SIDE_B, &b).ok_or(reason::Code::FrameUnexpected)?;
        let agreed = Agreed { key, number: self.number, a: self.a, b };
        let ends = Ends { exporter: &self.exporter, importer: &self.importer };
        let confirm = CodeConfirm { number: self.number, proof: agreed.proof(IMPORTER, ends, &[]) };
        Ok((Proven { agreed, exporter: self.exporter, importer: self.importer }, confirm))
    }
}

impl Proven {
    /// Takes the ticket, which must come from who knows the code, and must lead there.
    ///
    /// # Errors
    /// `peer_mismatch`: the exporter does not know the code, or the ticket is another device's. `frame_unexpected`: what it
    /// gave is no ticket.
    pub fn given(self, given: &CodeGiven) -> Result<Ticket, reason::Code> {
        let ends = Ends { exporter: &self.exporter, importer: &self.importer };
        if !proof::matches(&self.agreed.proof(EXPORTER, ends, given.ticket.as_bytes()), &given.proof) {
            return Err(reason::Code::PeerMismatch);
        }
        let ticket = Ticket::parse(&given.ticket).map_err(|_| reason::Code::FrameUnexpected)?;
        if ticket.peer_id == self.exporter { Ok(ticket) } else { Err(reason::Code::PeerMismatch) }
    }
}

/// Why an exporter gives no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The code stays as it is.
    Refused(reason::Code),
    /// That was the one try: the code is good for nothing any more.
    Burnt,
}

/// What `ticket_invalid` says of everything that is wrong with a code.
const NO: Withheld = Withheld::Refused(reason::Code::TicketInvalid);

/// The exporter's side of one code: one exchange at a time, and none after a wrong one.
#[derive(Debug)]
pub struct Guard {
    code: Code,
    /// Who has proven the code: nobody else ever can.
    owner: Option<Vec<u8>>,
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    peer: Vec<u8>,
    until: Moment,
    agreed: Agreed,
}

impl Guard {
    /// Of a code that nobody has tried.
    pub fn new(code: Code) -> Self {
        Self { code, owner: None, begun: None }
    }

    /// The code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Who has proven it, as the bytes of a PeerId.
    pub fn owner(&self) -> Option<&[u8]> {
        self.owner.as_deref()
    }

    /// An importer begins. The request must be for this code's number.
    ///
    /// # Errors
    /// Withheld; nothing is burnt by a message that is no guess.
    // SPEC §6.10
    pub fn begin(
        &mut self,
        ends: Ends<'_>,
        ask: &CodeBegin,
        random: Random,
        now: Moment,
    ) -> Result<CodeAnswer, Withheld> {
        let is_foreign = self.owner.as_ref().is_some_and(|owner| owner != ends.importer);
        if is_foreign || ask.number != self.code.number() {
            return Err(NO);
        }
        if let Some(begun) = &self.begun {
            let is_over = now >= begun.until || begun.peer == ends.importer;
            return Err(if is_over { Withheld::Burnt } else { Withheld::Refused(reason::Code::Busy) });
        }
        let (id_a, id_b) = identities(ends, self.code.number());
        let (side, message) = Spake2::<Ed25519Group>::start_b_with_rng(
            &password(&self.code),
            &id_a,
            &id_b,
            Drawn(Zeroizing::new(random)),
        );
        let b = element(&message);
        let key = finish(side, SIDE_A, &ask.message).ok_or(NO)?;
        let agreed = Agreed { key, number: ask.number, a: ask.message, b };
        self.begun = Some(Begun { peer: ends.importer.to_vec(), until: now.after(CODE_TIMEOUT), agreed });
        Ok(CodeAnswer { message: b })
    }

    /// The importer proves the code, and gets this ticket.
    ///
    /// # Errors
    /// Withheld. A proof of somebody who has not begun is no guess.
    pub fn confirm(
        &mut self,
        ends: Ends<'_>,
        ask: &CodeConfirm,
        ticket: &str,
        now: Moment,
    ) -> Result<CodeGiven, Withheld> {
        let begun = self.begun.take_if(|begun| begun.peer == ends.importer && begun.agreed.number == ask.number);
        let begun = begun.ok_or(NO)?;
        let is_right = proof::matches(&begun.agreed.proof(IMPORTER, ends, &[]), &ask.proof);
        if now >= begun.until || !is_right {
            return Err(Withheld::Burnt);
        }
        self.owner = Some(ends.importer.to_vec());
        let proof = begun.agreed.proof(EXPORTER, ends, ticket.as_bytes());
        Ok(CodeGiven { proof, ticket: ticket.to_owned() })
    }

    /// An exchange was begun and not ended in time: the code is burnt.
    pub fn is_abandoned(&self, now: Moment) -> bool {
        self.begun.as_ref().is_some_and(|begun| now >= begun.until)
    }
}

/// Whom SPAKE2 binds the key to: the context, each side's PeerId and the number, each after its length.
fn identities(ends: Ends<'_>, number: u16) -> (Identity, Identity) {
    let number = number.to_be_bytes();
    let of = |context: &[u8], peer: &[u8]| Identity::new(&proof::joined(&[context, peer, &number]));
    (of(IMPORTER, ends.importer), of(EXPORTER, ends.exporter))
}

fn password(code: &Code) -> Password {
    Password::new(code.secret())
}

/// A message without the letter of its side.
fn element(message: &[u8]) -> Digest {
    let mut element = [0; 32];
    element.copy_from_slice(message.get(1..33).unwrap_or(&[0; 32]));
    Digest(element)
}

/// None if the other side's message is not the one encoding of an element of the prime-order group, or is its neutral
/// element: of those the library would take some.
fn finish(side: Spake2<Ed25519Group>, other: u8, message: &Digest) -> Option<Key> {
    let point = CompressedEdwardsY(message.0).decompress()?;
    if !point.is_torsion_free() || point.is_small_order() || point.compress().0 != message.0 {
        return None;
    }
    let mut raw = vec![other];
    raw.extend(message.0);
    let shared = Zeroizing::new(side.finish(&raw).ok()?);
    <[u8; 32]>::try_from(&shared[..]).ok().map(Key)
}

/// Gives out the random bytes that the caller passed, which are as many as one scalar takes.
struct Drawn(Zeroizing<Random>);

impl RngCore for Drawn {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        assert_eq!(dest.len(), self.0.len(), "a scalar is drawn from 64 bytes, once");
        dest.copy_from_slice(&*self.0);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Drawn {}

#[cfg(test)]
mod tests;

//! The handshake of a pipe (SPEC §5.13): what both sides prove before anything else is said on it.
//!
//! ```text
//!  importer ─ pipe_hello (PeerId, nonce, which ticket or session) ─► exporter
//!  importer ◄─ pipe_hello (PeerId, nonce, MAC, signature) ───────── exporter
//!  importer ─ pipe_proof (MAC, signature) ────────────────────────► exporter
//! ```
//!
//! The MAC says that a side knows the secret, the signature that the PeerId is its own. Keys are with the node; what they sign
//! is made here.

use crate::frame::{PipeHello, PipeKey};
use crate::ids::{Digest, Secret};
use crate::proof::{joined, mac};
use crate::reason::Code;

/// Longest PeerId in bytes.
const MAX_PEER_ID: usize = 64;

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that has the tree.
    Exporter,
    /// The one that gets it.
    Importer,
}

impl Side {
    fn context(self) -> &'static [u8] {
        match self {
            Self::Exporter => b"me-sync/4 pipe exporter",
            Self::Importer => b"me-sync/4 pipe importer",
        }
    }
}

/// What both hellos of a pipe said: it is what the proofs are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    importer: PipeHello,
    exporter: PipeHello,
    key: PipeKey,
}

/// What an importer's hello names.
///
/// # Errors
/// It is not one.
pub fn key_of(importer: &PipeHello) -> Result<PipeKey, Code> {
    let is_sane = importer.proof.is_none() && importer.peer_id.len() <= MAX_PEER_ID;
    importer.key.filter(|_| is_sane).ok_or(Code::FrameUnexpected)
}

impl Handshake {
    /// From both hellos; proofs in them are not looked at.
    ///
    /// # Errors
    /// They are not those of an importer and an exporter.
    pub fn new(importer: PipeHello, exporter: PipeHello) -> Result<Self, Code> {
        let key = key_of(&importer)?;
        if exporter.key.is_some() || exporter.peer_id.len() > MAX_PEER_ID {
            return Err(Code::FrameUnexpected);
        }
        Ok(Self { importer, exporter, key })
    }

    /// What this side signs.
    pub fn statement(&self, side: Side) -> Vec<u8> {
        joined(&self.parts(side))
    }

    /// Proof that this side knows the secret.
    pub fn mac(&self, side: Side, secret: &Secret) -> Digest {
        mac(secret.expose(), &self.parts(side))
    }

    fn parts(&self, side: Side) -> [&[u8]; 6] {
        let id = match &self.key {
            PipeKey::Ticket(id) => id.as_bytes(),
            PipeKey::Session(id) => id.as_bytes(),
        };
        let (importer, exporter) = (&self.importer, &self.exporter);
        let nonces = (importer.nonce.as_bytes(), exporter.nonce.as_bytes());
        [side.context(), &exporter.peer_id, &importer.peer_id, id, nonces.0, nonces.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PipeProof;
    use crate::ids::{Nonce, SessionId, TicketId};

    fn hello(peer: u8, nonce: u8, key: Option<PipeKey>) -> PipeHello {
        PipeHello { peer_id: vec![peer; 38], nonce: Nonce([nonce; 16]), key, proof: None }
    }

    fn ticket(id: u8) -> Option<PipeKey> {
        Some(PipeKey::Ticket(TicketId([id; 16])))
    }

    // SPEC §5.13
    #[test]
    fn a_pipe_is_proven_for_these_peers_this_key_these_nonces_and_this_side_only() {
        let secret = Secret::from_bytes([1; 32]);
        let of = |importer, exporter| Handshake::new(importer, exporter).expect("valid hellos");
        let good = of(hello(1, 2, ticket(3)), hello(4, 5, None));
        let others = [
            of(hello(9, 2, ticket(3)), hello(4, 5, None)),
            of(hello(1, 9, ticket(3)), hello(4, 5, None)),
            of(hello(1, 2, ticket(9)), hello(4, 5, None)),
            of(hello(1, 2, ticket(3)), hello(9, 5, None)),
            of(hello(1, 2, ticket(3)), hello(4, 9, None)),
        ];
        for side in [Side::Exporter, Side::Importer] {
            for other in &others {
                assert_ne!(good.mac(side, &secret), other.mac(side, &secret));
                assert_ne!(good.statement(side), other.statement(side));
            }
            assert_ne!(good.mac(side, &secret), good.mac(side, &Secret::from_bytes([9; 32])));
        }
        assert_ne!(good.mac(Side::Exporter, &secret), good.mac(Side::Importer, &secret), "no proof can be sent back");
        assert_ne!(good.statement(Side::Exporter), good.statement(Side::Importer));
    }

    // SPEC §5.13
    #[test]
    fn a_hello_of_the_wrong_side_is_refused() {
        let proof = Some(PipeProof { mac: Digest([0; 32]), signature: vec![0; 64] });
        let unexpected = Err(Code::FrameUnexpected);
        let session = Some(PipeKey::Session(SessionId([3; 16])));
        assert_eq!(key_of(&hello(1, 2, session)).ok(), session);
        assert_eq!(key_of(&hello(1, 2, None)), unexpected);
        assert_eq!(key_of(&PipeHello { proof: proof.clone(), ..hello(1, 2, ticket(3)) }), unexpected);
        assert_eq!(key_of(&PipeHello { peer_id: vec![0; 65], ..hello(1, 2, ticket(3)) }), unexpected);
        let both = |exporter| Handshake::new(hello(1, 2, ticket(3)), exporter).map(|_| ());
        assert_eq!(both(hello(4, 5, ticket(3))), Err(Code::FrameUnexpected));
        assert_eq!(both(PipeHello { peer_id: vec![0; 65], ..hello(4, 5, None) }), Err(Code::FrameUnexpected));
        assert_eq!(both(PipeHello { proof, ..hello(4, 5, None) }), Ok(()));
    }
}

//! Proofs of a shared secret (SPEC §6.3): HMAC-SHA-256 over a context, both peers and a nonce. The secret never travels.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::ids::{Digest, Nonce, Secret, SessionId, TicketId};

const REDEEM: &[u8] = b"me-sync/4 redeem";
const RESUME: &[u8] = b"me-sync/4 resume";

/// Both ends of a proof, as the bytes of their libp2p PeerIds.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// The side that made the secret.
    pub exporter: &'a [u8],
    /// The side that proves to know it.
    pub importer: &'a [u8],
}

/// Proof that `importer` holds the ticket's secret.
pub fn redeem(secret: &Secret, ticket: TicketId, ends: Ends<'_>, nonce: Nonce) -> Digest {
    of_nonce(secret, REDEEM, ticket.as_bytes(), ends, nonce)
}

/// Proof that `importer` holds the session's resume secret (SPEC §6.4).
pub fn resume(secret: &Secret, session: SessionId, ends: Ends<'_>, nonce: Nonce) -> Digest {
    of_nonce(secret, RESUME, session.as_bytes(), ends, nonce)
}

/// Compares two proofs in constant time.
pub fn matches(expected: &Digest, got: &Digest) -> bool {
    expected.0.ct_eq(&got.0).into()
}

fn of_nonce(secret: &Secret, context: &[u8], id: &[u8], ends: Ends<'_>, nonce: Nonce) -> Digest {
    mac(secret.expose(), &[context, ends.exporter, ends.importer, id, nonce.as_bytes()])
}

/// HMAC-SHA-256 over parts.
pub(crate) fn mac(key: &[u8; 32], parts: &[&[u8]]) -> Digest {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes keys of any length") };
    mac.update(&joined(parts));
    Digest(mac.finalize().into_bytes().into())
}

/// Every part is preceded by its length as two bytes, so that no two inputs have the same encoding.
pub(crate) fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        let len = u16::try_from(part.len()).unwrap_or(u16::MAX);
        all.extend(len.to_be_bytes());
        all.extend_from_slice(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §6.3, §6.4
    #[test]
    fn a_proof_holds_for_these_peers_this_ticket_and_this_nonce_only() {
        let secret = Secret::from_bytes([1; 32]);
        let ends = Ends { exporter: b"exporter", importer: b"importer" };
        let good = redeem(&secret, TicketId([2; 16]), ends, Nonce([3; 16]));
        assert!(matches(&good, &redeem(&secret, TicketId([2; 16]), ends, Nonce([3; 16]))));
        let others = [
            redeem(&Secret::from_bytes([9; 32]), TicketId([2; 16]), ends, Nonce([3; 16])),
            redeem(&secret, TicketId([9; 16]), ends, Nonce([3; 16])),
            redeem(&secret, TicketId([2; 16]), Ends { exporter: b"exporterim", importer: b"porter" }, Nonce([3; 16])),
            redeem(&secret, TicketId([2; 16]), ends, Nonce([9; 16])),
            resume(&secret, SessionId([2; 16]), ends, Nonce([3; 16])),
        ];
        assert!(others.iter().all(|other| !matches(&good, other)));
    }
}

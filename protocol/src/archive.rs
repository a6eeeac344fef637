//! The archive protocol `/me-sync/3` (SPEC §13), without I/O: its ticket, its messages, its proofs, the names it takes.
//!
//! One ZIP package goes over one stream, once. There is no resume and no retry, so there is no state machine either: what
//! the two sides say to each other is a list, and the node goes through it. How a tree is applied is that of `me-sync/4`.

pub mod message;
pub mod names;
pub mod ticket;

use crate::ids::{Digest, Nonce, Secret, SessionId};
use crate::proof::{self, Ends};

pub use self::message::{Hello, Message, Offer};
pub use self::names::{NameRefused, Names};
pub use self::ticket::ArchiveTicket;

/// The protocol major version.
pub const VERSION: u32 = 3;

const HELLO: &[u8] = b"me-sync/3 hello";
const OFFER: &[u8] = b"me-sync/3 offer";

/// Proof that `importer` holds the ticket.
// SPEC §13.3
pub fn prove_hello(key: &Secret, transfer: SessionId, ends: Ends<'_>, nonce: Nonce) -> Digest {
    let parts = [HELLO, ends.exporter, ends.importer, transfer.as_bytes(), nonce.as_bytes()];
    proof::mac(key.expose(), &parts)
}

/// Proof that `exporter` made the ticket, and means this very package.
// SPEC §13.3
pub fn prove_offer(key: &Secret, transfer: SessionId, ends: Ends<'_>, nonce: Nonce, offer: &Offer) -> Digest {
    let body = offer.proven();
    let parts = [OFFER, ends.exporter, ends.importer, transfer.as_bytes(), nonce.as_bytes(), &body];
    proof::mac(key.expose(), &parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            package_len: 100,
            package_sha256: Digest([7; 32]),
            files: 2,
            dirs: 1,
            bytes: 50,
            root_mode: Some(0o755),
            root_mtime_s: Some(-1),
            source_name: "photos".into(),
            top_names: vec!["a".into()],
            proof: Digest([0; 32]),
        }
    }

    // SPEC §13.3
    #[test]
    fn a_proof_holds_for_these_ends_this_transfer_this_nonce_and_this_package_only() {
        let key = Secret::from_bytes([1; 32]);
        let (id, nonce) = (SessionId([2; 16]), Nonce([3; 16]));
        let ends = Ends { exporter: b"exporter", importer: b"importer" };
        let good = prove_offer(&key, id, ends, nonce, &offer());
        assert_eq!(good, prove_offer(&key, id, ends, nonce, &offer()));
        let with = |change: &dyn Fn(&mut Offer)| {
            let mut other = offer();
            change(&mut other);
            prove_offer(&key, id, ends, nonce, &other)
        };
        let turned = Ends { exporter: b"importer", importer: b"exporter" };
        let others = [
            prove_offer(&Secret::from_bytes([9; 32]), id, ends, nonce, &offer()),
            prove_offer(&key, SessionId([9; 16]), ends, nonce, &offer()),
            prove_offer(&key, id, turned, nonce, &offer()),
            prove_offer(&key, id, ends, Nonce([9; 16]), &offer()),
            prove_hello(&key, id, ends, nonce),
            with(&|offer| offer.package_len += 1),
            with(&|offer| offer.package_sha256 = Digest([8; 32])),
            with(&|offer| (offer.files, offer.dirs) = (1, 2)),
            with(&|offer| offer.bytes += 1),
            with(&|offer| offer.root_mode = None),
            with(&|offer| offer.root_mtime_s = None),
            with(&|offer| offer.source_name = "other".into()),
            with(&|offer| offer.top_names = vec!["b".into()]),
        ];
        assert!(others.iter().all(|other| !proof::matches(&good, other)));
        assert_ne!(prove_hello(&key, id, ends, nonce), prove_hello(&key, id, turned, nonce));
    }
}

//! SHA-256 of content and of manifests (SPEC §2.3).
//!
//! The one place that computes it, so that the choice of the implementation is made once. It is ring's, which the
//! encrypted connections use already: its assembly is as fast as others where the processor has instructions for
//! SHA-256, and two thirds faster than portable code where it has none.

use std::fmt;

use ring::digest::{Context, SHA256};

use crate::ids::Digest;

/// What a run of zeros is hashed from, piece by piece.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A SHA-256 under way. A copy goes on by itself from the same bytes.
#[derive(Clone)]
pub struct Hasher(Context);

impl Hasher {
    /// Before the first byte.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes so many bytes of zero, which nobody needs to have in memory.
    pub fn update_zeros(&mut self, mut len: u64) {
        while len > 0 {
            let piece = len.min(ZEROS.len() as u64);
            self.0.update(&ZEROS[..piece as usize]);
            len -= piece;
        }
    }

    /// After the last byte.
    pub fn finish(self) -> Digest {
        let mut digest = [0; Digest::LEN];
        digest.copy_from_slice(self.0.finish().as_ref());
        Digest(digest)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::of(b""), crate::EMPTY_SHA256);
    }

    #[test]
    fn zeros_that_are_not_there_hash_like_those_that_are() {
        for len in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 300_000] {
            let (mut hasher, mut content) = (Hasher::new(), b"before".to_vec());
            hasher.update(&content);
            hasher.update_zeros(len as u64);
            content.resize(6 + len, 0);
            assert_eq!(hasher.finish(), Digest::of(&content), "{len}");
        }
    }

    proptest! {
        // another implementation says the same
        #[test]
        fn pieces_and_copies_hash_like_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let whole = Digest(sha2::Sha256::digest(&bytes).into());
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut hasher = Hasher::new();
            hasher.update(head);
            let mut copy = hasher.clone();
            copy.update(tail);
            hasher.update(tail);
            prop_assert_eq!(hasher.finish(), whole);
            prop_assert_eq!(copy.finish(), whole);
        }
    }
}

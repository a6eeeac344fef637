//! Identifiers, digests and secrets (SPEC §2). Fixed-size byte strings that cannot be mixed up.
//!
//! An id is public and prints as hex. A [`Secret`] never prints, is compared in constant time and
//! is wiped when dropped.

use std::fmt;
use std::str::FromStr;

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A hex string was not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hex digits")]
pub struct IdRefused {
    expected: usize,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hex digits, for people and logs.
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdRefused;

            fn from_str(raw: &str) -> Result<Self, IdRefused> {
                from_hex(raw).map(Self).ok_or(IdRefused { expected: $len * 2 })
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let raw = d.bytes()?;
                raw.try_into().map(Self).map_err(|_| decode::Error::message(concat!(stringify!($name), " has the wrong length")))
            }
        }
    };
}

byte_id!(
    /// One migration, from redeemed ticket to final result. Random, public, not a secret (SPEC §2.1).
    SessionId,
    16
);
byte_id!(
    /// One invitation. Random and public; the ticket's secret is what authorises (SPEC §2.2).
    TicketId,
    16
);
byte_id!(
    /// A SHA-256 digest (SPEC §2.3).
    Digest,
    32
);
byte_id!(
    /// A number used once, chosen by the side that proves something (SPEC §6.3).
    Nonce,
    16
);

fn from_hex<const N: usize>(raw: &str) -> Option<[u8; N]> {
    let raw = raw.as_bytes();
    if raw.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(raw.chunks_exact(2)) {
        let digits = std::str::from_utf8(pair).ok()?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(out)
}

/// A 256-bit shared secret: a ticket's or a session's resume secret (SPEC §2.4).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes 32 bytes from a cryptographic random source.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a MAC or for the file that keeps them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<C> minicbor::Encode<C> for Secret {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Secret {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let raw = d.bytes()?;
        raw.try_into().map(Self).map_err(|_| decode::Error::message("a secret has 32 bytes"))
    }
}

/// Position of an entry in the sorted manifest, from 0 (SPEC §3.2). The only way the wire names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct EntryIndex(#[n(0)] pub u32);

impl EntryIndex {
    /// As an index into a slice.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for EntryIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point on a monotonic clock, as the time since an epoch the caller chose. The core never reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub std::time::Duration);

impl Moment {
    /// This moment plus a span.
    pub fn after(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §2.1, §2.2, §2.3
    #[test]
    fn ids_survive_hex_and_refuse_other_lengths() {
        let id = SessionId([0xab; 16]);
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        assert!("abcd".parse::<SessionId>().is_err());
        assert!("+a".repeat(16).parse::<SessionId>().is_err());
    }

    // SPEC §2.4
    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::from_bytes([7; 32])), "Secret(..)");
    }
}

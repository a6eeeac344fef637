//! The ticket: a single-use invitation made by the exporter (SPEC §6.7).
//!
//! `me.things:me.sync.v4:<base64url(CBOR)>`. It authorises by its secret; addresses and expiry in it
//! are hints. Whether it is still good is looked up by the exporter, never believed from the text.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Encode};

use crate::caps::{Capabilities, VERSION};
use crate::escape::cut;
use crate::ids::{Secret, TicketId};
use crate::limits::{MAX_TEXT, MAX_TICKET, MAX_TICKET_ADDRESSES};

/// What every v4 ticket starts with.
pub const PREFIX: &str = "me.things:me.sync.v4:";
/// What every me.sync ticket starts with, whatever its version.
pub const FAMILY: &str = "me.things:me.sync.v";
/// Longest PeerId in bytes.
const MAX_PEER_ID: usize = 64;
/// Longest address in bytes.
const MAX_ADDRESS: usize = 256;

/// The content of a ticket. Addresses and PeerId are opaque here; the node checks that they are what it dials.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ticket {
    #[n(0)]
    version: u32,
    /// PeerId of the exporter, as its multihash bytes. The dial is pinned to it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub peer_id: Vec<u8>,
    /// Up to 8 addresses as multiaddr text, best first. May be empty: then mDNS finds the exporter.
    #[n(2)]
    pub addresses: Vec<String>,
    /// Which ticket.
    #[n(3)]
    pub ticket_id: TicketId,
    /// Proves that the holder was given the ticket.
    #[n(4)]
    pub secret: Secret,
    /// When it becomes void, milliseconds since 1970 by the exporter's clock.
    #[n(5)]
    pub expires_at_ms: u64,
    /// What the exporter's owner calls the device.
    #[n(6)]
    pub device_name: String,
    /// What the exporter can do.
    #[n(7)]
    pub caps: Capabilities,
}

/// Why a text is not a ticket this version can use. Never says more than the holder may know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefused {
    /// Something else than a me-sync ticket.
    #[error("this is not a me-sync ticket; a ticket starts with {PREFIX}")]
    NotATicket,
    /// A ticket of another protocol version.
    #[error("this ticket is for another version of the protocol; both devices need a me-sync that speaks v{VERSION}")]
    OtherVersion,
    /// Damaged: cut off, mistyped, or too long.
    #[error("this ticket is damaged: copy it again, as a whole")]
    Damaged,
}

impl Ticket {
    /// Makes a v4 ticket.
    pub fn new(
        peer_id: Vec<u8>,
        addresses: Vec<String>,
        ticket_id: TicketId,
        secret: Secret,
        expires_at_ms: u64,
        device_name: &str,
    ) -> Self {
        let mut addresses = addresses;
        addresses.truncate(MAX_TICKET_ADDRESSES);
        let device_name = cut(device_name, MAX_TEXT).to_owned();
        Self {
            version: VERSION,
            peer_id,
            addresses,
            ticket_id,
            secret,
            expires_at_ms,
            device_name,
            caps: Capabilities::ours(),
        }
    }

    /// The URI that people copy. It holds the secret: print it only where it is asked for.
    pub fn to_uri(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(crate::message::encode(self)))
    }

    /// Reads a URI; white space around it is ignored.
    ///
    /// # Errors
    /// Not a ticket, not for this version, or damaged.
    pub fn parse(uri: &str) -> Result<Self, TicketRefused> {
        let uri = uri.trim();
        let Some(text) = uri.strip_prefix(PREFIX) else {
            return Err(if uri.starts_with(FAMILY) { TicketRefused::OtherVersion } else { TicketRefused::NotATicket });
        };
        if uri.len() > MAX_TICKET {
            return Err(TicketRefused::Damaged);
        }
        let raw = URL_SAFE_NO_PAD.decode(text).map_err(|_| TicketRefused::Damaged)?;
        let mut decoder = minicbor::Decoder::new(&raw);
        let mut ticket: Self = decoder.decode().map_err(|_| TicketRefused::Damaged)?;
        if decoder.position() != raw.len() {
            return Err(TicketRefused::Damaged);
        }
        if ticket.version != VERSION {
            return Err(TicketRefused::OtherVersion);
        }
        let sane = (1..=MAX_PEER_ID).contains(&ticket.peer_id.len())
            && ticket.addresses.len() <= MAX_TICKET_ADDRESSES
            && ticket.addresses.iter().all(|a| a.len() <= MAX_ADDRESS)
            && ticket.caps.is_bounded();
        if !sane {
            return Err(TicketRefused::Damaged);
        }
        ticket.device_name = cut(&ticket.device_name, MAX_TEXT).to_owned();
        Ok(ticket)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("ticket_id", &self.ticket_id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket::new(
            vec![1, 2, 3],
            vec!["/ip4/127.0.0.1/tcp/1".into()],
            TicketId([4; 16]),
            Secret::from_bytes([5; 32]),
            6,
            "laptop",
        )
    }

    #[test]
    fn a_ticket_survives_its_uri_and_white_space_around_it() {
        assert_eq!(Ticket::parse(&format!("  {}\n", ticket().to_uri())), Ok(ticket()));
    }

    // SPEC §6.7
    #[test]
    fn damaged_foreign_and_other_versions_are_told_apart() {
        let uri = ticket().to_uri();
        assert_eq!(Ticket::parse(&uri[..uri.len() - 3]), Err(TicketRefused::Damaged));
        assert_eq!(Ticket::parse(&format!("{PREFIX}{}", "A".repeat(4000))), Err(TicketRefused::Damaged));
        for more in ["x", "AA", "AAA", "AAAA"] {
            assert_eq!(Ticket::parse(&format!("{uri}{more}")), Err(TicketRefused::Damaged), "{more} appended");
        }
        assert_eq!(Ticket::parse("me.things:me.sync.v3:AAAA"), Err(TicketRefused::OtherVersion));
        assert_eq!(Ticket::parse("https://example.org"), Err(TicketRefused::NotATicket));
        let many = Ticket { addresses: vec!["/ip4/1.2.3.4/tcp/1".into(); 9], ..ticket() };
        assert_eq!(Ticket::parse(&many.to_uri()), Err(TicketRefused::Damaged));
        let other = Ticket { version: 5, ..ticket() };
        assert_eq!(Ticket::parse(&other.to_uri()), Err(TicketRefused::OtherVersion));
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        assert!(!format!("{:?}", ticket()).contains("secret"));
    }
}

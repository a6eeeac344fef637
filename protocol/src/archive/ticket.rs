//! The ticket of an archive (SPEC §13.2): `me.things:me.sync.v3:<base64url(JSON)>`.
//!
//! It authorises by `session_nonce`, which is the key of both proofs and never travels. Keys that a reader does not know are
//! ignored; `peer_id` and `addresses` are such keys to those who know the bare v3 only.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::caps::{MAX_CAPS, STREAMING};
use crate::escape::cut;
use crate::ids::{Secret, SessionId};
use crate::limits::{MAX_TEXT, MAX_TICKET, MAX_TICKET_ADDRESSES};
use crate::ticket::{FAMILY, TicketRefused};

use super::VERSION;

/// What every v3 ticket starts with.
pub const PREFIX: &str = "me.things:me.sync.v3:";
/// Longest PeerId as text.
const MAX_PEER_ID: usize = 128;
/// Longest address in bytes.
const MAX_ADDRESS: usize = 256;

/// The content of a v3 ticket. Addresses and PeerId are opaque here; the node checks that they are what it dials.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveTicket {
    /// Which transfer; it is the session too.
    pub transfer_id: SessionId,
    /// The key of both proofs.
    pub session_nonce: Secret,
    /// When it becomes void, milliseconds since 1970 by the exporter's clock.
    pub expires_at_ms: u64,
    /// What the exporter calls the tree.
    pub source_name: String,
    /// The exporter speaks v4 too: that it is asked for v3 was somebody's choice there.
    pub has_v4: bool,
    /// PeerId of the exporter as text. The dial is pinned to it.
    pub peer_id: String,
    /// Up to 8 addresses as multiaddr text, best first. May be empty.
    pub addresses: Vec<String>,
}

/// As it stands in the JSON.
#[derive(Serialize, Deserialize)]
struct Raw {
    v: u32,
    transfer_id: String,
    session_nonce: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pair_code: Option<String>,
    expires_at: u64,
    source_name: String,
    caps: BTreeMap<String, Value>,
    peer_id: String,
    #[serde(default)]
    addresses: Vec<String>,
}

impl ArchiveTicket {
    /// The URI that people copy. It holds the secret: print it only where it is asked for.
    pub fn to_uri(&self) -> String {
        let raw = Raw {
            v: VERSION,
            transfer_id: self.transfer_id.to_string(),
            session_nonce: URL_SAFE_NO_PAD.encode(self.session_nonce.expose()),
            pair_code: None,
            expires_at: self.expires_at_ms,
            source_name: cut(&self.source_name, MAX_TEXT).to_owned(),
            caps: [(STREAMING.to_owned(), Value::Bool(self.has_v4))].into(),
            peer_id: self.peer_id.clone(),
            addresses: self.addresses.iter().take(MAX_TICKET_ADDRESSES).cloned().collect(),
        };
        match serde_json::to_vec(&raw) {
            Ok(json) => format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json)),
            Err(e) => unreachable!("encoding to memory failed: {e}"),
        }
    }

    /// Is that a ticket of this version, whole or not?
    pub fn is_one(text: &str) -> bool {
        text.trim_start().starts_with(PREFIX)
    }

    /// Reads a URI; white space around it is ignored.
    ///
    /// # Errors
    /// Not a ticket, not for this version, or damaged.
    // SPEC §13.2
    pub fn parse(uri: &str) -> Result<Self, TicketRefused> {
        let uri = uri.trim();
        let Some(text) = uri.strip_prefix(PREFIX) else {
            return Err(if uri.starts_with(FAMILY) { TicketRefused::OtherVersion } else { TicketRefused::NotATicket });
        };
        let damaged = TicketRefused::Damaged;
        if uri.len() > MAX_TICKET {
            return Err(damaged);
        }
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| damaged.clone())?;
        let raw: Raw = serde_json::from_slice(&json).map_err(|_| damaged.clone())?;
        if raw.v != VERSION {
            return Err(TicketRefused::OtherVersion);
        }
        let key = URL_SAFE_NO_PAD.decode(&raw.session_nonce).map_err(|_| damaged.clone())?;
        let key: [u8; 32] = key.try_into().map_err(|_| damaged.clone())?;
        let sane = (1..=MAX_PEER_ID).contains(&raw.peer_id.len())
            && raw.addresses.len() <= MAX_TICKET_ADDRESSES
            && raw.addresses.iter().all(|address| address.len() <= MAX_ADDRESS)
            && raw.caps.len() <= MAX_CAPS
            && raw.pair_code.is_none_or(|code| code.len() <= MAX_TEXT);
        if !sane {
            return Err(damaged);
        }
        Ok(Self {
            transfer_id: raw.transfer_id.parse().map_err(|_| damaged)?,
            session_nonce: Secret::from_bytes(key),
            expires_at_ms: raw.expires_at,
            source_name: cut(&raw.source_name, MAX_TEXT).to_owned(),
            has_v4: raw.caps.get(STREAMING) == Some(&Value::Bool(true)),
            peer_id: raw.peer_id,
            addresses: raw.addresses,
        })
    }
}

impl fmt::Debug for ArchiveTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveTicket")
            .field("transfer_id", &self.transfer_id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Ticket;

    fn ticket() -> ArchiveTicket {
        ArchiveTicket {
            transfer_id: SessionId([4; 16]),
            session_nonce: Secret::from_bytes([5; 32]),
            expires_at_ms: 6,
            source_name: "photos".into(),
            has_v4: true,
            peer_id: "12D3KooWExample".into(),
            addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
        }
    }

    fn json(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> String {
        let uri = ticket().to_uri();
        let raw = URL_SAFE_NO_PAD.decode(uri.strip_prefix(PREFIX).unwrap()).unwrap();
        let mut object = serde_json::from_slice(&raw).unwrap();
        change(&mut object);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(serde_json::to_vec(&object).unwrap()))
    }

    // SPEC §13.2
    #[test]
    fn a_ticket_survives_its_uri_white_space_around_it_and_keys_that_nobody_knows() {
        assert_eq!(ArchiveTicket::parse(&format!("  {}\n", ticket().to_uri())), Ok(ticket()));
        let more = json(|all| {
            all.insert("later".into(), serde_json::json!({"a": [1, 2]}));
            all.insert("pair_code".into(), "1234".into());
            all["caps"]["another"] = serde_json::json!({"level": 3});
        });
        assert_eq!(ArchiveTicket::parse(&more), Ok(ticket()));
        assert!(!ArchiveTicket::parse(&json(|all| all["caps"] = serde_json::json!({}))).unwrap().has_v4);
    }

    // SPEC §13.2
    #[test]
    fn damaged_foreign_and_other_versions_are_told_apart() {
        let uri = ticket().to_uri();
        let damaged = Err(TicketRefused::Damaged);
        assert_eq!(ArchiveTicket::parse(&uri[..uri.len() - 5]), damaged);
        assert_eq!(ArchiveTicket::parse(&format!("{PREFIX}{}", "A".repeat(4000))), damaged);
        for (key, value) in [
            ("transfer_id", "12".into()),
            ("session_nonce", "AAAA".into()),
            ("expires_at", (-1).into()),
            ("expires_at", "soon".into()),
            ("peer_id", "".into()),
            ("peer_id", "x".repeat(129).into()),
            ("addresses", vec!["/ip4/1.2.3.4/tcp/1"; 9].into()),
            ("addresses", vec!["/".repeat(300)].into()),
            ("caps", "all".into()),
        ] {
            assert_eq!(ArchiveTicket::parse(&json(|all| all[key] = value)), damaged, "{key}");
        }
        assert_eq!(ArchiveTicket::parse(&json(|all| all["v"] = 5.into())), Err(TicketRefused::OtherVersion));
        assert_eq!(ArchiveTicket::parse("me.things:me.sync.v4:AAAA"), Err(TicketRefused::OtherVersion));
        assert_eq!(ArchiveTicket::parse("https://example.org"), Err(TicketRefused::NotATicket));
        assert_eq!(Ticket::parse(&uri), Err(TicketRefused::OtherVersion), "the other reader says so too");
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        assert!(!format!("{:?}", ticket()).contains("nonce"));
    }
}

//! Claims about the session store, on real files.

mod actor;
mod crash;
mod damage;
mod records;
mod sweep;

use me_sync_protocol::ids::{Digest, Secret};
use me_sync_protocol::reason::{Code, FailureReason};

use super::*;
use crate::net::TransportPreference;

const SECRET: [u8; 32] = *b"a secret that must never be seen";
const NOW: LastSeen = LastSeen { wall_ms: 1_800_000_000_000, boot_id: [9; 16], boot_ms: 3_000_000_000 };

fn session(n: u8) -> SessionId {
    SessionId([n; 16])
}

fn peer() -> libp2p::PeerId {
    libp2p::identity::Keypair::ed25519_from_bytes([3; 32]).unwrap().public().to_peer_id()
}

fn grant(n: u8) -> Grant {
    Grant { session: session(n), resume_secret: Secret::from_bytes(SECRET), lanes: 4, max_chunk: 262_144 }
}

pub(crate) fn import(n: u8) -> ImportRecord {
    use std::os::unix::ffi::OsStrExt as _;
    ImportRecord {
        session: session(n),
        ticket_text: TicketText::new(String::from_utf8_lossy(&SECRET)),
        ticket: TicketId([n; 16]),
        peer: peer(),
        peer_name: "laptop".to_owned(),
        source_name: "photos".to_owned(),
        addresses: vec!["/ip4/192.0.2.7/tcp/4001".to_owned()],
        grant: grant(n),
        target: std::ffi::OsStr::from_bytes(b"/srv/\xff\xfe not UTF-8").into(),
        choices: TargetChoices { fail_if_changed: true, transport: TransportPreference::Quic, ..Default::default() },
        manifest: Some(Digest([n; 32])),
        state: SessionStatus::Open,
        failed_code: None,
        created: NOW,
        last: NOW,
        files: 10,
        bytes: 1 << 40,
        files_ok: 3,
        bytes_ok: 1 << 33,
        told: false,
        post_apply: None,
    }
}

/// Redeemed if `redeemed`.
fn export(n: u8, redeemed: bool) -> ExportRecord {
    ExportRecord {
        ticket: TicketId([n; 16]),
        ticket_secret: Secret::from_bytes(SECRET),
        expires_at_ms: NOW.wall_ms + 600_000,
        root: "/home/me/photos".into(),
        choices: SourceChoices { skip_unreadable: true, skip_unsupported: false },
        source_name: "photos".to_owned(),
        peer: redeemed.then(peer),
        peer_name: String::new(),
        addresses: Vec::new(),
        grant: redeemed.then(|| grant(n)),
        manifest: None,
        state: SessionStatus::Open,
        failed_code: None,
        created: NOW,
        last: NOW,
        files: 0,
        bytes: 0,
        files_ok: 0,
        bytes_ok: 0,
        outline: None,
    }
}

fn failure(index: u32) -> FailureRecord {
    FailureRecord {
        index: EntryIndex(index),
        path: format!("a/{index}"),
        reason: FailureReason::IoError,
        code: Code::NoSpace,
        os_error: Some(28),
        attempts: 3,
    }
}

fn stamps(indices: impl IntoIterator<Item = u32>) -> Vec<(EntryIndex, [u8; 16])> {
    indices.into_iter().map(|index| (EntryIndex(index), stamp(index))).collect()
}

fn stamp(index: u32) -> [u8; 16] {
    (u128::from(index) * 0x1_0000_0001_0000_0001).to_le_bytes()
}

/// Everything a store holds of the sessions used here.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    imports: Vec<ImportRecord>,
    exports: Vec<ExportRecord>,
    durable: Vec<(EntryIndex, [u8; 16])>,
    failures: Vec<FailureRecord>,
    ports: Vec<ListenPort>,
}

impl Content {
    fn of(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            imports: store.imports()?,
            exports: store.exports()?,
            durable: store.durable(session(1))?,
            failures: store.failures(session(1))?,
            ports: store.ports()?,
        })
    }
}

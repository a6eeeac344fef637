//! The me-sync v4 protocol without I/O: no async, no clock, no file, no socket.
//!
//! `SPEC.md` beside this crate is the normative text; modules name the section they obey.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod archive;
pub mod caps;
pub mod code;
pub mod codec;
pub mod escape;
pub mod exporter;
pub mod file;
pub mod frame;
pub mod hash;
pub mod ids;
pub mod importer;
pub mod ledger;
pub mod limits;
pub mod liveness;
pub mod manifest;
pub mod message;
pub mod packed;
pub mod path;
mod pending;
pub mod pipe;
pub mod progress;
pub mod proof;
pub mod reason;
pub mod retry;
pub mod target;
pub mod ticket;

use ids::Digest;

/// SHA-256 of nothing: the hash every empty file has.
pub const EMPTY_SHA256: Digest = Digest([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

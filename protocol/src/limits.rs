//! Hard limits of the protocol (SPEC §8.1). A peer that passes one is refused by name.

use std::time::Duration;

/// Frame header: type, flags, two reserved bytes, body length.
pub const FRAME_HEADER: usize = 8;
/// Largest body of a `file_chunk` or `manifest_chunk` frame: 1 MiB.
pub const MAX_CHUNK: usize = 1 << 20;
/// Body size of a `file_chunk` that this implementation sends: 256 KiB.
pub const DEFAULT_CHUNK: usize = 256 << 10;
/// Largest body of any other frame: 64 KiB.
pub const MAX_CONTROL_FRAME: usize = 64 << 10;
/// Largest request or response of the `/me-sync/4` request-response protocol: 64 KiB.
pub const MAX_MESSAGE: usize = 64 << 10;
/// Most entries of a `retry_request` or `pending_list` frame; longer lists span several frames.
pub const MAX_LIST: usize = 4096;

/// Most partial files that this implementation names in one `pending_list` frame: with as many ranges as there may be, the
/// frame stays under its limit.
pub const MAX_PARTIAL: usize = 1024;

/// Most entries of a manifest.
pub const MAX_ENTRIES: u32 = 1_000_000;
/// Most canonical bytes of a manifest: 256 MiB.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;
/// Most entries of one `manifest_chunk`.
pub const MAX_CHUNK_ENTRIES: usize = 4096;
/// Longest path in bytes.
pub const MAX_PATH: usize = 1024;
/// Longest path component in bytes.
pub const MAX_COMPONENT: usize = 255;
/// Most components of a path.
pub const MAX_DEPTH: usize = 64;
/// Longest symlink target in bytes.
pub const MAX_LINK: usize = 4095;
/// Largest size of one file and largest sum of all sizes.
pub const MAX_SIZE: u64 = i64::MAX as u64;
/// Modification times lie within the years -9999 to 9999 (milliseconds from 1970).
pub const MAX_MTIME_MS: i64 = 253_402_300_799_999;

/// Longest text from a peer: device name, agent. Longer ones are cut on arrival.
pub const MAX_TEXT: usize = 256;
/// Most lanes of a session.
pub const MAX_LANES: u8 = 4;
/// Longest ticket URI in bytes.
pub const MAX_TICKET: usize = 2048;
/// Most addresses in a ticket.
pub const MAX_TICKET_ADDRESSES: usize = 8;

// SPEC §8.2
/// A session sends something on its control stream at least this often.
pub const KEEPALIVE: Duration = Duration::from_secs(5);
/// A session whose peer is silent, or whose bulk makes no progress, for this long is taken for lost.
pub const STALL: Duration = Duration::from_secs(30);
/// Lowest rate of a transfer, in bytes a second over [`MIN_RATE_WINDOW`]; a slower connection is taken for lost.
pub const MIN_RATE: u64 = 1024;
/// Over how long [`MIN_RATE`] is measured.
pub const MIN_RATE_WINDOW: Duration = Duration::from_secs(60);
/// How long the opener of a stream waits for the `ack`.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Retry rounds after the bulk (seed §6).
pub const MAX_RETRY_ROUNDS: u32 = 3;
/// A session without activity is void after this long.
pub const SESSION_TTL: Duration = Duration::from_secs(24 * 3600);
/// A session is void this long after it was granted, whatever happened since.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often staged files may turn out missing or wrong when the tree is to be applied, before the session fails.
pub const MAX_UNSTAGED: u32 = 3;
/// A ticket nobody redeemed is void after this long.
pub const TICKET_TTL: Duration = Duration::from_secs(600);

// SPEC §6.10
/// An exchange that proves a code is through after this long, or has failed.
pub const CODE_TIMEOUT: Duration = Duration::from_secs(15);
/// Codes of one ticket that may be burnt; then it has none any more.
pub const MAX_BURNT: u32 = 5;

// SPEC §5.12
/// Most bytes of noise that a probe gets: 32 MiB.
pub const MAX_PROBE: u32 = 32 << 20;
/// For how long a probe gets noise, at most.
pub const PROBE_TIME: Duration = Duration::from_secs(2);
/// From the beginning of one probe to that of the next, whoever asks.
pub const PROBE_PAUSE: Duration = Duration::from_secs(10);

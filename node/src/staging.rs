//! The importer's disk side (RELIABILITY 4): a whole tree beside the target, then one exchange, or nothing.
//!
//! ```text
//! Target::pin ─► check_manifest ─► Staging::create ─► writers fill it ─► seal ─► apply ─► Applied
//!                                   │   ▲  ├─ suspend, crash                │        (rollback, later)
//!                                   │   └──┴─ reopen ─► survey, reuse       │
//!                                   └────────────── discard ◄───────────────┘
//! ```
//!
//! Owns the staging tree, the journal, the spooled manifest and the swap. Knows no network, no session logic and no clock but the
//! wall clock it stamps records with. Every function blocks; the caller brings the threads.
//! [`recover`] runs at every start and settles what a crash left.

mod beneath;
mod cleanup;
mod durable;
mod error;
mod file;
mod flush;
mod inode;
mod journal;
mod kept;
mod known;
mod lock;
mod modes;
mod mounts;
mod names;
#[cfg(feature = "test-hooks")]
mod pause;
mod preflight;
mod record;
mod recover;
mod rehash;
mod reopen;
mod reuse;
mod rollback;
mod same;
mod seal;
mod seen;
mod site;
mod skeleton;
mod slots;
mod spool;
mod stamp;
mod standing;
mod state;
mod survey;
mod swap;
mod table;
mod target;
#[cfg(test)]
pub(crate) mod testing;
mod tree;
mod verify;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use error::shown;
pub use error::{ApplyError, PreflightError, RollbackError, StageError, StateError};
pub use file::{StagedFile, StagingWriter};
pub use flush::Checkpointer;
pub use journal::SessionState;
pub use kept::{Kept, kept, stands};
pub use modes::ModeReport;
pub use preflight::TargetFacts;
pub use recover::{Outcome, Recovered, discard, forget, recover};
pub use rehash::Found;
pub use reopen::ReopenError;
pub use rollback::{RolledBack, has_record, rollback, rollback_session};
pub use seal::SealError;
pub use stamp::FileStamp;
pub use state::{SessionRecord, StateDir};
pub use survey::OldTree;
pub use swap::{Applied, ApplyHooks, SealedStaging, Swapped, on_apply_thread};
pub use target::{Target, TargetOptions};
pub use tree::{SessionInfo, Staging};

/// How long a retained tree is kept unless the caller says otherwise: 7 days.
pub const KEEP_OLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// A record without a tree is history for this long: 30 days.
const HISTORY_MS: u64 = 30 * 24 * 3_600_000;
/// A swap that does not come to its end is tried this often.
const SWAP_TRIES: u32 = 3;

/// A staging name is this and 16 hex digits.
const STAGING_PREFIX: &str = ".me-sync-";
const STAGING_NAME_LEN: usize = STAGING_PREFIX.len() + 16;
/// A probe directory's name is this and 16 hex digits.
const PROBE_PREFIX: &str = ".me-sync-probe-";

/// The name of a staging or retained tree, of one that stands aside, or of one that is being deleted.
fn is_staging_name(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(STAGING_PREFIX.as_bytes()) else { return false };
    let Some((tag, ending)) = rest.split_at_checked(16) else { return false };
    tag.iter().all(u8::is_ascii_hexdigit) && matches!(ending, b"" | b".old" | b".gone")
}

/// Wall time in milliseconds since 1970; 0 for a clock before that.
fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// `bytes` random bytes in hex, for names that nobody should have made before us.
fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0; bytes];
    if getrandom::fill(&mut raw).is_err() {
        // names must differ, not be secret: EEXIST leads to another try
        let seed = wall_ms() ^ u64::from(std::process::id()).rotate_left(32);
        raw.iter_mut().zip(seed.to_le_bytes().iter().cycle()).for_each(|(to, from)| *to = *from);
    }
    raw.iter().map(|b| format!("{b:02x}")).collect()
}

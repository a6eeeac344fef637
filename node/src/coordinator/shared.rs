//! What the coordinator is made of and lends to its jobs, and how long a session lives.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use me_sync_protocol::retry::RetryPolicy;
use tokio::sync::mpsc;

use super::Event;
use crate::clock::{Clock, LastSeen, is_session_expired};
use crate::limit::Limiter;
use crate::net::NetHandle;
use crate::source::{HashCache, HashKeeper, Late};
use crate::staging::StateDir;
use crate::store::{StoreHandle, Write};
use crate::transfer::{Compression, LaneReport};

/// What the coordinator is made of and shares with its jobs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) net: NetHandle,
    pub(crate) state: Arc<StateDir>,
    pub(crate) store: StoreHandle,
    pub(crate) hashes: Hashes,
    pub(crate) clock: Clock,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_lanes: u8,
    pub(crate) max_chunk: u32,
    /// Of all sessions together.
    pub(crate) limit: Limiter,
    pub(crate) compression: Compression,
    /// See [`crate::NodeConfig::late_from`].
    pub(crate) late_from: u64,
    /// See [`crate::NodeConfig::look_again_after`].
    pub(crate) look_again_after: Duration,
    /// Hashing begins when somebody asks for the tree.
    #[cfg(feature = "test-hooks")]
    pub(crate) is_cold: bool,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) lanes: mpsc::Sender<LaneReport>,
    #[cfg(feature = "test-hooks")]
    pub(crate) faults: crate::hooks::FaultPlan,
}

/// The hashes of earlier offers, opened when they are first needed: most nodes only receive.
#[derive(Debug, Clone)]
pub(crate) struct Hashes {
    state_dir: Arc<PathBuf>,
    cache: Arc<OnceLock<Option<HashCache>>>,
    #[cfg(feature = "test-hooks")]
    pub(super) count: crate::hooks::HashCount,
}

impl Hashes {
    pub(crate) fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir: Arc::new(state_dir),
            cache: Arc::default(),
            #[cfg(feature = "test-hooks")]
            count: crate::hooks::HashCount::default(),
        }
    }

    #[cfg(feature = "test-hooks")]
    pub(crate) fn counted(self, count: crate::hooks::HashCount) -> Self {
        Self { count, ..self }
    }

    /// Blocking. None if the file cannot be used: it only saves time.
    pub(crate) fn open(&self) -> Option<&HashCache> {
        let open = || {
            HashCache::open(&self.state_dir)
                .inspect_err(|e| tracing::warn!(error = %crate::errors::chain(e), "hashes are not remembered"))
                .ok()
        };
        self.cache.get_or_init(open).as_ref()
    }

    /// Takes hashes that lanes find until the last of them is gone.
    pub(crate) fn keeper(&self) -> HashKeeper {
        let (keeper, kept) = HashKeeper::new();
        let hashes = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(cache) = hashes.open() {
                cache.write_kept(&kept);
            }
        });
        keeper
    }
}

impl Shared {
    /// When an outline is worth it.
    pub(super) fn late(&self) -> Late {
        let late = Late::from(self.late_from);
        #[cfg(feature = "test-hooks")]
        let late = late.cold(self.is_cold);
        late
    }

    /// Hands a record to the store, which writes in the order of the calls. What cannot be written is logged; the
    /// session then resumes from an older record.
    pub(crate) fn write_later(&self, write: Write) {
        if let Err(e) = self.store.post(write) {
            tracing::error!(error = %crate::errors::chain(&e), "the state of a session is not recorded");
        }
    }
}

/// Whether a session is over because nobody went on with it, by whichever clock says so (DESIGN §6).
pub(super) fn expired(created: &LastSeen, last: &LastSeen) -> bool {
    is_session_expired(created, last, &LastSeen::now())
}

/// As [`expired`], for a session that a job of this process waits for: a wall clock that is set right meanwhile ends
/// nothing (RELIABILITY F68).
pub(super) fn expired_while_up(created: &LastSeen, last: &LastSeen) -> bool {
    let now = LastSeen::now();
    let by_boot = |then: &LastSeen| LastSeen { wall_ms: now.wall_ms, ..*then };
    is_session_expired(&by_boot(created), &by_boot(last), &now)
}

//! The library's face: configure a node, spawn it, offer and import trees, go on with earlier sessions, stop it.

mod archives;
mod codes;
mod offers;
mod pipes;
mod records;
mod sessions;
mod start;

pub use self::archives::{ArchiveError, ArchiveOffer, ArchiveOptions};
pub use self::codes::{CodeError, CodeOptions};
pub use self::offers::{Offer, OfferError, OfferOptions, SentTo};
pub use self::pipes::PipeSession;
pub use self::sessions::{ResumeError, ResumeOptions, Unfinished};
pub use self::start::settle;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::limits::{DEFAULT_CHUNK, MAX_CHUNK, MAX_LANES};
use me_sync_protocol::reason::Code;
use me_sync_protocol::retry::RetryPolicy;
use me_sync_protocol::ticket::Ticket;

use self::sessions::Continue;
use crate::api::{Consent, JobHandle};
use crate::coordinator::{self, CoordinatorHandle, Hashes, ImportPlan, Setup};
use crate::identity::{self, IdentityError};
use crate::limit::{self, LimitFileError, Limiter, Rate};
use crate::net::{self, ListenAddr, NetConfig, NetError, NetHandle, PeerView, Search, TransportPreference, Transports};
use crate::post_apply::{self, PostApplyRefused};
use crate::staging::{PreflightError, Recovered, StateDir, StateError, Target, TargetOptions};
use crate::state_lock::{StateLock, StateLockError};
use crate::store::{Store, StoreError, StoreHandle};
use crate::transfer::Compression;

/// How long a node that stops waits for its jobs.
const DRAIN: Duration = Duration::from_secs(5);
/// Less than this is hashed in a moment.
const LATE_FROM: u64 = 64 << 20;
/// See [`NodeConfig::look_again_after`].
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What a node is made of. Start from [`NodeConfig::new`] and change fields.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Identity, journals and session records live here; 0700.
    pub state_dir: PathBuf,
    /// What other devices see. Default: the host name.
    pub device_name: String,
    /// Where to listen. Default: all interfaces, random ports.
    pub listen: Vec<ListenAddr>,
    /// Default: TCP and QUIC.
    pub transports: Transports,
    /// Find and be found on the local network. Default: on.
    pub mdns: bool,
    /// Other devices may measure how fast this one sends. Default: on.
    pub probe: bool,
    /// Most lanes of a session, 1 to 4. Default: 4.
    pub max_lanes: u8,
    /// Largest chunk in bytes, 1 to 1 MiB. Default: 256 KiB.
    pub max_chunk: u32,
    /// What is packed on its way. Of an importer only [`Compression::Never`] counts: it takes nothing packed. Default:
    /// what shrinks, while the connection is slow.
    pub compression: Compression,
    /// A tree that was offered longer ago than this is looked at again when an importer takes it, so that it goes as it is
    /// then; what was hashed and has not changed is not read again. Default: 10 s.
    pub look_again_after: Duration,
    /// Default: 3 rounds.
    pub retry: RetryPolicy,
    /// A first importer with an empty target gets the tree before its hashes are known if more bytes than this would
    /// have to be read for them alone, each file counting 16 KiB more; each byte of the source is then read once.
    /// Default: 64 MiB. `u64::MAX`: never.
    pub late_from: u64,
    /// Hashing begins when somebody asks for the tree: for tests, in which it is over before that.
    #[cfg(feature = "test-hooks")]
    pub is_cold: bool,
    /// Faults for tests.
    #[cfg(feature = "test-hooks")]
    pub faults: crate::hooks::FaultPlan,
    /// What was read to hash it.
    #[cfg(feature = "test-hooks")]
    pub hashed: crate::hooks::HashCount,
}

impl NodeConfig {
    /// The defaults, with state in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let any = |ip: std::net::IpAddr| ListenAddr { ip, port: None };
        Self {
            state_dir: state_dir.into(),
            device_name: default_device_name(),
            listen: vec![any(std::net::Ipv4Addr::UNSPECIFIED.into()), any(std::net::Ipv6Addr::UNSPECIFIED.into())],
            transports: Transports::default(),
            mdns: true,
            probe: true,
            max_lanes: MAX_LANES,
            max_chunk: u32::try_from(DEFAULT_CHUNK).unwrap_or(u32::MAX),
            compression: Compression::default(),
            look_again_after: LOOK_AGAIN_AFTER,
            retry: RetryPolicy::default(),
            late_from: LATE_FROM,
            #[cfg(feature = "test-hooks")]
            is_cold: false,
            #[cfg(feature = "test-hooks")]
            faults: crate::hooks::FaultPlan::default(),
            #[cfg(feature = "test-hooks")]
            hashed: crate::hooks::HashCount::default(),
        }
    }
}

#[cfg(feature = "test-hooks")]
impl NodeConfig {
    /// Reads `ME_SYNC_TEST_COLD=BYTES`: hashing begins when somebody asks for the tree, and an importer gets the outline
    /// if more than so many bytes are left.
    fn with_test_env(mut self) -> Self {
        let from = std::env::var("ME_SYNC_TEST_COLD").ok().and_then(|text| text.parse().ok());
        if let Some(from) = from {
            (self.is_cold, self.late_from) = (true, from);
        }
        self
    }
}

/// The state directory of this platform; none if the user has no home directory.
pub fn default_state_dir() -> Option<PathBuf> {
    let dirs = directories::ProjectDirs::from("", "", "me-sync")?;
    Some(dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).to_owned())
}

/// The host name, or `device` if it has none.
pub fn default_device_name() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    if name.is_empty() { "device".to_owned() } else { name }
}

/// A node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another process uses the state directory.
    #[error(transparent)]
    Lock(#[from] StateLockError),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Session records cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The session store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The limit of this node cannot be used.
    #[error(transparent)]
    Limit(#[from] LimitFileError),
    /// The network side does not start.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A blocking step did not come back.
    #[error("the start was interrupted")]
    Interrupted,
}

impl NodeError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Lock(e) => e.code(),
            Self::Identity(e) => e.code(),
            Self::State(e) => e.code(),
            Self::Store(e) => e.code(),
            Self::Limit(e) => e.code(),
            Self::Net(e) => e.code(),
            Self::Interrupted => Code::NodeStopping,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Lock(StateLockError::Held { .. }) => "wait until it is done, or give this one its own --state-dir",
            Self::Lock(StateLockError::Io { .. }) => "choose another place with --state-dir",
            Self::Identity(_) | Self::State(_) | Self::Store(_) => {
                "mend or move that file, or choose another --state-dir"
            }
            Self::Limit(_) => "`me-sync limit RATE` or `me-sync limit off` replaces it",
            Self::Net(_) => "check --listen and --transport",
            Self::Interrupted => "try again",
        }
    }
}

/// A running node. Stop it with [`Node::shutdown`]; dropped, its tasks end with the runtime.
#[derive(Debug)]
pub struct Node {
    handle: NodeHandle,
    recovered: Vec<Recovered>,
    _limit: limit::Follower,
    _lock: StateLock,
}

/// Talks to a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    net: NetHandle,
    coordinator: CoordinatorHandle,
    state: Arc<StateDir>,
    store: StoreHandle,
    limit: Limiter,
    config: Arc<NodeConfig>,
}

/// How to import a tree.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The directory that becomes the tree.
    pub target: PathBuf,
    /// Default: ask.
    pub consent: Consent,
    /// Default: TCP first, then QUIC.
    pub transport: TransportPreference,
    /// Addresses to try besides the ticket's.
    pub peer_addresses: Vec<Multiaddr>,
    /// How long to look for the exporter. Default: 30 s.
    pub connect_timeout: Duration,
    /// What may be a target.
    pub target_options: TargetOptions,
    /// Receive no faster than this; [`JobHandle::set_limit`] changes it. Default: no limit besides the node's.
    pub limit: Option<Rate>,
    /// Whether packed files are taken: not with [`Compression::Never`], here or of the node. Default: as the node does.
    pub compression: Option<Compression>,
    /// What runs once the tree is in place; if it fails, the old tree comes back. Default: nothing.
    pub post_apply: post_apply::Choice,
    /// The target must lie below one of these directories, whose paths are resolved. Default: anywhere.
    pub roots: Option<Vec<PathBuf>>,
}

impl ImportOptions {
    /// The defaults, for a target.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            consent: Consent::Ask,
            transport: TransportPreference::default(),
            peer_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(30),
            target_options: TargetOptions::default(),
            limit: None,
            compression: None,
            post_apply: post_apply::Choice::default(),
            roots: None,
        }
    }
}

/// A target that may be replaced, and is held.
#[derive(Debug)]
struct Pinned {
    target: Target,
    target_options: TargetOptions,
    /// Nothing is here that hashes could spare.
    late_hashes: bool,
}

/// An import did not start; the ticket is unused.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The target cannot be replaced.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The ticket names no valid peer.
    #[error("this ticket is damaged: it names no valid device")]
    Ticket,
    /// The target lies outside of what is allowed.
    #[error("{target} is not below an allowed directory", target = target.display())]
    NotAllowed {
        /// The target, resolved.
        target: PathBuf,
    },
    /// The ticket's session goes into another directory.
    #[error("this ticket has begun to fill {target}", target = target.display())]
    OtherTarget {
        /// Where it goes.
        target: PathBuf,
    },
    /// The ticket's session is over.
    #[error("the tree of this ticket {what}, at {target}", target = target.display(),
        what = if *stands { "is in place already" } else { "was put in place, and does not stand there any more" })]
    Applied {
        /// Where.
        target: PathBuf,
        /// The exporter knows.
        told: bool,
        /// It stands there still.
        stands: bool,
    },
    /// The ticket's session was aborted.
    #[error("the session of this ticket was ended for good, by one of the two devices")]
    Ended,
    /// The ticket's tree was in place, and was taken back because the command after the swap failed or was cut short.
    #[error("the command after the swap failed, or was cut short: {target} is what it was before",
        target = target.display())]
    TakenBack {
        /// Where.
        target: PathBuf,
    },
    /// The session store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The session cannot be gone on with.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// The command after the swap cannot run here.
    #[error("the command after the swap: {0}")]
    PostApply(#[from] PostApplyRefused),
    /// The node takes no more jobs.
    #[error("the node takes no more jobs ({0})")]
    Refused(Code),
}

impl ImportError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Preflight(e) => e.code(),
            Self::Ticket | Self::Applied { .. } | Self::Ended => Code::TicketInvalid,
            Self::NotAllowed { .. } => Code::PathNotAllowed,
            Self::OtherTarget { .. } => Code::TargetConflict,
            Self::TakenBack { .. } => Code::HealthFailed,
            Self::Store(e) => e.code(),
            Self::Resume(e) => e.code(),
            Self::PostApply(_) => Code::HealthFailed,
            Self::Refused(code) => *code,
        }
    }
}

impl Node {
    /// Locks the state directory, settles what a crash left there, and starts listening.
    ///
    /// # Errors
    /// The state directory is in use or damaged, or no listener could be opened.
    pub async fn spawn(config: NodeConfig) -> Result<Self, NodeError> {
        #[cfg(feature = "test-hooks")]
        let config = config.with_test_env();
        let state_dir = config.state_dir.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let lock = StateLock::acquire(&state_dir)?;
            let keypair = identity::load_or_create(&state_dir)?;
            let state = StateDir::open(&state_dir)?;
            let store = Store::open(&state_dir)?;
            let recovered = start::settle(&state, &store, SystemTime::now())?;
            let ports = store.ports()?;
            let (seen, limit) = limit::look(&state_dir);
            Ok::<_, NodeError>((lock, keypair, state, store, recovered, ports, (seen, Limiter::new(limit?))))
        });
        let (lock, keypair, state, store, recovered, ports, (seen, limit)) =
            prepared.await.map_err(|_| NodeError::Interrupted)??;
        let store = StoreHandle::spawn(store)?;
        let net_config = NetConfig {
            listen: config.listen.clone(),
            remembered: ports.iter().map(|port| start::listen_port(*port)).collect(),
            transports: config.transports,
            mdns: config.mdns,
            probe: config.probe,
            max_lanes: config.max_lanes.clamp(1, MAX_LANES),
            max_chunk: config.max_chunk.clamp(1, u32::try_from(MAX_CHUNK).unwrap_or(u32::MAX)),
            ..NetConfig::new(keypair, config.device_name.clone())
        };
        let (max_lanes, max_chunk) = (net_config.max_lanes, net_config.max_chunk);
        let (net, net_events) = net::spawn(net_config).await?;
        start::remember_ports(net.clone(), store.clone(), ports);
        let state = Arc::new(state);
        let hashes = Hashes::new(config.state_dir.clone());
        #[cfg(feature = "test-hooks")]
        let hashes = hashes.counted(config.hashed.clone());
        let coordinator = coordinator::spawn(Setup {
            net: net.clone(),
            net_events,
            state: state.clone(),
            store: store.clone(),
            hashes,
            retry: config.retry,
            max_lanes,
            max_chunk,
            limit: limit.clone(),
            compression: config.compression,
            look_again_after: config.look_again_after,
            late_from: config.late_from,
            #[cfg(feature = "test-hooks")]
            is_cold: config.is_cold,
            #[cfg(feature = "test-hooks")]
            faults: if config.faults.is_empty() { crate::hooks::FaultPlan::from_env() } else { config.faults.clone() },
        });
        coordinator::tell_results(net.clone(), store.clone());
        let follower = limit::follow(config.state_dir.clone(), seen, limit.clone());
        let handle = NodeHandle { net, coordinator, state, store, limit, config: Arc::new(config) };
        Ok(Self { handle, recovered, _limit: follower, _lock: lock })
    }

    /// A handle.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// What an earlier, interrupted run left, and what was done about it.
    pub fn recovered(&self) -> &[Recovered] {
        &self.recovered
    }

    /// Stops: jobs are ended and their sessions kept, a swap under way is finished. Takes at most about 5 seconds
    /// unless a swap takes longer.
    pub async fn shutdown(self) {
        if tokio::time::timeout(DRAIN, self.handle.coordinator.shutdown()).await.is_err() {
            tracing::warn!("some jobs did not end in time");
        }
        self.handle.net.shutdown().await;
        if let Err(e) = self.handle.store.close().await {
            tracing::warn!(error = %crate::errors::chain(&e), "the session store did not close");
        }
    }
}

impl NodeHandle {
    /// This node's PeerId.
    pub fn peer_id(&self) -> String {
        self.net.local_peer().to_string()
    }

    /// Imports with a ticket. The target is resolved, locked and checked before anything is sent. A ticket whose
    /// session is unfinished goes on with it, by these options.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub async fn import(&self, ticket: Ticket, options: ImportOptions) -> Result<JobHandle, ImportError> {
        let peer = PeerId::from_bytes(&ticket.peer_id).map_err(|_| ImportError::Ticket)?;
        let Pinned { target, target_options, late_hashes } = self.pin(&options).await?;
        let unpacked = options.compression == Some(Compression::Never);
        if let Some(record) = self.begun_with(&ticket, peer, target.path()).await? {
            // the session pins it again
            drop(target);
            let more = coordinator::addresses(&ticket, options.peer_addresses);
            let post_apply = options.post_apply.or(record.post_apply.as_ref());
            let consent = options.consent;
            let how = Continue { target_options, consent, addresses: more, unpacked, post_apply };
            let job = self.resume_record(record, ticket, how).await?;
            job.set_limit(options.limit);
            return Ok(job);
        }
        let post_apply = options.post_apply.or(None);
        if let Some(command) = &post_apply {
            command.look_beside(target.path())?;
        }
        let plan = ImportPlan {
            target,
            target_options,
            consent: options.consent,
            late_hashes,
            addresses: coordinator::addresses(&ticket, options.peer_addresses),
            transport: options.transport,
            connect_timeout: options.connect_timeout,
            unpacked,
            post_apply,
        };
        let job = self.coordinator.import(ticket, peer, plan).await.map_err(ImportError::Refused)?;
        job.set_limit(options.limit);
        Ok(job)
    }

    /// Resolves, locks and checks the target of an import.
    async fn pin(&self, options: &ImportOptions) -> Result<Pinned, ImportError> {
        let mut target_options = options.target_options.clone();
        target_options.forbidden.push(self.config.state_dir.clone());
        let (path, pin_options, state) = (options.target.clone(), target_options.clone(), self.state.clone());
        let pinned = tokio::task::spawn_blocking(move || {
            let target = Target::pin(&path, &pin_options)?;
            let late_hashes = target.is_blank(&state);
            Ok::<_, PreflightError>((target, late_hashes))
        });
        let (target, late_hashes) = pinned.await.map_err(|_| ImportError::Refused(Code::NodeStopping))??;
        // it was resolved, and opened without following a link: what is held now is what this path says
        let allowed = |root: &PathBuf| target.path() != root && target.path().starts_with(root);
        if options.roots.as_ref().is_some_and(|roots| !roots.iter().any(allowed)) {
            return Err(ImportError::NotAllowed { target: target.path().to_owned() });
        }
        Ok(Pinned { target, target_options, late_hashes })
    }

    /// Limits how fast all sessions of this node together move bytes, or lifts the limit; at once, until
    /// [`crate::limit::store`] says something else.
    pub fn set_limit(&self, limit: Option<Rate>) {
        self.limit.set(limit);
    }

    /// The limit of this node.
    pub fn limit(&self) -> Option<Rate> {
        self.limit.rate()
    }

    /// Devices that answered our hello, most recent first.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn peers(&self) -> Result<Vec<PeerView>, NetError> {
        self.net.peers().await
    }

    /// Greets devices that mDNS finds, so that [`Self::peers`] knows them, until what is returned is dropped.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn search(&self) -> Result<Search, NetError> {
        self.net.search().await
    }
}

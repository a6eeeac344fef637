//! One migration: two nodes, an offer, an import, and when each phase began.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use me_sync_node::net::{ListenAddr, Transports};
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::staging::TargetOptions;
use me_sync_node::{
    Completion, Compression, Consent, ImportOptions, JobHandle, JobView, Node, NodeConfig, OfferOptions, PipeSession,
};
use me_sync_protocol::progress::Phase;
use serde::Serialize;
use tokio::net::UnixStream;

use crate::Outcome;
use crate::args::{Args, Compress, Transport};
use crate::measure::{self, Cpu};

/// How long an importer looks for its exporter: a large source is hashed meanwhile.
const PATIENCE: Duration = Duration::from_secs(300);

/// What an exporter's view says while it hashes: neither its phase nor its counters tell that apart from what follows.
const HASHING: &str = "reading and hashing the source";

/// What one migration did and took. Seconds and bytes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Migration {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// File content that went over the network; the rest was found at the importer.
    pub(crate) payload_bytes: u64,
    /// As how many bytes.
    pub(crate) wire_bytes: u64,
    pub(crate) reused_files: u64,
    pub(crate) manifest_sha256: String,
    /// From the start of the walk until the tree is in place and durable.
    pub(crate) wall: f64,
    pub(crate) phases: Phases,
    pub(crate) cpu_user: f64,
    pub(crate) cpu_system: f64,
    pub(crate) peak_memory: u64,
}

/// Seconds of each part; together they are the whole. None where a part was too short to be seen, as a job's view
/// changes every 250 ms only: its time is in the part before.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Phases {
    /// Walking the source.
    pub(crate) walk: Option<f64>,
    /// Hashing it; the importer connects meanwhile. None if the outline went first: files are hashed while they move.
    pub(crate) hash: Option<f64>,
    /// Making, sending and checking the manifest; staging; looking what is here already.
    pub(crate) manifest: Option<f64>,
    /// Files move, retries included.
    pub(crate) transfer: Option<f64>,
    /// The last checks, modes and times of directories, the flush to disk.
    pub(crate) verify: Option<f64>,
    /// The exchange of the trees, until it is durable.
    pub(crate) swap: Option<f64>,
}

/// Where the tree goes.
pub(crate) fn target(place: &Path) -> PathBuf {
    place.join("target")
}

/// Starts two nodes with state in `place`, moves `source` to its target, and stops them.
pub(crate) async fn migrate(args: &Args, source: &Path, place: &Path) -> Outcome<Migration> {
    let exporter = Node::spawn(config(args, place, "exporter")).await?;
    let importer = Node::spawn(config(args, place, "importer")).await?;
    let result = between(args, &exporter, &importer, source, place).await;
    importer.shutdown().await;
    exporter.shutdown().await;
    result
}

fn config(args: &Args, place: &Path, name: &str) -> NodeConfig {
    let mut config = NodeConfig::new(place.join(name));
    config.device_name = name.to_owned();
    config.listen = vec![ListenAddr { ip: Ipv4Addr::LOCALHOST.into(), port: None }];
    config.mdns = false;
    // a node listens somewhere, also if its ticket names only the pipe
    let quic = args.transport == Transport::Quic;
    config.transports = Transports { tcp: !quic, quic, ws: false };
    config.max_lanes = args.lanes;
    config.max_chunk = args.chunk;
    config.compression = match args.compress {
        Compress::Auto => Compression::Auto,
        Compress::Never => Compression::Never,
        Compress::Always => Compression::Always,
    };
    if args.hash_first {
        config.late_from = u64::MAX;
    }
    config
}

async fn between(args: &Args, exporter: &Node, importer: &Node, source: &Path, place: &Path) -> Outcome<Migration> {
    measure::reset_peak_memory();
    let (cpu, start) = (Cpu::now()?, Instant::now());

    let tree = source.to_owned();
    let walked = tokio::task::spawn_blocking(move || Source::scan(&tree, &ScanOptions::default())).await??;
    let walk = start.elapsed();
    let mut offer = exporter.handle().offer(walked, OfferOptions::default()).await?;
    let hashed = tokio::spawn(hashed(offer.job.clone(), start));

    let options = ImportOptions {
        consent: Consent::Given,
        connect_timeout: PATIENCE,
        target_options: TargetOptions {
            keep_world_writable: true,
            forbidden: vec![source.to_owned()],
            ..TargetOptions::default()
        },
        ..ImportOptions::new(target(place))
    };
    let _pipe = match args.transport {
        Transport::Pipe => {
            offer.ticket.addresses.clear();
            let (near, far) = UnixStream::pair()?;
            let (near_end, far_end) = (exporter.handle(), importer.handle());
            let session = PipeSession::Ticket(offer.ticket.clone());
            let ends =
                tokio::try_join!(near_end.attach_pipe(PipeSession::Offers, near), far_end.attach_pipe(session, far))?;
            Some(ends)
        }
        Transport::Tcp | Transport::Quic => None,
    };
    let import = importer.handle().import(offer.ticket, options).await?;
    let marks = marks(&import, start).await;

    // of the moment the tree is in place; what the exporter does until it has heard of it is no part of it
    let (cpu, peak_memory) = (Cpu::now()?.since(cpu), measure::peak_memory()?);
    let done = completed(import.outcome().await)?;
    let sent = completed(offer.job.outcome().await)?;
    if done.manifest_sha256 != sent.manifest_sha256 {
        return Err(format!("{} was sent and {} applied", sent.manifest_sha256, done.manifest_sha256).into());
    }
    Ok(Migration {
        files: done.files,
        bytes: done.bytes,
        payload_bytes: done.payload_bytes,
        wire_bytes: done.wire_bytes,
        reused_files: done.reused_files,
        manifest_sha256: done.manifest_sha256,
        wall: marks.end.as_secs_f64(),
        phases: phases(walk, hashed.await?, &marks),
        cpu_user: cpu.user,
        cpu_system: cpu.system,
        peak_memory,
    })
}

fn completed(outcome: me_sync_node::Outcome) -> Outcome<Completion> {
    match outcome {
        me_sync_node::Outcome::Completed(done) => Ok(done),
        me_sync_node::Outcome::Failed { code, message, hint } => Err(format!("{code}: {message}; {hint}").into()),
    }
}

/// When the exporter had hashed its source; none if that was not seen before files moved.
async fn hashed(job: JobHandle, start: Instant) -> Option<Duration> {
    let is_before_bulk = |view: &JobView| order(view.phase) < order(Phase::BulkTransferring);
    let mut views = job.watch();
    let is_over = |view: &JobView| {
        // the first view of a job says nothing yet
        !is_before_bulk(view) || !["", HASHING].contains(&view.progress.detail.as_str())
    };
    let seen = views.wait_for(is_over).await.ok()?;
    is_before_bulk(&seen).then(|| start.elapsed())
}

/// When the importer came to each phase; none for one that was not seen.
struct Marks {
    bulk: Option<Duration>,
    verify: Option<Duration>,
    swap: Option<Duration>,
    end: Duration,
}

async fn marks(job: &JobHandle, start: Instant) -> Marks {
    let mut views = job.watch();
    let mut reached = async |phase: Phase| {
        let is_there = |view: &JobView| view.outcome.is_some() || order(view.phase) >= order(phase);
        let seen = views.wait_for(is_there).await.ok()?.phase;
        (order(seen) == order(phase)).then(|| start.elapsed())
    };
    let bulk = reached(Phase::BulkTransferring).await;
    let verify = reached(Phase::FinalVerifying).await;
    let swap = reached(Phase::Applying).await;
    job.outcome().await;
    Marks { bulk, verify, swap, end: start.elapsed() }
}

/// Where a phase stands in a migration that comes through.
fn order(phase: Phase) -> u8 {
    match phase {
        Phase::NearbyConnecting | Phase::WaitingForPeer => 0,
        Phase::ManifestReceiving => 1,
        Phase::BulkTransferring | Phase::RetryingFailed => 2,
        Phase::FinalVerifying => 3,
        Phase::Applying => 4,
        Phase::RestartingRuntime => 5,
        Phase::Completed | Phase::Failed => 6,
    }
}

fn phases(walk: Duration, hashed: Option<Duration>, marks: &Marks) -> Phases {
    // each part ends where the next one that was seen begins; the two ends see theirs independently
    let mut end = marks.end;
    let mut from = |start: Option<Duration>| {
        let start = start.filter(|start| *start <= end)?;
        Some((std::mem::replace(&mut end, start) - start).as_secs_f64())
    };
    let swap = from(marks.swap);
    let verify = from(marks.verify);
    let transfer = from(marks.bulk);
    let manifest = from(hashed);
    let hash = from(Some(walk));
    Phases { walk: from(Some(Duration::ZERO)), hash, manifest, transfer, verify, swap }
}

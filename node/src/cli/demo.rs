//! `me-sync demo`: two nodes with identities of their own move a tree over 127.0.0.1 and it is compared.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use me_sync_node::net::ListenAddr;
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::staging::TargetOptions;
use me_sync_node::{Completion, Consent, ImportOptions, Node, NodeConfig, OfferOptions, default_state_dir};
use serde_json::json;

use super::exit::{CliError, Exit};
use super::follow::{Follower, Step};
use super::globals::{Globals, Transport};
use super::import::{needs_consent, rollback_command};
use super::job::Job;
use super::out::Out;
use super::stop::{Stop, blocking};
use super::tree_compare::{Comparison, compare};
use super::{human, sample_tree, send};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync demo                      a sample tree into a new directory
  me-sync demo ~/photos /tmp/copy   a tree of yours; only read

Nothing leaves this machine: both nodes listen on 127.0.0.1, mDNS is off.";

/// Differences that are named to people.
const NAMED: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tree to move; a small sample is made if none is named
    src: Option<PathBuf>,
    /// The directory that becomes it [default: a new one]
    dst: Option<PathBuf>,
    /// Replace what is in DST
    #[arg(short, long)]
    yes: bool,
}

/// Where a demo happens.
#[derive(Debug)]
struct Stage {
    base: PathBuf,
    source: PathBuf,
    target: PathBuf,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let full = |dir: &PathBuf| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if let Some(dst) = args.dst.as_ref().filter(|dst| !args.yes && full(dst)) {
        return Err(needs_consent(dst));
    }
    let stage = stop.unless(blocking(move || prepare(args.src, args.dst))).await???;
    out.say(format_args!("{} -> {}", human::path(&stage.source), human::path(&stage.target)));
    let (done, time) = match migrate(&stage, globals, out, stop).await {
        Ok(done) => done,
        Err(err) => {
            discard(&stage, &err, out).await;
            return Err(err);
        }
    };
    let (source, target) = (stage.source.clone(), stage.target.clone());
    let judged = stop.unless(blocking(move || compare(&source, &target))).await??;
    let judged = judged.map_err(|err| {
        CliError::new(Exit::Incomplete, format!("the trees cannot be compared: {err}"), "check their permissions")
    })?;
    report(&stage, &done, &judged, time, globals, out)
}

/// Makes the demo's own directory, outside of source and target, and the sample if none is named.
fn prepare(src: Option<PathBuf>, dst: Option<PathBuf>) -> Result<Stage, CliError> {
    let source = match src {
        Some(src) => Some(src.canonicalize().map_err(|err| {
            CliError::new(Exit::Source, format!("the source {}: {err}", human::path(&src)), "check the path")
        })?),
        None => None,
    };
    let inside = |dir: &Path| {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let target = dst.as_ref().and_then(|dst| dst.canonicalize().ok());
        source.iter().chain(&target).any(|tree| dir.starts_with(tree))
    };
    let beside = dst.as_ref().and_then(|dst| dst.parent()).map(Path::to_owned);
    let places = [Some(std::env::temp_dir()), default_state_dir().and_then(|d| d.parent().map(Path::to_owned)), beside];
    let place = places.into_iter().flatten().find(|dir| dir.is_dir() && !inside(dir)).ok_or_else(|| {
        CliError::usage(
            "there is no place for the demo's state outside of the trees",
            "set TMPDIR to a directory elsewhere",
        )
    })?;
    let made = |err: io::Error| {
        CliError::new(Exit::Node, format!("the demo cannot write in {}: {err}", human::path(&place)), "set TMPDIR")
    };
    let base = fresh(&place).map_err(made)?;
    let source = match source {
        Some(source) => source,
        None => {
            let sample = base.join("source");
            sample_tree::make(&sample).map_err(made)?;
            sample
        }
    };
    let target = dst.unwrap_or_else(|| base.join("target"));
    Ok(Stage { base, source, target })
}

/// Takes away what a demo without effect made; what may be needed to settle a swap stays and is named.
async fn discard(stage: &Stage, err: &CliError, out: Out) {
    let base = stage.base.clone();
    let unsettled = matches!(err.exit, Exit::ApplyFailed | Exit::HealthFailed);
    let gone = !unsettled && blocking(move || fs::remove_dir_all(base).is_ok()).await.unwrap_or(false);
    if !gone {
        out.say(format_args!("the demo's files are left in {}", human::path(&stage.base)));
    }
}

fn fresh(place: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::from)?;
    let base = place.join(format!("me-sync-demo-{:016x}", u64::from_ne_bytes(random)));
    fs::DirBuilder::new().mode(0o700).create(&base)?;
    Ok(base)
}

async fn migrate(stage: &Stage, globals: &Globals, out: Out, stop: &Stop) -> Result<(Completion, Duration), CliError> {
    let source = send::scan(stage.source.clone(), ScanOptions::default(), out, stop).await?;
    let exporter = stop.unless(Node::spawn(config(stage, "exporter", globals))).await??;
    let importer = match stop.unless(Node::spawn(config(stage, "importer", globals))).await {
        Ok(Ok(importer)) => importer,
        Ok(Err(err)) => {
            exporter.shutdown().await;
            return Err(err.into());
        }
        Err(err) => {
            exporter.shutdown().await;
            return Err(err);
        }
    };
    let result = both(&exporter, &importer, source, stage, globals, out, stop).await;
    importer.shutdown().await;
    exporter.shutdown().await;
    result
}

async fn both(
    exporter: &Node,
    importer: &Node,
    source: Source,
    stage: &Stage,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(Completion, Duration), CliError> {
    let offer = stop.unless(exporter.handle().offer(source, OfferOptions::default())).await??;
    let options = ImportOptions {
        consent: Consent::Given,
        transport: globals.preference(),
        target_options: TargetOptions {
            keep_world_writable: true,
            forbidden: vec![stage.source.clone()],
            ..TargetOptions::default()
        },
        ..ImportOptions::new(&stage.target)
    };
    let job = stop.unless(importer.handle().import(offer.ticket.clone(), options)).await??;
    let mut follower = Follower::passing(out, stop);
    loop {
        if let Step::Completed(done) = follower.follow(&Job::Here(job.clone())).await? {
            return Ok((*done, follower.render.moving_for()));
        }
    }
}

fn config(stage: &Stage, role: &str, globals: &Globals) -> NodeConfig {
    let mut config = NodeConfig::new(stage.base.join(role));
    config.device_name = format!("demo {role}");
    config.listen = vec![ListenAddr { ip: Ipv4Addr::LOCALHOST.into(), port: None }];
    config.mdns = false;
    config.transports.tcp = globals.transport != Transport::Quic;
    config.transports.quic = globals.transport != Transport::Tcp;
    config
}

fn report(
    stage: &Stage,
    done: &Completion,
    judged: &Comparison,
    time: Duration,
    globals: &Globals,
    out: Out,
) -> Result<(), CliError> {
    send::totals(done, time, "here", out);
    if !judged.differences.is_empty() {
        for difference in judged.differences.iter().take(NAMED) {
            out.say(human::lines(&difference.replace('\n', "\u{2028}")));
        }
        let message = match judged.differences.len() {
            1 => "the trees differ in 1 entry".to_owned(),
            n => format!("the trees differ in {n} entries"),
        };
        let error = CliError::new(Exit::Incomplete, message, "close programs that write to the source, and report it");
        return Err(CliError { extra: json!({ "differences": judged.differences }), ..error });
    }
    out.say(format_args!(
        "compared by a walk of its own: {} entries, identical in names, kinds, SHA-256, modes and times",
        judged.entries
    ));
    let state = Globals { state_dir: Some(stage.base.join("importer")), ..globals.clone() };
    out.say(format_args!("to undo it:   {}", rollback_command(&state, &stage.target)));
    out.say(format_args!("to clean up:  rm -r {}", human::shell(&stage.base)));
    let mut fields = json!({ "source": stage.source, "compared": judged.entries, "differences": [],
        "state_dir": state.state_dir });
    if let (Some(fields), Ok(serde_json::Value::Object(done))) = (fields.as_object_mut(), serde_json::to_value(done)) {
        fields.extend(done);
    }
    out.success(fields);
    Ok(())
}

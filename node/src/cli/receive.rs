//! `me-sync receive`: makes a directory what another device offers, with consent if there is something in it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use me_sync_node::net::parse_addresses;
use me_sync_node::staging::TargetOptions;
use me_sync_node::{Completion, Consent, ImportOptions, JobHandle, NodeHandle, Review};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::ticket::{PREFIX, Ticket};

use super::exit::CliError;
use super::follow::{Step, follow};
use super::globals::Globals;
use super::out::Out;
use super::render::Render;
use super::stop::Stop;
use super::ticket_input::TicketSource;
use super::{human, prompt, send};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync receive ~/photos                    asks for the ticket
  me-sync receive --ticket-file t.txt ~/photos
  ME_SYNC_TICKET=... me-sync receive -y ~/photos
  ssh laptop cat t.txt | me-sync receive --yes ~/photos

Root maps to root: DIR becomes what the sent directory is. What was in DIR is
kept for 7 days; `me-sync rollback DIR` brings it back.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The ticket; - reads it from stdin. Other users can see it here
    pub(crate) ticket: Option<String>,
    /// The directory that becomes the sent tree
    #[arg(required = true)]
    pub(crate) dir: PathBuf,
    /// Read the ticket from a file; - is stdin
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<PathBuf>,
    /// Replace what is in DIR without asking
    #[arg(short, long)]
    yes: bool,
    /// Where the other device is: IP:PORT or multiaddr; repeatable
    #[arg(long, value_name = "ADDR", value_parser = parse_peer)]
    peer: Vec<PeerAddresses>,
    /// How long to look for the other device
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = human::parse_duration)]
    connect_timeout: Duration,
    /// Do not replace DIR if it changes meanwhile
    #[arg(long)]
    fail_if_changed: bool,
    /// Keep world-writable bits of the sent files
    #[arg(long)]
    keep_world_writable: bool,
    /// DIR may be your home directory
    #[arg(long)]
    i_mean_home: bool,
}

/// The multiaddrs of one `--peer`.
#[derive(Debug, Clone)]
struct PeerAddresses(Vec<String>);

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    if args.dir.to_string_lossy().starts_with(PREFIX) {
        return Err(CliError::usage("that is a ticket, but the directory is missing", "me-sync receive TICKET DIR"));
    }
    let from = TicketSource::choose(args.ticket.as_deref(), args.ticket_file.as_deref(), out)?;
    let can_ask = prompt::possible(out) && from != TicketSource::Stdin;
    if !args.yes && !can_ask && has_entries(&args.dir) {
        return Err(needs_consent(&args.dir));
    }
    let ticket = from.read(out, stop).await?;
    let peer = escaped(&ticket.device_name).to_string();
    let options = ImportOptions {
        // with --yes the answer is given here, so that what it agrees to is shown all the same
        consent: Consent::Ask,
        transport: globals.preference(),
        peer_addresses: parse_addresses(&args.peer.iter().flat_map(|p| p.0.clone()).collect::<Vec<_>>()),
        connect_timeout: args.connect_timeout,
        target_options: TargetOptions {
            allow_home: args.i_mean_home,
            fail_if_changed: args.fail_if_changed,
            keep_world_writable: args.keep_world_writable,
            forbidden: Vec::new(),
        },
        ..ImportOptions::new(&args.dir)
    };
    let node = globals.spawn(out, stop).await?;
    let answer = if args.yes {
        Answer::Yes
    } else if can_ask {
        Answer::Ask
    } else {
        Answer::Unable
    };
    let result = import(&node.handle(), ticket, options, answer, out, stop).await;
    node.shutdown().await;
    let (done, time, name) = result?;
    report(&args.dir, &done, time, name.as_deref(), &peer, globals, out);
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    Ask,
    /// Nobody can be asked.
    Unable,
}

async fn import(
    node: &NodeHandle,
    ticket: Ticket,
    options: ImportOptions,
    answer: Answer,
    out: Out,
    stop: &Stop,
) -> Result<(Completion, Duration, Option<String>), CliError> {
    let dir = options.target.clone();
    let job = stop.unless(node.import(ticket, options)).await??;
    let mut render = Render::new(out);
    loop {
        match follow(&job, &mut render, stop).await? {
            Step::Completed(done) => return Ok((*done, render.moving_for(), job.view().source_name)),
            Step::Review(review) => {
                decide(&job, &review, &dir, answer, out, stop).await?;
                render.resume();
            }
        }
    }
}

/// Shows both sides and answers the job.
async fn decide(
    job: &JobHandle,
    review: &Review,
    dir: &Path,
    answer: Answer,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    out.event("review", review);
    for warning in &review.warnings {
        out.warn(human::lines(warning));
    }
    if answer != Answer::Unable {
        summary(job, review, answer, out);
    }
    match answer {
        Answer::Yes => job.accept().await,
        Answer::Ask => match prompt::yes("Replace it?", out, stop).await {
            Ok(true) => job.accept().await,
            // the next look at the job finds it declined
            Ok(false) => job.decline().await,
            // and here the stop that was asked for
            Err(_) => job.abort().await,
        },
        // it was empty or missing a moment ago
        Answer::Unable => {
            job.decline().await;
            job.outcome().await;
            return Err(needs_consent(dir));
        }
    }
    // the review is taken back once the answer has arrived
    let mut views = job.watch();
    views.wait_for(|v| v.review.is_none() || v.outcome.is_some()).await.ok();
    Ok(())
}

fn summary(job: &JobHandle, review: &Review, answer: Answer, out: Out) {
    let mut text = String::new();
    if let Some(peer) = job.view().peer {
        text += &format!("From    {}\n", human::device(&peer.device_name, &peer.peer_id));
    }
    text += &format!(
        "Comes   {}: {}, {}\n",
        escaped(&review.source_name),
        human::count(review.files, "file"),
        human::bytes(review.bytes)
    );
    let names: Vec<_> = review.top_names.iter().map(|n| escaped(n).to_string()).collect();
    text += &format!("        {}\n", names.join(", "));
    text += &format!("Into    {}\n", human::path(&review.target));
    if let Some(old) = &review.replaces {
        let least = if old.is_partial { "at least " } else { "" };
        text += &format!(
            "Goes    {least}{}, {}; kept {} for rollback\n",
            human::count(old.files, "file"),
            human::bytes(old.bytes),
            human::duration(review.keep_for)
        );
    }
    // a question without what it is about would be no question
    if answer == Answer::Ask { out.ask(text) } else { out.say(text.trim_end()) }
}

fn report(dir: &Path, done: &Completion, time: Duration, name: Option<&str>, peer: &str, globals: &Globals, out: Out) {
    let target = done.target.as_deref().unwrap_or(dir);
    let what = name.map(|n| format!("{} on {peer}", escaped(n))).unwrap_or_else(|| format!("the tree on {peer}"));
    out.say(format_args!("{} is now what {what} is", human::path(target)));
    send::totals(done, time, out);
    if let Some(retained) = &done.retained {
        let until = done.retained_until_ms.map(|ms| format!(" until {}", human::wall(ms))).unwrap_or_default();
        out.say(format_args!("what was there is kept in {}{until}", human::path(retained)));
    }
    out.say(format_args!("to undo this: {}", rollback_command(globals, target)));
    out.success(done);
}

/// The command that undoes a migration, as it can be typed.
pub(crate) fn rollback_command(globals: &Globals, target: &Path) -> String {
    let state = globals.state_dir.as_deref().map(|d| format!("--state-dir {} ", human::shell(d))).unwrap_or_default();
    format!("me-sync {state}rollback {}", human::shell(target))
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

pub(crate) fn needs_consent(dir: &Path) -> CliError {
    CliError::usage(
        format!("{} exists and is not empty; nothing was changed", human::path(dir)),
        "add -y to replace it (it is kept for rollback), or name a new directory",
    )
}

fn parse_peer(text: &str) -> Result<PeerAddresses, String> {
    let addresses = match text.parse::<SocketAddr>() {
        Ok(at) => {
            let family = if at.is_ipv4() { "ip4" } else { "ip6" };
            let (ip, port) = (at.ip(), at.port());
            vec![format!("/{family}/{ip}/tcp/{port}"), format!("/{family}/{ip}/udp/{port}/quic-v1")]
        }
        Err(_) => vec![text.to_owned()],
    };
    if parse_addresses(&addresses).is_empty() {
        return Err("IP:PORT or a multiaddr such as /ip4/192.168.1.5/tcp/4001 is needed".to_owned());
    }
    Ok(PeerAddresses(addresses))
}

//! `me-sync send`: offers a tree and waits for the device that takes it.

use std::path::PathBuf;
use std::time::Duration;

use me_sync_node::source::{ScanOptions, Source, SourceSummary};
use me_sync_node::{Completion, NodeHandle, OfferOptions};
use me_sync_protocol::escape::escaped;
use serde_json::json;

use super::exit::CliError;
use super::follow::{Step, follow};
use super::globals::Globals;
use super::out::Out;
use super::render::{Render, spinner};
use super::stop::{Stop, blocking};
use super::{human, qr};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync send ~/photos
  me-sync send --expires 1h ~/photos > ticket.txt
  me-sync send --skip-unreadable --json /srv/data

The ticket is the only line on stdout. Whoever has it can take the tree once.";

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory or file to send
    path: PathBuf,
    /// How long the ticket is good, at most 24h
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_expiry)]
    expires: Duration,
    /// Leave out what cannot be read
    #[arg(long)]
    skip_unreadable: bool,
    /// Leave out names that no manifest can hold
    #[arg(long)]
    skip_unsupported: bool,
    /// Draw no QR code
    #[arg(long)]
    no_qr: bool,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let options = ScanOptions { skip_unreadable: args.skip_unreadable, skip_unsupported: args.skip_unsupported };
    let source = scan(args.path, options, out, stop).await?;
    let node = globals.spawn(out, stop).await?;
    let result = offer(&node.handle(), source, args.expires, !args.no_qr, out, stop).await;
    node.shutdown().await;
    let (done, time, peer) = result?;
    report(&done, time, peer.as_deref(), out);
    Ok(())
}

/// Walks the source and says what is left out.
pub(crate) async fn scan(path: PathBuf, options: ScanOptions, out: Out, stop: &Stop) -> Result<Source, CliError> {
    let spinner = spinner(out, format!("looking at {}", human::path(&path)));
    let scanned = stop.unless(blocking(move || Source::scan(&path, &options))).await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let source = scanned???;
    let found = source.summary();
    out.say(format_args!(
        "{}: {}, {}, {}, {}",
        human::path(&found.root),
        human::count(found.files, "file"),
        dirs(found.dirs),
        human::count(found.symlinks, "link"),
        human::bytes(found.bytes)
    ));
    skipped(found, out);
    Ok(source)
}

fn skipped(found: &SourceSummary, out: Out) {
    let kinds = [
        ("special", "neither file, directory nor link", &found.skipped.special),
        ("unreadable", "unreadable", &found.skipped.unreadable),
        ("unsupported", "not nameable in a manifest", &found.skipped.unsupported),
    ];
    for (kind, words, skipped) in kinds {
        if skipped.count > 0 {
            out.event("skipped", json!({ "kind": kind, "count": skipped.count, "names": skipped.names }));
            // its names are escaped when they are taken in
            out.say(format_args!("left out, {words}: {}{skipped}", skipped.count));
        }
    }
}

async fn offer(
    node: &NodeHandle,
    source: Source,
    ttl: Duration,
    with_qr: bool,
    out: Out,
    stop: &Stop,
) -> Result<(Completion, Duration, Option<String>), CliError> {
    let offer = stop.unless(node.offer(source, OfferOptions { ttl, ..OfferOptions::default() })).await??;
    out.event(
        "ticket",
        json!({ "ticket": offer.ticket_uri, "expires_at_ms": offer.expires_at_ms,
        "peer_id": node.peer_id(), "addresses": offer.ticket.addresses }),
    );
    let wants_qr = out.terminal && with_qr && !out.quiet && !out.json;
    if let Some(code) = wants_qr.then(|| qr::for_terminal(&offer.ticket_uri)).flatten() {
        out.say(code);
    }
    out.say(format_args!("The ticket, good once and for {} (keep it secret):", human::duration(ttl)));
    out.essential(&offer.ticket_uri)?;
    out.say("On the other device, type this and paste the ticket:");
    out.say("  me-sync receive DIR");
    let mut render = Render::new(out);
    loop {
        if let Step::Completed(done) = follow(&offer.job, &mut render, stop).await? {
            let peer = offer.job.view().peer.map(|p| human::device(&p.device_name, &p.peer_id));
            return Ok((*done, render.moving_for(), peer));
        }
    }
}

fn report(done: &Completion, time: Duration, peer: Option<&str>, out: Out) {
    out.say(format_args!("{} confirmed: the tree is verified and in place", peer.unwrap_or("the other device")));
    totals(done, time, out);
    out.success(done);
}

/// Figures and notes of a finished migration.
pub(crate) fn totals(done: &Completion, time: Duration, out: Out) {
    out.say(format_args!(
        "{}, {}, {}, {} in {} ({})",
        human::count(done.files, "file"),
        dirs(done.dirs),
        human::count(done.symlinks, "link"),
        human::bytes(done.bytes),
        human::duration(time),
        human::rate(done.bytes, time)
    ));
    out.say(format_args!("SHA-256 of the whole, checked: {}", escaped(done.manifest_sha256.get(..16).unwrap_or("?"))));
    for note in &done.notes {
        out.say(format_args!("note: {}", human::lines(note)));
    }
}

fn dirs(n: u64) -> String {
    if n == 1 { "1 directory".to_owned() } else { format!("{n} directories") }
}

fn parse_expiry(text: &str) -> Result<Duration, String> {
    let time = human::parse_duration(text)?;
    if time > DAY { Err("a ticket lives for at most 24h".to_owned()) } else { Ok(time) }
}

//! `me-sync send`: offers a tree and waits for the device that takes it.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use me_sync_node::http::schema::CreateRequest;
use me_sync_node::limit::Rate;
use me_sync_node::source::{ScanOptions, Source, SourceSummary};
use me_sync_node::{ArchiveOptions, Completion, OfferOptions, Protocol, Unfinished};
use me_sync_protocol::escape::escaped;
use serde_json::json;

use super::compress::{Compress, packed_in_all};
use super::exit::CliError;
use super::follow::{Follower, Step};
use super::globals::Globals;
use super::limit::SessionLimit;
use super::live::StatusFile;
use super::offered::{Offered, archive_here, offers_here, offers_there};
use super::out::Out;
use super::own::Meet;
use super::remote::{Remote, absolute};
use super::render::spinner;
use super::stop::{Stop, blocking};
use super::{human, qr, send_many};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync send ~/photos
  me-sync send --expires 1h ~/photos > ticket.txt
  me-sync send --skip-unreadable --json /srv/data
  me-sync send --compress always ~/logs
  me-sync send --devices 3 ~/photos    three tickets, read and hashed once
  me-sync send --no-code ~/photos      the ticket only
  me-sync send --archive ~/photos      one archive (v3), if all else fails

A ticket is a line on stdout, and nothing else is. Whoever has it can take the
tree once. The code, such as 7-velvet-harbor, is for a device on this network:
say it and type it there. A wrong try burns it, and another one is shown. With
--quiet, stderr has the line to type with the code and what goes wrong, no more.

A lost connection is waited out. Stopped and typed again, it goes on with the
device that had begun; --new makes a ticket for another one instead.

Text and the like is packed (zstd) while the connection is slower than packing,
which is found out on the way; what does not shrink never is.";

/// The shortest time that a rate is worth to be told of.
const SHORTEST: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory or file to send
    path: PathBuf,
    /// How long the ticket is good, at most 24h
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_expiry)]
    expires: Duration,
    /// Send no faster than this to each device: 500K, 1.5M, 1G bytes a second, or
    /// 100Mbit; `me-sync limit` is for all of them together
    #[arg(long, env = "ME_SYNC_LIMIT", hide_env_values = true, value_name = "RATE")]
    limit: Option<SessionLimit>,
    /// Leave out what cannot be read
    #[arg(long)]
    skip_unreadable: bool,
    /// Leave out names that no manifest can hold
    #[arg(long)]
    skip_unsupported: bool,
    /// Draw no QR code
    #[arg(long)]
    no_qr: bool,
    /// Make no code to say, only the ticket; without mDNS there is none but by --code
    #[arg(long)]
    no_code: bool,
    /// Make a code also without mDNS: `receive CODE --peer` takes it, and where this
    /// device is, which is shown
    #[arg(long, conflicts_with = "no_code")]
    code: bool,
    /// Do not go on with an unfinished send of this tree
    #[arg(long)]
    new: bool,
    /// Pack files on their way: auto, never or always
    #[arg(
        long,
        value_enum,
        env = "ME_SYNC_COMPRESS",
        hide_env_values = true,
        hide_possible_values = true,
        value_name = "WHEN"
    )]
    compress: Option<Compress>,
    /// Send to so many devices at once, each with a ticket of its own
    #[arg(long, value_name = "N", default_value = "1",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=OfferOptions::MAX_DEVICES as u64))]
    devices: usize,
    /// Send it as one archive (v3), for when nothing else works: no resume, no links
    ///
    /// The other device needs no more than that protocol. Should anything fail, all of it is sent once more, with a new
    /// ticket. Times are kept to the second; links, and names with a backslash, a drive letter, or that differ in case
    /// only, are refused, or left out with --skip-unsupported.
    #[arg(long, conflicts_with_all = ["devices", "code", "new", "hash_first"])]
    archive: bool,
    /// Read and hash everything before anything is sent
    ///
    /// As a rule a large tree that was not hashed before is read once, and hashed on its way, if the other device has
    /// nothing of it. Should the connection break then, the rest is hashed before it goes on.
    #[arg(long)]
    hash_first: bool,
}

impl Args {
    /// Because it was asked for, or there is nothing else.
    fn is_archive(&self, globals: &Globals) -> bool {
        self.archive || globals.only_v3()
    }

    fn archive(&self, options: &OfferOptions, globals: &Globals) -> ArchiveOptions {
        let compression = Some(globals.compression(self.compress));
        ArchiveOptions { ttl: options.ttl, limit: options.limit, compression, has_v4: !globals.only_v3() }
    }
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let scan_options = ScanOptions { skip_unreadable: args.skip_unreadable, skip_unsupported: args.skip_unsupported };
    let options = OfferOptions {
        ttl: args.expires,
        fresh: args.new,
        hash_first: args.hash_first,
        session: None,
        limit: globals.limit(args.limit),
        compression: None,
        code: (args.code || args.no_code).then_some(args.code),
    };
    if let Some(remote) = globals.remote(stop).await? {
        return there(&remote, &args, options, globals, out, stop).await;
    }
    // before the node: a tree that cannot be sent needs none
    let source = walk(args.path.clone(), scan_options, args.is_archive(globals), out, stop).await?;
    let compression = globals.compression(args.compress);
    let node = match globals.meet_with(|config| config.compression = compression, out, stop).await? {
        // another command has begun meanwhile
        Meet::There(remote) => return there(&remote, &args, options, globals, out, stop).await,
        Meet::Here(node) => node,
    };
    let offered = match args.is_archive(globals) {
        true => archive_here(&node, source, args.archive(&options, globals), stop).await,
        false => offers_here(&node, source, options, args.devices, stop).await,
    };
    let result = match offered {
        Ok(offers) => {
            say_place(&args, &offers, out);
            follow(offers, args.expires, !args.no_qr, globals, out, stop).await
        }
        Err(err) => Err(err),
    };
    node.shutdown(result.as_ref().err()).await;
    result
}

/// The node that runs offers it, and this process follows.
async fn there(
    remote: &Remote,
    args: &Args,
    options: OfferOptions,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    let ask = CreateRequest {
        source_path: absolute(&args.path)?,
        ttl_secs: Some(args.expires.as_secs().max(1)),
        skip_unreadable: args.skip_unreadable,
        skip_unsupported: args.skip_unsupported,
        fresh: args.new,
        hash_first: args.hash_first,
        limit_bps: options.limit.map(Rate::bytes_per_second),
        compress: globals.compress(args.compress),
        no_code: args.no_code,
        with_code: args.code,
        archive: args.is_archive(globals),
        only_v3: globals.only_v3(),
        devices: Some(args.devices as u64),
    };
    let offers = offers_there(remote, &ask, out, stop).await?;
    say_place(args, &offers, out);
    follow(offers, options.ttl, !args.no_qr, globals, out, stop).await
}

/// Where this device is, for whoever is to type the code without mDNS. If there is none here either, the line with the code
/// says it.
fn say_place(args: &Args, offers: &[Offered], out: Out) {
    let place = offers.first().filter(|offer| args.code && offer.has_mdns).and_then(Offered::place);
    if let Some(place) = place {
        out.say(format_args!("a device without mDNS finds this one by: me-sync receive CODE DIR --peer {place}"));
    }
}

/// One offer or several, to their ends.
async fn follow(
    mut offers: Vec<Offered>,
    ttl: Duration,
    with_qr: bool,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    match (offers.pop(), offers.is_empty()) {
        (Some(only), true) => {
            follow_one(only, ttl, with_qr, globals, out, stop).await?.show(out);
            Ok(())
        }
        (last, _) => {
            offers.extend(last);
            send_many::follow(&offers, ttl, globals, out, stop).await
        }
    }
}

/// Walks the source and says what is left out.
pub(crate) async fn scan(path: PathBuf, options: ScanOptions, out: Out, stop: &Stop) -> Result<Source, CliError> {
    walk(path, options, false, out, stop).await
}

/// The same, for an archive if so.
async fn walk(
    path: PathBuf,
    options: ScanOptions,
    is_archive: bool,
    out: Out,
    stop: &Stop,
) -> Result<Source, CliError> {
    let spinner = spinner(out, format!("looking at {}", human::path(&path)));
    let look = move || {
        let source = Source::scan(&path, &options)?;
        if is_archive { source.for_archive() } else { Ok(source) }
    };
    let scanned = stop.unless(blocking(look)).await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let source = scanned???;
    found(source.summary(), out);
    Ok(source)
}

/// What will be sent, and what is left out.
pub(crate) fn found(found: &SourceSummary, out: Out) {
    out.say(format_args!(
        "{}: {}, {}, {}, {}",
        human::path(&found.root),
        human::count(found.files, "file"),
        dirs(found.dirs),
        human::count(found.symlinks, "link"),
        human::bytes(found.bytes)
    ));
    skipped(found, out);
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

/// Shows the ticket, and follows the offer to its end.
pub(crate) async fn follow_one(
    offer: Offered,
    ttl: Duration,
    with_qr: bool,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<Sent, CliError> {
    out.event("ticket", ticket_fields(&offer));
    match &offer.continues {
        Some(known) => show_continued(&offer, known, globals, out)?,
        None => show_ticket(&offer, ttl, with_qr, out)?,
    }
    let status = StatusFile::of(&offer.job, globals, &offer.root)?.map(|file| file.looked_at(offer.choices));
    let mut follower = Follower::keeping(status, globals, out, stop);
    loop {
        if let Step::Completed(done) = follower.follow(&offer.job).await? {
            let peer = offer.job.view().peer.map(|p| human::device(&p.device_name, &p.peer_id));
            return Ok(Sent { done, time: follower.render.moving_for(), peer });
        }
    }
}

/// A ticket for programs.
pub(crate) fn ticket_fields(offer: &Offered) -> serde_json::Value {
    json!({ "ticket": offer.ticket_uri, "code": offer.code, "protocol": offer.job.view().protocol, "expires_at_ms": offer.expires_at_ms, "peer_id": offer.peer_id,
        "addresses": offer.addresses,
        "continues": offer.continues.as_ref().map(|known| known.session.to_string()) })
}

fn show_ticket(offer: &Offered, ttl: Duration, with_qr: bool, out: Out) -> Result<(), CliError> {
    let wants_qr = out.terminal && with_qr && !out.quiet && !out.json;
    if let Some(code) = wants_qr.then(|| qr::for_terminal(&offer.ticket_uri)).flatten() {
        out.say(code);
    }
    if offer.job.view().protocol == Protocol::V3 {
        out.say("protocol: v3 (archive: no resume; if it breaks off, send it once more)");
    }
    out.say(format_args!("The ticket, good once and for {} (keep it secret):", human::duration(ttl)));
    out.essential(&offer.ticket_uri)?;
    match offer.by_code() {
        Some(line) => {
            match offer.has_mdns {
                true => out.say("On a device on this network, type this with the code in it:"),
                false => out.say("On a device that reaches this one, type this with the code in it:"),
            }
            let indent = if out.quiet { "" } else { "  " };
            out.needed(format_args!("{indent}{line}"));
            out.say("On any other, type this and paste the ticket:");
        }
        None => out.say("On the other device, type this and paste the ticket:"),
    }
    out.say("  me-sync receive DIR");
    Ok(())
}

/// The ticket of an offer that goes on is of use to its own importer only, which seldom needs it.
fn show_continued(offer: &Offered, known: &Unfinished, globals: &Globals, out: Out) -> Result<(), CliError> {
    let session = known.session.short();
    let device = human::device(&known.device_name, &known.peer_id);
    out.say(format_args!("continuing session {session} with {device}"));
    // without a figure on record, as after a kill, how much is there is known when that device comes
    if (known.files_ok, known.bytes_ok) != (0, 0) {
        out.say(format_args!(
            "before it stopped, {} of {} had been sent: {} of {} whole",
            human::bytes(known.bytes_ok),
            human::bytes(known.bytes),
            human::number(known.files_ok),
            human::count(known.files, "file")
        ));
    }
    out.say("If me-sync does not run there any more, type this on that device:");
    out.say(format_args!("  me-sync resume {session}"));
    out.say("Its ticket, which no other device can use:");
    out.essential(&offer.ticket_uri)?;
    let another = globals.command(&format!("send --new {}", human::shell(&known.path)));
    out.say(format_args!("For another device: {another}"));
    Ok(())
}

/// An offer that is through.
pub(crate) struct Sent {
    done: Box<Completion>,
    time: Duration,
    peer: Option<String>,
}

impl Sent {
    pub(crate) fn show(&self, out: Out) {
        let peer = self.peer.as_deref().unwrap_or("the other device");
        out.say(format_args!("{peer} confirmed: the tree is verified and in place"));
        totals(&self.done, self.time, "there", out);
        out.success(&self.done);
    }
}

/// Figures and notes of a finished migration. `place` is where the tree is now: `here` or `there`.
pub(crate) fn totals(done: &Completion, time: Duration, place: &str, out: Out) {
    let mut text = format!(
        "{}, {}, {}, {}",
        human::count(done.files, "file"),
        dirs(done.dirs),
        human::count(done.symlinks, "link"),
        human::bytes(done.bytes)
    );
    // files that were sent again count twice
    let before = done.bytes.saturating_sub(done.payload_bytes);
    if before > 0 {
        let came = human::bytes(done.payload_bytes);
        text += &format!(" ({} were {place} already, {came} came over)", human::bytes(before));
    }
    if time > Duration::ZERO {
        text += &format!(" in {}", human::duration(time));
        // the rate of a moment says nothing
        if done.payload_bytes > 0 && time >= SHORTEST {
            text += &format!(" ({})", human::rate(done.payload_bytes, time));
        }
    }
    if let Some(packed) = packed_in_all(done) {
        text += &format!(", {packed}");
    }
    out.say(text);
    let archive = if done.protocol == Protocol::V3 { " (archive)" } else { "" };
    out.say(format_args!("protocol: {}{archive}", done.protocol.as_str()));
    out.say(format_args!("SHA-256 of the whole, checked: {}", escaped(done.manifest_sha256.get(..16).unwrap_or("?"))));
    for note in &done.notes {
        out.say(format_args!("note: {}", human::lines(note)));
    }
}

fn dirs(n: u64) -> String {
    if n == 1 { "1 directory".to_owned() } else { format!("{} directories", human::number(n)) }
}

fn parse_expiry(text: &str) -> Result<Duration, String> {
    let time = human::parse_duration(text)?;
    if time > DAY { Err("a ticket lives for at most 24h".to_owned()) } else { Ok(time) }
}

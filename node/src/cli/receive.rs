//! `me-sync receive`: makes a directory what another device offers, with consent if there is something in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use libp2p::{Multiaddr, PeerId};
use me_sync_node::book::SessionView;
use me_sync_node::http::schema::{StartRequest, StartResponse};
use me_sync_node::limit::Rate;
use me_sync_node::post_apply::Choice;
use me_sync_node::staging::{Target, TargetOptions};
use me_sync_node::{CodeOptions, Consent, ImportError, ImportOptions, NodeHandle, Role};
use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::ids::TicketId;
use me_sync_protocol::ticket::{FAMILY, Ticket, TicketRefused};
use serde_json::json;

use super::book::{Book, resolved};
use super::compress::Compress;
use super::exit::CliError;
use super::globals::Globals;
use super::import::{Answer, Import, Report, needs_consent};
use super::job::Job;
use super::limit::SessionLimit;
use super::out::Out;
use super::own::Meet;
use super::peer_address::PeerAddress;
use super::post_apply::{PostApplyArgs, to_node};
use super::remote::{Remote, absolute};
use super::render::spinner;
use super::stop::Stop;
use super::ticket_input::{Invitation, TicketSource};
use super::{human, prompt};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync receive 7-velvet-harbor ~/photos    by the code of a device nearby
  me-sync receive 7-velvet-harbor ~/photos --peer 192.168.1.5:40001
                                              by the code, without mDNS
  me-sync receive ~/photos                    asks for the ticket or the code
  me-sync receive --ticket-file t.txt ~/photos
  ME_SYNC_TICKET=... me-sync receive -y ~/photos
  ssh laptop cat t.txt | me-sync receive --yes ~/photos

Root maps to root: DIR becomes what the sent directory is. What was in DIR is
kept for 7 days; `me-sync rollback DIR` brings it back.

`--post-apply 'systemctl --user restart photos'` runs that once DIR is the new
tree. Unless it ends with 0 within a minute, DIR becomes again what it was, and
the exit code is 12. It runs in the directory that DIR is in, is no shell, and
knows ME_SYNC_TARGET, _KEPT (the old tree), _SESSION_ID, _FILES, _BYTES, _PEER_ID.

A lost connection is waited out. Stopped, it keeps what arrived: the same
ticket and DIR again, or `me-sync resume`, go on; `me-sync abort DIR` ends it.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The ticket or the code; - reads it from stdin. Other users can see it here
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
    /// Where the other device is, besides what is known: IP:PORT, NAME:PORT,
    /// PEERID@IP:PORT or a multiaddr; repeatable. Who answers there must be that device,
    /// or with a code prove that it made it
    #[arg(long, value_name = "ADDR")]
    peer: Vec<PeerAddress>,
    /// How long to look for the other device
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = human::parse_duration)]
    connect_timeout: Duration,
    /// Receive no faster than this: 500K, 1.5M, 1G bytes a second, or 100Mbit
    #[arg(long, env = "ME_SYNC_LIMIT", hide_env_values = true, value_name = "RATE")]
    limit: Option<SessionLimit>,
    /// Do not replace DIR if it changes meanwhile
    #[arg(long)]
    fail_if_changed: bool,
    /// Keep world-writable bits of the sent files
    #[arg(long)]
    keep_world_writable: bool,
    /// DIR may be your home directory
    #[arg(long)]
    i_mean_home: bool,
    /// Whether packed files are taken: auto or never
    #[arg(
        long,
        value_enum,
        env = "ME_SYNC_COMPRESS",
        hide_env_values = true,
        hide_possible_values = true,
        value_name = "WHEN"
    )]
    compress: Option<Compress>,
    /// Refuse a ticket of `send --archive` (v3), which has no resume
    #[arg(long)]
    require_v4: bool,
    #[command(flatten)]
    post_apply: PostApplyArgs,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    if args.dir.to_string_lossy().starts_with(FAMILY) {
        return Err(CliError::usage("that is a ticket, but the directory is missing", "me-sync receive TICKET DIR"));
    }
    let target_options = TargetOptions {
        allow_home: args.i_mean_home,
        fail_if_changed: args.fail_if_changed,
        keep_world_writable: args.keep_world_writable,
        forbidden: Vec::new(),
    };
    // the node looks at it again; here it comes before any advice how to replace it
    Target::check_path(&args.dir, &target_options).map_err(|err| CliError::from(ImportError::from(err)))?;
    let post_apply = args.post_apply.begin(globals)?;
    let from = TicketSource::choose(args.ticket.as_deref(), args.ticket_file.as_deref(), out)?;
    let answer = Answer::of(args.yes, prompt::possible(out) && from != TicketSource::Stdin);
    let from = from.read(out, stop).await?;
    from.check_protocol(globals.only_v3(), args.require_v4)?;
    if let Invitation::Archive(ticket) = &from {
        say_protocol(ticket, out);
    }
    if answer == Answer::Unable && has_entries(&args.dir) && !has_begun(&from, &args.dir, globals, out, stop).await? {
        return Err(needs_consent(&args.dir));
    }
    let expected = match &from {
        Invitation::Ticket(ticket) => exporter(ticket),
        Invitation::Archive(ticket) => ticket.peer_id.parse().ok(),
        Invitation::Code(_) => None,
    };
    let peer_addresses = PeerAddress::of(&args.peer, expected, stop).await?;
    let begin = Begin { peer_addresses, post_apply };
    let compression = globals.compression(args.compress);
    let node = match globals.meet_with(|config| config.compression = compression, out, stop).await? {
        Meet::There(remote) => return there(&remote, (&args, &begin), from, answer, globals, out, stop).await,
        Meet::Here(node) => node,
    };
    let options = ImportOptions {
        // with --yes the answer is given here, so that what it agrees to is shown all the same
        consent: Consent::Ask,
        transport: globals.preference(),
        peer_addresses: begin.peer_addresses,
        connect_timeout: args.connect_timeout,
        target_options,
        limit: globals.limit(args.limit),
        post_apply: begin.post_apply,
        ..ImportOptions::new(&args.dir)
    };
    let importing = async {
        let from = match from {
            Invitation::Archive(ticket) => {
                let id = TicketId(*ticket.transfer_id.as_bytes());
                let job = stop.unless(node.handle().import_archive(*ticket, options)).await??;
                node.show(&job, &resolved(&args.dir), Some(id));
                return follow(Job::Here(job), &args.dir, answer, globals, out, stop).await;
            }
            from => from,
        };
        let ticket = ticket(from, &node.handle(), (&args, &options.peer_addresses), globals, out, stop).await?;
        let ticket_id = ticket.ticket_id;
        let job = match stop.unless(node.handle().import(ticket, options)).await? {
            Ok(job) => job,
            Err(ImportError::Applied { target, told, stands: true }) if target == resolved(&args.dir) => {
                return Ok(End::Already { told });
            }
            Err(err) => return Err(refused(err, globals)),
        };
        node.show(&job, &resolved(&args.dir), Some(ticket_id));
        follow(Job::Here(job), &args.dir, answer, globals, out, stop).await
    };
    let result = importing.await.map(|end| end.show(&args.dir, globals, out));
    node.shutdown(result.as_ref().err()).await;
    result
}

/// What of the arguments needed a look elsewhere.
struct Begin {
    peer_addresses: Vec<Multiaddr>,
    post_apply: Choice,
}

/// What came of it.
enum End {
    Applied(Box<Report>),
    /// An earlier process had put the tree of this ticket there, and it stands there still.
    Already {
        /// The sending device knows.
        told: bool,
    },
}

impl End {
    fn show(&self, dir: &Path, globals: &Globals, out: Out) {
        match self {
            Self::Applied(report) => report.show(dir, globals, out),
            Self::Already { told } => already(dir, *told, globals, out),
        }
    }
}

fn already(dir: &Path, told: bool, globals: &Globals, out: Out) {
    let dir = resolved(dir);
    out.say(format_args!("{} is what this ticket was for already; nothing was done", human::path(&dir)));
    if !told {
        let resume = globals.command("resume");
        out.say(format_args!("the other device could not be told; `{resume}` tells it when it can be reached"));
    }
    out.say("to send it once more, make a new ticket with `send` on the other device");
    out.success(json!({ "already": true, "target": dir.to_string_lossy(), "told": told }));
}

/// The ticket that was given, or the one that the code stands for.
async fn ticket(
    from: Invitation,
    node: &NodeHandle,
    (args, addresses): (&Args, &[Multiaddr]),
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<Ticket, CliError> {
    let looking = looking(&from, out);
    let code = match from {
        Invitation::Ticket(ticket) => return Ok(*ticket),
        Invitation::Archive(_) => return Err(TicketRefused::OtherVersion.into()),
        Invitation::Code(code) => code,
    };
    let transport = globals.preference();
    let search = CodeOptions { timeout: args.connect_timeout, transport, ..CodeOptions::at(addresses) };
    let found = stop.unless(node.ticket_for(&code, search)).await;
    if let Some(looking) = looking {
        looking.finish_and_clear();
    }
    Ok(found??)
}

/// A code may take a while.
fn looking(from: &Invitation, out: Out) -> Option<ProgressBar> {
    match from {
        Invitation::Ticket(_) | Invitation::Archive(_) => None,
        Invitation::Code(code) => spinner(out, format!("looking for the device that offers code {}", code.number())),
    }
}

/// The node imports, and this process follows.
async fn there(
    remote: &Remote,
    (args, begin): (&Args, &Begin),
    from: Invitation,
    answer: Answer,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    let looking = looking(&from, out);
    let (ticket_uri, code) = match from {
        Invitation::Ticket(ticket) => (Some(ticket.to_uri()), None),
        Invitation::Archive(ticket) => (Some(ticket.to_uri()), None),
        Invitation::Code(code) => (None, Some(code.to_text())),
    };
    let ask = StartRequest {
        ticket_uri,
        code,
        target_path: absolute(&args.dir)?,
        replace: false,
        confirm: false,
        peer_addresses: begin.peer_addresses.iter().map(ToString::to_string).collect(),
        connect_timeout_secs: Some(args.connect_timeout.as_secs().max(1)),
        limit_bps: globals.limit(args.limit).map(Rate::bytes_per_second),
        compress: globals.compress(args.compress),
        transport: globals.transport(),
        fail_if_changed: args.fail_if_changed,
        keep_world_writable: args.keep_world_writable,
        allow_home: args.i_mean_home,
        post_apply: to_node(&begin.post_apply),
        require_v4: args.require_v4,
        wait_secs: Some(0),
    };
    let started = stop.unless(remote.post::<StartResponse>("session/start", ask)).await;
    if let Some(looking) = looking {
        looking.finish_and_clear();
    }
    let started = started??;
    let end = match (started.job_id, started.told) {
        (Some(id), _) => {
            let job = Job::there(remote.clone(), id).await?;
            let job = if started.joined { job.of_another(out) } else { job };
            follow(job, &args.dir, answer, globals, out, stop).await?
        }
        (None, told) => End::Already { told: told.unwrap_or(false) },
    };
    end.show(&args.dir, globals, out);
    Ok(())
}

async fn follow(
    job: Job,
    dir: &Path,
    answer: Answer,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<End, CliError> {
    // one that begins has none yet
    let session = job.view().session_id;
    if let Some(session) = session.filter(|_| !job.is_of_another()) {
        out.say(format_args!("continuing session {}", session.short()));
    }
    let report = Import { job, dir, answer, continues: session.is_some() }.run(globals, out, stop).await?;
    Ok(End::Applied(Box::new(report)))
}

/// A tree does not come by the older protocol without a word.
fn say_protocol(ticket: &ArchiveTicket, out: Out) {
    let why = match ticket.has_v4 {
        true => "the sending device was told so, though it has v4 too",
        false => "the sending device has nothing later",
    };
    out.say(format_args!("protocol: v3 (archive: no resume); {why}"));
}

/// Who made it; one that names no valid device is refused later.
fn exporter(ticket: &Ticket) -> Option<PeerId> {
    PeerId::from_bytes(&ticket.peer_id).ok()
}

/// What stands in the way, with the command that gets round it.
fn refused(err: ImportError, globals: &Globals) -> CliError {
    let hint = match &err {
        ImportError::OtherTarget { target } => Some(format!(
            "receive into that directory to go on, or end it first: {}",
            globals.command(&format!("abort {}", human::shell(target)))
        )),
        _ => None,
    };
    let error = CliError::from(err);
    CliError { hint: hint.unwrap_or(error.hint.clone()), ..error }
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Has the ticket begun a session, or does one from its device go into this directory? Whoever began that has
/// agreed to replace what is there.
async fn has_begun(from: &Invitation, dir: &Path, globals: &Globals, out: Out, stop: &Stop) -> Result<bool, CliError> {
    let book = Book::load_alone(globals, stop).await?;
    out.recovered(&book.recovered);
    let dir = resolved(dir);
    let mut imports = book.sessions.iter().filter(|known| known.role == Role::Importer);
    let ticket = match from {
        Invitation::Ticket(ticket) => ticket,
        // one that was begun is over
        Invitation::Archive(_) => return Ok(false),
        // whose it is shows later; a session of another device is asked about then
        Invitation::Code(_) => return Ok(imports.any(|known| known.resumable && known.path == dir)),
    };
    let peer = exporter(ticket).map(|peer| peer.to_string()).unwrap_or_default();
    let goes_on = |known: &SessionView| known.resumable && known.path == dir && known.peer_id == peer;
    Ok(imports.any(|known| known.is_of(ticket.ticket_id) || goes_on(known)))
}

//! `me-sync resume` and `me-sync retry`: an unfinished session goes on, on whichever side this device is.

use me_sync_node::book::{SessionView, State};
use me_sync_node::http::schema::{self, ResumeRequest, ResumeResponse};
use me_sync_node::limit::Rate;
use me_sync_node::post_apply::{Choice, PostApply};
use me_sync_node::source::ScanOptions;
use me_sync_node::{OfferError, OfferOptions, ResumeOptions, Role};
use me_sync_protocol::limits::TICKET_TTL;

use super::book::{Book, Unclear};
use super::compress::Compress;
use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::import::{Answer, Import};
use super::job::Job;
use super::limit::SessionLimit;
use super::out::Out;
use super::own::{Meet, Own};
use super::peer_address::PeerAddress;
use super::post_apply::{PostApplyArgs, to_node};
use super::remote::Remote;
use super::stop::Stop;
use super::{human, offered, prompt, send, sessions};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync resume                    the one unfinished session
  me-sync resume ab12cd34
  me-sync resume ab12 --peer 192.168.1.5:40001

Nothing that arrived is sent again. The id is the same on both devices, and so
is this command: on the one that sends it offers its tree again.";

pub(crate) const RETRY_EXAMPLES: &str = "\
Examples:
  me-sync failures ab12cd34         what failed, and why
  me-sync retry ab12cd34            on both devices, once that is mended

Only the files that failed are sent, then the whole tree is applied at once.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first digits of its id, 4 at least [default: the only one]
    session: Option<String>,
    /// Replace what is in the directory without asking, if that is still open
    #[arg(short, long)]
    yes: bool,
    /// Where the sending device is, besides what is known: IP:PORT, NAME:PORT,
    /// PEERID@IP:PORT or a multiaddr; repeatable. Who answers there must be that device
    #[arg(long, value_name = "ADDR")]
    peer: Vec<PeerAddress>,
    /// Go no faster than this: 500K, 1.5M, 1G bytes a second, or 100Mbit
    #[arg(long, env = "ME_SYNC_LIMIT", hide_env_values = true, value_name = "RATE")]
    limit: Option<SessionLimit>,
    /// As with send and receive
    #[arg(
        long,
        value_enum,
        env = "ME_SYNC_COMPRESS",
        hide_env_values = true,
        hide_possible_values = true,
        value_name = "WHEN"
    )]
    compress: Option<Compress>,
    #[command(flatten)]
    post_apply: PostApplyArgs,
}

/// How long the sending device is looked for, to tell it that its tree is in place.
const TELL: std::time::Duration = std::time::Duration::from_secs(15);

/// Which of the two commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Resume,
    Retry,
}

pub(crate) async fn run(args: Args, verb: Verb, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let post_apply = args.post_apply.go_on()?;
    let book = Book::load_alone(globals, stop).await?;
    out.recovered(&book.recovered);
    let known = match choose(&book, args.session.as_deref(), verb, out) {
        Ok(known) => known,
        Err(error) => {
            let named = args.session.as_deref().unwrap_or_default().to_lowercase();
            let is_meant = |known: &&SessionView| known.unheard && known.session_id.to_string().starts_with(&named);
            let unheard: Vec<_> = book.sessions.iter().filter(is_meant).collect();
            return if unheard.is_empty() { Err(error) } else { tell(&unheard, globals, out, stop).await };
        }
    };
    announce(known, verb, out);
    let compression = globals.compression(args.compress);
    let node = match globals.meet_with(|config| config.compression = compression, out, stop).await? {
        Meet::There(remote) => return there(&remote, known, (&args, verb, &post_apply), globals, out, stop).await,
        Meet::Here(node) => node,
    };
    let result = match known.role {
        Role::Importer => import(known, &args, post_apply, &node, globals, out, stop).await,
        Role::Exporter => export(known, &args, &node, globals, out, stop).await,
    };
    node.shutdown(result.as_ref().err()).await;
    result
}

/// The session that is meant, if it can go on.
fn choose<'a>(book: &'a Book, named: Option<&str>, verb: Verb, out: Out) -> Result<&'a SessionView, CliError> {
    if let Some(text) = named {
        let known = match book.one(text) {
            Ok(known) => known,
            Err(Unclear::Nothing(error)) => return Err(error),
            Err(Unclear::Several(many)) => {
                return Err(several(&many, &format!("several sessions begin with {text}"), out));
            }
        };
        return match known {
            known if known.resumable || is_followed(known) => Ok(known),
            known if known.state == State::Running => Err(sends_already(known)),
            known => Err(over(known)),
        };
    }
    let resumable = book.sessions.iter().filter(|known| known.resumable);
    let mut fits: Vec<_> = match verb {
        Verb::Resume => resumable.collect(),
        Verb::Retry => resumable.filter(|known| known.state == State::Failed).collect(),
    };
    if fits.is_empty() {
        fits.extend(book.sessions.iter().filter(|known| is_followed(known)));
    }
    match (fits.as_slice(), verb) {
        ([one], _) => Ok(one),
        ([], Verb::Resume) => Err(CliError::usage(
            "there is nothing to resume: no unfinished session is on record here",
            "`me-sync sessions` lists those that are over",
        )),
        ([], Verb::Retry) => Err(CliError::usage(
            "there is nothing to retry: no session that failed is kept here",
            "`me-sync resume` goes on with one that was interrupted",
        )),
        (many, _) => Err(several(many, "several sessions are unfinished", out)),
    }
}

/// It goes on in another process already, and can be looked at from here.
fn is_followed(known: &SessionView) -> bool {
    known.state == State::Running && known.role == Role::Importer
}

fn sends_already(known: &SessionView) -> CliError {
    let id = known.session_id.short();
    CliError::usage(
        format!("session {id} goes on already, in another process"),
        format!("`me-sync status {id}` shows how far it is"),
    )
}

/// Lists the candidates, and asks for one.
pub(crate) fn several(many: &[&SessionView], message: &str, out: Out) -> CliError {
    many.iter().for_each(|known| sessions::show(known, out));
    CliError::usage(message, "name one of these by digits enough of its id")
}

fn over(known: &SessionView) -> CliError {
    let (id, path) = (known.session_id.short(), human::path(&known.path));
    let message = match known.code {
        Some(code) => format!("session {id} is over ({code})"),
        None if known.role == Role::Importer => format!("session {id} is over: its tree went into {path}"),
        None => format!("session {id} is over: {path} has arrived"),
    };
    CliError::usage(message, "begin a new one with `send` and `receive`")
}

/// The tree is in place; the sending device still waits to hear it.
async fn tell(unheard: &[&SessionView], globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let meet = globals.meet(out, stop).await?;
    let telling = async {
        for known in unheard {
            let (id, path) = (known.session_id.short(), human::path(&known.path));
            let device = human::device(&known.device_name, &known.peer_id);
            out.say(format_args!("session {id}: the tree is in place at {path}; telling {device}"));
            let told = match &meet {
                Meet::There(remote) => {
                    let ask = request(known, Vec::new(), None, None, None);
                    let answer: ResumeResponse = stop.unless(remote.post("session/resume", ask)).await??;
                    answer.told.unwrap_or(false)
                }
                Meet::Here(node) => stop.unless(node.handle().tell(known.session_id, TELL)).await??,
            };
            if !told {
                let message = format!("{device} was not reached; the tree is in place here all the same");
                return Err(CliError::new(
                    Exit::PeerNotFound,
                    message,
                    "run this again while `me-sync send` waits there",
                ));
            }
            out.say(format_args!("{device} knows it now"));
        }
        Ok(())
    };
    let result = telling.await;
    if let Meet::Here(node) = meet {
        node.shutdown(result.as_ref().err()).await;
    }
    result?;
    out.success(serde_json::json!({ "told": unheard.len() }));
    Ok(())
}

/// What the node is asked for.
fn request(
    known: &SessionView,
    peer_addresses: Vec<String>,
    limit: Option<Rate>,
    compress: Option<schema::Compress>,
    post_apply: Option<PostApply>,
) -> ResumeRequest {
    ResumeRequest {
        session_id: known.session_id.to_string(),
        peer_addresses,
        limit_bps: limit.map(Rate::bytes_per_second),
        compress,
        post_apply,
    }
}

/// The node goes on with it, and this process follows.
async fn there(
    remote: &Remote,
    known: &SessionView,
    (args, verb, post_apply): (&Args, Verb, &Choice),
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    let route = match verb {
        Verb::Resume => "session/resume",
        Verb::Retry => "session/retry",
    };
    let limit = globals.limit(args.limit);
    let peer = PeerAddress::texts(&args.peer, known.peer_id.parse().ok(), stop).await?;
    let ask = request(known, peer, limit, globals.compress(args.compress), to_node(post_apply));
    let answer: ResumeResponse = stop.unless(remote.post(route, ask)).await??;
    match (answer.offer, answer.job_id) {
        (Some(offer), _) => {
            send::found(&offer.source, out);
            let offered = offered::offered_there(remote, *offer).await?;
            send::follow_one(offered, TICKET_TTL, false, globals, out, stop).await?.show(out);
            Ok(())
        }
        (None, Some(id)) => {
            let job = Job::there(remote.clone(), id).await?;
            let job = if answer.joined { job.of_another(out) } else { job };
            let answer = Answer::of(args.yes, prompt::possible(out));
            let report = Import { job, dir: &known.path, answer, continues: true }.run(globals, out, stop).await?;
            report.show(&known.path, globals, out);
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

fn announce(known: &SessionView, verb: Verb, out: Out) {
    let id = known.session_id.short();
    let device = human::device(&known.device_name, &known.peer_id);
    let path = human::path(&known.path);
    match known.role {
        Role::Importer => out.say(format_args!("continuing session {id}: from {device} into {path}")),
        Role::Exporter => out.say(format_args!("session {id}: {path} goes to {device}")),
    }
    match (verb, known.state) {
        (Verb::Retry, State::Failed) => out.say("only the files that failed, or were not sent yet, are sent"),
        (Verb::Retry, _) => out.say("it has not failed; what is missing is sent"),
        (Verb::Resume, _) => {}
    }
}

async fn import(
    known: &SessionView,
    args: &Args,
    post_apply: Choice,
    node: &Own,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    let answer = Answer::of(args.yes, prompt::possible(out));
    let how = ResumeOptions {
        peer_addresses: PeerAddress::of(&args.peer, known.peer_id.parse().ok(), stop).await?,
        limit: globals.limit(args.limit),
        compression: None,
        post_apply,
    };
    let job = stop.unless(node.handle().resume_with(known.session_id, how)).await??;
    node.show(&job, &known.path, known.ticket_id.as_deref().and_then(|id| id.parse().ok()));
    let import = Import { job: Job::Here(job), dir: &known.path, answer, continues: true };
    import.run(globals, out, stop).await?.show(&known.path, globals, out);
    Ok(())
}

/// What the first offer left out.
fn scan_options(known: &SessionView) -> ScanOptions {
    ScanOptions {
        skip_unreadable: known.skip_unreadable.unwrap_or(false),
        skip_unsupported: known.skip_unsupported.unwrap_or(false),
    }
}

/// What sends offers the same tree again, chosen in the same way.
async fn export(
    known: &SessionView,
    args: &Args,
    node: &Own,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    let options = scan_options(known);
    let source = send::scan(known.path.clone(), options, out, stop).await.map_err(|error| {
        let gone = error.exit == Exit::Source && !known.path.exists();
        let id = known.session_id.short();
        let hint = format!("bring it back, or end the session: {}", globals.command(&format!("abort {id}")));
        if gone { CliError { hint, ..error } } else { error }
    })?;
    let options =
        OfferOptions { session: Some(known.session_id), limit: globals.limit(args.limit), ..OfferOptions::default() };
    let offers = offered::offers_here(node, source, options, 1, stop).await?;
    let Some(offer) = offers.into_iter().next() else { return Err(OfferError::Devices.into()) };
    send::follow_one(offer, options.ttl, false, globals, out, stop).await?.show(out);
    Ok(())
}

//! `me-sync status`: everything that is known of one session.

use me_sync_node::Role;
use me_sync_node::book::{LiveView, SessionView, State};
use me_sync_protocol::escape::escaped;
use serde_json::{Value, json};

use super::book::{Book, Unclear};
use super::exit::CliError;
use super::globals::Globals;
use super::out::Out;
use super::resume::several;
use super::stop::Stop;
use super::{human, sessions};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync status                    the session that runs or is unfinished
  me-sync status ab12cd34
  me-sync status --json ab12cd34

It may be asked while another me-sync works on the session.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first digits of its id, 4 at least [default: the only one]
    session: Option<String>,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let book = Book::load(globals, stop).await?;
    out.recovered(&book.recovered);
    let Some(known) = choose(&book, args.session.as_deref(), out)? else {
        out.say("no session runs or is unfinished; `me-sync sessions` lists those that are over");
        out.success(json!({ "session_id": Value::Null }));
        return Ok(());
    };
    out.event("status", known);
    for (name, value) in lines(known) {
        out.data(format_args!("{name:<14} {value}"));
    }
    if known.resumable {
        out.say(format_args!("to go on: {}", sessions::next_step(known, globals)));
    }
    out.success(json!({ "session_id": known.session_id.to_string(), "state": known.state.name() }));
    Ok(())
}

fn choose<'a>(book: &'a Book, named: Option<&str>, out: Out) -> Result<Option<&'a SessionView>, CliError> {
    if let Some(text) = named {
        return match book.one(text) {
            Ok(known) => Ok(Some(known)),
            Err(Unclear::Nothing(error)) => Err(error),
            Err(Unclear::Several(many)) => Err(several(&many, &format!("several sessions begin with {text}"), out)),
        };
    }
    let with = |wanted: fn(&SessionView) -> bool| book.sessions.iter().filter(move |known| wanted(known)).collect();
    let running: Vec<&SessionView> = with(|known| known.state == State::Running);
    let open: Vec<&SessionView> = if running.is_empty() { with(|known| known.unfinished) } else { running };
    match open.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        many => Err(several(many, "several sessions are unfinished", out)),
    }
}

/// The same for people; a name and a value a line.
fn lines(known: &SessionView) -> Vec<(&'static str, String)> {
    let importer = known.role == Role::Importer;
    let path = human::path(&known.path);
    let code = known.code.map(|c| format!(" ({c})")).unwrap_or_default();
    let mut all = vec![
        ("session", known.session_id.to_string()),
        ("state", format!("{}{code}", known.state.name())),
        ("role", sessions::role(known.role).to_owned()),
        ("other device", human::device(&known.device_name, &known.peer_id)),
    ];
    all.extend(known.source_name.as_deref().map(|name| ("tree", escaped(name).to_string())));
    all.push((if importer { "target" } else { "source" }, path));
    all.push(("files", sessions::files(known)));
    all.push(("bytes", sessions::bytes(known)));
    all.extend(known.live.as_deref().map(live).unwrap_or_default());
    let name = match known.state {
        State::RolledBack => "undone tree",
        _ if known.unfinished => "staging",
        _ => "kept old tree",
    };
    all.extend(known.beside().map(|at| (name, human::path(at))));
    let until = known.retained_until_ms.filter(|_| known.can_be_rolled_back());
    all.extend(until.map(|ms| ("rollback until", human::wall(ms))));
    all.extend(known.manifest_sha256.as_ref().map(|sum| ("manifest", sum.clone())));
    all.extend(known.addresses.iter().map(|at| ("address", escaped(at).to_string())));
    let times = [("begun", known.created_ms), ("last progress", known.updated_ms), ("kept until", known.kept_until_ms)];
    all.extend(times.into_iter().filter_map(|(name, ms)| ms.map(|ms| (name, human::wall(ms)))));
    all
}

/// What the process that works on it says.
fn live(live: &LiveView) -> Vec<(&'static str, String)> {
    let (view, progress) = (&live.view, &live.view.progress);
    let mut all = vec![
        ("process", live.pid.to_string()),
        ("protocol", view.protocol.as_str().to_owned()),
        ("phase", view.phase.to_string()),
    ];
    if !progress.detail.is_empty() {
        all.push(("doing", escaped(&progress.detail).to_string()));
    }
    if progress.transfer_bps > 0 {
        all.push(("rate", format!("{}/s", human::bytes(progress.transfer_bps))));
    }
    if progress.files_failed > 0 {
        all.push(("failed", human::count(progress.files_failed, "file")));
    }
    if let Some(waiting) = &view.waiting {
        let reason = waiting.reason.as_deref().map(|why| format!(" (last: {})", escaped(why))).unwrap_or_default();
        let tries = if waiting.tries == 1 { "1 try".to_owned() } else { format!("{} tries", waiting.tries) };
        all.push(("waiting", format!("{}, {tries}{reason}", human::seconds(waiting.for_secs))));
    }
    all
}

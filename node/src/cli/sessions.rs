//! `me-sync sessions`: what can be gone on with, what migrated, and what can be undone.

use me_sync_node::Role;
use me_sync_node::book::{SessionView, State};
use me_sync_protocol::escape::escaped;
use serde_json::{Value, json};

use super::book::Book;
use super::exit::CliError;
use super::globals::Globals;
use super::human;
use super::out::Out;
use super::stop::Stop;

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync sessions
  me-sync sessions --all --json

One line each, unfinished ones first, then the newest, separated by tabs:
session, begun, role, device, directory, files, bytes, state, and until when it
can be resumed or rolled back.";

/// Ended sessions that are listed without `--all`.
const NEWEST: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Not only the newest 20 that are over
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let book = Book::load(globals, stop).await?;
    out.recovered(&book.recovered);
    let unfinished = book.sessions.iter().filter(|known| known.unfinished).count();
    let total = book.sessions.len();
    let shown = if args.all { total } else { total.min(unfinished + NEWEST) };
    for known in &book.sessions[..shown] {
        show(known, out);
    }
    if total == 0 {
        out.say("no migration is on record");
    } else if total > shown {
        out.say(format_args!("{} older ones: --all", total - shown));
    }
    for known in book.sessions.iter().filter(|known| known.resumable) {
        out.say(format_args!("to go on: {}", next_step(known, globals)));
    }
    if let Some(busy) = &book.busy {
        let who = busy.pid().map(|pid| format!(" (process {pid})")).unwrap_or_default();
        out.say(format_args!("another me-sync{who} is at work; earlier sends are listed when it is done"));
    }
    out.success(json!({ "sessions": shown, "total": total, "unfinished": unfinished,
        "busy_pid": book.busy.as_ref().and_then(super::book::Busy::pid) }));
    Ok(())
}

/// What to type to go on with an unfinished session.
pub(crate) fn next_step(known: &SessionView, globals: &Globals) -> String {
    let verb = if known.state == State::Failed { "retry" } else { "resume" };
    globals.command(&format!("{verb} {}", known.session_id.short()))
}

/// A line for a session.
pub(crate) fn show(known: &SessionView, out: Out) {
    out.event("session", fields(known));
    let role = role(known.role);
    let code = known.code.map(|c| format!(" ({c})")).unwrap_or_default();
    let pid = known.live.as_ref().map(|live| format!(" (process {})", live.pid)).unwrap_or_default();
    let begun = known.created_ms.map_or_else(|| "-".to_owned(), human::wall);
    out.data(format_args!(
        "{}\t{begun}\t{role}\t{} ({})\t{}\t{}\t{}\t{}{pid}{code}\t{}",
        known.session_id.short(),
        escaped(&known.device_name),
        human::short_peer(&known.peer_id),
        human::path(&known.path),
        files(known),
        bytes(known),
        known.state.name(),
        until(known).map_or_else(|| "-".to_owned(), human::wall),
    ));
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Exporter => "exporter",
        Role::Importer => "importer",
    }
}

/// How many files, and of an unfinished session how many of them are through.
pub(crate) fn files(known: &SessionView) -> String {
    let all = human::count(known.files, "file");
    match known.files_ok.filter(|_| known.unfinished && known.files > 0) {
        Some(ok) => format!("{} of {all}", human::number(ok)),
        None => all,
    }
}

pub(crate) fn bytes(known: &SessionView) -> String {
    let all = human::bytes(known.bytes);
    match known.bytes_ok.filter(|_| known.unfinished && known.bytes > 0) {
        Some(ok) => format!("{} of {all}", human::bytes(ok)),
        None => all,
    }
}

/// Until when something can be done about it.
fn until(known: &SessionView) -> Option<u64> {
    known.kept_until_ms.or(known.retained_until_ms.filter(|_| known.can_be_rolled_back()))
}

/// What a line of a list tells; `status` tells the rest.
pub(crate) fn fields(known: &SessionView) -> Value {
    let mut fields = serde_json::to_value(known).unwrap_or_default();
    if let Value::Object(fields) = &mut fields {
        fields.retain(|name, _| !ONLY_IN_STATUS.contains(&name.as_str()));
    }
    fields
}

const ONLY_IN_STATUS: [&str; 8] = [
    "source_name",
    "addresses",
    "manifest_sha256",
    "skip_unreadable",
    "skip_unsupported",
    "live",
    "ticket_id",
    "unheard",
];

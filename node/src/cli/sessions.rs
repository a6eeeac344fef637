//! `me-sync sessions`: what can be gone on with, what migrated, and what can be undone.

use me_sync_node::Role;
use me_sync_node::staging::SessionState;
use me_sync_protocol::escape::escaped;
use me_sync_protocol::reason::Code;
use serde_json::{Value, json};

use super::book::{Book, Known, State};
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
    let unfinished = book.sessions.iter().filter(|known| known.state.is_unfinished()).count();
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
    for known in book.sessions.iter().filter(|known| known.state.is_resumable()) {
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
pub(crate) fn next_step(known: &Known, globals: &Globals) -> String {
    let verb = if known.state == State::Failed { "retry" } else { "resume" };
    globals.command(&format!("{verb} {}", known.session.short()))
}

/// A line for a session.
pub(crate) fn show(known: &Known, out: Out) {
    out.event("session", fields(known));
    let role = role(known.role);
    let code = known.code.map(|c| format!(" ({c})")).unwrap_or_default();
    let pid = known.live.as_ref().map(|live| format!(" (process {})", live.pid)).unwrap_or_default();
    let begun = if known.created_ms == 0 { "-".to_owned() } else { human::wall(known.created_ms) };
    out.data(format_args!(
        "{}\t{begun}\t{role}\t{} ({})\t{}\t{}\t{}\t{}{pid}{code}\t{}",
        known.session.short(),
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
pub(crate) fn files(known: &Known) -> String {
    let all = human::count(known.files, "file");
    match known.files_ok.filter(|_| known.state.is_unfinished() && known.files > 0) {
        Some(ok) => format!("{} of {all}", human::number(ok)),
        None => all,
    }
}

pub(crate) fn bytes(known: &Known) -> String {
    let all = human::bytes(known.bytes);
    match known.bytes_ok.filter(|_| known.state.is_unfinished() && known.bytes > 0) {
        Some(ok) => format!("{} of {all}", human::bytes(ok)),
        None => all,
    }
}

/// Until when something can be done about it.
fn until(known: &Known) -> Option<u64> {
    known.kept_until_ms.or(match known.state {
        State::Journal(SessionState::Swapped | SessionState::Committed) => {
            known.journal.as_ref().and_then(|journal| journal.keep_until_ms)
        }
        _ => None,
    })
}

/// The stable names of what is known of a session.
pub(crate) fn fields(known: &Known) -> Value {
    let path = known.path.to_string_lossy();
    let unfinished = known.state.is_unfinished();
    let journal = known.journal.as_ref();
    let beside = known.beside().map(|at| at.to_string_lossy());
    let unless_zero = |ms: u64| (ms > 0).then_some(ms);
    json!({
        "session_id": known.session.to_string(),
        "role": role(known.role),
        "state": known.state.name(),
        "unfinished": unfinished,
        "resumable": known.state.is_resumable(),
        "pid": known.live.as_ref().map(|live| live.pid),
        "peer_id": known.peer_id,
        "device_name": known.device_name,
        "path": path,
        "target": (known.role == Role::Importer).then_some(&path),
        "files": known.files,
        "bytes": known.bytes,
        "files_ok": known.files_ok.filter(|_| unfinished),
        "bytes_ok": known.bytes_ok.filter(|_| unfinished),
        "created_ms": unless_zero(known.created_ms),
        "updated_ms": unless_zero(known.updated_ms),
        "kept_until_ms": known.kept_until_ms,
        "staging": beside.as_ref().filter(|_| unfinished),
        "retained": beside.as_ref().filter(|_| !unfinished),
        "retained_until_ms": journal.and_then(|j| j.keep_until_ms),
        "target_existed": journal.map(|j| j.target_existed),
        "code": known.code.map(Code::as_str),
    })
}

//! `me-sync status`: everything that is known of one session.

use me_sync_node::Role;
use me_sync_node::staging::SessionState;
use me_sync_protocol::escape::escaped;
use serde_json::{Value, json};

use super::book::{Book, Known, State, Unclear};
use super::exit::CliError;
use super::globals::Globals;
use super::live::Live;
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
    out.event("status", fields(known));
    for (name, value) in lines(known) {
        out.data(format_args!("{name:<14} {value}"));
    }
    if known.state.is_resumable() {
        out.say(format_args!("to go on: {}", sessions::next_step(known, globals)));
    }
    out.success(json!({ "session_id": known.session.to_string(), "state": known.state.name() }));
    Ok(())
}

fn choose<'a>(book: &'a Book, named: Option<&str>, out: Out) -> Result<Option<&'a Known>, CliError> {
    if let Some(text) = named {
        return match book.one(text) {
            Ok(known) => Ok(Some(known)),
            Err(Unclear::Nothing(error)) => Err(error),
            Err(Unclear::Several(many)) => Err(several(&many, &format!("several sessions begin with {text}"), out)),
        };
    }
    let with = |wanted: fn(State) -> bool| book.sessions.iter().filter(move |known| wanted(known.state)).collect();
    let running: Vec<&Known> = with(|state| state == State::Running);
    let open: Vec<&Known> = if running.is_empty() { with(State::is_unfinished) } else { running };
    match open.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        many => Err(several(many, "several sessions are unfinished", out)),
    }
}

fn fields(known: &Known) -> Value {
    let mut all = sessions::fields(known);
    let more = json!({
        "source_name": known.source_name,
        "addresses": known.addresses,
        "manifest_sha256": known.manifest,
        "skip_unreadable": known.choices.map(|c| c.skip_unreadable),
        "skip_unsupported": known.choices.map(|c| c.skip_unsupported),
        "live": known.live.as_ref().map(|live| &live.view),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

/// The same for people; a name and a value a line.
fn lines(known: &Known) -> Vec<(&'static str, String)> {
    let importer = known.role == Role::Importer;
    let path = human::path(&known.path);
    let code = known.code.map(|c| format!(" ({c})")).unwrap_or_default();
    let mut all = vec![
        ("session", known.session.to_string()),
        ("state", format!("{}{code}", known.state.name())),
        ("role", sessions::role(known.role).to_owned()),
        ("other device", human::device(&known.device_name, &known.peer_id)),
    ];
    all.extend(known.source_name.as_deref().map(|name| ("tree", escaped(name).to_string())));
    all.push((if importer { "target" } else { "source" }, path));
    all.push(("files", sessions::files(known)));
    all.push(("bytes", sessions::bytes(known)));
    all.extend(known.live.as_ref().map(live).unwrap_or_default());
    if let Some(journal) = &known.journal {
        let beside = known.beside().map(human::path);
        let name = if known.state.is_unfinished() { "staging" } else { "kept old tree" };
        all.extend(beside.map(|at| (name, at)));
        let kept = matches!(known.state, State::Journal(SessionState::Swapped | SessionState::Committed));
        let until = journal.keep_until_ms.filter(|_| kept);
        all.extend(until.map(|ms| ("rollback until", human::wall(ms))));
    }
    all.extend(known.manifest.as_ref().map(|sum| ("manifest", sum.clone())));
    all.extend(known.addresses.iter().map(|at| ("address", escaped(at).to_string())));
    let times = [
        ("begun", Some(known.created_ms)),
        ("last progress", Some(known.updated_ms)),
        ("kept until", known.kept_until_ms),
    ];
    all.extend(times.into_iter().filter_map(|(name, ms)| ms.filter(|ms| *ms > 0).map(|ms| (name, human::wall(ms)))));
    all
}

/// What the process that works on it says.
fn live(live: &Live) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().map(|text| escaped(text).to_string());
    let mut all = vec![("process", live.pid.to_string())];
    all.extend(text(&live.view["phase"]).map(|phase| ("phase", phase)));
    all.extend(text(&live.view["progress"]["detail"]).filter(|d| !d.is_empty()).map(|detail| ("doing", detail)));
    match live.figure("transfer_bps") {
        0 => {}
        bps => all.push(("rate", format!("{}/s", human::bytes(bps)))),
    }
    match live.figure("files_failed") {
        0 => {}
        n => all.push(("failed", human::count(n, "file"))),
    }
    let waiting = &live.view["waiting"];
    if let Some(since) = waiting["for_secs"].as_u64() {
        let tries = waiting["tries"].as_u64().unwrap_or(0);
        let reason = text(&waiting["reason"]).map(|why| format!(" (last: {why})")).unwrap_or_default();
        let tries = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
        all.push(("waiting", format!("{}, {tries}{reason}", human::seconds(since))));
    }
    all
}

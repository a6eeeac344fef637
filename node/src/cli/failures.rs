//! `me-sync failures`: which files of a session failed, why, and how often they were tried.

use std::path::Path;

use me_sync_node::http::schema::FailureEntry;
use me_sync_node::store::{FailureRecord, Store};
use me_sync_node::{JobView, Role};
use me_sync_protocol::ids::SessionId;
use serde_json::json;

use super::book::{Book, Unclear};
use super::exit::CliError;
use super::globals::Globals;
use super::human;
use super::out::Out;
use super::resume::several;
use super::stop::{Stop, blocking};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync failures ab12cd34
  me-sync failures --json ab12cd34

A line a file, separated by tabs: path, reason, code, what the operating system
said, and how often it was tried. Each device has what failed on it.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first digits of its id, 4 at least
    session: String,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let mut book = Book::load(globals, stop).await?;
    if book.busy.is_some() && !book.named(&args.session).iter().any(|known| known.live.is_some()) {
        // another process has the list, and this session is not its
        book = Book::load_alone(globals, stop).await?;
    }
    out.recovered(&book.recovered);
    let known = match book.one(&args.session) {
        Ok(known) => known,
        Err(Unclear::Nothing(error)) => return Err(error),
        Err(Unclear::Several(many)) => {
            return Err(several(&many, &format!("several sessions begin with {}", args.session), out));
        }
    };
    let remote = globals.remote(stop).await?;
    let (failed, total) = match (&known.live, remote) {
        (_, Some(remote)) => stop.unless(remote.failures(known.session_id)).await??,
        (Some(live), None) => (of_live(&live.view), live.view.failures_total),
        (None, None) => {
            let (state_dir, session) = (globals.state_dir()?, known.session_id);
            let records = stop.unless(blocking(move || of_store(&state_dir, session))).await???;
            let total = records.len() as u64;
            (records, total)
        }
    };
    failed.iter().for_each(|one| show(one, out));
    if total == 0 {
        let id = known.session_id.short();
        out.say(format_args!("no file of session {id} is on record here as failed"));
        if known.role == Role::Exporter {
            out.say(format_args!("what arrived wrong is on record at the other device: me-sync failures {id}"));
        }
    } else if total > failed.len() as u64 {
        out.say(format_args!("{} failed in all", human::count(total, "file")));
    }
    out.success(json!({ "session_id": known.session_id.to_string(), "failures": failed.len(), "total": total }));
    Ok(())
}

fn of_store(state_dir: &Path, session: SessionId) -> Result<Vec<FailureEntry>, CliError> {
    Ok(Store::open(state_dir)?.failures(session)?.into_iter().map(of_record).collect())
}

fn of_live(view: &JobView) -> Vec<FailureEntry> {
    let all = view.failures.iter();
    all.map(|one| FailureEntry {
        path: one.path.clone(),
        reason: one.reason.clone(),
        code: one.code.clone(),
        os_error: None,
        attempts: None,
    })
    .collect()
}

fn of_record(record: FailureRecord) -> FailureEntry {
    FailureEntry {
        path: record.path,
        reason: record.reason.to_string(),
        code: Some(record.code.to_string()),
        os_error: record.os_error,
        attempts: Some(record.attempts),
    }
}

fn show(one: &FailureEntry, out: Out) {
    let said = one.os_error.map(|number| std::io::Error::from_raw_os_error(number).to_string());
    out.event(
        "failure",
        json!({ "path": one.path, "reason": one.reason, "code": one.code, "os_error": one.os_error,
            "os_message": said, "attempts": one.attempts }),
    );
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| human::path(Path::new(text)));
    out.data(format_args!(
        "{}\t{}\t{}\t{}\t{}",
        human::path(Path::new(&one.path)),
        human::path(Path::new(&one.reason)),
        or_dash(one.code.as_deref()),
        or_dash(said.as_deref()),
        one.attempts.map_or_else(|| "-".to_owned(), |n| n.to_string())
    ));
}

//! `me-sync abort`: an unfinished session ends for good, and what it staged goes.

use std::path::{Path, PathBuf};

use me_sync_node::Role;
use me_sync_node::book::SessionView;
use me_sync_node::http::schema::{AbortResponse, SessionRequest};
use me_sync_node::staging::{SessionState, StateDir};
use me_sync_protocol::ids::SessionId;
use serde_json::json;

use super::book::{Book, is_id, resolved};
use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::human;
use super::out::Out;
use super::own::Meet;
use super::resume::several;
use super::stop::{Stop, blocking};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync abort ab12cd34
  me-sync abort ~/photos

The directory stays as it is; what arrived for it beside it is removed. The
other device is told if it can be reached. Again, it does nothing.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first digits of its id, 4 at least, or its directory
    #[arg(value_name = "SESSION|DIR")]
    what: PathBuf,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let book = Book::load_alone(globals, stop).await?;
    out.recovered(&book.recovered);
    let found = find(&book, &args.what);
    let unfinished: Vec<_> = found.iter().copied().filter(|known| known.unfinished).collect();
    match (unfinished.as_slice(), found.first()) {
        ([one], _) => end(one, globals, out, stop).await,
        ([], Some(over)) => {
            out.say(format_args!("session {} is over already", over.session_id.short()));
            out.success(json!({ "session_id": over.session_id.to_string(), "changed": false }));
            Ok(())
        }
        ([], None) => {
            let error = CliError::usage(
                format!("{} is no session that is on record here", human::shell(&args.what)),
                "`me-sync sessions` lists sessions and their directories",
            );
            Err(error.exit(Exit::Usage))
        }
        (many, _) => Err(several(many, "several unfinished sessions are meant", out)),
    }
}

/// By id, or else by directory, the newest first.
fn find<'a>(book: &'a Book, what: &Path) -> Vec<&'a SessionView> {
    let by_id = what.to_str().filter(|text| is_id(text)).map(|text| book.named(text)).unwrap_or_default();
    if !by_id.is_empty() {
        return by_id;
    }
    let dir = resolved(what);
    book.sessions.iter().filter(|known| known.path == dir).collect()
}

async fn end(known: &SessionView, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    // not `unless`: once begun it is waited for
    match globals.meet(out, stop).await? {
        Meet::There(remote) => {
            let ask = SessionRequest { session_id: known.session_id.to_string() };
            remote.post::<AbortResponse>("session/abort", ask).await?;
        }
        Meet::Here(node) => {
            let ended = node.handle().end_session(known.session_id).await;
            node.shutdown(None).await;
            ended?;
        }
    }
    let (id, path) = (known.session_id.short(), human::path(&known.path));
    let undone = undone(globals, known.session_id).await?;
    match (known.role, &undone) {
        (Role::Importer, Some(kept)) => out.say(format_args!(
            "session {id} is ended for good: {path} is as it was before; the tree that was in place while the command \
             of --post-apply ran is kept in {}: `{}`",
            human::path(kept),
            globals.command("kept")
        )),
        (Role::Importer, None) if !known.path.parent().is_some_and(Path::exists) => out.say(format_args!(
            "session {id} is ended for good; where {path} was there is nothing now: what had arrived there is removed \
             when that is back"
        )),
        (Role::Importer, None) => out.say(format_args!(
            "session {id} is ended for good: what had arrived is deleted, {path} is as it was before"
        )),
        (Role::Exporter, _) => {
            let device = human::device(&known.device_name, &known.peer_id);
            out.say(format_args!(
                "session {id} is ended for good: nothing more of {path} goes to {device}, which deletes what it has \
                 of it when it hears of this; {path} stays as it is"
            ));
        }
    }
    let retained = undone.map(|kept| kept.to_string_lossy().into_owned());
    out.success(json!({ "session_id": known.session_id.to_string(), "changed": true, "retained": retained }));
    Ok(())
}

/// Where the new tree is now, if it had been in place and the end of the session took it back.
async fn undone(globals: &Globals, session: SessionId) -> Result<Option<PathBuf>, CliError> {
    let state_dir = globals.state_dir()?;
    let look = move || StateDir::open(&state_dir).and_then(|state| state.sessions());
    // what cannot be read is no part of what this command was asked
    let records = blocking(look).await?.unwrap_or_default();
    let taken_back = records.into_iter().find(|one| one.session == session && one.state == SessionState::RolledBack);
    Ok(taken_back.and_then(|record| record.retained))
}

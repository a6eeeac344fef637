//! `me-sync rollback`: the tree that a migration replaced comes back.

use std::path::PathBuf;
use std::time::SystemTime;

use me_sync_node::StateLock;
use me_sync_node::staging::{self, RollbackError, StateDir};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;
use serde_json::json;

use super::book::resolved;
use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::out::Out;
use super::stop::{Stop, blocking};
use super::{human, prompt};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync rollback ~/photos
  me-sync rollback --yes ~/photos
  me-sync rollback --yes --session 0123456789abcdef0123456789abcdef ~/photos

The tree that is undone is kept in its turn, so nothing is lost. Once more goes one
migration further back. A directory that was deleted comes back as it was before
the last migration into it.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory that a migration replaced
    dir: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Undo this migration and no other, once however often it is said: the
    /// whole id, as --json and `sessions --json` give it
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let shown = human::path(&args.dir);
    let state_dir = globals.state_dir()?;
    let on_record = state_dir.exists() && {
        let (state_dir, dir) = (state_dir.clone(), args.dir.clone());
        // what cannot be read is for the rollback itself to say
        let look = move || StateDir::open(&state_dir).and_then(|state| staging::has_record(&state, &dir));
        blocking(look).await?.unwrap_or(true)
    };
    if !on_record {
        return Err(RollbackError::NeverApplied { target: resolved(&args.dir) }.into());
    }
    // where nothing stands, nothing is undone: what was there before comes back
    let is_there = std::fs::symlink_metadata(&args.dir).is_ok();
    if !args.yes && is_there {
        if !prompt::possible(out) {
            let hint = "add -y to do it without being asked";
            return Err(CliError::usage(format!("a rollback of {shown} needs a yes"), hint));
        }
        if !prompt::yes(&format!("Undo the last migration into {shown}?"), out, stop).await? {
            return Err(CliError::coded(Code::Declined, "you declined", "nothing was changed"));
        }
    }
    let (dir, only) = (args.dir, args.session);
    // not `unless`: once begun it is waited for
    let (recovered, result) = blocking(move || {
        let state = StateDir::open(&state_dir).map_err(CliError::from)?;
        // a node that runs has settled everything already
        let lock = StateLock::acquire(&state_dir).ok();
        let recovered = if lock.is_some() { staging::recover(&state, SystemTime::now()) } else { Vec::new() };
        let result = match only {
            Some(session) => staging::rollback_session(&state, &dir, session),
            None => staging::rollback(&state, &dir),
        };
        Ok::<_, CliError>((recovered, result))
    })
    .await?
    .map_err(|err| err.exit(Exit::RollbackFailed))?;
    out.recovered(&recovered);
    let done = result?;
    let target = human::path(&done.target);
    if !done.changed {
        out.say(format_args!("that migration into {target} was undone before; nothing was changed"));
    } else if done.target_exists {
        out.say(format_args!("{target} is again what it was before the migration"));
    } else {
        out.say(format_args!("{target} is gone again: it did not exist before the migration"));
    }
    if let Some(retained) = &done.retained {
        out.say(format_args!(
            "the undone tree is kept in {} until {}; `{}` says how to get it back",
            human::path(retained),
            human::wall(done.keep_until_ms),
            globals.command("kept")
        ));
    }
    let until = done.retained.is_some().then_some(done.keep_until_ms);
    let retained = done.retained.map(|path| path.to_string_lossy().into_owned());
    out.success(json!({ "session_id": done.session.to_string(), "target": done.target.to_string_lossy(),
        "target_exists": done.target_exists, "changed": done.changed, "retained": retained, "retained_until_ms": until }));
    Ok(())
}

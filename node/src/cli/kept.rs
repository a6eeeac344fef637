//! `me-sync kept` and `me-sync forget`: the trees that are kept for a rollback, and an early end for them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use me_sync_node::StateLock;
use me_sync_node::errors::chain;
use me_sync_node::staging::{self, Kept, StageError, StateDir};
use me_sync_protocol::reason::Code;
use serde_json::{Value, json};

use super::book::{is_id, resolved};
use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::out::Out;
use super::render::spinner;
use super::stop::{Stop, blocking};
use super::{human, prompt};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync kept
  me-sync kept --json

One line each, the oldest first, separated by tabs: session, directory, where
it is kept, what it is, files, bytes, and until when. An old tree comes back by
`me-sync rollback`. An undone tree is what came and went again, by a rollback or
because the command after the swap failed: the command that is shown puts it in
place. `me-sync forget` deletes one earlier.";

pub(crate) const FORGET_EXAMPLES: &str = "\
Examples:
  me-sync forget ~/photos           all that is kept of this directory
  me-sync forget ab12cd34           what this migration replaced

The directory itself stays as it is. What is forgotten is deleted, and cannot
be rolled back to any more.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArgs {
    /// The directory that was replaced, or 4 digits or more of a session's id
    #[arg(value_name = "DIR|SESSION")]
    what: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(_: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let all = look(globals, out, stop).await?;
    for kept in &all {
        out.event("kept", fields(kept));
        out.data(format_args!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}",
            kept.session.short(),
            human::path(&kept.target),
            human::path(&kept.path),
            what(kept),
            human::count(kept.tree.files, "file"),
            human::bytes(kept.tree.bytes),
            human::wall(kept.keep_until_ms),
        ));
    }
    say_ways_back(&all, globals, out);
    let bytes: u64 = all.iter().map(|kept| kept.tree.bytes).sum();
    let targets: std::collections::BTreeSet<_> = all.iter().map(|kept| &kept.target).collect();
    let what = match targets.first() {
        Some(target) if targets.len() == 1 => human::shell(target),
        _ => "DIR".to_owned(),
    };
    match all.is_empty() {
        true => out.say("no tree is kept"),
        false => out.say(format_args!(
            "{} in all; to delete what is kept of one directory: {}",
            human::bytes(bytes),
            globals.command(&format!("forget {what}"))
        )),
    }
    out.success(json!({ "kept": all.len(), "bytes": bytes }));
    Ok(())
}

pub(crate) async fn forget(args: ForgetArgs, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let all = look(globals, out, stop).await?;
    let found = find(&all, &args.what);
    if found.is_empty() {
        let message = format!("nothing is kept of {}", human::shell(&args.what));
        return Err(CliError::usage(message, format!("`{}` lists what is", globals.command("kept"))));
    }
    let many = if found.len() == 1 { "it" } else { "all of them" };
    for kept in &found {
        let text = format!(
            "{}: {}, {}, {}\n",
            human::path(&kept.path),
            what(kept),
            human::count(kept.tree.files, "file"),
            human::bytes(kept.tree.bytes)
        );
        if args.yes { out.say(text.trim_end()) } else { out.ask(text) }
    }
    if !args.yes {
        if !prompt::possible(out) {
            return Err(CliError::usage("deleting it needs a yes", "add -y to do it without being asked"));
        }
        if !prompt::yes(&format!("Delete {many}?"), out, stop).await? {
            return Err(CliError::coded(Code::Declined, "you declined", "nothing was changed"));
        }
    }
    let (state_dir, sessions) = (globals.state_dir()?, found.iter().map(|kept| kept.session).collect::<Vec<_>>());
    // not `unless`: once begun it is waited for
    blocking(move || {
        let state = StateDir::open(&state_dir)?;
        sessions.into_iter().try_for_each(|session| staging::forget(&state, session).map_err(CliError::from))
    })
    .await??;
    let bytes: u64 = found.iter().map(|kept| kept.tree.bytes).sum();
    out.say(format_args!("deleted; that was up to {}", human::bytes(bytes)));
    out.success(json!({ "forgotten": found.iter().map(|kept| fields(kept)).collect::<Vec<_>>(), "bytes": bytes }));
    Ok(())
}

/// What is kept, after what a crash left is settled.
async fn look(globals: &Globals, out: Out, stop: &Stop) -> Result<Vec<Kept>, CliError> {
    let state_dir = globals.state_dir()?;
    if !state_dir.exists() {
        return Ok(Vec::new());
    }
    let spinner = spinner(out, "looking at what is kept".to_owned());
    let looked = stop.unless(blocking(move || {
        let state = StateDir::open(&state_dir)?;
        // a node that runs has settled everything already
        let lock = StateLock::acquire(&state_dir).ok();
        let recovered = if lock.is_some() { staging::recover(&state, SystemTime::now()) } else { Vec::new() };
        Ok::<_, CliError>((recovered, staging::kept(&state)?))
    }));
    let looked = looked.await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let (recovered, all) = looked???;
    out.recovered(&recovered);
    Ok(all)
}

/// By id, or else by directory.
fn find<'a>(all: &'a [Kept], what: &Path) -> Vec<&'a Kept> {
    let digits = what.to_str().filter(|text| is_id(text)).map(str::to_ascii_lowercase);
    let named = |kept: &&Kept| digits.as_ref().is_some_and(|digits| kept.session.to_string().starts_with(digits));
    let by_id: Vec<_> = all.iter().filter(named).collect();
    if !by_id.is_empty() {
        return by_id;
    }
    let dir = resolved(what);
    all.iter().filter(|kept| kept.target == dir).collect()
}

/// How each of them comes back. An undone tree is no way back for a rollback: it is moved, as it is, in place of what stands
/// there, which stays beside it.
fn say_ways_back(all: &[Kept], globals: &Globals, out: Out) {
    let mut old: Vec<&Kept> = all.iter().filter(|kept| !kept.is_undone).collect();
    if !old.is_empty() {
        out.say("old tree: what was there before; it comes back by");
        // a rollback goes back to the newest of a directory first
        old.sort_by(|a, b| a.target.cmp(&b.target));
        old.dedup_by(|a, b| a.target == b.target);
        for kept in old {
            out.say(format_args!("  {}", globals.command(&format!("rollback {}", human::shell(&kept.target)))));
        }
    }
    if all.iter().any(|kept| kept.is_undone) {
        out.say("undone tree: what came, and was taken back by a rollback or by the command after the swap; it comes back by");
        for kept in all.iter().filter(|kept| kept.is_undone) {
            out.say(format_args!("  {}: {}", kept.session.short(), way_back(kept)));
        }
    }
}

/// The command that puts an undone tree in place again.
fn way_back(undone: &Kept) -> String {
    let (from, to) = (human::shell(&undone.path), human::shell(&undone.target));
    if undone.target.symlink_metadata().is_err() {
        return format!("mv -T {from} {to}");
    }
    let mut aside = undone.target.clone().into_os_string();
    aside.push(format!(".before-{}", undone.session.short()));
    format!("mv -nT {to} {} && mv -nT {from} {to}", human::shell(Path::new(&aside)))
}

fn what(kept: &Kept) -> &'static str {
    if kept.is_undone { "undone tree" } else { "old tree" }
}

fn fields(kept: &Kept) -> Value {
    let way_back = kept.is_undone.then(|| way_back(kept));
    json!({ "way_back": way_back, "session_id": kept.session.to_string(), "target": kept.target.to_string_lossy(),
        "retained": kept.path.to_string_lossy(), "retained_until_ms": kept.keep_until_ms, "undone": kept.is_undone,
        "files": kept.tree.files, "bytes": kept.tree.bytes, "is_partial": !kept.tree.complete })
}

impl From<StageError> for CliError {
    fn from(err: StageError) -> Self {
        let hint = "`me-sync kept` lists what is left";
        Self::coded(err.code(), chain(&err).to_string(), hint).exit(Exit::Node)
    }
}

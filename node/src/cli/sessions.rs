//! `me-sync sessions`: what migrated into this device, and what can be undone.

use std::time::SystemTime;

use me_sync_node::StateLock;
use me_sync_node::staging::{self, SessionRecord, SessionState, StateDir};
use me_sync_protocol::escape::escaped;
use serde_json::json;

use super::exit::CliError;
use super::globals::Globals;
use super::human;
use super::out::Out;
use super::stop::{Stop, blocking};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync sessions
  me-sync sessions --all --json

One line each, newest first, separated by tabs: when, role, device, directory,
files, bytes, state, until when it can be rolled back.";

/// Lines without `--all`.
const NEWEST: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Not only the newest 20
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let state_dir = globals.state_dir()?;
    let (recovered, mut records) = stop
        .unless(blocking(move || {
            let state = StateDir::open(&state_dir).map_err(CliError::from)?;
            // a node that runs has settled everything already
            let lock = StateLock::acquire(&state_dir).ok();
            let recovered = if lock.is_some() { staging::recover(&state, SystemTime::now()) } else { Vec::new() };
            Ok::<_, CliError>((recovered, state.sessions()?))
        }))
        .await???;
    out.recovered(&recovered);
    records.reverse();
    let total = records.len();
    if !args.all {
        records.truncate(NEWEST);
    }
    for record in &records {
        show(record, out);
    }
    if total == 0 {
        out.say("no migration into this device is on record");
    } else if total > records.len() {
        out.say(format_args!("{} older ones: --all", total - records.len()));
    }
    out.success(json!({ "sessions": records.len(), "total": total }));
    Ok(())
}

fn show(record: &SessionRecord, out: Out) {
    let state = state_name(record.state);
    out.event(
        "session",
        json!({
            "session_id": record.session.to_string(), "role": "importer", "state": state,
            "peer_id": record.peer_id, "device_name": record.peer_name, "target": record.target.to_string_lossy(),
            "files": record.files, "bytes": record.bytes, "created_ms": record.created_ms,
            "updated_ms": record.updated_ms, "retained": record.retained.as_ref().map(|r| r.to_string_lossy()), "retained_until_ms": record.keep_until_ms,
            "target_existed": record.target_existed, "code": record.code.map(|c| c.as_str()),
        }),
    );
    let until = match (record.state, record.keep_until_ms) {
        (SessionState::Swapped | SessionState::Committed, Some(ms)) => human::wall(ms),
        _ => "-".to_owned(),
    };
    let code = record.code.map(|c| format!(" ({c})")).unwrap_or_default();
    out.data(format_args!(
        "{}\timporter\t{} ({})\t{}\t{}\t{}\t{state}{code}\t{until}",
        human::wall(record.created_ms),
        escaped(&record.peer_name),
        human::short_peer(&record.peer_id),
        human::path(&record.target),
        human::count(record.files, "file"),
        human::bytes(record.bytes),
    ));
}

fn state_name(state: SessionState) -> &'static str {
    match state {
        SessionState::Receiving => "receiving",
        SessionState::Verified => "verified",
        SessionState::SwapIntent => "swap_intent",
        SessionState::Swapped => "swapped",
        SessionState::Committed => "committed",
        SessionState::RollbackIntent => "rollback_intent",
        SessionState::RolledBack => "rolled_back",
        SessionState::Cleaned => "cleaned",
        SessionState::Failed => "failed",
    }
}

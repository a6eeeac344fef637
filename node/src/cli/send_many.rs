//! `me-sync send --devices N`: one tree to several devices at once, each with a ticket and a progress of its own. It ends
//! when all of them have ended, as badly as the worst of them.

use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use futures::future::join_all;
use indicatif::MultiProgress;
use me_sync_node::{Completion, JobView, SentTo};
use serde_json::{Value, json};

use super::exit::CliError;
use super::follow::{Follower, Step};
use super::globals::Globals;
use super::human;
use super::live::StatusFile;
use super::offered::Offered;
use super::out::Out;
use super::render::{Render, stderr};
use super::send::{ticket_fields, totals};
use super::stop::Stop;

/// Devices of earlier sends that are named.
const NAMED: usize = 8;

/// How one of the offers ended.
struct End {
    number: usize,
    view: JobView,
    result: Result<Box<Completion>, CliError>,
}

/// Shows the tickets, and follows all offers to their ends.
pub(crate) async fn follow(
    offers: &[Offered],
    ttl: Duration,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(), CliError> {
    let Some(first) = offers.first() else { return Ok(()) };
    show_tickets(offers, ttl, out)?;
    show_before(&first.before, out);
    let (bars, told) = (MultiProgress::with_draw_target(stderr()), Arc::new(Once::new()));
    // all of them first: each takes away what an earlier process left
    let files = offers.iter().map(|offer| {
        let file = StatusFile::of(&offer.job, globals, &offer.root)?;
        Ok::<_, CliError>(file.map(|file| file.looked_at(offer.choices)))
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let ends = (1..).zip(offers).zip(files).map(|((number, offer), status)| {
        let render = Render::one_of(out, number, &bars);
        let follower = Follower::showing(render, told.clone(), status, globals, stop);
        follow_one(number, offer, follower, globals, out)
    });
    conclude(&join_all(ends).await, &first.root, globals, out)
}

/// Who took a tree from this place before: a ticket each is for those that did not, or for once more.
fn show_before(before: &[SentTo], out: Out) {
    for one in before.iter().take(NAMED) {
        let device = human::device(&one.device_name, &one.peer_id);
        out.say(format_args!("{device} took this directory on {}: it needs no ticket", human::wall(one.at_ms)));
    }
    if before.len() > NAMED {
        out.say(format_args!(
            "… and {} more; `me-sync sessions` lists them",
            human::count((before.len() - NAMED) as u64, "device")
        ));
    }
}

/// A QR code each would push the first ticket out of sight; tickets for several devices are copied, or read by programs.
fn show_tickets(offers: &[Offered], ttl: Duration, out: Out) -> Result<(), CliError> {
    let each = human::duration(ttl);
    out.say(format_args!("{} tickets, one a device, each good once and for {each} (keep them secret):", offers.len()));
    for (number, offer) in (1..).zip(offers) {
        let mut fields = ticket_fields(offer);
        if let Value::Object(fields) = &mut fields {
            fields.insert("offer".to_owned(), Value::from(number));
        }
        out.event("ticket", fields);
        match &offer.continues {
            Some(known) => {
                let device = human::device(&known.device_name, &known.peer_id);
                let session = known.session.short();
                out.say(format_args!("[{number}] goes on with session {session}, for {device} only:"));
            }
            None => out.say(format_args!("[{number}]")),
        }
        out.essential(&offer.ticket_uri)?;
        if let Some(line) = offer.by_code() {
            let where_to = if offer.has_mdns { " on this network" } else { "" };
            match out.quiet {
                true => out.needed(format_args!("[{number}] {line}")),
                false => out.say(format_args!("    or, by the code{where_to}: {line}")),
            }
        }
    }
    out.say("On each of the devices, type this and paste its ticket:");
    out.say("  me-sync receive DIR");
    Ok(())
}

/// One offer to its end, which is said at once.
async fn follow_one(number: usize, offer: &Offered, mut follower: Follower<'_>, globals: &Globals, out: Out) -> End {
    let result = loop {
        match follower.follow(&offer.job).await {
            Ok(Step::Completed(done)) => break Ok(done),
            // only imports ask
            Ok(Step::Review(_)) => {}
            Err(error) => break Err(CliError { hint: globals.here(&error.hint), ..error }),
        }
    };
    let end = End { number, view: offer.job.view(), result };
    let time = follower.render.moving_for();
    match &end.result {
        Ok(done) => follower.render.say(format_args!(
            "confirmed: the tree is verified and in place, {} came over in {}",
            human::bytes(done.payload_bytes),
            human::duration(time)
        )),
        Err(error) => {
            follower.render.say(human::lines(&error.message));
            if !error.hint.is_empty() {
                follower.render.say(format_args!("  -> {}", human::lines(&error.hint)));
            }
        }
    }
    out.event("ended", end.fields());
    end
}

impl End {
    /// For programs.
    fn fields(&self) -> Value {
        let mut fields = json!({
            "offer": self.number,
            "session_id": self.view.session_id.map(|id| id.to_string()),
            "peer": self.view.peer,
            "ok": self.result.is_ok(),
        });
        let more = match &self.result {
            Ok(done) => json!({ "code": null, "exit_code": 0, "payload_bytes": done.payload_bytes,
                "wire_bytes": done.wire_bytes, "manifest_sha256": done.manifest_sha256 }),
            Err(error) => json!({ "code": error.code, "exit_code": error.exit.code(), "message": error.message,
                "hint": error.hint, "failures": self.view.failures, "failures_total": self.view.failures_total }),
        };
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
        }
        fields
    }
}

fn conclude(ends: &[End], root: &Path, globals: &Globals, out: Out) -> Result<(), CliError> {
    let offers: Vec<_> = ends.iter().map(End::fields).collect();
    let done: Vec<_> = ends.iter().filter_map(|end| end.result.as_ref().ok()).collect();
    let failed = ends.iter().filter_map(|end| end.result.as_ref().err().map(|error| (end.number, error)));
    let Some((number, worst)) = failed.max_by_key(|(_, error)| error.exit.code()) else {
        out.say(format_args!("all {} devices have it", ends.len()));
        if done.iter().any(|one| one.manifest_sha256 != done[0].manifest_sha256) {
            out.say("the tree changed meanwhile: each has it as it was at one moment, but not all at the same");
        }
        if let Some(first) = done.first() {
            // what came over is said of each
            let whole = Completion { payload_bytes: first.bytes, wire_bytes: first.bytes, ..(***first).clone() };
            totals(&whole, Duration::ZERO, "there", out);
            let mut fields = serde_json::to_value(whole).unwrap_or_default();
            if let Value::Object(fields) = &mut fields {
                let sum = |bytes: fn(&Completion) -> u64| done.iter().map(|done| bytes(done)).sum::<u64>();
                fields.insert("payload_bytes".to_owned(), sum(|done| done.payload_bytes).into());
                fields.insert("wire_bytes".to_owned(), sum(|done| done.wire_bytes).into());
                fields.insert("offers".to_owned(), offers.into());
            }
            out.success(fields);
        }
        return Ok(());
    };
    let message = format!("{} of {} devices have it; [{number}] {}", done.len(), ends.len(), worst.message);
    let (exit, code, hint) = (worst.exit, worst.code.clone(), still_missing(ends, root, globals));
    Err(CliError { exit, code, message, hint, extra: json!({ "offers": offers }) })
}

/// Which devices do not have it, and how to go on with those.
fn still_missing(ends: &[End], root: &Path, globals: &Globals) -> String {
    let missing: Vec<_> = ends.iter().filter(|end| end.result.is_err()).collect();
    let named = |end: &&End| match (&end.view.peer, end.view.session_id) {
        (Some(peer), Some(session)) => {
            format!("[{}] {}, session {}", end.number, human::device(&peer.device_name, &peer.peer_id), session.short())
        }
        _ => format!("[{}] whose ticket nobody used", end.number),
    };
    let names: Vec<_> = missing.iter().map(named).collect();
    let path = human::shell(root);
    let again = match missing.len() {
        1 => globals.command(&format!("send {path}")),
        n => globals.command(&format!("send --devices {n} {path}")),
    };
    format!(
        "still missing: {}\n`{again}` goes on with sessions that had begun and makes new tickets for the others",
        names.join("; ")
    )
}

//! Following one job to its end: progress, questions, and a stop that is asked for on the way.

use std::time::Duration;

use me_sync_node::api::FailureView;
use me_sync_node::{Completion, JobHandle, JobView, Outcome, Review};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::render::Render;
use super::stop::Stop;

/// How long an aborted job may take to clean up.
const ABORT_WAIT: Duration = Duration::from_secs(5);
/// Redraw, so that a stalled rate is seen to be stalled.
const TICK: Duration = Duration::from_millis(500);
/// Failed files that are named to people.
const NAMED_FAILURES: usize = 10;

/// What a job came to.
pub(crate) enum Step {
    /// It wants a decision.
    Review(Box<Review>),
    /// The new tree is in place.
    Completed(Box<Completion>),
}

/// Shows progress until the job asks something or ends. After a stop was asked for, waits for the clean end;
/// once the swap has begun it waits for the real one.
pub(crate) async fn follow(job: &JobHandle, render: &mut Render, stop: &Stop) -> Result<Step, CliError> {
    let mut views = job.watch();
    let mut tick = tokio::time::interval(TICK);
    let mut stopping = false;
    loop {
        let view = views.borrow_and_update().clone();
        render.update(&view);
        if let Some(outcome) = view.outcome.clone() {
            render.clear();
            return ended(outcome, &view, stopping, render).map(|done| Step::Completed(Box::new(done)));
        }
        if let (false, Some(review)) = (stopping, view.review) {
            render.clear();
            return Ok(Step::Review(Box::new(review)));
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() {
                let outcome = job.outcome().await;
                render.clear();
                return ended(outcome, &job.view(), stopping, render).map(|done| Step::Completed(Box::new(done)));
            },
            _ = tick.tick() => {}
            () = stop.asked(), if !stopping => {
                stopping = true;
                render.say("stopping; once more ends at once");
                job.abort().await;
            }
            () = tokio::time::sleep(ABORT_WAIT), if stopping && view.phase < Phase::Applying => {
                return Err(CliError::interrupted("stopped; the cleaning up did not end in time and is left to the next start"));
            }
        }
    }
}

fn ended(outcome: Outcome, view: &JobView, stopping: bool, render: &Render) -> Result<Completion, CliError> {
    let (code, message, hint) = match outcome {
        Outcome::Completed(done) => return Ok(done),
        Outcome::Failed { code, message, hint } => (code, message, hint),
    };
    for FailureView { path, reason, code } in view.failures.iter().take(NAMED_FAILURES) {
        let code = code.as_deref().map(|c| format!(", {}", escaped(c))).unwrap_or_default();
        render.say(format_args!("failed: {} ({}{code})", escaped(path), escaped(reason)));
    }
    if view.failures_total > NAMED_FAILURES as u64 {
        render.say(format_args!("… {} files failed in all", view.failures_total));
    }
    let extra = json!({ "session_id": view.session_id.map(|id| id.to_string()), "peer": view.peer,
        "failures": view.failures, "failures_total": view.failures_total });
    let error = CliError::coded(code, message, hint);
    // whether anything changed is the job's to say; what happened to the target is more than that somebody pressed a key
    let settled = matches!(error.exit, Exit::ApplyFailed | Exit::HealthFailed);
    if stopping && !settled {
        return Err(CliError { extra, hint: error.hint, ..CliError::interrupted(error.message) });
    }
    let error = if code == Code::Aborted { error.exit(Exit::Incomplete) } else { error };
    Err(CliError { extra, ..error })
}

//! Following one job to its end: progress, questions, and a stop that is asked for on the way.

use std::sync::{Arc, Once};
use std::time::Duration;

use me_sync_node::api::FailureView;
use me_sync_node::{Completion, JobView, Outcome, Protocol, Review, Role};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::job::Job;
use super::live::StatusFile;
use super::out::Out;
use super::render::Render;
use super::stop::Stop;

/// How long a stopped job may take to let go.
const STOP_WAIT: Duration = Duration::from_secs(5);
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

/// Shows one job to people, programs and other processes.
#[derive(Debug)]
pub(crate) struct Follower<'a> {
    pub(crate) render: Render,
    /// Somebody was told that a stop is under way; several jobs that stop at once say it once.
    told: Arc<Once>,
    /// None: nobody goes on with this job, so that a stop ends it.
    keeps: Option<Keeps<'a>>,
    stop: &'a Stop,
}

#[derive(Debug)]
struct Keeps<'a> {
    /// None for a job of the node, which is asked itself.
    status: Option<StatusFile>,
    globals: &'a Globals,
}

impl<'a> Follower<'a> {
    /// Of a job that ends with its process.
    pub(crate) fn passing(out: Out, stop: &'a Stop) -> Self {
        Self { render: Render::new(out), told: Arc::new(Once::new()), keeps: None, stop }
    }

    /// Of a job whose session is kept when it is stopped; other processes see how far it is.
    pub(crate) fn keeping(status: Option<StatusFile>, globals: &'a Globals, out: Out, stop: &'a Stop) -> Self {
        Self::showing(Render::new(out), Arc::new(Once::new()), status, globals, stop)
    }

    /// The same, shown in this way.
    pub(crate) fn showing(
        render: Render,
        told: Arc<Once>,
        status: Option<StatusFile>,
        globals: &'a Globals,
        stop: &'a Stop,
    ) -> Self {
        Self { render, told, keeps: Some(Keeps { status, globals }), stop }
    }

    /// Shows progress until the job asks something or ends. After a stop was asked for, waits until everything is
    /// let go; once the swap has begun it waits for the real end.
    pub(crate) async fn follow(&mut self, job: &Job) -> Result<Step, CliError> {
        let mut views = job.watch();
        let mut tick = tokio::time::interval(TICK);
        let mut until = None;
        loop {
            let stopping = until.is_some();
            let view = views.borrow_and_update().clone();
            self.render.update(&view);
            if let Some(status) = self.keeps.as_mut().and_then(|keeps| keeps.status.as_mut()) {
                status.update(&view);
            }
            if let Some(outcome) = view.outcome.clone() {
                self.render.clear();
                return self.ended(outcome, &view, stopping, job).map(|done| Step::Completed(Box::new(done)));
            }
            if let (false, Some(review)) = (stopping, view.review) {
                self.render.clear();
                return Ok(Step::Review(Box::new(review)));
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    let outcome = job.outcome().await;
                    self.render.clear();
                    return self.ended(outcome, &job.view(), stopping, job).map(|done| Step::Completed(Box::new(done)));
                },
                _ = tick.tick() => {}
                () = self.stop.asked(), if !stopping => {
                    if job.is_of_another() {
                        self.render.clear();
                        return Err(not_followed());
                    }
                    until = Some(tokio::time::Instant::now() + STOP_WAIT);
                    self.told.call_once(|| self.render.say("stopping; once more ends at once"));
                    self.let_go(job).await;
                }
                () = past(until), if view.phase < Phase::Applying => {
                    return Err(self.stopped(&job.view()));
                }
            }
        }
    }

    /// Stops the job in the way that its command promises.
    pub(crate) async fn let_go(&self, job: &Job) {
        if self.keeps.is_some() { job.suspend().await } else { job.abort().await }
    }

    fn ended(&self, outcome: Outcome, view: &JobView, stopping: bool, job: &Job) -> Result<Completion, CliError> {
        let (code, message, hint) = match outcome {
            Outcome::Completed(done) => return Ok(done),
            Outcome::Failed { code, message, hint } => (code, message, hint),
        };
        self.name_failures(view);
        let extra = json!({ "protocol": view.protocol, "session_id": view.session_id.map(|id| id.to_string()), "peer": view.peer,
            "failures": view.failures, "failures_total": view.failures_total });
        let error = CliError::coded(code, message, hint);
        // whether anything changed is the job's to say; what happened to the target is more than that somebody pressed a key
        let settled = matches!(error.exit, Exit::ApplyFailed | Exit::HealthFailed);
        if stopping && code == Code::NodeStopping {
            return Err(CliError { extra, ..self.stopped(view) });
        }
        if code == Code::NodeStopping && job.is_of_another() {
            return Err(CliError { extra, ..stopped_elsewhere() });
        }
        if stopping && !settled {
            return Err(CliError { extra, hint: error.hint, ..CliError::interrupted(error.message) });
        }
        let error = if code == Code::Aborted { error.exit(Exit::Incomplete) } else { error };
        Err(CliError { extra, ..error })
    }

    fn name_failures(&self, view: &JobView) {
        for FailureView { path, reason, code } in view.failures.iter().take(NAMED_FAILURES) {
            let code = code.as_deref().map(|c| format!(", {}", escaped(c))).unwrap_or_default();
            self.render.say(format_args!("failed: {} ({}{code})", escaped(path), escaped(reason)));
        }
        if view.failures_total > NAMED_FAILURES as u64 {
            let list = self.keeps.as_ref().zip(view.session_id).filter(|_| view.role == Role::Importer);
            let list = list.map(|(keeps, id)| format!("; all of them: {}", keeps.type_this("failures", id)));
            let n = super::human::count(view.failures_total, "file");
            self.render.say(format_args!("… {n} failed in all{}", list.unwrap_or_default()));
        }
    }

    /// Stopped by somebody: what stays, and how to go on.
    fn stopped(&self, view: &JobView) -> CliError {
        if view.protocol == Protocol::V3 {
            let extra = json!({ "protocol": view.protocol });
            let hint = "an archive is not resumed: `send` makes a new ticket".to_owned();
            return CliError { hint, extra, ..CliError::interrupted("stopped before anything was changed") };
        }
        let Some((keeps, session)) = self.keeps.as_ref().zip(view.session_id) else {
            let error = CliError::interrupted("stopped before anything was changed");
            if view.role == Role::Exporter && self.keeps.is_some() {
                return CliError { hint: "the ticket is void now; `send` makes a new one".to_owned(), ..error };
            }
            return error;
        };
        let (message, also) = match view.role {
            Role::Importer => ("stopped; everything that arrived is kept", ""),
            Role::Exporter => ("stopped; the session is kept", ", and so does the same `send`"),
        };
        let hint = format!(
            "`{}` goes on{also}; `{}` ends it for good",
            keeps.type_this("resume", session),
            keeps.type_this("abort", session)
        );
        CliError { hint, extra: json!({ "session_id": session.to_string() }), ..CliError::interrupted(message) }
    }
}

/// Somebody looks on no longer.
pub(crate) fn not_followed() -> CliError {
    let hint = "`me-sync status` shows it; Ctrl-C at the command that began it stops it".to_owned();
    CliError { hint, ..CliError::interrupted("no longer followed; the import itself goes on") }
}

/// Who did the work that this command only looked at was stopped.
fn stopped_elsewhere() -> CliError {
    let hint = "type the same command again to go on where it stopped".to_owned();
    CliError { hint, ..CliError::interrupted("the command that this one followed was stopped; what arrived is kept") }
}

/// Comes back at that time; never, if there is none.
async fn past(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

impl Keeps<'_> {
    fn type_this(&self, verb: &str, session: SessionId) -> String {
        self.globals.command(&format!("{verb} {}", session.short()))
    }
}

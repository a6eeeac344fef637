//! An import as both `receive` and `resume` show it: the question what it replaces, its progress, its end.

use std::path::Path;

use me_sync_node::{Protocol, Review};
use me_sync_protocol::escape::escaped;

use super::exit::CliError;
use super::follow::{Follower, Step, not_followed};
use super::globals::Globals;
use super::job::Job;
use super::live::StatusFile;
use super::out::Out;
use super::stop::Stop;
use super::{human, prompt, send};

/// Who answers the question whether a tree may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    Ask,
    /// Nobody can be asked.
    Unable,
}

impl Answer {
    pub(crate) fn of(yes: bool, can_ask: bool) -> Self {
        match (yes, can_ask) {
            (true, _) => Self::Yes,
            (false, true) => Self::Ask,
            (false, false) => Self::Unable,
        }
    }
}

/// An import that runs, to be followed to its end.
pub(crate) struct Import<'a> {
    pub(crate) job: Job,
    pub(crate) dir: &'a Path,
    pub(crate) answer: Answer,
    /// It goes on with an earlier session.
    pub(crate) continues: bool,
}

impl Import<'_> {
    /// Follows it to its end and says what came of it.
    pub(crate) async fn run(&self, globals: &Globals, out: Out, stop: &Stop) -> Result<Report, CliError> {
        let status = StatusFile::of(&self.job, globals, self.dir)?;
        let mut follower = Follower::keeping(status, globals, out, stop);
        if self.continues {
            follower.render.continues();
        }
        loop {
            match follower.follow(&self.job).await? {
                Step::Completed(done) => {
                    let view = self.job.view();
                    let peer = view.peer.map(|p| escaped(&p.device_name).to_string()).filter(|name| !name.is_empty());
                    return Ok(Report { done, time: follower.render.moving_for(), name: view.source_name, peer });
                }
                Step::Review(review) => {
                    self.decide(&review, &follower, out, stop).await?;
                    follower.render.resume();
                }
            }
        }
    }

    /// Shows both sides and answers the job.
    async fn decide(&self, review: &Review, follower: &Follower<'_>, out: Out, stop: &Stop) -> Result<(), CliError> {
        out.event("review", review);
        for warning in &review.warnings {
            out.warn(human::lines(warning));
        }
        if self.answer != Answer::Unable {
            self.summary(review, out);
        }
        match self.answer {
            Answer::Yes => self.job.accept().await,
            // who has begun it is asked
            Answer::Ask | Answer::Unable if self.job.is_of_another() => {
                out.say("it waits for the answer whether this may be replaced, which the other command asks for");
                let mut views = self.job.watch();
                let answered = views.wait_for(|view| view.review.is_none() || view.outcome.is_some());
                return match stop.unless(answered).await {
                    Ok(_) => Ok(()),
                    Err(_) => Err(not_followed()),
                };
            }
            Answer::Ask => match prompt::yes("Replace it?", out, stop).await {
                Ok(true) => self.job.accept().await,
                // the next look at the job finds it declined
                Ok(false) => self.job.decline().await,
                // and here the stop that was asked for
                Err(_) => follower.let_go(&self.job).await,
            },
            // it was empty or missing a moment ago; the session waits for a yes
            Answer::Unable => {
                follower.let_go(&self.job).await;
                self.job.outcome().await;
                return Err(needs_consent(self.dir));
            }
        }
        // the review is taken back once the answer has arrived
        let mut views = self.job.watch();
        views.wait_for(|v| v.review.is_none() || v.outcome.is_some()).await.ok();
        Ok(())
    }

    fn summary(&self, review: &Review, out: Out) {
        let mut text = String::new();
        if let Some(peer) = self.job.view().peer {
            text += &format!("From    {}\n", human::device(&peer.device_name, &peer.peer_id));
        }
        text += &format!(
            "Comes   {}: {}, {}\n",
            escaped(&review.source_name),
            human::count(review.files, "file"),
            human::bytes(review.bytes)
        );
        let names: Vec<_> = review.top_names.iter().map(|n| escaped(n).to_string()).collect();
        text += &format!("        {}\n", names.join(", "));
        if review.protocol == Protocol::V3 {
            text += "By      protocol: v3 (archive: no resume)\n";
        }
        text += &format!("Into    {}\n", human::path(&review.target));
        if let Some(old) = &review.replaces {
            let least = if old.is_partial { "at least " } else { "" };
            text += &format!(
                "Goes    {least}{}, {}; kept {} for rollback\n",
                human::count(old.files, "file"),
                human::bytes(old.bytes),
                human::duration(review.keep_for)
            );
        }
        // a question without what it is about would be no question
        if self.answer == Answer::Ask { out.ask(text) } else { out.say(text.trim_end()) }
    }
}

/// An import that is through.
pub(crate) struct Report {
    done: Box<me_sync_node::Completion>,
    time: std::time::Duration,
    name: Option<String>,
    peer: Option<String>,
}

impl Report {
    pub(crate) fn show(&self, dir: &Path, globals: &Globals, out: Out) {
        let done = &self.done;
        let target = done.target.as_deref().unwrap_or(dir);
        let peer = self.peer.as_deref().unwrap_or("the other device");
        let what = match &self.name {
            Some(name) => format!("{} on {peer}", escaped(name)),
            None => format!("the tree on {peer}"),
        };
        if done.unchanged {
            out.say(format_args!("{} was what {what} is already: nothing was replaced", human::path(target)));
            send::totals(done, self.time, "here", out);
            out.success(done);
            return;
        }
        out.say(format_args!("{} is now what {what} is", human::path(target)));
        send::totals(done, self.time, "here", out);
        if let Some(retained) = &done.retained {
            let until = done.retained_until_ms.map(|ms| format!(" until {}", human::wall(ms))).unwrap_or_default();
            let forget = globals.command(&format!("forget {}", human::shell(target)));
            out.say(format_args!(
                "what was there is kept in {}{until}; `{forget}` deletes it earlier",
                human::path(retained)
            ));
        }
        out.say(format_args!("to undo this: {}", rollback_command(globals, target)));
        out.success(done);
    }
}

/// The command that undoes a migration, as it can be typed.
pub(crate) fn rollback_command(globals: &Globals, target: &Path) -> String {
    globals.command(&format!("rollback {}", human::shell(target)))
}

pub(crate) fn needs_consent(dir: &Path) -> CliError {
    CliError::usage(
        format!("{} exists and is not empty; nothing was changed", human::path(dir)),
        "add -y to replace it (it is kept for rollback), or name a new directory",
    )
}

//! The two streams: data on stdout (plain lines or NDJSON), words for people on stderr.
//!
//! A reader that went away is no reason to fail: what it wanted, it has.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use me_sync_node::staging::{self, Recovered};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::exit::CliError;
use super::human;

/// How a command talks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    /// stderr is a terminal.
    pub(crate) terminal: bool,
}

impl Out {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, terminal: io::stderr().is_terminal() }
    }

    /// A line of data, not with `--json`.
    pub(crate) fn data(&self, line: impl Display) {
        if !self.json {
            stdout_line(&line).ok();
        }
    }

    /// Data without which the command makes no sense, such as a ticket nobody else will ever see.
    ///
    /// # Errors
    /// stdout does not take it.
    pub(crate) fn essential(&self, line: impl Display) -> Result<(), CliError> {
        if self.json {
            return Ok(());
        }
        stdout_line(&line).map_err(|e| {
            CliError::usage(format!("stdout does not take the output: {e}"), "send it to where it can be written")
        })
    }

    /// An object of `--json`.
    pub(crate) fn event(&self, name: &str, fields: impl Serialize) {
        if !self.json {
            return;
        }
        let mut object = Map::new();
        object.insert("event".to_owned(), name.into());
        if let Ok(Value::Object(fields)) = serde_json::to_value(fields) {
            object.extend(fields);
        }
        stdout_line(&Value::Object(object)).ok();
    }

    /// A line for people, unless they want none or a program reads.
    pub(crate) fn say(&self, line: impl Display) {
        if !self.quiet && !self.json {
            stderr_line(&line);
        }
    }

    /// A line for people that the command makes little sense without: also with `--quiet`.
    pub(crate) fn needed(&self, line: impl Display) {
        if !self.json {
            stderr_line(&line);
        }
    }

    /// A line for people that a question needs.
    pub(crate) fn ask(&self, text: impl Display) {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{text}").and_then(|()| stderr.flush()).ok();
    }

    /// A warning: also with `--quiet`.
    pub(crate) fn warn(&self, text: impl Display) {
        self.event("warning", json!({ "message": text.to_string() }));
        if !self.json {
            stderr_line(&format_args!("warning: {text}"));
        }
    }

    /// The last line of `--json` when all went well.
    pub(crate) fn success(&self, fields: impl Serialize) {
        let mut result = Map::new();
        result.insert("ok".to_owned(), true.into());
        result.insert("code".to_owned(), Value::Null);
        result.insert("exit_code".to_owned(), 0.into());
        if let Ok(Value::Object(fields)) = serde_json::to_value(fields) {
            result.extend(fields);
        }
        self.event("result", result);
    }

    /// What happened and what to do next.
    pub(crate) fn failure(&self, error: &CliError) {
        let mut result = Map::new();
        result.insert("ok".to_owned(), false.into());
        result.insert("code".to_owned(), error.code.clone().into());
        result.insert("exit_code".to_owned(), error.exit.code().into());
        result.insert("message".to_owned(), error.message.clone().into());
        result.insert("hint".to_owned(), error.hint.clone().into());
        if let Value::Object(extra) = &error.extra {
            result.extend(extra.clone());
        }
        self.event("result", result);
        stderr_line(&format_args!("me-sync: {}", human::lines(&error.message)));
        if !error.hint.is_empty() {
            stderr_line(&format_args!("  -> {}", human::lines(&error.hint)));
        }
    }

    /// What an earlier, interrupted run left.
    pub(crate) fn recovered(&self, recovered: &[Recovered]) {
        for one in recovered {
            let (outcome, code) = match one.outcome {
                staging::Outcome::Completed => ("completed", None),
                staging::Outcome::RolledBack => ("rolled_back", None),
                staging::Outcome::Discarded => ("discarded", None),
                staging::Outcome::Cleaned => ("cleaned", None),
                staging::Outcome::Parked(code) => ("parked", Some(code.as_str())),
            };
            let fields = json!({ "session_id": one.session.to_string(), "outcome": outcome, "code": code,
                "target": one.target.as_ref().map(|t| t.to_string_lossy()), "detail": one.detail });
            self.event("recovered", fields);
            let settled = if code.is_none() { "was settled" } else { "could not be settled" };
            self.say(format_args!("an earlier migration {settled}: {}", human::lines(&one.detail)));
            if code.is_some() {
                self.say(format_args!("  -> mend that, or give it up: me-sync abort {}", one.session.short()));
            }
        }
    }
}

fn stdout_line(line: &dyn Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush())
}

fn stderr_line(line: &dyn Display) {
    writeln!(io::stderr().lock(), "{line}").ok();
}

//! How a job's progress is shown: a bar on a terminal, a line now and then elsewhere, objects with `--json`.

mod line;

use std::fmt::Display;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use me_sync_node::api::WaitingView;
use me_sync_node::{JobView, Role};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::limits::MAX_BURNT;
use me_sync_protocol::progress::Phase;
use serde::Serialize;
use serde_json::{Value, json};

use self::line::{line, waiting_line, waiting_state};
use super::human;
use super::out::Out;

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// Time between `progress` objects of one phase.
const EVENT_EVERY: Duration = Duration::from_millis(500);
/// Changed files that are named to people.
const NAMED: usize = 10;
/// Width of a terminal that says none.
const COLUMNS: usize = 80;
/// Columns that spinner and brackets take, and one that stays free.
const BESIDE: usize = 6;
/// Time between `waiting` objects while nothing happens.
const WAITING_EVERY: Duration = Duration::from_secs(5);

/// Which of several jobs it is that is shown.
#[derive(Debug)]
struct Label {
    number: usize,
    bars: MultiProgress,
    /// The device's name for itself, once it is known.
    name: Option<String>,
}

/// Shows the views of one job.
#[derive(Debug)]
pub(crate) struct Render {
    out: Out,
    label: Option<Label>,
    bar: Option<ProgressBar>,
    shown: Option<(Phase, String, Instant)>,
    told: Option<(Phase, Instant)>,
    told_waiting: Option<(u32, Instant)>,
    /// The transport by which the other device was met in this process.
    met: Option<String>,
    is_waiting: bool,
    /// Spoken codes that were burnt.
    burnt: u32,
    session: Option<SessionId>,
    /// How far an earlier process came is still to be said.
    continues: bool,
    moving_since: Option<Instant>,
}

impl Render {
    pub(crate) fn new(out: Out) -> Self {
        Self::labelled(out, None)
    }

    /// One of several that are shown at once: each line and event says which.
    pub(crate) fn one_of(out: Out, number: usize, bars: &MultiProgress) -> Self {
        Self::labelled(out, Some(Label { number, bars: bars.clone(), name: None }))
    }

    fn labelled(out: Out, label: Option<Label>) -> Self {
        let bar = (out.terminal && !out.quiet && !out.json).then(|| bar(label.as_ref()));
        Self {
            out,
            label,
            bar,
            shown: None,
            told: None,
            told_waiting: None,
            met: None,
            is_waiting: false,
            burnt: 0,
            session: None,
            continues: false,
            moving_since: None,
        }
    }

    /// The job goes on with an earlier session: says how far that is, once it is known.
    pub(crate) fn continues(&mut self) {
        self.continues = true;
    }

    /// Shows what is new in `view`.
    pub(crate) fn update(&mut self, view: &JobView) {
        if let (Some(label), Some(peer)) = (&mut self.label, &view.peer)
            && !peer.device_name.is_empty()
        {
            label.name = Some(escaped(&peer.device_name).to_string());
        }
        if self.moving_since.is_none() && view.phase >= Phase::ManifestReceiving && view.peer.is_some() {
            self.moving_since = Some(Instant::now());
        }
        self.say_how_far(view);
        self.say_who(view);
        self.say_what_changed(view);
        self.say_code(view);
        if self.out.json {
            self.tell(view);
        } else if let Some(bar) = &self.bar {
            if view.waiting.is_some() != self.is_waiting {
                bar.set_style(style(view.waiting.is_some()));
            }
            bar.set_length(view.progress.bytes_total.max(1));
            bar.set_position(view.progress.bytes_hashed.unwrap_or(view.progress.bytes_received));
            bar.set_message(self.which(match &view.waiting {
                Some(waiting) => waiting_line(view, waiting, self.met.is_some()),
                None => line(view, self.room()),
            }));
            bar.tick();
        } else if !self.out.quiet {
            self.plain(view);
        }
        self.is_waiting = view.waiting.is_some();
    }

    /// A line above the bar.
    pub(crate) fn say(&self, text: impl Display) {
        let text = self.which(text.to_string());
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.say(text)),
            None => self.out.say(text),
        }
    }

    /// The same, also with `--quiet`.
    fn needed(&self, text: impl Display) {
        let text = self.which(text.to_string());
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.needed(text)),
            None => self.out.needed(text),
        }
    }

    /// Columns beside the bar.
    fn room(&self) -> usize {
        let columns = columns();
        columns.saturating_sub(BESIDE + bar_width(columns) + self.which(String::new()).chars().count())
    }

    /// With the job's number and its device before it, where several are shown.
    fn which(&self, text: String) -> String {
        match &self.label {
            Some(Label { number, name: Some(name), .. }) => format!("[{number} {name}] {text}"),
            Some(Label { number, name: None, .. }) => format!("[{number}] {text}"),
            None => text,
        }
    }

    /// An object of `--json`, with the job's number where several are shown.
    pub(crate) fn event(&self, name: &str, fields: impl Serialize) {
        let mut fields = serde_json::to_value(fields).unwrap_or_default();
        if let (Value::Object(fields), Some(label)) = (&mut fields, &self.label) {
            fields.insert("offer".to_owned(), label.number.into());
        }
        self.out.event(name, fields);
    }

    /// Takes the bar away, before a question or the end.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Puts a bar back after a question, and starts the time anew.
    pub(crate) fn resume(&mut self) {
        if self.bar.is_some() {
            self.bar = Some(bar(self.label.as_ref()));
        }
        // the time a person took to answer is not the transfer's
        self.moving_since = None;
    }

    /// Time since the other device was there.
    pub(crate) fn moving_for(&self) -> Duration {
        self.moving_since.map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn say_how_far(&mut self, view: &JobView) {
        let p = &view.progress;
        // while what is here is still being looked at, the figures are those of that; what an outline left is known only
        // once the manifest is here
        let is_known = (view.waiting.is_some() && p.bytes_received > 0) || view.phase >= Phase::BulkTransferring;
        if !self.continues || !is_known || p.files_total == 0 {
            return;
        }
        self.continues = false;
        let session = view.session_id.map(|id| id.to_string());
        self.event(
            "continuing",
            json!({ "session_id": session, "files_ok": p.files_ok, "files_total": p.files_total,
                "bytes_received": p.bytes_received, "bytes_total": p.bytes_total }),
        );
        if p.bytes_received == 0 {
            return;
        }
        let place = if view.role == Role::Importer { "here" } else { "there" };
        self.say(format_args!(
            "{} of {} are {place}, {} of {}",
            human::number(p.files_ok),
            human::count(p.files_total, "file"),
            human::bytes(p.bytes_received),
            human::bytes(p.bytes_total)
        ));
    }

    fn say_who(&mut self, view: &JobView) {
        if view.waiting.is_some() || view.phase == Phase::Failed {
            return;
        }
        // a restored offer knows its peer, and where it is once it has come
        let Some(peer) = view.peer.as_ref().filter(|peer| peer.transport.is_some()) else { return };
        let how = peer.transport.as_deref().unwrap_or_default();
        let device = human::device(&peer.device_name, &peer.peer_id);
        if self.met.is_none() {
            self.say(format_args!("connected to {device} over {}", escaped(how)));
        } else if self.is_waiting {
            self.say(format_args!("connected again to {device} over {}", escaped(how)));
        } else {
            return;
        }
        self.met = Some(how.to_owned());
        self.event("peer", peer);
    }

    fn say_what_changed(&mut self, view: &JobView) {
        let Some(now) = view.session_id else { return };
        if let Some(before) = self.session.replace(now).filter(|before| *before != now) {
            self.event(
                "superseded",
                json!({ "session_id": before.to_string(), "by": now.to_string(), "changed": view.changed }),
            );
            // a receiving device does not know why: there may be a new ticket for the same tree
            let why = if view.role == Role::Exporter { "the tree has changed: " } else { "" };
            self.say(format_args!(
                "{why}session {} takes the place of session {}, with what has arrived",
                now.short(),
                before.short()
            ));
            for path in view.changed.iter().take(NAMED) {
                self.say(format_args!("changed while it was sent: {}", escaped(path)));
            }
            if view.changed.len() > NAMED {
                self.say("… and more");
            }
        }
    }

    /// The code that was shown is good for nothing any more.
    fn say_code(&mut self, view: &JobView) {
        if view.codes_burnt == self.burnt {
            return;
        }
        self.burnt = view.codes_burnt;
        self.event("code", json!({ "code": view.spoken_code, "burnt": view.codes_burnt }));
        match &view.spoken_code {
            Some(code) => self.needed(format_args!("somebody tried a wrong code; the new code is {}", escaped(code))),
            // it may have ended meanwhile
            None if view.codes_burnt >= MAX_BURNT => self.needed(format_args!(
                "{MAX_BURNT} wrong codes were tried: this offer has no code any more; its ticket is still good"
            )),
            None => {}
        }
    }

    fn tell(&mut self, view: &JobView) {
        let is_new = self.told.is_none_or(|(phase, _)| phase != view.phase);
        let is_due = self.told.is_none_or(|(_, at)| at.elapsed() >= EVENT_EVERY);
        if is_new || (is_due && view.waiting.is_none()) {
            self.told = Some((view.phase, Instant::now()));
            self.event("progress", progress_fields(view));
        }
        let Some(waiting) = &view.waiting else {
            self.told_waiting = None;
            return;
        };
        if self.told_waiting.is_none_or(|(tries, at)| tries != waiting.tries || at.elapsed() >= WAITING_EVERY) {
            self.told_waiting = Some((waiting.tries, Instant::now()));
            self.event("waiting", waiting_fields(view, waiting));
        }
    }

    fn plain(&mut self, view: &JobView) {
        let text = match &view.waiting {
            Some(waiting) => waiting_state(view, waiting, self.met.is_some()),
            None => line(view, usize::MAX),
        };
        let is_quiet = view.waiting.is_some();
        let due = self.shown.as_ref().is_none_or(|(phase, last, at)| {
            *phase != view.phase || (*last != text && (is_quiet || at.elapsed() >= LINE_EVERY))
        });
        if due {
            self.out.say(self.which(text.clone()));
            self.shown = Some((view.phase, text, Instant::now()));
        }
    }
}

impl Drop for Render {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A spinner for work that has no figures; nothing off a terminal.
pub(crate) fn spinner(out: Out, text: String) -> Option<ProgressBar> {
    if !out.terminal || out.quiet || out.json {
        return None;
    }
    let spinner = ProgressBar::new_spinner().with_message(text);
    spinner.enable_steady_tick(Duration::from_millis(120));
    Some(spinner)
}

fn bar(label: Option<&Label>) -> ProgressBar {
    match label {
        Some(label) => label.bars.add(ProgressBar::new(1).with_style(style(false))),
        None => ProgressBar::with_draw_target(Some(1), stderr()).with_style(style(false)),
    }
}

/// Where bars are drawn.
pub(crate) fn stderr() -> ProgressDrawTarget {
    ProgressDrawTarget::stderr_with_hz(8)
}

/// Width of the terminal.
fn columns() -> usize {
    let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { COLUMNS } else { columns }
}

/// What a narrow terminal has room for, it needs for figures.
fn bar_width(columns: usize) -> usize {
    if columns < 100 { 10 } else { 20 }
}

/// A job that waits needs the room for words.
fn style(is_waiting: bool) -> ProgressStyle {
    let template = match is_waiting {
        true => "{spinner} {wide_msg}".to_owned(),
        false => format!("{{spinner}} [{{bar:{}}}] {{wide_msg}}", bar_width(columns())),
    };
    ProgressStyle::with_template(&template).map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> "))
}

/// The seed's fields, flat.
fn progress_fields(view: &JobView) -> Value {
    let mut fields = json!({
        "role": view.role,
        "phase": view.phase.as_str(),
        "session_id": view.session_id.map(|id| id.to_string()),
        "reused_files": view.reused_files,
        "reused_bytes": view.reused_bytes,
        "payload_bytes": view.payload_bytes,
        "limit_bps": view.limit_bps,
        "wire_bytes": view.wire_bytes,
    });
    if let (Value::Object(all), Ok(Value::Object(progress))) = (&mut fields, serde_json::to_value(&view.progress)) {
        all.extend(progress);
    }
    fields
}

fn waiting_fields(view: &JobView, waiting: &WaitingView) -> Value {
    let mut fields = json!({ "role": view.role, "session_id": view.session_id.map(|id| id.to_string()) });
    if let (Value::Object(all), Ok(Value::Object(more))) = (&mut fields, serde_json::to_value(waiting)) {
        all.extend(more);
    }
    fields
}

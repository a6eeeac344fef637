//! How a job's progress is shown: a bar on a terminal, a line now and then elsewhere, objects with `--json`.

use std::fmt::Display;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use me_sync_node::api::WaitingView;
use me_sync_node::limit::Rate;
use me_sync_node::{JobView, Role};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;
use serde::Serialize;
use serde_json::{Value, json};

use super::compress::packed;
use super::human;
use super::out::Out;

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// Time between `progress` objects of one phase.
const EVENT_EVERY: Duration = Duration::from_millis(500);
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
        if self.out.json {
            self.tell(view);
        } else if let Some(bar) = &self.bar {
            if view.waiting.is_some() != self.is_waiting {
                bar.set_style(style(view.waiting.is_some()));
            }
            bar.set_length(view.progress.bytes_total.max(1));
            bar.set_position(view.progress.bytes_received);
            bar.set_message(self.which(match &view.waiting {
                Some(waiting) => waiting_line(view, waiting, self.met.is_some()),
                None => line(view),
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
        // while what is here is still being looked at, the figures are those of that
        let is_known = view.waiting.is_some() || view.phase > Phase::WaitingForPeer;
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
            self.event("superseded", json!({ "session_id": before.to_string(), "by": now.to_string() }));
            self.say(format_args!(
                "the tree has changed since session {} began: session {} takes its place, with what has arrived",
                before.short(),
                now.short()
            ));
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
            None => line(view),
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

/// A job that waits needs the room for words.
fn style(is_waiting: bool) -> ProgressStyle {
    let template = if is_waiting { "{spinner} {wide_msg}" } else { "{spinner} [{bar:20}] {wide_msg}" };
    ProgressStyle::with_template(template).map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> "))
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

/// One line: what, how far, how fast, how long still.
fn line(view: &JobView) -> String {
    let p = &view.progress;
    let waiting = view.role == Role::Exporter && view.peer.is_none();
    let mut text = match p.detail.as_str() {
        "" if waiting => "waiting for the other device".to_owned(),
        "" => "starting".to_owned(),
        detail => escaped(detail).to_string(),
    };
    if p.files_total > 0 {
        text += &format!(
            ": {}/{} files, {} of {}",
            human::number(p.files_ok),
            human::number(p.files_total),
            human::bytes(p.bytes_received),
            human::bytes(p.bytes_total)
        );
    }
    let is_moving = matches!(view.phase, Phase::BulkTransferring | Phase::RetryingFailed);
    if p.transfer_bps > 0 && is_moving {
        let left = p.bytes_total.saturating_sub(p.bytes_received) / p.transfer_bps;
        text += &format!(", {}/s, {} left", human::bytes(p.transfer_bps), human::seconds(left));
        if let Some(packed) = packed(view.payload_bytes, view.wire_bytes) {
            text += &format!(", {packed}");
        }
    }
    if let (Some(limit), true) = (limit(view), is_moving) {
        text += &format!(", limit {limit}");
    }
    if p.files_failed > 0 {
        text += &format!(", {} failed", human::number(p.files_failed));
    }
    if p.retry_round > 0 {
        text += &format!(", retry {}", p.retry_round);
    }
    text
}

fn limit(view: &JobView) -> Option<Rate> {
    view.limit_bps.and_then(|limit| Rate::new(limit).ok())
}

/// Whom a job waits for.
fn whom(view: &JobView) -> String {
    match &view.peer {
        Some(peer) if !peer.device_name.is_empty() => escaped(&peer.device_name).to_string(),
        _ => "the other device".to_owned(),
    }
}

/// The line that is redrawn while the connection is lost. What is most important comes first: a terminal cuts it.
fn waiting_line(view: &JobView, waiting: &WaitingView, met: bool) -> String {
    let since = human::seconds(waiting.for_secs);
    let whom = whom(view);
    let mut text = match (met, view.role) {
        (true, Role::Importer) => format!("connection lost {since} ago"),
        (true, Role::Exporter) => format!("connection lost {since} ago; waiting for {whom}"),
        (false, Role::Importer) => format!("looking for {whom} for {since}"),
        (false, Role::Exporter) => format!("waiting for {whom} to come back"),
    };
    if view.role == Role::Importer {
        match waiting.next_try_in_secs {
            0 => text += "; trying now",
            wait => text += &format!("; next try in {}", human::seconds(wait)),
        }
    }
    text += "; Ctrl-C keeps everything";
    if let Some(reason) = &waiting.reason {
        text += &format!(" (last: {})", escaped(reason));
    }
    text
}

/// The same for a log: without what changes every second.
fn waiting_state(view: &JobView, waiting: &WaitingView, met: bool) -> String {
    let whom = whom(view);
    let mut text = match (met, view.role) {
        (true, Role::Importer) => format!("connection lost; trying to reach {whom} again"),
        (true, Role::Exporter) => format!("connection lost; waiting for {whom} to come back"),
        (false, Role::Importer) => format!("looking for {whom}"),
        (false, Role::Exporter) => format!("waiting for {whom} to come back"),
    };
    if let Some(reason) = &waiting.reason {
        text += &format!(" (last: {})", escaped(reason));
    }
    text + "; stopping this keeps everything"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(for_secs: u64, next_try_in_secs: u64, reason: Option<&str>) -> WaitingView {
        WaitingView { for_secs, tries: 3, next_try_in_secs, reason: reason.map(str::to_owned) }
    }

    fn view_of(role: Role) -> JobView {
        JobView {
            role,
            session_id: None,
            phase: Phase::WaitingForPeer,
            peer: None,
            source_name: None,
            progress: me_sync_node::api::ProgressView::default(),
            waiting: None,
            limit_bps: None,
            reused_files: 0,
            reused_bytes: 0,
            payload_bytes: 0,
            wire_bytes: 0,
            review: None,
            failures: Vec::new(),
            failures_total: 0,
            outcome: None,
        }
    }

    #[test]
    fn who_waits_reads_since_when_and_what_comes_next_within_a_terminal() {
        let (importer, exporter) = (view_of(Role::Importer), view_of(Role::Exporter));
        let refused = waiting(12, 4, Some("Connection refused\u{1b}[2J"));
        assert_eq!(
            waiting_line(&importer, &refused, true),
            "connection lost 12 s ago; next try in 4 s; Ctrl-C keeps everything (last: Connection refused\\u{1b}[2J)"
        );
        assert_eq!(
            waiting_line(&importer, &waiting(125, 0, None), false),
            "looking for the other device for 2m 05s; trying now; Ctrl-C keeps everything"
        );
        assert_eq!(
            waiting_line(&exporter, &waiting(3, 0, None), true),
            "connection lost 3 s ago; waiting for the other device; Ctrl-C keeps everything"
        );
    }

    #[test]
    fn a_limit_is_said_while_bytes_move_and_only_then() {
        let mut view = view_of(Role::Importer);
        view.limit_bps = Some(1_500_000);
        view.phase = Phase::BulkTransferring;
        view.progress.detail = "transferring".to_owned();
        assert_eq!(line(&view), "transferring, limit 1.5MB/s");
        assert_eq!(progress_fields(&view)["limit_bps"], 1_500_000);
        view.phase = Phase::FinalVerifying;
        assert_eq!(line(&view), "transferring");
    }

    #[test]
    fn a_log_of_waiting_has_no_figure_that_changes_by_itself() {
        let importer = view_of(Role::Importer);
        let (now, later) = (waiting(1, 4, None), waiting(3, 2, None));
        assert_eq!(waiting_state(&importer, &now, true), waiting_state(&importer, &later, true));
    }
}

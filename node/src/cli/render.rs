//! How a job's progress is shown: a bar on a terminal, a line now and then elsewhere, objects with `--json`.

use std::fmt::Display;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use me_sync_node::{JobView, Role};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::progress::Phase;
use serde_json::{Value, json};

use super::human;
use super::out::Out;

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// Time between `progress` objects of one phase.
const EVENT_EVERY: Duration = Duration::from_millis(500);

/// Shows the views of one job.
#[derive(Debug)]
pub(crate) struct Render {
    out: Out,
    bar: Option<ProgressBar>,
    shown: Option<(Phase, String, Instant)>,
    told: Option<(Phase, Instant)>,
    peer_told: bool,
    moving_since: Option<Instant>,
}

impl Render {
    pub(crate) fn new(out: Out) -> Self {
        let bar = (out.terminal && !out.quiet && !out.json).then(bar);
        Self { out, bar, shown: None, told: None, peer_told: false, moving_since: None }
    }

    /// Shows what is new in `view`.
    pub(crate) fn update(&mut self, view: &JobView) {
        if self.moving_since.is_none() && view.phase >= Phase::ManifestReceiving && view.peer.is_some() {
            self.moving_since = Some(Instant::now());
        }
        if let (false, Some(peer)) = (self.peer_told, &view.peer) {
            self.peer_told = true;
            self.out.event("peer", peer);
            let how = peer.transport.as_deref().map(|t| format!(" over {}", escaped(t))).unwrap_or_default();
            self.say(format_args!("connected to {}{how}", human::device(&peer.device_name, &peer.peer_id)));
        }
        if self.out.json {
            self.tell(view);
        } else if let Some(bar) = &self.bar {
            bar.set_length(view.progress.bytes_total.max(1));
            bar.set_position(view.progress.bytes_received);
            bar.set_message(line(view));
            bar.tick();
        } else if !self.out.quiet {
            self.plain(view);
        }
    }

    /// A line above the bar.
    pub(crate) fn say(&self, text: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.say(text)),
            None => self.out.say(text),
        }
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
            self.bar = Some(bar());
        }
        // the time a person took to answer is not the transfer's
        self.moving_since = None;
    }

    /// Time since the other device was there.
    pub(crate) fn moving_for(&self) -> Duration {
        self.moving_since.map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn tell(&mut self, view: &JobView) {
        let due = self.told.is_none_or(|(phase, at)| phase != view.phase || at.elapsed() >= EVENT_EVERY);
        if due {
            self.told = Some((view.phase, Instant::now()));
            self.out.event("progress", progress_fields(view));
        }
    }

    fn plain(&mut self, view: &JobView) {
        let text = line(view);
        let due = self
            .shown
            .as_ref()
            .is_none_or(|(phase, last, at)| *phase != view.phase || (*last != text && at.elapsed() >= LINE_EVERY));
        if due {
            self.out.say(&text);
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

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(8));
    match ProgressStyle::with_template("{spinner} [{bar:20}] {wide_msg}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// The seed's fields, flat.
fn progress_fields(view: &JobView) -> Value {
    let mut fields = json!({
        "role": view.role,
        "phase": view.phase.as_str(),
        "session_id": view.session_id.map(|id| id.to_string()),
    });
    if let (Value::Object(all), Ok(Value::Object(progress))) = (&mut fields, serde_json::to_value(&view.progress)) {
        all.extend(progress);
    }
    fields
}

/// One line: what, how far, how fast, how long still.
fn line(view: &JobView) -> String {
    let p = &view.progress;
    let waiting = view.role == Role::Exporter && view.peer.is_none();
    let mut text = match p.detail.as_str() {
        "" if waiting => "waiting for the other device".to_owned(),
        "" => view.phase.to_string(),
        detail => escaped(detail).to_string(),
    };
    if p.files_total > 0 {
        text += &format!(
            ": {}/{} files, {} of {}",
            p.files_ok,
            p.files_total,
            human::bytes(p.bytes_received),
            human::bytes(p.bytes_total)
        );
    }
    if p.transfer_bps > 0 && matches!(view.phase, Phase::BulkTransferring | Phase::RetryingFailed) {
        let left = p.bytes_total.saturating_sub(p.bytes_received) / p.transfer_bps;
        text += &format!(", {}/s, {} left", human::bytes(p.transfer_bps), eta(left));
    }
    if p.files_failed > 0 {
        text += &format!(", {} failed", p.files_failed);
    }
    if p.retry_round > 0 {
        text += &format!(", retry {}", p.retry_round);
    }
    text
}

fn eta(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds} s") } else { human::duration(Duration::from_secs(seconds)) }
}

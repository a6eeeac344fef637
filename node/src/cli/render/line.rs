//! A job in one line: what, how far, how fast, how long still; or whom it waits for.

use me_sync_node::api::WaitingView;
use me_sync_node::limit::Rate;
use me_sync_node::{JobView, Role};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::progress::Phase;

use super::super::compress::packed;
use super::super::human;

/// A part of the line. Parts of a higher rank go first when there is no room for all.
struct Part {
    rank: u8,
    text: String,
}

/// The line, of as many of its parts as fit into so many columns.
pub(super) fn line(view: &JobView, columns: usize) -> String {
    let (what, mut parts) = (what(view), parts(view));
    let mut with_what = true;
    loop {
        let text = joined(what.as_str(), with_what, &parts);
        if text.chars().count() <= columns {
            return text;
        }
        let Some(rank) = parts.iter().map(|part| part.rank).max().filter(|rank| *rank > 0) else { return text };
        // a bar and a rate say as much
        if with_what && rank <= WHAT && parts.iter().any(|part| part.rank == RATE) {
            with_what = false;
            continue;
        }
        parts.retain(|part| part.rank != rank);
    }
}

fn joined(what: &str, with_what: bool, parts: &[Part]) -> String {
    let parts: Vec<_> = parts.iter().map(|part| part.text.as_str()).collect();
    match (with_what, parts.is_empty()) {
        (true, true) | (false, true) => what.to_owned(),
        (true, false) => format!("{what}: {}", parts.join(", ")),
        (false, false) => parts.join(", "),
    }
}

fn what(view: &JobView) -> String {
    let waiting = view.role == Role::Exporter && view.peer.is_none();
    match view.progress.detail.as_str() {
        "" if waiting => "waiting for the other device".to_owned(),
        "" => "starting".to_owned(),
        detail => escaped(detail).to_string(),
    }
}

/// What is moving is dropped before a part of this rank.
const WHAT: u8 = 5;
const RATE: u8 = 1;

fn parts(view: &JobView) -> Vec<Part> {
    let p = &view.progress;
    let mut parts = Vec::new();
    let mut add = |rank, text| parts.push(Part { rank, text });
    let bytes = p.bytes_hashed.unwrap_or(p.bytes_received);
    if p.files_total > 0 {
        let files = p.files_hashed.unwrap_or(p.files_ok);
        add(6, format!("{}/{} files", human::number(files), human::number(p.files_total)));
        add(0, format!("{} of {}", human::bytes(bytes), human::bytes(p.bytes_total)));
    }
    let is_moving = matches!(view.phase, Phase::BulkTransferring | Phase::RetryingFailed);
    if let Some(left) = p.seconds_left().filter(|_| is_moving || p.bytes_hashed.is_some()) {
        add(RATE, format!("{}/s", human::bytes(p.transfer_bps)));
        add(0, format!("{} left", human::seconds(left)));
    }
    if is_moving {
        let packed = packed(view.payload_bytes, view.wire_bytes).filter(|_| p.transfer_bps > 0);
        packed.into_iter().for_each(|packed| add(4, packed));
        limit(view).into_iter().for_each(|limit| add(3, format!("limit {limit}")));
    }
    if p.files_failed > 0 {
        add(0, format!("{} failed", human::number(p.files_failed)));
    }
    if p.retry_round > 0 {
        add(2, format!("retry {}", p.retry_round));
    }
    parts
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
pub(super) fn waiting_line(view: &JobView, waiting: &WaitingView, met: bool) -> String {
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
pub(super) fn waiting_state(view: &JobView, waiting: &WaitingView, met: bool) -> String {
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
            protocol: me_sync_node::Protocol::V4,
            session_id: None,
            phase: Phase::WaitingForPeer,
            peer: None,
            source_name: None,
            begun_ms: None,
            manifest_sha256: None,
            progress: me_sync_node::api::ProgressView::default(),
            spoken_code: None,
            codes_burnt: 0,
            waiting: None,
            limit_bps: None,
            reused_files: 0,
            reused_bytes: 0,
            payload_bytes: 0,
            wire_bytes: 0,
            changed: Vec::new(),
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
        assert_eq!(line(&view, 80), "transferring: limit 1.5MB/s");
        view.phase = Phase::FinalVerifying;
        assert_eq!(line(&view, 80), "transferring");
    }

    #[test]
    fn a_log_of_waiting_has_no_figure_that_changes_by_itself() {
        let importer = view_of(Role::Importer);
        let (now, later) = (waiting(1, 4, None), waiting(3, 2, None));
        assert_eq!(waiting_state(&importer, &now, true), waiting_state(&importer, &later, true));
    }

    #[test]
    fn what_matters_least_goes_first_where_the_line_is_narrow() {
        let mut view = view_of(Role::Importer);
        (view.phase, view.limit_bps) = (Phase::BulkTransferring, Some(20_000_000));
        (view.payload_bytes, view.wire_bytes) = (1000, 430);
        let p = &mut view.progress;
        (p.detail, p.files_ok, p.files_total) = ("transferring".to_owned(), 1204, 11_874);
        (p.bytes_received, p.bytes_total, p.transfer_bps) = (512 << 20, 3 << 29, 24 << 20);
        let whole = "transferring: 1,204/11,874 files, 512.0 MiB of 1.5 GiB, 24.0 MiB/s, 42 s left, packed to 43 %, \
                     limit 20MB/s";
        assert_eq!(line(&view, usize::MAX), whole);
        // beside the bar of a terminal of 80 columns
        assert_eq!(line(&view, 64), "512.0 MiB of 1.5 GiB, 24.0 MiB/s, 42 s left, limit 20MB/s");
        assert_eq!(line(&view, 30), "512.0 MiB of 1.5 GiB, 42 s left");
        for columns in 40..130 {
            let text = line(&view, columns);
            assert!(text.chars().count() <= columns && text.contains("42 s left"), "{columns}: {text}");
        }
    }
}

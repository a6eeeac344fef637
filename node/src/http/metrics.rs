//! What Prometheus reads: sums over all jobs of this run of the node, and how many there are in which phase.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::api::{JobView, Outcome, Role};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRole {
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPhase {
    role: &'static str,
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEnd {
    role: &'static str,
    code: &'static str,
}

type Sums = Family<ByRole, Counter<u64, AtomicU64>>;

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    payload: Sums,
    wire: Sums,
    files: Sums,
    retries: Sums,
    resets: Sums,
    ended: Family<ByEnd, Counter<u64, AtomicU64>>,
    phases: Family<ByPhase, Gauge>,
    event_clients: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("me_sync");
        let (payload, wire, files, retries, resets) =
            (Sums::default(), Sums::default(), Sums::default(), Sums::default(), Sums::default());
        let (ended, phases) = (Family::default(), Family::default());
        let event_clients = Gauge::default();
        registry.register("payload_bytes", "File content that went over the network", payload.clone());
        registry.register("wire_bytes", "As how many bytes it went, packed", wire.clone());
        registry.register("files", "Files that were verified or sent whole", files.clone());
        registry.register("retries", "Retry rounds that were begun", retries.clone());
        registry.register("stream_resets", "Times that a session lost its streams and waited to go on", resets.clone());
        registry.register("sessions_ended", "Jobs that ended, by code; completed ones have none", ended.clone());
        registry.register("sessions", "Jobs that are not over, by phase", phases.clone());
        registry.register("event_clients", "Clients that read events now", event_clients.clone());
        Self { registry, payload, wire, files, retries, resets, ended, phases, event_clients }
    }

    /// Adds what is new in a view.
    pub(super) fn count(&self, before: Option<&JobView>, now: &JobView) {
        let by = ByRole { role: role(now.role) };
        let same_session = before.filter(|before| before.session_id == now.session_id || before.session_id.is_none());
        let add = |to: &Sums, read: fn(&JobView) -> u64| {
            let more = read(now).saturating_sub(same_session.map_or(0, read));
            to.get_or_create(&by).inc_by(more);
        };
        add(&self.payload, |view| view.payload_bytes);
        add(&self.wire, |view| view.wire_bytes);
        add(&self.files, |view| view.progress.files_ok.saturating_sub(view.reused_files));
        add(&self.retries, |view| u64::from(view.progress.retry_round));
        let was_waiting = before.is_none_or(|before| before.waiting.is_some() || before.peer.is_none());
        if now.waiting.is_some() && !was_waiting {
            self.resets.get_or_create(&by).inc();
        }
        if let (Some(outcome), true) = (&now.outcome, before.is_none_or(|before| before.outcome.is_none())) {
            let code = match outcome {
                Outcome::Completed(_) => "",
                Outcome::Failed { code, .. } => code.as_str(),
            };
            self.ended.get_or_create(&ByEnd { role: role(now.role), code }).inc();
        }
    }

    /// Somebody reads events, until this is dropped.
    pub(super) fn event_client(&self) -> EventClient {
        self.event_clients.inc();
        EventClient(self.event_clients.clone())
    }

    /// The text that Prometheus reads.
    pub(super) fn text(&self, phases: &[(&'static str, &'static str)]) -> String {
        self.phases.clear();
        for (role, phase) in phases {
            self.phases.get_or_create(&ByPhase { role, phase }).inc();
        }
        let mut out = String::new();
        // a string takes everything
        text::encode(&mut out, &self.registry).ok();
        out
    }
}

/// Counts while it lives.
#[derive(Debug)]
pub(super) struct EventClient(Gauge);

impl Drop for EventClient {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Exporter => "exporter",
        Role::Importer => "importer",
    }
}

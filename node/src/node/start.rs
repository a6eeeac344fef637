//! What a node does with what an earlier one left, before it talks to anybody.

use std::time::SystemTime;

use me_sync_protocol::reason::Code;

use super::NodeError;
use crate::archive;
use crate::clock::LastSeen;
use crate::net::{self, NetHandle, TransportKind};
use crate::staging::{self, Recovered, SessionState, StateDir};
use crate::store::{ListenPort, SessionStatus, Store, StoreHandle};

/// Brings journals and records to rest: swaps that a crash interrupted, sessions whose time is over, records that
/// the journal knows more about. [`Node::spawn`](super::Node::spawn) does it; whoever only looks at the records calls
/// it under a [`StateLock`](crate::StateLock). Blocking.
///
/// # Errors
/// Journals or records cannot be read or written.
pub fn settle(state: &StateDir, store: &Store, now: SystemTime) -> Result<Vec<Recovered>, NodeError> {
    let recovered = staging::recover(state, now);
    archive::sweep(state);
    // the journal first: a tree that is in place is no session that ran out of time
    let journals = state.sessions()?;
    for mut record in store.imports()? {
        if record.state.is_over() {
            continue;
        }
        let journal = journals.iter().find(|journal| journal.session == record.session);
        if journal.is_some_and(|j| j.unproven && j.state == SessionState::Swapped) {
            // what stands in the way of taking it back is named by the recovery, and it is tried again
            continue;
        }
        let settled = match journal.map(|j| (j.state, j.code)) {
            Some((SessionState::Swapped | SessionState::Committed, _)) => (SessionStatus::Completed, None),
            Some((SessionState::RolledBack | SessionState::RollbackIntent, code)) => (SessionStatus::Ended, code),
            // complete, and its time is over or there was nothing to keep
            Some((SessionState::Cleaned, None)) => (SessionStatus::Completed, None),
            Some((SessionState::Failed | SessionState::Cleaned, code)) => (SessionStatus::Ended, code),
            // a tree that was there and is on no record any more
            None if record.manifest.is_some() => (SessionStatus::Ended, Some(Code::SessionUnknown)),
            Some((SessionState::Receiving | SessionState::Verified | SessionState::SwapIntent, _)) | None => continue,
        };
        (record.state, record.failed_code) = settled;
        // it is news today, whenever it happened
        record.last = LastSeen::now();
        store.put_import(&record)?;
    }
    let decided = journals.iter().filter(|journal| journal.state == SessionState::SwapIntent);
    let decided: Vec<_> = decided.map(|journal| journal.session).collect();
    let swept = store.sweep(&LastSeen::now(), &decided)?;
    for session in swept.expired_imports {
        if let Err(e) = staging::discard(state, session, Code::SessionExpired) {
            tracing::warn!(%session, error = %crate::errors::chain(&e), "what an expired session staged is not gone yet");
        }
    }
    Ok(recovered)
}

/// A remembered port as the network side wants it.
pub(super) fn listen_port(port: ListenPort) -> net::ListenPort {
    let transport = if port.quic { TransportKind::Quic } else { TransportKind::Tcp };
    net::ListenPort { ipv6: port.ipv6, transport, port: port.port }
}

/// Remembers where this node listens, in a task of its own: the listeners come up while the node is used already.
pub(super) fn remember_ports(net: NetHandle, store: StoreHandle, before: Vec<ListenPort>) {
    tokio::spawn(async move {
        let Ok(ports) = net.ports().await else { return };
        let now: Vec<_> = ports
            .iter()
            .map(|p| ListenPort { ipv6: p.ipv6, quic: p.transport == TransportKind::Quic, port: p.port })
            .collect();
        let same_kind = |a: &ListenPort, b: &ListenPort| (a.ipv6, a.quic) == (b.ipv6, b.quic);
        // what was not listened on this time keeps its port
        let others = before.iter().filter(|old| !now.iter().any(|new| same_kind(old, new))).copied();
        let mut all: Vec<_> = now.iter().copied().chain(others).collect();
        all.dedup_by(|a, b| same_kind(a, b));
        if all != before
            && let Err(e) = store.put_ports(all).await
        {
            tracing::warn!(error = %crate::errors::chain(&e), "the ports of this node are not remembered");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::testing::{Place, SMALL};
    use crate::store::ImportRecord;
    use crate::store::tests::import;

    // RELIABILITY F05, F67: its exporter is still to be told
    #[test]
    fn a_tree_that_is_in_place_is_on_record_as_such_however_long_ago_that_was() {
        let place = Place::new();
        place.migrate(1, SMALL);
        let store = Store::open(place.state.path()).unwrap();
        let eight_days = 8 * 24 * 3_600_000;
        let long_ago = LastSeen { wall_ms: LastSeen::now().wall_ms - eight_days, boot_id: [7; 16], boot_ms: 1 };
        let record = ImportRecord { created: long_ago, last: long_ago, ..import(1) };
        store.put_import(&record).unwrap();
        settle(&place.state, &store, SystemTime::now()).unwrap();
        let settled = store.import(record.session).unwrap().unwrap();
        assert_eq!((settled.state, settled.failed_code, settled.told), (SessionStatus::Completed, None, false));
    }
}

//! Results that the exporter has not heard: the process ended, or the link was lost, right after the swap.

use std::time::Duration;

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::limits::{MAX_CHUNK, MAX_LANES};
use me_sync_protocol::reason::Code;

use super::connect::{self, Route};
use super::expired;
use crate::net::{NetHandle, parse_addresses};
use crate::store::{ImportRecord, SessionStatus, StoreHandle};

/// Pause before the second try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often somebody who waits looks whether another task was first.
const LOOK: Duration = Duration::from_millis(200);
/// One try takes no longer.
const TRY: Duration = Duration::from_secs(20);

/// Tells the exporters of earlier sessions how those ended, in a task of its own, as long as the node runs.
pub(crate) fn tell_results(net: NetHandle, store: StoreHandle) {
    tokio::spawn(async move {
        let Ok(records) = store.imports().await else { return };
        for record in records {
            let failed = match (record.state, record.failed_code) {
                (SessionStatus::Completed, _) => None,
                // the exporter ended these itself
                (_, Some(Code::ManifestChanged | Code::SessionExpired | Code::SessionUnknown)) => continue,
                // it was ended while the exporter was not there
                (SessionStatus::Ended, Some(code)) => Some(code),
                _ => continue,
            };
            if !record.told && !expired(&record.created, &record.last) {
                keep_telling(net.clone(), store.clone(), record, failed);
            }
        }
    });
}

/// Tells the exporter how a session ended, in a task of its own, until it has heard or the node stops.
pub(super) fn keep_telling(net: NetHandle, store: StoreHandle, record: ImportRecord, failed: Option<Code>) {
    tokio::spawn(async move { tell(net, store, record, failed).await });
}

/// Tells the exporter how a session ended, as its record says, and notes that it knows. False if it could not be told in
/// this time.
pub(crate) async fn tell_within(net: NetHandle, store: StoreHandle, record: ImportRecord, within: Duration) -> bool {
    let (failed, session) = (record.failed_code, record.session);
    let told = async {
        tokio::select! {
            told = tell(net, store.clone(), record, failed) => told,
            // it may have heard from the task that the start of this node began, and be gone since
            () = is_told(&store, session) => true,
        }
    };
    tokio::time::timeout(within, told).await.unwrap_or(false)
}

/// Comes back when the record says that the exporter knows.
async fn is_told(store: &StoreHandle, session: SessionId) {
    while !store.import(session).await.is_ok_and(|now| now.is_some_and(|now| now.told)) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Tries until the exporter has heard; false if the node stops.
async fn tell(net: NetHandle, store: StoreHandle, mut record: ImportRecord, failed: Option<Code>) -> bool {
    let route = Route {
        peer: record.peer,
        addresses: parse_addresses(&record.addresses),
        transport: record.choices.transport,
        timeout: TRY,
        max_lanes: MAX_LANES,
        max_chunk: u32::try_from(MAX_CHUNK).unwrap_or(u32::MAX),
        zstd: false,
        holes: false,
    };
    let mut pause = FIRST_PAUSE;
    while !connect::deliver(&net, &route, record.session, failed).await {
        if net.is_stopped() {
            return false;
        }
        // another task may have been first, and the exporter is gone since
        if store.import(record.session).await.is_ok_and(|now| now.is_some_and(|now| now.told)) {
            return true;
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
    tracing::info!(session = %record.session.short(), "the other device knows the result now");
    record.told = true;
    if let Err(e) = store.put_import(record).await
        && e.code() != Code::NodeStopping
    {
        tracing::warn!(error = %crate::errors::chain(&e), "told a result, and cannot note it");
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::net::{ListenAddr, NetConfig};
    use crate::store::Store;
    use crate::store::tests::import;

    // RELIABILITY F05
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_for_an_exporter_that_another_task_has_told_is_not_kept_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreHandle::spawn(Store::open(dir.path()).unwrap()).unwrap();
        let listen = vec![ListenAddr { ip: Ipv4Addr::LOCALHOST.into(), port: None }];
        let config = NetConfig::new(libp2p::identity::Keypair::generate_ed25519(), "importer");
        let (net, _events) = crate::net::spawn(NetConfig { listen, mdns: false, ..config }).await.unwrap();
        // takes connections and says nothing: no attempt to reach it comes to an end in this time
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut record = import(1);
        record.addresses = vec![format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port())];
        record.choices.transport = crate::net::TransportPreference::Tcp;
        record.state = SessionStatus::Completed;
        store.put_import(record.clone()).await.unwrap();
        let waiting = tokio::spawn(tell_within(net, store.clone(), record.clone(), TRY / 2));
        store.put_import(ImportRecord { told: true, ..record }).await.unwrap();
        assert!(waiting.await.unwrap());
    }
}

//! What is on record of sessions, asked of a running node, and the way back.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use libp2p::Multiaddr;
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;

use super::NodeHandle;
use crate::book::{self, BookError, SessionView};
use crate::clock::LastSeen;
use crate::errors::chain;
use crate::staging::{self, RollbackError, RolledBack};
use crate::store::{FailureRecord, StoreError};

impl NodeHandle {
    /// Every session on record, unfinished ones first, then the newest.
    ///
    /// # Errors
    /// Journals or records cannot be read.
    pub async fn sessions(&self) -> Result<Vec<SessionView>, BookError> {
        let (imports, exports) = (self.store.imports().await?, self.store.exports().await?);
        let state = self.state.clone();
        let journals = tokio::task::spawn_blocking(move || state.sessions()).await;
        // a runtime that ends answers nobody any more
        let mut sessions = book::join(imports, exports, journals.unwrap_or_else(|_| Ok(Vec::new()))?);
        book::sort(&mut sessions);
        Ok(sessions)
    }

    /// The files of a session that are on record as failed.
    ///
    /// # Errors
    /// The session store cannot be read.
    pub async fn failures(&self, session: SessionId) -> Result<Vec<FailureRecord>, StoreError> {
        self.store.failures(session).await
    }

    /// Undoes the newest migration whose tree stands at `dir` now, or that one and no other; nothing is ever deleted here.
    /// Once begun it comes to its end, whether or not somebody waits for it.
    ///
    /// # Errors
    /// See [`RollbackError`]; none inside says that the node is stopping.
    pub async fn rollback(&self, dir: PathBuf, only: Option<SessionId>) -> Option<Result<RolledBack, RollbackError>> {
        let state = self.state.clone();
        let undo = move || match only {
            Some(session) => staging::rollback_session(&state, &dir, session),
            None => staging::rollback(&state, &dir),
        };
        tokio::task::spawn_blocking(undo).await.ok()
    }

    /// What a start does, for a node that runs for long: sessions whose time is over end, retained trees whose time is
    /// over go. Sessions that jobs work on are left alone.
    ///
    /// # Errors
    /// The session store cannot be read or written.
    pub async fn tidy(&self, at_work: Vec<SessionId>) -> Result<(), StoreError> {
        let swept = self.store.sweep(LastSeen::now(), at_work).await?;
        let state = self.state.clone();
        let settled = tokio::task::spawn_blocking(move || {
            for session in swept.expired_imports {
                if let Err(e) = staging::discard(&state, session, Code::SessionExpired) {
                    tracing::warn!(%session, error = %chain(&e), "what an expired session staged is not gone yet");
                }
            }
            // those at work hold a lock
            staging::recover(&state, SystemTime::now())
        });
        for one in settled.await.unwrap_or_default() {
            tracing::info!(session = %one.session, detail = one.detail, "an earlier migration was settled");
        }
        Ok(())
    }

    /// Where this node keeps its state.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// What other devices see.
    pub fn device_name(&self) -> &str {
        &self.config.device_name
    }

    /// Where other devices reach this node, best first; none while it stops.
    pub async fn addresses(&self) -> Vec<Multiaddr> {
        self.net.addresses().await.unwrap_or_default()
    }

    /// Devices are found by mDNS.
    pub fn has_mdns(&self) -> bool {
        self.config.mdns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Node, NodeConfig};
    use crate::store::tests::import;
    use crate::store::{ImportRecord, SessionStatus};

    #[tokio::test]
    async fn a_node_that_runs_for_long_ends_what_has_expired_but_not_what_it_works_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::new(dir.path());
        config.listen.clear();
        config.mdns = false;
        config.listen.push(crate::config::parse_listen("127.0.0.1").unwrap());
        let node = Node::spawn(config).await.unwrap();
        let eight_days = 8 * 24 * 3_600_000;
        let long_ago = LastSeen { wall_ms: LastSeen::now().wall_ms - eight_days, boot_id: [7; 16], boot_ms: 1 };
        let old = |n| ImportRecord { created: long_ago, last: long_ago, ..import(n) };
        let (left, at_work) = (old(1), old(2));
        for record in [&left, &at_work] {
            node.handle.store.put_import(record.clone()).await.unwrap();
        }
        node.handle().tidy(vec![at_work.session]).await.unwrap();
        let known = node.handle().sessions().await.unwrap();
        let state = |session| known.iter().find(|known| known.session_id == session).map(|known| known.resumable);
        assert_eq!((state(left.session), state(at_work.session)), (Some(false), Some(true)));
        let ended = node.handle.store.import(left.session).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.failed_code), (SessionStatus::Ended, Some(Code::SessionExpired)));
        node.shutdown().await;
    }
}

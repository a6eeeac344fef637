//! Sessions that outlive their process: which there are, how to go on with one, how to end one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::message::{Request, Response, SessionResult};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::{Ticket, TicketRefused};

use super::{ImportError, NodeHandle};
use crate::api::{Consent, JobHandle, Role};
use crate::book::SessionView;
use crate::clock::LastSeen;
use crate::coordinator::{self, ResumePlan};
use crate::limit::Rate;
use crate::net::parse_addresses;
use crate::post_apply::{self, PostApply, PostApplyRefused};
use crate::staging::{self, StageError, TargetOptions};
use crate::store::{ExportRecord, ImportRecord, SessionStatus, StoreError, TargetChoices};
use crate::transfer::Compression;

/// How long the other device has to hear that a session is ended.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a repeated import tries to tell the exporter that it is done.
const TELL: Duration = Duration::from_secs(10);

/// A session that can be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Which.
    pub session: SessionId,
    /// This side's role.
    pub role: Role,
    /// The tree that is read, or the target.
    pub path: PathBuf,
    /// The other device's name for itself: escape before printing.
    pub device_name: String,
    /// Its PeerId.
    pub peer_id: String,
    /// Files and bytes in all; zero while the manifest is not known.
    pub files: u64,
    /// See `files`.
    pub bytes: u64,
    /// Files that were through when this was last noted.
    pub files_ok: u64,
    /// Bytes in them.
    pub bytes_ok: u64,
    /// Why it failed, if it did; it can be tried again.
    pub failed: Option<Code>,
}

impl Unfinished {
    /// An import that can be gone on with.
    pub fn of_import(record: &ImportRecord) -> Option<Self> {
        (!record.state.is_over()).then(|| Self {
            session: record.session,
            role: Role::Importer,
            path: record.target.clone(),
            device_name: record.peer_name.clone(),
            peer_id: record.peer.to_string(),
            files: record.files,
            bytes: record.bytes,
            files_ok: record.files_ok,
            bytes_ok: record.bytes_ok,
            failed: record.failed_code,
        })
    }

    /// An export that can be gone on with: its ticket was redeemed.
    pub fn of_export(record: &ExportRecord) -> Option<Self> {
        let (grant, peer) = (record.grant.as_ref()?, record.peer?);
        (!record.state.is_over()).then(|| Self {
            session: grant.session,
            role: Role::Exporter,
            path: record.root.clone(),
            device_name: record.peer_name.clone(),
            peer_id: peer.to_string(),
            files: record.files,
            bytes: record.bytes,
            files_ok: record.files_ok,
            bytes_ok: record.bytes_ok,
            failed: record.failed_code,
        })
    }
}

/// What a list of sessions says of one.
impl From<SessionView> for Unfinished {
    fn from(known: SessionView) -> Self {
        Self {
            session: known.session_id,
            role: known.role,
            path: known.path,
            device_name: known.device_name,
            peer_id: known.peer_id,
            files: known.files,
            bytes: known.bytes,
            files_ok: known.files_ok.unwrap_or(0),
            bytes_ok: known.bytes_ok.unwrap_or(0),
            failed: known.code,
        }
    }
}

/// How to go on with an import.
#[derive(Debug, Clone, Default)]
pub struct ResumeOptions {
    /// Where the exporter may be, to be tried first.
    pub peer_addresses: Vec<Multiaddr>,
    /// Receive no faster than this. Default: no limit besides the node's.
    pub limit: Option<Rate>,
    /// As in [`super::ImportOptions`].
    pub compression: Option<Compression>,
    /// What runs once the tree is in place. Default: what was said when the session began.
    pub post_apply: post_apply::Choice,
}

/// What counts for a session from now on; the target's options are recorded.
#[derive(Debug)]
pub(super) struct Continue {
    pub(super) target_options: TargetOptions,
    pub(super) consent: Consent,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) unpacked: bool,
    pub(super) post_apply: Option<PostApply>,
}

/// A session cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// There is none of that id here.
    #[error("no session {session} is on record here", session = session.short())]
    Unknown {
        /// Which.
        session: SessionId,
    },
    /// It is over.
    #[error("session {session} is over", session = session.short())]
    Over {
        /// Which.
        session: SessionId,
        /// How it ended; none if the tree was applied.
        code: Option<Code>,
    },
    /// This device sends in that session: the same tree has to be offered again.
    #[error("session {session} sends {root} from this device", session = session.short(), root = root.display())]
    Sends {
        /// Which.
        session: SessionId,
        /// The tree.
        root: PathBuf,
    },
    /// Its record holds no valid ticket.
    #[error("the record of this session is damaged")]
    Damaged(#[from] TicketRefused),
    /// The session store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The command after the swap cannot run here.
    #[error("the command after the swap: {0}")]
    PostApply(#[from] PostApplyRefused),
    /// What it staged cannot be removed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The node does not take it.
    #[error("the node does not go on with this session now ({0})")]
    Refused(Code),
}

impl ResumeError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } | Self::Sends { .. } => Code::SessionUnknown,
            Self::Over { code, .. } => code.unwrap_or(Code::SessionUnknown),
            Self::Damaged(_) => Code::StateCorrupt,
            Self::Store(e) => e.code(),
            Self::Stage(e) => e.code(),
            Self::PostApply(_) => Code::HealthFailed,
            Self::Refused(code) => *code,
        }
    }
}

impl NodeHandle {
    /// Sessions that can be gone on with, the oldest first.
    ///
    /// # Errors
    /// The session store cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        let (imports, exports) = (self.store.imports().await?, self.store.exports().await?);
        let imports = imports.iter().filter_map(Unfinished::of_import);
        Ok(imports.chain(exports.iter().filter_map(Unfinished::of_export)).collect())
    }

    /// Goes on with an import of an earlier process: what is staged is checked, then only what is missing is sent.
    /// One that failed in every retry round is tried again.
    ///
    /// # Errors
    /// See [`ResumeError`].
    pub async fn resume(&self, session: SessionId) -> Result<JobHandle, ResumeError> {
        self.resume_with(session, ResumeOptions::default()).await
    }

    /// As [`Self::resume`], in this way.
    ///
    /// # Errors
    /// See [`ResumeError`].
    pub async fn resume_with(&self, session: SessionId, how: ResumeOptions) -> Result<JobHandle, ResumeError> {
        let Some(record) = self.store.import(session).await? else {
            return match self.store.export_of(session).await? {
                Some(record) => Err(ResumeError::Sends { session, root: record.root }),
                None => Err(ResumeError::Unknown { session }),
            };
        };
        if record.state.is_over() {
            return Err(ResumeError::Over { session, code: record.failed_code });
        }
        // whoever began it agreed to replace the target, unless the question was still open
        let consent = if record.manifest.is_none() { Consent::Ask } else { Consent::Given };
        let ticket = Ticket::parse(record.ticket_text.expose())?;
        let target_options = TargetOptions {
            allow_home: record.choices.allow_home,
            fail_if_changed: record.choices.fail_if_changed,
            keep_world_writable: record.choices.keep_world_writable,
            forbidden: vec![self.config.state_dir.clone()],
        };
        let unpacked = how.compression == Some(Compression::Never);
        let post_apply = how.post_apply.or(record.post_apply.as_ref());
        let how_on = Continue { target_options, consent, addresses: how.peer_addresses, unpacked, post_apply };
        let job = self.resume_record(record, ticket, how_on).await?;
        job.set_limit(how.limit);
        Ok(job)
    }

    /// Tells the exporter of a session that was applied, or taken back by the command after the swap, if nobody could yet.
    /// False if it was not reached within this time, or there is nothing to tell.
    ///
    /// # Errors
    /// The session store cannot be read.
    pub async fn tell(&self, session: SessionId, within: Duration) -> Result<bool, StoreError> {
        let record = self.store.import(session).await?;
        let was_applied = |record: &ImportRecord| {
            record.state == SessionStatus::Completed || record.failed_code == Some(Code::HealthFailed)
        };
        let Some(record) = record.filter(was_applied) else { return Ok(false) };
        if record.told {
            return Ok(true);
        }
        Ok(coordinator::tell_within(self.net.clone(), self.store.clone(), record, within).await)
    }

    /// Ends a session that no job works on: the other device is told if it can be reached at once, and what is
    /// staged goes. Ending one that is over does nothing.
    ///
    /// # Errors
    /// See [`ResumeError`].
    pub async fn end_session(&self, session: SessionId) -> Result<(), ResumeError> {
        if let Some(mut record) = self.store.import(session).await? {
            if record.state.is_over() {
                return Ok(());
            }
            record.told = self.say_farewell(&record).await;
            let state = self.state.clone();
            let discarded = tokio::task::spawn_blocking(move || staging::discard(&state, session, Code::Aborted)).await;
            match discarded.map_err(|_| ResumeError::Refused(Code::NodeStopping))? {
                // it had not come to a staging tree
                Err(e) if e.code() == Code::SessionUnknown && record.manifest.is_none() => {}
                discarded => discarded?,
            }
            (record.state, record.failed_code) = (SessionStatus::Ended, Some(Code::Aborted));
            record.last = LastSeen::now();
            return Ok(self.store.put_import(record).await?);
        }
        let Some(mut record) = self.store.export_of(session).await? else {
            return Err(ResumeError::Unknown { session });
        };
        if !record.state.is_over() {
            (record.state, record.failed_code) = (SessionStatus::Ended, Some(Code::Aborted));
            record.last = LastSeen::now();
            self.store.put_export(record).await?;
        }
        Ok(())
    }

    /// Tells the exporter at once that the session is ended. True when it knows; the next start tries again if not.
    async fn say_farewell(&self, record: &ImportRecord) -> bool {
        let result = SessionResult { session_id: record.session, failed: Some(Code::Aborted) };
        let addresses = parse_addresses(&record.addresses);
        let told = async {
            let connected = self.net.connect(record.peer, addresses, record.choices.transport, FAREWELL).await;
            if connected.is_err() {
                return false;
            }
            let answer = self.net.request(record.peer, Request::Result(result)).await;
            // a session it does not know any more needs no result
            matches!(answer, Ok(Response::Done | Response::Refused(Code::SessionUnknown)))
        };
        tokio::time::timeout(FAREWELL, told).await.unwrap_or(false)
    }

    /// The unfinished session that an import with this ticket goes on with: one that the ticket has begun, or one
    /// from the same device into the same target.
    pub(super) async fn begun_with(
        &self,
        ticket: &Ticket,
        peer: PeerId,
        target: &Path,
    ) -> Result<Option<ImportRecord>, ImportError> {
        let mut imports = self.store.imports().await?;
        imports.retain(|record| record.peer == peer);
        // the newest: a ticket opens another session when the source has changed
        if let Some(record) = imports.iter().rfind(|record| record.ticket == ticket.ticket_id) {
            match record.state {
                // the exporter may not have heard of the end, and would grant the same session again
                SessionStatus::Ended if record.failed_code == Some(Code::Aborted) => return Err(ImportError::Ended),
                SessionStatus::Ended if record.failed_code == Some(Code::HealthFailed) => {
                    let target = record.target.clone();
                    // whoever runs `send` there may wait for this one to come back
                    self.tell(record.session, TELL).await?;
                    return Err(ImportError::TakenBack { target });
                }
                SessionStatus::Ended => {}
                SessionStatus::Completed => {
                    let (session, target) = (record.session, record.target.clone());
                    // whoever repeats the import may be here because the exporter still waits for its end
                    let told = self.tell(session, TELL).await?;
                    let state = self.state.clone();
                    let stands = tokio::task::spawn_blocking(move || staging::stands(&state, session).unwrap_or(false));
                    let stands = stands.await.unwrap_or(false);
                    return Err(ImportError::Applied { target, told, stands });
                }
                SessionStatus::Open | SessionStatus::Finalizing | SessionStatus::Failed => {
                    if record.target != target {
                        return Err(ImportError::OtherTarget { target: record.target.clone() });
                    }
                }
            }
        }
        Ok(imports.into_iter().rfind(|record| !record.state.is_over() && record.target == target))
    }

    /// Goes on with what is on record.
    pub(super) async fn resume_record(
        &self,
        mut record: ImportRecord,
        ticket: Ticket,
        how: Continue,
    ) -> Result<JobHandle, ResumeError> {
        let Continue { target_options, consent, mut addresses, unpacked, post_apply } = how;
        if let Some(command) = &post_apply {
            command.look_beside(&record.target)?;
        }
        for address in parse_addresses(&record.addresses).into_iter().chain(coordinator::addresses(&ticket, Vec::new()))
        {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        record.choices = TargetChoices {
            allow_home: target_options.allow_home,
            fail_if_changed: target_options.fail_if_changed,
            keep_world_writable: target_options.keep_world_writable,
            transport: record.choices.transport,
        };
        record.post_apply.clone_from(&post_apply);
        let (peer, transport) = (record.peer, record.choices.transport);
        let plan = ResumePlan { ticket, peer, target_options, consent, addresses, transport, unpacked, post_apply };
        self.coordinator.resume(record, plan).await.map_err(ResumeError::Refused)
    }
}

//! A job that a command follows: of this process, or of the node that runs.

use me_sync_node::http::schema::{Accepted, DecideRequest, JobRequest, StatusResponse};
use me_sync_node::{JobHandle, JobView, Outcome};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;
use tokio::sync::watch;

use super::exit::CliError;
use super::out::Out;
use super::remote::Remote;

/// How long one question for news waits at the node.
const WAIT_SECS: u64 = 30;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Here(JobHandle),
    There(Box<There>),
}

/// A job of the node.
#[derive(Debug, Clone)]
pub(crate) struct There {
    remote: Remote,
    id: u64,
    /// Another command has begun it, and it is that one's to stop and to answer.
    of_another: bool,
    views: watch::Receiver<JobView>,
}

impl Job {
    /// A job of the node, whose views come in until it is over.
    pub(crate) async fn there(remote: Remote, id: u64) -> Result<Self, CliError> {
        let first: StatusResponse = remote.get(&format!("job/status?job_id={id}")).await?;
        let version = first.version;
        let (to, views) = watch::channel(first.into_view());
        tokio::spawn(follow(remote.clone(), id, version, to));
        Ok(Self::There(Box::new(There { remote, id, of_another: false, views })))
    }

    /// It is another command's: this one only looks on.
    pub(crate) fn of_another(self, out: Out) -> Self {
        out.say("another command has begun this already; this one follows it");
        match self {
            Self::There(there) => Self::There(Box::new(There { of_another: true, ..*there })),
            here @ Self::Here(_) => here,
        }
    }

    pub(crate) fn is_of_another(&self) -> bool {
        matches!(self, Self::There(there) if there.of_another)
    }

    /// It ends with this process.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    pub(crate) fn view(&self) -> JobView {
        match self {
            Self::Here(job) => job.view(),
            Self::There(job) => job.views.borrow().clone(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<JobView> {
        match self {
            Self::Here(job) => job.watch(),
            Self::There(job) => job.views.clone(),
        }
    }

    /// Waits for the end.
    pub(crate) async fn outcome(&self) -> Outcome {
        match self {
            Self::Here(job) => job.outcome().await,
            Self::There(job) => {
                let mut views = job.views.clone();
                let ended = views.wait_for(|view| view.outcome.is_some()).await.ok();
                ended.and_then(|view| view.outcome.clone()).unwrap_or_else(|| gone(self.view().session_id))
            }
        }
    }

    pub(crate) async fn accept(&self) {
        match self {
            Self::Here(job) => job.accept().await,
            Self::There(job) => job.decide(true).await,
        }
    }

    pub(crate) async fn decline(&self) {
        match self {
            Self::Here(job) => job.decline().await,
            Self::There(job) => job.decide(false).await,
        }
    }

    /// Stops it and keeps its session.
    pub(crate) async fn suspend(&self) {
        match self {
            Self::Here(job) => job.suspend().await,
            Self::There(job) => {
                let asked: Result<Accepted, _> = job.remote.post("job/suspend", JobRequest { job_id: job.id }).await;
                said(asked);
            }
        }
    }

    /// Ends it with its session.
    pub(crate) async fn abort(&self) {
        match self {
            Self::Here(job) => job.abort().await,
            // only the demo's jobs end with their process, and those are here
            Self::There(_) => self.suspend().await,
        }
    }
}

impl There {
    async fn decide(&self, accept: bool) {
        let ask = DecideRequest { job_id: self.id, accept };
        said(self.remote.post::<Accepted>("job/decide", ask).await);
    }
}

/// A job that is over needs no more answers, and that it is the next view says.
fn said(asked: Result<Accepted, CliError>) {
    if let Err(err) = asked {
        tracing::warn!(error = %err, "the node did not take it");
    }
}

async fn follow(remote: Remote, id: u64, mut version: u64, to: watch::Sender<JobView>) {
    loop {
        let route = format!("job/status?job_id={id}&after_version={version}&wait_secs={WAIT_SECS}");
        let status: StatusResponse = match remote.get(&route).await {
            Ok(status) => status,
            Err(err) => {
                tracing::warn!(error = %err, "the node is gone");
                to.send_modify(|view| view.outcome = Some(gone(view.session_id)));
                return;
            }
        };
        version = status.version;
        let is_over = status.outcome.is_some();
        // nobody follows it any more
        if to.send(status.into_view()).is_err() || is_over {
            return;
        }
    }
}

/// The node, or the command that this one had joined, has ended before it said how the job did.
fn gone(session: Option<SessionId>) -> Outcome {
    let hint = match session {
        Some(session) => format!("everything that arrived is kept: `me-sync resume {}` goes on", session.short()),
        None => "start it again and repeat the migration".to_owned(),
    };
    Outcome::Failed { code: Code::NodeStopping, message: "the process that it worked through stopped".to_owned(), hint }
}

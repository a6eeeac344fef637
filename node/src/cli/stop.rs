//! Ctrl-C, SIGTERM and SIGHUP: the first asks for a clean end, the second ends the process at once.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, Exit};

/// Knows whether somebody wants the process to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(CancellationToken);

impl Stop {
    /// Takes over the signals. Needs a runtime.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let token = CancellationToken::new();
        for kind in kinds {
            let signals = signal(kind).map_err(|err| {
                CliError::new(Exit::Node, format!("signals cannot be handled: {err}"), "check the limits of this shell")
            })?;
            tokio::spawn(wait(signals, token.clone()));
        }
        Ok(Self(token))
    }

    /// Ends when a stop was asked for.
    pub(crate) async fn asked(&self) {
        self.0.cancelled().await;
    }

    /// The result of `work`, unless a stop is asked for first; `work` is dropped then.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, CliError> {
        tokio::select! {
            biased;
            () = self.asked() => Err(CliError::interrupted("stopped before anything was changed")),
            done = work => Ok(done),
        }
    }
}

async fn wait(mut signals: Signal, token: CancellationToken) {
    while signals.recv().await.is_some() {
        if token.is_cancelled() {
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
        token.cancel();
    }
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| CliError::new(Exit::Node, "a step of the work ended without a result", "try again"))
}

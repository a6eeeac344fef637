//! The one error type of commands, and how they end (DESIGN §8).

use me_sync_node::book::BookError;
use me_sync_node::config::ConfigError;
use me_sync_node::errors::chain;
use me_sync_node::refusal::Refusal;
use me_sync_node::source::SourceError;
use me_sync_node::staging::{RollbackError, StateError};
use me_sync_node::store::StoreError;
use me_sync_node::{ArchiveError, CodeError, ImportError, NodeError, OfferError, ResumeError};
use me_sync_protocol::code::CodeRefused;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::TicketRefused;

pub(crate) use me_sync_node::refusal::Exit;

/// Why a command did not do what it was asked for: what happened, and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    /// The stable code, where the library gave one; `usage` or `interrupted` otherwise.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) hint: String,
    /// More fields for the `result` of `--json`.
    pub(crate) extra: serde_json::Value,
}

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let code = match exit {
            Exit::Usage => "usage",
            Exit::Interrupted => "interrupted",
            _ => "failed",
        };
        let (message, hint) = (message.into(), hint.into());
        Self { exit, code: code.to_owned(), message, hint, extra: serde_json::Value::Null }
    }

    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    pub(crate) fn interrupted(what: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, what, "start it again when you want")
    }

    pub(crate) fn coded(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), ..Self::new(code.into(), message, hint) }
    }

    /// The same with another way out.
    pub(crate) fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl From<ConfigError> for CliError {
    fn from(err: ConfigError) -> Self {
        Self::usage(chain(&err).to_string(), err.hint())
    }
}

impl From<Refusal> for CliError {
    fn from(Refusal { exit, code, message, hint }: Refusal) -> Self {
        Self { exit, code: code.to_owned(), message, hint, extra: serde_json::Value::Null }
    }
}

macro_rules! refused {
    ($($error:ty),*) => { $(
        impl From<$error> for CliError {
            fn from(err: $error) -> Self {
                Refusal::from(err).into()
            }
        }
    )* };
}

refused!(
    ArchiveError,
    BookError,
    CodeError,
    ImportError,
    NodeError,
    OfferError,
    ResumeError,
    RollbackError,
    SourceError,
    StateError,
    StoreError
);
refused!(CodeRefused, TicketRefused);

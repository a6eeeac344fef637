//! A me-sync node: moves whole directory trees between devices, verified, and applied in one atomic step.
//!
//! [`Node::spawn`] starts one; its [`NodeHandle`] offers a source or imports with a ticket, and every such
//! job is watched through a [`JobHandle`]. See `ARCHITECTURE.md` for the rooms and who may use whom.

pub mod api;
mod archive;
pub mod book;
mod clock;
pub mod config;
mod coordinator;
pub mod errors;
mod holes;
#[cfg(feature = "test-hooks")]
pub mod hooks;
pub mod http;
pub mod identity;
pub mod limit;
mod link;
pub mod net;
mod node;
pub mod post_apply;
pub mod probe;
mod process;
mod random;
pub mod refusal;
pub mod source;
pub mod staging;
mod state_lock;
pub mod store;
mod transfer;

pub use api::{Completion, Consent, JobHandle, JobId, JobView, Outcome, Protocol, Review, Role};
pub use node::{
    ArchiveError, ArchiveOffer, ArchiveOptions, CodeError, CodeOptions, ImportError, ImportOptions, Node, NodeConfig,
    NodeError, NodeHandle, Offer, OfferError, OfferOptions, PipeSession, ResumeError, ResumeOptions, SentTo,
    Unfinished, default_device_name, default_state_dir, settle,
};
pub use state_lock::{StateLock, StateLockError};
pub use transfer::Compression;

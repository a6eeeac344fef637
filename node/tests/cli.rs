//! The binary as people and programs meet it: real processes, real sockets on 127.0.0.1, real signals.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

#[path = "cli/support.rs"]
mod support;

#[path = "cli/archive.rs"]
mod archive;
#[path = "cli/codes.rs"]
mod codes;
#[path = "cli/config.rs"]
mod config;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/joined.rs"]
mod joined;
#[path = "cli/kept.rs"]
mod kept;
#[path = "cli/limit.rs"]
mod limit;
#[path = "cli/migrate.rs"]
mod migrate;
#[path = "cli/post_apply.rs"]
mod post_apply;
#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/resume.rs"]
mod resume;
#[path = "cli/service.rs"]
mod service;
#[path = "cli/several.rs"]
mod several;
#[path = "cli/stopping.rs"]
mod stopping;
#[path = "cli/usage.rs"]
mod usage;

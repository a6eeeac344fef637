//! `me-sync node` as programs, web pages, other users and the command line meet it: real processes on 127.0.0.1.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

#[path = "api/client.rs"]
mod client;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "cli/support.rs"]
mod support;

#[path = "api/archive.rs"]
mod archive;
#[path = "api/callers.rs"]
mod callers;
#[path = "api/command_line.rs"]
mod command_line;
#[path = "api/dashboard.rs"]
mod dashboard;
#[path = "api/events.rs"]
mod events;
#[path = "api/limits.rs"]
mod limits;
#[path = "api/migrate.rs"]
mod migrate;
#[path = "api/paths.rs"]
mod paths;
#[path = "api/service.rs"]
mod service;
#[path = "api/users.rs"]
mod users;

//! The page of the node in a real browser: two nodes as processes, one headless Chromium with a tab for each.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

#[path = "web/browser.rs"]
mod browser;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "api/client.rs"]
mod client;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "cli/support.rs"]
mod support;

#[path = "web/looks.rs"]
mod looks;
#[path = "web/migrate.rs"]
mod migrate;
#[path = "web/session.rs"]
mod session;
#[path = "web/tab.rs"]
mod tab;

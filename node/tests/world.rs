//! Two devices in a hostile world, as real processes: targets that cannot be swapped, disks that fill up, sources that
//! change, networks that come and go, and people who stop one side.
//!
//! Needs root for mounts and network namespaces; everything it makes is taken down again, also when a test fails.
//! Without namespaces nodes listen on 127.0.0.1 with mDNS off.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
#![allow(clippy::print_stderr, reason = "a test that is left out says so")]

#[path = "world/device.rs"]
mod device;
#[path = "world/line.rs"]
mod line;
#[path = "world/net.rs"]
mod net;
#[path = "world/place.rs"]
mod place;
#[path = "../../tests/suite/support/relay.rs"]
mod relay;

#[path = "world/bulk_faults.rs"]
mod bulk_faults;
#[path = "world/codes.rs"]
mod codes;
#[path = "world/killed.rs"]
mod killed;
#[path = "world/late.rs"]
mod late;
#[path = "world/network.rs"]
mod network;
#[path = "world/outages.rs"]
mod outages;
#[path = "world/preflight.rs"]
mod preflight;
#[path = "world/reality.rs"]
mod reality;
#[path = "world/stopping.rs"]
mod stopping;

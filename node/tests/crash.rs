//! The promise of one moment, on real processes: killed at every system call, cut off from power, lied to by the disk.
//!
//! Two `me-sync` processes per run. `strace` is attached to the one thread of the importer that does the step under
//! test, so that the Nth call of a kind is the same in every run. What stands at the target afterwards is judged by
//! [`image`], which shares nothing with the product. Needs root, strace, python3, mkfs.ext4.

#[path = "crash/bulk.rs"]
mod bulk;
#[path = "crash/faults.rs"]
mod faults;
#[path = "crash/image.rs"]
mod image;
#[path = "crash/kills.rs"]
mod kills;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/power.rs"]
mod power;
#[path = "crash/site.rs"]
mod site;
#[path = "crash/strace.rs"]
mod strace;

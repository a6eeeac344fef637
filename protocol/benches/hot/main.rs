//! The pure parts that every byte, entry or frame of a migration passes through, measured alone.
//!
//!     cargo bench -p me-sync-protocol            all of them
//!     cargo bench -p me-sync-protocol manifest   those whose name contains `manifest`
//!
//! All inputs come from `input` and are the same in every run.

mod codec;
mod input;
mod ledger;
mod manifest;
mod path;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    path::run(&mut criterion);
    codec::run(&mut criterion);
    manifest::run(&mut criterion);
    ledger::run(&mut criterion);
    criterion.final_summary();
}

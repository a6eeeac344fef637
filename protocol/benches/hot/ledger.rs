//! The ledger of the largest tree: what is still missing, as ranges.

use criterion::{Criterion, Throughput};
use me_sync_protocol::file::VerifiedFile;
use me_sync_protocol::ledger::Ledger;
use me_sync_protocol::limits::MAX_ENTRIES;

use crate::input::{self, Noise};

pub(crate) fn run(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger");
    group.sample_size(20).throughput(Throughput::Elements(MAX_ENTRIES.into()));
    // made inside: a run that is filtered to other names does not pay for it
    group.bench_function("pending_ranges_1m_with_holes", |b| {
        let ledger = with_holes();
        b.iter(|| ledger.pending_ranges());
    });
    group.finish();
}

/// One file in seven is there, at random places: well over 100,000 ranges.
fn with_holes() -> Ledger {
    let manifest = input::manifest(&input::entries(MAX_ENTRIES));
    let mut noise = Noise::new();
    let there = manifest.indices().filter(|_| noise.next().is_multiple_of(7));
    let there: Vec<_> = there.filter_map(|index| VerifiedFile::recorded(&manifest, index)).collect();
    let ledger = Ledger::restored(&manifest, &there);
    assert!(ledger.pending_ranges().len() > 100_000, "so many holes make so many ranges");
    ledger
}

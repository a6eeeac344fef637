//! The canonical manifest: made by the exporter, read and checked by the importer.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::{Manifest, ManifestAssembler};

use crate::input;

/// As many as a manifest may have: `limits::MAX_ENTRIES`.
const MOST: u32 = me_sync_protocol::limits::MAX_ENTRIES;

pub(crate) fn run(criterion: &mut Criterion) {
    build(criterion);
    parse(criterion);
    seal(criterion);
}

/// Encodes every entry, checks order and parents, and hashes the whole.
fn build(criterion: &mut Criterion) {
    const COUNT: u32 = 100_000;
    let entries = input::entries(COUNT);
    let mut group = criterion.benchmark_group("manifest");
    group.sample_size(20).throughput(Throughput::Elements(COUNT.into()));
    group.bench_function("build_and_hash_100k", |b| b.iter(|| input::manifest(&entries)));
    group.finish();
}

/// Takes the frames' bodies as they arrive, checks every rule, and compares the SHA-256.
fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("manifest");
    group.sample_size(10).measurement_time(Duration::from_secs(20)).throughput(Throughput::Elements(MOST.into()));
    // made inside: a run that is filtered to other names does not pay for it
    group.bench_function("parse_and_validate_1m", |b| {
        let manifest = input::manifest(&input::entries(MOST));
        b.iter(|| assemble(&manifest));
    });
    group.finish();
}

/// What both sides do once when hashes came late: every entry with its hash, and the whole hashed anew.
fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("manifest");
    group.sample_size(10).measurement_time(Duration::from_secs(20)).throughput(Throughput::Elements(MOST.into()));
    group.bench_function("seal_1m", |b| {
        let outline = input::outline(&input::entries(MOST));
        let hashes: Arc<[Digest]> = std::iter::repeat_n(Digest([7; Digest::LEN]), MOST as usize).collect();
        b.iter(|| outline.seal(hashes.clone()).expect("every hash is known"));
    });
    group.finish();
}

fn assemble(manifest: &Manifest) -> Manifest {
    let mut assembler = ManifestAssembler::begin(&manifest.header_bytes()).expect("a valid header");
    manifest.chunks().for_each(|chunk| assembler.chunk(&chunk).expect("valid entries"));
    assembler.end(manifest.sha256()).expect("what was declared")
}

//! Checking a path: once for every entry, on both sides.

use criterion::{Criterion, Throughput};
use me_sync_protocol::path::RelPath;

pub(crate) fn run(criterion: &mut Criterion) {
    let deep = vec!["a directory"; 40].join("/");
    let inputs = [
        ("short", "album 000001/IMG_0001.jpeg"),
        ("unicode", "Фотографии/2023 год/文書/naïve café 🗂.txt"),
        ("deep", deep.as_str()),
    ];
    let mut group = criterion.benchmark_group("path");
    for (name, raw) in inputs {
        group.throughput(Throughput::Bytes(raw.len() as u64));
        group.bench_function(format!("parse_{name}"), |b| {
            b.iter(|| RelPath::parse(std::hint::black_box(raw)).is_ok());
        });
    }
    group.finish();
}

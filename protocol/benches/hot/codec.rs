//! Frames of a lane to bytes and back.

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use me_sync_protocol::codec;
use me_sync_protocol::frame::{FileBegin, FileEnd, Frame};
use me_sync_protocol::ids::EntryIndex;
use me_sync_protocol::limits::{DEFAULT_CHUNK, FRAME_HEADER};

use crate::input::Noise;

/// Files whose `file_begin` and `file_end` are measured together.
const SMALL_FILES: u32 = 1_000;

pub(crate) fn run(criterion: &mut Criterion) {
    chunk(criterion);
    begin_end(criterion);
}

/// One `file_chunk` of the default size.
fn chunk(criterion: &mut Criterion) {
    let frame = Frame::FileChunk(Bytes::from(Noise::new().bytes(DEFAULT_CHUNK)));
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(DEFAULT_CHUNK as u64));
    let mut out = BytesMut::with_capacity(FRAME_HEADER + DEFAULT_CHUNK);
    group.bench_function("encode_file_chunk", |b| {
        b.iter(|| {
            out.clear();
            codec::encode(&frame, &mut out);
            out.len()
        });
    });
    let encoded = encoded(std::slice::from_ref(&frame));
    // takes the body out of the buffer without a copy: bytes a second would be no figure
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode_file_chunk", |b| {
        b.iter_batched(|| encoded.clone(), decode_all, BatchSize::LargeInput);
    });
    group.finish();
}

/// What surrounds every file, without its content: for trees of small files.
fn begin_end(criterion: &mut Criterion) {
    let mut noise = Noise::new();
    let frames: Vec<Frame> = (0..SMALL_FILES)
        .flat_map(|n| {
            let index = EntryIndex(n * 97);
            let begin = FileBegin { index, size: noise.next() % 8192, sha256: Some(noise.digest()), offset: 0 };
            [Frame::FileBegin(begin), Frame::FileEnd(FileEnd { index, failed: None, sha256: None })]
        })
        .collect();
    let encoded = encoded(&frames);
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(SMALL_FILES.into()));
    let mut out = BytesMut::with_capacity(encoded.len());
    group.bench_function("encode_file_begin_end_1k", |b| {
        b.iter(|| {
            out.clear();
            frames.iter().for_each(|frame| codec::encode(frame, &mut out));
            out.len()
        });
    });
    group.bench_function("decode_file_begin_end_1k", |b| {
        b.iter_batched(|| encoded.clone(), decode_all, BatchSize::LargeInput);
    });
    group.finish();
}

fn encoded(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| codec::encode(frame, &mut out));
    out
}

/// How many frames; also gives back the buffer, so that freeing it is not measured.
fn decode_all(mut buffer: BytesMut) -> (usize, BytesMut) {
    let mut frames = 0;
    while let Some(frame) = codec::decode(&mut buffer).expect("valid frames") {
        std::hint::black_box(frame);
        frames += 1;
    }
    assert!(buffer.is_empty(), "the frames are whole");
    (frames, buffer)
}

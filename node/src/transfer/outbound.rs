//! Batches of frames on their way to a stream, a lane's or its strand's.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::AsyncWriteExt;
use me_sync_protocol::ids::{Digest, EntryIndex};
use me_sync_protocol::reason::Code;
use tokio::sync::mpsc;

use super::buffer::SendBuffer;
use super::{LaneEvent, LaneMeter, Reports};
use crate::link::ByteStream;

/// Packed frames, and what is through once they are written.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) frames: SendBuffer,
    /// How many frames they are, if all of them are chunks.
    pub(super) chunks: Option<NonZeroU32>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) wire: u64,
    /// Of `bytes`, those in holes.
    pub(super) holes: u64,
    pub(super) failed: Vec<(EntryIndex, Code)>,
    pub(super) hashed: Vec<(EntryIndex, Digest)>,
}

/// Why nothing more is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The stream broke.
    Broken,
    /// Nobody wants to know any more.
    Unwanted,
}

/// Writes batches to one stream and tells the coordinator what is through.
#[derive(Debug)]
pub(super) struct BatchWriter {
    pub(super) meter: Arc<LaneMeter>,
    /// Where buffers go that are written.
    pub(super) used: mpsc::Sender<SendBuffer>,
    pub(super) reports: Reports,
}

impl BatchWriter {
    pub(super) fn beside(&self) -> Self {
        Self { meter: self.meter.clone(), used: self.used.clone(), reports: self.reports.clone() }
    }

    /// Writes a batch; flushes where no other is waiting.
    pub(super) async fn put(&self, stream: &mut ByteStream, packed: Packed, flush: bool) -> Result<(), Ended> {
        self.write(stream, packed.frames.as_slice(), flush).await?;
        let Packed { frames, chunks: _, files, bytes, wire, holes, failed, hashed } = packed;
        // a thread that has ended needs no memory
        self.used.try_send(frames).ok();
        self.meter.payload.fetch_add(bytes, Ordering::Relaxed);
        self.meter.holes.fetch_add(holes, Ordering::Relaxed);
        self.meter.wire.fetch_add(wire, Ordering::Relaxed);
        let told = self.reports.send(LaneEvent::Sent { files, bytes, failed, hashed }).await;
        if told { Ok(()) } else { Err(Ended::Unwanted) }
    }

    pub(super) async fn write(&self, stream: &mut ByteStream, mut frames: &[u8], flush: bool) -> Result<(), Ended> {
        // what a limit lets through and the stream has not taken yet
        let mut allowed = 0;
        while !frames.is_empty() {
            if allowed == 0 {
                allowed = frames.len().min(self.meter.throttle.piece());
                self.meter.throttle.pass(allowed).await;
            }
            let n = match stream.write(&frames[..allowed]).await {
                Ok(0) | Err(_) => return Err(Ended::Broken),
                Ok(n) => n,
            };
            self.meter.moved.fetch_add(n as u64, Ordering::Relaxed);
            allowed -= n;
            frames = &frames[n..];
        }
        if flush { stream.flush().await.map_err(|_| Ended::Broken) } else { Ok(()) }
    }
}

//! How fast bytes come from a peer, before there is a session with it (SPEC §5.12): the end that asks, and the end that
//! sends noise. Whether somebody who asks is served at all is decided by the coordinator.

use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::PeerId;
use me_sync_protocol::frame::{Ack, Frame, Probe};
use me_sync_protocol::limits::{ACK_TIMEOUT, MAX_PROBE, PROBE_TIME};
use me_sync_protocol::reason::Code;
use tokio::time::{Instant, timeout, timeout_at};

use crate::limit::Throttle;
use crate::link::{self, FrameWriter};
use crate::net::{NetHandle, OpenError};
use crate::random;

/// What is written or read at once.
const BLOCK: usize = 64 << 10;
/// So much longer than the other end sends the asker waits for what is on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// How far apart the marks are between which the rate is found.
const MARKS: Duration = Duration::from_millis(1);

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of noise in all.
    pub bytes: u64,
    /// From the first to the last of them.
    pub time: Duration,
    /// Bytes a second in the best half of that time.
    pub bytes_per_second: u64,
}

/// A peer was not measured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It does not speak the protocol.
    #[error("this device cannot be measured: its me-sync is older, or says `probe = false`")]
    Unsupported,
    /// It does not serve this one.
    #[error("this device is not to be measured at the moment ({0})")]
    Refused(Code),
    /// There is no stream to it.
    #[error("no stream was opened")]
    Open(#[source] OpenError),
    /// It did not do what a device does that is measured.
    #[error("the connection broke, or the other device did not answer in time")]
    Lost,
    /// So little came that it says nothing.
    #[error("only {bytes} bytes came")]
    TooLittle {
        /// How much.
        bytes: u64,
    },
}

/// Asks a connected peer for noise and measures how fast it comes, over the connection that carries least. Takes 3 s at
/// most once the peer has answered.
///
/// # Errors
/// See [`ProbeError`].
pub async fn measure(net: &NetHandle, peer: PeerId) -> Result<Measured, ProbeError> {
    let opened = net.open_probe(peer).await.map_err(|err| match err {
        OpenError::Unsupported { .. } => ProbeError::Unsupported,
        other => ProbeError::Open(other),
    })?;
    let mut stream = opened.stream;
    let asked = Frame::Probe(Probe { bytes: MAX_PROBE });
    // one that refuses may do so before it has read this
    FrameWriter::new(&mut stream).send(&asked).await.ok();
    match timeout(ACK_TIMEOUT, link::read_one(&mut stream)).await {
        Ok(Ok(Frame::Ack(Ack { refused: None }))) => count(&mut stream).await,
        Ok(Ok(Frame::Ack(Ack { refused: Some(code) }))) => Err(ProbeError::Refused(code)),
        Ok(_) | Err(_) => Err(ProbeError::Lost),
    }
}

/// So much had come at that time, counted from when the first of it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    at: Duration,
    bytes: u64,
}

/// Counts what comes until that is enough, the time is over or the stream ends, however it does.
async fn count(io: &mut (impl AsyncRead + Unpin)) -> Result<Measured, ProbeError> {
    let until = Instant::now() + PROBE_TIME + ON_ITS_WAY;
    let (mut block, mut began, mut marks) = (vec![0; BLOCK], None, Vec::<Mark>::new());
    let mut end = Mark { at: Duration::ZERO, bytes: 0 };
    while end.bytes < u64::from(MAX_PROBE) {
        let Ok(Ok(read @ 1..)) = timeout_at(until, io.read(&mut block)).await else { break };
        end = Mark { at: began.get_or_insert_with(Instant::now).elapsed(), bytes: end.bytes + read as u64 };
        if marks.last().is_none_or(|last| end.at >= last.at + MARKS) {
            marks.push(end);
        }
    }
    let bytes_per_second = rate(&marks, end).ok_or(ProbeError::TooLittle { bytes: end.bytes })?;
    Ok(Measured { bytes: end.bytes, time: end.at, bytes_per_second })
}

/// Bytes a second in the best half of the time: a connection finds out at first how much it may have under way, and a
/// machine that does something else for a moment says nothing about the network.
fn rate(marks: &[Mark], end: Mark) -> Option<u64> {
    let all: Vec<Mark> = marks.iter().copied().chain([end]).collect();
    let half = (end.at - all[0].at) / 2;
    let mut to = 0;
    let mut best = 0;
    for from in &all {
        while all.get(to).is_some_and(|mark| mark.at < from.at + half) {
            to += 1;
        }
        let Some(until) = all.get(to) else { break };
        let (bytes, time) = (until.bytes - from.bytes, until.at - from.at);
        if !time.is_zero() {
            best = best.max(u128::from(bytes) * 1_000_000_000 / time.as_nanos());
        }
    }
    (best > 0).then(|| u64::try_from(best).unwrap_or(u64::MAX))
}

/// What a stream of a probe begins with, or nothing that this end answers.
pub(crate) async fn asked(io: &mut (impl AsyncRead + Unpin)) -> Option<Probe> {
    match timeout(ACK_TIMEOUT, link::read_one(io)).await {
        Ok(Ok(Frame::Probe(probe))) => Some(probe),
        Ok(_) | Err(_) => None,
    }
}

/// Answers what was asked for with noise, which is bounded in size and in time: whoever reads nothing for [`PROBE_TIME`]
/// is let go of. The stream is left open, for [`close`].
// SPEC §5.12
pub(crate) async fn serve(io: &mut (impl AsyncWrite + Unpin), Probe { bytes }: Probe, throttle: &Throttle) {
    if !answer(io, None).await {
        return;
    }
    let noise = noise(io, bytes.min(MAX_PROBE), throttle);
    if let Ok(Err(err)) = timeout(PROBE_TIME, noise).await {
        tracing::debug!(error = %err, "a probe broke");
    }
}

/// Refuses one by name.
pub(crate) async fn refuse(io: &mut (impl AsyncWrite + Unpin), code: Code) {
    answer(io, Some(code)).await;
}

/// The end of a stream, for which an asker waits no longer either.
pub(crate) async fn close(mut io: impl AsyncWrite + Unpin) {
    timeout(ON_ITS_WAY, io.close()).await.ok();
}

async fn answer(io: &mut (impl AsyncWrite + Unpin), refused: Option<Code>) -> bool {
    let ack = Frame::Ack(Ack { refused });
    matches!(timeout(PROBE_TIME, FrameWriter::new(io).send(&ack)).await, Ok(Ok(())))
}

/// The same block over and over but for its number: what is on the line is encrypted, so more would only cost time.
async fn noise(io: &mut (impl AsyncWrite + Unpin), bytes: u32, throttle: &Throttle) -> std::io::Result<()> {
    let mut block = vec![0; BLOCK];
    random::fill(&mut block);
    let (mut left, mut number) = (bytes as usize, 0_u64);
    while left > 0 {
        let piece = throttle.piece().min(BLOCK).min(left);
        throttle.pass(piece).await;
        block[..8].copy_from_slice(&number.to_be_bytes());
        io.write_all(&block[..piece]).await?;
        (left, number) = (left - piece, number + 1);
    }
    io.flush().await
}

#[cfg(test)]
mod tests;

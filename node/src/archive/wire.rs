//! The stream of an archive as messages and pieces (SPEC §13.4). Reading is cancel-safe: what arrived stays in the buffer.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};

use me_sync_protocol::archive::Message;
use me_sync_protocol::archive::message::{self, Item};
use me_sync_protocol::reason::Code;
use tokio::time::timeout;

use crate::link::ByteStream;

/// How often a side says that it is there.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(5);
/// A side that hears nothing for this long takes the other for gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// What is read at once.
const READ: usize = 256 << 10;

/// Both ways of a stream.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) read: WireReader,
    pub(crate) write: WireWriter,
}

impl Wire {
    pub(crate) fn new(stream: ByteStream) -> Self {
        let (read, write) = stream.split();
        Self { read: WireReader { io: read, buffer: BytesMut::new() }, write: WireWriter { io: write } }
    }
}

/// What the peer says.
#[derive(Debug)]
pub(crate) struct WireReader {
    io: ReadHalf<ByteStream>,
    buffer: BytesMut,
}

impl WireReader {
    /// The next item. Cancel-safe.
    ///
    /// # Errors
    /// [`Code::PeerGone`] at the end of the stream, or what is wrong with what came.
    pub(crate) async fn next(&mut self) -> Result<Item, Code> {
        loop {
            if let Some(len) = message::needed(&self.buffer)?.filter(|len| *len <= self.buffer.len()) {
                let item = message::decode(&self.buffer[..len]);
                self.buffer.advance(len);
                return item;
            }
            let have = self.buffer.len();
            self.buffer.resize(have + READ, 0);
            let read = Reading { buffer: &mut self.buffer, have }.fill(&mut self.io).await;
            match read {
                Ok(0) | Err(_) => return Err(Code::PeerGone),
                Ok(_) => {}
            }
        }
    }

    /// As [`Self::next`], for a peer that must not be silent for too long.
    ///
    /// # Errors
    /// As [`Self::next`], and [`Code::Timeout`].
    pub(crate) async fn heard(&mut self) -> Result<Item, Code> {
        timeout(SILENCE, self.next()).await.unwrap_or(Err(Code::Timeout))
    }
}

/// Room at the end of a buffer that is given back, whatever becomes of the reading.
struct Reading<'a> {
    buffer: &'a mut BytesMut,
    have: usize,
}

impl Reading<'_> {
    async fn fill(mut self, io: &mut ReadHalf<ByteStream>) -> io::Result<usize> {
        let n = io.read(&mut self.buffer[self.have..]).await?;
        self.have += n;
        Ok(n)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.buffer.truncate(self.have);
    }
}

/// What is said to the peer.
#[derive(Debug)]
pub(crate) struct WireWriter {
    io: WriteHalf<ByteStream>,
}

impl WireWriter {
    /// Sends a message. Not cancel-safe.
    ///
    /// # Errors
    /// The peer is gone, or takes nothing for too long.
    pub(crate) async fn say(&mut self, message: Message) -> Result<(), Code> {
        self.write(&message::encode(&message)).await
    }

    /// Sends a piece of the package. Not cancel-safe.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(crate) async fn piece(&mut self, piece: &[u8]) -> Result<(), Code> {
        let mut raw = Vec::with_capacity(message::HEADER + piece.len());
        raw.extend(message::piece_header(piece.len()));
        raw.extend(piece);
        self.write(&raw).await
    }

    /// However slow the peer is, it must take something from time to time.
    async fn write(&mut self, mut raw: &[u8]) -> Result<(), Code> {
        let gone = |_: io::Error| Code::PeerGone;
        let late = |_: tokio::time::error::Elapsed| Code::Timeout;
        while !raw.is_empty() {
            match timeout(SILENCE, self.io.write(raw)).await.map_err(late)?.map_err(gone)? {
                0 => return Err(Code::PeerGone),
                taken => raw = raw.get(taken..).unwrap_or_default(),
            }
        }
        timeout(SILENCE, self.io.flush()).await.map_err(late)?.map_err(gone)
    }

    /// Says the last word and ends this way of the stream. The peer may be gone.
    pub(crate) async fn end(mut self, last: Message) {
        let said = async {
            self.say(last).await.ok();
            self.io.close().await.ok();
        };
        timeout(KEEPALIVE, said).await.ok();
    }
}

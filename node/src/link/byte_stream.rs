//! What carries a session's bytes: a stream of a libp2p connection, or what stands for one on a pipe.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use tokio::io::DuplexStream;
use tokio_util::compat::Compat;

/// Bytes both ways, in order.
#[derive(Debug)]
pub enum ByteStream {
    /// Of a connection.
    Network(libp2p::Stream),
    /// The near end of a stream that shares a pipe with others (SPEC §5.13).
    Pipe(Compat<DuplexStream>),
}

impl From<libp2p::Stream> for ByteStream {
    fn from(stream: libp2p::Stream) -> Self {
        Self::Network(stream)
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Pipe(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Pipe(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_flush(cx),
            Self::Pipe(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Network(stream) => Pin::new(stream).poll_close(cx),
            Self::Pipe(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}

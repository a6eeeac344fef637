//! Messages on a request-response stream: one CBOR item until the end of the stream, never more than
//! [`MAX_MESSAGE`] bytes in memory (SPEC §6).

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::StreamProtocol;
use libp2p::request_response;
use me_sync_protocol::limits::MAX_MESSAGE;
use me_sync_protocol::message::{MessageError, Request, Response, encode};

/// Reads and writes [`Request`]s and [`Response`]s.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Codec;

/// Reads to the end of the stream, one byte past the limit at most so that an overlong message shows.
async fn read_bounded<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    io.take(MAX_MESSAGE as u64 + 1).read_to_end(&mut raw).await?;
    Ok(raw)
}

fn invalid(error: MessageError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Request> {
        Request::decode(&read_bounded(io).await?).map_err(invalid)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Response> {
        Response::decode(&read_bounded(io).await?).map_err(invalid)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()> {
        io.write_all(&encode(&request)).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()> {
        io.write_all(&encode(&response)).await
    }
}

#[cfg(test)]
mod tests {
    use libp2p::request_response::Codec as _;

    use super::*;

    #[tokio::test]
    async fn a_message_without_end_is_read_one_byte_past_the_limit_and_refused_a69() {
        let protocol = StreamProtocol::new(super::super::REQUEST_PROTOCOL);
        let mut endless = futures::io::repeat(0x81);
        let error = Codec.read_request(&protocol, &mut endless).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = Codec.read_response(&protocol, &mut endless).await.unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}

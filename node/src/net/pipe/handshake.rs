//! Who is at the other end of a pipe (SPEC §5.13): both sides prove the secret and their PeerId, then say hello.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _};
use libp2p::identity::{Keypair, PublicKey};
use libp2p::{Multiaddr, PeerId, noise};
use me_sync_protocol::caps::negotiate;
use me_sync_protocol::frame::{Frame, PipeHello, PipeKey, PipeProof};
use me_sync_protocol::ids::{Digest, Nonce, Secret};
use me_sync_protocol::message::{self, Hello, Request, Response};
use me_sync_protocol::pipe::{Handshake, Side, key_of};
use me_sync_protocol::proof;
use me_sync_protocol::reason::Code;
use tokio_util::compat::{FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};

use super::{End, PipeError, PipeIo};
use crate::link::{self, FrameWriter, LinkError};
use crate::random;

/// How long the whole of it may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The code of a PeerId that holds its public key.
const IDENTITY: u64 = 0;

/// Who we are, and what we say about ourselves.
#[derive(Debug, Clone)]
pub(in crate::net) struct Identity {
    pub(in crate::net) keypair: Arc<Keypair>,
    pub(in crate::net) hello: Arc<Hello>,
}

impl Identity {
    fn peer_id(&self) -> Vec<u8> {
        self.keypair.public().to_peer_id().to_bytes()
    }

    fn prove(&self, handshake: &Handshake, side: Side, secret: &Secret) -> Result<PipeProof, PipeError> {
        // keys of this node can sign; there is no other reason to fail
        let signature = self.keypair.sign(&handshake.statement(side)).map_err(|_| PipeError::NotProven)?;
        Ok(PipeProof { mac: handshake.mac(side, secret), signature })
    }
}

/// Wraps a pipe into Noise, as libp2p does with a TCP connection: nobody on it reads or changes what passes. Gives the device at
/// the other end.
pub(in crate::net) async fn in_noise(
    io: Box<dyn PipeIo>,
    end: End,
    ours: &Identity,
) -> Result<(PeerId, Box<dyn PipeIo>), PipeError> {
    let config = noise::Config::new(&ours.keypair).map_err(|_| PipeError::NotProven)?;
    let io = io.compat();
    let protocol = "/noise";
    let upgrade = match end {
        End::Importer => config.upgrade_outbound(io, protocol),
        End::Exporter => config.upgrade_inbound(io, protocol),
    };
    let upgraded = tokio::time::timeout(PATIENCE, upgrade).await.map_err(|_| PipeError::Silent)?;
    let (peer, io) = upgraded.map_err(|e| match e {
        noise::Error::Io(e) => PipeError::Broken(e),
        _ => PipeError::NotProven,
    })?;
    Ok((peer, Box::new(io.compat())))
}

/// The importer's side: a pipe to exactly this exporter, for what the secret opens.
pub(in crate::net) async fn ask(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ours: &Identity,
    exporter: PeerId,
    key: PipeKey,
    secret: &Secret,
) -> Result<Hello, PipeError> {
    let step = async {
        let nonce = Nonce(random::bytes());
        let opening = PipeHello { peer_id: ours.peer_id(), nonce, key: Some(key), proof: None };
        send(io, Frame::PipeHello(opening.clone())).await?;
        let Frame::PipeHello(answer) = receive(io).await? else { return Err(unexpected()) };
        let proof = answer.proof.clone().ok_or_else(unexpected)?;
        if answer.peer_id != exporter.to_bytes() {
            return Err(PipeError::NotProven);
        }
        let handshake = Handshake::new(opening, answer).map_err(PipeError::Violation)?;
        check(&handshake, Side::Exporter, secret, exporter, &proof)?;
        send(io, Frame::PipeProof(ours.prove(&handshake, Side::Importer, secret)?)).await?;
        let hello = message::encode(&Request::Hello((*ours.hello).clone()));
        send(io, Frame::Request(hello.into())).await?;
        let Frame::Response(answer) = receive(io).await? else { return Err(unexpected()) };
        match Response::decode(&answer) {
            Ok(Response::Hello(hello)) if negotiate(&hello.versions, &hello.caps).is_ok() => Ok(hello),
            Ok(Response::Hello(_) | Response::Refused(Code::VersionMismatch)) => Err(PipeError::Version),
            Ok(Response::Refused(code)) => Err(PipeError::Violation(code)),
            _ => Err(unexpected()),
        }
    };
    tokio::time::timeout(PATIENCE, step).await.unwrap_or(Err(PipeError::Silent))
}

/// The exporter's side: whoever proves the secret of a ticket or a session. `secret_of` looks it up.
pub(in crate::net) async fn answer(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ours: &Identity,
    secret_of: impl AsyncFnOnce(PipeKey) -> Option<Secret>,
) -> Result<(PeerId, Hello), PipeError> {
    let step = async {
        let Frame::PipeHello(opening) = receive(io).await? else { return Err(unexpected()) };
        let key = key_of(&opening).map_err(PipeError::Violation)?;
        let importer = PeerId::from_bytes(&opening.peer_id).map_err(|_| unexpected())?;
        // one that does not exist cannot be told from one that is not known
        let secret = secret_of(key).await.unwrap_or_else(|| Secret::from_bytes(random::bytes()));
        let nonce = Nonce(random::bytes());
        let mut reply = PipeHello { peer_id: ours.peer_id(), nonce, key: None, proof: None };
        let handshake = Handshake::new(opening, reply.clone()).map_err(PipeError::Violation)?;
        reply.proof = Some(ours.prove(&handshake, Side::Exporter, &secret)?);
        send(io, Frame::PipeHello(reply)).await?;
        let Frame::PipeProof(proof) = receive(io).await? else { return Err(unexpected()) };
        check(&handshake, Side::Importer, &secret, importer, &proof)?;
        let Frame::Request(request) = receive(io).await? else { return Err(unexpected()) };
        let Ok(Request::Hello(hello)) = Request::decode(&request) else { return Err(unexpected()) };
        let agreed = negotiate(&hello.versions, &hello.caps);
        let reply = match agreed {
            Ok(_) => Response::Hello((*ours.hello).clone()),
            Err(code) => Response::Refused(code),
        };
        send(io, Frame::Response(message::encode(&reply).into())).await?;
        agreed.map_err(|_| PipeError::Version)?;
        Ok((importer, hello))
    };
    tokio::time::timeout(PATIENCE, step).await.unwrap_or(Err(PipeError::Silent))
}

fn check(handshake: &Handshake, side: Side, secret: &Secret, peer: PeerId, given: &PipeProof) -> Result<(), PipeError> {
    let mac: Digest = handshake.mac(side, secret);
    let is_theirs = key_in(peer).is_some_and(|key| key.verify(&handshake.statement(side), &given.signature));
    if proof::matches(&mac, &given.mac) && is_theirs { Ok(()) } else { Err(PipeError::NotProven) }
}

/// The public key that a PeerId of this protocol holds.
fn key_in(peer: PeerId) -> Option<PublicKey> {
    let hash = peer.as_ref();
    (hash.code() == IDENTITY).then(|| PublicKey::try_decode_protobuf(hash.digest()).ok()).flatten()
}

fn unexpected() -> PipeError {
    PipeError::Violation(Code::FrameUnexpected)
}

async fn send(io: &mut (impl AsyncWrite + Unpin), frame: Frame) -> Result<(), PipeError> {
    FrameWriter::new(&mut *io).send(&frame).await?;
    Ok(io.flush().await?)
}

async fn receive(io: &mut (impl AsyncRead + Unpin)) -> Result<Frame, PipeError> {
    link::read_one(io).await.map_err(|e| match e {
        LinkError::Io(e) => PipeError::Broken(e),
        LinkError::Truncated => PipeError::Broken(std::io::ErrorKind::UnexpectedEof.into()),
        LinkError::Frame(e) => PipeError::Violation(e.code()),
    })
}

/// Where a peer at the other end of a pipe is: nowhere.
pub(in crate::net) fn nowhere() -> Multiaddr {
    Multiaddr::empty()
}

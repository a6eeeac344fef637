//! Messages of the request-response protocol `/me-sync/4` (SPEC §6): who is there, and who may start what.
//!
//! A message is one CBOR item of at most 64 KiB. Maps have integer keys; keys a reader does not know
//! are skipped, so that later versions may add some.

use minicbor::{Decode, Encode};

use crate::caps::Capabilities;
use crate::escape::cut;
use crate::ids::{Digest, Nonce, Secret, SessionId, TicketId};
use crate::limits::{MAX_CHUNK, MAX_LANES, MAX_MESSAGE, MAX_TEXT, MAX_TICKET};
use crate::progress::{Counters, Phase};
use crate::reason::Code;

/// First request on every connection, and its answer (SPEC §6.1). Lanes and chunk size: SPEC §6.2.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Program and version, e.g. `me-sync/0.1.0`.
    #[n(0)]
    pub agent: String,
    /// What the owner calls the device. Not proof of anything.
    #[n(1)]
    pub device_name: String,
    /// Protocol majors this side speaks.
    #[n(2)]
    pub versions: Vec<u32>,
    /// Capabilities of this side.
    #[n(3)]
    pub caps: Capabilities,
    /// Most lanes per session this side wants, 0 to 4.
    #[n(4)]
    pub max_lanes: u8,
    /// Largest `file_chunk` body this side takes, in bytes.
    #[n(5)]
    pub max_chunk: u32,
}

/// Asks for a session with a ticket (SPEC §6.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Redeem {
    /// Which ticket.
    #[n(0)]
    pub ticket_id: TicketId,
    /// Chosen by the importer for this redemption.
    #[n(1)]
    pub nonce: Nonce,
    /// MAC over both peers, ticket and nonce: see [`crate::proof`].
    #[n(2)]
    pub proof: Digest,
    /// Lanes the importer allows, 0 to 4.
    #[n(3)]
    pub max_lanes: u8,
    /// Largest `file_chunk` the importer takes.
    #[n(4)]
    pub max_chunk: u32,
    /// The importer has nothing that hashes could spare it: it takes an outline (SPEC §5.10).
    #[n(5)]
    pub late_hashes: Option<bool>,
    /// The importer unpacks `file_packed`.
    #[cbor(n(6), skip_if = "is_absent")]
    pub zstd: bool,
    /// The importer takes `file_zeros`.
    #[cbor(n(7), skip_if = "is_absent")]
    pub holes: bool,
}

/// The session that a ticket opened (SPEC §6.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Granted {
    /// The new session.
    #[n(0)]
    pub session_id: SessionId,
    /// Proves later that the same importer resumes.
    #[n(1)]
    pub resume_secret: Secret,
    /// When the session ends for want of activity, in milliseconds since 1970 by the exporter's clock.
    #[n(2)]
    pub expires_at_ms: u64,
    /// Lanes of this session: the lesser of what both allow.
    #[n(3)]
    pub lanes: u8,
    /// Largest `file_chunk` of this session.
    #[n(4)]
    pub max_chunk: u32,
    /// What the exporter calls the tree: the last component of its path.
    #[n(5)]
    pub source_name: String,
    /// `file_packed` may come.
    #[cbor(n(6), skip_if = "is_absent")]
    pub zstd: bool,
    /// `file_zeros` may come.
    #[cbor(n(7), skip_if = "is_absent")]
    pub holes: bool,
}

/// Asks to go on with a session on a new connection (SPEC §6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Resume {
    /// Which session.
    #[n(0)]
    pub session_id: SessionId,
    /// Chosen by the importer for this request.
    #[n(1)]
    pub nonce: Nonce,
    /// MAC over both peers, session and nonce, with the resume secret: see [`crate::proof::resume`].
    #[n(2)]
    pub proof: Digest,
    /// Lanes the importer allows, 0 to 4.
    #[n(3)]
    pub max_lanes: u8,
    /// Largest `file_chunk` the importer takes.
    #[n(4)]
    pub max_chunk: u32,
    /// The manifest that the importer holds, whole and checked.
    #[n(5)]
    pub manifest_sha256: Option<Digest>,
    /// The importer unpacks `file_packed`.
    #[cbor(n(6), skip_if = "is_absent")]
    pub zstd: bool,
    /// The importer takes `file_zeros`.
    #[cbor(n(7), skip_if = "is_absent")]
    pub holes: bool,
}

/// The session goes on (SPEC §6.4): the importer opens a new control stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Resumed {
    /// When the session ends for want of activity, in milliseconds since 1970 by the exporter's clock.
    #[n(0)]
    pub expires_at_ms: u64,
    /// Lanes from now on: the lesser of what both allow.
    #[n(1)]
    pub lanes: u8,
    /// Largest `file_chunk` from now on.
    #[n(2)]
    pub max_chunk: u32,
    /// `file_packed` may come from now on.
    #[cbor(n(3), skip_if = "is_absent")]
    pub zstd: bool,
    /// `file_zeros` may come from now on.
    #[cbor(n(4), skip_if = "is_absent")]
    pub holes: bool,
}

/// An agreement that is not there and one that is refused are the same, and only one of the two is written.
fn is_absent(agreed: &bool) -> bool {
    !agreed
}

/// How a session ended at the importer, when its `finalize_result` may be lost (SPEC §6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionResult {
    /// Which session.
    #[n(0)]
    pub session_id: SessionId,
    /// Why the tree was not applied; none when it is in place and durable.
    #[n(1)]
    pub failed: Option<Code>,
}

/// Asks what became of a session (SPEC §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionQuery {
    /// Which session.
    #[n(0)]
    pub session_id: SessionId,
}

/// Ends a session from outside its streams (SPEC §6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AbortSession {
    /// Which session.
    #[n(0)]
    pub session_id: SessionId,
    /// Why.
    #[n(1)]
    pub code: Code,
}

/// Begins to prove a spoken code (SPEC §6.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CodeBegin {
    /// The number of the code.
    #[n(0)]
    pub number: u16,
    /// The importer's message of SPAKE2.
    #[n(1)]
    pub message: Digest,
}

/// Answers `code_begin` (SPEC §6.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CodeAnswer {
    /// The exporter's message of SPAKE2.
    #[n(0)]
    pub message: Digest,
}

/// Proves the code (SPEC §6.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CodeConfirm {
    /// The number of the code.
    #[n(0)]
    pub number: u16,
    /// MAC over both peers, the number and both messages: see [`crate::code::exchange`].
    #[n(1)]
    pub proof: Digest,
}

/// The ticket that a code stands for (SPEC §6.10).
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CodeGiven {
    /// MAC over the same and the ticket.
    #[n(0)]
    pub proof: Digest,
    /// The ticket's URI.
    #[n(1)]
    pub ticket: String,
}

impl std::fmt::Debug for CodeGiven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeGiven").finish_non_exhaustive()
    }
}

/// Where a session stands on the answering side (SPEC §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionState {
    /// Its phase.
    #[n(0)]
    pub phase: Phase,
    /// Its counters.
    #[n(1)]
    pub counters: Counters,
    /// Why it failed, when it did.
    #[n(2)]
    pub code: Option<Code>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Who are you?
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// A ticket is redeemed.
    #[n(1)]
    Redeem(#[n(0)] Redeem),
    /// A session goes on.
    #[n(2)]
    Resume(#[n(0)] Resume),
    /// How does the session stand, or how did it end?
    #[n(3)]
    Status(#[n(0)] SessionQuery),
    /// The session is over.
    #[n(4)]
    Abort(#[n(0)] AbortSession),
    /// The session ended like this.
    #[n(5)]
    Result(#[n(0)] SessionResult),
    /// Is this code known?
    #[n(6)]
    CodeBegin(#[n(0)] CodeBegin),
    /// It is known here.
    #[n(7)]
    CodeConfirm(#[n(0)] CodeConfirm),
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// Answers `hello`.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Answers `redeem`.
    #[n(1)]
    Granted(#[n(0)] Granted),
    /// Answers `resume`.
    #[n(2)]
    Resumed(#[n(0)] Resumed),
    /// Answers `status`.
    #[n(3)]
    Status(#[n(0)] SessionState),
    /// Answers `abort` and `result`.
    #[n(4)]
    Done,
    /// The request is refused. All that is wrong with a ticket or a code has one code, `ticket_invalid`.
    #[n(5)]
    Refused(#[n(0)] Code),
    /// Answers `code_begin`.
    #[n(6)]
    CodeAnswer(#[n(0)] CodeAnswer),
    /// Answers `code_confirm`.
    #[n(7)]
    CodeGiven(#[n(0)] CodeGiven),
}

/// A message that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than 64 KiB.
    #[error("the message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// Not one CBOR item of the expected shape.
    #[error("the message cannot be decoded")]
    Malformed,
}

/// Encodes a request or response.
pub fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    match minicbor::encode(message, &mut out) {
        Ok(()) => out,
        Err(e) => unreachable!("encoding to memory failed: {e}"),
    }
}

fn decode_whole<'b, T: Decode<'b, ()>>(raw: &'b [u8]) -> Result<T, MessageError> {
    if raw.len() > MAX_MESSAGE {
        return Err(MessageError::TooLong);
    }
    let mut d = minicbor::Decoder::new(raw);
    let message = d.decode().map_err(|_| MessageError::Malformed)?;
    if d.position() == raw.len() { Ok(message) } else { Err(MessageError::Malformed) }
}

impl Request {
    /// Decodes a request; texts over their limit are cut.
    ///
    /// # Errors
    /// The bytes are not one request.
    pub fn decode(raw: &[u8]) -> Result<Self, MessageError> {
        match decode_whole(raw)? {
            Self::Hello(hello) => hello.bounded().map(Self::Hello),
            Self::Redeem(mut redeem) => {
                redeem.max_lanes = redeem.max_lanes.min(MAX_LANES);
                redeem.max_chunk = chunk_limit(redeem.max_chunk)?;
                Ok(Self::Redeem(redeem))
            }
            Self::Resume(mut resume) => {
                resume.max_lanes = resume.max_lanes.min(MAX_LANES);
                resume.max_chunk = chunk_limit(resume.max_chunk)?;
                Ok(Self::Resume(resume))
            }
            other
            @ (Self::Status(_) | Self::Abort(_) | Self::Result(_) | Self::CodeBegin(_) | Self::CodeConfirm(_)) => {
                Ok(other)
            }
        }
    }
}

impl Response {
    /// Decodes a response; texts over their limit are cut.
    ///
    /// # Errors
    /// The bytes are not one response.
    pub fn decode(raw: &[u8]) -> Result<Self, MessageError> {
        match decode_whole(raw)? {
            Self::Hello(hello) => hello.bounded().map(Self::Hello),
            Self::Granted(mut granted) => {
                granted.source_name = cut(&granted.source_name, MAX_TEXT).to_owned();
                granted.lanes = granted.lanes.min(MAX_LANES);
                granted.max_chunk = chunk_limit(granted.max_chunk)?;
                Ok(Self::Granted(granted))
            }
            Self::Resumed(mut resumed) => {
                resumed.lanes = resumed.lanes.min(MAX_LANES);
                resumed.max_chunk = chunk_limit(resumed.max_chunk)?;
                Ok(Self::Resumed(resumed))
            }
            Self::CodeGiven(given) if given.ticket.len() > MAX_TICKET => Err(MessageError::Malformed),
            other @ (Self::Status(_) | Self::Done | Self::Refused(_) | Self::CodeAnswer(_) | Self::CodeGiven(_)) => {
                Ok(other)
            }
        }
    }
}

impl Hello {
    fn bounded(mut self) -> Result<Self, MessageError> {
        if self.versions.len() > MAX_TEXT || !self.caps.is_bounded() {
            return Err(MessageError::Malformed);
        }
        self.agent = cut(&self.agent, MAX_TEXT).to_owned();
        self.device_name = cut(&self.device_name, MAX_TEXT).to_owned();
        self.max_lanes = self.max_lanes.min(MAX_LANES);
        self.max_chunk = chunk_limit(self.max_chunk)?;
        Ok(self)
    }
}

/// What a peer says of its largest chunk, as far as it can be: no frame is larger than 1 MiB, and with none at
/// all no byte would ever move (SPEC §6.2).
fn chunk_limit(max_chunk: u32) -> Result<u32, MessageError> {
    match max_chunk {
        0 => Err(MessageError::Malformed),
        some => Ok(some.min(MAX_CHUNK as u32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str) -> Hello {
        Hello {
            agent: "me-sync/0".into(),
            device_name: name.into(),
            versions: vec![4],
            caps: Capabilities::ours(),
            max_lanes: 9,
            max_chunk: 1,
        }
    }

    // SPEC §6.1
    #[test]
    fn long_names_are_cut_and_lanes_capped_on_arrival() {
        let raw = encode(&Request::Hello(hello(&"é".repeat(500))));
        let Ok(Request::Hello(got)) = Request::decode(&raw) else { panic!("not a hello") };
        assert_eq!((got.device_name.len(), got.max_lanes), (256, 4));
    }

    // SPEC §6.2
    #[test]
    fn no_message_agrees_on_impossible_lanes_or_chunks() {
        let redeem = |max_chunk| {
            let proof = Digest([1; 32]);
            let redeem = Redeem {
                ticket_id: TicketId([2; 16]),
                nonce: Nonce([3; 16]),
                proof,
                max_lanes: 200,
                max_chunk,
                late_hashes: None,
                zstd: false,
                holes: true,
            };
            Request::decode(&encode(&Request::Redeem(redeem)))
        };
        let Ok(Request::Redeem(got)) = redeem(u32::MAX) else { panic!("not a redeem") };
        assert_eq!((got.max_lanes, got.max_chunk), (4, 1 << 20));
        assert_eq!(redeem(0), Err(MessageError::Malformed));
        let raw = encode(&Request::Hello(Hello { max_chunk: 0, ..hello("a") }));
        assert_eq!(Request::decode(&raw), Err(MessageError::Malformed));
    }

    // SPEC §6.2, §6.4
    #[test]
    fn a_resume_agrees_on_lanes_and_chunks_anew_within_the_same_bounds() {
        let resume = |max_chunk| {
            let (proof, session_id) = (Digest([1; 32]), SessionId([2; 16]));
            let nonce = Nonce([3; 16]);
            let (max_lanes, manifest_sha256) = (200, None);
            let resume =
                Resume { session_id, nonce, proof, max_lanes, max_chunk, manifest_sha256, zstd: true, holes: true };
            Request::decode(&encode(&Request::Resume(resume)))
        };
        let Ok(Request::Resume(got)) = resume(u32::MAX) else { panic!("not a resume") };
        assert_eq!((got.max_lanes, got.max_chunk, got.manifest_sha256), (4, 1 << 20, None));
        assert_eq!(resume(0), Err(MessageError::Malformed));
        let resumed = |max_chunk| {
            let resumed = Resumed { expires_at_ms: 1, lanes: 200, max_chunk, zstd: false, holes: true };
            Response::decode(&encode(&Response::Resumed(resumed)))
        };
        assert_eq!(
            resumed(u32::MAX),
            Ok(Response::Resumed(Resumed { expires_at_ms: 1, lanes: 4, max_chunk: 1 << 20, zstd: false, holes: true }))
        );
        assert_eq!(resumed(0), Err(MessageError::Malformed));
    }

    // SPEC §6.1
    #[test]
    fn unknown_keys_are_skipped_and_trailing_bytes_refused() {
        let mut raw = vec![0x82, 0x03, 0x81, 0xa2, 0x00, 0x50];
        raw.extend([9; 16]);
        raw.extend([0x18, 0x63, 0x81, 0x81, 0x00]);
        assert_eq!(Request::decode(&raw), Ok(Request::Status(SessionQuery { session_id: SessionId([9; 16]) })));
        raw.push(0);
        assert_eq!(Request::decode(&raw), Err(MessageError::Malformed));
    }

    #[test]
    fn deep_nesting_and_junk_are_refused_without_recursion() {
        let mut raw = vec![0x82, 0x03, 0x81, 0xa2, 0x00, 0x50];
        raw.extend([9; 16]);
        raw.extend([0x18, 0x63]);
        raw.extend(std::iter::repeat_n(0x81, 50_000));
        assert_eq!(Request::decode(&raw), Err(MessageError::Malformed));
        assert_eq!(Response::decode(&[0xff; 100]), Err(MessageError::Malformed));
        assert_eq!(Request::decode(&vec![0; MAX_MESSAGE + 1]), Err(MessageError::TooLong));
    }
}

//! What is said on the stream of an archive (SPEC §13.3, §13.4): messages and pieces of the package, each with a header of
//! five bytes.
//!
//! A message is one CBOR item of at most 8 KiB, a piece 1 byte to 256 KiB of the package. Keys that a reader does not know
//! are skipped, as in §6.1.

use minicbor::{Decode, Encode};

use crate::escape::cut;
use crate::ids::{Digest, Nonce, SessionId};
use crate::limits::{DEFAULT_CHUNK, MAX_ENTRIES, MAX_SIZE, MAX_TEXT};
use crate::reason::Code;

/// Kind and length.
pub const HEADER: usize = 5;
/// Longest message.
pub const MAX_MESSAGE: usize = 8 << 10;
/// Longest piece of the package.
pub const MAX_PIECE: usize = DEFAULT_CHUNK;
/// Names of the top of the tree that an offer shows.
pub const TOP_NAMES: usize = 10;
/// Longest package: what a tree of the largest size takes, with its names.
pub const MAX_PACKAGE: u64 = MAX_SIZE;

const MESSAGE: u8 = 1;
const PIECE: u8 = 2;

/// The importer begins (SPEC §13.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Which transfer.
    #[n(0)]
    pub transfer_id: SessionId,
    /// Chosen by the importer for this try.
    #[n(1)]
    pub nonce: Nonce,
    /// See [`super::prove_hello`].
    #[n(2)]
    pub proof: Digest,
    /// What its owner calls the device. Not proof of anything.
    #[n(3)]
    pub device_name: String,
}

/// What will come (SPEC §13.3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Offer {
    /// Bytes of the package.
    #[n(0)]
    pub package_len: u64,
    /// SHA-256 of the package.
    #[n(1)]
    pub package_sha256: Digest,
    /// Entries that are files.
    #[n(2)]
    pub files: u64,
    /// Entries that are directories.
    #[n(3)]
    pub dirs: u64,
    /// Sum of the files' sizes.
    #[n(4)]
    pub bytes: u64,
    /// Mode of the root, which is no entry.
    #[n(5)]
    pub root_mode: Option<u32>,
    /// Modification time of the root, in seconds since 1970.
    #[n(6)]
    pub root_mtime_s: Option<i64>,
    /// What the exporter calls the tree.
    #[n(7)]
    pub source_name: String,
    /// The first names at the top of the tree, for people.
    #[n(8)]
    pub top_names: Vec<String>,
    /// See [`super::prove_offer`].
    #[n(9)]
    pub proof: Digest,
}

/// How far the making of the package is (SPEC §13.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Preparing {
    /// Bytes of content that were read.
    #[n(0)]
    pub done: u64,
    /// Bytes of content in all, so far as is known.
    #[n(1)]
    pub total: u64,
}

/// What an importer is at (SPEC §13.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Step {
    /// Somebody is asked, or the target is looked at.
    #[n(0)]
    Deciding,
    /// The package comes.
    #[n(1)]
    Receiving,
    /// It is whole, and is checked and unpacked.
    #[n(2)]
    Verifying,
    /// The trees change places.
    #[n(3)]
    Applying,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Importer: I hold the ticket.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Exporter: the package is being made.
    #[n(1)]
    Preparing(#[n(0)] Preparing),
    /// Exporter: this will come.
    #[n(2)]
    Offer(#[n(0)] Offer),
    /// Importer: send it.
    #[n(3)]
    Take,
    /// Importer: I am here, and at this.
    #[n(4)]
    At(#[n(0)] Step),
    /// Importer: the tree is in place and durable.
    #[n(5)]
    Applied,
    /// Exporter: I have heard that.
    #[n(6)]
    Heard,
    /// Either: it is over, and nothing was applied.
    #[n(7)]
    Over(#[n(0)] Code),
}

/// One thing on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message(Box<Message>),
    /// A piece of the package.
    Piece(Vec<u8>),
}

/// A message as it stands on the stream.
pub fn encode(message: &Message) -> Vec<u8> {
    let body = crate::message::encode(message);
    [&header(MESSAGE, body.len())[..], &body].concat()
}

/// The header of a piece of so many bytes.
pub fn piece_header(len: usize) -> [u8; HEADER] {
    header(PIECE, len)
}

fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [kind, a, b, c, d]
}

/// How many bytes of `buffer` the next item takes, header included; none while the header is not whole. Judged before
/// anything of the body is waited for.
///
/// # Errors
/// Another kind, an empty piece, or more than may come.
// SPEC §13.4
pub fn needed(buffer: &[u8]) -> Result<Option<usize>, Code> {
    let Some(&[kind, a, b, c, d]) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| Code::FrameTooLarge)?;
    let most = match kind {
        MESSAGE => MAX_MESSAGE,
        PIECE => MAX_PIECE,
        _ => return Err(Code::FrameUnknown),
    };
    match len {
        0 => Err(Code::FrameUnexpected),
        len if len > most => Err(Code::FrameTooLarge),
        len => Ok(Some(HEADER + len)),
    }
}

/// Takes an item whose bytes, header included, are all here.
///
/// # Errors
/// It is no message of this version, or passes a limit.
pub fn decode(raw: &[u8]) -> Result<Item, Code> {
    let (Some(kind), Some(body)) = (raw.first(), raw.get(HEADER..)) else { return Err(Code::FrameUnknown) };
    if *kind == PIECE {
        return Ok(Item::Piece(body.to_vec()));
    }
    let mut decoder = minicbor::Decoder::new(body);
    let message: Message = decoder.decode().map_err(|_| Code::FrameUnknown)?;
    if decoder.position() != body.len() {
        return Err(Code::FrameUnknown);
    }
    Ok(Item::Message(Box::new(match message {
        Message::Hello(hello) => {
            Message::Hello(Hello { device_name: cut(&hello.device_name, MAX_TEXT).to_owned(), ..hello })
        }
        Message::Offer(offer) => Message::Offer(offer.bounded()?),
        other @ (Message::Preparing(_)
        | Message::Take
        | Message::At(_)
        | Message::Applied
        | Message::Heard
        | Message::Over(_)) => other,
    })))
}

impl Offer {
    /// An offer within the limits of §8.1.
    fn bounded(mut self) -> Result<Self, Code> {
        let entries = self.files.saturating_add(self.dirs);
        if entries > u64::from(MAX_ENTRIES) || self.bytes > MAX_SIZE || self.package_len > MAX_PACKAGE {
            return Err(Code::ManifestLimit);
        }
        if self.top_names.len() > TOP_NAMES || self.source_name.len() > MAX_TEXT {
            return Err(Code::FrameUnknown);
        }
        for name in &mut self.top_names {
            *name = cut(name, MAX_TEXT).to_owned();
        }
        Ok(self)
    }

    /// What the exporter's proof is over: all of it but the proof.
    pub(super) fn proven(&self) -> Vec<u8> {
        crate::message::encode(&Self { proof: Digest([0; 32]), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(raw: &[u8]) -> Result<Option<Item>, Code> {
        match needed(raw)? {
            Some(len) if len <= raw.len() => decode(&raw[..len]).map(Some),
            _ => Ok(None),
        }
    }

    fn offer() -> Offer {
        Offer {
            package_len: 1,
            package_sha256: Digest([1; 32]),
            files: 1,
            dirs: 0,
            bytes: 1,
            root_mode: None,
            root_mtime_s: Some(-5),
            source_name: "tree".into(),
            top_names: vec!["a".into()],
            proof: Digest([2; 32]),
        }
    }

    // SPEC §13.4
    #[test]
    fn every_message_survives_the_stream_and_none_is_taken_before_it_is_whole() {
        let hello = Hello {
            transfer_id: SessionId([1; 16]),
            nonce: Nonce([2; 16]),
            proof: Digest([3; 32]),
            device_name: "d".into(),
        };
        let all = [
            Message::Hello(hello),
            Message::Preparing(Preparing { done: 1, total: u64::MAX }),
            Message::Offer(offer()),
            Message::Take,
            Message::At(Step::Applying),
            Message::Applied,
            Message::Heard,
            Message::Over(Code::NoSpace),
        ];
        for message in all {
            let raw = encode(&message);
            assert_eq!(taken(&raw), Ok(Some(Item::Message(Box::new(message)))));
            assert!((0..raw.len()).all(|len| taken(&raw[..len]) == Ok(None)));
        }
        let raw = [&piece_header(3)[..], b"abc"].concat();
        assert_eq!(taken(&raw), Ok(Some(Item::Piece(b"abc".to_vec()))));
    }

    // SPEC §13.4
    #[test]
    fn a_header_is_judged_before_its_body_is_waited_for() {
        assert_eq!(needed(&[3, 0, 0, 0, 1]), Err(Code::FrameUnknown));
        assert_eq!(needed(&[PIECE, 0, 0, 0, 0]), Err(Code::FrameUnexpected));
        assert_eq!(needed(&piece_header(MAX_PIECE)), Ok(Some(HEADER + MAX_PIECE)));
        assert_eq!(needed(&piece_header(MAX_PIECE + 1)), Err(Code::FrameTooLarge));
        assert_eq!(needed(&header(MESSAGE, MAX_MESSAGE + 1)), Err(Code::FrameTooLarge));
        assert_eq!(needed(&header(MESSAGE, usize::MAX)), Err(Code::FrameTooLarge));
    }

    // SPEC §13.3
    #[test]
    fn an_offer_beyond_a_limit_and_junk_are_refused() {
        let with = |change: &dyn Fn(&mut Offer)| {
            let mut offer = offer();
            change(&mut offer);
            taken(&encode(&Message::Offer(offer))).map(drop)
        };
        assert_eq!(with(&|_| {}), Ok(()));
        assert_eq!(with(&|offer| offer.files = 1_000_001), Err(Code::ManifestLimit));
        assert_eq!(with(&|offer| (offer.files, offer.dirs) = (u64::MAX, u64::MAX)), Err(Code::ManifestLimit));
        assert_eq!(with(&|offer| offer.bytes = 1 << 63), Err(Code::ManifestLimit));
        assert_eq!(with(&|offer| offer.package_len = 1 << 63), Err(Code::ManifestLimit));
        assert_eq!(with(&|offer| offer.top_names = vec!["a".into(); 11]), Err(Code::FrameUnknown));
        assert_eq!(with(&|offer| offer.source_name = "a".repeat(257)), Err(Code::FrameUnknown));
        let mut raw = encode(&Message::Take);
        raw.push(0);
        raw[4] += 1;
        assert_eq!(taken(&raw), Err(Code::FrameUnknown), "something behind it");
        assert_eq!(taken(&[&header(MESSAGE, 50)[..], &[0xff; 50]].concat()), Err(Code::FrameUnknown));
        assert_eq!(taken(&[&header(MESSAGE, 8000)[..], &[0x81; 8000]].concat()), Err(Code::FrameUnknown));
    }
}

//! Golden vectors (SPEC Appendix B): the wire is frozen here. Each file under `vectors/` is checked in both
//! directions; the refused ones give their code. A changed vector is a changed protocol.

use bytes::BytesMut;
use hmac::{Hmac, KeyInit, Mac};
use me_sync_protocol::caps::Capabilities;
use me_sync_protocol::code::Code as Spoken;
use me_sync_protocol::code::exchange::{Asker, Guard};
use me_sync_protocol::frame::*;
use me_sync_protocol::ids::{Digest, EntryIndex, Moment, Nonce, Secret, SessionId, TicketId};
use me_sync_protocol::manifest::{Entry, Manifest, ManifestAssembler, ManifestBuilder, Mtime, Node};
use me_sync_protocol::message::*;
use me_sync_protocol::packed::Packed;
use me_sync_protocol::path::RelPath;
use me_sync_protocol::pipe::{Handshake, Side};
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::{Code, FailureReason};
use me_sync_protocol::ticket::{Ticket, TicketRefused};
use me_sync_protocol::{EMPTY_SHA256, codec};
use sha2::{Digest as _, Sha256};

fn text_of(name: &str) -> String {
    let path = format!("{}/tests/vectors/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The bytes of a vector: hex digits, white space and `#` comments.
fn bytes_of(name: &str) -> Vec<u8> {
    let text = text_of(name);
    let digits: String = text.lines().flat_map(|l| l.split('#').next()).collect();
    let digits: Vec<u8> = digits.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(|pair| byte(pair).unwrap_or_else(|| panic!("{name}: not hex: {pair:?}"))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[track_caller]
fn assert_bytes(name: &str, encoded: &[u8]) {
    assert_eq!(hex(encoded), hex(&bytes_of(name)), "{name}: the encoder gives other bytes than the vector");
}

/// The tree of SPEC Appendix A.
fn sample() -> Manifest {
    let mut builder = ManifestBuilder::new(Some(0o700), Some(Mtime { ms: -2_208_988_800_000, sub_ns: 0 }));
    let sha256 = Digest(Sha256::digest(b"hello").into());
    let at = |ms, sub_ns| Some(Mtime { ms, sub_ns });
    for (path, node, mode, mtime) in [
        ("bin", Node::Dir, Some(0o750), at(-1, 999_999)),
        ("bin/run", Node::File { size: 5, sha256: Some(sha256) }, Some(0o755), at(1_700_000_000_123, 456_789)),
        ("empty", Node::File { size: 0, sha256: Some(EMPTY_SHA256) }, None, None),
        ("latest", Node::Symlink { target: "bin/run".into() }, None, at(-86_400_000, 0)),
    ] {
        let path = RelPath::parse(path).expect("a valid path");
        builder.push(&Entry { path, node, mode, mtime }).expect("a valid entry");
    }
    builder.finish().expect("a valid manifest")
}

/// The same tree before its files are hashed.
fn outline() -> Manifest {
    let sealed = sample();
    let mut builder = ManifestBuilder::outline(sealed.header().root_mode, sealed.header().root_mtime);
    for (_, mut entry) in sealed.entries() {
        if let Node::File { size: 1.., sha256 } = &mut entry.node {
            *sha256 = None;
        }
        builder.push(&entry).expect("a valid entry");
    }
    builder.finish().expect("a valid outline")
}

/// The same tree with a hole in its file.
fn with_hole() -> Manifest {
    let whole = sample();
    let mut builder = ManifestBuilder::new(whole.header().root_mode, whole.header().root_mtime);
    whole.entries().for_each(|(_, entry)| builder.push(&entry).expect("a valid entry"));
    builder.add_holes(2);
    builder.finish().expect("a valid manifest")
}

const SESSION: SessionId = SessionId(*b"session-id-16-by");
const TICKET: TicketId = TicketId(*b"ticket-id-16-byt");
const NONCE: Nonce = Nonce(*b"nonce-of-16-byte");
const OTHER_NONCE: Nonce = Nonce(*b"nonce-2-of-16-by");
const COUNTERS: Counters =
    Counters { files_ok: 1, files_failed: 0, files_total: 2, bytes_done: 5, bytes_total: 300, retry_round: 0 };

fn secret() -> Secret {
    Secret::from_bytes(*b"a secret of thirty-two bytes ...")
}

/// A PeerId as its multihash bytes: identity hash of an Ed25519 public key in protobuf.
fn peer(fill: u8) -> Vec<u8> {
    [&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20][..], &[fill; 32]].concat()
}

fn pipe_hello(fill: u8, nonce: Nonce, key: Option<PipeKey>, proof: Option<PipeProof>) -> PipeHello {
    PipeHello { peer_id: peer(fill), nonce, key, proof }
}

/// Both sides of a pipe that is opened with a ticket.
fn handshake() -> Handshake {
    let importer = pipe_hello(0x11, NONCE, Some(PipeKey::Ticket(TICKET)), None);
    Handshake::new(importer, pipe_hello(0xee, OTHER_NONCE, None, None)).expect("both hellos")
}

fn pipe_proof(side: Side) -> PipeProof {
    PipeProof { mac: handshake().mac(side, &secret()), signature: vec![0x5a; 64] }
}

/// 300 times the letter a.
fn packed() -> Packed {
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x2c, 0x00, 0x63, 0x09, 0x00, b'a'];
    Packed::new(300, zstd[..].to_vec().into()).expect("one frame of that length")
}

fn frames() -> Vec<(&'static str, Frame)> {
    let manifest = sample();
    let (index, manifest_sha256) = (EntryIndex(1), manifest.sha256());
    let failed = vec![FailedEntry { index, reason: FailureReason::HashMismatch }];
    let range = |start, len| IndexRange { start: EntryIndex(start), len };
    let request = FinalizeRequest { manifest_sha256, entry_count: 4, total_bytes: 5 };
    let begin = FileBegin { index, size: 5, sha256: Some(Digest(Sha256::digest(b"hello").into())), offset: 0 };
    vec![
        ("frame_hello", Frame::Hello(StreamHello { session_id: SESSION, role: Role::Control })),
        ("frame_hello_lane", Frame::Hello(StreamHello { session_id: SESSION, role: Role::Lane(2) })),
        ("frame_hello_strand", Frame::Hello(StreamHello { session_id: SESSION, role: Role::Strand(2) })),
        ("frame_ack", Frame::Ack(Ack { refused: None })),
        ("frame_ack_refused", Frame::Ack(Ack { refused: Some(Code::SessionUnknown) })),
        ("frame_pipe_hello", Frame::PipeHello(pipe_hello(0x11, NONCE, Some(PipeKey::Ticket(TICKET)), None))),
        ("frame_pipe_hello_session", Frame::PipeHello(pipe_hello(0x11, NONCE, Some(PipeKey::Session(SESSION)), None))),
        (
            "frame_pipe_hello_answer",
            Frame::PipeHello(pipe_hello(0xee, OTHER_NONCE, None, Some(pipe_proof(Side::Exporter)))),
        ),
        ("frame_pipe_proof", Frame::PipeProof(pipe_proof(Side::Importer))),
        ("frame_request", Frame::Request(encode(&Request::Status(SessionQuery { session_id: SESSION })).into())),
        ("frame_response", Frame::Response(encode(&Response::Done).into())),
        ("frame_manifest_begin", Frame::ManifestBegin(manifest.header_bytes())),
        ("frame_manifest_chunk", Frame::ManifestChunk(manifest.chunks().next().expect("entries"))),
        ("frame_manifest_end", Frame::ManifestEnd(ManifestEnd { manifest_sha256 })),
        ("frame_file_begin", Frame::FileBegin(begin)),
        ("frame_file_chunk", Frame::FileChunk(b"hello"[..].into())),
        ("frame_file_packed", Frame::FilePacked(packed())),
        ("frame_file_zeros", Frame::FileZeros(FileZeros { len: 256 << 10 })),
        ("frame_file_strand", Frame::FileStrand(FileStrand { chunks: 3 })),
        ("frame_file_end", Frame::FileEnd(FileEnd { index, failed: None, sha256: None })),
        ("frame_file_end_failed", Frame::FileEnd(FileEnd { index, failed: Some(Code::SourceChanged), sha256: None })),
        ("frame_file_begin_late", Frame::FileBegin(FileBegin { sha256: None, ..begin })),
        ("frame_file_end_late", Frame::FileEnd(FileEnd { index, failed: None, sha256: begin.sha256 })),
        ("frame_phase_end", Frame::PhaseEnd(PhaseEnd { files: 2, bytes: 5 })),
        ("frame_retry_request", Frame::RetryRequest(RetryRequest { round: 1, failed, more: false })),
        ("frame_retry_request_none", Frame::RetryRequest(RetryRequest { round: 1, failed: vec![], more: false })),
        ("frame_retry_begin", Frame::RetryBegin(RetryBegin { round: 1, files: 1 })),
        ("frame_retry_end", Frame::RetryEnd(RetryEnd { round: 1, files: 1, bytes: 5 })),
        ("frame_pending_request", Frame::PendingRequest(PendingRequest {})),
        (
            "frame_pending_list",
            Frame::PendingList(PendingList {
                ranges: vec![range(0, 3), range(70_000, 1)],
                partial: vec![],
                more: true,
            }),
        ),
        (
            "frame_pending_list_partial",
            Frame::PendingList(PendingList {
                ranges: vec![range(1, 1)],
                partial: vec![PartialFile { index, offset: 4096 }],
                more: false,
            }),
        ),
        ("frame_finalize_request", Frame::FinalizeRequest(request)),
        ("frame_finalize_result", Frame::FinalizeResult(FinalizeResult { failed: None })),
        ("frame_finalize_result_failed", Frame::FinalizeResult(FinalizeResult { failed: Some(Code::TargetChanged) })),
        (
            "frame_progress",
            Frame::Progress(Progress { phase: Phase::BulkTransferring, counters: COUNTERS, waiting: false }),
        ),
        ("frame_probe", Frame::Probe(Probe { bytes: 32 << 20 })),
        ("frame_abort", Frame::Abort(Abort { code: Code::Declined })),
    ]
}

fn hello() -> Hello {
    Hello {
        agent: "me-sync/0.1.0".into(),
        device_name: "laptop".into(),
        versions: vec![4],
        caps: Capabilities::ours(),
        max_lanes: 4,
        max_chunk: 262_144,
    }
}

fn requests() -> [(&'static str, Request); 13] {
    let ends = Ends { exporter: &peer(0xee), importer: &peer(0x11) };
    let proof = proof::redeem(&secret(), TICKET, ends, NONCE);
    let redeem = Redeem {
        ticket_id: TICKET,
        nonce: NONCE,
        proof,
        max_lanes: 4,
        max_chunk: 262_144,
        late_hashes: None,
        zstd: false,
        holes: false,
    };
    let (manifest_sha256, resume_proof) = (sample().sha256(), proof::resume(&secret(), SESSION, ends, NONCE));
    let resume = Resume {
        session_id: SESSION,
        nonce: NONCE,
        proof: resume_proof,
        max_lanes: 4,
        max_chunk: 262_144,
        manifest_sha256: Some(manifest_sha256),
        zstd: false,
        holes: false,
    };
    [
        ("request_resume", Request::Resume(resume)),
        ("request_resume_without_manifest", Request::Resume(Resume { manifest_sha256: None, ..resume })),
        ("request_resume_zstd", Request::Resume(Resume { zstd: true, ..resume })),
        ("request_resume_holes", Request::Resume(Resume { holes: true, ..resume })),
        ("request_redeem_zstd", Request::Redeem(Redeem { zstd: true, ..redeem.clone() })),
        ("request_redeem_holes", Request::Redeem(Redeem { holes: true, ..redeem.clone() })),
        ("request_result", Request::Result(SessionResult { session_id: SESSION, failed: None })),
        (
            "request_result_failed",
            Request::Result(SessionResult { session_id: SESSION, failed: Some(Code::TargetChanged) }),
        ),
        ("request_hello", Request::Hello(hello())),
        ("request_redeem_late", Request::Redeem(Redeem { late_hashes: Some(true), ..redeem.clone() })),
        ("request_redeem", Request::Redeem(redeem)),
        ("request_status", Request::Status(SessionQuery { session_id: SESSION })),
        ("request_abort", Request::Abort(AbortSession { session_id: SESSION, code: Code::Aborted })),
    ]
}

fn responses() -> [(&'static str, Response); 11] {
    let granted = Granted {
        session_id: SESSION,
        resume_secret: secret(),
        expires_at_ms: 1_700_000_600_000,
        lanes: 2,
        max_chunk: 262_144,
        source_name: "photos".into(),
        zstd: false,
        holes: false,
    };
    let (expires_at_ms, max_chunk) = (1_700_000_600_000, 262_144);
    let resumed = Resumed { expires_at_ms, lanes: 2, max_chunk, zstd: false, holes: false };
    let failed = SessionState { phase: Phase::Failed, counters: COUNTERS, code: Some(Code::RetryExhausted) };
    [
        ("response_hello", Response::Hello(hello())),
        ("response_granted_zstd", Response::Granted(Granted { zstd: true, ..granted.clone() })),
        ("response_granted_holes", Response::Granted(Granted { holes: true, ..granted.clone() })),
        ("response_granted", Response::Granted(granted)),
        ("response_status", Response::Status(SessionState { phase: Phase::Applying, code: None, ..failed })),
        ("response_status_failed", Response::Status(failed)),
        ("response_resumed", Response::Resumed(resumed)),
        ("response_resumed_zstd", Response::Resumed(Resumed { zstd: true, ..resumed })),
        ("response_resumed_holes", Response::Resumed(Resumed { holes: true, ..resumed })),
        ("response_done", Response::Done),
        ("response_refused", Response::Refused(Code::TicketInvalid)),
    ]
}

fn ticket() -> Ticket {
    let addresses = vec!["/ip4/192.0.2.7/tcp/7710".into(), "/ip4/192.0.2.7/udp/7710/quic-v1".into()];
    Ticket::new(peer(0xee), addresses, TICKET, secret(), 1_700_000_600_000, "laptop")
}

// SPEC §5.1, §5.2, §5.3, §5.5, §5.6, §5.7, §5.8, §5.9, §5.12
#[test]
fn every_frame_has_exactly_these_bytes_and_these_bytes_are_exactly_that_frame() {
    for (name, frame) in frames() {
        let mut out = BytesMut::new();
        codec::encode(&frame, &mut out);
        assert_bytes(name, &out);
        assert_eq!(codec::decode(&mut BytesMut::from(&bytes_of(name)[..])), Ok(Some(frame)), "{name}");
    }
}

#[test]
fn there_is_a_vector_for_every_frame_type() {
    let kinds: std::collections::BTreeSet<u8> = frames().iter().map(|(_, frame)| codec::kind_of(frame)).collect();
    assert_eq!(kinds.len(), 26);
}

// SPEC §4.1, §4.2, §4.4, §4.5, §4.6
#[test]
fn a_manifest_has_exactly_these_bytes_and_this_hash() {
    let empty = ManifestBuilder::new(None, None).finish().expect("an empty tree is a manifest");
    for (name, manifest) in [
        ("manifest_empty", empty),
        ("manifest_sample", sample()),
        ("manifest_outline", outline()),
        ("manifest_holes", with_hole()),
    ] {
        assert_bytes(name, &manifest.canonical_bytes());
        assert_bytes(&format!("{name}_sha256"), manifest.sha256().as_bytes());
        let raw = bytes_of(name);
        let (header, entries) = raw.split_at(manifest.header_bytes().len());
        let mut assembler = ManifestAssembler::begin(header).expect("the header of the vector");
        if !entries.is_empty() {
            assembler.chunk(entries).expect("the entries of the vector");
        }
        let got = assembler.end(Digest(Sha256::digest(&raw).into())).expect("the hash of the vector");
        assert_eq!(got.header(), manifest.header());
        assert!(got.entries().eq(manifest.entries()), "{name}");
    }
}

// SPEC §6.1, §6.3, §6.4, §6.5, §6.6, §6.8
#[test]
fn every_request_and_response_has_exactly_these_bytes() {
    for (name, request) in requests() {
        assert_bytes(name, &encode(&request));
        assert_eq!(Request::decode(&bytes_of(name)), Ok(request), "{name}");
    }
    for (name, response) in responses() {
        assert_bytes(name, &encode(&response));
        assert_eq!(Response::decode(&bytes_of(name)), Ok(response), "{name}");
    }
}

// SPEC §6.7
#[test]
fn a_ticket_has_exactly_these_bytes_and_this_uri() {
    assert_bytes("ticket", &encode(&ticket()));
    let text = text_of("ticket");
    let uri = text.lines().find_map(|l| l.strip_prefix("# uri: ")).expect("the vector names its URI");
    assert_eq!(ticket().to_uri(), uri);
    assert_eq!(Ticket::parse(uri), Ok(ticket()));
    assert_eq!(Ticket::parse(&uri.replace("v4", "v5")), Err(TicketRefused::OtherVersion));
}

// SPEC §6.3, §6.4, §2.4
#[test]
fn the_proofs_are_the_hmac_of_exactly_these_inputs() {
    let ends = Ends { exporter: &peer(0xee), importer: &peer(0x11) };
    let redeem = proof::redeem(&secret(), TICKET, ends, NONCE);
    let resume = proof::resume(&secret(), SESSION, ends, NONCE);
    for (name, proof) in [("redeem_proof", redeem), ("resume_proof", resume)] {
        assert_bytes(name, proof.as_bytes());
        let mut mac = Hmac::<Sha256>::new_from_slice(secret().expose()).expect("any key length");
        mac.update(&bytes_of(&format!("{name}_input")));
        assert_eq!(hex(&mac.finalize().into_bytes()), proof.to_string(), "{name}");
    }
}

// SPEC §5.13
#[test]
fn the_proofs_of_a_pipe_are_macs_over_exactly_these_bytes_which_are_signed_too() {
    for (name, side) in [("pipe_exporter_mac", Side::Exporter), ("pipe_importer_mac", Side::Importer)] {
        let input = format!("{name}_input");
        assert_bytes(&input, &handshake().statement(side));
        let proof = handshake().mac(side, &secret());
        assert_bytes(name, proof.as_bytes());
        let mut mac = Hmac::<Sha256>::new_from_slice(secret().expose()).expect("any key length");
        mac.update(&bytes_of(&input));
        assert_eq!(hex(&mac.finalize().into_bytes()), proof.to_string(), "{name}");
    }
}

// SPEC §6.9, §6.10; the vectors were made with another implementation of SPAKE2
#[test]
fn the_exchange_of_a_code_has_exactly_these_messages() {
    let ends = Ends { exporter: &peer(0xee), importer: &peer(0x11) };
    let code = Spoken::parse("7-velvet-harbor").expect("a code");
    let (asker, begin) = Asker::begin(&code, ends, [1; 64]);
    let mut guard = Guard::new(code);
    let answer = guard.begin(ends, &begin, [2; 64], Moment::default()).expect("begun");
    let (proven, confirm) = asker.answered(&answer).expect("an element");
    let given = guard.confirm(ends, &confirm, &ticket().to_uri(), Moment::default()).expect("proven");
    for (name, request) in
        [("request_code_begin", Request::CodeBegin(begin)), ("request_code_confirm", Request::CodeConfirm(confirm))]
    {
        assert_bytes(name, &encode(&request));
        assert_eq!(Request::decode(&bytes_of(name)), Ok(request), "{name}");
    }
    for (name, response) in [
        ("response_code_answer", Response::CodeAnswer(answer)),
        ("response_code_given", Response::CodeGiven(given.clone())),
    ] {
        assert_bytes(name, &encode(&response));
        assert_eq!(Response::decode(&bytes_of(name)), Ok(response), "{name}");
    }
    for (name, proof) in [("code_importer_proof", confirm.proof), ("code_exporter_proof", given.proof)] {
        assert_bytes(name, proof.as_bytes());
        let mut mac = Hmac::<Sha256>::new_from_slice(&bytes_of("code_key")).expect("any key length");
        mac.update(&bytes_of(&format!("{name}_input")));
        assert_eq!(hex(&mac.finalize().into_bytes()), proof.to_string(), "{name}");
    }
    assert_eq!(proven.given(&given), Ok(ticket()));
}

// SPEC §5.1, §7.2
#[test]
fn refused_frames_give_their_code() {
    for (name, code) in [
        ("refused_frame_too_large_control", Code::FrameTooLarge),
        ("refused_frame_too_large_chunk", Code::FrameTooLarge),
        ("refused_frame_unknown_type", Code::FrameUnknown),
        ("refused_frame_flags", Code::FrameUnknown),
        ("refused_frame_reserved", Code::FrameUnknown),
        ("refused_frame_long_integer", Code::FrameUnknown),
        ("refused_frame_unknown_key", Code::FrameUnknown),
        ("refused_frame_indefinite_map", Code::FrameUnknown),
        ("refused_frame_explicit_null", Code::FrameUnknown),
        ("refused_frame_trailing_byte", Code::FrameUnknown),
        ("refused_frame_unknown_code", Code::FrameUnknown),
        ("refused_frame_empty_chunk", Code::FrameUnexpected),
        ("refused_frame_empty_zeros", Code::FrameUnexpected),
        ("refused_frame_packed_length", Code::FrameUnknown),
        ("refused_frame_packed_two", Code::FrameUnknown),
        ("refused_frame_packed_window", Code::FrameUnknown),
        ("refused_frame_packed_dictionary", Code::FrameUnknown),
        ("refused_frame_packed_nothing", Code::FrameUnknown),
    ] {
        let got = codec::decode(&mut BytesMut::from(&bytes_of(name)[..]));
        assert_eq!(got.map_err(codec::FrameError::code), Err(code), "{name}");
    }
    for name in ["refused_frame_truncated_header", "refused_frame_truncated_body"] {
        let mut buffer = BytesMut::from(&bytes_of(name)[..]);
        assert_eq!(codec::decode(&mut buffer), Ok(None), "{name}: no frame, however long one waits");
        assert!(codec::needed(&buffer).expect("a good header") > buffer.len());
    }
}

// SPEC §3.3, §4.2, §4.3, §4.4, §4.5, §4.6, §8.1
#[test]
fn refused_manifests_give_their_code() {
    for (name, code) in [
        ("refused_manifest_version", Code::VersionMismatch),
        ("refused_manifest_count_limit", Code::ManifestLimit),
        ("refused_manifest_count", Code::ManifestMismatch),
        ("refused_manifest_total", Code::ManifestMismatch),
        ("refused_manifest_truncated", Code::ManifestInvalid),
        ("refused_manifest_key_order", Code::ManifestInvalid),
        ("refused_manifest_long_integer", Code::ManifestInvalid),
        ("refused_manifest_order", Code::ManifestInvalid),
        ("refused_manifest_no_parent", Code::ManifestInvalid),
        ("refused_manifest_half_mtime", Code::ManifestInvalid),
        ("refused_manifest_empty_file_hash", Code::ManifestInvalid),
        ("refused_manifest_symlink_mode", Code::ManifestInvalid),
        ("refused_manifest_no_hash", Code::ManifestInvalid),
        ("refused_manifest_outline_hash", Code::ManifestInvalid),
        ("refused_manifest_outline_false", Code::ManifestInvalid),
        ("refused_manifest_data_bytes", Code::ManifestInvalid),
        ("refused_manifest_duplicate", Code::PathCollision),
        ("refused_manifest_below_file", Code::PathCollision),
        ("refused_manifest_parent_dir", Code::PathInvalid),
        ("refused_manifest_not_utf8", Code::PathInvalid),
        ("refused_manifest_kind", Code::KindUnsupported),
    ] {
        // the first line with digits is the header, the rest are entries
        let text = text_of(name);
        let header = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).find(|l| !l.is_empty());
        let header_len = header.unwrap_or_default().replace(' ', "").len() / 2;
        let raw = bytes_of(name);
        let (header, entries) = raw.split_at(header_len);
        let got = ManifestAssembler::begin(header).and_then(|mut assembler| {
            assembler.chunk(entries)?;
            assembler.end(Digest(Sha256::digest(&raw).into()))
        });
        assert_eq!(got.map_err(|e| e.code()).err(), Some(code), "{name}");
    }
}

// SPEC §6.1, §6.7
#[test]
fn refused_messages_and_tickets_are_malformed() {
    for name in ["refused_request_unknown", "refused_request_truncated", "refused_request_trailing_byte"] {
        assert_eq!(Request::decode(&bytes_of(name)), Err(MessageError::Malformed), "{name}");
    }
    let uri = ticket().to_uri();
    assert_eq!(Ticket::parse(&uri[..uri.len() - 2]), Err(TicketRefused::Damaged));
}

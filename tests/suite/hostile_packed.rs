//! Packed chunks that are bombs, lies or nobody's wish (SPEC §5.1, §5.4): refused by name, in a few bytes of memory.

use bytes::BytesMut;
use me_sync_protocol::codec;
use me_sync_protocol::frame::Frame;
use me_sync_protocol::message::{Granted, Response, encode};
use me_sync_protocol::reason::Code;

use crate::support::peer::{Answers, Exporting, Peer, begin, chunk, end, granted, packed_run, phase_end};
use crate::support::raw::{Listing, file};
use crate::support::tree::assert_images;
use crate::support::world::{Bystander, World};
use crate::support::{TestNode, completed, failed, leftovers};

const CHUNK: u32 = 256 << 10;

/// A peer that grants packed chunks.
fn packing() -> Answers {
    let granted = Granted { zstd: true, ..granted() };
    Answers { redeem: encode(&Response::Granted(granted)), ..Answers::default() }
}

fn listing(content: &[u8]) -> Listing {
    Listing::of(&[file("run", content)], content.len() as u64)
}

/// Sends these bytes on a lane, after the importer agreed to one file of 1 MiB and its beginning came.
async fn on_a_lane(session: &mut Exporting, raw: &[u8]) {
    let content = vec![b'a'; 4 * CHUNK as usize];
    session.agreed(&listing(&content)).await;
    let mut lane = session.lane(0).await.expect("taken");
    lane.send(&begin(0, &content)).await;
    lane.raw(raw).await;
    let code = session.control.aborted().await.expect("told why");
    session.control.ended_with(code);
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    codec::encode(frame, &mut out);
    out.to_vec()
}

/// `file_packed` with this body.
fn raw_packed(unpacked: u32, zstd: &[u8]) -> Vec<u8> {
    let len = u32::try_from(zstd.len()).expect("short") + 4;
    [&[0x23, 0, 0, 0][..], &len.to_be_bytes(), &unpacked.to_be_bytes(), zstd].concat()
}

// SPEC §5.1, §5.4
#[tokio::test(flavor = "multi_thread")]
async fn bombs_lies_and_junk_end_the_session_by_name_and_nothing_else() {
    let (importer, world) = (TestNode::start().await, World::new());
    let mut honest = Bystander::start(&importer).await;
    let run = bytes_of(&packed_run(CHUNK, CHUNK))[12..].to_vec();
    let gigantic = [&run[..5], &u32::MAX.to_le_bytes(), &run[9..]].concat();
    let cases: Vec<(&str, Code, Vec<u8>)> = vec![
        (
            "a few bytes that unpack to more than they declare",
            Code::FrameUnknown,
            bytes_of(&packed_run(CHUNK, 40 << 20)),
        ),
        ("less than declared", Code::FrameUnknown, bytes_of(&packed_run(CHUNK, CHUNK - 1))),
        ("nothing", Code::FrameUnknown, bytes_of(&packed_run(CHUNK, 0))),
        ("more than was agreed on", Code::FrameTooLarge, bytes_of(&packed_run(CHUNK + 1, CHUNK + 1))),
        ("4 GiB", Code::FrameTooLarge, raw_packed(u32::MAX, &gigantic)),
        ("4 GiB in the zstd frame only", Code::FrameUnknown, raw_packed(CHUNK, &gigantic)),
        ("two zstd frames", Code::FrameUnknown, raw_packed(CHUNK, &[&run[..], &run].concat())),
        ("a window of 2 TiB", Code::FrameUnknown, {
            let window = [&run[..4], &[0x80, 0xff], &run[5..]].concat();
            raw_packed(CHUNK, &window)
        }),
        ("a block of junk", Code::FrameUnknown, {
            let junk = [&run[..9], &[0x25, 0x03, 0], &[0xa5; 100]].concat();
            raw_packed(CHUNK, &junk)
        }),
        ("no zstd at all", Code::FrameUnknown, raw_packed(CHUNK, &[7; 100])),
        ("a body of 3 bytes", Code::FrameUnknown, vec![0x23, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0]),
        ("a body over 1 MiB", Code::FrameTooLarge, vec![0x23, 0, 0, 0, 0, 0x10, 0, 1]),
    ];
    for (what, code, raw) in cases {
        let before = world.snapshot();
        let mut peer = Peer::answering(packing()).await;
        let job = importer.import(&peer.ticket(), &world.target()).await;
        let mut session = peer.exporting().await;
        on_a_lane(&mut session, &raw).await;
        assert_eq!(session.control.aborted().await, Some(code), "{what}");
        drop(session);
        assert_eq!(failed(&job).await, code, "{what}");
        assert_images(&before, &world.snapshot());
        assert!(leftovers(&world.path("parent")).is_empty(), "{what}");
        honest.step().await;
    }
    honest.finish().await;
}

// SPEC §5.4, §6.2
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_chunk_that_was_not_agreed_on_ends_the_session_by_name() {
    let (importer, world) = (TestNode::start().await, World::new());
    let right = bytes_of(&packed_run(CHUNK, CHUNK));
    crate::support::world::refused(&importer, &world, "not agreed", Code::FrameUnexpected, async |session| {
        on_a_lane(session, &right).await;
    })
    .await;
    // a peer that says yes where nobody asked is given up before a byte of the tree is seen
    let never = TestNode::with(|config| config.compression = me_sync_node::Compression::Never).await;
    let peer = Peer::answering(packing()).await;
    let job = never.import(&peer.ticket(), &world.target()).await;
    assert_eq!(failed(&job).await, Code::VersionMismatch);
}

// SPEC §5.4: 64 MiB in 10 KiB, beside raw chunks, and then a file that goes on without end
#[tokio::test(flavor = "multi_thread")]
async fn much_content_in_few_bytes_is_taken_as_far_as_it_was_declared() {
    let (importer, world) = (TestNode::start().await, World::new());
    let content = vec![b'a'; 64 << 20];
    let mut peer = Peer::answering(packing()).await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    session.agreed(&listing(&content)).await;
    let mut lane = session.lane(0).await.expect("taken");
    lane.send(&begin(0, &content)).await;
    lane.send(&chunk(&content[..CHUNK as usize])).await;
    for _ in 1..content.len() / CHUNK as usize {
        lane.send(&packed_run(CHUNK, CHUNK)).await;
    }
    lane.send(&end(0)).await;
    session.control.send(&phase_end(1, content.len() as u64)).await;
    assert_eq!(session.finalize(&listing(&content)).await, None);
    drop((session, lane));
    let done = completed(&job).await;
    assert_eq!(done.payload_bytes, content.len() as u64);
    assert!(done.wire_bytes < (CHUNK + (16 << 10)).into(), "{} bytes came", done.wire_bytes);
    assert!(std::fs::read(world.path("parent/target/run")).unwrap() == content);

    let world = World::new();
    let mut peer = Peer::answering(packing()).await;
    let job = importer.import(&peer.ticket(), &world.target()).await;
    let mut session = peer.exporting().await;
    // 4 of them are the file, a fifth is patience
    let endless = bytes_of(&packed_run(CHUNK, CHUNK)).repeat(6);
    on_a_lane(&mut session, &endless).await;
    drop(session);
    assert_eq!(failed(&job).await, Code::SizeMismatch);
}

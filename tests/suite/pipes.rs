//! Sessions over a pipe (SPEC §5.13): no network between the two nodes, only an ordered stream of bytes, or of frames.

use std::path::Path;

use me_sync_node::net::{AttachedPipe, PipeError, frame_pipe};
use me_sync_node::{JobHandle, Offer, PipeSession};
use me_sync_protocol::codec;
use me_sync_protocol::frame::{FileStrand, Frame, PipeHello, PipeKey};
use me_sync_protocol::ids::{Nonce, SessionId, TicketId};
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;

use crate::support::tree::{assert_same, file, sample};
use crate::support::{TestNode, completed, end, failed, leftovers, waits_for_peer};

/// Both nodes, and nothing that leads from one to the other.
struct Two {
    exporter: TestNode,
    importer: TestNode,
    dir: TempDir,
}

impl Two {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        sample(&dir.path().join("source"));
        file(&dir.path().join("source"), "large", 9 << 20, 0o640);
        Self { exporter: TestNode::start().await, importer: TestNode::start().await, dir }
    }

    /// An offer whose ticket names no address.
    async fn offer(&self) -> Offer {
        let mut offer = self.exporter.offer(&self.dir.path().join("source")).await;
        offer.ticket.addresses.clear();
        offer
    }

    fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("target")
    }

    /// Attaches both ends; the pipe stands when this returns.
    async fn join(
        &self,
        session: PipeSession,
        near: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        far: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> (AttachedPipe, AttachedPipe) {
        let (exporter, importer) = (self.exporter.node.handle(), self.importer.node.handle());
        let (out, into) =
            tokio::join!(exporter.attach_pipe(PipeSession::Offers, near), importer.attach_pipe(session, far));
        (out.expect("the exporter takes it"), into.expect("the importer takes it"))
    }

    fn is_whole(&self) {
        assert_same(&self.dir.path().join("source"), &self.target());
        assert_eq!(leftovers(self.dir.path()), Vec::<std::path::PathBuf>::new());
    }
}

fn ticket(offer: &Offer) -> PipeSession {
    PipeSession::Ticket(offer.ticket.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_over_a_unix_socket_between_nodes_that_cannot_reach_each_other() {
    let two = Two::start().await;
    let offer = two.offer().await;
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let (out, into) = two.join(ticket(&offer), near, far).await;
    assert_eq!(out.peer().to_string(), two.importer.node.handle().peer_id());
    assert_eq!(into.peer().to_string(), two.exporter.node.handle().peer_id());
    let job = two.importer.import(&offer.ticket, &two.target()).await;
    let (sent, arrived) = (completed(&offer.job).await, completed(&job).await);
    assert_eq!(sent.manifest_sha256, arrived.manifest_sha256);
    let carriers = [&offer.job, &job].map(|job| job.view().peer.and_then(|peer| peer.transport));
    assert_eq!(carriers, [Some("pipe".to_owned()), Some("pipe".to_owned())]);
    two.is_whole();
    // with the session its pipe is over, at both ends
    out.closed().await.expect("an orderly end");
    into.closed().await.expect("an orderly end");
}

/// Two ends of a line that dies after so many bytes from the one to the other.
fn dying(after: u64) -> (DuplexStream, DuplexStream) {
    let (near, a) = tokio::io::duplex(64 << 10);
    let (far, b) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let (mut a_in, mut a_out) = tokio::io::split(a);
        let (mut b_in, mut b_out) = tokio::io::split(b);
        let mut there = (&mut a_in).take(after);
        tokio::select! {
            _ = tokio::io::copy(&mut there, &mut b_out) => {}
            _ = tokio::io::copy(&mut b_in, &mut a_out) => {}
        }
    });
    (near, far)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_dies_is_followed_by_another_and_little_is_sent_twice() {
    let two = Two::start().await;
    let offer = two.offer().await;
    let (near, far) = dying(4 << 20);
    let first = two.join(ticket(&offer), near, far).await;
    let job = two.importer.import(&offer.ticket, &two.target()).await;
    waits_for_peer(&job).await;
    drop(first);
    let session = job.view().session_id.expect("it was granted");
    // by the session's own secret, and once more by the ticket's
    let (near, far) = dying(2 << 20);
    let second = two.join(PipeSession::Session(session), near, far).await;
    let mut views = job.watch();
    views.wait_for(|view| view.progress.bytes_received > 0).await.expect("the job lives");
    waits_for_peer(&job).await;
    drop(second);
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let _third = two.join(ticket(&offer), near, far).await;
    let (_, arrived) = (completed(&offer.job).await, completed(&job).await);
    two.is_whole();
    let size = arrived.bytes;
    assert!(arrived.payload_bytes <= size + (2 << 20), "{} of {size}", arrived.payload_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_were_restarted_go_on_over_a_pipe() {
    let Two { exporter, importer, dir } = Two::start().await;
    let mut two = Two { exporter, importer, dir };
    let offer = two.offer().await;
    let (near, far) = dying(4 << 20);
    let first = two.join(ticket(&offer), near, far).await;
    let job = two.importer.import(&offer.ticket, &two.target()).await;
    waits_for_peer(&job).await;
    let session = job.view().session_id.expect("it was granted");
    drop((first, job));
    two = Two { exporter: two.exporter.restart().await, importer: two.importer.restart().await, dir: two.dir };
    // the same tree again: the offer of the earlier process goes on
    let again = two.offer().await;
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let _pipe = two.join(PipeSession::Session(session), near, far).await;
    let job = two.importer.node.handle().resume(session).await.expect("it is unfinished");
    let (_, arrived) = (completed(&again.job).await, completed(&job).await);
    two.is_whole();
    assert!(arrived.payload_bytes < arrived.bytes, "{arrived:?}");
}

/// A line on which all that passes from the one to the other is written down.
fn overheard() -> ((DuplexStream, DuplexStream), tokio::task::JoinHandle<Vec<u8>>) {
    let (near, a) = tokio::io::duplex(64 << 10);
    let (far, b) = tokio::io::duplex(64 << 10);
    let (mut a_in, mut a_out) = tokio::io::split(a);
    let (mut b_in, mut b_out) = tokio::io::split(b);
    tokio::spawn(async move { tokio::io::copy(&mut b_in, &mut a_out).await });
    let listening = tokio::spawn(async move {
        let (mut heard, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        while let Ok(n @ 1..) = a_in.read(&mut piece).await {
            heard.extend_from_slice(&piece[..n]);
            if b_out.write_all(&piece[..n]).await.is_err() {
                break;
            }
        }
        heard
    });
    ((near, far), listening)
}

// SPEC §5.13
#[tokio::test(flavor = "multi_thread")]
async fn who_listens_on_a_pipe_reads_everything_and_through_noise_nothing() {
    let (secret, is_there) = (b"content that nobody is to read", |heard: &[u8], what: &[u8]| {
        heard.windows(what.len()).any(|window| window == what)
    });
    for in_noise in [false, true] {
        let two = Two::start().await;
        std::fs::write(two.dir.path().join("source/secret"), secret).expect("written");
        let offer = two.offer().await;
        let ((near, far), heard) = overheard();
        let (exporter, importer) = (two.exporter.node.handle(), two.importer.node.handle());
        let session = ticket(&offer);
        let ends = match in_noise {
            true => tokio::join!(
                exporter.attach_pipe_in_noise(PipeSession::Offers, near),
                importer.attach_pipe_in_noise(session, far)
            ),
            false => tokio::join!(exporter.attach_pipe(PipeSession::Offers, near), importer.attach_pipe(session, far)),
        };
        assert!(ends.0.is_ok() && ends.1.is_ok(), "{ends:?}");
        let job = two.importer.import(&offer.ticket, &two.target()).await;
        completed(&job).await;
        completed(&offer.job).await;
        two.is_whole();
        drop(two);
        let heard = heard.await.expect("it listened");
        assert_eq!(is_there(&heard, secret), !in_noise);
        assert!(heard.len() > 9 << 20);
    }
    // one end alone gets nowhere
    let two = Two::start().await;
    let offer = two.offer().await;
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let (exporter, importer) = (two.exporter.node.handle(), two.importer.node.handle());
    let ends = tokio::join!(
        exporter.attach_pipe(PipeSession::Offers, near),
        importer.attach_pipe_in_noise(ticket(&offer), far)
    );
    assert!(ends.0.is_err() && ends.1.is_err(), "{ends:?}");
}

/// Carries whole frames, one at a time, as an application does that has no stream; how many there were.
async fn bridge(
    mut from: me_sync_node::net::FramesOut,
    mut to: me_sync_node::net::FramesIn,
) -> Result<usize, PipeError> {
    let mut count = 0;
    while let Some(frame) = from.send_frame().await? {
        to.receive_frame(&frame).await?;
        count += 1;
    }
    to.end().await?;
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_frame_by_frame() {
    let two = Two::start().await;
    let offer = two.offer().await;
    let (near, near_in, near_out) = frame_pipe();
    let (far, far_in, far_out) = frame_pipe();
    let there = tokio::spawn(bridge(near_out, far_in));
    let back = tokio::spawn(bridge(far_out, near_in));
    let _ends = two.join(ticket(&offer), near, far).await;
    let job = two.importer.import(&offer.ticket, &two.target()).await;
    completed(&job).await;
    completed(&offer.job).await;
    two.is_whole();
    assert!(there.await.expect("it ran").expect("whole frames only") > 36, "9 MiB in chunks of 256 KiB");
    assert!(back.await.expect("it ran").expect("whole frames only") > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_one_whole_frame_is_not_received() {
    let (_io, mut inward, _outward) = frame_pipe();
    let mut raw = bytes::BytesMut::new();
    codec::encode(&Frame::PendingRequest(me_sync_protocol::frame::PendingRequest {}), &mut raw);
    inward.receive_frame(&raw).await.expect("one frame");
    for wrong in [&raw[..raw.len() - 1], &[&raw[..], &raw[..]].concat(), &[9, 0, 0, 0, 0, 0, 0, 0], &[]] {
        assert!(
            matches!(inward.receive_frame(wrong).await, Err(PipeError::Violation(Code::FrameUnknown))),
            "{wrong:?}"
        );
    }
}

async fn refused(exporter: &TestNode, importer: &TestNode, ticket: Ticket) -> (PipeError, PipeError) {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let (exporter, importer) = (exporter.node.handle(), importer.node.handle());
    let (out, into) = tokio::join!(
        exporter.attach_pipe(PipeSession::Offers, near),
        importer.attach_pipe(PipeSession::Ticket(ticket), far)
    );
    (out.expect_err("the exporter takes it"), into.expect_err("the importer takes it"))
}

// SPEC §5.13
#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_the_secret_gets_no_pipe_and_cannot_tell_a_wrong_one_from_an_unknown_ticket() {
    let two = Two::start().await;
    let offer = two.offer().await;
    let (mut wrong, mut unknown) = (offer.ticket.clone(), offer.ticket.clone());
    wrong.secret = me_sync_protocol::ids::Secret::from_bytes([7; 32]);
    unknown.ticket_id = TicketId([7; 16]);
    for ticket in [wrong, unknown] {
        let (out, into) = refused(&two.exporter, &two.importer, ticket).await;
        assert!(matches!(into, PipeError::NotProven), "{into:?}");
        assert!(matches!(out, PipeError::Broken(_)), "{out:?}");
    }
    // the ticket of one exporter is no good at another
    let other = TestNode::start().await;
    let (_, into) = refused(&other, &two.importer, offer.ticket.clone()).await;
    assert!(matches!(into, PipeError::NotProven), "{into:?}");
    let unknown = two.importer.node.handle().attach_pipe(PipeSession::Session(SessionId([7; 16])), dying(9).0).await;
    assert!(matches!(unknown, Err(PipeError::Unknown)), "{unknown:?}");
    // and the offer is as good as before
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let _pipe = two.join(ticket(&offer), near, far).await;
    let job = two.importer.import(&offer.ticket, &two.target()).await;
    completed(&job).await;
    two.is_whole();
}

async fn say(io: &mut UnixStream, frame: &Frame) {
    let mut raw = bytes::BytesMut::new();
    codec::encode(frame, &mut raw);
    io.write_all(&raw).await.expect("written");
}

/// Whether the node let go of the pipe without another word than its own hello.
async fn is_let_go(mut io: UnixStream) -> bool {
    let mut said = Vec::new();
    // a reset tells as much as an end
    io.read_to_end(&mut said).await.ok();
    said.is_empty() || said[0] == 0x03
}

// SPEC §5.13: a PeerId that somebody only claims is worth nothing, though they have a good ticket
#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_is_none_or_of_another_device_ends_the_pipe() {
    let two = Two::start().await;
    let offer = two.offer().await;
    let key = Some(PipeKey::Ticket(offer.ticket.ticket_id));
    let peer_id = offer.ticket.peer_id.clone();
    let good = PipeHello { peer_id: peer_id.clone(), nonce: Nonce([1; 16]), key, proof: None };
    let proof =
        me_sync_protocol::frame::PipeProof { mac: me_sync_protocol::ids::Digest([1; 32]), signature: vec![1; 64] };
    let cases = [
        ("no key", vec![Frame::PipeHello(PipeHello { key: None, ..good.clone() })]),
        ("a proof too early", vec![Frame::PipeHello(PipeHello { proof: Some(proof.clone()), ..good.clone() })]),
        ("no PeerId", vec![Frame::PipeHello(PipeHello { peer_id: vec![1, 2, 3], ..good.clone() })]),
        ("a proof of nothing", vec![Frame::PipeHello(good.clone()), Frame::PipeProof(proof)]),
        ("a request at once", vec![Frame::Request(vec![0x80].into())]),
        ("another frame", vec![Frame::PipeHello(good), Frame::FileChunk(vec![1].into())]),
    ];
    for (what, frames) in cases {
        let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
        let handle = two.exporter.node.handle();
        let attach = handle.attach_pipe(PipeSession::Offers, near);
        let talk = async {
            for frame in &frames {
                say(&mut far, frame).await;
            }
            is_let_go(far).await
        };
        let (attached, let_go) = tokio::join!(attach, talk);
        assert!(let_go && attached.is_err(), "{what}: {attached:?}");
    }
}

/// A line whose frames from the exporter pass through `change`; none ends it there.
fn forged(change: impl Fn(Frame) -> Option<Vec<Frame>> + Send + 'static) -> (DuplexStream, DuplexStream) {
    let (near, near_in, mut near_out) = frame_pipe();
    let (far, mut far_in, far_out) = frame_pipe();
    tokio::spawn(bridge(far_out, near_in));
    tokio::spawn(async move {
        while let Ok(Some(raw)) = near_out.send_frame().await {
            let frame = codec::decode(&mut bytes::BytesMut::from(&raw[..])).expect("a frame").expect("whole");
            for frame in change(frame).into_iter().flatten() {
                let mut raw = bytes::BytesMut::new();
                codec::encode(&frame, &mut raw);
                if far_in.receive_frame(&raw).await.is_err() {
                    return;
                }
            }
        }
    });
    (near, far)
}

async fn import_through(two: &Two, offer: &Offer, line: (DuplexStream, DuplexStream)) -> JobHandle {
    let _pipe = two.join(ticket(offer), line.0, line.1).await;
    two.importer.import(&offer.ticket, &two.target()).await
}

// SPEC §5.13
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_on_a_pipe_ends_the_session_by_name() {
    let strand = || Frame::FileStrand(FileStrand { chunks: 1 });
    type Change = Box<dyn Fn(Frame) -> Option<Vec<Frame>> + Send>;
    let cases: [(&str, Code, Change); 3] = [
        (
            "a strand",
            Code::FrameUnexpected,
            Box::new(move |frame| match frame {
                Frame::FileChunk(_) => Some(vec![strand(), frame]),
                other => Some(vec![other]),
            }),
        ),
        (
            "a chunk of no file",
            Code::FrameUnexpected,
            Box::new(|frame| match frame {
                Frame::FileBegin(_) => Some(vec![Frame::FileChunk(vec![1].into())]),
                other => Some(vec![other]),
            }),
        ),
        (
            "an ack in the middle",
            Code::FrameUnexpected,
            Box::new(|frame| match frame {
                Frame::PendingRequest(_) => Some(vec![Frame::Ack(me_sync_protocol::frame::Ack { refused: None })]),
                other => Some(vec![other]),
            }),
        ),
    ];
    for (what, code, change) in cases {
        let two = Two::start().await;
        let offer = two.offer().await;
        let job = import_through(&two, &offer, forged(change)).await;
        assert_eq!(failed(&job).await, code, "{what}");
        assert!(!two.target().exists(), "{what}");
        offer.job.abort().await;
        end(&offer.job).await;
    }
}

// SPEC §5.13, §6.3: whoever grants lanes where there can be none does not know what a pipe is
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_with_lanes_is_refused_on_a_pipe() {
    use me_sync_protocol::message::{Response, encode};
    let two = Two::start().await;
    let offer = two.offer().await;
    let line = forged(|frame| match frame {
        Frame::Response(raw) => match Response::decode(&raw) {
            Ok(Response::Granted(mut granted)) => {
                assert_eq!(granted.lanes, 0, "on the pipe there is no lane");
                granted.lanes = 2;
                Some(vec![Frame::Response(encode(&Response::Granted(granted)).into())])
            }
            _ => Some(vec![Frame::Response(raw)]),
        },
        other => Some(vec![other]),
    });
    let job = import_through(&two, &offer, line).await;
    assert_eq!(failed(&job).await, Code::VersionMismatch);
    assert!(!Path::new(&two.target()).exists());
}

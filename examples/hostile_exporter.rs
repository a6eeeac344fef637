//! What refusal looks like: an importer meets exporters that lie, one after the other, and its directory stays what it was.
//!
//!     cargo run --example hostile_exporter
//!
//! Each of them is an honest node whose frames somebody changes on the way, over a pipe: so all proofs are good, and only
//! what is said is false.

use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use me_sync_node::net::{FramesIn, FramesOut, ListenAddr, frame_pipe};
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{Consent, ImportOptions, Node, NodeConfig, OfferOptions, Outcome, PipeSession};
use me_sync_protocol::codec;
use me_sync_protocol::frame::{FileZeros, Frame, ManifestEnd, PhaseEnd, RetryEnd};
use me_sync_protocol::ids::Digest;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;
/// What becomes of a frame on its way.
type Lie = fn(Frame) -> Vec<Frame>;

/// A name that leaves the tree, in the place of `photo-1`: of the same length, so that the rest of the entry stays canonical.
const ESCAPE: &[u8] = b"../evil";

const LIES: [(&str, Lie); 7] = [
    ("a name that leaves the directory", |frame| match frame {
        Frame::ManifestChunk(entries) => vec![Frame::ManifestChunk(renamed(&entries))],
        other => vec![other],
    }),
    ("another digest for the list of files", |frame| match frame {
        Frame::ManifestEnd(_) => vec![Frame::ManifestEnd(ManifestEnd { manifest_sha256: Digest([7; 32]) })],
        other => vec![other],
    }),
    ("other content than was promised, in every round", |frame| match frame {
        Frame::FileChunk(content) => vec![Frame::FileChunk(content.iter().map(|byte| byte ^ 1).collect())],
        other => vec![other],
    }),
    ("a file twice", |frame| match frame {
        Frame::FileEnd(end) => vec![Frame::FileEnd(end), Frame::FileEnd(end)],
        other => vec![other],
    }),
    ("four gigabytes of nothing in a file of seven bytes", |frame| match frame {
        Frame::FileChunk(_) => vec![Frame::FileZeros(FileZeros { len: u32::MAX })],
        other => vec![other],
    }),
    ("fewer files than are counted", |frame| match frame {
        Frame::PhaseEnd(end) => vec![Frame::PhaseEnd(PhaseEnd { files: end.files + 1, ..end })],
        other => vec![other],
    }),
    ("nothing, and that this is all", |frame| match frame {
        Frame::FileBegin(_) | Frame::FileChunk(_) | Frame::FileEnd(_) => Vec::new(),
        Frame::PhaseEnd(end) => vec![Frame::PhaseEnd(PhaseEnd { files: 0, ..end })],
        Frame::RetryEnd(end) => vec![Frame::RetryEnd(RetryEnd { files: 0, ..end })],
        other => vec![other],
    }),
];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    std::fs::create_dir(&source)?;
    for n in 1..=3 {
        std::fs::write(source.join(format!("photo-{n}")), format!("photo {n}"))?;
    }
    std::fs::create_dir(&target)?;
    std::fs::write(target.join("letters"), "ten years of letters")?;
    for (n, (what, lie)) in LIES.into_iter().enumerate() {
        let outcome = one(&dir.path().join(n.to_string()), &source, &target, lie).await?;
        let names: Vec<_> =
            std::fs::read_dir(&target)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
        let is_old = names == ["letters"] && std::fs::read(target.join("letters"))? == b"ten years of letters";
        let stands = if is_old { "the directory is what it was" } else { "THE DIRECTORY HAS CHANGED" };
        match outcome {
            Outcome::Failed { code, message, .. } => say(&format!("{what}:\n    {code}: {message}; {stands}"))?,
            Outcome::Completed(_) => return Err(format!("{what}: believed").into()),
        }
        if !is_old {
            return Err("that must not be".into());
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// One import from an exporter that lies so.
async fn one(state: &Path, source: &Path, target: &Path, lie: Lie) -> Result<Outcome, Failure> {
    let config = |name: &str| {
        let mut config = NodeConfig::new(state.join(name));
        config.listen = vec![ListenAddr { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None }];
        config.mdns = false;
        config
    };
    let (exporter, importer) = (Node::spawn(config("exporter")).await?, Node::spawn(config("importer")).await?);
    let source = source.to_owned();
    let source = tokio::task::spawn_blocking(move || Source::scan(&source, &ScanOptions::default())).await??;
    let mut offer = exporter.handle().offer(source, OfferOptions::default()).await?;
    offer.ticket.addresses.clear();

    let (near, near_in, near_out) = frame_pipe();
    let (far, far_in, far_out) = frame_pipe();
    let mut carriers = JoinSet::new();
    carriers.spawn(carry(near_out, far_in, lie));
    carriers.spawn(carry(far_out, near_in, |frame| vec![frame]));
    let (here, there) = (exporter.handle(), importer.handle());
    let session = PipeSession::Ticket(offer.ticket.clone());
    tokio::try_join!(here.attach_pipe(PipeSession::Offers, near), there.attach_pipe(session, far))?;

    let options = ImportOptions { consent: Consent::Given, ..ImportOptions::new(target) };
    let outcome = there.import(offer.ticket, options).await?.outcome().await;
    drop(carriers);
    importer.shutdown().await;
    exporter.shutdown().await;
    Ok(outcome)
}

async fn carry(mut from: FramesOut, mut to: FramesIn, lie: Lie) {
    while let Ok(Some(raw)) = from.send_frame().await {
        let Ok(Some(frame)) = codec::decode(&mut BytesMut::from(&raw[..])) else { return };
        for frame in lie(frame) {
            let mut raw = BytesMut::new();
            codec::encode(&frame, &mut raw);
            // an importer that has heard enough lets go
            if to.receive_frame(&raw).await.is_err() {
                return;
            }
        }
    }
}

fn renamed(entries: &[u8]) -> Bytes {
    let mut entries = entries.to_vec();
    let name = b"photo-1";
    if let Some(at) = entries.windows(name.len()).position(|window| window == name) {
        entries[at..at + name.len()].copy_from_slice(ESCAPE);
    }
    entries.into()
}

//! A whole migration over a link that carries frames and nothing else, as Nearby does between two phones: no address, no socket
//! between the nodes. The link breaks once in the middle, and the session goes on over the next one.
//!
//!     cargo run --example nearby_pipe -- SOURCE TARGET

use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use bytes::Bytes;
use me_sync_node::net::{FramesIn, FramesOut, ListenAddr, frame_pipe};
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{Consent, ImportOptions, JobView, Node, NodeConfig, OfferOptions, Outcome, PipeSession};
use me_sync_protocol::progress::Phase;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

/// Frames in the air.
const IN_FLIGHT: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: nearby_pipe SOURCE TARGET".into());
    };
    let state = tempfile::tempdir()?;
    let config = |name: &str| {
        let mut config = NodeConfig::new(state.path().join(name));
        config.device_name = name.to_owned();
        config.listen = vec![ListenAddr { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None }];
        config.mdns = false;
        config
    };
    let exporter = Node::spawn(config("old phone")).await?;
    let importer = Node::spawn(config("new phone")).await?;

    let source = tokio::task::spawn_blocking(move || Source::scan(&source, &ScanOptions::default())).await??;
    let mut offer = exporter.handle().offer(source, OfferOptions::default()).await?;
    // so that nobody can think the network did it
    offer.ticket.addresses.clear();

    let mut first = link(&exporter, &importer, PipeSession::Ticket(offer.ticket.clone())).await?;
    let options = ImportOptions { consent: Consent::Given, ..ImportOptions::new(target) };
    let import = importer.handle().import(offer.ticket, options).await?;
    let mut views = import.watch();
    let is_half = |view: &JobView| view.progress.bytes_received * 2 > view.progress.bytes_total;
    views.wait_for(|view| is_half(view) || view.outcome.is_some()).await?;
    first.shutdown().await;
    let is_cut = |view: &JobView| view.phase == Phase::WaitingForPeer || view.outcome.is_some();
    let view = views.wait_for(is_cut).await?.clone();

    let second = match (view.outcome, view.session_id) {
        (None, Some(session)) => {
            let done = view.progress.bytes_received;
            say(&format!("the link broke after {done} bytes; session {session} goes on over another"))?;
            Some(link(&exporter, &importer, PipeSession::Session(session)).await?)
        }
        _ => None,
    };
    let outcome = import.outcome().await;
    drop(second);
    importer.shutdown().await;
    exporter.shutdown().await;
    match outcome {
        Outcome::Completed(done) => say(&format!(
            "{} files, {} bytes are now at {}; {} bytes of content went over the links",
            done.files,
            done.bytes,
            done.target.unwrap_or_default().display(),
            done.payload_bytes
        )),
        Outcome::Failed { code, message, hint } => Err(format!("{code}: {message}; {hint}").into()),
    }
}

fn say(line: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Connects the two nodes for one conversation; the link is gone with what comes back.
async fn link(exporter: &Node, importer: &Node, session: PipeSession) -> Result<JoinSet<()>, Failure> {
    let (near, near_in, near_out) = frame_pipe();
    let (far, far_in, far_out) = frame_pipe();
    let mut air = JoinSet::new();
    carry(&mut air, near_out, far_in);
    carry(&mut air, far_out, near_in);
    let (exporter, importer) = (exporter.handle(), importer.handle());
    // both prove the ticket's secret, or the session's, and who they are
    tokio::try_join!(exporter.attach_pipe(PipeSession::Offers, near), importer.attach_pipe(session, far))?;
    Ok(air)
}

/// One direction: frames go into the air at one end and come out at the other. A full sky holds the sender back.
fn carry(air: &mut JoinSet<()>, mut from: FramesOut, mut to: FramesIn) {
    let (sky, mut arriving) = mpsc::channel::<Bytes>(IN_FLIGHT);
    air.spawn(async move {
        while let Ok(Some(frame)) = from.send_frame().await {
            if sky.send(frame).await.is_err() {
                return;
            }
        }
    });
    air.spawn(async move {
        while let Some(frame) = arriving.recv().await {
            if to.receive_frame(&frame).await.is_err() {
                return;
            }
        }
        // the node may have let go first
        to.end().await.ok();
    });
}

//! A program with me-sync inside: two nodes in one process move a directory over real sockets, the one sends, the other
//! receives, and what happens is told as it happens.
//!
//!     cargo run --example embedded -- SOURCE TARGET

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use me_sync_node::net::ListenAddr;
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{Consent, ImportOptions, Node, NodeConfig, OfferOptions, Outcome};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embedded SOURCE TARGET".into());
    };
    let state = tempfile::tempdir()?;
    let config = |name: &str| {
        let mut config = NodeConfig::new(state.path().join(name));
        config.device_name = name.to_owned();
        config.listen = vec![ListenAddr { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None }];
        config.mdns = false;
        config
    };
    let exporter = Node::spawn(config("old laptop")).await?;
    let importer = Node::spawn(config("new laptop")).await?;

    // walking blocks, so it happens beside the runtime
    let source = tokio::task::spawn_blocking(move || Source::scan(&source, &ScanOptions::default())).await??;
    let offer = exporter.handle().offer(source, OfferOptions::default()).await?;

    let options = ImportOptions { consent: Consent::Ask, ..ImportOptions::new(target) };
    let import = importer.handle().import(offer.ticket, options).await?;
    if let Some(review) = import.review().await {
        tracing::info!(files = review.files, bytes = review.bytes, "the target exists; its tree is kept for rollback");
        import.accept().await;
    }
    // every change of the job, at most one in 250 ms; the same figures that the HTTP API and the command line show
    let mut views = import.watch();
    while views.borrow_and_update().outcome.is_none() {
        let (phase, progress) = {
            let view = views.borrow();
            (view.phase, view.progress.clone())
        };
        let (done, total) = (progress.bytes_received, progress.bytes_total);
        say(&format!("{phase}: {} of {} files, {done} of {total} bytes", progress.files_ok, progress.files_total))?;
        if views.changed().await.is_err() {
            break;
        }
    }
    let outcome = import.outcome().await;
    importer.shutdown().await;
    exporter.shutdown().await;
    match outcome {
        Outcome::Completed(done) => {
            let target = done.target.unwrap_or_default();
            say(&format!("{} files, {} bytes are now at {}", done.files, done.bytes, target.display()))?;
            Ok(())
        }
        Outcome::Failed { code, message, hint } => Err(format!("{code}: {message}; {hint}").into()),
    }
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}

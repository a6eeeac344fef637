//! Two nodes in one process move a directory over real sockets: how a program embeds me-sync.
//!
//!     cargo run --example loopback_transfer -- SOURCE TARGET

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use me_sync_node::net::ListenAddr;
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{Consent, ImportOptions, Node, NodeConfig, OfferOptions, Outcome};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: loopback_transfer SOURCE TARGET".into());
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
    let outcome = import.outcome().await;
    importer.shutdown().await;
    exporter.shutdown().await;
    match outcome {
        Outcome::Completed(done) => {
            let target = done.target.unwrap_or_default();
            // the one line of output
            std::io::Write::write_all(
                &mut std::io::stdout(),
                format!("{} files, {} bytes are now at {}\n", done.files, done.bytes, target.display()).as_bytes(),
            )?;
            Ok(())
        }
        Outcome::Failed { code, message, hint } => Err(format!("{code}: {message}; {hint}").into()),
    }
}

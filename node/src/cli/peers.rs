//! `me-sync peers`: who answers on this network.

use std::time::Duration;

use indicatif::ProgressBar;
use me_sync_node::NodeHandle;
use me_sync_node::http::schema::{PeerEntry, PeersResponse};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::reason::Code;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::human;
use super::out::Out;
use super::own::Meet;
use super::remote::Remote;
use super::render::spinner;
use super::stop::Stop;

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync peers
  me-sync peers --for 12s --json

A device is listed when mDNS found it and it answered: name, PeerId, round
trip and addresses, separated by tabs.";

const LONGEST: Duration = Duration::from_secs(12);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to look, at most 12s
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = parse_time)]
    time: Duration,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let remote = globals.remote(stop).await?;
    if !remote.as_ref().map_or_else(|| globals.mdns(), |remote| remote.health.mdns) {
        let hint = "leave --no-mdns out; `--no-mdns=false` counts more than config.toml";
        return Err(CliError::usage("peers are found by mDNS, which --no-mdns or `mdns = false` turns off", hint));
    }
    let found = match globals.meet(out, stop).await? {
        Meet::There(remote) => ask(&remote, args.time, out, stop).await?,
        Meet::Here(node) => {
            let found = search(&node.handle(), args.time, out, stop).await;
            node.shutdown(None).await;
            found?
        }
    };
    for peer in &found {
        show(peer, out);
    }
    if found.is_empty() {
        return Err(CliError::coded(
            Code::PeerNotFound,
            "no device answered",
            "check that me-sync runs there (`send` or `receive`), that both are on one network, and that no \
             firewall blocks UDP 5353",
        ));
    }
    out.success(json!({ "peers": found.len() }));
    Ok(())
}

/// The node that runs looks.
async fn ask(remote: &Remote, time: Duration, out: Out, stop: &Stop) -> Result<Vec<PeerEntry>, CliError> {
    let route = format!("peers?wait_secs={}", time.as_secs_f64().ceil());
    let looking = looking(time, out);
    let answer = stop.unless(remote.get::<PeersResponse>(&route)).await;
    finish(looking);
    Ok(answer??.peers)
}

async fn search(node: &NodeHandle, time: Duration, out: Out, stop: &Stop) -> Result<Vec<PeerEntry>, CliError> {
    let stopped =
        |err: me_sync_node::net::NetError| CliError::coded(err.code(), err.to_string(), "try again").exit(Exit::Node);
    let _search = node.search().await.map_err(stopped)?;
    let looking = looking(time, out);
    let waited = stop.unless(tokio::time::sleep(time)).await;
    finish(looking);
    waited?;
    Ok(node.peers().await.map_err(stopped)?.into_iter().map(PeerEntry::from).collect())
}

fn looking(time: Duration, out: Out) -> Option<ProgressBar> {
    spinner(out, format!("looking for devices for {}", human::duration(time)))
}

fn finish(spinner: Option<ProgressBar>) {
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
}

fn show(peer: &PeerEntry, out: Out) {
    out.event("peer", peer);
    let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    out.data(format_args!("{}\t{}\t{rtt}\t{}", escaped(&peer.device_name), peer.peer_id, peer.addresses.join(" ")));
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = human::parse_duration(text)?;
    if time > LONGEST { Err("at most 12s".to_owned()) } else { Ok(time) }
}

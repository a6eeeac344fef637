//! `me-sync peers`: who answers on this network.

use std::time::Duration;

use me_sync_node::NodeHandle;
use me_sync_node::net::PeerView;
use me_sync_protocol::escape::escaped;
use me_sync_protocol::reason::Code;
use serde_json::json;

use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::human;
use super::out::Out;
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
    if !globals.mdns() {
        let hint = "leave --no-mdns out; `--no-mdns=false` counts more than config.toml";
        return Err(CliError::usage("peers are found by mDNS, which --no-mdns or `mdns = false` turns off", hint));
    }
    let node = globals.spawn(out, stop).await?;
    let found = search(&node.handle(), args.time, out, stop).await;
    node.shutdown().await;
    let found = found?;
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

async fn search(node: &NodeHandle, time: Duration, out: Out, stop: &Stop) -> Result<Vec<PeerView>, CliError> {
    let stopped =
        |err: me_sync_node::net::NetError| CliError::coded(err.code(), err.to_string(), "try again").exit(Exit::Node);
    node.search(true).await.map_err(stopped)?;
    let spinner = spinner(out, format!("looking for devices for {}", human::duration(time)));
    let waited = stop.unless(tokio::time::sleep(time)).await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    waited?;
    node.peers().await.map_err(stopped)
}

fn show(peer: &PeerView, out: Out) {
    let addresses: Vec<_> = peer.addresses.iter().map(ToString::to_string).collect();
    let rtt_ms = peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
    let id = peer.peer_id.to_string();
    out.event(
        "peer",
        json!({ "peer_id": id, "device_name": peer.device_name, "agent": peer.agent,
        "addresses": addresses, "rtt_ms": rtt_ms }),
    );
    let rtt = rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    out.data(format_args!("{}\t{id}\t{rtt}\t{}", escaped(&peer.device_name), addresses.join(" ")));
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = human::parse_duration(text)?;
    if time > LONGEST { Err("at most 12s".to_owned()) } else { Ok(time) }
}

//! This device in its networks: who it is, where it listens, and who is heard on which interface.

use std::net::IpAddr;

use if_addrs::{IfAddr, Interface};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use me_sync_node::errors::chain;
use me_sync_node::identity;
use me_sync_node::net::PeerView;
use me_sync_protocol::escape::escaped;
use serde_json::json;

use crate::cli::exit::{CliError, Exit};
use crate::cli::globals::Globals;
use crate::cli::human;
use crate::cli::out::Out;
use crate::cli::stop::{Stop, blocking};

/// One line: the PeerId that others know this device by, and where its node, or the command at work, listens.
pub(super) async fn show_device(globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let state = globals.state_dir()?;
    let (known, listens, addresses) = match globals.remote(stop).await {
        Ok(Some(remote)) => {
            let addresses = remote.health.addresses;
            (Ok(Some(remote.health.peer_id)), format!("listens at {}", addresses.join(" ")), addresses)
        }
        Err(err) if err.exit == Exit::Interrupted => return Err(err),
        // what is wrong there is no reason not to look at the network
        Err(err) => (own_id(state, stop).await?, format!("where it listens is not known: {err}"), Vec::new()),
        Ok(None) => {
            let when = "listens while `node`, `send` or `receive` runs".to_owned();
            (own_id(state, stop).await?, when, Vec::new())
        }
    };
    let (peer, error) = match known {
        Ok(peer) => (peer, None),
        Err(why) => (None, Some(why)),
    };
    out.event("device", json!({ "peer_id": peer, "addresses": addresses, "error": error }));
    let shown = match (peer, error) {
        (Some(peer), _) => peer,
        (None, Some(why)) => format!("its PeerId cannot be read: {why}"),
        (None, None) => "no PeerId yet: the first `send`, `receive` or `node` makes one".to_owned(),
    };
    out.data(format_args!("this device\t{shown}\t{listens}"));
    Ok(())
}

async fn own_id(state: std::path::PathBuf, stop: &Stop) -> Result<Result<Option<String>, String>, CliError> {
    let read = stop.unless(blocking(move || identity::known(&state))).await??;
    Ok(read.map(|peer| peer.map(|peer| peer.to_string())).map_err(|err| chain(&err).to_string()))
}

/// One line an interface: its addresses, its speed, and who is heard in its network, if that was listened for.
pub(super) fn show(interfaces: &[Interface], heard: Option<&[PeerView]>, out: Out) {
    let mut names: Vec<&str> =
        interfaces.iter().filter(|one| !one.is_loopback()).map(|one| one.name.as_str()).collect();
    names.dedup();
    for name in &names {
        let here: Vec<_> = interfaces.iter().filter(|one| one.name == *name).collect();
        let mine: Vec<String> = here.iter().map(|one| one.ip().to_string()).collect();
        let near = |peer: &&PeerView| ips(&peer.addresses).any(|ip| here.iter().any(|one| is_in(one, ip)));
        let near: Option<Vec<_>> = heard.map(|heard| heard.iter().filter(near).collect());
        let speed = speed(name);
        let peers: Option<Vec<_>> = near.as_ref().map(|near| near.iter().map(|peer| heard_peer(peer)).collect());
        out.event("interface", json!({ "name": name, "addresses": mine, "bytes_per_second": speed, "heard": peers }));
        let devices = near.map(|near| {
            near.iter().map(|peer| human::device(&peer.device_name, &peer.peer_id.to_string())).collect::<Vec<_>>()
        });
        let devices = match devices {
            None => "not listened to: mDNS is off".to_owned(),
            Some(devices) if devices.is_empty() => "nobody is heard".to_owned(),
            Some(devices) => devices.join(", "),
        };
        let speed = speed.map(|bps| format!("{} Mbit/s, ", bps / 125_000)).unwrap_or_default();
        out.data(format_args!("{}\t{}\t{speed}{devices}", escaped(name), mine.join(" ")));
    }
    if names.is_empty() {
        out.data("no interface is up but the loopback");
    }
}

fn heard_peer(peer: &PeerView) -> serde_json::Value {
    json!({ "peer_id": peer.peer_id.to_string(), "device_name": peer.device_name,
        "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3) })
}

pub(super) fn ips(addresses: &[Multiaddr]) -> impl Iterator<Item = IpAddr> + '_ {
    addresses.iter().filter_map(|address| match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    })
}

pub(super) fn is_in(interface: &Interface, ip: IpAddr) -> bool {
    match (&interface.addr, ip) {
        (IfAddr::V4(mine), IpAddr::V4(ip)) => {
            let mask = u32::from(mine.netmask);
            u32::from(mine.ip) & mask == u32::from(ip) & mask
        }
        (IfAddr::V6(mine), IpAddr::V6(ip)) => {
            let mask = u128::from(mine.netmask);
            u128::from(mine.ip) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}

/// Bytes a second, if the system knows what was agreed on with the other end of the cable.
pub(super) fn speed(interface: &str) -> Option<u64> {
    // a name with a slash in it is none of the kernel's
    let name = Some(interface).filter(|name| !name.contains('/') && !name.starts_with('.'))?;
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?;
    text.trim().parse::<u64>().ok().filter(|mbit| *mbit > 0).map(|mbit| mbit.saturating_mul(125_000))
}

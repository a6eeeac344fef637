//! `me-sync doctor`: what is heard on which interface, what reaches a device, how fast this one reads and writes, and which of
//! it will be the slowest.
//!
//! Looks with an identity of its own that nobody has seen before, so it works beside a node, touches no state and is
//! treated by the other device as any stranger is: it says hello, and sends noise now and then to be measured.

mod measure;
mod reach;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use if_addrs::{IfAddr, Interface};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, identity};
use me_sync_node::errors::chain;
use me_sync_node::net::{self, NetConfig, NetHandle, PeerView};
use me_sync_protocol::escape::escaped;
use serde_json::json;

use self::measure::{Bound, disk, hashing, slowest};
use self::reach::{Reached, reach};
use super::exit::{CliError, Exit};
use super::globals::Globals;
use super::human;
use super::out::Out;
use super::peer_address::PeerAddress;
use super::render::spinner;
use super::stop::{Stop, blocking};

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync doctor
  me-sync doctor --peer attic --dir ~/photos
  me-sync doctor --peer 12D3KooW...@192.168.1.5:40001 --json

A device is heard while it sends, receives, or looks for others. With --peer it
sends up to 32 MiB of noise, for 2 seconds at most, to measure the network. One
that is at a transfer, or was measured within 10 seconds, refuses that, and one
with `probe = false` or an older me-sync cannot be measured; the speed of the
interface stands for it then, where the system knows that.";

const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The device to reach: its name or PeerId if it is heard, or PEERID@IP:PORT
    #[arg(long, value_name = "DEVICE")]
    peer: Option<String>,
    /// Where trees are to arrive: how fast can be written there is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// How long to listen for devices, at most 1m
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = parse_time)]
    time: Duration,
}

pub(crate) async fn run(args: Args, globals: &Globals, out: Out, stop: &Stop) -> Result<(), CliError> {
    let given = args.peer.as_deref().map(Given::parse).transpose()?;
    let config = NetConfig {
        mdns: globals.mdns(),
        probe: false,
        ..NetConfig::new(identity::Keypair::generate_ed25519(), "doctor")
    };
    let failed =
        |err: net::NetError| CliError::coded(err.code(), chain(&err).to_string(), "try again").exit(Exit::Node);
    let (handle, mut events) = net::spawn(config).await.map_err(failed)?;
    // strangers that ask something are refused by what is dropped here
    let deaf = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let looked = look(&args, given, &handle, globals, out, stop).await;
    handle.shutdown().await;
    deaf.await.ok();
    let (heard, reached) = looked?;
    let mut bounds: Vec<Bound> = reached.bound.into_iter().collect();

    let busy = spinner(out, "measuring this device".to_owned());
    let dir = args.dir.clone();
    let measured = stop.unless(blocking(move || (hashing(), disk(&dir)))).await;
    if let Some(busy) = busy {
        busy.finish_and_clear();
    }
    let (hashed, written) = measured??;
    let shown = human::path(&args.dir);
    out.event("hashing", json!({ "bytes_per_second": hashed }));
    out.data(format_args!("hashing\t{}/s on one core", human::bytes(hashed)));
    bounds.push(Bound { what: "hashing on this device".to_owned(), bps: hashed });
    match written {
        Ok(bps) => {
            out.event("disk", json!({ "dir": args.dir.to_string_lossy(), "bytes_per_second": bps }));
            out.data(format_args!("disk\t{}/s written and flushed in {shown}", human::bytes(bps)));
            bounds.push(Bound { what: format!("the disk of {shown}"), bps });
        }
        Err(err) => {
            out.event("disk", json!({ "dir": args.dir.to_string_lossy(), "error": err.to_string() }));
            out.data(format_args!("disk\tnothing can be written in {shown}: {err}"));
        }
    }
    let sentence = slowest(&bounds);
    out.data(&sentence);
    out.success(json!({ "heard": heard, "bottleneck": sentence, "network_rate_measured": reached.is_measured }));
    Ok(())
}

/// The device that is meant.
#[derive(Debug)]
enum Given {
    /// By its key, and perhaps where it is.
    Key(PeerId, Option<PeerAddress>),
    /// By what it calls itself, or the end of its key.
    Name(String),
}

impl Given {
    fn parse(text: &str) -> Result<Self, CliError> {
        if let Ok(peer) = text.parse() {
            return Ok(Self::Key(peer, None));
        }
        match text.parse::<PeerAddress>() {
            Ok(address) => match address.peer {
                Some(peer) => Ok(Self::Key(peer, Some(address))),
                None => Err(CliError::usage(
                    "an address alone says not which device is meant",
                    "put its PeerId before it: PEERID@IP:PORT; `me-sync peers` there, or its ticket's `--json`, shows it",
                )),
            },
            Err(_) => Ok(Self::Name(text.to_owned())),
        }
    }
}

/// The network: interfaces, who is heard, and what reaches the device that is meant.
async fn look(
    args: &Args,
    given: Option<Given>,
    handle: &NetHandle,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(usize, Reached), CliError> {
    let stopped =
        |err: net::NetError| CliError::coded(err.code(), chain(&err).to_string(), "try again").exit(Exit::Node);
    // to the end: what is heard later may be how the device is reached
    let _search = handle.search().await.map_err(stopped)?;
    let heard = if globals.mdns() {
        let listening = spinner(out, format!("listening for {}", human::duration(args.time)));
        let waited = stop.unless(tokio::time::sleep(args.time)).await;
        if let Some(listening) = listening {
            listening.finish_and_clear();
        }
        waited?;
        handle.peers().await.map_err(stopped)?
    } else {
        out.say("mDNS is off (--no-mdns, or `mdns = false`): nothing is listened for");
        Vec::new()
    };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    show_interfaces(&interfaces, &heard, out);
    let Some(given) = given else { return Ok((heard.len(), Reached::default())) };
    let (peer, addresses) = match given {
        Given::Key(peer, address) => (peer, PeerAddress::of(address.as_slice(), Some(peer), stop).await?),
        Given::Name(name) => (named(&name, &heard)?, Vec::new()),
    };
    let reached = reach(peer, &addresses, &interfaces, handle, out, stop).await?;
    Ok((heard.len(), reached))
}

fn named(name: &str, heard: &[PeerView]) -> Result<PeerId, CliError> {
    let fits = |peer: &&PeerView| peer.device_name == name || peer.peer_id.to_string().ends_with(name);
    let all: Vec<_> = heard.iter().filter(fits).collect();
    match all.as_slice() {
        [one] => Ok(one.peer_id),
        [] => {
            let hint = "let it send, receive or look for others meanwhile, or name it by PEERID@IP:PORT";
            let message = format!("no device {} was heard", escaped(name));
            Err(CliError::coded(me_sync_protocol::reason::Code::PeerNotFound, message, hint))
        }
        _ => Err(CliError::usage(format!("several devices are called {}", escaped(name)), "name it by its PeerId")),
    }
}

/// One line an interface: its addresses, its speed, and who is heard in its network.
fn show_interfaces(interfaces: &[Interface], heard: &[PeerView], out: Out) {
    let mut names: Vec<&str> =
        interfaces.iter().filter(|one| !one.is_loopback()).map(|one| one.name.as_str()).collect();
    names.dedup();
    for name in &names {
        let here: Vec<_> = interfaces.iter().filter(|one| one.name == *name).collect();
        let mine: Vec<String> = here.iter().map(|one| one.ip().to_string()).collect();
        let near = |peer: &&PeerView| ips(&peer.addresses).any(|ip| here.iter().any(|one| is_in(one, ip)));
        let near: Vec<_> = heard.iter().filter(near).collect();
        let speed = speed(name);
        let peers: Vec<_> = near
            .iter()
            .map(|peer| {
                json!({ "peer_id": peer.peer_id.to_string(), "device_name": peer.device_name,
                    "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3) })
            })
            .collect();
        out.event("interface", json!({ "name": name, "addresses": mine, "bytes_per_second": speed, "heard": peers }));
        let devices: Vec<_> =
            near.iter().map(|peer| human::device(&peer.device_name, &peer.peer_id.to_string())).collect();
        let devices = if devices.is_empty() { "nobody is heard".to_owned() } else { devices.join(", ") };
        let speed = speed.map(|bps| format!("{} Mbit/s, ", bps / 125_000)).unwrap_or_default();
        out.data(format_args!("{}\t{}\t{speed}{devices}", escaped(name), mine.join(" ")));
    }
    if names.is_empty() {
        out.data("no interface is up but the loopback");
    }
}

fn ips(addresses: &[Multiaddr]) -> impl Iterator<Item = IpAddr> + '_ {
    addresses.iter().filter_map(|address| match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    })
}

fn is_in(interface: &Interface, ip: IpAddr) -> bool {
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
fn speed(interface: &str) -> Option<u64> {
    // a name with a slash in it is none of the kernel's
    let name = Some(interface).filter(|name| !name.contains('/') && !name.starts_with('.'))?;
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?;
    text.trim().parse::<u64>().ok().filter(|mbit| *mbit > 0).map(|mbit| mbit.saturating_mul(125_000))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = human::parse_duration(text)?;
    if time > LONGEST { Err("at most 1m".to_owned()) } else { Ok(time) }
}

//! `me-sync doctor`: what is heard on which interface, what reaches a device, how fast this one reads and writes, and which of
//! it will be the slowest.
//!
//! Looks with an identity of its own that nobody has seen before, so it works beside a node, touches no state and is
//! treated by the other device as any stranger is: it says hello, and sends noise now and then to be measured.

mod given;
mod interfaces;
mod measure;
mod reach;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use libp2p::identity;
use me_sync_node::errors::chain;
use me_sync_node::net::{self, NetConfig, NetHandle};
use me_sync_protocol::reason::Code;
use serde_json::json;

use self::given::{Given, named};
use self::measure::{Part, disk, hashing, slowest};
use self::reach::{Reached, Way, reach};
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

The first line is the PeerId of this device, and where it listens: what is typed
as PEERID@IP:PORT on another one. That tries TCP and QUIC at the same port; where
they have two, take the multiaddr from that line, with /p2p/PEERID behind it.

A device is heard while it sends, receives, or looks for others. With --peer it
sends up to 32 MiB of noise, for 2 seconds at most, to measure the network. One
that is at a transfer, or was measured within 10 seconds, refuses that, and one
with `probe = false` or an older me-sync cannot be measured; the speed of the
interface stands for it then, where the system knows that.

It ends with 3 if no transport reaches the device, with 8 if nothing can be
written in DIR.";

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
    let (handle, mut events) = net::spawn(config).await.map_err(failed)?;
    // strangers that ask something are refused by what is dropped here
    let deaf = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let looked = look(&args, given, &handle, globals, out, stop).await;
    handle.shutdown().await;
    deaf.await.ok();
    let (heard, reached) = looked?;
    let Reached { part, is_measured, failed: unreached } = reached.unwrap_or_default();
    let mut parts: Vec<Part> = part.into_iter().collect();
    let (here, unwritable) = here(&args, out, stop).await?;
    parts.extend(here);
    let failed = unreached.or(unwritable);
    // where nothing can arrive, nothing is the slowest
    let sentence = if failed.is_some() { None } else { slowest(&parts, is_measured) };
    if let Some(sentence) = &sentence {
        out.data(sentence);
    }
    if args.peer.is_none() && failed.is_none() {
        out.say("--peer DEVICE measures the network to a device");
    }
    let found = json!({ "heard": heard, "bottleneck": sentence, "network_rate_measured": is_measured });
    match failed {
        Some(error) => Err(CliError { extra: found, ..error }),
        None => {
            out.success(found);
            Ok(())
        }
    }
}

/// How fast this device hashes and writes, and why nothing can arrive here.
async fn here(args: &Args, out: Out, stop: &Stop) -> Result<(Vec<Part>, Option<CliError>), CliError> {
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
    let mut parts = vec![Part { what: "hashing on this device".to_owned(), bps: hashed, is_one_stream: false }];
    match written {
        Ok(bps) => {
            out.event("disk", json!({ "dir": args.dir.to_string_lossy(), "bytes_per_second": bps }));
            out.data(format_args!("disk\t{}/s written and flushed in {shown}", human::bytes(bps)));
            parts.push(Part { what: format!("the disk of {shown}"), bps, is_one_stream: false });
            Ok((parts, None))
        }
        Err(err) => {
            out.event("disk", json!({ "dir": args.dir.to_string_lossy(), "error": err.to_string() }));
            out.data(format_args!("disk\tnothing can be written in {shown}: {err}"));
            Ok((parts, Some(unwritable(&shown, &err))))
        }
    }
}

/// As `receive` ends where it cannot write.
fn unwritable(dir: &str, err: &std::io::Error) -> CliError {
    let (code, hint) = match err.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (Code::NoSpace, "make room there, or choose another --dir")
        }
        ErrorKind::NotFound => {
            (Code::TargetParentNotWritable, "make it, or name the directory that the tree is to lie in with --dir")
        }
        _ => (Code::TargetParentNotWritable, "choose a directory of yours with --dir"),
    };
    CliError::coded(code, format!("nothing can be written in {dir}: {err}"), hint).exit(Exit::Preflight)
}

fn failed(err: net::NetError) -> CliError {
    CliError::coded(err.code(), chain(&err).to_string(), "try again").exit(Exit::Node)
}

/// The network: this device, its interfaces, who is heard, and what reaches the device that is meant.
async fn look(
    args: &Args,
    given: Option<Given>,
    handle: &NetHandle,
    globals: &Globals,
    out: Out,
    stop: &Stop,
) -> Result<(Option<usize>, Option<Reached>), CliError> {
    interfaces::show_device(globals, out, stop).await?;
    // to the end: what is heard later may be how the device is reached
    let _search = handle.search().await.map_err(failed)?;
    let heard = if globals.mdns() {
        let listening = spinner(out, format!("listening for {}", human::duration(args.time)));
        let waited = stop.unless(tokio::time::sleep(args.time)).await;
        if let Some(listening) = listening {
            listening.finish_and_clear();
        }
        waited?;
        Some(handle.peers().await.map_err(failed)?)
    } else {
        out.say("mDNS is off (--no-mdns, or `mdns = false`): nothing is listened for");
        None
    };
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces::show(&all, heard.as_deref(), out);
    let count = heard.as_ref().map(Vec::len);
    let Some(given) = given else { return Ok((count, None)) };
    let (peer, address) = match given {
        Given::Key(peer, address) => (peer, address),
        Given::Name(name) => (named(&name, heard.as_deref())?, None),
    };
    let way = Way {
        peer,
        addresses: PeerAddress::of(address.as_slice(), Some(peer), stop).await?,
        one_port: address.is_some_and(|address| !address.names_transport()),
        listened: heard.is_some(),
        interfaces: &all,
    };
    Ok((count, Some(reach(&way, handle, out, stop).await?)))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = human::parse_duration(text)?;
    if time > LONGEST { Err("at most 1m".to_owned()) } else { Ok(time) }
}

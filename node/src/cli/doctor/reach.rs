//! Which transports reach the device that is meant, and how fast bytes come from there.

use std::time::{Duration, Instant};

use if_addrs::Interface;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use me_sync_node::errors::chain;
use me_sync_node::net::{ConnectError, Connected, NetHandle, TransportKind, TransportPreference};
use me_sync_node::probe::{Measured, ProbeError, measure};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::reason::Code;
use serde_json::json;

use super::interfaces::{ips, is_in, speed};
use super::measure::Part;
use crate::cli::exit::{CliError, Exit};
use crate::cli::human;
use crate::cli::out::Out;
use crate::cli::render::spinner;
use crate::cli::stop::Stop;

/// How long one transport is tried.
const DIAL: Duration = Duration::from_secs(10);
/// The same where it is a guess that it listens at the port of the other one, which works.
const GUESS: Duration = Duration::from_secs(3);
/// A ping begins with the connection; one that takes longer is not waited for.
const PING: Duration = Duration::from_secs(1);

/// The device, and what is known of the way to it.
pub(super) struct Way<'a> {
    pub(super) peer: PeerId,
    /// As they were named.
    pub(super) addresses: Vec<Multiaddr>,
    /// Only one port of it was named, and not of which transport that is.
    pub(super) one_port: bool,
    /// mDNS is on.
    pub(super) listened: bool,
    pub(super) interfaces: &'a [Interface],
}

/// What was found out about the way to the device.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// What the network, or its interface, lets through, if that is known.
    pub(super) part: Option<Part>,
    /// It was measured, and is not what the system says of its interface.
    pub(super) is_measured: bool,
    /// No transport reached it: how the command ends.
    pub(super) failed: Option<CliError>,
}

/// How it went over one transport.
enum Try {
    Reached {
        connected: Connected,
        took: Duration,
        rtt: Option<Duration>,
    },
    Failed(ConnectError),
    /// No port of it is known for this transport.
    Unknown,
}

/// Tries each transport by itself, and measures over the first that works.
pub(super) async fn reach(way: &Way<'_>, handle: &NetHandle, out: Out, stop: &Stop) -> Result<Reached, CliError> {
    let mut kinds = [TransportKind::Tcp, TransportKind::Quic];
    // a guess is tried when it is known whether there is anybody at all
    let known = way.known(handle).await;
    kinds.sort_by_key(|kind| !known.contains(kind));
    // a connection that was made to greet it would take no time
    handle.disconnect(way.peer).await;
    let (mut tries, mut through, mut rate) = (Vec::new(), None, None);
    for kind in kinds {
        let known = way.known(handle).await.contains(&kind);
        let busy = spinner(out, format!("trying {kind}"));
        let tried = way.attempt(kind, known, through.is_some(), handle, stop).await;
        if let Some(busy) = busy {
            busy.finish_and_clear();
        }
        let tried = tried?;
        if let (Try::Reached { connected, .. }, None) = (&tried, &through) {
            through = Some(connected.address.clone());
            // once: the device would refuse a second one so soon
            rate = Some((kind, probed(way.peer, handle, out, stop).await?));
        }
        if matches!(tried, Try::Reached { .. }) {
            handle.disconnect(way.peer).await;
        }
        tries.push((kind, known, tried));
    }
    if through.is_some() && way.one_port {
        // where the other transport is heard, a port that is not its own says nothing
        for (.., tried) in tries.iter_mut().filter(|(_, known, _)| !known) {
            if matches!(tried, Try::Failed(ConnectError::NotFound { .. } | ConnectError::Timeout { .. })) {
                *tried = Try::Unknown;
            }
        }
    }
    tries.sort_by_key(|(kind, ..)| *kind == TransportKind::Quic);
    tries.iter().for_each(|(kind, _, tried)| show(*kind, tried, way, out));
    let Some(through) = through else {
        let failed = way.failed(tries.iter().map(|(.., tried)| tried));
        return Ok(Reached { failed: Some(failed), ..Reached::default() });
    };
    let measured = rate.and_then(|(kind, probed)| show_rate(kind, &probed, out));
    if let Some(bps) = measured {
        let part = Part { what: "the network to that device".to_owned(), bps, is_one_stream: true };
        return Ok(Reached { part: Some(part), is_measured: true, failed: None });
    }
    let ip = ips(std::slice::from_ref(&through)).next();
    let interface = ip.and_then(|ip| way.interfaces.iter().find(|one| is_in(one, ip)));
    let part = interface.and_then(|one| {
        Some(Part {
            what: format!("the interface {}", escaped(&one.name)),
            bps: speed(&one.name)?,
            is_one_stream: false,
        })
    });
    Ok(Reached { part, ..Reached::default() })
}

impl Way<'_> {
    /// Over which transports an address of it is known that is no guess: one that was named so, or that it announces.
    async fn known(&self, handle: &NetHandle) -> Vec<TransportKind> {
        let peers = handle.peers().await.unwrap_or_default();
        let announced = peers.into_iter().filter(|known| known.peer_id == self.peer).flat_map(|known| known.addresses);
        let named = if self.one_port { &[][..] } else { &self.addresses };
        named.iter().cloned().chain(announced).map(|address| transport(&address)).collect()
    }

    async fn attempt(
        &self,
        kind: TransportKind,
        is_known: bool,
        is_reached: bool,
        handle: &NetHandle,
        stop: &Stop,
    ) -> Result<Try, CliError> {
        // nothing to dial, and nobody who would still tell an address
        let is_silent = is_reached || !(self.listened || self.addresses.is_empty());
        if !is_known && !self.one_port && is_silent {
            return Ok(Try::Unknown);
        }
        let preference = match kind {
            TransportKind::Tcp => TransportPreference::Tcp,
            TransportKind::Quic => TransportPreference::Quic,
            TransportKind::Ws => TransportPreference::Ws,
        };
        let patience = if is_reached && !is_known { GUESS } else { DIAL };
        let began = Instant::now();
        match stop.unless(handle.connect(self.peer, self.addresses.clone(), preference, patience)).await? {
            Ok(connected) => {
                let took = began.elapsed();
                let ping = tokio::time::timeout(PING, handle.round_trip(self.peer));
                let rtt = stop.unless(ping).await?.ok().flatten();
                Ok(Try::Reached { connected, took, rtt })
            }
            Err(err) => Ok(Try::Failed(err)),
        }
    }

    /// Why a transport does not reach it, in words for whoever has no ticket of it.
    fn why(&self, err: &ConnectError) -> String {
        match err {
            ConnectError::NoAddress { .. } if self.listened => {
                "no address of it is known, and it was not heard".to_owned()
            }
            ConnectError::NoAddress { .. } => "no address of it is known, and mDNS is off".to_owned(),
            ConnectError::NotFound { tried, last, .. } => {
                let places = if *tried == 1 { "the address" } else { "any address" };
                format!("no answer at {places} that is known: {last}")
            }
            ConnectError::WrongPeer { found, address, .. } => format!("another device answers at {address}: {found}"),
            other => chain(other).to_string(),
        }
    }

    /// How the command ends when no transport reaches it.
    fn failed<'t>(&self, tries: impl Iterator<Item = &'t Try>) -> CliError {
        let errors: Vec<_> = tries
            .filter_map(|tried| match tried {
                Try::Failed(err) => Some(err),
                Try::Reached { .. } | Try::Unknown => None,
            })
            .collect();
        let device = human::short_peer(&self.peer.to_string());
        if let Some(err) = errors.iter().find(|err| matches!(err, ConnectError::Version { .. })) {
            return CliError::coded(err.code(), chain(err).to_string(), "compare `me-sync --version` on both");
        }
        let is_other = errors.iter().any(|err| matches!(err, ConnectError::WrongPeer { .. }));
        let hint = if is_other {
            "compare the PeerId and the address with those that `me-sync doctor` there shows"
        } else if self.addresses.is_empty() && !self.listened {
            "mDNS is off: name it by PEERID@IP:PORT, or leave --no-mdns out"
        } else {
            "is it on and in this network, does me-sync run there (node, send or receive), and does its firewall let \
             that through?"
        };
        let message = format!("neither TCP nor QUIC reaches the device {device}");
        CliError::coded(Code::PeerNotFound, message, hint).exit(Exit::PeerNotFound)
    }
}

fn transport(address: &Multiaddr) -> TransportKind {
    let is_quic = address.iter().any(|part| part == Protocol::QuicV1);
    if is_quic { TransportKind::Quic } else { TransportKind::Tcp }
}

fn show(kind: TransportKind, tried: &Try, way: &Way<'_>, out: Out) {
    match tried {
        Try::Reached { connected, took, rtt } => {
            let (address, took) = (connected.address.to_string(), took.as_secs_f64() * 1e3);
            let rtt = rtt.map(|rtt| rtt.as_secs_f64() * 1e3);
            out.event(
                "transport",
                json!({ "transport": kind.as_str(), "reached": true, "address": address, "connect_ms": took,
                    "rtt_ms": rtt, "device_name": connected.hello.device_name }),
            );
            let rtt = rtt.map_or_else(String::new, |ms| format!(", round trip {ms:.1} ms"));
            out.data(format_args!("{kind}\treaches it at {address} in {took:.0} ms{rtt}"));
        }
        Try::Failed(err) => {
            let why = way.why(err);
            let fields =
                json!({ "transport": kind.as_str(), "reached": false, "code": err.code().as_str(), "error": why });
            out.event("transport", fields);
            out.data(format_args!("{kind}\tdoes not reach it: {why}"));
        }
        Try::Unknown => {
            let why = if way.one_port {
                "its port is not known; at the only one that is, it does not answer over this transport"
            } else {
                "not tried: no address of it over this transport is known"
            };
            let fields = json!({ "transport": kind.as_str(), "reached": null, "code": "port_unknown", "error": why });
            out.event("transport", fields);
            out.data(format_args!("{kind}\t{why}"));
        }
    }
}

async fn probed(
    peer: PeerId,
    handle: &NetHandle,
    out: Out,
    stop: &Stop,
) -> Result<Result<Measured, ProbeError>, CliError> {
    let busy = spinner(out, "measuring the network".to_owned());
    let measured = stop.unless(measure(handle, peer)).await;
    if let Some(busy) = busy {
        busy.finish_and_clear();
    }
    measured
}

/// Bytes a second from there on one stream; none if that cannot be measured, which is no reason to fail.
fn show_rate(kind: TransportKind, probed: &Result<Measured, ProbeError>, out: Out) -> Option<u64> {
    match probed {
        Ok(measured) => {
            let (bps, bytes) = (measured.bytes_per_second, measured.bytes);
            out.event(
                "network",
                json!({ "transport": kind.as_str(), "bytes_per_second": bps, "bytes": bytes,
                    "seconds": measured.time.as_secs_f64() }),
            );
            let (shown, bytes) = (human::bytes(bps), human::bytes(bytes));
            out.data(format_args!("network\tabout {shown}/s from there on one stream over {kind} ({bytes} of noise)"));
            Some(bps)
        }
        Err(err) => {
            let again = match err {
                ProbeError::Refused(Code::Busy) => {
                    "; it is at a transfer or was just measured: try again in 10 seconds"
                }
                _ => "",
            };
            let why = format!("{}{again}", chain(err));
            out.event("network", json!({ "transport": kind.as_str(), "error": why }));
            out.data(format_args!("network\tnot measured: {why}"));
            None
        }
    }
}

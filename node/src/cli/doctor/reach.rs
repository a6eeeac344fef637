//! Which transports reach the device that is meant, and how fast bytes come from there.

use std::time::{Duration, Instant};

use if_addrs::Interface;
use libp2p::{Multiaddr, PeerId};
use me_sync_node::errors::chain;
use me_sync_node::net::{NetHandle, TransportKind, TransportPreference};
use me_sync_node::probe::{ProbeError, measure};
use me_sync_protocol::escape::escaped;
use me_sync_protocol::reason::Code;
use serde_json::json;

use super::measure::Bound;
use super::{ips, is_in, speed};
use crate::cli::exit::CliError;
use crate::cli::human;
use crate::cli::out::Out;
use crate::cli::render::spinner;
use crate::cli::stop::Stop;

/// How long one transport is tried.
const DIAL: Duration = Duration::from_secs(10);

/// What was found out about the way to the device.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// What the network does not pass, if that is known.
    pub(super) bound: Option<Bound>,
    /// It was measured, and is not what the system says of its interface.
    pub(super) is_measured: bool,
}

/// Tries each transport by itself, and measures over the first that works.
pub(super) async fn reach(
    peer: PeerId,
    addresses: &[Multiaddr],
    interfaces: &[Interface],
    handle: &NetHandle,
    out: Out,
    stop: &Stop,
) -> Result<Reached, CliError> {
    let (mut through, mut measured) = (None, None);
    for (kind, preference) in
        [(TransportKind::Tcp, TransportPreference::Tcp), (TransportKind::Quic, TransportPreference::Quic)]
    {
        let began = Instant::now();
        let connected = stop.unless(handle.connect(peer, addresses.to_vec(), preference, DIAL)).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        match connected {
            Ok(connected) => {
                let address = connected.address.to_string();
                // a ping follows the hello at once
                let rtt = round_trip(handle, peer, stop).await?.map(|rtt| rtt.as_secs_f64() * 1e3);
                out.event(
                    "transport",
                    json!({ "transport": kind.as_str(), "reached": true, "address": address, "connect_ms": took,
                        "rtt_ms": rtt, "device_name": connected.hello.device_name }),
                );
                let rtt = rtt.map_or_else(String::new, |ms| format!(", round trip {ms:.1} ms"));
                out.data(format_args!("{kind}\treaches it at {address} in {took:.0} ms{rtt}"));
                if through.is_none() {
                    through = ips(std::slice::from_ref(&connected.address)).next();
                    // once: the device would refuse a second one so soon
                    measured = rate(peer, kind, handle, out, stop).await?;
                }
                handle.disconnect(peer).await;
            }
            Err(err) => {
                let why = chain(&err).to_string();
                out.event("transport", json!({ "transport": kind.as_str(), "reached": false, "error": why }));
                out.data(format_args!("{kind}\tdoes not reach it: {why}"));
            }
        }
    }
    if through.is_none() {
        out.data("neither transport reaches it: is it on, in this network, and open for it in its firewall?");
    }
    if let Some(bps) = measured {
        let bound = Bound { what: "the network to that device".to_owned(), bps };
        return Ok(Reached { bound: Some(bound), is_measured: true });
    }
    let interface = through.and_then(|ip| interfaces.iter().find(|one| is_in(one, ip)));
    let bound = interface.and_then(|one| Some((one, speed(&one.name)?)));
    let bound = bound.map(|(one, bps)| Bound { what: format!("the interface {}", escaped(&one.name)), bps });
    Ok(Reached { bound, is_measured: false })
}

/// Bytes a second from there on one stream; none if that cannot be measured, which is no reason to fail.
async fn rate(
    peer: PeerId,
    kind: TransportKind,
    handle: &NetHandle,
    out: Out,
    stop: &Stop,
) -> Result<Option<u64>, CliError> {
    let busy = spinner(out, "measuring the network".to_owned());
    let measured = stop.unless(measure(handle, peer)).await;
    if let Some(busy) = busy {
        busy.finish_and_clear();
    }
    match measured? {
        Ok(measured) => {
            let (bps, bytes) = (measured.bytes_per_second, measured.bytes);
            out.event(
                "network",
                json!({ "transport": kind.as_str(), "bytes_per_second": bps, "bytes": bytes,
                    "seconds": measured.time.as_secs_f64() }),
            );
            let (shown, bytes) = (human::bytes(bps), human::bytes(bytes));
            out.data(format_args!("network\t{shown}/s from there on one stream over {kind} ({bytes} of noise)"));
            Ok(Some(bps))
        }
        Err(err) => {
            let again = match err {
                ProbeError::Refused(Code::Busy) => {
                    "; it is at a transfer or was just measured: try again in 10 seconds"
                }
                _ => "",
            };
            let why = format!("{}{again}", chain(&err));
            out.event("network", json!({ "transport": kind.as_str(), "error": why }));
            out.data(format_args!("network\tnot measured: {why}"));
            Ok(None)
        }
    }
}

/// As the connection's own pings find it; none if there was none within a second.
async fn round_trip(handle: &NetHandle, peer: PeerId, stop: &Stop) -> Result<Option<Duration>, CliError> {
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 0..20 {
        let peers = handle.peers().await.unwrap_or_default();
        if let Some(rtt) = peers.iter().find(|known| known.peer_id == peer).and_then(|known| known.rtt) {
            return Ok(Some(rtt));
        }
        stop.unless(tokio::time::sleep(PAUSE)).await?;
    }
    Ok(None)
}

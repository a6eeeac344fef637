//! The devices that a person says are to be asked for a code, by their keys or only by where they are.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::CodeOptions;
use crate::net::{NetHandle, TransportPreference};

/// An address where nobody answered is tried again after this long: `send` may not have begun there yet.
const AGAIN: Duration = Duration::from_secs(1);

/// A device, and where it may be.
pub(super) type Whereabouts = (PeerId, Vec<Multiaddr>);

/// See the module.
pub(super) struct Named {
    /// Those whose keys are known by now.
    pub(super) peers: Vec<Whereabouts>,
    /// Where somebody is whose key is not, and when it is asked (again).
    unknown: Vec<(Multiaddr, Instant)>,
    asking: FuturesUnordered<BoxFuture<'static, (Multiaddr, Option<PeerId>)>>,
}

impl Named {
    pub(super) fn new(options: &CodeOptions) -> Self {
        let now = Instant::now();
        let unknown = options.addresses.iter().map(|address| (address.clone(), now)).collect();
        Self { peers: options.peers.clone(), unknown, asking: FuturesUnordered::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.unknown.is_empty()
    }

    /// Asks at every address whose time has come who is there.
    pub(super) fn ask(&mut self, net: &NetHandle, transport: TransportPreference) {
        let now = Instant::now();
        for (address, _) in self.unknown.extract_if(.., |(_, due)| *due <= now) {
            let net = net.clone();
            self.asking.push(Box::pin(async move {
                let peer = net.who(address.clone(), transport).await;
                (address, peer)
            }));
        }
    }

    /// Waits for the next answer; never ends while nobody is asked.
    pub(super) async fn answer(&mut self) {
        let Some((address, peer)) = self.asking.next().await else { return std::future::pending().await };
        match peer {
            Some(peer) => self.peers.push((peer, vec![address])),
            None => self.unknown.push((address, Instant::now() + AGAIN)),
        }
    }
}

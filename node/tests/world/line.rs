//! The relay in user space for real processes: on a runtime of its own, driven by tests that block.

use std::net::SocketAddr;
use std::time::Duration;

use me_sync_protocol::ticket::Ticket;
use tokio::runtime::Runtime;

use crate::relay::TcpRelay;

/// Longer than any wait for bytes here.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(20);

/// A TCP line from the importer to the exporter.
pub(crate) struct Line {
    pub(crate) relay: TcpRelay,
    runtime: Runtime,
}

impl Line {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let relay = runtime.block_on(TcpRelay::start(SocketAddr::from(([127, 0, 0, 1], 9))));
        Self { relay, runtime }
    }

    /// Leads to the exporter that made this ticket, and gives a ticket that leads through here.
    pub(crate) fn through(&self, ticket: &str) -> String {
        let mut ticket = Ticket::parse(ticket).unwrap();
        let tcp = ticket.addresses.iter().find_map(|a| a.strip_prefix("/ip4/127.0.0.1/tcp/")).unwrap();
        self.relay.aim(SocketAddr::from(([127, 0, 0, 1], tcp.parse().unwrap())));
        ticket.addresses = vec![format!("/ip4/127.0.0.1/tcp/{}", self.relay.address().port())];
        ticket.to_uri()
    }

    /// Where the exporter of the last ticket listens.
    pub(crate) fn upstream_port(&self) -> u16 {
        self.relay.upstream().port()
    }

    /// Waits until so many bytes have come to the importer, over all connections.
    #[track_caller]
    pub(crate) fn passes(&self, bytes: u64) {
        assert!(self.passes_unless(bytes, || false), "it stands still");
    }

    /// As [`Self::passes`], until `over` says that waiting is no use. False then.
    #[track_caller]
    pub(crate) fn passes_unless(&self, bytes: u64, mut over: impl FnMut() -> bool) -> bool {
        let reached = self.relay.down().reaches(bytes);
        let gone = async {
            // a process that ends tells nobody here
            while !over() {
                tokio::time::sleep(GLANCE).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                () = reached => true,
                () = gone => false,
                () = tokio::time::sleep(PATIENCE) => panic!("it stands still"),
            }
        })
    }
}

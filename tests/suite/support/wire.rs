//! Two nodes with a relay between them, and an importer as stubborn as a person with the same ticket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use me_sync_node::net::{TransportPreference, Transports};
use me_sync_node::{Completion, Consent, ImportOptions, JobHandle, JobView, Offer, Outcome};
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tempfile::TempDir;

use super::relay::{Fate, TcpRelay};
use super::tree::assert_same;
use super::{PATIENCE, TestNode, completed, end, leftovers};

/// Tries of one person before a test calls it hopeless.
const TRIES: usize = 20;

/// The pair. Importer and exporter meet through the relay only.
pub(crate) struct Wire {
    pub(crate) exporter: TestNode,
    pub(crate) importer: TestNode,
    pub(crate) relay: TcpRelay,
    source: PathBuf,
    dir: TempDir,
}

/// How a whole migration went.
#[derive(Debug)]
pub(crate) struct Journey {
    pub(crate) import: Completion,
    /// Payload bytes that came in, over all tries.
    pub(crate) payload: u64,
    /// How often the import was started.
    pub(crate) tries: usize,
}

/// Where a node listens for this transport, as its ticket says.
pub(crate) fn listens(ticket: &Ticket, quic: bool) -> SocketAddr {
    let parsed = ticket.addresses.iter().map(|a| a.parse::<Multiaddr>().expect("an address"));
    let mut wanted = parsed.filter(|a| a.iter().any(|part| part == Protocol::QuicV1) == quic);
    let address = wanted.next().expect("it listens there");
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port) | Protocol::Udp(port))) => (ip, port).into(),
        other => panic!("another shape of address: {other:?}"),
    }
}

/// The ticket with other addresses.
pub(crate) fn through(ticket: &Ticket, tcp: Option<SocketAddr>, quic: Option<SocketAddr>) -> Ticket {
    let tcp = tcp.map(|at| format!("/ip4/{}/tcp/{}", at.ip(), at.port()));
    let quic = quic.map(|at| format!("/ip4/{}/udp/{}/quic-v1", at.ip(), at.port()));
    let mut ticket = ticket.clone();
    ticket.addresses = tcp.into_iter().chain(quic).collect();
    ticket
}

/// Waits until the view is the one, at most [`PATIENCE`].
pub(crate) async fn sees(job: &JobHandle, what: &str, is: impl FnMut(&JobView) -> bool) -> JobView {
    let mut view = job.watch();
    let seen = tokio::time::timeout(PATIENCE, view.wait_for(is)).await;
    match seen {
        Ok(seen) => seen.expect("the job lives").clone(),
        Err(_) => panic!("never {what}: {:#?}", job.view()),
    }
}

pub(crate) async fn waits_for_its_peer(job: &JobHandle) -> JobView {
    sees(job, "waiting", |v| v.phase == Phase::WaitingForPeer).await
}

impl Wire {
    pub(crate) async fn of(source: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let exporter = TestNode::start().await;
        let tcp = Transports { tcp: true, quic: false, ws: false };
        let importer = TestNode::over(tcp).await;
        // aimed once there is a ticket
        let relay = TcpRelay::start(([127, 0, 0, 1], 9).into()).await;
        Self { exporter, importer, relay, source: source.to_owned(), dir }
    }

    /// Both nodes are new ones with the same state.
    pub(crate) async fn restart(self) -> Self {
        let (exporter, importer) = tokio::join!(self.exporter.restart(), self.importer.restart());
        Self { exporter, importer, ..self }
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    /// Offers the source; the ticket leads through the relay.
    pub(crate) async fn offer(&self) -> Offer {
        let mut offer = self.exporter.offer(&self.source).await;
        self.relay.aim(listens(&offer.ticket, false));
        offer.ticket = through(&offer.ticket, Some(self.relay.address()), None);
        offer
    }

    pub(crate) async fn import(&self, offer: &Offer) -> JobHandle {
        self.importer.import(&offer.ticket, &self.target()).await
    }

    /// The whole migration, whatever happens to connection number so and so.
    pub(crate) async fn migrate(&self, fate: impl FnMut(usize) -> Fate + Send + 'static) -> Journey {
        self.relay.fate(fate);
        let offer = self.offer().await;
        let journey = persist(&self.importer, &offer.ticket, &self.target()).await;
        completed(&offer.job).await;
        self.is_whole();
        journey
    }

    /// The tree is there and nothing else of ours.
    pub(crate) fn is_whole(&self) {
        assert_same(&self.source, &self.target());
        assert_eq!(leftovers(self.dir.path()), Vec::<PathBuf>::new());
    }
}

/// Imports with the same ticket into the same directory until the tree is there. An import that ended because the
/// connection never came to a session is simply started again; any other end is a failure.
pub(crate) async fn persist(node: &TestNode, ticket: &Ticket, target: &Path) -> Journey {
    let mut payload = 0;
    for tries in 1..=TRIES {
        let job = node.import(ticket, target).await;
        let outcome = end(&job).await;
        payload += job.view().payload_bytes;
        match outcome {
            Outcome::Completed(import) => return Journey { import, payload, tries },
            Outcome::Failed { code: Code::PeerGone | Code::PeerNotFound | Code::Timeout, .. } => {}
            Outcome::Failed { code, message, .. } => panic!("try {tries} failed with {code}: {message}"),
        }
    }
    panic!("not through after {TRIES} tries");
}

/// An import over one transport only.
pub(crate) async fn import_over(
    node: &TestNode,
    ticket: &Ticket,
    target: &Path,
    over: TransportPreference,
) -> JobHandle {
    let options = ImportOptions { consent: Consent::Given, transport: over, ..ImportOptions::new(target) };
    node.node.handle().import(ticket.clone(), options).await.expect("started")
}

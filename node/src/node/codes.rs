//! Spoken codes at the importer: finds the device nearby that offers one, and proves the code to it (SPEC §6.9, §6.10).

mod named;

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use me_sync_protocol::code::Code as Spoken;
use me_sync_protocol::code::exchange::Asker;
use me_sync_protocol::message::{Request, Response};
use me_sync_protocol::proof::Ends;
use me_sync_protocol::reason::Code;
use me_sync_protocol::ticket::Ticket;
use tokio::time::Instant;

use self::named::{Named, Whereabouts};
use super::NodeHandle;
use crate::net::{NetError, TransportPreference};
use crate::random;

/// Devices that are dialled at once.
const DIALS: usize = 8;
/// How long one of them may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked who has been found.
const LOOK: Duration = Duration::from_millis(200);
/// How much longer another device with that number is looked for when the code was wrong at one.
const GRACE: Duration = Duration::from_secs(2);
/// Devices that get a try: each may be one that plays the exporter and guesses.
const MAX_TRIES: u32 = 3;

/// Where to look for the device that a code comes from.
#[derive(Debug, Clone)]
pub struct CodeOptions {
    /// For how long. Default: 30 s.
    pub timeout: Duration,
    /// Default: TCP first, then QUIC.
    pub transport: TransportPreference,
    /// Devices to ask besides those that mDNS finds, with where they may be.
    pub peers: Vec<(PeerId, Vec<Multiaddr>)>,
    /// The same for those whose key is not known: whoever answers there is asked.
    pub addresses: Vec<Multiaddr>,
}

impl CodeOptions {
    /// The defaults, with these addresses, each of a device that is named at its end (`/p2p/ID`) or not known.
    pub fn at(all: &[Multiaddr]) -> Self {
        let mut options = Self::default();
        for address in all {
            let named = address.iter().find_map(|part| match part {
                Protocol::P2p(peer) => Some(peer),
                _ => None,
            });
            match named {
                Some(peer) => options.peers.push((peer, vec![address.clone()])),
                None => options.addresses.push(address.clone()),
            }
        }
        options
    }
}

impl Default for CodeOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            transport: TransportPreference::default(),
            peers: Vec::new(),
            addresses: Vec::new(),
        }
    }
}

/// A code opened nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// There is no way to find anybody.
    #[error("the device that a code comes from is found by mDNS, which is off, and no address of it is given")]
    NoDiscovery,
    /// Nobody offers it.
    #[error("no device that was found offers code {number} ({asked} answered)")]
    Nobody {
        /// The number of the code.
        number: u16,
        /// Devices that answered.
        asked: usize,
    },
    /// The words are wrong, or came too late.
    #[error("the code is wrong: the device that offers number {number} does not take these words")]
    Wrong {
        /// The number of the code.
        number: u16,
    },
    /// It was not heard whether the words are right; that burns the code too.
    #[error("the connection broke while the code was being checked")]
    Lost,
    /// Somebody else proves it at this moment.
    #[error("another device uses code {number} at this moment")]
    Busy {
        /// The number of the code.
        number: u16,
    },
    /// Too many wrong ones came from here.
    #[error("too many codes were tried from here in a short time")]
    RateLimited,
    /// It did not know the code itself, or gave something else than its ticket.
    #[error("a device answered to code {number} that does not know it ({code}): it is not the one that made the code")]
    Impostor {
        /// The number of the code.
        number: u16,
        /// What it did.
        code: Code,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl From<NetError> for CodeError {
    fn from(_: NetError) -> Self {
        Self::Stopped
    }
}

impl CodeError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NoDiscovery | Self::Nobody { .. } => Code::PeerNotFound,
            Self::Wrong { .. } => Code::TicketInvalid,
            Self::Lost => Code::PeerGone,
            Self::Busy { .. } => Code::Busy,
            Self::RateLimited => Code::RateLimited,
            Self::Impostor { code, .. } => *code,
            Self::Stopped => Code::NodeStopping,
        }
    }

    /// What says most of several devices' answers.
    fn weight(&self) -> u8 {
        match self {
            Self::NoDiscovery | Self::Nobody { .. } => 0,
            Self::Busy { .. } => 1,
            Self::RateLimited => 2,
            Self::Impostor { .. } => 3,
            Self::Lost => 4,
            Self::Wrong { .. } => 5,
            Self::Stopped => 6,
        }
    }
}

impl NodeHandle {
    /// Gets the ticket that a code stands for, from the device nearby that offers it, or at a given address. Of several that offer its number
    /// each gets one try, one after another, and a code that is wrong there is burnt there.
    ///
    /// Dropping the future ends the search; an exchange that was under way then burns the code.
    ///
    /// # Errors
    /// See [`CodeError`].
    // SPEC §6.9
    pub async fn ticket_for(&self, code: &Spoken, options: CodeOptions) -> Result<Ticket, CodeError> {
        let number = code.number();
        let mut named = Named::new(&options);
        if !self.config.mdns && named.is_empty() {
            return Err(CodeError::NoDiscovery);
        }
        let _search = self.net.search().await?;
        let mut deadline = Instant::now() + options.timeout;
        let (mut dialled, mut dials) = (HashSet::new(), FuturesUnordered::new());
        let (mut asked, mut tries) = (0, 0);
        let mut worst: Option<CodeError> = None;
        let mut look = tokio::time::interval(LOOK);
        loop {
            named.ask(&self.net, options.transport);
            for (peer, addresses) in named.peers.iter().cloned().chain(self.nearby().await?) {
                if dials.len() < DIALS && dialled.insert(peer) {
                    let dial = self.net.connect(peer, addresses, options.transport, DIAL_TIMEOUT);
                    dials.push(async move { (peer, dial.await.is_ok()) });
                }
            }
            let peer = tokio::select! {
                () = tokio::time::sleep_until(deadline) => break,
                _ = look.tick() => continue,
                () = named.answer() => continue,
                Some((peer, is_there)) = dials.next(), if !dials.is_empty() => {
                    if !is_there {
                        // its address may be an old one
                        dialled.remove(&peer);
                        continue;
                    }
                    peer
                }
            };
            asked += 1;
            let error = match self.prove(code, peer).await {
                Ok(Some(ticket)) => return Ok(ticket),
                Ok(None) => continue,
                Err(error) => error,
            };
            tracing::info!(%peer, number, %error, "a code opened nothing");
            if matches!(error, CodeError::Wrong { .. } | CodeError::Lost | CodeError::Impostor { .. }) {
                tries += 1;
                deadline = deadline.min(Instant::now() + GRACE);
            }
            if worst.as_ref().is_none_or(|worst| error.weight() > worst.weight()) {
                worst = Some(error);
            }
            if tries >= MAX_TRIES {
                break;
            }
        }
        Err(worst.unwrap_or(CodeError::Nobody { number, asked }))
    }

    /// Who mDNS found and answered.
    async fn nearby(&self) -> Result<Vec<Whereabouts>, NetError> {
        Ok(self.net.peers().await?.into_iter().map(|peer| (peer.peer_id, peer.addresses)).collect())
    }

    /// One exchange with one device. None: it does not offer that number.
    async fn prove(&self, code: &Spoken, peer: PeerId) -> Result<Option<Ticket>, CodeError> {
        let number = code.number();
        let (exporter, importer) = (peer.to_bytes(), self.net.local_peer().to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let (asker, begin) = Asker::begin(code, ends, random::bytes());
        let impostor = |code| CodeError::Impostor { number, code };
        let answer = match self.net.request(peer, Request::CodeBegin(begin)).await {
            Ok(Response::CodeAnswer(answer)) => answer,
            Ok(Response::Refused(Code::Busy)) => return Err(CodeError::Busy { number }),
            Ok(Response::Refused(Code::RateLimited)) => return Err(CodeError::RateLimited),
            // one that knows nothing of codes gives no answer at all
            Ok(Response::Refused(_)) | Err(_) => return Ok(None),
            Ok(_) => return Err(impostor(Code::FrameUnexpected)),
        };
        let (proven, confirm) = asker.answered(&answer).map_err(impostor)?;
        match self.net.request(peer, Request::CodeConfirm(confirm)).await {
            Ok(Response::CodeGiven(given)) => proven.given(&given).map(Some).map_err(impostor),
            Ok(Response::Refused(Code::TicketInvalid)) => Err(CodeError::Wrong { number }),
            Ok(Response::Refused(_)) | Err(_) => Err(CodeError::Lost),
            Ok(_) => Err(impostor(Code::FrameUnexpected)),
        }
    }
}

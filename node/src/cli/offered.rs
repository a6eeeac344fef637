//! An offer that a command follows: of its own process, or of the node that it asked for one.

use std::path::{Path, PathBuf};

use me_sync_node::http::schema::{CreateRequest, CreateResponse};
use me_sync_node::source::{ScanOptions, Source};
use me_sync_node::{ArchiveOptions, Offer, OfferOptions, SentTo, Unfinished};
use me_sync_protocol::escape::escaped;

use super::exit::CliError;
use super::human;
use super::job::Job;
use super::out::Out;
use super::own::Own;
use super::peer_address::typed;
use super::remote::Remote;
use super::render::spinner;
use super::send::found;
use super::stop::Stop;

/// An offer of this process or of the node that runs.
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) ticket_uri: String,
    pub(crate) code: Option<String>,
    /// Devices nearby find this one by the code alone.
    pub(crate) has_mdns: bool,
    pub(crate) expires_at_ms: u64,
    pub(crate) peer_id: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) continues: Option<Unfinished>,
    pub(crate) root: PathBuf,
    pub(crate) choices: ScanOptions,
    /// Who took a tree from this place before.
    pub(crate) before: Vec<SentTo>,
    pub(crate) job: Job,
}

impl Offered {
    /// Where this device is, as `--peer` takes it.
    pub(crate) fn place(&self) -> Option<String> {
        self.addresses.first().map(|address| typed(address))
    }

    /// What to type on the other device to take the tree by its code. Without mDNS it has to be told where this one is.
    pub(crate) fn by_code(&self) -> Option<String> {
        let code = escaped(self.code.as_deref()?).to_string();
        Some(match self.place().filter(|_| !self.has_mdns) {
            Some(place) => format!("me-sync receive {code} DIR --peer {place}"),
            None => format!("me-sync receive {code} DIR"),
        })
    }
}

/// Offers a tree from this process.
pub(crate) async fn offers_here(
    own: &Own,
    source: Source,
    options: OfferOptions,
    devices: usize,
    stop: &Stop,
) -> Result<Vec<Offered>, CliError> {
    let (root, choices) = (source.summary().root.clone(), source.options());
    let node = own.handle();
    let before = stop.unless(node.sent_from(&root)).await??;
    let offers = stop.unless(node.offer_to_many(source, options, devices)).await??;
    offers.iter().for_each(|offer| own.show(&offer.job, &root, None));
    let offered = |offer: Offer| Offered {
        ticket_uri: offer.ticket_uri,
        code: offer.code,
        has_mdns: node.has_mdns(),
        expires_at_ms: offer.expires_at_ms,
        peer_id: node.peer_id(),
        addresses: offer.ticket.addresses,
        continues: offer.continues,
        root: root.clone(),
        choices,
        before: before.clone(),
        job: Job::Here(offer.job),
    };
    Ok(offers.into_iter().map(offered).collect())
}

/// Offers a tree from this process as one archive.
pub(crate) async fn archive_here(
    own: &Own,
    source: Source,
    options: ArchiveOptions,
    stop: &Stop,
) -> Result<Vec<Offered>, CliError> {
    let (root, choices) = (source.summary().root.clone(), source.options());
    let node = own.handle();
    let before = stop.unless(node.sent_from(&root)).await??;
    let offer = stop.unless(node.offer_archive(source, options)).await??;
    own.show(&offer.job, &root, None);
    Ok(vec![Offered {
        ticket_uri: offer.ticket_uri,
        code: None,
        has_mdns: node.has_mdns(),
        expires_at_ms: offer.ticket.expires_at_ms,
        peer_id: node.peer_id(),
        addresses: offer.ticket.addresses,
        continues: None,
        root,
        choices,
        before,
        job: Job::Here(offer.job),
    }])
}

/// Has the node offer a tree, which reads and hashes it once for all.
pub(crate) async fn offers_there(
    remote: &Remote,
    ask: &CreateRequest,
    out: Out,
    stop: &Stop,
) -> Result<Vec<Offered>, CliError> {
    let spinner = spinner(out, format!("looking at {}", human::path(Path::new(&ask.source_path))));
    let made = stop.unless(remote.post::<CreateResponse>("session/create", ask)).await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let mut made = made??;
    found(&made.source, out);
    let others = std::mem::take(&mut made.others);
    let mut offers = vec![offered_there(remote, made.clone()).await?];
    for first in others {
        offers.push(offered_there(remote, CreateResponse { first, ..made.clone() }).await?);
    }
    Ok(offers)
}

/// Takes over what the node has offered.
pub(crate) async fn offered_there(remote: &Remote, made: CreateResponse) -> Result<Offered, CliError> {
    let offer = made.first;
    Ok(Offered {
        job: Job::there(remote.clone(), offer.job_id).await?,
        ticket_uri: offer.ticket_uri,
        code: offer.code,
        has_mdns: remote.health.mdns,
        expires_at_ms: offer.expires_at,
        peer_id: made.peer_id,
        addresses: made.addresses,
        continues: offer.continues.map(|known| Unfinished::from(*known)),
        root: made.source.root,
        choices: ScanOptions::default(),
        before: made.sent_before,
    })
}

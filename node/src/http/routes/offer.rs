//! Offering a tree.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use me_sync_protocol::ids::SessionId;
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

use super::{Api, blocking, seconds, to_its_end};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{Body, within};
use crate::http::gate::Caller;
use crate::http::schema::{Compress, CreateRequest, CreateResponse, TicketOffer};
use crate::node::{ArchiveOffer, ArchiveOptions, Offer, OfferOptions};
use crate::source::{ScanOptions, Source};
use crate::transfer::Compression;

impl From<Compress> for Compression {
    fn from(compress: Compress) -> Self {
        match compress {
            Compress::Auto => Self::Auto,
            Compress::Never => Self::Never,
            Compress::Always => Self::Always,
        }
    }
}

/// Offers a tree and makes a ticket for it.
#[utoipa::path(
    post,
    path = "/me/sync/v4/session/create",
    request_body = CreateRequest,
    responses(
        (status = 201, description = "The offer waits for its importer", body = CreateResponse),
        (status = 400, description = "The body or a value in it is wrong", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "The path, the host name or the origin is not allowed", body = ErrorBody),
        (status = 404, description = "The session that was to go on is not there", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The tree cannot be sent as it is", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 429, description = "Too many jobs", body = ErrorBody),
        (status = 500, description = "The node's state is damaged", body = ErrorBody),
        (status = 503, description = "The node is stopping", body = ErrorBody)
    )
)]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<CreateRequest>,
) -> Result<(StatusCode, Json<CreateResponse>), ApiError> {
    let ttl = within("ttl_secs", ask.ttl_secs, 600, (1, 86_400))?;
    let devices = within("devices", ask.devices, 1, (1, OfferOptions::MAX_DEVICES as u64))? as usize;
    let limit = api.limit(caller, ask.limit_bps)?;
    let path = api.source(caller, ask.source_path).await?;
    let scan = ScanOptions { skip_unreadable: ask.skip_unreadable, skip_unsupported: ask.skip_unsupported };
    let code = match (ask.with_code, ask.no_code) {
        (true, true) => return Err(ApiError::bad_request("with_code and no_code are both given", "give one of them")),
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    if ask.archive {
        if devices != 1 {
            return Err(ApiError::bad_request("an archive is for one device", "offer it once more for another"));
        }
        let compression = ask.compress.map(Compression::from);
        let options = ArchiveOptions { ttl: seconds(ttl), limit, compression, has_v4: !ask.only_v3 };
        let offered = to_its_end(async move { offer_archive(&api, caller, path, scan, options).await }).await?;
        return Ok((StatusCode::CREATED, Json(offered)));
    }
    let options = OfferOptions {
        ttl: seconds(ttl),
        fresh: ask.fresh,
        hash_first: ask.hash_first,
        session: None,
        limit,
        compression: ask.compress.map(Compression::from),
        code,
    };
    let offered = to_its_end(async move { offer(&api, caller, path, scan, options, devices).await }).await?;
    Ok((StatusCode::CREATED, Json(offered)))
}

/// Walks the tree, offers it to so many devices, and follows the jobs.
pub(super) async fn offer(
    api: &Api,
    caller: Caller,
    path: PathBuf,
    scan: ScanOptions,
    options: OfferOptions,
    devices: usize,
) -> Result<CreateResponse, ApiError> {
    let source = walk(api, caller, path, scan).await?;
    let summary = source.summary().clone();
    let sent_before = api.node.sent_from(&summary.root).await?;
    let offers = api.node.offer_to_many(source, options, devices).await?;
    for offer in &offers {
        api.jobs.add(offer.job.clone(), summary.root.clone(), offer.session, None);
    }
    let addresses = offers.first().map(|offer| offer.ticket.addresses.clone()).unwrap_or_default();
    let mut others = Vec::with_capacity(devices);
    for offer in offers {
        others.push(one_of(api, offer).await?);
    }
    // one device has one offer at least
    let first = if others.is_empty() { return Err(ApiError::stopping()) } else { others.remove(0) };
    Ok(CreateResponse { first, peer_id: api.node.peer_id(), addresses, sent_before, source: summary, others })
}

/// Walks a tree that this caller may read.
async fn walk(api: &Api, caller: Caller, path: PathBuf, scan: ScanOptions) -> Result<Source, ApiError> {
    let source = blocking(move || Source::scan(&path, &scan)).await??;
    match caller {
        Caller::User => Ok(source),
        Caller::Token | Caller::Page | Caller::Link | Caller::Anybody => {
            // by the handle that is read from, whatever the path meant a moment ago
            let roots = api.exports.clone();
            Ok(blocking(move || roots.admit_open(source.directory()).map(|()| source)).await??)
        }
    }
}

/// Walks the tree, offers it as an archive, and follows the job.
async fn offer_archive(
    api: &Api,
    caller: Caller,
    path: PathBuf,
    scan: ScanOptions,
    options: ArchiveOptions,
) -> Result<CreateResponse, ApiError> {
    let source = walk(api, caller, path, scan).await?;
    // what is left out shows after this
    let source = blocking(|| source.for_archive()).await??;
    let summary = source.summary().clone();
    let sent_before = api.node.sent_from(&summary.root).await?;
    let ArchiveOffer { ticket, ticket_uri, job } = api.node.offer_archive(source, options).await?;
    let id = ticket.transfer_id;
    let entry = api.jobs.add(job, summary.root.clone(), Some(id), None);
    let first = TicketOffer {
        job_id: entry.id(),
        session_id: id.to_string(),
        ticket_id: id.to_string(),
        qr: qr(&ticket_uri),
        ticket_uri,
        code: None,
        expires_at: ticket.expires_at_ms,
        continues: None,
    };
    let (peer_id, addresses) = (api.node.peer_id(), ticket.addresses);
    Ok(CreateResponse { first, peer_id, addresses, sent_before, source: summary, others: Vec::new() })
}

async fn one_of(api: &Api, offer: Offer) -> Result<TicketOffer, ApiError> {
    let continues = match &offer.continues {
        Some(known) => Some(Box::new(api.known(known.session).await?)),
        None => None,
    };
    Ok(TicketOffer {
        job_id: offer.job.id().number(),
        session_id: offer.session.map(|id: SessionId| id.to_string()).ok_or_else(ApiError::stopping)?,
        ticket_id: offer.ticket.ticket_id.to_string(),
        qr: qr(&offer.ticket_uri),
        ticket_uri: offer.ticket_uri,
        code: offer.code,
        expires_at: offer.expires_at_ms,
        continues,
    })
}

/// A data URL; empty if the text is too long for a code, which no ticket is.
fn qr(text: &str) -> String {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else { return String::new() };
    let image = code.render::<svg::Color<'_>>().min_dimensions(256, 256).build();
    format!("data:image/svg+xml;base64,{}", STANDARD.encode(image))
}

//! The package on its way: from the stream to the spool, to its last byte.

use std::time::Duration;

use me_sync_protocol::archive::message::{Item, Step};
use me_sync_protocol::archive::{Message, Offer};
use me_sync_protocol::ids::Moment;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::super::export::show_moved;
use super::super::show_phase;
use super::ending::{lost, unexpected};
use super::{Ended, Import};
use crate::api::Role;
use crate::archive::wire::{KEEPALIVE, SILENCE, Wire};
use crate::archive::{PackageRefused, Spool, SpoolWriter};
use crate::clock::{Moving, RateMeter};
use crate::coordinator::explain::Failure;
use crate::limit::Rate;

/// Pieces between the stream and the thread that writes them.
const PIECES: usize = 4;
/// How often figures are shown.
const SHOW: Duration = Duration::from_millis(250);

impl Import {
    /// The package, to its last byte and with the SHA-256 that the exporter proved.
    pub(super) async fn receive(&self, wire: &mut Wire, offer: &Offer) -> Result<Spool, Ended> {
        let (state, session, len) = (self.state.clone(), self.ticket.transfer_id, offer.package_len);
        let making =
            tokio::task::spawn_blocking(move || SpoolWriter::create(state.path(), session, len).map_err(Failure::from));
        let writer = self.work(wire, Step::Receiving, making).await?;
        wire.write.say(Message::Take).await.map_err(lost)?;
        show_phase(&self.view, Phase::BulkTransferring);
        let (pieces, mut next) = mpsc::channel::<Vec<u8>>(PIECES);
        let sha256 = offer.package_sha256;
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer = writer;
            while let Some(piece) = next.blocking_recv() {
                writer.write(&piece)?;
                // one that goes on after its end is heard, not waited for
                if writer.is_full() {
                    next.close();
                }
            }
            writer.finish(sha256)
        });
        let moved = self.pieces(wire, offer, pieces).await;
        let written = writing.await.unwrap_or_else(|_| Err(PackageRefused::Stopped));
        match (moved, written) {
            (Err(ended), _) => Err(ended),
            (Ok(()), written) => Ok(written.map_err(Failure::from)?),
        }
    }

    /// Hands on what comes until all has come that was announced, or nobody takes it any more.
    async fn pieces(&self, wire: &mut Wire, offer: &Offer, to: mpsc::Sender<Vec<u8>>) -> Result<(), Ended> {
        let mut left = offer.package_len;
        let (mut rate, mut shown) = (RateMeter::default(), None);
        let began = Instant::now();
        let mut heard = began;
        let mut tick = tokio::time::interval(KEEPALIVE);
        while left > 0 {
            let said = tokio::select! {
                said = timeout_at(heard + SILENCE, wire.read.next()) => said.unwrap_or(Err(Code::Timeout)).map_err(lost)?,
                _ = tick.tick() => {
                    wire.write.say(Message::At(Step::Receiving)).await.map_err(lost)?;
                    continue;
                }
                failure = self.stopping.asked(Role::Importer) => return Err(failure.into()),
            };
            let piece = match said {
                Item::Piece(piece) => piece,
                Item::Message(message) => return Err(unexpected(&message)),
            };
            self.throttle.pass(piece.len()).await;
            let Some(rest) = left.checked_sub(piece.len() as u64) else {
                let longer = PackageRefused::Announced { what: "it is longer", code: Code::SizeMismatch };
                return Err(Failure::from(longer).into());
            };
            left = rest;
            if to.send(piece).await.is_err() {
                // whoever wrote it has something to say
                return Ok(());
            }
            // how long this side took is not the other's silence
            heard = Instant::now();
            if left == 0 || shown.is_none_or(|at: Instant| at.elapsed() >= SHOW) {
                shown = Some(Instant::now());
                let (moved, limit) = (offer.package_len - left, self.throttle.rate().map(Rate::bytes_per_second));
                let bps = rate.sample(Moment(began.elapsed()), Some(Moving::Sent { limit }), moved);
                show_moved(&self.view, (offer.files, moved, offer.package_len), bps, limit);
            }
        }
        Ok(())
    }
}

//! Which tickets are open, and who redeemed which (SPEC §6.3). Single use, bound to the first PeerId,
//! idempotent for it; every other answer is the same `ticket_invalid`.

use std::collections::HashMap;

use libp2p::PeerId;
use me_sync_protocol::ids::{Moment, Secret, SessionId, TicketId};
use me_sync_protocol::message::{Granted, Redeem};
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::Code;

use crate::api::JobId;
use crate::random;
use crate::store::ExportRecord;

/// Smallest chunk a session is granted with.
pub(super) const MIN_CHUNK: u32 = 4096;

/// What a ticket opens.
#[derive(Debug)]
struct Ticket {
    job: JobId,
    secret: Secret,
    expires: Moment,
    expires_wall_ms: u64,
    source_name: String,
    /// Who redeemed it: nobody else ever can, and for this peer it does not expire before its session.
    owner: Option<PeerId>,
    /// The session that the next redemption opens.
    next: SessionId,
    /// The session it opened, unless the exporter ended that one because the tree has changed.
    granted: Option<Granted>,
}

/// The tickets of this node.
#[derive(Debug)]
pub(super) struct TicketBook {
    local: PeerId,
    tickets: HashMap<TicketId, Ticket>,
    /// Stands in for the secret of a ticket that does not exist, so that both answers take as long.
    decoy: Secret,
}

/// An accepted redemption.
#[derive(Debug)]
pub(super) struct Redeemed {
    pub(super) job: JobId,
    pub(super) granted: Granted,
    /// False when the same peer asked again and got the same session.
    pub(super) is_new: bool,
}

/// What this side allows a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    pub(super) lanes: u8,
    pub(super) chunk: u32,
    pub(super) zstd: bool,
    pub(super) holes: bool,
    pub(super) session_expires_ms: u64,
}

impl TicketBook {
    pub(super) fn new(local: PeerId) -> Self {
        Self { local, tickets: HashMap::new(), decoy: Secret::from_bytes(random::bytes()) }
    }

    /// Opens a ticket.
    pub(super) fn issue(
        &mut self,
        job: JobId,
        expires: Moment,
        expires_wall_ms: u64,
        source_name: String,
    ) -> (TicketId, Secret) {
        let id = TicketId(random::bytes());
        let secret = Secret::from_bytes(random::bytes());
        let ticket = Ticket {
            job,
            secret: secret.clone(),
            expires,
            expires_wall_ms,
            source_name,
            owner: None,
            next: SessionId(random::bytes()),
            granted: None,
        };
        self.tickets.insert(id, ticket);
        (id, secret)
    }

    /// Opens the ticket of an earlier process again, for the peer that redeemed it.
    pub(super) fn restore(&mut self, job: JobId, record: &ExportRecord) {
        let ticket = Ticket {
            job,
            secret: record.ticket_secret.clone(),
            expires: Moment::default(),
            expires_wall_ms: 0,
            source_name: record.source_name.clone(),
            owner: record.peer,
            next: SessionId(random::bytes()),
            granted: record.grant.as_ref().map(|g| g.granted(record.source_name.clone())),
        };
        self.tickets.insert(record.ticket, ticket);
    }

    /// The secret of a ticket.
    pub(super) fn secret(&self, ticket: TicketId) -> Option<Secret> {
        self.tickets.get(&ticket).map(|ticket| ticket.secret.clone())
    }

    /// The session that a ticket nobody has redeemed will open.
    pub(super) fn next_session(&self, ticket: TicketId) -> Option<SessionId> {
        self.tickets.get(&ticket).map(|ticket| ticket.next)
    }

    /// Nobody has redeemed this ticket after all.
    pub(super) fn release(&mut self, ticket: TicketId) {
        if let Some(ticket) = self.tickets.get_mut(&ticket) {
            (ticket.owner, ticket.granted) = (None, None);
        }
    }

    /// The session that the job's ticket opened is over, because the tree has changed: its owner may open another.
    pub(super) fn supersede(&mut self, job: JobId) {
        self.tickets.values_mut().filter(|ticket| ticket.job == job).for_each(|ticket| ticket.granted = None);
    }

    /// Closes the ticket of a job that is over.
    pub(super) fn close(&mut self, job: JobId) {
        self.tickets.retain(|_, ticket| ticket.job != job);
    }

    /// Answers a redemption.
    pub(super) fn redeem(
        &mut self,
        peer: PeerId,
        ask: &Redeem,
        ours: Allowance,
        now: Moment,
        wall_ms: u64,
    ) -> Result<Redeemed, Code> {
        let ticket = self.tickets.get_mut(&ask.ticket_id);
        let secret = ticket.as_ref().map_or(&self.decoy, |t| &t.secret);
        let (exporter, importer) = (self.local.to_bytes(), peer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let is_proven = proof::matches(&proof::redeem(secret, ask.ticket_id, ends, ask.nonce), &ask.proof);
        let ticket = ticket.filter(|_| is_proven).ok_or(Code::TicketInvalid)?;
        match ticket.owner {
            Some(owner) if owner != peer => return Err(Code::TicketInvalid),
            Some(_) => {
                if let Some(granted) = &ticket.granted {
                    // the same session; whether packed chunks and holes come is a question of each conversation
                    let (zstd, holes) = (ours.zstd && ask.zstd, ours.holes && ask.holes);
                    let granted = Granted { zstd, holes, ..granted.clone() };
                    return Ok(Redeemed { job: ticket.job, granted, is_new: false });
                }
            }
            // whichever clock says so: a sleeping machine or a clock set back must not keep a ticket alive
            None if now >= ticket.expires || wall_ms >= ticket.expires_wall_ms => return Err(Code::TicketInvalid),
            None => {}
        }
        let lanes = ours.lanes.min(ask.max_lanes);
        let chunk = ours.chunk.min(ask.max_chunk);
        // SPEC 6.2-3, 6.3-6: sessions without lanes come with the one-pipe transport; tiny chunks are a waste of everybody's time
        if lanes == 0 || chunk < MIN_CHUNK {
            return Err(Code::VersionMismatch);
        }
        let granted = Granted {
            session_id: std::mem::replace(&mut ticket.next, SessionId(random::bytes())),
            resume_secret: Secret::from_bytes(random::bytes()),
            expires_at_ms: ours.session_expires_ms,
            lanes,
            max_chunk: chunk,
            source_name: ticket.source_name.clone(),
            zstd: ours.zstd && ask.zstd,
            holes: ours.holes && ask.holes,
        };
        (ticket.owner, ticket.granted) = (Some(peer), Some(granted.clone()));
        Ok(Redeemed { job: ticket.job, granted, is_new: true })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use me_sync_protocol::ids::{Digest, Nonce};

    use super::*;

    struct Case {
        book: TicketBook,
        id: TicketId,
        secret: Secret,
    }

    const OURS: Allowance = Allowance { lanes: 4, chunk: 10_000, zstd: true, holes: true, session_expires_ms: 5 };

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    fn case() -> Case {
        let mut book = TicketBook::new(PeerId::random());
        let (id, secret) = book.issue(JobId(1), at(600), 600_000, "photos".into());
        Case { book, id, secret }
    }

    impl Case {
        fn ask(&self, peer: PeerId) -> Redeem {
            let (exporter, importer) = (self.book.local.to_bytes(), peer.to_bytes());
            let ends = Ends { exporter: &exporter, importer: &importer };
            let nonce = Nonce([1; 16]);
            let proof = proof::redeem(&self.secret, self.id, ends, nonce);
            let ticket_id = self.id;
            let (late_hashes, zstd, holes) = (None, false, false);
            Redeem { ticket_id, nonce, proof, max_lanes: 2, max_chunk: 50_000, late_hashes, zstd, holes }
        }

        fn redeem(&mut self, peer: PeerId, ask: &Redeem, now: u64) -> Result<Redeemed, Code> {
            self.book.redeem(peer, ask, OURS, at(now), now * 1000)
        }
    }

    #[test]
    fn the_first_peer_gets_a_session_and_the_same_one_again() {
        let (mut case, peer) = (case(), PeerId::random());
        let ask = case.ask(peer);
        let first = case.redeem(peer, &ask, 1).expect("granted");
        assert!(first.is_new);
        assert_eq!((first.granted.lanes, first.granted.max_chunk), (2, 10_000));
        let again = case.redeem(peer, &ask, 700).expect("the same session, expiry or not");
        assert_eq!((again.is_new, again.granted), (false, first.granted));
    }

    // SPEC §6.3
    #[test]
    fn packed_chunks_are_granted_to_who_asks_for_them_each_time_anew() {
        let (mut case, peer) = (case(), PeerId::random());
        let zstd = |case: &mut Case, zstd| {
            let ask = Redeem { zstd, ..case.ask(peer) };
            case.redeem(peer, &ask, 1).expect("granted").granted.zstd
        };
        assert_eq!([true, false, true].map(|asked| zstd(&mut case, asked)), [true, false, true]);
        let ask = Redeem { zstd: true, ..case.ask(peer) };
        let never = case.book.redeem(peer, &ask, Allowance { zstd: false, ..OURS }, at(1), 1000).expect("granted");
        assert!(!never.granted.zstd);
    }

    // SPEC §6.3
    #[test]
    fn holes_are_granted_to_who_asks_for_them_each_time_anew_and_not_with_packed_chunks() {
        let (mut case, peer) = (case(), PeerId::random());
        let mut granted = |zstd, holes| {
            let ask = Redeem { zstd, holes, ..case.ask(peer) };
            let granted = case.redeem(peer, &ask, 1).expect("granted").granted;
            (granted.zstd, granted.holes)
        };
        for asked in [(false, true), (true, false), (true, true), (false, false)] {
            assert_eq!(granted(asked.0, asked.1), asked);
        }
    }

    // RELIABILITY A75-A78, A81: one answer for everything that is wrong
    #[test]
    fn used_expired_foreign_wrong_and_closed_tickets_have_one_answer() {
        let peer = PeerId::random();
        let answer = |change: &dyn Fn(&mut Case, &mut Redeem), now| {
            let mut case = case();
            let mut ask = case.ask(peer);
            change(&mut case, &mut ask);
            case.redeem(peer, &ask, now).map(drop)
        };
        let invalid = Err(Code::TicketInvalid);
        assert_eq!(answer(&|_, _| {}, 599), Ok(()));
        assert_eq!(answer(&|_, _| {}, 600), invalid);
        assert_eq!(answer(&|_, ask| ask.proof = Digest([0; 32]), 1), invalid);
        assert_eq!(answer(&|_, ask| ask.ticket_id = TicketId([0; 16]), 1), invalid);
        assert_eq!(answer(&|_, ask| ask.nonce = Nonce([9; 16]), 1), invalid);
        assert_eq!(answer(&|case, _| case.book.close(JobId(1)), 1), invalid);
        let used = |case: &mut Case, _: &mut Redeem| {
            let other = PeerId::random();
            let ask = case.ask(other);
            case.redeem(other, &ask, 1).expect("the other was first");
        };
        assert_eq!(answer(&used, 1), invalid);
    }

    #[test]
    fn either_clock_ends_a_ticket() {
        let (mut case, peer) = (case(), PeerId::random());
        let ask = case.ask(peer);
        assert_eq!(case.book.redeem(peer, &ask, OURS, at(1), 600_000).err(), Some(Code::TicketInvalid));
        assert_eq!(case.book.redeem(peer, &ask, OURS, at(600), 1).err(), Some(Code::TicketInvalid));
    }

    #[test]
    fn a_session_without_lanes_or_with_tiny_chunks_is_refused_by_name() {
        let (mut case, peer) = (case(), PeerId::random());
        let ask = Redeem { max_lanes: 0, ..case.ask(peer) };
        assert_eq!(case.redeem(peer, &ask, 1).err(), Some(Code::VersionMismatch));
        let ask = Redeem { max_chunk: 100, ..case.ask(peer) };
        assert_eq!(case.redeem(peer, &ask, 1).err(), Some(Code::VersionMismatch));
    }
}

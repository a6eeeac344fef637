//! What a peer asks for by request (SPEC §6): a session by ticket or by its resume secret, its state, its end.

use libp2p::PeerId;
use me_sync_protocol::ids::{Secret, SessionId};
use me_sync_protocol::limits;
use me_sync_protocol::message::{Redeem, Request, Response, Resume, SessionResult};
use me_sync_protocol::proof::{self, Ends};
use me_sync_protocol::reason::Code;

use super::jobs::REMEMBERED;
use super::tickets::Allowance;
use super::{Coordinator, Event, Job, state_of};
use crate::clock::{self, LastSeen};
use crate::net::{Connected, Reply};
use crate::store::{SessionStatus, StoreError, StoreHandle};
use crate::transfer::Compression;

impl Coordinator {
    pub(super) fn request(&mut self, peer: PeerId, from: Option<Connected>, request: &Request, reply: Reply) {
        match request {
            Request::Redeem(redeem) => self.redeem(peer, from, redeem, reply),
            Request::Resume(resume) => match self.resume_for(peer, from, resume) {
                Some(answer) => reply.send(answer),
                None => {
                    // no job here works on it; what is on record decides whether to ask again later
                    let (store, local, resume) = (self.shared.store.clone(), self.shared.net.local_peer(), *resume);
                    tokio::spawn(async move {
                        reply.send(Response::Refused(at_rest(&store, local, peer, &resume).await));
                    });
                }
            },
            Request::Status(query) => reply.send(self.status(peer, query.session_id)),
            Request::Result(result) => self.result(peer, result, reply),
            Request::Abort(abort) => {
                let found = self.jobs.iter().find(|(_, job)| job.session() == Some((abort.session_id, peer)));
                let is_applying = matches!(found, Some((_, Job::Import(job))) if job.is_applying());
                match found.map(|(id, _)| *id) {
                    // 5.7-4, 6.6-1: an apply goes on whatever the exporter says
                    Some(_) if is_applying => reply.send(Response::Done),
                    Some(id) => {
                        self.stopped_by_peer(id);
                        reply.send(Response::Done);
                    }
                    // asked again, the answer is the same
                    None if self.has_ended(peer, abort.session_id) => reply.send(Response::Done),
                    None => reply.send(Response::Refused(Code::SessionUnknown)),
                }
            }
            Request::CodeBegin(ask) => {
                let (answer, news) = match self.offers_code(ask.number) {
                    true => self.codes.begin(peer, ask, self.shared.clock.now(), clock::wall_ms()),
                    false => (Err(Code::TicketInvalid), None),
                };
                news.into_iter().for_each(|news| self.tell_code(news));
                reply.send(answer.map_or_else(Response::Refused, Response::CodeAnswer));
            }
            Request::CodeConfirm(ask) => {
                let (answer, news) = match self.offers_code(ask.number) {
                    true => self.codes.confirm(peer, ask, self.shared.clock.now()),
                    false => (Err(Code::TicketInvalid), None),
                };
                news.into_iter().for_each(|news| self.tell_code(news));
                reply.send(answer.map_or_else(Response::Refused, Response::CodeGiven));
            }
            Request::Hello(_) => reply.send(Response::Refused(Code::FrameUnexpected)),
        }
    }

    /// A job that is over and still saying good-bye keeps its code in the book until it is gone.
    fn offers_code(&self, number: u16) -> bool {
        self.codes.job(number).and_then(|job| self.jobs.get(&job)).is_some_and(|job| !job.is_over())
    }

    fn allowance(&self) -> Allowance {
        Allowance {
            lanes: self.shared.max_lanes,
            chunk: self.shared.max_chunk,
            zstd: self.shared.compression != Compression::Never,
            holes: true,
            session_expires_ms: clock::wall_ms() + limits::SESSION_TTL.as_millis() as u64,
        }
    }

    fn redeem(&mut self, peer: PeerId, from: Option<Connected>, redeem: &Redeem, reply: Reply) {
        let answer = self.tickets.redeem(peer, redeem, self.allowance(), self.shared.clock.now(), clock::wall_ms());
        // a job that is over and still saying good-bye keeps its ticket in the book until it is gone
        let is_over = |job| self.jobs.get(job).is_none_or(Job::is_over);
        let answer = match answer {
            Ok(redeemed) if is_over(&redeemed.job) => Err(Code::TicketInvalid),
            other => other,
        };
        let is_busy = |job| match self.jobs.get(job) {
            Some(Job::Export(job)) => !job.takes_ticket(redeem.ticket_id),
            Some(Job::Import(_) | Job::Archive(_)) | None => false,
        };
        let answer = match answer {
            Ok(redeemed) if redeemed.is_new && is_busy(&redeemed.job) => {
                self.tickets.release(redeem.ticket_id);
                Err(Code::Busy)
            }
            other => other,
        };
        let redeemed = match answer {
            Ok(redeemed) => redeemed,
            Err(code) => {
                tracing::info!(%peer, %code, "a ticket was refused");
                return reply.send(Response::Refused(code));
            }
        };
        let granted = Response::Granted(redeemed.granted.clone());
        let late = redeem.late_hashes == Some(true);
        let Some(Job::Export(job)) = self.jobs.get_mut(&redeemed.job) else { return };
        if !redeemed.is_new {
            // the ticket of an earlier session, while the job serves another importer
            if job.session() != Some((redeemed.granted.session_id, peer)) {
                return reply.send(Response::Refused(Code::NotOffered));
            }
            job.granted_again(late, &redeemed.granted, &self.shared);
            return reply.send(granted);
        }
        job.granted(redeem.ticket_id, peer, from, redeemed.granted, late, &self.shared);
        let news = self.codes.redeemed(redeem.ticket_id, peer);
        // 6.3: the answer goes out when the session would survive a crash of this process
        let (store, record) = (self.shared.store.clone(), job.record().clone());
        news.into_iter().for_each(|news| self.tell_code(news));
        tokio::spawn(async move {
            match store.put_export(record).await {
                Ok(()) => reply.send(granted),
                Err(e) => {
                    tracing::error!(error = %crate::errors::chain(&e), "a session cannot be recorded");
                    reply.send(Response::Refused(Code::Busy));
                }
            }
        });
    }

    /// Same peer and same resume secret, or the session does not exist for it. None: no job here works on it.
    fn resume_for(&mut self, peer: PeerId, from: Option<Connected>, ask: &Resume) -> Option<Response> {
        let ours = self.allowance();
        let local = self.shared.net.local_peer();
        let exports = self.jobs.values_mut().filter_map(|job| match job {
            Job::Export(job) if !job.is_over() => Some(job),
            Job::Export(_) | Job::Import(_) | Job::Archive(_) => None,
        });
        for job in exports {
            if job.session() == Some((ask.session_id, peer)) {
                let proven = job.resume_secret().is_some_and(|secret| is_proven(secret, local, peer, ask));
                let resumed =
                    if proven { job.resumed(from, ask, ours, &self.shared) } else { Err(Code::SessionUnknown) };
                return Some(match resumed {
                    Ok(resumed) => Response::Resumed(resumed),
                    Err(code) => {
                        tracing::info!(%peer, session = %ask.session_id.short(), %code, "a resume was refused");
                        Response::Refused(code)
                    }
                });
            }
            if job.is_superseded(ask.session_id) && job.record().peer == Some(peer) {
                return Some(Response::Refused(Code::ManifestChanged));
            }
        }
        let ended = self.ended.iter().find(|(session, owner, _)| (*session, *owner) == (ask.session_id, peer));
        // whoever resumes has not heard how it ended
        ended.and_then(|(_, _, state)| state.code).map(Response::Refused)
    }

    fn result(&mut self, peer: PeerId, result: &SessionResult, reply: Reply) {
        let session = (result.session_id, peer);
        let has_ended = self.has_ended(peer, result.session_id);
        let live = self.jobs.values_mut().find(|job| job.session() == Some(session));
        match live {
            Some(Job::Export(job)) => match job.result(result.failed, &self.shared) {
                Ok(()) => reply.send(Response::Done),
                Err(code) => reply.send(Response::Refused(code)),
            },
            Some(Job::Import(_) | Job::Archive(_)) => reply.send(Response::Refused(Code::FrameUnexpected)),
            None if has_ended => reply.send(Response::Done),
            None => {
                // no job here works on it: the record is all there is to bring up to date
                let (store, failed) = (self.shared.store.clone(), result.failed);
                let (id, events) = (result.session_id, self.shared.events.clone());
                tokio::spawn(async move {
                    reply.send(match settle(&store, id, peer, failed).await {
                        Ok(true) => {
                            // an offer that has read the record before knows nothing of this
                            events.send(Event::Settled(id, failed)).await.ok();
                            Response::Done
                        }
                        Ok(false) => Response::Refused(Code::SessionUnknown),
                        Err(_) => Response::Refused(Code::Busy),
                    });
                });
            }
        }
    }

    /// A job that began meanwhile with an older record hears of it, and so does one that begins now.
    pub(super) fn settled(&mut self, id: SessionId, failed: Option<Code>) {
        self.settled.truncate(REMEMBERED - 1);
        self.settled.push_front(id);
        let mut exports = self.jobs.values_mut().filter_map(|job| match job {
            Job::Export(job) if !job.is_over() => Some(job),
            Job::Export(_) | Job::Import(_) | Job::Archive(_) => None,
        });
        if let Some(job) = exports.find(|job| job.session().is_some_and(|(session, _)| session == id))
            && let Err(code) = job.result(failed, &self.shared)
        {
            tracing::warn!(session = %id.short(), %code, "a result that was noted does not fit");
        }
    }

    fn has_ended(&self, peer: PeerId, id: SessionId) -> bool {
        self.ended.iter().any(|(session, owner, _)| (*session, *owner) == (id, peer))
    }

    /// Only the peer that takes part may know about a session.
    fn status(&self, peer: PeerId, id: SessionId) -> Response {
        let live = self.jobs.values().find(|job| job.session() == Some((id, peer)));
        if let Some(job) = live {
            return Response::Status(state_of(&job.view().borrow()));
        }
        let ended = self.ended.iter().find(|(session, owner, _)| (*session, *owner) == (id, peer));
        ended.map_or(Response::Refused(Code::SessionUnknown), |(_, _, state)| Response::Status(*state))
    }
}

/// Notes at the record how a session ended that no job works on. False if it is not this peer's.
async fn settle(store: &StoreHandle, id: SessionId, peer: PeerId, failed: Option<Code>) -> Result<bool, StoreError> {
    let Some(mut record) = store.export_of(id).await?.filter(|record| record.peer == Some(peer)) else {
        return Ok(false);
    };
    if !record.state.is_over() {
        record.state = if failed.is_none() { SessionStatus::Completed } else { SessionStatus::Ended };
        record.failed_code = failed;
        record.last = LastSeen::now();
        store.put_export(record).await?;
    }
    Ok(true)
}

/// What to answer a peer that resumes a session that no job works on.
async fn at_rest(store: &StoreHandle, local: PeerId, peer: PeerId, ask: &Resume) -> Code {
    let Ok(record) = store.export_of(ask.session_id).await else { return Code::Busy };
    let owned = record.filter(|record| record.peer == Some(peer));
    let proven =
        owned.filter(|record| record.grant.as_ref().is_some_and(|g| is_proven(&g.resume_secret, local, peer, ask)));
    match proven {
        Some(record) if !record.state.is_over() => Code::NotOffered,
        Some(record) => record.failed_code.unwrap_or(Code::SessionUnknown),
        None => Code::SessionUnknown,
    }
}

/// SPEC 6.4-1, 6.4-2
fn is_proven(secret: &Secret, local: PeerId, peer: PeerId, ask: &Resume) -> bool {
    let (exporter, importer) = (local.to_bytes(), peer.to_bytes());
    let ends = Ends { exporter: &exporter, importer: &importer };
    proof::matches(&proof::resume(secret, ask.session_id, ends, ask.nonce), &ask.proof)
}

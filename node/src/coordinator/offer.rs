//! Offers: tickets and jobs for a source that is hashed while the importers are still on their way.

use me_sync_protocol::reason::Code;
use tokio::sync::watch;

use super::codes::Stands;
use super::explain::Failure;
use super::sources::{Hashed, HashingId};
use super::{Coordinator, Job, MAX_JOBS, OfferPlan, TicketParts, export};
use crate::api::{JobHandle, JobId, JobView, Role};
use crate::clock;
use crate::source::{Outline, Source};
use crate::store::ExportRecord;

impl Coordinator {
    /// Offers a source to so many devices, each with a ticket and a job of its own; earlier sessions of it go on, one in
    /// each job, as far as they reach.
    pub(super) fn offer(
        &mut self,
        source: Source,
        offer: OfferPlan,
        mut earlier: Vec<ExportRecord>,
        devices: usize,
    ) -> Result<Vec<(TicketParts, JobHandle)>, Code> {
        if self.jobs.len() + devices > MAX_JOBS {
            return Err(Code::Busy);
        }
        let jobs = (0..devices).map(|_| self.admit()).collect::<Result<Vec<_>, _>>()?;
        let expires = self.shared.clock.now().after(offer.ttl);
        let expires_at_ms = clock::wall_ms().saturating_add(u64::try_from(offer.ttl.as_millis()).unwrap_or(u64::MAX));
        earlier.retain(|record| !self.is_live(record) && !self.is_settled(record));
        let mut earlier = earlier.into_iter();
        let name =
            source.summary().root.file_name().map_or_else(|| "/".to_owned(), |n| n.to_string_lossy().into_owned());
        let mut made = Vec::with_capacity(devices);
        for id in &jobs {
            // a ticket for whoever comes, and besides it the earlier session, for its own importer only
            let (ticket, secret) = self.tickets.issue(*id, expires, expires_at_ms, name.clone());
            let fresh = export::first_record(ticket, secret.clone(), expires_at_ms, &source, name.clone());
            let earlier = earlier.next();
            let continues = earlier.as_ref().and_then(|record| record.grant.as_ref()).map(|grant| grant.session);
            if let Some(record) = &earlier {
                self.tickets.restore(*id, record);
            }
            let session = continues.or(self.tickets.next_session(ticket));
            let code = offer.with_code && earlier.is_none();
            let face = offer.device.ticket(ticket, secret, expires_at_ms);
            let code = code.then(|| {
                let uri = face.to_uri();
                self.codes.issue(Stands { job: *id, ticket, uri, expires, expires_wall_ms: expires_at_ms })
            });
            made.push((*id, TicketParts { ticket: face, code, session, continues }, fresh, earlier));
        }
        let walk = source.walk_id();
        let (part, begin) = self.sources.wait_for(source, &jobs, || self.shared.late());
        if let Some(begin) = begin {
            begin.run(self.shared.hashes.clone(), self.shared.events.clone());
        }
        let started = made.into_iter().map(|(id, parts, fresh, earlier)| {
            let view = JobView { spoken_code: parts.code.clone(), ..JobView::new(Role::Exporter) };
            let (view, watch) = watch::channel(view);
            let (limit, throttle) = self.limits();
            // an outline is for one: several share one manifest
            let may_outline = !offer.hash_first && devices == 1;
            let compression = offer.compression.unwrap_or(self.shared.compression);
            let walk = export::Walk { id: walk.clone(), at: self.shared.clock.now() };
            let start =
                export::Start { part: part.clone(), walk, may_outline, expires, throttle, compression, fresh, earlier };
            let job = export::ExportJob::new(id, view, start, &self.shared);
            self.jobs.insert(id, Job::Export(Box::new(job)));
            (parts, JobHandle { id, view: watch, limit, coordinator: self.handle.clone() })
        });
        Ok(started.collect())
    }

    /// One that a job of this node works on is not over with its process.
    fn is_live(&self, record: &ExportRecord) -> bool {
        self.jobs.values().any(|job| matches!(job, Job::Export(job) if job.record().ticket == record.ticket))
    }

    /// Nor does one go on whose result came while its record was read.
    fn is_settled(&self, record: &ExportRecord) -> bool {
        record.grant.as_ref().is_some_and(|grant| self.settled.contains(&grant.session))
    }

    /// A hashing ended early for an outline. If that is not for the one offer that waits, it goes on.
    pub(super) fn outlined(&mut self, id: HashingId, outline: Box<Outline>) {
        let job = self.sources.waits_alone(id).and_then(|job| self.jobs.get_mut(&job));
        let source = match job {
            Some(Job::Export(job)) if job.takes_outline() => {
                self.sources.done(id);
                return job.outlined(outline, &self.shared);
            }
            Some(Job::Export(_) | Job::Import(_) | Job::Archive(_)) | None => outline.into_source(Vec::new()),
        };
        if let Some(begin) = self.sources.go_on(id, source) {
            begin.run(self.shared.hashes.clone(), self.shared.events.clone());
        }
    }

    /// The tree of an offer was looked at again, as it has changed: it is hashed anew, and its importer may redeem the
    /// ticket for that.
    pub(super) fn rescanned(&mut self, id: JobId, result: Result<Option<Source>, Failure>) {
        let Some(Job::Export(job)) = self.jobs.get_mut(&id) else { return };
        let Some(source) = job.rescanned(result, &self.shared) else { return };
        let walk = export::Walk { id: source.walk_id(), at: self.shared.clock.now() };
        let (part, begin) = self.sources.wait_for(source, &[id], || self.shared.late());
        job.hash_again(part, walk);
        if job.session().is_none() {
            self.tickets.supersede(id);
        }
        if let Some(begin) = begin {
            begin.run(self.shared.hashes.clone(), self.shared.events.clone());
        }
    }

    /// A hashing is over; all offers that waited for it have one snapshot.
    pub(super) fn hashed(&mut self, id: HashingId, hashed: &Hashed) {
        for id in self.sources.done(id) {
            let Some(Job::Export(job)) = self.jobs.get_mut(&id) else { continue };
            job.hashed(hashed.clone(), &self.shared);
            if job.session().is_none() {
                self.tickets.supersede(id);
            }
        }
    }
}

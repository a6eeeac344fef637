//! Spoken codes of the tickets that nobody has redeemed (SPEC §6.9, §6.10). A code is good for one try: after a wrong one
//! its offer gets another, a few times, and then none. Who has proven a code may do so again, as its ticket is its own.

use std::collections::BTreeMap;

use libp2p::PeerId;
use me_sync_protocol::code::Code as Spoken;
use me_sync_protocol::code::exchange::{Guard, Random, Withheld};
use me_sync_protocol::ids::{Moment, TicketId};
use me_sync_protocol::limits::MAX_BURNT;
use me_sync_protocol::message::{CodeAnswer, CodeBegin, CodeConfirm, CodeGiven};
use me_sync_protocol::proof::Ends;
use me_sync_protocol::reason::Code;

use crate::api::JobId;
use crate::random;

/// A ticket as its code hands it out.
#[derive(Debug, Clone)]
pub(super) struct Stands {
    pub(super) job: JobId,
    pub(super) ticket: TicketId,
    pub(super) uri: String,
    pub(super) expires: Moment,
    pub(super) expires_wall_ms: u64,
}

#[derive(Debug)]
struct Open {
    guard: Guard,
    stands: Stands,
    burnt: u32,
}

/// What people who wait at an offer should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    pub(super) job: JobId,
    /// The code from now on; none if it is used, or if there are no more.
    pub(super) code: Option<String>,
    /// How many of this offer were burnt.
    pub(super) burnt: u32,
}

/// The codes of this node, by their number: at most one a job.
#[derive(Debug)]
pub(super) struct CodeBook {
    local: PeerId,
    open: BTreeMap<u16, Open>,
}

impl CodeBook {
    pub(super) fn new(local: PeerId) -> Self {
        Self { local, open: BTreeMap::new() }
    }

    /// Makes a code for a ticket.
    pub(super) fn issue(&mut self, stands: Stands) -> String {
        self.add(stands, 0)
    }

    fn add(&mut self, stands: Stands, burnt: u32) -> String {
        let code = loop {
            let code = Spoken::draw(random::bytes());
            // there are some 60 times as many numbers as jobs
            if !self.open.contains_key(&code.number()) {
                break code;
            }
        };
        let text = code.to_text();
        self.open.insert(code.number(), Open { guard: Guard::new(code), stands, burnt });
        text
    }

    /// Whose code has this number.
    pub(super) fn job(&self, number: u16) -> Option<JobId> {
        self.open.get(&number).map(|open| open.stands.job)
    }

    /// A peer begins to prove a code.
    pub(super) fn begin(
        &mut self,
        peer: PeerId,
        ask: &CodeBegin,
        now: Moment,
        wall_ms: u64,
    ) -> (Result<CodeAnswer, Code>, Option<News>) {
        let (exporter, importer) = (self.local.to_bytes(), peer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let Some(open) = self.open.get_mut(&ask.number) else { return (Err(Code::TicketInvalid), None) };
        // whichever clock says so; a ticket that was redeemed does not expire before its session
        let is_over = now >= open.stands.expires || wall_ms >= open.stands.expires_wall_ms;
        if is_over && open.guard.owner().is_none() {
            return (Err(Code::TicketInvalid), None);
        }
        let random: Random = random::bytes();
        let answer = open.guard.begin(ends, ask, random, now);
        self.withheld(ask.number, answer)
    }

    /// A peer proves a code; the ticket, if it is right.
    pub(super) fn confirm(
        &mut self,
        peer: PeerId,
        ask: &CodeConfirm,
        now: Moment,
    ) -> (Result<CodeGiven, Code>, Option<News>) {
        let (exporter, importer) = (self.local.to_bytes(), peer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let Some(open) = self.open.get_mut(&ask.number) else { return (Err(Code::TicketInvalid), None) };
        let was_owned = open.guard.owner().is_some();
        let answer = open.guard.confirm(ends, ask, &open.stands.uri, now);
        match answer {
            // it is used, and nothing that anybody else could say any more
            Ok(given) if !was_owned => {
                let news = News { job: open.stands.job, code: None, burnt: open.burnt };
                (Ok(given), Some(news))
            }
            answer => self.withheld(ask.number, answer),
        }
    }

    fn withheld<T>(&mut self, number: u16, answer: Result<T, Withheld>) -> (Result<T, Code>, Option<News>) {
        match answer {
            Ok(answer) => (Ok(answer), None),
            Err(Withheld::Refused(code)) => (Err(code), None),
            Err(Withheld::Burnt) => (Err(Code::TicketInvalid), self.burn(number)),
        }
    }

    /// The code is good for nothing any more; another takes its place, unless somebody has the ticket or too many were
    /// burnt.
    fn burn(&mut self, number: u16) -> Option<News> {
        let Open { guard, stands, burnt } = self.open.remove(&number)?;
        if guard.owner().is_some() {
            return None;
        }
        let (job, burnt) = (stands.job, burnt + 1);
        tracing::warn!(number, burnt, "a spoken code was burnt by a wrong try");
        let code = (burnt < MAX_BURNT).then(|| self.add(stands, burnt));
        Some(News { job, code, burnt })
    }

    /// Burns the codes whose exchange was begun and not ended.
    pub(super) fn tick(&mut self, now: Moment) -> Vec<News> {
        let abandoned = self.open.iter().filter(|(_, open)| open.guard.is_abandoned(now));
        let abandoned: Vec<_> = abandoned.map(|(number, _)| *number).collect();
        abandoned.into_iter().filter_map(|number| self.burn(number)).collect()
    }

    /// A ticket was redeemed: its code is for the peer that did it, if that has proven it.
    pub(super) fn redeemed(&mut self, ticket: TicketId, by: PeerId) -> Option<News> {
        let by = by.to_bytes();
        let lost = self.open.iter().find(|(_, open)| open.stands.ticket == ticket);
        let number = lost.filter(|(_, open)| open.guard.owner() != Some(&by[..])).map(|(number, _)| *number)?;
        let open = self.open.remove(&number)?;
        Some(News { job: open.stands.job, code: None, burnt: open.burnt })
    }

    /// The job is over.
    pub(super) fn close(&mut self, job: JobId) {
        self.open.retain(|_, open| open.stands.job != job);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use me_sync_protocol::code::exchange::Asker;
    use me_sync_protocol::ids::Secret;
    use me_sync_protocol::ticket::Ticket;

    use super::*;

    struct Case {
        book: CodeBook,
        code: String,
        ticket: TicketId,
    }

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    fn case() -> Case {
        let mut book = CodeBook::new(PeerId::random());
        let ticket = TicketId([4; 16]);
        let of = Ticket::new(book.local.to_bytes(), vec![], ticket, Secret::from_bytes([5; 32]), 6, "laptop");
        let stands = Stands { job: JobId(1), ticket, uri: of.to_uri(), expires: at(600), expires_wall_ms: 600_000 };
        let code = book.issue(stands);
        Case { book, code, ticket }
    }

    impl Case {
        /// A whole exchange of somebody who says this code.
        fn say(&mut self, peer: PeerId, said: &str, now: u64) -> (Result<Ticket, Code>, Option<News>) {
            let (exporter, importer) = (self.book.local.to_bytes(), peer.to_bytes());
            let ends = Ends { exporter: &exporter, importer: &importer };
            let (asker, begin) = Asker::begin(&Spoken::parse(said).unwrap(), ends, random::bytes());
            let answer = match self.book.begin(peer, &begin, at(now), now * 1000) {
                (Ok(answer), _) => answer,
                (Err(code), news) => return (Err(code), news),
            };
            let (proven, confirm) = asker.answered(&answer).unwrap();
            let (given, news) = self.book.confirm(peer, &confirm, at(now));
            (given.and_then(|given| proven.given(&given)), news)
        }
    }

    /// With the number of this code and other words.
    fn wrong(code: &str) -> String {
        let (number, words) = code.split_once('-').unwrap();
        let other = if words == "act-act" { "add-add" } else { "act-act" };
        format!("{number}-{other}")
    }

    // SPEC §6.9
    #[test]
    fn a_right_code_gives_the_ticket_and_is_gone_for_everybody_but_its_owner() {
        let (mut case, peer, other) = (case(), PeerId::random(), PeerId::random());
        let code = case.code.clone();
        let (ticket, news) = case.say(peer, &code, 1);
        assert_eq!(ticket.unwrap().ticket_id, case.ticket);
        assert_eq!(news, Some(News { job: JobId(1), code: None, burnt: 0 }));
        assert_eq!(case.say(other, &code, 2), (Err(Code::TicketInvalid), None));
        assert_eq!(case.book.redeemed(case.ticket, peer), None);
        // as with a ticket that is redeemed again, also when its time is over
        assert!(case.say(peer, &code, 700).0.is_ok());
        case.book.close(JobId(1));
        assert_eq!(case.say(peer, &code, 701), (Err(Code::TicketInvalid), None));
    }

    // SPEC §6.10
    #[test]
    fn each_wrong_code_burns_one_and_the_fifth_is_the_last() {
        let (mut case, peer) = (case(), PeerId::random());
        for burnt in 1..=MAX_BURNT {
            let old = case.code.clone();
            let (ticket, news) = case.say(peer, &wrong(&old), 1);
            let news = news.expect("it is burnt");
            assert_eq!((ticket, news.burnt, news.code.is_some()), (Err(Code::TicketInvalid), burnt, burnt < MAX_BURNT));
            // the code that was right is burnt too
            let number: u16 = old.split_once('-').unwrap().0.parse().unwrap();
            if news.code.as_ref().is_none_or(|new| !new.starts_with(&format!("{number}-"))) {
                assert_eq!(case.say(peer, &old, 1), (Err(Code::TicketInvalid), None));
            }
            case.code = news.code.unwrap_or_default();
        }
        assert!(case.book.open.is_empty());
    }

    // SPEC §6.10
    #[test]
    fn ten_thousand_guesses_by_as_many_peers_burn_five_codes_and_win_nothing() {
        let (mut case, mut burnt) = (case(), 0);
        let number = |case: &Case| case.code.split_once('-').map(|(number, _)| number.to_owned());
        for _ in 0..10_000 {
            // a guesser that always knows the number that is in use
            let said = format!("{}-act-act", number(&case).unwrap_or_else(|| "7".to_owned()));
            let right = case.code.ends_with("-act-act");
            let (ticket, news) = case.say(PeerId::random(), &said, 1);
            assert!(right || ticket.is_err(), "a guess won");
            if let Some(news) = news {
                burnt += 1;
                case.code = news.code.unwrap_or_default();
            }
        }
        assert!(burnt <= MAX_BURNT, "{burnt}");
    }

    // SPEC §6.10
    #[test]
    fn an_exchange_that_is_let_lie_burns_its_code_when_its_time_is_over_and_not_before() {
        let (mut case, peer) = (case(), PeerId::random());
        let (exporter, importer) = (case.book.local.to_bytes(), peer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let (_, begin) = Asker::begin(&Spoken::parse(&case.code).unwrap(), ends, random::bytes());
        assert!(case.book.begin(peer, &begin, at(1), 1000).0.is_ok());
        assert_eq!(case.book.tick(at(15)), []);
        let news = case.book.tick(at(16));
        assert_eq!((news.len(), news[0].burnt), (1, 1));
    }

    // SPEC §6.9
    #[test]
    fn a_code_ends_with_its_ticket_by_either_clock_or_when_somebody_redeems_that() {
        let peer = PeerId::random();
        let no = (Err(Code::TicketInvalid), None);
        let mut case_ = case();
        let code = case_.code.clone();
        assert_eq!(case_.say(peer, &code, 600), no);
        let (exporter, importer) = (case_.book.local.to_bytes(), peer.to_bytes());
        let ends = Ends { exporter: &exporter, importer: &importer };
        let (_, begin) = Asker::begin(&Spoken::parse(&code).unwrap(), ends, random::bytes());
        assert_eq!(case_.book.begin(peer, &begin, at(1), 600_000).0, Err(Code::TicketInvalid));
        let news = case_.book.redeemed(case_.ticket, PeerId::random());
        assert_eq!(news, Some(News { job: JobId(1), code: None, burnt: 0 }));
        assert_eq!(case_.say(peer, &code, 1), no);
    }
}

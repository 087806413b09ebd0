//! Holding leases: what one member asks for and when, and what it may act on. It does no asking itself.
//!
//! A holder counts from before its renewal was sent and stops a good while before the store lets anybody else take over, so that
//! two never act at once as long as clocks run at about the same speed; they need not agree on the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::lease::{Domain, Lease, LeaseAsk, Member, Standing, Term, share};
use crate::request::Service;
use crate::time::{Span, Timestamp};

/// How long a lease lasts. Too long: whoever takes over waits. Too short: a busy store costs leadership.
pub const LASTS: Span = Span::secs(5);
/// How often to renew. A third of [`LASTS`]: two renewals may get lost.
pub const EVERY: Duration = Duration::from_millis(1_500);
/// A holder stops when less than this share of the time is left.
const SPARE: u32 = 5;

/// What one member leads.
#[derive(Debug)]
pub struct Leading {
    member: Member,
    held: BTreeMap<Domain, u64>,
    standing: Arc<Standing>,
    /// What falls to it while the members stay the same; worked out when it is first needed.
    share: Option<Arc<[Domain]>>,
    /// From then on nothing is led any more, unless a renewal comes first.
    until: Timestamp,
    ask_at: Timestamp,
    asking: bool,
    /// When the newest question was asked: answers to older ones say nothing any more.
    asked_at: Timestamp,
}

/// What is led from now on, and what no more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moved {
    /// New: load it before acting on it.
    pub gained: Vec<Term>,
    /// Over: do nothing for it any more.
    pub lost: Vec<Term>,
    /// Whether anybody came or went, or anything is led by another or under another epoch, than at the answer before.
    pub is_news: bool,
}

impl Leading {
    /// A member that leads nothing yet.
    #[must_use]
    pub fn new(member: Member, now: Timestamp) -> Self {
        Self {
            member,
            held: BTreeMap::new(),
            standing: Arc::default(),
            share: None,
            until: now,
            ask_at: now,
            asking: false,
            asked_at: now,
        }
    }

    /// Who leads.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// When to look again: to ask, or because what is led is over.
    #[must_use]
    pub fn next_due(&self) -> Timestamp {
        let ask = if self.asking { Timestamp(i64::MAX) } else { self.ask_at };
        if self.held.is_empty() { ask } else { ask.min(self.until) }
    }

    /// What to ask the store now, if it is time to. What falls to others meanwhile is lost the moment this is called: stop acting on
    /// it before asking.
    pub fn ask(&mut self, now: Timestamp) -> Option<(LeaseAsk, Vec<Term>)> {
        if self.asking || now < self.ask_at {
            return None;
        }
        self.asking = true;
        self.asked_at = now;
        let service = self.member.service;
        let known = self.standing.members.iter().any(|member| member.name == self.member.name);
        let want = if !known {
            // Others are unknown until the first answer.
            self.held.keys().copied().collect()
        } else if service == Service::Provisioner {
            // There is one lease, and nothing is gained by moving it: whoever has it keeps it.
            Domain::all(service).into_iter().collect()
        } else {
            let members = self.standing.of(service).map(|member| member.name.as_str());
            let share = || share(service, &self.member.name, members).into_iter().collect();
            self.share.get_or_insert_with(share).clone()
        };
        // Nearly always the same.
        let lost = if self.held.keys().eq(want.iter()) {
            Vec::new()
        } else {
            self.give_up(|domain| !want.contains(&domain))
        };
        let ask = LeaseAsk {
            member: self.member.clone(),
            want,
            lasts: LASTS,
        };
        Some((ask, lost))
    }

    /// Takes the store's answer to what was asked at `asked_at`. One to an older question than the newest changes nothing.
    pub fn took(&mut self, asked_at: Timestamp, standing: Standing, now: Timestamp) -> Moved {
        if asked_at < self.asked_at {
            return Moved::default();
        }
        self.asking = false;
        let mut moved = Moved::default();
        let until = asked_at + (*LASTS - *LASTS / SPARE);
        let members_moved = !names(&standing, self.member.service).eq(names(&self.standing, self.member.service));
        self.share = self.share.take().filter(|_| !members_moved);
        // Who sees others come or go asks again at once: it wants something else now.
        self.ask_at = if members_moved { now } else { asked_at + EVERY };
        self.until = until;
        if now < until && self.is_as_before(&standing) {
            moved.is_news = standing.members != self.standing.members;
            self.standing = Arc::new(standing);
            return moved;
        }
        moved.is_news = true;
        // An answer that took too long says what was so: it gives nothing.
        let is_mine = |lease: &&Lease| now < until && lease.holder.as_deref() == Some(&self.member.name);
        let mine = standing.leases.iter().filter(is_mine);
        let held: BTreeMap<Domain, u64> = mine.filter_map(|lease| Some((Domain::named(&lease.name)?, lease.epoch))).collect();
        let beside = |one: &BTreeMap<Domain, u64>, other: &BTreeMap<Domain, u64>| -> Vec<Term> {
            let terms = one.iter().filter(|(domain, epoch)| other.get(domain) != Some(epoch));
            terms.map(|(&domain, &epoch)| Term { domain, epoch }).collect()
        };
        moved.gained = beside(&held, &self.held);
        moved.lost = beside(&self.held, &held);
        self.held = held;
        self.standing = Arc::new(standing);
        moved
    }

    /// Whether every lease is as it was at the last answer, and every one that was mine then still is held: nearly always.
    fn is_as_before(&self, standing: &Standing) -> bool {
        // Stores mostly give one copy of a name, again and again, and then its address says enough.
        let (mut mine, mut me) = (0, None::<&Arc<str>>);
        for (lease, before) in standing.leases.iter().zip(&*self.standing.leases) {
            let same = match (&lease.holder, &before.holder) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
                (one, other) => one == other,
            };
            if !same || lease.epoch != before.epoch {
                return false;
            }
            if let Some(holder) = &lease.holder
                && (me.is_some_and(|me| Arc::ptr_eq(me, holder)) || **holder == *self.member.name)
            {
                (mine, me) = (mine + 1, Some(holder));
            }
        }
        standing.leases.len() == self.standing.leases.len() && mine == self.held.len()
    }

    /// The store did not answer.
    pub fn failed(&mut self, now: Timestamp) {
        self.asking = false;
        self.ask_at = now + EVERY / 3;
    }

    /// What is over because no renewal came in time: do nothing for it any more.
    pub fn lapse(&mut self, now: Timestamp) -> Vec<Term> {
        if now < self.until { Vec::new() } else { self.give_up(|_| true) }
    }

    /// Whoever keeps records, or was sent a command, says that this term is over: nothing is done under it any more, and how things
    /// stand is asked soon. False when it was not led under this term anyway.
    pub fn deposed(&mut self, term: Term, now: Timestamp) -> bool {
        if self.held.get(&term.domain) != Some(&term.epoch) {
            return false;
        }
        self.held.remove(&term.domain);
        // Not at once: should both go on to disagree, that is no reason for a storm of questions.
        self.ask_at = self.ask_at.min(now + EVERY / 3);
        true
    }

    fn give_up(&mut self, which: impl Fn(Domain) -> bool) -> Vec<Term> {
        let lost: Vec<Term> = self
            .held
            .iter()
            .map(|(&domain, &epoch)| Term { domain, epoch })
            .filter(|term| which(term.domain))
            .collect();
        for term in &lost {
            self.held.remove(&term.domain);
        }
        lost
    }

    /// The term under which to act on something now; none when it is not led.
    #[must_use]
    pub fn term(&self, domain: Domain, now: Timestamp) -> Option<Term> {
        let epoch = *self.held.get(&domain)?;
        (now < self.until).then_some(Term { domain, epoch })
    }

    /// How things stood at the last answer.
    #[must_use]
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }
}

fn names(standing: &Standing, service: Service) -> impl Iterator<Item = &str> {
    standing.of(service).map(|member| member.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::SHARDS;

    fn member(name: &str, service: Service) -> Member {
        Member {
            name: name.to_owned(),
            service,
            url: None,
            since: Timestamp(0),
        }
    }

    fn lease(domain: Domain, holder: &str, epoch: u64) -> Lease {
        Lease {
            name: domain.name().into(),
            holder: Some(holder.into()),
            epoch,
            since: Timestamp(0),
        }
    }

    fn answer(ask: &LeaseAsk, members: &[&str], epoch: u64) -> Standing {
        Standing {
            members: members.iter().map(|name| member(name, ask.member.service)).collect(),
            leases: ask.want.iter().map(|domain| lease(*domain, &ask.member.name, epoch)).collect(),
        }
    }

    #[test]
    fn alone_it_leads_everything_after_two_rounds() {
        let mut leading = Leading::new(member("a", Service::Controller), Timestamp(0));
        let (ask, _) = leading.ask(Timestamp(0)).unwrap();
        assert!(ask.want.is_empty(), "others are not known yet");
        assert!(leading.ask(Timestamp(0)).is_none(), "one at a time");
        let moved = leading.took(Timestamp(0), answer(&ask, &["a"], 1), Timestamp(1));
        assert!(moved.gained.is_empty() && moved.lost.is_empty() && moved.is_news, "{moved:?}");
        let (ask, _) = leading.ask(Timestamp(1)).expect("at once");
        let moved = leading.took(Timestamp(1), answer(&ask, &["a"], 1), Timestamp(2));
        assert_eq!(moved.gained.len(), usize::from(SHARDS));
        assert!(leading.ask(Timestamp(2)).is_none(), "then it waits");
        assert_eq!(leading.next_due(), Timestamp(1) + EVERY);
    }

    #[test]
    fn a_newcomer_gets_its_share_and_the_other_stops_before_it_gives() {
        let mut leading = Leading::new(member("a", Service::Controller), Timestamp(0));
        for at in [0, 1] {
            let (ask, _) = leading.ask(Timestamp(at)).unwrap();
            leading.took(Timestamp(at), answer(&ask, &["a"], 1), Timestamp(at + 1));
        }
        let later = Timestamp(2_000);
        let (ask, lost) = leading.ask(later).unwrap();
        assert!(lost.is_empty());
        leading.took(later, answer(&ask, &["a", "b"], 1), later);
        let (ask, lost) = leading.ask(later).expect("at once");
        assert!(!lost.is_empty() && lost.iter().all(|term| !ask.want.contains(&term.domain)));
        assert!(
            lost.iter().all(|term| leading.term(term.domain, later).is_none()),
            "what is given is not acted on"
        );
    }

    #[test]
    fn without_an_answer_it_stops_before_the_store_gives_its_lease_away() {
        let mut leading = Leading::new(member("p", Service::Provisioner), Timestamp(0));
        for at in [0, 1] {
            let (ask, _) = leading.ask(Timestamp(at)).unwrap();
            leading.took(Timestamp(at), answer(&ask, &["p"], 7), Timestamp(at + 1));
        }
        let last = Timestamp(1) + *LASTS;
        let before = last + Duration::from_millis(1) - *LASTS / SPARE;
        assert_eq!(leading.term(Domain::Provisioner, Timestamp(4_000)).map(|term| term.epoch), Some(7));
        assert!(leading.term(Domain::Provisioner, before).is_none());
        assert!(before < last);
        assert_eq!(leading.lapse(before).len(), 1);
        assert!(leading.lapse(before).is_empty(), "once");
    }

    #[test]
    fn the_answer_to_an_older_question_changes_nothing() {
        let mut leading = Leading::new(member("p", Service::Provisioner), Timestamp(0));
        for at in [0, 1] {
            let (ask, _) = leading.ask(Timestamp(at)).unwrap();
            leading.took(Timestamp(at), answer(&ask, &["p"], 7), Timestamp(at + 1));
        }
        let (old, _) = leading.ask(Timestamp(2_000)).unwrap();
        // Whoever waited for it gave up.
        leading.failed(Timestamp(2_500));
        let (new, _) = leading.ask(Timestamp(3_100)).unwrap();
        let old = Standing {
            leases: [lease(Domain::Provisioner, "q", 6)].into(),
            ..answer(&old, &["p", "q"], 6)
        };
        assert_eq!(leading.took(Timestamp(2_000), old.clone(), Timestamp(3_200)), Moved::default());
        assert!(leading.ask(Timestamp(3_200)).is_none(), "the newer one is still to be answered");
        leading.took(Timestamp(3_100), answer(&new, &["p"], 7), Timestamp(3_300));
        assert_eq!(leading.took(Timestamp(2_000), old, Timestamp(3_400)), Moved::default());
        assert_eq!(leading.term(Domain::Provisioner, Timestamp(3_400)).map(|term| term.epoch), Some(7));
    }

    #[test]
    fn an_answer_that_came_too_late_gives_nothing() {
        let mut leading = Leading::new(member("p", Service::Provisioner), Timestamp(0));
        for at in [0, 1] {
            let (ask, _) = leading.ask(Timestamp(at)).unwrap();
            leading.took(Timestamp(at), answer(&ask, &["p"], 7), Timestamp(at + 1));
        }
        let (ask, _) = leading.ask(Timestamp(2_000)).unwrap();
        let moved = leading.took(Timestamp(2_000), answer(&ask, &["p"], 7), Timestamp(6_000));
        assert_eq!((moved.lost.len(), moved.gained.len()), (1, 0), "it may be somebody else's by now");
        let (ask, _) = leading.ask(Timestamp(6_000)).expect("again");
        let moved = leading.took(Timestamp(6_000), answer(&ask, &["p"], 7), Timestamp(6_001));
        assert_eq!(moved.gained.len(), 1, "nobody took it, and it is loaded anew");
    }

    #[test]
    fn it_is_news_when_somebody_comes_or_leads_something_else() {
        let mut leading = Leading::new(member("p", Service::Provisioner), Timestamp(0));
        let mut at = 0;
        let mut is_news = |members: &[&str], epoch| {
            at += 2_000;
            let (ask, _) = leading.ask(Timestamp(at)).unwrap();
            let moved = leading.took(Timestamp(at), answer(&ask, members, epoch), Timestamp(at));
            at += 1;
            moved.is_news
        };
        let told = [
            is_news(&["p"], 1),
            is_news(&["p"], 1),
            is_news(&["p"], 1),
            is_news(&["p", "q"], 1),
            is_news(&["p", "q"], 1),
            is_news(&["p", "q"], 2),
            is_news(&["p", "q"], 2),
        ];
        // It wants nothing before it is listed itself.
        assert_eq!(told, [true, true, false, true, false, true, false]);
    }

    #[test]
    fn deposed_it_stops_at_once_and_asks_soon() {
        let mut leading = Leading::new(member("a", Service::Controller), Timestamp(0));
        for at in [0, 1] {
            let (ask, _) = leading.ask(Timestamp(at)).unwrap();
            leading.took(Timestamp(at), answer(&ask, &["a"], 3), Timestamp(at + 1));
        }
        let term = leading.term(Domain::Shard(5), Timestamp(100)).expect("led");
        assert!(
            !leading.deposed(Term { epoch: 2, ..term }, Timestamp(100)),
            "an older term is over anyway"
        );
        assert!(leading.deposed(term, Timestamp(100)));
        assert!(leading.term(Domain::Shard(5), Timestamp(100)).is_none());
        assert!(leading.term(Domain::Shard(6), Timestamp(100)).is_some(), "the others stay");
        assert_eq!(leading.next_due(), Timestamp(100) + EVERY / 3);
    }

    #[test]
    fn taken_over_meanwhile_it_is_lost_and_the_same_with_a_new_epoch_is_new() {
        let mut leading = Leading::new(member("p", Service::Provisioner), Timestamp(0));
        for at in [0, 1] {
            let (ask, _) = leading.ask(Timestamp(at)).unwrap();
            leading.took(Timestamp(at), answer(&ask, &["p"], 1), Timestamp(at + 1));
        }
        let (ask, _) = leading.ask(Timestamp(2_000)).unwrap();
        let moved = leading.took(Timestamp(2_000), answer(&ask, &["p"], 3), Timestamp(2_001));
        assert_eq!((moved.lost[0].epoch, moved.gained[0].epoch), (1, 3));
        let standing = Standing {
            leases: [lease(Domain::Provisioner, "q", 4)].into(),
            ..answer(&ask, &["p", "q"], 4)
        };
        leading.ask(Timestamp(4_000)).unwrap();
        let moved = leading.took(Timestamp(4_000), standing, Timestamp(4_001));
        assert_eq!((moved.lost.len(), moved.gained.len()), (1, 0));
    }
}

//! The health ladder of one instance: from what was heard to what is believed.
//!
//! Pure. Silence counts only while somebody listened: it is measured up to the newest word of an aggregator, from no earlier than
//! when that aggregator began to listen. So a restarted aggregator, an absent broker or a restarted controller condemns nobody.
//!
//! | state | believed | seen | then |
//! |---|---|---|---|
//! | before `600-RUNNING`, `650-RUNNING_FAILED` | any | any | unchanged: life has its own deadlines |
//! | `600-RUNNING` | any | its worker ended with a fault, or its agent says so | `PROCESS_ERROR`, `MONITOR_ERROR` |
//! | `600-RUNNING` | any | heard, all well, within `missing` | `OK` |
//! | `600-RUNNING` | `UNKNOWN`, `OK` | never heard, silent longer than `boot` | `OUT_OF_CONTACT`, and the site is asked |
//! | `600-RUNNING` | `UNKNOWN`, `OK` | heard before, silent longer than `missing` | `OUT_OF_CONTACT`, and the site is asked |
//! | `600-RUNNING` | `OUT_OF_CONTACT` | the site says that it is gone | `MISSING` at once |
//! | `600-RUNNING` | `OUT_OF_CONTACT` | the site says that it runs, or nothing, longer than `really-missing` | `MISSING` |
//! | `600-RUNNING` | `MISSING` | heard again | `OK` |
//! | `700` and later | any | heard later than `zombie` after its end | `ZOMBIE`, until it is silent for `zombie` |
//!
//! All comparisons are strict: exactly at the limit nothing happens yet.

use std::time::Duration;

use epu_core::health::{Health, HealthLimits};
use epu_core::heartbeat::Condition;
use epu_core::life::State;
use epu_core::request::SiteWord;
use epu_core::time::Timestamp;

use crate::listening::Listening;

/// What is known of one instance.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its state.
    pub state: State,
    /// Since when.
    pub state_since: Timestamp,
    /// Whether its worker is known to have ended with a fault.
    pub worker_failed: bool,
    /// What is believed so far.
    pub health: Health,
    /// When it was last heard from, on the controller's clock.
    pub heard_at: Option<Timestamp>,
    /// What it then said.
    pub condition: &'a Condition,
    /// Since when it has been out of contact.
    pub out_since: Option<Timestamp>,
    /// What the site said since.
    pub site: Option<SiteWord>,
    /// When somebody listened; none before the first snapshot.
    pub listening: Option<Listening>,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is believed from now on.
    pub health: Health,
    /// Why, when that changed.
    pub why: String,
    /// Whether the site is to be asked for a second opinion.
    pub ask_site: bool,
    /// When to look again if nothing is heard by then. Only time in which somebody listens counts towards it.
    pub look_at: Option<Timestamp>,
}

/// Until when the silence of one that was heard says nothing.
#[must_use]
pub fn quiet_until(heard_at: Timestamp, listening: Listening, limits: &HealthLimits) -> Timestamp {
    just_after(heard_at.max(listening.since), *limits.missing)
}

fn just_after(from: Timestamp, wait: Duration) -> Timestamp {
    from + wait + Duration::from_millis(1)
}

/// What to believe now.
#[must_use]
pub fn judge(seen: &Seen<'_>, limits: &HealthLimits) -> Verdict {
    match seen.state {
        State::Running => judge_running(seen, limits),
        State::Terminating | State::Terminated | State::Failed | State::Rejected => judge_ended(seen, limits),
        State::Requesting | State::Requested | State::ErrorRetrying | State::Pending | State::Started | State::RunningFailed => Verdict {
            health: seen.health,
            why: String::new(),
            ask_site: false,
            look_at: None,
        },
    }
}

fn judge_running(seen: &Seen<'_>, limits: &HealthLimits) -> Verdict {
    let stays = |look_at| Verdict {
        health: seen.health,
        why: String::new(),
        ask_site: false,
        look_at,
    };
    let becomes = |health, why: String, look_at| Verdict {
        health,
        why,
        ask_site: false,
        look_at,
    };
    if seen.worker_failed {
        return becomes(Health::ProcessError, "its worker ended with a fault".into(), None);
    }
    match seen.condition {
        Condition::ProcessError(fault) => return becomes(Health::ProcessError, fault.text.clone(), None),
        Condition::MonitorError(fault) => return becomes(Health::MonitorError, fault.text.clone(), None),
        Condition::Ok => {}
    }
    let Some(listening) = seen.listening else { return stays(None) };
    if let (Health::OutOfContact | Health::Missing, Some(out_since)) = (seen.health, seen.out_since) {
        if let Some(heard_at) = seen.heard_at.filter(|at| *at > out_since) {
            return becomes(Health::Ok, "heard from again".into(), Some(just_after(heard_at, *limits.missing)));
        }
        if seen.health == Health::Missing {
            return stays(None);
        }
        let counted_from = out_since.max(listening.since);
        return match seen.site {
            Some(SiteWord::Gone) => becomes(Health::Missing, "silent, and the site says that it is gone".into(), None),
            Some(SiteWord::Running | SiteWord::NoAnswer) | None if listening.until.since(counted_from) > *limits.really_missing => becomes(
                Health::Missing,
                format!("silent for {} more after the site was asked", limits.really_missing),
                None,
            ),
            Some(SiteWord::Running | SiteWord::NoAnswer) | None => stays(Some(just_after(counted_from, *limits.really_missing))),
        };
    }

    let (counted_from, limit) = match seen.heard_at {
        Some(heard_at) => (heard_at.max(listening.since), limits.missing),
        // One that ran long before anybody listened must have been heard from then: it is no longer booting.
        None if listening.since.since(seen.state_since) > *limits.boot => (listening.since, limits.missing),
        None => (seen.state_since.max(listening.since), limits.boot),
    };
    let look_at = just_after(counted_from, *limit);
    if listening.until.since(counted_from) > *limit {
        let why = if seen.heard_at.is_some() {
            format!("silent for more than {limit}")
        } else {
            format!("not heard from within {limit}")
        };
        return Verdict {
            health: Health::OutOfContact,
            why,
            ask_site: true,
            look_at: None,
        };
    }
    if seen.heard_at.is_some() && seen.health != Health::Ok {
        return becomes(Health::Ok, "heard from".into(), Some(look_at));
    }
    stays(Some(look_at))
}

fn judge_ended(seen: &Seen<'_>, limits: &HealthLimits) -> Verdict {
    let late = seen.heard_at.filter(|at| *at > seen.state_since + *limits.zombie);
    match late {
        Some(heard_at) if seen.listening.is_none_or(|l| l.until.since(heard_at) <= *limits.zombie) => Verdict {
            health: Health::Zombie,
            why: format!("heard from more than {} after its end", limits.zombie),
            ask_site: false,
            look_at: Some(heard_at + *limits.zombie + Duration::from_millis(1)),
        },
        Some(_) | None => Verdict {
            health: Health::Unknown,
            why: "ended".into(),
            ask_site: false,
            look_at: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epu_core::code::Fault;
    use epu_core::time::Span;

    fn limits() -> HealthLimits {
        HealthLimits {
            boot: Span::secs(10),
            missing: Span::secs(5),
            really_missing: Span::secs(3),
            zombie: Span::secs(10),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000)
    }

    /// One instance over time, with an aggregator that has listened since `born` and speaks every second.
    struct Life {
        seen: Seen<'static>,
        born: i64,
    }

    impl Life {
        fn running(since: i64, born: i64) -> Self {
            let seen = Seen {
                state: State::Running,
                state_since: at(since),
                worker_failed: false,
                health: Health::Unknown,
                heard_at: None,
                condition: &Condition::Ok,
                out_since: None,
                site: None,
                listening: None,
            };
            Self { seen, born }
        }
        fn look(&mut self, now: i64) -> Health {
            self.seen.listening = Some(Listening {
                since: at(self.born),
                until: at(now),
            });
            let verdict = judge(&self.seen, &limits());
            if verdict.health == Health::OutOfContact && self.seen.health != Health::OutOfContact {
                assert!(verdict.ask_site, "the site is asked");
                self.seen.out_since = Some(at(now));
            }
            self.seen.health = verdict.health;
            verdict.health
        }
        fn hear(&mut self, now: i64) {
            self.seen.heard_at = Some(at(now));
        }
    }

    #[test]
    fn h1_after_a_restart_one_that_ran_long_gets_the_missing_time() {
        let mut life = Life::running(50, 100);
        assert_eq!(life.look(105), Health::Unknown);
        assert_eq!(life.look(106), Health::OutOfContact);
        assert_eq!(life.look(109), Health::OutOfContact);
        assert_eq!(life.look(110), Health::Missing);
    }

    #[test]
    fn h2_after_a_restart_a_fresh_one_gets_the_boot_time() {
        let mut life = Life::running(90, 100);
        assert_eq!(life.look(110), Health::Unknown);
        assert_eq!(life.look(111), Health::OutOfContact);
    }

    #[test]
    fn h4_a_heartbeat_exactly_at_the_limit_is_in_time() {
        let mut life = Life::running(100, 0);
        life.hear(110);
        assert_eq!(life.look(111), Health::Ok);
        assert_eq!(life.look(115), Health::Ok);
        assert_eq!(life.look(116), Health::OutOfContact);
    }

    #[test]
    fn h5_h10_what_the_agent_says_is_believed_and_kept() {
        let mut life = Life::running(0, 0);
        let fault = Condition::ProcessError(Box::new(Fault::new("worker-failed", "exit 3")));
        let fault: &'static Condition = Box::leak(Box::new(fault));
        life.seen.condition = fault;
        life.hear(1);
        assert_eq!(life.look(2), Health::ProcessError);
        life.hear(50);
        assert_eq!(life.look(51), Health::ProcessError);
    }

    #[test]
    fn h7_never_heard_is_out_of_contact_after_boot_and_ok_when_heard() {
        let mut life = Life::running(0, 0);
        assert_eq!(life.look(10), Health::Unknown);
        assert_eq!(life.look(11), Health::OutOfContact);
        life.hear(12);
        assert_eq!(life.look(12), Health::Ok);
    }

    #[test]
    fn h9_beats_long_after_the_end_make_a_zombie_until_they_stop() {
        let mut life = Life::running(0, 0);
        life.seen.state = State::Terminated;
        life.seen.state_since = at(20);
        life.hear(30);
        assert_eq!(life.look(30), Health::Unknown);
        life.hear(31);
        assert_eq!(life.look(31), Health::Zombie);
        assert_eq!(life.look(41), Health::Zombie);
        assert_eq!(life.look(42), Health::Unknown);
    }

    #[test]
    fn the_sites_word_gone_needs_no_further_waiting() {
        let mut life = Life::running(0, 0);
        life.hear(10);
        assert_eq!(life.look(16), Health::OutOfContact);
        life.seen.site = Some(SiteWord::Gone);
        assert_eq!(life.look(16), Health::Missing);
    }

    #[test]
    fn a_missing_one_that_is_heard_again_is_well() {
        let mut life = Life::running(0, 0);
        life.hear(10);
        life.look(16);
        assert_eq!(life.look(20), Health::Missing);
        life.hear(21);
        assert_eq!(life.look(21), Health::Ok);
    }

    #[test]
    fn silence_while_nobody_listened_condemns_nobody() {
        let mut life = Life::running(0, 0);
        life.hear(10);
        // No word from any aggregator since 12.
        life.seen.listening = Some(Listening {
            since: at(0),
            until: at(12),
        });
        assert_eq!(judge(&life.seen, &limits()).health, Health::Ok);
        // A new one began at 1000.
        life.born = 1_000;
        assert_eq!(life.look(1_005), Health::Ok);
        assert_eq!(life.look(1_006), Health::OutOfContact);
    }

    #[test]
    fn before_running_nothing_is_judged() {
        for state in State::ALL.into_iter().filter(|s| *s < State::Terminating && *s != State::Running) {
            let mut life = Life::running(0, 0);
            life.seen.state = state;
            assert_eq!(life.look(10_000), Health::Unknown, "{state}");
        }
    }
}

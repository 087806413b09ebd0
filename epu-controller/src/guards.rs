//! What the guardrails remember between decisions: stored with every decision, so that a restart loses no cooldown.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::id::{LaunchId, SiteName};
use epu_core::pool::Limits;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A worker that ends this soon after it was ready counts as a launch that came to nothing.
pub const EARLY_EXIT: Duration = Duration::from_secs(10);
/// A launch pause doubles this often at the most.
const BACKOFF_DOUBLINGS: u32 = 4;

/// What the guardrails remember.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Guards {
    /// When the pool last grew beyond the size it had.
    pub grown_at: Option<Timestamp>,
    /// When it last shrank.
    pub shrunk_at: Option<Timestamp>,
    /// Sizes wanted within the stabilization window: times grow, sizes fall, so that the first is the largest.
    pub wanted: Vec<(Timestamp, u32)>,
    /// When unhealthy instances were replaced, within the replacement window.
    pub replaced: Vec<Timestamp>,
    /// The storm that is on, if one is.
    pub storm: Option<Storm>,
    /// Launching on each site that has failed.
    pub launching: BTreeMap<SiteName, Breaker>,
    /// Outcomes up to here are in `launching`: those from before a restart are not counted twice.
    pub outcomes_until: Timestamp,
    /// A digest of the settings that the rest belongs to: new bounds, engine or limits wait for no cooldown of the old ones.
    pub settings: u64,
}

/// Mass unhealthiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// Since when.
    pub since: Timestamp,
    /// When one was last replaced all the same.
    pub probed_at: Timestamp,
}

/// Launching on one site.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// Launches in a row that came to nothing.
    pub failures: u32,
    /// What `failures` was before the last success: a success that does not last takes nothing back.
    pub failures_before: u32,
    /// When a worker last came of one.
    pub last_out_at: Option<Timestamp>,
    /// The launch that failed last; its other instances' failures are the same one.
    pub last_failed: Option<LaunchId>,
    /// The launch that succeeded last; likewise.
    pub last_out: Option<LaunchId>,
    /// Nothing is launched before this.
    pub open_until: Option<Timestamp>,
    /// How often it has opened in a row.
    pub opened: u32,
    /// Whether it has reopened for one trial launch whose outcome is not known.
    pub probing: bool,
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Everything.
    Closed,
    /// Nothing before then.
    Open(Timestamp),
    /// One launch of one instance, as a trial.
    HalfOpen,
    /// Nothing: the trial is under way.
    Probing,
}

/// How an instance's launch turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchOutcome {
    /// Where.
    pub site: SiteName,
    /// Which launch.
    pub launch: LaunchId,
    /// When.
    pub at: Timestamp,
    /// Whether a worker came of it that lasts.
    pub what: Turned,
    /// Whether it was read from the store at start, where it may have been counted before.
    pub loaded: bool,
}

/// How it turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// A worker runs.
    Out,
    /// None came, or it failed to start.
    Bad,
    /// One came and ended at once.
    Short,
}

impl Breaker {
    /// What is let through now.
    #[must_use]
    pub fn gate(&self, now: Timestamp) -> Gate {
        match self.open_until {
            None => Gate::Closed,
            Some(until) if now < until => Gate::Open(until),
            Some(_) if self.probing => Gate::Probing,
            Some(_) => Gate::HalfOpen,
        }
    }

    fn take(&mut self, outcome: &LaunchOutcome, limits: &Limits) {
        match outcome.what {
            Turned::Out if self.last_out == Some(outcome.launch) => return,
            Turned::Out => {
                // Launches may overlap, so a success wipes out nothing before the one before it has lasted.
                let lasted = self.last_out_at.is_none_or(|before| outcome.at.since(before) >= EARLY_EXIT);
                if self.failures == 0 && lasted {
                    self.opened = 0;
                }
                self.failures_before = self.failures.max(if lasted { 0 } else { self.failures_before });
                self.failures = 0;
                self.last_out_at = Some(outcome.at);
                self.last_out = Some(outcome.launch);
                self.open_until = None;
                self.probing = false;
                return;
            }
            Turned::Bad | Turned::Short if self.last_failed == Some(outcome.launch) => return,
            Turned::Bad => self.failures = self.failures.saturating_add(1),
            Turned::Short => self.failures = self.failures.max(self.failures_before).saturating_add(1),
        }
        self.last_failed = Some(outcome.launch);
        if self.failures >= limits.launch_failures && (self.probing || self.open_until.is_none_or(|until| outcome.at >= until)) {
            let pause = *limits.launch_backoff * 2u32.pow(self.opened.min(BACKOFF_DOUBLINGS));
            self.opened = self.opened.saturating_add(1);
            self.open_until = Some(outcome.at + pause);
            self.probing = false;
        }
    }
}

impl Guards {
    /// Takes in how a launch turned out. True when a breaker opened or closed by it.
    pub fn outcome(&mut self, outcome: &LaunchOutcome, limits: &Limits) -> bool {
        if outcome.loaded && outcome.at <= self.outcomes_until {
            return false;
        }
        self.outcomes_until = self.outcomes_until.max(outcome.at);
        if outcome.what == Turned::Out && !self.launching.contains_key(&outcome.site) {
            return false;
        }
        let breaker = self.launching.entry(outcome.site.clone()).or_default();
        let before = breaker.open_until;
        breaker.take(outcome, limits);
        breaker.open_until != before
    }

    /// Whether another decision would find the same: times that only say "still so" are left out.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let sizes = |guards: &Self| guards.wanted.iter().map(|(_, size)| *size).collect::<Vec<_>>();
        let steady = self.wanted.len() <= 1 && sizes(self) == sizes(other);
        let timeless = |guards: &Self| Self {
            wanted: Vec::new(),
            ..guards.clone()
        };
        (steady || self.wanted == other.wanted) && timeless(self) == timeless(other)
    }

    /// After the wall clock was set back over a restart, nothing that happened is in the future, or it would be waited for.
    pub fn not_after(&mut self, now: Timestamp) {
        let clamp = |at: &mut Timestamp| *at = (*at).min(now);
        self.grown_at.iter_mut().chain(self.shrunk_at.iter_mut()).for_each(clamp);
        self.wanted.iter_mut().for_each(|(at, _)| clamp(at));
        self.replaced.iter_mut().for_each(clamp);
        if let Some(storm) = self.storm.as_mut() {
            clamp(&mut storm.since);
            clamp(&mut storm.probed_at);
        }
        clamp(&mut self.outcomes_until);
        for breaker in self.launching.values_mut() {
            breaker.last_out_at.iter_mut().for_each(clamp);
        }
    }

    /// How many unhealthy instances were replaced within the window before `now`.
    #[must_use]
    pub fn replaced_within(&self, window: Duration, now: Timestamp) -> u32 {
        let from = now - window;
        u32::try_from(self.replaced.iter().filter(|at| **at > from).count()).unwrap_or(u32::MAX)
    }

    /// Notes a wanted size and gives the largest within the window.
    pub fn stabilize(&mut self, now: Timestamp, window: Duration, wanted: u32) -> u32 {
        // What was wanted last has been wanted until now.
        if let Some(last) = self.wanted.last_mut() {
            last.0 = now;
        }
        self.wanted.retain(|(at, _)| *at + window > now);
        while self.wanted.last().is_some_and(|(_, size)| *size <= wanted) {
            self.wanted.pop();
        }
        self.wanted.push((now, wanted));
        self.wanted.first().map_or(wanted, |(_, size)| *size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epu_core::time::Span;

    fn outcome(n: u128, at: i64, what: Turned) -> LaunchOutcome {
        LaunchOutcome {
            site: SiteName::new("here").unwrap(),
            launch: LaunchId(uuid::Uuid::from_u128(n)),
            at: Timestamp(at * 1_000),
            what,
            loaded: false,
        }
    }

    fn limits() -> Limits {
        Limits {
            launch_failures: 3,
            launch_backoff: Span::secs(30),
            ..Limits::default()
        }
    }

    #[test]
    fn the_window_gives_the_largest_size_wanted_in_it() {
        let mut guards = Guards::default();
        let window = Duration::from_secs(60);
        let at = |s: i64| Timestamp(s * 1_000);
        assert_eq!(guards.stabilize(at(0), window, 9), 9);
        assert_eq!(guards.stabilize(at(10), window, 4), 9);
        assert_eq!(guards.stabilize(at(20), window, 6), 9);
        assert_eq!(
            guards.stabilize(at(61), window, 3),
            9,
            "9 was wanted until 10, when another size was"
        );
        assert_eq!(guards.stabilize(at(71), window, 3), 6);
        assert_eq!(guards.stabilize(at(122), window, 3), 3);
        assert!(guards.wanted.len() <= 3);
    }

    #[test]
    fn after_a_few_launches_that_came_to_nothing_launching_pauses_and_then_tries_one() {
        let mut guards = Guards::default();
        let here = SiteName::new("here").unwrap();
        for n in 0..3 {
            guards.outcome(&outcome(n, 10, Turned::Bad), &limits());
            // Ten instances of one launch fail together: that is one failure.
            guards.outcome(&outcome(n, 10, Turned::Bad), &limits());
        }
        let gate = |guards: &Guards, s: i64| guards.launching[&here].gate(Timestamp(s * 1_000));
        assert_eq!(gate(&guards, 39), Gate::Open(Timestamp(40_000)));
        assert_eq!(gate(&guards, 40), Gate::HalfOpen);
        guards.launching.get_mut(&here).unwrap().probing = true;
        assert_eq!(gate(&guards, 41), Gate::Probing);
        assert!(guards.outcome(&outcome(9, 50, Turned::Bad), &limits()));
        assert_eq!(gate(&guards, 50), Gate::Open(Timestamp(110_000)), "the pause doubles");
        guards.launching.get_mut(&here).unwrap().probing = true;
        assert!(guards.outcome(&outcome(10, 120, Turned::Out), &limits()));
        assert_eq!(gate(&guards, 120), Gate::Closed);
    }

    #[test]
    fn workers_that_start_and_end_at_once_open_the_breaker_too() {
        let mut guards = Guards::default();
        let here = SiteName::new("here").unwrap();
        for n in 0..3 {
            guards.outcome(&outcome(n, 10 + i64::try_from(n).unwrap(), Turned::Out), &limits());
            guards.outcome(&outcome(n, 10 + i64::try_from(n).unwrap(), Turned::Short), &limits());
        }
        assert!(matches!(guards.launching[&here].gate(Timestamp(13_000)), Gate::Open(_)));
    }

    /// As in a pool of two whose workers end two seconds after they were ready: the successes come in pairs, then the failures.
    #[test]
    fn overlapping_launches_of_workers_that_end_soon_open_the_breaker_and_the_pause_doubles() {
        let mut guards = Guards::default();
        let here = SiteName::new("here").unwrap();
        guards.outcome(&outcome(0, 0, Turned::Short), &limits());
        let pair = |guards: &mut Guards, n: u128, at: i64| {
            for (what, at) in [(Turned::Out, at), (Turned::Short, at + 2)] {
                for launch in [n, n + 1] {
                    guards.outcome(&outcome(launch, at, what), &limits());
                }
            }
        };
        pair(&mut guards, 1, 1);
        assert_eq!(guards.launching[&here].gate(Timestamp(3_000)), Gate::Open(Timestamp(33_000)));
        pair(&mut guards, 3, 34);
        assert_eq!(guards.launching[&here].gate(Timestamp(36_000)), Gate::Open(Timestamp(96_000)));
        // One that lasts makes the next failure the first one.
        guards.outcome(&outcome(5, 100, Turned::Out), &limits());
        guards.outcome(&outcome(6, 200, Turned::Out), &limits());
        guards.outcome(&outcome(6, 202, Turned::Short), &limits());
        assert_eq!(
            (guards.launching[&here].failures, guards.launching[&here].gate(Timestamp(202_000))),
            (1, Gate::Closed)
        );
    }

    #[test]
    fn what_was_counted_before_a_restart_is_not_counted_again() {
        let mut guards = Guards::default();
        guards.outcome(&outcome(1, 10, Turned::Bad), &limits());
        let stored = serde_json::to_value(&guards).unwrap();
        let mut again: Guards = serde_json::from_value(stored).unwrap();
        for (n, at) in [(1, 10), (0, 9)] {
            again.outcome(
                &LaunchOutcome {
                    loaded: true,
                    ..outcome(n, at, Turned::Bad)
                },
                &limits(),
            );
        }
        assert_eq!(again, guards);
    }
}

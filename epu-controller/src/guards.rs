//! What the guardrails remember between decisions: stored with every decision, so that a restart loses no cooldown.
//!
//! It is each pool's own: what one pool finds out about a site holds no other pool up.

mod breaker;
mod score;

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::Fault;
use epu_core::id::LaunchId;
use epu_core::pool::Limits;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};

pub use breaker::{Breaker, Gate, Parked};
pub use score::Score;

use crate::rollout::Progress;
use crate::view::View;

/// A worker that ends this soon after it was ready counts as a launch that came to nothing.
pub const EARLY_EXIT: Duration = Duration::from_secs(10);

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
    /// Launching by each placement, by the placement's name.
    pub launching: BTreeMap<String, Breaker>,
    /// Outcomes up to here are in `launching`: those from before a restart are not counted twice.
    pub outcomes_until: Timestamp,
    /// A digest of the settings that the rest belongs to: new bounds, engine or limits wait for no cooldown of the old ones.
    pub settings: u64,
    /// Whether the size aimed at rose and has not been reached since: what is launched until then is growth.
    pub growing: bool,
    /// The refresh that is under way, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Progress>,
}

/// Mass unhealthiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// Since when.
    pub since: Timestamp,
    /// When one was last replaced all the same.
    pub probed_at: Timestamp,
}

/// How an instance of a launch turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchOutcome {
    /// By which placement.
    pub placement: String,
    /// Which launch.
    pub launch: LaunchId,
    /// When it was decided on, on the controller's clock.
    pub decided_at: Timestamp,
    /// When it turned out, on the clock of whoever wrote it down.
    pub at: Timestamp,
    /// When the controller heard of it, on its own clock: what is decided from then on knows it.
    pub heard_at: Timestamp,
    /// How.
    pub what: Turned,
    /// From decision to ready, where it became ready.
    pub boot: Option<Duration>,
    /// What went wrong, where something did and that is known.
    pub fault: Option<Fault>,
    /// A digest of what was asked ([`crate::spec::asked_by`]), where the same would be asked again now.
    pub asked: Option<u64>,
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
    /// The site had no room for it, or the account may not have more.
    Full,
    /// The site refuses it for what no waiting mends.
    Refused,
    /// One came, and the site took it away.
    Interrupted,
}

/// When a launch was decided on, on the clock of the controller that did: its id says so. None for an id that says no time.
#[must_use]
pub fn decided_at(launch: LaunchId) -> Option<Timestamp> {
    let stamp = launch.0.get_timestamp().filter(|_| launch.0.get_version_num() == 7)?;
    let (seconds, nanos) = stamp.to_unix();
    let ms = i64::try_from(seconds).ok()?.checked_mul(1_000)?;
    Some(Timestamp(ms.saturating_add(i64::from(nanos / 1_000_000))))
}

/// Clocks of machines that share the work may be so far apart. Too low: one whose clock is behind forgets what was replaced. Too high:
/// after a clock was set back, replacing waits for so long.
const CLOCKS_APART: Duration = Duration::from_secs(15 * 60);

impl Guards {
    /// Takes in how an instance of a launch turned out, unless that was counted before a restart. True when its placement's gate moved.
    pub fn outcome(&mut self, outcome: &LaunchOutcome, limits: &Limits) -> bool {
        if self.has_counted(outcome, self.outcomes_until) {
            return false;
        }
        self.count(outcome, limits)
    }

    /// Whether it was counted before a restart, by what was remembered then: outcomes up to `until`.
    #[must_use]
    pub fn has_counted(&self, outcome: &LaunchOutcome, until: Timestamp) -> bool {
        outcome.loaded && outcome.at <= until
    }

    /// Takes in how an instance of a launch turned out. True when its placement's gate moved.
    pub fn count(&mut self, outcome: &LaunchOutcome, limits: &Limits) -> bool {
        self.outcomes_until = self.outcomes_until.max(outcome.at);
        let breaker = self.launching.entry(outcome.placement.clone()).or_default();
        let before = (breaker.open_until, breaker.parked.is_some());
        breaker.take(outcome, limits);
        (breaker.open_until, breaker.parked.is_some()) != before
    }

    /// Something else is launched from now on by some placements: that launches failed says nothing about it, and a mended template does not wait for the
    /// pauses of a broken one. That a site has no room, or parked a placement, still counts. True when a gate opened by it.
    pub fn launch_anew(&mut self, is_new: impl Fn(&str) -> bool, now: Timestamp) -> bool {
        let mut opened = false;
        for (name, breaker) in &mut self.launching {
            if is_new(name) && breaker.full_since.is_none() && breaker.parked.is_none() {
                opened |= breaker.reset(now);
            }
        }
        opened
    }

    /// How long an instance takes from decision to ready: what half of the last ones took by each placement, weighted by how many stay
    /// there. While nobody stays anywhere it is the best-ranked placement's of which it is known.
    #[must_use]
    pub fn boot(&self, view: &View) -> Option<Duration> {
        let of = |name: &str| self.launching.get(name).and_then(|breaker| breaker.score.boot());
        let known = view.placed().filter_map(|(name, staying)| Some((of(name)?, staying)));
        let (sum, n) = known.fold((Duration::ZERO, 0_u32), |(sum, n), (boot, staying)| {
            (sum + boot * staying, n + staying)
        });
        let ranked = || view.pool.spec.placements.iter().find_map(|placement| of(placement.called()));
        sum.checked_div(n).or_else(ranked)
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

    /// After the wall clock was set back over a restart, nothing that happened is in the future, or it would be waited for. But that
    /// replacements were made is remembered through a successor whose clock is a little behind: the next one's may be right again,
    /// and to it they would be long past.
    pub fn not_after(&mut self, now: Timestamp, limits: &Limits) {
        let clamp = |at: &mut Timestamp| *at = (*at).min(now);
        self.grown_at.iter_mut().chain(self.shrunk_at.iter_mut()).for_each(clamp);
        self.wanted.iter_mut().for_each(|(at, _)| clamp(at));
        self.replaced.iter_mut().filter(|at| **at > now + CLOCKS_APART).for_each(clamp);
        if let Some(storm) = self.storm.as_mut() {
            clamp(&mut storm.since);
            clamp(&mut storm.probed_at);
        }
        clamp(&mut self.outcomes_until);
        if let Some(rollout) = self.rollout.as_mut() {
            rollout.not_after(now);
        }
        for breaker in self.launching.values_mut() {
            breaker.not_after(now, limits);
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
            placement: "here".to_owned(),
            launch: LaunchId(uuid::Uuid::from_u128(n)),
            decided_at: Timestamp(at * 1_000 - 500),
            at: Timestamp(at * 1_000),
            heard_at: Timestamp(at * 1_000),
            what,
            boot: None,
            fault: Some(Fault::new("launch-failed", "it says no")),
            asked: Some(7),
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
        let here = "here";
        for n in 0..3 {
            guards.outcome(&outcome(n, 10, Turned::Bad), &limits());
            // Ten instances of one launch fail together: that is one failure.
            guards.outcome(&outcome(n, 10, Turned::Bad), &limits());
        }
        let gate = |guards: &Guards, s: i64| guards.launching[here].gate(Timestamp(s * 1_000));
        assert_eq!(gate(&guards, 39), Gate::Open(Timestamp(40_000)));
        assert_eq!(gate(&guards, 40), Gate::HalfOpen);
        guards.launching.get_mut(here).unwrap().probing = true;
        assert_eq!(gate(&guards, 41), Gate::Probing);
        assert!(guards.outcome(&outcome(9, 50, Turned::Bad), &limits()));
        assert_eq!(gate(&guards, 50), Gate::Open(Timestamp(110_000)), "the pause doubles");
        guards.launching.get_mut(here).unwrap().probing = true;
        assert!(guards.outcome(&outcome(10, 120, Turned::Out), &limits()));
        assert_eq!(gate(&guards, 120), Gate::Closed);
    }

    #[test]
    fn workers_that_start_and_end_at_once_open_the_breaker_too() {
        let mut guards = Guards::default();
        let here = "here";
        for n in 0..3 {
            guards.outcome(&outcome(n, 10 + i64::try_from(n).unwrap(), Turned::Out), &limits());
            guards.outcome(&outcome(n, 10 + i64::try_from(n).unwrap(), Turned::Short), &limits());
        }
        assert!(matches!(guards.launching[here].gate(Timestamp(13_000)), Gate::Open(_)));
    }

    /// As in a pool of two whose workers end two seconds after they were ready: the successes come in pairs, then the failures.
    #[test]
    fn overlapping_launches_of_workers_that_end_soon_open_the_breaker_and_the_pause_doubles() {
        let mut guards = Guards::default();
        let here = "here";
        guards.outcome(&outcome(0, 0, Turned::Short), &limits());
        let pair = |guards: &mut Guards, n: u128, at: i64| {
            for (what, at) in [(Turned::Out, at), (Turned::Short, at + 2)] {
                for launch in [n, n + 1] {
                    guards.outcome(&outcome(launch, at, what), &limits());
                }
            }
        };
        pair(&mut guards, 1, 1);
        assert_eq!(guards.launching[here].gate(Timestamp(3_000)), Gate::Open(Timestamp(33_000)));
        pair(&mut guards, 3, 34);
        assert_eq!(guards.launching[here].gate(Timestamp(36_000)), Gate::Open(Timestamp(96_000)));
        // One that lasts makes the next failure the first one.
        guards.outcome(&outcome(5, 100, Turned::Out), &limits());
        guards.outcome(&outcome(6, 200, Turned::Out), &limits());
        guards.outcome(&outcome(6, 202, Turned::Short), &limits());
        assert_eq!(
            (guards.launching[here].failures, guards.launching[here].gate(Timestamp(202_000))),
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

    #[test]
    fn without_room_it_pauses_at_once_twice_as_long_each_time_and_one_trial_that_succeeds_ends_it() {
        let mut guards = Guards::default();
        let limits = Limits {
            capacity_memory: Span::secs(100),
            ..limits()
        };
        let gate = |guards: &Guards, s: i64| guards.launching["here"].gate(Timestamp(s * 1_000));
        assert!(guards.outcome(&outcome(1, 10, Turned::Full), &limits));
        assert!(
            !guards.outcome(&outcome(1, 10, Turned::Full), &limits),
            "the other instances of the same launch"
        );
        assert_eq!(gate(&guards, 109), Gate::Open(Timestamp(110_000)));
        // One that was under way by then, and one of the same launch that did come.
        let early = |n, at, what| LaunchOutcome {
            decided_at: Timestamp(9_000),
            ..outcome(n, at, what)
        };
        assert!(!guards.outcome(&early(2, 11, Turned::Full), &limits));
        assert!(!guards.outcome(&early(3, 60, Turned::Out), &limits));
        assert_eq!(gate(&guards, 110), Gate::HalfOpen);
        let mut expected = 100;
        let mut now = 110;
        for n in 10..16 {
            guards.launching.get_mut("here").unwrap().probing = true;
            assert!(guards.outcome(&outcome(n, now + 1, Turned::Full), &limits));
            expected = (expected * 2).min(1_600);
            now += 1 + expected;
            assert_eq!(gate(&guards, now - 1), Gate::Open(Timestamp(now * 1_000)));
            assert_eq!(gate(&guards, now), Gate::HalfOpen);
        }
        assert!(guards.outcome(&outcome(20, now + 60, Turned::Out), &limits));
        assert_eq!(gate(&guards, now + 60), Gate::Closed);
        guards.outcome(&outcome(21, now + 70, Turned::Full), &limits);
        assert_eq!(
            gate(&guards, now + 70),
            Gate::Open(Timestamp((now + 170) * 1_000)),
            "it was forgotten"
        );
        let board = guards.launching["here"].score.board(None);
        assert_eq!((board.ready, board.failed, board.capacity), (2, 10, 10));
    }

    #[test]
    fn what_no_waiting_mends_parks_until_somebody_resets_it() {
        let mut guards = Guards::default();
        let refused = LaunchOutcome {
            fault: Some(Fault::new("site-refused", "x".repeat(10_000))),
            ..outcome(1, 10, Turned::Refused)
        };
        assert!(guards.outcome(&refused, &limits()));
        let here = guards.launching.get_mut("here").unwrap();
        assert_eq!(here.gate(Timestamp(i64::MAX)), Gate::Parked);
        let parked = here.parked.clone().unwrap();
        assert_eq!(
            (parked.of, parked.fault.code.as_ref(), parked.fault.text.len()),
            (7, "site-refused", 500)
        );
        guards.outcome(&outcome(2, 20, Turned::Out), &limits());
        assert_eq!(
            guards.launching["here"].gate(Timestamp(20_000)),
            Gate::Parked,
            "others were under way"
        );
        assert!(guards.launching.get_mut("here").unwrap().reset(Timestamp(30_000)));
        assert_eq!(guards.launching["here"].gate(Timestamp(30_000)), Gate::Closed);
        // Decided before the reset, told after it.
        assert!(!guards.outcome(&outcome(3, 30, Turned::Refused), &limits()));
        assert!(guards.outcome(&outcome(4, 40, Turned::Refused), &limits()));
        let board = guards.launching["here"].score.board(Some(0.5));
        assert_eq!(
            (board.ready, board.failed, board.price),
            (1, 3, Some(0.5)),
            "a reset forgets no score"
        );
    }

    #[test]
    fn what_was_asked_differently_by_now_parks_nothing() {
        let mut guards = Guards::default();
        let old = LaunchOutcome {
            asked: None,
            ..outcome(1, 10, Turned::Refused)
        };
        assert!(!guards.outcome(&old, &limits()));
        assert_eq!(guards.launching["here"].gate(Timestamp(10_000)), Gate::Closed);
    }

    #[test]
    fn another_template_waits_for_no_pause_that_failures_brought_about_but_for_room_and_for_a_person() {
        let mut guards = Guards::default();
        for n in 1..=3 {
            guards.outcome(&outcome(n, 10, Turned::Bad), &limits());
        }
        assert!(matches!(guards.launching["here"].gate(Timestamp(11_000)), Gate::Open(_)));
        assert!(guards.launch_anew(|_| true, Timestamp(12_000)));
        assert_eq!(guards.launching["here"].gate(Timestamp(12_000)), Gate::Closed);
        for what in [Turned::Full, Turned::Refused] {
            let mut guards = Guards::default();
            guards.outcome(&outcome(1, 10, what), &limits());
            assert!(!guards.launch_anew(|_| true, Timestamp(12_000)), "{what:?}");
            assert_ne!(guards.launching["here"].gate(Timestamp(12_000)), Gate::Closed);
        }
    }

    /// As release 0.3 wrote it: by site, without a score.
    #[test]
    fn what_the_release_before_remembered_is_read() {
        let stored = serde_json::json!({
            "launching": {"here": {"failures": 3, "open_until": 50_000, "opened": 1, "probing": false}}, "outcomes_until": 20_000,
        });
        let guards: Guards = serde_json::from_value(stored).unwrap();
        assert_eq!(guards.launching["here"].gate(Timestamp(49_000)), Gate::Open(Timestamp(50_000)));
        assert_eq!(guards.launching["here"].score, Score::default());
    }

    #[test]
    fn a_launch_says_itself_when_it_was_decided_on() {
        let random = epu_core::random::Random::seeded(1);
        let launch = random.launch(Timestamp(1_234_567));
        assert_eq!(decided_at(launch), Some(Timestamp(1_234_567)));
        assert_eq!(decided_at(LaunchId(uuid::Uuid::from_u128(9))), None);
    }

    #[test]
    fn a_pause_of_long_ago_doubles_none_and_one_that_is_over_holds_nothing_now() {
        let mut guards = Guards::default();
        guards.outcome(&outcome(1, 10, Turned::Full), &limits());
        let here = |guards: &Guards| guards.launching["here"].clone();
        assert!(here(&guards).holds_now(Timestamp(11_000)) && !here(&guards).holds_now(Timestamp(400_000)));
        assert!(here(&guards).holds());
        guards.outcome(&outcome(2, 400, Turned::Full), &limits());
        assert_eq!(here(&guards).filled, 2);
        guards.outcome(&outcome(3, 20_000, Turned::Full), &limits());
        assert_eq!(here(&guards).filled, 1, "that was hours ago");
    }

    #[test]
    fn no_pause_outlasts_the_longest_after_the_clock_was_set_back() {
        let mut guards = Guards::default();
        guards.outcome(&outcome(1, 1_000_000, Turned::Full), &limits());
        guards.not_after(Timestamp(0), &limits());
        assert_eq!(guards.launching["here"].open_until, Some(Timestamp(16 * 300_000)));
    }

    #[test]
    fn a_successor_whose_clock_is_behind_remembers_what_was_replaced() {
        let (window, minute) = (Duration::from_secs(60), 60_000);
        let replaced_at = |at| Guards {
            replaced: vec![Timestamp(at)],
            ..Guards::default()
        };
        let now = Timestamp(100 * minute);
        let mut guards = replaced_at(103 * minute);
        guards.not_after(now, &limits());
        assert_eq!(guards.replaced_within(window, now), 1);
        let right = now + Duration::from_secs(3 * 60 + 59);
        assert_eq!(guards.replaced_within(window, right), 1, "a clock that is right finds it as it was");
        let mut guards = replaced_at(500 * minute);
        guards.not_after(now, &limits());
        assert_eq!(guards.replaced, [now], "that would be waited for");
    }
}

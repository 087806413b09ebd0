//! Replacing instances of older template versions: whom to drain now, and how many more than the size aimed at there may be for it.
//!
//! Pure, and level-triggered: what is to be done follows from the members and from the little that is remembered ([`Progress`]), so that a
//! crash, a new leader, or an operator who meddles in between changes nothing about where it ends.
//!
//! **How fast.** At most the replacement limit within the replacement window, counted together with the unhealthy that were replaced: a
//! refresh and a bad day never take more of a pool than a bad day alone. Oldest version first, then those that do not run yet, idle before
//! busy. Protected ones are shown and never chosen. Those that are out of contact are left to the health ladder, which replaces them.
//!
//! **Capacity.** Where the pool's maximum and its placements take more than the size aimed at, so many more are launched first (the
//! surge), and an old one drains only once more healthy ones run than are aimed at. Where they do not, and for the holder of a slot,
//! which there is only once, the old one drains first: then the healthy ones that run are never fewer than the size aimed at less one
//! batch.
//!
//! **When the new version is bad.** A launch of it that came to nothing, or an instance of it that failed, holds the refresh until one that
//! came up later has lasted for a replacement window; meanwhile nothing is drained, and one more at the most is launched to try. After
//! [`FAILURES_MOST`] such launches in a row it is paused, and a person decides: go on, go back, or mend the template. That a site has no
//! room says nothing about the version and is not counted.
//!
//! Why not drain and wait for what comes: a template that does not start would empty the pool batch by batch.

mod seen;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::Reason;
use epu_core::id::{InstanceId, LaunchId, SiteName};
use epu_core::instance::{Cause, Instance};
use epu_core::life::State;
use epu_core::pool::{Placement, Pool};
use epu_core::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::guards::{EARLY_EXIT, Guards};
use crate::spec::version_on;
use crate::view::{Class, View};
use seen::Seen;

/// Launches of the new version that come to nothing in a row before a person has to look. Too low: a site's bad minute pauses a refresh.
/// Too high: machines are paid for that never work.
pub const FAILURES_MOST: usize = 3;
/// A failure that nothing new came up after is forgotten after so many replacement windows, and the next batch is the trial. Too low: a bad
/// version takes more of the pool.
const FORGET_WINDOWS: u32 = 10;
/// Going back stays on record at least this long. Too low: the same request, arriving twice, goes back and forth again.
const BACK_STANDS: Duration = Duration::from_secs(60);

/// What is remembered of a refresh between looks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The version that it replaces by: what is remembered of another is forgotten.
    pub version: String,
    /// When it was asked for: likewise.
    pub since: Timestamp,
    /// How many more than the size aimed at there may be.
    pub surge: u32,
    /// Failures up to here are counted.
    pub counted_until: Timestamp,
    /// Launches of the new version that came to nothing since one lasted; [`FAILURES_MOST`] at the most.
    pub failed: BTreeSet<LaunchId>,
    /// Launches decided on before this, on the controller's clock, are not counted: before it began, or while it was paused.
    pub counts_from: Timestamp,
    /// Whether it was paused when it was last looked at.
    pub was_paused: bool,
}

impl Progress {
    /// After the wall clock was set back, nothing that happened is in the future.
    pub fn not_after(&mut self, now: Timestamp) {
        self.counted_until = self.counted_until.min(now);
        self.counts_from = self.counts_from.min(now);
    }
}

/// Which version the instances of a pool are to have, by the placement that they were launched by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions(BTreeMap<String, Launched>);

/// The site of a placement, and the version that is launched there.
type Launched = (SiteName, String);

impl Versions {
    /// Those of a pool.
    #[must_use]
    pub fn of(pool: &Pool) -> Self {
        let by_name = |placement: &Placement| (placement.called().to_owned(), (placement.site.clone(), version_on(pool, placement)));
        Self(pool.spec.placements.iter().map(by_name).collect())
    }

    /// Whether an instance is of another version than would be launched by its placement now. One whose placement the pool no longer has
    /// leaves for that, and is replaced by another one anyway.
    #[must_use]
    pub fn is_outdated(&self, instance: &Instance) -> bool {
        let wanted = self.0.get(instance.placed_by());
        wanted.is_some_and(|(site, wanted)| instance.site == *site && instance.template != *wanted)
    }

    /// Whether a placement that is in both launches another version by the other.
    #[must_use]
    pub fn differ(&self, other: &Self, placement: &str) -> bool {
        self.both(other, placement).is_some_and(|(mine, theirs)| mine.1 != theirs.1)
    }

    /// Whether a placement that is in both is another site's by the other.
    #[must_use]
    pub fn moved(&self, other: &Self, placement: &str) -> bool {
        self.both(other, placement).is_some_and(|(mine, theirs)| mine.0 != theirs.0)
    }

    /// Whether any placement that is in both launches another version by the other.
    #[must_use]
    pub fn any_differs(&self, other: &Self) -> bool {
        self.0.keys().any(|placement| self.differ(other, placement))
    }

    fn both<'a>(&'a self, other: &'a Self, placement: &str) -> Option<(&'a Launched, &'a Launched)> {
        self.0.get(placement).zip(other.0.get(placement))
    }

    /// The template's version with a digest of what each placement makes of it.
    fn in_short(&self, pool: &Pool) -> String {
        format!("{}/{:012x}", pool.template_version, crate::spec::digest(&self.0) >> 16)
    }
}

/// What launching would meet now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launching {
    /// Nothing in its way.
    Free,
    /// One launch of one instance, to try.
    Trial,
    /// It is held up.
    Held {
        /// In words.
        why: String,
        /// When it may go on though nothing else changes.
        until: Option<Timestamp>,
    },
}

/// What is chosen from.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The time of the decision.
    pub now: Timestamp,
    /// What is known of the pool.
    pub view: &'a View,
    /// What the guardrails remember, with what this decision replaced already.
    pub guards: &'a Guards,
    /// The size aimed at.
    pub target: u32,
    /// How many the pool may have: its maximum, or what its placements take if that is less.
    pub most: u32,
    /// Those that this decision lets go already.
    pub going: &'a BTreeSet<InstanceId>,
    /// What launching would meet.
    pub launching: Launching,
}

/// What to do about a refresh.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Choice {
    /// Whom to drain.
    pub drain: Vec<InstanceId>,
    /// How many more than the size aimed at there may be.
    pub surge: u32,
    /// Why no more are drained, when there are more.
    pub waits: Option<Reason>,
    /// What becomes of its record.
    pub step: Option<Step>,
    /// When something that was not done may be, though nothing else changes by then.
    pub look_again_at: Option<Timestamp>,
    /// What is remembered from now on.
    pub progress: Option<Progress>,
    /// Live instances of older versions, those that are on their way out among them.
    pub outdated: u32,
}

/// What becomes of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is held until a person looks at it, and why.
    Pause(String),
    /// Nothing of an older version is left.
    Done,
}

/// How many live instances run which version.
#[must_use]
pub fn versions(view: &View) -> BTreeMap<String, u32> {
    let mut versions = BTreeMap::new();
    for member in view.members().filter(|member| member.class() != Class::Ended) {
        let n = versions.entry(member.instance.template.clone()).or_insert(0_u32);
        *n = n.saturating_add(1);
    }
    versions
}

/// Live instances of older versions, and how many of them are on their way out.
#[must_use]
pub fn outdated(view: &View) -> (u32, u32) {
    view.outdated()
}

/// Faults that say nothing about what was launched.
const NOT_ITS_OWN: [&str; 9] = [
    "capacity-short",
    "closed",
    "launch-timeout",
    "launch-undone",
    "site-account",
    "site-capacity",
    "site-credentials",
    "site-quota-exceeded",
    "site-throttled",
];

/// When an instance turned out to be no worker, through a fault that may be its version's.
#[must_use]
pub fn came_to_nothing(instance: &Instance) -> Option<Timestamp> {
    let fault = instance.fault.as_ref();
    if fault.is_some_and(|fault| NOT_ITS_OWN.contains(&fault.code.as_ref())) {
        return None;
    }
    match &instance.ending {
        Some(ending) => {
            let short = instance.ready_at.is_some_and(|ready| ending.since.since(ready) < EARLY_EXIT);
            let is_failure = match ending.why {
                Cause::Unhealthy | Cause::NotReady | Cause::StartFailed => true,
                Cause::Finished => short,
                Cause::ScaleIn
                | Cause::SlotRemoved
                | Cause::PlacementLeft
                | Cause::Refresh
                | Cause::Interrupted
                | Cause::PoolRemoved
                | Cause::Operator
                | Cause::Teardown
                | Cause::Drained
                | Cause::DrainDeadline
                | Cause::Vanished
                | Cause::Stray => false,
            };
            is_failure.then_some(ending.since)
        }
        None => {
            let failed = matches!(instance.state, State::RunningFailed | State::Failed | State::Rejected);
            failed.then_some(instance.state_since)
        }
    }
}

/// Decides about a pool's refresh, if one is under way.
#[must_use]
pub fn next(asked: &Asked<'_>) -> Choice {
    let pool = &asked.view.pool;
    let Some(refresh) = pool.refresh.as_ref().filter(|_| !pool.removed) else {
        return Choice::default();
    };
    let limits = &pool.spec.limits;
    let window = *limits.replace_window;
    let kept = asked.guards.rollout.as_ref();
    let version = Versions::of(pool).in_short(pool);
    let kept = kept.filter(|kept| kept.version == version && kept.since == refresh.since);
    let mut progress = kept.cloned().unwrap_or_else(|| Progress {
        version,
        since: refresh.since,
        counts_from: refresh.since,
        // Another version may take over in the middle of a surge.
        surge: asked.guards.rollout.as_ref().map_or(0, |other| other.surge),
        ..Progress::default()
    });
    let mut choice = Choice {
        outdated: outdated(asked.view).0,
        ..Choice::default()
    };
    if choice.outdated == 0 {
        let stands_until = refresh.since + BACK_STANDS;
        if refresh.back && asked.now < stands_until {
            choice.look_again_at = Some(stands_until);
        } else {
            choice.step = Some(Step::Done);
        }
        choice.progress = Some(Progress { surge: 0, ..progress });
        return choice;
    }
    if let Some(why) = &refresh.paused {
        // What came up already keeps its place.
        let is_leaving = |id: &&InstanceId| {
            let member = asked.view.member(**id);
            member.is_some_and(|member| matches!(member.class(), Class::Pending | Class::Running))
        };
        let leaving = asked.going.iter().filter(is_leaving).count();
        let over = asked
            .view
            .counts()
            .capacity
            .saturating_sub(size(leaving))
            .saturating_sub(asked.target);
        progress.surge = progress.surge.min(over).min(asked.most.saturating_sub(asked.target));
        progress.failed.clear();
        progress.was_paused = true;
        choice.waits = Some(Reason::new("refresh-paused", format!("the refresh is paused: {why}")));
        choice.surge = progress.surge;
        choice.progress = Some(progress);
        return choice;
    }
    if std::mem::take(&mut progress.was_paused) {
        progress.counts_from = asked.now;
    }
    let seen = Seen::of(asked, &progress);
    count_failures(asked, &seen, &mut progress, window, &mut choice);
    let held = if progress.failed.len() >= FAILURES_MOST {
        let why = format!(
            "{FAILURES_MOST} launches of {} in a row came to nothing{}",
            pool.template_version,
            seen.fault
                .as_ref()
                .map_or(String::new(), |fault| format!("; the last fault: {fault}"))
        );
        choice.step = Some(Step::Pause(why.clone()));
        Some((Reason::new("refresh-paused", format!("the refresh pauses: {why}")), None))
    } else {
        held_up(asked, &seen, &progress)
    };
    let ordinary = limits.replacements(asked.target);
    let may_surge = asked.most > asked.target && !pool.paused.grow;
    let most_surge = if may_surge {
        ordinary.min(asked.most.saturating_sub(asked.target))
    } else {
        0
    };
    let over = seen.staying.saturating_sub(asked.target);
    if let Some((reason, until)) = held {
        // What came up already keeps its place; one more is launched where nothing else would show that the version is good again.
        let trial = u32::from(choice.step.is_none() && !progress.failed.is_empty());
        let cap = asked.most.saturating_sub(asked.target);
        let trial = trial.min(most_surge).min(seen.generic(&[]));
        progress.surge = progress.surge.min(over).min(cap).max(trial);
        choice.later(until);
        choice.waits = Some(reason);
    } else {
        let is_trial = asked.launching == Launching::Trial;
        let replaced = asked.guards.replaced_within(window, asked.now);
        let allowed = if is_trial { 1 } else { ordinary }.min(ordinary.saturating_sub(replaced));
        // Where all that are wanted are the fewest there may be, one at a time; else none could ever go.
        let least = pool.spec.min.min(asked.target.saturating_sub(1));
        let least = asked.target.saturating_sub(ordinary).max(least);
        choice.drain = seen.choose(asked.target, least, may_surge, allowed);
        let surge = most_surge.min(seen.generic(&choice.drain));
        progress.surge = if is_trial {
            progress.surge.min(over).max(1).min(surge)
        } else {
            surge
        };
        choice.waits = waits(asked, &seen, &choice, allowed);
        if allowed == 0 {
            let first = asked.guards.replaced.iter().find(|at| **at > asked.now - window);
            choice.later(first.map(|at| *at + window + Duration::from_millis(1)));
        }
    }
    choice.surge = progress.surge;
    choice.progress = Some(progress);
    choice
}

impl Choice {
    fn later(&mut self, at: Option<Timestamp>) {
        self.look_again_at = [self.look_again_at, at].into_iter().flatten().min();
    }
}

/// Takes in how instances of the new version turned out.
fn count_failures(asked: &Asked<'_>, seen: &Seen<'_>, progress: &mut Progress, window: Duration, choice: &mut Choice) {
    if !progress.failed.is_empty() {
        // One that came up after the last failure and has lasted since.
        let lasts_at = seen.newcomer.map(|ready_at| ready_at + window.max(EARLY_EXIT));
        let forgotten_at = progress.counted_until + window.max(EARLY_EXIT) * FORGET_WINDOWS;
        let nothing_comes = seen.coming == 0 && seen.sick == 0 && seen.newcomer.is_none();
        let until = match lasts_at {
            Some(at) => Some(at),
            None => nothing_comes.then_some(forgotten_at),
        };
        if seen.sick == 0 && until.is_some_and(|at| at <= asked.now) {
            progress.failed.clear();
        } else {
            choice.later(until.filter(|at| *at > asked.now));
        }
    }
    for (at, launch) in &seen.failures {
        progress.counted_until = progress.counted_until.max(*at);
        if progress.failed.len() < FAILURES_MOST {
            progress.failed.insert(*launch);
        }
    }
}

/// Why nothing may be drained now, though a refresh is under way and not paused.
fn held_up(asked: &Asked<'_>, seen: &Seen<'_>, progress: &Progress) -> Option<(Reason, Option<Timestamp>)> {
    let pool = &asked.view.pool;
    let held = |text: String, until| Some((Reason::new("refresh-held", format!("the refresh is held: {text}")), until));
    if pool.paused.replace {
        let why = Some(&pool.paused.why).filter(|why| !why.is_empty());
        return held(
            format!("replacing is paused{}", why.map_or(String::new(), |why| format!(" ({why})"))),
            None,
        );
    }
    if asked.guards.storm.is_some() {
        return held("a storm is on: too many are unhealthy at once".to_owned(), None);
    }
    if !asked.view.has_heard_all() {
        return held("no aggregator has told everything it knows yet".to_owned(), None);
    }
    if seen.sick > 0 {
        return held(format!("{} of the new version are unhealthy", seen.sick), None);
    }
    if !progress.failed.is_empty() {
        let text = format!(
            "{} launches of {} came to nothing since one lasted{}; it goes on once one has lasted for {}",
            progress.failed.len(),
            pool.template_version,
            seen.fault
                .as_ref()
                .map_or(String::new(), |fault| format!(" (the last fault: {fault})")),
            pool.spec.limits.replace_window
        );
        return held(text, None);
    }
    match &asked.launching {
        Launching::Free | Launching::Trial => None,
        Launching::Held { why, until } => held(why.clone(), *until),
    }
}

/// Why no more are drained than are, when there are more.
fn waits(asked: &Asked<'_>, seen: &Seen<'_>, choice: &Choice, allowed: u32) -> Option<Reason> {
    let chosen = size(choice.drain.len());
    let left = size(seen.candidates.len()).saturating_sub(chosen);
    let limits = &asked.view.pool.spec.limits;
    if left == 0 {
        let text = format!(
            "{} of older versions are protected and stay: take the protection away, or stop the refresh",
            seen.protected
        );
        return (seen.protected > 0).then(|| Reason::new("refresh-protected", text).with("protected", seen.protected));
    }
    let reason = if chosen >= allowed {
        let text = format!(
            "{left} more of older versions wait: {} at most are replaced within {}",
            limits.replacements(asked.target),
            Span(*limits.replace_window)
        );
        Reason::new("refresh-limit", text)
    } else {
        let text = format!("{left} more of older versions wait until those in their place run in good health");
        Reason::new("refresh-waits", text)
    };
    Some(reason.with("outdated", left))
}

fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

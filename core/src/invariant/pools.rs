//! What must be true of a pool's size.

use std::time::Duration;

use super::{Invariant, Violation, broken};
use crate::id::PoolName;
use crate::pool::Pool;
use crate::time::Timestamp;

/// For what nothing in a pool's settings says: repeated calls, lists that lag, a leader that changes. Too low: a slow site looks like a
/// pool that is stuck. Too high: one that is stuck is noticed late.
const CONVERGE_SPARE: Duration = Duration::from_secs(300);

/// Sums of prices differ in their last digits by the order in which they are added.
const ROUNDING: f64 = 1e-9;

/// Why the size aimed at is not what an engine wants. Everything else that is held back keeps a pool from the size that it aims at.
const SHAPES_TARGET: [&str; 11] = [
    "bounds",
    "cooldown-down",
    "cooldown-up",
    "last-worker",
    "not-heard-all",
    "paused-grow",
    "paused-shrink",
    "sensor-unreadable",
    "stabilization",
    "step-down",
    "step-up",
];

/// I2: a launch of `more` is recorded in a pool with `staying` live instances that are not leaving.
#[must_use]
pub fn within_max(staying: u32, more: u32, max: u32) -> Option<Violation> {
    if more > 0 && staying.saturating_add(more) > max {
        broken(
            Invariant::I2,
            format!("{staying} stay, {more} more are launched, the maximum is {max}"),
        )
    } else {
        None
    }
}

/// I4: these replacements were made, the pool's limit being `most` within `window`.
#[must_use]
pub fn within_replacement_limit(replaced: &[Timestamp], most: u32, window: Duration) -> Option<Violation> {
    for (n, first) in replaced.iter().enumerate() {
        let within = replaced.iter().skip(n).take_while(|at| at.since(*first) < window).count();
        if within > usize::try_from(most).unwrap_or(usize::MAX) {
            return broken(
                Invariant::I4,
                format!("{within} replacements within {window:?} of {first}, the limit is {most}"),
            );
        }
    }
    None
}

/// How far a pool is from the size it aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// The size aimed at.
    pub target: u32,
    /// Live instances that stay, run, and are in good health.
    pub serving: u32,
    /// Every other live instance: coming up, unhealthy, draining, being ended.
    pub others: u32,
    /// Since when it has aimed at this size, nothing has gone wrong, and no reason was given for not reaching it; none while that is not so.
    pub unhindered_since: Option<Timestamp>,
}

impl Course {
    /// Whether it is where it aims to be.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.serving == self.target && self.others == 0
    }
}

/// I6: a pool on this course is seen at `now`, and is to be where it aims at `within` so long ([`converge_within`]).
///
/// Says nothing while there is a reason: something went wrong a moment ago, the site has not accepted a launch, a drain has time
/// left, a breaker, a gate, a pause or the budget holds it up. Each of those has a deadline or is shown; a pool that none of them
/// explains is stuck.
#[must_use]
pub fn converged(pool: &PoolName, course: &Course, now: Timestamp, within: Duration) -> Option<Violation> {
    let since = course.unhindered_since.filter(|since| now.since(*since) > within)?;
    if course.is_there() {
        return None;
    }
    let Course {
        target, serving, others, ..
    } = course;
    broken(
        Invariant::I6,
        format!("pool {pool} aims at {target} and has had {serving} that serve and {others} others since {since}, and nothing says why"),
    )
}

/// Within how long a pool that nothing hinders reaches the size it aims at.
///
/// A launch is given up after `ready-within`; what is not heard from is found out and replaced after `health.boot`, or `health.missing`,
/// and `health.really-missing`, when `limits.replace-window` lets it; what leaves ends within the template's `stop-grace`; and the size
/// itself may wait for the cooldowns and the stabilization window. `limits.drain` is not among them: a pool in which somebody drains is
/// not judged before that drain's own deadline.
#[must_use]
pub fn converge_within(pool: &Pool) -> Duration {
    let (limits, health, template) = (&pool.spec.limits, &pool.spec.health, &pool.template);
    [
        *template.ready_within,
        *template.stop_grace,
        (*health.boot).max(*health.missing),
        *health.really_missing,
        *limits.replace_window,
        (*limits.cooldown_up).max(*limits.cooldown_down),
        *limits.stabilization,
    ]
    .into_iter()
    .fold(CONVERGE_SPARE, Duration::saturating_add)
}

/// Whether something that was held back for this reason keeps a pool from the size that it aims at, and not only shapes that size.
#[must_use]
pub fn holds_up(code: &str) -> bool {
    !SHAPES_TARGET.contains(&code)
}

/// I9: a pool's target goes from one size to another by its engine's wish, and its engine's sensors could be read or not.
#[must_use]
pub fn no_blind_shrink(from: u32, to: u32, max: u32, readable: bool) -> Option<Violation> {
    if to < from.min(max) && !readable {
        broken(
            Invariant::I9,
            format!("the size aimed at went from {from} to {to} on a sensor that cannot be read"),
        )
    } else {
        None
    }
}

/// What instances cost an hour, counted by the placement that they were launched by.
#[must_use]
pub fn spend<'a>(pool: &Pool, counted: impl IntoIterator<Item = (&'a str, u32)>) -> f64 {
    counted
        .into_iter()
        .map(|(placement, n)| pool.price_of(placement) * f64::from(n))
        .sum()
}

/// I10: where what lives and is not being ended costs `spend` an hour, so much `more` is launched, of which `for_min` brings the pool
/// to its minimum. Only what is launched beyond that is held to the budget: one that was lowered ends nobody.
#[must_use]
pub fn within_budget(spend: f64, more: f64, for_min: f64, budget: f64) -> Option<Violation> {
    let spare = ROUNDING * (1.0 + budget.abs());
    if more > for_min + spare && spend + more > budget + spare {
        broken(
            Invariant::I10,
            format!(
                "{more:.4} an hour more are launched, {for_min:.4} of it for the minimum, where {spend:.4} are spent and the budget is {budget:.4}"
            ),
        )
    } else {
        None
    }
}

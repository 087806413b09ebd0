//! From what an engine wants to exact launches, drains and terminations.
//!
//! Pure. The guardrails live here and not in engines, so that they hold for every engine. In order:
//!
//! 1. The size aimed at: bounds, the pause matrix, no shrinking on sensors that cannot be read or before everything was heard,
//!    the last worker, cooldowns, the stabilization window, most change per action. Raising a pool to its minimum, and following a
//!    bound that an operator moved, wait for none of the cooldowns.
//! 2. Replacing the unhealthy: most at once, and the storm breaker. Those that are not replaced yet still fill their place.
//! 3. Moving what a placement has too much of (`moving`).
//! 4. Refreshing, where instances of older template versions are to be replaced ([`crate::rollout`]).
//! 5. Filling up to the size aimed at: drains that can still be withdrawn, then launches by placement rank, behind each placement's
//!    own gate and within the pool's `budget`: what one cannot take goes to the next. Filling a gap left by a failure waits for no cooldown.
//! 6. Giving up what is too much: the unhealthy that still fill a place, then victims in the view's order. All are drained; what
//!    cannot have begun to work is ended by the provisioner at once.
//!
//! What was wanted and not done is in [`Plan::suppressed`], with the reason and its numbers.

mod aiming;
pub(crate) mod budget;
mod filling;
mod giving_up;
mod moving;
mod places;
mod replacing;
mod rolling;

use std::collections::BTreeMap;

use epu_core::Reason;
use epu_core::id::{InstanceId, SensorName, SiteName, SlotLabel};
use epu_core::instance::{Cause, Work};
use epu_core::launch::Purpose;
use epu_core::time::Timestamp;
use epu_decision_engines::Decision;

use crate::guards::Guards;
use crate::rollout::Step;
use crate::view::View;
use aiming::aim;
use filling::fill;
use giving_up::{drain_for_good, drop_slots, give_up, let_sick_go};
use moving::{Moved, move_away};
use replacing::replace;
use rolling::{Rolled, roll};

/// What is decided on.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The time of the decision.
    pub now: Timestamp,
    /// What is known of the pool.
    pub view: &'a View,
    /// What the engine wants.
    pub decision: &'a Decision,
    /// The sensors that the engine needs.
    pub sensors: &'a [SensorName],
    /// The size last aimed at; none before the first decision.
    pub target: Option<u32>,
    /// What the guardrails remember.
    pub guards: &'a Guards,
    /// Whether the installation is closed by `teardown`.
    pub closed: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// The size aimed at from now on.
    pub target: u32,
    /// What to launch, by placement, best first.
    pub launches: Vec<Batch>,
    /// Whom to tell to drain, by cause.
    pub drains: Vec<(Cause, Vec<InstanceId>)>,
    /// Whose drain to withdraw.
    pub withdraw: Vec<InstanceId>,
    /// Whom to end, by cause, with what each is doing as far as known.
    pub terminate: Vec<(Cause, Vec<(InstanceId, Work)>)>,
    /// What the guardrails remember from now on.
    pub guards: Guards,
    /// Why the size aimed at is not what the engine wanted, and what was not done, and why not.
    pub suppressed: Vec<Reason>,
    /// What becomes of the refresh that is under way, if anything does.
    pub refresh: Option<Step>,
    /// When something that was not done may be, though nothing else changes by then.
    pub look_again_at: Option<Timestamp>,
}

/// Instances to launch by one placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Where.
    pub site: SiteName,
    /// By which of the pool's placements.
    pub placement: String,
    /// What for.
    pub purpose: Purpose,
    /// For each instance the slot that it fills, with its variables.
    pub wanted: Vec<Option<(SlotLabel, BTreeMap<String, String>)>>,
}

impl Plan {
    /// Whether anything is to be done.
    #[must_use]
    pub fn acts(&self) -> bool {
        !(self.launches.is_empty() && self.drains.is_empty() && self.withdraw.is_empty() && self.terminate.is_empty())
    }

    fn later(&mut self, at: Timestamp) {
        self.look_again_at = Some(self.look_again_at.map_or(at, |known| known.min(at)));
    }

    fn hold(&mut self, reason: Reason, until: Option<Timestamp>) {
        self.suppressed.push(reason);
        if let Some(at) = until {
            self.later(at);
        }
    }

    fn drain(&mut self, why: Cause, id: InstanceId) {
        match self.drains.iter_mut().find(|(cause, _)| *cause == why) {
            Some((_, ids)) => ids.push(id),
            None => self.drains.push((why, vec![id])),
        }
    }

    fn end(&mut self, why: Cause, id: InstanceId, work: Work) {
        match self.terminate.iter_mut().find(|(cause, _)| *cause == why) {
            Some((_, ids)) => ids.push((id, work)),
            None => self.terminate.push((why, vec![(id, work)])),
        }
    }
}

/// Decides what to do. Names nobody twice, launches nothing that takes the pool above its maximum, and gives the same plan for the
/// same wish.
#[must_use]
pub fn plan(wish: &Wish<'_>) -> Plan {
    let mut plan = Plan {
        guards: wish.guards.clone(),
        look_again_at: wish.decision.look_again_at,
        ..Plan::default()
    };
    if wish.closed {
        plan.target = wish.target.unwrap_or(0);
        plan.hold(
            Reason::new(
                "closed",
                "the installation is closed by teardown: nothing is launched, replaced or resized",
            ),
            None,
        );
        return plan;
    }
    let removed = wish.view.pool.removed;
    places::settle(wish, &mut plan);
    plan.target = if removed { 0 } else { aim(wish, &mut plan) };
    drain_for_good(wish, &mut plan);
    let mut held = replace(wish, &mut plan, removed);
    let mut staying = wish.view.counts().capacity;
    if !removed {
        staying -= drop_slots(wish, &mut plan);
    }
    let moved = move_away(wish, &mut plan, staying + held);
    staying -= moved.drained;
    let rolled = roll(wish, &mut plan);
    staying -= rolled.drained;
    let filled = staying + held;
    // What moving or a refresh launches before it drains.
    let room = plan.target.saturating_add(moved.surge.max(rolled.surge));
    // The size aimed at may be above a maximum that was lowered while shrinking is held back; nothing is launched towards it.
    let goal = room.min(wish.view.pool.spec.max);
    let purpose = purpose(wish, &mut plan, filled, moved, rolled);
    if filled < goal {
        let mut missing = goal - filled;
        if wish.view.pool.paused.replace {
            // Growth is a pause of its own; what is missing for any other reason would replace something.
            let growth = plan.target.saturating_sub(wish.target.unwrap_or(plan.target)).min(missing);
            if growth < missing {
                let why = because(&wish.view.pool.paused.why);
                let text = format!("{} that are missing are not launched: replacing is paused{why}", missing - growth);
                plan.hold(Reason::new("paused-replace", text).with("missing", missing - growth), None);
            }
            missing = growth;
        }
        fill(wish, &mut plan, missing, purpose);
    } else if filled > room {
        let surplus = (filled - room).min(held);
        held -= let_sick_go(wish, &mut plan, surplus);
        let excess = (staying + held).saturating_sub(room).min(staying);
        if excess > 0 {
            give_up(wish, &mut plan, excess, if removed { Cause::PoolRemoved } else { Cause::ScaleIn });
        }
    }
    plan
}

/// What is launched now is for. One reason for all of it: the first in the order of urgency that there is.
fn purpose(wish: &Wish<'_>, plan: &mut Plan, filled: u32, moved: Moved, rolled: Rolled) -> Purpose {
    let spec = &wish.view.pool.spec;
    let rose = wish.target.is_none_or(|before| plan.target > before);
    plan.guards.growing = (plan.guards.growing || rose) && filled < plan.target;
    let replaces = plan.terminate.iter().any(|(why, _)| *why == Cause::Unhealthy);
    let is_refreshing = wish.view.pool.refresh.as_ref().is_some_and(|refresh| refresh.paused.is_none());
    if filled < spec.min.min(spec.max) {
        Purpose::Replace
    } else if plan.guards.growing {
        Purpose::Grow
    } else if filled >= plan.target || (!replaces && (moved.drained + rolled.drained > 0 || is_refreshing)) {
        // In place of what works still, or did until now.
        Purpose::Refresh
    } else {
        Purpose::Replace
    }
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

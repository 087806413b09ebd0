//! Moving what a placement has too much of: its maximum was lowered, or it was taken out of the pool.
//!
//! Those that go are drained, never ended, and within the replacement limit, together with the unhealthy and a refresh. Where the pool's
//! maximum and its other placements take more than the size aimed at, others are launched first, and one that runs drains only once
//! others run in its place. Where they do not, and for the holder of a slot, which there is only once, it drains first: at the most as
//! many as the other placements take at once, and never so many that fewer than the minimum run; where the minimum is all that the pool
//! can have, never fewer than that less one batch, or nobody could ever leave.
//!
//! Nobody moves to a better placement that has room again: a machine that works is worth more than a better place for it. Only what
//! is launched anyway goes there.

use std::time::Duration;

use epu_core::Reason;
use epu_core::health::Health;
use epu_core::instance::Cause;
use epu_core::pool::Placement;

use super::budget::Purse;
use super::places::{self, Staying};
use super::{Plan, Wish, because};
use crate::view::{Class, Member};

/// What moving takes and gives.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    /// So many that stayed drain.
    pub(super) drained: u32,
    /// By so many the pool may be larger than is aimed at.
    pub(super) surge: u32,
}

/// Lets those drain that are to leave their placement, as far as that may be now; `filled` is how many stay.
pub(super) fn move_away(wish: &Wish<'_>, plan: &mut Plan, filled: u32) -> Moved {
    let Wish { now, view, .. } = *wish;
    let spec = &view.pool.spec;
    if spec.placements.is_empty() || view.pool.removed {
        return Moved::default();
    }
    let staying = Staying::after(view, plan);
    let mut excess = staying.excess(spec);
    if excess.is_empty() {
        return Moved::default();
    }
    let named = plan.named();
    let mut movers: Vec<&Member> = Vec::new();
    for member in view.victims().filter(|member| !named.contains(&member.instance.id)) {
        if let Some(n) = excess.get_mut(member.placed_by()).filter(|n| **n > 0) {
            *n -= 1;
            movers.push(member);
        }
    }
    let kept: u32 = excess.values().sum();
    if kept > 0 {
        let text = format!("{kept} are to leave their placement, but are protected or in bad health");
        plan.hold(Reason::new("placement-kept", text).with("kept", kept), None);
    }
    if movers.is_empty() {
        return Moved::default();
    }
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let waiting = size(movers.len());
    if view.pool.paused.replace {
        let why = because(&view.pool.paused.why);
        let text = format!("{waiting} are to leave their placement: replacing is paused{why}");
        plan.hold(Reason::new("paused-replace", text).with("waiting", waiting), None);
        return Moved::default();
    }
    if !view.has_heard_all() {
        let text = format!("{waiting} are to leave their placement, but not before an aggregator has told everything it knows");
        plan.hold(Reason::new("not-heard-all", text).with("waiting", waiting), None);
        return Moved::default();
    }
    let goal = plan.target.min(places::most(spec));
    let mut room = places::most(spec) - goal;
    if spec.limits.budget.is_some() {
        let mut purse = Purse::of(wish, plan, staying.total());
        let afford = |placement: &Placement| purse.buy(view.pool.price_of(placement.called()), staying.room(spec, placement));
        room = room.min(spec.placements.iter().map(afford).fold(0, u32::saturating_add));
    }
    let keep = goal.max(spec.min);
    let may_surge = room > 0 && !view.pool.paused.grow;
    let counts = view.counts();
    let most = spec.limits.replacements((counts.capacity + counts.unhealthy).max(plan.target));
    let mut allowed = most.saturating_sub(plan.guards.replaced_within(*spec.limits.replace_window, now));
    let is_storm = plan.guards.storm.is_some();
    if is_storm {
        allowed = 0;
    }
    // Who cannot be heard may be gone: nobody drains on the strength of it.
    let leaves = named.iter().filter(|id| view.member(**id).is_some_and(runs_in_contact));
    let running = (counts.capacity - counts.pending).saturating_sub(view.out_of_contact());
    let mut running = running.saturating_sub(size(leaves.count()));
    let floor = if spec.min >= goal { goal.saturating_sub(most) } else { spec.min };
    let mut filled = filled;
    let open: u32 = spec
        .placements
        .iter()
        .map(|placement| places::through(places::gate(wish, plan, placement), staying.room(spec, placement)))
        .fold(0, u32::saturating_add);
    let mut left = 0_u32;
    let mut drained = 0_u32;
    for member in movers {
        let runs = runs_in_contact(member);
        let has_slot = member.instance.slot.is_some();
        let is_replaced = filled > keep && (!runs || running > keep);
        let goes_first = (!may_surge || has_slot) && open > goal.saturating_sub(filled) && (!runs || running > floor);
        if allowed == 0 || !(is_replaced || goes_first) {
            left += u32::from(!has_slot);
            continue;
        }
        plan.drain(Cause::PlacementLeft, member.instance.id);
        plan.guards.replaced.push(now);
        allowed -= 1;
        drained += 1;
        filled = filled.saturating_sub(1);
        running = running.saturating_sub(u32::from(runs));
    }
    let from = now - *spec.limits.replace_window;
    plan.guards.replaced.retain(|at| *at > from);
    if drained < waiting {
        let until = plan.guards.replaced.first().filter(|_| allowed == 0 && !is_storm);
        let until = until.map(|at| *at + *spec.limits.replace_window + Duration::from_millis(1));
        let why = if is_storm {
            "a storm is on, too many are unhealthy at once".to_owned()
        } else if allowed == 0 {
            format!("{most} at most are replaced within {}", spec.limits.replace_window)
        } else if open == 0 && filled <= goal {
            "no other placement takes them now".to_owned()
        } else if may_surge {
            "others come first in their place".to_owned()
        } else {
            "fewer than the minimum would run".to_owned()
        };
        let more = waiting - drained;
        let text = format!("{more} more are to leave their placement: {why}");
        plan.hold(Reason::new("placement-moving", text).with("waiting", more), until);
    }
    Moved {
        drained,
        // Not what is allowed just now: who was launched to take a place is not given up because somebody else failed meanwhile.
        surge: match may_surge {
            // Those that are there already.
            true if is_storm => filled.saturating_sub(goal).min(left).min(most).min(room),
            true => left.min(most).min(room),
            false => 0,
        },
    }
}

fn runs_in_contact(member: &Member) -> bool {
    member.class() == Class::Running && member.health != Health::OutOfContact
}

//! Filling up to the size aimed at: drains that can still be withdrawn, then launches by placement rank.

use std::collections::{BTreeMap, BTreeSet};

use epu_core::Reason;
use epu_core::id::SlotLabel;
use epu_core::instance::Cause;
use epu_core::launch::Purpose;
use epu_core::life::State;

use super::budget::Purse;
use super::places::{self, Staying};
use super::{Batch, Plan, Wish};
use crate::guards::Gate;
use crate::view::Member;

pub(super) fn fill(wish: &Wish<'_>, plan: &mut Plan, missing: u32, purpose: Purpose) {
    let Wish { now, view, decision, .. } = *wish;
    let spec = &view.pool.spec;
    let mut missing = missing;
    let mut staying = Staying::after(view, plan);
    let going = plan.named();
    let held = view.slot_members().filter(|(_, members)| !members.is_subset(&going));
    let held: BTreeSet<&SlotLabel> = held.map(|(label, _)| label).collect();
    let unfilled: BTreeMap<_, _> = decision.slots.iter().filter(|(label, _)| !held.contains(label)).collect();
    let slots_missing = u32::try_from(unfilled.len()).unwrap_or(u32::MAX).min(missing);
    // A slot's own member comes back before anything new is launched for it; a generic one fills only a generic place.
    let mut wanted: Vec<Option<(SlotLabel, BTreeMap<String, String>)>> = Vec::new();
    let mut taken_back: BTreeSet<&SlotLabel> = BTreeSet::new();
    let mut generic = missing - slots_missing;
    for member in view.draining() {
        if missing == 0 {
            break;
        }
        let withdrawable = !member.told_to_drain
            && member.instance.state == State::Running
            && member
                .instance
                .drain
                .as_ref()
                .is_some_and(|d| may_be_withdrawn(d.why, member) && now < d.deadline)
            && !(view.pool.refresh.is_some() && member.is_outdated())
            && staying.has_room(spec, member.placed_by());
        let fits = match member.instance.slot.as_ref() {
            Some(label) => unfilled.contains_key(label) && taken_back.insert(label),
            None if generic > 0 => {
                generic -= 1;
                true
            }
            None => false,
        };
        if withdrawable && fits {
            plan.withdraw.push(member.instance.id);
            staying.comes_back(member);
            missing -= 1;
        } else if fits && member.instance.slot.is_none() {
            generic += 1;
        } else if fits && let Some(label) = member.instance.slot.as_ref() {
            taken_back.remove(label);
        }
    }
    wanted.extend(
        unfilled
            .iter()
            .filter(|(label, _)| !taken_back.contains(*label))
            .map(|(label, vars)| Some(((*label).clone(), (*vars).clone()))),
    );
    wanted.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
    wanted.resize(usize::try_from(missing).unwrap_or(usize::MAX), None);
    let mut wanted = wanted.into_iter().peekable();

    let mut purse = Purse::of(wish, plan, staying.total());
    for placement in &spec.placements {
        if wanted.peek().is_none() {
            return;
        }
        let gate = places::gate(wish, plan, placement);
        if let Some(reason) = places::why_not(plan, gate, placement) {
            let until = match gate {
                Gate::Open(until) => Some(until),
                Gate::Closed | Gate::HalfOpen | Gate::Probing | Gate::Parked => None,
            };
            plan.hold(reason, until);
        }
        let most = places::through(gate, staying.room(spec, placement));
        let left = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let most = most.min(left);
        let bought = purse.buy(view.pool.price_of(placement.called()), most);
        if let Some(reason) = purse.why_not(placement, most - bought) {
            plan.hold(reason, None);
        }
        let batch: Vec<_> = wanted.by_ref().take(usize::try_from(bought).unwrap_or(usize::MAX)).collect();
        if batch.is_empty() {
            continue;
        }
        if gate == Gate::HalfOpen
            && let Some(breaker) = plan.guards.launching.get_mut(placement.called())
        {
            breaker.probing = true;
        }
        plan.launches.push(Batch {
            site: placement.site.clone(),
            placement: placement.called().to_owned(),
            purpose,
            wanted: batch,
        });
    }
    let left = u32::try_from(wanted.count()).unwrap_or(u32::MAX);
    if left > 0 && !plan.suppressed.iter().any(|reason| reason.code == "budget") {
        plan.hold(
            Reason::new("no-room", format!("{left} more are wanted than the placements take now")).with("missing", left),
            None,
        );
    }
}

/// Whether one that was told to drain for this may stay after all. What a refresh drained may once it is of the right version again: the
/// pool went back to it.
fn may_be_withdrawn(why: Cause, member: &Member) -> bool {
    matches!(why, Cause::ScaleIn | Cause::SlotRemoved | Cause::PlacementLeft) || (why == Cause::Refresh && !member.is_outdated())
}

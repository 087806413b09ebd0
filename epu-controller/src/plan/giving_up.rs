//! Giving up what is too much: slots that are no longer wanted, the unhealthy that still fill a place, then victims.

use std::collections::BTreeSet;

use epu_core::Reason;
use epu_core::id::InstanceId;
use epu_core::instance::Cause;

use super::{Plan, Wish, because};
use crate::view::Class;

/// A worker that was told to drain just before that was withdrawn drains all the same: it is given the order again, with its
/// deadline, or it would stay for ever without working.
pub(super) fn drain_for_good(wish: &Wish<'_>, plan: &mut Plan) {
    for member in wish.view.draining().filter(|m| m.drains_unordered()) {
        plan.drain(Cause::ScaleIn, member.instance.id);
    }
}

/// When a pool is too large, those unhealthy ones that keep their place for now are the first to go; drained, because an
/// unhealthy worker may be one that only cannot be heard.
pub(super) fn let_sick_go(wish: &Wish<'_>, plan: &mut Plan, surplus: u32) -> u32 {
    if wish.view.pool.paused.shrink {
        return 0;
    }
    let ended: BTreeSet<InstanceId> = plan.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| *id).collect();
    let held = wish.view.unhealthy().filter(|m| !m.is_leaving() && !ended.contains(&m.instance.id));
    let going: Vec<InstanceId> = held
        .take(usize::try_from(surplus).unwrap_or(usize::MAX))
        .map(|m| m.instance.id)
        .collect();
    for id in &going {
        plan.drain(Cause::ScaleIn, *id);
    }
    u32::try_from(going.len()).unwrap_or(u32::MAX)
}

/// Drains members whose slot is no longer wanted, or that another member fills too. Gives their number.
pub(super) fn drop_slots(wish: &Wish<'_>, plan: &mut Plan) -> u32 {
    let mut dropped = 0;
    for (label, members) in wish.view.slot_members() {
        let keep = usize::from(wish.decision.slots.contains_key(label));
        for id in members.iter().skip(keep) {
            let Some(member) = wish.view.member(*id) else { continue };
            if member.instance.protected || wish.view.pool.paused.shrink {
                let text = format!("slot {label} is no longer wanted, but its member is protected or shrinking is paused");
                plan.hold(Reason::new("slot-kept", text), None);
                continue;
            }
            plan.drain(Cause::SlotRemoved, member.instance.id);
            dropped += 1;
        }
    }
    dropped
}

pub(super) fn give_up(wish: &Wish<'_>, plan: &mut Plan, excess: u32, why: Cause) {
    let view = wish.view;
    if why == Cause::ScaleIn && !view.has_heard_all() {
        plan.hold(
            Reason::new("not-heard-all", "not shrinking before an aggregator has told everything it knows").with("excess", excess),
            None,
        );
        return;
    }
    if why == Cause::ScaleIn && view.pool.paused.shrink {
        plan.hold(
            Reason::new(
                "paused-shrink",
                format!(
                    "{excess} more run than aimed at; shrinking is paused{}",
                    because(&view.pool.paused.why)
                ),
            ),
            None,
        );
        return;
    }
    let already: BTreeSet<InstanceId> = plan
        .drains
        .iter()
        .flat_map(|(_, ids)| ids)
        .copied()
        .chain(plan.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| *id))
        .collect();
    let slotted_stay = u32::try_from(wish.decision.slots.len()).unwrap_or(u32::MAX);
    let mut left = excess;
    let protected_go_too = why == Cause::PoolRemoved;
    let everyone = view
        .members()
        .filter(|m| protected_go_too && m.instance.protected && matches!(m.class(), Class::Pending | Class::Running));
    for member in view.victims().chain(everyone) {
        if left == 0 {
            break;
        }
        if already.contains(&member.instance.id) {
            continue;
        }
        // A wanted slot keeps its member as long as the size aimed at has room for all slots.
        if why == Cause::ScaleIn && member.instance.slot.is_some() && plan.target >= slotted_stay {
            continue;
        }
        // One that does not run yet is drained too: it may have begun to work before its report arrives. The provisioner ends it
        // at once when it cannot have.
        plan.drain(why, member.instance.id);
        left -= 1;
    }
    if left > 0 {
        plan.hold(
            Reason::new(
                "protected",
                format!("{left} more would go, but what is left is protected or fills a slot"),
            )
            .with("excess", left),
            None,
        );
    }
}

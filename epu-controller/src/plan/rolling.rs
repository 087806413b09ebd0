//! A refresh in a plan: whom it drains now, and by how much the pool may be larger meanwhile.

use std::collections::BTreeSet;

use epu_core::id::InstanceId;
use epu_core::instance::Cause;
use epu_core::time::Timestamp;

use super::budget::Purse;
use super::places::{self, Staying};
use super::{Plan, Wish};
use crate::guards::Gate;
use crate::rollout::{self, Asked, Launching};

/// What a refresh takes and gives.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rolled {
    /// So many that stayed drain.
    pub(super) drained: u32,
    /// By so many the pool may be larger than is aimed at.
    pub(super) surge: u32,
}

/// Lets a refresh go on, if one is under way: after everything else that lets instances go, since it has what those leave of the limits.
pub(super) fn roll(wish: &Wish<'_>, plan: &mut Plan) -> Rolled {
    let Wish { now, view, .. } = *wish;
    if view.pool.refresh.is_none() {
        plan.guards.rollout = None;
        return Rolled::default();
    }
    let spec = &view.pool.spec;
    let reach = reach(wish, plan);
    let most = places::most(spec).min(reach);
    let choice = rollout::next(&Asked {
        now,
        view,
        guards: &plan.guards,
        target: plan.target.min(most),
        most,
        going: &plan.named(),
        launching: launching(wish, plan),
    });
    for id in &choice.drain {
        plan.drain(Cause::Refresh, *id);
        plan.guards.replaced.push(now);
    }
    let from = now - *spec.limits.replace_window;
    plan.guards.replaced.retain(|at| *at > from);
    plan.guards.rollout = choice.progress;
    plan.refresh = choice.step;
    plan.suppressed.extend(choice.waits);
    if let Some(at) = choice.look_again_at {
        plan.later(at);
    }
    Rolled {
        drained: u32::try_from(choice.drain.len()).unwrap_or(u32::MAX),
        surge: choice.surge,
    }
}

/// How many the pool can have by and by: those that stay, and what its placements take besides. More are waited for in vain where a
/// placement is at its maximum and the others have no room, or where the budget is spent. Where launches fail nothing is known about room, and the refresh is held or
/// tries one anyway.
fn reach(wish: &Wish<'_>, plan: &Plan) -> u32 {
    let spec = &wish.view.pool.spec;
    let staying = Staying::after(wish.view, plan);
    let mut purse = Purse::of(wish, plan, staying.total());
    let more = spec.placements.iter().map(|placement| {
        let room = staying.room(spec, placement);
        let breaker = plan.guards.launching.get(placement.called());
        let gate = match places::gate(wish, plan, placement) {
            Gate::Open(_) | Gate::HalfOpen | Gate::Probing if breaker.is_some_and(|breaker| breaker.full_since.is_none()) => Gate::Closed,
            gate @ (Gate::Closed | Gate::Open(_) | Gate::HalfOpen | Gate::Probing | Gate::Parked) => gate,
        };
        purse.buy(wish.view.pool.price_of(placement.called()), places::through(gate, room))
    });
    more.fold(staying.total(), u32::saturating_add)
}

/// What launching would meet. One placement where launches fail is reason enough to hold: what is wrong there may be the new version.
/// That one has no room is none, nor that its site's credentials are refused, as long as another has room; and one that is to be tried
/// with a single instance slows nothing down as long as others take the rest.
fn launching(wish: &Wish<'_>, plan: &Plan) -> Launching {
    let view = wish.view;
    let (mut trial, mut full, mut locked, mut has_room) = (false, None, None, false);
    for placement in view.pool.spec.placements.iter().filter(|placement| placement.max != Some(0)) {
        let name = placement.called();
        let Some(breaker) = plan.guards.launching.get(name) else {
            has_room = true;
            continue;
        };
        let is_full = breaker.full_since.is_some();
        match places::gate(wish, plan, placement) {
            Gate::Closed => has_room = true,
            Gate::HalfOpen => trial = true,
            Gate::Open(_) | Gate::Probing if is_full => {
                let until = breaker.open_until;
                full = Some(full.map_or(until, |first: Option<Timestamp>| first.min(until)));
            }
            Gate::Open(until) => {
                let why = format!("launching on {name} pauses after launches that came to nothing");
                return Launching::Held { why, until: Some(until) };
            }
            Gate::Probing => {
                let why = format!("launching on {name} waits for the outcome of a trial");
                return Launching::Held { why, until: None };
            }
            Gate::Parked
                if breaker
                    .parked
                    .as_ref()
                    .is_some_and(|parked| parked.fault.code == "site-credentials") =>
            {
                locked = Some(name)
            }
            Gate::Parked => {
                let why = format!("{name} is parked; see `epumgmt placement list`");
                return Launching::Held { why, until: None };
            }
        }
    }
    match (full, locked) {
        _ if has_room => Launching::Free,
        _ if trial => Launching::Trial,
        (Some(until), _) => Launching::Held {
            why: "no placement has room now; with `max` at the size aimed at, old ones drain before new ones are launched".to_owned(),
            until,
        },
        (None, Some(name)) => Launching::Held {
            why: format!("{name} is parked and no other placement has room; see `epumgmt placement list`"),
            until: None,
        },
        (None, None) => Launching::Free,
    }
}

impl Plan {
    /// Everybody whom it lets go.
    pub(super) fn named(&self) -> BTreeSet<InstanceId> {
        let ended = self.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| *id);
        self.drains.iter().flat_map(|(_, ids)| ids).copied().chain(ended).collect()
    }
}

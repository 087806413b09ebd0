//! A refresh in a plan: whom it drains now, and by how much the pool may be larger meanwhile.

use std::collections::BTreeSet;

use epu_core::id::InstanceId;
use epu_core::instance::Cause;
use epu_core::time::Timestamp;

use super::{Plan, Wish, places};
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
    let choice = rollout::next(&Asked {
        now,
        view,
        guards: &plan.guards,
        target: plan.target.min(spec.max),
        most: places::most(spec),
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

/// What launching would meet. One placement where launches fail is reason enough to hold: what is wrong there may be the new version.
/// That one has no room is none, as long as another has.
fn launching(wish: &Wish<'_>, plan: &Plan) -> Launching {
    let view = wish.view;
    let (mut trial, mut full, mut may_have_room, mut has_room) = (false, None, false, false);
    for placement in view.pool.spec.placements.iter().filter(|placement| placement.max != Some(0)) {
        let name = placement.called();
        let Some(breaker) = plan.guards.launching.get(name) else {
            has_room = true;
            continue;
        };
        let is_full = breaker.full_since.is_some();
        match places::gate(wish, plan, placement) {
            Gate::Closed => has_room = true,
            Gate::HalfOpen if is_full => may_have_room = true,
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
            Gate::Parked => {
                let why = format!("{name} is parked; see `epumgmt placement list`");
                return Launching::Held { why, until: None };
            }
        }
    }
    match full {
        _ if trial || (may_have_room && !has_room) => Launching::Trial,
        Some(until) if !has_room => Launching::Held {
            why: "no placement has room now; with `max` at the size aimed at, old ones drain before new ones are launched".to_owned(),
            until,
        },
        Some(_) | None => Launching::Free,
    }
}

impl Plan {
    /// Everybody whom it lets go.
    pub(super) fn named(&self) -> BTreeSet<InstanceId> {
        let ended = self.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| *id);
        self.drains.iter().flat_map(|(_, ids)| ids).copied().chain(ended).collect()
    }
}

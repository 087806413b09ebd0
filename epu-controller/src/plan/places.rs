//! What the placements of a pool take: by their maximum, and by how launching there went.

use std::collections::BTreeMap;

use epu_core::Reason;
use epu_core::pool::{Placement, PoolSpec};

use super::{Plan, Wish};
use crate::guards::Gate;
use crate::view::{Member, View};

/// How many stay by each placement once a plan is carried out.
#[derive(Debug)]
pub(super) struct Staying {
    by: BTreeMap<String, u32>,
}

impl Staying {
    pub(super) fn after(view: &View, plan: &Plan) -> Self {
        let mut staying = Self {
            by: view.placed().map(|(name, n)| (name.to_owned(), n)).collect(),
        };
        for id in plan.named() {
            if let Some(member) = view.member(id) {
                staying.leaves(member);
            }
        }
        for member in plan.withdraw.iter().filter_map(|id| view.member(*id)) {
            staying.comes_back(member);
        }
        staying
    }

    /// One of them goes.
    fn leaves(&mut self, member: &Member) {
        if let Some(n) = self.by.get_mut(member.placed_by()).filter(|_| member.is_placed()) {
            *n = n.saturating_sub(1);
        }
    }

    /// One that was to go stays after all.
    pub(super) fn comes_back(&mut self, member: &Member) {
        *self.by.entry(member.placed_by().to_owned()).or_default() += 1;
    }

    /// All of them.
    pub(super) fn total(&self) -> u32 {
        self.by.values().sum()
    }

    /// How many more a placement of the pool takes by its maximum.
    pub(super) fn room(&self, spec: &PoolSpec, placement: &Placement) -> u32 {
        let there = self.by.get(placement.called()).copied().unwrap_or(0);
        takes(spec, placement).saturating_sub(there)
    }

    /// Whether there is room for one that was launched by this placement; none where the pool has no such placement.
    pub(super) fn has_room(&self, spec: &PoolSpec, called: &str) -> bool {
        let placement = spec.placements.iter().find(|placement| placement.called() == called);
        placement.is_some_and(|placement| self.room(spec, placement) > 0)
    }

    /// By how many each placement has more than it takes; all of them where the pool has it no more.
    pub(super) fn excess<'a>(&'a self, spec: &PoolSpec) -> BTreeMap<&'a str, u32> {
        let most = |name: &str| {
            let placement = spec.placements.iter().find(|placement| placement.called() == name);
            placement.map_or(0, |placement| takes(spec, placement))
        };
        let over = self.by.iter().map(|(name, n)| (name.as_str(), n.saturating_sub(most(name))));
        over.filter(|(_, n)| *n > 0).collect()
    }
}

/// Most that a placement takes.
pub(super) fn takes(spec: &PoolSpec, placement: &Placement) -> u32 {
    placement.max.unwrap_or(spec.max).min(spec.max)
}

/// Most that the pool can have: its maximum, or what its placements take if that is less.
pub(super) fn most(spec: &PoolSpec) -> u32 {
    let places = spec.placements.iter().fold(0_u32, |sum, p| sum.saturating_add(takes(spec, p)));
    places.min(spec.max)
}

/// What a placement lets through now.
pub(super) fn gate(wish: &Wish<'_>, plan: &Plan, placement: &Placement) -> Gate {
    let called = placement.called();
    match plan
        .guards
        .launching
        .get(called)
        .map_or(Gate::Closed, |breaker| breaker.gate(wish.now))
    {
        // A trial that is no longer coming up and never told how it turned out makes room for another.
        Gate::Probing if wish.view.pending_on(called) == 0 => Gate::HalfOpen,
        gate @ (Gate::Closed | Gate::Open(_) | Gate::HalfOpen | Gate::Probing | Gate::Parked) => gate,
    }
}

/// How many more may be launched by a placement that has this much room.
pub(super) fn through(gate: Gate, room: u32) -> u32 {
    match gate {
        Gate::Closed => room,
        Gate::HalfOpen => room.min(1),
        Gate::Open(_) | Gate::Probing | Gate::Parked => 0,
    }
}

/// Why a placement lets nothing through; none when it does.
pub(super) fn why_not(plan: &Plan, gate: Gate, placement: &Placement) -> Option<Reason> {
    let called = placement.called();
    let breaker = plan.guards.launching.get(called);
    let fault = |fault: Option<&epu_core::Fault>| fault.map_or(String::new(), |fault| format!(": {}", fault.text));
    match gate {
        Gate::Closed | Gate::HalfOpen => None,
        Gate::Probing => Some(Reason::new(
            "launch-probing",
            format!("launching on {called} waits for the outcome of a trial"),
        )),
        Gate::Open(_) if breaker.is_some_and(|breaker| breaker.full_since.is_some()) => {
            let why = fault(breaker.and_then(|breaker| breaker.fault.as_ref()));
            Some(Reason::new("no-capacity", format!("{called} had no room a while ago{why}")))
        }
        Gate::Open(_) => Some(Reason::new(
            "launch-breaker",
            format!("launching on {called} pauses after launches that came to nothing"),
        )),
        Gate::Parked => {
            let why = fault(breaker.and_then(|breaker| breaker.parked.as_ref()).map(|parked| &parked.fault));
            Some(Reason::new("placement-parked", format!("{called} is parked{why}")))
        }
    }
}

/// Forgets placements that are no more, and lets those launch again that were parked for something else than would be asked now.
pub(super) fn settle(wish: &Wish<'_>, plan: &mut Plan) {
    let view = wish.view;
    let placements = &view.pool.spec.placements;
    let is_known = |name: &str| placements.iter().any(|placement| placement.called() == name) || view.staying_on(name) > 0;
    plan.guards.launching.retain(|name, _| is_known(name));
    for placement in placements {
        if let Some(breaker) = plan.guards.launching.get_mut(placement.called())
            && breaker.parked.as_ref().is_some_and(|parked| parked.of != view.asked_by(placement))
        {
            breaker.reset(wish.now);
        }
    }
}

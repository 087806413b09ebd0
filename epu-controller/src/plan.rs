//! From what an engine wants to exact launches, drains and terminations.
//!
//! Pure. The guardrails live here and not in engines, so that they hold for every engine. In order:
//!
//! 1. The size aimed at: bounds, the pause matrix, no shrinking on sensors that cannot be read or before everything was heard,
//!    the last worker, cooldowns, the stabilization window, most change per action. Raising a pool to its minimum, and following a
//!    bound that an operator moved, wait for none of the cooldowns.
//! 2. Replacing the unhealthy: most at once, and the storm breaker. Those that are not replaced yet still fill their place.
//! 3. Filling up to the size aimed at: drains that can still be withdrawn, then launches by placement rank, behind each site's
//!    launch breaker. Filling a gap left by a failure waits for no cooldown.
//! 4. Giving up what is too much: the unhealthy that still fill a place, then victims in the view's order. All are drained; what
//!    cannot have begun to work is ended by the provisioner at once.
//!
//! What was wanted and not done is in [`Plan::suppressed`], with the reason and its numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::Reason;
use epu_core::id::{InstanceId, SensorName, SiteName, SlotLabel};
use epu_core::instance::{Cause, Work};
use epu_core::life::State;
use epu_core::time::Timestamp;
use epu_decision_engines::Decision;

use crate::guards::{Gate, Guards, Storm};
use crate::view::{Class, View, unreadable};

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
    /// What to launch, by site.
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
    /// When something that was not done may be, though nothing else changes by then.
    pub look_again_at: Option<Timestamp>,
}

/// Instances to launch on one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Where.
    pub site: SiteName,
    /// For each instance the slot that it fills, with its variables.
    pub wanted: Vec<Option<(SlotLabel, BTreeMap<String, String>)>>,
}

impl Plan {
    /// Whether anything is to be done.
    #[must_use]
    pub fn acts(&self) -> bool {
        !(self.launches.is_empty() && self.drains.is_empty() && self.withdraw.is_empty() && self.terminate.is_empty())
    }

    /// How many on a site this plan lets go, of those that have stayed so far.
    fn leaving(&self, view: &View, site: &SiteName) -> u32 {
        let ended = self.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| id);
        let going = self.drains.iter().flat_map(|(_, ids)| ids).chain(ended);
        u32::try_from(
            going
                .filter(|id| view.member(**id).is_some_and(|m| m.instance.site == *site))
                .count(),
        )
        .unwrap_or(u32::MAX)
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
    plan.target = if removed { 0 } else { aim(wish, &mut plan) };
    drain_for_good(wish, &mut plan);
    let mut held = replace(wish, &mut plan, removed);
    let mut staying = wish.view.counts().capacity;
    if !removed {
        staying -= drop_slots(wish, &mut plan);
    }
    let filled = staying + held;
    // The size aimed at may be above a maximum that was lowered while shrinking is held back; nothing is launched towards it.
    let goal = plan.target.min(wish.view.pool.spec.max);
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
        fill(wish, &mut plan, missing);
    } else if filled > plan.target {
        let surplus = (filled - plan.target).min(held);
        held -= let_sick_go(wish, &mut plan, surplus);
        let excess = (staying + held).saturating_sub(plan.target).min(staying);
        if excess > 0 {
            give_up(wish, &mut plan, excess, if removed { Cause::PoolRemoved } else { Cause::ScaleIn });
        }
    }
    plan
}

/// A worker that was told to drain just before that was withdrawn drains all the same: it is given the order again, with its
/// deadline, or it would stay for ever without working.
fn drain_for_good(wish: &Wish<'_>, plan: &mut Plan) {
    for member in wish.view.draining().filter(|m| m.drains_unordered()) {
        plan.drain(Cause::ScaleIn, member.instance.id);
    }
}

/// When a pool is too large, those unhealthy ones that keep their place for now are the first to go; drained, because an
/// unhealthy worker may be one that only cannot be heard.
fn let_sick_go(wish: &Wish<'_>, plan: &mut Plan, surplus: u32) -> u32 {
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

/// The size aimed at, after guardrails.
fn aim(wish: &Wish<'_>, plan: &mut Plan) -> u32 {
    let Wish { now, view, decision, .. } = *wish;
    let (spec, paused) = (&view.pool.spec, &view.pool.paused);
    let limits = &spec.limits;
    let old = wish.target.unwrap_or(view.counts().capacity);
    let new_settings = plan.guards.settings != view.settings();
    if new_settings {
        plan.guards.settings = view.settings();
        plan.guards.wanted.clear();
    }
    if wish.target.is_none() {
        plan.guards.stabilize(now, *limits.stabilization, old);
    }
    let mut wanted = decision.desired.clamp(spec.min.min(spec.max), spec.max);
    if wanted != decision.desired {
        let text = format!("the engine wants {}, bounds are {} to {}", decision.desired, spec.min, spec.max);
        plan.hold(
            Reason::new("bounds", text)
                .with("desired", decision.desired)
                .with("min", spec.min)
                .with("max", spec.max),
            None,
        );
    }
    // The first decision in the order of guardrails that holds a shrink back keeps the size.
    let bound = old.clamp(spec.min.min(spec.max), spec.max);
    if wanted < bound {
        let unread = unreadable(view.readings(), wish.sensors, now);
        if !unread.is_empty() {
            let names = unread.iter().map(SensorName::as_str).collect::<Vec<_>>().join(", ");
            plan.hold(
                Reason::new("sensor-unreadable", format!("not shrinking to {wanted}: {names} cannot be read")).with("desired", wanted),
                None,
            );
            wanted = bound;
        }
    }
    if wanted == 0 && bound > 0 {
        let waiting: f64 = wish
            .sensors
            .iter()
            .filter_map(|name| view.readings().get(name)?.status(now).fresh())
            .sum();
        let busy = view.counts().busy;
        if waiting > 0.0 || busy > 0 {
            let text = "not removing the last worker: work is waiting or in progress";
            plan.hold(Reason::new("last-worker", text).with("waiting", waiting).with("busy", busy), None);
            wanted = 1;
        }
    }
    let largest = plan.guards.stabilize(now, *limits.stabilization, wanted);

    if wanted > old {
        if paused.grow {
            plan.hold(
                Reason::new("paused-grow", format!("growing to {wanted} is paused{}", because(&paused.why))).with("desired", wanted),
                None,
            );
            return bound.min(old.max(view.counts().capacity.min(spec.max)));
        }
        let base = bound.max(old);
        if wanted > base
            && !new_settings
            && let Some(until) = plan.guards.grown_at.map(|at| at + *limits.cooldown_up).filter(|until| now < *until)
        {
            let text = format!("growing to {wanted} waits for cooldown-up ({})", limits.cooldown_up);
            plan.hold(Reason::new("cooldown-up", text).with("desired", wanted), Some(until));
            wanted = base;
        }
        let most = base.saturating_add(limits.step_up);
        if wanted > most {
            plan.hold(
                Reason::new("step-up", format!("growing by {} at most in one action", limits.step_up)).with("desired", wanted),
                Some(now + *limits.cooldown_up),
            );
            wanted = most;
        }
        if wanted > old {
            plan.guards.grown_at = Some(now);
        }
        return wanted;
    }
    if wanted < old {
        // What a moved bound takes away waits for nothing; only what the engine gives up does.
        if paused.shrink {
            plan.hold(
                Reason::new("paused-shrink", format!("shrinking to {wanted} is paused{}", because(&paused.why))).with("desired", wanted),
                None,
            );
            return old;
        }
        if !view.has_heard_all() && view.counts().capacity > 0 {
            plan.hold(
                Reason::new("not-heard-all", "not shrinking before an aggregator has told everything it knows").with("desired", wanted),
                None,
            );
            return old;
        }
        if !new_settings && wanted < bound {
            let stable = largest.min(bound);
            if stable > wanted {
                let until = plan.guards.wanted.first().map(|(at, _)| *at + *limits.stabilization);
                let text = format!("{stable} was wanted within the last {}", limits.stabilization);
                plan.hold(
                    Reason::new("stabilization", text).with("desired", wanted).with("largest", stable),
                    until,
                );
                wanted = stable;
            }
        }
        if !new_settings && wanted < bound {
            let last = plan.guards.shrunk_at.max(plan.guards.grown_at);
            if let Some(until) = last.map(|at| at + *limits.cooldown_down).filter(|until| now < *until) {
                let text = format!("shrinking to {wanted} waits for cooldown-down ({})", limits.cooldown_down);
                plan.hold(Reason::new("cooldown-down", text).with("desired", wanted), Some(until));
                wanted = bound;
            }
        }
        let least = bound.saturating_sub(limits.step_down);
        if wanted < least {
            let text = format!("shrinking by {} at most in one action", limits.step_down);
            plan.hold(
                Reason::new("step-down", text).with("desired", wanted),
                Some(now + *limits.cooldown_down),
            );
            wanted = least;
        }
        if wanted < old {
            plan.guards.shrunk_at = Some(now);
            if decision.stepwise {
                // The next step down follows from the same lull: it waits for the cooldown, not for the window again.
                plan.guards.wanted.clear();
            }
        }
    }
    wanted
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// Ends unhealthy instances within the limits and gives the number that keep their place for now.
fn replace(wish: &Wish<'_>, plan: &mut Plan, removed: bool) -> u32 {
    let Wish { now, view, .. } = *wish;
    let limits = &view.pool.spec.limits;
    // One that never came to run interrupts nothing and says nothing about the health of the others.
    let (stillborn, sick): (Vec<_>, Vec<_>) = view.unhealthy().partition(|m| m.instance.state == State::RunningFailed);
    for member in stillborn {
        let late = member.instance.fault.as_ref().is_some_and(|fault| fault.code == "not-ready");
        plan.end(
            if late { Cause::NotReady } else { Cause::StartFailed },
            member.instance.id,
            Work::Idle,
        );
    }
    if removed || sick.is_empty() {
        for member in &sick {
            plan.end(Cause::PoolRemoved, member.instance.id, member.work);
        }
        plan.guards.storm = None;
        return 0;
    }
    let ill = u32::try_from(sick.len()).unwrap_or(u32::MAX);
    // One that was told to drain goes anyway and keeps nobody's place; the first ones to be ended are those that keep one.
    let (mut sick, leaving): (Vec<_>, Vec<_>) = sick.into_iter().partition(|m| !m.is_leaving());
    let keep = u32::try_from(sick.len()).unwrap_or(u32::MAX);
    sick.extend(leaving);
    let held = |done: u32| keep - done.min(keep);
    let size = view.counts().capacity + ill;
    if view.pool.paused.replace {
        let text = format!("replacing {ill} unhealthy is paused{}", because(&view.pool.paused.why));
        plan.hold(Reason::new("paused-replace", text).with("unhealthy", ill), None);
        return held(0);
    }
    let mut allowed = limits
        .replacements(size.max(plan.target))
        .saturating_sub(plan.guards.replaced_within(*limits.replace_window, now));
    let stormy = ill >= limits.storm_at_least && f64::from(ill) > limits.storm_share * f64::from(size);
    let mut probe = false;
    if stormy {
        let storm = plan.guards.storm.get_or_insert(Storm {
            since: now,
            probed_at: now,
        });
        let next = storm.probed_at + *limits.storm_probe;
        probe = now >= next;
        let text = format!(
            "{ill} of {size} are unhealthy at once: the fault is elsewhere, replacing stops but for one each {}",
            limits.storm_probe
        );
        allowed = u32::from(probe);
        plan.hold(
            Reason::new("storm", text)
                .with("unhealthy", ill)
                .with("size", size)
                .with("share", limits.storm_share),
            (!probe).then_some(next),
        );
    } else {
        plan.guards.storm = None;
    }
    let done = allowed.min(ill);
    if probe {
        if let Some(storm) = plan.guards.storm.as_mut() {
            storm.probed_at = now;
        }
        plan.later(now + *limits.storm_probe);
    }
    for member in sick.iter().take(usize::try_from(done).unwrap_or(usize::MAX)) {
        plan.end(Cause::Unhealthy, member.instance.id, member.work);
        plan.guards.replaced.push(now);
    }
    let from = now - *limits.replace_window;
    plan.guards.replaced.retain(|at| *at > from);
    if done < ill && !stormy {
        let until = plan
            .guards
            .replaced
            .first()
            .map(|at| *at + *limits.replace_window + Duration::from_millis(1));
        let text = format!(
            "{} more unhealthy wait: {} at most are replaced within {}",
            ill - done,
            limits.replacements(size),
            limits.replace_window
        );
        plan.hold(Reason::new("replacement-limit", text).with("unhealthy", ill), until);
    }
    held(done)
}

/// Drains members whose slot is no longer wanted, or that another member fills too. Gives their number.
fn drop_slots(wish: &Wish<'_>, plan: &mut Plan) -> u32 {
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

fn fill(wish: &Wish<'_>, plan: &mut Plan, missing: u32) {
    let Wish { now, view, decision, .. } = *wish;
    let mut missing = missing;
    let unfilled: Vec<_> = decision
        .slots
        .iter()
        .filter(|(label, _)| !view.slot_members().any(|(held, _)| held == *label))
        .collect();
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
                .is_some_and(|d| matches!(d.why, Cause::ScaleIn | Cause::SlotRemoved) && now < d.deadline);
        let fits = match member.instance.slot.as_ref() {
            Some(label) => unfilled.iter().any(|(u, _)| *u == label) && taken_back.insert(label),
            None if generic > 0 => {
                generic -= 1;
                true
            }
            None => false,
        };
        if withdrawable && fits {
            plan.withdraw.push(member.instance.id);
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
            .filter(|(label, _)| !taken_back.contains(label))
            .map(|(label, vars)| Some(((*label).clone(), (*vars).clone()))),
    );
    wanted.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
    wanted.resize(usize::try_from(missing).unwrap_or(usize::MAX), None);
    let mut wanted = wanted.into_iter().peekable();

    for placement in &view.pool.spec.placements {
        if wanted.peek().is_none() {
            return;
        }
        let site = &placement.site;
        let staying = view.staying_on(site).saturating_sub(plan.leaving(view, site));
        let room = placement.max.unwrap_or(view.pool.spec.max).saturating_sub(staying);
        let gate = match plan.guards.launching.get(site).map_or(Gate::Closed, |breaker| breaker.gate(now)) {
            // A trial that is no longer coming up and never told how it turned out makes room for another.
            Gate::Probing if view.counts().pending == 0 => Gate::HalfOpen,
            gate @ (Gate::Closed | Gate::Open(_) | Gate::HalfOpen | Gate::Probing) => gate,
        };
        let most = match gate {
            Gate::Closed => room,
            Gate::HalfOpen => room.min(1),
            Gate::Probing => {
                plan.hold(
                    Reason::new("launch-probing", format!("launching on {site} waits for the outcome of a trial")),
                    None,
                );
                0
            }
            Gate::Open(until) => {
                plan.hold(
                    Reason::new(
                        "launch-breaker",
                        format!("launching on {site} pauses after launches that came to nothing"),
                    ),
                    Some(until),
                );
                0
            }
        };
        let batch: Vec<_> = wanted.by_ref().take(usize::try_from(most).unwrap_or(usize::MAX)).collect();
        if batch.is_empty() {
            continue;
        }
        if gate == Gate::HalfOpen
            && let Some(breaker) = plan.guards.launching.get_mut(site)
        {
            breaker.probing = true;
        }
        plan.launches.push(Batch {
            site: site.clone(),
            wanted: batch,
        });
    }
    let left = u32::try_from(wanted.count()).unwrap_or(u32::MAX);
    if left > 0 {
        plan.hold(
            Reason::new("no-room", format!("{left} more are wanted than the placements take now")).with("missing", left),
            None,
        );
    }
}

fn give_up(wish: &Wish<'_>, plan: &mut Plan, excess: u32, why: Cause) {
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

//! The size aimed at: what the engine wants, after bounds, pauses, sensors that cannot be read, cooldowns and steps.

use epu_core::Reason;
use epu_core::id::SensorName;

use super::{Plan, Wish, because};
use crate::view::unreadable;

/// The size aimed at, after guardrails.
pub(super) fn aim(wish: &Wish<'_>, plan: &mut Plan) -> u32 {
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

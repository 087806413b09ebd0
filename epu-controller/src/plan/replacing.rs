//! Ending the unhealthy so that others take their place: most at once, and the storm breaker.

use std::time::Duration;

use epu_core::Reason;
use epu_core::code::READY_UNHEARD;
use epu_core::instance::{Cause, Work};
use epu_core::life::State;

use super::{Plan, Wish, because};
use crate::guards::Storm;

/// Ends unhealthy instances within the limits and gives the number that keep their place for now.
pub(super) fn replace(wish: &Wish<'_>, plan: &mut Plan, removed: bool) -> u32 {
    let Wish { now, view, .. } = *wish;
    let limits = &view.pool.spec.limits;
    // One that never came to run interrupts nothing and says nothing about the health of the others.
    let (stillborn, sick): (Vec<_>, Vec<_>) = view.unhealthy().partition(|m| m.instance.state == State::RunningFailed);
    for member in stillborn {
        let code = member.instance.fault.as_ref().map(|fault| &*fault.code);
        if code == Some(READY_UNHEARD) && member.is_heard_at_work(now, *view.pool.spec.health.missing) {
            // Its agent does not reach the provisioner, but it does the aggregator.
            if !member.is_leaving() {
                plan.drain(Cause::NotReady, member.instance.id);
            }
            continue;
        }
        let late = code.is_some_and(|code| code == "not-ready" || code == READY_UNHEARD);
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
        // One at the most, and within the limit as ever.
        allowed = allowed.min(u32::from(probe));
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
        let until = if done > 0 {
            if let Some(storm) = plan.guards.storm.as_mut() {
                storm.probed_at = now;
            }
            Some(now + *limits.storm_probe)
        } else {
            let first = plan.guards.replaced.iter().find(|at| **at > now - *limits.replace_window);
            first.map(|at| *at + *limits.replace_window + Duration::from_millis(1))
        };
        until.into_iter().for_each(|at| plan.later(at));
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

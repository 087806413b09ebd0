//! How launches turned out, as the records of their instances tell.

use epu_core::Fault;
use epu_core::instance::{Cause, Instance};
use epu_core::life::State;
use epu_core::time::Timestamp;

use super::View;
use crate::guards::{EARLY_EXIT, LaunchOutcome, Turned};
use crate::spec::version_on;

/// How a launch turned out, as this change of one of its instances tells.
pub(super) fn outcomes(
    view: &View,
    before: Option<&Instance>,
    after: &Instance,
    now: Timestamp,
) -> impl Iterator<Item = LaunchOutcome> + use<> {
    let turned = [turned(before, after, now), taken_away(before, after)];
    let outcome = |(what, at): (Turned, Timestamp)| LaunchOutcome {
        placement: view.placed_by(after),
        launch: after.launch,
        decided_at: crate::guards::decided_at(after.launch).unwrap_or(after.created_at),
        at,
        heard_at: if before.is_none() { at.min(now) } else { now },
        what,
        boot: after.ready_at.filter(|_| what == Turned::Out).map(|at| at.since(after.created_at)),
        fault: after.fault.clone().filter(|_| !matches!(what, Turned::Out | Turned::Interrupted)),
        asked: (what == Turned::Refused).then(|| asked(view, after)).flatten(),
        loaded: before.is_none(),
    };
    turned.map(|turned| turned.map(outcome)).into_iter().flatten()
}

/// What was asked of the site, if the same would be asked now: a refusal of anything else says nothing about that.
fn asked(view: &View, instance: &Instance) -> Option<u64> {
    let mut placements = view.pool.spec.placements.iter();
    let placement = placements.find(|placement| placement.called() == instance.placed_by())?;
    let same = placement.site == instance.site && version_on(&view.pool, placement) == instance.template;
    same.then(|| view.asked_by(placement))
}

fn turned(before: Option<&Instance>, after: &Instance, now: Timestamp) -> Option<(Turned, Timestamp)> {
    let was = before.map_or(State::Requesting, |b| b.state);
    let just_exited = after.exit.is_some() && before.is_some_and(|b| b.exit.is_none());
    let asked_to_go = after.drain.is_some()
        || after
            .ending
            .as_ref()
            .is_some_and(|e| !matches!(e.why, Cause::Finished | Cause::NotReady | Cause::StartFailed | Cause::Unhealthy));
    if just_exited && !asked_to_go && after.ready_at.is_some_and(|ready| now.since(ready) < EARLY_EXIT) {
        Some((Turned::Short, now))
    } else if was < State::Running && after.state == State::Running {
        Some((Turned::Out, after.state_since))
    } else if was < State::Rejected && after.state == State::Rejected && after.fault.as_ref().is_none_or(|fault| fault.code != "closed") {
        Some((failed(after.fault.as_ref()), now))
    } else if was < State::RunningFailed && (after.state == State::RunningFailed || after.state == State::Failed) && !asked_to_go {
        Some((failed(after.fault.as_ref()), after.state_since))
    } else {
        None
    }
}

/// What kind of failure a fault is. Fewer machines than asked is the site's way of saying that there is no more room.
fn failed(fault: Option<&Fault>) -> Turned {
    match fault.map(|fault| fault.code.as_ref()) {
        Some("site-capacity" | "site-quota-exceeded" | "capacity-short") => Turned::Full,
        Some("site-refused" | "site-credentials") => Turned::Refused,
        Some(_) | None => Turned::Bad,
    }
}

/// Whether it is from now on one that the site took away, with notice or without. One that was going anyway is none.
fn taken_away(before: Option<&Instance>, after: &Instance) -> Option<(Turned, Timestamp)> {
    let since = |instance: &Instance| match (&instance.drain, &instance.ending) {
        (Some(drain), _) => (drain.why == Cause::Interrupted).then_some(drain.since),
        (None, Some(ending)) => (ending.why == Cause::Vanished && instance.ready_at.is_some()).then_some(ending.since),
        (None, None) => None,
    };
    let was = before.and_then(since).is_some();
    since(after).filter(|_| !was).map(|at| (Turned::Interrupted, at))
}

//! How launches turned out, as the controller takes it in: the placements' gates and scores, and what is written about them.
//!
//! Scores change without a decision, so that they are written like everything else that does: at most once a minute a pool.

use epu_core::Reason;
use epu_core::id::PoolName;
use epu_core::journal::{Entry, Event};
use epu_core::launch::LaunchRequest;
use epu_core::life::State;
use epu_core::pool::Limits;
use epu_core::time::Timestamp;
use epu_core::{Fault, Span};

use crate::guards::{Breaker, Guards, LaunchOutcome, Turned};
use crate::managing::Managed;
use crate::service::Controller;

impl Controller {
    /// Takes in how launches of a pool turned out; gives what is to be in the journal.
    pub(crate) fn take_outcomes(&mut self, name: &PoolName, mut outcomes: Vec<LaunchOutcome>, now: Timestamp) -> Vec<Entry> {
        let Some(managed) = self.pools.get_mut(name).filter(|_| !outcomes.is_empty()) else {
            return Vec::new();
        };
        let limits = managed.view.pool.spec.limits.clone();
        outcomes.sort_by_key(|outcome| outcome.at);
        let events = take(&mut managed.guards, &outcomes, &limits, now);
        if let Some(attempt) = managed.unsure.as_mut() {
            // Should it turn out to be recorded, this is remembered all the same.
            take(&mut attempt.guards, &outcomes, &limits, now);
        }
        managed.unwritten = true;
        self.unwritten.insert(name.clone());
        events
            .into_iter()
            .map(|event| Entry::new(now, "controller", event).of(name))
            .collect()
    }

    /// The provisioner refused a launch for good: each of its instances is one that did not come.
    pub(crate) fn launch_refused(&mut self, name: &PoolName, request: &LaunchRequest, since: Timestamp, fault: &Fault, now: Timestamp) {
        if fault.code == "closed" {
            return;
        }
        let outcome = |_| LaunchOutcome {
            placement: request
                .placement
                .as_ref()
                .map_or(request.site.as_str(), |name| name.as_str())
                .to_owned(),
            launch: request.launch,
            decided_at: since,
            at: now,
            heard_at: now,
            what: Turned::Bad,
            boot: None,
            fault: Some(fault.clone()),
            asked: None,
            loaded: false,
        };
        // Those that are known to be rejected were counted when that was heard.
        let view = self.pools.get(name).map(|managed| &managed.view);
        let is_asked = |id| {
            view.and_then(|view| view.member(id))
                .is_some_and(|m| m.instance.state == State::Requesting)
        };
        let asked = request.instances.iter().filter(|wanted| is_asked(wanted.id));
        let outcomes = asked.map(outcome).collect();
        let mut journal = self.take_outcomes(name, outcomes, now);
        self.noted_entries.append(&mut journal);
    }
}

/// Counts outcomes, those that were counted before a restart left out, and gives what happened to gates by it.
fn take(guards: &mut Guards, outcomes: &[LaunchOutcome], limits: &Limits, now: Timestamp) -> Vec<Event> {
    let until = guards.outcomes_until;
    let mut events = Vec::new();
    for outcome in outcomes {
        if guards.has_counted(outcome, until) || !guards.count(outcome, limits) {
            continue;
        }
        if let Some(breaker) = guards.launching.get(&outcome.placement) {
            events.push(moved(&outcome.placement, breaker, now));
        }
    }
    events
}

/// What is written when a placement's gate moved.
fn moved(placement: &str, breaker: &Breaker, now: Timestamp) -> Event {
    let breaker_name = "launch".to_owned();
    if let Some(parked) = &breaker.parked {
        return Event::PlacementParked {
            placement: placement.to_owned(),
            fault: parked.fault.clone(),
        };
    }
    let Some(until) = breaker.open_until else {
        return Event::BreakerClosed { breaker: breaker_name };
    };
    let reason = if breaker.full_since.is_some() {
        let pause = Span(until.since(now));
        let text = format!("{placement} has no room: the next placement is used, and one instance tries it again in {pause}");
        Reason::new("no-capacity", text).with("times", breaker.filled)
    } else {
        let failures = breaker.failures;
        let text = format!("{failures} launches in a row on {placement} came to nothing");
        Reason::new("launch-breaker", text).with("failures", failures)
    };
    Event::BreakerOpened {
        breaker: breaker_name,
        reason,
    }
}

/// Placements that are parked no more since something else is asked of them by now.
pub(crate) fn unparked(managed: &Managed, planned: &Guards) -> Vec<Event> {
    let before = managed.guards.launching.iter().filter(|(_, breaker)| breaker.parked.is_some());
    let is_free = |name: &str| planned.launching.get(name).is_some_and(|breaker| breaker.parked.is_none());
    before
        .filter(|(name, _)| is_free(name))
        .map(|_| Event::BreakerClosed { breaker: "launch".into() })
        .collect()
}

//! One look at one pool: observe, decide, plan, record with the commands in one transaction, and only then count it as done.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::Reason;
use epu_core::code::Chain;
use epu_core::id::{InstanceId, PoolName, SensorName, SlotLabel};
use epu_core::instance::{Cause, Drain};
use epu_core::invariant::{self, Violation};
use epu_core::journal::{Action, Decided, Entry, Event};
use epu_core::launch::{LaunchRequest, Wanted};
use epu_core::lease::Domain;
use epu_core::pool::{Placement, Pool};
use epu_core::random::Random;
use epu_core::request::{DrainOrder, Ids, Request, Terminate};
use epu_core::time::Timestamp;
use epu_decision_engines::{Decision, Memory, Observation};
use epu_store::{DecisionCommit, Outgoing, PoolMemory};
use serde::Deserialize as _;
use tracing::{debug, info};

use crate::guards::Guards;
use crate::managing::Managed;
use crate::metrics::{Counted, Shown};
use crate::orders;
use crate::outcomes::unparked;
use crate::plan::{Batch, Plan, Wish, budget, plan};
use crate::service::Controller;
use crate::spec::version_on;
use crate::view::{Member, View};

/// A decision with what follows from it once it is recorded.
pub(crate) struct Attempt {
    decided: Decided,
    pub(crate) guards: Guards,
    pub(crate) memory: Memory,
    commands: Vec<Outgoing>,
}

impl Controller {
    pub(crate) async fn look_at(&mut self, name: &PoolName) {
        let now = self.parts.clock.now();
        if !self.make_sure(name, now).await {
            return;
        }
        // After every wait: time passes meanwhile, and with it perhaps the right to decide.
        let Some(term) = self.term_of(name) else { return };
        let Some(managed) = self.pools.get_mut(name) else { return };
        if managed.view.pool.removed && managed.view.live() == 0 && managed.outbox.is_empty() {
            self.forget(name, now).await;
            return;
        }
        let statuses = sensor_changes(managed, now, name);
        let boot = managed.guards.boot(&managed.view);
        let observation = managed.view.observation(now, managed.target, boot, managed.memory.clone());
        let Some((decision, sensors, version)) = wish_of(managed, &observation) else {
            self.wake(name, now + *self.parts.config.look_every);
            return;
        };
        managed.metrics.looked();
        let wish = Wish {
            now,
            view: &managed.view,
            decision: &decision,
            sensors: &sensors,
            target: managed.target,
            guards: &managed.guards,
            closed: self.closed,
        };
        let planned = plan(&wish);
        let readable = crate::view::unreadable(managed.view.readings(), &sensors, now).is_empty();
        let mut violations: Vec<Violation> = check(&managed.view, managed.target, &planned, readable);
        violations.extend(budget::check(&managed.view, &planned));
        let (commands, actions) = commands(&planned, managed, name, &self.parts.random, now);
        let mut decided = Decided {
            at: now,
            engine: version.to_owned(),
            revision: managed.view.pool.revision,
            observed: serde_json::Value::Null,
            desired: decision.desired,
            target: planned.target,
            reasons: decision.reasons.clone(),
            suppressed: planned.suppressed.clone(),
            actions,
        };
        let differs = managed.last.as_ref().is_none_or(|last| !same_decision(last, &decided));
        let mut journal = statuses;
        let storm_was = managed.guards.storm.is_some();
        if planned.guards.storm.is_some() != storm_was {
            let event = match planned.suppressed.iter().find(|r| r.code == "storm") {
                Some(reason) => Event::BreakerOpened {
                    breaker: "storm".into(),
                    reason: reason.clone(),
                },
                None => Event::BreakerClosed { breaker: "storm".into() },
            };
            journal.push(Entry::new(now, "controller", event).of(name));
        }
        let free = unparked(managed, &planned.guards);
        journal.extend(free.into_iter().map(|event| Entry::new(now, "controller", event).of(name)));
        let wake = [
            planned.look_again_at,
            managed.view.next_due(now),
            Some(now + *self.parts.config.look_every),
        ]
        .into_iter()
        .flatten()
        .min();
        let refresh = planned.refresh.clone();
        let memory_changed =
            managed.target != Some(planned.target) || !managed.guards.says_the_same(&planned.guards) || managed.memory != decision.memory;
        if planned.acts() || differs {
            decided.observed = serde_json::to_value(&observation).unwrap_or_default();
            violations.extend(replayed(managed, name, &decided));
            journal.push(Entry::new(now, "controller", Event::Decided(Box::new(decided.clone()))).of(name));
            let memory = PoolMemory {
                target: Some(planned.target),
                engine: version.to_owned(),
                memory: decision.memory.0.clone(),
                guards: serde_json::to_value(&planned.guards).unwrap_or_default(),
            };
            let commit = DecisionCommit {
                term: Some(term),
                memory: Some(memory),
                outbox: commands.clone(),
                journal,
            };
            let attempt = Attempt {
                decided,
                guards: planned.guards,
                memory: decision.memory,
                commands,
            };
            let result = self.parts.store.commit_decision(name, commit).await;
            if let Err(epu_store::Error::Deposed(_)) = result {
                return self.depose(term, "store");
            }
            if !self.noted(result.map_err(|e| Chain(&e).to_string()), "record a decision") {
                // Perhaps it was recorded all the same; until that is known nothing is done. Time tries again.
                if let Some(managed) = self.pools.get_mut(name) {
                    managed.unsure = Some(Box::new(attempt));
                }
                self.wake(name, now + *self.parts.config.tick);
                return;
            }
            self.recorded(name, attempt, now);
        } else {
            if !journal.is_empty() {
                self.write_journal(journal).await;
            }
            let Some(managed) = self.pools.get_mut(name) else { return };
            if let Some(last) = managed.last.as_mut() {
                // The same decision on newer numbers: shown, not written.
                last.reasons = decided.reasons;
                last.suppressed = decided.suppressed;
            }
            managed.unwritten |= memory_changed;
            if memory_changed {
                self.unwritten.insert(name.clone());
            }
            managed.guards = planned.guards;
            managed.target = Some(planned.target);
            managed.memory = decision.memory;
        }
        for violation in violations.drain(..) {
            self.violated(&violation);
        }
        self.show_size(name);
        self.steer(name, now);
        if let Some(at) = wake {
            self.wake(name, at.max(now + Duration::from_millis(1)));
        }
        if let Some(step) = refresh {
            self.roll(name, &step, now).await;
        }
    }

    /// A decision is in the store: from now on it is what was decided.
    fn recorded(&mut self, name: &PoolName, attempt: Attempt, now: Timestamp) {
        let Attempt {
            decided,
            guards,
            memory,
            commands,
        } = attempt;
        let Some(managed) = self.pools.get_mut(name) else { return };
        managed.metrics.decided();
        for reason in &decided.suppressed {
            managed.metrics.count(Counted::Suppressed, &reason.code, 1);
        }
        for action in &decided.actions {
            let (what, n) = counted(action);
            managed.metrics.count(Counted::Action, what, n);
            info!(pool = %name, target = decided.target, because = %because(&decided), "{what} {n}");
        }
        debug!(pool = %name, target = decided.target, because = %because(&decided), "decided");
        managed.remembered_at = now;
        managed.unwritten = false;
        managed.guards = guards;
        managed.target = Some(decided.target);
        managed.memory = memory;
        managed.last = Some(decided);
        for command in &commands {
            orders::note(&mut managed.view, command, now);
        }
        if !commands.is_empty() {
            managed.outbox.push(commands);
            self.commanding.insert(name.clone());
        }
        self.to_send.insert(name.clone());
    }

    /// After a write of which no reply came: what the store has of it counts. Otherwise its commands would be found there at the next
    /// start, and carried out beside what was decided since. False when the store does not say yet.
    async fn make_sure(&mut self, name: &PoolName, now: Timestamp) -> bool {
        if self.pools.get(name).is_none_or(|managed| managed.unsure.is_none()) {
            return true;
        }
        if let Err(error) = self.parts.store.settle(Domain::of(name)).await {
            self.noted(Err(Chain(&error).to_string()), "wait for a decision that is being recorded");
            self.wake(name, now + *self.parts.config.tick);
            return false;
        }
        let outbox = match self.parts.store.outbox().await {
            Ok(outbox) => outbox,
            Err(error) => {
                self.noted(Err(Chain(&error).to_string()), "read commands not yet accepted");
                self.wake(name, now + *self.parts.config.tick);
                return false;
            }
        };
        let attempt = self.pools.get_mut(name).and_then(|managed| managed.unsure.take());
        // One without commands is decided again, which changes nothing.
        let is_there = |attempt: &Attempt| {
            attempt
                .commands
                .first()
                .is_some_and(|first| outbox.iter().any(|stored| stored.id == first.id))
        };
        if let Some(attempt) = attempt.filter(|attempt| is_there(attempt)) {
            self.recorded(name, *attempt, now);
        }
        true
    }

    fn show_size(&mut self, name: &PoolName) {
        let now = self.parts.clock.now();
        let Some(managed) = self.pools.get_mut(name) else { return };
        let counts = managed.view.counts();
        let outdated = match &managed.view.pool.refresh {
            Some(_) => crate::rollout::outdated(&managed.view).0,
            None => 0,
        };
        let shown = Shown {
            sizes: [
                managed.target.unwrap_or(0),
                counts.capacity,
                counts.pending,
                counts.busy,
                counts.idle,
                counts.unhealthy,
                counts.draining,
                managed.view.live(),
            ],
            breakers: [
                managed.guards.storm.is_some(),
                managed.guards.launching.values().any(|breaker| breaker.holds_now(now)),
            ],
            outdated,
            gates: managed.gates(now),
        };
        managed.metrics.show(shown);
    }
}

/// What the pool's engine wants, with the sensors it needs and its version. A removed pool wants nothing, whatever its engine.
fn wish_of(managed: &Managed, observation: &Observation) -> Option<(Decision, Vec<SensorName>, &'static str)> {
    match &managed.engine {
        Some(engine) => Some((engine.decide(observation), engine.sensors(), engine.version())),
        None if managed.view.pool.removed => {
            let reasons = vec![Reason::new("removed", "the pool is being removed")];
            let nothing = Decision {
                desired: 0,
                slots: BTreeMap::new(),
                stepwise: false,
                reasons,
                memory: Memory::default(),
                look_again_at: None,
            };
            Some((nothing, Vec::new(), "none"))
        }
        None => None,
    }
}

/// Journal entries for sensors whose status changed since the last look.
fn sensor_changes(managed: &mut Managed, now: Timestamp, name: &PoolName) -> Vec<Entry> {
    let mut journal = Vec::new();
    for (sensor, reading) in managed.view.readings() {
        let word = reading.status(now).word();
        let before = managed.statuses.insert(sensor.clone(), word);
        if before.is_some_and(|before| before != word) || (before.is_none() && word == "invalid") {
            let event = Event::SensorChanged {
                sensor: sensor.clone(),
                status: word.to_owned(),
                fault: reading.fault.clone(),
            };
            journal.push(Entry::new(now, "controller", event).of(name));
        }
    }
    journal
}

/// Whether a decision says nothing that the last one did not: the same sizes for the same kinds of reasons.
fn same_decision(last: &Decided, new: &Decided) -> bool {
    let codes = |reasons: &[Reason]| reasons.iter().map(|r| r.code.clone()).collect::<Vec<_>>();
    last.desired == new.desired
        && last.target == new.target
        && last.engine == new.engine
        && last.revision == new.revision
        && codes(&last.reasons) == codes(&new.reasons)
        && codes(&last.suppressed) == codes(&new.suppressed)
}

fn because(decided: &Decided) -> String {
    decided
        .reasons
        .iter()
        .chain(&decided.suppressed)
        .map(|r| r.text.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

fn counted(action: &Action) -> (&'static str, u64) {
    let (what, n) = match action {
        Action::Launch { instances, .. } => ("launch", instances.len()),
        Action::Drain { instances, .. } => ("drain", instances.len()),
        Action::WithdrawDrain { instances } => ("withdraw-drain", instances.len()),
        Action::Terminate { instances, .. } => ("terminate", instances.len()),
    };
    (what, u64::try_from(n).unwrap_or(u64::MAX))
}

/// I8: the engine is shown what is about to be recorded, as it will be. That costs a call of the engine for each decision that is
/// recorded, which is little beside recording it; looks that record nothing cost nothing.
fn replayed(managed: &Managed, name: &PoolName, decided: &Decided) -> Option<Violation> {
    let engine = managed.engine.as_ref()?;
    let again = Observation::deserialize(&decided.observed).ok().map(|seen| engine.decide(&seen));
    let again = again.as_ref().map(|again| (again.desired, again.reasons.as_slice()));
    invariant::reproduces(name, (decided.desired, &decided.reasons), again)
}

/// What must be true of a plan, whatever engine it came from.
fn check(view: &View, target: Option<u32>, plan: &Plan, readable: bool) -> Vec<Violation> {
    let ended = plan.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| id);
    let drained = plan.drains.iter().flat_map(|(_, ids)| ids);
    let stays = |id: &&InstanceId| view.member(**id).is_some_and(Member::is_placed);
    let gone = ended.chain(drained).filter(stays).count();
    let launched: usize = plan.launches.iter().map(|b| b.wanted.len()).sum();
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let counts = view.counts();
    let before = view.placed().map(|(_, n)| n).fold(0, u32::saturating_add);
    let staying = before.saturating_sub(size(gone)) + size(plan.withdraw.len());
    let limits = &view.pool.spec.limits;
    let most = limits.replacements((counts.capacity + counts.unhealthy).max(plan.target));
    [
        invariant::within_max(staying, size(launched), view.pool.spec.max),
        invariant::no_blind_shrink(
            target.unwrap_or(plan.target),
            plan.target,
            view.pool.spec.max,
            readable || view.pool.removed,
        ),
        invariant::within_replacement_limit(&plan.guards.replaced, most, *limits.replace_window).filter(|_| {
            let ends = plan.terminate.iter().any(|(why, _)| *why == Cause::Unhealthy);
            ends || plan
                .drains
                .iter()
                .any(|(why, _)| matches!(why, Cause::Refresh | Cause::PlacementLeft))
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The commands that carry out a plan, and what they are in the journal.
fn commands(plan: &Plan, managed: &Managed, name: &PoolName, random: &Random, now: Timestamp) -> (Vec<Outgoing>, Vec<Action>) {
    let pool = &managed.view.pool;
    let mut commands = Vec::new();
    let mut actions = Vec::new();
    let mut add = |request| {
        commands.push(Outgoing {
            id: random.uuid(now),
            pool: name.clone(),
            request,
            since: now,
        })
    };
    for (why, ids) in &plan.terminate {
        add(Request::Terminate(Terminate {
            instances: ids.clone(),
            why: *why,
            epoch: 0,
        }));
        actions.push(Action::Terminate {
            instances: ids.iter().map(|(id, _)| *id).collect(),
            why: *why,
        });
    }
    if !plan.withdraw.is_empty() {
        add(Request::WithdrawDrain(Ids {
            instances: plan.withdraw.clone(),
            epoch: 0,
        }));
        actions.push(Action::WithdrawDrain {
            instances: plan.withdraw.clone(),
        });
    }
    // Before what is launched in their place, so that no launch is recorded above the maximum.
    for (why, ids) in &plan.drains {
        let drain = Drain {
            since: now,
            deadline: now + *pool.spec.limits.drain,
            why: *why,
        };
        add(Request::Drain(DrainOrder {
            instances: ids.clone(),
            drain,
            epoch: 0,
        }));
        actions.push(Action::Drain {
            instances: ids.clone(),
            why: *why,
        });
    }
    for batch in &plan.launches {
        let Some(placement) = pool.spec.placements.iter().find(|placement| placement.called() == batch.placement) else {
            continue;
        };
        for wanted in batch.wanted.chunks(managed.view.launch_most(placement)) {
            let launch = Box::new(launch(pool, placement, batch, wanted, random, now));
            actions.push(Action::Launch {
                launch: launch.launch,
                site: launch.site.clone(),
                placement: launch.placement.clone(),
                instances: launch.instances.iter().map(|w| (w.id, w.slot.clone())).collect(),
            });
            add(Request::Launch(launch));
        }
    }
    (commands, actions)
}

/// One launch of those that a placement gets.
fn launch(
    pool: &Pool,
    placement: &Placement,
    batch: &Batch,
    wanted: &[Option<(SlotLabel, BTreeMap<String, String>)>],
    random: &Random,
    now: Timestamp,
) -> LaunchRequest {
    let instance = |slot: &Option<(SlotLabel, BTreeMap<String, String>)>| {
        let (slot, variables) = slot.clone().map_or((None, BTreeMap::new()), |(label, vars)| (Some(label), vars));
        Wanted {
            id: random.instance(now),
            slot,
            variables,
        }
    };
    let least = pool.spec.limits.launch_least.unwrap_or(1);
    let is_enough = usize::try_from(least).is_ok_and(|least| wanted.len() >= least);
    LaunchRequest {
        launch: random.launch(now),
        pool: pool.name.clone(),
        site: placement.site.clone(),
        // One that is called like its site needs no name: so the release before understands it.
        placement: placement.name.clone().filter(|name| name.as_str() != placement.site.as_str()),
        purpose: batch.purpose,
        template: placement.template(&pool.template),
        template_version: version_on(pool, placement),
        instances: wanted.iter().map(instance).collect(),
        min: if is_enough { least } else { 1 },
        max: Some(pool.spec.max),
        epoch: 0,
    }
}

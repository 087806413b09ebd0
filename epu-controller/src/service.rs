//! The controller's loop: take in facts, look at the pools that changed, record, act.
//!
//! A fact marks its pool, and marked pools are looked at as soon as the facts that have arrived are taken in, so that a queue that
//! crosses its high water is answered at once and not at the next tick. Time marks pools too: each says when it wants to be looked
//! at though nothing happens. A pool that nothing marks costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::{Bus, Call, Calls, Facts};
use epu_core::code::Chain;
use epu_core::fact::{Fact, Kind, Listener, Snapshot};
use epu_core::health::Health;
use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::{Cause, Drain, Instance, Work};
use epu_core::invariant::{self, Violation};
use epu_core::journal::{Action, Decided, Entry, Event};
use epu_core::launch::{LaunchRequest, Wanted};
use epu_core::life::State;
use epu_core::pool::Pool;
use epu_core::random::Random;
use epu_core::request::{Answer, Caller, DrainOrder, Ids, Request, Service, SiteWord, Terminate};
use epu_core::time::{Clock, Timestamp};
use epu_core::{Fault, Reason};
use epu_decision_engines::{Engine, Memory, Registry};
use epu_store::{DecisionCommit, Outgoing, PoolMemory, Store};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::config::Config;
use crate::error::Error;
use crate::guards::Guards;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Sent};
use crate::plan::{Plan, Wish, plan};
use crate::spec::{Known, Resolved};
use crate::view::{Changed, Ordered, View};

/// Facts taken in before pools are looked at.
const FACTS_AT_ONCE: usize = 1_000;

/// Everything the controller is given.
pub struct Parts {
    /// How it talks.
    pub bus: Arc<dyn Bus>,
    /// What survives it.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub random: Arc<Random>,
    /// The engines there are.
    pub engines: Arc<Registry>,
    /// Its settings.
    pub config: Config,
    /// Its metrics.
    pub metrics: Metrics,
    /// The config file's pools, templates and sites: as of start, and whenever it is reloaded.
    pub file: watch::Receiver<Arc<FileConfig>>,
}

/// What a config file says to the controller.
#[derive(Debug, Clone)]
pub struct FileConfig {
    /// Which file; empty when there is none.
    pub path: String,
    /// Its pools.
    pub pools: Vec<Resolved>,
    /// What pools may refer to.
    pub known: Known,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Parts").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A pool with everything that is kept about it.
pub(crate) struct Managed {
    pub(crate) view: View,
    pub(crate) engine: Option<Box<dyn Engine>>,
    pub(crate) target: Option<u32>,
    pub(crate) memory: Memory,
    pub(crate) guards: Guards,
    pub(crate) last: Option<Decided>,
    pub(crate) trouble: Option<Fault>,
    outbox: Outbox,
    remembered_at: Timestamp,
    unwritten: bool,
    wake: Option<Timestamp>,
    statuses: BTreeMap<epu_core::SensorName, &'static str>,
    /// A decision of which it is not known whether it was recorded.
    unsure: Option<Box<Attempt>>,
}

/// A decision with what follows from it once it is recorded.
struct Attempt {
    decided: Decided,
    guards: Guards,
    memory: Memory,
    commands: Vec<Outgoing>,
}

/// What a task brings back.
enum Back {
    Sent(PoolName, Uuid, Result<Answer, Fault>),
    Waited(PoolName),
    Looked(Vec<InstanceId>, Result<Answer, Fault>),
}

pub(crate) struct Controller {
    pub(crate) parts: Parts,
    pub(crate) pools: BTreeMap<PoolName, Managed>,
    pub(crate) in_file: BTreeSet<PoolName>,
    pub(crate) closed: bool,
    pub(crate) since: Timestamp,
    pub(crate) store_fault: Option<String>,
    dirty: BTreeSet<PoolName>,
    wakes: BTreeSet<(Timestamp, PoolName)>,
    tasks: JoinSet<Back>,
    told_at: Timestamp,
}

/// Runs until cancelled, then returns; workers and everything else are left as they are.
///
/// # Errors
/// When its records cannot be loaded at start.
pub async fn run(parts: Parts, cancel: CancellationToken) -> Result<(), Error> {
    let calls = parts.bus.serve(Service::Controller);
    // Listening begins before loading, so that nothing that happens meanwhile is missed.
    let facts = parts.bus.listen(&[Kind::Instances, Kind::Snapshot, Kind::Listening]);
    let mut controller = Controller::load(parts).await?;
    controller.apply_file().await;
    controller.parts.bus.tell(Fact::Listening(Listener::Controller));
    controller.tell_pools();
    controller.turn(calls, facts, &cancel).await;
    Ok(())
}

impl Controller {
    async fn load(parts: Parts) -> Result<Self, Error> {
        let now = parts.clock.now();
        let load = |what| move |source| Error::Load { what, source };
        let pools = parts.store.pools().await.map_err(load("pools"))?;
        let memories: BTreeMap<_, _> = parts.store.memories().await.map_err(load("what is remembered of pools"))?.into_iter().collect();
        let closed = parts.store.closed().await.map_err(load("whether the installation is closed"))?;
        let mut controller = Self {
            parts,
            pools: BTreeMap::new(),
            in_file: BTreeSet::new(),
            closed,
            since: now,
            store_fault: None,
            dirty: BTreeSet::new(),
            wakes: BTreeSet::new(),
            tasks: JoinSet::new(),
            told_at: now,
        };
        for pool in pools {
            let memory = memories.get(&pool.name).cloned();
            controller.manage(Arc::new(pool), memory, now).await;
        }
        for instance in controller.parts.store.instances(true).await.map_err(load("instances"))? {
            controller.take_instance(Arc::new(instance), now);
        }
        for command in controller.parts.store.outbox().await.map_err(load("commands not yet accepted"))? {
            if let Some(managed) = controller.pools.get_mut(&command.pool) {
                overlay(&mut managed.view, &command, now);
                managed.outbox.push([command]);
            }
        }
        controller.dirty.extend(controller.pools.keys().cloned());
        Ok(controller)
    }

    async fn turn(&mut self, mut calls: Calls, mut facts: Facts, cancel: &CancellationToken) {
        let mut tick = tokio::time::interval(*self.parts.config.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(call) = calls.recv() => self.take_call(call).await,
                Some(back) = self.tasks.join_next(), if !self.tasks.is_empty() => match back {
                    Ok(back) => self.take_back(back).await,
                    Err(error) => warn!(%error, "a task of the controller was lost"),
                },
                Some(fact) = facts.next() => {
                    self.take_fact(fact).await;
                    for _ in 0..FACTS_AT_ONCE {
                        let Some(fact) = facts.next_now() else { break };
                        self.take_fact(fact).await;
                    }
                    if facts.lost() > 0 {
                        warn!("facts were lost; asking for everything again");
                        self.parts.bus.tell(Fact::Listening(Listener::Controller));
                    }
                }
                Ok(()) = self.parts.file.changed() => self.apply_file().await,
                _ = tick.tick() => self.pass_time().await,
            }
            self.look().await;
        }
    }

    async fn take_call(&mut self, call: Call) {
        let (caller, request, answering) = call.into_parts();
        answering.answer(self.answer(&caller, request).await);
    }

    /// Time passes: whatever is due is looked at.
    async fn pass_time(&mut self) {
        let now = self.parts.clock.now();
        while let Some((at, name)) = self.wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, name.clone()));
            if let Some(managed) = self.pools.get_mut(&name) {
                managed.wake = None;
                let changed = managed.view.look(now);
                self.take_changed(&name, changed, now).await;
                self.dirty.insert(name);
            }
        }
        if now.since(self.told_at) >= *self.parts.config.tell_every {
            self.tell_pools();
        }
        self.remember(now).await;
    }

    async fn take_fact(&mut self, fact: Fact) {
        let now = self.parts.clock.now();
        match fact {
            Fact::Instances(told) => {
                if self.closed != told.closed {
                    self.closed = told.closed;
                    self.dirty.extend(self.pools.keys().cloned());
                }
                for instance in &told.changed {
                    let changed = self.take_instance(instance.clone(), now);
                    self.take_changed(&instance.pool, changed, now).await;
                }
            }
            Fact::Snapshot(snapshot) => self.take_snapshot(&snapshot, now).await,
            Fact::Listening(Listener::Aggregator) => self.tell_pools(),
            Fact::Listening(Listener::Controller) | Fact::Pools(_) => {}
        }
    }

    fn take_instance(&mut self, instance: Arc<Instance>, now: Timestamp) -> Changed {
        let Some(managed) = self.pools.get_mut(&instance.pool) else { return Changed::default() };
        if let Some(before) = managed.view.member(instance.id) {
            let violation = invariant::moved_legally(&before.instance, &instance);
            let ended = instance.ending.is_some() && before.instance.ending.is_none();
            let busy = ended.then(|| invariant::no_busy_ended(&instance)).flatten();
            if let Some(ending) = instance.ending.as_ref().filter(|e| ended && e.work != Work::Idle && instance.ready_at.is_some()) {
                let because = serde_json::to_value(ending.why).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
                self.parts.metrics.busy_ended.with_label_values(&[instance.pool.as_str(), &because]).inc();
            }
            for violation in [violation, busy].into_iter().flatten() {
                self.violated(&violation);
            }
        }
        let Some(managed) = self.pools.get_mut(&instance.pool) else { return Changed::default() };
        managed.view.instance(instance, now)
    }

    async fn take_snapshot(&mut self, snapshot: &Snapshot, now: Timestamp) {
        let mut changes: BTreeMap<PoolName, Changed> = BTreeMap::new();
        for (name, managed) in &mut self.pools {
            let had_heard_all = managed.view.has_heard_all();
            let mut changed = managed.view.listened(snapshot, now);
            changed.decision |= !had_heard_all && managed.view.has_heard_all();
            if changed != Changed::default() {
                changes.insert(name.clone(), changed);
            }
        }
        for heard in &snapshot.instances {
            if let Some(managed) = self.pools.get_mut(&heard.pool) {
                let changed = managed.view.heard(heard, now);
                if changed != Changed::default() {
                    changes.entry(heard.pool.clone()).or_default().absorb(changed);
                }
            }
        }
        for report in &snapshot.sensors {
            if let Some(managed) = self.pools.get_mut(&report.pool) {
                if managed.view.sensor(report, now) {
                    changes.entry(report.pool.clone()).or_default().decision = true;
                }
            }
        }
        for (name, changed) in changes {
            self.take_changed(&name, changed, now).await;
        }
    }

    async fn take_changed(&mut self, name: &PoolName, changed: Changed, now: Timestamp) {
        let Some(managed) = self.pools.get_mut(name) else { return };
        if changed.decision {
            self.dirty.insert(name.clone());
        }
        let mut journal = Vec::new();
        for (id, from, to, why) in changed.health {
            if to != Health::Ok || from != Health::Unknown {
                info!(pool = %name, instance = %id, %from, %to, why, "health changed");
                journal.push(Entry::new(now, "controller", Event::HealthChanged { from, to, why }).of(name).on(id));
            }
        }
        let limits = managed.view.pool.spec.limits.clone();
        for outcome in &changed.outcomes {
            let site = outcome.site.clone();
            if managed.guards.outcome(outcome, &limits) {
                managed.unwritten = true;
                let breaker = managed.guards.launching.get(&site);
                let open = breaker.is_some_and(|b| b.open_until.is_some());
                let failures = breaker.map_or(0, |b| b.failures);
                let event = if open {
                    let text = format!("{failures} launches in a row on {site} came to nothing");
                    Event::BreakerOpened { breaker: "launch".into(), reason: Reason::new("launch-breaker", text).with("failures", failures) }
                } else {
                    Event::BreakerClosed { breaker: "launch".into() }
                };
                journal.push(Entry::new(now, "controller", event).of(name));
            }
        }
        if !changed.ask_site.is_empty() {
            let ids = changed.ask_site;
            let bus = self.parts.bus.clone();
            let within = *self.parts.config.ask_within;
            self.tasks.spawn(async move {
                let look = Request::Look(Ids { instances: ids.clone(), epoch: 0 });
                let answer = bus.ask(Caller::Service("controller"), look, within).await;
                Back::Looked(ids, answer)
            });
        }
        self.write_journal(journal).await;
    }

    pub(crate) async fn write_journal(&mut self, journal: Vec<Entry>) {
        if journal.is_empty() {
            return;
        }
        let result = self.parts.store.append(journal).await;
        self.noted(result.map_err(|e| Chain(&e).to_string()), "write to the journal");
    }

    /// Keeps in mind whether the store works, and says so when that changes.
    fn noted(&mut self, result: Result<(), String>, doing: &str) -> bool {
        match result {
            Ok(()) => {
                if self.store_fault.take().is_some() {
                    info!("the store works again");
                }
                true
            }
            Err(error) => {
                let text = format!("{doing}: {error}");
                if self.store_fault.as_ref() != Some(&text) {
                    warn!(error, doing, "the store failed; it is tried again, nothing is done meanwhile");
                }
                self.store_fault = Some(text);
                false
            }
        }
    }

    /// Looks at every pool that changed.
    async fn look(&mut self) {
        if !self.dirty.is_empty() {
            let timer = self.parts.metrics.look_seconds.start_timer();
            for name in std::mem::take(&mut self.dirty) {
                self.look_at(&name).await;
            }
            drop(timer);
        }
        self.send();
    }

    async fn look_at(&mut self, name: &PoolName) {
        let now = self.parts.clock.now();
        if !self.make_sure(name, now).await {
            return;
        }
        let Some(managed) = self.pools.get_mut(name) else { return };
        if managed.view.pool.removed && managed.view.live() == 0 && managed.outbox.is_empty() {
            self.forget(name, now).await;
            return;
        }
        let statuses = sensor_changes(managed, now, name);
        let Some(engine) = managed.engine.as_ref() else {
            self.wake(name, now + *self.parts.config.look_every);
            return;
        };
        let observation = managed.view.observation(now, managed.target, managed.memory.clone());
        let decision = engine.decide(&observation);
        self.parts.metrics.looks.with_label_values(&[name.as_str()]).inc();
        let sensors = engine.sensors();
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
        let (commands, actions) = commands(&planned, managed, name, &self.parts.random, now);
        let mut decided = Decided {
            at: now,
            engine: engine.version().to_owned(),
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
                Some(reason) => Event::BreakerOpened { breaker: "storm".into(), reason: reason.clone() },
                None => Event::BreakerClosed { breaker: "storm".into() },
            };
            journal.push(Entry::new(now, "controller", event).of(name));
        }
        let wake = [planned.look_again_at, managed.view.next_due(now), Some(now + *self.parts.config.look_every)].into_iter().flatten().min();
        let memory_changed = managed.target != Some(planned.target) || managed.guards != planned.guards || managed.memory != decision.memory;
        if planned.acts() || differs {
            decided.observed = serde_json::to_value(&observation).unwrap_or_default();
            journal.push(Entry::new(now, "controller", Event::Decided(Box::new(decided.clone()))).of(name));
            let memory = PoolMemory {
                target: Some(planned.target),
                engine: engine.version().to_owned(),
                memory: decision.memory.0.clone(),
                guards: serde_json::to_value(&planned.guards).unwrap_or_default(),
            };
            let commit = DecisionCommit { memory: Some(memory), outbox: commands.clone(), journal };
            let attempt = Attempt { decided, guards: planned.guards, memory: decision.memory, commands };
            let result = self.parts.store.commit_decision(name, commit).await;
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
            managed.guards = planned.guards;
            managed.target = Some(planned.target);
            managed.memory = decision.memory;
        }
        for violation in violations.drain(..) {
            self.violated(&violation);
        }
        self.show_size(name);
        if let Some(at) = wake {
            self.wake(name, at.max(now + Duration::from_millis(1)));
        }
    }

    /// A decision is in the store: from now on it is what was decided.
    fn recorded(&mut self, name: &PoolName, attempt: Attempt, now: Timestamp) {
        let Attempt { decided, guards, memory, commands } = attempt;
        self.parts.metrics.decisions.with_label_values(&[name.as_str()]).inc();
        for reason in &decided.suppressed {
            self.parts.metrics.suppressed.with_label_values(&[name.as_str(), reason.code.as_ref()]).inc();
        }
        for action in &decided.actions {
            let (what, n) = counted(action);
            self.parts.metrics.actions.with_label_values(&[name.as_str(), what]).inc_by(n);
            info!(pool = %name, target = decided.target, because = %because(&decided), "{what} {n}");
        }
        debug!(pool = %name, target = decided.target, because = %because(&decided), "decided");
        let Some(managed) = self.pools.get_mut(name) else { return };
        managed.remembered_at = now;
        managed.unwritten = false;
        managed.guards = guards;
        managed.target = Some(decided.target);
        managed.memory = memory;
        managed.last = Some(decided);
        for command in &commands {
            overlay(&mut managed.view, command, now);
        }
        managed.outbox.push(commands);
    }

    /// After a write of which no reply came: what the store has of it counts. Otherwise its commands would be found there at the next
    /// start, and carried out beside what was decided since. False when the store does not say yet.
    async fn make_sure(&mut self, name: &PoolName, now: Timestamp) -> bool {
        if self.pools.get(name).is_none_or(|managed| managed.unsure.is_none()) {
            return true;
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
        let is_there = |attempt: &Attempt| attempt.commands.first().is_some_and(|first| outbox.iter().any(|stored| stored.id == first.id));
        if let Some(attempt) = attempt.filter(|attempt| is_there(attempt)) {
            self.recorded(name, *attempt, now);
        }
        true
    }

    pub(crate) fn wake(&mut self, name: &PoolName, at: Timestamp) {
        let Some(managed) = self.pools.get_mut(name) else { return };
        if let Some(before) = managed.wake {
            self.wakes.remove(&(before, name.clone()));
        }
        managed.wake = Some(at);
        self.wakes.insert((at, name.clone()));
    }

    /// Marks a pool to be looked at.
    pub(crate) fn mark(&mut self, name: &PoolName) {
        self.dirty.insert(name.clone());
    }

    fn violated(&self, violation: &Violation) {
        tracing::error!(invariant = violation.invariant.id(), what = violation.what, "something that must always be true is not");
        self.parts.metrics.violations.with_label_values(&[violation.invariant.id()]).inc();
    }

    fn show_size(&self, name: &PoolName) {
        let Some(managed) = self.pools.get(name) else { return };
        let counts = managed.view.counts();
        let set = |what: &str, n: u32| self.parts.metrics.size.with_label_values(&[name.as_str(), what]).set(i64::from(n));
        set("target", managed.target.unwrap_or(0));
        set("capacity", counts.capacity);
        set("pending", counts.pending);
        set("busy", counts.busy);
        set("idle", counts.idle);
        set("unhealthy", counts.unhealthy);
        set("draining", counts.draining);
        set("live", managed.view.live());
        let breaker = |which: &str, open: bool| self.parts.metrics.breaker.with_label_values(&[name.as_str(), which]).set(i64::from(open));
        breaker("storm", managed.guards.storm.is_some());
        breaker("launch", managed.guards.launching.values().any(|b| b.open_until.is_some()));
    }

    /// Sends a command that is not kept: should it get lost, something else brings about the same.
    pub(crate) fn send_once(&mut self, request: Request) {
        let bus = self.parts.bus.clone();
        let within = *self.parts.config.ask_within;
        self.tasks.spawn(async move {
            let result = bus.ask(Caller::Service("controller"), request, within).await;
            if let Err(fault) = &result {
                warn!(%fault, "a command was not accepted");
            }
            Back::Looked(Vec::new(), result)
        });
    }

    /// Sends what is waiting, one command a pool at a time.
    fn send(&mut self) {
        let mut waiting = 0;
        for (name, managed) in &mut self.pools {
            waiting += managed.outbox.len();
            if let Some(command) = managed.outbox.next() {
                let bus = self.parts.bus.clone();
                let within = *self.parts.config.ask_within;
                let name = name.clone();
                self.tasks.spawn(async move {
                    let result = bus.ask(Caller::Service("controller"), command.request, within).await;
                    Back::Sent(name, command.id, result)
                });
            }
        }
        self.parts.metrics.outbox.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    async fn take_back(&mut self, back: Back) {
        let now = self.parts.clock.now();
        match back {
            Back::Waited(name) => {
                if let Some(managed) = self.pools.get_mut(&name) {
                    managed.outbox.ready();
                }
            }
            Back::Sent(name, id, result) => {
                let Some(managed) = self.pools.get_mut(&name) else { return };
                match managed.outbox.done(id, result) {
                    None => {}
                    Some(Sent::Again(wait, fault)) => {
                        if managed.trouble.as_ref().map(|t| &t.code) != Some(&fault.code) {
                            warn!(pool = %name, %fault, "a command was not accepted; it is sent again");
                        }
                        managed.trouble = Some(fault);
                        self.parts.metrics.retries.with_label_values(&["any"]).inc();
                        self.tasks.spawn(async move {
                            tokio::time::sleep(wait).await;
                            Back::Waited(name)
                        });
                    }
                    Some(Sent::Accepted(command, answer)) => {
                        managed.trouble = None;
                        if let Request::WithdrawDrain(asked) = &command.request {
                            let stay: Vec<InstanceId> = answer.read().unwrap_or_default();
                            for id in asked.instances.iter().filter(|id| !stay.contains(id)) {
                                managed.view.not_ordered(*id);
                            }
                        }
                        self.forget_command(&name, command.id).await;
                    }
                    Some(Sent::Refused(command, fault)) => {
                        warn!(pool = %name, op = command.request.op(), %fault, "a command was refused");
                        undo_overlay(&mut managed.view, &command);
                        managed.trouble = (fault.code != "closed").then_some(fault);
                        self.forget_command(&name, command.id).await;
                        self.wake(&name, now + *self.parts.config.tick);
                    }
                }
            }
            Back::Looked(ids, answer) => {
                let words: Vec<(InstanceId, SiteWord)> = answer.and_then(Answer::read).unwrap_or_default();
                for id in ids {
                    let word = words.iter().find(|(other, _)| *other == id).map_or(SiteWord::NoAnswer, |(_, word)| *word);
                    let Some(name) = self.pools.iter().find(|(_, m)| m.view.member(id).is_some()).map(|(name, _)| name.clone()) else { continue };
                    let Some(managed) = self.pools.get_mut(&name) else { continue };
                    let changed = managed.view.site_said(id, word, now);
                    self.take_changed(&name, changed, now).await;
                    self.dirty.insert(name);
                }
            }
        }
    }

    async fn forget_command(&mut self, name: &PoolName, id: Uuid) {
        // A command that is forgotten too late is only sent once more, which is harmless.
        let result = self.parts.store.accepted(&[id]).await;
        self.noted(result.map_err(|e| Chain(&e).to_string()), "note that a command was accepted");
        if self.pools.get(name).is_some_and(|m| m.view.pool.removed) {
            self.dirty.insert(name.clone());
        }
    }

    async fn forget(&mut self, name: &PoolName, now: Timestamp) {
        let journal = vec![Entry::new(now, "controller", Event::PoolForgotten).of(name)];
        let result = self.parts.store.forget_pool(name, journal).await;
        if !self.noted(result.map_err(|e| Chain(&e).to_string()), "forget a removed pool") {
            self.wake(name, now + *self.parts.config.tick);
            return;
        }
        info!(pool = %name, "the removed pool is empty and forgotten");
        if let Some(managed) = self.pools.remove(name) {
            if let Some(at) = managed.wake {
                self.wakes.remove(&(at, name.clone()));
            }
        }
        self.tell_pools();
    }

    /// Writes what changed without a decision, now and then.
    async fn remember(&mut self, now: Timestamp) {
        let every = *self.parts.config.remember_every;
        let due: Vec<PoolName> =
            self.pools.iter().filter(|(_, m)| m.unwritten && now.since(m.remembered_at) >= every).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some(managed) = self.pools.get_mut(&name) else { continue };
            let memory = PoolMemory {
                target: managed.target,
                engine: managed.engine.as_ref().map(|e| e.version().to_owned()).unwrap_or_default(),
                memory: managed.memory.0.clone(),
                guards: serde_json::to_value(&managed.guards).unwrap_or_default(),
            };
            managed.remembered_at = now;
            managed.unwritten = false;
            let result = self.parts.store.commit_decision(&name, DecisionCommit { memory: Some(memory), ..DecisionCommit::default() }).await;
            self.noted(result.map_err(|e| Chain(&e).to_string()), "write what is remembered");
        }
    }

    pub(crate) fn tell_pools(&mut self) {
        self.told_at = self.parts.clock.now();
        let pools: Vec<Pool> = self.pools.values().map(|m| m.view.pool.as_ref().clone()).collect();
        self.parts.bus.tell(Fact::Pools(Arc::new(pools)));
    }

    /// Begins to manage a pool, or takes its new settings.
    pub(crate) async fn manage(&mut self, pool: Arc<Pool>, memory: Option<PoolMemory>, now: Timestamp) {
        let name = pool.name.clone();
        let (engine, trouble) = match make_engine(&self.parts.engines, &pool) {
            Ok(engine) => (Some(engine), None),
            Err(fault) => {
                warn!(pool = %name, %fault, "the pool's engine cannot be made; the pool is left as it is");
                (None, Some(fault))
            }
        };
        self.dirty.insert(name.clone());
        if let Some(managed) = self.pools.get_mut(&name) {
            let same = managed.engine.as_ref().zip(engine.as_ref()).is_some_and(|(a, b)| a.version() == b.version());
            if !same {
                managed.memory = Memory::default();
            }
            managed.engine = engine;
            managed.trouble = trouble;
            let changed = managed.view.set_pool(pool, now);
            self.take_changed(&name, changed, now).await;
            return;
        }
        let mut managed = Managed {
            view: View::new(pool, now),
            engine,
            target: None,
            memory: Memory::default(),
            guards: Guards::default(),
            last: None,
            trouble,
            outbox: Outbox::default(),
            remembered_at: now,
            unwritten: false,
            wake: None,
            statuses: BTreeMap::new(),
            unsure: None,
        };
        let mut dropped = Vec::new();
        if let Some(stored) = memory {
            managed.target = stored.target;
            let version = managed.engine.as_ref().map(|e| e.version()).unwrap_or_default();
            if version == stored.engine {
                managed.memory = Memory(stored.memory);
            } else if !stored.memory.is_null() {
                dropped.push(format!("memory of {} is not handed to {version}", stored.engine));
            }
            match serde_json::from_value(stored.guards) {
                Ok(guards) => managed.guards = guards,
                Err(error) => dropped.push(format!("what the guardrails remembered: {error}")),
            }
        }
        self.pools.insert(name.clone(), managed);
        let journal = dropped.into_iter().map(|why| Entry::new(now, "controller", Event::MemoryDropped { why }).of(&name)).collect();
        self.write_journal(journal).await;
    }
}

pub(crate) fn make_engine(engines: &Registry, pool: &Pool) -> Result<Box<dyn Engine>, Fault> {
    let Some((name, settings)) = pool.spec.engine.iter().next() else {
        return Err(Fault::new("bad-config", format!("pool {}: no engine is given", pool.name)));
    };
    engines.make(name, settings).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Fault::new("bad-config", format!("pool {}: engine {name}: {}", pool.name, all.join("; ")))
    })
}

/// Journal entries for sensors whose status changed since the last look.
fn sensor_changes(managed: &mut Managed, now: Timestamp, name: &PoolName) -> Vec<Entry> {
    let mut journal = Vec::new();
    for (sensor, reading) in managed.view.readings() {
        let word = reading.status(now).word();
        let before = managed.statuses.insert(sensor.clone(), word);
        if before.is_some_and(|before| before != word) || (before.is_none() && word == "invalid") {
            let event = Event::SensorChanged { sensor: sensor.clone(), status: word.to_owned(), fault: reading.fault.clone() };
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
    decided.reasons.iter().chain(&decided.suppressed).map(|r| r.text.as_str()).collect::<Vec<_>>().join("; ")
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

/// What must be true of a plan, whatever engine it came from.
fn check(view: &View, target: Option<u32>, plan: &Plan, readable: bool) -> Vec<Violation> {
    let ended: usize = plan.terminate.iter().map(|(_, ids)| ids.len()).sum();
    let drained: usize = plan.drains.iter().map(|(_, ids)| ids.len()).sum();
    let launched: usize = plan.launches.iter().map(|b| b.wanted.len()).sum();
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let counts = view.counts();
    let staying = (counts.capacity + counts.unhealthy).saturating_sub(size(ended + drained)) + size(plan.withdraw.len());
    let limits = &view.pool.spec.limits;
    let most = limits.replacements((counts.capacity + counts.unhealthy).max(plan.target));
    [
        invariant::within_max(staying, size(launched), view.pool.spec.max),
        invariant::no_blind_shrink(target.unwrap_or(plan.target), plan.target, view.pool.spec.max, readable || view.pool.removed),
        invariant::within_replacement_limit(&plan.guards.replaced, most, *limits.replace_window)
            .filter(|_| plan.terminate.iter().any(|(why, _)| *why == Cause::Unhealthy)),
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
    let mut add = |request| commands.push(Outgoing { id: random.uuid(now), pool: name.clone(), request, since: now });
    for (why, ids) in &plan.terminate {
        add(Request::Terminate(Terminate { instances: ids.clone(), why: *why, epoch: 0 }));
        actions.push(Action::Terminate { instances: ids.iter().map(|(id, _)| *id).collect(), why: *why });
    }
    if !plan.withdraw.is_empty() {
        add(Request::WithdrawDrain(Ids { instances: plan.withdraw.clone(), epoch: 0 }));
        actions.push(Action::WithdrawDrain { instances: plan.withdraw.clone() });
    }
    // Before what is launched in their place, so that no launch is recorded above the maximum.
    for (why, ids) in &plan.drains {
        let drain = Drain { since: now, deadline: now + *pool.spec.limits.drain, why: *why };
        add(Request::Drain(DrainOrder { instances: ids.clone(), drain, epoch: 0 }));
        actions.push(Action::Drain { instances: ids.clone(), why: *why });
    }
    for batch in &plan.launches {
        let launch = random.launch(now);
        let instances: Vec<Wanted> = batch
            .wanted
            .iter()
            .map(|slot| {
                let (slot, variables) = slot.clone().map_or((None, BTreeMap::new()), |(label, vars)| (Some(label), vars));
                Wanted { id: random.instance(now), slot, variables }
            })
            .collect();
        actions.push(Action::Launch { launch, site: batch.site.clone(), instances: instances.iter().map(|w| (w.id, w.slot.clone())).collect() });
        add(Request::Launch(Box::new(LaunchRequest {
            launch,
            pool: name.clone(),
            site: batch.site.clone(),
            template: pool.template.clone(),
            template_version: pool.template_version.clone(),
            instances,
            min: 1,
            epoch: 0,
        })));
    }
    (commands, actions)
}

/// Lets a view count what a command asks for as done.
fn overlay(view: &mut View, command: &Outgoing, now: Timestamp) {
    match &command.request {
        Request::Launch(request) => {
            for (index, wanted) in request.instances.iter().enumerate() {
                let instance = requesting(request, wanted, u32::try_from(index).unwrap_or(u32::MAX), command.since);
                view.instance(Arc::new(instance), now);
            }
        }
        Request::Drain(order) => order.instances.iter().for_each(|id| view.ordered(*id, Ordered::Drain, now)),
        Request::WithdrawDrain(ids) => ids.instances.iter().for_each(|id| view.ordered(*id, Ordered::Stay, now)),
        Request::Terminate(order) => order.instances.iter().for_each(|(id, _)| view.ordered(*id, Ordered::End, now)),
        _ => {}
    }
}

fn undo_overlay(view: &mut View, command: &Outgoing) {
    match &command.request {
        Request::Launch(request) => request.instances.iter().for_each(|wanted| view.refused(wanted.id)),
        Request::Drain(order) => order.instances.iter().for_each(|id| view.not_ordered(*id)),
        Request::WithdrawDrain(ids) => ids.instances.iter().for_each(|id| view.not_ordered(*id)),
        Request::Terminate(order) => order.instances.iter().for_each(|(id, _)| view.not_ordered(*id)),
        _ => {}
    }
}

/// The record of an instance that the provisioner has not accepted yet: version 0, so that its own word always counts for more.
fn requesting(request: &LaunchRequest, wanted: &Wanted, index: u32, since: Timestamp) -> Instance {
    Instance {
        id: wanted.id,
        pool: request.pool.clone(),
        launch: request.launch,
        index,
        site: request.site.clone(),
        slot: wanted.slot.clone(),
        variables: wanted.variables.clone(),
        template: request.template_version.clone(),
        state: State::Requesting,
        version: 0,
        created_at: since,
        state_since: since,
        deadline: None,
        machine: None,
        address: None,
        ready_at: None,
        drain: None,
        ending: None,
        fault: None,
        exit: None,
        protected: false,
        claim: None,
    }
}

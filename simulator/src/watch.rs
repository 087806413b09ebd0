//! Whether everything is as it must always be: the invariants of `core`, checked from outside.
//!
//! What services write passes here ([`crate::ledger`]), and every simulated second [`Watch::tick`] looks at the whole. Judged is what is
//! truly so: which machines have power, which workers are busy, what the store holds. What services believe counts for nothing.
//!
//! `course` is about pools that are to come to where they aim (I6), `refusals` about what was refused (I11). The services check
//! the same by what they know ([`Watch::production`]): what they count is found here too, so that a check of theirs which cries for nothing
//! breaks a run.

mod course;
mod refusals;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::{Cause, Instance};
use epu_core::invariant::{self, Intention, Invariant, Violation, Violations};
use epu_core::journal::{Action, Decided, Entry, Event};
use epu_core::launch::Launch;
use epu_core::life::State;
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_decision_engines::{Engine, Observation, Registry};
use epu_provisioner::iaas::IaasLaunch;

use crate::lock;
use crate::machines::Machines;
use course::Steered;
pub use refusals::{Settings, settings};

/// How far ahead of the truth the time of a decision may be, and how far behind: it is written after it was made.
const CLOCK_GRACE: Duration = Duration::from_secs(1);
const STORE_GRACE: Duration = Duration::from_secs(25);
/// How late the action on a deadline may be while everything works.
const DEADLINE_GRACE: Duration = Duration::from_secs(5);
/// How long a machine without a record may be there while everything works: the site's sweep grace, two looks of the steady kind, and
/// the time that ending takes.
const STRAY_GRACE: Duration = Duration::from_secs(150);
/// After something did not work, so long until it is expected to have caught up.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How long after a site has stopped calling a machine gone that may still be written down: a store that is slow or away, and asking again.
const GONE_MEMORY: Duration = Duration::from_secs(10 * 60);
/// Revisions of a pool whose engines are kept: a change whose reply was lost is made, and decisions go on by the one before until that is found out.
const REVISIONS_MOST: usize = 8;
/// Violations that are kept; the first is what matters.
const VIOLATIONS_MAX: usize = 100;

/// Watches a world.
#[derive(Debug)]
pub struct Watch {
    machines: Arc<Machines>,
    installation: String,
    engines: Registry,
    production: Violations,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    violations: Vec<Violation>,
    records: BTreeMap<InstanceId, Arc<Instance>>,
    live: BTreeSet<InstanceId>,
    pools: BTreeMap<PoolName, Known>,
    launches: BTreeMap<LaunchId, (Vec<InstanceId>, u64)>,
    /// The newest term under which a launch of each pool was recorded.
    terms: BTreeMap<PoolName, u64>,
    /// Since when the installation is closed.
    closed_since: Option<Timestamp>,
    /// When everything was last looked at.
    now: Timestamp,
    /// Until when a request may take effect of which nobody knows whether it was carried out.
    unsettled_until: Timestamp,
    /// What does not work now, and since when all does.
    broken: BTreeSet<String>,
    works_since: Timestamp,
    strays: BTreeMap<String, Timestamp>,
    /// What is wrong with sites now, and by when they are seen to work once nothing is.
    site_troubles: u32,
    sites_by: Timestamp,
}

#[derive(Debug)]
struct Known {
    pool: Pool,
    engine: Option<Arc<dyn Engine>>,
    /// The engine of each of the last revisions: a decision is shown to that of the revision it names.
    engines: VecDeque<(u64, Arc<dyn Engine>)>,
    target: Option<u32>,
    /// When one was replaced, and how many the limit allowed then.
    replaced: Vec<(Timestamp, u32)>,
    /// Its record before the last change, and when that was.
    before: Option<(Timestamp, Pool)>,
    steered: Steered,
}

impl Known {
    /// What is in force, and what was a moment ago: what is recorded now was decided then.
    fn in_force(&self, now: Timestamp) -> impl Iterator<Item = &Pool> {
        let before = self.before.as_ref().filter(|(at, _)| now.since(*at) <= CATCH_UP);
        std::iter::once(&self.pool).chain(before.map(|(_, pool)| pool))
    }
}

impl Seen {
    /// What a launch that is recorded now violates.
    fn at_launch(&self, known: &Known, launch: &Launch, instances: &[Arc<Instance>]) -> Vec<Violation> {
        let name = &launch.request.pool;
        let of_it = || self.live.iter().filter_map(|id| self.records.get(id)).filter(|i| i.pool == *name);
        let (staying, more) = (count(of_it().filter(|i| !i.is_leaving()).count()), count(instances.len()));
        // Whatever is in force on either side of a change is broken only when both say so.
        let broken = |check: &dyn Fn(&Pool) -> Option<Violation>| {
            let mut all: Vec<Option<Violation>> = known.in_force(self.now).map(check).collect();
            let is_broken = all.iter().all(Option::is_some);
            all.swap_remove(0).filter(|_| is_broken)
        };
        let max = broken(&|pool| invariant::within_max(staying, more, pool.spec.max));
        let budget = broken(&|pool| {
            let spent: f64 = of_it().filter(|i| i.state < State::Terminating).map(|i| price(pool, i)).sum();
            let prices: Vec<f64> = instances.iter().map(|instance| price(pool, instance)).collect();
            let needed = pool.spec.min.min(pool.spec.max).saturating_sub(staying);
            let for_min: f64 = prices.iter().take(usize::try_from(needed).unwrap_or(usize::MAX)).sum();
            invariant::within_budget(spent, prices.iter().sum(), for_min, pool.spec.limits.budget?)
        });
        [max, budget].into_iter().flatten().collect()
    }

    fn found(&mut self, violation: Option<Violation>) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.extend(violation);
        }
    }

    fn say(&mut self, invariant: Invariant, what: String) {
        self.found(Some(Violation { invariant, what }));
    }
}

impl Watch {
    /// Watches these machines as far as they carry the installation's tag.
    #[must_use]
    pub fn new(machines: Arc<Machines>, installation: &str) -> Self {
        Self {
            machines,
            installation: installation.to_owned(),
            engines: Registry::standard(),
            production: Violations::new().unwrap_or_else(|error| panic!("the counter of violations: {error}")),
            seen: Mutex::default(),
        }
    }

    /// Where the services of the world count what they see to be violated.
    #[must_use]
    pub fn production(&self) -> Violations {
        self.production.clone()
    }

    /// What was found since this was last asked.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        std::mem::take(&mut lock(&self.seen).violations)
    }

    /// The record of an instance, as the store has it.
    #[must_use]
    pub fn record(&self, id: InstanceId) -> Option<Arc<Instance>> {
        lock(&self.seen).records.get(&id).cloned()
    }

    /// Every record, as the store has them.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<Instance>> {
        lock(&self.seen).records.values().cloned().collect()
    }

    /// How many live records satisfy this.
    pub fn count_live(&self, is_so: impl Fn(&Instance) -> bool) -> usize {
        let seen = lock(&self.seen);
        seen.live
            .iter()
            .filter_map(|id| seen.records.get(id))
            .filter(|record| is_so(record))
            .count()
    }

    /// The pools there are, as the store has them.
    #[must_use]
    pub fn pool_specs(&self) -> Vec<Pool> {
        lock(&self.seen).pools.values().map(|known| known.pool.clone()).collect()
    }

    /// Whether something does not work now.
    #[must_use]
    pub fn is_excused(&self) -> bool {
        !lock(&self.seen).broken.is_empty()
    }

    /// Something works, or not; deadlines and sweeps are not expected of what does not.
    pub fn works(&self, what: &str, works: bool, now: Timestamp) {
        let mut seen = lock(&self.seen);
        if works {
            if seen.broken.remove(what) && seen.broken.is_empty() {
                seen.works_since = now;
                seen.strays.clear();
            }
        } else {
            seen.broken.insert(what.to_owned());
        }
    }

    // ---- what the site is asked

    /// I7: a launch is called, which must have been recorded so before.
    pub fn called(&self, launch: &IaasLaunch, _: Timestamp) {
        let mut seen = lock(&self.seen);
        let recorded = seen.launches.get(&launch.launch);
        // A call does not say under which term.
        let epoch = recorded.map_or(0, |(_, epoch)| *epoch);
        let called = Intention {
            instances: &launch.instances,
            epoch,
        };
        let recorded = recorded.map(|(instances, _)| Intention { instances, epoch });
        let found = invariant::intended(launch.launch, called, recorded);
        seen.found(found);
    }

    /// I7: a repeated launch asks for something else.
    pub fn changed_request(&self, launch: LaunchId) {
        lock(&self.seen).say(Invariant::I7, format!("launch {launch} is called again with another request"));
    }

    // ---- what is written

    /// Pools were written.
    pub fn pools(&self, pools: &[Pool]) {
        let mut seen = lock(&self.seen);
        for pool in pools {
            let made = pool
                .spec
                .engine
                .iter()
                .next()
                .and_then(|(name, settings)| self.engines.make(name, settings).ok())
                .map(Arc::from);
            let before = seen.pools.remove(&pool.name);
            let now = seen.now;
            let mut known = Known {
                pool: pool.clone(),
                engine: made,
                engines: VecDeque::new(),
                target: None,
                replaced: Vec::new(),
                before: None,
                steered: Steered::default(),
            };
            if let Some(before) = before {
                known.target = before.target;
                known.replaced = before.replaced;
                known.engines = before.engines;
                known.steered = before.steered;
                known.before = Some((now, before.pool));
            }
            known.engines.extend(known.engine.clone().map(|engine| (pool.revision, engine)));
            if known.engines.len() > REVISIONS_MOST {
                known.engines.pop_front();
            }
            known.steered.disturbed(now);
            seen.pools.insert(pool.name.clone(), known);
        }
    }

    /// A pool is no more; one of its name that comes later is another.
    pub fn forgotten(&self, pool: &PoolName) {
        lock(&self.seen).pools.remove(pool);
    }

    /// I2, I7 and I10: a launch was recorded.
    pub fn launch(&self, launch: &Launch, instances: &[Arc<Instance>]) {
        let mut seen = lock(&self.seen);
        let pool = &launch.request.pool;
        let found: Vec<Violation> = match seen.pools.get(pool) {
            Some(known) => seen.at_launch(known, launch, instances),
            None => Vec::new(),
        };
        for violation in found {
            seen.found(Some(violation));
        }
        let newest = seen.terms.entry(pool.clone()).or_default();
        let found = invariant::newest_term(launch.id, launch.epoch, *newest);
        *newest = launch.epoch.max(*newest);
        seen.found(found);
        let ids = instances.iter().map(|instance| instance.id).collect();
        seen.launches.insert(launch.id, (ids, launch.epoch));
        for instance in instances {
            seen.live.insert(instance.id);
            seen.records.insert(instance.id, instance.clone());
        }
    }

    /// I3 and I12: instances were written.
    pub fn instances(&self, instances: &[Arc<Instance>]) {
        for instance in instances {
            // What its agent lied about cannot be held against those who believed it.
            let busy = self
                .machines
                .body_of(instance.id)
                .is_some_and(|body| body.is_busy() && !body.may_lie());
            let runs = instance.machine.as_ref().is_some_and(|machine| {
                self.machines
                    .look(|all| all.get(machine).is_some_and(|m| m.is_there() && !m.called_gone))
            });
            // What a site said is believed, and may be written a while after it says something else.
            let was_called_gone = |now: Timestamp| {
                let machine = instance.machine.as_ref();
                let until = machine.and_then(|machine| self.machines.look(|all| all.get(machine).and_then(|m| m.gone_until)));
                until.is_some_and(|until| now.since(until) < GONE_MEMORY)
            };
            let mut seen = lock(&self.seen);
            let before = seen.records.insert(instance.id, instance.clone());
            if instance.is_live() {
                seen.live.insert(instance.id);
            } else {
                seen.live.remove(&instance.id);
            }
            seen.note_trouble(before.as_deref(), instance);
            let Some(before) = before else { continue };
            seen.found(invariant::moved_legally(&before, instance));
            if before.ending.is_none() {
                seen.found(invariant::no_busy_ended(instance));
                seen.found(chosen_while_busy(instance, busy));
            }
            if before.state != State::Terminated {
                let confirmed = !runs || was_called_gone(seen.now);
                seen.found(invariant::confirmed_gone(instance, confirmed));
            }
        }
    }

    /// I4, I8 and I9: a decision was written.
    pub fn decision(&self, name: &PoolName, journal: &[Entry]) {
        for entry in journal {
            if let Event::Decided(decided) = &entry.event {
                self.decided(name, decided);
            }
        }
        self.journal(journal);
    }

    /// The installation was closed, or opened.
    pub fn closed(&self, closed: bool) {
        let mut seen = lock(&self.seen);
        let now = seen.now;
        seen.closed_since = match closed {
            true => seen.closed_since.or(Some(now)),
            false => None,
        };
        for known in seen.pools.values_mut() {
            known.steered.disturbed(now);
        }
    }

    fn decided(&self, name: &PoolName, decided: &Decided) {
        let mut seen = lock(&self.seen);
        let Some(mut known) = seen.pools.remove(name) else { return };
        let observed: Option<Observation> = serde_json::from_value(decided.observed.clone()).ok();
        let of_then = known.engines.iter().rev().find(|(revision, _)| *revision == decided.revision);
        if let (Some((_, engine)), Some(observed)) = (of_then, &observed) {
            let engine = engine.clone();
            let again = engine.decide(observed);
            let again = Some((again.desired, again.reasons.as_slice()));
            seen.found(invariant::reproduces(name, (decided.desired, &decided.reasons), again));
            let readable = engine.sensors().iter().all(|sensor| {
                let reading = observed.readings.get(sensor);
                reading.is_some_and(|reading| reading.status.fresh().is_some())
            });
            let from = known.target.unwrap_or(decided.target);
            if !known.pool.removed {
                seen.found(invariant::no_blind_shrink(from, decided.target, known.pool.spec.max, readable));
            }
            let limits = &known.pool.spec.limits;
            let size = (observed.counts.capacity + observed.counts.unhealthy).max(decided.target).max(from);
            // Times of a process whose clock is wrong say nothing of a window.
            let now = self.machines.now();
            let is_now = decided.at.since(now) < CLOCK_GRACE && now.since(decided.at) < STORE_GRACE;
            for action in decided.actions.iter().filter(|_| is_now) {
                if let Action::Terminate {
                    instances,
                    why: Cause::Unhealthy,
                } = action
                {
                    known
                        .replaced
                        .extend(instances.iter().map(|_| (decided.at, limits.replacements(size))));
                }
            }
            let since = decided.at - *limits.replace_window;
            known.replaced.retain(|(at, _)| *at > since);
            let times: Vec<Timestamp> = known.replaced.iter().map(|(at, _)| *at).collect();
            let most = known.replaced.iter().map(|(_, most)| *most).max().unwrap_or(0);
            seen.found(invariant::within_replacement_limit(&times, most, *limits.replace_window));
        } else if known.engine.is_some() {
            seen.found(invariant::reproduces(name, (decided.desired, &decided.reasons), None));
        }
        if known.target != Some(decided.target) {
            known.steered.disturbed(decided.at);
        }
        known.steered.held = decided.suppressed.iter().any(|reason| invariant::holds_up(&reason.code));
        known.target = Some(decided.target);
        seen.pools.insert(name.clone(), known);
    }

    // ---- what is so

    /// I1, I5, I6 and I12: looks at the whole, and at what the services themselves found.
    pub fn tick(&self, now: Timestamp) {
        self.sites_work(now);
        let mut seen = lock(&self.seen);
        let seen = &mut *seen;
        seen.now = now;
        for Violation { invariant, what } in self.production.take_kept() {
            seen.say(invariant, format!("counted by a service: {what}"));
        }
        let works = seen.broken.is_empty() && now.since(seen.works_since) > CATCH_UP;
        let mut instances: Vec<InstanceId> = Vec::with_capacity(seen.live.len());
        let mut strays = BTreeMap::new();
        self.machines.look(|all| {
            let ours = all
                .values()
                .filter(|m| m.is_there() && !m.called_gone && m.installation == self.installation);
            for machine in ours {
                instances.extend(machine.instance);
                let record = machine
                    .instance
                    .and_then(|id| seen.records.get(&id))
                    .filter(|record| record.is_live());
                // One that was told to end and does not is nobody's fault here.
                if !machine.lingers() && record.is_none_or(|record| record.machine.as_ref().is_some_and(|known| *known != machine.id)) {
                    let since = seen.strays.get(&machine.id).copied().unwrap_or(now);
                    strays.insert(machine.id.clone(), since);
                }
            }
        });
        seen.strays = strays;
        if !seen.broken.is_empty() {
            seen.strays.clear();
        }
        instances.sort_unstable();
        for machines in instances.chunk_by(PartialEq::eq) {
            seen.found(machines.first().and_then(|id| invariant::one_machine(*id, machines.len())));
        }
        let mut strays = seen.strays.iter();
        let found = strays.find_map(|(machine, since)| invariant::swept(machine, *since, now, STRAY_GRACE));
        seen.found(found);
        self.check_courses(seen, now, works);
        if works {
            let is_over = |since: Timestamp| now.since(since) > CATCH_UP;
            if seen.closed_since.is_some_and(is_over) {
                let stays = |record: &&Arc<Instance>| !record.is_leaving() && record.state != State::RunningFailed;
                let staying = seen.live.iter().filter_map(|id| seen.records.get(id)).filter(stays).count();
                seen.found(invariant::nobody_stays(staying));
            }
            let late: Vec<_> = seen
                .live
                .iter()
                .filter_map(|id| seen.records.get(id))
                .filter_map(|record| invariant::deadline_kept(record, now, DEADLINE_GRACE))
                .collect();
            for violation in late {
                seen.found(Some(violation));
            }
        }
    }

    /// Something is wrong with a site that keeps the services from seeing or ending what is there; see [`Watch::works`]. Each is counted.
    pub(crate) fn site_fails(&self, now: Timestamp) {
        lock(&self.seen).site_troubles += 1;
        self.works("site", false, now);
    }

    /// It is over, and by then the services have asked again.
    pub(crate) fn site_answers_by(&self, by: Timestamp) {
        let mut seen = lock(&self.seen);
        seen.site_troubles = seen.site_troubles.saturating_sub(1);
        seen.sites_by = seen.sites_by.max(by);
    }

    fn sites_work(&self, now: Timestamp) {
        let do_they = {
            let seen = lock(&self.seen);
            seen.broken.contains("site") && seen.site_troubles == 0 && seen.sites_by <= now
        };
        if do_they {
            self.works("site", true, now);
        }
    }

    /// I7: a machine of another installation is ended.
    pub(crate) fn ended_of_another(&self, machine: &str, installation: &str) {
        lock(&self.seen).say(Invariant::I7, format!("machine {machine} of installation {installation} is ended"));
    }
}

/// I3 by the truth: its worker is busy, and it was chosen to go because there are too many.
fn chosen_while_busy(instance: &Instance, busy: bool) -> Option<Violation> {
    let ending = instance.ending.as_ref()?;
    let drained = ending.why == Cause::Drained && ending.drained_for.is_some_and(Cause::is_choice);
    (busy && (ending.why.is_choice() || drained)).then(|| Violation {
        invariant: Invariant::I3,
        what: format!("instance {} was ended for {:?} while its worker was busy", instance.id, ending.why),
    })
}

/// What an hour of an instance costs, by its pool's placements.
fn price(pool: &Pool, instance: &Instance) -> f64 {
    let mut placements = pool.spec.placements.iter();
    let has_it = placements.any(|placement| placement.called() == instance.placed_by() && placement.site == instance.site);
    pool.price_of(if has_it { instance.placed_by() } else { "" })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

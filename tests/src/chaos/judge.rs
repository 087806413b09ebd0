//! Whether what was seen is as it must always be: functions of [`Seen`], without any look of their own.
//!
//! The statements are those of `core::invariant` where it has them; what is added here is where they are read from. Three of them judge a
//! moment while faults go on ([`moment`]), one the state that everything comes to once they have stopped ([`unsettled`]), one the whole
//! history ([`history`]), one what is left after teardown ([`left_over`]).

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a judge looks for some events among all there are or will be"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::{Cause, Instance};
use epu_core::invariant::{self, Invariant, Violation};
use epu_core::journal::{Action, Decided, Event};
use epu_core::life::State;
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_decision_engines::{Observation, Registry};
use serde_json::{Map, Value};

use super::seen::{Seen, Table};
use super::spool::{Jobs, Mark};

/// How late the action on a deadline may be once everything works.
const DEADLINE_GRACE: Duration = Duration::from_secs(10);
/// A process is told to have started in hundredths of a second, and a record is stamped by a clock that was read when its service began.
const CLOCKS: Duration = Duration::from_millis(500);

/// Something that must always be true was not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Broken {
    /// Which: `I1` to `I12`, `jobs`, or `acknowledged`.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.rule, self.what)
    }
}

impl From<Violation> for Broken {
    fn from(violation: Violation) -> Self {
        Self {
            rule: violation.invariant.id(),
            what: violation.what,
        }
    }
}

fn broken(invariant: Invariant, what: String) -> Broken {
    Violation { invariant, what }.into()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

// ---- a moment, while faults go on

/// What is judged of a moment. The records of ended instances were read before the process table, the ids of all instances after it.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// When each instance that is recorded as TERMINATED came to be so; empty when the database did not answer.
    pub ended: BTreeMap<InstanceId, Timestamp>,
    /// The process table.
    pub table: Table,
    /// Every recorded instance; none when the database did not answer.
    pub recorded: Option<BTreeSet<InstanceId>>,
}

/// I1, I7 and I12 as far as no fault whatever excuses them.
#[must_use]
pub fn moment(moment: &Moment) -> Vec<Broken> {
    let mut found = one_machine_each(&moment.table);
    // A site that was frozen between its mark and the start may start one that another took for gone: that one is swept. One that ran
    // when its end was recorded is another matter.
    for tagged in &moment.table.0 {
        let ended = tagged.instance.and_then(|id| Some((id, moment.ended.get(&id)?)));
        if let Some((id, at)) = ended
            && tagged.started_at + CLOCKS <= *at
        {
            let what = format!("instance {id} is TERMINATED since {} and its process {} runs", at.0, tagged.pid);
            found.push(broken(Invariant::I12, what));
        }
    }
    if let Some(recorded) = &moment.recorded {
        for id in moment.table.instances().difference(recorded) {
            found.push(broken(Invariant::I7, format!("instance {id} runs and was never recorded")));
        }
    }
    found
}

/// I1, second half: nobody runs twice.
#[must_use]
pub fn one_machine_each(table: &Table) -> Vec<Broken> {
    let mut machines: BTreeMap<InstanceId, usize> = BTreeMap::new();
    for id in table.agents().filter_map(|agent| agent.instance) {
        *machines.entry(id).or_default() += 1;
    }
    let found = machines.into_iter().filter_map(|(id, n)| invariant::one_machine(id, n));
    found.map(Broken::from).collect()
}

// ---- the state that all comes to

/// I1, I5 and I6: why this is not yet the state in which every pool has as many workers as it is to have and nothing is under way. Empty
/// when it is.
#[must_use]
pub fn unsettled(seen: &Seen, targets: &BTreeMap<PoolName, u32>) -> Vec<Broken> {
    let mut found = one_machine_each(&seen.table);
    let live: Vec<&Instance> = seen.instances.values().filter(|instance| instance.is_live()).collect();
    let recorded: BTreeSet<InstanceId> = live.iter().map(|instance| instance.id).collect();
    for tagged in &seen.table.0 {
        if tagged.instance.is_none_or(|id| !recorded.contains(&id)) {
            let of = tagged.instance.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
            found.push(broken(
                Invariant::I1,
                format!("process {} of {of} runs without a live record", tagged.pid),
            ));
        }
    }
    let agents: BTreeSet<InstanceId> = seen.table.agents().filter_map(|agent| agent.instance).collect();
    for instance in &live {
        found.extend(invariant::deadline_kept(instance, seen.at, DEADLINE_GRACE).map(Broken::from));
        let what = if !agents.contains(&instance.id) {
            "has no agent"
        } else if seen.table.workers_of(instance.id).next().is_none() {
            "has no worker"
        } else if instance.machine.is_none() {
            "has no machine in its record"
        } else {
            continue;
        };
        found.push(broken(
            Invariant::I6,
            format!("instance {} in {} {what}", instance.id, instance.state),
        ));
    }
    for (pool, target) in targets {
        let of_pool = live.iter().filter(|instance| instance.pool == *pool);
        let (mut all, mut running) = (0, 0);
        for instance in of_pool {
            all += 1;
            running += u32::from(instance.state == State::Running && !instance.is_leaving());
        }
        if (all, running) != (*target, *target) {
            found.push(broken(
                Invariant::I6,
                format!("pool {pool} is to have {target}, has {running} that run of {all} that live"),
            ));
        }
    }
    for instance in live.iter().filter(|instance| !targets.contains_key(&instance.pool)) {
        found.push(broken(
            Invariant::I1,
            format!("instance {} is of {}, a pool that there is not", instance.id, instance.pool),
        ));
    }
    let undone = seen.launches.values().filter(|launch| launch.outcome.is_none()).count();
    if seen.waiting > 0 || undone > 0 {
        let what = format!("{} commands wait and {undone} launches have come to nothing yet", seen.waiting);
        found.push(broken(Invariant::I6, what));
    }
    found
}

/// Every job that was given is done, and none is anywhere else: why not.
#[must_use]
pub fn undone(given: &BTreeSet<String>, jobs: &Jobs) -> Vec<Broken> {
    let mut found = Vec::new();
    let open = |jobs: &BTreeSet<String>| jobs.iter().cloned().collect::<Vec<_>>().join(", ");
    if !jobs.queued.is_empty() || !jobs.taken.is_empty() {
        let what = format!("waiting: {}; in hand: {}", open(&jobs.queued), open(&jobs.taken));
        found.push(Broken { rule: "jobs", what });
    }
    let places: BTreeSet<String> = jobs.queued.iter().chain(&jobs.taken).chain(&jobs.done).cloned().collect();
    let lost: BTreeSet<String> = given.difference(&places).cloned().collect();
    if !lost.is_empty() {
        let what = format!("lost: {}", open(&lost));
        found.push(Broken { rule: "jobs", what });
    }
    found
}

/// I12: what is left after teardown.
#[must_use]
pub fn left_over(seen: &Seen) -> Vec<Broken> {
    let processes = seen.table.0.iter().map(|tagged| {
        let of = tagged.instance.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
        format!("process {} of {of} is left after teardown", tagged.pid)
    });
    let live = seen.instances.values().filter(|instance| instance.is_live());
    let records = live.map(|instance| format!("instance {} is in {} after teardown", instance.id, instance.state));
    processes.chain(records).map(|what| broken(Invariant::I12, what)).collect()
}

// ---- the history

/// I2, I3, I4, I7, I8, I9 and I12 over everything that was recorded.
#[must_use]
pub fn history(seen: &Seen) -> Vec<Broken> {
    let mut found = within_maximum(seen);
    found.extend(victims(seen));
    found.extend(intentions(seen));
    found.extend(decisions(seen));
    found.extend(moves(seen));
    found
}

/// I2: at every recorded launch, those that live and are not leaving, with the new ones. Pools here never change their maximum.
fn within_maximum(seen: &Seen) -> Vec<Broken> {
    let mut staying: BTreeMap<&PoolName, BTreeSet<InstanceId>> = BTreeMap::new();
    let pool_of: BTreeMap<InstanceId, &PoolName> = seen.instances.values().map(|i| (i.id, &i.pool)).collect();
    let mut found = Vec::new();
    for entry in &seen.journal {
        let one = entry.instance.and_then(|id| Some((id, *pool_of.get(&id)?)));
        match &entry.event {
            Event::LaunchRecorded { launch, .. } => {
                let Some(launch) = seen.launches.get(launch) else { continue };
                let pool = &launch.request.pool;
                let there = staying.entry(pool).or_default();
                let more = &launch.request.instances;
                if let Some(max) = seen.pools.get(pool).map(|pool| pool.spec.max) {
                    let over = invariant::within_max(count(there.len()), count(more.len()), max);
                    found.extend(over.map(|over| broken(Invariant::I2, format!("pool {pool}, launch {}: {}", launch.id, over.what))));
                }
                there.extend(more.iter().map(|wanted| wanted.id));
            }
            Event::DrainWithdrawn => {
                if let Some((id, pool)) = one {
                    staying.entry(pool).or_default().insert(id);
                }
            }
            event if leaves(event) => {
                if let Some((id, pool)) = one {
                    staying.entry(pool).or_default().remove(&id);
                }
            }
            _ => {}
        }
    }
    found
}

fn leaves(event: &Event) -> bool {
    match event {
        Event::DrainOrdered { .. } => true,
        Event::Moved { to, .. } => *to >= State::Terminating,
        _ => false,
    }
}

/// I3: by the record, and by what workers truly had in their hands.
fn victims(seen: &Seen) -> Vec<Broken> {
    let mut found = Vec::new();
    for instance in seen.instances.values() {
        found.extend(invariant::no_busy_ended(instance).map(Broken::from));
        let Some(ending) = &instance.ending else { continue };
        let drained = ending.why == Cause::Drained && ending.drained_for.is_some_and(Cause::is_choice);
        if !(ending.why.is_choice() || drained) || seen.harmed.contains(&instance.id) {
            continue;
        }
        if let Some(jobs) = seen.interrupted.get(&instance.id) {
            let what = format!(
                "instance {} was chosen to go ({:?}) and had {jobs:?} in its hands",
                instance.id, ending.why
            );
            found.push(broken(Invariant::I3, what));
        }
        if seen.marks.get(&instance.id).is_some_and(|marks| is_busy_at(marks, ending.since)) {
            let what = format!(
                "instance {} was chosen to go ({:?}) while its worker was busy",
                instance.id, ending.why
            );
            found.push(broken(Invariant::I3, what));
        }
    }
    found
}

fn is_busy_at(marks: &[Mark], at: Timestamp) -> bool {
    marks.iter().rev().find(|mark| mark.at <= at).is_some_and(|mark| mark.busy)
}

/// I7: behind every machine that the site ever started, and every process, is an intention that was recorded.
fn intentions(seen: &Seen) -> Vec<Broken> {
    let mut found = Vec::new();
    let mut say = |what: String| found.push(broken(Invariant::I7, what));
    let announced: BTreeSet<_> = seen
        .journal
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::LaunchRecorded { launch, .. } => Some(*launch),
            _ => None,
        })
        .collect();
    for (id, marker) in &seen.site {
        match seen.instances.get(id) {
            None => say(format!("the site started {id}, which was never recorded")),
            Some(record) if (record.launch, record.index) != (marker.launch, marker.index) => {
                say(format!("the site started {id} as another one than was recorded"));
            }
            Some(_) => {}
        }
    }
    for agent in seen.table.agents() {
        let Some(record) = agent.instance.and_then(|id| seen.instances.get(&id)) else {
            say(format!("process {} is an agent of nobody that was recorded", agent.pid));
            continue;
        };
        if (agent.launch, agent.index) != (Some(record.launch), Some(record.index)) {
            say(format!(
                "agent {} of {} is of another launch than was recorded",
                agent.pid, record.id
            ));
        }
    }
    for instance in seen.instances.values() {
        let wanted = seen.launches.get(&instance.launch).and_then(|launch| {
            let place = usize::try_from(instance.index).ok()?;
            launch.request.instances.get(place)
        });
        if wanted.is_none_or(|wanted| wanted.id != instance.id) {
            say(format!("instance {} is at no place of a recorded launch", instance.id));
        }
        if !announced.contains(&instance.launch) {
            say(format!(
                "launch {} of instance {} is not in the journal",
                instance.launch, instance.id
            ));
        }
    }
    found
}

/// I4, I8 and I9: every decision, shown what it was shown, comes out the same; what they replaced is within the limit; and none makes a
/// pool smaller because a sensor could not be read.
fn decisions(seen: &Seen) -> Vec<Broken> {
    let engines = Registry::standard();
    let mut settings: BTreeMap<&PoolName, BTreeMap<u64, Map<String, Value>>> = BTreeMap::new();
    for (name, pool) in &seen.pools {
        settings.insert(name, revisions(pool, seen));
    }
    let mut replaced: BTreeMap<&PoolName, Vec<(Timestamp, u32)>> = BTreeMap::new();
    let mut targets: BTreeMap<&PoolName, u32> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in &seen.journal {
        let (Event::Decided(decided), Some(name)) = (&entry.event, &entry.pool) else {
            continue;
        };
        let Some(pool) = seen.pools.get(name) else { continue };
        let then = settings.get(name).and_then(|all| all.range(..=decided.revision).next_back());
        let engine = then
            .and_then(|(_, set)| set.iter().next())
            .and_then(|(engine, set)| engines.make(engine, set).ok());
        let observed: Option<Observation> = serde_json::from_value(decided.observed.clone()).ok();
        let (Some(engine), Some(observed)) = (engine, observed) else {
            let what = format!("pool {name}: the decision of {} cannot be shown again", decided.at.0);
            found.push(broken(Invariant::I8, what));
            continue;
        };
        let again = engine.decide(&observed);
        if (again.desired, &again.reasons) != (decided.desired, &decided.reasons) {
            let what = format!(
                "pool {name}: shown the same again as at {}, {} became {}",
                decided.at.0, decided.desired, again.desired
            );
            found.push(broken(Invariant::I8, what));
        }
        let from = targets.insert(name, decided.target).unwrap_or(decided.target);
        let mut sensors = engine.sensors().into_iter();
        let readable = sensors.all(|sensor| {
            observed
                .readings
                .get(&sensor)
                .is_some_and(|reading| reading.status.fresh().is_some())
        });
        let blind = invariant::no_blind_shrink(from, decided.target, pool.spec.max, readable);
        found.extend(blind.map(|blind| broken(Invariant::I9, format!("pool {name}: {}", blind.what))));
        let times = replaced.entry(name).or_default();
        found.extend(replacements(pool, decided, &observed, from, times));
    }
    found
}

/// A pool's engine settings by the revision from which they were in force: those that it was added with, and what was changed since.
fn revisions(pool: &Pool, seen: &Seen) -> BTreeMap<u64, Map<String, Value>> {
    let mut now = seen.engines.get(&pool.name).cloned().unwrap_or_default();
    let mut all = BTreeMap::from([(0, now.clone())]);
    for entry in seen.journal.iter().filter(|entry| entry.pool.as_ref() == Some(&pool.name)) {
        let Event::PoolChanged { revision, set } = &entry.event else {
            continue;
        };
        for (path, value) in set.as_object().into_iter().flatten() {
            if let Some(path) = path.strip_prefix("engine.") {
                put(&mut now, path, value);
            }
        }
        all.insert(*revision, now.clone());
    }
    all
}

fn put(tree: &mut Map<String, Value>, path: &str, value: &Value) {
    match path.split_once('.') {
        None => drop(tree.insert(path.to_owned(), value.clone())),
        Some((first, rest)) => {
            if let Some(Value::Object(below)) = tree.get_mut(first) {
                put(below, rest, value);
            }
        }
    }
}

fn replacements(pool: &Pool, decided: &Decided, observed: &Observation, from: u32, times: &mut Vec<(Timestamp, u32)>) -> Option<Broken> {
    let limits = &pool.spec.limits;
    let size = (observed.counts.capacity + observed.counts.unhealthy).max(decided.target).max(from);
    for action in &decided.actions {
        if let Action::Terminate {
            instances,
            why: Cause::Unhealthy,
        } = action
        {
            times.extend(instances.iter().map(|_| (decided.at, limits.replacements(size))));
        }
    }
    times.retain(|(at, _)| *at > decided.at - *limits.replace_window);
    let when: Vec<Timestamp> = times.iter().map(|(at, _)| *at).collect();
    let most = times.iter().map(|(_, most)| *most).max().unwrap_or(0);
    invariant::within_replacement_limit(&when, most, *limits.replace_window).map(Broken::from)
}

/// I12: no instance goes back, each goes on from where it was, and none is TERMINATED that never had a machine.
fn moves(seen: &Seen) -> Vec<Broken> {
    let mut at: BTreeMap<InstanceId, State> = BTreeMap::new();
    let mut found = Vec::new();
    let mut say = |what: String| found.push(broken(Invariant::I12, what));
    for entry in &seen.journal {
        let (Event::Moved { from, to, .. }, Some(id)) = (&entry.event, entry.instance) else {
            continue;
        };
        if to < from || at.get(&id).is_some_and(|known| known != from) {
            say(format!("instance {id} went from {from} to {to}, having been in {:?}", at.get(&id)));
        }
        at.insert(id, *to);
    }
    for instance in seen.instances.values() {
        if at.get(&instance.id).is_some_and(|known| *known != instance.state) {
            say(format!(
                "instance {} is in {} and its journal ends otherwise",
                instance.id, instance.state
            ));
        }
        if instance.state == State::Terminated && instance.machine.is_none() {
            say(format!("instance {} is TERMINATED and never had a machine", instance.id));
        }
    }
    found
}

#[cfg(test)]
mod tests;

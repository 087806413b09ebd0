//! What was last heard from each instance. Pure: the time is an argument, and nothing here waits.
//!
//! A heartbeat says what is true now, so only the newest of each instance is kept. Newest is what its agent process says is
//! newest (its sequence); how old it is, is measured here, on one clock. Which instances there are, and their standing orders,
//! comes from the provisioner's records, and only from there: a heartbeat of an instance that is in no record is refused.
//!
//! That an instance is absent from a telling of the provisioner means nothing: a page may have been lost. So nobody is told to
//! stop unless a record says so, and who is neither mentioned nor heard for long is merely forgotten.
//!
//! The table is a `BTreeMap`: a lookup costs a fraction of what the channel costs over which a heartbeat arrives, and the order
//! of everything told is the order of ids. In the steady state taking a heartbeat allocates nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::fact::{Heard, Instances, Snapshot};
use epu_core::heartbeat::{Condition, FAULT_MAX, Heartbeat, Orders, READINGS_MAX};
use epu_core::instance::{Instance, Work};
use epu_core::pool::{Combine, HeartbeatSensor};
use epu_core::reading::SensorReport;
use epu_core::time::millis;
use epu_core::{Fault, InstanceId, PoolName, SensorName, State, Timestamp};

use crate::readings::{Readings, Together};

/// The most instances, and the most sensors, in one page of a snapshot.
pub const PAGE_MAX: usize = 1_000;
/// The most fault text in one page, in bytes: keeps a page below what a broker takes when a whole pool fails at once.
const PAGE_TEXT_MAX: usize = 512 * 1_024;
/// After this much silence of the agent process that is known, one that claims to be older is believed: the machine's clock was
/// set back before the agent was started again. Too low: a message that was long under way counts as news. Too high: above the
/// silence that condemns, an instance is replaced for its wrong clock.
const OLDER_AGENT_AFTER: Duration = Duration::from_secs(30);
/// The longest time a worker can claim to have been idle or busy; as long as the longest length of time people may write.
const WORK_FOR_MAX_MS: u64 = 366 * 86_400 * 1_000;

/// Why a heartbeat was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No record says that there is such an instance.
    UnknownInstance,
    /// The same, while the provisioner has not yet told of every live instance.
    NotYetKnown,
    /// A newer one was heard before.
    OutOfOrder,
    /// It breaks a limit; which one.
    Malformed(&'static str),
}

impl Refusal {
    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownInstance => "unknown-instance",
            Self::NotYetKnown => "not-yet-known",
            Self::OutOfOrder => "out-of-order",
            Self::Malformed(_) => "malformed",
        }
    }

    /// What the sender is told.
    #[must_use]
    pub fn fault(self, instance: InstanceId) -> Fault {
        match self {
            Self::UnknownInstance => Fault::new(
                "unknown-instance",
                format!("heartbeat of {instance}: no record says that it exists"),
            ),
            Self::NotYetKnown => Fault::new(
                "unknown-instance",
                format!("heartbeat of {instance}: the provisioner has not yet told of every instance; send the next as usual"),
            ),
            Self::OutOfOrder => Fault::new("conflict", format!("heartbeat of {instance}: a newer one was heard before")),
            Self::Malformed(why) => Fault::new("bad-request", format!("heartbeat of {instance}: {why}")),
        }
    }
}

/// How long what is no longer needed is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// An ended instance, after it was last mentioned or heard.
    pub ended: Duration,
    /// Any other, after it was last mentioned or heard.
    pub silent: Duration,
}

/// What was last heard from each instance and sensor.
#[derive(Debug)]
pub struct Window {
    aggregator: String,
    /// Since when nothing can have been missed.
    since: Timestamp,
    /// Whether the provisioner has told of every live instance.
    all_known: bool,
    keep: Keep,
    instances: BTreeMap<InstanceId, Entry>,
    pools: BTreeMap<PoolName, BTreeSet<InstanceId>>,
    /// Heard since the last snapshot, each once.
    fresh: Vec<InstanceId>,
    ended: usize,
    readings: Readings,
}

/// An instance: what its record says, and what it said.
#[derive(Debug)]
struct Entry {
    pool: PoolName,
    version: u64,
    state: State,
    orders: Orders,
    mentioned_at: Timestamp,
    last: Option<Last>,
    is_fresh: bool,
}

/// An instance's last heartbeat.
#[derive(Debug)]
struct Last {
    heard_at: Timestamp,
    started_at_ms: i64,
    sequence: u64,
    sent_at_ms: i64,
    condition: Condition,
    work: Work,
    work_for_ms: i64,
    draining: bool,
    readings: Vec<(SensorName, f64)>,
}

impl Window {
    /// One that has heard nothing, and listens since `since`.
    #[must_use]
    pub fn new(aggregator: impl Into<String>, since: Timestamp, keep: Keep) -> Self {
        Self {
            aggregator: aggregator.into(),
            since,
            all_known: false,
            keep,
            instances: BTreeMap::new(),
            pools: BTreeMap::new(),
            fresh: Vec::new(),
            ended: 0,
            readings: Readings::default(),
        }
    }

    /// Takes a heartbeat and gives the instance's standing orders. An ended instance is heard too: that it speaks is news.
    ///
    /// # Errors
    /// [`Refusal`] says why it was not taken; then nothing has changed.
    pub fn hear(&mut self, heartbeat: &Heartbeat, now: Timestamp) -> Result<Orders, Refusal> {
        check(heartbeat)?;
        let Some(entry) = self.instances.get_mut(&heartbeat.instance) else {
            return Err(if self.all_known {
                Refusal::UnknownInstance
            } else {
                Refusal::NotYetKnown
            });
        };
        match &mut entry.last {
            Some(last) if !last.precedes(heartbeat, now) => return Err(Refusal::OutOfOrder),
            Some(last) => last.take(heartbeat, now),
            None => entry.last = Some(Last::first(heartbeat, now)),
        }
        if !entry.is_fresh {
            entry.is_fresh = true;
            self.fresh.push(heartbeat.instance);
        }
        Ok(entry.orders.clone())
    }

    /// Merges what the provisioner tells. Older versions are ignored.
    pub fn instances(&mut self, fact: &Instances, now: Timestamp) {
        for instance in &fact.changed {
            self.merge(instance, now);
        }
        if fact.complete && !self.all_known {
            self.all_known = true;
            // Until now heartbeats may have been refused, so nobody was silent.
            self.since = self.since.max(now);
        }
    }

    fn merge(&mut self, instance: &Instance, now: Timestamp) {
        let orders = Orders {
            drain: instance.drain.clone(),
            stop: instance.state >= State::Terminating,
        };
        let is_end = usize::from(instance.state.is_end());
        if let Some(entry) = self.instances.get_mut(&instance.id) {
            if entry.version > instance.version {
                return;
            }
            self.ended = self.ended + is_end - usize::from(entry.state.is_end());
            (entry.version, entry.state, entry.orders, entry.mentioned_at) = (instance.version, instance.state, orders, now);
            return;
        }
        self.ended += is_end;
        self.pools.entry(instance.pool.clone()).or_default().insert(instance.id);
        self.instances.insert(
            instance.id,
            Entry {
                pool: instance.pool.clone(),
                version: instance.version,
                state: instance.state,
                orders,
                mentioned_at: now,
                last: None,
                is_fresh: false,
            },
        );
    }

    /// Forgets instances that are no longer needed. Looks at every instance: call it now and then.
    pub fn forget(&mut self, now: Timestamp) {
        let (keep, pools, ended) = (self.keep, &mut self.pools, &mut self.ended);
        self.instances.retain(|id, entry| {
            let is_end = entry.state.is_end();
            let limit = if is_end { keep.ended } else { keep.silent };
            if now.since(entry.last_sign()) <= limit {
                return true;
            }
            *ended -= usize::from(is_end);
            if let Some(members) = pools.get_mut(&entry.pool) {
                members.remove(id);
                if members.is_empty() {
                    pools.remove(&entry.pool);
                }
            }
            false
        });
    }

    /// Something may have been missed before now, so silence counts from now only.
    pub fn missed(&mut self, now: Timestamp) {
        self.since = self.since.max(now);
    }

    /// Puts together the running workers' values of one reading. Values older than `younger_than` do not count; they are not zero.
    #[must_use]
    pub fn together(&self, pool: &PoolName, sensor: &HeartbeatSensor, younger_than: Duration, now: Timestamp) -> Together {
        let mut sum = Summing::default();
        if let Some(members) = self.pools.get(pool) {
            // Either way in the order of ids. For a pool that is most of the table, walking the table is ten times faster.
            if members.len() >= self.instances.len() / 8 {
                let entries = self.instances.values().filter(|entry| entry.pool == *pool);
                entries.for_each(|entry| sum.add(entry, sensor, younger_than, now));
            } else {
                let entries = members.iter().filter_map(|id| self.instances.get(id));
                entries.for_each(|entry| sum.add(entry, sensor, younger_than, now));
            }
        }
        sum.finish(sensor.combine)
    }

    /// What is new since the last snapshot, or everything: at least one page, so that those who decide know that somebody listens.
    pub fn snapshot(&mut self, now: Timestamp, complete: bool) -> Vec<Snapshot> {
        let mut pages = self.pages(now);
        let mut fresh = std::mem::take(&mut self.fresh);
        if complete {
            for (id, entry) in &mut self.instances {
                entry.is_fresh = false;
                pages.instance(*id, entry, now);
            }
        } else {
            for id in &fresh {
                if let Some(entry) = self.instances.get_mut(id) {
                    entry.is_fresh = false;
                    pages.instance(*id, entry, now);
                }
            }
        }
        fresh.clear(); // keeps its room
        self.fresh = fresh;
        for report in self.readings.take_reports(complete, now) {
            pages.sensor(report);
        }
        pages.finish(complete)
    }

    /// The sensors that say something else than was last told; nothing when there are none.
    pub fn sensor_news(&mut self, now: Timestamp) -> Vec<Snapshot> {
        if !self.readings.has_news() {
            return Vec::new();
        }
        let mut pages = self.pages(now);
        for report in self.readings.take_news(now) {
            pages.sensor(report);
        }
        pages.finish(false)
    }

    fn pages(&self, now: Timestamp) -> Pages {
        Pages::new(&self.aggregator, millis(self.listening_for(now)))
    }

    /// For how long nothing can have been missed; nothing while the provisioner has not told of every live instance.
    #[must_use]
    pub fn listening_for(&self, now: Timestamp) -> Duration {
        if self.all_known { now.since(self.since) } else { Duration::ZERO }
    }

    /// What sensors last said.
    #[must_use]
    pub fn readings(&self) -> &Readings {
        &self.readings
    }

    /// What sensors last said, to be changed.
    pub fn readings_mut(&mut self) -> &mut Readings {
        &mut self.readings
    }

    /// Whether the provisioner has told of every live instance.
    #[must_use]
    pub fn knows_all(&self) -> bool {
        self.all_known
    }

    /// How many instances are known that live, and that have ended.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.instances.len() - self.ended, self.ended)
    }
}

fn check(heartbeat: &Heartbeat) -> Result<(), Refusal> {
    if heartbeat.readings.len() > READINGS_MAX {
        return Err(Refusal::Malformed("it carries more than 32 readings"));
    }
    if !heartbeat.readings.values().all(|value| value.is_finite()) {
        return Err(Refusal::Malformed("a reading is not a number"));
    }
    match &heartbeat.condition {
        Condition::ProcessError(fault) | Condition::MonitorError(fault) if fault.code.len() + fault.text.len() > FAULT_MAX => {
            Err(Refusal::Malformed("its fault is longer than 4,096 bytes"))
        }
        Condition::Ok | Condition::ProcessError(_) | Condition::MonitorError(_) => Ok(()),
    }
}

impl Entry {
    fn last_sign(&self) -> Timestamp {
        let heard_at = self.last.as_ref().map_or(Timestamp::START, |last| last.heard_at);
        self.mentioned_at.max(heard_at)
    }
}

impl Last {
    fn first(heartbeat: &Heartbeat, now: Timestamp) -> Self {
        let mut last = Self {
            heard_at: now,
            started_at_ms: 0,
            sequence: 0,
            sent_at_ms: 0,
            condition: Condition::Ok,
            work: Work::Unknown,
            work_for_ms: 0,
            draining: false,
            readings: Vec::new(),
        };
        last.take(heartbeat, now);
        last
    }

    /// Whether `heartbeat` is newer than this one.
    fn precedes(&self, heartbeat: &Heartbeat, now: Timestamp) -> bool {
        if heartbeat.started_at_ms == self.started_at_ms {
            return heartbeat.sequence > self.sequence;
        }
        heartbeat.started_at_ms > self.started_at_ms || now.since(self.heard_at) > OLDER_AGENT_AFTER
    }

    fn take(&mut self, heartbeat: &Heartbeat, now: Timestamp) {
        self.heard_at = self.heard_at.max(now);
        self.started_at_ms = heartbeat.started_at_ms;
        self.sequence = heartbeat.sequence;
        self.sent_at_ms = heartbeat.sent_at_ms;
        if self.condition != heartbeat.condition {
            self.condition.clone_from(&heartbeat.condition);
        }
        self.work = heartbeat.work;
        self.work_for_ms = millis(Duration::from_millis(heartbeat.work_for_ms.min(WORK_FOR_MAX_MS)));
        self.draining = heartbeat.draining;
        self.readings.clear(); // keeps its room
        self.readings
            .extend(heartbeat.readings.iter().map(|(name, value)| (name.clone(), *value)));
    }

    fn reading(&self, name: &SensorName) -> Option<f64> {
        self.readings.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// Workers' values on their way to becoming one.
#[derive(Debug, Default)]
struct Summing {
    reported: u32,
    of: u32,
    heard: u32,
    sum: f64,
    largest: Option<f64>,
    newest: Timestamp,
}

impl Summing {
    fn add(&mut self, entry: &Entry, sensor: &HeartbeatSensor, younger_than: Duration, now: Timestamp) {
        if entry.state != State::Running {
            return;
        }
        self.of += 1;
        let Some(young) = entry.last.as_ref().filter(|last| now.since(last.heard_at) <= younger_than) else {
            return;
        };
        self.heard += 1;
        let Some((value, heard_at)) = young.reading(&sensor.reading).map(|value| (value, young.heard_at)) else {
            return;
        };
        self.reported += 1;
        self.sum += value;
        self.largest = Some(self.largest.map_or(value, |largest| largest.max(value)));
        self.newest = self.newest.max(heard_at);
    }

    fn finish(self, combine: Combine) -> Together {
        let value = self.largest.map(|largest| match combine {
            Combine::Mean => self.sum / f64::from(self.reported),
            Combine::Sum => self.sum,
            Combine::Max => largest,
        });
        Together {
            value: value.map(|value| (value, self.newest)),
            reported: self.reported,
            of: self.of,
            heard: self.heard,
        }
    }
}

/// A snapshot being cut into pages.
struct Pages {
    done: Vec<Snapshot>,
    page: Snapshot,
    text: usize,
}

impl Pages {
    fn new(aggregator: &str, listening_for_ms: i64) -> Self {
        Self {
            done: Vec::new(),
            page: Snapshot {
                aggregator: aggregator.to_owned(),
                listening_for_ms,
                instances: Vec::new(),
                sensors: Vec::new(),
                complete: false,
            },
            text: 0,
        }
    }

    fn instance(&mut self, id: InstanceId, entry: &Entry, now: Timestamp) {
        let Some(last) = &entry.last else {
            return;
        };
        self.make_room(text_of(match &last.condition {
            Condition::Ok => None,
            Condition::ProcessError(fault) | Condition::MonitorError(fault) => Some(fault),
        }));
        let ago_ms = millis(now.since(last.heard_at));
        self.page.instances.push(Heard {
            instance: id,
            pool: entry.pool.clone(),
            ago_ms,
            condition: last.condition.clone(),
            work: last.work,
            // As of now, like every age here.
            work_for_ms: last.work_for_ms.saturating_add(ago_ms),
            draining: last.draining,
            sent_at: Timestamp(last.sent_at_ms),
        });
    }

    fn sensor(&mut self, report: SensorReport) {
        self.make_room(report.source.len() + text_of(report.fault.as_ref()));
        self.page.sensors.push(report);
    }

    /// Turns the page when it has no room for something with so much text.
    fn make_room(&mut self, text: usize) {
        let is_full = self.page.instances.len() >= PAGE_MAX || self.page.sensors.len() >= PAGE_MAX;
        if is_full || self.text + text > PAGE_TEXT_MAX {
            let next = Self::new(&self.page.aggregator, self.page.listening_for_ms);
            self.done.push(std::mem::replace(&mut self.page, next.page));
            self.text = 0;
        }
        self.text += text;
    }

    fn finish(mut self, complete: bool) -> Vec<Snapshot> {
        self.page.complete = complete;
        self.done.push(self.page);
        self.done
    }
}

fn text_of(fault: Option<&Fault>) -> usize {
    fault.map_or(0, |fault| fault.code.len() + fault.text.len())
}

#[cfg(test)]
mod tests;

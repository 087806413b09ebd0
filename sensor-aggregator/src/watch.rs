//! Which sensors are being read: one task a sensor, started and stopped as pools come, change and go.
//!
//! A task reads, tells, and sleeps; a source that hangs delays its own sensor and no other. Readings of heartbeats need no task:
//! they are put together in the window when they are due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epu_core::pool::{HeartbeatSensor, SensorSpec};
use epu_core::{Fault, Pool, PoolName, Span, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::config::period;
use crate::readings::Key;
use crate::sensors::{Source, Sources, Value, describe};
use crate::window::Window;

/// What came of one attempt to read a sensor.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) key: Key,
    pub(crate) outcome: Result<Value, Fault>,
    /// Of which task: a stopped one's last word may still be under way.
    task: u64,
}

/// The sensors that are being read.
pub(crate) struct Watches {
    sources: Arc<dyn Sources>,
    within: Duration,
    /// How long a pool's sensors are read after its last mention.
    forget: Duration,
    out: mpsc::Sender<Read>,
    pools: BTreeMap<PoolName, Known>,
    running: BTreeMap<Key, Watch>,
    tasks: u64,
}

/// What was last told of a pool.
struct Known {
    /// A pool that was removed and added again starts its revisions anew.
    version: (Timestamp, u64),
    mentioned_at: Timestamp,
}

struct Watch {
    spec: SensorSpec,
    how: How,
}

enum How {
    Task { number: u64, handle: AbortOnDropHandle<()> },
    Together { sensor: HeartbeatSensor, due: Timestamp },
}

impl Watches {
    pub(crate) fn new(sources: Arc<dyn Sources>, within: Duration, forget: Duration, out: mpsc::Sender<Read>) -> Self {
        Self {
            sources,
            within,
            forget,
            out,
            pools: BTreeMap::new(),
            running: BTreeMap::new(),
            tasks: 0,
        }
    }

    /// Merges what a controller tells of pools.
    pub(crate) fn pools(&mut self, pools: &[Pool], window: &mut Window, now: Timestamp) {
        for pool in pools {
            let version = (pool.added_at, pool.revision);
            let known = self.pools.get(&pool.name).map(|known| known.version);
            if known > Some(version) {
                continue;
            }
            let mentioned_at = now;
            self.pools.insert(pool.name.clone(), Known { version, mentioned_at });
            if known != Some(version) {
                self.align(pool, window, now);
            }
        }
    }

    /// Stops what the pool no longer has, starts what it has now.
    fn align(&mut self, pool: &Pool, window: &mut Window, now: Timestamp) {
        let none = BTreeMap::new();
        let wanted = if pool.removed { &none } else { &pool.spec.sensors };
        self.running.retain(|key, watch| {
            if key.0 != pool.name {
                return true;
            }
            let spec = wanted.get(&key.1);
            if !spec.is_some_and(|spec| reads_the_same(spec, &watch.spec)) {
                window.readings_mut().forget(key);
            }
            spec == Some(&watch.spec)
        });
        for (name, spec) in wanted {
            let key = (pool.name.clone(), name.clone());
            if !self.running.contains_key(&key) {
                info!(pool = %key.0, sensor = %key.1, source = describe(spec), every = %spec.every, "reading a sensor");
                window.readings_mut().watch(key.clone(), describe(spec));
                self.start(key, spec.clone(), now);
            }
        }
    }

    fn start(&mut self, key: Key, spec: SensorSpec, now: Timestamp) {
        let how = if let Some(sensor) = &spec.heartbeat {
            How::Together {
                sensor: sensor.clone(),
                due: now,
            }
        } else {
            self.tasks += 1;
            let task = Task {
                key: key.clone(),
                number: self.tasks,
                every: period(spec.every),
                within: self.within,
                out: self.out.clone(),
            };
            let source = self.sources.open(&key.0, &key.1, &spec);
            How::Task {
                number: self.tasks,
                handle: AbortOnDropHandle::new(tokio::spawn(task.run(source))),
            }
        };
        self.running.insert(key, Watch { spec, how });
    }

    /// Forgets pools that nobody has mentioned for long, as nobody decides on their readings, and starts again what has failed.
    pub(crate) fn tend(&mut self, window: &mut Window, now: Timestamp) {
        let (forget, pools) = (self.forget, &mut self.pools);
        pools.retain(|_, known| now.since(known.mentioned_at) <= forget);
        let mut ended = Vec::new();
        self.running.retain(|key, watch| {
            if !pools.contains_key(&key.0) {
                window.readings_mut().forget(key);
                return false;
            }
            if let How::Task { handle, .. } = &watch.how
                && handle.is_finished()
            {
                ended.push((key.clone(), watch.spec.clone()));
            }
            true
        });
        for (key, spec) in ended {
            warn!(pool = %key.0, sensor = %key.1, "the task that reads this sensor ended, starting it again");
            self.start(key, spec, now);
        }
    }

    /// Whether it is the word of a task that still runs.
    pub(crate) fn is_current(&self, read: &Read) -> bool {
        self.running.get(&read.key).is_some_and(|watch| match &watch.how {
            How::Task { number, .. } => *number == read.task,
            How::Together { .. } => false,
        })
    }

    /// Puts together the readings of heartbeats that are due. What most of the workers tell others is left to those others, if there
    /// are any.
    pub(crate) fn put_together(&mut self, window: &mut Window, others: bool, now: Timestamp) {
        for (key, watch) in &mut self.running {
            if let How::Together { sensor, due } = &mut watch.how
                && *due <= now
            {
                let together = window.together(&key.0, sensor, *watch.spec.staleness().stale_after, now);
                if others && !together.is_of_most() {
                    window.readings_mut().leave_to_others(key);
                } else {
                    window.readings_mut().record_together(key, &together);
                }
                *due = now + period(watch.spec.every);
            }
        }
    }
}

/// Whether both read the same thing, though perhaps at another pace.
fn reads_the_same(one: &SensorSpec, other: &SensorSpec) -> bool {
    (&one.rabbitmq, &one.directory, &one.heartbeat) == (&other.rabbitmq, &other.directory, &other.heartbeat)
}

/// Reads one sensor again and again.
struct Task {
    key: Key,
    number: u64,
    every: Duration,
    within: Duration,
    out: mpsc::Sender<Read>,
}

impl Task {
    async fn run(self, mut source: Box<dyn Source>) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let outcome = timeout(self.within, source.read()).await.unwrap_or_else(|_| {
                Err(Fault::new(
                    "timeout",
                    format!("read sensor {}: no answer within {}", self.key.1, Span(self.within)),
                ))
            });
            if outcome.is_err() {
                tick.reset(); // however long it took: one in trouble is not asked more often than a healthy one
            }
            let (key, task) = (self.key.clone(), self.number);
            if self.out.send(Read { key, outcome, task }).await.is_err() {
                return;
            }
        }
    }
}

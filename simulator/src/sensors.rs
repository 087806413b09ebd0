//! What can be read of the work, and how reading it goes wrong.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use epu_core::pool::{Count, SensorSpec};
use epu_core::{Fault, PoolName, SensorName};
use epu_sensor_aggregator::sensors::{Source, Sources, Value, describe};

use crate::lock;
use crate::queue::{Queues, SimQueue};

/// How a sensor behaves.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Mode {
    /// It reads the queue.
    #[default]
    True,
    /// It reads this, whatever the queue has: also NaN, infinite or negative.
    Says(f64),
    /// It fails.
    Fails,
    /// It does not answer.
    Hangs,
    /// It answers after so long.
    Late(Duration),
    /// It reads what it read last, or what there is when it has read nothing yet.
    Frozen,
}

/// How one sensor behaves, and what it read last.
#[derive(Debug, Default)]
struct Sensor {
    mode: Mode,
    /// What is the matter for a while, by what it is ended by: the last of several is what is seen.
    lasting: BTreeMap<u64, Mode>,
    last: Option<f64>,
}

impl Sensor {
    fn mode(&self) -> Mode {
        self.lasting.values().next_back().copied().unwrap_or(self.mode)
    }
}

type All = Arc<Mutex<BTreeMap<(PoolName, SensorName), Sensor>>>;

/// Sensors of a world.
#[derive(Debug)]
pub struct SimSources {
    queues: Arc<Queues>,
    sensors: All,
    ever: Mutex<u64>,
}

impl SimSources {
    /// Sensors of a pool read its queue.
    #[must_use]
    pub fn new(queues: Arc<Queues>) -> Self {
        Self {
            queues,
            sensors: Arc::default(),
            ever: Mutex::default(),
        }
    }

    /// How a sensor behaves from now on.
    pub fn set(&self, pool: &PoolName, sensor: &SensorName, mode: Mode) {
        lock(&self.sensors).entry((pool.clone(), sensor.clone())).or_default().mode = mode;
    }

    /// A sensor behaves so for a while. Gives what it is ended by.
    pub fn begins(&self, pool: &PoolName, sensor: &SensorName, mode: Mode) -> u64 {
        let id = {
            let mut ever = lock(&self.ever);
            *ever += 1;
            *ever
        };
        let mut sensors = lock(&self.sensors);
        sensors.entry((pool.clone(), sensor.clone())).or_default().lasting.insert(id, mode);
        id
    }

    /// It does not any more.
    pub fn ends(&self, pool: &PoolName, sensor: &SensorName, id: u64) {
        if let Some(sensor) = lock(&self.sensors).get_mut(&(pool.clone(), sensor.clone())) {
            sensor.lasting.remove(&id);
        }
    }
}

impl Sources for SimSources {
    fn open(&self, pool: &PoolName, name: &SensorName, spec: &SensorSpec) -> Box<dyn Source> {
        let covers_in_progress = spec.directory.as_ref().is_some_and(|directory| directory.in_progress.is_some())
            || spec.rabbitmq.as_ref().is_some_and(|rabbit| rabbit.count == Count::ReadyAndUnacked);
        Box::new(SimSource {
            name: (pool.clone(), name.clone()),
            covers_in_progress,
            source: describe(spec),
            queue: self.queues.of(pool),
            sensors: self.sensors.clone(),
        })
    }
}

struct SimSource {
    name: (PoolName, SensorName),
    covers_in_progress: bool,
    source: String,
    queue: Arc<SimQueue>,
    sensors: All,
}

impl SimSource {
    fn truth(&self) -> f64 {
        let in_progress = if self.covers_in_progress { self.queue.in_progress() } else { 0 };
        f64::from(u32::try_from(self.queue.waiting() + in_progress).unwrap_or(u32::MAX))
    }

    fn reads(&self) -> f64 {
        let amount = self.truth();
        lock(&self.sensors).entry(self.name.clone()).or_default().last = Some(amount);
        amount
    }
}

#[async_trait]
impl Source for SimSource {
    async fn read(&mut self) -> Result<Value, Fault> {
        let (mode, last) = lock(&self.sensors)
            .get(&self.name)
            .map_or((Mode::True, None), |sensor| (sensor.mode(), sensor.last));
        let amount = match mode {
            Mode::True => self.reads(),
            Mode::Says(amount) => amount,
            Mode::Fails => return Err(Fault::new("no-contact", format!("{}: connection refused", self.source))),
            Mode::Hangs => pending().await,
            Mode::Late(by) => {
                tokio::time::sleep(by).await;
                self.reads()
            }
            Mode::Frozen => last.unwrap_or_else(|| self.reads()),
        };
        Ok(Value {
            amount,
            covers_in_progress: self.covers_in_progress,
            source: self.source.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::seconds;

    #[tokio::test(start_paused = true)]
    async fn a_sensor_is_frozen_late_and_odd_for_a_while_and_then_true() {
        let queues = Arc::new(Queues::default());
        let sources = SimSources::new(queues.clone());
        let (pool, name) = (PoolName::new("pool").unwrap(), SensorName::new("jobs").unwrap());
        let spec: SensorSpec = serde_json::from_value(serde_json::json!({ "directory": { "path": "/queue" }, "every": "5s" })).unwrap();
        let mut source = sources.open(&pool, &name, &spec);
        queues.of(&pool).submit(3, seconds(1));
        assert_eq!(source.read().await.unwrap().amount, 3.0);
        let frozen = sources.begins(&pool, &name, Mode::Frozen);
        queues.of(&pool).submit(3, seconds(1));
        assert_eq!(source.read().await.unwrap().amount, 3.0);
        let odd = sources.begins(&pool, &name, Mode::Says(f64::NAN));
        assert!(source.read().await.unwrap().amount.is_nan());
        sources.ends(&pool, &name, frozen);
        assert!(source.read().await.unwrap().amount.is_nan(), "the other lasts");
        sources.ends(&pool, &name, odd);
        sources.begins(&pool, &name, Mode::Late(seconds(30)));
        assert!(tokio::time::timeout(seconds(29), source.read()).await.is_err());
        let read = tokio::time::timeout(seconds(31), source.read()).await;
        assert_eq!(read.unwrap().unwrap().amount, 6.0);
    }
}

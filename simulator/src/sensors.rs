//! What can be read of the work, and how reading it goes wrong.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};

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
}

/// Sensors of a world.
#[derive(Debug)]
pub struct SimSources {
    queues: Arc<Queues>,
    modes: Arc<Mutex<BTreeMap<(PoolName, SensorName), Mode>>>,
}

impl SimSources {
    /// Sensors of a pool read its queue.
    #[must_use]
    pub fn new(queues: Arc<Queues>) -> Self {
        Self {
            queues,
            modes: Arc::default(),
        }
    }

    /// How a sensor behaves from now on.
    pub fn set(&self, pool: &PoolName, sensor: &SensorName, mode: Mode) {
        lock(&self.modes).insert((pool.clone(), sensor.clone()), mode);
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
            modes: self.modes.clone(),
        })
    }
}

struct SimSource {
    name: (PoolName, SensorName),
    covers_in_progress: bool,
    source: String,
    queue: Arc<SimQueue>,
    modes: Arc<Mutex<BTreeMap<(PoolName, SensorName), Mode>>>,
}

#[async_trait]
impl Source for SimSource {
    async fn read(&mut self) -> Result<Value, Fault> {
        let mode = lock(&self.modes).get(&self.name).copied().unwrap_or_default();
        let amount = match mode {
            Mode::True => {
                let in_progress = if self.covers_in_progress { self.queue.in_progress() } else { 0 };
                f64::from(u32::try_from(self.queue.waiting() + in_progress).unwrap_or(u32::MAX))
            }
            Mode::Says(amount) => amount,
            Mode::Fails => return Err(Fault::new("no-contact", format!("{}: connection refused", self.source))),
            Mode::Hangs => pending().await,
        };
        Ok(Value {
            amount,
            covers_in_progress: self.covers_in_progress,
            source: self.source.clone(),
        })
    }
}

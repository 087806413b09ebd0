//! Where readings come from.
//!
//! A [`Source`] is one way to one amount. When it fails, the sensor has failed: there is no second source to fall back to, since
//! two sources that count differently would make the pool flap between two truths. Sources are made by [`Sources`], so that the
//! simulator puts its own in place of brokers and disks.

pub mod directory;
pub mod rabbitmq;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use epu_core::pool::{Count, SensorSpec};
use epu_core::{Clock, Fault, PoolName, SensorName};

/// What a source read.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// How much.
    pub amount: f64,
    /// Whether work in progress is counted too, not only work that waits.
    pub covers_in_progress: bool,
    /// Where it came from, for people.
    pub source: String,
}

/// One way to one amount.
#[async_trait]
pub trait Source: Send {
    /// Reads it now. May be dropped before it is done, and asked again.
    ///
    /// # Errors
    /// A fault that says what is wrong with the source. Never a made-up amount.
    async fn read(&mut self) -> Result<Value, Fault>;
}

/// Makes sources.
pub trait Sources: Send + Sync {
    /// The source of a pool's sensor. What is wrong with it, its first reading says. Not asked for readings of heartbeats.
    fn open(&self, pool: &PoolName, name: &SensorName, spec: &SensorSpec) -> Box<dyn Source>;
}

/// Sources in the real world.
#[derive(Debug, Clone)]
pub struct RealSources {
    clock: Arc<dyn Clock>,
}

impl RealSources {
    /// Real sources, which wait by this clock before they ask again what has just failed.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

impl Sources for RealSources {
    fn open(&self, pool: &PoolName, name: &SensorName, spec: &SensorSpec) -> Box<dyn Source> {
        if let Some(queue) = &spec.rabbitmq {
            Box::new(rabbitmq::Queue::new(queue.clone(), describe(spec), self.clock.clone()))
        } else if let Some(directory) = &spec.directory {
            Box::new(directory::Directory::new(directory.clone(), describe(spec)))
        } else {
            Box::new(Nowhere(Fault::new(
                "bad-config",
                format!("sensor {name} of pool {pool} says no source: give it rabbitmq, directory or heartbeat"),
            )))
        }
    }
}

/// The source of a sensor whose settings name none.
struct Nowhere(Fault);

#[async_trait]
impl Source for Nowhere {
    async fn read(&mut self) -> Result<Value, Fault> {
        Err(self.0.clone())
    }
}

/// A sensor's source in words, such as `rabbitmq queue jobs (ready)`. Holds no address, since an address may hold a password.
#[must_use]
pub fn describe(spec: &SensorSpec) -> String {
    Words(spec).to_string()
}

struct Words<'a>(&'a SensorSpec);

impl fmt::Display for Words<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rabbit) = &self.0.rabbitmq {
            let count = match rabbit.count {
                Count::Ready => "ready",
                Count::ReadyAndUnacked => "ready+unacked",
            };
            write!(out, "rabbitmq queue {} ({count})", rabbit.queue)
        } else if let Some(directory) = &self.0.directory {
            write!(out, "directory {}", directory.path.display())?;
            match &directory.in_progress {
                Some(in_progress) => write!(out, " and {}", in_progress.display()),
                None => Ok(()),
            }
        } else if let Some(heartbeat) = &self.0.heartbeat {
            write!(out, "heartbeat reading {}", heartbeat.reading)
        } else {
            out.write_str("nowhere")
        }
    }
}

#[cfg(test)]
mod tests {
    use epu_core::time::ManualClock;
    use serde_json::json;

    use super::*;

    fn spec(source: &serde_json::Value) -> SensorSpec {
        serde_json::from_value(source.clone()).unwrap()
    }

    #[test]
    fn a_source_is_named_without_its_address() {
        let rabbit = json!({"rabbitmq": {"url": "amqp://me:secret@host", "queue": "jobs", "count": "ready+unacked"}});
        assert_eq!(describe(&spec(&rabbit)), "rabbitmq queue jobs (ready+unacked)");
        let directory = json!({"directory": {"path": "/spool/new", "in-progress": "/spool/claimed"}});
        assert_eq!(describe(&spec(&directory)), "directory /spool/new and /spool/claimed");
        assert_eq!(
            describe(&spec(&json!({"heartbeat": {"reading": "load"}}))),
            "heartbeat reading load"
        );
    }

    #[tokio::test]
    async fn a_sensor_without_a_source_says_so_and_not_zero() {
        let sources = RealSources::new(Arc::new(ManualClock::default()));
        let (pool, name) = (PoolName::new("web").unwrap(), SensorName::new("queue").unwrap());
        let read = sources.open(&pool, &name, &spec(&json!({}))).read().await;
        assert_eq!(read.unwrap_err().code, "bad-config");
    }
}

//! A pool as it is played: its settings as they are, but that its sensors read the simulated queue.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use epu_core::id::{PoolName, SensorName};
use epu_core::pool::{DirectorySensor, PoolSpec, Template};
use epu_decision_engines::Registry;
use serde_json::{Value, json};

use super::workload::Workload;

/// A pool with its work.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Its settings.
    pub spec: PoolSpec,
    /// Its template's content.
    pub template: Template,
    /// What arrives for it.
    pub workload: Arc<Workload>,
    /// Its sensors that read the simulated queue.
    pub following: Vec<SensorName>,
    /// Its sensors that say one thing all the time.
    held: BTreeMap<SensorName, f64>,
    /// What was changed so that it can be played, for people.
    pub notes: Vec<String>,
}

impl Pool {
    /// A pool as it was resolved from a file. `held` are sensors that are to say one thing all the time.
    ///
    /// # Errors
    /// Which sensor cannot be simulated, and what to do.
    pub fn new(
        name: PoolName,
        mut spec: PoolSpec,
        template: Template,
        workload: Arc<Workload>,
        held: &BTreeMap<SensorName, f64>,
    ) -> Result<Self, String> {
        let used = used(&spec);
        let (mut following, mut stays, mut notes) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut left_out = Vec::new();
        for (sensor, settings) in &mut spec.sensors {
            if let Some(value) = held.get(sensor) {
                notes.push(format!("pool {name}: sensor {sensor} says {value} all the time"));
                stays.insert(sensor.clone(), *value);
                if settings.heartbeat.take().is_some() {
                    let path = PathBuf::from("/simulated");
                    settings.directory = Some(DirectorySensor { path, in_progress: None });
                }
            } else if settings.heartbeat.is_some() {
                if used.contains(sensor) {
                    return Err(format!(
                        "pool {name}: the engine goes by sensor {sensor}, which workers report, and simulated workers report none: give \
                         --sensor {sensor}=VALUE, to have it say that all the time"
                    ));
                }
                left_out.push(sensor.clone());
            } else {
                let real = match (&settings.rabbitmq, &settings.directory) {
                    (Some(rabbitmq), _) => format!("the RabbitMQ queue {}", rabbitmq.queue),
                    (None, Some(directory)) => format!("the directory {}", directory.path.display()),
                    (None, None) => "its source".to_owned(),
                };
                notes.push(format!("pool {name}: sensor {sensor} reads the simulated queue in place of {real}"));
                following.push(sensor.clone());
            }
        }
        for sensor in left_out {
            spec.sensors.remove(&sensor);
            notes.push(format!(
                "pool {name}: sensor {sensor} is left out, which workers report and the engine does not use"
            ));
        }
        Ok(Self {
            name,
            spec,
            template,
            workload,
            following,
            held: stays,
            notes,
        })
    }

    /// Its settings as the config file has them.
    pub(super) fn written(&self) -> Value {
        serde_json::to_value(&self.spec).unwrap_or_else(|_| json!({}))
    }

    /// Its template, by name.
    pub(super) fn written_template(&self) -> (String, Value) {
        (
            self.spec.template.to_string(),
            serde_json::to_value(&self.template).unwrap_or_else(|_| json!({})),
        )
    }

    pub(super) fn held(&self) -> Vec<(PoolName, SensorName, f64)> {
        let one = |(sensor, value): (&SensorName, &f64)| (self.name.clone(), sensor.clone(), *value);
        self.held.iter().map(one).collect()
    }

    /// What an hour costs by a placement, where it or the template says so.
    pub(super) fn price(&self, placement: &str) -> Option<f64> {
        let placement = self.spec.placements.iter().find(|known| known.called() == placement)?;
        placement.template(&self.template).machine.price
    }
}

/// The sensors that the engine needs.
fn used(spec: &PoolSpec) -> Vec<SensorName> {
    let engines = Registry::standard();
    let made = spec.engine.iter().filter_map(|(name, settings)| engines.make(name, settings).ok());
    made.flat_map(|engine| engine.sensors()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(spec: Value, held: &[(&str, f64)]) -> Result<Pool, String> {
        let held = held.iter().map(|(name, value)| (SensorName::new(name).unwrap(), *value)).collect();
        let template = serde_json::from_value(json!({"run": ["worker"], "machine": {"price": 0.1}})).unwrap();
        let spec = serde_json::from_value(spec).unwrap();
        Pool::new(PoolName::new("web").unwrap(), spec, template, Arc::default(), &held)
    }

    fn spec() -> Value {
        json!({
            "template": "worker", "max": 5,
            "engine": {"queue-length": {"sensor": "jobs", "low-water": 1, "high-water": 5}},
            "sensors": {
                "jobs": {"rabbitmq": {"url": "env:AMQP_URL", "queue": "work"}},
                "load": {"heartbeat": {"reading": "load"}},
            },
            "placements": [{"site": "here"}, {"site": "there", "name": "dear", "machine": {"price": 0.4}}],
        })
    }

    #[test]
    fn a_queue_s_sensor_reads_the_simulated_queue_and_nothing_else_is_changed() {
        let pool = pool(spec(), &[]).unwrap();
        assert_eq!(pool.following, [SensorName::new("jobs").unwrap()]);
        let said = [
            "pool web: sensor jobs reads the simulated queue in place of the RabbitMQ queue work",
            "pool web: sensor load is left out, which workers report and the engine does not use",
        ];
        assert_eq!(pool.notes, said);
        assert_eq!(pool.written()["sensors"]["jobs"]["rabbitmq"]["queue"], "work");
        assert_eq!(
            (pool.price("here"), pool.price("dear"), pool.price("nowhere")),
            (Some(0.1), Some(0.4), None)
        );
    }

    #[test]
    fn what_workers_report_is_refused_unless_it_is_held() {
        let mut by_load = spec();
        by_load["engine"]["queue-length"]["sensor"] = "load".into();
        let refused = pool(by_load.clone(), &[]).unwrap_err();
        assert!(refused.contains("--sensor load=VALUE"), "{refused}");
        let held = pool(by_load, &[("load", 0.5)]).unwrap();
        assert_eq!(held.held().len(), 1);
        assert!(held.written()["sensors"]["load"]["directory"].is_object());
    }
}

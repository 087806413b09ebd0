//! Every metric of the program in one place: what is served, and what the reference is generated from.

use epu_bus::http;
use epu_core::Fault;
use epu_core::invariant::Violations;
use prometheus::core::Collector;
use prometheus::{Encoder as _, TextEncoder};

/// All of them.
pub(crate) struct AllMetrics {
    /// Where they are read.
    pub(crate) registry: prometheus::Registry,
    /// Shared by all services of the process, and registered once.
    violations: Violations,
    pub(super) store: epu_store::Metrics,
    pub(super) bus: http::Metrics,
    pub(super) amqp: epu_bus::amqp::Metrics,
    pub(super) provisioner: epu_provisioner::Metrics,
    pub(super) aggregator: epu_sensor_aggregator::Metrics,
    pub(super) controller: epu_controller::Metrics,
}

impl AllMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Only when two have the same name.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let violations = Violations::new()?;
        let metrics = Self {
            registry: prometheus::Registry::new(),
            store: epu_store::Metrics::new()?,
            bus: http::Metrics::new()?,
            amqp: epu_bus::amqp::Metrics::new()?,
            provisioner: epu_provisioner::Metrics::with(violations.clone())?,
            aggregator: epu_sensor_aggregator::Metrics::new()?,
            controller: epu_controller::Metrics::with(violations.clone())?,
            violations,
        };
        for collector in metrics.all() {
            metrics.registry.register(collector)?;
        }
        metrics
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Every collector of ours.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Box<dyn Collector>> {
        [
            self.controller.all(),
            self.provisioner.all(),
            self.aggregator.all(),
            self.store.all(),
            self.bus.all(),
            self.amqp.all(),
            self.violations.all(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

pub(super) fn render(registry: &prometheus::Registry) -> Result<String, Fault> {
    let mut text = Vec::new();
    let failed = |why: String| Fault::new("internal", format!("write the metrics: {why}"));
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .map_err(|e| failed(e.to_string()))?;
    String::from_utf8(text).map_err(|e| failed(e.to_string()))
}

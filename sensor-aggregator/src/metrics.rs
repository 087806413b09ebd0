//! What the aggregator counts.

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts};

/// The aggregator's metrics; registered once by whoever runs it.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `epu_aggregator_heartbeats_total{outcome}`
    pub heartbeats: IntCounterVec,
    /// `epu_aggregator_sensor_reads_total{outcome}`
    pub sensor_reads: IntCounterVec,
    /// `epu_aggregator_instances{life}`
    pub instances: IntGaugeVec,
    /// `epu_aggregator_sensor_value{pool, sensor}`
    pub sensor_value: GaugeVec,
    /// `epu_aggregator_sensor_age_seconds{pool, sensor}`
    pub sensor_age: GaugeVec,
    /// `epu_aggregator_snapshot_pages_total{complete}`
    pub snapshot_pages: IntCounterVec,
    /// `epu_aggregator_listening_gaps_total`
    pub listening_gaps: IntCounter,
    /// `epu_aggregator_facts_lost_total`
    pub facts_lost: IntCounter,
    /// `epu_aggregator_asked_again_total`
    pub asked_again: IntCounter,
}

impl Metrics {
    /// Fresh metrics, registered nowhere.
    ///
    /// # Errors
    /// When a name or label is not one that Prometheus takes.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            heartbeats: IntCounterVec::new(
                Opts::new(
                    "epu_aggregator_heartbeats_total",
                    "Heartbeats by what became of them: taken, or why they were refused.",
                ),
                &["outcome"],
            )?,
            sensor_reads: IntCounterVec::new(
                Opts::new(
                    "epu_aggregator_sensor_reads_total",
                    "Attempts to read a sensor: read, failed or timeout.",
                ),
                &["outcome"],
            )?,
            instances: IntGaugeVec::new(
                Opts::new("epu_aggregator_instances", "Instances known here, live or ended."),
                &["life"],
            )?,
            sensor_value: GaugeVec::new(
                Opts::new(
                    "epu_aggregator_sensor_value",
                    "The last value of a sensor; absent while there is none.",
                ),
                &["pool", "sensor"],
            )?,
            sensor_age: GaugeVec::new(
                Opts::new(
                    "epu_aggregator_sensor_age_seconds",
                    "How long ago a sensor's last value was read; absent while there is none.",
                ),
                &["pool", "sensor"],
            )?,
            snapshot_pages: IntCounterVec::new(
                Opts::new(
                    "epu_aggregator_snapshot_pages_total",
                    "Pages of snapshots told, of complete ones and of others.",
                ),
                &["complete"],
            )?,
            listening_gaps: IntCounter::new(
                "epu_aggregator_listening_gaps_total",
                "How often the aggregator found that it had not been running for a while; silence before that counts against nobody.",
            )?,
            facts_lost: IntCounter::new(
                "epu_aggregator_facts_lost_total",
                "Facts lost because the aggregator was too slow to take them.",
            )?,
            asked_again: IntCounter::new(
                "epu_aggregator_asked_again_total",
                "How often everything was asked for again, because facts were lost or unknown instances spoke.",
            )?,
        })
    }

    /// All of them, for a registry and for the reference.
    #[must_use]
    pub fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.heartbeats.clone()),
            Box::new(self.sensor_reads.clone()),
            Box::new(self.instances.clone()),
            Box::new(self.sensor_value.clone()),
            Box::new(self.sensor_age.clone()),
            Box::new(self.snapshot_pages.clone()),
            Box::new(self.listening_gaps.clone()),
            Box::new(self.facts_lost.clone()),
            Box::new(self.asked_again.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_once_under_this_crates_name() {
        let registry = prometheus::Registry::new();
        for collector in Metrics::new().unwrap().all() {
            for desc in collector.desc() {
                assert!(desc.fq_name.starts_with("epu_aggregator_"), "{}", desc.fq_name);
            }
            registry.register(collector).unwrap();
        }
    }
}

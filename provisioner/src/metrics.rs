//! What the provisioner counts.

use std::time::Duration;

use epu_core::invariant::Violations;
use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

/// Registered by whoever puts the process together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `epu_provisioner_instances{state}`: live instances.
    pub instances: IntGaugeVec,
    /// `epu_provisioner_launches_total{site, outcome}`: launches that came to something; outcome is `all`, `some`, `none`.
    pub launches: IntCounterVec,
    /// `epu_provisioner_iaas_calls_total{site, call, outcome}`: calls to sites; outcome is `ok` or the kind of error.
    pub iaas_calls: IntCounterVec,
    /// `epu_provisioner_iaas_call_seconds{site, call}`: how long they took.
    pub iaas_call_seconds: HistogramVec,
    /// `epu_provisioner_deadlines_total{state}`: deadlines that passed and were acted upon.
    pub deadlines: IntCounterVec,
    /// `epu_provisioner_drains_cut_short_total`: workers ended at their drain's deadline.
    pub drains_cut_short: IntCounter,
    /// `epu_provisioner_swept_total{site, what}`: machines without a record; what is `adopted` or `terminated`.
    pub swept: IntCounterVec,
    /// `epu_provisioner_claims_refused_total`: agents that claimed an instance that was claimed before.
    pub claims_refused: IntCounter,
    /// `epu_provisioner_late_reports_total`: reports of agents whose instance had moved on.
    pub late_reports: IntCounter,
    /// `epu_provisioner_leader`: 1 while this process acts, 0 while it stands by.
    pub leader: IntGauge,
    /// `epu_provisioner_leadership_changes_total`: how often this process began to act or ceased to.
    pub leadership_changes: IntCounter,
    /// `epu_provisioner_deposed_total`: writes refused because another process led already; nothing was changed by them.
    pub deposed: IntCounter,
    /// `epu_provisioner_stale_epochs_total`: commands of a controller that is no longer the leader.
    pub stale_epochs: IntCounter,
    /// `epu_provisioner_store_failures_total`: writes or reads of records that failed; what was to be written is done anew.
    pub store_failures: IntCounter,
    /// `epu_provisioner_retired_total`: ended records and journal entries that were forgotten.
    pub retired: IntCounter,
    /// `epu_provisioner_writes_total`: transactions in which instances, launches or events were written.
    pub writes: IntCounter,
    /// `epu_provisioner_pace_tokens{account, region, bucket}`: what is left in each token bucket; below zero, what is owed.
    pub pace_tokens: GaugeVec,
    /// `epu_provisioner_pace_wait_seconds{bucket}`: how long calls waited for their turn.
    pub pace_wait_seconds: HistogramVec,
    /// `epu_provisioner_pace_waiting{account, region, bucket}`: calls that wait for their turn.
    pub pace_waiting: IntGaugeVec,
    /// `epu_provisioner_pace_throttled_total{account, region, bucket}`: calls that the site refused for being too many.
    pub pace_throttled: IntCounterVec,
    /// `epu_invariant_violations_total{invariant}`, shared by all services of a process: whoever puts it together registers it.
    pub violations: Violations,
}

impl Metrics {
    /// All at zero, violations counted apart from everybody else's.
    ///
    /// # Errors
    /// When a name is malformed.
    pub fn new() -> Result<Self, prometheus::Error> {
        Self::with(Violations::new()?)
    }

    /// All at zero, but for violations: they are counted here.
    ///
    /// # Errors
    /// When a name is malformed.
    pub fn with(violations: Violations) -> Result<Self, prometheus::Error> {
        let seconds = HistogramOpts::new("epu_provisioner_iaas_call_seconds", "How long calls to sites took")
            .buckets(vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0]);
        let waits = HistogramOpts::new("epu_provisioner_pace_wait_seconds", "How long calls waited for their turn")
            .buckets(vec![0.001, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0]);
        let paced = ["account", "region", "bucket"];
        Ok(Self {
            instances: IntGaugeVec::new(Opts::new("epu_provisioner_instances", "Live instances"), &["state"])?,
            launches: IntCounterVec::new(
                Opts::new("epu_provisioner_launches_total", "Launches that came to something"),
                &["site", "outcome"],
            )?,
            iaas_calls: IntCounterVec::new(
                Opts::new("epu_provisioner_iaas_calls_total", "Calls to sites"),
                &["site", "call", "outcome"],
            )?,
            iaas_call_seconds: HistogramVec::new(seconds, &["site", "call"])?,
            deadlines: IntCounterVec::new(
                Opts::new("epu_provisioner_deadlines_total", "Deadlines that passed and were acted upon"),
                &["state"],
            )?,
            drains_cut_short: IntCounter::new("epu_provisioner_drains_cut_short_total", "Workers ended at their drain's deadline")?,
            swept: IntCounterVec::new(
                Opts::new("epu_provisioner_swept_total", "Machines without a record"),
                &["site", "what"],
            )?,
            claims_refused: IntCounter::new(
                "epu_provisioner_claims_refused_total",
                "Agents that claimed an instance that was claimed before",
            )?,
            late_reports: IntCounter::new(
                "epu_provisioner_late_reports_total",
                "Reports of agents whose instance had moved on",
            )?,
            leader: IntGauge::new("epu_provisioner_leader", "1 while this process acts, 0 while it stands by")?,
            leadership_changes: IntCounter::new(
                "epu_provisioner_leadership_changes_total",
                "How often this process began to act or ceased to",
            )?,
            deposed: IntCounter::new(
                "epu_provisioner_deposed_total",
                "Writes refused because another process led already; nothing was changed by them",
            )?,
            stale_epochs: IntCounter::new(
                "epu_provisioner_stale_epochs_total",
                "Commands of a controller that is no longer the leader",
            )?,
            store_failures: IntCounter::new("epu_provisioner_store_failures_total", "Writes or reads of records that failed")?,
            retired: IntCounter::new(
                "epu_provisioner_retired_total",
                "Ended records and journal entries that were forgotten",
            )?,
            writes: IntCounter::new(
                "epu_provisioner_writes_total",
                "Transactions in which instances, launches or events were written",
            )?,
            pace_tokens: GaugeVec::new(
                Opts::new("epu_provisioner_pace_tokens", "What is left in each token bucket"),
                &paced,
            )?,
            pace_wait_seconds: HistogramVec::new(waits, &["bucket"])?,
            pace_waiting: IntGaugeVec::new(Opts::new("epu_provisioner_pace_waiting", "Calls that wait for their turn"), &paced)?,
            pace_throttled: IntCounterVec::new(
                Opts::new(
                    "epu_provisioner_pace_throttled_total",
                    "Calls that the site refused for being too many",
                ),
                &paced,
            )?,
            violations,
        })
    }

    /// All of them but the violations, to register and to write the reference from.
    #[must_use]
    pub fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.instances.clone()),
            Box::new(self.launches.clone()),
            Box::new(self.iaas_calls.clone()),
            Box::new(self.iaas_call_seconds.clone()),
            Box::new(self.deadlines.clone()),
            Box::new(self.drains_cut_short.clone()),
            Box::new(self.swept.clone()),
            Box::new(self.claims_refused.clone()),
            Box::new(self.late_reports.clone()),
            Box::new(self.leader.clone()),
            Box::new(self.leadership_changes.clone()),
            Box::new(self.deposed.clone()),
            Box::new(self.stale_epochs.clone()),
            Box::new(self.store_failures.clone()),
            Box::new(self.retired.clone()),
            Box::new(self.writes.clone()),
            Box::new(self.pace_tokens.clone()),
            Box::new(self.pace_wait_seconds.clone()),
            Box::new(self.pace_waiting.clone()),
            Box::new(self.pace_throttled.clone()),
        ]
    }

    pub(crate) fn called(&self, site: &str, call: &str, outcome: &str, took: Duration) {
        self.iaas_calls.with_label_values(&[site, call, outcome]).inc();
        self.iaas_call_seconds.with_label_values(&[site, call]).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_can_be_registered_together() {
        let registry = prometheus::Registry::new();
        for collector in Metrics::new().unwrap().all() {
            assert!(collector.desc().iter().all(|d| d.fq_name.starts_with("epu_provisioner_")));
            registry.register(collector).unwrap();
        }
    }
}

//! The controller's metrics.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts};

/// What `epu_controller_pool_size` counts.
pub(crate) const SIZES: [&str; 8] = ["target", "capacity", "pending", "busy", "idle", "unhealthy", "draining", "live"];

/// The controller's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `epu_controller_decisions_total{pool}`: decisions that acted or differed from the one before.
    pub decisions: IntCounterVec,
    /// `epu_controller_looks_total{pool}`: how often an engine was asked.
    pub looks: IntCounterVec,
    /// `epu_controller_actions_total{pool,action}`: instances launched, drained, kept after all, ended.
    pub actions: IntCounterVec,
    /// `epu_controller_suppressed_total{pool,because}`: what was wanted and not done, when that changed.
    pub suppressed: IntCounterVec,
    /// `epu_controller_pool_size{pool,what}`: target, capacity, pending, busy, idle, unhealthy, draining, live.
    pub size: IntGaugeVec,
    /// `epu_controller_busy_ended_total{pool,because}`: busy or unknown workers that were ended, by cause.
    pub busy_ended: IntCounterVec,
    /// `epu_controller_breaker_open{pool,breaker}`: 1 while a storm or launch breaker is open.
    pub breaker: IntGaugeVec,
    /// `epu_controller_outbox_commands`: commands not yet accepted.
    pub outbox: IntGauge,
    /// `epu_controller_retries_total{op}`: commands sent again.
    pub retries: IntCounterVec,
    /// `epu_controller_look_seconds`: how long one look at the pools that changed takes, storing included.
    pub look_seconds: Histogram,
    /// `epu_controller_shards`: of the shards of pools, how many this process leads.
    pub shards: IntGauge,
    /// `epu_controller_leadership_changes_total{what}`: shards gained, given to others, lapsed, taken by others, deposed from.
    pub leadership_changes: IntCounterVec,
    /// `epu_controller_refused_total{by}`: what was refused because somebody else leads: commands by the provisioner, writes by the store.
    pub refused: IntCounterVec,
    /// `epu_invariant_violations_total{invariant}`: something that must always be true was not.
    pub violations: IntCounterVec,
}

impl Metrics {
    /// Makes them.
    ///
    /// # Errors
    /// Never in practice: the names are constants.
    pub fn new() -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            decisions: counter(
                "epu_controller_decisions_total",
                "Decisions that acted or differed from the one before.",
                &["pool"],
            )?,
            looks: counter("epu_controller_looks_total", "How often an engine was asked.", &["pool"])?,
            actions: counter(
                "epu_controller_actions_total",
                "Instances launched, drained, kept after all, ended.",
                &["pool", "action"],
            )?,
            suppressed: counter(
                "epu_controller_suppressed_total",
                "Decisions of which a guardrail held something back.",
                &["pool", "because"],
            )?,
            size: gauge(
                "epu_controller_pool_size",
                "Instances of a pool, counted; target is the size aimed at.",
                &["pool", "what"],
            )?,
            busy_ended: counter(
                "epu_controller_busy_ended_total",
                "Workers ended while busy, or not known to be idle.",
                &["pool", "because"],
            )?,
            breaker: gauge("epu_controller_breaker_open", "1 while a breaker is open.", &["pool", "breaker"])?,
            outbox: IntGauge::new("epu_controller_outbox_commands", "Commands not yet accepted by the provisioner.")?,
            retries: counter("epu_controller_retries_total", "Commands sent again.", &["op"])?,
            look_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "epu_controller_look_seconds",
                    "One look at the pools that changed, storing included.",
                )
                .buckets(vec![0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
            )?,
            shards: IntGauge::new("epu_controller_shards", "Shards of pools that this process leads.")?,
            leadership_changes: counter(
                "epu_controller_leadership_changes_total",
                "Shards gained, given to others, lapsed, taken by others, deposed from.",
                &["what"],
            )?,
            refused: counter(
                "epu_controller_refused_total",
                "Commands and writes that were refused because somebody else leads.",
                &["by"],
            )?,
            violations: counter(
                "epu_invariant_violations_total",
                "Something that must always be true was not.",
                &["invariant"],
            )?,
        };
        for invariant in epu_core::invariant::ALL {
            metrics.violations.with_label_values(&[invariant.id()]).inc_by(0);
        }
        for what in ["gained", "given", "lapsed", "taken", "deposed"] {
            metrics.leadership_changes.with_label_values(&[what]).inc_by(0);
        }
        for by in ["provisioner", "store"] {
            metrics.refused.with_label_values(&[by]).inc_by(0);
        }
        Ok(metrics)
    }

    /// Forgets a pool that is no more.
    pub fn forget(&self, pool: &epu_core::PoolName) {
        for what in SIZES {
            // One that was never shown has nothing to forget.
            self.size.remove_label_values(&[pool.as_str(), what]).ok();
        }
        for breaker in ["storm", "launch"] {
            self.breaker.remove_label_values(&[pool.as_str(), breaker]).ok();
        }
    }

    /// All of them, to be registered and described.
    #[must_use]
    pub fn all(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.decisions.clone()),
            Box::new(self.looks.clone()),
            Box::new(self.actions.clone()),
            Box::new(self.suppressed.clone()),
            Box::new(self.size.clone()),
            Box::new(self.busy_ended.clone()),
            Box::new(self.breaker.clone()),
            Box::new(self.outbox.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.look_seconds.clone()),
            Box::new(self.shards.clone()),
            Box::new(self.leadership_changes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.violations.clone()),
        ]
    }
}

//! The controller's metrics.

mod pool;

use epu_core::invariant::Violations;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts};

pub(crate) use self::pool::{Counted, PoolMetrics, Shown};

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
    /// `epu_controller_refresh_outdated{pool}`: while a refresh is under way, live instances of older template versions.
    pub refresh_outdated: IntGaugeVec,
    /// `epu_controller_placement_gate{pool,placement}`: 0 open, 1 paused, 2 parked, 3 being tried with one instance.
    pub placement_gate: IntGaugeVec,
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
    /// `epu_invariant_violations_total{invariant}`, shared by all services of a process: whoever puts it together registers it.
    pub violations: Violations,
}

impl Metrics {
    /// Makes them, violations counted apart from everybody else's.
    ///
    /// # Errors
    /// Never in practice: the names are constants.
    pub fn new() -> Result<Self, prometheus::Error> {
        Self::with(Violations::new()?)
    }

    /// Makes them, but for violations: they are counted here.
    ///
    /// # Errors
    /// Never in practice: the names are constants.
    pub fn with(violations: Violations) -> Result<Self, prometheus::Error> {
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
            refresh_outdated: gauge(
                "epu_controller_refresh_outdated",
                "While a refresh is under way, live instances of older template versions.",
                &["pool"],
            )?,
            placement_gate: gauge(
                "epu_controller_placement_gate",
                "Whether launching by a placement is open (0), paused (1), parked (2) or being tried with one instance (3).",
                &["pool", "placement"],
            )?,
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
            violations,
        };
        for what in ["gained", "given", "lapsed", "taken", "deposed"] {
            metrics.leadership_changes.with_label_values(&[what]).inc_by(0);
        }
        for by in ["provisioner", "store"] {
            metrics.refused.with_label_values(&[by]).inc_by(0);
        }
        Ok(metrics)
    }

    /// All of them but the violations, to be registered and described.
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
            Box::new(self.refresh_outdated.clone()),
            Box::new(self.placement_gate.clone()),
            Box::new(self.outbox.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.look_seconds.clone()),
            Box::new(self.shards.clone()),
            Box::new(self.leadership_changes.clone()),
            Box::new(self.refused.clone()),
        ]
    }
}

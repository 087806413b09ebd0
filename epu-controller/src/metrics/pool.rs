//! The metrics of one pool. They live as long as it is managed here: dropped, nothing is shown of it any more.

use std::collections::BTreeSet;

use epu_core::PoolName;
use prometheus::{IntCounter, IntCounterVec};

use super::Metrics;

/// What `epu_controller_pool_size` counts.
pub(crate) const SIZES: [&str; 8] = ["target", "capacity", "pending", "busy", "idle", "unhealthy", "draining", "live"];
/// What `epu_controller_breaker_open` tells apart.
const BREAKERS: [&str; 2] = ["storm", "launch"];

/// How a pool is, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// In the order of [`SIZES`].
    pub(crate) sizes: [u32; 8],
    /// Which breakers are open: storm and launch.
    pub(crate) breakers: [bool; 2],
    /// While a refresh is under way, live instances of older template versions.
    pub(crate) outdated: u32,
    /// By the name of its placement.
    pub(crate) gates: Vec<(String, i64)>,
}

/// What is counted by something that is not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counted {
    /// Instances, by what was done with them.
    Action,
    /// Decisions, by what held something back.
    Suppressed,
    /// Busy or unknown workers that were ended, by cause.
    BusyEnded,
}

/// The metrics of one pool.
#[derive(Debug)]
pub(crate) struct PoolMetrics {
    all: Metrics,
    pool: PoolName,
    looks: IntCounter,
    decisions: IntCounter,
    counted: BTreeSet<(Counted, String)>,
    shown: Option<Shown>,
}

impl PoolMetrics {
    pub(crate) fn new(all: &Metrics, pool: &PoolName) -> Self {
        Self {
            looks: all.looks.with_label_values(&[pool.as_str()]),
            decisions: all.decisions.with_label_values(&[pool.as_str()]),
            all: all.clone(),
            pool: pool.clone(),
            counted: BTreeSet::new(),
            shown: None,
        }
    }

    /// Its engine was asked.
    pub(crate) fn looked(&self) {
        self.looks.inc();
    }

    /// A decision acted, or differed from the one before.
    pub(crate) fn decided(&self) {
        self.decisions.inc();
    }

    pub(crate) fn count(&mut self, what: Counted, by: &str, n: u64) {
        self.counters(what).with_label_values(&[self.pool.as_str(), by]).inc_by(n);
        self.counted.insert((what, by.to_owned()));
    }

    /// Shows how it is now. That it is as it was costs nothing, and it nearly always is.
    pub(crate) fn show(&mut self, now: Shown) {
        if self.shown.as_ref() == Some(&now) {
            return;
        }
        let (all, pool) = (&self.all, self.pool.as_str());
        for (what, n) in SIZES.iter().zip(now.sizes) {
            all.size.with_label_values(&[pool, what]).set(i64::from(n));
        }
        for (which, open) in BREAKERS.iter().zip(now.breakers) {
            all.breaker.with_label_values(&[pool, which]).set(i64::from(open));
        }
        all.refresh_outdated.with_label_values(&[pool]).set(i64::from(now.outdated));
        for (placement, level) in &now.gates {
            all.placement_gate.with_label_values(&[pool, placement]).set(*level);
        }
        let is_gone = |name: &String| now.gates.iter().all(|(other, _)| other != name);
        let before = self.shown.iter().flat_map(|shown| &shown.gates);
        for (gone, _) in before.filter(|(name, _)| is_gone(name)) {
            all.placement_gate.remove_label_values(&[pool, gone]).ok();
        }
        self.shown = Some(now);
    }

    fn counters(&self, what: Counted) -> &IntCounterVec {
        match what {
            Counted::Action => &self.all.actions,
            Counted::Suppressed => &self.all.suppressed,
            Counted::BusyEnded => &self.all.busy_ended,
        }
    }
}

impl Drop for PoolMetrics {
    fn drop(&mut self) {
        let (all, pool) = (&self.all, self.pool.as_str());
        // One that was never shown has nothing to forget.
        all.looks.remove_label_values(&[pool]).ok();
        all.decisions.remove_label_values(&[pool]).ok();
        for (what, by) in &self.counted {
            self.counters(*what).remove_label_values(&[pool, by]).ok();
        }
        let Some(shown) = &self.shown else { return };
        for what in SIZES {
            all.size.remove_label_values(&[pool, what]).ok();
        }
        for which in BREAKERS {
            all.breaker.remove_label_values(&[pool, which]).ok();
        }
        all.refresh_outdated.remove_label_values(&[pool]).ok();
        for (placement, _) in &shown.gates {
            all.placement_gate.remove_label_values(&[pool, placement]).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(gates: &[(&str, i64)]) -> Shown {
        Shown {
            sizes: [1, 2, 3, 4, 5, 6, 7, 8],
            breakers: [true, false],
            outdated: 9,
            gates: gates.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect(),
        }
    }

    /// All that is shown, as the name without its prefix, the labels' values in order, and the value.
    fn lines(metrics: &Metrics) -> Vec<String> {
        let families = metrics.all().into_iter().flat_map(|collector| collector.collect());
        let mut lines = Vec::new();
        for family in families {
            let name = family.name().trim_start_matches("epu_controller_").to_owned();
            for one in family.get_metric() {
                let labels: Vec<&str> = one.get_label().iter().map(|label| label.value()).collect();
                if labels.contains(&"web") {
                    let value = one.get_gauge().get_value() + one.get_counter().get_value();
                    lines.push(format!("{name} {} {value}", labels.join(" ")));
                }
            }
        }
        lines.sort();
        lines
    }

    #[test]
    fn a_placement_that_is_no_more_has_no_gate() {
        let metrics = Metrics::new().unwrap();
        let mut pool = PoolMetrics::new(&metrics, &PoolName::new("web").unwrap());
        let gates = || {
            let mut lines = lines(&metrics);
            lines.retain(|line| line.starts_with("placement_gate"));
            lines
        };
        pool.show(shown(&[("spot", 2), ("sure", 0)]));
        assert_eq!(gates(), ["placement_gate spot web 2", "placement_gate sure web 0"]);
        pool.show(shown(&[("sure", 1)]));
        assert_eq!(gates(), ["placement_gate sure web 1"]);
    }

    #[test]
    fn nothing_is_shown_of_a_pool_that_is_no_more() {
        let metrics = Metrics::new().unwrap();
        let name = PoolName::new("web").unwrap();
        let mut other = PoolMetrics::new(&metrics, &PoolName::new("other").unwrap());
        other.show(shown(&[("spot", 2)]));
        let mut pool = PoolMetrics::new(&metrics, &name);
        pool.show(shown(&[("spot", 2)]));
        pool.looked();
        pool.decided();
        pool.count(Counted::Action, "launch", 3);
        pool.count(Counted::Suppressed, "no-room", 1);
        pool.count(Counted::BusyEnded, "drained", 1);
        let all = lines(&metrics);
        assert_eq!(all.len(), 17, "{all:?}");
        assert!(all.contains(&"pool_size web live 8".to_owned()), "{all:?}");
        assert!(all.contains(&"actions_total launch web 3".to_owned()), "{all:?}");
        drop(pool);
        assert_eq!(lines(&metrics), Vec::<String>::new());
        assert_eq!(metrics.size.with_label_values(&["other", "live"]).get(), 8, "others stay");
    }
}

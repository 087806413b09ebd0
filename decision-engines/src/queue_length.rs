//! Follows a queue between a low and a high water mark.
//!
//! Above the high water the pool grows by a step, below the low water it shrinks by a step, and between them, both marks
//! included, it stays. The band keeps the size from swinging when the reading does. The step is taken from the size last aimed at
//! (`target`), not from the members that are there: a failed worker is then replaced rather than forgotten, and a step that the
//! plan held back is not taken twice.
//!
//! The first rule that fits decides:
//!
//! | # | when | size wanted | reason |
//! |---|---|---|---|
//! | 1 | target below the minimum | the minimum, at once, whatever is pending or read | `below-minimum` |
//! | 2 | target above the maximum | the maximum, at once, whatever is read | `above-maximum` |
//! | 3 | reading not fresh: stale, missing, invalid, or no such sensor | target | `no-reading` |
//! | 4 | reading above 0 and target 0 | 1, even below the low water | `work-waits` |
//! | 5 | low <= reading <= high | target | `within-band` |
//! | 6 | reading above high, target below the maximum, and an instance is pending or one of the target is not there | target | `growth-pending` |
//! | 7 | reading above high | target + step | `above-high-water` |
//! | 8 | reading below low | target - step down | `below-low-water` |
//!
//! Then the limits, which add a reason when they change what was wanted:
//!
//! | limit | reason |
//! |---|---|
//! | not above the maximum | `at-maximum` |
//! | not below the minimum | `at-minimum` |
//! | not below 1 while work is waiting or in progress, the maximum allowing | `last-worker` |
//!
//! **In progress** is: the reading is above 0; or a worker is busy; or one does not say whether it is busy. The last does not hold
//! when the sensor also counts work in progress and freshly reads 0, for then there is none. Draining workers do not count: they
//! finish what they have without being held here.
//!
//! Why rule 6 asks for all of the target: a step taken while the last one boots answers the same backlog twice. Shrinking asks
//! for nothing of the kind: an instance that is not needed is better stopped while it boots.
//!
//! A reading that is not fresh is no reason to do anything, above all not to shrink: a broker that cannot be reached looks like an
//! empty queue to whoever takes absent for zero. The minimum and failed workers are seen to all the same.

use epu_core::Reason;
use epu_core::id::SensorName;
use epu_core::reading::Status;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::Configured;
use crate::settings::Problem;
use crate::{Counts, Decision, Engine, Memory, Observation, bounds};

/// Follows a queue: more workers above the high water, fewer below the low water.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Settings {
    /// The sensor to go by, one of the pool's.
    pub sensor: SensorName,
    /// Above this the pool grows. Too low: more workers than the work needs. Too high: work waits.
    #[schemars(range(max = 1_000_000_000))]
    pub high_water: u32,
    /// Below this the pool shrinks, so with 0 it never does. Too close to `high-water`: the size swings with the reading.
    #[schemars(range(max = 1_000_000_000))]
    pub low_water: u32,
    /// How many workers to add at a time.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub step: u32,
    /// How many workers to remove at a time.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub step_down: u32,
}

fn one() -> u32 {
    1
}

/// The engine.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueLength {
    settings: Settings,
}

impl Configured for QueueLength {
    type Settings = Settings;
    const NAME: &'static str = "queue-length";
    const ALIASES: &'static [&'static str] = &["queuelen-bounded"];

    fn faults(tree: &Value) -> Vec<Problem> {
        let mark = |name| tree.get(name).and_then(Value::as_u64);
        match (mark("low-water"), mark("high-water")) {
            (Some(low), Some(high)) if low > high => {
                vec![Problem::at(&["low-water"], format!("low-water {low} is above high-water {high}"))]
            }
            (Some(_) | None, Some(_) | None) => Vec::new(),
        }
    }

    fn from_settings(settings: Settings) -> Self {
        Self { settings }
    }
}

impl Engine for QueueLength {
    fn decide(&self, seen: &Observation) -> Decision {
        let reading = self.reading(seen);
        let (wanted, why) = self.rule(seen, &reading);
        let mut reasons = vec![why];
        let bounded = bounds::hold(seen, wanted, &mut reasons);
        let desired = last_worker(seen, &reading, bounded, &mut reasons);
        Decision {
            desired,
            stepwise: true,
            slots: std::collections::BTreeMap::new(),
            reasons,
            memory: Memory::default(),
            look_again_at: None,
        }
    }

    fn version(&self) -> &'static str {
        "queue-length/1"
    }

    fn sensors(&self) -> Vec<SensorName> {
        vec![self.settings.sensor.clone()]
    }
}

/// What the sensor says, as far as it can be acted on.
enum Reading {
    /// A number at least zero, and whether it counts work in progress too.
    Fresh { value: f64, covers_in_progress: bool },
    /// None, and why not.
    Unusable(String),
}

impl QueueLength {
    fn reading(&self, seen: &Observation) -> Reading {
        let sensor = &self.settings.sensor;
        let Some(found) = seen.readings.get(sensor) else {
            return Reading::Unusable(format!("the pool has no sensor {sensor}"));
        };
        match &found.status {
            // Looked at again here, so that no fault elsewhere can make NaN a reason to shrink.
            Status::Fresh { value } if value.is_finite() && *value >= 0.0 => Reading::Fresh {
                value: *value,
                covers_in_progress: found.covers_in_progress,
            },
            Status::Fresh { value } => Reading::Unusable(format!("{sensor} is invalid ({value})")),
            status @ (Status::Stale { .. } | Status::Missing | Status::Invalid { .. }) => {
                Reading::Unusable(format!("{sensor} is {status}"))
            }
        }
    }

    /// The first rule that fits: the size wanted and why.
    fn rule(&self, seen: &Observation, reading: &Reading) -> (u32, Reason) {
        let Settings { sensor, .. } = &self.settings;
        let (low, high) = (self.settings.low_water, self.settings.high_water);
        let (target, counts) = (seen.target, &seen.counts);

        if target < seen.min {
            let text = format!("{target} is below the minimum of {}", seen.min);
            let why = Reason::new("below-minimum", text).with("target", target).with("min", seen.min);
            return (seen.min, why);
        }
        if target > seen.max {
            let text = format!("{target} is above the maximum of {}", seen.max);
            let why = Reason::new("above-maximum", text).with("target", target).with("max", seen.max);
            return (seen.max, why);
        }
        let value = match reading {
            Reading::Fresh { value, .. } => *value,
            Reading::Unusable(why) => {
                let text = format!("{why}: the size is held");
                return (target, Reason::new("no-reading", text).with("target", target));
            }
        };
        if value > 0.0 && target == 0 {
            let text = format!("{sensor} is {value} and there is no worker");
            return (1, Reason::new("work-waits", text).with("value", value));
        }
        let marked = |code, text| {
            let why = Reason::new(code, text).with("value", value);
            why.with("low", low).with("high", high).with("target", target)
        };
        if value > f64::from(high) {
            if target < seen.max && (counts.pending > 0 || counts.capacity < target) {
                let text = format!(
                    "{sensor} is {value}, above the high water of {high}, but growth is under way: {} of {target} there, {} of them pending",
                    counts.capacity, counts.pending
                );
                let why = marked("growth-pending", text);
                return (target, why.with("capacity", counts.capacity).with("pending", counts.pending));
            }
            let text = format!("{sensor} is {value}, above the high water of {high}");
            let step = self.settings.step;
            return (target.saturating_add(step), marked("above-high-water", text).with("step", step));
        }
        if value < f64::from(low) {
            let text = format!("{sensor} is {value}, below the low water of {low}");
            let step = self.settings.step_down;
            return (target.saturating_sub(step), marked("below-low-water", text).with("step", step));
        }
        (
            target,
            marked("within-band", format!("{sensor} is {value}, between {low} and {high}")),
        )
    }
}

/// At least 1 while work is waiting or in progress, the maximum allowing.
fn last_worker(seen: &Observation, reading: &Reading, bounded: u32, reasons: &mut Vec<Reason>) -> u32 {
    if bounded > 0 || seen.max == 0 {
        return bounded;
    }
    let Counts { busy, unknown, .. } = seen.counts;
    let (fresh, none_in_progress) = match reading {
        Reading::Fresh { value, covers_in_progress } => (Some(*value), *covers_in_progress && *value == 0.0),
        Reading::Unusable(_) => (None, false),
    };
    let waiting = fresh.is_some_and(|value| value > 0.0);
    if !waiting && busy == 0 && (unknown == 0 || none_in_progress) {
        return bounded;
    }
    let mut causes = Vec::new();
    if let Some(value) = fresh.filter(|_| waiting) {
        causes.push(format!("{value} to do"));
    }
    if busy > 0 {
        causes.push(format!("{busy} busy"));
    }
    if unknown > 0 && !none_in_progress {
        causes.push(format!("{unknown} not saying whether busy"));
    }
    let text = format!("the last worker stays: {}", causes.join(", "));
    let mut why = Reason::new("last-worker", text).with("busy", busy).with("unknown", unknown);
    if let Some(value) = fresh {
        why = why.with("value", value);
    }
    reasons.push(why);
    1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Registry;

    fn problems(settings: &Value) -> Vec<String> {
        let made = Registry::standard().make("queue-length", settings);
        made.expect_err("faults").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn steps_are_one_unless_said() {
        let read = |tree| serde_json::from_value::<Settings>(tree).expect("settings");
        let settings = read(json!({"sensor": "jobs", "high-water": 50, "low-water": 10}));
        assert_eq!((settings.step, settings.step_down), (1, 1));
        let engine = QueueLength::from_settings(settings);
        assert_eq!(engine.sensors(), [SensorName::new("jobs").expect("a name")]);
        let settings = read(json!({"sensor": "jobs", "high-water": 50, "low-water": 50, "step": 5, "step-down": 2}));
        assert_eq!((settings.step, settings.step_down), (5, 2));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faulty = json!({"sensr": "jobs", "high-water": 5, "low-water": 6, "step": 0, "step-down": "x"});
        assert_eq!(
            problems(&faulty),
            [
                r#"settings: "sensor" is a required property"#,
                "/low-water: low-water 6 is above high-water 5",
                r#"/sensr: "sensr" is not known here; known are high-water, low-water, sensor, step, step-down"#,
                "/step: 0 is less than the minimum of 1",
                r#"/step-down: "x" is not of type "integer""#,
            ]
        );
    }

    #[test]
    fn a_sensor_is_a_name_and_a_mark_is_a_number_in_reach() {
        let faulty = json!({"sensor": "a/b", "high-water": 1_000_000_001_u64, "low-water": -1});
        let problems = problems(&faulty);
        assert_eq!(problems.len(), 3, "{problems:?}");
        for (problem, path) in problems.iter().zip(["/high-water: ", "/low-water: ", "/sensor: "]) {
            assert!(problem.starts_with(path), "{problem}");
        }
    }
}

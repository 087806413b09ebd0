//! What holds for every engine and every observation.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use epu_core::id::SensorName;
use epu_core::reading::Status;
use epu_decision_engines::{Counts, Engine, Observation, Registry, reasons};
use proptest::prelude::*;
use serde_json::json;

use crate::world::{id, label, nothing, reading};

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::standard);

fn jobs() -> SensorName {
    SensorName::new("jobs").expect("a name")
}

fn a_value() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), (0_u32..100).prop_map(f64::from), 0.0..1e6]
}

fn a_status() -> impl Strategy<Value = Option<Status>> {
    let fresh = || a_value().prop_map(|value| Some(Status::Fresh { value }));
    prop_oneof![
        fresh(),
        fresh(),
        fresh(),
        (a_value(), 0..10_000_000_i64).prop_map(|(value, age_ms)| Some(Status::Stale { value, age_ms })),
        Just(Some(Status::Missing)),
        Just(Some(Status::Invalid { why: "NaN".into() })),
        Just(Some(Status::Fresh { value: f64::NAN })),
        Just(Some(Status::Fresh { value: -1.0 })),
        Just(None),
    ]
}

prop_compose! {
    fn some_counts()(running in 0_u32..8, pending in 0_u32..4, busy in 0_u32..8, unknown in 0_u32..8, unhealthy in 0_u32..4, draining in 0_u32..4)
        -> Counts
    {
        let busy = busy.min(running);
        let unknown = unknown.min(running - busy);
        let idle = running - busy - unknown;
        Counts { capacity: running + pending, pending, busy, idle, unknown, unhealthy, draining }
    }
}

prop_compose! {
    /// Bounds that fit, a target that may lie outside them, any reading.
    fn an_observation()(
        min in 0_u32..6, more in 0_u32..8, target in 0_u32..16, counts in some_counts(),
        status in a_status(), covers: bool, slots in 0_u8..4,
    ) -> Observation {
        let mut seen = Observation { target, counts, ..nothing(min, min + more) };
        seen.readings = status.map(|status| (jobs(), reading(status, covers))).into_iter().collect();
        seen.slots = (0..slots).map(|i| (label(&format!("s{i}")), id(u128::from(i)))).collect();
        seen
    }
}

prop_compose! {
    fn a_queue_engine()(low in 0_u32..100, more in 0_u32..100, step in 1_u32..5, down in 1_u32..5) -> Box<dyn Engine> {
        let settings = json!({"sensor": "jobs", "low-water": low, "high-water": low + more, "step": step, "step-down": down});
        REGISTRY.make("queue-length", &settings).expect("good settings")
    }
}

prop_compose! {
    fn a_keeper()(unique in 0_u32..4, more in 0_u32..12) -> Box<dyn Engine> {
        let slots: BTreeMap<_, _> = (0..unique).map(|i| (format!("s{}", 2 * i), json!({"K": i.to_string()}))).collect();
        REGISTRY.make("keep", &json!({"n": unique + more, "unique": slots})).expect("good settings")
    }
}

fn any_engine() -> impl Strategy<Value = Box<dyn Engine>> {
    prop_oneof![a_queue_engine(), a_keeper()]
}

fn fresh(seen: &Observation) -> Option<f64> {
    let value = seen.readings.get(&jobs())?.status.fresh()?;
    (value >= 0.0).then_some(value)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deciding_is_pure_and_within_bounds_and_says_why(engine in any_engine(), seen in an_observation()) {
        let decision = engine.decide(&seen);
        prop_assert_eq!(&decision, &engine.decide(&seen));
        prop_assert!((seen.min..=seen.max).contains(&decision.desired), "{decision:?}");
        prop_assert!(decision.slots.len() <= decision.desired as usize, "{decision:?}");
        prop_assert!(!decision.reasons.is_empty());
        for reason in &decision.reasons {
            prop_assert!(reasons::CODES.iter().any(|(code, _)| *code == reason.code), "{} is not listed", reason.code);
            prop_assert!(!reason.numbers.is_empty() && !reason.text.is_empty(), "{reason:?}");
            prop_assert!(reason.numbers.iter().all(|(_, number)| number.is_finite()), "{reason:?}");
        }
    }

    #[test]
    fn a_recorded_observation_gives_the_same_decision(engine in any_engine(), mut seen in an_observation()) {
        // NaN is no JSON; a reading never is `Fresh` with it.
        seen.readings.retain(|_, seen| seen.status.fresh().is_none_or(f64::is_finite));
        let text = serde_json::to_string(&seen).expect("json");
        let again: Observation = serde_json::from_str(&text).expect("the same");
        prop_assert_eq!(&again, &seen);
        prop_assert_eq!(engine.decide(&again), engine.decide(&seen));
    }

    #[test]
    fn without_a_fresh_reading_nothing_shrinks_or_grows_beyond_the_minimum(engine in a_queue_engine(), mut seen in an_observation()) {
        if fresh(&seen).is_some() {
            seen.readings.insert(jobs(), reading(Status::Missing, true));
        }
        let desired = engine.decide(&seen).desired;
        prop_assert!(desired >= seen.target.min(seen.max), "{desired}");
        prop_assert!(desired <= seen.target.max(seen.min).max(1), "{desired}");
    }

    #[test]
    fn the_last_worker_stays_while_there_is_work(engine in a_queue_engine(), mut seen in an_observation()) {
        if fresh(&seen).is_none_or(|value| value == 0.0) {
            seen.counts.busy = seen.counts.busy.max(1);
        }
        seen.max = seen.max.max(1);
        prop_assert!(engine.decide(&seen).desired > 0);
    }

    #[test]
    fn a_worker_that_does_not_say_is_held_unless_the_reading_counts_its_work(engine in a_queue_engine(), mut seen in an_observation()) {
        seen.counts.unknown = seen.counts.unknown.max(1);
        seen.max = seen.max.max(1);
        if fresh(&seen) == Some(0.0) {
            seen.readings.entry(jobs()).and_modify(|jobs| jobs.covers_in_progress = false);
        }
        prop_assert!(engine.decide(&seen).desired > 0);
    }

    #[test]
    fn more_work_never_means_fewer_workers(engine in a_queue_engine(), seen in an_observation(), one in a_value(), other in a_value()) {
        let desired = |value| {
            let mut seen = seen.clone();
            let covers = seen.readings.get(&jobs()).is_some_and(|seen| seen.covers_in_progress);
            seen.readings.insert(jobs(), reading(Status::Fresh { value }, covers));
            engine.decide(&seen).desired
        };
        let (less, more) = (one.min(other), one.max(other));
        prop_assert!(desired(less) <= desired(more), "{} at {less}, {} at {more}", desired(less), desired(more));
    }

    #[test]
    fn growth_waits_for_growth(engine in a_queue_engine(), mut seen in an_observation()) {
        seen.target = seen.target.max(seen.min).max(1);
        if seen.counts.capacity >= seen.target {
            seen.counts.pending = seen.counts.pending.max(1);
        }
        prop_assert!(engine.decide(&seen).desired <= seen.target);
    }
}

//! Each invariant is broken in every way that is checked, and kept by the nearest thing that is allowed.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::id::{InstanceId, LaunchId, PoolName};
use crate::instance::{Cause, Drain, Ending, Instance, Work};
use crate::life::State;
use crate::pool::Pool;
use crate::reason::Reason;
use crate::time::Timestamp;

const SECOND: Duration = Duration::from_secs(1);

fn instance(state: State) -> Instance {
    let id = InstanceId(Uuid::from_u128(1));
    let text = format!(
        r#"{{"id": "{id}", "pool": "web", "launch": "{id}", "index": 0, "site": "here", "state": "{state}", "version": 1,
            "created_at": 0, "state_since": 0, "ready_at": 0, "machine": "m"}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn with(state: State, change: impl FnOnce(&mut Instance)) -> Instance {
    let mut instance = instance(state);
    instance.version = 2;
    change(&mut instance);
    instance
}

fn ended(why: Cause, work: Work, deadline: i64) -> Instance {
    with(State::Terminating, |instance| {
        instance.ending = Some(Ending {
            since: Timestamp(5),
            why,
            work,
            drained_for: None,
        });
        instance.drain = Some(Drain {
            since: Timestamp(0),
            deadline: Timestamp(deadline),
            why: Cause::ScaleIn,
        });
    })
}

fn pool() -> Pool {
    let text = r#"{
        "name": "web", "template_version": "t@1", "origin": {"is": "operator"}, "revision": 1, "added_at": 0,
        "template": {"run": ["w"], "machine": {"price": 0.25}},
        "spec": {"template": "t", "max": 10, "engine": {"keep": {"n": 1}},
                 "placements": [{"site": "here"}, {"site": "there", "machine": {"price": 1.5}}]}
    }"#;
    serde_json::from_str(text).unwrap()
}

fn course(serving: u32, others: u32, since: Option<i64>) -> Option<Violation> {
    let course = Course {
        target: 3,
        serving,
        others,
        unhindered_since: since.map(Timestamp),
    };
    converged(&pool().name, &course, Timestamp(10_001), 10 * SECOND)
}

fn launch() -> LaunchId {
    LaunchId(Uuid::from_u128(7))
}

fn called(instances: &[InstanceId], recorded: Option<(&[InstanceId], u64)>) -> Option<Violation> {
    let recorded = recorded.map(|(instances, epoch)| Intention { instances, epoch });
    intended(launch(), Intention { instances, epoch: 3 }, recorded)
}

/// What breaks an invariant, and what keeps it.
fn cases(invariant: Invariant) -> (Vec<Option<Violation>>, Vec<Option<Violation>>) {
    let id = InstanceId(Uuid::from_u128(1));
    let other = InstanceId(Uuid::from_u128(2));
    match invariant {
        Invariant::I1 => (
            vec![one_machine(id, 2), swept("m", Timestamp(0), Timestamp(1_001), SECOND)],
            vec![one_machine(id, 1), swept("m", Timestamp(0), Timestamp(1_000), SECOND)],
        ),
        Invariant::I2 => (
            vec![within_max(9, 2, 10), within_max(u32::MAX, 1, 10)],
            vec![within_max(8, 2, 10), within_max(12, 0, 10)],
        ),
        Invariant::I3 => (
            vec![
                no_busy_ended(&ended(Cause::ScaleIn, Work::Unknown, 5)),
                no_busy_ended(&ended(Cause::DrainDeadline, Work::Busy, 6)),
            ],
            vec![
                no_busy_ended(&ended(Cause::ScaleIn, Work::Idle, 5)),
                no_busy_ended(&ended(Cause::DrainDeadline, Work::Busy, 5)),
                no_busy_ended(&ended(Cause::Operator, Work::Busy, 5)),
            ],
        ),
        Invariant::I4 => {
            let times = [0, 10, 20, 70].map(|s| Timestamp(s * 1_000));
            (
                vec![within_replacement_limit(&times, 2, 60 * SECOND)],
                vec![within_replacement_limit(&times, 3, 60 * SECOND)],
            )
        }
        Invariant::I5 => {
            let stuck = with(State::Pending, |instance| instance.deadline = Some(Timestamp(1_000)));
            let drains = with(State::Running, |instance| {
                instance.drain = ended(Cause::ScaleIn, Work::Idle, 1_000).drain;
            });
            (
                vec![
                    deadline_kept(&stuck, Timestamp(2_001), SECOND),
                    deadline_kept(&drains, Timestamp(2_001), SECOND),
                ],
                vec![
                    deadline_kept(&stuck, Timestamp(2_000), SECOND),
                    deadline_kept(&drains, Timestamp(2_000), SECOND),
                    deadline_kept(&with(State::Terminated, |_| {}), Timestamp(9_000), SECOND),
                ],
            )
        }
        Invariant::I6 => (
            vec![course(2, 0, Some(0)), course(3, 1, Some(0)), course(4, 0, Some(0))],
            vec![course(3, 0, Some(0)), course(2, 0, Some(1)), course(2, 0, None)],
        ),
        Invariant::I7 => {
            let running = instance(State::Running);
            (
                vec![
                    called(&[id], None),
                    called(&[id], Some((&[other], 3))),
                    called(&[id], Some((&[id], 2))),
                    ended_as_recorded("m", Some(&running)),
                    newest_term(launch(), 2, 3),
                ],
                vec![
                    called(&[id], Some((&[id], 3))),
                    ended_as_recorded("m", None),
                    ended_as_recorded("m", Some(&instance(State::Terminating))),
                    newest_term(launch(), 3, 3),
                    newest_term(launch(), 0, 3),
                ],
            )
        }
        Invariant::I8 => {
            let (pool, why) = (pool().name, [Reason::new("keep", "5 are kept")]);
            (
                vec![
                    reproduces(&pool, (5, &why), None),
                    reproduces(&pool, (5, &why), Some((4, &why))),
                    reproduces(&pool, (5, &why), Some((5, &[]))),
                ],
                vec![reproduces(&pool, (5, &why), Some((5, &why)))],
            )
        }
        Invariant::I9 => (
            vec![no_blind_shrink(5, 4, 10, false)],
            vec![
                no_blind_shrink(5, 4, 10, true),
                no_blind_shrink(5, 4, 4, false),
                no_blind_shrink(5, 6, 10, false),
            ],
        ),
        Invariant::I10 => (
            vec![within_budget(0.9, 0.2, 0.0, 1.0), within_budget(0.9, 0.2, 0.1, 1.0)],
            vec![
                within_budget(0.9, 0.1, 0.0, 1.0),
                within_budget(0.9, 0.2, 0.2, 1.0),
                within_budget(5.0, 0.0, 0.0, 1.0),
                within_budget((1..=9).map(|_| 0.1).sum(), 0.1, 0.0, 1.0),
            ],
        ),
        Invariant::I11 => (
            vec![unchanged("pool.pause", &[1, 2], &[1, 3])],
            vec![unchanged("pool.pause", &[1, 2], &[1, 2])],
        ),
        Invariant::I12 => {
            let gone = with(State::Terminated, |_| {});
            let never_there = with(State::Terminated, |instance| instance.machine = None);
            (
                vec![
                    moved_legally(&instance(State::Running), &with(State::Pending, |_| {})),
                    moved_legally(&instance(State::Terminating), &never_there),
                    confirmed_gone(&gone, false),
                    nobody_stays(1),
                ],
                vec![
                    moved_legally(&instance(State::Terminating), &gone),
                    confirmed_gone(&gone, true),
                    confirmed_gone(&instance(State::Terminating), false),
                    nobody_stays(0),
                ],
            )
        }
    }
}

#[test]
fn each_can_be_broken_and_is_silent_when_kept() {
    for invariant in ALL {
        let (broken, kept) = cases(invariant);
        assert!(!broken.is_empty() && !kept.is_empty());
        for (n, violation) in broken.iter().enumerate() {
            let found = violation.as_ref().map(|violation| violation.invariant);
            assert_eq!(found, Some(invariant), "case {n} that breaks {invariant:?}");
        }
        for (n, violation) in kept.iter().enumerate() {
            assert_eq!(*violation, None, "case {n} that keeps {invariant:?}");
        }
    }
}

#[test]
fn every_process_counts_all_of_them_from_zero() {
    let violations = Violations::new().unwrap();
    let shared = violations.clone();
    let registry = prometheus::Registry::new();
    for collector in violations.all() {
        registry.register(collector).unwrap();
    }
    let shown = || -> Vec<(String, f64)> {
        let families = registry.gather();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        metrics
            .map(|metric| (metric.get_label()[0].value().to_owned(), metric.get_counter().get_value()))
            .collect()
    };
    assert_eq!(shown().len(), ALL.len());
    assert!(shown().iter().all(|(_, n)| *n == 0.0));
    for _ in 0..100 {
        shared.count(&nobody_stays(2).unwrap());
    }
    assert_eq!((violations.of(Invariant::I12), violations.of(Invariant::I1)), (100, 0));
    let kept = violations.take_kept();
    assert_eq!(kept.len(), 20, "texts are bounded");
    assert_eq!(violations.take_kept(), []);
}

#[test]
fn what_a_pool_costs_is_counted_by_placement() {
    let pool = pool();
    assert_eq!((pool.price_of("here"), pool.price_of("there")), (0.25, 1.5));
    assert_eq!(pool.price_of("gone"), 1.5, "the dearest: it is not to cost more than is thought");
    assert!((spend(&pool, [("here", 4), ("there", 2)]) - 4.0).abs() < 1e-9);
}

#[test]
fn the_bound_follows_from_the_settings() {
    let mut pool = pool();
    let usual = converge_within(&pool);
    // Ready, stop, boot, really missing, window, cooldown-down, stabilization, and the rest.
    assert_eq!(usual, Duration::from_secs(600 + 10 + 300 + 15 + 60 + 30 + 60 + 300));
    pool.template.ready_within = crate::time::Span::secs(60);
    assert_eq!(converge_within(&pool), usual - Duration::from_secs(540));
    assert!(holds_up("no-room") && holds_up("budget") && !holds_up("bounds"));
    assert_eq!(PoolName::new("web").unwrap(), pool.name);
}

use std::collections::BTreeMap;
use std::sync::Arc;

use epu_core::Span;
use epu_core::instance::{Cause, Drain};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;

const KEEP: Keep = Keep {
    ended: Duration::from_secs(600),
    silent: Duration::from_secs(3_600),
};

fn id(number: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(number))
}

fn pool() -> PoolName {
    PoolName::new("web").unwrap()
}

fn instance(number: u128, state: State, version: u64) -> Instance {
    serde_json::from_value(json!({
        "id": id(number), "pool": "web", "launch": Uuid::from_u128(7), "index": 0, "site": "here",
        "state": state, "version": version, "created_at": 0, "state_since": 0,
    }))
    .unwrap()
}

fn told(instances: impl IntoIterator<Item = Instance>, complete: bool) -> Instances {
    Instances {
        changed: instances.into_iter().map(Arc::new).collect(),
        complete,
        ..Instances::default()
    }
}

fn beat(number: u128, sequence: u64) -> Heartbeat {
    Heartbeat {
        instance: id(number),
        sequence,
        started_at_ms: 1_000,
        sent_at_ms: -5,
        condition: Condition::Ok,
        work: Work::Idle,
        work_for_ms: 2_000,
        draining: false,
        readings: BTreeMap::new(),
    }
}

fn reporting(number: u128, sequence: u64, name: &str, value: f64) -> Heartbeat {
    Heartbeat {
        readings: BTreeMap::from([(SensorName::new(name).unwrap(), value)]),
        ..beat(number, sequence)
    }
}

/// Listens since 0 and knows running instances 1 to `count`.
fn knowing(count: u128) -> Window {
    let mut window = Window::new("one", Timestamp(0), KEEP);
    window.instances(&told((1..=count).map(|n| instance(n, State::Running, 1)), true), Timestamp(0));
    window
}

#[test]
fn what_is_heard_is_told_once_with_its_age() {
    let mut window = knowing(2);
    assert_eq!(window.hear(&beat(1, 1), Timestamp(1_000)), Ok(Orders::default()));
    let pages = window.snapshot(Timestamp(1_700), false);
    assert_eq!(pages.len(), 1);
    assert_eq!((pages[0].listening_for_ms, pages[0].complete), (1_700, false));
    let heard = &pages[0].instances;
    assert_eq!(heard.len(), 1);
    assert_eq!((heard[0].instance, heard[0].ago_ms, heard[0].work), (id(1), 700, Work::Idle));
    assert_eq!(heard[0].work_for_ms, 2_700, "an age, as of the snapshot");
    assert_eq!(heard[0].sent_at, Timestamp(-5), "shown as it came");
    let nothing_new = window.snapshot(Timestamp(2_000), false);
    assert_eq!((nothing_new.len(), nothing_new[0].instances.len()), (1, 0));
    let all = window.snapshot(Timestamp(3_000), true);
    assert_eq!((all[0].instances.len(), all[0].complete), (1, true));
    assert_eq!(all[0].instances[0].ago_ms, 2_000);
}

#[test]
fn an_old_or_repeated_heartbeat_changes_nothing() {
    let mut window = knowing(1);
    window.hear(&beat(1, 5), Timestamp(1_000)).unwrap();
    window.snapshot(Timestamp(1_000), false);
    for sequence in [5, 4, 0] {
        assert_eq!(window.hear(&beat(1, sequence), Timestamp(2_000)), Err(Refusal::OutOfOrder));
    }
    let older_process = Heartbeat {
        started_at_ms: 999,
        ..beat(1, 9)
    };
    assert_eq!(window.hear(&older_process, Timestamp(2_000)), Err(Refusal::OutOfOrder));
    assert!(window.snapshot(Timestamp(2_000), false)[0].instances.is_empty());
}

#[test]
fn a_restarted_agent_counts_from_one_again() {
    let mut window = knowing(1);
    window.hear(&beat(1, 500), Timestamp(1_000)).unwrap();
    let restarted = Heartbeat {
        started_at_ms: 1_001,
        ..beat(1, 1)
    };
    assert!(window.hear(&restarted, Timestamp(2_000)).is_ok());
    assert_eq!(window.hear(&beat(1, 501), Timestamp(3_000)), Err(Refusal::OutOfOrder));
}

#[test]
fn an_agent_restarted_after_its_clock_was_set_back_is_believed_once_the_other_is_silent() {
    let mut window = knowing(1);
    window.hear(&beat(1, 500), Timestamp(0)).unwrap();
    let from_the_past = |sequence| Heartbeat {
        started_at_ms: -1_000_000,
        ..beat(1, sequence)
    };
    assert_eq!(window.hear(&from_the_past(1), Timestamp(30_000)), Err(Refusal::OutOfOrder));
    assert!(window.hear(&from_the_past(2), Timestamp(30_001)).is_ok());
    assert!(window.hear(&from_the_past(3), Timestamp(30_002)).is_ok());
}

#[test]
fn a_sender_from_the_future_is_not_younger_for_it() {
    let mut window = knowing(1);
    let from_the_future = Heartbeat {
        sent_at_ms: i64::MAX,
        work_for_ms: u64::MAX,
        ..beat(1, u64::MAX)
    };
    window.hear(&from_the_future, Timestamp(1_000)).unwrap();
    let heard = &window.snapshot(Timestamp(5_000), false)[0].instances[0];
    assert_eq!(heard.ago_ms, 4_000);
    assert_eq!(heard.work_for_ms, 366 * 86_400_000 + 4_000);
}

#[test]
fn nobody_listens_until_every_live_instance_is_known() {
    let mut window = Window::new("one", Timestamp(0), KEEP);
    assert_eq!(window.hear(&beat(1, 1), Timestamp(500)), Err(Refusal::NotYetKnown));
    window.instances(&told([instance(1, State::Running, 1)], false), Timestamp(1_000));
    assert!(window.hear(&beat(1, 2), Timestamp(1_500)).is_ok());
    assert_eq!(window.hear(&beat(2, 1), Timestamp(1_500)), Err(Refusal::NotYetKnown));
    assert_eq!(window.snapshot(Timestamp(60_000), true)[0].listening_for_ms, 0);
    window.instances(&told([], true), Timestamp(60_000));
    assert_eq!(window.hear(&beat(2, 1), Timestamp(60_000)), Err(Refusal::UnknownInstance));
    assert_eq!(window.snapshot(Timestamp(61_000), false)[0].listening_for_ms, 1_000);
    window.missed(Timestamp(70_000));
    assert_eq!(window.snapshot(Timestamp(71_000), false)[0].listening_for_ms, 1_000);
}

#[test]
fn orders_follow_the_newest_record() {
    let mut window = knowing(1);
    let drain = Drain {
        since: Timestamp(10),
        deadline: Timestamp(20),
        why: Cause::ScaleIn,
    };
    let draining = Instance {
        drain: Some(drain.clone()),
        ..instance(1, State::Running, 3)
    };
    window.instances(&told([draining], false), Timestamp(0));
    window.instances(&told([instance(1, State::Running, 2)], false), Timestamp(0)); // late
    assert_eq!(window.hear(&beat(1, 1), Timestamp(1)).unwrap().drain, Some(drain));
    window.instances(&told([instance(1, State::Running, 4)], false), Timestamp(0)); // withdrawn
    assert_eq!(window.hear(&beat(1, 2), Timestamp(2)), Ok(Orders::default()));
    for (version, state) in [(5, State::RunningFailed), (6, State::Terminating), (7, State::Terminated)] {
        window.instances(&told([instance(1, state, version)], false), Timestamp(0));
        let orders = window.hear(&beat(1, version), Timestamp(3)).unwrap();
        assert_eq!(orders.stop, state >= State::Terminating, "{state}");
    }
}

#[test]
fn an_ended_instance_is_heard_told_to_stop_and_forgotten_when_it_falls_silent() {
    let mut window = knowing(1);
    window.instances(&told([instance(1, State::Terminated, 2)], false), Timestamp(0));
    assert_eq!(window.counts(), (0, 1));
    let minutes = |n: i64| Timestamp(n * 60_000);
    window.forget(minutes(10));
    assert!(window.hear(&beat(1, 1), minutes(10)).unwrap().stop);
    assert_eq!(
        window.snapshot(minutes(10), false)[0].instances.len(),
        1,
        "who decides must know of the zombie"
    );
    window.forget(minutes(20));
    assert_eq!(window.counts(), (0, 1));
    window.forget(minutes(21));
    assert_eq!(window.counts(), (0, 0));
    assert_eq!(window.hear(&beat(1, 2), minutes(21)), Err(Refusal::UnknownInstance));
    assert_eq!(window.snapshot(minutes(21), true)[0].instances, []);
}

#[test]
fn a_live_instance_is_forgotten_only_after_long_silence_on_both_sides() {
    let mut window = knowing(1);
    let minutes = |n: i64| Timestamp(n * 60_000);
    window.hear(&beat(1, 1), minutes(50)).unwrap();
    window.forget(minutes(110));
    assert_eq!(window.counts(), (1, 0));
    window.forget(minutes(111));
    assert_eq!(window.counts(), (0, 0));
}

#[test]
fn what_breaks_a_limit_is_refused_whole() {
    let mut window = knowing(1);
    let fault = |code: &'static str, text: usize| Condition::ProcessError(Box::new(Fault::new(code, "x".repeat(text))));
    let many = (0..=READINGS_MAX).map(|n| (SensorName::new(&format!("r{n}")).unwrap(), 1.0));
    for malformed in [
        Heartbeat {
            readings: many.collect(),
            ..beat(1, 1)
        },
        reporting(1, 1, "load", f64::NAN),
        reporting(1, 1, "load", f64::INFINITY),
        Heartbeat {
            condition: fault("worker-failed", FAULT_MAX),
            ..beat(1, 1)
        },
    ] {
        assert!(
            matches!(window.hear(&malformed, Timestamp(0)), Err(Refusal::Malformed(_))),
            "{malformed:?}"
        );
    }
    assert!(window.snapshot(Timestamp(0), true)[0].instances.is_empty());
    let at_the_limit = Heartbeat {
        condition: fault("f", FAULT_MAX - 1),
        ..beat(1, 1)
    };
    assert!(window.hear(&at_the_limit, Timestamp(0)).is_ok());
}

#[test]
fn pages_hold_a_thousand_and_only_the_last_is_complete() {
    let mut window = knowing(2_500);
    for number in 1..=2_500 {
        window.hear(&beat(number, 1), Timestamp(0)).unwrap();
    }
    for complete in [false, true] {
        let pages = window.snapshot(Timestamp(0), complete);
        let sizes: Vec<_> = pages.iter().map(|page| (page.instances.len(), page.complete)).collect();
        assert_eq!(sizes, [(1_000, false), (1_000, false), (500, complete)]);
    }
}

#[test]
fn a_page_holds_only_so_much_text() {
    let mut window = knowing(300);
    for number in 1..=300 {
        let failed = Heartbeat {
            condition: Condition::ProcessError(Box::new(Fault::new("worker-failed", "x".repeat(4_000)))),
            ..beat(number, 1)
        };
        window.hear(&failed, Timestamp(0)).unwrap();
    }
    let pages = window.snapshot(Timestamp(0), false);
    assert_eq!(pages.iter().map(|page| page.instances.len()).sum::<usize>(), 300);
    for page in &pages {
        assert!(serde_json::to_vec(page).unwrap().len() < 1_024 * 1_024);
    }
}

fn load(combine: Combine) -> HeartbeatSensor {
    HeartbeatSensor {
        reading: SensorName::new("load").unwrap(),
        combine,
    }
}

#[test]
fn workers_that_do_not_report_do_not_count() {
    let mut window = knowing(5);
    window.instances(
        &told([instance(6, State::Pending, 1), instance(7, State::Terminating, 1)], false),
        Timestamp(0),
    );
    window.hear(&reporting(1, 1, "load", 0.0), Timestamp(0)).unwrap(); // old by the time it counts
    window.hear(&reporting(2, 1, "load", 3.0), Timestamp(20_000)).unwrap();
    window.hear(&reporting(3, 1, "load", 1.0), Timestamp(19_000)).unwrap();
    window.hear(&reporting(4, 1, "other", 9.0), Timestamp(20_000)).unwrap();
    window.hear(&reporting(7, 1, "load", 9.0), Timestamp(20_000)).unwrap(); // no longer running
    for (combine, value) in [(Combine::Mean, 2.0), (Combine::Sum, 4.0), (Combine::Max, 3.0)] {
        let together = window.together(&pool(), &load(combine), *Span::secs(15), Timestamp(21_000));
        assert_eq!(
            (together.value, together.reported, together.of),
            (Some((value, Timestamp(20_000))), 2, 5)
        );
    }
}

#[test]
fn when_no_worker_reports_there_is_no_value() {
    let mut window = knowing(2);
    window.hear(&reporting(1, 1, "load", 3.0), Timestamp(0)).unwrap();
    let key = (pool(), SensorName::new("busy").unwrap());
    window.readings_mut().watch(key.clone(), "heartbeat reading load".to_owned());
    for (now, value, fault) in [(1_000, Some(3.0), None), (16_000, None, Some("no-reports".to_owned()))] {
        let together = window.together(&key.0, &load(Combine::Sum), *Span::secs(15), Timestamp(now));
        window.readings_mut().record_together(&key, &together);
        let report = &window.snapshot(Timestamp(now), false)[0].sensors[0];
        assert_eq!(report.value, value);
        assert_eq!(report.fault.as_ref().map(|f| f.code.to_string()), fault);
        assert_eq!((report.reported, report.of), (u32::from(value.is_some()), 2));
    }
    let elsewhere = window.together(&PoolName::new("none").unwrap(), &load(Combine::Sum), *Span::secs(15), Timestamp(0));
    assert_eq!((elsewhere.value, elsewhere.of), (None, 0));
}

#[test]
fn a_small_pool_among_many_others_is_put_together_alike() {
    let mut window = knowing(4);
    for number in 1..=4 {
        window.hear(&reporting(number, 1, "load", 0.1), Timestamp(0)).unwrap();
    }
    let alone = window.together(&pool(), &load(Combine::Sum), *Span::secs(15), Timestamp(0));
    let others = (5..100).map(|number| Instance {
        pool: PoolName::new("other").unwrap(),
        ..instance(number, State::Running, 1)
    });
    window.instances(&told(others, false), Timestamp(0));
    assert_eq!(window.together(&pool(), &load(Combine::Sum), *Span::secs(15), Timestamp(0)), alone);
}

proptest! {
    /// Whatever the order in which heartbeats arrive, the newest is what is told, and no age is negative.
    #[test]
    fn the_newest_heartbeat_wins_in_any_order(
        beats in prop::collection::vec((0i64..3, 0u64..8, 0i64..2_000), 1..60),
        asked_at in -10_000i64..20_000,
    ) {
        let mut window = knowing(1);
        let mut now = Timestamp(0);
        for (started_at_ms, sequence, later) in &beats {
            now = now + Duration::from_millis(later.unsigned_abs() / 8); // all within the silence after which older agents are believed
            let taken = Heartbeat { started_at_ms: *started_at_ms, sent_at_ms: started_at_ms * 100 + i64::try_from(*sequence).unwrap(), ..beat(1, *sequence) };
            let _refused_or_not = window.hear(&taken, now).is_ok();
        }
        let newest = beats.iter().map(|(started, sequence, _)| (*started, *sequence)).max().unwrap();
        let pages = window.snapshot(Timestamp(asked_at), true);
        let heard = &pages[0].instances[0];
        prop_assert_eq!(heard.sent_at.0, newest.0 * 100 + i64::try_from(newest.1).unwrap());
        prop_assert!(heard.ago_ms >= 0 && heard.work_for_ms >= 0 && pages[0].listening_for_ms >= 0);
    }

    /// Records merge to the same in any order.
    #[test]
    fn the_newest_record_wins_in_any_order(versions in prop::collection::vec(1u64..11, 1..30)) {
        let mut window = Window::new("one", Timestamp(0), KEEP);
        for version in &versions {
            let state = State::ALL[usize::try_from(*version).unwrap()];
            window.instances(&told([instance(1, state, *version)], true), Timestamp(0));
        }
        let newest = State::ALL[usize::try_from(*versions.iter().max().unwrap()).unwrap()];
        prop_assert_eq!(window.hear(&beat(1, 1), Timestamp(0)).unwrap().stop, newest >= State::Terminating);
        prop_assert_eq!(window.counts(), if newest.is_end() { (0, 1) } else { (1, 0) });
    }
}

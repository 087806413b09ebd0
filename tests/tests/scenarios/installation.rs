//! The installation as a whole: teardown, the store, operators, and decisions that can be looked back at.

use epu_core::State;
use epu_core::journal::Event;
use epu_core::request::{Caller, ContextClaim, Happened, Report, Request};
use epu_decision_engines::{Observation, Registry};
use epu_simulator::{Service, Setup, World, hours, millis, minutes, seconds};
use serde_json::json;

#[test]
fn teardown_ends_everything_and_launches_nothing_more() {
    let mut world = World::keeping(4);
    world.elapse(minutes(2)).tear_down(false).elapse(minutes(5));
    assert_eq!((world.live(), world.machines_there()), (0, 0));
    world
        .keep(6)
        .restart(Service::Controller)
        .restart(Service::Provisioner)
        .elapse(hours(1));
    assert_eq!((world.live(), world.machines_ever()), (0, 4));
    assert!(world.status().closed);
    assert_eq!(world.why(), ["keep", "closed"]);
}

#[test]
fn teardown_lets_busy_workers_finish() {
    let mut world = World::keeping(2);
    let busy = world.elapse(minutes(2)).any();
    world.occupy(&busy).elapse(seconds(10)).tear_down(false).elapse(minutes(10));
    assert_eq!(world.running(), [busy]);
    world.release(&busy).elapse(minutes(2));
    assert_eq!((world.live(), world.machines_there()), (0, 0));
}

#[test]
fn a_forced_teardown_does_not_wait() {
    let mut world = World::keeping(3);
    let busy = world.elapse(minutes(2)).any();
    world.occupy(&busy).elapse(seconds(10)).tear_down(true).elapse(minutes(1));
    assert_eq!((world.live(), world.machines_there()), (0, 0));
}

#[test]
fn a_teardown_in_the_middle_of_a_launch_leaves_nothing() {
    let mut world = World::keeping(0);
    world.cloud().calls_take(seconds(10));
    world.keep(3).elapse(seconds(3)).tear_down(false).elapse(minutes(5));
    assert_eq!((world.live(), world.machines_there()), (0, 0));
}

#[test]
fn an_opened_installation_comes_back() {
    let mut world = World::keeping(3);
    world
        .elapse(minutes(2))
        .tear_down(false)
        .elapse(minutes(5))
        .open()
        .elapse(minutes(2));
    assert_eq!((world.staying(), world.machines_there()), (3, 3));
    assert!(!world.status().closed);
}

#[test]
fn a_removed_pool_is_drained_and_forgotten() {
    let mut world = World::keeping(3);
    let busy = world.elapse(minutes(2)).any();
    world
        .protect(&busy, true)
        .occupy(&busy)
        .elapse(seconds(10))
        .remove(false)
        .elapse(minutes(5));
    assert_eq!(world.running(), [busy], "a busy one finishes first");
    world.release(&busy).elapse(minutes(2));
    assert_eq!((world.live(), world.machines_there()), (0, 0));
    assert!(world.happened(|event| matches!(event, Event::PoolForgotten)));
    assert!(world.status().pools.is_empty());
}

#[test]
fn a_store_that_fails_stops_what_must_be_recorded_and_harms_nobody() {
    let mut world = World::keeping(3);
    let before = world.elapse(minutes(2)).running();
    world.store_fails(Some("no space left on device"));
    assert_eq!(world.try_reconfigure("engine.keep.n", 6).unwrap_err().code, "store-failed");
    let killed = world.any();
    world.kill_worker(&killed).elapse(minutes(10));
    assert_eq!(
        (world.running(), world.machines_ever()),
        (before, 3),
        "nothing is done that cannot be recorded"
    );
    assert!(
        world.status().concerns.iter().any(|concern| concern.contains("no space left")),
        "{:?}",
        world.status().concerns
    );
    world.store_fails(None).elapse(minutes(3));
    assert_eq!(
        (world.state_of(&killed), world.staying()),
        (State::Terminated, 3),
        "it goes on by itself"
    );
    assert_eq!(world.pool().pool.revision, 1, "what was refused was not kept");
}

#[test]
fn a_store_that_fails_in_the_middle_of_everything_leaves_nothing_half_done() {
    for after in [0, 20, 100, 300, 1_000, 5_000, 21_000, 25_000] {
        let mut world = World::keeping(0);
        world
            .keep(3)
            .elapse(millis(after))
            .store_fails(Some("input/output error"))
            .elapse(minutes(2));
        world.store_fails(None).elapse(minutes(5));
        assert_eq!(
            (world.staying(), world.machines_there(), world.machines_ever()),
            (3, 3, 3),
            "failed after {after} ms"
        );
    }
}

#[test]
fn services_that_start_while_the_store_fails_come_up_when_it_works() {
    let mut world = World::keeping(2);
    world.elapse(minutes(2)).store_fails(Some("locked"));
    world.restart(Service::Controller).restart(Service::Provisioner).elapse(minutes(2));
    world.store_fails(None).elapse(minutes(2)).keep(3).elapse(minutes(2));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
}

#[test]
fn a_write_whose_reply_is_lost_doubles_nothing() {
    for writes in 1..4 {
        let mut world = World::keeping(1);
        world.elapse(minutes(2)).lose_store_replies(writes).keep(3).elapse(minutes(5));
        assert_eq!((world.staying(), world.machines_there()), (3, 3), "{writes} replies lost");
    }
}

#[test]
fn a_decision_whose_reply_is_lost_is_not_carried_out_a_second_time_after_a_restart() {
    let mut world = World::keeping(1);
    world
        .elapse(minutes(2))
        .lose_store_replies(1)
        .keep(3)
        .elapse(minutes(5))
        .restart(Service::Controller)
        .elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_ever()), (3, 3));
}

#[test]
fn a_cooldown_survives_a_restart_of_the_controller() {
    let shrinks = |restart: bool| {
        let mut world = Setup::following_queue(2, 8)
            .with("min", 1)
            .with("limits.cooldown-down", "20m")
            .with("limits.stabilization", "0s")
            .world();
        world.elapse(minutes(1)).submit(40, seconds(60)).elapse(minutes(8));
        world.until("it begins to shrink", hours(1), |world| {
            world.happened(|event| matches!(event, Event::DrainOrdered { .. }))
        });
        let begun = world.staying();
        if restart {
            world.restart(Service::Controller);
        }
        world.elapse(minutes(15));
        (begun, world.staying())
    };
    let (begun, later) = shrinks(true);
    assert_eq!(begun, later, "the next step waits for its time, restart or not");
    assert_eq!(shrinks(false), (begun, later));
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut world = World::keeping(2);
    world.elapse(minutes(2));
    let (pool, before) = (world.pool().pool, world.records());
    for (path, value) in [
        ("engine.keep.n", json!(-1)),
        ("engine.keep.nn", json!(3)),
        ("max", json!(1)),
        ("limits.drain", json!("soon")),
        ("engine", json!({ "keep": { "n": 1 }, "queue-length": {} })),
        ("nothing.like.this", json!(1)),
    ] {
        assert!(world.try_reconfigure(path, value.clone()).is_err(), "{path} = {value} was taken");
    }
    let (one, two) = (before[0].id, before[1].id);
    let lie = |happened| Request::Report(Report { instance: one, happened });
    let ready = world.ask_as(Caller::Instance(two), lie(Happened::Ready { address: None }));
    assert_eq!(ready.unwrap_err().code, "forbidden", "nobody speaks for another");
    let claim = Request::Context(ContextClaim {
        launch: before[0].launch,
        index: before[0].index,
        nonce: "a thief".to_owned(),
    });
    let stolen = world.ask_as(Caller::Launch(before[0].launch), claim);
    assert_eq!(stolen.unwrap_err().code, "claim-refused", "an index is claimed once");
    world.elapse(minutes(2));
    assert_eq!(world.pool().pool, pool);
    assert_eq!(world.records(), before);
}

#[test]
fn every_recorded_decision_shown_again_to_its_engine_is_the_same() {
    let mut world = Setup::following_queue(2, 8).with("min", 1).world();
    world
        .elapse(minutes(2))
        .submit(100, seconds(30))
        .elapse(minutes(10))
        .restart(Service::Controller)
        .elapse(minutes(30));
    let settings = json!({ "sensor": "jobs", "low-water": 2, "high-water": 8 });
    let engine = Registry::standard().make("queue-length", &settings).unwrap();
    let decisions = world.decisions();
    assert!(decisions.len() > 10, "{}", decisions.len());
    for decided in decisions {
        let observed: Observation = serde_json::from_value(decided.observed.clone()).unwrap();
        let again = engine.decide(&observed);
        assert_eq!((again.desired, again.reasons), (decided.desired, decided.reasons));
    }
}

#[test]
fn an_operator_sees_why_in_the_newest_events() {
    let mut world = World::keeping(1);
    world.elapse(minutes(2)).keep(2).elapse(seconds(5));
    let events = world.events(20);
    assert!(
        events
            .iter()
            .any(|entry| matches!(&entry.event, Event::PoolChanged { revision: 2, .. }) && entry.who == "operator")
    );
    assert!(
        events
            .iter()
            .any(|entry| matches!(&entry.event, Event::Decided(decided) if decided.target == 2))
    );
}

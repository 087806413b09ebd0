//! Going: nobody's work is interrupted before its time.

use epu_core::State;
use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_core::pool::Paused;
use epu_simulator::{Service, Setup, World, minutes, seconds};

fn busy(n: u32, drain: &str) -> World {
    let mut world = Setup::keeping(n).without_cooldowns().with("limits.drain", drain).world();
    world.elapse(minutes(2));
    for id in world.running() {
        world.occupy(&id);
    }
    world.elapse(seconds(10));
    world
}

#[test]
fn a_busy_worker_finishes_before_it_goes() {
    let mut world = busy(3, "1h");
    world.keep(2).elapse(minutes(30));
    assert_eq!((world.staying(), world.count(State::Running)), (2, 3), "it drains");
    let draining = world.running().into_iter().find(|id| world.record(id).is_leaving()).unwrap();
    world.release(&draining).elapse(minutes(1));
    let ending = world.record(&draining).ending.clone().unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::Drained, Some(Cause::ScaleIn)));
    assert_eq!(world.machines_there(), 2);
}

#[test]
fn one_that_does_not_finish_is_ended_at_the_deadline() {
    let mut world = busy(3, "10m");
    world.keep(2).elapse(minutes(9));
    assert_eq!(world.count(State::Running), 3);
    world.elapse(minutes(2));
    assert_eq!(world.count(State::Running), 2);
    let ended = world
        .records()
        .into_iter()
        .find(|record| record.state >= State::Terminating)
        .unwrap();
    assert_eq!(ended.ending.as_ref().map(|ending| ending.why), Some(Cause::DrainDeadline));
}

#[test]
fn the_drain_deadline_holds_though_the_controller_is_away() {
    let mut world = busy(3, "10m");
    world.keep(2).elapse(minutes(1)).crash(Service::Controller).elapse(minutes(12));
    assert_eq!(world.count(State::Running), 2);
}

#[test]
fn the_drain_deadline_holds_though_the_provisioner_was_restarted() {
    let mut world = busy(3, "10m");
    world.keep(2).elapse(minutes(1)).restart(Service::Provisioner).elapse(minutes(12));
    assert_eq!(world.count(State::Running), 2);
}

#[test]
fn a_worker_that_ignores_the_order_is_ended_at_the_deadline() {
    let mut world = Setup::keeping(2).without_cooldowns().with("limits.drain", "5m").world();
    world.workers(|worker| worker.ignores_drain = true).elapse(minutes(2));
    world.keep(1).elapse(minutes(4));
    assert_eq!(world.count(State::Running), 2);
    world.elapse(minutes(3));
    assert_eq!((world.count(State::Running), world.machines_there()), (1, 1));
}

#[test]
fn an_order_that_has_not_reached_the_worker_is_withdrawn_when_it_is_needed_again() {
    let mut world = busy(3, "1h");
    // Orders travel with the answers to heartbeats: while those are cut off no worker hears of any.
    world.net().cut_agents_from(Service::Aggregator, true);
    world.elapse(seconds(6)).keep(2).elapse(seconds(10));
    assert_eq!(world.staying(), 2);
    world.keep(3).elapse(seconds(10));
    world.net().cut_agents_from(Service::Aggregator, false);
    world.elapse(minutes(5));
    assert!(world.happened(|event| matches!(event, Event::DrainWithdrawn)));
    assert_eq!(
        (world.staying(), world.machines_ever()),
        (3, 3),
        "nothing was launched in its place"
    );
}

#[test]
fn a_worker_that_was_told_goes_and_another_comes() {
    let mut world = busy(3, "1h");
    world.keep(2).elapse(minutes(1)).keep(3).elapse(minutes(3));
    assert!(!world.happened(|event| matches!(event, Event::DrainWithdrawn)));
    assert_eq!((world.staying(), world.machines_ever()), (3, 4));
}

#[test]
fn a_protected_instance_is_not_chosen() {
    let mut world = Setup::keeping(3).without_cooldowns().world();
    world.elapse(minutes(2));
    let all = world.running();
    // The first two would be the first to go: they have been idle for longest.
    world.protect(&all[0], true).protect(&all[1], true).keep(1).elapse(minutes(5));
    assert_eq!(world.state_of(&all[2]), State::Terminated);
    assert_eq!((world.state_of(&all[0]), world.state_of(&all[1])), (State::Running, State::Running));
    assert!(world.why().contains(&"protected".to_owned()), "{:?}", world.why());
    world.protect(&all[0], false).elapse(minutes(5));
    assert_eq!(world.running(), [all[1]]);
}

#[test]
fn a_protected_instance_that_fails_is_replaced_all_the_same() {
    let mut world = World::keeping(2);
    let one = world.elapse(minutes(2)).any();
    world.protect(&one, true).kill_worker(&one).elapse(minutes(3));
    assert_eq!((world.state_of(&one), world.staying()), (State::Terminated, 2));
}

#[test]
fn idle_workers_go_before_busy_ones() {
    let mut world = Setup::keeping(4).without_cooldowns().world();
    world.elapse(minutes(2));
    let all = world.running();
    world.occupy(&all[0]).occupy(&all[2]).elapse(seconds(10)).keep(2).elapse(minutes(2));
    assert_eq!(world.running(), [all[0], all[2]]);
}

#[test]
fn a_pause_holds_what_it_names_and_nothing_else() {
    let pause = |grow, shrink, replace| Paused {
        grow,
        shrink,
        replace,
        why: "holiday".to_owned(),
    };

    let mut world = Setup::keeping(3).without_cooldowns().world();
    world.elapse(minutes(2)).pause(pause(true, false, false)).keep(5).elapse(minutes(5));
    assert_eq!(world.staying(), 3);
    assert!(world.why().contains(&"paused-grow".to_owned()), "{:?}", world.why());
    let one = world.any();
    world.kill_worker(&one).elapse(minutes(3));
    assert_eq!(world.staying(), 3, "replacing goes on");
    world.resume().elapse(minutes(3));
    assert_eq!(world.staying(), 5);

    world.pause(pause(false, true, false)).keep(2).elapse(minutes(5));
    assert_eq!(world.staying(), 5);
    world.resume().elapse(minutes(3));
    assert_eq!(world.staying(), 2);

    world.pause(pause(false, false, true));
    let one = world.any();
    world.kill_worker(&one).elapse(minutes(10));
    assert_eq!(world.state_of(&one), State::Running, "it keeps its place");
    world.resume().elapse(minutes(3));
    assert_eq!((world.state_of(&one), world.staying()), (State::Terminated, 2));
}

#[test]
fn a_pause_survives_a_restart_of_the_controller() {
    let mut world = Setup::keeping(3).without_cooldowns().world();
    world
        .elapse(minutes(2))
        .pause(Paused {
            shrink: true,
            ..Paused::default()
        })
        .keep(1);
    world.restart(Service::Controller).elapse(minutes(10));
    assert_eq!(world.staying(), 3);
}

#[test]
fn one_that_is_lost_while_it_drains_is_not_replaced() {
    let mut world = busy(3, "1h");
    world.keep(2).elapse(minutes(1));
    let draining = world.running().into_iter().find(|id| world.record(id).is_leaving()).unwrap();
    world.lose_machine(&draining).elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_ever()), (2, 3));
}

//! A number is kept.

use epu_core::State;
use epu_core::instance::Cause;
use epu_simulator::{Service, Setup, World, minutes, seconds};

#[test]
fn a_pool_of_three_comes_up() {
    let mut world = World::keeping(3);
    world.elapse(minutes(2));
    assert_eq!(world.count(State::Running), 3);
    assert_eq!((world.live(), world.machines_there()), (3, 3));
    assert_eq!(world.why(), ["keep"]);
}

#[test]
fn a_pool_follows_its_number_up_and_down() {
    let mut world = Setup::keeping(3).without_cooldowns().world();
    world.elapse(minutes(2));
    world.keep(6).elapse(minutes(2));
    assert_eq!(world.count(State::Running), 6);
    world.keep(2).elapse(minutes(2));
    assert_eq!((world.count(State::Running), world.count(State::Terminated)), (2, 4));
    assert_eq!(world.machines_there(), 2);
}

#[test]
fn a_worker_that_falls_silent_is_replaced() {
    let mut world = World::keeping(3);
    let silenced = world.elapse(minutes(10)).silence_one();
    world.elapse(minutes(10));
    assert_eq!(world.count(State::Running), 3);
    assert_eq!(world.state_of(&silenced), State::Terminated);
}

#[test]
fn a_worker_that_is_killed_is_replaced() {
    let mut world = World::keeping(3);
    let killed = world.elapse(minutes(2)).any();
    world.kill_worker(&killed).elapse(minutes(2));
    assert_eq!(world.count(State::Running), 3);
    assert_eq!(
        world.record(&killed).ending.as_ref().map(|ending| ending.why),
        Some(Cause::Unhealthy)
    );
    assert_eq!(world.machines_there(), 3);
}

#[test]
fn a_controller_that_is_killed_and_started_again_changes_nothing() {
    let mut world = World::keeping(3);
    let before = world.elapse(minutes(2)).running();
    world
        .crash(Service::Controller)
        .elapse(seconds(30))
        .start(Service::Controller)
        .elapse(minutes(10));
    assert_eq!(world.running(), before);
    assert_eq!(world.machines_ever(), 3);
}

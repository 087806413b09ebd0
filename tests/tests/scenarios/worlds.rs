//! The simulation itself.

use epu_simulator::{Service, Setup, World, hours, minutes, seconds};

fn eventful(seed: u64) -> World {
    let mut world = Setup::following_queue(2, 8).with("min", 2).seed(seed).world();
    world.elapse(minutes(3)).submit(200, seconds(20)).elapse(minutes(5));
    let silenced = world.silence_one();
    world.restart(Service::Controller).elapse(minutes(5));
    world
        .let_speak(&silenced)
        .crash(Service::Provisioner)
        .elapse(minutes(1))
        .start(Service::Provisioner);
    world.elapse(minutes(20));
    world
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_byte() {
    let (one, two) = (eventful(7), eventful(7));
    assert!(one.transcript().lines().count() > 100, "{}", one.transcript());
    assert_eq!(one.transcript(), two.transcript());
    assert_eq!(format!("{:?}", one.journal()), format!("{:?}", two.journal()));
}

#[test]
fn another_seed_gives_another_run() {
    assert_ne!(eventful(7).transcript(), eventful(8).transcript());
}

#[test]
fn an_hour_is_short() {
    let mut world = World::keeping(10);
    world.elapse(hours(1));
    assert_eq!(world.running().len(), 10);
}

//! Each effect does what it says, ends when it is to end, and leaves what else is wrong as it is.

use super::*;
use crate::fault::{Fault, Lift, leaders, processes, stores};
use crate::pausable::{Edge, Side};
use crate::setup::Setup;
use crate::time::{minutes, seconds};

const CONTROLLER: Process = Process {
    service: Service::Controller,
    copy: 0,
};
const PROVISIONER: Process = Process {
    service: Service::Provisioner,
    copy: 0,
};

fn world() -> World {
    let mut world = Setup::keeping(1).without_cooldowns().world();
    world.elapse(minutes(1));
    world
}

fn begins(world: &mut World, fault: &Fault) -> Lift {
    let begun = fault.begin(world);
    assert!(begun.bit, "{fault}");
    begun.lift.unwrap()
}

fn is_nothing(world: &mut World, fault: processes::Fault) {
    let begun = Fault::Processes(fault).begin(world);
    assert!(!begun.bit && begun.lift.is_none(), "{begun:?}");
}

fn process(world: &mut World, fault: processes::Fault) -> Lift {
    begins(world, &Fault::Processes(fault))
}

fn commit(nth: u32) -> Doom {
    Doom::At {
        edge: Edge::Commit,
        side: Side::Before,
        nth,
    }
}

/// What the store knows of who leads, by epoch.
fn epoch(world: &World) -> u64 {
    let standing = world.standing();
    let lease = standing
        .leases
        .iter()
        .find(|lease| Domain::named(&lease.name) == Some(Domain::Provisioner));
    lease.unwrap().epoch
}

#[test]
fn whoever_is_dead_cannot_be_hurt_and_comes_back_once() {
    let mut world = world();
    let lift = process(&mut world, processes::Fault::Crash(CONTROLLER));
    for fault in [
        processes::Fault::Crash(CONTROLLER),
        processes::Fault::Restart(CONTROLLER),
        processes::Fault::Pause(CONTROLLER),
        processes::Fault::Halt(CONTROLLER),
        processes::Fault::StopAndStart(CONTROLLER),
        processes::Fault::CrashAt {
            process: CONTROLLER,
            doom: commit(1),
        },
    ] {
        is_nothing(&mut world, fault);
    }
    let clock = process(
        &mut world,
        processes::Fault::ClockWrong {
            process: CONTROLLER,
            by_ms: 5_000,
        },
    );
    world.elapse(seconds(30));
    clock(&mut world);
    assert!(!world.runs(CONTROLLER), "only what killed it brings it back");
    lift(&mut world);
    assert!(world.runs(CONTROLLER));
    world.elapse(seconds(20)).keep(2).elapse(minutes(2));
    assert_eq!(world.staying(), 2);
}

#[test]
fn a_doom_that_does_not_come_is_taken_back_and_one_that_came_ends_with_it() {
    let mut world = world();
    let at = |nth| processes::Fault::CrashAt {
        process: CONTROLLER,
        doom: commit(nth),
    };
    let name = world.member(CONTROLLER);
    let lift = process(&mut world, at(1_000));
    is_nothing(&mut world, at(1));
    world.elapse(seconds(30));
    lift(&mut world);
    assert_eq!(world.member(CONTROLLER), name);
    let lift = process(&mut world, at(1));
    drop(world.try_reconfigure("engine.keep.n", 3));
    world.elapse(seconds(5));
    assert!(!world.runs(CONTROLLER));
    lift(&mut world);
    assert_ne!(world.member(CONTROLLER), name);
    world.elapse(minutes(2));
    assert_eq!(world.staying(), 1, "it died before it wrote");
}

#[test]
fn a_doom_that_ends_does_not_wake_whoever_was_killed_otherwise() {
    let mut world = world();
    let doom = process(
        &mut world,
        processes::Fault::CrashAt {
            process: CONTROLLER,
            doom: commit(1_000),
        },
    );
    let crash = process(&mut world, processes::Fault::Crash(CONTROLLER));
    doom(&mut world);
    assert!(!world.runs(CONTROLLER));
    crash(&mut world);
    assert!(world.runs(CONTROLLER));
}

#[test]
fn what_is_held_twice_goes_on_when_it_was_let_go_twice() {
    let mut world = world();
    let one = process(&mut world, processes::Fault::Pause(PROVISIONER));
    let two = process(&mut world, processes::Fault::Halt(PROVISIONER));
    one(&mut world);
    world.keep(2).elapse(seconds(30));
    assert_eq!(world.machines_ever(), 1);
    two(&mut world);
    world.elapse(minutes(2));
    assert_eq!(world.machines_ever(), 2);
}

#[test]
fn what_was_held_and_died_meanwhile_is_left_alone_when_it_runs_again() {
    let mut world = world();
    let one = process(&mut world, processes::Fault::Pause(PROVISIONER));
    world.restart(PROVISIONER).elapse(seconds(10));
    let two = process(&mut world, processes::Fault::Pause(PROVISIONER));
    one(&mut world);
    world.keep(2).elapse(seconds(30));
    assert_eq!(world.machines_ever(), 1, "the second pause lasts");
    two(&mut world);
    world.elapse(minutes(1));
    assert_eq!(world.machines_ever(), 2);
}

#[test]
fn whoever_is_told_to_end_does_so_by_itself_and_one_that_stands_still_is_killed() {
    let mut world = world();
    let lift = process(&mut world, processes::Fault::StopAndStart(PROVISIONER));
    is_nothing(&mut world, processes::Fault::StopAndStart(PROVISIONER));
    world.elapse(seconds(20));
    assert!(!world.runs(PROVISIONER) && world.crashed.contains(&PROVISIONER));
    lift(&mut world);
    let pause = process(&mut world, processes::Fault::Pause(PROVISIONER));
    let lift = process(&mut world, processes::Fault::StopAndStart(PROVISIONER));
    world.elapse(seconds(20));
    assert!(world.runs(PROVISIONER), "it stands still");
    lift(&mut world);
    pause(&mut world);
    world.keep(2).elapse(minutes(2));
    assert_eq!(world.machines_ever(), 2);
}

#[test]
fn a_wall_clock_shows_in_what_begins_and_a_halt_in_what_runs() {
    let mut world = world();
    let offset = |world: &World| world.services[&PROVISIONER].clock.offset();
    let wrong = |by_ms| processes::Fault::ClockWrong {
        process: PROVISIONER,
        by_ms,
    };
    let one = process(&mut world, wrong(600_000));
    let two = process(&mut world, wrong(-100_000));
    assert_eq!(offset(&world), 500_000);
    one(&mut world);
    assert_eq!(offset(&world), -100_000);
    two(&mut world);
    assert_eq!(offset(&world), 0);
    let halt = process(&mut world, processes::Fault::Halt(PROVISIONER));
    world.elapse(minutes(3));
    halt(&mut world);
    world.elapse(minutes(1));
    assert_eq!(offset(&world), -180_000);
    world.restart(PROVISIONER);
    assert_eq!(offset(&world), 0);
}

#[test]
fn troubles_of_the_store_add_up_and_end_one_by_one() {
    let mut world = world();
    let away = begins(&mut world, &Fault::Stores(stores::Fault::Away));
    let again = begins(&mut world, &Fault::Stores(stores::Fault::Away));
    away(&mut world);
    assert!(world.ledger.is_barred(CONTROLLER));
    assert!(world.try_reconfigure("engine.keep.n", 2).is_err());
    world.restart(CONTROLLER).restart(PROVISIONER).elapse(seconds(20));
    again(&mut world);
    assert!(!world.ledger.is_troubled());
    world.elapse(seconds(30)).keep(2).elapse(minutes(2));
    assert_eq!(world.staying(), 2);
}

#[test]
fn a_cut_is_of_one_process() {
    let mut world = world();
    let cut = begins(&mut world, &Fault::Stores(stores::Fault::Cut(CONTROLLER)));
    assert!(world.ledger.is_barred(CONTROLLER) && !world.ledger.is_barred(PROVISIONER));
    let before = epoch(&world);
    world.elapse(minutes(1));
    assert_eq!(epoch(&world), before, "the provisioner goes on to lead");
    assert!(world.try_reconfigure("engine.keep.n", 2).is_err());
    cut(&mut world);
    world.elapse(minutes(1)).keep(2).elapse(minutes(2));
    assert_eq!(world.staying(), 2);
}

#[test]
fn writes_are_refused_or_done_unheard_as_it_was_said() {
    let refused = stores::Fault::Conflicts { whose: None, share: 1.0 };
    let unheard = stores::Fault::RepliesLost {
        whose: Some(CONTROLLER),
        share: 1.0,
    };
    for (trouble, staying) in [(refused, 1), (unheard, 2)] {
        let mut world = world();
        let lift = begins(&mut world, &Fault::Stores(trouble));
        assert!(world.try_reconfigure("engine.keep.n", 2).is_err());
        world.elapse(seconds(10));
        lift(&mut world);
        world.elapse(minutes(3));
        assert_eq!(world.staying(), staying);
    }
}

#[test]
fn a_slow_store_takes_up_to_as_long_as_was_said() {
    let mut world = world();
    let most = Span::secs(4);
    let slow = stores::Fault::Slow {
        whose: Some(CONTROLLER),
        most,
    };
    let lift = begins(&mut world, &Fault::Stores(slow));
    let began = world.now();
    drop(world.try_reconfigure("engine.keep.n", 2));
    let took = world.now().since(began);
    assert!(took > Duration::from_millis(200) && took < seconds(40), "{took:?}");
    lift(&mut world);
    world.elapse(minutes(1)).keep(2).elapse(minutes(2));
    assert_eq!(world.staying(), 2);
}

#[test]
fn leases_flap_until_they_do_not() {
    let mut world = world();
    let flap = leaders::Fault::Flap {
        service: Service::Provisioner,
        every: Span::secs(4),
    };
    let lift = begins(&mut world, &Fault::Leaders(flap));
    let before = epoch(&world);
    world.elapse(minutes(1));
    let during = epoch(&world);
    assert!(during >= before + 10, "{before} {during}");
    lift(&mut world);
    world.elapse(seconds(10));
    let after = epoch(&world);
    world.elapse(minutes(1));
    assert_eq!(epoch(&world), after);
    world.keep(2).elapse(minutes(2));
    assert_eq!(world.staying(), 2);
}

#[test]
fn a_leader_that_stood_still_believes_to_lead_and_the_epoch_is_another() {
    let mut world = world();
    let before = epoch(&world);
    let lift = begins(&mut world, &Fault::Leaders(leaders::Fault::TwoLeaders(PROVISIONER)));
    let stood_at = world.services[&PROVISIONER].clock.now();
    assert_eq!(epoch(&world), before + 1);
    world.elapse(minutes(2));
    lift(&mut world);
    assert_eq!(world.services[&PROVISIONER].clock.now(), stood_at, "no time has passed for it");
    world.keep(2).elapse(minutes(2));
    assert_eq!((world.staying(), world.machines_ever()), (2, 2));
}

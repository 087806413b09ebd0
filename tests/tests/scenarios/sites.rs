//! Sites that lie, machines that come back, agents and sensors that say what is not so.

use epu_core::State;
use epu_core::instance::{Cause, Work};
use epu_core::journal::Event;
use epu_provisioner::iaas::Class;
use epu_simulator::cloud::{Call, Trouble};
use epu_simulator::fault::Begun;
use epu_simulator::ill::Ill;
use epu_simulator::sensors::Mode;
use epu_simulator::{Setup, World, hours, minutes, seconds};

fn over(world: &mut World, begun: Begun) {
    assert!(begun.bit);
    begun.lift.unwrap()(world);
}

#[test]
fn a_list_that_is_short_for_five_minutes_loses_no_worker() {
    for trouble in [
        Trouble::ListsShort(0.5),
        Trouble::ListsShort(1.0),
        Trouble::Unlisted(0.5),
        Trouble::Untagged(1.0),
    ] {
        let mut world = World::keeping(6);
        let before = world.elapse(minutes(3)).running();
        let begun = world.trouble("here", trouble.clone());
        world.elapse(minutes(5));
        over(&mut world, begun);
        world.elapse(minutes(5));
        assert_eq!((world.running(), world.machines_ever()), (before, 6), "{trouble:?}");
    }
}

#[test]
fn machines_that_are_not_listed_while_they_come_up_are_found_and_none_is_launched_twice() {
    for trouble in [Trouble::ListsShort(1.0), Trouble::Unlisted(1.0), Trouble::Untagged(1.0)] {
        let mut world = Setup::keeping(0).without_cooldowns().world();
        let begun = world.elapse(minutes(1)).trouble("here", trouble.clone());
        let lost = world.trouble("here", Trouble::LosesAnswers(Call::Launch, 0.5));
        world.keep(5).elapse(minutes(5));
        over(&mut world, lost);
        over(&mut world, begun);
        world.elapse(minutes(10));
        assert_eq!((world.staying(), world.machines_there()), (5, 5), "{trouble:?}");
    }
}

#[test]
fn a_stale_list_resurrects_nothing() {
    let mut world = Setup::keeping(4).without_cooldowns().world();
    let begun = world.elapse(minutes(3)).trouble("here", Trouble::ListsLate(seconds(120)));
    world.keep(2).elapse(minutes(4));
    let ended = world.all_in(State::Terminated);
    assert_eq!((world.staying(), ended.len(), world.machines_there()), (2, 2, 2));
    world.keep(5).elapse(minutes(4));
    assert_eq!((world.staying(), world.machines_there(), world.machines_ever()), (5, 5, 7));
    over(&mut world, begun);
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_there(), world.machines_ever()), (5, 5, 7));
    assert_eq!(world.all_in(State::Terminated), ended);
    assert!(!world.happened(|event| matches!(event, Event::SweepAdopted { .. })));
}

#[test]
fn a_machine_that_comes_back_after_it_was_called_gone_is_ended_and_never_double() {
    let mut world = World::keeping(3);
    let gone = world.elapse(minutes(3)).any();
    let machine = world.machines().of(gone).unwrap();
    world.machines().call_gone(&machine);
    world.elapse(minutes(5));
    assert_eq!(
        (world.state_of(&gone), world.staying(), world.machines_there()),
        (State::Terminated, 3, 3)
    );
    world.machines().comes_back(&machine);
    assert_eq!(world.machines_there(), 4);
    world.elapse(minutes(3));
    assert_eq!(
        (world.state_of(&gone), world.staying(), world.machines_there()),
        (State::Terminated, 3, 3)
    );
    assert!(!world.is_there(&machine), "it is the one that was ended");
    assert!(world.happened(|event| matches!(event, Event::SweepTerminated { .. })));
}

#[test]
fn a_machine_that_is_called_gone_for_a_moment_is_kept() {
    let mut world = World::keeping(3);
    let gone = world.elapse(minutes(3)).any();
    let machine = world.machines().of(gone).unwrap();
    for _ in 0..20 {
        // Never for so long that it is said twice.
        world.machines().call_gone(&machine);
        world.elapse(seconds(2)).machines().comes_back(&machine);
        world.elapse(seconds(23));
    }
    assert_eq!((world.state_of(&gone), world.machines_ever()), (State::Running, 3));
}

#[test]
fn after_a_quota_and_a_lack_of_room_the_pool_is_what_it_should_be() {
    let mut world = Setup::keeping(0).without_cooldowns().world();
    let quota = world
        .elapse(minutes(1))
        .trouble("here", Trouble::Refuses(Call::Launch, Class::Quota, 1.0));
    world.keep(5).elapse(minutes(10));
    assert_eq!((world.live(), world.machines_ever()), (0, 0));
    over(&mut world, quota);
    let room = world.trouble("here", Trouble::Room(2));
    world.until("what there is room for runs", minutes(30), |world| world.staying() == 2);
    world.elapse(minutes(5));
    assert_eq!(world.machines_there(), 2);
    over(&mut world, room);
    world.until("all run", minutes(30), |world| world.staying() == 5);
    world.elapse(minutes(5));
    assert_eq!((world.live(), world.machines_there(), world.machines_ever()), (5, 5, 5));
}

#[test]
fn a_site_that_throttles_every_call_for_long_loses_nothing() {
    let mut world = Setup::keeping(3).without_cooldowns().world();
    world.elapse(minutes(3));
    let calls = [Call::Launch, Call::Terminate, Call::List, Call::Describe];
    let all = calls.map(|call| world.trouble("here", Trouble::Refuses(call, Class::Throttled, 0.8)));
    world.keep(6).elapse(minutes(10)).keep(2).elapse(minutes(10));
    for begun in all {
        over(&mut world, begun);
    }
    world.elapse(minutes(15));
    assert_eq!((world.staying(), world.machines_there()), (2, 2));
}

#[test]
fn what_an_unreachable_site_keeps_one_provisioner_from_is_done_when_it_is_reached() {
    let mut world = Setup::keeping(2).without_cooldowns().world();
    world.elapse(minutes(3));
    let cut = world.trouble("here", Trouble::Cut(epu_simulator::Service::Provisioner.into()));
    world.keep(4).elapse(minutes(10));
    assert_eq!(world.machines_ever(), 2);
    over(&mut world, cut);
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_there(), world.machines_ever()), (4, 4, 4));
}

#[test]
fn machines_that_die_while_they_boot_are_replaced() {
    let mut world = World::keeping(0);
    let begun = world.elapse(minutes(1)).trouble("here", Trouble::Stillborn(2));
    world.keep(3).until("all run", minutes(20), |world| world.staying() == 3);
    over(&mut world, begun);
    world.elapse(minutes(5));
    assert_eq!((world.live(), world.machines_there(), world.machines_ever()), (3, 3, 5));
}

#[test]
fn a_frozen_sensor_costs_time_and_no_job() {
    let mut world = Setup::following_queue(2, 8).with("min", 1).without_cooldowns().world();
    let begun = world.elapse(minutes(2)).sensor_trouble("pool", Mode::Frozen);
    world.submit(60, seconds(30)).elapse(minutes(5));
    assert_eq!(world.target(), Some(1), "it is told of no work");
    over(&mut world, begun);
    world.elapse(minutes(3));
    assert!(world.target() > Some(1));
    let begun = world.sensor_trouble("pool", Mode::Frozen);
    world.elapse(minutes(20));
    assert!(world.staying() > 1, "it is told of work that is done already");
    over(&mut world, begun);
    world.elapse(minutes(20));
    let queue = world.queue();
    assert_eq!((queue.done_count(), queue.done_twice(), queue.lost()), (60, 0, 0));
    assert_eq!(world.live(), 1);
}

#[test]
fn what_is_no_amount_never_moves_a_target() {
    for amount in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -7.0] {
        let mut world = Setup::following_queue(2, 8).with("min", 1).without_cooldowns().world();
        world.elapse(minutes(2)).submit(12, hours(3)).elapse(minutes(5));
        let (target, running) = (world.target(), world.running());
        assert!(target > Some(1), "{target:?}");
        let begun = world.sensor_trouble("pool", Mode::Says(amount));
        for _ in 0..20 {
            world.elapse(seconds(30));
            assert_eq!(world.target(), target, "{amount}");
        }
        over(&mut world, begun);
        world.elapse(minutes(1));
        assert_eq!((world.target(), world.running()), (target, running), "{amount}");
    }
}

#[test]
fn an_absurd_amount_grows_the_pool_to_its_maximum_and_no_further() {
    let mut world = Setup::following_queue(2, 8)
        .with("min", 1)
        .with("max", 4)
        .without_cooldowns()
        .world();
    let begun = world.elapse(minutes(2)).sensor_trouble("pool", Mode::Says(1e300));
    world.elapse(minutes(20));
    assert_eq!(world.live(), 4);
    over(&mut world, begun);
    world.elapse(minutes(20));
    assert_eq!(world.live(), 1);
}

#[test]
fn an_agent_that_says_idle_while_its_worker_works_costs_no_job() {
    let mut world = Setup::keeping(3).without_cooldowns().with("limits.drain", "1h").world();
    world.elapse(minutes(2)).submit(3, minutes(10)).elapse(minutes(1));
    for id in world.running() {
        let machine = world.machines().of(id).unwrap();
        assert!(world.ill(&machine, Ill::Says(Work::Idle)).bit);
    }
    world.elapse(minutes(1)).keep(1).elapse(minutes(20));
    let queue = world.queue();
    assert_eq!((queue.done_count(), queue.done_twice(), queue.lost()), (3, 0, 0));
    assert_eq!((world.live(), world.machines_there()), (1, 1));
}

#[test]
fn an_agent_that_flaps_is_not_replaced_and_is_seen() {
    let mut world = World::keeping(3);
    let id = world.elapse(minutes(3)).any();
    let machine = world.machines().of(id).unwrap();
    let begun = world.ill(&machine, Ill::Flaps(seconds(7)));
    world.elapse(minutes(30));
    over(&mut world, begun);
    world.elapse(minutes(5));
    assert_eq!((world.state_of(&id), world.machines_ever()), (State::Running, 3));
}

#[test]
fn a_job_without_end_drains_to_its_deadline_only() {
    let mut world = Setup::keeping(2).without_cooldowns().with("limits.drain", "10m").world();
    world.elapse(minutes(2));
    for id in world.running() {
        let machine = world.machines().of(id).unwrap();
        assert!(world.ill(&machine, Ill::Occupied).bit);
    }
    world.elapse(seconds(10)).keep(1).elapse(seconds(590));
    assert_eq!(world.count(State::Running), 2, "it is left to work until its deadline");
    let draining = world.running().into_iter().find(|id| world.record(id).is_leaving()).unwrap();
    world.elapse(minutes(1));
    let ending = world.record(&draining).ending.clone().unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::DrainDeadline, Some(Cause::ScaleIn)));
    assert_eq!((world.live(), world.machines_there()), (1, 1));
}

#[test]
fn a_machine_that_its_site_halts_is_replaced_and_ended_also_when_it_is_started_again() {
    for halted_for in [seconds(20), minutes(5)] {
        let mut world = World::keeping(3);
        let id = world.elapse(minutes(3)).any();
        let machine = world.machines().of(id).unwrap();
        world.machines().halt(&machine, true);
        world.elapse(halted_for).machines().halt(&machine, false);
        world.elapse(minutes(10));
        assert_eq!((world.staying(), world.machines_there()), (3, 3), "{halted_for:?}");
    }
}

#[test]
fn worker_readings_that_are_no_amount_move_nothing() {
    for amount in [f64::NAN, f64::INFINITY, -1e300] {
        let sensor = serde_json::json!({ "heartbeat": { "reading": "load", "combine": "sum" } });
        let mut world = Setup::following_queue(2, 8).with("min", 2).with("sensors.jobs", sensor).world();
        world.workers(|worker| worker.says_load = true).elapse(minutes(5));
        let target = world.target();
        let machine = world.machines().of(world.any()).unwrap();
        let begun = world.ill(&machine, Ill::Reads(amount));
        world.elapse(seconds(40));
        assert_eq!(world.target(), target, "{amount}");
        over(&mut world, begun);
        world.elapse(minutes(10));
        assert_eq!((world.staying(), world.target()), (2, target), "{amount}");
    }
}

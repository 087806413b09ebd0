use epu_core::State;
use epu_core::id::InstanceId;

use super::*;
use crate::fault::Begun;
use crate::{Setup, World, minutes, seconds};

fn machine(world: &World, id: &InstanceId) -> String {
    world.machines().of(*id).unwrap()
}

fn lift(world: &mut World, begun: Begun) {
    if let Some(lift) = begun.lift {
        lift(world);
    }
}

/// A world with one worker, and its machine.
fn one() -> (World, InstanceId, String) {
    let mut world = World::keeping(1);
    let id = world.elapse(minutes(2)).any();
    let machine = machine(&world, &id);
    (world, id, machine)
}

#[test]
fn one_that_flaps_is_silent_half_of_the_time() {
    let mut ills = Ills::default();
    let begin = Timestamp(1_000);
    let id = ills.begins(Ill::Flaps(seconds(5)), begin);
    let silent = |ills: &Ills| -> Vec<bool> { (0..4).map(|n| ills.silence(begin + seconds(5 * n + 1))).collect() };
    assert_eq!(silent(&ills), [true, false, true, false]);
    let for_good = ills.begins(Ill::Silent, begin);
    assert_eq!(silent(&ills), [true; 4]);
    ills.ends(id, begin);
    ills.ends(for_good, begin);
    assert_eq!(silent(&ills), [false; 4]);
}

#[test]
fn a_lie_is_remembered_for_a_while() {
    let mut ills = Ills::default();
    let begin = Timestamp(1_000);
    let id = ills.begins(Ill::Says(Work::Idle), begin);
    assert!(ills.may_lie(begin + minutes(60)));
    ills.ends(id, begin + minutes(60));
    assert!(ills.may_lie(begin + minutes(61)));
    assert!(!ills.may_lie(begin + minutes(63)));
}

#[test]
fn a_zombie_works_on_after_it_was_told_to_end() {
    let (mut world, id, machine) = one();
    let begun = world.becomes_a_zombie(&machine);
    world.kill(&id).elapse(minutes(5));
    assert_eq!(world.state_of(&id), State::Terminating);
    assert!(world.body(&id).worker_lives() && world.is_there(&machine));
    lift(&mut world, begun);
    world.elapse(seconds(30));
    assert_eq!(world.state_of(&id), State::Terminated);
    assert!(!world.is_there(&machine));
}

#[test]
fn a_worker_that_hung_does_its_job_once_it_goes_on() {
    let mut world = Setup::following_queue(2, 8).with("min", 1).world();
    world.elapse(minutes(2)).submit(1, seconds(20)).elapse(seconds(5));
    let id = world.any();
    let machine = machine(&world, &id);
    let (once, twice) = (world.ill(&machine, Ill::Hangs), world.ill(&machine, Ill::Hangs));
    world.elapse(minutes(2));
    lift(&mut world, once);
    world.elapse(minutes(2));
    assert_eq!((world.queue().done_count(), world.queue().in_progress()), (0, 1));
    lift(&mut world, twice);
    world.elapse(seconds(30));
    assert_eq!((world.queue().done_count(), world.queue().done_twice()), (1, 0));
}

#[test]
fn what_is_frozen_and_halted_goes_on_when_it_is_neither() {
    let mut world = Setup::following_queue(2, 8).with("min", 1).world();
    world.elapse(minutes(2));
    let id = world.any();
    let machine = machine(&world, &id);
    let frozen = world.until_lifted(&machine, "stands still", |machines, id, on| machines.freeze(id, on));
    let again = world.until_lifted(&machine, "stands still", |machines, id, on| machines.freeze(id, on));
    world.submit(1, seconds(5)).elapse(seconds(10));
    lift(&mut world, frozen);
    world.elapse(seconds(10));
    assert_eq!(world.queue().done_count(), 0);
    lift(&mut world, again);
    world.elapse(seconds(10));
    assert_eq!(world.queue().done_count(), 1);
}

#[test]
fn a_job_without_end_ends_with_the_fault() {
    let (mut world, id, machine) = one();
    let begun = world.ill(&machine, Ill::Occupied);
    assert!(world.elapse(minutes(5)).body(&id).is_busy());
    lift(&mut world, begun);
    assert!(!world.elapse(seconds(1)).body(&id).is_busy());
}

#[test]
fn an_agent_says_what_is_not_so() {
    let (mut world, id, machine) = one();
    let begun = world.ill(&machine, Ill::Says(Work::Busy));
    world.elapse(minutes(1));
    let said = |world: &mut World| {
        let show = epu_core::request::Request::InstanceShow(epu_core::request::InstanceRef { instance: id.to_string() });
        world.ask(show).unwrap()["work"].clone()
    };
    assert_eq!(said(&mut world), serde_json::json!("busy"));
    assert!(!world.body(&id).is_busy());
    lift(&mut world, begun);
    world.elapse(minutes(1));
    assert_eq!(said(&mut world), serde_json::json!("idle"));
}

#[test]
fn what_comes_up_meanwhile_comes_up_so() {
    let quirks = [Quirk::SetUpFails(3), Quirk::Missing, Quirk::SetUpTakes(minutes(30))];
    for quirk in quirks {
        let mut world = World::keeping(0);
        let begun = world.quirk(quirk);
        world.keep(2).elapse(minutes(2));
        assert_eq!(world.staying(), 0, "{quirk:?}");
        lift(&mut world, begun);
        world.until("they run", minutes(60), |world| world.staying() == 2);
    }
}

#[test]
fn an_agent_that_is_early_says_ready_before_set_up_is_done() {
    let mut world = World::keeping(0);
    world.workers(|worker| worker.set_up_takes = minutes(10));
    let begun = world.quirk(Quirk::ReadyEarly);
    world.keep(1).elapse(minutes(2));
    assert_eq!(world.staying(), 1);
    lift(&mut world, begun);
}

#[test]
fn an_agent_that_was_killed_goes_on_when_it_is_started_again() {
    let (mut world, id, machine) = one();
    let begun = world.agent_dies(&machine);
    world.elapse(seconds(60));
    lift(&mut world, begun);
    world.elapse(minutes(10));
    assert_eq!((world.state_of(&id), world.machines_ever()), (State::Running, 1));
}

#[test]
fn nothing_minds_what_is_not_there() {
    let mut world = World::keeping(0);
    for ill in [Ill::Silent, Ill::Hangs, Ill::Zombie] {
        assert!(!world.ill("m-000099", ill).bit);
    }
    assert!(!world.trouble("nowhere", crate::cloud::Trouble::Away).bit);
    let begun = world.until_lifted("m-000099", "is halted", |machines, id, on| machines.halt(id, on));
    lift(&mut world, begun);
    let begun = world.agent_dies("m-000099");
    lift(&mut world, begun);
    world.vanish("m-000099");
    // Nor what was there and is gone by the end.
    let (mut world, _, machine) = one();
    let all = [
        world.ill(&machine, Ill::Hangs),
        world.agent_dies(&machine),
        world.becomes_a_zombie(&machine),
        world.until_lifted(&machine, "is called gone", |machines, id, on| match on {
            true => machines.call_gone(id),
            false => machines.comes_back(id),
        }),
    ];
    world.vanish(&machine);
    world.elapse(minutes(5));
    for begun in all {
        lift(&mut world, begun);
    }
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_there()), (1, 1));
}

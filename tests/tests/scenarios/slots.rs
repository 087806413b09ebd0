//! Unique instances: each label is filled once, with its own variables.

use std::collections::BTreeMap;

use epu_core::instance::{Cause, Instance};
use epu_core::{InstanceId, State};
use epu_simulator::{Service, Setup, World, minutes, seconds};
use serde_json::json;

fn unique() -> Setup {
    Setup::keeping(3)
        .without_cooldowns()
        .with("engine.keep.unique", json!({ "left": { "SIDE": "l" }, "right": { "SIDE": "r" } }))
}

fn holders(world: &World) -> BTreeMap<String, InstanceId> {
    let records = world.records();
    let staying = records
        .iter()
        .filter(|record| record.state == State::Running && !record.is_leaving());
    staying
        .filter_map(|record| Some((record.slot.as_ref()?.to_string(), record.id)))
        .collect()
}

fn side(record: &Instance) -> Option<&str> {
    record.variables.get("SIDE").map(String::as_str)
}

#[test]
fn each_label_is_filled_once_and_the_rest_is_interchangeable() {
    let mut world = unique().world();
    world.elapse(minutes(2));
    let holders = holders(&world);
    assert_eq!(holders.keys().collect::<Vec<_>>(), ["left", "right"]);
    assert_eq!(side(&world.record(&holders["left"])), Some("l"));
    assert_eq!(world.count(State::Running), 3);
}

#[test]
fn a_replacement_inherits_the_slot_and_its_variables() {
    let mut world = unique().world();
    world.elapse(minutes(2));
    let left = holders(&world)["left"];
    world.kill_worker(&left).elapse(minutes(2));
    let heir = holders(&world)["left"];
    assert_ne!(heir, left);
    assert_eq!(side(&world.record(&heir)), Some("l"));
    assert_eq!(world.count(State::Running), 3);
}

#[test]
fn slots_are_bound_again_after_the_controller_was_restarted() {
    let mut world = unique().world();
    world.elapse(minutes(2));
    let before = holders(&world);
    world
        .crash(Service::Controller)
        .elapse(minutes(1))
        .start(Service::Controller)
        .elapse(minutes(5));
    assert_eq!(holders(&world), before);
    assert_eq!(world.machines_ever(), 3);
    let shown = world.pool().slots;
    assert_eq!(shown.values().flatten().count(), 2);
}

#[test]
fn a_label_that_is_removed_has_its_instance_drained() {
    let mut world = unique().world();
    world.elapse(minutes(2));
    let right = holders(&world)["right"];
    world
        .reconfigure("engine.keep.unique", json!({ "left": { "SIDE": "l" } }))
        .elapse(minutes(2));
    assert_eq!(world.state_of(&right), State::Terminated);
    let ending = world.record(&right).ending.clone();
    assert_eq!(ending.and_then(|ending| ending.drained_for), Some(Cause::SlotRemoved));
    assert_eq!(world.count(State::Running), 3, "the number stays");
}

#[test]
fn changed_variables_leave_the_instance_alone_and_go_to_its_replacement() {
    let mut world = unique().world();
    world.elapse(minutes(2));
    let left = holders(&world)["left"];
    world
        .reconfigure("engine.keep.unique", json!({ "left": { "SIDE": "new" }, "right": { "SIDE": "r" } }))
        .elapse(minutes(5));
    assert_eq!(holders(&world)["left"], left);
    world.kill_worker(&left).elapse(minutes(2));
    let heir = holders(&world)["left"];
    assert_eq!(side(&world.record(&heir)), Some("new"));
}

#[test]
fn a_label_that_takes_another_ones_place_at_the_maximum_never_exceeds_it() {
    let mut world = unique().with("max", 3).world();
    world.elapse(minutes(2));
    world
        .reconfigure("engine.keep.unique", json!({ "left": { "SIDE": "l" }, "middle": { "SIDE": "m" } }))
        .elapse(minutes(3));
    assert_eq!(holders(&world).keys().collect::<Vec<_>>(), ["left", "middle"]);
    assert_eq!(world.count(State::Running), 3);
}

#[test]
fn a_silent_holder_is_replaced_in_its_slot() {
    let mut world = unique().world();
    world.elapse(minutes(2));
    let left = holders(&world)["left"];
    world.silence(&left).elapse(minutes(10));
    assert_ne!(holders(&world)["left"], left);
    assert_eq!(world.state_of(&left), State::Terminated);
    world.elapse(seconds(30));
    assert_eq!(holders(&world).len(), 2);
}

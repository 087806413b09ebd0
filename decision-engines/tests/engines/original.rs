//! What the test suites of the original engines asserted, as far as it is an engine's to do. Names such as Q4 are those of the
//! list of behaviours. Here numbers are numbers: texts such as `"5"` are turned into them where the original's settings are read.
//! The original's `provisioner_vars` (N5) are a template's variables here, which no engine sees.

use serde_json::{Value, json};

use crate::world::{World, label};

fn queue(min: u32) -> World {
    World::new(
        "queuelen-bounded",
        &json!({"sensor": "jobs", "high-water": 50, "low-water": 10}),
        min,
    )
}

fn keep(settings: &Value) -> World {
    World::new("npreserving", settings, 0)
}

#[test]
fn q1_q2_q3_an_empty_queue_gets_the_minimum_at_the_first_decision() {
    for min in [0, 1, 5] {
        assert_eq!(queue(min).reads(0.0), min as usize);
    }
}

#[test]
fn q4_the_waters() {
    for min in [0, 1, 5] {
        let mut pool = queue(min);
        let min = min as usize;
        let some = min.max(1);
        for (value, size) in [
            (0.0, min),
            (9.0, some),
            (10.0, some),
            (50.0, some),
            (51.0, some + 1),
            (40.0, some + 1),
            (10.0, some + 1),
            (5.0, some),
            (0.0, min),
        ] {
            assert_eq!(pool.reads(value), size, "{value} with a minimum of {min}");
        }
    }
}

#[test]
fn q5_unhealthy_ones_are_replaced_one_for_one() {
    let mut pool = queue(5);
    assert_eq!(pool.reads(0.0), 5);
    assert_eq!(pool.reads(0.0), 5);
    assert_eq!((pool.launched, pool.ended), (5, 0));
    for sick in pool.generic().into_iter().take(3) {
        pool.sicken(sick);
    }
    assert_eq!(pool.reads(0.0), 5);
    assert_eq!((pool.launched, pool.ended), (8, 3));
}

#[test]
fn n1_that_many_at_the_first_decision() {
    for n in [0, 1, 5] {
        assert_eq!(keep(&json!({ "n": n })).decide(), n);
    }
}

#[test]
fn n2_n3_the_number_is_followed_exactly_up_and_down() {
    let mut pool = keep(&json!({"n": 0}));
    for n in [0, 1, 0].into_iter().chain(0..20).chain((0..20).rev()) {
        assert!(pool.reconfigure(&json!({ "n": n })));
        assert_eq!(pool.decide(), n);
    }
}

#[test]
fn n4_what_is_no_number_is_refused() {
    let mut pool = keep(&json!({"n": 2}));
    for wrong in [json!("asd"), json!("-1"), json!(-1)] {
        assert!(!pool.reconfigure(&json!({ "n": wrong })));
    }
    assert_eq!(pool.decide(), 2);
}

#[test]
fn n5_the_rest_of_a_pool_has_no_variables_from_the_engine() {
    let mut pool = keep(&json!({"n": 2, "unique": {"one": {"K": "1"}}}));
    pool.decide();
    let generic = pool.generic()[0];
    assert!(pool.members[&generic].variables.is_empty());
}

#[test]
fn n6_each_label_gets_an_instance_with_its_variables() {
    let mut pool = keep(&json!({"n": 2, "unique": {"one": {"K": "1"}, "two": {"K": "2"}}}));
    assert_eq!(pool.decide(), 2);
    for (slot, value) in [("one", "1"), ("two", "2")] {
        let holder = pool.holder(&label(slot)).expect("filled");
        assert_eq!(pool.members[&holder].variables["K"], value);
    }
}

#[test]
fn n7_more_labels_than_n_are_refused_and_change_nothing() {
    let mut pool = keep(&json!({"n": 2, "unique": {"one": {}, "two": {}}}));
    pool.decide();
    assert!(!pool.reconfigure(&json!({"n": 2, "unique": {"one": {}, "two": {}, "three": {}}})));
    assert!(!pool.reconfigure(&json!({"n": 1, "unique": {"one": {}, "two": {}}})));
    assert_eq!(pool.decide(), 2);
    assert_eq!((pool.launched, pool.ended), (2, 0));
}

#[test]
fn n8_taking_away_a_label_and_lowering_n_leaves_the_other_label_alone() {
    let mut pool = keep(&json!({"n": 2, "unique": {"one": {}, "two": {}}}));
    pool.decide();
    let two = pool.holder(&label("two"));
    assert!(pool.reconfigure(&json!({"n": 1, "unique": {"two": {}}})));
    assert_eq!(pool.decide(), 1);
    assert_eq!(pool.holder(&label("two")), two);
    assert_eq!((pool.launched, pool.ended), (2, 1));
}

#[test]
fn n9_other_variables_leave_the_instance_alone_until_it_is_replaced() {
    let mut pool = keep(&json!({"n": 1, "unique": {"one": {"K": "old"}}}));
    pool.decide();
    let before = pool.holder(&label("one")).expect("filled");
    assert!(pool.reconfigure(&json!({"n": 1, "unique": {"one": {"K": "new"}}})));
    pool.decide();
    assert_eq!(pool.holder(&label("one")), Some(before));
    assert_eq!(pool.members[&before].variables["K"], "old");
    pool.sicken(before);
    pool.decide();
    let after = pool.holder(&label("one")).expect("filled again");
    assert_ne!(after, before);
    assert_eq!(pool.members[&after].variables["K"], "new");
}

#[test]
fn n10_n11_the_rest_is_interchangeable_and_goes_first() {
    let settings = |n: u32| json!({"n": n, "unique": {"one": {}}});
    let mut pool = keep(&settings(5));
    assert_eq!(pool.decide(), 5);
    assert_eq!(pool.generic().len(), 4);
    let one = pool.holder(&label("one"));
    for n in [1, 2, 1] {
        assert!(pool.reconfigure(&settings(n)));
        assert_eq!(pool.decide(), n as usize);
        assert_eq!(pool.holder(&label("one")), one);
    }
}

#[test]
fn n12_a_label_that_comes_and_goes_leaves_the_first_alone() {
    let mut pool = keep(&json!({"n": 2, "unique": {"one": {}}}));
    pool.decide();
    let one = pool.holder(&label("one"));
    let generic = pool.generic();
    assert!(pool.reconfigure(&json!({"n": 3, "unique": {"one": {}, "two": {}}})));
    assert_eq!(pool.decide(), 3);
    assert!(pool.holder(&label("two")).is_some());
    assert!(pool.reconfigure(&json!({"n": 2, "unique": {"one": {}}})));
    assert_eq!(pool.decide(), 2);
    assert_eq!(pool.holder(&label("one")), one);
    assert_eq!(pool.generic(), generic);
}

#[test]
fn n13_only_what_is_unhealthy_is_replaced() {
    let mut pool = keep(&json!({"n": 3, "unique": {"one": {"K": "1"}}}));
    pool.decide();
    pool.decide();
    assert_eq!((pool.launched, pool.ended), (3, 0));

    let generic = pool.generic();
    pool.sicken(pool.holder(&label("one")).expect("filled"));
    assert_eq!(pool.decide(), 3);
    assert_eq!((pool.launched, pool.ended), (4, 1));
    assert_eq!(pool.generic(), generic);
    let one = pool.holder(&label("one")).expect("filled again");
    assert_eq!(pool.members[&one].variables["K"], "1");

    pool.sicken(generic[0]);
    assert_eq!(pool.decide(), 3);
    assert_eq!((pool.launched, pool.ended), (5, 2));
    assert_eq!(pool.holder(&label("one")), Some(one));
}

#[test]
fn n14_a_new_process_finds_slots_filled_and_launches_only_what_is_missing() {
    let one = json!({"n": 2, "unique": {"one": {"K": "1"}}});
    let mut pool = keep(&one);
    pool.decide();
    pool.restart(&one);
    assert_eq!(pool.decide(), 2);
    assert_eq!((pool.launched, pool.ended), (2, 0));

    pool.restart(&json!({"n": 3, "unique": {"one": {"K": "1"}, "two": {"K": "2"}}}));
    assert_eq!(pool.decide(), 3);
    assert_eq!((pool.launched, pool.ended), (3, 0));
    let two = pool.holder(&label("two")).expect("filled");
    assert_eq!(pool.members[&two].variables["K"], "2");
}

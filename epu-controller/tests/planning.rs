//! View, engine and plan together, on one pool, as sentences.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use epu_controller::guards::{Breaker, Guards};
use epu_controller::listening::Listening;
use epu_controller::plan::{Plan, Wish, plan};
use epu_controller::view::{Ordered, View};
use epu_core::code::{Fault, READY_UNHEARD};
use epu_core::fact::{Covers, Heard};
use epu_core::health::Health;
use epu_core::heartbeat::Condition;
use epu_core::id::{InstanceId, LaunchId, SlotLabel};
use epu_core::instance::{Cause, Exit, Instance, Work};
use epu_core::life::State;
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_core::{Reason, SensorName};
use epu_decision_engines::{Decision, Memory};
use proptest::prelude::*;
use uuid::Uuid;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000)
}

fn pool(limits: &serde_json::Value) -> Pool {
    serde_json::from_value(serde_json::json!({
        "name": "web", "template_version": "t@1", "origin": {"is": "operator"}, "revision": 1, "added_at": 0,
        "template": {"run": ["sleep", "1"]},
        "spec": {"template": "t", "min": 0, "max": 10, "engine": {"keep": {"n": 3}}, "placements": [{"site": "here"}], "limits": limits,
                 "sensors": {"jobs": {"directory": {"path": "/spool"}}}},
    }))
    .unwrap()
}

/// One pool, driven by hand.
struct World {
    view: View,
    target: Option<u32>,
    guards: Guards,
    now: i64,
    minted: u128,
}

impl World {
    fn new(limits: serde_json::Value) -> Self {
        let view = View::new(Arc::new(pool(&limits)), at(0));
        let guards = Guards {
            settings: view.settings(),
            ..Guards::default()
        };
        let mut world = Self {
            view,
            target: Some(0),
            guards,
            now: 0,
            minted: 0,
        };
        world.hear_all();
        world
    }

    fn calm() -> Self {
        Self::new(serde_json::json!({"cooldown-down": "0s", "stabilization": "0s"}))
    }

    fn hear_all(&mut self) {
        self.view.listened(
            Listening {
                since: at(0),
                until: at(self.now),
            },
            true,
            at(self.now),
        );
    }

    fn add(&mut self, state: State, slot: Option<&str>) -> InstanceId {
        self.minted += 1;
        let id = InstanceId(Uuid::from_u128(self.minted));
        let mut instance: Instance = serde_json::from_value(serde_json::json!({
            "id": id, "pool": "web", "launch": Uuid::from_u128(self.minted), "index": 0, "site": "here", "state": state, "version": 1,
            "created_at": self.now * 1_000, "state_since": self.now * 1_000,
        }))
        .unwrap();
        instance.slot = slot.map(|label| SlotLabel::new(label).unwrap());
        instance.ready_at = (state >= State::Running).then_some(at(self.now));
        self.view.instance(Arc::new(instance), at(self.now));
        id
    }

    fn change(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance)) {
        let mut instance = self.view.member(id).unwrap().instance.as_ref().clone();
        instance.version += 1;
        change(&mut instance);
        let changed = self.view.instance(Arc::new(instance), at(self.now));
        for outcome in &changed.outcomes {
            self.guards.outcome(outcome, &self.view.pool.spec.limits.clone());
        }
    }

    fn says(&mut self, id: InstanceId, work: Work) {
        let heard = Heard {
            instance: id,
            pool: self.view.pool.name.clone(),
            ago_ms: 0,
            condition: Condition::Ok,
            work,
            work_for_ms: 0,
            draining: false,
            sent_at: at(self.now),
        };
        self.view.heard(&heard, at(self.now));
    }

    fn running(&mut self, n: usize) -> Vec<InstanceId> {
        (0..n)
            .map(|_| {
                let id = self.add(State::Running, None);
                self.says(id, Work::Idle);
                id
            })
            .collect()
    }

    fn decide(&mut self, desired: u32) -> Plan {
        self.decide_slots(desired, &[])
    }

    fn decide_slots(&mut self, desired: u32, slots: &[&str]) -> Plan {
        let slots = slots
            .iter()
            .map(|label| (SlotLabel::new(label).unwrap(), BTreeMap::new()))
            .collect();
        let decision = Decision {
            desired,
            slots,
            stepwise: false,
            reasons: vec![Reason::new("test", "test")],
            memory: Memory::default(),
            look_again_at: None,
        };
        self.act(&decision, &[])
    }

    fn act(&mut self, decision: &Decision, sensors: &[SensorName]) -> Plan {
        let planned = plan(&Wish {
            now: at(self.now),
            view: &self.view,
            decision,
            sensors,
            target: self.target,
            guards: &self.guards,
            closed: false,
        });
        self.target = Some(planned.target);
        self.guards = planned.guards.clone();
        for id in planned.drains.iter().flat_map(|(_, ids)| ids) {
            self.view.ordered(*id, Ordered::Drain);
        }
        for (id, _) in planned.terminate.iter().flat_map(|(_, ids)| ids) {
            self.view.ordered(*id, Ordered::End);
        }
        planned
    }
}

fn launched(plan: &Plan) -> usize {
    plan.launches.iter().map(|b| b.wanted.len()).sum()
}

fn drained(plan: &Plan) -> Vec<InstanceId> {
    plan.drains.iter().flat_map(|(_, ids)| ids).copied().collect()
}

fn ended(plan: &Plan) -> Vec<InstanceId> {
    plan.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| *id).collect()
}

fn held_by(plan: &Plan) -> Vec<&str> {
    plan.suppressed.iter().map(|r| r.code.as_ref()).collect()
}

#[test]
fn what_is_missing_is_launched_and_counted_from_then_on() {
    let mut world = World::calm();
    let planned = world.decide(3);
    assert_eq!((launched(&planned), planned.target), (3, 3));
    for _ in 0..3 {
        world.add(State::Requesting, None);
    }
    assert!(!world.decide(3).acts(), "what was asked for is not asked for again");
}

#[test]
fn one_that_came_to_its_end_is_replaced_whatever_the_cooldown() {
    let mut world = World::new(serde_json::json!({"cooldown-up": "1h", "cooldown-down": "1h", "stabilization": "1h"}));
    world.decide(3);
    let ids = world.running(3);
    world.now = 10;
    world.change(ids[1], |i| i.state = State::Terminated);
    let planned = world.decide(3);
    assert_eq!(launched(&planned), 1);
    assert!(held_by(&planned).is_empty());
}

#[test]
fn victims_are_not_yet_running_ones_newest_first_then_the_longest_idle() {
    let mut world = World::calm();
    let idle_long = world.running(1)[0];
    world.now = 5;
    let idle_short = world.running(1)[0];
    let busy = world.add(State::Running, None);
    world.says(busy, Work::Busy);
    let booting_old = world.add(State::Pending, None);
    world.now = 6;
    let booting_new = world.add(State::Pending, None);
    world.target = Some(5);
    let mut order = Vec::new();
    for desired in [4, 3, 2, 1] {
        world.now += 1;
        let planned = world.decide(desired);
        order.extend(drained(&planned));
    }
    assert_eq!(order, [booting_new, booting_old, idle_long, idle_short]);
}

#[test]
fn victims_are_drained_booting_ones_too_since_they_may_have_begun_to_work() {
    let mut world = World::calm();
    let runs = world.running(1)[0];
    let boots = world.add(State::Started, None);
    world.target = Some(2);
    let planned = world.decide(0);
    assert_eq!(planned.drains, vec![(Cause::ScaleIn, vec![boots, runs])]);
    assert!(planned.terminate.is_empty());
}

#[test]
fn a_sick_one_that_keeps_its_place_goes_before_a_healthy_one() {
    let mut world = World::new(serde_json::json!({"cooldown-down": "0s", "stabilization": "0s", "replace-at-once": 1}));
    let ids = world.running(4);
    world.target = Some(4);
    world.now = 20;
    for id in &ids[..2] {
        world.change(*id, |i| {
            i.exit = Some(Exit {
                code: Some(1),
                signal: None,
                output: String::new(),
            })
        });
    }
    assert_eq!(ended(&world.decide(4)), [ids[0]], "one is replaced, the other keeps its place");
    world.add(State::Requesting, None);
    world.now = 21;
    let planned = world.decide(3);
    assert_eq!(drained(&planned), [ids[1]]);
    assert!(!world.decide(3).acts(), "and not again");
}

#[test]
fn nothing_is_launched_above_a_maximum_that_was_lowered_while_shrinking_is_held_back() {
    let mut world = World::calm();
    world.running(8);
    world.target = Some(10);
    let mut changed = world.view.pool.as_ref().clone();
    changed.spec.max = 5;
    changed.paused.shrink = true;
    changed.spec.placements = serde_json::from_value(serde_json::json!([{"site": "here"}, {"site": "far", "max": 9}])).unwrap();
    world.view.set_pool(Arc::new(changed), at(0));
    assert_eq!(launched(&world.decide(10)), 0);
}

#[test]
fn a_worker_that_heard_of_a_drain_that_was_withdrawn_is_given_the_order_again() {
    let mut world = World::calm();
    let id = world.running(2)[0];
    world.target = Some(1);
    world.now = 1;
    let heard = Heard {
        instance: id,
        pool: world.view.pool.name.clone(),
        ago_ms: 0,
        condition: Condition::Ok,
        work: Work::Busy,
        work_for_ms: 0,
        draining: true,
        sent_at: at(1),
    };
    world.view.heard(&heard, at(1));
    assert_eq!(world.decide(1).drains, vec![(Cause::ScaleIn, vec![id])]);
}

#[test]
fn a_launch_that_was_refused_counts_as_one_that_came_to_nothing() {
    let mut world = World::new(serde_json::json!({"launch-failures": 2}));
    for n in 1..=2 {
        assert_eq!(launched(&world.decide(1)), 1, "try {n}");
        let id = world.add(State::Requesting, None);
        world.change(id, |i| i.state = State::Rejected);
        world.now += 1;
    }
    assert_eq!(launched(&world.decide(1)), 0, "or it would spin");
}

#[test]
fn an_order_stands_as_long_as_its_command_waits_and_a_while_after() {
    let mut world = World::calm();
    let id = world.running(2)[0];
    world.view.ordered(id, Ordered::Drain);
    world.view.look(at(10_000));
    assert_eq!(world.view.counts().draining, 1, "the command has not been accepted yet");
    world.view.accepted(id, Ordered::Come, at(10_000));
    assert_eq!(world.view.next_due(at(10_000)), None, "that was another command");
    world.view.accepted(id, Ordered::Drain, at(10_000));
    world.view.look(at(10_059));
    assert_eq!(world.view.counts().draining, 1);
    world.view.look(at(10_061));
    assert_eq!(world.view.counts().draining, 1, "nothing at all was told since");
    world.view.told(at(10_070));
    world.view.look(at(10_072));
    assert_eq!(world.view.counts().draining, 0, "no record followed");
}

#[test]
fn a_record_from_before_an_order_does_not_undo_it() {
    let mut world = World::calm();
    world.running(1);
    let id = world.add(State::Requesting, None);
    world.view.ordered(id, Ordered::Drain);
    world.change(id, |i| i.state = State::Requested);
    assert_eq!(
        world.view.counts().draining,
        1,
        "its launch was recorded; it is to drain all the same"
    );
    world.change(id, |i| i.protected = true);
    assert_eq!(world.view.counts().draining, 1);
    world.change(id, |i| i.state = State::Terminating);
    assert_eq!(
        (world.view.counts().draining, world.view.counts().capacity),
        (0, 1),
        "now its record says so"
    );
}

#[test]
fn what_a_telling_of_all_that_lives_leaves_out_is_asked_about() {
    let mut world = World::calm();
    let ids = world.running(3);
    let coming = world.add(State::Requesting, None);
    let all = |after, up_to| Covers { after, up_to };
    assert_eq!(world.view.untold(&all(None, None), &[ids[0], ids[2]]), [ids[1]]);
    assert_eq!(
        world.view.untold(&all(None, None), &[]),
        ids,
        "the one that is on its way has no record yet: {coming}"
    );
    assert_eq!(
        world.view.untold(&all(Some(ids[0]), Some(ids[1])), &[]),
        [ids[1]],
        "others are none of its business"
    );
    world.change(ids[1], |i| i.state = State::Terminated);
    assert_eq!(world.view.untold(&all(None, None), &[ids[0], ids[2]]), []);
}

#[test]
fn a_protected_worker_is_not_chosen() {
    let mut world = World::calm();
    let ids = world.running(2);
    world.change(ids[0], |i| i.protected = true);
    world.target = Some(2);
    let planned = world.decide(0);
    assert_eq!(drained(&planned), [ids[1]]);
    assert_eq!(held_by(&planned), ["protected"]);
}

#[test]
fn nothing_shrinks_before_everything_was_heard() {
    let mut world = World::calm();
    world.view = View::new(world.view.pool.clone(), at(0));
    world.running(3);
    world.target = Some(3);
    let planned = world.decide(1);
    assert!(!planned.acts());
    assert_eq!(held_by(&planned), ["not-heard-all"]);
    world.hear_all();
    assert_eq!(drained(&world.decide(1)).len(), 2);
}

#[test]
fn nothing_shrinks_after_some_of_what_was_told_was_lost_until_all_is_told_again() {
    let mut world = World::calm();
    world.running(3);
    world.target = Some(3);
    world.view.hear_anew(at(world.now));
    let listening = world.view.listening().unwrap();
    world.view.listened(listening, false, at(world.now));
    let planned = world.decide(1);
    assert!(!planned.acts());
    assert_eq!(held_by(&planned), ["not-heard-all"]);
    world.hear_all();
    assert_eq!(drained(&world.decide(1)).len(), 2);
}

#[test]
fn nothing_shrinks_on_a_sensor_that_cannot_be_read_whatever_the_engine_says() {
    let mut world = World::calm();
    world.running(3);
    world.target = Some(3);
    let decision = Decision {
        desired: 0,
        slots: BTreeMap::new(),
        stepwise: false,
        reasons: vec![],
        memory: Memory::default(),
        look_again_at: None,
    };
    let planned = world.act(&decision, &[SensorName::new("jobs").unwrap()]);
    assert!(!planned.acts());
    assert_eq!(held_by(&planned), ["sensor-unreadable"]);
}

#[test]
fn the_last_busy_worker_stays_whatever_the_engine_says() {
    let mut world = World::calm();
    let id = world.running(1)[0];
    world.says(id, Work::Busy);
    world.target = Some(1);
    let planned = world.decide(0);
    assert!(!planned.acts());
    assert_eq!(held_by(&planned), ["last-worker"]);
    world.now = 1;
    world.says(id, Work::Idle);
    assert_eq!(drained(&world.decide(0)), [id]);
}

#[test]
fn a_lull_costs_no_worker_within_the_stabilization_window() {
    let mut world = World::new(serde_json::json!({"cooldown-down": "0s", "stabilization": "60s"}));
    world.running(5);
    world.target = Some(5);
    world.decide(5);
    world.now = 30;
    let planned = world.decide(2);
    assert!(!planned.acts());
    assert_eq!(held_by(&planned), ["stabilization"]);
    assert_eq!(planned.look_again_at, Some(at(90)), "5 was wanted until 30");
    world.now = 90;
    assert_eq!(drained(&world.decide(2)).len(), 3);
}

#[test]
fn steps_down_that_follow_each_other_wait_for_the_window_once() {
    let mut world = World::new(serde_json::json!({"cooldown-down": "5s", "stabilization": "60s"}));
    world.running(5);
    world.target = Some(5);
    let step = |world: &mut World, desired| {
        let decision = Decision {
            desired,
            slots: BTreeMap::new(),
            stepwise: true,
            reasons: vec![],
            memory: Memory::default(),
            look_again_at: None,
        };
        world.act(&decision, &[]).target
    };
    assert_eq!(step(&mut world, 5), 5);
    world.now = 10;
    assert_eq!(step(&mut world, 4), 5, "5 was wanted until now");
    world.now = 69;
    assert_eq!(step(&mut world, 4), 5);
    world.now = 70;
    assert_eq!(step(&mut world, 4), 4);
    world.now = 74;
    assert_eq!(step(&mut world, 3), 4, "the cooldown");
    world.now = 75;
    assert_eq!(step(&mut world, 3), 3, "the same lull");
    world.now = 76;
    assert_eq!(step(&mut world, 3), 3, "wanted to stay");
    world.now = 90;
    assert_eq!(step(&mut world, 2), 3, "a new lull waits for the window again");
}

#[test]
fn cooldowns_are_kept_apart_and_a_held_action_starts_none() {
    let mut world = World::new(serde_json::json!({"cooldown-up": "20s", "cooldown-down": "30s", "stabilization": "0s"}));
    world.hear_all();
    assert_eq!(world.decide(2).target, 2);
    world.now = 10;
    let planned = world.decide(4);
    assert_eq!((planned.target, held_by(&planned)), (2, vec!["cooldown-up"]));
    assert_eq!(planned.guards.grown_at, Some(at(0)), "a held action starts no cooldown");
    world.now = 20;
    assert_eq!(world.decide(4).target, 4);
    world.running(4);
    world.now = 49;
    assert_eq!(held_by(&world.decide(1)), ["cooldown-down"]);
    world.now = 50;
    assert_eq!(world.decide(1).target, 1);
}

#[test]
fn new_settings_wait_for_no_cooldown_of_the_old_ones() {
    let mut world = World::new(serde_json::json!({"cooldown-up": "1h", "cooldown-down": "1h", "stabilization": "1h"}));
    world.decide(5);
    world.running(5);
    world.now = 1;
    let mut changed = world.view.pool.as_ref().clone();
    changed.paused.replace = true;
    world.view.set_pool(Arc::new(changed.clone()), at(1));
    assert_eq!(world.decide(2).target, 5, "a pause is no new setting");
    changed.spec.max = 9;
    world.view.set_pool(Arc::new(changed), at(1));
    assert_eq!(world.decide(2).target, 2);
}

#[test]
fn a_pool_is_raised_to_its_minimum_at_once() {
    let mut world = World::new(serde_json::json!({"cooldown-up": "1h", "step-up": 1}));
    world.decide(1);
    world.running(1);
    world.now = 1;
    let mut changed = world.view.pool.as_ref().clone();
    changed.spec.min = 4;
    world.view.set_pool(Arc::new(changed), at(1));
    let planned = world.decide(1);
    assert_eq!((planned.target, launched(&planned)), (4, 3));
}

#[test]
fn only_so_many_unhealthy_are_replaced_at_once_and_the_others_keep_their_place() {
    let mut world = World::new(serde_json::json!({"replace-at-once": 2, "replace-window": "60s", "storm-at-least": 100}));
    let ids = world.running(10);
    world.target = Some(10);
    world.now = 20;
    for id in &ids[..5] {
        world.change(*id, |i| {
            i.exit = Some(Exit {
                code: Some(1),
                signal: None,
                output: String::new(),
            })
        });
    }
    let planned = world.decide(10);
    assert_eq!((ended(&planned).len(), launched(&planned)), (2, 2));
    assert_eq!(held_by(&planned), ["replacement-limit"]);
    world.add(State::Requesting, None);
    world.add(State::Requesting, None);
    world.now = 79;
    assert!(!world.decide(10).acts());
    world.now = 80;
    assert_eq!(ended(&world.decide(10)).len(), 2);
}

#[test]
fn mass_unhealthiness_stops_replacing_but_for_probes() {
    let mut world = World::new(serde_json::json!({"storm-share": 0.45, "storm-at-least": 4, "storm-probe": "300s"}));
    let ids = world.running(10);
    world.target = Some(10);
    for id in &ids[..6] {
        world.change(*id, |i| {
            i.exit = Some(Exit {
                code: None,
                signal: Some(9),
                output: String::new(),
            })
        });
    }
    let planned = world.decide(10);
    assert!(!planned.acts());
    assert_eq!(held_by(&planned), ["storm"]);
    world.now = 300;
    assert_eq!(ended(&world.decide(10)).len(), 1, "one is tried, so that no pool is stuck for ever");
    world.now = 301;
    assert!(ended(&world.decide(10)).is_empty());
}

#[test]
fn failing_launches_pause_launching_on_that_site() {
    let mut world = World::new(serde_json::json!({"launch-failures": 3, "launch-backoff": "30s"}));
    for n in 1..=3 {
        assert_eq!(launched(&world.decide(1)), 1, "try {n}");
        let id = world.add(State::Requesting, None);
        world.change(id, |i| i.state = State::Failed);
        world.now += 1;
    }
    let planned = world.decide(1);
    assert!(!planned.acts());
    assert!(held_by(&planned).contains(&"launch-breaker"));
    world.now = 60;
    let planned = world.decide(3);
    assert_eq!(launched(&planned), 1, "one trial");
    world.add(State::Requesting, None);
    assert_eq!(launched(&world.decide(3)), 0, "and no more until it is known how it turned out");
}

#[test]
fn a_drain_is_withdrawn_before_anything_new_is_launched() {
    let mut world = World::calm();
    let ids = world.running(3);
    world.target = Some(3);
    let gone = drained(&world.decide(1));
    for id in &gone {
        let drain = serde_json::from_value(serde_json::json!({"since": 0, "deadline": 9_000_000, "why": "scale-in"})).unwrap();
        world.change(*id, |i| i.drain = Some(drain));
    }
    world.now = 1;
    let planned = world.decide(4);
    assert_eq!(planned.withdraw.len(), 2);
    assert_eq!(launched(&planned), 1);
    assert!(planned.withdraw.iter().all(|id| ids.contains(id)));
}

#[test]
fn slots_are_filled_first_kept_and_dropped_by_label() {
    let mut world = World::calm();
    let planned = world.decide_slots(3, &["a", "b"]);
    let labels: Vec<_> = planned.launches[0]
        .wanted
        .iter()
        .map(|w| w.as_ref().map(|(l, _)| l.to_string()))
        .collect();
    assert_eq!(labels, [Some("a".into()), Some("b".into()), None]);
    let a = world.add(State::Running, Some("a"));
    let b = world.add(State::Running, Some("b"));
    let generic = world.add(State::Running, None);
    assert!(!world.decide_slots(3, &["a", "b"]).acts());
    world.now = 1;
    assert_eq!(
        drained(&world.decide_slots(2, &["a", "b"])),
        [generic],
        "a slot's member stays while a generic one is there"
    );
    world.now = 2;
    let planned = world.decide_slots(1, &["a"]);
    assert_eq!(planned.drains, vec![(Cause::SlotRemoved, vec![b])]);
    world.now = 3;
    world.change(a, |i| i.state = State::Terminated);
    let planned = world.decide_slots(1, &["a"]);
    assert_eq!(
        planned.launches[0].wanted[0].as_ref().unwrap().0.as_str(),
        "a",
        "the replacement inherits the slot"
    );
}

#[test]
fn placements_are_filled_in_order_up_to_their_maximum() {
    let mut world = World::calm();
    let mut changed = world.view.pool.as_ref().clone();
    changed.spec.placements = serde_json::from_value(serde_json::json!([{"site": "near", "max": 2}, {"site": "far"}])).unwrap();
    world.view.set_pool(Arc::new(changed), at(0));
    let sites: Vec<(String, usize)> = world
        .decide(5)
        .launches
        .iter()
        .map(|b| (b.site.to_string(), b.wanted.len()))
        .collect();
    assert_eq!(sites, [("near".to_owned(), 2), ("far".to_owned(), 3)]);
}

#[test]
fn a_paused_pool_does_not_do_what_is_paused() {
    let mut world = World::calm();
    world.running(2);
    world.target = Some(2);
    let mut changed = world.view.pool.as_ref().clone();
    changed.paused.grow = true;
    changed.paused.shrink = true;
    world.view.set_pool(Arc::new(changed), at(0));
    assert_eq!(held_by(&world.decide(5)), ["paused-grow"]);
    assert_eq!(held_by(&world.decide(0)), ["paused-shrink"]);
    assert_eq!(world.target, Some(2));
    let mut changed = world.view.pool.as_ref().clone();
    changed.paused.replace = true;
    world.view.set_pool(Arc::new(changed), at(0));
    let gone = world.view.victims().next().unwrap().instance.id;
    world.change(gone, |i| i.state = State::Terminated);
    let planned = world.decide(2);
    assert!(!planned.acts(), "what is lost is not replaced either");
    assert_eq!(held_by(&planned), ["paused-replace"]);
}

#[test]
fn a_removed_pool_is_drained_protected_ones_too() {
    let mut world = World::calm();
    let ids = world.running(2);
    world.change(ids[0], |i| i.protected = true);
    let mut changed = world.view.pool.as_ref().clone();
    changed.removed = true;
    world.view.set_pool(Arc::new(changed), at(0));
    let planned = world.decide(3);
    assert_eq!(planned.target, 0);
    assert_eq!(drained(&planned).len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, nobody is named twice, the maximum holds, counts agree with a recount, and the same wish gives the same plan.
    #[test]
    fn laws_of_planning(steps in prop::collection::vec((0u8..9, 0usize..12, 0u32..14), 1..60)) {
        let mut world = World::new(serde_json::json!({"cooldown-down": "2s", "stabilization": "3s", "replace-at-once": 2}));
        let mut ids: Vec<InstanceId> = Vec::new();
        for (what, which, desired) in steps {
            world.now += 1;
            let one = ids.get(which % ids.len().max(1)).copied();
            let state = one.and_then(|id| world.view.member(id)).map(|m| m.instance.state);
            match (what, one.zip(state)) {
                (0, Some((id, _))) => world.says(id, Work::Busy),
                (1, Some((id, _))) => world.says(id, Work::Idle),
                (2, Some((id, state))) if state < State::Running => {
                    let now = at(world.now);
                    world.change(id, |i| {
                        i.state = State::Running;
                        i.ready_at = Some(now);
                    });
                }
                (3, Some((id, state))) if state < State::Terminated => world.change(id, |i| i.state = State::Terminated),
                (4, Some((id, State::Running))) => {
                    world.change(id, |i| i.exit = Some(Exit { code: Some(1), signal: None, output: String::new() }));
                }
                (5, Some((id, _))) => world.change(id, |i| i.protected = !i.protected),
                (6, _) => world.hear_all(),
                _ => {}
            }
            world.view.look(at(world.now));
            let staying: Vec<InstanceId> = world.view.members().filter(|m| m.is_placed()).map(|m| m.instance.id).collect();
            let slots: &[&str] = if desired > 6 { &["a", "b"] } else { &[] };
            let planned = world.decide_slots(desired, slots);
            let mut named: Vec<InstanceId> = drained(&planned);
            named.extend(ended(&planned));
            named.extend(&planned.withdraw);
            let n = named.len();
            named.sort_unstable();
            named.dedup();
            prop_assert_eq!(n, named.len(), "somebody is named twice");
            prop_assert!(planned.target <= 10);
            let new = u32::try_from(launched(&planned) + planned.withdraw.len()).unwrap();
            let mut gone = drained(&planned);
            gone.extend(ended(&planned));
            let staying = u32::try_from(staying.iter().filter(|id| !gone.contains(id)).count()).unwrap();
            prop_assert!(new == 0 || staying + new <= 10, "launches above the maximum");
            for batch in &planned.launches {
                for slot in &batch.wanted {
                    let label = slot.as_ref().map(|(l, _)| l.to_string());
                    let id = world.add(State::Requesting, label.as_deref());
                    ids.push(id);
                }
            }
            let (counts, _) = world.view.recount();
            prop_assert_eq!(world.view.counts(), counts, "kept counts differ from counting");
        }
    }
}

#[test]
fn a_breaker_is_stored_and_read_again() {
    let mut guards = Guards::default();
    guards.launching.insert(
        "here".to_owned(),
        Breaker {
            failures: 2,
            last_failed: Some(LaunchId(Uuid::from_u128(3))),
            ..Breaker::default()
        },
    );
    let text = serde_json::to_string(&guards).unwrap();
    assert_eq!(serde_json::from_str::<Guards>(&text).unwrap(), guards);
    assert_eq!(
        serde_json::from_str::<Guards>("{}").unwrap(),
        Guards::default(),
        "older forms are read"
    );
}

/// As when a pool is gained while no aggregator can be heard of, and the agent died meanwhile.
#[test]
fn one_that_was_known_before_anybody_was_known_to_listen_and_is_never_heard_is_given_up() {
    let mut world = World::calm();
    world.view = View::new(world.view.pool.clone(), at(0));
    let silent = world.add(State::Running, None);
    let limits = world.view.pool.spec.health.clone();
    let long = i64::try_from((*limits.boot + *limits.missing + *limits.really_missing).as_secs()).unwrap();
    for now in (0..3 * long).step_by(5) {
        world.now = now;
        world.hear_all();
        world.view.look(at(now));
    }
    assert_eq!(world.view.member(silent).unwrap().health, epu_core::health::Health::Missing);
}

/// What an aggregator says next is handed only to pools that wait for it; the others read off when it last listened.
#[test]
fn one_that_was_not_heard_to_become_ready_but_is_heard_at_work_may_finish_it() {
    let mut world = World::calm();
    world.now = 1_000;
    let ids = [READY_UNHEARD, READY_UNHEARD, "set-up-failed"].map(|code| {
        let id = world.add(State::Started, None);
        world.change(id, |instance| {
            instance.state = State::RunningFailed;
            instance.fault = Some(Fault::new(code, "it is a test"));
        });
        id
    });
    world.target = Some(3);
    world.says(ids[0], Work::Busy);
    world.says(ids[1], Work::Idle);
    world.says(ids[2], Work::Busy);
    let planned = world.decide(3);
    assert_eq!(drained(&planned), [ids[0]]);
    assert_eq!(
        ended(&planned),
        [ids[1], ids[2]],
        "an agent that says itself that it failed has no worker"
    );
    let planned = world.decide(3);
    assert!(drained(&planned).is_empty() && ended(&planned).is_empty());
    world.now += 121;
    assert_eq!(ended(&world.decide(3)), [ids[0]], "it is not heard any more");
}

#[test]
fn silence_counts_only_from_when_a_view_began_until_all_was_told() {
    let word = |until: i64| Listening {
        since: at(-3_600),
        until: at(until),
    };
    let mut world = World::calm();
    world.now = 100;
    world.view = View::new(world.view.pool.clone(), at(100));
    let id = world.add(State::Running, None);
    let of_it = |world: &World| world.view.member(id).unwrap().health;
    world.change(id, |instance| instance.state_since = at(-1_800));

    let changed = world.view.listened(word(101), false, at(101));
    assert!(changed.ask_site.is_empty(), "others may have told of it before this view began");
    let changed = world.view.listened(word(102), true, at(102));
    assert_eq!(changed.ask_site, [id], "all was told, and nobody has heard it for an hour");

    world.now = 103;
    world.says(id, Work::Busy);
    assert_eq!(of_it(&world), Health::Ok);
    world.view.hear_anew(at(200));
    world.view.listened(word(300), false, at(300));
    assert!(world.view.look(at(300)).ask_site.is_empty(), "what it said meanwhile may be lost");
    world.view.hear_anew(at(310));
    world.view.listened(word(321), false, at(321));
    assert_eq!(
        world.view.look(at(321)).ask_site,
        [id],
        "nothing for 120 s from when the first was lost, however much is lost after it"
    );
}

#[test]
fn a_pool_that_waits_for_nothing_need_not_be_told_that_somebody_listened() {
    use epu_controller::listening::Ears;
    use epu_core::fact::Snapshot;

    let mut ears = Ears::default();
    let word = Snapshot {
        aggregator: "a".into(),
        listening_for_ms: 3_600_000,
        instances: vec![],
        sensors: vec![],
        complete: false,
    };
    let mut view = View::new(Arc::new(pool(&serde_json::json!({}))), at(0));
    view.hears_with(ears.heard().clone());
    ears.take(&word, at(1));
    assert!(view.waits() && view.listening().is_none(), "its first word is still to come");
    view.listened(ears.take(&word, at(2)), true, at(2));
    assert!(!view.waits());
    let later = ears.take(&word, at(60));
    assert_eq!(view.listening(), Some(later));
    let mut world = World::calm();
    world.view = view;
    world.now = 100;
    let id = world.add(State::Running, None);
    world.says(id, Work::Busy);
    ears.take(&word, at(400));
    let changed = world.view.look(at(400));
    assert_eq!(
        changed.ask_site,
        [id],
        "silent for longer than 120 s, of which everything was listened to"
    );
    assert!(!world.view.waits());
    world.view.hear_anew(at(world.now));
    assert!(!world.view.waits() && !world.view.has_heard_all(), "that takes more than a word");
}

//! Placements in a plan: overflow in order of rank, gates, moving, and whom a shrinking pool gives up. View, gates and plan together.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use epu_controller::config::SiteFacts;
use epu_controller::guards::{Gate, Guards};
use epu_controller::listening::Listening;
use epu_controller::plan::{Plan, Wish, plan};
use epu_controller::spec::version_on;
use epu_controller::view::{Ordered, View};
use epu_core::fact::Heard;
use epu_core::heartbeat::Condition;
use epu_core::id::{InstanceId, LaunchId, PlacementName};
use epu_core::instance::{Cause, Drain, Ending, Instance, Work};
use epu_core::launch::Purpose;
use epu_core::life::State;
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_core::{Fault, Reason};
use epu_decision_engines::{Decision, Memory};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000)
}

/// A pool that is carried out as it is planned, launch by launch.
struct World {
    view: View,
    target: Option<u32>,
    guards: Guards,
    now: i64,
    minted: u128,
}

impl World {
    fn new(placements: Value, spec: Value) -> Self {
        let mut whole = json!({
            "template": "t", "min": 0, "max": 10, "engine": {"keep": {"n": 3}}, "placements": placements,
            "limits": {"cooldown-down": "0s", "stabilization": "0s", "replace-at-once": 100, "capacity-memory": "100s"},
        });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let pool: Pool = serde_json::from_value(json!({
            "name": "web", "template_version": "t@1", "origin": {"is": "operator"}, "revision": 1, "added_at": 0,
            "template": {"run": ["sleep", "1"]}, "spec": whole,
        }))
        .unwrap();
        let view = View::new(Arc::new(pool), at(0));
        let guards = Guards {
            settings: view.settings(),
            ..Guards::default()
        };
        let mut world = Self {
            view,
            target: None,
            guards,
            now: 0,
            minted: 0,
        };
        world.hear_all();
        world
    }

    /// Near, then far, then anywhere; ten at the most.
    fn three() -> Self {
        Self::new(
            json!([{"site": "near", "max": 2}, {"site": "far", "max": 3}, {"site": "any"}]),
            json!({}),
        )
    }

    fn hear_all(&mut self) {
        let listening = Listening {
            since: at(0),
            until: at(self.now),
        };
        self.view.listened(listening, true, at(self.now));
    }

    fn set(&mut self, change: impl FnOnce(&mut Pool)) {
        let mut pool = self.view.pool.as_ref().clone();
        change(&mut pool);
        self.view.set_pool(Arc::new(pool), at(self.now));
        self.guards.settings = self.view.settings();
    }

    /// Takes its placements anew.
    fn place(&mut self, placements: Value) {
        self.set(|pool| pool.spec.placements = serde_json::from_value(placements).unwrap());
    }

    fn mint(&mut self) -> Uuid {
        self.minted += 1;
        Uuid::from_u128(self.minted)
    }

    fn add(&mut self, placement: &str, launch: LaunchId, state: State) -> InstanceId {
        let id = InstanceId(self.mint());
        let known = self.view.pool.spec.placements.iter().find(|p| p.called() == placement);
        let site = known.map_or(placement.to_owned(), |p| p.site.to_string());
        let version = known.map_or("t@0".to_owned(), |p| version_on(&self.view.pool, p));
        let mut instance: Instance = serde_json::from_value(json!({
            "id": id, "pool": "web", "launch": launch, "index": 0, "site": site, "state": state, "version": 1, "template": version,
            "created_at": self.now * 1_000, "state_since": self.now * 1_000,
        }))
        .unwrap();
        instance.placement = (placement != site).then(|| PlacementName::new(placement).unwrap());
        instance.ready_at = (state >= State::Running).then_some(at(self.now));
        self.view.instance(Arc::new(instance), at(self.now));
        id
    }

    /// So many that run, and are idle.
    fn running(&mut self, placement: &str, n: usize) -> Vec<InstanceId> {
        let add = |world: &mut Self| {
            let launch = LaunchId(world.mint());
            let id = world.add(placement, launch, State::Running);
            world.says(id, Work::Idle);
            id
        };
        (0..n).map(|_| add(self)).collect()
    }

    fn change(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance)) {
        let mut instance = self.view.member(id).unwrap().instance.as_ref().clone();
        instance.version += 1;
        change(&mut instance);
        let changed = self.view.instance(Arc::new(instance), at(self.now));
        let limits = self.view.pool.spec.limits.clone();
        for outcome in &changed.outcomes {
            self.guards.outcome(outcome, &limits);
        }
    }

    fn to(&mut self, id: InstanceId, state: State) {
        let now = at(self.now);
        self.change(id, |instance| {
            instance.state = state;
            instance.state_since = now;
            instance.ready_at = (state == State::Running).then_some(now);
        });
        if state == State::Running {
            self.says(id, Work::Idle);
        }
    }

    fn fails(&mut self, id: InstanceId, code: &'static str) {
        let now = at(self.now);
        self.change(id, |instance| {
            instance.state = State::Failed;
            instance.state_since = now;
            instance.fault = Some(Fault::new(code, format!("the site says {code}")));
        });
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

    /// Decides and carries out; gives the plan and who was asked for.
    fn decide(&mut self, desired: u32) -> (Plan, Vec<InstanceId>) {
        let decision = Decision {
            desired,
            slots: BTreeMap::new(),
            stepwise: false,
            reasons: vec![Reason::new("test", "test")],
            memory: Memory::default(),
            look_again_at: None,
        };
        let planned = plan(&Wish {
            now: at(self.now),
            view: &self.view,
            decision: &decision,
            sensors: &[],
            target: self.target,
            guards: &self.guards,
            closed: false,
        });
        self.target = Some(planned.target);
        self.guards = planned.guards.clone();
        for (why, ids) in &planned.drains {
            for id in ids {
                let drain = Drain {
                    since: at(self.now),
                    deadline: at(self.now + 3_600),
                    why: *why,
                };
                self.change(*id, |instance| instance.drain = Some(drain));
            }
        }
        for id in &planned.withdraw {
            self.change(*id, |instance| instance.drain = None);
        }
        for (id, _) in planned.terminate.iter().flat_map(|(_, ids)| ids) {
            self.view.ordered(*id, Ordered::End);
        }
        let mut asked = Vec::new();
        for batch in &planned.launches {
            let launch = LaunchId(self.mint());
            asked.extend(
                batch
                    .wanted
                    .iter()
                    .map(|_| self.add(&batch.placement, launch, State::Requested))
                    .collect::<Vec<_>>(),
            );
        }
        (planned, asked)
    }

    fn gate(&self, placement: &str) -> Gate {
        self.guards
            .launching
            .get(placement)
            .map_or(Gate::Closed, |breaker| breaker.gate(at(self.now)))
    }
}

fn launched(plan: &Plan) -> Vec<(&str, usize)> {
    plan.launches
        .iter()
        .map(|batch| (batch.placement.as_str(), batch.wanted.len()))
        .collect()
}

fn drained(plan: &Plan) -> Vec<InstanceId> {
    plan.drains.iter().flat_map(|(_, ids)| ids).copied().collect()
}

fn held_by(plan: &Plan) -> Vec<&str> {
    plan.suppressed.iter().map(|r| r.code.as_ref()).collect()
}

#[test]
fn each_placement_is_filled_to_its_maximum_before_the_next() {
    let mut world = World::three();
    assert_eq!(launched(&world.decide(7).0), [("near", 2), ("far", 3), ("any", 2)]);
    assert!(!world.decide(7).0.acts());
}

#[test]
fn placements_on_one_site_are_counted_apart_by_their_names() {
    let placements =
        json!([{"site": "here", "name": "spot", "max": 2, "machine": {"market": {"spot": {}}}}, {"site": "here", "name": "sure"}]);
    let mut world = World::new(placements, json!({}));
    assert_eq!(launched(&world.decide(3).0), [("spot", 2), ("sure", 1)]);
    assert_eq!(
        (
            world.view.staying_on("spot"),
            world.view.staying_on("sure"),
            world.view.staying_on("here")
        ),
        (2, 1, 0)
    );
}

#[test]
fn the_last_rank_shrinks_first_though_it_is_busy_and_others_are_idle() {
    let mut world = World::three();
    let near = world.running("near", 2);
    world.now = 5;
    let any = world.running("any", 1)[0];
    let far = world.running("far", 2);
    world.says(any, Work::Busy);
    world.now = 6;
    let booting = world.decide(6).1;
    world.now = 7;
    let mut order = Vec::new();
    for desired in (1..=5).rev() {
        world.now += 1;
        order.extend(drained(&world.decide(desired).0));
    }
    assert_eq!(order, [booting[0], any, far[0], far[1], near[0]]);
}

#[test]
fn a_placement_without_room_is_followed_by_the_next_at_once_and_tried_with_one_later() {
    for code in ["site-capacity", "site-quota-exceeded", "capacity-short"] {
        let mut world = World::three();
        let asked = world.decide(2).1;
        world.now = 1;
        for id in &asked {
            world.fails(*id, code);
        }
        assert_eq!(world.gate("near"), Gate::Open(at(101)), "{code}");
        let (planned, asked) = world.decide(2);
        assert_eq!(launched(&planned), [("far", 2)]);
        assert!(held_by(&planned).contains(&"no-capacity"));
        asked.into_iter().for_each(|id| world.to(id, State::Running));
        world.now = 101;
        let (planned, trial) = world.decide(7);
        assert_eq!(launched(&planned), [("near", 1), ("far", 1), ("any", 3)], "one to try");
        world.now = 102;
        let (planned, _) = world.decide(8);
        assert_eq!(launched(&planned), [("any", 1)]);
        assert!(held_by(&planned).contains(&"launch-probing"));
        world.now = 110;
        world.to(trial[0], State::Running);
        assert_eq!(world.gate("near"), Gate::Closed);
        assert_eq!(launched(&world.decide(9).0), [("near", 1)], "new ones go there again");
        assert!(drained(&world.decide(9).0).is_empty(), "and nobody moves there");
    }
}

#[test]
fn a_placement_that_is_refused_is_parked_until_what_is_asked_changes() {
    let mut world = World::three();
    let asked = world.decide(2).1;
    world.now = 1;
    world.fails(asked[0], "site-refused");
    world.fails(asked[1], "site-refused");
    assert_eq!(world.gate("near"), Gate::Parked);
    world.now = 1_000_000;
    let (planned, _) = world.decide(2);
    assert_eq!(launched(&planned), [("far", 2)]);
    let reason = planned.suppressed.iter().find(|reason| reason.code == "placement-parked").unwrap();
    assert!(
        reason.text.contains("near") && reason.text.contains("the site says site-refused"),
        "{reason}"
    );
    assert_eq!(planned.look_again_at, None, "no waiting mends it");
    world.set(|pool| pool.spec.placements[0].max = Some(5));
    world.decide(2);
    assert_eq!(world.gate("near"), Gate::Parked, "how many may be there is no other question");
    world.set(|pool| pool.spec.placements[0].machine.image = Some("ami-2".into()));
    assert_eq!(launched(&world.decide(3).0), [("near", 1)]);
}

#[test]
fn a_change_of_the_template_or_of_the_site_lets_a_parked_placement_launch_again() {
    let change_template = |world: &mut World| {
        world.set(|pool| {
            pool.template.machine.image = Some("ami-2".into());
            pool.template_version = "t@2".into();
        });
    };
    let change_site = |world: &mut World| {
        let sites = BTreeMap::from([("near".parse().unwrap(), SiteFacts::of(100, &"another region"))]);
        world.view.on_sites(Arc::new(sites));
    };
    let changes: [&dyn Fn(&mut World); 2] = [&change_template, &change_site];
    for change in changes {
        let mut world = World::three();
        let asked = world.decide(1).1;
        world.fails(asked[0], "site-credentials");
        world.decide(0);
        assert_eq!(world.gate("near"), Gate::Parked);
        change(&mut world);
        assert_eq!(launched(&world.decide(1).0), [("near", 1)]);
    }
}

#[test]
fn a_refusal_of_what_is_not_asked_any_more_parks_nothing() {
    let mut world = World::three();
    let asked = world.decide(1).1;
    world.set(|pool| pool.template_version = "t@2".into());
    world.now = 1;
    world.fails(asked[0], "site-refused");
    assert_eq!(launched(&world.decide(1).0), [("near", 1)]);
}

#[test]
fn a_lowered_maximum_moves_the_excess_once_others_run_in_its_place() {
    let mut world = World::new(json!([{"site": "near"}, {"site": "far"}]), json!({}));
    let near = world.running("near", 4);
    world.decide(4);
    world.now = 10;
    world.place(json!([{"site": "near", "max": 2}, {"site": "far"}]));
    let (planned, asked) = world.decide(4);
    assert_eq!(launched(&planned), [("far", 2)], "others first");
    assert_eq!(planned.launches[0].purpose, Purpose::Refresh);
    assert!(drained(&planned).is_empty());
    world.now = 20;
    world.to(asked[0], State::Running);
    let (planned, _) = world.decide(4);
    assert_eq!(planned.drains, [(Cause::PlacementLeft, vec![near[0]])], "one runs, one goes");
    assert!(launched(&planned).is_empty());
    world.to(asked[1], State::Running);
    assert_eq!(drained(&world.decide(4).0), [near[1]]);
    let (planned, _) = world.decide(4);
    assert!(!planned.acts() && planned.suppressed.is_empty(), "{:?}", planned.suppressed);
}

#[test]
fn a_placement_taken_out_of_the_pool_empties_within_the_replacement_limit() {
    let limits = json!({"replace-at-once": 2, "replace-window": "60s", "cooldown-down": "0s", "stabilization": "0s"});
    let mut world = World::new(json!([{"site": "old"}]), json!({"limits": limits, "max": 20}));
    world.running("old", 6);
    world.decide(6);
    world.place(json!([{"site": "new"}]));
    let mut most = 0;
    let mut fewest = 6;
    for _ in 0..400 {
        world.now += 1;
        let (planned, asked) = world.decide(6);
        most = most.max(drained(&planned).len());
        asked.into_iter().for_each(|id| world.to(id, State::Running));
        fewest = fewest.min(world.view.counts().capacity - world.view.counts().pending);
        let gone: Vec<InstanceId> = world.view.draining().map(|member| member.instance.id).collect();
        gone.into_iter().for_each(|id| world.to(id, State::Terminated));
    }
    assert_eq!((world.view.staying_on("old"), world.view.staying_on("new")), (0, 6));
    assert_eq!((most, fewest), (2, 6), "two at once, and never fewer than wanted");
    assert!(world.now >= 3 * 60 - 60, "two windows lie between three batches");
}

#[test]
fn without_room_for_more_they_drain_first_but_never_below_the_minimum() {
    let mut world = World::new(json!([{"site": "old"}]), json!({"min": 3, "max": 4}));
    world.running("old", 4);
    world.decide(4);
    world.place(json!([{"site": "new"}]));
    world.now = 1;
    let (planned, _) = world.decide(4);
    assert_eq!(drained(&planned).len(), 1, "three are the least");
    assert_eq!(launched(&planned), [("new", 1)]);
    assert!(held_by(&planned).contains(&"placement-moving"));
    world.now = 2;
    assert!(!world.decide(4).0.acts(), "the new one does not run yet");
}

#[test]
fn where_the_minimum_is_all_there_may_be_a_batch_goes_at_a_time() {
    let limits = json!({"replace-at-once": 2, "replace-window": "5s", "cooldown-down": "0s", "stabilization": "0s"});
    let mut world = World::new(json!([{"site": "old"}]), json!({"min": 4, "max": 4, "limits": limits}));
    world.running("old", 4);
    world.decide(4);
    world.place(json!([{"site": "new"}]));
    let mut fewest = 4;
    for _ in 0..30 {
        world.now += 1;
        let (_, asked) = world.decide(4);
        fewest = fewest.min(world.view.counts().capacity - world.view.counts().pending);
        asked.into_iter().for_each(|id| world.to(id, State::Running));
        let gone: Vec<InstanceId> = world.view.draining().map(|member| member.instance.id).collect();
        gone.into_iter().for_each(|id| world.to(id, State::Terminated));
    }
    assert_eq!((world.view.staying_on("old"), world.view.staying_on("new"), fewest), (0, 4, 2));
}

#[test]
fn a_placement_that_goes_to_another_site_under_its_name_is_emptied_there() {
    let placements = |site: &str| json!([{"site": site, "name": "main"}]);
    let mut world = World::new(placements("near"), json!({}));
    let near = world.running("main", 2);
    world.decide(2);
    world.place(placements("far"));
    assert_eq!((world.view.staying_on("main"), world.view.staying_on("main@near")), (0, 2));
    assert!(world.view.members().all(|member| !member.is_outdated()), "they leave for that");
    let (planned, asked) = world.decide(2);
    assert_eq!(launched(&planned), [("main", 2)]);
    asked.into_iter().for_each(|id| world.to(id, State::Running));
    let (planned, _) = world.decide(2);
    assert_eq!(planned.drains, [(Cause::PlacementLeft, near)]);
}

#[test]
fn nobody_moves_in_a_storm() {
    let mut world = World::new(json!([{"site": "old"}]), json!({"max": 20}));
    world.running("old", 8);
    world.decide(8);
    for id in world.view.members().map(|m| m.instance.id).take(5).collect::<Vec<_>>() {
        world.change(id, |instance| {
            instance.exit = Some(serde_json::from_value(json!({"code": 1})).unwrap());
        });
    }
    world.place(json!([{"site": "new"}]));
    world.running("new", 1);
    let (planned, _) = world.decide(3);
    assert!(world.guards.storm.is_some());
    assert!(
        planned.drains.iter().all(|(why, _)| *why != Cause::PlacementLeft),
        "{:?}",
        planned.drains
    );
    assert!(held_by(&planned).contains(&"placement-moving"));
}

#[test]
fn nobody_is_given_up_for_a_move_while_nothing_takes_them() {
    let mut world = World::new(json!([{"site": "old"}]), json!({"max": 4}));
    world.running("old", 4);
    world.decide(4);
    world.place(json!([{"site": "new"}]));
    for (now, max) in [(1, 4), (2, 9)] {
        world.now = now;
        world.set(|pool| pool.spec.max = max);
        let breaker = world.guards.launching.entry("new".to_owned()).or_default();
        breaker.open_until = Some(at(1_000));
        let (planned, _) = world.decide(4);
        assert!(!planned.acts(), "{max}: {planned:?}");
        assert!(held_by(&planned).contains(&"placement-moving"), "{:?}", planned.suppressed);
    }
}

#[test]
fn placements_that_take_fewer_than_are_wanted_are_obeyed() {
    let mut world = World::new(json!([{"site": "near", "max": 5}]), json!({}));
    world.running("near", 5);
    world.decide(5);
    world.place(json!([{"site": "near", "max": 3}]));
    let (planned, _) = world.decide(5);
    assert_eq!((drained(&planned).len(), launched(&planned).len()), (2, 0));
    world.now = 1;
    assert!(!world.decide(5).0.acts());
}

#[test]
fn a_maximum_that_is_raised_again_takes_back_those_that_were_to_leave() {
    let mut world = World::new(json!([{"site": "near", "max": 4}]), json!({}));
    let near = world.running("near", 4);
    world.decide(4);
    world.place(json!([{"site": "near", "max": 3}]));
    assert_eq!(drained(&world.decide(4).0), [near[0]]);
    world.now = 1;
    world.place(json!([{"site": "near", "max": 4}]));
    let (planned, _) = world.decide(4);
    assert_eq!((planned.withdraw.clone(), launched(&planned).len()), (vec![near[0]], 0));
}

#[test]
fn protected_ones_stay_where_they_are_and_that_is_said() {
    let mut world = World::new(json!([{"site": "near"}, {"site": "far"}]), json!({}));
    let near = world.running("near", 1);
    world.change(near[0], |instance| instance.protected = true);
    world.decide(1);
    world.place(json!([{"site": "near", "max": 0}, {"site": "far"}]));
    let (planned, _) = world.decide(1);
    assert!(!planned.acts());
    assert_eq!(held_by(&planned), ["placement-kept"]);
}

#[test]
fn an_interrupted_one_is_replaced_at_once_and_is_no_sign_of_a_storm() {
    let limits = json!({"storm-at-least": 2, "storm-share": 0.3, "replace-at-once": 1, "replace-window": "1h"});
    let mut world = World::new(json!([{"site": "spot"}]), json!({"limits": limits, "max": 20}));
    let spot = world.running("spot", 6);
    world.decide(6);
    world.now = 100;
    for id in &spot[..4] {
        let drain = Drain {
            since: at(100),
            deadline: at(220),
            why: Cause::Interrupted,
        };
        world.change(*id, |instance| instance.drain = Some(drain));
    }
    let (planned, _) = world.decide(6);
    assert_eq!(launched(&planned), [("spot", 4)]);
    assert_eq!(planned.launches[0].purpose, Purpose::Replace);
    // They fall silent, as machines do that are gone.
    world.now = 2_000;
    for id in &spot[4..] {
        world.says(*id, Work::Idle);
    }
    world.hear_all();
    world.view.look(at(2_000));
    let (planned, _) = world.decide(6);
    assert!(!planned.acts() && planned.suppressed.is_empty(), "{planned:?}");
    assert_eq!(world.view.counts().unhealthy, 0);
    assert_eq!(world.guards.launching["spot"].score.interrupted, 4);
}

#[test]
fn one_that_the_site_took_without_notice_is_counted_once() {
    let mut world = World::three();
    let id = world.running("near", 1)[0];
    world.now = 50;
    let ending = Ending {
        since: at(50),
        why: Cause::Vanished,
        work: Work::Unknown,
        drained_for: None,
    };
    world.change(id, |instance| {
        instance.ending = Some(ending);
        instance.state = State::Terminating;
    });
    world.to(id, State::Terminated);
    assert_eq!(world.guards.launching["near"].score.interrupted, 1);
}

#[test]
fn what_launches_are_for_is_said_to_whoever_paces_them() {
    let purpose = |plan: &Plan| plan.launches[0].purpose;
    let mut world = World::new(json!([{"site": "near"}]), json!({"min": 2}));
    assert_eq!(purpose(&world.decide(2).0), Purpose::Replace, "up to the minimum");
    let (planned, asked) = world.decide(5);
    assert_eq!(purpose(&planned), Purpose::Grow);
    world.now = 1;
    world.fails(asked[0], "launch-failed");
    assert_eq!(purpose(&world.decide(5).0), Purpose::Grow, "the size it grows to was never reached");
    let coming: Vec<InstanceId> = world
        .view
        .members()
        .filter(|m| m.instance.state == State::Requested)
        .map(|m| m.instance.id)
        .collect();
    coming.iter().for_each(|id| world.to(*id, State::Running));
    world.decide(5);
    world.now = 100;
    world.to(coming[0], State::Terminated);
    assert_eq!(purpose(&world.decide(5).0), Purpose::Replace);
}

#[test]
fn the_learned_boot_time_is_that_of_the_placements_in_use() {
    let mut world = World::new(json!([{"site": "slow", "max": 3}, {"site": "fast"}]), json!({}));
    assert_eq!(world.guards.boot(&world.view), None);
    let asked = world.decide(4).1;
    world.now = 40;
    world.to(asked[3], State::Running);
    world.now = 80;
    asked[..3].iter().for_each(|id| world.to(*id, State::Running));
    let boot = |world: &World| world.guards.boot(&world.view).map(|boot| boot.as_secs());
    assert_eq!(boot(&world), Some((3 * 80 + 40) / 4));
    asked[..3].iter().for_each(|id| world.to(*id, State::Terminated));
    assert_eq!(boot(&world), Some(40));
    world.to(asked[3], State::Terminated);
    assert_eq!(boot(&world), Some(80), "the best-ranked one's is where the next go");
    let stored = serde_json::to_value(&world.guards).unwrap();
    assert_eq!(
        serde_json::from_value::<Guards>(stored).unwrap(),
        world.guards,
        "and a restart forgets none of it"
    );
}

#[test]
fn placements_that_are_no_more_are_forgotten_when_they_are_empty() {
    let mut world = World::three();
    let asked = world.decide(2).1;
    world.now = 1;
    asked.iter().for_each(|id| world.to(*id, State::Running));
    world.place(json!([{"site": "any"}]));
    world.decide(2);
    assert!(world.guards.launching.contains_key("near"));
    asked.iter().for_each(|id| world.to(*id, State::Terminated));
    world.decide(2);
    assert!(!world.guards.launching.contains_key("near"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever placements there are and however launching goes: nothing is launched by one that is parked or paused, one instance by
    /// one that is being tried, none beyond a placement's maximum or the pool's; nobody is named twice; moves leave the minimum running.
    #[test]
    fn laws_of_placing(
        maxima in prop::collection::vec(prop::option::of(0u32..6), 1..5),
        steps in prop::collection::vec((0u8..14, 0usize..20, 0u32..13), 1..80),
    ) {
        let placements = |maxima: &[Option<u32>]| {
            let all = maxima.iter().enumerate().map(|(n, max)| match max {
                Some(max) => json!({"site": "here", "name": format!("p{n}"), "max": max}),
                None => json!({"site": "here", "name": format!("p{n}")}),
            });
            Value::from(all.collect::<Vec<_>>())
        };
        let limits = json!({"cooldown-down": "0s", "stabilization": "0s", "replace-at-once": 2, "replace-window": "5s",
            "capacity-memory": "7s", "launch-backoff": "3s", "launch-failures": 2});
        let mut maxima = maxima;
        let mut world = World::new(placements(&maxima), json!({"limits": limits, "min": 1}));
        let mut ids: Vec<InstanceId> = Vec::new();
        for (what, which, desired) in steps {
            world.now += 1;
            let one = ids.get(which % ids.len().max(1)).copied();
            let state = one.and_then(|id| world.view.member(id)).map(|m| m.instance.state);
            let n = which % maxima.len();
            match (what, one.zip(state)) {
                (0 | 1, Some((id, state))) if state < State::Running => world.to(id, State::Running),
                (2, Some((id, state))) if state < State::Running => world.fails(id, "site-capacity"),
                (3, Some((id, state))) if state < State::Running => world.fails(id, "site-refused"),
                (4, Some((id, state))) if state < State::Running => world.fails(id, "launch-failed"),
                (5, Some((id, state))) if state < State::Terminated => world.to(id, State::Terminated),
                (6, Some((id, State::Running))) => world.says(id, Work::Busy),
                (7, Some((id, State::Running))) => world.change(id, |i| i.protected = !i.protected),
                (8, _) => {
                    maxima[n] = (desired < 6).then_some(desired);
                    world.place(placements(&maxima));
                }
                (9, _) if maxima.len() > 1 => {
                    maxima.pop();
                    world.place(placements(&maxima));
                }
                (10, _) => world.set(|pool| pool.spec.max = desired.max(1)),
                (11, _) => {
                    let name = format!("p{n}");
                    if let Some(breaker) = world.guards.launching.get_mut(&name) {
                        breaker.reset(at(world.now));
                    }
                }
                (12, Some((id, State::Running))) => {
                    let drain = Drain { since: at(world.now), deadline: at(world.now + 120), why: Cause::Interrupted };
                    world.change(id, |i| i.drain = Some(drain));
                }
                _ => world.hear_all(),
            }
            world.view.look(at(world.now));
            let gates: BTreeMap<String, Gate> = (0..maxima.len()).map(|n| (format!("p{n}"), world.gate(&format!("p{n}")))).collect();
            let before: BTreeMap<String, u32> = world.view.placed().map(|(name, n)| (name.to_owned(), n)).collect();
            let was = world.view.counts();
            let running_before = was.capacity - was.pending;
            let pool = world.view.pool.clone();
            let pending: BTreeMap<String, u32> = gates.keys().map(|name| (name.clone(), world.view.pending_on(name))).collect();
            let (planned, asked) = world.decide(desired);

            let mut named: Vec<InstanceId> = drained(&planned);
            named.extend(planned.terminate.iter().flat_map(|(_, ids)| ids).map(|(id, _)| *id));
            named.extend(&planned.withdraw);
            let all = named.len();
            named.sort_unstable();
            named.dedup();
            prop_assert_eq!(all, named.len(), "somebody is named twice");
            for batch in &planned.launches {
                let most = match gates[&batch.placement] {
                    Gate::Closed => usize::MAX,
                    Gate::HalfOpen => 1,
                    Gate::Probing if pending[&batch.placement] == 0 => 1,
                    Gate::Probing | Gate::Open(_) | Gate::Parked => 0,
                };
                prop_assert!(batch.wanted.len() <= most, "{} through {:?}", batch.wanted.len(), gates[&batch.placement]);
            }
            for placement in &pool.spec.placements {
                let max = placement.max.unwrap_or(pool.spec.max).min(pool.spec.max);
                let had = before.get(placement.called()).copied().unwrap_or(0);
                let has = world.view.staying_on(placement.called());
                prop_assert!(has <= max.max(had), "{} has {has} of {max}, had {had}", placement.called());
            }
            let counts = world.view.counts();
            if !asked.is_empty() {
                prop_assert!(counts.capacity <= pool.spec.max, "{} of {}", counts.capacity, pool.spec.max);
            }
            let moved = planned.drains.iter().filter(|(why, _)| *why == Cause::PlacementLeft).map(|(_, ids)| ids.len()).sum::<usize>();
            prop_assert!(moved <= 2, "more are moved at once than are replaced");
            if moved > 0 && planned.drains.len() == 1 && planned.terminate.is_empty() {
                let running = counts.capacity - counts.pending;
                let takes = pool.spec.placements.iter().map(|p| p.max.unwrap_or(pool.spec.max).min(pool.spec.max));
                let goal = planned.target.min(takes.sum::<u32>()).min(pool.spec.max);
                // Where the minimum is all there may be, a batch may be missing, or nobody could ever leave.
                let least = if pool.spec.min >= goal { goal.saturating_sub(2) } else { pool.spec.min };
                prop_assert!(running >= least.min(running_before), "moving left {running}");
            }
            let (recounted, _) = world.view.recount();
            prop_assert_eq!(counts, recounted, "kept counts differ from counting");
            ids.extend(asked);
        }
    }
}

//! A refresh with the rest of the plan, on one pool, as sentences and as laws. Time passes in steps of a second; orders are carried out by
//! a provisioner that is a few lines long.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epu_controller::guards::{Breaker, Guards, Parked};
use epu_controller::listening::Listening;
use epu_controller::plan::{Plan, Wish, plan};
use epu_controller::rollout::{self, Step};
use epu_controller::view::{Ordered, View};
use epu_core::fact::Heard;
use epu_core::heartbeat::Condition;
use epu_core::id::{InstanceId, SlotLabel};
use epu_core::instance::{Cause, Drain, Ending, Exit, Instance, Work};
use epu_core::life::State;
use epu_core::pool::{Pool, Refresh};
use epu_core::request::SiteWord;
use epu_core::time::Timestamp;
use epu_decision_engines::{Decision, Memory};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

const OLD: &str = "t@old";
const NEW: &str = "t@new";

/// What becomes of a launched instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Runs,
    /// It does not come up.
    Fails,
    /// It ends with a fault this long after it came up.
    Crashes(i64),
}

/// One pool, driven by hand.
struct Rig {
    view: View,
    guards: Guards,
    target: Option<u32>,
    desired: u32,
    slots: Vec<&'static str>,
    now: i64,
    minted: u128,
    /// How long a machine takes to come up.
    boot: i64,
    /// How long a busy worker goes on after it was told to drain.
    work: i64,
    fate: Fate,
    comes: BTreeMap<InstanceId, (i64, Fate)>,
    crashes: BTreeMap<InstanceId, i64>,
    goes: BTreeMap<InstanceId, i64>,
    /// When each was drained by the refresh, or ended as unhealthy.
    replaced: Vec<i64>,
    /// Of each drain by the refresh, when.
    drained: Vec<(i64, InstanceId)>,
    done_at: Option<i64>,
    pauses: Vec<String>,
    last: Plan,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000)
}

fn pool(max: u32, limits: &serde_json::Value) -> Pool {
    serde_json::from_value(json!({
        "name": "web", "template_version": OLD, "origin": {"is": "operator"}, "revision": 1, "added_at": 0,
        "template": {"run": ["sleep", "1"]},
        "spec": {"template": "t", "min": 0, "max": max, "engine": {"keep": {"n": 3}}, "placements": [{"site": "here"}], "limits": limits},
    }))
    .unwrap()
}

impl Rig {
    /// `n` instances of the old version, idle, in a pool of at most `max`, two at a time in a minute.
    fn of(n: u32, max: u32) -> Self {
        let limits = json!({"replace-at-once": 2, "replace-window": "60s", "cooldown-down": "0s", "stabilization": "0s"});
        Self::with(n, max, &limits)
    }

    fn with(n: u32, max: u32, limits: &serde_json::Value) -> Self {
        let view = View::new(Arc::new(pool(max, limits)), at(0));
        let guards = Guards {
            settings: view.settings(),
            ..Guards::default()
        };
        let mut rig = Self {
            view,
            guards,
            target: Some(n),
            desired: n,
            slots: Vec::new(),
            now: 0,
            minted: 0,
            boot: 20,
            work: 5,
            fate: Fate::Runs,
            comes: BTreeMap::new(),
            crashes: BTreeMap::new(),
            goes: BTreeMap::new(),
            replaced: Vec::new(),
            drained: Vec::new(),
            done_at: None,
            pauses: Vec::new(),
            last: Plan::default(),
        };
        for _ in 0..n {
            let id = rig.mint(OLD, None, 1);
            rig.comes_up(id, Fate::Runs);
        }
        rig.listen();
        rig
    }

    fn mint(&mut self, version: &str, slot: Option<&str>, launch: u128) -> InstanceId {
        self.minted += 1;
        let id = InstanceId(Uuid::from_u128(self.minted));
        let mut instance: Instance = serde_json::from_value(json!({
            "id": id, "pool": "web", "launch": Uuid::from_u128(launch), "index": 0, "site": "here", "state": State::Requesting,
            "version": 1, "created_at": at(self.now), "state_since": at(self.now), "template": version,
        }))
        .unwrap();
        instance.slot = slot.map(|label| SlotLabel::new(label).unwrap());
        self.view.instance(Arc::new(instance), at(self.now));
        id
    }

    fn change(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance)) {
        let mut instance = self.view.member(id).unwrap().instance.as_ref().clone();
        instance.version += 1;
        let before = instance.state;
        change(&mut instance);
        if instance.state != before {
            instance.state_since = at(self.now);
        }
        let changed = self.view.instance(Arc::new(instance), at(self.now));
        let limits = self.view.pool.spec.limits.clone();
        for outcome in &changed.outcomes {
            self.guards.outcome(outcome, &limits);
        }
    }

    fn comes_up(&mut self, id: InstanceId, fate: Fate) {
        let now = at(self.now);
        if fate == Fate::Fails {
            self.change(id, |i| i.state = State::Failed);
            return;
        }
        self.change(id, |i| {
            i.state = State::Running;
            i.ready_at = Some(now);
        });
        self.says(id, Work::Idle);
        if let Fate::Crashes(after) = fate {
            self.crashes.insert(id, self.now + after);
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

    fn listen(&mut self) {
        let listening = Listening {
            since: at(0),
            until: at(self.now),
        };
        self.view.listened(listening, true, at(self.now));
    }

    fn set(&mut self, change: impl FnOnce(&mut Pool)) {
        let mut pool = self.view.pool.as_ref().clone();
        pool.revision += 1;
        change(&mut pool);
        self.view.set_pool(Arc::new(pool), at(self.now));
        self.guards.settings = self.view.settings();
    }

    fn refresh_to(&mut self, version: &str) -> &mut Self {
        let since = at(self.now);
        let version = version.to_owned();
        self.set(|pool| {
            pool.template_version = version;
            pool.refresh = Some(Refresh {
                since,
                by: "test".to_owned(),
                paused: None,
                back: false,
            });
        });
        self.done_at = None;
        self
    }

    fn pause(&mut self, why: Option<&str>) {
        let why = why.map(str::to_owned);
        self.set(|pool| pool.refresh.as_mut().unwrap().paused = why);
    }

    fn ids(&self, is_so: impl Fn(&Instance) -> bool) -> Vec<InstanceId> {
        let live = self.view.members().filter(|m| m.instance.is_live());
        live.filter(|m| is_so(&m.instance)).map(|m| m.instance.id).collect()
    }

    fn running(&self, version: &str) -> usize {
        self.ids(|i| i.template == version && i.state == State::Running && !i.is_leaving())
            .len()
    }

    fn version_of(&self, id: InstanceId) -> String {
        self.view.member(id).unwrap().instance.template.clone()
    }

    fn held_by(&self) -> Vec<&str> {
        self.last.suppressed.iter().map(|reason| reason.code.as_ref()).collect()
    }

    /// One second passes.
    fn tick(&mut self) -> &mut Self {
        self.now += 1;
        self.provision();
        for id in self.ids(|i| i.state == State::Running) {
            let work = self.view.member(id).unwrap().work;
            self.says(id, work);
        }
        self.listen();
        self.view.look(at(self.now));
        self.decide();
        self
    }

    fn pass(&mut self, seconds: i64) -> &mut Self {
        for _ in 0..seconds {
            self.tick();
        }
        self
    }

    /// What the provisioner, the site and the agents do meanwhile.
    fn provision(&mut self) {
        let due = |all: &BTreeMap<InstanceId, i64>, now| -> Vec<InstanceId> {
            all.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect()
        };
        let now = at(self.now);
        let coming: Vec<_> = self
            .comes
            .iter()
            .filter(|(_, (at, _))| *at <= self.now)
            .map(|(id, (_, fate))| (*id, *fate))
            .collect();
        for (id, fate) in coming {
            self.comes.remove(&id);
            if self.goes.contains_key(&id) {
                continue;
            }
            self.comes_up(id, fate);
        }
        for id in due(&self.crashes, self.now) {
            self.crashes.remove(&id);
            if self.view.member(id).is_some_and(|m| m.instance.state == State::Running) {
                self.change(id, |i| {
                    i.exit = Some(Exit {
                        code: Some(1),
                        signal: None,
                        output: String::new(),
                    });
                });
            }
        }
        for id in due(&self.goes, self.now) {
            self.goes.remove(&id);
            self.change(id, |i| {
                i.state = State::Terminated;
                i.ending.get_or_insert(Ending {
                    since: now,
                    why: Cause::Drained,
                    work: Work::Idle,
                    drained_for: None,
                });
            });
        }
    }

    fn decide(&mut self) {
        let slots = self.slots.iter().map(|label| (SlotLabel::new(label).unwrap(), BTreeMap::new()));
        let decision = Decision {
            desired: self.desired,
            slots: slots.collect(),
            stepwise: false,
            reasons: vec![],
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
        self.carry_out(&planned);
        self.last = planned;
    }

    fn carry_out(&mut self, planned: &Plan) {
        let now = at(self.now);
        for (why, ids) in &planned.drains {
            for id in ids {
                if *why == Cause::Refresh {
                    self.replaced.push(self.now);
                    self.drained.push((self.now, *id));
                }
                self.view.ordered(*id, Ordered::Drain);
                let drain = Drain {
                    since: now,
                    deadline: now + std::time::Duration::from_secs(3_600),
                    why: *why,
                };
                self.change(*id, |i| i.drain = Some(drain));
                let busy = self.view.member(*id).unwrap().work == Work::Busy;
                self.goes.insert(*id, self.now + if busy { self.work } else { 1 });
            }
        }
        for (why, ids) in &planned.terminate {
            for (id, work) in ids {
                if *why == Cause::Unhealthy {
                    self.replaced.push(self.now);
                }
                let (why, work) = (*why, *work);
                self.change(*id, |i| {
                    i.state = State::Terminating;
                    i.ending = Some(Ending {
                        since: now,
                        why,
                        work,
                        drained_for: None,
                    });
                });
                self.goes.insert(*id, self.now + 3);
            }
        }
        for id in &planned.withdraw {
            self.goes.remove(id);
            self.change(*id, |i| i.drain = None);
        }
        let version = self.view.pool.template_version.clone();
        let launch = 1_000_000 + self.minted;
        let wanted: Vec<_> = planned.launches.iter().flat_map(|batch| batch.wanted.clone()).collect();
        for slot in wanted {
            let id = self.mint(&version, slot.as_ref().map(|(label, _)| label.as_str()), launch);
            let fate = if version == NEW { self.fate } else { Fate::Runs };
            self.comes.insert(id, (self.now + self.boot, fate));
        }
        match &planned.refresh {
            None => {}
            Some(Step::Done) => {
                self.set(|pool| pool.refresh = None);
                self.done_at = Some(self.now);
            }
            Some(Step::Pause(why)) => {
                self.pauses.push(why.clone());
                self.pause(Some(why));
            }
        }
    }

    /// What must be so after every step.
    fn check(&self, limit: usize, max: u32) {
        for (n, first) in self.replaced.iter().enumerate() {
            let within = self.replaced.iter().skip(n).take_while(|at| **at - first < 60).count();
            assert!(within <= limit, "{within} were replaced within a minute of {first}");
        }
        let staying = self.ids(|i| !i.is_leaving()).len();
        assert!(
            staying <= usize::try_from(max).unwrap(),
            "{staying} stay at {}, the maximum is {max}",
            self.now
        );
    }
}

fn healthy(rig: &Rig) -> usize {
    let runs = |m: &&epu_controller::view::Member| m.class() == epu_controller::view::Class::Running;
    rig.view.members().filter(runs).count()
}

#[test]
fn at_the_maximum_old_ones_drain_first_a_batch_at_a_time() {
    let mut rig = Rig::of(10, 10);
    rig.refresh_to(NEW);
    while rig.done_at.is_none() {
        assert!(rig.now < 600, "{:?}", rig.held_by());
        rig.tick().check(2, 10);
        assert!(healthy(&rig) >= 8, "{} run at {}", healthy(&rig), rig.now);
    }
    rig.pass(25);
    assert_eq!((rig.running(NEW), rig.running(OLD), rig.drained.len()), (10, 0, 10));
    assert_eq!(rig.minted, 20, "no more were launched than replaced");
    assert_eq!(rig.guards.rollout, None, "nothing is remembered of it");
}

#[test]
fn below_the_maximum_new_ones_run_before_old_ones_drain() {
    let mut rig = Rig::of(10, 12);
    rig.refresh_to(NEW);
    let mut largest = 0;
    while rig.done_at.is_none() {
        assert!(rig.now < 600, "{:?}", rig.held_by());
        rig.tick().check(2, 12);
        assert!(healthy(&rig) >= 10, "{} run at {}", healthy(&rig), rig.now);
        largest = largest.max(rig.ids(|i| !i.is_leaving()).len());
    }
    assert_eq!((rig.running(NEW), rig.minted, largest), (10, 20, 12));
    rig.pass(5);
    assert_eq!(rig.running(NEW), 10, "nothing is given up afterwards");
}

#[test]
fn a_pool_that_is_wanted_larger_than_its_placements_take_is_refreshed_all_the_same() {
    // Its only placement takes five.
    let mut rig = Rig::of(5, 10);
    rig.set(|pool| pool.spec.placements[0].max = Some(5));
    rig.desired = 10;
    rig.refresh_to(NEW);
    while rig.done_at.is_none() {
        assert!(rig.now < 600, "{:?}", rig.held_by());
        rig.tick().check(2, 5);
        assert!(healthy(&rig) >= 3);
    }
    // The first placement is full, the other one has no room.
    let mut rig = Rig::of(5, 10);
    rig.set(|pool| {
        pool.spec.placements[0].max = Some(5);
        pool.spec.placements.push(serde_json::from_value(json!({"site": "there"})).unwrap());
    });
    rig.guards.launching.insert(
        "there".to_owned(),
        Breaker {
            open_until: Some(at(10_000)),
            full_since: Some(at(0)),
            ..Breaker::default()
        },
    );
    rig.desired = 10;
    rig.refresh_to(NEW);
    while rig.done_at.is_none() {
        assert!(rig.now < 600, "{:?}", rig.held_by());
        rig.tick().check(2, 5);
    }
}

#[test]
fn a_placement_whose_credentials_are_refused_holds_nothing_up_where_others_have_room() {
    for (code, is_held) in [("site-credentials", false), ("site-refused", true)] {
        let mut rig = Rig::of(5, 10);
        rig.set(|pool| {
            pool.spec.placements.push(serde_json::from_value(json!({"site": "there"})).unwrap());
        });
        let there = rig.view.pool.spec.placements[1].clone();
        rig.refresh_to(NEW);
        let parked = Parked {
            since: at(0),
            fault: epu_core::Fault::new(code, "no"),
            of: rig.view.asked_by(&there),
        };
        let breaker = Breaker {
            parked: Some(parked),
            ..Breaker::default()
        };
        rig.guards.launching.insert("there".to_owned(), breaker);
        rig.tick();
        assert_eq!(rig.held_by().contains(&"refresh-held"), is_held, "{code}: {:?}", rig.held_by());
    }
}

#[test]
fn a_placement_that_is_to_be_tried_slows_nothing_down_where_others_have_room() {
    let mut rig = Rig::of(5, 10);
    rig.set(|pool| pool.spec.placements.push(serde_json::from_value(json!({"site": "there"})).unwrap()));
    let breaker = Breaker {
        open_until: Some(at(0)),
        ..Breaker::default()
    };
    rig.guards.launching.insert("there".to_owned(), breaker);
    rig.refresh_to(NEW).tick();
    assert_eq!(rig.minted, 5 + 2, "a whole batch comes");
}

#[test]
fn the_minimum_runs_while_old_ones_drain_first() {
    let mut rig = Rig::of(10, 10);
    rig.set(|pool| pool.spec.min = 9);
    rig.refresh_to(NEW);
    while rig.done_at.is_none() {
        assert!(rig.now < 1_000, "{:?}", rig.held_by());
        rig.tick();
        assert!(healthy(&rig) >= 9, "{} run at {}", healthy(&rig), rig.now);
    }
}

#[test]
fn going_back_takes_back_who_still_drains() {
    let mut rig = Rig::of(10, 10);
    rig.work = 300;
    for id in rig.ids(|_| true) {
        rig.says(id, Work::Busy);
    }
    rig.refresh_to(NEW).tick();
    assert_eq!(rig.drained.len(), 2);
    let goes: Vec<InstanceId> = rig.comes.keys().copied().collect();
    for id in goes {
        rig.comes.remove(&id);
        rig.change(id, |i| i.state = State::Terminated);
    }
    rig.refresh_to(OLD).tick();
    assert_eq!(rig.last.withdraw.len(), 2, "{:?}", rig.last);
}

#[test]
fn what_failed_is_counted_by_the_controllers_clock_whatever_the_provisioners_says() {
    let mut rig = Rig::of(10, 10);
    rig.now = 1_000;
    rig.refresh_to(NEW).tick();
    let comes: Vec<InstanceId> = rig.comes.keys().copied().collect();
    rig.comes.clear();
    for id in comes {
        rig.change(id, |i| i.state = State::Failed);
        // The provisioner is five minutes behind.
        rig.change(id, |i| i.state_since = at(700));
    }
    rig.tick();
    assert_eq!(rig.guards.rollout.as_ref().unwrap().failed.len(), 1);
}

#[test]
fn the_pool_goes_on_following_its_engine_meanwhile() {
    let mut rig = Rig::of(10, 14);
    rig.refresh_to(NEW).pass(30);
    rig.desired = 12;
    rig.pass(40).check(2, 14);
    assert!(rig.running(OLD) + rig.running(NEW) >= 12);
    rig.desired = 6;
    while rig.done_at.is_none() {
        assert!(rig.now < 600, "{:?}", rig.held_by());
        rig.tick().check(2, 14);
    }
    rig.pass(5);
    assert_eq!((rig.running(NEW), rig.running(OLD)), (6, 0));
}

#[test]
fn idle_ones_go_before_busy_ones_and_the_oldest_version_first() {
    let mut rig = Rig::of(4, 4);
    let first: Vec<InstanceId> = rig.ids(|_| true);
    for id in &first[..3] {
        rig.says(*id, Work::Busy);
    }
    rig.refresh_to("t@middle").pass(25);
    assert_eq!(rig.drained.first().map(|(_, id)| *id), Some(first[3]), "the idle one");
    let middle: BTreeSet<InstanceId> = rig.ids(|i| i.template == "t@middle").into_iter().collect();
    assert_eq!(middle.len(), 2);
    rig.refresh_to(NEW);
    let before = rig.drained.len();
    while rig.done_at.is_none() {
        assert!(rig.now < 900, "{:?}", rig.held_by());
        rig.tick().check(2, 4);
    }
    let order: Vec<InstanceId> = rig.drained[before..].iter().map(|(_, id)| *id).collect();
    let firsts = order.iter().take(2).all(|id| first.contains(id));
    assert!(
        firsts && order[2..].iter().all(|id| middle.contains(id)),
        "the busy ones of the oldest version went before idle ones"
    );
}

#[test]
fn protected_ones_are_shown_and_stay() {
    let mut rig = Rig::of(3, 3);
    let kept = rig.ids(|_| true)[0];
    rig.change(kept, |i| i.protected = true);
    rig.refresh_to(NEW).pass(200);
    assert_eq!((rig.running(OLD), rig.running(NEW), rig.done_at), (1, 2, None));
    assert_eq!(rig.held_by(), ["refresh-protected"]);
    assert_eq!(rollout::outdated(&rig.view), (1, 0));
    rig.change(kept, |i| i.protected = false);
    rig.pass(60);
    assert!(rig.done_at.is_some());
}

#[test]
fn a_slot_is_handed_on() {
    let mut rig = Rig::of(2, 5);
    for id in rig.ids(|_| true) {
        rig.change(id, |i| i.state = State::Terminated);
    }
    rig.slots = vec!["a", "b"];
    rig.desired = 3;
    rig.pass(25);
    assert_eq!(rig.running(OLD), 3);
    rig.refresh_to(NEW);
    while rig.done_at.is_none() {
        assert!(rig.now < 600, "{:?}", rig.held_by());
        rig.tick().check(2, 5);
        let holders = rig.view.slot_members().map(|(_, ids)| ids.len()).max();
        assert!(holders.is_none_or(|n| n == 1), "a slot is there once");
    }
    rig.pass(25);
    let slots: Vec<String> = rig.view.filled_slots().map(|(label, _)| label.to_string()).collect();
    assert_eq!((slots, rig.running(NEW)), (vec!["a".to_owned(), "b".to_owned()], 3));
}

#[test]
fn a_version_that_does_not_come_up_takes_one_batch_and_pauses() {
    for max in [10, 12] {
        let mut rig = Rig::of(10, max);
        rig.fate = Fate::Fails;
        rig.refresh_to(NEW).pass(600).check(2, max);
        let lost = if max == 10 { 2 } else { 0 };
        assert_eq!((rig.drained.len(), rig.running(OLD)), (lost, 10 - lost), "max {max}");
        assert_eq!(rig.pauses.len(), 1, "max {max}: {:?}", rig.held_by());
        assert!(rig.pauses[0].contains("3 launches of t@new in a row"), "{:?}", rig.pauses);
        // A person mends the site and resumes.
        rig.fate = Fate::Runs;
        rig.pause(None);
        while rig.done_at.is_none() {
            assert!(rig.now < 2_000, "max {max}: {:?} {:?}", rig.held_by(), rig.guards.rollout);
            rig.tick().check(2, max);
        }
        rig.pass(25);
        assert_eq!((rig.running(NEW), rig.pauses.len()), (10, 1));
    }
}

#[test]
fn a_version_that_does_not_last_pauses_and_going_back_heals() {
    for max in [10, 12] {
        let mut rig = Rig::of(10, max);
        rig.fate = Fate::Crashes(40);
        rig.refresh_to(NEW).pass(900).check(2, max);
        assert_eq!(rig.pauses.len(), 1, "max {max}: {:?}", rig.held_by());
        assert!(rig.running(OLD) >= 6, "max {max}: {} are left", rig.running(OLD));
        rig.refresh_to(OLD);
        while rig.done_at.is_none() {
            assert!(rig.now < 2_000, "max {max}: {:?}", rig.held_by());
            rig.tick().check(2, max);
        }
        rig.pass(60);
        assert_eq!((rig.running(OLD), rig.running(NEW)), (10, 0), "max {max}");
    }
}

#[test]
fn one_failure_holds_until_the_next_one_has_lasted() {
    let mut rig = Rig::of(10, 12);
    rig.fate = Fate::Fails;
    rig.refresh_to(NEW).pass(22);
    assert_eq!(rig.held_by(), ["refresh-held"]);
    assert!(rig.drained.is_empty());
    rig.fate = Fate::Runs;
    rig.pass(60);
    assert_eq!(
        (rig.held_by(), rig.drained.len()),
        (vec!["refresh-held"], 0),
        "it has not lasted yet"
    );
    while rig.done_at.is_none() {
        assert!(rig.now < 900, "{:?}", rig.held_by());
        rig.tick().check(2, 12);
    }
    assert!(rig.pauses.is_empty());
}

#[test]
fn the_limit_is_shared_with_failed_ones() {
    let mut rig = Rig::of(10, 10);
    let sick = rig.ids(|_| true)[9];
    rig.change(sick, |i| {
        i.exit = Some(Exit {
            code: Some(1),
            signal: None,
            output: String::new(),
        });
    });
    rig.refresh_to(NEW).tick().check(2, 10);
    assert_eq!(
        (rig.drained.len(), rig.replaced.len()),
        (1, 2),
        "one failed, so one less is refreshed"
    );
    rig.pass(58).check(2, 10);
    assert_eq!(rig.drained.len(), 1);
    rig.pass(5).check(2, 10);
    assert_eq!(rig.drained.len(), 3);
}

#[test]
fn what_is_paused_stays_as_it_is_and_goes_on_from_there() {
    let mut rig = Rig::of(10, 12);
    rig.refresh_to(NEW).pass(10);
    assert_eq!(rig.ids(|i| i.template == NEW).len(), 2, "launched first");
    rig.pause(Some("lunch"));
    rig.pass(300).check(2, 12);
    assert_eq!(
        (rig.running(OLD), rig.running(NEW), rig.drained.len()),
        (10, 2, 0),
        "what came up keeps its place"
    );
    assert_eq!(rig.held_by(), ["refresh-paused"]);
    rig.pause(None);
    while rig.done_at.is_none() {
        assert!(rig.now < 900, "{:?}", rig.held_by());
        rig.tick().check(2, 12);
    }
    assert_eq!((rig.running(NEW), rig.minted), (10, 20));
}

#[test]
fn what_is_stopped_gives_up_what_is_too_much() {
    let mut rig = Rig::of(10, 12);
    rig.refresh_to(NEW).pass(10);
    rig.set(|pool| pool.refresh = None);
    rig.pass(30);
    assert_eq!((rig.running(OLD) + rig.running(NEW), rig.drained.len()), (10, 0));
}

#[test]
fn nothing_is_drained_in_a_storm_while_replacing_is_paused_or_before_all_was_heard() {
    let mut rig = Rig::of(10, 10);
    for id in rig.ids(|_| true).into_iter().take(6) {
        rig.change(id, |i| {
            i.exit = Some(Exit {
                code: Some(1),
                signal: None,
                output: String::new(),
            });
        });
    }
    rig.refresh_to(NEW).pass(30);
    assert!(
        rig.drained.is_empty() && rig.held_by().contains(&"refresh-held"),
        "{:?}",
        rig.held_by()
    );

    let mut rig = Rig::of(10, 10);
    rig.set(|pool| pool.paused.replace = true);
    rig.refresh_to(NEW).pass(30);
    assert!(
        rig.drained.is_empty() && rig.held_by().contains(&"refresh-held"),
        "{:?}",
        rig.held_by()
    );

    let mut rig = Rig::of(10, 10);
    rig.refresh_to(NEW);
    rig.view.hear_anew(at(rig.now));
    rig.decide();
    assert!(
        rig.drained.is_empty() && rig.held_by().contains(&"refresh-held"),
        "{:?}",
        rig.held_by()
    );
}

#[test]
fn one_that_is_out_of_contact_is_left_to_the_health_ladder() {
    let mut rig = Rig::of(2, 2);
    let id = rig.ids(|_| true)[0];
    rig.now = 200;
    let other = rig.ids(|_| true)[1];
    rig.says(other, Work::Idle);
    rig.listen();
    rig.view.look(at(200));
    rig.view.site_said(id, SiteWord::Running, at(200));
    rig.refresh_to(NEW).decide();
    assert!(rig.drained.iter().all(|(_, drained)| *drained != id), "{:?}", rig.drained);
}

#[test]
fn scale_in_takes_outdated_ones_first_among_equals() {
    let mut rig = Rig::of(6, 6);
    rig.refresh_to(NEW).pass(30);
    rig.pause(Some("hold"));
    assert_eq!((rig.running(NEW), rig.running(OLD)), (2, 4));
    rig.desired = 3;
    rig.pass(3);
    assert_eq!(
        (rig.running(NEW), rig.running(OLD)),
        (2, 1),
        "new ones idle for less long, but old ones go"
    );
}

#[test]
fn going_back_stands_for_a_while_though_nothing_is_outdated() {
    let mut rig = Rig::of(3, 3);
    rig.refresh_to(OLD);
    rig.set(|pool| pool.refresh.as_mut().unwrap().back = true);
    rig.pass(50);
    assert_eq!(rig.done_at, None, "or the same request, arriving twice, went forth again");
    rig.pass(15);
    assert!(rig.done_at.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever happens meanwhile: never more than the limit, never above the maximum, never a current one, and it comes to its end once
    /// nothing more happens.
    #[test]
    fn laws_of_refreshing(
        n in 1u32..12,
        spare in 0u32..4,
        boot in 1i64..90,
        events in prop::collection::vec((0u8..8, 0usize..16, 1i64..40), 0..25),
    ) {
        let max = n + spare;
        let limit = 2;
        let limits = json!({"replace-at-once": 2, "replace-window": "60s", "cooldown-down": "0s", "stabilization": "0s",
                            "storm-at-least": 1000});
        let mut rig = Rig::with(n, max, &limits);
        rig.boot = boot;
        rig.refresh_to(NEW);
        for (what, which, seconds) in events {
            let running = rig.ids(|i| i.state == State::Running && !i.is_leaving());
            let one = running.get(which % running.len().max(1)).copied();
            match (what, one) {
                (0, Some(id)) => rig.says(id, Work::Busy),
                (1, Some(id)) => { rig.crashes.insert(id, rig.now + 1); }
                (2, Some(id)) => rig.change(id, |i| i.protected = !i.protected),
                (3, _) if rig.view.pool.refresh.is_some() => rig.pause(Some("test")),
                (4, _) if rig.view.pool.refresh.is_some() => rig.pause(None),
                (5, _) => rig.desired = 1 + u32::try_from(which).unwrap() % max,
                (6, _) => rig.fate = if which % 3 == 0 { Fate::Fails } else { Fate::Runs },
                _ => {}
            }
            for _ in 0..seconds {
                let before = rig.drained.len();
                rig.tick();
                for (_, id) in &rig.drained[before..] {
                    prop_assert_eq!(rig.version_of(*id), OLD, "a current one was drained");
                }
                rig.check(limit, max);
            }
        }
        rig.fate = Fate::Runs;
        for id in rig.ids(|i| i.protected) {
            rig.change(id, |i| i.protected = false);
        }
        let by = rig.now + 8_000;
        while rig.done_at.is_none() {
            prop_assert!(rig.now < by, "it does not end: {:?}, {:?}", rig.held_by(), rig.guards.rollout);
            if rig.view.pool.refresh.as_ref().is_some_and(|refresh| refresh.paused.is_some()) {
                rig.pause(None);
            }
            rig.tick();
            rig.check(limit, max);
        }
        prop_assert_eq!(rig.ids(|i| i.template == OLD), Vec::new());
        // And nothing is left over of it, once a launch pause is over that failures may have brought about.
        let by = rig.now + 3_000;
        let desired = usize::try_from(rig.desired).unwrap();
        while rig.ids(|i| !i.is_leaving()).len() != desired || rig.running(NEW) != desired {
            prop_assert!(rig.now < by, "{} run, {desired} are wanted: {:?}", rig.running(NEW), rig.held_by());
            rig.tick();
        }
    }
}

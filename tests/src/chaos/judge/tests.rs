//! Each judge is silent when all is well, and finds what was broken on purpose.

use epu_core::health::Health;
use epu_core::id::LaunchId;
use epu_core::instance::{Drain, Ending, Work};
use epu_core::journal::Entry;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::seen::{Marker, Tagged};
use super::*;

const POOL: &str = "web";
/// When everything was looked at.
const NOW: Timestamp = Timestamp(1_000_000);

fn id(n: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(n))
}

fn launch_id() -> LaunchId {
    LaunchId(Uuid::from_u128(1_000))
}

fn pool_name() -> PoolName {
    PoolName::new(POOL).unwrap()
}

fn instance(n: u128, state: State) -> Instance {
    serde_json::from_value(json!({
        "id": id(n), "pool": POOL, "launch": launch_id(), "index": n - 1, "site": "here", "state": state, "version": 3, "machine": "m",
        "created_at": 0, "state_since": 10, "ready_at": 5,
    }))
    .unwrap()
}

fn process(pid: u32, n: u128, is_worker: bool) -> Tagged {
    Tagged {
        pid,
        parent: 1,
        instance: Some(id(n)),
        launch: Some(launch_id()),
        index: u32::try_from(n - 1).ok(),
        pool: POOL.to_owned(),
        is_worker,
        is_frozen: false,
        started_at: Timestamp(0),
    }
}

fn entry(event: Event) -> Entry {
    Entry::new(Timestamp(1), "test", event).of(&pool_name())
}

fn moved(n: u128, from: State, to: State) -> Entry {
    let moved = Event::Moved {
        from,
        to,
        why: None,
        fault: None,
    };
    entry(moved).on(id(n))
}

fn recorded() -> Entry {
    entry(Event::LaunchRecorded {
        launch: launch_id(),
        site: epu_core::SiteName::new("here").unwrap(),
        instances: 2,
    })
}

fn observed() -> Value {
    json!({
        "now": 1, "min": 0, "max": 3, "target": 2, "readings": {},
        "counts": { "capacity": 2, "pending": 0, "busy": 0, "idle": 2, "unknown": 0, "unhealthy": 0, "draining": 0 },
    })
}

fn decided(at: i64, revision: u64, actions: Vec<Action>) -> Entry {
    let engine = Registry::standard().make("keep", &json!({ "n": 2 })).unwrap();
    let observation: Observation = serde_json::from_value(observed()).unwrap();
    let decision = engine.decide(&observation);
    entry(Event::Decided(Box::new(Decided {
        at: Timestamp(at),
        engine: "keep/1".to_owned(),
        revision,
        observed: observed(),
        desired: decision.desired,
        target: 2,
        reasons: decision.reasons,
        suppressed: Vec::new(),
        actions,
    })))
}

/// Two run, as they are to: one launch, two machines, an agent and a worker each.
fn well() -> Seen {
    let pool: Pool = serde_json::from_value(json!({
        "name": POOL, "template": { "run": ["work"] }, "template_version": "worker@1", "origin": { "is": "operator" }, "revision": 1,
        "added_at": 0,
        "spec": {
            "template": "worker", "max": 3, "engine": { "keep": { "n": 2 } },
            "limits": { "replace-at-once": 2, "replace-window": "10s" },
        },
    }))
    .unwrap();
    let launch: epu_core::launch::Launch = serde_json::from_value(json!({
        "id": launch_id(), "accepted_at": 0, "epoch": 1, "attempts": 1, "outcome": { "is": "launched", "machines": 2 },
        "request": {
            "launch": launch_id(), "pool": POOL, "site": "here", "template": { "run": ["work"] }, "template_version": "worker@1",
            "instances": [{ "id": id(1) }, { "id": id(2) }], "min": 1,
        },
    }))
    .unwrap();
    let marker = |index| Marker {
        launch: launch_id(),
        index,
    };
    let engine = pool.spec.engine.clone().into_iter().collect();
    Seen {
        at: NOW,
        table: Table(vec![
            process(11, 1, false),
            process(12, 1, true),
            process(21, 2, false),
            process(22, 2, true),
        ]),
        site: BTreeMap::from([(id(1), marker(0)), (id(2), marker(1))]),
        instances: [1, 2].map(|n| (id(n), instance(n, State::Running))).into(),
        launches: BTreeMap::from([(launch_id(), launch)]),
        pools: BTreeMap::from([(pool_name(), pool)]),
        journal: vec![
            recorded(),
            moved(1, State::Requested, State::Started),
            moved(2, State::Requested, State::Started),
            moved(1, State::Started, State::Running),
            moved(2, State::Started, State::Running),
            decided(500, 1, Vec::new()),
        ],
        engines: BTreeMap::from([(pool_name(), engine)]),
        ..Seen::default()
    }
}

fn targets(n: u32) -> BTreeMap<PoolName, u32> {
    BTreeMap::from([(pool_name(), n)])
}

/// What is found when one thing is changed: the rule, and a part of what is said.
fn finds(judge: impl Fn(&Seen) -> Vec<Broken>, rule: &str, what: &str, change: impl FnOnce(&mut Seen)) {
    let mut seen = well();
    assert_eq!(judge(&seen), Vec::new(), "silent when all is well");
    change(&mut seen);
    let found = judge(&seen);
    assert!(
        found.iter().any(|broken| broken.rule == rule && broken.what.contains(what)),
        "{rule} {what:?} is not in {found:?}"
    );
}

fn settled(seen: &Seen) -> Vec<Broken> {
    unsettled(seen, &targets(2))
}

#[test]
fn a_moment_with_two_machines_an_ended_one_or_an_unrecorded_one_is_broken() {
    let seen = well();
    let mut now = Moment {
        ended: BTreeMap::from([(id(9), Timestamp(5))]),
        table: seen.table.clone(),
        recorded: Some(BTreeSet::from([id(1), id(2), id(9)])),
    };
    assert_eq!(moment(&now), Vec::new());
    // Nothing is said about what was not read.
    assert_eq!(
        moment(&Moment {
            recorded: None,
            ..now.clone()
        }),
        Vec::new()
    );

    now.table.0.push(process(13, 1, false));
    assert_eq!(moment(&now)[0].rule, "I1");
    // Whoever an agent is just starting carries its agent's environment for a moment.
    now.table.0[4].parent = 11;
    assert_eq!(moment(&now), Vec::new());

    now.ended.insert(id(2), Timestamp(10_000));
    assert!(moment(&now).iter().all(|broken| broken.rule == "I12") && moment(&now).len() == 2);
    now.ended.insert(id(2), Timestamp(-10_000));
    assert_eq!(moment(&now), Vec::new(), "it was started later, and is a matter of the sweep");

    now.recorded = Some(BTreeSet::from([id(1)]));
    assert_eq!(moment(&now)[0].rule, "I7");
}

#[test]
fn what_is_not_settled_is_named() {
    finds(settled, "I1", "2 machines", |seen| seen.table.0.push(process(13, 1, false)));
    finds(settled, "I1", "without a live record", |seen| {
        seen.table.0.push(process(31, 3, true));
    });
    finds(settled, "I1", "of nobody", |seen| seen.table.0[1].instance = None);
    finds(settled, "I1", "a pool that there is not", |seen| {
        let mut other = instance(3, State::Running);
        other.pool = PoolName::new("gone").unwrap();
        seen.instances.insert(id(3), other);
    });
    finds(settled, "I5", "after its deadline", |seen| {
        seen.instances.get_mut(&id(1)).unwrap().deadline = Some(Timestamp(900_000));
    });
    finds(settled, "I6", "has no agent", |seen| drop(seen.table.0.remove(0)));
    finds(settled, "I6", "has no worker", |seen| drop(seen.table.0.remove(1)));
    finds(settled, "I6", "has no worker", |seen| seen.table.0[1].is_frozen = true);
    finds(settled, "I6", "has no machine", |seen| {
        seen.instances.get_mut(&id(1)).unwrap().machine = None;
    });
    finds(settled, "I6", "has 1 that run of 2", |seen| {
        seen.instances.insert(id(1), instance(1, State::Started));
    });
    finds(settled, "I6", "has 1 that run of 2", |seen| {
        seen.instances.get_mut(&id(1)).unwrap().drain = Some(Drain {
            since: NOW,
            deadline: Timestamp(2_000_000),
            why: Cause::ScaleIn,
        });
    });
    finds(settled, "I6", "1 commands wait", |seen| seen.waiting = 1);
    finds(settled, "I6", "1 launches have come to nothing", |seen| {
        seen.launches.get_mut(&launch_id()).unwrap().outcome = None;
    });
    assert_eq!(unsettled(&well(), &targets(3))[0].rule, "I6");
}

#[test]
fn jobs_that_wait_or_are_nowhere_are_named() {
    let given: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
    let mut jobs = Jobs {
        done: given.clone(),
        ..Jobs::default()
    };
    assert_eq!(undone(&given, &jobs), Vec::new());
    jobs.done.remove("b");
    assert!(undone(&given, &jobs)[0].what.contains("lost: b"));
    jobs.taken.insert("b".to_owned());
    assert!(undone(&given, &jobs)[0].what.contains("in hand: b"));
}

#[test]
fn what_is_left_after_teardown_is_named() {
    let mut seen = well();
    assert_eq!(left_over(&seen).len(), 6, "four processes and two records");
    seen.table.0.clear();
    for record in seen.instances.values_mut() {
        record.state = State::Terminated;
    }
    assert_eq!(left_over(&seen), Vec::new());
}

#[test]
fn a_launch_above_the_maximum_is_found_and_one_for_those_that_leave_is_not() {
    let again = |seen: &mut Seen| {
        let other = LaunchId(Uuid::from_u128(2_000));
        let mut launch = seen.launches[&launch_id()].clone();
        launch.id = other;
        launch.request.instances = [3, 4].map(|n| serde_json::from_value(json!({ "id": id(n) })).unwrap()).into();
        seen.launches.insert(other, launch);
        let mut entry = recorded();
        entry.event = Event::LaunchRecorded {
            launch: other,
            site: epu_core::SiteName::new("here").unwrap(),
            instances: 2,
        };
        entry
    };
    let order = || {
        let drain = Event::DrainOrdered {
            why: Cause::ScaleIn,
            deadline: NOW,
        };
        entry(drain).on(id(1))
    };
    finds(within_maximum, "I2", "2 stay, 2 more", |seen| {
        let entry = again(seen);
        seen.journal.push(entry);
    });
    finds(within_maximum, "I2", "2 stay, 2 more", |seen| {
        let entries = [order(), entry(Event::DrainWithdrawn).on(id(1)), again(seen)];
        seen.journal.extend(entries);
    });
    for leaving in [
        order(),
        moved(1, State::Running, State::Terminating),
        moved(1, State::Running, State::Failed),
    ] {
        let mut seen = well();
        let entry = again(&mut seen);
        seen.journal.extend([leaving, entry]);
        assert_eq!(within_maximum(&seen), Vec::new());
    }
}

#[test]
fn a_victim_with_work_in_its_hands_is_found_unless_the_test_harmed_it() {
    let chosen = |seen: &mut Seen, why, drained_for, work| {
        let record = seen.instances.get_mut(&id(1)).unwrap();
        record.ending = Some(Ending {
            since: Timestamp(100),
            why,
            work,
            drained_for,
        });
    };
    let drained = |seen: &mut Seen| chosen(seen, Cause::Drained, Some(Cause::ScaleIn), Work::Idle);
    let marks = |all: &[(i64, bool)]| -> Vec<Mark> {
        let mark = |(at, busy): &(i64, bool)| Mark {
            at: Timestamp(*at),
            busy: *busy,
        };
        all.iter().map(mark).collect()
    };
    finds(victims, "I3", "while busy", |seen| chosen(seen, Cause::ScaleIn, None, Work::Busy));
    finds(victims, "I3", "in its hands", |seen| {
        drained(seen);
        seen.interrupted.insert(id(1), BTreeSet::from(["job".to_owned()]));
    });
    finds(victims, "I3", "its worker was busy", |seen| {
        drained(seen);
        seen.marks.insert(id(1), marks(&[(10, true), (20, false), (99, true)]));
    });
    let mut seen = well();
    drained(&mut seen);
    seen.marks.insert(id(1), marks(&[(10, true), (99, false), (101, true)]));
    assert_eq!(victims(&seen), Vec::new(), "it was idle when it was ended");
    seen.interrupted.insert(id(1), BTreeSet::from(["job".to_owned()]));
    seen.harmed.insert(id(1));
    assert_eq!(victims(&seen), Vec::new(), "its worker was killed by the test");
    seen.harmed.clear();
    chosen(&mut seen, Cause::Unhealthy, None, Work::Busy);
    assert_eq!(victims(&seen), Vec::new(), "it was not chosen");
}

#[test]
fn a_machine_without_its_intention_is_found() {
    finds(intentions, "I7", "never recorded", |seen| {
        let marker = seen.site[&id(1)].clone();
        seen.site.insert(id(7), marker);
    });
    finds(intentions, "I7", "as another one", |seen| {
        seen.site.get_mut(&id(1)).unwrap().index = 1
    });
    finds(intentions, "I7", "an agent of nobody", |seen| seen.table.0[0].instance = None);
    finds(intentions, "I7", "of another launch", |seen| seen.table.0[0].launch = None);
    finds(intentions, "I7", "at no place", |seen| {
        seen.instances.get_mut(&id(1)).unwrap().index = 1;
        seen.site.get_mut(&id(1)).unwrap().index = 1;
        seen.table.0[0].index = Some(1);
    });
    finds(intentions, "I7", "not in the journal", |seen| drop(seen.journal.remove(0)));
}

#[test]
fn a_decision_that_comes_out_otherwise_or_cannot_be_shown_again_is_found() {
    finds(decisions, "I8", "became", |seen| {
        let Event::Decided(decided) = &mut seen.journal[5].event else {
            panic!("it is a decision")
        };
        decided.desired = 7;
    });
    finds(decisions, "I8", "cannot be shown again", |seen| {
        let Event::Decided(decided) = &mut seen.journal[5].event else {
            panic!("it is a decision")
        };
        decided.observed = json!({});
    });
    // Settings that were changed count from their revision on, and not before.
    finds(decisions, "I8", "became", |seen| {
        let changed = Event::PoolChanged {
            revision: 2,
            set: json!({ "engine.keep.n": 1 }),
        };
        seen.journal.push(entry(changed));
        seen.journal.push(decided(600, 1, Vec::new()));
        assert_eq!(decisions(seen), Vec::new());
        seen.journal.push(decided(700, 2, Vec::new()));
    });
}

#[test]
fn a_pool_that_shrinks_on_a_sensor_that_cannot_be_read_is_found() {
    let following = json!({ "sensor": "jobs", "high-water": 5, "low-water": 1 });
    let engine = Registry::standard().make("queue-length", &following).unwrap();
    let decided = |readings: Value, target| {
        let mut observed = observed();
        observed["readings"] = readings;
        let decision = engine.decide(&serde_json::from_value(observed.clone()).unwrap());
        let mut entry = decided(1, 1, Vec::new());
        let Event::Decided(decided) = &mut entry.event else {
            panic!("it is a decision")
        };
        (decided.observed, decided.desired, decided.reasons, decided.target) = (observed, decision.desired, decision.reasons, target);
        entry
    };
    let follows = |seen: &mut Seen| {
        seen.engines
            .insert(pool_name(), Map::from_iter([("queue-length".to_owned(), following.clone())]));
        seen.journal.truncate(5);
    };
    let fresh = json!({ "jobs": { "status": "fresh", "value": 0.0 } });
    let mut seen = well();
    follows(&mut seen);
    seen.journal.extend([decided(fresh.clone(), 2), decided(fresh.clone(), 1)]);
    assert_eq!(decisions(&seen), Vec::new(), "it could be read");
    finds(decisions, "I9", "from 2 to 1", |seen| {
        follows(seen);
        seen.journal.extend([decided(fresh, 2), decided(json!({}), 1)]);
    });
}

#[test]
fn more_replacements_than_the_limit_allows_are_found() {
    let replacing = |at, n: u128| {
        let gone = Action::Terminate {
            instances: vec![id(n)],
            why: Cause::Unhealthy,
        };
        decided(at, 1, vec![gone])
    };
    finds(decisions, "I4", "3 replacements", |seen| {
        seen.journal.extend([replacing(1_000, 1), replacing(2_000, 2)]);
        assert_eq!(decisions(seen), Vec::new());
        seen.journal.push(replacing(3_000, 3));
    });
    let mut seen = well();
    seen.journal
        .extend([replacing(1_000, 1), replacing(2_000, 2), replacing(15_000, 3)]);
    assert_eq!(decisions(&seen), Vec::new(), "the window is over");
}

#[test]
fn an_instance_that_goes_back_or_skips_is_found() {
    finds(moves, "I12", "went from", |seen| {
        seen.journal.push(moved(1, State::Running, State::Pending));
        seen.instances.insert(id(1), instance(1, State::Pending));
    });
    finds(moves, "I12", "went from", |seen| {
        seen.journal.push(moved(1, State::Started, State::Terminating));
        seen.instances.insert(id(1), instance(1, State::Terminating));
    });
    finds(moves, "I12", "its journal ends otherwise", |seen| {
        seen.instances.insert(id(1), instance(1, State::Terminated));
    });
    finds(moves, "I12", "never had a machine", |seen| {
        let mut record = instance(1, State::Terminated);
        record.machine = None;
        seen.journal.push(moved(1, State::Running, State::Terminated));
        seen.instances.insert(id(1), record);
    });
    // What else is in the journal is passed over.
    let mut seen = well();
    let health = Event::HealthChanged {
        from: Health::Ok,
        to: Health::Missing,
        why: "silent".to_owned(),
    };
    seen.journal.push(entry(health).on(id(1)));
    assert_eq!(history(&seen), Vec::new());
}

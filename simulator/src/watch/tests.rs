//! Each invariant is broken once, and found.

use epu_core::instance::{Drain, Ending, Work};
use epu_core::launch::{LaunchRequest, Wanted};
use epu_core::time::Span;
use epu_provisioner::iaas::LaunchToken;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::machines::Order;
use crate::time::{minutes, seconds};
use crate::world::{INSTALLATION, POOL, World};

fn id(n: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(n))
}

fn instance(n: u128, state: State) -> Instance {
    serde_json::from_value(json!({
        "id": id(n), "pool": POOL, "launch": id(1_000), "index": 0, "site": "here", "state": state, "version": 1,
        "created_at": 0, "state_since": 0,
    }))
    .unwrap()
}

fn launch(n: u128, instances: &[InstanceId]) -> Launch {
    let template = serde_json::from_value(json!({ "run": ["worker"] })).unwrap();
    Launch {
        id: LaunchId(Uuid::from_u128(n)),
        request: LaunchRequest {
            launch: LaunchId(Uuid::from_u128(n)),
            pool: PoolName::new(POOL).unwrap(),
            site: epu_core::SiteName::new("here").unwrap(),
            placement: None,
            purpose: epu_core::launch::Purpose::default(),
            template,
            template_version: "worker@1".to_owned(),
            instances: instances
                .iter()
                .map(|id| Wanted {
                    id: *id,
                    slot: None,
                    variables: BTreeMap::new(),
                })
                .collect(),
            min: 1,
            max: None,
            epoch: 0,
        },
        accepted_at: Timestamp(0),
        epoch: 0,
        attempts: 1,
        doors: Vec::new(),
        outcome: None,
    }
}

fn call(n: u128, instances: &[InstanceId]) -> IaasLaunch {
    let launch = launch(n, instances);
    IaasLaunch {
        installation: INSTALLATION.to_owned(),
        launch: launch.id,
        pool: launch.request.pool,
        instances: instances.to_vec(),
        min: 1,
        launch_token: LaunchToken(String::new()),
        url: String::new(),
        template: launch.request.template,
        doubtful: false,
    }
}

/// A quiet world with two workers, to be lied to.
fn world() -> World {
    let mut world = World::keeping(2);
    world.elapse(minutes(2));
    world
}

#[track_caller]
fn finds(world: &World, invariant: Invariant) {
    let found = world.watch().violations();
    assert!(
        found.iter().any(|violation| violation.invariant == invariant),
        "{invariant:?} is not among {found:?}"
    );
}

fn machine(world: &World, instance: Option<InstanceId>) {
    world.launch_machine(Order {
        pool: None,
        site: epu_core::SiteName::new("here").unwrap(),
        installation: INSTALLATION.to_owned(),
        launch: None,
        index: None,
        instance,
        token: String::new(),
        boot: None,
    });
}

#[test]
fn i1_a_second_machine_for_one_instance() {
    let world = world();
    machine(&world, Some(world.any()));
    world.watch().tick(world.now());
    finds(&world, Invariant::I1);
}

#[test]
fn i1_a_machine_that_stays_without_a_record() {
    let world = world();
    machine(&world, None);
    world.watch().tick(world.now());
    assert_eq!(world.watch().violations(), []);
    world.watch().tick(world.now() + STRAY_GRACE + seconds(1));
    finds(&world, Invariant::I1);
}

#[test]
fn i2_a_launch_above_the_maximum() {
    let world = world();
    let many: Vec<Arc<Instance>> = (1..=9).map(|n| Arc::new(instance(n, State::Requested))).collect();
    let ids: Vec<InstanceId> = many.iter().map(|instance| instance.id).collect();
    world.watch().launch(&launch(1_000, &ids), &many);
    finds(&world, Invariant::I2);
}

#[test]
fn i3_a_busy_worker_chosen_to_go() {
    for why in [Cause::ScaleIn, Cause::Drained] {
        let mut world = world();
        let busy = world.any();
        world.occupy(&busy);
        let mut ended = world.record(&busy).as_ref().clone();
        let drained_for = (why == Cause::Drained).then_some(Cause::ScaleIn);
        ended.ending = Some(Ending {
            since: world.now(),
            why,
            work: Work::Idle,
            drained_for,
        });
        ended.state = State::Terminating;
        ended.version += 1;
        world.watch().instances(&[Arc::new(ended)]);
        finds(&world, Invariant::I3);
    }
}

fn decided(world: &World, change: impl FnOnce(&mut Decided)) {
    let mut decided = world.decisions().pop().unwrap();
    decided.at = world.now();
    change(&mut decided);
    let entry = Entry::new(world.now(), "test", Event::Decided(Box::new(decided)));
    world.watch().decision(&PoolName::new(POOL).unwrap(), &[entry]);
}

#[test]
fn i4_more_replacements_than_the_limit() {
    let world = world();
    decided(&world, |decided| {
        decided.actions = vec![Action::Terminate {
            instances: vec![id(1), id(2)],
            why: Cause::Unhealthy,
        }];
    });
    finds(&world, Invariant::I4);
}

#[test]
fn i5_a_deadline_that_passed() {
    let world = world();
    let mut late = instance(1, State::Pending);
    late.deadline = Some(world.now());
    world.watch().instances(&[Arc::new(late)]);
    world.watch().tick(world.now() + seconds(3));
    assert_eq!(world.watch().violations(), []);
    world.watch().tick(world.now() + seconds(6));
    finds(&world, Invariant::I5);
}

#[test]
fn i5_a_drain_that_lasts_too_long() {
    let world = world();
    let mut late = world.record(&world.any()).as_ref().clone();
    late.version += 1;
    late.drain = Some(Drain {
        since: Timestamp(0),
        deadline: world.now(),
        why: Cause::ScaleIn,
    });
    world.watch().instances(&[Arc::new(late)]);
    world.watch().tick(world.now() + seconds(6));
    finds(&world, Invariant::I5);
}

#[test]
fn i7_a_call_that_was_not_recorded_and_one_that_was_recorded_otherwise() {
    let world = world();
    world.watch().called(&call(7, &[id(1)]), world.now());
    finds(&world, Invariant::I7);
    world
        .watch()
        .launch(&launch(8, &[id(1)]), &[Arc::new(instance(1, State::Requested))]);
    world.watch().called(&call(8, &[id(1)]), world.now());
    assert_eq!(world.watch().violations(), []);
    world.watch().called(&call(8, &[id(2)]), world.now());
    finds(&world, Invariant::I7);
}

#[test]
fn i8_a_decision_that_does_not_follow_from_what_was_seen() {
    let world = world();
    decided(&world, |decided| decided.desired += 1);
    finds(&world, Invariant::I8);
    decided(&world, |decided| decided.observed = serde_json::Value::Null);
    finds(&world, Invariant::I8);
}

#[test]
fn i9_a_pool_that_shrinks_on_a_sensor_that_cannot_be_read() {
    let mut world = World::following_queue(2, 8);
    world
        .reconfigure("min", 3)
        .elapse(minutes(2))
        .sensor(crate::sensors::Mode::Fails)
        .elapse(minutes(2));
    decided(&world, |decided| decided.target = 1);
    finds(&world, Invariant::I9);
}

#[test]
fn i12_an_instance_that_is_terminated_while_its_machine_runs_or_goes_back() {
    let world = world();
    let one = world.record(&world.any());
    let mut gone = one.as_ref().clone();
    gone.state = State::Terminated;
    gone.version += 1;
    world.watch().instances(&[Arc::new(gone)]);
    finds(&world, Invariant::I12);
    let mut back = one.as_ref().clone();
    back.state = State::Pending;
    back.version += 2;
    world.watch().instances(&[Arc::new(back)]);
    finds(&world, Invariant::I12);
}

#[test]
fn i6_a_pool_that_is_stuck_off_its_aim_and_nobody_says_why() {
    let world = world();
    decided(&world, |decided| {
        decided.target += 1;
        decided.suppressed.clear();
    });
    let within = invariant::converge_within(&world.pool().pool);
    let begin = world.now();
    let look = |after: Duration| {
        let at = begin + after;
        world.watch().tick(Timestamp(at.0 - at.0.rem_euclid(10_000)));
    };
    look(within);
    assert_eq!(world.watch().violations(), []);
    look(within + seconds(11));
    finds(&world, Invariant::I6);
}

#[test]
fn i6_says_nothing_while_a_reason_is_given() {
    let world = world();
    decided(&world, |decided| {
        decided.target += 1;
        decided.suppressed = vec![epu_core::Reason::new("budget", "there is no money")];
    });
    let late = world.now() + minutes(120);
    world.watch().tick(Timestamp(late.0 - late.0.rem_euclid(10_000)));
    assert_eq!(world.watch().violations(), []);
}

/// A quiet world with two workers at 0.4 an hour each.
fn dear(budget: f64) -> World {
    let mut world = crate::Setup::keeping(2)
        .template("machine.price", 0.4)
        .with("limits.budget", budget)
        .world();
    world.elapse(minutes(2));
    world
}

#[test]
fn i10_a_launch_that_costs_more_than_the_budget() {
    let world = dear(1.0);
    let one = Arc::new(instance(1, State::Requested));
    world.watch().launch(&launch(1_000, &[one.id]), std::slice::from_ref(&one));
    finds(&world, Invariant::I10);
    let world = dear(1.2);
    world.watch().launch(&launch(1_000, &[one.id]), &[one]);
    assert_eq!(world.watch().violations(), []);
}

#[test]
fn a_budget_holds_back_what_it_does_not_pay_for_and_keeps_the_minimum() {
    let mut world = crate::Setup::keeping(8)
        .with("min", 3)
        .template("machine.price", 0.4)
        .with("limits.budget", 0.9)
        .world();
    world.elapse(minutes(5));
    assert_eq!(world.staying_of(POOL), 3, "the minimum, though it costs 1.2");
    assert!(world.why().contains(&"budget".to_owned()));
    world.reconfigure("limits.budget", 2.0).elapse(minutes(5));
    assert_eq!(world.staying_of(POOL), 5);
    // Less than is spent: nobody is ended, and who fails is not replaced beyond the minimum.
    world.reconfigure("limits.budget", 1.0).elapse(minutes(30));
    assert_eq!(world.staying_of(POOL), 5);
    world.kill(&world.any()).elapse(minutes(10));
    assert_eq!(world.staying_of(POOL), 4);
}

#[test]
fn i11_a_refused_command_that_changed_a_pool() {
    let world = world();
    let mut pool = world.pool().pool;
    let settings = |pool: &Pool| Settings {
        pools: BTreeMap::from([(pool.name.clone(), pool.clone())]),
        documents: Vec::new(),
        closed: false,
    };
    let before = settings(&pool);
    let refused = epu_core::Fault::new("conflict", "it is not to be");
    let answered = |fault: &epu_core::Fault, after: Settings| {
        world.watch().answered("pool.pause", Some(fault), Some((before.clone(), after)));
    };
    answered(&refused, before.clone());
    pool.paused.grow = true;
    pool.revision += 1;
    answered(&epu_core::Fault::new("timeout", "nobody answered"), settings(&pool));
    answered(&refused, settings(&pool));
    assert_eq!(world.watch().violations(), [], "the one before may have taken effect meanwhile");
    world.watch().tick(world.now() + minutes(5));
    answered(&refused, settings(&pool));
    finds(&world, Invariant::I11);
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut world = world();
    assert!(world.try_reconfigure("max", 0).is_err());
    assert!(world.try_reconfigure("limits.budget", 5.0).is_err(), "without a price");
    assert!(
        world
            .try_add(POOL, &json!({ "template": "worker", "max": 1, "engine": { "keep": { "n": 1 } } }))
            .is_err()
    );
    world.elapse(seconds(1));
}

#[test]
fn i12_a_closed_installation_in_which_somebody_stays() {
    let world = world();
    world.watch().closed(true);
    world.watch().tick(world.now() + CATCH_UP);
    assert_eq!(world.watch().violations(), []);
    world.watch().tick(world.now() + CATCH_UP + seconds(1));
    finds(&world, Invariant::I12);
}

#[test]
fn what_a_service_counts_is_found() {
    for invariant in invariant::ALL {
        let world = world();
        let what = "it was so".to_owned();
        world.watch().production().count(&Violation { invariant, what });
        world.watch().tick(world.now());
        finds(&world, invariant);
    }
}

/// What breaks each, so that none is forgotten.
#[test]
fn each_can_be_broken() {
    for invariant in invariant::ALL {
        let breaks: fn() = match invariant {
            Invariant::I1 => i1_a_machine_that_stays_without_a_record,
            Invariant::I2 => i2_a_launch_above_the_maximum,
            Invariant::I3 => i3_a_busy_worker_chosen_to_go,
            Invariant::I4 => i4_more_replacements_than_the_limit,
            Invariant::I5 => i5_a_deadline_that_passed,
            Invariant::I6 => i6_a_pool_that_is_stuck_off_its_aim_and_nobody_says_why,
            Invariant::I7 => i7_a_call_that_was_not_recorded_and_one_that_was_recorded_otherwise,
            Invariant::I8 => i8_a_decision_that_does_not_follow_from_what_was_seen,
            Invariant::I9 => i9_a_pool_that_shrinks_on_a_sensor_that_cannot_be_read,
            Invariant::I10 => i10_a_launch_that_costs_more_than_the_budget,
            Invariant::I11 => i11_a_refused_command_that_changed_a_pool,
            Invariant::I12 => i12_an_instance_that_is_terminated_while_its_machine_runs_or_goes_back,
        };
        breaks();
    }
}

#[test]
fn nothing_is_expected_of_what_does_not_work() {
    let world = world();
    let mut late = instance(1, State::Pending);
    late.deadline = Some(world.now());
    world.watch().instances(&[Arc::new(late)]);
    machine(&world, None);
    world.watch().works("store", false, world.now());
    world.watch().tick(world.now() + minutes(10));
    assert_eq!(world.watch().violations(), [], "{}", Span(minutes(10)));
    world.watch().works("store", true, world.now() + minutes(10));
    world.watch().tick(world.now() + minutes(10) + CATCH_UP + seconds(1));
    finds(&world, Invariant::I5);
}

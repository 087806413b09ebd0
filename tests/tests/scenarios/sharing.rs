//! Several controllers share the pools: each is managed by one at a time, whatever happens to them.

use epu_core::State;
use epu_core::lease::Domain;
use epu_core::request::{
    Caller, InstanceFilter, InstanceRef, InstanceView, Nothing, PoolChange, PoolRef, PoolRemove, PoolView, Request, StatusView,
};
use epu_core::{Fault, PoolName};
use epu_simulator::{Service, Setup, World, millis, minutes, seconds};
use serde_json::{Value, json};

/// Beside the pool of the setup; enough that each of three controllers has some.
const POOLS: [&str; 8] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];
/// Failover with default settings.
const FAILOVER: std::time::Duration = seconds(10);

/// So many controllers, with nine pools of two that run.
fn shared(controllers: u8) -> World {
    let mut world = Setup::keeping(2).without_cooldowns().controllers(controllers).world();
    world.elapse(seconds(5)).add_keeping(&POOLS, 2).elapse(minutes(3));
    assert_eq!(all(&world), [2; 9]);
    world
}

fn names() -> impl Iterator<Item = &'static str> {
    POOLS.into_iter().chain(["pool"])
}

/// How many of each pool run.
fn all(world: &World) -> Vec<usize> {
    names().map(|pool| world.staying_of(pool)).collect()
}

/// Who leads each pool.
fn leaders(world: &World) -> Vec<Option<u8>> {
    names().map(|pool| world.leader_of(pool)).collect()
}

fn controller(copy: u8) -> (Service, u8) {
    (Service::Controller, copy)
}

fn named(pool: &str) -> PoolName {
    PoolName::new(pool).unwrap()
}

fn show(pool: &str) -> Request {
    Request::PoolShow(PoolRef { pool: named(pool) })
}

fn keep(pool: &str, n: u32) -> Request {
    Request::PoolReconfigure(PoolChange {
        pool: named(pool),
        set: [("engine.keep.n".to_owned(), json!(n))].into(),
        template: None,
        if_revision: None,
    })
}

fn read<T: for<'de> serde::Deserialize<'de>>(answer: Result<Value, Fault>) -> T {
    serde_json::from_value(answer.unwrap()).unwrap()
}

#[test]
fn pools_are_spread_and_each_is_led_by_one() {
    let mut world = shared(3);
    let leaders = leaders(&world);
    for copy in 0..3 {
        let led = leaders.iter().filter(|leader| **leader == Some(copy)).count();
        assert!(led > 0, "controller {copy} leads nothing: {leaders:?}");
    }
    assert_eq!(world.machines_ever(), 18);
    world.elapse(minutes(10));
    assert_eq!(world.machines_ever(), 18, "nothing was done twice");
}

#[test]
fn the_pools_of_a_killed_controller_are_managed_again_within_ten_seconds() {
    let mut world = shared(2);
    let lost = world.leader_of("pool").unwrap();
    world.crash(controller(lost));
    world.until("others lead", FAILOVER, |world| {
        leaders(world).iter().all(|leader| *leader == Some(1 - lost))
    });
    let killed = world.records().iter().find(|r| r.pool.as_str() == "pool").unwrap().id;
    world.kill_worker(&killed).elapse(minutes(3));
    assert_eq!((all(&world), world.machines_ever()), (vec![2; 9], 19));
    world.start(controller(lost)).elapse(seconds(30));
    assert!(leaders(&world).contains(&Some(lost)), "it gets its share again");
    assert_eq!(world.machines_ever(), 19);
}

#[test]
fn whenever_within_its_rounds_a_controller_is_killed_others_answer_for_its_pools_within_seven_seconds() {
    let mut world = shared(2);
    let mut longest = std::time::Duration::ZERO;
    for n in 0..20 {
        let lost = world.leader_of("pool").unwrap();
        let other = controller(1 - lost);
        world.elapse(millis(n * 137)).crash(controller(lost));
        let killed_at = world.now();
        while world.ask_through(other, show("pool")).is_err() {
            assert!(world.now().since(killed_at) < FAILOVER, "kill {n}");
            world.elapse(millis(50));
        }
        longest = longest.max(world.now().since(killed_at));
        world.start(controller(lost)).elapse(seconds(10));
    }
    // What a lease lasts, and a round of asking.
    assert!(longest > seconds(3) && longest < seconds(7), "{longest:?}");
    assert_eq!((all(&world), world.machines_ever()), (vec![2; 9], 18));
}

#[test]
fn whenever_a_controller_is_killed_no_launch_is_doubled_or_lost() {
    // The moment of the decision, the command and its answer, and the time until the machine is there.
    for (at, answers_lost) in [(0, 0), (1, 0), (2, 1), (3, 3), (500, 0), (1_001, 2), (5_000, 0)] {
        let mut world = shared(2);
        let leader = world.leader_of("pool").unwrap();
        world.net().lose_answers(answers_lost);
        let asked = world.ask_through(controller(leader), keep("pool", 6));
        assert!(asked.is_ok(), "{asked:?}");
        world.elapse(millis(at.max(1))).crash(controller(leader));
        world.net().lose_answers(0);
        world.elapse(FAILOVER).elapse(minutes(3));
        assert_eq!((world.staying_of("pool"), world.machines_ever()), (6, 22), "killed after {at} ms");
    }
}

#[test]
fn a_store_that_took_a_decision_and_lost_its_reply_makes_nothing_twice_for_the_next_leader() {
    let mut world = shared(2);
    let leader = world.leader_of("pool").unwrap();
    world.lose_store_replies(1);
    world.ask_through(controller(leader), keep("pool", 5)).unwrap();
    world.elapse(millis(1)).crash(controller(leader)).lose_store_replies(0);
    world.elapse(minutes(3));
    assert_eq!((world.staying_of("pool"), world.machines_ever()), (5, 21));
}

/// A pool that follows its queue and has just grown by one, ten minutes before it may again.
fn just_grown() -> World {
    let mut world = Setup::following_queue(2, 8)
        .with("min", 1)
        .with("limits.cooldown-up", "10m")
        .controllers(2)
        .world();
    world.elapse(minutes(2)).submit(500, minutes(30));
    world.until("it grew", minutes(12), |world| world.target() == Some(2));
    world
}

#[test]
fn a_pool_in_its_cooldown_does_not_act_early_because_its_controller_was_lost() {
    let mut world = just_grown();
    let grown_at = world.now();
    let leader = world.leader_of("pool").unwrap();
    world.crash(controller(leader)).elapse(minutes(9));
    assert_eq!(world.leader_of("pool"), Some(1 - leader));
    assert_eq!((world.target(), world.live()), (Some(2), 2), "the cooldown is kept");
    world.until("it grows", minutes(2), |world| world.target() > Some(2));
    assert!(world.now().since(grown_at) >= minutes(10));
}

#[test]
fn cooldowns_survive_any_number_of_changes_of_the_leader() {
    let mut world = just_grown();
    for _ in 0..5 {
        let leader = world.leader_of("pool").unwrap();
        world
            .stop(controller(leader))
            .elapse(seconds(30))
            .start(controller(leader))
            .elapse(seconds(30));
        let leader = world.leader_of("pool").unwrap();
        world
            .crash(controller(leader))
            .elapse(seconds(15))
            .start(controller(leader))
            .elapse(seconds(15));
    }
    assert_eq!((world.target(), world.live()), (Some(2), 2));
}

#[test]
fn a_controller_that_stood_still_while_others_took_over_does_nothing_when_it_goes_on() {
    let mut world = shared(2);
    let frozen = world.leader_of("pool").unwrap();
    let other = controller(1 - frozen);
    world.suspend(controller(frozen), true).elapse(seconds(20));
    assert_eq!(world.leader_of("pool"), Some(1 - frozen));
    // What it believes is that two are kept.
    world.ask_through(other, keep("pool", 4)).unwrap();
    world.elapse(minutes(2));
    assert_eq!((world.staying_of("pool"), world.machines_ever()), (4, 20));
    world.suspend(controller(frozen), false).elapse(seconds(20));
    assert!(leaders(&world).contains(&Some(frozen)), "it gets its share again");
    world.elapse(minutes(5));
    assert_eq!((world.staying_of("pool"), world.machines_ever()), (4, 20));
    assert_eq!(world.pool().pool.revision, 2);
}

#[test]
fn what_a_controller_decides_that_does_not_know_that_it_was_deposed_is_refused_where_it_is_written() {
    let mut world = Setup::keeping(2).without_cooldowns().world();
    world.elapse(minutes(2)).usurp(Service::Controller, true);
    let decided = world.decisions().len();
    // It believes to lead for a while, and tries to.
    world.ask_through(Service::Controller, keep("pool", 5)).unwrap();
    world.elapse(seconds(1));
    assert_eq!(world.decisions().len(), decided, "no decision was recorded");
    let fault = world.ask_through(Service::Controller, show("pool")).unwrap_err();
    assert_eq!(fault.code, "no-contact", "and it knows by now: {fault}");
    world.elapse(minutes(5));
    assert_eq!((world.decisions().len(), world.machines_ever()), (decided, 2));
    world.usurp(Service::Controller, false).elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (5, 5), "what was wished for was kept");
}

#[test]
fn a_command_under_a_term_that_is_over_is_refused() {
    let mut world = shared(2);
    let domain = Domain::of(&named("pool"));
    let epoch = |world: &World| world.standing().lease(domain).unwrap().epoch;
    let old = epoch(&world);
    let leader = world.leader_of("pool").unwrap();
    world.crash(controller(leader)).elapse(FAILOVER).elapse(seconds(5));
    assert!(epoch(&world) > old);
    let worker = world.records().iter().find(|r| r.pool.as_str() == "pool").unwrap().id;
    let late = Request::Terminate(epu_core::request::Terminate {
        instances: vec![(worker, epu_core::instance::Work::Idle)],
        why: epu_core::instance::Cause::ScaleIn,
        epoch: old,
    });
    let fault = world.ask_as(Caller::Service("controller"), late).unwrap_err();
    assert_eq!(fault.code, "stale-epoch", "{fault}");
    world.elapse(minutes(2));
    assert_eq!((world.state_of(&worker), world.machines_ever()), (State::Running, 18));
}

#[test]
fn while_the_store_is_away_all_stop_and_go_on_when_it_is_back() {
    let mut world = shared(2);
    let killed = world.any();
    world
        .store_fails(Some("the database is away"))
        .kill_worker(&killed)
        .elapse(minutes(2));
    let status: StatusView = read(world.ask_through(controller(0), Request::Status(Nothing {})));
    let concerns = status.concerns.join("\n");
    assert!(
        concerns.contains("no leader") && concerns.contains("the database is away"),
        "{concerns}"
    );
    assert_eq!(world.machines_ever(), 18);
    world.store_fails(None).elapse(minutes(4));
    assert_eq!((all(&world), world.machines_ever()), (vec![2; 9], 19));
}

#[test]
fn a_newcomer_takes_its_share_and_disturbs_nobody() {
    let mut world = shared(1);
    let decisions = world.decisions().len();
    let queue = world.records();
    world.join(controller(1)).join(controller(2)).elapse(seconds(20));
    let leaders = leaders(&world);
    assert!((0..3).all(|copy| leaders.contains(&Some(copy))), "{leaders:?}");
    world.elapse(minutes(5));
    assert_eq!((all(&world), world.machines_ever()), (vec![2; 9], 18));
    let still: Vec<_> = world.records().iter().map(|record| (record.id, record.state)).collect();
    assert_eq!(still, queue.iter().map(|record| (record.id, record.state)).collect::<Vec<_>>());
    let since = world.decisions();
    assert!(
        since[decisions..].iter().all(|decided| decided.actions.is_empty()),
        "nobody was moved"
    );
}

#[test]
fn a_controller_that_is_told_to_stop_hands_over_at_once() {
    let mut world = shared(2);
    let leader = world.leader_of("pool").unwrap();
    world.stop(controller(leader));
    assert_eq!(world.leader_of("pool"), None, "it is free already");
    world.until("others lead", seconds(3), |world| {
        leaders(world).iter().all(|l| *l == Some(1 - leader))
    });
    let killed = world.any();
    world.kill_worker(&killed).elapse(minutes(3));
    assert_eq!((all(&world), world.machines_ever()), (vec![2; 9], 19));
}

#[test]
fn any_pool_is_reached_through_any_controller() {
    let mut world = shared(3);
    for (n, pool) in (3..).zip(names()) {
        for copy in 0..3 {
            let view: PoolView = read(world.ask_through(controller(copy), show(pool)));
            assert_eq!((view.pool.name.as_str(), view.counts.running), (pool, 2), "through {copy}");
        }
        let through = controller(u8::try_from(n % 3).unwrap());
        world.ask_through(through, keep(pool, 3)).unwrap();
    }
    world.elapse(minutes(3));
    assert_eq!(all(&world), [3; 9]);
    for copy in 0..3 {
        let pools: Vec<PoolView> = read(world.ask_through(controller(copy), Request::PoolList(Nothing {})));
        let shown: Vec<&str> = pools.iter().map(|view| view.pool.name.as_str()).collect();
        let mut expected: Vec<&str> = names().collect();
        expected.sort_unstable();
        assert_eq!(shown, expected, "each once");
        assert!(pools.iter().all(|view| view.counts.running == 3 && view.concerns.is_empty()));
        for everything in [false, true] {
            let filter = InstanceFilter {
                pool: None,
                all: everything,
            };
            let instances: Vec<InstanceView> = read(world.ask_through(controller(copy), Request::InstanceList(filter)));
            assert_eq!(instances.len(), 27);
            assert!(
                instances.iter().all(|view| view.heard_at.is_some()),
                "all of them as their controllers know them"
            );
        }
        let status: StatusView = read(world.ask_through(controller(copy), Request::Status(Nothing {})));
        assert_eq!((status.pools.len(), status.concerns.len()), (9, 0), "{:?}", status.concerns);
        assert_eq!(status.standing.of(Service::Controller).count(), 3);
        let one = world.any();
        let suffix = one.to_string().split_off(24);
        let which = Request::InstanceShow(InstanceRef { instance: suffix });
        let shown: InstanceView = read(world.ask_through(controller(copy), which));
        assert_eq!(shown.instance.id, one);
    }
    let missing = world.ask_through(controller(0), show("omega")).unwrap_err();
    assert_eq!(missing.code, "no-such-pool");
    let removed: u32 = read(world.ask_through(
        controller(1),
        Request::PoolRemove(PoolRemove {
            pool: named("alpha"),
            force: true,
        }),
    ));
    assert_eq!(removed, 3);
    world.elapse(minutes(2));
    assert_eq!(world.staying_of("alpha"), 0);
    let gone = world.ask_through(controller(2), show("alpha")).unwrap_err();
    assert_eq!(gone.code, "no-such-pool");
}

#[test]
fn a_pool_is_taken_up_whoever_was_asked_to_add_it_and_though_nobody_heard_of_it() {
    let mut world = Setup::keeping(0).controllers(3).world();
    world.elapse(seconds(10)).net().lose(epu_core::fact::Kind::Pools, true);
    world.add_keeping(&POOLS, 1);
    world.elapse(minutes(1)).net().lose(epu_core::fact::Kind::Pools, false);
    world.elapse(minutes(2));
    assert!(POOLS.iter().all(|pool| world.staying_of(pool) == 1));
    let again = world.try_add("beta", &json!({ "template": "worker", "max": 1, "engine": { "keep": { "n": 1 } } }));
    assert_eq!(again.unwrap_err().code, "conflict", "also when another controller has it");
}

#[test]
fn a_controller_that_does_not_answer_is_named_and_the_rest_is_shown() {
    let mut world = shared(2);
    let silent = world.member(controller(1).into());
    let led = leaders(&world);
    world.suspend(controller(1), true);
    let asked_at = world.now();
    let status: StatusView = read(world.ask_through(controller(0), Request::Status(Nothing {})));
    assert!(world.now().since(asked_at) < seconds(4), "the wait is bounded");
    assert_eq!(status.pools.len(), 9);
    assert!(status.concerns.iter().any(|text| text.contains(&silent)), "{:?}", status.concerns);
    let pools: Vec<PoolView> = read(world.ask_through(controller(0), Request::PoolList(Nothing {})));
    assert_eq!(pools.iter().map(|view| view.counts.live).sum::<u32>(), 18, "as recorded");
    for (pool, leader) in names().zip(led).filter(|(_, leader)| *leader == Some(0)) {
        let view = pools.iter().find(|view| view.pool.name.as_str() == pool).unwrap();
        assert!(view.concerns.is_empty(), "{pool} is led by {leader:?}: {:?}", view.concerns);
    }
    world.suspend(controller(1), false).elapse(minutes(1));
    let status: StatusView = read(world.ask_through(controller(0), Request::Status(Nothing {})));
    assert!(status.concerns.is_empty(), "{:?}", status.concerns);
}

#[test]
fn who_asks_for_a_pool_whose_controller_was_just_lost_is_told_what_happens() {
    let mut world = shared(2);
    let leader = world.leader_of("pool").unwrap();
    world.crash(controller(leader));
    let fault = world.ask_through(controller(1 - leader), show("pool")).unwrap_err();
    assert_eq!(fault.code, "no-contact");
    assert!(fault.text.contains("another takes over"), "{fault}");
    world.elapse(FAILOVER);
    let view: PoolView = read(world.ask_through(controller(1 - leader), show("pool")));
    assert_eq!(view.counts.live, 2);
}

#[test]
fn the_pools_of_a_config_file_are_applied_once_by_whoever_leads_them() {
    let mut world = Setup::keeping(0).controllers(3).world();
    world.elapse(seconds(10)).config_file(&POOLS, 1).elapse(minutes(2));
    let revisions = |world: &World| POOLS.map(|pool| (world.pool_named(pool).pool.revision, world.staying_of(pool)));
    assert_eq!(revisions(&world), [(1, 1); 8]);
    world
        .crash(controller(0))
        .elapse(FAILOVER)
        .config_file(&POOLS, 2)
        .elapse(minutes(2));
    assert_eq!(revisions(&world), [(2, 2); 8]);
    let fault = world.ask_through(controller(1), keep("beta", 5)).unwrap_err();
    assert_eq!(fault.code, "from-file", "{fault}");
    world.start(controller(0)).elapse(minutes(1));
    assert_eq!(revisions(&world), [(2, 2); 8], "the same file changes nothing");
}

#[test]
fn an_operator_of_certain_owners_changes_what_is_theirs_and_nothing_else_through_any_controller() {
    let mut world = shared(2);
    let theirs = Caller::OwnersOperator("olga".into(), vec!["physics".into()]);
    let file = json!({ "templates": { "worker": { "run": ["w"] } }, "pools": { "lab": { "template": "worker", "max": 9, "engine": { "keep": { "n": 1 } } } } });
    let add = Request::PoolAdd(epu_core::request::PoolFile {
        file: "lab.yaml".into(),
        text: file.to_string(),
    });
    world.ask_through_as(controller(0), theirs.clone(), add).unwrap();
    world.elapse(seconds(5));
    for copy in 0..2 {
        let view: PoolView = read(world.ask_through_as(controller(copy), theirs.clone(), show("lab")));
        assert_eq!(view.pool.owner.as_deref(), Some("physics"));
        world.ask_through_as(controller(copy), theirs.clone(), keep("lab", 2)).unwrap();
        let fault = world.ask_through_as(controller(copy), theirs.clone(), keep("pool", 5)).unwrap_err();
        assert_eq!(fault.code, "forbidden", "{fault}");
        let others = Caller::OwnersOperator("otto".into(), vec!["chemistry".into()]);
        let fault = world.ask_through_as(controller(copy), others, keep("lab", 5)).unwrap_err();
        assert!(fault.code == "forbidden" && fault.text.contains("physics"), "{fault}");
        let reader = Caller::Reader("rita".into());
        assert!(world.ask_through_as(controller(copy), reader.clone(), show("lab")).is_ok());
        let fault = world.ask_through_as(controller(copy), reader, keep("lab", 5)).unwrap_err();
        assert_eq!(fault.code, "forbidden", "{fault}");
    }
    world.elapse(minutes(2));
    assert_eq!((world.staying_of("lab"), world.staying_of("pool")), (2, 2));
}

#[test]
fn a_killed_provisioner_is_replaced_by_the_one_that_stands_by() {
    let mut world = Setup::keeping(3).controllers(2).provisioners(2).without_cooldowns().world();
    world.elapse(minutes(2));
    world.crash((Service::Provisioner, 0)).crash(controller(0));
    world.ask_through(controller(1), Request::Status(Nothing {})).unwrap();
    world.elapse(FAILOVER).keep(5).elapse(minutes(2));
    assert_eq!((world.staying(), world.machines_ever()), (5, 5));
    world.start((Service::Provisioner, 0)).start(controller(0)).elapse(minutes(1));
    world.stop((Service::Provisioner, 1)).elapse(seconds(5)).keep(2).elapse(minutes(2));
    assert_eq!((world.staying(), world.machines_there()), (2, 2));
}

#[test]
fn who_takes_over_many_pools_keeps_them_though_each_commit_takes_long() {
    let names: Vec<String> = (0..300).map(|n| format!("many-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = Setup::keeping(1).without_cooldowns().controllers(2).world();
    world.elapse(seconds(5)).config_file(&names, 0).elapse(minutes(2));
    // Both are lost, so that one has all of them to take over at once.
    world.slow_store(millis(60)).crash(controller(0)).crash(controller(1));
    world.elapse(seconds(1)).start(controller(0)).elapse(FAILOVER);
    let leases = |world: &World| -> Vec<(String, u64)> {
        let standing = world.standing();
        assert!(standing.leases.iter().all(|lease| lease.holder.is_some()), "{standing:?}");
        standing.leases.iter().map(|lease| (lease.name.to_string(), lease.epoch)).collect()
    };
    let taken = leases(&world);
    for _ in 0..30 {
        world.elapse(seconds(1));
        assert_eq!(leases(&world), taken, "none lapsed while it looked at what it took over");
    }
    assert!(names.iter().all(|name| world.leader_of(name) == Some(0)));
    let status: StatusView = read(world.ask_through(controller(0), Request::Status(Nothing {})));
    assert_eq!(status.pools.len(), 301);
    // One each when it was added and one when it was taken over: whoever lost them to slowness would begin with them anew.
    let transcript = world.transcript();
    let decisions = transcript
        .lines()
        .filter(|line| line.contains(" many-") && line.contains(" decided "));
    assert_eq!(decisions.count(), 600);
    world.keep(2).elapse(minutes(1));
    assert_eq!(world.staying(), 2);
}

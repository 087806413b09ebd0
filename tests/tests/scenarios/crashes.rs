//! Processes die at every moment that matters, stand still for longer than their leases, and have clocks that are wrong.
//!
//! A death that matters is one beside an effect: before or after the n-th write to the store, the n-th call to a site, the n-th word to
//! the others. [`each_death`] plays the same story with every such death, until the story is over before the process is.

use epu_core::lease::Domain;
use epu_core::request::{Nothing, PoolChange, PoolRefresh, RefreshStep, Request, Teardown};
use epu_core::{PoolName, State};
use epu_simulator::cloud::Call;
use epu_simulator::fault::{Fault, Lift, leaders, processes};
use epu_simulator::ledger::Trouble;
use epu_simulator::pausable::{Doom, Edge, Side};
use epu_simulator::{Process, Service, Setup, World, minutes, seconds};
use serde_json::json;

/// More deaths than any of these stories has moments for.
const MOST: u32 = 60;
/// Ten minutes, in milliseconds.
const WRONG: i32 = 600_000;

/// The same story with every death: `before` it, nobody is to die; `during` it, the process is; `after` the process is back, the
/// story is told to its end. Gives how many deaths it died.
fn each_death(
    service: Service,
    edges: &[Edge],
    before: impl Fn() -> World,
    during: impl Fn(&mut World),
    after: impl Fn(&mut World, Doom),
) -> u32 {
    let mut deaths = 0;
    for &edge in edges {
        for side in [Side::Before, Side::After] {
            for nth in 1..=MOST {
                let doom = Doom::At { edge, side, nth };
                let mut world = before();
                let name = world.doom(service, doom).unwrap();
                during(&mut world);
                let died = !world.runs(service.into());
                world.elapse(seconds(20)).spare(service, &name);
                if !died {
                    break;
                }
                assert!(nth < MOST, "{doom} happens again and again");
                deaths += 1;
                world.elapse(seconds(5));
                after(&mut world, doom);
            }
        }
    }
    deaths
}

fn empty() -> World {
    let mut world = Setup::keeping(0).without_cooldowns().world();
    world.elapse(seconds(30));
    world
}

fn three() -> World {
    let mut world = Setup::keeping(3).without_cooldowns().world();
    world.elapse(minutes(2));
    world
}

/// Asks for another number, of whoever may die of it.
fn wants(world: &mut World, n: u32) {
    drop(world.try_reconfigure("engine.keep.n", n));
}

#[test]
fn a_provisioner_that_dies_at_any_moment_of_a_launch_loses_and_doubles_nothing() {
    let deaths = each_death(
        Service::Provisioner,
        &[Edge::Commit, Edge::Call, Edge::Tell],
        empty,
        |world| {
            wants(world, 3);
            world.elapse(minutes(1));
        },
        |world, doom| {
            world.elapse(minutes(4));
            assert_eq!((world.staying(), world.machines_ever()), (3, 3), "{doom}");
            assert_eq!(world.count(State::Running), 3, "{doom}");
        },
    );
    assert!(deaths >= 10, "{deaths}");
}

#[test]
fn a_controller_that_dies_at_any_moment_of_growing_loses_and_doubles_nothing() {
    let deaths = each_death(
        Service::Controller,
        &[Edge::Commit, Edge::Tell],
        empty,
        |world| {
            wants(world, 3);
            world.elapse(seconds(20));
        },
        |world, doom| {
            world.keep(3).elapse(minutes(4));
            assert_eq!((world.staying(), world.machines_ever()), (3, 3), "{doom}");
        },
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn whoever_dies_while_a_pool_shrinks_ends_neither_too_many_nor_too_few_and_interrupts_no_work() {
    for service in [Service::Controller, Service::Provisioner] {
        let deaths = each_death(
            service,
            &[Edge::Commit, Edge::Call],
            || {
                let mut world = three();
                world.submit(1, minutes(2)).elapse(seconds(5));
                world
            },
            |world| {
                wants(world, 1);
                world.elapse(seconds(30));
            },
            |world, doom| {
                world.keep(1).elapse(minutes(6));
                assert_eq!(
                    (world.staying(), world.machines_there(), world.machines_ever()),
                    (1, 1, 3),
                    "{doom}"
                );
                assert_eq!((world.queue().done_count(), world.queue().lost()), (1, 0), "{doom}");
            },
        );
        assert!(deaths >= 4, "{service:?}: {deaths}");
    }
}

#[test]
fn whoever_dies_while_a_busy_worker_is_drained_does_not_forget_it() {
    for service in [Service::Controller, Service::Provisioner] {
        let deaths = each_death(
            service,
            &[Edge::Commit],
            || {
                let mut world = Setup::keeping(1).without_cooldowns().world();
                world.elapse(minutes(2)).submit(1, seconds(40)).elapse(seconds(2));
                world
            },
            |world| {
                wants(world, 0);
                world.elapse(seconds(60));
            },
            |world, doom| {
                world.keep(0).elapse(minutes(4));
                assert_eq!((world.live(), world.machines_there()), (0, 0), "{doom}");
                assert_eq!((world.queue().done_count(), world.queue().lost()), (1, 0), "{doom}");
            },
        );
        assert!(deaths >= 4, "{service:?}: {deaths}");
    }
}

#[test]
fn whoever_dies_while_a_failed_worker_is_replaced_replaces_it_once() {
    for service in [Service::Controller, Service::Provisioner] {
        let deaths = each_death(
            service,
            &[Edge::Commit, Edge::Call],
            three,
            |world| {
                let failed = world.any();
                world.kill_worker(&failed).elapse(minutes(1));
            },
            |world, doom| {
                world.elapse(minutes(5));
                assert_eq!(
                    (world.staying(), world.machines_there(), world.machines_ever()),
                    (3, 3, 4),
                    "{doom}"
                );
            },
        );
        assert!(deaths >= 4, "{service:?}: {deaths}");
    }
}

fn refresh(world: &mut World, step: RefreshStep) -> Result<serde_json::Value, epu_core::Fault> {
    world.ask(Request::PoolRefresh(PoolRefresh {
        pool: PoolName::new("pool").unwrap(),
        step,
        why: "a new release".to_owned(),
    }))
}

#[test]
fn a_controller_that_dies_at_any_write_of_a_refresh_leaves_nothing_old() {
    let deaths = each_death(
        Service::Controller,
        &[Edge::Commit],
        || {
            let mut world = Setup::keeping(2).without_cooldowns().world();
            world.elapse(minutes(2));
            let template = json!({ "run": ["worker"], "set-up": ["set-up"], "variables": { "RELEASE": "2" } });
            let change = PoolChange {
                pool: PoolName::new("pool").unwrap(),
                set: std::collections::BTreeMap::new(),
                template: Some(Box::new(serde_json::from_value(template).unwrap())),
                if_revision: None,
            };
            world.ask(Request::PoolReconfigure(change)).unwrap();
            world
        },
        |world| {
            drop(refresh(world, RefreshStep::Start));
            world.elapse(minutes(4));
        },
        |world, doom| {
            // Refused when it goes on already, or needless when it is done.
            drop(refresh(world, RefreshStep::Start));
            world.elapse(minutes(12));
            let now = world.pool().pool.template_version;
            let old = world.watch().count_live(|record| record.template != now);
            assert_eq!((world.staying(), world.machines_there(), old), (2, 2, 0), "{doom}");
            assert!(world.machines_ever() <= 5, "{doom}: {}", world.machines_ever());
        },
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn whoever_dies_during_a_teardown_leaves_no_machine_and_launches_none() {
    for service in [Service::Controller, Service::Provisioner] {
        let tear_down = |world: &mut World| {
            world.ask(Request::Teardown(Teardown {
                force: false,
                within: None,
            }))
        };
        let deaths = each_death(
            service,
            &[Edge::Commit, Edge::Call],
            three,
            |world| {
                drop(tear_down(world));
                world.elapse(minutes(1));
            },
            |world, doom| {
                tear_down(world).unwrap();
                world.elapse(minutes(4));
                assert_eq!((world.live(), world.machines_there(), world.machines_ever()), (0, 0, 3), "{doom}");
                world.ask(Request::Open(Nothing {})).unwrap();
                world.elapse(minutes(3));
                assert_eq!((world.staying(), world.machines_ever()), (3, 6), "{doom}");
            },
        );
        assert!(deaths >= 2, "{service:?}: {deaths}");
    }
}

#[test]
fn processes_that_die_anywhere_they_wait_lose_and_double_nothing() {
    for service in Service::ALL {
        for polls in (1..24).chain((24..400).step_by(37)) {
            let mut world = empty();
            let name = world.doom(service, Doom::Polls(polls)).unwrap();
            wants(&mut world, 3);
            world.elapse(seconds(30)).spare(service, &name).elapse(seconds(10));
            world.keep(3).elapse(minutes(4));
            assert_eq!((world.staying(), world.machines_ever()), (3, 3), "{service:?} at poll {polls}");
        }
    }
}

/// Begins something, which has to have something to bite on.
fn begin(world: &mut World, fault: &Fault) -> Lift {
    fault.begin(world).lift.unwrap_or_else(|| panic!("{fault}: nothing happened"))
}

/// The copy that leads as provisioner.
fn acting(world: &World) -> Process {
    let standing = world.standing();
    let leader = standing.leader(Domain::Provisioner).unwrap();
    let copies = (0..3).map(|copy| Process {
        service: Service::Provisioner,
        copy,
    });
    copies
        .filter(|process| world.runs(*process))
        .find(|process| world.member(*process) == leader)
        .unwrap()
}

#[test]
fn a_provisioner_that_stood_still_with_its_clock_in_the_middle_of_a_launch_doubles_nothing_when_it_goes_on() {
    for stands_after in 0..6 {
        let mut world = Setup::keeping(0).without_cooldowns().provisioners(2).world();
        world.cloud().calls_take(seconds(4));
        world.elapse(minutes(1)).keep(3).elapse(seconds(stands_after));
        let first = acting(&world);
        let lift = begin(&mut world, &Fault::Leaders(leaders::Fault::TwoLeaders(first)));
        world.elapse(minutes(3));
        assert_ne!(acting(&world), first);
        assert_eq!(
            (world.staying(), world.machines_ever()),
            (3, 3),
            "stood still after {stands_after} s"
        );
        let calls = world.cloud().calls(Call::Launch);
        lift(&mut world);
        world.elapse(minutes(2));
        assert!(world.cloud().calls(Call::Launch) <= calls + 1, "one that was under way at the most");
        world.keep(4).elapse(minutes(3));
        assert_eq!(
            (world.staying(), world.machines_ever()),
            (4, 4),
            "stood still after {stands_after} s"
        );
    }
}

#[test]
fn a_controller_that_stood_still_with_its_clock_orders_nothing_under_its_old_term() {
    let mut world = Setup::keeping(3).without_cooldowns().controllers(2).world();
    world.elapse(minutes(2));
    let first = Process {
        service: Service::Controller,
        copy: world.leader_of("pool").unwrap(),
    };
    let lift = begin(&mut world, &Fault::Leaders(leaders::Fault::TwoLeaders(first)));
    world.elapse(seconds(20));
    let second = Process {
        service: Service::Controller,
        copy: 1 - first.copy,
    };
    let change = Request::PoolReconfigure(PoolChange {
        pool: PoolName::new("pool").unwrap(),
        set: [("engine.keep.n".to_owned(), json!(1))].into(),
        template: None,
        if_revision: None,
    });
    world.ask_through(second, change).unwrap();
    world.elapse(minutes(2));
    assert_eq!((world.staying(), world.machines_there()), (1, 1));
    lift(&mut world);
    // It believes to lead a pool that keeps three.
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_ever()), (1, 3));
}

#[test]
fn leaders_that_change_every_few_seconds_end_up_with_what_was_asked_for() {
    for service in [Service::Controller, Service::Provisioner] {
        let mut world = Setup::keeping(2).without_cooldowns().controllers(2).provisioners(2).world();
        world.elapse(minutes(2));
        let every = epu_core::time::Span::secs(6);
        let lift = begin(&mut world, &Fault::Leaders(leaders::Fault::Flap { service, every }));
        for n in [5, 3] {
            for _ in 0..30 {
                if world.try_reconfigure("engine.keep.n", n).is_ok() {
                    break;
                }
                world.elapse(seconds(1));
            }
            world.elapse(minutes(2));
        }
        lift(&mut world);
        world.elapse(minutes(4));
        assert_eq!((world.staying(), world.machines_there()), (3, 3), "{service:?}");
        assert!(world.machines_ever() <= 5, "{service:?}: {}", world.machines_ever());
    }
}

#[test]
fn clocks_that_are_ten_minutes_wrong_condemn_no_healthy_worker() {
    for service in Service::ALL {
        for by_ms in [-WRONG, WRONG] {
            let mut world = Setup::keeping(3).controllers(2).provisioners(2).world();
            world.elapse(minutes(6));
            for copy in [0, 1] {
                let process = Process { service, copy };
                if !world.runs(process) {
                    continue;
                }
                let wrong = Fault::Processes(processes::Fault::ClockWrong { process, by_ms });
                let lift = begin(&mut world, &wrong);
                world.elapse(minutes(5));
                lift(&mut world);
                world.elapse(minutes(5));
            }
            assert_eq!(
                (world.count(State::Running), world.machines_ever()),
                (3, 3),
                "{service:?} by {by_ms} ms"
            );
        }
    }
}

#[test]
fn a_clock_that_is_wrong_makes_no_lease_longer() {
    for by_ms in [-WRONG, WRONG] {
        let mut world = Setup::keeping(1).provisioners(2).world();
        world.elapse(minutes(1));
        for copy in [0, 1] {
            world.set_clock((Service::Provisioner, copy), by_ms.into());
        }
        world.elapse(minutes(1));
        let first = acting(&world);
        world.crash(first).elapse(seconds(8));
        assert_ne!(acting(&world), first);
    }
}

#[test]
fn a_store_that_conflicts_and_loses_replies_and_is_slow_leads_to_what_was_asked_for() {
    let troubles = [
        Trouble::Conflicts(0.5),
        Trouble::RepliesLost(0.5),
        Trouble::Slow(seconds(2)),
        Trouble::Slow(seconds(20)),
    ];
    for trouble in troubles {
        let mut world = Setup::keeping(1).without_cooldowns().world();
        world.elapse(minutes(1));
        let number = world.begin_trouble(None, trouble);
        wants(&mut world, 4);
        world.elapse(minutes(5));
        world.end_trouble(number);
        for _ in 0..30 {
            if world.try_reconfigure("engine.keep.n", 3).is_ok() {
                break;
            }
            world.elapse(seconds(1));
        }
        world.elapse(minutes(5));
        assert_eq!((world.staying(), world.machines_there()), (3, 3), "{trouble:?}");
        assert!(world.machines_ever() <= 4, "{trouble:?}: {}", world.machines_ever());
    }
}

#[test]
fn a_leader_that_is_cut_off_from_the_store_gives_way_to_one_that_is_not() {
    let mut world = Setup::keeping(2).without_cooldowns().provisioners(2).controllers(2).world();
    world.elapse(minutes(2));
    let cut = acting(&world);
    let number = world.begin_trouble(Some(cut), Trouble::Cut);
    world.elapse(seconds(10));
    assert_ne!(acting(&world), cut);
    world.keep(4).elapse(minutes(3));
    assert_eq!((world.staying(), world.machines_ever()), (4, 4));
    world.end_trouble(number);
    world.elapse(minutes(2)).keep(2).elapse(minutes(4));
    assert_eq!((world.staying(), world.machines_there(), world.machines_ever()), (2, 2, 4));
}

/// Found by a storm: the teardown was written and its operator told that nobody knows; `open` then believed that there was nothing to open.
#[test]
fn what_was_closed_without_an_answer_can_be_opened_again() {
    let mut world = three();
    world.elapse(minutes(3));
    let lost = world.begin_trouble(None, Trouble::RepliesLost(1.0));
    let teardown = Request::Teardown(Teardown {
        force: false,
        within: None,
    });
    assert!(world.ask(teardown).is_err());
    world.end_trouble(lost);
    // Refused while the records are read anew.
    world.elapse(seconds(2)).ask(Request::Open(Nothing {})).unwrap();
    assert!(!world.status().closed);
    wants(&mut world, 5);
    world.elapse(minutes(5));
    assert_eq!((world.staying(), world.machines_there()), (5, 5));
}

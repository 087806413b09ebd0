//! A changed template: new instances have it at once, old ones when the pool is refreshed.

use epu_core::instance::Cause;
use epu_core::journal::Event;
use epu_core::pool::Template;
use epu_core::request::{PoolChange, PoolRefresh, RefreshStep, RefreshView, Request};
use epu_core::{Fault, PoolName, State};
use epu_simulator::{Process, Service, Setup, World, minutes, seconds};
use serde_json::{Value, json};

/// What workers run, told apart by a variable.
fn worker(release: u32) -> Value {
    json!({ "run": ["worker"], "set-up": ["set-up"], "variables": { "RELEASE": release.to_string() } })
}

fn named(pool: &str) -> PoolName {
    PoolName::new(pool).unwrap()
}

fn release(world: &mut World, release: u32) {
    let template: Template = serde_json::from_value(worker(release)).unwrap();
    let change = PoolChange {
        pool: named("pool"),
        set: std::collections::BTreeMap::new(),
        template: Some(Box::new(template)),
        if_revision: None,
    };
    world.ask(Request::PoolReconfigure(change)).unwrap();
}

fn try_refresh(world: &mut World, pool: &str, step: RefreshStep) -> Result<RefreshView, Fault> {
    let ask = PoolRefresh {
        pool: named(pool),
        step,
        why: String::new(),
    };
    let answer = world.ask(Request::PoolRefresh(ask))?;
    Ok(serde_json::from_value(answer).unwrap())
}

fn refresh(world: &mut World, step: RefreshStep) -> RefreshView {
    try_refresh(world, "pool", step).unwrap()
}

fn version(world: &World) -> String {
    world.pool().pool.template_version
}

/// Running and staying, of the version that the pool launches now, and of others.
fn runs(world: &World) -> (usize, usize) {
    let now = version(world);
    let staying = |newest: bool| {
        let watch = world.watch();
        watch.count_live(|record| record.state == State::Running && !record.is_leaving() && (record.template == now) == newest)
    };
    (staying(true), staying(false))
}

fn is_done(world: &World) -> bool {
    world.pool().pool.refresh.is_none()
}

/// What the journal says of refreshes, in order.
fn steps(world: &World) -> Vec<String> {
    let step = |event| {
        if let Event::Refresh { step, .. } = event {
            Some(step)
        } else {
            None
        }
    };
    world.journal().into_iter().filter_map(|entry| step(entry.event)).collect()
}

/// Ten workers, two of which may be replaced in a minute.
fn ten(max: u32) -> Setup {
    Setup::keeping(10)
        .without_cooldowns()
        .with("max", max)
        .with("limits.replace-at-once", 2)
        .with("limits.drain", "10m")
}

/// Lets it come to its end, with never fewer than `least` workers, never more than `most` that stay, and never more than two replaced
/// within a minute.
fn watch_to_the_end(world: &mut World, least: usize, most: usize) {
    let began = world.now();
    while !is_done(world) {
        assert!(world.now().since(began) < minutes(30), "{:?}", refresh(world, RefreshStep::Show));
        world.elapse(seconds(1));
        assert!(world.staying() >= least, "{} stay at {}", world.staying(), world.now());
        let live = world.watch().count_live(|record| !record.is_leaving());
        assert!(live <= most, "{live} stay at {}", world.now());
    }
    never_more_than_two_a_minute(world);
}

fn never_more_than_two_a_minute(world: &World) {
    let mut at = Vec::new();
    for decided in world.decisions() {
        for action in &decided.actions {
            use epu_core::journal::Action::{Drain, Launch, Terminate, WithdrawDrain};
            match action {
                Drain {
                    instances,
                    why: Cause::Refresh,
                }
                | Terminate {
                    instances,
                    why: Cause::Unhealthy,
                } => at.extend(instances.iter().map(|_| decided.at)),
                Drain { .. } | Terminate { .. } | Launch { .. } | WithdrawDrain { .. } => {}
            }
        }
    }
    for three in at.windows(3) {
        assert!(
            three[2].since(three[0]) >= seconds(60),
            "three within {:?}",
            three[2].since(three[0])
        );
    }
}

#[test]
fn a_changed_template_is_for_new_instances_and_who_runs_which_is_shown() {
    let mut world = ten(12).world();
    world.elapse(minutes(2));
    let old = version(&world);
    release(&mut world, 2);
    world.keep(12).elapse(minutes(2));
    let view = world.pool();
    let new = view.pool.template_version.clone();
    assert_ne!(old, new);
    assert_eq!(view.versions, [(old.clone(), 10), (new.clone(), 2)].into());
    assert_eq!(view.pool.previous.unwrap().template_version, old);
    let told = |event: &Event| matches!(event, Event::TemplateChanged { from, to } if *from == old && *to == new);
    assert!(world.happened(told));
    world.elapse(minutes(10));
    assert_eq!(runs(&world), (2, 10), "nobody asked for a refresh");
}

#[test]
fn at_its_maximum_a_pool_is_refreshed_by_draining_first_and_no_job_is_lost() {
    let mut world = ten(10).world();
    world.elapse(minutes(2)).submit(400, seconds(20));
    release(&mut world, 2);
    let begun = refresh(&mut world, RefreshStep::Start);
    assert_eq!((begun.outdated, begun.draining), (10, 0));
    world.elapse(seconds(10));
    let shown = refresh(&mut world, RefreshStep::Show);
    assert_eq!((shown.outdated, shown.draining), (10, 2), "{shown:?}");
    assert!(
        world
            .pool()
            .concerns
            .iter()
            .any(|concern| concern.contains("10 of 12 run other versions, 2 of them"))
    );
    watch_to_the_end(&mut world, 8, 10);
    // It is done when nothing old is left; the last of the new ones may still be coming up.
    world.until("the last one runs", minutes(2), |world| runs(world) == (10, 0));
    assert_eq!(steps(&world), ["started", "done"]);
    world.until("all jobs are done", minutes(30), |world| world.queue().done_count() == 400);
    assert_eq!((world.queue().lost(), world.queue().done_twice()), (0, 0));
    assert_eq!(world.machines_ever(), 20);
}

#[test]
fn below_its_maximum_new_ones_run_before_old_ones_drain() {
    let mut world = ten(12).world();
    world.elapse(minutes(2)).submit(400, seconds(20));
    release(&mut world, 2);
    refresh(&mut world, RefreshStep::Start);
    watch_to_the_end(&mut world, 10, 12);
    world.elapse(minutes(2));
    assert_eq!((runs(&world), world.machines_ever()), ((10, 0), 20));
    world.until("all jobs are done", minutes(30), |world| world.queue().done_count() == 400);
    assert_eq!((world.queue().lost(), world.queue().done_twice()), (0, 0));
}

#[test]
fn a_template_that_does_not_start_is_held_paused_and_rolled_back() {
    for max in [10, 12] {
        let mut world = ten(max).world();
        world.elapse(minutes(2));
        let old = version(&world);
        release(&mut world, 2);
        world.workers(|worker| worker.missing = true);
        refresh(&mut world, RefreshStep::Start);
        world.until("it pauses", minutes(30), |world| {
            world.pool().pool.refresh.is_some_and(|refresh| refresh.paused.is_some())
        });
        let shown = refresh(&mut world, RefreshStep::Show);
        assert!(
            shown.held.is_some_and(|held| held.contains("in a row came to nothing")),
            "max {max}"
        );
        assert!(world.ever("refresh-held"), "it was held before");
        world.elapse(minutes(10));
        assert!(runs(&world).1 >= 8, "max {max}: {:?}", runs(&world));

        world.workers(|worker| worker.missing = false);
        let back = refresh(&mut world, RefreshStep::Rollback);
        assert_eq!((back.version.as_str(), back.refresh.unwrap().back), (old.as_str(), true));
        assert!(world.pool().concerns.iter().any(|concern| concern.starts_with("refresh back to")));
        world.until("it is back", minutes(20), is_done).elapse(minutes(3));
        assert_eq!((version(&world), runs(&world)), (old, (10, 0)), "max {max}");
        assert_eq!(steps(&world), ["started", "paused", "rolled-back", "done"]);
    }
}

#[test]
fn a_controller_that_is_killed_on_the_way_changes_nothing_about_where_it_ends() {
    let mut world = ten(12).world();
    world.elapse(minutes(2));
    release(&mut world, 2);
    refresh(&mut world, RefreshStep::Start);
    for _ in 0..4 {
        world
            .elapse(seconds(35))
            .crash(Service::Controller)
            .elapse(seconds(20))
            .start(Service::Controller);
    }
    world.elapse(seconds(5));
    watch_to_the_end(&mut world, 10, 12);
    world.elapse(minutes(2));
    assert_eq!((runs(&world), world.machines_ever()), ((10, 0), 20));
}

#[test]
fn another_controller_goes_on_with_it() {
    let mut world = ten(10).controllers(2).world();
    world.elapse(minutes(2));
    release(&mut world, 2);
    let first = world.leader_of("pool").unwrap();
    let other = Process {
        service: Service::Controller,
        copy: 1 - first,
    };
    let start = PoolRefresh {
        pool: named("pool"),
        step: RefreshStep::Start,
        why: "release 2".to_owned(),
    };
    // Whoever is asked: the one that leads answers.
    world.ask_through(other, Request::PoolRefresh(start)).unwrap();
    world.elapse(seconds(90));
    let leader = Process {
        service: Service::Controller,
        copy: first,
    };
    world.crash(leader).elapse(seconds(30));
    assert_eq!(world.leader_of("pool"), Some(other.copy));
    watch_to_the_end(&mut world, 8, 10);
    world.elapse(minutes(2));
    assert_eq!((runs(&world), world.machines_ever()), ((10, 0), 20));
}

#[test]
fn paused_it_chooses_nobody_else_and_resumed_it_goes_on() {
    let mut world = ten(10).world();
    world.elapse(minutes(2));
    release(&mut world, 2);
    refresh(&mut world, RefreshStep::Start);
    world.elapse(seconds(30));
    refresh(&mut world, RefreshStep::Pause);
    world.elapse(minutes(10));
    assert_eq!(runs(&world), (2, 8), "those that drained were replaced");
    assert!(
        refresh(&mut world, RefreshStep::Show)
            .held
            .is_some_and(|held| held.starts_with("paused"))
    );
    refresh(&mut world, RefreshStep::Resume);
    watch_to_the_end(&mut world, 8, 10);
    world.elapse(minutes(1));
    assert_eq!(runs(&world), (10, 0));
    assert_eq!(steps(&world), ["started", "paused", "resumed", "done"]);
}

#[test]
fn stopped_it_ends_where_it_is() {
    let mut world = ten(12).world();
    world.elapse(minutes(2));
    release(&mut world, 2);
    refresh(&mut world, RefreshStep::Start);
    world.elapse(seconds(100));
    refresh(&mut world, RefreshStep::Stop);
    world.elapse(minutes(5));
    let (new, old) = runs(&world);
    assert!(new >= 2 && old >= 4 && new + old == 10, "{new} new, {old} old");
    assert_eq!(refresh(&mut world, RefreshStep::Show).refresh, None);
}

#[test]
fn a_pool_that_shrinks_meanwhile_gives_up_old_ones_first() {
    let mut world = ten(10).world();
    world.elapse(minutes(2));
    release(&mut world, 2);
    refresh(&mut world, RefreshStep::Start);
    world.elapse(seconds(50));
    refresh(&mut world, RefreshStep::Pause);
    world.elapse(minutes(1));
    let (new, old) = runs(&world);
    assert!(new >= 2, "{new} new, {old} old");
    world.keep(5).elapse(minutes(1));
    assert_eq!(runs(&world), (new, 5 - new));
}

#[test]
fn a_busy_worker_finishes_before_it_is_replaced() {
    let mut world = ten(10).world();
    world.elapse(minutes(2));
    for id in world.running() {
        world.occupy(&id);
    }
    world.elapse(seconds(10));
    release(&mut world, 2);
    refresh(&mut world, RefreshStep::Start);
    world.elapse(minutes(5));
    let draining: Vec<_> = world.running().into_iter().filter(|id| world.record(id).is_leaving()).collect();
    assert!(draining.len() >= 4, "{}", draining.len());
    assert!(draining.iter().all(|id| world.body(id).is_busy()));
    world.release(&draining[0]).elapse(minutes(1));
    let ending = world.record(&draining[0]).ending.clone().unwrap();
    assert_eq!((ending.why, ending.drained_for), (Cause::Drained, Some(Cause::Refresh)));
    let others = world
        .running()
        .into_iter()
        .filter(|id| world.record(id).template == version(&world));
    assert!(others.count() >= 4);
}

#[test]
fn what_the_file_says_is_held_back_after_going_back_over_reloads_and_restarts() {
    let mut world = Setup::keeping(0).without_cooldowns().world();
    world.template(worker(1)).config_file(&["web"], 3).elapse(minutes(2));
    let of = |world: &World| world.pool_named("web").pool;
    let old = of(&world).template_version;
    world.template(worker(2)).config_file(&["web"], 3).elapse(seconds(5));
    let new = of(&world).template_version;
    assert_ne!(old, new);
    try_refresh(&mut world, "web", RefreshStep::Start).unwrap();
    world.elapse(minutes(1));

    try_refresh(&mut world, "web", RefreshStep::Rollback).unwrap();
    for _ in 0..2 {
        // The number of workers is applied; the template is not.
        world.config_file(&["web"], 4).elapse(seconds(5));
        assert_eq!(of(&world).template_version, old);
        world.restart(Service::Controller).elapse(seconds(20));
        assert_eq!(
            (of(&world).template_version, of(&world).spec.engine["keep"]["n"].clone()),
            (old.clone(), json!(4))
        );
    }
    let concerns = world.pool_named("web").concerns;
    assert!(
        concerns
            .iter()
            .any(|concern| concern.contains("was rolled back and is not launched")),
        "{concerns:?}"
    );
    world.until("it is back", minutes(20), |world| of(world).refresh.is_none());
    let outdated = world.watch().count_live(|record| record.template != old);
    assert_eq!((outdated, world.staying_of("web")), (0, 4));

    // Another template in the file is a new word.
    world.template(worker(3)).config_file(&["web"], 4).elapse(seconds(5));
    assert!(![old, new].contains(&of(&world).template_version));
    let concerns = world.pool_named("web").concerns;
    assert!(!concerns.iter().any(|concern| concern.contains("rolled back")), "{concerns:?}");
}

#[test]
fn a_faulty_template_changes_nothing() {
    let mut world = ten(10).world();
    world.elapse(seconds(10));
    let before = world.pool().pool;
    let broken = Template {
        run: Vec::new(),
        ..serde_json::from_value(worker(2)).unwrap()
    };
    let change = PoolChange {
        pool: named("pool"),
        set: std::collections::BTreeMap::new(),
        template: Some(Box::new(broken)),
        if_revision: None,
    };
    let fault = world.ask(Request::PoolReconfigure(change)).unwrap_err();
    assert_eq!(fault.code, "bad-config");
    assert_eq!(world.pool().pool, before);
    let fault = try_refresh(&mut world, "pool", RefreshStep::Rollback).unwrap_err();
    assert_eq!(fault.code, "conflict");
    assert_eq!(world.pool().pool, before);
}

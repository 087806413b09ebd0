//! After the storm: operators put back what they changed, and everything has to become as it is to be, within a stated time.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::id::PoolName;
use epu_core::request::{Nothing, PoolChange, PoolFile, PoolRef, PoolRefresh, Protect, RefreshStep, Request, Teardown};
use epu_core::time::Span;
use serde_json::{Value, json};

use super::plan::Plan;
use super::play::{Outcome, Trouble, pass};
use crate::fault::messages::LATE_MOST;
use crate::time::{minutes, seconds};
use crate::world::World;

/// By then everything that was asked of the operators' side has been taken in. Services come back, leases run out, a removed pool
/// drains (5 min) and is forgotten.
const RESTORED_WITHIN: Duration = minutes(20);
/// I6: by then every pool has what it is to have. What may come one after the other in these pools: a boot that is given up (4 min), the
/// longest pause of a launch breaker (16 times 10 s) and of a placement without room (16 times 20 s), a drain (5 min), and then the
/// same once more, since a fault that lasted to the end may begin the first of them just then; the jobs that wait then are done by
/// at most 12 workers.
const CONVERGED_WITHIN: Duration = minutes(60);
/// It has to stay so.
const STAYS_FOR: Duration = minutes(2);
/// How long workers have to finish at the teardown.
const DRAIN: Span = Span(minutes(5));
/// A teardown may wait for jobs until the drain's deadline, and for machines to end.
const EMPTY_WITHIN: Duration = minutes(15);

/// Sees to it that a world comes to rest, and judges it.
pub(super) fn settle(plan: &Plan, world: &mut World, outcome: &mut Outcome) -> Result<(), Trouble> {
    world.tell("!! calm");
    let began = world.now();
    // A clock that lags since its machine was halted is set right by a restart.
    world.set_clocks_right();
    // What operators asked for in the storm may still be under way: it is not to undo what they put back.
    pass(world, LATE_MOST + minutes(1))?;
    wait(world, RESTORED_WITHIN, seconds(15), |world| restored(plan, world)).map_err(not_converged)?;
    let restored_at = world.now();
    wait(world, CONVERGED_WITHIN, seconds(1), |world| as_it_is_to_be(plan, world)).map_err(not_converged)?;
    outcome.converged_in = Some(world.now().since(restored_at));
    let end = began + minutes(10);
    pass(world, STAYS_FOR.max(end.since(world.now())))?;
    as_it_is_to_be(plan, world).map_err(|why| Trouble::NotConverged(format!("it did not stay so: {why}")))?;
    for pool in names(plan) {
        let queue = world.queue_of(&pool);
        if queue.lost() > 0 {
            return Err(Trouble::JobsLost(format!("{} of pool {pool}", queue.lost())));
        }
    }
    tear_down(plan, world)
}

fn tear_down(plan: &Plan, world: &mut World) -> Result<(), Trouble> {
    for pool in names(plan) {
        world.queue_of(&pool).submit(2, seconds(40));
    }
    pass(world, seconds(20))?;
    let teardown = Teardown {
        force: !plan.gentle,
        within: Some(DRAIN),
    };
    world
        .ask(Request::Teardown(teardown))
        .map_err(|fault| Trouble::NotEmpty(format!("a teardown is refused: {fault}")))?;
    let empty = |world: &mut World| match (world.live(), world.machines_there()) {
        (0, 0) => Ok(()),
        (live, there) => Err(format!("after a teardown {live} instances live and {there} machines run")),
    };
    wait(world, EMPTY_WITHIN, seconds(1), empty).map_err(|why| match why {
        Why::Broken(trouble) => trouble,
        Why::NotYet(what) => Trouble::NotEmpty(what),
    })
}

enum Why {
    Broken(Trouble),
    NotYet(String),
}

fn not_converged(why: Why) -> Trouble {
    match why {
        Why::Broken(trouble) => trouble,
        Why::NotYet(what) => Trouble::NotConverged(what),
    }
}

fn wait(world: &mut World, within: Duration, every: Duration, mut is_so: impl FnMut(&mut World) -> Result<(), String>) -> Result<(), Why> {
    let end = world.now() + within;
    loop {
        let Err(not_yet) = is_so(world) else { return Ok(()) };
        if world.now() >= end {
            return Err(Why::NotYet(format!("after {}: {not_yet}", Span(within))));
        }
        pass(world, every).map_err(Why::Broken)?;
    }
}

fn names(plan: &Plan) -> Vec<PoolName> {
    plan.pools.keys().filter_map(|name| PoolName::new(name).ok()).collect()
}

/// Operators ask until everything is open and every pool is what it was at the beginning.
fn restored(plan: &Plan, world: &mut World) -> Result<(), String> {
    ask(world, Request::Open(Nothing {}), &[])?;
    world.reset_placements();
    let instances = world.running();
    if !instances.is_empty() {
        ask(
            world,
            Request::Protect(Protect { instances, on: false }),
            &["unknown-instance", "no-such-instance"],
        )?;
    }
    for (name, settings) in &plan.pools {
        let Ok(pool) = PoolName::new(name) else { continue };
        let text = json!({ "templates": { "worker": plan.template }, "pools": { name: settings } }).to_string();
        let file = PoolFile {
            file: "storm.yaml".to_owned(),
            text,
        };
        // There already, or still being removed, which the next request finds out.
        ask(world, Request::PoolAdd(file), &["pool-exists", "conflict", "exists"])?;
        let change = PoolChange {
            pool: pool.clone(),
            set: changed(settings),
            template: None,
            if_revision: None,
        };
        ask(world, Request::PoolReconfigure(change), &[])?;
        ask(world, Request::PoolResume(PoolRef { pool: pool.clone() }), &[])?;
        let stop = PoolRefresh {
            pool,
            step: RefreshStep::Stop,
            why: "it is over".to_owned(),
        };
        ask(world, Request::PoolRefresh(stop), &["conflict", "no-refresh"])?;
    }
    Ok(())
}

fn ask(world: &mut World, request: Request, fine: &[&str]) -> Result<(), String> {
    let op = request.op();
    match world.ask(request) {
        Ok(_) => Ok(()),
        Err(fault) if fine.contains(&fault.code.as_ref()) => Ok(()),
        Err(fault) => Err(format!("{op} is refused: {fault}")),
    }
}

/// The settings that operators change in a storm, as they are to be.
fn changed(settings: &Value) -> BTreeMap<String, Value> {
    let mut set = BTreeMap::new();
    set.insert("max".to_owned(), settings["max"].clone());
    set.insert("limits".to_owned(), settings["limits"].clone());
    if let Some(keep) = settings["engine"].get("keep") {
        set.insert("engine.keep.n".to_owned(), keep["n"].clone());
    }
    set
}

/// Every pool has what it is to have, all work is done, and there is no other machine.
fn as_it_is_to_be(plan: &Plan, world: &mut World) -> Result<(), String> {
    for (name, settings) in &plan.pools {
        let Ok(pool) = PoolName::new(name) else { continue };
        let queue = world.queue_of(&pool);
        let n = match settings["engine"].get("keep") {
            Some(keep) => &keep["n"],
            None => settings.get("min").unwrap_or(&Value::Null),
        };
        let n = usize::try_from(n.as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
        let (live, staying) = (world.live_of(name), world.staying_of(name));
        let (waiting, working) = (queue.waiting(), queue.in_progress());
        if (live, staying) != (n, n) || (waiting, working) != (0, 0) {
            let concerns: Vec<String> = world.pool_if_shown(name).map(|pool| pool.concerns).unwrap_or_default();
            return Err(format!(
                "pool {name} is to have {n}: {live} live, {staying} of them stay; {waiting} jobs wait, {working} are being done {concerns:?}"
            ));
        }
    }
    match (world.live(), world.machines_there()) {
        (live, there) if live == there => Ok(()),
        (live, there) => Err(format!("{live} instances live, and {there} machines run")),
    }
}

//! What operators do at bad moments. They ask and do not wait: what they are answered goes into the transcript.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use epu_core::id::PoolName;
use epu_core::instance::{Cause, Work};
use epu_core::pool::Paused;
use epu_core::request::{
    Nothing, PoolChange, PoolPause, PoolRef, PoolRefresh, PoolRemove, Protect, RefreshStep, Request, Teardown, Terminate,
};
use epu_core::time::Span;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::machines::nth_running;
use super::{Begun, Harm, Luck, Scene};
use crate::world::World;

/// How long workers have to finish at a teardown: what the pools of a storm give them too.
const DRAIN: Span = Span(Duration::from_secs(5 * 60));

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A pool that keeps a number is to keep another.
    Resize(String, u32),
    /// One of a pool's settings becomes another, and at the end what it was.
    Reconfigure {
        /// Which pool.
        pool: String,
        /// The setting's dotted path.
        path: String,
        /// What it becomes.
        value: Value,
        /// What it was.
        was: Value,
    },
    /// A change that has to be refused.
    Nonsense(String),
    /// A pool is kept from this until the end.
    Pause(String, Paused),
    /// The n-th of the instances that run is ended at once.
    Kill(u32),
    /// The n-th of the instances that run is protected until the end.
    Protect(u32),
    /// A pool is removed, and added again at the end.
    Remove(String, bool),
    /// Everything is torn down, and opened again at the end.
    Teardown(bool),
    /// A pool gets another template, and everything old is replaced; at the end a refresh that goes on is stopped.
    Refresh(String),
}

impl Harm for Fault {
    const KINDS: &'static [&'static str] = &[
        "resize",
        "reconfigure",
        "nonsense",
        "pause-pool",
        "kill",
        "protect",
        "remove-pool",
        "teardown",
        "refresh",
    ];

    fn draw(kind: &str, luck: &Luck, scene: &Scene) -> Option<Self> {
        let pool = luck.of(&scene.pools)?.clone();
        let nth = luck.small(scene.most.saturating_mul(3).max(1));
        let fault = match kind {
            "resize" => {
                let keeping: Vec<&String> = scene.pools.iter().filter(|pool| !scene.following.contains(pool)).collect();
                Self::Resize((*luck.of(&keeping)?).clone(), luck.small(scene.most + 1))
            }
            "reconfigure" => {
                let (path, value, was) = luck.of(&changes(scene.most))?.clone();
                let path = path.to_owned();
                Self::Reconfigure { pool, path, value, was }
            }
            "nonsense" => Self::Nonsense(pool),
            "pause-pool" => {
                let paused = Paused {
                    grow: luck.once_in(2),
                    shrink: luck.once_in(2),
                    replace: luck.once_in(2),
                    why: "to look at it".to_owned(),
                };
                Self::Pause(pool, paused)
            }
            "kill" => Self::Kill(nth),
            "protect" => Self::Protect(nth),
            "remove-pool" => Self::Remove(pool, luck.once_in(3)),
            "teardown" => Self::Teardown(luck.once_in(2)),
            "refresh" => Self::Refresh(pool),
            _ => return None,
        };
        Some(fault)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Resize(..) => "resize",
            Self::Reconfigure { .. } => "reconfigure",
            Self::Nonsense(_) => "nonsense",
            Self::Pause(..) => "pause-pool",
            Self::Kill(_) => "kill",
            Self::Protect(_) => "protect",
            Self::Remove(..) => "remove-pool",
            Self::Teardown(_) => "teardown",
            Self::Refresh(_) => "refresh",
        }
    }

    fn begin(&self, world: &mut World) -> Begun {
        match self {
            Self::Resize(pool, n) => {
                change(world, pool, "engine.keep.n", json!(n));
                Begun::done()
            }
            Self::Reconfigure { pool, path, value, was } => {
                change(world, pool, path, value.clone());
                let (pool, path, was) = (pool.clone(), path.clone(), was.clone());
                Begun::until(move |world| change(world, &pool, &path, was))
            }
            Self::Nonsense(pool) => {
                change(world, pool, "limits.drian", json!("5m"));
                change(world, pool, "max", json!(-3));
                Begun::done()
            }
            Self::Pause(pool, paused) => {
                let Some(pool) = named(pool) else { return Begun::nothing() };
                world.send(Request::PoolPause(PoolPause {
                    pool: pool.clone(),
                    paused: paused.clone(),
                }));
                Begun::until(move |world| world.send(Request::PoolResume(PoolRef { pool })))
            }
            Self::Kill(nth) => {
                let Some(id) = nth_running(world, *nth) else {
                    return Begun::nothing();
                };
                world.send(Request::Terminate(Terminate {
                    instances: vec![(id, Work::Unknown)],
                    why: Cause::Operator,
                    epoch: 0,
                }));
                Begun::done()
            }
            Self::Protect(nth) => {
                let Some(id) = nth_running(world, *nth) else {
                    return Begun::nothing();
                };
                let protect = move |on| Request::Protect(Protect { instances: vec![id], on });
                world.send(protect(true));
                Begun::until(move |world| world.send(protect(false)))
            }
            Self::Remove(name, force) => {
                let Some(pool) = named(name) else { return Begun::nothing() };
                world.send(Request::PoolRemove(PoolRemove { pool, force: *force }));
                let name = name.clone();
                Begun::until(move |world| world.add_again(&name))
            }
            Self::Teardown(force) => {
                world.send(Request::Teardown(Teardown {
                    force: *force,
                    within: Some(DRAIN),
                }));
                Begun::until(|world| world.send(Request::Open(Nothing {})))
            }
            Self::Refresh(name) => {
                let Some(pool) = named(name) else { return Begun::nothing() };
                let step = move |step| {
                    let why = "a new image".to_owned();
                    Request::PoolRefresh(PoolRefresh {
                        pool: pool.clone(),
                        step,
                        why,
                    })
                };
                world.another_template(name);
                world.send(step(RefreshStep::Start));
                Begun::until(move |world| world.send(step(RefreshStep::Stop)))
            }
        }
    }
}

/// Settings with what they may become and what they are.
fn changes(most: u32) -> Vec<(&'static str, Value, Value)> {
    vec![
        ("max", json!(most / 2), json!(most)),
        ("max", json!(0), json!(most)),
        ("limits.drain", json!("5s"), json!("5m")),
        ("limits.step-up", json!(1), json!(100)),
        ("limits.storm-share", json!(0.1), json!(0.45)),
        ("limits.replace-at-once", json!(1), Value::Null),
        ("limits.stabilization", json!("0s"), json!("20s")),
    ]
}

fn named(pool: &str) -> Option<PoolName> {
    PoolName::new(pool).ok()
}

fn change(world: &mut World, pool: &str, path: &str, value: Value) {
    let Some(pool) = named(pool) else { return };
    world.send(Request::PoolReconfigure(PoolChange {
        pool,
        set: BTreeMap::from([(path.to_owned(), value)]),
        template: None,
        if_revision: None,
    }));
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resize(pool, n) => write!(out, "{pool} is to keep {n}"),
            Self::Reconfigure { pool, path, value, .. } => write!(out, "{path} of {pool} becomes {value}"),
            Self::Nonsense(pool) => write!(out, "{pool} is to become something that cannot be"),
            Self::Pause(pool, paused) => {
                let what = [
                    (paused.grow, "growing"),
                    (paused.shrink, "shrinking"),
                    (paused.replace, "replacing"),
                ];
                let what: Vec<&str> = what.into_iter().filter(|(on, _)| *on).map(|(_, what)| what).collect();
                write!(
                    out,
                    "{pool} is kept from {}",
                    if what.is_empty() {
                        "nothing".to_owned()
                    } else {
                        what.join(" and ")
                    }
                )
            }
            Self::Kill(nth) => write!(out, "an operator ends instance {nth}"),
            Self::Protect(nth) => write!(out, "an operator protects instance {nth}"),
            Self::Remove(pool, force) => write!(out, "{pool} is removed{}", if *force { " by force" } else { "" }),
            Self::Teardown(force) => write!(out, "everything is torn down{}", if *force { " by force" } else { "" }),
            Self::Refresh(pool) => write!(out, "{pool} gets another template and is refreshed"),
        }
    }
}

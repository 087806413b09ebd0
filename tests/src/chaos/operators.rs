//! Operators who go on while everything fails: they resize pools, pause and resume them, end instances, and sometimes ask for nonsense.
//! What was acknowledged to them has to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::{Cause, Work};
use epu_core::pool::{Paused, Pool};
use epu_core::request::{PoolChange, PoolPause, PoolRef, Request, Terminate};
use epu_core::time::{Clock as _, SystemClock, Timestamp};
use epu_core::{Fault, code::Chain};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::judge::Broken;
use crate::cluster::Cluster;
use crate::processes::Proc;
use crate::{Result, Trouble, wait};

/// Longest that an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request that was given up may still be carried out for so long, also after a later one was acknowledged.
const LINGERS: Duration = Duration::from_secs(60);
/// How long it may take until operators are heard again once faults have stopped.
const HEARD: Duration = Duration::from_secs(60);

/// What was asked of a pool: the last size that was acknowledged, and those of which it is not known.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    sure: u32,
    unsure: BTreeMap<u32, Timestamp>,
}

/// The operators.
#[derive(Debug)]
pub(super) struct Operators {
    wishes: BTreeMap<PoolName, Wish>,
    max: u32,
    clock: SystemClock,
    /// What was asked, and how often it was acknowledged.
    pub(super) asked: u32,
    pub(super) acknowledged: u32,
    /// What should not have been taken and was.
    pub(super) broken: Vec<Broken>,
}

impl Operators {
    /// Of pools that keep so many, and may be given up to `max`.
    pub(super) fn of(pools: &[(PoolName, u32)], max: u32) -> Self {
        let wishes = pools.iter().map(|(name, n)| {
            let wish = Wish {
                sure: *n,
                ..Wish::default()
            };
            (name.clone(), wish)
        });
        Self {
            wishes: wishes.collect(),
            max,
            clock: SystemClock::start(),
            asked: 0,
            acknowledged: 0,
            broken: Vec::new(),
        }
    }

    /// Does one thing, at a door that is not one of `deaf`. Gives the instance that it harms, if it does.
    pub(super) async fn act(&mut self, cluster: &Cluster, deaf: &BTreeSet<String>, random: &mut fastrand::Rng) -> Option<InstanceId> {
        let doors: Vec<String> = cluster.running().into_iter().filter(|name| !deaf.contains(name)).collect();
        let door = doors.get(random.usize(..doors.len().max(1)))?.clone();
        let pools: Vec<PoolName> = self.wishes.keys().cloned().collect();
        let pool = pools[random.usize(..pools.len())].clone();
        self.asked += 1;
        let acknowledged = match random.u8(0..10) {
            0..5 => self.resize(cluster, &door, pool, random.u32(0..=self.max)).await.is_ok(),
            5 => {
                let paused = Paused {
                    grow: random.bool(),
                    shrink: random.bool(),
                    replace: random.bool(),
                    why: "a look".to_owned(),
                };
                let pause = Request::PoolPause(PoolPause { pool, paused });
                ask::<Value>(cluster, &door, pause).await.is_ok()
            }
            6 | 7 => ask::<Value>(cluster, &door, Request::PoolResume(PoolRef { pool })).await.is_ok(),
            8 => {
                self.ask_for_nonsense(cluster, &door, pool, random).await;
                false
            }
            _ => {
                let agents: Vec<Proc> = cluster.agents().into_iter().collect();
                let agent = agents.get(random.usize(..agents.len().max(1)))?;
                let id: InstanceId = agent.variable("EPU_INSTANCE")?.parse().ok()?;
                let order = Terminate {
                    instances: vec![(id, Work::Unknown)],
                    why: Cause::Operator,
                    epoch: 0,
                };
                let answer = ask::<Value>(cluster, &door, Request::Terminate(order)).await;
                self.acknowledged += u32::from(answer.is_ok());
                return Some(id);
            }
        };
        self.acknowledged += u32::from(acknowledged);
        None
    }

    async fn resize(&mut self, cluster: &Cluster, door: &str, pool: PoolName, n: u32) -> std::result::Result<(), Fault> {
        let change = changing(&pool, "engine.keep.n", json!(n));
        let done = ask::<Value>(cluster, door, change).await;
        let now = self.clock.now();
        if let Some(wish) = self.wishes.get_mut(&pool) {
            if done.is_ok() {
                wish.sure = n;
                wish.unsure.retain(|_, since| now.since(*since) < LINGERS);
            } else {
                wish.unsure.insert(n, now);
            }
        }
        done.map(drop)
    }

    /// I11: what is refused, or not even answered, changes nothing; taken it must not be.
    async fn ask_for_nonsense(&mut self, cluster: &Cluster, door: &str, pool: PoolName, random: &mut fastrand::Rng) {
        let (path, value) = match random.u8(0..4) {
            0 => ("engine.keep.n", json!(-1)),
            1 => ("max", json!("many")),
            2 => ("limits.cooldown-sideways", json!("5s")),
            _ => ("health.missing", json!("soon")),
        };
        let change = changing(&pool, path, value.clone());
        if ask::<Value>(cluster, door, change).await.is_ok() {
            self.broken.push(Broken {
                rule: "I11",
                what: format!("pool {pool} took {path}: {value}"),
            });
        }
    }

    /// Once faults have stopped: what was acknowledged is there; every pool is resumed; and sizes are set for good, which is what all has
    /// to come to.
    pub(super) async fn settle(
        &mut self,
        cluster: &Cluster,
        stored: &BTreeMap<PoolName, Pool>,
        random: &mut fastrand::Rng,
    ) -> Result<BTreeMap<PoolName, u32>> {
        for (name, wish) in &self.wishes {
            let n = stored
                .get(name)
                .and_then(|pool| pool.spec.engine.get("keep")?.get("n")?.as_u64())
                .and_then(|n| u32::try_from(n).ok());
            if n.is_none_or(|n| n != wish.sure && !wish.unsure.contains_key(&n)) {
                self.broken.push(Broken {
                    rule: "acknowledged",
                    what: format!("pool {name} keeps {n:?}, and {wish:?} was asked for"),
                });
            }
        }
        let pools: Vec<PoolName> = self.wishes.keys().cloned().collect();
        let mut targets = BTreeMap::new();
        for pool in pools {
            let n = random.u32(1..=self.max);
            wait::until(HEARD, &format!("pool {pool} is set for good"), async || {
                let resume = Request::PoolResume(PoolRef { pool: pool.clone() });
                cluster.ask::<Value>(resume).await?;
                cluster.ask::<Value>(changing(&pool, "engine.keep.n", json!(n))).await
            })
            .await?;
            targets.insert(pool, n);
        }
        Ok(targets)
    }
}

fn changing(pool: &PoolName, path: &str, value: Value) -> Request {
    Request::PoolReconfigure(PoolChange {
        pool: pool.clone(),
        set: BTreeMap::from([(path.to_owned(), value)]),
        template: None,
        if_revision: None,
    })
}

async fn ask<T: DeserializeOwned>(cluster: &Cluster, door: &str, request: Request) -> std::result::Result<T, Fault> {
    let asked = tokio::time::timeout(PATIENCE, cluster.ask_at(door, request)).await;
    asked.unwrap_or_else(|late| Err(Fault::new("timeout", Chain(&late).to_string())))
}

/// A pool's name.
///
/// # Errors
/// When it is none.
pub(super) fn pool(name: &str) -> Result<PoolName> {
    PoolName::new(name).map_err(|error| Trouble::new("name a pool", error))
}

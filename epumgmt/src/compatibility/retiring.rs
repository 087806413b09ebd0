//! Shrinking a domain by the instances that its user named.
//!
//! The process dispatcher of the original lowers `preserve_n` and names in `retirable_nodes` the machines that have nothing to do any more. A pool
//! chooses its own victims, so it is kept from shrinking while the wish is lowered and the named ones are drained; then it has nothing left to
//! choose. Each step may be repeated. Should we end in between, the message comes again and finishes it: the pause bears our name.

use std::time::Duration;

use epu_bus::amqp::dashi::Failed;
use epu_core::instance::{Cause, Drain, Work};
use epu_core::life::State;
use epu_core::pool::Paused;
use epu_core::request::{
    Caller, DrainOrder, InstanceFilter, InstanceView, PoolChange, PoolPause, PoolRef, PoolView, Request, Terminate,
};
use epu_core::{InstanceId, PoolName};
use serde_json::Value;

use super::domains::Domain;
use super::engines::Engine;
use super::records::own_id;
use super::sections::Sections;
use super::{OURSELVES, Office};

/// The reason that our pauses bear.
const WHY: &str = "a dashi client names the instances that are to go";
/// How often to look whether the named ones are on their way.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many times. Too low: the pool chooses others, because it has not heard yet.
const LOOKS: usize = 30;

impl Office {
    /// Changes a domain's pool. `merged` is its configuration from then on.
    pub(super) async fn change_pool(&self, caller: &str, domain: &Domain, merged: &Sections, change: PoolChange) -> Result<(), Failed> {
        let (retired, before) = match self.to_retire(domain, merged).await? {
            Some(found) => found,
            None => {
                self.ask::<Value>(Self::owner(caller), Request::PoolReconfigure(change)).await?;
                return Ok(());
            }
        };
        let paused = Paused {
            shrink: true,
            why: WHY.to_owned(),
            ..before.clone()
        };
        self.pause(caller, &domain.pool, paused).await?;
        let changed = self.ask::<Value>(Self::owner(caller), Request::PoolReconfigure(change)).await;
        let gone = match &changed {
            Ok(_) => self.let_go(caller, &domain.pool, retired).await,
            Err(_) => Ok(()),
        };
        self.pause(caller, &domain.pool, before).await?;
        changed?;
        gone
    }

    /// The instances to retire, and how the pool was paused before; none when it can choose by itself.
    async fn to_retire(&self, domain: &Domain, merged: &Sections) -> Result<Option<(Vec<InstanceView>, Paused)>, Failed> {
        let named = merged.engine_conf.get("retirable_nodes").and_then(Value::as_array);
        let named: Vec<InstanceId> = named.into_iter().flatten().filter_map(Value::as_str).filter_map(own_id).collect();
        let n = merged.engine_conf.get("preserve_n").and_then(Value::as_u64);
        let (Some(n), false, Ok(Engine::Needy)) = (n, named.is_empty(), Engine::of(merged)) else {
            return Ok(None);
        };
        let staying = self.staying(&domain.pool).await?;
        let surplus = staying.len().saturating_sub(usize::try_from(n).unwrap_or(usize::MAX));
        let retired: Vec<_> = staying
            .into_iter()
            .filter(|view| named.contains(&view.instance.id) && view.instance.slot.is_none())
            .take(surplus)
            .collect();
        if retired.is_empty() {
            return Ok(None);
        }
        let which = PoolRef { pool: domain.pool.clone() };
        let view: PoolView = self.ask(Caller::Reader(OURSELVES.to_owned()), Request::PoolShow(which)).await?;
        let before = Some(view.pool.paused).filter(|paused| paused.why != WHY).unwrap_or_default();
        Ok(Some((retired, before)))
    }

    /// Live instances that nobody told to go.
    async fn staying(&self, pool: &PoolName) -> Result<Vec<InstanceView>, Failed> {
        let filter = InstanceFilter {
            pool: Some(pool.clone()),
            all: false,
        };
        let mut all: Vec<InstanceView> = self.ask(Caller::Reader(OURSELVES.to_owned()), Request::InstanceList(filter)).await?;
        all.retain(|view| view.instance.is_live() && !view.instance.is_leaving());
        Ok(all)
    }

    async fn pause(&self, caller: &str, pool: &PoolName, paused: Paused) -> Result<(), Failed> {
        let pause = PoolPause {
            pool: pool.clone(),
            paused,
        };
        self.ask::<Value>(Self::owner(caller), Request::PoolPause(pause)).await?;
        Ok(())
    }

    /// Drains those that run, ends the others, and waits until the controller knows it.
    async fn let_go(&self, caller: &str, pool: &PoolName, retired: Vec<InstanceView>) -> Result<(), Failed> {
        let ids: Vec<InstanceId> = retired.iter().map(|view| view.instance.id).collect();
        let (running, booting): (Vec<_>, Vec<_>) = retired.into_iter().partition(|view| view.instance.state == State::Running);
        let since = self.clock.now();
        if !running.is_empty() {
            let order = DrainOrder {
                instances: running.iter().map(|view| view.instance.id).collect(),
                drain: Drain {
                    since,
                    deadline: since + *self.config.limits.drain,
                    why: Cause::ScaleIn,
                },
                epoch: 0,
            };
            self.ask::<Value>(Caller::Operator(caller.to_owned()), Request::Drain(order)).await?;
        }
        if !booting.is_empty() {
            let order = Terminate {
                instances: booting.iter().map(|view| (view.instance.id, Work::Unknown)).collect(),
                why: Cause::ScaleIn,
                epoch: 0,
            };
            self.ask::<Value>(Caller::Operator(caller.to_owned()), Request::Terminate(order)).await?;
        }
        for _ in 0..LOOKS {
            if self.staying(pool).await?.iter().all(|view| !ids.contains(&view.instance.id)) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

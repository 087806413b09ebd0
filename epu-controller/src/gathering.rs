//! Answers that are put together from what every live controller knows.
//!
//! Each is asked for what it leads, for a bounded time. One that does not answer is named, and what it leads, like what nobody leads
//! just now, is shown as it is recorded: a list never becomes shorter because a controller was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epu_bus::Bus;
use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::Instance;
use epu_core::request::{Answer, Caller, InstanceFilter, InstanceView, PoolBrief, PoolView, Request, StatusView};
use epu_core::time::Timestamp;
use epu_store::Store;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::ops::store_fault;
use crate::show::{INSTANCES_MAX, bare, one_of, stored_instance};
use crate::view::View;

/// How long another controller may take. Too high: a list waits for one that is gone. Too low: a busy one is called silent.
const WITHIN: Duration = Duration::from_secs(3);
/// What is said of a pool that no controller showed.
const NOT_LED: &str = "no controller answers for it just now, another takes over within seconds; shown is what is recorded";

/// One answer to be put together.
pub(crate) struct Gathering {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) now: Timestamp,
    pub(crate) caller: Caller,
    pub(crate) request: Request,
    /// Who gathers, and what it has itself.
    pub(crate) own: (String, Result<Answer, Fault>),
    pub(crate) others: Vec<String>,
}

/// What came of asking everybody.
struct Heard<T> {
    /// By member.
    said: Vec<T>,
    /// In words.
    silent: Vec<String>,
}

impl Gathering {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not gathered is refused here")]
    pub(crate) async fn answer(self) -> Result<Answer, Fault> {
        match self.request.clone() {
            Request::PoolList(_) => Answer::of(&self.pools().await?),
            Request::InstanceList(filter) => Answer::of(&self.instances(&filter).await?),
            Request::InstanceShow(which) => Answer::of(&self.instance(&which.instance).await?),
            Request::Status(_) => Answer::of(&self.status().await?),
            other => Err(Fault::new("internal", format!("{} is not gathered", other.op()))),
        }
    }

    /// Asks everybody, all at once.
    async fn ask<T: for<'de> Deserialize<'de>>(&self, request: &Request) -> Result<Heard<T>, Fault> {
        let mut asking = JoinSet::new();
        for name in self.others.clone() {
            let (bus, caller, request) = (self.bus.clone(), self.caller.clone(), request.clone());
            asking.spawn(async move {
                let answer = bus.ask_member(&name, caller, request, WITHIN).await;
                (name, answer)
            });
        }
        let mut answers = BTreeMap::from([self.own.clone()]);
        answers.extend(asking.join_all().await);
        let mut heard = Heard {
            said: Vec::new(),
            silent: Vec::new(),
        };
        for (name, answer) in answers {
            match answer.and_then(Answer::read) {
                Ok(said) => heard.said.push(said),
                // It answered: this is what it has to say.
                Err(fault) if fault.code == "bad-request" => return Err(fault),
                Err(fault) => heard.silent.push(format!("controller {name} does not answer: {}", fault.text)),
            }
        }
        Ok(heard)
    }

    async fn pools(&self) -> Result<Vec<PoolView>, Fault> {
        let heard: Heard<Vec<PoolView>> = self.ask(&self.request).await?;
        let mut pools = newest_pools(heard.said.into_iter().flatten());
        let shown = pools.keys().cloned().collect();
        pools.extend(self.not_shown(&shown).await?);
        Ok(pools.into_values().collect())
    }

    async fn status(&self) -> Result<StatusView, Fault> {
        let heard: Heard<StatusView> = self.ask(&self.request).await?;
        let own: StatusView = self.own.1.clone().and_then(Answer::read)?;
        let mut status = together(own, heard.said);
        let shown = status.pools.iter().map(|pool| pool.name.clone()).collect();
        status.concerns.extend(heard.silent);
        match self.not_shown(&shown).await {
            Ok(rest) => {
                for (name, view) in rest {
                    status.concerns.push(format!("pool {name}: {NOT_LED}"));
                    status.pools.push(brief(&view));
                }
                status.pools.sort_by(|a, b| a.name.cmp(&b.name));
            }
            Err(fault) => status.concerns.push(format!("not all pools may be shown: {}", fault.text)),
        }
        Ok(status)
    }

    async fn instances(&self, filter: &InstanceFilter) -> Result<Vec<InstanceView>, Fault> {
        let live = Request::InstanceList(InstanceFilter { pool: None, all: false });
        let heard: Heard<Vec<InstanceView>> = self.ask(&live).await?;
        let mut instances = newest_instances(heard.said.into_iter().flatten());
        // What no controller showed, recorded all the same.
        let stored = self.store.instances(!filter.all).await.map_err(|e| store_fault(&e))?;
        for instance in stored {
            instances.entry(instance.id).or_insert_with(|| bare(instance));
        }
        Ok(instances.into_values().take(INSTANCES_MAX).collect())
    }

    async fn instance(&self, which: &str) -> Result<InstanceView, Fault> {
        let heard: Heard<Vec<InstanceView>> = self.ask(&self.request).await?;
        let fitting = newest_instances(heard.said.into_iter().flatten());
        match one_of(fitting.into_values().collect(), which)? {
            Some(one) => Ok(one),
            None => stored_instance(self.store.as_ref(), which).await,
        }
    }

    /// Pools that nobody showed, as they are recorded.
    async fn not_shown(&self, shown: &BTreeSet<PoolName>) -> Result<BTreeMap<PoolName, PoolView>, Fault> {
        let failed = |error: epu_store::Error| Fault::new("store-failed", Chain(&error).to_string());
        let all = self.store.pool_revisions().await.map_err(failed)?;
        let missing: BTreeSet<PoolName> = all.into_keys().filter(|name| !shown.contains(name)).collect();
        if missing.is_empty() {
            return Ok(BTreeMap::new());
        }
        let pools = self.store.pools().await.map_err(failed)?;
        let targets = self.store.memories().await.map_err(failed)?;
        let targets: BTreeMap<PoolName, Option<u32>> = targets.into_iter().map(|(name, memory)| (name, memory.target)).collect();
        let mut instances: BTreeMap<PoolName, Vec<Arc<Instance>>> = BTreeMap::new();
        for instance in self.store.instances(true).await.map_err(failed)? {
            if missing.contains(&instance.pool) {
                instances.entry(instance.pool.clone()).or_default().push(Arc::new(instance));
            }
        }
        let pools = pools.into_iter().filter(|pool| missing.contains(&pool.name));
        let views = pools.map(|pool| {
            let name = pool.name.clone();
            let mut view = View::new(Arc::new(pool.clone()), self.now);
            drop(view.load(instances.remove(&name).unwrap_or_default(), self.now));
            let shown = PoolView {
                pool,
                counts: view.pool_counts(),
                target: targets.get(&name).copied().flatten(),
                decision: None,
                readings: BTreeMap::new(),
                slots: BTreeMap::new(),
                concerns: vec![NOT_LED.to_owned()],
                boot_ms: None,
            };
            (name, shown)
        });
        Ok(views.collect())
    }
}

/// Of a pool that several showed, because it is just moving, the newest record.
fn newest_pools(all: impl Iterator<Item = PoolView>) -> BTreeMap<PoolName, PoolView> {
    let mut pools: BTreeMap<PoolName, PoolView> = BTreeMap::new();
    for view in all {
        let name = view.pool.name.clone();
        if pools.get(&name).is_none_or(|known| known.pool.revision < view.pool.revision) {
            pools.insert(name, view);
        }
    }
    pools
}

/// Likewise of an instance, and of the same record the one heard of last.
fn newest_instances(all: impl Iterator<Item = InstanceView>) -> BTreeMap<InstanceId, InstanceView> {
    let mut instances: BTreeMap<InstanceId, InstanceView> = BTreeMap::new();
    let age = |view: &InstanceView| (view.instance.version, view.heard_at);
    for view in all {
        if instances.get(&view.instance.id).is_none_or(|known| age(known) < age(&view)) {
            instances.insert(view.instance.id, view);
        }
    }
    instances
}

/// The state of the whole from everybody's part of it.
fn together(mut own: StatusView, all: Vec<StatusView>) -> StatusView {
    let mut pools = BTreeMap::new();
    let mut concerns = std::mem::take(&mut own.concerns);
    for part in all {
        for pool in part.pools {
            pools.entry(pool.name.clone()).or_insert(pool);
        }
        for concern in part.concerns {
            if !concerns.contains(&concern) {
                concerns.push(concern);
            }
        }
        own.closed |= part.closed;
    }
    own.pools = pools.into_values().collect();
    own.concerns = concerns;
    own
}

fn brief(view: &PoolView) -> PoolBrief {
    PoolBrief {
        name: view.pool.name.clone(),
        engine: view.pool.spec.engine.keys().next().cloned().unwrap_or_default(),
        target: view.target,
        counts: view.counts,
        condition: "trouble".to_owned(),
        why: NOT_LED.to_owned(),
    }
}

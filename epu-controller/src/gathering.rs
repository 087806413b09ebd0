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
use epu_core::request::{Answer, Caller, InstanceFilter, InstanceView, PlacementView, PoolBrief, PoolView, Request, StatusView};
use epu_core::time::Timestamp;
use epu_store::{PoolMemory, Store};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::ops::store_fault;
use crate::placements::views;
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
            Request::PlacementList(_) => Answer::of(&self.placements().await?),
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
        let recorded = self.recorded(|name| !shown.contains(name)).await?;
        let views = recorded.into_iter().map(|(view, memory)| {
            let shown = PoolView {
                pool: view.pool.as_ref().clone(),
                counts: view.pool_counts(),
                target: memory.target,
                decision: None,
                readings: BTreeMap::new(),
                slots: BTreeMap::new(),
                concerns: vec![NOT_LED.to_owned()],
                boot_ms: None,
                versions: crate::rollout::versions(&view),
            };
            (view.pool.name.clone(), shown)
        });
        Ok(views.collect())
    }

    async fn placements(&self) -> Result<Vec<PlacementView>, Fault> {
        let heard: Heard<Vec<PlacementView>> = self.ask(&self.request).await?;
        let mut placements: BTreeMap<(PoolName, u32, String), PlacementView> = BTreeMap::new();
        let mut shown = BTreeSet::new();
        for of_one in heard.said {
            // A pool that is just moving may be shown by two: it is taken whole, from one of them.
            let pools: BTreeSet<PoolName> = of_one.iter().map(|view| view.pool.clone()).collect();
            let news = of_one.into_iter().filter(|view| !shown.contains(&view.pool));
            placements.extend(news.map(by_rank));
            shown.extend(pools);
        }
        for (view, memory) in self.recorded(|name| !shown.contains(name)).await? {
            let guards = serde_json::from_value(memory.guards).unwrap_or_default();
            placements.extend(views(&view, &guards, self.now).into_iter().map(by_rank));
        }
        Ok(placements.into_values().collect())
    }

    /// Pools as they are recorded, each with what is remembered of it.
    async fn recorded(&self, wanted: impl Fn(&PoolName) -> bool) -> Result<Vec<(View, PoolMemory)>, Fault> {
        let failed = |error: epu_store::Error| Fault::new("store-failed", Chain(&error).to_string());
        let all = self.store.pool_revisions().await.map_err(failed)?;
        let missing: BTreeSet<PoolName> = all.into_keys().filter(wanted).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let pools = self.store.pools().await.map_err(failed)?;
        let memories = self.store.memories().await.map_err(failed)?;
        let mut memories: BTreeMap<PoolName, PoolMemory> = memories.into_iter().collect();
        let mut instances: BTreeMap<PoolName, Vec<Arc<Instance>>> = BTreeMap::new();
        for instance in self.store.instances(true).await.map_err(failed)? {
            if missing.contains(&instance.pool) {
                instances.entry(instance.pool.clone()).or_default().push(Arc::new(instance));
            }
        }
        let pools = pools.into_iter().filter(|pool| missing.contains(&pool.name));
        let views = pools.map(|pool| {
            let name = pool.name.clone();
            let mut view = View::new(Arc::new(pool), self.now);
            drop(view.load(instances.remove(&name).unwrap_or_default(), self.now));
            (view, memories.remove(&name).unwrap_or_default())
        });
        Ok(views.collect())
    }
}

/// Where a placement stands in the list.
fn by_rank(view: PlacementView) -> ((PoolName, u32, String), PlacementView) {
    let place = (view.pool.clone(), view.rank.unwrap_or(u32::MAX), view.placement.clone());
    (place, view)
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

#[cfg(test)]
mod tests {
    use epu_core::health::Health;
    use epu_core::instance::Work;
    use epu_core::random::Random;
    use epu_core::request::{Nothing, PoolCounts};
    use epu_store::MemoryStore;

    use super::*;

    fn instance(random: &Random, version: u64, heard_at: Option<i64>) -> InstanceView {
        let instance: Instance = serde_json::from_value(serde_json::json!({
            "id": random.instance(Timestamp(1)), "pool": "web", "launch": random.launch(Timestamp(1)), "index": 0, "site": "here",
            "state": "600-RUNNING", "version": version, "created_at": 1, "state_since": 1,
        }))
        .unwrap();
        InstanceView {
            instance,
            health: Health::Ok,
            work: Work::Unknown,
            heard_at: heard_at.map(Timestamp),
        }
    }

    #[test]
    fn of_what_two_controllers_show_the_newest_counts_whoever_came_first() {
        let random = Random::seeded(1);
        let old = instance(&random, 3, Some(9));
        let mut heard = old.clone();
        heard.heard_at = Some(Timestamp(10));
        let mut newer = old.clone();
        newer.instance.version = 4;
        newer.heard_at = None;
        for order in [[&old, &heard, &newer], [&newer, &heard, &old], [&heard, &newer, &old]] {
            let shown = newest_instances(order.into_iter().cloned());
            assert_eq!(shown.into_values().collect::<Vec<_>>(), [newer.clone()]);
        }
        assert_eq!(newest_instances([old, heard.clone()].into_iter()).into_values().next(), Some(heard));
    }

    fn status(pool: &str, concern: &str, closed: bool) -> StatusView {
        StatusView {
            installation: "i".into(),
            version: "1".into(),
            closed,
            since: Timestamp(1),
            now: Timestamp(2),
            pools: vec![PoolBrief {
                name: PoolName::new(pool).unwrap(),
                engine: "keep".into(),
                target: None,
                counts: PoolCounts::default(),
                condition: "steady".into(),
                why: String::new(),
            }],
            concerns: vec![concern.into()],
            standing: epu_core::lease::Standing::default(),
        }
    }

    #[test]
    fn the_whole_is_every_pool_once_and_every_concern_once() {
        let own = status("web", "closed", false);
        let all = vec![
            own.clone(),
            status("jobs", "closed", true),
            status("web", "a sensor is stale", false),
        ];
        let whole = together(own, all);
        let names: Vec<&str> = whole.pools.iter().map(|pool| pool.name.as_str()).collect();
        assert_eq!((names, whole.closed), (vec!["jobs", "web"], true));
        assert_eq!(whole.concerns, ["closed", "a sensor is stale"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_named_and_a_store_that_fails_is_said() {
        let bus = epu_bus::local::LocalBus::new();
        let store = Arc::new(MemoryStore::new());
        let mut hangs = bus.serve_member("hangs");
        let gathering = || Gathering {
            bus: bus.clone(),
            store: store.clone(),
            now: Timestamp(2),
            caller: Caller::Operator("anna".into()),
            request: Request::Status(Nothing {}),
            own: ("me".into(), Answer::of(&status("web", "c", false))),
            others: vec!["gone".into(), "hangs".into()],
        };
        let whole: StatusView = gathering().answer().await.unwrap().read().unwrap();
        assert_eq!(whole.pools.len(), 1);
        for silent in ["gone", "hangs"] {
            let named = |text: &&String| text.contains(&format!("controller {silent} does not answer"));
            assert_eq!(whole.concerns.iter().filter(named).count(), 1, "{:?}", whole.concerns);
        }
        store.fail_with(Some("the disk is gone"));
        let whole: StatusView = gathering().answer().await.unwrap().read().unwrap();
        let said = whole.concerns.last().unwrap();
        assert!(
            said.contains("not all pools may be shown") && said.contains("the disk is gone"),
            "{said}"
        );
        hangs.close();
    }
}

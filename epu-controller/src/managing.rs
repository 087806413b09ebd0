//! Pools as they are managed: how one begins to be, what is kept about it, what of that is written, and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use epu_core::Fault;
use epu_core::code::Chain;
use epu_core::fact::Fact;
use epu_core::id::PoolName;
use epu_core::journal::{Decided, Entry, Event};
use epu_core::lease::Term;
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use epu_decision_engines::{Engine, Memory, Registry};
use epu_store::{DecisionCommit, PoolMemory};
use tracing::{info, warn};

use crate::deciding::Attempt;
use crate::guards::Guards;
use crate::metrics::PoolMetrics;
use crate::outbox::Outbox;
use crate::rollout::Versions;
use crate::service::{BITE, Controller};
use crate::steering::Steering;
use crate::view::View;

/// Pools in one fact, and what they come to when they are written out. Too high: a bus refuses to carry it. One pool that is larger
/// goes by itself.
const PAGE_POOLS: usize = 100;
const PAGE_BYTES: usize = 256 * 1_024;

/// A pool with everything that is kept about it.
pub(crate) struct Managed {
    pub(crate) view: View,
    pub(crate) engine: Option<Box<dyn Engine>>,
    pub(crate) target: Option<u32>,
    pub(crate) memory: Memory,
    pub(crate) guards: Guards,
    pub(crate) last: Option<Decided>,
    pub(crate) trouble: Option<Fault>,
    pub(crate) outbox: Outbox,
    /// Aggregators that told all they have since it is managed, or since facts were lost.
    pub(crate) heard_from: BTreeSet<String>,
    pub(crate) remembered_at: Timestamp,
    pub(crate) unwritten: bool,
    /// What was loaded when it began to be managed, see `Leads`.
    pub(crate) stint: u64,
    pub(crate) wake: Option<Timestamp>,
    pub(crate) statuses: BTreeMap<epu_core::SensorName, &'static str>,
    /// How it comes to where it aims.
    pub(crate) steering: Steering,
    /// A decision of which it is not known whether it was recorded.
    pub(crate) unsure: Option<Box<Attempt>>,
    pub(crate) metrics: PoolMetrics,
}

impl Managed {
    /// Placements that launch something else from now on, and those whose name is another site's, wait for nothing that was before. True
    /// when a gate opened by it.
    fn launch_anew(&mut self, after: &Versions, now: Timestamp) -> bool {
        let before = Versions::of(&self.view.pool);
        let mut opened = false;
        let unsure = self.unsure.as_mut().map(|attempt| &mut attempt.guards);
        for guards in [Some(&mut self.guards), unsure].into_iter().flatten() {
            guards.launching.retain(|name, breaker| {
                let moved = before.moved(after, name);
                opened |= moved && breaker.holds();
                !moved
            });
            opened |= guards.launch_anew(|name| before.differ(after, name), now);
        }
        opened
    }
}

impl Controller {
    pub(crate) async fn forget(&mut self, name: &PoolName, now: Timestamp) {
        let journal = vec![Entry::new(now, "controller", Event::PoolForgotten).of(name)];
        let revision = self.pools.get(name).map(|managed| managed.view.pool.revision);
        let (Some(revision), Some(term)) = (revision, self.term_of(name)) else {
            return;
        };
        let result = self.parts.store.forget_pool(name, revision, Some(term), journal).await;
        match result {
            Err(epu_store::Error::Deposed(_)) => return self.depose(term, "store"),
            Err(epu_store::Error::Conflict(_)) => {
                // Somebody else changed or forgot it: what the store has of it, if anything, is managed anew. Nothing of it is live.
                self.drop_pool(name);
                return self.refresh();
            }
            Ok(_) | Err(_) => {}
        }
        if !self.noted(result.map_err(|e| Chain(&e).to_string()), "forget a removed pool") {
            self.wake(name, now + *self.parts.config.tick);
            return;
        }
        info!(pool = %name, "the removed pool is empty and forgotten");
        self.refresh.forgot(name);
        self.drop_pool(name);
    }

    /// Manages a pool no more: nothing of it is left here.
    pub(crate) fn drop_pool(&mut self, name: &PoolName) {
        if let Some(managed) = self.pools.remove(name)
            && let Some(at) = managed.wake
        {
            self.wakes.remove(&(at, name.clone()));
        }
        self.dirty.remove(name);
        self.to_send.remove(name);
        self.commanding.remove(name);
        self.unwritten.remove(name);
        self.waiting.remove(name);
        self.unheard.remove(name);
    }

    /// Writes what changed without a decision, now and then.
    pub(crate) async fn remember(&mut self, now: Timestamp) {
        let every = *self.parts.config.remember_every;
        let pools = &self.pools;
        self.unwritten
            .retain(|name| pools.get(name).is_some_and(|managed| managed.unwritten));
        let is_due = |name: &&PoolName| pools.get(*name).is_some_and(|managed| now.since(managed.remembered_at) >= every);
        let due: Vec<PoolName> = self.unwritten.iter().filter(is_due).cloned().collect();
        for name in due {
            // The rest at the next tick.
            if self.parts.clock.now().since(now) >= BITE {
                return;
            }
            if let Some(term) = self.term_of(&name) {
                self.remember_one(&name, term, now).await;
            }
        }
    }

    /// Writes what is remembered of a pool. False when the store did not take it.
    pub(crate) async fn remember_one(&mut self, name: &PoolName, term: Term, now: Timestamp) -> bool {
        // What may have been decided since is not written over with what was remembered before it.
        let Some(managed) = self.pools.get(name).filter(|managed| managed.unsure.is_none()) else {
            return true;
        };
        let memory = PoolMemory {
            target: managed.target,
            engine: managed.engine.as_ref().map(|e| e.version().to_owned()).unwrap_or_default(),
            memory: managed.memory.0.clone(),
            guards: serde_json::to_value(&managed.guards).unwrap_or_default(),
        };
        let commit = DecisionCommit {
            term: Some(term),
            memory: Some(memory),
            ..DecisionCommit::default()
        };
        let result = self.parts.store.commit_decision(name, commit).await;
        if let Err(epu_store::Error::Deposed(_)) = result {
            self.depose(term, "store");
            return false;
        }
        let written = self.noted(result.map_err(|e| Chain(&e).to_string()), "write what is remembered");
        if let Some(managed) = self.pools.get_mut(name).filter(|_| written) {
            managed.remembered_at = now;
            managed.unwritten = false;
        }
        written
    }

    /// Tells how every pool is.
    pub(crate) fn tell_pools(&mut self) {
        self.tell_at = self.parts.clock.now() + *self.parts.config.tell_every;
        self.told_up_to = None;
        let pools: Vec<Pool> = self.pools.values().map(|m| m.view.pool.as_ref().clone()).collect();
        self.tell_of(pools);
    }

    /// Tells a page of pools when it is time to: all of them within `tell-every`, and of many a few at a time, so that no turn takes long
    /// over what nobody asked for.
    pub(crate) fn tell_some(&mut self, now: Timestamp) {
        let every = *self.parts.config.tell_every;
        let pages = u32::try_from(self.pools.len().div_ceil(PAGE_POOLS).max(1)).unwrap_or(u32::MAX);
        // After a pause it is one round at the most.
        self.tell_at = self.tell_at.max(now - every);
        while self.tell_at <= now {
            self.tell_at = self.tell_at + (every / pages).max(Duration::from_millis(1));
            let after = self.told_up_to.as_ref().map_or(Unbounded, Excluded);
            let page = self.pools.range((after, Unbounded)).take(PAGE_POOLS);
            let page: Vec<Pool> = page.map(|(_, managed)| managed.view.pool.as_ref().clone()).collect();
            self.told_up_to = page.last().filter(|_| page.len() == PAGE_POOLS).map(|pool| pool.name.clone());
            self.tell_of(page);
        }
    }

    /// Tells how pools are, in pages that every bus carries: who hears them takes each pool for itself.
    pub(crate) fn tell_of(&self, pools: Vec<Pool>) {
        for page in pages(pools) {
            self.parts.bus.tell(Fact::Pools(Arc::new(page)));
        }
    }

    /// Begins to manage a pool, or takes its new settings.
    pub(crate) fn manage(&mut self, pool: Arc<Pool>, memory: Option<PoolMemory>, now: Timestamp) {
        let name = pool.name.clone();
        let (engine, trouble) = match make_engine(&self.parts.engines, &pool) {
            Ok(engine) => (Some(engine), None),
            Err(fault) => {
                warn!(pool = %name, %fault, "the pool's engine cannot be made; the pool is left as it is");
                (None, Some(fault))
            }
        };
        self.dirty.insert(name.clone());
        if let Some(managed) = self.pools.get_mut(&name) {
            let same = managed
                .engine
                .as_ref()
                .zip(engine.as_ref())
                .is_some_and(|(a, b)| a.version() == b.version());
            if !same {
                managed.memory = Memory::default();
                if let Some(attempt) = managed.unsure.as_mut() {
                    attempt.memory = Memory::default();
                }
            }
            managed.engine = engine;
            managed.trouble = trouble;
            if managed.launch_anew(&Versions::of(&pool), now) {
                managed.unwritten = true;
                self.unwritten.insert(name.clone());
                let closed = Event::BreakerClosed { breaker: "launch".into() };
                self.noted_entries.push(Entry::new(now, "controller", closed).of(&name));
            }
            let changed = managed.view.set_pool(pool, now);
            self.take_changed(&name, changed, now);
            return;
        }
        let mut managed = Managed {
            metrics: PoolMetrics::new(&self.parts.metrics, &name),
            view: View::new(pool, now),
            engine,
            target: None,
            memory: Memory::default(),
            guards: Guards::default(),
            last: None,
            trouble,
            outbox: Outbox::default(),
            heard_from: BTreeSet::new(),
            remembered_at: now,
            unwritten: false,
            stint: self.leads.stint,
            wake: None,
            statuses: BTreeMap::new(),
            steering: Steering::default(),
            unsure: None,
        };
        let mut dropped = Vec::new();
        if let Some(stored) = memory {
            managed.target = stored.target;
            let version = managed.engine.as_ref().map(|e| e.version()).unwrap_or_default();
            if version == stored.engine {
                managed.memory = Memory(stored.memory);
            } else if !stored.memory.is_null() {
                dropped.push(format!("memory of {} is not handed to {version}", stored.engine));
            }
            match serde_json::from_value(stored.guards) {
                Ok(guards) => {
                    managed.guards = guards;
                    managed.guards.not_after(now, &managed.view.pool.spec.limits);
                }
                Err(error) => dropped.push(format!("what the guardrails remembered: {error}")),
            }
        }
        managed.view.hears_with(self.ears.heard().clone());
        managed.view.on_sites(self.parts.file.borrow().sites.clone());
        self.pools.insert(name.clone(), managed);
        self.waiting.insert(name.clone());
        self.unheard.insert(name.clone());
        let entries = dropped
            .into_iter()
            .map(|why| Entry::new(now, "controller", Event::MemoryDropped { why }).of(&name));
        self.noted_entries.extend(entries);
    }
}

fn make_engine(engines: &Registry, pool: &Pool) -> Result<Box<dyn Engine>, Fault> {
    let Some((name, settings)) = pool.spec.engine.iter().next() else {
        return Err(Fault::new("bad-config", format!("pool {}: no engine is given", pool.name)));
    };
    engines.make(name, settings).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Fault::new("bad-config", format!("pool {}: engine {name}: {}", pool.name, all.join("; ")))
    })
}

/// Pools in pages of a size that can be told; one empty page when there are none.
fn pages(pools: Vec<Pool>) -> Vec<Vec<Pool>> {
    let mut pages = vec![Vec::new()];
    let mut bytes = 0;
    for pool in pools {
        let size = serde_json::to_vec(&pool).map_or(0, |text| text.len());
        bytes += size;
        match pages.last_mut() {
            Some(page) if page.is_empty() || (page.len() < PAGE_POOLS && bytes <= PAGE_BYTES) => page.push(pool),
            _ => {
                bytes = size;
                pages.push(vec![pool]);
            }
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    fn pool(name: &str, why: usize) -> Pool {
        serde_json::from_value(serde_json::json!({
            "name": name, "template_version": "t@1", "origin": {"is": "operator"}, "revision": 1, "added_at": 0,
            "template": {"run": ["sleep", "1"]},
            "spec": {"template": "t", "max": 10, "engine": {"keep": {"n": 3}}, "placements": [{"site": "here"}]},
            "paused": {"grow": true, "shrink": false, "replace": false, "why": "x".repeat(why)},
        }))
        .unwrap()
    }

    #[test]
    fn pools_are_told_in_pages_that_are_neither_long_nor_large() {
        assert_eq!(pages(vec![]), vec![Vec::<Pool>::new()], "that there are none is told, too");
        let many: Vec<Pool> = (0..250).map(|n| pool(&format!("p{n}"), 0)).collect();
        let told = pages(many.clone());
        assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(told.concat(), many);
        let large: Vec<Pool> = (0..3).map(|n| pool(&format!("p{n}"), 100 * 1_024)).collect();
        assert_eq!(pages(large).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        let huge = vec![pool("small", 0), pool("huge", PAGE_BYTES + 1), pool("other", 0)];
        assert_eq!(pages(huge).iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }
}

//! Pools as they are managed: how one begins to be, what is kept about it, what of that is written, and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

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
use crate::outbox::Outbox;
use crate::service::Controller;
use crate::view::View;

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
    pub(crate) remembered_at: Timestamp,
    pub(crate) unwritten: bool,
    /// What was loaded when it began to be managed, see `Leads`.
    pub(crate) stint: u64,
    pub(crate) wake: Option<Timestamp>,
    pub(crate) statuses: BTreeMap<epu_core::SensorName, &'static str>,
    /// A decision of which it is not known whether it was recorded.
    pub(crate) unsure: Option<Box<Attempt>>,
}

impl Controller {
    pub(crate) async fn forget(&mut self, name: &PoolName, now: Timestamp) {
        let journal = vec![Entry::new(now, "controller", Event::PoolForgotten).of(name)];
        let result = self.parts.store.forget_pool(name, journal).await;
        if !self.noted(result.map_err(|e| Chain(&e).to_string()), "forget a removed pool") {
            self.wake(name, now + *self.parts.config.tick);
            return;
        }
        info!(pool = %name, "the removed pool is empty and forgotten");
        self.refresh.forgot(name);
        self.drop_pool(name);
        self.tell_pools();
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
        self.parts.metrics.forget(name);
    }

    /// Writes what changed without a decision, now and then.
    pub(crate) async fn remember(&mut self, now: Timestamp) {
        let every = *self.parts.config.remember_every;
        let due: Vec<PoolName> = self
            .pools
            .iter()
            .filter(|(_, m)| m.unwritten && now.since(m.remembered_at) >= every)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            if let Some(term) = self.term_of(&name) {
                self.remember_one(&name, term, now).await;
            }
        }
    }

    /// Writes what is remembered of a pool. False when the store did not take it.
    pub(crate) async fn remember_one(&mut self, name: &PoolName, term: Term, now: Timestamp) -> bool {
        let Some(managed) = self.pools.get(name) else { return true };
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

    pub(crate) fn tell_pools(&mut self) {
        self.told_at = self.parts.clock.now();
        let pools: Vec<Pool> = self.pools.values().map(|m| m.view.pool.as_ref().clone()).collect();
        self.parts.bus.tell(Fact::Pools(Arc::new(pools)));
    }

    /// Begins to manage a pool, or takes its new settings.
    pub(crate) async fn manage(&mut self, pool: Arc<Pool>, memory: Option<PoolMemory>, now: Timestamp) {
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
            }
            managed.engine = engine;
            managed.trouble = trouble;
            let changed = managed.view.set_pool(pool, now);
            self.take_changed(&name, changed, now).await;
            return;
        }
        let mut managed = Managed {
            view: View::new(pool, now),
            engine,
            target: None,
            memory: Memory::default(),
            guards: Guards::default(),
            last: None,
            trouble,
            outbox: Outbox::default(),
            remembered_at: now,
            unwritten: false,
            stint: self.leads.stint,
            wake: None,
            statuses: BTreeMap::new(),
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
                    managed.guards.not_after(now);
                }
                Err(error) => dropped.push(format!("what the guardrails remembered: {error}")),
            }
        }
        self.pools.insert(name.clone(), managed);
        let journal = dropped
            .into_iter()
            .map(|why| Entry::new(now, "controller", Event::MemoryDropped { why }).of(&name))
            .collect();
        self.write_journal(journal).await;
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

//! What a world is to have in it, in the words of the config file.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::id::{PoolName, SensorName, SiteName};
use serde_json::{Map, Value, json};

use crate::play::boot::Boot;
use crate::world::{POOL, World};

/// The sensor that reads the queue, in pools that follow it.
pub const QUEUE_SENSOR: &str = "jobs";

/// A world to be: its pools with their template, the sites, and the seed.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(crate) pool: Value,
    pub(crate) beside: BTreeMap<String, Value>,
    pub(crate) template: Value,
    pub(crate) sites: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) controllers: u8,
    pub(crate) provisioners: u8,
    pub(crate) aggregators: u8,
    pub(crate) own: Option<Own>,
}

/// Somebody's own pools, in place of the one that scenarios speak of.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// Their settings as the config file has them, by name.
    pub(crate) pools: BTreeMap<String, Value>,
    /// Their templates, by name.
    pub(crate) templates: BTreeMap<String, Value>,
    /// Which of each pool's sensors read its queue.
    pub(crate) following: BTreeMap<PoolName, Vec<SensorName>>,
    /// What other sensors say all the time.
    pub(crate) held: Vec<(PoolName, SensorName, f64)>,
    /// How machines come up.
    pub(crate) boot: Boot,
    /// How long a worker's set-up takes.
    pub(crate) set_up: Duration,
    /// How many machines each site has room for; none: no end of it.
    pub(crate) room: BTreeMap<SiteName, Option<u32>>,
}

impl Setup {
    fn of(engine: &Value) -> Self {
        Self {
            pool: json!({ "template": "worker", "max": 10, "engine": engine }),
            beside: BTreeMap::new(),
            template: json!({ "run": ["worker"], "set-up": ["set-up"] }),
            sites: vec!["here".to_owned()],
            seed: 1,
            controllers: 1,
            provisioners: 1,
            aggregators: 1,
            own: None,
        }
    }

    /// Somebody's own pools.
    pub(crate) fn own(own: Own, seed: u64) -> Self {
        Self {
            sites: own.room.keys().map(ToString::to_string).collect(),
            seed,
            own: Some(own),
            ..Self::keeping(1)
        }
    }

    /// One pool that keeps `n` workers.
    #[must_use]
    pub fn keeping(n: u32) -> Self {
        Self::of(&json!({ "keep": { "n": n } })).with("max", n.max(10))
    }

    /// One pool that follows the queue between these marks.
    #[must_use]
    pub fn following_queue(low: u32, high: u32) -> Self {
        let engine = json!({ "queue-length": { "sensor": QUEUE_SENSOR, "low-water": low, "high-water": high } });
        let sensor = json!({ "directory": { "path": "/queue" }, "every": "5s" });
        Self::of(&engine).with(&format!("sensors.{QUEUE_SENSOR}"), sensor)
    }

    /// Sets one of the pool's settings by its dotted path, such as `limits.drain`.
    #[must_use]
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        set(&mut self.pool, path, value.into());
        self
    }

    /// Sets one of the template's settings.
    #[must_use]
    pub fn template(mut self, path: &str, value: impl Into<Value>) -> Self {
        set(&mut self.template, path, value.into());
        self
    }

    /// No wait between two changes of size.
    #[must_use]
    pub fn without_cooldowns(self) -> Self {
        self.with("limits.cooldown-up", "0s")
            .with("limits.cooldown-down", "0s")
            .with("limits.stabilization", "0s")
    }

    /// These sites, best first.
    #[must_use]
    pub fn on(mut self, sites: &[&str]) -> Self {
        self.sites = sites.iter().map(|site| (*site).to_owned()).collect();
        let placements: Vec<Value> = sites.iter().map(|site| json!({ "site": site })).collect();
        self.with("placements", placements)
    }

    /// These sites, whatever the pool's placements are.
    pub(crate) fn on_sites(mut self, sites: &[String]) -> Self {
        self.sites = sites.to_vec();
        self
    }

    /// The pool's settings, whole.
    pub(crate) fn whole(mut self, pool: Value) -> Self {
        self.pool = pool;
        self
    }

    /// The template, whole.
    pub(crate) fn whole_template(mut self, template: Value) -> Self {
        self.template = template;
        self
    }

    /// So many controllers that share the pools.
    #[must_use]
    pub fn controllers(mut self, copies: u8) -> Self {
        self.controllers = copies;
        self
    }

    /// So many provisioners, of which one acts.
    #[must_use]
    pub fn provisioners(mut self, copies: u8) -> Self {
        self.provisioners = copies;
        self
    }

    /// So many aggregators that share the agents.
    #[must_use]
    pub fn aggregators(mut self, copies: u8) -> Self {
        self.aggregators = copies;
        self
    }

    /// Another pool, with its settings as the config file has them. It has the template of all.
    #[must_use]
    pub fn beside(mut self, name: &str, settings: Value) -> Self {
        self.beside.insert(name.to_owned(), settings);
        self
    }

    /// Every pool with its settings, by name.
    pub(crate) fn all_pools(&self) -> BTreeMap<&str, &Value> {
        let named = |(name, settings)| (String::as_str(name), settings);
        match &self.own {
            Some(own) => own.pools.iter().map(named).collect(),
            None => self.beside.iter().map(named).chain([(POOL, &self.pool)]).collect(),
        }
    }

    /// Every template, by name.
    pub(crate) fn all_templates(&self) -> BTreeMap<&str, &Value> {
        match &self.own {
            Some(own) => own.templates.iter().map(|(name, settings)| (name.as_str(), settings)).collect(),
            None => BTreeMap::from([("worker", &self.template)]),
        }
    }

    /// The sensors that read a pool's queue.
    pub(crate) fn queue_sensors(&self, pool: &PoolName) -> Vec<SensorName> {
        match &self.own {
            Some(own) => own.following.get(pool).cloned().unwrap_or_default(),
            None => SensorName::new(QUEUE_SENSOR).into_iter().collect(),
        }
    }

    /// Another seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The world.
    #[must_use]
    pub fn world(self) -> World {
        World::new(&self)
    }
}

fn set(tree: &mut Value, path: &str, value: Value) {
    let mut at = tree;
    for key in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[key];
    }
    *at = value;
}

//! What is to happen in a storm: drawn from a seed, written down, read again.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::request::Service;
use epu_core::time::Span;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fault::{Fault, Luck, Scene};
use crate::process::Process;
use crate::setup::{QUEUE_SENSOR, Setup};
use crate::world::POOL;

/// The longest that one fault lasts.
const LASTS_MOST: Duration = Duration::from_secs(6 * 60);
/// How often a kind happens in an hour when nothing else is said, and how much more or less by the seed.
const RATE: f64 = 1.5;
/// Jobs arrive so much more often than a fault happens.
const WORK_MORE: f64 = 12.0;

/// How storms are to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How long faults go on.
    pub lasts: Span,
    /// Only these kinds of fault; empty: all.
    pub only: Vec<String>,
    /// None of these.
    pub without: Vec<String>,
    /// How many an hour of a kind, in place of what the seed says.
    pub rates: BTreeMap<String, f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lasts: Span(Duration::from_secs(50 * 60)),
            only: Vec::new(),
            without: Vec::new(),
            rates: BTreeMap::new(),
        }
    }
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, since the world began.
    pub at: Span,
    /// How long it lasts, where it does.
    pub lasts: Span,
    /// What.
    pub fault: Fault,
}

/// A storm to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What the world draws from.
    pub seed: u64,
    /// The pools in the words of the config file; one has the name `pool`.
    pub pools: BTreeMap<String, Value>,
    /// The template of all of them.
    pub template: Value,
    /// The sites.
    pub sites: Vec<String>,
    /// How many controllers.
    pub controllers: u8,
    /// How many provisioners.
    pub provisioners: u8,
    /// How many aggregators.
    pub aggregators: u8,
    /// When all faults have ended, since the world began.
    pub calm_at: Span,
    /// Whether the teardown at the end asks workers to finish what they do.
    pub gentle: bool,
    /// What happens, in order of time.
    pub events: Vec<Event>,
}

impl Plan {
    /// The storm of a seed.
    #[must_use]
    pub fn draw(seed: u64, settings: &Settings) -> Self {
        let luck = Luck::seeded(seed);
        let most = 12;
        let mut plan = Self {
            seed,
            pools: pools(&luck, most),
            template: json!({ "run": ["worker"], "set-up": ["set-up"], "ready-within": "4m" }),
            sites: vec!["here".to_owned(), "there".to_owned()],
            controllers: 1 + u8::try_from(luck.below(3)).unwrap_or(0),
            provisioners: 1 + u8::try_from(luck.below(2)).unwrap_or(0),
            aggregators: 1 + u8::try_from(luck.below(2)).unwrap_or(0),
            calm_at: settings.lasts,
            gentle: luck.once_in(2),
            events: Vec::new(),
        };
        let scene = plan.scene(most);
        // Few kinds and many of each, or many kinds.
        let one_in = 1 + luck.below(4);
        let wild = luck.share(0.3, 2.5);
        for kind in Fault::kinds() {
            let wanted = settings.only.is_empty() || settings.only.iter().any(|only| only == kind);
            if !wanted || settings.without.iter().any(|without| without == kind) {
                continue;
            }
            let chosen = kind == "jobs" || luck.once_in(one_in);
            let usual = if kind == "jobs" { WORK_MORE } else { wild };
            let rate = match settings.rates.get(kind) {
                Some(rate) => *rate,
                None if chosen || !settings.only.is_empty() => RATE * usual,
                None => 0.0,
            };
            plan.add(kind, rate, &luck, &scene);
        }
        plan.events.sort_by_key(|event| event.at);
        plan
    }

    fn add(&mut self, kind: &str, rate: f64, luck: &Luck, scene: &Scene) {
        let hours = self.calm_at.as_secs_f64() / 3_600.0;
        let mut left = rate * hours;
        while left > 0.0 {
            if (left >= 1.0 || luck.share(0.0, 1.0) < left)
                && let Some(fault) = Fault::draw(kind, luck, scene)
            {
                let ms = luck.below(u64::try_from(self.calm_at.as_millis()).unwrap_or(u64::MAX));
                let lasts = Span(luck.time(LASTS_MOST));
                let at = Span(Duration::from_millis(ms));
                self.events.push(Event { at, lasts, fault });
            }
            left -= 1.0;
        }
    }

    /// What its faults may speak of.
    #[must_use]
    pub fn scene(&self, most: u32) -> Scene {
        let copies = [
            (Service::Controller, self.controllers),
            (Service::Provisioner, self.provisioners),
            (Service::Aggregator, self.aggregators),
        ];
        let follows = |pool: &Value| pool["engine"].get("queue-length").is_some();
        Scene {
            pools: self.pools.keys().cloned().collect(),
            following: self
                .pools
                .iter()
                .filter(|(_, pool)| follows(pool))
                .map(|(name, _)| name.clone())
                .collect(),
            sites: self.sites.clone(),
            processes: copies
                .into_iter()
                .flat_map(|(service, copies)| (0..copies).map(move |copy| Process { service, copy }))
                .collect(),
            most,
        }
    }

    /// The world that it is played in.
    #[must_use]
    pub fn setup(&self) -> Setup {
        let mut setup = Setup::keeping(0)
            .on_sites(&self.sites)
            .whole_template(self.template.clone())
            .controllers(self.controllers)
            .provisioners(self.provisioners)
            .aggregators(self.aggregators)
            .seed(self.seed);
        for (name, pool) in &self.pools {
            setup = if name == POOL {
                setup.whole(pool.clone())
            } else {
                setup.beside(name, pool.clone())
            };
        }
        setup
    }
}

/// Three pools: one that keeps a number, one that follows a queue, and one that keeps a number on two sites.
fn pools(luck: &Luck, most: u32) -> BTreeMap<String, Value> {
    let keeping = json!({
        "template": "worker", "max": most, "engine": { "keep": { "n": 2 + luck.small(most - 2) } }, "limits": limits(luck),
        "placements": [{ "site": "here" }],
    });
    let following = json!({
        "template": "worker", "max": most, "min": luck.small(3), "limits": limits(luck),
        "engine": { "queue-length": { "sensor": QUEUE_SENSOR, "low-water": 1 + luck.small(3), "high-water": 4 + luck.small(12) } },
        "sensors": { QUEUE_SENSOR: { "directory": { "path": "/queue" }, "every": "5s" } },
        "placements": [{ "site": "there" }],
    });
    let both = json!({
        "template": "worker", "max": most, "engine": { "keep": { "n": 2 + luck.small(most - 2) } }, "limits": limits(luck),
        "placements": [{ "site": "here" }, { "site": "there" }],
    });
    [(POOL, keeping), ("jobs", following), ("both", both)]
        .into_iter()
        .map(|(name, pool)| (name.to_owned(), pool))
        .collect()
}

fn limits(luck: &Luck) -> Value {
    let mut limits = json!({
        "drain": "5m", "storm-probe": "1m", "launch-backoff": "10s", "capacity-memory": "20s", "stabilization": "20s",
    });
    if luck.once_in(2) {
        limits["cooldown-down"] = json!("0s");
    }
    if luck.once_in(3) {
        limits["replace-at-once"] = json!(1 + luck.small(5));
    }
    if luck.once_in(3) {
        limits["step-up"] = json!(1 + luck.small(4));
    }
    if luck.once_in(4) {
        limits["launch-least"] = json!(2);
    }
    limits
}

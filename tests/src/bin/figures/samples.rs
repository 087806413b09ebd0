//! Pools and instances as they are in a running system, made up.

use std::sync::Arc;
use std::time::Duration;

use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::pool::Pool;
use epu_core::random::Random;
use epu_core::time::Timestamp;
use epu_core::{SiteName, State};
use epu_tests::{Result, Trouble};
use serde_json::{Value, json};

/// The moment at which made-up worlds begin.
pub(crate) const BEGIN: Timestamp = Timestamp(1_763_840_000_000);

/// A pool of up to 200,000, with a queue sensor named `jobs`.
pub(crate) fn pool(name: &str, engine: &Value, limits: &Value) -> Result<Pool> {
    serde_json::from_value(json!({
        "name": name, "template_version": "worker@0123456789ab", "origin": {"is": "operator"}, "revision": 1, "added_at": BEGIN,
        "template": {"run": ["/usr/bin/worker", "--queue", name]},
        "spec": {
            "template": "worker", "min": 0, "max": 200_000, "engine": engine, "limits": limits, "placements": [{"site": "here"}],
            "sensors": {"jobs": {"directory": {"path": "/var/spool/jobs"}}},
        },
    }))
    .map_err(|e| Trouble::new("make up a pool", e))
}

/// An engine that stays where it is while the queue is between 10 and 1,000.
pub(crate) fn band() -> Value {
    json!({"queue-length": {"sensor": "jobs", "high-water": 1_000, "low-water": 10}})
}

/// Makes up instances of one pool, each with an id of its own.
pub(crate) struct Instances {
    pool: PoolName,
    site: SiteName,
    random: Random,
    launch: LaunchId,
    made: u32,
}

/// Instances of one launch.
const BATCH: u32 = 100;

impl Instances {
    pub(crate) fn of(pool: &PoolName) -> Result<Self> {
        Self::seeded(pool, 7)
    }

    /// With ids that no other seed gives.
    pub(crate) fn seeded(pool: &PoolName, seed: u64) -> Result<Self> {
        let random = Random::seeded(seed);
        let site = SiteName::new("here").map_err(|e| Trouble::new("name a site", e))?;
        Ok(Self {
            pool: pool.clone(),
            site,
            launch: random.launch(BEGIN),
            random,
            made: 0,
        })
    }

    /// One that was launched at `at`, and if it runs, has done so since 40 s later.
    pub(crate) fn make(&mut self, state: State, at: Timestamp) -> Instance {
        if self.made.is_multiple_of(BATCH) {
            self.launch = self.random.launch(at);
        }
        let index = self.made % BATCH;
        self.made += 1;
        let ready = at + Duration::from_secs(40);
        let ran = state >= State::Running;
        Instance {
            id: self.random.instance(at),
            pool: self.pool.clone(),
            launch: self.launch,
            index,
            site: self.site.clone(),
            placement: None,
            slot: None,
            variables: std::collections::BTreeMap::new(),
            template: "worker@0123456789ab".to_owned(),
            state,
            version: if ran { 4 } else { 1 },
            created_at: at,
            state_since: if ran { ready } else { at },
            deadline: None,
            machine: Some(format!("i-{:017x}", self.made)),
            address: Some(format!("10.{}.{}.{}", self.made >> 16, self.made >> 8 & 255, self.made & 255)),
            ready_at: ran.then_some(ready),
            drain: None,
            ending: None,
            fault: None,
            exit: None,
            protected: false,
            claim: ran.then(|| "0123456789abcdef".to_owned()),
        }
    }
}

/// The next version of a record.
pub(crate) fn next(of: &Arc<Instance>, change: impl FnOnce(&mut Instance)) -> Arc<Instance> {
    let mut next = of.as_ref().clone();
    next.version += 1;
    change(&mut next);
    Arc::new(next)
}

/// Something heard just now, in good health.
pub(crate) fn heard(instance: InstanceId, pool: &PoolName, work: epu_core::instance::Work) -> epu_core::fact::Heard {
    epu_core::fact::Heard {
        instance,
        pool: pool.clone(),
        ago_ms: 0,
        condition: epu_core::heartbeat::Condition::Ok,
        work,
        work_for_ms: 0,
        draining: false,
        sent_at: BEGIN,
    }
}

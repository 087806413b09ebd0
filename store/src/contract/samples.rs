//! Records to test with. They are made from JSON, so that a field that is added to a record, with a default, changes nothing here.

use std::sync::Arc;

use epu_core::code::Fault;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::instance::Instance;
use epu_core::journal::{Entry, Event};
use epu_core::launch::{Launch, Outcome};
use epu_core::life::State;
use epu_core::pool::Pool;
use epu_core::time::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{JournalQuery, Outgoing, PoolMemory, Store};

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a sample of the form that the types have")
}

/// A version 7 UUID that sorts by `n`.
#[must_use]
pub fn uuid(n: u64) -> Uuid {
    Uuid::from_u128((u128::from(n) << 80) | 0x7000_8000_0000_0000_0000 | u128::from(n & 0xffff))
}

/// The instance `n`.
#[must_use]
pub fn instance_id(n: u64) -> InstanceId {
    InstanceId(uuid(n))
}

/// The launch `n`.
#[must_use]
pub fn launch_id(n: u64) -> LaunchId {
    LaunchId(uuid(n))
}

/// A pool's name.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn name(text: &str) -> PoolName {
    PoolName::new(text).expect("a name")
}

/// A pool at a revision.
#[must_use]
pub fn pool(name: &str, revision: u64) -> Pool {
    from(json!({
        "name": name,
        "spec": { "template": "worker", "min": 1, "max": 10, "engine": { "keep": { "n": 3 } } },
        "template": { "run": ["worker"] },
        "template_version": "worker 1",
        "origin": { "is": "operator" },
        "revision": revision,
        "added_at": 1_000,
    }))
}

/// What a pool remembers, with `n` in it.
#[must_use]
pub fn memory(n: u64) -> PoolMemory {
    from(json!({ "target": 3, "engine": "keep/1", "memory": { "n": n }, "guards": { "cooldowns": { "up": 0.5 } } }))
}

/// The command `n` of a pool, to look at one instance, decided on at `since`.
#[must_use]
pub fn outgoing(n: u64, pool: &str, since: i64) -> Outgoing {
    from(json!({
        "id": uuid(n),
        "pool": pool,
        "request": { "op": "look", "args": { "instances": [uuid(n)], "epoch": 0 } },
        "since": since,
    }))
}

/// The launch `n` in pool `web`, of one instance for each of `instances`, accepted at `at`.
#[must_use]
pub fn launch(n: u64, instances: &[u64], at: i64) -> Launch {
    let wanted: Vec<Value> = instances.iter().map(|n| json!({ "id": uuid(*n) })).collect();
    from(json!({
        "id": uuid(n),
        "request": {
            "launch": uuid(n), "pool": "web", "site": "here", "template": { "run": ["worker", "--say", "it's"] },
            "template_version": "worker 1", "instances": wanted, "min": 1, "epoch": 0,
        },
        "accepted_at": at,
        "epoch": 0,
        "attempts": 0,
    }))
}

/// The same launch with an outcome.
#[must_use]
pub fn done(mut launch: Launch) -> Launch {
    launch.attempts += 1;
    launch.outcome = Some(Outcome::Failed {
        fault: Fault::new("launch-failed", "it did not come"),
    });
    launch
}

/// The instance `n` of the launch `of`, first version, since `at`.
#[must_use]
pub fn instance(n: u64, of: u64, at: i64) -> Arc<Instance> {
    from(json!({
        "id": uuid(n), "pool": "web", "launch": uuid(of), "index": 0, "site": "here", "state": "200-REQUESTED",
        "version": 1, "created_at": at, "state_since": at,
    }))
}

/// Its next version, in `state` since `at`.
#[must_use]
pub fn moved(instance: &Arc<Instance>, state: State, at: i64) -> Arc<Instance> {
    let mut next = Instance::clone(instance);
    next.version += 1;
    next.state = state;
    next.state_since = Timestamp(at);
    Arc::new(next)
}

/// A journal entry at `at`.
#[must_use]
pub fn entry(at: i64) -> Entry {
    Entry::new(Timestamp(at), "contract", Event::Opened)
}

/// The times of all journal entries, in order of their sequence.
///
/// # Panics
/// When the journal cannot be read.
pub async fn events(store: &dyn Store) -> Vec<i64> {
    let asked = JournalQuery {
        after: Some(0),
        limit: 100_000,
        ..JournalQuery::default()
    };
    let entries = store.journal(asked).await.expect("journal");
    entries.iter().map(|entry| entry.at.0).collect()
}

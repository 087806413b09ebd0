//! Records as this and former releases stored them, in `forms/`. A file, once released, is never changed: a new form gets a new file,
//! and every release must go on reading all of them.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::fmt::Debug;

use epu_core::instance::Instance;
use epu_core::journal::Entry;
use epu_core::launch::Launch;
use epu_core::pool::Pool;
use epu_store::{Outgoing, PoolMemory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Reads a stored form, checks that nothing it says is lost, and that fields of a later release are passed over in each of
/// the objects that `inside` points to.
fn still_read<T: DeserializeOwned + Serialize + PartialEq + Debug>(text: &str, inside: &[&str]) -> T {
    let stored: Value = serde_json::from_str(text).unwrap();
    let read: T = serde_json::from_str(text).unwrap();
    keeps(&stored, &serde_json::to_value(&read).unwrap(), "");

    let mut later = stored;
    for place in inside {
        let object = later.pointer_mut(place).unwrap_or_else(|| panic!("nothing at {place:?}"));
        let object = object.as_object_mut().unwrap_or_else(|| panic!("no object at {place:?}"));
        object.insert("of-a-later-release".to_owned(), json!({ "anything": [1, null, "x"] }));
    }
    assert_eq!(
        serde_json::from_value::<T>(later).unwrap(),
        read,
        "a field of a later release changed what is read"
    );
    read
}

/// Whether all of `stored` is in `written`, which may say more.
fn keeps(stored: &Value, written: &Value, at: &str) {
    match (stored, written) {
        (Value::Object(stored), Value::Object(written)) => {
            for (key, value) in stored {
                // A null that is left out says the same.
                keeps(value, written.get(key).unwrap_or(&Value::Null), &format!("{at}/{key}"));
            }
        }
        (Value::Array(stored), Value::Array(written)) => {
            assert_eq!(stored.len(), written.len(), "at {at}");
            for (n, (stored, written)) in stored.iter().zip(written).enumerate() {
                keeps(stored, written, &format!("{at}/{n}"));
            }
        }
        (stored, written) => assert_eq!(stored, written, "lost at {at}"),
    }
}

#[test]
fn pools_are_still_read() {
    let inside = [
        "",
        "/spec",
        "/spec/limits",
        "/spec/health",
        "/spec/placements/0",
        "/spec/sensors/jobs",
        "/spec/sensors/jobs/rabbitmq",
        "/spec/sensors/spool/directory",
        "/spec/sensors/load/heartbeat",
        "/template",
        "/origin",
        "/paused",
    ];
    let pool: Pool = still_read(include_str!("forms/pool.json"), &inside);
    assert_eq!((pool.name.as_str(), pool.revision, pool.spec.max), ("web", 3, 20));
}

#[test]
fn instances_are_still_read() {
    let inside = ["", "/drain", "/ending", "/fault", "/exit"];
    let instance: Instance = still_read(include_str!("forms/instance.json"), &inside);
    assert!(instance.protected && instance.drain.is_some() && instance.ending.is_some() && instance.exit.is_some());
    let least: Instance = still_read(include_str!("forms/instance-least.json"), &[""]);
    assert!(!least.protected && least.drain.is_none() && least.machine.is_none());
}

#[test]
fn launches_are_still_read() {
    let inside = ["", "/request", "/request/template", "/request/instances/0", "/outcome"];
    let launch: Launch = still_read(include_str!("forms/launch.json"), &inside);
    assert_eq!((launch.attempts, launch.request.instances.len()), (2, 2));
    let inside = ["", "/request", "/outcome", "/outcome/fault"];
    let failed: Launch = still_read(include_str!("forms/launch-failed.json"), &inside);
    assert!(failed.outcome.is_some());
}

#[test]
fn memories_and_commands_are_still_read() {
    let memory: PoolMemory = still_read(include_str!("forms/memory.json"), &[""]);
    assert_eq!((memory.target, memory.engine.as_str()), (Some(4), "queue-length/1"));
    let outgoing: Outgoing = still_read(include_str!("forms/outgoing.json"), &["", "/request/args"]);
    assert_eq!(outgoing.request.op(), "terminate");
}

#[test]
fn every_kind_of_journal_entry_is_still_read() {
    let entries: Vec<Value> = serde_json::from_str(include_str!("forms/entries.json")).unwrap();
    let mut kinds = Vec::new();
    for entry in entries {
        let mut inside = vec!["", "/event"];
        for nested in ["/event/fault", "/event/reason", "/event/reasons/0", "/event/actions/0"] {
            if entry.pointer(nested).is_some() {
                inside.push(nested);
            }
        }
        let read: Entry = still_read(&entry.to_string(), &inside);
        assert_eq!(read.event.kind(), entry["event"]["event"], "the kind is the tag");
        kinds.push(read.event.kind().to_owned());
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 25, "{kinds:?}");
}

//! Instances as the original showed them: node records of the provisioner, instance dictionaries of a domain. Pure.

use std::collections::BTreeMap;

use epu_core::code::Fault;
use epu_core::id::InstanceId;
use epu_core::instance::{Cause, Instance};
use epu_core::life::State;
use epu_core::request::InstanceView;
use epu_core::time::Timestamp;
use serde_json::{Map, Value, json};

/// What stands before a launch's id in the token of its launch.
const TOKEN_PREFIX: &str = "__EPU_PROVISIONER_";

/// What is known of an instance beside its record.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct About {
    /// What clients call it; none: its own id.
    pub node_id: Option<String>,
    /// What clients call its launch; none: its own id.
    pub launch_id: Option<String>,
    /// Whose it is.
    pub creator: Option<String>,
    /// The size that was asked for.
    pub allocation: Option<String>,
    /// Its deployable type.
    pub deployable_type: Option<String>,
}

/// A node record as the provisioner sent it.
pub(crate) fn node(instance: &Instance, about: &About) -> Map<String, Value> {
    let node_id = about.node_id.clone().unwrap_or_else(|| instance.id.to_string());
    let launch_id = about.launch_id.clone().unwrap_or_else(|| instance.launch.to_string());
    let mut record = Map::new();
    let mut put = |key: &str, value: Value| drop(record.insert(key.to_owned(), value));
    put("client_token", json!(format!("{TOKEN_PREFIX}{launch_id}")));
    put("launch_id", json!(launch_id));
    put("node_id", json!(node_id));
    put("state", json!(instance.state.code()));
    put("state_desc", json!(description(instance)));
    put("state_changes", json!(changes(instance)));
    put("site", json!(shown_site(instance, about)));
    put("allocation", json!(about.allocation));
    put("creator", json!(about.creator));
    put("update_counter", json!(instance.version));
    put("iaas_image", json!(instance.template));
    put("iaas_allocation", json!(about.allocation));
    if let Some(machine) = &instance.machine {
        put("iaas_id", json!(machine));
        put("pending_timestamp", json!(seconds(instance.created_at)));
    }
    for key in ["public_ip", "private_ip", "hostname"] {
        if let Some(address) = &instance.address {
            put(key, json!(address));
        }
    }
    if let Some(ready_at) = instance.ready_at {
        put("running_timestamp", json!(seconds(ready_at)));
    }
    if let Some(fault) = instance.fault.as_ref().filter(|_| instance.state == State::RunningFailed) {
        put("ctx_error_code", json!(fault.code));
        put("ctx_error_message", json!(fault.text));
    }
    record
}

/// The same with the store's version, which the original's provisioner left in what it answered to `provision` and `terminate_nodes`.
pub(crate) fn stored_node(instance: &Instance, about: &About) -> Value {
    with_version(node(instance, about), instance.version)
}

/// A record with the store's version.
pub(crate) fn with_version(mut record: Map<String, Value>, version: u64) -> Value {
    record.insert("__version".to_owned(), json!(version));
    Value::Object(record)
}

/// The record of a node that never came to be.
pub(crate) fn stub(
    node_id: &str,
    launch_id: &str,
    state: State,
    desc: Option<&str>,
    creator: Option<&str>,
    at: Timestamp,
) -> Map<String, Value> {
    let record = json!({
        "launch_id": launch_id,
        "node_id": node_id,
        "state": state.code(),
        "state_desc": desc,
        "creator": creator,
        "state_changes": [[state.code(), seconds(at)]],
        "update_counter": 1,
    });
    record.as_object().cloned().unwrap_or_default()
}

/// An instance of a domain, as `describe_domain` showed it.
pub(crate) fn instance(view: &InstanceView, about: &About) -> Value {
    let instance = &view.instance;
    let mut record = node(instance, about);
    record.remove("node_id");
    let errors: Vec<Value> = instance.fault.iter().map(|fault| json!(fault.text)).collect();
    let extravars: Option<&BTreeMap<String, String>> = Some(&instance.variables).filter(|vars| !vars.is_empty());
    let more = json!({
        "instance_id": about.node_id.clone().unwrap_or_else(|| instance.id.to_string()),
        "state_time": seconds(instance.state_since),
        "health": view.health.code(),
        "deployable_type": about.deployable_type,
        "extravars": extravars,
        "error_time": instance.fault.as_ref().map(|_| seconds(instance.state_since)),
        "errors": errors,
        "caller": instance.id.to_string(),
        "sensor_data": {},
    });
    record.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(record)
}

/// A site as its user calls it: one of a caller has the caller's name at its end.
fn shown_site<'a>(instance: &'a Instance, about: &About) -> &'a str {
    let site = instance.site.as_str();
    let own = about
        .creator
        .as_deref()
        .and_then(|creator| site.strip_suffix(creator)?.strip_suffix('.'));
    own.unwrap_or(site)
}

/// Seconds since 1970, as Python's `time.time()` has them.
#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far from 2^53")]
pub(crate) fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1_000.0
}

/// Why it is where it is, in the original's words where there are some.
fn description(instance: &Instance) -> Option<String> {
    if instance.state >= State::Terminated && instance.ending.as_ref().is_some_and(|ending| ending.why == Cause::Vanished) {
        return Some("NODE_DISAPPEARED".to_owned());
    }
    instance.fault.as_ref().map(fault_description)
}

/// A fault in the original's words where there are some.
pub(crate) fn fault_description(fault: &Fault) -> String {
    let text = &fault.text;
    match fault.code.as_ref() {
        "closed" => "PROVISIONER_DISABLED".to_owned(),
        "site-quota-exceeded" | "site-capacity" => format!("IAAS_FULL: {text}"),
        "launch-timeout" => "IAAS_TIMEOUT".to_owned(),
        "capacity-short" => format!("IAAS_PROBLEM {text}"),
        "no-such-site" => format!("DTRS_LOOKUP_FAILED {text}"),
        "bad-request" | "bad-config" => format!("INVALID_REQUEST {text}"),
        "set-up-failed" | "not-ready" | "ready-unheard" => format!("CTX_ERROR {text}"),
        _ => text.clone(),
    }
}

/// What is known of the way it came: the record has when it was asked for, when it ran first, and since when it is where it is.
fn changes(instance: &Instance) -> Vec<(&'static str, f64)> {
    let mut changes = vec![(State::Requested.code(), seconds(instance.created_at))];
    if let Some(ready_at) = instance.ready_at {
        changes.push((State::Running.code(), seconds(ready_at)));
    }
    if changes.iter().all(|(state, _)| *state != instance.state.code()) && instance.state > State::Requested {
        changes.push((instance.state.code(), seconds(instance.state_since)));
    }
    changes
}

/// An id as our own, when it is one exactly as we write it: then no document is needed to find the way back.
pub(crate) fn own_id(text: &str) -> Option<InstanceId> {
    let id: InstanceId = text.parse().ok()?;
    (id.to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use epu_core::instance::Ending;
    use epu_core::instance::Work;

    use super::*;

    fn running() -> Instance {
        let record = json!({
            "id": "018f3c5e-0000-7000-8000-000000000001", "pool": "web", "launch": "018f3c5e-0000-7000-8000-0000000000aa", "index": 0,
            "site": "local", "variables": {"PORT": "1"}, "template": "worker@3d81ecfa1146", "state": "600-RUNNING", "version": 4,
            "created_at": 1_763_840_230_500_i64, "state_since": 1_763_840_231_000_i64, "machine": "m1", "address": "10.0.0.1",
            "ready_at": 1_763_840_231_000_i64,
        });
        serde_json::from_value(record).expect("an instance")
    }

    fn about() -> About {
        About {
            creator: Some("alice".into()),
            allocation: Some("small".into()),
            deployable_type: Some("worker".into()),
            ..About::default()
        }
    }

    #[test]
    fn a_node_record_has_the_fields_of_the_original() {
        insta::assert_json_snapshot!(stored_node(&running(), &about()));
    }

    #[test]
    fn an_instance_of_a_domain_has_the_fields_of_the_original() {
        let view = InstanceView {
            instance: running(),
            health: epu_core::health::Health::Ok,
            work: Work::Busy,
            heard_at: None,
        };
        insta::assert_json_snapshot!(instance(&view, &about()));
    }

    #[test]
    fn a_site_of_a_caller_is_shown_as_he_calls_it() {
        let mut instance = running();
        instance.site = epu_core::SiteName::new("ec2.east.alice").expect("a name");
        assert_eq!(node(&instance, &about())["site"], "ec2.east");
        assert_eq!(node(&instance, &About::default())["site"], "ec2.east.alice");
    }

    #[test]
    fn how_it_ended_is_said_as_the_original_said_it() {
        let mut gone = running();
        gone.state = State::Terminated;
        gone.state_since = Timestamp(1_763_840_240_000);
        gone.ending = Some(Ending {
            since: gone.state_since,
            why: Cause::Vanished,
            work: Work::Unknown,
            drained_for: None,
        });
        let record = node(&gone, &about());
        assert_eq!(record["state_desc"], "NODE_DISAPPEARED");
        let changes = json!([
            ["200-REQUESTED", 1_763_840_230.5],
            ["600-RUNNING", 1_763_840_231.0],
            ["800-TERMINATED", 1_763_840_240.0]
        ]);
        assert_eq!(record["state_changes"], changes);
        assert_eq!(fault_description(&Fault::new("closed", "x")), "PROVISIONER_DISABLED");
        assert_eq!(fault_description(&Fault::new("site-capacity", "no room")), "IAAS_FULL: no room");
    }

    #[test]
    fn only_what_we_would_write_ourselves_is_our_own_id() {
        assert!(own_id("018f3c5e-0000-7000-8000-000000000001").is_some());
        for other in [
            "018F3C5E-0000-7000-8000-000000000001",
            "018f3c5e000070008000000000000001",
            "node-1",
            "",
        ] {
            assert!(own_id(other).is_none(), "{other}");
        }
    }
}

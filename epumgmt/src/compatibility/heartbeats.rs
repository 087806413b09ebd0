//! Heartbeats of agents that speak dashi, as ours.
//!
//! An instance has our own agent too, where our template started it. That one says more (whether the worker has work, readings), so it is the one
//! that is listened to: the aggregator takes the word of the agent that started last, and the others have started at 0.

use epu_bus::amqp::dashi::Failed;
use epu_core::Fault;
use epu_core::heartbeat::{Condition, FAULT_MAX, Heartbeat};
use epu_core::id::InstanceId;
use epu_core::instance::Work;
use epu_core::request::{Caller, Request};
use epu_core::time::Timestamp;
use serde_json::Value;
use tracing::debug;

use super::arguments::Arguments;
use super::nodes::Index;
use super::records::own_id;
use super::{OURSELVES, Office};

impl Office {
    /// Hands a heartbeat on. Never an error for what it says: the original only logged what it could not understand.
    pub(super) async fn ou_heartbeat(&self, arguments: &Arguments) -> Result<Value, Failed> {
        let said = arguments.value("heartbeat");
        let Some(node_id) = said.get("node_id").and_then(Value::as_str) else {
            debug!("a heartbeat without a node_id");
            return Ok(Value::Null);
        };
        let Some(condition) = condition(said) else {
            debug!(node_id, "a heartbeat without a state that is known");
            return Ok(Value::Null);
        };
        let instance = match own_id(node_id) {
            Some(id) => Some(id),
            None => Index::load(self).await?.instance_of(node_id),
        };
        let Some(instance) = instance else {
            debug!(node_id, "a heartbeat of a node that nobody knows");
            return Ok(Value::Null);
        };
        let heartbeat = heartbeat(instance, condition, said, self.clock.now());
        let answer = self
            .ask::<Value>(Caller::Service(OURSELVES), Request::Heartbeats(vec![heartbeat]))
            .await;
        match answer {
            Err(failed) if failed.passing => Err(failed),
            // What the aggregator says of it (an unknown instance, old news) is nothing that its sender could act on.
            Ok(_) | Err(_) => Ok(Value::Null),
        }
    }
}

fn heartbeat(instance: InstanceId, condition: Condition, said: &Value, now: Timestamp) -> Heartbeat {
    let millis = |seconds: f64| Some(seconds * 1_000.0).filter(|ms| (0.0..4e12).contains(ms));
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 4e12")]
    let sent_at_ms = said
        .get("timestamp")
        .and_then(Value::as_f64)
        .and_then(millis)
        .map_or(now.0, |ms| ms as i64);
    Heartbeat {
        instance,
        sequence: u64::try_from(now.0).unwrap_or(0),
        started_at_ms: 0,
        sent_at_ms,
        condition,
        work: Work::Unknown,
        work_for_ms: 0,
        draining: false,
        readings: std::collections::BTreeMap::new(),
    }
}

fn condition(said: &Value) -> Option<Condition> {
    let fault = || Box::new(Fault::new("worker-failed", what_failed(said)));
    match said.get("state")?.as_str()? {
        "OK" => Some(Condition::Ok),
        // Agents of 2011 knew one kind of error.
        "PROCESS_ERROR" | "ERROR" => Some(Condition::ProcessError(fault())),
        "MONITOR_ERROR" => Some(Condition::MonitorError(fault())),
        _ => None,
    }
}

/// The agent's own words, as many as fit.
fn what_failed(said: &Value) -> String {
    let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
    let processes = said.get("failed_processes").and_then(Value::as_array).into_iter().flatten();
    let mut words: Vec<String> = text("error").or_else(|| text("supervisor_error")).into_iter().collect();
    words.extend(processes.take(20).map(|process| {
        let part = |key: &str| process.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        let name = part("name").unwrap_or_else(|| "a process".to_owned());
        let status = part("exitcode").map_or(String::new(), |status| format!(", exit code {status}"));
        let stderr = part("stderr").map_or(String::new(), |stderr| format!(": {stderr}"));
        format!("{name} failed{status}{stderr}")
    }));
    let mut all = if words.is_empty() {
        "its agent says no more".to_owned()
    } else {
        words.join("; ")
    };
    let mut end = all.len().min(FAULT_MAX);
    while !all.is_char_boundary(end) {
        end -= 1;
    }
    all.truncate(end);
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agents_words_become_ours() {
        assert_eq!(condition(&json!({"state": "OK"})), Some(Condition::Ok));
        let said = json!({"state": "PROCESS_ERROR", "failed_processes": [{"name": "p", "exitcode": 1, "stderr": "boom"}]});
        assert_eq!(what_failed(&said), "p failed, exit code 1: boom");
        assert!(matches!(condition(&said), Some(Condition::ProcessError(_))));
        for wrong in [json!({"state": "FINE"}), json!({}), json!({"state": 5}), json!("x"), json!(null)] {
            assert_eq!(condition(&wrong), None, "{wrong}");
        }
        let long = json!({"error": "ä".repeat(FAULT_MAX)});
        assert!(what_failed(&long).len() <= FAULT_MAX);
    }

    #[test]
    fn our_own_agent_comes_first() {
        let id = own_id("018f3c5e-0000-7000-8000-000000000001").expect("an id");
        let (first, then) = (
            heartbeat(id, Condition::Ok, &json!({"timestamp": 1.5}), Timestamp(5_000)),
            heartbeat(id, Condition::Ok, &json!({"timestamp": -1}), Timestamp(6_000)),
        );
        assert_eq!((first.started_at_ms, first.sent_at_ms, then.sent_at_ms), (0, 1_500, 6_000));
        assert!(first.sequence < then.sequence);
    }
}

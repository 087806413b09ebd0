//! What an agent says every few seconds, and what it is told in return.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::code::Fault;
use crate::id::{InstanceId, SensorName};
use crate::instance::{Drain, Work};

/// The most named readings one heartbeat may carry; more are refused.
pub const READINGS_MAX: usize = 32;
/// The longest fault text in a heartbeat, in bytes; longer is refused.
pub const FAULT_MAX: usize = 4_096;

/// One heartbeat. It says what is true now, whole; a lower `sequence` than one already heard is old news.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Who speaks.
    pub instance: InstanceId,
    /// Grows with every heartbeat of one agent process.
    pub sequence: u64,
    /// When the agent process started, in its own milliseconds: tells a restarted agent from an old message.
    pub started_at_ms: i64,
    /// The sender's own time. Shown to people, never used to judge.
    pub sent_at_ms: i64,
    /// How the worker is.
    pub condition: Condition,
    /// Whether the worker has work.
    #[serde(default)]
    pub work: Work,
    /// How long that has been so, in milliseconds.
    #[serde(default)]
    pub work_for_ms: u64,
    /// Whether the worker has been told to drain, after which a drain order cannot be withdrawn.
    #[serde(default)]
    pub draining: bool,
    /// What the worker says of itself under names of its own, such as `load: 0.7`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readings: BTreeMap<SensorName, f64>,
}

/// How a worker is, in its agent's words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", content = "fault", rename_all = "kebab-case")]
pub enum Condition {
    /// It runs.
    #[default]
    Ok,
    /// It ended or failed.
    ProcessError(Box<Fault>),
    /// The agent cannot tell.
    MonitorError(Box<Fault>),
}

/// The standing orders of an instance, in the acknowledgement of every heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Orders {
    /// Finish the work at hand, take no more, then say that you are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Stop the worker at once and end.
    #[serde(default)]
    pub stop: bool,
}

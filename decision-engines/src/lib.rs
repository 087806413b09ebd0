//! How many workers a pool should have.
//!
//! An [`Engine`] is a pure function from an [`Observation`] to a [`Decision`]: no clock, no store, no randomness, no waiting. It is
//! shown counts, readings and slots, not instances: it says *how many*, and the controller's plan, which knows who is busy, says
//! *which*. So an engine is cheap whatever the size of the pool, what it was shown can be recorded whole and shown to it again,
//! and a bad one cannot pick a busy victim.
//!
//! Engines are found by name in a [`Registry`], with their settings checked against the schema that each one publishes.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::Reason;
use epu_core::id::{InstanceId, SensorName, SlotLabel};
use epu_core::reading::Status;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an engine may look at. Recorded with every decision, so that showing it again gives the same decision, bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The time of the decision.
    pub now: Timestamp,
    /// Fewest workers.
    pub min: u32,
    /// Most workers.
    pub max: u32,
    /// The size that was last aimed at after guardrails; at first, the capacity that was found.
    pub target: u32,
    /// The instances, counted.
    pub counts: Counts,
    /// Every sensor of the pool with what it says and whether it also counts work in progress.
    pub readings: BTreeMap<SensorName, Seen>,
    /// Slots that are filled, by a live member that is not leaving.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<SlotLabel, InstanceId>,
    /// How long an instance takes from launch to ready, as learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Duration>,
    /// What this engine handed back last time.
    #[serde(default, skip_serializing_if = "Memory::is_empty")]
    pub memory: Memory,
}

/// A pool's instances, counted. Draining and ending ones are in none of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Members that count as capacity: booting or running, in good health, not leaving.
    pub capacity: u32,
    /// Of these, not yet running.
    pub pending: u32,
    /// Of these, running and known to be busy.
    pub busy: u32,
    /// Of these, running and known to be idle.
    pub idle: u32,
    /// Of these, running without saying whether they are busy.
    pub unknown: u32,
    /// Live members in bad health, to be replaced.
    pub unhealthy: u32,
    /// Told to drain, still there; they may be working.
    pub draining: u32,
}

/// A sensor as an engine sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// How far it can be trusted, with the value.
    #[serde(flatten)]
    pub status: Status,
    /// Whether the value also counts work that is being done.
    #[serde(default)]
    pub covers_in_progress: bool,
}

/// What an engine wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// How many workers.
    pub desired: u32,
    /// Slots that are to be filled, each with its variables. Counted in `desired`. None in pools without unique instances.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<SlotLabel, BTreeMap<String, String>>,
    /// Why, with the numbers.
    pub reasons: Vec<Reason>,
    /// What it wants to be handed back next time.
    #[serde(default, skip_serializing_if = "Memory::is_empty")]
    pub memory: Memory,
    /// When it wants to look again, though nothing may have changed by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_again_at: Option<Timestamp>,
}

/// What an engine remembers between decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(pub Value);

impl Memory {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_null()
    }
}

/// Decides how many.
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// Pure: the same observation always gives the same decision.
    fn decide(&self, seen: &Observation) -> Decision;
    /// Name and version, such as `keep/1`; memory of another version is not handed to it.
    fn version(&self) -> &'static str;
    /// The sensors that it needs.
    fn sensors(&self) -> Vec<SensorName> {
        Vec::new()
    }
}

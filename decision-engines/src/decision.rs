//! What an engine wants.

use std::collections::BTreeMap;

use epu_core::Reason;
use epu_core::id::SlotLabel;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an engine wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// How many workers.
    pub desired: u32,
    /// Slots that are to be filled, each with its variables. Counted in `desired`. None in pools without unique instances.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<SlotLabel, BTreeMap<String, String>>,
    /// Whether `desired` is a step from the target, not a size worked out anew. Steps down that follow each other wait for each
    /// other's cooldown, and only the first of them for the stabilization window.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stepwise: bool,
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

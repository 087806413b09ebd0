//! What an engine may look at.

use std::collections::BTreeMap;
use std::time::Duration;

use epu_core::id::{InstanceId, SensorName, SlotLabel};
use epu_core::reading::Status;
use epu_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Memory;

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

impl Observation {
    /// `wanted`, brought within the bounds. Should the minimum be above the maximum, which config refuses, the maximum holds:
    /// it is what keeps cost down.
    #[must_use]
    pub fn within(&self, wanted: u32) -> u32 {
        wanted.max(self.min).min(self.max)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_holds_over_a_minimum_above_it() {
        let seen = |min, max| Observation {
            now: Timestamp(0),
            min,
            max,
            target: 0,
            counts: Counts::default(),
            readings: BTreeMap::new(),
            slots: BTreeMap::new(),
            boot: None,
            memory: Memory::default(),
        };
        assert_eq!([0, 3, 9].map(|wanted| seen(2, 5).within(wanted)), [2, 3, 5]);
        assert_eq!([0, 3, 9].map(|wanted| seen(5, 2).within(wanted)), [2, 2, 2]);
    }

    #[test]
    fn the_recorded_form_is_what_reviewers_saw() {
        let text = r#"{"now":1,"min":0,"max":2,"target":1,"counts":{"capacity":1,"pending":0,"busy":0,"idle":1,"unknown":0,"unhealthy":0,"draining":0},"readings":{"jobs":{"status":"stale","value":7.5,"age_ms":40000,"covers_in_progress":true}}}"#;
        let seen: Observation = serde_json::from_str(text).expect("an observation");
        assert_eq!(serde_json::to_string(&seen).expect("json"), text);
    }
}

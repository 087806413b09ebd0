//! What is remembered: typed events, of which status, history and audit are views.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::code::Fault;
use crate::health::Health;
use crate::id::{InstanceId, LaunchId, PlacementName, PoolName, SensorName, SiteName, SlotLabel, TemplateName};
use crate::instance::Cause;
use crate::life::State;
use crate::pool::Paused;
use crate::reason::Reason;
use crate::time::Timestamp;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// Its place; grows. Zero until it is stored.
    pub sequence: i64,
    /// When.
    pub at: Timestamp,
    /// Who wrote it: a service, or an operator's name.
    pub who: Cow<'static, str>,
    /// Which pool it is about.
    pub pool: Option<PoolName>,
    /// Which instance it is about.
    pub instance: Option<InstanceId>,
    /// What happened.
    pub event: Event,
}

impl Entry {
    /// An entry that is not stored yet.
    #[must_use]
    pub fn new(at: Timestamp, who: impl Into<Cow<'static, str>>, event: Event) -> Self {
        Self {
            sequence: 0,
            at,
            who: who.into(),
            pool: None,
            instance: None,
            event,
        }
    }

    /// Says which pool it is about.
    #[must_use]
    pub fn of(mut self, pool: &PoolName) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    /// Says which instance it is about.
    #[must_use]
    pub fn on(mut self, instance: InstanceId) -> Self {
        self.instance = Some(instance);
        self
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A service started.
    Started {
        /// The program's version.
        version: String,
    },
    /// A service stopped because it was told to.
    Stopped,
    /// The installation was closed by `teardown`.
    Closed {
        /// Whether instances were ended at once.
        force: bool,
    },
    /// The installation was opened.
    Opened,
    /// A pool was added.
    PoolAdded,
    /// A pool's settings were changed.
    PoolChanged {
        /// Its new revision.
        revision: u64,
        /// What was set.
        set: Value,
    },
    /// A pool was paused or resumed.
    PoolPaused(Paused),
    /// A pool's removal was asked for.
    PoolRemoved,
    /// A removed pool has no instances left and was forgotten.
    PoolForgotten,
    /// A pool's template changed: new instances are of the new version.
    TemplateChanged {
        /// From.
        from: String,
        /// To.
        to: String,
    },
    /// Replacing instances of older template versions was begun, held, resumed, ended, reversed, or is done.
    Refresh {
        /// `started`, `paused`, `resumed`, `stopped`, `rolled-back`, `done`.
        step: String,
        /// To which version.
        version: String,
        /// Why, where there is a why.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
    },
    /// Launching by a placement stopped until a person looks at it, for what no waiting mends.
    PlacementParked {
        /// Which.
        placement: String,
        /// Why.
        fault: Fault,
    },
    /// A person lets a placement launch again.
    PlacementReset {
        /// Which.
        placement: String,
    },
    /// A site was added.
    SiteAdded {
        /// Which.
        site: SiteName,
        /// Its driver.
        driver: String,
    },
    /// A site's settings were changed.
    SiteChanged {
        /// Which.
        site: SiteName,
        /// Its driver.
        driver: String,
    },
    /// A site was taken out: nothing is launched there any more.
    SiteRemoved {
        /// Which.
        site: SiteName,
    },
    /// A template that pools may name was added or changed.
    TemplateKept {
        /// Which.
        template: TemplateName,
    },
    /// It is there no longer.
    TemplateForgotten {
        /// Which.
        template: TemplateName,
    },
    /// The site said that it is about to take the machine away.
    Interruption {
        /// When, at the latest.
        by: Timestamp,
    },
    /// A decision that differs from the one before, or acts.
    Decided(Box<Decided>),
    /// A launch was recorded.
    LaunchRecorded {
        /// Which.
        launch: LaunchId,
        /// Where.
        site: SiteName,
        /// How many instances.
        instances: u32,
    },
    /// A launch came to something.
    LaunchEnded {
        /// Which.
        launch: LaunchId,
        /// How many machines came.
        machines: u32,
        /// Why not more.
        #[serde(skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
    },
    /// An instance moved on.
    Moved {
        /// From.
        from: State,
        /// To.
        to: State,
        /// Why, where there is a why.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<Cause>,
        /// What went wrong, where something did.
        #[serde(skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
    },
    /// An instance was told to drain.
    DrainOrdered {
        /// Why.
        why: Cause,
        /// By when.
        deadline: Timestamp,
    },
    /// The order to drain was withdrawn.
    DrainWithdrawn,
    /// An instance was protected from scale-in, or no longer.
    Protected {
        /// Whether it is.
        on: bool,
    },
    /// What is believed of an instance's health changed.
    HealthChanged {
        /// From.
        from: Health,
        /// To.
        to: Health,
        /// Why.
        why: String,
    },
    /// A sensor's status changed.
    SensorChanged {
        /// Which.
        sensor: SensorName,
        /// `fresh`, `stale`, `missing` or `invalid`.
        status: String,
        /// Why, where there is a why.
        #[serde(skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
    },
    /// A breaker opened: something stopped because it kept failing.
    BreakerOpened {
        /// `storm` or `launch`.
        breaker: String,
        /// Why.
        reason: Reason,
    },
    /// A breaker closed again.
    BreakerClosed {
        /// `storm` or `launch`.
        breaker: String,
    },
    /// The sweep found a machine without a record that matches an intention, and took it in.
    SweepAdopted {
        /// The machine.
        machine: String,
    },
    /// The sweep found a machine that nothing explains, and ended it.
    SweepTerminated {
        /// The machine.
        machine: String,
        /// The site.
        site: SiteName,
    },
    /// An agent tried to claim an instance that was claimed before.
    ClaimRefused {
        /// Which launch.
        launch: LaunchId,
        /// Which index.
        index: u32,
    },
    /// Something that must always be true was not.
    InvariantViolated {
        /// Which: I1 to I12.
        invariant: String,
        /// What was seen.
        what: String,
    },
    /// What an engine remembered could not be read and was dropped.
    MemoryDropped {
        /// Why.
        why: String,
    },
    /// Something that a later release remembers and this one has no word for: kept as it is, and shown as what it is.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown(Unknown),
}

/// An event of a later release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Unknown {
    kind: String,
    whole: Map<String, Value>,
}

impl Unknown {
    /// Everything that it says, its kind under `event` among it.
    #[must_use]
    pub fn says(&self) -> &Map<String, Value> {
        &self.whole
    }
}

impl TryFrom<Map<String, Value>> for Unknown {
    type Error = String;

    /// Refused when its kind is one that this release knows: then it is not unknown but broken.
    fn try_from(whole: Map<String, Value>) -> Result<Self, String> {
        let kind = whole
            .get("event")
            .and_then(Value::as_str)
            .ok_or("an event without a kind")?
            .to_owned();
        if KINDS.contains(&kind.as_str()) {
            return Err(format!("an event of the kind {kind} is not of the form it should have"));
        }
        Ok(Self { kind, whole })
    }
}

impl From<Unknown> for Map<String, Value> {
    fn from(unknown: Unknown) -> Self {
        unknown.whole
    }
}

/// Every kind that this release knows, in the order of [`Event`].
pub const KINDS: [&str; 35] = [
    "started",
    "stopped",
    "closed",
    "opened",
    "pool-added",
    "pool-changed",
    "pool-paused",
    "pool-removed",
    "pool-forgotten",
    "template-changed",
    "refresh",
    "placement-parked",
    "placement-reset",
    "site-added",
    "site-changed",
    "site-removed",
    "template-kept",
    "template-forgotten",
    "interruption",
    "decided",
    "launch-recorded",
    "launch-ended",
    "moved",
    "drain-ordered",
    "drain-withdrawn",
    "protected",
    "health-changed",
    "sensor-changed",
    "breaker-opened",
    "breaker-closed",
    "sweep-adopted",
    "sweep-terminated",
    "claim-refused",
    "invariant-violated",
    "memory-dropped",
];

impl Event {
    /// The kind as a word, for tables and the store's index.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Started { .. } => "started",
            Self::Stopped => "stopped",
            Self::Closed { .. } => "closed",
            Self::Opened => "opened",
            Self::PoolAdded => "pool-added",
            Self::PoolChanged { .. } => "pool-changed",
            Self::PoolPaused(_) => "pool-paused",
            Self::PoolRemoved => "pool-removed",
            Self::PoolForgotten => "pool-forgotten",
            Self::TemplateChanged { .. } => "template-changed",
            Self::Refresh { .. } => "refresh",
            Self::PlacementParked { .. } => "placement-parked",
            Self::PlacementReset { .. } => "placement-reset",
            Self::SiteAdded { .. } => "site-added",
            Self::SiteChanged { .. } => "site-changed",
            Self::SiteRemoved { .. } => "site-removed",
            Self::TemplateKept { .. } => "template-kept",
            Self::TemplateForgotten { .. } => "template-forgotten",
            Self::Interruption { .. } => "interruption",
            Self::Decided(_) => "decided",
            Self::LaunchRecorded { .. } => "launch-recorded",
            Self::LaunchEnded { .. } => "launch-ended",
            Self::Moved { .. } => "moved",
            Self::DrainOrdered { .. } => "drain-ordered",
            Self::DrainWithdrawn => "drain-withdrawn",
            Self::Protected { .. } => "protected",
            Self::HealthChanged { .. } => "health-changed",
            Self::SensorChanged { .. } => "sensor-changed",
            Self::BreakerOpened { .. } => "breaker-opened",
            Self::BreakerClosed { .. } => "breaker-closed",
            Self::SweepAdopted { .. } => "sweep-adopted",
            Self::SweepTerminated { .. } => "sweep-terminated",
            Self::ClaimRefused { .. } => "claim-refused",
            Self::InvariantViolated { .. } => "invariant-violated",
            Self::MemoryDropped { .. } => "memory-dropped",
            Self::Unknown(unknown) => &unknown.kind,
        }
    }
}

/// A decision as it is remembered: what was seen, what the engine wanted, what the guardrails left of it, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Decided {
    /// When.
    pub at: Timestamp,
    /// Which engine, such as `queue-length/1`.
    pub engine: String,
    /// The pool's revision that it was decided under.
    pub revision: u64,
    /// What the engine was shown, in the form in which it can be shown to it again.
    pub observed: Value,
    /// What the engine wanted.
    pub desired: u32,
    /// The size aimed at after guardrails.
    pub target: u32,
    /// Why.
    pub reasons: Vec<Reason>,
    /// What was not done, and why not.
    pub suppressed: Vec<Reason>,
    /// What is done about it.
    pub actions: Vec<Action>,
}

/// One thing that is done about a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Launch these.
    Launch {
        /// The launch.
        launch: LaunchId,
        /// Where.
        site: SiteName,
        /// By which of the pool's placements; none: the one that is named like the site.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        placement: Option<PlacementName>,
        /// The instances, with the slots they fill.
        instances: Vec<(InstanceId, Option<SlotLabel>)>,
    },
    /// Let these drain.
    Drain {
        /// Which.
        instances: Vec<InstanceId>,
        /// Why.
        why: Cause,
    },
    /// Let these go on.
    WithdrawDrain {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// End these.
    Terminate {
        /// Which.
        instances: Vec<InstanceId>,
        /// Why.
        why: Cause,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(event: Value) -> Result<Entry, serde_json::Error> {
        serde_json::from_value(json!({ "sequence": 1, "at": 5, "who": "x", "pool": null, "instance": null, "event": event }))
    }

    #[test]
    fn what_a_later_release_remembers_is_kept_as_it_is() {
        let event = json!({ "event": "moon-landed", "where": [1, { "deep": null }], "at": 7 });
        let entry = read(event.clone()).unwrap();
        assert_eq!(entry.event.kind(), "moon-landed");
        assert_eq!(serde_json::to_value(&entry).unwrap()["event"], event);
        assert_eq!(read(serde_json::to_value(&entry).unwrap()["event"].take()).unwrap(), entry);
    }

    #[test]
    fn what_is_known_and_broken_is_no_event() {
        for broken in [
            json!({ "event": "closed" }),
            json!({ "event": "moved", "from": "x" }),
            json!({ "event": 5 }),
            json!({}),
            json!("closed"),
        ] {
            assert!(read(broken.clone()).is_err(), "{broken} was taken");
        }
        assert!(
            read(json!({ "event": "closed", "force": true, "more": 1 })).is_ok(),
            "a field of a later release is passed over"
        );
    }

    /// Or a broken event of that kind would count as one of a later release.
    #[test]
    fn every_kind_is_known() {
        let schema = serde_json::to_value(schemars::schema_for!(Event)).unwrap();
        let kinds: Vec<&str> = schema["anyOf"]
            .as_array()
            .unwrap()
            .iter()
            .map(|of| of["properties"]["event"]["const"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, KINDS);
    }
}

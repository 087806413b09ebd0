//! Facts: what is true now, told to whoever listens. Losing, delaying, doubling or reordering one is harmless: each is whole for
//! what it is about and carries a version or an age, and each is told again, slowly, without being asked.

use std::ops::Bound;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::heartbeat::Condition;
use crate::id::{InstanceId, PoolName};
use crate::instance::{Instance, Work};
use crate::pool::Pool;
use crate::reading::SensorReport;
use crate::time::Timestamp;

/// A fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "fact", content = "of", rename_all = "kebab-case")]
pub enum Fact {
    /// From the provisioner: these instances are now so.
    Instances(Arc<Instances>),
    /// From an aggregator: this is what was heard.
    Snapshot(Arc<Snapshot>),
    /// From a controller: these pools are now so.
    Pools(Arc<Vec<Pool>>),
    /// From a process that has just begun to listen: tell me what is true.
    Listening(Listener),
}

/// What kind of fact; what a listener asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`Fact::Instances`].
    Instances,
    /// [`Fact::Snapshot`].
    Snapshot,
    /// [`Fact::Pools`].
    Pools,
    /// [`Fact::Listening`].
    Listening,
}

impl Fact {
    /// What kind this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Instances(_) => Kind::Instances,
            Self::Snapshot(_) => Kind::Snapshot,
            Self::Pools(_) => Kind::Pools,
            Self::Listening(_) => Kind::Listening,
        }
    }
}

/// Some instances, as the provisioner has them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Instances {
    /// The instances.
    pub changed: Vec<Arc<Instance>>,
    /// Whether the installation is closed by `teardown`.
    pub closed: bool,
    /// Set on the last page of a telling that named every live instance.
    #[serde(default)]
    pub complete: bool,
    /// Among which ids every live instance is named here: one that is missing has ended, unless this was told before it came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<Covers>,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Covers {
    /// The ids after this one, or all from the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<InstanceId>,
    /// The ids up to this one and with it, or all to the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<InstanceId>,
}

impl Covers {
    /// The range as the standard collections take it.
    #[must_use]
    pub fn bounds(&self) -> (Bound<InstanceId>, Bound<InstanceId>) {
        let after = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        (after, self.up_to.map_or(Bound::Unbounded, Bound::Included))
    }
}

/// Who begins to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Listener {
    /// An aggregator: wants pools and instances.
    Aggregator,
    /// A controller: wants instances and snapshots.
    Controller,
}

/// What an aggregator heard. Times travel as ages: the controller puts them on its own clock when they arrive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Which aggregator.
    pub aggregator: String,
    /// For how long it has been listening without a gap, in milliseconds. Silence counts only within that.
    pub listening_for_ms: i64,
    /// Instances heard from since its last snapshot, or all of them when it is complete.
    pub instances: Vec<Heard>,
    /// What sensors said.
    pub sensors: Vec<SensorReport>,
    /// Set on the last page of one that named everything it has.
    #[serde(default)]
    pub complete: bool,
}

/// What was heard from one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heard {
    /// Which.
    pub instance: InstanceId,
    /// Whose.
    pub pool: PoolName,
    /// How long ago, in milliseconds.
    pub ago_ms: i64,
    /// How its worker is.
    pub condition: Condition,
    /// Whether its worker has work.
    pub work: Work,
    /// For how long that has been so, in milliseconds.
    pub work_for_ms: i64,
    /// Whether its worker has been told to drain.
    pub draining: bool,
    /// The sender's own time at its last heartbeat; shown, never used to judge.
    pub sent_at: Timestamp,
}

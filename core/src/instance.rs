//! The record of one instance. Written only by the provisioner; everyone else merges what it says by `version`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::code::Fault;
use crate::id::{InstanceId, LaunchId, PlacementName, PoolName, SiteName, SlotLabel};
use crate::life::State;
use crate::time::Timestamp;

/// One machine incarnation. In memory, on the wire and in the store it has this one form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Which; a UUID version 7, never reused.
    pub id: InstanceId,
    /// Whose.
    pub pool: PoolName,
    /// The launch it came from.
    pub launch: LaunchId,
    /// Its place in that launch, from 0: the site's launch index.
    pub index: u32,
    /// Where.
    pub site: SiteName,
    /// By which of the pool's placements; none: the one that is named like the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementName>,
    /// The slot that it fills, in a pool with unique instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotLabel>,
    /// The slot's variables as they were at launch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The template it was launched from: name and a digest of its content.
    #[serde(default)]
    pub template: String,
    /// Where it is in its life.
    pub state: State,
    /// Grows with every change of this record; a lower one is old news.
    pub version: u64,
    /// When it was decided on.
    pub created_at: Timestamp,
    /// When it came to `state`.
    pub state_since: Timestamp,
    /// When `state` is given up, if it is a passing one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The site's name for the machine, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Where it can be reached, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it first reported ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// The standing drain order, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Why it is being ended, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// What went wrong with it, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How its worker ended, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Whether an operator or the worker forbade choosing it for scale-in.
    #[serde(default)]
    pub protected: bool,
    /// Who claimed its context: a digest of the nonce that the agent chose. Another claimant is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

impl Instance {
    /// Whether it still is, or may be, a machine that somebody pays for.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.state.is_end()
    }

    /// The placement that it was launched by, as its pool names it.
    #[must_use]
    pub fn placed_by(&self) -> &str {
        self.placement.as_ref().map_or(self.site.as_str(), PlacementName::as_str)
    }

    /// Whether it is on its way out: told to drain, or being ended, or ended.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.drain.is_some() || self.state >= State::Terminating
    }
}

/// The standing order to finish the work at hand and take no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drain {
    /// When it was given.
    pub since: Timestamp,
    /// When it is ended whether or not it is done.
    pub deadline: Timestamp,
    /// Why.
    pub why: Cause,
}

/// Why an instance is to go. What it may interrupt is counted apart by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The pool is larger than it should be.
    ScaleIn,
    /// It is silent, broken, or its worker ended: to be replaced.
    Unhealthy,
    /// Its slot was taken out of the pool.
    SlotRemoved,
    /// Its placement takes fewer than it did, or was taken out of the pool.
    PlacementLeft,
    /// It runs an older version of its template than the pool is refreshed to.
    Refresh,
    /// The site is about to take it away, and said so.
    Interrupted,
    /// The pool was removed.
    PoolRemoved,
    /// An operator asked for it.
    Operator,
    /// The installation is being torn down.
    Teardown,
    /// It finished draining.
    Drained,
    /// It did not finish draining in time.
    DrainDeadline,
    /// Its worker ended by itself without a fault.
    Finished,
    /// The site took it away.
    Vanished,
    /// It did not become ready in time.
    NotReady,
    /// Its set-up failed or its worker did not start.
    StartFailed,
    /// The site lists it and no record explains it.
    Stray,
}

impl Cause {
    /// Whether a plan chose this instance among others, although nothing was wrong with it: what must never interrupt work (I3).
    #[must_use]
    pub fn is_choice(self) -> bool {
        match self {
            Self::ScaleIn | Self::SlotRemoved | Self::PlacementLeft | Self::Refresh => true,
            Self::Unhealthy
            | Self::Interrupted
            | Self::PoolRemoved
            | Self::Operator
            | Self::Teardown
            | Self::Drained
            | Self::DrainDeadline
            | Self::Finished
            | Self::Vanished
            | Self::NotReady
            | Self::StartFailed
            | Self::Stray => false,
        }
    }
}

/// How it is being ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ending {
    /// When that was asked for.
    pub since: Timestamp,
    /// Why.
    pub why: Cause,
    /// What its worker was doing when that was asked for, as far as known.
    pub work: Work,
    /// Why it was drained, if it was drained first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_for: Option<Cause>,
}

/// How a worker process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// Its exit code, when it had one.
    pub code: Option<i32>,
    /// The signal that ended it, when one did.
    pub signal: Option<i32>,
    /// The end of its output, at most 4,000 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

impl Exit {
    /// Whether it ended by itself and without a fault.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

/// What a worker says it is doing. Unknown counts as busy wherever something could be interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// It waits for work.
    Idle,
    /// It has work.
    Busy,
    /// It does not say, or said so too long ago.
    #[default]
    Unknown,
}

impl Work {
    /// `idle`, `busy` or `unknown`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
        }
    }
}

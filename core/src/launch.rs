//! One request for n instances on one placement: exactly one IaaS call, one token.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::code::Fault;
use crate::id::{InstanceId, LaunchId, PlacementName, PoolName, SiteName, SlotLabel};
use crate::instance::Instance;
use crate::life::State;
use crate::pool::Template;
use crate::time::Timestamp;

/// The most instances of one launch. Too high: one refusal by the site, or one lost answer, concerns that many.
pub const INSTANCES_MAX: usize = 1_000;

/// A launch as the provisioner keeps it. The request is complete and never changes, so that repeating the call repeats it byte by
/// byte with the same token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Launch {
    /// Which; also what the client token is made of.
    pub id: LaunchId,
    /// What was asked for.
    pub request: LaunchRequest,
    /// When the provisioner accepted it.
    pub accepted_at: Timestamp,
    /// The leadership term it was recorded under.
    pub epoch: u64,
    /// How often the call was made.
    pub attempts: u32,
    /// The doors at which its agents first ask, as they were when it was accepted: a repeated call names the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<String>,
    /// What came of it, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What is asked for; ids are chosen by the asker, so that asking twice is harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LaunchRequest {
    /// Which launch.
    pub launch: LaunchId,
    /// For which pool.
    pub pool: PoolName,
    /// On which site.
    pub site: SiteName,
    /// By which of the pool's placements; none: the one that is named like the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementName>,
    /// What it is for: where calls to a site have to wait for each other, this says which goes first.
    #[serde(default)]
    pub purpose: Purpose,
    /// What to launch: the template's whole content as it was when this was decided.
    pub template: Template,
    /// Its name and digest, carried by every instance.
    pub template_version: String,
    /// The instances, in the order of their launch index.
    pub instances: Vec<Wanted>,
    /// The fewest that make the launch worth having.
    pub min: u32,
    /// The pool's maximum when this was decided, to be checked again where it is recorded; none: nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// The sender's leadership term.
    #[serde(default)]
    pub epoch: u64,
}

impl LaunchRequest {
    /// The record of one of its instances as it was asked for at `since`: `100-REQUESTING`, version 0, so that any later word on it
    /// counts for more.
    #[must_use]
    pub fn instance(&self, index: u32, wanted: &Wanted, since: Timestamp) -> Instance {
        Instance {
            id: wanted.id,
            pool: self.pool.clone(),
            launch: self.launch,
            index,
            site: self.site.clone(),
            placement: self.placement.clone(),
            slot: wanted.slot.clone(),
            variables: wanted.variables.clone(),
            template: self.template_version.clone(),
            state: State::Requesting,
            version: 0,
            created_at: since,
            state_since: since,
            deadline: None,
            machine: None,
            address: None,
            ready_at: None,
            drain: None,
            ending: None,
            fault: None,
            exit: None,
            protected: false,
            claim: None,
        }
    }
}

/// What a launch is for, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// In place of instances that failed, or to come up to the least that the pool is to have.
    Replace,
    /// The pool grows.
    #[default]
    Grow,
    /// In place of instances of an older template version, or that are to leave their placement.
    Refresh,
}

/// One instance that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Wanted {
    /// The id it is to have.
    pub id: InstanceId,
    /// The slot that it fills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotLabel>,
    /// Variables of its own, over those of the template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
}

/// What came of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Outcome {
    /// So many machines came, in the order of their index.
    Launched {
        /// How many.
        machines: u32,
    },
    /// None came.
    Failed {
        /// Why.
        fault: Fault,
    },
}

//! What was counted: calls, errors, faults, and how often each machine of each launch existed.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::row::Times;

/// Most calls that are remembered one by one.
const MAX_CALLS: usize = 5_000;

/// What is left of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// Whose.
    pub account: String,
    /// Which action.
    pub action: String,
    /// The error code; empty when there was none.
    pub code: String,
}

/// How often the i-th machine of a launch existed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The installation that asked for it, by its tag as sent.
    pub installation: String,
    /// The launch: its tag as sent, or else the client token, or else the reservation.
    pub launch: String,
    /// Which one of the launch.
    pub index: u32,
    /// How many there have ever been.
    pub ever: u32,
    /// How many there are now that are not terminated.
    pub now: u32,
    /// The most that there were at any one time.
    pub most: u32,
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Calls by action.
    pub calls: BTreeMap<String, u64>,
    /// Errors by code, those of the plan included.
    pub errors: BTreeMap<String, u64>,
    /// Faults of the plan that struck, by effect.
    pub faults: BTreeMap<String, u64>,
    /// By installation, launch and index.
    pub tallies: BTreeMap<(String, String, u32), Tally>,
    /// The last calls.
    pub recent: VecDeque<Call>,
}

impl Counts {
    /// A call came to its end.
    pub fn call(&mut self, call: Call) {
        *self.calls.entry(call.action.clone()).or_default() += 1;
        if !call.code.is_empty() {
            *self.errors.entry(call.code.clone()).or_default() += 1;
        }
        if self.recent.len() == MAX_CALLS {
            self.recent.pop_front();
        }
        self.recent.push_back(call);
    }

    /// A machine began to exist.
    pub fn begins(&mut self, key: &(String, String, u32)) {
        let tally = self.tallies.entry(key.clone()).or_insert_with(|| Tally {
            installation: key.0.clone(),
            launch: key.1.clone(),
            index: key.2,
            ..Tally::default()
        });
        tally.ever += 1;
        tally.now += 1;
        tally.most = tally.most.max(tally.now);
    }

    /// A machine ceased to exist.
    pub fn ends(&mut self, key: &(String, String, u32)) {
        if let Some(tally) = self.tallies.get_mut(key) {
            tally.now = tally.now.saturating_sub(1);
        }
    }
}

/// A machine as `GET /_fake/state` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shown {
    /// Its id.
    pub id: String,
    /// Whose.
    pub account: String,
    /// Where.
    pub region: String,
    /// Where there.
    pub zone: String,
    /// Its type.
    pub instance_type: String,
    /// Its image.
    pub image: String,
    /// `spot` or `on-demand`.
    pub market: String,
    /// With which launch it came.
    pub reservation: String,
    /// Which one of that launch.
    pub index: u32,
    /// The client token.
    pub token: Option<String>,
    /// The installation that asked for it, by its tag as sent, also when tags were ignored.
    pub installation: String,
    /// The launch, likewise.
    pub launch: String,
    /// Its state, as it is and not as it is listed.
    pub state: String,
    /// Its state as it is listed; none when it is not.
    pub listed: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// When things happened.
    pub times: Times,
    /// Whether processes of it run.
    pub up: bool,
}

impl Shown {
    /// Whether it costs money: it is neither terminated nor vanished.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.state != "terminated" && self.times.vanished.is_none()
    }
}

/// What `GET /_fake/state` says. With `?summary` the machines are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Every machine that there ever was.
    pub machines: Vec<Shown>,
    /// How many there ever were.
    pub ever: u64,
    /// How many there are by state, those that vanished as `vanished`.
    pub states: BTreeMap<String, u64>,
    /// Calls by action.
    pub calls: BTreeMap<String, u64>,
    /// Errors by code.
    pub errors: BTreeMap<String, u64>,
    /// Faults that struck, by effect.
    pub faults: BTreeMap<String, u64>,
    /// How often each machine of each launch existed.
    pub tallies: Vec<Tally>,
    /// How many of these existed more than once at the same time: machines that were doubled.
    pub doubled: u64,
}

impl Report {
    /// Machines that cost money now, of one installation by its tag as sent; of all for an empty name.
    #[must_use]
    pub fn alive(&self, installation: &str) -> Vec<&Shown> {
        let of = |shown: &&Shown| installation.is_empty() || shown.installation == installation;
        self.machines.iter().filter(|shown| shown.is_alive()).filter(of).collect()
    }

    /// How many calls of an action there were.
    #[must_use]
    pub fn called(&self, action: &str) -> u64 {
        self.calls.get(action).copied().unwrap_or(0)
    }
}

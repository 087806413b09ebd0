//! The agents and workers of an installation, found in the process table. All are ended when it is dropped.

use std::collections::BTreeSet;
use std::path::Path;

use epu_core::health::Health;
use epu_core::request::InstanceView;
use epu_core::{InstanceId, State};

use crate::installation::brief;
use crate::processes::{EndsTagged, Proc};

/// Everyone who carries an installation's data directory in `EPU_HOME`.
#[derive(Debug)]
pub struct Fleet(EndsTagged);

impl Fleet {
    /// That of the installation with this data directory.
    ///
    /// # Panics
    /// When the path is so short that it might be somebody else's.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self(EndsTagged::new("EPU_HOME", data.to_string_lossy()))
    }

    /// Every living process of it.
    #[must_use]
    pub fn alive(&self) -> BTreeSet<Proc> {
        self.0.alive()
    }

    /// The agents.
    #[must_use]
    pub fn agents(&self) -> BTreeSet<Proc> {
        let agents = self.alive().into_iter().filter(|proc| proc.variable("EPU_DIR").is_none());
        agents.collect()
    }

    /// The workers, set-up programs, and whatever these started.
    #[must_use]
    pub fn workers(&self) -> BTreeSet<Proc> {
        let workers = self.alive().into_iter().filter(|proc| proc.variable("EPU_DIR").is_some());
        workers.collect()
    }

    /// The agent of one instance.
    #[must_use]
    pub fn agent_of(&self, id: InstanceId) -> Option<Proc> {
        let mut agents = self.agents().into_iter();
        agents.find(|proc| proc.variable("EPU_INSTANCE") == Some(id.to_string()))
    }

    /// The worker of one instance, the first process of it that was started.
    #[must_use]
    pub fn worker_of(&self, id: InstanceId) -> Option<Proc> {
        let mut children = Proc::children_of(self.agent_of(id)?.pid).into_iter();
        children.find(|proc| proc.is_alive() && proc.variable("EPU_DIR").is_some())
    }
}

/// These instances, when they are exactly `count` and all run, are heard from, and are not leaving.
///
/// # Errors
/// How they are otherwise.
pub fn all_run(live: Vec<InstanceView>, count: usize) -> Result<Vec<InstanceView>, String> {
    let well = live
        .iter()
        .all(|view| view.instance.state == State::Running && view.health == Health::Ok && view.instance.drain.is_none());
    if well && live.len() == count {
        return Ok(live);
    }
    Err(live.iter().map(brief).collect::<Vec<_>>().join(", "))
}

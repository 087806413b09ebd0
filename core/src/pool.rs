//! What a pool is to be: the wish for interchangeable workers of one service.
//!
//! These types are read from YAML and operator input, which refuse unknown keys (by the schema made from them, so that every
//! fault is found at once), and from the store and other releases, which ignore them (by serde).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::health::HealthLimits;
use crate::id::{PlacementName, PoolName, SensorName, SiteName, TemplateName};
use crate::machine::{AgentSource, MachineSpec};
use crate::reading::Staleness;
use crate::secret::SecretUrl;
use crate::time::{Span, Timestamp};

/// A pool's settings, as people write them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct PoolSpec {
    /// The template to launch, by name.
    pub template: TemplateName,
    /// Fewest workers; kept at once and against every cooldown.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub min: u32,
    /// Most workers.
    #[schemars(range(max = 1_000_000))]
    pub max: u32,
    /// The engine that decides how many, with its settings: one key, such as `keep: {n: 3}`.
    pub engine: BTreeMap<String, Value>,
    /// Where readings come from, by name.
    #[serde(default)]
    pub sensors: BTreeMap<SensorName, SensorSpec>,
    /// Where to launch, best first. Left out: the only site there is.
    #[serde(default)]
    pub placements: Vec<Placement>,
    /// How long silence may last.
    #[serde(default)]
    pub health: HealthLimits,
    /// How fast things may change.
    #[serde(default)]
    pub limits: Limits,
}

/// A pool's use of a site. Those of a pool are ranked by their order: the first is used up to its maximum before the next, and the last is
/// shrunk first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Placement {
    /// The site.
    pub site: SiteName,
    /// Its name among the pool's placements; left out: the site's. A pool that uses a site in several ways (zones, sizes, markets) names
    /// each. Another name is another placement, and so is another site under the same name: what was launched by the old one drains once
    /// the new one has replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PlacementName>,
    /// Most workers there; left out: the pool's own maximum. 0: none any more, those that are there drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// What differs there from the template's `machine`.
    #[serde(default, skip_serializing_if = "MachineSpec::is_empty")]
    pub machine: MachineSpec,
}

impl Placement {
    /// A site, used as the template says, for as many as the pool wants.
    #[must_use]
    pub fn on(site: SiteName) -> Self {
        Self {
            site,
            name: None,
            max: None,
            machine: MachineSpec::default(),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn called(&self) -> &str {
        self.name.as_ref().map_or(self.site.as_str(), PlacementName::as_str)
    }

    /// The template as it is launched here.
    #[must_use]
    pub fn template(&self, template: &Template) -> Template {
        Template {
            machine: self.machine.over(&template.machine),
            ..template.clone()
        }
    }
}

/// Guardrails that hold whatever an engine says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[schemars(deny_unknown_fields)]
pub struct Limits {
    /// Wait between two growth steps. Too high: slow to follow. Too low: harmless with a pending gate.
    pub cooldown_up: Span,
    /// Wait between two shrinking steps, and after growth before shrinking. Too low: flapping.
    pub cooldown_down: Span,
    /// The pool shrinks to the largest size wanted within this window, so that a short lull costs no worker.
    pub stabilization: Span,
    /// Most instances to add in one action.
    #[schemars(range(min = 1))]
    pub step_up: u32,
    /// Most instances to remove in one action.
    #[schemars(range(min = 1))]
    pub step_down: u32,
    /// Most unhealthy instances to replace within `replace-window`; left out: a fifth of the pool, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub replace_at_once: Option<u32>,
    /// The window for `replace-at-once`.
    pub replace_window: Span,
    /// When more than this share of the pool is unhealthy at once, replacing stops but for probes: the fault is elsewhere.
    #[schemars(range(min = 0.05, max = 1.0))]
    pub storm_share: f64,
    /// No storm below so many unhealthy instances.
    #[schemars(range(min = 1))]
    pub storm_at_least: u32,
    /// In a storm, one unhealthy instance is replaced this often, so that no pool is stuck for ever.
    pub storm_probe: Span,
    /// After so many launches in a row that came to nothing, launching there pauses.
    #[schemars(range(min = 1))]
    pub launch_failures: u32,
    /// The first such pause; it doubles each time up to sixteen-fold.
    pub launch_backoff: Span,
    /// How long a draining worker may take before it is ended anyway.
    pub drain: Span,
    /// The fewest machines that make a launch worth having: when a launch of at least so many has fewer ready by `ready-within`, the rest
    /// is ended too. Left out: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub launch_least: Option<u32>,
    /// How long it is remembered that a placement had no room. Then one launch of one instance tries it again.
    pub capacity_memory: Span,
    /// Most that the pool's instances may cost an hour, by the `price` of their placements, which each of them is to have. Nothing is
    /// launched that would cost more, except what keeps `min`. It limits growth and ends nobody: after it was lowered the pool stays as
    /// large as it is, and who fails is not replaced until what is left, and the new one, cost less. Left out: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub budget: Option<f64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cooldown_up: Span::secs(0),
            cooldown_down: Span::secs(30),
            stabilization: Span::secs(60),
            step_up: 100,
            step_down: 10,
            replace_at_once: None,
            replace_window: Span::secs(60),
            storm_share: 0.45,
            storm_at_least: 4,
            storm_probe: Span::secs(300),
            launch_failures: 3,
            launch_backoff: Span::secs(30),
            drain: Span::secs(3_600),
            launch_least: None,
            capacity_memory: Span::secs(300),
            budget: None,
        }
    }
}

impl Limits {
    /// Most unhealthy instances to replace within the window, in a pool of `size`.
    #[must_use]
    pub fn replacements(&self, size: u32) -> u32 {
        self.replace_at_once.unwrap_or_else(|| (size / 5).max(1))
    }
}

/// Where a reading comes from, and how old it may get. Exactly one of the sources is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct SensorSpec {
    /// The length of a RabbitMQ queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rabbitmq: Option<RabbitSensor>,
    /// The number of files in a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectorySensor>,
    /// A named reading of the workers' heartbeats, put together over the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatSensor>,
    /// How often it is read.
    #[serde(default = "SensorSpec::default_every")]
    pub every: Span,
    /// Older than this nothing is decided on it. Left out: three times `every`, at least 15 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<Span>,
    /// Older than this it counts as missing. Left out: four times `stale-after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_after: Option<Span>,
}

impl SensorSpec {
    fn default_every() -> Span {
        Span::secs(5)
    }

    /// The ages at which its readings become stale and missing.
    #[must_use]
    pub fn staleness(&self) -> Staleness {
        let stale_after = self
            .stale_after
            .unwrap_or_else(|| Span((*self.every * 3).max(Duration::from_secs(15))));
        Staleness {
            stale_after,
            missing_after: self.missing_after.unwrap_or(Span(*stale_after * 4)),
        }
    }
}

/// A RabbitMQ queue's length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct RabbitSensor {
    /// The broker, as `amqp://` (for `count: ready`).
    pub url: SecretUrl,
    /// The queue.
    #[schemars(length(min = 1, max = 255))]
    pub queue: String,
    /// Which messages count.
    #[serde(default)]
    pub count: Count,
    /// The management API, as `http://user@host:15672`: needed for `count: ready+unacked`, which a passive declare cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_url: Option<SecretUrl>,
}

/// Which messages of a queue count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Count {
    /// Those that wait.
    #[default]
    #[serde(rename = "ready")]
    Ready,
    /// Those that wait and those being worked on.
    #[serde(rename = "ready+unacked")]
    ReadyAndUnacked,
}

/// How many files wait in a directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct DirectorySensor {
    /// The directory whose files wait. Names that start with a dot do not count.
    pub path: PathBuf,
    /// A directory with one folder a worker, whose files are being worked on; they count too when it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_progress: Option<PathBuf>,
}

/// A named reading of the workers, put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct HeartbeatSensor {
    /// The name under which workers report it.
    pub reading: SensorName,
    /// How the workers' values are put together. Those that do not report do not count as zero: they do not count.
    #[serde(default)]
    pub combine: Combine,
}

/// How values of several workers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// The largest.
    Max,
}

/// What to launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Template {
    /// The worker: a program and its arguments. `${NAME}` stands for a variable.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// A program that runs once before the worker; the instance is running only after it succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_up: Vec<String>,
    /// Variables: in the environment of both programs, and for `${NAME}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Where both programs run; left out: the instance's own directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The signal that tells the worker to finish and take no more work, besides the file `$EPU_DIR/drain`.
    #[serde(default)]
    pub drain_signal: DrainSignal,
    /// From `stop` to SIGKILL. Too low: a worker cannot put its work back. Too high: ending takes long.
    #[serde(default = "Template::default_stop_grace")]
    pub stop_grace: Span,
    /// How often the agent reports.
    #[serde(default = "Template::default_heartbeat")]
    pub heartbeat: Span,
    /// From launch to ready; after that the instance has failed.
    #[serde(default = "Template::default_ready_within")]
    pub ready_within: Span,
    /// Where a machine gets the agent from, on sites that rent machines.
    #[serde(default, skip_serializing_if = "is_baked")]
    pub agent: AgentSource,
    /// What kind of machine, on sites that rent machines.
    #[serde(default, skip_serializing_if = "MachineSpec::is_empty")]
    pub machine: MachineSpec,
}

fn is_baked(agent: &AgentSource) -> bool {
    *agent == AgentSource::Baked
}

impl Template {
    fn default_stop_grace() -> Span {
        Span::secs(10)
    }
    fn default_heartbeat() -> Span {
        Span::secs(5)
    }
    fn default_ready_within() -> Span {
        Span::secs(600)
    }
}

/// The signal that tells a worker to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DrainSignal {
    /// SIGTERM: what most queue workers take as "finish and stop".
    #[default]
    TERM,
    /// SIGINT.
    INT,
    /// SIGHUP.
    HUP,
    /// SIGUSR1.
    USR1,
    /// SIGUSR2.
    USR2,
    /// SIGQUIT.
    QUIT,
    /// No signal: the worker looks at the file.
    #[serde(rename = "none")]
    None,
}

/// A pool as it is kept: settings, where they came from, and what an operator did to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Its settings.
    pub spec: PoolSpec,
    /// Its template's content.
    pub template: Template,
    /// Its template's name and digest.
    pub template_version: String,
    /// Whose its settings are.
    pub origin: Origin,
    /// Grows with every change of this record.
    pub revision: u64,
    /// What is not to happen for now.
    #[serde(default)]
    pub paused: Paused,
    /// Whether it is being removed: drained, then forgotten.
    #[serde(default)]
    pub removed: bool,
    /// When it was added.
    pub added_at: Timestamp,
    /// Replacing instances of older template versions, while that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
    /// What it launched before its template last changed, for going back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Box<Previous>>,
    /// Whose it is: operators who act for certain owners only may change nothing else. None: anyone's who may change pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Pool {
    /// What an hour of an instance costs that was launched by the placement of this name, as its settings are now: at a placement that the
    /// pool has no longer, as much as at the dearest that it has. Where no price is known it is nothing; a pool with a budget has them all.
    #[must_use]
    pub fn price_of(&self, placement: &str) -> f64 {
        let price = |placement: &Placement| placement.machine.price.or(self.template.machine.price).unwrap_or(0.0);
        let placements = &self.spec.placements;
        match placements.iter().find(|known| known.called() == placement) {
            Some(known) => price(known),
            None => placements.iter().map(price).fold(0.0, f64::max),
        }
    }
}

/// A refresh that is under way: instances whose template version is not the pool's are replaced, by drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refresh {
    /// When it was asked for.
    pub since: Timestamp,
    /// By whom.
    pub by: String,
    /// Whether it is held for now, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Whether it goes back to what was before.
    #[serde(default)]
    pub back: bool,
}

/// A template that a pool launched before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Previous {
    /// Its content.
    pub template: Template,
    /// Its name and digest.
    pub template_version: String,
    /// What differed from its `machine` by each placement, by the placement's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub machines: BTreeMap<String, MachineSpec>,
    /// Whether it is newer than what is launched, and was gone back from: while the config file has it, it is not applied again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_back: bool,
}

/// Whose a pool's settings are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Origin {
    /// A config file's; only it can change them.
    File {
        /// Which.
        path: String,
        /// On which line the pool stands.
        line: u32,
    },
    /// An operator's.
    Operator,
}

/// What a pool is not to do for now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Paused {
    /// Not to grow beyond the size it has.
    pub grow: bool,
    /// Not to shrink.
    pub shrink: bool,
    /// Not to replace unhealthy instances.
    pub replace: bool,
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Paused {
    /// Whether anything is.
    #[must_use]
    pub fn any(&self) -> bool {
        self.grow || self.shrink || self.replace
    }
}

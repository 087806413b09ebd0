//! Commands and questions: everything that can be asked of a service, in the one envelope `{"op", "args"}` with the reply
//! `{"result", "error"}`. Ids are chosen by the asker, so that asking twice is harmless. `docs/wire.md` is generated from here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::code::Fault;
use crate::heartbeat::{Heartbeat, Orders};
use crate::id::{InstanceId, LaunchId, PoolName};
use crate::instance::{Cause, Drain, Exit, Work};
use crate::launch::LaunchRequest;
use crate::pool::{DrainSignal, Paused};
use crate::time::Span;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Launches and terminates.
    Provisioner,
    /// Decides.
    Controller,
    /// Listens.
    Aggregator,
}

/// Everything that can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", content = "args", rename_all = "snake_case")]
pub enum Request {
    // ---- provisioner: from controllers
    /// Launch these. Answer: null once it is recorded, whether now or before.
    Launch(Box<LaunchRequest>),
    /// End these at once. Answer: null.
    Terminate(Terminate),
    /// Give these a standing order to drain. Answer: null.
    Drain(DrainOrder),
    /// Withdraw the order to drain. Answer: the ids for which it was withdrawn.
    WithdrawDrain(Ids),
    /// The second opinion: what does the site say of these? Answer: a list of `[id, word]`, see [`SiteWord`].
    Look(Ids),
    // ---- provisioner: from operators
    /// Protect these from being chosen for scale-in, or no longer. Answer: null.
    Protect(Protect),
    /// The end of an instance's output. Answer: text.
    Logs(Logs),
    /// Close the installation, then drain (or end at once) every instance. Answer: how many live instances there are.
    Teardown(Teardown),
    /// Open a closed installation. Answer: null.
    Open(Nothing),
    /// Sites and what is happening on them. Answer: [`crate::request::SiteStatus`] a site.
    Sites(Nothing),
    /// What the sweep makes of each machine that carries our tags and that no record explains, and would do: it does nothing now. Answer:
    /// [`SweepView`].
    Sweep(SiteFilter),
    /// Tries what a launch on a site needs, without launching: credentials, clock, image, quota, permissions. Answer: [`SiteReport`].
    SiteCheck(SiteCheck),
    /// Add a site, or change one that was added so. Answer: its name, a text.
    SiteAdd(SiteFile),
    /// Take a site out that was added so. Answer: how many instances still live there.
    SiteRemove(SiteRemove),
    /// Keep a template that pools added by command may name, or change one. Answer: its name, a text.
    TemplateAdd(TemplateFile),
    /// Keep it no longer; pools go on with what they have. Answer: null.
    TemplateRemove(TemplateRef),
    /// Templates that are kept so. Answer: a list of [`KeptTemplate`].
    Templates(Nothing),
    /// Instances as they are recorded, of any pool or of none; no ids: all live ones. Answer: a list of [`crate::Instance`].
    Records(Ids),
    // ---- provisioner: from agents
    /// What am I to be? Answer: [`Context`].
    Context(ContextClaim),
    /// This happened to me. Answer: [`Reported`].
    Report(Report),
    // ---- aggregator: from agents
    /// I am here. Answer: [`Orders`].
    Heartbeat(Box<Heartbeat>),
    /// Several heartbeats at once. Answer: a list of orders or faults, in the same order.
    Heartbeats(Vec<Heartbeat>),
    // ---- controller: from operators
    /// Add pools. Answer: the names.
    PoolAdd(PoolFile),
    /// Every pool. Answer: a list of [`PoolView`].
    PoolList(Nothing),
    /// One pool with its last decision and why. Answer: [`PoolView`].
    PoolShow(PoolRef),
    /// Change settings of a pool. Answer: its new revision.
    PoolReconfigure(PoolChange),
    /// Keep a pool from doing something for now. Answer: null.
    PoolPause(PoolPause),
    /// Let it do everything again. Answer: null.
    PoolResume(PoolRef),
    /// Replace instances of older template versions, or hold, resume, end or reverse that. Answer: [`RefreshView`].
    PoolRefresh(PoolRefresh),
    /// Placements with their scoreboards. Answer: a list of [`PlacementView`].
    PlacementList(PlacementFilter),
    /// Lets a pool launch on its placements again that are parked or paused. Answer: the names of those that were.
    PlacementReset(PlacementReset),
    /// Drain and forget a pool. Answer: how many live instances it has.
    PoolRemove(PoolRemove),
    /// Instances. Answer: a list of [`InstanceView`].
    InstanceList(InstanceFilter),
    /// One instance. Answer: [`InstanceView`].
    InstanceShow(InstanceRef),
    /// The state of the whole. Answer: [`StatusView`].
    Status(Nothing),
    /// Journal entries after a sequence number. Answer: a list of [`crate::journal::Entry`].
    Events(EventsAfter),
}

/// No arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Nothing {}

impl Service {
    /// All of them, in the order in which they begin.
    pub const ALL: [Self; 3] = [Self::Provisioner, Self::Aggregator, Self::Controller];

    /// Its name, as in config and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Provisioner => "provisioner",
            Self::Controller => "controller",
            Self::Aggregator => "aggregator",
        }
    }
}

impl Request {
    /// Who answers it.
    #[must_use]
    pub fn service(&self) -> Service {
        match self {
            Self::Launch(_)
            | Self::Terminate(_)
            | Self::Drain(_)
            | Self::WithdrawDrain(_)
            | Self::Look(_)
            | Self::Protect(_)
            | Self::Logs(_)
            | Self::Teardown(_)
            | Self::Open(_)
            | Self::Sites(_)
            | Self::Sweep(_)
            | Self::SiteCheck(_)
            | Self::SiteAdd(_)
            | Self::SiteRemove(_)
            | Self::TemplateAdd(_)
            | Self::TemplateRemove(_)
            | Self::Templates(_)
            | Self::Records(_)
            | Self::Context(_)
            | Self::Report(_) => Service::Provisioner,
            Self::Heartbeat(_) | Self::Heartbeats(_) => Service::Aggregator,
            Self::PoolAdd(_)
            | Self::PoolList(_)
            | Self::PoolShow(_)
            | Self::PoolReconfigure(_)
            | Self::PoolPause(_)
            | Self::PoolResume(_)
            | Self::PoolRefresh(_)
            | Self::PlacementList(_)
            | Self::PlacementReset(_)
            | Self::PoolRemove(_)
            | Self::InstanceList(_)
            | Self::InstanceShow(_)
            | Self::Status(_)
            | Self::Events(_) => Service::Controller,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Self::Launch(_) => "launch",
            Self::Terminate(_) => "terminate",
            Self::Drain(_) => "drain",
            Self::WithdrawDrain(_) => "withdraw_drain",
            Self::Look(_) => "look",
            Self::Protect(_) => "protect",
            Self::Logs(_) => "logs",
            Self::Teardown(_) => "teardown",
            Self::Open(_) => "open",
            Self::Sites(_) => "sites",
            Self::Sweep(_) => "sweep",
            Self::SiteCheck(_) => "site_check",
            Self::SiteAdd(_) => "site_add",
            Self::SiteRemove(_) => "site_remove",
            Self::TemplateAdd(_) => "template_add",
            Self::TemplateRemove(_) => "template_remove",
            Self::Templates(_) => "templates",
            Self::Records(_) => "records",
            Self::Context(_) => "context",
            Self::Report(_) => "report",
            Self::Heartbeat(_) => "heartbeat",
            Self::Heartbeats(_) => "heartbeats",
            Self::PoolAdd(_) => "pool_add",
            Self::PoolList(_) => "pool_list",
            Self::PoolShow(_) => "pool_show",
            Self::PoolReconfigure(_) => "pool_reconfigure",
            Self::PoolPause(_) => "pool_pause",
            Self::PoolResume(_) => "pool_resume",
            Self::PoolRefresh(_) => "pool_refresh",
            Self::PlacementList(_) => "placement_list",
            Self::PlacementReset(_) => "placement_reset",
            Self::PoolRemove(_) => "pool_remove",
            Self::InstanceList(_) => "instance_list",
            Self::InstanceShow(_) => "instance_show",
            Self::Status(_) => "status",
            Self::Events(_) => "events",
        }
    }

    /// Whether it only looks: asking it changes nothing.
    #[must_use]
    pub fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Look(_)
                | Self::Logs(_)
                | Self::Sites(_)
                | Self::Sweep(_)
                | Self::SiteCheck(_)
                | Self::Templates(_)
                | Self::PlacementList(_)
                | Self::PoolList(_)
                | Self::PoolShow(_)
                | Self::InstanceList(_)
                | Self::InstanceShow(_)
                | Self::Status(_)
                | Self::Events(_)
                | Self::Records(_)
        ) || matches!(self, Self::PoolRefresh(refresh) if refresh.step == RefreshStep::Show)
    }

    /// Says under which leadership term it is sent. What is no command of a controller's stays as it is.
    pub fn set_epoch(&mut self, epoch: u64) {
        match self {
            Self::Launch(request) => request.epoch = epoch,
            Self::Terminate(order) => order.epoch = epoch,
            Self::Drain(order) => order.epoch = epoch,
            Self::WithdrawDrain(ids) | Self::Look(ids) => ids.epoch = epoch,
            Self::Protect(_)
            | Self::Logs(_)
            | Self::Teardown(_)
            | Self::Open(_)
            | Self::Sites(_)
            | Self::Sweep(_)
            | Self::SiteCheck(_)
            | Self::SiteAdd(_)
            | Self::SiteRemove(_)
            | Self::TemplateAdd(_)
            | Self::TemplateRemove(_)
            | Self::Templates(_)
            | Self::Records(_)
            | Self::Context(_)
            | Self::Report(_)
            | Self::Heartbeat(_)
            | Self::Heartbeats(_)
            | Self::PoolAdd(_)
            | Self::PoolList(_)
            | Self::PoolShow(_)
            | Self::PoolReconfigure(_)
            | Self::PoolPause(_)
            | Self::PoolResume(_)
            | Self::PoolRefresh(_)
            | Self::PlacementList(_)
            | Self::PlacementReset(_)
            | Self::PoolRemove(_)
            | Self::InstanceList(_)
            | Self::InstanceShow(_)
            | Self::Status(_)
            | Self::Events(_) => {}
        }
    }

    /// Whether only agents may ask it, with an instance's token, and for that instance only.
    #[must_use]
    pub fn is_for_agents(&self) -> bool {
        matches!(self, Self::Context(_) | Self::Report(_) | Self::Heartbeat(_))
    }
}

/// Who asks, as the transport found it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Another service of this installation.
    Service(&'static str),
    /// An operator, by name.
    Operator(String),
    /// An operator, by name, who acts for these owners only: whatever belongs to others cannot be changed.
    OwnersOperator(String, Vec<String>),
    /// Somebody who may look at everything and change nothing, by name.
    Reader(String),
    /// An agent whose token was good for this instance.
    Instance(InstanceId),
    /// An agent that holds a launch token, good for this launch.
    Launch(LaunchId),
}

impl Caller {
    /// For the journal.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Service(name) => (*name).to_owned(),
            Self::Operator(name) | Self::OwnersOperator(name, _) | Self::Reader(name) => name.clone(),
            Self::Instance(id) => format!("instance {id}"),
            Self::Launch(id) => format!("launch {id}"),
        }
    }

    /// Whether a person asks, who may have mistyped.
    #[must_use]
    pub fn is_person(&self) -> bool {
        matches!(self, Self::Operator(_) | Self::OwnersOperator(..) | Self::Reader(_))
    }

    /// Whether it may change what belongs to `owner`.
    #[must_use]
    pub fn owns(&self, owner: Option<&str>) -> bool {
        match self {
            Self::Service(_) | Self::Operator(_) => true,
            Self::OwnersOperator(_, owners) => owner.is_some_and(|owner| owners.iter().any(|own| own == owner)),
            Self::Reader(_) | Self::Instance(_) | Self::Launch(_) => false,
        }
    }

    /// Whose what it adds is.
    #[must_use]
    pub fn owner_of_new(&self) -> Option<&str> {
        match self {
            Self::OwnersOperator(_, owners) => owners.first().map(String::as_str),
            Self::Service(_) | Self::Operator(_) | Self::Reader(_) | Self::Instance(_) | Self::Launch(_) => None,
        }
    }
}

/// What comes back: a JSON value, or in the hot path the orders themselves.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Standing orders: the answer to a heartbeat, of which there are very many.
    Orders(Orders),
    /// Anything else.
    Json(Value),
}

impl Answer {
    /// An answer from anything that has a JSON form.
    ///
    /// # Errors
    /// `internal` when it has none.
    pub fn of(value: &impl Serialize) -> Result<Self, Fault> {
        serde_json::to_value(value)
            .map(Self::Json)
            .map_err(|e| Fault::new("internal", format!("write the answer as JSON: {e}")))
    }

    /// The JSON form, as it goes over a wire.
    #[must_use]
    pub fn into_json(self) -> Value {
        match self {
            Self::Orders(orders) => serde_json::to_value(orders).unwrap_or(Value::Null),
            Self::Json(value) => value,
        }
    }

    /// The answer as the type that was asked for.
    ///
    /// # Errors
    /// `internal` when it is something else.
    pub fn read<T: for<'de> Deserialize<'de>>(self) -> Result<T, Fault> {
        serde_json::from_value(self.into_json()).map_err(|e| Fault::new("internal", format!("read the answer: {e}")))
    }
}

/// The reply on a wire: one of the two is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// What came of it.
    pub result: Value,
    /// What went wrong.
    pub error: Option<Fault>,
}

/// Some instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ids {
    /// Which.
    pub instances: Vec<InstanceId>,
    /// The sender's leadership term.
    #[serde(default)]
    pub epoch: u64,
}

/// End these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Terminate {
    /// Which, and what the worker of each is known to be doing.
    pub instances: Vec<(InstanceId, Work)>,
    /// Why.
    pub why: Cause,
    /// The sender's leadership term.
    #[serde(default)]
    pub epoch: u64,
}

/// Let these drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrainOrder {
    /// Which.
    pub instances: Vec<InstanceId>,
    /// The order; its time is the asker's.
    pub drain: Drain,
    /// The sender's leadership term.
    #[serde(default)]
    pub epoch: u64,
}

/// What a site says of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SiteWord {
    /// It runs, or is coming up.
    Running,
    /// It is gone.
    Gone,
    /// The site did not answer, or does not say.
    NoAnswer,
}

/// Protect, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Protect {
    /// Which.
    pub instances: Vec<InstanceId>,
    /// Whether they are to be protected.
    pub on: bool,
}

/// The end of an instance's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Logs {
    /// Whose.
    pub instance: InstanceId,
    /// How many lines at the most.
    pub lines: u32,
}

/// Close and empty the installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Teardown {
    /// End at once instead of draining.
    #[serde(default)]
    pub force: bool,
    /// How long draining may take, whatever the pools say; left out: the provisioner's `teardown-drain`, one hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceRef {
    /// Its id, or the end of it when that is unique.
    pub instance: String,
}

/// Which instances to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct InstanceFilter {
    /// Of this pool only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Ended ones too, as long as their records are kept.
    #[serde(default)]
    pub all: bool,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolRef {
    /// Which.
    pub pool: PoolName,
}

/// Pools as written in a file with `templates:` and `pools:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolFile {
    /// What it is called, for messages.
    pub file: String,
    /// Its text, YAML or JSON.
    pub text: String,
}

/// New settings for a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolChange {
    /// Which.
    pub pool: PoolName,
    /// New values by dotted path, such as `engine.keep.n: 5`; null takes a key out.
    pub set: BTreeMap<String, Value>,
    /// Another content for its template, under the name that the pool has for it after `set`; left out: what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Box<crate::pool::Template>>,
    /// Refuse when the pool is no longer at this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
}

/// What a pool is not to do for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolPause {
    /// Which.
    pub pool: PoolName,
    /// What not.
    pub paused: Paused,
}

/// Drain and forget a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolRemove {
    /// Which.
    pub pool: PoolName,
    /// End its instances at once instead of draining them.
    #[serde(default)]
    pub force: bool,
}

/// Journal entries after a number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct EventsAfter {
    /// After this sequence number; left out: the newest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// Of this pool only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// How many at the most; at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// An agent's first question. The transport has checked the launch token; the nonce makes asking twice harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContextClaim {
    /// The launch it belongs to.
    pub launch: LaunchId,
    /// Its index in it.
    pub index: u32,
    /// Chosen at random by the agent and kept in its directory before it first asks: another nonce is another claimant.
    pub nonce: String,
}

/// What an instance is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Context {
    /// Which instance this is.
    pub instance: InstanceId,
    /// Whose.
    pub pool: PoolName,
    /// Its token for everything it says from now on.
    pub token: String,
    /// The run program with variables put in.
    pub run: Vec<String>,
    /// The set-up program with variables put in.
    pub set_up: Vec<String>,
    /// The environment of both, over the agent's own.
    pub variables: BTreeMap<String, String>,
    /// Where both run.
    pub directory: Option<std::path::PathBuf>,
    /// How to tell the worker to drain.
    pub drain_signal: DrainSignal,
    /// From `stop` to SIGKILL.
    pub stop_grace: Span,
    /// How often to report.
    pub heartbeat: Span,
    /// Until when to be ready, counted from now.
    pub ready_within: Span,
    /// Where heartbeats go, as `http://host:port`; any of them will do.
    pub aggregators: Vec<String>,
    /// Every door of the installation, as `http://host:port`: each passes on any request to whoever answers it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<String>,
}

/// The most doors that an agent is told of; more are left out. Too low: those that are left may all be gone at once.
pub const DOORS_MAX: usize = 16;

/// The answer to a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Reported {
    /// The instance's standing orders.
    #[serde(flatten)]
    pub orders: Orders,
    /// The doors as they are now, as in [`Context`]; none: as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<String>,
    /// Those of them where heartbeats go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aggregators: Vec<String>,
}

/// Orders, and nothing about doors.
impl From<Orders> for Reported {
    fn from(orders: Orders) -> Self {
        Self {
            orders,
            doors: Vec::new(),
            aggregators: Vec::new(),
        }
    }
}

/// What happened to an instance, in its agent's words. Repeated until accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Which instance.
    pub instance: InstanceId,
    /// What happened.
    pub happened: Happened,
}

/// What an agent reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Happened {
    /// Set-up succeeded and the worker was started.
    Ready {
        /// Where it can be reached, if it can.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// Set-up failed or the worker could not be started.
    Failed {
        /// Why, with the end of the output.
        fault: Fault,
    },
    /// Told to drain, the worker finished its work and ended.
    Drained {
        /// How it ended.
        exit: Exit,
    },
    /// The worker ended without being told to.
    Exited {
        /// How it ended.
        exit: Exit,
    },
    /// The site said that it is about to take the machine away.
    Interruption {
        /// How long until then.
        within: Span,
    },
}

/// A pool with what is happening in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolView {
    /// Its record.
    pub pool: crate::pool::Pool,
    /// Its numbers.
    pub counts: PoolCounts,
    /// The size aimed at after guardrails; none before the first decision.
    pub target: Option<u32>,
    /// The newest decision, with reasons.
    pub decision: Option<crate::journal::Decided>,
    /// What its sensors say now, by name.
    pub readings: BTreeMap<crate::id::SensorName, ReadingView>,
    /// Slots and the instance that fills each.
    pub slots: BTreeMap<crate::id::SlotLabel, Option<InstanceId>>,
    /// What holds it up or is wrong with it, in words; empty when all is well.
    pub concerns: Vec<String>,
    /// How long instances took from launch to ready, in milliseconds: the mean of the last ones.
    pub boot_ms: Option<i64>,
    /// Live instances by the template version that they run.
    #[serde(default)]
    pub versions: BTreeMap<String, u32>,
}

/// A reading with its status at the time of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadingView {
    /// The reading.
    pub reading: crate::reading::Reading,
    /// How far it can be trusted.
    pub status: crate::reading::Status,
}

/// A pool's instances, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PoolCounts {
    /// Live, whatever their condition.
    pub live: u32,
    /// Running and in good health, not draining.
    pub running: u32,
    /// Decided on or coming up.
    pub booting: u32,
    /// Draining.
    pub draining: u32,
    /// Being ended.
    pub ending: u32,
    /// Live and in bad health.
    pub unhealthy: u32,
    /// Running and known to be busy.
    pub busy: u32,
    /// Running and known to be idle.
    pub idle: u32,
}

/// An instance with what is known of its health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceView {
    /// Its record.
    #[serde(flatten)]
    pub instance: crate::instance::Instance,
    /// What is believed of its health.
    pub health: crate::health::Health,
    /// Whether its worker has work.
    pub work: Work,
    /// When it was last heard from.
    pub heard_at: Option<crate::time::Timestamp>,
}

/// The state of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// Which installation.
    pub installation: String,
    /// The program's version.
    pub version: String,
    /// Whether it is closed by `teardown`.
    pub closed: bool,
    /// Since when this process has been running.
    pub since: crate::time::Timestamp,
    /// The time of the answer.
    pub now: crate::time::Timestamp,
    /// Pools in brief.
    pub pools: Vec<PoolBrief>,
    /// What needs a person's eye; empty when all is well.
    pub concerns: Vec<String>,
    /// Who is there and who leads what.
    #[serde(default)]
    pub standing: crate::lease::Standing,
}

/// A pool in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolBrief {
    /// Its name.
    pub name: PoolName,
    /// Its engine.
    pub engine: String,
    /// The size aimed at.
    pub target: Option<u32>,
    /// Its numbers.
    pub counts: PoolCounts,
    /// `steady`, `growing`, `shrinking`, `paused`, `waiting`, `removed`, `trouble`.
    pub condition: String,
    /// Why, in one line.
    pub why: String,
}

/// A site and what is happening on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SiteStatus {
    /// Its name.
    pub site: crate::id::SiteName,
    /// Its driver.
    pub driver: String,
    /// Live instances on it.
    pub live: u32,
    /// When it last gave a complete list.
    pub listed_at: Option<crate::time::Timestamp>,
    /// What went wrong last, if something did since.
    pub fault: Option<Fault>,
    /// The account there, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The buckets that pace its calls; none: it is not paced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pace: Vec<BucketView>,
    /// Most instances of one launch there; a larger one is refused.
    #[serde(default = "SiteStatus::launch_most_anywhere")]
    pub launch_most: u32,
    /// Launches that wait for their turn to be called.
    #[serde(default)]
    pub waiting: u32,
    /// Where it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<SiteOrigin>,
}

/// Where a site is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum SiteOrigin {
    /// In a config file; only it can change it.
    File {
        /// Which.
        path: String,
        /// On which line; 0: it is there though nothing is written, by default.
        line: u32,
    },
    /// In the records.
    Record {
        /// Who put it there: an operator's name, or `dtrs` for what clients of the original EPU describe.
        by: String,
        /// Whose it is; none: nobody's in particular.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
}

/// A site as written in a file: either `sites:` with one site below it, or what would stand there below its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SiteFile {
    /// What it is called, for messages.
    pub file: String,
    /// Its text, YAML or JSON. Secrets in it are references, such as `env:NAME`.
    pub text: String,
    /// Its name, or which of several; left out: the only one in the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<crate::id::SiteName>,
}

/// Take a site out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SiteRemove {
    /// Which.
    pub site: crate::id::SiteName,
    /// Although pools place instances on it, or some live there: nothing is launched there any more, and those that live are watched until
    /// they end.
    #[serde(default)]
    pub force: bool,
}

impl SiteStatus {
    fn launch_most_anywhere() -> u32 {
        1_000
    }
}

/// A template as written in a file, below `templates:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateFile {
    /// What it is called, for messages; relative paths count from its directory.
    pub file: String,
    /// Its text, YAML or JSON.
    pub text: String,
    /// Which of several; left out: the only one in the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<crate::id::TemplateName>,
}

/// One template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateRef {
    /// Which.
    pub template: crate::id::TemplateName,
}

/// A template that is kept by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeptTemplate {
    /// Its name.
    pub name: crate::id::TemplateName,
    /// Its content.
    pub template: crate::pool::Template,
    /// Who put it there.
    pub by: String,
    /// Whose it is; none: nobody's in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A token bucket as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BucketView {
    /// What it paces, such as `RunInstances` or `RunInstances machines`.
    pub what: String,
    /// Tokens in it; below zero: as many are waited for.
    pub level: f64,
    /// Most that it holds.
    pub capacity: f64,
    /// Tokens that come back each second.
    pub refill: f64,
    /// Calls that wait for it.
    pub waiting: u32,
}

/// One site, or all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SiteFilter {
    /// Which; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<crate::id::SiteName>,
}

/// What the sweep makes of what it sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepView {
    /// The time of the answer.
    pub now: crate::time::Timestamp,
    /// When each site last gave a complete list, and what keeps it from giving one.
    pub sites: Vec<SiteStatus>,
    /// Machines that no record explains, or that the next look takes in.
    pub machines: Vec<StrayView>,
}

/// A machine with our tags that the records do not name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StrayView {
    /// Where.
    pub site: crate::id::SiteName,
    /// The site's name for it.
    pub machine: String,
    /// The launch that its tag names.
    pub launch: Option<LaunchId>,
    /// Its index in that launch.
    pub index: Option<u32>,
    /// When it was first seen.
    pub first_seen: crate::time::Timestamp,
    /// What the sweep does with it.
    pub verdict: SweepVerdict,
    /// When, at the earliest.
    pub at: Option<crate::time::Timestamp>,
    /// Why, in words.
    pub why: String,
}

/// What the sweep does with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SweepVerdict {
    /// It belongs to a recorded launch and is taken in.
    Adopt,
    /// Nothing explains it: it is ended.
    Terminate,
    /// It is looked at again first.
    Wait,
    /// It is left alone.
    Leave,
}

/// What to check of a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SiteCheck {
    /// Which site.
    pub site: crate::id::SiteName,
    /// What is to be launched there: with these machines the check is complete, without only the site itself is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<NamedTemplate>,
}

/// A template with the name of what wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamedTemplate {
    /// Such as `pool web, placement spot`.
    pub name: String,
    /// Its content, with what the placement changes.
    pub template: crate::pool::Template,
}

/// What a check of a site found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SiteReport {
    /// Which site.
    pub site: crate::id::SiteName,
    /// Its driver.
    pub driver: String,
    /// One for each thing tried, in the order tried.
    pub findings: Vec<Finding>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What was tried, such as `credentials` or `image ami-1 (pool web)`.
    pub what: String,
    /// How it went.
    pub verdict: FindingVerdict,
    /// What was seen, and what to do where something is missing.
    pub text: String,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FindingVerdict {
    /// As it has to be.
    Good,
    /// It could not be found out.
    Unknown,
    /// It works, and is not as it should be.
    Doubtful,
    /// Launching will fail.
    Bad,
}

/// Replace a pool's instances of older template versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolRefresh {
    /// Which.
    pub pool: PoolName,
    /// What to do.
    #[serde(rename = "do")]
    pub step: RefreshStep,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What to do about a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshStep {
    /// Begin it.
    Start,
    /// Hold it: those that drain go on, no others are chosen.
    Pause,
    /// Go on.
    Resume,
    /// End it where it is.
    Stop,
    /// Launch again what was launched before the template last changed, and replace whatever is not of it.
    Rollback,
    /// Only say how far it is.
    Show,
}

/// How far a refresh is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefreshView {
    /// Which pool.
    pub pool: PoolName,
    /// The refresh, while one is under way.
    pub refresh: Option<crate::pool::Refresh>,
    /// What is launched now.
    pub version: String,
    /// What can be gone back to.
    pub previous: Option<String>,
    /// Live instances by template version.
    pub versions: BTreeMap<String, u32>,
    /// Of older versions and still to be replaced.
    pub outdated: u32,
    /// Of those, how many are draining.
    pub draining: u32,
    /// What holds it up, in words.
    pub held: Option<String>,
}

/// Which placements.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PlacementFilter {
    /// Of this pool only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
}

/// Launch there again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementReset {
    /// Whose.
    pub pool: PoolName,
    /// Which; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<crate::id::PlacementName>,
}

/// A placement and how launching there went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementView {
    /// Whose.
    pub pool: PoolName,
    /// Its name.
    pub placement: String,
    /// Its rank in the pool, from 1; none: the pool has no such placement any more, and it empties.
    pub rank: Option<u32>,
    /// The site.
    pub site: crate::id::SiteName,
    /// Image, size, zone and market in one line; empty on sites without such choice.
    pub machine: String,
    /// Live instances that stay.
    pub live: u32,
    /// Most that it takes.
    pub max: u32,
    /// What it lets through: `open`, `full`, `paused`, `trying`, `parked`.
    pub gate: String,
    /// Until when, while paused.
    pub until: Option<crate::time::Timestamp>,
    /// Why it does not let everything through.
    pub fault: Option<Fault>,
    /// How launching there went.
    pub score: Scoreboard,
}

/// How launching by one placement went, over the last outcomes that are remembered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Scoreboard {
    /// Instances that became ready.
    pub ready: u64,
    /// Instances that did not, whatever the reason.
    pub failed: u64,
    /// Of those, how many because the site had no room or allowed no more.
    pub capacity: u64,
    /// Instances that the site took away.
    pub interrupted: u64,
    /// From decision to ready, in milliseconds: half of the last ones took no longer.
    pub boot_p50_ms: Option<i64>,
    /// From decision to ready, in milliseconds: 95 of 100 of the last ones took no longer.
    pub boot_p95_ms: Option<i64>,
    /// What an hour costs, as configured.
    pub price: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_op_and_args() {
        let show = Request::PoolShow(PoolRef {
            pool: PoolName::new("web").expect("a name"),
        });
        let text = serde_json::to_string(&show).expect("json");
        assert_eq!(text, r#"{"op":"pool_show","args":{"pool":"web"}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).expect("request"), show);
        assert_eq!(show.op(), "pool_show");
    }
}

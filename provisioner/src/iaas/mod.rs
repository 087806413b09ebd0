//! Where machines come from. A driver knows one kind of site and nothing of pools, records or time-outs: it makes calls and says
//! what came of them. Everything that must survive, be repeated or be judged is decided outside, once for all drivers.

pub mod contract;
pub mod ec2;
pub mod local;
pub mod spec;

use std::fmt;

use async_trait::async_trait;
use epu_core::Fault;
use epu_core::id::{InstanceId, LaunchId, PoolName};
use epu_core::launch::Purpose;
use epu_core::pool::Template;
use epu_core::request::{BucketView, Finding, NamedTemplate};
use epu_core::time::{Span, Timestamp};

/// A driver for one site.
///
/// # The contract
///
/// [`contract::holds`] checks it against a driver that is given to it.
///
/// - **One call, n machines.** [`launch`](Iaas::launch) starts as many machines as the launch names instances, in one call. Machine
///   i carries index i, and is the launch's i-th instance. It may start fewer, but not fewer than `min`: then it starts none and
///   fails with [`Class::Capacity`]. Every machine carries the tags *installation* and *launch* from its first moment.
/// - **Repeating a launch is harmless.** The launch id is the client token. The same request again gives the same machines in the
///   same order, and starts nothing, also after the driver's process was killed in the middle of the call, and also when the
///   machines have ended since. A call that failed, or whose answer was lost, is repeated unchanged: it then completes what it began.
///   Where a site cannot promise this, the driver lists before it launches.
/// - **A machine that ended stays ended.** No call brings one back.
/// - **[`terminate`](Iaas::terminate) is repeatable** and takes ids that it does not know, or that are gone. `Ok` means that the site
///   accepted, not that they are gone: that is said by `list` and `describe`.
/// - **[`list`](Iaas::list) is complete or an error**: every machine with this installation's tag, whoever launched it, and no
///   machine of anybody else. Machines that are [`MachineState::Gone`] may be left out. It may lag behind `launch` by the
///   consistency grace of the [`Capabilities`].
/// - **[`describe`](Iaas::describe)** answers for each id asked, in order; `None` means that the site does not know it. A driver
///   answers `Gone`, or `None`, only when nothing of the machine runs any more.
/// - **A machine that was halted and is kept** is listed, and described, as [`MachineState::Stopped`]: it does no work. `terminate` ends it.
/// - **Calls may take long, and may be dropped in the middle.** Their caller gives them a deadline. They never block a thread of the
///   async runtime, and they hold no lock across a call that would keep the next one from starting.
/// - **Errors are classified** by what is to be done about them, see [`Class`]. Texts name what was tried and hold no secret.
/// - **No policy.** A driver does not retry, wait for capacity, or remember failures.
#[async_trait]
pub trait Iaas: Send + Sync {
    /// What this site can and cannot do. Constant.
    fn capabilities(&self) -> Capabilities;

    /// Launches the machines of one launch, or finds the ones that the same call launched before. In the order of their index.
    ///
    /// # Errors
    /// See [`Class`]. After an error any number of the machines may exist; they are found by repeating the call, or by `list`.
    async fn launch(&self, launch: &IaasLaunch) -> Result<Vec<Machine>, IaasError>;

    /// Ends machines.
    ///
    /// # Errors
    /// When the site did not accept it for all of them; the call is then repeated.
    async fn terminate(&self, machines: &[String]) -> Result<(), IaasError>;

    /// Every machine of this installation.
    ///
    /// # Errors
    /// When the list would not be complete.
    async fn list(&self) -> Result<Vec<Machine>, IaasError>;

    /// What the site says of these machines, in the order asked.
    ///
    /// # Errors
    /// When the site did not answer for all of them.
    async fn describe(&self, machines: &[String]) -> Result<Vec<(String, Option<MachineState>)>, IaasError>;

    /// The last lines of an instance's output, also after its end for as long as they are kept; `None` where the site does not
    /// offer that or has none.
    ///
    /// # Errors
    /// When there is output and it cannot be read.
    async fn output(&self, instance: InstanceId, machine: Option<&str>, lines: u32) -> Result<Option<String>, IaasError>;

    /// Waits for this call's turn where calls are paced: nothing is sent before. Its caller gives up waiting by dropping it, which costs
    /// nothing. A call of one request, `launch` and `terminate`, is admitted here; calls of several pages pace themselves.
    async fn admit(&self, call: Admission) {
        let _ = call;
    }

    /// Whether a launch that fails with an error that does not pass has started nothing, provided that no call of it before may have: the
    /// site does all of a call or nothing, and says so. Without, only a complete list tells what came of a refused launch, and whoever
    /// waits for its end waits for that.
    fn refuses_whole(&self) -> bool {
        false
    }

    /// Whose account this is and where, in words that differ when machines of before would not be found there; `None` where nobody can say.
    /// Empty for a driver that can only be in one place.
    ///
    /// # Errors
    /// When it could not be found out just now.
    async fn identity(&self) -> Result<Option<String>, IaasError> {
        Ok(Some(String::new()))
    }

    /// Tries what launching these templates here needs, without launching anything.
    async fn check(&self, templates: &[NamedTemplate]) -> Vec<Finding>;

    /// The account behind the site, once known, and the buckets that pace its calls.
    fn standing(&self) -> (Option<String>, Vec<BucketView>) {
        (None, Vec::new())
    }

    /// Forgets what is kept of machines that ended before `before`, such as their output, a bounded number at a time. Never touches
    /// one that is not gone.
    ///
    /// # Errors
    /// When something could not be removed; the rest was.
    async fn tidy(&self, before: Timestamp) -> Result<u32, IaasError>;
}

/// What a site can and cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name, such as `local`.
    pub driver: &'static str,
    /// How long a list may lag behind a launch. Absence within this time after a launch means nothing.
    pub consistency_grace: Span,
    /// How often in a row `describe` must say gone before a machine is believed gone.
    pub gone_confirmations: u32,
    /// How often to list while something is changing.
    pub look_fast: Span,
    /// How often to list while nothing changes.
    pub look_steady: Span,
    /// How long a machine without a record may stay before it is ended, counted from when it was first seen.
    pub sweep_grace: Span,
    /// Most machines of one launch.
    pub launch_most: u32,
}

/// A call that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// To launch so many machines.
    Launch {
        /// How many.
        machines: u32,
        /// How urgent it is.
        purpose: Purpose,
    },
    /// To end so many machines.
    Terminate {
        /// How many.
        machines: u32,
    },
}

/// One launch as a driver gets it. Everything in it but `doubtful` stays the same when the call is repeated.
#[derive(Debug, Clone)]
pub struct IaasLaunch {
    /// Which installation: the tag that makes machines ours.
    pub installation: String,
    /// Which launch; also the client token.
    pub launch: LaunchId,
    /// For which pool; a tag for people.
    pub pool: PoolName,
    /// The instances, in the order of their index.
    pub instances: Vec<InstanceId>,
    /// The fewest machines that make the launch worth having.
    pub min: u32,
    /// With this the agents of the launch ask for their context.
    pub launch_token: LaunchToken,
    /// Where they ask: one or more `http://host:port` with spaces between, any of which will do.
    pub url: String,
    /// What to launch.
    pub template: Template,
    /// Whether a call for it may have come to something that the caller was not told of: an answer was lost, or another process may have
    /// called. No part of what is asked for.
    pub doubtful: bool,
}

/// A launch token: good for asking for the context of one launch's instances until it expires. Shown as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct LaunchToken(pub String);

impl fmt::Debug for LaunchToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// A machine as a site names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The site's name for it.
    pub id: String,
    /// Which launch it came from, by its tag.
    pub launch: Option<LaunchId>,
    /// Its index in that launch, where the site says so.
    pub index: Option<u32>,
    /// Which instance it is, where the site says so. Identity never depends on it: launch and index suffice.
    pub instance: Option<InstanceId>,
    /// How it is.
    pub state: MachineState,
    /// Where it can be reached, once known.
    pub address: Option<String>,
}

/// How a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineState {
    /// It is coming up.
    Pending,
    /// It runs.
    Running,
    /// It is going away.
    Stopping,
    /// It was halted and is kept: it does no work, may cost money, and comes back only by somebody else's doing. Its instance is
    /// to be replaced, and it is to be ended.
    Stopped,
    /// Nothing of it is left.
    Gone,
}

/// What is to be done about a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It may pass: repeat the same call after a while. Lost answers and time-outs are of this kind.
    Retryable,
    /// Too many calls: repeat later, and call less often.
    Throttled,
    /// The site has no room for it now: try elsewhere.
    Capacity,
    /// The account may not have more: try elsewhere, tell a person.
    Quota,
    /// The site does not accept who we are: tell a person.
    Credentials,
    /// It will never work as it is: tell a person.
    Permanent,
    /// It was asked for before with other contents, as by another release or with another certificate: it is not called again, and what
    /// the former call gave is found by listing.
    Changed,
}

impl Class {
    /// Whether the same call is to be made again.
    #[must_use]
    pub fn is_passing(self) -> bool {
        match self {
            Self::Retryable | Self::Throttled => true,
            Self::Capacity | Self::Quota | Self::Credentials | Self::Permanent | Self::Changed => false,
        }
    }

    /// As a metric label.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Retryable => "retryable",
            Self::Throttled => "throttled",
            Self::Capacity => "capacity",
            Self::Quota => "quota",
            Self::Credentials => "credentials",
            Self::Permanent => "permanent",
            Self::Changed => "changed",
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct IaasError {
    /// What is to be done about it.
    pub class: Class,
    /// What was tried and what went wrong, with its causes.
    pub text: String,
}

impl IaasError {
    /// A classified error. The text is cut at 2,000 characters.
    #[must_use]
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if let Some((end, _)) = text.char_indices().nth(2_000) {
            text.truncate(end);
        }
        Self { class, text }
    }

    /// The form that records and replies carry.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let code = match self.class {
            Class::Retryable | Class::Changed => "launch-failed",
            Class::Throttled => "site-throttled",
            Class::Capacity => "site-capacity",
            Class::Quota => "site-quota-exceeded",
            Class::Credentials => "site-credentials",
            Class::Permanent => "site-refused",
        };
        Fault::new(code, self.text.clone())
    }
}

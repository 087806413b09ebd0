//! The machine, as the agent needs it. [`crate::process::ProcessHost`] is a real one; the simulator has its own.

use async_trait::async_trait;
use epu_core::instance::Exit;
use epu_core::pool::DrainSignal;
use epu_core::request::Context;
use epu_core::{Fault, LaunchId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::status::Seen;

/// Where an instance runs. A host that exists is held by this agent alone.
///
/// What is kept must be on disk when a call returns, since what follows relies on it. Programs run with their output going to a
/// file, never to a pipe, so that they outlive the agent.
#[async_trait]
pub trait Host: Send + Sync {
    /// What earlier agents left here.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn find(&self) -> Result<Found, Error>;

    /// A number nobody can guess, as text.
    ///
    /// # Errors
    /// When the system gives none.
    fn nonce(&self) -> Result<String, Error>;

    /// Keeps this over a restart of the agent and of the machine.
    ///
    /// # Errors
    /// When it cannot be written; then what was kept before stands.
    fn keep(&self, kept: &Kept) -> Result<(), Error>;

    /// Keeps how the worker ended.
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep_exit(&self, exit: &Exit) -> Result<(), Error>;

    /// Runs the set-up program to its end. Dropping the future kills it.
    ///
    /// # Errors
    /// `set-up-failed` when it could not be started.
    async fn set_up(&self, context: &Context) -> Result<Exit, Fault>;

    /// Starts the worker.
    ///
    /// # Errors
    /// `worker-failed`, naming the program and what to do, when it could not be started.
    async fn start(&self, context: &Context) -> Result<WorkerMark, Fault>;

    /// Waits for the end of the worker that was started or found living. For ever when there is none. Safe to cancel.
    async fn ended(&self) -> Exit;

    /// The end of the running program's output, at most 4,000 characters.
    fn output(&self) -> String;

    /// What the worker says of itself now.
    fn look(&self) -> Seen;

    /// Waits until the worker may be saying something else. Only asked of a host that [notices](Self::notices). Safe to cancel: what came
    /// meanwhile is noticed by the next.
    async fn news(&self) {
        std::future::pending().await
    }

    /// Whether [`Self::news`] comes whenever the worker says something else; otherwise it is looked at again and again.
    fn notices(&self) -> bool {
        false
    }

    /// Tells the worker to drain: the file first, then the signal. Repeating it repeats the signal.
    ///
    /// # Errors
    /// When neither reached it.
    fn tell_drain(&self, deadline: Timestamp, signal: DrainSignal) -> Result<(), Error>;

    /// Signals the worker; nothing happens when it has ended.
    fn signal(&self, signal: Signal);

    /// Waits until the site says that it takes the machine away, and gives when. For ever where no site does that. Safe to cancel.
    async fn taken_away(&self) -> Timestamp {
        std::future::pending().await
    }
}

/// What is sent to a worker that is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// What earlier agents left.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// What they kept, if there were any.
    pub kept: Option<Kept>,
    /// How the worker ended, if an agent saw it.
    pub exit: Option<Exit>,
    /// Whether the worker of which they knew still lives. It is watched from now on: [`Host::ended`] tells of its end.
    pub worker_lives: bool,
    /// Whether it was told to drain.
    pub told: bool,
}

/// What is kept over a restart. Readable by the agent's user only: it holds the instance's token and variables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What the instance was claimed with.
    pub nonce: String,
    /// What it is to be, once that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// Of which launch it is; what another launch left in this directory, as in an image that was made of a running machine, is no
    /// concern of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchId>,
    /// Its place in that launch, so that it need not be found out again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// How far it came.
    pub stage: Stage,
}

/// How far an instance came. Each is kept before what it names is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "with", rename_all = "kebab-case")]
pub enum Stage {
    /// It asks what it is to be.
    Asking,
    /// Set-up runs, or ended without anybody seeing it.
    SettingUp,
    /// The worker is being started, or was without anybody seeing it.
    Starting,
    /// The worker was started.
    Running(WorkerMark),
    /// Set-up failed or the worker could not be started.
    Failed(Fault),
}

/// Which process the worker is, so that another one which got its number is not taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerMark {
    /// Its process number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub started: u64,
    /// Which boot of the machine that was.
    pub boot: String,
}

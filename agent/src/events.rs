//! What happens to an agent's life, what it wants done, and how it ends. See [`crate::life`].

use std::sync::Arc;

use epu_core::heartbeat::{Heartbeat, Orders};
use epu_core::instance::Exit;
use epu_core::pool::DrainSignal;
use epu_core::request::{Context, ContextClaim, Report, Reported};
use epu_core::{Fault, Timestamp};

use crate::host::{Kept, Signal, WorkerMark};
use crate::status::Seen;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The provisioner's answer to the question for the context.
    Context(Result<Box<Context>, Fault>),
    /// Set-up ended, or could not be started.
    SetUpEnded(Result<Exit, Fault>),
    /// Set-up was killed, as asked; this is the end of its output.
    SetUpAborted(String),
    /// The worker was started, or could not be.
    Started(Result<WorkerMark, Fault>),
    /// The worker ended.
    WorkerEnded(Exit),
    /// The worker may be saying something else than before.
    News,
    /// What the worker says of itself.
    Seen(Seen),
    /// The provisioner's answer to a report.
    Reported(Result<Reported, Fault>),
    /// An aggregator's answer to a heartbeat.
    Beaten(Result<Orders, Fault>),
    /// Whether telling the worker to drain reached it.
    DrainTold(bool),
    /// What must survive could not be written; the actions after that one were not done.
    NotKept(Fault),
    /// The site takes the machine away, at this time.
    Interruption(Timestamp),
    /// The agent was told to stop.
    Stop,
}

/// What is to be done, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Keep this; only then go on.
    Keep(Box<Kept>),
    /// Keep how the worker ended.
    KeepExit(Exit),
    /// Ask what the instance is to be.
    AskContext(ContextClaim),
    /// Run set-up.
    SetUp(Arc<Context>),
    /// Kill set-up.
    AbortSetUp,
    /// Start the worker.
    Start(Arc<Context>),
    /// See what the worker says of itself.
    Look,
    /// Tell the worker to drain.
    TellDrain(Timestamp, DrainSignal),
    /// Signal the worker.
    Signal(Signal),
    /// Report to the provisioner.
    Report(Report),
    /// Send a heartbeat to this door; empty when none is known.
    Beat(Box<Heartbeat>, String),
    /// The agent's life is over.
    End(Result<Ended, GivenUp>),
}

/// How an agent's life ended as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Told to stop; its worker is gone.
    Stopped,
    /// Its worker finished draining, and the provisioner knows.
    Drained,
}

/// Why an agent gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// The claim was refused.
    #[error("the claim was refused: {0}")]
    ClaimRefused(Fault),
    /// No context came.
    #[error("no context, given up: {0}")]
    NoContext(Fault),
    /// No worker, and nobody there.
    #[error("no worker, and no contact for an hour")]
    Forgotten,
    /// The claim could not be written down.
    #[error("the claim could not be kept: {0}")]
    NotKept(Fault),
}

//! What can keep an agent from running, and the exit codes that say so.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | told to stop, or drained and the report accepted |
//! | 1 | the instance's directory or the system failed it |
//! | 2 | settings are missing or wrong; all of them are listed |
//! | 3 | another agent runs in this directory |
//! | 4 | the claim was refused: somebody else holds this instance |
//! | 5 | no context: nobody answered for an hour, or the launch token was refused again and again |
//! | 6 | no worker, and no contact for an hour |
//! | 7 | the machine's metadata did not say which machine of its launch it is |
//!
//! On machines, 10, 11 and 12 are those of `start.sh`, which starts the agent there: it cannot be had, it is not the one that was meant,
//! the machine fails it.

use std::io;
use std::path::PathBuf;

use epu_core::time::Span;

use crate::life::GivenUp;
use crate::metadata::Trouble;

/// Why an agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings are missing or wrong.
    #[error("the agent's settings are wrong:\n  {}", .0.join("\n  "))]
    Config(Vec<String>),
    /// Another agent runs here.
    #[error("another agent{} runs in {}: an instance has one agent", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), .home.display())]
    Locked {
        /// In which directory.
        home: PathBuf,
        /// Which process, when it could be read.
        pid: Option<u32>,
    },
    /// A file could not be read or written.
    #[error("{doing} {}", .path.display())]
    File {
        /// Such as `write`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `agent.json` is damaged. Starting afresh could run a second worker, so it is not done.
    #[error("{} is damaged; without it set-up and worker could run twice: let the instance be replaced", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        source: serde_json::Error,
    },
    /// The system did not give what every agent needs.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The machine does not know which one of its launch it is.
    #[error(
        "ask the machine's metadata at {at} for its launch index, for {within}: {why}; is the metadata service turned on, and reached from \
         where the agent runs? (in a container it takes two hops: `machine.metadata.hops: 2`)"
    )]
    NoIndex {
        /// Where it was asked for.
        at: String,
        /// For how long.
        within: Span,
        /// What came of it in the end.
        why: Trouble,
    },
    /// The agent found that it cannot do its work.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
}

impl Error {
    /// The exit code that says so; see the module's table.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Damaged { .. } | Self::System { .. } | Self::GivenUp(GivenUp::NotKept(_)) => 1,
            Self::Config(_) => 2,
            Self::Locked { .. } => 3,
            Self::GivenUp(GivenUp::ClaimRefused(_)) => 4,
            Self::GivenUp(GivenUp::NoContext(_)) => 5,
            Self::GivenUp(GivenUp::Forgotten) => 6,
            Self::NoIndex { .. } => 7,
        }
    }
}

//! `epumgmt demo`: the main job on one machine, with nothing installed and nothing pretended.
//!
//! It starts this same program as a control process (`serve all`) in a directory of its own, gives it a pool of real worker
//! processes and a queue of real jobs, and then does to it what happens to such systems: kills a busy worker, freezes another,
//! kills the control process. It watches from outside, through the operators' door and the process table, and says at the end
//! which promises were kept. Exit code 0 means all of them.

pub(crate) mod chart;
mod control;
mod spool;
mod story;
mod table;
pub(crate) mod worker;

use crate::cli;
use crate::exit::{Exit, Failure};

/// Runs the demo.
///
/// # Errors
/// When it cannot be told to its end.
pub(crate) fn run(args: &cli::Demo) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(story::tell(args)) {
        Ok(true) => Ok(Exit::Done),
        Ok(false) => Ok(Exit::LeftOver),
        Err(why) => Err(Failure::LeftOver(why)),
    }
}

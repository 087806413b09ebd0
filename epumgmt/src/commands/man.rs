//! Man pages: one a command, from the same definition as `--help`.

use std::path::Path;

use clap::CommandFactory as _;
use epu_core::Fault;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};

/// Writes `epumgmt.1`, `epumgmt-pool.1`, `epumgmt-pool-add.1` and so on into a directory that is there. Hidden commands have none.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn man(directory: &Path) -> Result<Exit, Failure> {
    clap_mangen::generate_to(Cli::command(), directory).map_err(|error| {
        let doing = format!("write man pages into {}", directory.display());
        Failure::while_doing(doing, Fault::new("internal", error.to_string()))
    })?;
    Ok(Exit::Done)
}
